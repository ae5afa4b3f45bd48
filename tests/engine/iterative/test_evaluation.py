"""One evaluation of the iterative objective against the direct one: gradient, solution, deviance."""

from __future__ import annotations

import numpy as np
import pytest
from problems import build, thetas
from support import mark_slow

from mme.engine.covariance.factors import theta_to_lam
from mme.engine.direct.objective import Objective
from mme.engine.equations.equations import build_equations
from mme.engine.equations.layout import layout_of
from mme.engine.iterative.lanczos import logdet
from mme.engine.iterative.objective import IterativeObjective

# crossed and partly nested ones in which the rest has several terms, vector terms, general terms, weights
STRUCTURES = [
    "vector3",
    "nested3",
    "nested_vector",
    "crossed2",
    "crossed3",
    "partly_crossed",
    "crossed_vectors",
    "crossed_vector_scalar",
    "multi_membership",
    "only_general",
    "weighted",
    "with_offset",
    "wide_x",
    "no_fixed_effects",
]
LARGE = {"crossed_vector_scalar", "crossed_vectors", "nested_vector"}


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", mark_slow(STRUCTURES, lambda name: name in LARGE))
def test_gradient_has_the_exact_expectation(name, reml):
    """Oracle: the direct one; 500 probes, so that a bias of a quarter of one probe's noise would show."""
    design = build(name)
    oracle = Objective(design, reml=reml)
    mine = IterativeObjective(oracle.eq, reml=reml, probes=500, seed=1)
    points = thetas(design)
    singular = [label for label in points if "zero" in label or "rank" in label]
    for label in ["interior", *singular]:
        expected = oracle.evaluate(points[label], 2)
        got = mine.evaluate(points[label], 2, tol=1e-10)
        np.testing.assert_allclose(got.sigma2, expected.sigma2, rtol=1e-7)
        scale = np.abs(expected.information_D).max()
        # singular directions are lifted to 1e-8 of the scale of their columns
        np.testing.assert_allclose(got.information_D, expected.information_D, atol=1e-4 * scale)
        own = [
            (R.T @ s @ R)
            for R, s in zip(map(mine.eq.term_basis, range(len(got.N))), got.samples, strict=True)
        ]
        both = [*got.N_basis, *got.N], [*expected.N_basis, *expected.N], [*got.samples, *own]
        for N, N_exact, samples in zip(*both, strict=True):
            error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
            allowed = 5.0 * error + 1e-5 * np.abs(np.diag(N_exact)).max() + 1e-8 * np.abs(N_exact).max()
            assert np.all(np.abs(N - N_exact) <= allowed), (label, N, N_exact, error)


@pytest.mark.parametrize("name", STRUCTURES)
def test_gradient_in_theta_is_that_of_its_own_traces(name):
    """By the chain rule from N, and by direction: 2 tr(N dlam lam') for a change dlam of the factor."""
    design = build(name)
    mine = IterativeObjective(build_equations(design, layout_of(design)), probes=8, seed=1)
    theta = thetas(design)["interior"]
    got = mine.evaluate(theta, 1, tol=1e-10)
    for place, N in zip(mine.eq.layout.places, got.N, strict=True):
        lam = theta_to_lam(theta[place.theta], place.k, place.structure)
        for i, (a, b) in enumerate(place.entries):
            change = np.zeros_like(lam)
            change[a, b] = 1.0
            expected = np.trace(N @ (change @ lam.T + lam @ change.T))
            assert got.gradient[place.theta][i] == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", STRUCTURES)
def test_solution_matches_the_direct_one(name):
    design = build(name)
    oracle = Objective(design)
    mine = IterativeObjective(oracle.eq)
    theta = thetas(design)["interior"]
    expected, got = oracle.solution(theta), mine.solution(theta, tol=1e-11)
    for key in ("beta", "vcov", "sigma2"):
        np.testing.assert_allclose(got[key], expected[key], rtol=1e-7, atol=1e-9, err_msg=key)
    for u, u_exact in zip(got["u"], expected["u"], strict=True):
        np.testing.assert_allclose(u, u_exact, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", ["crossed2", "crossed3", "crossed_vectors", "weighted", "multi_membership"])
def test_lanczos_quadrature_gives_the_deviance(name, reml):
    design = build(name)
    oracle = Objective(design, reml=reml)
    mine = IterativeObjective(oracle.eq, reml=reml, seed=4)
    for label in ("interior", "interior 2", "large"):
        theta = thetas(design)[label]
        solution = mine.solution(theta, tol=1e-11)
        value, error = logdet(mine.system, mine.fresh_probes(200), tol=1e-8)
        nu = mine.nu
        got = value + solution["logdet"] + nu * (1.0 + np.log(2.0 * np.pi * solution["sigma2"]))
        got -= oracle.eq.log_w
        expected = oracle.evaluate(theta, 0).deviance
        assert abs(got - expected) <= 4.5 * error + 1e-7 * abs(expected), label
        # far less noise than plain quadrature, whose error is of the order of sqrt(2 q2 / probes)
        assert error < 0.5 * np.sqrt(2.0 * oracle.eq.layout.q2 / 200)


def test_probes_do_not_change_when_their_number_grows():
    eq = Objective(build("crossed3")).eq
    mine = IterativeObjective(eq, probes=4, seed=3)
    few = mine.probes
    mine.set_probes(9)
    np.testing.assert_array_equal(mine.probes[:, :4], few)
    assert set(np.unique(mine.probes)) == {-1, 1}
    assert not np.array_equal(mine.fresh_probes(4), few)
