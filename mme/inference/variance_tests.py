"""Whether random effects have a variance: exactly for one variance, in large samples, by a bootstrap."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from ..engine.equations.design import Design
from ..engine.runtime.parallel import single_threaded_blas
from ..exceptions import InferenceError, OptionError
from ..fit.fit import equations_of
from ..fit.fitted import Fitted
from ..fit.refit import Refits
from .bootstrap import FEW, NO_FIT
from .mixtures import LOWER, likelihood_ratio
from .random_terms import (
    Reduction,
    Submodel,
    exact_maximum,
    find_reduction,
    reduced,
    without_random_terms,
)
from .ranova import mixture_of
from .rlrt import simulate, spectrum

__all__ = ["VarianceTest", "variance_test"]

_METHODS = ("rlrt", "mixture", "bootstrap")
_NSIM = {"rlrt": 10_000, "bootstrap": 500}


@dataclass(frozen=True, eq=False)
class VarianceTest:
    """A test of random effects.

    Attributes
    ----------
    label : str
        What is tested, as in `mme.inference.random_terms.Reduction`.
    method : {"rlrt", "mixture", "bootstrap"}
    statistic : float
        Twice the difference of the (restricted) log-likelihoods.
    p : float
    error : float
        Its Monte Carlo standard error; 0 where nothing was drawn.
    nsim : int
        Draws.
    notes : tuple of str
    """

    label: str
    method: str
    statistic: float
    p: float
    error: float
    nsim: int
    notes: tuple[str, ...]


def variance_test(fitted: Fitted, term: str | None, method: str, nsim: int | None, seed: int) -> VarianceTest:
    """Test random effects; parameters as of `mme.report.comparison.VarianceTests.test_variance`."""
    kind = method.lower() if isinstance(method, str) else ""
    if kind not in _METHODS:
        close = difflib.get_close_matches(kind, _METHODS, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise OptionError(f"method={method!r} is not known.{hint} Known: {', '.join(_METHODS)}.")
    if kind == "mixture" and nsim is not None:
        raise OptionError("nsim= has no use with method='mixture'.")
    draws = _NSIM.get(kind, 0) if nsim is None else _positive("nsim", nsim)
    seed = _positive("seed", seed, 0)
    what = f"test_variance(method={kind!r})"
    design = exact_maximum(fitted, what)
    reduction = find_reduction(fitted, design, term)
    if kind == "rlrt":
        _check_single(design, reduction)
    submodel = reduced(fitted, design, fitted.objective().eq, reduction)
    statistic = likelihood_ratio(fitted.loglik, submodel.loglik)
    notes = [] if fitted.converged else ["The fit has not converged."]
    if not submodel.converged:
        notes.append("The fit without what is tested has not converged.")
    if likelihood_ratio(submodel.loglik, fitted.loglik) > 0.0:
        notes.append(f"{reduction.label}: {LOWER}")
    if kind == "mixture":
        mixture = mixture_of(fitted, design, reduction, submodel, what)
        p, error = mixture.tail(statistic)
        notes.append(f"Large samples: {mixture}.")
        return VarianceTest(reduction.label, kind, statistic, p, error, mixture.n, tuple(notes))
    if kind == "rlrt":
        null = _exact(fitted, design, reduction, draws, seed)
        if submodel.design is not None:
            notes.append("There are other random effects: approximation of Greven et al. (2008).")
    else:
        null, failures = _bootstrap(fitted, design, reduction, submodel, draws, seed)
        if failures:
            why = ", ".join(f"{name}: {count}" for name, count in failures.items())
            notes.append(
                f"{sum(failures.values())} of {draws} responses could not be fitted and are left out ({why})."
            )
        draws = null.size
    if statistic == 0.0:
        return VarianceTest(reduction.label, kind, statistic, 1.0, 0.0, draws, tuple(notes))
    above = int(np.sum(null >= statistic))
    # a bootstrap's data count as one of the draws (Davison & Hinkley 1997)
    p = above / draws if kind == "rlrt" else (above + 1.0) / (draws + 1.0)
    error = float(np.sqrt(max(p * (1.0 - p), 1.0 / draws) / draws))
    if above == 0:
        notes.append(f"None of {draws} draws reaches the statistic: p is below {3.0 / draws:.2g}.")
    return VarianceTest(reduction.label, kind, statistic, p, error, draws, tuple(notes))


def _positive(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise OptionError(f"{name} must be an integer and at least {least}, not {value!r}.")
    return int(value)


def _check_single(design: Design, reduction: Reduction) -> None:
    """One variance is tested, and no covariance."""
    term = design.terms[reduction.term]
    gone = term.structure.n_parameters(term.k) - (
        0 if reduction.removes else term.structure.n_parameters(reduction.A.shape[1])
    )
    if gone != 1:
        raise InferenceError(
            f"{reduction.label!r} tests {gone} parameters together, and the distribution in finite samples "
            "is that of one variance without covariances. Use method='mixture' or 'bootstrap', or fit the "
            "columns as uncorrelated terms, (x || g), and test each."
        )


def _exact(fitted: Fitted, design: Design, reduction: Reduction, nsim: int, seed: int) -> np.ndarray:
    fitted.check_unrelated("method='rlrt' (use 'mixture' or 'bootstrap')")
    column = int(np.flatnonzero(~np.any(reduction.A, axis=1))[0]) if not reduction.removes else 0
    with single_threaded_blas():
        values = spectrum(fitted.objective().eq, reduction.term, column, reduction.label)
        return simulate(values, fitted.reml, nsim, seed)


def _bootstrap(
    fitted: Fitted, design: Design, reduction: Reduction, submodel: Submodel, nsim: int, seed: int
) -> tuple[np.ndarray, Counter[str]]:
    """Statistics of responses simulated from the reduced model, both models fitted to each; what failed."""
    rng = np.random.default_rng(seed)
    mean = design.X @ np.where(np.isnan(submodel.beta), 0.0, submodel.beta)
    if design.offset is not None:
        mean = mean + design.offset
    scale = np.sqrt(submodel.sigma2 / (1.0 if design.weights is None else design.weights))
    small = submodel.design
    large = Refits(design, fitted.objective().eq, fitted.reml)
    less = None if small is None else Refits(small, equations_of(small), fitted.reml)
    null: list[float] = []
    failures: Counter[str] = Counter()
    for _ in range(nsim):
        y = mean + scale * rng.normal(size=design.n)
        if small is not None:
            for term, lam in zip(small.terms, submodel.lam, strict=True):
                u = rng.normal(size=(term.n_levels, term.k)) @ lam.T
                y = y + np.sqrt(submodel.sigma2) * term.times(term.related(u))
        try:
            fits = [large.fit(y)] if less is None else [large.fit(y), less.fit(y)]
        except NO_FIT as error:
            failures[type(error).__name__] += 1
            continue
        if not all(fit.converged for fit in fits):
            failures["did not converge"] += 1
            continue
        below = (
            -0.5 * without_random_terms(large.objective.eq, fitted.reml)[2]
            if less is None
            else fits[1].loglik
        )
        null.append(likelihood_ratio(fits[0].loglik, below))
    if len(null) < min(FEW, nsim):
        why = ", ".join(f"{name}: {count}" for name, count in failures.items())
        raise InferenceError(f"of {nsim} simulated responses only {len(null)} could be fitted ({why}).")
    return np.array(null), failures
