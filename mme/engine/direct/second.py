"""Sums over all pairs of levels of products of blocks of G = Z'V^-1 Z: what second derivatives need.

d2 log|V| / dD_s dD_t = -tr(Z_s E Z_s' V^-1 Z_t F Z_t' V^-1) is a contraction of sum_lm G_lm[a, c] G_lm[b, d].
The rest's columns of G are formed, some at a time: one product Z'V^-1 Z w each, where effects that no chain
of rows connects share a vector.  The leading term, which may have a hundred times more levels, needs no
columns of its own: with H_l = F_l A_l, phi_l = F_l B_l and T = lam2 S^-1 lam2' its blocks are
G_lm = [l = m] H_l - phi_l T phi_m', so that

    sum_lm G_lm[a, c] G_lm[b, d] = sum_l H_l[a, c] H_l[b, d] - H_l[a, c] C_l[b, d] - C_l[a, c] H_l[b, d]
                                   + tr(K_ab' T K_cd T),   C_l = phi_l T phi_l',  K_ab = sum_l phi_la' phi_lb.

Nothing is inverted that is singular where D is. Related levels are taken as the independent ones of u = T v.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..equations.equations import Equations
from ..kernels.pairs import level_sums
from ..runtime.memory import available_memory
from ..runtime.parallel import cut, run
from .elimination import Elimination
from .second_dense import dense_block_products, dense_bytes, dense_work
from .state import State

__all__ = ["LevelSums", "Products", "Vectors", "block_products", "by_dense_matrices", "products_work"]

Products = dict[tuple[int, int], np.ndarray]

_BATCH = 4_000_000  # numbers that one batch of vectors may hold
_DENSE_SPEED = 20.0  # multiplications of dense matrices in the time of one with vectors
_ONE_PASS = 40  # effects squared times vectors up to which one pass over the levels does all
_SHARE = 0.5  # of the memory that is there


@dataclass(frozen=True, eq=False)
class Vectors:
    """Which columns of Z_2 are added up into one vector: at most one of each connected part.

    Attributes
    ----------
    ranks : list of ndarray of int, shapes (q_r,)
        Number of every level within its part, per block of the rest.
    widths : list of int
        Columns per level.
    """

    ranks: list[np.ndarray]
    widths: list[int]

    @classmethod
    def of(cls, eq: Equations) -> Vectors:
        """From the connected parts of the equations."""
        lay, ranks = eq.layout, []
        for r, block in enumerate(lay.rest):
            part = eq.parts[int(lay.offsets[r]) : int(lay.offsets[r + 1]) : block.k]
            order = np.argsort(part, kind="stable")
            first = np.concatenate(([0], np.cumsum(np.bincount(part))))
            rank = np.empty(part.size, dtype=np.intp)
            rank[order] = np.arange(part.size) - first[part[order]]
            ranks.append(rank)
        return cls(ranks, [b.k for b in lay.rest])

    @property
    def count(self) -> int:
        """Number of vectors."""
        return sum((int(r.max()) + 1) * k for r, k in zip(self.ranks, self.widths, strict=True))

    def work(self, eq: Equations, entries: float) -> float:
        """Multiplications, roughly, with so many entries in the factor of S."""
        lay = eq.layout
        solves = 2.0 + (lay.k1**2 if lay.has_lead else 0.0)
        passes = solves * (2.0 * entries + 2.0 * eq.idx.size * lay.k1) + lay.q1 * lay.k1**2
        return self.count * passes


def by_dense_matrices(eq: Equations, vectors: Vectors, entries: float) -> bool:
    """Whether dense matrices of the rest's order are the shorter way, and fit in memory."""
    if eq.layout.q2 == 0 or vectors.count < eq.layout.q2 / 4:
        return False
    cheaper = dense_work(eq) < _DENSE_SPEED * vectors.work(eq, entries)
    return cheaper and dense_bytes(eq) < _SHARE * available_memory()


def products_work(eq: Equations, entries: float) -> float:
    """Multiplications of `block_products`, roughly, in units of those with vectors."""
    vectors = Vectors.of(eq)
    if by_dense_matrices(eq, vectors, entries):
        return dense_work(eq) / _DENSE_SPEED
    return vectors.work(eq, entries)


