"""What differs from statsmodels, point by point: each test fails on statsmodels' behaviour.

The numbers in the names are those of the list "moving from statsmodels: what differs".
"""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from statsmodels.base import _penalties as penalties
from statsmodels.regression.mixed_linear_model import MixedLM as Original
from statsmodels.tools.sm_exceptions import ConvergenceWarning, SingularMatrixWarning
from support import load_data

import mme
from mme import MixedLMParams
from mme.exceptions import DataError, RankDeficientWarning


@pytest.fixture
def frame():
    """40 groups of 6 with a random intercept, a slope within groups, a category used again in every group."""
    rng = np.random.default_rng(11)
    g = np.repeat(np.arange(40), 6)
    d = pd.DataFrame({"g": g, "x": rng.normal(size=240), "a": np.tile(list("uuvvww"), 40)})
    d["y"] = 1 + 2 * d.x + 1.5 * rng.normal(size=40)[g] + rng.normal(size=240)
    d["y"] += rng.normal(size=(40, 3))[g, np.tile([0, 0, 1, 1, 2, 2], 40)]
    return d


@pytest.fixture
def flat():
    """Data whose between-group variance is zero at the optimum."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(20), 6)
    y = rng.normal(size=120)
    y -= np.bincount(g, y)[g] / 6  # no group means: less than chance between groups
    return pd.DataFrame({"g": g, "x": rng.normal(size=120), "y": 3.0 + y})


# -- 1 ------------------------------------------------------------------------------------------


def test_1_variance_standard_errors_scale_with_the_response(frame):
    one = mme.mixedlm("y ~ x", frame, groups="g").fit()
    ten = mme.mixedlm("y ~ x", frame.assign(y=10 * frame.y), groups="g").fit()
    assert_allclose(ten.bse_re, 100 * one.bse_re, rtol=1e-5)
    column = one.summary().tables[1]["Std.Err."]
    assert column.iloc[-1] == f"{one.bse_re.iloc[0]:.3f}"


def test_1_variance_standard_errors_against_the_joint_information(frame):
    """Delta rule against the inverse Hessian of the likelihood in (beta, variance, residual variance)."""
    r = mme.mixedlm("y ~ x", frame, groups="g").fit(reml=False)
    m = r.model
    n, g = m.nobs, m.group_index.codes
    Z = (g[:, None] == np.arange(m.n_groups)).astype(float)

    def negative(p):
        V = p[3] * np.eye(n) + p[2] * Z @ Z.T
        resid = m.endog - m.exog @ p[:2]
        return 0.5 * (np.linalg.slogdet(V)[1] + resid @ np.linalg.solve(V, resid))

    p = np.array([*r.fe_params, r.cov_re.iloc[0, 0], r.scale])
    h = 1e-3 * np.maximum(np.abs(p), 0.1)
    H = np.empty((4, 4))
    for i in range(4):
        for j in range(4):
            ei, ej = h[i] * np.eye(4)[i], h[j] * np.eye(4)[j]
            f = negative(p + ei + ej) - negative(p + ei - ej) - negative(p - ei + ej) + negative(p - ei - ej)
            H[i, j] = f / (4 * h[i] * h[j])
    # second differences of a likelihood of order 100: five digits
    assert_allclose(r.bse_re.iloc[0], np.sqrt(np.linalg.inv(H)[2, 2]), rtol=1e-4)


# -- 2 and 3 ------------------------------------------------------------------------------------


def test_2_zero_variance_is_an_ordinary_value(flat):
    model = mme.MixedLM.from_formula("y ~ x", flat, groups="g")
    with pytest.warns(SingularMatrixWarning, match="boundary"):
        r = model.fit()
    with pytest.warns(SingularMatrixWarning, match="g Var: their standard errors are NaN"):
        assert np.isnan(r.bse["g Var"])
    X = model.exog
    ols = np.linalg.lstsq(X, model.endog, rcond=None)[0]
    assert_allclose(r.fe_params, ols, rtol=1e-6)
    assert r.cov_re.iloc[0, 0] < 1e-8
    assert np.isfinite(r.llf)
    assert_allclose(model.loglike([0.0]), r.llf, rtol=1e-10)
    assert np.all(np.isfinite(r.bse_fe))
    assert max(abs(u.iloc[0]) for u in r.random_effects.values()) < 1e-6
    assert r.random_effects_cov[0].to_numpy()[0, 0] < 1e-6
    assert np.all(np.isfinite(model.get_distribution(r.params, r.scale, None).rvs(rng=0)))
    assert_allclose(model.get_fe_params(np.zeros((1, 1)), np.empty(0))[0], ols, rtol=1e-10)


def test_2_zero_variance_component(flat):
    model = mme.MixedLM.from_formula("y ~ x", flat, groups="g", vc_formula={"x": "0 + x"})
    value = model.loglike(MixedLMParams.from_components(np.zeros(2), vcomp=np.zeros(1)))
    n, p = model.exog.shape
    X, y = model.exog, model.endog
    rss = np.sum((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2)
    expected = np.linalg.slogdet(X.T @ X)[1] + (n - p) * (1 + np.log(2 * np.pi * rss / (n - p)))
    assert_allclose(value, -0.5 * expected, rtol=1e-12)


def test_3_boundary_warning_is_relative_to_the_scale(frame):
    small = frame.assign(y=frame.y / 1000)  # variances of 1e-6: small numbers, not a boundary
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        warnings.simplefilter("error", SingularMatrixWarning)
        r = mme.mixedlm("y ~ x", small, groups="g").fit()
    assert r.cov_re.iloc[0, 0] < 0.01
    assert r.boundary == []


# -- 4 ------------------------------------------------------------------------------------------


def test_4_two_fits_of_one_model_are_independent(frame):
    model = mme.MixedLM.from_formula("y ~ x", frame, groups="g")
    assert np.isfinite(model.loglike([1.0]))  # before any fit
    assert model.score([1.0]).shape == (1,)
    reml = model.fit(reml=True)
    before = reml.llf
    ml = model.fit(reml=False)
    assert reml.llf == before != ml.llf
    assert model.reml is False
    fresh = mme.mixedlm("y ~ x", frame, groups="g").fit(reml=True)
    assert_allclose(reml.bse, fresh.bse, rtol=1e-10)
    assert_allclose(reml.bse_re, fresh.bse_re, rtol=1e-10)
    assert_allclose(reml.random_effects[3], fresh.random_effects[3])


# -- 5 ------------------------------------------------------------------------------------------


def test_5_fit_regularized_returns_full_results(frame):
    model = mme.MixedLM.from_formula("y ~ x", frame, groups="g", vc_formula={"a": "0 + a"}, re_formula="1")
    plain = model.fit(reml=False)
    none = model.fit_regularized(alpha=0, reml=False)
    assert_allclose(none.params, plain.params, rtol=1e-10)
    assert_allclose(none.bse, plain.bse, rtol=1e-8)
    assert_allclose([none.aic, none.bic, none.llf], [plain.aic, plain.bic, plain.llf], rtol=1e-10)
    assert isinstance(none.summary().as_text(), str)
    r = model.fit_regularized(alpha=40.0, reml=False)
    assert np.all(np.abs(r.fe_params) < np.abs(plain.fe_params))
    # optimality: the gradient of (y - Xb)'V^-1(y - Xb) is balanced by the penalty
    point = model.likelihood.at(r.cov_re_unscaled, r.params_object.vcomp)
    pull = 2 * point.score_beta(np.asarray(r.fe_params)) / plain.scale
    assert_allclose(pull, 40.0 * np.sign(r.fe_params), rtol=1e-4)
    huge = model.fit_regularized(alpha=1e6)
    assert_array_equal(huge.fe_params, 0.0)
    assert np.all(np.isnan(huge.bse_fe)) and np.all(np.isfinite(huge.bse_re))


def test_5_smooth_penalty_maximizes_the_penalized_likelihood(frame):
    model = mme.MixedLM.from_formula("y ~ x", frame, groups="g")
    pen = penalties.L2()
    r = model.fit_regularized(method=pen, alpha=5.0)
    score = model.score(r.params_object, profile_fe=False)
    assert np.max(np.abs(score)) < 1e-3
    assert abs(r.fe_params["x"]) < abs(model.fit().fe_params["x"])


# -- 6 ------------------------------------------------------------------------------------------


def test_6_profile_holds_the_variance(frame):
    r = mme.MixedLM.from_formula("y ~ x", frame, groups="g", re_formula="~x").fit(reml=False)
    free = copy.deepcopy(r.freepat)
    got = r.profile_re(0, "re", num_low=2, dist_low=0.5, num_high=2, dist_high=0.5)
    v = r.cov_re.iloc[0, 0]
    assert_allclose(got[:, 0], v + np.linspace(-0.5, 0.5, 5), rtol=1e-12)
    assert got[2, 1] == r.llf
    assert np.all(np.diff(got[:3, 1]) > 0) and np.all(np.diff(got[2:, 1]) < 0)
    assert r.freepat is free is None
    # the same by brute force: the ratio and the residual variance on a grid, the rest maximized
    model, target = r.model, got[0, 0]

    def value(x):
        s = np.exp(x[0])
        L = np.array([[np.sqrt(target / s), 0.0], [x[1], x[2]]])
        point = model.likelihood.at(L @ L.T, np.empty(0))
        nu = point.nu(False)
        return 0.5 * (point.logdet + nu * np.log(2 * np.pi * s) + point.r2() / s)

    from scipy.optimize import minimize

    best = minimize(
        value, [np.log(r.scale), 0.0, 0.1], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}
    )
    assert_allclose(got[0, 1], -best.fun, rtol=1e-8)


@pytest.mark.parametrize("method", [None, "bfgs"])
def test_6_profile_with_a_penalty(frame, method):
    """The penalized likelihood is profiled: the same by brute force, and below the penalized maximum."""
    pen = penalties.PSD(2.0)
    model = mme.MixedLM.from_formula("y ~ x", frame, groups="g", re_formula="~x")
    r = model.fit(reml=False, cov_pen=pen, gtol=1e-7)
    got = r.profile_re(0, "re", num_low=1, dist_low=0.5, num_high=1, dist_high=0.5, method=method)
    assert got[1, 1] == r.llf > max(got[0, 1], got[2, 1])

    def value(x, target):
        s = np.exp(x[0])
        L = np.array([[np.sqrt(target / s), 0.0], [x[1], x[2]]])
        D = L @ L.T
        point = model.likelihood.at(D, np.empty(0))
        nu = point.nu(False)
        negative = 0.5 * (point.logdet + nu * np.log(2 * np.pi * s) + point.r2() / s)
        return negative + pen.func(D, None) if x[2] != 0.0 else np.inf

    from scipy.optimize import minimize

    options = {"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000, "maxfev": 4000}
    for i in (0, 2):
        begin = [np.log(r.scale), 0.0, 0.5]
        best = minimize(value, begin, args=(got[i, 0],), method="Nelder-Mead", options=options)
        assert_allclose(got[i, 1], -best.fun, rtol=1e-8)


def test_6_profile_builds_nothing_again_and_takes_few_evaluations(frame, monkeypatch):
    """Quasi-Newton from the curvature at the estimate: the same values as scipy's, in a few steps a point."""
    model = mme.MixedLM.from_formula("y ~ x", frame, groups="g", vc_formula={"a": "0 + a"}, re_formula="~x")
    r = model.fit()

    def fail(*args, **kwargs):
        raise AssertionError("equations were built again")

    for module in (mme.fit.fit, mme.engine.direct.objective):
        monkeypatch.setattr(module, "build_equations", fail)
    objective = model.likelihood.objective(True)
    kwargs = {"num_low": 2, "dist_low": 0.5, "num_high": 2, "dist_high": 0.5}
    before = objective.n_factorizations
    got = r.profile_re(0, "re", **kwargs)
    fast = objective.n_factorizations - before
    expected = r.profile_re(0, "re", method="bfgs", gtol=1e-7, **kwargs)
    assert_allclose(got, expected, rtol=1e-10)
    # 4 differences for the curvature, and fewer than ten for each of the four points
    assert fast <= 44
    assert fast < objective.n_factorizations - before - fast


