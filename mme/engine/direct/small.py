"""The likelihood of a model whose matrices are small, in kernels: one call per evaluation, or per search."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np

from ...exceptions import EXPLAINED, PerfectFitError
from ..equations.equations import Equations
from ..kernels import coordinates as rows
from ..kernels import newton, schur
from ..kernels import small as kernels
from ..search.evaluation import Evaluation, Solution
from ..search.machine import Machine

__all__ = ["FAILURES", "TRIAL", "VALUES", "SmallLikelihood", "check_finite", "is_small"]

# Operations of an evaluation up to which it is one piece of work on one thread anyway (`runtime.parallel`).
_MOST = 2e6
# deviance, sigma2 and noise, here and there
TRIAL = slice(newton.TRIAL_DEVIANCE, newton.TRIAL_NOISE + 1)
VALUES = slice(kernels.DEVIANCE, kernels.NOISE + 1)
FAILURES = {
    kernels.SINGULAR_BORDER: "the fixed effects' information is not positive definite.",
    kernels.SINGULAR: "the mixed-model equations are not positive definite at this theta.",
    kernels.OVERFLOW: "the mixed-model equations overflow at this theta.",
    kernels.ROUGH: "rounding hides the deviance at this theta: variances are too large.",
}

_YY = 2  # place of the response's sum of squares among what is given


def is_small(eq: Equations) -> bool:
    """Whether an evaluation costs less than the calls of numpy around it."""
    lay = eq.layout
    if not lay.has_lead or lay.q2 or any(place.structure.curved for place in lay.places):
        return False
    n, m, k = eq.p + 1.0, lay.n_theta, lay.k1
    return lay.q1 * k * (8.0 * k * k + n * (n + k) + m * (k + m + n)) <= _MOST


def check_finite(theta: np.ndarray) -> None:
    """Refuse a theta at which there is nothing to be evaluated."""
    # a finite sum of squares says it without an array
    if not isfinite(theta.dot(theta)) and not np.isfinite(theta).all():
        raise np.linalg.LinAlgError("theta is not finite.")


class SmallLikelihood:
    """Evaluations, searches and solutions of a small model, theta always in the equations' basis.

    Parameters
    ----------
    eq : Equations
        Of a model that `is_small`.
    reml : bool
    nu : int
        Degrees of freedom of the residual variance.
    yy : float
        The response's sum of squares beside the fixed effects.
    """

    name = "one block (no factorization needed)"

    def __init__(self, eq: Equations, reml: bool, nu: int, yy: float) -> None:
        lay = eq.layout
        self._eq, self.n_factorizations = eq, 0
        q1, k1, n = eq.A1x.shape
        m = lay.n_theta
        entries = np.array([(p.first + a, p.first + b) for p in lay.places for a, b in p.entries])
        self._rows, self._cols = entries.T.copy()
        self._last = b""  # theta that was factored
        self._lam1 = np.zeros((k1, k1))
        self._W, self._F, self._half = np.empty((3, q1, k1, k1))
        self._numbers = np.zeros(kernels.N_NUMBERS)
        self._Ri, self._b, self._ze = np.empty((n - 1, n - 1)), np.empty(n - 1), np.empty((q1, k1))
        self._Q, self._information = np.zeros((k1, k1)), np.zeros((m, m))
        self._arrays: Any = (
            entries.T.copy(), np.array([nu, reml, yy, eq.fixed.logdet, eq.log_w], dtype=np.float64),
            eq.A1, eq.A1x, eq.Axx, self._F, self._half, self._numbers, self._Ri, self._b, self._ze,
            np.empty((n + k1 + 2, max(n, m, k1))), self._Q,
        )  # fmt: skip

    def respond(self, eq: Equations, yy: float) -> None:
        """Go over to the equations of another response on the same design."""
        self._eq, self._last, self.n_factorizations = eq, b"", 0
        entries, given, A1, _, _, *rest = self._arrays
        given[_YY] = yy
        self._arrays = (entries, given, A1, eq.A1x, eq.Axx, *rest)

    def evaluate(self, theta: np.ndarray, order: int) -> Evaluation:
        """As `mme.engine.direct.objective.Objective.evaluate`."""
        self._evaluate(theta, order, self._information)
        deviance, sigma2, noise = self._numbers[VALUES].tolist()
        if order == 0:
            return Evaluation(theta, deviance, sigma2, noise=noise)
        N_basis = [self._Q[p.columns, p.columns].copy() for p in self._eq.layout.places]
        # of other terms' columns the factor has none
        gradient = 2.0 * (self._Q @ self._lam1)[self._rows, self._cols]
        info = self._information.copy() if order > 1 else None
        return Evaluation(
            theta, deviance, sigma2, gradient=gradient, N_basis=N_basis, information_basis=info, noise=noise
        )

    def answer(self, machine: Machine, order: int) -> None:
        """Evaluate the trial of a search for it."""
        self._evaluate(machine.vectors[rows.TRIAL], order, machine.matrices[rows.TRIAL_INFORMATION])
        machine.numbers[TRIAL] = self._numbers[VALUES]
        if order:
            for t, place in enumerate(self._eq.layout.places):
                machine.tmats[rows.TRIAL_N, t, : place.k, : place.k] = self._Q[place.columns, place.columns]

    def solution(self, theta: np.ndarray) -> Solution:
        """As `mme.engine.direct.objective.Objective.solution`."""
        eq = self._eq
        self._evaluate(theta, 2, self._information)
        deviance, sigma2 = self._numbers[: kernels.SIGMA2 + 1].tolist()
        u = []
        for place in eq.layout.places:
            lam = self._lam1[place.columns, place.columns]
            basis = eq.basis[place.block][place.columns, place.columns]
            u.append(self._ze[:, place.columns] @ (lam @ np.linalg.solve(basis, lam).T))
        return {
            "theta": eq.from_standard(theta),
            "beta": eq.fixed.coefficients(self._b),
            "vcov": sigma2 * eq.fixed.covariance(self._Ri),
            "root": np.sqrt(sigma2) * eq.fixed.root(self._Ri),
            "u": u,
            "sigma2": sigma2,
            "deviance": deviance,
        }

    def _evaluate(self, theta: np.ndarray, order: int, information: np.ndarray) -> None:
        """Evaluate into the arrays; what was the last theta is not factored again."""
        key = theta.tobytes()
        known = key == self._last
        if not known:
            self._last = b""
            check_finite(theta)
            self.n_factorizations += 1
            lam1, eq = self._lam1, self._eq
            lam1[self._rows, self._cols] = theta
            self._numbers[kernels.LOGDET] = schur.level_factors(
                0, eq.layout.q1, eq.A1, lam1, lam1 @ lam1.T, self._W, self._F, self._half
            )
        evaluate: Any = kernels.evaluate_lead
        status = evaluate(order, not known, *self._arrays, information)
        if status == kernels.PERFECT:
            raise PerfectFitError(EXPLAINED)
        if status != kernels.DONE:
            raise np.linalg.LinAlgError(FAILURES[status])
        self._last = key
