"""Equations from sums over chunks of rows: those of all rows at once, whatever the chunks and the basis."""

from __future__ import annotations

import numpy as np
import pytest
from problems import PROBLEMS, build

from mme.engine.direct.objective import Objective
from mme.engine.equations.assembly import equations_of_sums
from mme.engine.equations.basis import Basis, sample_basis
from mme.engine.equations.design import Design, RandomTerm
from mme.engine.equations.layout import layout_of
from mme.engine.equations.rowless import RowlessDesign, RowlessTerm
from mme.engine.equations.sums import Sums, UnlikeSample
from mme.exceptions import DataError, DesignError, InferenceError
from mme.fit.fit import fit_design

GROUPED = [
    name
    for name in PROBLEMS
    if not any(term.general or term.relation is not None for term in build(name).terms)
]


def basis_of(design: Design, rows: slice | np.ndarray) -> Basis:
    y = design.y if design.offset is None else design.y - design.offset
    return sample_basis(
        design.X[rows],
        y[rows],
        bool(design.p and np.all(design.X[:, 0] == 1.0)),
        [
            (
                None if t.columns is None else t.columns[rows],
                t.structure.mixes,
                t.columns is not None and bool(np.all(t.columns[:, 0] == 1.0)),
            )
            for t in design.terms
        ],
        [same_columns(design, t) for t in design.terms],
    )


def same_columns(design: Design, term: RandomTerm) -> list[int]:
    """Which of the fixed columns those of a term are."""
    Z = np.ones((design.n, 1)) if term.columns is None else term.columns
    found = [np.flatnonzero((design.X == z[:, None]).all(axis=0)) for z in Z.T]
    return [int(at[0]) if at.size else -1 for at in found]


def chunked(design: Design, basis: Basis, edges: list[int], parts: int = 1) -> Sums:
    layout = layout_of(design)
    groups = sorted(block.terms for block in layout.blocks)
    levels = [design.terms[g[0]].n_levels for g in groups]
    sums = [Sums.zero(basis, groups, levels) for _ in range(parts)]
    for i, (a, b) in enumerate(zip([0, *edges], [*edges, design.n], strict=True)):
        sums[i % parts].add(
            design.X[a:b],
            design.y[a:b],
            [design.terms[g[0]].codes[a:b] for g in groups],
            [None if t.columns is None else t.columns[a:b] for t in design.terms],
            None if design.weights is None else design.weights[a:b],
            None if design.offset is None else design.offset[a:b],
        )
    for other in sums[1:]:
        sums[0].merge(other)
    return sums[0]


def assembled(design: Design, sums: Sums):
    terms = [RowlessTerm(t.name, t.n_levels, t.covariance, t.column_names) for t in design.terms]
    return equations_of_sums(
        sums, design.x_names, terms, design.weights is not None, design.offset is not None
    )


def compare(design: Design, sums: Sums) -> None:
    whole = fit_design(design)
    rowless, equations = assembled(design, sums)
    fit = fit_design(rowless, equations=equations)
    assert fit.record.converged
    assert abs(fit.deviance - whole.deviance) <= 1e-10 * max(1.0, abs(whole.deviance))
    se = np.sqrt(np.diag(whole.vcov_beta))
    assert np.allclose(np.sqrt(np.diag(fit.vcov_beta)), se, rtol=1e-5, equal_nan=True)
    assert np.all(np.abs(fit.beta - whole.beta)[whole.kept] < 1e-5 * se[whole.kept])
    assert np.array_equal(fit.kept, whole.kept)
    # at the very same covariance no search is in between
    theta = np.concatenate(whole.theta)
    both = [Objective(d, True, equations=e) for d, e in ((design, None), (rowless, equations))]
    here, there = (o.solution(o.eq.to_standard(theta), standard=True) for o in both)
    assert abs(here["deviance"] - there["deviance"]) <= 1e-10 * max(1.0, abs(here["deviance"]))
    kept = whole.kept
    assert np.max(np.abs(here["beta"] - there["beta"]) / se[kept], initial=0.0) < 1e-8
    for a, b in zip(here["u"], there["u"], strict=True):
        assert np.allclose(a, b, rtol=1e-7, atol=1e-8 * np.abs(a).max(initial=0.0) + 1e-12)


