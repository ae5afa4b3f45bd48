"""Structure of the residuals x feature: what works gives right numbers, the rest refuses by name."""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
from dense_residuals import dense_r, dense_v
from oracle import dense_z
from support import load_data, mark_slow

import mme
from mme.exceptions import InferenceError, OptionError

FORMULA = "score ~ baseline + arm * visit"
STRUCTURES = {
    "varident": {"residual": "varident(arm)"},
    "dispersion": {"dispersion": "~ arm + baseline"},
    "ar1": {"residual": "ar1(visit | patient)"},
    "product": {"residual": "varident(arm) * car1(time | patient)"},
    "us": {"residual": "us(visit | patient)"},
}
SITES = "(1 | site)"
each = pytest.mark.parametrize("name", STRUCTURES)
each_model = pytest.mark.parametrize("random", ["", " + (1 | site)"], ids=["gls", "site"])


@cache
def data():
    return load_data("trial")


@cache
def fit(name, random=" + (1 | site)"):
    return mme.lmer(FORMULA + random, data(), **STRUCTURES[name])


def dense(result):
    """V, X, r and Z D of each term, over sigma2."""
    design, structure = result.model.model_design.design, result.model.model_design.residual
    Ds = [lam @ lam.T for lam in result.fit.lam]
    V = dense_v(design, structure, Ds, result.fit.residual.phi)
    return V, design, design.y - design.X @ result.fe_params.to_numpy()


WORKS = {
    "summary": lambda r: str(r.summary()),
    "coef_table": lambda r: r.coef_table(),
    "kenward-roger": lambda r: r.coef_table(ddf="kenward-roger"),
    "conf_int": lambda r: r.conf_int(),
    "anova": lambda r: r.anova(),
    "contrast": lambda r: r.contrast(np.eye(7)[1:3]),
    "emmeans": lambda r: (
        r.emmeans("arm").summary_frame()
        if hasattr(r.emmeans("arm"), "summary_frame")
        else str(r.emmeans("arm"))
    ),
    "predict": lambda r: r.predict(data().head(3)),
    "population": lambda r: r.get_prediction(data().head(3), random_effects=False).se_mean,
    "get_prediction": lambda r: r.get_prediction().summary_frame(),
    "simulate": lambda r: r.simulate(2),
    "pit_residuals": lambda r: r.pit_residuals(n=20),
    "variance_table": lambda r: r.variance_table(),
    "residual_table": lambda r: r.residual_table(),
    "bse_re": lambda r: r.bse_re,
    "delta": lambda r: r.delta(lambda p: p["sigma"]),
    "tidy": lambda r: r.tidy(),
    "glance": lambda r: r.glance(),
    "augment": lambda r: r.augment(),
    "vif": lambda r: r.vif(),
    "residuals": lambda r: [r.residuals(k) for k in ("raw", "marginal", "pearson", "normalized", "whitened")],
    "update": lambda r: r.update(reml=False),
}
REFUSED = {
    "profile": lambda r: r.profile(),
    "profile intervals": lambda r: r.conf_int(method="profile"),
    "residual bootstrap": lambda r: r.bootstrap(20, kind="residual"),
    "cluster bootstrap": lambda r: r.bootstrap(20, kind="cluster"),
    "influence": lambda r: r.influence(),
    "hatvalues": lambda r: r.hatvalues(),
    "standardized": lambda r: r.residuals("standardized"),
    "marginal-standardized": lambda r: r.residuals("marginal-standardized"),
    "sandwich": lambda r: r.coef_table(cov_type="CR2", cluster="site"),
    "r2": lambda r: r.r2(),
    "icc": lambda r: r.icc(),
    "ranova": lambda r: r.ranova(),
    "compare": lambda r: mme.compare(r, fit("varident", "")),
    "bca": lambda r: r.bootstrap(20).conf_int(method="bca"),
    "power": lambda r: mme.power(r, "baseline", n=20),
    "test_variance": lambda r: r.test_variance("site"),
    "bootstrap_test": lambda r: r.bootstrap_test(fit("varident", ""), 20),
    "get_influence": lambda r: r.get_influence(),
    "save": lambda r: mme.save(r, "never_written.mme"),
    "estimated variances of predictions": lambda r: r.get_prediction(variances="estimated").se_mean,
    "satterthwaite of predictions": lambda r: r.get_prediction(ddf="satterthwaite").se_mean,
}


