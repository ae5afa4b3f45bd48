"""Shares of the phenotypic variance, and their profile likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine.direct.objective import Objective
from ..engine.runtime.parallel import single_threaded_blas
from ..engine.runtime.scipys import scipy_module
from ..exceptions import InferenceError, OptionError
from ..fit.fitted import Fitted
from .explained import mean_square
from .parameters import Values, estimates
from .random_terms import exact_maximum

__all__ = ["Heritability", "heritability_of", "profile_interval"]

_NEAR_ONE = 1.0 - 1e-6  # shares that are tried at most
_ZERO = 1e-9


@dataclass(frozen=True, eq=False)
class Heritability:
    """The share of one effect's variance in that of the phenotypes.

    Attributes
    ----------
    term, effect : int
    squares : tuple of ndarray, shapes (k_t, k_t)
        Mean of z z' over the rows, per term.
    """

    term: int
    effect: int
    squares: tuple[np.ndarray, ...]

    def share(self, values: Values) -> np.ndarray:
        """sigma2_a / (sum of all variances), shape (1,)."""
        total = sum(float(np.sum(M * T)) for M, T in zip(self.squares, values.covariances, strict=True))
        own = values.covariances[self.term][self.effect, self.effect]
        return np.array([own / (total + values.sigma2)])


def heritability_of(fitted: Fitted, term: str | None, effect: str | None, what: str) -> Heritability:
    """Find the effect whose share is asked for.

    Parameters
    ----------
    term : str or None
        A term by its grouping factor; None: the only one with a known relationship, or the only one.
    effect : str or None
        Of a term with several.
    what : str
        For messages.
    """
    if fitted.design is None:
        raise InferenceError(f"{what} needs the design, and the data were removed.")
    design, labels = fitted.design, fitted.labels.terms
    names = [label.group for label in labels]
    if term is None:
        chosen = [t for t, own in enumerate(design.terms) if own.relation is not None]
        chosen = chosen or list(range(len(names)))
    else:
        chosen = [t for t, name in enumerate(names) if name == term]
    if len(chosen) != 1:
        raise OptionError(f"term={term!r} must name one term, one of {', '.join(map(repr, names))}.")
    t = chosen[0]
    effects = labels[t].effects
    listed = ", ".join(map(repr, effects))
    if effect is None and len(effects) > 1:
        raise OptionError(f"{names[t]} has several effects: effect= must be one of {listed}.")
    if effect is not None and effect not in effects:
        raise OptionError(f"effect={effect!r} is not of {names[t]}, which has {listed}.")
    squares = tuple(mean_square(own, design.n, related=own.general) for own in design.terms)
    return Heritability(t, 0 if effect is None else effects.index(effect), squares)


def profile_interval(fitted: Fitted, share: Heritability, level: float, what: str) -> tuple[float, float]:
    """Where twice the log-likelihood ratio of a share reaches the chi-squared quantile of the level.

    The share h of a term of one effect is held by lam_a^2 = h / (1 - h) (1 + sum of the others), so that the
    deviance is minimised over the other terms' theta alone.

    Parameters
    ----------
    fitted : Fitted
    share : Heritability
    level : float
        Of the interval.
    """
    exact_maximum(fitted, what)
    objective = fitted.objective()
    assert isinstance(objective, Objective)
    places = objective.eq.layout.places
    own = places[share.term]
    if own.k > 1:
        raise InferenceError(f"{what}: method='profile' is for terms of one effect; use 'delta' or 'boot'.")
    optimize, stats = scipy_module("optimize"), scipy_module("stats")
    others = np.ones(objective.n_theta, bool)
    others[own.theta] = False
    start = np.concatenate([p.structure.theta(lam) for p, lam in zip(places, fitted.lam, strict=True)])
    weight = float(share.squares[share.term][0, 0])

    def rest_of(theta: np.ndarray) -> tuple[float, np.ndarray]:
        """1 + sum_t tr(M D) of the other terms, and its gradient."""
        total, gradient = 1.0, np.zeros(theta.size)
        for t, p in enumerate(places):
            if t == share.term:
                continue
            lam = p.structure.lam(theta[p.theta], p.k)
            slope = 2.0 * share.squares[t] @ lam
            total += float(np.sum(share.squares[t] * (lam @ lam.T)))
            gradient[p.theta] = [slope[a, b] for a, b in p.entries]
        return total, gradient

    def held(free: np.ndarray, h: float) -> tuple[float, np.ndarray]:
        theta = start.copy()
        theta[others] = free
        rest, slope = rest_of(theta)
        ratio = h / (1.0 - h * weight)
        theta[own.theta] = np.sqrt(ratio * rest)
        here = objective.evaluate(theta, 1)
        assert here.gradient is not None
        gradient = here.gradient.copy()
        if h > 0.0:
            gradient += here.gradient[own.theta] * ratio * slope / (2.0 * theta[own.theta])
        return here.deviance, gradient[others]

    best = -2.0 * fitted.loglik
    last = [start[others]]

    def profile(h: float) -> float:
        if not others.any():
            return objective.evaluate(np.array([np.sqrt(h / (1.0 - h * weight))])).deviance - best
        found = optimize.minimize(held, last[0], args=(h,), jac=True, method="BFGS", options={"gtol": 1e-5})
        last[0] = found.x
        return float(found.fun) - best

    quantile = float(stats.chi2.ppf(level, 1))
    estimate = float(share.share(estimates(fitted))[0])
    highest = _NEAR_ONE / weight
    ends = []
    with single_threaded_blas():
        for end in (0.0, highest):
            last[0] = start[others]
            if abs(estimate - end) < _ZERO or profile(end) <= quantile:
                ends.append(end)
                continue
            last[0] = start[others]
            inside = estimate
            root = optimize.brentq(lambda h: profile(h) - quantile, *sorted((inside, end)), xtol=1e-7)
            ends.append(float(root))
    return ends[0], min(ends[1], 1.0)
