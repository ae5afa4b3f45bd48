"""The data frame of MixedLM's formulas: rows, groups and columns in kinds that a formula engine reads."""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
from patsy import PatsyError

from ...exceptions import DataError, FormulaError
from ...formula.frame import (
    as_frame,
    as_numeric,
    is_object,
    not_numeric,
    plain_column,
    refuse_dates,
    refuse_duplicates,
    suggest,
    to_pandas,
)
from ...formula.parse import bar_in
from ..releases import FormulaManager
from .inputs import MissingValuesError, check_index, missing_rows, select_rows
from .lookup import Lookup
from .vc_formula import column_of, factors_of, formula_columns

__all__ = [
    "EngineFormulaError",
    "FormulaData",
    "check_formulas",
    "coding_from_data",
    "formula_data",
    "formula_env",
    "naming",
    "plain_frame",
]


class SubsetError(DataError, KeyError):
    """Rows that there are not, under pandas' name too."""

    __str__ = Exception.__str__  # a KeyError's is the repr of its words


class EngineFormulaError(FormulaError, PatsyError):
    """A formula that the formula engine cannot evaluate, under patsy's name too."""

    def __init__(self, message: str, origin: object = None) -> None:
        PatsyError.__init__(self, message, origin)


@dataclass(frozen=True)
class FormulaData:
    """What the formulas of one model are evaluated in.

    Attributes
    ----------
    frame : DataFrame
        The rows of the model; the columns that formulas read are of plain kinds.
    used : list
        Those columns.
    groups : Series, DataFrame or ndarray
        Label of each row's group.
    group_name : str
        Name of the random intercept; ``"Group"`` where `groups` are labels.
    group_columns : tuple of str
        Columns of the groups; empty where `groups` are labels.
    columns : Lookup
        The columns of `frame`.
    """

    frame: pd.DataFrame
    used: list[Hashable]
    groups: Any
    group_name: str
    group_columns: tuple[str, ...]
    columns: Lookup


def formula_data(
    formula: Any,
    others: Sequence[str],
    data: Any,
    groups: Any,
    subset: Any,
    missing: str,
    more: Sequence[str] = (),
) -> FormulaData:
    """Choose the rows of a model and make its columns plain.

    Parameters
    ----------
    formula : str
        Response and fixed effects.
    others : sequence of str
        One-sided formulas.
    data : DataFrame, a table of pyarrow or polars, or a mapping of arrays
    groups : str, list of str, or array_like
        A column, several columns (their combinations), or the labels themselves.
    subset : optional
        As in ``data.loc[subset]``.
    missing : {"none", "drop", "raise"}
        "drop" leaves out rows with a missing value in any column the formulas or `groups` read.
    more : sequence of str
        Further columns of the model.

    Raises
    ------
    FormulaError
        lme4's bars.
    DataError
        No rows, a column that cannot be what the formula makes of it.
    """
    data = as_frame(data)
    for text in (formula, *others):
        if isinstance(text, str) and "|" in text and (bar := bar_in(text)):
            raise FormulaError(
                f"formula {text!r}: {bar} is a random term of lme4's formulas, which MixedLM does not read: "
                "here | is Python's bitwise 'or'. Give groups= and re_formula= (or vc_formula=), or fit it "
                "with mme.lmer(formula, data). For an 'or' of columns write I(a | b)."
            )
    columns = Lookup(data)
    labels, group_name, keys = _groups_of(to_pandas(groups), columns)
    if not isinstance(labels, Sized):
        raise DataError(
            f"groups={groups!r} is neither a column of the data, nor several, nor one label per row."
        )
    check_index("groups", labels, data)
    if len(labels) != len(data):
        raise DataError(f"groups has {len(labels)} labels but the data have {len(data)} rows.")
    used = [*formula_columns(" ".join([str(formula), *others]), data.columns), *more]
    if not data.columns.is_unique:
        refuse_duplicates(data, [*used, *keys])
        data = data.loc[:, ~data.columns.duplicated()]
    if subset is not None:
        rows = _positions(data, subset)
        data, labels = data.iloc[rows], select_rows(labels, rows)
    if data is not columns.frame:
        columns = Lookup(data)
    if len(data) == 0:
        raise DataError(f"{'the data are empty' if subset is None else 'subset selects nothing'}: 0 rows.")
    if missing == "drop":
        bad = data[used].isna().any(axis=1).to_numpy() | np.asarray(missing_rows(labels))
        if bad.all():
            counts = _missing_counts(data, used)
            if unlabelled := int(missing_rows(labels).sum()):
                counts.append(f"groups ({unlabelled})")
            raise DataError(
                f"no rows are left after dropping those with missing values: {', '.join(counts)}."
            )
        if bad.any():
            data, labels = data.loc[~bad], select_rows(labels, ~bad)
            columns = Lookup(data)
    response = ""
    if isinstance(formula, str):
        response, _, right = formula.partition("~")
        if not response.strip() or not right.strip():
            raise FormulaError(f"formula {formula!r} is not of the form 'response ~ terms'.")
        with naming("formula", formula, data, used):
            _check_dates(right, columns)
        for text in others:
            with naming("formula", text, data, used):
                _check_dates(text, columns)
    frame = plain_frame(data, used, column_of(response, columns), columns)
    columns = columns if frame is columns.frame else Lookup(frame)
    return FormulaData(frame, used, labels, group_name, tuple(keys), columns)


