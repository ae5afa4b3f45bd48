"""The iterative path from equations to `Fit`: read `mme.engine.iterative.root` for the search itself.

Two doors lead back to the direct path where it is affordable. `exact_steps` continues the search from the
stochastic root with the exact gradient: one or two steps remove the Monte Carlo error of every estimate, of
which the standard errors of the fixed effects depend on theta to first order. And the log-likelihood is
computed by one factorization where that is no slower than quadrature, or small and quadrature too noisy.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from ..engine.direct.objective import Objective
from ..engine.equations.design import Design
from ..engine.equations.equations import Equations
from ..engine.equations.moments import moment_start
from ..engine.iterative.lanczos import logdet
from ..engine.iterative.objective import IterativeObjective
from ..engine.iterative.related import RelatedObjective
from ..engine.iterative.root import Root, find_root, monte_carlo
from ..engine.iterative.state import IterativeSolution
from ..engine.runtime.memory import available_memory
from ..engine.runtime.notices import Progress
from ..engine.search.coordinates import term_specs
from ..engine.search.optimizer import minimise
from ..exceptions import MemoryEstimateError
from .costs import factor_seconds, quadrature_seconds
from .forecast import forecast, refuse
from .options import route_of
from .record import Clock, Fit, FitRecord, assemble_fit

if TYPE_CHECKING:
    from .options import IterativeOptions

__all__ = ["fit_iterative", "start_of"]

# The log-likelihood by one factorization: order of S, seconds that need no comparison, seconds at most
_SMALL, _INSTANT, _SHORT = 2_000, 0.01, 0.5
_NOISY = 0.02  # error of the deviance by quadrature from which a short factorization replaces it


def fit_iterative(
    design: Design,
    equations: Equations,
    *,
    reml: bool,
    theta0: tuple[np.ndarray, ...] | None,
    options: IterativeOptions,
    max_steps: int,
    tol: float,
    clock: Clock,
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
    tol : float
        Of the exact steps, as in `mme.engine.search.optimizer.minimise`.
    clock : Clock

    Returns
    -------
    Fit
        `Fit.monte_carlo` holds standard errors and Monte Carlo errors; `Fit.objective` is the
        `IterativeObjective`. After exact steps it is as a direct fit: nothing in it is stochastic, so
        `monte_carlo` is None, and `Fit.objective` is the `Objective`.

    Raises
    ------
    MemoryEstimateError
        Exact steps are wanted and a direct factor is predicted not to fit in memory.
    """

    if options.exact_steps:
        _check_exact_steps(design, equations, options.exact_steps)
    related = any(block.relation is not None for block in equations.layout.blocks)
    kind = RelatedObjective if related else IterativeObjective
    objective = kind(equations, reml, options.probes, options.seed)
    clock.lap("structure")
    start = start_of(objective) if theta0 is None else np.concatenate(theta0)
    clock.lap("start")
    progress = Progress(options.progress)

    def note(step: int, gradient: float, cg: int, probes: int) -> None:
        progress.report(step, gradient=f"{gradient:.1e}", CG_iterations=cg, probes=probes)

    try:
        root = find_root(
            objective,
            start,
            goal=options.goal,
            max_steps=max_steps,
            max_probes=options.max_probes,
            polish=options.exact_steps == 0,
            accuracy=options.accuracy,
            progress=note,
        )
    finally:
        progress.close()
    clock.lap("evaluations")
    if options.exact_steps:
        return _exact_fit(design, objective, root, options.exact_steps, tol, clock)
    errors = monte_carlo(objective, root, options.accuracy)
    solution = objective.solution(root.theta, options.solve_tol)
    clock.lap("solution")
    deviance, error = np.nan, np.nan
    if options.loglik_probes:
        deviance, error = _deviance(design, objective, root, solution, options.loglik_probes)
        clock.lap("loglik")
    errors = replace(errors, cg_iterations=objective.cg_iterations, loglik_error=0.5 * error)
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
    return assemble_fit(design, objective, root.theta, solution, record, deviance, errors)


