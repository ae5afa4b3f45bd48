"""The Schur complement of the non-leading terms applied without being formed, and the vectors of block PCG.

S = lam2'(A22 - sum_l B_l' W_l B_l) lam2 + I (see `mme.engine.kernels.schur` for the notation). Blocks of
right-hand sides are (q2, m) in C order: the m entries of a column lie side by side, so a cell costs one short
contiguous read. ``val`` and ``tval`` hold the cells' values in the order of the levels and of the columns;
both are empty, of shape (0, 1), if every cell is one (a rating by a user of an item), and then nothing is
read for them.

A product with S reads copies D = lam2 V and T = W B D, in single precision where that is enough, whose rows
begin at cache lines: they are padded, and the number of columns is that of V. Sums are formed in double
precision.

Sums over columns come back one per piece; the caller adds them in the order of the pieces.
"""

import numpy as np

from . import kernel
from .prefetch import AHEAD, prefetch


@kernel
def weigh(l0: int, l1: int, W: np.ndarray, T: np.ndarray) -> None:
    """T[l] <- W[l] T[l] in place, (q1, k1, m), for levels l0..l1."""
    k = T.shape[1]
    m = T.shape[2]
    if k == 1:
        for l in range(l0, l1):  # noqa: E741
            w = W[l, 0, 0]
            for b in range(m):
                T[l, 0, b] *= w
        return
    column = np.empty(k)
    for l in range(l0, l1):  # noqa: E741
        for b in range(m):
            for a in range(k):
                column[a] = T[l, a, b]
            for a in range(k):
                s = 0.0
                for c in range(k):
                    s += W[l, a, c] * column[c]
                T[l, a, b] = s


@kernel
def rest_pass(
    j0: int, j1: int, tptr: np.ndarray, tlev: np.ndarray, tval: np.ndarray, T: np.ndarray, out: np.ndarray
) -> None:
    """out[j] -= sum over levels of B_l[:, j]'T[l]: (q2, m), for columns j0..j1 of the rest."""
    k = T.shape[1]
    m = T.shape[2]
    flat = T.reshape(T.shape[0], k * m)
    last = tlev.size - 1
    if tval.shape[0] == 0:
        for j in range(j0, j1):
            acc = out[j]
            for f in range(tptr[j], tptr[j + 1]):
                prefetch(flat, np.int64(tlev[min(f + AHEAD, last)]))
                row = T[tlev[f], 0]
                for b in range(m):
                    acc[b] -= row[b]
        return
    for j in range(j0, j1):
        acc = out[j]
        for f in range(tptr[j], tptr[j + 1]):
            prefetch(flat, np.int64(tlev[min(f + AHEAD, last)]))
            for a in range(k):
                v = tval[f, a]
                row = T[tlev[f], a]
                for b in range(m):
                    acc[b] -= v * row[b]


@kernel
def sparse_pass(
    j0: int, j1: int, ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, D: np.ndarray, out: np.ndarray
) -> None:
    """out[j] = A[j] D for rows j0..j1 of a row-compressed A."""
    m = D.shape[1]
    for j in range(j0, j1):
        acc = out[j]
        for b in range(m):
            acc[b] = 0.0
        for e in range(ptr[j], ptr[j + 1]):
            v = val[e]
            row = D[idx[e]]
            for b in range(m):
                acc[b] += v * row[b]


@kernel
def apply_blocks(
    t0: int, t1: int, lstart: np.ndarray, lblock: np.ndarray, lam: np.ndarray, M: np.ndarray, out: np.ndarray,
    transpose: bool,
) -> None:  # fmt: skip
    """out[level] = lam M[level] (or lam'M[level]) for levels t0..t1 of the rest; lam[block] is padded."""
    m = M.shape[1]
    for t in range(t0, t1):
        j0 = lstart[t]
        k = lstart[t + 1] - j0
        L = lam[lblock[t]]
        if k == 1:
            s = L[0, 0]
            for b in range(m):
                out[j0, b] = s * M[j0, b]
        else:
            for a in range(k):
                for b in range(m):
                    out[j0 + a, b] = 0.0
                for c in range(k):
                    s = L[c, a] if transpose else L[a, c]
                    if s != 0.0:
                        for b in range(m):
                            out[j0 + a, b] += s * M[j0 + c, b]


