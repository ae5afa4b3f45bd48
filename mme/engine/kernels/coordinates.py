"""Places of the search and steps between them, as `mme.engine.search.coordinates` defines them.

Terms are numbered; arrays of matrices are padded to the widest term, and a term's free entries stand from
`starts[t]` on: the lower triangle column by column, or the diagonal alone.
"""

from typing import NamedTuple

import numpy as np

from . import kernel
from .cone import jacobi, minimise_over_cone, newton_step, unpack
from .triangle import triangular_factor

RIDGE = 1e-10  # of the metric of balanced data, added to the average information
_MOST_ITERATIONS = 80  # of the quadratic over the cone
_LARGEST_DROP = 0.9  # a step may shrink I - rho by a factor of ten in any direction
_ZERO = 1e-14  # eigenvalue of Y, singular value beside the largest, that counts as zero


class Terms(NamedTuple):
    """The terms of a search.

    Attributes
    ----------
    ks, starts : ndarrays of int64, shape (n_terms,)
        Effects per level; first entry in theta.
    diagonal : ndarray of bool, shape (n_terms,)
        Whether the effects are uncorrelated.
    A, Ai, Ri : ndarrays, shape (n_terms, K, K)
        R of the columns that theta is of, its inverse, and the inverse of R in the basis of the derivatives.
    metric, unit, block : ndarrays, shape (m,)
        Diagonal of the metric of balanced data; one over its root; one over the root of the term's levels.
    size : ndarray, shape (n_cones,)
        `block` by cone.
    cone_starts, cone_ks : ndarrays of int64, shape (n_cones,)
    """

    ks: np.ndarray
    starts: np.ndarray
    diagonal: np.ndarray
    A: np.ndarray
    Ai: np.ndarray
    Ri: np.ndarray
    metric: np.ndarray
    unit: np.ndarray
    block: np.ndarray
    size: np.ndarray
    cone_starts: np.ndarray
    cone_ks: np.ndarray


class Spot(NamedTuple):
    """A point: theta (m,), eigenvectors U (n_terms, K, K) and eigenvalues d (n_terms, K) of R D R'."""

    theta: np.ndarray
    U: np.ndarray
    d: np.ndarray


@kernel
def copy_spot(source: Spot, target: Spot) -> None:
    """target[...] = source."""
    target.theta[:] = source.theta
    target.U[:] = source.U
    target.d[:] = source.d


@kernel
def left_singular(F: np.ndarray, n: int, U: np.ndarray, s: np.ndarray) -> None:
    """Left singular vectors (columns of U[:n, :n]) and values of F[:n, :n], in no order.

    One-sided Jacobi rotations of F's rows: small values are found to their own accuracy.
    """
    M = np.empty((n, n))  # row a is row a of F turned
    for i in range(n):
        for j in range(n):
            M[i, j] = F[i, j]
            U[i, j] = 1.0 if i == j else 0.0
    for _ in range(60):
        turned = False
        for p in range(n - 1):
            for q in range(p + 1, n):
                a = b = c = 0.0
                for j in range(n):
                    a += M[p, j] * M[p, j]
                    b += M[q, j] * M[q, j]
                    c += M[p, j] * M[q, j]
                if abs(c) <= 2e-16 * np.sqrt(a * b) or a == 0.0 or b == 0.0:
                    continue
                turned = True
                tau = (b - a) / (2.0 * c)
                t = 1.0 / (abs(tau) + np.sqrt(1.0 + tau * tau))
                if tau < 0.0:
                    t = -t
                cos = 1.0 / np.sqrt(1.0 + t * t)
                sin = t * cos
                for j in range(n):
                    x, y = M[p, j], M[q, j]
                    M[p, j] = cos * x - sin * y
                    M[q, j] = sin * x + cos * y
                    x, y = U[j, p], U[j, q]
                    U[j, p] = cos * x - sin * y
                    U[j, q] = sin * x + cos * y
        if not turned:
            break
    for i in range(n):
        a = 0.0
        for j in range(n):
            a += M[i, j] * M[i, j]
        s[i] = np.sqrt(a)


