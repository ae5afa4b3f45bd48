"""Cross-products of chunks, and fits of them: those of one frame, whatever the chunks."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

import mme
from mme.exceptions import (
    DataError,
    DesignError,
    FormulaError,
    InferenceError,
    MemoryEstimateError,
    MissingDataWarning,
    OptionError,
    RankDeficientWarning,
)
from mme.stream.tables import Levels, LevelTable

from .data import FORMULAS, close, pieces


@pytest.fixture(params=[16_384, 50])
def head(request, monkeypatch):
    """Rows looked at before the single pass: all, so that there are two, or a few."""
    monkeypatch.setattr("mme.stream.passes._HEAD", request.param)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("size", [97, 350])
def test_a_stream_is_fitted_as_one_frame(head, data, name, size):
    whole = mme.lmer(FORMULAS[name], data)
    chunks = pieces(data, size)
    close(whole, mme.lmer(FORMULAS[name], chunks=lambda: iter(chunks)))


@pytest.mark.parametrize("order", ["as it is", "by x", "backwards"])
def test_far_from_the_origin_in_any_order(head, order):
    """Years of the calendar and a large mean: what a sum of squares of the values as they are would lose."""
    rng = np.random.default_rng(0)
    n = 3000
    g, h, x = rng.integers(0, 100, n), rng.integers(0, 20, n), 2000.0 + 5.0 * rng.normal(size=n)
    slopes = 0.2 * rng.normal(size=100)[g] * (x - 2000.0)
    y = 1e4 + 3.0 * (x - 2000.0) + rng.normal(size=100)[g] + rng.normal(size=20)[h] + slopes
    data = pd.DataFrame({"x": x, "y": y + rng.normal(size=n), "g": g, "h": h})
    formula = "y ~ x + (x | g) + (1 | h)"
    whole = mme.lmer(formula, data)
    rows = {"as it is": data, "by x": data.sort_values("x"), "backwards": data[::-1]}[order]
    for size in (40, 700):
        close(whole, mme.lmer(formula, pieces(rows, size)))
    close(whole, sum(mme.CrossProducts.of(formula, part) for part in pieces(rows, 700)).fit())


@pytest.mark.parametrize("name", FORMULAS)
def test_cross_products_add_up(head, data, name):
    """Every factor of the fixed part has all of its levels in every chunk; grouping factors do not."""
    data = data.sort_values("g", kind="stable").reset_index(drop=True)
    whole = mme.lmer(FORMULAS[name], data)
    levels = {"functions": {"h": range(3, 9)}}.get(name)
    few = set(FORMULAS[name]).isdisjoint("fb") and "category" not in name
    edges = [0, 200, 210, 700] if few else [0, 200, 500, 700]
    parts = [mme.CrossProducts.of(FORMULAS[name], data[a:b], levels) for a, b in pairwise(edges)]
    close(whole, sum(parts).fit())
    close(whole, (parts[2] + (parts[0] + parts[1])).fit())


def test_weights_offset_subset_and_missing_values(head, data):
    data = data.copy()
    data.loc[[3, 50, 51], "x"] = np.nan
    data.loc[[7], "text"] = None
    data.loc[[9], "w"] = np.nan
    # a level that has rows with missing values alone, and one that the subset leaves out
    data.loc[data.g == data.g[0], "z"] = np.nan
    formula = "y ~ x + z + f + (x | g) + (1 | text)"
    options = {"weights": "w", "offset": "o", "subset": "o > -1.5 and h != 5"}
    with pytest.warns(MissingDataWarning):
        whole = mme.lmer(formula, data, **options)
    with pytest.warns(MissingDataWarning, match=f"{whole.n_dropped} of {whole.n_dropped + whole.nobs} rows"):
        part = mme.lmer(formula, pieces(data, 64), **options)
    close(whole, part)
    close(whole, mme.lmer(formula, pieces(data, 1 + len(data) // 2), missing="drop", **options))
    with pytest.raises(DataError, match="missing values in columns of the model"):
        mme.lmer(formula, pieces(data, 64), missing="raise", **options)


def test_what_results_without_rows_can_say(data):
    formula = "y ~ x * f + (x | g) + (1 | text)"
    whole, part = mme.lmer(formula, data), mme.lmer(formula, pieces(data, 111))
    for table in ("coef_table", "anova"):
        assert np.allclose(getattr(part, table)(), getattr(whole, table)(), rtol=1e-4, atol=1e-7)
    L = np.zeros((2, len(whole.fe_params)))
    L[0, 1], L[1, 2] = 1.0, 1.0
    assert np.allclose(part.contrast(L), whole.contrast(L), rtol=1e-4, atol=1e-7)
    assert np.allclose(part.predict(data), whole.predict(data), rtol=1e-7)
    means = [r.emmeans("f").frame[["estimate", "se", "df"]] for r in (part, whole)]
    assert np.allclose(*means, rtol=1e-4, atol=1e-7)
    assert np.allclose(part.bse_re, whole.bse_re, rtol=1e-3)
    assert str(part.summary()).splitlines()[2:6] == str(whole.summary()).splitlines()[2:6]
    assert part.model.preflight().solver == "direct"
    there = mme.CrossProducts.of(formula, pieces(data, 111)).model().preflight()
    assert there.columns == mme.preflight(formula, data).columns
    for name in ("fittedvalues", "resid", "fitted_fixed"):
        with pytest.raises(InferenceError, match=r"rows were streamed and not kept.*results.predict\(rows\)"):
            getattr(part, name)
    with pytest.raises(InferenceError, match="rows were streamed"):
        part.bootstrap(10)


def test_dependent_columns_are_dropped_by_name(data):
    data = data.assign(twice=2.0 * data.x - 3.0)
    formula = "y ~ x + twice + f + (1 | g)"
    with pytest.warns(RankDeficientWarning, match="twice"):
        whole = mme.lmer(formula, data)
    with pytest.warns(RankDeficientWarning, match="twice"):
        part = mme.lmer(formula, pieces(data, 90))
    close(whole, part)
    assert np.allclose(
        part.contrast([0, 1, 2, 0, 0]), whole.contrast([0, 1, 2, 0, 0]), rtol=1e-5, equal_nan=True
    )


def test_categories_that_appear_late(head, data):
    """In chunks sorted by a factor of the fixed part: levels are found first."""
    data = data.sort_values("f", kind="stable").reset_index(drop=True)
    for formula in ("y ~ f + (1 | g)", "y ~ x + (1 | f:text)", "y ~ category + (1 | g)"):
        close(mme.lmer(formula, data), mme.lmer(formula, pieces(data, 70)))
    # categories of each chunk alone
    own = [p.assign(f=pd.Categorical(p.f), g=p.g.astype("category")) for p in pieces(data, 70)]
    close(mme.lmer("y ~ f + (1 | g)", data), mme.lmer("y ~ f + (1 | g)", own))
    ordered = [p.assign(f=pd.Categorical(p.f, ordered=True)) for p in pieces(data, 70)]
    with pytest.raises(DataError, match="'f' has ordered categories that differ"):
        mme.lmer("y ~ f + (1 | g)", ordered)


def test_levels_of_the_fixed_part_must_agree_where_sums_are_added(data):
    data = data.sort_values("f", kind="stable").reset_index(drop=True)
    formula = "y ~ f + (1 | g)"
    parts = [mme.CrossProducts.of(formula, p) for p in pieces(data, 350)]
    with pytest.raises(DataError, match=r"column 'f' has the levels .*levels=\{'f': \[...\]\}"):
        parts[0] + parts[1]
    levels = {"f": ["mid", "low", "high", "never"], "g": range(900, 1100)}
    parts = [mme.CrossProducts.of(formula, p, levels) for p in pieces(data, 350)]
    with pytest.warns(RankDeficientWarning, match="never"):
        part = sum(parts).fit()
    whole = mme.lmer(formula, data)
    assert part.deviance == pytest.approx(whole.deviance, rel=1e-10)
    assert part.ranef["g"].index.equals(whole.ranef["g"].index)
    with pytest.raises(DataError, match="levels that are not among those given: 'mid'"):
        mme.CrossProducts.of(formula, data, {"f": ["low", "high"]})
    with pytest.raises(DataError, match="levels are given for 'ff', which is no factor; did you mean f"):
        mme.CrossProducts.of(formula, data, {"ff": ["low", "high"]})


def test_sums_of_different_models_are_refused(data):
    one = mme.CrossProducts.of("y ~ x + (1 | g)", data)
    with pytest.raises(DataError, match="formula is 'y ~ x"):
        one + mme.CrossProducts.of("y ~ z + (1 | g)", data)
    with pytest.raises(DataError, match="weights is None and 'w'"):
        one + mme.CrossProducts.of("y ~ x + (1 | g)", data, weights="w")
    with pytest.raises(DataError, match="column 'g' holds numbers in the one and text in"):
        one + mme.CrossProducts.of("y ~ x + (1 | g)", data.assign(g=data.g.astype(str)))
    with pytest.raises(TypeError):
        one + 1


def test_small_cells(data):
    products = mme.CrossProducts.of("y ~ x + (1 | g) + (1 | h)", data)
    counts = data.g.value_counts().sort_index()
    assert np.array_equal(products.cells()["g"], counts) and products.cells()["g"].index.equals(counts.index)
    least = int(counts.min())
    products.check_cells(least)
    with pytest.raises(DataError, match=rf"levels with fewer than {least + 1} rows: g: .* \({least}\)"):
        products.check_cells(least + 1)


@pytest.mark.parametrize("term", ["center(x)", "scale(x)", "poly(x, 2)", "bs(x, df=4)", "I(x - np.mean(x))"])
def test_what_needs_all_rows_is_refused_by_name(data, term):
    with pytest.raises(FormulaError, match=r"needs all rows at once|depends on other rows"):
        mme.lmer(f"y ~ {term} + (1 | g)", pieces(data, 100))


def test_bad_sources(data):
    formula = "y ~ x + (1 | g)"
    chunks = pieces(data, 100)
    with pytest.raises(DataError, match="can be read once"):
        mme.lmer(formula, iter(chunks))
    with pytest.raises(DataError, match="can be read once"):
        mme.lmer(formula, (c for c in chunks))
    once = iter(chunks)
    with pytest.raises(DataError, match="700 rows to use in the first pass and 0 in the second"):
        mme.lmer(formula, chunks=lambda: once)
    with pytest.raises(OptionError, match="chunks must be a callable"):
        mme.lmer(formula, chunks=chunks)
    with pytest.raises(OptionError, match="data or chunks"):
        mme.lmer(formula, data, chunks=lambda: chunks)
    with pytest.raises(DataError, match=r"chunks\(\) must return an iterator of frames, not DataFrame"):
        mme.lmer(formula, chunks=lambda: data)
    with pytest.raises(DataError, match="the chunks have no rows to use"):
        mme.lmer(formula, chunks=lambda: [])
    with pytest.raises(OptionError, match="weights must be the name of a column"):
        mme.lmer(formula, chunks, weights=data.w)
    with pytest.raises(FormulaError, match="'xx' is not in the data; did you mean x"):
        mme.lmer("y ~ xx + (1 | g)", chunks)
    with pytest.raises(DesignError, match="the same 40 groups of rows under two names"):
        same = [c.assign(other=-c.g) for c in chunks]
        mme.lmer("y ~ x + (1 | g) + (1 | other)", same)


def test_empty_chunks_and_types_that_change(head, data):
    formula = "y ~ x + (1 | g)"
    chunks = pieces(data, 100)
    empty = data[:0]
    whole = mme.lmer(formula, data)
    close(whole, mme.lmer(formula, [empty, *chunks[:3], empty, *chunks[3:], empty]))
    # whole numbers that are floats in one chunk are the same levels
    mixed = [chunks[0].assign(x=chunks[0].x.astype("float32").astype(float)), *chunks[1:]]
    mixed[2] = mixed[2].assign(y=mixed[2].y.astype(object))
    mme.lmer(formula, mixed)
    text = [*chunks[:4], chunks[4].assign(g=chunks[4].g.astype(str)), *chunks[5:]]
    with pytest.raises(
        DataError, match=r"column 'g' holds numbers in the first chunks and text .* after 400 rows"
    ):
        mme.lmer(formula, text)
    words = [*chunks[:4], chunks[4].assign(x="a"), *chunks[5:]]
    with pytest.raises(DataError, match="column 'x' holds numbers in the first chunks and text"):
        mme.lmer(formula, words)
    infinite = [*chunks[:4], chunks[4].assign(x=np.inf), *chunks[5:]]
    with pytest.raises(DataError, match="infinite values in columns of the model: x"):
        mme.lmer(formula, infinite)


def test_parquet_and_arrow(head, data, tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow (extra 'test') is not installed")
    ds = pytest.importorskip("pyarrow.dataset", reason="pyarrow (extra 'arrow') is not installed")
    formula = "y ~ x + f + (x | g) + (1 | text)"
    whole = mme.lmer(formula, data)
    table = pa.Table.from_pandas(data, preserve_index=False)
    files = []
    for i, part in enumerate(pieces(data, 250)):
        files.append(tmp_path / f"part{i}.parquet")
        part.to_parquet(files[-1], row_group_size=60, index=False)
    sources = [str(tmp_path / "part*.parquet"), tmp_path, ds.dataset(files), ds.dataset(table)]
    for source in sources:
        close(whole, mme.lmer(formula, source))
    data.to_parquet(tmp_path / "whole.parquet")
    close(whole, mme.lmer(formula, tmp_path / "whole.parquet"))
    assert mme.CrossProducts.of(formula, tmp_path / "whole.parquet").nobs == 700
    # as codes of a dictionary
    coded = table.set_column(table.column_names.index("text"), "text", table["text"].dictionary_encode())
    close(mme.lmer(formula, coded.to_pandas()), mme.lmer(formula, lambda: coded.to_batches(max_chunksize=99)))
    with pytest.raises(DataError, match="RecordBatchReader can be read once"):
        mme.lmer(formula, coded.to_reader())
    with pytest.raises(DataError, match="there is no file"):
        mme.lmer(formula, tmp_path / "none.parquet")
    with pytest.raises(DataError, match="no file matches"):
        mme.lmer(formula, str(tmp_path / "none*.parquet"))


def test_no_warning_is_added(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mme.lmer("y ~ x + (1 | g)", pieces(data, 100))


@pytest.mark.parametrize("kind", ["int8", "int64"])
def test_levels_are_found_in_any_order(kind):
    """Whole numbers are ticked off in a range that grows on both sides, or hashed."""
    rng = np.random.default_rng(4)
    for spread in (100, 10**6, 10**12, 2**62):
        if kind == "int8" and spread > 100:
            continue
        levels = Levels(("g",))
        values = np.concatenate([rng.integers(-spread, spread, 50) // s for s in (50, 7, 2, 1)]).astype(kind)
        for i in range(0, 200, 10):
            levels.add(pd.DataFrame({"g": values[i : i + 10]}))
        table = levels.table()
        assert table.rows.g.tolist() == sorted(set(values.tolist()))
        assert table.rows.g.dtype == kind and table.factor.levels.tolist() == table.rows.g.tolist()


def test_codes_of_many_rows_are_those_of_few():
    rng = np.random.default_rng(6)
    known = LevelTable.of(pd.DataFrame({"g": np.unique(rng.integers(-500, 5000, 2000))}))
    values = pd.Series(rng.integers(-600, 5100, 5000))
    many = known.coding.codes([values], None)
    few = np.concatenate([known.coding.codes([values[i : i + 100]], None) for i in range(0, 5000, 100)])
    assert np.array_equal(many, few) and (many < 0).any() and (many >= 0).any()


@pytest.mark.parametrize("name", FORMULAS)
def test_saved_and_loaded(data, name, tmp_path):
    """The same numbers to the bit, and sums that go on."""
    pytest.importorskip("pyarrow", reason="pyarrow (extra 'test') is not installed")
    levels = {"h": range(3, 9)} if name == "functions" else None
    first, second = (mme.CrossProducts.of(FORMULAS[name], p, levels) for p in (data[:400], data[400:]))
    first.save(tmp_path / "first.arrow")
    loaded = mme.CrossProducts.load(tmp_path / "first.arrow")
    assert loaded.fit().deviance == first.fit().deviance
    assert loaded.nobs == 400 and sorted(tmp_path.iterdir()) == [tmp_path / "first.arrow"]
    both = loaded + second
    close(mme.lmer(FORMULAS[name], data), both.fit())
    both.save(tmp_path / "first.arrow")
    again = mme.CrossProducts.load(tmp_path / "first.arrow").fit()
    assert again.deviance == both.fit().deviance
    assert np.allclose(again.predict(data[:50]), both.fit().predict(data[:50]), rtol=1e-12)
    assert str(again.fitted.coding().variables) == str(both.fit().fitted.coding().variables)


def test_what_cannot_be_saved_or_loaded(data, tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow (extra 'test') is not installed")

    def double(x):
        return 2.0 * x

    path = tmp_path / "sums.arrow"
    with pytest.raises(FormulaError, match="double"):
        mme.CrossProducts.of("y ~ double(x) + (1 | g)", data).save(path)
    plain = mme.CrossProducts.of("y ~ x + (1 | g)", data)
    with pytest.raises(DataError, match="levels with fewer than 1000 rows"):
        plain.save(path, min_rows=1000)
    assert not path.exists()
    with pytest.raises(DataError, match="there is no file"):
        mme.CrossProducts.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="is no file of cross-products"):
        mme.CrossProducts.load(path)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("a", pa.int64())])):
        pass
    with pytest.raises(DataError, match="is no file of cross-products that this version"):
        mme.CrossProducts.load(path)
    mme.CrossProducts.of("y ~ x.clip(0) + (1 | g)", data).save(path)
    with pytest.raises(FormulaError, match="evaluate='safe' accepts"):
        mme.CrossProducts.load(path)
    assert mme.CrossProducts.load(path, evaluate="full").nobs == 700


def test_more_levels_than_memory_are_refused(data, monkeypatch):
    monkeypatch.setattr("mme.stream.recipe.available_memory", lambda: 1000.0)
    with pytest.raises(MemoryEstimateError, match=r"the sums of 40 levels .* would take .* GiB"):
        mme.lmer("y ~ x + (x | g)", pieces(data, 100))


def test_levels_are_numbered_as_they_are_met(data, monkeypatch):
    """In one pass over whole numbers of any range, text, categories, and combinations of them."""
    monkeypatch.setattr("mme.stream.passes._HEAD", 50)
    kinds = {
        "near": lambda g: g,
        "far": lambda g: (g.to_numpy().astype(np.int64) - 980) * 2**52,
        "spread": lambda g: np.where(g < 980, g, g * 10**9),
        "text": lambda g: "s" + g.astype(str),
        "object": lambda g: ("s" + g.astype(str)).astype(object),
        "categories": lambda g: pd.Categorical(g, categories=sorted(set(g), reverse=True)),
        "floats": lambda g: g / 4.0,
        "unsigned": lambda g: g.astype("uint16"),
    }
    for kind, made in kinds.items():
        odd = data.assign(k=made(data.g))
        asked = 0

        def begin(odd=odd):
            nonlocal asked
            asked += 1
            return iter(pieces(odd, 60))

        close(mme.lmer("y ~ x + (x | k)", odd), mme.lmer("y ~ x + (x | k)", chunks=begin))
        assert asked == 1, kind
        formula = "y ~ x + (1 | k:h) + (1 | text)"
        close(mme.lmer(formula, odd), mme.lmer(formula, pieces(odd, 60)))


def test_the_first_rows_of_a_single_pass_may_be_unlike_the_others(data, monkeypatch):
    """Their basis loses digits: the rows are added up in another one."""
    monkeypatch.setattr("mme.stream.passes._HEAD", 50)
    x = np.r_[1e-3 * np.random.default_rng(1).normal(size=100), 1e3 + data.x[100:]]
    odd, formula = data.assign(x=x), "y ~ x + I(x**2) + (1 | g)"
    asked = 0

    def begin():
        nonlocal asked
        asked += 1
        return iter(pieces(odd, 100))

    close(mme.lmer(formula, odd), mme.lmer(formula, chunks=begin))
    assert asked == 2


@pytest.mark.parametrize("formula", ["y ~ x + I(x**2) + (1 | g)", "y ~ x + (x | g) + (0 + x | h)"])
def test_sums_unlike_one_another_are_turned_into_a_basis_of_all(data, formula):
    """In the basis of the first chunk the others would have lost their digits."""
    x = np.r_[1e-3 * np.random.default_rng(1).normal(size=100), 1e3 + data.x[100:]]
    odd = data.assign(x=x)
    close(mme.lmer(formula, odd), mme.lmer(formula, pieces(odd, 100)))
    parts = [mme.CrossProducts.of(formula, part) for part in pieces(odd, 100)]
    close(mme.lmer(formula, odd), sum(parts).fit())
    close(mme.lmer(formula, odd), sum(parts[::-1]).fit())
