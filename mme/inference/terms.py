"""What the hypotheses about the terms of a formula are: types I, II and III.

Type I adjusts a term for those before it, type II for all that do not contain it: rows of R in X = QR, the
columns in that order, as rows of unit triangular form (Goodnight 1978, SAS Technical Report R-101).  Type III
(Goodnight 1978, R-106): with one parameter for every cell of every term, the estimable functions that are
zero on all terms but this one and those that contain it, and among these orthogonal to the functions of
the containing terms alone.  They do not depend on how factors are coded: rows of hypotheses are found over
the cells and brought back to the columns, X b = R (B b), R having a column per cell.

A term contains another one with the same numeric factors and fewer of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod

import numpy as np

from ..exceptions import InferenceError
from ..formula.pieces import Piece

__all__ = ["TermCells", "cells_of", "containing", "sequential", "type_three", "type_two"]

_ZERO = 1e-8  # relative size of what is rounding


@dataclass(frozen=True, eq=False)
class TermCells:
    """A term at one column of its numeric factors.

    Attributes
    ----------
    term : int
    classes : tuple of str
        Factors with levels.
    sizes : tuple of int
        Their numbers of levels.
    numeric : tuple of (str, int)
        Numeric factors, each with one of its columns.
    columns : ndarray of int
        Columns of X.
    matrix : ndarray, shape (cells, columns)
        What the columns are in every cell, over the product of the numeric columns; the first factor's
        level changes fastest.
    """

    term: int
    classes: tuple[str, ...]
    sizes: tuple[int, ...]
    numeric: tuple[tuple[str, int], ...]
    columns: np.ndarray
    matrix: np.ndarray

    @property
    def levels(self) -> dict[str, np.ndarray]:
        """Level of every class in every cell."""
        n = len(self.matrix)
        if not self.classes:
            return {}
        return dict(zip(self.classes, np.unravel_index(np.arange(n), self.sizes, order="F"), strict=True))


def cells_of(pieces: Sequence[Sequence[Piece]]) -> list[TermCells]:
    """The terms cell by cell.

    Parameters
    ----------
    pieces : sequence of sequence of Piece
        By term, as `mme.formula.coding.Coding` has them.
    """
    out = []
    for number, own in enumerate(pieces):
        sizes = {f.name: len(f.matrix) for piece in own for f in piece.factors if f.matrix is not None}
        found: dict[tuple[tuple[str, int], ...], list[tuple[np.ndarray, np.ndarray]]] = {}
        for piece in own:
            _split(piece, sizes, found)
        for numeric, parts in found.items():
            columns = np.concatenate([c for c, _ in parts])
            matrix = np.hstack([m for _, m in parts])
            out.append(TermCells(number, tuple(sizes), tuple(sizes.values()), numeric, columns, matrix))
    return out


def _split(
    piece: Piece,
    sizes: dict[str, int],
    found: dict[tuple[tuple[str, int], ...], list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    """Columns of a piece by columns of its numeric factors, and what they are in every cell."""
    by_name = {f.name: f for f in piece.factors}
    matrix = np.ones((1, 1))
    for name, size in sizes.items():  # the first changes fastest: it is the last of the Kronecker product
        factor = by_name.get(name)
        coding = np.ones((size, 1)) if factor is None or factor.matrix is None else factor.matrix
        matrix = np.kron(coding, matrix)
    order = [*(name for name in sizes if name in by_name), *(n for n in by_name if n not in sizes)]
    names = list(by_name)
    at = np.arange(piece.columns.start, piece.columns.stop)
    at = at.reshape([f.width for f in piece.factors], order="F").transpose([names.index(n) for n in order])
    widths = at.shape[sum(name in sizes for name in order) :]
    at = at.reshape(matrix.shape[1], prod(widths), order="F")  # no columns, of a factor with one level
    numeric = [name for name in order if name not in sizes]
    for column, index in zip(at.T, np.ndindex(*widths[::-1]), strict=True):
        key = tuple(sorted(zip(numeric, index[::-1], strict=True)))
        found.setdefault(key, []).append((column, matrix))


def containing(cells: Sequence[TermCells]) -> dict[int, set[int]]:
    """Terms that contain each term."""
    kinds = {c.term: (frozenset(c.classes), frozenset(name for name, _ in c.numeric)) for c in cells}
    return {
        term: {other for other, (more, same) in kinds.items() if same == numeric and classes < more}
        for term, (classes, numeric) in kinds.items()
    }


def sequential(R: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Type I rows over the kept columns.

    Parameters
    ----------
    R : ndarray, shape (rank, rank)
        Of X = QR.
    columns : ndarray of int
        The term's, among the kept ones.
    """
    return R[columns] / np.diag(R)[columns, None]