@kernel
def fill_factor(theta: np.ndarray, start: int, k: int, diagonal: bool, lam: np.ndarray) -> None:
    """A term's lower-triangular factor into lam[:k, :k]."""
    i = start
    for b in range(k):
        for a in range(k):
            lam[a, b] = 0.0
        for a in range(b, b + 1 if diagonal else k):
            lam[a, b] = theta[i]
            i += 1


@kernel
def find_spot(terms: Terms, factors: np.ndarray, spot: Spot) -> None:
    """The point with R D R' = factor factor' per term; factors (n_terms, K, K)."""
    K = factors.shape[1]
    s = np.empty(K)
    lam = np.empty((K, K))
    for t in range(terms.ks.size):
        k = terms.ks[t]
        U, Ai, F = spot.U[t], terms.Ai[t], factors[t]
        i = terms.starts[t]
        if k == 1 or terms.diagonal[t]:
            for a in range(k):
                for b in range(k):
                    U[a, b] = 1.0 if a == b else 0.0
                s[a] = abs(F[a, a])
                spot.d[t, a] = s[a] * s[a]
                spot.theta[i + a] = abs(Ai[a, a] * s[a])
            continue
        left_singular(F, k, U, s)
        largest = 0.0
        for a in range(k):
            largest = max(largest, s[a])
        root = np.empty((k, k))
        for b in range(k):
            if not s[b] > _ZERO * largest:
                s[b] = 0.0
            spot.d[t, b] = s[b] * s[b]
        for a in range(k):
            for b in range(k):
                x = 0.0
                for c in range(k):
                    x += Ai[a, c] * U[c, b]
                root[a, b] = x * s[b]
        triangular_factor(root, lam[:k, :k])
        for b in range(k):
            for a in range(b, k):
                spot.theta[i] = lam[a, b]
                i += 1


@kernel
def find_spot_of(terms: Terms, theta: np.ndarray, spot: Spot) -> None:
    """The point of theta."""
    nt, K = terms.A.shape[:2]
    factors = np.zeros((nt, K, K))
    lam = np.empty((K, K))
    for t in range(nt):
        k = terms.ks[t]
        fill_factor(theta, terms.starts[t], k, terms.diagonal[t], lam)
        for a in range(k):
            for b in range(k):
                x = 0.0
                for c in range(k):
                    x += terms.A[t, a, c] * lam[c, b]
                factors[t, a, b] = x
    find_spot(terms, factors, spot)


@kernel
def _divide(A: np.ndarray, n: int, B: np.ndarray) -> None:
    """B[:n, :n] <- A^-1 B by elimination with partial pivoting; A is overwritten."""
    for c in range(n):
        pivot = c
        for a in range(c + 1, n):
            if abs(A[a, c]) > abs(A[pivot, c]):
                pivot = a
        if pivot != c:
            for b in range(n):
                A[c, b], A[pivot, b] = A[pivot, b], A[c, b]
                B[c, b], B[pivot, b] = B[pivot, b], B[c, b]
        for a in range(c + 1, n):
            f = A[a, c] / A[c, c]
            if f != 0.0:
                for b in range(c + 1, n):
                    A[a, b] -= f * A[c, b]
                for b in range(n):
                    B[a, b] -= f * B[c, b]
    for a in range(n - 1, -1, -1):
        for b in range(n):
            x = B[a, b]
            for c in range(a + 1, n):
                x -= A[a, c] * B[c, b]
            B[a, b] = x / A[a, a]


