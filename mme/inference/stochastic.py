"""Degrees of freedom after an iterative fit, with their Monte Carlo errors.

As `mme.inference.degrees`, from solves in place of a factor (`mme.engine.iterative.marginal`). Two things are
stochastic: traces over pairs of levels of large factors, whose share of the error is a jackknife over their
probes, and the estimates themselves, whose Monte Carlo errors are put through by moving the estimates by one
such error along each of their principal directions.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..engine.direct.hessian import SecondDerivatives, traces_of
from ..engine.equations.equations import Equations
from ..engine.runtime.parallel import single_threaded_blas
from ..exceptions import InferenceError
from ..fit.fitted import Fitted
from .degrees import SmallSample, sample_at, satterthwaite
from .moves import moved
from .variances import Around, InnerCovariance, expected_covariance, inner_directions, observed_covariance

__all__ = ["StochasticSample", "stochastic_sample"]

_PROBES = 16
_SMALL = 0.01  # share of the Monte Carlo variance, in standard errors, up to which a direction is left out


@dataclass(frozen=True, eq=False)
class StochasticSample(SmallSample):
    """A `SmallSample` with errors.

    Attributes
    ----------
    jackknife : tuple of InnerCovariance
        The covariance of the variances with each of the probes left out.
    moved : tuple of SmallSample
        At the estimates moved by one Monte Carlo error along each of the errors' principal directions.
    """

    jackknife: tuple[InnerCovariance, ...]
    moved: tuple[SmallSample, ...]

    def variance_errors(self, L: np.ndarray, adjusted: bool) -> np.ndarray:
        """Monte Carlo errors of the variances of the rows of L (q, rank), shape (q,)."""
        here = self.variances(L, adjusted)
        total = sum(((m.variances(L, adjusted) - here) ** 2 for m in self.moved), np.zeros(len(L)))
        if adjusted:
            left_out = [self._with(c).variances(L, True) for c in self.jackknife]
            total = total + _jackknife(left_out, len(L))
        return np.sqrt(total)

    def degrees_errors(self, L: np.ndarray) -> np.ndarray:
        """Monte Carlo errors of `degrees`, shape (q,)."""
        here = self.degrees(L)
        total = sum(((m.degrees(L) - here) ** 2 for m in self.moved), np.zeros(len(L)))
        u = self.unit @ L.T
        left_out = [satterthwaite(u, self.half, self.sigma2, c) for c in self.jackknife]
        return np.sqrt(total + _jackknife(left_out, len(L)))

    def _with(self, parameters: InnerCovariance) -> SmallSample:
        return SmallSample(self.unit, self.sigma2, self.half, self.inner, parameters)


def stochastic_sample(
    fitted: Fitted, what: str, information: str, cache: MutableMapping[str, Any] | None = None
) -> StochasticSample:
    """As `mme.inference.degrees.small_sample`, of an iterative fit.

    Raises
    ------
    InferenceError
        Where the estimate is no maximum of the likelihood.
    """
    cache = {} if cache is None else cache
    if information in cache:
        return cache[information]
    if fitted.restriction:
        raise InferenceError(
            f"{what} needs the maximum of the likelihood, and this fit has {fitted.restriction}. "
            "Use ddf='normal'."
        )
    with single_threaded_blas():
        point = fitted.iterative_point(what, _PROBES)
        here, second = sample_at(fitted, point, information)
        others = []
        for other in _moved(fitted, point.equations, here.parameters):
            around = other.iterative_point(what, _PROBES)
            sigma2 = around.r2() / fitted.nu
            others.append(sample_at(replace(other, sigma2=sigma2), around, information)[0])
        jackknife = _left_out(fitted, point, second, information, point.trace_samples())
    cache[information] = StochasticSample(
        here.unit, here.sigma2, here.half, here.inner, here.parameters, jackknife, tuple(others)
    )
    return cache[information]


def _moved(fitted: Fitted, eq: Equations, parameters: InnerCovariance) -> list[Fitted]:
    """The estimate moved by one Monte Carlo error along each of their principal directions."""
    errors = fitted.monte_carlo
    if errors is None or not errors.moves.size:
        return []
    size = np.sqrt(np.maximum(np.diag(parameters.covariance), 0.0))
    unit = np.where(size > 0.0, size, 1.0)
    centred = (errors.moves - errors.moves.mean(axis=0)) / np.sqrt(max(1, len(errors.moves) - 1))
    s, V = np.linalg.svd(centred / unit, full_matrices=False)[1:]
    out = []
    for length, direction in zip(s, V, strict=True):
        if length * length <= _SMALL * float(s @ s):
            continue
        out.append(moved(fitted, eq, length * direction * unit))
    return out


def _left_out(
    fitted: Fitted, point: Around, second: SecondDerivatives, information: str, samples: list[dict]
) -> tuple[InnerCovariance, ...]:
    """The covariance of the variances with each probe of the traces left out."""
    directions = inner_directions(point.equations)
    own = np.array([traces_of(grams, directions) for grams in samples])
    n, mean = len(own), own.mean(axis=0)
    if n < 2 or np.all(np.ptp(own, axis=0) <= 1e-12 * np.abs(mean).max(initial=0.0)):
        return ()
    covariance = observed_covariance if information == "observed" else expected_covariance
    return tuple(
        covariance(fitted, point, replace(second, traces=second.traces + (mean - each) / (n - 1)))
        for each in own
    )


def _jackknife(values: list[np.ndarray], q: int) -> np.ndarray:
    """Variance by the jackknife, shape (q,); zero without values."""
    if not values:
        return np.zeros(q)
    n = len(values)
    return (n - 1) / n * np.sum((np.array(values) - np.mean(values, axis=0)) ** 2, axis=0)
