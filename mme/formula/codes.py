"""Grouping factors as integer codes, with labels kept aside until someone asks for them.

No Python loop runs over rows or levels: integers are coded by counting, text by hashing, interactions by
arithmetic on codes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import TypeAlias, cast

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray

from ..exceptions import DataError

__all__ = [
    "Factor",
    "Held",
    "as_array",
    "code_type",
    "encode",
    "interact",
    "labels_of",
    "same_partition",
    "unhashable",
]

_INT32 = np.iinfo(np.int32).max
Held: TypeAlias = pd.Index | np.ndarray | ExtensionArray  # labels as they were found
_EXACT = 2.0**53  # integers beyond it have no exact float


@cache
def _text_dtype() -> object:
    """pandas' own type of text: objects before pandas 3. Asked for late, as it loads Arrow."""
    return pd.Index([""]).astype("str").dtype


class Factor:
    """Integer codes of a grouping factor.

    Parameters
    ----------
    codes : ndarray of int32 (int64 beyond 2**31 levels), shape (n,)
        Level of every row; 0 <= code < n_levels and every level is present.
    n_levels : int
    levels : pandas.Index, array, or list of (Factor, ndarray)
        Labels in the order of the codes, an array made an Index when asked for; for an interaction the
        crossed factors with the code of each in every level, from which labels joined by ':' are made on
        demand; where that makes two alike, as of "a:b" with "c" and "a" with "b:c", labels that hold a colon
        are put in double quotes.
    """

    def __init__(
        self,
        codes: np.ndarray,
        n_levels: int,
        levels: Held | list[tuple[Factor, np.ndarray]],
    ) -> None:
        self.codes = codes
        self.n_levels = n_levels
        self._levels = levels

    @cached_property
    def levels(self) -> pd.Index:
        """Labels, shape (n_levels,): the column's own values, or text joined by ':' for an interaction."""
        if not self.parts:
            return labels_of(self.held)
        joined = self._joined(_as_text)
        return joined if joined.is_unique else self._joined(_quoted)

    @property
    def parts(self) -> Sequence[tuple[Factor, np.ndarray]]:
        """Of an interaction the crossed factors, with the code of each in every level; else nothing."""
        return self._levels if isinstance(self._levels, list) else ()

    @property
    def held(self) -> Held:
        """What `levels` are made of: itself for an interaction, else the labels as they were found."""
        return self.levels if isinstance(self._levels, list) else self._levels

    def _joined(self, as_text: Callable[[pd.Index], np.ndarray]) -> pd.Index:
        text: np.ndarray | None = None
        for factor, codes in self.parts:
            labels = as_text(factor.levels)[codes]
            text = labels if text is None else text + ":" + labels
        return pd.Index(text, dtype=object)


def labels_of(held: Held) -> pd.Index:
    """Labels as an Index."""
    return held if isinstance(held, pd.Index) else pd.Index(held)


def code_type(n_levels: int) -> type[np.signedinteger]:
    """The type of the codes of so many levels."""
    return np.int32 if n_levels <= _INT32 else np.int64


