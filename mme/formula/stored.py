"""The coding of a formula as plain values, for a file: no rows, no code but the formula's own text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import DataError, FormulaError
from .captured import Captured
from .coding import Coding, TermCoding, Variable
from .columns import (
    Columns,
    EngineColumns,
    FixedTerm,
    PlainColumns,
    check_whole,
    levels_in,
    patsy_levels,
    patsy_terms,
    refuse_unseen_in,
    two_rows,
)
from .evaluate import check_finite, evaluate, real_values
from .levels import GroupCoding
from .newdata import NewRows
from .pieces import Piece, patsy_pieces
from .plain import Writer
from .safe import is_elementwise
from .specs import engine_of, expressions, info_from_plain, info_to_plain, spec_from_plain, spec_to_plain

__all__ = ["PatsyColumns", "coding_from_plain", "coding_to_plain"]

_PLAIN = (bool, int, float, str, np.generic, np.ndarray, list, tuple, pd.Index)


@dataclass(frozen=True, eq=False)
class PatsyColumns:
    """Columns of a formula that patsy evaluates, without the model that had it evaluated.

    Attributes
    ----------
    formula : str
    spec : patsy.DesignInfo
    labels : tuple of str
    kinds : dict of str to dtype
    whole : str
        As of `EngineColumns`.
    """

    formula: str
    spec: Any
    labels: tuple[str, ...]
    kinds: dict[str, Any]
    whole: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    @property
    def terms(self) -> tuple[FixedTerm, ...]:
        return patsy_terms(self.spec, self.kinds)

    @property
    def pieces(self) -> tuple[tuple[Piece, ...], ...]:
        return patsy_pieces(self.spec)

    def _factors(self) -> list[tuple[str, list]]:
        return patsy_levels(self.spec)

    def levels(self, name: str) -> list | None:
        return levels_in(self._factors(), self.kinds, name)

    def matrix(self, rows: NewRows) -> np.ndarray:
        from patsy import PatsyError, build_design_matrices

        check_whole(self.formula, self.whole)
        data = rows.typed(self.kinds)
        refuse_unseen_in(self._factors(), self.kinds, data)
        texts = [name for name, dtype in data.dtypes.items() if isinstance(dtype, pd.StringDtype)]
        data = data.astype(dict.fromkeys(texts, object)) if texts else data
        given = two_rows(data)
        text = self.formula
        try:
            made = evaluate(lambda: build_design_matrices([self.spec], given, NA_action="raise"), text, text)
        except PatsyError as error:
            reason = str(error).partition("\n")[0]
            raise FormulaError(f"formula {self.formula!r} cannot be evaluated: {reason}.") from error
        values = real_values(made[0], text, text)[: len(data)]
        check_finite(values, self.labels, self.formula)
        return values


def coding_to_plain(coding: Coding, writer: Writer) -> dict[str, Any]:
    """A coding as JSON, its arrays in the writer.

    Functions and other values of the caller that are no data are left out by name: what is coded with them
    needs them again, as `context`.

    Raises
    ------
    DataError
        A level, a type or the state of a transformation that no file holds.
    """
    parts: list[Columns] = []

    def number(columns: Columns | None) -> int | None:
        if columns is None:
            return None
        for j, part in enumerate(parts):
            if part is columns:
                return j
        parts.append(columns)
        return len(parts) - 1

    fixed = number(coding.fixed_columns)
    terms = [
        {
            "name": term.name,
            "label": term.label,
            "group": (
                term.group.columns,
                list(term.group.labels),
                list(term.group.table),
                term.group.n_levels,
            ),
            "columns": number(term.columns),
            "column_names": term.column_names,
        }
        for term in coding.random_terms
    ]
    offsets = [number(columns) for columns in coding.offsets]
    plain = {
        "formula": coding.formula,
        "columns": [_columns_to_plain(part) for part in parts],
        "fixed": fixed,
        "random_terms": terms,
        "offsets": offsets,
        "variables": [(v.name, v.kind, v.levels, v.mean, v.low, v.high) for v in coding.variables],
        "named": dict(coding.named),
        "given": sorted(coding.given),
        "adopted": tuple(sorted(coding.adopted)),
        "random_reason": coding.random_reason,
    }
    return writer.write(plain, f"formula {coding.formula!r}")


def coding_from_plain(plain: dict[str, Any], trusted: bool) -> Coding:
    """The coding again.

    Parameters
    ----------
    plain : dict
        Read by a `Reader`.
    trusted : bool
        Whether any Python of the formula may be evaluated; else what ``evaluate="safe"`` accepts, alone.

    Raises
    ------
    FormulaError
        Python that is not accepted.
    """
    formula = plain["formula"]
    parts = [_columns_from_plain(part, formula, trusted) for part in plain["columns"]]
    terms = []
    for own in plain["random_terms"]:
        columns, labels, table, n_levels = own["group"]
        group = GroupCoding(columns, tuple(labels), tuple(table), n_levels)
        part = None if own["columns"] is None else parts[own["columns"]]
        terms.append(TermCoding(own["name"], own["label"], group, part, own["column_names"]))
    return Coding(
        formula,
        parts[plain["fixed"]],
        tuple(terms),
        tuple(Variable(*own) for own in plain["variables"]),
        offsets=tuple(parts[j] for j in plain["offsets"]),
        named=plain["named"],
        given=frozenset(plain["given"]),
        adopted=plain["adopted"],
        random_reason=plain["random_reason"],
    )


def _group_to_plain(group: GroupCoding) -> tuple[Any, ...]:
    return group.columns, list(group.labels), list(group.table), group.n_levels


def _columns_to_plain(columns: Any) -> dict[str, Any]:
    if isinstance(columns, PlainColumns):
        return {"engine": "none", "intercept": columns.intercept, "names": columns.names}
    spec = columns.spec
    engine = engine_of(spec)
    values, lost = columns.captured.parts() if isinstance(columns, EngineColumns) else ({}, {})
    kept = {name: value for name, value in values.items() if isinstance(value, _PLAIN)}
    lost |= {
        name: f"a {type(value).__name__}, which no file holds"
        for name, value in values.items()
        if name not in kept
    }
    return {
        "engine": engine,
        "text": getattr(columns, "text", columns.formula),
        "formula": columns.formula,
        "labels": columns.labels,
        "kinds": dict(columns.kinds),
        "whole": columns.whole,
        "values": kept,
        "lost": lost,
        "spec": spec_to_plain(spec) if engine == "formulaic" else info_to_plain(spec),
    }


def _columns_from_plain(plain: dict[str, Any], formula: str, trusted: bool) -> Any:
    engine = plain["engine"]
    if engine == "none":
        return PlainColumns(plain["intercept"], plain["names"])
    if engine not in ("formulaic", "patsy"):
        raise DataError(f"the file names a formula engine {engine!r}, which is not known.")
    spec = spec_from_plain(plain["spec"]) if engine == "formulaic" else None
    if spec is None and not trusted:
        _check(formula, [own["code"] for own in plain["spec"]["factors"]], plain)
    spec = info_from_plain(plain["spec"]) if spec is None else spec
    if not trusted:
        _check(formula, expressions(spec), plain)
    if engine == "patsy":
        return PatsyColumns(plain["formula"], spec, plain["labels"], plain["kinds"], plain["whole"])
    return EngineColumns(
        plain["formula"],
        plain["text"],
        Captured({f"coding of {plain['text']}": spec}),
        plain["labels"],
        plain["kinds"],
        Captured.of_parts(plain["values"], plain["lost"]),
        plain["whole"],
    )


def _check(formula: str, texts: list[str], plain: dict[str, Any]) -> None:
    known = plain["kinds"].keys() | plain["values"].keys()
    refused = [text for text in texts if not is_elementwise(text, known)]
    if refused:
        raise FormulaError(
            f"formula {formula!r}: {', '.join(refused)} is Python beyond columns, operators and known "
            "functions, which is not evaluated from a file. If you trust who wrote it: "
            "mme.load(path, evaluate='full')."
        )
