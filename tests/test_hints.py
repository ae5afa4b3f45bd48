"""Options, attributes and kinds of data of other software are answered with what to use here."""

from __future__ import annotations

import copy
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mme
from mme.exceptions import DataError, FormulaError, OptionError
from mme.hints import option_hint, unknown_option

FORMULA = "Reaction ~ Days + (1 | Subject)"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("control", ["max_evaluations", "solver"]),
        ("method", ["reml=False"]),
        ("na_action", ["missing='drop'", "missing='raise'"]),
        ("na.action", ["missing='drop'"]),
        ("family", ["only normal"]),
        ("REML", ["Did you mean reml?", "reml=True"]),
        ("groups", ["(x | g)", "mme.mixedlm"]),
        ("re_formula", ["(x | g)", "mme.mixedlm"]),
        ("random", ["(x | g)"]),
        ("contrasts", ["C(x, Treatment('b'))"]),
        ("wts", ["weights="]),
        ("maxiter", ["max_evaluations="]),
        ("start_params", ["start="]),
        ("ftol_rel", ["tol="]),
        ("correlation", ["residual='ar1(time | subject)'"]),
        ("random_state", ["seed="]),
        ("nAGQ", ["exact"]),
        ("eval_env", ["context="]),
        ("max_evalutions", ["Did you mean max_evaluations?"]),
        ("zzz", ["Known: accuracy, ", "tol"]),
    ],
)
def test_options_of_lmer(sleepstudy, name, words):
    with pytest.raises(OptionError, match="have no option") as caught:
        mme.lmer(FORMULA, sleepstudy, **{name: "x"})
    assert isinstance(caught.value, TypeError)
    assert name in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("REML", "reml=True or reml=False is an argument of fit"),
        ("control", "gtol, maxiter"),
        ("na_action", "missing='drop'"),
        ("family", "only normal"),
        ("correlation", "mme.lmer"),
        ("random", "re_formula="),
        ("contrasts", "C(x, Sum)"),
        ("solver", "solver= is an argument of fit"),
        ("method", "arguments of fit"),
    ],
)
def test_options_of_mixedlm(sleepstudy, name, words):
    for build in (
        lambda **more: mme.mixedlm("Reaction ~ Days", sleepstudy, groups="Subject", **more),
        lambda **more: mme.MixedLM(sleepstudy.Reaction, sleepstudy[["Days"]], sleepstudy.Subject, **more),
    ):
        with pytest.raises(ValueError, match=f"argument {name} not permitted") as caught:
            build(**{name: 1})
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("REML", "write reml=True"),
        ("control", "gtol="),
        ("max_evaluations", "maxiter="),
        ("na_action", "missing="),
    ],
)
def test_options_of_mixedlms_fit(sleepstudy, name, words):
    model = mme.mixedlm("Reaction ~ Days", sleepstudy, groups="Subject")
    with pytest.warns(FutureWarning, match=f"{name} not used by MixedLM.fit.* {name}: .*{words}"):
        model.fit(**{name: 1})


def test_the_names_in_the_tables_are_no_options_here():
    """A hint for an option that exists could never be seen."""
    known = sys.modules["mme.lmm.model"]._OPTIONS
    for name in known:
        assert name in ("max_evaluations", "reml") or not option_hint(name, "lmer"), name
    assert unknown_option("smelver", "lmer", ["solver"]) == "Did you mean solver?"
    assert option_hint("nothing_known", "lmer") == ""


# -- data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("scores.csv", r"string 'scores.csv'; read the file first: data = pandas.read_csv\('scores.csv'\)"),
        (Path("scores.csv.gz"), "path 'scores.csv.gz'.*pandas.read_csv"),
        (Path("a") / "scores.tsv", r"read_csv\('a/scores.tsv', sep='\\t'\)"),
        (Path("scores.feather"), "pandas.read_feather"),
        (Path("scores.xlsx"), "pandas.read_excel"),
        ("scores.dta", "pandas.read_stata"),
        ("scores.sav", "pandas.read_spss"),
        ("scores", "pandas.read_csv"),
        (b"scores.csv", "string 'scores.csv'"),
    ],
)
def test_names_of_files(data, words):
    for fit in (mme.lmer, mme.preflight):
        with pytest.raises(DataError, match=words):
            fit(FORMULA, data)
    with pytest.raises(DataError, match=words):
        mme.mixedlm("Reaction ~ Days", data, groups="Subject")


