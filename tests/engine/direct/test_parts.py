"""The likelihood by dense parts against the dense formulas over all rows."""

from __future__ import annotations

import numpy as np
import pytest
from dense_residuals import PROBLEMS, dense_deviance, dense_r, dense_v, problem

from mme.engine.direct.parts import PartsLikelihood, by_pattern

each = pytest.mark.parametrize("name", PROBLEMS)
both = pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])


def point(name, seed=3, singular=False):
    """An interior point, or one with D = 0 and no correlation."""
    design, structure = problem(name)
    rng = np.random.default_rng(seed)
    xi = structure.starts()[0] + (0.0 if singular else 0.3) * rng.normal(size=structure.size)
    lams = [np.zeros((t.k, t.k)) if singular else np.tril(rng.normal(size=(t.k, t.k))) for t in design.terms]
    return design, structure, lams, structure.natural(xi)


def entries_of(parts, Ds):
    return np.array([Ds[t][a, b] for t, a, b in parts.entries])


def matrices_of(parts, design, entries):
    Ds = [np.zeros((t.k, t.k)) for t in design.terms]
    for value, (t, a, b) in zip(entries, parts.entries, strict=True):
        Ds[t][a, b] = Ds[t][b, a] = value
    return Ds


def differences(function, x, step=1e-4):
    """Central differences of fourth order, of a vector or a number."""
    out = []
    for j in range(x.size):
        total = 0.0
        for w, k in ((8.0, 1), (-8.0, -1), (-1.0, 2), (1.0, -2)):
            moved = x.copy()
            moved[j] += k * step
            total = total + w * np.asarray(function(moved))
        out.append(total / (12.0 * step))
    return np.array(out)


@each
@both
@pytest.mark.parametrize("singular", [False, True], ids=["interior", "boundary"])
def test_deviance(name, reml, singular):
    design, structure, lams, phi = point(name, singular=singular)
    got = PartsLikelihood(design, structure, reml).evaluate(lams, phi).deviance
    assert got == pytest.approx(
        dense_deviance(design, structure, [lam @ lam.T for lam in lams], phi, reml), rel=1e-12, abs=1e-8
    )


@each
@both
@pytest.mark.parametrize("singular", [False, True], ids=["interior", "boundary"])
def test_gradient(name, reml, singular):
    """In phi and in the entries of D; at D = 0 V stays positive definite for negative entries too."""
    design, structure, lams, phi = point(name, singular=singular)
    parts = PartsLikelihood(design, structure, reml)
    Ds = [lam @ lam.T for lam in lams]
    value = parts.evaluate(lams, phi)

    def deviance(x):
        m = len(parts.entries)
        return dense_deviance(design, structure, matrices_of(parts, design, x[:m]), x[m:], reml)

    want = differences(deviance, np.r_[entries_of(parts, Ds), phi])
    np.testing.assert_allclose(np.r_[value.slope_D, value.slope], want, rtol=1e-6, atol=1e-6)


@each
@both
def test_hessian(name, reml):
    """Of the deviance with sigma2 a parameter, against differences of dense derivatives."""
    design, structure, lams, phi = point(name)
    parts = PartsLikelihood(design, structure, reml)
    Ds = [lam @ lam.T for lam in lams]
    sums = parts.second(lams, phi)
    m = len(parts.entries)
    X, y = design.X, design.y - design.offset

    def gradient(x):
        V = dense_v(design, structure, matrices_of(parts, design, x[:m]), x[m:-1])
        Vi = np.linalg.inv(V)
        G = np.linalg.inv(X.T @ Vi @ X)
        P = Vi - Vi @ X @ G @ X.T @ Vi
        e, s = P @ y, x[-1]
        M = P if reml else Vi
        slopes = differences(
            lambda z: dense_v(design, structure, matrices_of(parts, design, z[:m]), z[m:]), x[:-1], 1e-3
        )
        out = [np.sum(M * dV) - e @ dV @ e / s for dV in slopes]
        return np.array([*out, parts.nu / s - y @ P @ y / s**2])

    x = np.r_[entries_of(parts, Ds), phi, sums.sigma2]
    want = differences(gradient, x)
    scale = np.sqrt(np.outer(np.abs(np.diag(want)), np.abs(np.diag(want)))) + 1e-3
    np.testing.assert_allclose(sums.hessian(parts.nu) / scale, want / scale, atol=2e-6)


