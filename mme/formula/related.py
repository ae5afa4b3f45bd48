"""Grouping factors whose levels have a known covariance: recoded to the relationship's own levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..engine.equations.design import RandomTerm
from ..engine.equations.relation import Relation
from ..engine.runtime.scipys import scipy_module
from ..exceptions import DataError, DesignError, OptionError
from ..relationship.known import Relationship, known_relationship, listed
from .codes import Factor, code_type

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["JointTerm", "Related", "effect_names", "relate"]


@dataclass(frozen=True, eq=False)
class JointTerm:
    """Terms of several grouping columns whose effects of a level are correlated (direct and maternal).

    Attributes
    ----------
    label : str
        ``"animal + dam"``.
    members : tuple of int
        The terms of the formula.
    relation : Relation
    factor : Factor
        Levels of the relationship; the rows' codes are those of the first column.
    codes : tuple of ndarray, each of shape (n,)
        Of each member.
    """

    label: str
    members: tuple[int, ...]
    relation: Relation
    factor: Factor
    codes: tuple[np.ndarray, ...]

    def term(self, names: Sequence[str], columns: Sequence[np.ndarray | None]) -> RandomTerm:
        """The random term of the members' columns, None for an intercept, with their names."""
        n, q = self.codes[0].size, self.factor.n_levels
        width = [1 if c is None else c.shape[1] for c in columns]
        k = sum(width)
        at, value, first = [], [], 0
        for codes, c, w in zip(self.codes, columns, width, strict=True):
            at.append(codes.astype(np.int64)[:, None] * k + first + np.arange(w))
            value.append(np.ones((n, 1)) if c is None else c)
            first += w
        return RandomTerm(
            self.label,
            None,
            q,
            Z=_rows(np.hstack(at), np.hstack(value), q * k),
            column_names=tuple(names),
            relation=self.relation,
            effects=k,
        )


def _rows(columns: np.ndarray, values: np.ndarray, width: int) -> sp.csr_array:
    sparse = scipy_module("sparse")
    n, each = columns.shape
    Z = sparse.csr_array(
        (values.ravel(), columns.ravel(), np.arange(0, n * each + 1, each)), shape=(n, width)
    )
    Z.sum_duplicates()
    return Z


@dataclass(frozen=True, eq=False)
class Related:
    """The terms of a formula with their relationships.

    Attributes
    ----------
    factors : list of Factor
        One per term; those of related ones have the relationship's levels.
    relations : list of Relation or None
    joint : tuple of JointTerm
        Of terms that are one.
    """

    factors: list[Factor]
    relations: list[Relation | None]
    joint: tuple[JointTerm, ...]


def relate(relationship: object, labels: Sequence[str], factors: Sequence[Factor], formula: str) -> Related:
    """Find the terms that `relationship=` names, and recode their levels.

    Parameters
    ----------
    relationship : mapping of grouping factor, or tuple of grouping factors, to relationship
    labels : sequence of str
        Label of the grouping factor of every term.
    factors : sequence of Factor
        Of every term.
    formula : str
        For messages.

    Raises
    ------
    OptionError
        A grouping factor that the formula does not have, or something that is no relationship.
    DataError
        Levels in the data that a relationship lacks.
    """
    out = Related(list(factors), [None] * len(factors), ())
    if relationship is None:
        return out
    if not isinstance(relationship, Mapping):
        raise OptionError(
            "relationship must be a mapping of a grouping factor to what relates its levels, such as "
            "{'animal': mme.Pedigree(...)}, not " + type(relationship).__name__ + "."
        )
    plain = [label.strip("`") for label in labels]
    known: dict[int, Relationship] = {}
    joint = []
    for key, given in relationship.items():
        names = key if isinstance(key, tuple) else (key,)
        for name in names:
            if name not in plain:
                raise OptionError(
                    f"formula {formula!r} has no grouping factor {name!r}, which relationship= names; it has "
                    f"{', '.join(dict.fromkeys(plain))}."
                )
        if id(given) not in known:
            known[id(given)] = known_relationship(given, str(key))
        relation = known[id(given)]
        members = [t for name in names for t, label in enumerate(plain) if label == name]
        if any(out.relations[t] is not None for t in members) or len(set(names)) < len(names):
            raise OptionError(f"relationship= names {key!r} more than once.")
        coded: dict[int, Factor] = {}
        for t in members:
            factor = factors[t]
            if id(factor) not in coded:
                coded[id(factor)] = _recoded(factor, relation, plain[t])
            out.factors[t], out.relations[t] = coded[id(factor)], relation.relation
        if len(names) > 1:
            codes = tuple(out.factors[t].codes for t in members)
            joint.append(
                JointTerm(
                    " + ".join(names), tuple(members), relation.relation, out.factors[members[0]], codes
                )
            )
    return Related(out.factors, out.relations, tuple(joint))


def _recoded(factor: Factor, known: Relationship, name: str) -> Factor:
    levels = factor.levels
    at = known.labels.get_indexer(levels)
    absent = levels[at < 0]
    if len(absent):
        kinds = ""
        if len(absent) == len(levels):
            kinds = f" The levels are {levels.dtype}, those of the relationship {known.labels.dtype}."
        raise DataError(
            f"{len(absent)} levels of {name!r} are not in its relationship: {listed(absent)}.{kinds} "
            "Add them to the pedigree or matrix, or leave their rows out."
        )
    q = len(known.labels)
    if q < 2:
        raise DesignError(f"the relationship of {name!r} has {q} level; a variance needs at least 2.")
    return Factor(at.astype(code_type(q))[factor.codes], q, known.labels)


def effect_names(names: Sequence[str], column_names: Sequence[Sequence[str]], intercept: str) -> list[str]:
    """Names of a joint term's effects: the grouping column, with the effect where that is no intercept."""
    out: list[str] = []
    for name, own in zip(names, column_names, strict=True):
        out += [name if effect == intercept else f"{effect} of {name}" for effect in own]
    return out
