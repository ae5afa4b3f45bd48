"""Deviance, gradient and average information of the engine against the dense marginal likelihood.

The points are named in problems.py: interior, zero for one and for all terms, singular vector factors, very
large, very small and of both signs.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import oracle
import problems
import pytest
from support import SOLVERS

from mme.engine.direct.objective import Objective
from mme.engine.equations.design import Design


@cache
def _case(name: str) -> tuple[Design, dict[str, np.ndarray]]:
    design = problems.build(name)
    return design, problems.thetas(design)


@cache
def _expected(name: str, label: str, reml: bool) -> oracle.Oracle:
    design, points = _case(name)
    return oracle.evaluate(design, oracle.split(design, points[label]), reml)


def _deviance_tolerance(expected: oracle.Oracle) -> float:
    """1e-10 |d|, plus what the cross-products of X lose where random effects absorb X.

    X'V^-1 X is what is left of X'WX; where a share f of it survives (1e-7 at theta = 1e3), rounding X'WX
    alone moves log|X'V^-1 X| by eps / f.  A sum of n such roundings is allowed 32.
    """
    return 1e-10 * abs(expected.deviance) + 32 * np.finfo(float).eps / expected.surviving


each = pytest.mark.parametrize("name", list(problems.PROBLEMS))
each_solver = pytest.mark.parametrize("solver", SOLVERS)
each_method = pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])


@each_method
@each_solver
@each
def test_deviance_and_sigma2(name, solver, reml):
    design, points = _case(name)
    objective = Objective(design, reml=reml, factorization=solver)
    for label, theta in points.items():
        got = objective.evaluate(theta, 0)
        expected = _expected(name, label, reml)
        atol = _deviance_tolerance(expected)
        np.testing.assert_allclose(got.deviance, expected.deviance, rtol=0, atol=atol, err_msg=label)
        np.testing.assert_allclose(got.sigma2, expected.sigma2, rtol=1e-9, err_msg=label)


def _assert_gradient(got: np.ndarray, expected: oracle.Oracle, label: str) -> None:
    """rtol 1e-7; near a stationary point relative to the two parts whose difference the gradient is."""
    atol = 1e-7 * expected.gradient_scale + 1e-12
    error = np.abs(got - expected.gradient)
    assert np.all(error <= 1e-7 * np.abs(expected.gradient) + atol), (
        f"{label}: got {got}, expected {expected.gradient}, error / scale {error / (atol / 1e-7)}"
    )


@each_method
@each_solver
@each
def test_gradient(name, solver, reml):
    design, points = _case(name)
    objective = Objective(design, reml=reml, factorization=solver)
    for label, theta in points.items():
        got = objective.evaluate(theta, 1)
        expected = _expected(name, label, reml)
        atol = _deviance_tolerance(expected)
        np.testing.assert_allclose(got.deviance, expected.deviance, rtol=0, atol=atol, err_msg=label)
        _assert_gradient(got.gradient, expected, label)


@each_method
@each_solver
@each
def test_average_information(name, solver, reml):
    """rtol 1e-6 on the scale of the information before sigma2 is profiled out."""
    design, points = _case(name)
    objective = Objective(design, reml=reml, factorization=solver)
    for label, theta in points.items():
        got = objective.evaluate(theta, 2)
        expected = _expected(name, label, reml)
        scale = np.outer(expected.information_scale, expected.information_scale)
        error = np.abs(got.information - expected.information)
        assert np.all(error <= 1e-6 * scale + 1e-12), (
            f"{label}: got\n{got.information}\nexpected\n{expected.information}"
        )
        _assert_gradient(got.gradient, expected, label)


@each_solver
@pytest.mark.parametrize("name", ["vector2", "crossed3", "crossed_vectors", "only_general", "nested3"])
def test_evaluations_do_not_depend_on_history(name, solver):
    """The same theta gives the same bits, whatever was evaluated in between and at whatever order."""
    design, points = _case(name)
    objective = Objective(design, reml=True, factorization=solver)
    first = objective.evaluate(points["interior"], 2)
    deviance, gradient, information = first.deviance, first.gradient.copy(), first.information.copy()
    for theta in points.values():
        objective.evaluate(theta, 1)
    again = objective.evaluate(points["interior"], 2)
    assert again.deviance == deviance
    np.testing.assert_array_equal(again.gradient, gradient)
    np.testing.assert_array_equal(again.information, information)
    np.testing.assert_array_equal(first.gradient, gradient)
    # a fresh objective, order 0: same arithmetic
    fresh = Objective(design, reml=True, factorization=solver).evaluate(points["interior"], 0)
    np.testing.assert_allclose(fresh.deviance, deviance, rtol=1e-14)


@each_method
@pytest.mark.parametrize(
    "name", ["vector2", "crossed3", "nested3", "weighted", "multi_membership", "only_general"]
)
def test_the_solver_chosen_by_itself_agrees(name, reml):
    design, points = _case(name)
    objective = Objective(design, reml=reml)
    expected = _expected(name, "interior", reml)
    got = objective.evaluate(points["interior"], 1)
    np.testing.assert_allclose(got.deviance, expected.deviance, rtol=1e-10)
    _assert_gradient(got.gradient, expected, "interior")


@each_solver
@pytest.mark.parametrize(
    "name", ["crossed3", "same_codes_vector", "crossed_vector_scalar", "multi_membership"]
)
def test_order_of_terms_is_immaterial(name, solver):
    """Terms permuted in the design permute the gradient and change nothing else."""
    design, points = _case(name)
    theta = oracle.split(design, points["interior"])
    order = list(range(len(theta)))[::-1]
    turned = Design(design.y, design.X, tuple(design.terms[t] for t in order), design.weights, design.offset)
    a = Objective(design, reml=True, factorization=solver).evaluate(points["interior"], 1)
    b = Objective(turned, reml=True, factorization=solver).evaluate(
        oracle.flatten([theta[t] for t in order]), 1
    )
    np.testing.assert_allclose(b.deviance, a.deviance, rtol=1e-12)
    expected = oracle.flatten([oracle.split(design, a.gradient)[t] for t in order])
    np.testing.assert_allclose(b.gradient, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@each_solver
@pytest.mark.parametrize("name", ["vector2", "crossed3", "weighted"])
def test_scaling_of_the_response(name, solver):
    """y -> c y leaves the gradient in theta alone and multiplies sigma2 by c squared."""
    design, points = _case(name)
    scaled = Design(1e4 * design.y, design.X, design.terms, design.weights, design.offset)
    a = Objective(design, reml=True, factorization=solver).evaluate(points["interior"], 1)
    b = Objective(scaled, reml=True, factorization=solver).evaluate(points["interior"], 1)
    np.testing.assert_allclose(b.sigma2, 1e8 * a.sigma2, rtol=1e-10)
    np.testing.assert_allclose(b.deviance, a.deviance + 2 * (design.n - design.p) * np.log(1e4), rtol=1e-12)
    np.testing.assert_allclose(b.gradient, a.gradient, rtol=1e-8, atol=1e-8 * np.abs(a.gradient).max())


@each_solver
def test_a_response_far_from_zero(solver):
    """A mean of 1e6 standard deviations in y must cost no digits: X'V^-1 y is not subtracted from y'y."""
    design, points = _case("crossed2")
    moved = Design(design.y + 1e6, design.X, design.terms)
    a = Objective(design, reml=True, factorization=solver).evaluate(points["interior"], 1)
    b = Objective(moved, reml=True, factorization=solver).evaluate(points["interior"], 1)
    np.testing.assert_allclose(b.deviance, a.deviance, rtol=1e-9)  # y itself was rounded at 1e-10
    np.testing.assert_allclose(b.gradient, a.gradient, rtol=1e-7, atol=1e-7 * np.abs(a.gradient).max())
