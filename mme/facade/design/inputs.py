"""Input of MixedLM at the door: lists, columns, missing rows, lengths, indexes that do not match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.tools.sm_exceptions import MissingDataError

from ...engine.runtime.finite import count_non_finite
from ...exceptions import DataError, OptionError
from ...formula.codes import as_array
from ...formula.frame import as_numeric
from .components import LazyVCSpec, VCSpec, drop_rows
from .groups import GroupIndex, factorize

__all__ = [
    "MissingValuesError",
    "check_index",
    "clean_arrays",
    "convert_vc",
    "groups_name",
    "missing_rows",
    "numeric_input",
    "re_names",
    "select_rows",
    "two_dimensional",
]


class MissingValuesError(DataError, MissingDataError):
    """Missing or infinite values, under statsmodels' name too."""


def numeric_input(what: str, values: Any) -> Any:
    """An array, a series or a frame of numbers: objects, nullable and Arrow columns are made floats.

    Raises
    ------
    DataError
        A column that holds something else, by name.
    """
    if values is None or (isinstance(values, np.ndarray) and values.dtype.kind in "fiub"):
        return values
    if isinstance(values, pd.DataFrame):
        if all(_is_plain(dtype) for dtype in values.dtypes):
            return values
        columns = [
            _numbers(values.iloc[:, j], f"column {name!r} of {what}") for j, name in enumerate(values.columns)
        ]
        return pd.DataFrame(np.column_stack(columns), values.index, values.columns, copy=False)
    if isinstance(values, pd.Series):
        if _is_plain(values.dtype):
            return values
        return pd.Series(_numbers(values, what), values.index, name=values.name)
    array = np.asarray(values)
    if array.ndim not in (1, 2) or array.dtype.kind in "fiub":
        return array
    if array.ndim == 1:
        return _numbers(pd.Series(array), what)
    return np.column_stack([_numbers(pd.Series(c), f"column {j} of {what}") for j, c in enumerate(array.T)])