def test_6_profile_honours_its_arguments(frame):
    r = mme.mixedlm("y ~ x", frame, groups="g", re_formula="~x").fit()
    with pytest.warns(FutureWarning, match="nonsense"):
        r.profile_re(0, "re", num_low=1, dist_low=0.1, num_high=1, dist_high=0.1, nonsense=1)
    # one step is not enough from so far: scipy's methods finish the job
    one = r.profile_re(0, "re", num_low=1, dist_low=1.5, num_high=1, dist_high=1.5, maxiter=1)
    full = r.profile_re(0, "re", num_low=1, dist_low=1.5, num_high=1, dist_high=1.5)
    assert np.all(one[:, 1] <= full[:, 1] + 1e-8)
    ml = r.profile_re(0, "re", num_low=1, dist_low=1.5, num_high=1, dist_high=1.5, reml=False)
    assert np.all(ml[[0, 2], 1] > full[[0, 2], 1] + 1.0)


def test_4_a_second_fit_builds_nothing_again(frame, monkeypatch):
    model = mme.MixedLM.from_formula("y ~ x", frame, groups="g", re_formula="~x")
    reml = model.fit()
    monkeypatch.setattr(
        mme.fit.fit, "build_equations", lambda *args: pytest.fail("equations were built again")
    )
    ml = model.fit(reml=False)
    fresh = mme.mixedlm("y ~ x", frame, groups="g", re_formula="~x")
    monkeypatch.undo()
    assert_allclose(ml.params, fresh.fit(reml=False).params, rtol=1e-8)
    assert ml.llf != reml.llf


