"""Sums over the rows of one chunk, added to those of the chunks before."""

import numpy as np

from . import kernel
from .prefetch import AHEAD, prefetch


@kernel
def add_levels(l0: int, l1: int, codes: np.ndarray, z: np.ndarray, xy: np.ndarray, table: np.ndarray) -> None:
    """table[l] += [1, z z' (k, k), z xy' (k, m)] for the rows of the levels l0 <= l < l1.

    What belongs to a level stands together, as levels come in an order that only the data know. A column of
    ones is not given: z has shape (0, 1).
    """
    k = z.shape[1]
    m = xy.shape[1]
    last = codes.size - 1
    for i in range(codes.size):
        prefetch(table, np.int64(codes[min(i + AHEAD, last)]))
        l = codes[i]  # noqa: E741
        if l < l0 or l >= l1:
            continue
        row = table[l]
        row[0] += 1.0
        e = 1
        if z.shape[0] == 0:
            row[1] += 1.0
            for b in range(m):
                row[2 + b] += xy[i, b]
            continue
        for a in range(k):
            for b in range(k):
                row[e] += z[i, a] * z[i, b]
                e += 1
        for a in range(k):
            for b in range(m):
                row[e] += z[i, a] * xy[i, b]
                e += 1
