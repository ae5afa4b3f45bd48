"""Values as JSON and arrays, and back: what a file of a model may hold, by a closed list of types.

Nothing is pickled, so that reading a file runs no code of it.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import DataError

__all__ = ["Reader", "Writer"]

_KINDS = "biufmM"
_READ = "array categories dict dtype float index long np objects text time tuple".split()


class Writer:
    """Turns values into JSON; arrays go aside, by name.

    Attributes
    ----------
    arrays : dict of str to ndarray
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def write(self, value: Any, what: str) -> Any:
        """JSON of a value; DataError where there can be none, `what` says of what."""
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, np.generic):
            return {"np": [value.dtype.str, self.write(_number(value), what)]}
        if isinstance(value, int):
            return value
        if isinstance(value, float):
            return value if np.isfinite(value) else {"float": repr(value)}
        if isinstance(value, list):
            return [self.write(entry, what) for entry in value]
        if isinstance(value, tuple):
            return {"tuple": [self.write(entry, what) for entry in value]}
        if isinstance(value, dict):
            return {"dict": [[self.write(k, what), self.write(v, what)] for k, v in value.items()]}
        if isinstance(value, np.ndarray):
            return self._array(value, what)
        if isinstance(value, pd.Index):
            return self._index(value, what)
        if isinstance(value, pd.Timestamp | pd.Timedelta | datetime.date):
            return {"time": [_time_kind(value), _time_text(value)]}
        dtype = _dtype(value, self, what)
        if dtype is not None:
            return dtype
        raise DataError(
            f"{what} holds a {type(value).__module__}.{type(value).__qualname__}, which no file holds."
        )

    def array(self, value: np.ndarray) -> str:
        """Put an array aside; its name."""
        name = f"a{len(self.arrays)}"
        self.arrays[name] = value
        return name

    def _array(self, value: np.ndarray, what: str) -> Any:
        if value.dtype.kind in _KINDS:
            if (
                value.dtype.kind == "f" and value.dtype.itemsize > 8
            ):  # in two parts, as other machines have none
                high = value.astype(np.float64)
                return {"long": [self.array(high), self.array((value - high).astype(np.float64))]}
            return {"array": self.array(np.ascontiguousarray(value))}
        shape = list(value.shape)
        return {"objects": [shape, [self.write(entry, what) for entry in value.ravel().tolist()]]}

    def _index(self, value: pd.Index, what: str) -> Any:
        name = self.write(value.name, what)
        if isinstance(value.dtype, np.dtype) and value.dtype.kind in "biuf":
            return {"index": [{"array": self.array(value.to_numpy())}, None, name]}
        dtype = None if value.dtype == object else self.write(value.dtype, what)
        return {"index": [[self.write(entry, what) for entry in value.tolist()], dtype, name]}


class Reader:
    """The way back.

    Parameters
    ----------
    arrays : callable (str) -> ndarray
    """

    def __init__(self, arrays: Callable[[str], np.ndarray]) -> None:
        self._arrays = arrays

    def read(self, value: Any) -> Any:
        """The value that `Writer.write` was given."""
        if isinstance(value, list):
            return [self.read(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind not in _READ:
            raise DataError(f"the file holds a value of kind {kind!r}, which is not known.")
        return getattr(self, f"_{kind}_")(content)

    def _np_(self, content: Any) -> Any:
        dtype, number = content
        value = self.read(number)
        if isinstance(value, list):
            return np.dtype(dtype).type(value[0]) + np.dtype(dtype).type(value[1])
        return np.array(value, dtype=dtype)[()]

    def _float_(self, content: str) -> float:
        return float(content)

    def _tuple_(self, content: list) -> tuple:
        return tuple(self.read(entry) for entry in content)

    def _dict_(self, content: list) -> dict:
        return {self.read(key): self.read(entry) for key, entry in content}

    def _array_(self, content: str) -> np.ndarray:
        return self._arrays(content)

    def _long_(self, content: list) -> np.ndarray:
        high, low = (self._arrays(name) for name in content)
        return high.astype(np.longdouble) + low

    def _objects_(self, content: list) -> np.ndarray:
        shape, entries = content
        out = np.empty(len(entries), dtype=object)
        out[:] = [self.read(entry) for entry in entries]
        return out.reshape(shape)

    def _index_(self, content: list) -> pd.Index:
        values, dtype, name = (self.read(entry) for entry in content)
        if isinstance(values, np.ndarray):
            return pd.Index(values, name=name)
        return pd.Index(values, dtype=object if dtype is None else dtype, name=name)

    def _time_(self, content: list) -> Any:
        kind, text = content
        return _TIMES[kind](text)

    def _dtype_(self, content: str) -> Any:
        return pd.api.types.pandas_dtype(content)

    def _text_(self, content: list) -> Any:
        storage, missing = content
        return pd.StringDtype(storage, na_value=np.nan if missing == "nan" else pd.NA)

    def _categories_(self, content: list) -> pd.CategoricalDtype:
        categories, ordered = content
        return pd.CategoricalDtype(self.read(categories), ordered)


_TIMES: dict[str, Callable[[str], Any]] = {
    "timestamp": pd.Timestamp,
    "timedelta": pd.Timedelta,
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
}


def _time_kind(value: Any) -> str:
    if isinstance(value, pd.Timestamp):
        return "timestamp"
    if isinstance(value, pd.Timedelta):
        return "timedelta"
    return "datetime" if isinstance(value, datetime.datetime) else "date"


def _time_text(value: Any) -> str:
    return value.isoformat()


def _number(value: np.generic) -> Any:
    if isinstance(value, np.longdouble) and value.dtype.itemsize > 8:
        high = float(value)
        return [high, float(value - np.longdouble(high))]
    return value.item()


def _dtype(value: Any, writer: Writer, what: str) -> Any:
    """JSON of a dtype; None where it is none."""
    if isinstance(value, pd.CategoricalDtype):
        return {"categories": [writer.write(value.categories, what), bool(value.ordered)]}
    if isinstance(value, pd.StringDtype):
        return {"text": [value.storage, "NA" if value.na_value is pd.NA else "nan"]}
    if isinstance(value, np.dtype) and (value.kind in _KINDS or value.kind == "O"):
        return {"dtype": value.str}
    if isinstance(value, pd.api.extensions.ExtensionDtype):
        try:
            same = pd.api.types.pandas_dtype(str(value)) == value
        except TypeError:
            same = False
        return {"dtype": str(value)} if same else None
    return None
