"""Linear hypotheses about the fixed effects as people write them: text, names, rows of numbers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import OptionError

__all__ = ["check_together", "hypothesis"]

_BETWEEN = "=+-*/,"  # what ends a name
_CONTRADICTS = 1e-8  # relative


def hypothesis(L: Any, value: Any, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows over the coefficients and what they are compared with.

    Parameters
    ----------
    L : str, array_like, Series, DataFrame, mapping, or a list of these
        Text as ``"A - B = 2"``, several separated by commas; numbers, shape (p,) or (q, p); pandas' and
        mappings by the names of the coefficients, those left out being zero.
    value : float or array_like, shape (q,)
        Text has its own.
    names : sequence of str, length p

    Returns
    -------
    matrix : ndarray, shape (q, p)
    value : ndarray, shape (q,)

    Raises
    ------
    OptionError
        A name that is no coefficient's, rows of another length, text that is no linear hypothesis.
    """
    if isinstance(L, list | tuple) and any(_named(row) for row in L):
        parts = [hypothesis(row, 0.0, names) for row in L]
        matrix = np.vstack([part for part, _ in parts])
        own = np.concatenate([constants for _, constants in parts])
        written = np.any(own != 0.0) or any(isinstance(row, str) for row in L)
    elif isinstance(L, str):
        matrix, own = _read(L, names)
        written = True
    else:
        matrix = _rows(L, names)
        own, written = np.zeros(len(matrix)), False
    try:
        against = np.broadcast_to(np.asarray(value, dtype=np.float64), (len(matrix),))
    except (TypeError, ValueError) as error:
        raise OptionError(f"value must be a number, or {len(matrix)} of them, one per row of L.") from error
    if written and np.any(against != 0.0):
        raise OptionError(f"value={value!r} beside text, which has its own: write {_example(L, value)!r}.")
    return matrix, own if written else against


def check_together(matrix: np.ndarray, value: np.ndarray) -> None:
    """Refuse rows that cannot hold together, as ``"A = 1, A = 2"``.

    Raises
    ------
    OptionError
        Dependent rows with values that contradict one another.
    """
    size = np.linalg.norm(matrix, axis=1)
    if np.any(size == 0.0):
        empty = (size == 0.0) & (value != 0.0)
        matrix, value, size = matrix[size > 0.0], value[size > 0.0], size[size > 0.0]
    else:
        empty = np.zeros(1, dtype=bool)
    U, s, _ = np.linalg.svd(matrix / size[:, None], full_matrices=True)
    between = U[:, int(np.sum(s > 1e-10)) :]
    against = value / size
    gap = np.abs(between.T @ against)
    if empty.any() or np.any(gap > _CONTRADICTS * np.abs(against).max(initial=0.0)):
        raise OptionError(
            "the rows of the hypothesis contradict one another: what some of them say follows from others "
            "with another value. Test them one by one."
        )


def _named(row: Any) -> bool:
    """Whether part of a list goes by names, so that numbers alone do not tell what it is."""
    if isinstance(row, list | tuple):
        return any(_named(entry) for entry in row)
    return row is None or isinstance(row, str | Mapping | pd.Series | pd.DataFrame)


def _example(L: Any, value: Any) -> str:
    first = L if isinstance(L, str) else next((row for row in L if isinstance(row, str)), "A")
    return f"{first.partition('=')[0].strip()} = {value}"


def _read(text: str, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Text by patsy's reader, which takes names of any kind as they are."""
    if not text.strip():
        raise OptionError("L is empty: write a hypothesis, such as 'A - B = 2'.")
    from patsy import DesignInfo, PatsyError

    # a parenthesis at the beginning of a name would be read as one around a sum
    read_as = {name: f"@{j}" for j, name in enumerate(names) if name.startswith("(")}
    plain = text
    for name, alias in read_as.items():
        plain = re.sub(rf"(?<!\w){re.escape(name)}", alias, plain)
    try:
        found = DesignInfo([read_as.get(name, name) for name in names]).linear_constraint(plain)
    except PatsyError as error:
        reason = str(error).partition("\n")[0]
        if "unrecognized token" in reason and error.origin is not None:
            unknown = _unknown(_token(plain, error.origin.start), names)
            raise OptionError(f"hypothesis {text!r}: {unknown}") from error
        raise OptionError(f"hypothesis {text!r} cannot be read: {reason}.") from error
    return np.asarray(found.coefs, dtype=np.float64), np.asarray(found.constants, dtype=np.float64).ravel()


def _token(text: str, at: int) -> str:
    """The name around a position, brackets and what is in them included: ``C(a, Sum)[S.x]:b``."""
    start = depth = 0
    for place, sign in enumerate(text + " "):
        opens, closes = sign in "([", sign in ")]"
        if depth == 0 and (sign in _BETWEEN or sign.isspace() or closes or (opens and start == place)):
            if start <= at < place:
                return text[start:place]
            start = place + 1
        depth = max(0, depth + (opens and start < place) - (closes and depth > 0))
    return text[at:].strip()


def _unknown(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(names)}."
    return f"{name!r} is no coefficient. {hint}"


def _rows(L: Any, names: Sequence[str]) -> np.ndarray:
    """Rows of numbers, shape (q, p)."""
    if L is None:
        raise OptionError("L must hold text, or numbers.")
    if isinstance(L, Mapping):
        L = pd.Series(dict(L), dtype=object)
    if isinstance(L, pd.Series):
        L = L.to_frame().T
    if isinstance(L, pd.DataFrame):
        unknown = [str(name) for name in L.columns if name not in names]
        if unknown:
            close = difflib.get_close_matches(unknown[0], names, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise OptionError(
                f"L names {', '.join(unknown)}, which are no coefficients. Known: {', '.join(names)}.{hint}"
            )
        L = L.reindex(columns=list(names), fill_value=0.0)
    try:
        matrix = np.atleast_2d(np.asarray(L, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise OptionError("L must hold numbers: one row, or rows of equal length.") from error
    if isinstance(L, list | tuple) and not len(L):
        raise OptionError("L is empty: give a row, or text such as 'A - B = 2'.")
    if matrix.ndim != 2 or matrix.shape[1] != len(names) or len(matrix) == 0:
        raise OptionError(
            f"L has shape {np.shape(L)}; its rows need {len(names)} numbers, one per coefficient: "
            f"{', '.join(names)}."
        )
    if not np.all(np.isfinite(matrix)):
        raise OptionError("L has values that are missing or infinite.")
    return matrix
