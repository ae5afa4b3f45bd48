"""Results of a fit with labels, in statsmodels' words where it has them and lme4's where it does not.

Everything that costs more than a look-up is computed when first asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from ..engine.equations.design import Design
from ..fit.fitted import Fitted, Labels, TermLabels
from ..fit.record import Fit
from ..formula import ModelDesign, make_unique
from ..inference.random_terms import n_parameters
from ..inference.structured import variances_of
from ..inference.variance_table import correlation_errors
from ..report.artifact import Artifacts
from ..report.confidence import confidence_intervals
from ..report.estimates import variance_components
from ..report.inferences import Inferences
from ..report.summary import lmm_summary
from ..report.tidy import scaled_residuals
from ..report.wald import WaldTests

if TYPE_CHECKING:
    from ..report.tables import TitledSummary

__all__ = ["LinearMixedModelResults"]


class LabelledModel(Protocol):
    """What results ask of their model (a `LinearMixedModel`)."""

    model_design: ModelDesign

    @property
    def formula(self) -> str:
        """The formula as given."""

    def refit(self, y: np.ndarray, results: LinearMixedModelResults) -> LinearMixedModelResults:
        """Results of another response."""

    def update(self, formula: str | None, data: object, options: dict[str, Any]) -> LinearMixedModelResults:
        """Results of the model with something changed."""


class LinearMixedModelResults(Inferences, WaldTests, Artifacts):
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

    def __init__(
        self, model: LabelledModel, fit: Fit, options: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self.model = model
        self.fit = fit
        self._options = dict(options)

    # -- the criterion ------------------------------------------------------------------------------------

    @property
    def formula(self) -> str:
        """The formula as given."""
        return self.model.formula

    @property
    def method(self) -> str:
        """``"REML"`` or ``"ML"``."""
        return "REML" if self.fit.reml else "ML"

    @property
    def llf(self) -> float:
        """(Restricted) log-likelihood at the estimates."""
        return self.fit.loglik

    loglik = llf

    @property
    def deviance(self) -> float:
        """-2 `llf`; under REML this is lme4's REML criterion."""
        return -2.0 * self.fit.loglik

    @property
    def n_params(self) -> int:
        """Parameters estimated: fixed effects, those of all covariances and the residual variance."""
        structure = self.model.model_design.residual
        return n_parameters(self._design, self.fit.p) + (0 if structure is None else structure.size)

    @property
    def nobs(self) -> int:
        """Rows used."""
        return self.fit.n

    @property
    def n_dropped(self) -> int:
        """Rows left out because of missing values."""
        return self.model.model_design.dropped

    @property
    def df_resid(self) -> int:
        """Rows less parameters, as lme4's ``df.residual``."""
        return self.fit.n - self.n_params

    @property
    def aic(self) -> float:
        """Akaike's criterion, 2 `n_params` - 2 `llf`, under REML too (as lme4)."""
        return 2.0 * self.n_params - 2.0 * self.llf

    @property
    def bic(self) -> float:
        """Schwarz' criterion, log(`nobs`) `n_params` - 2 `llf`, under REML too (as lme4)."""
        return float(np.log(self.nobs)) * self.n_params - 2.0 * self.llf

    # -- fixed effects ------------------------------------------------------------------------------------

    @cached_property
    def fe_params(self) -> pd.Series:
        """Fixed effects, shape (p,); NaN for columns dropped because they depend on earlier ones."""
        return pd.Series(self.fit.beta, index=self._x_names, name="fe_params")

    @property
    def fixef(self) -> pd.Series:
        """lme4's name of `fe_params`."""
        return self.fe_params

    @cached_property
    def bse_fe(self) -> pd.Series:
        """Standard errors of the fixed effects given theta, shape (p,)."""
        return pd.Series(np.sqrt(np.diag(self.fit.vcov_beta)), index=self._x_names, name="bse_fe")

    @cached_property
    def vcov_fe(self) -> pd.DataFrame:
        """Covariance of the fixed effects given theta, shape (p, p)."""
        return pd.DataFrame(self.fit.vcov_beta, index=self._x_names, columns=self._x_names)

    def cov_params(self) -> pd.DataFrame:
        """Covariance of the fixed effects given theta, shape (p, p): `vcov_fe`."""
        return self.vcov_fe

    @cached_property
    def tvalues(self) -> pd.Series:
        """Fixed effects divided by their standard errors, shape (p,)."""
        return (self.fe_params / self.bse_fe).rename("tvalues")

    @cached_property
    def pvalues(self) -> pd.Series:
        """Two-sided p of `tvalues` with Satterthwaite's degrees of freedom, shape (p,): `coef_table`'s."""
        return self.coef_table()["p"].rename("pvalues")

    @cached_property
    def df(self) -> pd.Series:
        """Satterthwaite's degrees of freedom of the fixed effects, shape (p,): `coef_table`'s."""
        return self.coef_table()["df"].rename("df")

    def conf_int(
        self,
        alpha: float = 0.05,
        ddf: str | None = None,
        *,
        method: str = "wald",
        parm: Any = None,
        reml: bool = False,
        n_boot: int = 500,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Confidence intervals.

        Parameters
        ----------
        alpha : float
            One less the level.
        ddf : str, optional
            Degrees of freedom of Wald intervals of fixed effects, as in `coef_table`: Satterthwaite's by
            default.
        method : {"wald", "profile", "boot"}
            "wald": estimate and standard error, of variances on the logarithm and of correlations on Fisher's
            z; "profile": profile likelihood of the ML fit, as lme4's `confint`; "boot": percentiles of a
            parametric bootstrap.
        parm : str or sequence of str, optional
            Fixed effects by their names, ``"sd_Days|Subject"``, ``"cor_Days.(Intercept)|Subject"``,
            ``"sigma"``; ``"beta_"`` stands for all fixed effects, ``"theta_"`` for all others.  By default
            the fixed effects for "wald", else all.
        reml : bool
            Profile the restricted likelihood, which knows variances alone; with few groups its intervals
            cover better than those of ML.
        n_boot, seed : int
            Of the bootstrap.

        Returns
        -------
        pandas.DataFrame
            Columns 0 and 1, as statsmodels'.  ``attrs["notes"]`` says what a reader should know.

        Raises
        ------
        OptionError
            An unknown name or method, an `alpha` outside of (0, 1).
        InferenceError
            What this fit cannot give.
        """
        return confidence_intervals(
            self.fitted,
            method,
            parm,
            alpha,
            ddf=ddf,
            reml=reml,
            n_boot=n_boot,
            seed=seed,
            cache=self._small_sample,
        )

    # -- variances ----------------------------------------------------------------------------------------

    @property
    def scale(self) -> float:
        """Residual variance sigma2, in the squared unit of the response."""
        return self.fit.sigma2

    @property
    def sigma(self) -> float:
        """Residual standard deviation, in the unit of the response."""
        return float(np.sqrt(self.fit.sigma2))

    @cached_property
    def bse_re(self) -> pd.Series:
        """Standard errors of the (co)variances and of the residual variance, on the variance scale.

        From the exact Hessian of the deviance (direct fits) or from the average information (iterative ones);
        at a singular covariance along the covariances of its rank, NaN for what is held at zero and for what
        the data do not tell.  In the order of `varcorr`; estimates of variances are skewed, so that these
        make poor intervals: see `variance_table` and ``conf_int(method="profile")``.  That of a structure's
        correlation (cs, ar1, toep) is of the correlation itself.
        """
        terms, errors = self._design.terms, self.fit.monte_carlo
        if errors is not None:
            entries = [se for se in errors.variance_se]
            residual = errors.sigma2_se
        else:
            estimated = variances_of(self.fitted)
            se = estimated.se
            entries, start = [], 0
            for t, term in enumerate(terms):
                matrix = np.full((term.k, term.k), np.nan)
                own = term.structure.entries(term.k)
                for i, (a, b) in enumerate(own, start=start):
                    matrix[a, b] = matrix[b, a] = se[i]
                if term.structure.tied:
                    part = slice(start, start + len(own))
                    lam = self.fit.lam[t]
                    C = estimated.covariance[part, part]
                    matrix = np.where(
                        np.eye(term.k) > 0.0, matrix, correlation_errors(self.scale * lam @ lam.T, C, own)
                    )
                start += len(own)
                entries.append(matrix)
            residual = float(se[-1])
        values: list[float] = []
        for term, matrix in zip(terms, entries, strict=True):
            shown = term.structure.shown(term.k)
            values += [matrix[a, b] for a, b in shown if a == b]
            values += [matrix[a, b] for a, b in shown if a != b]
        rows = self.varcorr
        index = pd.MultiIndex.from_frame(rows[["grp", "var1", "var2"]])
        return pd.Series([*values, residual], index=index, name="bse_re")

    @cached_property
    def theta(self) -> np.ndarray:
        """Free entries of the relative covariance factors, term by term in lme4's order, shape (n_theta,)."""
        return np.concatenate([np.zeros(0), *(np.atleast_1d(theta) for theta in self.fit.theta)])

    @property
    def varcorr(self) -> pd.DataFrame:
        """Variances and covariances of the random effects, laid out as lme4's ``as.data.frame(VarCorr(m))``.

        Columns ``grp``, ``var1``, ``var2``, ``vcov`` (variance or covariance) and ``sdcor`` (standard
        deviation or correlation): for each term the variances (`var2` is None), then the covariances; the
        residual last.  A correlation with a zero variance is NaN.
        """
        return variance_components(self.fitted)

    # -- random effects -----------------------------------------------------------------------------------

    @cached_property
    def random_effects(self) -> dict[str, pd.DataFrame]:
        """Conditional modes (BLUPs): {grouping factor: frame of levels x effects}.

        Terms with the same grouping factor share a frame.  Rows carry the levels' own values; combinations of
        several columns are text joined by ``:``.
        """
        labels = self.model.model_design
        merged: dict[str, list[int]] = {}
        for t, group in enumerate(labels.groups):
            merged.setdefault(group, []).append(t)
        out = {}
        for group, terms in merged.items():
            values = [np.reshape(self.fit.u[t], (self._design.terms[t].n_levels, -1)) for t in terms]
            names = [name for t in terms for name in self._design.terms[t].column_names]
            index = labels.factors[terms[0]].levels.rename(group)
            out[group] = pd.DataFrame(np.hstack(values), index=index, columns=names)
        return out

    @property
    def ranef(self) -> dict[str, pd.DataFrame]:
        """lme4's name of `random_effects`."""
        return self.random_effects

    @cached_property
    def n_groups(self) -> dict[str, int]:
        """Number of levels of every grouping factor."""
        labels = self.model.model_design
        return {group: factor.n_levels for group, factor in zip(labels.groups, labels.factors, strict=True)}

    @property
    def ngrps(self) -> dict[str, int]:
        """lme4's name of `n_groups`."""
        return self.n_groups

    # -- rows ---------------------------------------------------------------------------------------------

    @cached_property
    def fitted_fixed(self) -> pd.Series:
        """Fitted values without random effects, X b + offset, shape (n,)."""
        return pd.Series(self._fixed(), index=self.model.model_design.index, name="fitted_fixed")

    @cached_property
    def fittedvalues(self) -> pd.Series:
        """Fitted values given the random effects, X b + Z u + offset, shape (n,), on the data's index."""
        fitted = self._fixed()
        for term, u in zip(self._design.terms, self.fit.u, strict=True):
            fitted += term.times(u)
        return pd.Series(fitted, index=self.model.model_design.index, name="fittedvalues")

    @cached_property
    def resid(self) -> pd.Series:
        """Response less `fittedvalues`, shape (n,), on the data's index."""
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
        """With which the search was made; none of results that were stored by earlier versions."""
        return dict(self.__dict__.get("_options", {}))

    # -- how it went --------------------------------------------------------------------------------------

    @property
    def converged(self) -> bool:
        """Whether the optimality conditions were checked and hold."""
        return self.fit.record.converged

    @property
    def is_singular(self) -> bool:
        """Whether some term's covariance is singular: a zero variance or a perfect correlation."""
        return bool(self.fit.record.singular)

    @property
    def fit_info(self) -> dict[str, object]:
        """How the fit went: the fields of `mme.fit.FitRecord` as a dict."""
        return asdict(self.fit.record)

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

    @property
    def _design(self) -> Design:
        return self.model.model_design.design

    @cached_property
    def _x_names(self) -> pd.Index:
        return pd.Index(self._design.x_names, dtype=object)

    def _fixed(self) -> np.ndarray:
        fitted = self._design.X @ np.where(self.fit.kept, self.fit.beta, 0.0)
        return fitted if self._design.offset is None else fitted + self._design.offset
