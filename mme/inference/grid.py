"""The reference grid: a row for every combination of levels, covariates at their means; means over it.

Searle, Speed & Milliken (1980), The American Statistician 34, 216-221: population marginal means are means
over the cells of a grid, not over the rows of the data.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..engine.runtime.memory import available_memory
from ..exceptions import InferenceError, MemoryEstimateError, OptionError
from ..fit.fitted import Fitted
from ..formula.coding import Coding, Variable
from ..formula.parse import column_in
from .nesting import Nesting, nesting_of

__all__ = ["Grid", "averages", "check_names", "check_weights", "combinations_of", "reference_grid", "slopes"]

_WEIGHTS = ("equal", "proportional", "cells")
_HEAD = 1000  # rows that tell most numeric variables from those with two values
_STEP = 1e-3  # of a covariate's range, for derivatives


@dataclass(frozen=True, eq=False)
class Grid:
    """Combinations of values of the variables of the fixed part; the first changes fastest.

    Attributes
    ----------
    variables : tuple of Variable
    values : tuple of list
        Values of each.
    coding : Coding
    fitted : Fitted
    two_valued : dict of str to ndarray of bool, shape (n,)
        Numeric variables with two values, which count as levels: whether each row has the greater one.
    nested : Nesting
        Factors that are nested in others.
    """

    variables: tuple[Variable, ...]
    values: tuple[list, ...]
    coding: Coding
    fitted: Fitted
    two_valued: Mapping[str, np.ndarray]
    nested: Nesting

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.variables)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(values) for values in self.values)

    def columns(self, shift: Mapping[str, float] | None = None) -> np.ndarray:
        """The fixed columns in every cell, shape (cells, p), some covariates shifted."""
        if not self.variables:
            return self._constant()
        at = np.unravel_index(np.arange(prod(self.shape)), self.shape, order="F")
        rows = {}
        for variable, values, index in zip(self.variables, self.values, at, strict=True):
            column = _array(values)[index]
            if shift and variable.name in shift:
                column = column + shift[variable.name]
            rows[variable.name] = column
        return self.coding.fixed(rows)

    def _constant(self) -> np.ndarray:
        # a formula without columns of the data: an intercept, or nothing
        return np.ones((1, len(self.coding.x_names)))

    def counts(self) -> np.ndarray:
        """Rows of the data in every cell, shape `shape`; covariates do not matter.

        Raises
        ------
        InferenceError
            The data were removed.
        """
        fitted, n = self.fitted, self.fitted.n
        if fitted.occurrences is None or fitted.design is None:
            raise InferenceError("weights other than 'equal' need the data, and they were removed.")
        known = fitted.occurrences()
        inside, cell, step = np.ones(n, dtype=bool), np.zeros(n, dtype=np.int64), 1
        sizes = []
        for variable, values in zip(self.variables, self.values, strict=True):
            greater = self.two_valued.get(variable.name)
            levels = variable.levels
            if greater is not None and {*values} <= {variable.low, variable.high}:
                levels = [variable.low, variable.high]
            if levels is None:
                sizes.append(1)
                continue
            place = {level: j for j, level in enumerate(values)}
            table = np.array([place.get(level, -1) for level in levels] + [-1])
            codes = table[known.codes(variable.name) if greater is None else greater.astype(int)]
            inside &= codes >= 0
            cell += step * codes
            step *= len(values)
            sizes.append(len(values))
        counted = np.bincount(cell[inside], minlength=step)
        return np.broadcast_to(counted.reshape(sizes, order="F"), self.shape).astype(np.float64)

    def possible(self) -> np.ndarray:
        """Whether a cell makes sense: levels of nested factors with those that they are in; shape `shape`."""
        out = np.ones(self.shape, dtype=bool)
        for inner, outer in self.nested.items():
            for other, places in outer.items():
                a, b = self.names.index(inner), self.names.index(other)
                known = [self.variables[axis].levels or [] for axis in (a, b)]
                own, theirs = (
                    np.array([levels.index(v) for v in self.values[axis]])
                    for axis, levels in zip((a, b), known, strict=True)
                )
                match = places[own][:, None] == theirs
                shape = [1] * len(self.shape)
                shape[a], shape[b] = len(own), len(theirs)
                out &= (match if a < b else match.T).reshape(shape)
        return out

    def with_outer(self, names: Sequence[str]) -> list[str]:
        """Variables, and those that they are nested in."""
        out = list(names)
        for name in out:
            out += [other for other in self.nested.get(name, ()) if other not in out]
        return out

    @property
    def offset(self) -> float:
        """Mean of the offset over the rows of the fit."""
        design = self.fitted.design
        return 0.0 if design is None or design.offset is None else float(np.mean(design.offset))


def reference_grid(
    fitted: Fitted,
    coding: Coding,
    at: Mapping[str, Any] | None = None,
    spread: bool = False,
) -> Grid:
    """The grid of a fit.

    Parameters
    ----------
    fitted : Fitted
    coding : Coding
    at : mapping of str to value or list, optional
        Values in place of the mean of a covariate, or of all levels of a factor.
    spread : bool
        Covariates at their mean less and plus one, or less where the data end, in place of the mean.

    Notes
    -----
    A numeric variable with two values, as of zeros and ones, has both in the grid.

    Raises
    ------
    OptionError
        A name or a level that there is not.
    InferenceError
        A variable whose levels are not known.
    MemoryEstimateError
        A grid that would not fit in memory.
    """
    if not coding.x_names:
        raise InferenceError(
            f"formula {coding.formula!r} has no fixed effects, so there are no means of them."
        )
    given = {} if at is None else dict(at) if isinstance(at, Mapping) else None
    if given is None:
        raise OptionError(f"at={at!r} must be a dictionary of values by variable, such as {{'x': [0, 1]}}.")
    given = {check_names("at", [name], coding)[0]: values for name, values in given.items()}
    two_valued = _two_valued(coding, fitted)
    values = tuple(
        [v.low, v.high] if v.name in two_valued and v.name not in given else _values(v, given, spread)
        for v in coding.variables
    )
    cells = prod(len(v) for v in values)
    width = len(coding.x_names) + len(values)
    if 32.0 * cells * width > available_memory():
        listed = ", ".join(f"{v.name} ({len(own)})" for v, own in zip(coding.variables, values, strict=True))
        raise MemoryEstimateError(
            f"the reference grid has {cells:.3g} cells, the product of the levels of {listed}, and would not "
            "fit in memory. at={'name': [levels]} leaves levels out."
        )
    return Grid(coding.variables, values, coding, fitted, two_valued, nesting_of(coding, fitted))


def _two_valued(coding: Coding, fitted: Fitted) -> dict[str, np.ndarray]:
    """Numeric variables that are columns of X with two values, and whether each row has the greater one."""
    if fitted.design is None or not fitted.design.has_rows:
        return {}
    names = [v.name for v in coding.variables]
    columns = {
        column_in(term.factors[0], names): term.columns.start
        for term in coding.terms
        if len(term.factors) == 1
    }
    out = {}
    for variable in coding.variables:
        if variable.kind == "numeric" and variable.name in columns and variable.low < variable.high:
            values = fitted.design.X[:, columns[variable.name]]
            for part in (values[:_HEAD], values):
                greater = part == variable.high
                if not np.all(greater | (part == variable.low)):
                    break
            else:
                out[variable.name] = greater
    return out


def _values(variable: Variable, given: Mapping[str, Any], spread: bool) -> list:
    name = variable.name
    if name in given:
        asked = given[name]
        if isinstance(asked, str) or np.ndim(asked) == 0:
            asked = [asked]
        asked = list(asked)
        if not asked:
            raise OptionError(f"at[{name!r}] is empty.")
        if variable.kind == "categorical":
            return [_level(value, variable) for value in asked] if variable.levels is not None else asked
        try:
            numbers = [float(value) for value in asked]
        except (TypeError, ValueError) as error:
            raise OptionError(f"at[{name!r}]={asked!r}: {name!r} is numeric, and these are not.") from error
        if not np.all(np.isfinite(numbers)):
            raise OptionError(f"at[{name!r}]={asked!r} has values that are missing or infinite.")
        return numbers
    if variable.kind == "categorical":
        if variable.levels is None:
            raise InferenceError(
                f"the levels of {name!r}, which a function of the formula takes, are not known; give them: "
                f"at={{{name!r}: [...]}}."
            )
        return list(variable.levels)
    if not spread:
        return [variable.mean]
    # as R's joint_tests, but where the data are: functions of the formula may be defined nowhere else
    step = min(1.0, variable.mean - variable.low, variable.high - variable.mean) or 1.0
    return [variable.mean - step, variable.mean + step]


def _level(value: Any, variable: Variable) -> Any:
    assert variable.levels is not None
    for level in variable.levels:
        if level is value or level == value:
            return level
    known = {str(level): level for level in variable.levels}
    close = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    hint = f" Did you mean {known[close[0]]!r}?" if close else ""
    listed = ", ".join(map(repr, variable.levels[:20])) + (", ..." if len(variable.levels) > 20 else "")
    raise OptionError(f"{variable.name!r} has no level {value!r}.{hint} Its levels are {listed}.")


def _array(values: list) -> np.ndarray:
    if all(isinstance(value, bool | np.bool_) for value in values):
        return np.array(values, dtype=bool)
    if all(isinstance(value, int | float | np.number) for value in values):
        return np.array(values)
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def check_names(what: str, names: Any, coding: Coding) -> list[str]:
    """Names of variables of the fixed part, C(name) for name.

    Parameters
    ----------
    what : str
        The argument, for messages.
    names : str, sequence of str or None
    coding : Coding

    Raises
    ------
    OptionError
        A name that there is not.
    """
    if names is None:
        return []
    asked = [names] if isinstance(names, str) else names
    if not isinstance(asked, Sequence | set | frozenset) or not all(isinstance(n, str) for n in asked):
        raise OptionError(
            f"{what}={names!r} must be a name, or a list of names, of the fixed part's variables."
        )
    known = [v.name for v in coding.variables]
    out: list[str] = []
    for name in asked:
        found = name if name in known else column_in(name, known)
        if found is None:
            raise OptionError(_unknown(what, name, coding))
        if found not in out:
            out.append(found)
    return out


def _unknown(what: str, name: str, coding: Coding) -> str:
    known = [v.name for v in coding.variables]
    random = {column for term in coding.random_terms for column in term.group.columns}
    said = f"{what} names {name!r}, which is no variable of the fixed part of {coding.formula!r}."
    if name in random:
        return f"{said} It is a grouping factor: its effects are random."
    for separator in ("|", "*", ":", "+", "~"):
        if separator in name:
            return f"{said} Give several as a list, and those to go by as by=."
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{said}{hint} Its variables are {', '.join(known) or 'none'}."


def check_weights(weights: object) -> str:
    """How cells are averaged: equal, proportional or cells."""
    if weights in _WEIGHTS:
        return str(weights)
    close = difflib.get_close_matches(str(weights).lower(), _WEIGHTS, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise OptionError(f"weights={weights!r} is not known.{hint} Known: {', '.join(_WEIGHTS)}.")


def combinations_of(grid: Grid, names: Sequence[str]) -> list[np.ndarray]:
    """Place of the values of some variables in every combination of them, the first changing fastest."""
    sizes = [len(grid.values[grid.names.index(name)]) for name in names]
    if not sizes:
        return []
    return list(np.unravel_index(np.arange(prod(sizes)), sizes, order="F"))


def averages(
    grid: Grid, rows: np.ndarray, names: Sequence[str], weights: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over the cells that have the same values of some variables.

    Parameters
    ----------
    grid : Grid
    rows : ndarray, shape (cells, p)
    names : sequence of str
    weights : {"equal", "proportional", "cells"}
        Every cell once; by how often the levels averaged over occur; by how often each cell does.

    Returns
    -------
    means : ndarray, shape (combinations, p)
        Combinations as `combinations_of` orders them.
    empty : ndarray of bool, shape (combinations,)
        Without rows in the data to weigh by; zero in `means`.
    there : ndarray of bool, shape (combinations,)
        Whether a combination makes sense, where factors are nested.
    """
    axes = [grid.names.index(name) for name in names]
    others = [axis for axis in range(len(grid.shape)) if axis not in axes]
    order = [*axes, *others]
    kept = prod(grid.shape[axis] for axis in axes)

    def arranged(values: np.ndarray) -> np.ndarray:
        """Combinations by what is averaged over."""
        return values.transpose(order).reshape((kept, -1), order="F")

    cells = arranged(np.arange(prod(grid.shape)).reshape(grid.shape, order="F"))
    possible = arranged(grid.possible())
    weight = possible.astype(np.float64)
    if weights != "equal":
        weight = arranged(grid.counts())
        if weights == "proportional":
            weight = weight.sum(axis=0) * possible
    total = weight.sum(axis=1, keepdims=True)
    share = weight / np.where(total > 0.0, total, 1.0)
    return np.einsum("kc,kcp->kp", share, rows[cells]), total[:, 0] == 0.0, np.any(possible, axis=1)


def slopes(grid: Grid, name: str) -> np.ndarray:
    """Derivatives of the fixed columns in a covariate, in every cell, shape (cells, p).

    Central differences at two steps, extrapolated (Richardson): exact for polynomials up to degree four.
    """
    variable = grid.variables[grid.names.index(name)]
    step = _STEP * ((variable.high - variable.low) or max(abs(variable.mean), 1.0))

    def central(h: float) -> np.ndarray:
        return (grid.columns({name: h}) - grid.columns({name: -h})) / (2.0 * h)

    return (4.0 * central(step) - central(2.0 * step)) / 3.0
