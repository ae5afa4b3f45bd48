"""Factors of the fixed part that are nested in others: levels that have no meaning without another one's."""

from __future__ import annotations

import numpy as np

from ..fit.fitted import Fitted
from ..formula.coding import Coding

__all__ = ["Nesting", "nesting_of"]

Nesting = dict[
    str, dict[str, np.ndarray]
]  # by factor and the factors it is nested in: their level in each level


def nesting_of(coding: Coding, fitted: Fitted) -> Nesting:
    """Factors that the formula has only together with another one, each level with one of that one's alone.

    Parameters
    ----------
    coding : Coding
    fitted : Fitted

    Returns
    -------
    dict of str to dict of str to ndarray of int
        For ``y ~ a / b``, b's levels being of one level of a each, ``{"b": {"a": places}}``: place among
        the levels of a, by level of b; -1 for levels that do not occur.
    """
    levels = {v.name: v.levels for v in coding.variables if v.kind == "categorical" and v.levels is not None}
    out: Nesting = {}
    if fitted.occurrences is None:
        return out
    for name, own in levels.items():
        together = [set(term.variables) for term in coding.terms if name in term.variables]
        outer = [other for other in levels if other != name and all(other in term for term in together)]
        if not outer:
            continue
        known = fitted.occurrences()
        found = {}
        for other in outer:
            if name in out.get(other, {}):
                continue  # one under two names: the first is nested
            places = _places(known.codes(name), known.codes(other), len(own))
            if places is not None:
                found[other] = places
        if found:
            out[name] = found
    return out


def _places(inner: np.ndarray, outer: np.ndarray, n: int) -> np.ndarray | None:
    """The outer level of every inner one; None if some inner level occurs with several, or all with one."""
    places = np.full(n, -1)
    places[inner] = outer
    if np.any(places[inner] != outer) or np.unique(places[places >= 0]).size < 2:
        return None
    return places
