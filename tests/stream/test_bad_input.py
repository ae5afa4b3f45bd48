"""Sources that are not what they should be, and runs that end before their time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mme
from mme.exceptions import DataError, FormulaError, MemoryEstimateError

from .data import close, pieces

FORMULA = "y ~ x + (1 | g)"


@pytest.fixture(autouse=True)
def single_pass(monkeypatch):
    monkeypatch.setattr("mme.stream.passes._HEAD", 100)


def test_a_source_that_can_be_read_once(data):
    chunks = pieces(data, 100)
    for source in (iter(chunks), (chunk for chunk in chunks)):
        with pytest.raises(DataError, match=r"can be read once.*chunks=lambda: open_it_again\(\)"):
            mme.lmer(FORMULA, source)
    once = iter(chunks)
    with pytest.raises(DataError, match="they must begin again from the first row"):
        mme.lmer("y ~ x + f + (1 | g)", chunks=lambda: once)


@pytest.mark.parametrize("late", [1, 5])
def test_types_that_change(data, late):
    """In the first rows and in the single pass that follows."""
    chunks = pieces(data, 100)

    def changed(**columns):
        return [*chunks[:late], chunks[late].assign(**columns), *chunks[late + 1 :]]

    after = f"after {100 * late} rows"
    with pytest.raises(DataError, match=f"column 'g' holds numbers in the first chunks and text .* {after}"):
        mme.lmer(FORMULA, changed(g=chunks[late].g.astype(str)))
    with pytest.raises(DataError, match=f"column 'x' holds numbers in the first chunks and text .* {after}"):
        mme.lmer(FORMULA, changed(x="many"))
    with pytest.raises(DataError, match=f"column 'x' holds numbers .* and dates or times .* {after}"):
        mme.lmer(FORMULA, changed(x=pd.Timestamp("2024-01-01")))
    with pytest.raises(DataError, match="infinite values in columns of the model: x"):
        mme.lmer(FORMULA, changed(x=np.inf))
    # another width of the same numbers is none
    narrow = changed(g=chunks[late].g.astype("int16"), x=chunks[late].x)
    close(mme.lmer(FORMULA, data), mme.lmer(FORMULA, narrow))
    gone = [*chunks[:late], chunks[late].drop(columns="x"), *chunks[late + 1 :]]
    with pytest.raises(FormulaError, match="'x' is not in the data"):
        mme.lmer(FORMULA, gone)


def test_more_levels_than_memory_in_the_middle_of_a_pass(data, monkeypatch):
    sizes = iter([1e9, *[1e9] * 2, *[900.0] * 50])
    monkeypatch.setattr("mme.stream.recipe.available_memory", lambda: next(sizes))
    rows = data.assign(g=np.arange(len(data)) // 2)
    with pytest.raises(MemoryEstimateError, match=r"the sums of .* levels of grouping factors"):
        mme.lmer("y ~ x + (x | g)", pieces(rows, 20))


def test_an_interrupted_sum_loses_nothing_that_was_saved(data, tmp_path, monkeypatch):
    """Chunk by chunk into one file: the file that was complete stays."""
    pytest.importorskip("pyarrow", reason="pyarrow (extra 'arrow') is not installed")
    path, chunks = tmp_path / "sums.arrow", pieces(data, 100)
    mme.CrossProducts.of(FORMULA, chunks[:3]).save(path)

    def broken():
        yield from chunks[3:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        (mme.CrossProducts.load(path) + mme.CrossProducts.of(FORMULA, broken)).save(path)
    assert mme.CrossProducts.load(path).nobs == 300
    total = mme.CrossProducts.load(path) + mme.CrossProducts.of(FORMULA, chunks[3:])

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mme.stream.storage.os.replace", full)
        with pytest.raises(OSError, match="No space left"):
            total.save(path)
    assert sorted(tmp_path.iterdir()) == [path] and mme.CrossProducts.load(path).nobs == 300
    total.save(path)
    close(mme.lmer(FORMULA, data), mme.CrossProducts.load(path).fit())


def test_new_months_have_the_levels_of_last_months_sums(data):
    """`like` hands on the levels of the fixed part: February has no row of one of them."""
    formula = "y ~ x + f + C(h) + (x | g)"
    january, february = data[:400], data[400:][lambda d: (d.f != "mid") & (d.h != 5)]
    first = mme.CrossProducts.of(formula, january)
    with pytest.raises(DataError, match="column 'f' has the levels"):
        first + mme.CrossProducts.of(formula, february)
    second = mme.CrossProducts.of(formula, february, like=first)
    close(mme.lmer(formula, pd.concat([january, february])), (first + second).fit())
    odd = february.assign(f="other")
    with pytest.raises(DataError, match="levels that are not among those given: 'other'"):
        mme.CrossProducts.of(formula, odd, like=first)


def test_far_months_are_added_in_any_order():
    """Twelve months along a calendar in seconds, each in a basis of its own."""
    rng = np.random.default_rng(3)
    months = []
    for month in range(12):
        n = 300
        g, t = rng.integers(0, 30, n), 1.7e9 + 2.6e6 * (month + rng.random(n))
        u = np.random.default_rng(8).normal(size=30)
        y = 50.0 + 1e-7 * (t - 1.7e9) + u[g] + rng.normal(size=n)
        months.append(pd.DataFrame({"y": y, "t": t, "g": g}))
    formula = "y ~ t + (t | g)"
    whole = mme.lmer(formula, pd.concat(months, ignore_index=True))
    for order in (range(12), reversed(range(12)), [5, 0, 11, 7, 1, 2, 3, 4, 6, 8, 9, 10]):
        part = sum(mme.CrossProducts.of(formula, months[i]) for i in order).fit()
        assert abs(part.deviance - whole.deviance) <= 1e-10 * abs(whole.deviance)
        assert np.all(np.abs(part.fe_params - whole.fe_params) < 1e-7 * whole.bse_fe)
        assert np.allclose(part.bse_fe, whole.bse_fe, rtol=1e-7)
