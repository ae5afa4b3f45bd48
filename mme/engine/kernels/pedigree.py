"""Pedigrees as arrays: order, inbreeding, the inverse of the relationship matrix; sparse triangles.

`sire` and `dam` hold positions, -1 for an unknown parent.
"""

import numpy as np

from . import kernel


@kernel
def order_by_parents(sire: np.ndarray, dam: np.ndarray) -> np.ndarray:
    """An order in which parents come before their offspring, as given where that already holds.

    Shape (n,); animals that descend from themselves, and their offspring, are left out: -1 at the end.
    """
    n = sire.size
    first = np.zeros(n + 1, np.int64)
    waiting = np.zeros(n, np.int64)
    sorted_already = True
    for i in range(n):
        for parent in (sire[i], dam[i]):
            if parent >= 0:
                first[parent + 1] += 1
                waiting[i] += 1
                if parent >= i:
                    sorted_already = False
    order = np.full(n, -1, np.int64)
    if sorted_already:
        for i in range(n):
            order[i] = i
        return order
    for i in range(n):
        first[i + 1] += first[i]
    place = first[:-1].copy()
    offspring = np.empty(first[n], np.int64)
    for i in range(n):
        for parent in (sire[i], dam[i]):
            if parent >= 0:
                offspring[place[parent]] = i
                place[parent] += 1
    done = 0
    for i in range(n):
        if waiting[i] == 0:
            order[done] = i
            done += 1
    at = 0
    while at < done:
        parent = order[at]
        for e in range(first[parent], first[parent + 1]):
            i = offspring[e]
            waiting[i] -= 1
            if waiting[i] == 0:
                order[done] = i
                done += 1
        at += 1
    return order


@kernel
def inbreeding(sire: np.ndarray, dam: np.ndarray) -> np.ndarray:
    """Coefficients of inbreeding, shape (n,); parents come first (Meuwissen & Luo 1992, GSE 24, 305-313).

    A_ii = sum over the ancestors j of i of L_ij^2 D_j, whose paths are gathered from the youngest on.
    """
    n = sire.size
    F = np.zeros(n)
    D = np.empty(n)
    L = np.zeros(n)
    older = np.full(n, -1, np.int64)  # the next ancestor that waits
    for i in range(n):
        s = sire[i]
        d = dam[i]
        D[i] = 1.0
        if s >= 0:
            D[i] -= 0.25 * (1.0 + F[s])
        if d >= 0:
            D[i] -= 0.25 * (1.0 + F[d])
        if s < 0 or d < 0:
            continue
        if i > 0 and s == sire[i - 1] and d == dam[i - 1]:
            F[i] = F[i - 1]
            continue
        total = -1.0
        L[i] = 1.0
        j = i
        while j >= 0:
            half = 0.5 * L[j]
            a = max(sire[j], dam[j])
            b = min(sire[j], dam[j])
            at = j
            for parent in (a, b):
                if parent >= 0:
                    while older[at] > parent:
                        at = older[at]
                    if older[at] != parent:
                        older[parent] = older[at]
                        older[at] = parent
                    L[parent] += half
            total += L[j] * L[j] * D[j]
            L[j] = 0.0
            last = j
            j = older[j]
            older[last] = -1
        F[i] = total
    return F


@kernel
def solve_lower(ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, B: np.ndarray) -> None:
    """B <- L^-1 B in place, (n, m); L by columns, the diagonal first."""
    m = B.shape[1]
    for j in range(ptr.size - 1):
        scale = 1.0 / val[ptr[j]]
        for c in range(m):
            B[j, c] *= scale
        for e in range(ptr[j] + 1, ptr[j + 1]):
            v = val[e]
            i = idx[e]
            for c in range(m):
                B[i, c] -= v * B[j, c]


@kernel
def solve_upper(ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, B: np.ndarray) -> None:
    """B <- L'^-1 B in place, (n, m); L by columns, the diagonal first."""
    m = B.shape[1]
    for j in range(ptr.size - 2, -1, -1):
        for e in range(ptr[j] + 1, ptr[j + 1]):
            v = val[e]
            i = idx[e]
            for c in range(m):
                B[j, c] -= v * B[i, c]
        scale = 1.0 / val[ptr[j]]
        for c in range(m):
            B[j, c] *= scale


@kernel
def find_entries(
    ptr: np.ndarray, idx: np.ndarray, rows: np.ndarray, columns: np.ndarray, out: np.ndarray
) -> None:
    """Positions of entries in a matrix by columns, rows ascending; -1 where there is none."""
    for e in range(rows.size):
        low = ptr[columns[e]]
        high = ptr[columns[e] + 1]
        end = high
        row = rows[e]
        while low < high:
            middle = (low + high) // 2
            if idx[middle] < row:
                low = middle + 1
            else:
                high = middle
        out[e] = low if low < end and idx[low] == row else -1
