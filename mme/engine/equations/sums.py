"""Cross-products that add up: sums over rows, chunk by chunk, from which the equations are made at the end.

The rows' columns are standardised before anything is summed, by a basis made of a sample of the rows:

    x -> x M (centred beside an intercept, nearly orthonormal),  y -> y - x M b,  z -> z M_t (likewise)

These maps are linear and known exactly, so that any basis gives the same equations but for rounding; one that
resembles the data's own loses no digits.  `equations_of_sums` turns the sums into the orthonormal basis of
`mme.engine.equations.equations`, which is a step of about the unit matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from ...exceptions import DataError, DesignError
from ..kernels.sums import add_levels
from ..runtime.arrays import frozen
from ..runtime.parallel import n_threads, run
from .fixed import gram_schmidt, upper_inverse

__all__ = ["Basis", "BlockSums", "Columns", "PairSums", "Sums", "sample_basis", "standard_columns"]

_ORDINARY = 1e6
_DEPENDENT = 1e-8  # norm of a column's residual on the earlier ones, relative to its own
_MANY = 50_000  # rows of a chunk from which its sums are worth several threads
_PENDING = 1_000_000  # pairs of levels that may wait to be sorted in


@dataclass(frozen=True, eq=False)
class Columns:
    """How columns are standardised: (x - shift) P, shift zero but beside a first column of ones.

    Attributes
    ----------
    shift : ndarray, shape (p,)
    P : ndarray, shape (p, p)
        Upper triangular, regular.
    """

    shift: np.ndarray
    P: np.ndarray

    @property
    def matrix(self) -> np.ndarray:
        """M, where the standardised columns are x M."""
        M = self.P.copy()
        if self.shift.any():
            M[0] -= self.shift @ self.P
        return M

    @property
    def inverse(self) -> np.ndarray:
        """M^-1."""
        out = upper_inverse(self.P)
        # x = x_s + 1 shift', x_s = (x M) P^-1, and the ones are the first of these
        return out + np.outer(out[:, 0], self.shift) if self.shift.any() else out

    @property
    def plain(self) -> bool:
        """Whether nothing is done."""
        return not self.shift.any() and bool(np.array_equal(self.P, np.eye(len(self.P))))

    def of(self, x: np.ndarray) -> np.ndarray:
        """Columns in the basis, shape (n, p)."""
        return (x - self.shift if self.shift.any() else x) @ self.P


@dataclass(frozen=True, eq=False)
class Basis:
    """What is summed: standardised columns, and the response less a first guess.

    Attributes
    ----------
    x : Columns
    b : ndarray, shape (p,)
        The response is y - level - (x M) b.
    level : float
        Zero unless the first column of X is one.
    terms : tuple of Columns or None
        Of every term; None for a column of ones.
    """

    x: Columns
    b: np.ndarray
    level: float
    terms: tuple[Columns | None, ...]

    @property
    def guess(self) -> np.ndarray:
        """The first guess as coefficients of x M, shape (p,)."""
        return self.b + self.level * self.x.inverse[:, 0] if self.level else self.b


def standard_columns(x: np.ndarray, ones_first: bool) -> Columns:
    """A basis of columns from a sample of their rows.

    Parameters
    ----------
    x : ndarray, shape (n, p)
    ones_first : bool
        Whether the first column is one in every row.

    Returns
    -------
    Columns
        Of columns that are zero in the sample, or depend on earlier ones there, what is left of the others.
    """
    n, p = x.shape
    shift = np.zeros(p)
    if ones_first:
        shift[1:] = x[:, 1:].mean(axis=0)
    centred = x - shift
    scale = np.linalg.norm(centred, axis=0) / np.sqrt(n)
    size = np.where(scale > 0, scale, 1.0)
    Q, T, kept = gram_schmidt(centred, size * np.sqrt(n), scale > 0)
    P = np.diag(1.0 / size)
    P[np.ix_(kept, kept)] = T * np.sqrt(n)
    rest = np.flatnonzero(~kept)
    if rest.size and Q.shape[1]:
        left = Q.T @ centred[:, rest]
        for at, j in enumerate(rest):
            earlier = kept & (np.arange(p) < j)
            inside = earlier[kept]
            if inside.any():
                P[earlier, j] = -(T[np.ix_(inside, inside)] @ left[inside, at]) / size[j]
    return Columns(shift, P)


def sample_basis(
    x: np.ndarray, y: np.ndarray, ones_first: bool, terms: Sequence[tuple[np.ndarray | None, bool, bool]]
) -> Basis:
    """A basis from a sample of the rows.

    Parameters
    ----------
    x : ndarray, shape (n, p)
    y : ndarray, shape (n,)
    ones_first : bool
        Whether the first column of x is one.
    terms : sequence of (ndarray of shape (n, k) or None, bool, bool)
        Columns of every random term, whether its structure lets them mix, whether the first one is one.

    Returns
    -------
    Basis
    """
    columns = standard_columns(x, ones_first)
    xp = columns.of(x)
    level = float(y.mean()) if ones_first else 0.0
    used = np.linalg.norm(xp, axis=0) > 1e-6 * np.sqrt(len(y))
    b = np.zeros(x.shape[1])
    b[used] = np.linalg.lstsq(xp[:, used], y - level, rcond=None)[0]
    out: list[Columns | None] = []
    for z, mixes, first in terms:
        if z is None:
            out.append(None)
        elif mixes and z.shape[1] > 1:
            out.append(standard_columns(z, first))
        else:
            size = np.abs(z).max(axis=0)
            odd = (size > 0) & ~((size > 1.0 / _ORDINARY) & (size < _ORDINARY))
            unit = np.ones(z.shape[1])
            unit[odd] = 2.0 ** np.round(np.log2(size[odd]))
            out.append(Columns(np.zeros(z.shape[1]), np.diag(1.0 / unit)))
    return Basis(columns, b, level, tuple(out))


@dataclass(eq=False)
class BlockSums:
    """Sums of one grouping factor, level by level.

    Attributes
    ----------
    table : ndarray, shape (q, 1 + k * k + k * m)
        Of every level the number of rows, z'Wz of its standardised columns and z'W[x r].
    k, m : int
    """

    table: np.ndarray
    k: int
    m: int

    @classmethod
    def zero(cls, q: int, k: int, m: int) -> BlockSums:
        """Of no rows."""
        return cls(np.zeros((q, 1 + k * k + k * m)), k, m)

    @property
    def counts(self) -> np.ndarray:
        """Rows, int64, shape (q,)."""
        return self.table[:, 0].astype(np.int64)

    @property
    def D(self) -> np.ndarray:
        """z'Wz, shape (q, k, k)."""
        return self.table[:, 1 : 1 + self.k * self.k].reshape(-1, self.k, self.k)

    @property
    def B(self) -> np.ndarray:
        """z'W[x r], shape (q, k, m)."""
        return self.table[:, 1 + self.k * self.k :].reshape(-1, self.k, self.m)

    def placed(self, places: np.ndarray, q: int) -> BlockSums:
        """With level l at places[l] among q."""
        out = BlockSums.zero(q, self.k, self.m)
        out.table[places] = self.table
        return out

    def turned(self, left: np.ndarray, right: np.ndarray) -> BlockSums:
        """With z and [x r] in another basis."""
        q = len(self.table)
        D = (left.T @ self.D @ left).reshape(q, -1)
        B = (left.T @ self.B @ right).reshape(q, -1)
        return BlockSums(np.hstack([self.table[:, :1], D, B]), self.k, right.shape[1])


