"""Fits of many responses on one design by compiled searches: what they share, work space, and the calls.

Every response is fitted for itself, whatever else is in the block and on however many threads: the numbers
are the same.  What the kernels leave (`BatchFit.fitted` is False) is for the ordinary path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..equations.equations import Equations
from ..equations.response import Responses
from ..kernels import batch as kernels
from ..kernels import batch_likelihood as rows
from ..runtime.parallel import cut, run
from ..search.coordinates import Coordinates, term_specs
from ..search.machine import Machine

__all__ = ["Batch", "BatchFit", "Further", "is_batchable"]

_MOST_REST = 200  # order of the rest's dense matrices
_MOST_WORK = 5e8  # operations of an evaluation, and numbers of the tables of a search for modes
_EVALUATIONS = 8.0  # of a search, for cutting the work up
_RELIABILITIES = {  # of further starts, as in `mme.fit.modes`; the last as in `mme.fit.perfect`
    kernels.ZERO: 0.0,
    kernels.MIDDLE: 0.9,
    kernels.HIGHEST: 1.0 - 1e-5,
    kernels.HIGH: 0.99,
    kernels.SPAN: 1.0 - 1e-8,
}


def evaluation_work(eq: Equations) -> float:
    """Operations of an evaluation with derivatives, roughly."""
    lay, n = eq.layout, eq.p + 1.0
    m, k = lay.n_theta, lay.k1
    lead = lay.q1 * k * (8.0 * k * k + n * (n + k) + m * (k + m + n))
    cells = float(np.sum(np.diff(eq.ptr).astype(np.float64) ** 2)) * k * 3.0
    return lead + cells + 6.0 * float(lay.q2) ** 3 + lay.q2 * (n + m) ** 2


def is_batchable(eq: Equations) -> bool:
    """Whether the rest is small enough for dense matrices in kernels."""
    lay = eq.layout
    plain = not any(place.structure.curved for place in lay.places)
    plain = plain and all(block.relation is None for block in lay.blocks)
    return plain and lay.q2 <= _MOST_REST and evaluation_work(eq) <= _MOST_WORK


@dataclass(frozen=True)
class Further:
    """What a search looks at beyond its first optimum.

    Attributes
    ----------
    starts : bool
        Whether further starts are tried where something suggests it.
    ratios : ndarray
        Where the profile of the only, scalar term is tabulated; empty: it is not.
    few_levels, few_rows : bool
        Some factor has few levels; there are few rows beside the effects.
    """

    starts: bool
    ratios: np.ndarray
    few_levels: bool
    few_rows: bool


@dataclass(frozen=True, eq=False)
class BatchFit:
    """Estimates of N responses; NaN where `fitted` is False.

    Attributes
    ----------
    fitted : ndarray of bool, shape (N,)
    theta : ndarray, shape (N, m)
        In the equations' basis.
    deviance, sigma2 : ndarrays, shape (N,)
    b : ndarray, shape (N, p)
        Fixed effects in the orthonormal basis of X, beside the least-squares ones.
    Ri : ndarray, shape (N, p, p)
        Inverse Cholesky factors of Q'V^-1 Q.
    singular : ndarray of bool, shape (N, n_terms)
    df : ndarray, shape (N, rank), or None
        Satterthwaite's degrees of freedom of the kept coefficients.
    steps, evaluations, starts, modes : ndarrays of int, shape (N,)
        As `mme.fit.FitRecord` has them.
    """

    fitted: np.ndarray
    theta: np.ndarray
    deviance: np.ndarray
    sigma2: np.ndarray
    b: np.ndarray
    Ri: np.ndarray
    singular: np.ndarray
    df: np.ndarray | None
    steps: np.ndarray
    evaluations: np.ndarray
    starts: np.ndarray
    modes: np.ndarray


class Batch:
    """Fits of responses on the design of some equations.

    Parameters
    ----------
    eq : Equations
        For which `is_batchable`; its own response is not used.
    reml : bool
    further : callable (Coordinates) -> Further
    tol : float
    most, patience : int
        Evaluations of a search; steps in a row that hardly lower the decrement, after which it is left.
    """

    def __init__(
        self,
        eq: Equations,
        reml: bool,
        further: Callable[[Coordinates], Further],
        tol: float = 1e-8,
        most: int = 200,
        patience: int = 20,
    ) -> None:
        self.eq, self.reml = eq, bool(reml)
        self.nu = eq.n - eq.p if reml else eq.n
        self._space = Coordinates(term_specs(eq, standard=True))
        self._tol, self._most = tol, most
        self._further = further(self._space)
        self._limits = np.array([tol, most, patience], dtype=np.float64)
        space, lay = self._space, eq.layout
        self._uniform = np.array([space.uniform(_RELIABILITIES[i]) for i in range(len(_RELIABILITIES))])
        K = max(t.k for t in space.terms)
        self._roots = np.zeros((len(space.terms), K, K))
        for t, A in enumerate(space.A):
            self._roots[t, : A.shape[0], : A.shape[0]] = A
        first = int(lay.has_lead)
        widest = max(b.k for b in lay.blocks)
        self._blocks = np.array(
            [[-1 if i < first else lay.offsets[i - first], b.q, b.k] for i, b in enumerate(lay.blocks)],
            dtype=np.int64,
        )
        self._entries = np.array(
            [(p.block, p.first + a, p.first + b) for p in lay.places for a, b in p.entries], dtype=np.int64
        ).T.copy()
        self._places = np.array([[p.block, p.first] for p in lay.places], dtype=np.int64).T.copy()
        self._grams = np.zeros((len(lay.blocks), widest))
        for i, (block, scale) in enumerate(zip(lay.blocks, eq.scales, strict=True)):
            self._grams[i, : block.k] = np.diag(scale)
        self._A22 = np.asarray(eq.A22.toarray()) if lay.q2 else np.zeros((0, 0))
        self._val = np.ascontiguousarray(eq.val)
        self._units = np.ascontiguousarray(eq.fixed.T.T)

    def fit(self, responses: Responses, begin: np.ndarray, degrees: bool = False) -> BatchFit:
        """Fit responses.

        Parameters
        ----------
        responses : Responses
            Each with something that the fixed effects do not explain.
        begin : ndarray, shape (N, m)
            theta of the equations' basis at which every search begins.
        degrees : bool
            Whether degrees of freedom are wanted.
        """
        count, m, p = begin.shape[0], self.eq.layout.n_theta, self.eq.p
        nt = len(self._space.terms)
        status = np.full(count, kernels.LEFT, dtype=np.int64)
        results = np.full((count, kernels.N_RESULTS), np.nan)
        theta, b, Ri = (
            np.full((count, m), np.nan),
            np.full((count, p), np.nan),
            np.full((count, p, p), np.nan),
        )
        singular, df = np.zeros((count, nt), dtype=np.bool_), np.full((count, p), np.nan)
        out = (status, results, theta, b, Ri, singular, df)
        of = (responses.Z1y, responses.Z2y, responses.Qy, responses.yy, np.ascontiguousarray(begin))
        ways = self._further
        choices = np.array([ways.starts, ways.few_levels, ways.few_rows, degrees], dtype=np.int64)
        options = (self._limits, choices, self._uniform, ways.ratios, self._roots, self._places)

        def piece(_: int, i0: int, i1: int) -> None:
            fit: Any = kernels.fit_responses
            fit(i0, i1, *of, *options, *self._workspace(), *out)

        run(piece, cut(None, count, count * _EVALUATIONS * (evaluation_work(self.eq) + 2e4)))
        numbers = np.where(np.isnan(results), 0.0, results).astype(np.int64).T
        return BatchFit(
            status == kernels.FITTED, theta, results[:, kernels.RESULT_DEVIANCE],
            results[:, kernels.RESULT_SIGMA2], b, Ri, singular, df if degrees else None,
            numbers[kernels.RESULT_STEPS], numbers[kernels.RESULT_EVALUATIONS],
            numbers[kernels.RESULT_STARTS], numbers[kernels.RESULT_MODES],
        )  # fmt: skip

    def _workspace(self) -> tuple[np.ndarray, ...]:
        """The machine's arrays, then those of the likelihood, of one thread."""
        eq, lay = self.eq, self.eq.layout
        q1, k1, q2, p, m = lay.q1, lay.k1, lay.q2, eq.p, lay.n_theta
        machine = Machine(self._space, self._tol, self._most, ())
        counts, numbers, tints, cints, tmats, tvecs, vectors, matrices, X0, size, history, _ = machine.arrays
        given = np.array([self.nu, self.reml, 0.0, eq.fixed.logdet, eq.log_w], dtype=np.float64)
        crossed = np.zeros((2, q1, k1, p + 1))
        crossed[rows.GIVEN, :, :, :p] = eq.Z1Q
        squares = np.zeros((rows.N_SQUARES, q2, q2))
        squares[rows.A22] = self._A22
        rests = np.zeros((rows.N_RESTS, q2, p + 1))
        rests[rows.GIVEN_2, :, :p] = eq.Z2Q
        border = np.zeros((2, p + 1, p + 1))
        border[0, :p, :p] = eq.Axx[:p, :p]
        nb, widest = self._grams.shape
        return (
            counts, numbers, tints, cints, tmats, tvecs, vectors, matrices, X0, size, history,
            self._blocks, self._entries, given, eq.A1, eq.ptr, eq.idx, self._val, self._grams, self._units,
            np.zeros((2, nb, widest, widest)), np.zeros((2, k1, k1)), np.zeros((3, q1, k1, k1)), crossed,
            np.zeros((eq.idx.size, k1)), squares, rests, border, np.zeros((q1, k1)), np.zeros(q2),
            np.zeros((2, m, q2)), np.zeros((2, max(p + 1, m))),
        )  # fmt: skip
