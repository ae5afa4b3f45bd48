"""Responses drawn from a fit: from its distributions, or from its own residuals and modes, or its clusters.

Draw i of a seed depends on the two alone (`stream`): draws may be made in any order, by anyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..engine.equations.design import Design, RandomTerm
from ..engine.runtime.scipys import scipy_module
from ..exceptions import InferenceError
from ..fit.fitted import Fitted
from ..fit.residual import ResidualFit, refuse_structure

__all__ = [
    "Clusters",
    "ParametricDraws",
    "ResidualDraws",
    "rows_of_fit",
    "simulate",
    "stream",
    "take_rows",
]

_ABSENT = 1e-10  # eigenvalue of an empirical covariance, beside the largest, that counts as zero


def stream(seed: int, i: int) -> np.random.Generator:
    """Random numbers of draw i."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))


def rows_of_fit(fitted: Fitted, what: str) -> Design:
    """The design, where the rows are still there.

    Raises
    ------
    InferenceError
    """
    if fitted.design is None:
        raise InferenceError(f"{what} needs the design, and the data were removed.")
    return fitted.design


def simulate(design: Design, fitted: Fitted, rng: np.random.Generator) -> np.ndarray:
    """One response of the fitted model, shape (n,)."""
    return ParametricDraws.of(design, fitted).from_stream(rng)


@dataclass(frozen=True, eq=False)
class ParametricDraws:
    """Responses X b + offset + Z u + e with u and e from their normal distributions.

    Attributes
    ----------
    design : Design
    beta : ndarray, shape (p,)
    lam : tuple of ndarray, shapes (k_t, k_t)
    sigma2 : float
    modes : tuple of ndarray, shapes (q_t, k_t), or None
        Random effects that are held; None: drawn anew.
    residual : ResidualFit or None
        Structure of the residuals.
    """

    design: Design
    beta: np.ndarray
    lam: tuple[np.ndarray, ...]
    sigma2: float
    modes: tuple[np.ndarray, ...] | None = None
    residual: ResidualFit | None = None

    @classmethod
    def of(cls, design: Design, fitted: Fitted, conditional: bool = False) -> ParametricDraws:
        """Of an estimate; `conditional` on the modes of its random effects."""
        modes = None
        if conditional:
            modes = _modes(fitted)
        return cls(design, fitted.beta, fitted.lam, fitted.sigma2, modes, fitted.residual)

    @cached_property
    def mean(self) -> np.ndarray:
        """What does not change from draw to draw, shape (n,)."""
        design = self.design
        mean = design.X @ np.where(np.isnan(self.beta), 0.0, self.beta)
        if design.offset is not None:
            mean = mean + design.offset
        for term, u in zip(design.terms, self.modes or (), strict=False):
            mean = mean + term.times(u)
        return mean

    def response(self, seed: int, i: int) -> np.ndarray:
        """Draw i, shape (n,)."""
        return self.from_stream(stream(seed, i))

    def from_stream(self, rng: np.random.Generator) -> np.ndarray:
        """The next draw of a stream, shape (n,)."""
        design, sigma = self.design, np.sqrt(self.sigma2)
        y = self.mean
        if self.modes is None:
            for term, lam in zip(design.terms, self.lam, strict=True):
                y = y + term.times(term.related(sigma * rng.normal(size=(term.n_levels, term.k)) @ lam.T))
        noise = sigma * rng.normal(size=design.n)
        if self.residual is not None:
            return y + self.residual.colour(noise)
        return y + (noise if design.weights is None else noise / np.sqrt(design.weights))


@dataclass(frozen=True, eq=False)
class ResidualDraws:
    """Responses of residuals and conditional modes that are drawn from the fit's own, with replacement.

    Both are shrunken: they are centred and turned so that their covariances are the estimated ones, modes by
    the symmetric map that moves them least (Carpenter, Goldstein & Rasbash 2003, Applied Statistics 52).
    Weighted residuals are drawn on the scale of weight one.

    Attributes
    ----------
    design : Design
    mean : ndarray, shape (n,)
        X b + offset.
    effects : tuple of ndarray, shapes (q_t, k_t)
    residuals : ndarray, shape (n,)
    """

    design: Design
    mean: np.ndarray
    effects: tuple[np.ndarray, ...]
    residuals: np.ndarray

    @classmethod
    def of(cls, design: Design, fitted: Fitted) -> ResidualDraws:
        """Of an estimate."""
        refuse_structure(fitted.residual, "drawing from the residuals")
        fitted.check_unrelated("a bootstrap of residuals and conditional modes")
        fixed = ParametricDraws.of(design, fitted).mean
        modes = _modes(fitted)
        residuals = design.y - fixed
        effects = []
        for term, u, lam in zip(design.terms, modes, fitted.lam, strict=True):
            residuals = residuals - term.times(u)
            effects.append(_inflated(u, fitted.sigma2 * (lam @ lam.T)))
        if design.weights is not None:
            residuals = residuals * np.sqrt(design.weights)
        residuals = residuals - residuals.mean()
        size = np.sqrt(np.mean(residuals**2))
        return cls(design, fixed, tuple(effects), residuals * (np.sqrt(fitted.sigma2) / size))

    def response(self, seed: int, i: int) -> np.ndarray:
        """Draw i, shape (n,)."""
        rng, design = stream(seed, i), self.design
        y = self.mean
        for term, u in zip(design.terms, self.effects, strict=True):
            y = y + term.times(u[rng.integers(len(u), size=len(u))])
        noise = self.residuals[rng.integers(design.n, size=design.n)]
        return y + (noise if design.weights is None else noise / np.sqrt(design.weights))


