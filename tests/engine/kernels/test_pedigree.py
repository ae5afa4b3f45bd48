"""Kernels of pedigrees and sparse triangles, compiled and as Python."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from mme.engine.kernels import pedigree

SIRE = np.array([-1, -1, -1, 0, 2, 0, 3, 2])
DAM = np.array([-1, -1, -1, -1, 1, 1, 4, 5])


@pytest.fixture(params=["compiled", "python"])
def call(request):
    return (lambda f: f) if request.param == "compiled" else (lambda f: f.py_func)


def _triangle(n=12, seed=0):
    rng = np.random.default_rng(seed)
    L = np.tril(rng.normal(size=(n, n)) * (rng.random((n, n)) < 0.3), -1) + np.diag(rng.uniform(1, 2, n))
    A = sp.csc_array(L)
    return L, (A.indptr.astype(np.int64), A.indices.astype(np.int32), A.data)


def test_triangular_solves(call):
    L, parts = _triangle()
    B = np.random.default_rng(1).normal(size=(12, 3))
    down, up = B.copy(), B.copy()
    call(pedigree.solve_lower)(*parts, down)
    call(pedigree.solve_upper)(*parts, up)
    np.testing.assert_allclose(down, np.linalg.solve(L, B), atol=1e-12)
    np.testing.assert_allclose(up, np.linalg.solve(L.T, B), atol=1e-12)


def test_entries_are_found(call):
    L, (ptr, idx, val) = _triangle(seed=2)
    rows, columns = (x.ravel().astype(np.int64) for x in np.indices(L.shape))
    at = np.empty(rows.size, np.int64)
    call(pedigree.find_entries)(ptr, idx, rows, columns, at)
    np.testing.assert_array_equal(at >= 0, L[rows, columns] != 0)
    np.testing.assert_array_equal(val[at[at >= 0]], L[rows, columns][at >= 0])


def test_inbreeding_and_order(call):
    # the last two pairs of parents are half sibs, and a sire with his granddaughter's line
    F = call(pedigree.inbreeding)(SIRE, DAM)
    np.testing.assert_allclose(F, [0, 0, 0, 0, 0, 0, 0, 0])
    sire = np.array([-1, -1, 0, 0, 2, 4])
    dam = np.array([-1, -1, 1, -1, 3, 3])
    np.testing.assert_allclose(call(pedigree.inbreeding)(sire, dam), [0, 0, 0, 0, 0.125, 0.3125])
    shuffle = np.array([5, 3, 0, 4, 1, 2])
    back = np.empty(6, np.int64)
    back[shuffle] = np.arange(6)
    s, d = (np.where(p[shuffle] >= 0, back[p[shuffle]], -1) for p in (sire, dam))
    order = call(pedigree.order_by_parents)(s, d)
    place = np.empty(6, np.int64)
    place[order] = np.arange(6)
    assert sorted(order) == list(range(6))
    assert all(place[p[i]] < place[i] for p in (s, d) for i in range(6) if p[i] >= 0)
    np.testing.assert_array_equal(call(pedigree.order_by_parents)(sire, dam), np.arange(6))
    loop = call(pedigree.order_by_parents)(np.array([1, 0, -1]), np.array([-1, -1, -1]))
    assert loop.tolist() == [2, -1, -1]
