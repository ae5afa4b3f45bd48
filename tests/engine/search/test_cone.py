"""Quadratic over semidefinite cones against first-order conditions and a brute-force search."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize as so

from mme.engine.covariance.factors import entries
from mme.engine.search.cone import ConeBlock, minimise_over_cone


def _problem(seed: int, sizes: list[int]):
    rng = np.random.default_rng(seed)
    blocks, start = [], 0
    for k in sizes:
        blocks.append(ConeBlock(start, k, entries(k)))
        start += len(entries(k))
    root = rng.normal(size=(start, start))
    x0 = np.empty(start)
    for b in blocks:
        A = 0.5 * rng.normal(size=(b.k, b.k))
        x0[b.part] = (A @ A.T)[b.rows, b.cols]
    return blocks, x0, 3.0 * rng.normal(size=start), root @ root.T + 0.1 * np.eye(start)


@pytest.mark.parametrize("sizes", [[1], [2], [3], [1, 1, 1], [2, 3], [4, 1]])
@pytest.mark.parametrize("seed", range(6))
def test_first_order_conditions(seed, sizes):
    """x is feasible, the gradient is in the dual cone, and they are complementary."""
    blocks, x0, g, H = _problem(seed, sizes)
    x = minimise_over_cone(x0, g, H, blocks)
    gradient = g + H @ (x - x0)
    scale = max(1.0, np.abs(g).max())
    for b in blocks:
        X = b.mat(x)
        dual = b.mat(gradient)
        off = ~np.eye(b.k, dtype=bool)
        dual[off] *= 0.5  # entries count twice in tr(dual X)
        assert np.linalg.eigvalsh(X)[0] >= -1e-10
        assert np.linalg.eigvalsh(dual)[0] >= -1e-6 * scale
        np.testing.assert_allclose(np.sum(X * dual), 0.0, atol=1e-6 * scale)


@pytest.mark.parametrize("seed", range(4))
def test_against_a_search_over_factors(seed):
    blocks, x0, g, H = _problem(seed, [2, 1])

    def point(v):
        L = np.array([[v[0], 0.0], [v[1], v[2]]])
        S = L @ L.T
        return np.r_[S[0, 0], S[1, 0], S[1, 1], v[3] ** 2]

    def objective(v):
        d = point(v) - x0
        return g @ d + 0.5 * d @ H @ d

    starts = np.random.default_rng(seed).normal(size=(8, 4))
    best = min(so.minimize(objective, s, method="BFGS", options={"gtol": 1e-10}).fun for s in starts)
    d = minimise_over_cone(x0, g, H, blocks) - x0
    np.testing.assert_allclose(g @ d + 0.5 * d @ H @ d, best, rtol=1e-7, atol=1e-7)


def test_inactive_directions_are_exact_zeros():
    blocks = [ConeBlock(0, 1, [(0, 0)]), ConeBlock(1, 1, [(0, 0)])]
    x = minimise_over_cone(np.array([0.2, 0.5]), np.array([1.0, -0.1]), np.eye(2), blocks)
    assert x[0] == 0.0
    np.testing.assert_allclose(x[1], 0.6, rtol=1e-9)


def test_an_unconstrained_minimum_is_found_unchanged():
    blocks, _, _, H = _problem(3, [3])
    target = np.eye(3)[blocks[0].rows, blocks[0].cols]
    x0 = target * 0.5
    x = minimise_over_cone(x0, -H @ (target - x0), H, blocks)
    np.testing.assert_allclose(x, target, rtol=1e-6, atol=1e-8)
