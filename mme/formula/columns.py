"""How the columns of one part of a formula are made from rows: those of the fit, and new ones alike."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from ..exceptions import FormulaError, MMEError
from .captured import Captured
from .evaluate import check_finite, evaluate, real_values
from .newdata import NewRows, refuse_unseen
from .parse import column_in, names_in
from .pieces import Piece, numeric_piece, structure_pieces
from .safe import is_elementwise

if TYPE_CHECKING:
    from formulaic import Formula

__all__ = [
    "INTERCEPT",
    "Columns",
    "EngineColumns",
    "FixedTerm",
    "PlainColumns",
    "check_whole",
    "functions",
    "levels_in",
    "patsy_levels",
    "patsy_terms",
    "probes",
    "read_formula",
    "refuse_unseen_in",
    "structure_levels",
    "structure_terms",
    "transforms",
    "two_rows",
]

INTERCEPT = "(Intercept)"
_PROBED = 2  # columns of a term of which rows are evaluated alone


@dataclass(frozen=True)
class FixedTerm:
    """One term of a formula and its columns.

    Attributes
    ----------
    name : str
        ``(Intercept)``, or the term in the words of the formula engine, for example ``"m:x"``.
    columns : slice
        Its columns of the matrix.
    factors : tuple of str
        What the term is the product of, for example ``("C(b)", "np.log(x)")``.
    variables : tuple of str
        Columns of the data that it uses.
    """

    name: str
    columns: slice
    factors: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


class NumericRows(Protocol):
    """Rows with numeric columns: of a `ModelFrame`, or `NewRows`."""

    @property
    def n(self) -> int:
        """Number of rows."""

    def numeric(self, name: str) -> np.ndarray | None:
        """A column as float64."""


class Columns(Protocol):
    """The coding of one part of a formula."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the columns."""

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the data that are used."""

    @property
    def terms(self) -> tuple[FixedTerm, ...]:
        """The terms and their columns."""

    @property
    def pieces(self) -> tuple[tuple[Piece, ...], ...]:
        """How the columns of every term are products of its factors' codings."""

    def levels(self, name: str) -> list | None:
        """Levels of a column that is coded as a factor, in order; None for any other."""

    def matrix(self, rows: NewRows) -> np.ndarray:
        """The columns, shape (n, k), of rows without missing values."""


@dataclass(frozen=True, eq=False)
class PlainColumns:
    """An intercept and numeric columns of the data, side by side."""

    intercept: bool
    names: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return (INTERCEPT,) * self.intercept + self.names

    @property
    def terms(self) -> tuple[FixedTerm, ...]:
        start = int(self.intercept)
        first = (FixedTerm(INTERCEPT, slice(0, 1)),) * start
        return first + tuple(
            FixedTerm(name, slice(j, j + 1), (name,), (name,)) for j, name in enumerate(self.names, start)
        )

    @property
    def pieces(self) -> tuple[tuple[Piece, ...], ...]:
        start = int(self.intercept)
        return ((Piece(slice(0, 1)),),) * start + tuple(
            (numeric_piece(name, j),) for j, name in enumerate(self.names, start)
        )

    def levels(self, name: str) -> list | None:
        return None

    def matrix(self, rows: NumericRows) -> np.ndarray:
        out = np.empty((rows.n, self.intercept + len(self.names)))
        if self.intercept:
            out[:, 0] = 1.0
        for j, name in enumerate(self.names, start=int(self.intercept)):
            out[:, j] = rows.numeric(name)
        return out


