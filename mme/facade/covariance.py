"""From the information of a MixedLM's parameters to their covariance.

An uncentred covariate (a calendar year) makes the effects of an intercept and a slope look alike: their
information is nearly singular though every variance is well determined. Where it looks singular it is
therefore formed and inverted in the engine's coordinates, orthonormal fixed effects and D in the basis in
which the random columns are orthonormal, and the covariance is carried back.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..engine.covariance.derivatives import congruence
from ..engine.equations.fixed import FixedPart

__all__ = ["invert", "triangle", "well_conditioned"]

_FLAT = 1e-8  # eigenvalue of the information (unit diagonal) below which a direction is flat


def triangle(k: int) -> list[tuple[int, int]]:
    """Free entries of a covariance in statsmodels' order: the lower triangle row by row."""
    return [(a, b) for a in range(k) for b in range(a + 1)]


def well_conditioned(
    k_fe: int, k_re: int, active: np.ndarray, bases: list[np.ndarray], fixed: FixedPart | None = None
) -> np.ndarray | None:
    """T with parameters = T times the engine's coordinates, shape (k, k).

    Parameters
    ----------
    k_fe, k_re : int
        Fixed effects; correlated random effects.
    active : ndarray of bool, shape (k,)
        Parameters that are not held.
    bases : list of ndarray, shapes (k_t, k_t)
        R of every term.
    fixed : FixedPart, optional
        None: the fixed effects stay as they are.

    Returns
    -------
    ndarray or None
        None where the coordinates are the parameters, or mix held ones with others.
    """
    k = active.size
    T = np.eye(k)
    if fixed is not None:
        if not np.array_equal(active[:k_fe], fixed.kept):
            return None
        kept = np.flatnonzero(fixed.kept)
        T[np.ix_(kept, kept)] = fixed.T
    at = k_fe
    for t, R in enumerate(bases):
        inverse = np.linalg.inv(R)
        size = k_re * (k_re + 1) // 2 if t == 0 and k_re else 1
        part = slice(at, at + size)
        if not active[part].all() and np.any(inverse - np.diag(np.diag(inverse))):
            return None
        T[part, part] = congruence(inverse, triangle(R.shape[0]))
        at += size
    return None if np.array_equal(T, np.eye(k)) else T


def invert(
    information: np.ndarray,
    active: np.ndarray,
    coordinates: np.ndarray | None = None,
    inner: Callable[[], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Inverse over the active parameters; NaN elsewhere and in flat or wrongly curved directions.

    Parameters
    ----------
    information : ndarray, shape (k, k)
    active : ndarray of bool, shape (k,)
    coordinates : ndarray, shape (k, k), optional
        From `well_conditioned`.
    inner : callable, optional
        Gives the information in those coordinates; asked for where the parameters' own looks singular.  It
        must not be made from `information`, whose digits are lost there.

    Returns
    -------
    covariance : ndarray, shape (k, k)
    flat : ndarray of int
        Active parameters without a standard error.
    better : ndarray, shape (k, k), or None
        The covariance in those coordinates, if it was found there.
    """
    out, flat = _invert(information, active)
    if flat.size and coordinates is not None and inner is not None:
        better, left = _invert(inner(), active)
        if left.size == 0:
            on = np.ix_(active, active)
            T = coordinates[on]
            out[on] = T @ better[on] @ T.T
            return out, left, better
    return out, flat, None


def _invert(information: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    out = np.full(information.shape, np.nan)
    left = np.flatnonzero(active)
    flat: list[int] = []
    while left.size:
        block = information[np.ix_(left, left)]
        diagonal = np.diag(block)
        bad = ~(diagonal > 0)
        if not bad.any():
            size = np.sqrt(diagonal)
            w, U = np.linalg.eigh(block / np.outer(size, size))
            if w[0] > _FLAT:
                out[np.ix_(left, left)] = (U / w) @ U.T / np.outer(size, size)
                break
            weight = np.abs(U[:, w <= _FLAT]).max(axis=1)
            bad = weight > 0.1 * weight.max()
        flat.extend(left[bad].tolist())
        left = left[~bad]
    return out, np.array(sorted(flat), dtype=np.intp)
