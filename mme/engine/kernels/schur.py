"""Elimination of the leading term: Schur complement of the other terms, products with cells.

Notation: D, lam the relative covariance of the leading term, A_l its k x k cross-products, B_l (k, d_l) its
cells; per level  W = lam (lam'A lam + I)^-1 lam',  F = (I + A D)^-1,  E = F A.  With the leading term
integrated out, [Z_2 X y]'V_1^-1 [Z_2 X y] = [Z_2 X y]'[Z_2 X y] - sum_l B_l' W_l B_l.

The other terms' columns come in levels: level t holds the columns lstart[t]:lstart[t+1] and belongs to block
lblock[t], whose factor is lam2[lblock[t]] (padded to the widest block).
"""

import numpy as np

from . import kernel, part


@kernel
def level_factors(
    l0: int, l1: int, A: np.ndarray, lam: np.ndarray, D: np.ndarray, W: np.ndarray, F: np.ndarray,
    half: np.ndarray,
) -> float:  # fmt: skip
    """Fill W, F and half for levels l0..l1; returns sum log|lam'A lam + I| (nan if not positive).

    half'half = W, from the Cholesky factor of lam'A lam + I: differences with B'W B are formed from half B,
    whose rounding does not see the null directions of A.
    """
    k = A.shape[1]
    logdet = 0.0
    if k == 1:
        d = D[0, 0]
        prod = 1.0
        for l in range(l0, l1):  # noqa: E741
            g = 1.0 + d * A[l, 0, 0]
            f = 1.0 / g
            F[l, 0, 0] = f
            W[l, 0, 0] = d * f
            half[l, 0, 0] = np.sqrt(d * f)
            prod *= g  # one logarithm for many levels
            if prod > 1e200:
                logdet += np.log(prod)
                prod = 1.0
            elif g > 1e100:
                logdet += np.log(prod)
                prod = 1.0
        return logdet + np.log(prod)
    if k == 2:
        # closed form: F = adj(I + A D)/|I + A D|; half = H^-1 lam', H the Cholesky factor of lam'A lam + I
        d00, d01, d11 = D[0, 0], D[0, 1], D[1, 1]
        x, y, z = lam[0, 0], lam[1, 0], lam[1, 1]
        prod = 1.0
        for l in range(l0, l1):  # noqa: E741
            a, b, c = A[l, 0, 0], A[l, 0, 1], A[l, 1, 1]
            m00 = 1.0 + a * d00 + b * d01
            m01 = a * d01 + b * d11
            m10 = b * d00 + c * d01
            m11 = 1.0 + b * d01 + c * d11
            h00 = 1.0 + x * x * a + 2.0 * x * y * b + y * y * c
            h10 = z * (x * b + y * c) / h00
            h11 = 1.0 + z * z * c - h10 * h10 * h00
            det = h00 * h11
            if not det > 0.0:
                return np.nan
            inv = 1.0 / det
            s = np.sqrt(1.0 / h00)
            t = np.sqrt(1.0 / h11)
            g00, g01 = x * s, y * s
            g10, g11 = -h10 * x * t, (z - h10 * y) * t
            half[l, 0, 0] = g00
            half[l, 0, 1] = g01
            half[l, 1, 0] = g10
            half[l, 1, 1] = g11
            W[l, 0, 0] = g00 * g00 + g10 * g10
            W[l, 0, 1] = g00 * g01 + g10 * g11
            W[l, 1, 0] = W[l, 0, 1]
            W[l, 1, 1] = g01 * g01 + g11 * g11
            F[l, 0, 0] = m11 * inv
            F[l, 0, 1] = -m01 * inv
            F[l, 1, 0] = -m10 * inv
            F[l, 1, 1] = m00 * inv
            prod *= det
            if prod > 1e150 or det > 1e100:
                logdet += np.log(prod)
                prod = 1.0
        return logdet + np.log(prod)
    G = np.empty((k, k))
    H = np.empty((k, k))
    P = np.empty((k, 2 * k))
    for l in range(l0, l1):  # noqa: E741
        # G = lam' A lam + I, H = its Cholesky factor, then G <- H^-1 lam' so that W = G'G
        for a in range(k):
            for b in range(k):
                s = 0.0
                for c in range(b, k):
                    s += A[l, a, c] * lam[c, b]
                H[a, b] = s
        for a in range(k):
            for b in range(a + 1):
                s = 1.0 if a == b else 0.0
                for c in range(a, k):
                    s += lam[c, a] * H[c, b]
                G[a, b] = s
        for b in range(k):
            s = G[b, b]
            for c in range(b):
                s -= H[b, c] * H[b, c]
            if not s > 0.0:
                return np.nan
            logdet += np.log(s)
            H[b, b] = np.sqrt(s)
            for a in range(b + 1, k):
                s = G[a, b]
                for c in range(b):
                    s -= H[a, c] * H[b, c]
                H[a, b] = s / H[b, b]
        for b in range(k):
            for a in range(k):
                s = lam[b, a]
                for c in range(a):
                    s -= H[a, c] * G[c, b]
                G[a, b] = s / H[a, a]
                half[l, a, b] = G[a, b]
        for a in range(k):
            for b in range(a + 1):
                s = 0.0
                for c in range(k):
                    s += G[c, a] * G[c, b]
                W[l, a, b] = s
                W[l, b, a] = s
        # F = (I + A D)^-1 by elimination with partial pivoting; no cancellation for large A D
        for a in range(k):
            for b in range(k):
                s = 1.0 if a == b else 0.0
                P[a, k + b] = s
                for c in range(k):
                    s += A[l, a, c] * D[c, b]
                P[a, b] = s
        for c in range(k):
            best = c
            for a in range(c + 1, k):
                if abs(P[a, c]) > abs(P[best, c]):
                    best = a
            if best != c:
                for b in range(2 * k):
                    s = P[c, b]
                    P[c, b] = P[best, b]
                    P[best, b] = s
            if P[c, c] == 0.0:
                return np.nan
            inv = 1.0 / P[c, c]
            for b in range(2 * k):
                P[c, b] *= inv
            for a in range(k):
                if a != c:
                    s = P[a, c]
                    if s != 0.0:
                        for b in range(2 * k):
                            P[a, b] -= s * P[c, b]
        for a in range(k):
            for b in range(k):
                F[l, a, b] = P[a, k + b]
    return logdet


