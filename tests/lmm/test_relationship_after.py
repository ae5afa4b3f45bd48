"""After a fit with related levels: heritability, simulation, resampling, profiles, files."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from animals import fitted, herd

import mme
from mme.exceptions import DataError, InferenceError
from mme.inference.simulation import ParametricDraws

FORMULA = "y ~ sex + (1 | animal) + (1 | herd)"


def test_heritability_and_its_intervals():
    result = fitted()
    variances = result.varcorr.set_index("grp")["vcov"]
    expected = variances["animal"] / variances.sum()
    for method in (None, "delta", "profile"):
        got = result.heritability(method=method)
        assert got.index.tolist() == ["animal"]
        np.testing.assert_allclose(got["estimate"], expected, rtol=1e-9)
    profile = result.heritability("animal", method="profile").iloc[0]
    # at an end of the interval the best fit of that share is 1.92 below the maximum
    objective, best = result.fit.objective, result.llf
    for h in profile[["lower", "upper"]]:
        herd_ratio = np.exp(np.linspace(-6, 1, 400))
        lam = np.sqrt(h / (1 - h) * (1 + herd_ratio))
        values = [
            -0.5 * objective.evaluate(np.array([a, np.sqrt(b)])).deviance
            for a, b in zip(lam, herd_ratio, strict=True)
        ]
        np.testing.assert_allclose(best - max(values), 1.9207, atol=2e-3)
    assert result.heritability("herd", method="delta")["estimate"].iloc[0] < expected
    with pytest.raises(mme.exceptions.OptionError, match="must name one term, one of 'animal', 'herd'"):
        result.heritability("cow")


def test_delta_standard_error_is_that_of_the_inverse_hessian():
    result = fitted()
    se = result.heritability(method="delta")["se"].iloc[0]
    base = np.sqrt([result.varcorr["vcov"].iloc[0], result.varcorr["vcov"].iloc[1], result.scale])

    def deviance(x):
        a, h, s = x
        here = result.fit.objective.evaluate(np.sqrt([a / s, h / s]))
        nu = result.fit.nu
        return here.deviance + nu * (here.sigma2 / s - 1 + np.log(s / here.sigma2))

    x, H = base**2, np.zeros((3, 3))
    steps = 1e-3 * x
    for i in range(3):
        for j in range(3):
            e, f = np.eye(3)[i] * steps, np.eye(3)[j] * steps
            H[i, j] = (
                deviance(x + e + f) - deviance(x + e - f) - deviance(x - e + f) + deviance(x - e - f)
            ) / (4 * steps[i] * steps[j])
    g = np.array([x[1] + x[2], -x[0], -x[0]]) / x.sum() ** 2
    np.testing.assert_allclose(se, np.sqrt(2 * g @ np.linalg.solve(H, g)), rtol=1e-3)


def test_simulated_responses_have_the_covariance_of_the_relationship():
    data, pedigree = herd(n=40, seed=1)
    result = mme.lmer(FORMULA, data, relationship={"animal": pedigree})
    design = result.model.model_design.design
    draws = ParametricDraws(design, result.fit.beta, (np.array([[2.0]]), np.array([[0.0]])), 0.25)
    rng = np.random.default_rng(0)
    Y = np.array([draws.from_stream(rng) for _ in range(6000)])
    Z = np.eye(40)[pedigree.labels.get_indexer(data["animal"])]
    V = 0.25 * (np.eye(len(data)) + 4.0 * Z @ pedigree.covariance().to_numpy() @ Z.T)
    error = np.abs(np.cov(Y.T) - V) / np.sqrt(np.outer(np.diag(V), np.diag(V)) + V**2)
    assert error.max() < 5.5 / np.sqrt(6000)


def test_intervals_of_simulated_populations_cover():
    """Profile and delta intervals of h2 = 0.4 at 90 %, and predictions of animals: 60 populations."""
    inside, predicted = {"profile": 0, "delta": 0}, []
    rng = np.random.default_rng(7)
    data, pedigree = herd(n=150, seed=12)
    n = len(data)
    for _ in range(60):
        u = np.sqrt(4.0) * pedigree.relation.related(rng.normal(size=150))
        value = pd.Series(u, pedigree.labels)
        data["y"] = value.loc[data["animal"]].to_numpy() + np.sqrt(6.0) * rng.normal(size=n)
        result = mme.lmer("y ~ 1 + (1 | animal)", data, relationship={"animal": pedigree})
        for method in inside:
            interval = result.heritability(method=method, alpha=0.1).iloc[0]
            inside[method] += int(not (interval["lower"] > 0.4 or interval["upper"] < 0.4))
        table = result.ranef_table("animal")
        predicted.append(np.mean((table["lower"] <= u) & (u <= table["upper"])))
    # binomial with 0.9: three standard deviations are seven
    assert all(47 <= count <= 60 for count in inside.values()), inside
    assert 0.9 < np.mean(predicted) < 0.98


def test_refit_bootstrap_profile_and_update():
    result = fitted()
    data, _ = herd()
    again = result.refit(data["y"] + 5.0)
    np.testing.assert_allclose(again.varcorr["vcov"], result.varcorr["vcov"], rtol=1e-4)
    np.testing.assert_allclose(again.fe_params.iloc[0], result.fe_params.iloc[0] + 5.0, rtol=1e-4)
    drawn = result.simulate(2, seed=3)
    direct = mme.lmer(FORMULA, data.assign(y=drawn.iloc[:, 1].to_numpy()), relationship={"animal": herd()[1]})
    boot = result.bootstrap(2, seed=3, statistic=lambda p: p["sd_(Intercept)|animal"])
    np.testing.assert_allclose(np.ravel(boot.draws)[1], direct.varcorr["sdcor"].iloc[0], rtol=1e-3)
    interval = result.conf_int(method="profile", parm="sd_(Intercept)|animal", reml=True)
    assert interval.iloc[0, 0] < result.varcorr["sdcor"].iloc[0] < interval.iloc[0, 1]
    smaller = result.update("y ~ 1 + (1 | animal) + (1 | herd)")
    assert smaller.n_groups["animal"] == 160
    assert 0.4 < result.pit_residuals(n=100, seed=1).values.mean() < 0.6


def test_pickles_and_files():
    _, pedigree = herd()
    result = fitted()
    copy = pickle.loads(pickle.dumps(result))
    np.testing.assert_allclose(copy.ranef_table("animal")["pev"], result.ranef_table("animal")["pev"])
    again = pickle.loads(pickle.dumps(pedigree))
    np.testing.assert_allclose(again.covariance(), pedigree.covariance())


def test_saved_fits(tmp_path):
    data, _ = herd()
    result = fitted()
    path = tmp_path / "animal.mme"
    mme.save(result, path)
    loaded = mme.load(path)
    new = data.iloc[:5].assign(animal=[1, 2, 3, 150, 160])
    np.testing.assert_allclose(loaded.predict(new), result.predict(new), rtol=1e-12)
    pd.testing.assert_frame_equal(loaded.coef_table(), result.coef_table())


def test_iterative_fits_of_related_levels():
    data, pedigree = herd()
    exact = fitted()
    fit = mme.lmer(
        FORMULA,
        data,
        relationship={"animal": pedigree},
        solver="iterative",
        goal=0.02,
        max_probes=3000,
        seed=1,
    )
    error = fit.fit.monte_carlo.variance_error[0][0, 0]
    assert abs(fit.varcorr["vcov"].iloc[0] - exact.varcorr["vcov"].iloc[0]) < 6 * error
    # given theta all is exact: modes, and their errors by a solve each
    at = exact.fit.objective.solution(fit.theta)
    np.testing.assert_allclose(
        fit.random_effects["animal"]["(Intercept)"], at["u"][0].ravel(), rtol=1e-5, atol=1e-6
    )
    levels = [1, 40, 160]
    fit_table = fit.ranef_table("animal", levels=levels)
    V = exact.fit.objective.at(fit.theta)
    pev = fit.scale * V.conditional_covariances()[0][pedigree.labels.get_indexer(levels), 0, 0]
    np.testing.assert_allclose(fit_table["se"] ** 2, pev, rtol=1e-4)
    new = data.iloc[:3]
    close = fit.get_prediction(new).se_mean / exact.get_prediction(new, variances="given").se_mean
    np.testing.assert_allclose(close, 1.0, atol=0.1)


def test_what_needs_independent_levels_says_so():
    result = fitted()
    for what, message in (
        (lambda: result.influence(), "animal are related"),
        (lambda: result.coef_table(cov_type="CR0", cluster="herd"), "related"),
        (lambda: result.coef_table(cov_type="HC0"), "related"),
        (lambda: result.bootstrap(3, kind="residual"), "related"),
        (lambda: result.bootstrap(3, kind="cluster"), "related"),
        (lambda: result.test_variance("animal"), "related"),
    ):
        with pytest.raises((InferenceError, DataError), match=message):
            what()
