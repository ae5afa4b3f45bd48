"""Levels of a grouping factor without its rows: codes for the rows of another frame."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ..exceptions import DataError
from .codes import Factor, Held, code_type, labels_of, unhashable

__all__ = ["GroupCoding", "categorical_type"]

_FEW = 1000  # values that are hashed as fast


@dataclass(frozen=True, eq=False)
class GroupCoding:
    """The coding of a grouping factor, or of the interaction of several columns.

    Attributes
    ----------
    columns : tuple of str
    held : tuple of (pandas.Index or array)
        Levels of each column, as their factor holds them.
    table : tuple of ndarray, each of shape (n_levels,)
        Code of each column in every level; empty for one column.
    n_levels : int
    """

    columns: tuple[str, ...]
    held: tuple[Held, ...]
    table: tuple[np.ndarray, ...]
    n_levels: int

    @classmethod
    def of(cls, columns: tuple[str, ...], factor: Factor) -> GroupCoding:
        """That of a coded factor of the columns."""
        parts = factor.parts
        if not parts:
            return cls(columns, (factor.held,), (), factor.n_levels)
        held = tuple(part.held for part, _ in parts)
        return cls(columns, held, tuple(codes for _, codes in parts), factor.n_levels)

    @classmethod
    def from_labels(cls, columns: tuple[str, ...], labels: Sequence[Hashable]) -> GroupCoding:
        """That of labels in the order of their codes: of several columns, tuples."""
        if len(columns) == 1:
            return cls(columns, (pd.Index(labels),), (), len(labels))
        parts = [pd.factorize(pd.Index(part)) for part in zip(*labels, strict=True)]
        return cls(columns, tuple(p for _, p in parts), tuple(c for c, _ in parts), len(labels))

    def codes(self, values: Sequence[pd.Series], missing: np.ndarray | None) -> np.ndarray:
        """Level of every row.

        Parameters
        ----------
        values : sequence of Series, each of n rows
            The columns.
        missing : ndarray of bool, shape (n,), or None
            Rows where any of them is missing.

        Returns
        -------
        ndarray of int, shape (n,)
            In the type of a factor's codes; -1 for levels, or combinations, that there were not, and for
            missing ones.
        """
        n = len(values[0])
        known = slice(None) if missing is None else ~missing
        codes: np.ndarray | None = None
        for stage, (name, column, levels) in enumerate(zip(self.columns, values, self.labels, strict=True)):
            own = _positions(column[known], levels, name)
            codes = own if codes is None else _look_up(codes, own, len(levels), self._keys[stage - 1])
        assert codes is not None
        if self.table:
            codes = np.append(self._order, -1)[codes]
        out = np.full(n, -1, dtype=code_type(self.n_levels))
        out[known] = codes
        return out

    @cached_property
    def labels(self) -> tuple[pd.Index, ...]:
        """Levels of each column."""
        return tuple(labels_of(held) for held in self.held)

    @cached_property
    def _keys(self) -> list[np.ndarray]:
        return self._stages[0]

    @cached_property
    def _order(self) -> np.ndarray:
        return self._stages[1]

    @cached_property
    def _stages(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Sorted keys of the combinations of the first two columns, three, ...; level of each of the last."""
        codes = np.asarray(self.table[0], dtype=np.int64) if self.table else np.arange(self.n_levels)
        keys = []
        for own, levels in zip(self.table[1:], self.labels[1:], strict=True):
            found, codes = np.unique(codes * len(levels) + own, return_inverse=True)
            keys.append(found)
        order = np.empty(self.n_levels, dtype=np.int64)
        order[codes] = np.arange(self.n_levels)
        return keys, order

    def __getstate__(self) -> dict[str, object]:
        # the tables of combinations are made again; labels are stored as such
        return {name: getattr(self, name) for name in ("columns", "labels", "table", "n_levels")}


def categorical_type(levels: Iterable) -> pd.CategoricalDtype:
    """The type of a column with these levels."""
    return pd.CategoricalDtype(list(levels))


def _look_up(outer: np.ndarray, inner: np.ndarray, n_inner: int, keys: np.ndarray) -> np.ndarray:
    """Position of each combination among the keys; -1 where there is none."""
    key = outer.astype(np.int64) * n_inner + inner
    at = np.searchsorted(keys, key)
    at[at == keys.size] = 0
    return np.where((outer >= 0) & (inner >= 0) & (keys[at] == key), at, -1)


def _positions(values: pd.Series, levels: pd.Index, name: str) -> np.ndarray:
    """Position of every value among the levels, by value whatever its type; -1 where there is none."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        categories = pd.Series(values.cat.categories)
        table = np.append(_positions(categories, levels, name), -1)
        codes = table[values.cat.codes.to_numpy()]
    else:
        index = pd.Index(values)
        if levels.dtype == bool and pd.api.types.is_numeric_dtype(index.dtype):
            levels, index = levels.astype(np.int64), index.astype(np.float64)
        try:
            near = _by_counting(index, levels)
            codes = levels.get_indexer(index) if near is None else near
        except TypeError as error:
            raise unhashable(values, name) from error
    if codes.size and codes.max() < 0 and _is_text(pd.Index(values)) != _is_text(levels):
        held, holds = ("text", "no text") if _is_text(levels) else ("no text", "text")
        raise DataError(
            f"grouping column {name!r} held {held} in the data of the fit ({levels.dtype}: "
            f"{', '.join(map(repr, levels[:3].tolist()))}, ...) and holds {holds} here ({values.dtype}); "
            "convert it, or all levels would be new ones."
        )
    return codes


def _by_counting(values: pd.Index, levels: pd.Index) -> np.ndarray | None:
    """Positions of whole numbers among levels of a modest range; None where hashing is the way."""
    if levels.dtype != np.int64 or values.dtype != np.int64 or not levels.size or len(values) < _FEW:
        return None
    known, array = levels.to_numpy(), values.to_numpy()
    low, high = int(known.min()), int(known.max())
    if high - low > 4 * (known.size + len(values)):
        return None
    table = np.full(high - low + 1, -1, dtype=code_type(known.size))
    table[known - low] = np.arange(known.size, dtype=table.dtype)
    outside = (array < low) | (array > high)
    if outside.any():
        return np.where(outside, -1, table[np.where(outside, low, array) - low])
    return table[array - low]


def _is_text(values: pd.Index) -> bool:
    if isinstance(values, pd.CategoricalIndex):
        values = values.categories
    return pd.api.types.infer_dtype(values[:100], skipna=True) == "string"
