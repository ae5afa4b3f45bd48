"""Convex quadratic over a product of small positive semidefinite cones.

    minimise  g'e + e'H e/2   subject to  X0_b + mat_b(e) >= 0  for every block b,

by a primal-dual interior-point method: the HKM direction (Helmberg, Rendl, Vanderbei & Wolkowicz 1996, SIAM
J. Optim. 6) with Mehrotra's predictor-corrector, from a point on the central path.  A block is a symmetric
k x k matrix given by its lower triangle, column by column; off-diagonal entries of a dual count twice.  What
is kept is the step e, not the point: a block may hold eigenvalues of 1e12 beside zeros.
"""

import numpy as np

from . import kernel, part


@part
def unpack(x: np.ndarray, start: int, k: int, out: np.ndarray) -> None:
    """The symmetric matrix of a block's part of x, into out[:k, :k]."""
    i = start
    for b in range(k):
        for a in range(b, k):
            out[a, b] = x[i]
            out[b, a] = x[i]
            i += 1


@part
def jacobi(A: np.ndarray, n: int, V: np.ndarray) -> None:
    """Eigenvectors of the symmetric A[:n, :n] into the columns of V, eigenvalues onto A's diagonal.

    Cyclic Jacobi rotations: for the orders met here as fast as LAPACK, and compiled in a tenth of the time.
    """
    for i in range(n):
        for j in range(n):
            V[i, j] = 0.0
        V[i, i] = 1.0
    for _ in range(60):
        off = size = 0.0
        for i in range(n):
            size += A[i, i] * A[i, i]
            for j in range(i):
                off += A[i, j] * A[i, j]
        if off <= 1e-34 * size:
            return
        for p in range(n - 1):
            for q in range(p + 1, n):
                a = A[p, q]
                if a == 0.0:
                    continue
                # a difference below rounding of both: nothing to rotate
                if abs(a) < 1e-18 * np.sqrt(abs(A[p, p] * A[q, q])):
                    A[p, q] = 0.0
                    A[q, p] = 0.0
                    continue
                tau = (A[q, q] - A[p, p]) / (2.0 * a)
                t = 1.0 / (abs(tau) + np.sqrt(1.0 + tau * tau))
                if tau < 0.0:
                    t = -t
                c = 1.0 / np.sqrt(1.0 + t * t)
                s = t * c
                A[p, p] -= t * a
                A[q, q] += t * a
                A[p, q] = 0.0
                A[q, p] = 0.0
                for i in range(n):
                    if i != p and i != q:
                        x, y = A[i, p], A[i, q]
                        A[i, p] = c * x - s * y
                        A[p, i] = A[i, p]
                        A[i, q] = s * x + c * y
                        A[q, i] = A[i, q]
                    x, y = V[i, p], V[i, q]
                    V[i, p] = c * x - s * y
                    V[i, q] = s * x + c * y


@part
def _least(A: np.ndarray, n: int, V: np.ndarray) -> float:
    """Smallest eigenvalue of the symmetric A[:n, :n], which is overwritten; V is work space."""
    if n == 1:
        return A[0, 0]
    if n == 2:
        half = 0.5 * (A[0, 0] - A[1, 1])
        return 0.5 * (A[0, 0] + A[1, 1]) - np.sqrt(half * half + A[0, 1] * A[1, 0])
    jacobi(A, n, V)
    least = A[0, 0]
    for i in range(1, n):
        least = min(least, A[i, i])
    return least


@part
def _add_dual(S: np.ndarray, start: int, k: int, factor: float, out: np.ndarray) -> None:
    """out += factor * (entries of the linear form X -> tr(S X)) for a symmetric S."""
    i = start
    for b in range(k):
        out[i] += factor * S[b, b]
        i += 1
        for a in range(b + 1, k):
            out[i] += factor * (S[a, b] + S[b, a])
            i += 1


@part
def _cholesky(A: np.ndarray, n: int, L: np.ndarray) -> bool:
    """Lower Cholesky factor of A[:n, :n] into L; False where A is not positive definite."""
    for j in range(n):
        s = A[j, j]
        for c in range(j):
            s -= L[j, c] * L[j, c]
        if not s > 0.0 or not s < np.inf:
            return False
        L[j, j] = np.sqrt(s)
        inverse = 1.0 / L[j, j]
        for i in range(j + 1, n):
            s = A[i, j]
            for c in range(j):
                s -= L[i, c] * L[j, c]
            L[i, j] = s * inverse
            L[j, i] = 0.0
    return True


