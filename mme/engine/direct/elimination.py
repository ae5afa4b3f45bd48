"""theta -> eliminated leading term + factored Schur complement of the rest.

With M_11 eliminated level by level, S = lam2'(Z_2'V_1^-1 Z_2) lam2 + I, V_1 = W^-1 + Z_1 D_1 Z_1'; where the
levels of a block are related (covariance A (x) D), A^-1 (x) I stands in place of I.  S is dense or sparse,
whichever is predicted to cost less; see `mme.engine.direct.plan`.
"""

from __future__ import annotations

import numpy as np

from ..equations.equations import Equations
from ..factor import DenseFactor, Factor
from ..kernels import schur as ks
from ..kernels.traces import traces_dense, traces_sparse
from ..runtime.parallel import cut, run
from .plan import Plan
from .prior import KnownInverses
from .state import State

__all__ = ["Elimination", "apply_lam", "elimination_flops"]


def apply_lam(eq: Equations, lam2: list[np.ndarray], M: np.ndarray, transpose: bool) -> np.ndarray:
    """lam2 M or lam2' M for the block-diagonal factor of the rest: (q2, m) -> (q2, m), a new array."""
    out = np.empty_like(M)
    offsets = eq.layout.offsets
    for r, block in enumerate(eq.layout.rest):
        part = slice(int(offsets[r]), int(offsets[r + 1]))
        if block.k == 1:
            np.multiply(M[part], lam2[r][0, 0], out=out[part])
        else:
            lam = lam2[r].T if transpose else lam2[r]
            cube = M[part].reshape(block.q, block.k, -1)
            out[part] = np.matmul(lam, cube).reshape(M[part].shape)
    return out


def elimination_flops(eq: Equations) -> float:
    """Multiplications of B'W B: of every level, the pairs of its cells."""
    partners = np.diff(eq.ptr).astype(np.float64)
    return float(partners @ (partners + 1.0)) * 0.5 * eq.layout.k1


