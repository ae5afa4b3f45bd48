"""Results as a model of the package marginaleffects, by its public `ModelAbstract`.

Imported where that package is asked for, and nowhere else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from marginaleffects.classes import ModelAbstract, ModelVault

from ..exceptions import DataError, InferenceError, OptionError
from ..fit.fitted import Fitted
from ..formula.coding import Coding, Variable
from ..formula.parse import names_in
from ..inference.coefficients import inference_basis
from ..inference.estimable import detached

__all__ = ["MarginalModel", "marginal_model"]


class MarginalModel(ModelAbstract):
    """A fit as marginaleffects takes it: fixed effects, their covariance, and the columns of new rows.

    Parameters
    ----------
    fitted : Fitted
    coding : Coding
    frame : DataFrame
        Rows over which the package averages; those with missing values in the fixed part are left out.
    cache : dict
        What tables of the results share.
    df : float
        Of the t distribution of every row; infinite: the normal distribution.
    """

    def __init__(
        self, fitted: Fitted, coding: Coding, frame: pd.DataFrame, cache: dict[str, Any], df: float
    ) -> None:
        self.fitted, self.coding, self.cache = fitted, coding, cache
        self.df_resid = float(df)
        self.with_offset = bool(coding.offsets or "offset" in coding.named or "offset" in coding.given)
        self.kept = ~np.isnan(fitted.beta)
        self.levels = {v.name: _texts(v) for v in coding.variables if _is_factor(v)}
        names = [v.name for v in coding.variables]
        missing = [name for name in names if name not in frame.columns]
        if missing:
            raise DataError(
                f"the data have no column {', '.join(map(repr, missing))}, which the formula uses."
            )
        used = frame.loc[frame[names].notna().all(axis=1)] if names else frame
        columns = {str(name): self._column(str(name), used[name]) for name in used.columns}
        response = fitted.labels.response
        if response not in columns:
            response = next(iter(names_in(response, frame.columns)[0]), response)
        if response not in columns:
            columns[response] = pl.Series([0.0] * len(used))
        vault = ModelVault(
            coef=np.asarray(fitted.beta[self.kept], dtype=np.float64),
            coefnames=np.array(fitted.labels.fixed, dtype=object)[self.kept],
            formula=self.matrices,
            modeldata=pl.DataFrame(columns),
            package="mme",
            variable_names=[response, *(name for name in names if name != response)],
        )
        super().__init__(fitted, vault)

    def matrices(self, data: Any) -> tuple[None, np.ndarray]:
        """The columns of new rows, as a pre-processing function of the package gives them."""
        return None, self.get_exog(data)

    def _column(self, name: str, values: pd.Series) -> pl.Series:
        """A column in a type that the package takes: levels as Enum, in the order of the fit."""
        if name in self.levels:
            own = self.levels[name]
            back = {level: text for text, level in own.items()}
            texts = [back.get(_plain(value)) for value in values.tolist()]
            unknown = sorted({repr(v) for v, t in zip(values.tolist(), texts, strict=True) if t is None})
            if unknown:
                raise DataError(
                    f"column {name!r} has levels that the fit did not have: {', '.join(unknown[:5])}."
                )
            return pl.Series(name, texts, dtype=pl.Enum(list(own)))
        if isinstance(values.dtype, pd.CategoricalDtype):
            return pl.Series(
                name, values.astype(str).tolist(), dtype=pl.Enum([*map(str, values.cat.categories)])
            )
        if values.dtype == object or isinstance(values.dtype, pd.StringDtype):
            texts = [None if pd.isna(value) else str(value) for value in values.tolist()]
            return pl.Series(name, texts, dtype=pl.Enum(sorted({t for t in texts if t is not None})))
        return pl.Series(name, values.to_numpy())

    def get_exog(self, newdata: Any) -> np.ndarray:
        """The fixed columns, shape (n, rank), and an offset last, which the coefficients do not multiply.

        NaN in rows of which the data of the fit do not tell the mean.
        """
        rows = self.coding.rows(
            {v.name: self._values(newdata, v.name) for v in self.coding.variables}
            | {
                name: newdata[name].to_numpy()
                for name in newdata.columns
                if name not in self.levels and newdata[name].dtype.is_numeric()
            }
        )
        X = self.coding.fixed(rows)
        out = X[:, self.kept]
        if self.with_offset:
            offset = self.coding.offset(rows)
            assert offset is not None
            out = np.column_stack([out, offset])
        if not self.kept.all():
            basis = detached(inference_basis(self.fitted, "normal", cache=self.cache), self.cache)
            out[~basis.estimable(X)] = np.nan
        return out

    def _values(self, newdata: Any, name: str) -> np.ndarray | list:
        column = newdata[name]
        if name not in self.levels:
            return column.to_numpy()
        own = self.levels[name]
        return [own.get(value, value) for value in column.to_list()]

    def get_predict(self, params: np.ndarray, newdata: Any) -> pl.DataFrame:
        """Means of rows from `get_exog`, with random effects of zero."""
        exog = newdata if isinstance(newdata, np.ndarray) else self.get_exog(newdata)
        estimate = exog[:, : int(self.kept.sum())] @ np.asarray(params)
        if self.with_offset:
            estimate = estimate + exog[:, -1]
        return pl.DataFrame({"rowid": np.arange(len(exog), dtype=np.int32), "estimate": estimate})

    def get_autodiff_args(self) -> dict[str, Any] | str:
        """That derivatives are those of a matrix product, where they are."""
        if self.with_offset:
            return "models with an offset"
        return {"model_type": "linear", "family": None, "link": None}

    def get_vcov(self, vcov: Any = True) -> np.ndarray | None:
        """Covariance of the fixed effects.

        Parameters
        ----------
        vcov : bool or {"kenward-roger"}
            True: that of `coef_table`'s standard errors with ``ddf="normal"``.
        """
        if vcov is False or vcov is None:
            return None
        if vcov is not True and vcov != "kenward-roger":
            raise OptionError(f"vcov={vcov!r} is not known: True, False, 'kenward-roger' or an array.")
        ddf = "normal" if vcov is True else "kenward-roger"
        return np.asarray(inference_basis(self.fitted, ddf, cache=self.cache).covariance())


def marginal_model(results: Any, data: Any, df: float) -> MarginalModel:
    """See `mme.report.effects.MarginalEffects.marginaleffects`."""
    fitted: Fitted = results.fitted
    if fitted.coding is None:
        raise InferenceError("marginaleffects goes by a formula, and this model has none.")
    try:
        coding = fitted.coding()
    except DataError as error:
        raise InferenceError(f"marginaleffects goes by a formula: {error}") from error
    return MarginalModel(fitted, coding, data, results._small_sample, df)


def _is_factor(variable: Variable) -> bool:
    levels = variable.levels
    return levels is not None and not all(isinstance(level, bool | np.bool_) for level in levels)


def _texts(variable: Variable) -> dict[str, Any]:
    assert variable.levels is not None
    return {str(_plain(level)): _plain(level) for level in variable.levels}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
