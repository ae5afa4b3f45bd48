"""Sums by level and numbers of labels, against plain Python."""

from __future__ import annotations

import numpy as np
import pytest

from mme.engine.kernels.sums import add_levels, number_keys, number_whole, standard_rows


@pytest.fixture(params=["compiled", "plain"])
def how(request):
    return (lambda kernel: kernel) if request.param == "compiled" else (lambda kernel: kernel.py_func)


def test_standard_rows(how):
    rng = np.random.default_rng(0)
    n = 1100
    x, y, P = rng.normal(size=(n, 3)), rng.normal(size=n), np.triu(rng.normal(size=(3, 3)))
    shift, b, pool = np.array([0.0, 1.0, 2.0]), rng.normal(size=3), np.full((n, 6), 7.0)
    gram = np.ones((4, 4))
    how(standard_rows)(x, y, shift, P, 0.5, b, pool, gram)
    s = (x - shift) @ P
    assert np.allclose(gram, 1.0 + pool[:, :4].T @ pool[:, :4])
    assert np.allclose(pool[:, :3], s) and np.allclose(pool[:, 3], y - 0.5 - s @ b)
    assert np.all(pool[:, 4:] == 7.0)


@pytest.mark.parametrize("pieces", [[(0, 9)], [(0, 4), (4, 9)]])
def test_sums_by_level(pieces):
    """Compiled alone: what is prefetched is no matter of Python."""
    rng = np.random.default_rng(1)
    codes, pool = rng.integers(0, 9, 50).astype(np.int32), rng.normal(size=(50, 4))
    left, right, table = np.array([0, 0, 1]), np.array([0, 3, 2]), np.zeros((9, 4))
    for first, last in pieces:
        add_levels(first, last, codes, pool, left, right, table)
    one = np.eye(9)[codes]
    assert np.array_equal(table[:, 0], one.sum(axis=0))
    assert np.allclose(table[:, 1:], one.T @ (pool[:, left] * pool[:, right]))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # a hash wraps around
@pytest.mark.parametrize("spread", [20, 2**62])
def test_numbers_in_the_order_in_which_values_are_met(how, spread):
    values = np.random.default_rng(2).integers(-spread, spread, 60)
    if spread < 100:
        numbers, found = np.full(40, -1, np.int32), np.empty(60, np.int64)
    slots, hashed = np.full(128, -1, np.int32), np.empty(60, np.int64)
    expected: dict[int, int] = {}
    n = m = 0
    for part in np.split(values, [25, 30]):
        want = [expected.setdefault(int(v), len(expected)) for v in part]
        codes = np.empty(part.size, np.int32)
        m = how(number_keys)(part, slots, hashed, m, codes)
        assert codes.tolist() == want and hashed[:m].tolist() == list(expected)
        if spread < 100:
            n = how(number_whole)(part, -20, numbers, found, n, codes)
            assert codes.tolist() == want and found[:n].tolist() == list(expected)
