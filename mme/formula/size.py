"""How many columns a formula's right-hand side makes, counted before anything of that size is built."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import chain, combinations
from math import comb, log
from typing import Any

from ..exceptions import FormulaError, MemoryEstimateError, NotEnoughDataError

__all__ = ["check_size"]

_SMALL = 500  # columns that nobody has to forecast
_MOST_WORK = 2_000_000  # terms formed, alike or not
_MOST_PRODUCTS = 50_000  # that the formula engine forms of one power, each alike or not
_COPIES = 3  # of a matrix while it is built and checked


def check_size(
    text: str, formula: str, n: int, columns_of: Callable[[str], int], available: Callable[[], float]
) -> None:
    """Refuse a part of a formula with more columns than rows, or than fit in memory.

    Parameters
    ----------
    text : str
        One side of a Wilkinson formula.
    formula : str
        For messages.
    n : int
        Rows.
    columns_of : callable (str) -> int
        Fewest columns of a factor: its levels less one, or 1.
    available : callable () -> float
        Bytes of memory.

    Raises
    ------
    FormulaError
        A power that would take the formula engine minutes.
    NotEnoughDataError, MemoryEstimateError
    """
    tree = _tree(text)
    if tree is None:
        return  # formulaic says what is wrong with it
    _check_columns(tree, text, formula, n, columns_of, available)
    _check_powers(tree, text, formula)


def _check_columns(
    tree: Any,
    text: str,
    formula: str,
    n: int,
    columns_of: Callable[[str], int],
    available: Callable[[], float],
) -> None:
    sizes: dict[str, int] = {}

    def size(factor: str) -> int:
        if factor not in sizes:
            sizes[factor] = columns_of(factor)
        return sizes[factor]

    try:
        about = _evaluate(tree, size, _count)
        if about <= _SMALL or (about < n and about * n * 8 * _COPIES < available()):
            return
        most = max(_SMALL, int(min(n, available() / (8.0 * _COPIES * n))))
        terms = _evaluate(tree, lambda factor: {frozenset([factor])}, _expansion(most))
        columns = 0
        for term in terms:
            product = 1
            for factor in term:
                product *= size(factor)
            columns += product
    except _TooMany:
        columns = about
    except _Unknown:
        return
    if columns >= n:
        raise NotEnoughDataError(
            f"formula {formula!r}: {_brief(text)} has about {columns:,} columns for {n:,} rows, more than "
            "can be estimated. Leave out interactions of high order: (a + b + c) ** 2 has those of two."
        )
    needed = 8.0 * _COPIES * n * columns
    if needed > available():
        raise MemoryEstimateError(
            f"formula {formula!r}: {_brief(text)} has about {columns:,} columns; with {n:,} rows they are "
            f"predicted to take {needed / 2**30:.3g} GiB of the {available() / 2**30:.3g} there are. Leave "
            "out interactions of high order, or group by a factor of many levels: (1 | factor)."
        )


def _check_powers(tree: Any, text: str, formula: str) -> None:
    """Refuse ``(a + b) ** 30``: all products of thirty terms, where two would do."""

    def combine(symbol: str, arguments: list) -> int:
        if symbol in ("**", "^") and not isinstance(arguments[0], tuple):
            terms, power = arguments[0], _exponent(arguments[1])
            if terms > 1 and min(power, 64) * log(terms) > log(_MOST_PRODUCTS):
                raise FormulaError(
                    f"formula {formula!r}: {_brief(text)} raises a sum of {terms} terms to the power "
                    f"{power}, which is expanded product by product. No term is in an interaction twice: "
                    f"** {terms} has them all, and a * b * c the same at once."
                )
        return _count(symbol, arguments)

    try:
        _evaluate(tree, lambda factor: 1, combine)
    except _Unknown:
        return


class _TooMany(Exception):
    pass


class _Unknown(Exception):
    """An operator that is not counted here."""


@lru_cache(maxsize=256)
def _tree(text: str) -> Any:
    from formulaic.errors import FormulaicError
    from formulaic.parser import DefaultFormulaParser

    try:
        return DefaultFormulaParser(include_intercept=False).get_ast(text)
    except (FormulaicError, SyntaxError, RecursionError, MemoryError):
        return None


def _evaluate(tree: Any, leaf: Callable, combine: Callable) -> Any:
    """The tree bottom up, without recursion: a sum of a thousand terms is a thousand deep."""
    done: list = []
    work: list[tuple[Any, bool]] = [(tree, False)]
    while work:
        node, visited = work.pop()
        if not hasattr(node, "args"):
            token = str(node.token)
            literal = node.kind.value == "value"
            done.append(("literal", token) if literal else leaf(token))
        elif not visited:
            work.append((node, True))
            work.extend((child, False) for child in reversed(list(node.args)))
        else:
            k = len(list(node.args))
            arguments, done = done[len(done) - k :], done[: len(done) - k]
            done.append(combine(node.operator.symbol, arguments))
    return done[0]


def _count(symbol: str, arguments: list) -> int:
    """Columns, not minding terms that occur twice: never too few."""
    values = [0 if isinstance(a, tuple) else a for a in arguments]
    if symbol in ("**", "^"):
        k, power = values[0], _exponent(arguments[1])
        return sum(comb(k, j) for j in range(1, min(power, k, 64) + 1)) if power > 1 else k
    if len(values) == 1:
        return values[0]
    a, b = values
    if symbol == ":":
        return max(a, 1) * max(b, 1)
    if symbol == "*":
        return (1 + a) * (1 + b) - 1
    if symbol in ("/", "in", "%in%"):
        return a + a * b
    if symbol == "+":
        return a + b
    if symbol == "-":
        return a
    raise _Unknown


def _expansion(most: int) -> Callable:
    """Distinct terms, as sets of factors; stops beyond `most` of them, or where counting takes seconds."""
    work = 0

    def distinct(terms: Iterable[frozenset[str]]) -> set[frozenset[str]]:
        nonlocal work
        out: set[frozenset[str]] = set()
        for term in terms:
            out.add(term)
            work += 1
            if len(out) > most or work > _MOST_WORK:
                raise _TooMany
        return out

    def combine(symbol: str, arguments: list) -> set[frozenset[str]]:
        values: list[set[frozenset[str]]] = [set() if isinstance(a, tuple) else a for a in arguments]
        if symbol in ("**", "^"):
            highest = min(_exponent(arguments[1]), len(values[0]))
            chosen = (c for j in range(1, highest + 1) for c in combinations(values[0], j))
            return distinct(frozenset().union(*c) for c in chosen)
        if len(values) == 1:
            return values[0] if symbol == "+" else set()
        a, b = values
        if symbol == ":":
            return distinct(s | t for s in a or [frozenset()] for t in b or [frozenset()])
        if symbol == "*":
            return distinct(chain(a, b, (s | t for s in a for t in b)))
        if symbol in ("/", "in", "%in%"):
            common: frozenset[str] = frozenset().union(*a)
            return distinct(chain(a, (common | t for t in b)))
        if symbol == "+":
            return a | b
        if symbol == "-":
            return a - b
        raise _Unknown

    return combine


def _exponent(literal: Any) -> int:
    try:
        return max(int(literal[1]), 1)
    except (TypeError, ValueError, IndexError):
        raise _Unknown from None


def _brief(text: str) -> str:
    text = re.sub(r"^[01] \+ ", "", text)
    return repr(text) if len(text) <= 60 else f"{text[:57]!r}..."