@kernel
def lead_product(
    l0: int, l1: int, ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, D: np.ndarray, W: np.ndarray,
    T: np.ndarray, m: int,
) -> None:  # fmt: skip
    """T[l] = W_l B_l D for levels l0..l1: D is (q2, >= m), T (q1, k1, >= m), of which m columns are used.

    W of shape (0, k1, k1) stands for identities.
    """
    k = W.shape[1]
    acc = np.empty((k, m))
    last = idx.size - 1
    for l in range(l0, l1):  # noqa: E741
        acc[:] = 0.0
        if val.shape[0] == 0 and k == 1:
            total = acc[0]
            for e in range(ptr[l], ptr[l + 1]):
                prefetch(D, np.int64(idx[min(e + AHEAD, last)]))
                row = D[idx[e]]
                for b in range(m):
                    total[b] += row[b]
        else:
            for e in range(ptr[l], ptr[l + 1]):
                prefetch(D, np.int64(idx[min(e + AHEAD, last)]))
                row = D[idx[e]]
                for a in range(k):
                    v = val[e, a]
                    for b in range(m):
                        acc[a, b] += v * row[b]
        if W.shape[0] == 0:
            for a in range(k):
                for b in range(m):
                    T[l, a, b] = acc[a, b]
        elif k == 1:
            w = W[l, 0, 0]
            for b in range(m):
                T[l, 0, b] = w * acc[0, b]
        else:
            for a in range(k):
                for b in range(m):
                    s = 0.0
                    for c in range(k):
                        s += W[l, a, c] * acc[c, b]
                    T[l, a, b] = s


@kernel
def rest_product(
    t0: int, t1: int, lstart: np.ndarray, lblock: np.ndarray, lam: np.ndarray, aptr: np.ndarray,
    aidx: np.ndarray, aval: np.ndarray, tptr: np.ndarray, tlev: np.ndarray, tval: np.ndarray, D: np.ndarray,
    T: np.ndarray, V: np.ndarray, out: np.ndarray, dots: np.ndarray,
) -> None:  # fmt: skip
    """out = V + lam'(A22 D - B'T) for levels t0..t1 of the rest; dots[b] = sum of V[:, b] out[:, b].

    D and T are those of `lead_product`; V and out are (q2, m).
    """
    m = V.shape[1]
    k1 = T.shape[1]
    flat = T.reshape(T.shape[0], k1 * T.shape[2])
    acc = np.empty((lam.shape[1], m))
    last = tlev.size - 1
    final = aidx.size - 1
    for t in range(t0, t1):
        j0 = lstart[t]
        k = lstart[t + 1] - j0
        L = lam[lblock[t]]
        for a in range(k):
            j = j0 + a
            total = acc[a]
            for b in range(m):
                total[b] = 0.0
            for e in range(aptr[j], aptr[j + 1]):
                prefetch(D, np.int64(aidx[min(e + AHEAD, final)]))
                v = aval[e]
                row = D[aidx[e]]
                for b in range(m):
                    total[b] += v * row[b]
            if tval.shape[0] == 0:
                for f in range(tptr[j], tptr[j + 1]):
                    prefetch(flat, np.int64(tlev[min(f + AHEAD, last)]))
                    row = T[tlev[f], 0]
                    for b in range(m):
                        total[b] -= row[b]
            else:
                for f in range(tptr[j], tptr[j + 1]):
                    prefetch(flat, np.int64(tlev[min(f + AHEAD, last)]))
                    for c in range(k1):
                        v = tval[f, c]
                        row = T[tlev[f], c]
                        for b in range(m):
                            total[b] -= v * row[b]
        for a in range(k):
            for b in range(m):
                x = V[j0 + a, b]
                for c in range(k):
                    x += L[c, a] * acc[c, b]
                out[j0 + a, b] = x
                dots[b] += V[j0 + a, b] * x


@kernel
def diagonal_blocks(
    t0: int, t1: int, lstart: np.ndarray, lblock: np.ndarray, lam: np.ndarray, aptr: np.ndarray,
    aidx: np.ndarray, aval: np.ndarray, tptr: np.ndarray, tlev: np.ndarray, tval: np.ndarray, W: np.ndarray,
    P: np.ndarray,
) -> None:  # fmt: skip
    """Fill P[t] (padded) with the k x k diagonal block of S for levels t0..t1."""
    k1 = W.shape[1]
    kmax = P.shape[1]
    G = np.empty((kmax, kmax))
    H = np.empty((kmax, kmax))
    w = np.empty(k1)
    unit = tval.shape[0] == 0
    for t in range(t0, t1):
        j0 = lstart[t]
        k = lstart[t + 1] - j0
        for a in range(k):
            for b in range(k):
                G[a, b] = 0.0
            for e in range(aptr[j0 + a], aptr[j0 + a + 1]):
                c = aidx[e] - j0
                if c >= 0 and c < k:
                    G[a, c] = aval[e]
        if unit:
            # scalar terms only: B has one row per level and every cell is one
            s = 0.0
            for f in range(tptr[j0], tptr[j0 + 1]):
                s += W[tlev[f], 0, 0]
            G[0, 0] -= s
        else:
            for f in range(tptr[j0 + 1] - tptr[j0]):
                l = tlev[tptr[j0] + f]  # noqa: E741
                for b in range(k):
                    for c in range(k1):
                        s = 0.0
                        for d in range(k1):
                            s += W[l, c, d] * tval[tptr[j0 + b] + f, d]
                        w[c] = s
                    for a in range(k):
                        s = 0.0
                        for c in range(k1):
                            s += tval[tptr[j0 + a] + f, c] * w[c]
                        G[a, b] -= s
        L = lam[lblock[t]]
        for a in range(k):
            for b in range(k):
                s = 0.0
                for c in range(k):
                    s += G[a, c] * L[c, b]
                H[a, b] = s
        for a in range(k):
            for b in range(k):
                s = 1.0 if a == b else 0.0
                for c in range(k):
                    s += L[c, a] * H[c, b]
                P[t, a, b] = s


