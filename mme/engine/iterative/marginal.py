"""Products with V^-1 and second derivatives' traces at one theta, without a factorization.

What `mme.engine.direct.marginal` has from a factor comes from conjugate gradients here, in the equations'
basis throughout. Only the sums over all pairs of levels of two large factors are stochastic: with the same
Rademacher vector z put on every effect of a factor,

    sum_lm G_lm[a, c] G_lm[b, d] = E sum_l (G z_c)_l[a] (G z_d)_l[b],      G = Z'V^-1 Z

(Hutchinson 1990). z_l^2 = 1, so that what a level has with itself is exact; of a factor with few levels every
column of G is solved for, and nothing is stochastic.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from ..covariance.derivatives import turned_gram
from ..equations.equations import Equations
from ..equations.prediction import PriorInverse, PriorRows
from ..equations.related import related_rows, unrelated_rows
from ..search.evaluation import Evaluation
from .information import flat
from .pcg import SchurSystem
from .probes import batch_size, probe_block
from .state import SolvedState
from .variances import LevelVariances, level_variances

__all__ = ["IterativePoint"]

Grams = dict[tuple[int, int], np.ndarray]

_TIGHT = 1e-8  # relative tolerance of the solves for X and y
_TOL = 1e-7  # of all others
_FEW = 64  # columns of a term up to which all are solved for
_SEED = 2_000_003  # apart from the probes of the search


class Solver(Protocol):
    """What solves: an `IterativeObjective`."""

    eq: Equations
    nu: int
    seed: int
    max_iterations: int

    def solved(self, theta: np.ndarray, tol: float) -> SolvedState:
        """The solutions for X and y."""

    def system_at(self, theta: np.ndarray) -> SchurSystem:
        """S at theta."""

    def evaluate(self, theta: np.ndarray, order: int = 1, tol: float = 1e-4) -> Evaluation:
        """The gradient."""


class IterativePoint:
    """The likelihood at one theta; see `IterativeObjective.at`.

    Parameters
    ----------
    objective : IterativeObjective
    theta : ndarray, shape (n_theta,)
        Of the design's columns.
    probes : int
        Of the traces.
    """

    def __init__(self, objective: Solver, theta: np.ndarray, probes: int) -> None:
        self._objective, self._theta = objective, np.asarray(theta, dtype=np.float64)
        self.probes = probes
        st = objective.solved(self._theta, _TIGHT)
        eq = objective.eq
        p = eq.p
        self._r2 = st.r2
        lead = eq.A1x if eq.layout.has_lead else None
        zqy = self._finish(lead, eq.A2x, st.Y)
        self._zq = [z[:, :, :p] for z in zqy]
        contrast = np.r_[-st.b, 1.0]
        self._zr = [z @ contrast for z in zqy]
        self._root = np.linalg.inv(st.Ri).T if p else np.zeros((0, 0))
        self.beta = np.full(eq.fixed.kept.size, np.nan)
        self.beta[eq.fixed.kept] = eq.fixed.coefficients(st.b)

    @property
    def equations(self) -> Equations:
        """The cross-products."""
        return self._objective.eq

    def r2(self) -> float:
        """(y - X b)'V^-1(y - X b) at the estimate."""
        return self._r2

    def orthonormal_x(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """R and Z'V^-1 Q per term, R'R = Q'V^-1 Q."""
        return self._root, self._zq

    def products(self, beta: np.ndarray | None = None) -> list[np.ndarray]:
        """Z'V^-1 r per term at the estimate, shapes (q_t, k_t)."""
        if beta is not None:
            raise ValueError("only at the estimate.")
        return self._zr

    def slope(self) -> list[np.ndarray]:
        """dl / d(R D R')_t, residual variance profiled out, per term."""
        return [-0.5 * N for N in self._derivatives]

    def trace_slope(self) -> list[np.ndarray]:
        """d / d(R D R')_t of -1/2 (log|V| [+ log|X'V^-1 X|]), per term."""
        sigma2 = self._r2 / self._objective.nu
        return [-0.5 * (N + z.T @ z / sigma2) for N, z in zip(self._derivatives, self._zr, strict=True)]

    @cached_property
    def _derivatives(self) -> list[np.ndarray]:
        evaluation = self._objective.evaluate(self._theta, 1, _TOL)
        assert evaluation.N_basis is not None
        return evaluation.N_basis

    # -- products with G = Z'V^-1 Z ----------------------------------------------------------------------

    def times(self, w: list[np.ndarray]) -> list[np.ndarray]:
        """Z'V^-1 Z w, per term, shapes (q_t, k_t, m); as many columns at once as a solve takes."""
        m, size = w[0].shape[2], batch_size(self.equations.layout.q2)
        parts = [self._times([x[:, :, i : i + size] for x in w]) for i in range(0, m, size)]
        return [np.concatenate(columns, axis=2) for columns in zip(*parts, strict=True)] if parts else w

    def _times(self, w: list[np.ndarray]) -> list[np.ndarray]:
        eq, sy = self.equations, self._objective.system_at(self._theta)
        lay, m = eq.layout, w[0].shape[2]
        blocks = [np.zeros((b.q, b.k, m)) for b in lay.blocks]
        for place, own in zip(lay.places, w, strict=True):
            blocks[place.block][:, place.columns] = own
        rest = blocks[1:] if lay.has_lead else blocks
        w2 = np.concatenate([flat(x) for x in rest]) if rest else np.zeros((0, m))
        second = sy.gram(w2) if lay.q2 else w2
        first = None
        if lay.has_lead:
            first = np.matmul(eq.A1, blocks[0])
            if lay.q2:
                first += sy.lead(w2)
                sy.minus_rest(-blocks[0], second)
        below = second
        if first is not None and lay.q2:
            below = sy.minus_rest(sy.weigh(sy.W, first.copy()), second.copy())
        solved = sy.solve(sy.scale(below, True), _TOL, max_iterations=self._objective.max_iterations)
        return self._finish(first, second, solved.X)

    def _finish(self, first: np.ndarray | None, second: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
        """Z'V^-1 f per term from Z_1'W f, Z_2'W f and x = S^-1 lam2'Z_2'V_1^-1 f."""
        eq, sy = self.equations, self._objective.system_at(self._theta)
        lay, m = eq.layout, x.shape[1]
        d = sy.scale(np.ascontiguousarray(x), False) if lay.q2 else x
        blocks = []
        if first is not None:
            left = first - sy.lead(d) if lay.q2 else first.copy()
            blocks.append(sy.weigh(sy.F, np.ascontiguousarray(left)))
        if lay.q2:
            # Z_2'W (f - Z u), u the effects that f has been seen to have
            rest = second - sy.gram(d)
            if first is not None:
                sy.minus_rest(sy.weigh(sy.W, np.ascontiguousarray(first - sy.lead(d))), rest)
            for r, block in enumerate(lay.rest):
                rows = slice(int(lay.offsets[r]), int(lay.offsets[r + 1]))
                blocks.append(rest[rows].reshape(block.q, block.k, m))
        return [blocks[place.block][:, place.columns] for place in lay.places]

    # -- variances of linear predictors ------------------------------------------------------------------

    def prior_inverse(self) -> PriorInverse:
        """What variances of linear predictors are made of; a solve for each level that is asked for."""
        eq, sy = self.equations, self._objective.system_at(self._theta)
        lay, p = eq.layout, eq.p
        blocks = [np.zeros((b.q, b.k, p)) for b in lay.blocks]
        for place, z in zip(lay.places, self._zq, strict=True):
            blocks[place.block][:, place.columns] = z
        rest = blocks[1:] if lay.has_lead else blocks
        z2 = np.concatenate([flat(x) for x in rest]) if rest else np.zeros((0, p))
        return PriorInverse(
            root=self._root,
            lead_x=np.matmul(sy.D1, blocks[0]) if lay.has_lead else np.zeros((0, 1, p)),
            rest_x=related_rows(lay, sy.scale(sy.scale(z2, True), False)) if lay.q2 else z2,
            W=sy.W,
            own=self._lead_blocks,
            columns=PriorRows(self._prior_columns, lay.q2),
        )

    def _prior_solve(self, B: np.ndarray) -> np.ndarray:
        """lam2 S^-1 lam2'B, (q2, m) -> (q2, m)."""
        sy = self._objective.system_at(self._theta)
        size, out = batch_size(self.equations.layout.q2), np.empty_like(B)
        for i in range(0, B.shape[1], size):
            rhs = sy.scale(np.ascontiguousarray(B[:, i : i + size]), True)
            solved = sy.solve(rhs, _TOL, max_iterations=self._objective.max_iterations)
            out[:, i : i + size] = sy.scale(solved.X, False)
        return out

    def _prior_columns(self, asked: np.ndarray) -> np.ndarray:
        unit = np.zeros((self.equations.layout.q2, asked.size))
        unit[asked, np.arange(asked.size)] = 1.0
        # rows of related levels: T (.) T' of the independent ones
        unit = unrelated_rows(self.equations.layout, unit)
        return related_rows(self.equations.layout, self._prior_solve(unit)).T

    def _lead_blocks(self, levels: np.ndarray) -> np.ndarray:
        """W_l + W_l B_l T B_l'W_l of levels of the leading term."""
        eq, sy = self.equations, self._objective.system_at(self._theta)
        lay, k = eq.layout, eq.layout.k1
        asked, where = np.unique(levels, return_inverse=True)
        out = sy.W[asked].copy()
        at_once = max(1, batch_size(lay.q2) // k)
        for i in range(0, asked.size if lay.q2 else 0, at_once):
            mine = asked[i : i + at_once]
            turned = np.zeros((lay.q2, mine.size, k))
            for j, level in enumerate(mine):
                cells = slice(int(eq.ptr[level]), int(eq.ptr[level + 1]))
                turned[eq.idx[cells], j] = eq.val[cells] @ sy.W[level]
            solved = self._prior_solve(turned.reshape(lay.q2, -1)).reshape(turned.shape)
            out[i : i + mine.size] += np.einsum("qja,qjb->jab", turned, solved)
        return out[where]

    def level_variances(self, t: int, combinations: np.ndarray, probes: int) -> LevelVariances:
        """Of all levels of a term at once: see `mme.engine.iterative.variances`."""
        objective = self._objective
        system = objective.system_at(self._theta)
        return level_variances(system, t, combinations, probes, objective.seed, objective.max_iterations)

    def level_sums(self, h: list[np.ndarray]) -> None:
        """None: iterative fits have several factors."""

    # -- traces ------------------------------------------------------------------------------------------

    def trace_products(self, turns: Sequence[np.ndarray] | None = None) -> Grams:
        """Sums over pairs of levels of G_lm[a, c] G_lm[b, d]: see `Marginal.trace_products`."""
        grams = {key: value.mean(axis=0) for key, value in self.samples.items()}
        return grams if turns is None else _turned(grams, turns)

    def trace_samples(self, turns: Sequence[np.ndarray] | None = None) -> list[Grams]:
        """The same by probe; their mean is `trace_products`."""
        out = []
        for i in range(self.probes):
            grams = {key: value[i if len(value) > 1 else 0] for key, value in self.samples.items()}
            out.append(grams if turns is None else _turned(grams, turns))
        return out

    @cached_property
    def samples(self) -> Grams:
        """By pair of terms, shapes (probes, k_s, k_s, k_t, k_t); one sample where nothing is stochastic."""
        places, blocks = self.equations.layout.places, self.equations.layout.blocks
        sizes = [(blocks[place.block].q, place.k) for place in places]
        few = [q * k <= _FEW for q, k in sizes]
        own = {t: self._exact(t, sizes) if few[t] else self._stochastic(t, sizes) for t in range(len(places))}
        out: Grams = {}
        for s in range(len(places)):
            for t in range(s, len(places)):
                here, there = own[t][s], own[s][t].transpose(0, 3, 4, 1, 2)
                if few[s] == few[t]:
                    gram = 0.5 * (here + there)
                else:
                    gram = here if few[t] else there
                out[s, t], out[t, s] = gram, gram.transpose(0, 3, 4, 1, 2)
        return out

    def _exact(self, t: int, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
        q, k = sizes[t]
        w = [np.zeros((a, b, q * k)) for a, b in sizes]
        w[t].reshape(q * k, q * k)[:] = np.eye(q * k)
        back = [v.reshape(a, b, q, k) for v, (a, b) in zip(self.times(w), sizes, strict=True)]
        return [np.einsum("lamc,lbmd->abcd", v, v, optimize=True)[None] for v in back]

    def _stochastic(self, t: int, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
        q, k = sizes[t]
        z = probe_block(q, self.probes, self._objective.seed + _SEED + t).astype(np.float64)
        out = [np.empty((self.probes, b, b, k, k)) for _, b in sizes]
        at_once = max(1, batch_size(self.equations.layout.q2) // k)
        for i in range(0, self.probes, at_once):
            mine = z[:, i : i + at_once]
            n = mine.shape[1]
            w = [np.zeros((a, b, n * k)) for a, b in sizes]
            cube = w[t].reshape(q, k, n, k)
            for c in range(k):
                cube[:, c, :, c] = mine
            for s, (v, (a, b)) in enumerate(zip(self.times(w), sizes, strict=True)):
                v = v.reshape(a, b, n, k)
                out[s][i : i + n] = np.einsum("lanc,lbnd->nabcd", v, v, optimize=True)
        return out


def _turned(grams: Grams, turns: Sequence[np.ndarray]) -> Grams:
    return {(s, t): turned_gram(gram, turns[s], turns[t]) for (s, t), gram in grams.items()}