@dataclass(eq=False)
class PairSums:
    """Sums over the rows in which two levels of different factors meet.

    Attributes
    ----------
    q : int
        Levels of the second factor: a pair's key is first * q + second.
    keys : ndarray of int64, shape (m,)
        Ascending.
    values : ndarray, shape (m, k_a * k_b)
    """

    q: int
    keys: np.ndarray
    values: np.ndarray
    _pending: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    _waiting: int = 0

    @classmethod
    def zero(cls, q: int, k: int) -> PairSums:
        """Of no rows; k products for every pair."""
        return cls(q, np.zeros(0, np.int64), np.zeros((0, k)))

    def add(self, keys: np.ndarray, values: np.ndarray) -> None:
        """More pairs, in any order and more than once."""
        part = _collected(keys, values)
        self._pending.append(part)
        self._waiting += part[0].size
        if self._waiting > max(_PENDING, self.keys.size):
            self.settle()

    def settle(self) -> PairSums:
        """Sort in what waits."""
        if self._pending:
            parts = [(self.keys, self.values), *self._pending]
            self._pending, self._waiting = [], 0
            self.keys, self.values = _collected(
                np.concatenate([k for k, _ in parts]), np.concatenate([v for _, v in parts])
            )
        return self

    def placed(self, first: np.ndarray, second: np.ndarray, q: int) -> PairSums:
        """With the levels at other places."""
        self.settle()
        a, b = np.divmod(self.keys, self.q)
        keys, values = _collected(first[a] * np.int64(q) + second[b], self.values)
        return PairSums(q, keys, values)