@dataclass(frozen=True, eq=False)
class EngineColumns:
    """Columns that the formula engine made; its specification holds contrasts, levels and states.

    Attributes
    ----------
    formula, text : str
        The whole formula, for messages, and the part as the engine reads it.
    held : Captured
        The specification, by `text`: contrasts of the caller's own may not be storable.
    labels : tuple of str
    kinds : dict of str to dtype
        Types that the columns of the data had.
    captured : Captured
        What the part uses of the caller.
    whole : str
        Why the part cannot be evaluated row by row; empty where it can.
    """

    formula: str
    text: str
    held: Captured
    labels: tuple[str, ...]
    kinds: dict[str, Any]
    captured: Captured
    whole: str = ""

    @classmethod
    def fit(
        cls,
        formula: str,
        text: str,
        data: pd.DataFrame,
        context: dict[str, object],
        *,
        shown: str = "",
        check: Callable[[np.ndarray], None] | None = None,
        na_action: str = "raise",
    ) -> tuple[EngineColumns, np.ndarray]:
        """Code the rows of a fit.

        Parameters
        ----------
        formula, text : str
        data : DataFrame, n rows
            Columns that the text uses, in plain types.
        context : dict of str to object
            What of the caller the text may use.
        shown : str
            The text as messages have it; by default as it is.
        check : callable, optional
            What is asked of the matrix before anything else.
        na_action : str
            As in formulaic.

        Returns
        -------
        EngineColumns
        ndarray of float64, shape (n, k)
        """
        from formulaic import model_matrix

        shown = shown or text
        # formulaic's own Q fails within scale(), center() and the like
        known = {**functions(), "Q": data.__getitem__, **context}
        matrix = evaluate(
            lambda: model_matrix(
                read_formula(text), data, context=known, na_action=na_action, output="numpy"
            ),
            shown,
            formula,
        )
        if check is not None:
            check(np.asarray(matrix))
        spec = matrix.model_spec
        kinds = {str(name): data[name].dtype for name in data.columns}
        labels = tuple(str(name) for name in spec.column_names)
        kept = _used(context, spec.formula) if context else {}
        out = cls(formula, shown, Captured({f"coding of {shown}": spec}), labels, kinds, Captured(kept))
        return out, real_values(matrix, shown, formula)

    def probed(self, data: pd.DataFrame, values: np.ndarray) -> EngineColumns:
        """With the reason in `whole` where a few rows alone do not give what they gave among all rows."""
        kept = self.captured.values(self.formula)
        strange = [f.expr for f in self.spec.factors if f.eval_method.value == "python"]
        if not any(map(callable, kept.values())):
            names = self.kinds.keys() | kept.keys()
            strange = [expr for expr in strange if not is_elementwise(expr, names)]
        if not strange:
            return self
        reason = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for rows in probes(strange, self.terms, values):
                    again = self._evaluate(data.iloc[rows].reset_index(drop=True))
                    if not np.array_equal(again, values[rows]):
                        reason = "a few rows alone give other values"
                        break
        except MMEError as error:
            reason = str(error)
        return replace(self, whole=f"{', '.join(sorted(strange))}: {reason}") if reason else self

    @property
    def spec(self) -> Any:
        """formulaic's specification."""
        (spec,) = self.held.values(self.formula).values()
        return spec

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    @property
    def terms(self) -> tuple[FixedTerm, ...]:
        return structure_terms(self.spec, self.kinds)

    @property
    def pieces(self) -> tuple[tuple[Piece, ...], ...]:
        return structure_pieces(self.spec, self.labels)

    def levels(self, name: str) -> list | None:
        return levels_in(structure_levels(self.spec), self.kinds, name)

    def matrix(self, rows: NewRows) -> np.ndarray:
        if self.whole:
            raise FormulaError(
                f"formula {self.formula!r}: what {self.text!r} gives for a row depends on the other rows of "
                f"the data of the fit ({self.whole}), so new rows cannot be coded. center(), scale(), poly() "
                "and splines keep what they need of the data; anything else is better made a column."
            )
        data = rows.typed(self.kinds)
        refuse_unseen_in(structure_levels(self.spec), self.kinds, data)
        return self._evaluate(two_rows(data), rows.context)[: len(data)]

    def _evaluate(self, data: pd.DataFrame, given: Mapping[str, object] | None = None) -> np.ndarray:
        kept = self.captured.values(self.formula, given)
        context = {**functions(), "Q": data.__getitem__, **kept}
        matrix = evaluate(
            lambda: self.spec.get_model_matrix(data, context=context),
            self.text,
            self.formula,
            check_levels=True,
        )
        values = real_values(matrix, self.text, self.formula)
        check_finite(values, self.labels, self.formula)
        return values


