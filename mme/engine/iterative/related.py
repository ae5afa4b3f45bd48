"""The iterative objective of terms whose levels have a known covariance A = T T'.

Derivatives, traces and information are those of the independent levels v of u = T v, all as for other terms
(S_v = lam2'T'C T lam2 + I); the conjugate gradients run in the levels themselves, where the matrix is sparse
and its diagonal is near,

    S_u = lam2'C lam2 + A^-1 (x) I,    S_v^-1 = T^-1 S_u^-1 T^-T,

so that a solve costs products with A^-1 and, once, with T^-1 and its transpose. Traces are plain samples
z'(I - S_v^-1) z: the block diagonal of S_v, which others are corrected by, is not known.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ...exceptions import InferenceError
from ..equations.equations import Equations
from ..equations.related import related_rows, unrelated_rows
from ..equations.relation import DenseRoot, Relation
from ..kernels import iterative as ki
from ..kernels.pedigree import find_entries
from ..runtime.parallel import cut, run
from ..runtime.scipys import scipy_module
from .objective import IterativeObjective
from .pcg import BlockSolution, SchurSystem
from .probes import Deflation, ProbeSolves, batches
from .state import IterativeSolution, SolveReport

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["RelatedObjective", "RelatedSystem"]

_ROUNDING = 2e-7  # of single precision, as in `pcg`


class _Pass:
    """Products with a sparse matrix, on the threads of the kernels."""

    def __init__(self, A: sp.csr_array) -> None:
        self.ptr, self.idx = A.indptr.astype(np.int64), A.indices.astype(np.int32)
        self.val, self.shape = A.data, A.shape

    def times(self, D: np.ndarray) -> np.ndarray:
        """A D."""
        D = np.ascontiguousarray(D)
        out = np.empty((self.shape[0], D.shape[1]))
        ranges = cut(np.diff(self.ptr) * float(D.shape[1] + 8), self.shape[0])
        run(lambda _, a, b: ki.sparse_pass(a, b, self.ptr, self.idx, self.val, D, out), ranges)
        return out


def _inverse_root(relation: Relation) -> tuple[_Pass, _Pass]:
    """T^-1 and its transpose."""
    sparse = scipy_module("sparse")
    root = relation.root
    if isinstance(root, DenseRoot):
        inverse = sparse.csr_array(np.linalg.inv(root.T))
    else:
        L = sparse.csc_array((root.val, root.idx, root.ptr), shape=(relation.q, relation.q))
        entries = sparse.coo_array(L)
        # T^-1 = P'L'P
        inverse = sparse.csr_array(
            sparse.coo_array(
                (entries.data, (root.order[entries.col], root.order[entries.row])), shape=entries.shape
            )
        )
    return _Pass(inverse), _Pass(sparse.csr_array(inverse.T))


def _with_zeros(eq: Equations) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Z_2'WZ_2 by rows, both triangles, with the zeros where inverses have entries."""
    sparse, q2 = scipy_module("sparse"), eq.layout.q2
    row, column = eq.gidx.astype(np.int64), np.repeat(np.arange(q2), np.diff(eq.gptr))
    lower, below = row >= column, row > column
    rows, columns = np.concatenate([row[lower], column[below]]), np.concatenate([column[lower], row[below]])
    data = np.concatenate([eq.gval[lower], eq.gval[below]])
    A = sparse.csr_array(sparse.coo_array((data, (rows, columns)), shape=(q2, q2)))
    A.sort_indices()
    return A.indptr.astype(np.int64), A.indices.astype(np.int32), A.data


