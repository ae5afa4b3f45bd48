"""Lower-triangular factors of small products."""

import numpy as np

from . import kernel


@kernel
def triangular_factor(root: np.ndarray, lam: np.ndarray) -> None:
    """lam lam' = root root', lam (k, k) lower triangular with non-negative diagonal.

    Householder reflections of the columns of root' one after another, so exact rank deficiency survives;
    rounding residue (1e-14 of a row) becomes zero.
    """
    k, m = root.shape
    work = root.copy()
    for j in range(min(k, m)):
        # reflect work[j, j:] onto its first entry; the same reflection turns the rows below
        size = 0.0
        for c in range(j, m):
            size = max(size, abs(work[j, c]))
        if size == 0.0:
            continue
        norm = 0.0
        for c in range(j, m):
            norm += (work[j, c] / size) ** 2
        norm = size * np.sqrt(norm)
        head = work[j, j]
        alpha = -norm if head > 0.0 else norm
        if norm == abs(head):
            continue  # nothing beside the first entry
        v = work[j, j:].copy()
        v[0] = head - alpha
        length = 0.0
        for c in range(m - j):
            length += (v[c] / size) ** 2
        for i in range(j, k):
            dot = 0.0
            for c in range(m - j):
                dot += (v[c] / size) * work[i, j + c]
            factor = 2.0 * dot / length / size
            for c in range(m - j):
                work[i, j + c] -= factor * v[c]
    for i in range(k):
        total = 0.0
        for j in range(min(i + 1, m)):
            lam[i, j] = work[i, j]
            total += work[i, j] ** 2
        for j in range(min(i + 1, m), k):
            lam[i, j] = 0.0
        least = 1e-14 * np.sqrt(total)
        for j in range(i + 1):
            if not abs(lam[i, j]) > least:
                lam[i, j] = 0.0
    for j in range(k):
        if lam[j, j] < 0.0:
            for i in range(j, k):
                lam[i, j] = -lam[i, j]


@kernel
def inverse_cholesky(C: np.ndarray, Ri: np.ndarray) -> float:
    """Ri = R^-1, C[:p, :p] = R R' with R lower triangular, p = Ri.shape[0]; log|R R'|, or NaN."""
    p = Ri.shape[0]
    R = np.empty((p, p))
    logdet = 0.0
    for j in range(p):
        d = C[j, j]
        for c in range(j):
            d -= R[j, c] * R[j, c]
        if not d > 0.0:
            return np.nan
        R[j, j] = np.sqrt(d)
        logdet += np.log(d)
        for i in range(j + 1, p):
            s = C[i, j]
            for c in range(j):
                s -= R[i, c] * R[j, c]
            R[i, j] = s / R[j, j]
    for j in range(p):
        for i in range(j):
            Ri[i, j] = 0.0
        Ri[j, j] = 1.0 / R[j, j]
        for i in range(j + 1, p):
            s = 0.0
            for c in range(j, i):
                s -= R[i, c] * Ri[c, j]
            Ri[i, j] = s / R[i, i]
    return logdet
