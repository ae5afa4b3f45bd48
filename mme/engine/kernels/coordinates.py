"""Places of the search and steps between them, as `mme.engine.search.coordinates` defines them.

Terms are numbered.  Each has its row in few arrays, which are cheap to pass and quick to compile:
`tints` (3, n_terms), `tmats` (rows, n_terms, K, K) padded to the widest term, `tvecs` (rows, n_terms,
K), `vectors` (rows, m), `matrices` (rows, m, m) and `cints` (rows, n_cones), whose rows have the names below.
A term's free entries in a vector begin at its `STARTS`: the lower triangle column by column, or the diagonal.
"""

import numpy as np

from . import part
from .cone import jacobi, newton_step, unpack
from .triangle import triangular_factor

RIDGE = 1e-10  # of the metric of balanced data, added to the average information
_LARGEST_DROP = 0.9  # a step may shrink I - rho by a factor of ten in any direction
_ZERO = 1e-14  # eigenvalue of Y, singular value beside the largest, that counts as zero

# `tints`: effects per level; first entry in theta; whether the effects are uncorrelated
KS, STARTS, DIAGONAL = range(3)
# `tmats`: inverse of R of the columns that theta is of, and in the basis of the derivatives;
# eigenvectors of R D R' here, at the trial and at the place before; derivatives here and at the trial; room
AI, RI, U, TRIAL_U, BEFORE_U, N, TRIAL_N, ROOM, ROOM_2, ROOM_3, FACTORS = range(11)
N_TMATS = 11
# `tvecs`: eigenvalues of R D R' here, at the trial and at the place before; room
D, TRIAL_D, BEFORE_D, VALUES = range(4)
N_TVECS = 4
# `vectors`: theta here and at the trial; gradient of the model; the undamped Newton step, the one tried and
# the one just found; gradient at the place before; diagonal of the metric of balanced data, one over its
# root, one over the root of the term's levels; the cone's gradient
THETA, TRIAL, G, NEWTON, STEP, FOUND, OLD_G, METRIC, UNIT, BLOCK, SCALED = range(11)
N_VECTORS = 11
# `matrices`: the model's Hessian, as it is searched with and as the average information has it; average
# information here and at the trial; the secant's correction; the cone's Hessian; Jacobian; room
H, CURVATURE, INFORMATION, TRIAL_INFORMATION, CORRECTION, CONE_H, J, LEFT = range(8)
N_MATRICES = 8
# `cints`: first entry and order of every cone; eigenvalues that the steps make zero
CONE_STARTS, CONE_KS, ZEROS, STEP_ZEROS, FOUND_ZEROS = range(5)
N_CINTS = 5


@part
def left_singular(F: np.ndarray, n: int, M: np.ndarray, vectors: np.ndarray, s: np.ndarray) -> None:
    """Left singular vectors (columns of vectors[:n, :n]) and values of F[:n, :n], in no order; M is room.

    One-sided Jacobi rotations of F's rows: small values are found to their own accuracy.
    """
    for i in range(n):
        for j in range(n):
            M[i, j] = F[i, j]
            vectors[i, j] = 1.0 if i == j else 0.0
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
                    x, y = vectors[j, p], vectors[j, q]
                    vectors[j, p] = cos * x - sin * y
                    vectors[j, q] = sin * x + cos * y
        if not turned:
            break
    for i in range(n):
        a = 0.0
        for j in range(n):
            a += M[i, j] * M[i, j]
        s[i] = np.sqrt(a)


@part
def product(P: np.ndarray, Q: np.ndarray, n: int, turned: bool, out: np.ndarray) -> None:
    """out = P Q, or P'Q if `turned`, of the leading n x n parts."""
    for a in range(n):
        for b in range(n):
            s = 0.0
            for c in range(n):
                s += (P[c, a] if turned else P[a, c]) * Q[c, b]
            out[a, b] = s


@part
def find_place(tints: np.ndarray, tmats: np.ndarray, tvecs: np.ndarray, theta: np.ndarray) -> None:
    """theta, eigenvectors and eigenvalues of the trial, R D R' = factor factor' of `FACTORS`."""
    s = tvecs[VALUES, 0]
    root, lam = tmats[ROOM, 0], tmats[ROOM_2, 0]
    for t in range(tints.shape[1]):
        k = tints[KS, t]
        factor, inverse, vectors = tmats[FACTORS, t], tmats[AI, t], tmats[TRIAL_U, t]
        i = tints[STARTS, t]
        if k == 1 or tints[DIAGONAL, t]:
            for a in range(k):
                for b in range(k):
                    vectors[a, b] = 1.0 if a == b else 0.0
                x = abs(factor[a, a])
                tvecs[TRIAL_D, t, a] = x * x
                theta[i + a] = abs(inverse[a, a] * x)
            continue
        left_singular(factor, k, root, vectors, s)
        largest = 0.0
        for a in range(k):
            largest = max(largest, s[a])
        for a in range(root.shape[0]):
            for b in range(root.shape[0]):
                root[a, b] = 0.0
        product(inverse, vectors, k, False, root)
        for b in range(k):
            if not s[b] > _ZERO * largest:
                s[b] = 0.0
            tvecs[TRIAL_D, t, b] = s[b] * s[b]
            for a in range(k):
                root[a, b] *= s[b]
        triangular_factor(root, lam)
        for b in range(k):
            for a in range(b, k):
                theta[i] = lam[a, b]
                i += 1