class _Levels(SchurSystem):
    """S_u: the levels themselves, A^-1 (x) I in place of the identity.

    lam2'(C + lam2^-T (A^-1 - I) (x) I lam2^-1) lam2 + I: where the pattern of C holds that of A^-1 a product
    costs no more than without.  Full inverses have a product of their own.
    """

    def __init__(self, eq: Equations) -> None:
        super().__init__(eq)
        sparse, lay = scipy_module("sparse"), eq.layout
        if any(b.relation is not None and not b.relation.full for b in lay.rest):
            self.aptr, self.aidx, self.aval = _with_zeros(eq)
        self.data = self.aval  # of C alone
        # block, values of A^-1 - I, and where they stand
        self.known: list[tuple[int, np.ndarray, np.ndarray]] = []
        pieces: list[Any] = []
        for r, block in enumerate(lay.rest):
            k, start = block.k, int(lay.offsets[r])
            pieces.append(sparse.csr_array((block.q * k, block.q * k)))
            if block.relation is None:
                continue
            less = sparse.csr_array(block.relation.precision - sparse.eye_array(block.q))
            if block.relation.full:
                pieces[-1] = sparse.kron(less, sparse.eye_array(k), format="csr")
                continue
            entries, grid = sparse.coo_array(less), np.arange(k)
            rows = (start + entries.row.astype(np.int64) * k)[:, None, None] + grid[:, None]
            columns = (start + entries.col.astype(np.int64) * k)[:, None, None] + grid
            shape = (entries.data.size, k, k)
            rows, columns = (np.broadcast_to(x, shape).flatten() for x in (rows, columns))
            at = np.empty(rows.size, np.int64)
            # symmetric: by rows is by columns
            find_entries(self.aptr, self.aidx, rows, columns, at)
            assert at.min(initial=0) >= 0
            self.known.append((r, entries.data, at.reshape(shape)))
        full = any(b.relation is not None and b.relation.full for b in lay.rest)
        self.more = _Pass(sparse.csr_array(sparse.block_diag(pieces, format="csr"))) if full else None

    def set_theta(self, lam1: np.ndarray, lam2: list[np.ndarray]) -> None:
        self.aval = self.data.copy()
        for r, values, at in self.known:
            inverse = np.linalg.inv(lam2[r])
            self.aval[at] += values[:, None, None] * (inverse.T @ inverse)
        super().set_theta(lam1, lam2)

    def gram(self, D: np.ndarray) -> np.ndarray:
        out = np.empty_like(D)
        run(
            lambda _, a, b: ki.sparse_pass(a, b, self.aptr, self.aidx, self.data, D, out),
            self.cut("rows", D.shape[1]),
        )
        return out

    def prior_blocks(self) -> np.ndarray:
        P, first = super().prior_blocks(), 0
        for block in self.eq.layout.rest:
            if block.relation is not None and block.relation.full:
                diagonal = block.relation.val[block.relation.ptr[:-1]]
                P[first : first + block.q, : block.k, : block.k] *= diagonal[:, None, None]
            first += block.q
        return P

    def product(
        self, V: np.ndarray, tol: float = 0.0, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        out, dots = super().product(V, tol, out)
        if self.more is None:
            return out, dots
        more = self.more.times(V)
        out += more
        return out, dots + np.einsum("ij,ij->j", V, more)

    def _is_single(self, tol: float) -> bool:
        largest = max((float(np.abs(values).max(initial=0.0)) for _, values, _ in self.known), default=0.0)
        return super()._is_single(tol) and _ROUNDING * largest <= 0.05 * tol


class RelatedSystem(SchurSystem):
    """S_v, by way of S_u: what `IterativeObjective` asks of a system.

    Parameters
    ----------
    eq : Equations
        Of independent levels; no term leads.
    """

    def __init__(self, eq: Equations) -> None:
        super().__init__(eq)
        if eq.layout.has_lead:
            names = "a term with more effects than related levels beside them"
            raise InferenceError(f"the iterative solver does not take {names}: use solver='direct'.")
        self.levels = _Levels(eq)
        self._roots = [None if b.relation is None else _inverse_root(b.relation) for b in eq.layout.rest]

    def set_theta(self, lam1: np.ndarray, lam2: list[np.ndarray]) -> None:
        self.levels.set_theta(lam1, lam2)
        for name in ("lam1", "D1", "W", "F", "half", "logdet1", "lam2"):
            setattr(self, name, getattr(self.levels, name))
        # nothing is known of the block diagonal, and nothing taken out of the samples
        n_levels = self.eq.layout.lstart.size - 1
        self.Pi = np.broadcast_to(np.eye(self.k2), (n_levels, self.k2, self.k2))
        self.Q = np.zeros((self.q2, 0))

    def gram(self, D: np.ndarray) -> np.ndarray:
        lay = self.eq.layout
        return unrelated_rows(lay, self.levels.gram(np.ascontiguousarray(related_rows(lay, D))))

    def product(
        self, V: np.ndarray, tol: float = 0.0, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        SV = V + self.scale(self.gram(self.scale(np.ascontiguousarray(V), False)), True)
        if out is not None:
            out[:] = SV
            SV = out
        return SV, np.einsum("ij,ij->j", V, SV)

    def solve(
        self,
        rhs: np.ndarray,
        tol: np.ndarray | float,
        *,
        X0: np.ndarray | None = None,
        reference: np.ndarray | None = None,
        max_iterations: int = 1000,
        coarse: bool = True,
        keep: bool = False,
    ) -> BlockSolution:
        lay = self.eq.layout
        start = None if X0 is None else related_rows(lay, X0)
        sol = self.levels.solve(
            self._turned(rhs, 1),
            tol,
            X0=start,
            reference=reference,
            max_iterations=max_iterations,
            coarse=coarse,
            keep=keep,
        )
        sol.X = self._turned(sol.X, 0)
        sol.R = unrelated_rows(lay, sol.R)
        return sol

    def _turned(self, M: np.ndarray, transposed: int) -> np.ndarray:
        """T^-1 M, or T^-T M."""
        out = M.copy()
        for r, root in enumerate(self._roots):
            if root is not None:
                block, part = self.eq.layout.rest[r], self.eq.layout.rest_columns(r)
                turned = root[transposed].times(M[part].reshape(block.q, -1))
                out[part] = turned.reshape(out[part].shape)
        return out


class RelatedObjective(IterativeObjective):
    """As `IterativeObjective`, where levels have a known covariance.

    Parameters
    ----------
    equations : Equations
    reml : bool
    probes, seed : int
    """

    def __init__(self, equations: Equations, reml: bool = True, probes: int = 12, seed: int = 0) -> None:
        raw = equations
        if equations.independent:
            raw = replace(equations, A2x=self._raw(equations), independent=False)
        white = unrelated_rows(raw.layout, np.ascontiguousarray(raw.A2x))
        super().__init__(replace(raw, A2x=white, independent=True), reml, probes, seed)
        self._given = raw

    @staticmethod
    def _raw(equations: Equations) -> np.ndarray:
        """Z_2'W[X y] of the levels themselves."""
        out = equations.A2x.copy()
        for r, block in enumerate(equations.layout.rest):
            if block.relation is not None:
                part = equations.layout.rest_columns(r)
                turned = _inverse_root(block.relation)[1].times(out[part].reshape(block.q, -1))
                out[part] = turned.reshape(out[part].shape)
        return out

    @property
    def raw_equations(self) -> Equations:
        return self._given

    @property
    def quadrature_system(self) -> SchurSystem:
        system = self.system
        assert isinstance(system, RelatedSystem)
        return system.levels

    @property
    def known_logdet(self) -> float:
        return sum(b.k * b.relation.logdet for b in self.eq.layout.rest if b.relation is not None)

    @cached_property
    def system(self) -> SchurSystem:
        return RelatedSystem(self.eq)

    def solution(self, theta: np.ndarray, tol: float = 1e-8) -> IterativeSolution:
        out = super().solution(theta, tol)
        blocks = [self.eq.layout.blocks[place.block] for place in self.eq.layout.places]
        out["u"] = [
            u if b.relation is None else b.relation.related(u) for u, b in zip(out["u"], blocks, strict=True)
        ]
        return out

    def _all_solves(
        self, U: np.ndarray, z: np.ndarray, lam2: list[np.ndarray], tol: float
    ) -> tuple[np.ndarray, np.ndarray, SolveReport, ProbeSolves]:
        """Solve for [U, probes]; samples of tr(I - S_v^-1)."""
        sy, m, c = self.system, U.shape[1], self.system.n_components
        most = max(b.q * b.k for b in self.eq.layout.blocks)
        tols = self._tolerances(tol, most)
        report, rest = SolveReport(), []
        Y = R = np.zeros((self.eq.layout.q2, 0))
        for i, stop in batches(z.shape[1], max(1, c), m, self.eq.layout.q2):
            head = U if i == 0 else U[:, :0]
            tail = sy.expand(z[:, i:stop])
            each = np.full(head.shape[1] + tail.shape[1], min(0.01, tol))
            each[: head.shape[1]] = tols
            rhs = np.hstack([head, tail])
            start = np.hstack([self._warm(head, lam2), np.zeros_like(tail)])
            sol = sy.solve(rhs, each, X0=start, max_iterations=self.max_iterations)
            report.add(sol, at_once=True)
            if i == 0:
                Y, R = np.ascontiguousarray(sol.X[:, :m]), np.ascontiguousarray(sol.R[:, :m])
            X = sol.X[:, head.shape[1] :]
            # x'r makes the quadratic forms z'x exact but for the square of the residual r
            correction = np.sum(X * sol.R[:, head.shape[1] :], axis=0)
            lost = tail - X
            rest.append([self._rest_products(t, z[:, i:stop], lost, correction) for t in self._in_rest])
        samples = [np.concatenate(parts) for parts in zip(*rest, strict=True)]
        none = np.zeros((self.eq.layout.q2, 0))
        empty = Deflation(none, none)
        lead = np.zeros((z.shape[1], 1, 1))
        return Y, R, report, ProbeSolves(lead, list(samples), empty, empty)

    @staticmethod
    def _tolerances(tol: float, most: int) -> float:
        """Of the response's solution: as in `IterativeObjective`."""
        return max(tol / np.sqrt(2.0 * most), min(tol, 1e-10))
