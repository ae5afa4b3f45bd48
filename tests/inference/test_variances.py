"""Standard errors of variances, against the inverse of dense second derivatives, from both doors."""

from __future__ import annotations

import numpy as np
import oracle
import pandas as pd
import problems
import pytest
from engine.direct.test_hessian import Dense

import mme
from mme.engine.covariance.structure import FULL
from mme.engine.direct.hessian import entry_directions
from mme.engine.equations.design import Design, RandomTerm
from mme.exceptions import InferenceError
from mme.fit import fit_design
from mme.fit.fitted import Fitted, Labels
from mme.inference.variances import variance_covariance


def _fitted(fit) -> Fitted:
    return Fitted.of(fit, Labels("y", fit.design.x_names, ()))


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize(
    "name",
    [
        "scalar",
        "vector2",
        "diagonal3",
        "crossed3",
        "crossed_vectors",
        "multi_membership",
        "nested3",
        "weighted",
    ],
)
def test_covariance_of_variances_at_an_interior_optimum(name, reml):
    fit = fit_design(problems.build(name), reml=reml)
    assert not fit.record.singular
    design, theta = fit.design, np.concatenate(fit.theta)
    directions = []
    for t, term in enumerate(design.terms):
        directions += entry_directions(t, term.structure.entries(term.k), term.k)
    dense = Dense(design, theta, reml)
    H, _ = dense.hessian(directions)
    D = np.array(
        [
            (lam @ lam.T)[a, b]
            for term, lam in zip(design.terms, fit.lam, strict=True)
            for a, b in term.structure.entries(term.k)
        ]
    )
    m = D.size
    G = np.zeros((m + 1, m + 1))
    G[:m, :m], G[:m, m], G[m, m] = fit.sigma2 * np.eye(m), D, 1.0
    expected = 2.0 * G @ np.linalg.inv(H) @ G.T
    got = variance_covariance(_fitted(fit))
    size = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(got.se, size, rtol=1e-6)
    np.testing.assert_allclose(
        got.covariance / np.outer(size, size), expected / np.outer(size, size), atol=1e-6
    )
    np.testing.assert_allclose(got.estimate, np.r_[fit.sigma2 * D, fit.sigma2])


def _slopes(seed: int, correlated: bool) -> mme.fit.Fit:
    """25 groups whose slopes have no variance (or are exactly correlated with the intercepts)."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(25), 8)
    x = np.tile(np.linspace(-1, 1, 8), 25)
    b = rng.normal(size=25)
    y = 1 + x + b[g] * (1 + (0.5 * x if correlated else 0.0)) + rng.normal(size=200)
    design = problems.Design(
        y, np.column_stack([np.ones(200), x]),
        (problems.RandomTerm("g", g, 25, np.column_stack([np.ones(200), x]), column_names=("1", "x")),),
    )  # fmt: skip
    return fit_design(design)


def test_covariance_of_variances_at_a_singular_optimum():
    """Along the matrices of rank one, D = l l': the Hessian of the dense deviance in l."""
    fits = [f for seed in range(12) if (f := _slopes(seed, True)).record.singular]
    assert len(fits) >= 2
    for fit in fits[:3]:
        w, U = np.linalg.eigh(fit.lam[0] @ fit.lam[0].T)
        assert w[0] < 1e-12 * w[1]
        ell = U[:, 1] * np.sqrt(w[1])

        def joint(x, design=fit.design, nu=fit.nu):
            """-2 log-likelihood in l and sigma2, from the profiled deviance and its sigma2."""
            factor = np.zeros((2, 2))
            factor[:, 0] = x[:2]
            e = oracle.evaluate(design, (FULL.theta(factor),))
            r2 = nu * e.sigma2
            return (
                e.deviance
                - nu * (1 + np.log(2 * np.pi * e.sigma2))
                + nu * np.log(2 * np.pi * x[2])
                + r2 / x[2]
            )

        x = np.r_[ell, fit.sigma2]
        h = 1e-3 * np.abs(x)
        H = np.zeros((3, 3))
        for i in range(3):
            for j in range(3):
                a, b = h[i] * np.eye(3)[i], h[j] * np.eye(3)[j]
                four = joint(x + a + b) - joint(x + a - b) - joint(x - a + b) + joint(x - a - b)
                H[i, j] = four / (4 * h[i] * h[j])
        s2 = fit.sigma2
        G = np.array(
            [
                [2 * s2 * ell[0], 0, ell[0] ** 2],
                [s2 * ell[1], s2 * ell[0], ell[0] * ell[1]],
                [0, 2 * s2 * ell[1], ell[1] ** 2],
                [0, 0, 1],
            ]
        )
        expected = 2.0 * G @ np.linalg.inv(H) @ G.T
        got = variance_covariance(_fitted(fit))
        np.testing.assert_allclose(got.se, np.sqrt(np.diag(expected)), rtol=1e-3)


