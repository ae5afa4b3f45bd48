"""Random terms with a covariance structure as text: ``cs(0 + f | g)``.

The words are glmmTMB's and lme4's: ``us``, ``diag``, ``homdiag``, ``cs``, ``homcs``, ``ar1``, ``hetar1``,
``toep``, ``homtoep``, ``rr(0 + f | g, d)``; ``hom=TRUE`` or ``FALSE`` behind a term as in lme4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..exceptions import FormulaError

__all__ = ["structure_name", "structured"]

# by what is written: (heterogeneous, homogeneous); None where there is no such
_WORDS: dict[str, tuple[str | None, str | None]] = {
    "us": ("full", None),
    "diag": ("diagonal", "homdiag"),
    "homdiag": (None, "homdiag"),
    "cs": ("cs", "homcs"),
    "homcs": (None, "homcs"),
    "ar1": ("hetar1", "ar1"),
    "hetar1": ("hetar1", None),
    "toep": ("toep", "homtoep"),
    "homtoep": (None, "homtoep"),
}
_DEFAULT = {"ar1": "ar1"}
_CALL = re.compile(rf"({'|'.join([*_WORDS, 'rr'])})\s*\(", re.DOTALL)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


def structured(term: str, formula: str) -> tuple[str, str] | None:
    """The structure's name and the text of the bar inside; None for a term that is no structure's.

    Parameters
    ----------
    term : str
        Brackets and quotes balanced, for example ``"rr(0 + f | g, 2)"``.
    formula : str
        For messages.

    Raises
    ------
    FormulaError
    """
    call = _CALL.match(term)
    if call is None or not term.endswith(")"):
        return None
    pieces = _arguments(term[call.end() : -1])
    if pieces is None or "|" not in pieces[0]:
        return None  # the parenthesis that opens first does not close last
    return structure_name(call[1], pieces[1:], term, formula), pieces[0]


def structure_name(word: str, arguments: Sequence[str], term: str, formula: str) -> str:
    """Name of a structure from its word in a formula and the arguments behind the bar.

    Raises
    ------
    FormulaError
    """
    options: dict[str, str] = {}
    for piece in arguments:
        name, equals, value = piece.partition("=")
        options[name.strip() if equals else "d"] = (value if equals else name).strip()
    if word == "rr":
        d = options.pop("d", "2")
        if not d.isdigit() or int(d) < 1 or options:
            raise FormulaError(
                f"formula {formula!r}: {term} needs the number of latent variables behind the group, "
                "rr(0 + f | g, 2); it is 2 where nothing is said."
            )
        return f"rr({int(d)})"
    hom = options.pop("hom", "")
    if options or hom.lower() not in ("", "true", "false"):
        raise FormulaError(
            f"formula {formula!r}: {term} knows one argument behind the group, hom=TRUE (one variance for "
            "all effects) or hom=FALSE (one for each)."
        )
    heterogeneous, homogeneous = _WORDS[word]
    if not hom:
        return _DEFAULT.get(word) or heterogeneous or homogeneous or ""
    found = homogeneous if hom.lower() == "true" else heterogeneous
    if found is None:
        raise FormulaError(f"formula {formula!r}: {term}: there is no {word} with hom={hom}.")
    return found


def _arguments(text: str) -> list[str] | None:
    """Pieces between commas outside brackets and quotes; None where a bracket closes that was not opened."""
    stack: list[str] = []
    pieces, quote, start = [], "", 0
    for i, c in enumerate(text):
        if quote:
            quote = "" if c == quote else quote
        elif c in "\"'`":
            quote = c
        elif c in _CLOSING:
            stack.append(_CLOSING[c])
        elif c in ")]}":
            if not stack:
                return None
            stack.pop()
        elif c == "," and not stack:
            pieces.append(text[start:i])
            start = i + 1
    return [*pieces, text[start:]]
