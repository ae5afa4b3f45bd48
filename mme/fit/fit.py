"""One fit from beginning to end: read this file first.

Design -> Equations (cross-products, built once) -> minimise over the relative covariance -> Fit (frozen).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Unpack

import numpy as np

from ..engine.direct.objective import Objective
from ..engine.equations.design import Design
from ..engine.equations.equations import Equations, build_equations
from ..engine.equations.layout import layout_of
from ..engine.equations.moments import check_identified
from ..engine.kernels import watch
from ..engine.runtime.notices import Progress, say_once
from ..engine.runtime.parallel import single_threaded_blas
from ..engine.runtime.warm import Helper
from ..exceptions import OptionError
from .checks import check_search, check_start
from .costs import direct_seconds
from .curved import direct_if_curved
from .direct import fit_direct
from .forecast import Preflight, check_rows, forecast, iterative_hint, refuse
from .options import SOLVERS, IterativeArguments, IterativeOptions, Route, check_solver, route_of
from .record import Clock, Fit, FitRecord

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

watch(Helper())

_FORECAST = 1_000  # order of the Schur complement, and pairs of cells, from which the cost is predicted
_FORECAST_PAIRS = 1e8
_MANY_ROWS = 1_000_000  # from which the equations' own memory is predicted before they are built
_LONG = 5.0  # predicted seconds of a direct fit from which a progress bar shows


def fit_design(
    design: Design,
    *,
    reml: bool = True,
    theta0: tuple[np.ndarray, ...] | None = None,
    solver: str = "auto",
    max_evaluations: int = 200,
    tol: float = 1e-8,
    starts: int | None = None,
    perfect: str = "raise",
    equations: Equations | None = None,
    **iterative: Unpack[IterativeArguments],
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
        Most factorizations allowed (direct), most steps (iterative); at least 1.
    tol : float
        Stop when the predicted decrease of the deviance is below this (direct); positive and at most 1.
    starts : int, optional
        Searches from different starts (direct); by default as many as seem needed where they cost little, one
        from a `theta0` that is given. `FitRecord.starts` and `modes` say how many there were and how many
        minima they found.
    perfect : {"raise", "limit"}
        A response that fixed and random effects together explain exactly has no residual variance, and a
        likelihood without bound: raise `PerfectFitError`, or return the limit sigma -> 0 with
        `converged` False and an infinite log-likelihood.
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
    OptionError, DataError
        Values of the options, or a start, that make no sense.
    MemoryEstimateError
        The fit is predicted not to fit in memory.
    PerfectFitError
        The model explains the response exactly (see `perfect`).
    """
    route = direct_if_curved(route_of(solver), design)
    tol, max_evaluations = check_search(tol, max_evaluations)
    if theta0 is not None:
        theta0 = check_start(theta0, design)
    if perfect not in ("raise", "limit"):
        raise OptionError(f"perfect must be 'raise' or 'limit', not {perfect!r}.")
    if starts is not None and (isinstance(starts, bool) or not isinstance(starts, Integral) or starts < 1):
        raise OptionError(f"starts must be a positive integer or None, not {starts!r}.")
    with single_threaded_blas():
        options = IterativeOptions(**iterative)
        return _fit(design, reml, theta0, route, max_evaluations, tol, starts, perfect, equations, options)


def _fit(
    design: Design,
    reml: bool,
    theta0: tuple[np.ndarray, ...] | None,
    route: Route,
    max_evaluations: int,
    tol: float,
    starts: int | None,
    perfect: str,
    equations: Equations | None,
    options: IterativeOptions,
) -> Fit:
    clock = Clock()
    if equations is None:
        equations = equations_of(design)
    check_identified(design, equations)
    clock.lap("equations")
    plan = planned(design, equations, route, probes=options.probes)
    if plan is not None and plan.solver == "iterative":
        from .iterative import fit_iterative

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
    return fit_direct(
        design,
        equations,
        reml=reml,
        theta0=theta0,
        factorization=route.factorization,
        plan=None if plan is None else plan.schur,
        max_evaluations=max_evaluations,
        tol=tol,
        starts=starts,
        perfect=perfect,
        clock=clock,
        progress=partial(_progress, plan, options.progress),
    )


def equations_of(design: Design) -> Equations:
    """Cross-products of a design; refused where their own memory is predicted not to suffice.

    Raises
    ------
    MemoryEstimateError
    """
    layout = layout_of(design)
    if design.n > _MANY_ROWS:
        check_rows(design, layout)
    return build_equations(design, layout)


def _progress(plan: Preflight | None, show: bool | None, objective: Objective, started: bool) -> Progress:
    """The bar of a direct fit; where it is predicted to be long, also whether another path is faster."""
    if plan is None:
        return Progress(show, long=False)
    # S was analysed since: the forecast's flops may be a bound
    seconds = direct_seconds(objective.eq, objective.plan.flops, started)
    plan = replace(plan, direct_seconds=seconds)
    long = seconds > _LONG
    hint = iterative_hint(plan) if long and show is not False else ""
    if hint:
        say_once("iterative", hint)
    return Progress(show, long=long)


def planned(
    design: Design, equations: Equations, route: Route, likelihood: bool = False, probes: int = 12
) -> Preflight | None:
    """Predicted cost and choice of path; refuses what does not fit in memory.

    Parameters
    ----------
    design : Design
    equations : Equations
    route : Route
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
    if route.path != "iterative" and q2 <= _FORECAST and float(partners @ partners) <= _FORECAST_PAIRS:
        return None
    plan = forecast(design, equations, route, count=False, probes=probes)
    refuse(plan, likelihood)
    return plan
