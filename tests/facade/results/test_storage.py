"""MixedLM results stored, copied and printed: pickle sizes, remove_data, HTML and LaTeX, tests of terms."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import workloads
from numpy.testing import assert_allclose
from statsmodels.tools.sm_exceptions import ConvergenceWarning
from support import load_data

import mme


@pytest.fixture(scope="module")
def slope20k():
    return mme.mixedlm("y ~ x", workloads.make("slope20k"), groups="g", re_formula="~x").fit()


@pytest.fixture
def machines():
    data = load_data("Machines")
    kwargs = {"groups": "Worker", "re_formula": "1", "vc_formula": {"m": "0 + C(Machine)"}}
    return mme.mixedlm("score ~ Machine", data, **kwargs).fit(reml=False)


@pytest.mark.slow
def test_remove_data_makes_a_large_result_small(slope20k):
    """200,000 rows and 40,000 random effects: below 5 MB, everything that needs no rows still there."""
    before = slope20k.summary().as_text()
    effects = slope20k.random_effects
    bse = slope20k.bse.copy()
    light = copy.deepcopy(slope20k)
    light.remove_data()
    stored = pickle.dumps(light)
    assert len(stored) < 5e6
    # the effects themselves are 20,000 x 2 doubles
    assert len(stored) > 20_000 * 2 * 8
    got = pickle.loads(stored)
    assert got.summary().as_text() == before
    assert_allclose(got.bse, bse)
    assert len(got.random_effects) == 20_000
    for label in (0, 777, 19_999):
        pd.testing.assert_series_equal(got.random_effects[label], effects[label])
    assert [got.aic, got.bic] == pytest.approx([slope20k.aic, slope20k.bic], nan_ok=True)
    # the copy lost its rows, the original kept them
    assert slope20k.model.endog.shape == slope20k.fittedvalues.shape == (200_000,)


def test_a_pickle_with_data_holds_them_once(slope20k):
    """y, X, the random effects' design, groups, the frame they came from, fitted values: nothing built."""
    model = slope20k.model
    rows = sum(a.nbytes for a in (model.endog, model.exog, model.exog_re, model.group_index.codes))
    assert len(pickle.dumps(slope20k)) < 2.5 * rows + 5e6


def test_models_and_results_survive_pickling_and_copying(machines):
    model = pickle.loads(pickle.dumps(machines.model))
    assert_allclose(model.fit(reml=False).params, machines.params, rtol=1e-8)
    for again in (pickle.loads(pickle.dumps(machines)), copy.copy(machines), copy.deepcopy(machines)):
        assert again.summary().as_text() == machines.summary().as_text()
        assert_allclose(again.fittedvalues, machines.fittedvalues)
        assert_allclose(again.cov_params(), machines.cov_params())
        assert again.model.loglike(again.params_object) == pytest.approx(machines.llf, abs=1e-9)
    deep = copy.deepcopy(machines)
    deep.model.endog[:] = 0.0
    assert machines.model.endog.any()


def test_save_and_load(machines, tmp_path):
    machines.save(tmp_path / "r.pkl")
    got = type(machines).load(tmp_path / "r.pkl")
    assert got.summary().as_text() == machines.summary().as_text()
    assert_allclose(got.resid, machines.resid)


def test_summary_in_html_and_latex(machines):
    summary = machines.summary()
    html, latex = summary.as_html(), summary.as_latex()
    for name, value in machines.fe_params.items():
        assert f"{value:.3f}" in html and f"{value:.3f}" in latex
        assert name in html
    for name in ("Worker Var", "m Var"):
        assert name in html and name in latex
    assert html.count("<table") == 2 and latex.count("\\begin{tabular}") == 2
    own = machines.summary(yname="points", xname_fe=["one", "two", "three"], xname_re=["v", "w"], title="T")
    text = own.as_text()
    for word in ("points", "one", "three", "w ", "T\n"):
        assert word in text
    with pytest.raises(ValueError, match="xname_fe"):
        machines.summary(xname_fe=["one"])
    wide, narrow = machines.summary(alpha=0.01).tables[1], machines.summary(alpha=0.5).tables[1]
    assert float(wide.iloc[0, 4]) < float(narrow.iloc[0, 4]) < machines.fe_params.iloc[0]