def probes(strange: Collection[str], terms: Collection[FixedTerm], values: np.ndarray) -> list[np.ndarray]:
    """Rows whose columns tell whether they depend on the other rows: a few together, and single ones twice.

    The few may hold the least and the greatest values of all rows, as the first and the last of sorted ones
    do.  Beside its equal a row is its own extreme, so rows where a column differs most tell.

    Parameters
    ----------
    strange : collection of str
        Factors that may depend on other rows.
    terms : collection of FixedTerm
    values : ndarray, shape (n, k)
        The columns at the rows of the fit.

    Returns
    -------
    list of ndarray of int
    """
    n = len(values)
    single: dict[int, None] = {}
    for expr in strange:
        columns = next((term.columns for term in terms if expr in term.factors), slice(0, 1))
        for column in values[:, columns].T[:_PROBED]:
            single |= dict.fromkeys([int(column.argmin()), int(column.argmax())])
    return [np.unique([0, n // 2, n - 1])[::-1], *(np.array([row, row]) for row in single)]


def structure_terms(spec: Any, columns: Collection[str]) -> tuple[FixedTerm, ...]:
    """Terms of a matrix of formulaic's.

    Parameters
    ----------
    spec : formulaic.ModelSpec
    columns : collection of str
        Columns of the data.
    """
    out, start = [], 0
    for term, _, made in spec.structure:
        stop = start + len(made)
        factors = tuple(f.expr for f in term.factors if f.eval_method.value != "literal")
        used: dict[str, None] = {}
        for factor in factors:
            used |= dict.fromkeys([factor] if factor in columns else names_in(factor, columns)[0])
        out.append(FixedTerm(str(term) if factors else INTERCEPT, slice(start, stop), factors, tuple(used)))
        start = stop
    return tuple(out)


def patsy_terms(info: Any, columns: Collection[str]) -> tuple[FixedTerm, ...]:
    """Terms of a matrix of patsy's.

    Parameters
    ----------
    info : patsy.DesignInfo
    columns : collection of str
        Columns of the data.
    """
    out = []
    for term, place in info.term_slices.items():
        factors = tuple(factor.name() for factor in term.factors)
        used: dict[str, None] = {}
        for factor in factors:
            used |= dict.fromkeys(names_in(factor, columns)[0])
        out.append(FixedTerm(term.name(), place, factors, tuple(used)))
    return tuple(out)


def check_whole(formula: str, whole: str) -> None:
    """Refuse to code new rows of a formula that statsmodels' engine does not evaluate row by row.

    Parameters
    ----------
    formula : str
    whole : str
        Why it does not; empty where it does.
    """
    if whole:
        raise FormulaError(
            f"formula {formula!r} cannot be evaluated row by row ({whole}), so new rows cannot "
            "be coded. center(), standardize() and splines keep what they need of the data; anything "
            "else is better made a column."
        )


def structure_levels(spec: Any) -> list[tuple[str, list]]:
    """Factors of a matrix of formulaic's that are coded by levels, with these, in order."""
    return [
        (expr, state["categories"])
        for expr, (_, state) in spec.encoder_state.items()
        if "categories" in state
    ]


def _used(context: dict[str, object], formula: Any) -> dict[str, object]:
    """The values that the factors of a formula name, and no others: one may be the whole data."""
    from formulaic.utils.code import sanitize_variable_names

    names: set[str] = set()
    for term in formula:
        for factor in term.factors:
            if factor.eval_method.value == "python":
                tree = ast.parse(sanitize_variable_names(factor.expr, {}, {}).strip(), mode="eval")
                names.update(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    return {name: value for name, value in context.items() if name in names}


@lru_cache(maxsize=256)
def read_formula(text: str) -> Formula:
    """A fragment of a formula as the formula engine reads it, to be left as it is.

    Raises
    ------
    SyntaxError, formulaic.errors.FormulaicError
    """
    from formulaic import Formula

    try:
        return Formula(text)
    except (RecursionError, MemoryError) as error:  # Python's parser says the latter of its own stack
        raise SyntaxError("it is nested too deeply") from error


def transforms() -> dict[str, object]:
    """Functions that the formula engine knows."""
    from formulaic.transforms import TRANSFORMS

    return TRANSFORMS


@lru_cache(maxsize=1)
def functions() -> dict[str, object]:
    """Functions known in formulas beside formulaic's own, under R's names."""
    return {
        "np": np,
        "pd": pd,
        "sqrt": np.sqrt,
        "abs": np.abs,
        "log1p": np.log1p,
        "expm1": np.expm1,
        "factor": transforms()["C"],
    }


def patsy_levels(spec: Any) -> list[tuple[str, list]]:
    """Levels of the categorical factors of a patsy.DesignInfo, by their text."""
    infos = spec.factor_infos.items()
    return [(factor.name(), list(info.categories)) for factor, info in infos if info.type == "categorical"]


def levels_in(factors: Sequence[tuple[str, list]], kinds: Mapping[str, Any], name: str) -> list | None:
    """Levels of the factor that is this column; None where none is."""
    for factor, levels in factors:
        if column_in(factor, kinds) == name:
            return levels
    return None


def refuse_unseen_in(
    factors: Sequence[tuple[str, list]], kinds: Mapping[str, Any], data: pd.DataFrame
) -> None:
    """Raise DataError where a column of the data has levels that the fit did not have."""
    for factor, levels in factors:
        name = column_in(factor, kinds)
        if name is not None:
            refuse_unseen(name, data[name], levels)


def two_rows(data: pd.DataFrame) -> pd.DataFrame:
    """One row twice: products with matrices sum in another order where there is one row."""
    return data.iloc[[0, 0]].reset_index(drop=True) if len(data) == 1 else data
