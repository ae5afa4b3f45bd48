"""The iterative path from equations to `Fit`: read `mme.iterative` for the search itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from .covariance import theta_to_lam
from .design import Design
from .equations import Equations
from .iterative import Progress, find_root, monte_carlo
from .lanczos import logdet
from .start import moment_start
from .stochastic import IterativeObjective

if TYPE_CHECKING:
    from .fit import Fit, IterativeOptions

__all__ = ["fit_iterative", "start_of"]


def fit_iterative(
    design: Design,
    equations: Equations,
    *,
    reml: bool,
    theta0: tuple[np.ndarray, ...] | None,
    options: IterativeOptions,
    max_steps: int,
    clock,
) -> Fit:
    """Fit by block conjugate gradients and stochastic traces.

    Parameters
    ----------
    design : Design
    equations : Equations
    reml : bool
    theta0 : tuple of ndarray, optional
        Start, one array per term; by default from moments of the data.
    options : IterativeOptions
    max_steps : int
    clock : object with a method ``lap(stage)`` and a dict ``seconds``

    Returns
    -------
    Fit
        `Fit.monte_carlo` holds standard errors and Monte Carlo errors; `Fit.objective` is the
        `IterativeObjective`.
    """
    from .fit import Fit, FitRecord

    objective = IterativeObjective(equations, reml, options.probes, options.seed)
    clock.lap("structure")
    start = start_of(objective) if theta0 is None else np.concatenate(theta0)
    clock.lap("start")
    progress = Progress(options.progress)
    try:
        root = find_root(
            objective,
            start,
            goal=options.goal,
            max_steps=max_steps,
            max_probes=options.max_probes,
            accuracy=options.accuracy,
            progress=progress,
        )
    finally:
        progress.close()
    clock.lap("evaluations")
    errors = monte_carlo(objective, root, options.accuracy)
    solution = objective.solution(root.theta, options.solve_tol)
    clock.lap("solution")
    deviance = np.nan
    if options.loglik_probes:
        probes = objective.fresh_probes(options.loglik_probes)
        value, error = logdet(objective.system, probes)
        sigma2 = float(solution["sigma2"])
        nu = objective.nu
        deviance = value + float(solution["logdet"]) + nu * (1.0 + np.log(2.0 * np.pi * sigma2))
        deviance -= equations.log_w
        errors = replace(errors, cg_iterations=objective.cg_iterations, loglik_error=0.5 * error)
        clock.lap("loglik")
    else:
        errors = replace(errors, cg_iterations=objective.cg_iterations, loglik_error=np.nan)
    record = FitRecord(
        converged=root.converged,
        message=root.message,
        evaluations=objective.n_evaluations,
        iterations=root.iterations,
        gradient_norm=root.gradient_norm,
        newton_decrement=root.decrement,
        solver=f"{objective.solver_name}, {objective.cg_iterations} iterations, {errors.probes} probes",
        singular=tuple(design.terms[t].name for t in root.singular),
        seconds=clock.seconds,
    )
    kept = equations.fixed.kept
    beta = np.full(design.p, np.nan)
    vcov = np.full((design.p, design.p), np.nan)
    beta[kept] = solution["beta"]
    vcov[np.ix_(kept, kept)] = solution["vcov"]
    places = equations.layout.places
    return Fit(
        reml=reml,
        theta=tuple(root.theta[p.theta] for p in places),
        lam=tuple(theta_to_lam(root.theta[p.theta], p.k, p.kind) for p in places),
        sigma2=float(solution["sigma2"]),
        deviance=float(deviance),
        loglik=-0.5 * float(deviance),
        beta=beta,
        vcov_beta=vcov,
        u=tuple(solution["u"]),
        kept=kept,
        n=equations.n,
        p=equations.p,
        nu=objective.nu,
        record=record,
        objective=objective,
        design=design,
        monte_carlo=errors,
    )


def start_of(objective: IterativeObjective) -> np.ndarray:
    """Start from moments, shape (n_theta,)."""
    system, q2 = objective.system, objective.eq.layout.q2
    A22 = sp.csr_array((system.aval, system.aidx, system.aptr), shape=(q2, q2))
    return moment_start(objective.eq, A22)
