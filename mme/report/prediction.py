"""Predictions with their errors, for results of both doors."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..engine.runtime.scipys import sparse
from ..exceptions import DataError, OptionError
from ..fit.fitted import Fitted
from ..fit.residual import refuse_structure
from ..formula.coding import Coding, NewTerm
from ..formula.newdata import NewRows
from ..inference.coefficients import check_alpha, check_ddf, inference_basis
from ..inference.estimable import estimable
from ..inference.prediction import PredictedRows, linear_predictor, prediction_error, prior_variances
from ..inference.tails import t_quantile
from .labels import grouping_factors
from .reported import Reported

__all__ = ["Prediction", "Predictions", "predict"]

_NEW = ("population", "error", "missing")
_MISSING = -2  # code of a missing label; -1 is a level that the fit did not have


class Predictions(Reported):
    """What results of both doors predict."""

    def get_prediction(
        self,
        data: Any = None,
        random_effects: bool | str | Sequence[str] = True,
        new_levels: str = "population",
        ddf: str | None = None,
        variances: str | None = None,
        offset: Any = None,
        weights: Any = None,
        context: Mapping[str, object] | None = None,
    ) -> Prediction:
        """Predictions with standard errors and intervals.

        Parameters
        ----------
        data : DataFrame or anything the model takes, optional
            Rows; those of the fit by default.  Rows with missing values are predicted as NaN.
        random_effects : bool, str or sequence of str
            True: those of all terms; False: none, the mean of the population; or those of the terms, or
            grouping factors, that are named.
        new_levels : {"population", "error", "missing"}
            What a level that the fit did not have gets: an effect of zero, whose variance is that of the
            population; a DataError; or a missing prediction.
        ddf : {"satterthwaite", "normal", "residual", "kenward-roger"}, optional
            Degrees of freedom of the intervals.  By default Satterthwaite's, and the normal distribution for
            predictions with random effects after an iterative fit.  "kenward-roger" without random effects
            only.
        variances : {"estimated", "given"}, optional
            Whether standard errors of predictions with random effects count what the estimation of the
            variances adds, as glmmTMB's, or not, as lme4's.  By default they do, but not after an iterative
            fit.
        offset, weights : array_like, shape (n,), optional
            Where they were arrays in the fit; others are found in `data`.  Weights divide the variance of new
            observations.
        context : mapping, optional
            Functions of the caller that the formula uses, where a pickle or a file could not hold them.

        Returns
        -------
        Prediction
            NaN in rows with missing values, and in those whose fixed part the data of the fit do not tell
            (they differ in a column that was dropped).

        Raises
        ------
        DataError
            A column that is not there or of another type than in the fit; unseen levels of a factor of the
            fixed part; with ``new_levels="error"`` unseen levels of a grouping factor.
        OptionError
            A term that is not there, a misspelt `new_levels` or `ddf`.

        Notes
        -----
        The standard error is that of the error of prediction, x'(b^ - b) + z'(u^ - u): of the fixed effects,
        of the random effects and what they have in common (Henderson 1975), and what the prediction varies
        by with the estimated variances (to first order; Kackar & Harville 1984).  Without random effects it
        is that of `contrast`.  Intervals of observations add the residual variance and, where random effects
        are left out, theirs.

        References
        ----------
        Henderson (1975), Biometrics 31, 423-447.  Kackar & Harville (1984), JASA 79, 853-862.

        Examples
        --------
        >>> import pandas as pd, mme
        >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> new = pd.DataFrame({"Days": [5, 12], "Subject": [308, 999]})
        >>> result.get_prediction(new).summary_frame()[["mean", "mean_se"]].round(2)
             mean  mean_se
        0  351.99     8.06
        1  377.01    79.05
        """
        return predict(
            self.fitted,
            data,
            random_effects,
            new_levels,
            ddf,
            variances,
            offset,
            weights,
            self._small_sample,
            context,
        )


class Prediction:
    """Predictions of n rows.

    Attributes
    ----------
    predicted_mean : Series, shape (n,)
    missing : dict of str to int
        Missing values of the rows by column: these rows are NaN.
    new_levels : dict of str to int
        Rows at levels that the fit did not have, by grouping factor.
    not_estimable : int
        Rows whose fixed part the data of the fit do not tell: these are NaN.
    """

    def __init__(
        self,
        fitted: Fitted,
        rows: PredictedRows,
        index: pd.Index,
        mean: np.ndarray,
        settings: dict[str, Any],
        cache: MutableMapping[str, Any] | None,
    ) -> None:
        self._fitted, self._rows, self._cache = fitted, rows, cache
        self._known = ~np.isnan(mean)
        self._with_effects: bool = settings["with_effects"]
        self._ddf: str | None = settings["ddf"]
        self._estimated: bool | None = settings["estimated"]
        self._weights: np.ndarray | None = settings["weights"]
        self._left_out: Callable[[], PredictedRows | None] = settings["left_out"]
        self._unknown: bool = settings["unknown"]
        self.missing: dict[str, int] = settings["missing"]
        self.new_levels: dict[str, int] = settings["new_levels"]
        self.not_estimable: int = settings["not_estimable"]
        self.predicted_mean = pd.Series(mean, index=index, name="predicted_mean")

    @cached_property
    def _error(self) -> tuple[np.ndarray, np.ndarray, str]:
        """Variances and degrees of freedom of all rows; NaN where the prediction is."""
        n, known = len(self._known), self._known
        rows = PredictedRows(self._rows.x[known], [_rows_of(term, known) for term in self._rows.terms])
        variance, df = np.full(n, np.nan), np.full(n, np.nan)
        if not self._with_effects:
            basis = inference_basis(self._fitted, self._ddf, None, self._cache)
            count = len(rows.x)
            found = basis.rows(rows.x, np.zeros(count), 0.05, np.ones(count, dtype=bool))
            variance[known], df[known] = found.se**2, found.df
            return variance, df, basis.ddf
        variance[known], df[known], ddf = prediction_error(
            self._fitted, rows, self._ddf, self._estimated, self._cache
        )
        return variance, df, ddf

    @property
    def var_mean(self) -> pd.Series:
        """Variances of the errors of prediction, shape (n,)."""
        return self._series(self._error[0], "var_mean")

    @property
    def se_mean(self) -> pd.Series:
        """Standard errors of prediction, shape (n,)."""
        return self._series(np.sqrt(self._error[0]), "se_mean")

    @property
    def df(self) -> pd.Series:
        """Degrees of freedom of the intervals, shape (n,)."""
        return self._series(self._error[1], "df")

    @property
    def ddf(self) -> str:
        """Whose degrees of freedom."""
        return self._error[2]

    @cached_property
    def _obs_variance(self) -> np.ndarray:
        fitted = self._fitted
        if self._unknown:
            refuse_structure(
                fitted.residual, "the variance of new observations, at other rows than the fit's,"
            )
        weights = 1.0 if self._weights is None else self._weights
        left_out = self._left_out()
        if left_out is None:  # of random effects that cannot be coded the variance is not known
            return np.full(len(self._known), np.nan)
        extra = prior_variances(fitted, left_out, unseen=False)
        return self._error[0] + fitted.sigma2 * (1.0 / weights + extra)

    @property
    def se_obs(self) -> pd.Series:
        """Standard deviations of new observations about their predictions, shape (n,)."""
        return self._series(np.sqrt(self._obs_variance), "se_obs")

    def conf_int(self, obs: bool = False, alpha: float = 0.05) -> pd.DataFrame:
        """Intervals of the means or, if `obs`, of new observations; columns ``lower`` and ``upper``."""
        half = t_quantile(check_alpha(alpha), self._error[1]) * (self.se_obs if obs else self.se_mean)
        frame = {"lower": self.predicted_mean - half, "upper": self.predicted_mean + half}
        return pd.DataFrame(frame, index=self.predicted_mean.index)

    def summary_frame(self, alpha: float = 0.05) -> pd.DataFrame:
        """Predictions and intervals in statsmodels' columns.

        Parameters
        ----------
        alpha : float
            One less the level of the intervals.

        Returns
        -------
        pandas.DataFrame
            ``mean``, ``mean_se``, ``mean_ci_lower``, ``mean_ci_upper``, ``obs_ci_lower``, ``obs_ci_upper``;
            the last two are NaN where the random effects that are left out cannot be coded (groups that were
            given as labels, related levels that are not among the columns or not in their relationship), and
            at other rows than the fit's where a structure of the residuals gives rows
            different variances.  ``attrs`` holds ``ddf``, ``missing``, ``new_levels`` and ``not_estimable``.
        """
        mean = self.conf_int(alpha=alpha)
        # which variance new rows have is not told: see se_obs
        obs = mean * np.nan if self._unknown else self.conf_int(True, alpha)
        out = pd.DataFrame(
            {
                "mean": self.predicted_mean,
                "mean_se": self.se_mean,
                "mean_ci_lower": mean["lower"],
                "mean_ci_upper": mean["upper"],
                "obs_ci_lower": obs["lower"],
                "obs_ci_upper": obs["upper"],
            }
        )
        for name in ("ddf", "missing", "new_levels", "not_estimable"):
            out.attrs[name] = getattr(self, name)
        return out

    def _series(self, values: np.ndarray, name: str) -> pd.Series:
        return pd.Series(values, index=self.predicted_mean.index, name=name)

    def __repr__(self) -> str:
        return f"<Prediction of {len(self.predicted_mean)} rows>"


def predict(
    fitted: Fitted,
    data: Any,
    random_effects: bool | str | Sequence[str] = True,
    new_levels: str = "population",
    ddf: str | None = None,
    variances: str | None = None,
    offset: Any = None,
    weights: Any = None,
    cache: MutableMapping[str, Any] | None = None,
    context: Mapping[str, object] | None = None,
) -> Prediction:
    """See `Predictions.get_prediction`; `cache` as in `mme.report.coefficients.coef_table`."""
    if new_levels not in _NEW:
        raise OptionError(f"new_levels={new_levels!r} is not known. Known: {', '.join(_NEW)}.")
    if variances not in (None, "estimated", "given"):
        raise OptionError(f"variances={variances!r} is not known. Known: estimated, given.")
    if ddf is not None:
        check_ddf(ddf)
    used = _terms_used(fitted, random_effects)
    rows, left_out, index, own_offset, own_weights, missing = _rows(
        fitted, data, used, offset, weights, context
    )
    known = ~np.isnan(rows.x).any(axis=1)
    told = known.copy()
    if data is not None:
        told[known] = estimable(fitted, rows.x[known], cache)
    not_estimable = int(np.sum(known & ~told))
    known = told
    unseen: dict[str, int] = {}
    for label, term in zip(fitted.labels.terms, rows.terms, strict=True):
        if isinstance(term, tuple):
            codes, columns = term
            known &= codes != _MISSING
            if columns is not None:
                known &= ~np.isnan(columns).any(axis=1)
            new = codes == -1
            if new.any():
                unseen[label.group] = int(new.sum())
                known &= ~new if new_levels == "missing" else True
    if unseen and new_levels == "error":
        listed = ", ".join(f"{name} ({number} rows)" for name, number in unseen.items())
        raise DataError(
            f"new rows have levels that the fit did not have: {listed}. new_levels='population' gives them "
            "an effect of zero, 'missing' no prediction."
        )
    modes = fitted.modes() if any(used) and fitted.modes is not None else []
    mean = np.where(known, linear_predictor(rows, fitted.beta, modes), np.nan)
    if own_offset is not None:
        mean = mean + own_offset
    settings = {
        "with_effects": any(used),
        "ddf": ddf,
        "estimated": None if variances is None else variances == "estimated",
        "weights": own_weights,
        "left_out": left_out,
        "unknown": data is not None and fitted.residual is not None and not fitted.residual.structure.uniform,
        "missing": missing,
        "new_levels": unseen,
        "not_estimable": not_estimable,
    }
    return Prediction(fitted, rows, index, mean, settings, cache)


def _terms_used(fitted: Fitted, random_effects: bool | str | Sequence[str]) -> list[bool]:
    """Whether the effects of each term are in the prediction."""
    labels = fitted.labels.terms
    if isinstance(random_effects, bool | np.bool_):
        return [bool(random_effects)] * len(labels)
    if not isinstance(random_effects, str | Sequence):
        raise OptionError(
            f"random_effects={random_effects!r} must be True, False, or names of terms or grouping factors."
        )
    names = [random_effects] if isinstance(random_effects, str) else list(random_effects)
    factors = grouping_factors(fitted)
    known = list(dict.fromkeys([*(term.group for term in labels), *factors]))
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise OptionError(
                f"random_effects names {name!r}, which is no term or grouping factor.{hint} "
                f"Known: {', '.join(known)}."
            )
    return [term.group in names or factor in names for term, factor in zip(labels, factors, strict=True)]


def _rows(
    fitted: Fitted,
    data: Any,
    used: Sequence[bool],
    offset: Any,
    weights: Any,
    context: Mapping[str, object] | None,
) -> tuple[
    PredictedRows, Callable[[], PredictedRows | None], pd.Index, np.ndarray | None, np.ndarray | None, dict
]:
    """Rows with the terms used, and with those left out; index, offset, weights, missing values."""
    if data is None:
        return _own_rows(fitted, used, offset, weights)
    if fitted.coding is None:
        raise DataError("new rows need the formula of the model, and there is none.")
    coding = fitted.coding()
    if any(used) and coding.random_reason:
        raise DataError(f"random effects of new rows: {coding.random_reason}; take random_effects=False.")
    rows = coding.rows(data, context)
    x = coding.fixed(rows)
    none: list[Any] = [None] * len(used)
    terms = _coded(coding.random(rows, used), used) if any(used) else none
    own_offset, own_weights = coding.offset(rows, offset), _weights(coding, rows, weights)

    def left_out() -> PredictedRows | None:
        if coding.random_reason:
            return None
        if all(used):
            return PredictedRows(x, none)
        others = [not here for here in used]
        # variances of related levels differ from level to level
        design = fitted.design
        related = [design is not None and design.terms[t].relation is not None for t in range(len(used))]
        needed = [coding.random_terms[t].group.columns for t, own in enumerate(related) if own and others[t]]
        if any(name not in rows.data.columns for names in needed for name in names):
            return None
        return PredictedRows(x, _coded(coding.random(rows, related), others))

    counted = {name: number for name, number in rows.missing.items() if number}
    return PredictedRows(x, terms), left_out, rows.index, own_offset, own_weights, counted


def _weights(coding: Coding, rows: NewRows, given: Any) -> np.ndarray | None:
    """Weights of new observations: one each where the fit's are not among the new rows."""
    if given is None and ("weights" in coding.given or coding.named.get("weights") not in rows.data.columns):
        return None
    weights = coding.weights(rows, given)
    if weights is not None and (bad := int(np.sum((weights <= 0.0) | np.isinf(weights)))):
        raise DataError(f"weights of new rows must be positive and finite; {bad} are not.")
    return weights


