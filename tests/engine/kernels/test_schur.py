"""Elimination of the leading term: every kernel of `schur` against dense formulas over the rows."""

from __future__ import annotations

import numpy as np
import pytest

from mme.engine.kernels import schur, traces

from .small import LAMBDAS, WIDTHS, calls, small

lead_and_rest = [pytest.param(k1, widths, id=f"{k1}-{widths}") for k1 in (0, 1, 2, 3) for widths in WIDTHS]


# -- level by level ------------------------------------------------------------------------------------------


@calls
@pytest.mark.parametrize("kind", LAMBDAS)
@pytest.mark.parametrize("k1", [1, 2, 3, 4])
def test_level_factors(k1, kind, call):
    """W, F and half by their definitions; half as the Cholesky factor gives it, not any root of W."""
    d = small(k1, (1,))
    lam, D = d.lead_factor(kind)
    W, F, half = (np.full(d.A.shape, np.nan) for _ in range(3))
    logdet = sum(call.run(schur.level_factors, d.q1, d.A, lam, D, W, F, half))
    M = lam.T @ d.A @ lam + np.eye(k1)
    expected_W, expected_F = d.eliminated(lam)
    np.testing.assert_allclose(logdet, np.linalg.slogdet(M)[1].sum(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(W, expected_W, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(F, expected_F, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(half, np.linalg.solve(np.linalg.cholesky(M), lam.T), rtol=1e-10, atol=1e-13)


@calls
@pytest.mark.parametrize("k1", [1, 2, 3])
def test_level_factors_of_many_large_levels(k1, call):
    """One logarithm serves many levels, and their product stays a number."""
    A = np.tile(1e9 * np.eye(k1), (200, 1, 1))
    lam = 1e8 * np.eye(k1)
    out = [np.empty_like(A) for _ in range(3)]
    logdet = sum(call.run(schur.level_factors, 200, A, lam, lam @ lam.T, *out))
    np.testing.assert_allclose(logdet, 200 * k1 * np.log(1e25), rtol=1e-13)
    np.testing.assert_allclose(out[0], np.tile(1e-9 * np.eye(k1), (200, 1, 1)), rtol=1e-13)


@pytest.mark.parametrize("plain", [False, True], ids=["compiled", "python"])
@pytest.mark.parametrize("k1", [2, 3])
def test_level_factors_of_what_is_not_positive(k1, plain):
    A = np.array([np.eye(k1), np.diag([-3.0, *np.ones(k1 - 1)])])
    out = [np.empty_like(A) for _ in range(3)]
    kernel = schur.level_factors.py_func if plain else schur.level_factors
    assert np.isnan(kernel(0, 2, A, np.eye(k1), np.eye(k1), *out))
    assert kernel(0, 1, A, np.eye(k1), np.eye(k1), *out) == pytest.approx(k1 * np.log(2.0), rel=1e-14)


@calls
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("k1", [1, 2, 3])
def test_level_apply(k1, m, call):
    rng = np.random.default_rng(k1)
    W, Q = rng.normal(size=(7, k1, k1)), rng.normal(size=(7, k1, m))
    out = np.full(Q.shape, np.nan)
    call.run(schur.level_apply, 7, W, Q, out)
    np.testing.assert_allclose(out, W @ Q, rtol=1e-12, atol=1e-14)


@calls
@pytest.mark.parametrize("kind", LAMBDAS)
@pytest.mark.parametrize(("k1", "p"), [(1, 0), (1, 2), (2, 1), (3, 2)])
def test_level_information(k1, p, kind, call):
    """Sums of w'F A w, of which the lower triangle, and of (F A_x)'w; each range adds to its own."""
    rng = np.random.default_rng(k1)
    d = small(k1, (1,))
    F = d.eliminated(d.lead_factor(kind)[0])[1]
    C = np.array([c + c.T for c in rng.normal(size=(k1 * (k1 + 1) // 2, k1, k1))])
    ze, FA = rng.normal(size=(d.q1, k1)), rng.normal(size=(d.q1, k1, p + 1))
    K, X = np.zeros((len(C), len(C))), np.zeros((p, len(C)))
    call.run(schur.level_information, d.q1, ze, C, d.A, F, FA, K, X)
    w = np.einsum("iab,lb->lai", C, ze)
    np.testing.assert_allclose(
        K, np.tril(np.einsum("lai,lab,lbj->ij", w, F @ d.A, w)), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(X, np.einsum("lab,lai->bi", FA[:, :, :p], w), rtol=1e-11, atol=1e-12)


# -- products with the cells ---------------------------------------------------------------------------------


@calls
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize(("k1", "widths"), lead_and_rest)
def test_cells_dot(k1, widths, m, call):
    d, rng = small(k1, widths), np.random.default_rng(1)
    M, out = rng.normal(size=(d.q2, m)), rng.normal(size=(d.q1, d.k1, m))
    expected = out - d.B @ M
    call.run(schur.cells_dot, d.q1, *d.cells, M, out)
    np.testing.assert_allclose(out, expected, rtol=1e-11, atol=1e-12)


@calls
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize(("k1", "widths"), lead_and_rest)
def test_cells_tdot(k1, widths, m, call):
    d, rng = small(k1, widths), np.random.default_rng(1)
    G, out = rng.normal(size=(d.q1, d.k1, m)), rng.normal(size=(d.q2, m))
    expected = out - np.einsum("laj,lam->jm", d.B, G)
    call.run(schur.cells_tdot, d.q2, *d.transposed, d.cells[2], G, out)
    np.testing.assert_allclose(out, expected, rtol=1e-11, atol=1e-12)


# -- the Schur complement ------------------------------------------------------------------------------------


def dense_schur(d, lam1: np.ndarray, lam2: np.ndarray, own: np.ndarray | None = None) -> np.ndarray:
    """lam2'(Z_2'V_1^-1 Z_2) lam2 + I with V_1 = I + Z_1 D Z_1' over the rows; I for some blocks alone."""
    Z = d.Z1 @ lam1
    V1 = np.eye(d.n) + np.einsum("nla,mla->nm", Z, Z)
    columns = np.ones(d.q2) if own is None else own[np.repeat(d.lblock, np.diff(d.lstart))]
    return lam2.T @ (d.Z2.T @ np.linalg.solve(V1, d.Z2)) @ lam2 + np.diag(columns)


def own_shares(d) -> np.ndarray:
    """One for the first, third, ... block; what others have in place of an identity is added elsewhere."""
    return 1.0 - np.arange(d.lblock.max(initial=0) + 1) % 2


def arguments(d) -> tuple:
    return (*d.cells, *d.transposed)


@calls
@pytest.mark.parametrize("kind", LAMBDAS)
@pytest.mark.parametrize(("k1", "widths"), lead_and_rest)
def test_schur_dense(k1, widths, kind, call):
    d = small(k1, widths)
    lam1, (padded, lam2) = d.lead_factor(kind)[0], d.rest_factors(kind)
    S = np.full((d.q2, d.q2), np.nan, order="F")  # what stood there before does not matter
    W = d.eliminated(lam1)[0]
    common = (d.lstart, d.lblock, own_shares(d), padded)
    call.run(schur.schur_dense, d.lblock.size, *common, *arguments(d), W, *d.gram, S)
    expected = dense_schur(d, lam1, lam2, own_shares(d))
    np.testing.assert_allclose(np.tril(S), np.tril(expected), rtol=1e-9, atol=1e-11)


@calls
@pytest.mark.parametrize("kind", LAMBDAS)
@pytest.mark.parametrize(("k1", "widths"), lead_and_rest)
def test_schur_sparse(k1, widths, kind, call):
    """The dense matrix on its pattern, and nothing outside of it."""
    d = small(k1, widths)
    lam1, (padded, lam2) = d.lead_factor(kind)[0], d.rest_factors(kind)
    sptr, sidx = d.pattern
    values = np.full(sidx.size, np.nan)
    W = d.eliminated(lam1)[0]
    common = (d.lstart, d.lblock, own_shares(d), d.clevel, padded, *arguments(d), W, *d.gram)
    call.run(schur.schur_sparse, d.lblock.size, *common, sptr, sidx, values)
    S = np.zeros((d.q2, d.q2))
    S[sidx, np.repeat(np.arange(d.q2), np.diff(sptr))] = values
    np.testing.assert_allclose(S, np.tril(dense_schur(d, lam1, lam2, own_shares(d))), rtol=1e-9, atol=1e-11)


@calls
@pytest.mark.parametrize(("k1", "widths"), lead_and_rest)
def test_count_and_fill_schur(k1, widths, call):
    """Levels that meet, or meet one leading level, by columns; sorted, blocks whole."""
    d = small(k1, widths)
    expected_ptr, expected_idx = d.pattern
    ptr, idx, _ = d.cells
    common = (d.lstart, ptr, idx, *d.transposed, *d.gram[:2])
    counts = np.zeros(d.q2 + 1, np.int64)
    call.run(schur.count_schur, d.lblock.size, *common, counts)
    np.testing.assert_array_equal(np.cumsum(counts), expected_ptr)
    sidx = np.full(expected_idx.size, -1, np.int32)
    call.run(schur.fill_schur, d.lblock.size, *common, expected_ptr, sidx)
    np.testing.assert_array_equal(sidx, expected_idx)


def test_the_patterns_of_these_designs_have_holes():
    """Or the sparse kernels would be seen on full matrices only."""
    for k1 in (0, 1, 2, 3):
        for widths in WIDTHS:
            d = small(k1, widths)
            assert d.pattern[1].size < 0.95 * d.q2 * (d.q2 + 1) / 2, (k1, widths)


# -- traces of the gradient ----------------------------------------------------------------------------------


def dense_traces(d, F: np.ndarray, inverse: np.ndarray, lam2: np.ndarray, shape: tuple) -> tuple:
    """sum_l F_l B_l lam2 S^-1 lam2' B_l'F_l', and sums of the diagonal blocks of S^-1 by block."""
    FB = F @ d.B
    N = np.einsum("laj,jk,lbk->ab", FB, lam2 @ inverse @ lam2.T, FB)
    T = np.zeros(shape)
    for t, b in enumerate(d.lblock):
        part = slice(d.lstart[t], d.lstart[t + 1])
        k = d.lstart[t + 1] - d.lstart[t]
        T[b, :k, :k] += inverse[part, part]
    return N, T


@calls
@pytest.mark.parametrize("kind", LAMBDAS)
@pytest.mark.parametrize(("k1", "widths"), lead_and_rest)
def test_traces_dense(k1, widths, kind, call):
    d = small(k1, widths)
    lam1, (padded, lam2) = d.lead_factor(kind)[0], d.rest_factors(kind)
    F = d.eliminated(lam1)[1]
    inverse = np.linalg.inv(dense_schur(d, lam1, lam2))
    expected_N, expected_T = dense_traces(d, F, inverse, lam2, padded.shape)
    # a factorization gives the lower triangle alone
    lower = np.asfortranarray(np.where(np.tri(d.q2, dtype=bool), inverse, np.nan))
    N, T = np.zeros((d.k1, d.k1)), np.zeros(padded.shape)
    call.run(traces.traces_dense, d.lblock.size, d.lstart, d.lblock, padded, *arguments(d), F, lower, N, T)
    np.testing.assert_allclose(N, expected_N, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(T, expected_T, rtol=1e-10, atol=1e-12)


@calls
@pytest.mark.parametrize("kind", LAMBDAS)
@pytest.mark.parametrize(("k1", "widths"), lead_and_rest)
def test_traces_sparse(k1, widths, kind, call):
    """The same sums from the entries of S^-1 on the pattern of S."""
    d = small(k1, widths)
    lam1, (padded, lam2) = d.lead_factor(kind)[0], d.rest_factors(kind)
    F = d.eliminated(lam1)[1]
    inverse = np.linalg.inv(dense_schur(d, lam1, lam2))
    expected_N, expected_T = dense_traces(d, F, inverse, lam2, padded.shape)
    sptr, sidx = d.pattern
    values = inverse[sidx, np.repeat(np.arange(d.q2), np.diff(sptr))]
    N, T = np.zeros((d.k1, d.k1)), np.zeros(padded.shape)
    common = (d.lstart, d.lblock, d.clevel, padded, *arguments(d), F)
    call.run(traces.traces_sparse, d.lblock.size, *common, sptr, sidx, values, N, T)
    np.testing.assert_allclose(N, expected_N, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(T, expected_T, rtol=1e-10, atol=1e-12)
