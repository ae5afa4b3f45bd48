"""What a fit of a source would take, from a look at its first chunk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..engine.runtime.memory import available_memory
from ..exceptions import DataError
from .cluster import delayed_look
from .passes import collect
from .sources import Source, is_cluster_frame, source_of
from .survey import Request, Survey, is_empty

__all__ = ["StreamPreflight", "look_at", "preflight_source"]

_WARM = 64  # rows that are summed first, so that nothing is compiled while the clock runs


@dataclass(frozen=True)
class StreamPreflight:
    """Predicted cost of the sums of a source; the solver is chosen once they are there.

    Attributes
    ----------
    rows : int or None
        Of the source; None where that takes reading it.
    looked : int
        Rows that were looked at.
    passes : int
        Times that the rows are read: twice where columns left of the bars are coded by levels.
    file_bytes : int or None
        Of the files; None where there are none.
    row_bytes : float
        Of the formula's columns in memory.
    level_bytes : dict of str to (int, int)
        Levels of every grouping factor among the rows looked at, and bytes that the sums of one take.
    row_seconds : float
        Measured: for a row, over all passes, without reading.
    workers, partitions : int
        That share the rows; 1 without a cluster.
    available_bytes : float
        Memory this process could get.
    """

    rows: int | None
    looked: int
    passes: int
    file_bytes: int | None
    row_bytes: float
    level_bytes: Mapping[str, tuple[int, int]]
    row_seconds: float
    workers: int
    partitions: int
    available_bytes: float

    @property
    def seconds(self) -> float | None:
        """To add up all rows, on all workers together."""
        return None if self.rows is None else self.rows * self.row_seconds / self.workers

    @property
    def read_bytes(self) -> float | None:
        """Of the formula's columns, over all passes and workers."""
        return None if self.rows is None else self.rows * self.row_bytes * self.passes

    @property
    def sums_bytes(self) -> float:
        """Of the sums of the levels looked at, on every worker."""
        return float(sum(q * each for q, each in self.level_bytes.values()))

    def __str__(self) -> str:
        rows = self.rows
        lines = [
            f"rows                 {'known once they are read' if rows is None else f'{rows:,}'}",
            f"passes               {self.passes}",
        ]
        if self.file_bytes is not None:
            lines.append(f"files                {self.file_bytes / 2**20:,.1f} MiB, read {self.passes} times")
        lines.append(f"columns used         {self.row_bytes:,.0f} bytes a row")
        for name, (levels, each) in self.level_bytes.items():
            lines.append(
                f"term {name:<16}{levels:,} levels in the first {self.looked:,} rows, {each} bytes each"
            )
        if rows is None:
            lines.append(
                f"sums                 {1e6 * self.row_seconds:,.2f} s per million rows, and reading"
            )
        else:
            lines.append(f"sums                 {rows * self.row_seconds / self.workers:,.1f} s, and reading")
        if self.workers > 1 or self.partitions > 1:
            lines.append(f"workers              {self.workers} threads for {self.partitions} partitions")
        lines += [
            f"memory available     {self.available_bytes / 2**30:,.1f} GiB",
            "solver               chosen once the sums are there: CrossProducts.of(...).model().preflight()",
        ]
        return "\n".join(lines)


def look_at(request: Request, chunk: Any) -> dict[str, Any]:
    """What the rows of one chunk say of the others."""
    survey = Survey(request)
    rows = survey.add(chunk)
    if rows is None:
        return {}
    collect(request, [rows[:_WARM]])
    begin = time.perf_counter()
    products = collect(request, [rows])
    seconds = time.perf_counter() - begin
    names = [":".join(columns) for columns in products.recipe.group_columns]
    return {
        "looked": products.sums.n,
        "passes": 2 if survey.coded else 1,
        "row_bytes": float(rows.memory_usage(index=False).sum()) / len(rows),
        "level_bytes": {
            name: (len(block.table), 8 * block.table.shape[1])
            for name, block in zip(names, products.sums.blocks, strict=True)
        },
        "row_seconds": seconds / products.sums.n,
    }


def preflight_source(request: Request, data: object) -> StreamPreflight:
    """Look at the first chunk of a source that has rows.

    Raises
    ------
    DataError
        There are none; what can be read only once.
    """
    if is_cluster_frame(data):
        found, workers, partitions = delayed_look(request, data, look_at)
        return StreamPreflight(None, file_bytes=None, **_some(found), **_place(workers, partitions))
    source = source_of(data, request)
    for chunk in source:
        found = {} if is_empty(chunk) else look_at(request, chunk)
        if found:
            break
    else:
        found = {}
    count, size = (source.count, source.size) if isinstance(source, Source) else (None, None)
    return StreamPreflight(
        None if count is None else count(), file_bytes=size and size(), **_some(found), **_place(1, 1)
    )


def _some(found: dict[str, Any]) -> dict[str, Any]:
    if not found:
        raise DataError("the chunks have no rows to use: check subset and missing values.")
    return found


def _place(workers: int, partitions: int) -> dict[str, Any]:
    return {"workers": workers, "partitions": partitions, "available_bytes": available_memory()}