def test_6_profile_of_a_component_with_a_pattern(frame):
    model = mme.MixedLM.from_formula("y ~ x", frame, groups="g", vc_formula={"a": "0 + a"}, re_formula="1")
    free = MixedLMParams.from_components(np.ones(2), cov_re=np.ones((1, 1)), vcomp=np.ones(1))
    r = model.fit(free=free)
    got = r.profile_re("a", "vc", num_low=1, dist_low=0.2, num_high=1, dist_high=0.2, gtol=1e-7)
    assert_array_equal(free.vcomp, 1.0)  # statsmodels writes its constraint into the caller's pattern
    assert got[1, 1] > max(got[0, 1], got[2, 1])
    with pytest.raises(ValueError, match="too large"):
        r.profile_re("a", "vc", dist_low=1e3)
    with pytest.raises(ValueError, match="vtype"):
        r.profile_re("a", "other")


# -- 7 ------------------------------------------------------------------------------------------


def test_7_convergence_record(frame):
    r = mme.mixedlm("y ~ x", frame, groups="g").fit(full_output=True)
    assert r.mle_retvals["converged"] and r.mle_retvals["newton_decrement"] < 1e-8
    assert r.mle_retvals["evaluations"] > 0 and isinstance(r.mle_retvals["message"], str)
    assert len(r.hist[0]["deviance"]) >= 1
    model = mme.MixedLM.from_formula("y ~ x", frame, groups="g", re_formula="~x")
    with pytest.warns(ConvergenceWarning, match="did not converge") as seen:
        stopped = model.fit([3.0, 0.0, 3.0], method="bfgs", maxiter=1)
    assert not stopped.converged
    assert len([w for w in seen if issubclass(w.category, ConvergenceWarning)]) == 1
    with pytest.warns(ConvergenceWarning, match=r"did not converge.*Raise maxiter") as seen:
        stopped = model.fit(maxiter=1, start_params=[3.0, 0.0, 3.0])
    assert not stopped.converged and stopped.mle_retvals["converged"] is False
    assert stopped.mle_retvals["evaluations"] == 1 and stopped.mle_retvals["newton_decrement"] > 0.1
    assert_allclose(stopped.cov_re_unscaled, 9.0 * np.eye(2), rtol=1e-10)
    assert len([w for w in seen if issubclass(w.category, ConvergenceWarning)]) == 1


