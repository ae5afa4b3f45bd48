"""theta <-> lam <-> D, singular matrices included."""

from __future__ import annotations

import numpy as np
import pytest

from mme.engine.covariance.factors import entries, factor_psd, lam_to_theta, n_theta, theta_to_lam, triangular


@pytest.mark.parametrize("kind", ["full", "diagonal"])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_theta_and_back(k, kind):
    theta = np.random.default_rng(k).normal(size=n_theta(k, kind))
    lam = theta_to_lam(theta, k, kind)
    assert np.array_equal(lam, np.tril(lam))
    np.testing.assert_array_equal(lam_to_theta(lam, kind), theta)


def test_entries_are_column_by_column():
    assert entries(3) == [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (2, 2)]
    assert entries(3, "diagonal") == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (1e-6, 1.0, 1e6)])
def test_factor_of_a_singular_matrix(rank, scales):
    root = np.random.default_rng(rank).normal(size=(3, rank)) * np.array(scales)[:, None]
    D = root @ root.T
    lam = factor_psd(D)
    assert np.array_equal(lam, np.tril(lam)) and np.all(np.diag(lam) >= 0)
    np.testing.assert_allclose(lam @ lam.T, D, rtol=1e-10, atol=1e-12 * np.outer(scales, scales).max())


def test_triangular_keeps_the_product_and_the_rank():
    root = np.array([[1.0, 2.0], [2.0, 4.0]])
    lam = triangular(root)
    np.testing.assert_allclose(lam @ lam.T, root @ root.T, rtol=1e-12)
    assert lam[0, 1] == 0.0 and lam[1, 1] == 0.0
