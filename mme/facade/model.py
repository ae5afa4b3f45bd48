"""MixedLM: statsmodels' linear mixed model class on mme's engine.

Signatures, attributes and the meaning of every number are statsmodels'; the numerics are the engine's.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import numpy as np
import statsmodels.base.model as base

from ..engine.covariance.structure import DIAGONAL, FULL
from ..engine.equations.design import Design, RandomTerm
from ..exceptions import DataError, OptionError
from ..fit.forecast import Preflight
from ..fit.perfect import limit_equations
from ..formula.coding import Coding
from ..formula.frame import ModelFrame, to_pandas
from ..formula.occurrences import Occurrences
from ..hints import data_hint, option_hint
from ..report.many import FitsMany, ManyModel
from .design.coding import FormulaParts, coding_of_formulas, no_coding
from .design.components import LazyVCSpec, VCSpec, components_from_spec
from .design.formula import numeric_matrices, random_effects_matrix
from .design.frame import check_formulas, formula_data, formula_env, naming
from .design.groups import GroupedData, GroupIndex
from .design.inputs import (
    check_index,
    clean_arrays,
    convert_vc,
    groups_name,
    numeric_input,
    re_names,
    two_dimensional,
)
from .design.params import MixedLMParams
from .design.rowwise import row_values, take_columns, with_columns, with_row_names
from .design.vc_formula import component_from_formula
from .fit import fit_model, fit_regularized
from .likelihood import Likelihood
from .loglike import LogLikelihood
from .many import many_model
from .penalty import CovariancePenalty, FixedPenalty
from .planned import preflight_of
from .releases import SPEC
from .results.distribution import MixedLMDistribution
from .results.resampling import with_response
from .results.results import MixedLMResultsWrapper
from .storage import forget_rows, restore, state_of
from .structured import check_times, given_structure

__all__ = ["MixedLM", "mixedlm"]

_BUILT = ("likelihood", "limit_likelihood", "_design_full", "_design_diagonal", "coding", "occurrences")


class MixedLM(FitsMany, LogLikelihood, GroupedData, base.LikelihoodModel):
    """Linear mixed model with random effects of one grouping factor and variance components within it.

    y = X b + Z g + sum_k V_k h_k + e, with g ~ N(0, cov_re) for each group, independent h_k with variance
    vcomp_k and e with variance scale.

    Parameters
    ----------
    endog : array_like, shape (n,)
        Response.
    exog : array_like, shape (n, k_fe)
        Fixed-effects design.
    groups : array_like, shape (n,)
        Label of each row's group; labels of any kind.  Several columns stand for their combinations.
    exog_re : array_like, shape (n, k_re), optional
        Design of the correlated random effects of a group.  By default an intercept per group, or nothing
        where `exog_vc` is given.
    exog_vc : VCSpec or dict, optional
        Variance components; ``exog_vc[name][group]`` is the deprecated dictionary form.
    use_sqrt : bool
        Whether packed parameters given to or returned by `loglike` and `score` are on the scale of the
        Cholesky factor and standard deviations (True), or of covariances and variances (False).
    missing : {"none", "drop", "raise"}
        "drop" drops a row from every input; "none" refuses missing values by name.
    weights : array_like, shape (n,), optional
        Positive prior weights: var(e_i) = scale / weights_i.
    offset : array_like, shape (n,), optional
        Known part of the linear predictor.
    re_structure : str, optional
        Covariance structure of the random effects: "us" (any, the default), "diag", "cs", "homcs", "ar1",
        "hetar1", "toep", "homtoep", "homdiag" or "rr(2)"; see docs/structures.md.  Not statsmodels'.
    **kwargs
        What statsmodels keeps with the data; anything else is refused by name.

    Attributes
    ----------
    k_fe, k_re, k_re2, k_vc : int
        Numbers of fixed effects, random effects per group, entries of the lower triangle of ``cov_re``, and
        variance components.
    k_params : int
        ``k_fe + k_re2``.
    group_labels : list
        Distinct labels, sorted where they sort.
    n_groups, nobs, n_totobs : int
        Number of groups; number of rows (twice).
    row_indices : dict
        Rows of each group, by label.
    endog_li, exog_li, exog_re_li : list of ndarray
        The data group by group; built when asked for.
    reml : bool
        Which likelihood `loglike`, `score` and `hessian` evaluate: that of the last fit, REML before any.

    Notes
    -----
    `loglike`, `score` and `hessian` refer to `reml`, `fe_pen`, `cov_pen` and the `free` pattern of the last
    fit; results never depend on them, so two fits of one model are independent.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> model = mme.MixedLM.from_formula("Reaction ~ Days", sleep, groups="Subject")
    >>> model.fit().fe_params.round(2)
    Intercept    251.41
    Days          10.47
    dtype: float64
    """

    def __init__(
        self,
        endog: Any,
        exog: Any,
        groups: Any,
        exog_re: Any = None,
        exog_vc: VCSpec | dict | None = None,
        use_sqrt: bool = True,
        missing: str = "none",
        weights: Any = None,
        offset: Any = None,
        re_structure: str | None = None,
        **kwargs: Any,
    ) -> None:
        for name in kwargs:
            if name not in ("missing_idx", SPEC, "formula"):
                hint = option_hint(name, "MixedLM")
                raise OptionError(
                    f"argument {name} not permitted for MixedLM initialization{hint and '. Here ' + hint}"
                )
        self.use_sqrt = use_sqrt
        self.reml = True
        self.fe_pen = None
        self.cov_pen = None
        self.re_pen = None
        self._freepat = None
        if groups is None:
            raise AttributeError("'groups' is required: one label per row.")
        groups = to_pandas(groups)
        if isinstance(exog_vc, dict):
            warnings.warn("Using deprecated variance components format", FutureWarning, stacklevel=2)
            exog_vc = convert_vc(exog_vc, groups)
        elif exog_vc is not None and not hasattr(exog_vc, "mats"):
            raise DataError(f"exog_vc must be a VCSpec, or a dict of dicts of matrices, not {exog_vc!r}.")
        self.group_name = groups_name(groups)
        endog, exog, exog_re = (
            numeric_input(what, to_pandas(values))
            for what, values in (("endog", endog), ("exog", exog), ("exog_re", exog_re))
        )
        exog, exog_re = two_dimensional(exog), two_dimensional(exog_re, "x_re1")
        for what, values in (("groups", groups), ("exog_re", exog_re)):
            check_index(what, values, endog if hasattr(endog, "index") else exog)
        rows = row_values(weights, offset, endog)
        cleaned = clean_arrays(endog, exog, groups, exog_re, exog_vc, missing, rows)
        endog, exog, groups, exog_re, exog_vc, self.weights, self.offset = cleaned
        super().__init__(endog, exog, groups=groups, exog_re=exog_re, missing="none", **kwargs)
        self._init_keys.extend(["use_sqrt", "exog_vc", "weights", "offset", "re_structure"])
        self.group_index = GroupIndex.from_labels(groups, len(self.endog))
        spec: Any = exog_vc if exog_vc is not None else VCSpec([], [], [])
        self.exog_vc = LazyVCSpec(components_from_spec(spec, self.group_index), self.group_index)
        self.k_vc = len(self.exog_vc.names)
        self.k_fe = self.exog.shape[1]
        self.nobs = self.n_totobs = len(self.endog)
        self._default_re = exog_re is None and self.k_vc == 0
        self._set_random_effects(exog_re)
        self.re_structure = re_structure
        self.covariance = given_structure(re_structure, self.k_re)
        # uncorrelated effects are statsmodels' pattern of free parameters
        self.tied_covariance = self.covariance if self.covariance.curved else FULL
        self.k_params = self.k_fe + self.k_re2
        if not self._default_re and not self.data._param_names:
            self._set_names(exog_re)

    def _set_random_effects(self, exog_re: Any) -> None:
        if self._default_re:
            self.exog_re = np.ones((self.nobs, 1))
            self.data.exog_re = self.exog_re
            self._set_names(["Group"])
            # an intercept nobody named carries the name of its variance
            self.data.exog_re_names = ["Group Var"]
        elif exog_re is not None:
            self.data.exog_re = exog_re
            self.exog_re = np.asarray(exog_re, dtype=np.float64)
        else:
            self.exog_re = None
        self.k_re = 0 if self.exog_re is None else self.exog_re.shape[1]
        self.k_re2 = self.k_re * (self.k_re + 1) // 2

    def _set_names(self, exog_re: Any) -> None:
        names = re_names(exog_re)
        pairs: list[str] = []
        for i, name in enumerate(names):
            pairs.extend(f"{other} x {name} Cov" for other in names[:i])
            pairs.append(f"{name} Var")
        vc_names = [f"{name} Var" for name in self.exog_vc.names]
        self.data.exog_re_names = names
        self.data.exog_re_names_full = pairs
        self.data.vcomp_names = list(self.exog_vc.names)
        self.data.variance_names = pairs + vc_names
        self.data.param_names = list(self.exog_names) + pairs + vc_names

    def _get_init_kwds(self) -> dict[str, Any]:
        kwds = super()._get_init_kwds()
        if self._default_re:
            kwds["exog_re"] = None
        return kwds

    @classmethod
    def from_formula(
        cls,
        formula: str,
        data: Any,
        re_formula: str | None = None,
        vc_formula: dict[str, str] | None = None,
        subset: Any = None,
        use_sparse: bool = False,
        missing: str = "none",
        *args: Any,
        **kwargs: Any,
    ) -> MixedLM:
        """Build a model from formulas and a data frame.

        Parameters
        ----------
        formula : str
            Response and fixed effects.
        data : DataFrame
        re_formula : str, optional
            One-sided formula of the correlated random effects; by default an intercept per group, or
            nothing where `vc_formula` is given.
        vc_formula : dict of str to str, optional
            One-sided formula of each variance component, meant within each group: labels may be used again
            in another group.  Write ``"0 + C(x)"`` for random intercepts of the levels of x.
        subset : optional
            Rows to use, as in ``data.loc[subset]``.
        use_sparse : bool
            Whether ``exog_vc.mats`` are sparse; the fit is the same.
        missing : {"none", "drop", "raise"}
            "drop" drops rows with a missing value in any column the formulas or `groups` read.
        *args
            Passed on to the constructor.
        **kwargs
            ``groups`` (required: columns, or the labels), ``weights`` and ``offset`` (columns, or a value per
            row of the data), ``re_structure`` ("cs", "ar1", ...), ``eval_env`` (where names are looked up).

        Returns
        -------
        MixedLM

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> model = mme.mixedlm("Reaction ~ Days", sleep, groups="Subject", re_formula="~Days")
        >>> round(model.fit().llf, 3)
        -871.814
        """
        if "groups" not in kwargs:
            raise AttributeError("'groups' is a required keyword argument in MixedLM.from_formula")
        data_hint(data)
        call = {"data": data, "re_formula": re_formula, "vc_formula": vc_formula, "subset": subset}
        call |= {"use_sparse": use_sparse, "missing": missing, **kwargs}
        check_formulas(re_formula, vc_formula)
        vc_formula = vc_formula or None
        others = [text for text in (re_formula, *(vc_formula or {}).values()) if text]
        data, named, added = with_columns(data, kwargs)
        prepared = formula_data(formula, others, data, kwargs.pop("groups"), subset, missing, added)
        data, groups = prepared.frame, prepared.groups
        if kwargs.get("re_structure") is not None:
            check_times(given_structure(kwargs["re_structure"], len(data)), re_formula, data, call["data"])
        missing = "none" if missing == "drop" else missing
        env = formula_env(kwargs)
        exog_re = re_spec = None
        names = [prepared.group_name]
        if re_formula is not None and re_formula.strip() in ("1", "~1", "~ 1"):
            exog_re = np.ones((len(data), 1))
        elif re_formula is not None:
            with naming("re_formula", re_formula, data, prepared.used):
                random = random_effects_matrix(re_formula, data, env, prepared.columns)
            exog_re, re_spec = random.values, random.spec
            names = [c.replace("Intercept", prepared.group_name) for c in random.labels]
        elif vc_formula is not None:
            names = []
        exog_vc = None
        if vc_formula is not None:
            index = GroupIndex.from_labels(groups, len(data))
            parts = []
            for name in sorted(vc_formula):
                text = vc_formula[name]
                with naming(f"vc_formula[{name!r}]", text, data, prepared.used):
                    parts.append(component_from_formula(name, text, data, index, env, use_sparse))
            exog_vc = LazyVCSpec(parts, index)
        kwargs.update(exog_re=exog_re, exog_vc=exog_vc, groups=groups, missing=missing)
        kwargs.update(take_columns(data))
        with naming("formula", formula, data, prepared.used):
            plain = None
            if not args and not kwargs.get("drop_cols"):
                plain = numeric_matrices(formula, data, prepared.columns)
            if plain is not None and plain[0] is not None:
                own = {"missing_idx": None, "formula": formula, SPEC: plain[2]}
                rest = {k: v for k, v in kwargs.items() if k not in ("eval_env", "drop_cols")}
                model = cls(*plain[:2], **{**rest, **own})
                model.formula = formula
                model.data.frame = data
            else:
                # the constructor that is called next looks one frame further up
                kwargs["eval_env"] = 2 if kwargs.get("eval_env") is None else env
                model = super().from_formula(formula, data, *args, subset=None, **kwargs)
        model._set_names(names)
        model._formula_parts = FormulaParts(re_formula, prepared.group_columns, tuple(vc_formula or ()))
        model._re_spec = re_spec
        model._row_names = named
        model._call = None if args else call
        return model

    @property
    def description(self) -> str:
        """The model in a few words: formula or names, rows, groups."""
        formula = getattr(self, "formula", None) or f"{self.endog_names} ~ {' + '.join(self.exog_names)}"
        count = f"{self.n_groups} group{'' if self.n_groups == 1 else 's'}"
        return f"{str(formula)!r}, {self.nobs} rows in {count} ({self.group_name})"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description}>"

    # -- the engine's view ---------------------------------------------------------------------

    def design(self, diagonal: bool = False) -> Design:
        """The model as plain arrays; `diagonal` for uncorrelated random effects."""
        self.need_data()
        key = "_design_diagonal" if diagonal else "_design_full"
        if key not in self.__dict__:
            terms = []
            if self.k_re:
                ones = self.k_re == 1 and bool(np.all(self.exog_re == 1.0))
                terms.append(
                    RandomTerm(
                        self.group_name,
                        self.group_index.codes,
                        self.n_groups,
                        columns=None if ones else np.ascontiguousarray(self.exog_re, dtype=np.float64),
                        covariance=DIAGONAL if diagonal else self.tied_covariance,
                        column_names=tuple(str(c) for c in self.data.exog_re_names),
                    )
                )
            terms.extend(c.term() for c in self.exog_vc.components)
            names = tuple(str(c) for c in self.exog_names)
            rows = self.endog, self.exog, tuple(terms), self.weights, self.offset
            self.__dict__[key] = Design(*rows, names, more_effects_than_rows=True)
        return self.__dict__[key]

    @cached_property
    def likelihood(self) -> Likelihood:
        groups = [np.arange(self.n_groups)] if self.k_re else []
        groups += [c.used_group for c in self.exog_vc.components]
        return Likelihood(self.design(), self.k_re, self.k_vc, groups)

    @cached_property
    def limit_likelihood(self) -> Likelihood:
        """That of the limit sigma -> 0 of a response which the model explains exactly (`mme.fit.perfect`)."""
        groups = self.likelihood.level_groups
        out = Likelihood(self.design(), self.k_re, self.k_vc, groups)
        out.equations = limit_equations(self.likelihood.cross_products())
        return out

    @cached_property
    def coding(self) -> Coding:
        """How the formulas made columns and codes, for rows of other frames; only of `from_formula`.

        Variance components have none.
        """
        self.need_data()
        parts = self.__dict__.get("_formula_parts")
        if parts is None:
            raise no_coding()
        coding = coding_of_formulas(
            self.formula,
            self.data.frame,
            getattr(self.data, SPEC),
            self.exog,
            parts,
            self.__dict__.get("_re_spec"),
            self.exog_re,
            self.data.exog_re_names,
            self.group_index.labels,
            self.exog_vc.components if parts.components else (),
        )
        return with_row_names(coding, self)

    @cached_property
    def occurrences(self) -> Occurrences:
        """Levels of the formula's factors in the rows; only of `from_formula`."""
        return Occurrences.of(self.coding.variables, ModelFrame(self.data.frame))

    def need_data(self) -> None:
        if self.endog is None:
            raise DataError("the data of this model were removed (remove_data); build the model again.")

    def __getstate__(self) -> dict[str, Any]:
        return state_of(self, _BUILT)

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, state)

    def _forget_data(self) -> None:
        forget_rows(self, _BUILT)

    def predict(self, params: Any, exog: Any = None) -> np.ndarray:
        """Mean response from the fixed effects alone.

        Parameters
        ----------
        params : MixedLMParams or array_like
            Only the first `k_fe` entries of a vector are read.
        exog : array_like, shape (m, k_fe), optional
            By default the model's, with its offset; other rows have none.

        Returns
        -------
        ndarray, shape (m,)
        """
        known = None
        if exog is None:
            self.need_data()
            exog, known = self.exog, self.offset
        beta = params.fe_params if hasattr(params, "fe_params") else params[: self.k_fe]
        beta = np.asarray(beta, dtype=np.float64)
        mean = np.dot(exog, np.where(np.isnan(beta), 0.0, beta))
        return mean if known is None else mean + known

    def fit(
        self,
        start_params: Any = None,
        reml: bool = True,
        niter_sa: int = 0,
        do_cg: bool = True,
        fe_pen: FixedPenalty | None = None,
        cov_pen: CovariancePenalty | None = None,
        free: MixedLMParams | None = None,
        full_output: bool = False,
        method: str | list[str] | None = None,
        *,
        solver: str = "auto",
        **fit_kwargs: Any,
    ) -> MixedLMResultsWrapper:
        """Fit by restricted or full maximum likelihood.

        Parameters
        ----------
        start_params : MixedLMParams or array_like, optional
            Start (ratio scale); a vector is packed as `use_sqrt` says, with or without fixed effects.  By
            default moments of the data, and for a scipy `method` the engine's optimum.
        reml : bool
            Restricted (True) or full maximum likelihood.
        niter_sa : int
            Ignored, with a warning.
        do_cg : bool
            False returns the results at the start values.
        fe_pen : statsmodels Penalty, optional
            Penalty on the fixed effects.
        cov_pen : statsmodels CovariancePenalty, optional
            Penalty on cov_re (ratio scale).
        free : MixedLMParams, optional
            Pattern of ones (estimated) and zeros (held at the start value).  The identity as ``cov_re``
            fits uncorrelated random effects.
        full_output : bool
            Keep the history of the search in ``hist``.
        method : str or list of str, optional
            None is the engine's own optimizer; otherwise the name of a scipy optimizer, or several, each
            going on where the optimality conditions fail at the end of the one before.  Where they fail at
            the last end, the engine goes on, unless `maxiter` ended the search or there are penalties or
            values held.
        solver : {"auto", "direct", "iterative", "dense", "cholmod", "superlu"}
            As in `lmer`: "direct" factors ("dense", "cholmod", "superlu" say how), "iterative" needs no
            factor, but its estimates have a Monte Carlo error, which is reported; "auto" is direct unless
            that takes minutes or does not fit in memory, see `preflight`.  What needs the exact likelihood
            (`method`, penalties, most patterns of `free`, ``do_cg=False``) is always direct.
        **fit_kwargs
            gtol, maxiter, eps, maxcor, ftol, tol, disp, maxls; for the iterative solver probes, max_probes,
            seed, goal, accuracy, solve_tol, loglik_probes, exact_steps, progress: see
            `mme.fit.IterativeOptions`.  Others are ignored with a warning.

        Returns
        -------
        MixedLMResultsWrapper
            Around `MixedLMResults`, or, where estimates have a Monte Carlo error, around
            `IterativeMixedLMResults`, which says what it lacks.

        Raises
        ------
        MemoryEstimateError
            The fit is predicted not to fit in memory.
        DataError
            An argument of the wrong type or value, by name.
        ValueError
            ``solver="iterative"`` with something that needs the exact likelihood, an unknown `method`.
        """
        return fit_model(
            self, start_params, reml, niter_sa, do_cg, fe_pen, cov_pen, free, full_output, method, solver,
            fit_kwargs,
        )  # fmt: skip

    def _many_model(self) -> ManyModel:
        return many_model(self, with_response, MixedLM)

    def preflight(self, solver: str = "auto") -> Preflight:
        """What `fit` would take in flops and bytes, which solver it would use and why.

        Only the cross-products, which are proportional to the data, are built, and kept for the fit.

        Parameters
        ----------
        solver : str
            As in `fit`.

        Returns
        -------
        mme.fit.forecast.Preflight
            Prints as a table.

        Raises
        ------
        MemoryEstimateError
            The cross-products alone would not fit in memory.
        """
        return preflight_of(self, solver)

    def fit_regularized(
        self,
        start_params: Any = None,
        method: Any = "l1",
        alpha: Any = 0,
        ceps: float = 1e-4,
        ptol: float = 1e-6,
        maxit: int = 200,
        **fit_kwargs: Any,
    ) -> MixedLMResultsWrapper:
        """Fit with penalized fixed effects, the ratios of (co)variances held at the unpenalized fit.

        Minimizes (y - Xb)'V^-1(y - Xb) + sum_j alpha_j |b_j|, V the marginal covariance of the unpenalized
        fit, by cyclic coordinate descent on the k_fe x k_fe cross-products (Friedman, Hastie &
        Tibshirani 2010).

        Parameters
        ----------
        method : "l1" or statsmodels Penalty
            A penalty object is passed to `fit` as `fe_pen` with its alpha set.  `start_params` is ignored.
        alpha : float or array_like, shape (k_fe,)
            Penalty weights.
        ceps : float
            Coefficients smaller than this are reported as zero.
        ptol : float
            Stop when no coefficient moves by more.
        maxit : int
            Most sweeps.
        **fit_kwargs
            For the unpenalized fit; it needs the exact likelihood, so `solver` is not "iterative".

        Returns
        -------
        MixedLMResultsWrapper
            Standard errors are NaN for coefficients at zero.
        """
        return fit_regularized(self, method, alpha, ceps, ptol, maxit, fit_kwargs)

    def get_distribution(self, params: Any, scale: float, exog: Any = None) -> MixedLMDistribution:
        """A generator of responses from the model.

        Parameters
        ----------
        params : array_like
            Packed fixed effects, covariances and variances, the latter two on the ratio scale.
        scale : float
            Residual variance.
        exog : array_like, optional
            Fixed-effects design; by default the model's.
        """
        return MixedLMDistribution(self, params, scale, exog)


mixedlm = MixedLM.from_formula
