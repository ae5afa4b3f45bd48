"""Traces of the gradient from the inverse of the Schur complement; notation as in `schur`."""

import numpy as np

from . import kernel, part


@part
def _unscale(
    X: np.ndarray, i0: int, ks: int, kt: int, ls: np.ndarray, lt: np.ndarray, left: np.ndarray,
    out: np.ndarray,
) -> None:  # fmt: skip
    """out[b, i0 + a] = (ls X lt')[a, b] of one block of X, as `schur` has it."""
    for a in range(ks):
        for b in range(kt):
            x = 0.0
            for c in range(b + 1):
                x += X[c, i0 + a] * lt[b, c]
            left[a, b] = x
    for a in range(ks):
        for b in range(kt):
            x = 0.0
            for c in range(a + 1):
                x += ls[a, c] * left[c, b]
            out[b, i0 + a] = x


@part
def _traced_column(
    c: int, kt: int, ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, tptr: np.ndarray, tlev: np.ndarray,
    tpos: np.ndarray, F: np.ndarray, v: np.ndarray, j: int, N: np.ndarray, g: np.ndarray, h: np.ndarray,
) -> None:  # fmt: skip
    """N += sum_l sym(F_l B_l V[:, j] (F_l B_l[:, j])'), rows of later levels counted twice."""
    k = val.shape[1]
    if k == 1:
        total = 0.0
        for f in range(tptr[j], tptr[j + 1]):
            l = tlev[f]  # noqa: E741
            e = tpos[f]
            inner = 0.0
            for s in range(e - c, e - c + kt):
                inner += val[s, 0] * v[idx[s]]
            outer = 0.0
            for s in range(e - c + kt, ptr[l + 1]):
                outer += val[s, 0] * v[idx[s]]
            total += F[l, 0, 0] * F[l, 0, 0] * val[e, 0] * (inner + 2.0 * outer)
        N[0, 0] += total
    else:
        for f in range(tptr[j], tptr[j + 1]):
            l = tlev[f]  # noqa: E741
            e = tpos[f]
            for a in range(k):
                g[a] = 0.0
                h[a] = 0.0
            for s in range(e - c, e - c + kt):
                x = v[idx[s]]
                for a in range(k):
                    g[a] += val[s, a] * x
            for s in range(e - c + kt, ptr[l + 1]):
                x = 2.0 * v[idx[s]]
                for a in range(k):
                    g[a] += val[s, a] * x
            for a in range(k):
                x = 0.0
                for b in range(k):
                    x += F[l, a, b] * val[e, b]
                h[a] = x
            for a in range(k):
                x = 0.0
                for b in range(k):
                    x += F[l, a, b] * g[b]
                for b in range(k):
                    N[a, b] += 0.5 * x * h[b]
                    N[b, a] += 0.5 * x * h[b]


@kernel
def traces_dense(
    lev0: int, lev1: int, lstart: np.ndarray, lblock: np.ndarray, lam2: np.ndarray, ptr: np.ndarray,
    idx: np.ndarray, val: np.ndarray, tptr: np.ndarray, tlev: np.ndarray, tpos: np.ndarray, F: np.ndarray,
    Sinv: np.ndarray, N: np.ndarray, T: np.ndarray,
) -> None:  # fmt: skip
    """Traces of the gradient from S^-1 (lower triangle, F order) for the columns of levels lev0..lev1.

    Adds to N (k, k) the sum over levels of F_l B_l V B_l' F_l', V = lam2 S^-1 lam2', and to T[block] the
    sum of the k x k diagonal blocks of S^-1.
    """
    q2 = Sinv.shape[0]
    nlev = lstart.size - 1
    kmax = lam2.shape[1]
    g = np.empty(val.shape[1])
    h = np.empty(val.shape[1])
    left = np.empty((kmax, kmax))
    raw = np.empty((kmax, q2))
    v = np.empty((kmax, q2))
    for t in range(lev0, lev1):
        j0 = lstart[t]
        kt = lstart[t + 1] - j0
        lt = lam2[lblock[t]]
        if kmax == 1:
            T[lblock[t], 0, 0] += Sinv[j0, j0]
            for s in range(t, nlev):
                v[0, s] = lt[0, 0] * lam2[lblock[s], 0, 0] * Sinv[s, j0]
        else:
            for c in range(kt):
                for i in range(j0 + c, q2):
                    raw[c, i] = Sinv[i, j0 + c]
                for a in range(c):
                    raw[c, j0 + a] = raw[a, j0 + c]
            for a in range(kt):
                for b in range(kt):
                    T[lblock[t], a, b] += raw[a, j0 + b]
            for s in range(t, nlev):
                _unscale(raw, lstart[s], lstart[s + 1] - lstart[s], kt, lam2[lblock[s]], lt, left, v)
        for c in range(kt):
            _traced_column(c, kt, ptr, idx, val, tptr, tlev, tpos, F, v[c], j0 + c, N, g, h)


@kernel
def traces_sparse(
    lev0: int, lev1: int, lstart: np.ndarray, lblock: np.ndarray, clevel: np.ndarray, lam2: np.ndarray,
    ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, tptr: np.ndarray, tlev: np.ndarray, tpos: np.ndarray,
    F: np.ndarray, sptr: np.ndarray, sidx: np.ndarray, sinv: np.ndarray, N: np.ndarray, T: np.ndarray,
) -> None:  # fmt: skip
    """As `traces_dense`, from S^-1 on the lower-triangular pattern of S."""
    q2 = sptr.size - 1
    kmax = lam2.shape[1]
    g = np.empty(val.shape[1])
    h = np.empty(val.shape[1])
    left = np.empty((kmax, kmax))
    raw = np.zeros((kmax, q2))
    v = np.zeros((kmax, q2))
    for t in range(lev0, lev1):
        j0 = lstart[t]
        kt = lstart[t + 1] - j0
        first = sptr[j0]
        last = sptr[j0 + 1]
        for c in range(kt):
            base = sptr[j0 + c] - (first + c)
            for s in range(first + c, last):
                raw[c, sidx[s]] = sinv[base + s]
            for a in range(c):
                raw[c, j0 + a] = raw[a, j0 + c]
        for a in range(kt):
            for b in range(kt):
                T[lblock[t], a, b] += raw[a, j0 + b]
        lt = lam2[lblock[t]]
        if kmax == 1:
            for s in range(first, last):
                v[0, sidx[s]] = lt[0, 0] * lam2[lblock[clevel[sidx[s]]], 0, 0] * raw[0, sidx[s]]
        s = last if kmax == 1 else first
        while s < last:
            i0 = sidx[s]
            ks = lstart[clevel[i0] + 1] - i0
            _unscale(raw, i0, ks, kt, lam2[lblock[clevel[i0]]], lt, left, v)
            s += ks
        for c in range(kt):
            _traced_column(c, kt, ptr, idx, val, tptr, tlev, tpos, F, v[c], j0 + c, N, g, h)
