"""Cross-products by level: every kernel of `cells` against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest

from mme.engine.kernels import cells

from .small import WIDTHS, SmallDesign, calls, small

lead_and_rest = [pytest.param(k1, widths, id=f"{k1}-{widths}") for k1 in (1, 2, 3) for widths in WIDTHS]
storages = pytest.mark.parametrize("storage", ["pointers", "width", "ones"])


def rows_of(d: SmallDesign) -> np.ndarray:
    """Columns of the rest that each row meets, (n, entries of a row)."""
    parts = [d.lstart[d.levels[:, b]][:, None] + np.arange(z.shape[1]) for b, (_, z) in enumerate(d.others)]
    return np.hstack(parts)


def compressed(d: SmallDesign, storage: str) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Z_2 by rows: rptr, width, ridx, rval, with or without what is the same in every row."""
    at = rows_of(d)
    n, width = at.shape
    rptr = np.arange(0, (n + 1) * width, width) if storage == "pointers" else np.zeros(0, np.int64)
    values = np.zeros(0) if storage == "ones" else np.take_along_axis(d.Z2, at, axis=1).ravel()
    return rptr, width, at.astype(np.int32).ravel(), values


def design(k1: int, widths: tuple[int, ...], storage: str) -> SmallDesign:
    return small(k1, widths, plain=storage == "ones")


def sorted_rows(d: SmallDesign) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(d.codes, kind="stable").astype(np.int32)
    return order, np.r_[0, np.cumsum(np.bincount(d.codes, minlength=d.q1))].astype(np.int64)


@calls
def test_row_span(call):
    span = call.function(cells.row_span)
    assert span(np.zeros(0, np.int64), 3, 4) == (12, 15)
    assert span(np.array([0, 2, 2, 7]), 3, 1) == (2, 2)
    assert span(np.array([0, 2, 2, 7]), 3, 2) == (2, 7)


@calls
def test_counting_sort(call):
    d = small(1, (1,))
    order, ptr = call.function(cells.counting_sort)(d.codes, d.q1)
    expected_order, expected_ptr = sorted_rows(d)
    np.testing.assert_array_equal(order, expected_order)
    np.testing.assert_array_equal(ptr, expected_ptr)
    assert np.any(np.diff(ptr) == 0)  # a level without rows


