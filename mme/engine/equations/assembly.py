"""Equations from sums over rows that are not there any more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...exceptions import DesignError, NotEnoughDataError
from .design import check_effects, check_levels
from .equations import Equations, by_column
from .fixed import FixedPart, upper_inverse
from .layout import Layout, arrange
from .level_sums import BlockSums, turned
from .rowless import RowlessDesign, RowlessTerm
from .sums import RESEMBLES, Sums, UnlikeSample, block_diagonal, check_constant, triangle_of

__all__ = ["equations_of_sums", "resembles"]

_CLOSELY = 1e-3  # as RESEMBLES, of sums that lose nearly no digits
_EXPLAINED = 1e-20  # of the response's own sum of squares, that is rounding


def equations_of_sums(
    sums: Sums,
    x_names: Sequence[str],
    terms: Sequence[RowlessTerm],
    weighted: bool = False,
    shifted: bool = False,
) -> tuple[RowlessDesign, Equations]:
    """The design without rows, and its equations.

    Parameters
    ----------
    sums : Sums
        Every level has rows.
    x_names : sequence of str
    terms : sequence of RowlessTerm
    weighted, shifted : bool
        Whether rows had weights, and an offset.

    Returns
    -------
    RowlessDesign
    Equations

    Raises
    ------
    DesignError, NotEnoughDataError
        As a design of rows.
    UnlikeSample
        The sums lost digits.
    """
    p_all, n = len(x_names), sums.n
    if p_all >= n:
        raise NotEnoughDataError(
            f"{n} rows cannot estimate {p_all} fixed effects and a residual variance. "
            "Use fewer columns or more data."
        )
    check_constant(sums.low, sums.high, shifted)
    for term in terms:
        check_levels(term, n, False)
        check_effects(term, n, False)
    fixed, xy_map, Axx = _fixed(sums)
    turns, bases = [], []
    for group, block in zip(sums.groups, sums.blocks, strict=True):
        turn, R = _block_basis(sums, group, block, terms)
        turns.append(turn)
        bases.append(R)
    layout = arrange(terms, sums.groups)
    order = [sums.groups.index(block.terms) for block in layout.blocks]
    basis = tuple(bases[i] for i in order)
    products = [sums.blocks[i].products(turns[i], xy_map) for i in order]
    D, B = [part[0] for part in products], [part[1] for part in products]
    m = Axx.shape[0]
    ptr, idx, val = _cells(sums, layout, order, turns)
    tptr, tlev, tpos = by_column(ptr, idx, layout.q2, positions=val is not None)
    gptr, gidx, gval = _gram(sums, layout, order, turns, D)
    A2x = np.concatenate([b.reshape(-1, m) for b in B[1:]]) if len(B) > 1 else np.zeros((0, m))
    equations = Equations(
        layout, fixed, basis, n, m - 1, sums.log_w, np.ascontiguousarray(D[0]), np.ascontiguousarray(B[0]),
        ptr, idx, val, tptr, tlev, tpos, gptr, gidx, gval, np.ascontiguousarray(A2x), Axx, sums.total,
    )  # fmt: skip
    return RowlessDesign(n, x_names, terms, _root(sums, fixed.kept), weighted, shifted), equations


def _centred_size(G: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Sums of squares of the columns less their shift, from those of the standardised ones."""
    inverse = upper_inverse(P)
    return np.einsum("ij,ik,kj->j", inverse, G, inverse)


def resembles(sums: Sums) -> bool:
    """Whether the basis resembles the rows so closely that their sums have lost nearly no digits."""
    try:
        _fixed(sums, _CLOSELY)
        for group, block in zip(sums.groups, sums.blocks, strict=True):
            start = 0
            for t in group:
                how = sums.basis.terms[t]
                part = slice(start, start + len(sums.basis.pool[t]))
                start = part.stop
                if how is not None and part.stop - part.start > 1:
                    G = block.total[part, part]
                    triangle_of(G, _centred_size(G, how.P), "", _CLOSELY)
    except UnlikeSample:
        return False
    return True


def _fixed(sums: Sums, least: float = RESEMBLES) -> tuple[FixedPart, np.ndarray, np.ndarray]:
    """The fixed part; what turns [x r] into [Q residual]; its cross-products."""
    basis = sums.basis
    p = basis.b.size
    G = sums.xr[:p, :p]
    R, kept = triangle_of(G, _centred_size(G, basis.x.P), "the fixed-effects columns", least)
    r = R.shape[0]
    T2 = np.asarray(upper_inverse(R))
    c = T2.T @ sums.xr[:p, p][kept]
    turn = np.zeros((p + 1, r + 1))
    turn[np.flatnonzero(kept), :r] = T2
    turn[:p, r] = -turn[:p, :r] @ c
    turn[p, r] = 1.0
    Axx = turn.T @ sums.xr @ turn
    Axx = (Axx + Axx.T) / 2.0
    if sums.xr[p, p] > _EXPLAINED * sums.total and Axx[r, r] < least * sums.xr[p, p]:
        raise UnlikeSample("the response and the fixed-effects columns")
    T = basis.x.matrix[np.ix_(kept, kept)] @ T2
    b0 = R @ basis.guess[kept] + c
    logdet = -2.0 * float(np.sum(np.log(np.abs(np.diag(T)))))
    return FixedPart(kept, np.ascontiguousarray(T), b0, logdet), turn, Axx


