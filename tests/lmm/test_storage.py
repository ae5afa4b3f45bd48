"""Results of `lmer` stored and copied: pickles hold data and estimates, never a factorization."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
import pytest
from support import SOLVERS, flat

import mme
from mme.lmm.results import LinearMixedModelResults

FORMULA = "y ~ x + (1 | g) + (1 | h)"


def crossed(n: int = 900, g: int = 120, h: int = 90) -> pd.DataFrame:
    """Two crossed factors; the Schur complement has order `h`."""
    rng = np.random.default_rng(3)
    a, b, x = rng.integers(0, g, n), rng.integers(0, h, n), rng.normal(size=n)
    y = 1.0 + 0.5 * x + rng.normal(size=g)[a] + 0.7 * rng.normal(size=h)[b] + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "g": a, "h": b})


def fit_of_seed(seed: int) -> LinearMixedModelResults:
    """What a worker of a pool returns: a refit of simulated responses."""
    data = crossed(400, 60, 50)
    data["y"] += np.random.default_rng(seed).normal(size=len(data))
    return mme.lmer(FORMULA, data, solver="superlu")


def assert_same(got: LinearMixedModelResults, expected: LinearMixedModelResults) -> None:
    assert str(got.summary()) == str(expected.summary())
    assert got.llf == expected.llf
    np.testing.assert_array_equal(got.theta, expected.theta)
    pd.testing.assert_series_equal(got.fe_params, expected.fe_params)
    pd.testing.assert_series_equal(got.bse_fe, expected.bse_fe)
    pd.testing.assert_frame_equal(got.varcorr, expected.varcorr)
    pd.testing.assert_frame_equal(got.random_effects["g"], expected.random_effects["g"])
    pd.testing.assert_series_equal(got.fittedvalues, expected.fittedvalues)
    assert got.fit_info == expected.fit_info


COPIES = [
    pytest.param(lambda results: pickle.loads(pickle.dumps(results)), id="pickle"),
    pytest.param(copy.deepcopy, id="deepcopy"),
]


@pytest.mark.parametrize("again", COPIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_direct_fit(solver, again):
    results = mme.lmer(FORMULA, crossed(), solver=solver)
    got = again(results)
    assert_same(got, results)
    # what needs a factorization builds it again: value, gradient, information, solution, marginal model
    # (rounding is CHOLMOD's: its sums depend on where memory begins)
    theta, mine, old = 1.5 * flat(results.fit), got.fit.objective, results.fit.objective
    assert mine.evaluate(flat(got.fit), 0).deviance == pytest.approx(results.fit.deviance, rel=1e-14)
    for name in ("deviance", "gradient", "information"):
        values = (getattr(o.evaluate(theta, 2), name) for o in (mine, old))
        np.testing.assert_allclose(*values, rtol=1e-11, err_msg=name)
    np.testing.assert_allclose(mine.at(theta).zr[0], old.at(theta).zr[0], rtol=1e-9, atol=1e-12)
    assert got.fit.objective.solver_name == results.fit.record.solver
    # and so does a fit of the unpickled model, whose equations can be used again
    refit = got.model.fit(reml=False, solver=solver, equations=mine.eq)
    assert refit.llf == pytest.approx(results.model.fit(reml=False, solver=solver).llf, rel=1e-13)


@pytest.mark.parametrize("again", COPIES)
def test_an_iterative_fit(again):
    results = mme.lmer(FORMULA, crossed(), solver="iterative", seed=2)
    got = again(results)
    assert_same(got, results)
    for name in ("theta_se", "theta_error", "sigma2_error", "loglik_error", "probes"):
        np.testing.assert_array_equal(
            getattr(got.fit.monte_carlo, name), getattr(results.fit.monte_carlo, name), err_msg=name
        )
    theta = flat(results.fit)
    old = results.fit.objective
    np.testing.assert_array_equal(got.fit.objective.probes, old.probes)
    mine, theirs = (o.evaluate(1.5 * theta, 2, tol=1e-10) for o in (got.fit.objective, old))
    np.testing.assert_allclose(mine.N_basis[0], theirs.N_basis[0], rtol=1e-7)
    np.testing.assert_allclose(got.fit.objective.solution(theta)["u"][0], results.fit.u[0], atol=1e-6)
    with pytest.raises(AttributeError, match="no 'plan'"):
        _ = got.fit.objective.plan


@pytest.mark.parametrize("solver", [*SOLVERS, "iterative"])
def test_a_pickle_holds_no_workspace(solver):
    """Rows, labels, cross-products and effects: below one dense S, of which a fit holds two."""
    data = crossed(3000, 700, 650)
    results = mme.lmer(FORMULA, data, solver=solver)
    results.fit.objective.evaluate(flat(results.fit), 2)
    eq = results.fit.objective.eq
    rows = 8 * 4 * len(data) + 4 * 2 * len(data)  # y, X, index; codes
    arrays = (eq.A1, eq.A1x, eq.ptr, eq.idx, eq.tptr, eq.tlev, eq.gptr, eq.gidx, eq.gval, eq.A2x)
    kept = rows + sum(a.nbytes for a in arrays) + sum(u.nbytes for u in results.fit.u)
    kept += 0 if eq.values is None else eq.values.nbytes + eq.positions.nbytes
    size = len(pickle.dumps(results))
    assert size < 1.5 * kept + 50_000
    assert size < 8 * 650 * 650


@pytest.mark.slow
def test_a_process_pool_returns_fits():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(fit_of_seed, [1, 2]))
    for seed, got in zip([1, 2], results, strict=True):
        assert_same_fit(got, fit_of_seed(seed))


def assert_same_fit(got: LinearMixedModelResults, expected: LinearMixedModelResults) -> None:
    """All but the seconds it took."""
    assert got.llf == expected.llf
    pd.testing.assert_series_equal(got.fe_params, expected.fe_params)
    pd.testing.assert_frame_equal(got.varcorr, expected.varcorr)
    assert got.fit_info["solver"] == expected.fit_info["solver"] == "sparse (SuperLU)"
    assert got.fit.objective.evaluate(flat(got.fit), 0).deviance == expected.deviance


@pytest.mark.parametrize("solver", [*SOLVERS, "iterative"])
def test_mixedlm_results(solver):
    data = crossed(400, 60, 50).assign(one=1)
    parts = {"g": "0 + C(g)", "h": "0 + C(h)"}
    results = mme.mixedlm("y ~ x", data, groups="one", vc_formula=parts).fit(solver=solver)
    for again in (pickle.loads(pickle.dumps(results)), copy.deepcopy(results)):
        assert str(again.summary()) == str(results.summary())
        np.testing.assert_array_equal(again.params, results.params)
        np.testing.assert_allclose(again.bse_re, results.bse_re, rtol=1e-10)
        if solver != "iterative":
            value = again.model.loglike(again.params_object)
            assert value == pytest.approx(results.llf, abs=1e-8)
