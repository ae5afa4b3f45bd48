"""When a covariance counts as singular: one definition for the search, for both doors and for inference.

In units of balanced data: with A'A the mean cross-product of a term's columns per level, the eigenvalues d of
A D A' give the reliabilities d / (1 + d) of its effects.  Below `SINGULAR` an effect, or a combination of
effects, counts as absent.
"""

from __future__ import annotations

from typing import cast

import numpy as np

__all__ = ["SINGULAR", "is_singular", "zero_effects"]

SINGULAR = 1e-8


def is_singular(D: np.ndarray, A: np.ndarray) -> bool:
    """Whether some combination of effects is absent: a zero variance, or perfect correlation.

    Parameters
    ----------
    D : ndarray, shape (k, k)
        Relative covariance.
    A : ndarray, shape (m, k)
        A root of the mean cross-product per level.
    """
    R = cast(np.ndarray, np.linalg.qr(A, mode="r"))
    return bool(D.size) and bool(np.linalg.eigvalsh(R @ D @ R.T)[0] < SINGULAR)


def zero_effects(D: np.ndarray, A: np.ndarray) -> np.ndarray:
    """Which effects have no variance of their own, shape (k,); parameters as in `is_singular`."""
    return np.diag(D) * np.sum(A * A, axis=0) < SINGULAR