def _collected(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted, equal keys added in their order."""
    if keys.size == 0:
        return keys, values
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return keys[starts], np.add.reduceat(values[order], starts, axis=0)


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
    def zero(cls, basis: Basis, groups: Sequence[Sequence[int]], n_levels: Sequence[int]) -> Sums:
        """Of no rows.

        Parameters
        ----------
        basis : Basis
        groups : sequence of sequences of int
        n_levels : sequence of int
            Of every block.
        """
        p = basis.b.size
        widths = [sum(_width(basis, t) for t in group) for group in groups]
        blocks = [BlockSums.zero(q, k, p + 1) for q, k in zip(n_levels, widths, strict=True)]
        pairs = {
            (a, b): PairSums.zero(n_levels[b], widths[a] * widths[b])
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
        xr = np.empty((n, p + 1))
        xr[:, :p] = self.basis.x.of(X)
        xr[:, p] = y - self.basis.level - xr[:, :p] @ self.basis.b
        root = None
        gram = xr[:, :p].T @ xr[:, :p]
        self.plain += gram
        if weights is not None:
            if np.any(weights <= 0):
                bad = int(np.sum(weights <= 0))
                raise DataError(f"weights must be positive; {bad} are not. Drop those rows instead.")
            root = np.sqrt(weights)
            xr *= root[:, None]
            self.log_w += float(np.sum(np.log(weights)))
            y = y * root
        self.n += n
        self.total += float(y @ y)
        self.xr += xr.T @ xr
        z = [self._block_columns(group, columns, root, n) for group in self.groups]
        codes = [np.ascontiguousarray(c, dtype=np.int32) for c in codes]
        # each level's sums are one thread's, in the order of the rows
        work = [(i, *piece) for i, block in enumerate(self.blocks) for piece in _pieces(len(block.table), n)]

        def add_piece(_: int, start: int, stop: int) -> None:
            for i, first, last in work[start:stop]:
                add_levels(first, last, codes[i], z[i], xr, self.blocks[i].table)

        run(add_piece, [(at, at + 1) for at in range(len(work))])
        for (a, b), pair in self.pairs.items():
            pair.add(codes[a].astype(np.int64) * pair.q + codes[b], _products(z[a], z[b], n))

    def _block_columns(
        self, group: Sequence[int], columns: Sequence[np.ndarray | None], root: np.ndarray | None, n: int
    ) -> np.ndarray:
        """Standardised columns of a block; shape (0, 1) for a column of ones."""
        if len(group) == 1 and columns[group[0]] is None and root is None:
            return frozen(np.empty((0, 1)))
        parts = []
        for t in group:
            how, z = self.basis.terms[t], columns[t]
            if z is None:
                parts.append(np.ones((n, 1)))
            else:
                assert how is not None
                parts.append(z if how.plain else how.of(z))
        out = parts[0] if len(parts) == 1 else np.hstack(parts)
        return frozen(np.ascontiguousarray(out if root is None else out * root[:, None]))

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
        basis = replace(self.basis, terms=tuple(self.basis.terms[old] for old in order))
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
        blocks = [block.turned(t, C) for t, block in zip(turns, self.blocks, strict=True)]
        pairs = {}
        for (a, b), pair in self.pairs.items():
            pair.settle()
            pairs[a, b] = PairSums(pair.q, pair.keys.copy(), turned(pair.values, turns[a], turns[b]))
        return Sums(
            basis, self.groups, self.n, self.log_w, C.T @ self.xr @ C,
            C[:p, :p].T @ self.plain @ C[:p, :p], self.total, self.low, self.high, blocks, pairs,
        )  # fmt: skip


def _pieces(q: int, n: int) -> list[tuple[int, int]]:
    """Levels for the threads: every thread looks at all rows, so there are as many ranges as threads."""
    pieces = min(n_threads(), q) if n >= _MANY else 1
    edges = [q * i // pieces for i in range(pieces + 1)]
    return list(pairwise(edges))


def turned(values: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left' v right of the k_a x k_b products v of every pair, shape (m, k_a * k_b)."""
    return values @ np.kron(left, right)


def block_diagonal(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The parts along the diagonal."""
    k = sum(len(part) for part in parts)
    out, start = np.zeros((k, k)), 0
    for part in parts:
        out[start : start + len(part), start : start + len(part)] = part
        start += len(part)
    return out


def _width(basis: Basis, t: int) -> int:
    how = basis.terms[t]
    return 1 if how is None else how.shift.size


def _products(a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """Products of the columns of two blocks in every row, shape (n, k_a * k_b)."""
    if a.shape[0] == 0 and b.shape[0] == 0:
        return np.ones((n, 1))
    if a.shape[0] == 0:
        return b
    if b.shape[0] == 0:
        return a
    return (a[:, :, None] * b[:, None, :]).reshape(n, -1)


def triangle_of(G: np.ndarray, size: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """R with R'R = G over the columns that depend on no earlier ones, and which these are.

    Parameters
    ----------
    G : ndarray, shape (k, k)
        Cross-products in a basis that should be nearly orthonormal.
    size : ndarray, shape (k,)
        Sums of squares of the columns as they were, centred.
    what : str
        For the message.

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
        if left < 1e-6 * G[j, j]:
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
            "centred and scaled (a sample, and of added sums the first ones) are unlike the others. "
            "Begin with a chunk that resembles the data, or centre and scale the columns."
        )


def check_constant(low: float, high: float, shifted: bool) -> None:
    """Refuse a response without variation."""
    if low == high and not shifted:
        raise DesignError(
            f"the response is constant (every value is {low:g}); there is no variance to explain."
        )
