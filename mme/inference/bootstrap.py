"""Parametric bootstrap: responses drawn from the fitted model, each fitted again on the same design.

A refit shares everything of the equations that is the design's (`mme.engine.equations.equations.respond`).
Variances that end at zero, and covariances that end singular, are part of the answer and are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..engine.equations.design import Design
from ..engine.equations.respond import respond
from ..engine.runtime.parallel import single_threaded_blas
from ..exceptions import ConvergenceError, DesignError, InferenceError, OptionError
from ..fit.fit import fit_design
from ..fit.fitted import Fitted, Labels
from .parameters import Values, check_maximum

__all__ = ["Draws", "check_draws", "draw", "percentiles", "simulate"]

_FEW = 10  # draws from which percentiles are taken


@dataclass(frozen=True, eq=False)
class Draws:
    """Estimates from simulated responses.

    Attributes
    ----------
    labels : Labels
    values : tuple of Values
        One per response that was fitted.
    failures : int
        Responses that could not be fitted, or whose fit did not converge: left out.
    singular : int
        Fits with a singular covariance.
    seed : int
    """

    labels: Labels
    values: tuple[Values, ...]
    failures: int
    singular: int
    seed: int

    def of(self, function: Callable[[Values], np.ndarray]) -> np.ndarray:
        """A function of the parameters at every draw, shape (draws, q)."""
        return np.array([np.atleast_1d(function(values)) for values in self.values])

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of percentiles should know."""
        total = len(self.values) + self.failures
        notes = [f"Parametric bootstrap, {len(self.values)} fits, seed {self.seed}."]
        if self.singular:
            notes.append(f"{self.singular} of them have a singular covariance.")
        if self.failures:
            notes.append(f"{self.failures} of {total} responses could not be fitted and are left out.")
        return tuple(notes)


def simulate(design: Design, fitted: Fitted, rng: np.random.Generator) -> np.ndarray:
    """One response of the fitted model, shape (n,)."""
    sigma = np.sqrt(fitted.sigma2)
    y = design.X @ np.where(np.isnan(fitted.beta), 0.0, fitted.beta)
    if design.offset is not None:
        y = y + design.offset
    for term, lam in zip(design.terms, fitted.lam, strict=True):
        y = y + term.times(sigma * rng.normal(size=(term.n_levels, term.k)) @ lam.T)
    noise = sigma * rng.normal(size=design.n)
    return y + (noise if design.weights is None else noise / np.sqrt(design.weights))


def draw(fitted: Fitted, n_boot: int, seed: int) -> Draws:
    """Simulate and fit.

    Raises
    ------
    InferenceError
        The data were removed; the estimate is no maximum of the likelihood; hardly any fit succeeds.
    """
    check_maximum(fitted, "A bootstrap")
    if fitted.design is None:
        raise InferenceError("A bootstrap needs the design, and the data were removed.")
    rng = np.random.default_rng(seed)
    equations = fitted.objective().eq
    options: dict[str, Any] = {"solver": "direct"}
    if fitted.monte_carlo is not None:
        known = fitted.monte_carlo
        options = {"solver": "iterative", "seed": known.seed, "loglik_probes": 0}
    found, failures, singular = [], 0, 0
    for _ in range(n_boot):
        design = replace(fitted.design, y=simulate(fitted.design, fitted, rng))
        try:
            with single_threaded_blas():
                again = respond(design, equations)
            fit = fit_design(design, reml=fitted.reml, equations=again, **options)
        except (ConvergenceError, DesignError, np.linalg.LinAlgError):
            failures += 1
            continue
        if not fit.record.converged:
            failures += 1
            continue
        singular += bool(fit.record.singular)
        covariances = tuple(fit.sigma2 * (lam @ lam.T) for lam in fit.lam)
        found.append(Values(fitted.labels, fit.beta, covariances, fit.sigma2))
    if len(found) < _FEW:
        raise InferenceError(
            f"of {n_boot} simulated responses only {len(found)} could be fitted: too few for percentiles."
        )
    return Draws(fitted.labels, tuple(found), failures, singular, seed)


def percentiles(values: np.ndarray, alpha: float) -> np.ndarray:
    """Percentile intervals of columns, shape (q, 2); draws without a value (correlations) are left out."""
    out = np.full((values.shape[1], 2), np.nan)
    for j, column in enumerate(values.T):
        known = column[~np.isnan(column)]
        if known.size >= _FEW:
            out[j] = np.quantile(known, [alpha / 2.0, 1.0 - alpha / 2.0])
    return out


def check_draws(n_boot: object, seed: object) -> tuple[int, int]:
    """Numbers of draws and seed, validated.

    Raises
    ------
    OptionError
    """
    if isinstance(n_boot, bool) or not isinstance(n_boot, int | np.integer) or n_boot < _FEW:
        raise OptionError(f"n_boot={n_boot!r} must be an integer, {_FEW} or more.")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise OptionError(f"seed={seed!r} must be an integer, 0 or more.")
    return int(n_boot), int(seed)
