"""Variance components: the matrices of ``exog_vc``, one per group, as one sparse design.

A component is a matrix with a block of columns per group, all columns sharing one variance.  Where no row
has more than one non-zero (levels of a factor within groups, a slope per group) it is held as codes and one
column of values and costs the engine nothing more than a grouping factor; otherwise as a sparse matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from ...engine.equations.design import RandomTerm
from ...engine.runtime.finite import count_non_finite
from ...exceptions import DataError
from .groups import GroupIndex

__all__ = [
    "LazyVCSpec",
    "VCSpec",
    "VarianceComponent",
    "component_from_cells",
    "components_from_spec",
    "drop_rows",
]


class VCSpec:
    """The variance components of a model, as matrices per group.

    Parameters
    ----------
    names : list of str
        ``names[k]`` names component k.
    colnames : list of list of list of str
        ``colnames[k][i]`` names the columns of ``mats[k][i]``.
    mats : list of list of array_like
        ``mats[k][i]``, shape (rows of group i, columns), is the design of component k in group i; dense or
        sparse.  Groups are in sorted order; in order of appearance where the labels do not sort.

    Examples
    --------
    >>> import mme
    >>> import numpy as np
    >>> Z = np.kron(np.eye(2), np.ones((2, 1)))
    >>> spec = mme.VCSpec(["pair"], [[["p1", "p2"]]], [[Z]])
    >>> spec.names
    ['pair']
    """

    def __init__(self, names: Sequence[str], colnames: Sequence, mats: Sequence) -> None:
        self.names = names
        self.colnames = colnames
        self.mats = mats


@dataclass(frozen=True, eq=False)
class VarianceComponent:
    """One variance component over all groups.

    Attributes
    ----------
    name : str
    column_group : ndarray of intp, shape (q,)
        Group of each column, non-decreasing.
    column_starts : ndarray of intp, shape (n_groups + 1,)
        ``column_starts[g]`` is the first column of group g.
    labels : callable
        ``labels(first, last)`` lists the names of a range of columns.
    codes : ndarray of int, shape (n,), or None
        Column of the one non-zero of each row, in 0..q_used - 1 (see `used`).
    values : ndarray of float, shape (n,), or None
        Value of that non-zero; None stands for ones.
    Z : csr_array, shape (n, q_used), or None
        The design where a row has several non-zeros.
    used : ndarray of intp, shape (q_used,), or None
        The columns that are not zero everywhere; None stands for all.  The others tell the likelihood
        nothing: the engine never sees them, and their random effects are predicted as zero.
    sparse : bool
        Whether `block` returns sparse matrices.
    """

    name: str
    column_group: np.ndarray
    column_starts: np.ndarray
    labels: Callable[[int, int], list]
    codes: np.ndarray | None = None
    values: np.ndarray | None = None
    Z: sp.csr_array | None = None
    used: np.ndarray | None = None
    sparse: bool = False
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def n_columns(self) -> int:
        """Number of random effects, unused columns included."""
        return self.column_group.size

    @property
    def n_used(self) -> int:
        """Number of columns with a non-zero."""
        return self.n_columns if self.used is None else self.used.size

    @property
    def used_group(self) -> np.ndarray:
        """Group of each column with a non-zero, shape (q_used,)."""
        return self.column_group if self.used is None else self.column_group[self.used]

    def term(self) -> RandomTerm:
        """The component as the engine's random term."""
        if self.codes is None:
            return RandomTerm(self.name, None, self.n_used, Z=self.Z)
        columns = None if self.values is None else self.values[:, None]
        if columns is not None and self.n_used >= self.codes.size:
            # one row per column: identified through unequal values only, which a plain factor is not
            return RandomTerm(self.name, None, self.n_used, Z=self.matrix())
        return RandomTerm(self.name, self.codes, self.n_used, columns=columns, column_names=(self.name,))

    def matrix(self) -> sp.csr_array:
        """The design restricted to its used columns, sparse, shape (n, q_used)."""
        if self.Z is not None:
            return self.Z
        if "matrix" not in self._cache:
            assert self.codes is not None
            n = self.codes.size
            values = np.ones(n) if self.values is None else self.values
            shape = (n, self.n_used)
            self._cache["matrix"] = sp.csr_array((values, self.codes, np.arange(n + 1)), shape=shape)
        return self._cache["matrix"]

    def expand(self, u: np.ndarray) -> np.ndarray:
        """Random effects of all columns, shape (q,), from those of the used ones; zero elsewhere."""
        if self.used is None:
            return u
        full = np.zeros(self.n_columns)
        full[self.used] = u
        return full

    def block(self, g: int, groups: GroupIndex) -> np.ndarray | sp.csr_array:
        """Design of group g over its own columns, as statsmodels' ``mats[k][g]``."""
        first, last = self.column_starts[g], self.column_starts[g + 1]
        rows = self.matrix()[groups.rows(g)].tocoo()
        columns = rows.col if self.used is None else self.used[rows.col]
        out = np.zeros((groups.sizes[g], last - first))
        out[rows.row, columns - first] = rows.data
        return sp.csr_array(out) if self.sparse else out


