"""Variance-component formulas: one evaluation over the data, never one per group.

A formula such as ``0 + C(classroom)`` means "within each group": its random effects are the observed
combinations of group and classroom.  Terms made of factors and numeric columns become codes directly; the
dense indicator matrix is never formed.  Formulas whose coding depends on the group (a treatment-coded factor,
``center(x)``) keep statsmodels' meaning, a separate evaluation in each group, and its cost.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from ...engine.runtime.finite import count_non_finite
from ...exceptions import DataError
from ..releases import FormulaManager
from .components import VarianceComponent, VCSpec, component_from_cells, components_from_spec
from .groups import GroupIndex, factorize
from .lookup import Lookup

__all__ = [
    "CellLevels",
    "cell_levels",
    "column_of",
    "component_from_formula",
    "factors_of",
    "formula_columns",
    "numeric_column",
]

_QUOTED = r"""Q\(\s*(?:"(?P<q1>[^"]+)"|'(?P<q2>[^']+)')\s*\)"""
_COLUMN = re.compile(rf"^\s*(?:{_QUOTED}|`(?P<tick>[^`]+)`|(?P<name>[^\W\d]\w*))\s*$")
_CATEGORICAL = re.compile(r"^\s*C\((?P<inner>.*)\)\s*$", re.DOTALL)
_WORDS = re.compile(r"""[^\W\d]\w*|`[^`]+`|"[^"]+"|'[^']+'""")


def formula_columns(formula: str, columns: pd.Index) -> list[Hashable]:
    """Columns of the data a formula may read: names, ``Q("my col")`` and backticks included."""
    words = _words_of(formula)
    return [c for c in columns if c in words]


@lru_cache(maxsize=256)
def _words_of(formula: str) -> frozenset[str]:
    return frozenset(w.strip("`\"'") for w in _WORDS.findall(formula))


@dataclass(frozen=True)
class _CellLabels:
    """Names of level combinations, ``C(a)[x]:z``, made when asked for."""

    factors: tuple[str, ...]
    levels: tuple[list | None, ...]
    codes: tuple[np.ndarray | None, ...]

    def __call__(self, first: int, last: int) -> list[str]:
        parts = []
        for name, levels, codes in zip(self.factors, self.levels, self.codes, strict=True):
            if levels is None or codes is None:
                parts.append([name] * (last - first))
            else:
                parts.append([f"{name}[{levels[c]}]" for c in codes[first:last]])
        return [":".join(cells) for cells in zip(*parts, strict=True)]


@dataclass(frozen=True)
class _JoinedLabels:
    """Names of the columns of several terms, merged group by group."""

    parts: tuple[_CellLabels, ...]
    part: np.ndarray
    position: np.ndarray

    def __call__(self, first: int, last: int) -> list[str]:
        return [
            self.parts[p](i, i + 1)[0]
            for p, i in zip(self.part[first:last], self.position[first:last], strict=True)
        ]


@dataclass(frozen=True)
class _Term:
    """One term evaluated over the data: its cells' columns, values, and what the columns are."""

    column: np.ndarray
    values: np.ndarray | None
    column_group: np.ndarray
    labels: _CellLabels


def component_from_formula(
    name: str,
    formula: str,
    data: pd.DataFrame,
    groups: GroupIndex,
    eval_env: int | Mapping[str, Any],
    use_sparse: bool = False,
) -> VarianceComponent:
    """Evaluate a variance-component formula within groups.

    Parameters
    ----------
    name : str
        Name of the component.
    formula : str
        One-sided formula; write ``0 + ...`` for random intercepts of a factor's levels.
    data : DataFrame
        The rows of the model, in the order of `groups`.
    groups : GroupIndex
    eval_env : int or mapping
        Frames up from the caller of this function where names not in the data are looked up, or the names.
    use_sparse : bool
        Give ``exog_vc.mats`` as sparse matrices.

    Raises
    ------
    DataError
        Missing or infinite values in a column of the formula.
    """
    env = eval_env + 1 if isinstance(eval_env, int | np.integer) else eval_env
    terms = factors_of(formula)
    data = data[formula_columns(formula, data.columns)] if isinstance(data, pd.DataFrame) else data
    parts: list[_Term] = []
    if _separable(terms, data):
        for term in terms:  # a comprehension is one more frame, but not in every release of Python
            part = _evaluate(name, term, data, groups, _deeper(env))
            if part is not None:
                parts.append(part)
    if len(parts) < max(len(terms), 1):
        return _group_by_group(name, formula, data, groups, _deeper(env), use_sparse)
    n, n_groups = groups.n, groups.n_groups
    if len(parts) == 1:
        part = parts[0]
        return component_from_cells(
            name,
            np.arange(n),
            part.column,
            part.values,
            n,
            part.column_group,
            part.labels,
            use_sparse,
            n_groups,
        )
    # merge the terms' columns group by group; the sort is stable, so a group keeps the order of the terms
    of_group = np.concatenate([p.column_group for p in parts])
    order = np.argsort(of_group, kind="stable")
    rank = np.empty(order.size, dtype=np.intp)
    rank[order] = np.arange(order.size)
    counts = [p.column_group.size for p in parts]
    offsets = np.concatenate(([0], np.cumsum(counts)))
    columns = np.stack([rank[p.column + offsets[i]] for i, p in enumerate(parts)], axis=1).ravel()
    values = np.stack([np.ones(n) if p.values is None else p.values for p in parts], axis=1).ravel()
    which = np.repeat(np.arange(len(parts)), counts)[order]
    labels = _JoinedLabels(tuple(p.labels for p in parts), which, order - offsets[which])
    rows = np.repeat(np.arange(n), len(parts))
    return component_from_cells(name, rows, columns, values, n, of_group[order], labels, use_sparse, n_groups)


