"""lmer and its results: labels and derived quantities against a hand-made fit, then end to end."""

from __future__ import annotations

import pickle
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from handmade import SLOPE, THETA, oracle_fit, results_at
from support import load_data, reference_models

import mme
from mme.exceptions import ConvergenceWarning, DataError
from mme.fit.checks import split_start
from mme.fit.fit import Fit
from mme.formula import r_name
from mme.lmm.model import LinearMixedModel
from mme.lmm.results import LinearMixedModelResults

# `mme.lmm.model` is the function; the module of the same name is reached through sys.modules
lmer_module = sys.modules["mme.lmm.model"]

LABELLED = [
    "sleepstudy_slope",
    "sleepstudy_zerocorr",
    "machines_slope",
    "machines_nested",
    "pastes_nested",
    "penicillin_crossed",
    "orthodont",
    "cake",
]


# -- labels and derived quantities, at lme4's theta ---------------------------------------------------------


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("method", ["reml", "ml"])
def test_results_at_lme4s_theta(name, method):
    model = reference_models()[name]
    expected = model[method]
    got = results_at(model["formula"], load_data(model["data"]), expected["theta"], method == "reml")
    assert got.llf == pytest.approx(expected["loglik_lme4"], rel=1e-10)
    np.testing.assert_array_equal(got.theta, np.atleast_1d(expected["theta"]))
    assert got.sigma == pytest.approx(expected["sigma"], rel=1e-8)
    assert got.scale == pytest.approx(got.sigma**2, rel=1e-15)
    for attribute, key in (("fe_params", "fixef"), ("bse_fe", "se")):
        values = getattr(got, attribute).rename(index=r_name)
        for label, value in expected[key].items():
            assert values[label] == pytest.approx(value, rel=1e-7, abs=1e-9), (attribute, label)
    table = got.varcorr
    assert list(table.columns) == ["grp", "var1", "var2", "vcov", "sdcor"]
    names = [
        [row.grp, row.var1 and r_name(row.var1), row.var2 and r_name(row.var2)] for row in table.itertuples()
    ]
    assert names == [[row["grp"], row["var1"], row["var2"]] for row in expected["varcorr"]]
    np.testing.assert_allclose(table["vcov"], [row["vcov"] for row in expected["varcorr"]], rtol=1e-7)
    assert list(got.random_effects) == list(dict.fromkeys(row for row in got.model.model_design.groups))
    for group, ranef in expected["ranef"].items():
        frame = got.random_effects[group]
        count = len(ranef["values"])
        assert [str(level) for level in frame.index[:count]] == ranef["names"]
        np.testing.assert_allclose(frame.to_numpy()[:count], ranef["values"], rtol=1e-6, atol=1e-8)


def test_varcorr_gives_standard_deviations_and_correlations(sleepstudy):
    table = results_at(SLOPE, sleepstudy, THETA).varcorr
    var_a, var_b, cov, residual = table["vcov"]
    np.testing.assert_allclose(
        table["sdcor"], [var_a**0.5, var_b**0.5, cov / (var_a * var_b) ** 0.5, residual**0.5], rtol=1e-14
    )


def test_a_correlation_with_a_zero_variance_is_nan(sleepstudy):
    table = results_at(SLOPE, sleepstudy, [0.0, 0.0, 0.2]).varcorr
    assert table["vcov"][0] == 0.0
    assert np.isnan(table["sdcor"][2])


def test_information_criteria_as_lme4(sleepstudy):
    # AIC, BIC, df.residual of lme4 1.1-31 for this fit
    reml = results_at(SLOPE, sleepstudy, THETA)
    assert (round(reml.aic, 3), round(reml.bic, 3), reml.df_resid) == (1755.628, 1774.786, 174)
    ml = results_at(SLOPE, sleepstudy, reference_models()["sleepstudy_slope"]["ml"]["theta"], reml=False)
    assert (round(ml.aic, 3), round(ml.bic, 3), ml.df_resid) == (1763.939, 1783.097, 174)
    assert (reml.method, ml.method) == ("REML", "ML")
    assert reml.deviance == pytest.approx(-2 * reml.llf, rel=1e-15)
    assert reml.loglik == reml.llf