def _deviance(
    design: Design, objective: IterativeObjective, root: Root, solution: IterativeSolution, probes: int
) -> tuple[float, float]:
    """Deviance at the root and its Monte Carlo standard error; exact where that pays."""
    seconds = _exact_seconds(objective.eq)
    quadrature = quadrature_seconds(objective.eq, probes + objective.system.n_components)
    if seconds <= max(_INSTANT, quadrature):
        return _exact_deviance(design, objective, root), 0.0
    value, error = logdet(objective.quadrature_system, objective.fresh_probes(probes))
    value -= objective.known_logdet
    if error > _NOISY and seconds <= _SHORT:
        return _exact_deviance(design, objective, root), 0.0
    nu, sigma2 = objective.nu, float(solution["sigma2"])
    value += float(solution["logdet"]) + nu * (1.0 + np.log(2.0 * np.pi * sigma2))
    return value - objective.eq.log_w, error


def _exact_seconds(eq: Equations) -> float:
    """Of assembling and factoring S, about; infinite where it is not small or hardly fits."""
    q2 = eq.layout.q2
    if q2 > _SMALL or (q2 > 100 and 32.0 * q2 * q2 > available_memory()):
        return np.inf
    return factor_seconds(eq, q2**3 / 3.0)


def _exact_deviance(design: Design, objective: IterativeObjective, root: Root) -> float:
    direct = Objective(design, reml=objective.reml, equations=objective.raw_equations)
    return direct.evaluate(root.theta, 0).deviance


# -- exact steps ---------------------------------------------------------------------------------------------


def _check_exact_steps(design: Design, equations: Equations, steps: int) -> None:
    plan = forecast(design, equations, route_of("direct"))
    try:
        refuse(plan)
    except MemoryEstimateError as error:
        raise MemoryEstimateError(
            f"exact_steps={steps} needs a direct factor; leave it out for an iterative fit alone. What the "
            f"factor would take: {error}"
        ) from error


def _exact_fit(
    design: Design, objective: IterativeObjective, root: Root, steps: int, tol: float, clock: Clock
) -> Fit:
    """The direct search from the root of the stochastic one, at most so many accepted steps."""

    direct = Objective(design, reml=objective.reml, equations=objective.raw_equations)
    accepted = [0]

    def note(iteration: int, deviance: float, decrement: float) -> None:
        accepted[0] = iteration

    minimum = minimise(
        partial(direct.evaluate, standard=True),
        direct.eq.to_standard(root.theta),
        term_specs(direct.eq, standard=True),
        tol=tol,
        max_evaluations=steps,
        count=lambda: accepted[0],
        callback=note,
    )
    clock.lap("exact steps")
    message = minimum.message
    if not minimum.converged and accepted[0] >= steps:
        message = (
            f"the exact steps allowed ({steps}) do not suffice: the deviance could fall by another "
            f"{minimum.decrement:.1g}; allow more (exact_steps), or use solver='direct'"
        )
    solution = direct.solution(minimum.theta, standard=True)
    clock.lap("solution")
    evaluations = direct.n_factorizations
    record = FitRecord(
        converged=minimum.converged,
        message=message,
        evaluations=objective.n_evaluations + evaluations,
        iterations=root.iterations + minimum.iterations,
        gradient_norm=minimum.gradient_norm,
        newton_decrement=minimum.decrement,
        solver=f"{objective.solver_name}, {objective.cg_iterations} iterations, {objective.n_probes} probes; "
        f"then {direct.solver_name}, {evaluations} exact evaluation{'' if evaluations == 1 else 's'}",
        singular=tuple(design.terms[t].name for t in minimum.singular),
        seconds=clock.seconds,
        history=tuple(minimum.history),
    )
    return assemble_fit(design, direct, solution["theta"], solution, record, solution["deviance"])


def start_of(objective: IterativeObjective) -> np.ndarray:
    """Start from moments, shape (n_theta,)."""
    system, q2 = objective.system, objective.eq.layout.q2
    A22 = sp.csr_array((system.aval, system.aidx, system.aptr), shape=(q2, q2))
    return objective.eq.from_standard(moment_start(objective.raw_equations, A22))
