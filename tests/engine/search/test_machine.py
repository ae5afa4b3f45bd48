"""Compiled searches and evaluations of small models against those in Python: same numbers, same counts."""

from __future__ import annotations

import numpy as np
import pytest

from mme.engine.direct.floors import Floors
from mme.engine.direct.objective import Objective
from mme.engine.equations.design import Design, RandomTerm
from mme.engine.equations.moments import moment_start
from mme.engine.search.coordinates import Coordinates, term_specs
from mme.engine.search.optimizer import KnownMinimumError, Minimum, minimise
from mme.exceptions import ConvergenceError, PerfectFitError


def _design(
    seed: int, k: int, q: int, each: int, sd: list[float], covariance: str = "full", split: bool = False
):
    """Levels of uneven size with `k` effects each, standard deviations `sd` (zero: no variance)."""
    rng = np.random.default_rng(seed)
    codes = np.sort(np.r_[np.repeat(np.arange(q), 2), rng.integers(0, q, q * (each - 2))]).astype(np.int32)
    n = codes.size
    Z = np.column_stack([np.ones(n), rng.normal(size=(n, k - 1)) + 0.5]) if k > 1 else np.ones((n, 1))
    u = rng.normal(size=(q, k)) * sd
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    y = X @ [1.0, 0.5] + np.sum(Z * u[codes], axis=1) + rng.normal(size=n)
    terms = [RandomTerm("g", codes, q, np.ascontiguousarray(Z), covariance)]
    if split:
        terms = [
            RandomTerm("g", codes, q),
            RandomTerm("h", codes, q, np.ascontiguousarray(Z[:, 1:]), covariance),
        ]
    return Design(y, X, tuple(terms))


