"""Relative covariance of a random term: theta <-> lam <-> D = lam lam'.

``D`` is the covariance of the random effects of one level divided by the residual variance; ``lam`` is
a lower-triangular factor of it and ``theta`` holds the free entries of ``lam`` column by column (lme4's
order: Bates et al. 2015, J. Stat. Softw. 67(1), section 2.4); which entries are free is up to the term's
structure (`mme.engine.covariance.structure`).  Zero and singular ``lam`` are ordinary values.
"""

from __future__ import annotations

import numpy as np

from .structure import FULL, Structure, structure_of, triangular

__all__ = ["entries", "factor_psd", "lam_to_theta", "n_theta", "theta_to_lam", "triangular"]


def entries(k: int, structure: Structure | str = FULL) -> list[tuple[int, int]]:
    """Positions (row, column) of the free entries of a k x k lower-triangular factor, column by column."""
    return structure_of(structure).entries(k)


def n_theta(k: int, structure: Structure | str = FULL) -> int:
    """Number of covariance parameters of a term with k columns."""
    return structure_of(structure).size(k)


def theta_to_lam(theta: np.ndarray, k: int, structure: Structure | str = FULL) -> np.ndarray:
    """Lower-triangular relative covariance factor, shape (k, k), from its free entries."""
    return structure_of(structure).lam(theta, k)


def lam_to_theta(lam: np.ndarray, structure: Structure | str = FULL) -> np.ndarray:
    """Free entries of a lower-triangular factor, the inverse of `theta_to_lam`."""
    return structure_of(structure).theta(lam)


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
