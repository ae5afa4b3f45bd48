"""Variances of x'b + z'u about their estimates, for rows of any levels.

With M_11 eliminated level by level, T = lam2 S^-1 lam2' and C_l the leading level's block of lam M^-1 lam'
(`mme.engine.direct.variances`), a row of leading level l has

    Var / sigma2 = a'(X'V^-1 X)^-1 a + z_1'C_l z_1 + z_2'T z_2 - 2 z_2'T B_l'W_l z_1,    a = x - X'V^-1 Z D z

(Henderson 1975, Biometrics 31, 423-447: the inverse of the mixed-model equations).  Beside C_l only those
rows of T are needed that belong to levels that are asked for: a solve each, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..kernels.prediction import pair_forms
from ..runtime.parallel import cut, run
from .equations import Equations
from .points import Points

__all__ = ["PriorInverse", "PriorRows", "prediction_variances"]

_BATCH = 4_000_000  # numbers that one batch of rows of T may hold
_KEPT = 40_000_000  # numbers that all rows of T may be to be kept from batch to batch


@dataclass(frozen=True, eq=False)
class PriorInverse:
    """What prediction variances are made of, at one theta and in the equations' basis.

    Attributes
    ----------
    root : ndarray, shape (p, p)
        R, R'R = Q'V^-1 Q.
    lead_x : ndarray, shape (q1, k1, p)
        D Z_1'V^-1 Q.
    rest_x : ndarray, shape (q2, p)
        D Z_2'V^-1 Q.
    W : ndarray, shape (q1, k1, k1)
    own : callable (levels (m,)) -> ndarray, shape (m, k1, k1)
        C_l.
    columns : callable (indices (m,)) -> ndarray, shape (m, q2)
        Rows of T.
    """

    root: np.ndarray
    lead_x: np.ndarray
    rest_x: np.ndarray
    W: np.ndarray
    own: Callable[[np.ndarray], np.ndarray]
    columns: Callable[[np.ndarray], np.ndarray]


class PriorRows:
    """Rows of T, solved for once if all of them may be kept.

    Parameters
    ----------
    columns : callable (indices (m,)) -> ndarray, shape (m, q2)
    q2 : int
    """

    def __init__(self, columns: Callable[[np.ndarray], np.ndarray], q2: int) -> None:
        self._columns = columns
        self._all = np.empty((q2, q2)) if q2 * q2 <= _KEPT else None
        self._known = np.zeros(q2, dtype=bool)

    def __call__(self, asked: np.ndarray) -> np.ndarray:
        """The rows asked for."""
        if self._all is None:
            return self._columns(asked)
        new = asked[~self._known[asked]]
        if new.size:
            self._all[new] = self._columns(new)
            self._known[new] = True
        return self._all[asked]


def prediction_variances(eq: Equations, inverse: PriorInverse, points: Points) -> np.ndarray:
    """Variances of x'b + z'u about their estimates, divided by sigma2, shape (n,)."""
    known = np.flatnonzero(points.lead >= 0)
    a = points.x - points.rest @ inverse.rest_x
    out = np.zeros(len(a))
    Wz = np.zeros_like(points.z1)
    if known.size:
        levels, z1 = points.lead[known], points.z1[known]
        a[known] -= np.einsum("na,nap->np", z1, inverse.lead_x[levels])
        Wz[known] = np.einsum("nab,nb->na", inverse.W[levels], z1)
        out[known] = np.einsum("na,nab,nb->n", z1, inverse.own(levels), z1)
    if a.shape[1]:
        half = np.linalg.solve(inverse.root.T, a.T)
        out += np.sum(half * half, axis=0)
    if points.rest.nnz:
        out += _rest_forms(eq, inverse, points, Wz)
    return out


def _rest_forms(eq: Equations, inverse: PriorInverse, points: Points, Wz: np.ndarray) -> np.ndarray:
    """z_2'T z_2 - 2 z_2'T B_l'W_l z_1, shape (n,)."""
    rest, n = points.rest, len(points.lead)
    rptr, ridx, rval = rest.indptr.astype(np.int64), rest.indices.astype(np.int32), rest.data
    order = np.argsort(ridx, kind="stable")
    column = ridx[order]
    row = np.repeat(np.arange(n), np.diff(rptr))[order]
    weight = np.ascontiguousarray(rval[order])
    asked, start = np.unique(column, return_index=True)
    start = np.r_[start, column.size]
    size = max(1, _BATCH // max(1, eq.layout.q2))
    out = np.zeros(n)
    cells = np.diff(eq.ptr) if eq.layout.has_lead else np.zeros(0, dtype=np.int64)
    for i in range(0, asked.size, size):
        stop = min(i + size, asked.size)
        T = np.ascontiguousarray(inverse.columns(asked[i:stop]))
        mine = slice(int(start[i]), int(start[stop]))
        place = np.searchsorted(asked[i:stop], column[mine])
        rows, weights = row[mine], weight[mine]
        forms = np.empty(rows.size)
        work = np.diff(rptr)[rows] + 1.0
        if cells.size:
            levels = points.lead[rows]
            work = work + np.where(levels >= 0, cells[levels], 0)
        given = (rows, place, weights, points.lead, Wz, rptr, ridx, rval, eq.ptr, eq.idx, eq.val, T, forms)
        run(partial(_forms, given), cut(work, rows.size))
        out += np.bincount(rows, weights=forms, minlength=n)
    return out


def _forms(given: tuple, _: int, a: int, b: int) -> None:
    pair_forms(a, b, *given)