@pytest.mark.parametrize("name", GROUPED)
def test_chunks_give_the_equations_of_all_rows(name):
    design = build(name)
    n = design.n
    basis = basis_of(design, slice(0, None, max(1, n // 200)))
    compare(design, chunked(design, basis, [1, n // 3, n // 3 + 2, n // 2]))
    compare(design, chunked(design, basis, list(range(17, n, 17)), parts=3))


@pytest.mark.parametrize("name", GROUPED)
def test_another_basis_gives_the_same(name):
    design = build(name)
    rng = np.random.default_rng(1)
    basis = basis_of(design, slice(0, None, max(1, design.n // 200)))
    other = basis_of(design, rng.permutation(design.n)[: max(60, design.n // 2)])
    compare(design, chunked(design, other, [design.n // 2]).rebased(basis))


def test_a_large_origin_costs_no_digits():
    """Years since the origin of a calendar, in seconds, and a response far from zero."""
    rng = np.random.default_rng(5)
    design = build(next(n for n in GROUPED if build(n).terms[0].k == 2))
    term = design.terms[0]
    columns = term.columns.copy()
    columns[:, 1:] = columns[:, 1:] * 3e7 + 1.7e9
    X = np.column_stack([np.ones(design.n), columns[:, 1]])
    slopes = RandomTerm("g", term.codes, term.n_levels, columns, column_names=("(Intercept)", "x"))
    moved = Design(1e6 + design.y + rng.normal(size=design.n), X, (slopes,))
    compare(moved, chunked(moved, basis_of(moved, slice(0, None, 3)), [5, moved.n // 2]))


def test_a_sample_unlike_the_rows_is_refused_by_name():
    rng = np.random.default_rng(2)
    n, q = 400, 20
    x = np.r_[rng.normal(size=40) * 1e-6, 1e4 + rng.normal(size=n - 40) * 1e-6]
    codes = rng.integers(0, q, n).astype(np.int32)
    codes[:q] = np.arange(q)
    design = Design(rng.normal(size=n), np.column_stack([np.ones(n), x, x**2]), (RandomTerm("g", codes, q),))
    with pytest.raises(UnlikeSample, match=r"are unlike the others\. Begin with a chunk"):
        assembled(design, chunked(design, basis_of(design, slice(0, 40)), [40]))


def test_checks_of_a_design_hold_for_sums():
    rng = np.random.default_rng(3)
    codes = np.repeat(np.arange(10, dtype=np.int32), 3)
    X = np.ones((30, 1))
    x = rng.normal(size=30)
    columns = np.column_stack([np.ones(30), x, 2.0 * x - 1.0])
    design = Design(
        rng.normal(size=30), X, (RandomTerm("g", codes, 10, columns, column_names=("1", "x", "z")),)
    )
    with pytest.raises(DesignError, match="column z depends linearly"):
        assembled(design, chunked(design, basis_of(design, slice(None)), [10]))
    constant = Design(np.r_[1.0, np.zeros(29)], X, (RandomTerm("g", codes, 10),))
    sums = chunked(constant, basis_of(constant, slice(None)), [10])
    sums.low = sums.high = 0.0
    with pytest.raises(DesignError, match="the response is constant"):
        assembled(constant, sums)
    with pytest.raises(DataError, match="weights must be positive; 2 are not"):
        sums.add(X, constant.y, [codes], [None], np.r_[0.0, -1.0, np.ones(28)])


def test_rows_that_are_not_there_are_refused_by_name():
    term = RowlessTerm("g", 3, "full", ("(Intercept)", "x"))
    design = RowlessDesign(9, ["a"], [term], np.eye(1), weighted=True)
    assert (design.n, design.p, term.k, term.n_effects, design.offset) == (9, 1, 2, 6, None)
    for look in (
        lambda: design.y,
        lambda: design.X,
        lambda: design.weights,
        lambda: term.codes,
        lambda: term.columns,
        lambda: term.times(np.zeros(6)),
    ):
        with pytest.raises(InferenceError, match="its rows were streamed and not kept"):
            look()