def _groups_of(groups: Any, data: Lookup) -> tuple[Any, str, list[str]]:
    """The grouping labels, the name they give to the random intercept, and their columns."""
    if isinstance(groups, str):
        if groups not in data.columns:
            near = suggest([groups], frozenset(data.columns))
            raise DataError(f"groups={groups!r} is not a column of the data{near}.")
        return data[groups], groups, [groups]
    if isinstance(groups, list | tuple) and groups and len(groups) != len(data.frame):
        if all(isinstance(g, str) and g in data.columns for g in groups):
            return data.frame[list(groups)], ":".join(groups), list(groups)
    return groups, "Group", []


def _positions(data: pd.DataFrame, subset: Any) -> np.ndarray:
    """Row positions that ``data.loc[subset]`` selects."""
    marker = pd.Series(np.arange(len(data)), index=data.index)
    try:
        return np.atleast_1d(marker.loc[subset])
    except KeyError as error:
        raise SubsetError(
            f"subset selects rows as in data.loc[subset]; {error.args[0]!r} cannot be found there. Give "
            "booleans, one per row, or labels of the index; for an expression, data.eval(...)."
        ) from error


def _check_dates(formula: str, data: Lookup) -> None:
    for term in factors_of(formula):
        for name in {column_of(code, data) for code in term} - {None}:
            refuse_dates(data[name], name)


def plain_frame(
    data: pd.DataFrame, used: Sequence[Hashable], response: Hashable | None, columns: Lookup | None = None
) -> pd.DataFrame:
    """The data with the columns of the formulas in plain kinds; the response a number where it is one.

    Objects that hold integers or booleans stay what the formula engine makes of them, a factor.
    """
    columns = Lookup(data) if columns is None else columns
    changed: dict[Hashable, Any] = {}
    for name in used:
        column = columns[name]
        dtype = column.dtype
        plain = isinstance(dtype, np.dtype) and dtype.kind in "fiu"
        if plain or (isinstance(dtype, np.dtype) and dtype.kind == "b" and name != response):
            continue
        values = as_numeric(column)
        if name == response:
            if values is None:
                raise not_numeric(column, name)
            changed[name] = values
        elif not is_object(dtype) or (values is not None and _holds_fractions(column)):
            array = plain_column(column, name, values)
            arrow = isinstance(getattr(array, "dtype", None), pd.ArrowDtype)
            changed[name] = column.astype(object) if arrow else array
    if not changed:
        return data
    out = data.copy(deep=False)
    for name, array in changed.items():
        out[name] = array
    return out


def _holds_fractions(column: pd.Series) -> bool:
    return pd.api.types.infer_dtype(column, skipna=True) not in ("integer", "boolean")


