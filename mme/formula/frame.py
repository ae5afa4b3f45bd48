"""The columns a model uses: looked up, checked for missing and infinite values, and converted once.

The only part of the formula layer that touches pandas' many column types.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from ..engine.runtime.finite import count_non_finite
from ..exceptions import DataError, FormulaError, MissingDataWarning, OptionError, warn_caller
from ..hints import data_hint
from .codes import Factor, as_array, encode, interact
from .safe import check_subset
from .scope import Scope

__all__ = [
    "ModelFrame",
    "as_frame",
    "as_numeric",
    "is_object",
    "missing_and_infinite",
    "not_numeric",
    "plain_column",
    "refuse_dates",
    "refuse_duplicates",
    "suggest",
    "to_pandas",
]

_MISSING = ("warn", "drop", "raise", "none")


class ModelFrame:
    """The data of one model.

    Parameters
    ----------
    data : DataFrame, mapping of arrays, or anything `pandas.DataFrame` takes
    subset : array of bool, shape (n,), or str, optional
        Rows to use; a string is an expression for `DataFrame.eval`.
    scope : Scope, optional
        What a subset may use beside the columns, as ``@name``; by default nothing.

    Attributes
    ----------
    data : DataFrame
        As given, all rows; columns of `adopt` are added to a copy.
    rows : ndarray of bool, shape (n,), or None
        Rows in use; None stands for all.
    dropped : int
        Rows left out because a value was missing.
    adopted : tuple of str
        Columns that are variables of the caller.
    """

    def __init__(self, data: object, subset: object = None, scope: Scope | None = None) -> None:
        self.data = as_frame(data)
        self.scope = Scope({}) if scope is None else scope
        self.dropped = 0
        self.adopted: tuple[str, ...] = ()
        self._columns: dict[str, pd.Series] = {}
        self._numeric: dict[str, np.ndarray] = {}
        self._factors: dict[tuple[str, ...], Factor] = {}
        names = self.data.columns
        self.names = frozenset(names)
        self._unique = names.is_unique
        if len(self.data) == 0:
            raise DataError("the data are empty: 0 rows.")
        self.rows = None if subset is None else self._subset(subset)

    @property
    def n(self) -> int:
        """Rows in use."""
        return len(self.data) if self.rows is None else int(np.count_nonzero(self.rows))

    @property
    def index(self) -> pd.Index:
        """Labels of the rows in use."""
        return self.data.index if self.rows is None else self.data.index[self.rows]

    def raw(self, name: str) -> pd.Series:
        """A column, rows in use."""
        column = self._columns.get(name)
        if column is None:
            column = self.data[name]
            if self.rows is not None:
                column = column[self.rows]
            self._columns[name] = column
        return column

    def check_names(self, names: Sequence[str], formula: str) -> None:
        """Raise FormulaError for names that are no columns, with the nearest ones."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            listed = ", ".join(repr(name) for name in unknown)
            raise FormulaError(
                f"formula {formula!r}: {listed} {'is' if len(unknown) == 1 else 'are'} not in the data"
                f"{suggest(unknown, self.names)}."
            )
        if not self._unique:
            refuse_duplicates(self.data, names)

    def adopt(self, name: str) -> bool:
        """Take a variable of the scope as a column if it holds one value per row of the data."""
        value = self.scope.get(name)
        kinds = (list, tuple, np.ndarray, pd.Series, pd.Index, pd.api.extensions.ExtensionArray)
        if not isinstance(value, kinds) or getattr(value, "ndim", 1) != 1 or len(value) != len(self.data):
            return False
        self._check_aligned(value, f"the variable {name!r}")
        self.data = self.data.assign(**{name: value})
        self.names |= {name}
        self.adopted += (name,)
        return True

    def check_missing(self, names: Sequence[str], missing: str, extra: dict[str, np.ndarray]) -> None:
        """Apply the rule for missing values to the columns of the model, all at once.

        Parameters
        ----------
        names : sequence of str
            Columns of the data that the model uses.
        missing : {"warn", "drop", "raise"}
            Leave out every row with a missing value in any of them, with a warning or without one, or raise;
            "none" is statsmodels' word for the latter.
        extra : dict of str to ndarray of float, shape (rows of the data,)
            Weights and offset given as arrays.

        Raises
        ------
        DataError
            Missing values under "raise", with the counts by column; infinite values always.

        Warns
        -----
        MissingDataWarning
            Rows were left out under "warn".
        """
        if missing not in _MISSING:
            raise OptionError(
                f"missing={missing!r} is not known; use 'warn' (leave out rows with missing values and say "
                "so), 'drop' (leave them out) or 'raise'."
            )
        absent: dict[str, np.ndarray] = {}
        infinite: dict[str, int] = {}
        values = {name: self.raw(name) for name in names}
        for label, array in extra.items():
            values[label] = array if self.rows is None else array[self.rows]
        for label, column in values.items():
            mask, inf = missing_and_infinite(column)
            if mask is not None:
                absent[label] = mask
            if inf:
                infinite[label] = inf
        if infinite:
            listed = ", ".join(f"{label} ({count})" for label, count in infinite.items())
            raise DataError(f"infinite values in columns of the model: {listed}. Remove or replace them.")
        if not absent:
            return
        listed = ", ".join(f"{label} ({np.count_nonzero(mask)})" for label, mask in absent.items())
        bad = np.logical_or.reduce(list(absent.values()))
        count = int(np.count_nonzero(bad))
        if missing in ("raise", "none"):
            raise DataError(
                f"missing values in columns of the model: {listed}; {count} of {bad.size} rows have at least "
                'one. Remove those rows, or use missing="drop".'
            )
        if count == bad.size:
            raise DataError(f"no rows are left after dropping those with missing values: {listed}.")
        self.dropped = count
        if missing == "warn":
            warn_caller(
                f"{count} of {bad.size} rows were left out because of missing values: {listed}. "
                'missing="drop" leaves them out without this warning, missing="raise" refuses them.',
                MissingDataWarning,
            )
        if self.rows is None:
            self.rows = ~bad
        else:
            rows = self.rows.copy()
            rows[rows] = ~bad
            self.rows = rows
        self._columns.clear()

    def numeric(self, name: str) -> np.ndarray | None:
        """A column as float64, shape (n,), or None if it is not of a numeric type."""
        values = self._numeric.get(name)
        if values is None:
            values = as_numeric(self.raw(name))
            if values is not None:
                self._numeric[name] = values
        return values

    def is_numeric(self, name: str) -> bool:
        """Whether a column is of a numeric or boolean type (numbers in an object column included)."""
        return self.numeric(name) is not None

    def is_boolean(self, name: str) -> bool:
        """Whether a column holds booleans."""
        column = self.raw(name)
        if is_object(column.dtype):
            return pd.api.types.infer_dtype(column, skipna=True) == "boolean"
        return pd.api.types.is_bool_dtype(column.dtype)

    def is_text(self, name: str) -> bool:
        """Whether a column, or a variable of that name, holds anything but numbers, booleans and times."""
        if name not in self.names:
            kind = getattr(self.scope.get(name), "dtype", None)
            return kind is None and not isinstance(self.scope.get(name), int | float)
        column = self.data[name]
        if isinstance(column, pd.DataFrame):
            return True
        return getattr(column.dtype, "kind", "O") not in "mM" and as_numeric(column) is None

    def factor(self, columns: tuple[str, ...]) -> Factor:
        """Codes of a grouping factor, or of the interaction of several; the same object when asked again."""
        factor = self._factors.get(columns)
        if factor is None:
            if len(columns) == 1:
                factor = encode(self.raw(columns[0]), columns[0])
            else:
                factor = interact([self.factor((name,)) for name in columns])
            self._factors[columns] = factor
        return factor

    def clean(self, names: Sequence[str], whole: bool = False) -> pd.DataFrame:
        """A small frame of the columns, in types that a formula engine reads without surprises.

        Parameters
        ----------
        names : sequence of str
        whole : bool
            Keep categories that do not occur.
        """
        out = {name: plain_column(self.raw(name), name, self.numeric(name), whole) for name in names}
        return pd.DataFrame(out, copy=False)

    def vector(self, value: object, label: str) -> np.ndarray:
        """Weights or an offset as float64 for all rows of the data, from an array or a column's name."""
        self._check_aligned(value, label)
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{label} is not numeric: {error}.") from error
        if array.ndim != 1 or array.size != len(self.data):
            raise DataError(f"{label} has shape {array.shape}; the data have {len(self.data)} rows.")
        return array

    def _check_aligned(self, value: object, label: str) -> None:
        # by position or by index? where the two differ, guessing would give a wrong fit
        if isinstance(value, pd.Series) and not value.index.equals(self.data.index):
            raise DataError(
                f"{label} is a Series whose index differs from the data's; reindex it to the data, or pass "
                f"its values ({label}.to_numpy()) to go by position."
            )

    def _variable_hint(self, reason: str) -> str:
        match = re.match(r"name '(\w+)' is not defined", reason)
        if match is None or self.scope.safe or match[1] not in self.scope:
            return ""
        return f" For your variable of that name write @{match[1]}."

    def _subset(self, subset: object) -> np.ndarray:
        if isinstance(subset, str):
            if self.scope.safe:
                check_subset(subset, self.names, self.is_text)
            local, world = self.scope.layers if "@" in subset else ({}, {})
            try:
                # without both, pandas looks up @names here, among the variables of this module
                subset = self.data.eval(subset, local_dict=local, global_dict=world)
            except Exception as error:
                raise DataError(
                    f"subset={subset!r} cannot be evaluated: {error}.{self._variable_hint(str(error))}"
                ) from error
        self._check_aligned(subset, "subset")
        rows = np.asarray(subset)
        if rows.dtype.kind != "b" or rows.shape != (len(self.data),):
            raise DataError(
                f"subset must be {len(self.data)} booleans, one per row, or an expression that gives them; "
                f"it has dtype {rows.dtype} and shape {rows.shape}."
            )
        if not rows.any():
            raise DataError("subset selects 0 rows.")
        return rows


