"""How a MixedLM is fitted: by the engine, or over packed parameters (penalties, fixed values)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize
from statsmodels.base._penalties import Penalty
from statsmodels.tools.sm_exceptions import ConvergenceWarning, SingularMatrixWarning, ValueWarning

from . import fit as engine
from .covariance import lam_to_theta
from .exceptions import RankDeficientWarning
from .hints import option_hint
from .mixedlm_iterative import IterativeMixedLMResults
from .mixedlm_params import MixedLMParams
from .mixedlm_results import MixedLMResults, MixedLMResultsWrapper

if TYPE_CHECKING:
    from .mixed_linear_model import MixedLM

__all__ = ["BoundaryWarning", "Outcome", "check_kwargs", "fit_model", "fit_regularized", "scipy_minimize"]

_ITERATIVE = tuple(f.name for f in fields(engine.IterativeOptions))
_ALLOWED = ("gtol", "maxiter", "eps", "maxcor", "ftol", "tol", "disp", "maxls")
_SCIPY = {
    "bfgs": "BFGS",
    "lbfgs": "L-BFGS-B",
    "l-bfgs-b": "L-BFGS-B",
    "cg": "CG",
    "nm": "Nelder-Mead",
    "nelder-mead": "Nelder-Mead",
    "powell": "Powell",
    "slsqp": "SLSQP",
    "tnc": "TNC",
    "cobyla": "COBYLA",
    "trust-constr": "trust-constr",
}
_OPTIONS = {
    "BFGS": ("gtol", "maxiter", "eps", "disp"),
    "CG": ("gtol", "maxiter", "eps", "disp"),
    "L-BFGS-B": ("gtol", "ftol", "maxiter", "eps", "maxcor", "maxls"),
    "TNC": ("gtol", "ftol", "eps"),
    "SLSQP": ("ftol", "maxiter", "eps", "disp"),
    "trust-constr": ("gtol", "maxiter"),
    "Nelder-Mead": ("maxiter", "disp"),
    "Powell": ("maxiter", "disp"),
    "COBYLA": ("maxiter", "disp"),
}
# Predicted decrease of the deviance below which a search over packed parameters counts as converged.
_DECREMENT = 1e-4
# The same for the engine: parameters then are within 1e-5 of their standard errors of the optimum.
_TOL = 1e-10


class BoundaryWarning(SingularMatrixWarning, ConvergenceWarning):
    """The estimated covariance of the random effects is singular: the estimate is on the boundary."""


@dataclass(frozen=True)
class Outcome:
    """Where a search ended.

    Attributes
    ----------
    params : MixedLMParams
        Ratio scale.
    converged : bool
    retvals : dict
        evaluations, iterations, gradient_norm, newton_decrement, message, converged.
    history : list
    scale, llf : float, optional
        Residual variance and log-likelihood there, where the search knows them.
    iterative : Fit, optional
        The engine's fit, where it was iterative: the likelihood cannot be asked for more.
    """

    params: MixedLMParams
    converged: bool
    retvals: dict[str, Any]
    history: list
    scale: float | None = None
    llf: float | None = None
    iterative: engine.Fit | None = None


def check_kwargs(
    fit_kwargs: dict[str, Any], stacklevel: int = 4, allowed: tuple[str, ...] = _ALLOWED
) -> dict[str, Any]:
    """The arguments of `MixedLM.fit` that an optimizer takes; the others give a warning."""
    unknown = sorted(set(fit_kwargs) - set(allowed))
    if unknown:
        hints = [f" {name}: {hint}" for name in unknown if (hint := option_hint(name, "MixedLM.fit"))]
        warnings.warn(
            f"Argument{'s' if len(unknown) > 1 else ''} {', '.join(unknown)} not used by MixedLM.fit. "
            f"Known are {', '.join(allowed)}.{''.join(hints)}",
            FutureWarning,
            stacklevel=stacklevel,
        )
    return {k: v for k, v in fit_kwargs.items() if k in allowed}


def fit_model(
    model: MixedLM,
    start_params: Any,
    reml: bool,
    niter_sa: int,
    do_cg: bool,
    fe_pen: Any,
    cov_pen: Any,
    free: MixedLMParams | None,
    full_output: bool,
    method: str | list[str] | None,
    solver: str,
    fit_kwargs: dict[str, Any],
) -> MixedLMResultsWrapper:
    """See `MixedLM.fit`."""
    model._need_data()
    engine.check_solver(solver)
    options = check_kwargs(fit_kwargs, allowed=_ALLOWED + _ITERATIVE)
    iterative = {name: options.pop(name) for name in _ITERATIVE if name in options}
    engine.IterativeOptions(**iterative)  # refuses senseless ones, whatever the solver
    methods = [method] if isinstance(method, str) else list(method or [])
    for name in methods:
        if name.lower() in ("newton", "ncg"):
            raise ValueError(f"method {name} not available for MixedLM")
        if name.lower() not in _SCIPY:
            raise ValueError(f"method {name!r} is unknown; choose from {', '.join(sorted(_SCIPY))}, or None.")
    if niter_sa > 0:
        warnings.warn("niter_sa is currently ignored", ValueWarning, stacklevel=3)
    start = _start(model, start_params)
    reml = bool(reml)
    pattern = _engine_pattern(model, free, start)
    exact = _needs_likelihood(do_cg, methods, fe_pen, cov_pen, pattern)
    if exact and solver == "iterative":
        raise _needs_direct(exact)
    if exact:
        # refused here where it does not fit in memory
        model._likelihood.objective(reml, solver)
    if not do_cg:
        here = start if start is not None else _default_start(model)
        message = "not optimized (do_cg=False)"
        outcome = Outcome(here, False, {"converged": False, "message": message, "evaluations": 0}, [])
    elif not exact:
        outcome = _by_engine(model, reml, start, pattern == "diagonal", solver, options, iterative)
    else:
        outcome = _by_scipy(model, reml, start, free, fe_pen, cov_pen, methods or ["bfgs", "lbfgs"], options)
    model.reml, model.fe_pen, model.cov_pen, model._freepat = reml, fe_pen, cov_pen, free
    joint = fe_pen is not None or _fixed_fe(free)
    results = _results(model, outcome, reml, fe_pen, cov_pen, free, joint and do_cg, iterative)
    results.hist = outcome.history if full_output else None
    if options.get("disp"):
        print(f"MixedLM: {outcome.retvals['message']} ({outcome.retvals['evaluations']} evaluations)")
    if do_cg:
        _report(results, outcome)
    return MixedLMResultsWrapper(results)


def _start(model: MixedLM, start_params: Any) -> MixedLMParams | None:
    if start_params is None:
        return None
    if hasattr(start_params, "cov_re") and hasattr(start_params, "vcomp"):
        return start_params.copy()
    packed = np.asarray(start_params, dtype=np.float64)
    m = model.k_re2 + model.k_vc
    if packed.size not in (m, m + model.k_fe):
        raise ValueError(
            f"invalid start_params: {packed.size} values; expected {m} (covariance parameters) or "
            f"{m + model.k_fe} (fixed effects first)."
        )
    return MixedLMParams.from_packed(packed, model.k_fe, model.k_re, model.use_sqrt, packed.size > m)


def _default_start(model: MixedLM) -> MixedLMParams:
    return MixedLMParams.from_components(
        np.zeros(model.k_fe), cov_re=np.eye(model.k_re), vcomp=np.ones(model.k_vc)
    )


def _fixed_fe(free: MixedLMParams | None) -> bool:
    return free is not None and bool(np.any(np.asarray(free.fe_params) == 0))


def _engine_pattern(model: MixedLM, free: MixedLMParams | None, start: MixedLMParams | None) -> str | None:
    """Which design of the engine has this pattern of free parameters: "full", "diagonal" or none."""
    if free is None:
        return "full"
    if _fixed_fe(free) or np.any(np.asarray(free.vcomp) == 0):
        return None
    pattern = np.asarray(free.cov_re) != 0
    if pattern.all():
        return "full"
    off = ~np.eye(model.k_re, dtype=bool)
    uncorrelated = start is None or not np.any(np.asarray(start.cov_re)[off])
    return "diagonal" if np.array_equal(pattern, ~off) and uncorrelated else None


def _needs_likelihood(do_cg: bool, methods: list[str], fe_pen: Any, cov_pen: Any, pattern: str | None) -> str:
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


def _by_engine(
    model: MixedLM,
    reml: bool,
    start: MixedLMParams | None,
    diagonal: bool,
    solver: str,
    options: dict[str, Any],
    iterative: dict[str, Any],
) -> Outcome:
    design = model._design(diagonal)
    theta0 = None
    if start is not None:
        lams = model._likelihood.factors(start.cov_re, start.vcomp)
        theta0 = tuple(lam_to_theta(lam, t.covariance) for lam, t in zip(lams, design.terms, strict=True))
    more = dict(iterative)
    if options.get("maxiter") is not None:
        more["max_evaluations"] = int(options["maxiter"])
    equations = None if diagonal else model._likelihood.equations
    fit = engine.fit_design(
        design, reml=reml, theta0=theta0, tol=_TOL, solver=solver, equations=equations, **more
    )
    if not diagonal:
        model._likelihood.adopt(fit.objective)
    lams = list(fit.lam)
    cov_re = lams[0] @ lams[0].T if model.k_re else np.empty((0, 0))
    vcomp = np.array([lam[0, 0] ** 2 for lam in lams[1 if model.k_re else 0 :]])
    record = fit.record
    retvals = {
        "converged": record.converged,
        "message": record.message,
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
    return Outcome(params, record.converged, retvals, history, fit.sigma2, fit.loglik, iterative_fit)


def scipy_minimize(
    f: Callable[[np.ndarray], tuple[float, np.ndarray]],
    x0: np.ndarray,
    methods: list[str],
    options: dict[str, Any],
) -> Any:
    """Minimize a function that returns value and gradient, by scipy methods in turn until one converges."""
    for i, name in enumerate(methods):
        method = _SCIPY[name.lower()]
        settings = {k: v for k, v in options.items() if k in _OPTIONS[method]}
        gradient_free = method in ("Nelder-Mead", "Powell", "COBYLA")
        result = minimize(
            (lambda x: f(x)[0]) if gradient_free else f,
            x0,
            jac=None if gradient_free else True,
            method=method,
            tol=options.get("tol"),
            options=settings,
        )
        if result.success or i + 1 == len(methods):
            break
        x0 = result.x
    return result


def _by_scipy(
    model: MixedLM,
    reml: bool,
    start: MixedLMParams | None,
    free: MixedLMParams | None,
    fe_pen: Any,
    cov_pen: Any,
    methods: list[str],
    options: dict[str, Any],
) -> Outcome:
    """Maximize over the free packed parameters, fixed effects among them where they are penalized."""
    likelihood = model._likelihood
    joint = fe_pen is not None or _fixed_fe(free)
    begin = start if start is not None else _natural_start(model, free)
    if joint and (start is None or not np.any(start.fe_params)):
        begin = begin.copy()
        begin.fe_params = likelihood.at(begin.cov_re, begin.vcomp).beta
        if _fixed_fe(free):
            held = np.asarray(free.fe_params) == 0
            begin.fe_params = np.where(held, 0.0 if start is None else start.fe_params, begin.fe_params)
    use_sqrt = model.use_sqrt
    packed0 = begin.get_packed(use_sqrt=use_sqrt, has_fe=joint)
    mask = np.ones(packed0.size, dtype=bool)
    if free is not None:
        # a factor's entry is free where the covariance's is: the pattern is that of the packed vector
        pattern = np.asarray(free.cov_re)[np.tril_indices(model.k_re)]
        parts = [free.fe_params] if joint else []
        mask = np.concatenate([*map(np.ravel, parts), pattern, np.ravel(free.vcomp)]) != 0
    size = _sizes(model, begin, use_sqrt, joint)[mask]
    evaluations = 0
    history: list[float] = []

    def unpack(x: np.ndarray) -> MixedLMParams:
        packed = packed0.copy()
        packed[mask] = x * size
        return MixedLMParams.from_packed(packed, model.k_fe, model.k_re, use_sqrt, joint)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal evaluations
        evaluations += 1
        params = unpack(x)
        value = likelihood.loglike(params, reml, not joint, fe_pen, cov_pen)
        if not np.isfinite(value):
            return np.inf, np.zeros(x.size)
        if not joint:
            params.fe_params = likelihood.at(params.cov_re, params.vcomp, reml).beta
        scores = likelihood.score(params, reml, joint, fe_pen, cov_pen)
        if use_sqrt:
            scores = _to_sqrt(model, params, packed0, mask, x * size, scores, joint)
        history.append(-2.0 * value)
        return -value, -np.concatenate(scores if joint else scores[1:])[mask] * size

    x0 = packed0[mask] / size
    if x0.size:
        found = scipy_minimize(objective, x0, methods, options)
        x, message, iterations = found.x, str(found.message), int(getattr(found, "nit", 0))
    else:
        x, message, iterations = x0, "nothing to estimate", 0
    decrement, gradient_norm, definite = _decrement(objective, x)
    converged = definite and decrement < _DECREMENT
    retvals = {
        "converged": converged,
        "message": message,
        "evaluations": evaluations,
        "iterations": iterations,
        "gradient_norm": gradient_norm,
        "newton_decrement": decrement,
    }
    return Outcome(unpack(x), converged, retvals, [{"deviance": history, **retvals}])


def _natural_start(model: MixedLM, free: MixedLMParams | None) -> MixedLMParams:
    """Free variances where their reliability is about one half; fixed ones at statsmodels' start of one."""
    start = _default_start(model)
    squares = [model._likelihood.term_squares(t) for t in range(len(model._design().terms))]
    if model.k_re:
        natural = np.diag(1.0 / squares[0])
        start.cov_re = natural
        if free is not None:
            held = np.diag(np.asarray(free.cov_re)) == 0
            start.cov_re = np.diag(np.where(held, 1.0, np.diag(natural)))
    natural_vc = np.array([1.0 / s[0] for s in squares[1 if model.k_re else 0 :]])
    start.vcomp = natural_vc if free is None else np.where(np.asarray(free.vcomp) == 0, 1.0, natural_vc)
    return start