def _modes(fitted: Fitted) -> tuple[np.ndarray, ...]:
    if fitted.modes is None:
        raise InferenceError("the conditional modes of the random effects are not there.")
    terms = () if fitted.design is None else fitted.design.terms
    return tuple(
        np.reshape(u, (term.n_levels, term.k)) for u, term in zip(fitted.modes(), terms, strict=True)
    )


def _root(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric root and its pseudoinverse."""
    w, V = np.linalg.eigh(matrix)
    used = w > _ABSENT * max(float(w[-1]), 0.0)
    root = np.sqrt(np.where(used, w, 0.0))
    inverse = np.where(used, 1.0 / np.where(used, root, 1.0), 0.0)
    return (V * root) @ V.T, (V * inverse) @ V.T


def _inflated(u: np.ndarray, T: np.ndarray) -> np.ndarray:
    """Modes with mean zero and, as far as their rank goes, covariance T."""
    u = u - u.mean(axis=0)
    unit = np.sqrt(np.diag(T))
    unit = np.where(unit > 0.0, unit, 1.0)
    scaled = u / unit
    root, inverse = _root(scaled.T @ scaled / len(u))
    middle = _root(root @ (T / np.outer(unit, unit)) @ root)[0]
    return scaled @ (inverse @ middle @ inverse) * unit


class Clusters:
    """Parts of the rows that share no level of any random term.

    Parameters
    ----------
    design : Design

    Attributes
    ----------
    codes : ndarray of int, shape (n,)
        Part of every row, in the order of their first rows.
    n : int
    """

    def __init__(self, design: Design) -> None:
        self.design = design
        related = [term.name for term in design.terms if term.relation is not None]
        if related:
            raise InferenceError(
                f"clusters are parts of the rows without random effects in common, and the levels of "
                f"{', '.join(related)} are related."
            )
        sp = scipy_module("sparse")
        blocks = [_pattern(term, design.n) for term in design.terms]
        Z = sp.csr_array(sp.hstack(blocks, format="csr"))
        graph = sp.block_array([[None, Z], [Z.T, None]], format="csr")
        parts = scipy_module("sparse.csgraph").connected_components(graph, directed=False)[1][: design.n]
        _, first, codes = np.unique(parts, return_index=True, return_inverse=True)
        order = np.argsort(np.argsort(first))
        self.codes = order[codes]
        self.n = first.size

    @cached_property
    def _rows(self) -> list[np.ndarray]:
        order = np.argsort(self.codes, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.codes))[:-1])

    def take(self, chosen: np.ndarray) -> Design:
        """The design of some clusters, in this order; each time that one is named it counts as another one.

        Parameters
        ----------
        chosen : ndarray of int
        """
        rows = [self._rows[c] for c in chosen]
        return take_rows(
            self.design, np.concatenate(rows), np.repeat(np.arange(len(rows)), list(map(len, rows)))
        )

    def resample(self, seed: int, i: int) -> Design:
        """The design of as many clusters, drawn with replacement."""
        return self.take(stream(seed, i).integers(self.n, size=self.n))


def take_rows(
    design: Design, rows: np.ndarray, copy: np.ndarray, within: Sequence[bool] | None = None
) -> Design:
    """Some rows of a design; levels of different copies are different ones, and levels without rows go.

    Parameters
    ----------
    design : Design
    rows : ndarray of int, shape (m,)
        May repeat.
    copy : ndarray of int, shape (m,)
        Copy that each belongs to.
    within : sequence of bool, optional
        By term: whether its levels are parts of the copies (True, by default), or cross them.
    """
    related = [term.name for term in design.terms if term.relation is not None]
    if related:
        raise InferenceError(
            f"designs of other sizes need independent levels; {', '.join(related)} are related."
        )
    inside = [True] * len(design.terms) if within is None else within
    none = np.zeros_like(copy)
    terms = (
        _taken(term, rows, copy if own else none) for term, own in zip(design.terms, inside, strict=True)
    )
    return Design(
        design.y[rows],
        design.X[rows],
        tuple(terms),
        weights=None if design.weights is None else design.weights[rows],
        offset=None if design.offset is None else design.offset[rows],
        x_names=design.x_names,
        more_effects_than_rows=design.more_effects_than_rows,
    )


def _taken(term: RandomTerm, rows: np.ndarray, copy: np.ndarray) -> RandomTerm:
    if term.Z is None:
        assert term.codes is not None
        key = copy.astype(np.int64) * term.n_levels + term.codes[rows]
        levels, codes = np.unique(key, return_inverse=True)
        columns = None if term.columns is None else np.ascontiguousarray(term.columns[rows])
        return replace(term, codes=codes, n_levels=levels.size, columns=columns)
    sp = scipy_module("sparse")
    Z = sp.csr_array(term.Z)[rows]
    entries = np.repeat(copy, np.diff(Z.indptr)).astype(np.int64) * term.n_levels + Z.indices
    levels, indices = np.unique(entries, return_inverse=True)
    return replace(
        term,
        Z=sp.csr_array((Z.data, indices, Z.indptr), shape=(rows.size, levels.size)),
        n_levels=levels.size,
    )


def _pattern(term: RandomTerm, n: int) -> Any:
    sp = scipy_module("sparse")
    if term.Z is not None:
        Z = sp.csr_array(term.Z)
        return sp.csr_array((np.ones(Z.data.size, np.int8), Z.indices, Z.indptr), shape=Z.shape)
    ones = np.ones(n, np.int8)
    return sp.csr_array((ones, np.asarray(term.codes), np.arange(n + 1)), shape=(n, term.n_levels))
