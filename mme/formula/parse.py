"""lme4's formula syntax as text: response, fixed part, offsets and ``(columns | group)`` bars.

Nothing here sees data.  The grammar of the bars is that of Bates et al. (2015), J. Stat. Softw. 67(1),
section 2.2: ``(x | g)`` correlated, ``(x || g)`` uncorrelated, ``a/b`` nested, ``a:b`` interaction.  What is
left after the bars are taken out is an ordinary Wilkinson formula.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..exceptions import FormulaError
from ..hints import bar_hint
from .words import structured

__all__ = [
    "Bar",
    "Group",
    "ParsedFormula",
    "Part",
    "bar_in",
    "bare",
    "column_in",
    "enclosed",
    "names_in",
    "parse_formula",
    "signed_terms",
    "split_outside",
]

_DEEPEST = 100  # Python's own parser reads no more nested parentheses
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_QUOTES = "\"'`"
_NAME = r"[^\W\d]\w*(?:\.\w+)*"
_ATOM = re.compile(
    rf"""(?:(?:C|factor|as\.factor)\(\s*(?P<inner>.*?)\s*\)
    | Q\(\s*(?P<q>"[^"]*"|'[^']*')\s*\)
    | `(?P<tick>[^`]+)`
    | (?P<name>{_NAME}))\Z""",
    re.VERBOSE | re.DOTALL,
)
_TOKEN = re.compile(
    rf"""(?<![\w.])Q\(\s*(?P<q>"[^"]*"|'[^']*')\s*\)
    | `(?P<tick>[^`]*)`
    | (?P<string>"[^"]*"|'[^']*')
    | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[jJ]?)
    | (?P<name>{_NAME})""",
    re.VERBOSE,
)
# words of an expression that are not columns: Python's own, and the modules the evaluation knows
_WORDS = frozenset(
    "and or not in is if else for lambda True False None np pd contr max min sum len int float str".split()
)


@dataclass(frozen=True)
class Part:
    """One side of a Wilkinson formula: whether it has an intercept, and its signed terms.

    Attributes
    ----------
    intercept : bool
    terms : tuple of (str, str)
        Sign (``"+"`` or ``"-"``) and text of every term other than 0 and 1.
    """

    intercept: bool
    terms: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The part as a formula with its intercept spelled out."""
        return ("1" if self.intercept else "0") + "".join(f" {sign} {term}" for sign, term in self.terms)


@dataclass(frozen=True)
class Group:
    """A grouping factor: one column, or the interaction of several (the first varies slowest)."""

    label: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Bar:
    """One random term ``(part | group)``; `double` is ``||``; `text` is what the user wrote.

    `structure` is the name of its covariance structure, as in `mme.engine.covariance.structure`.
    """

    part: Part
    group: Group
    double: bool
    text: str
    structure: str = "full"


@dataclass(frozen=True)
class ParsedFormula:
    """A mixed-model formula taken apart.

    Attributes
    ----------
    text : str
        The formula as given.
    response : str
        Column name or Python expression.
    fixed : Part
    bars : tuple of Bar
        In the order of the formula, ``a/b`` already expanded to ``b:a`` and ``a``.
    offsets : tuple of str
        Arguments of ``offset(...)`` terms.
    """

    text: str
    response: str
    fixed: Part
    bars: tuple[Bar, ...]
    offsets: tuple[str, ...] = ()


@lru_cache(maxsize=512)
def parse_formula(formula: str, fixed_only: bool = False) -> ParsedFormula:
    """Take a mixed-model formula apart.

    Parameters
    ----------
    formula : str
        For example ``"y ~ x + (x | g)"``.
    fixed_only : bool
        Accept a formula without random terms.

    Returns
    -------
    ParsedFormula

    Raises
    ------
    FormulaError
        Naming the formula, the part that cannot be read and what to write instead.
    """
    sides = split_outside(formula, "~", formula)
    if len(sides) != 2:
        raise FormulaError(
            f"formula {formula!r} has {len(sides) - 1} '~'; write one, between the response and the terms: "
            "'y ~ x + (1 | g)'."
        )
    response, right = sides[0].strip(), sides[1].strip()
    if not response:
        raise FormulaError(f"formula {formula!r} has no response; put a column name before '~'.")
    if not right:
        raise FormulaError(f"formula {formula!r} has nothing after '~'; write terms such as 'x + (1 | g)'.")
    if any(c == "|" for _, c, _ in _code(response, formula)):
        raise FormulaError(f"formula {formula!r}: '|' is not allowed in the response {response!r}.")
    if "^" in response:
        raise FormulaError(
            f"formula {formula!r}: '^' in the response {response!r} is Python's bitwise operator; "
            "write '**' for powers."
        )
    fixed: list[tuple[str, str]] = []
    offsets: list[str] = []
    bars: list[Bar] = []
    for sign, term in signed_terms(right, formula):
        _sort_term(sign, term, formula, fixed, offsets, bars)
    if not bars and not fixed_only:
        raise FormulaError(
            f"formula {formula!r} has no random term; add one such as (1 | g), in parentheses, "
            "or use ordinary least squares."
        )
    return ParsedFormula(formula, response, _part(fixed), tuple(bars), tuple(offsets))


def names_in(text: str, columns: Iterable[str]) -> tuple[list[str], list[str]]:
    """Columns that an expression or formula fragment uses, and names it uses that are no columns.

    Parameters
    ----------
    text : str
        For example ``"np.log(x) + C(g) + `my col`"``.
    columns : container of str
        The data's column names.

    Returns
    -------
    used, unknown : list of str
        In order of appearance, without repeats.  Functions, keyword arguments, attributes and string
        literals are neither.
    """
    used: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for match in _TOKEN.finditer(text):
        if quoted := match["q"] or match["tick"]:
            name = quoted[1:-1] if match["q"] else quoted
            (used if name in columns else unknown)[name] = None
            continue
        name = match["name"]
        if name is None:
            continue
        if match.start() and text[match.start() - 1] == ".":
            continue  # attribute of a call's result
        after = text[match.end() :].lstrip()
        if after.startswith("=") and not after.startswith("=="):
            continue  # keyword argument
        head = name.split(".", 1)[0]
        if name in columns and not after.startswith("("):
            used[name] = None
        elif "." in name and head in columns and head not in ("np", "pd"):
            used[head] = None
        elif not after.startswith("(") and head not in _WORDS:
            unknown[name] = None
    return list(used), list(unknown)


def bare(text: str) -> str:
    """A column name without its backticks or Q()."""
    if text.startswith("`") and text.endswith("`"):
        return text[1:-1]
    match = re.fullmatch(r"Q\(\s*(?:\"([^\"]*)\"|'([^']*)')\s*\)", text) if text.startswith("Q(") else None
    return (match[1] or match[2] or "") if match else text


def column_in(factor: str, columns: Container[str]) -> str | None:
    """The column that a factor of a formula is, as it is or in C(); None for anything else."""
    coded = re.fullmatch(r"(?:C|factor)\((.+?)(?:,.*)?\)", factor, re.DOTALL)
    name = bare(coded[1].strip() if coded else factor)
    return name if name in columns else None


def _code(text: str, formula: str) -> Iterator[tuple[int, str, int]]:
    """Characters outside quotes and backticks as (position, character, depth of the brackets around it)."""
    stack: list[str] = []
    quote = ""
    for i, c in enumerate(text):
        if quote:
            quote = "" if c == quote else quote
        elif c in _QUOTES:
            quote = c
        elif c in _CLOSING:
            yield i, c, len(stack)
            stack.append(_CLOSING[c])
            if len(stack) > _DEEPEST:
                raise FormulaError(
                    f"a formula of {len(formula)} characters, {formula[:40]!r}..., has more than {_DEEPEST} "
                    "parentheses within one another; leave out those around whole terms."
                )
        elif c in ")]}":
            if not stack or stack.pop() != c:
                raise FormulaError(
                    f"formula {formula!r}: unbalanced parentheses, {c!r} after {text[:i].strip()!r} "
                    "closes nothing."
                )
            yield i, c, len(stack)
        else:
            yield i, c, len(stack)
    if quote:
        hint = ' Write a name that holds a backtick as Q("...").' if quote == "`" else ""
        raise FormulaError(f"formula {formula!r}: the quote {quote} is never closed.{hint}")
    if stack:
        raise FormulaError(f"formula {formula!r}: unbalanced parentheses, {stack[-1]!r} is missing.")


def split_outside(text: str, separators: str, formula: str) -> list[str]:
    """Pieces between separators that stand outside all brackets and quotes."""
    cuts = [i for i, c, depth in _code(text, formula) if depth == 0 and c in separators]
    return [text[a + 1 : b] for a, b in zip([-1, *cuts], [*cuts, len(text)], strict=True)]


def signed_terms(text: str, formula: str) -> list[tuple[str, str]]:
    """Top-level terms with their signs; unary signs are folded in."""
    cuts = [i for i, c, depth in _code(text, formula) if depth == 0 and c in "+-"]
    pieces = [text[a + 1 : b].strip() for a, b in zip([-1, *cuts], [*cuts, len(text)], strict=True)]
    signs = ["+", *(text[i] for i in cuts)]
    if not pieces[-1]:
        raise FormulaError(
            f"formula {formula!r}: {text.strip()!r} ends with {signs[-1]!r}; a term is missing."
        )
    terms, sign = [], "+"
    for mark, piece in zip(signs, pieces, strict=True):
        sign = mark if sign == "+" else ("-" if mark == "+" else "+")
        if piece:
            terms.append((sign, piece))
            sign = "+"
    return terms


def enclosed(text: str, formula: str) -> bool:
    """Whether one pair of parentheses encloses the whole text."""
    if not text.startswith("("):
        return False
    return next(i for i, c, depth in _code(text, formula) if c == ")" and depth == 0) == len(text) - 1


def _sort_term(
    sign: str,
    term: str,
    formula: str,
    fixed: list[tuple[str, str]],
    offsets: list[str],
    bars: list[Bar],
) -> None:
    depths = [depth for _, c, depth in _code(term, formula) if c == "|"]
    if not depths:
        if re.match(r"offset\s*\(", term) and term.endswith(")"):
            if sign == "-":
                raise FormulaError(f"formula {formula!r}: {term} cannot be subtracted.")
            offsets.append(term[term.index("(") + 1 : -1].strip())
        else:
            _check_fixed(term, formula)
            fixed.append((sign, term))
        return
    if 0 in depths:
        raise FormulaError(
            f"formula {formula!r}: the bar in {term!r} needs parentheses around it; write '({term})' "
            "for the random term only."
        )
    named = structured(term, formula)
    if named is not None:
        name, inner = named
        if sign == "-":
            raise FormulaError(
                f"formula {formula!r}: the random term {term} cannot be subtracted; leave it out."
            )
        bars.extend(_bars(inner, formula, name, term))
        return
    if not enclosed(term, formula):
        raise FormulaError(
            f"formula {formula!r}: {term!r} has a bar inside a function or another operator; "
            f"random terms are joined to the rest by '+' only.{bar_hint(term)}"
        )
    if sign == "-":
        raise FormulaError(f"formula {formula!r}: the random term {term} cannot be subtracted; leave it out.")
    inner = term[1:-1]
    if 1 in depths:
        bars.extend(_bars(inner, formula))
        return
    for inner_sign, inner_term in signed_terms(inner, formula):
        _sort_term(inner_sign, inner_term, formula, fixed, offsets, bars)


def _check_fixed(term: str, formula: str) -> None:
    if term == ".":
        raise FormulaError(
            f"formula {formula!r}: '.' (all other columns) is not supported; name the columns."
        )
    callers: list[bool] = []  # for every open bracket: whether Python evaluates what is inside it
    for i, c, _ in _code(term, formula):
        if c in _CLOSING:
            called = c != "(" or bool(re.search(r"\w\s*\Z", term[:i]))
            callers.append(called or any(callers[-1:]))
        elif c in ")]}":
            callers.pop()
        elif c == "^" and callers and callers[-1]:
            raise FormulaError(
                f"formula {formula!r}: '^' in {term!r} is Python's bitwise operator there; "
                "write '**' for powers."
            )


def _part(signed: Iterable[tuple[str, str]]) -> Part:
    """Fold 0, 1 and repeats away."""
    intercept = True
    terms: dict[tuple[str, str], None] = {}
    for sign, term in signed:
        if term in ("0", "1"):
            intercept = (term == "1") == (sign == "+")
        else:
            terms[sign, term] = None
    return Part(intercept, tuple(terms))


def _bars(inner: str, formula: str, structure: str = "full", written: str = "") -> list[Bar]:
    text = written or f"({inner.strip()})"
    marks = [i for i, c, depth in _code(inner, formula) if c == "|" and depth == 0]
    double = len(marks) == 2 and marks[1] == marks[0] + 1
    if len(marks) != 1 and not double:
        raise FormulaError(f"formula {formula!r}: {text} has {len(marks)} bars; write (columns | group).")
    if written and double:
        raise FormulaError(
            f"formula {formula!r}: {text} has two bars and a structure; write diag(x | g) or (x || g) for "
            "uncorrelated effects, one bar for any other structure."
        )
    left, right = inner[: marks[0]].strip(), inner[marks[-1] + 1 :].strip()
    if not right:
        raise FormulaError(
            f"formula {formula!r}: {text} has no grouping factor; write ({left or '1'} | group) with a "
            "column that says which rows belong together."
        )
    if not left:
        raise FormulaError(
            f"formula {formula!r}: {text} has nothing before the bar; write (1 | {right}) "
            "for a random intercept."
        )
    signed = signed_terms(left, formula)
    for _, term in signed:
        _check_fixed(term, formula)
    part = _part(signed)
    if not part.intercept and not part.terms:
        raise FormulaError(
            f"formula {formula!r}: {text} has no columns; write (1 | {right}) or (0 + x | {right})."
        )
    return [Bar(part, group, double, text, structure) for group in _groups(right, text, formula)]


def _groups(text: str, bar: str, formula: str) -> list[Group]:
    """``a/b/c`` -> ``c:(b:a)``, ``b:a``, ``a``, the most levels first, labelled as lme4 does."""
    groups: list[Group] = []
    for piece in split_outside(text, "/", formula):
        piece = piece.strip()
        group = _interaction(piece, bar, formula)
        if groups:
            outer = groups[0]
            whole = len(group.columns) == 1 or enclosed(piece, formula)
            own = _within(group) if whole else group.label
            label = _within(outer)
            columns = group.columns + outer.columns
            _check_distinct(columns, bar, formula)
            group = Group(f"{own}:{label}", columns)
        groups.insert(0, group)
    return groups


def _interaction(text: str, bar: str, formula: str) -> Group:
    labels: list[str] = []
    columns: list[str] = []
    for piece in (p.strip() for p in split_outside(text, ":", formula)):
        if enclosed(piece, formula):
            inner = _interaction(piece[1:-1].strip(), bar, formula)
            labels.append(_within(inner))
            columns.extend(inner.columns)
        else:
            name = _column_name(piece, bar, formula)
            labels.append(_within(Group(name, (name,))))
            columns.append(name)
    _check_distinct(columns, bar, formula)
    if len(columns) == 1:
        return Group(columns[0], tuple(columns))
    if len(labels) == 1 and len(columns) > 1:
        labels[0] = labels[0][1:-1]  # parentheses around the whole mean nothing
    return Group(":".join(labels), tuple(columns))


def _within(group: Group) -> str:
    """Label of a group as part of another one's."""
    if len(group.columns) > 1:
        return f"({group.label})"
    return f"`{group.label}`" if ":" in group.label else group.label


def _check_distinct(columns: Sequence[str], bar: str, formula: str) -> None:
    """A column crossed with itself, or nested within itself, groups the rows as it does alone."""
    for name in columns:
        if columns.count(name) > 1:
            raise FormulaError(
                f"formula {formula!r}: {bar} crosses {name!r} with itself, which gives the same groups "
                f"again; name {name!r} once in a grouping factor."
            )


def _column_name(text: str, bar: str, formula: str) -> str:
    match = _ATOM.match(text)
    if match is None:
        hint = (
            f" Several factors are several terms: write "
            f"{' + '.join(f'(1 | {p.strip()})' for p in text.split('+'))}."
            if "+" in text
            else " Group by column names joined with ':' or '/'; make a column of anything else first."
        )
        raise FormulaError(f"formula {formula!r}: cannot group by {text!r} in {bar}.{hint}")
    if match["inner"] is not None:
        return _column_name(match["inner"], bar, formula)
    return match["q"][1:-1] if match["q"] else match["tick"] or match["name"]


def bar_in(formula: str) -> str:
    """The first term with a bar where Python does not evaluate it, for readers of other formulas; or "".

    Parameters
    ----------
    formula : str
        ``(x | g)`` and ``x | g`` have one, ``I(x | z)`` has none.
    """
    opened: list[tuple[int, bool]] = []  # where every open bracket is, and whether Python evaluates inside
    start = None
    for i, c, depth in _code(formula, formula):
        if c in _CLOSING:
            called = c != "(" or bool(re.search(r"\w\s*\Z", formula[:i]))
            opened.append((i, called or any(inside for _, inside in opened[-1:])))
        elif c in ")]}":
            if start == opened.pop()[0]:
                return formula[start : i + 1]
        elif c == "|" and start is None and not (opened and opened[-1][1]):
            if depth == 0:
                return formula.strip()
            start = opened[-1][0]
    return ""
