"""Searches over the packed parameters of a MixedLM by scipy: penalties, values held, methods asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from ..engine.runtime.parallel import single_threaded_blas
from ..fit.record import Fit
from ..report.summary import in_words
from .design.params import MixedLMParams
from .penalty import CovariancePenalty, FixedPenalty

if TYPE_CHECKING:
    from .protocol import MixedModel

__all__ = [
    "DECREMENT",
    "METHODS",
    "Conditions",
    "Outcome",
    "by_scipy",
    "conditions_at",
    "default_start",
    "fixed_fe",
    "scipy_minimize",
]

METHODS = {
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
DECREMENT = 1e-4


class Conditions(NamedTuple):
    """The optimality conditions at a point: whether they hold, and the predicted decrease of the deviance."""

    hold: bool
    decrement: float
    gradient_norm: float


@dataclass(frozen=True)
class Outcome:
    """Where a search ended.

    Attributes
    ----------
    params : MixedLMParams
        Ratio scale.
    converged : bool
    retvals : dict
        evaluations, iterations, gradient_norm, newton_decrement, message, reason, converged.
    history : list
    scale, llf : float, optional
        Residual variance and log-likelihood there, where the search knows them.
    iterative : Fit, optional
        The engine's fit, where it was iterative: the likelihood cannot be asked for more.
    limited : bool
        Whether the search was ended by the `maxiter` that was asked for.
    notes : tuple of (str, type)
        What the fit warns of, beside convergence.
    perfect : bool
        The model explains the response exactly: the limit of a residual variance of zero.
    """

    params: MixedLMParams
    converged: bool
    retvals: dict[str, Any]
    history: list
    scale: float | None = None
    llf: float | None = None
    iterative: Fit | None = None
    limited: bool = False
    notes: tuple[tuple[str, type[Warning]], ...] = ()
    perfect: bool = False


def default_start(model: MixedModel) -> MixedLMParams:
    return MixedLMParams.from_components(
        np.zeros(model.k_fe), cov_re=np.eye(model.k_re), vcomp=np.ones(model.k_vc)
    )


def fixed_fe(free: MixedLMParams | None) -> bool:
    return free is not None and bool(np.any(np.asarray(free.fe_params) == 0))


def scipy_minimize(
    f: Callable[[np.ndarray], tuple[float, np.ndarray]],
    x0: np.ndarray,
    methods: list[str],
    options: dict[str, Any],
    holds: Callable[[np.ndarray], bool],
) -> Any:
    """Minimize a function that returns value and gradient, by scipy methods in turn.

    Where the optimality conditions `holds` asks for fail, whatever scipy says, the next method goes on: a
    zero standard deviation is stationary without being a minimum.
    """
    for i, name in enumerate(methods):
        method = METHODS[name.lower()]
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
        if i + 1 == len(methods) or holds(result.x):
            break
        x0 = result.x
    return result


def by_scipy(
    model: MixedModel,
    reml: bool,
    start: MixedLMParams | None,
    free: MixedLMParams | None,
    fe_pen: FixedPenalty | None,
    cov_pen: CovariancePenalty | None,
    methods: list[str],
    options: dict[str, Any],
    conditions: Callable[[MixedLMParams], Conditions] | None = None,
) -> Outcome:
    """Maximize over the free packed parameters, fixed effects among them where they are penalized.

    `conditions` checks optimality at a point; by default differences of the score do.
    """
    likelihood = model.likelihood
    joint = fe_pen is not None or fixed_fe(free)
    begin = start if start is not None else _natural_start(model, free)
    if joint and (start is None or not np.any(start.fe_params)):
        begin = begin.copy()
        begin.fe_params = likelihood.at(begin.cov_re, begin.vcomp).beta
        if free is not None and fixed_fe(free):
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

    def check(x: np.ndarray) -> Conditions:
        return conditions_at(objective, x) if conditions is None else conditions(unpack(x))

    x0 = packed0[mask] / size
    x, message, iterations, limited = x0, "nothing to estimate", 0, False
    if x0.size:
        with single_threaded_blas():
            found = scipy_minimize(objective, x0, methods, options, lambda x: check(x).hold)
        x, message = found.x, str(found.message)
        iterations = int(getattr(found, "nit", found.nfev))
        limited = options.get("maxiter") is not None and iterations >= options["maxiter"]
    at_end = check(x)
    retvals = {
        "converged": at_end.hold,
        "message": in_words(at_end.hold, at_end.gradient_norm, iterations, message),
        "reason": message,
        "evaluations": evaluations,
        "iterations": iterations,
        "gradient_norm": at_end.gradient_norm,
        "newton_decrement": at_end.decrement,
    }
    history_record = [{"deviance": history, **retvals}]
    return Outcome(unpack(x), at_end.hold, retvals, history_record, limited=limited)


def _natural_start(model: MixedModel, free: MixedLMParams | None) -> MixedLMParams:
    """Free variances where their reliability is about one half; fixed ones at statsmodels' start of one."""
    start = default_start(model)
    squares = [model.likelihood.term_squares(t) for t in range(len(model.design().terms))]
    if model.k_re:
        natural = np.diag(1.0 / squares[0])
        start.cov_re = natural
        if free is not None:
            held = np.diag(np.asarray(free.cov_re)) == 0
            start.cov_re = np.diag(np.where(held, 1.0, np.diag(natural)))
    natural_vc = np.array([1.0 / s[0] for s in squares[1 if model.k_re else 0 :]])
    start.vcomp = natural_vc if free is None else np.where(np.asarray(free.vcomp) == 0, 1.0, natural_vc)
    return start


def _sizes(model: MixedModel, begin: MixedLMParams, use_sqrt: bool, joint: bool) -> np.ndarray:
    """Natural size of every packed parameter, so that the search sees all of them alike."""
    squares = [model.likelihood.term_squares(t) for t in range(len(model.design().terms))]
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
    model: MixedModel,
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


def conditions_at(objective: Callable[[np.ndarray], tuple[float, np.ndarray]], x: np.ndarray) -> Conditions:
    """The conditions from differences of a gradient: Newton decrement, and no direction of descent."""
    if not x.size:
        return Conditions(True, 0.0, 0.0)
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
    return Conditions(definite and decrement < DECREMENT, decrement, float(np.max(np.abs(g))))
