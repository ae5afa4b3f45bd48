"""Inference on fits whose residuals have a covariance structure: V = sigma2 (R(phi) + Z D Z').

The parameters are the entries of D, phi and sigma2. Satterthwaite's degrees of freedom go by the exact
Hessian of the deviance in all of them. Kenward & Roger's (1997) adjustment has second derivatives of V where
V is not linear in its natural parameters: variances and covariances (of us, cs, toep, a variance per
stratum), correlations of ar1 and car1 and those beside variances of their own, coefficients of a log-linear
variance. For us it is SAS' and mmrm's "linear" one, which has none.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.covariance.correlations import AutoRegressive, Toeplitz, Unstructured
from ..engine.covariance.derivatives import congruence
from ..engine.covariance.residual import LogLinear, Strata
from ..engine.direct.parts import PartsSums
from ..engine.direct.point import Point
from ..engine.runtime.scipys import special
from ..exceptions import InferenceError
from ..fit.fitted import Fitted
from .degrees import SmallSample
from .variances import (
    FreeDirections,
    InnerCovariance,
    VarianceCovariance,
    inverse_along,
    natural_information,
    singular_terms,
    variance_covariance,
)

__all__ = ["residual_rows", "structured_sample", "variances_of", "why_not"]

_BLIND = 1e-8  # as in `mme.inference.variances`
_STEP = 1e-6


def why_not(fitted: Fitted) -> str:
    """Why the parameters of the residuals have no covariance; empty if they have."""
    residual = fitted.residual
    assert residual is not None
    if residual.at_boundary:
        return f"residual={residual.structure.text!r} is at a limit ({', '.join(residual.at_boundary)})"
    if not residual.parts.affordable:
        return (
            f"{residual.parts.largest} rows are connected, too many for the exact derivatives of "
            f"residual={residual.structure.text!r}"
        )
    return ""


def structured_sample(
    fitted: Fitted, what: str, information: str, cache: MutableMapping[str, Any] | None = None
) -> SmallSample:
    """As `mme.inference.degrees.small_sample`."""
    cache = {} if cache is None else cache
    if information in cache:
        return cache[information]
    point, sums = _pieces(fitted, what, cache)
    assert fitted.residual is not None
    covariance = _observed if information == "observed" else _expected
    parameters = covariance(fitted, point, sums)
    unit = np.linalg.solve(sums.root.T, sums.T.T)
    bend = _bend(fitted, sums, parameters.covariance)
    cache[information] = SmallSample(unit, fitted.sigma2, sums.half, sums.inner, parameters, bend=bend)
    return cache[information]


def _pieces(fitted: Fitted, what: str, cache: MutableMapping[str, Any]) -> tuple[Point, PartsSums]:
    residual = fitted.residual
    assert residual is not None
    reason = why_not(fitted)
    if reason:
        raise InferenceError(f"{what} needs the covariance of the variances: {reason}. Use ddf='normal'.")
    point = fitted.point(what, standard=True, white=True)
    if "structured" not in cache:
        cache["structured"] = residual.parts.second(fitted.lam, residual.phi, point.equations.term_bases())
    return point, cache["structured"]


def _observed(fitted: Fitted, point: Point, sums: PartsSums) -> InnerCovariance:
    free = FreeDirections(point, fitted.lam)
    m, f = free.J.shape
    K = sums.slope.size - m
    J = np.zeros((m + K + 1, f + K + 1))
    J[:m, :f] = free.J
    J[m:, f:] = np.eye(K + 1)
    information = J.T @ sums.hessian(fitted.nu) @ J
    information[:f, :f] += free.curvature
    natural = np.einsum("ij,ik,kj->j", J, _natural(fitted, point, sums), J)
    covariance, blind = inverse_along(information, natural, _BLIND)
    return InnerCovariance(2.0 * J @ covariance @ J.T, J @ blind, free.singular)


def _expected(fitted: Fitted, point: Point, sums: PartsSums) -> InnerCovariance:
    natural = np.diag(_natural(fitted, point, sums))
    covariance, blind = inverse_along(sums.information(fitted.nu), natural, _BLIND)
    return InnerCovariance(2.0 * covariance, blind, singular_terms(point, fitted.lam))


def _natural(fitted: Fitted, point: Point, sums: PartsSums) -> np.ndarray:
    """Scale of the information, shape (m + K + 1, m + K + 1)."""
    inner = natural_information(fitted, point)
    m = len(inner) - 1
    out = np.zeros((sums.slope.size + 1, sums.slope.size + 1))
    out[:m, :m], out[-1, -1] = inner[:m, :m], inner[m, m]
    own = np.arange(m, sums.slope.size)
    out[own, own] = np.maximum(np.diag(sums.traces)[own], np.finfo(float).tiny)
    return out


def _bend(fitted: Fitted, sums: PartsSums, covariance: np.ndarray) -> np.ndarray:
    """-1/2 sum_ij A_ij (V_ij) of Kenward and Roger, in the natural parameters, over sigma2.

    V is linear in natural parameters s phi_j; for others V_(s, j) = R_j beside s R_jk.
    """
    residual = fitted.residual
    assert residual is not None
    K = residual.structure.size
    own = slice(sums.slope.size - K, sums.slope.size)
    A = covariance[own, own]
    beside = np.where(residual.structure.scaled, 0.0, covariance[own, -1]) / fitted.sigma2
    out = np.tensordot(A, sums.bent[own, own], axes=2) + 2.0 * np.tensordot(beside, sums.half[own], axes=1)
    return -0.25 * (out + out.T)


def variances_of(fitted: Fitted) -> VarianceCovariance:
    """Covariance of the estimates of (co)variances of random effects and of sigma2."""
    if fitted.residual is None:
        return variance_covariance(fitted)
    point, sums = _pieces(fitted, "The covariance of the variances", {})
    inner = _observed(fitted, point, sums)
    eq, s2 = point.equations, fitted.sigma2
    m = len(inner.covariance) - 1
    first = m - (fitted.residual.structure.size if fitted.residual is not None else 0)
    back, D = np.zeros((first, first)), np.zeros(first)
    for t, (place, lam) in enumerate(zip(eq.layout.places, fitted.lam, strict=True)):
        back[place.theta, place.theta] = congruence(np.linalg.inv(eq.term_basis(t)), place.entries)
        own = lam @ lam.T
        D[place.theta] = [own[a, b] for a, b in place.entries]
    G = np.zeros((first + 1, m + 1))
    G[:first, :first], G[:first, m], G[first, m] = s2 * back, D, 1.0
    told = G @ inner.covariance @ G.T
    blind = G @ inner.blind
    covariance = 0.5 * (told + told.T)
    told = covariance.copy()
    unknown = np.any(np.abs(blind) > 1e-5 * np.sqrt(np.diag(told))[:, None], axis=1)
    covariance[unknown, :] = covariance[:, unknown] = np.nan
    return VarianceCovariance(np.r_[s2 * D, s2], covariance, told, blind)


@dataclass(frozen=True)
class _Row:
    """A quantity made of (phi, sigma2); kind: log, fisher or plain, the scale of its interval."""

    name: str
    kind: str
    value: Callable[[np.ndarray, float], float]


def residual_rows(fitted: Fitted, alpha: float) -> dict[str, list]:
    """Standard deviations, correlations and coefficients of the residuals.

    Parameters
    ----------
    fitted : Fitted
        With a structure of its residuals.
    alpha : float
        One less the level.

    Returns
    -------
    dict of str to list
        parameter, estimate, se, lower, upper; NaN errors where the parameters have no covariance.
    """
    residual = fitted.residual
    assert residual is not None
    rows = _rows(fitted)
    phi, s = residual.phi, fitted.sigma2
    K = phi.size
    C = np.full((K + 1, K + 1), np.nan)
    if not why_not(fitted):
        point, sums = _pieces(fitted, "Standard errors of the residuals", {})
        inner = _observed(fitted, point, sums)
        C = inner.covariance[-K - 1 :, -K - 1 :]
        if np.any(np.abs(inner.blind[-K - 1 :]) > 1e-5):
            C = np.full_like(C, np.nan)
    quantile = -float(special.ndtri(alpha / 2.0))
    out: dict[str, list] = {"parameter": [], "estimate": [], "se": [], "lower": [], "upper": []}
    x = np.r_[phi, s]
    for row in rows:
        estimate = row.value(phi, s)
        g = np.empty(K + 1)
        for j in range(K + 1):
            h = _STEP * max(abs(x[j]), 1e-3)
            up, down = x.copy(), x.copy()
            up[j], down[j] = x[j] + h, x[j] - h
            g[j] = (row.value(up[:-1], up[-1]) - row.value(down[:-1], down[-1])) / (2.0 * h)
        se = float(np.sqrt(g @ C @ g))
        if row.kind == "log":
            width = np.exp(quantile * se / estimate)
            ends = estimate / width, estimate * width
        elif row.kind == "fisher":
            z, half = np.arctanh(estimate), quantile * se / (1.0 - estimate**2)
            ends = np.tanh(z - half), np.tanh(z + half)
        else:
            ends = estimate - quantile * se, estimate + quantile * se
        for name, value in zip(out, (row.name, estimate, se, *map(float, ends)), strict=True):
            out[name].append(value)
    return out


def _rows(fitted: Fitted) -> list[_Row]:
    assert fitted.residual is not None
    structure = fitted.residual.structure
    rows: list[_Row] = []
    start = 0
    for part in structure.variances:
        if isinstance(part, Strata):
            rows += [_Row(f"sd {level}", "log", _sd(start + i - 1)) for i, level in enumerate(part.levels)]
        elif isinstance(part, LogLinear):
            rows.append(_Row("log var: (Intercept)", "plain", lambda phi, s: float(np.log(s))))
            rows += [_Row(name, "plain", _entry(start + i)) for i, name in enumerate(part.names)]
        start += len(part.names)
    correlation = structure.correlation
    if isinstance(correlation, Unstructured):
        at = correlation
        rows += [_Row(f"sd {level}", "log", _visit(at, a, a)) for a, level in enumerate(at.levels)]
        rows += [
            _Row(f"cor {at.levels[b]},{at.levels[a]}", "fisher", _visit(at, a, b))
            for a, b in at.entries
            if a != b
        ]
        return rows
    if not structure.variances:
        rows.append(_Row("sd", "log", lambda phi, s: float(np.sqrt(s))))
    if correlation is not None:
        kind = "fisher" if isinstance(correlation, AutoRegressive | Toeplitz) else "plain"
        rows += [_Row(name, kind, _entry(start + i)) for i, name in enumerate(correlation.names)]
    return rows


def _sd(i: int) -> Callable[[np.ndarray, float], float]:
    return lambda phi, s: float(np.sqrt(s * (phi[i] if i >= 0 else 1.0)))


def _entry(i: int) -> Callable[[np.ndarray, float], float]:
    return lambda phi, s: float(phi[i])


def _visit(at: Unstructured, a: int, b: int) -> Callable[[np.ndarray, float], float]:
    """Standard deviation at a visit, or the correlation of two."""

    def value(phi: np.ndarray, s: float) -> float:
        S = at.matrix(phi)
        return float(np.sqrt(s * S[a, a]) if a == b else S[a, b] / np.sqrt(S[a, a] * S[b, b]))

    return value
