"""MixedLM with a covariance structure of its random effects: `re_structure`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..engine.covariance.factors import factor_psd
from ..engine.covariance.patterns import Pattern
from ..engine.covariance.structure import DIAGONAL, FULL, PATTERNS, Structure, structure_of
from ..exceptions import FormulaError, OptionError
from ..formula.structures import check_steps
from ..inference.variances import PatternMoves
from .covariance import triangle
from .design.params import MixedLMParams

__all__ = ["at_boundary", "check_times", "given_structure", "lay_along", "pattern_free", "refuse_searches"]

_WORDS = {"us": "full", "diag": "diagonal"}


class Along(Protocol):
    """What a structure asks of a likelihood at an estimate."""

    def slope(self, beta: np.ndarray | None = None) -> list[np.ndarray]:
        """dl/dD per term."""


def given_structure(value: object, k_re: int) -> Structure:
    """The structure that `re_structure` names.

    Raises
    ------
    OptionError
    """
    if value is None:
        return FULL
    try:
        structure = structure_of(_WORDS.get(value, value))  # type: ignore[call-overload]
    except (ValueError, TypeError):
        known = ", ".join(map(repr, ("us", "diag", *PATTERNS)))
        raise OptionError(f"re_structure must be one of {known} or 'rr(2)', not {value!r}.") from None
    if isinstance(structure, Pattern) and k_re < structure.least:
        raise OptionError(
            f"re_structure={structure.name!r} needs at least {structure.least} random effects of a group, "
            f'and there {"is" if k_re == 1 else "are"} {k_re}: re_formula="0 + C(f)" with a factor f has one '
            "for each level."
        )
    return structure


def check_times(structure: Structure, re_formula: str | None, data: Any, given: Any) -> None:
    """Refuse an ordered structure of effects that are not the levels of one factor, one step apart.

    Parameters
    ----------
    structure : Structure
    re_formula : str or None
    data : DataFrame
        The rows of the model.
    given : object
        The user's data, which know categories without rows.

    Raises
    ------
    FormulaError, DataError
    """
    if not structure.ordered:
        return
    where = f"re_structure={structure.name!r}"
    match = re.fullmatch(r"\s*~?\s*(?:0|-\s*1)\s*\+\s*(?:C\(\s*(\w+)\s*\)|(\w+))\s*", re_formula or "")
    name = (match[1] or match[2]) if match else ""
    if name not in data.columns:
        raise FormulaError(
            f"{where} is a correlation of the levels of one factor in their order: write "
            f're_formula="0 + C(time)", not {re_formula!r}.'
        )
    kind = getattr(given[name], "dtype", None) if hasattr(given, "columns") else None
    column = data[name].astype(kind) if hasattr(kind, "categories") else data[name]
    check_steps(column, name, structure.name, where, with_rows=True)


def pattern_free(structure: Structure, k_fe: int, k_re: int, k_vc: int) -> MixedLMParams | None:
    """statsmodels' pattern of free parameters for uncorrelated effects; None for other structures."""
    if structure is not DIAGONAL:
        return None
    return MixedLMParams.from_components(np.ones(k_fe), cov_re=np.eye(k_re), vcomp=np.ones(k_vc))


def refuse_searches(structure: Structure, asked: str) -> None:
    """Refuse what searches, or holds, the entries of cov_re themselves.

    Raises
    ------
    OptionError
    """
    if structure.curved and asked:
        raise OptionError(
            f"re_structure={structure.name!r} is searched in its own parameters, and {asked} in all of "
            "cov_re. Leave one out."
        )


def lay_along(
    structure: Pattern, D: np.ndarray, root: np.ndarray, slope: np.ndarray, k_fe: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Columns along the structure, and its share of the Hessian of the log-likelihood.

    Parameters
    ----------
    structure : Pattern
    D : ndarray, shape (k_re, k_re)
        Ratio scale.
    root : ndarray, shape (k_re, k_re)
        R with R'R the mean cross-product per group.
    slope : ndarray, shape (k_re, k_re)
        dl/dD.
    k_fe, size : int
        Fixed effects; all parameters.

    Returns
    -------
    J : ndarray, shape (size, m)
        Derivatives of the packed parameters (variances, not roots).
    bend : ndarray, shape (m, m)
    """
    k = D.shape[0]
    moves = _moves(structure, D, root)
    entries: Sequence[tuple[int, int]] = triangle(k)
    f, free = len(moves.units), size - len(entries)
    J, bend = np.zeros((size, free + f)), np.zeros((free + f, free + f))
    J[:k_fe, :k_fe] = np.eye(k_fe)
    for i, unit in enumerate(moves.units):
        J[k_fe : k_fe + len(entries), k_fe + i] = [unit[a, b] for a, b in entries]
    rest = size - k_fe - len(entries)
    J[size - rest :, free + f - rest :] = np.eye(rest)
    bend[k_fe : k_fe + f, k_fe : k_fe + f] = moves.curvature(slope)
    return J, bend


def at_boundary(structure: Pattern, D: np.ndarray, root: np.ndarray) -> bool:
    """Whether some parameter is at its bound; arguments as of `lay_along`."""
    return _moves(structure, D, root).singular


def _moves(structure: Pattern, D: np.ndarray, root: np.ndarray) -> PatternMoves:
    return PatternMoves(structure, np.eye(D.shape[0]), factor_psd(D), root)
