"""Fits with covariances that are functions of few parameters: where searches begin, and how they end.

Such likelihoods may have several maxima.  The deviance is looked at around the start from moments (other
correlations, other loadings), and models whose evaluations cost little are searched from the best few.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ..engine.covariance.patterns import Pattern
from ..engine.direct.careful import CarefulObjective, is_small
from ..engine.direct.objective import Objective
from ..engine.equations.design import Design
from ..engine.search.curve import MOST_RATIO, Curve
from ..engine.search.curved import minimise_curved
from ..engine.search.optimizer import Minimum
from ..exceptions import EXPLAINED, ConvergenceError, OptionError, PerfectFitError
from .options import Route
from .outcome import Outcome

__all__ = ["direct_if_curved", "flat_parameters", "search_curved"]

_CHEAP = 1e7  # operations of an evaluation up to which it is repeated without being asked for
_SEARCHES = 3
_MORE = 3  # random starts where these end at a boundary or in different minima
_SAME = 1e-5  # difference of the deviance between two ends of a search in one minimum
_ROUGH = 1e-8  # rounding error of the deviance from which the rows are factored instead
_LARGE = 1e3  # standard deviation of an effect over the residual's from which the same is done
_FALLS = 1e-3  # of the deviance by the logarithm of all deviations, that a maximum at infinity does not have
_SEED = 20_000
_CURVATURE = 1e-6  # beside that of balanced data: flat
_CHANGE = 1e-6  # of the deviance over the step by which flatness is tried
_SHARE = 0.1
_DEPENDS = 1e-6
_STEP = 0.01  # of a coordinate: what is flat is so along a bent line
_ORTHOGONAL = "orthogonal factorizations of the rows (LAPACK)"


def direct_if_curved(route: Route, design: Design) -> Route:
    """The direct path where a structure needs it.

    Raises
    ------
    OptionError
        The iterative path was asked for.
    """
    names = [f"{term.structure.name} of '{term.name}'" for term in design.terms if term.structure.curved]
    if not names:
        return route
    if route.path == "iterative":
        raise OptionError(
            "solver='iterative' knows unstructured and diagonal covariances, and this model has "
            f"{', '.join(names)}: "
            "use solver='direct' (preflight() says at what cost), or us(...) or diag(...)."
        )
    return Route("direct", route.factorization)


def search_curved(
    design: Design,
    objective: Objective,
    start: np.ndarray,
    max_evaluations: int,
    tol: float,
    starts: int | None,
    callback: Callable[[int, float, float], None] | None = None,
    limit: bool = False,
    curve: Curve | None = None,
) -> Outcome:
    """As `mme.fit.direct.search_minimum`, along the curve of the structures.

    Raises
    ------
    PerfectFitError
        The deviance falls without end towards a residual variance of zero.
    """
    eq = objective.eq
    curve = Curve.of(eq) if curve is None else curve.respond(eq)
    small = design.has_rows and is_small(eq)

    def search(target: Objective | CarefulObjective, x: np.ndarray) -> Minimum:
        already = target.n_factorizations
        return minimise_curved(
            partial(target.evaluate, standard=True),
            x,
            curve,
            tol=tol,
            max_evaluations=max_evaluations,
            count=lambda: target.n_factorizations - already,
            callback=callback,
            along=True,
        )

    begin = _begin(objective, curve, curve.coordinates(start), starts)
    found = []
    for x in begin:
        try:
            found.append(search(objective, x))
        except ConvergenceError:
            if len(begin) == 1 and not small:
                raise
    again = found and starts is None and len(begin) > 1 and _is_doubtful(found)
    if again:
        lowest = min(found, key=lambda m: m.evaluation.deviance)
        others = curve.starts(curve.coordinates(lowest.theta), _MORE, _SEED)[1:]
        for x in others:
            try:
                found.append(search(objective, x))
            except ConvergenceError:
                continue
        begin = [*begin, *others]
    if not found and not small:
        raise ConvergenceError("the deviance cannot be computed at any of the starts.")
    best = min(found, key=lambda m: (round(m.evaluation.deviance, 6), not m.converged)) if found else None
    target: Objective | CarefulObjective = objective
    rough = best is None or not best.converged or best.evaluation.noise > _ROUGH
    if small and not limit and (rough or (best is not None and _largest(curve, best) > _LARGE)):
        target = CarefulObjective(design, objective)
        best = search(target, begin[0] if best is None else curve.coordinates(best.theta))
    assert best is not None
    _check_bounded(curve, best)
    levels: list[float] = []
    for minimum in found:
        level = minimum.evaluation.deviance
        if minimum.converged and all(abs(level - other) > _SAME for other in levels):
            levels.append(level)
    evaluations = objective.n_factorizations
    if isinstance(target, CarefulObjective):
        evaluations += target.n_factorizations
    return Outcome(
        target,
        curve,
        best,
        max(1, len(levels)),
        len(begin),
        evaluations,
        _ORTHOGONAL if isinstance(target, CarefulObjective) else objective.solver_name,
    )


def _is_doubtful(found: list[Minimum]) -> bool:
    """Whether the lowest of several ends gives reason to look further."""
    levels = [minimum.evaluation.deviance for minimum in found]
    best = found[int(np.argmin(levels))]
    return not best.converged or bool(best.singular) or np.ptp(levels) > _SAME


def _begin(objective: Objective, curve: Curve, x: np.ndarray, starts: int | None) -> list[np.ndarray]:
    """Where to search, the most promising first."""
    lay = objective.eq.layout
    work = lay.q1 * lay.k1**2 * (lay.k1 + objective.eq.p + curve.m) + lay.q2**3 / 3.0
    count = starts if starts is not None else _SEARCHES if work <= _CHEAP else 1
    if starts == 1:
        return [x]
    rated = []
    for candidate in curve.starts(x, max(0, count - 2), _SEED):
        try:
            deviance = objective.evaluate(curve.spot(candidate).theta, 0, standard=True).deviance
        except (np.linalg.LinAlgError, PerfectFitError):
            continue
        rated.append((deviance, candidate))
    rated.sort(key=lambda pair: pair[0])
    return [candidate for _, candidate in rated[:count]] or [x]


def _largest(curve: Curve, minimum: Minimum) -> float:
    """Largest standard deviation of an effect, seen in a level, over the residual's."""
    angles = np.concatenate([[0.0], *_angles(curve, curve.coordinates(minimum.theta))])
    return float(np.max(np.tan(np.abs(angles))))


