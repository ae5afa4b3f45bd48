"""What to use here instead of an option, an attribute or a kind of data of other software.

Names are those of lme4 and nlme in R, statsmodels, and MixedModels.jl; one table serves every door.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import PurePath

from .exceptions import DataError

__all__ = ["attribute_hint", "bar_hint", "data_hint", "option_hint", "unknown_option"]

_ONLY_NORMAL = (
    "only normal responses are fitted; for counts and binary data see statsmodels' GEE or lme4's glmer."
)
_NO_STRUCTURE = "residuals are independent given the random effects; add a random term for what they share."
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
        "correlation": _NO_STRUCTURE,
        "nagq": "the likelihood of a normal response is exact; there is nothing to integrate numerically.",
        "random_state": "seed= sets the probes of an iterative fit; a direct fit uses no random numbers.",
        "endog": "lmer takes a formula and data; mme.MixedLM(endog, exog, groups) takes arrays.",
        "eval_env": "context= says where names that are no columns are looked up.",
        "use_sparse": "nothing is dense that need not be; solver= chooses the factorization.",
        "fit_intercept": "write '0 + ' in the formula for no intercept.",
    },
    "MixedLM": {
        "control": "settings of the search go to fit(): gtol, maxiter, method, solver.",
        "method": "method= and reml= are arguments of fit().",
        "na_action": "missing='drop' leaves rows with missing values out (na.omit), "
        "missing='raise' refuses them (na.fail).",
        "family": _ONLY_NORMAL,
        "reml": "reml=True or reml=False is an argument of fit().",
        "groups": "groups= takes a column's name, or one label per row.",
        "random": "re_formula= takes the random effects of a group, '~x'; vc_formula= variance components.",
        "contrasts": "codings stand in the formula: C(x, Treatment('b')), C(x, Sum).",
        "weights": "MixedLM has no weights, as in statsmodels; mme.lmer(formula, data, weights=) has.",
        "offset": "MixedLM has no offset, as in statsmodels; mme.lmer has, or subtract it from the response.",
        "start": "start_params= is an argument of fit().",
        "solver": "solver= is an argument of fit().",
        "maxiter": "maxiter= is an argument of fit().",
        "correlation": _NO_STRUCTURE,
        "random_state": "seed= is an argument of fit(), for iterative fits.",
    },
    "MixedLM.fit": {
        "control": "write gtol=, maxiter=, method= or solver=.",
        "optimizer": "method= takes the name of a scipy optimizer; None is mme's own.",
        "na_action": "missing='drop' is an argument of the model.",
        "family": _ONLY_NORMAL,
        "reml": "write reml=True or reml=False.",
        "groups": "groups= is an argument of the model.",
        "start": "the start is start_params=.",
        "max_evaluations": "the limit is maxiter=.",
        "weights": "MixedLM has no weights, as in statsmodels; mme.lmer(formula, data, weights=) has.",
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

_ATTRIBUTES = {
    "params": "fixed effects are fe_params, variances varcorr and scale, relative ones theta",
    "bse": "standard errors of the fixed effects are bse_fe",
    "confint": "it is conf_int",
    "coeftable": "it is coef_table",
    "Anova": "it is anova",
    "linearHypothesis": "it is contrast",
    "glht": "it is contrast, or emmeans(...).contrast(adjust='mvt')",
    "lsmeans": "it is emmeans",
    "ls_means": "it is emmeans",
    "difflsmeans": "it is emmeans(..., pairs=True)",
    "lstrends": "it is emtrends",
    "ddf": "degrees of freedom are df, or those of coef_table(ddf=...)",
    "cov_re": "covariances of the random effects are in varcorr",
    "vcomp": "variances are in varcorr",
    "re_params": "random effects are random_effects",
    "VarCorr": "it is varcorr",
    "coef": "fixed effects are fe_params, modes random_effects",
    "coefficients": "fixed effects are fe_params",
    "beta": "fixed effects are fe_params",
    "betas": "fixed effects are fe_params",
    "b": "conditional modes are random_effects",
    "logLik": "it is llf",
    "loglikelihood": "it is llf",
    "REMLcrit": "it is deviance",
    "objective": "it is deviance",
    "AIC": "it is aic",
    "BIC": "it is bic",
    "sigma2": "it is scale",
    "vcov": "it is vcov_fe",
    "stderror": "it is bse_fe",
    "fitted": "it is fittedvalues",
    "fitted_values": "it is fittedvalues",
    "df_residual": "it is df_resid",
    "isSingular": "it is is_singular",
    "issingular": "it is is_singular",
    "optinfo": "it is fit_info",
    "mle_retvals": "it is fit_info",
    "optsum": "it is fit_info",
    "nobs_total": "it is nobs",
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


def attribute_hint(name: str) -> str:
    """What results call an attribute of other software's results; empty if nothing is known of it."""
    return _ATTRIBUTES.get(name, "")


def bar_hint(term: str) -> str:
    """How to write a random term that other software wraps in a function."""
    function = term.partition("(")[0].strip()
    if function in ("zerocorr", "diag"):
        return " For uncorrelated effects write (x || g)."
    if function in ("us", "fulldummy"):
        return " Correlated effects are (x | g)."
    if function in ("cs", "ar1", "exp", "gau", "mat", "toep", "homdiag"):
        return " Covariances are unstructured, (x | g), or diagonal, (x || g)."
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
