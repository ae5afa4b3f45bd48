"""Refits that share what is the design's: as fits from the beginning, whatever came before."""

from __future__ import annotations

import numpy as np
import problems
import pytest

from mme.engine.equations.equations import build_equations
from mme.engine.equations.layout import layout_of
from mme.exceptions import DataError, DesignError, PerfectFitError
from mme.fit import fit_design
from mme.fit.refit import Refits

NAMES = ["crossed_vectors", *[n for n in problems.PROBLEMS if n != "crossed_vectors"][:5]]


def _responses(design, number):
    rng = np.random.default_rng(11)
    for _ in range(number):
        y = design.X @ rng.normal(size=design.p) + rng.normal(size=design.n)
        for term in design.terms:
            y = y + term.times(rng.normal(size=(term.n_levels, term.k)))
        yield y


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reml", [True, False])
def test_a_refit_is_a_fit(name, reml):
    design = problems.build(name)
    refits = Refits(design, build_equations(design, layout_of(design)), reml, tol=1e-10)
    for y in _responses(design, 3):
        got = refits.fit(y)
        expected = fit_design(design.with_response(y), reml=reml, solver="direct", tol=1e-10)
        assert got.converged == expected.record.converged
        assert got.singular == bool(expected.record.singular)
        np.testing.assert_allclose(got.loglik, expected.loglik, rtol=1e-10)
        np.testing.assert_allclose(got.beta, expected.beta, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(got.sigma2, expected.sigma2, rtol=1e-7)
        scale = np.nanmax(np.abs(expected.vcov_beta))
        np.testing.assert_allclose(got.vcov, expected.vcov_beta, rtol=1e-6, atol=1e-7 * scale)


def test_the_order_of_responses_is_no_matter():
    """To the last bit: draws of a bootstrap may be shared out."""
    design = problems.build("crossed_vectors")
    equations = build_equations(design, layout_of(design))
    responses = list(_responses(design, 4))
    forward = [Refits(design, equations, True).fit(y).loglik for y in responses]
    refits = Refits(design, equations, True)
    assert [refits.fit(y).loglik for y in reversed(responses)] == forward[::-1]


def test_responses_without_a_fit():
    design = problems.build("crossed_vectors")
    refits = Refits(design, build_equations(design, layout_of(design)), True)
    first = next(_responses(design, 1))
    expected = refits.fit(first).loglik
    with pytest.raises(PerfectFitError):
        refits.fit(design.X @ np.arange(1.0, design.p + 1))
    with pytest.raises(DesignError, match="constant"):
        design.with_response(np.ones(design.n))
    with pytest.raises(DataError, match=f"{design.n - 1} rows"):
        design.with_response(first[1:])
    with pytest.raises(DataError, match="1 missing"):
        design.with_response(np.r_[np.nan, first[1:]])
    assert refits.fit(first).loglik == expected
