"""Blocks of the inverse of the mixed-model equations, level by level; notation as in `schur`."""

import numpy as np

from . import kernel, part


@part
def _entry(
    i: int, j: int, sparse: bool, full: np.ndarray, sptr: np.ndarray, sidx: np.ndarray, sinv: np.ndarray,
    lstart: np.ndarray, clevel: np.ndarray,
) -> float:  # fmt: skip
    """S^-1[i, j] of the lower triangle (F order), or on the lower-triangular pattern of S."""
    if i < j:
        i, j = j, i
    if not sparse:
        return full[i, j]
    # the columns of a level have the rows of its first column, each from itself on
    first = lstart[clevel[j]]
    low, high = sptr[first], sptr[first + 1]
    while low < high:
        middle = (low + high) // 2
        if sidx[middle] < i:
            low = middle + 1
        else:
            high = middle
    return sinv[sptr[j] + (low - sptr[first]) - (j - first)]


@kernel
def level_inverse(
    l0: int, l1: int, lstart: np.ndarray, lblock: np.ndarray, clevel: np.ndarray, lam2: np.ndarray,
    ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, sparse: bool, full: np.ndarray, sptr: np.ndarray,
    sidx: np.ndarray, sinv: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """out[l] = B_l T B_l' (k, k), T = lam2 S^-1 lam2', for levels l0..l1 of the leading term.

    S^-1 is `full` (lower triangle, F order) or, if `sparse`, `sinv` on the pattern sptr, sidx.
    """
    k = val.shape[1]
    for l in range(l0, l1):  # noqa: E741
        first = ptr[l]
        n = ptr[l + 1] - first
        turned = np.zeros((n, k))  # (B lam2)'
        for e in range(n):
            j = idx[first + e]
            t = clevel[j]
            own = j - lstart[t]
            for b in range(own, lstart[t + 1] - lstart[t]):
                x = lam2[lblock[t], b, own]
                for a in range(k):
                    turned[e, a] += val[first + e - own + b, a] * x
        for a in range(k):
            for b in range(k):
                out[l, a, b] = 0.0
        for e in range(n):
            j = idx[first + e]
            for f in range(e, n):
                x = _entry(idx[first + f], j, sparse, full, sptr, sidx, sinv, lstart, clevel)
                if f > e:
                    for a in range(k):
                        for b in range(k):
                            both = turned[e, a] * turned[f, b] + turned[f, a] * turned[e, b]
                            out[l, a, b] += x * both
                else:
                    for a in range(k):
                        for b in range(k):
                            out[l, a, b] += x * turned[e, a] * turned[e, b]