def _root(sums: Sums, kept: np.ndarray) -> np.ndarray:
    """root with root'root = X'X; dependent columns as they depend on the others."""
    p = kept.size
    root = np.zeros((p, p))
    G = sums.plain[np.ix_(kept, kept)]
    if G.size:
        root[np.ix_(kept, kept)] = np.linalg.cholesky(G).T
    return root @ sums.basis.x.inverse


def _block_basis(
    sums: Sums, group: Sequence[int], block: BlockSums, terms: Sequence[RowlessTerm]
) -> tuple[np.ndarray, np.ndarray]:
    """What turns a block's columns into those of the equations, and R: the design's are these times R."""
    total = block.total
    turns, bases, start = [], [], 0
    for t in group:
        term, how = terms[t], sums.basis.terms[t]
        part = slice(start, start + term.k)
        start += term.k
        if how is None:
            turns.append(np.eye(1))
            bases.append(np.eye(1))
            continue
        G = total[part, part] / len(block.table)
        names = term.column_names
        zero = [name for name, size in zip(names, np.diag(G), strict=True) if not size > 0]
        if zero and term.k == 1:
            raise DesignError(
                f"random term '{term.name}': column {', '.join(zero)} is zero everywhere; drop it."
            )
        if term.k == 1 or not term.structure.mixes:
            turns.append(np.eye(term.k))
            bases.append(how.inverse)
            continue
        R, kept = triangle_of(G, _centred_size(G, how.P), f"the columns of random term '{term.name}'")
        if not kept.all():
            dependent = ", ".join(name for name, ok in zip(names, kept, strict=True) if not ok)
            raise DesignError(
                f"random term '{term.name}': column {dependent} depends linearly on the columns before it, "
                "so their covariance cannot be estimated. Drop it, or use || for independent effects."
            )
        turns.append(np.asarray(upper_inverse(R)))
        bases.append(R @ how.inverse)
    return block_diagonal(turns), block_diagonal(bases)


def _pairs(
    sums: Sums, turns: Sequence[np.ndarray], first: int, second: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels and products (m, k_first, k_second) of the pairs of two blocks, in the equations' basis."""
    a, b = min(first, second), max(first, second)
    pair = sums.pairs[a, b].settle()
    left, right = np.divmod(pair.keys, pair.q)
    ka, kb = len(turns[a]), len(turns[b])
    values = turned(pair.values, turns[a], turns[b]).reshape(-1, ka, kb)
    if first == a:
        return left, right, values
    return right, left, values.transpose(0, 2, 1)


def _cells(
    sums: Sums, layout: Layout, order: Sequence[int], turns: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Cells of the leading block: pointers, columns, values (None if every cell is one)."""
    q1, k1 = layout.q1, layout.k1
    ptr = np.zeros(q1 + 1, np.int64)
    levels, columns, values = [], [], []
    for r, block in enumerate(layout.rest):
        own, other, products = _pairs(sums, turns, order[0], order[r + 1])
        levels.append(np.repeat(own, block.k))
        columns.append((layout.offsets[r] + other[:, None] * block.k + np.arange(block.k)).ravel())
        values.append(products.transpose(0, 2, 1).reshape(-1, k1))
    if not levels:
        return ptr, np.zeros(0, np.int32), np.zeros((0, k1))
    level, column, value = np.concatenate(levels), np.concatenate(columns), np.concatenate(values)
    by = np.argsort(level * np.int64(layout.q2) + column, kind="stable")
    np.cumsum(np.bincount(level, minlength=q1), out=ptr[1:])
    value = np.ascontiguousarray(value[by])
    unit = k1 == 1 and all(b.k == 1 for b in layout.rest) and value.size > 0 and bool(np.all(value == 1.0))
    return ptr, column[by].astype(np.int32), None if unit else value


def _gram(
    sums: Sums, layout: Layout, order: Sequence[int], turns: Sequence[np.ndarray], D: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Block-lower Z_2'WZ_2 by columns."""
    q2 = layout.q2
    columns, rows, values = [], [], []
    for r, block in enumerate(layout.rest):
        first = layout.offsets[r] + np.arange(block.q)[:, None, None] * block.k
        own = np.arange(block.k)
        shape = (block.q, block.k, block.k)
        columns.append(np.broadcast_to(first + own[:, None], shape).ravel())
        rows.append(np.broadcast_to(first + own, shape).ravel())
        values.append(D[r + 1].transpose(0, 2, 1).ravel())
        for s in range(r + 1, len(layout.rest)):
            k = layout.rest[s].k
            a, b, products = _pairs(sums, turns, order[r + 1], order[s + 1])
            shape = (a.size, block.k, k)
            column = layout.offsets[r] + a[:, None, None] * block.k + own[:, None]
            row = layout.offsets[s] + b[:, None, None] * k + np.arange(k)
            columns.append(np.broadcast_to(column, shape).ravel())
            rows.append(np.broadcast_to(row, shape).ravel())
            values.append(products.ravel())
    gptr = np.zeros(q2 + 1, np.int64)
    if not columns:
        return gptr, np.zeros(0, np.int32), np.zeros(0)
    column, row, value = np.concatenate(columns), np.concatenate(rows), np.concatenate(values)
    by = np.argsort(column * np.int64(q2) + row, kind="stable")
    np.cumsum(np.bincount(column, minlength=q2), out=gptr[1:])
    return gptr, row[by].astype(np.int32), np.ascontiguousarray(value[by])
