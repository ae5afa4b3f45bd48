"""One design, many responses: what the response alone decides stands apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import problems
import pytest

from mme.engine.direct.objective import Objective
from mme.engine.equations.equations import build_equations
from mme.engine.equations.layout import layout_of
from mme.engine.equations.respond import respond
from mme.exceptions import PerfectFitError
from mme.fit import fit_design

ARRAYS = ["A1", "A1x", "ptr", "idx", "val", "tptr", "tlev", "tpos", "gptr", "gidx", "gval", "A2x", "Axx"]
OF_THE_DESIGN = ["A1", "ptr", "idx", "values", "tptr", "tlev", "positions", "gptr", "gidx", "gval", "basis"]


@pytest.mark.parametrize("name", list(problems.PROBLEMS))
def test_another_response(name):
    """As equations built for it, and nothing of the design is made or held again."""
    design = problems.build(name)
    first = build_equations(design, layout_of(design))
    y = np.random.default_rng(5).normal(size=design.n) * 1e3 + 7.0
    other = replace(design, y=y)
    got, expected = respond(other, first), build_equations(other, layout_of(other))
    for array in ARRAYS:
        a, b = getattr(got, array), getattr(expected, array)
        scale = np.abs(b).max(initial=0.0) * np.sqrt(design.n)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13 * scale, err_msg=array)
    np.testing.assert_allclose(got.fixed.b0, expected.fixed.b0, rtol=1e-12, atol=1e-9)
    assert got.yy_total == pytest.approx(expected.yy_total, rel=1e-14)
    for array in OF_THE_DESIGN:
        assert getattr(got, array) is getattr(first, array), array
    theta = problems.thetas(design)["interior"]
    value = Objective(other, equations=got).evaluate(theta).deviance
    assert value == pytest.approx(Objective(other).evaluate(theta).deviance, rel=1e-12)
    again = respond(design, got)
    np.testing.assert_allclose(again.A1x, first.A1x, rtol=0, atol=1e-13 * np.abs(first.A1x).max(initial=0.0))


def test_fits_on_shared_equations():
    design = problems.build("crossed_vectors")
    equations = build_equations(design, layout_of(design))
    other = replace(design, y=design.y[::-1].copy())
    got, expected = fit_design(other, equations=respond(other, equations)), fit_design(other)
    np.testing.assert_allclose(got.loglik, expected.loglik, rtol=1e-11)
    np.testing.assert_allclose(got.beta, expected.beta, rtol=1e-7)


def test_a_response_that_the_fixed_effects_explain():
    design = problems.build("crossed_vectors")
    other = replace(design, y=design.X @ np.arange(1.0, design.p + 1))
    with pytest.raises(PerfectFitError, match="fixed effects explain the response exactly"):
        Objective(other, equations=respond(other, build_equations(design, layout_of(design))))


def test_enlarged_residual():
    design = problems.build("crossed2")
    equations = build_equations(design, layout_of(design))
    more = equations.with_response(equations.response.enlarged(0.5))
    assert more.response.yy == pytest.approx(1.5 * equations.response.yy)
    assert more.A1x is equations.A1x
    assert more.A2x is equations.A2x
    assert equations.response.yy == pytest.approx(float(equations.Axx[-1, -1]))
