"""The likelihood of a model of several grouping factors whose matrices are small: one call per evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...exceptions import EXPLAINED, PerfectFitError
from ..equations.equations import Equations
from ..kernels import coordinates as rows
from ..kernels import schur
from ..kernels import several as kernels
from ..kernels import small as names
from ..search.evaluation import Evaluation, Solution
from ..search.machine import Machine
from .floors import Floors
from .small import FAILURES, TRIAL, VALUES, check_finite

__all__ = ["SeveralLikelihood", "is_small"]

_WIDEST = 64  # order of S up to which it is not asked whether it is sparse
_MOST = 1e6  # operations of an evaluation up to which loops are faster than calls of numpy and BLAS


def is_small(eq: Equations) -> bool:
    """Whether an evaluation costs less than the calls of numpy around it."""
    lay = eq.layout
    if not lay.has_lead or not 0 < lay.q2 <= _WIDEST:
        return False
    if any(place.structure.curved for place in lay.places) or any(b.relation is not None for b in lay.blocks):
        return False
    r, m, k = lay.q2 + eq.p + 1.0, lay.n_theta, lay.k1
    return lay.q1 * k * (r * (2.0 * k + 1.5 * r) + m * (r + k + m)) + r * r * (r + m) <= _MOST


class SeveralLikelihood:
    """As `mme.engine.direct.small.SmallLikelihood`, for equations that are small by `is_small` here."""

    name = "dense (compiled)"

    def __init__(self, eq: Equations, reml: bool, nu: int, yy: float) -> None:
        lay = eq.layout
        self._eq, self.n_factorizations = eq, 0
        q1, k1, q2, m = lay.q1, lay.k1, lay.q2, lay.n_theta
        k2, r = max(b.k for b in lay.rest), q2 + eq.p + 1
        self._entries = np.array(
            [(p.block, p.first + a, p.first + b) for p in lay.places for a, b in p.entries]
        ).T.copy()
        self._of_entry = tuple(self._entries)
        width = max(k1, k2)
        self._lams = np.zeros((len(lay.blocks), width, width))
        self._last = b""  # theta that was factored
        self._W, self._F, self._half = np.empty((3, q1, k1, k1))
        self._numbers = np.zeros(names.N_NUMBERS)
        self._given = np.array([nu, reml, yy, eq.fixed.logdet, eq.log_w], dtype=np.float64)
        gram = np.zeros((len(lay.rest), k2))
        for b, (block, scale) in enumerate(zip(lay.rest, eq.scales[1:], strict=True)):
            gram[b, : block.k] = np.diag(scale)
        self._gram = gram
        self._T, self._A = np.zeros((q1, k1, r)), np.empty((r, r))
        levels = np.repeat(np.arange(q1), np.diff(eq.ptr))
        self._T[levels, :, eq.idx] = eq.val
        self._A[:q2, :q2] = eq.dense22
        self._fill_response()
        self._Li, self._coef = np.empty((r, r)), np.empty(r - 1)
        self._ze1, self._ze2 = np.empty((q1, k1)), np.empty(q2)
        self._Q = np.empty((len(lay.blocks), width, width))
        self._information = np.zeros((m, m))
        self._done: Any = (
            self._F, self._half, self._numbers, np.empty((r, r)), self._Li, self._coef, np.empty((q1, k1, r)),
            self._ze1, self._ze2, self._Q,
        )  # fmt: skip

    def _fill_response(self) -> None:
        eq, q2 = self._eq, self._eq.layout.q2
        self._T[:, :, q2:] = eq.A1x
        self._A[:q2, q2:] = eq.A2x
        self._A[q2:, :q2] = eq.A2x.T
        self._A[q2:, q2:] = eq.Axx

    def respond(self, eq: Equations, yy: float) -> None:
        """Go over to the equations of another response on the same design."""
        self._eq, self._last, self.n_factorizations = eq, b"", 0
        self._given[names.YY] = yy
        self._fill_response()

    def evaluate(self, theta: np.ndarray, order: int) -> Evaluation:
        """As `mme.engine.direct.objective.Objective.evaluate`."""
        self._evaluate(theta, order, self._information)
        deviance, sigma2, noise = self._numbers[VALUES].tolist()
        if order == 0:
            return Evaluation(theta, deviance, sigma2, noise=noise)
        N_basis = [self._Q[p.block, p.columns, p.columns].copy() for p in self._eq.layout.places]
        gradient = 2.0 * np.matmul(self._Q, self._lams)[self._of_entry]
        info = self._information.copy() if order > 1 else None
        return Evaluation(
            theta, deviance, sigma2, gradient=gradient, N_basis=N_basis, information_basis=info, noise=noise
        )

    def answer(self, machine: Machine, order: int) -> None:
        """Evaluate the trial of a search for it."""
        self._evaluate(machine.vectors[rows.TRIAL], order, machine.matrices[rows.TRIAL_INFORMATION])
        machine.numbers[TRIAL] = self._numbers[VALUES]
        if order:
            for t, p in enumerate(self._eq.layout.places):
                machine.tmats[rows.TRIAL_N, t, : p.k, : p.k] = self._Q[p.block, p.columns, p.columns]

    def solution(self, theta: np.ndarray) -> Solution:
        """As `mme.engine.direct.objective.Objective.solution`."""
        eq, lay = self._eq, self._eq.layout
        self._evaluate(theta, 0, self._information)
        self._run(kernels.PRODUCTS, self._rest(self._lams), self._information)
        deviance, sigma2 = self._numbers[: names.SIGMA2 + 1].tolist()
        u = []
        for place in lay.places:
            part = place.columns
            if place.block == 0:
                ze = self._ze1[:, part]
            else:
                block = lay.blocks[place.block]
                ze = self._ze2[lay.rest_columns(place.block - 1)].reshape(block.q, block.k)[:, part]
            lam = self._lams[place.block, part, part]
            u.append(ze @ (lam @ np.linalg.solve(eq.basis[place.block][part, part], lam).T))
        own = slice(lay.q2, lay.q2 + eq.p)
        return {
            "theta": eq.from_standard(theta),
            "beta": eq.fixed.coefficients(self._coef[lay.q2 :]),
            "vcov": sigma2 * eq.fixed.covariance(self._Li[own, own]),
            "root": np.sqrt(sigma2) * eq.fixed.root(self._Li[own, own]),
            "u": u,
            "sigma2": sigma2,
            "deviance": deviance,
        }

    def _evaluate(self, theta: np.ndarray, order: int, information: np.ndarray) -> None:
        """Evaluate into the arrays; what was the last theta is not factored again."""
        lams, eq = self._lams, self._eq
        stages = 0
        key = theta.tobytes()
        if key != self._last:
            self._last = b""
            check_finite(theta)
            self.n_factorizations += 1
            lams[self._of_entry] = theta
            lam1 = np.ascontiguousarray(lams[0, : eq.layout.k1, : eq.layout.k1])
            self._lam1, self._D1 = lam1, lam1 @ lam1.T
            self._numbers[names.LOGDET] = schur.level_factors(
                0, eq.layout.q1, eq.A1, lam1, self._D1, self._W, self._F, self._half
            )
            stages = kernels.VALUE
        rest = self._rest(lams)
        if order == 0:
            if stages:
                self._run(stages, rest, information)
                self._last = key
            return
        stages += kernels.PRODUCTS + (kernels.INFORMATION if order > 1 else 0)
        floors = Floors(eq, [lams[p.block, p.columns, p.columns] for p in eq.layout.places])
        if not floors.lifted:
            self._run(stages + kernels.DERIVATIVES, rest, information)
            self._last = key
            return
        self._run(stages, rest, information)
        self._last = key
        self._derive(floors, rest, information)
        if floors.raised(self._traces()):
            self._derive(floors, rest, information)

    def _derive(self, floors: Floors, rest: np.ndarray, information: np.ndarray) -> None:
        """Derivatives with regular factors; counted as `Objective` does, which has to factor anew."""
        self.n_factorizations += 1
        lams = np.zeros_like(self._lams)
        for place, lam in zip(self._eq.layout.places, floors.factors(), strict=True):
            lams[place.block, place.columns, place.columns] = lam
        self._run(kernels.DERIVATIVES + kernels.FLOORED, rest, information, self._rest(lams))

    def _traces(self) -> list[np.ndarray]:
        """sum_l (Z'PZ)_ll of every block."""
        lay, out = self._eq.layout, []
        for i, block in enumerate(lay.blocks):
            ze = self._ze1 if i == 0 else self._ze2[lay.rest_columns(i - 1)].reshape(block.q, block.k)
            N = self._Q[i, : block.k, : block.k]
            out.append(N + ze.T @ ze / self._numbers[names.SIGMA2])
        return out

    def _rest(self, lams: np.ndarray) -> np.ndarray:
        """Factors of the rest's blocks, padded to the widest of them."""
        k2 = self._gram.shape[1]
        return np.ascontiguousarray(lams[1:, :k2, :k2])

    def _run(
        self, stages: int, rest: np.ndarray, information: np.ndarray, floored: np.ndarray | None = None
    ) -> None:
        lay = self._eq.layout
        evaluate: Any = kernels.evaluate_several
        status = evaluate(
            stages, self._entries, lay.lstart, lay.lblock, rest, rest if floored is None else floored,
            self._gram, self._given, self._eq.A1, self._T, self._A, self._D1, *self._done, information,
        )  # fmt: skip
        if status == names.PERFECT:
            raise PerfectFitError(EXPLAINED)
        if status != names.DONE:
            raise np.linalg.LinAlgError(FAILURES[status])
