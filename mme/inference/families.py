"""Families of contrasts among labelled means: coefficients and names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import gcd, lcm
from typing import Any

import numpy as np

from ..engine.runtime.memory import available_memory
from ..exceptions import MemoryEstimateError, OptionError

__all__ = ["ContrastFamily", "check_room", "family_of"]

_NAMED = ("pairwise", "trt.vs.ctrl", "consec", "poly")
_ALIASES = {
    "pairs": "pairwise",
    "tukey": "pairwise",
    "dunnett": "trt.vs.ctrl",
    "trt_vs_ctrl": "trt.vs.ctrl",
    "trt.vs.ctrl1": "trt.vs.ctrl",
    "consecutive": "consec",
    "polynomial": "poly",
}
_DEGREES = ("linear", "quadratic", "cubic", "quartic", "degree 5", "degree 6")


@dataclass(frozen=True, eq=False)
class ContrastFamily:
    """Contrasts of k means.

    Attributes
    ----------
    names : tuple of str, length q
    coefficients : ndarray, shape (q, k)
    adjust : str or None
        What is usual for them.
    pairwise : bool
        Whether they are all differences.
    """

    names: tuple[str, ...]
    coefficients: np.ndarray
    adjust: str | None
    pairwise: bool = False


def family_of(method: Any, labels: Sequence[str], levels: Sequence[Any], ref: Any = None) -> ContrastFamily:
    """The contrasts that a word, a dictionary or a matrix stands for.

    Parameters
    ----------
    method : str, mapping of str to (sequence of k or mapping by label), or array_like of shape (q, k)
    labels : sequence of str, length k
        Of the means.
    levels : sequence, length k
        The values that the labels stand for, of one factor; labels serve as well.
    ref : str, value or int, optional
        The control of "trt.vs.ctrl": a label or level, or its place; by default the first.

    Raises
    ------
    OptionError
        A method or control that there is not, coefficients of another length.
    """
    if not isinstance(method, str):
        if ref is not None:
            raise OptionError("ref= is the control of method='trt.vs.ctrl'; custom contrasts have none.")
        return _custom(method, labels, levels)
    word = _word(method)
    if ref is not None and word != "trt.vs.ctrl":
        raise OptionError(f"ref={ref!r} is the control of method='trt.vs.ctrl', not of {method!r}.")
    k, shown = len(labels), [_bracketed(label) for label in labels]
    unit = np.eye(k)
    if word == "pairwise":
        pairs = list(combinations(range(k), 2))
        names = tuple(f"{shown[a]} - {shown[b]}" for a, b in pairs)
        rows = np.array([unit[a] - unit[b] for a, b in pairs]).reshape(-1, k)
        return ContrastFamily(names, rows, "tukey", True)
    if word == "consec":
        rows = (unit[1:] - unit[:-1]).reshape(-1, k)
        return ContrastFamily(tuple(f"{shown[j + 1]} - {shown[j]}" for j in range(k - 1)), rows, "mvt")
    if word == "poly":
        rows = _polynomials(k)
        return ContrastFamily(_DEGREES[: len(rows)], rows, None)
    control = 0 if ref is None else _place(ref, labels, levels, "ref")
    others = [j for j in range(k) if j != control]
    rows = (unit[others] - unit[control]).reshape(-1, k)
    return ContrastFamily(tuple(f"{shown[j]} - {shown[control]}" for j in others), rows, "mvt")


def check_room(method: Any, means: int, width: int) -> None:
    """Refuse all differences of so many means, as rows of some width, that they would not fit in memory.

    Raises
    ------
    MemoryEstimateError
    """
    count = means * (means - 1) / 2
    if isinstance(method, str) and _word(method) == "pairwise":
        if 8.0 * count * (2 * means + 3 * width) > available_memory():
            raise MemoryEstimateError(
                f"{means} means have {count:.0f} differences, which would not fit in memory. Choose levels "
                "with at={'name': [levels]}, or compare with a control: method='trt.vs.ctrl'."
            )


def _word(method: str) -> str:
    text = method.lower()
    text = _ALIASES.get(text, text)
    if text in _NAMED:
        return text
    close = difflib.get_close_matches(text, _NAMED, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise OptionError(
        f"method={method!r} is not known.{hint} Known: {', '.join(_NAMED)}; or a dictionary of coefficients "
        "by name, or a matrix."
    )


def _bracketed(label: str) -> str:
    return f"({label})" if " - " in label or " + " in label else label


def _place(value: Any, labels: Sequence[str], levels: Sequence[Any], what: str) -> int:
    for known in (levels, labels):
        for j, own in enumerate(known):
            if type(own) is type(value) and own == value:
                return j
    for j, (label, level) in enumerate(zip(labels, levels, strict=True)):
        if str(value) in (label, str(level)):
            return j
    if (
        isinstance(value, int | np.integer)
        and not isinstance(value, bool)
        and -len(labels) <= value < len(labels)
    ):
        return int(value) % len(labels)
    close = difflib.get_close_matches(str(value), labels, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise OptionError(f"{what}={value!r} is none of the means.{hint} They are {', '.join(labels)}.")


def _custom(method: Any, labels: Sequence[str], levels: Sequence[Any]) -> ContrastFamily:
    k = len(labels)
    if hasattr(method, "to_numpy") and hasattr(method, "index"):  # a frame or series of pandas
        values = method.to_numpy()
        method = values if values.ndim == 1 else dict(zip(map(str, method.index), values, strict=True))
    if isinstance(method, Mapping):
        if not method:
            raise OptionError("method is an empty dictionary: give coefficients by the contrast's name.")
        names = tuple(str(name) for name in method)
        given = [_row(name, row, labels, levels) for name, row in method.items()]
        return ContrastFamily(names, np.array(given), None)
    try:
        matrix = np.atleast_2d(np.asarray(method, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise OptionError(f"method={method!r} is no word, dictionary or matrix of contrasts.") from error
    if matrix.ndim != 2 or matrix.shape[1] != k or not matrix.size:
        raise OptionError(
            f"method has shape {np.shape(method)}; every contrast needs {k} numbers, one for each of "
            f"{', '.join(labels)}."
        )
    if not np.all(np.isfinite(matrix)):
        raise OptionError("method has values that are missing or infinite.")
    return ContrastFamily(tuple(f"contrast {j + 1}" for j in range(len(matrix))), matrix, None)


def _row(name: Any, row: Any, labels: Sequence[str], levels: Sequence[Any]) -> np.ndarray:
    k = len(labels)
    if isinstance(row, Mapping):
        out = np.zeros(k)
        for label, value in row.items():
            out[_place(label, labels, levels, f"contrast {name!r}: the mean")] = value
        return out
    try:
        numbers = np.asarray(row, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OptionError(f"contrast {name!r} must hold numbers, one for each mean.") from error
    if numbers.shape != (k,) or not np.all(np.isfinite(numbers)):
        raise OptionError(
            f"contrast {name!r} needs {k} numbers, one for each of {', '.join(labels)}; it has "
            f"{'shape ' + str(numbers.shape) if numbers.shape != (k,) else 'missing or infinite values'}."
        )
    return numbers


def _polynomials(k: int) -> np.ndarray:
    """Orthogonal polynomials at k equally spaced points, up to degree 6, in the smallest whole numbers."""
    from fractions import Fraction

    basis: list[list[Fraction]] = [[Fraction(1)] * k]
    for degree in range(1, min(k - 1, len(_DEGREES)) + 1):
        values = [Fraction(x**degree) for x in range(k)]
        for earlier in basis:
            own = sum((a * b for a, b in zip(values, earlier, strict=True)), Fraction(0))
            share = own / sum((a * a for a in earlier), Fraction(0))
            values = [a - share * b for a, b in zip(values, earlier, strict=True)]
        basis.append(values)
    rows = []
    for values in basis[1:]:
        whole = lcm(*(value.denominator for value in values))
        numbers = [int(value * whole) for value in values]
        rows.append([number // gcd(*numbers) for number in numbers])
    return np.array(rows, dtype=np.float64).reshape(-1, k)
