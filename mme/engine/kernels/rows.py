"""Row passes with few columns, where a BLAS call per block costs more than the arithmetic."""

import numpy as np

from . import kernel


@kernel
def transform_rows(a: int, b: int, x: np.ndarray, T: np.ndarray, out: np.ndarray) -> None:
    """out[i] = x[i] T for rows a..b: (n, p) times (p, r), C order."""
    p = x.shape[1]
    r = T.shape[1]
    for i in range(a, b):
        for c in range(r):
            s = 0.0
            for j in range(p):
                s += x[i, j] * T[j, c]
            out[i, c] = s


@kernel
def basis_and_residual(
    a: int, b: int, x: np.ndarray, y: np.ndarray, T: np.ndarray, b0: np.ndarray, xy: np.ndarray,
    cross: np.ndarray,
) -> None:  # fmt: skip
    """xy[i] = [x_i T, y_i - x_i T b0] for rows a..b, cross (p + 1, p + 1) += xy'xy (lower triangle)."""
    q = x.shape[1]
    p = T.shape[1]
    for i in range(a, b):
        s = y[i]
        for c in range(p):
            v = 0.0
            for j in range(q):
                v += x[i, j] * T[j, c]
            xy[i, c] = v
            s -= v * b0[c]
        xy[i, p] = s
        for c in range(p + 1):
            v = xy[i, c]
            for j in range(c + 1):
                cross[c, j] += v * xy[i, j]