@part
def _solve(L: np.ndarray, n: int, x: np.ndarray) -> None:
    """x <- (L L')^-1 x, in place."""
    for i in range(n):
        s = x[i]
        for c in range(i):
            s -= L[i, c] * x[c]
        x[i] = s / L[i, i]
    for i in range(n - 1, -1, -1):
        s = x[i]
        for c in range(i + 1, n):
            s -= L[c, i] * x[c]
        x[i] = s / L[i, i]


@part
def _inverse_root(A: np.ndarray, n: int, L: np.ndarray, V: np.ndarray) -> bool:
    """V upper triangular with V V' = A^-1 (n x n), L work space; False where A is not positive definite."""
    if not _cholesky(A, n, L):
        return False
    # L^-1 column by column, stored transposed
    for j in range(n):
        for i in range(n):
            V[j, i] = 0.0
        V[j, j] = 1.0 / L[j, j]
        for i in range(j + 1, n):
            s = 0.0
            for c in range(j, i):
                s -= L[i, c] * V[j, c]
            V[j, i] = s / L[i, i]
    return True


@part
def _outer(V: np.ndarray, n: int, out: np.ndarray) -> None:
    """out = V V' (n x n)."""
    for a in range(n):
        for b in range(a + 1):
            s = 0.0
            for c in range(n):
                s += V[a, c] * V[b, c]
            out[a, b] = s
            out[b, a] = s


@part
def _triple(A: np.ndarray, B: np.ndarray, C: np.ndarray, n: int, work: np.ndarray, out: np.ndarray) -> None:
    """out = symmetric part of A B C (n x n)."""
    for a in range(n):
        for b in range(n):
            s = 0.0
            for c in range(n):
                s += A[a, c] * B[c, b]
            work[a, b] = s
    for a in range(n):
        for b in range(n):
            s = 0.0
            for c in range(n):
                s += work[a, c] * C[c, b]
            out[a, b] = s
    for a in range(n):
        for b in range(a):
            s = 0.5 * (out[a, b] + out[b, a])
            out[a, b] = s
            out[b, a] = s


@part
def _longest(V: np.ndarray, dX: np.ndarray, n: int, work: np.ndarray, out: np.ndarray) -> float:
    """Largest alpha with X + alpha dX >= 0, X^-1 = V V'."""
    for a in range(n):
        for b in range(n):
            s = 0.0
            for c in range(n):
                s += V[c, a] * dX[c, b]
            work[a, b] = s
    for a in range(n):
        for b in range(n):
            s = 0.0
            for c in range(n):
                s += work[a, c] * V[c, b]
            out[a, b] = s
    smallest = _least(out, n, work)
    return -1.0 / smallest if smallest < 0.0 else np.inf


@part
def is_inside(X0: np.ndarray, e: np.ndarray, starts: np.ndarray, ks: np.ndarray) -> bool:
    """Whether X0 + mat(e) is positive semidefinite in every block."""
    K = X0.shape[1]
    M = np.zeros((K, K))
    V = np.zeros((K, K))
    for i in range(ks.size):
        k = ks[i]
        unpack(e, starts[i], k, M)
        largest = 0.0
        for a in range(k):
            for b in range(k):
                M[a, b] += X0[i, a, b]
            largest = max(largest, M[a, a])
        least = 0.0 if k == 1 else -1e-16 * largest
        jacobi(M, k, V)
        for a in range(k):
            if M[a, a] < least:
                return False
    return True


