"""Covariance of the estimated variances, from the exact Hessian of the deviance.

The parameters are T = sigma2 D (the free entries of every term's covariance) and sigma2.  Where a covariance
is singular the directions that are at the boundary are held there: with D = U diag(d) U' of rank r and U0 its
null space, D moves as (U + U0 B)(diag(d) + A)(U + U0 B)', the covariances of rank r, on which the deviance
has an ordinary minimum.  Its curvature in B has a share of the gradient N = d deviance / dD in the null
directions, 2 tr(B' U0'N U0 B diag(d)): the Hessian of the Lagrangian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..engine.covariance.boundary import SINGULAR
from ..engine.covariance.derivatives import congruence, unit_matrix
from ..engine.covariance.patterns import Pattern
from ..engine.covariance.structure import Structure
from ..engine.direct.hessian import (
    Direction,
    MarginalProducts,
    SecondDerivatives,
    deviance_hessian,
    entry_directions,
    second_derivatives,
)
from ..engine.equations.equations import Equations
from ..fit.fitted import Fitted

__all__ = [
    "Around",
    "FreeDirections",
    "InnerCovariance",
    "PatternMoves",
    "VarianceCovariance",
    "expected_covariance",
    "inner_directions",
    "inverse_along",
    "natural_information",
    "observed_covariance",
    "singular_terms",
    "variance_covariance",
]

_FLAT = 1e-8  # eigenvalue of the Hessian (unit diagonal) from which a direction counts as curved
_TOLD = (
    1e-5  # change along a flat direction, over the standard error, up to which an entry is told all the same
)
_BLIND = 1e-8  # the same where a quadratic form in the inverse must not be left to rounding


class Around(MarginalProducts, Protocol):
    """The likelihood around an estimate, in the equations' basis: exact, or of an iterative fit."""

    @property
    def equations(self) -> Equations:
        """The cross-products."""

    def r2(self) -> float:
        """Residual sum of squares in the metric V^-1."""

    def slope(self) -> list[np.ndarray]:
        """dl/dD per term, residual variance profiled out."""

    def trace_slope(self) -> list[np.ndarray]:
        """d/dD of -1/2 (log|V| [+ log|X'V^-1 X|]) per term."""


@dataclass(frozen=True, eq=False)
class VarianceCovariance:
    """Estimates of (co)variances and their covariance.

    Attributes
    ----------
    estimate : ndarray, shape (m + 1,)
        Free entries of sigma2 D of every term, in the order of theta; sigma2 last.
    covariance : ndarray, shape (m + 1, m + 1)
        Zero for entries that do not move along the boundary; NaN for those that the likelihood does not tell.
    told : ndarray, shape (m + 1, m + 1)
        `covariance` along the directions that the data tell, without NaN.
    blind : ndarray, shape (m + 1, f)
        The other directions, as in `InnerCovariance`.
    """

    estimate: np.ndarray
    covariance: np.ndarray
    told: np.ndarray
    blind: np.ndarray

    @property
    def se(self) -> np.ndarray:
        """Standard errors, shape (m + 1,); NaN for what is held at the boundary, or not told by the data."""
        variance = np.diag(self.covariance)
        return np.where(variance > 0.0, np.sqrt(np.where(variance > 0.0, variance, 0.0)), np.nan)


@dataclass(frozen=True, eq=False)
class InnerCovariance:
    """Covariance of the estimates of R D R' and sigma2, in the equations' basis.

    Attributes
    ----------
    covariance : ndarray, shape (m + 1, m + 1)
        Of the free entries of R D R' of every term, in the order of theta, and sigma2, along the directions
        that the data tell.
    blind : ndarray, shape (m + 1, f)
        Directions along which the likelihood is flat, each as long as a standard error would be if it had
        the curvature of its entries.
    singular : tuple of int
        Terms of the design whose covariance is at the boundary.
    """

    covariance: np.ndarray
    blind: np.ndarray
    singular: tuple[int, ...]


def inner_directions(eq: Equations) -> list[Direction]:
    """Directions of the free entries of R D R' of every term."""
    return [d for t, p in enumerate(eq.layout.places) for d in entry_directions(t, p.entries, p.k)]