def test_fixed_effects_are_labelled(sleepstudy):
    got = results_at(SLOPE, sleepstudy, THETA)
    names = ["(Intercept)", "Days"]
    assert list(got.fe_params.index) == list(got.cov_params().index) == list(got.vcov_fe.columns) == names
    pd.testing.assert_series_equal(got.fixef, got.fe_params)
    np.testing.assert_allclose(got.bse_fe**2, np.diag(got.cov_params()), rtol=1e-14)
    np.testing.assert_allclose(got.tvalues, got.fe_params / got.bse_fe, rtol=1e-15)
    assert got.nobs == 180
    assert got.n_groups == got.ngrps == {"Subject": 18}


def _dense_zu(term: object, u: np.ndarray) -> np.ndarray:
    columns = np.ones((term.codes.size, 1)) if term.columns is None else term.columns
    indicators = np.eye(term.n_levels)[term.codes]
    return sum(columns[:, a] * (indicators @ u[:, a]) for a in range(term.k))


@pytest.mark.parametrize("name", ["sleepstudy_slope", "sleepstudy_zerocorr", "machines_nested"])
def test_fitted_values_by_dense_matrices(name):
    model = reference_models()[name]
    data = load_data(model["data"])
    data.index = [f"r{i}" for i in range(len(data))]
    got = results_at(model["formula"], data, model["reml"]["theta"])
    design = got.model.model_design.design
    expected = design.X @ got.fit.beta
    pd.testing.assert_series_equal(
        got.fitted_fixed, pd.Series(expected, data.index), check_names=False, rtol=1e-12
    )
    for term, u in zip(design.terms, got.fit.u, strict=True):
        expected = expected + _dense_zu(term, u)
    pd.testing.assert_series_equal(
        got.fittedvalues, pd.Series(expected, data.index), check_names=False, rtol=1e-12
    )
    np.testing.assert_allclose(got.resid, design.y - expected, atol=1e-9)
    assert got.resid.index.equals(data.index)


def test_rows_follow_subset_and_offset(sleepstudy):
    plain = LinearMixedModel.from_formula(SLOPE, sleepstudy, subset="Days >= 2")
    known = np.linspace(-3, 40, 180)
    shifted = LinearMixedModel.from_formula(
        "I(Reaction + known) ~ Days + (Days | Subject)",
        sleepstudy.assign(known=known),
        offset="known",
        subset=sleepstudy.Days >= 2,
    )
    fits = [LinearMixedModelResults(m, oracle_fit(m.model_design.design, THETA)) for m in (plain, shifted)]
    keep = sleepstudy.Days >= 2
    assert fits[0].resid.index.equals(sleepstudy.index[keep])
    np.testing.assert_allclose(fits[1].fittedvalues, fits[0].fittedvalues + known[keep], rtol=1e-10)
    np.testing.assert_allclose(fits[1].resid, fits[0].resid, atol=1e-8)


def test_terms_with_one_factor_share_a_frame(sleepstudy):
    got = results_at("Reaction ~ Days + (Days || Subject)", sleepstudy, [0.98, 0.234])
    assert list(got.ranef) == ["Subject"]
    frame = got.ranef["Subject"]
    assert list(frame.columns) == ["(Intercept)", "Days"]
    assert frame.index.name == "Subject"
    assert frame.index.tolist() == sorted(sleepstudy.Subject.unique())


def test_dropped_columns_are_nan_and_do_not_spoil_fitted_values(sleepstudy):
    full = results_at(SLOPE, sleepstudy, THETA)
    model = LinearMixedModel.from_formula(
        "Reaction ~ Days + twice + (Days | Subject)", sleepstudy.assign(twice=2 * sleepstudy.Days)
    )
    kept = np.array([True, True, False])
    vcov = np.full((3, 3), np.nan)
    vcov[:2, :2] = full.fit.vcov_beta
    values = {**vars(full.fit), "design": model.model_design.design, "kept": kept}
    fit = Fit(**{**values, "beta": np.append(full.fit.beta, np.nan), "vcov_beta": vcov})
    got = LinearMixedModelResults(model, fit)
    assert np.isnan(got.fe_params["twice"])
    np.testing.assert_allclose(got.fittedvalues, full.fittedvalues, rtol=1e-12)
    assert got.n_params == full.n_params
    assert "nan" in str(got.summary())


