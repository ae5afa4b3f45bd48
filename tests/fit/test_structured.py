"""Fits with a residual structure: nlme, glmmTMB, published values of SAS; boundaries, crossed factors."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dense_residuals import PROBLEMS, dense_deviance, problem
from support import load_data, mark_slow

import mme
from mme.engine.direct.parts import PartsLikelihood
from mme.exceptions import DesignError
from mme.fit.structured import diagonal_slope, fit_structured, whitened_design

REFERENCE = Path(__file__).parent.parent / "reference"
TRIAL = "score ~ baseline + arm * visit"


@cache
def reference(name: str) -> dict:
    return json.loads((REFERENCE / f"{name}.json").read_text())["models"]


def r_names(series):
    """R's names of treatment contrasts."""
    return {str(k).replace("[T.", "").replace("]", ""): v for k, v in series.items()}


MODELS = {
    "orthodont_varident": ("Orthodont", "distance ~ age*Sex + (age|Subject)", {"residual": "varident(Sex)"}),
    "orthodont_het_int": ("Orthodont", "distance ~ age*Sex + (1|Subject)", {"residual": "varident(Sex)"}),
    "sleepstudy_ar1": ("sleepstudy", "Reaction ~ Days + (1|Subject)", {"residual": "ar1(Days | Subject)"}),
    "sleepstudy_slope_ar1": (
        "sleepstudy",
        "Reaction ~ Days + (Days|Subject)",
        {"residual": "ar1(Days | Subject)"},
    ),
    "oats_varident": ("Oats", "yield ~ nitro + (1|Block/Variety)", {"residual": "varident(Variety)"}),
    "orthodont_disp": ("Orthodont", "distance ~ age*Sex + (1|Subject)", {"dispersion": "~ Sex"}),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["REML", "ML"])
def test_models_of_nlme_and_glmmtmb(name, method):
    """Never below their log-likelihood; where theirs is the optimum, the same estimates."""
    data, formula, options = MODELS[name]
    want = reference("structures_residual")[name][method]
    got = mme.lmer(formula, load_data(data), reml=method == "REML", **options)
    assert got.converged
    assert -1e-6 < got.llf - want["loglik"] < 1e-4
    if got.llf - want["loglik"] < 1e-6:
        fixed, se = r_names(got.fe_params), r_names(got.bse_fe)
        for term, value in want["fixef"].items():
            assert fixed[term] == pytest.approx(value, rel=1e-4, abs=1e-5)
            assert se[term] == pytest.approx(want["se"][term], rel=1e-4)


TRIALS = {
    "us": (TRIAL, "us(visit | patient)"),
    "ar1": (TRIAL, "ar1(visit | patient)"),
    "ar1h": (TRIAL, "varident(arm) * ar1(visit | patient)"),
    "car1": (TRIAL, "car1(time | patient)"),
    "cs": (TRIAL, "cs(patient)"),
    "varident": (TRIAL, "varident(arm)"),
    "weights_ar1": (TRIAL, "ar1(visit | patient)"),
    "intercept_ar1": (TRIAL + " + (1 | patient)", "ar1(visit | patient)"),
    "slope_car1": (TRIAL + " + (time | patient)", "car1(time | patient)"),
    "nested_varident": (TRIAL + " + (1 | site/patient)", "varident(arm)"),
    "nested_both": (TRIAL + " + (1 | site/patient)", "ar1(visit | patient) * varident(arm)"),
}


