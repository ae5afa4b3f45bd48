"""What to use here instead of an option, an attribute or a kind of data of other software.

Names are those of lme4 and nlme in R, statsmodels, and MixedModels.jl; one table serves every door.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import PurePath

from .exceptions import DataError

__all__ = [
    "attribute_hint",
    "attributes_of",
    "bar_hint",
    "data_hint",
    "function_hint",
    "option_hint",
    "unknown_option",
]

_ONLY_NORMAL = (
    "only normal responses are fitted; for counts and binary data see statsmodels' GEE or lme4's glmer."
)
_STRUCTURE = (
    "residual='ar1(time | subject)', 'us(visit | subject)' and others correlate residuals, "
    "residual='varident(f)' or dispersion='~ f' gives them different variances."
)
_NO_STRUCTURE = (
    "residuals are independent given the random effects; mme.lmer(formula, data, residual=) has structures."
)
_LMER_ALONE = "residual=, dispersion= and relationship= are arguments of mme.lmer(formula, data)."
_PARTS = "random effects stand in the formula: '(x | g)' for intercepts and slopes of x by the groups g"
_MODEL = "or mme.mixedlm, which takes statsmodels' arguments"

# by door: "lmer" (its command line too), "MixedLM" (from_formula and the constructor), "MixedLM.fit"
_HINTS: dict[str, dict[str, str]] = {
    "lmer": {
        "control": "there is no control object; tol, max_evaluations, start and solver are arguments.",
        "method": "reml=True or reml=False chooses the likelihood; the optimizer is mme's own.",
        "optimizer": "the optimizer is mme's own; tol, max_evaluations, start and solver are arguments.",
        "na_action": "missing='drop' leaves rows with missing values out (na.omit), as is done, with a "
        "warning, by default; missing='raise' refuses them (na.fail).",
        "family": _ONLY_NORMAL,
        "reml": "write reml=True or reml=False.",
        "groups": f"{_PARTS}, {_MODEL}.",
        "re_formula": f"{_PARTS}, {_MODEL}.",
        "contrasts": "codings stand in the formula: C(x, Treatment('b')), C(x, contr.sum).",
        "weights": "weights= takes an array or the name of a column, var(e) = sigma2 / weights.",
        "start": "start= takes one vector, in the order of theta of the results.",
        "maxiter": "the limit is max_evaluations=.",
        "gtol": "the tolerance is tol=, of the predicted decrease of the deviance.",
        "verbose": "progress=True shows how an iterative fit goes; fit_info of the results says how it went.",
        "correlation": _STRUCTURE,
        "nagq": "the likelihood of a normal response is exact; there is nothing to integrate numerically.",
        "random_state": "seed= sets the probes of an iterative fit; a direct fit uses no random numbers.",
        "endog": "lmer takes a formula and data; mme.MixedLM(endog, exog, groups) takes arrays.",
        "eval_env": "context= says where names that are no columns are looked up.",
        "use_sparse": "nothing is dense that need not be; solver= chooses the factorization.",
        "fit_intercept": "write '0 + ' in the formula for no intercept.",
    },
    "MixedLM": {
        "relationship": _LMER_ALONE,
        "control": "settings of the search go to fit(): gtol, maxiter, method, solver.",
        "method": "method= and reml= are arguments of fit().",
        "na_action": "missing='drop' leaves rows with missing values out (na.omit), "
        "missing='raise' refuses them (na.fail).",
        "family": _ONLY_NORMAL,
        "reml": "reml=True or reml=False is an argument of fit().",
        "groups": "groups= takes a column's name, or one label per row.",
        "random": "re_formula= takes the random effects of a group, '~x'; vc_formula= variance components.",
        "contrasts": "codings stand in the formula: C(x, Treatment('b')), C(x, Sum).",
        "weights": "weights= takes an array, of from_formula the name of a column too.",
        "offset": "offset= takes an array, of from_formula the name of a column too.",
        "start": "start_params= is an argument of fit().",
        "solver": "solver= is an argument of fit().",
        "maxiter": "maxiter= is an argument of fit().",
        "correlation": _NO_STRUCTURE,
        "residual": _NO_STRUCTURE,
        "dispersion": _NO_STRUCTURE,
        "random_state": "seed= is an argument of fit(), for iterative fits.",
    },
    "MixedLM.fit": {
        "residual": _LMER_ALONE,
        "dispersion": _LMER_ALONE,
        "relationship": _LMER_ALONE,
        "control": "write gtol=, maxiter=, method= or solver=.",
        "optimizer": "method= takes the name of a scipy optimizer; None is mme's own.",
        "na_action": "missing='drop' is an argument of the model.",
        "family": _ONLY_NORMAL,
        "reml": "write reml=True or reml=False.",
        "groups": "groups= is an argument of the model.",
        "start": "the start is start_params=.",
        "max_evaluations": "the limit is maxiter=.",
        "weights": "weights are the model's: MixedLM(..., weights=).",
        "random_state": "the seed of an iterative fit is seed=.",
        "verbose": "disp=True and progress=True say how a fit goes.",
        "cov_type": "standard errors are those of the model; robust ones are not computed.",
    },
}
_ALIASES = {
    "optimizer": "optimiser optim optctrl lmercontrol",
    "na_action": "dropna na_rm nan_policy missing_values",
    "family": "link distribution dist",
    "groups": "group group_col",
    "re_formula": "random vc_formula exog_re exog_vc re random_effects",
    "random": "re random_effects",
    "contrasts": "contrast coding",
    "weights": "wts freq_weights var_weights sample_weight",
    "start": "start_params theta0 init x0 initial theta",
    "maxiter": "max_iter maxfun maxfev maxeval niter iterations niterem max_evaluations",
    "gtol": "ftol xtol rtol atol reltol ftol_rel ftol_abs xtol_rel tolerance",
    "verbose": "disp trace verbosity full_output",
    "correlation": "varfunc cov_struct corr structure",
    "random_state": "rng random_seed",
    "endog": "exog y x z",
    "eval_env": "env environment",
    "method": "reml_method estimation",
}

# By a name of other software: what there is here, alternatives separated by semicolons; the first whose names
# in backticks all exist is shown. Names that both doors' results have do not stand here.
_ATTRIBUTES = {
    # lme4, nlme and R's generics
    "fixef": "`fe_params`",
    "fixed_effects": "`fe_params`",
    "ranef": "`random_effects`",
    "random": "`random_effects`",
    "coef": "`fe_params` and `random_effects`",
    "coefficients": "`fe_params`",
    "VarCorr": "`varcorr`; `cov_re`, `vcomp` and `scale`",
    "varcorr": "`cov_re`, `vcomp` and `scale`",
    "getVarCov": "`varcorr`; `cov_re`",
    "vcov": "`vcov_fe`; `cov_params()`",
    "se": "`bse_fe`",
    "confint": "`conf_int()`",
    "intervals": "`conf_int()`",
    "logLik": "`llf`",
    "log_likelihood": "`llf`",
    "loglik": "`llf`",
    "deviance": "`glance()`, whose REMLcrit or deviance is -2 `llf`",
    "REMLcrit": "`deviance`; `glance()`",
    "isREML": "`method`",
    "AIC": "`aic`",
    "BIC": "`bic`",
    "aicc": "`aic`",
    "sigma2": "`scale`",
    "sigma": "`scale`, of which it is the square root",
    "getME": "`theta`, `fe_params`, `random_effects` and the like, by their names; "
    "`cov_re_unscaled`, `fe_params` and `random_effects`",
    "theta": "`cov_re_unscaled` and `vcomp`",
    "ngrps": "`n_groups`; `model`.n_groups",
    "n_groups": "`model`.n_groups",
    "df_residual": "`df_resid`",
    "dof_residual": "`df_resid`",
    "isSingular": "`is_singular`; `boundary`",
    "is_singular": "`boundary`, which is empty where it is not",
    "check_singularity": "`is_singular`; `boundary`",
    "rePCA": "`varcorr`; `cov_re`",
    "optinfo": "`fit_info`",
    "convergence": "`converged`",
    "allFit": "`fit_info`: the optimum is checked, so that optimizers need not be compared",
    "fitted_values": "`fittedvalues`",
    "residual": "`resid`",
    "bootMer": "`bootstrap()`",
    "refitML": "`refit()` or a fit with reml=False",
    "cooks": "`cooks_distance()`",
    "cooksd": "`cooks_distance()`",
    "cookd": "`cooks_distance()`",
    "leverage": "`hatvalues()`",
    "hat_matrix_diag": "`hatvalues()`",
    "hat": "`hatvalues()`",
    "dfbeta": "`influence()`.dfbeta",
    "dfbetas": "`influence()`.dfbetas",
    "covratio": "`influence()`.frame",
    "case_delete": "`influence(...)` by a factor",
    "rstudent": "`influence()`.frame, whose sigma is that of the remaining rows",
    "rstandard": "`residuals('standardized')`",
    "resid_pearson": "`residuals('pearson')`",
    "resid_studentized": "`residuals('standardized')`",
    "VIF": "`vif()`",
    "check_collinearity": "`vif()`",
    "check_model": "`plot`.check()",
    "qqnorm": "`plot`.qq()",
    "qqmath": "`plot`.qq() of residuals, `plot`.caterpillar() of random effects",
    "dotplot": "`plot`.caterpillar()",
    "plotREsim": "`plot`.caterpillar()",
    "plot_model": "`plot`.coefficients()",
    "emmip": "`plot`.interaction()",
    "interaction_plot": "`plot`.interaction()",
    "plot_predictions": "`plot`.partial()",
    "effect": "`emmeans()`, or `plot`.partial()",
    "allEffects": "`emmeans()`, or `plot`.partial()",
    "Anova": "`anova()`",
    "aov": "`anova()`",
    "drop1": "`anova(type=2)`",
    "linearHypothesis": "`contrast()`",
    "glht": "`contrast()`, or `emmeans(...)`.contrast(adjust='mvt')",
    "model_matrix": "`fitted`.design.X",
    "modelmatrix": "`fitted`.design.X",
    "model_frame": "`augment()`",
    "weights": "`augment()`, in the column .weights",
    "getData": "`augment()`",
    "extractAIC": "`aic`",
    "step": "`ranova()` and `anova(type=2)`; nothing selects terms step by step",
    "fnames": "`n_groups`",
    "nlevs": "`n_groups`",
    "PCA": "`varcorr`; `cov_re`",
    "fortify": "`augment()`",
    # lmerTest, pbkrtest, emmeans, performance, MuMIn, ggeffects, merTools, DHARMa
    "rand": "`ranova()`",
    "exactRLRT": "`test_variance()`",
    "ls_means": "`emmeans()`",
    "lsmeans": "`emmeans()`",
    "marginal_means": "`emmeans()`",
    "difflsmeans": "`emmeans(..., pairs=True)`",
    "pairs": "`emmeans(...)`.pairs()",
    "lstrends": "`emtrends()`",
    "slopes": "`emtrends()`",
    "contest": "`contrast()`",
    "contest1D": "`contrast()`",
    "contestMD": "`contrast()`",
    "calcSatterth": "`contrast()`",
    "ddf": "`df`, or `coef_table(ddf=...)`; `coef_table(ddf=...)`",
    "KRmodcomp": "`contrast(..., ddf='kenward-roger')`",
    "SATmodcomp": "`contrast()`",
    "PBmodcomp": "`bootstrap_test()`",
    "PBrefdist": "`bootstrap_test()`",
    "simr": "`mme.power`",
    "powerSim": "`mme.power`",
    "powerCurve": "`mme.power`",
    "exactLRT": "`test_variance()`",
    "vcovAdj": "`coef_table(ddf='kenward-roger')`",
    "r_squared": "`r2()`",
    "rsquared": "`r2()`",
    "rsquared_adj": "`r2()`",
    "r_squaredGLMM": "`r2()`",
    "ICC": "`icc()`",
    "ggpredict": "`get_prediction()`; `emmeans()`",
    "predictInterval": "`get_prediction()`",
    "REsim": "`ranef_table()`; `tidy('ran_vals')`",
    "simulateResiduals": "`pit_residuals()`",
    "createDHARMa": "`pit_residuals()`",
    "DHARMa": "`pit_residuals()`",
    "testResiduals": "`pit_residuals()`.tests",
    "testUniformity": "`pit_residuals()`.tests",
    "testDispersion": "`pit_residuals()`.tests",
    "testOutliers": "`pit_residuals()`.tests",
    "plotResiduals": "`plot`.pit()",
    "plotQQunif": "`plot`.pit()",
    "deltaMethod": "`delta()`",
    "sandwich": "`coef_table(cluster=...)`",
    "modelsummary": "`mme.table`",
    "tab_model": "`mme.table`",
    "stargazer": "`mme.table`",
    # statsmodels
    "params": "`fe_params` of the fixed effects, `varcorr` and `scale` of the variances, `theta` of the "
    "relative ones",
    "bse": "`bse_fe`",
    "cov_re": "`varcorr`",
    "cov_re_unscaled": "`theta`",
    "vcomp": "`varcorr`",
    "re_params": "`random_effects`",
    "random_effects_cov": "`ranef_table()`; `tidy('ran_vals')`",
    "params_object": "`fe_params` and `theta`",
    "mle_retvals": "`fit_info`",
    "summary2": "`summary()`",
    "outlier_test": "`pit_residuals()`.tests, or `influence()`",
    "get_margeff": "`emtrends()`",
    "t_test_pairwise": "`emmeans(..., pairs=True)`",
    "anova_lm": "`anova()`",
    "compare_lr_test": "`mme.compare`",
    "compare_f_test": "`contrast()`",
    "profile_re": "`profile()`",
    "get_robustcov_results": "`coef_table(cluster=...)`",
    "ssr": "`resid`",
    "fvalue": "`anova()`",
    "f_pvalue": "`anova()`",
    "info_criteria": "`aic` and `bic`",
    "HC0_se": "`coef_table(cluster=...)`",
    "HC1_se": "`coef_table(cluster=...)`",
    "HC3_se": "`coef_table(cluster=...)`",
    "mse_resid": "`scale`",
    "get_distribution": "`simulate()`",
    # MixedModels.jl
    "coeftable": "`coef_table()`",
    "coefnames": "`fe_params`.index; `model`.exog_names",
    "beta": "`fe_params`",
    "betas": "`fe_params`",
    "b": "`random_effects`",
    "loglikelihood": "`llf`",
    "objective": "`deviance`; `llf`",
    "dof": "`n_params`",
    "varest": "`scale`",
    "sdest": "`sigma`; `scale`",
    "stderror": "`bse_fe`",
    "issingular": "`is_singular`; `boundary`",
    "optsum": "`fit_info`",
    "nobs_total": "`nobs`",
    "condVar": "`ranef_table()`; `tidy('ran_vals')`",
    "raneftables": "`ranef_table()`; `random_effects`",
    "ranefinfo": "`ranef_table()`; `random_effects`",
    "parametricbootstrap": "`bootstrap()`",
    "nonparametricbootstrap": "`bootstrap(kind='cluster')`",
    "bootstrap_parameters": "`bootstrap()`",
    "fitted_fixed": "`get_prediction(random_effects=False)`",
    "shortestcovint": "`bootstrap()`, whose conf_int() has percentile and BCa intervals",
    "ranefTable": "`ranef_table()`",
    "leveragevalues": "`hatvalues()`",
    "likelihoodratiotest": "`mme.compare`",
    "lrtest": "`mme.compare`",
}

# functions of other modules, looked for in mme; any method of results is found by its name
_FUNCTIONS = {
    "lme": "`lmer`",
    "Lmer": "`lmer`",
    "lmm": "`lmer`",
    "fit": "`lmer`",
    "fit_mixedmodel": "`lmer`",
    "mixed": "`lmer`",
    "MixedModel": "`lmer`",
    "LMM": "`LinearMixedModel`",
    "mixedLM": "`mixedlm`",
    "dataset": "`data_path`",
    "datasets": "`data_path`",
    "get_rdataset": "`data_path`",
    "load_dataset": "`data_path`",
    "sleepstudy": "`data_path('sleepstudy.csv')`",
    "read": "`load`",
    "open": "`load`",
    "summary_col": "`table`",
    "modelsummary": "`table`",
    "tab_model": "`table`",
    "stargazer": "`table`",
    "lrtest": "`compare`",
    "likelihoodratiotest": "`compare`",
    "simr": "`power`",
    "powerSim": "`power`",
    "powerCurve": "`power`",
    "lmList": "nothing: a regression for each group is statsmodels' ols on the parts of a groupby",
    "glmer": "nothing: " + _ONLY_NORMAL,
    "glmm": "nothing: " + _ONLY_NORMAL,
    "GeneralizedLinearMixedModel": "nothing: " + _ONLY_NORMAL,
    "nlmer": "nothing: only linear predictors are fitted; see R's nlme",
    "lmerControl": "nothing: tol, max_evaluations, start and solver are arguments of `lmer`",
}

_READERS = {
    "csv": "pandas.read_csv({0})",
    "txt": "pandas.read_csv({0})",
    "tsv": "pandas.read_csv({0}, sep='\\t')",
    "tab": "pandas.read_csv({0}, sep='\\t')",
    "parquet": "pandas.read_parquet({0})",
    "pq": "pandas.read_parquet({0})",
    "feather": "pandas.read_feather({0})",
    "arrow": "pandas.read_feather({0})",
    "xlsx": "pandas.read_excel({0})",
    "xls": "pandas.read_excel({0})",
    "dta": "pandas.read_stata({0})",
    "sav": "pandas.read_spss({0})",
    "sas7bdat": "pandas.read_sas({0})",
    "json": "pandas.read_json({0})",
    "rds": "pyreadr.read_r({0})[None]",
}

# the methods that run a query; a polars DataFrame has no collect()
_LAZY = {
    "polars": "collect",
    "dask": "compute",
    "dask_expr": "compute",
    "pyspark": "toPandas",
    "duckdb": "df",
}


def option_hint(name: str, door: str) -> str:
    """What to use at a door for an option of other software.

    Parameters
    ----------
    name : str
        As it was written: ``"REML"``, ``"na.action"``.
    door : {"lmer", "MixedLM", "MixedLM.fit"}

    Returns
    -------
    str
        A sentence without its subject, or an empty string.
    """
    table = _HINTS[door]
    plain = re.sub(r"[.\-]", "_", name).strip("_").lower()
    if plain in table:
        return table[plain]
    return next(
        (table[key] for key, words in _ALIASES.items() if plain in words.split() and key in table), ""
    )


def unknown_option(name: str, door: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown option: what to use instead, a near name, or the names there are.

    Parameters
    ----------
    name : str
    door : str
        As in `option_hint`.
    known : iterable of str

    Returns
    -------
    str
    """
    known = list(known)
    hint = option_hint(name, door)
    if hint:
        spelt = f"Did you mean {name.lower()}? " if name.lower() in known else ""
        return f"{spelt}Here {hint}"
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."