def as_frame(data: object) -> pd.DataFrame:
    """Data of any accepted kind as a DataFrame; a DataFrame is returned as it is.

    Raises
    ------
    DataError
        Nothing given, or columns of unequal lengths.
    """
    if isinstance(data, pd.DataFrame):
        return data
    if data is None:
        raise DataError("no data given; pass a DataFrame or a dict of arrays.")
    data_hint(data)
    if isinstance(data, dict):
        lengths = {name: np.shape(values)[0] for name, values in data.items() if np.ndim(values)}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} ({length})" for name, length in lengths.items())
            raise DataError(f"the columns of the data have unequal lengths: {listed}.")
    try:
        return pd.DataFrame(to_pandas(data))
    except (TypeError, ValueError) as error:
        raise DataError(f"the data cannot be made into a DataFrame: {error}.") from error


def to_pandas(values: Any) -> Any:
    """A table or a column of another library (pyarrow, polars) as pandas'; anything else as it is."""
    if isinstance(values, pd.DataFrame | pd.Series | np.ndarray) or not hasattr(values, "to_pandas"):
        return values
    try:
        return values.to_pandas()
    except ImportError:  # polars converts through pyarrow, which may not be installed
        if hasattr(values, "columns"):
            return pd.DataFrame({name: values[name].to_numpy() for name in values.columns})
        return pd.Series(values.to_numpy(), name=values.name)


