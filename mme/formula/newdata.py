"""Rows of a new frame: columns looked up, counted where values are missing, in the types of the fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import DataError
from .frame import as_frame, as_numeric, missing_and_infinite, refuse_duplicates, suggest

__all__ = ["NewRows", "refuse_unseen"]

_SHOWN = 5


class NewRows:
    """The rows of a new frame, for the codings of one formula.

    Parameters
    ----------
    data : DataFrame, mapping of arrays, or anything `pandas.DataFrame` takes, n rows
    formula : str
        For messages.
    adopted : collection of str
        Columns of the fit that were variables of the caller.
    context : mapping, optional
        Functions and variables in place of those kept with the formula.

    Attributes
    ----------
    data : DataFrame
    formula : str
    context : mapping or None
    missing : dict of str to int
        Missing values by column, of the columns looked at so far.
    """

    def __init__(
        self,
        data: object,
        formula: str,
        adopted: Iterable[str] = (),
        context: Mapping[str, object] | None = None,
    ) -> None:
        self.data = as_frame(data)
        if len(self.data) == 0:
            raise DataError("the data are empty: 0 rows.")
        self.formula = formula
        self.context = context
        self.missing: dict[str, int] = {}
        self._adopted = frozenset(adopted)
        self._masks: dict[str, np.ndarray | None] = {}

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.data)

    @property
    def index(self) -> pd.Index:
        """Labels of the rows."""
        return self.data.index

    def column(self, name: str) -> pd.Series:
        """A column as it is; DataError where there is none, or several."""
        names = self.data.columns
        if name not in names:
            if name in self._adopted:
                raise DataError(
                    f"formula {self.formula!r}: {name!r} was a variable of the caller with one value for "
                    "each row of the data of the fit; new rows need it as a column."
                )
            raise DataError(
                f"the new rows have no column {name!r}, which formula {self.formula!r} uses"
                f"{suggest([name], frozenset(names))}."
            )
        if not names.is_unique:
            refuse_duplicates(self.data, [name])
        return self.data[name]

    def missing_rows(self, names: Sequence[str]) -> np.ndarray | None:
        """Mask of the rows in which any of the columns has a missing value; None where there are none.

        Raises
        ------
        DataError
            Infinite values.
        """
        out: np.ndarray | None = None
        for name in names:
            mask = self._mask(name)
            if mask is not None:
                out = mask if out is None else out | mask
        return out

    def _mask(self, name: str) -> np.ndarray | None:
        if name not in self._masks:
            mask, infinite = missing_and_infinite(self.column(name))
            if infinite:
                raise DataError(f"column {name!r} has {infinite} infinite values in the new rows.")
            self._masks[name] = mask
            if mask is not None:
                self.missing[name] = int(np.count_nonzero(mask))
        return self._masks[name]

    def complete(self, names: Sequence[str]) -> tuple[NewRows, np.ndarray | None]:
        """The rows without missing values in the columns, and the mask of the others (None: all are here)."""
        mask = self.missing_rows(names)
        if mask is None:
            return self, None
        out = object.__new__(NewRows)
        out.__dict__.update(self.__dict__)
        out.data = self.data[list(names)][~mask]
        out._masks = dict.fromkeys(names)
        return out, mask

    def numeric(self, name: str) -> np.ndarray:
        """A column as float64, shape (n,); DataError where it holds no numbers."""
        column = _by_value(self.column(name))
        values = as_numeric(column)
        if values is None and column.isna().all():
            values = np.full(self.n, np.nan)
        if values is None:
            raise DataError(
                f"column {name!r} held numbers in the data of the fit and holds none here (dtype "
                f"{self.data[name].dtype}); convert it: pd.to_numeric(data[{name!r}])."
            )
        return values

    def typed(self, kinds: Mapping[str, Any]) -> pd.DataFrame:
        """Complete columns in the types they had when the formula was evaluated in the data of the fit.

        Parameters
        ----------
        kinds : mapping of str to dtype

        Raises
        ------
        DataError
            A column of another kind, or a level of a categorical column that there was not.
        """
        out = {name: self._typed(name, dtype) for name, dtype in kinds.items()}
        return pd.DataFrame(out, copy=False) if out else pd.DataFrame(index=pd.RangeIndex(self.n))

    def _typed(self, name: str, dtype: Any) -> object:
        column = self.column(name)
        if isinstance(dtype, pd.CategoricalDtype):
            refuse_unseen(name, column, dtype.categories)
            return pd.Categorical(_by_value(column), categories=dtype.categories, ordered=dtype.ordered)
        kind = dtype.kind if isinstance(dtype, np.dtype) else ""
        if kind in ("f", "i", "b"):
            values = self.numeric(name)
            whole = pd.api.types.is_integer_dtype(column.dtype)
            if kind == "i" and whole:
                return column.to_numpy(dtype=np.int64)
            if kind == "i" and np.array_equal(values, np.trunc(values)) and np.abs(values).max() < 2.0**53:
                return values.astype(np.int64)
            if kind == "b" and np.isin(values, (0.0, 1.0)).all():
                return values.astype(bool)
            return values
        column = _by_value(column)
        if column.dtype == dtype:
            return column.array
        if as_numeric(column) is None:
            try:
                return column.astype(dtype).array
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"column {name!r} was of type {dtype} in the data of the fit and cannot be made of "
                    f"{column.dtype}: {error}."
                ) from error
        raise DataError(
            f"column {name!r} held no numbers in the data of the fit (dtype {dtype}) and holds numbers here "
            f"(dtype {column.dtype}); convert it: data[{name!r}].astype(str)."
        )


def refuse_unseen(name: str, values: pd.Series, levels: Iterable) -> None:
    """Raise DataError for values that are none of the levels of a factor whose effects are fixed."""
    levels = list(levels)
    values = pd.Series(values)
    other = values[~values.isin(levels).to_numpy(dtype=bool)]
    if other.empty:
        return
    counts = other.astype(object).value_counts()
    found = ", ".join(f"{value!r} ({count})" for value, count in counts.head(_SHOWN).items())
    more = ", ..." if len(counts) > _SHOWN else ""
    listed = ", ".join(map(repr, levels[:20])) + (", ..." if len(levels) > 20 else "")
    raise DataError(
        f"column {name!r} has levels that the data of the fit did not have: {found}{more}; its levels are "
        f"{listed}. There is no effect of others: leave those rows out."
    )


def _by_value(column: pd.Series) -> pd.Series:
    """A categorical column as the values it stands for."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.astype(column.cat.categories.dtype)
    return column