@kernel
def advance(
    t0: int, t1: int, lstart: np.ndarray, Pi: np.ndarray, component: np.ndarray, alpha: np.ndarray,
    V: np.ndarray, AV: np.ndarray, X: np.ndarray, R: np.ndarray, Z: np.ndarray, rz: np.ndarray,
    sums: np.ndarray,
) -> None:  # fmt: skip
    """X += alpha V, R -= alpha AV, Z = P^-1 R for levels t0..t1.

    rz[b] += sum of R[:, b] Z[:, b]; sums[c, b] += R summed over the columns of component c.
    """
    m = X.shape[1]
    for t in range(t0, t1):
        j0 = lstart[t]
        k = lstart[t + 1] - j0
        for j in range(j0, j0 + k):
            c = component[j]
            for b in range(m):
                X[j, b] += alpha[b] * V[j, b]
                R[j, b] -= alpha[b] * AV[j, b]
                sums[c, b] += R[j, b]
        if k == 1:
            s = Pi[t, 0, 0]
            for b in range(m):
                z = s * R[j0, b]
                Z[j0, b] = z
                rz[b] += z * R[j0, b]
        else:
            for a in range(k):
                for b in range(m):
                    Z[j0 + a, b] = 0.0
                for c in range(k):
                    s = Pi[t, a, c]
                    for b in range(m):
                        Z[j0 + a, b] += s * R[j0 + c, b]
                for b in range(m):
                    rz[b] += Z[j0 + a, b] * R[j0 + a, b]


@kernel
def redirect(
    j0: int,
    j1: int,
    component: np.ndarray,
    beta: np.ndarray,
    coarse: np.ndarray,
    Z: np.ndarray,
    V: np.ndarray,
) -> None:
    """V <- Z + coarse correction + beta V for columns j0..j1."""
    m = V.shape[1]
    for j in range(j0, j1):
        c = component[j]
        for b in range(m):
            V[j, b] = Z[j, b] + coarse[c, b] + beta[b] * V[j, b]


@kernel
def block_solve(t0: int, t1: int, lstart: np.ndarray, M: np.ndarray, R: np.ndarray, out: np.ndarray) -> None:
    """out[level] = M[level] R[level] for levels t0..t1; M is padded (n_levels, k, k)."""
    m = R.shape[1]
    for t in range(t0, t1):
        j0 = lstart[t]
        k = lstart[t + 1] - j0
        for a in range(k):
            for b in range(m):
                out[j0 + a, b] = 0.0
            for c in range(k):
                s = M[t, a, c]
                for b in range(m):
                    out[j0 + a, b] += s * R[j0 + c, b]


@kernel
def block_trace(
    t0: int, t1: int, lstart: np.ndarray, lblock: np.ndarray, lam: np.ndarray, Pi: np.ndarray,
    tptr: np.ndarray, tlev: np.ndarray, tval: np.ndarray, F: np.ndarray, N: np.ndarray,
) -> None:  # fmt: skip
    """N += sum_l F_l B_l G B_l'F_l' over the diagonal blocks G = lam P^-1 lam' of levels t0..t1: (k1, k1)."""
    k1 = F.shape[1]
    kmax = Pi.shape[1]
    G = np.empty((kmax, kmax))
    H = np.empty((kmax, kmax))
    x = np.empty((k1, kmax))
    y = np.empty((k1, kmax))
    unit = tval.shape[0] == 0
    for t in range(t0, t1):
        j0 = lstart[t]
        k = lstart[t + 1] - j0
        L = lam[lblock[t]]
        for a in range(k):
            for b in range(k):
                s = 0.0
                for c in range(k):
                    s += L[a, c] * Pi[t, c, b]
                H[a, b] = s
        for a in range(k):
            for b in range(k):
                s = 0.0
                for c in range(k):
                    s += H[a, c] * L[b, c]
                G[a, b] = s
        if unit:
            s = 0.0
            for f in range(tptr[j0], tptr[j0 + 1]):
                g = F[tlev[f], 0, 0]
                s += g * g
            N[0, 0] += s * G[0, 0]
            continue
        for f in range(tptr[j0 + 1] - tptr[j0]):
            l = tlev[tptr[j0] + f]  # noqa: E741
            for b in range(k):
                for c in range(k1):
                    s = 0.0
                    for d in range(k1):
                        s += F[l, c, d] * tval[tptr[j0 + b] + f, d]
                    x[c, b] = s
            for c in range(k1):
                for b in range(k):
                    s = 0.0
                    for d in range(k):
                        s += x[c, d] * G[d, b]
                    y[c, b] = s
            for c in range(k1):
                for d in range(k1):
                    s = 0.0
                    for b in range(k):
                        s += y[c, b] * x[d, b]
                    N[c, d] += s
