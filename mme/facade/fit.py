"""How a MixedLM is fitted: by the engine, or over packed parameters (penalties, fixed values)."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from statsmodels.base._penalties import Penalty
from statsmodels.tools.sm_exceptions import ConvergenceWarning as SmConvergenceWarning
from statsmodels.tools.sm_exceptions import SingularMatrixWarning, ValueWarning

from ..engine.covariance.structure import DIAGONAL, FULL, Structure
from ..exceptions import ConvergenceWarning, PerfectFitError
from ..fit.fit import fit_design
from ..fit.options import IterativeOptions, check_solver
from ..fit.perfect import is_closer
from ..fit.record import Fit
from ..report.notices import warn_of_fit
from ..report.summary import in_words
from .design.params import MixedLMParams
from .names import result_class
from .options import ITERATIVE, check_kwargs, check_objects, check_reml, method_names, start_of
from .penalty import CovariancePenalty, FixedPenalty
from .results.iterative import IterativeMixedLMResults
from .results.results import MixedLMResults, MixedLMResultsWrapper
from .scipy_search import DECREMENT, Conditions, Outcome, by_scipy, default_start, fixed_fe
from .structured import pattern_free, refuse_searches

if TYPE_CHECKING:
    from .protocol import MixedModel

__all__ = ["BoundaryWarning", "fit_model", "fit_regularized"]

# Predicted decrease of the deviance where the engine stops: parameters then are within 1e-5 of their
# standard errors of the optimum.
_TOL = 1e-10


class NotConvergedWarning(ConvergenceWarning, SmConvergenceWarning):
    """`mme.exceptions.ConvergenceWarning` that filters of statsmodels' own catch too."""


class BoundaryWarning(SingularMatrixWarning, SmConvergenceWarning):
    """The estimated covariance of the random effects is singular: the estimate is on the boundary."""


def fit_model(
    model: MixedModel,
    start_params: Any,
    reml: bool,
    niter_sa: int,
    do_cg: bool,
    fe_pen: FixedPenalty | None,
    cov_pen: CovariancePenalty | None,
    free: MixedLMParams | None,
    full_output: bool,
    method: str | list[str] | None,
    solver: str,
    fit_kwargs: dict[str, Any],
) -> MixedLMResultsWrapper:
    """See `MixedLM.fit`."""
    model.need_data()
    check_solver(solver)
    options = check_kwargs(fit_kwargs, iterative=True)
    iterative = {name: options.pop(name) for name in ITERATIVE if name in options}
    if iterative:
        IterativeOptions(**iterative)  # refuses senseless ones, whatever the solver
    methods = method_names(method)
    check_objects(free, fe_pen, cov_pen)
    structure = model.covariance
    given = {"free": free, "fe_pen": fe_pen, "cov_pen": cov_pen, "method": method}
    refuse_searches(structure, ", ".join(f"{name}=" for name, value in given.items() if value is not None))
    if free is None:
        free = pattern_free(structure, model.k_fe, model.k_re, model.k_vc)
    if niter_sa > 0:
        warnings.warn("niter_sa is currently ignored", ValueWarning, stacklevel=3)
    start = start_of(model, start_params)
    reml = check_reml(reml)
    pattern = _engine_structure(model, free, start)
    exact = _needs_likelihood(do_cg, methods, fe_pen, cov_pen, pattern)
    if exact and solver == "iterative":
        raise _needs_direct(exact)
    if exact:
        model.likelihood.check_memory()
    if not do_cg:
        model.likelihood.objective(reml, solver)
        here = start if start is not None else default_start(model)
        message = "not optimized (do_cg=False)"
        outcome = Outcome(here, False, {"converged": False, "message": message, "evaluations": 0}, [])
    elif not exact:
        outcome = _by_engine(model, reml, start, pattern is DIAGONAL, solver, options, iterative)
    else:
        names = methods or ["bfgs", "lbfgs"]
        if pattern is None or fe_pen is not None or cov_pen is not None:
            model.likelihood.objective(reml, solver)
            outcome = by_scipy(model, reml, start, free, fe_pen, cov_pen, names, options)
        else:
            outcome = _by_methods(model, reml, start, free, names, pattern is DIAGONAL, solver, options)
    model.reml, model.fe_pen, model.cov_pen, model._freepat = reml, fe_pen, cov_pen, free
    joint = fe_pen is not None or fixed_fe(free)
    results = _results(model, outcome, reml, fe_pen, cov_pen, free, joint and do_cg, iterative)
    results.hist = outcome.history if full_output else None
    if options.get("disp"):
        print(f"MixedLM: {outcome.retvals['message']} ({outcome.retvals['evaluations']} evaluations)")
    if do_cg:
        _report(results, outcome)
    return result_class(MixedLMResultsWrapper)(results)