@dataclass(frozen=True)
class CellLevels:
    """What the columns of a component are: groups and levels of plain columns, times plain numbers.

    Attributes
    ----------
    factors, numbers : tuple of str
        Columns of the data.
    levels : list of tuple
        Level of every factor, a tuple for each column of the component that rows use.
    """

    factors: tuple[str, ...]
    numbers: tuple[str, ...]
    levels: list[tuple[Hashable, ...]]


def cell_levels(component: VarianceComponent, data: pd.DataFrame) -> CellLevels | None:
    """The levels behind a component's columns.

    None where they are not one term's cells, or its factors are expressions: what such columns would be for
    other rows depends on the rows of their group.
    """
    labels = component.labels
    if not isinstance(labels, _CellLabels):
        return None
    factors: list[str] = []
    numbers: list[str] = []
    parts: list[list[Hashable]] = []
    for code, levels, codes in zip(labels.factors, labels.levels, labels.codes, strict=True):
        if levels is None or codes is None:
            if code == "Intercept" and len(labels.factors) == 1:
                continue
            column, kind = numeric_column(code, data), numbers
        else:
            column, kind = _factor_of(code, data), factors
            own = codes if component.used is None else codes[component.used]
            parts.append([levels[i] for i in own])
        if not isinstance(column, str):
            return None
        kind.append(column)
    cells: list[tuple[Hashable, ...]] = [()] * component.n_used
    if parts:
        cells = list(zip(*parts, strict=True))
    return CellLevels(tuple(factors), tuple(numbers), cells)


def _deeper(env: int | Mapping[str, Any]) -> int | Mapping[str, Any]:
    """The same frame, seen from one call further down."""
    return env + 1 if isinstance(env, int) else env


def factors_of(formula: str) -> list[tuple[str, ...]]:
    """The terms of a one-sided formula, each as the code of its factors; the intercept is the empty term."""
    return _parse(formula.strip().removeprefix("~"), FormulaManager().engine)


@lru_cache(maxsize=256)
def _parse(rhs: str, engine: str) -> list[tuple[str, ...]]:
    if engine == "patsy":
        from patsy import ModelDesc

        terms = ModelDesc.from_formula(rhs).rhs_termlist
        return [tuple(f.code if hasattr(f, "code") else f.name() for f in t.factors) for t in terms]
    from formulaic import Formula

    return [tuple(f.expr for f in t.factors if f.expr != "1") for t in Formula(rhs)]


def numeric_column(code: str, data: pd.DataFrame | Lookup) -> Hashable | None:
    """The numeric column that a factor's code names as it stands; None for anything else."""
    column = column_of(code, data)
    if column is None or not pd.api.types.is_numeric_dtype(data[column].dtype):
        return None
    return column


def column_of(code: str, data: pd.DataFrame | Lookup) -> Hashable | None:
    """The column that a factor's code names as it stands, Q() and backticks included; None without one."""
    name = _name_of(code)
    return name if name is not None and name in data.columns else None


@lru_cache(maxsize=512)
def _name_of(code: str) -> str | None:
    match = _COLUMN.match(code)
    return None if match is None else next(g for g in match.groupdict().values() if g is not None)


def _factor_of(code: str, data: pd.DataFrame) -> Hashable | None:
    """The column behind a factor: ``C(a)``, or ``a`` where it is not numeric."""
    wrapped = _CATEGORICAL.match(code)
    if wrapped is not None:
        return column_of(wrapped["inner"], data)
    column = column_of(code, data)
    if column is None:
        return None
    return None if pd.api.types.is_numeric_dtype(data[column].dtype) else column


def _separable(terms: list[tuple[str, ...]], data: pd.DataFrame) -> bool:
    """Whether every factor keeps one column per level, whatever the group.

    A factor is treatment-coded, and then relative to the first level of each group, exactly where another
    term spans the same numeric part (an intercept, a second factor).
    """
    if not terms:
        return False
    numeric = [frozenset(code for code in term if _factor_of(code, data) is None) for term in terms]
    categorical = [any(_factor_of(code, data) is not None for code in term) for term in terms]
    return not any(c and numeric.count(m) > 1 for c, m in zip(categorical, numeric, strict=True))


