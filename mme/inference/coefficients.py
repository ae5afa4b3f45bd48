"""Fixed effects and linear combinations of them, with degrees of freedom: numbers without labels."""

from __future__ import annotations

import difflib
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..engine.direct.objective import Objective
from ..exceptions import InferenceError, OptionError
from ..fit.costs import direct_seconds, second_seconds
from ..fit.fitted import Fitted
from .degrees import FTest, SmallSample, independent, small_sample
from .stochastic import StochasticSample, stochastic_sample
from .structured import structured_sample, why_not
from .tails import t_quantile, t_two_sided

__all__ = ["Basis", "Rows", "check_alpha", "check_ddf", "inference_basis", "longer_than_the_fit"]

_METHODS = ("satterthwaite", "kenward-roger", "normal", "residual")
_INFORMATION = {"satterthwaite": "observed", "kenward-roger": "expected"}
_SOON = 0.05  # seconds that nobody waits for
_PRODUCTS = 1e9  # multiplications a second of dense parts
_FIT = 4.0  # a fit with a sparse S of some 1,000 columns over what its flops at a dense factor's rate predict
_ESTIMABLE = 1e-8  # relative distance of a row from the space of the rows of X


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of hypotheses with their tests, all of shape (q,); Monte Carlo errors after iterative fits."""

    estimate: np.ndarray
    se: np.ndarray
    df: np.ndarray
    t: np.ndarray
    p: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    se_error: np.ndarray | None = None
    df_error: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Basis:
    """By what fixed effects are judged.

    Attributes
    ----------
    fitted : Fitted
    ddf : {"satterthwaite", "kenward-roger", "normal", "residual"}
    information : {"observed", "expected"} or None
        About the variances; None where none is needed.
    pieces : SmallSample or None
    notes : tuple of str
        What a reader of the numbers should know.
    """

    fitted: Fitted
    ddf: str
    information: str | None
    pieces: SmallSample | None
    notes: tuple[str, ...]

    @property
    def kept(self) -> np.ndarray:
        """Coefficients that were not dropped, shape (p,)."""
        return ~np.isnan(self.fitted.beta)

    def covariance(self) -> np.ndarray:
        """Covariance of the kept coefficients."""
        if self.pieces is not None:
            return self.pieces.covariance(self.ddf == "kenward-roger")
        kept = self.kept
        return self.fitted.vcov_beta()[np.ix_(kept, kept)]

    def variances(self, K: np.ndarray) -> np.ndarray:
        """Variances of rows over the kept coefficients, K (q, rank), shape (q,)."""
        if self.pieces is not None:
            return self.pieces.variances(K, self.ddf == "kenward-roger")
        root = self._root()
        if root is not None:
            return np.sum((K @ root) ** 2, axis=1)
        return np.einsum("qa,ab,qb->q", K, self.covariance(), K)

    def roots(self, K: np.ndarray) -> np.ndarray:
        """Rows whose products are the covariances of rows over the kept coefficients, shape (q, rank)."""
        if self.pieces is not None:
            return self.pieces.roots(K, self.ddf == "kenward-roger")
        root = self._root()
        if root is not None:
            return K @ root
        C = self.covariance()
        size = np.sqrt(np.maximum(np.diag(C), 0.0))  # units of the columns cost no digits
        unit = np.where(size > 0.0, size, 1.0)
        w, P = np.linalg.eigh(C / np.outer(unit, unit))
        return (K * unit) @ (P * np.sqrt(np.maximum(w, 0.0)))

    def _root(self) -> np.ndarray | None:
        """A root of the covariance of the kept coefficients, where one is known that did not come from it."""
        return self.fitted.fixed_root()

    def coefficients(self, alpha: float) -> Rows:
        """Every coefficient; NaN where it was dropped."""
        return self.rows(np.eye(self.kept.size), np.zeros(self.kept.size), alpha, self.kept)

    def rows(
        self, L: np.ndarray, value: np.ndarray, alpha: float, estimable: np.ndarray | None = None
    ) -> Rows:
        """t of every row L b = value, L (q, p); NaN where the row is not estimable."""
        ok = self.estimable(L) if estimable is None else estimable
        K = L[np.ix_(ok, self.kept)]
        q = len(L)
        estimate, se, df = np.full(q, np.nan), np.full(q, np.nan), np.full(q, np.nan)
        estimate[ok] = K @ self.fitted.beta[self.kept]
        variance = self.variances(K)
        se[ok] = np.sqrt(np.where(variance >= 0.0, variance, np.nan))
        if self.pieces is not None:
            df[ok] = self.pieces.degrees(K)
        else:
            df[ok] = self._denominator()
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (estimate - value) / se
        p = t_two_sided(t, df)
        half = t_quantile(alpha, df) * se
        rows = Rows(estimate, se, df, t, p, estimate - half, estimate + half)
        if not isinstance(self.pieces, StochasticSample):
            return rows
        se_error, df_error = np.full(q, np.nan), np.full(q, np.nan)
        se_error[ok] = self.pieces.variance_errors(K, self.ddf == "kenward-roger") / (2.0 * se[ok])
        df_error[ok] = self.pieces.degrees_errors(K)
        return replace(rows, se_error=se_error, df_error=df_error)

    def f_test(self, L: np.ndarray, value: np.ndarray) -> FTest:
        """F of the rows L b = value together; dependent rows count once."""
        nothing = FTest(np.nan, np.nan, np.nan)
        if not np.all(self.estimable(L)):
            return nothing
        K = L[:, self.kept]
        difference = K @ self.fitted.beta[self.kept] - value
        if self.pieces is not None:
            return self.pieces.f_test(K, difference, self.ddf == "kenward-roger")
        _, t = independent(self.roots(K).T, difference)
        return FTest(float(np.mean(t * t)), t.size, self._denominator()) if t.size else nothing

    def _denominator(self) -> float:
        return np.inf if self.ddf == "normal" else float(self.fitted.n - np.count_nonzero(self.kept))

    def estimable(self, L: np.ndarray) -> np.ndarray:
        """Whether the data tell L b, for every row; all do where no column was dropped."""
        kept = self.kept
        if kept.all():
            return np.ones(len(L), dtype=bool)
        if self.fitted.design is None:
            raise InferenceError(
                "combinations of dropped columns need the design, and the data were removed."
            )
        aliases = self.fitted.design.aliases(kept)
        gap = np.abs(L[:, kept] @ aliases - L[:, ~kept]).max(axis=1)
        return gap <= _ESTIMABLE * np.maximum(1.0, np.abs(L).max(axis=1))


def inference_basis(
    fitted: Fitted,
    ddf: str | None = None,
    information: str | None = None,
    cache: MutableMapping[str, Any] | None = None,
) -> Basis:
    """Check what was asked for, and compute it.

    Parameters
    ----------
    fitted : Fitted
    ddf : str or None
        None: Satterthwaite's, and the normal distribution, with a note, where the fit cannot give them.
    information : str or None
        None: observed for Satterthwaite, expected for Kenward and Roger.
    cache : mapping, optional
        As in `mme.inference.degrees.small_sample`.

    Raises
    ------
    OptionError
        Something misspelt.
    InferenceError
        Asked for by name, and this fit cannot give it.
    """
    method = check_ddf(ddf) if ddf is not None else "satterthwaite"
    notes: list[str] = []
    if not fitted.converged:
        notes.append("The fit has not converged.")
    if ddf is None and fitted.restriction:
        notes.append(
            f"Normal distribution: the fit has {fitted.restriction}, so that there are no degrees of freedom."
        )
        method = "normal"
    if ddf is None and fitted.residual is not None and (reason := why_not(fitted)):
        notes.append(f"Normal distribution: {reason}.")
        method = "normal"
    if method not in _INFORMATION:
        if information is not None and ddf is not None:
            raise OptionError(f"information={information!r} has no use with ddf={method!r}.")
        return Basis(fitted, method, None, None, tuple(notes))
    chosen = _INFORMATION[method]
    if information is not None:
        chosen = _one_of("information", information, ("observed", "expected"))
    if method == "kenward-roger" and not fitted.reml:
        raise InferenceError(
            "ddf='kenward-roger' is defined for REML, and this is an ML fit. Fit with reml=True, or use "
            "ddf='satterthwaite'."
        )
    pieces = None if cache is None else cache.get(chosen)
    if pieces is None:  # else nothing of the likelihood is asked for: the data may have been removed since
        pieces_of = small_sample if fitted.exact else stochastic_sample
        if fitted.residual is not None:
            pieces_of = structured_sample
        try:
            pieces = pieces_of(fitted, f"ddf={method!r}", chosen, cache)
        except InferenceError as error:
            if ddf is not None or fitted.design is None or not fitted.exact:
                raise
            notes.append(f"Normal distribution: {error}")
            return Basis(fitted, "normal", None, None, tuple(notes))
    at_boundary = pieces.parameters.singular
    if at_boundary:
        names = ", ".join(fitted.labels.terms[t].group for t in at_boundary)
        kept = "held there" if chosen == "observed" else "counted as estimated"
        notes.append(f"Singular: what is at the boundary of the covariance of {names} is {kept}.")
    if pieces.parameters.blind.size:
        notes.append("The data do not tell all variances: no degrees of freedom for what depends on them.")
    return Basis(fitted, method, chosen, pieces, tuple(notes))


def longer_than_the_fit(fitted: Fitted) -> float:
    """Predicted seconds of Satterthwaite's degrees of freedom, where a fit is predicted to take less; else 0.

    Of the design alone, not of the time that this fit took: a summary shows the same twice.
    """
    if fitted.residual is not None:
        seconds = 0.0 if why_not(fitted) else fitted.residual.parts.work() / _PRODUCTS
        return seconds if seconds > 1.0 else 0.0
    objective = fitted.objective()
    assert isinstance(objective, Objective)
    seconds = second_seconds(objective.eq, objective.plan.entries)
    fit = _FIT * direct_seconds(objective.eq, objective.plan.flops)
    return seconds if seconds > max(fit, _SOON) else 0.0


def check_alpha(alpha: float) -> float:
    """One less the level of intervals: a number between 0 and 1."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float | np.number) or not 0.0 < alpha < 1.0:
        raise OptionError(
            f"alpha={alpha!r} must lie between 0 and 1: it is one less the level, 0.05 for 95 % intervals."
        )
    return float(alpha)


def check_ddf(ddf: object) -> str:
    """The name of degrees of freedom."""
    return _one_of("ddf", ddf, _METHODS)


def _one_of(name: str, value: object, known: tuple[str, ...]) -> str:
    text = value.lower().replace("_", "-") if isinstance(value, str) else ""
    if text in known:
        return text
    short = {"kr": "kenward-roger", "z": "normal"}.get(text)
    close = [short] if short else difflib.get_close_matches(text, known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise OptionError(f"{name}={value!r} is not known.{hint} Known: {', '.join(known)}.")
