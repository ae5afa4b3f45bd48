"""Row passes: every kernel of `rows` against matrix products."""

from __future__ import annotations

import numpy as np
import pytest

from mme.engine.kernels import rows

from .small import calls


@calls
@pytest.mark.parametrize(("p", "r"), [(1, 1), (3, 2), (2, 3)])
def test_transform_rows(p, r, call):
    rng = np.random.default_rng(1)
    x, T, out = rng.normal(size=(20, p)), rng.normal(size=(p, r)), np.full((20, r), np.nan)
    call.run(rows.transform_rows, 20, x, T, out)
    np.testing.assert_allclose(out, x @ T, rtol=1e-12, atol=1e-14)


@calls
def test_transform_rows_leaves_others_alone(call):
    out = np.full((5, 1), 7.0)
    call.function(rows.transform_rows)(1, 3, np.ones((5, 2)), np.ones((2, 1)), out)
    np.testing.assert_array_equal(out[:, 0], [7.0, 2.0, 2.0, 7.0, 7.0])


@calls
@pytest.mark.parametrize(("q", "p"), [(1, 1), (3, 3), (4, 2), (1, 0)])
def test_basis_and_residual(q, p, call):
    """[x T, y - x T b0], and the lower triangle of its cross-products, added to what was there."""
    rng = np.random.default_rng(2)
    x, y, T, b0 = rng.normal(size=(20, q)), rng.normal(size=20), rng.normal(size=(q, p)), rng.normal(size=p)
    xy, cross = np.full((20, p + 1), np.nan), np.zeros((p + 1, p + 1))
    call.run(rows.basis_and_residual, 20, x, y, T, b0, xy, cross)
    expected = np.column_stack([x @ T, y - x @ T @ b0])
    np.testing.assert_allclose(xy, expected, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(cross, np.tril(expected.T @ expected), rtol=1e-11, atol=1e-12)
