"""The iterative solver behind statsmodels' signatures, held to the direct one; refusals and forecasts."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from statsmodels.base import _penalties as penalties
from support import load_data

import mme
from mme import MixedLMParams
from mme.exceptions import DataError, MemoryEstimateError
from mme.facade.fit import BoundaryWarning
from mme.facade.results.iterative import IterativeMixedLMResults
from mme.fit import costs, forecast


def crossed_frame(n: int, levels: tuple[int, int], seed: int = 0) -> pd.DataFrame:
    """Ratings of d by s, as in InstEval."""
    rng = np.random.default_rng(seed)
    s, d = (rng.permutation(np.r_[np.arange(q), rng.integers(0, q, n - q)]) for q in levels)
    x = rng.normal(size=n)
    y = 3.0 + 0.5 * x + 0.6 * rng.normal(size=levels[0])[s] + 0.9 * rng.normal(size=levels[1])[d]
    return pd.DataFrame({"y": y + rng.normal(size=n), "x": x, "s": s, "d": d})


def crossed_model(frame: pd.DataFrame) -> mme.MixedLM:
    vc = {"s": "0 + C(s)", "d": "0 + C(d)"}
    return mme.mixedlm("y ~ x", frame, groups=np.ones(len(frame)), vc_formula=vc)


@pytest.fixture(scope="module")
def model():
    return crossed_model(crossed_frame(6_000, (300, 150)))


@pytest.fixture(scope="module")
def direct(model):
    return model.fit(solver="direct")


@pytest.fixture(scope="module")
def iterative(model):
    return model.fit(solver="iterative")


@pytest.fixture(scope="module")
def slopes():
    """Correlated effects of three columns by group, and a component within it."""
    rng = np.random.default_rng(3)
    n, q = 4_000, 80
    g, c = rng.permutation(np.arange(n) % q), rng.integers(0, 6, n)
    x, z = rng.normal(size=(2, n))
    b = rng.normal(size=(q, 3)) @ np.array([[0.9, 0.0, 0.0], [0.3, 0.5, 0.0], [0.2, -0.1, 0.4]]).T
    y = 1.0 + 0.3 * x + b[g, 0] + b[g, 1] * x + b[g, 2] * z + 0.6 * rng.normal(size=(q, 6))[g, c]
    frame = pd.DataFrame({"y": y + rng.normal(size=n), "x": x, "z": z, "g": g, "c": c})
    return mme.mixedlm("y ~ x + z", frame, groups="g", re_formula="~x + z", vc_formula={"c": "0 + C(c)"})


def agree(got, expected) -> None:
    """Estimates within 4 Monte Carlo errors; what follows from them within as many, relatively."""
    errors = got.monte_carlo
    assert got.converged and errors.ratio < 0.05
    packed = [
        np.concatenate((np.asarray(r.cov_re)[np.tril_indices(r.k_re)], np.asarray(r.vcomp)))
        for r in (got, expected)
    ]
    assert np.all(np.abs(packed[0] - packed[1]) <= 4.0 * got.error_re.to_numpy())
    assert abs(got.scale - expected.scale) <= 4.0 * errors.sigma2_error
    assert_allclose(got.fe_params, expected.fe_params, rtol=1e-3 * errors.ratio + 1e-5, atol=1e-4)
    # at the estimated variances, where the direct one has the information of all parameters together
    assert_allclose(got.bse_fe, expected.bse_fe, rtol=0.01)
    # average against observed information: they differ by terms of order 1 / sqrt(levels)
    assert_allclose(got.bse, expected.bse, rtol=0.1)
    assert_allclose(got.bse_re, expected.bse_re, rtol=0.1)
    assert abs(got.llf - expected.llf) <= 4.0 * errors.loglik_error + 1e-5


# -- against the direct fit ----------------------------------------------------------------------------------


def test_crossed_design(iterative, direct):
    assert isinstance(iterative._results, IterativeMixedLMResults)
    assert not isinstance(direct._results, IterativeMixedLMResults)
    assert direct.monte_carlo is None
    agree(iterative, direct)
    assert list(iterative.bse_re.index) == list(iterative.error_re.index) == ["d Var", "s Var"]
    assert list(iterative.params.index) == list(direct.params.index)


def test_maximum_likelihood_and_information_criteria(model):
    got, expected = model.fit(reml=False, solver="iterative"), model.fit(reml=False, solver="direct")
    agree(got, expected)
    slack = 8.0 * got.monte_carlo.loglik_error + 1e-5
    assert abs(got.aic - expected.aic) <= slack and abs(got.bic - expected.bic) <= slack
    assert np.isnan(model.fit(solver="iterative").aic)


def test_real_data():
    """InstEval, two factors; oracle: the exact fit, itself held to lme4 in facade/test_reference.py."""
    data = load_data("InstEval")
    one = np.ones(len(data))
    model = mme.mixedlm("y ~ 1", data, groups=one, vc_formula={"s": "0 + C(s)", "d": "0 + C(d)"})
    agree(model.fit(solver="iterative", seed=2), model.fit(solver="direct"))


def test_correlated_effects_beside_a_component(slopes):
    """Three effects: the engine's order of covariances is by columns, statsmodels' by rows."""
    got, expected = slopes.fit(solver="iterative"), slopes.fit(solver="direct")
    agree(got, expected)
    assert got.error_re.index[3] == "g x z Cov"
    assert_allclose(got.cov_params(), got.cov_params().T)
    label = slopes.group_labels[7]
    assert_allclose(got.random_effects[label], expected.random_effects[label], atol=0.01)
    assert list(got.random_effects[label].index) == list(expected.random_effects[label].index)


def test_uncorrelated_effects(slopes):
    """Covariances that are held at zero have no error of either kind."""
    free = MixedLMParams.from_components(np.ones(3), cov_re=np.eye(3), vcomp=np.ones(1))
    got, expected = (slopes.fit(free=free, solver=solver) for solver in ("iterative", "direct"))
    agree(got, expected)
    held = [1, 3, 4]
    for values in (got.bse_re.iloc[held], got.error_re.iloc[held], got.bse.iloc[3:].iloc[held]):
        assert_array_equal(values, 0.0)


def test_random_effects_and_rows(iterative, direct):
    effects, expected = iterative.random_effects[1.0], direct.random_effects[1.0]
    assert list(effects.index) == list(expected.index)
    assert_allclose(effects, expected, atol=1e-3)
    assert_allclose(iterative.fittedvalues, direct.fittedvalues, atol=1e-3)
    assert_allclose(iterative.resid, iterative.model.endog - iterative.fittedvalues, rtol=1e-12)
    new = pd.DataFrame({"x": [0.0, 1.0]})
    assert_allclose(iterative.predict(new), direct.predict(new), rtol=1e-4)


def test_random_effects_cost_no_solve(model, monkeypatch):
    got = model.fit(solver="iterative", loglik_probes=0)

    def fail(*_, **__):
        raise AssertionError("an evaluation")

    monkeypatch.setattr("mme.engine.iterative.objective.IterativeObjective.evaluate", fail)
    monkeypatch.setattr("mme.engine.iterative.objective.IterativeObjective.solution", fail)
    monkeypatch.setattr("mme.engine.direct.objective.Objective.evaluate", fail)
    monkeypatch.setattr("mme.facade.likelihood.Likelihood.objective", fail)
    got.summary()
    assert len(got.random_effects[1.0]) == 450
    assert np.isnan(got.llf) and np.isfinite(got.fittedvalues).all()


def test_columns_without_a_row_have_no_effect():
    """Categories that occur in some groups only: unused columns of the arrays' own components."""
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(40), 25)
    mats = [np.eye(6)[rng.integers(0, 5, 25)] for _ in range(40)]  # the sixth column is always zero
    names = [[f"c{j}" for j in range(6)]] * 40
    b = rng.normal(size=(40, 6))
    y = rng.normal(size=1000) + np.concatenate([m @ v for m, v in zip(mats, b, strict=True)])
    y += rng.normal(size=40)[g]
    spec = mme.VCSpec(["v"], [names], [mats])
    model = mme.MixedLM(y, np.ones((1000, 1)), g, exog_re=np.ones((1000, 1)), exog_vc=spec)
    got, expected = model.fit(solver="iterative"), model.fit(solver="direct")
    agree_on = got.random_effects[3]
    assert_allclose(agree_on, expected.random_effects[3], atol=0.01)
    assert agree_on["v[c5]"] == 0.0
    assert_allclose(got.fittedvalues, expected.fittedvalues, atol=0.01)


