"""Errors and intervals of variances, on both scales and for both doors; what is flat, and what is held."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from scipy import stats
from support import load_data

import mme
from mme.engine.equations.design import Design, RandomTerm
from mme.exceptions import InferenceError, OptionError
from mme.fit import fit_design
from mme.fit.fitted import Fitted, Labels, TermLabels
from mme.inference.variances import variance_covariance


def _sleep(**kwargs):
    return mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy"), tol=1e-12, **kwargs)


def _mixedlm(**kwargs):
    model = mme.MixedLM.from_formula(
        "Reaction ~ Days", load_data("sleepstudy"), groups="Subject", re_formula="Days"
    )
    return model.fit(**kwargs)


@pytest.mark.parametrize("reml", [True, False])
def test_deviations_and_correlation_against_the_dense_likelihood(reml):
    """The inverse Hessian of the dense deviance in (sd, sd, correlation, sigma) themselves."""
    result = _sleep(reml=reml)
    design, nu = result.fitted.design, result.fit.nu

    def deviance(x):
        a, b, r, sigma = x
        lam = np.linalg.cholesky(np.array([[a * a, r * a * b], [r * a * b, b * b]])) / sigma
        e = oracle.evaluate(design, (lam[[0, 1, 1], [0, 0, 1]],), reml)
        r2 = nu * e.sigma2
        profiled = nu * (1 + np.log(2 * np.pi * e.sigma2))
        return e.deviance - profiled + nu * np.log(2 * np.pi * sigma**2) + r2 / sigma**2

    table = result.variance_table()
    x = table["estimate"].to_numpy()
    h = 1e-3 * np.array([x[0], x[1], 1.0, x[3]])
    H = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            a, b = h[i] * np.eye(4)[i], h[j] * np.eye(4)[j]
            four = deviance(x + a + b) - deviance(x + a - b) - deviance(x - a + b) + deviance(x - a - b)
            H[i, j] = four / (4 * h[i] * h[j])
    np.testing.assert_allclose(table["se"], np.sqrt(np.diag(2 * np.linalg.inv(H))), rtol=1e-4)


def test_intervals_are_symmetric_on_their_own_scales():
    result = _sleep()
    z = stats.norm.ppf(0.95)
    sd, var = result.variance_table(alpha=0.1), result.variance_table("var", alpha=0.1)
    assert list(sd.columns) == list(var.columns)
    assert list(sd["grp"]) == ["Subject"] * 3 + ["Residual"]
    assert sd["var2"].tolist() == [None, None, "Days", None]
    np.testing.assert_allclose(sd["estimate"], result.varcorr["sdcor"])
    np.testing.assert_allclose(var["estimate"], result.varcorr["vcov"])
    np.testing.assert_allclose(var["se"], result.bse_re)
    plain = [0, 1, 3]
    # the logarithm of a variance is twice that of its root: one interval on both scales
    np.testing.assert_allclose(sd.loc[plain, "lower"] ** 2, var.loc[plain, "lower"])
    np.testing.assert_allclose(sd.loc[plain, "upper"] ** 2, var.loc[plain, "upper"])
    np.testing.assert_allclose(
        np.log(sd.loc[plain, "upper"] / sd.loc[plain, "estimate"]),
        z * sd.loc[plain, "se"] / sd.loc[plain, "estimate"],
    )
    r = sd.loc[2]
    half = np.arctanh([r["estimate"], r["upper"]])
    assert half[1] - half[0] == pytest.approx(z * r["se"] / (1 - r["estimate"] ** 2))
    np.testing.assert_allclose(var["wald_upper"] - var["estimate"], z * var["se"])
    assert var.loc[2, "lower"] == var.loc[2, "wald_lower"]


def test_both_doors_agree():
    a, b = _sleep().variance_table(), _mixedlm().variance_table()
    np.testing.assert_allclose(a[["estimate", "se"]], b[["estimate", "se"]], rtol=1e-4)
    assert list(b["grp"]) == list(a["grp"])


def test_iterative_fits_have_a_table():
    """Average information in place of the exact Hessian; Monte Carlo errors of the estimates."""
    exact = _sleep().variance_table()
    table = _sleep(solver="iterative", probes=200, seed=1).variance_table()
    np.testing.assert_allclose(table["estimate"], exact["estimate"], rtol=0.05, atol=0.05)
    np.testing.assert_allclose(table["se"], exact["se"], rtol=0.1)


def test_variance_at_zero_is_held():
    table = mme.lmer("Yield ~ 1 + (1 | Batch)", load_data("Dyestuff2")).variance_table()
    assert table.loc[0, "estimate"] == 0.0
    assert table.loc[0, ["se", "lower", "upper"]].isna().all()
    assert table.loc[1, "se"] > 0.0


def test_perfect_correlation_has_no_interval():
    table = mme.lmer("distance ~ age * Sex + (age | Subject)", load_data("ub_orthodont")).variance_table()
    assert abs(table.loc[2, "estimate"]) == pytest.approx(1.0, abs=1e-8)
    assert np.isnan(table.loc[2, "se"])
    assert table.loc[[0, 1, 3], "se"].gt(0.0).all()


def test_only_flat_variances_are_unknown():
    """One effect in two terms: only the sum of their variances is told; all else as without the second."""
    rng = np.random.default_rng(0)
    codes, h = np.repeat(np.arange(12), 10), np.tile(np.arange(10), 12)
    y = 3 * rng.normal(size=12)[codes] + rng.normal(size=10)[h] + rng.normal(size=120)
    terms = (
        RandomTerm("a", codes, 12),
        RandomTerm("b", codes, 12, np.full((120, 1), 3.0)),
        RandomTerm("h", h, 10),
    )
    labels = tuple(TermLabels(t.name, ("(Intercept)",), t.n_levels, t.structure) for t in terms)
    X = np.ones((120, 1))
    twin = Fitted.of(fit_design(Design(y, X, terms), tol=1e-12), Labels("y", ("x",), labels))
    alone = Fitted.of(
        fit_design(Design(y, X, (terms[0], terms[2])), tol=1e-12), Labels("y", ("x",), (labels[0], labels[2]))
    )
    got, expected = variance_covariance(twin).se, variance_covariance(alone).se
    assert np.isnan(got[:2]).all()
    np.testing.assert_allclose(got[2:], expected[1:], rtol=1e-5)


def test_refusals():
    with pytest.raises(OptionError, match="Did you mean 'var'"):
        _sleep().variance_table("varr")
    with pytest.raises(OptionError, match="alpha"):
        _sleep().variance_table(alpha=2)
    model = mme.MixedLM.from_formula("Reaction ~ Days", load_data("sleepstudy"), groups="Subject")
    penalised = model.fit_regularized(alpha=1.0)
    with pytest.raises(InferenceError, match="penalties"):
        penalised.variance_table()