@each
@both
def test_information_and_small_sample_sums(name, reml):
    design, structure, lams, phi = point(name)
    parts = PartsLikelihood(design, structure, reml)
    Ds = [lam @ lam.T for lam in lams]
    sums = parts.second(lams, phi)
    m, K = len(parts.entries), structure.size
    x = np.r_[entries_of(parts, Ds), phi]
    V = dense_v(design, structure, Ds, phi)
    Vi = np.linalg.inv(V)

    def matrix(z):
        return dense_v(design, structure, matrices_of(parts, design, z[:m]), z[m:])

    slopes = differences(matrix, x, 1e-3)
    A = Vi @ design.X
    P = Vi - A @ np.linalg.solve(design.X.T @ A, A.T)
    M = P if reml else Vi
    traces = np.array([[np.trace(M @ a @ M @ b) for b in slopes] for a in slopes])
    np.testing.assert_allclose(sums.traces, traces, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(sums.single, [np.trace(M @ a) for a in slopes], rtol=1e-7, atol=1e-7)
    # back to the columns of X: R^-T Q' = (X'V^-1 X)^-1/2 X' up to a rotation, which T and R undo
    back = np.linalg.solve(sums.root.T, sums.T.T)
    phi_x = back.T @ back
    np.testing.assert_allclose(phi_x, np.linalg.inv(design.X.T @ A), rtol=1e-8)
    for i in range(m + K):
        want = phi_x @ (A.T @ slopes[i] @ A) @ phi_x
        np.testing.assert_allclose(back.T @ sums.half[i] @ back, want, rtol=1e-6, atol=1e-7)
        for j in range(m + K):
            want = phi_x @ (A.T @ slopes[i] @ Vi @ slopes[j] @ A) @ phi_x
            np.testing.assert_allclose(back.T @ sums.inner[i, j] @ back, want, rtol=1e-6, atol=1e-7)
    second = differences(lambda z: differences(lambda w: dense_r(structure, w), z, 1e-3), phi, 1e-3)
    for i in range(K):
        for j in range(K):
            want = phi_x @ (A.T @ second[i, j] @ A) @ phi_x
            got = back.T @ sums.bent[m + i, m + j] @ back
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_parts_are_the_subjects_where_everything_is_nested():
    design, structure = problem("ar1 slope")
    parts = PartsLikelihood(design, structure, True)
    assert sorted(m for rows in parts.parts for m in [rows.shape[1]] * rows.shape[0]) == sorted(
        np.bincount(design.terms[0].codes)
    )
    design, structure = problem("ar1 crossed")
    assert PartsLikelihood(design, structure, True).largest == design.n


@pytest.mark.parametrize("name", ["ar1", "us", "varident cs weights", "varident ar1"])
def test_roots(name):
    """colour and whiten are those of R, whiten with factors of V."""
    design, structure, lams, phi = point(name)
    parts = PartsLikelihood(design, structure, True)
    L = parts.colour(np.eye(design.n), phi)
    np.testing.assert_allclose(L @ L.T, dense_r(structure, phi), atol=1e-12)
    np.testing.assert_allclose(parts.whiten(L, phi), np.eye(design.n), atol=1e-10)
    W = parts.whiten(np.eye(design.n), phi, lams)
    V = dense_v(design, structure, [lam @ lam.T for lam in lams], phi)
    np.testing.assert_allclose(W @ V @ W.T, np.eye(design.n), atol=1e-10)


def test_parts_of_one_pattern_are_met_once():
    """Balanced subjects, alike in all that V is made of: one block serves; strata make more."""
    design, structure = problem("ar1")
    codes = np.repeat(np.arange(6), 3)
    rows = np.arange(18).reshape(6, 3)
    time = np.tile([0.0, 1.0, 2.0], 6)
    stratum = (codes > 3).astype(float)
    _, one = by_pattern(rows, time[:, None], [codes])
    _, two = by_pattern(rows, np.column_stack([time, stratum]), [codes])
    _, none = by_pattern(rows, np.arange(18.0)[:, None], [codes])
    assert one.tolist() == [0] * 6
    assert two.tolist() == [0] * 4 + [1] * 2
    assert none.tolist() == list(range(6))
    parts = PartsLikelihood(design, structure, True)
    met = np.concatenate([batch.rows.ravel() for batch in parts._alike()])
    assert sorted(met) == list(range(design.n))


def test_patterns_without_features():
    ordered, pattern = by_pattern(np.arange(8).reshape(4, 2), np.zeros((8, 0)), ())
    assert pattern.tolist() == [0] * 4
    assert sorted(ordered.ravel().tolist()) == list(range(8))
