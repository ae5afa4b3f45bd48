"""The coding of a formula without the rows of the fit: the same columns and codes for other rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np

from ..exceptions import DataError
from .columns import Columns, EngineColumns, FixedTerm
from .frame import ModelFrame
from .levels import GroupCoding
from .newdata import NewRows
from .parse import column_in
from .pieces import FactorCoding, Piece

__all__ = ["Coding", "NewTerm", "TermCoding", "Variable", "describe", "sum_offsets"]


@dataclass(frozen=True, eq=False)
class Variable:
    """A column of the data in the fixed part, as the rows of the fit had it.

    Attributes
    ----------
    name : str
    kind : {"numeric", "categorical"}
        Numbers that are coded as a factor, and booleans, are categorical.
    levels : list or None
        Of a categorical one, in order; None where they have none (values of several types in a function).
    mean, low, high : float
        Of numbers and booleans; NaN for others.
    """

    name: str
    kind: str
    levels: list | None = None
    mean: float = np.nan
    low: float = np.nan
    high: float = np.nan


@dataclass(frozen=True, eq=False)
class TermCoding:
    """The coding of one random term.

    Attributes
    ----------
    name : str
        As that of its `RandomTerm`.
    label : str
        Of the grouping factor.
    group : GroupCoding
    columns : Columns or None
        None stands for an intercept alone.
    column_names : tuple of str
    """

    name: str
    label: str
    group: GroupCoding
    columns: Columns | None
    column_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class NewTerm:
    """A random term at new rows.

    Attributes
    ----------
    name, label : str
    codes : ndarray of int, shape (n,)
        Level of the fit; -1 where there was none like it, or the label is missing.
    missing : ndarray of bool, shape (n,), or None
        Rows where the label is missing; None where there are none.
    columns : ndarray of float64, shape (n, k), or None
        NaN in rows with missing values; None stands for ones.
    column_names : tuple of str
    """

    name: str
    label: str
    codes: np.ndarray
    missing: np.ndarray | None
    columns: np.ndarray | None
    column_names: tuple[str, ...]

    @property
    def unseen(self) -> np.ndarray:
        """Rows whose level the fit did not have, shape (n,)."""
        none = self.codes < 0
        return none if self.missing is None else none & ~self.missing


@dataclass(frozen=True, eq=False)
class Coding:
    """How a formula's columns and codes were made: contrasts, levels, states of transformations.

    Rows are given as a frame, or as `rows(frame)`, which is looked at once and counts missing values.

    Attributes
    ----------
    formula : str
    fixed_columns : Columns
        Coding of the fixed part.
    random_terms : tuple of TermCoding
        In the order of the design.
    variables : tuple of Variable
        Columns of the data that the fixed part uses.
    offsets : tuple of EngineColumns
        Codings of the ``offset()`` terms.
    named : dict of str to str
        Column of ``"offset"`` and ``"weights"`` where they were named.
    given : frozenset of str
        Which of these were arrays.
    adopted : tuple of str
        Columns that were variables of the caller.
    random_reason : str
        Why the random terms cannot be coded; empty where they can.
    """

    formula: str
    fixed_columns: Columns
    random_terms: tuple[TermCoding, ...]
    variables: tuple[Variable, ...]
    offsets: tuple[EngineColumns, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    adopted: tuple[str, ...] = ()
    random_reason: str = ""

    @property
    def x_names(self) -> tuple[str, ...]:
        """Names of the fixed columns."""
        return self.fixed_columns.labels

    @property
    def terms(self) -> tuple[FixedTerm, ...]:
        """Terms of the fixed part, with their columns, factors and variables."""
        return self.fixed_columns.terms

    @property
    def pieces(self) -> tuple[tuple[Piece, ...], ...]:
        """How the columns of every term are products of its factors' codings; booleans are factors, too."""
        logical = {v.name for v in self.variables if v.kind == "categorical"}

        def coded(factor: FactorCoding) -> FactorCoding:
            if factor.matrix is None and factor.width == 1 and column_in(factor.name, logical) is not None:
                return replace(factor, matrix=np.array([[0.0], [1.0]]))
            return factor

        return tuple(
            tuple(Piece(piece.columns, tuple(map(coded, piece.factors))) for piece in pieces)
            for pieces in self.fixed_columns.pieces
        )

    def rows(self, data: object, context: Mapping[str, object] | None = None) -> NewRows:
        """Rows to code.

        Parameters
        ----------
        data : DataFrame, mapping of arrays, or anything `pandas.DataFrame` takes
        context : mapping, optional
            Functions and variables in place of those that the formula used, where a pickle could not hold
            them.

        Returns
        -------
        NewRows
            `missing` counts missing values by column, as they are met.
        """
        return NewRows(data, self.formula, self.adopted, context)

    def fixed(self, data: object) -> np.ndarray:
        """The fixed columns, in the order of `x_names`.

        Parameters
        ----------
        data : NewRows, DataFrame, or anything `rows` takes, n rows

        Returns
        -------
        ndarray of float64, shape (n, p)
            NaN in rows with a missing value.

        Raises
        ------
        DataError
            A column that is not there or of another kind than in the fit, a level that the fit did not have.
        FormulaError
            A function of the caller that was not restored, or that depends on the other rows.
        """
        return _matrix(self.fixed_columns, self._rows(data))

    def random(self, data: object, labels: Sequence[bool] | None = None) -> tuple[NewTerm, ...]:
        """Codes and columns of the random terms, in the order of the design.

        Parameters
        ----------
        data : NewRows, DataFrame, or anything `rows` takes, n rows
        labels : sequence of bool, optional
            Whether the labels of each term are looked at, by default those of all; -1 are the codes of the
            others.

        Returns
        -------
        tuple of NewTerm

        Raises
        ------
        DataError, FormulaError
            As `fixed`; a level that the fit did not have has the code -1.
        """
        if self.random_reason:
            raise DataError(f"formula {self.formula!r}: {self.random_reason}.")
        rows = self._rows(data)
        matrices: dict[int, np.ndarray] = {}
        factors: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray | None]] = {}
        out = []
        for t, term in enumerate(self.random_terms):
            names = term.group.columns if labels is None or labels[t] else ()
            if not names:
                factors[names] = np.full(rows.n, -1), None
            elif names not in factors:
                missing = rows.missing_rows(names)
                factors[names] = term.group.codes([rows.column(name) for name in names], missing), missing
            columns = None
            if term.columns is not None:
                if id(term.columns) not in matrices:
                    matrices[id(term.columns)] = _matrix(term.columns, rows)
                columns = matrices[id(term.columns)]
            codes, missing = factors[names]
            out.append(NewTerm(term.name, term.label, codes, missing, columns, term.column_names))
        return tuple(out)

    def offset(self, data: object, given: object = None) -> np.ndarray | None:
        """The offset: the column named in the fit plus the ``offset()`` terms.

        Parameters
        ----------
        data : NewRows, DataFrame, or anything `rows` takes, n rows
        given : array_like, shape (n,), or float, optional
            In place of the array that was given in the fit.

        Returns
        -------
        ndarray of float64, shape (n,), or None
            NaN in rows with a missing value; None where the model has no offset.
        """
        rows = self._rows(data)
        first = self._vector("offset", rows, given)
        if not self.offsets:
            return first
        total = sum_offsets([_matrix(columns, rows)[:, 0] for columns in self.offsets])
        return total if first is None else first + total

    def weights(self, data: object, given: object = None) -> np.ndarray | None:
        """Prior weights, from the column named in the fit; see `offset`."""
        return self._vector("weights", self._rows(data), given)

    def _rows(self, data: object) -> NewRows:
        return data if isinstance(data, NewRows) else self.rows(data)

    def _vector(self, label: str, rows: NewRows, given: object) -> np.ndarray | None:
        if given is not None:
            try:
                values = np.asarray(given, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise DataError(f"{label} is not numeric: {error}.") from error
            if values.shape not in ((), (rows.n,)):
                raise DataError(f"{label} has shape {values.shape}; the new rows are {rows.n}.")
            return np.broadcast_to(values, rows.n).copy()
        if label in self.given:
            raise DataError(
                f"formula {self.formula!r}: {label} was an array in the fit; new rows need their own. Give "
                f"them, or fit with {label} as a column's name."
            )
        if label not in self.named:
            return None
        rows.missing_rows([self.named[label]])
        return rows.numeric(self.named[label])


def sum_offsets(values: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of the ``offset()`` terms, in one order for any number of rows."""
    return reduce(np.add, values)


def describe(columns: Columns, frame: ModelFrame) -> tuple[Variable, ...]:
    """What a part of a formula uses of the rows of a fit.

    Parameters
    ----------
    columns : Columns
    frame : ModelFrame

    Returns
    -------
    tuple of Variable
    """
    return tuple(_variable(name, columns.levels(name), frame) for name in columns.names)


def _variable(name: str, levels: list | None, frame: ModelFrame) -> Variable:
    values = frame.numeric(name)
    if values is None:
        return Variable(name, "categorical", _levels(name, frame) if levels is None else levels)
    if levels is None and frame.is_boolean(name):
        levels = [bool(value) for value in np.unique(values)]
    return Variable(
        name,
        "numeric" if levels is None else "categorical",
        levels,
        float(values.sum()) / values.size,
        float(values.min()),
        float(values.max()),
    )


def _levels(name: str, frame: ModelFrame) -> list | None:
    try:
        return frame.factor((name,)).levels.tolist()
    except DataError:  # no common order, or nothing that can be a level: a function makes something of it
        return None


def _matrix(columns: Columns, rows: NewRows) -> np.ndarray:
    """The columns at all rows, NaN where a value is missing."""
    complete, missing = rows.complete(columns.names)
    if missing is None:
        return columns.matrix(rows)
    out = np.full((rows.n, len(columns.labels)), np.nan)
    if complete.n:
        out[~missing] = columns.matrix(complete)
    return out
