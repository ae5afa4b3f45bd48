"""What preflight says of a source, from its first chunk."""

from __future__ import annotations

import os

import pytest

import mme
from mme.exceptions import DataError

from .data import pieces


def test_a_source_is_looked_at_once(data):
    asked = []

    def begin():
        for i, chunk in enumerate([data[:0], *pieces(data, 100)]):
            asked.append(i)
            yield chunk

    forecast = mme.preflight("y ~ x + f + (x | g) + (1 | text)", begin)
    assert asked == [0, 1] and forecast.looked == 100 and forecast.passes == 2
    assert forecast.rows is None and forecast.seconds is None and forecast.read_bytes is None
    # rows, [1 x]'[1 x], [1 x]'[x f f r] of every level; of the intercept alone [1 x f f r]
    assert forecast.level_bytes == {
        "g": (data.g[:100].nunique(), 8 * (1 + 3 + 6)),
        "text": (data.text[:100].nunique(), 8 * (1 + 5)),
    }
    assert forecast.sums_bytes == sum(q * each for q, each in forecast.level_bytes.values())
    assert "s per million rows" in str(forecast) and "known once they are read" in str(forecast)
    assert mme.preflight("y ~ x + (x | g)", begin).passes == 1
    with pytest.raises(DataError, match="the chunks have no rows to use"):
        mme.preflight("y ~ x + (x | g)", [data[:0]])


def test_files_say_how_many_rows_there_are(data, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow (extra 'arrow') is not installed")
    for i, part in enumerate(pieces(data, 300)):
        part.to_parquet(tmp_path / f"{i}.parquet")
    forecast = mme.preflight("y ~ x + (1 | g)", tmp_path, weights="w")
    assert forecast.rows == 700 and forecast.workers == 1
    assert forecast.file_bytes == sum(os.path.getsize(path) for path in tmp_path.iterdir())
    assert forecast.row_bytes == 4 * 8 and forecast.read_bytes == 700 * 32
    assert forecast.seconds == 700 * forecast.row_seconds > 0
    assert "rows                 700" in str(forecast) and "MiB, read 1 times" in str(forecast)


def test_a_frame_of_dask(data):
    dd = pytest.importorskip("dask.dataframe", reason="dask (extra 'dask') is not installed")
    forecast = mme.preflight("y ~ x + f + (1 | g)", dd.from_pandas(data, npartitions=7))
    assert forecast.looked == 100 and forecast.partitions == 7 and forecast.passes == 2
    assert forecast.workers >= 1 and "threads for 7 partitions" in str(forecast)
