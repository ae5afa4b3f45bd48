"""Formula and data to a `Design`, with the labels that the engine has no use for kept beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pandas as pd

from ..engine.covariance.residual import ResidualStructure
from ..engine.covariance.structure import structure_of
from ..engine.equations.design import Design, RandomTerm
from ..engine.equations.relation import Relation
from ..exceptions import DataError, DesignError, FormulaError, OptionError
from .codes import Factor, same_partition
from .coding import Coding, TermCoding, describe, sum_offsets
from .columns import INTERCEPT, Columns
from .frame import ModelFrame, suggest
from .levels import GroupCoding
from .matrix import MatrixBuilder
from .occurrences import Occurrences
from .parse import Bar, ParsedFormula, names_in, parse_formula
from .related import effect_names, relate
from .residual import make_residual, parse_residual
from .scope import Scope
from .structures import check_effects

__all__ = [
    "ModelDesign",
    "TermPart",
    "build_design",
    "expand_bars",
    "lme4_order",
    "make_unique",
    "used_columns",
]


@dataclass(frozen=True, eq=False)
class ModelDesign:
    """A design and its labels.

    Attributes
    ----------
    design : Design
        Terms in lme4's order, most levels first.
    formula : str
    response : str
        Text of the response.
    groups : tuple of str
        Label of the grouping factor of each term, for example ``"cask:batch"``; may repeat.
    factors : tuple of Factor
        Grouping factor of each term; terms that share a factor share the object.
    index : pandas.Index, shape (n,)
        The data's labels of the rows in use.
    dropped : int
        Rows left out because of missing values.
    given : int
        Rows of the data, before `subset` and missing values.
    coding : Coding
        How the columns and codes were made, for rows of other frames.
    occurrences : Occurrences
        Levels of the fixed part's factors in the rows.
    residual : ResidualStructure or None
        Covariance structure of the residuals.
    """

    design: Design
    formula: str
    response: str
    groups: tuple[str, ...]
    factors: tuple[Factor, ...]
    index: pd.Index
    dropped: int
    given: int
    coding: Coding
    occurrences: Occurrences
    residual: ResidualStructure | None = None


def build_design(
    formula: str,
    data: object,
    *,
    weights: object = None,
    offset: object = None,
    subset: object = None,
    missing: str = "warn",
    evaluate: str = "full",
    context: int | Mapping[str, object] = 0,
    residual: str | None = None,
    dispersion: str | None = None,
    relationship: object = None,
) -> ModelDesign:
    """Evaluate a mixed-model formula in data.

    Parameters
    ----------
    formula : str
        lme4's syntax; see `mme.lmm.model`.
    data : DataFrame, mapping of arrays, or anything `pandas.DataFrame` takes, n rows
    weights, offset : array_like, shape (n,), or str, optional
        Values or the name of a column.
    subset : array of bool, shape (n,), or str, optional
        Rows to use; a string is an expression for `DataFrame.eval`.
    missing : {"warn", "drop", "raise"}
        Missing values in columns of the model: their rows are left out of everything, with a warning or
        without one, or they raise.
    evaluate, context
        What formulas and subsets may do, and see: see `mme.lmm.model`.
    residual, dispersion : str, optional
        Covariance structure of the residuals: see `mme.formula.residual`.
    relationship : mapping, optional
        Known covariances between the levels of grouping factors: see `mme.lmm.model`.

    Returns
    -------
    ModelDesign

    Raises
    ------
    FormulaError
        A formula that cannot be read, or names something the data do not have.
    DataError
        Missing, infinite, non-numeric or empty data, lengths that differ.
    DesignError
        See `Design`.
    """
    if not isinstance(formula, str):
        raise FormulaError(f"the formula must be a string, not {type(formula).__name__}: 'y ~ x + (1 | g)'.")
    asked = parse_residual(residual, dispersion)
    if asked is not None and relationship is not None:
        raise OptionError(
            "relationship= with residual= or dispersion= is not fitted: their likelihood takes the levels of "
            "random effects for independent. Leave one out."
        )
    parsed = parse_formula(formula, fixed_only=asked is not None)
    frame = ModelFrame(data, subset, Scope(context, evaluate))
    used = used_columns(parsed, frame)
    if asked is not None:
        used += asked.columns(frame.names)
    extra: dict[str, np.ndarray] = {}
    by_name: dict[str, str] = {}
    for label, value in (("weights", weights), ("offset", offset)):
        if isinstance(value, str):
            if value not in frame.names:
                raise DataError(f"{label}={value!r} is not in the data{suggest([value], frame.names)}.")
            by_name[label] = value
            used.append(value)
        elif value is not None:
            extra[label] = frame.vector(value, label)
    frame.check_names(used, formula)
    frame.check_missing(list(dict.fromkeys(used)), missing, extra)

    builder = MatrixBuilder(frame, formula)
    y = builder.response(parsed.response)
    X, fixed = builder.matrix(parsed.fixed)
    vectors = {label: a if frame.rows is None else a[frame.rows] for label, a in extra.items()}
    for label, name in by_name.items():
        values = frame.numeric(name)
        if values is None:
            raise DataError(f"{label}={name!r} is not numeric (dtype {frame.raw(name).dtype}).")
        vectors[label] = values
    offsets = [builder.offset(text) for text in parsed.offsets]
    if offsets:
        vectors["offset"] = vectors.get("offset", 0.0) + sum_offsets([values for values, _ in offsets])

    labels, factors, parts = expand_bars(parsed.bars, builder, frame)
    related = relate(relationship, labels, factors, formula)
    _check_partitions(formula, labels, factors, parts, related.relations)
    factors, joint = related.factors, related.joint
    of_joint = {t: j for j in joint for t in j.members}
    order = lme4_order([factor.n_levels for factor in factors])
    # terms that are one stand where the first of them does
    order = [t for t in order if t not in of_joint or t == of_joint[t].members[0]]
    labels = [of_joint[t].label if t in of_joint else labels[t] for t in order]
    factors = [factors[t] for t in order]
    terms = []
    codings: list[TermCoding] = []
    uncoded: list[str] = []
    for t, name, factor in zip(order, make_unique(labels), factors, strict=True):
        part = parts[t]
        if t in of_joint:
            members = [parts[m] for m in of_joint[t].members]
            names = effect_names(
                [":".join(m.group) for m in members], [m.column_names for m in members], INTERCEPT
            )
            terms.append(of_joint[t].term(names, [m.matrix for m in members]))
        else:
            terms.append(
                RandomTerm(
                    name,
                    factor.codes,
                    factor.n_levels,
                    part.matrix,
                    part.structure,
                    column_names=part.column_names,
                    relation=related.relations[t],
                )
            )
        if related.relations[t] is not None and (t in of_joint or len(part.group) > 1):
            uncoded.append(labels[len(codings)])
        group = GroupCoding.of(part.group, factor)
        codings.append(TermCoding(name, labels[len(codings)], group, part.columns, part.column_names))
    design = Design(
        y,
        X,
        tuple(terms),
        weights=vectors.get("weights"),
        offset=vectors.get("offset"),
        x_names=fixed.labels,
        fixed_only=asked is not None,
    )
    structure = None if asked is None else make_residual(asked, frame, builder, vectors.get("weights"))
    coding = Coding(
        formula,
        fixed,
        tuple(codings),
        describe(fixed, frame),
        offsets=tuple(columns for _, columns in offsets),
        named=by_name,
        given=frozenset(extra),
        adopted=frame.adopted,
        random_reason=f"the related levels of {', '.join(uncoded)} in new rows are not coded"
        if uncoded
        else "",
    )
    return ModelDesign(
        design,
        formula,
        parsed.response,
        tuple(labels),
        tuple(factors),
        frame.index,
        frame.dropped,
        len(frame.data),
        coding,
        Occurrences.of(coding.variables, frame),
        structure,
    )


def make_unique(labels: Sequence[str]) -> list[str]:
    """Append .1, .2, ... to repeated labels, as lme4 does in its tables of variances."""
    taken = set(labels)
    seen: dict[str, int] = {}
    out = []
    for label in labels:
        if label not in seen:
            seen[label] = 0
            out.append(label)
            continue
        while True:
            seen[label] += 1
            candidate = f"{label}.{seen[label]}"
            if candidate not in taken:
                break
        taken.add(candidate)
        out.append(candidate)
    return out


def used_columns(parsed: ParsedFormula, frame: ModelFrame) -> list[str]:
    """Every column the formula mentions; names that are neither columns nor variables raise."""
    used: list[str] = []
    unknown: list[str] = []
    strangers: list[str] = []
    groups = {name for bar in parsed.bars for name in bar.group.columns}
    texts = [parsed.response, *(term for _, term in parsed.fixed.terms), *parsed.offsets]
    for bar in parsed.bars:
        texts.extend(term for _, term in bar.part.terms)
    for text in dict.fromkeys(texts):
        if text in frame.names:
            used.append(text)
            continue
        known, strange = names_in(text, frame.names)
        used += known
        unknown += strange
    for bar in parsed.bars:
        used.extend(bar.group.columns)
    unknown += [name for name in used if name not in frame.names]
    for name in dict.fromkeys(unknown):
        if frame.adopt(name):
            used.append(name)
        elif name in groups or name.partition(".")[0] not in frame.scope:
            strangers.append(name)
    frame.check_names(strangers + [name for name in used if name in frame.names], parsed.text)
    return [name for name in dict.fromkeys(used) if name in frame.names]


@dataclass(frozen=True, eq=False)
class TermPart:
    """What one random term has per level: an intercept alone, or columns and how they were coded.

    `structure` is the name of their covariance structure.
    """

    group: tuple[str, ...]
    matrix: np.ndarray | None = None
    columns: Columns | None = None
    structure: str = "full"

    @property
    def column_names(self) -> tuple[str, ...]:
        return (INTERCEPT,) if self.columns is None else self.columns.labels


def expand_bars(
    bars: Sequence[Bar], builder: MatrixBuilder, frame: ModelFrame
) -> tuple[list[str], list[Factor], list[TermPart]]:
    """Label, factor and columns of every term, ``||`` taken apart, in the order of the formula."""
    labels: list[str] = []
    factors: list[Factor] = []
    parts: list[TermPart] = []
    owner: dict[tuple[frozenset[str], str], str] = {}
    crossed = {bar.group.label for bar in bars if len(bar.group.columns) > 1}
    for bar in bars:
        for part in builder.split(bar.part) if bar.double else [bar.part]:
            ordered = structure_of(bar.structure).ordered  # whose levels are steps, with rows or without
            matrix, columns = builder.matrix(part, ordered) if part.terms else (None, None)
            made = TermPart(bar.group.columns, matrix, columns, bar.structure)
            check_effects(bar, made.column_names, frame, builder.formula)
            for name in made.column_names:
                earlier = owner.setdefault((frozenset(bar.group.columns), name), bar.text)
                if earlier is not bar.text:
                    raise FormulaError(
                        f"formula {builder.formula!r}: the effect {name!r} of {bar.group.label!r} is in both "
                        f"{earlier} and {bar.text}, so its two variances cannot be told apart. "
                        "Leave one out (0 + x removes an intercept)."
                    )
            label = bar.group.label
            labels.append(f"`{label}`" if len(bar.group.columns) == 1 and label in crossed else label)
            factors.append(frame.factor(bar.group.columns))
            parts.append(made)
    return labels, factors, parts


def _check_partitions(
    formula: str,
    labels: Sequence[str],
    factors: Sequence[Factor],
    parts: Sequence[TermPart],
    relations: Sequence[Relation | None],
) -> None:
    """Refuse one grouping under two names with an effect in common: the likelihood is flat there.

    Not where the levels of one are related otherwise than those of the other.
    """
    for (i, a), (j, b) in combinations(enumerate(factors), 2):
        if a is b or relations[i] is not relations[j] or not same_partition(a, b):
            continue
        own, other = parts[i].column_names, parts[j].column_names
        shared = [name for name in own if name in other]
        if not shared and not _dependent(parts[i].matrix, parts[j].matrix, a.codes.size):
            continue
        effects = ", ".join(shared) or f"{', '.join(own)} and {', '.join(other)}"
        raise DesignError(
            f"formula {formula!r}: {labels[i]!r} and {labels[j]!r} are the same {a.n_levels} groups of rows "
            f"under two names, so the variances of {effects} by the one and by the other cannot be told "
            f"apart. Leave out the term of {labels[i]!r} or of {labels[j]!r}."
        )


def _dependent(a: np.ndarray | None, b: np.ndarray | None, n: int) -> bool:
    """Whether some combination of the columns of a is one of those of b."""
    A, B = (np.ones((n, 1)) if m is None else m for m in (a, b))
    both = np.hstack([A, B])
    length = np.linalg.norm(both, axis=0)
    R: np.ndarray = np.linalg.qr(both / np.where(length > 0, length, 1.0)).R
    k = A.shape[1]
    ranks = [np.linalg.matrix_rank(part, rtol=1e-12) for part in (R, R[:, :k], R[:, k:])]
    return bool(ranks[0] < ranks[1] + ranks[2])


def lme4_order(n_levels: Sequence[int]) -> list[int]:
    """Order of the terms in lme4's mkReTrms: as written unless the number of levels increases somewhere."""
    if all(a >= b for a, b in pairwise(n_levels)):
        return list(range(len(n_levels)))
    return sorted(range(len(n_levels)), key=lambda t: n_levels[t])[::-1]
