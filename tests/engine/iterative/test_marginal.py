"""Products with V^-1 by conjugate gradients against those by a factorization."""

from __future__ import annotations

import numpy as np
import pytest
from problems import SOLVED, SOLVED_SLOWLY, build, factored, thetas
from support import mark_slow

from mme.engine.iterative import marginal
from mme.engine.iterative.objective import IterativeObjective


def _points(name: str, probes: int = 16):
    _, objective, theta, _, exact = factored(name)
    return exact, IterativeObjective(objective.eq, seed=3).at(theta, probes)


@pytest.mark.parametrize("name", mark_slow(SOLVED, lambda name: name in SOLVED_SLOWLY))
def test_products_are_those_of_a_factorization(name):
    exact, mine = _points(name)
    np.testing.assert_allclose(mine.r2(), exact.r2(), rtol=1e-9)
    root, zq = exact.orthonormal_x()
    np.testing.assert_allclose(
        mine.orthonormal_x()[0].T @ mine.orthonormal_x()[0], root.T @ root, rtol=1e-7, atol=1e-9
    )
    for got, expected in zip(mine.orthonormal_x()[1], zq, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6 * max(1e-3, np.abs(expected).max(initial=0.0)))
    for got, expected in zip(mine.products(), exact.products(None), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(expected).max(initial=0.0))
    rng = np.random.default_rng(5)
    w = [rng.normal(size=(*z.shape, 37)) for z in exact.products(None)]  # more than one batch
    for got, expected in zip(mine.times(w), exact.times(w), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max(initial=0.0))


@pytest.mark.parametrize("name", mark_slow(SOLVED, lambda name: name in SOLVED_SLOWLY))
def test_few_levels_are_summed_exactly(name, monkeypatch):
    monkeypatch.setattr(marginal, "_FEW", 10_000)
    exact, mine = _points(name)
    expected, got = exact.trace_products(), mine.trace_products()
    assert got.keys() == expected.keys()
    for pair, gram in expected.items():
        np.testing.assert_allclose(got[pair], gram, atol=1e-5 * np.abs(gram).max(), err_msg=f"{pair}")
    turns = [np.random.default_rng(t).normal(size=(z.shape[1],) * 2) for t, z in enumerate(mine.products())]
    expected, got = exact.trace_products(turns), mine.trace_products(turns)
    for pair, gram in expected.items():
        np.testing.assert_allclose(got[pair], gram, atol=1e-5 * np.abs(gram).max(), err_msg=f"{pair}")


@pytest.mark.parametrize("name", mark_slow(SOLVED, lambda name: name in SOLVED_SLOWLY))
def test_probes_have_the_exact_expectation(name, monkeypatch):
    monkeypatch.setattr(marginal, "_FEW", 0)
    exact, mine = _points(name, probes=400)
    expected, samples = exact.trace_products(), mine.trace_samples()
    assert len(samples) == 400
    for pair, gram in expected.items():
        own = np.array([sample[pair] for sample in samples])
        error = own.std(axis=0, ddof=1) / np.sqrt(len(own))
        np.testing.assert_array_less(
            np.abs(own.mean(axis=0) - gram), 5.0 * error + 1e-5 * np.abs(gram).max(), err_msg=f"{pair}"
        )
        np.testing.assert_allclose(mine.trace_products()[pair], own.mean(axis=0), rtol=1e-10, atol=1e-12)


def test_a_factor_alone_has_no_noise():
    """Levels that share no row: a probe meets each by itself."""
    exact, mine = _points("vector3", probes=2)
    first, second = mine.trace_samples()
    for pair, gram in exact.trace_products().items():
        np.testing.assert_allclose(first[pair], gram, rtol=1e-8, atol=1e-10 * np.abs(gram).max())
        np.testing.assert_allclose(second[pair], gram, rtol=1e-8, atol=1e-10 * np.abs(gram).max())


def test_another_evaluation_between_does_not_matter():
    _, mine = _points("crossed3")
    w = [np.ones((*z.shape, 1)) for z in mine.products()]
    before = mine.times(w)
    mine._objective.evaluate(thetas(build("crossed3"))["interior 2"], 1)
    for a, b in zip(before, mine.times(w), strict=True):
        np.testing.assert_array_equal(a, b)
