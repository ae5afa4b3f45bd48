"""Sums over pairs of levels by dense matrices, against the same by vectors, at every kind of theta."""

from __future__ import annotations

import numpy as np
import problems
import pytest

from mme.engine.direct import second
from mme.engine.direct.objective import Objective
from mme.engine.direct.second_dense import dense_block_products

DESIGNS = [name for name in problems.PROBLEMS if Objective(problems.build(name)).eq.layout.q2]


@pytest.mark.parametrize("name", DESIGNS)
def test_dense_matrices_and_vectors_agree(name, monkeypatch):
    monkeypatch.setattr(second, "by_dense_matrices", lambda *_: False)
    objective = Objective(problems.build(name))
    for label, theta in problems.thetas(problems.build(name)).items():
        expected = second.block_products(*objective.factored(theta))
        got = dense_block_products(*objective.factored(theta))
        assert got.keys() == expected.keys()
        # a sum of products of blocks is at most the root of the product of both sides' own sums of squares
        size = {s: np.einsum("aaaa->a", v) ** 0.25 for (s, t), v in expected.items() if s == t}
        for key, value in expected.items():
            s, t = key
            scale = np.einsum("a,b,c,d->abcd", size[s], size[s], size[t], size[t])
            np.testing.assert_allclose(
                got[key] / scale, value / scale, atol=1e-6, rtol=0, err_msg=f"{label} {s} {t}"
            )


@pytest.mark.parametrize("solver", ["dense", "superlu"])
def test_large_crossed_factors_go_by_dense_matrices(solver):
    """Both ways to the same Hessian where one of them is chosen for its cost; blocks on threads."""
    rng = np.random.default_rng(5)
    n = 6000
    terms = [problems._grouped(rng, "g", problems._codes(rng, n, 700), 2)]
    terms += [problems._grouped(rng, "h", problems._codes(rng, n, 530))]
    objective = Objective(problems._design(rng, terms, n), factorization=solver)
    theta = np.array([0.7, 0.1, 0.5, 0.6])
    eq, el, st = objective.factored(theta)
    assert second.by_dense_matrices(eq, second.Vectors.of(eq), el.plan.entries)
    got = second.block_products(eq, el, st)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(second, "by_dense_matrices", lambda *_: False)
        expected = second.block_products(eq, el, st)
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, atol=1e-10 * np.abs(value).max())
