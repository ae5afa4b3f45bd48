"""`residual=` and `dispersion=`: what they say, and the structure that the data make of it.

``varident(f)`` is a variance for each level of f; ``ar1(time | g)``, ``car1(time | g)``, ``cs(g)``,
``toep(visit | g)`` are correlations within the levels of g, a product of both is allowed, and ``us(visit |
g)`` has a covariance for every pair of visits. `dispersion` is a formula of the logarithm of the variance.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from ..engine.covariance.correlations import (
    AutoRegressive,
    CompoundSymmetric,
    CorrelationPart,
    Toeplitz,
    Unstructured,
)
from ..engine.covariance.residual import LogLinear, ResidualStructure, Strata, VariancePart
from ..exceptions import DesignError, FormulaError, OptionError
from .codes import Factor
from .frame import ModelFrame
from .matrix import MatrixBuilder
from .parse import Part, bare, names_in, parse_formula, split_outside

__all__ = ["ResidualFormula", "make_residual", "parse_residual"]

_CORRELATIONS = ("ar1", "car1", "cs", "toep", "us")
_BOTH = {"ar1h": "ar1", "csh": "cs", "toeph": "toep"}  # mmrm's and SAS' words for a product with variances
_OTHER_WORDS = {
    "un": "us",
    "unstructured": "us",
    "corsymm": "us",
    "corar1": "ar1",
    "corcar1": "car1",
    "corcompsymm": "cs",
    "homcs": "cs",
    "toeplitz": "toep",
    "arh1": "ar1h",
}
_EXAMPLE = 'residual="varident(sex)", "ar1(time | subject)" or "us(visit | subject)"'


@dataclass(frozen=True)
class ResidualFormula:
    """What was asked for.

    Attributes
    ----------
    text : str
    strata : tuple of str
        Columns of whose combinations each has a variance; empty if none.
    correlation : str
        One of ar1, car1, cs, toep, us; empty if none.
    position : str
        Column of times or visits; empty: rows in their order.
    group : tuple of str
        Columns of the subjects.
    dispersion : Part or None
    """

    text: str
    strata: tuple[str, ...] = ()
    correlation: str = ""
    position: str = ""
    group: tuple[str, ...] = ()
    dispersion: Part | None = None

    def columns(self, names: frozenset[str]) -> list[str]:
        """Names that are used, columns or not."""
        used = [*self.strata, *([self.position] if self.position else []), *self.group]
        for _, term in self.dispersion.terms if self.dispersion else ():
            known, unknown = names_in(term, names)
            used += known + unknown
        return list(dict.fromkeys(used))


def parse_residual(residual: object, dispersion: object) -> ResidualFormula | None:
    """What `residual` and `dispersion` ask for; None where there is nothing of it.

    Raises
    ------
    OptionError, FormulaError
        Something that cannot be read, with what to write instead.
    """
    for name, value in (("residual", residual), ("dispersion", dispersion)):
        if value is not None and not isinstance(value, str):
            raise OptionError(f"{name} must be text or None, not {type(value).__name__}: {_EXAMPLE}.")
    if residual is None and dispersion is None:
        return None
    parsed = ResidualFormula("") if residual is None else _parse(str(residual))
    if dispersion is None:
        return parsed
    text = str(dispersion).strip()
    if not text.startswith("~"):
        raise FormulaError(f"dispersion={dispersion!r} must be a formula of one side, such as '~ sex'.")
    formula = parse_formula(f"y {text}", fixed_only=True)
    if formula.bars or formula.offsets:
        raise FormulaError(f"dispersion={dispersion!r}: random terms and offsets are not possible there.")
    part = formula.fixed
    if not part.intercept:
        raise FormulaError(
            f"dispersion={dispersion!r} needs its intercept: it is the logarithm of the residual variance. "
            "Leave out the 0."
        )
    if parsed.strata or parsed.correlation == "us":
        raise OptionError(
            f"residual={residual!r} has variances of its own already; dispersion={dispersion!r} gives them a "
            "second time. Leave one out."
        )
    shown = f"dispersion {text}" if not parsed.text else f"{parsed.text}, dispersion {text}"
    return ResidualFormula(shown, (), parsed.correlation, parsed.position, parsed.group, part)


def _parse(text: str) -> ResidualFormula:
    strata: tuple[str, ...] = ()
    correlation = position = ""
    group: tuple[str, ...] = ()

    def fail(why: str) -> NoReturn:
        raise FormulaError(f"residual={text!r}: {why}")

    for piece in split_outside(text, "*", text):
        match = re.fullmatch(r"\s*([A-Za-z_][\w.]*)\s*\((.*)\)\s*", piece, re.DOTALL)
        if match is None:
            fail(
                f"{piece.strip()!r} is not understood. Write {_EXAMPLE}, or a product of a variance and a "
                "correlation."
            )
        name, inner = match[1].lower(), match[2].strip()
        name = _OTHER_WORDS.get(name, name)
        if name == "varident":
            if strata:
                fail("there are two variances; write the combinations of two factors as varident(a:b).")
            strata = _group(inner.split("|")[-1], text)
            continue
        both = name in _BOTH
        name = _BOTH.get(name, name)
        if name not in _CORRELATIONS:
            known = ["varident", *_CORRELATIONS, *_BOTH]
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            fail(f"{match[1]!r} is not known.{hint} Known: {', '.join(known)}.")
        if correlation:
            fail("there are two correlations; one is possible.")
        sides = split_outside(inner, "|", text)
        if len(sides) == 1 and name == "cs" and not both:
            sides = ["1", sides[0]]
        if len(sides) != 2 or not all(side.strip() for side in sides):
            fail(f"{piece.strip()!r} needs positions and subjects: {name}(time | subject).")
        where = sides[0].strip()
        position = "" if where == "1" else bare(where)
        if not position and (both or name in ("us", "car1")):
            fail(
                f"{piece.strip()!r} needs a column of {'times' if name == 'car1' else 'visits'} before the "
                "bar."
            )
        correlation, group = name, _group(sides[1], text)
        if both:
            if strata:
                fail("there are two variances; leave one out.")
            strata = (position,)
    if correlation == "us" and strata:
        fail("us() has a variance for every visit already; leave varident() out.")
    return ResidualFormula(text.strip(), strata, correlation, position, group)


def _group(text: str, whole: str) -> tuple[str, ...]:
    names = tuple(bare(piece.strip()) for piece in split_outside(text, ":", whole))
    if not all(names):
        raise FormulaError(f"residual={whole!r}: a factor is missing in {text.strip()!r}.")
    for name in names:
        if re.search(r"[()/+*]", name):
            raise FormulaError(
                f"residual={whole!r}: {name!r} must be a column, or columns joined by ':'; compute it first."
            )
    return names


def make_residual(
    asked: ResidualFormula, frame: ModelFrame, builder: MatrixBuilder, weights: np.ndarray | None
) -> ResidualStructure:
    """The structure of the rows in use.

    Parameters
    ----------
    asked : ResidualFormula
    frame : ModelFrame
        Rows with missing values are out of use.
    builder : MatrixBuilder
        Of the model's formula.
    weights : ndarray, shape (n,), or None

    Raises
    ------
    DesignError
        What the rows do not tell: strata of one row, times that occur twice, pairs of visits that never
        occur.
    """
    variances: list[VariancePart] = []
    if asked.strata:
        variances.append(_strata(asked, frame))
    if asked.dispersion is not None and asked.dispersion.terms:
        x, columns = builder.matrix(asked.dispersion)
        variances.append(_log_linear(asked, x[:, 1:], columns.labels[1:]))
    correlation, codes = None, None
    if asked.correlation:
        factor = frame.factor(asked.group)
        codes = np.asarray(factor.codes, dtype=np.int64)
        correlation = _correlation(asked, frame, codes, factor)
    if not variances and correlation is None:
        raise FormulaError(f"{asked.text}: there is nothing that the residual variance depends on.")
    return ResidualStructure(
        asked.text, frame.n, tuple(variances), correlation, codes, weights, ":".join(asked.group)
    )


def _strata(asked: ResidualFormula, frame: ModelFrame) -> Strata:
    factor, label = frame.factor(asked.strata), ":".join(asked.strata)
    levels = tuple(str(level) for level in factor.levels)
    if len(levels) < 2:
        raise DesignError(
            f"residual={asked.text!r}: {label!r} has one level, {levels[0]}; there is one variance anyway."
        )
    counts = np.bincount(factor.codes, minlength=len(levels))
    single = [level for level, count in zip(levels, counts, strict=True) if count == 1]
    if single:
        shown = ", ".join(single[:5]) + (", ..." if len(single) > 5 else "")
        raise DesignError(
            f"residual={asked.text!r}: {label!r} has one row at {shown}; no variance can be estimated of it. "
            "Join levels, or leave those rows out."
        )
    return Strata(np.asarray(factor.codes, dtype=np.int64), levels, label)


def _log_linear(asked: ResidualFormula, x: np.ndarray, labels: tuple[str, ...]) -> LogLinear:
    centred = x - x.mean(axis=0)
    norm = np.linalg.norm(x, axis=0)
    scaled = np.column_stack([np.ones(len(x)) / np.sqrt(len(x)), x / np.where(norm > 0.0, norm, 1.0)])
    if np.any(np.ptp(centred, axis=0) == 0.0) or np.linalg.matrix_rank(scaled, tol=1e-8) < scaled.shape[1]:
        raise DesignError(
            f"{asked.text}: the columns {', '.join(labels)} depend on one another or are constant; leave "
            "some out."
        )
    return LogLinear(np.ascontiguousarray(x), tuple(labels))


def _correlation(
    asked: ResidualFormula, frame: ModelFrame, codes: np.ndarray, factor: Factor
) -> CorrelationPart:
    kind = asked.correlation
    counts = np.bincount(codes)
    group = ":".join(asked.group)
    if counts.max() < 2:
        raise DesignError(
            f"residual={asked.text!r}: every level of {group!r} has one row, so there is no correlation to "
            "estimate."
        )
    if kind == "cs":
        if asked.position:
            _refuse_twice(asked, frame.factor((asked.position,)).codes, codes, factor, frame)
        return CompoundSymmetric(int(counts.max()))
    if kind == "car1":
        times = _numbers(asked, frame)
        _refuse_twice(asked, np.unique(times, return_inverse=True)[1], codes, factor, frame)
        order = np.lexsort((times, codes))
        gaps = np.diff(times[order])[np.diff(codes[order]) == 0]
        return AutoRegressive(times - times.min(), True, float(np.median(gaps)), float(gaps.min()))
    positions, levels = _positions(asked, frame, codes)
    _refuse_twice(asked, positions, codes, factor, frame)
    if kind == "ar1":
        return AutoRegressive(positions.astype(np.float64))
    if kind == "toep":
        return _toeplitz(asked, positions, codes)
    seen = np.zeros((len(levels), len(levels)), dtype=bool)
    present = np.zeros((counts.size, len(levels)))
    present[codes, positions] = 1.0
    seen = present.T @ present > 0.0
    never = np.argwhere(np.triu(~seen))
    if never.size:
        a, b = never[0]
        raise DesignError(
            f"residual={asked.text!r}: no level of {group!r} has both {asked.position} {levels[a]} and "
            f"{levels[b]}, "
            "so their covariance cannot be estimated. Use a structure with fewer parameters (toep, ar1), or "
            "leave "
            "a visit out."
        )
    if len(levels) < 2:
        raise DesignError(f"residual={asked.text!r}: {asked.position!r} has one level.")
    return Unstructured(positions, levels)


def _toeplitz(asked: ResidualFormula, positions: np.ndarray, codes: np.ndarray) -> Toeplitz:
    order = np.argsort(codes, kind="stable")
    found: set[int] = set()
    ends = np.cumsum(np.bincount(codes))[:-1]
    for own in np.split(positions[order], ends):
        found.update(np.unique(np.abs(np.subtract.outer(own, own))).tolist())
    lags = max(found)
    absent = [lag for lag in range(1, lags) if lag not in found]
    if absent:
        raise DesignError(
            f"residual={asked.text!r}: no two rows of a subject are {absent[0]} visits apart, so that "
            "correlation "
            "cannot be estimated. Use ar1, or car1."
        )
    return Toeplitz(positions, lags)


def _numbers(asked: ResidualFormula, frame: ModelFrame) -> np.ndarray:
    times = frame.numeric(asked.position)
    if times is None:
        raise DesignError(
            f"residual={asked.text!r}: {asked.position!r} is not numeric; car1 needs times. ar1 takes the "
            "order of "
            "a factor's levels."
        )
    return times


def _positions(
    asked: ResidualFormula, frame: ModelFrame, codes: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Integer positions within a subject, and for visits their labels."""
    if not asked.position:
        # rows in the order of the data
        order = np.argsort(codes, kind="stable")
        counts = np.bincount(codes)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        positions = np.empty(codes.size, dtype=np.int64)
        positions[order] = np.arange(codes.size) - first
        return positions, ()
    numbers = frame.numeric(asked.position) if asked.correlation == "ar1" else None
    if numbers is None:
        factor = frame.factor((asked.position,))
        return np.asarray(factor.codes, dtype=np.int64), tuple(str(level) for level in factor.levels)
    if np.any(numbers != np.round(numbers)):
        odd = numbers[numbers != np.round(numbers)][0]
        raise DesignError(
            f"residual={asked.text!r}: ar1 counts steps, and {asked.position!r} is not an integer everywhere "
            f"({odd:g}). Use car1({asked.position} | {':'.join(asked.group)}), whose correlation is rho to "
            "the power "
            "of any distance."
        )
    return (numbers - numbers.min()).astype(np.int64), ()


def _refuse_twice(
    asked: ResidualFormula, positions: np.ndarray, codes: np.ndarray, factor: Factor, frame: ModelFrame
) -> None:
    key = codes * (int(np.max(positions)) + 1) + positions
    _, first, counts = np.unique(key, return_index=True, return_counts=True)
    if counts.max() == 1:
        return
    row = int(first[np.argmax(counts > 1)])
    value = frame.raw(asked.position).iloc[row]
    more = int(np.sum(counts > 1)) - 1
    others = f" (and {more} more such pairs)" if more else ""
    raise DesignError(
        f"residual={asked.text!r}: {':'.join(asked.group)} {factor.levels[codes[row]]} has "
        f"{int(counts[counts > 1][0])} rows at {asked.position} {value}{others}; a position occurs once in "
        "a subject. "
        "Aggregate them, or name a finer grouping."
    )
