"""Tidy tables of a fit, in the words of R's broom.mixed, for results of both doors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import DataError, InferenceError, OptionError
from ..fit.fitted import Fitted
from ..formula.frame import as_numeric, to_pandas
from ..inference.coefficients import check_alpha
from ..inference.rows import fit_rows, has_scale
from ..inference.tails import t_quantile
from .coefficients import CoefficientTables
from .estimates import variance_components
from .influence import influence_of
from .labels import grouping_factors
from .modes import ranef_table

__all__ = ["TidyTables", "criteria", "scaled_residuals"]

_EFFECTS = ("fixed", "ran_pars", "ran_vals")
_COLUMNS = ["effect", "group", "level", "term", "estimate", "std.error", "statistic", "df", "p.value"]
_INTERVAL = ["conf.low", "conf.high"]
_PREFIX = {"sdcor": ("sd", "cor"), "vcov": ("var", "cov")}


class TidyTables(CoefficientTables):
    """Frames with a row per estimate, per fit and per observation."""

    def tidy(
        self,
        effects: str | Sequence[str] = ("fixed", "ran_pars"),
        conf_int: bool = False,
        conf_level: float = 0.95,
        ddf: str | None = None,
        scales: str = "sdcor",
    ) -> pd.DataFrame:
        """Estimates, a row each, in broom.mixed's columns.

        Parameters
        ----------
        effects : sequence of {"fixed", "ran_pars", "ran_vals"}
            Fixed effects; standard deviations and correlations of the random effects; conditional modes.
            They stand in this order, whatever the order asked for.
        conf_int : bool
            Whether to add ``conf.low`` and ``conf.high``.
        conf_level : float
            Of the intervals.
        ddf : str, optional
            Degrees of freedom of the fixed effects, as in `coef_table`.
        scales : {"sdcor", "vcov"}
            Of "ran_pars": standard deviations and correlations, or variances and covariances.

        Returns
        -------
        pandas.DataFrame
            ``effect``, ``group`` (grouping factor; None of fixed effects), ``level`` (with "ran_vals" alone),
            ``term`` (``sd__(Intercept)``, ``cor__(Intercept).Days``, ``sd__Observation`` of the residual),
            ``estimate``, ``std.error``, ``statistic``, ``df``, ``p.value``.  NaN where there is none: of
            "ran_pars" the estimates alone are given, as broom.mixed's Wald method does.  ``std.error`` of
            modes is conditional on b and the variances (lme4's ``condsd``), and so are their intervals;
            `ranef_table`, from which they are, has those that count the estimation of b.

        Raises
        ------
        OptionError
            Effects, scales, a level or `ddf` that there are not.
        InferenceError
            "ran_vals" where the data were removed; what `coef_table` cannot give.

        Examples
        --------
        >>> import pandas as pd, mme
        >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.tidy("ran_pars")[["group", "term", "estimate"]].round(3)
              group                   term  estimate
        0   Subject        sd__(Intercept)    24.740
        1   Subject  cor__(Intercept).Days     0.066
        2   Subject               sd__Days     5.922
        3  Residual        sd__Observation    25.592
        """
        wanted = _check_effects(effects)
        if scales not in _PREFIX:
            raise OptionError(f"scales={scales!r} is not known: 'sdcor' or 'vcov'.")
        alpha = 1.0 - _check_level(conf_level)
        parts = []
        if "fixed" in wanted:
            parts.append(_fixed(self.coef_table(ddf=ddf, alpha=alpha)))
        if "ran_pars" in wanted:
            parts.append(_parameters(self.fitted, scales))
        if "ran_vals" in wanted:
            parts.append(_modes(self.fitted, alpha))
        columns = [name for name in _COLUMNS if name != "level" or "ran_vals" in wanted]
        columns += _INTERVAL if conf_int else []
        data = {
            name: [value for part in parts for value in part.get(name, [None] * len(part["term"]))]
            for name in columns
        }
        text = ("effect", "group", "level", "term")
        return pd.DataFrame(
            {
                name: pd.Series(values, dtype=object if name in text else np.float64)
                for name, values in data.items()
            }
        )

    def glance(self) -> pd.DataFrame:
        """The fit in one row, in broom.mixed's columns.

        Returns
        -------
        pandas.DataFrame
            ``nobs``, ``sigma``, ``logLik``, ``AIC``, ``BIC``, ``REMLcrit`` (``deviance`` of ML), which is
            -2 logLik, and ``df.residual``, rows less parameters.  The criteria are lme4's at both doors,
            under REML too; NaN where parameters were held or penalized, which leaves their number open.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.glance()[["nobs", "sigma", "logLik", "AIC"]].round(2)
           nobs  sigma  logLik      AIC
        0   180  25.59 -871.81  1755.63
        """
        fitted = self.fitted
        own = criteria(fitted)
        name = "REMLcrit" if fitted.reml else "deviance"
        return pd.DataFrame(
            {
                "nobs": [fitted.n],
                "sigma": [float(np.sqrt(fitted.sigma2))],
                "logLik": [fitted.loglik],
                "AIC": [own["AIC"]],
                "BIC": [own["BIC"]],
                name: [-2.0 * fitted.loglik],
                "df.residual": [own["df.residual"]],
            }
        )

    def augment(self, data: Any = None) -> pd.DataFrame:
        """What the fit says of every row, in broom.mixed's columns.

        Parameters
        ----------
        data : DataFrame, mapping of arrays, or anything `pandas.DataFrame` takes, optional
            The data of the fit: its columns come first.  Rows that were left out of the fit (missing values,
            `subset`) have NaN.  By default the response alone stands beside the new columns.

        Returns
        -------
        pandas.DataFrame
            ``.fitted`` (with random effects and offset), ``.resid``, ``.hat`` and ``.cooksd`` (`hatvalues`
            and `cooks_distance`; NaN after an iterative fit and beside a structure of the residuals, and
            Cook's distances of an estimate that is no maximum or has no residual variance), ``.fixed``
            (without random effects),
            and of the model ``.mu`` (`.fitted` again), ``.offset``, ``.sqrtXwt``, ``.sqrtrwt``,
            ``.weights``, ``.wtres`` (residuals times the square roots of the weights).

        Raises
        ------
        DataError
            Other rows than those of the fit: for new ones use `predict`.
        InferenceError
            The data were removed.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.augment()[["Reaction", ".fitted", ".resid"]].head(2).round(1)
           Reaction  .fitted  .resid
        0     249.6    253.7    -4.1
        1     258.7    273.3   -14.6
        """
        rows = _rows(self)
        if data is None:
            return rows
        frame = to_pandas(data)
        frame = frame if isinstance(frame, pd.DataFrame) else pd.DataFrame(frame)
        return _beside(frame, rows, self.fitted)


def criteria(fitted: Fitted) -> dict[str, float]:
    """lme4's information criteria and residual degrees of freedom; NaN of a fit with a restriction."""
    k = np.nan
    if not fitted.restriction:
        free = sum(term.structure.n_parameters(len(term.effects)) for term in fitted.labels.terms)
        own = 0 if fitted.residual is None else fitted.residual.structure.size
        k = int(np.count_nonzero(~np.isnan(fitted.beta))) + free + 1 + own
    return {
        "AIC": 2.0 * k - 2.0 * fitted.loglik,
        "BIC": float(np.log(fitted.n)) * k - 2.0 * fitted.loglik,
        "df.residual": fitted.n - k,
    }


def scaled_residuals(resid: Any, fitted: Fitted) -> np.ndarray:
    """Residuals over their standard deviations, which weights and a structure of the residuals make, (n,)."""
    values = np.asarray(resid, dtype=np.float64)
    if fitted.residual is not None:
        return values / np.sqrt(fitted.sigma2 * fitted.residual.variance)
    weights = None if fitted.design is None else fitted.design.weights
    return (values if weights is None else values * np.sqrt(weights)) / np.sqrt(fitted.sigma2)


def _check_effects(effects: str | Sequence[str]) -> list[str]:
    wanted = [effects] if isinstance(effects, str) else list(effects)
    unknown = [name for name in wanted if name not in _EFFECTS]
    if unknown or not wanted:
        shown = ", ".join(map(repr, unknown)) or "nothing"
        raise OptionError(f"effects: {shown} is not known. Known: {', '.join(_EFFECTS)}.")
    return wanted


def _check_level(level: float) -> float:
    try:
        return 1.0 - check_alpha(1.0 - level)
    except (OptionError, TypeError) as error:
        raise OptionError(f"conf_level={level!r} must lie between 0 and 1, 0.95 for 95 %.") from error


def _fixed(table: pd.DataFrame) -> dict[str, Sequence[Any]]:
    names = {"std.error": "se", "statistic": "t", "p.value": "p", "conf.low": "lower", "conf.high": "upper"}
    out = {name: table[names.get(name, name)].tolist() for name in ("estimate", "df", *names)}
    return {"effect": ["fixed"] * len(table), "term": [str(name) for name in table.index], **out}


def _parameters(fitted: Fitted, scales: str) -> dict[str, Sequence[Any]]:
    """Term by term, the lower triangle column by column; the residual last."""
    table = variance_components(fitted)
    own, cross = _PREFIX[scales]
    groups, terms, values = [], [], []
    for group, rows in table.groupby("grp", sort=False):
        names = rows.loc[rows["var2"].isna(), "var1"].tolist()
        place = {name: number for number, name in enumerate(names)}
        keyed = []
        for row in rows.itertuples(index=False):
            value = getattr(row, scales)
            if row.var2 is None:
                term = f"{own}__{'Observation' if row.var1 is None else row.var1}"
                keyed.append((place[row.var1], place[row.var1], term, value))
            elif np.isnan(row.vcov):  # a structure's correlation, which has no covariance
                keyed.append((len(place), len(keyed), f"cor__{row.var2}", row.sdcor))
            else:
                keyed.append((place[row.var1], place[row.var2], f"{cross}__{row.var1}.{row.var2}", value))
        for *_, term, value in sorted(keyed, key=lambda entry: entry[:2]):
            groups.append(group)
            terms.append(term)
            values.append(value)
    return {"effect": ["ran_pars"] * len(terms), "group": groups, "term": terms, "estimate": values}


def _modes(fitted: Fitted, alpha: float) -> dict[str, Sequence[Any]]:
    """Term by term and effect by effect, all levels of an effect together."""
    if not fitted.labels.terms:
        return {"term": []}
    order, groups, first = [], [], 0
    for term, factor in zip(fitted.labels.terms, grouping_factors(fitted), strict=True):
        size = term.n_levels * len(term.effects)
        order.append(first + np.arange(size).reshape(-1, len(term.effects)).T.ravel())
        groups += [factor] * size
        first += size
    table = ranef_table(fitted).iloc[np.concatenate(order)]
    half = t_quantile(alpha, np.array(np.inf)) * table["se"]
    return {
        "effect": ["ran_vals"] * len(table),
        "group": groups,
        "level": table["level"].tolist(),
        "term": [str(name) for name in table["effect"]],
        "estimate": table["blup"].tolist(),
        "std.error": table["se"].tolist(),
        "conf.low": (table["blup"] - half).tolist(),
        "conf.high": (table["blup"] + half).tolist(),
    }


def _rows(results: Any) -> pd.DataFrame:
    fitted: Fitted = results.fitted
    design = fitted.design
    if design is None:
        raise InferenceError("augment() needs the rows of the fit, and the data were removed.")
    values = results.fittedvalues
    if isinstance(values, pd.Series):
        index = values.index
    else:
        labels = results.model.data.row_labels
        index = pd.RangeIndex(fitted.n) if labels is None else pd.Index(labels)
    given = np.asarray(values, dtype=np.float64)
    resid = np.asarray(results.resid, dtype=np.float64)
    offset = np.zeros(fitted.n) if design.offset is None else design.offset
    weights = np.ones(fitted.n) if design.weights is None else design.weights
    root = np.sqrt(weights)
    hat, cooks = _deletion(fitted)
    return pd.DataFrame(
        {
            fitted.labels.response: design.y,
            ".fitted": given,
            ".resid": resid,
            ".hat": hat,
            ".cooksd": cooks,
            ".fixed": design.X @ np.where(np.isnan(fitted.beta), 0.0, fitted.beta) + offset,
            ".mu": given,
            ".offset": offset,
            ".sqrtXwt": root,
            ".sqrtrwt": root,
            ".weights": weights,
            ".wtres": resid * root,
        },
        index=index,
    )


def _deletion(fitted: Fitted) -> tuple[np.ndarray, np.ndarray]:
    """Leverages and Cook's distances, NaN where the fit has none."""
    none = np.full(fitted.n, np.nan)
    if not fitted.exact or fitted.residual is not None:
        return none, none
    if fitted.restriction or not has_scale(fitted):
        return fit_rows(fitted, "augment()").leverage, none
    frame = influence_of(fitted, None).frame
    return frame["hat"].to_numpy(), frame["cooks"].to_numpy()


def _beside(frame: pd.DataFrame, rows: pd.DataFrame, fitted: Fitted) -> pd.DataFrame:
    """The new columns at the rows of the data, by their labels."""
    if len(frame) == len(rows) and frame.index.equals(rows.index):
        used = None
    elif len(frame) == len(rows) and isinstance(rows.index, pd.RangeIndex):
        used, rows = None, rows.set_axis(frame.index)
    elif frame.index.is_unique and rows.index.isin(frame.index).all():
        used = rows.index
    else:
        raise DataError(
            f"the data are {len(frame)} rows and the fit has {len(rows)}, whose labels are not all in the "
            "index of the data; give the frame of the fit, or for new rows use predict()."
        )
    _check_same(frame if used is None else frame.loc[used], rows, fitted)
    new = [name for name in rows.columns if name.startswith(".")]
    taken = [name for name in new if name in frame.columns]
    if taken:
        raise DataError(f"the data have columns {', '.join(taken)} already; leave them out.")
    right = rows[new] if used is None else rows[new].reindex(frame.index)
    return pd.concat([frame, right], axis=1)


def _check_same(frame: pd.DataFrame, rows: pd.DataFrame, fitted: Fitted) -> None:
    """Refuse other data whose rows have the same labels: by the response, or by the fixed columns."""
    response = fitted.labels.response
    if response in frame.columns:
        values = as_numeric(frame[response])
        same = values is not None and np.array_equal(values, rows[response].to_numpy())
    else:
        design = fitted.design
        assert design is not None
        if fitted.coding is None:
            return
        try:
            coding = fitted.coding()
        except DataError:  # of a model of arrays
            return
        same = np.allclose(coding.fixed(frame), design.X, rtol=1e-12, atol=0.0)
    if not same:
        raise DataError(
            f"the data are not those of the fit: {response!r} differs. For new rows use predict()."
        )
