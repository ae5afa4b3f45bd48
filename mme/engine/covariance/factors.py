"""Relative covariance of a random term: theta <-> lam <-> D = lam lam'.

``D`` is the covariance of the random effects of one level divided by the residual variance; ``lam`` is
a lower-triangular factor of it and ``theta`` holds the free entries of ``lam`` column by column (lme4's
order: Bates et al. 2015, J. Stat. Softw. 67(1), section 2.4).  A term is ``"full"`` (all entries of the lower
triangle are free) or ``"diagonal"``.  Zero and singular ``lam`` are ordinary values.
"""

from __future__ import annotations

from typing import cast

import numpy as np

__all__ = ["entries", "factor_psd", "gram_root", "lam_to_theta", "n_theta", "theta_to_lam", "triangular"]


def entries(k: int, kind: str = "full") -> list[tuple[int, int]]:
    """Positions (row, column) of the free entries of a k x k lower-triangular factor, column by column."""
    if kind == "diagonal":
        return [(a, a) for a in range(k)]
    return [(a, b) for b in range(k) for a in range(b, k)]


def n_theta(k: int, kind: str = "full") -> int:
    """Number of covariance parameters of a term with k columns."""
    return k if kind == "diagonal" else k * (k + 1) // 2


def theta_to_lam(theta: np.ndarray, k: int, kind: str = "full") -> np.ndarray:
    """Lower-triangular relative covariance factor, shape (k, k), from its free entries."""
    lam = np.zeros((k, k))
    for value, (a, b) in zip(theta, entries(k, kind), strict=True):
        lam[a, b] = value
    return lam


def lam_to_theta(lam: np.ndarray, kind: str = "full") -> np.ndarray:
    """Free entries of a lower-triangular factor, the inverse of `theta_to_lam`."""
    return np.array([lam[a, b] for a, b in entries(lam.shape[0], kind)])


def factor_psd(D: np.ndarray) -> np.ndarray:
    """Lower-triangular factor with non-negative diagonal of a positive semidefinite matrix.

    Parameters
    ----------
    D : ndarray, shape (k, k)
        Symmetric; eigenvalues below zero (rounding) are taken as zero.

    Returns
    -------
    lam : ndarray, shape (k, k)
        ``lam @ lam.T`` equals D; exact zero pivots stay zero, so a singular D gives a singular lam.
    """
    k = D.shape[0]
    if k == 1:
        return np.sqrt(np.maximum(D, 0.0))
    if not np.any(D - np.diag(np.diag(D))):
        return np.diag(np.sqrt(np.maximum(np.diag(D), 0.0)))
    # scaled to unit diagonal first: columns measured in different units must not hide one another
    scale = np.sqrt(np.maximum(np.diag(D), 0.0))
    safe = np.where(scale > 0, scale, 1.0)
    w, U = np.linalg.eigh(D / np.outer(safe, safe))
    w = np.where(w > 8 * k * np.finfo(float).eps * max(w[-1], 0.0), w, 0.0)
    return triangular(U * np.sqrt(w)) * scale[:, None]


def triangular(root: np.ndarray) -> np.ndarray:
    """Lower-triangular factor, shape (k, k), non-negative diagonal, with the same product ``root @ root.T``.

    The R of a QR of the transpose, so exact rank deficiency survives; rounding residue (1e-14 of a row) is
    set to zero.
    """
    if root.shape == (1, 1):
        return np.abs(root)
    lam = cast(np.ndarray, np.linalg.qr(root.T, mode="r")).T
    lam = np.tril(lam) * np.where(np.diag(lam) < 0, -1.0, 1.0)
    size = np.sqrt(np.sum(lam * lam, axis=1))[:, None]
    return np.where(np.abs(lam) > 1e-14 * size, lam, 0.0)


def gram_root(gram: np.ndarray, kind: str) -> np.ndarray:
    """Upper triangular R with R'R = gram (its diagonal alone for a "diagonal" term), shape (k, k)."""
    d = np.sqrt(np.diag(gram))
    if kind == "diagonal":
        return np.diag(d)
    # collinear columns: a small ridge keeps the root regular
    return np.linalg.cholesky(gram / np.outer(d, d) + 1e-9 * np.eye(d.size)).T * d