def test_tests_of_hypotheses(iterative, direct):
    for r in ("x = 0", [0.0, 1.0]):
        got, expected = iterative.t_test(r), direct.t_test(r)
        assert got.tvalue.item() == pytest.approx(expected.tvalue.item(), rel=0.01)
    assert_allclose(iterative.conf_int().iloc[:2], direct.conf_int().iloc[:2], atol=1e-3)
    assert_allclose(iterative.tvalues, iterative.params / iterative.bse)
    assert iterative.cov_params().loc["x", "d Var"] == 0.0


def test_zero_variance_is_named():
    rng = np.random.default_rng(11)
    n, a, b = 3_000, np.arange(3_000) % 60, np.arange(3_000) // 60
    y = rng.normal(size=n) + 0.8 * rng.normal(size=60)[a]
    y = y - 0.8 * (np.bincount(b, y) / np.bincount(b))[b]  # levels of b differ less than chance has it
    frame = pd.DataFrame({"y": y, "a": a, "b": b})
    vc = {"a": "0 + C(a)", "b": "0 + C(b)"}
    model = mme.mixedlm("y ~ 1", frame, groups=np.ones(n), vc_formula=vc)
    for solver in ("direct", "iterative"):
        with pytest.warns(BoundaryWarning, match="b Var"):
            results = model.fit(solver=solver)
        assert results.boundary == ["b Var"]
        assert results.vcomp[1] == 0.0 and results.converged
    assert np.all(results.random_effects[1.0].filter(like="b[") == 0.0)
    assert "b Var" in results.summary().as_text()