@part
def fill_factor(theta: np.ndarray, start: int, k: int, diagonal: int, lam: np.ndarray) -> None:
    """A term's lower-triangular factor into lam[:k, :k]."""
    i = start
    for b in range(k):
        for a in range(k):
            lam[a, b] = 0.0
        for a in range(b, b + 1 if diagonal else k):
            lam[a, b] = theta[i]
            i += 1


@part
def _divide(M: np.ndarray, n: int, B: np.ndarray) -> None:
    """B[:n, :n] <- M^-1 B by elimination with partial pivoting; M is overwritten."""
    for c in range(n):
        pivot = c
        for a in range(c + 1, n):
            if abs(M[a, c]) > abs(M[pivot, c]):
                pivot = a
        for b in range(n):
            x = M[c, b]
            M[c, b] = M[pivot, b]
            M[pivot, b] = x
            x = B[c, b]
            B[c, b] = B[pivot, b]
            B[pivot, b] = x
        for a in range(c + 1, n):
            f = M[a, c] / M[c, c]
            for b in range(n):
                if b > c:
                    M[a, b] -= f * M[c, b]
                B[a, b] -= f * B[c, b]
    for a in range(n - 1, -1, -1):
        for b in range(n):
            x = B[a, b]
            for c in range(a + 1, n):
                x -= M[a, c] * B[c, b]
            B[a, b] = x / M[a, a]


@part
def fill_moved(
    tints: np.ndarray, tmats: np.ndarray, tvecs: np.ndarray, e: np.ndarray, zeros: np.ndarray, exact: bool
) -> None:  # fmt: skip
    """`FACTORS` of the place that a step leads to, with `zeros` exact zeros in every cone if `exact`."""
    M, Y, V = tmats[ROOM, 0], tmats[ROOM_2, 0], tmats[ROOM_3, 0]
    cone = 0
    for t in range(tints.shape[1]):
        k = tints[KS, t]
        d, vectors, factor = tvecs[D, t], tmats[U, t], tmats[FACTORS, t]
        if k == 1 or tints[DIAGONAL, t]:
            for a in range(k):
                x = e[tints[STARTS, t] + a]
                y = d[a] / (1.0 + d[a]) + x / (1.0 - x)
                if not y > _ZERO or (exact and zeros[cone] > 0):
                    y = 0.0
                for b in range(k):
                    factor[a, b] = 0.0
                factor[a, a] = np.sqrt(1.0 + d[a]) * np.sqrt(y)
                cone += 1
            continue
        unpack(e, tints[STARTS, t], k, Y)
        for a in range(k):
            for b in range(k):
                M[a, b] = (1.0 if a == b else 0.0) - Y[a, b]
        _divide(M, k, Y)
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
            least = 0
            for a in range(k):
                if Y[a, a] > 0.0 and (Y[a, a] < Y[least, least] or Y[least, least] == 0.0):
                    least = a
            Y[least, least] = 0.0
        for a in range(k):
            for b in range(k):
                M[a, b] = vectors[a, b] * np.sqrt(1.0 + d[b])
        product(M, V, k, False, factor)
        for b in range(k):
            x = np.sqrt(Y[b, b])
            for a in range(k):
                factor[a, b] *= x
        cone += 1


@part
def fill_congruence(root: np.ndarray, start: int, k: int, diagonal: int, out: np.ndarray) -> None:
    """Matrix of X -> root X root' on a term's free entries, into its block of out (m, m)."""
    column = start
    for b in range(k):
        for a in range(b, b + 1 if diagonal else k):
            row = start
            for d in range(k):
                for c in range(d, d + 1 if diagonal else k):
                    x = root[c, a] * root[d, b]
                    if a != b:
                        x += root[c, b] * root[d, a]
                    out[row, column] = x
                    row += 1
            column += 1


@part
def sandwich(P: np.ndarray, M: np.ndarray, m: int, room: np.ndarray, out: np.ndarray) -> None:
    """out = P'M P, symmetric."""
    product(M, P, m, False, room)
    product(P, room, m, True, out)
    for a in range(m):
        for b in range(a):
            x = 0.5 * (out[a, b] + out[b, a])
            out[a, b] = x
            out[b, a] = x


