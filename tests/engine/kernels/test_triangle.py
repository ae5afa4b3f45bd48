"""Small triangular factors, compiled and as Python, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from mme.engine.kernels.triangle import inverse_cholesky, triangular_factor


@pytest.fixture(params=["compiled", "python"])
def as_(request):
    return (lambda kernel: kernel) if request.param == "compiled" else (lambda kernel: kernel.py_func)


@pytest.mark.parametrize("units", [1.0, 1e-150, 1e150], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 2, 4])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_triangular_factor(as_, k, rank, units):
    root = np.random.default_rng(10 * k + rank).normal(size=(k, max(rank, 1))) * (rank > 0) * units
    wide = np.zeros((k, max(k, root.shape[1])))
    wide[:, : root.shape[1]] = root
    lam = np.full((k, k), np.nan)
    as_(triangular_factor)(wide, lam)
    assert np.array_equal(lam, np.tril(lam))
    assert np.all(np.diag(lam) >= 0.0)
    scaled, expected = lam / units, (root / units) @ (root / units).T
    np.testing.assert_allclose(scaled @ scaled.T, expected, rtol=1e-13, atol=1e-14)
    if rank == 1:
        assert not np.any(lam[:, 1:])  # exact rank deficiency


def test_triangular_factor_of_a_triangle_is_itself(as_):
    root = np.array([[2.0, 0.0, 0.0], [1.0, 3.0, 0.0], [-1.0, 0.5, 0.25]])
    lam = np.empty((3, 3))
    as_(triangular_factor)(root, lam)
    np.testing.assert_array_equal(lam, root)
    as_(triangular_factor)(-root, lam)
    np.testing.assert_array_equal(lam, root)


@pytest.mark.parametrize("p", [1, 2, 5, 16])
def test_inverse_cholesky(as_, p):
    M = np.random.default_rng(p).normal(size=(p + 1, p + 3))
    C, Ri = M @ M.T, np.full((p, p), np.nan)
    logdet = as_(inverse_cholesky)(C, Ri)
    R = np.linalg.cholesky(C[:p, :p])
    np.testing.assert_allclose(Ri, np.linalg.inv(R), rtol=1e-10, atol=1e-12)
    assert np.array_equal(Ri, np.tril(Ri))
    assert logdet == pytest.approx(np.linalg.slogdet(C[:p, :p])[1], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("C", [np.zeros((2, 2)), np.diag([1.0, -1.0]), np.full((2, 2), np.nan)])
def test_inverse_cholesky_of_what_is_not_positive(as_, C):
    assert np.isnan(as_(inverse_cholesky)(np.pad(C, (0, 1)), np.empty((2, 2))))