# -- 8 ------------------------------------------------------------------------------------------


def test_8_dependent_columns_are_dropped_by_name(frame):
    d = frame.assign(twice=2 * frame.x)
    model = mme.MixedLM.from_formula("y ~ x + twice", d, groups="g")
    with pytest.warns(RankDeficientWarning, match="twice"):
        r = model.fit()
    plain = mme.mixedlm("y ~ x", frame, groups="g").fit()
    assert np.isnan(r.fe_params["twice"]) and np.isnan(r.bse["twice"])
    assert_allclose(r.params[["Intercept", "x", "g Var"]], plain.params, rtol=1e-8)
    assert_allclose(r.bse[["Intercept", "x", "g Var"]], plain.bse, rtol=1e-6)
    assert_allclose(r.fittedvalues, plain.fittedvalues, rtol=1e-8)
    assert_allclose([r.llf, r.scale], [plain.llf, plain.scale], rtol=1e-8)
    assert "twice" in r.summary().as_text()


# -- 9 ------------------------------------------------------------------------------------------


def test_9_sparse_components_serve_every_result(frame):
    kwargs = {"groups": "g", "vc_formula": {"a": "0 + a"}, "re_formula": "1"}
    dense = mme.MixedLM.from_formula("y ~ x", frame, **kwargs).fit()
    r = mme.MixedLM.from_formula("y ~ x", frame, use_sparse=True, **kwargs).fit()
    assert hasattr(r.model.exog_vc.mats[0][0], "tocsr")
    assert_allclose(r.fittedvalues, dense.fittedvalues)
    assert_allclose(r.random_effects_cov[0], dense.random_effects_cov[0])
    assert_allclose(r.bse_re, dense.bse_re)
    assert list(r.bse_re.index) == ["g Var", "a Var"]


