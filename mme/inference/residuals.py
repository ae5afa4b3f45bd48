"""Residuals of a fit: given the random effects, and about the fixed part alone."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import numpy as np

from ..engine.direct.objective import Objective
from ..engine.direct.point import KeptColumns, Point
from ..engine.equations.design import Design, RandomTerm
from ..engine.runtime.parallel import single_threaded_blas
from ..engine.runtime.scipys import scipy_module
from ..exceptions import OptionError
from ..fit.fitted import Fitted
from ..fit.residual import refuse_structure
from .rows import check_scale, design_of, fit_rows, marginal_residual, random_part, random_variances

__all__ = ["KINDS", "check_kind", "residuals", "whitened"]

_PRECISE = 36.0  # -log of the relative error of the quadrature
_EXACT = 1e-10  # 1 - leverage from which a row has a residual


def residuals(fitted: Fitted, kind: str) -> np.ndarray:
    """Residuals of a kind of `KINDS`, shape (n,); NaN where a row's residual has no variance."""
    design = design_of(fitted, f"residuals({kind!r})")
    if fitted.residual is not None and isinstance(kind, str) and kind.lower() == "normalized":
        return _over(fitted.residual.whiten(_raw(fitted, design)), fitted)
    name = check_kind(kind)
    return _BY_NAME[name](fitted, design)


def check_kind(kind: object) -> str:
    """A kind of residuals, as it is written in `KINDS`.

    Raises
    ------
    OptionError
        There is no such kind.
    """
    name = kind.lower().replace("_", "-") if isinstance(kind, str) else ""
    name = _OTHER_WORDS.get(name, name)
    if name in _BY_NAME:
        return name
    if name == "normalized":
        raise OptionError(
            "kind='normalized' is nlme's: of an lme with independent residuals it is 'pearson', of a gls "
            "with this fit's covariance 'whitened' (but for the root that is taken)."
        )
    close = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise OptionError(f"kind={kind!r} is not known.{hint} Known: {', '.join(KINDS)}.")


def _raw(fitted: Fitted, design: Design) -> np.ndarray:
    return marginal_residual(fitted, design) - random_part(fitted, design)


def _pearson(fitted: Fitted, design: Design) -> np.ndarray:
    raw = _raw(fitted, design)
    if fitted.residual is not None:
        return _over(raw / np.sqrt(fitted.residual.variance), fitted)
    return _over(raw if design.weights is None else raw * np.sqrt(design.weights), fitted)


def _standardized(fitted: Fitted, _: Design) -> np.ndarray:
    rows = fit_rows(fitted, "residuals('standardized')")
    left = 1.0 - rows.leverage
    with np.errstate(divide="ignore", invalid="ignore"):
        out = rows.residual * np.sqrt(rows.weights / np.where(left > _EXACT, left, np.nan))
    return _over(out, fitted)


