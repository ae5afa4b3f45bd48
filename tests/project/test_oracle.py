"""The dense oracle itself: against Cholesky, central differences, and values lme4 published."""

from __future__ import annotations

import numpy as np
import oracle
import problems
import pytest
from support import load_data, mark_slow, reference_models

from mme.engine.equations.design import Design, RandomTerm

# by differences in each parameter
MANY_PARAMETERS = {"crossed8", "crossed_vector_scalar", "crossed_vectors", "nested_vector", "vector5"}


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", list(problems.PROBLEMS))
def test_two_routes_agree(name, reml):
    """Singular values against a Cholesky factor of V, which is worth about eps |V| per row."""
    design = problems.build(name)
    for label, theta in problems.thetas(design).items():
        parts = oracle.split(design, theta)
        got = oracle.evaluate(design, parts, reml).deviance
        expected = oracle.cholesky_deviance(design, parts, reml)
        rtol = 1e-9 if np.abs(theta).max() > 10 else 1e-11
        if name == "dense_covariance":
            rtol *= 10.0  # A has an eigenvalue of 2,929, and V is larger by that
        np.testing.assert_allclose(got, expected, rtol=rtol, err_msg=label)


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", mark_slow(problems.PROBLEMS, lambda name: name in MANY_PARAMETERS))
def test_gradient_is_the_derivative_of_the_deviance(name, reml):
    design = problems.build(name)
    for label, theta in problems.thetas(design).items():
        if label not in ("interior", "negative", "zero") and " zero " not in label and "rank" not in label:
            continue
        parts = oracle.split(design, theta)
        o = oracle.evaluate(design, parts, reml)
        expected = oracle.numerical_gradient(design, parts, reml)
        # a difference of deviances is good to about eps |d| / step; log|X'V^-1 X| has eps cond(X) of its own
        X = design.X / np.maximum(np.linalg.norm(design.X, axis=0), 1e-300)
        condition = np.linalg.cond(X) if design.p else 1.0
        atol = 1e-8 * max(1.0, o.gradient_scale.max()) + 2e-16 * condition / 1e-3
        np.testing.assert_allclose(o.gradient, expected, rtol=1e-8, atol=atol, err_msg=label)


def test_average_information_by_its_definition():
    """AI_ij = (f_i'P f_j - f_i'P f_0 f_0'P f_j / f_0'P f_0) / sigma2 from explicit n x n matrices.

    f_k = dV_k P y are the working variates; f_0 = V P y is that of the profiled sigma2.
    """
    design = problems.build("crossed_vector_scalar")
    theta = problems.thetas(design)["interior"]
    n, p = design.X.shape

    def covariance(point):
        V = np.eye(n)
        for term, th in zip(design.terms, oracle.split(design, point), strict=True):
            lam, _ = oracle._factor_and_derivatives(term, th)
            zl = (oracle.dense_z(term, n) @ lam).reshape(n, -1)
            V = V + zl @ zl.T
        return V

    V = covariance(theta)
    Vi = np.linalg.inv(V)
    P = Vi - Vi @ design.X @ np.linalg.solve(design.X.T @ Vi @ design.X, design.X.T @ Vi)
    step = 1e-4
    f = []
    for i in range(theta.size):
        e = np.zeros_like(theta)
        e[i] = step
        f.append((covariance(theta + e) - covariance(theta - e)) / (2 * step) @ P @ design.y)
    f = np.column_stack(f)
    f0 = V @ P @ design.y
    sigma2 = design.y @ P @ design.y / (n - p)
    full = f.T @ P @ f - np.outer(f.T @ P @ f0, f0 @ P @ f) / (f0 @ P @ f0)
    got = oracle.evaluate(design, oracle.split(design, theta), True)
    np.testing.assert_allclose(
        got.information, full / sigma2, rtol=1e-8, atol=1e-8 * np.abs(full).max() / sigma2
    )
    np.testing.assert_allclose(got.sigma2, sigma2, rtol=1e-12)


def test_average_information_approximates_the_hessian_at_an_optimum():
    """On a large balanced sample the average information and the exact Hessian nearly agree."""
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(60, dtype=np.int32), 5)
    y = rng.normal(size=60)[codes] + rng.normal(size=300)
    design = Design(y, np.ones((300, 1)), (RandomTerm("g", codes, 60),))
    # the REML estimate in closed form: mean squares between and within
    means = y.reshape(60, 5).mean(axis=1)
    within = np.sum((y.reshape(60, 5) - means[:, None]) ** 2) / 240
    between = 5 * np.var(means, ddof=1)
    theta = np.array([np.sqrt((between / within - 1) / 5)])
    o = oracle.evaluate(design, (theta,), True)
    assert abs(o.gradient[0]) < 1e-9 * o.gradient_scale[0]
    np.testing.assert_allclose(o.sigma2, within, rtol=1e-12)
    np.testing.assert_allclose(o.information, oracle.numerical_hessian(design, (theta,), True), rtol=0.02)


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_published_sleepstudy(method):
    """lme4's theta gives lme4's log-likelihood, estimates, standard errors and conditional modes."""
    data = load_data("sleepstudy")
    reference = reference_models()["sleepstudy_slope"][method]
    X = np.column_stack([np.ones(len(data)), data["Days"]])
    codes = np.unique(data["Subject"], return_inverse=True)[1].astype(np.int32)
    design = Design(data["Reaction"].to_numpy(), X, (RandomTerm("Subject", codes, 18, X.copy()),))
    o = oracle.evaluate(design, (np.array(reference["theta"]),), method == "reml")
    np.testing.assert_allclose(-o.deviance / 2, reference["loglik_lme4"], rtol=1e-13)
    np.testing.assert_allclose(np.sqrt(o.sigma2), reference["sigma"], rtol=1e-12)
    np.testing.assert_allclose(o.beta, list(reference["fixef"].values()), rtol=1e-11)
    np.testing.assert_allclose(np.sqrt(np.diag(o.vcov_beta)), list(reference["se"].values()), rtol=1e-9)
    np.testing.assert_allclose(o.u[0][:5], reference["ranef"]["Subject"]["values"], rtol=1e-9)
