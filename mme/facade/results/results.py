"""Results of MixedLM: statsmodels' names and shapes, computed when asked for."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import statsmodels.base.model as base
from statsmodels.iolib import summary2
from statsmodels.tools.sm_exceptions import SingularMatrixWarning

from ...engine.covariance.boundary import is_singular, zero_effects
from ...engine.covariance.patterns import Pattern
from ...engine.covariance.structure import FULL
from ...exceptions import DataError
from ...fit.fitted import Fitted, Labels, TermLabels
from ...formula.frame import to_pandas
from ..covariance import invert, well_conditioned
from ..design.frame import plain_frame
from ..design.params import MixedLMParams
from ..design.vc_formula import formula_columns
from ..likelihood import relative_factors
from ..penalty import CovariancePenalty, FixedPenalty
from ..releases import SPEC, cache_readonly
from ..structured import at_boundary, lay_along
from .blups import (
    covariances_of,
    design_modes,
    effect_labels,
    effects_of,
    group_covariances,
    random_effect_arrays,
)
from .hypotheses import HypothesisTests
from .intervals import keep_own_labels
from .lazy import LazyDict
from .profile import profile_variance
from .resampling import FacadeResampling
from .summary import restriction, summary_tables

if TYPE_CHECKING:
    from ...engine.iterative.root import MonteCarlo
    from ..likelihood import Likelihood
    from ..protocol import MixedModel

__all__ = ["MixedLMResults", "MixedLMResultsWrapper"]


class MixedLMResults(FacadeResampling, HypothesisTests, base.ResultMixin):
    """Results of fitting a `MixedLM`.

    Attributes
    ----------
    params : ndarray, shape (k_fe + k_re2 + k_vc,)
        Fixed effects; lower triangle of cov_re / scale, row by row; vcomp / scale.  **Ratio scale**, and so
        are ``bse``, ``tvalues``, ``pvalues``, ``conf_int()`` and ``cov_params()``.
    fe_params : ndarray, shape (k_fe,)
        Fixed effects; NaN where a dependent column was dropped.
    bse_fe : ndarray, shape (k_fe,)
        Their standard errors, from the observed information of all parameters.
    cov_re : ndarray, shape (k_re, k_re)
        Covariance of the random effects.  **Variance scale**.
    cov_re_unscaled : ndarray, shape (k_re, k_re)
        ``cov_re / scale``.  **Ratio scale**.
    vcomp : ndarray, shape (k_vc,)
        Variance components.  **Variance scale**.
    scale : float
        Residual variance.
    bse_re : ndarray, shape (k_re2 + k_vc,)
        Standard errors of cov_re (lower triangle) and vcomp.  **Variance scale**: the delta rule on ratio and
        residual variance.
    llf : float
        Log-likelihood maximized (restricted under REML; less penalties).
    converged : bool
    mle_retvals : dict
        How the fit went: converged, message (one sentence), reason (why the search stopped), evaluations,
        iterations, gradient_norm, newton_decrement; of the engine's fits also solver and seconds.
    hist : list or None
        History of the search with ``full_output=True``.
    method : {"REML", "ML"}
    params_object : MixedLMParams
        The parameters in pieces.  **Ratio scale**.
    freepat : MixedLMParams or None
        The `free` argument of the fit.
    boundary : list of str
        Names of variances estimated as zero and of pairs estimated as perfectly correlated.
    monte_carlo : mme.engine.iterative.root.MonteCarlo or None
        Monte Carlo errors of an iterative fit (`IterativeMixedLMResults`); None for exact estimates.
    """

    monte_carlo: MonteCarlo | None = None

    def __init__(
        self,
        model: MixedModel,
        params: MixedLMParams,
        *,
        scale: float,
        llf: float,
        reml: bool,
        converged: bool,
        retvals: dict[str, Any],
        fe_pen: FixedPenalty | None = None,
        cov_pen: CovariancePenalty | None = None,
        free: MixedLMParams | None = None,
        regularized: bool = False,
        perfect: bool = False,
    ) -> None:
        super().__init__(model, params.get_packed(use_sqrt=False, has_fe=True))
        self.scale = float(scale)
        self.nobs = model.nobs
        self.df_resid = model.nobs - int(np.count_nonzero(~np.isnan(params.fe_params)))
        self.params_object = params
        self.fe_params = np.asarray(params.fe_params, dtype=np.float64)
        self.cov_re_unscaled = np.asarray(params.cov_re, dtype=np.float64)
        self.cov_re = self.scale * self.cov_re_unscaled
        self.vcomp = self.scale * np.asarray(params.vcomp, dtype=np.float64)
        self.reml = reml
        self.method = "REML" if reml else "ML"
        self.converged = bool(converged)
        self.mle_retvals = retvals
        self.hist: list | None = None
        self.fe_pen, self.cov_pen = fe_pen, cov_pen
        self.k_fe, self.k_re, self.k_re2, self.k_vc = model.k_fe, model.k_re, model.k_re2, model.k_vc
        self.use_sqrt = model.use_sqrt
        self.freepat = free
        self.regularized = regularized
        self.perfect = perfect
        self._llf = float(llf)
        self._orthonormal: tuple[np.ndarray, np.ndarray] | None = None
        self._data_in_cache = ["fittedvalues", "resid", "random_effects", "random_effects_cov"]

    # -- likelihood ----------------------------------------------------------------------------

    @property
    def _likelihood(self) -> Likelihood:
        """The model's; of a response that it explains exactly, that of the limit which was fitted."""
        return self.model.limit_likelihood if self.perfect else self.model.likelihood

    @property
    def llf(self) -> float:
        """Log-likelihood at the estimate."""
        return self._llf

    def _df_information(self) -> float:
        if self.freepat is not None:
            return float(np.sum(self.freepat.get_packed(use_sqrt=False, has_fe=True))) + 1
        structure = self.model.covariance
        tied = self.k_re2 - structure.n_parameters(self.k_re) if structure.curved else 0
        return int(np.count_nonzero(~np.isnan(self.params))) + 1 - tied

    @cache_readonly
    def aic(self) -> float:
        """Akaike information criterion; NaN under REML."""
        return np.nan if self.reml else -2 * (self.llf - self._df_information())

    @cache_readonly
    def bic(self) -> float:
        """Bayesian information criterion; NaN under REML."""
        return np.nan if self.reml else -2 * self.llf + np.log(self.nobs) * self._df_information()

    @cache_readonly
    def boundary(self) -> list[str]:
        """Variances at zero, and the pair or set of effects whose covariance is singular, by name."""
        model, names = self.model, []
        likelihood = self._likelihood
        if self.k_re:
            D, A = self.cov_re_unscaled, likelihood.natural_root(0)
            effects = [str(n) for n in model.data.exog_re_names]
            zero = zero_effects(D, A)
            free = self.freepat is None or bool(np.all(np.asarray(self.freepat.cov_re)))
            structure = model.covariance
            if isinstance(structure, Pattern):
                free = False
                if not zero.any() and at_boundary(structure, D, np.linalg.qr(A).R):
                    names.append(f"{model.group_name} {structure.name} correlation")
            names += [
                n if n.endswith(" Var") else f"{n} Var" for n, z in zip(effects, zero, strict=True) if z
            ]
            left = np.flatnonzero(~zero)
            if left.size > 1 and free and is_singular(D[np.ix_(left, left)], A[:, left]):
                names.append(" x ".join(effects[i] for i in left) + " correlation")
        first = 1 if self.k_re else 0
        for j, name in enumerate(model.exog_vc.names):
            D = np.full((1, 1), self.params_object.vcomp[j])
            if zero_effects(D, likelihood.natural_root(first + j))[0]:
                names.append(f"{name} Var")
        return names

    # -- standard errors -----------------------------------------------------------------------

    @property
    def normalized_cov_params(self) -> np.ndarray:
        """``cov_params() / scale``."""
        return self._covariance / self.scale

    @normalized_cov_params.setter
    def normalized_cov_params(self, value: Any) -> None:
        # the base class sets None when a result is made: to be computed when asked for
        if value is not None:
            self.__dict__.setdefault("_cache", {})["_covariance"] = np.asarray(value) * self.scale

    @cache_readonly
    def _covariance(self) -> np.ndarray:
        hess, _ = self._likelihood.hessian(
            self.params_object, self.reml, self.fe_pen, self.cov_pen, stationary=self.regularized
        )
        if isinstance(self.model.covariance, Pattern):
            return self._structured_covariance(-hess, self.model.covariance)
        k = hess.shape[0]
        active = ~np.isnan(self.params)
        fixed = np.zeros(k, dtype=bool)
        if self.freepat is not None:
            fixed = self.freepat.get_packed(use_sqrt=False, has_fe=True) == 0
            active &= ~fixed
        if self.regularized:
            active[: self.k_fe] &= self.fe_params != 0
        coordinates, inner = None, None
        if self.fe_pen is None and self.cov_pen is None and not self.regularized:
            equations = self._likelihood.cross_products()
            coordinates = well_conditioned(
                self.k_fe, self.k_re, active, equations.term_bases(), equations.fixed
            )

            def inner() -> np.ndarray:
                return -self._likelihood.orthonormal_hessian(self.params_object, self.reml)

        covariance = self._inverse(-hess, active, coordinates, inner)
        # parameters held at a value have no error
        covariance[fixed, :] = 0.0
        covariance[:, fixed] = 0.0
        return covariance

    def _structured_covariance(self, information: np.ndarray, structure: Pattern) -> np.ndarray:
        """Along the structure's parameters, where no other direction of cov_re exists."""
        likelihood = self._likelihood
        point = likelihood.at(self.cov_re_unscaled, self.params_object.vcomp, self.reml)
        slope = point.slope(self.fe_params)[0]
        root = np.linalg.qr(likelihood.natural_root(0)).R
        size = information.shape[0]
        J, bend = lay_along(structure, self.cov_re_unscaled, root, slope, self.k_fe, size)
        active = np.ones(J.shape[1], dtype=bool)
        active[: self.k_fe] = ~np.isnan(self.fe_params)
        own, _, _ = invert(J.T @ information @ J - bend, active)
        held = np.isnan(np.diag(own))
        covariance = J @ np.where(np.isnan(own), 0.0, own) @ J.T
        lost = np.any(J[:, held] != 0.0, axis=1)
        covariance[lost, :] = covariance[:, lost] = np.nan
        return covariance

    def _inverse(
        self,
        information: np.ndarray,
        active: np.ndarray,
        coordinates: np.ndarray | None = None,
        inner: Callable[[], np.ndarray] | None = None,
    ) -> np.ndarray:
        """Covariance of the active parameters; NaN for others and, with a warning, in flat directions."""
        covariance, flat, better = invert(information, active, coordinates, inner)
        self._orthonormal = None if coordinates is None or better is None else (coordinates, better)
        if flat.size:
            names = [str(self.model.data.param_names[i]) for i in flat]
            warnings.warn(
                f"The information is singular in the direction of {', '.join(names)}: their standard errors "
                "are NaN. The variances cannot be told apart, or are on the boundary.",
                SingularMatrixWarning,
                stacklevel=4,
            )
        return covariance

    def _root_fe(self) -> np.ndarray | None:
        """A root of the covariance of the fixed effects, where that was found in an orthonormal basis."""
        known = self._covariance[: self.k_fe, : self.k_fe]
        if self._orthonormal is None:
            return None
        kept = np.flatnonzero(~np.isnan(np.diag(known)))
        T, C = (part[np.ix_(kept, kept)] for part in self._orthonormal)
        w, P = np.linalg.eigh(C)
        return T @ (P * np.sqrt(np.maximum(w, 0.0)))

    @cache_readonly
    def bse_fe(self) -> np.ndarray:
        """Standard errors of the fixed effects."""
        return self.bse[: self.k_fe]

    @cache_readonly
    def bse_re(self) -> np.ndarray:
        """Standard errors of the lower triangle of cov_re and of vcomp (variance scale).

        The estimate is scale * ratio.  With C the covariance of the parameters and s(params) the residual
        variance as their function, var = g'Cg + ratio^2 2 scale^2 / nu, g = scale e_j + ratio ds/dparams.
        Estimates of variances are skewed: intervals are better taken from `profile_re`.
        """
        ratios = self.params[self.k_fe :]
        if ratios.size == 0:
            return np.zeros(0)
        likelihood = self._likelihood
        point = likelihood.at(self.cov_re_unscaled, self.params_object.vcomp, self.reml)
        nu = point.nu(self.reml)
        C = np.array(self.cov_params())
        if self._orthonormal is not None:
            return self._orthonormal_bse_re()
        own = np.isnan(np.diag(C))[self.k_fe :]
        C = np.where(np.isnan(C), 0.0, C)
        slope = np.zeros(self.params.size)
        slope[: self.k_fe][likelihood.kept] = -2.0 * point.score_beta(self.fe_params) / nu
        slope[self.k_fe :] = -np.concatenate(likelihood.triangle(point.quadratic(self.fe_params))) / nu
        G = self.scale * np.eye(self.params.size)[self.k_fe :] + np.outer(ratios, slope)
        variance = np.einsum("ij,jk,ik->i", G, C, G) + 2.0 * (ratios * self.scale) ** 2 / nu
        return np.where(own, np.nan, np.sqrt(np.maximum(variance, 0.0)))

    def _orthonormal_bse_re(self) -> np.ndarray:
        """`bse_re` by way of the coordinates in which the covariance was found: no digits cancel."""
        assert self._orthonormal is not None
        T, C = self._orthonormal
        k_fe, likelihood = self.k_fe, self._likelihood
        point = likelihood.orthonormal_point(self.params_object, self.reml)
        nu = point.nu(self.reml)
        D = [self.cov_re_unscaled] if self.k_re else []
        D += [np.full((1, 1), v) for v in self.params_object.vcomp]
        bases = likelihood.cross_products().term_bases()
        ratios = np.concatenate(
            [(R @ d @ R.T)[np.tril_indices(R.shape[0])] for R, d in zip(bases, D, strict=True)]
        )
        slope = np.zeros(self.params.size)
        slope[:k_fe][likelihood.kept] = -2.0 * point.score_beta(self.fe_params) / nu
        slope[k_fe:] = -np.concatenate(likelihood.triangle(point.quadratic(self.fe_params))) / nu
        G = self.scale * np.eye(self.params.size)[k_fe:] + np.outer(ratios, slope)
        M = G @ np.where(np.isnan(C), 0.0, C) @ G.T + 2.0 * self.scale**2 / nu * np.outer(ratios, ratios)
        back = T[k_fe:, k_fe:]
        return np.sqrt(np.einsum("ij,jk,ik->i", back, M, back))

    # -- random effects ------------------------------------------------------------------------

    @cache_readonly
    def _blups(self) -> list[np.ndarray]:
        return random_effect_arrays(
            self.model, self._likelihood, self.params_object, self.fe_params, self.reml
        )

    @cache_readonly
    def random_effects(self) -> dict[Hashable, pd.Series]:
        """Conditional means of the random effects given the data: one labelled Series per group."""
        return LazyDict(self.model.group_labels, effects_of(self.model, self._blups))

    @cache_readonly
    def random_effects_cov(self) -> dict[Hashable, pd.DataFrame]:
        """Conditional covariance of each group's random effects given the data and the parameters."""
        model = self.model
        model.need_data()
        matrices = group_covariances(model, self._likelihood, self.params_object, self.scale, self.reml)
        return LazyDict(model.group_labels, covariances_of(model, matrices))

    @cache_readonly
    def fittedvalues(self) -> np.ndarray:
        """Fixed effects plus predicted random effects, shape (nobs,)."""
        fit = self.model.predict(self.params_object)
        for term, u in zip(self.model.design().terms, design_modes(self.model, self._blups), strict=True):
            fit = fit + term.times(u)
        return fit

    @cache_readonly
    def resid(self) -> np.ndarray:
        """Response less `fittedvalues`, shape (nobs,)."""
        return self.model.endog - self.fittedvalues

    # -- tests, prediction, simulation -----------------------------------------------------------

    def predict(self, exog: Any = None, transform: bool = True, *args: Any, **kwargs: Any) -> Any:
        """Mean response from the fixed effects alone; see `MixedLM.predict`."""
        if transform and exog is not None and hasattr(self.model, "formula"):
            if getattr(self.model.data, SPEC, None) is None:
                raise DataError(
                    "the formula's coding was removed with the data; pass the design matrix with "
                    "transform=False."
                )
            exog = to_pandas(exog)
            if isinstance(exog, pd.DataFrame):  # as the fit took its columns: patsy knows no Arrow types
                exog = plain_frame(exog, formula_columns(str(self.model.formula), exog.columns), None)
        return super().predict(to_pandas(exog), transform, *args, **kwargs)

    def profile_re(
        self,
        re_ix: int | str,
        vtype: str,
        num_low: int = 5,
        dist_low: float = 1.0,
        num_high: int = 5,
        dist_high: float = 1.0,
        **fit_kwargs: Any,
    ) -> np.ndarray:
        """Profile log-likelihood of one variance.

        Parameters
        ----------
        re_ix : int or str
            Index of the random effect (``vtype="re"``) or name of the variance component (``"vc"``).
        vtype : {"re", "vc"}
        num_low, num_high : int
            Points below and above the estimate.
        dist_low, dist_high : float
            How far to go below and above it (variance scale).
        **fit_kwargs
            method, gtol, maxiter and so on, as in `MixedLM.fit`.

        Returns
        -------
        ndarray, shape (num_low + 1 + num_high, 2)
            Values of the variance (variance scale) and the log-likelihood maximized over all else.
        """
        return profile_variance(self, re_ix, vtype, num_low, dist_low, num_high, dist_high, fit_kwargs)

    @property
    def fitted(self) -> Fitted:
        """The estimate with its labels, as reports and inference take it from either door."""
        model = self.model
        effects = tuple(str(n) for n in model.data.exog_re_names) if self.k_re else ()
        own = model.tied_covariance
        terms = [TermLabels(model.group_name, effects, model.n_groups, own)] if self.k_re else []
        terms += [TermLabels(c.name, (c.name,), c.n_columns, FULL) for c in model.exog_vc.components]
        return Fitted(
            labels=Labels(model.endog_names, tuple(str(n) for n in model.exog_names), tuple(terms)),
            reml=self.reml,
            n=int(self.nobs),
            nu=int(self.df_resid if self.reml else self.nobs),
            beta=self.fe_params,
            vcov_beta=lambda: np.asarray(self.cov_params())[: self.k_fe, : self.k_fe],
            root_beta=self._root_fe,
            lam=tuple(relative_factors(self.cov_re_unscaled, self.params_object.vcomp)),
            sigma2=self.scale,
            loglik=self.llf,
            converged=self.converged,
            objective=lambda: self._likelihood.objective(self.reml),
            design=self._likelihood.design if model.endog is not None else None,
            monte_carlo=self.monte_carlo,
            restriction=restriction(self),
            modes=lambda: design_modes(model, self._blups),
            row_labels=lambda: model.data.row_labels,
            effect_labels=lambda: effect_labels(model),
            coding=lambda: model.coding,
            occurrences=lambda: model.occurrences,
        )

    # -- summary, storage ------------------------------------------------------------------------

    def summary(
        self,
        yname: str | None = None,
        xname_fe: list[str] | None = None,
        xname_re: list[str] | None = None,
        title: str | None = None,
        alpha: float = 0.05,
        ddf: str | None = None,
    ) -> summary2.Summary:
        """Summary tables: the fit, and the parameters (variances on the variance scale).

        Parameters
        ----------
        yname : str, optional
        xname_fe, xname_re : list of str, optional
            Names of the fixed effects, and of the variance parameters.
        title : str, optional
        alpha : float
            One less the level of the confidence intervals.
        ddf : str, optional
            Degrees of freedom of the fixed effects, as in `coef_table`; None: statsmodels' z.
        """
        return summary_tables(self, self.fitted, yname, xname_fe, xname_re, title, alpha, ddf)

    @property
    def fit_info(self) -> dict[str, Any]:
        """How the fit went: `mle_retvals`, under the name that results of `lmer` have."""
        return self.mle_retvals

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {self.model.description}, {self.method}, llf {self.llf:.4f}, "
            f"{'converged' if self.converged else 'NOT CONVERGED'}>"
        )

    def _repr_html_(self) -> str:
        """The summary with its title, and how the fit went."""
        smry = self.summary()
        how = html.escape(self.mle_retvals["message"])
        return f"<p><b>{html.escape(smry.title)}</b></p>\n{smry.as_html()}<br/>\n{how}"

    def _complete(self, smry: summary2.Summary) -> None:
        """What a kind of fit adds to the summary, in place."""

    @cache_readonly
    def _group_sizes(self) -> tuple[int, float, float, float]:
        sizes = self.model.group_index.sizes
        return len(sizes), float(sizes.min()), float(sizes.max()), float(sizes.mean())

    def remove_data(self) -> None:
        """Forget everything that grows with the rows, from the results and the model.

        What needs it (standard errors, random effects, summary) is computed first and stays.
        """
        for name in (
            "_covariance",
            "bse",
            "bse_fe",
            "bse_re",
            "_blups",
            "_group_sizes",
            "boundary",
            "aic",
            "bic",
        ):
            getattr(self, name)
        self.model._forget_data()
        for name in self._data_in_cache:
            self._cache.pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        # labelled copies are built again from the arrays
        heavy = ("random_effects", "random_effects_cov")
        state["_cache"] = {k: v for k, v in state.get("_cache", {}).items() if k not in heavy}
        return state


class MixedLMResultsWrapper(base.LikelihoodResultsWrapper):
    """Labels the results of a model built from pandas data."""

    _attrs = {  # noqa: RUF012 (statsmodels' protocol)
        "bse_re": ("generic_columns", "variance_names"),
        "error_re": ("generic_columns", "variance_names"),
        "fe_params": ("generic_columns", "xnames"),
        "bse_fe": ("generic_columns", "xnames"),
        "cov_re": ("generic_columns_2d", "exog_re_names"),
        "cov_re_unscaled": ("generic_columns_2d", "exog_re_names"),
    }
    _wrap_attrs = base.wrap.union_dicts(base.LikelihoodResultsWrapper._wrap_attrs, _attrs)
    _wrap_methods = base.LikelihoodResultsWrapper._wrap_methods

    def __repr__(self) -> str:
        return repr(self._results)

    def _repr_html_(self) -> str:
        return self._results._repr_html_()


base.wrap.populate_wrapper(MixedLMResultsWrapper, MixedLMResults)
keep_own_labels(MixedLMResultsWrapper)