def _marginal_standardized(fitted: Fitted, design: Design) -> np.ndarray:
    rows = fit_rows(fitted, "residuals('marginal-standardized')")
    own = 1.0 / rows.weights + random_variances(fitted, design)
    left = own - np.sum(rows.half_x**2, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = rows.marginal / np.sqrt(np.where(left > _EXACT * own, left, np.nan))
    return _over(out, fitted)


def _whitened(fitted: Fitted, design: Design) -> np.ndarray:
    residual = fitted.residual
    if residual is not None:
        if not residual.parts.affordable:
            refuse_structure(residual, "residuals('whitened') of so many connected rows")
        return _over(
            residual.parts.whiten(marginal_residual(fitted, design), residual.phi, fitted.lam), fitted
        )
    return _over(whitened(fitted, design), fitted)


def _over(values: np.ndarray, fitted: Fitted) -> np.ndarray:
    """In residual standard deviations."""
    check_scale(fitted, "scaled residuals")
    return values / np.sqrt(fitted.sigma2)


def whitened(fitted: Fitted, design: Design) -> np.ndarray:
    """V^-1/2 (y - X b), V = W^-1 + Z D Z', the root in W^1/2 V W^1/2 symmetric; shape (n,).

    With A = W^1/2 V W^1/2 = I + B B', eigenvalues between 1 and M, A^-1/2 is the integral of
    2 / pi (A + s^2)^-1 over s > 0.  Elliptic functions turn it into one of a periodic integrand, of which the
    trapezoidal rule has N points for exp(-2 pi^2 N / (log M + 3)) (Hale, Higham & Trefethen 2008, SIAM J.
    Numer. Anal. 46, 2505-2523).  (A + s^2)^-1 is V^-1 of the covariance D / (1 + s^2): a factorization of the
    same equations.

    Parameters
    ----------
    fitted : Fitted
    design : Design
    """
    fitted.point("residuals('whitened')")  # refuses what has no factorization
    objective = fitted.objective()
    assert isinstance(objective, Objective)
    columns = KeptColumns(design, objective.eq.fixed.kept)
    r = marginal_residual(fitted, design)
    w = np.ones(design.n) if design.weights is None else design.weights
    largest = 1.0 + _bound(fitted, design, w)
    out = np.zeros(design.n)
    with single_threaded_blas():
        for shift, share in _quadrature(largest):
            scale = 1.0 + shift
            lams = [lam / np.sqrt(scale) for lam in fitted.lam]
            point = Point(objective, design, columns, lams)
            left = r.copy()
            pairs = zip(design.terms, point.products(fitted.beta), lams, strict=True)
            for term, z, lam in pairs:
                left -= term.times(term.related(z @ lam @ lam.T))
            out += share / scale * left
    return np.sqrt(w) * out


def _quadrature(largest: float) -> list[tuple[float, float]]:
    """Shifts s^2 and weights of A^-1/2 = sum weight (A + s^2)^-1, eigenvalues between 1 and `largest`."""
    special = scipy_module("special")
    N = int(np.ceil(_PRECISE * (np.log(largest) + 3.0) / (2.0 * np.pi**2)))
    complement = 1.0 - 1.0 / largest
    K = special.ellipkm1(1.0 / largest)
    u = (np.arange(N) + 0.5) * K / N
    far = u > 0.5 * K
    # beyond half a period from its other end, where cn has all its digits
    sn, cn, dn, _ = special.ellipj(np.where(far, K - u, u), complement)
    shift = np.where(far, largest * (cn / sn) ** 2, (sn / cn) ** 2)
    share = dn * np.where(far, np.sqrt(largest) / sn**2, 1.0 / cn**2)
    return list(zip(shift, 2.0 * K / (np.pi * N) * share, strict=True))


def _bound(fitted: Fitted, design: Design, w: np.ndarray) -> float:
    """At least the largest eigenvalue of W^1/2 Z D Z'W^1/2: traces of levels, added over terms."""
    total = 0.0
    for term, lam in zip(design.terms, fitted.lam, strict=True):
        if term.relation is not None:
            # |A| is at most its largest row sum of absolute values, here its trace
            D = float(np.linalg.eigvalsh(lam @ lam.T)[-1]) * float(term.relation.diagonal.sum())
            total += D * _largest_gram(term, w)
            continue
        if term.Z is not None:
            Z = abs(scipy_module("sparse").csr_array(term.Z)).multiply(np.sqrt(w)[:, None])
            # the norm is at most the root of the largest row sum times the largest column sum
            rows, cols = (float(np.max(np.asarray(Z.sum(axis=axis)))) for axis in (1, 0))
            total += float(lam[0, 0]) ** 2 * rows * cols
            continue
        assert term.codes is not None
        z = lam[0, 0] * np.ones((design.n, 1)) if term.columns is None else term.columns @ lam
        total += float(np.max(np.bincount(term.codes, weights=w * np.sum(z * z, axis=1))))
    return total


def _largest_gram(term: RandomTerm, w: np.ndarray) -> float:
    """At least the largest eigenvalue of Z'WZ."""
    if term.Z is not None:
        Z = abs(scipy_module("sparse").csr_array(term.Z)).multiply(np.sqrt(w)[:, None])
        rows, cols = (float(np.max(np.asarray(Z.sum(axis=axis)))) for axis in (1, 0))
        return rows * cols
    z = np.ones((w.size, 1)) if term.columns is None else np.asarray(term.columns)
    return float(np.max(np.bincount(np.asarray(term.codes), weights=w * np.sum(z * z, axis=1))))


_BY_NAME: dict[str, Callable[[Fitted, Design], np.ndarray]] = {
    "raw": _raw,
    "pearson": _pearson,
    "standardized": _standardized,
    "marginal": marginal_residual,
    "marginal-standardized": _marginal_standardized,
    "whitened": _whitened,
}
KINDS = tuple(_BY_NAME)
_OTHER_WORDS = {
    "response": "raw",
    "conditional": "raw",
    "working": "raw",
    "studentized": "standardized",
    "standardised": "standardized",
    "marginal-standardised": "marginal-standardized",
    "marginal-studentized": "marginal-standardized",
}
