"""The fixed part in orthonormal coordinates: exactness where columns or the response are ill conditioned."""

from __future__ import annotations

import numpy as np
import pytest

from mme.engine.equations.fixed import FEW, gram_schmidt, orthonormalise

N = 400


def covariates(p: int) -> np.ndarray:
    rng = np.random.default_rng(p)
    return np.column_stack([np.ones(N), rng.normal(size=(N, p - 1))])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("p", [1, 3, FEW, FEW + 1, 20])
def test_against_least_squares(p, weighted):
    X, rng = covariates(p), np.random.default_rng(1)
    y = X @ rng.normal(size=p) + rng.normal(size=N)
    root = rng.uniform(0.5, 2.0, N) if weighted else None
    W = 1.0 if root is None else root
    xy, cross, part, yy = orthonormalise(X, y, root)
    wX, wy = X * np.reshape(W, (-1, 1)), y * W
    beta = np.linalg.lstsq(wX, wy, rcond=None)[0]
    np.testing.assert_allclose(part.T @ part.b0, beta, rtol=1e-10)
    np.testing.assert_allclose(xy[:, p], wy - wX @ beta, atol=1e-11)
    np.testing.assert_allclose(xy[:, :p].T @ xy[:, :p], np.eye(p), atol=1e-13)
    np.testing.assert_allclose(cross, xy.T @ xy, atol=1e-12 * N)
    assert part.logdet == pytest.approx(np.linalg.slogdet(wX.T @ wX)[1], rel=1e-12)
    assert yy == pytest.approx(wy @ wy, rel=1e-14)
    assert part.kept.all()


@pytest.mark.parametrize("p", [1, 3, FEW + 1])
@pytest.mark.parametrize("mean", [1e8, 1e11, 1e13])
def test_the_residual_is_orthogonal_however_large_the_mean(p, mean):
    """One pass leaves eps x mean of the columns in the residual; a second takes it out."""
    X, rng = covariates(p), np.random.default_rng(2)
    noise = np.round(rng.normal(size=N), 2)
    y = mean + noise  # rounded to the spacing of doubles there
    xy, cross, part, _ = orthonormalise(X, y, None)
    left = np.abs(xy[:, :p].T @ xy[:, p]) / np.linalg.norm(xy[:, p])
    assert left.max() < 1e-7
    np.testing.assert_allclose(cross[:p, p], xy[:, :p].T @ xy[:, p], atol=1e-10 * N)
    # what was taken out is what the coefficients say, to the rounding of y itself
    centred = y - mean
    expected = centred - X @ np.linalg.lstsq(X, centred, rcond=None)[0]
    np.testing.assert_allclose(xy[:, p], expected, atol=2e-15 * mean + 1e-12)
    fitted = X @ (part.T @ part.b0)
    np.testing.assert_allclose(y - fitted, xy[:, p], atol=4e-15 * mean)


def test_nearly_dependent_columns_stay_orthonormal():
    """The last column differs from the first by 1e-6: the angle is resolved, the basis exact."""
    rng = np.random.default_rng(3)
    base = covariates(3)
    X = np.column_stack([base, base[:, 1] + 1e-6 * rng.normal(size=N)])
    scale = np.linalg.norm(X, axis=0)
    Q, T, kept = gram_schmidt(X, scale, scale > 0)
    assert kept.all()
    np.testing.assert_allclose(Q.T @ Q, np.eye(4), atol=1e-14)
    np.testing.assert_allclose(X @ T, Q, atol=1e-9)
    xy, _, part, _ = orthonormalise(X, rng.normal(size=N), None)
    np.testing.assert_allclose(xy[:, :4].T @ xy[:, :4], np.eye(4), atol=1e-13)
    assert part.logdet == pytest.approx(2.0 * np.log(np.abs(np.linalg.qr(X)[1].diagonal())).sum(), abs=1e-6)


def test_dependent_and_zero_columns_are_left_out():
    base, rng = covariates(3), np.random.default_rng(4)
    X = np.column_stack([base, base @ [1.0, 2.0, 3.0], np.zeros(N), rng.normal(size=N)])
    y = rng.normal(size=N)
    xy, _, part, _ = orthonormalise(X, y, None)
    np.testing.assert_array_equal(part.kept, [True, True, True, False, False, True])
    rest = X[:, part.kept]
    np.testing.assert_allclose(xy[:, -1], y - rest @ np.linalg.lstsq(rest, y, rcond=None)[0], atol=1e-12)
