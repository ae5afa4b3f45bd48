"""Derivatives between the free entries of D, of its factor and of R D R'."""

from __future__ import annotations

import numpy as np

__all__ = ["congruence", "factor_jacobian", "turned_gram", "unit_matrix"]


def unit_matrix(a: int, b: int, k: int) -> np.ndarray:
    """dD / d(entry a, b) of a symmetric k x k matrix."""
    E = np.zeros((k, k))
    E[a, b] = E[b, a] = 1.0
    return E


def congruence(R: np.ndarray, entries: list[tuple[int, int]]) -> np.ndarray:
    """d (free entries of R D R') / d (free entries of D), shape (m, m)."""
    K = np.zeros((len(entries), len(entries)))
    for j, (a, b) in enumerate(entries):
        d = np.outer(R[:, a], R[:, b])
        d = d if a == b else d + d.T
        K[:, j] = [d[c, e] for c, e in entries]
    return K


def factor_jacobian(
    lam: np.ndarray, entries: list[tuple[int, int]], R: np.ndarray | None = None
) -> np.ndarray:
    """d (free entries of R lam lam' R') / d (free entries of lam), shape (m, m); R None: identity."""
    R = np.eye(lam.shape[0]) if R is None else R
    inner = R @ lam
    out = np.empty((len(entries), len(entries)))
    for j, (a, b) in enumerate(entries):
        d = np.outer(R[:, a], inner[:, b])
        d = d + d.T
        out[:, j] = [d[c, e] for c, e in entries]
    return out


def turned_gram(gram: np.ndarray, left: np.ndarray | None, right: np.ndarray | None) -> np.ndarray:
    """sum_lm (B'G_lm C)[a, c] (B'G_lm C)[b, d] from the same of G; B left, C right, None: identity."""
    if left is not None:
        gram = np.einsum("ijcd,ia,jb->abcd", gram, left, left)
    if right is not None:
        gram = np.einsum("abkl,kc,ld->abcd", gram, right, right)
    return gram
