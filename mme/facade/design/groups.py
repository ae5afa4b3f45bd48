"""Grouping rows by codes: labels in sorted order, the rows of each group, blocks of arrays."""

from __future__ import annotations

import math
from collections.abc import Hashable
from functools import cached_property

import numpy as np
import pandas as pd

from ...exceptions import DataError
from ...formula.codes import encode

__all__ = ["GroupIndex", "GroupedData", "factorize"]


def factorize(values: object, what: str) -> tuple[np.ndarray, list[Hashable]]:
    """Codes and labels of a column, labels sorted where they can be.

    Parameters
    ----------
    values : array_like, shape (n,) or (n, m)
        Labels; several columns are combined and labelled by tuples.
    what : str
        Named in messages.

    Returns
    -------
    codes : ndarray of int, shape (n,)
        -1 where the label is missing.
    labels : list
        The distinct labels; in order of first appearance where they do not sort (mixed types).
    """
    if isinstance(values, pd.DataFrame):
        if values.shape[1] == 1:
            return factorize(values.iloc[:, 0], what)
        return _combine([factorize(values.iloc[:, j], what) for j in range(values.shape[1])])
    if not isinstance(values, pd.Series | pd.Index | pd.Categorical):
        values = _as_array(values)
    if values.ndim == 2:
        if values.shape[1] == 1:
            return factorize(values[:, 0], what)
        return _combine([factorize(values[:, j], what) for j in range(values.shape[1])])
    if values.ndim != 1:
        raise DataError(f"{what} must be one-dimensional; it has shape {values.shape}.")
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iu":
        factor = encode(values, what)
        return factor.codes, np.asarray(factor.held).tolist()
    codes, uniques = pd.factorize(values, sort=False)
    array = np.asarray(uniques)
    if array.dtype.kind in "biufmM":
        order = np.argsort(array, kind="stable")
    else:
        labels = array.tolist()
        try:
            order = np.array(sorted(range(len(labels)), key=labels.__getitem__), dtype=np.intp)
        except TypeError:
            return codes.astype(np.intp, copy=False), labels
    rank = np.empty(order.size + 1, dtype=np.intp)
    rank[order] = np.arange(order.size)
    rank[-1] = -1  # code -1, a missing label, stays -1
    # tolist() would turn dates into integers
    sorted_ = array[order]
    return rank[codes], list(sorted_) if array.dtype.kind in "mM" else sorted_.tolist()


def _as_array(values: object) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim == 0:
        raise DataError(f"groups must be a sequence of labels, one per row, not {values!r}.")
    return array


def _combine(parts: list[tuple[np.ndarray, list[Hashable]]]) -> tuple[np.ndarray, list[Hashable]]:
    """Observed combinations of several factors, in the order of the first, then the second, and so on."""
    key = np.zeros(parts[0][0].size, dtype=np.int64)
    missing = np.zeros(key.size, dtype=bool)
    for codes, labels in parts:
        key = key * max(len(labels), 1) + codes
        missing |= codes < 0
    key[missing] = -1
    codes, uniques = pd.factorize(np.where(missing, np.int64(-1), key), sort=True)
    if missing.any():
        codes, uniques = codes - 1, uniques[1:]
    columns = []
    for _, labels in reversed(parts):
        uniques, level = np.divmod(uniques, max(len(labels), 1))
        columns.append([labels[i] for i in level])
    return codes.astype(np.intp), list(zip(*reversed(columns), strict=True))


class GroupIndex:
    """The partition of n rows into groups.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        Group of each row, every group present, none missing.
    labels : list
        Label of each group, in the order of the codes.

    Attributes
    ----------
    sizes : ndarray of intp, shape (n_groups,)
        Rows per group.
    order : ndarray of intp, shape (n,)
        Rows sorted by group, in data order within a group.
    starts : ndarray of intp, shape (n_groups + 1,)
        ``order[starts[g]:starts[g + 1]]`` are the rows of group g.
    """

    def __init__(self, codes: np.ndarray, labels: list[Hashable]) -> None:
        self.codes = codes
        self.labels = labels

    @classmethod
    def from_labels(cls, values: object, n: int) -> GroupIndex:
        """Group rows by label; raises `DataError` for a wrong length or missing labels."""
        codes, labels = factorize(values, "groups")
        if codes.size != n:
            raise DataError(f"groups has {codes.size} labels but the response has {n} rows.")
        missing = int(np.count_nonzero(codes < 0))
        if missing:
            raise DataError(
                f"groups has {missing} missing labels in {n} rows. Remove those rows, or use missing='drop'."
            )
        for label in (labels[0], labels[-1]) if labels else ():  # labels sort: infinities come first or last
            if isinstance(label, float) and math.isinf(label):
                raise DataError(f"groups has the infinite label {label}. Remove those rows.")
        return cls(codes, labels)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.labels)

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.codes.size

    @cached_property
    def sizes(self) -> np.ndarray:
        return np.bincount(self.codes, minlength=self.n_groups)

    @cached_property
    def starts(self) -> np.ndarray:
        return np.concatenate(([0], np.cumsum(self.sizes)))

    @cached_property
    def order(self) -> np.ndarray:
        return np.argsort(self.codes, kind="stable")

    @cached_property
    def sorted_already(self) -> bool:
        """Whether the rows come group by group in label order."""
        return bool(np.all(self.codes[1:] >= self.codes[:-1]))

    def without_rows(self) -> GroupIndex:
        """Labels and sizes alone, for results whose data were removed."""
        out = GroupIndex(np.empty(0, dtype=np.intp), self.labels)
        out.__dict__["sizes"] = self.sizes
        return out

    def rows(self, g: int) -> np.ndarray:
        """Rows of group g, ascending."""
        return self.order[self.starts[g] : self.starts[g + 1]]

    def split(self, array: np.ndarray) -> list[np.ndarray]:
        """The blocks of an array's rows, one per group."""
        return np.split(array[self.order], self.starts[1:-1])

    @cached_property
    def row_indices(self) -> dict[Hashable, np.ndarray]:
        """Rows of each group, by label."""
        return dict(zip(self.labels, np.split(self.order, self.starts[1:-1]), strict=True))


class GroupedData:
    """The model's data group by group, as statsmodels offers them; every list is built when asked for."""

    group_index: GroupIndex
    endog: np.ndarray
    exog: np.ndarray
    exog_re: np.ndarray | None

    @property
    def group_labels(self) -> list:
        """Distinct group labels, sorted where they sort."""
        return self.group_index.labels

    n_groups = property(lambda self: self.group_index.n_groups, doc="Number of groups.")

    @property
    def row_indices(self) -> dict:
        """Rows of each group."""
        return self.group_index.row_indices

    def group_list(self, array: object) -> list[np.ndarray] | None:
        """Split an array with a row per observation into blocks, one per group; None gives None."""
        return None if array is None else self.group_index.split(np.asarray(array))

    def need_data(self) -> None:
        """Raise `DataError` where the rows were removed."""
        raise NotImplementedError

    @property
    def endog_li(self) -> list[np.ndarray]:
        """Response of each group."""
        self.need_data()
        return self.group_index.split(self.endog)

    @property
    def exog_li(self) -> list[np.ndarray]:
        """Fixed-effects design of each group."""
        self.need_data()
        return self.group_index.split(self.exog)

    @property
    def exog_re_li(self) -> list[np.ndarray] | None:
        """Random-effects design of each group; None without `exog_re`."""
        return self.group_list(self.exog_re)