@calls
@pytest.mark.parametrize(("k1", "plain"), [(1, False), (2, False), (3, False), (1, True)])
def test_level_blocks(k1, plain, call):
    d = small(k1, (1,), plain)
    xy = np.random.default_rng(1).normal(size=(d.n, 3))
    A, B = np.zeros((d.q1, k1, k1)), np.zeros((d.q1, k1, 3))
    z = np.empty((0, 1)) if plain else d.z
    call.run(cells.level_blocks, d.q1, *sorted_rows(d), z, xy, A, B)
    np.testing.assert_allclose(A, d.A, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(B, np.einsum("nla,nb->lab", d.Z1, xy), rtol=1e-11, atol=1e-13)


@calls
@storages
@pytest.mark.parametrize(("k1", "widths"), lead_and_rest)
def test_count_and_fill_cells(k1, widths, storage, call):
    d = design(k1, widths, storage)
    rptr, width, ridx, rval = compressed(d, storage)
    expected_ptr, expected_idx, expected_val = d.cells
    order, rows = sorted_rows(d)
    counts = np.zeros(d.q1 + 1, np.int64)
    call.run(cells.count_cells, d.q1, order, rows, rptr, width, ridx, d.q2, counts)
    np.testing.assert_array_equal(np.cumsum(counts), expected_ptr)
    z = np.empty((0, 1)) if storage == "ones" and k1 == 1 else d.z
    idx, val = np.full(expected_idx.size, -1, np.int32), np.full((expected_idx.size, k1), np.nan)
    arguments = (order, rows, rptr, width, ridx, rval, z, d.q2, expected_ptr)
    call.run(cells.fill_cells, d.q1, *arguments, idx, val)
    np.testing.assert_array_equal(idx, expected_idx)
    np.testing.assert_allclose(val, expected_val, rtol=1e-11, atol=1e-13)
    alone = np.full(expected_idx.size, -1, np.int32)  # the columns, without values
    call.run(cells.fill_cells, d.q1, *arguments, alone, np.empty((0, k1)))
    np.testing.assert_array_equal(alone, expected_idx)


@calls
@pytest.mark.parametrize(("k1", "widths"), lead_and_rest)
def test_transpose_cells(k1, widths, call):
    d = small(k1, widths)
    ptr, idx, _ = d.cells
    expected_ptr, expected_lev, expected_pos = d.transposed
    np.testing.assert_array_equal(call.function(cells.column_pointers)(idx, d.q2), expected_ptr)
    tlev, tpos = np.full(idx.size, -1, np.int32), np.full(idx.size, -1, np.int32)
    call.run(cells.transpose_cells, d.q2, ptr, 0, idx, expected_ptr, tlev, tpos)
    np.testing.assert_array_equal(tlev, expected_lev)
    np.testing.assert_array_equal(tpos, expected_pos)
    alone = np.full(idx.size, -1, np.int32)
    call.run(cells.transpose_cells, d.q2, ptr, 0, idx, expected_ptr, alone, np.empty(0, np.int32))
    np.testing.assert_array_equal(alone, expected_lev)


@calls
def test_transpose_rows_of_one_width(call):
    """Rows without pointers: as many entries in each."""
    d = small(1, (1, 2))
    rptr, width, ridx, _ = compressed(d, "width")
    tptr = cells.column_pointers(ridx, d.q2)
    trow, tpos = np.full(ridx.size, -1, np.int32), np.full(ridx.size, -1, np.int32)
    call.run(cells.transpose_cells, d.q2, rptr, width, ridx, tptr, trow, tpos)
    order = np.argsort(ridx, kind="stable")
    np.testing.assert_array_equal(tpos, order)
    np.testing.assert_array_equal(trow, order // width)


@calls
@storages
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_rows_times(widths, storage, call):
    d, rng = design(1, widths, storage), np.random.default_rng(2)
    xy, out = rng.normal(size=(d.n, 3)), rng.normal(size=(d.q2, 3))
    expected = out + d.Z2.T @ xy
    call.function(cells.rows_times)(*compressed(d, storage), xy, out)
    np.testing.assert_allclose(out, expected, rtol=1e-11, atol=1e-12)


@calls
@storages
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_count_and_fill_gram(widths, storage, call):
    """Block-lower columns of Z_2'Z_2, whose levels share the pattern of their union."""
    d = design(1, widths, storage)
    rptr, width, ridx, rval = compressed(d, storage)
    expected_ptr, expected_idx, expected_val = d.gram
    order = np.argsort(ridx, kind="stable").astype(np.int32)
    tptr = np.r_[0, np.cumsum(np.bincount(ridx, minlength=d.q2))].astype(np.int64)
    trow = (order // width).astype(np.int32)
    counts = np.zeros(d.q2 + 1, np.int64)
    n_levels = d.lblock.size
    call.run(cells.count_gram, n_levels, d.lstart, tptr, trow, rptr, width, ridx, counts)
    np.testing.assert_array_equal(np.cumsum(counts), expected_ptr)
    idx, val = np.full(expected_idx.size, -1, np.int32), np.full(expected_idx.size, np.nan)
    tpos = np.zeros(0, np.int32) if storage == "ones" else order
    arguments = (d.lstart, tptr, trow, tpos, rptr, width, ridx, rval, expected_ptr)
    call.run(cells.fill_gram, n_levels, *arguments, idx, val)
    np.testing.assert_array_equal(idx, expected_idx)
    np.testing.assert_allclose(val, expected_val, rtol=1e-11, atol=1e-12)


@calls
@pytest.mark.parametrize("plain", [False, True], ids=["values", "ones"])
@pytest.mark.parametrize("k1", [1, 2, 3])
def test_cell_moments(k1, plain, call):
    """One column of the lead with every second column of a block of width two; other cells are left out."""
    d = small(k1, (1, 2))
    ptr, idx, val = d.cells
    rng = np.random.default_rng(3)
    start, stop, step, c = int(d.sizes[0]) + 1, d.q2, 2, k1 - 1
    u, w = rng.normal(size=d.q1), rng.normal(size=d.sizes[1])
    H, K = rng.normal(size=(d.q1, 2)), rng.normal(size=(d.sizes[1], 2))
    cell = np.zeros((d.q1, d.q2))
    cell[np.repeat(np.arange(d.q1), np.diff(ptr)), idx] = 1.0 if plain else val[:, c]
    V = cell[:, start:stop:step]
    values = np.empty((0, k1)) if plain else val
    found = call.run(cells.cell_moments, d.q1, ptr, idx, values, c, start, stop, step, u, w, H, K)
    squares, products = np.sum(found, axis=0)
    np.testing.assert_allclose(squares, u @ V**2 @ w, rtol=1e-11)
    np.testing.assert_allclose(products, np.einsum("l,j,lj,lb,jb->", u, w, V, H, K), rtol=1e-11)