@pytest.mark.parametrize("name", TRIALS)
@pytest.mark.parametrize("method", ["reml", "ml"])
def test_gls_and_lme(name, method):
    """residuals.json: nlme on simulated, unbalanced data, searched to 1e-12."""
    formula, structure = TRIALS[name]
    want = reference("residuals")[name][method]
    data = load_data("trial")
    weights = 1.0 / (data["time"] + 1.0) if name == "weights_ar1" else None
    got = mme.lmer(formula, data, reml=method == "reml", residual=structure, weights=weights)
    assert got.converged, got.fit_info
    assert got.llf - want["loglik"] > -1e-6
    if got.llf - want["loglik"] > 1e-4:
        pytest.fail(f"nlme stopped {got.llf - want['loglik']:.2g} below: not a reference for the estimates")
    fixed, se, n = r_names(got.fe_params), r_names(got.bse_fe), len(data)
    for term, value in want["coef"].items():
        assert fixed[term] == pytest.approx(value, rel=1e-4, abs=2e-4)
        # nlme's gls takes sigma2 of n - p rows for standard errors by ML
        more = np.sqrt(n / (n - len(fixed))) if method == "ml" and "(" not in formula else 1.0
        assert se[term] * more == pytest.approx(want["se"][term], rel=2e-4)
    table = got.residual_table()["estimate"]
    rho = [v for k, v in table.items() if k.startswith(("rho", "cor "))]
    if name == "us":
        levels = "12345"
        order = [table[f"cor {a},{b}"] for i, a in enumerate(levels) for b in levels[i + 1 :]]
        np.testing.assert_allclose(order, want["cor"], atol=2e-4)
    elif want.get("cor"):
        np.testing.assert_allclose(rho, np.atleast_1d(want["cor"]), atol=2e-4)
    for level, ratio in (want.get("sd") or {}).items():
        first = next(k for k, v in want["sd"].items() if v == 1)
        assert table[f"sd {level}"] / table[f"sd {first}"] == pytest.approx(ratio, rel=3e-4)
    np.testing.assert_allclose(got.residuals("pearson").head(12), want["pearson"], atol=1e-3)
    # nlme's root of cs is another one, and its rows of nested groups are in another order
    if name not in ("cs", "nested_both"):
        np.testing.assert_allclose(got.residuals("normalized").head(12), want["normalized"], atol=1e-3)


@pytest.mark.parametrize(
    ("formula", "structure", "published"),
    [
        ("distance ~ C(age)*Sex", "us(age | Subject)", 416.509),
        ("distance ~ age*Sex", "us(age | Subject)", 419.477),
        ("distance ~ age + Sex", "us(age | Subject)", 426.153),
        ("distance ~ age*Sex", "toep(age | Subject)", 424.643),
        ("distance ~ age*Sex", "ar1(1 | Subject)", 440.681),
        ("distance ~ age*Sex", "cs(Subject)", 428.639),
    ],
)
def test_growth_data_of_verbeke_and_molenberghs(formula, structure, published):
    """-2 log-likelihoods of Potthoff & Roy's data (Verbeke & Molenberghs 1997, section 4.2)."""
    got = mme.lmer(formula, load_data("Orthodont"), reml=False, residual=structure)
    assert got.converged
    assert -2.0 * got.llf == pytest.approx(published, abs=6e-4)


def test_growth_data_of_sas():
    """PROC MIXED's documentation, example "Repeated Measures": REPEATED / TYPE=UN, METHOD=ML."""
    got = mme.lmer("distance ~ age*Sex", load_data("Orthodont"), reml=False, residual="us(age | Subject)")
    assert -2.0 * got.llf == pytest.approx(419.47704812, abs=1e-7)
    S = got.residual_covariance().to_numpy()
    published = [5.1192, 2.4409, 3.9279, 3.6105, 2.7175, 5.9798, 2.5222, 3.0624, 3.8235, 4.6180]
    np.testing.assert_allclose(S[np.tril_indices(4)], published, atol=6e-5)
    rows = ([1, 0, 1, 0], [0, 0, -1, 0], [0, 1, 0, 1], [0, 0, 0, -1])
    boys = pd.concat([got.contrast([row]) for row in rows])
    np.testing.assert_allclose(boys["estimate"], [15.8423, 1.5831, 0.8268, -0.3504], atol=6e-5)
    np.testing.assert_allclose(boys["se"], [0.9356, 1.4658, 0.07911, 0.1239], atol=6e-5)


