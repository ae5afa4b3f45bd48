"""Structures with fewer parameters than D has entries: formulas, derivatives, bounds, names."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from mme.engine.covariance.structure import FULL, PATTERNS, structure_of

NAMES = (*PATTERNS, "rr(1)", "rr(2)")
K = 4


def _inside(structure, rng):
    draws = {"sd": (0.5, 2.0), "cor": (-0.3, 0.8), "loading": (-1.0, 1.0)}
    return np.array([rng.uniform(*draws[kind]) for kind in structure.kinds(K)])


def _expected(name, x):
    lag = np.abs(np.subtract.outer(np.arange(K), np.arange(K)))
    s = x[:K] if name in ("cs", "hetar1") else np.full(K, x[0])
    r = x[-1]
    C = {
        "cs": np.where(lag == 0, 1.0, r),
        "homcs": np.where(lag == 0, 1.0, r),
        "ar1": r**lag,
        "hetar1": r**lag,
        "homdiag": np.eye(K),
    }[name]
    return s[:, None] * C * s


@pytest.mark.parametrize("name", ["cs", "homcs", "ar1", "hetar1", "homdiag"])
def test_covariances_are_those_of_the_definition(name):
    structure = structure_of(name)
    x = _inside(structure, np.random.default_rng(1))
    np.testing.assert_allclose(structure.covariance(x, K).value, _expected(name, x), rtol=1e-14)


def test_toeplitz_by_partial_autocorrelations():
    # of an autoregression of first order all partial autocorrelations but the first are zero
    toeplitz, ar1 = structure_of("homtoep"), structure_of("ar1")
    np.testing.assert_allclose(
        toeplitz.covariance(np.array([1.5, 0.6, 0.0, 0.0]), K).value,
        ar1.covariance(np.array([1.5, 0.6]), K).value,
        rtol=1e-14,
    )
    # rho_2 = pi_2 (1 - pi_1^2) + pi_1^2
    C = toeplitz.covariance(np.array([1.0, 0.5, -0.4, 0.2]), K).value
    np.testing.assert_allclose(C[2, 0], -0.4 * 0.75 + 0.25, rtol=1e-14)
    np.testing.assert_allclose(np.diag(C, 1), 0.5)


def test_reduced_rank_is_lower_trapezoidal():
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    L = np.array([[1.0, 0.0], [2.0, 5.0], [3.0, 6.0], [4.0, 7.0]])
    np.testing.assert_allclose(structure_of("rr(2)").covariance(x, K).value, L @ L.T)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["inside", "zero", "low", "high"])
def test_derivatives_are_those_of_differences(name, where):
    structure = structure_of(name)
    x = _inside(structure, np.random.default_rng(2))
    low, high = structure.bounds(K)
    kinds = np.array(structure.kinds(K))
    if where == "zero":
        x[kinds != "cor"] = 0.0
    elif where == "low":
        x[kinds == "cor"] = low[kinds == "cor"]
    elif where == "high":
        x[kinds == "cor"] = high[kinds == "cor"]
    jet, h = structure.covariance(x, K), 1e-5
    for i, e in enumerate(np.eye(x.size)):
        up, down = structure.covariance(x + h * e, K), structure.covariance(x - h * e, K)
        np.testing.assert_allclose(jet.first[i], (up.value - down.value) / (2.0 * h), atol=3e-9)
        np.testing.assert_allclose(jet.second[i], (up.first - down.first) / (2.0 * h), atol=3e-9)
    np.testing.assert_allclose(jet.second, jet.second.transpose(1, 0, 2, 3), atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_within_its_bounds_is_a_covariance(name):
    structure, rng = structure_of(name), np.random.default_rng(3)
    low, high = structure.bounds(K)
    for _ in range(50):
        x = np.clip(rng.uniform(-1.3, 1.3, size=low.size), low, high)
        D = structure.covariance(x, K).value
        assert np.linalg.eigvalsh(D)[0] > -1e-14
        np.testing.assert_allclose(structure.covariance(structure.coordinates(D), K).value, D, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_names_and_sizes(name):
    structure = structure_of(name)
    assert pickle.loads(pickle.dumps(structure)) is structure
    assert structure.n_parameters(K) == len(structure.kinds(K))
    assert structure.entries(K) == FULL.entries(K)
    if structure.tied:
        assert len(structure.shown(K)) == structure.n_parameters(K)
    else:
        assert structure.shown(K) == FULL.entries(K)


def test_lowest_correlations():
    assert structure_of("cs").lowest(K) == -1.0 / 3.0
    assert structure_of("ar1").lowest(K) == -1.0


def test_unknown_names():
    for name in ("rr(0)", "rr", "ar2", ""):
        with pytest.raises(ValueError, match=r"'cs', 'homcs', 'ar1', .* or 'rr\(d\)'"):
            structure_of(name)