def test_names_of_parquet_files():
    """lmer reads them, chunk by chunk; MixedLM takes frames."""
    for fit in (mme.lmer, mme.preflight):
        with pytest.raises(DataError, match=r"there is no file 'scores\.parquet'"):
            fit(FORMULA, Path("scores.parquet"))
    with pytest.raises(DataError, match=r"pandas\.read_parquet"):
        mme.mixedlm("Reaction ~ Days", Path("scores.parquet"), groups="Subject")


def _query(module: str, method: str) -> object:
    kind = type("LazyFrame", (), {"__module__": f"{module}.frame", method: lambda self: None})
    return kind()


@pytest.mark.parametrize(
    ("module", "method"),
    [("polars", "collect"), ("dask", "compute"), ("pyspark", "toPandas"), ("duckdb", "df")],
)
def test_queries_that_have_not_run(module, method):
    for fit in (
        lambda d: mme.lmer(FORMULA, d),
        lambda d: mme.mixedlm("Reaction ~ Days", d, groups="Subject"),
    ):
        with pytest.raises(DataError, match=rf"LazyFrame of {module}, .*pass data\.{method}\(\)"):
            fit(_query(module, method))


def test_a_polars_frame_that_has_run(sleepstudy):
    polars = pytest.importorskip("polars", reason="polars is no dependency of the tests")
    frame = polars.DataFrame(sleepstudy.to_dict("list"))
    assert mme.lmer(FORMULA, frame).llf == pytest.approx(mme.lmer(FORMULA, sleepstudy).llf)
    with pytest.raises(DataError, match=r"LazyFrame of polars, .*data\.collect\(\)"):
        mme.mixedlm("Reaction ~ Days", frame.lazy(), groups="Subject")


# -- formulas and results -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "words"),
    [
        ("zerocorr(1 + Days | Subject)", r"write \(x \|\| g\)"),
        ("fulldummy(Days | Subject)", r"effects are \(x \| g\)"),
        ("ou(Days | Subject)", r"Structures are us, diag, homdiag, cs"),
        ("ar1(Days | Subject)", r"write ar1\(0 \+ C\(time\) \| Subject\)"),
    ],
)
def test_random_terms_in_functions(sleepstudy, term, words):
    with pytest.raises(FormulaError, match=words):
        mme.lmer(f"Reaction ~ Days + {term}", sleepstudy)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("params", "fe_params of the fixed effects, varcorr and scale"),
        ("bse", r"bse_fe\?"),
        ("confint", r"conf_int\(\)\?"),
        ("coeftable", r"coef_table\(\)"),
        ("cov_re", r"varcorr\?"),
        ("VarCorr", r"varcorr\?"),
        ("logLik", r"llf\?"),
        ("lsmeans", r"emmeans\(\)"),
        ("Anova", r"anova\(\)"),
        ("KRmodcomp", r"contrast\(\.\.\., ddf='kenward-roger'\)"),
        ("fortify", r"augment\(\)"),
        ("simulateResiduals", r"pit_residuals\(\)\?"),
        ("bootMer", r"bootstrap\(\)\?"),
        ("PBmodcomp", r"bootstrap_test\(\)\?"),
        ("powerSim", r"mme\.power\?"),
        ("powerCurve", r"mme\.power\?"),
        ("cooks", r"cooks_distance\(\)\?"),
        ("leverage", r"hatvalues\(\)\?"),
        ("rstandard", r"residuals\('standardized'\)\?"),
        ("check_model", r"plot\.check\(\)\?"),
        ("condVar", "r(anef_table|an_vals)|tidy"),
        ("emmeens", r"emmeans\?"),
        ("residule", r"resid"),
    ],
)
def test_attributes_of_other_software_at_lmer(sleepstudy, name, words):
    got = mme.lmer(FORMULA, sleepstudy)
    with pytest.raises(AttributeError, match=rf"no attribute '{name}'; did you mean .*{words}"):
        getattr(got, name)
    assert not hasattr(got, name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("VarCorr", r"cov_re, vcomp and scale\?"),
        ("varcorr", r"cov_re, vcomp and scale\?"),
        ("fixef", r"fe_params\?"),
        ("ranef", r"random_effects\?"),
        ("isSingular", r"boundary\?"),
        ("sigma", "scale, of which it is the square root"),
        ("lsmeans", r"emmeans\(\)"),
        ("logLik", r"llf\?"),
        ("parametricbootstrap", r"bootstrap\(\)"),
        ("fe_param", r"fe_params\?"),
    ],
)
def test_attributes_of_other_software_at_mixedlm(sleepstudy, name, words):
    got = mme.mixedlm("Reaction ~ Days", sleepstudy, groups="Subject").fit()
    for results in (got, got._results):
        with pytest.raises(AttributeError, match=rf"no attribute '{name}'; did you mean .*{words}"):
            getattr(results, name)
        assert not hasattr(results, name)


