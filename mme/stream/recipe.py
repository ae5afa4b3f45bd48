"""How chunks of rows are coded: contrasts and levels known beforehand, so that every chunk has the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pandas as pd

from ..engine.covariance.structure import structure_of
from ..engine.equations.basis import Basis, sample_basis
from ..engine.equations.sums import Sums
from ..engine.runtime.memory import available_memory
from ..exceptions import DataError, FormulaError, MemoryEstimateError
from ..formula.build import expand_bars, make_unique
from ..formula.codes import Factor
from ..formula.coding import Coding, TermCoding, Variable, describe
from ..formula.columns import INTERCEPT, Columns, EngineColumns
from ..formula.frame import ModelFrame
from ..formula.matrix import MatrixBuilder
from ..formula.scope import Scope
from .numbering import Numbers
from .survey import Request, Survey, categorical_names, is_empty, model_columns, rows_of
from .tables import LevelTable, joined_columns

__all__ = ["CodedChunk", "Range", "Recipe"]

Range: TypeAlias = tuple[float, float, float]  # mean, least, greatest


@dataclass(frozen=True, eq=False)
class CodedChunk:
    """Rows as the sums take them: see `mme.engine.equations.sums.Sums.add`."""

    X: np.ndarray
    y: np.ndarray
    codes: list[np.ndarray]
    columns: list[np.ndarray | None]
    weights: np.ndarray | None
    offset: np.ndarray | None

    def add_to(self, sums: Sums) -> None:
        """Add the rows to sums."""
        sums.add(self.X, self.y, self.codes, self.columns, self.weights, self.offset)


@dataclass(frozen=True, eq=False)
class Recipe:
    """The coding of one formula.

    Attributes
    ----------
    request : Request
    coding : Coding
        Random terms in the order of the formula.
    response : Columns
    tables : dict of tuple of str to LevelTable
        Levels of grouping factors, and of columns coded by levels.
    kinds : dict of str to str
        What the columns hold.
    ranges : dict of str to (float, float, float)
        Mean, least and greatest value of columns of numbers, of some of the rows.
    """

    request: Request
    coding: Coding
    response: Columns
    tables: dict[tuple[str, ...], LevelTable]
    kinds: dict[str, str]
    ranges: dict[str, Range]

    @classmethod
    def of(
        cls,
        survey: Survey,
        known: Mapping[str, object] | None = None,
        numbered: Mapping[tuple[str, ...], LevelTable] | None = None,
    ) -> Recipe:
        """From what a pass over the chunks found, levels known beforehand, and levels found otherwise.

        Raises
        ------
        FormulaError
            Something that depends on all rows at once.
        """
        ranges = {name: (r[0] / survey.n, r[1], r[2]) for name, r in survey.ranges.items()}
        tables = survey.tables(known, numbered)
        return cls.made(survey.request, survey.sample(), tables, dict(survey.kinds), ranges)

    @classmethod
    def restored(
        cls,
        request: Request,
        tables: dict[tuple[str, ...], LevelTable],
        kinds: dict[str, str],
        ranges: dict[str, Range],
    ) -> Recipe:
        """Without any rows: from one in which every number is its column's mean.

        Raises
        ------
        FormulaError
            The formula cannot be evaluated there.
        """
        known = {name: table.rows[name] for table in tables.values() for name in table.columns}
        row = {
            name: known[name].iloc[:1].array
            if name in known
            else [ranges[name][0] if kind == "numbers" else False]
            for name, kind in kinds.items()
        }
        return cls.made(request, pd.DataFrame(row), tables, kinds, ranges)

    @classmethod
    def made(
        cls,
        request: Request,
        sample: pd.DataFrame,
        tables: dict[tuple[str, ...], LevelTable],
        kinds: dict[str, str],
        ranges: dict[str, Range],
    ) -> Recipe:
        """From rows, levels, kinds of the columns, and the mean and range of numbers."""
        parsed, formula = request.parsed, request.formula
        frame = ModelFrame(
            _prototype(sample, tables, _coded_by_levels(request, kinds)),
            None,
            Scope(request.context, request.evaluate),
        )
        builder = MatrixBuilder(frame, formula)
        _, response = builder.coded_response(parsed.response, probed=True)
        _, fixed = builder.matrix(parsed.fixed)
        offsets = [builder.offset(text)[1] for text in parsed.offsets]
        for bar in parsed.bars:
            if bar.structure != "full":
                raise FormulaError(
                    f"formula {parsed.text!r}: {bar.text} has a covariance structure, which streamed fits do "
                    "not know: use (x | g) or (x || g), or lmer() on data in memory."
                )
        labels, _, parts = expand_bars(parsed.bars, builder, frame)
        random = tuple(
            TermCoding(name, label, tables[part.group].coding, part.columns, part.column_names)
            for name, label, part in zip(make_unique(labels), labels, parts, strict=True)
        )
        used = [response, fixed, *offsets, *(part.columns for part in parts if part.columns is not None)]
        for columns in used:
            _refuse_states(columns, formula)
        variables = tuple(_ranged(v, ranges) for v in describe(fixed, frame))
        coding = Coding(formula, fixed, random, variables, offsets=tuple(offsets), named=request.given)
        return cls(request, coding, response, tables, kinds, ranges)

    @property
    def codings(self) -> list[Columns]:
        """Of the fixed part, and of the random terms that are more than an intercept."""
        return [self.coding.fixed_columns] + [
            term.columns for term in self.coding.random_terms if term.columns is not None
        ]

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the terms of every block, terms on one grouping factor together."""
        out: dict[tuple[str, ...], list[int]] = {}
        for t, term in enumerate(self.coding.random_terms):
            out.setdefault(term.group.columns, []).append(t)
        return tuple(map(tuple, out.values()))

    @property
    def group_columns(self) -> list[tuple[str, ...]]:
        """Columns of every block's grouping factor."""
        return [self.coding.random_terms[group[0]].group.columns for group in self.groups]

    @property
    def n_levels(self) -> list[int]:
        """Levels of every block."""
        return [self.tables[columns].n_levels for columns in self.group_columns]

    @property
    def factors(self) -> tuple[Factor, ...]:
        """Grouping factor of every term."""
        return tuple(self.tables[term.group.columns].factor for term in self.coding.random_terms)

    @property
    def ones_first(self) -> bool:
        """Whether the first fixed column is one in every row."""
        return self.coding.x_names[:1] == (INTERCEPT,)

    def basis(self, sample: pd.DataFrame) -> Basis:
        """A basis from a sample of rows."""
        coded = self.code_rows(sample)
        y = coded.y if coded.offset is None else coded.y - coded.offset
        terms = [
            (z, structure_of("full").mixes, term.column_names[0] == INTERCEPT)
            for z, term in zip(coded.columns, self.coding.random_terms, strict=True)
        ]
        return sample_basis(coded.X, y, self.ones_first, terms, self._shared(coded))

    def _shared(self, coded: CodedChunk) -> list[tuple[int, ...]]:
        """Which of the fixed columns those of every random term are: of one name, and alike in a sample."""
        names = self.coding.x_names
        out = []
        for term, z in zip(self.coding.random_terms, coded.columns, strict=True):
            places = []
            for a, name in enumerate(term.column_names):
                at = names.index(name) if name in names else -1
                same = at >= 0 and bool(np.all(coded.X[:, at] == (1.0 if z is None else z[:, a])))
                places.append(at if same else -1)
            out.append(tuple(places))
        return out

    def zero(self, basis: Basis) -> Sums:
        """Sums of no rows.

        Raises
        ------
        MemoryEstimateError
            More levels than fit in memory.
        """
        self.check_memory(self.n_levels)
        return Sums.zero(basis, self.groups, self.n_levels)

    def check_memory(self, n_levels: list[int]) -> None:
        """Refuse more levels than fit in memory.

        Raises
        ------
        MemoryEstimateError
        """
        m = len(self.coding.x_names) + 1
        need = 0
        for group, q in zip(self.groups, n_levels, strict=True):
            k = sum(len(self.coding.random_terms[t].column_names) for t in group)
            need += 8 * q * (1 + k * k + k * m)
        have = available_memory()
        # the equations are made beside the sums
        if 2 * need > have:
            raise MemoryEstimateError(
                f"the sums of {sum(n_levels):,} levels of grouping factors, and equations of them, "
                f"would take {2 * need / 2**30:,.1f} GiB; {have / 2**30:,.1f} GiB are available. Use fewer "
                "columns, or a machine with more memory."
            )

    def code(self, chunk: object) -> CodedChunk | None:
        """The rows of a chunk that are in use; None if there are none."""
        if is_empty(chunk):
            return None
        found = self.request.frame(chunk)
        if found is None or found[0].n == 0:
            return None
        return self.code_rows(rows_of(*found))

    def code_rows(self, data: pd.DataFrame, numbers: Numbers | None = None) -> CodedChunk:
        """Rows without missing values.

        Parameters
        ----------
        data : DataFrame
        numbers : dict of tuple of str to LevelNumbers, optional
            Of every grouping factor whose levels are numbered as they are met; by default they are known.
        """
        coding = self.coding
        rows = coding.rows(data, self.request.context if isinstance(self.request.context, Mapping) else None)
        X = coding.fixed(rows)
        y = self.response.matrix(rows)[:, 0]
        if numbers is None:
            new = coding.random(rows)
            codes = [new[group[0]].codes for group in self.groups]
            self._check_known(data, codes)
        else:
            new = coding.random(rows, [False] * len(coding.random_terms))
            codes = [
                numbers[columns].codes([data[name] for name in columns]) for columns in self.group_columns
            ]
        return CodedChunk(
            np.ascontiguousarray(X),
            np.ascontiguousarray(y, dtype=np.float64),
            codes,
            [term.columns for term in new],
            coding.weights(rows),
            coding.offset(rows),
        )

    def _check_known(self, data: pd.DataFrame, codes: list[np.ndarray]) -> None:
        for columns, own in zip(self.group_columns, codes, strict=True):
            if own.min(initial=0) < 0:
                labels = data.loc[own < 0, list(columns)].head(3).values
                shown = ", ".join(":".join(map(str, row)) for row in labels)
                raise DataError(
                    f"grouping factor {':'.join(columns)!r} has levels that are not among the known ones: "
                    f"{shown}. Levels are found in a first pass, or given; the rows must be the same in both."
                )


