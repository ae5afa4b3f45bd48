"""Standard errors and intervals of (co)variances, of standard deviations and of correlations."""

from __future__ import annotations

import numpy as np

from ..engine.covariance.derivatives import congruence
from ..engine.runtime.scipys import special
from ..fit.fitted import Fitted, Labels
from .parameters import Parameter, check_maximum, parameters_of
from .structured import variances_of

__all__ = ["TIED", "correlation_errors", "variance_order", "variance_rows"]

TIED = "cor"  # var1 of a correlation that pairs of effects share; var2 is the structure's name


def variance_order(labels: Labels) -> list[Parameter]:
    """The parameters that the rows of `variance_rows` are about, on the scale of deviations."""
    known = [p for p in parameters_of(labels) if p.kind != "fixed"]
    # sorted is stable: every term's deviations before its correlations, sigma last
    return sorted(known, key=lambda p: (p.term if p.term >= 0 else len(labels.terms), p.kind == "cor"))


def variance_rows(fitted: Fitted, scale: str, alpha: float) -> dict[str, list]:
    """Columns of a table, rows as in lme4's ``as.data.frame(VarCorr(m))``.

    Parameters
    ----------
    fitted : Fitted
    scale : {"sd", "var"}
    alpha : float

    Returns
    -------
    dict of str to list
        grp, var1, var2, estimate, se, lower, upper, wald_lower, wald_upper.

    Raises
    ------
    InferenceError
        The estimate is no maximum of the likelihood.
    """
    check_maximum(fitted, "Standard errors of variances", structured=True)
    errors, correlations = _errors(fitted)
    rows: list[tuple[str, str | None, str | None, str, float, float]] = []
    for t, (term, lam) in enumerate(zip(fitted.labels.terms, fitted.lam, strict=True)):
        T = fitted.sigma2 * (lam @ lam.T)
        structure = term.structure
        shown, tied = structure.shown(len(term.effects)), structure.tied
        for a, b in shown:
            if a == b:
                name = structure.parameter_label(term.effects, a, a)
                rows.append((term.group, name, None, *_deviation(T[a, a], errors[t][a, a], scale)))
        for a, b in shown:
            if a == b:
                continue
            names = term.effects[b], term.effects[a]
            if tied:
                names = TIED, structure.parameter_label(term.effects, a, b)
            if scale == "var" and not tied:
                rows.append((term.group, *names, "plain", T[a, b], errors[t][a, b]))
            else:
                product = T[a, a] * T[b, b]
                estimate = T[a, b] / np.sqrt(product) if product > 0.0 else np.nan
                rows.append((term.group, *names, "fisher", estimate, correlations[t][a, b]))
    rows.append(("Residual", None, None, *_deviation(fitted.sigma2, errors[-1][0, 0], scale)))
    quantile = -float(special.ndtri(alpha / 2.0))
    grp, var1, var2, kind, estimate, se = map(list, zip(*rows, strict=True))
    ends = [_interval(*row, quantile) for row in zip(kind, estimate, se, strict=True)]
    value, half = np.array(estimate), quantile * np.array(se)
    return {
        "grp": grp,
        "var1": var1,
        "var2": var2,
        "estimate": estimate,
        "se": se,
        "lower": [low for low, _ in ends],
        "upper": [high for _, high in ends],
        "wald_lower": list(value - half),
        "wald_upper": list(value + half),
    }


def _deviation(variance: float, error: float, scale: str) -> tuple[str, float, float]:
    if scale == "var":
        return "log", variance, error
    sd = float(np.sqrt(variance))
    return "log", sd, error / (2.0 * sd) if sd > 0.0 else np.nan


def _interval(kind: str, estimate: float, se: float, quantile: float) -> tuple[float, float]:
    if not np.isfinite(estimate) or not np.isfinite(se):
        return np.nan, np.nan
    if kind == "plain":
        return estimate - quantile * se, estimate + quantile * se
    if kind == "log":
        factor = float(np.exp(quantile * se / estimate))
        return estimate / factor, estimate * factor
    z, half = np.arctanh(estimate), quantile * se / (1.0 - estimate**2)
    return float(np.tanh(z - half)), float(np.tanh(z + half))


def _errors(fitted: Fitted) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Errors of the entries of every term's covariance, sigma2 last; of correlations, per term."""
    simulated = fitted.monte_carlo
    if simulated is not None:
        # a correlation is the same of the relative covariance
        eq, information = fitted.objective().eq, simulated.information
        errors = [*simulated.variance_se, np.full((1, 1), simulated.sigma2_se)]
        correlations = []
        for t, (place, lam) in enumerate(zip(eq.layout.places, fitted.lam, strict=True)):
            entries = place.structure.entries(place.k)
            nothing = np.full((place.k, place.k), np.nan)
            told = np.all(np.isfinite(simulated.variance_se[t][tuple(np.array(entries).T)]))
            if place.k == 1 or len(entries) == place.k or not told:
                correlations.append(nothing)
                continue
            C = np.linalg.pinv(information, hermitian=True)[place.theta, place.theta]
            back = congruence(np.linalg.inv(eq.term_basis(t)), entries)
            correlations.append(correlation_errors(lam @ lam.T, back @ C @ back.T, entries))
        return errors, correlations
    covariance = variances_of(fitted).covariance
    errors, correlations, start = [], [], 0
    for term, lam in zip(fitted.labels.terms, fitted.lam, strict=True):
        entries = term.structure.entries(len(term.effects))
        part = slice(start, start + len(entries))
        C = covariance[part, part]
        se = np.full((len(term.effects), len(term.effects)), np.nan)
        for i, (a, b) in enumerate(entries):
            se[a, b] = se[b, a] = np.sqrt(C[i, i]) if C[i, i] > 0.0 else np.nan
        errors.append(se)
        correlations.append(correlation_errors(fitted.sigma2 * (lam @ lam.T), C, entries))
        start = part.stop
    last = covariance[-1, -1]
    errors.append(np.full((1, 1), np.sqrt(last) if last > 0.0 else np.nan))
    return errors, correlations


def correlation_errors(T: np.ndarray, C: np.ndarray, entries: list[tuple[int, int]]) -> np.ndarray:
    """Standard errors of correlations by the delta rule; NaN at +-1, and beside a zero variance."""
    out = np.full(T.shape, np.nan)
    at = {entry: i for i, entry in enumerate(entries)}
    for a, b in entries:
        if a == b or not T[a, a] * T[b, b] > 0.0:
            continue
        r = T[a, b] / np.sqrt(T[a, a] * T[b, b])
        use = [at[a, b], at[a, a], at[b, b]]
        g = np.array([1.0 / np.sqrt(T[a, a] * T[b, b]), -0.5 * r / T[a, a], -0.5 * r / T[b, b]])
        variance = float(g @ C[np.ix_(use, use)] @ g)
        # at a singular covariance of two effects the correlation does not move
        if variance > 1e-12 * (1.0 - abs(r) + 1e-8) and 1.0 - abs(r) > 1e-8:
            out[a, b] = out[b, a] = np.sqrt(variance)
    return out
