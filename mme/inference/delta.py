"""Functions of the parameters, with standard errors by the delta rule.

The covariance of (fixed effects b, variances) is block-diagonal: their expected information is.  The block of
b is the one behind the standard errors of the door's results, that of the variances the inverse of the exact
Hessian of the deviance, along the boundary where a covariance is singular (`mme.inference.variances`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..exceptions import OptionError
from ..fit.fitted import Fitted
from .parameters import Values, check_maximum
from .structured import variances_of

__all__ = ["Delta", "Joint", "delta_rule", "joint_covariance", "vector"]

_STEP = 1e-3  # of a standard error, in central differences
_FLAT = 1e-6  # change along a flat direction, over that of the value's own scale, that counts


@dataclass(frozen=True, eq=False)
class Joint:
    """Where a fit is among the parameters, and how far it may be off.

    Attributes
    ----------
    fitted : Fitted
    at : ndarray, shape (p + m + 1,)
        Fixed effects (NaN: dropped), free entries of sigma2 D of every term, sigma2.
    root : ndarray, shape (p + m + 1, r)
        root root' is the covariance, along what the data tell.
    blind : ndarray, shape (p + m + 1, f)
        Directions that they do not tell.
    """

    fitted: Fitted
    at: np.ndarray
    root: np.ndarray
    blind: np.ndarray

    def values(self, x: np.ndarray) -> Values:
        """The parameters of a vector laid out as `at`."""
        p, covariances = self.fitted.beta.size, []
        start = p
        for term in self.fitted.labels.terms:
            k = len(term.effects)
            T = np.zeros((k, k))
            for a, b in term.structure.entries(k):
                T[a, b] = T[b, a] = x[start]
                start += 1
            covariances.append(T)
        return Values(self.fitted.labels, x[:p], tuple(covariances), float(x[-1]))


@dataclass(frozen=True, eq=False)
class Delta:
    """Values of a function with their covariance: estimate (q,), covariance (q, q); NaN where not told."""

    estimate: np.ndarray
    covariance: np.ndarray

    @property
    def se(self) -> np.ndarray:
        """Standard errors, shape (q,)."""
        return np.sqrt(np.diag(self.covariance))


def joint_covariance(fitted: Fitted, what: str) -> Joint:
    """The covariance of fixed effects and variances.

    Raises
    ------
    InferenceError
        After an iterative fit, and where the estimate is no maximum of the likelihood.
    """
    check_maximum(fitted, what, structured=True)
    variances = variances_of(fitted)
    beta = fitted.beta
    p, m = beta.size, variances.estimate.size
    kept = ~np.isnan(beta)
    fixed = fitted.fixed_root()
    if fixed is None:
        fixed = _root(fitted.vcov_beta()[np.ix_(kept, kept)])
    own = _root(variances.told)
    root = np.zeros((p + m, fixed.shape[1] + own.shape[1]))
    root[:p][kept, : fixed.shape[1]] = fixed
    root[p:, fixed.shape[1] :] = own
    blind = np.zeros((p + m, variances.blind.shape[1]))
    blind[p:] = variances.blind
    return Joint(fitted, np.r_[beta, variances.estimate], root, blind)


def delta_rule(joint: Joint, function: Callable[[Values], np.ndarray]) -> Delta:
    """Central differences along every direction of the covariance, a small part of a standard error.

    Parameters
    ----------
    joint : Joint
    function : callable
        Of `Values`, to a vector.
    """
    estimate = vector(function(joint.values(joint.at)))
    slopes = _slopes(joint, function, joint.root, estimate.size)
    covariance = slopes @ slopes.T
    if joint.blind.size:
        lost = np.abs(_slopes(joint, function, joint.blind, estimate.size)).max(axis=1)
        unknown = lost > _FLAT * np.sqrt(np.diag(covariance))
        covariance[unknown, :] = covariance[:, unknown] = np.nan
    return Delta(estimate, covariance)


def vector(value: object) -> np.ndarray:
    """What a user's function gave, as numbers.

    Raises
    ------
    OptionError
        It is no number, and no vector of numbers.
    """
    try:
        # None would become NaN
        out = np.zeros((0, 0)) if value is None else np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        out = np.zeros((0, 0))
    if out.ndim != 1 or out.size == 0:
        raise OptionError("f must return a number, a list or an array of numbers, or a dict of numbers.")
    return out


def _slopes(
    joint: Joint, function: Callable[[Values], np.ndarray], directions: np.ndarray, size: int
) -> np.ndarray:
    out = np.empty((size, directions.shape[1]))
    for j, direction in enumerate(directions.T):
        up = vector(function(joint.values(joint.at + _STEP * direction)))
        down = vector(function(joint.values(joint.at - _STEP * direction)))
        out[:, j] = (up - down) / (2.0 * _STEP)
    return out


def _root(covariance: np.ndarray) -> np.ndarray:
    """A root of a covariance, directions without variance left out."""
    size = np.sqrt(np.diag(covariance))
    moves = size > 0.0
    unit = np.where(moves, size, 1.0)
    w, V = np.linalg.eigh(covariance / np.outer(unit, unit))
    used = w > 1e-14 * max(1.0, float(w[-1])) if w.size else np.zeros(0, dtype=bool)
    return unit[:, None] * V[:, used] * np.sqrt(w[used])
