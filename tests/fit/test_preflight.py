"""Predictions of size and cost, the choice of solver, and refusals."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from problems import build
from support import load_data, mark_slow

import mme
from mme.engine.direct.objective import Objective
from mme.engine.equations.design import Design, RandomTerm
from mme.engine.equations.equations import build_equations
from mme.engine.equations.layout import layout_of
from mme.engine.runtime.memory import available_memory
from mme.exceptions import MemoryEstimateError, MMEError
from mme.fit import forecast as module
from mme.fit.fit import fit_design
from mme.fit.forecast import forecast, preflight_design
from mme.fit.options import route_of


def crossed(n: int, levels: tuple[int, ...], seed: int = 0) -> Design:
    rng = np.random.default_rng(seed)
    codes = [rng.permutation(np.r_[np.arange(q), rng.integers(0, q, n - q)]).astype(np.int32) for q in levels]
    y = rng.normal(size=n) + sum(rng.normal(size=q)[c] for q, c in zip(levels, codes, strict=True))
    terms = [RandomTerm(f"t{i}", c, q) for i, (q, c) in enumerate(zip(levels, codes, strict=True))]
    return Design(y, np.ones((n, 1)), terms)


def dense_pattern(design: Design) -> np.ndarray:
    """Non-zeros of Z_2'Z_2 + B'B by brute force, in the order of the rest."""
    layout = layout_of(design)
    Z = []
    for block in layout.blocks:
        term = design.terms[block.terms[0]]
        Z.append(np.eye(term.n_levels)[term.codes])
    Z1, Z2 = Z[0], np.hstack(Z[1:])
    B = (Z1.T @ Z2 != 0).astype(float)
    return (Z2.T @ Z2 + B.T @ B) != 0


def test_counts_are_exact_for_small_designs():
    design = crossed(600, (150, 120, 40))
    plan = preflight_design(design)
    pattern = dense_pattern(design)
    assert plan.counted
    assert plan.columns == pattern.shape[0] == 160
    assert plan.schur_nonzeros == np.tril(pattern).sum()
    assert plan.cells == Objective(design).eq.idx.size
    assert plan.leading == "t0"
    assert plan.terms == (("t0", 150, 1), ("t1", 120, 1), ("t2", 40, 1))
    assert plan.flops == pytest.approx(160**3 / 3)
    assert plan.rows == 600 and plan.fixed == 1


def test_estimate_from_a_sample_is_close(monkeypatch):
    design = crossed(12_000, (4_000, 3_000))
    exact = preflight_design(design)
    monkeypatch.setattr(module, "_COUNT_PAIRS", 0.0)
    sampled = preflight_design(design)
    assert exact.counted and not sampled.counted
    # 256 of 3,000 columns: a few per cent
    assert sampled.schur_nonzeros == pytest.approx(exact.schur_nonzeros, rel=0.15)
    assert "estimated" in str(sampled) and "estimated" not in str(exact)


def test_small_models_are_direct():
    plan = mme.preflight("diameter ~ 1 + (1 | plate) + (1 | sample)", load_data("Penicillin"))
    assert plan.solver == "direct"
    assert plan.direct_seconds < 1.0


def test_shown_as_a_table():
    data = load_data("Penicillin")
    model = mme.LinearMixedModel.from_formula("diameter ~ 1 + (1 | plate) + (1 | sample)", data)
    plan = model.preflight()
    text = str(plan)
    for word in ("144", "plate", "24 levels", "sample", "6 levels", "eliminated first", "solver", "direct"):
        assert word in text, word
    again = mme.preflight("diameter ~ 1 + (1 | plate) + (1 | sample)", data)
    assert replace(again, available_bytes=plan.available_bytes) == plan


def test_a_long_direct_fit_is_left_to_the_iterative_path(monkeypatch):
    design = crossed(3_000, (1_500, 1_200))
    assert preflight_design(design).solver == "direct"
    monkeypatch.setattr("mme.fit.costs._FLOPS", 1e3)
    plan = preflight_design(design)
    assert plan.solver == "iterative" and "min" in plan.why
    fit = fit_design(design)
    assert fit.record.solver.startswith("iterative")
    assert not fit_design(design, solver="direct").record.solver.startswith("iterative")


def test_too_little_memory_for_a_factor_means_iterative(monkeypatch):
    design = crossed(3_000, (1_500, 1_200))
    plan = preflight_design(design)
    assert plan.direct_bytes - plan.equations_bytes >= 8.0 * 1_200**2
    between = plan.iterative_bytes - plan.equations_bytes + 3e6
    assert between < plan.direct_bytes - plan.equations_bytes
    monkeypatch.setattr(module, "available_memory", lambda: between)
    assert preflight_design(design).solver == "iterative"
    assert fit_design(design).record.solver.startswith("iterative")
    with pytest.raises(MemoryEstimateError, match=r"direct fit would take .* MiB.*solver='iterative'"):
        fit_design(design, solver="direct")


def test_what_does_not_fit_at_all_is_refused(monkeypatch):
    design = crossed(3_000, (1_500, 1_200))
    monkeypatch.setattr(module, "available_memory", lambda: 1e5)
    with pytest.raises(MemoryEstimateError, match="larger machine") as caught:
        fit_design(design, solver="iterative")
    assert isinstance(caught.value, MMEError) and isinstance(caught.value, MemoryError)
    with pytest.raises(MemoryEstimateError, match="3,000 rows"):
        monkeypatch.setattr(module, "available_memory", lambda: 1e3)
        preflight_design(design)


def test_many_rows_are_refused_before_the_equations_are_built(monkeypatch):
    monkeypatch.setattr("mme.fit.fit._MANY_ROWS", 100)
    monkeypatch.setattr(module, "available_memory", lambda: 1e4)
    with pytest.raises(MemoryEstimateError, match="the equations of 600 rows"):
        fit_design(crossed(600, (150, 120)))


def test_asked_for_is_kept():
    design = build("crossed3")
    for solver, expected in (("iterative", "iterative"), ("direct", "direct"), ("dense", "direct")):
        plan = preflight_design(design, solver)
        assert plan.solver == expected
        assert "asked" in plan.why


def test_bytes_of_the_equations_are_what_they_hold():
    design = crossed(5_000, (900, 300))
    eq = build_equations(design, layout_of(design))
    plan = forecast(design, eq)
    arrays = sum(v.nbytes for v in vars(eq).values() if isinstance(v, np.ndarray))
    assert plan.equations_bytes == arrays
    held = eq.idx.nbytes + eq.val.nbytes + eq.tlev.nbytes + eq.tpos.nbytes
    assert held < plan.equations_bytes < 3 * held
    # beside them two matrices of the order of S, and the borders
    factor = plan.direct_bytes - plan.equations_bytes - 16.0 * 300**2
    assert 0.0 < factor < 8.0 * 1_200 * 50 + 12.0 * eq.idx.size


@pytest.mark.parametrize("levels", [(6_000, 1_200), (6_000, 900, 700), (6_000, 900, 700, 500)])
def test_predicted_bytes_of_the_equations_are_enough(levels, monkeypatch):
    """Before a pass over the rows: two to three times its peak, whatever the number of factors."""
    n, others = 40_000, len(levels) - 1
    design = crossed(n, levels)
    layout = layout_of(design)
    build_equations(design, layout)  # compiled
    tracemalloc.start()
    build_equations(design, layout)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    predicted = module._equations_bytes(n, 1, layout, float(n) * others)
    assert 2.0 < predicted / peak < 3.0
    monkeypatch.setattr(module, "available_memory", lambda: 0.7 * predicted)
    module.check_rows(design, layout)
    monkeypatch.setattr(module, "available_memory", lambda: 0.6 * predicted)
    with pytest.raises(MemoryEstimateError, match="the equations of 40,000 rows"):
        module.check_rows(design, layout)


def test_limits_of_the_process_count(monkeypatch):
    """ulimit -v and -d, less what the process has already."""
    import resource

    free = available_memory()
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        limits = {resource.RLIMIT_AS: resource.RLIM_INFINITY, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
        limits[kind] = 2**50
        monkeypatch.setattr(resource, "getrlimit", lambda which, limits=limits: (limits[which],) * 2)
        assert available_memory() == pytest.approx(free, rel=0.5)
        limits[kind] = 1000
        assert available_memory() == 0.0
        with pytest.raises(MemoryEstimateError):
            fit_design(crossed(3_000, (1_500, 1_200)), solver="direct")


@pytest.mark.parametrize("solver", ["direct", "iterative"])
@pytest.mark.parametrize(
    "kind", mark_slow(["scalar", "three", "wide", "vectors", "probes"], lambda kind: kind != "scalar")
)
def test_predicted_bytes_are_those_of_a_fit(kind, solver):
    """Oracle: what NumPy allocates, at its peak."""
    rng = np.random.default_rng(3)
    n, levels = 40_000, {"vectors": (2_000, 600), "three": (6_000, 900, 700)}.get(kind, (6_000, 1_200))
    plain = crossed(n, levels)
    design, probes = plain, 128 if kind == "probes" else 12
    if kind == "wide":
        X = np.column_stack([np.ones(n), rng.normal(size=(n, 39))])
        design = Design(plain.y, X, plain.terms)
    if kind == "vectors":
        columns = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
        terms = [
            RandomTerm(t.name, t.codes, t.n_levels, columns, column_names=("1", "a", "b"))
            for t in plain.terms
        ]
        design = Design(plain.y, np.ones((n, 1)), terms)
    eq = build_equations(design, layout_of(design))
    options = {"probes": probes, "goal": np.inf, "max_evaluations": 2, "loglik_probes": 0}
    plan = forecast(design, eq, route_of(solver), probes=probes)
    tracemalloc.start()
    fit_design(design, solver=solver, equations=eq, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    predicted = plan.direct_bytes if solver == "direct" else plan.iterative_bytes
    assert 0.5 < peak / (predicted - plan.equations_bytes) < 1.5


def test_misspelt_solvers_are_refused_by_every_preflight():
    data = load_data("Penicillin")
    formula = "diameter ~ 1 + (1 | plate) + (1 | sample)"
    for what in (
        lambda: mme.preflight(formula, data, solver="iteratve"),
        lambda: mme.LinearMixedModel.from_formula(formula, data).preflight("iteratve"),
        lambda: mme.preflight(mme.mixedlm("diameter ~ 1", data, groups="plate"), solver="iteratve"),
        lambda: preflight_design(build("crossed3"), "iteratve"),
    ):
        with pytest.raises(ValueError, match="'iteratve'"):
            what()


def test_preflight_stays_a_function():
    """Its module has another name: importing that must not hide the function."""
    data = pd.DataFrame({"y": np.random.default_rng(0).normal(size=60), "g": np.arange(60) % 6})
    for _ in range(2):
        assert mme.preflight("y ~ 1 + (1 | g)", data).columns == 0


def test_what_is_too_large_for_cholmod_is_refused_not_thrown(monkeypatch):
    """Many levels with few rows each: the symbolic factor itself may overflow."""
    cholmod = pytest.importorskip("sksparse.cholmod", reason="scikit-sparse is not installed")

    def too_large(*args, **kwargs):
        raise cholmod.CholmodTooLargeError("problem too large")

    monkeypatch.setattr(cholmod, "analyze", too_large)
    design = crossed(30_000, (9_000, 6_000))
    plan = preflight_design(design)
    assert plan.flops == 6_000**3 / 3  # the bound of a full matrix
    with pytest.raises(MemoryEstimateError, match="solver='iterative'"):
        fit_design(design, solver="cholmod")


def test_large_sparse_patterns_are_not_analysed(monkeypatch):
    """Ordering a random graph of a million edges takes minutes; its fill is known to be large."""
    monkeypatch.setattr(module, "_PATTERN", 1e4)
    monkeypatch.setattr(module, "make_plan", lambda *args: pytest.fail("a symbolic analysis was made"))
    assert preflight_design(crossed(60_000, (15_000, 7_000))).flops == 7_000**3 / 3


def test_the_analysis_of_a_forecast_serves_the_fit(monkeypatch):
    """A sparse S of high order is analysed once a fit, and not at all for one that is looked at twice."""
    from mme.engine.direct import plan as plans

    rng = np.random.default_rng(2)
    q = 5_000
    first, second = np.repeat(np.arange(q), 3), (np.repeat(np.arange(q), 3) + np.tile([0, 1, 2], q)) % (q - 7)
    terms = (RandomTerm("a", first, q), RandomTerm("b", second, int(second.max()) + 1))
    y = rng.normal(size=3 * q) + rng.normal(size=q)[first] + rng.normal(size=q)[second]
    design = Design(y, np.ones((3 * q, 1)), terms)
    calls = []
    original = plans.make_sparse
    monkeypatch.setattr(plans, "make_sparse", lambda *a: calls.append(1) or original(*a))
    fit = fit_design(design)
    assert fit.record.solver.startswith("sparse")
    assert len(calls) == 1
    assert preflight_design(design).schur is None
