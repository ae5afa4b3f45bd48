"""Sums by level, and by pairs of levels that meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..kernels.sums import add_rows, number_keys

__all__ = ["MOST_LEVELS", "BlockSums", "KeyNumbers", "PairSums", "turned", "with_room"]

MOST_LEVELS = 1 << 31  # in place of the number of levels of a factor, of pairs, where that is not known yet

_FIRST = 1 << 16
_HASHED = 4_000_000  # pairs up to which they are found by a hash
_PENDING = 1_000_000  # pairs of levels that may wait to be sorted in


@dataclass(eq=False)
class BlockSums:
    """Sums of one grouping factor, level by level: of products of columns of a pool, each of them once.

    Attributes
    ----------
    table : ndarray, shape (q, 1 + number of products)
        Of every level the number of rows and the products: z'Wz of its standardised columns and z'W[x r].
    places : tuple of int
        Where the k columns z are in the pool.
    m : int
        The first m of the pool are [x r].
    """

    table: np.ndarray
    places: tuple[int, ...]
    m: int

    @classmethod
    def zero(cls, q: int, places: Sequence[int], m: int) -> BlockSums:
        """Of no rows."""
        out = cls(np.zeros((0, 0)), tuple(places), m)
        out.table = np.zeros((q, 1 + out.factors[0].size))
        return out

    @cached_property
    def _products(self) -> tuple[dict[tuple[int, int], int], np.ndarray, np.ndarray]:
        """Number of every product; those of z'Wz, shape (k, k), and of z'W[x r], shape (k, m)."""
        numbers: dict[tuple[int, int], int] = {}

        def number(a: int, b: int) -> int:
            return numbers.setdefault((min(a, b), max(a, b)), len(numbers))

        z = self.places
        D = np.array([[number(a, b) for b in z] for a in z])
        B = np.array([[number(a, j) for j in range(self.m)] for a in z])
        return numbers, D, B

    @cached_property
    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """Columns of the pool whose products are summed, int64."""
        pairs = np.array(list(self._products[0]), dtype=np.int64)
        return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])

    @property
    def k(self) -> int:
        """Columns z."""
        return len(self.places)

    @property
    def counts(self) -> np.ndarray:
        """Rows, int64, shape (q,)."""
        return self.table[:, 0].astype(np.int64)

    @property
    def total(self) -> np.ndarray:
        """z'Wz of all levels together, shape (k, k)."""
        return self.table[:, 1:].sum(axis=0)[self._products[1]]

    def grow(self, q: int) -> None:
        """Room for so many levels at least."""
        if q > len(self.table):
            table = np.zeros((max(q, 2 * len(self.table)), self.table.shape[1]))
            table[: len(self.table)] = self.table
            self.table = table

    def placed(self, places: np.ndarray, q: int) -> BlockSums:
        """With level l at places[l] among q; what is beyond places has no rows."""
        held = self.table[: places.size]
        if q == places.size and np.array_equal(places, np.arange(q)):
            return BlockSums(held.copy(), self.places, self.m)
        table = np.zeros((q, self.table.shape[1]))
        table[places] = held
        return BlockSums(table, self.places, self.m)

    def products(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """D = z'Wz, shape (q, k, k), and B = z'W[x r], shape (q, k, m'), of z left and [x r] right."""
        q, m = len(self.table), right.shape[1]
        D, B = self._maps(left, right)
        sums = self.table[:, 1:]
        return (sums @ D).reshape(q, self.k, self.k), (sums @ B).reshape(q, self.k, m)

    def rebased(self, left: np.ndarray, right: np.ndarray, places: Sequence[int]) -> BlockSums:
        """With the columns z left and [x r] right, which are at these places of another pool."""
        out = BlockSums.zero(0, places, self.m)
        D, B = (part.reshape(len(part), self.k, -1) for part in self._maps(left, right))
        _, at_D, at_B = out._products
        turn = np.zeros((len(D), out.factors[0].size))
        turn[:, at_B] = B
        turn[:, at_D] = D
        out.table = np.hstack([self.table[:, :1], self.table[:, 1:] @ turn])
        return out

    def _maps(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What turns a level's products into those of z left and [x r] right."""
        _, D, B = self._products
        out = []
        for at, other in ((D, left), (B, right)):
            turn = np.zeros((self.factors[0].size, left.shape[1] * other.shape[1]))
            np.add.at(turn, at.ravel(), np.kron(left, other))
            out.append(turn)
        return out[0], out[1]


class KeyNumbers:
    """Whole numbers of any range, numbered in the order in which they are met.

    Attributes
    ----------
    n : int
        Numbers given.
    """

    def __init__(self) -> None:
        self.n = 0
        self._slots = np.empty(0, np.int32)
        self._found = np.empty(_FIRST, np.int64)

    @classmethod
    def of(cls, found: np.ndarray) -> KeyNumbers:
        """Of keys, different ones, that have numbers in this order."""
        out = cls()
        out.codes(np.ascontiguousarray(found))
        return out

    @property
    def keys(self) -> np.ndarray:
        """The key of every number, int64."""
        return self._found[: self.n]

    def codes(self, keys: np.ndarray) -> np.ndarray:
        """Numbers of keys, int64, in C order; int32."""
        self._found = with_room(self._found, self.n, keys.size)
        if self._slots.size < 2 * (self.n + keys.size):
            size = 1 << max(17, int(2 * (self.n + keys.size) - 1).bit_length())
            slots = np.full(size, -1, np.int32)
            number_keys(self.keys.copy(), slots, np.empty(self.n, np.int64), 0, np.empty(self.n, np.int32))
            self._slots = slots
        out = np.empty(keys.size, np.int32)
        self.n = number_keys(keys, self._slots, self._found, self.n, out)
        return out


def with_room(found: np.ndarray, n: int, more: int) -> np.ndarray:
    """An array for n values, which are kept, and more of them."""
    if n + more <= len(found):
        return found
    out = np.zeros((max(n + more, len(found) + len(found) // 2), *found.shape[1:]), found.dtype)
    out[:n] = found[:n]
    return out


@dataclass(eq=False)
class PairSums:
    """Sums over the rows in which two levels of different factors meet.

    Pairs that are met again and again are found by a hash; where there are many, what comes waits to be
    sorted in.

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
    _numbers: KeyNumbers | None = field(default_factory=KeyNumbers)
    _table: np.ndarray | None = None

    @classmethod
    def zero(cls, q: int, k: int) -> PairSums:
        """Of no rows; k products for every pair."""
        return cls(q, np.zeros(0, np.int64), np.zeros((0, k)))

    def add(self, keys: np.ndarray, values: np.ndarray) -> None:
        """More pairs, in any order and more than once."""
        if self._numbers is not None and self._numbers.n + keys.size <= _HASHED:
            codes = self._numbers.codes(keys)
            held = np.zeros((_FIRST, values.shape[1])) if self._table is None else self._table
            self._table = with_room(held, len(held), self._numbers.n - len(held))
            add_rows(codes, values, self._table)
            return
        self._unhash()
        self._numbers = None
        self._wait(*_collected(keys, values))

    def _unhash(self) -> None:
        """What was found by a hash waits to be sorted in."""
        if self._numbers is not None and self._table is not None:
            found, table = self._numbers.keys, self._table
            self._numbers, self._table = KeyNumbers(), None
            self._wait(*_collected(found, table[: found.size]))

    def _wait(self, keys: np.ndarray, values: np.ndarray) -> None:
        self._pending.append((keys, values))
        self._waiting += keys.size
        if self._waiting > max(_PENDING, self.keys.size):
            self._sort_in()

    def _sort_in(self) -> None:
        if self._pending:
            parts = [(self.keys, self.values), *self._pending]
            self._pending, self._waiting = [], 0
            self.keys, self.values = _collected(
                np.concatenate([k for k, _ in parts]), np.concatenate([v for _, v in parts])
            )

    def settle(self) -> PairSums:
        """Sort in what waits."""
        self._unhash()
        self._sort_in()
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


def turned(values: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left' v right of the k_a x k_b products v of every pair, shape (m, k_a * k_b)."""
    return values @ np.kron(left, right)