def _coded_by_levels(request: Request, kinds: Mapping[str, str]) -> set[str]:
    """Columns left of the bars that are coded by levels."""
    asked = categorical_names(request.formula)
    columns = model_columns(request.parsed, list(kinds))
    return {name for name in columns if kinds[name] != "numbers" or name in asked}


def _prototype(
    sample: pd.DataFrame, tables: Mapping[tuple[str, ...], LevelTable], coded: set[str]
) -> pd.DataFrame:
    """The sample, and rows in which every level of the columns that are coded by levels occurs."""
    single = {key[0]: table for key, table in tables.items() if len(key) == 1 and key[0] in coded}
    parts = [sample]
    for name, table in single.items():
        few = table.rows[name]
        more = sample.iloc[np.arange(len(few)) % len(sample)].reset_index(drop=True)
        more[name] = few.array
        parts.append(more)
    out = pd.DataFrame({n: joined_columns([p[n] for p in parts], n) for n in sample.columns})
    for name, table in single.items():
        kind = table.rows[name].dtype
        if isinstance(kind, pd.CategoricalDtype):
            out[name] = out[name].astype(kind)
    return out


def _refuse_states(columns: Columns, formula: str) -> None:
    """Refuse what keeps something of all rows: the sample is not all rows."""
    if not isinstance(columns, EngineColumns):
        return
    if columns.whole:
        raise FormulaError(
            f"formula {formula!r}: what {columns.text!r} gives for a row depends on other rows "
            f"({columns.whole}), and chunks do not see them. Make it a column."
        )
    states = sorted(columns.spec.transform_state)
    if states:
        raise FormulaError(
            f"formula {formula!r}: {', '.join(states)} needs all rows at once (mean, spread or knots), "
            "and chunks are coded one by one. Make it a column, or write it with numbers: I((x - 1.5) / 2)."
        )


def _ranged(variable: Variable, ranges: Mapping[str, Range]) -> Variable:
    """With the mean and the range of all rows."""
    if variable.name not in ranges or np.isnan(variable.mean):
        return variable
    mean, low, high = map(float, ranges[variable.name])
    return replace(variable, mean=mean, low=low, high=high)