def test_9_results_at_the_start_values(frame):
    model = mme.MixedLM.from_formula("y ~ x", frame, groups="g")
    r = model.fit(start_params=[0.5], do_cg=False)
    assert_allclose(r.params["g Var"], 0.25)
    assert_allclose(r.llf, model.loglike([0.5]))
    assert not r.converged


def test_9_t_test_forms(frame):
    r = mme.mixedlm("y ~ x", frame, groups="g").fit()
    by_matrix = r.t_test(np.array([[0.0, 1.0]]))
    for form in ([0.0, 1.0], np.array([0.0, 1.0]), "x = 0", ["x = 0"]):
        assert_allclose(r.t_test(form).tvalue, by_matrix.tvalue)
    assert_allclose(by_matrix.tvalue.item(), r.tvalues["x"])
    both = r.t_test(["Intercept = 1", "x = 0"])
    assert_allclose(both.effect, [r.fe_params["Intercept"], r.fe_params["x"]])
    assert_allclose(both.tvalue, [(r.fe_params["Intercept"] - 1.0) / r.bse["Intercept"], r.tvalues["x"]])
    with pytest.raises(ValueError, match="should have 2 columns"):
        r.t_test(np.eye(3))
    assert_allclose(r.f_test("x = 0").fvalue, by_matrix.tvalue.item() ** 2)


def test_9_bootstrap_is_parametric(frame):
    r = mme.mixedlm("y ~ x", frame, groups="g").fit()
    mean, std, results = r.bootstrap(nrep=30, rng=5)
    assert results.shape == (30, 3)
    # 30 draws: the standard deviation is known to about 13 percent, taken four times
    assert_allclose(std, r.bse, rtol=0.6)
    assert np.all(np.abs(mean - r.params) < 4 * r.bse / np.sqrt(30))


# -- 10 -----------------------------------------------------------------------------------------


def test_10_subset(frame):
    keep = frame.g < 30
    got = mme.mixedlm("y ~ x", frame, groups="g", subset=keep).fit()
    assert got.model.n_groups == 30
    assert_allclose(got.params, mme.mixedlm("y ~ x", frame[keep], groups="g").fit().params)
    labels = frame.g.to_numpy()
    again = mme.mixedlm("y ~ x", frame, groups=labels, subset=keep).fit()
    assert_allclose(again.params, got.params)


