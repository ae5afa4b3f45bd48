"""Flat likelihoods: variances and covariances that the data do not tell.

Where the average information has no curvature in a direction of the covariances, and the deviance stays the
same a step of one standard error of balanced data along it, the estimates in that direction are wherever the
search came by.  The directions are named, and so are the fixed effects whose standard errors change there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..engine.direct.careful import CarefulObjective
from ..engine.direct.objective import Objective
from ..engine.equations.design import Design
from ..engine.search.coordinates import Coordinates, Place, TermSpec
from ..engine.search.optimizer import Minimum

__all__ = ["flat_directions"]

_CURVATURE = 1e-6  # of the average information, in the metric of balanced data
_CHANGE = 1e-4  # of the deviance over a step of one in that metric
_SHARE = 0.1  # of the largest entry of a flat direction from which a parameter belongs to it
_DEPENDS = 1e-6  # relative change of a standard error


def flat_directions(
    design: Design,
    objective: Objective | CarefulObjective,
    terms: list[TermSpec] | Coordinates,
    minimum: Minimum,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of covariance parameters that are not identified, and of fixed effects that depend on them.

    Parameters
    ----------
    design : Design
    objective : Objective or CarefulObjective
    terms : list of TermSpec, or their Coordinates
    minimum : Minimum
        Of the deviance; theta in the equations' basis.

    Returns
    -------
    parameters, fixed : tuple of str
    """
    space = Coordinates.of(terms)
    place = space.at(minimum.theta)
    unit = space.unit
    assert minimum.curvature is not None  # of a search that ended
    w, V = np.linalg.eigh(minimum.curvature * (unit[:, None] * unit))
    candidates = np.flatnonzero(w < _CURVATURE)
    if candidates.size == 0:
        return (), ()
    bases = [objective.eq.term_basis(t) for t in range(len(space.terms))]
    users = Coordinates([replace(term, basis=R) for term, R in zip(space.terms, bases, strict=True)])
    size = np.zeros(space.m)
    moved = []
    for i in candidates:
        e = V[:, i] * unit
        for sign in (1.0, -1.0):
            there = _moved(space, place, sign * e)
            if there is None:
                continue
            try:
                deviance = objective.evaluate(there.theta, 0, standard=True).deviance
            except np.linalg.LinAlgError:
                continue
            if abs(deviance - minimum.evaluation.deviance) < _CHANGE:
                size = np.maximum(size, np.abs(users.change(place, e)))
                moved.append(there)
                break
    if not moved:
        return (), ()
    here = np.diag(objective.solution(minimum.theta, standard=True)["vcov"])
    depends = np.zeros(here.size, dtype=bool)
    for there in moved:
        other = np.diag(objective.solution(there.theta, standard=True)["vcov"])
        depends |= np.abs(other - here) > _DEPENDS * here
    kept = np.flatnonzero(objective.eq.fixed.kept)
    return _names(design, space, size), tuple(design.x_names[j] for j in kept[depends])


def _moved(space: Coordinates, place: Place, e: np.ndarray) -> Place | None:
    """The place that a step of the covariance D leads to; None if it leaves the cone at once.

    V is linear in D: what is flat is so along a straight line of D, not of the reliability.
    """
    e = e * min(1.0, space.limit(e), space.limit(-e))
    e = space.straight(e)
    feasible = space.fraction_inside(place, e)
    return None if feasible < 1e-3 else space.move(place, feasible * e)


def _names(design: Design, space: Coordinates, size: np.ndarray) -> tuple[str, ...]:
    out = []
    for term, block in zip(design.terms, space.blocks, strict=True):
        part = size[block.part]
        for (a, b), s in zip(zip(block.rows, block.cols, strict=True), part, strict=True):
            if s > _SHARE * size.max():
                names = term.column_names
                of = f"variance of {names[a]}" if a == b else f"covariance of {names[b]} and {names[a]}"
                out.append(f"{of} by {term.name}")
    return tuple(out)