# -- options and the model ----------------------------------------------------------------------------------


def test_options_reach_the_engine(sleepstudy, monkeypatch):
    calls = []

    def fit_design(design, **options):
        calls.append(options)
        return oracle_fit(design, np.concatenate(options["theta0"]), options["reml"])

    monkeypatch.setattr(lmer_module, "fit_design", fit_design)
    mme.lmer(
        SLOPE, sleepstudy, reml=False, solver="dense", start=[1.0, 0.5, 0.25], max_evaluations=9, tol=1e-3
    )
    (call,) = calls
    assert (call["reml"], call["solver"], call["max_evaluations"], call["tol"]) == (False, "dense", 9, 1e-3)
    np.testing.assert_array_equal(call["theta0"][0], [1.0, 0.5, 0.25])


def test_start_is_split_by_term(sleepstudy):
    model = LinearMixedModel.from_formula("Reaction ~ (Days || Subject)", sleepstudy)
    terms = model.model_design.design.terms
    assert [part.tolist() for part in split_start([0.5, 0.1], terms)] == [[0.5], [0.1]]
    with pytest.raises(DataError, match=r"2 finite numbers, by term: Subject \(1\), Subject\.1 \(1\)"):
        split_start([1.0, 2.0, 3.0], terms)


def test_not_converged_warns(sleepstudy, monkeypatch):
    monkeypatch.setattr(
        lmer_module, "fit_design", lambda design, **_: oracle_fit(design, THETA, converged=False)
    )
    with pytest.warns(
        ConvergenceWarning,
        match=r"did not converge\. NOT CONVERGED: no optimum found .* 6 steps: given\. 7 eval",
    ) as caught:
        results = mme.lmer(SLOPE, sleepstudy)
    assert not results.converged
    assert caught[0].filename == __file__


@pytest.mark.parametrize("formula", [SLOPE, "Reaction ~ Days + (1 | Subject)"])
def test_a_search_that_is_stopped_says_so(sleepstudy, formula):
    """One evaluation is not enough: the start is reported, with what could still be gained."""
    best = mme.lmer(formula, sleepstudy)
    start = 3.0 * best.theta
    with pytest.warns(ConvergenceWarning, match=r"did not converge.*more max_evaluations") as caught:
        got = mme.lmer(formula, sleepstudy, start=start, max_evaluations=1)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert not got.converged and got.fit_info["converged"] is False
    assert got.fit_info["evaluations"] == 1 and got.fit_info["iterations"] == 0
    np.testing.assert_allclose(got.theta, start, rtol=1e-12)
    at_start = got.fit.objective.evaluate(start, 0).deviance
    assert got.deviance == pytest.approx(at_start, rel=1e-12) and got.llf < best.llf - 0.5
    # the deviance is predicted to fall by about as much as it can
    assert 0.2 < got.fit_info["newton_decrement"] / (got.deviance - best.deviance) < 5.0
    assert got.fit_info["gradient_norm"] > 0.1
    assert "NOT CONVERGED" in str(got.summary())
    # from where it was stopped another fit goes on
    assert mme.lmer(formula, sleepstudy, start=got.theta).llf == pytest.approx(best.llf, abs=1e-8)


