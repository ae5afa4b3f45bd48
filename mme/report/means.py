"""Marginal means and trends of the fixed part, for results of both doors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import OptionError
from ..formula.coding import Coding
from ..inference.adjust import check_adjust
from ..inference.anova import coding_of
from ..inference.coefficients import check_alpha, inference_basis
from ..inference.estimable import Detached, detached
from ..inference.grid import (
    Grid,
    averages,
    check_names,
    check_weights,
    combinations_of,
    reference_grid,
    slopes,
)
from .coefficients import CoefficientTables
from .marginal import MarginalMeans, differences, joint_frame

__all__ = ["MeansTables"]

_USUAL = "usual"


class MeansTables(CoefficientTables):
    """Marginal means, as results of both doors have them."""

    def emmeans(
        self,
        specs: str | Sequence[str] | None,
        by: str | Sequence[str] | None = None,
        at: Mapping[str, Any] | None = None,
        weights: str = "equal",
        pairs: bool = False,
        adjust: str | None = _USUAL,
        ddf: str | None = None,
        alpha: float = 0.05,
        information: str | None = None,
    ) -> MarginalMeans:
        """Estimated marginal means: of the fixed part's predictions on a grid of levels, as R's emmeans.

        Parameters
        ----------
        specs : str or list of str
            Variables of which every combination of levels has a mean; none (``[]``) for the mean over all.
        by : str or list of str, optional
            More of them, within which means are compared.
        at : dict of str to value or list, optional
            Values of variables in the grid.  By default numeric variables are at their means, those with two
            values at both, factors have all their levels.
        weights : {"equal", "proportional", "cells"}
            How the cells of the grid are averaged: all alike; by the frequencies in the data of the levels
            averaged over; by the frequency of each cell.
        pairs : bool
            The pairwise differences in place of the means: ``.pairs(adjust)``.
        adjust : {"tukey", "holm", "sidak", "bonferroni", "fdr", "mvt"} or None
            By default none for means, "tukey" for differences.
        ddf, alpha, information
            As in `coef_table`.

        Returns
        -------
        MarginalMeans
            ``.frame`` is the table; ``.contrast()``, ``.pairs()``, ``.joint_tests()``, ``.confint()``.

        Raises
        ------
        OptionError
            A variable, level, weighting or adjustment that there is not.
        InferenceError
            A model of arrays; weights where the data were removed; what `coef_table` cannot give.

        Notes
        -----
        An offset is at its mean.  Random effects are zero.  Of factors nested in others, ``a / b`` with
        levels of b that occur with one level of a each, cells that cannot occur are left out.  Means that
        the data do not tell, for want of rows in a cell, are NaN and named in ``notes``.

        References
        ----------
        Searle, Speed & Milliken (1980), The American Statistician 34, 216-221.

        Examples
        --------
        >>> import pandas as pd, mme
        >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
        >>> result = mme.lmer("Reaction ~ C(Days) + (1 | Subject)", sleep)
        >>> means = result.emmeans("Days", at={"Days": [0, 9]})
        >>> means.frame[["Days", "estimate", "df"]].round(2)
           Days  estimate     df
        0     0    256.65  41.98
        1     9    350.85  41.98
        >>> means.pairs().frame[["contrast", "estimate", "df"]].round(2)
                contrast  estimate     df
        0  Days0 - Days9     -94.2  153.0
        """
        coding = coding_of(self.fitted, "emmeans")
        grid = reference_grid(self.fitted, coding, at)
        weights = check_weights(weights)
        rows = grid.columns()
        table = self._averaged(
            "Marginal means", grid, rows, grid.offset, specs, by, weights, ddf, alpha, information, ()
        )
        return _finished(table, pairs, adjust)

    def emtrends(
        self,
        specs: str | Sequence[str] | None,
        var: str,
        by: str | Sequence[str] | None = None,
        at: Mapping[str, Any] | None = None,
        weights: str = "equal",
        pairs: bool = False,
        adjust: str | None = _USUAL,
        ddf: str | None = None,
        alpha: float = 0.05,
        information: str | None = None,
    ) -> MarginalMeans:
        """Slopes of a numeric variable, on the grid of `emmeans`, as R's emtrends.

        Parameters
        ----------
        specs : str or list of str
            Variables of which every combination of levels has a slope; none (``[]``) for the mean over all.
        var : str
            The numeric variable, at its mean or where `at` puts it: with ``log(x)`` or ``poly(x, 2)`` in the
            formula the slope in x there.
        by, at, weights, pairs, adjust, ddf, alpha, information
            As in `emmeans`.

        Returns
        -------
        MarginalMeans

        Raises
        ------
        OptionError, InferenceError
            As `emmeans`; a `var` that is not numeric.

        Examples
        --------
        >>> import pandas as pd, mme
        >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.emtrends([], var="Days").frame[["estimate", "se", "df"]].round(3)
           estimate     se    df
        0    10.467  1.546  17.0
        """
        coding = coding_of(self.fitted, "emtrends")
        (name,) = _one(check_names("var", var, coding), var)
        if next(v for v in coding.variables if v.name == name).kind != "numeric":
            numeric = ", ".join(v.name for v in coding.variables if v.kind == "numeric") or "none"
            raise OptionError(f"var={var!r} is not numeric: it has levels. Numeric variables: {numeric}.")
        grid = reference_grid(self.fitted, coding, at)
        weights = check_weights(weights)
        rows = slopes(grid, name)
        table = self._averaged(
            f"Slopes of {name}", grid, rows, 0.0, specs, by, weights, ddf, alpha, information, (name,)
        )
        return _finished(table, pairs, adjust)

    def joint_tests(
        self,
        by: str | Sequence[str] | None = None,
        at: Mapping[str, Any] | None = None,
        ddf: str | None = None,
        information: str | None = None,
    ) -> pd.DataFrame:
        """F tests of main effects and interactions on the grid of `emmeans`, as R's joint_tests.

        Unlike `anova(type=3)`, main effects of what interacts with a covariate are those at its mean.

        Parameters
        ----------
        by : str or list of str, optional
            Variables within whose levels the others are tested.
        at, ddf, information
            As in `emmeans`; covariates are at their mean less and plus one, so that their slope is tested.

        Returns
        -------
        pandas.DataFrame
            Columns ``term``, those of `by`, ``F``, ``df1``, ``df2``, ``p``.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> machines = pd.read_csv(mme.data_path("machines.csv"))
        >>> result = mme.lmer("score ~ Machine + (1 | Worker)", machines)
        >>> result.joint_tests().round(2)
              term     F  df1   df2    p
        0  Machine  87.8    2  46.0  0.0
        """
        coding = coding_of(self.fitted, "joint_tests")
        given = check_names("by", by, coding)
        if not coding.variables:
            return joint_frame(self._detached(ddf, information), [], given)
        grid = reference_grid(self.fitted, coding, at, spread=True)
        rows = grid.columns()
        basis = self._detached(ddf, information)
        groups = combinations_of(grid, given)
        parts = []
        for chosen in _terms(coding, given):
            if grid.with_outer([*chosen, *given]) != [*chosen, *given]:
                continue  # a nested factor without the one it is in
            means, _, there = averages(grid, rows, [*chosen, *given], "equal")
            size = prod(grid.shape[grid.names.index(name)] for name in chosen)
            for g, block in enumerate(means.reshape(-1, size, means.shape[1])):
                values = tuple(
                    grid.values[grid.names.index(name)][place[g]]
                    for name, place in zip(given, groups, strict=True)
                )
                D = _within(grid, chosen, there.reshape(-1, size)[g])
                parts.append((":".join(chosen), values, D @ block, np.zeros(len(D))))
        return joint_frame(basis, parts, given)

    def _detached(self, ddf: str | None, information: str | None) -> Detached:
        basis = inference_basis(self.fitted, ddf, information, self._small_sample)
        return detached(basis, self._small_sample)

    def _averaged(
        self,
        title: str,
        grid: Grid,
        rows: np.ndarray,
        offset: float,
        specs: Any,
        by: Any,
        weights: str,
        ddf: str | None,
        alpha: float,
        information: str | None,
        moved: Sequence[str],
    ) -> MarginalMeans:
        own = check_names("specs", specs, grid.coding)
        given = check_names("by", by, grid.coding)
        if both := [name for name in own if name in given]:
            raise OptionError(f"{', '.join(both)} cannot be both in specs and in by.")
        alpha = check_alpha(alpha)
        own += [name for name in grid.with_outer([*own, *given]) if name not in (*own, *given)]
        L, empty, there = averages(grid, rows, [*own, *given], weights)
        L, empty = L[there], empty[there]
        columns = {}
        for name, place in zip([*own, *given], combinations_of(grid, [*own, *given]), strict=True):
            values = grid.values[grid.names.index(name)]
            columns[name] = pd.Series([values[j] for j in place[there]], dtype=pd.Series(values).dtype)
        labels = pd.DataFrame(columns, index=pd.RangeIndex(len(L)))
        said = _described(grid, [*own, *given], weights, moved)
        basis = self._detached(ddf, information)
        return MarginalMeans(title, labels, given, L, np.full(len(L), offset), empty, basis, alpha, said=said)


def _finished(table: MarginalMeans, pairs: bool, adjust: str | None) -> MarginalMeans:
    if pairs:
        return table.pairs() if adjust == _USUAL else table.pairs(adjust)
    table.adjust = None if adjust == _USUAL else check_adjust(adjust)
    return table


def _one(names: list[str], asked: object) -> list[str]:
    if len(names) != 1:
        raise OptionError(f"var={asked!r} must be the name of one numeric variable.")
    return names


def _described(grid: Grid, shown: Sequence[str], weights: str, moved: Sequence[str]) -> list[str]:
    """What the means are over, and where the covariates are."""
    over = [
        variable.name
        for variable, values in zip(grid.variables, grid.values, strict=True)
        if variable.name not in shown and len(values) > 1
    ]
    at = [
        f"{variable.name} = {values[0]:.5g}"
        for variable, values in zip(grid.variables, grid.values, strict=True)
        if variable.kind == "numeric" and variable.name not in shown and len(values) == 1
    ]
    out = [f"{inner} is nested in {', '.join(outer)}." for inner, outer in grid.nested.items()]
    if over:
        out.append(f"Averaged over {', '.join(over)} ({weights} weights).")
    if at:
        out.append(f"At {', '.join(at)}.")
    return out


def _terms(coding: Coding, given: Sequence[str]) -> list[tuple[str, ...]]:
    """Variables whose main effect or interaction a formula has, those among them that it leaves out, too."""
    order = [v.name for v in coding.variables]
    found: dict[tuple[str, ...], int] = {}
    for term in coding.terms:
        names = [name for name in order if name in term.variables and name not in given]
        for size in range(1, len(names) + 1):
            for chosen in combinations(names, size):
                found.setdefault(chosen, len(found))
    return sorted(found, key=lambda chosen: (len(chosen), found[chosen]))


def _within(grid: Grid, chosen: Sequence[str], there: np.ndarray) -> np.ndarray:
    """Differences along all variables, of nested ones within what they are in, shape (q, cells).

    Parameters
    ----------
    grid : Grid
    chosen : sequence of str
    there : ndarray of bool, shape (cells,)
        Which combinations of them make sense.
    """
    outer = {other for name in chosen for other in grid.nested.get(name, ())}
    places = combinations_of(grid, chosen)
    fixed = [place for name, place in zip(chosen, places, strict=True) if name in outer]
    free = [place for name, place in zip(chosen, places, strict=True) if name not in outer]
    found = np.column_stack([*fixed, np.zeros(there.size, dtype=int)])
    out = [np.zeros((0, there.size))]
    for values in np.unique(found, axis=0):
        at = np.flatnonzero(there & np.all(found == values, axis=1))
        if at.size:
            D = differences([(np.unique(place[at]).size, True) for place in free])
            block = np.zeros((len(D), there.size))
            block[:, at] = D
            out.append(block)
    return np.vstack(out)
