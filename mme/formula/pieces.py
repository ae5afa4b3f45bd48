"""How the columns of a formula's terms are products of its factors' codings, whichever engine made them.

What a hypothesis means is said of cells, levels by levels; this leads from cells to columns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

__all__ = ["FactorCoding", "Piece", "numeric_piece", "patsy_pieces", "structure_pieces"]


@dataclass(frozen=True, eq=False)
class FactorCoding:
    """One factor of a product.

    Attributes
    ----------
    name : str
        As in the formula.
    width : int
        Its columns.
    matrix : ndarray, shape (levels, width), or None
        What its levels are coded by; None of a numeric one.
    """

    name: str
    width: int
    matrix: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Piece:
    """Columns that are products of those of some factors; that of the first factor changes fastest.

    A term has several pieces where lower terms that the formula leaves out are among its columns.

    Attributes
    ----------
    columns : slice
    factors : tuple of FactorCoding
        None for an intercept.
    """

    columns: slice
    factors: tuple[FactorCoding, ...] = ()


def numeric_piece(name: str, column: int) -> Piece:
    """That of a column of the data."""
    return Piece(slice(column, column + 1), (FactorCoding(name, 1),))


def structure_pieces(spec: Any, labels: Sequence[str]) -> tuple[tuple[Piece, ...], ...]:
    """Pieces of every term of a matrix of formulaic's.

    Parameters
    ----------
    spec : formulaic.ModelSpec
    labels : sequence of str
        Names of the columns.
    """
    contrasts = {factor.expr: state for factor, state in spec.factor_contrasts.items()}
    out, start = [], 0
    for _, scoped_terms, made in spec.structure:
        pieces, at = [], start
        for scoped in scoped_terms:
            codings: list[FactorCoding] = []
            for factor in scoped.factors:
                expr, state = factor.factor.expr, contrasts.get(factor.factor.expr)
                if state is None:
                    names = labels[start : start + len(made)]
                    codings.append(FactorCoding(expr, _count(expr, names, len(scoped.factors) == 1)))
                    continue
                matrix = state.contrasts.get_coding_matrix(state.levels, reduced_rank=factor.reduced)
                values = np.asarray(matrix, dtype=np.float64)
                codings.append(FactorCoding(expr, values.shape[1], values))
            stop = at + prod(coding.width for coding in codings)
            pieces.append(Piece(slice(at, stop), tuple(codings)))
            at = stop
        out.append(tuple(pieces))
        start += len(made)
    return tuple(out)


def _count(expr: str, labels: Sequence[str], alone: bool) -> int:
    """Columns of a numeric factor, by the names of those that it is in."""
    if alone:
        return len(labels)
    pattern = re.compile(rf"(?:^|:){re.escape(expr)}(\[[^\]]*\])?(?=:|$)")
    return max(len({match[1] for label in labels if (match := pattern.search(label))}), 1)


def patsy_pieces(info: Any) -> tuple[tuple[Piece, ...], ...]:
    """Pieces of every term of a matrix of patsy's.

    Parameters
    ----------
    info : patsy.DesignInfo
    """
    out, at = [], 0
    for subterms in info.term_codings.values():
        pieces = []
        for subterm in subterms:
            codings = []
            for factor in subterm.factors:
                contrast = subterm.contrast_matrices.get(factor)
                if contrast is None:
                    codings.append(FactorCoding(factor.name(), info.factor_infos[factor].num_columns))
                else:
                    values = np.asarray(contrast.matrix, dtype=np.float64)
                    codings.append(FactorCoding(factor.name(), values.shape[1], values))
            pieces.append(Piece(slice(at, at + subterm.num_columns), tuple(codings)))
            at += subterm.num_columns
        out.append(tuple(pieces))
    return tuple(out)
