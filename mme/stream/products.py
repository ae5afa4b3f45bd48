"""Sums with the recipe that says what they are sums of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..engine.equations.assembly import equations_of_sums, resembles
from ..engine.equations.basis import Basis, of_products
from ..engine.equations.equations import Equations
from ..engine.equations.rowless import RowlessTerm
from ..engine.equations.sums import Sums
from ..exceptions import DataError, DesignError, InferenceError
from ..formula.build import ModelDesign, lme4_order, make_unique
from ..formula.coding import Coding, Variable
from ..formula.columns import INTERCEPT
from ..formula.levels import GroupCoding
from ..formula.occurrences import Occurrences
from .recipe import Recipe
from .tables import LevelTable

__all__ = ["Products"]


_REBASES = 3  # times that added sums are turned into a basis of all their rows


class _NoOccurrences(Occurrences):
    """Of rows that were not kept."""

    def __init__(self) -> None:
        super().__init__({}, {})

    def codes(self, name: str) -> np.ndarray:
        raise InferenceError(
            f"which rows have which level of {name!r} is not known of a fit from cross-products; weights "
            "other than 'equal' and nested factors need it."
        )


@dataclass(frozen=True, eq=False)
class Products:
    """Sums over rows, and what they are sums of.

    Attributes
    ----------
    recipe : Recipe
    sums : Sums
    dropped, given : int
        Rows left out for missing values, and all there were.
    """

    recipe: Recipe
    sums: Sums
    dropped: int
    given: int

    def merged(self, other: Products) -> Products:
        """Of the rows of both.

        Raises
        ------
        DataError
            Sums of different models, or of differently coded columns.
        """
        _check_alike(self.recipe, other.recipe)
        tables, places = {}, []
        for columns, own in self.recipe.tables.items():
            theirs = other.recipe.tables[columns]
            tables[columns] = own.united(theirs)
        blocks = self.recipe.group_columns
        own_places = [tables[c].places(self.recipe.tables[c]) for c in blocks]
        places = [tables[c].places(other.recipe.tables[c]) for c in blocks]
        sums = self.sums.placed(own_places, [tables[c].n_levels for c in blocks])
        more = other.sums if other.sums.basis is sums.basis else other.sums.rebased(sums.basis)
        sums.merge(more, places)
        for _ in range(_REBASES):
            if resembles(sums):
                break
            basis = self._basis_of(sums)
            sums = self.sums.rebased(basis).placed(own_places, [tables[c].n_levels for c in blocks])
            sums.merge(other.sums.rebased(basis), places)
        recipe = _with_tables(self.recipe, tables, _joined(self, other))
        return Products(recipe, sums, self.dropped + other.dropped, self.given + other.given)

    def _basis_of(self, sums: Sums) -> Basis:
        """A basis in which the rows of sums are nearly orthonormal."""
        terms: list[np.ndarray | None] = [None] * len(sums.basis.terms)
        for group, block in zip(sums.groups, sums.blocks, strict=True):
            start = 0
            for t in group:
                part = slice(start, start + len(sums.basis.pool[t]))
                start = part.stop
                if part.stop - part.start > 1:
                    terms[t] = block.total[part, part]
        firsts = [term.column_names[0] == INTERCEPT for term in self.recipe.coding.random_terms]
        return of_products(sums.basis, sums.xr, sums.n, terms, self.recipe.ones_first, firsts)

    def model_design(self) -> tuple[ModelDesign, Equations]:
        """The labelled design without rows, and its equations; levels without rows are left out."""
        recipe, sums = self.recipe, self.sums
        present = [block.counts > 0 for block in sums.blocks]
        if not all(p.all() for p in present):
            tables = dict(recipe.tables)
            places = []
            for columns, here in zip(recipe.group_columns, present, strict=True):
                tables[columns] = recipe.tables[columns].only(here)
                places.append(np.where(here, np.cumsum(here) - 1, -1))
            recipe = _with_tables(recipe, tables, recipe.coding.variables)
            sums = sums.kept(places, recipe.n_levels)
        _check_partitions(recipe, sums)
        order = lme4_order([factor.n_levels for factor in recipe.factors])
        request, factors = recipe.request, tuple(recipe.factors[t] for t in order)
        coding, sums = _ordered(recipe.coding, order), sums.renumbered(order)
        terms = [
            RowlessTerm(term.name, factor.n_levels, "full", term.column_names)
            for term, factor in zip(coding.random_terms, factors, strict=True)
        ]
        shifted = bool(coding.offsets) or request.offset is not None
        design, equations = equations_of_sums(
            sums, coding.x_names, terms, request.weights is not None, shifted
        )
        labelled = ModelDesign(
            design,
            request.formula,
            request.parsed.response,
            tuple(term.label for term in coding.random_terms),
            factors,
            pd.RangeIndex(0),
            self.dropped,
            self.given,
            coding,
            _NoOccurrences(),
        )
        return labelled, equations

    def coded_levels(self) -> dict[str, pd.Series]:
        """Levels of the columns that are coded by levels left of the bars."""
        coded = {name for columns in self.recipe.codings for name in columns.names if columns.levels(name)}
        return {c[0]: t.rows[c[0]] for c, t in self.recipe.tables.items() if len(c) == 1 and c[0] in coded}

    def small_cells(self, least: int) -> dict[str, pd.Series]:
        """Rows of the levels with fewer than so many, by grouping factor."""
        out = {}
        for columns, block in zip(self.recipe.group_columns, self.sums.blocks, strict=True):
            few = (block.counts > 0) & (block.counts < least)
            if few.any():
                labels = self.recipe.tables[columns].factor.levels
                out[":".join(columns)] = pd.Series(block.counts[few], index=labels[few], name="rows")
        return out


def _joined(a: Products, b: Products) -> tuple[Variable, ...]:
    """Means and ranges of the variables over the rows of both."""
    out = []
    for own, other in zip(a.recipe.coding.variables, b.recipe.coding.variables, strict=True):
        mean = (own.mean * a.sums.n + other.mean * b.sums.n) / (a.sums.n + b.sums.n)
        out.append(replace(own, mean=mean, low=min(own.low, other.low), high=max(own.high, other.high)))
    return tuple(out)


def _ordered(coding: Coding, order: Sequence[int]) -> Coding:
    """With the random terms in another order, and names by it."""
    terms = [coding.random_terms[t] for t in order]
    names = make_unique([term.label for term in terms])
    named = tuple(replace(term, name=name) for term, name in zip(terms, names, strict=True))
    return replace(coding, random_terms=named)


def _with_tables(
    recipe: Recipe, tables: dict[tuple[str, ...], LevelTable], variables: tuple[Variable, ...]
) -> Recipe:
    codings: dict[tuple[str, ...], GroupCoding] = {}
    terms = []
    for term in recipe.coding.random_terms:
        columns = term.group.columns
        if columns not in codings:
            codings[columns] = tables[columns].coding
        terms.append(replace(term, group=codings[columns]))
    coding: Coding = replace(recipe.coding, random_terms=tuple(terms), variables=variables)
    return replace(recipe, tables=tables, coding=coding)


def _check_alike(a: Recipe, b: Recipe) -> None:
    for label in ("formula", "weights", "offset", "subset"):
        own, other = getattr(a.request, label), getattr(b.request, label)
        if own != other:
            raise DataError(
                f"cross-products of different models cannot be added: {label} is {own!r} and {other!r}."
            )
    for name, kind in a.kinds.items():
        if b.kinds.get(name) != kind:
            raise DataError(
                f"column {name!r} holds {kind} in the one and {b.kinds.get(name)} in the other cross-"
                "products; give all chunks one type."
            )
    for own, other in zip(a.codings, b.codings, strict=True):
        for name in own.names:
            if own.levels(name) != other.levels(name):
                raise DataError(
                    f"column {name!r} has the levels {own.levels(name)} in the one and {other.levels(name)} "
                    "in the other cross-products, so that their columns differ. Give all of them the same: "
                    f"CrossProducts.of(..., levels={{{name!r}: [...]}})."
                )
        if own.labels != other.labels:
            raise DataError(
                f"the columns are {', '.join(own.labels)} in the one and {', '.join(other.labels)} in the "
                "other cross-products."
            )


def _check_partitions(recipe: Recipe, sums: Sums) -> None:
    """Refuse one grouping under two names with an effect in common: the likelihood is flat there."""
    terms = recipe.coding.random_terms
    for (a, b), pair in sums.pairs.items():
        pair.settle()
        q = sums.blocks[a].counts.size
        if not pair.keys.size == q == sums.blocks[b].counts.size:
            continue
        own, other = ([name for t in recipe.groups[i] for name in terms[t].column_names] for i in (a, b))
        shared = [name for name in own if name in other]
        if shared:
            labels = [terms[recipe.groups[i][0]].label for i in (a, b)]
            raise DesignError(
                f"formula {recipe.request.formula!r}: {labels[0]!r} and {labels[1]!r} are the same {q} "
                f"groups of rows under two names, so the variances of {', '.join(shared)} by the one and by "
                f"the other cannot be told apart. Leave out the term of {labels[0]!r} or of {labels[1]!r}."
            )
