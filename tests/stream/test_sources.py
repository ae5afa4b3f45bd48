"""Sources of other libraries: lazy frames, relations, whatever gives an Arrow stream."""

from __future__ import annotations

import pytest

import mme
from mme.exceptions import DataError

from .data import close, pieces

FORMULA = "y ~ x + f + (x | g) + (1 | text)"
NUMBERS = "y ~ x + (x | g)"
ROWS = ["x", "f", "g", "text", "y", "z", "w", "a b"]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Several batches, and a single pass where there may be one."""
    monkeypatch.setattr("mme.stream.sources._ROWS", 90)
    monkeypatch.setattr("mme.stream.passes._HEAD", 200)


def test_polars(data, tmp_path):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.from_pandas(data[ROWS])
    frame.write_parquet(tmp_path / "rows.parquet")
    for formula in (FORMULA, NUMBERS, "y ~ `a b` + (1 | g)"):
        whole = mme.lmer(formula, data)
        for lazy in (frame.lazy(), polars.scan_parquet(tmp_path / "rows.parquet")):
            close(whole, mme.lmer(formula, lazy))
        close(whole, mme.lmer(formula, [frame[:300], frame[300:]]))
        close(whole, mme.lmer(formula, chunks=lambda: frame.iter_slices(150)))
    whole = mme.lmer(NUMBERS, data[data.z > 0], weights="w")
    close(whole, mme.lmer(NUMBERS, frame.lazy().filter(polars.col("z") > 0), weights="w"))
    coded = frame.with_columns(polars.col("text").cast(polars.Categorical)).lazy()
    part = mme.lmer(FORMULA, coded)
    assert part.deviance == pytest.approx(mme.lmer(FORMULA, data).deviance, rel=1e-10)
    with pytest.raises(DataError, match="the chunks have no rows"):
        mme.lmer(NUMBERS, frame.lazy().filter(polars.col("z") > 1e9))


def test_duckdb(data):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow (extra 'arrow') is not installed")
    connection = duckdb.connect()
    connection.register("sales", data[ROWS])
    for formula in (FORMULA, NUMBERS, "y ~ `a b` + (1 | g)"):
        close(mme.lmer(formula, data), mme.lmer(formula, connection.sql("SELECT * FROM sales")))
    close(mme.lmer(FORMULA, data[data.z > 0]), mme.lmer(FORMULA, connection.sql("FROM sales WHERE z > 0")))
    products = mme.CrossProducts.of(FORMULA, connection.sql("FROM sales"))
    assert products.nobs == len(data)


class Stream:
    """The Arrow PyCapsule interface and nothing else."""

    def __init__(self, table, times=99):
        self.table, self.times = table, times

    def __arrow_c_stream__(self, requested_schema=None):
        if self.times == 0:
            return self.table.to_reader(90).__class__.from_batches(self.table.schema, []).__arrow_c_stream__()
        self.times -= 1
        return self.table.to_reader(90).__arrow_c_stream__(requested_schema)


def test_whatever_gives_an_arrow_stream(data):
    pa = pytest.importorskip("pyarrow", reason="pyarrow (extra 'arrow') is not installed")
    table = pa.Table.from_pandas(data[ROWS], preserve_index=False)
    for formula in (FORMULA, NUMBERS):
        close(mme.lmer(formula, data), mme.lmer(formula, Stream(table)))
    with pytest.raises(DataError, match="700 rows to use in the first pass and 0 in the second"):
        mme.lmer(FORMULA, Stream(table, times=1))


def test_numbers_of_arrow_are_not_copied(data):
    pa = pytest.importorskip("pyarrow", reason="pyarrow (extra 'arrow') is not installed")
    from mme.stream.sources import frame_of

    batch = pa.RecordBatch.from_pandas(data[ROWS], preserve_index=False)
    frame = frame_of(batch)
    assert frame.columns.tolist() == ROWS and frame.equals(batch.to_pandas())
    address = batch.column("x").buffers()[1].address
    assert frame["x"].to_numpy().__array_interface__["data"][0] == address


def test_only_columns_of_the_formula_are_read(data, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow (extra 'arrow') is not installed")
    from mme.stream.sources import source_of
    from mme.stream.survey import Request

    for i, part in enumerate(pieces(data, 300)):
        part.to_parquet(tmp_path / f"{i}.parquet")
    request = Request("y ~ x + `a b` + (1 | g)", weights="w", subset="h > 3")
    chunks = list(source_of(tmp_path, request))
    # b is a word of the formula
    assert all(set(chunk.columns) == {"y", "x", "a b", "g", "w", "h", "b"} for chunk in chunks)
