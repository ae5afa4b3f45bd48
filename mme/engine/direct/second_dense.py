"""The sums of `mme.engine.direct.second` from a dense T = lam2 S^-1 lam2': for connected levels.

With M = Z_2'V_1^-1 Z_2, S = lam2'M lam2 + I, the rest's block of G = Z'V^-1 Z is M R with R = I - T M, and
the leading term's G_l. = phi_l R, so that everything is traces of products of T, R and
K_ab = sum_l phi_la' phi_lb.  Where no covariance of the rest is nearly singular, R = T D_2^-1 and
M R = D_2^-1 - D_2^-1 T D_2^-1 need no products of matrices; the only ones left are K_ab T.
"""

from __future__ import annotations

import numpy as np

from ..equations.equations import Equations
from ..factor.blas_calls import gemm
from ..kernels.pairs import gram_columns, level_forms
from ..runtime.parallel import cut, run
from .elimination import Elimination, apply_lam
from .plan import make_plan
from .state import State

__all__ = ["dense_block_products", "dense_bytes", "dense_work"]

_INVERTIBLE = 1e-6  # ratio to the mean cross-product from which a covariance is inverted: 1e-10 is left of G
_HELD = 5.0  # dense matrices of the rest's order at a time, beside one K_ab T each


def dense_work(eq: Equations) -> float:
    """Multiplications, roughly."""
    lay = eq.layout
    pairs = float(np.sum(np.diff(eq.ptr).astype(np.float64) ** 2))
    products = 1.0 + (float(lay.k1**2) if lay.has_lead else 0.0)
    return products * float(lay.q2) ** 3 + 8.0 * pairs * lay.k1**2


def dense_bytes(eq: Equations) -> float:
    """Memory, roughly."""
    lay = eq.layout
    return 8.0 * float(lay.q2) ** 2 * (_HELD + (lay.k1**2 if lay.has_lead else 0))


def dense_block_products(eq: Equations, el: Elimination, st: State) -> dict[tuple[int, int], np.ndarray]:
    """As `mme.engine.direct.second.block_products`."""
    lay = eq.layout
    first = int(lay.has_lead)
    if not el.plan.dense:
        el = Elimination(eq, make_plan(eq, "dense"))
        el.eliminate(st.lam1, st.D1)
        el.factorize(st.lam2)
    inverse = el.factor.selected_inverse()
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    T = apply_lam(eq, st.lam2, apply_lam(eq, st.lam2, inverse, False).T, False)
    T = np.asfortranarray(0.5 * (T + T.T))
    lead = _DenseLead(eq, el, T) if first else None
    related = any(block.relation is not None for block in lay.rest)
    rest = _Inverted(eq, st, T) if not related and _invertible(eq, st) else _Plain(eq, el, st, lead)
    out: dict[tuple[int, int], np.ndarray] = {}
    n_rest = len(lay.rest)
    for s in range(n_rest):
        for t in range(s + 1):
            G = rest.block(s, t)
            k_s, k_t = lay.rest[s].k, lay.rest[t].k
            flat = G.reshape(lay.rest[s].q, k_s, -1, k_t).transpose(1, 3, 0, 2).reshape(k_s * k_t, -1)
            gram = (flat @ flat.T).reshape(k_s, k_t, k_s, k_t).transpose(0, 2, 1, 3)
            out[s + first, t + first] = gram
            out[t + first, s + first] = gram.transpose(2, 3, 0, 1)
    if lead is not None:
        out[0, 0] = lead.own()
        k1 = lay.k1
        for r, block in enumerate(lay.rest):
            mixed = np.empty((k1, k1, block.k, block.k))
            for a in range(k1):
                for b in range(k1):
                    mixed[a, b] = rest.mixed(lead, a, b, r)
            out[0, r + 1] = mixed
            out[r + 1, 0] = mixed.transpose(2, 3, 0, 1)
    return out


def _invertible(eq: Equations, st: State) -> bool:
    first = int(eq.layout.has_lead)
    for r, lam in enumerate(st.lam2):
        d = np.linalg.eigvalsh(lam.T @ eq.scales[r + first] @ lam)
        if d[0] < _INVERTIBLE:
            return False
    return True


