"""How far one evaluation is from what it cannot do without: dpotrf of the Schur complement and its scatter.

Measured in one process, best of several, near the optimum: the value of the deviance, value and gradient,
value, gradient and information, LAPACK's dpotrf at the order of the Schur complement (one and all BLAS
threads, the faster one), and the scatter: the sum of the eliminated levels' outer products into the
complement (the engine's own assembly or a plain loop, the faster one).

    python benchmarks/limits.py insteval_1 ml100k ml1m
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import threadpoolctl
from numba import njit
from scipy.linalg.lapack import dpotrf

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import mme
from benchmarks import problems
from mme.engine.direct.objective import Objective
from mme.engine.runtime.parallel import single_threaded_blas

__all__ = ["Unfactored", "assembly", "measure", "objective_of", "theta_of"]


def theta_of(name: str) -> np.ndarray:
    """Optimum of a workload, all terms one after another."""
    result = mme.lmer(problems.formula(name), problems.data(name))
    return np.concatenate([np.ravel(part) for part in result.fit.theta])


def objective_of(name: str) -> Objective:
    """Objective of a workload, not evaluated yet."""
    model = mme.LinearMixedModel.from_formula(problems.formula(name), problems.data(name))
    return Objective(model.model_design.design, reml=True)


class Unfactored:
    """Stands in for the factor while the assembly alone is timed."""

    def factorize(self, S: np.ndarray) -> None:
        """Do nothing."""

    def logdet(self) -> float:
        """Zero."""
        return 0.0


def assembly(objective: Objective, theta: np.ndarray) -> Callable[[], float]:
    """A function that assembles the Schur complement at theta and does not factor it."""
    objective.evaluate(theta, 0)
    state = objective._state
    elimination = objective.elimination

    def assemble() -> float:
        factor, elimination.factor = elimination.factor, Unfactored()
        try:
            return elimination.factorize(state.lam2)
        finally:
            elimination.factor = factor

    return assemble


@njit(cache=True, error_model="numpy")
def _scatter(ptr, idx, val, W, S):
    """S[i, j] -= sum over levels of val[i] W val[j], one column per level: the plain loop."""
    for l in range(ptr.size - 1):  # noqa: E741
        for a in range(ptr[l], ptr[l + 1]):
            column = S[:, idx[a]]
            scale = val[a, 0] * W[l, 0, 0]
            for b in range(a, ptr[l + 1]):
                column[idx[b]] -= scale * val[b, 0]


def _best(function: Callable[[], object], seconds: float = 1.0) -> float:
    """Smallest time of as many calls as fit, 3 at least, 200 at most."""
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 200):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def _potrf(order: int) -> float:
    """Seconds of dpotrf on a well-conditioned matrix."""
    S = np.zeros((order, order), order="F")

    def fill_and_factor() -> float:
        S[:] = 0.0
        S[np.diag_indices(order)] = 2.0
        start = time.perf_counter()
        dpotrf(S, lower=1, clean=0, overwrite_a=1)
        return time.perf_counter() - start

    best = np.inf
    for threads in (1, None):
        with threadpoolctl.threadpool_limits(threads, user_api="blas"):
            best = min([best, *(fill_and_factor() for _ in range(4))])
    return float(best)


def measure(name: str, theta: np.ndarray | None = None) -> dict[str, float]:
    """Times of one evaluation and of its limit.

    Parameters
    ----------
    name : str
        Workload.
    theta : ndarray, optional
        Where to evaluate; by default at the optimum.

    Returns
    -------
    dict
        Seconds: value, gradient, information (each with what comes before), dpotrf, scatter, limit; ratios:
        value_over_limit, gradient_over_value, information_over_value; order of the Schur complement.
    """
    theta = theta_of(name) if theta is None else theta
    objective = objective_of(name)
    calls = 0

    def evaluate(order: int) -> None:
        nonlocal calls
        calls += 1  # another theta every time, or nothing would be computed
        objective.evaluate(theta * (1.0 + 1e-4 * (calls % 2)), order)

    with single_threaded_blas():
        evaluate(2)
        value, gradient, information = (_best(lambda order=order: evaluate(order)) for order in range(3))
        scatter = _best(assembly(objective, theta))
        eq = objective.eq
        order = eq.layout.q2
        if eq.val.shape[1] == 1:
            S = np.zeros((order, order), order="F")
            parts = eq.ptr, eq.idx, eq.val, objective.elimination.W, S
            _scatter(*parts)
            scatter = min(scatter, _best(lambda: _scatter(*parts)))
            del S, parts
    potrf = _potrf(order)
    return {
        "order": float(order),
        "value": value,
        "gradient": gradient,
        "information": information,
        "dpotrf": potrf,
        "scatter": scatter,
        "limit": potrf + scatter,
        "value_over_limit": value / (potrf + scatter),
        "gradient_over_value": gradient / value,
        "information_over_value": information / value,
    }


if __name__ == "__main__":
    for workload in sys.argv[1:] or ["insteval_1", "ml100k", "ml1m"]:
        found = measure(workload)
        print(workload, " ".join(f"{key}={number:.4g}" for key, number in found.items()), flush=True)