def type_two(R: np.ndarray, own: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Type II rows over the kept columns.

    Parameters
    ----------
    R : ndarray, shape (rank, rank)
    own, above : ndarray of int
        Columns of the term, and of those that contain it.
    """
    if not above.size:  # the last ones: their coefficients alone
        return np.eye(len(R))[own]
    rest = np.setdiff1d(np.arange(len(R)), np.concatenate([own, above]))
    order = np.concatenate([rest, own, above])
    reordered: np.ndarray = np.linalg.qr(R[:, order]).R
    again = sequential(reordered, rest.size + np.arange(own.size))
    out = np.empty_like(again)
    out[:, order] = again
    return out


def type_three(cells: Sequence[TermCells], rows: np.ndarray, names: Sequence[str]) -> dict[int, np.ndarray]:
    """Type III rows over all columns, by term.

    Parameters
    ----------
    cells : sequence of TermCells
    rows : ndarray, shape (rank, p)
        Span the rows of X.
    names : sequence of str
        Of the terms, for messages.

    Raises
    ------
    InferenceError
        Codings that do not tell all levels of a factor apart.
    """
    above = containing(cells)
    groups: dict[tuple[tuple[str, int], ...], list[TermCells]] = {}
    for c in cells:
        groups.setdefault(c.numeric, []).append(c)
    complete = rows.shape[0] == rows.shape[1]
    out: dict[int, list[np.ndarray]] = {c.term: [] for c in cells}
    for group in groups.values():
        functions = _functions(group, names)
        columns = np.concatenate([c.columns for c in group])
        starts = np.cumsum([0, *(len(c.matrix) for c in group)])
        span = {c.term: np.arange(a, b) for c, a, b in zip(group, starts, starts[1:], strict=False)}
        estimable = np.eye(columns.size) if complete else _within(rows, columns)
        over_cells = estimable @ functions
        for c in group:
            other = [span[t.term] for t in group if t.term != c.term and t.term not in above[c.term]]
            none = np.zeros(0, dtype=int)
            H = _hypothesis(over_cells, span[c.term], np.concatenate([none, *other]), bool(above[c.term]))
            L = _as_differences(H, H @ over_cells[:, span[c.term]], c)
            full = np.zeros((len(L), rows.shape[1]))
            full[:, columns] = L @ estimable
            out[c.term].append(full)
    return {term: np.vstack(parts) for term, parts in out.items()}


def _functions(group: Sequence[TermCells], names: Sequence[str]) -> np.ndarray:
    """Functions over the cells that are the single coefficients, were all cells filled, shape (p, cells).

    They are the rows of (X'X)^-1 X'R over all combinations of levels, each once.
    """
    n = [len(c.matrix) for c in group]
    starts = np.cumsum([0, *n])
    W = np.empty((starts[-1], starts[-1]))
    levels = [c.levels for c in group]
    for i, a in enumerate(group):
        for j, b in enumerate(group[: i + 1]):
            block = np.ones((n[i], n[j]))
            for name in {*a.classes, *b.classes}:
                size = dict(zip((*a.classes, *b.classes), (*a.sizes, *b.sizes), strict=True))[name]
                block /= size
                if name in a.classes and name in b.classes:
                    block *= levels[i][name][:, None] == levels[j][name]
            W[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] = block
            W[starts[j] : starts[j + 1], starts[i] : starts[i + 1]] = block.T
    B = np.zeros((starts[-1], sum(c.matrix.shape[1] for c in group)))
    at = 0
    for c, start in zip(group, starts, strict=False):
        B[start : start + len(c.matrix), at : at + c.matrix.shape[1]] = c.matrix
        at += c.matrix.shape[1]
    M = B.T @ W @ B
    scale = np.sqrt(np.diag(M))
    unit = M / np.outer(scale, scale) if np.all(scale > 0.0) else np.zeros_like(M)
    if len(M) != _functions_of_levels(group) or np.linalg.eigvalsh(unit)[0] < _ZERO:
        listed = ", ".join(names[c.term] for c in group)
        raise InferenceError(
            f"type=3 is about all levels of every factor, and the columns of {listed} do not tell them "
            "apart. Use type=1 or type=2, or contrasts with one column less than levels."
        )
    return np.linalg.solve(unit, (B.T @ W) / scale[:, None]) / scale[:, None]


def _functions_of_levels(group: Sequence[TermCells]) -> int:
    """How many independent functions of the levels the cells of some terms have."""
    sizes = {name: size for c in group for name, size in zip(c.classes, c.sizes, strict=True)}
    sets = {
        frozenset(part)
        for c in group
        for k in range(len(c.classes) + 1)
        for part in combinations(c.classes, k)
    }
    return sum(prod(sizes[name] - 1 for name in part) for part in sets)


def _within(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Combinations of rows that are zero outside of some columns, as rows over these columns."""
    size = np.linalg.norm(rows, axis=0)
    scaled = rows / np.where(size > 0.0, size, 1.0)
    scaled = np.linalg.qr(scaled.T)[0].T
    outside = np.setdiff1d(np.arange(rows.shape[1]), columns)
    kept = _left_null(scaled[:, outside], 1.0)
    return (kept @ scaled)[:, columns] * size[columns]


def _left_null(M: np.ndarray, size: float) -> np.ndarray:
    """Orthonormal rows H with H M = 0; `size` is that of what M is part of: all of M may be rounding."""
    if M.shape[1] == 0 or M.shape[0] == 0:
        return np.eye(M.shape[0])
    U, s, _ = np.linalg.svd(M, full_matrices=True)
    rank = int(np.sum(s > _ZERO * max(size, 1e-300)))
    return U[:, rank:].T


def _hypothesis(functions: np.ndarray, own: np.ndarray, other: np.ndarray, contained: bool) -> np.ndarray:
    """Combinations of functions over cells that are a term's type III rows; shape (q, functions)."""
    size = float(np.linalg.norm(functions))
    H = _left_null(functions[:, other], size)
    if contained:
        E = H @ functions
        alone = _left_null(E[:, own], size)
        H = _left_null(E @ E.T @ alone.T, size * size) @ H
    return H


def _as_differences(H: np.ndarray, on_cells: np.ndarray, cells: TermCells) -> np.ndarray:
    """The same rows as differences from the first levels: what q t-tests make of them depends on the rows."""
    q = len(H)
    if q == 0:
        return H
    beyond = np.flatnonzero(np.all([level > 0 for level in cells.levels.values()], axis=0))
    if cells.classes and beyond.size == q:
        s = np.linalg.svd(on_cells[:, beyond], compute_uv=False)
        if s[-1] > _ZERO * s[0]:
            return np.linalg.solve(on_cells[:, beyond], H)
    # cells are empty, or there is no intercept: the last cells that are independent
    pivots: list[int] = []
    basis = np.zeros((q, 0))
    for cell in range(on_cells.shape[1])[::-1]:
        column = on_cells[:, cell]
        rest = column - basis @ (basis.T @ column)
        if np.linalg.norm(rest) > _ZERO * max(np.linalg.norm(column), np.abs(on_cells).max() * 1e-3):
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
            pivots.append(cell)
        if len(pivots) == q:
            break
    return np.linalg.solve(on_cells[:, sorted(pivots)], H)