def test_wald_tests_of_terms(machines):
    table = machines.wald_test_terms(scalar=True).table
    assert list(table.index) == ["Intercept", "Machine"]
    b = machines.fe_params.to_numpy()[1:]
    C = machines.cov_params().to_numpy()[1:3, 1:3]
    assert table.loc["Machine", "statistic"] == pytest.approx(b @ np.linalg.solve(C, b), rel=1e-10)
    assert table.loc["Machine", "df_constraint"] == 2
    assert table.loc["Intercept", "statistic"] == pytest.approx(machines.tvalues.iloc[0] ** 2, rel=1e-10)


def _double(x):
    return 2 * x


# predictions of formulaic know no names of the program, pickled or not
@pytest.mark.parametrize(("engine", "term"), [("patsy", "_double(x)"), ("formulaic", "x")])
def test_a_formula_survives_pickling(engine, term, monkeypatch):
    import statsmodels.formula

    monkeypatch.setattr(statsmodels.formula.options, "formula_engine", engine)
    data = load_data("Machines")
    data["x"] = np.arange(len(data)) % 7.0
    fit = mme.mixedlm(f"score ~ {term} + C(Machine)", data, groups="Worker").fit()
    again = pickle.loads(pickle.dumps(fit))
    assert_allclose(again.predict(data.head(4)), fit.predict(data.head(4)))
    assert_allclose(copy.deepcopy(fit).predict(data.head(4)), fit.predict(data.head(4)))


def test_tables_asked_for_before_survive_remove_data():
    fit = mme.mixedlm("Reaction ~ Days", load_data("sleepstudy"), groups="Subject", re_formula="~Days").fit()
    tables = {ddf: fit.coef_table(ddf) for ddf in ("satterthwaite", "kenward-roger")}
    test, text = fit.contrast("Days = 10"), str(fit.summary(ddf="kenward-roger"))
    fit.remove_data()
    for light in (fit, pickle.loads(pickle.dumps(fit))):
        for ddf, table in tables.items():
            pd.testing.assert_frame_equal(light.coef_table(ddf), table)
        pd.testing.assert_frame_equal(light.contrast("Days = 10"), test)
        assert str(light.summary(ddf="kenward-roger")) == text


def test_results_show_themselves():
    data = load_data("sleepstudy")
    model = mme.mixedlm("Reaction ~ Days", data, groups="Subject")
    fit = model.fit()
    assert repr(model) == "<MixedLM 'Reaction ~ Days', 180 rows in 18 groups (Subject)>"
    of = "'Reaction ~ Days', 180 rows in 18 groups (Subject)"
    assert repr(fit) == f"<MixedLMResults of {of}, REML, llf -893.2325, converged>"
    fit.remove_data()
    assert "180 rows in 18 groups" in repr(fit) and "Days" in fit._repr_html_()
    arrays = mme.MixedLM(data.Reaction, data[["Days"]], groups=data.Subject).fit()
    assert "'Reaction ~ Days'" in repr(arrays)
    html = fit._repr_html_()
    assert "<b>Mixed Linear Model Regression Results</b>" in html
    assert html.count("<table") == len(fit.summary().tables)
    assert html.endswith(fit.mle_retvals["message"])


def test_how_a_fit_went_in_words():
    model = mme.mixedlm("Reaction ~ Days", load_data("sleepstudy"), groups="Subject", re_formula="~Days")
    info = model.fit().fit_info
    steps, gradient = info["iterations"], info["gradient_norm"]
    assert info["message"] == f"optimum found (gradient {gradient:.1g}) in {steps} step{'s' * (steps > 1)}"
    assert "below the tolerance" in info["reason"]
    by_scipy = model.fit([1.0, 0.0, 1.0], method="bfgs").fit_info
    assert by_scipy["message"].startswith("optimum found (gradient ")
    with pytest.warns(
        ConvergenceWarning, match=r"no optimum found \(gradient .*\) in 1 step: .*Raise maxiter"
    ):
        stopped = model.fit([3.0, 0.0, 3.0], method="bfgs", maxiter=1)
    assert "NOT CONVERGED" in repr(stopped)
