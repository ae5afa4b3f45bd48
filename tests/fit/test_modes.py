"""From where a small model is searched again, and which of the ends is kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import problems
import pytest

from mme.engine.direct.objective import Objective
from mme.engine.kernels import newton
from mme.engine.search.coordinates import Coordinates, term_specs
from mme.engine.search.optimizer import Minimum, nears_known
from mme.exceptions import ConvergenceError
from mme.fit import modes
from mme.fit.modes import search_modes

OFF, MIDDLE, HIGH, HIGHEST = 0.0, 0.9, 0.99, 1.0 - 1e-5


def _case(name: str) -> tuple[Objective, list, Minimum]:
    """An objective, its terms and a first optimum inside that a search found easily."""
    design = problems.build(name)
    objective = Objective(design, reml=True)
    theta = Coordinates(term_specs(objective.eq, standard=True)).uniform(0.5)
    ev = objective.evaluate(theta, 2, standard=True)
    return (
        objective,
        term_specs(objective.eq, standard=True),
        Minimum(theta, ev, True, "", 1, 0.0, 0.0, [], [], 3),
    )


def _reliabilities(terms: list, theta: np.ndarray) -> tuple[float, ...]:
    """The largest reliability of every term."""
    return tuple(round(float(np.max(d / (1.0 + d))), 6) for d in Coordinates(terms).at(theta).d)


def _begun(objective, terms, first, starts=None):
    begun = []

    def search(start, known):
        begun.append(_reliabilities(terms, start))
        return first

    found = search_modes(objective, first, terms, search, starts)
    assert found.starts == 1 + len(begun)
    assert found.best is first and found.seen == 1
    return begun


def test_an_ordinary_model_of_many_levels_is_searched_once(monkeypatch):
    monkeypatch.setattr(modes, "_FEW_LEVELS", 0)
    assert _begun(*_case("crossed2")) == []


def test_a_singular_model_is_searched_with_the_term_switched_on(monkeypatch):
    monkeypatch.setattr(modes, "_FEW_LEVELS", 0)
    objective, terms, first = _case("crossed2")
    theta = first.theta * [1.0, 0.0]
    begun = _begun(objective, terms, replace(first, theta=theta, singular=[1]))
    # the other term switched off, from where this one is zero, is theta = 0 once more
    assert begun == [(OFF, OFF), (MIDDLE, MIDDLE), (OFF, OFF), (0.5, MIDDLE)]


@pytest.mark.parametrize("name", ["crossed2", "crossed3"])
def test_a_hard_model_is_searched_from_every_subset_of_terms(name):
    objective, terms, first = _case(name)
    k = len(terms)
    begun = _begun(objective, terms, replace(first, converged=False))
    subsets = [s[::-1] for s in product((OFF, HIGH), repeat=k)][1:-1]  # the first term changes fastest
    one_off = [tuple(OFF if i == t else 0.5 for i in range(k)) for t in range(k)]
    ends = [(OFF,) * k, (MIDDLE,) * k, *one_off, (round(HIGHEST, 6),) * k, (HIGH,) * k]
    assert begun == [*ends, *subsets]


@pytest.mark.parametrize("number", [1, 2, 5, 8])
def test_starts_that_are_asked_for(number):
    begun = _begun(*_case("crossed2"), starts=number)
    assert len(begun) == number - 1
    fixed = [(OFF, OFF), (MIDDLE, MIDDLE), (HIGH, HIGH), (round(HIGHEST, 6),) * 2]
    assert begun[:4] == fixed[: number - 1]
    assert len(set(begun)) == len(begun)


def test_the_best_end_is_kept_and_different_ones_are_counted():
    """Converged before not converged at one level; what cannot be computed is passed over."""
    objective, terms, first = _case("crossed2")

    def end(change: float, converged: bool = True) -> Minimum:
        ev = replace(first.evaluation, deviance=first.evaluation.deviance + change)
        return replace(first, evaluation=ev, converged=converged)

    def best_of(begin: Minimum, *ends: Minimum | Exception):
        rest = iter(ends)

        def search(start, known):
            got = next(rest)
            if isinstance(got, Exception):
                raise got
            return got

        return search_modes(objective, begin, terms, search, 1 + len(ends))

    lower, higher, same = end(-3.0), end(2.0), end(1e-7)
    found = best_of(end(0.0), higher, ConvergenceError("no value"), lower, same, end(-3.0 + 1e-7))
    assert found.best is lower
    assert (found.seen, found.starts) == (3, 6)
    found = best_of(end(0.0, converged=False), same)
    assert found.best is same and found.seen == 1
    stuck = end(-3.0, converged=False)  # lower, but no minimum: kept as it is, not counted
    found = best_of(first, stuck)
    assert found.best is stuck and found.seen == 1


@pytest.mark.parametrize(
    ("deviance", "decrement", "known"),
    [(10.001, 1e-3, True), (10.02, 0.02, True), (10.2, 0.2, False), (10.02, 0.01, False), (9.9, 0.01, False)],
)
def test_a_search_that_nears_a_known_minimum_ends(deviance, decrement, known):
    levels = [12.0, 10.0]
    assert nears_known(deviance, decrement, levels) == known
    assert newton.nears_known(deviance, decrement, np.array(levels)) == known


def test_dips_of_the_profile_are_searched(monkeypatch):
    """But not the one that the first optimum is in, nor one that is far above it."""
    objective, terms, first = _case("scalar")
    space = Coordinates(terms)
    ratios = np.r_[0.0, np.exp(np.arange(-9.0, 16.0, 0.5)) / space.A[0][0, 0] ** 2]
    here = int(np.searchsorted(ratios, first.theta[0] ** 2))
    table = np.full(ratios.size, 20.0)
    table[[0, 6, here, 40, 45]] = [12.0, 13.9, 10.0, 14.1, 9.0]
    table[1:5] = [14.0, 16.0, 18.0, 19.0]
    # a plateau is no dip of its own: it slopes to the ends
    flat = table == 20.0
    table[flat] += 1e-3 * np.arange(flat.sum()) + 30.0
    seen = []

    def profile(at, *rest):
        seen.append(at)
        return table.copy()

    monkeypatch.setattr(modes.kp, "scalar_profile", profile)
    starts = []

    def search(start, known):
        starts.append(start)
        return first

    search_modes(objective, first, terms, search, None)
    np.testing.assert_allclose(seen[0], ratios, rtol=1e-12)
    assert all(start.shape == (1,) for start in starts)
    got = sorted(int(np.argmin(np.abs(ratios - start[0] ** 2))) for start in starts)
    assert got == [0, 6, 45]