def _crossed(
    seed: int, levels: list[int], ks: list[int], sds: list[list[float]], n: int = 240, nested: bool = False,
    split: bool = False, weighted: bool = False,
):  # fmt: skip
    """Factors that cross, or of which the second is nested in the first, with so many effects each."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2)) + 0.5
    X = np.column_stack([np.ones(n), x[:, 0]])
    y, terms = X @ [1.0, 0.5] + rng.normal(size=n), []
    codes = np.zeros(n, dtype=np.int32)
    for f, (q, k, sd) in enumerate(zip(levels, ks, sds, strict=True)):
        own = np.r_[np.arange(q), rng.integers(0, q, n - q)].astype(np.int32)
        codes = codes + own * levels[0] if nested and f else own
        values, codes = np.unique(codes, return_inverse=True)
        codes = codes.astype(np.int32)
        Z = np.ascontiguousarray(np.column_stack([np.ones(n), x])[:, :k])
        y += np.sum(Z * (rng.normal(size=(values.size, k)) * sd)[codes], axis=1)
        if split and k > 1:
            terms.append(RandomTerm(f"g{f}", codes, values.size))
            terms.append(RandomTerm(f"h{f}", codes, values.size, np.ascontiguousarray(Z[:, 1:]), "diagonal"))
        else:
            terms.append(RandomTerm(f"g{f}", codes, values.size, Z if k > 1 else None))
    return Design(y, X, tuple(terms), weights=rng.uniform(0.5, 2.0, n) if weighted else None)


CASES = {
    "crossed": _crossed(11, [12, 6], [1, 1], [[1.0], [0.7]]),
    "nested": _crossed(12, [8, 3], [1, 1], [[1.0], [0.5]], nested=True),
    "crossed, singular": _crossed(13, [12, 6], [1, 1], [[1.0], [0.0]]),
    "crossed slopes": _crossed(14, [15, 8], [2, 2], [[1.0, 0.5], [0.7, 0.4]], weighted=True),
    "crossed slopes, singular": _crossed(15, [15, 7], [1, 3], [[1.0], [0.6, 0.0, 0.3]]),
    "three factors": _crossed(16, [14, 6, 5], [1, 1, 2], [[0.8], [0.5], [0.6, 0.3]]),
    "uncorrelated, crossed": _crossed(17, [12, 9], [3, 2], [[0.8, 0.3, 0.0], [0.5, 0.4]], split=True),
    "intercept": _design(1, 1, 12, 5, [1.0]),
    "no intercept": _design(2, 1, 15, 4, [0.0]),
    "slope": _design(3, 2, 18, 8, [1.0, 0.5]),
    "singular": _design(4, 2, 20, 6, [0.4, 0.0]),
    "three effects": _design(5, 3, 15, 9, [0.4, 0.0, 0.3]),
    "four effects": _design(6, 4, 10, 12, [0.5, 0.0, 0.0, 0.3]),
    "uncorrelated": _design(7, 3, 15, 8, [0.6, 0.0, 0.4], "diagonal"),
    "two terms": _design(8, 3, 15, 8, [0.6, 0.5, 0.1], split=True),
    "few levels": _design(9, 2, 4, 6, [2.0, 0.2]),
    "large variances": _design(10, 2, 12, 6, [1e4, 30.0]),
}


def _python(design: Design, reml: bool) -> Objective:
    objective = Objective(design, reml)
    objective.__dict__["small"] = None
    return objective


def _search(objective: Objective, start: np.ndarray, compiled: bool, **options: object) -> Minimum:
    small = objective.small
    already = objective.n_factorizations
    return minimise(
        lambda theta, order: objective.evaluate(theta, order, standard=True),
        start,
        term_specs(objective.eq, standard=True),
        count=lambda: objective.n_factorizations - already,
        answer=None if small is None else small.answer,
        compiled=compiled,
        **options,
    )


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_evaluations(name, reml):
    """Inside, on the boundary and far away: all that an evaluation says."""
    ours, python = Objective(CASES[name], reml), _python(CASES[name], reml)
    assert ours.small is not None
    space = Coordinates(term_specs(ours.eq, standard=True))
    inside = space.uniform(0.4)
    edge = inside.copy()
    edge[-1] = 0.0
    for theta in (inside, edge, np.full(space.m, 1e-9), space.uniform(0.999)):
        got, expected = (o.evaluate(theta, 2, standard=True) for o in (ours, python))
        # where a factor of the rest is singular both divide rounding by 1e-8
        near = 1e-6 if Floors(ours.eq, ours.eq.factors(theta)).lifted else 1e-9
        assert got.deviance == pytest.approx(expected.deviance, rel=1e-12)
        assert got.sigma2 == pytest.approx(expected.sigma2, rel=1e-11)
        assert got.noise == pytest.approx(expected.noise, rel=1e-6)
        size = max(np.abs(N).max() for N in expected.N_basis)
        for a, b in zip(got.N_basis, expected.N_basis, strict=True):
            np.testing.assert_allclose(a, b, rtol=near, atol=0.1 * near * size)
        np.testing.assert_allclose(got.gradient, expected.gradient, rtol=near, atol=near * size)
        info = expected.information_basis
        np.testing.assert_allclose(got.information_basis, info, rtol=1e-9, atol=1e-10 * np.abs(info).max())
        value = ours.evaluate(theta, 0, standard=True)
        assert (value.deviance, value.N_basis) == (got.deviance, None)
    assert ours.n_factorizations == python.n_factorizations
    assert ours.eq.layout.q2 > 0 or ours.n_factorizations == 4
    here, there = (o.solution(inside, standard=True) for o in (ours, python))
    for key in ("theta", "beta", "vcov", "sigma2", "deviance"):
        np.testing.assert_allclose(here[key], there[key], rtol=1e-10, err_msg=key)
    for a, b in zip(here["u"], there["u"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("start", ["moments", "none", "large"])
@pytest.mark.parametrize("name", CASES)
def test_searches(name, start):
    """From Python to compiled code at the first trouble, compiled from the start, and Python alone."""
    found = []
    for how in ("python", "mixed", "compiled"):
        objective = _python(CASES[name], True) if how == "python" else Objective(CASES[name], True)
        space = Coordinates(term_specs(objective.eq, standard=True))
        theta = {
            "moments": moment_start(objective.eq),
            "none": np.zeros(space.m),
            "large": space.uniform(0.99),
        }[start]
        found.append(_search(objective, theta, how == "compiled"))
    python = found[0]
    assert python.converged and not python.compiled and found[2].compiled
    for other in found[1:]:
        assert (other.converged, other.message, other.singular) == (True, python.message, python.singular)
        assert (other.evaluations, other.iterations) == (python.evaluations, python.iterations)
        # a minimum over several cones has the accuracy of its interior-point method, and so have the steps
        near = 1e-8 if name in ("intercept", "no intercept", "slope") else 1e-6
        np.testing.assert_allclose(
            other.theta, python.theta, rtol=near, atol=near * np.abs(python.theta).max()
        )
        np.testing.assert_array_equal(other.theta == 0.0, python.theta == 0.0)
        np.testing.assert_allclose(other.history, python.history, atol=1e-5)
        assert other.evaluation.deviance == pytest.approx(
            python.evaluation.deviance, abs=max(1e-8, 10.0 * python.evaluation.noise)
        )
        assert other.decrement == pytest.approx(python.decrement, rel=0.1, abs=1e-12)
        # eigenvectors of D have no order and no sign
        unit = np.outer(space.unit, space.unit)
        ours, theirs = (np.linalg.eigvalsh(m.curvature * unit) for m in (other, python))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * theirs[-1])


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_budget_is_kept(most):
    a, b = (
        _search(o, np.zeros(o.n_theta), compiled=True, max_evaluations=most)
        for o in (Objective(CASES["three effects"], True), _python(CASES["three effects"], True))
    )
    assert (a.evaluations, a.message, a.converged) == (b.evaluations, b.message, False)
    np.testing.assert_allclose(a.theta, b.theta, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_minimum_that_is_known_is_not_found_again(compiled):
    objective = Objective(CASES["slope"], True)
    start = moment_start(objective.eq)
    lowest = _search(objective, start, compiled).evaluation.deviance
    with pytest.raises(KnownMinimumError):
        _search(objective, start, compiled, known=[lowest])
    assert _search(objective, start, compiled, known=[lowest - 1.0]).converged


def test_what_cannot_be_computed():
    design = CASES["intercept"]
    objective = Objective(design, True)
    with pytest.raises(np.linalg.LinAlgError, match="not finite"):
        objective.evaluate(np.array([np.nan]), 0, standard=True)
    with pytest.raises(ConvergenceError, match="rounding hides the deviance"):
        _search(objective, np.array([1e9]), True)
    y = design.X @ [1.0, 2.0] + np.random.default_rng(1).normal(size=12)[design.terms[0].codes]
    exact = Objective(Design(y, design.X, design.terms), True)
    with pytest.raises(PerfectFitError):
        exact.evaluate(np.array([1e7]), 0, standard=True)
