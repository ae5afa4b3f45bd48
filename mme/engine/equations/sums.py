"""Cross-products that add up: sums over rows, chunk by chunk, from which the equations are made at the end.

The rows' columns are standardised before anything is summed, by a basis made of a sample of the rows:

    x -> x M (centred beside an intercept, nearly orthonormal),  y -> y - x M b,  z -> z M_t (likewise)

These maps are linear and known exactly, so that any basis gives the same equations but for rounding; one that
resembles the data's own loses no digits.  `equations_of_sums` turns the sums into the orthonormal basis of
`mme.engine.equations.equations`, which is a step of about the unit matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ...exceptions import DataError, DesignError
from ..kernels.sums import add_levels, standard_rows
from ..runtime.parallel import n_threads, run
from .basis import Basis
from .level_sums import MOST_LEVELS, BlockSums, PairSums, turned

__all__ = ["RESEMBLES", "Sums", "UnlikeSample", "block_diagonal", "check_constant", "triangle_of"]

_DEPENDENT = 1e-8  # norm of a column's residual on the earlier ones, relative to its own
RESEMBLES = 1e-6
_FEW = 8  # columns for which loops are faster than BLAS
_MANY = 50_000  # rows of a chunk from which its sums are worth several threads


@dataclass(eq=False)
class Sums:
    """All that is kept of rows.

    Attributes
    ----------
    basis : Basis
    groups : tuple of tuple of int
        Numbers of the terms of every block (terms on one grouping factor).
    n : int
    log_w : float
        Sum of the logarithms of the weights.
    xr : ndarray, shape (p + 1, p + 1)
        [x r]'W[x r] of the standardised columns and the response less the guess.
    plain : ndarray, shape (p, p)
        x'x without weights.
    total : float
        y'Wy of the response less its offset.
    low, high : float
        Of the response.
    blocks : list of BlockSums
    pairs : dict of (int, int) to PairSums
        Of blocks a < b.
    """

    basis: Basis
    groups: tuple[tuple[int, ...], ...]
    n: int
    log_w: float
    xr: np.ndarray
    plain: np.ndarray
    total: float
    low: float
    high: float
    blocks: list[BlockSums]
    pairs: dict[tuple[int, int], PairSums]

    @classmethod
    def zero(
        cls, basis: Basis, groups: Sequence[Sequence[int]], n_levels: Sequence[int], more: bool = False
    ) -> Sums:
        """Of no rows.

        Parameters
        ----------
        basis : Basis
        groups : sequence of sequences of int
        n_levels : sequence of int
            Of every block.
        more : bool
            Whether there may be more levels: see `grow`.
        """
        p = basis.b.size
        places = [[place for t in group for place in basis.pool[t]] for group in groups]
        blocks = [BlockSums.zero(q, at, p + 1) for q, at in zip(n_levels, places, strict=True)]
        pairs = {
            (a, b): PairSums.zero(MOST_LEVELS if more else n_levels[b], blocks[a].k * blocks[b].k)
            for a in range(len(groups))
            for b in range(a + 1, len(groups))
        }
        frozen_groups = tuple(tuple(g) for g in groups)
        m = np.zeros((p + 1, p + 1))
        return cls(basis, frozen_groups, 0, 0.0, m, np.zeros((p, p)), 0.0, np.inf, -np.inf, blocks, pairs)

    def add(
        self,
        X: np.ndarray,
        y: np.ndarray,
        codes: Sequence[np.ndarray],
        columns: Sequence[np.ndarray | None],
        weights: np.ndarray | None = None,
        offset: np.ndarray | None = None,
    ) -> None:
        """Add rows.

        Parameters
        ----------
        X : ndarray, shape (n, p)
        y : ndarray, shape (n,)
        codes : sequence of ndarray of int32, shape (n,)
            Of every block.
        columns : sequence of ndarray of shape (n, k) or None
            Of every term.
        weights, offset : ndarray, shape (n,), optional
        """
        n, p = X.shape
        self.low, self.high = min(self.low, float(y.min())), max(self.high, float(y.max()))
        if offset is not None:
            y = y - offset
        pool = np.empty((n, self.basis.width))
        xr = pool[:, : p + 1]
        basis, gram = self.basis, np.zeros((p + 1, p + 1))
        if p <= _FEW:
            rows = np.ascontiguousarray(X)
            standard_rows(rows, y, basis.x.shift, basis.x.P, basis.level, basis.b, pool, gram)
        else:
            xr[:, :p] = basis.x.of(X)
            xr[:, p] = y - basis.level - xr[:, :p] @ basis.b
            gram = xr.T @ xr
        for t, places in enumerate(self.basis.pool):
            if max(places) > p:
                self._own_columns(pool, t, places, columns[t])
        self.plain += gram[:p, :p]
        if weights is not None:
            if np.any(weights <= 0):
                bad = int(np.sum(weights <= 0))
                raise DataError(f"weights must be positive; {bad} are not. Drop those rows instead.")
            root = np.sqrt(weights)
            pool *= root[:, None]
            self.log_w += float(np.sum(np.log(weights)))
            y = y * root
            gram = xr.T @ xr
        self.n += n
        self.total += float(y @ y)
        self.xr += gram
        codes = [np.ascontiguousarray(c, dtype=np.int32) for c in codes]
        # each level's sums are one thread's, in the order of the rows
        work = [(i, *piece) for i, c in enumerate(codes) for piece in _pieces(int(c.max()) + 1, n)]

        def add_piece(_: int, start: int, stop: int) -> None:
            for i, first, last in work[start:stop]:
                block = self.blocks[i]
                add_levels(first, last, codes[i], pool, *block.factors, block.table)

        run(add_piece, [(at, at + 1) for at in range(len(work))])
        if self.pairs:
            plain = [len(g) == 1 and columns[g[0]] is None and weights is None for g in self.groups]
            z = [None if one else pool[:, b.places] for one, b in zip(plain, self.blocks, strict=True)]
        for (a, b), pair in self.pairs.items():
            pair.add(codes[a].astype(np.int64) * pair.q + codes[b], _products(z[a], z[b], n))

    def grow(self, n_levels: Sequence[int]) -> None:
        """Make room for more levels."""
        for block, q in zip(self.blocks, n_levels, strict=True):
            block.grow(q)

    def _own_columns(self, pool: np.ndarray, t: int, places: Sequence[int], z: np.ndarray | None) -> None:
        """Standardised columns of a term that are none of the fixed ones, into the pool."""
        how, own = self.basis.terms[t], self.basis.b.size
        if z is None:
            pool[:, places[0]] = 1.0
            return
        assert how is not None
        made = z if how.plain else how.of(z)
        for a, place in enumerate(places):
            if place > own:
                pool[:, place] = made[:, a]

    def merge(self, other: Sums, places: Sequence[np.ndarray] | None = None) -> None:
        """Add sums of other rows in the same basis.

        Parameters
        ----------
        other : Sums
        places : sequence of ndarray of int, optional
            Where the other's levels of every block are among these; by default they are the same.
        """
        self.n += other.n
        self.log_w += other.log_w
        self.xr = self.xr + other.xr
        self.plain = self.plain + other.plain
        self.total += other.total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        for i, (own, theirs) in enumerate(zip(self.blocks, other.blocks, strict=True)):
            assert own.places == theirs.places
            at = slice(None) if places is None else places[i]
            own.table[at] += theirs.table
        for (a, b), pair in self.pairs.items():
            more = other.pairs[a, b].settle()
            if places is not None:
                more = more.placed(places[a], places[b], pair.q)
            pair.add(more.keys, more.values)
            pair.settle()

    def placed(self, places: Sequence[np.ndarray], n_levels: Sequence[int]) -> Sums:
        """A copy with the levels of every block at other places among so many."""
        blocks = [b.placed(at, q) for b, at, q in zip(self.blocks, places, n_levels, strict=True)]
        pairs = {
            (a, b): pair.placed(places[a], places[b], n_levels[b]) for (a, b), pair in self.pairs.items()
        }
        return Sums(
            self.basis, self.groups, self.n, self.log_w, self.xr.copy(), self.plain.copy(), self.total,
            self.low, self.high, blocks, pairs,
        )  # fmt: skip

    def renumbered(self, order: Sequence[int]) -> Sums:
        """The same with the terms in another order: number order[t] becomes t."""
        new = {old: t for t, old in enumerate(order)}
        terms = tuple(self.basis.terms[old] for old in order)
        basis = replace(self.basis, terms=terms, same=tuple(self.basis.same[old] for old in order))
        return replace(self, basis=basis, groups=tuple(tuple(new[t] for t in g) for g in self.groups))

    def kept(self, places: Sequence[np.ndarray], n_levels: Sequence[int]) -> Sums:
        """A copy without the levels, which have no rows, that are at -1."""
        blocks = [replace(b, table=b.table[at >= 0]) for b, at in zip(self.blocks, places, strict=True)]
        pairs = {
            (a, b): pair.placed(places[a], places[b], n_levels[b]) for (a, b), pair in self.pairs.items()
        }
        return replace(self, blocks=blocks, pairs=pairs)

    def rebased(self, basis: Basis) -> Sums:
        """A copy in another basis of the same columns."""
        own = self.basis
        p = own.b.size
        # x M' = (x M) C, and the response less the other guess
        C = np.zeros((p + 1, p + 1))
        C[:p, :p] = own.x.inverse @ basis.x.matrix
        C[p, p] = 1.0
        C[:p, p] = own.guess - C[:p, :p] @ basis.guess
        turns = []
        for group in self.groups:
            parts = []
            for t in group:
                mine, other = own.terms[t], basis.terms[t]
                parts.append(np.eye(1) if mine is None or other is None else mine.inverse @ other.matrix)
            turns.append(block_diagonal(parts))
        blocks = [
            block.rebased(turn, C, [place for t in group for place in basis.pool[t]])
            for turn, block, group in zip(turns, self.blocks, self.groups, strict=True)
        ]
        pairs = {}
        for (a, b), pair in self.pairs.items():
            pair.settle()
            pairs[a, b] = PairSums(pair.q, pair.keys.copy(), turned(pair.values, turns[a], turns[b]))
        return Sums(
            basis, self.groups, self.n, self.log_w, C.T @ self.xr @ C,
            C[:p, :p].T @ self.plain @ C[:p, :p], self.total, self.low, self.high, blocks, pairs,
        )  # fmt: skip


def _pieces(q: int, n: int) -> list[tuple[int, int]]:
    """Levels for the threads: every thread looks at all rows, so there are as many ranges as threads.

    One thread is left to read and code the next rows.
    """
    pieces = max(1, min(n_threads() - 1, q)) if n >= _MANY else 1
    edges = [q * i // pieces for i in range(pieces + 1)]
    return list(pairwise(edges))


def block_diagonal(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The parts along the diagonal."""
    k = sum(len(part) for part in parts)
    out, start = np.zeros((k, k)), 0
    for part in parts:
        out[start : start + len(part), start : start + len(part)] = part
        start += len(part)
    return out