@kernel
def minimise_over_cone(
    X0: np.ndarray, g: np.ndarray, H: np.ndarray, starts: np.ndarray, ks: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Minimising step and, per block, how many eigenvalues of X0 + mat(e) it makes exactly zero.

    Parameters
    ----------
    X0 : ndarray, shape (n_blocks, K, K)
        Positive semidefinite, in units in which a step of one is ordinary.
    g, H : ndarrays, shapes (m,), (m, m)
        Gradient and positive definite Hessian at e = 0.
    starts, ks : ndarrays of int64, shape (n_blocks,)
        First entry in e and order of every block.
    most : int
        Iterations.

    Returns
    -------
    e : ndarray, shape (m,)
    zeros : ndarray of int64, shape (n_blocks,)
    """
    m = g.size
    nb = ks.size
    K = X0.shape[1]
    order = 0.0
    for i in range(nb):
        order += ks[i]
    scale = 0.0
    for i in range(m):
        scale = max(scale, abs(g[i]))
    e = np.zeros(m)
    X, Z = np.zeros((nb, K, K)), np.zeros((nb, K, K))
    VX, VZ = np.zeros((nb, K, K)), np.zeros((nb, K, K))
    Xi = np.zeros((nb, K, K))
    dX, dZ, second = np.zeros((nb, K, K)), np.zeros((nb, K, K)), np.zeros((nb, K, K))
    work, image, basis = np.zeros((K, K)), np.zeros((K, K)), np.zeros((K, K))
    M, L = np.zeros((m, m)), np.zeros((m, m))
    residual, rhs, dx = np.zeros(m), np.zeros(m), np.zeros(m)
    shift = 0.1
    for i in range(nb):
        k = ks[i]
        p = starts[i]
        for b in range(k):
            e[p] = shift
            p += k - b
    for i in range(nb):
        k = ks[i]
        unpack(e, starts[i], k, X[i])
        for a in range(k):
            for b in range(k):
                X[i, a, b] += X0[i, a, b]
        if not _inverse_root(X[i], k, L, VX[i]):
            return np.zeros(m), np.zeros(nb, np.int64)
        _outer(VX[i], k, Z[i])
        for a in range(k):
            for b in range(k):
                Z[i, a, b] *= shift * max(scale, 1e-300)
    best, best_X, best_Z = np.zeros(m), np.zeros((nb, K, K)), np.zeros((nb, K, K))
    least = np.inf
    stalled = 0
    # the objective is in units of the deviance, and so is the gap
    small = 1e-14 * shift * scale + 1e-300
    for _ in range(most):
        gap = 0.0
        for i in range(m):
            s = g[i]
            for j in range(m):
                s += H[i, j] * e[j]
                M[i, j] = H[i, j]
            residual[i] = s
        good = True
        for i in range(nb):
            k = ks[i]
            if not _inverse_root(X[i], k, L, VX[i]) or not _inverse_root(Z[i], k, L, VZ[i]):
                good = False
                break
            _outer(VX[i], k, Xi[i])
            _add_dual(Z[i], starts[i], k, -1.0, residual)
            for a in range(k):
                for b in range(k):
                    gap += X[i, a, b] * Z[i, a, b]
        if not good:
            break
        gap /= order
        largest = 0.0
        for i in range(m):
            largest = max(largest, abs(residual[i]))
        if not gap > 0.0 or (gap < small and largest < 1e-11 * scale):
            break
        # at the end of precision the gap grows again: the best point is kept
        if gap < least:
            least = gap
            stalled = 0
            for i in range(m):
                best[i] = e[i]
            for i in range(nb):
                for a in range(ks[i]):
                    for b in range(ks[i]):
                        best_X[i, a, b] = X[i, a, b]
                        best_Z[i, a, b] = Z[i, a, b]
        else:
            stalled += 1
            if stalled >= 2 and least < 1e-6 * scale:
                break
        for i in range(nb):
            k = ks[i]
            column = starts[i]
            for b in range(k):
                for a in range(b, k):
                    basis[a, b] = 1.0
                    basis[b, a] = 1.0
                    _triple(Xi[i], basis, Z[i], k, work, image)
                    basis[a, b] = 0.0
                    basis[b, a] = 0.0
                    row = starts[i]
                    for d in range(k):
                        M[row, column] += image[d, d]
                        row += 1
                        for c in range(d + 1, k):
                            M[row, column] += 2.0 * image[c, d]
                            row += 1
                    column += 1
        if not _cholesky(M, m, L):
            break  # singular to working precision: this is as close as it gets
        target = 0.0
        primal = dual = 0.0
        for phase in range(2):
            for i in range(m):
                rhs[i] = -residual[i]
            for i in range(nb):
                k = ks[i]
                for a in range(k):
                    for b in range(k):
                        dZ[i, a, b] = target * Xi[i, a, b] - Z[i, a, b]
                        if phase == 1:
                            dZ[i, a, b] -= second[i, a, b]
                _add_dual(dZ[i], starts[i], k, 1.0, rhs)
            for i in range(m):
                dx[i] = rhs[i]
            _solve(L, m, dx)
            primal = dual = np.inf
            for i in range(nb):
                k = ks[i]
                unpack(dx, starts[i], k, dX[i])
                _triple(Xi[i], dX[i], Z[i], k, work, image)
                for a in range(k):
                    for b in range(k):
                        dZ[i, a, b] -= image[a, b]
                primal = min(primal, _longest(VX[i], dX[i], k, work, image))
                dual = min(dual, _longest(VZ[i], dZ[i], k, work, image))
            if phase == 0:
                primal, dual = min(1.0, primal), min(1.0, dual)
                after = 0.0
                for i in range(nb):
                    k = ks[i]
                    for a in range(k):
                        for b in range(k):
                            after += (X[i, a, b] + primal * dX[i, a, b]) * (Z[i, a, b] + dual * dZ[i, a, b])
                    _triple(Xi[i], dX[i], dZ[i], k, work, second[i])
                ratio = max(0.0, after / order / gap)
                target = min(1.0, max(1e-6, ratio * ratio * ratio)) * gap
        primal, dual = min(1.0, 0.98 * primal), min(1.0, 0.98 * dual)
        if primal < 1e-10 and dual < 1e-10:
            break
        for i in range(m):
            e[i] += primal * dx[i]
        for i in range(nb):
            k = ks[i]
            unpack(e, starts[i], k, X[i])
            for a in range(k):
                for b in range(k):
                    X[i, a, b] += X0[i, a, b]
                    Z[i, a, b] += dual * dZ[i, a, b]
    if least < np.inf and stalled > 0:
        return best, _round(best_X, best_Z, H, starts, ks, best)
    return e, _round(X, Z, H, starts, ks, e)


@part
def _round(
    X: np.ndarray, Z: np.ndarray, H: np.ndarray, starts: np.ndarray, ks: np.ndarray, e: np.ndarray
) -> np.ndarray:
    """Set to zero the eigenvalues that complementarity sends there, in place in e; their number per block."""
    m = e.size
    zeros = np.zeros(ks.size, np.int64)
    unit = np.zeros(m)
    scale = np.zeros(X.shape[1])
    scaled = np.zeros((X.shape[1], X.shape[1]))
    V = np.zeros((X.shape[1], X.shape[1]))
    for i in range(ks.size):
        k = ks[i]
        if k == 1:
            curvature = H[starts[i], starts[i]]
            if X[i, 0, 0] * curvature < Z[i, 0, 0]:
                e[starts[i]] -= X[i, 0, 0]
                zeros[i] = 1
            continue
        # scaled first: beside an eigenvalue of 1e12 those near zero would drown in its rounding
        for a in range(k):
            scale[a] = np.sqrt(max(1.0, X[i, a, a]))
        for a in range(k):
            for b in range(k):
                scaled[a, b] = X[i, a, b] / (scale[a] * scale[b])
        jacobi(scaled, k, V)
        for c in range(k):
            for a in range(k):
                V[a, c] *= scale[a]
            p = starts[i]
            for b in range(k):
                for a in range(b, k):
                    unit[p] = V[a, c] * V[b, c]
                    p += 1
            curvature = multiplier = 0.0
            for r in range(starts[i], p):
                for s in range(starts[i], p):
                    curvature += unit[r] * H[r, s] * unit[s]
            for a in range(k):
                for b in range(k):
                    multiplier += V[a, c] * Z[i, a, b] * V[b, c]
            # either the eigenvalue or the multiplier (as a distance, z / curvature) vanishes
            w = scaled[c, c]
            if w * curvature < multiplier and w < 1e-2:
                for r in range(starts[i], p):
                    e[r] -= w * unit[r]
                zeros[i] += 1
    return zeros


@kernel
def newton_step(
    X0: np.ndarray, g: np.ndarray, H: np.ndarray, unit: np.ndarray, damping: float, ridge: float,
    starts: np.ndarray, ks: np.ndarray, step: np.ndarray, M: np.ndarray,
) -> bool:  # fmt: skip
    """Unconstrained minimiser of the damped quadratic model, and whether it lies in the cone.

    Parameters
    ----------
    X0 : ndarray, shape (n_blocks, K, K)
        The point, in the coordinates of g and H.
    g, H : ndarrays, shapes (m,), (m, m)
    unit : ndarray, shape (m,)
        One over the root of the metric's diagonal: eigenvalues of H are judged, and damped, in it.
    damping, ridge : float
        Multiples of the metric: added to H; and the least eigenvalue that H may have.
    starts, ks : ndarrays of int64, shape (n_blocks,)
    step : ndarray, shape (m,)
        Filled with the minimiser.
    M : ndarray, shape (m, m)
        Filled with the damped Hessian, its eigenvalues no less than the ridge, times units from both sides,
        unless the step is inside.

    Returns
    -------
    bool
        Whether it is inside.
    """
    m = g.size
    for i in range(m):
        step[i] = 0.0
        for j in range(m):
            M[i, j] = 0.5 * (H[i, j] + H[j, i]) * unit[i] * unit[j]
        M[i, i] += damping
    V = np.empty((m, m))
    jacobi(M, m, V)
    # negative eigenvalues are rounding: the average information is positive semidefinite
    largest = M[0, 0]
    for i in range(1, m):
        largest = max(largest, M[i, i])
    floor = max(ridge, 1e-13 * largest)
    w = np.empty(m)
    for j in range(m):
        w[j] = max(M[j, j], floor)
        s = 0.0
        for i in range(m):
            s += V[i, j] * g[i] * unit[i]
        s /= w[j]
        for i in range(m):
            step[i] -= V[i, j] * s * unit[i]
    if is_inside(X0, step, starts, ks):
        return True
    for i in range(m):
        for j in range(m):
            s = 0.0
            for c in range(m):
                s += V[i, c] * w[c] * V[j, c]
            M[i, j] = s
    return False