def observed_covariance(
    fitted: Fitted, point: Around, second: SecondDerivatives, flat: float = _BLIND
) -> InnerCovariance:
    """From the exact Hessian of the deviance, along the covariances of the rank that was found.

    Parameters
    ----------
    fitted : Fitted
    point : Around
        `fitted.point(..., standard=True)`, or `fitted.iterative_point`.
    second : SecondDerivatives
        In the directions of `inner_directions`.
    flat : float
        Curvature, beside that of the entries alone, up to which a direction is `blind`.

    Returns
    -------
    InnerCovariance
    """
    free = FreeDirections(point, fitted.lam)
    m = second.slope.size
    J = np.zeros((m + 1, free.J.shape[1] + 1))
    J[:m, :-1], J[m, -1] = free.J, 1.0
    if free.turned:
        # large and no variance in one term: their directions are turned apart before products are taken
        own = second_derivatives(point, free.directions, fitted.reml, turns=free.turns)
        information = deviance_hessian(own, point.r2(), fitted.nu)
    else:
        information = J.T @ deviance_hessian(second, point.r2(), fitted.nu) @ J
    information[:-1, :-1] += free.curvature
    natural = np.einsum("ij,ik,kj->j", J, natural_information(fitted, point), J)
    covariance, blind = inverse_along(information, natural, flat)
    return InnerCovariance(2.0 * J @ covariance @ J.T, J @ blind, free.singular)


def expected_covariance(fitted: Fitted, point: Around, second: SecondDerivatives) -> InnerCovariance:
    """From the expected information of all entries, at the boundary or not.

    Parameters and result as of `observed_covariance`: 2 [tr(P V_i P V_j)]^-1, V linear in the parameters, or
    along the tangents of structures with fewer.
    """
    m, s2 = second.slope.size, fitted.sigma2
    single = np.zeros(m)
    slopes = point.trace_slope()
    for i, (t, E) in enumerate(inner_directions(point.equations)):
        single[i] = -2.0 * float(np.sum(E * slopes[t]))
    information = np.empty((m + 1, m + 1))
    information[:m, :m] = second.traces
    information[:m, m] = information[m, :m] = single / s2
    information[m, m] = fitted.nu / s2**2
    natural, singular = natural_information(fitted, point), singular_terms(point, fitted.lam)
    if any(place.structure.curved for place in point.equations.layout.places):
        J = _along(point, fitted.lam)
        covariance, blind = inverse_along(J.T @ information @ J, np.diag(J.T @ natural @ J), _BLIND)
        return InnerCovariance(2.0 * J @ covariance @ J.T, J @ blind, singular)
    covariance, blind = inverse_along(information, np.diag(natural), _BLIND)
    return InnerCovariance(2.0 * covariance, blind, singular)


def singular_terms(point: Around, lams: tuple[np.ndarray, ...]) -> tuple[int, ...]:
    """Terms whose covariance is at the boundary."""
    eq = point.equations
    return tuple(
        t
        for t, (place, lam) in enumerate(zip(eq.layout.places, lams, strict=True))
        if _moves(place.structure, eq.term_basis(t), lam, eq.term_root(t)).singular
    )


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
    directions = inner_directions(eq)
    m = len(directions)
    inner = observed_covariance(fitted, point, second_derivatives(point, directions, fitted.reml), _FLAT)
    # from (D, sigma2) to (sigma2 D, sigma2) on the scale of the design's columns
    back = np.zeros((m, m))
    D = np.zeros(m)
    for t, (place, lam) in enumerate(zip(places, fitted.lam, strict=True)):
        back[place.theta, place.theta] = congruence(np.linalg.inv(eq.term_basis(t)), place.entries)
        own = lam @ lam.T
        D[place.theta] = [own[a, b] for a, b in place.entries]
    G = np.zeros((m + 1, m + 1))
    G[:m, :m], G[:m, m], G[m, m] = s2 * back, D, 1.0
    told = G @ inner.covariance @ G.T
    told, blind = 0.5 * (told + told.T), G @ inner.blind
    covariance = told.copy()
    unknown = np.any(np.abs(blind) > _TOLD * np.sqrt(np.diag(told))[:, None], axis=1)
    covariance[unknown, :] = covariance[:, unknown] = np.nan
    return VarianceCovariance(np.r_[s2 * D, s2], covariance, told, blind)


