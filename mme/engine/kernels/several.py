"""Deviance and derivatives of a model of several grouping factors whose matrices are small, in one call.

What `mme.engine.direct.objective` does with arrays, for models where a call of numpy costs more than its
arithmetic.  Symbols are those of that module, of `schur` and of `small`.  With the leading term integrated
out, K = [Z_2 X y]'V_1^-1[Z_2 X y] is held whole, its columns in that order: all that is known of the rest,
of the fixed effects and of the residual is in one Cholesky factor, that of lam'K lam + diag(I, 0).
"""

import numpy as np

from . import kernel, part
from .small import DONE, LOGDET, NU, OVERFLOW, R2, REML, SIGMA2, SINGULAR, SINGULAR_BORDER, YY, finish

# what is to be done: the value; products with residuals; the average information; the derivatives, with
# factors of their own
VALUE, PRODUCTS, INFORMATION, DERIVATIVES, FLOORED = 1, 2, 4, 8, 16
# `entries`: block that an entry of theta belongs to, the two columns of it that it joins
BLOCK, ROW, COLUMN = range(3)


@part
def _turned(M: np.ndarray, columns: int, lstart: np.ndarray, lblock: np.ndarray, lam: np.ndarray) -> None:
    """Rows of the rest: M <- lam'M, in place."""
    for t in range(lblock.size):
        j, k, own = lstart[t], lstart[t + 1] - lstart[t], lam[lblock[t]]
        for i in range(columns):
            for c in range(k):
                s = 0.0
                for a in range(c, k):
                    s += own[a, c] * M[j + a, i]
                M[j + c, i] = s


@part
def _straight(M: np.ndarray, columns: int, lstart: np.ndarray, lblock: np.ndarray, lam: np.ndarray) -> None:
    """Rows of the rest: M <- lam M, in place."""
    for t in range(lblock.size):
        j, k, own = lstart[t], lstart[t + 1] - lstart[t], lam[lblock[t]]
        for i in range(columns):
            for c in range(k - 1, -1, -1):
                s = 0.0
                for a in range(c + 1):
                    s += own[c, a] * M[j + a, i]
                M[j + c, i] = s


@part
def _transpose(M: np.ndarray, n: int) -> None:
    """M[:n, :n] <- M', in place."""
    for i in range(n):
        for j in range(i):
            x = M[i, j]
            M[i, j] = M[j, i]
            M[j, i] = x


@part
def _factor(
    K: np.ndarray, q2: int, lstart: np.ndarray, lblock: np.ndarray, lam: np.ndarray, L: np.ndarray,
    Li: np.ndarray,
) -> int:  # fmt: skip
    """L, all rows but as many columns less one, and the inverse of its square part; columns that succeed."""
    r = K.shape[0]
    for i in range(r):
        for j in range(r):
            L[i, j] = K[i, j]
    _turned(L, r, lstart, lblock, lam)
    _transpose(L, r)
    _turned(L, r, lstart, lblock, lam)
    for j in range(r - 1):
        d = L[j, j] + (1.0 if j < q2 else 0.0)
        for c in range(j):
            d -= L[j, c] * L[j, c]
        if not d > 0.0 or not d < np.inf:
            return j
        L[j, j] = np.sqrt(d)
        for i in range(j + 1, r):
            s = L[i, j]
            for c in range(j):
                s -= L[i, c] * L[j, c]
            L[i, j] = s / L[j, j]
    for j in range(r - 1):
        for i in range(j):
            Li[i, j] = 0.0
        Li[j, j] = 1.0 / L[j, j]
        for i in range(j + 1, r - 1):
            s = 0.0
            for c in range(j, i):
                s -= L[i, c] * Li[c, j]
            Li[i, j] = s / L[i, i]
    return r - 1


