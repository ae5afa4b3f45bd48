"""From the information of a MixedLM's parameters to their covariance.

An uncentred covariate (a calendar year) makes the effects of an intercept and a slope look alike: their
information is nearly singular though every variance is well determined. Where it looks singular it is
therefore formed and inverted in the engine's coordinates, orthonormal fixed effects and D in the basis in
which the random columns are orthonormal, and the covariance is carried back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..engine.equations.equations import Equations
from ..engine.equations.fixed import FixedPart

if TYPE_CHECKING:
    from ..engine.direct.point import Point

__all__ = ["OrthonormalPoint", "invert", "random_basis", "well_conditioned"]

_FLAT = 1e-8  # eigenvalue of the information (unit diagonal) below which a direction is flat


def random_basis(equations: Equations, k_re: int) -> np.ndarray | None:
    """R of the first term, shape (k_re, k_re): its covariance in orthonormal columns is R D R'."""
    if k_re < 2:
        return None
    place = equations.layout.places[0]
    part = slice(place.first, place.first + place.k)
    return equations.basis[place.block][part, part]


def well_conditioned(
    k_fe: int,
    k_vc: int,
    active: np.ndarray,
    basis: np.ndarray | None,
    fixed: FixedPart | None = None,
) -> np.ndarray | None:
    """T with parameters = T times the engine's coordinates, shape (k, k).

    Parameters
    ----------
    k_fe, k_vc : int
        Fixed effects; variance components.
    active : ndarray of bool, shape (k,)
        A part of which some parameters are held stays as it is.
    basis : ndarray, shape (k_re, k_re), or None
        See `random_basis`.
    fixed : FixedPart, optional

    Returns
    -------
    ndarray or None
        None if no part can be changed.
    """
    k = active.size
    T = np.eye(k)
    changed = False
    if fixed is not None and fixed.kept.any() and np.array_equal(active[:k_fe], fixed.kept):
        kept = np.flatnonzero(fixed.kept)
        T[np.ix_(kept, kept)] = fixed.T
        changed = True
    part = slice(k_fe, k - k_vc)
    if basis is not None and active[part].all():
        inverse = np.linalg.inv(basis)
        rows, cols = np.tril_indices(basis.shape[0])
        for i, (a, b) in enumerate(zip(rows, cols, strict=True), start=k_fe):
            E = np.outer(inverse[:, a], inverse[:, b])
            E = E if a == b else E + E.T
            T[part, i] = E[rows, cols]
        changed = True
    return T if changed else None


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


class OrthonormalPoint:
    """A `mme.facade.likelihood.Point` in the engine's coordinates: Q for X, orthonormal columns for Z.

    Parameters
    ----------
    point : Point
    fixed : FixedPart
    inverses : list of ndarray, shapes (k_t, k_t)
        R^-1 of every term.
    """

    def __init__(self, point: Point, fixed: FixedPart, inverses: list[np.ndarray]) -> None:
        self._point, self._T, self._inverses = point, fixed.T, inverses
        self.root = point.root @ fixed.T

    def r2(self, beta: np.ndarray | None = None) -> float:
        """(y - X b)'V^-1(y - X b)."""
        return self._point.r2(beta)

    def nu(self, reml: bool) -> int:
        """Degrees of freedom of the residual variance."""
        return self._point.nu(reml)

    def xvx(self) -> np.ndarray:
        """Q'V^-1 Q, shape (rank, rank)."""
        return self.root.T @ self.root

    def score_beta(self, beta: np.ndarray | None) -> np.ndarray:
        """Q'V^-1 r, shape (rank,)."""
        return self._T.T @ self._point.score_beta(beta)

    def products(self, beta: np.ndarray | None) -> list[np.ndarray]:
        """Z'V^-1 r, per term, shapes (q_t, k_t)."""
        return [z @ inv for z, inv in zip(self._point.products(beta), self._inverses, strict=True)]

    def products_x(self) -> list[np.ndarray]:
        """Z'V^-1 Q, per term, shapes (q_t, k_t, rank)."""
        both = zip(self._point.products_x(), self._inverses, strict=True)
        return [np.einsum("lap,ab,pr->lbr", x, inv, self._T, optimize=True) for x, inv in both]

    def times(self, w: list[np.ndarray]) -> list[np.ndarray]:
        """Z'V^-1 Z w, per term, shapes (q_t, k_t, m)."""
        turned = [np.matmul(inv, v) for inv, v in zip(self._inverses, w, strict=True)]
        return [np.matmul(inv.T, v) for inv, v in zip(self._inverses, self._point.times(turned), strict=True)]

    def quadratic(self, beta: np.ndarray | None) -> list[np.ndarray]:
        """sum_l (Z'V^-1 r)_l (Z'V^-1 r)_l', per term, shapes (k_t, k_t)."""
        return [z.T @ z for z in self.products(beta)]


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
