"""The objective by orthogonal factorizations against that of the cross-products, which oracles check."""

from __future__ import annotations

import numpy as np
import problems
import pytest

from mme.engine.direct.careful import CarefulObjective
from mme.engine.direct.objective import Objective
from mme.engine.equations.design import Design, RandomTerm
from mme.engine.search.coordinates import Coordinates, term_specs

NAMES = ["scalar", "vector2", "crossed2", "crossed3", "nested3", "weighted", "multi_membership"]
NAMES += ["crossed_vectors", "only_general"]


def _pair(name: str, reml: bool) -> tuple[CarefulObjective, Objective, list[np.ndarray]]:
    design = problems.build(name)
    objective = Objective(design, reml=reml)
    space = Coordinates(term_specs(objective.eq, standard=True))
    rng = np.random.default_rng(4)
    return CarefulObjective(design, objective), objective, [space.uniform(0.3), space.random(rng)]


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", NAMES)
def test_value_derivatives_and_information(name, reml):
    careful, objective, points = _pair(name, reml)
    for theta in points:
        got, expected = careful.evaluate(theta, 2), objective.evaluate(theta, 2, standard=True)
        np.testing.assert_allclose(got.deviance, expected.deviance, rtol=1e-11)
        np.testing.assert_allclose(got.sigma2, expected.sigma2, rtol=1e-10)
        scale = np.abs(expected.gradient).max()
        np.testing.assert_allclose(got.gradient, expected.gradient, rtol=1e-7, atol=1e-9 * scale)
        for a, b in zip(got.N_basis, expected.N_basis, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8 * np.abs(b).max())
        size = np.abs(expected.information_basis).max()
        np.testing.assert_allclose(
            got.information_basis, expected.information_basis, rtol=1e-7, atol=1e-9 * size
        )
        plain = careful.evaluate(theta, 0)
        assert plain.deviance == got.deviance and plain.gradient is None
        assert careful.evaluate(theta, 1).information_basis is None
        assert 0.0 < got.noise < 1e-10


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", NAMES)
def test_solution(name, reml):
    careful, objective, points = _pair(name, reml)
    got, expected = careful.solution(points[0]), objective.solution(points[0], standard=True)
    assert got.keys() == expected.keys()
    for key in ("theta", "beta", "vcov", "sigma2", "deviance"):
        np.testing.assert_allclose(got[key], expected[key], rtol=1e-9, atol=1e-11, err_msg=key)
    for a, b in zip(got["u"], expected["u"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("ratio", [1e3, 1e6, 1e9])
def test_what_is_inside_the_levels_shrinks_to_the_last_digit(ratio):
    """V^-1/2 of a vector that is nearly all between groups."""
    rng = np.random.default_rng(2)
    codes = np.repeat(np.arange(4), 5).astype(np.int32)
    columns = np.column_stack([np.ones(20), rng.normal(size=20)])
    term = RandomTerm("g", codes, 4, columns, column_names=("1", "x"))
    design = Design(rng.normal(size=20), np.ones((20, 1)), (term,))
    objective = Objective(design, reml=True)
    careful = CarefulObjective(design, objective)
    theta = ratio * Coordinates(term_specs(objective.eq, standard=True)).uniform(0.5)
    careful._state(theta)
    inside = careful._U @ (careful._U.T @ careful._Z @ rng.normal(size=8))
    rest = rng.normal(size=inside.size)
    rest -= careful._U @ (careful._U.T @ rest)
    M = inside + 1e-9 * rest
    got = careful._U.T @ careful._white(M[:, None])[:, 0]
    expected = careful._U.T @ M / careful._root
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-24 * np.linalg.norm(M))
    assert ratio < careful._root.max() < 3.0 * ratio


def test_a_response_that_some_of_the_terms_explain():
    """Beside a term that explains nothing of it; a response with a little noise is not explained."""
    rng = np.random.default_rng(5)
    g, h = (c.astype(np.int32) for c in np.divmod(np.arange(40), 5))
    exact = 3.0 + rng.normal(size=8)[g]
    for y, explained in [(exact, True), (exact + 1e-6 * rng.normal(size=40), False)]:
        design = Design(y, np.ones((40, 1)), (RandomTerm("g", g, 8), RandomTerm("h", h, 5)))
        assert CarefulObjective(design, Objective(design, reml=True)).explains_exactly() is explained
