"""Tests of the terms of the fixed part: rows of hypotheses by type, and their F."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..exceptions import DataError, InferenceError, OptionError
from ..fit.fitted import Fitted
from ..formula.coding import Coding
from ..formula.columns import FixedTerm
from .coefficients import Basis
from .degrees import FTest
from .estimable import detached, estimable_rows, triangle
from .terms import TermCells, cells_of, containing, sequential, type_three, type_two

__all__ = ["TermTest", "check_type", "coding_of", "term_rows", "term_tests", "untested"]

_TYPES = {"1": 1, "2": 2, "3": 3, "I": 1, "II": 2, "III": 3}


@dataclass(frozen=True, eq=False)
class TermTest:
    """A term, the rows of its hypothesis, and the test of them together; NaN where nothing can be tested."""

    name: str
    rows: np.ndarray
    test: FTest


def check_type(value: object) -> int:
    """Type of the hypotheses: 1, 2 or 3, or as Roman numerals."""
    text = str(value).strip().upper()
    if isinstance(value, bool) or text not in _TYPES:
        raise OptionError(
            f"type={value!r} is not known: 1 (each term after those before it), 2 (after all that do not "
            "contain it) or 3 (averaged over the levels of the others)."
        )
    return _TYPES[text]


def coding_of(fitted: Fitted, what: str) -> Coding:
    """The formula's coding.

    Raises
    ------
    InferenceError
        There is none: the model was made of arrays, or its data were removed.
    """
    if fitted.coding is None:
        raise InferenceError(f"{what} goes by the terms of a formula, and this model has none.")
    try:
        return fitted.coding()
    except DataError as error:
        raise InferenceError(f"{what} goes by the terms of a formula: {error}") from error


def term_rows(
    fitted: Fitted, type: int, cache: MutableMapping[str, Any] | None = None
) -> list[tuple[FixedTerm, np.ndarray]]:
    """Rows of the hypothesis of every term but the intercept, shapes (q, p); q = 0 where there is none.

    Parameters
    ----------
    fitted : Fitted
    type : {1, 2, 3}
    cache : mapping, optional
        As in `mme.inference.estimable.aliases`.
    """
    what = f"anova(type={type})"
    coding = coding_of(fitted, what)
    terms = coding.terms
    shown = [(number, term) for number, term in enumerate(terms) if term.factors]
    if not shown:
        return []
    space = estimable_rows(fitted, cache)
    if type == 3:
        rows = _type_three(coding, space)
        if len(shown) > 1:
            return [(term, rows[number]) for number, term in shown]
    if len(shown) == 1:
        type = (
            1  # all types are one hypothesis; Fai and Cornelius' F depends on its rows, lmerTest's are these
        )
    kept = np.flatnonzero(~np.isnan(fitted.beta))
    R = triangle(fitted, what, cache)
    own = {number: np.flatnonzero(_inside(kept, term.columns)) for number, term in enumerate(terms)}
    if type == 1:
        return [(term, sequential(R, own[number]) @ space) for number, term in shown]
    above = containing(cells_of(coding.pieces))
    empty = np.zeros(0, dtype=int)
    return [
        (term, type_two(R, own[k], np.concatenate([empty, *(own[j] for j in sorted(above[k]))])) @ space)
        for k, term in shown
    ]


def _inside(columns: np.ndarray, part: slice) -> np.ndarray:
    return (columns >= part.start) & (columns < part.stop)


def _type_three(coding: Coding, space: np.ndarray) -> dict[int, np.ndarray]:
    names = [term.name for term in coding.terms]

    def rows(cells: list[TermCells]) -> dict[int, np.ndarray]:
        return type_three(cells, space, names)

    try:
        return rows(cells_of(coding.pieces))
    except InferenceError:
        # a boolean without its other half is a number
        return rows(cells_of(coding.fixed_columns.pieces))


def term_tests(basis: Basis, type: int, cache: MutableMapping[str, Any] | None = None) -> list[TermTest]:
    """The F test of every term but the intercept.

    Parameters
    ----------
    basis : Basis
    type : {1, 2, 3}
    cache : mapping, optional
        As in `mme.inference.estimable.aliases`.
    """
    light = detached(basis, cache)
    return [
        TermTest(term.name, rows, light.f_test(rows, np.zeros(len(rows))))
        for term, rows in term_rows(basis.fitted, type, cache)
    ]


def untested(tests: Sequence[TermTest]) -> tuple[str, ...]:
    """Terms of which nothing can be tested."""
    return tuple(t.name for t in tests if np.isnan(t.test.F))