def test_10_missing_rows_go_from_every_array(frame):
    y, X = frame.y.to_numpy().copy(), np.column_stack([np.ones(240), frame.x])
    Z = np.column_stack([np.ones(240), frame.x])
    groups = frame.g.to_numpy().astype(float)
    y[3], Z[50, 1], groups[100] = np.nan, np.nan, np.nan
    keep = np.ones(240, dtype=bool)
    keep[[3, 50, 100]] = False
    got = mme.MixedLM(y, X, groups, exog_re=Z, missing="drop").fit()
    expected = mme.MixedLM(y[keep], X[keep], groups[keep], exog_re=Z[keep]).fit()
    assert got.nobs == 237
    assert_allclose(got.params, expected.params)
    with pytest.raises((DataError, ValueError), match="missing"):
        mme.MixedLM(y, X, groups, exog_re=Z)


def test_10_missing_rows_of_components(frame):
    X, y, groups = np.column_stack([np.ones(240), frame.x]), frame.y.to_numpy().copy(), frame.g.to_numpy()
    y[7] = np.nan
    mats = [[frame.x.to_numpy()[groups == g][:, None] for g in range(40)]]
    spec = mme.VCSpec(["x"], [[["x"]] * 40], mats)
    got = mme.MixedLM(y, X, groups, exog_vc=spec, missing="drop").fit()
    d = frame.assign(y=y).dropna()
    expected = mme.mixedlm("y ~ x", d, groups="g", vc_formula={"x": "0 + x"}).fit()
    assert_allclose(got.params, expected.params, rtol=1e-8)


def test_10_missing_values_in_a_formula_are_counted(frame):
    d = frame.copy()
    d.loc[[3, 5], "x"] = np.nan
    with pytest.raises(DataError, match=r"'x' \(2\) of 240 rows"):
        mme.MixedLM.from_formula("y ~ x", d, groups="g")
    assert mme.MixedLM.from_formula("y ~ x", d, groups="g", missing="drop").nobs == 238


def test_10_quoted_names(frame):
    d = frame.rename(columns={"x": "my col", "a": "the class"})
    got = mme.MixedLM.from_formula(
        'y ~ Q("my col")',
        d,
        groups="g",
        re_formula='~Q("my col")',
        vc_formula={"a": '0 + C(Q("the class"))'},
        missing="drop",
    ).fit()
    kwargs = {"groups": "g", "re_formula": "~x", "vc_formula": {"a": "0 + C(a)"}}
    assert_allclose(got.params, mme.mixedlm("y ~ x", frame, **kwargs).fit().params, rtol=1e-6)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.arange(5), "5 rows"),
        (np.zeros((240, 2, 2)), "one-dimensional|rows"),
        (np.r_[np.nan, np.ones(239)], "missing"),
    ],
)
def test_10_bad_groups(frame, groups, message):
    with pytest.raises(DataError, match=message):
        mme.MixedLM(frame.y.to_numpy(), frame[["x"]].to_numpy(), groups)


def test_10_groups_in_another_order_are_refused(frame):
    shuffled = frame.g.sample(frac=1, random_state=0)
    with pytest.raises(DataError, match="another order"):
        mme.MixedLM(frame.y, frame[["x"]], shuffled)
    with pytest.raises(DataError, match="another order"):
        mme.MixedLM.from_formula("y ~ x", frame, groups=shuffled)


def test_10_labels_that_do_not_sort(frame):
    labels = np.array([f"s{g}" if g % 2 else g for g in frame.g], dtype=object)
    got = mme.mixedlm("y ~ x", frame, groups=labels).fit()
    assert_allclose(got.params, mme.mixedlm("y ~ x", frame, groups="g").fit().params, rtol=1e-8)
    assert got.random_effects["s1"].shape == (1,)


def test_10_duplicated_index_and_list_input(frame):
    kwargs = {"groups": "g", "vc_formula": {"a": "0 + a"}, "re_formula": "1"}
    expected = mme.mixedlm("y ~ x", frame, **kwargs).fit()
    d = frame.set_axis(np.zeros(240, dtype=int))
    assert_allclose(mme.mixedlm("y ~ x", d, **kwargs).fit().params, expected.params)
    listed = mme.MixedLM(frame.y.tolist(), [[1.0, x] for x in frame.x], frame.g.tolist()).fit()
    assert_allclose(listed.llf, mme.mixedlm("y ~ x", frame, groups="g").fit().llf)