class FreeDirections:
    """Coordinates along the boundary: J (m, f) to the entries of R D R', and the curvature (f, f).

    A coordinate is a direction turns[t] E turns[t]' of a term, (t, E) in `directions`.
    """

    def __init__(self, point: Around, lams: tuple[np.ndarray, ...]) -> None:
        eq = point.equations
        parts, curvatures, singular = [], [], []
        N: list[np.ndarray] | None = None
        self.turns: list[np.ndarray] = []
        self.directions: list[Direction] = []
        for t, (place, lam) in enumerate(zip(eq.layout.places, lams, strict=True)):
            moves = _moves(place.structure, eq.term_basis(t), lam, eq.term_root(t))
            if moves.singular:
                singular.append(t)
            bent = moves.singular or place.structure.curved
            if bent and N is None:
                N = [-2.0 * slope for slope in point.slope()]
            parts.append(moves.entries(place.entries))
            curvatures.append(moves.curvature(N[t] if bent and N is not None else None))
            self.turns.append(moves.back @ moves.U)
            self.directions += [(t, E) for E in moves.units]
        self.singular = tuple(singular)
        places = eq.layout.places
        self.turned = any(places[t].k > 1 and not places[t].structure.curved for t in singular)
        sizes = [J.shape for J in parts]
        self.J = np.zeros((sum(a for a, _ in sizes), sum(b for _, b in sizes)))
        self.curvature = np.zeros((self.J.shape[1], self.J.shape[1]))
        row = column = 0
        for J, C in zip(parts, curvatures, strict=True):
            rows, columns = slice(row, row + J.shape[0]), slice(column, column + J.shape[1])
            self.J[rows, columns], self.curvature[columns, columns] = J, C
            row, column = rows.stop, columns.stop


class _Moves:
    """One term's share of `FreeDirections`; inner inner' = R D R'."""

    def __init__(self, structure: Structure, inner: np.ndarray, root: np.ndarray) -> None:
        k = inner.shape[0]
        self.U, s = structure.eigen(root @ inner)
        self.back = np.linalg.inv(root)
        self.moves: list[np.ndarray] = []
        self.units: list[np.ndarray] = []  # U' move U
        self.labels: list[tuple[int, int] | None] = []
        U, d = self.U, s * s
        self.d = d
        self.singular = bool(np.any(d < SINGULAR))
        for block in structure.blocks(k):
            on = [i for i in block if d[i] >= SINGULAR]
            off = [i for i in block if d[i] < SINGULAR]
            for j, b in enumerate(on):
                for a in on[j:]:
                    turn = np.outer(U[:, b], U[:, a]) if a != b else 0.0
                    self.moves.append(np.outer(U[:, a], U[:, b]) + turn)
                    self.units.append(unit_matrix(a, b, k))
                    self.labels.append(None)
            for b in on:
                for a in off:
                    self.moves.append(d[b] * (np.outer(U[:, a], U[:, b]) + np.outer(U[:, b], U[:, a])))
                    self.units.append(d[b] * unit_matrix(a, b, k))
                    self.labels.append((a, b))

    def entries(self, entries: list[tuple[int, int]]) -> np.ndarray:
        """The moves in the free entries of R D R', shape (m, f)."""
        J = np.zeros((len(entries), len(self.moves)))
        for i, move in enumerate(self.moves):
            turned = self.back @ move @ self.back.T
            J[:, i] = [turned[a, b] for a, b in entries]
        return J

    def curvature(self, N: np.ndarray | None) -> np.ndarray:
        """The Lagrangian's share of the Hessian, shape (f, f); N: the gradient, if anything is held."""
        out = np.zeros((len(self.moves), len(self.moves)))
        if N is None:
            return out
        null = self.U.T @ (self.back.T @ N @ self.back) @ self.U
        for i, first in enumerate(self.labels):
            for j, second in enumerate(self.labels):
                if first is not None and second is not None and first[1] == second[1]:
                    # d2 / dB_a dB_c of tr(N U0 B diag(d) B' U0')
                    out[i, j] = 2.0 * self.d[first[1]] * null[first[0], second[0]]
        return out


