"""Where responses stand among those that the fitted model makes: probability integral transforms.

Dunn & Smyth (1996, JCGS 5, 236-244) and Gelman & Hill (2006): if the model holds, the share of simulated
responses below the observed one is uniform.  Tests are those of the R package DHARMa.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine.equations.design import Design
from ..engine.runtime.scipys import scipy_module
from ..exceptions import OptionError
from ..fit.fitted import Fitted
from .residuals import residuals
from .rows import check_scale, design_of, marginal_residual, random_part

__all__ = ["Scaled", "check_draws", "scaled_residuals"]

_EFFECTS = ("new", "conditional")
_FEWEST = 20


@dataclass(frozen=True, eq=False)
class Scaled:
    """PIT residuals with their tests.

    Attributes
    ----------
    values : ndarray, shape (n,)
    uniformity, dispersion, outliers : tuple of float
        Statistic and p-value: Kolmogorov and Smirnov's distance; the variance about the centre over its mean
        in the simulations; the share of responses outside of all simulated ones.
    expected_outliers : float
    """

    values: np.ndarray
    uniformity: tuple[float, float]
    dispersion: tuple[float, float]
    outliers: tuple[float, float]
    expected_outliers: float


def check_draws(n: object, random_effects: object) -> int:
    """The number of simulations, and whether effects are new.

    Raises
    ------
    OptionError
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < _FEWEST:
        raise OptionError(f"n={n!r} must be a whole number of simulations, {_FEWEST} or more.")
    if random_effects not in _EFFECTS:
        raise OptionError(f"random_effects={random_effects!r} is not known. Known: {', '.join(_EFFECTS)}.")
    return int(n)


def scaled_residuals(
    fitted: Fitted, n: int, rng: np.random.Generator, random_effects: str, rotate: bool
) -> Scaled:
    """PIT residuals.

    Parameters
    ----------
    fitted : Fitted
    n : int
        Simulations.
    rng : numpy.random.Generator
    random_effects : {"new", "conditional"}
        Whether effects are drawn, or are those that were predicted.
    rotate : bool
        Whiten by the model's covariance first: rows are independent then.
    """
    design = design_of(fitted, "pit_residuals")
    check_scale(fitted, "pit_residuals")
    if rotate:
        if random_effects != "new":
            raise OptionError(
                "rotate=True is for random_effects='new': given the effects rows are independent."
            )
        return _rotated(fitted, n, rng)
    observed = marginal_residual(fitted, design)
    if random_effects == "conditional":
        observed = observed - random_part(fitted, design)
    below, equal = np.zeros(design.n, np.int64), np.zeros(design.n, np.int64)
    spread = np.empty(n)
    for i in range(n):
        drawn = _draw(fitted, design, rng, random_effects == "new")
        below += drawn < observed
        equal += drawn == observed
        spread[i] = np.var(drawn, ddof=1)
    values = below / n
    if equal.any():
        values = values + rng.uniform(size=design.n) * equal / n
    out = (below == 0) & (equal == 0) | (below == n)
    return _tested(values, float(np.var(observed, ddof=1)), spread, out, n)


def _draw(fitted: Fitted, design: Design, rng: np.random.Generator, new: bool) -> np.ndarray:
    """A response less its centre."""
    sigma = np.sqrt(fitted.sigma2)
    out = rng.normal(scale=sigma, size=design.n)
    if fitted.residual is not None:
        out = fitted.residual.colour(out)
    elif design.weights is not None:
        out /= np.sqrt(design.weights)
    if new:
        for term, lam in zip(design.terms, fitted.lam, strict=True):
            out += term.times(term.related(sigma * rng.normal(size=(term.n_levels, term.k)) @ lam.T))
    return out


def _rotated(fitted: Fitted, n: int, rng: np.random.Generator) -> Scaled:
    z = residuals(fitted, "whitened")
    values = scipy_module("special").ndtr(z)
    spread = rng.chisquare(z.size - 1, size=n) / (z.size - 1)
    # as far out as beyond n draws of its own
    tail = 1.0 / (n + 1.0)
    return _tested(values, float(np.var(z, ddof=1)), spread, (values < tail) | (values > 1.0 - tail), n)


def _tested(values: np.ndarray, spread: float, drawn: np.ndarray, out: np.ndarray, n: int) -> Scaled:
    stats = scipy_module("stats")
    ks = stats.kstest(values, "uniform")
    tails = min(np.mean(drawn <= spread), np.mean(drawn >= spread))
    expected = 2.0 / (n + 1.0)
    p_out = stats.binomtest(int(out.sum()), values.size, expected).pvalue
    return Scaled(
        values,
        (float(ks.statistic), float(ks.pvalue)),
        (spread / float(np.mean(drawn)), min(1.0, 2.0 * float(tails))),
        (float(out.mean()), float(p_out)),
        expected,
    )
