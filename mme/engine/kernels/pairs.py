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