class PatternMoves:
    """As `_Moves`, of a covariance that is a function of few parameters: along those that are at no bound."""

    def __init__(self, structure: Pattern, basis: np.ndarray, lam: np.ndarray, root: np.ndarray) -> None:
        k = lam.shape[0]
        D = lam @ lam.T
        x = structure.coordinates(D)
        jet = structure.covariance(x, k)
        low, high = structure.bounds(k)
        kinds = np.array(structure.kinds(k))
        size = float(np.trace(root @ basis @ D @ basis.T @ root.T)) / k
        # a deviation in units of balanced data, a correlation beside the length of its interval
        scale = np.sqrt(np.mean(np.sum((root @ basis) ** 2, axis=0)))
        at_zero = (kinds == "sd") & ((x * scale) ** 2 < SINGULAR)
        at_end = (kinds == "cor") & ((x - low < SINGULAR) | (high - x < SINGULAR))
        moves = np.max(np.abs(jet.first), axis=(1, 2)) > 0.0 if size > 0.0 else np.zeros(x.size, dtype=bool)
        free = np.flatnonzero(~at_zero & ~at_end & moves)
        eigenvalues = np.linalg.eigvalsh(root @ basis @ D @ basis.T @ root.T)
        self.singular = bool(at_zero.any() or at_end.any()) or structure.is_singular(eigenvalues, SINGULAR)
        self.U, self.back = np.eye(k), np.eye(k)
        self.units = list(basis @ jet.first[free] @ basis.T)
        self._second = basis @ jet.second[np.ix_(free, free)] @ basis.T

    def entries(self, entries: list[tuple[int, int]]) -> np.ndarray:
        """The moves in the free entries of R D R', shape (m, f)."""
        rows, columns = np.array(entries).T
        return np.array([unit[rows, columns] for unit in self.units]).reshape(-1, len(entries)).T

    def curvature(self, N: np.ndarray | None) -> np.ndarray:
        """<N, second derivatives of R D R'>, shape (f, f)."""
        assert N is not None
        return np.einsum("ijab,ab->ij", self._second, N)


def _moves(
    structure: Structure, basis: np.ndarray, lam: np.ndarray, root: np.ndarray
) -> _Moves | PatternMoves:
    if isinstance(structure, Pattern):
        return PatternMoves(structure, basis, lam, root)
    return _Moves(structure, basis @ lam, root)


def _along(point: Around, lams: tuple[np.ndarray, ...]) -> np.ndarray:
    """Columns in the entries of R D R' and sigma2: all entries of a term, or the moves of its structure."""
    eq = point.equations
    blocks = []
    for t, (place, lam) in enumerate(zip(eq.layout.places, lams, strict=True)):
        if place.structure.curved:
            moves = _moves(place.structure, eq.term_basis(t), lam, eq.term_root(t))
            blocks.append(moves.entries(place.entries))
        else:
            blocks.append(np.eye(len(place.entries)))
    m = sum(block.shape[0] for block in blocks)
    J = np.zeros((m + 1, sum(block.shape[1] for block in blocks) + 1))
    row = column = 0
    for block in blocks:
        J[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    J[-1, -1] = 1.0
    return J


def natural_information(fitted: Fitted, point: Around) -> np.ndarray:
    """Information of balanced data without other terms: beside it rounding is small, shape (m + 1, m + 1)."""
    eq = point.equations
    directions = inner_directions(eq)
    out = np.zeros((len(directions) + 1, len(directions) + 1))
    out[-1, -1] = fitted.nu / fitted.sigma2**2
    for t, (place, lam) in enumerate(zip(eq.layout.places, fitted.lam, strict=True)):
        root, inner = eq.term_root(t), eq.term_basis(t) @ lam
        A = root.T @ np.linalg.solve(np.eye(place.k) + root @ inner @ inner.T @ root.T, root)
        turned = [E @ A for s, E in directions if s == t]
        q = eq.layout.blocks[place.block].q
        out[place.theta, place.theta] = [[q * float(np.sum(a * b.T)) for b in turned] for a in turned]
    return out


def inverse_along(information: np.ndarray, natural: np.ndarray, flat: float) -> tuple[np.ndarray, np.ndarray]:
    """Inverse along the directions that are curved, and those that are not (f columns); on one scale."""
    # a coordinate that is flat itself has a diagonal of rounding alone, which is no scale
    own = np.diag(information)
    size = np.sqrt(np.where(own > flat * natural, own, natural))
    w, V = np.linalg.eigh(information / np.outer(size, size))
    curved = w > flat
    V = V / size[:, None]
    return (V[:, curved] / w[curved]) @ V[:, curved].T, V[:, ~curved]
