"""The first pass over chunks: levels, kinds and ranges of columns, and a sample of the rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..exceptions import DataError, FormulaError, MissingDataWarning, OptionError, warn_caller
from ..formula.build import used_columns
from ..formula.frame import ModelFrame, as_frame, suggest
from ..formula.parse import ParsedFormula, names_in, parse_formula
from ..formula.scope import Scope
from .tables import Levels, LevelTable, joined_columns

__all__ = [
    "NoRows",
    "Request",
    "Survey",
    "categorical_names",
    "is_empty",
    "model_columns",
    "rows_of",
    "warn_of_missing",
]

_SAMPLE = 16_384  # rows; every 4th of them is kept where there would be more
_CODED = re.compile(r"\b(?:C|factor)\(\s*(?:`([^`]+)`|Q\(\s*[\"']([^\"']+)[\"']\s*\)|([^\W\d][\w.]*))")


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of rows: the formula and what goes with it.

    Attributes
    ----------
    formula : str
    weights, offset : str or None
        Columns; anything else is refused.
    subset : str or None
    missing, evaluate : str
    context : int or mapping
    """

    formula: str
    weights: object = None
    offset: object = None
    subset: object = None
    missing: str = "warn"
    evaluate: str = "full"
    context: int | Mapping[str, object] = 0

    def __post_init__(self) -> None:
        if not isinstance(self.formula, str):
            raise FormulaError(
                f"the formula must be a string, not {type(self.formula).__name__}: 'y ~ x + (1 | g)'."
            )
        for label in ("weights", "offset", "subset"):
            value = getattr(self, label)
            if value is not None and not isinstance(value, str):
                what = "an expression" if label == "subset" else "the name of a column"
                raise OptionError(
                    f"{label} must be {what} where rows come in chunks, not {type(value).__name__}: "
                    "an array has no chunks."
                )
        if self.missing not in ("warn", "drop", "raise"):
            raise OptionError(
                f"missing={self.missing!r} is not known; use 'warn' (leave out rows with missing values and "
                "say so), 'drop' (leave them out) or 'raise'."
            )

    @property
    def parsed(self) -> ParsedFormula:
        """The formula's parts."""
        return parse_formula(self.formula)

    @property
    def given(self) -> dict[str, str]:
        """Columns of weights and offset, where they were named."""
        both = {"weights": self.weights, "offset": self.offset}
        return {label: name for label, name in both.items() if isinstance(name, str)}

    def frame(self, chunk: object) -> tuple[ModelFrame, list[str]] | None:
        """A chunk's rows in use and the columns used; None where there are none."""
        scope = Scope(self.context, self.evaluate)
        frame = ModelFrame(chunk, None, scope)
        if self.subset is not None:
            try:
                frame = ModelFrame(frame.data, self.subset, scope)
            except DataError as error:
                if "selects 0 rows" in str(error):
                    return None
                raise
        used = used_columns(self.parsed, frame)
        if frame.adopted:
            raise FormulaError(
                f"formula {self.formula!r}: {', '.join(map(repr, frame.adopted))} is no column of the "
                "chunks; variables of the caller cannot be taken apart into chunks."
            )
        for label, name in self.given.items():
            if name not in frame.names:
                raise DataError(f"{label}={name!r} is not in the data{suggest([name], frame.names)}.")
            used.append(name)
        frame.check_names(used, self.formula)
        used = list(dict.fromkeys(used))
        before = frame.n
        try:
            frame.check_missing(used, "raise" if self.missing == "raise" else "drop", {})
        except DataError as error:
            if "no rows are left" not in str(error):
                raise
            frame.dropped = before
            frame.rows = np.zeros(len(frame.data), dtype=bool)
        return frame, used


def categorical_names(text: str) -> set[str]:
    """Columns that a formula codes by levels whatever they hold: those in C(...)."""
    return {next(name for name in match if name) for match in _CODED.findall(text)}


def model_columns(parsed: ParsedFormula, names: list[str]) -> set[str]:
    """Columns in the fixed part, and in what random terms have on the left of their bars."""
    texts = [term for _, term in parsed.fixed.terms]
    for bar in parsed.bars:
        texts += [term for _, term in bar.part.terms]
    out = set()
    for text in texts:
        out |= {text} if text in names else set(names_in(text, names)[0])
    return out