def _coded(terms: Sequence[NewTerm], used: Sequence[bool]) -> list[Any]:
    out: list[Any] = []
    for term, here in zip(terms, used, strict=True):
        codes = term.codes.astype(np.int64)
        if term.missing is not None:
            codes = np.where(term.missing, _MISSING, codes)
        out.append((codes, term.columns) if here else None)
    return out


def _own_rows(fitted: Fitted, used: Sequence[bool], offset: Any, weights: Any) -> Any:
    design = fitted.design
    if design is None:
        raise DataError("the rows of the fit were removed: give data.")
    if offset is not None or weights is not None:
        raise OptionError("offset and weights go with data; the rows of the fit have their own.")
    terms = []
    for term in design.terms:
        Z = term.Z
        if Z is not None:
            terms.append(sparse.csr_array(Z))
        else:
            assert term.codes is not None
            terms.append((np.asarray(term.codes, dtype=np.int64), term.columns))
    parts = [term if here else None for term, here in zip(terms, used, strict=True)]
    rest = [None if here else term for term, here in zip(terms, used, strict=True)]
    index = pd.RangeIndex(design.n) if fitted.row_labels is None else pd.Index(fitted.row_labels())
    X = np.asarray(design.X, dtype=np.float64)
    weights = design.weights if fitted.residual is None else 1.0 / fitted.residual.variance
    return PredictedRows(X, parts), lambda: PredictedRows(X, rest), index, design.offset, weights, {}


def _rows_of(term: Any, known: np.ndarray) -> Any:
    if term is None or not isinstance(term, tuple):
        return term if term is None else term[np.flatnonzero(known)]
    codes, columns = term
    return codes[known], None if columns is None else columns[known]