def _evaluate(
    name: str, term: tuple[str, ...], data: pd.DataFrame, groups: GroupIndex, env: int | Mapping[str, Any]
) -> _Term | None:
    """One term over all rows; None where its values depend on the rows they are evaluated with."""
    values = None
    factors: list[str] = []
    levels: list[list | None] = []
    codes: list[np.ndarray | None] = []
    for code in term:
        column = _factor_of(code, data)
        if column is None:
            numeric = _numeric(name, code, data, _deeper(env))
            if numeric is None:
                return None
            values = numeric if values is None else values * numeric
            factors.append(code)
            levels.append(None)
            codes.append(None)
            continue
        level, labels = _levels(data[column])
        missing = int(np.count_nonzero(level < 0))
        if missing:
            raise DataError(
                f"variance component '{name}': column {column!r} has {missing} missing values. "
                "Remove those rows, or use missing='drop'."
            )
        factors.append(code)
        levels.append(labels)
        codes.append(level)
    if not term:
        factors, levels, codes = ["Intercept"], [None], [None]
    sized = [(c, len(lv)) for c, lv in zip(codes, levels, strict=True) if c is not None and lv is not None]
    cell, of_group, level_of = _cells(groups, sized)
    kept = iter(level_of)
    per_factor = tuple(None if lv is None else next(kept) for lv in levels)
    return _Term(cell, values, of_group, _CellLabels(tuple(factors), tuple(levels), per_factor))


def _levels(column: pd.Series) -> tuple[np.ndarray, list]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy().astype(np.intp), column.cat.categories.tolist()
    return factorize(column, f"column {column.name!r}")


def _cells(
    groups: GroupIndex, factors: list[tuple[np.ndarray, int]]
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Observed combinations of group and factor levels: code of each row, group and levels of each code.

    Sorted by group; within a group the leftmost factor varies fastest, as in the columns of a formula.
    """
    if not factors:
        return groups.codes, np.arange(groups.n_groups), []
    key = groups.codes.astype(np.int64)
    size = groups.n_groups
    for codes, n_levels in reversed(factors):
        key = key * n_levels + codes
        size *= n_levels
    if size <= 4 * key.size + 1000:
        # small enough to count instead of hashing
        seen = np.zeros(size, dtype=bool)
        seen[key] = True
        uniques = np.flatnonzero(seen)
        column = (np.cumsum(seen) - 1)[key]
    else:
        hashed, distinct = pd.factorize(key)
        order = np.argsort(distinct)
        rank = np.empty(order.size, dtype=np.intp)
        rank[order] = np.arange(order.size)
        column, uniques = rank[hashed], distinct[order]
    levels = []
    for _, n_levels in factors:
        uniques, level = np.divmod(uniques, n_levels)
        levels.append(level)
    return column, uniques, levels


def _numeric(name: str, code: str, data: pd.DataFrame, env: int | Mapping[str, Any]) -> np.ndarray | None:
    column = column_of(code, data)
    if column is not None:
        return _checked(name, code, data[column].to_numpy(dtype=np.float64, na_value=np.nan))
    manager = FormulaManager()
    frame = data if data.shape[1] else pd.DataFrame(index=data.index)
    matrix = manager.get_matrices(f"0 + {code}", frame, eval_env=env, pandas=True)
    if matrix.shape[1] != 1 or not _row_by_row(manager):
        return None
    if matrix.shape[0] != len(data):
        raise DataError(
            f"variance component '{name}': {code} has {len(data) - matrix.shape[0]} missing values. "
            "Remove those rows, or use missing='drop'."
        )
    return _checked(name, code, matrix.to_numpy(dtype=np.float64)[:, 0])


def _checked(name: str, code: str, values: np.ndarray) -> np.ndarray:
    nan, inf = count_non_finite(values)
    if nan or inf:
        raise DataError(
            f"variance component '{name}': {code} has {nan} missing and {inf} infinite values. "
            "Remove those rows, or use missing='drop' for the missing ones."
        )
    return values


def _row_by_row(manager: FormulaManager) -> bool:
    """Whether the last evaluation was numeric and free of transformations that look at all rows."""
    spec = manager.spec
    if manager.engine == "patsy":
        infos = spec.factor_infos.values()
        return all(i.type == "numerical" and not i.state.get("transforms") for i in infos)
    return not spec.factor_contrasts and not any(spec.transform_state.values())


def _group_by_group(
    name: str,
    formula: str,
    data: pd.DataFrame,
    groups: GroupIndex,
    env: int | Mapping[str, Any],
    use_sparse: bool,
) -> VarianceComponent:
    """Evaluate in each group separately, for formulas whose coding is relative to the group."""
    mats, colnames = [], []
    for g in range(groups.n_groups):
        block = FormulaManager().get_matrices(formula, data.iloc[groups.rows(g)], eval_env=env, pandas=True)
        mats.append(block.to_numpy(dtype=np.float64))
        colnames.append(block.columns.tolist())
    (component,) = components_from_spec(VCSpec([name], [colnames], [mats]), groups)
    return component if not use_sparse else _as_sparse(component)


def _as_sparse(component: VarianceComponent) -> VarianceComponent:
    from dataclasses import replace

    return replace(component, sparse=True)
