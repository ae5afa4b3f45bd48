"""Sources of chunks that can be begun again: files, Arrow datasets, queries, callables, lists of frames."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..engine.runtime.notices import Progress
from ..exceptions import DataError

if TYPE_CHECKING:
    from .survey import Request

__all__ = ["Source", "columns_of", "frame_of", "is_cluster_frame", "is_source", "source_of", "watched"]

_ROWS = 262_144  # of an Arrow batch
_AHEAD = 4  # batches decoded beforehand
_QUERIES = {"polars": "collect_batches", "duckdb": "project"}


@dataclass(frozen=True)
class Source:
    """Chunks, as often as wanted.

    Attributes
    ----------
    begin : callable () -> iterable of chunks
    count : callable () -> int, or None
        Rows, where they are known without reading them.
    size : callable () -> int, or None
        Bytes of the files.
    """

    begin: Callable[[], Iterable[Any]]
    count: Callable[[], int] | None = None
    size: Callable[[], int] | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter(self.begin())


def watched(chunks: Iterable[Any], progress: bool | None, label: str = "first pass") -> Iterator[Any]:
    """Chunks, and a bar of their rows.

    Parameters
    ----------
    chunks : iterable
    progress : bool, optional
        None: on a terminal, once it has taken a while.
    label : str
    """
    count = getattr(chunks, "count", None) if isinstance(chunks, Source) and progress is not False else None
    with closing(Progress(progress, label, total=count and count(), unit=" row")) as bar:
        seen = 0
        for chunk in chunks:
            yield chunk
            rows = getattr(chunk, "num_rows", None)
            seen += len(chunk) if rows is None and hasattr(chunk, "__len__") else rows or 0
            bar.report(seen)


def is_source(data: object) -> bool:
    """Whether data are chunks rather than one frame."""
    if isinstance(data, str | os.PathLike):
        text = os.fspath(data)
        return isinstance(text, str) and (
            text.lower().endswith((".parquet", ".parq", ".pq"))
            or (_is_pattern(text) and "parq" in text.lower())
            or (os.path.isdir(text) and any(Path(text).rglob("*.parquet")))
        )
    kind, library = type(data), _library(data)
    if library == "pyarrow":
        return kind.__name__ == "RecordBatchReader" or kind.__name__.endswith("Dataset")
    if library in _QUERIES or is_cluster_frame(data):
        # what runs a query by batches, which older versions of polars have not
        return is_cluster_frame(data) or hasattr(data, _QUERIES.get(library, ""))
    if not _is_frame(data) and hasattr(data, "__arrow_c_stream__"):
        return True
    if isinstance(data, list | tuple):
        return bool(data) and all(_is_frame(part) for part in data)
    return (callable(data) and not isinstance(data, type)) or isinstance(data, Iterator)


def _is_pattern(path: str) -> bool:
    return not set(path).isdisjoint("*?[")


def _is_frame(value: object) -> bool:
    eager = isinstance(value, pd.DataFrame) or hasattr(value, "num_rows")
    return eager or (_library(value) == "polars" and type(value).__name__ in ("DataFrame", "Series"))


def _library(value: object) -> str:
    return type(value).__module__.partition(".")[0].removeprefix("_")


def is_cluster_frame(data: object) -> bool:
    """Whether data are a frame of Dask, whose partitions are summed where they are."""
    return (
        _library(data) in ("dask", "dask_expr") and hasattr(data, "to_delayed") and hasattr(data, "columns")
    )


def source_of(data: object, request: Request) -> Source:
    """A source of chunks.

    Parameters
    ----------
    data : object
        A path, a pyarrow Dataset, a lazy frame of polars, a relation of DuckDB, anything that gives an Arrow
        stream, a callable, a list of frames.
    request : Request
        Columns that are not in it are not read.

    Raises
    ------
    DataError
        What can be read only once.
    """
    if isinstance(data, str | os.PathLike):
        return _arrow(_dataset(os.fspath(data)), request)
    kind, library = type(data).__name__, _library(data)
    if kind == "RecordBatchReader" or isinstance(data, Iterator):
        raise DataError(
            f"a {kind} can be read once, and a fit reads its rows twice (levels first). Give what starts it "
            "again: chunks=lambda: open_it_again()."
        )
    if library == "pyarrow":
        return _arrow(data, request)
    if library == "polars" and kind == "LazyFrame":
        return _polars(data, request)
    if library == "duckdb":
        return _duckdb(data, request)
    if hasattr(data, "__arrow_c_stream__"):
        return _capsules(data, request)
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
    columns = columns_of(request, dataset.schema.names)
    options = _of_local_files(dataset)

    def begin() -> Iterator[pd.DataFrame]:
        scanner = dataset.scanner(
            columns=columns, batch_size=_ROWS, batch_readahead=_AHEAD, fragment_readahead=1, **options
        )
        return _frames(scanner.to_batches())

    files = getattr(dataset, "files", None)
    size = None if files is None else lambda: sum(os.path.getsize(f) for f in files if os.path.exists(f))
    return Source(begin, dataset.count_rows, size)


def _of_local_files(dataset: Any) -> dict[str, Any]:
    """Options of a scan of Parquet files on this machine.

    By default a scan holds what it read: of 100 million rows 2 GiB in place of 0.1, in twice the time.
    """
    import pyarrow.dataset as ds
    import pyarrow.fs as fs

    if not isinstance(getattr(dataset, "format", None), ds.ParquetFileFormat) or not isinstance(
        dataset.filesystem, fs.LocalFileSystem
    ):
        return {}
    return {"fragment_scan_options": ds.ParquetFragmentScanOptions(pre_buffer=False)}


def columns_of(request: Request, names: Iterable[str]) -> list[str]:
    """Columns that may be meant by a formula and what goes with it, in the order of the names."""
    text = " ".join([request.formula, str(request.subset or ""), *request.given.values()])
    # words of the text, and names that are no words
    words: set[str] = set(re.findall(r"[^\W\d]\w*(?:\.\w+)*", text)) | set(re.findall(r"[^\W\d]\w*", text))
    return [n for n in names if n in words or (not n.isidentifier() and n in text)]


def _frames(batches: Iterable[Any]) -> Iterator[pd.DataFrame]:
    for batch in batches:
        if batch.num_rows:
            yield frame_of(batch)


def _polars(query: Any, request: Request) -> Source:
    """A lazy frame, run once for every pass by the streaming engine, with the columns of the formula."""
    chosen = query.select(columns_of(request, query.collect_schema().names()))

    def begin() -> Iterator[pd.DataFrame]:
        for frame in chosen.collect_batches(chunk_size=_ROWS, maintain_order=True):
            yield from _frames(_batches(frame.rechunk()))

    return Source(begin)


def _duckdb(relation: Any, request: Request) -> Source:
    """A relation, run once for every pass."""
    names = columns_of(request, relation.columns)
    chosen = relation.project(", ".join('"' + name.replace('"', '""') + '"' for name in names))

    def begin() -> Iterator[pd.DataFrame]:
        # the name of older versions
        read = getattr(chosen, "to_arrow_reader", None) or chosen.fetch_arrow_reader
        return _frames(read(_ROWS))

    return Source(begin)


def _capsules(data: Any, request: Request) -> Source:
    """Anything with the Arrow PyCapsule interface that gives its stream anew whenever it is asked."""

    def begin() -> Iterator[pd.DataFrame]:
        for batch in _batches(data):
            names = columns_of(request, batch.schema.names)
            yield from _frames([batch.select(names)] if names else [])

    return Source(begin)


def _batches(data: Any) -> Any:
    """The Arrow batches of a stream."""
    pa = _pyarrow(f"a {type(data).__name__}")
    try:
        return pa.RecordBatchReader.from_stream(data)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"a {type(data).__name__} could not be read from its beginning ({error}). Give what starts it "
            "again: chunks=lambda: open_it_again()."
        ) from error


def _pyarrow(what: str) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            f"{what} is read with pyarrow, which is not installed: pip install pyarrow."
        ) from error
    return pyarrow
