"""Quadratic forms in the inverse of the mixed-model equations, for rows of any levels; as in `schur`."""

import numpy as np

from . import kernel


@kernel
def pair_forms(
    a: int, b: int, row: np.ndarray, column: np.ndarray, weight: np.ndarray, lead: np.ndarray,
    Wz: np.ndarray, rptr: np.ndarray, ridx: np.ndarray, rval: np.ndarray, ptr: np.ndarray, idx: np.ndarray,
    val: np.ndarray, T: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """out[t] = weight_t (T_j z_2 - 2 T_j B_l'W_l z_1) for pairs t = a..b of a row and a column j of the rest.

    row, column, weight (pairs,): the row, j's place among the rows of T, the row's entry of z_2 at j.
    lead (n,): l, -1 where there is none; Wz (n, k); rptr, ridx, rval: z_2 by rows; T (m, q2).
    """
    k = val.shape[1]
    for t in range(a, b):
        i = row[t]
        T_j = T[column[t]]
        total = 0.0
        for e in range(rptr[i], rptr[i + 1]):
            total += rval[e] * T_j[ridx[e]]
        l = lead[i]  # noqa: E741
        if l >= 0:
            crossed = 0.0
            for c in range(ptr[l], ptr[l + 1]):
                inner = 0.0
                for d in range(k):
                    inner += val[c, d] * Wz[i, d]
                crossed += inner * T_j[idx[c]]
            total -= 2.0 * crossed
        out[t] = weight[t] * total