def component_from_cells(
    name: str,
    rows: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray | None,
    n: int,
    column_group: np.ndarray,
    labels: Callable[[int, int], list],
    sparse: bool = False,
    n_groups: int | None = None,
) -> VarianceComponent:
    """Build a component from its non-zero cells, choosing codes or a sparse matrix.

    Parameters
    ----------
    name : str
    rows, columns : ndarray of int, shape (m,)
        Where the cells are; at most one cell per place.
    values : ndarray of float, shape (m,), or None
        Their values (zeros are dropped); None stands for ones.
    n : int
        Number of rows of the data.
    column_group : ndarray of int, shape (q,)
        Group of each column, non-decreasing.
    labels : callable
    sparse : bool
    n_groups : int, optional
        Number of groups; by default one more than the last group with a column.
    """
    if values is not None:
        _check_finite(name, values)
        nonzero = values != 0
        if not nonzero.all():
            rows, columns, values = rows[nonzero], columns[nonzero], values[nonzero]
    q = column_group.size
    if n_groups is None:
        n_groups = int(column_group[-1]) + 1 if q else 0
    starts = np.searchsorted(column_group, np.arange(n_groups + 1))
    used = None
    seen = np.bincount(columns, minlength=q) > 0
    if not seen.all():
        used = np.flatnonzero(seen)
        columns = (np.cumsum(seen) - 1)[columns]
    out = VarianceComponent(name, column_group, starts, labels, used=used, sparse=sparse)
    q_used = q if used is None else used.size
    per_row = np.bincount(rows, minlength=n)
    if rows.size and per_row.max() <= 1:
        if rows.size == n and (rows[0] == 0 and np.all(rows[1:] > rows[:-1])):
            codes, full = columns, values
        else:
            # a row without a non-zero may carry any code as long as its value is zero
            codes, full = np.zeros(n, dtype=np.intp), np.zeros(n)
            codes[rows] = columns
            full[rows] = 1.0 if values is None else values
        if full is not None and np.all(full == 1.0):
            full = None
        return replace(out, codes=codes, values=full)
    data = np.ones(rows.size) if values is None else values
    return replace(out, Z=sp.csr_array((data, (rows, columns)), shape=(n, q_used)))


def _check_finite(name: str, values: np.ndarray) -> None:
    nan, inf = count_non_finite(values)
    if nan or inf:
        raise DataError(
            f"variance component '{name}' has {nan} missing and {inf} infinite values. Remove those rows, or "
            "use missing='drop' for the missing ones."
        )


def components_from_spec(spec: VCSpec, groups: GroupIndex) -> tuple[VarianceComponent, ...]:
    """Turn matrices per group into components: one pass over the matrices.

    Raises
    ------
    DataError
        A component with a matrix too few or too many, or whose rows are not those of its group; non-finite
        values.
    """
    if isinstance(spec, LazyVCSpec) and spec.fits(groups):
        return spec.components
    parts = zip(spec.names, spec.mats, spec.colnames, strict=True)
    return tuple(_component_from_matrices(name, mats, names, groups) for name, mats, names in parts)


def _component_from_matrices(
    name: str, mats: Sequence, colnames: Sequence, groups: GroupIndex
) -> VarianceComponent:
    if len(mats) != groups.n_groups:
        raise DataError(
            f"variance component '{name}' has {len(mats)} matrices for {groups.n_groups} groups; it needs "
            "one per group, in the order of the sorted labels."
        )
    any_sparse = any(sp.issparse(m) for m in mats)
    blocks = [m if sp.issparse(m) else _two_dimensional(np.asarray(m, dtype=np.float64)) for m in mats]
    heights = np.array([b.shape[0] for b in blocks], dtype=np.intp)
    widths = np.array([b.shape[1] for b in blocks], dtype=np.intp)
    wrong = np.flatnonzero(heights != groups.sizes)
    if wrong.size:
        g = wrong[0]
        raise DataError(
            f"variance component '{name}': the matrix of group {groups.labels[g]!r} has {heights[g]} rows "
            f"but the group has {groups.sizes[g]}."
        )
    column_starts = np.concatenate(([0], np.cumsum(widths)))
    column_group = np.repeat(np.arange(groups.n_groups), widths)
    if any_sparse:
        coo = [sp.coo_array(b) for b in blocks]
        for block in coo:
            block.sum_duplicates()
        counts = np.array([b.nnz for b in coo])
        rows = np.concatenate([b.row for b in coo]) + np.repeat(groups.starts[:-1], counts)
        columns = np.concatenate([b.col for b in coo]) + np.repeat(column_starts[:-1], counts)
        values = np.concatenate([b.data for b in coo]).astype(np.float64)
    else:
        values = np.concatenate([b.ravel() for b in blocks])
        # row r of the sorted data has widths[group] cells, one per column of its group
        per_row = np.repeat(widths, groups.sizes)
        rows = np.repeat(np.arange(groups.n), per_row)
        first = np.repeat(column_starts[:-1], groups.sizes) - (np.cumsum(per_row) - per_row)
        columns = np.arange(values.size) + np.repeat(first, per_row)
    rows = groups.order[rows]
    if not groups.sorted_already:
        by_row = np.argsort(rows, kind="stable")
        rows, columns, values = rows[by_row], columns[by_row], values[by_row]
    names = _ListedLabels(list(colnames), column_starts)
    return component_from_cells(
        name, rows, columns, values, groups.n, column_group, names, any_sparse, groups.n_groups
    )