class _DenseLead:
    """phi, K_ab T and the leading block's own sum."""

    def __init__(self, eq: Equations, el: Elimination, T: np.ndarray) -> None:
        self.eq, self.F, self.T = eq, el.F, T
        q1, k1, q2 = eq.layout.q1, eq.layout.k1, eq.layout.q2
        level = np.repeat(np.arange(q1), np.diff(eq.ptr))
        self.phi = np.einsum("cab,cb->ca", el.F[level], eq.val)
        self.KT: dict[tuple[int, int], np.ndarray] = {}
        for a in range(k1):
            for b in range(k1):
                K, X = self.gram(self.phi[:, a], self.phi[:, b]), np.empty((q2, q2), order="F")
                _multiply(K, T, X)
                self.KT[a, b] = X

    def gram(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """sum_l left_l right_l', (q2, q2)."""
        eq = self.eq
        out = np.empty((eq.layout.q2, eq.layout.q2), order="F")
        left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
        lengths = np.diff(eq.ptr).astype(np.float64)[eq.tlev]
        work = np.diff(np.concatenate(([0.0], np.cumsum(lengths)))[eq.tptr])
        run(
            lambda _, a, b: gram_columns(a, b, eq.ptr, eq.idx, eq.tptr, eq.tlev, eq.tpos, left, right, out),
            cut(work + eq.layout.q2, eq.layout.q2),
        )
        return out

    def own(self) -> np.ndarray:
        """Indices a, b, c, d."""
        eq = self.eq
        q1, k1 = eq.layout.q1, eq.layout.k1
        H, C = np.matmul(self.F, eq.A1), np.empty((q1, k1, k1))
        T, phi = np.ascontiguousarray(self.T), np.ascontiguousarray(self.phi)
        run(
            lambda _, a, b: level_forms(a, b, eq.ptr, eq.idx, phi, T, C),
            cut(np.diff(eq.ptr).astype(np.float64) ** 2 * k1, q1),
        )
        out = np.einsum("lac,lbd->abcd", H, H)
        mixed = np.einsum("lac,lbd->abcd", H, C)
        out = out - mixed - mixed.transpose(1, 0, 3, 2)
        for c in range(k1):
            for d in range(k1):
                turned = np.asfortranarray(self.KT[c, d].T)
                for a in range(k1):
                    for b in range(k1):
                        # tr(K_ab'T K_cd T), K_ab' = K_ba
                        out[a, b, c, d] += np.vdot(self.KT[b, a].T, turned.T)
        return out


class _Inverted:
    """The rest's blocks where D_2 may be inverted."""

    def __init__(self, eq: Equations, st: State, T: np.ndarray) -> None:
        self.eq, self.T = eq, T
        self.inverse = [np.linalg.inv(lam @ lam.T) for lam in st.lam2]

    def block(self, s: int, t: int) -> np.ndarray:
        """G of two blocks of the rest."""
        lay = self.eq.layout
        q_s, k_s, q_t, k_t = lay.rest[s].q, lay.rest[s].k, lay.rest[t].q, lay.rest[t].k
        G = -self.T[self.eq.layout.rest_columns(s), self.eq.layout.rest_columns(t)]
        if k_s == 1 and k_t == 1:
            G = G * (self.inverse[s][0, 0] * self.inverse[t][0, 0])
        else:
            cube = G.reshape(q_s, k_s, q_t, k_t)
            cube = np.einsum("ab,lbmc,cd->lamd", self.inverse[s], cube, self.inverse[t], optimize=True)
            G = cube.reshape(q_s * k_s, q_t * k_t)
        if s == t:
            for a in range(k_s):
                for b in range(k_s):
                    G[np.arange(q_s) * k_s + a, np.arange(q_s) * k_s + b] += self.inverse[s][a, b]
        return G

    def mixed(self, lead: _DenseLead, a: int, b: int, r: int) -> np.ndarray:
        """sum over l, m of G_lm[a, c] G_lm[b, d], l of the leading term, m of block r, shape (k_r, k_r)."""
        part, k = self.eq.layout.rest_columns(r), self.eq.layout.rest[r].k
        return self.inverse[r] @ _diagonal(self.T[:, part], lead.KT[a, b][:, part], k) @ self.inverse[r]


class _Plain:
    """The rest's blocks by products with M, whatever D_2."""

    def __init__(self, eq: Equations, el: Elimination, st: State, lead: _DenseLead | None) -> None:
        self.eq, self.lead = eq, lead
        q2 = eq.layout.q2
        M = np.asfortranarray(eq.A22.toarray())
        if lead is not None:
            level = np.repeat(np.arange(eq.layout.q1), np.diff(eq.ptr))
            WB = np.einsum("cab,cb->ca", el.W[level], eq.val)
            for a in range(eq.layout.k1):
                M -= lead.gram(WB[:, a], eq.val[:, a])
        M = np.asfortranarray(0.5 * (M + M.T))
        # solves, not products with the inverse: their residuals are small where S is badly conditioned
        R = -el.prior_solve(st, M)
        R[np.diag_indices(q2)] += 1.0
        self.M, self.R, self.G = M, np.asfortranarray(R), np.empty((q2, q2), order="F")
        _multiply(M, self.R, self.G)
        for r, block in enumerate(eq.layout.rest):
            if block.relation is not None:
                part = eq.layout.rest_columns(r)
                self.G[:, part] = self._unrelated(r, self.G[:, part])
                self.G[part] = self._unrelated(r, self.G[part].T).T

    def _unrelated(self, r: int, X: np.ndarray) -> np.ndarray:
        """X T, the columns of block r those of independent levels."""
        block = self.eq.layout.rest[r]
        if block.relation is None:
            return X
        return block.relation.unrelated(X.T.reshape(block.q, block.k * len(X))).reshape(X.T.shape).T

    def block(self, s: int, t: int) -> np.ndarray:
        """G of two blocks of the rest."""
        return self.G[self.eq.layout.rest_columns(s), self.eq.layout.rest_columns(t)]

    def mixed(self, lead: _DenseLead, a: int, b: int, r: int) -> np.ndarray:
        """As `_Inverted.mixed`: diagonal blocks of R'K_ab R, K_ab R = K_ab - K_ab T M."""
        part = self.eq.layout.rest_columns(r)
        KR = lead.gram(lead.phi[:, a], lead.phi[:, b])[:, part] - lead.KT[a, b] @ self.M[:, part]
        left = self._unrelated(r, self.R[:, part])
        return _diagonal(left, self._unrelated(r, KR), self.eq.layout.rest[r].k)


def _diagonal(A: np.ndarray, B: np.ndarray, k: int) -> np.ndarray:
    """Sum over levels of the k x k diagonal blocks of A'B."""
    out = np.empty((k, k))
    for c in range(k):
        for d in range(k):
            out[c, d] = np.vdot(A[:, c::k].T, B[:, d::k].T)
    return out


def _multiply(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> None:
    """C <- A B on the threads of the kernels; Fortran order."""
    n = B.shape[1]
    run(lambda _, a, b: gemm(1.0, A, B[:, a:b], 0.0, C[:, a:b]), cut(None, n, 2.0 * A.size * n / 16.0))