class Survey:
    """What one pass over the chunks finds.

    Parameters
    ----------
    request : Request

    Attributes
    ----------
    n, dropped, given : int
        Rows in use, left out for missing values, seen.
    used : list of str
    kinds : dict of str to str
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.n = self.dropped = self.given = 0
        self.used: list[str] = []
        self.kinds: dict[str, str] = {}
        self.ranges: dict[str, np.ndarray] = {}  # sum, low, high
        self._levels: dict[tuple[str, ...], Levels] = {}
        self._sample: list[pd.DataFrame] = []
        self._every, self._sampled = 1, 0
        self._asked = categorical_names(request.formula)
        self._columns: set[str] = set()
        self._groups = list(dict.fromkeys(bar.group.columns for bar in request.parsed.bars))

    def add(self, chunk: object, levels: bool = True) -> pd.DataFrame | None:
        """Look at a chunk.

        Parameters
        ----------
        chunk : object
        levels : bool
            Whether to find the levels of grouping factors.

        Returns
        -------
        DataFrame or None
            Its rows in use, of the columns used.
        """
        if is_empty(chunk):
            return None
        found = self.request.frame(chunk)
        if found is None:
            self.given += len(as_frame(chunk))
            return None
        frame, self.used = found
        if not self.n:
            self._columns = model_columns(self.request.parsed, self.used)
        self.given += len(frame.data)
        self.dropped += frame.dropped
        if frame.n == 0:
            return None
        for name in self.used:
            self._look(frame, name)
        rows_in_use = rows_of(frame, self.used)
        columns = {name: frame.raw(name) for name in self.used}
        for group in self._groups if levels else ():
            self._levels.setdefault(group, Levels(group)).add(
                pd.DataFrame({name: columns[name] for name in group}, copy=False)
            )
        # by the number of the row, so that chunks of any size give the same sample
        first = -self.n % self._every
        rows = np.arange(first, frame.n, self._every)
        self._sample.append(
            pd.DataFrame({n: c.iloc[rows].reset_index(drop=True) for n, c in columns.items()}, copy=False)
        )
        self._sampled += rows.size
        self.n += frame.n
        while self._sampled > _SAMPLE:
            self._sample = [self.sample().iloc[::4].reset_index(drop=True)]
            self._sampled = len(self._sample[0])
            self._every *= 4
        return rows_in_use

    @property
    def coded(self) -> bool:
        """Whether columns left of the bars are coded by levels, which all chunks must be asked for."""
        return any(
            name in self._columns and (kind != "numbers" or name in self._asked)
            for name, kind in self.kinds.items()
        )

    def _look(self, frame: ModelFrame, name: str) -> None:
        column = frame.raw(name)
        values = frame.numeric(name)
        kind = _kind(column, values is not None, frame.is_boolean(name))
        before = self.kinds.setdefault(name, kind)
        if before != kind:
            raise DataError(
                f"column {name!r} holds {before} in the first chunks and {kind} (dtype {column.dtype}) in a "
                f"later one, after {self.n} rows; give all chunks one type."
            )
        coded = name in self._columns and (kind != "numbers" or name in self._asked)
        if coded and (name,) not in self._groups:
            self._levels.setdefault((name,), Levels((name,))).add(pd.DataFrame({name: column}, copy=False))
        if values is not None:
            new = np.array([values.sum(), values.min(), values.max()])
            old = self.ranges.get(name)
            self.ranges[name] = (
                new if old is None else np.array([old[0] + new[0], min(old[1], new[1]), max(old[2], new[2])])
            )

    def sample(self) -> pd.DataFrame:
        """Rows evenly spread over all chunks."""
        parts = self._sample
        return pd.DataFrame({n: joined_columns([p[n] for p in parts], n) for n in self.used}, copy=False)

    def tables(
        self,
        known: Mapping[str, object] | None = None,
        numbered: Mapping[tuple[str, ...], LevelTable] | None = None,
    ) -> dict[tuple[str, ...], LevelTable]:
        """Levels of the grouping factors and of the columns that are coded by levels.

        Parameters
        ----------
        known : mapping, optional
            Levels of columns that are known beforehand.
        numbered : mapping of tuple of str to LevelTable, optional
            Levels of grouping factors that were found otherwise.

        Raises
        ------
        DataError
            Rows have levels that are not among those.
        """
        if self.n == 0:
            raise NoRows(self.dropped, self.given)
        out = (
            {columns: levels.table() for columns, levels in self._levels.items()}
            if numbered is None
            else dict(numbered)
        )
        for name, labels in ({} if known is None else known).items():
            if (name,) not in out:
                names = frozenset(c[0] for c in out if len(c) == 1)
                raise DataError(f"levels are given for {name!r}, which is no factor{suggest([name], names)}.")
            values = pd.Series(labels)
            if values.isna().any() or values.duplicated().any():
                raise DataError(
                    f"the levels given for {name!r} must be different ones, without missing values."
                )
            own = out[name,]
            wider = LevelTable.of(pd.DataFrame({name: values}))
            outside = wider.places(own) < 0
            if outside.any():
                shown = ", ".join(map(repr, own.rows[name][outside].head(5).tolist()))
                raise DataError(f"column {name!r} has levels that are not among those given: {shown}.")
            out[name,] = wider
        return out


class NoRows(DataError):
    """There is nothing to add up.

    Parameters
    ----------
    dropped, given : int
        Rows with missing values, and all there were.
    """

    def __init__(self, dropped: int, given: int) -> None:
        self.dropped, self.given = dropped, given
        super().__init__(
            "the chunks have no rows to use: check subset and missing values"
            + (f" ({dropped} rows have some)." if dropped else ".")
        )

    def __reduce__(self) -> tuple[type, tuple[int, int]]:
        return type(self), (self.dropped, self.given)


def warn_of_missing(request: Request, dropped: int, n: int) -> None:
    """Say how many rows were left out beside the n in use, if that is wanted."""
    if dropped and request.missing == "warn":
        warn_caller(
            f"{dropped} of {n + dropped} rows were left out because of missing values. "
            'missing="drop" leaves them out without this warning, missing="raise" refuses them.',
            MissingDataWarning,
        )


def rows_of(frame: ModelFrame, used: list[str]) -> pd.DataFrame:
    """The rows in use of the columns used."""
    return pd.DataFrame({name: frame.raw(name) for name in used}, copy=False)


def is_empty(chunk: object) -> bool:
    """Whether a chunk has no rows, as far as that is known without making a frame of it."""
    rows = getattr(chunk, "num_rows", None)
    if rows is not None:
        return rows == 0
    return isinstance(chunk, pd.DataFrame) and len(chunk) == 0


def _kind(column: pd.Series, numeric: bool, boolean: bool) -> str:
    if boolean:
        return "booleans"
    if numeric:
        return "numbers"
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        inner = pd.api.types.infer_dtype(dtype.categories, skipna=True)
        return "text" if inner in ("string", "empty") else f"categories of type {inner}"
    if getattr(dtype, "kind", "O") in "mM":
        return "dates or times"
    found = pd.api.types.infer_dtype(column.iloc[:1000], skipna=True)
    return "text" if found == "string" else f"values of type {found}"