def _missing_counts(data: pd.DataFrame, used: Sequence[Hashable]) -> list[str]:
    counts = data[list(used)].isna().sum()
    return [f"{c!r} ({k})" for c, k in counts.items() if k]


def explain_missing(data: pd.DataFrame, used: list[Hashable], error: Exception) -> None:
    """Where a formula failed because of missing values, say so: columns and counts.

    Raises
    ------
    MissingValuesError
        From the error; any other failure is left to the caller.
    """
    words = str(error).split("\n")[0]
    # in the words of patsy and of formulaic
    if "missing values" not in words and "null values" not in words:
        return
    counts = _missing_counts(data, used)
    if not counts:
        return
    raise MissingValuesError(
        f"missing values in columns {', '.join(counts)} of {len(data)} rows ({words}). Remove those rows, or "
        "use missing='drop'."
    ) from error


@contextmanager
def naming(what: str, formula: Any, data: pd.DataFrame, used: list[Hashable]) -> Iterator[None]:
    """Errors of the formula engine name the formula, and the columns where missing values are their cause.

    A context, since a function would be one more frame between a formula and the caller's variables.

    Parameters
    ----------
    what : str
        Argument that holds the formula.
    formula : str
    data : DataFrame
    used : list
        Columns that the model's formulas read.
    """
    try:
        yield
    except Exception as error:
        explain_missing(data, used, error)
        engine = type(error).__module__.partition(".")[0] in ("patsy", "formulaic")
        shape = str(error).startswith("endog has evaluated to an array with multiple columns")
        if not engine and not shape and not isinstance(error, SyntaxError):
            raise
        words = str(getattr(error, "message", "") or error).split("\n")[0]
        origin = getattr(error, "origin", None)
        part = origin.code[origin.start : origin.end] if origin is not None else ""
        unknown = re.search(r"(?:name|no data named) '([^']+)'", words)
        hint = suggest([unknown[1]], frozenset(data.columns)) if unknown else ""
        if "`" in str(formula) and not unknown:
            hint = '. Names with blanks are written Q("...") here'
        where = f" at {part!r}" if part else ""
        raise EngineFormulaError(
            f"{what} {formula!r} cannot be evaluated{where}: {words.rstrip('.')}{hint}."
        ) from error


def check_formulas(re_formula: object, vc_formula: object) -> None:
    """Refuse formulas of random effects that are no one-sided formulas.

    Raises
    ------
    FormulaError
    """
    if vc_formula is not None and not isinstance(vc_formula, Mapping):
        raise FormulaError(
            "vc_formula must be a dict of a name to a formula, such as {'a': '0 + C(a)'}, not "
            f"{vc_formula!r}."
        )
    given = {"re_formula": re_formula}
    given |= {f"vc_formula[{name!r}]": text for name, text in (vc_formula or {}).items()}
    for what, text in given.items():
        if text is None and what == "re_formula":
            continue
        if not isinstance(text, str):
            raise FormulaError(f"{what} must be a string, such as '~x' or '0 + C(a)', not {text!r}.")
        if text.partition("~")[0].strip() and "~" in text:
            raise FormulaError(f"{what}={text!r} has a response; random effects have none: write '~x'.")


def formula_env(kwargs: dict[str, Any]) -> Any:
    """Where a formula evaluated by the caller of this function looks up names: frames up, or a mapping."""
    env = kwargs.get("eval_env")
    if env is None:
        return 1
    return FormulaManager().get_empty_eval_env() if isinstance(env, int) and env == -1 else env


def coding_from_data(formula: str, frame: pd.DataFrame) -> Any:
    """The formula engine's specification, made again from the data.

    Names that are not in the data are looked up in the frames of the callers, the nearest first, however few
    there are.
    """
    names: dict[str, Any] = {}
    caller: FrameType | None = sys._getframe(1)
    words = set(re.findall(r"[^\W\d]\w*", str(formula)))
    while caller is not None and len(names) < len(words):
        for scope in (caller.f_locals, caller.f_globals):
            names = {word: scope[word] for word in words & scope.keys()} | names
        caller = caller.f_back
    manager = FormulaManager()
    manager.get_matrices(formula, frame, eval_env=names, pandas=True)
    return manager.spec