def refuse_duplicates(data: pd.DataFrame, names: Sequence[Hashable]) -> None:
    """Raise DataError for names that several columns of the data have."""
    twice = sorted({str(n) for n in names if isinstance(data[n], pd.DataFrame)})
    if twice:
        raise DataError(f"the data have several columns named {', '.join(twice)}; rename them.")


def refuse_dates(column: pd.Series, name: Hashable) -> None:
    """Raise DataError for dates, times and durations: they would become a factor with a level for each."""
    kind = getattr(column.dtype, "kind", "O")
    if kind in "fiub":
        return
    dates = kind in "mM" or isinstance(column.dtype, pd.PeriodDtype)
    if not dates and kind == "O":
        found = pd.api.types.infer_dtype(column.iloc[:100], skipna=True)
        dates = found.startswith(("date", "time", "period"))
    if dates:
        raise DataError(
            f"column {name!r} holds dates or times ({column.dtype}); convert it to a number, "
            f"such as days since the first one, or write C({name}) for a factor."
        )


def not_numeric(column: pd.Series, name: Hashable) -> DataError:
    """The error for a response that is no number."""
    return DataError(
        f"the response {name!r} is not numeric (dtype {column.dtype}); convert it first, "
        f"for example data[{name!r}] = pd.to_numeric(data[{name!r}])."
    )


