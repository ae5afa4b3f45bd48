"""Searches from more than one start, where they cost little: a deviance may have several minima.

Restricted and full likelihoods of variance ratios are not concave: typically one minimum of the deviance lies
at a variance of zero and another inside.  With one scalar term of one factor the deviance is tabulated over
the whole half-line of the variance ratio, half a unit of its logarithm apart, which is finer than any feature
of a sum of log(1 + D a_l); every dip of the table is searched.  Other small models are searched again where
the first optimum gives reason to: from theta = 0 and a reliability of 0.9, and with one term after the other
switched off, or on where it was off, if it is singular; if it is nearly without residual variance or hard to
find, or the factors have few levels, also from high reliabilities of all terms and of every subset of up to
three.  A search that nears a minimum that is known ends there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..engine.direct.elimination import elimination_flops
from ..engine.direct.objective import Objective
from ..engine.equations.equations import Equations
from ..engine.kernels import profile as kp
from ..engine.search.coordinates import Coordinates, TermSpec
from ..engine.search.optimizer import KnownMinimumError, Minimum
from ..exceptions import ConvergenceError, PerfectFitError

__all__ = ["Modes", "has_few_levels", "is_cheap", "search_modes", "table_ratios"]

_CHEAP = 1e6  # operations of an evaluation up to which it is repeated without being asked for
_TABLE = 2e6  # likewise, of a table of the profile
_FEW_LEVELS = 8
_EASY = 6  # evaluations that an ordinary search takes
_STRAIGHT = 2  # evaluations of a search whose first step ends at the optimum
_EXTREME = 0.999  # reliability
_LOW, _HIGH, _SPACING = -9.0, 16.0, 0.5  # logarithms of n D that are tabulated
_SAME = 1e-5  # difference of the deviance between two ends of a search in one minimum
_HOPE = 4.0  # deviance that a search may gain on the entry of the table where it begins
_MIDDLE, _HIGH_RELIABILITY, _HIGHEST = 0.9, 0.99, 1.0 - 1e-5  # reliabilities of further starts
_MOST_SUBSETS = 3  # terms of which all subsets are tried
_SEED = 20_000  # of the starts that were asked for


@dataclass(frozen=True, eq=False)
class Modes:
    """The best minimum, how many different ones were seen, and from how many starts."""

    best: Minimum
    seen: int
    starts: int


def search_modes(
    objective: Objective,
    first: Minimum,
    terms: list[TermSpec] | Coordinates,
    search: Callable[..., Minimum],
    starts: int | None,
) -> Modes:
    """The lowest of several minima.

    Parameters
    ----------
    objective : Objective
    first : Minimum
        Where the search from moments, or from the user's start, ended.
    terms : list of TermSpec, or their Coordinates
    search : callable
        (start, known) -> Minimum; theta in the equations' basis.
    starts : int or None
        Searches in all; None: as the model suggests.

    Returns
    -------
    Modes
    """
    space = Coordinates.of(terms)
    begin = _others(objective, first, space) if starts is None else _asked(space, starts - 1)
    found = [first]
    for start in begin:
        levels = [m.evaluation.deviance for m in found]
        try:
            found.append(search(start, known=levels))
        except KnownMinimumError:
            continue
        except (ConvergenceError, PerfectFitError, np.linalg.LinAlgError):
            continue  # nothing can be computed there; an exact fit is checked for by the caller
    different: list[Minimum] = []
    for minimum in found:
        level = minimum.evaluation.deviance
        if minimum.converged and all(abs(level - d.evaluation.deviance) > _SAME for d in different):
            different.append(minimum)
    best = first
    for minimum in found[1:]:
        gain = best.evaluation.deviance - minimum.evaluation.deviance
        if gain > _SAME or (gain > -_SAME and minimum.converged and not best.converged):
            best = minimum
    return Modes(best, max(1, len(different)), 1 + len(begin))


def _others(objective: Objective, first: Minimum, space: Coordinates) -> list[np.ndarray]:
    lay = objective.eq.layout
    if lay.q2 == 0 and lay.n_theta == 1:
        return _dips(objective, first, space)
    if not is_cheap(objective.eq, elimination_flops(objective.eq) if lay.q2 else 0.0):
        return []
    place = space.at(first.theta)
    few = has_few_levels(objective.eq)
    hard = (
        not first.converged
        or place.largest() > _EXTREME
        or first.evaluations > _EASY
        # balanced data, whose optimum the first steps find, have one minimum inside
        or (few and (bool(first.singular) or first.evaluations > _STRAIGHT))
    )
    if not hard and not first.singular:
        return []
    out = [np.zeros(space.m), space.uniform(_MIDDLE)]
    middle, high = out[1], space.uniform(_HIGH_RELIABILITY)
    terms = len(space.terms)
    if terms > 1:
        for t, block in enumerate(space.blocks):
            start = place.theta.copy()
            start[block.part] = middle[block.part] if t in first.singular else 0.0
            out.append(start)
    if hard:
        out += [space.uniform(_HIGHEST), high]
        if 1 < terms <= _MOST_SUBSETS:
            for subset in range(1, 2**terms - 1):
                start = high.copy()
                for t, block in enumerate(space.blocks):
                    if not subset >> t & 1:
                        start[block.part] = 0.0
                out.append(start)
    return [start for start in out if not np.array_equal(start, place.theta)]


def _dips(objective: Objective, first: Minimum, space: Coordinates) -> list[np.ndarray]:
    """Starts in the dips of the tabulated profile that the first optimum is not in."""
    eq = objective.eq
    ratios = table_ratios(eq, space)
    if not ratios.size:
        return []
    table = kp.scalar_profile(ratios, eq.A1, eq.A1x, eq.Axx, objective.nu, objective.reml)
    padded = np.r_[np.inf, table, np.inf]
    dips = np.flatnonzero((table <= padded[:-2]) & (table <= padded[2:]) & np.isfinite(table))
    here = float(first.theta[0]) ** 2
    right = int(np.searchsorted(ratios, here))
    at = {right - 1, right}  # the entries on both sides of the optimum
    level = min(table[i] for i in at if 0 <= i < table.size)
    return [np.sqrt(ratios[i : i + 1]) for i in dips if i not in at and table[i] < level + _HOPE]


def is_cheap(eq: Equations, flops: float) -> bool:
    """Whether searches are repeated without being asked for; flops: of the assembly of S."""
    lay = eq.layout
    return lay.q1 * lay.k1**2 * (lay.k1 + eq.p) + lay.q2**3 / 3.0 + flops <= _CHEAP


def has_few_levels(eq: Equations) -> bool:
    """Whether some factor has so few levels that a first optimum inside is not trusted."""
    return min(b.q for b in eq.layout.blocks) <= _FEW_LEVELS


def table_ratios(eq: Equations, space: Coordinates) -> np.ndarray:
    """Variance ratios at which the profile of the only, scalar term is tabulated; none where it is long."""
    logs = np.arange(_LOW, _HIGH, _SPACING)
    if eq.layout.q1 * (eq.p + 1.0) ** 2 * logs.size > _TABLE:
        return np.zeros(0)
    return np.r_[0.0, np.exp(logs) / float(space.A[0][0, 0]) ** 2]


def _asked(space: Coordinates, number: int) -> list[np.ndarray]:
    """theta = 0, equal reliabilities, then random ones."""
    rng = np.random.default_rng(_SEED)
    out = [np.zeros(space.m), *map(space.uniform, (_MIDDLE, _HIGH_RELIABILITY, _HIGHEST))]
    while len(out) < number:
        out.append(space.random(rng))
    return out[: max(0, number)]
