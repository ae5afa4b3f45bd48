"""Relationships that are given, or made of markers and neighbours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import mme
from mme.exceptions import DataError, DesignError, OptionError


def _kernel(q=6, seed=0):
    M = np.random.default_rng(seed).normal(size=(q, 2 * q))
    return M @ M.T / (2 * q)


def test_covariance_and_precision_are_the_same_relationship():
    K, labels = _kernel(), list("abcdef")
    dense, sparse = mme.Covariance(K, labels), mme.Precision(sp.csr_array(np.linalg.inv(K)), labels)
    for known in (dense, sparse):
        np.testing.assert_allclose(known.covariance(), K, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(known.precision.toarray(), np.linalg.inv(K), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(known.variances, np.diag(K), rtol=1e-9)
        np.testing.assert_allclose(known.relation.logdet, -np.linalg.slogdet(K)[1], rtol=1e-10)
    frame = mme.Covariance(pd.DataFrame(K, labels, labels))
    assert frame.labels.tolist() == labels


def test_what_is_refused_of_matrices():
    K, labels = _kernel(), list("abcdef")
    with pytest.raises(DataError, match="more than once: 'a'"):
        mme.Covariance(K, list("aacdef"))
    with pytest.raises(DataError, match="order 6 and has 5 labels"):
        mme.Covariance(K, labels[:5])
    with pytest.raises(DataError, match="needs labels"):
        mme.Covariance(K)
    crooked = K.copy()
    crooked[0, 1] += 0.5
    with pytest.raises(DataError, match=r"covariance matrix K is not symmetric: .* by up to 0\.5"):
        mme.Covariance(crooked, labels)
    with pytest.raises(DataError, match=r"precision matrix Q is not symmetric: .* by up to 0\.5"):
        mme.Precision(sp.csr_array(crooked), labels)
    M = np.random.default_rng(1).normal(size=(6, 3))
    with pytest.raises(DataError, match=r"not positive definite: 3 of 6 eigenvalues .* ridge=0\.00"):
        mme.Covariance(M @ M.T, labels)
    np.testing.assert_allclose(
        mme.Covariance(M @ M.T, labels, ridge=0.01).covariance(), M @ M.T + 0.01 * np.eye(6), atol=1e-10
    )
    with pytest.raises(DataError, match=r"smallest is -0\.3"):
        mme.Covariance(np.diag([1.0, 1, 1, 1, 1, -0.3]), labels)
    with pytest.raises(OptionError, match="ridge"):
        mme.Covariance(K, labels, ridge=-1)
    walk = np.diff(np.eye(6), axis=0)
    with pytest.raises(DesignError, match=r"not positive definite.*intrinsic"):
        mme.Precision(sp.csr_array(walk.T @ walk), labels)


def test_genomic_relationship_of_vanraden():
    M = np.random.default_rng(2).integers(0, 3, size=(5, 40)).astype(float)
    G = mme.kinship(pd.DataFrame(M, index=list("abcde")))
    p = M.mean(axis=0) / 2
    expected = (M - 2 * p) @ (M - 2 * p).T / (2 * np.sum(p * (1 - p)))
    np.testing.assert_allclose(G, expected, atol=1e-12)
    np.testing.assert_allclose(G.sum(), 0.0, atol=1e-10)
    given = mme.kinship(M, list("abcde"), frequencies=np.full(40, 0.5))
    np.testing.assert_allclose(given, (M - 1) @ (M - 1).T / 20, atol=1e-12)
    holes = M.copy()
    holes[0, 0] = np.nan
    assert np.isfinite(mme.kinship(holes).to_numpy()).all()
    with pytest.raises(DataError, match="Add 1 to those coded"):
        mme.kinship(M - 1)
    with pytest.raises(DataError, match="no marker varies"):
        mme.kinship(np.zeros((3, 4)))


def test_single_step_is_the_relationship_of_those_with_and_without_markers():
    sire = np.array([0, 0, 0, 0, 1, 1, 3, 3, 5, 5])
    dam = np.array([0, 0, 0, 0, 2, 2, 4, 4, 6, 8])
    pedigree = mme.Pedigree(np.arange(1, 11), sire, dam)
    A = pedigree.covariance().to_numpy()
    with_markers = [5, 8, 9, 10]
    G = pd.DataFrame(_kernel(4, 7) + np.eye(4), with_markers, with_markers)
    H = mme.single_step(pedigree, G, blend=0.1).covariance()
    two = pedigree.labels.get_indexer(with_markers)
    one = np.setdiff1d(np.arange(10), two)
    A22 = A[np.ix_(two, two)]
    Gw = 0.9 * G.to_numpy() + 0.1 * A22
    B = A[np.ix_(one, two)] @ np.linalg.inv(A22)
    H = H.to_numpy()
    np.testing.assert_allclose(H[np.ix_(two, two)], Gw, atol=1e-10)
    np.testing.assert_allclose(H[np.ix_(one, two)], B @ Gw, atol=1e-10)
    np.testing.assert_allclose(H[np.ix_(one, one)], A[np.ix_(one, one)] + B @ (Gw - A22) @ B.T, atol=1e-10)
    with pytest.raises(DataError, match="not in the pedigree: 77"):
        mme.single_step(pedigree, pd.DataFrame(np.eye(1), [77], [77]))


def test_fields():
    walk = mme.rw1([10, 20, 30, 40]).precision.toarray()
    np.testing.assert_allclose(walk, [[2, -1, 0, 0], [-1, 2, -1, 0], [0, -1, 2, -1], [0, 0, -1, 1]])
    second = mme.rw2(range(5)).precision.toarray()
    D = np.diff(np.eye(5), n=2, axis=0)
    np.testing.assert_allclose(second, D.T @ D + np.diag([1, 1, 0, 0, 0]))
    areas = mme.icar({"a": ["b", "c"], "b": ["a", "c"], "c": ["a", "b"], "d": []})
    np.testing.assert_allclose(
        areas.precision.toarray(), [[3, -1, -1, 0], [-1, 2, -1, 0], [-1, -1, 2, 0], [0, 0, 0, 1]]
    )
    grid = mme.ar1_grid([1, 2, 3], [1, 2], (0.6, -0.3)).covariance()
    rows, columns = 0.6 ** np.abs(np.subtract.outer(range(3), range(3))), np.array([[1, -0.3], [-0.3, 1]])
    np.testing.assert_allclose(grid, np.kron(rows, columns), atol=1e-12)
    assert grid.index.tolist()[:3] == ["1:1", "1:2", "2:1"]
    with pytest.raises(DataError, match=r"not mutual: 'a' and 'b'|not mutual: 'b' and 'a'"):
        mme.icar({"a": ["b"], "b": []})
    with pytest.raises(DataError, match="no areas themselves: 'z'"):
        mme.icar({"a": ["z"]})
