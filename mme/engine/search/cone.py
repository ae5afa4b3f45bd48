"""Symmetric blocks of a flat vector, and the quadratic over their cones (`mme.engine.kernels.cone`)."""

from __future__ import annotations

import numpy as np

from ..kernels import cone as kernels

__all__ = ["MOST_ITERATIONS", "ConeBlock", "minimise_over_cone"]

MOST_ITERATIONS = 80


class ConeBlock:
    """One symmetric block: where its free entries sit in x and how they make a matrix.

    Parameters
    ----------
    start : int
        Position of the first entry in x.
    k : int
    entries : list of (int, int)
        Free entries of the lower triangle.
    """

    def __init__(self, start: int, k: int, entries: list[tuple[int, int]]) -> None:
        self.k = k
        self.size = len(entries)
        self.part = slice(start, start + self.size)
        self.rows = np.array([a for a, _ in entries])
        self.cols = np.array([b for _, b in entries])
        self.weight = np.where(self.rows == self.cols, 1.0, 2.0)
        # entry (a, b) of G X G' takes G[a, c] G[b, d] of entry (c, d) of X, and the same the other way round
        a, b, c, d = self.rows[:, None], self.cols[:, None], self.rows, self.cols
        self._straight = k * a + c, k * b + d
        self._off = (c != d).astype(np.float64)
        self._crossed = (k * a + d, k * b + c) if self._off.any() else None

    def mat(self, x: np.ndarray) -> np.ndarray:
        """Symmetric matrix of the block's part of x."""
        if self.k == 1:
            return x[self.part].reshape(1, 1).copy()
        out = np.zeros((self.k, self.k))
        out[self.rows, self.cols] = x[self.part]
        out[self.cols, self.rows] = x[self.part]
        return out

    def dual(self, S: np.ndarray) -> np.ndarray:
        """Entries of the linear form X -> tr(S X): off-diagonal ones count twice."""
        return S[self.rows, self.cols] * self.weight

    def congruence(self, G: np.ndarray) -> np.ndarray:
        """Matrix of X -> G X G' on the free entries, shape (size, size)."""
        if self.k == 1:
            return G * G
        first, second = self._straight
        out = G.take(first) * G.take(second)
        if self._crossed is not None:
            first, second = self._crossed
            out += G.take(first) * G.take(second) * self._off
        return out


def minimise_over_cone(
    x0: np.ndarray,
    g: np.ndarray,
    H: np.ndarray,
    blocks: list[ConeBlock],
    max_iterations: int = MOST_ITERATIONS,
) -> np.ndarray:
    """Minimiser of g'(x - x0) + (x - x0)'H(x - x0)/2 over mat_t(x) >= 0.

    Parameters
    ----------
    x0 : ndarray, shape (m,)
        Point at which g and H were taken; its blocks, full ones, are positive semidefinite.
    g, H : ndarrays, shapes (m,), (m, m)
        Gradient and positive definite Hessian.
    blocks : list of ConeBlock

    Returns
    -------
    x : ndarray, shape (m,)
        Directions whose multiplier outweighs the remaining eigenvalue are set to zero exactly.
    """
    X0 = np.zeros((len(blocks), max(b.k for b in blocks), max(b.k for b in blocks)))
    for i, b in enumerate(blocks):
        X0[i, : b.k, : b.k] = b.mat(x0)
    starts = np.array([b.part.start for b in blocks])
    ks = np.array([b.k for b in blocks])
    return x0 + kernels.minimise_over_cone(X0, g, np.ascontiguousarray(H), starts, ks, max_iterations)[0]