def encode(values: pd.Series | np.ndarray, name: str) -> Factor:
    """Code one column.

    Parameters
    ----------
    values : Series or ndarray, shape (n,)
        Text, integers, booleans, floats, dates or a Categorical; without missing values.
    name : str
        For messages.

    Returns
    -------
    Factor
        Levels sorted, or in the order of the categories of a Categorical; only those present.

    Raises
    ------
    DataError
        Missing labels, or labels of several types that have no order.
    """
    dtype = values.dtype
    labelled = cast(pd.Series, values)  # what has a dtype of pandas is no ndarray
    if isinstance(dtype, pd.CategoricalDtype):
        codes = labelled.array.codes if isinstance(values, pd.Series) else labelled.codes
        _check_labelled(codes, name)
        factor = _encode_integers(codes)
        return Factor(factor.codes, factor.n_levels, dtype.categories[factor.held])
    if isinstance(dtype, pd.StringDtype):
        text = labelled.array if isinstance(values, pd.Series) else values
        codes, unique = cast(ExtensionArray, text).factorize()
        _check_labelled(codes, name)
        return _sorted(codes, unique, unique.argsort())
    if not isinstance(dtype, np.dtype) and pd.api.types.is_integer_dtype(dtype):
        if pd.isna(values).any():
            raise _missing(name, int(pd.isna(values).sum()))
        values = labelled.to_numpy(dtype=np.dtype(f"{dtype.kind}8"))
    elif not isinstance(dtype, np.dtype) and pd.api.types.is_float_dtype(dtype):
        values = labelled.to_numpy(dtype=np.float64, na_value=np.nan)
    if isinstance(values.dtype, np.dtype):
        kind = values.dtype.kind
        array = as_array(values)
        if kind == "b":
            factor = _encode_integers(array.view(np.int8))
            return Factor(factor.codes, factor.n_levels, np.asarray(factor.held).astype(bool))
        if kind in "iu":
            return _encode_integers(array)
        if kind == "f":
            if np.isnan(array).any():
                raise _missing(name, int(np.isnan(array).sum()))
            whole = array.astype(np.int64) if np.abs(array).max(initial=0.0) < _EXACT else None
            if whole is not None and np.array_equal(whole, array):
                factor = _encode_integers(whole)
                return Factor(factor.codes, factor.n_levels, np.asarray(factor.held).astype(array.dtype))
    return _encode_hashed(values, name)


def as_array(values: pd.DataFrame | pd.Series | np.ndarray) -> np.ndarray:
    """What `np.asarray` gives, without NumPy's asking pandas, name by name, for protocols that it lacks."""
    return values if isinstance(values, np.ndarray) else values.to_numpy()


def interact(factors: Sequence[Factor]) -> Factor:
    """Cross factors; the first varies slowest, as in R's ``a:b``.

    Parameters
    ----------
    factors : sequence of Factor, each of n rows

    Returns
    -------
    Factor
        With the combinations that occur, in lexicographic order.
    """
    result = factors[0]
    parts = [(result, np.arange(result.n_levels))]
    for factor in factors[1:]:
        codes, left, right = _cross(result, factor)
        parts = [(f, c[left]) for f, c in parts] + [(factor, right)]
        result = Factor(codes, left.size, parts)
    return result


def unhashable(values: pd.Series | np.ndarray, name: str) -> DataError:
    """The error for a column of lists, arrays, sets or dicts."""
    kinds = sorted({type(value).__name__ for value in values})
    return DataError(
        f"column {name!r} holds values of type {' and '.join(kinds)}, which cannot be labels of groups or "
        f"levels; make them text first: data[{name!r}].astype(str)."
    )


def same_partition(a: Factor, b: Factor) -> bool:
    """Whether two factors group the rows alike, whatever they call the groups."""
    if a.n_levels != b.n_levels:
        return False
    head = slice(0, 4096)
    table = dict(zip(a.codes[head].tolist(), b.codes[head].tolist(), strict=True))
    if any(table[i] != j for i, j in zip(a.codes[head].tolist(), b.codes[head].tolist(), strict=True)):
        return False
    return _parent(a, b) is not None