class Elimination:
    """Workspaces and kernels' calls for one set of equations; holds the state of the last theta.

    Parameters
    ----------
    eq : Equations
    plan : Plan
    """

    def __init__(self, eq: Equations, plan: Plan) -> None:
        self.eq, self.plan = eq, plan
        lay = eq.layout
        q1, k1 = lay.q1, lay.k1
        self.W = np.empty((q1, k1, k1))
        self.F = np.empty((q1, k1, k1))
        self.half = np.empty((q1, k1, k1))
        self._level_ranges = cut(None, q1, float(q1 * k1**3 * 8))
        per_column = np.zeros(lay.q2)
        if eq.idx.size:
            # a column's work: for each of its levels, the partners from itself on
            stop = eq.ptr[eq.tlev.astype(np.int64) + 1]
            work = np.add.reduceat(
                np.r_[(stop - eq.tpos).astype(np.float64), 0.0],
                np.minimum(eq.tptr[:-1], eq.idx.size),
            )
            per_column = np.where(np.diff(eq.tptr) > 0, work, 0.0)
        self.flops = elimination_flops(eq)
        n_levels = lay.lstart.size - 1
        per_level = np.add.reduceat(per_column, lay.lstart[:-1]) if n_levels else per_column
        if plan.dense:
            per_level = per_level + 0.5 * np.arange(n_levels, 0, -1) * lay.q2 / max(1, n_levels)
        self._rest_ranges = cut(per_level * (1 + k1), n_levels)
        self._k2 = max((b.k for b in lay.rest), default=1)
        self.factor: Factor
        if plan.dense:
            self.factor = DenseFactor(lay.q2)
            self._S: np.ndarray = np.zeros((lay.q2, lay.q2), order="F")
        else:
            assert plan.factor is not None
            self.factor = plan.factor
            self._S = np.empty(plan.sidx.size)
        self.known = KnownInverses(lay, plan)

    # -- the leading term ---------------------------------------------------------------------------------

    def eliminate(self, lam1: np.ndarray, D1: np.ndarray) -> float:
        """Fill W and F of every level; log|lam1'A_1 lam1 + I|."""
        if not self.eq.layout.has_lead:
            return 0.0
        lam1, D1 = np.ascontiguousarray(lam1), np.ascontiguousarray(D1)
        parts = run(
            lambda _, a, b: ks.level_factors(a, b, self.eq.A1, lam1, D1, self.W, self.F, self.half),
            self._level_ranges,
        )
        return float(sum(parts))

    def level_apply(self, M: np.ndarray, Q: np.ndarray) -> np.ndarray:
        """M[l] @ Q[l] for every level of the leading term: (q1, k1, k1), (q1, k1, m) -> (q1, k1, m)."""
        if M.shape[1] == 1:
            return M * Q
        out = np.empty_like(Q)
        run(lambda _, a, b: ks.level_apply(a, b, M, Q, out), self._level_ranges)
        return out

    def level_information(
        self, ze: np.ndarray, C: np.ndarray, FA: np.ndarray, p: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """sum_l w'F A w (m, m) and sum_l (F A_1x)[:, :p]'w (p, m), w_l[:, i] = C[i] ze_l, over all levels."""
        m = C.shape[0]
        ranges = self._level_ranges
        K, X = np.zeros((len(ranges), m, m)), np.zeros((len(ranges), p, m))
        ze, C = np.ascontiguousarray(ze), np.ascontiguousarray(C)
        run(lambda i, a, b: ks.level_information(a, b, ze, C, self.eq.A1, self.F, FA, K[i], X[i]), ranges)
        lower = K.sum(axis=0)
        return lower + np.tril(lower, -1).T, X.sum(axis=0)

    def minus_cells(self, M: np.ndarray, out: np.ndarray) -> np.ndarray:
        """out[l] -= B_l M: (q2, m) into (q1, k1, m), in place."""
        eq = self.eq
        if eq.idx.size:
            M = np.ascontiguousarray(M)
            ranges = cut(np.diff(eq.ptr) * float(M.shape[1] * eq.layout.k1), eq.layout.q1)
            run(lambda _, a, b: ks.cells_dot(a, b, eq.ptr, eq.idx, eq.val, M, out), ranges)
        return out

    def minus_cells_transposed(self, G: np.ndarray, out: np.ndarray) -> np.ndarray:
        """out -= sum_l B_l' G[l]: (q1, k1, m) into (q2, m), in place."""
        eq = self.eq
        if eq.idx.size:
            ranges = cut(np.diff(eq.tptr) * float(G.shape[2] * eq.layout.k1), eq.layout.q2)
            run(lambda _, a, b: ks.cells_tdot(a, b, eq.tptr, eq.tlev, eq.tpos, eq.val, G, out), ranges)
        return out

    # -- the rest -----------------------------------------------------------------------------------------

    def padded(self, lam2: list[np.ndarray]) -> np.ndarray:
        """Factors of the rest blocks in one array, shape (n_blocks, k_max, k_max)."""
        out = np.zeros((max(1, len(lam2)), self._k2, self._k2))
        for r, lam in enumerate(lam2):
            out[r, : lam.shape[0], : lam.shape[0]] = lam
        return out

    def factorize(self, lam2: list[np.ndarray]) -> float:
        """Assemble and factor S for the current W; log|S| less that of known inverses in it.

        Raises numpy.linalg.LinAlgError.
        """
        eq, lay = self.eq, self.eq.layout
        if lay.q2 == 0:
            return 0.0
        pad = self.padded(lam2)
        common = (lay.lstart, lay.lblock, self.known.own)
        cells = (pad, eq.ptr, eq.idx, eq.val, eq.tptr, eq.tlev, eq.tpos, self.W, eq.gptr, eq.gidx, eq.gval)
        if self.plan.dense:
            run(lambda _, a, b: ks.schur_dense(a, b, *common, *cells, self._S), self._rest_ranges)
        else:
            plan = self.plan
            run(
                lambda _, a, b: ks.schur_sparse(
                    a, b, *common, lay.clevel, *cells, plan.sptr, plan.sidx, self._S
                ),
                self._rest_ranges,
            )
        self.known.add(self._S)
        self.factor.factorize(self._S)
        return self.factor.logdet() - self.known.logdet

    def solve(self, B: np.ndarray) -> np.ndarray:
        """S^-1 B, (q2, m) -> (q2, m), for the last factorization."""
        if self.eq.layout.q2 == 0 or B.shape[1] == 0:
            return np.zeros_like(B)
        return self.factor.solve(B)

    def traces(self, lam2: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Traces for the gradient from the last factorization (which must be of `lam2`).

        Returns
        -------
        N : ndarray, shape (k1, k1)
            sum_l F_l B_l lam2 S^-1 lam2' B_l' F_l'.
        T : list of ndarray, shapes (k_r, k_r)
            For every rest block the sum over levels of the diagonal blocks of S^-1, or sum_lm Q_lm (S^-1)_lm.
        """
        eq, lay = self.eq, self.eq.layout
        k1 = lay.k1
        if lay.q2 == 0:
            return np.zeros((k1, k1)), []
        pad = self.padded(lam2)
        inverse = self.factor.selected_inverse()
        ranges = self._rest_ranges
        Ns = np.zeros((len(ranges), k1, k1))
        Ts = np.zeros((len(ranges), *pad.shape))
        common = (lay.lstart, lay.lblock)
        cells = (pad, eq.ptr, eq.idx, eq.val, eq.tptr, eq.tlev, eq.tpos, self.F)
        if self.plan.dense:
            run(lambda i, a, b: traces_dense(a, b, *common, *cells, inverse, Ns[i], Ts[i]), ranges)
        else:
            plan = self.plan
            run(
                lambda i, a, b: traces_sparse(
                    a, b, *common, lay.clevel, *cells, plan.sptr, plan.sidx, inverse, Ns[i], Ts[i]
                ),
                ranges,
            )
        T = Ts.sum(axis=0)
        for r, own in self.known.traces(inverse).items():
            T[r, : own.shape[0], : own.shape[0]] = own
        return Ns.sum(axis=0), [T[r, : b.k, : b.k] for r, b in enumerate(lay.rest)]

    # -- the marginal model -------------------------------------------------------------------------------

    def marginal_product(
        self, st: State, w1: np.ndarray | None, w2: np.ndarray
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Z'V^-1 Z w, exact where the covariance is singular; of the state last factored.

        Parameters
        ----------
        st : State
        w1 : ndarray, shape (q1, k1, m), or None
            Part of the leading term; None: zero.
        w2 : ndarray, shape (q2, m)

        Returns
        -------
        lead : ndarray, shape (q1, k1, m), or None
        rest : ndarray, shape (q2, m)
        """
        eq, lay, m = self.eq, self.eq.layout, w2.shape[1]
        raw2 = eq.A22 @ w2 if lay.q2 else w2
        projected, right = None, raw2
        if lay.has_lead:
            raw1 = np.zeros((lay.q1, lay.k1, m)) if w1 is None else self.level_apply(eq.A1, w1)
            raw1 = self.minus_cells(-w2, raw1)
            projected = self.level_apply(self.F, raw1)
            if w1 is not None:
                raw2 = self.minus_cells_transposed(-w1, raw2)
            right = self.minus_cells_transposed(self.level_apply(self.W, raw1), raw2.copy())
        return self.back(st, projected, raw2, self.prior_solve(st, right))

    def prior_solve(self, st: State, B: np.ndarray) -> np.ndarray:
        """lam2 S^-1 lam2' B, (q2, m) -> (q2, m), of the state last factored."""
        inner = self.solve(apply_lam(self.eq, st.lam2, B, True))
        return apply_lam(self.eq, st.lam2, inner, False)

    def back(
        self, st: State, projected: np.ndarray | None, raw2: np.ndarray, d2: np.ndarray
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Z'V^-1 f of lead and rest from F Z_1'f, Z_2'f and the rest's conditional modes d2."""
        eq, lay = self.eq, self.eq.layout
        out2 = raw2 - eq.A22 @ d2 if lay.q2 else raw2
        if projected is None:
            return None, out2
        if lay.q2:
            projected = projected + self.level_apply(self.F, self.minus_cells(d2, np.zeros_like(projected)))
            out2 = self.minus_cells_transposed(np.ascontiguousarray(np.matmul(st.D1, projected)), out2)
        return projected, out2
