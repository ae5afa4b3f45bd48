"""One fit from beginning to end: read this file first.

Design -> Equations (cross-products, built once) -> minimise over the relative covariance -> Fit (frozen).
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np

from .covariance import theta_to_lam
from .design import Design
from .equations import Equations, build_equations
from .notices import Progress, say_once
from .objective import Objective
from .optimizer import TermSpec, minimise
from .parallel import single_threaded_blas
from .start import check_identified, moment_start
from .structure import layout_of

if TYPE_CHECKING:
    from .equations import Equations
    from .forecast import Preflight
    from .iterative import MonteCarlo

__all__ = [
    "SOLVERS",
    "Fit",
    "FitRecord",
    "IterativeOptions",
    "check_solver",
    "equations_of",
    "fit_design",
    "planned",
]

SOLVERS = ("auto", "direct", "iterative", "dense", "cholmod", "superlu")
_FORECAST = 1_000  # order of the Schur complement, and pairs of cells, from which the cost is predicted
_FORECAST_PAIRS = 1e8
_MANY_ROWS = 1_000_000  # from which the equations' own memory is predicted before they are built
_LONG = 5.0  # predicted seconds of a direct fit from which a progress bar shows
_CHEAP_START = 3_000  # order of a dense Schur complement from which an iterative start pays


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
        The evaluated equations, for inference; holds no rows of the data.  An `IterativeObjective`, without
        deviance and Hessian, after an iterative fit.
    design : Design
    monte_carlo : MonteCarlo or None
        Standard errors and Monte Carlo errors of an iterative fit.
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
    monte_carlo: MonteCarlo | None = None


def fit_design(
    design: Design,
    *,
    reml: bool = True,
    theta0: tuple[np.ndarray, ...] | None = None,
    solver: str = "auto",
    max_evaluations: int = 200,
    tol: float = 1e-8,
    equations: Equations | None = None,
    **iterative: object,
) -> Fit:
    """Fit a design by restricted or full maximum likelihood.

    Parameters
    ----------
    design : Design
    reml : bool
        Restricted (True) or full maximum likelihood.
    theta0 : tuple of ndarray, optional
        Start, one array per term; by default from moments of the data.
    solver : {"auto", "direct", "iterative", "dense", "cholmod", "superlu"}
        "direct" factors the Schur complement ("dense", "cholmod" and "superlu" say how), "iterative" uses
        conjugate gradients and stochastic traces; "auto" is direct unless that is predicted to take minutes
        or not to fit in memory (see `mme.preflight`).
    max_evaluations : int
        Most factorizations allowed (direct), most steps (iterative).
    tol : float
        Stop when the predicted decrease of the deviance is below this (direct).
    equations : Equations, optional
        Built before for the same design (`Fit.objective.eq` of another fit): no pass over the rows is needed.
    **iterative
        `probes`, `max_probes`, `seed`, `goal`, `accuracy`, `solve_tol`, `loglik_probes`, `exact_steps`,
        `progress`: see `mme.fit.IterativeOptions`; all but `progress` matter to the iterative path alone.

    Returns
    -------
    Fit

    Raises
    ------
    MemoryEstimateError
        The fit is predicted not to fit in memory.
    """
    check_solver(solver)
    with single_threaded_blas():
        options = IterativeOptions(**iterative)
        return _fit(design, reml, theta0, solver, max_evaluations, tol, equations, options)


def _fit(
    design: Design,
    reml: bool,
    theta0: tuple[np.ndarray, ...] | None,
    solver: str,
    max_evaluations: int,
    tol: float,
    equations: Equations | None,
    options: IterativeOptions,
) -> Fit:
    clock = _Clock()
    if equations is None:
        equations = equations_of(design)
    check_identified(design, equations)
    clock.lap("equations")
    plan = planned(design, equations, solver, probes=options.probes)
    if plan is not None and plan.solver == "iterative":
        from .iterative_fit import fit_iterative

        return fit_iterative(
            design,
            equations,
            reml=reml,
            theta0=theta0,
            options=options,
            max_steps=max_evaluations,
            tol=tol,
            clock=clock,
        )
    clock.lap("forecast")
    solver = "auto" if solver == "direct" else solver
    objective = Objective(design, reml=reml, solver=solver, equations=equations)
    clock.lap("structure")
    started = theta0 is None and objective.plan.dense and equations.layout.q2 > _CHEAP_START
    with contextlib.closing(_progress(objective, plan, started, options.progress)) as progress:
        start = moment_start(equations, objective.A22) if theta0 is None else np.concatenate(theta0)
        if started:
            from .iterative import iterative_start

            start = iterative_start(equations, start, reml)
        clock.lap("start")
        minimum = minimise(
            objective.evaluate,
            start,
            _term_specs(design, objective),
            tol=tol,
            max_evaluations=max_evaluations,
            count=lambda: objective.n_factorizations,
            callback=lambda step, deviance, decrement: progress.report(
                step, deviance=f"{deviance:.10g}", to_go=f"{decrement:.1e}"
            ),
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


def check_solver(solver: str) -> None:
    """Refuse the name of a solver that there is not."""
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(map(repr, SOLVERS))}, not {solver!r}.")


def equations_of(design: Design) -> Equations:
    """Cross-products of a design; refused where their own memory is predicted not to suffice.

    Raises
    ------
    MemoryEstimateError
    """
    layout = layout_of(design)
    if design.n > _MANY_ROWS:
        from .forecast import check_rows

        check_rows(design, layout)
    return build_equations(design, layout)


def _progress(objective: Objective, plan: Preflight | None, started: bool, show: bool | None) -> Progress:
    """The bar of a direct fit; where it is predicted to be long, also whether another path is faster."""
    if plan is None:
        return Progress(show, long=False)
    from .forecast import direct_seconds, iterative_hint

    # S was analysed since: the forecast's flops may be a bound
    seconds = direct_seconds(objective.eq, objective.plan.flops, started)
    plan = replace(plan, direct_seconds=seconds)
    long = seconds > _LONG
    hint = iterative_hint(plan) if long and show is not False else ""
    if hint:
        say_once("iterative", hint)
    return Progress(show, long=long)


def planned(
    design: Design, equations: Equations, solver: str, likelihood: bool = False, probes: int = 12
) -> Preflight | None:
    """Predicted cost and choice of path; refuses what does not fit in memory.

    Parameters
    ----------
    design : Design
    equations : Equations
    solver : str
        As in `fit_design`.
    likelihood : bool
        The exact likelihood is wanted, not a fit: for the message.
    probes : int
        Of the iterative path.

    Returns
    -------
    Preflight or None
        None where nothing need be predicted: a small model, fitted directly.

    Raises
    ------
    MemoryEstimateError
    """
    q2 = equations.layout.q2
    partners = np.diff(equations.ptr).astype(np.float64)
    if solver != "iterative" and q2 <= _FORECAST and float(partners @ partners) <= _FORECAST_PAIRS:
        return None
    from .forecast import forecast, refuse

    plan = forecast(design, equations, solver, count=False, probes=probes)
    refuse(plan, likelihood)
    return plan


@dataclass(frozen=True)
class IterativeOptions:
    """Settings of the iterative path.

    Attributes
    ----------
    probes, max_probes : int
        Probes to begin with, and at most.
    seed : int
        Of the probes.
    goal : float
        Largest Monte Carlo error over standard error.
    accuracy : float
        Of the search, in standard errors; where the Monte Carlo error is smaller still, this is reported.
    solve_tol : float
        Relative tolerance of the last solves, for fixed effects, their covariance and the random effects.
    loglik_probes : int
        Probes of the log-likelihood; 0 leaves it NaN. Where a factorization is cheap it is computed exactly.
    exact_steps : int
        If positive: from the stochastic root, at most so many steps of the direct path, which usually
        converges in one or two. The fit is then as a direct one, without Monte Carlo errors, and needs the
        memory of a direct factor.
    progress : bool or None
        Show a progress bar, of a direct fit too; None: on a terminal or in a notebook, if the fit takes
        seconds (iterative) or is predicted to take more than five (direct). False also leaves out the hint
        that another solver is predicted to be faster.
    """

    probes: int = 12
    max_probes: int = 256
    seed: int = 0
    goal: float = 0.05
    accuracy: float = 1e-4
    solve_tol: float = 1e-8
    loglik_probes: int = 16
    exact_steps: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        leasts = {"probes": 2, "max_probes": 2, "seed": 0, "loglik_probes": 0, "exact_steps": 0}
        for name, least in leasts.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an integer and at least {least}, not {value!r}.")
        for name in ("goal", "accuracy", "solve_tol"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not value > 0:
                raise ValueError(f"{name} must be a positive number, not {value!r}.")
        if self.max_probes < self.probes:
            raise ValueError(
                f"probes must be at most max_probes; they are {self.probes} and {self.max_probes}."
            )
        if self.loglik_probes == 1:
            raise ValueError("loglik_probes must be 0 (no log-likelihood) or at least 2.")


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
        root, basis = objective.term_root(t), objective.term_basis(t)
        specs.append(TermSpec(place.k, place.kind, place.entries, term.n_levels, root, basis))
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
        sigma2=float(solution["sigma2"]),
        deviance=float(solution["deviance"]),
        loglik=-0.5 * float(solution["deviance"]),
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