def plain_column(column: pd.Series, name: Hashable, values: np.ndarray | None, whole: bool = False) -> object:
    """A column in a type that a formula engine reads without surprises.

    Parameters
    ----------
    column : Series
    name : hashable
        For messages.
    values : ndarray or None
        What `as_numeric` makes of it.
    whole : bool
        Keep categories that do not occur.

    Returns
    -------
    array
        Numbers as float64 or int64, booleans as bool (objects where some are missing), categories without
        those that do not occur; anything else as it is.
    """
    dtype = column.dtype
    if pd.api.types.is_complex_dtype(dtype):
        raise DataError(f"column {name!r} is complex; use its real part, or its modulus.")
    if isinstance(dtype, pd.CategoricalDtype):
        return column.array if whole else column.cat.remove_unused_categories().array
    if pd.api.types.is_bool_dtype(dtype):
        if column.hasnans:
            return column.to_numpy(dtype=object, na_value=np.nan)
        return column.to_numpy(dtype=bool)
    if values is None:
        if isinstance(dtype, pd.api.extensions.ExtensionDtype) and pd.api.types.is_string_dtype(dtype):
            # pandas' and Arrow's nullable text: formula engines know objects and pandas 3's str only
            if str(dtype) != "str":
                return column.to_numpy(dtype=object, na_value=np.nan)
        return column.array
    if pd.api.types.is_integer_dtype(dtype) and not column.hasnans:
        return column.to_numpy(dtype=np.int64)  # levels of C(x) then read 2, not 2.0
    return values


def suggest(unknown: Sequence[str], names: frozenset[str]) -> str:
    """'; did you mean ...?', or the names there are when nothing is near."""
    known = sorted(str(name) for name in names)
    folded = {name.casefold(): name for name in known}
    near: dict[str, None] = {}
    for name in unknown:
        for match in difflib.get_close_matches(str(name).casefold(), folded, n=3, cutoff=0.6):
            near[folded[match]] = None
    if near:
        return f"; did you mean {', '.join(near)}?".removesuffix("?") + "? (columns are matched exactly)"
    listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"; its columns are {listed}"


def missing_and_infinite(column: pd.Series | np.ndarray) -> tuple[np.ndarray | None, int]:
    """Mask of the missing rows (None if there are none) and the number of infinite values."""
    dtype = column.dtype
    if isinstance(dtype, np.dtype):
        if dtype.kind in "iub":
            return None, 0
        if dtype.kind == "f":
            values = as_array(column)
            missing, infinite = count_non_finite(values)
            return (np.isnan(values) if missing else None), infinite
    if isinstance(dtype, pd.CategoricalDtype):
        absent = cast(pd.Series, column).array.codes < 0
        return (absent if absent.any() else None), 0
    if isinstance(dtype, pd.StringDtype):
        absent = np.asarray(cast(pd.Series, column).array.isna())
        return (absent if absent.any() else None), 0
    if is_object(dtype) and pd.api.types.infer_dtype(column, skipna=False) == "string":
        return None, 0  # every value is text: several times faster to find out than isna
    mask = np.asarray(pd.isna(column), dtype=bool)
    infinite = 0
    if pd.api.types.is_float_dtype(dtype):
        labelled = cast(pd.Series, column)  # an ndarray of floats was seen to above
        infinite = int(np.isinf(labelled.to_numpy(dtype=np.float64, na_value=np.nan)).sum())
    elif is_object(dtype) and (numbers := as_numeric(column[~mask])) is not None:
        infinite = int(np.isinf(numbers).sum())
    return (mask if mask.any() else None), infinite


def is_object(dtype: object) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind == "O"


def as_numeric(column: pd.Series) -> np.ndarray | None:
    dtype = column.dtype
    if isinstance(dtype, np.dtype):
        if dtype.kind in "fiub":
            return column.to_numpy().astype(np.float64, copy=False)
        if dtype.kind == "O" and pd.api.types.infer_dtype(column, skipna=True) in (
            "integer",
            "floating",
            "mixed-integer-float",
            "boolean",
            "decimal",
        ):
            return column.astype(np.float64).to_numpy()
        return None
    if isinstance(dtype, pd.CategoricalDtype):
        return None
    numeric = pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)  # Arrow's booleans
    if numeric and not pd.api.types.is_complex_dtype(dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    return None
