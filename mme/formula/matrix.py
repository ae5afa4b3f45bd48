"""Model matrices and responses from formula fragments.

Numeric column names joined by '+' are laid side by side here, because small models are fitted by the
thousand; everything else is formulaic's work, imported only then.
"""

from __future__ import annotations

import re
from collections.abc import Sized
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..engine.runtime.memory import available_memory
from ..exceptions import DataError, FormulaError
from .codes import unhashable
from .columns import INTERCEPT, Columns, EngineColumns, PlainColumns, functions, read_formula, transforms
from .evaluate import check_finite, evaluate
from .frame import ModelFrame, not_numeric, refuse_dates
from .parse import Part, bare, column_in, names_in
from .safe import check_expression
from .size import check_size

if TYPE_CHECKING:
    from formulaic import Formula

__all__ = ["MatrixBuilder", "r_name"]


class MatrixBuilder:
    """Builds the matrices of one formula; equal parts share one array.

    Parameters
    ----------
    frame : ModelFrame
        After its missing values were dealt with.
    formula : str
        For messages.
    """

    def __init__(self, frame: ModelFrame, formula: str) -> None:
        self.frame = frame
        self.formula = formula
        self._built: dict[tuple[Part, bool], tuple[np.ndarray, Columns]] = {}

    def matrix(self, part: Part, whole: bool = False) -> tuple[np.ndarray, Columns]:
        """Model matrix of a part.

        Parameters
        ----------
        part : Part
        whole : bool
            Columns for categories that do not occur, too.

        Returns
        -------
        matrix : ndarray of float64, shape (n, k)
        columns : Columns
            How the columns were coded.  The intercept is ``(Intercept)``; other names are formulaic's.
        """
        built = self._built.get((part, whole))
        if built is None:
            names = self._plain(part)
            if names is None:
                built = self._general(part, whole)
            else:
                plain = PlainColumns(part.intercept, tuple(names))
                built = plain.matrix(self.frame), plain
            self._built[part, whole] = built
        return built

    def split(self, part: Part) -> list[Part]:
        """The independent parts that ``||`` makes of a part: the intercept, then each term without one."""
        if self._plain(part) is None:
            text = self._quoted(part.text)
            self._check_tokens(text)
            self._check_size(part)
            terms = [str(term) for term in evaluate(lambda: read_formula(text), text, self.formula)]
            terms = [term for term in terms if term not in ("0", "1")]
        else:
            terms = [term for _, term in part.terms]
        parts = [Part(True)] if part.intercept else []
        return parts + [Part(False, (("+", term),)) for term in terms]

    def response(self, text: str) -> np.ndarray:
        """The response, shape (n,): a column or the value of a Python expression."""
        return self.coded_response(text)[0]

    def coded_response(self, text: str, probed: bool = False) -> tuple[np.ndarray, Columns]:
        """The response, shape (n,), and how it was coded; `probed`: whether other rows can be coded alike."""
        name = bare(text)
        if name not in self.frame.names:
            return self._expression(text, "response", probed)
        values = self.frame.numeric(name)
        if values is None:
            raise not_numeric(self.frame.raw(name), name)
        return values, PlainColumns(False, (name,))

    def offset(self, text: str) -> tuple[np.ndarray, EngineColumns]:
        """The argument of an ``offset()`` term, shape (n,), and how it was coded."""
        return self._expression(text, "offset", True)

    def _plain(self, part: Part) -> list[str] | None:
        """Column names if the part is nothing but an intercept and numeric columns."""
        names = []
        for sign, term in part.terms:
            name = bare(term)
            if sign == "-" or name not in self.frame.names or not self.frame.is_numeric(name):
                return None
            names.append(name)
        return names

    def _quoted(self, text: str) -> str:
        """Dotted column names in backticks: Python would read them as attributes."""
        return re.sub(
            r"""\"[^\"]*\"|'[^']*'|`[^`]*`|(?<![\w.])[^\W\d]\w*(?:\.\w+)+(?![\w(])""",
            lambda match: f"`{match[0]}`" if match[0] in self.frame.names else match[0],
            text,
        )

    def _general(self, part: Part, whole: bool = False) -> tuple[np.ndarray, EngineColumns]:
        text = self._quoted(part.text)
        names, _ = names_in(part.text, self.frame.names)
        self._check_tokens(text)
        self._check_size(part)
        self._check_kinds(text)
        data = self.frame.clean(names, whole)
        if not names:
            data = pd.DataFrame(index=pd.RangeIndex(self.frame.n))
        columns, values = EngineColumns.fit(self.formula, text, data, self._context(text))
        if part.intercept and columns.labels[:1] == ("Intercept",):
            columns = replace(columns, labels=(INTERCEPT, *columns.labels[1:]))
        labels = columns.labels
        if len(set(labels)) < len(labels):
            twice = ", ".join(sorted({label for label in labels if labels.count(label) > 1}))
            raise FormulaError(
                f"formula {self.formula!r}: several columns of {part.text!r} are called {twice}; a column of "
                "the data has the name of an interaction or of a level: rename it."
            )
        check_finite(values, labels, self.formula)
        return values, columns.probed(data, values)

    def _expression(self, text: str, what: str, probed: bool) -> tuple[np.ndarray, EngineColumns]:
        names, _ = names_in(text, self.frame.names)
        fragment = "0 + {" + self._quoted(text) + "}"
        data = self.frame.clean(names)
        if not names:
            raise FormulaError(f"formula {self.formula!r}: the {what} {text!r} uses no column of the data.")
        self._check_tokens(fragment)
        if self.frame.scope.safe:
            self._check_factors(evaluate(lambda: read_formula(fragment), text, self.formula))

        def check(matrix: np.ndarray) -> None:
            if matrix.shape != (self.frame.n, 1):
                raise FormulaError(
                    f"formula {self.formula!r}: the {what} {text!r} is not one number per row "
                    f"(it gives {matrix.shape[1]} columns)."
                )

        columns, values = EngineColumns.fit(
            self.formula,
            fragment,
            data,
            self._context(fragment),
            shown=text,
            check=check,
            na_action="ignore",
        )
        columns = replace(columns, labels=(text,))
        check_finite(values, columns.labels, self.formula)
        return values[:, 0], columns.probed(data, values) if probed else columns

    def _check_tokens(self, text: str) -> None:
        """Under evaluate="safe", before formulaic parses the text: parsing may evaluate functions' names."""
        if not self.frame.scope.safe:
            return
        from formulaic.parser.algos.tokenize import tokenize

        names = self.frame.names | set(self.frame.scope.layers[0])
        for token in evaluate(lambda: list(tokenize(text)), text, self.formula):
            if token.kind.value == "python":
                check_expression(token.token, names, self.formula, self.frame.is_text)

    def _check_factors(self, formula: Formula) -> None:
        """Under evaluate="safe": the very factors that formulaic will evaluate."""
        names = self.frame.names | set(self.frame.scope.layers[0])
        for term in formula:
            for factor in term.factors:
                if factor.eval_method.value == "python":
                    check_expression(factor.expr, names, self.formula, self.frame.is_text)
                elif factor.eval_method.value == "lookup" and factor.expr not in names:
                    raise FormulaError(f"formula {self.formula!r}: {factor.expr!r} is not in the data.")

    def _refuse_variable(self, name: str) -> None:
        value = self.frame.scope.get(name)
        size = f", with {len(value)} values" if isinstance(value, Sized) else ""
        raise FormulaError(
            f"formula {self.formula!r}: {name!r} is not in the data, and the variable of that name (of type "
            f"{type(value).__name__}{size}) is not one value for each of the {len(self.frame.data)} rows."
        )

    def _check_size(self, part: Part) -> None:
        check_size(
            self._quoted(part.text), self.formula, self.frame.n, self._columns_of, available=available_memory
        )

    def _columns_of(self, factor: str) -> int:
        """Fewest columns of a factor of the formula: its levels less one, or 1."""
        name = column_in(factor, self.frame.names)
        if name is None or (name == bare(factor) and self.frame.is_numeric(name)):
            return 1
        try:
            return max(self.frame.raw(name).nunique() - 1, 1)
        except TypeError as error:
            raise unhashable(self.frame.raw(name), name) from error

    def _context(self, text: str) -> dict[str, object]:
        """Functions and variables of the caller that the text names."""
        context: dict[str, object] = {}
        for name in set(re.findall(r"[^\W\d]\w*", text)):
            if name not in self.frame.scope or name in self.frame.names:
                continue
            value = self.frame.scope.get(name)
            known = name in functions() or name in transforms()
            # a number called C does not hide the function, nor does math.log, which takes one number
            if known and (not callable(value) or getattr(value, "__module__", "") == "math"):
                continue
            context[name] = value
        return context

    def _check_kinds(self, text: str) -> None:
        """Columns used as they are: no dates, and no text that is nearly all numbers."""
        formula = evaluate(lambda: read_formula(text), text, self.formula)
        if self.frame.scope.safe:
            self._check_factors(formula)
        for term in formula:
            for factor in term.factors:
                name = bare(str(factor))
                if factor.eval_method.value == "lookup" and name not in self.frame.names:
                    self._refuse_variable(name)
                if name in self.frame.names:
                    column = self.frame.raw(name)
                    refuse_dates(column, name)
                    _check_not_numbers(column, name)