@pytest.mark.parametrize("name", mark_slow(PROBLEMS, lambda name: "crossed" in name or "us" in name))
@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
def test_optimum(name, reml):
    """The deviance is the dense one at the estimates, the gradient zero, and no point nearby is lower."""
    design, structure = problem(name, 25)
    fit = fit_structured(design, structure, reml=reml)
    assert fit.record.converged, fit.record
    phi = fit.residual.phi
    Ds = [lam @ lam.T for lam in fit.lam]
    assert fit.deviance == pytest.approx(dense_deviance(design, structure, Ds, phi, reml), abs=1e-7)
    J = structure.jacobian(fit.residual.xi)
    slope = J.T @ fit.residual.parts.evaluate(fit.lam, phi).slope
    assert np.abs(slope).max() < 1e-3
    rng = np.random.default_rng(0)
    for _ in range(4):
        moved = structure.natural(fit.residual.xi + 0.05 * rng.normal(size=phi.size))
        lams = [lam * np.exp(0.05 * rng.normal()) for lam in fit.lam]
        assert dense_deviance(design, structure, [lam @ lam.T for lam in lams], moved, reml) > (
            fit.deviance - 1e-7
        )
    V = np.linalg.inv(fit.vcov_beta)
    assert np.all(np.isfinite(V))


@pytest.mark.parametrize("name", ["varident", "varident crossed", "dispersion", "dispersion weights"])
@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
def test_slopes_by_leverages(name, reml):
    """Of a diagonal R: the way of designs whose parts are too large for dense ones."""
    design, structure = problem(name)
    phi = structure.natural(0.3 * np.ones(structure.size))
    white, _ = whitened_design(design, structure, phi)
    fit = mme.fit.fit_design(white, reml=reml)
    want = PartsLikelihood(design, structure, reml).evaluate(fit.lam, phi).slope
    np.testing.assert_allclose(diagonal_slope(fit, structure, phi), want, rtol=1e-7, atol=1e-7)


def test_large_crossed_design():
    """A variance per stratum of 8,000 rows that are all connected, simulated with ratios 4 and 0.25."""
    rng = np.random.default_rng(8)
    n = 8_000
    data = pd.DataFrame(
        {
            "a": rng.integers(0, 200, n).astype(str),
            "b": rng.integers(0, 100, n).astype(str),
            "s": rng.choice(["u", "v", "w"], n),
            "x": rng.normal(size=n),
        }
    )
    sd = data["s"].map({"u": 1.0, "v": 2.0, "w": 0.5}).to_numpy()
    level_a, level_b = rng.normal(size=200), 0.5 * rng.normal(size=100)
    data["y"] = (
        data["x"] + level_a[data["a"].astype(int)] + level_b[data["b"].astype(int)] + sd * rng.normal(size=n)
    )
    got = mme.lmer("y ~ x + (1 | a) + (1 | b)", data, residual="varident(s)")
    assert got.converged
    table = got.residual_table()["estimate"]
    np.testing.assert_allclose(table, [1.0, 2.0, 0.5], rtol=0.05)
    # weights of that fit: an ordinary fit, whose likelihood differs by a known constant
    w = 1.0 / (table[[f"sd {s}" for s in data["s"]]].to_numpy() / table["sd u"]) ** 2
    plain = mme.lmer("y ~ x + (1 | a) + (1 | b)", data, weights=w)
    assert plain.llf == pytest.approx(got.llf, abs=1e-6)
    assert "Normal distribution" in " ".join(str(got.summary()).split())


def test_weights_and_strata_multiply():
    """varident with weights is the fit of the weighted model with the ratios put into the weights."""
    data = load_data("trial")
    w = 1.0 / (data["time"] + 1.0)
    got = mme.lmer(TRIAL + " + (1 | patient)", data, residual="varident(arm)", weights=w)
    ratio = (got.residual_table()["estimate"] / got.sigma) ** 2
    both = w / data["arm"].map({k: ratio[f"sd {k}"] for k in data["arm"].unique()})
    plain = mme.lmer(TRIAL + " + (1 | patient)", data, weights=both)
    assert plain.llf == pytest.approx(got.llf, abs=1e-7)
    np.testing.assert_allclose(plain.fe_params, got.fe_params, rtol=1e-6)


def test_offset():
    data = load_data("trial")
    shifted = data.assign(score=data["score"] + 3.0 * data["time"])
    one = mme.lmer(TRIAL, data, residual="ar1(visit | patient)")
    two = mme.lmer(TRIAL, shifted, residual="ar1(visit | patient)", offset=3.0 * data["time"])
    assert one.llf == pytest.approx(two.llf, abs=1e-9)


