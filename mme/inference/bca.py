"""Intervals from bootstrap draws: percentile, basic, and bias-corrected and accelerated (BCa).

The acceleration of BCa is the jackknife's over clusters, the rows that share no random effect: a third of the
skewness of what leaving one out does to the estimate.  Many clusters are left out in groups, of which sums of
squares and of cubes have the same expectation (Efron 1987, JASA 82; Efron & Tibshirani 1993, ch. 14).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..engine.runtime.scipys import special
from ..exceptions import ConvergenceError, DesignError, InferenceError
from ..fit.fit import fit_design
from ..fit.fitted import Fitted
from ..fit.residual import refuse_structure
from .bootstrap import FEW, independent_clusters, percentiles
from .parameters import Values
from .simulation import rows_of_fit

__all__ = ["INTERVALS", "acceleration", "basic", "bca", "jackknife"]

INTERVALS = ("percentile", "basic", "bca")
_MOST = 200  # refits of a jackknife
_WHAT = "A BCa interval"


def basic(draws: np.ndarray, estimate: np.ndarray, alpha: float) -> np.ndarray:
    """Intervals 2 estimate - percentiles of the other side, shape (q, 2).

    Parameters
    ----------
    draws : ndarray, shape (n, q)
    estimate : ndarray, shape (q,)
    alpha : float
    """
    return 2.0 * estimate[:, None] - percentiles(draws, alpha)[:, ::-1]


def bca(draws: np.ndarray, estimate: np.ndarray, a: np.ndarray, alpha: float) -> np.ndarray:
    """Bias-corrected and accelerated intervals, shape (q, 2).

    Parameters
    ----------
    draws : ndarray, shape (n, q)
    estimate, a : ndarray, shape (q,)
        Estimates, and their accelerations.
    alpha : float
    """
    out = np.full((draws.shape[1], 2), np.nan)
    z = special.ndtri(np.array([alpha / 2.0, 1.0 - alpha / 2.0]))
    for j, column in enumerate(draws.T):
        known = column[~np.isnan(column)]
        if known.size < FEW or not np.isfinite(estimate[j]):
            continue
        # draws at the estimate, a variance of zero for one, count half
        share = (np.mean(known < estimate[j]) + np.mean(known <= estimate[j])) / 2.0
        z0 = special.ndtri(share)
        if not np.isfinite(z0) or not np.isfinite(a[j]):
            continue
        levels = special.ndtr(z0 + (z0 + z) / (1.0 - a[j] * (z0 + z)))
        out[j] = np.quantile(known, levels)
    return out


def acceleration(left_out: np.ndarray) -> np.ndarray:
    """Acceleration of every column from a jackknife's estimates, shape (groups, q)."""
    out = np.full(left_out.shape[1], np.nan)
    for j, column in enumerate(left_out.T):
        change = np.mean(column) - column
        square = float(np.sum(change**2))
        if np.isfinite(square):
            out[j] = float(np.sum(change**3)) / (6.0 * square**1.5) if square > 0.0 else 0.0
    return out


def jackknife(fitted: Fitted, function: Callable[[Values], np.ndarray]) -> np.ndarray:
    """A function of the parameters without each cluster, or group of clusters, shape (groups, q).

    Raises
    ------
    InferenceError
        No clusters are independent; what is left without one cannot be fitted; after an iterative fit.
    """
    design = rows_of_fit(fitted, _WHAT)
    refuse_structure(fitted.residual, _WHAT)
    if fitted.monte_carlo is not None:
        raise InferenceError(
            f"{_WHAT} fits directly, and this fit was iterative. Take 'percentile' or 'basic'."
        )
    clusters = independent_clusters(design, _WHAT)
    groups = np.arange(clusters.n) * min(_MOST, clusters.n) // clusters.n
    out = []
    for group in range(int(groups[-1]) + 1):
        left = np.flatnonzero(groups != group)
        try:
            fit = fit_design(clusters.take(left), reml=fitted.reml, solver="direct")
        except (ConvergenceError, DesignError, np.linalg.LinAlgError) as error:
            raise InferenceError(
                f"{_WHAT} needs the fit without each cluster of rows, and one cannot be fitted: {error} "
                "Take 'percentile' or 'basic'."
            ) from error
        covariances = tuple(fit.sigma2 * (lam @ lam.T) for lam in fit.lam)
        out.append(np.atleast_1d(function(Values(fitted.labels, fit.beta, covariances, fit.sigma2))))
    return np.array(out)