def test_a_singular_fit_does_not_warn(sleepstudy, monkeypatch):
    monkeypatch.setattr(
        lmer_module,
        "fit_design",
        lambda design, **_: oracle_fit(design, THETA, singular=("Subject",)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mme.lmer(SLOPE, sleepstudy).is_singular


def test_shipped_data_are_the_published_values(sleepstudy):
    pd.testing.assert_frame_equal(pd.read_csv(mme.data_path("sleepstudy.csv")), sleepstudy)
    with pytest.raises(DataError, match=r"sleepstudy\.csv"):
        mme.data_path("nope.csv")


# -- end to end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reml", [True, False])
def test_sleepstudy_end_to_end(sleepstudy, reml):
    expected = reference_models()["sleepstudy_slope"]["reml" if reml else "ml"]
    got = mme.lmer(SLOPE, sleepstudy, reml=reml)
    assert got.converged
    assert not got.is_singular
    assert got.llf == pytest.approx(expected["loglik_best"], abs=1e-6)
    # lme4's theta is good to about sqrt(2 gap) of its standard errors, gap = 1e-8
    np.testing.assert_allclose(got.theta, expected["theta"], rtol=1e-3)
    np.testing.assert_allclose(got.fe_params, list(expected["fixef"].values()), rtol=1e-8)
    assert got.resid.abs().max() < 200
    assert set(got.fit_info) >= {"evaluations", "seconds", "solver", "gradient_norm", "converged"}


def test_two_fits_of_one_model_are_independent(sleepstudy):
    model = LinearMixedModel.from_formula(SLOPE, sleepstudy)
    reml, ml, again = model.fit(), model.fit(reml=False), model.fit()
    assert reml.llf == again.llf
    np.testing.assert_array_equal(reml.theta, again.theta)
    assert ml.llf < reml.llf
    assert (reml.method, ml.method) == ("REML", "ML")


def test_subset_and_missing_give_the_fit_of_the_remaining_rows(sleepstudy):
    expected = mme.lmer(SLOPE, sleepstudy[sleepstudy.Days != 3])
    holes = sleepstudy.assign(Reaction=sleepstudy.Reaction.where(sleepstudy.Days != 3))
    for got in (mme.lmer(SLOPE, sleepstudy, subset="Days != 3"), mme.lmer(SLOPE, holes, missing="drop")):
        assert got.nobs == expected.nobs == 162
        assert got.llf == pytest.approx(expected.llf, rel=1e-12)
        pd.testing.assert_series_equal(got.resid, expected.resid)


def test_weights_are_precisions(sleepstudy):
    # var(e_i) = sigma2 / w_i: a common factor of the weights goes into sigma2 and nowhere else
    one = mme.lmer(SLOPE, sleepstudy)
    two = mme.lmer(SLOPE, sleepstudy, weights=np.full(180, 4.0))
    assert two.llf == pytest.approx(one.llf, rel=1e-9)
    assert two.sigma == pytest.approx(2 * one.sigma, rel=1e-5)
    np.testing.assert_allclose(two.fe_params, one.fe_params, rtol=1e-9)


def test_spellings_of_one_model_agree():
    data = load_data("Pastes")
    base = mme.lmer("strength ~ 1 + (1 | batch/cask)", data)
    for formula in (
        "strength ~ (1 | batch) + (1 | cask:batch)",
        "strength ~ (1 | batch) + (1 | batch:cask)",
        "strength ~ (1 | sample) + (1 | batch)",
    ):
        got = mme.lmer(formula, data)
        assert got.llf == pytest.approx(base.llf, abs=1e-8)
        assert got.theta[0] == pytest.approx(base.theta[0], rel=1e-4)


def test_start_at_the_optimum_takes_few_evaluations(sleepstudy):
    first = mme.lmer(SLOPE, sleepstudy)
    second = mme.lmer(SLOPE, sleepstudy, start=first.theta)
    assert second.llf == pytest.approx(first.llf, rel=1e-12)
    assert second.fit_info["evaluations"] <= first.fit_info["evaluations"]


def test_results_can_be_pickled(sleepstudy):
    got = mme.lmer(SLOPE, sleepstudy)
    back = pickle.loads(pickle.dumps(got))
    pd.testing.assert_frame_equal(back.varcorr, got.varcorr)
    pd.testing.assert_series_equal(back.fittedvalues, got.fittedvalues)


def test_no_fixed_effects(sleepstudy):
    got = mme.lmer("Reaction ~ 0 + (1 | Subject)", sleepstudy)
    assert len(got.fe_params) == 0
    assert "Residual" in str(got.summary())
    np.testing.assert_array_equal(got.fitted_fixed, np.zeros(180))


def test_options_that_would_fit_something_else_are_refused():
    data = pd.read_csv(mme.data_path("sleepstudy.csv"))
    with pytest.raises(TypeError, match="reml must be True"):
        mme.lmer("Reaction ~ Days + (1 | Subject)", data, reml="ML")
    with pytest.raises(TypeError, match="Did you mean reml"):
        mme.lmer("Reaction ~ Days + (1 | Subject)", data, REML=False)
    with pytest.raises(TypeError, match="no option 'optimiser'"):
        mme.lmer("Reaction ~ Days + (1 | Subject)", data, optimiser="bobyqa")