def test_dependent_columns_are_dropped():
    frame = crossed_frame(1_500, (60, 40)).assign(twice=lambda f: 2.0 * f["x"])
    vc = {"s": "0 + C(s)", "d": "0 + C(d)"}
    model = mme.mixedlm("y ~ x + twice", frame, groups=np.ones(len(frame)), vc_formula=vc)
    with pytest.warns(mme.exceptions.RankDeficientWarning, match="twice"):
        got = model.fit(solver="iterative", loglik_probes=0)
    assert np.isnan(got.fe_params["twice"]) and np.isnan(got.bse["twice"])
    assert np.isfinite(got.bse.drop("twice")).all()
    assert np.isfinite(got.fittedvalues).all()


# -- how it is reported --------------------------------------------------------------------------------------


def test_record(iterative):
    record = iterative.mle_retvals
    assert record["solver"].startswith("iterative")
    assert record["probes"] == iterative.monte_carlo.probes >= 12
    assert f"{record['cg_iterations']} iterations" in record["solver"]
    assert record["cg_iterations"] == iterative.monte_carlo.cg_iterations > 0
    assert record["converged"] and record["message"]


def test_summary_says_how(iterative, direct):
    text = iterative.summary().as_text()
    for word in ("iterative", "iterations", "probes", "Monte Carlo", "MC Err.", "Converged", "d Var"):
        assert word in text, word
    assert f"{iterative.error_re['d Var']:.2g}" in text
    table = iterative.summary(xname_re=["v", "w"], alpha=0.1).tables[1]
    # columns that a program may count on stay where they are
    assert list(table.columns[:-1]) == list(direct.summary(alpha=0.1).tables[1].columns)
    assert list(table.index[-2:]) == ["v", "w"]
    for word in ("iterative", "MC Err.", "Monte Carlo"):
        assert word not in direct.summary().as_text()
    assert "MC Err." in iterative.summary().as_html() and "MC Err." in iterative.summary().as_latex()