@each
@each_model
@pytest.mark.parametrize("feature", WORKS)
def test_works(name, random, feature):
    got = WORKS[feature](fit(name, random))
    for part in got if isinstance(got, list) else [got]:
        if isinstance(part, pd.DataFrame | pd.Series):
            numbers = np.asarray(pd.DataFrame(part).select_dtypes("number"), dtype=float)
            assert np.isfinite(numbers).any()


@each
@pytest.mark.parametrize("feature", REFUSED)
def test_refused_by_name(name, feature):
    result = fit(name)
    with pytest.raises(InferenceError, match=r"residual=.*") as error:
        REFUSED[feature](result)
    assert result.model.model_design.residual.text in str(error.value)


@each
@each_model
def test_estimates_are_generalized_least_squares(name, random):
    result = fit(name, random)
    V, design, r = dense(result)
    X = design.X
    C = np.linalg.inv(X.T @ np.linalg.solve(V, X))
    beta = C @ X.T @ np.linalg.solve(V, design.y)
    np.testing.assert_allclose(result.fe_params, beta, rtol=1e-7)
    np.testing.assert_allclose(result.vcov_fe, result.scale * C, rtol=1e-7)
    assert result.scale == pytest.approx(r @ np.linalg.solve(V, r) / (design.n - X.shape[1]), rel=1e-8)


@each
def test_modes_and_their_errors(name):
    """u = D Z'V^-1 r, and Henderson's variances, from the dense matrices."""
    result = fit(name)
    V, design, r = dense(result)
    Z = dense_z(design.terms[0], design.n)[:, :, 0]
    D = float(result.fit.lam[0][0, 0]) ** 2
    np.testing.assert_allclose(result.ranef["site"].iloc[:, 0], D * Z.T @ np.linalg.solve(V, r), rtol=1e-6)
    X = design.X
    Vi = np.linalg.inv(V)
    P = Vi - Vi @ X @ np.linalg.solve(X.T @ Vi @ X, X.T @ Vi)
    s2 = result.scale
    table = result.ranef_table()
    pev = s2 * (D * np.eye(Z.shape[1]) - D * Z.T @ P @ Z * D)
    np.testing.assert_allclose(table["pev"], np.diag(pev), rtol=1e-6)
    np.testing.assert_allclose(
        table["se"] ** 2, np.diag(s2 * (D * np.eye(Z.shape[1]) - D * Z.T @ Vi @ Z * D))
    )
    # predictions of the fit's rows: Var(x'b + z'u)
    got = result.get_prediction()
    A = X - Z @ (D * Z.T @ Vi @ X)
    want = np.diag(A @ np.linalg.solve(X.T @ Vi @ X, A.T) + D * Z @ Z.T - D * Z @ Z.T @ Vi @ Z @ Z.T * D)
    np.testing.assert_allclose(got.var_mean, s2 * want, rtol=1e-6)
    R = dense_r(result.model.model_design.residual, result.fit.residual.phi)
    np.testing.assert_allclose(got.se_obs**2, s2 * (want + np.diag(R)), rtol=1e-6)


@each
@each_model
def test_residuals(name, random):
    result = fit(name, random)
    V, _, r = dense(result)
    R = dense_r(result.model.model_design.residual, result.fit.residual.phi)
    raw = result.resid.to_numpy()
    np.testing.assert_allclose(
        result.residuals("pearson"), raw / np.sqrt(result.scale * np.diag(R)), rtol=1e-9
    )
    white = result.residuals("whitened").to_numpy()
    assert white @ white == pytest.approx(r @ np.linalg.solve(V, r) / result.scale, rel=1e-9)
    normalized = result.residuals("normalized").to_numpy()
    assert normalized @ normalized == pytest.approx(raw @ np.linalg.solve(R, raw) / result.scale, rel=1e-9)


