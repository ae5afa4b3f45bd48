"""Sums over the pairs of cells of a level of the leading term.

Cells as in `mme.engine.kernels.schur`: ptr, idx by level; tptr, tlev, tpos by column of the rest.
"""

import numpy as np

from . import kernel


@kernel
def gram_columns(
    j0: int, j1: int, ptr: np.ndarray, idx: np.ndarray, tptr: np.ndarray, tlev: np.ndarray, tpos: np.ndarray,
    left: np.ndarray, right: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Columns j0..j1 of sum_l left_l right_l', (q2, q2) F order; left, right (nnz,): one number per cell."""
    for j in range(j0, j1):
        out[:, j] = 0.0
        for s in range(tptr[j], tptr[j + 1]):
            level = tlev[s]
            value = right[tpos[s]]
            for c in range(ptr[level], ptr[level + 1]):
                out[idx[c], j] += left[c] * value


@kernel
def level_forms(
    l0: int, l1: int, ptr: np.ndarray, idx: np.ndarray, phi: np.ndarray, T: np.ndarray, out: np.ndarray
) -> None:
    """out[l] = phi_l T phi_l' for levels l0..l1; phi (nnz, k), symmetric T (q2, q2), out (q1, k, k)."""
    k = phi.shape[1]
    row = np.empty(k)
    for level in range(l0, l1):
        out[level] = 0.0
        for c in range(ptr[level], ptr[level + 1]):
            row[:] = 0.0
            column = T[idx[c]]
            for d in range(ptr[level], ptr[level + 1]):
                t = column[idx[d]]
                for b in range(k):
                    row[b] += t * phi[d, b]
            for a in range(k):
                for b in range(k):
                    out[level, a, b] += phi[c, a] * row[b]


@kernel
def level_sums(
    l0: int, l1: int, F: np.ndarray, A: np.ndarray, h: np.ndarray, M: np.ndarray, C: np.ndarray,
    K: np.ndarray,
) -> None:  # fmt: skip
    """Sums over levels l0..l1 of G = (F A + A'F') / 2 (k, k) and h (k, w), added to M, C and K.

    M[a, d] += h_a h_d', (k, k, w, w); C[a, d, :, :, b, c] += h_a h_d' G_bc, (k, k, w, w, k, k);
    K[a, b, c, d] += G_ac G_bd.
    """
    k, w = h.shape[1], h.shape[2]
    G = np.empty((k, k))
    for level in range(l0, l1):
        for a in range(k):
            for b in range(a + 1):
                x = 0.0
                y = 0.0
                for c in range(k):
                    x += F[level, a, c] * A[level, c, b]
                    y += F[level, b, c] * A[level, c, a]
                G[a, b] = 0.5 * (x + y)
                G[b, a] = G[a, b]
        for a in range(k):
            for b in range(k):
                for c in range(k):
                    for d in range(k):
                        K[a, b, c, d] += G[a, c] * G[b, d]
        for a in range(k):
            for d in range(k):
                for i in range(w):
                    for j in range(w):
                        x = h[level, a, i] * h[level, d, j]
                        M[a, d, i, j] += x
                        for b in range(k):
                            for c in range(k):
                                C[a, d, i, j, b, c] += x * G[b, c]
