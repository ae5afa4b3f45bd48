"""Draws of a bootstrap as a frame, with intervals; for results of both doors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import InferenceError, OptionError
from ..fit.fitted import Fitted
from ..inference.bca import INTERVALS, acceleration, basic, bca, jackknife
from ..inference.bootstrap import (
    BACKENDS,
    FEW,
    Draws,
    check_count,
    check_workers,
    draw,
    percentiles,
)
from ..inference.coefficients import check_alpha
from ..inference.delta import vector
from ..inference.parameters import Values, check_option, estimates, parameters_of
from .labels import names_of, plain

__all__ = ["BootstrapResult", "bootstrap_result"]

Statistic = Callable[[Values], Any]


class BootstrapResult:
    """Estimates from responses that were drawn from a fit.

    Attributes
    ----------
    draws : pandas.DataFrame
        A row per fit, by the number of the draw; a column per parameter (fixed effects, standard deviations,
        correlations (NaN beside a variance of zero), sigma), or per value of the statistic.
    estimate : pandas.Series
        The same of the fit itself.
    bias, se : pandas.Series
        Mean of the draws less the estimate; standard deviation of the draws.
    kind : {"parametric", "residual", "cluster"}
    seed : int
    failures : int
        Responses that could not be fitted, or whose fit did not converge.
    reasons : dict of str to int
        Why, and how often.
    singular : int
        Fits with a singular covariance: at the boundary.
    notes : tuple of str
    """

    def __init__(self, fitted: Fitted, draws: Draws, statistic: Statistic | None = None) -> None:
        self._fitted: Fitted | None = fitted
        self._draws, self._statistic = draws, statistic
        at = estimates(fitted)
        if statistic is None:
            known = parameters_of(draws.labels)
            self._columns = pd.Index([p.name for p in known], dtype=object)
            function: Callable[[Values], np.ndarray] = lambda v: np.array([v.value(p) for p in known])  # noqa: E731
            values, here = draws.of(function), function(at)
        else:
            here, self._columns = _first(statistic, at, "statistic")
            values = _values(statistic, draws, self._columns, "statistic")
        self._at = at
        index = pd.Index(draws.numbers, name="draw")
        self.draws = pd.DataFrame(values.reshape(len(index), -1), index=index, columns=self._columns)
        self.estimate = pd.Series(here, index=self._columns, name="estimate")
        self.kind, self.seed, self.reasons = draws.kind, draws.seed, dict(draws.reasons or {})
        self.failures, self.singular, self.notes = draws.failures, draws.singular, draws.notes

    @property
    def se(self) -> pd.Series:
        """Standard deviation of the draws."""
        return self.draws.std(ddof=1).rename("se")

    @property
    def bias(self) -> pd.Series:
        """Mean of the draws less the estimate."""
        return (self.draws.mean() - self.estimate).rename("bias")

    def conf_int(
        self, alpha: float = 0.05, f: Statistic | None = None, method: str = "percentile"
    ) -> pd.DataFrame:
        """Intervals.

        Parameters
        ----------
        alpha : float
        f : callable, optional
            A function of the parameters, as `delta` of the results takes it; by default what `draws` has.
        method : {"percentile", "basic", "bca"}
            Quantiles of the draws; twice the estimate less those of the other side; quantiles that are
            corrected for bias and skewness, the latter from fits without each cluster of rows (of groups of
            clusters if there are more than 200), which crossed factors have not.

        Returns
        -------
        pandas.DataFrame
            Columns 0 and 1; NaN where fewer than ten draws have a value.  ``attrs["notes"]`` says what a
            reader should know.

        Raises
        ------
        OptionError
            An unknown method, fewer than ten draws, a function that fails.
        InferenceError
            "bca" without independent clusters, or without the fit (of a stored result).
        """
        alpha = check_alpha(alpha)
        method = check_option("method", method, INTERVALS)
        if len(self.draws) < FEW:
            raise OptionError(f"{len(self.draws)} draws are too few for an interval; {FEW} at least.")
        if f is None:
            values, here, index = self.draws.to_numpy(), self.estimate.to_numpy(), self._columns
        else:
            here, index = _first(f, self._at, "f")
            values = _values(f, self._draws, index, "f")
        if method == "percentile":
            ends = percentiles(values, alpha)
        elif method == "basic":
            ends = basic(values, here, alpha)
        else:
            ends = bca(values, here, acceleration(self._jackknife(f)), alpha)
        frame = pd.DataFrame(ends, index=index, columns=pd.RangeIndex(2))
        frame.attrs.update({"method": method, "alpha": alpha, "notes": self.notes})
        return frame

    def _jackknife(self, f: Statistic | None) -> np.ndarray:
        if self._fitted is None:
            raise InferenceError("a BCa interval needs the fit, which a stored bootstrap has not.")
        function = f or self._statistic
        if function is None:
            known = parameters_of(self._draws.labels)
            return jackknife(self._fitted, lambda v: np.array([v.value(p) for p in known]))
        return jackknife(self._fitted, lambda v: vector(plain(function(v))))

    def more(
        self, n: int, workers: Any = 1, *, backend: str = "threads", progress: bool | None = None
    ) -> BootstrapResult:
        """The same with the next `n` draws of the seed: as if all had been asked for at once.

        Parameters
        ----------
        n : int
        workers, backend, progress
            As in `bootstrap` of the results.

        Returns
        -------
        BootstrapResult
        """
        if self._fitted is None:
            raise InferenceError("further draws need the fit, which a stored bootstrap has not.")
        known = self._draws
        n, workers = check_count("n", n, 1), check_workers(workers)
        next_ones = draw(
            self._fitted, n, self.seed, kind=self.kind, workers=workers,
            backend=check_option("backend", backend, BACKENDS), first=known.first + known.n,
            progress=progress, least=0,
        )  # fmt: skip
        return BootstrapResult(self._fitted, known.joined(next_ones), self._statistic)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fitted": None, "_statistic": None}

    def __repr__(self) -> str:
        return f"<{' '.join(self.notes)}>"


def bootstrap_result(
    fitted: Fitted,
    n: int,
    seed: int = 0,
    workers: Any = 1,
    *,
    statistic: Statistic | None = None,
    kind: str = "parametric",
    first: int = 0,
    backend: str = "threads",
    progress: bool | None = None,
) -> BootstrapResult:
    """Draw and fit; parameters as of `mme.report.resampling.Resampling.bootstrap`."""
    n, workers = check_count("n", n, 1), check_workers(workers)
    seed, first = check_count("seed", seed, 0), check_count("first", first, 0)
    backend = check_option("backend", backend, BACKENDS)
    if statistic is not None:
        if not callable(statistic):
            raise OptionError(f"statistic must be a function of the parameters, not {statistic!r}.")
        _first(statistic, estimates(fitted), "statistic")  # it fails before anything is fitted
    draws = draw(
        fitted, n, seed, kind=kind, workers=workers, backend=backend, first=first, progress=progress, least=0
    )
    return BootstrapResult(fitted, draws, statistic)


def _first(function: Statistic, at: Values, name: str) -> tuple[np.ndarray, pd.Index]:
    """A user's function at the estimate, and the names of what it gives."""
    value = _called(function, at, name, "the estimate")
    numbers = _numbers(value, name)
    return numbers, names_of(value, numbers.size)


def _values(function: Statistic, draws: Draws, names: pd.Index, name: str) -> np.ndarray:
    out = np.empty((len(draws.values), len(names)))
    for row, i, values in zip(out, draws.numbers, draws.values, strict=True):
        value = _called(function, values, name, f"draw {i}")
        numbers = _numbers(value, name)
        if numbers.size != len(names) or not names_of(value, numbers.size).equals(names):
            raise OptionError(
                f"{name} gives {numbers.size} values ({_shown(names_of(value, numbers.size))}) at draw {i} "
                f"and {len(names)} ({_shown(names)}) at the estimate; they must be the same ones every time."
            )
        row[:] = numbers
    return out


def _shown(names: pd.Index) -> str:
    return ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")


def _called(function: Statistic, values: Values, name: str, where: str) -> Any:
    try:
        return function(values)
    except Exception as error:
        raise OptionError(f"{name} raised {type(error).__name__} at {where}: {error}") from error


def _numbers(value: Any, name: str) -> np.ndarray:
    try:
        return vector(plain(value))
    except OptionError as error:
        raise OptionError(str(error).replace("f must", f"{name} must", 1)) from None