@part
def _lost(
    q2: int, lblock: np.ndarray, lam: np.ndarray, gram: np.ndarray, given: np.ndarray, Li: np.ndarray,
    coef: np.ndarray, r2: float,
) -> float:  # fmt: skip
    """Rounding error of the deviance in units of the machine's: see `Objective._lost`."""
    largest = 0.0
    for block in range(lblock[lblock.size - 1] + 1):
        for c in range(lam.shape[2]):
            s = 0.0
            for a in range(lam.shape[1]):
                s += gram[block, a] * lam[block, a, c] ** 2
            largest = max(largest, s)
    lost = given[NU] * given[YY] / r2 + largest
    for i in range(q2):
        lost += largest * given[NU] * coef[i] ** 2 / r2
    if given[REML] == 1.0:
        for i in range(q2, coef.size):
            for j in range(i + 1):
                lost += Li[i, j] ** 2 * (largest if j < q2 else 1.0)
    return lost


@kernel
def evaluate_several(
    stages: int, entries: np.ndarray, lstart: np.ndarray, lblock: np.ndarray, lam: np.ndarray,
    floored: np.ndarray, gram: np.ndarray, given: np.ndarray, A1: np.ndarray, T: np.ndarray, A: np.ndarray,
    D1: np.ndarray, f: np.ndarray, half: np.ndarray, numbers: np.ndarray, K: np.ndarray, Li: np.ndarray,
    coef: np.ndarray, FT: np.ndarray, ze1: np.ndarray, ze2: np.ndarray, Q: np.ndarray,
    information: np.ndarray,
) -> int:  # fmt: skip
    """Deviance, derivatives in R D R' and the average information, as the stages say, from level factors.

    Parameters
    ----------
    stages : int
        Sum of the names above; those that went before at the same theta need not be repeated.
    entries : ndarray of int64, shape (3, m)
        By the names above.
    lstart, lblock, lam : ndarrays
        Levels of the rest and their blocks' factors, as `schur` has them.
    floored : ndarray, shape of lam
        Regular factors near them, for the derivatives of `FLOORED`.
    gram : ndarray, shape (n_blocks, k_max)
        Mean sums of squares per level of the rest's columns.
    given : ndarray
        By the names in `small`.
    A1 : ndarray, shape (q1, k1, k1)
    T : ndarray, shape (q1, k1, r)
        Z_1'W[Z_2 X y] of every level, r = q2 + p + 1.
    A : ndarray, shape (r, r)
        [Z_2 X y]'W[Z_2 X y].
    D1, f, half : ndarrays, shapes (k1, k1), (q1, k1, k1) twice
        See `schur.level_factors`, with its log-determinant in `numbers`.
    numbers : ndarray
        By the names in `small`.
    K, Li : ndarrays, shape (r, r)
        Filled with [Z_2 X y]'V_1^-1[Z_2 X y] and, but for the last row and column, the inverse of its factor.
    coef : ndarray, shape (r - 1,)
        Filled with the rest's effects in units of their factors and the fixed effects.
    FT : ndarray, shape (q1, k1, r)
        Filled with Z_1'V_1^-1[Z_2 X y].
    ze1, ze2 : ndarrays, shapes (q1, k1), (q2,)
        Filled with Z'Py.
    Q : ndarray, shape (1 + n_blocks, k_max, k_max)
        Filled with the derivatives of every block, those of its terms in each other's columns as well.
    information : ndarray, shape (m, m)

    Returns
    -------
    int
        What became of it, by the names in `small`.
    """
    q1, k1, r = T.shape
    q2, m, n, last = ze2.size, information.shape[0], r - 1, r - 1
    L = np.empty((r, r))
    if stages & VALUE:
        row = np.empty(r)
        for i in range(r):
            for j in range(i + 1):
                K[i, j] = A[i, j]
        for l in range(q1):  # noqa: E741
            for c in range(k1):
                for i in range(r):
                    s = 0.0
                    for d in range(k1):
                        s += half[l, c, d] * T[l, d, i]
                    row[i] = s
                    if s != 0.0:
                        for j in range(i + 1):
                            K[i, j] -= s * row[j]
        for i in range(r):
            for j in range(i):
                K[j, i] = K[i, j]
        done = _factor(K, q2, lstart, lblock, lam, L, Li)
        if done < n:
            return SINGULAR if done < q2 else SINGULAR_BORDER
        border = 0.0
        for i in range(n):
            if i < q2:
                numbers[LOGDET] += 2.0 * np.log(L[i, i])
            else:
                border += 2.0 * np.log(L[i, i])
        r2 = K[last, last]
        for i in range(n):
            r2 -= L[last, i] * L[last, i]
            s = 0.0
            for j in range(i, n):
                s += Li[j, i] * L[last, j]
            coef[i] = s
        if not np.isfinite(numbers[LOGDET]) or not np.isfinite(r2):
            return OVERFLOW
        status = finish(given, numbers, border, r2, _lost(q2, lblock, lam, gram, given, Li, coef, r2))
        if status != DONE:
            return status
    sigma2 = numbers[SIGMA2]
    E = np.empty((k1, k1))
    if stages & PRODUCTS:
        # effects in the columns' units; residuals
        v = np.empty((n, 1))
        for i in range(n):
            v[i, 0] = coef[i]
        _straight(v, 1, lstart, lblock, lam)
        for j in range(q2):
            s = A[j, last]
            for i in range(n):
                s -= A[j, i] * v[i, 0]
            ze2[j] = s
        for l in range(q1):  # noqa: E741
            for a in range(k1):
                for i in range(r):
                    s = 0.0
                    for d in range(k1):
                        s += f[l, a, d] * T[l, d, i]
                    FT[l, a, i] = s
                s = FT[l, a, last]
                for i in range(n):
                    s -= FT[l, a, i] * v[i, 0]
                ze1[l, a] = s
            for a in range(k1):
                s = 0.0
                for c in range(k1):
                    s += D1[a, c] * ze1[l, c]
                for j in range(q2):
                    ze2[j] -= T[l, a, j] * s
    if stages & INFORMATION:
        # working variates: entry i joins two columns, each takes the other's residual products
        Kf, w2, fe, v1 = np.zeros((r, m)), np.zeros((q2, m)), np.zeros(m), np.empty(k1)
        for i in range(m):
            for j in range(m):
                information[i, j] = 0.0
            if entries[BLOCK, i] == 0:
                continue
            for t in range(lblock.size):
                if lblock[t] + 1 == entries[BLOCK, i]:
                    a, c = lstart[t] + entries[ROW, i], lstart[t] + entries[COLUMN, i]
                    w2[a, i] = ze2[c]
                    w2[c, i] = ze2[a]
            for j in range(q2):
                fe[i] += w2[j, i] * ze2[j]
                for d in range(r):
                    Kf[d, i] += K[d, j] * w2[j, i]
        for l in range(q1):  # noqa: E741
            for a in range(k1):
                for c in range(k1):
                    s = 0.0
                    for d in range(k1):
                        s += f[l, a, d] * A1[l, d, c]
                    E[a, c] = s
            for i in range(m):
                if entries[BLOCK, i] != 0:
                    continue
                a, c = entries[ROW, i], entries[COLUMN, i]
                za, zc = ze1[l, a] if a != c else 0.0, ze1[l, c]
                fe[i] += 2.0 * za * zc if a != c else zc * zc
                for j in range(r):
                    Kf[j, i] += FT[l, a, j] * zc + FT[l, c, j] * za
                for d in range(k1):
                    v1[d] = 0.5 * ((E[d, a] + E[a, d]) * zc + (E[d, c] + E[c, d]) * za)
                for j in range(i + 1):
                    if entries[BLOCK, j] == 0:
                        b, d = entries[ROW, j], entries[COLUMN, j]
                        information[i, j] += v1[b] * ze1[l, d] + (v1[d] * ze1[l, b] if b != d else 0.0)
        for i in range(m):
            for j in range(i + 1):
                # the product of both with the leading term integrated out is symmetric
                first, second = (i, j) if entries[BLOCK, i] != 0 else (j, i)
                for d in range(q2):
                    information[i, j] += w2[d, first] * Kf[d, second]
        _turned(Kf, m, lstart, lblock, lam)
        for i in range(m):
            for d in range(n - 1, -1, -1):
                s = 0.0
                for c in range(d + 1):
                    s += Li[d, c] * Kf[c, i]
                Kf[d, i] = s
            for j in range(i + 1):
                s = information[i, j] - fe[i] * fe[j] / numbers[R2]
                for d in range(n):
                    s -= Kf[d, i] * Kf[d, j]
                information[i, j] = s / sigma2
                information[j, i] = s / sigma2
    if stages & DERIVATIVES:
        inverse, own = (np.empty((r, r)), floored) if stages & FLOORED else (Li, lam)
        if stages & FLOORED and _factor(K, q2, lstart, lblock, floored, L, inverse) < n:
            return SINGULAR
        # V^-1 in place of P under ML
        size = n if given[REML] == 1.0 else q2
        for i in range(size):
            for j in range(i + 1):
                s = 0.0
                for d in range(i, size):
                    s += inverse[d, i] * inverse[d, j]
                L[i, j] = s
                L[j, i] = s
        for block in range(Q.shape[0]):
            for a in range(Q.shape[1]):
                for c in range(Q.shape[1]):
                    Q[block, a, c] = 0.0
        # Z'PZ = lam^-T (I - T) lam^-1 on the level's own block, T of the inverse
        widest = lam.shape[1]
        mid, back = np.empty((widest, widest)), np.empty((widest, widest))
        for t in range(lblock.size):
            j, k, N = lstart[t], lstart[t + 1] - lstart[t], Q[lblock[t] + 1]
            for a in range(k):
                for c in range(k):
                    N[a, c] += (1.0 if a == c else 0.0) - L[j + a, j + c]
        for block in range(1, Q.shape[0]):
            N, root = Q[block], own[block - 1]
            k = 0
            while k < widest and gram[block - 1, k] > 0.0:
                k += 1
            for c in range(k):
                for a in range(k):
                    back[a, c] = 0.0
                back[c, c] = 1.0 / root[c, c]
                for a in range(c + 1, k):
                    s = 0.0
                    for d in range(c, a):
                        s -= root[a, d] * back[d, c]
                    back[a, c] = s / root[a, a]
            for a in range(k):
                for c in range(k):
                    s = 0.0
                    for d in range(c, k):
                        s += N[a, d] * back[d, c]
                    mid[a, c] = s
            for a in range(k):
                for c in range(k):
                    s = 0.0
                    for d in range(a, k):
                        s += back[d, a] * mid[d, c]
                    N[a, c] = s
        for t in range(lblock.size):
            j, k, N = lstart[t], lstart[t + 1] - lstart[t], Q[lblock[t] + 1]
            for a in range(k):
                for c in range(k):
                    N[a, c] -= ze2[j + a] * ze2[j + c] / sigma2
        _straight(L, size, lstart, lblock, own)
        _transpose(L, size)
        _straight(L, size, lstart, lblock, own)
        v2 = np.empty(size)
        N = Q[0]
        for l in range(q1):  # noqa: E741
            for c in range(k1):
                for i in range(size):
                    v2[i] = 0.0
                for j in range(size):
                    s = FT[l, c, j]
                    if s != 0.0:
                        for i in range(size):
                            v2[i] += L[j, i] * s
                for a in range(k1):
                    s = -ze1[l, a] * ze1[l, c] / sigma2
                    for d in range(k1):
                        s += f[l, a, d] * A1[l, d, c]
                    for i in range(size):
                        s -= FT[l, a, i] * v2[i]
                    N[a, c] += s
        for block in range(Q.shape[0]):
            N = Q[block]
            for a in range(Q.shape[1]):
                for c in range(a):
                    s = 0.5 * (N[a, c] + N[c, a])
                    N[a, c] = s
                    N[c, a] = s
    return DONE
