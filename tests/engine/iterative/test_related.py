"""The iterative objective of related levels against the direct one."""

from __future__ import annotations

import numpy as np
import problems
import pytest

from mme.engine.direct.objective import Objective
from mme.engine.iterative.related import RelatedObjective
from mme.exceptions import InferenceError
from mme.fit.fit import fit_design

NAMES = ["pedigree_alone", "pedigree_and_herd", "pedigree_vector", "direct_and_maternal", "dense_covariance"]


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", NAMES)
def test_evaluation_against_the_direct_path(name, reml):
    """Solutions to the solves' accuracy, traces within their Monte Carlo error, the information exactly."""
    design = problems.build(name)
    direct = Objective(design, reml)
    objective = RelatedObjective(direct.eq, reml, probes=400, seed=1)
    for label in ("interior", "interior 2"):
        theta = problems.thetas(design)[label]
        exact = direct.evaluate(theta, 2)
        got = objective.evaluate(theta, 2, tol=1e-9)
        assert got.solved
        np.testing.assert_allclose(got.sigma2, exact.sigma2, rtol=1e-8)
        for mine, theirs, samples in zip(got.N_basis, exact.N_basis, got.samples, strict=True):
            error = samples.std(axis=0) / np.sqrt(len(samples))
            assert np.all(np.abs(mine - theirs) <= 5.0 * error + 1e-6 * np.abs(theirs).max())
        size = np.sqrt(np.diag(exact.information_basis))
        scale = np.outer(size, size)  # its solves go to 1e-3, in the metric of the levels themselves
        np.testing.assert_allclose(
            got.information_basis / scale, exact.information_basis / scale, rtol=0, atol=5e-3
        )
        mine, theirs = objective.solution(theta, 1e-10), direct.solution(theta)
        np.testing.assert_allclose(mine["beta"], theirs["beta"], rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(mine["vcov"], theirs["vcov"], rtol=1e-6, atol=1e-10)
        for a, b in zip(mine["u"], theirs["u"], strict=True):
            np.testing.assert_allclose(np.reshape(a, b.shape), b, rtol=1e-6, atol=1e-7)


def test_a_fit_and_its_log_likelihood():
    design = problems.build("pedigree_and_herd")
    exact = fit_design(design)
    fit = fit_design(design, solver="iterative", goal=0.02, max_probes=2000, seed=3)
    assert fit.record.converged
    assert fit.monte_carlo is not None
    for lam, wanted, error in zip(fit.lam, exact.lam, fit.monte_carlo.theta_error, strict=True):
        assert abs(float(lam[0, 0]) - float(wanted[0, 0])) <= 6.0 * error + 1e-3
    np.testing.assert_allclose(fit.loglik, exact.loglik, atol=0.02)
    polished = fit_design(design, solver="iterative", exact_steps=5)
    assert polished.record.converged
    np.testing.assert_allclose(polished.deviance, exact.deviance, atol=1e-6)


def test_a_leading_term_is_refused():
    design = problems.build("related_and_more_levels")
    with pytest.raises(InferenceError, match="solver='direct'"):
        fit_design(design, solver="iterative")
