"""Theta-free structure: terms merged into blocks, which block is eliminated, columns of the rest.

Terms that share a grouping factor form one *block* with k columns per level and a block-diagonal relative
covariance.  The grouped block with the most effects *leads* and is eliminated level by level; the columns of
all other blocks, level by level, are the *rest*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..covariance.structure import Structure
from .design import Design, RandomTerm
from .relation import Relation

__all__ = ["Block", "Layout", "TermPlace", "arrange", "layout_of"]


@dataclass(frozen=True, eq=False)
class Block:
    """Terms on one grouping factor (or one general term): q levels, k columns each; A if they are related."""

    terms: tuple[int, ...]
    q: int
    k: int
    relation: Relation | None = None


@dataclass(frozen=True, eq=False)
class TermPlace:
    """Where a term of the design sits: its block, its columns there, its covariance parameters.

    Attributes
    ----------
    block : int
        Index into `Layout.blocks`.
    first, k : int
        The term's columns are first..first+k of the block's.
    structure : Structure
    entries : list of (int, int)
        Free entries of the term's factor, in theta's order.
    theta : slice
        The term's part of the flat theta.
    """

    block: int
    first: int
    k: int
    structure: Structure
    entries: list[tuple[int, int]]
    theta: slice

    @property
    def columns(self) -> slice:
        """Of the block."""
        return slice(self.first, self.first + self.k)


@dataclass(frozen=True, eq=False)
class Layout:
    """Blocks with the leading one first (if any), and the columns of the rest.

    Attributes
    ----------
    blocks : tuple of Block
        ``blocks[0]`` leads if `has_lead`.
    has_lead : bool
        False if every term is general or related, or related ones have more effects: nothing is eliminated
        level by level.
    places : tuple of TermPlace, one per term of the design
    n_theta : int
    lstart : ndarray of int64, shape (n_levels + 1,)
        First column of every level of the rest.
    lblock : ndarray of int32, shape (n_levels,)
        Number of the level's block among the rest blocks (0 for ``rest[0]``).
    clevel : ndarray of int32, shape (q2,)
        Level of every column of the rest.
    offsets : ndarray of int64, shape (n_rest_blocks + 1,)
        First column of every rest block.
    """

    blocks: tuple[Block, ...]
    has_lead: bool
    places: tuple[TermPlace, ...]
    n_theta: int
    lstart: np.ndarray
    lblock: np.ndarray
    clevel: np.ndarray
    offsets: np.ndarray

    @property
    def rest(self) -> tuple[Block, ...]:
        """Blocks that are not eliminated."""
        return self.blocks[1:] if self.has_lead else self.blocks

    def rest_columns(self, r: int) -> slice:
        """Columns of the rest's block r among those of the rest."""
        return slice(int(self.offsets[r]), int(self.offsets[r + 1]))

    @property
    def q1(self) -> int:
        """Levels of the leading block."""
        return self.blocks[0].q if self.has_lead else 0

    @property
    def k1(self) -> int:
        """Columns per level of the leading block."""
        return self.blocks[0].k if self.has_lead else 1

    @property
    def q2(self) -> int:
        """Columns of the rest."""
        return int(self.offsets[-1])


def layout_of(design: Design) -> Layout:
    """Merge the design's terms into blocks, choose the leading one, number the columns of the rest."""
    groups: list[list[int]] = []
    for t, term in enumerate(design.terms):
        for group in groups:
            other = design.terms[group[0]]
            same = term.relation is other.relation and not term.general and not other.general
            if same and _same_codes(term.codes, other.codes):
                group.append(t)
                break
        else:
            groups.append([t])
    return arrange(design.terms, groups)


def arrange(terms: Sequence[RandomTerm], groups: Sequence[Sequence[int]]) -> Layout:
    """`layout_of` terms of which it is known which share their codes.

    Parameters
    ----------
    terms : sequence of RandomTerm
    groups : sequence of sequences of int
        Numbers of the terms of every block.

    Returns
    -------
    Layout
    """
    blocks = [
        Block(tuple(g), terms[g[0]].n_levels, sum(terms[t].k for t in g), terms[g[0]].relation)
        for g in groups
    ]
    grouped = [b for b in blocks if not terms[b.terms[0]].general and b.relation is None]
    # eliminated levels tie all that they meet together, and a known inverse is sparse: a term that is small
    # beside related levels is left to the order of the factorization
    related = sum(b.q * b.k for b in blocks if b.relation is not None)
    grouped = [b for b in grouped if b.q * b.k >= related]
    if grouped:
        lead = max(grouped, key=lambda b: b.q * b.k)
        blocks = [lead] + [b for b in blocks if b is not lead]
    places: list[TermPlace] = []
    start = 0
    for t, term in enumerate(terms):
        index = next(i for i, b in enumerate(blocks) if t in b.terms)
        before = blocks[index].terms[: blocks[index].terms.index(t)]
        size = term.structure.size(term.k)
        places.append(
            TermPlace(
                index,
                sum(terms[s].k for s in before),
                term.k,
                term.structure,
                term.structure.entries(term.k),
                slice(start, start + size),
            )
        )
        start += size
    rest = blocks[1:] if grouped else blocks
    offsets = np.zeros(len(rest) + 1, np.int64)
    np.cumsum([b.q * b.k for b in rest], out=offsets[1:])
    width = [np.full(b.q, b.k, np.int64) for b in rest]
    widths = np.concatenate(width) if rest else np.zeros(0, np.int64)
    lstart = np.zeros(widths.size + 1, np.int64)
    np.cumsum(widths, out=lstart[1:])
    lblock = np.repeat(np.arange(len(rest), dtype=np.int32), [b.q for b in rest])
    clevel = np.repeat(np.arange(widths.size, dtype=np.int32), widths)
    return Layout(tuple(blocks), bool(grouped), tuple(places), start, lstart, lblock, clevel, offsets)


def _same_codes(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is b:
        return True
    return a is not None and b is not None and a.size == b.size and bool(np.array_equal(a, b))