def test_settings_reach_the_solver(model):
    first, same, other = (model.fit(solver="iterative", seed=s, probes=8, goal=1.0) for s in (7, 7, 8))
    assert_array_equal(first.params, same.params)
    assert not np.array_equal(first.params, other.params)
    assert first.monte_carlo.probes == 8 and first.monte_carlo.seed == first.mle_retvals["seed"] == 7
    with pytest.warns(FutureWarning, match=r"probs not used.*gtol.*probes"):
        model.fit(probs=3)
    with pytest.raises(ValueError, match="probes must be"):
        model.fit(probes=1)
    with pytest.raises(ValueError, match="'itrative'"):
        model.fit(solver="itrative")
    with pytest.raises(ValueError, match="'itrative'"):
        model.preflight("itrative")


def test_start_and_most_steps(model, direct):
    start = MixedLMParams.from_components(np.zeros(2), vcomp=np.asarray(direct.params[-2:]))
    near = model.fit(start_params=start, solver="iterative")
    assert_allclose(near.vcomp, direct.vcomp, rtol=0.01)
    with pytest.warns(Warning, match="did not converge"):
        short = model.fit(solver="iterative", maxiter=1, start_params=np.full(2, 0.05), full_output=True)
    assert not short.converged and short.hist


def test_exact_steps_leave_nothing_stochastic(model, direct):
    """The stochastic search is then a start: results are those of a direct fit, all of them."""
    got = model.fit(solver="iterative", exact_steps=5)
    assert got.converged and got.monte_carlo is None
    assert not isinstance(got._results, IterativeMixedLMResults)
    assert got.mle_retvals["solver"].startswith("iterative")
    assert_allclose(got.llf, direct.llf, rtol=1e-9)
    assert_allclose(got.bse, direct.bse, rtol=1e-4)
    assert "MC Err." not in got.summary().as_text()


def test_named_direct_solvers(model, direct):
    for solver, name in (("dense", "dense"), ("superlu", "SuperLU")):
        got = model.fit(solver=solver)
        assert name in got.mle_retvals["solver"] and got.monte_carlo is None
        assert_allclose(got.vcomp, direct.vcomp, rtol=1e-5)
        assert_allclose(model.fit(solver=solver, do_cg=False).llf, model.fit(do_cg=False).llf, rtol=1e-10)


# -- what there is not ---------------------------------------------------------------------------------------


def _pattern() -> MixedLMParams:
    return MixedLMParams.from_components(np.ones(2), vcomp=np.array([1.0, 0.0]))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"method": "bfgs"}, "method=bfgs"),
        ({"fe_pen": penalties.L2()}, "fe_pen"),
        ({"cov_pen": penalties.PSD(1.0)}, "cov_pen"),
        ({"free": _pattern()}, "pattern of free parameters"),
        ({"do_cg": False}, "do_cg=False"),
    ],
    ids=["method", "fe_pen", "cov_pen", "free", "do_cg"],
)
def test_features_that_need_the_likelihood(model, arguments, named):
    with pytest.raises(ValueError, match=rf"{named} needs the exact likelihood.*solver='direct'"):
        model.fit(solver="iterative", **arguments)
    with pytest.raises(ValueError, match=r"fit_regularized needs the exact likelihood"):
        model.fit_regularized(solver="iterative")


def test_results_that_need_a_factorization(iterative):
    with pytest.raises(NotImplementedError, match=r"random_effects_cov needs.*model\.preflight"):
        _ = iterative.random_effects_cov
    with pytest.raises(NotImplementedError, match=r"profile_re needs.*solver='direct'"):
        iterative.profile_re("d", "vc")


