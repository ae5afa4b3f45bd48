"""One fit from beginning to end: read this file first.

Design -> Equations (cross-products, built once) -> minimise over the relative covariance -> Fit (frozen).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from .covariance import theta_to_lam
from .design import Design
from .equations import build_equations
from .kernels import announce_compilation
from .kernels.schur import level_factors
from .objective import Objective
from .optimizer import TermSpec, minimise
from .parallel import single_threaded_blas
from .start import moment_start
from .structure import layout_of

__all__ = ["Fit", "FitRecord", "fit_design"]


@dataclass(frozen=True)
class FitRecord:
    """How a fit went.

    Attributes
    ----------
    converged : bool
        True only where the optimality conditions, boundary ones included, were checked and hold.
    message : str
        One sentence: why the search stopped.
    evaluations : int
        Number of factorizations (distinct theta).
    iterations : int
        Accepted steps.
    gradient_norm : float
        Largest absolute entry of the projected gradient of the deviance in reliability units, at the end.
    newton_decrement : float
        Predicted further decrease of the deviance, at the end.
    solver : str
        For example ``"dense (LAPACK)"``, ``"sparse (CHOLMOD)"``, ``"sparse (SuperLU)"``.
    singular : tuple of str
        Names of the terms whose covariance is singular at the optimum; empty if none.
    seconds : dict of str to float
        Wall-clock seconds by stage.
    history : tuple of float
        Deviance after each accepted step, the start first.
    """

    converged: bool
    message: str
    evaluations: int
    iterations: int
    gradient_norm: float
    newton_decrement: float
    solver: str
    singular: tuple[str, ...]
    seconds: dict[str, float]
    history: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Fit:
    """The fitted model as plain arrays; `u` and everything below is on the scale of the data.

    Attributes
    ----------
    reml : bool
    theta : tuple of ndarray
        Free entries of the relative covariance factor, one array per term of the design.
    lam : tuple of ndarray, shapes (k_t, k_t)
        Relative covariance factors: cov(random effects of a level) = sigma2 * lam @ lam.T.
    sigma2 : float
        Residual variance.
    deviance : float
        -2 x (restricted) log-likelihood at the optimum.
    loglik : float
        (Restricted) log-likelihood with lme4's constants.
    beta : ndarray, shape (p,)
        Fixed effects; NaN where a dependent column was dropped.
    vcov_beta : ndarray, shape (p, p)
        Covariance of beta given theta; NaN rows and columns for dropped columns.
    u : tuple of ndarray, shapes (q_t, k_t)
        Conditional modes (BLUPs) of the random effects, per term of the design.
    kept : ndarray of bool, shape (p,)
        Columns of X that were not dropped.
    n, p, nu : int
        Rows, rank of X, n - p (REML) or n (ML).
    record : FitRecord
    objective : Objective
        The evaluated equations, for inference; holds no rows of the data.
    design : Design
    """

    reml: bool
    theta: tuple[np.ndarray, ...]
    lam: tuple[np.ndarray, ...]
    sigma2: float
    deviance: float
    loglik: float
    beta: np.ndarray
    vcov_beta: np.ndarray
    u: tuple[np.ndarray, ...]
    kept: np.ndarray
    n: int
    p: int
    nu: int
    record: FitRecord
    objective: object
    design: Design


def fit_design(
    design: Design,
    *,
    reml: bool = True,
    theta0: tuple[np.ndarray, ...] | None = None,
    solver: str = "auto",
    max_evaluations: int = 200,
    tol: float = 1e-8,
) -> Fit:
    """Fit a design by restricted or full maximum likelihood.

    Parameters
    ----------
    design : Design
    reml : bool
        Restricted (True) or full maximum likelihood.
    theta0 : tuple of ndarray, optional
        Start, one array per term; by default from moments of the data.
    solver : {"auto", "dense", "cholmod", "superlu"}
        Factorization of the Schur complement; "auto" chooses by predicted flops.
    max_evaluations : int
        Most factorizations allowed.
    tol : float
        Stop when the predicted decrease of the deviance is below this.

    Returns
    -------
    Fit
    """
    with single_threaded_blas():
        return _fit(design, reml, theta0, solver, max_evaluations, tol)


def _fit(
    design: Design,
    reml: bool,
    theta0: tuple[np.ndarray, ...] | None,
    solver: str,
    max_evaluations: int,
    tol: float,
) -> Fit:
    clock = _Clock()
    announce_compilation(level_factors)
    equations = build_equations(design, layout_of(design))
    clock.lap("equations")
    objective = Objective(design, reml=reml, solver=solver, equations=equations)
    clock.lap("structure")
    start = moment_start(equations, objective.A22) if theta0 is None else np.concatenate(theta0)
    clock.lap("start")
    terms = _term_specs(design, objective)
    minimum = minimise(
        objective.evaluate,
        start,
        terms,
        tol=tol,
        max_evaluations=max_evaluations,
        count=lambda: objective.n_factorizations,
    )
    clock.lap("evaluations")
    solution = objective.solution(minimum.theta)
    clock.lap("solution")
    record = FitRecord(
        converged=minimum.converged,
        message=minimum.message,
        evaluations=objective.n_factorizations,
        iterations=minimum.iterations,
        gradient_norm=minimum.gradient_norm,
        newton_decrement=minimum.decrement,
        solver=objective.solver_name,
        singular=tuple(design.terms[t].name for t in minimum.singular),
        seconds=clock.seconds,
        history=tuple(minimum.history),
    )
    return _assemble(design, objective, minimum.theta, solution, record)


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now


def _term_specs(design: Design, objective: Objective) -> list[TermSpec]:
    specs = []
    for t, (term, place) in enumerate(zip(design.terms, objective.eq.layout.places, strict=True)):
        specs.append(TermSpec(place.k, place.kind, place.entries, term.n_levels, objective.term_root(t)))
    return specs


def _assemble(
    design: Design, objective: Objective, theta: np.ndarray, solution: dict, record: FitRecord
) -> Fit:
    kept = objective.eq.fixed.kept
    beta = np.full(design.p, np.nan)
    vcov = np.full((design.p, design.p), np.nan)
    beta[kept] = solution["beta"]
    vcov[np.ix_(kept, kept)] = solution["vcov"]
    places = objective.eq.layout.places
    return Fit(
        reml=objective.reml,
        theta=tuple(theta[p.theta] for p in places),
        lam=tuple(theta_to_lam(theta[p.theta], p.k, p.kind) for p in places),
        sigma2=solution["sigma2"],
        deviance=solution["deviance"],
        loglik=-0.5 * solution["deviance"],
        beta=beta,
        vcov_beta=vcov,
        u=tuple(solution["u"]),
        kept=kept,
        n=objective.eq.n,
        p=objective.eq.p,
        nu=objective.nu,
        record=record,
        objective=objective,
        design=design,
    )
