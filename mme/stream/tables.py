"""Levels of a grouping factor without rows: tables of what occurs, that can be joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..exceptions import DataError
from ..formula.codes import Factor
from ..formula.frame import ModelFrame
from ..formula.levels import GroupCoding

__all__ = ["LevelTable", "Levels", "joined_columns"]

_SPAN = 1 << 26  # range of whole numbers up to which levels are ticked off, a byte each
_LARGEST = 1 << 62
_PENDING = 1_000_000  # rows of levels that may wait to be sorted out


@dataclass(frozen=True, eq=False)
class LevelTable:
    """The levels of a column, or of combinations of columns, in the order of their codes.

    Attributes
    ----------
    columns : tuple of str
    rows : DataFrame
        One row per level.
    factor : Factor
        Level i at row i.
    """

    columns: tuple[str, ...]
    rows: pd.DataFrame
    factor: Factor

    @classmethod
    def of(cls, rows: pd.DataFrame) -> LevelTable:
        """From a frame that has every level once."""
        names = tuple(str(name) for name in rows.columns)
        codes = ModelFrame(rows).factor(names).codes
        order = np.argsort(codes, kind="stable")
        rows = rows.iloc[order].reset_index(drop=True)
        return cls(names, rows, ModelFrame(rows).factor(names))

    @property
    def n_levels(self) -> int:
        """Number of levels."""
        return self.factor.n_levels

    @property
    def coding(self) -> GroupCoding:
        """Codes for rows."""
        return GroupCoding.of(self.columns, self.factor)

    def places(self, other: LevelTable) -> np.ndarray:
        """Where the levels of another table are in this one, -1 where they are not."""
        return self.coding.codes([other.rows[name] for name in self.columns], None)

    def united(self, other: LevelTable) -> LevelTable:
        """The levels of both."""
        levels = Levels(self.columns)
        levels.add(self.rows)
        levels.add(other.rows)
        return levels.table()

    def only(self, present: np.ndarray) -> LevelTable:
        """The levels that a mask picks."""
        return LevelTable.of(self.rows[present])


class Levels:
    """Levels met so far.

    Parameters
    ----------
    columns : tuple of str
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self._parts: list[pd.DataFrame] = []
        self._waiting = 0
        self._seen = np.zeros(0, dtype=bool)
        self._low, self._dtype = 0, np.dtype(np.int64)

    def add(self, rows: pd.DataFrame) -> None:
        """Rows without missing values."""
        if len(self.columns) == 1:
            name = self.columns[0]
            if self._mark(rows[name]):
                return
            found = pd.DataFrame({name: rows[name].unique()})
        else:
            found = rows[list(self.columns)].drop_duplicates()
        self._parts.append(found)
        self._waiting += len(found)
        if self._waiting > max(_PENDING, 2 * len(self._parts[0])):
            self._settle()

    def _mark(self, values: pd.Series) -> bool:
        """Tick whole numbers of a modest range off; whether that was done."""
        if not isinstance(values.dtype, np.dtype) or values.dtype.kind != "i" or self._parts:
            return False
        if self._seen.size and self._dtype != values.dtype:
            return False
        array = values.to_numpy().astype(np.int64, copy=False)
        low, high = int(array.min()), int(array.max())
        if self._seen.size:
            low, high = min(low, self._low), max(high, self._low + self._seen.size - 1)
        if high - low >= _SPAN or max(-low, high) > _LARGEST:
            return False
        if high - low >= self._seen.size:
            # with room on both sides for what later chunks have
            room = min((high - low) // 2, _SPAN - 1 - (high - low)) // 2
            seen = np.zeros(high - low + 1 + 2 * room, dtype=bool)
            if self._seen.size:
                start = self._low - low + room
                seen[start : start + self._seen.size] = self._seen
            self._seen, self._low, self._dtype = seen, low - room, values.dtype
        self._seen[array - self._low] = True
        return True

    def _settle(self) -> pd.DataFrame:
        if self._seen.size:
            ticked = (np.flatnonzero(self._seen) + self._low).astype(self._dtype)
            self._parts.append(pd.DataFrame({self.columns[0]: ticked}))
            self._seen = np.zeros(0, dtype=bool)
        if len(self._parts) > 1:
            both = {name: joined_columns([p[name] for p in self._parts], name) for name in self.columns}
            self._parts = [pd.DataFrame(both).drop_duplicates(ignore_index=True)]
        self._waiting = len(self._parts[0])
        return self._parts[0]

    def table(self) -> LevelTable:
        """All of them."""
        return LevelTable.of(self._settle())


def joined_columns(parts: Sequence[pd.Series], name: str) -> pd.Series:
    """Pieces of a column one below the other; categories that differ are taken by value.

    Raises
    ------
    DataError
        Ordered categories that differ.
    """
    kinds = [part.dtype for part in parts]
    if len(set(map(str, kinds))) > 1 or any(kind != kinds[0] for kind in kinds[1:]):
        if any(isinstance(kind, pd.CategoricalDtype) and kind.ordered for kind in kinds):
            raise DataError(
                f"column {name!r} has ordered categories that differ from chunk to chunk; give all chunks "
                "the same pandas.CategoricalDtype."
            )
        parts = [
            part.astype(part.cat.categories.dtype) if isinstance(part.dtype, pd.CategoricalDtype) else part
            for part in parts
        ]
    return pd.concat(parts, ignore_index=True)
