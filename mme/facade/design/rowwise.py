"""Weights and an offset of MixedLM: from columns or arrays, through `subset` and `missing`.

They travel as columns of the data, under the names that R's model frames have for them.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...exceptions import DataError
from ...formula.coding import Coding
from ...formula.frame import as_frame, as_numeric, suggest, to_pandas
from .inputs import check_index, numeric_input

__all__ = ["row_values", "take_columns", "with_columns", "with_row_names"]

_KINDS = ("weights", "offset")


def row_values(weights: Any, offset: Any, endog: Any) -> list[Any]:
    """Weights and offset of the constructor, shapes (n,), or None.

    Raises
    ------
    DataError
        Another length or shape, or another index than the response's.
    """
    n = 0 if endog is None else len(endog)
    given = zip(_KINDS, (weights, offset), strict=True)
    return [None if values is None else _numbers(what, values, endog, n) for what, values in given]


def _numbers(what: str, values: Any, reference: Any, n: int) -> np.ndarray:
    values = numeric_input(what, to_pandas(values))
    check_index(what, values, reference)
    out = np.asarray(values, dtype=np.float64)
    if out.shape != (n,):
        raise DataError(f"{what} has shape {out.shape}; give one number per row, {n}.")
    return out


def with_columns(data: Any, options: MutableMapping[str, Any]) -> tuple[Any, dict[str, str], list[str]]:
    """The data with a column ``(weights)`` or ``(offset)`` for each option of that name, which is taken out.

    Parameters
    ----------
    data : DataFrame or what makes one
    options : dict
        Values, names of columns, or None, under ``"weights"`` and ``"offset"``.

    Returns
    -------
    data : DataFrame
    named : dict of str to str
        Those that are columns.
    added : list of str
    """
    named: dict[str, str] = {}
    made: dict[str, Any] = {}
    for what in _KINDS:
        values = options.pop(what, None)
        if values is None:
            continue
        data = as_frame(data)
        if not isinstance(values, str):
            made[f"({what})"] = _numbers(what, values, data, len(data))
            continue
        if values not in data.columns:
            near = suggest([values], frozenset(data.columns))
            raise DataError(f"{what}={values!r} is not a column of the data{near}.")
        numbers = as_numeric(data[values])
        if numbers is None:
            raise DataError(f"{what}={values!r} is not numeric (dtype {data[values].dtype}).")
        named[what], made[f"({what})"] = values, numbers
    return data.assign(**made) if made else data, named, list(made)


def take_columns(frame: Any) -> dict[str, np.ndarray]:
    """What `with_columns` added, for the rows that were kept."""
    return {
        what: frame[f"({what})"].to_numpy(dtype=np.float64) for what in _KINDS if f"({what})" in frame.columns
    }


def with_row_names(coding: Coding, model: Any) -> Coding:
    """The coding of a model's formulas, which knows where new rows have weights and an offset."""
    named = model.__dict__.get("_row_names", {})
    given = {what for what in _KINDS if getattr(model, what) is not None and what not in named}
    return replace(coding, named=named, given=frozenset(given))
