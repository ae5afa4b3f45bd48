"""Fits of the small random designs: the estimates at the optimum, and that it is one, by the dense oracle."""

from __future__ import annotations

from functools import cache

import numpy as np
import oracle
import problems
import pytest
from scipy.optimize import minimize
from support import SOLVERS

from mme.engine.equations.design import Design
from mme.fit.fit import Fit, fit_design

each = pytest.mark.parametrize("name", list(problems.PROBLEMS))
each_method = pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])


@cache
def _fit(name: str, reml: bool) -> tuple[Design, Fit]:
    design = problems.build(name)
    return design, fit_design(design, reml=reml)


@each_method
@each
def test_estimates_given_theta(name, reml):
    """Log-likelihood, beta, its covariance, sigma2 and the conditional modes at the fitted theta."""
    design, fit = _fit(name, reml)
    expected = oracle.evaluate(design, fit.theta, reml)
    np.testing.assert_allclose(fit.deviance, expected.deviance, rtol=1e-10)
    np.testing.assert_allclose(fit.loglik, -expected.deviance / 2, rtol=1e-10)
    np.testing.assert_allclose(fit.sigma2, expected.sigma2, rtol=1e-9)
    se = np.sqrt(np.diag(expected.vcov_beta))
    np.testing.assert_allclose(fit.beta / se, expected.beta / se, rtol=1e-8, atol=1e-7)
    scale = np.outer(se, se)
    np.testing.assert_allclose(fit.vcov_beta / scale, expected.vcov_beta / scale, rtol=0, atol=1e-8)
    assert len(fit.u) == len(expected.u)
    for got, wanted in zip(fit.u, expected.u, strict=True):
        np.testing.assert_allclose(
            np.reshape(got, wanted.shape), wanted, rtol=1e-7, atol=1e-8 * (1 + np.abs(wanted).max())
        )


@each_method
@each
def test_optimum(name, reml):
    """Converged, and no search over the dense likelihood from several starts finds a better point."""
    design, fit = _fit(name, reml)
    assert fit.record.converged, fit.record.message

    def f(flat):
        o = oracle.evaluate(design, oracle.split(design, flat), reml)
        return o.deviance, o.gradient

    rng = np.random.default_rng(7)
    points = problems.thetas(design)
    starts = [points["interior"], 0.3 * points["interior 2"], oracle.flatten(fit.theta)]
    starts.append(oracle.flatten(fit.theta) + 0.1 * rng.normal(size=starts[0].size))
    best = min(minimize(f, s, jac=True, method="L-BFGS-B", options={"maxiter": 500}).fun for s in starts)
    assert fit.deviance <= best + 1e-6, f"{fit.deviance - best:.3g} above the best point found"


@each_method
@each
def test_boundary_conditions_at_a_singular_optimum(name, reml):
    """Where a term's covariance is singular no positive semidefinite change of it lowers the deviance.

    The derivative along D + eps c c' is taken by difference of the dense deviance: an oracle for the boundary
    condition that the derivative in theta, zero there by symmetry, cannot give.
    """
    design, fit = _fit(name, reml)
    base = oracle.evaluate(design, fit.theta, reml).deviance
    rng = np.random.default_rng(3)
    for t, term in enumerate(design.terms):
        lam = np.asarray(fit.lam[t])
        size = 1e-6 * (1.0 + np.abs(lam @ lam.T).max())
        directions = [np.eye(term.k)[:, j] for j in range(term.k)]
        if term.covariance == "full" and term.k > 1:
            directions += [c / np.linalg.norm(c) for c in rng.normal(size=(6, term.k))]
        for c in directions:
            D = lam @ lam.T + size * np.outer(c, c)
            moved = list(fit.theta)
            L = np.linalg.cholesky(D + 1e-14 * size * np.eye(term.k))
            if term.k == 1:
                moved[t] = L[0]
            elif term.covariance == "diagonal":
                moved[t] = np.diag(L)
            else:
                moved[t] = np.concatenate([L[b:, b] for b in range(term.k)])
            change = oracle.evaluate(design, moved, reml).deviance - base
            assert change > -1e-7, (term.name, c, change)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["crossed3", "crossed_vectors", "nested3", "partly_crossed", "only_general"])
def test_every_solver_finds_the_same_optimum(name, solver):
    design, fit = _fit(name, True)
    other = fit_design(design, reml=True, solver=solver)
    assert other.record.converged
    np.testing.assert_allclose(other.deviance, fit.deviance, rtol=0, atol=1e-7)
    wanted = {"dense": "LAPACK", "cholmod": "CHOLMOD", "superlu": "SuperLU"}[solver]
    assert wanted in other.record.solver


@each
def test_evaluations_stay_few(name):
    """No design of this collection may need more than 60 factorizations."""
    for reml in (True, False):
        assert _fit(name, reml)[1].record.evaluations <= 60
