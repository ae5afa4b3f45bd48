"""Predictions written chunk by chunk are those of one frame."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mme
from mme.exceptions import DataError

from .data import pieces

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow (extra 'arrow') is not installed")


@pytest.mark.parametrize("formula", ["y ~ x + f + (x | g)", "np.log(pos) ~ x + offset(0.5 * z) + (1 | text)"])
def test_predictions_of_a_stream(data, tmp_path, formula):
    data = data.copy()
    data.loc[[5, 130], "x"] = np.nan
    data.loc[[6], "y" if formula[0] == "y" else "pos"] = np.nan
    whole = mme.lmer(formula, data, missing="drop")
    data.to_parquet(tmp_path / "rows.parquet", row_group_size=100)
    stream = mme.lmer(formula, tmp_path / "rows.parquet", missing="drop")
    expected = whole.predict(data)
    for source in (tmp_path / "rows.parquet", pieces(data, 90), data, lambda: iter(pieces(data, 300))):
        path = stream.predict(source, to=tmp_path / "out.parquet")
        assert path == tmp_path / "out.parquet"
        out = pd.read_parquet(path)
        assert out.columns.tolist() == ["predicted_mean", "resid"]
        assert np.allclose(out.predicted_mean, expected, rtol=1e-9, equal_nan=True)
        assert out.predicted_mean.isna().sum() == 2 and out.resid.isna().sum() == 3
    assert np.allclose(out.resid.dropna(), whole.resid, rtol=1e-7, atol=1e-8)
    population = stream.predict(data, False, to=tmp_path / "out.parquet")
    assert np.allclose(
        pd.read_parquet(population).predicted_mean, whole.predict(data, False), rtol=1e-9, equal_nan=True
    )
    new = data.drop(columns=["y", "pos"])
    assert pq.read_schema(stream.predict(new, to=tmp_path / "new.parquet")).names == ["predicted_mean"]


def test_an_interrupted_prediction_leaves_what_was_there(data, tmp_path):
    results = mme.lmer("y ~ x + (1 | g)", data)
    path = results.predict(pieces(data, 100), to=tmp_path / "out.parquet")
    before = path.read_bytes()

    def broken():
        yield data[:100]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results.predict(broken, to=path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(DataError, match="needs rows or a source"):
        results.predict(to=path)
    with pytest.raises(
        DataError, match=r"written as Parquet, and .*out\.csv' says \.csv: name it .*out\.parquet"
    ):
        results.predict(data, to=path.with_name("out.csv"))
    with pytest.raises(DataError, match="of some chunks and not of others"):
        results.predict([data[:100], data[100:].drop(columns="y")], to=path)
    with pytest.raises(DataError, match="have no rows"):
        results.predict([data[:0]], to=path)
    assert path.read_bytes() == before


def test_bars_count_rows(data, monkeypatch, tmp_path):
    seen: list[tuple[str, int | None, int]] = []

    class Bar:
        def __init__(self, show, label="", total=None, unit=""):
            assert unit == " row" and show is True
            self.label, self.total = label, total

        def report(self, step):
            seen.append((self.label, self.total, step))

        def close(self):
            pass

    monkeypatch.setattr("mme.stream.sources.Progress", Bar)
    data.to_parquet(tmp_path / "rows.parquet")
    results = mme.lmer("y ~ x + f + (1 | g)", tmp_path / "rows.parquet", progress=True)
    results.predict(pieces(data, 400), to=tmp_path / "out.parquet", progress=True)
    assert seen == [
        ("first pass", 700, 700),
        ("second pass", 700, 700),
        ("prediction", None, 400),
        ("prediction", None, 700),
    ]