def _engine_structure(
    model: MixedModel, free: MixedLMParams | None, start: MixedLMParams | None
) -> Structure | None:
    """The covariance structure that has this pattern of free parameters; None if there is none."""
    if free is None:
        return FULL
    if fixed_fe(free) or np.any(np.asarray(free.vcomp) == 0):
        return None
    pattern = np.asarray(free.cov_re) != 0
    if pattern.all():
        return FULL
    off = ~np.eye(model.k_re, dtype=bool)
    uncorrelated = start is None or not np.any(np.asarray(start.cov_re)[off])
    return DIAGONAL if np.array_equal(pattern, ~off) and uncorrelated else None


def _needs_likelihood(
    do_cg: bool,
    methods: list[str],
    fe_pen: FixedPenalty | None,
    cov_pen: CovariancePenalty | None,
    pattern: Structure | None,
) -> str:
    """What was asked for that only the exact likelihood can do; empty if nothing."""
    asked = {
        "do_cg=False": not do_cg,
        f"method={', '.join(methods)}": bool(methods),
        "fe_pen": fe_pen is not None,
        "cov_pen": cov_pen is not None,
        "this pattern of free parameters": pattern is None,
    }
    return " and ".join(name for name, yes in asked.items() if yes)


def _needs_direct(what: str) -> ValueError:
    return ValueError(
        f"{what} needs the exact likelihood, which solver='iterative' does not have. Use solver='direct' if "
        "model.preflight() says that its memory and time are affordable."
    )


def _by_methods(
    model: MixedModel,
    reml: bool,
    start: MixedLMParams | None,
    free: MixedLMParams | None,
    methods: list[str],
    diagonal: bool,
    solver: str,
    options: dict[str, Any],
) -> Outcome:
    """Scipy's methods on the function that the engine maximizes too.

    Without a start they begin at the engine's optimum, and have nothing left to do where the optimality
    conditions hold there.  From a start that was given they search themselves; where the conditions fail at
    the end, the engine goes on from there, unless `maxiter` ended the search.
    """
    solver = "direct" if solver == "auto" else solver
    names = ", ".join(methods)
    if start is None:
        outcome = _by_engine(model, reml, None, diagonal, solver, {}, {})
        if outcome.converged:
            reason = f"{outcome.retvals['reason']}; {names} began there and had nothing to improve"
            return replace(outcome, retvals={**outcome.retvals, "reason": reason})
        if outcome.perfect:
            return outcome
        start = outcome.params
    model.likelihood.objective(reml, solver)
    try:
        found = by_scipy(
            model, reml, start, free, None, None, methods, options,
            lambda params: _conditions(model, reml, params, diagonal, solver),
        )  # fmt: skip
    except (PerfectFitError, np.linalg.LinAlgError):
        # the method went where nothing can be computed; the engine says what is the matter there
        return _by_engine(model, reml, None, diagonal, solver, {}, {})
    if found.converged or found.limited:
        return found
    after = _by_engine(model, reml, found.params, diagonal, solver, {}, {})
    reason = f"{names} ended where the optimality conditions fail; then {after.retvals['reason']}"
    if after.perfect:
        return after
    counts = {k: found.retvals[k] + after.retvals[k] for k in ("evaluations", "iterations")}
    retvals = {**after.retvals, **counts, "reason": reason}
    retvals["message"] = in_words(after.converged, retvals["gradient_norm"], retvals["iterations"], reason)
    return replace(after, retvals=retvals, history=found.history + after.history)


