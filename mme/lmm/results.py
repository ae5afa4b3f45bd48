"""Results of a fit with labels, in statsmodels' words where it has them and lme4's where it does not.

Everything that costs more than a look-up is computed when first asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..fit.fitted import Fitted, Labels, TermLabels
from ..formula import make_unique
from ..report.artifact import Artifacts
from ..report.inferences import Inferences
from ..report.summary import lmm_summary
from ..report.tidy import scaled_residuals
from ..report.wald import WaldTests
from .estimates import Estimates

if TYPE_CHECKING:
    from ..report.tables import TitledSummary

__all__ = ["LinearMixedModelResults"]


class LinearMixedModelResults(Estimates, Inferences, WaldTests, Artifacts):
    """A fitted linear mixed model.

    Parameters
    ----------
    model : LinearMixedModel
    fit : Fit
    options : mapping, optional
        With which it was fitted.

    Attributes
    ----------
    model : LinearMixedModel
    fit : Fit
        The plain arrays behind the labels.
    """

    # -- rows ---------------------------------------------------------------------------------------------

    @cached_property
    def fitted_fixed(self) -> pd.Series:
        """Fitted values without random effects, X b + offset, shape (n,).

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.fitted_fixed.head(2).round(1)
        0    251.4
        1    261.9
        Name: fitted_fixed, dtype: float64
        """
        return pd.Series(self._fixed(), index=self.model.model_design.index, name="fitted_fixed")

    @cached_property
    def fittedvalues(self) -> pd.Series:
        """Fitted values given the random effects, X b + Z u + offset, shape (n,), on the data's index.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.fittedvalues.head(2).round(1)
        0    253.7
        1    273.3
        Name: fittedvalues, dtype: float64
        """
        fitted = self._fixed()
        for term, u in zip(self._design.terms, self.fit.u, strict=True):
            fitted += term.times(u)
        return pd.Series(fitted, index=self.model.model_design.index, name="fittedvalues")

    @cached_property
    def resid(self) -> pd.Series:
        """Response less `fittedvalues`, shape (n,), on the data's index.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.resid.head(2).round(1)
        0    -4.1
        1   -14.6
        Name: resid, dtype: float64
        """
        return pd.Series(self._design.y - self.fittedvalues, name="resid")

    def predict(
        self,
        data: object = None,
        random_effects: bool | str | Sequence[str] = True,
        new_levels: str = "population",
        offset: object = None,
        context: Mapping[str, object] | None = None,
        *,
        to: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> pd.Series | Path:
        """Predictions x'b + z'u; `get_prediction` has their standard errors and intervals.

        Parameters
        ----------
        data, random_effects, new_levels, offset, context
            As in `get_prediction`; with `to` also a source of rows, as `mme.lmer` takes them.
        to : str or path, optional
            A Parquet file to write, chunk by chunk, in the order of the rows: ``predicted_mean``, and
            ``resid`` where the response is among the columns. It is there once it is complete.
        progress : bool, optional
            A bar of the rows that are written; None: on a terminal, once it has taken a while.

        Returns
        -------
        pandas.Series, shape (n,)
            On the index of the data; NaN where a value is missing. With `to`, the path.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> new = pd.DataFrame({"Days": [5, 5], "Subject": [308, 999]})
        >>> result.predict(new).round(1)
        0    352.0
        1    303.7
        Name: predicted_mean, dtype: float64
        >>> result.predict(new, random_effects=False).round(1)
        0    303.7
        1    303.7
        Name: predicted_mean, dtype: float64
        """
        if to is not None:
            # not loaded for one frame
            from .written import write_predictions

            return write_predictions(
                self.formula,
                self.fitted.coding().named.get("offset") if self.fitted.coding is not None else None,
                lambda rows: self.predict(rows, random_effects, new_levels, offset, context),
                data,
                to,
                progress,
            )
        out = self.get_prediction(data, random_effects, new_levels, offset=offset, context=context)
        return out.predicted_mean

    def _refitted(self, y: np.ndarray) -> LinearMixedModelResults:
        return self.model.refit(y, self)

    def _updated(self, formula: str | None, data: object, options: dict[str, Any]) -> LinearMixedModelResults:
        return self.model.update(formula, data, {"reml": self.fit.reml, **self.options, **options})

    @property
    def options(self) -> dict[str, Any]:
        """With which the search was made; none of results that were stored by earlier versions.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> sorted(result.options)[:3]
        ['solver']
        """
        return dict(self.__dict__.get("_options", {}))

    def summary(self, correlation: bool = False, ddf: str | None = None) -> TitledSummary:
        """Tables: the model, fixed effects, variances, scaled residuals and how the fit converged.

        Parameters
        ----------
        correlation : bool
            Whether to show the correlations of the fixed effects, too.
        ddf : str, optional
            Degrees of freedom of the fixed effects, as in `coef_table`; "kenward-roger" adjusts the standard
            errors too.  None: Satterthwaite's, where they take no longer than the fit.

        Returns
        -------
        TitledSummary
            A summary of statsmodels: ``as_text()``, ``as_html()``, ``as_latex()``.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> print(result.summary().tables[1])
          Fixed effect    Coef. Std.Err.    df       t    P>|t|
        0  (Intercept)  251.405   6.8246  17.0  36.838  1.2e-17
        1         Days  10.4673   1.5458  17.0   6.771  3.3e-06
        """
        labels, quantiles = self.model.model_design, None
        if self._design.has_rows:
            quantiles = np.quantile(scaled_residuals(self.resid, self.fitted), (0.0, 0.25, 0.5, 0.75, 1.0))
        return lmm_summary(
            self.fitted,
            formula=self.formula,
            groups=self.n_groups,
            criteria={"AIC": self.aic, "BIC": self.bic},
            n_params=self.n_params,
            dropped=labels.dropped,
            given=labels.given,
            quantiles=quantiles,
            correlation=correlation,
            cache=self._small_sample,
            ddf=ddf,
        )

    def _repr_html_(self) -> str:
        return self.summary().as_html()

    def __repr__(self) -> str:
        return f"<LinearMixedModelResults {self.formula!r}, {self.method}, llf {self.llf:.4f}>"

    @property
    def fitted(self) -> Fitted:
        """The estimate with its labels, as reports and inference take it from either door."""
        labels = self.model.model_design
        terms = tuple(
            TermLabels(group, tuple(term.column_names), term.n_levels, term.structure)
            for group, term in zip(make_unique(labels.groups), self._design.terms, strict=True)
        )
        names = Labels(labels.response, tuple(self._design.x_names), terms)
        return Fitted.of(
            self.fit,
            names,
            lambda: labels.coding,
            lambda: labels.occurrences,
            lambda: labels.index,
            self._effect_labels,
        )

    def _effect_labels(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            (
                np.repeat(np.asarray(factor.levels, dtype=object), term.k),
                np.tile(np.array(term.column_names, dtype=object), term.n_levels),
            )
            for term, factor in zip(self._design.terms, self.model.model_design.factors, strict=True)
        ]