def _products(a: np.ndarray | None, b: np.ndarray | None, n: int) -> np.ndarray:
    """Products of the columns of two blocks in every row, shape (n, k_a * k_b); None stands for ones."""
    if a is None:
        return np.ones((n, 1)) if b is None else b
    if b is None:
        return a
    return (a[:, :, None] * b[:, None, :]).reshape(n, -1)


def triangle_of(
    G: np.ndarray, size: np.ndarray, what: str, least: float = RESEMBLES
) -> tuple[np.ndarray, np.ndarray]:
    """R with R'R = G over the columns that depend on no earlier ones, and which these are.

    Parameters
    ----------
    G : ndarray, shape (k, k)
        Cross-products in a basis that should be nearly orthonormal.
    size : ndarray, shape (k,)
        Sums of squares of the columns as they were, centred.
    what : str
        For the message.
    least : float
        Of a column's square, what must be left of it beside the columns before.

    Raises
    ------
    DataError
        The basis resembles the columns so little that their cross-products have lost too many digits.
    """
    k = len(G)
    R = np.zeros((k, k))
    kept = np.zeros(k, dtype=bool)
    for j in range(k):
        before = np.flatnonzero(kept)
        top = np.linalg.solve(R[np.ix_(before, before)].T, G[before, j]) if before.size else np.zeros(0)
        left = float(G[j, j] - top @ top)
        if not G[j, j] > 0 or left <= _DEPENDENT**2 * size[j]:
            continue
        if left < least * G[j, j]:
            raise UnlikeSample(what)
        R[before, j] = top
        R[j, j] = np.sqrt(left)
        kept[j] = True
    return R[np.ix_(kept, kept)], kept


class UnlikeSample(DataError):
    """The rows that the basis was made of are unlike the others."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: their cross-products lose too many digits, because the rows from which they were "
            "centred and scaled (a sample of them) are unlike the others. "
            "Begin with a chunk that resembles the data, or centre and scale the columns."
        )


def check_constant(low: float, high: float, shifted: bool) -> None:
    """Refuse a response without variation."""
    if low == high and not shifted:
        raise DesignError(
            f"the response is constant (every value is {low:g}); there is no variance to explain."
        )