def test_a_variance_of_zero_has_no_standard_error():
    rng = np.random.default_rng(0)
    g, h = np.repeat(np.arange(20), 10), np.tile(np.arange(10), 20)
    frame = pd.DataFrame({"g": g, "h": h, "y": rng.normal(size=20)[g] + rng.normal(size=200)})
    frame["y"] -= frame.groupby("h").y.transform("mean")  # nothing is left between the levels of h
    results = mme.lmer("y ~ 1 + (1 | g) + (1 | h)", frame, tol=1e-12)
    alone = mme.lmer("y ~ 1 + (1 | g)", frame, tol=1e-12)
    assert results.is_singular
    se = results.bse_re
    assert np.isnan(se["h"]).all()
    np.testing.assert_allclose(se["g"], alone.bse_re["g"], rtol=1e-6)
    np.testing.assert_allclose(se["Residual"], alone.bse_re["Residual"], rtol=1e-6)


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
def test_both_doors_agree(sleepstudy, reml):
    by_lmer = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy, reml=reml).bse_re
    by_mixedlm = mme.mixedlm("Reaction ~ Days", sleepstudy, groups="Subject", re_formula="~Days").fit(
        reml=reml
    )
    np.testing.assert_allclose(by_lmer.to_numpy()[[0, 2, 1]], by_mixedlm.bse_re, rtol=1e-6)
    crossed = sleepstudy.assign(one=1, Day=sleepstudy.Days % 4)
    formula = {"Subject": "0 + C(Subject)", "Day": "0 + C(Day)"}
    by_lmer = mme.lmer("Reaction ~ 1 + (1 | Subject) + (1 | Day)", crossed, reml=reml, tol=1e-12).bse_re
    model = mme.mixedlm("Reaction ~ 1", crossed, groups="one", re_formula="0", vc_formula=formula)
    by_mixedlm = model.fit(reml=reml)
    np.testing.assert_allclose(by_lmer["Day"], by_mixedlm.bse_re["Day Var"], rtol=1e-5)
    np.testing.assert_allclose(by_lmer["Subject"], by_mixedlm.bse_re["Subject Var"], rtol=1e-5)


def test_a_year_costs_no_digits(sleepstudy):
    """An uncentred covariate: the standard errors of what does not depend on its origin stay."""
    far = sleepstudy.assign(Days=sleepstudy.Days + 1e6)
    here, there = (mme.lmer("Reaction ~ Days + (Days | Subject)", d).bse_re for d in (sleepstudy, far))
    np.testing.assert_allclose(there.iloc[1], here.iloc[1], rtol=1e-5)
    np.testing.assert_allclose(there.iloc[3], here.iloc[3], rtol=1e-6)


def test_iterative_fits(sleepstudy):
    formula = "Reaction ~ Days + (1 | Subject) + (1 | Days)"
    exact = mme.lmer("Reaction ~ 1 + (1 | Subject) + (1 | Days)", sleepstudy)
    rough = mme.lmer("Reaction ~ 1 + (1 | Subject) + (1 | Days)", sleepstudy, solver="iterative", probes=64)
    np.testing.assert_allclose(rough.bse_re, exact.bse_re, rtol=0.3)  # average, not observed information
    fitted = mme.lmer(formula, sleepstudy, solver="iterative").fitted
    with pytest.raises(InferenceError, match=r"needs a factorization.*solver='direct'"):
        variance_covariance(fitted)


@pytest.mark.parametrize("ratio", [1e2, 3e2, 1e3])
@pytest.mark.parametrize("crossed", [False, True], ids=["alone", "crossed"])
def test_a_large_variance_beside_none_keeps_its_digits(ratio, crossed):
    """Rank one of three: the effects of every level are all but observed, so that se = T sqrt(2 / q)."""
    rng = np.random.default_rng(4)
    g, u = np.repeat(np.arange(20), 20), rng.normal(size=20)
    data = pd.DataFrame(rng.normal(size=(400, 3)), columns=["e", "x", "z"]).assign(g=g)
    data["h"] = np.tile(np.arange(10), 40)
    data["y"] = ratio * u[g] * (1.0 + 0.7 * data.x - 1.3 * data.z) + data.e
    fit = mme.lmer("y ~ 0 + (x + z | g)" + crossed * " + (1 | h)", data, reml=False)
    assert "g" in fit.fit_info["singular"]
    expected = fit.varcorr["vcov"].to_numpy()[:3] * np.sqrt(2.0 / 20)
    np.testing.assert_allclose(fit.bse_re.to_numpy()[:3], expected, rtol=2e-4)


def test_one_effect_in_two_terms_has_no_standard_errors():
    """The likelihood tells the sum of their variances alone, however small rounding makes its curvature."""
    rng = np.random.default_rng(0)
    codes, h = np.repeat(np.arange(12), 10), np.tile(np.arange(10), 12)
    twin = (RandomTerm("a", codes, 12), RandomTerm("b", codes, 12, np.full((120, 1), 3.0)))
    y = 1e3 * rng.normal(size=12)[codes] + rng.normal(size=10)[h] + rng.normal(size=120)
    fit = fit_design(Design(y, np.ones((120, 1)), (*twin, RandomTerm("h", h, 10))))
    assert len(fit.record.flat) == 2
    assert np.isnan(variance_covariance(Fitted.of(fit, Labels("y", (), ()))).se[:2]).all()