def attribute_hint(name: str, has: Callable[[str], bool], names: Iterable[str] = ()) -> str:
    """What results call an attribute of other software's results, or one that is nearly so called.

    Parameters
    ----------
    name : str
    has : callable (str) -> bool
        Whether the results have an attribute; of ``"mme.compare"``, whether the module has it.
    names : iterable of str
        Their attributes, for near names.

    Returns
    -------
    str
        ``"did you mean varcorr?"``; empty if nothing is known of it.
    """
    return _meant(_ATTRIBUTES.get(name, ""), has) or _near(name, names)


def function_hint(name: str, has: Callable[[str], bool], method: Callable[[str], bool]) -> str:
    """What to use in place of a function of another module that mme does not have.

    Parameters
    ----------
    name : str
    has, method : callable (str) -> bool
        Whether the module, and results of a fit, have a name.

    Returns
    -------
    str
        As of `attribute_hint`.
    """
    own = _meant(_FUNCTIONS.get(name, ""), has)
    if own:
        return own
    if method(name):
        return f"did you mean results.{name}, of the results of a fit?"
    meant = _meant(_ATTRIBUTES.get(name, ""), lambda target: not target.startswith("mme.") and method(target))
    return meant and f"{meant[:-1]}, of the results of a fit?"


def attributes_of(kind: type) -> list[str]:
    """Public names of a class, without looking at values."""
    return sorted({name for base in kind.__mro__ for name in vars(base) if not name.startswith("_")})


