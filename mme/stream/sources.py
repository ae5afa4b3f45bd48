"""Sources of chunks that can be begun again: Parquet files, Arrow datasets, callables, lists of frames."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..exceptions import DataError

if TYPE_CHECKING:
    from .survey import Request

__all__ = ["Source", "is_source", "source_of"]

_ROWS = 262_144  # of an Arrow batch
_AHEAD = 4  # batches decoded beforehand


@dataclass(frozen=True)
class Source:
    """Chunks, as often as wanted.

    Attributes
    ----------
    begin : callable () -> iterable of chunks
    """

    begin: Callable[[], Iterable[Any]]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.begin())


def is_source(data: object) -> bool:
    """Whether data are chunks rather than one frame."""
    if isinstance(data, str | os.PathLike):
        text = os.fspath(data)
        return isinstance(text, str) and (
            text.lower().endswith((".parquet", ".parq", ".pq"))
            or (_is_pattern(text) and "parq" in text.lower())
            or (os.path.isdir(text) and any(Path(text).rglob("*.parquet")))
        )
    kind = type(data)
    if kind.__module__.partition(".")[0] == "pyarrow":
        return kind.__name__ == "RecordBatchReader" or kind.__name__.endswith("Dataset")
    if isinstance(data, list | tuple):
        return bool(data) and all(_is_frame(part) for part in data)
    return (callable(data) and not isinstance(data, type)) or isinstance(data, Iterator)


def _is_pattern(path: str) -> bool:
    return not set(path).isdisjoint("*?[")


def _is_frame(value: object) -> bool:
    return isinstance(value, pd.DataFrame) or hasattr(value, "num_rows")


def source_of(data: object, request: Request) -> Source:
    """A source of chunks.

    Parameters
    ----------
    data : str, path, pyarrow Dataset, callable, list of frames
    request : Request
        Columns that are not in it are not read.

    Raises
    ------
    DataError
        What can be read only once.
    """
    if isinstance(data, str | os.PathLike):
        return _arrow(_dataset(os.fspath(data)), request)
    kind = type(data).__name__
    if kind == "RecordBatchReader" or isinstance(data, Iterator):
        raise DataError(
            f"a {kind} can be read once, and a fit reads its rows twice (levels first). Give what starts it "
            "again: chunks=lambda: open_it_again()."
        )
    if type(data).__module__.partition(".")[0] == "pyarrow":
        return _arrow(data, request)
    if callable(data):
        return Source(lambda: _begun(data))
    assert isinstance(data, list | tuple)
    return Source(lambda: data)


def _begun(start: Callable[[], Any]) -> Iterator[Any]:
    made = start()
    if isinstance(made, pd.DataFrame) or not hasattr(made, "__iter__"):
        raise DataError(
            f"chunks() must return an iterator of frames, not {type(made).__name__}: "
            "chunks=lambda: pandas.read_csv(path, chunksize=100_000)."
        )
    return iter(made)


def _dataset(path: str) -> Any:
    try:
        import pyarrow.dataset as ds
    except ImportError as error:
        raise DataError(
            "Parquet files are read with pyarrow, which is not installed: pip install pyarrow."
        ) from error
    if _is_pattern(path) and not os.path.exists(path):
        import glob  # not among what is loaded anyway

        files: list[str] | str = sorted(map(str, glob.glob(path, recursive=True)))
        if not files:
            raise DataError(f"no file matches {path!r}.")
    else:
        if not os.path.exists(path):
            raise DataError(f"there is no file {path!r}.")
        files = path
    return ds.dataset(files, format="parquet")


def frame_of(batch: Any) -> pd.DataFrame:
    """An Arrow batch as a frame; numbers without missing values are not copied."""
    plain = {
        name: column.to_numpy(zero_copy_only=True)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
        if column.null_count == 0 and _is_number(column.type)
    }
    if len(plain) < len(batch.schema.names):
        rest = [name for name in batch.schema.names if name not in plain]
        plain |= dict(batch.select(rest).to_pandas().items())
    return pd.DataFrame({name: plain[name] for name in batch.schema.names}, copy=False)


def _is_number(kind: Any) -> bool:
    import pyarrow.types as pt

    return pt.is_integer(kind) or pt.is_float32(kind) or pt.is_float64(kind)


def _arrow(dataset: Any, request: Request) -> Source:
    names = list(dataset.schema.names)
    text = " ".join([request.formula, str(request.subset or ""), *request.given.values()])
    # words of the text, and names that are no words
    words: set[str] = set(re.findall(r"[^\W\d]\w*(?:\.\w+)*", text)) | set(re.findall(r"[^\W\d]\w*", text))
    columns = [n for n in names if n in words or (not n.isidentifier() and n in text)]

    def begin() -> Iterator[pd.DataFrame]:
        scanner = dataset.scanner(
            columns=columns, batch_size=_ROWS, batch_readahead=_AHEAD, fragment_readahead=1
        )
        for batch in scanner.to_batches():
            if batch.num_rows:
                yield frame_of(batch)

    return Source(begin)
