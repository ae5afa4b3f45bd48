"""Sums over the rows of one chunk, added to those of the chunks before."""

import numpy as np

from . import kernel
from .prefetch import AHEAD, prefetch


@kernel
def standard_rows(
    x: np.ndarray,
    y: np.ndarray,
    shift: np.ndarray,
    P: np.ndarray,
    level: float,
    b: np.ndarray,
    pool: np.ndarray,
    gram: np.ndarray,
) -> None:
    """pool[:, : p + 1] = v = [s, y - level - s b] with s = (x - shift) P, P upper triangular; gram += v'v.

    For few columns. Products are summed in blocks of rows, so that rounding does not grow with them.
    """
    p = x.shape[1]
    block = np.empty((p + 1, p + 1))
    for start in range(0, x.shape[0], 512):
        block[:] = 0.0
        for i in range(start, min(start + 512, x.shape[0])):
            left = y[i] - level
            for j in range(p):
                s = 0.0
                for a in range(j + 1):
                    s += (x[i, a] - shift[a]) * P[a, j]
                pool[i, j] = s
                left -= s * b[j]
            pool[i, p] = left
            for j in range(p + 1):
                for a in range(j + 1):
                    block[a, j] += pool[i, a] * pool[i, j]
        for j in range(p + 1):
            for a in range(j + 1):
                gram[a, j] += block[a, j]
                if a < j:
                    gram[j, a] += block[a, j]


@kernel
def add_levels(
    l0: int,
    l1: int,
    codes: np.ndarray,
    pool: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    table: np.ndarray,
) -> None:
    """table[l] += [1, pool[left] * pool[right]] for the rows of the levels l0 <= l < l1.

    What belongs to a level stands together, as levels come in an order that only the data know.
    """
    last = codes.size - 1
    for i in range(codes.size):
        ahead = codes[min(i + AHEAD, last)]
        if l0 <= ahead < l1:
            prefetch(table, np.int64(ahead))
        l = codes[i]  # noqa: E741
        if l < l0 or l >= l1:
            continue
        table[l, 0] += 1.0
        for e in range(left.size):
            table[l, 1 + e] += pool[i, left[e]] * pool[i, right[e]]


@kernel
def add_rows(codes: np.ndarray, values: np.ndarray, table: np.ndarray) -> None:
    """table[codes] += values, row by row."""
    last = codes.size - 1
    for i in range(codes.size):
        prefetch(table, np.int64(codes[min(i + AHEAD, last)]))
        c = codes[i]
        for j in range(values.shape[1]):
            table[c, j] += values[i, j]


@kernel
def number_whole(
    values: np.ndarray, low: int, numbers: np.ndarray, found: np.ndarray, n: int, codes: np.ndarray
) -> int:
    """codes[i] = numbers[values[i] - low]; a value that has none gets the next one, from n on.

    Parameters
    ----------
    values : ndarray of int64, shape (rows,)
    low : int
    numbers : ndarray of int32, shape (span,)
        -1 where there is none yet.
    found : ndarray of int64
        The value of every number; with room for those of all rows.
    n : int
        Numbers given.
    codes : ndarray of int32, shape (rows,)

    Returns
    -------
    int
        Numbers given now.
    """
    for i in range(values.size):
        at = values[i] - low
        code = numbers[at]
        if code < 0:
            code = n
            numbers[at] = n
            found[n] = values[i]
            n += 1
        codes[i] = code
    return n


@kernel
def number_keys(keys: np.ndarray, slots: np.ndarray, found: np.ndarray, n: int, codes: np.ndarray) -> int:
    """As `number_whole`, of keys of any range: slots hold numbers by a hash of the key.

    Parameters
    ----------
    keys : ndarray of int64, shape (rows,)
    slots : ndarray of int32, shape (a power of two,)
        -1 where there is none; more than there will be numbers.
    found, n, codes
        As in `number_whole`.

    Returns
    -------
    int
    """
    mask = np.uint64(slots.size - 1)
    for i in range(keys.size):
        key = keys[i]
        mixed = np.uint64(key)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
        at = (mixed ^ (mixed >> np.uint64(29))) & mask
        code = slots[at]
        while code >= 0 and found[code] != key:
            at = (at + np.uint64(1)) & mask
            code = slots[at]
        if code < 0:
            code = n
            slots[at] = n
            found[n] = key
            n += 1
        codes[i] = code
    return n
