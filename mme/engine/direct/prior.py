"""Known inverses Q (x) I among the entries of S: where they stand, and traces with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..equations.layout import Layout
from ..kernels.pedigree import find_entries
from .plan import Plan

__all__ = ["KnownInverses"]


@dataclass(frozen=True, eq=False)
class _Place:
    """One block's Q: weights of its lower triangle, and the entries of S they belong to."""

    block: int
    weights: np.ndarray  # (m,), those below the diagonal twice
    values: np.ndarray  # (m,)
    at: np.ndarray  # (m, k, k) positions in a sparse S
    rows: np.ndarray  # (m, k, k), the row never above the column
    columns: np.ndarray


@dataclass(frozen=True, eq=False)
class _Whole:
    """A block whose Q is full, in a dense S."""

    block: int
    first: int
    k: int
    lower: np.ndarray  # (q, q)

    def parts(self, S: np.ndarray, a: int, b: int) -> np.ndarray:
        """Rows of effect a and columns of effect b of all levels, a view."""
        stop = self.first + self.k * len(self.lower)
        return S[self.first + a : stop : self.k, self.first + b : stop : self.k]

    def trace(self, inverse: np.ndarray) -> np.ndarray:
        """sum_lm Q_lm (S^-1)_lm, (k, k)."""
        out = np.zeros((self.k, self.k))
        diagonal = np.diag(self.lower)
        for a in range(self.k):
            for b in range(self.k):
                X = self.parts(inverse, a, b)
                # below the diagonal of levels all of S^-1 is there, on it the lower triangle
                own = np.diag(self.parts(inverse, max(a, b), min(a, b))) @ diagonal
                out[a, b] = 2.0 * (np.vdot(self.lower, X) - np.diag(X) @ diagonal) + own
        return 0.5 * (out + out.T)


class KnownInverses:
    """What the rest's related blocks add to S, and the traces that their derivatives need.

    Parameters
    ----------
    layout : Layout
    plan : Plan
        Of S, whose pattern holds that of every Q (x) I.

    Attributes
    ----------
    own : ndarray, shape (n_rest_blocks,)
        1 for blocks of independent levels, whose share of S is the identity; 0 for the others.
    logdet : float
        log|Q (x) I| of all blocks together.
    """

    def __init__(self, layout: Layout, plan: Plan) -> None:
        self.own = np.array([float(b.relation is None) for b in layout.rest] or [1.0])
        self.logdet = sum(b.k * b.relation.logdet for b in layout.rest if b.relation is not None)
        self._dense = plan.dense
        self._places: list[_Place] = []
        self._whole: list[_Whole] = []
        for r, block in enumerate(layout.rest):
            Q, k = block.relation, block.k
            if Q is None:
                continue
            if Q.full and plan.dense:
                self._whole.append(_Whole(r, int(layout.offsets[r]), k, Q.lower()))
                continue
            start, grid = int(layout.offsets[r]), np.arange(k)
            row = start + Q.idx.astype(np.int64)[:, None, None] * k + grid[:, None]
            column = start + Q.columns.astype(np.int64)[:, None, None] * k + grid
            row, column = np.maximum(row, column), np.minimum(row, column)
            at = np.zeros(0, np.int64)
            if not plan.dense:
                at = np.empty(row.size, np.int64)
                find_entries(plan.sptr, plan.sidx, row.ravel(), column.ravel(), at)
                at = at.reshape(row.shape)
                row = column = np.zeros(0, np.int64)
            twice = np.where(Q.idx == Q.columns, 1.0, 2.0)
            self._places.append(_Place(r, Q.val * twice, Q.val, at, row, column))

    def add(self, S: np.ndarray) -> None:
        """S += Q (x) I, in place: (q2, q2), or the values of a sparse S."""
        for whole in self._whole:
            for a in range(whole.k):
                part = whole.parts(S, a, a)
                part += whole.lower
        for place in self._places:
            diagonal = np.arange(place.at.shape[-1] if not self._dense else place.rows.shape[-1])
            if self._dense:
                rows, columns = place.rows[:, diagonal, diagonal], place.columns[:, diagonal, diagonal]
                S[rows, columns] += place.values[:, None]
            else:
                S[place.at[:, diagonal, diagonal]] += place.values[:, None]

    def traces(self, inverse: np.ndarray) -> dict[int, np.ndarray]:
        """sum_lm Q_lm (S^-1)_lm of every related block of the rest, shapes (k, k), by its number."""
        out = {whole.block: whole.trace(inverse) for whole in self._whole}
        for place in self._places:
            X = inverse[place.rows, place.columns] if self._dense else inverse[place.at]
            T = np.einsum("e,eab->ab", place.weights, X)
            out[place.block] = 0.5 * (T + T.T)
        return out