def _two_dimensional(matrix: np.ndarray) -> np.ndarray:
    return matrix[:, None] if matrix.ndim == 1 else matrix


@dataclass(frozen=True)
class _ListedLabels:
    """Column names given as one list per group."""

    colnames: list
    starts: np.ndarray

    def __call__(self, first: int, last: int) -> list:
        g = int(np.searchsorted(self.starts, first, side="right")) - 1
        out: list = []
        while first < last:
            stop = min(last, int(self.starts[g + 1]))
            offset = int(self.starts[g])
            out.extend(list(self.colnames[g])[first - offset : stop - offset])
            first, g = max(first, stop), g + 1
        return out


class _PerGroup(Sequence):
    """A list with one item per group, each built when asked for."""

    def __init__(self, build: Callable[[int], Any], n: int) -> None:
        self._build = build
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, g: int | slice) -> Any:
        if isinstance(g, slice):
            return [self._build(i) for i in range(*g.indices(self._n))]
        g = int(g) + self._n if g < 0 else int(g)
        if not 0 <= g < self._n:
            raise IndexError(f"group {g} of {self._n}")
        return self._build(g)


def drop_rows(spec: VCSpec, groups: GroupIndex, keep: np.ndarray, labels: Sequence[Hashable]) -> VCSpec:
    """The matrices without some rows; a group that loses all its rows goes altogether.

    Parameters
    ----------
    spec : VCSpec
    groups : GroupIndex
        The partition of all rows.
    keep : ndarray of bool, shape (n,)
        Rows to keep.
    labels : sequence
        Labels of the groups that are left, in the order wanted: labels that do not sort come in the order in
        which they appear, which may change with the rows.
    """
    inside = [keep[groups.rows(g)] for g in range(groups.n_groups)]
    position = {label: g for g, label in enumerate(groups.labels)}
    left = [position[label] for label in labels]
    mats = [[_rows_of(component[g], inside[g]) for g in left] for component in spec.mats]
    colnames = [[names[g] for g in left] for names in spec.colnames]
    return VCSpec(list(spec.names), colnames, mats)


def _rows_of(matrix: Any, mask: np.ndarray) -> Any:
    return matrix.tocsr()[mask] if sp.issparse(matrix) else np.asarray(matrix)[mask]


class LazyVCSpec(VCSpec):
    """Variance components as sparse designs; ``mats`` and ``colnames`` are built group by group on demand."""

    def __init__(self, components: Sequence[VarianceComponent], groups: GroupIndex) -> None:
        self.components = tuple(components)
        self.groups = groups
        self.names = [c.name for c in self.components]

    def without_rows(self, groups: GroupIndex) -> LazyVCSpec:
        """Names of the columns alone."""
        parts = [replace(c, codes=None, values=None, Z=None, used=None, _cache={}) for c in self.components]
        return LazyVCSpec(parts, groups)

    def fits(self, groups: GroupIndex) -> bool:
        """Whether the designs belong to this partition of the rows."""
        return groups is self.groups or (
            groups.n == self.groups.n
            and groups.n_groups == self.groups.n_groups
            and bool(np.array_equal(groups.codes, self.groups.codes))
        )

    def group_names(self, k: int, g: int) -> list[Hashable]:
        """Names of the columns of component k in group g."""
        c = self.components[k]
        return c.labels(int(c.column_starts[g]), int(c.column_starts[g + 1]))

    @property
    def colnames(self) -> list[_PerGroup]:  # type: ignore[override]  # read only: built when asked for
        n = self.groups.n_groups
        return [_PerGroup(partial(self.group_names, k), n) for k in range(len(self.components))]

    @property
    def mats(self) -> list[_PerGroup]:  # type: ignore[override]  # as above
        n = self.groups.n_groups
        return [_PerGroup(partial(c.block, groups=self.groups), n) for c in self.components]