def _angles(curve: Curve, x: np.ndarray) -> list[np.ndarray]:
    return [
        x[share.part][np.array([kind != "cor" for kind in share.kinds], dtype=bool)] for share in curve.shares
    ]


def _check_bounded(curve: Curve, minimum: Minimum) -> None:
    """Refuse an end at which the deviance still falls with the logarithm of the effects' size."""
    x = curve.coordinates(minimum.theta)
    if _largest(curve, minimum) < 0.9 * MOST_RATIO:
        return
    g, _, _ = curve.model(curve.spot(x), minimum.evaluation, along=True)
    angle = np.concatenate([[kind != "cor" for kind in share.kinds] for share in curve.shares])
    large = angle & (np.tan(np.abs(x)) > 0.1 * MOST_RATIO)
    falls = float(np.sum((g * np.sin(x) * np.cos(x))[large]))
    if falls < -_FALLS:
        raise PerfectFitError(EXPLAINED)


def flat_parameters(
    design: Design, objective: Objective | CarefulObjective, curve: Curve, minimum: Minimum
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """As `mme.fit.flat.flat_directions`, of parameters of the structures."""
    x = curve.coordinates(minimum.theta)
    spot = curve.spot(x)
    g, H, gauss = curve.model(spot, minimum.evaluation, along=True)
    unit = np.sqrt(curve.units())
    # what has no effect at all (a correlation of effects without variance) is not looked at
    slope = np.where(np.abs(g) > _CURVATURE * unit * unit, g, 0.0)
    stopped = ((x <= curve.low) & (slope > 0.0)) | ((x >= curve.high) & (slope < 0.0))
    free = ~stopped & (gauss > _CURVATURE * unit * unit)
    if not free.any():
        return (), ()
    size = np.sqrt(np.where(free, gauss, 1.0))
    w, V = np.linalg.eigh((H / np.outer(size, size))[np.ix_(free, free)])
    share = np.zeros(curve.m)
    moved = []
    for i in np.flatnonzero(w < _CURVATURE):
        direction = np.zeros(curve.m)
        direction[free] = V[:, i]
        step = direction / size
        step *= min(1.0, _STEP / np.max(np.abs(step)))
        # to the side that the bounds leave open
        ends = [curve.clipped(x + step), curve.clipped(x - step)]
        there = curve.spot(max(ends, key=lambda end: float(np.sum(np.abs(end - x)))))
        try:
            deviance = objective.evaluate(there.theta, 0, standard=True).deviance
        except np.linalg.LinAlgError:
            continue
        if abs(deviance - minimum.evaluation.deviance) < _CHANGE:
            share = np.maximum(share, np.abs(direction))
            moved.append(there)
    if not moved:
        return (), ()
    here = np.diag(objective.solution(minimum.theta, standard=True)["vcov"])
    depends = np.zeros(here.size, dtype=bool)
    for there in moved:
        other = np.diag(objective.solution(there.theta, standard=True)["vcov"])
        depends |= np.abs(other - here) > _DEPENDS * here
    kept = np.flatnonzero(objective.eq.fixed.kept)
    return _names(design, curve, share), tuple(design.x_names[j] for j in kept[depends])


def _names(design: Design, curve: Curve, size: np.ndarray) -> tuple[str, ...]:
    out: list[str] = []
    for term, own in zip(design.terms, curve.shares, strict=True):
        names, structure = term.column_names, term.structure
        for i in np.flatnonzero(size[own.part] > _SHARE * size.max()):
            if isinstance(structure, Pattern):
                (a, b), kind = structure.shown(term.k)[int(i)], own.kinds[i]
                label = structure.parameter_label(names, a, b)
            else:
                (a, b), kind = term.structure.entries(term.k)[int(i)], "loading"
                label = names[a] if a == b else f"{names[b]} and {names[a]}"
            word = "correlation" if kind == "cor" else "variance" if a == b else "covariance"
            out.append(f"{word} of {label} by {term.name}")
    return tuple(out)
