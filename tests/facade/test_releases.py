"""Releases of statsmodels: formulas by patsy alone, as 0.14 reads them, and names that it has not."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import statsmodels.api
import statsmodels.formula
from numpy.testing import assert_allclose
from pandas.testing import assert_frame_equal
from support import load_data

import mme
from mme.facade import releases as sm_releases
from mme.facade.design import formula as mixedlm_formula
from mme.facade.design import frame as mixedlm_frame
from mme.facade.design import vc_formula
from mme.facade.releases import FormulaManager, PatsyManager


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    d = pd.DataFrame({"x": rng.normal(size=40), "a": np.array(list("uvw"))[rng.integers(0, 3, 40)]})
    d["y"] = d.x + rng.normal(size=40)
    return d


def _double(x):
    return 2 * x


@pytest.mark.parametrize("formula", ["y ~ x + a", "~ 0 + C(a):x", "x", "np.log(y + 9) ~ _double(x)"])
@pytest.mark.parametrize("env", ["frames", "names"])
def test_patsy_alone_gives_the_same_matrices(frame, formula, env):
    where = 0 if env == "frames" else {"np": np, "_double": _double}
    ours, theirs = PatsyManager(), FormulaManager(engine="patsy")
    got = ours.get_matrices(formula, frame, eval_env=where, pandas=True)
    expected = theirs.get_matrices(formula, frame, eval_env=where, pandas=True)
    pairs = zip(got, expected, strict=True) if isinstance(expected, tuple) else [(got, expected)]
    for a, b in pairs:
        assert_frame_equal(a, b)
    assert ours.spec.column_names == theirs.spec.column_names
    new = frame.head(3)
    assert_frame_equal(
        ours.get_matrices(ours.spec, new, pandas=True), theirs.get_matrices(theirs.spec, new, pandas=True)
    )


def test_the_empty_environment_knows_no_names(frame):
    with pytest.raises(Exception, match="_double"):
        manager = PatsyManager()
        manager.get_matrices("y ~ _double(x)", frame, eval_env=manager.get_empty_eval_env())


@pytest.mark.parametrize(
    "arguments",
    [
        {"formula": "Reaction ~ Days", "re_formula": "~Days"},
        {
            "formula": "Reaction ~ _double(Days) + k",
            "vc_formula": {"k": "0 + C(k)", "d": "0 + np.log(Days + 1)"},
        },
        {"formula": "Reaction ~ Days + C(k)", "re_formula": "~0 + k", "eval_env": -1},
        {"formula": "Reaction ~ Days", "vc_formula": {"k": "k"}},
    ],
)
def test_models_by_patsy_alone(arguments, monkeypatch):
    data = load_data("sleepstudy")
    data["k"] = np.array(list("abc"))[np.arange(180) % 3]
    data.loc[7, "Days"] = np.nan

    def model():
        return mme.mixedlm(data=data, groups="Subject", missing="drop", **arguments)

    expected = model()
    for module in (mixedlm_formula, mixedlm_frame, vc_formula):
        monkeypatch.setattr(module, "FormulaManager", PatsyManager)
    got = model()
    assert got.exog_names == expected.exog_names
    assert_allclose(got.exog, expected.exog)
    assert got.data.param_names == expected.data.param_names
    assert_allclose(got.score(np.ones(got.k_re2 + got.k_vc)), expected.score(np.ones(got.k_re2 + got.k_vc)))


def test_what_0_14_has_not_is_replaced(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.formula._manager", None)
    old = ModuleType("statsmodels.tools.decorators")
    old.cache_readonly = object()
    monkeypatch.setitem(sys.modules, old.__name__, old)
    spec = importlib.util.spec_from_file_location("mme.sm_releases_again", sm_releases.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert again.FormulaManager is again.PatsyManager
    assert again.SPEC == "design_info"
    assert again.cache_readonly is old.cache_readonly
    assert sm_releases.SPEC == "model_spec"


def test_install_leaves_alone_what_a_release_has_not(monkeypatch):
    monkeypatch.delattr(statsmodels.api, "VCSpec")
    with mme.install():
        assert statsmodels.api.MixedLM is mme.MixedLM
        assert not hasattr(statsmodels.api, "VCSpec")
    assert statsmodels.api.MixedLM is not mme.MixedLM
    assert not hasattr(statsmodels.api, "VCSpec")
