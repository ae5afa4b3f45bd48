"""A formula with ``.`` for what another one has, as R's ``update``."""

from __future__ import annotations

import re

from ..exceptions import FormulaError
from .parse import enclosed, signed_terms, split_outside

__all__ = ["update_formula"]

_DOT = re.compile(r"(?<![\w.)\]\"'`])\.(?![\w.])")


def update_formula(old: str, new: str) -> str:
    """Put what a formula has in the place of every ``.`` of another one.

    Parameters
    ----------
    old : str
        ``"y ~ x + (x | g)"``; bars are optional.
    new : str
        ``". ~ . + z"``, ``"log(.) ~ . - (x | g) + (1 | g)"``, ``"~ . * z"``; without ``.`` it stands alone.

    Returns
    -------
    str
        Random terms and offsets stand outside of products with ``.``.

    Raises
    ------
    FormulaError
        Not a formula; a random term or an offset to be left out that is not there.
    """
    if not isinstance(new, str):
        raise FormulaError(f"the formula must be a string, not {type(new).__name__}: '. ~ . + x'.")
    before, sides = split_outside(old, "~", old), split_outside(new, "~", new)
    if len(sides) != 2:
        raise FormulaError(
            f"formula {new!r} has {len(sides) - 1} '~'; write one, with '.' for what was there: '. ~ . + x'."
        )
    response = before[0].strip()
    left = _DOT.sub(lambda _: response, sides[0].strip()) or response
    terms: list[tuple[str, str]] = []
    there = _flat(before[1], old)
    product = [(sign, term) for sign, term in there if not _apart(term)]
    whole = _joined(product) or "1"
    for sign, term in _flat(sides[1], new):
        if term == ".":
            if sign == "-":
                raise FormulaError(
                    f"formula {new!r} leaves out '.', all that was there; write the terms to keep."
                )
            terms += [pair for pair in there if pair not in terms]
        elif _DOT.search(term) and not _apart(term):
            terms.append((sign, _DOT.sub(lambda _: f"({whole})", term)))
            terms += [pair for pair in there if _apart(pair[1]) and pair not in terms]
        elif sign == "-":
            _leave_out(terms, term, new)
        elif _key(term) not in [_key(t) for s, t in terms if s == "+"]:
            terms.append((sign, term))
    return f"{left} ~ {_joined(terms) or '1'}"


def _flat(text: str, formula: str) -> list[tuple[str, str]]:
    """Signed terms; parentheses around sums that hold random terms are opened."""
    out: list[tuple[str, str]] = []
    for sign, term in signed_terms(text, formula):
        inner = term[1:-1] if enclosed(term, formula) else ""
        if inner and "|" in inner and not _is_bar(term):
            out += _flat(inner, formula)
        else:
            out.append((sign, term))
    return out


def _is_bar(term: str) -> bool:
    return enclosed(term, term) and len(split_outside(term[1:-1], "|", term)) > 1


def _apart(term: str) -> bool:
    """Whether a term is a random one or an offset, which are parts of no product."""
    return _is_bar(term) or bool(re.match(r"offset\s*\(", term))


def _key(term: str) -> str:
    return "".join(term.split())


def _leave_out(terms: list[tuple[str, str]], term: str, formula: str) -> None:
    for pair in terms:
        if pair[0] == "+" and _key(pair[1]) == _key(term):
            terms.remove(pair)
            if term == "1":
                terms.append(("-", "1"))
            return
    if _apart(term):
        known = ", ".join(t for _, t in terms if _apart(t))
        raise FormulaError(
            f"formula {formula!r} leaves out {term}, which is not there. There: {known or 'none'}."
        )
    terms.append(("-", term))


def _joined(terms: list[tuple[str, str]]) -> str:
    text = "".join(f" {sign} {term}" for sign, term in terms)
    return text.removeprefix(" + ").strip()