def _sizes(model: MixedLM, begin: MixedLMParams, use_sqrt: bool, joint: bool) -> np.ndarray:
    """Natural size of every packed parameter, so that the search sees all of them alike."""
    squares = [model._likelihood.term_squares(t) for t in range(len(model._design().terms))]
    parts = []
    if joint:
        norm = np.sqrt(np.einsum("ij,ij->j", model.exog, model.exog))
        spread = float(np.std(model.endog)) or 1.0
        parts.append(spread / np.where(norm > 0, norm, 1.0))
    if model.k_re:
        sd = 1.0 / np.sqrt(squares[0])
        rows, cols = np.tril_indices(model.k_re)
        parts.append(sd[rows] if use_sqrt else sd[rows] * sd[cols])
    vc = np.array([1.0 / s[0] for s in squares[1 if model.k_re else 0 :]])
    parts.append(np.sqrt(vc) if use_sqrt else vc)
    return np.concatenate(parts)


def _to_sqrt(
    model: MixedLM,
    params: MixedLMParams,
    packed0: np.ndarray,
    mask: np.ndarray,
    values: np.ndarray,
    scores: tuple[np.ndarray, np.ndarray, np.ndarray],
    joint: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores in the factor that was unpacked (its diagonal may be negative), not in D's Cholesky factor."""
    packed = packed0.copy()
    packed[mask] = values
    rest = packed[model.k_fe :] if joint else packed
    ix = np.tril_indices(model.k_re)
    root, slope = np.zeros((model.k_re, model.k_re)), np.zeros((model.k_re, model.k_re))
    root[ix], slope[ix] = rest[: model.k_re2], scores[1] / 2
    score_re = (2 * (slope + slope.T) @ root)[ix]
    return scores[0], score_re, 2 * rest[model.k_re2 :] * scores[2]


def _decrement(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]], x: np.ndarray
) -> tuple[float, float, bool]:
    """Newton decrement (in deviance), largest gradient entry, and whether the curvature is not negative."""
    if not x.size:
        return 0.0, 0.0, True
    g = objective(x)[1]
    h = 1e-4 * np.maximum(np.abs(x), 0.1)
    H = np.array(
        [
            (objective(x + s * e)[1] - objective(x - s * e)[1]) / (2 * s)
            for s, e in zip(h, np.eye(x.size), strict=True)
        ]
    )
    w, U = np.linalg.eigh(0.5 * (H + H.T))
    gd = U.T @ g
    curved = w > 1e-8 * max(w[-1], 1e-300)
    decrement = float(np.sum(gd[curved] ** 2 / w[curved]))
    flat_gradient = float(np.max(np.abs(gd[~curved]), initial=0.0))
    definite = bool(w[0] > -1e-4 * max(w[-1], 1e-300)) and flat_gradient < 1e-3
    return decrement, float(np.max(np.abs(g))), definite


