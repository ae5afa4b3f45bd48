"""Sums over the rows of one chunk, added to those of the chunks before."""

import numpy as np

from . import kernel


@kernel
def add_levels(
    codes: np.ndarray, z: np.ndarray, xy: np.ndarray, D: np.ndarray, B: np.ndarray, counts: np.ndarray
) -> None:
    """D[l] += z z' (k, k), B[l] += z xy' (k, m), counts[l] += 1 for every row's level l.

    Columns of ones are not given: z has shape (0, 1).
    """
    k = D.shape[1]
    m = xy.shape[1]
    if z.shape[0] == 0:
        for i in range(codes.size):
            l = codes[i]  # noqa: E741
            counts[l] += 1
            D[l, 0, 0] += 1.0
            for b in range(m):
                B[l, 0, b] += xy[i, b]
        return
    for i in range(codes.size):
        l = codes[i]  # noqa: E741
        counts[l] += 1
        for a in range(k):
            v = z[i, a]
            for b in range(k):
                D[l, a, b] += v * z[i, b]
            for b in range(m):
                B[l, a, b] += v * xy[i, b]