@part
def fill_model(
    tints: np.ndarray, tmats: np.ndarray, tvecs: np.ndarray, vectors: np.ndarray, matrices: np.ndarray
) -> None:
    """Gradient `G` and average information `CURVATURE` in E, from `N` and `INFORMATION` here."""
    m = vectors.shape[1]
    g, jacobian = vectors[G], matrices[J]
    for a in range(m):
        for b in range(m):
            jacobian[a, b] = 0.0
    root, left, dual = tmats[ROOM, 0], tmats[ROOM_2, 0], tmats[ROOM_3, 0]
    for t in range(tints.shape[1]):
        k = tints[KS, t]
        product(tmats[RI, t], tmats[U, t], k, False, root)
        for b in range(k):
            for a in range(k):
                root[a, b] *= np.sqrt(1.0 + tvecs[D, t, b])
        product(tmats[N, t], root, k, False, left)
        product(root, left, k, True, dual)
        i = tints[STARTS, t]
        for b in range(k):
            for a in range(b, b + 1 if tints[DIAGONAL, t] else k):
                g[i] = dual[a, b] if a == b else dual[a, b] + dual[b, a]
                i += 1
        fill_congruence(root, tints[STARTS, t], k, tints[DIAGONAL, t], jacobian)
    sandwich(jacobian, matrices[INFORMATION], m, matrices[LEFT], matrices[CURVATURE])


@part
def newton(
    tints: np.ndarray, tvecs: np.ndarray, vectors: np.ndarray, matrices: np.ndarray, cints: np.ndarray,
    X0: np.ndarray, size: np.ndarray, damping: float,
) -> bool:  # fmt: skip
    """`FOUND`: minimising step of the model `LEFT`, so much of the metric added; whether it is in the cone.

    If not, `X0`, `SCALED` and `CONE_H` are what `minimise_over_cone` wants.
    """
    m = vectors.shape[1]
    cone = 0
    for t in range(tints.shape[1]):
        for a in range(tints[KS, t]):
            if tints[DIAGONAL, t]:
                X0[cone, 0, 0] = tvecs[D, t, a]
                cone += 1
            else:
                for b in range(tints[KS, t]):
                    X0[cone, a, b] = 0.0
                X0[cone, a, a] = tvecs[D, t, a]
        if not tints[DIAGONAL, t]:
            cone += 1
    g, block, unit, M = vectors[G], vectors[BLOCK], vectors[UNIT], matrices[CONE_H]
    inside = newton_step(
        X0, g, matrices[LEFT], unit, damping, RIDGE, cints[CONE_STARTS], cints[CONE_KS], vectors[FOUND], M
    )
    if inside:
        for c in range(size.size):
            cints[FOUND_ZEROS, c] = 0
        return True
    # every block has a unit of its own, to which its cone is blind
    for i in range(m):
        vectors[SCALED, i] = g[i] * block[i]
        for j in range(m):
            M[i, j] *= block[i] / unit[i] * (block[j] / unit[j])
    for c in range(size.size):
        for a in range(cints[CONE_KS, c]):
            X0[c, a, a] /= size[c]
    return False


@part
def decrease_of(vectors: np.ndarray, matrices: np.ndarray, inside: bool) -> float:
    """Decrease that the model predicts of `FOUND`, which leaves the units of the blocks if not `inside`."""
    m = vectors.shape[1]
    e, M = vectors[FOUND], matrices[CONE_H]
    decrease = 0.0
    if inside:
        for i in range(m):
            decrease -= 0.5 * vectors[G, i] * e[i]
    else:
        for i in range(m):
            decrease -= vectors[SCALED, i] * e[i]
            for j in range(m):
                decrease -= 0.5 * e[i] * M[i, j] * e[j]
        for i in range(m):
            e[i] *= vectors[BLOCK, i]
    return max(0.0, decrease)


@part
def limit(cints: np.ndarray, tmats: np.ndarray, e: np.ndarray) -> float:
    """Largest fraction of the step that shrinks I - rho to no less than a tenth in any direction."""
    fraction = 1.0
    for c in range(cints.shape[1]):
        k = cints[CONE_KS, c]
        largest = e[cints[CONE_STARTS, c]]
        if k > 1:
            unpack(e, cints[CONE_STARTS, c], k, tmats[ROOM, 0])
            jacobi(tmats[ROOM, 0], k, tmats[ROOM_2, 0])
            for a in range(k):
                largest = tmats[ROOM, 0, a, a] if a == 0 else max(largest, tmats[ROOM, 0, a, a])
        if largest > _LARGEST_DROP:
            fraction = min(fraction, _LARGEST_DROP / largest)
    return fraction