def r_name(name: str) -> str:
    """R's name of a fixed-effects column, for comparison with results from R.

    Parameters
    ----------
    name : str
        A name of `mme`, for example ``"Machine[T.B]"`` or ``"C(dept)[T.2]:service"``.

    Returns
    -------
    str
        For example ``"MachineB"`` or ``"factor(dept)2:service"``.
    """
    if name == "Intercept":
        return INTERCEPT
    pieces = re.findall(r"(?:\[[^\]]*\]|\([^)]*\)|[^:\[(])+", name)
    out = []
    for piece in pieces:
        match = re.fullmatch(r"(.*?)(?:\[(?:T\.)?([^\]]*)\])?", piece, re.DOTALL)
        assert match is not None  # of any text
        variable, level = match[1], match[2] or ""
        variable = re.sub(r"^C\((.*)\)$", r"factor(\1)", variable)
        variable = re.sub(r"\bnp\.", "", variable).replace(" ** ", "^").replace("**", "^")
        out.append(variable + level)
    return ":".join(out)


def _check_not_numbers(column: pd.Series, name: str) -> None:
    """Text that is nearly all numbers is a column read wrongly, not a factor of hundreds of levels."""
    dtype = column.dtype
    if not (pd.api.types.is_object_dtype(dtype) or pd.api.types.is_string_dtype(dtype)):
        return
    try:
        unique = pd.Series(pd.unique(column.to_numpy(dtype=object)))
    except TypeError as error:
        raise unhashable(column, name) from error
    if len(unique) <= 10:
        return
    bad = pd.to_numeric(unique, errors="coerce").isna()
    if bad.mean() > 0.1:
        return
    shown = ", ".join(repr(value) for value in unique[bad][:5])
    raise DataError(
        f"column {name!r} is text (dtype {dtype}) but {len(unique) - int(bad.sum())} of its {len(unique)} "
        f"distinct values are numbers{f'; the others begin with {shown}' if shown else ''}. "
        f"For numbers use pd.to_numeric(data[{name!r}], errors='coerce'); for a factor write C({name})."
    )
