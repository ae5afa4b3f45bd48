"""Structures of residuals against their definitions, and their derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from dense_residuals import PROBLEMS, dense_r, problem

from mme.engine.covariance.correlations import AutoRegressive, Toeplitz, Unstructured

each = pytest.mark.parametrize("name", PROBLEMS)


@each
def test_blocks_are_the_definition(name):
    _, structure = problem(name)
    rng = np.random.default_rng(1)
    xi = 0.4 * rng.normal(size=structure.size)
    phi = structure.natural(xi)
    rows = np.arange(structure.n)[None]
    R = structure.at(phi).block(rows)[0]
    np.testing.assert_allclose(R, dense_r(structure, phi), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(structure.at(phi).variance, np.diag(R), rtol=1e-13)
    assert np.linalg.eigvalsh(R)[0] > 0.0


@each
def test_slopes(name):
    """Imaginary steps have no cancellation."""
    _, structure = problem(name)
    phi = structure.natural(0.4 * np.random.default_rng(1).normal(size=structure.size))
    rows = np.arange(structure.n)[None]
    for j, got in enumerate(structure.at(phi).slopes(rows)):
        moved = phi.astype(complex)
        moved[j] += 1e-30j
        np.testing.assert_allclose(got[0], dense_r(structure, moved).imag / 1e-30, rtol=1e-12, atol=1e-13)


@each
def test_jacobian(name):
    _, structure = problem(name)
    xi = 0.4 * np.random.default_rng(2).normal(size=structure.size)
    J = structure.jacobian(xi)
    for j in range(xi.size):
        step = np.zeros(xi.size)
        step[j] = 1e-5
        want = (structure.natural(xi + step) - structure.natural(xi - step)) / 2e-5
        np.testing.assert_allclose(J[:, j], want, rtol=1e-7, atol=1e-9)


def test_toeplitz_matrices_are_positive_definite_wherever_xi_is():
    part = Toeplitz(np.arange(6), 5)
    for seed in range(20):
        r = np.r_[1.0, part.natural(np.random.default_rng(seed).normal(scale=2.0, size=5))]
        T = r[np.abs(np.subtract.outer(np.arange(6), np.arange(6)))]
        assert np.linalg.eigvalsh(T)[0] > 0.0


def test_partial_autocorrelations_of_ar1():
    """rho, 0, 0: correlations rho^lag."""
    r = Toeplitz(np.arange(4), 3).natural(np.r_[np.arctanh(0.6), 0.0, 0.0])
    np.testing.assert_allclose(r, [0.6, 0.36, 0.216], rtol=1e-14)


def test_unstructured_is_a_cholesky_factor():
    part = Unstructured(np.arange(3), ("a", "b", "c"))
    S = part.matrix(part.natural(np.array([0.5, np.log(2.0), -0.3, 0.2, np.log(0.5)])))
    L = np.array([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [-0.3, 0.2, 0.5]])
    np.testing.assert_allclose(S, L @ L.T, rtol=1e-14)
    assert part.names[0] == "cov[a,b]/var[a]" and part.names[1] == "var[b]/var[a]"


def test_zero_correlation_has_finite_derivatives():
    part = AutoRegressive(np.array([0.0, 1.0, 2.0, 3.0]))
    rows = np.arange(4)[None]
    (first,) = part.slopes(np.zeros(1), rows)
    ((_, _, second),) = part.curves(np.zeros(1), rows)
    np.testing.assert_array_equal(first[0], np.eye(4, k=1) + np.eye(4, k=-1))
    np.testing.assert_array_equal(second[0], 2.0 * (np.eye(4, k=2) + np.eye(4, k=-2)))
