"""The coding of a MixedLM's formulas for new rows, in the words of the formula layer.

`MixedLM.predict` and its results' `predict` go through statsmodels; this is for what needs terms, levels and
the columns of the random effects as well.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...exceptions import DataError, MMEError
from ...formula.coding import Coding, TermCoding, describe
from ...formula.columns import (
    FixedTerm,
    check_whole,
    levels_in,
    patsy_levels,
    patsy_terms,
    probes,
    refuse_unseen_in,
    structure_levels,
    structure_terms,
    two_rows,
)
from ...formula.frame import ModelFrame, is_object
from ...formula.levels import GroupCoding, categorical_type
from ...formula.newdata import NewRows
from ...formula.parse import column_in, names_in
from ...formula.pieces import Piece, patsy_pieces, structure_pieces
from ..releases import FormulaManager
from .components import VarianceComponent
from .frame import coding_from_data, naming
from .vc_formula import CellLevels, cell_levels

__all__ = ["FormulaParts", "SpecColumns", "coding_of_formulas", "no_coding"]


@dataclass(frozen=True)
class FormulaParts:
    """What a model was made of beside its formula.

    Attributes
    ----------
    re_formula : str or None
    groups : tuple of str
        Columns of the groups; empty where labels were given.
    components : tuple of str
        Names of the variance components.
    """

    re_formula: str | None
    groups: tuple[str, ...]
    components: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SpecColumns:
    """Columns of a formula that statsmodels' formula engine evaluated.

    Attributes
    ----------
    formula : str
    spec : patsy.DesignInfo or formulaic.ModelSpec
    labels : tuple of str
    kinds : dict of str to dtype
        Types that the columns of the data had.
    whole : str
        Why the formula cannot be evaluated row by row; empty where it can.
    """

    formula: str
    spec: Any
    labels: tuple[str, ...]
    kinds: dict[str, Any]
    whole: str = ""

    @classmethod
    def of(cls, formula: str, spec: Any, frame: Any, values: np.ndarray) -> SpecColumns:
        """The coding of a formula's right side.

        Parameters
        ----------
        formula : str
        spec : patsy.DesignInfo or formulaic.ModelSpec
        frame : DataFrame, n rows
            The rows of the model.
        values : ndarray, shape (n, k)
            What the formula gave.
        """
        names, _ = names_in(formula.rpartition("~")[2], frame.columns)
        labels = tuple(str(name) for name in spec.column_names)
        out = cls(formula, spec, labels, {name: frame[name].dtype for name in names})
        kinds = dict(out.kinds)
        for name, dtype in out.kinds.items():
            levels = out.levels(name)
            if levels is not None and is_object(dtype):
                kinds[name] = categorical_type(levels)  # objects that hold numbers are factors here
        out = replace(out, kinds=kinds)
        terms = out.terms
        strange = [f for term in terms for f in term.factors if column_in(f, out.kinds) is None]
        for few in probes(strange, terms, values):
            try:
                again = out.matrix(NewRows(frame.iloc[few], formula))
            except MMEError as error:
                return replace(out, whole=str(error))
            if not np.array_equal(again, values[few]):
                return replace(out, whole="a few rows alone give other values")
        return out

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    @property
    def terms(self) -> tuple[FixedTerm, ...]:
        if hasattr(self.spec, "structure"):
            return structure_terms(self.spec, self.kinds)
        return patsy_terms(self.spec, self.kinds)

    @property
    def pieces(self) -> tuple[tuple[Piece, ...], ...]:
        if hasattr(self.spec, "structure"):
            return structure_pieces(self.spec, self.labels)
        return patsy_pieces(self.spec)

    def levels(self, name: str) -> list | None:
        return levels_in(self._factors(), self.kinds, name)

    def matrix(self, rows: NewRows) -> np.ndarray:
        check_whole(self.formula, self.whole)
        data = rows.typed(self.kinds)
        refuse_unseen_in(self._factors(), self.kinds, data)
        given = two_rows(data)
        with naming("formula", self.formula, given, list(self.kinds)):
            matrix = FormulaManager().get_matrices(
                self.spec, given, eval_env=dict(rows.context or {}), pandas=True, prediction=True
            )
        return np.asarray(matrix, dtype=np.float64)[: len(data)]

    def _factors(self) -> list[tuple[str, list]]:
        if hasattr(self.spec, "structure"):
            return structure_levels(self.spec)
        return patsy_levels(self.spec)


def coding_of_formulas(
    formula: str,
    frame: Any,
    spec: Any,
    exog: np.ndarray,
    parts: FormulaParts,
    re_spec: Any,
    exog_re: np.ndarray | None,
    re_names: Sequence[str],
    labels: Sequence[Hashable],
    components: Sequence[VarianceComponent] = (),
) -> Coding:
    """The coding of a model's formulas.

    Parameters
    ----------
    formula : str
    frame : DataFrame, n rows
        The rows of the model.
    spec : patsy.DesignInfo or formulaic.ModelSpec
        Of `formula`.
    exog : ndarray, shape (n, k_fe)
    parts : FormulaParts
    re_spec : patsy.DesignInfo, formulaic.ModelSpec or None
        Of ``parts.re_formula``; None: it is evaluated again.
    exog_re : ndarray, shape (n, k_re), or None
    re_names : sequence of str
    labels : sequence
        Of the groups, in the order of their codes.
    components : sequence of VarianceComponent
        Those of ``parts.components``.

    Returns
    -------
    Coding
    """
    fixed = SpecColumns.of(formula, spec, frame, exog)
    reason = ""
    terms: list[TermCoding] = []
    cells = [cell_levels(component, frame) for component in components]
    strange = [name for name, own in zip(parts.components, cells, strict=True) if own is None]
    if strange:
        reason = (
            f"the variance components {', '.join(strange)} of vc_formula are no cells of groups, levels and "
            "columns of numbers ('0 + C(a)', '0 + C(a):x'): their columns depend on the rows of a group"
        )
    elif not parts.groups:
        reason = "groups were given as labels; name their columns of the data (groups='column')"
    elif exog_re is not None and exog_re.shape[1]:
        columns: SpecColumns | None = None
        if parts.re_formula is not None and parts.re_formula.strip() not in ("1", "~1", "~ 1"):
            if re_spec is None:
                re_spec = coding_from_data(parts.re_formula, frame)
            columns = SpecColumns.of(parts.re_formula, re_spec, frame, exog_re)
        label = ":".join(parts.groups)
        group = GroupCoding.from_labels(parts.groups, labels)
        terms.append(TermCoding(label, label, group, columns, tuple(re_names)))
    if not reason:
        terms += [
            _component(component, own, parts.groups, labels, frame)
            for component, own in zip(components, cells, strict=True)
            if own is not None
        ]
    return Coding(formula, fixed, tuple(terms), describe(fixed, ModelFrame(frame)), random_reason=reason)


def _component(
    component: VarianceComponent,
    cells: CellLevels,
    groups: tuple[str, ...],
    labels: Sequence[Hashable],
    frame: Any,
) -> TermCoding:
    """A variance component as a term: its groups and factors together, the product of its numbers."""
    names = (*groups, *cells.factors)
    of_group = [label if len(groups) > 1 else (label,) for label in labels]
    keys: list[Any] = [
        (*of_group[g], *levels) for g, levels in zip(component.used_group, cells.levels, strict=True)
    ]
    if len(names) == 1:
        keys = [key for (key,) in keys]
    columns = None
    if cells.numbers:
        product = "0 + " + ":".join(f'Q("{name}")' for name in cells.numbers)
        values = np.prod([frame[name].to_numpy(dtype=np.float64) for name in cells.numbers], axis=0)
        columns = SpecColumns.of(product, coding_from_data(product, frame), frame, values[:, None])
    group = GroupCoding.from_labels(names, keys)
    return TermCoding(component.name, component.name, group, columns, (component.name,))


def no_coding() -> DataError:
    """The error for a model of arrays."""
    return DataError(
        "this model was made of arrays, so there is no formula whose coding new rows could have; build it "
        "with MixedLM.from_formula(formula, data, groups='column')."
    )
