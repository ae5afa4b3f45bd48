"""Levels of grouping factors numbered as they are met, so that one pass over the rows is enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ..engine.equations.level_sums import KeyNumbers, with_room
from ..engine.kernels.sums import number_whole
from ..exceptions import DataError
from .tables import LevelTable

__all__ = ["LevelNumbers", "Numbers", "TypeChanged"]

_SPAN = 1 << 24  # range of whole numbers up to which every one of them has a place
_FIRST = 1 << 16
_BITS = 31  # of the number of a level


class TypeChanged(DataError):
    """A column of labels has another type than in the first chunks: its levels are known after a pass."""


class _Column:
    """One column of labels.

    Parameters
    ----------
    name : str
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.n = 0
        self._dtype: Any = None
        self._found = np.empty(_FIRST, np.int64)
        self._numbers, self._low = np.empty(0, np.int32), 0
        self._keys: KeyNumbers | None = None
        self._values: dict[object, int] = {}
        self._parts: list[pd.Series] = []

    def codes(self, values: pd.Series) -> np.ndarray:
        """Numbers of values without missing ones, int32."""
        if self._dtype is None:
            self._dtype = values.dtype
        elif self._dtype != values.dtype:
            raise TypeChanged(
                f"column {self.name!r} is of type {self._dtype}, and {values.dtype} in a later chunk."
            )
        if isinstance(values.dtype, pd.CategoricalDtype):
            return self._whole(values.cat.codes.to_numpy().astype(np.int64))
        if isinstance(values.dtype, np.dtype) and (
            values.dtype.kind == "i" or (values.dtype.kind == "u" and values.dtype.itemsize < 8)
        ):
            return self._whole(values.to_numpy().astype(np.int64, copy=False))
        try:
            own, found = pd.factorize(values)
        except TypeError as error:
            raise TypeChanged(f"column {self.name!r} has labels that cannot be numbered: {error}.") from error
        known = self._values
        before = len(known)
        numbers = np.fromiter((known.setdefault(v, len(known)) for v in found), np.int32, len(found))
        new = numbers >= before
        if new.any():
            self._parts.append(pd.Series(found[new], dtype=values.dtype))
        self.n = len(known)
        return numbers[own]

    def _whole(self, values: np.ndarray) -> np.ndarray:
        values = np.ascontiguousarray(values)
        if self._keys is None and self._fits(int(values.min()), int(values.max())):
            codes = np.empty(values.size, np.int32)
            self._found = with_room(self._found, self.n, values.size)
            self.n = number_whole(values, self._low, self._numbers, self._found, self.n, codes)
            return codes
        if self._keys is None:
            self._keys = KeyNumbers.of(self._found[: self.n])
        codes = self._keys.codes(values)
        self.n = self._keys.n
        return codes

    def _fits(self, low: int, high: int) -> bool:
        """Whether the whole numbers have places, made where they have none."""
        size = self._numbers.size
        if size:
            low, high = min(low, self._low), max(high, self._low + size - 1)
        if high - low >= _SPAN:
            return False
        if high - low >= size:
            # with room on both sides for what later chunks have
            room = (high - low) // 4
            numbers = np.full(high - low + 1 + 2 * room, -1, np.int32)
            if size:
                start = self._low - low + room
                numbers[start : start + size] = self._numbers
            self._numbers, self._low = numbers, low - room
        return True

    def labels(self) -> pd.Series:
        """Label of every number."""
        if self._parts:
            return pd.concat(self._parts, ignore_index=True)
        found = self._found[: self.n] if self._keys is None else self._keys.keys
        if isinstance(self._dtype, pd.CategoricalDtype):
            return pd.Series(pd.Categorical.from_codes(found, dtype=self._dtype))
        return pd.Series(found.astype(self._dtype))


class LevelNumbers:
    """The levels of a grouping factor, in the order in which they are met.

    Parameters
    ----------
    columns : tuple of str
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self._columns = [_Column(name) for name in columns]
        # combinations of the first two columns, three, ...
        self._stages = [KeyNumbers() for _ in columns[1:]]

    @property
    def n_levels(self) -> int:
        """Levels met so far."""
        return self._stages[-1].n if self._stages else self._columns[0].n

    def codes(self, values: Sequence[pd.Series]) -> np.ndarray:
        """Number of every row, int32.

        Parameters
        ----------
        values : sequence of Series
            The columns, without missing values.

        Raises
        ------
        TypeChanged
            A column of another type than before.
        """
        codes = self._columns[0].codes(values[0])
        for stage, column, more in zip(self._stages, self._columns[1:], values[1:], strict=True):
            codes = stage.codes((codes.astype(np.int64) << _BITS) | column.codes(more))
        return codes

    def table(self) -> tuple[LevelTable, np.ndarray]:
        """The levels, and where each number is among them."""
        numbers = np.arange(self.n_levels)
        parts = []
        for stage in reversed(self._stages):
            keys = stage.keys[numbers]
            parts.append(keys & ((1 << _BITS) - 1))
            numbers = keys >> _BITS
        parts.append(numbers)
        rows = pd.DataFrame(
            {
                column.name: column.labels().iloc[own].reset_index(drop=True)
                for column, own in zip(self._columns, reversed(parts), strict=True)
            },
            copy=False,
        )
        table = LevelTable.of(rows)
        return table, table.coding.codes([rows[name] for name in self.columns], None)


Numbers: TypeAlias = dict[tuple[str, ...], LevelNumbers]
