"""Block preconditioned conjugate gradients on the Schur complement of the rest, which is never formed.

The leading term is eliminated exactly, level by level; what is left,

    S = lam2'(Z_2'V_1^-1 Z_2) lam2 + I,      V_1 = W^-1 + Z_1 D_1 Z_1',

is applied through the cells at a cost proportional to the data. In the scale of lam2 its smallest eigenvalue
is at least one and a zero variance is an identity block. The preconditioner (Saad 2003, Iterative Methods for
Sparse Linear Systems, 9.2 and 14) is the block diagonal of S plus an additive coarse correction in the space
of the vectors that are constant over all levels of an effect: those are the directions in which crossed
factors are confounded with each other and with an intercept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import scipy.sparse as sp

from ..equations.equations import Equations
from ..kernels import iterative as ki
from ..kernels import schur as ks
from ..runtime.parallel import cut, run

__all__ = ["BlockSolution", "SchurSystem"]

_SINGLE = 2e-5  # tolerance of a solve from which its products are formed from single-precision rows
_ROUNDING = 2e-7  # what that leaves of a residual, times the largest squared entry of a scaled cell
_TIGHTEST_SINGLE = 1e-7  # tolerance of a column that may still be gathered in single precision beside others
_MODERATE = 1e12  # the largest number, and the inverse of the smallest, in their making
_PER_CELL = 8.0  # operations that a cell costs however few the right-hand sides
_LINE = 64  # bytes of a cache line


@dataclass(eq=False)
class BlockSolution:
    """What a block solve gives.

    Attributes
    ----------
    X, R : ndarrays, shape (q2, m)
        Solutions and residuals.
    iterations : int
    residual : ndarray, shape (m,)
        Norms of the residuals in the metric of the preconditioner, relative to the reference.
    converged : bool
    alphas, betas : list of ndarray, shapes (m,)
        Coefficients of the recurrence, from which the Lanczos matrices follow.
    """

    X: np.ndarray
    R: np.ndarray
    iterations: int
    residual: np.ndarray
    converged: bool
    alphas: list[np.ndarray] = field(default_factory=list)
    betas: list[np.ndarray] = field(default_factory=list)


class SchurSystem:
    """S of one set of equations at one theta: products, preconditioner, block solves.

    Parameters
    ----------
    eq : Equations
    """

    def __init__(self, eq: Equations) -> None:
        self.eq = eq
        lay = eq.layout
        self.q1, self.k1, self.q2 = lay.q1, lay.k1, lay.q2
        self.k2 = max((b.k for b in lay.rest), default=1)
        none = np.zeros((0, 1))
        self.val = none if eq.unit else eq.val
        self.tval = none if eq.unit else np.ascontiguousarray(eq.val[eq.tpos])
        self.aptr, self.aidx, self.aval = _symmetric(eq)
        # component of every column: which effect of which block of the rest
        start = np.cumsum([0] + [b.k for b in lay.rest])
        parts = [
            np.tile(np.arange(b.k, dtype=np.int32) + np.int32(start[r]), b.q) for r, b in enumerate(lay.rest)
        ]
        self.component = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        self.n_components = int(start[-1])
        counts = np.bincount(self.component, minlength=self.n_components)
        # unit vectors that are constant over the columns of a component
        self.constants = np.zeros((self.q2, self.n_components))
        self.constants[np.arange(self.q2), self.component] = 1.0 / np.sqrt(counts[self.component])
        self._ranges: dict[tuple[str, int], list[tuple[int, int]]] = {}
        self._scratch: dict[str, np.ndarray] = {}
        self._data_moderate = _is_moderate(self.val) and _is_moderate(self.aval)
        self._largest_cell = 1.0 if eq.unit or not eq.val.size else float(max(eq.val.max(), -eq.val.min()))
        self.reach = 0.0  # the largest squared entry of a scaled cell
        self.moderate = False  # whether lam2, W and the cells are far from the limits of single precision
        self.products = 0.0  # products with S, one per right-hand side

    # -- ranges -------------------------------------------------------------------------------------------

    def cut(self, what: str, m: int) -> list[tuple[int, int]]:
        """Pieces for m right-hand sides; they depend on the data alone."""
        key = (what, m)
        if key not in self._ranges:
            eq, lay = self.eq, self.eq.layout
            if what == "lead":
                self._ranges[key] = cut(np.diff(eq.ptr) * (m * self.k1 + _PER_CELL) + m, lay.q1)
            elif what == "columns":
                self._ranges[key] = cut(np.diff(eq.tptr) * (m * self.k1 + _PER_CELL) + m, lay.q2)
            elif what == "products":
                per = m * self.k1 + _PER_CELL
                cells = np.diff(eq.tptr) * per + np.diff(self.aptr) * (m + _PER_CELL) + 4.0 * m
                self._ranges[key] = cut(np.add.reduceat(cells, lay.lstart[:-1]), lay.lstart.size - 1)
            elif what == "rows":
                self._ranges[key] = cut(np.diff(self.aptr) * float(m), lay.q2)
            elif what == "vector":
                self._ranges[key] = cut(None, lay.q2, float(lay.q2 * m))
            else:
                self._ranges[key] = cut(None, lay.lstart.size - 1, float(4 * lay.q2 * m))
        return self._ranges[key]

    # -- products with the cells --------------------------------------------------------------------------

    def lead(self, D: np.ndarray) -> np.ndarray:
        """B D: (q2, m) -> (q1, k1, m)."""
        eq, m = self.eq, D.shape[1]
        out, none = np.empty((self.q1, self.k1, m)), np.empty((0, self.k1, self.k1))
        if self.q1:
            run(
                lambda _, a, b: ki.lead_product(a, b, eq.ptr, eq.idx, self.val, D, none, out, m),
                self.cut("lead", m),
            )
        return out

    def weighted_lead(self, W: np.ndarray, M: np.ndarray, tol: float = 0.0) -> np.ndarray:
        """W[l] B_l lam2 M: (q1, k1, k1), (q2, m) -> (q1, k1, m); `tol` as in `product`."""
        eq, m = self.eq, M.shape[1]
        out = np.empty((self.q1, self.k1, m))
        D = self._scaled(M, self._is_single(tol))
        run(
            lambda _, a, b: ki.lead_product(a, b, eq.ptr, eq.idx, self.val, D, W, out, m),
            self.cut("lead", m),
        )
        return out

    def minus_rest(self, T: np.ndarray, out: np.ndarray) -> np.ndarray:
        """out -= B'T in place: (q1, k1, m) into (q2, m)."""
        eq, m = self.eq, T.shape[2]
        if eq.idx.size:
            run(
                lambda _, a, b: ki.rest_pass(a, b, eq.tptr, eq.tlev, self.tval, T, out),
                self.cut("columns", m),
            )
        return out

    def gram(self, D: np.ndarray) -> np.ndarray:
        """A22 D: (q2, m) -> (q2, m)."""
        out = np.empty_like(D)
        run(
            lambda _, a, b: ki.sparse_pass(a, b, self.aptr, self.aidx, self.aval, D, out),
            self.cut("rows", D.shape[1]),
        )
        return out

    def weigh(self, W: np.ndarray, T: np.ndarray) -> np.ndarray:
        """W[l] T[l] in place: (q1, k1, k1), (q1, k1, m)."""
        if self.q1:
            run(lambda _, a, b: ki.weigh(a, b, W, T), cut(None, self.q1, float(T.size * self.k1)))
        return T

    def scale(self, M: np.ndarray, transpose: bool) -> np.ndarray:
        """lam2 M or lam2'M: (q2, m) -> (q2, m)."""
        lay = self.eq.layout
        out = np.empty_like(M)
        run(
            lambda _, a, b: ki.apply_blocks(a, b, lay.lstart, lay.lblock, self.lam2, M, out, transpose),
            self.cut("levels", M.shape[1]),
        )
        return out

    # -- one theta ----------------------------------------------------------------------------------------

    def set_theta(self, lam1: np.ndarray, lam2: list[np.ndarray]) -> None:
        """Eliminate the leading term and build the preconditioner.

        Parameters
        ----------
        lam1 : ndarray, shape (k1, k1)
            Lower-triangular factor of the leading block.
        lam2 : list of ndarray, shapes (k_r, k_r)
            Any square factors of the rest blocks.

        Raises
        ------
        numpy.linalg.LinAlgError
            The equations overflow at this theta.
        """
        eq, lay = self.eq, self.eq.layout
        lam1 = np.ascontiguousarray(lam1)
        self.lam1, self.D1 = lam1, np.ascontiguousarray(lam1 @ lam1.T)
        self.W = np.empty((self.q1, self.k1, self.k1))
        self.F, self.half = np.empty_like(self.W), np.empty_like(self.W)
        self.half = np.empty_like(self.W)
        self.logdet1 = 0.0
        if lay.has_lead:
            parts = run(
                lambda _, a, b: ks.level_factors(a, b, eq.A1, lam1, self.D1, self.W, self.F, self.half),
                cut(None, self.q1, float(self.q1 * self.k1**3 * 8)),
            )
            self.logdet1 = float(sum(parts))
        self.lam2 = np.zeros((max(1, len(lam2)), self.k2, self.k2))
        for r, lam in enumerate(lam2):
            self.lam2[r, : lam.shape[0], : lam.shape[0]] = lam
        largest = max((float(np.max(np.abs(lam))) for lam in lam2), default=0.0)
        self.reach = (largest * self._largest_cell) ** 2
        self.moderate = self._data_moderate and all(map(_is_moderate, (*lam2, self.D1, self.W)))
        n_levels = lay.lstart.size - 1
        P = self.prior_blocks()
        run(
            lambda _, a, b: ki.diagonal_blocks(
                a, b, lay.lstart, lay.lblock, self.lam2, self.aptr, self.aidx, self.aval,
                eq.tptr, eq.tlev, self.tval, self.W, P,
            ),
            cut(None, n_levels, float(4 * eq.idx.size * self.k1**2 * self.k2)),
        )  # fmt: skip
        P = 0.5 * (P + P.transpose(0, 2, 1))
        if not (np.isfinite(self.logdet1) and np.all(np.isfinite(P))):
            raise np.linalg.LinAlgError("the mixed-model equations overflow at this theta.")
        self.P = P
        self.root = np.sqrt(P) if self.k2 == 1 else np.linalg.cholesky(P)
        self.Pi = 1.0 / P if self.k2 == 1 else np.linalg.inv(P)
        self._coarse()
        self._smooth_vectors()

    def prior_blocks(self) -> np.ndarray:
        """What every level's block of S has beside lam2'(.) lam2, shape (n_levels, k2, k2)."""
        P = np.zeros((self.eq.layout.lstart.size - 1, self.k2, self.k2))
        P[:] = np.eye(self.k2)
        return P

    def _smooth_vectors(self) -> None:
        """Orthonormal columns, two per component: constant, and proportional to the levels' reliabilities.

        A constant is nearly in the null space of S - I where factors are confounded; P^-1 O maps it to the
        reliabilities I - P^-1 (S = P + O).  Where these are constant themselves the second column is zero.
        """
        lay, c = self.eq.layout, self.n_components
        self.Q = np.zeros((self.q2, 2 * c))
        self.Q[:, :c] = self.constants
        start = first = 0
        for r, block in enumerate(lay.rest):
            Pi = self.Pi[first : first + block.q]
            rows = slice(int(lay.offsets[r]), int(lay.offsets[r + 1]))
            for a in range(block.k):
                rho = 1.0 - Pi[:, a, a]
                rest = rho - rho.mean()
                size = float(np.linalg.norm(rest))
                if size > 1e-3 * float(np.linalg.norm(rho)):
                    self.Q[rows, c + start + a][a :: block.k] = rest / size
            start += block.k
            first += block.q

    def _coarse(self) -> None:
        c = self.n_components
        self.Ei = np.zeros((c, c))
        if self.q2 == 0:
            return
        C = (self.constants > 0).astype(np.float64)
        E = C.T @ self.product(C)[0]
        self.Ei = np.linalg.inv(0.5 * (E + E.T))

    def product(
        self, V: np.ndarray, tol: float = 0.0, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """S V, into `out` if given, and the sums of V * S V over the rows: (q2, m) -> (q2, m), (m,).

        From a tolerance of `_SINGLE` on, rows are gathered in single precision; sums are not.
        """
        eq, lay, m = self.eq, self.eq.layout, V.shape[1]
        self.products += m
        if self.q2 == 0:
            return np.empty_like(V), np.zeros(m)
        single = self._is_single(tol)
        D = self._scaled(V, single)
        T = self._aligned("T", self.q1 * self.k1, m, single)
        T = T.reshape(self.q1, self.k1, T.shape[1])
        if self.q1:
            run(
                lambda _, a, b: ki.lead_product(a, b, eq.ptr, eq.idx, self.val, D, self.W, T, m),
                self.cut("lead", m),
            )
        out = np.empty_like(V) if out is None else out
        ranges = self.cut("products", m)
        dots = np.zeros((len(ranges), m))
        run(
            lambda i, a, b: ki.rest_product(
                a, b, lay.lstart, lay.lblock, self.lam2, self.aptr, self.aidx, self.aval,
                eq.tptr, eq.tlev, self.tval, D, T, V, out, dots[i],
            ),
            ranges,
        )  # fmt: skip
        return out, dots.sum(axis=0)

    def _is_single(self, tol: float) -> bool:
        """Whether single precision is enough: (S - I)V is rounded, which variances far above the residual's
        make large beside V."""
        return tol >= _SINGLE and self.moderate and _ROUNDING * self.reach <= 0.05 * tol

    def _scaled(self, V: np.ndarray, single: bool) -> np.ndarray:
        """lam2 V in rows for gathering, shape (q2, >= m)."""
        lay, m = self.eq.layout, V.shape[1]
        D = self._aligned("D", self.q2, m, single)
        run(
            lambda _, a, b: ki.apply_blocks(a, b, lay.lstart, lay.lblock, self.lam2, V, D, False),
            self.cut("levels", m),
        )
        return D

    def _vectors(self, name: str, m: int) -> np.ndarray:
        """Scratch space for m vectors, shape (q2, m), kept from solve to solve."""
        need = self.q2 * m
        if name not in self._scratch or self._scratch[name].size < need:
            self._scratch[name] = np.empty(need)
        return self._scratch[name][:need].reshape(self.q2, m)

    def _aligned(self, name: str, rows: int, m: int, single: bool) -> np.ndarray:
        """Scratch space, shape (rows, >= m), whose rows straddle as few cache lines as can be."""
        dtype = np.dtype(np.float32 if single else np.float64)
        size = m * dtype.itemsize
        stride = -(-size // _LINE) * _LINE if size > _LINE else 1 << max(3, (size - 1).bit_length())
        need = rows * stride + _LINE
        if name not in self._scratch or self._scratch[name].size < need:
            self._scratch[name] = np.empty(need, np.uint8)
        raw = self._scratch[name]
        start = -raw.ctypes.data % _LINE
        return raw[start : start + rows * stride].view(dtype).reshape(rows, stride // dtype.itemsize)

    def precondition(self, R: np.ndarray) -> np.ndarray:
        """P^-1 R with the block diagonal alone: (q2, m) -> (q2, m)."""
        out = np.empty_like(R)
        lay = self.eq.layout
        run(
            lambda _, a, b: ki.block_solve(a, b, lay.lstart, self.Pi, R, out),
            self.cut("levels", R.shape[1]),
        )
        return out

    def expand(self, z: np.ndarray) -> np.ndarray:
        """Probes component by component: (q2, n) -> (q2, n * n_components), zero outside the component."""
        c = self.n_components
        out = np.zeros((self.q2, z.shape[1], c))
        out[np.arange(self.q2), :, self.component] = z
        return out.reshape(self.q2, z.shape[1] * c)

    def block_trace(self) -> np.ndarray:
        """sum_l F_l B_l lam2 P^-1 lam2'B_l'F_l' over the leading term's levels, shape (k1, k1)."""
        eq, lay = self.eq, self.eq.layout
        n_levels = lay.lstart.size - 1
        ranges = cut(None, n_levels, float(4 * eq.idx.size * self.k1**2 * self.k2))
        parts = np.zeros((len(ranges), self.k1, self.k1))
        run(
            lambda i, a, b: ki.block_trace(
                a, b, lay.lstart, lay.lblock, self.lam2, self.Pi, eq.tptr, eq.tlev, self.tval, self.F,
                parts[i],
            ),
            ranges,
        )  # fmt: skip
        return parts.sum(axis=0)

    # -- solves -------------------------------------------------------------------------------------------

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
        """Solve S X = rhs for all columns at once.

        Parameters
        ----------
        rhs : ndarray, shape (q2, m), C order
        tol : float or ndarray, shape (m,)
            A column is done when its residual, in the metric of the preconditioner, falls below tol times
            the reference.
        X0 : ndarray, shape (q2, m), optional
            Start; zero by default.
        reference : ndarray, shape (m,), optional
            By default the norms of the right-hand sides in the metric of the preconditioner.
        max_iterations : int
        coarse : bool
            Whether the coarse correction is part of the preconditioner.
        keep : bool
            Keep the coefficients of the recurrence.

        Returns
        -------
        BlockSolution
        """
        m = rhs.shape[1]
        X = np.zeros_like(rhs) if X0 is None else X0.copy()
        R = rhs.copy()
        if m == 0 or self.q2 == 0:
            return BlockSolution(X, R, 0, np.zeros(m), True)
        unit = np.abs(rhs).max(axis=0)
        if np.any((unit > 0.0) & ((unit < 1.0 / _MODERATE) | (unit > _MODERATE))):
            # a response in unusual units would leave the range of single precision
            unit = np.where(unit > 0.0, unit, 1.0)
            sol = self.solve(
                rhs / unit,
                tol,
                X0=None if X0 is None else X0 / unit,
                reference=None if reference is None else reference / unit,
                max_iterations=max_iterations,
                coarse=coarse,
                keep=keep,
            )
            sol.X *= unit
            sol.R *= unit
            return sol
        tol = np.broadcast_to(np.asarray(tol, dtype=np.float64), (m,))
        # fresh memory of this size would have to be cleared by the system again and again
        V, AV, Z = (self._vectors(name, m) for name in ("V", "AV", "Z"))
        V[:] = 0.0
        AV[:] = 0.0
        if reference is None or X0 is None:
            rz, sums = self._advance(np.zeros(m), V, AV, X, R, Z)
            if reference is None:
                # without the coarse part, so that every solve measures alike
                reference = np.sqrt(rz)
        if X0 is not None:
            R -= self.product(X, _gather_tolerance(tol))[0]
            rz, sums = self._advance(np.zeros(m), V, AV, X, R, Z)
        goal = tol * reference
        out = BlockSolution(X, R, 0, np.zeros(m), False)
        residual = np.zeros(m)
        # columns still worked on; those that are done are put aside once they are the most
        active = np.arange(m)
        beta, previous = np.zeros(m), np.zeros(m)
        correction = np.zeros((max(1, self.n_components), m))
        while True:
            total = rz
            if coarse:
                correction = self.Ei @ sums
                total = rz + np.sum(sums * correction, axis=0)
            if out.iterations:
                beta = np.where(previous > 0.0, total / np.where(previous > 0.0, previous, 1.0), 0.0)
                if keep:
                    out.betas.append(beta)
            size = np.sqrt(total)
            residual[active] = size
            open_ = ~(size <= goal[active])
            if not open_.any() or not np.all(np.isfinite(size)):
                out.converged = bool(np.all(residual <= goal))
                break
            if out.iterations >= max_iterations:
                break
            if not keep and 2 * np.count_nonzero(open_) <= active.size:
                if X is not out.X:
                    out.X[:, active], out.R[:, active] = X, R
                X, R, V, Z = (np.ascontiguousarray(A[:, open_]) for A in (X, R, V, Z))
                AV = np.empty_like(V)
                active, beta, total, correction = (
                    active[open_],
                    beta[open_],
                    total[open_],
                    correction[:, open_],
                )
            step, shift = beta, correction
            turn = partial(self._redirect, step, shift, Z, V)
            run(turn, self.cut("vector", active.size))
            _, curvature = self.product(V, _gather_tolerance(tol[active]), AV)
            good = (curvature > 0.0) & (total > 0.0)
            alpha = np.where(good, total / np.where(good, curvature, 1.0), 0.0)
            if keep:
                out.alphas.append(alpha)
            previous = total
            rz, sums = self._advance(alpha, V, AV, X, R, Z)
            out.iterations += 1
        if X is not out.X:
            out.X[:, active], out.R[:, active] = X, R
        out.residual = np.where(reference > 0.0, residual / np.where(reference > 0.0, reference, 1.0), 0.0)
        return out

    def _redirect(
        self, beta: np.ndarray, coarse: np.ndarray, Z: np.ndarray, V: np.ndarray, _: int, a: int, b: int
    ) -> None:
        ki.redirect(a, b, self.component, beta, coarse, Z, V)

    def _advance(
        self, alpha: np.ndarray, V: np.ndarray, AV: np.ndarray, X: np.ndarray, R: np.ndarray, Z: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        lay, m = self.eq.layout, X.shape[1]
        ranges = self.cut("levels", m)
        rz = np.zeros((len(ranges), m))
        sums = np.zeros((len(ranges), self.n_components, m))
        run(
            lambda i, a, b: ki.advance(
                a, b, lay.lstart, self.Pi, self.component, alpha, V, AV, X, R, Z, rz[i], sums[i]
            ),
            ranges,
        )
        return rz.sum(axis=0), sums.sum(axis=0)


def _symmetric(eq: Equations) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Z_2'WZ_2 by rows, both triangles: pointers int64, columns int32, values."""
    q2 = eq.layout.q2
    if eq.gidx.size == q2:  # one scalar factor: a diagonal
        return eq.gptr, eq.gidx, eq.gval
    A = sp.csc_array((eq.gval, eq.gidx, eq.gptr), shape=(q2, q2))
    lower = sp.tril(A, format="csc")
    full = sp.csr_array(lower + sp.tril(A, -1, format="csc").T)
    full.sort_indices()
    return full.indptr.astype(np.int64), full.indices.astype(np.int32), full.data


def _gather_tolerance(tol: np.ndarray) -> float:
    """What decides on the precision of the gathers for columns of these tolerances.

    The loosest, so that a tight column among probes does not make the pass dear: in a sum over many cells,
    each rounded independently, its own error stays far below `_ROUNDING`. Once the probes are put aside it is
    alone, in double precision.
    """
    return float(tol.max()) if tol.min() >= _TIGHTEST_SINGLE else 0.0


def _is_moderate(values: np.ndarray) -> bool:
    """Whether the largest entry is neither huge nor tiny; zeros alone are fine."""
    largest = float(max(np.max(values, initial=0.0), -np.min(values, initial=0.0)))
    return largest == 0.0 or 1.0 / _MODERATE < largest < _MODERATE