@kernel
def level_information(
    l0: int, l1: int, ze: np.ndarray, C: np.ndarray, A: np.ndarray, F: np.ndarray, FA: np.ndarray,
    K: np.ndarray, X: np.ndarray,
) -> None:  # fmt: skip
    """Average information of the leading term alone, its working variates formed on the fly.

    w_l[:, i] = C[i] ze_l; adds to K (m, m) sum w_l' F_l A_l w_l and to X (p, m) sum (F_l A_xl)[:, :p]' w_l.
    """
    m = C.shape[0]
    k = A.shape[1]
    p = X.shape[0]
    w = np.empty((k, m))
    E = np.empty((k, k))
    for l in range(l0, l1):  # noqa: E741
        for a in range(k):
            for b in range(k):
                s = 0.0
                for c in range(k):
                    s += F[l, a, c] * A[l, c, b]
                E[a, b] = s
        for i in range(m):
            for a in range(k):
                s = 0.0
                for b in range(k):
                    s += C[i, a, b] * ze[l, b]
                w[a, i] = s
        for i in range(m):
            for a in range(k):
                s = 0.0
                for b in range(k):
                    s += 0.5 * (E[a, b] + E[b, a]) * w[b, i]
                for j in range(i + 1):
                    K[i, j] += s * w[a, j]
        for a in range(k):
            for b in range(p):
                v = FA[l, a, b]
                for i in range(m):
                    X[b, i] += v * w[a, i]


@kernel
def level_apply(l0: int, l1: int, W: np.ndarray, Q: np.ndarray, out: np.ndarray) -> None:
    """out[l] = W[l] @ Q[l]: (k, k) times (k, m) for every level."""
    k = W.shape[1]
    m = Q.shape[2]
    for l in range(l0, l1):  # noqa: E741
        for a in range(k):
            for b in range(m):
                s = 0.0
                for c in range(k):
                    s += W[l, a, c] * Q[l, c, b]
                out[l, a, b] = s


@kernel
def cells_dot(
    l0: int, l1: int, ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, M: np.ndarray, out: np.ndarray
) -> None:
    """out[l] -= B_l M[idx of l]: (k, d) times (d, m), for levels l0..l1."""
    k = val.shape[1]
    m = M.shape[1]
    for l in range(l0, l1):  # noqa: E741
        for e in range(ptr[l], ptr[l + 1]):
            j = idx[e]
            for a in range(k):
                v = val[e, a]
                if v != 0.0:
                    for b in range(m):
                        out[l, a, b] -= v * M[j, b]


@kernel
def cells_tdot(
    j0: int, j1: int, tptr: np.ndarray, tlev: np.ndarray, tpos: np.ndarray, val: np.ndarray, G: np.ndarray,
    out: np.ndarray,
) -> None:  # fmt: skip
    """out[j] -= sum over levels of B_l[:, j]' G[l]: (q2, m), for columns j0..j1."""
    k = val.shape[1]
    m = G.shape[2]
    for j in range(j0, j1):
        for f in range(tptr[j], tptr[j + 1]):
            l = tlev[f]  # noqa: E741
            e = tpos[f]
            for a in range(k):
                v = val[e, a]
                if v != 0.0:
                    for b in range(m):
                        out[j, b] -= v * G[l, a, b]