def _meant(text: str, has: Callable[[str], bool]) -> str:
    for choice in text.split("; ") if text else []:
        if all(has(target.partition("(")[0]) for target in re.findall(r"`([^`]*)`", choice)):
            shown = choice.replace("`", "")
            nothing = shown.startswith("nothing: ")
            return shown.removeprefix("nothing: ") if nothing else f"did you mean {shown}?"
    return ""


def _near(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.75)
    return f"did you mean {close[0]}?" if close else ""


def bar_hint(term: str) -> str:
    """How to write a random term that other software wraps in a function."""
    function = term.partition("(")[0].strip()
    if function == "zerocorr":
        return " For uncorrelated effects write (x || g)."
    if function == "fulldummy":
        return " Correlated effects are (x | g)."
    if function in ("ou", "exp", "gau", "mat", "equalto", "propto"):
        return " Structures are us, diag, homdiag, cs, homcs, ar1, hetar1, toep, homtoep and rr."
    return ""


def data_hint(data: object) -> None:
    """Refuse what is not data yet: names of files, queries that have not run.

    Parameters
    ----------
    data : object

    Raises
    ------
    DataError
        Saying how to read the file, or to run the query.
    """
    if isinstance(data, str | bytes | os.PathLike):
        path = os.fspath(data)
        text = path.decode(errors="replace") if isinstance(path, bytes) else path
        kinds = [suffix.lstrip(".").lower() for suffix in PurePath(text).suffixes]
        reader = next((_READERS[kind] for kind in reversed(kinds) if kind in _READERS), _READERS["csv"])
        short = text if len(text) <= 80 else text[:77] + "..."
        what = "string" if isinstance(data, str | bytes) else "path"
        raise DataError(
            f"data is the {what} {short!r}; read the file first: data = {reader.format(repr(short))}."
        )
    module = type(data).__module__.partition(".")[0]
    method = _LAZY.get(module, "")
    if method and hasattr(data, method):
        kind = type(data).__name__
        raise DataError(f"data is a {kind} of {module}, which holds no rows yet; pass data.{method}().")
