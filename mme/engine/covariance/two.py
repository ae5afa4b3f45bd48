"""Eigenvalues of 2 x 2 matrices, for which a call of LAPACK is long."""

from __future__ import annotations

from math import hypot, sqrt

import numpy as np

__all__ = ["eigen"]


def eigen(S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, the smaller first, and eigenvectors (columns) of a symmetric S, shape (2, 2)."""
    a, b, _, c = S.ravel().tolist()
    if b == 0.0:
        t = 0.0
    else:
        tau = (c - a) / (2.0 * b)
        t = 1.0 / (abs(tau) + hypot(1.0, tau))
        if tau < 0.0:
            t = -t
    first, second = a - t * b, c + t * b
    cos = 1.0 / sqrt(1.0 + t * t)
    sin = t * cos
    if first <= second:
        return np.array([first, second]), np.array([[cos, sin], [-sin, cos]])
    return np.array([second, first]), np.array([[sin, cos], [cos, -sin]])