@part
def _eliminated_column(
    j: int, off: int, ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, tptr: np.ndarray, tlev: np.ndarray,
    tpos: np.ndarray, W: np.ndarray, acc: np.ndarray, w: np.ndarray,
) -> None:  # fmt: skip
    """acc[i] -= sum_l B_l[:, i]' W_l B_l[:, j] for rows i >= j - off, the level's first column."""
    k = val.shape[1]
    if k == 1:
        for f in range(tptr[j], tptr[j + 1]):
            l = tlev[f]  # noqa: E741
            e = tpos[f]
            c = W[l, 0, 0] * val[e, 0]
            for s in range(e - off, ptr[l + 1]):
                acc[idx[s]] -= c * val[s, 0]
    else:
        for f in range(tptr[j], tptr[j + 1]):
            l = tlev[f]  # noqa: E741
            e = tpos[f]
            for a in range(k):
                c = 0.0
                for b in range(k):
                    c += W[l, a, b] * val[e, b]
                w[a] = c
            for s in range(e - off, ptr[l + 1]):
                c = 0.0
                for a in range(k):
                    c += val[s, a] * w[a]
                acc[idx[s]] -= c


@part
def _accumulate(
    j0: int, kt: int, ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, tptr: np.ndarray, tlev: np.ndarray,
    tpos: np.ndarray, W: np.ndarray, gptr: np.ndarray, gidx: np.ndarray, gval: np.ndarray, acc: np.ndarray,
    w: np.ndarray,
) -> None:  # fmt: skip
    """acc[c] += column j0 + c of Z_2'V_1^-1 Z_2, rows j0 on, for c < kt; acc was zero."""
    for c in range(kt):
        for s in range(gptr[j0 + c], gptr[j0 + c + 1]):
            acc[c, gidx[s]] = gval[s]
        _eliminated_column(j0 + c, c, ptr, idx, val, tptr, tlev, tpos, W, acc[c], w)


@part
def _scale(
    X: np.ndarray, i0: int, ks: int, kt: int, ls: np.ndarray, lt: np.ndarray, left: np.ndarray
) -> None:
    """X[b, i0 + a] of one block becomes (ls' X lt)[a, b], ls (ks, ks) and lt (kt, kt) lower triangular."""
    for a in range(ks):
        for b in range(kt):
            v = 0.0
            for c in range(b, kt):
                v += X[c, i0 + a] * lt[c, b]
            left[a, b] = v
    for a in range(ks):
        for b in range(kt):
            v = 0.0
            for c in range(a, ks):
                v += ls[c, a] * left[c, b]
            X[b, i0 + a] = v


@kernel
def schur_dense(
    lev0: int, lev1: int, lstart: np.ndarray, lblock: np.ndarray, own: np.ndarray, lam2: np.ndarray,
    ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, tptr: np.ndarray, tlev: np.ndarray, tpos: np.ndarray,
    W: np.ndarray, gptr: np.ndarray, gidx: np.ndarray, gval: np.ndarray, S: np.ndarray,
) -> None:  # fmt: skip
    """Block-lower columns of S = lam2'(Z_2'V_1^-1 Z_2) lam2 + I for levels lev0..lev1, (q2, q2) F order.

    own[b] is 1 for blocks of independent levels; 0 for those to which the caller adds a known Q.
    """
    q2 = S.shape[0]
    nlev = lstart.size - 1
    kmax = lam2.shape[1]
    w = np.empty(val.shape[1])
    left = np.empty((kmax, kmax))
    acc = np.empty((kmax, q2))
    for t in range(lev0, lev1):
        j0 = lstart[t]
        kt = lstart[t + 1] - j0
        acc[:kt, j0:] = 0.0
        _accumulate(j0, kt, ptr, idx, val, tptr, tlev, tpos, W, gptr, gidx, gval, acc, w)
        lt = lam2[lblock[t]]
        if kmax == 1:
            for s in range(t, nlev):
                S[s, j0] = acc[0, s] * (lt[0, 0] * lam2[lblock[s], 0, 0])
        else:
            for s in range(t, nlev):
                _scale(acc, lstart[s], lstart[s + 1] - lstart[s], kt, lam2[lblock[s]], lt, left)
            for c in range(kt):
                for i in range(j0, q2):
                    S[i, j0 + c] = acc[c, i]
        for c in range(kt):
            S[j0 + c, j0 + c] += own[lblock[t]]