@pytest.mark.parametrize("name", mark_slow(STRUCTURES, lambda name: name != "product"))
def test_simulated_covariance(name):
    """Responses of 4,000 draws have the model's covariance, at the rows of two patients."""
    result = fit(name)
    V, _, _ = dense(result)
    y = result.simulate(4000, seed=3).to_numpy()
    rows = np.arange(7)
    want = result.scale * V[np.ix_(rows, rows)]
    got = np.cov(y[rows])
    size = np.sqrt(np.outer(np.diag(want), np.diag(want)))
    np.testing.assert_allclose(got / size, want / size, atol=0.08)


@pytest.mark.parametrize("name", mark_slow(["varident", "us"], lambda name: name == "us"))
def test_bootstrap(name):
    """Draws are fits of the same structure: their spread is that of the standard errors."""
    result = fit(name, "")
    draws = result.bootstrap(40, seed=1)
    y = result.simulate(1, seed=7).iloc[:, 0]
    again = result.refit(y)
    assert again.fit.residual is not None and again.converged
    frame = draws.frame if hasattr(draws, "frame") else None
    if frame is not None:
        assert frame["baseline"].std() == pytest.approx(result.bse_fe["baseline"], rel=0.5)


def test_new_rows_of_different_variances():
    """Their means are predicted; the variance of new observations is not known there, and says so."""
    frame = fit("varident").get_prediction(data().head(3)).summary_frame()
    assert np.isfinite(frame["mean_se"]).all() and frame["obs_ci_lower"].isna().all()
    with pytest.raises(InferenceError, match="new observations"):
        _ = fit("varident").get_prediction(data().head(3)).se_obs
    same = fit("ar1").get_prediction(data().head(3))
    np.testing.assert_allclose(same.se_obs**2, same.se_mean**2 + fit("ar1").scale)


@each
def test_pickle(name):
    result = fit(name)
    again = pickle.loads(pickle.dumps(result))
    assert again.llf == result.llf
    np.testing.assert_allclose(again.coef_table()["df"], result.coef_table()["df"])


def test_parameters_are_counted():
    result = fit("us", "")
    assert result.n_params == 7 + 15
    assert result.aic == pytest.approx(2 * 22 - 2 * result.llf)
    assert result.glance()["AIC"].iloc[0] == pytest.approx(result.aic)


def test_summary_names_the_structure():
    text = str(fit("product").summary())
    assert "Residuals: varident(arm) * car1(time | patient)." in text
    assert "sd control" in text and "rho" in text


def test_update_changes_the_structure():
    one = fit("ar1", "")
    two = one.update(residual="cs(patient)")
    assert two.model.model_design.residual.text == "cs(patient)"
    three = one.update(formula=". ~ . - baseline", reml=False)
    assert "baseline" not in three.fe_params.index and three.fit.residual is not None


def test_start_and_iterative_solver_are_refused():
    with pytest.raises(OptionError, match="leave out start"):
        mme.lmer(FORMULA + " + (1 | site)", data(), residual="varident(arm)", start=[1.0])
    with pytest.raises(OptionError, match="leave out starts"):
        mme.lmer(FORMULA + " + (1 | site)", data(), residual="varident(arm)", starts=3)
    with pytest.raises(OptionError, match="leave out solver"):
        mme.lmer(FORMULA + " + (1 | site)", data(), residual="varident(arm)", solver="iterative")


def test_preflight_is_refused():
    with pytest.raises(OptionError, match=r"preflight\(\) is of fits with independent residuals"):
        fit("us", "").model.preflight()


def test_residual_table_needs_a_structure():
    plain = mme.lmer(FORMULA + " + (1 | site)", data())
    with pytest.raises(OptionError, match="without residual="):
        plain.residual_table()