def _is_plain(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "fiu"


def _numbers(column: pd.Series, what: str) -> np.ndarray:
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = pd.Series(np.asarray(column))  # categories that are numbers count as these
    values = as_numeric(column)
    if values is None:
        raise DataError(
            f"{what} is not numeric (dtype {column.dtype}). Convert it, or give a formula, where text makes "
            "a factor."
        )
    return values


def convert_vc(exog_vc: dict[str, dict[Any, Any]], groups: Any) -> VCSpec:
    """The deprecated dictionary form, ``exog_vc[component][group]``, as a `VCSpec` in the groups' order.

    Raises
    ------
    DataError
        A group without a matrix, or a matrix without a group.
    """
    _, labels = factorize(groups, "groups")
    names = sorted(exog_vc)
    colnames, mats = [], []
    for name in names:
        given = exog_vc[name]
        if not isinstance(given, Mapping):
            raise DataError(
                f"variance component '{name}' must be a dict of a group's label to its matrix, not "
                f"{type(given).__name__}."
            )
        flat = [label for label, matrix in given.items() if len(np.shape(matrix)) != 2]
        if flat:
            raise DataError(
                f"variance component '{name}': the matrix of group {flat[0]!r} has shape "
                f"{np.shape(given[flat[0]])}; give one row per row of the group and one column per effect."
            )
        at = pd.Index(list(given)).get_indexer(pd.Index(labels))
        absent = np.flatnonzero(at < 0)
        if absent.size:
            raise DataError(
                f"variance component '{name}' has no matrix for {_groups(absent.size)}, the first "
                f"{labels[absent[0]]!r}."
            )
        strange = np.setdiff1d(np.arange(len(given)), at)
        if strange.size:
            raise DataError(
                f"variance component '{name}' has matrices of {_groups(strange.size)} that "
                f"{'has' if strange.size == 1 else 'have'} no rows, the first {list(given)[strange[0]]!r}."
            )
        listed = list(given.values())
        blocks = [listed[i] for i in at]
        mats.append(blocks)
        colnames.append(
            [
                list(b.columns) if hasattr(b, "columns") else [str(j) for j in range(np.shape(b)[1])]
                for b in blocks
            ]
        )
    return VCSpec(names, colnames, mats)


def _groups(count: int) -> str:
    return f"{count} group{'' if count == 1 else 's'}"


def check_index(what: str, values: object, reference: object) -> None:
    """Refuse pandas data whose index is a reordering of the response's: row by row they would not match.

    A default index (0, 1, ...) that is not such a reordering is taken by position, as an array is.
    """
    index, expected = getattr(values, "index", None), getattr(reference, "index", None)
    if not isinstance(index, pd.Index) or not isinstance(expected, pd.Index):
        return
    if len(index) != len(expected) or index.equals(expected):
        return
    by_position = isinstance(index, pd.RangeIndex) or isinstance(expected, pd.RangeIndex)
    reordered = index.is_unique and len(index.difference(expected)) == 0
    if reordered or not by_position:
        raise DataError(
            f"the index of {what} does not match that of the response "
            f"({'the same labels in another order' if reordered else 'other labels'}). "
            f"Reindex it, or pass {what} as an array to match by position."
        )


def missing_rows(values: Any) -> np.ndarray:
    """Rows of an array, a series or a frame with a missing value, shape (n,)."""
    null = np.asarray(
        pd.isnull(values if isinstance(values, pd.DataFrame | pd.Series) else np.asarray(values))
    )
    return np.any(null, axis=1) if null.ndim == 2 else null


def select_rows(values: Any, keep: np.ndarray) -> Any:
    """Rows of an array, a series, a frame or a list."""
    if values is None:
        return None
    if isinstance(values, pd.DataFrame | pd.Series):
        return values.loc[keep] if keep.dtype == bool else values.iloc[keep]
    return np.asarray(values)[keep]


def clean_arrays(
    endog: Any,
    exog: Any,
    groups: Any,
    exog_re: Any,
    exog_vc: VCSpec | None,
    missing: str,
    more: Sequence[np.ndarray | None] = (),
) -> tuple[Any, ...]:
    """Apply the treatment of missing values to all inputs alike.

    Parameters
    ----------
    endog, exog, groups, exog_re : array_like or None
    exog_vc : VCSpec or None
    missing : {"none", "drop", "raise"}
        "none" refuses missing values too, later and by name; "raise" raises statsmodels' MissingDataError.
    more : sequence of ndarray, shape (n,), or None
        Weights and an offset.

    Returns
    -------
    tuple
        The inputs, without the rows that have a missing value in any of them if ``missing="drop"``.
    """
    if missing not in ("none", "drop", "raise"):
        raise OptionError(f"missing must be 'none', 'drop' or 'raise', not {missing!r}.")
    if endog is None or exog is None:
        raise DataError(
            f"{'endog' if endog is None else 'exog'} is None; without fixed effects exog is a column of ones."
        )
    if np.ndim(endog) == 2 and np.shape(endog)[1] != 1:
        raise DataError(f"endog has {np.shape(endog)[1]} columns; a model has one response.")
    n = len(endog)
    for what, values in (("groups", groups), ("exog", exog), ("exog_re", exog_re)):
        if values is not None and np.shape(values)[:1] != (n,):
            raise DataError(f"{what} has {len(values)} rows but the response has {n}.")
    if n == 0:
        raise DataError("the data are empty: 0 rows. Check subset and missing values.")
    if missing == "none":
        _check_finite(endog, exog)
        return endog, exog, groups, exog_re, exog_vc, *more
    bad = np.zeros(n, dtype=bool)
    for values in (endog, exog, groups, exog_re, *more):
        if values is not None:
            bad |= missing_rows(values)
    full = None
    if exog_vc is not None and len(exog_vc.names) and not isinstance(exog_vc, LazyVCSpec):
        codes, labels = factorize(groups, "groups")
        full = GroupIndex(np.where(codes < 0, len(labels), codes), labels)
        for mats in exog_vc.mats:
            for g, matrix in enumerate(mats):
                block = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
                bad[full.rows(g)] |= missing_rows(block)
    count = int(bad.sum())
    if count and missing == "raise":
        raise MissingValuesError(
            f"{count} of {n} rows have missing values in endog, exog, groups or exog_re."
        )
    if count == n:
        listed = ", ".join(
            f"{what} ({missing_rows(values).sum()})"
            for what, values in (("endog", endog), ("exog", exog), ("groups", groups), ("exog_re", exog_re))
            if values is not None and missing_rows(values).any()
        )
        raise DataError(f"no rows are left after dropping those with missing values: {listed or 'exog_vc'}.")
    if count == 0:
        _check_finite(endog, exog)
        return endog, exog, groups, exog_re, exog_vc, *more
    keep = ~bad
    if full is not None and exog_vc is not None:
        exog_vc = drop_rows(exog_vc, full, keep, factorize(select_rows(groups, keep), "groups")[1])
    elif exog_vc is not None and len(exog_vc.names):
        raise DataError("missing='drop' cannot drop rows of an exog_vc taken from another model.")
    kept = tuple(select_rows(v, keep) for v in (endog, exog, groups, exog_re))
    _check_finite(*kept[:2])
    return (*kept, exog_vc, *(select_rows(v, keep) for v in more))


def _check_finite(endog: Any, exog: Any) -> None:
    """Refuse missing and infinite values of the response and the fixed-effects design, by column."""
    for what, given in (("endog", endog), ("exog", exog)):
        values = as_array(given) if isinstance(given, pd.DataFrame | pd.Series) else np.asarray(given)
        if values.ndim not in (1, 2) or not any(count_non_finite(values)):
            continue
        columns = values[:, None] if values.ndim == 1 else values
        names = list(given.columns) if isinstance(given, pd.DataFrame) else [getattr(given, "name", None)]
        if len(names) != columns.shape[1]:
            names = list(range(columns.shape[1]))
        counts = [(n, *count_non_finite(c)) for n, c in zip(names, columns.T, strict=True)]
        bad = [
            f"{'' if n is None else f'column {n!r} '}({nan} missing, {inf} infinite)"
            for n, nan, inf in counts
            if nan or inf
        ]
        if bad:
            raise MissingValuesError(
                f"{what} contains inf or nans in {len(values)} rows: {', '.join(bad)}. Remove those rows, "
                "or use missing='drop' for the missing ones."
            )


def groups_name(groups: Any) -> str:
    """What messages and tables call the term of `groups`: its column or columns, else ``"groups"``."""
    if isinstance(groups, pd.DataFrame):
        return ":".join(str(c) for c in groups.columns)
    name = getattr(groups, "name", None)
    return "groups" if name is None else str(name)


def two_dimensional(values: Any, name: str | None = None) -> Any:
    """Lists as arrays, one column as a matrix of one column; frames stay frames."""
    if values is None or isinstance(values, pd.DataFrame):
        return values
    if isinstance(values, pd.Series):
        return values.to_frame(values.name if values.name is not None else name)
    array = np.asarray(values)
    return array[:, None] if array.ndim == 1 else array


def re_names(exog_re: Any) -> list[str]:
    """Names of the random effects: given, from the columns, or numbered."""
    if exog_re is None:
        return []
    if isinstance(exog_re, list):
        return exog_re
    if isinstance(exog_re, pd.DataFrame):
        return exog_re.columns.tolist()
    return [f"x_re{j + 1}" for j in range(exog_re.shape[1])]
