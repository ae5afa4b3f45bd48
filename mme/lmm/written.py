"""Predictions of more rows than fit in memory, written chunk by chunk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..exceptions import DataError
from ..formula.columns import Columns
from ..formula.frame import ModelFrame, as_frame
from ..formula.matrix import MatrixBuilder
from ..formula.newdata import NewRows
from ..formula.parse import names_in, parse_formula
from ..stream.sources import is_cluster_frame, is_source, source_of, watched
from ..stream.survey import Request, is_empty

__all__ = ["write_predictions"]

_OTHERS = frozenset(
    {".csv", ".tsv", ".txt", ".json", ".gz", ".zip", ".xlsx", ".feather", ".arrow"}
)  # other formats


def write_predictions(
    formula: str,
    offset: str | None,
    predict: Callable[[Any], Any],
    data: object,
    to: str | os.PathLike[str],
    progress: bool | None = None,
) -> Path:
    """Predict every chunk of a source and write what comes to a Parquet file.

    Parameters
    ----------
    formula : str
    offset : str or None
        Column of the offset.
    predict : callable (frame) -> Series
    data : object
        Rows, or a source of them.
    to : str or path
        A file that is there is replaced once the new one is complete.
    progress : bool, optional

    Returns
    -------
    Path

    Raises
    ------
    DataError
        No rows; a frame of Dask; the name of a text file; pyarrow is not installed.
    """
    if data is None:
        raise DataError(
            "predict(to=) needs rows or a source of them: the path of a Parquet file, for example."
        )
    if is_cluster_frame(data):
        raise DataError("a frame of Dask is predicted where it is: data.map_partitions(results.predict).")
    path = Path(to)
    if path.suffix.lower() in _OTHERS:
        raise DataError(
            f"predictions are written as Parquet, and {str(to)!r} says {path.suffix}: name it "
            f"{str(path.with_suffix('.parquet'))!r}."
        )
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(
            "predictions are written with pyarrow, which is not installed: pip install pyarrow."
        ) from error
    request = Request(formula, offset=offset, context={})
    chunks: Iterable[Any] = source_of(data, request) if is_source(data) else [data]
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    response = _Response(formula)
    writer = None
    try:
        for chunk in watched(chunks, progress, "prediction"):
            if is_empty(chunk):
                continue
            rows = as_frame(chunk)
            predicted = np.asarray(predict(rows), dtype=np.float64)
            columns = {"predicted_mean": predicted}
            observed = response.of(rows)
            if observed is not None:
                columns["resid"] = observed - predicted
            table = pa.table(columns)
            if writer is None:
                writer = pq.ParquetWriter(part, table.schema)
            elif table.schema != writer.schema:
                raise DataError("the response is a column of some chunks and not of others.")
            writer.write_table(table)
        if writer is None:
            raise DataError("the chunks have no rows.")
        writer.close()
        os.replace(part, path)
    finally:
        if writer is not None:
            writer.close()
        part.unlink(missing_ok=True)
    return path


class _Response:
    """The response of a formula, where rows have its columns."""

    def __init__(self, formula: str) -> None:
        self._formula = formula
        self._text = parse_formula(formula).response
        self._coding: Columns | None = None

    def of(self, rows: Any) -> np.ndarray | None:
        """Values, NaN where one is missing; None where a column is not there."""
        columns = frozenset(rows.columns)
        used, unknown = ([self._text], []) if self._text in columns else names_in(self._text, columns)
        if unknown or not used:
            return None
        if self._coding is None:
            frame = ModelFrame(rows)
            frame.check_missing(used, "drop", {})
            _, self._coding = MatrixBuilder(frame, self._formula).coded_response(self._text, probed=True)
        complete, missing = NewRows(rows, self._formula).complete(used)
        out = np.full(len(rows), np.nan)
        if complete.n:
            out[slice(None) if missing is None else ~missing] = self._coding.matrix(complete)[:, 0]
        return out