def _conditions(
    model: MixedModel, reml: bool, params: MixedLMParams, diagonal: bool, solver: str
) -> Conditions:
    """The engine's optimality conditions, boundaries included, at given parameters."""
    record = _engine_fit(model, reml, params, diagonal, solver, {"max_evaluations": 1}).record
    hold = record.converged or record.newton_decrement < DECREMENT
    return Conditions(hold, record.newton_decrement, record.gradient_norm)


def _engine_fit(
    model: MixedModel,
    reml: bool,
    start: MixedLMParams | None,
    diagonal: bool,
    solver: str,
    more: dict[str, Any],
) -> Fit:
    design = model.design(diagonal)
    theta0 = None
    if start is not None:
        lams = model.likelihood.factors(start.cov_re, start.vcomp)
        theta0 = tuple(t.structure.theta(lam) for lam, t in zip(lams, design.terms, strict=True))
    equations = None if diagonal else model.likelihood.equations
    return fit_design(
        design,
        reml=reml,
        theta0=theta0,
        tol=_TOL,
        solver=solver,
        perfect="limit",
        equations=equations,
        **more,
    )


def _by_engine(
    model: MixedModel,
    reml: bool,
    start: MixedLMParams | None,
    diagonal: bool,
    solver: str,
    options: dict[str, Any],
    iterative: dict[str, Any],
) -> Outcome:
    more = dict(iterative)
    if options.get("maxiter") is not None:
        more["max_evaluations"] = options["maxiter"]
    fit = _engine_fit(model, reml, start, diagonal, solver, more)
    if fit.record.perfect and is_closer(fit.sigma2 * fit.nu, fit.objective.yy):
        raise PerfectFitError(
            "the model explains the response exactly, by terms of so different variances "
            f"({', '.join(t.name for t in fit.design.terms)}) that standard errors in the limit of no "
            "residual variance are lost to rounding. mme.lmer(..., perfect='limit') gives those of the fixed "
            "effects."
        )
    if not diagonal and not fit.record.perfect:
        model.likelihood.adopt(fit.objective)
    lams = list(fit.lam)
    cov_re = lams[0] @ lams[0].T if model.k_re else np.empty((0, 0))
    vcomp = np.array([lam[0, 0] ** 2 for lam in lams[1 if model.k_re else 0 :]])
    record = fit.record
    retvals = {
        "converged": record.converged,
        "message": in_words(record.converged, record.gradient_norm, record.iterations, record.message),
        "reason": record.message,
        "evaluations": record.evaluations,
        "iterations": record.iterations,
        "gradient_norm": record.gradient_norm,
        "newton_decrement": record.newton_decrement,
        "solver": record.solver,
        "seconds": record.seconds,
    }
    errors = fit.monte_carlo
    if errors is not None:
        retvals |= {"cg_iterations": errors.cg_iterations, "probes": errors.probes, "seed": errors.seed}
    params = MixedLMParams.from_components(fit.beta, cov_re=cov_re, vcomp=vcomp)
    history = [{"deviance": list(record.history), **retvals}]
    iterative_fit = None if errors is None else fit
    return Outcome(
        params,
        record.converged,
        retvals,
        history,
        fit.sigma2,
        fit.loglik,
        iterative_fit,
        notes=tuple(record.warnings()),
        perfect=record.perfect,
    )


def _results(
    model: MixedModel,
    outcome: Outcome,
    reml: bool,
    fe_pen: FixedPenalty | None,
    cov_pen: CovariancePenalty | None,
    free: MixedLMParams | None,
    keep_fe: bool,
    iterative: dict[str, Any],
) -> MixedLMResults:
    """Results object at the parameters found; `iterative` are the settings of an iterative fit."""
    params, scale, llf = outcome.params, outcome.scale, outcome.llf
    if scale is None or llf is None:
        likelihood = model.likelihood
        point = likelihood.at(params.cov_re, params.vcomp, reml)
        if not keep_fe:
            params = MixedLMParams.from_components(point.beta, cov_re=params.cov_re, vcomp=params.vcomp)
        scale = point.r2(params.fe_params) / point.nu(reml)
        llf = likelihood.loglike(params, reml, not keep_fe, fe_pen, cov_pen)
    common: dict[str, Any] = {
        "scale": scale,
        "llf": llf,
        "reml": reml,
        "converged": outcome.converged,
        "retvals": outcome.retvals,
        "free": free,
    }
    if outcome.iterative is not None:
        return result_class(IterativeMixedLMResults)(
            model, params, fit=outcome.iterative, settings=iterative, **common
        )
    return result_class(MixedLMResults)(
        model, params, fe_pen=fe_pen, cov_pen=cov_pen, perfect=outcome.perfect, **common
    )