@kernel
def move_spot(terms: Terms, spot: Spot, e: np.ndarray, zeros: np.ndarray, exact: bool, new: Spot) -> None:
    """The point that a step leads to; `zeros` eigenvalues of every cone are made exact zeros if `exact`."""
    nt, K = terms.A.shape[:2]
    factors = np.zeros((nt, K, K))
    E, Y, V = np.empty((K, K)), np.empty((K, K)), np.empty((K, K))
    cone = 0
    for t in range(nt):
        k = terms.ks[t]
        d, U = spot.d[t], spot.U[t]
        if k == 1 or terms.diagonal[t]:
            for a in range(k):
                x = e[terms.starts[t] + a]
                y = d[a] / (1.0 + d[a]) + x / (1.0 - x)
                if not y > _ZERO or (exact and zeros[cone] > 0):
                    y = 0.0
                factors[t, a, a] = np.sqrt(1.0 + d[a]) * np.sqrt(y)
                cone += 1
            continue
        unpack(e, terms.starts[t], k, Y)
        for a in range(k):
            for b in range(k):
                E[a, b] = (1.0 if a == b else 0.0) - Y[a, b]
        _divide(E, k, Y)
        for a in range(k):
            for b in range(a):
                x = 0.5 * (Y[a, b] + Y[b, a])
                Y[a, b] = x
                Y[b, a] = x
            Y[a, a] += d[a] / (1.0 + d[a])
        jacobi(Y, k, V)
        drop = zeros[cone] if exact else 0
        for a in range(k):
            if not Y[a, a] > _ZERO:
                Y[a, a] = 0.0
                drop -= 1
        for _ in range(drop):
            least = -1
            for a in range(k):
                if Y[a, a] > 0.0 and (least < 0 or Y[a, a] < Y[least, least]):
                    least = a
            if least >= 0:
                Y[least, least] = 0.0
        for a in range(k):
            for b in range(k):
                x = 0.0
                for c in range(k):
                    x += U[a, c] * np.sqrt(1.0 + d[c]) * V[c, b]
                factors[t, a, b] = x * np.sqrt(Y[b, b])
        cone += 1
    find_spot(terms, factors, new)


@kernel
def fill_congruence(G: np.ndarray, start: int, k: int, diagonal: bool, J: np.ndarray) -> None:
    """Matrix of X -> G X G' on a term's free entries, into its block of J (m, m)."""
    if diagonal:
        for a in range(k):
            for b in range(k):
                J[start + a, start + b] = G[a, b] * G[a, b]
        return
    column = start
    for b in range(k):
        for a in range(b, k):
            row = start
            for d in range(k):
                for c in range(d, k):
                    x = G[c, a] * G[d, b]
                    if a != b:
                        x += G[c, b] * G[d, a]
                    J[row, column] = x
                    row += 1
            column += 1


@kernel
def sandwich(J: np.ndarray, M: np.ndarray, out: np.ndarray) -> None:
    """out = J'M J, symmetric; all (m, m)."""
    m = J.shape[0]
    left = np.empty((m, m))
    for a in range(m):
        for b in range(m):
            x = 0.0
            for c in range(m):
                x += M[a, c] * J[c, b]
            left[a, b] = x
    for a in range(m):
        for b in range(m):
            x = 0.0
            for c in range(m):
                x += J[c, a] * left[c, b]
            out[a, b] = x
    for a in range(m):
        for b in range(a):
            x = 0.5 * (out[a, b] + out[b, a])
            out[a, b] = x
            out[b, a] = x