def test_bootstrap_fits_the_same_way():
    model = crossed_model(crossed_frame(1_500, (60, 40)))
    fit = model.fit(solver="iterative", seed=5)
    mean, std, draws = fit.bootstrap(nrep=12, rng=1)
    assert draws.shape == (12, 4) and np.isfinite(draws).all()
    # twelve draws: a standard deviation is known to a fifth
    assert np.all(std < 2.0 * fit.bse) and np.all(std > 0.3 * fit.bse)
    assert np.all(np.abs(mean - fit.params) < 1.5 * fit.bse)
    with pytest.raises(ValueError, match="method=bfgs"):
        fit.bootstrap(nrep=1, method="bfgs")


# -- storage -------------------------------------------------------------------------------------------------


def test_pickling_and_copying(iterative, tmp_path):
    iterative.save(tmp_path / "r.pkl")
    for again in (
        pickle.loads(pickle.dumps(iterative)),
        copy.deepcopy(iterative),
        type(iterative).load(tmp_path / "r.pkl"),
    ):
        assert again.summary().as_text() == iterative.summary().as_text()
        assert_allclose(again.cov_params(), iterative.cov_params())
        assert_allclose(again.fittedvalues, iterative.fittedvalues)
        assert again.monte_carlo.probes == iterative.monte_carlo.probes
    # rows once, and effects: neither cross-products nor the systems of the solver
    rows = sum(
        a.nbytes for a in (iterative.model.endog, iterative.model.exog, iterative.model.group_index.codes)
    )
    assert len(pickle.dumps(iterative)) < 5 * rows


def test_without_data(model, tmp_path):
    results = copy.deepcopy(model).fit(solver="iterative")
    text, effects = results.summary().as_text(), results.random_effects[1.0]
    results.remove_data()
    assert results.model.endog is None
    stored = pickle.dumps(results)
    assert len(stored) < 60_000 < len(pickle.dumps(model))
    again = pickle.loads(stored)
    assert again.summary().as_text() == text
    pd.testing.assert_series_equal(again.random_effects[1.0], effects)
    assert_allclose(again.bse_re, results.bse_re)
    with pytest.raises(mme.exceptions.DataError, match="removed"):
        results.model.fit(solver="iterative")


# -- forecasts -----------------------------------------------------------------------------------------------


def test_preflight_of_a_model(slopes):
    plan = slopes.preflight()
    assert plan.terms == (("g", 80, 3), ("c", 480, 1))
    assert (plan.rows, plan.fixed, plan.solver) == (4_000, 3, "direct")
    again = mme.preflight(slopes, solver="iterative")
    assert again.solver == "iterative" and again.terms == plan.terms
    for word in ("term g", "80 levels", "term c", "eliminated first", "memory, iterative"):
        assert word in str(plan), word


def test_preflight_takes_formula_and_data_as_before(slopes):
    data = load_data("Penicillin")
    formula = "diameter ~ 1 + (1 | plate) + (1 | sample)"
    assert mme.preflight(formula, data).columns == 6
    assert mme.preflight(mme.LinearMixedModel.from_formula(formula, data)).columns == 6
    with pytest.raises(TypeError, match="needs data"):
        mme.preflight(formula)
    with pytest.raises(TypeError, match="not data, weights"):
        mme.preflight(slopes, data, weights=None)


def test_names_of_the_groups_term():
    frame = crossed_frame(600, (30, 20))
    for groups, name in ((frame["s"], "s"), (frame["s"].to_numpy(), "groups"), (frame[["s", "d"]], "s:d")):
        model = mme.MixedLM(frame["y"].to_numpy(), np.ones((600, 1)), groups, np.ones((600, 1)))
        assert model.design().terms[0].name == name
    assert mme.mixedlm("y ~ 1", frame, groups="d").preflight().terms == (("d", 20, 1),)


