"""The iterative path where a covariate is measured from: the same model, the same answers."""

from __future__ import annotations

import numpy as np
import pytest
from support import errors_of, flat

from mme.engine.covariance.factors import lam_to_theta, triangular
from mme.engine.equations.design import Design, RandomTerm
from mme.fit.fit import Fit, fit_design


def slopes(shift: float, levels: tuple[int, int]) -> Design:
    """(x | g) + (1 | h), x measured from -shift; the factor with more effects leads."""
    rng = np.random.default_rng(5)
    n = 1500
    g, h = (rng.permutation(np.r_[np.arange(q), rng.integers(0, q, n - q)]).astype(np.int32) for q in levels)
    x = rng.normal(size=n)
    b = rng.normal(size=(levels[0], 2)) @ [[0.9, 0.3], [0.0, 0.5]]
    y = 1.0 + 2.0 * x + b[g, 0] + b[g, 1] * x + 0.7 * rng.normal(size=levels[1])[h] + rng.normal(size=n)
    columns = np.column_stack([np.ones(n), x + shift])
    terms = [
        RandomTerm("g", g, levels[0], columns, column_names=("1", "x")),
        RandomTerm("h", h, levels[1]),
    ]
    return Design(y, columns.copy(), terms)


def centred(fit: Fit, shift: float) -> np.ndarray:
    """theta in the parametrisation of the centred x."""
    lam = triangular(np.array([[1.0, shift], [0.0, 1.0]]) @ fit.lam[0])
    return np.r_[lam[0, 0], lam[1, 0], lam[1, 1], fit.theta[1]]


TIGHT = {"solver": "iterative", "accuracy": 1e-8, "goal": 1.0, "solve_tol": 1e-11, "loglik_probes": 8}


@pytest.mark.parametrize("levels", [(40, 25), (20, 90)], ids=["slopes lead", "slopes in the rest"])
@pytest.mark.parametrize("shift", [1e4, 1e6, 1e7])
def test_an_uncentred_slope_is_the_same_model(shift, levels):
    """(x | g) spans the same space wherever x is measured from; 1e7 leaves nine digits of x."""
    tol = max(1e-7, 1e-14 * shift)
    expected = fit_design(slopes(0.0, levels), **TIGHT)
    got = fit_design(slopes(shift, levels), **TIGHT)
    assert got.record.converged and got.record.iterations == expected.record.iterations
    np.testing.assert_allclose(centred(got, shift), flat(expected), rtol=10 * tol)
    np.testing.assert_allclose(got.loglik, expected.loglik, atol=1e-5)
    np.testing.assert_allclose(got.beta[1], expected.beta[1], rtol=10 * tol)
    np.testing.assert_allclose(got.beta[0] + shift * got.beta[1], expected.beta[0], rtol=10 * tol)
    np.testing.assert_allclose(got.vcov_beta[1, 1], expected.vcov_beta[1, 1], rtol=10 * tol)
    np.testing.assert_allclose(got.u[0][:, 1], expected.u[0][:, 1], atol=10 * tol)
    mine, theirs = got.monte_carlo, expected.monte_carlo
    np.testing.assert_allclose(mine.ratio, theirs.ratio, rtol=1e-4)

    def noise(error: np.ndarray, se: np.ndarray, fit: Fit) -> np.ndarray:
        """A reported error without the step that was left, which is rounding here."""
        left = max(np.sqrt(fit.record.newton_decrement), TIGHT["accuracy"])
        return np.sqrt(error**2 - (left * se) ** 2)

    a, b = mine.variance_se, theirs.variance_se
    np.testing.assert_allclose(a[0][1, 1], b[0][1, 1], rtol=1e-4)
    np.testing.assert_allclose(a[1], b[1], rtol=1e-4)
    np.testing.assert_allclose(mine.sigma2_se, theirs.sigma2_se, rtol=1e-4)
    for t, entry in ((0, (1, 1)), (1, (0, 0))):
        np.testing.assert_allclose(
            noise(mine.variance_error[t][entry], a[t][entry], got),
            noise(theirs.variance_error[t][entry], b[t][entry], expected),
            rtol=1e-4,
        )
    np.testing.assert_allclose(
        noise(mine.sigma2_error, mine.sigma2_se, got),
        noise(theirs.sigma2_error, theirs.sigma2_se, expected),
        rtol=1e-4,
    )
    np.testing.assert_allclose(mine.theta_se[3], theirs.theta_se[3], rtol=1e-4)


@pytest.mark.parametrize("levels", [(40, 25), (20, 90)], ids=["slopes lead", "slopes in the rest"])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_an_uncentred_slope_agrees_with_the_direct_fit(shift, levels):
    design = slopes(shift, levels)
    got, direct = fit_design(design, solver="iterative"), fit_design(design, solver="direct")
    assert got.record.converged
    assert np.abs(errors_of(got, direct)).max() < 4.0
    np.testing.assert_allclose(got.sigma2, direct.sigma2, atol=4.0 * got.monte_carlo.sigma2_error)
    at_same = got.objective.solution(flat(direct), tol=1e-11)
    np.testing.assert_allclose(at_same["beta"], direct.beta, rtol=1e-6)
    np.testing.assert_allclose(at_same["vcov"], direct.vcov_beta, rtol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1e4, 1e6, 1e7])
def test_standard_errors_of_theta_whatever_the_origin(shift):
    """Oracle: the exact information of the centred model, put through the change of origin."""
    got = fit_design(slopes(shift, (40, 25)), solver="iterative", loglik_probes=0)
    centre = fit_design(slopes(0.0, (40, 25)), solver="direct")
    theta = flat(centre)
    cov = 2.0 * np.linalg.inv(centre.objective.evaluate(theta, 2).information)

    def moved(v: np.ndarray) -> np.ndarray:
        lam = np.array([[1.0, -shift], [0.0, 1.0]]) @ np.array([[v[0], 0.0], [v[1], v[2]]])
        return np.r_[lam_to_theta(triangular(lam)), v[3]]

    steps = np.diag(1e-3 * np.abs(theta))
    G = np.column_stack([(moved(theta + h) - moved(theta - h)) / (2.0 * h.sum()) for h in steps])
    expected = np.sqrt(np.diag(G @ cov @ G.T))
    # at two estimates that differ by the Monte Carlo error
    np.testing.assert_allclose(got.monte_carlo.theta_se, expected, rtol=0.02)