@kernel
def fill_model(
    terms: Terms, spot: Spot, N: np.ndarray, information: np.ndarray, g: np.ndarray, H: np.ndarray
) -> None:
    """Gradient and average information in E, from those in D or R D R'."""
    nt, K = terms.A.shape[:2]
    m = g.size
    J = np.zeros((m, m))
    G, left = np.empty((K, K)), np.empty((K, K))
    for t in range(nt):
        k = terms.ks[t]
        for a in range(k):
            for b in range(k):
                x = 0.0
                for c in range(k):
                    x += terms.Ri[t, a, c] * spot.U[t, c, b]
                G[a, b] = x * np.sqrt(1.0 + spot.d[t, b])
        for a in range(k):
            for b in range(k):
                x = 0.0
                for c in range(k):
                    x += N[t, a, c] * G[c, b]
                left[a, b] = x
        i = terms.starts[t]
        for b in range(k):
            for a in range(b, b + 1 if terms.diagonal[t] else k):
                x = 0.0
                for c in range(k):
                    x += G[c, a] * left[c, b]
                g[i] = x if a == b else 2.0 * x
                i += 1
        fill_congruence(G, terms.starts[t], k, terms.diagonal[t], J)
    sandwich(J, information, H)


@kernel
def find_step(
    terms: Terms, d: np.ndarray, g: np.ndarray, H: np.ndarray, damping: float, e: np.ndarray,
    zeros: np.ndarray,
) -> float:  # fmt: skip
    """Minimising step of the model, damped by so much of the metric, over the cone; predicted decrease.

    d (n_terms, K) are the point's eigenvalues; e (m,) and zeros (n_cones,) are filled.
    """
    m, nc = g.size, zeros.size
    K = terms.A.shape[1]
    X0 = np.zeros((nc, K, K))
    cone = 0
    for t in range(terms.ks.size):
        for a in range(terms.ks[t]):
            if terms.diagonal[t]:
                X0[cone, 0, 0] = d[t, a]
                cone += 1
            else:
                X0[cone, a, a] = d[t, a]
        if not terms.diagonal[t]:
            cone += 1
    newton, inside, M = newton_step(X0, g, H, terms.unit, damping, RIDGE, terms.cone_starts, terms.cone_ks)
    decrease = 0.0
    if inside:
        for i in range(m):
            e[i] = newton[i]
            decrease -= 0.5 * g[i] * e[i]
        zeros[:] = 0
        return max(0.0, decrease)
    # every block has a unit of its own, to which its cone is blind
    scaled = np.empty(m)
    for i in range(m):
        scaled[i] = g[i] * terms.block[i]
        for j in range(m):
            M[i, j] *= terms.block[i] / terms.unit[i] * (terms.block[j] / terms.unit[j])
    for c in range(nc):
        for a in range(terms.cone_ks[c]):
            X0[c, a, a] /= terms.size[c]
    best, found = minimise_over_cone(X0, scaled, M, terms.cone_starts, terms.cone_ks, _MOST_ITERATIONS)
    for i in range(m):
        decrease -= scaled[i] * best[i]
        for j in range(m):
            decrease -= 0.5 * best[i] * M[i, j] * best[j]
        e[i] = best[i] * terms.block[i]
    zeros[:] = found
    return max(0.0, decrease)


@kernel
def find_slope(terms: Terms, d: np.ndarray, g: np.ndarray) -> float:
    """sqrt(2 x predicted decrease) with the metric of balanced data as the Hessian."""
    m = g.size
    H = np.zeros((m, m))
    for i in range(m):
        H[i, i] = terms.metric[i]
    decrease = find_step(terms, d, g, H, 0.0, np.empty(m), np.empty(terms.size.size, np.int64))
    return np.sqrt(2.0 * decrease)


@kernel
def find_limit(terms: Terms, e: np.ndarray) -> float:
    """Largest fraction of the step that shrinks I - rho to no less than a tenth in any direction."""
    K = terms.A.shape[1]
    E, V = np.empty((K, K)), np.empty((K, K))
    fraction = 1.0
    for c in range(terms.cone_ks.size):
        k = terms.cone_ks[c]
        largest = e[terms.cone_starts[c]]
        if k > 1:
            unpack(e, terms.cone_starts[c], k, E)
            jacobi(E, k, V)
            largest = E[0, 0]
            for a in range(1, k):
                largest = max(largest, E[a, a])
        if largest > _LARGEST_DROP:
            fraction = min(fraction, _LARGEST_DROP / largest)
    return fraction
