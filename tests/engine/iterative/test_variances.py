"""Variances of all levels at once against those of a factorization, and their stated errors."""

from __future__ import annotations

import numpy as np
import pytest
from problems import SOLVED, SOLVED_SLOWLY, factored
from support import mark_slow

from mme.engine.iterative import variances
from mme.engine.iterative.objective import IterativeObjective


@pytest.mark.parametrize("name", mark_slow(SOLVED, lambda name: name in SOLVED_SLOWLY))
def test_the_stated_errors_hold(name):
    _, objective, theta, _, exact = factored(name)
    eq = objective.eq
    mine = IterativeObjective(eq, seed=3).at(theta, 2)
    for t, blocks in enumerate(exact.conditional_covariances()):
        k = blocks.shape[1]
        # the effects and a combination of them
        combinations = np.vstack([np.eye(k), np.linspace(1.0, 2.0, k)])
        expected = np.einsum("ma,qab,mb->qm", combinations, blocks, combinations)
        got = mine.level_variances(t, combinations, 200)
        assert got.converged
        size = expected.max(initial=0.0)
        assert np.all(got.value >= 0.0)
        # of hundreds of levels some lie beyond three errors; none beyond six
        np.testing.assert_array_less(np.abs(got.value - expected), 6.0 * got.error + 1e-4 * size + 1e-12)
        assert got.error.max() <= 0.2 * size + 1e-12


def test_the_smooth_directions_are_added_exactly(monkeypatch):
    """Of crossed factors that is most of what levels have in common."""
    _, objective, theta, _, exact = factored("crossed3")
    mine = IterativeObjective(objective.eq, seed=3).at(theta, 2)
    sizes = [blocks.shape[1] for blocks in exact.conditional_covariances()]
    one = [mine.level_variances(t, np.eye(k), 16) for t, k in enumerate(sizes)]
    none = variances.Deflation.of
    monkeypatch.setattr(variances.Deflation, "of", lambda Q, GQ: none(0.0 * Q, 0.0 * GQ))
    for t, got in enumerate(one):
        plain = mine.level_variances(t, np.eye(got.value.shape[1]), 16)
        assert np.median(got.error) <= np.median(plain.error)
    assert any(np.median(got.error) < 0.5 * np.median(plain.error) for got in one)


def test_batches_of_probes_do_not_matter(monkeypatch):
    _, objective, theta, _, exact = factored(SOLVED[0])
    k = exact.conditional_covariances()[0].shape[1]
    mine = IterativeObjective(objective.eq, seed=3).at(theta, 2)
    whole = mine.level_variances(0, np.eye(k), 11)
    monkeypatch.setattr(variances, "_LARGEST", 1)
    again = mine.level_variances(0, np.eye(k), 11)
    np.testing.assert_allclose(again.value, whole.value, rtol=1e-3)
    np.testing.assert_allclose(again.error, whole.error, rtol=1e-2, atol=1e-4 * whole.value.max())
