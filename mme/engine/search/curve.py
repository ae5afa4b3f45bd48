"""Coordinates of covariances that are functions of few parameters, and a search in them.

A coordinate is a correlation as it is, or the angle a in  s = tan(a) / scale  of a relative standard
deviation or loading s, scale^2 the mean cross-product of its columns per level: 1 - cos(a)^2 is the
reliability that the effect has by itself.  A deviation of zero (a = 0) and a residual variance of zero
(a = pi / 2) are then both stationary or one-sided points at a finite distance, and steps near them are steps
of a smooth function.  With N = d deviance / d D and the average information in the entries of D,

    g_i = <N, D_i>,      H_ij = <D_i, information D_j> + <N, D_ij>,

D_i, D_ij the derivatives of D.  Unlike the cone of all covariances the set is not convex: at a stationary
point the curvature is looked at, and a negative one followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..covariance.boundary import SINGULAR
from ..covariance.factors import factor_psd
from ..covariance.patterns import Pattern
from ..covariance.structure import triangular
from ..equations.equations import Equations
from ..equations.layout import Layout
from .evaluation import Evaluation

__all__ = ["Curve", "Spot", "is_curved"]

MOST_RATIO = 1e5  # standard deviation of an effect, seen in a level, over the residual's
_STEEPEST = float(np.arctan(MOST_RATIO))


def is_curved(layout: Layout) -> bool:
    """Whether some term's covariance is a function of fewer parameters."""
    return any(place.structure.curved for place in layout.places)


@dataclass(frozen=True, eq=False)
class _Share:
    """One term's part of the coordinates."""

    part: slice
    kinds: tuple[str, ...]
    scale: np.ndarray


@dataclass(frozen=True, eq=False)
class Spot:
    """A point of the search: coordinates, theta of the equations' basis, and R dD R' in the coordinates.

    Attributes
    ----------
    x : ndarray, shape (m,)
    theta : ndarray, shape (n_theta,)
    first, second : list of ndarray, shapes (m_t, k_t, k_t), (m_t, m_t, k_t, k_t)
        Derivatives of R D R' in the term's own coordinates.
    """

    x: np.ndarray
    theta: np.ndarray
    first: list[np.ndarray]
    second: list[np.ndarray]

    @property
    def directions(self) -> list[tuple[int, np.ndarray]]:
        """Term and change of R D R' of every coordinate."""
        return [(t, change) for t, changes in enumerate(self.first) for change in changes]