def _cross(a: Factor, b: Factor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes of the combinations, and the code of a and of b in each of them."""
    span = a.n_levels * b.n_levels
    if span > 4 * a.codes.size + 65536:
        # a large table: mostly one factor is nested in the other already, and then no hashing is needed
        inside = _parent(a, b)
        if inside is not None:
            return a.codes, np.arange(a.n_levels), inside
        inside = _parent(b, a)
        if inside is not None:
            order = np.lexsort((np.arange(b.n_levels), inside))
            rank = np.empty(b.n_levels, dtype=np.int32)
            rank[order] = np.arange(b.n_levels, dtype=np.int32)
            return rank[b.codes], inside[order], order
    if span <= _INT32:
        key = a.codes * np.int32(b.n_levels) + b.codes
    else:
        key = a.codes.astype(np.int64) * b.n_levels + b.codes
    crossed = _encode_integers(key)
    left, right = np.divmod(np.asarray(crossed.held), b.n_levels)
    return crossed.codes, left, right


def _parent(child: Factor, parent: Factor) -> np.ndarray | None:
    """The parent's code of every level of the child if there is only one each, else None."""
    if child.n_levels < parent.n_levels:
        return None
    table = np.empty(child.n_levels, dtype=parent.codes.dtype)
    table[child.codes] = parent.codes
    return table if np.array_equal(table[child.codes], parent.codes) else None


def _encode_integers(values: np.ndarray) -> Factor:
    """Code integers, by counting where their range is modest and by hashing where it is not."""
    n = values.size
    low, high = (int(values.min()), int(values.max())) if n else (0, -1)
    span = high - low + 1
    if span > 4 * n + 65536 or high > np.iinfo(np.int64).max:
        codes, unique = pd.factorize(values)
        return _sorted(codes, unique, np.argsort(unique, kind="stable"))
    shifted = values if low == 0 else np.subtract(values, low, dtype=np.int64, casting="unsafe")
    seen = np.zeros(span, dtype=bool)
    seen[shifted] = True
    present = np.flatnonzero(seen)
    kind = code_type(present.size)
    if present.size == span:
        codes = shifted.astype(kind)
    else:
        counts: np.ndarray = np.cumsum(seen, dtype=kind)
        codes = (counts - kind(1))[shifted]
    return Factor(codes, present.size, present + low)


def _encode_hashed(values: pd.Series | np.ndarray, name: str) -> Factor:
    of_objects = isinstance(values.dtype, np.dtype) and values.dtype.kind == "O"
    try:
        codes, found = pd.factorize(as_array(values) if of_objects else values)
    except TypeError as error:
        raise unhashable(values, name) from error
    _check_labelled(codes, name)
    kind = pd.api.types.infer_dtype(found, skipna=False) if found.dtype == object else ""
    if kind == "string":
        # sorted by Arrow where it is installed, ten times faster than as objects
        text = pd.array(found, dtype=_text_dtype())
        return _sorted(codes, text, text.argsort())
    unique = pd.Index(found)
    if kind.startswith("mixed"):
        kinds = sorted({type(value).__name__ for value in unique})
        raise DataError(
            f"grouping column {name!r} holds values of type {' and '.join(kinds)}, without a common "
            f"order (1 and '1' would be two levels); convert it first: data[{name!r}].astype(str)."
        )
    return _sorted(codes, unique, np.asarray(unique.argsort()))


def _check_labelled(codes: np.ndarray, name: str) -> None:
    if codes.size and codes.min() < 0:
        raise _missing(name, int((codes < 0).sum()))


def _sorted(codes: np.ndarray, unique: Held, order: np.ndarray) -> Factor:
    rank = np.empty(order.size, dtype=code_type(order.size))
    rank[order] = np.arange(order.size, dtype=rank.dtype)
    return Factor(rank[codes], order.size, unique[order])


def _as_text(levels: pd.Index) -> np.ndarray:
    """Labels as an object array of str; whole floats without their '.0', as R prints them."""
    if levels.dtype.kind == "f" and np.array_equal(levels, np.trunc(levels)):
        levels = levels.astype(np.int64)
    return levels.astype(str).to_numpy(dtype=object)


def _quoted(levels: pd.Index) -> np.ndarray:
    """Labels as text that stay apart when joined: text is quoted where it holds a colon or looks quoted."""
    text = _as_text(levels)
    alike = pd.Index(text).duplicated(keep=False)  # 1 and "1"
    for i, value in enumerate(levels):
        if ":" in text[i] or text[i].startswith('"') or (alike[i] and isinstance(value, str)):
            text[i] = json.dumps(text[i], ensure_ascii=False)
    return text


def _missing(name: str, count: int) -> DataError:
    return DataError(
        f'grouping column {name!r} has {count} missing labels. Remove those rows, or use missing="drop".'
    )