def test_10_several_group_columns(frame):
    got = mme.mixedlm("y ~ x", frame, groups=["g", "a"]).fit()
    joined = frame.assign(ga=frame.g.astype(str) + frame.a)
    expected = mme.mixedlm("y ~ x", joined, groups="ga").fit()
    assert got.model.n_groups == 120
    assert_allclose(got.llf, expected.llf)
    assert got.model.group_labels[:2] == [(0, "u"), (0, "v")]


# -- 12 -----------------------------------------------------------------------------------------


def test_12_results_without_data_are_small_and_complete(frame, tmp_path):
    kwargs = {"groups": "g", "vc_formula": {"a": "0 + a"}, "re_formula": "1"}
    r = mme.mixedlm("y ~ x", frame, **kwargs).fit()
    before = r.summary().as_text()
    effects = r.random_effects[7]
    full = len(pickle.dumps(r))
    r.save(tmp_path / "r.pkl", remove_data=True)
    assert r.model.endog is None and r.model.data.orig_exog is None and not hasattr(r.model.data, "frame")
    got = type(r).load(tmp_path / "r.pkl")
    assert (tmp_path / "r.pkl").stat().st_size < full
    assert got.summary().as_text() == before
    pd.testing.assert_series_equal(got.random_effects[7], effects)
    with pytest.raises(DataError, match="transform=False"):
        got.predict(frame)
    for needs_rows in (lambda: got.fittedvalues, lambda: got.random_effects_cov, got.model.fit):
        with pytest.raises(DataError, match="removed"):
            needs_rows()
    assert_allclose(got.predict(np.array([[1.0, 2.0]]), transform=False), got.fe_params @ [1.0, 2.0])


def test_12_pickle_with_data(frame):
    r = mme.mixedlm("y ~ x", frame, groups="g").fit()
    got = pickle.loads(pickle.dumps(r))
    assert_allclose(got.bse, r.bse)
    assert_allclose(got.predict(frame.head(3)), r.predict(frame.head(3)))
    assert copy.deepcopy(r).llf == r.llf


def test_distribution_draws_as_statsmodels_does(frame):
    kwargs = {"groups": "g", "vc_formula": {"a": "0 + a"}, "re_formula": "~x"}
    ours, theirs = mme.mixedlm("y ~ x", frame, **kwargs), Original.from_formula("y ~ x", frame, **kwargs)
    params = np.array([1.0, 2.0, 1.0, 0.3, 0.5, 0.7])
    got = ours.get_distribution(params, 1.3, None).rvs(0, rng=np.random.default_rng(0))
    expected = theirs.get_distribution(params, 1.3, None).rvs(0, rng=np.random.default_rng(0))
    assert_allclose(got, expected)


def test_mediation_runs(frame):
    from statsmodels.stats.mediation import Mediation

    rng = np.random.default_rng(0)
    d = frame.assign(med=0.5 * frame.x + rng.normal(size=240))
    mediator = mme.mixedlm("med ~ x", d, groups="g")
    outcome = mme.mixedlm("y ~ med + x", d, groups="g")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularMatrixWarning)  # the simulated mediator has no group variance
        table = Mediation(outcome, mediator, "x", "med").fit(n_rep=5, rng=1).summary()
    assert np.all(np.isfinite(table.to_numpy()))


def test_sleepstudy_standard_errors_of_the_variances():
    """On the variances' own scale: 14.782 for 35.07 under REML, where statsmodels prints 0.61.

    Second differences of a dense REML likelihood in the (co)variances and sigma2 give the same.
    """
    d = load_data("sleepstudy")
    r = mme.mixedlm("Reaction ~ Days", d, groups="Subject", re_formula="~Days").fit()
    assert_allclose(r.bse_re, [288.783, 46.678, 14.782], rtol=3e-5)


def test_an_infinite_group_label_is_refused():
    """statsmodels takes it as a level of its own."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(10.0), 8)
    g[5] = np.inf
    y = rng.normal(size=80)
    with pytest.raises(DataError, match="infinite label"):
        mme.MixedLM(y, np.ones((80, 1)), g)