def test_unknown_names_and_copies(sleepstudy):
    for got in (
        mme.lmer(FORMULA, sleepstudy),
        mme.mixedlm("Reaction ~ Days", sleepstudy, groups="Subject").fit(),
    ):
        with pytest.raises(AttributeError, match=r"no attribute 'zzz'$"):
            _ = got.zzz
        for back in (copy.copy(got), copy.deepcopy(got), pickle.loads(pickle.dumps(got))):
            assert back.llf == got.llf
            assert not hasattr(back, "VarCorr")


def test_an_attribute_error_within_a_property_is_shown():
    names = sys.modules["mme.report.names"]

    class Broken(names.HelpfulNames):
        @property
        def llf(self):
            return None.missing

    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'missing'"):
        _ = Broken().llf


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("emmeans", "did you mean results.emmeans, of the results of a fit"),
        ("anova", "did you mean results.anova"),
        ("lsmeans", r"did you mean emmeans\(\), of the results of a fit"),
        ("fixef", "results.fixef"),
        ("VarCorr", "did you mean varcorr, of the results"),
        ("simulateResiduals", r"did you mean pit_residuals\(\), of the results"),
        ("PBmodcomp", r"did you mean bootstrap_test\(\), of the results"),
        ("powerSim", r"did you mean power\?"),
        ("powerCurve", r"did you mean power\?"),
        ("bootMer", r"did you mean bootstrap\(\), of the results"),
        ("glmer", "only normal responses"),
        ("lme", r"did you mean lmer\?"),
        ("get_rdataset", r"did you mean data_path\?"),
    ],
)
def test_functions_of_other_modules(name, words):
    with pytest.raises(AttributeError, match=rf"module 'mme' has no attribute '{name}'; .*{words}"):
        getattr(mme, name)


def test_module_without_a_hint():
    with pytest.raises(AttributeError, match=r"module 'mme' has no attribute 'zzz'$"):
        _ = mme.zzz
    assert not hasattr(mme, "__path_of_nothing__")


def _targets(text: str) -> set[str]:
    return {name.partition("(")[0].removeprefix("mme.") for name in re.findall(r"`([^`]*)`", text)}


def test_hints_name_what_there_is(sleepstudy):
    """Attributes that hints send to exist, at one door at least; what exists at both has no hint."""
    hints = sys.modules["mme.hints"]
    doors = [
        mme.lmer(FORMULA, sleepstudy),
        mme.mixedlm("Reaction ~ Days", sleepstudy, groups="Subject").fit()._results,
    ]
    known = [set(dir(got)) for got in doors]
    for name, text in hints._ATTRIBUTES.items():
        assert not all(name in names for names in known), f"{name} exists at both doors"
        assert _targets(text) - known[0] - known[1] - set(mme.__all__) == set(), name
    for name, text in hints._FUNCTIONS.items():
        assert name not in mme.__all__, name
        assert _targets(text) - set(mme.__all__) == set(), name
    assert isinstance(doors[0].varcorr, pd.DataFrame) and np.isfinite(doors[0].llf)
