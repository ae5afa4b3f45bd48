"""The direct fit: objective, start, search from one or more starts, what the optimum is like, solution."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ..engine.direct.careful import CarefulObjective, is_small
from ..engine.direct.objective import Objective
from ..engine.direct.plan import Plan
from ..engine.equations.design import Design
from ..engine.equations.equations import Equations
from ..engine.equations.moments import moment_start
from ..engine.runtime.notices import Progress
from ..engine.search.coordinates import Coordinates, term_specs
from ..engine.search.curve import Curve, is_curved
from ..engine.search.optimizer import Minimum, minimise
from ..exceptions import EXPLAINED, ConvergenceError, PerfectFitError
from .curved import flat_parameters, search_curved
from .flat import flat_directions
from .modes import search_modes
from .outcome import Outcome
from .perfect import ADDED, CLOSER, explains_exactly, limit_equations, may_explain
from .record import Clock, Fit, FitRecord, assemble_fit

__all__ = ["Outcome", "fit_direct", "search_minimum"]

_MOVED = 1e-3  # relative change of a variance from which a limit is taken closer
_ORTHOGONAL = "orthogonal factorizations of the rows (LAPACK)"
_HUGE = 1.0 - 1e-5  # reliability from which the same is done
_ROUGH = 1e-7  # rounding error of the deviance at an optimum that is looked at more closely
_CHEAP_START = 3_000  # order of a dense Schur complement from which an iterative start pays


def fit_direct(
    design: Design,
    equations: Equations,
    *,
    reml: bool,
    theta0: tuple[np.ndarray, ...] | None,
    factorization: str,
    plan: Plan | None,
    max_evaluations: int,
    tol: float,
    starts: int | None,
    perfect: str,
    clock: Clock,
    progress: Callable[[Objective, bool], Progress],
) -> Fit:
    """Fit by factorizations; parameters as in `mme.fit.fit_design`.

    Parameters
    ----------
    factorization : str
        Of the Schur complement: see `mme.engine.direct.plan.make_plan`.
    plan : Plan or None
        Made for it already.
    clock : Clock
    progress : callable (objective, started) -> Progress
        Opens the bar of the first search; `started` says that its start is an iterative one.
    """
    fit = partial(_fit, design, reml=reml, clock=clock, progress=progress, factorization=factorization)
    try:
        return fit(
            equations, plan=plan, theta0=theta0, max_evaluations=max_evaluations, tol=tol, starts=starts
        )
    except PerfectFitError:
        if perfect == "raise":
            raise
    limit = fit(
        limit_equations(equations),
        theta0=None,
        max_evaluations=max_evaluations,
        tol=min(tol, 1e-12),
        starts=1,
        limit=True,
    )
    record = replace(
        limit.record,
        converged=False,
        perfect=True,
        message="the model explains the response exactly; this is the limit of a residual variance of zero",
    )
    return replace(limit, record=record, deviance=-np.inf, loglik=np.inf)


def _fit(
    design: Design,
    equations: Equations,
    reml: bool,
    theta0: tuple[np.ndarray, ...] | None,
    clock: Clock,
    progress: Callable[[Objective, bool], Progress],
    *,
    factorization: str,
    max_evaluations: int,
    tol: float,
    starts: int | None,
    plan: Plan | None = None,
    limit: bool = False,
) -> Fit:
    objective = Objective(design, reml, factorization, equations, plan)
    clock.lap("structure")
    large = equations.layout.q2 > _CHEAP_START and objective.plan.dense
    started = theta0 is None and large and not is_curved(equations.layout)
    with contextlib.closing(progress(objective, started)) as bar:
        if theta0 is None:
            start = moment_start(equations)
            if started:
                # not imported before a large model wants it
                from ..engine.iterative.root import iterative_start

                root = iterative_start(equations, equations.from_standard(start), reml)
                start = equations.to_standard(root)
        else:
            start = equations.to_standard(np.concatenate(theta0))
            starts = starts or 1
        clock.lap("start")

        def note(step: int, deviance: float, decrement: float) -> None:
            bar.report(step, deviance=f"{deviance:.10g}", to_go=f"{decrement:.1e}")

        watch = note if bar.show else None
        outcome = search_minimum(design, objective, start, max_evaluations, tol, starts, watch, limit)
    clock.lap("evaluations")
    minimum = outcome.best
    if isinstance(outcome.space, Curve):
        flat, flat_fixed = flat_parameters(design, outcome.objective, outcome.space, minimum)
    else:
        flat, flat_fixed = flat_directions(design, outcome.objective, outcome.space, minimum)
    solution = outcome.objective.solution(minimum.theta, standard=True)
    clock.lap("solution")
    record = FitRecord(
        converged=minimum.converged,
        message=minimum.message,
        evaluations=minimum.evaluations,
        all_evaluations=outcome.evaluations,
        iterations=minimum.iterations,
        gradient_norm=minimum.gradient_norm,
        newton_decrement=minimum.decrement,
        solver=outcome.solver,
        singular=tuple(design.terms[t].name for t in minimum.singular),
        seconds=clock.seconds,
        history=tuple(minimum.history),
        starts=outcome.starts,
        modes=outcome.seen,
        flat=flat,
        flat_fixed=flat_fixed,
    )
    return assemble_fit(design, objective, solution["theta"], solution, record, solution["deviance"])


def search_minimum(
    design: Design,
    objective: Objective,
    start: np.ndarray,
    max_evaluations: int,
    tol: float,
    starts: int | None,
    callback: Callable[[int, float, float], None] | None = None,
    limit: bool = False,
    space: Coordinates | Curve | None = None,
    compiled: bool = False,
) -> Outcome:
    """Search by factorizations; again by orthogonal ones where rounding or an exact fit is in the way.

    Parameters
    ----------
    design : Design
    objective : Objective
    start : ndarray, shape (n_theta,)
        In the equations' basis.
    max_evaluations, tol, starts
        As in `mme.fit.fit_design`.
    callback : callable (iteration, deviance, decrement), optional
    limit : bool
        In the limit of an exact fit (`limit_equations`) there is nothing more to be asked of the rows.
    space : Coordinates or Curve, optional
        Of the design, where they are there already.
    compiled : bool
        Take every step in compiled code where there is some, not only as soon as a first search has to.
    """
    if isinstance(space, Curve) or is_curved(objective.eq.layout):
        assert not isinstance(space, Coordinates)
        return search_curved(design, objective, start, max_evaluations, tol, starts, callback, limit, space)
    if space is None:
        space = Coordinates(term_specs(objective.eq, standard=True))
    small = design.has_rows and is_small(objective.eq)

    def search(
        target: Objective | CarefulObjective,
        begin: np.ndarray,
        callback: Callable[[int, float, float], None] | None = None,
        known: Sequence[float] = (),
    ) -> Minimum:
        already = target.n_factorizations
        small = target.small if isinstance(target, Objective) else None
        return minimise(
            partial(target.evaluate, standard=True),
            begin,
            space,
            tol=tol,
            max_evaluations=max_evaluations,
            count=lambda: target.n_factorizations - already,
            callback=callback,
            known=known,
            answer=None if small is None else small.answer,
            compiled=compiled,
        )

    outcome = None
    try:
        first = search(objective, start, callback)
        compiled = compiled or first.compiled
        modes = search_modes(objective, first, space, partial(search, objective), starts)
        outcome = Outcome(
            objective,
            space,
            modes.best,
            modes.seen,
            modes.starts,
            objective.n_factorizations,
            objective.solver_name,
        )
    except (ConvergenceError, PerfectFitError):
        if not small or limit:
            raise
    if limit:
        assert outcome is not None
        return _closer(design, objective, outcome, search) if small else outcome
    exact = outcome is None or may_explain(objective, space, outcome.best)
    if exact and not small and explains_exactly(objective, space):
        raise PerfectFitError(EXPLAINED)
    best = None if outcome is None else outcome.best
    # a search that was ended by its limit is not taken up again
    stuck = best is not None and not best.converged and best.evaluations < max_evaluations
    rough = (
        best is None
        or stuck
        or best.evaluation.noise > _ROUGH
        # levels whose columns are nearly dependent lose more than the estimate says
        or space.at(best.theta).largest() > _HUGE
    )
    if not small or not (exact or rough):
        assert outcome is not None
        return outcome
    careful = CarefulObjective(design, objective)
    if exact and careful.explains_exactly():
        raise PerfectFitError(EXPLAINED)
    if not rough:
        assert outcome is not None
        return outcome
    first = search(careful, start if best is None else best.theta)
    modes = search_modes(objective, first, space, partial(search, careful), starts)
    return Outcome(
        careful,
        space,
        modes.best,
        modes.seen,
        modes.starts + (0 if outcome is None else outcome.starts),
        objective.n_factorizations + careful.n_factorizations,
        _ORTHOGONAL,
    )


def _closer(
    design: Design, objective: Objective, outcome: Outcome, search: Callable[..., Minimum]
) -> Outcome:
    """The limit of an exact fit with less residual variation, where the usual one hides a small term."""
    careful = CarefulObjective(design, objective, unexplained=CLOSER)
    best = search(careful, outcome.best.theta * np.sqrt(ADDED / CLOSER))
    if not best.converged:
        return outcome
    before = outcome.best.evaluation.sigma2 * outcome.best.theta**2
    after = best.evaluation.sigma2 * best.theta**2
    if np.all(np.abs(after - before) <= _MOVED * np.maximum(after, before)):
        return outcome
    return replace(
        outcome,
        objective=careful,
        best=best,
        evaluations=outcome.evaluations + careful.n_factorizations,
        solver=_ORTHOGONAL,
    )