def _report(results: MixedLMResults, outcome: Outcome) -> None:
    """One warning at most per matter: dropped columns, a singular covariance, no convergence."""
    dropped = [
        str(n) for n, b in zip(results.model.exog_names, results.fe_params, strict=True) if np.isnan(b)
    ]
    notes = list(outcome.notes)
    names = results.boundary
    if names:
        text = (
            "The random effects covariance matrix is singular: the MLE may be on the boundary of the "
            f"parameter space ({', '.join(names)}). Estimates and log-likelihood are right; a simpler model "
            "fits as well."
        )
        notes.insert(0, (text, BoundaryWarning))
    trouble = ""
    if not outcome.converged and not outcome.perfect:
        r = outcome.retvals
        trouble = (
            f"MixedLM did not converge: {r['message']} (predicted further decrease of the deviance "
            f"{r['newton_decrement']:.2g}, {r['evaluations']} evaluations). Raise maxiter, or start "
            "elsewhere."
        )
    warn_of_fit(dropped, notes, trouble, NotConvergedWarning)


def fit_regularized(
    model: MixedModel,
    method: Any,
    alpha: Any,
    ceps: float,
    ptol: float,
    maxit: int,
    fit_kwargs: dict[str, Any],
) -> MixedLMResultsWrapper:
    """See `MixedLM.fit_regularized`."""
    if isinstance(method, Penalty):
        method.alpha = alpha
        return model.fit(**{**fit_kwargs, "fe_pen": method})
    if not isinstance(method, str) or method.lower() != "l1":
        raise ValueError(f"Invalid regularization method {method!r}; use 'l1' or a penalty object.")
    weights = np.broadcast_to(np.asarray(alpha, dtype=np.float64), (model.k_fe,))
    solver = fit_kwargs.get("solver", "auto")
    if solver == "iterative":
        raise _needs_direct("fit_regularized")
    model.likelihood.check_memory()
    base = model.fit(**{**fit_kwargs, "solver": "direct" if solver == "auto" else solver})._results
    params = base.params_object
    point = model.likelihood.at(params.cov_re, params.vcomp, base.reml)
    kept = model.likelihood.kept
    # (y - Xb)'V^-1(y - Xb) + sum alpha |b| needs the cross-products only
    Q = point.xvx() / base.scale
    beta = point.beta[kept].copy()
    c = Q @ beta
    w = weights[kept]
    for _ in range(maxit):
        before = beta.copy()
        for j in range(beta.size):
            pull = c[j] - Q[j] @ beta + Q[j, j] * beta[j]
            beta[j] = np.sign(pull) * max(abs(pull) - w[j] / 2, 0.0) / Q[j, j]
        if np.max(np.abs(beta - before), initial=0.0) < ptol:
            converged = True
            break
    else:
        converged = beta.size == 0
    beta[np.abs(beta) < ceps] = 0.0
    full = np.full(model.k_fe, np.nan)
    full[kept] = beta
    params = MixedLMParams.from_components(full, cov_re=params.cov_re, vcomp=params.vcomp)
    reml = base.reml
    results = result_class(MixedLMResults)(
        model,
        params,
        scale=point.r2(full) / point.nu(reml),
        llf=model.likelihood.loglike(params, reml, False),
        reml=reml,
        converged=converged and base.converged,
        retvals=base.mle_retvals,
        fe_pen=None,
        cov_pen=base.cov_pen,
        free=base.freepat,
        regularized=True,
    )
    results.hist = None
    return result_class(MixedLMResultsWrapper)(results)
