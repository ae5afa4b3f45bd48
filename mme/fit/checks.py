"""Checks of the options that every door hands to the engine."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np

from ..engine.equations.design import Design, RandomTerm
from ..exceptions import DataError, OptionError

__all__ = ["check_search", "check_start", "split_start"]

_LARGEST_TOL = 1.0
# 1 - reliability is 1 / (1 + s^2) for a standard deviation s: at 1e7 two digits of a double are left of it
_LARGEST_START = 1e7


def check_search(tol: object = 1e-8, max_evaluations: object = 200) -> tuple[float, int]:
    """Refuse a tolerance or a number of evaluations with which a search has no end or no meaning.

    Parameters
    ----------
    tol : float
        Positive and at most 1: a deviance that can still fall by more is not at its minimum.
    max_evaluations : int
        At least 1.

    Returns
    -------
    tol : float
    max_evaluations : int

    Raises
    ------
    OptionError
    """
    number = float(tol) if isinstance(tol, Real) and not isinstance(tol, bool | np.bool_) else 0.0
    if not 0.0 < number <= _LARGEST_TOL:
        raise OptionError(
            f"tol must be a number above 0 and at most {_LARGEST_TOL:g}, not {tol!r}: the search stops where "
            "the deviance is predicted to fall by less; the default is 1e-8."
        )
    whole = isinstance(max_evaluations, Integral) and not isinstance(max_evaluations, bool | np.bool_)
    if not whole or max_evaluations < 1:  # type: ignore[operator]  # it is Integral
        raise OptionError(
            f"max_evaluations must be an integer and at least 1, not {max_evaluations!r}; the default is 200."
        )
    return number, int(max_evaluations)  # type: ignore[call-overload]  # as above


def split_start(start: object, terms: Sequence[RandomTerm]) -> tuple[np.ndarray, ...]:
    """A start given as one vector, by term.

    Parameters
    ----------
    start : array_like, shape (n_theta,)
    terms : sequence of RandomTerm

    Returns
    -------
    tuple of ndarray

    Raises
    ------
    DataError
    """
    sizes = [term.structure.size(term.k) for term in terms]
    theta = _real_vector(start)
    if theta is None or theta.shape != (sum(sizes),) or not np.isfinite(theta).all():
        counts = ", ".join(f"{term.name} ({size})" for term, size in zip(terms, sizes, strict=True))
        has = f"it has shape {theta.shape}" if theta is not None else f"it is {_brief(start)}"
        raise DataError(f"start must be {sum(sizes)} finite numbers, by term: {counts}; {has}.")
    return tuple(np.split(theta, np.cumsum(sizes)[:-1]))


def check_start(theta0: object, design: Design) -> tuple[np.ndarray, ...]:
    """Refuse a start that is not one finite array per term, or beyond what the search can represent.

    Parameters
    ----------
    theta0 : sequence of array_like
    design : Design

    Returns
    -------
    tuple of ndarray

    Raises
    ------
    DataError
    """
    if isinstance(theta0, str | bytes) or not hasattr(theta0, "__iter__"):
        raise DataError(f"theta0 must be one array per term, not {_brief(theta0)}.")
    given = list(theta0)
    if len(given) != len(design.terms):
        raise DataError(f"theta0 has {len(given)} arrays for {len(design.terms)} terms.")
    out = []
    for term, values in zip(design.terms, given, strict=True):
        theta = split_start(values, (term,))[0]
        lam = np.atleast_2d(term.structure.lam(theta, term.k))
        size = _column_sizes(term, design)
        with np.errstate(over="ignore"):
            largest = float(np.abs(size[:, None] * lam).max(initial=0.0))
        if largest > _LARGEST_START:
            raise DataError(
                f"the start of random term '{term.name}' is too large: its effects are {largest:.2g} "
                "times the standard deviation of a level's mean residual, a variance that cannot be told "
                f"from infinity. Use values {largest / _LARGEST_START:.2g} times smaller, or no start."
            )
        out.append(theta)
    return tuple(out)


def _column_sizes(term: RandomTerm, design: Design) -> np.ndarray:
    """Root of the mean sum of squares per level of each column, weighted, shape (k,)."""
    weights = np.ones(design.n) if design.weights is None else design.weights
    if term.Z is not None:
        squares = np.asarray(term.Z.multiply(term.Z).sum(axis=1)) if hasattr(term.Z, "multiply") else None
        rows = np.sum(np.square(term.Z), axis=1) if squares is None else np.ravel(squares)
        total = np.array([weights @ rows])
    elif term.columns is None:
        total = np.array([weights.sum()])
    else:
        total = np.einsum("i,ij,ij->j", weights, term.columns, term.columns)
    return np.sqrt(total / term.n_levels)


def _real_vector(values: object) -> np.ndarray | None:
    """At least one-dimensional float64, or None for what is not numbers."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iufO" or any(isinstance(v, str | bool) for v in array.flat):
            return None
        return np.atleast_1d(array.astype(np.float64))
    except (TypeError, ValueError):
        return None


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
