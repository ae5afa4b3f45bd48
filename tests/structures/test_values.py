"""Fits with covariance structures: glmmTMB's values, and models that are the same in other words."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from support import HERE, load_data

import mme
from mme.engine.direct.objective import Objective

REFERENCE = json.loads((HERE / "reference" / "structures.json").read_text())["models"]
CASES = [
    (name, method)
    for name, model in REFERENCE.items()
    for method in ("REML", "ML")
    if method in model and name != "sleepstudy_ar1_re"
]


def _deviations(lines):
    """Standard deviations, the residual's last, and correlations, from glmmTMB's printed VarCorr."""
    numbers = [re.findall(r"(?<![\w.])-?\d+\.\d+(?![\w.])", line) for line in lines]
    return [float(row[0]) for row in numbers if row], [float(v) for row in numbers for v in row[1:]]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_glmmtmb(name, method):
    model = REFERENCE[name]
    theirs = model[method]
    fit = mme.lmer(model["formula"], load_data(model["data"]), reml=method == "REML")
    assert fit.converged
    assert fit.llf >= theirs["loglik"] - 1e-5
    assert fit.llf == pytest.approx(theirs["loglik"], abs=1e-4)
    np.testing.assert_allclose(fit.fe_params, list(theirs["fixef"].values()), rtol=1e-3)
    deviations, correlations = _deviations(theirs["varcorr"])
    D = fit.scale * fit.fit.lam[0] @ fit.fit.lam[0].T
    ours = [*np.sqrt(np.diag(D)), fit.sigma]
    np.testing.assert_allclose(ours, deviations, rtol=1e-3)
    if "cs(" in model["formula"]:
        assert D[0, 1] / np.sqrt(D[0, 0] * D[1, 1]) == pytest.approx(correlations[0], abs=1e-3)
        np.testing.assert_allclose(D[0, 2] / np.sqrt(D[0, 0] * D[2, 2]), correlations[0], atol=1e-3)


def test_glmmtmb_stops_at_a_lower_maximum():
    """Its residual variance runs to zero; the maximum has one, and a log-likelihood higher by 2.5."""
    theirs = REFERENCE["sleepstudy_ar1_re"]["REML"]
    fit = mme.lmer("Reaction ~ Days + ar1(0 + C(Days) | Subject)", load_data("sleepstudy"))
    assert fit.converged
    assert fit.llf == pytest.approx(-867.0932, abs=1e-4)
    assert fit.llf > theirs["loglik"] + 2.5
    # the likelihood is theirs at their values
    design = fit.model.model_design.design
    D = (49.5158747 / 0.0093845) ** 2 * 0.8 ** np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
    lam = np.linalg.cholesky(D)
    there = Objective(design, True).evaluate(design.terms[0].structure.theta(lam))
    assert -0.5 * there.deviance == pytest.approx(theirs["loglik"], abs=0.01)  # 0.800: three digits
    np.testing.assert_allclose(there.sigma2, 0.0093845**2, rtol=1e-2)


@pytest.mark.parametrize("reml", [True, False])
def test_homogeneous_compound_symmetry_is_nesting(data, reml):
    ours = mme.lmer("y ~ x + homcs(0 + C(t) | g)", data, reml=reml)
    theirs = mme.lmer("y ~ x + (1 | g) + (1 | g:t)", data, reml=reml)
    assert ours.llf == pytest.approx(theirs.llf, abs=1e-7)
    assert ours.n_params == theirs.n_params
    assert ours.aic == pytest.approx(theirs.aic, abs=1e-6)
    D = ours.scale * ours.fit.lam[0] @ ours.fit.lam[0].T
    of = theirs.varcorr.set_index("grp")["vcov"]
    np.testing.assert_allclose(D[0, 1], of["g"], rtol=2e-4)
    np.testing.assert_allclose(D[0, 0], of["g"] + of["g:t"], rtol=2e-4)
    # a p of 1e-8 is twenty times as sensitive as its t
    np.testing.assert_allclose(ours.coef_table(), theirs.coef_table(), rtol=1e-3)
    np.testing.assert_allclose(ours.coef_table()[["se", "df"]], theirs.coef_table()[["se", "df"]], rtol=5e-5)
    # the same model in other parameters: the covariance of what both call alike
    np.testing.assert_allclose(ours.bse_re.iloc[-1], theirs.bse_re.iloc[-1], rtol=1e-4)
    ends = [fit.conf_int(method="profile", parm="sigma") for fit in (ours, theirs)]
    np.testing.assert_allclose(*ends, rtol=1e-4)
    if reml:
        np.testing.assert_allclose(
            ours.coef_table(ddf="kenward-roger"), theirs.coef_table(ddf="kenward-roger"), rtol=1e-4
        )


def test_homogeneous_independence_is_an_interaction(data):
    ours = mme.lmer("y ~ x + homdiag(0 + C(t) | g)", data)
    theirs = mme.lmer("y ~ x + (1 | g:t)", data)
    assert ours.llf == pytest.approx(theirs.llf, abs=1e-7)
    np.testing.assert_allclose(ours.coef_table(), theirs.coef_table(), rtol=1e-4)
    profiles = [m.conf_int(method="profile", parm="theta_").to_numpy() for m in (ours, theirs)]
    np.testing.assert_allclose(*profiles, rtol=1e-3)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("us(x | g)", "(x | g)"),
        ("us(0 + C(t) | g)", "(0 + C(t) | g)"),
        ("diag(x | g)", "(x || g)"),
        ("cs(0 + C(t) | g, hom=TRUE)", "homcs(0 + C(t) | g)"),
        ("cs(0 + C(t) | g, hom = FALSE)", "cs(0 + C(t) | g)"),
        ("ar1(0 + C(t) | g, hom=FALSE)", "hetar1(0 + C(t) | g)"),
        ("toep(0 + C(t) | g, hom=TRUE)", "homtoep(0 + C(t) | g)"),
        ("rr(0 + C(t) | g)", "rr(0 + C(t) | g, d = 2)"),
    ],
)
def test_the_same_in_other_words(data, ours, theirs):
    first, second = (mme.lmer(f"y ~ x + {term}", data) for term in (ours, theirs))
    assert first.llf == pytest.approx(second.llf, abs=1e-10)
    assert first.n_params == second.n_params


def test_full_rank_is_unstructured(data):
    full = mme.lmer("y ~ x + (0 + C(t) | g)", data)
    reduced = [mme.lmer(f"y ~ x + rr(0 + C(t) | g, {d})", data) for d in (1, 2, 3, 4)]
    assert reduced[3].llf == pytest.approx(full.llf, abs=1e-6)
    assert reduced[3].n_params == full.n_params
    levels = [fit.llf for fit in reduced]
    assert np.all(np.diff(levels) > 0.0)
    for d, fit in enumerate(reduced, start=1):
        assert np.linalg.matrix_rank(fit.fit.lam[0], tol=1e-6) == d
        assert not fit.is_singular


def test_structures_that_hold_one_another(data):
    level = {
        name: mme.lmer(f"y ~ x + {name}(0 + C(t) | g)", data).llf
        for name in ("homdiag", "homcs", "cs", "ar1", "hetar1", "homtoep", "toep", "us")
    }
    for inner, outer in [
        ("homdiag", "homcs"), ("homcs", "cs"), ("homcs", "homtoep"), ("ar1", "hetar1"), ("ar1", "homtoep"),
        ("homtoep", "toep"), ("cs", "toep"), ("hetar1", "toep"), ("toep", "us"),
    ]:  # fmt: skip
        assert level[inner] < level[outer] + 1e-7


def test_three_times_of_five_unseen(data):
    """Levels without rows are steps in time, and have predictions."""
    times = data["t"].map({0: 0, 1: 2, 2: 3, 3: 6})
    with_gaps = data.assign(t=pd.Categorical(times, categories=range(7), ordered=True))
    fit = mme.lmer("y ~ x + ar1(0 + t | g)", with_gaps)
    assert fit.converged
    assert fit.fit.lam[0].shape == (7, 7)
    D = fit.fit.lam[0] @ fit.fit.lam[0].T
    r = D[0, 1] / D[0, 0]
    np.testing.assert_allclose(D[0, 6], D[0, 0] * r**6, rtol=1e-10)
    u = fit.random_effects["g"].to_numpy()
    assert np.all(np.abs(u[:, [1, 4, 5]]) > 0.0)
    # between neighbours the conditional mean is that of a Markov chain
    weight = np.linalg.solve(D[np.ix_([0, 2], [0, 2])], D[[0, 2], 1])
    np.testing.assert_allclose(u[:, 1], u[:, [0, 2]] @ weight, rtol=1e-8)


def test_weights_and_offset(data):
    weights = np.random.default_rng(3).uniform(0.5, 2.0, len(data))
    ours = mme.lmer("y ~ x + homcs(0 + C(t) | g)", data, weights=weights, offset=data["x"])
    theirs = mme.lmer("y ~ x + (1 | g) + (1 | g:t)", data, weights=weights, offset=data["x"])
    assert ours.llf == pytest.approx(theirs.llf, abs=1e-7)


def test_a_response_without_the_effects_is_at_the_boundary(data):
    y = data["x"] + np.random.default_rng(12).normal(size=len(data))
    fit = mme.lmer("y ~ x + homdiag(0 + C(t) | g)", data.assign(y=y))
    assert fit.is_singular == (np.abs(fit.fit.lam[0]).max() < 1e-4)
    other = mme.lmer("y ~ x + (1 | g:t)", data.assign(y=y))
    assert fit.llf == pytest.approx(other.llf, abs=1e-7)
    assert fit.is_singular == other.is_singular


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_units_of_the_response_do_not_matter(data, factor):
    one = mme.lmer("y ~ x + toep(0 + C(t) | g)", data)
    other = mme.lmer("y ~ x + toep(0 + C(t) | g)", data.assign(y=factor * data["y"]))
    deviations = [fit.varcorr["sdcor"].iloc[:4] for fit in (other, one)]
    np.testing.assert_allclose(deviations[0], factor * deviations[1], rtol=1e-5)
