"""What the columns of a random term must be for its covariance structure to make sense."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..engine.covariance.structure import Pattern, structure_of
from ..exceptions import DataError, FormulaError
from .frame import ModelFrame
from .parse import Bar

__all__ = ["check_effects", "check_steps"]

_FACTOR = re.compile(r"(?:C|factor|as\.factor)\(\s*([^(),]+?)\s*\)|([^(),:*]+)")


def check_effects(bar: Bar, names: Sequence[str], frame: ModelFrame, formula: str) -> None:
    """Refuse columns with which a structure makes no sense.

    Parameters
    ----------
    bar : Bar
    names : sequence of str
        Of the effects.
    frame : ModelFrame
    formula : str
        For messages.

    Raises
    ------
    FormulaError, DataError
    """
    structure = structure_of(bar.structure)
    if not isinstance(structure, Pattern):
        return
    k = len(names)
    where = f"formula {formula!r}: {bar.text}"
    if structure.name.startswith("rr(") and k < structure.least:
        raise FormulaError(
            f"{where} asks for {structure.least} latent variables of {k} effects ({', '.join(names)}): "
            "at most as many as there are effects make sense."
        )
    if k < structure.least:
        raise FormulaError(
            f"{where} has {k} effect a level ({', '.join(names)}), of which there are no correlations: write "
            f"{structure.written('0 + C(f)', bar.group.label)} with a factor f of several levels, or "
            f"(1 | {bar.group.label}); a numeric column is one effect."
        )
    if structure.ordered:
        _check_order(bar, structure, frame, where)


def _check_order(bar: Bar, structure: Pattern, frame: ModelFrame, where: str) -> None:
    """One factor without an intercept, whose levels are in a known order and one step apart."""
    terms = [term for sign, term in bar.part.terms if sign == "+"]
    match = (
        re.fullmatch(r"(?:C|factor|as\.factor)\(\s*([^(),]+?)\s*\)|([^(),:*]+)", terms[0]) if terms else None
    )
    name = (match[1] or match[2] or "").strip().strip("`") if match else ""
    if len(bar.part.terms) != 1 or bar.part.intercept or name not in frame.names:
        raise FormulaError(
            f"{where}: {structure.name} is a correlation of the levels of one factor in their order: write "
            f"{structure.written('0 + C(time)', bar.group.label)}."
        )
    check_steps(frame.raw(name), name, structure.name, where)


def check_steps(column: pd.Series, name: str, structure: str, where: str, with_rows: bool = False) -> None:
    """Refuse levels whose order is not known, or that are not one step apart.

    Parameters
    ----------
    column : Series
    name, structure, where : str
        Of the column, of the structure, and of both in the user's words.
    with_rows : bool
        Refuse levels without rows.

    Raises
    ------
    DataError
    """
    categorical = isinstance(column.dtype, pd.CategoricalDtype)
    if isinstance(column.dtype, pd.CategoricalDtype):
        unused = column.dtype.categories.difference(column.dropna().unique()) if with_rows else ()
        if len(unused):
            raise DataError(
                f"{where}: there are no rows with {', '.join(map(str, unused[:5]))} in {name!r}, and MixedLM "
                "has no random effects of levels without rows; mme.lmer has."
            )
        if column.dtype.ordered:
            return
        levels: Sequence[object] = list(column.dtype.categories)
    else:
        levels = sorted(pd.unique(column.dropna()))
    remedy = f"data[{name!r}] = pd.Categorical(data[{name!r}], categories=[...], ordered=True)"
    if not all(isinstance(level, int | float | np.number) for level in levels):
        raise DataError(
            f"{where}: {structure} takes the levels of {name!r} in their order, and those of "
            f"{'an unordered categorical' if categorical else 'text'} have none: {remedy}."
        )
    steps = np.diff(np.array(levels, dtype=np.float64))
    if steps.size and np.ptp(steps) > 1e-8 * steps.max():
        shown = ", ".join(map(str, levels[:6])) + (", ..." if len(levels) > 6 else "")
        raise DataError(
            f"{where}: {structure} takes the levels of {name!r} as one step apart, and they are not "
            f"({shown}). Name all in between: {remedy}; those without rows are allowed."
        )