def _results(
    model: MixedLM,
    outcome: Outcome,
    reml: bool,
    fe_pen: Any,
    cov_pen: Any,
    free: MixedLMParams | None,
    keep_fe: bool,
    iterative: dict[str, Any],
) -> MixedLMResults:
    """Results object at the parameters found; `iterative` are the settings of an iterative fit."""
    params, scale, llf = outcome.params, outcome.scale, outcome.llf
    if scale is None or llf is None:
        likelihood = model._likelihood
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
        return IterativeMixedLMResults(model, params, fit=outcome.iterative, settings=iterative, **common)
    return MixedLMResults(model, params, fe_pen=fe_pen, cov_pen=cov_pen, **common)


def _report(results: MixedLMResults, outcome: Outcome) -> None:
    """One warning at most per matter: dropped columns, a singular covariance, no convergence."""
    dropped = [
        str(n) for n, b in zip(results.model.exog_names, results.fe_params, strict=True) if np.isnan(b)
    ]
    if dropped:
        warnings.warn(
            f"the fixed-effects design is rank deficient: dropped {', '.join(dropped)}, which depend"
            f"{'s' if len(dropped) == 1 else ''} on earlier columns. Coefficients there are NaN.",
            RankDeficientWarning,
            stacklevel=4,
        )
    names = results.boundary
    if names:
        warnings.warn(
            "The random effects covariance matrix is singular: the MLE may be on the boundary of the "
            f"parameter space ({', '.join(names)}). Estimates and log-likelihood are right; a simpler model "
            "fits as well.",
            BoundaryWarning,
            stacklevel=4,
        )
    if not outcome.converged:
        r = outcome.retvals
        warnings.warn(
            f"MixedLM did not converge: {r['message']} (gradient {r['gradient_norm']:.2g}, predicted further "
            f"decrease of the deviance {r['newton_decrement']:.2g}, {r['evaluations']} evaluations). "
            "Raise maxiter, or start elsewhere.",
            ConvergenceWarning,
            stacklevel=4,
        )


def fit_regularized(
    model: MixedLM,
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
    model._likelihood.check_memory()
    base = model.fit(**{**fit_kwargs, "solver": "direct" if solver == "auto" else solver})._results
    params = base.params_object
    point = model._likelihood.at(params.cov_re, params.vcomp, base.reml)
    kept = model._likelihood.kept
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
    results = MixedLMResults(
        model,
        params,
        scale=point.r2(full) / point.nu(reml),
        llf=model._likelihood.loglike(params, reml, False),
        reml=reml,
        converged=converged and base.converged,
        retvals=base.mle_retvals,
        fe_pen=None,
        cov_pen=base.cov_pen,
        free=base.freepat,
        regularized=True,
    )
    results.hist = None
    return MixedLMResultsWrapper(results)