def block_products(
    eq: Equations, el: Elimination, st: State, turns: Sequence[np.ndarray] | None = None
) -> Products:
    """sum_lm G_lm[a, c] G_lm[b, d] over the levels of two blocks, in the equations' basis.

    Parameters
    ----------
    eq : Equations
    el : Elimination
        Last factored at `st`.
    st : State
    turns : sequence of ndarray, shapes (k_b, k_b), optional
        B per block of the layout: products of B'G B in place of G, turned before they are multiplied.

    Returns
    -------
    dict of (s, t), blocks of the layout, to ndarray, shapes (k_s, k_s, k_t, k_t), indices a, b, c, d
    """
    lay = eq.layout
    vectors = Vectors.of(eq)
    if turns is None and by_dense_matrices(eq, vectors, el.plan.entries):
        return dense_block_products(eq, el, st)
    first = int(lay.has_lead)
    out: Products = {}
    turns = [np.eye(b.k) for b in lay.blocks] if turns is None else turns
    lead = _Lead(eq, el, st, turns[0]) if lay.has_lead else None
    held = lay.q1 * lay.k1 * (2 + lay.k1) + 6 * lay.q2
    for r, (rank, k) in enumerate(zip(vectors.ranks, vectors.widths, strict=True)):
        n_ranks = int(rank.max()) + 1
        step = max(1, _BATCH // max(1, held * k))
        start = int(lay.offsets[r])
        for begin in range(0, n_ranks, step):
            size = min(step, n_ranks - begin)
            inside = np.flatnonzero((rank >= begin) & (rank < begin + size))
            w = np.zeros((lay.q2, size * k))
            for c in range(k):
                w[start + inside * k + c, (rank[inside] - begin) * k + c] = 1.0
            if lead is not None:
                lead.add(w)
            turned = np.zeros_like(w)
            for c in range(k):
                for a in range(k):
                    turned[start + inside * k + a, (rank[inside] - begin) * k + c] = turns[r + first][a, c]
            relation = lay.rest[r].relation
            if relation is not None:
                part = turned[lay.rest_columns(r)].reshape(lay.rest[r].q, -1)
                turned[lay.rest_columns(r)] = relation.related(part).reshape(-1, size * k)
            y1, y2 = el.marginal_product(st, None, turned)
            cubes = [] if y1 is None else [y1]
            for s, block in enumerate(lay.rest):
                rows = y2[lay.rest_columns(s)]
                if block.relation is not None:
                    rows = block.relation.unrelated(rows.reshape(block.q, -1))
                cubes.append(rows.reshape(block.q, block.k, size * k))
            for s, cube in enumerate(cubes):
                gram = _gram(np.matmul(turns[s].T, cube), size, k)
                out[s, r + first] = gram if (s, r + first) not in out else out[s, r + first] + gram
    if lead is not None:
        out[0, 0] = lead.total()
        for r in range(first, len(lay.blocks)):
            out[r, 0] = out[0, r].transpose(2, 3, 0, 1)
    return out


@dataclass(frozen=True, eq=False)
class LevelSums:
    """Sums over the levels of a factor that is the only one, k effects; h (q, k, w).

    Attributes
    ----------
    moments : ndarray, shape (k, k, w, w)
        h_a h_d'.
    crossed : ndarray, shape (k, k, w, w, k, k)
        h_a h_d' G_bc, indices a, d, :, :, b, c.
    grams : ndarray, shape (k, k, k, k)
        G_ac G_bd, indices a, b, c, d.
    """

    moments: np.ndarray
    crossed: np.ndarray
    grams: np.ndarray

    @classmethod
    def of(cls, eq: Equations, el: Elimination, h: np.ndarray) -> LevelSums | None:
        """None where the sums are too large for one pass to pay."""
        q1, k, w = h.shape
        if k * k * w > _ONE_PASS:
            return None
        h = np.ascontiguousarray(h)
        ranges = cut(None, q1, float(q1 * (k * k * w) ** 2))
        parts = [
            cls(np.zeros((k, k, w, w)), np.zeros((k, k, w, w, k, k)), np.zeros((k, k, k, k))) for _ in ranges
        ]
        run(
            lambda i, a, b: level_sums(
                a, b, el.F, eq.A1, h, parts[i].moments, parts[i].crossed, parts[i].grams
            ),
            ranges,
        )
        # in the order of the pieces
        total = [
            np.sum(x, axis=0) for x in zip(*((p.moments, p.crossed, p.grams) for p in parts), strict=True)
        ]
        return cls(*total)


def _gram(cube: np.ndarray, size: int, k: int) -> np.ndarray:
    """sum over levels and vectors of y[a, c] y[b, d]; the vectors' columns are (rank, effect)."""
    q, k_s = cube.shape[:2]
    flat = cube.reshape(q, k_s, size, k).transpose(1, 3, 0, 2).reshape(k_s * k, -1)
    return (flat @ flat.T).reshape(k_s, k, k_s, k).transpose(0, 2, 1, 3)


class _Lead:
    """The leading block's own sum, gathered over the rest's vectors."""

    def __init__(self, eq: Equations, el: Elimination, st: State, turn: np.ndarray) -> None:
        self.eq, self.el, self.st, self.turn = eq, el, st, turn
        q1, k1 = eq.layout.q1, eq.layout.k1
        self.F = np.matmul(turn.T, el.F)
        self.H = np.matmul(np.matmul(self.F, eq.A1), turn)
        self.C = np.zeros((q1, k1, k1))
        self.KK = np.zeros((k1, k1, k1, k1))

    def add(self, w: np.ndarray) -> None:
        """Take in the vectors w (q2, m)."""
        el, k1 = self.el, self.eq.layout.k1
        v = el.prior_solve(self.st, w)
        z, x = self._phi(w), self._phi(v)
        self.C += np.matmul(x, z.transpose(0, 2, 1))
        left = {(a, b): self._phi_transposed(a, z[:, b]) for a in range(k1) for b in range(k1)}
        for c in range(k1):
            for d in range(k1):
                right = el.prior_solve(self.st, self._phi_transposed(c, x[:, d]))
                for (a, b), other in left.items():
                    self.KK[a, b, c, d] += np.vdot(other, right)

    def _phi(self, w: np.ndarray) -> np.ndarray:
        """phi w of every level, (q2, m) -> (q1, k1, m)."""
        lay = self.eq.layout
        cells = self.el.minus_cells(-w, np.zeros((lay.q1, lay.k1, w.shape[1])))
        return np.matmul(self.turn.T, self.el.level_apply(self.el.F, cells))

    def _phi_transposed(self, a: int, x: np.ndarray) -> np.ndarray:
        """sum_l phi_la' x_l, (q1, m) -> (q2, m)."""
        G = -self.F[:, a, :, None] * x[:, None, :]
        return self.el.minus_cells_transposed(G, np.zeros((self.eq.layout.q2, x.shape[1])))

    def total(self) -> np.ndarray:
        """Indices a, b, c, d."""
        H, C = self.H, self.C
        own = np.einsum("lac,lbd->abcd", H, H)
        mixed = np.einsum("lac,lbd->abcd", H, C)
        return own - mixed - mixed.transpose(1, 0, 3, 2) + self.KK