@dataclass(frozen=True, eq=False)
class Curve:
    """The coordinates of a model.

    Attributes
    ----------
    eq : Equations
    shares : list of _Share
    low, high : ndarray, shape (m,)
        Bounds; equal for a coordinate that is held.
    """

    eq: Equations
    shares: list[_Share]
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, eq: Equations) -> Curve:
        """The coordinates of a model's terms, one after another."""
        shares, lows, highs, start = [], [], [], 0
        for t, place in enumerate(eq.layout.places):
            structure, gram = place.structure, eq.term_gram(t)
            if isinstance(structure, Pattern):
                R = eq.term_basis(t)
                size = np.sqrt(np.diag(R.T @ gram @ R))
                size = np.where(size > 0.0, size, size.max())
                kinds = structure.kinds(place.k)
                scale = _scales(structure, place.k, kinds, size)
                low, high = structure.bounds(place.k)
            else:
                kinds = ["loading"] * len(place.entries)
                size = np.sqrt(np.diag(gram))
                scale = np.array([size[a] for a, _ in place.entries])
                low, high = np.full(len(kinds), -np.inf), np.full(len(kinds), np.inf)
            angle = np.array([kind != "cor" for kind in kinds])
            lows.append(np.where(angle, np.maximum(low, -_STEEPEST), low))
            highs.append(np.where(angle, np.minimum(high, _STEEPEST), high))
            shares.append(_Share(slice(start, start + len(kinds)), tuple(kinds), scale))
            start += len(kinds)
        return cls(eq, shares, np.concatenate(lows), np.concatenate(highs))

    @property
    def m(self) -> int:
        """Number of coordinates."""
        return self.low.size

    @property
    def held(self) -> np.ndarray:
        """Which coordinates cannot move, shape (m,)."""
        return self.low == self.high

    def hold(self, t: int, i: int, value: float) -> Curve:
        """With a term's parameter held at a value (of a correlation, or zero)."""
        low, high = self.low.copy(), self.high.copy()
        j = self.shares[t].part.start + i
        low[j] = high[j] = value
        return replace(self, low=low, high=high)

    def respond(self, eq: Equations) -> Curve:
        """The same of other responses' equations."""
        return replace(self, eq=eq)

    def clipped(self, x: np.ndarray) -> np.ndarray:
        """Within the bounds."""
        return np.clip(x, self.low, self.high)

    def coordinates(self, theta: np.ndarray) -> np.ndarray:
        """Coordinates of a theta of the equations' basis, or of one that is near and of the structures."""
        x = np.zeros(self.m)
        for t, (place, share) in enumerate(zip(self.eq.layout.places, self.shares, strict=True)):
            inner = place.structure.lam(theta[place.theta], place.k)
            if isinstance(place.structure, Pattern):
                lam = np.linalg.solve(self.eq.term_basis(t), inner)
                values = place.structure.coordinates(lam @ lam.T)
            else:
                values = place.structure.theta(inner)
            x[share.part] = self.angles(t, values)
        return self.clipped(x)

    def angles(self, t: int, values: np.ndarray) -> np.ndarray:
        """Coordinates of a term's parameters."""
        share = self.shares[t]
        angle = np.array([kind != "cor" for kind in share.kinds])
        return np.where(angle, np.arctan(values * share.scale), values)

    def parameters(self, x: np.ndarray) -> list[np.ndarray]:
        """Every term's parameters at coordinates."""
        return [_values(share, x[share.part])[0] for share in self.shares]

    def spot(self, x: np.ndarray) -> Spot:
        """The point of coordinates, with all that is asked for there."""
        theta = np.zeros(self.eq.layout.n_theta)
        first, second = [], []
        for t, (place, share) in enumerate(zip(self.eq.layout.places, self.shares, strict=True)):
            values, slope, bend = _values(share, x[share.part])
            structure = place.structure
            if isinstance(structure, Pattern):
                R = self.eq.term_basis(t)
                jet = structure.covariance(values, place.k)
                root = R @ factor_psd(jet.value)
                inner = np.abs(root) if place.k == 1 else triangular(root)
                d1, d2 = R @ jet.first @ R.T, R @ jet.second @ R.T
            else:
                inner = structure.lam(values, place.k)
                d1, d2 = _factor_derivatives(inner, place.entries)
            theta[place.theta] = structure.theta(inner)
            second.append(d2 * np.multiply.outer(slope, slope)[:, :, None, None])
            for i in range(values.size):
                second[-1][i, i] += bend[i] * d1[i]
            first.append(d1 * slope[:, None, None])
        return Spot(np.array(x), theta, first, second)

    def model(
        self, spot: Spot, evaluation: Evaluation, along: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradient, Hessian, and the average information's share of its diagonal.

        Parameters
        ----------
        spot : Spot
        evaluation : Evaluation
            Of order 2 there.
        along : bool
            Its information is in `Spot.directions`, not in the entries of R D R'.
        """
        N_all, info = evaluation.derivatives()
        places = self.eq.layout.places
        g, bend = np.empty(self.m), np.zeros((self.m, self.m))
        for share, N, d1, d2 in zip(self.shares, N_all, spot.first, spot.second, strict=True):
            g[share.part] = np.einsum("iab,ab->i", d1, N)
            bend[share.part, share.part] = np.einsum("ijab,ab->ij", d2, N)
        gauss = info
        if not along:
            J = np.zeros((self.eq.layout.n_theta, self.m))
            for place, share, d1 in zip(places, self.shares, spot.first, strict=True):
                rows, columns = np.array(place.entries).T
                J[place.theta, share.part] = d1[:, rows, columns].T
            gauss = J.T @ info @ J
        gauss = 0.5 * (gauss + gauss.T)
        return g, gauss + bend, np.diag(gauss).copy()

    def units(self) -> np.ndarray:
        """Information of balanced data that a coordinate of reliability one half has about itself, (m,)."""
        out = np.empty(self.m)
        for place, share in zip(self.eq.layout.places, self.shares, strict=True):
            out[share.part] = self.eq.layout.blocks[place.block].q
        return out

    def singular_terms(self, spot: Spot) -> list[int]:
        """Terms with a covariance at the boundary of its structure."""
        out = []
        for t, place in enumerate(self.eq.layout.places):
            inner = place.structure.lam(spot.theta[place.theta], place.k)
            s = np.linalg.svd(self.eq.term_root(t) @ inner, compute_uv=False)
            if place.structure.is_singular(s * s, SINGULAR):
                out.append(t)
        return out

    def starts(self, x: np.ndarray, count: int = 0, seed: int = 0) -> list[np.ndarray]:
        """Places to look at around coordinates: other correlations, other loadings, and random ones."""
        out = [x]
        for correlation in (0.5, 0.9, -0.3):
            out.append(self._varied(x, correlation))
        rng = np.random.default_rng(seed)
        for _ in range(count):
            out.append(self._random(rng))
        return [self.clipped(start) for start in out]

    def _varied(self, x: np.ndarray, correlation: float) -> np.ndarray:
        x = x.copy()
        for place, share in zip(self.eq.layout.places, self.shares, strict=True):
            if not isinstance(place.structure, Pattern):
                continue
            own = x[share.part].copy()
            kinds = np.array(share.kinds)
            correlations = np.flatnonzero(kinds == "cor")
            if correlations.size:
                own[correlations] = 0.0
                own[correlations[0]] = correlation
            loadings = np.flatnonzero(kinds == "loading")
            if loadings.size:
                # columns of L that differ: a common factor, then waves of growing frequency
                typical = float(np.max(np.abs(own))) or 0.5
                wave = np.cos(np.arange(loadings.size) * (1.0 - correlation) * np.pi)
                first = np.arange(loadings.size) < place.k
                own[loadings] = np.where(first, typical * (0.7 + 0.3 * wave), 0.5 * typical * wave)
            x[share.part] = own
        return x

    def _random(self, rng: np.random.Generator) -> np.ndarray:
        x = np.empty(self.m)
        for share in self.shares:
            for i, kind in enumerate(share.kinds, start=share.part.start):
                reach = rng.uniform(0.05, 1.5) if kind == "sd" else rng.uniform(-0.95, 0.95)
                x[i] = 1.4 * reach if kind == "loading" else reach
        return x


def _scales(structure: Pattern, k: int, kinds: Sequence[str], size: np.ndarray) -> np.ndarray:
    """Root of the mean cross-product of the columns that each parameter is about; 1 for correlations."""
    deviations = [kind for kind in kinds if kind == "sd"]
    if len(deviations) == 1:
        of = [float(np.sqrt(np.mean(size * size)))]
    elif deviations:
        of = list(size)
    else:
        of = [size[a] for a, _ in structure.shown(k)][: len(kinds)]
    return np.array([*of, *([1.0] * (len(kinds) - len(of)))])


def _values(share: _Share, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A term's parameters with their two derivatives in the coordinates."""
    angle = np.array([kind != "cor" for kind in share.kinds])
    tangent = np.tan(np.where(angle, x, 0.0))
    square = 1.0 + tangent * tangent
    value = np.where(angle, tangent / share.scale, x)
    return (
        value,
        np.where(angle, square / share.scale, 1.0),
        np.where(angle, 2.0 * tangent * square, 0.0) / share.scale,
    )


def _factor_derivatives(
    inner: np.ndarray, entries: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Of inner inner' in the free entries of inner."""
    k, m = inner.shape[0], len(entries)
    units = np.zeros((m, k, k))
    for i, (a, b) in enumerate(entries):
        units[i, a, b] = 1.0
    first = units @ inner.T
    second = np.einsum("iad,jbd->ijab", units, units)
    return first + first.transpose(0, 2, 1), second + second.transpose(0, 1, 3, 2)
