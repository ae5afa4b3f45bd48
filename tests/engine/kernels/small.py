"""Small designs written out with numpy alone: dense matrices, and the arrays that the kernels take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest

# widths of the blocks of the rest
WIDTHS = [(1,), (2,), (1, 1), (1, 2), (3, 1), (2, 1, 3)]
LAMBDAS = ["interior", "singular", "zero"]


@dataclass(frozen=True)
class Call:
    """How a kernel is called: compiled or as the Python it is written in, in one range or in several."""

    plain: bool
    cut: bool

    def __str__(self) -> str:
        return ("python" if self.plain else "compiled") + (", in pieces" if self.cut else "")

    def function(self, kernel: Callable) -> Callable:
        return kernel.py_func if self.plain else kernel

    def ranges(self, m: int) -> list[tuple[int, int]]:
        """One range over m items; or four, one of them empty, one of a single item."""
        if not self.cut:
            return [(0, m)]
        third = m // 3
        return [(0, third), (third, third), (third, max(third, m - 1)), (max(third, m - 1), m)]

    def run(self, kernel: Callable, m: int, *arguments: object) -> list:
        return [self.function(kernel)(a, b, *arguments) for a, b in self.ranges(m)]


calls = pytest.mark.parametrize("call", [Call(False, False), Call(False, True), Call(True, True)], ids=str)


def factor(k: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """A lower-triangular lam (k, k); a singular one has no effect in its last direction."""
    lam = np.tril(rng.normal(size=(k, k)))
    lam[np.diag_indices(k)] = rng.uniform(0.3, 1.5, k)
    if kind == "singular":
        lam[:, -1] = 0.0
    return np.zeros((k, k)) if kind == "zero" else lam


@dataclass(frozen=True, eq=False)
class SmallDesign:
    """Rows of a leading factor and of the rest, with no kernel at work.

    Attributes
    ----------
    codes : ndarray of int32, shape (n,)
        Level of the leading factor; levels without rows are among them.
    z : ndarray, shape (n, k1)
    others : list of (ndarray of int32, ndarray), shapes (n,) and (n, k)
        Codes and columns of each block of the rest.
    q1 : int
        0 if nothing leads.
    sizes : list of int
        Levels of each block of the rest.
    """

    codes: np.ndarray
    z: np.ndarray
    others: list[tuple[np.ndarray, np.ndarray]]
    q1: int
    sizes: list[int]

    @property
    def n(self) -> int:
        return self.codes.size

    @property
    def k1(self) -> int:
        return self.z.shape[1]

    @cached_property
    def levels(self) -> np.ndarray:
        """Levels of the rest that each row meets, numbered through all blocks: (n, blocks)."""
        first = np.cumsum([0, *self.sizes[:-1]])
        return np.column_stack([c + f for (c, _), f in zip(self.others, first, strict=True)])

    @cached_property
    def lblock(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.sizes), dtype=np.int32), self.sizes)

    @cached_property
    def lstart(self) -> np.ndarray:
        widths = np.array([z.shape[1] for _, z in self.others])[self.lblock]
        return np.r_[0, np.cumsum(widths)].astype(np.int64)

    @cached_property
    def clevel(self) -> np.ndarray:
        return np.repeat(np.arange(self.lblock.size, dtype=np.int32), np.diff(self.lstart))

    @property
    def q2(self) -> int:
        return int(self.lstart[-1])

    @cached_property
    def Z1(self) -> np.ndarray:
        """Dense, (n, q1, k1)."""
        out = np.zeros((self.n, self.q1, self.k1))
        if self.q1:
            out[np.arange(self.n), self.codes] = self.z
        return out

    @cached_property
    def Z2(self) -> np.ndarray:
        """Dense, (n, q2)."""
        out = np.zeros((self.n, self.q2))
        for b, (_, z) in enumerate(self.others):
            at = self.lstart[self.levels[:, b]][:, None] + np.arange(z.shape[1])
            np.put_along_axis(out, at, z, axis=1)
        return out

    @cached_property
    def A(self) -> np.ndarray:
        """Z_1'Z_1 by level, (q1, k1, k1)."""
        return np.einsum("nla,nlb->lab", self.Z1, self.Z1)

    @cached_property
    def B(self) -> np.ndarray:
        """Z_1'Z_2 by level, dense: (q1, k1, q2)."""
        return np.einsum("nla,nj->laj", self.Z1, self.Z2)

    @cached_property
    def meets(self) -> np.ndarray:
        """Which levels of the rest each leading level meets in a row, (q1, levels of the rest)."""
        out = np.zeros((self.q1, self.lblock.size), bool)
        if self.q1:
            out[self.codes[:, None], self.levels] = True
        return out

    @cached_property
    def together(self) -> np.ndarray:
        """Which levels of the rest share a row, and each with itself: (levels, levels)."""
        rows = np.zeros((self.n, self.lblock.size), int)
        np.put_along_axis(rows, self.levels, 1, axis=1)
        return (rows.T @ rows > 0) | np.eye(self.lblock.size, dtype=bool)

    def by_column(self, levels: np.ndarray) -> np.ndarray:
        """A table of pairs of levels of the rest as one of pairs of columns."""
        return levels[np.ix_(self.clevel, self.clevel)]

    @cached_property
    def cells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ptr, idx, val: every column of the levels that are met, zeros among the values included."""
        met = self.meets[:, self.clevel]
        level, column = np.nonzero(met)
        ptr = np.r_[0, np.cumsum(met.sum(axis=1))].astype(np.int64)
        return ptr, column.astype(np.int32), np.ascontiguousarray(self.B[level, :, column])

    @cached_property
    def transposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """tptr, tlev, tpos: the cells by column."""
        ptr, idx, _ = self.cells
        level = np.repeat(np.arange(self.q1), np.diff(ptr))
        order = np.lexsort((level, idx))
        tptr = np.r_[0, np.cumsum(np.bincount(idx, minlength=self.q2))].astype(np.int64)
        return tptr, level[order].astype(np.int32), order.astype(np.int32)

    @cached_property
    def gram(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """gptr, gidx, gval: block-lower Z_2'Z_2 by columns, from the first column of each level on."""
        first = self.lstart[self.clevel]
        kept = self.by_column(self.together) & (np.arange(self.q2)[:, None] >= first)
        column, row = np.nonzero(kept.T)
        gptr = np.r_[0, np.cumsum(kept.sum(axis=0))].astype(np.int64)
        return gptr, row.astype(np.int32), np.ascontiguousarray((self.Z2.T @ self.Z2)[row, column])

    @cached_property
    def pattern(self) -> tuple[np.ndarray, np.ndarray]:
        """sptr, sidx: the lower triangle of S, sorted, its k x k blocks whole."""
        met = self.meets.astype(int)
        kept = np.tril(self.by_column(self.together | (met.T @ met > 0)))
        sptr = np.r_[0, np.cumsum(kept.sum(axis=0))].astype(np.int64)
        return sptr, np.nonzero(kept.T)[1].astype(np.int32)

    def rest_factors(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """lam2 padded to the widest block, (blocks, k, k); and lam2 of all columns, dense (q2, q2)."""
        rng = np.random.default_rng(5)
        lams = [factor(z.shape[1], kind, rng) for _, z in self.others]
        widest = max(len(lam) for lam in lams)
        padded, dense = np.zeros((len(lams), widest, widest)), np.zeros((self.q2, self.q2))
        for b, lam in enumerate(lams):
            padded[b, : len(lam), : len(lam)] = lam
        for t, b in enumerate(self.lblock):
            part = slice(self.lstart[t], self.lstart[t + 1])
            dense[part, part] = lams[b]
        return padded, dense

    def lead_factor(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """lam and D of the leading term."""
        lam = factor(self.k1, kind, np.random.default_rng(4))
        return lam, lam @ lam.T

    def eliminated(self, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """W = lam (lam'A lam + I)^-1 lam' and F = (I + A D)^-1 of every level."""
        eye = np.eye(self.k1)
        W = np.array([lam @ np.linalg.inv(lam.T @ a @ lam + eye) @ lam.T for a in self.A])
        F = np.array([np.linalg.inv(eye + a @ lam @ lam.T) for a in self.A])
        return W.reshape(self.A.shape), F.reshape(self.A.shape)


def small(k1: int, widths: Sequence[int], plain: bool = False) -> SmallDesign:
    """A design in which not all levels meet; k1 = 0 for nothing that leads.

    With `plain` all columns are one. Otherwise the first column of a wide block is one and some values of the
    others are zero, so that a cell may hold nothing but be there.
    """
    rng = np.random.default_rng([k1, *widths])
    n, q1 = 45, 9
    codes = rng.permutation(np.r_[np.arange(q1), rng.integers(0, q1, n - q1)]).astype(np.int32)
    codes[codes == 4] = 5  # a level without rows

    def columns(k: int) -> np.ndarray:
        z = np.where(rng.random((n, k)) < 0.2, 0.0, rng.normal(size=(n, k)))
        z[:, 0] = 1.0
        return np.ones((n, k)) if plain else z

    others, sizes = [], []
    for b, k in enumerate(widths):
        if b == 0:  # the leading levels by twos and threes: those of different groups never meet
            inner, q = codes // 3 * 2 + rng.integers(0, 2, n), 6
        else:
            inner, q = (codes + rng.integers(0, 2, n)) % 5, 5
        others.append((inner.astype(np.int32), columns(k)))
        sizes.append(q)
    z = columns(max(1, k1))
    return SmallDesign(codes, z, others, q1 if k1 else 0, sizes)