@pytest.fixture(scope="module")
def large():
    """Large enough for the cost to be predicted: order 1,200."""
    return crossed_model(crossed_frame(3_000, (1_500, 1_200)))


@pytest.fixture
def between(large, monkeypatch):
    """Memory for the iterative path, not for a factor of order 1,200."""
    model = copy.copy(large)
    for name in ("likelihood", "_design_full"):
        model.__dict__.pop(name, None)
    plan = model.preflight()
    have = plan.iterative_bytes - plan.equations_bytes + 3e6
    assert have < plan.direct_bytes - plan.equations_bytes
    monkeypatch.setattr(forecast, "available_memory", lambda: have)
    return model


def test_auto_is_direct_where_that_is_cheap(large):
    assert large.preflight().solver == "direct"
    assert large.fit().monte_carlo is None


def test_auto_is_iterative_where_a_factor_does_not_fit(between):
    assert between.preflight().solver == "iterative"
    results = between.fit()
    assert results.converged and results.monte_carlo is not None
    # nothing of this begins a factorization
    results.summary()
    assert np.isfinite(results.bse).all() and np.isfinite(results.resid).all()
    assert len(results.random_effects[1.0]) == 2_700
    with pytest.raises(MemoryEstimateError, match=r"direct fit would take .* MiB.*solver='iterative'"):
        between.fit(solver="direct")


def test_auto_is_iterative_where_a_direct_fit_takes_minutes(large, monkeypatch):
    monkeypatch.setattr(costs, "_FLOPS", 1e3)
    assert "min" in large.preflight().why
    assert large.fit(loglik_probes=0).monte_carlo is not None
    assert large.fit(solver="direct").monte_carlo is None


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.fit(method="bfgs"),
        lambda model: model.fit(fe_pen=penalties.L2()),
        lambda model: model.fit(do_cg=False),
        lambda model: model.fit(free=_pattern()),
        lambda model: model.fit_regularized(alpha=1.0),
        lambda model: model.loglike(np.ones(2)),
        lambda model: model.score(np.ones(2)),
        lambda model: model.hessian(np.ones(4)),
        lambda model: model.get_fe_params(np.zeros((0, 0)), np.ones(2)),
    ],
    ids=["method", "fe_pen", "do_cg", "free", "regularized", "loglike", "score", "hessian", "fe_params"],
)
def test_the_exact_likelihood_is_refused_where_it_does_not_fit(between, ask):
    with pytest.raises(MemoryEstimateError, match=r"the exact likelihood would take .* MiB"):
        ask(between)


def test_covariances_of_a_large_group_are_refused(large, monkeypatch):
    results = large.fit(solver="direct")
    monkeypatch.setattr(forecast, "available_memory", lambda: 1e7)
    with pytest.raises(MemoryEstimateError, match=r"2,700 random effects of a group would take .* MiB"):
        _ = results.random_effects_cov


def test_what_does_not_fit_at_all_is_refused(large, monkeypatch):
    model = copy.copy(large)
    for name in ("likelihood", "_design_full"):
        model.__dict__.pop(name, None)
    monkeypatch.setattr(forecast, "available_memory", lambda: 1e5)
    with pytest.raises(MemoryEstimateError, match="larger machine"):
        model.fit()
    monkeypatch.setattr(forecast, "available_memory", lambda: 1e3)
    fresh = copy.copy(large)
    for name in ("likelihood", "_design_full"):
        fresh.__dict__.pop(name, None)
    with pytest.raises(MemoryEstimateError, match="the equations of 3,000 rows"):
        fresh.preflight()


def test_bootstrap_without_data_says_so():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(20), 6)
    frame = pd.DataFrame({"y": rng.normal(size=20)[g] + rng.normal(size=g.size), "g": g})
    results = mme.mixedlm("y ~ 1", frame, groups="g").fit(solver="iterative")
    results.remove_data()
    with pytest.raises(DataError, match="were removed"):
        results.bootstrap(2)
