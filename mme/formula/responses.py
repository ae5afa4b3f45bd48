"""Responses of many models, read block by block: arrays, frames, sparse matrices, AnnData, iterators.

A block is rows by responses, float64, with NaN for missing values.  Whatever can be sliced by columns (a
numpy memmap, an HDF5 dataset, AnnData backed by a file) is read a block at a time, and again where a result
is asked for; an iterator is read once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import DataError

__all__ = ["Responses"]

_SHAPE = "responses must have a row for every row of the data and a column for every response"


class Responses:
    """Many responses.

    Parameters
    ----------
    values : array_like, DataFrame, sparse matrix, AnnData-like, or iterable of such blocks
    index : Index
        The data's labels of the rows in use.
    given : int
        Rows of the data before any were left out.
    rows : ndarray of int, shape (n,), or None
        Which of these are in use; None: not known, and only labels or the rows in use themselves can tell.

    Raises
    ------
    DataError
        Another number of rows, labels that are not the data's, values that are no numbers.
    """

    def __init__(self, values: Any, index: pd.Index, given: int, rows: np.ndarray | None) -> None:
        self._index, self._given, self._rows = index, given, rows
        self._frame: pd.DataFrame | None = None
        self._matrix: Any = None
        self._stream: Iterator[Any] | None = None
        self._is_stream = False
        self._labels: pd.Index | None = None
        self._chosen: np.ndarray | None = None
        if isinstance(values, str | bytes | dict) or values is None:
            raise DataError(f"{_SHAPE}, not {type(values).__name__}.")
        if _is_annotated(values):
            self._labels = pd.Index(values.var_names)
            self._matrix = values.X
            names = getattr(values, "obs_names", None)
            if names is not None and not isinstance(names, pd.RangeIndex):
                self._chosen = self._aligned(pd.Index(names), "the responses' obs_names")
        elif isinstance(values, pd.Series):
            self._frame = values.to_frame()
        elif isinstance(values, pd.DataFrame):
            self._frame = values
        elif hasattr(values, "shape") and hasattr(values, "__getitem__"):
            self._matrix = values
        elif isinstance(values, list | tuple):
            self._matrix = np.asarray(values)
        elif isinstance(values, Iterable):
            self._stream, self._is_stream = iter(values), True
        else:
            raise DataError(f"{_SHAPE}, not {type(values).__name__}.")
        if self._frame is not None:
            self._labels = self._frame.columns
            self._chosen = self._aligned(self._frame.index, "the responses' index")
        if self._matrix is not None:
            shape = tuple(self._matrix.shape)
            if len(shape) != 2:
                raise DataError(f"{_SHAPE}; they have shape {shape}. One response is y[:, None].")
            if self._chosen is None:
                self._chosen = self._positions(shape[0], shape[1])
            if _is_sparse(self._matrix) and self._matrix.format != "csc":
                self._matrix = self._matrix.tocsc()

    @property
    def count(self) -> int | None:
        """How many there are; None where only the end of an iterator tells."""
        if self._frame is not None:
            return self._frame.shape[1]
        return None if self._matrix is None else int(self._matrix.shape[1])

    @property
    def can_be_read_again(self) -> bool:
        """Whether `column` can be asked for."""
        return not self._is_stream

    def blocks(self, size: int) -> Iterator[tuple[pd.Index, np.ndarray]]:
        """Labels and values, rows in use, of up to so many responses at a time."""
        if not self._is_stream:
            count = self.count or 0
            for start in range(0, count, size):
                stop = min(count, start + size)
                labels = pd.RangeIndex(start, stop) if self._labels is None else self._labels[start:stop]
                yield labels, self._read(start, stop)
            return
        start = 0
        for number, block in enumerate(self._stream or ()):
            try:
                part = Responses(block, self._index, self._given, self._rows)
            except DataError as error:
                raise DataError(f"block {number} of the responses: {error}") from None
            if part.count is None:
                raise DataError(f"block {number} of the responses: {_SHAPE}, not {type(block).__name__}.")
            for labels, values in part.blocks(size):
                named = labels if part._labels is not None else labels + start
                yield named, values
            if part._labels is None:
                start += part.count

    def __getstate__(self) -> dict[str, Any]:
        # an iterator has been read
        return {**self.__dict__, "_stream": None}

    def column(self, i: int) -> np.ndarray:
        """One response, rows in use."""
        return self._read(i, i + 1)[:, 0]

    def _read(self, start: int, stop: int) -> np.ndarray:
        if self._frame is not None:
            frame = self._frame.iloc[:, start:stop]
            try:
                values = frame.to_numpy(dtype=np.float64, na_value=np.nan)
            except (TypeError, ValueError) as error:
                bad = [str(c) for c, d in frame.dtypes.items() if not pd.api.types.is_numeric_dtype(d)]
                raise DataError(f"responses are not numeric: {', '.join(bad) or error}.") from error
        else:
            part = self._matrix[:, start:stop]
            part = part.toarray() if hasattr(part, "toarray") else part
            if isinstance(part, np.ma.MaskedArray):
                part = np.ma.filled(part.astype(np.float64), np.nan)
            try:
                values = np.asarray(part, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise DataError(f"responses are not numeric: {error}.") from error
        return values if self._chosen is None else values[self._chosen]

    def _aligned(self, labels: pd.Index, what: str) -> np.ndarray | None:
        """Rows of the responses that are in use, by the data's labels."""
        if labels.equals(self._index):
            return None
        if isinstance(labels, pd.RangeIndex) and isinstance(self._index, pd.RangeIndex):
            return self._positions(len(labels), -1)
        if labels.is_unique and self._index.is_unique:
            positions = labels.get_indexer(self._index)
            if np.all(positions >= 0):
                return positions
        raise DataError(
            f"{what} differs from the data's: labels of rows must be unique and the data's all be there. "
            "Reindex the responses, or pass their values (.to_numpy()) to go by position."
        )

    def _positions(self, rows: int, count: int) -> np.ndarray | None:
        """The same by position."""
        n = len(self._index)
        if rows == self._given and self._rows is not None:
            return None if n == rows else self._rows
        if rows == n:
            return None
        turned = " Transpose them: rows are observations." if count in (n, self._given) else ""
        left = f" ({self._given} before rows were left out)" if self._given != n else ""
        raise DataError(f"{_SHAPE}: they have {rows} rows, the data {n}{left}.{turned}")


def _is_sparse(values: Any) -> bool:
    # scipy.sparse is not imported for those who have no such matrix
    return type(values).__module__.startswith("scipy.sparse")


def _is_annotated(values: Any) -> bool:
    """AnnData, or anything else with a matrix X whose columns are named by var_names."""
    return hasattr(values, "X") and hasattr(values, "var_names")
