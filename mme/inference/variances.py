"""Covariance of the estimated variances, from the exact Hessian of the deviance.

The parameters are T = sigma2 D (the free entries of every term's covariance) and sigma2.  Where a covariance
is singular the directions that are at the boundary are held there: with D = U diag(d) U' of rank r and U0 its
null space, D moves as (U + U0 B)(diag(d) + A)(U + U0 B)', the covariances of rank r, on which the deviance
has an ordinary minimum.  Its curvature in B has a share of the gradient N = d deviance / dD in the null
directions, 2 tr(B' U0'N U0 B diag(d)): the Hessian of the Lagrangian.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine.covariance.boundary import SINGULAR
from ..engine.covariance.derivatives import congruence
from ..engine.covariance.structure import Structure
from ..engine.direct.hessian import Direction, deviance_hessian, second_derivatives
from ..engine.equations.equations import Equations
from ..fit.fitted import Fitted

__all__ = ["VarianceCovariance", "variance_covariance"]

_FLAT = 1e-8  # eigenvalue of the Hessian (unit diagonal) from which a direction counts as curved


@dataclass(frozen=True, eq=False)
class VarianceCovariance:
    """Estimates of (co)variances and their covariance.

    Attributes
    ----------
    estimate : ndarray, shape (m + 1,)
        Free entries of sigma2 D of every term, in the order of theta; sigma2 last.
    covariance : ndarray, shape (m + 1, m + 1)
        Zero for entries that do not move along the boundary; NaN where the likelihood is flat.
    """

    estimate: np.ndarray
    covariance: np.ndarray

    @property
    def se(self) -> np.ndarray:
        """Standard errors, shape (m + 1,); NaN for what is held at the boundary, or not told by the data."""
        variance = np.diag(self.covariance)
        return np.where(variance > 0.0, np.sqrt(np.where(variance > 0.0, variance, 0.0)), np.nan)


def variance_covariance(fitted: Fitted) -> VarianceCovariance:
    """Covariance of the estimates of (co)variances and residual variance of a direct fit.

    Parameters
    ----------
    fitted : Fitted

    Returns
    -------
    VarianceCovariance

    Raises
    ------
    InferenceError
        The fit has no factorization.
    """
    point = fitted.point("The covariance of the variances", standard=True)
    eq = point.equations
    places, s2 = eq.layout.places, fitted.sigma2
    # all in the equations' basis, where R D R' stands for D and nothing is nearly singular by its columns
    m = eq.layout.n_theta
    free = _Free(eq, fitted.lam, [-2.0 * slope for slope in point.slope()])
    J = np.zeros((m + 1, free.J.shape[1] + 1))
    J[:m, :-1], J[m, -1] = free.J, 1.0
    second = second_derivatives(point, free.moves, fitted.reml, turns=free.turns)
    information = deviance_hessian(second, point.r2(), fitted.nu)
    information[:-1, :-1] += free.curvature
    # from (D, sigma2) to (sigma2 D, sigma2) on the scale of the design's columns
    back = np.zeros((m, m))
    D = np.zeros(m)
    for t, (place, lam) in enumerate(zip(places, fitted.lam, strict=True)):
        back[place.theta, place.theta] = congruence(np.linalg.inv(eq.term_basis(t)), place.entries)
        own = lam @ lam.T
        D[place.theta] = [own[a, b] for a, b in place.entries]
    G = np.zeros((m + 1, m + 1))
    G[:m, :m], G[:m, m], G[m, m] = s2 * back, D, 1.0
    moved = G @ J
    covariance = 2.0 * moved @ _inverse(information) @ moved.T
    return VarianceCovariance(np.r_[s2 * D, s2], 0.5 * (covariance + covariance.T))


class _Free:
    """Coordinates along the boundary: J (m, f) to the entries of R D R', and the curvature (f, f).

    A coordinate is a direction turns[t] E turns[t]' of a term, (t, E) in `moves`.
    """

    def __init__(self, eq: Equations, lams: tuple[np.ndarray, ...], N: list[np.ndarray]) -> None:
        parts, curvatures = [], []
        self.moves: list[Direction] = []
        self.turns: list[np.ndarray] = []
        for t, (place, lam) in enumerate(zip(eq.layout.places, lams, strict=True)):
            turn, moves, J, curvature = _free_directions(
                place.structure, eq.term_basis(t) @ lam, eq.term_root(t), N[t], place.entries
            )
            self.turns.append(turn)
            self.moves += [(t, E) for E in moves]
            parts.append(J)
            curvatures.append(curvature)
        sizes = [J.shape for J in parts]
        self.J = np.zeros((sum(a for a, _ in sizes), sum(b for _, b in sizes)))
        self.curvature = np.zeros((self.J.shape[1], self.J.shape[1]))
        row = column = 0
        for J, C in zip(parts, curvatures, strict=True):
            rows, columns = slice(row, row + J.shape[0]), slice(column, column + J.shape[1])
            self.J[rows, columns], self.curvature[columns, columns] = J, C
            row, column = rows.stop, columns.stop


def _free_directions(
    structure: Structure, inner: np.ndarray, root: np.ndarray, N: np.ndarray, entries: list[tuple[int, int]]
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    """One term's share of `_Free`; inner inner' = R D R'."""
    k = inner.shape[0]
    U, s = structure.eigen(root @ inner)
    turn = np.linalg.solve(root, U)
    moves: list[np.ndarray] = []
    labels: list[tuple[int, int] | None] = []
    d = s * s
    for block in structure.blocks(k):
        on = [i for i in block if d[i] >= SINGULAR]
        off = [i for i in block if d[i] < SINGULAR]
        for j, b in enumerate(on):
            for a in on[j:]:
                moves.append(_symmetric(a, b, k))
                labels.append(None)
        for b in on:
            for a in off:
                moves.append(d[b] * _symmetric(a, b, k))
                labels.append((a, b))
    J = np.zeros((len(entries), len(moves)))
    for i, move in enumerate(moves):
        turned = turn @ move @ turn.T
        J[:, i] = [turned[a, b] for a, b in entries]
    null = turn.T @ N @ turn
    curvature = np.zeros((len(moves), len(moves)))
    for i, first in enumerate(labels):
        for j, second in enumerate(labels):
            if first is not None and second is not None and first[1] == second[1]:
                # d2 / dB_a dB_c of tr(N U0 B diag(d) B' U0')
                curvature[i, j] = 2.0 * d[first[1]] * null[first[0], second[0]]
    return turn, moves, J, curvature


def _symmetric(a: int, b: int, k: int) -> np.ndarray:
    E = np.zeros((k, k))
    E[a, b] = E[b, a] = 1.0
    return E


def _inverse(information: np.ndarray) -> np.ndarray:
    """Inverse on one scale; NaN where it is not positive definite."""
    size = np.sqrt(np.maximum(np.diag(information), 0.0))
    if not np.all(size > 0.0):
        return np.full(information.shape, np.nan)
    w, V = np.linalg.eigh(information / np.outer(size, size))
    if w[0] <= _FLAT:
        return np.full(information.shape, np.nan)
    return (V / w) @ V.T / np.outer(size, size)
