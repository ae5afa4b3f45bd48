"""The likelihood ratio of two nested models beside those of responses drawn from the smaller one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..exceptions import InferenceError, OptionError
from ..fit.fitted import Fitted
from .bootstrap import FEW, Job, Workers, job_of, run_jobs
from .comparison import compare_models, description, log_columns
from .mixtures import likelihood_ratio

__all__ = ["RatioTest", "bootstrap_ratio"]

_NAMES = ("these results", "the other ones")


@dataclass(frozen=True, eq=False)
class RatioTest:
    """A bootstrap test of the smaller of two nested models.

    Attributes
    ----------
    statistic : float
    df : int
    p, error : float
        With its Monte Carlo standard error.
    p_chi2, p_boundary : float
        Of the chi-square, and of the mixture of large samples.
    null : ndarray, shape (n,)
        Statistics of the draws.
    failures, singular : int
        Draws that one of the models could not be fitted to; fits of the larger one that are singular.
    smaller, larger, method : str
        In words.
    notes : tuple of str
    """

    statistic: float
    df: int
    p: float
    error: float
    p_chi2: float
    p_boundary: float
    null: np.ndarray
    failures: int
    singular: int
    smaller: str
    larger: str
    method: str
    notes: tuple[str, ...]


def bootstrap_ratio(
    one: Fitted,
    other: Fitted,
    n: int,
    seed: int,
    *,
    workers: Workers = 1,
    backend: str = "threads",
    progress: bool | None = None,
    refit: str | None = None,
) -> RatioTest:
    """Test the smaller of two nested models.

    Parameters
    ----------
    one, other : Fitted
        In any order.
    n, seed : int
    workers, backend, progress
        As in `mme.inference.bootstrap.run_jobs`.
    refit : {"ml"}, optional
        Fit REML results again by ML, as models with different fixed effects need.

    Raises
    ------
    OptionError
        REML fits with different fixed effects; the same model twice; models that are not nested.
    DataError
        Different rows, responses or weights.
    InferenceError
        After iterative fits; where hardly any response can be fitted.
    """
    for name, fitted in zip(_NAMES, (one, other), strict=True):
        if fitted.monte_carlo is not None:
            raise InferenceError(
                f"bootstrap_test() compares log-likelihoods, and those of an iterative fit ({name}) have "
                "a Monte Carlo error. Fit with solver='direct'."
            )
    (small, large), (ratio,) = compare_models([one, other], _NAMES, refit)
    if np.isnan(ratio.p):
        raise OptionError(f"bootstrap_test() needs nested models: {' '.join(ratio.notes)}")
    shift = log_columns(large) - log_columns(small) if small.fitted.reml else 0.0
    job = job_of(small.fitted, "parametric", seed, "bootstrap_test()")
    beyond = Job(large.design, large.fitted.objective().eq, job.reml, job.source, seed)
    null, singular = [], 0
    reasons: Counter[str] = Counter()
    for below, above in run_jobs([job, beyond], range(n), workers, backend, progress):
        if below.fit is None or above.fit is None:
            reasons[below.failure or above.failure] += 1
            continue
        singular += above.fit.singular
        null.append(likelihood_ratio(above.fit.loglik + 0.5 * shift, below.fit.loglik))
    if len(null) < FEW:
        why = ", ".join(f"{name}: {count}" for name, count in reasons.items())
        raise InferenceError(f"of {n} simulated responses only {len(null)} could be fitted ({why}).")
    statistic = likelihood_ratio(0.5 * ratio.statistic, 0.0)
    draws = np.array(null)
    # the data count as one of the draws (Davison & Hinkley 1997)
    p = (float(np.sum(draws >= statistic)) + 1.0) / (draws.size + 1.0)
    if statistic == 0.0:
        p = 1.0
    error = float(np.sqrt(max(p * (1.0 - p), 1.0 / draws.size) / draws.size)) if p < 1.0 else 0.0
    notes = [f"{draws.size} responses drawn from the smaller model, seed {seed}.", *ratio.notes]
    if reasons:
        why = ", ".join(f"{name}: {count}" for name, count in reasons.items())
        notes.append(
            f"{sum(reasons.values())} of {n} responses could not be fitted and are left out ({why})."
        )
    if singular:
        notes.append(f"{singular} fits of the larger model have a singular covariance.")
    return RatioTest(
        statistic,
        ratio.df,
        p,
        error,
        ratio.p,
        ratio.p_boundary,
        draws,
        sum(reasons.values()),
        singular,
        description(small),
        description(large),
        small.fitted.method,
        tuple(notes),
    )