@kernel
def schur_sparse(
    lev0: int, lev1: int, lstart: np.ndarray, lblock: np.ndarray, own: np.ndarray, clevel: np.ndarray,
    lam2: np.ndarray, ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, tptr: np.ndarray, tlev: np.ndarray,
    tpos: np.ndarray, W: np.ndarray, gptr: np.ndarray, gidx: np.ndarray, gval: np.ndarray, sptr: np.ndarray,
    sidx: np.ndarray, sval: np.ndarray,
) -> None:  # fmt: skip
    """As `schur_dense`, on a lower-triangular pattern sptr, sidx whose k x k blocks are whole.

    clevel[i] is the level of column i.
    """
    q2 = sptr.size - 1
    kmax = lam2.shape[1]
    w = np.empty(val.shape[1])
    left = np.empty((kmax, kmax))
    acc = np.zeros((kmax, q2))
    for t in range(lev0, lev1):
        j0 = lstart[t]
        kt = lstart[t + 1] - j0
        _accumulate(j0, kt, ptr, idx, val, tptr, tlev, tpos, W, gptr, gidx, gval, acc, w)
        first = sptr[j0]
        last = sptr[j0 + 1]
        lt = lam2[lblock[t]]
        if kmax == 1:
            for s in range(first, last):
                acc[0, sidx[s]] *= lt[0, 0] * lam2[lblock[clevel[sidx[s]]], 0, 0]
        s = last if kmax == 1 else first
        while s < last:
            i0 = sidx[s]
            ks = lstart[clevel[i0] + 1] - i0
            _scale(acc, i0, ks, kt, lam2[lblock[clevel[i0]]], lt, left)
            s += ks
        for c in range(kt):
            acc[c, j0 + c] += own[lblock[t]]
        for c in range(kt):
            base = sptr[j0 + c] - (first + c)
            for s in range(first + c, last):
                sval[base + s] = acc[c, sidx[s]]
        for c in range(kt):
            for s in range(first, last):
                acc[c, sidx[s]] = 0.0


@kernel
def count_schur(
    lev0: int, lev1: int, lstart: np.ndarray, ptr: np.ndarray, idx: np.ndarray, tptr: np.ndarray,
    tlev: np.ndarray, tpos: np.ndarray, gptr: np.ndarray, gidx: np.ndarray, counts: np.ndarray,
) -> None:  # fmt: skip
    """Rows of each column of the lower triangle of S: counts[j+1], for the columns of levels lev0..lev1."""
    q2 = tptr.size - 1
    mark = np.full(q2, -1, np.int64)
    for t in range(lev0, lev1):
        j0 = lstart[t]
        c = 0
        for s in range(gptr[j0], gptr[j0 + 1]):
            mark[gidx[s]] = t
            c += 1
        for f in range(tptr[j0], tptr[j0 + 1]):
            l = tlev[f]  # noqa: E741
            for s in range(tpos[f], ptr[l + 1]):
                i = idx[s]
                if mark[i] != t:
                    mark[i] = t
                    c += 1
            if c == q2 - j0:
                break
        for j in range(j0, lstart[t + 1]):
            counts[j + 1] = c - (j - j0)


@kernel
def fill_schur(
    lev0: int, lev1: int, lstart: np.ndarray, ptr: np.ndarray, idx: np.ndarray, tptr: np.ndarray,
    tlev: np.ndarray, tpos: np.ndarray, gptr: np.ndarray, gidx: np.ndarray, sptr: np.ndarray,
    sidx: np.ndarray,
) -> None:  # fmt: skip
    """Sorted rows of each column of the lower triangle of S."""
    q2 = tptr.size - 1
    mark = np.full(q2, -1, np.int64)
    for t in range(lev0, lev1):
        j0 = lstart[t]
        top = sptr[j0]
        for s in range(gptr[j0], gptr[j0 + 1]):
            mark[gidx[s]] = t
            sidx[top] = gidx[s]
            top += 1
        for f in range(tptr[j0], tptr[j0 + 1]):
            l = tlev[f]  # noqa: E741
            for s in range(tpos[f], ptr[l + 1]):
                i = idx[s]
                if mark[i] != t:
                    mark[i] = t
                    sidx[top] = i
                    top += 1
            if top == sptr[j0] + q2 - j0:
                break
        part = sidx[sptr[j0] : top]
        part.sort()
        for j in range(j0 + 1, lstart[t + 1]):
            for s in range(sptr[j + 1] - sptr[j]):
                sidx[sptr[j] + s] = sidx[sptr[j0] + s + (j - j0)]