def test_singular_random_effects():
    """Rows without any effect of patients: their variance ends at zero, the correlation stays."""
    rng = np.random.default_rng(3)
    data = load_data("trial")
    data["score"] = rng.normal(size=len(data)) + 0.3 * data["visit"]
    mean = data.groupby("patient")["score"].transform("mean")
    data["score"] = data["score"] - 0.9 * mean
    got = mme.lmer("score ~ visit + (1 | patient)", data, residual="ar1(visit | patient)")
    plain = mme.lmer("score ~ visit", data, residual="ar1(visit | patient)")
    assert got.is_singular
    assert got.llf == pytest.approx(plain.llf, abs=1e-7)
    assert np.isfinite(got.coef_table()["df"]).all()


def test_no_correlation_is_an_interior_point():
    """rho of independent rows is near zero, on either side of it, and its slope there is not lost."""
    rng = np.random.default_rng(4)
    data = load_data("trial")
    data["score"] = rng.normal(size=len(data))
    got = mme.lmer("score ~ visit", data, residual="ar1(visit | patient)")
    plain = mme.lmer("score ~ visit", data, residual="cs(patient)")
    assert got.converged and plain.converged
    assert abs(got.residual_table()["estimate"]["rho"]) < 0.25
    ols = -0.5 * dense_deviance(
        got.model.model_design.design, got.model.model_design.residual, [], np.zeros(1), True
    )
    assert got.llf >= ols - 1e-9


def test_perfect_correlation_is_a_limit():
    """A subject's rows that are all alike: rho goes to one, where the likelihood has no maximum."""
    rng = np.random.default_rng(6)
    data = load_data("trial")
    level = rng.normal(size=data["patient"].nunique())
    data["score"] = level[pd.factorize(data["patient"])[0]] + 1e-9 * rng.normal(size=len(data))
    with pytest.warns(mme.exceptions.ConvergenceWarning, match=r"without bound.*\(correlation\)"):
        got = mme.lmer("score ~ 1", data, residual="cs(patient)")
    assert not got.converged and got.is_singular
    assert any("residuals" in name for name in got.fit_info["singular"])
    table = got.coef_table()
    assert np.isfinite(table["se"]).all()
    assert "at a limit" in " ".join(str(got.summary()).split())


def test_the_same_variance_twice_is_flat():
    """(1 | patient) and cs(patient) are one covariance: the likelihood is flat, and says so."""
    with pytest.warns(mme.exceptions.FlatLikelihoodWarning, match="residual='cs"):
        mme.lmer(TRIAL + " + (1 | patient)", load_data("trial"), residual="cs(patient)")


def test_slopes_that_cross_the_subjects_are_refused():
    data = load_data("trial")
    with pytest.raises(DesignError, match="cross the 'patient'"):
        mme.lmer("score ~ visit + (visit | rater)", data, residual="ar1(visit | patient)")


def test_crossed_intercepts():
    """Whitened columns of raters who see several visits of a patient, against the dense deviance."""
    data = load_data("trial")
    got = mme.lmer("score ~ visit + (1 | patient) + (1 | rater)", data, residual="ar1(visit | patient)")
    design, structure = got.model.model_design.design, got.model.model_design.residual
    Ds = [lam @ lam.T for lam in got.fit.lam]
    want = dense_deviance(design, structure, Ds, got.fit.residual.phi, True)
    assert got.deviance == pytest.approx(want, abs=1e-8)


def test_rows_in_another_order():
    data = load_data("trial")
    mixed = data.sample(frac=1.0, random_state=1)
    for structure in ("us(visit | patient)", "varident(arm) * car1(time | patient)"):
        one = mme.lmer(TRIAL, data, residual=structure)
        two = mme.lmer(TRIAL, mixed, residual=structure)
        assert one.llf == pytest.approx(two.llf, abs=1e-9)
        np.testing.assert_allclose(one.fe_params, two.fe_params, rtol=1e-6)
