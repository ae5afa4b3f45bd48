"""Options of a search: types and values that have no meaning are refused by name."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
from support import load_data, reference_models

import mme
from mme.exceptions import ConvergenceWarning, DataError, MMEError, OptionError
from mme.fit.fit import fit_design
from mme.formula import build_design

SLOPE = "Reaction ~ Days + (Days | Subject)"
BEST = reference_models()["sleepstudy_slope"]["reml"]["loglik_best"]


@pytest.mark.parametrize(
    "tol", [0, -1e-8, np.nan, np.inf, 2.0, "1e-8", None, True, 1j, [1e-8], np.array([1e-8, 1e-8])]
)
def test_tolerances_without_meaning(sleepstudy, tol):
    for solver in ("direct", "iterative"):
        with pytest.raises(OptionError, match="tol must be a number above 0 and at most 1, not"):
            mme.lmer(SLOPE, sleepstudy, tol=tol, solver=solver)


@pytest.mark.parametrize("number", [0, -3, 2.5, 1e9, np.nan, np.inf, "9", None, True, [9]])
def test_numbers_of_evaluations_without_meaning(sleepstudy, number):
    with pytest.raises(OptionError, match="max_evaluations must be an integer and at least 1, not"):
        mme.lmer(SLOPE, sleepstudy, max_evaluations=number)


def test_the_engine_refuses_them_too(sleepstudy):
    """Whoever comes past the doors."""
    design = build_design(SLOPE, sleepstudy).design
    with pytest.raises(OptionError, match="tol"):
        fit_design(design, tol=-1.0)
    with pytest.raises(OptionError, match="max_evaluations"):
        fit_design(design, max_evaluations=0)
    with pytest.raises(OptionError, match="solver"):
        fit_design(design, solver=["dense"])
    with pytest.raises(OptionError, match="goal"):
        fit_design(design, goal=-1.0)
    for theta0, words in [
        (1.0, "one array per term"),
        ("abc", "one array per term"),
        ([1.0, 0.0, 1.0], "theta0 has 3 arrays for 1 terms"),
        ([[1.0, 0.0]], r"3 finite numbers, by term: Subject \(3\)"),
        ([[1.0, np.nan, 1.0]], "3 finite numbers"),
    ]:
        with pytest.raises(DataError, match=words):
            fit_design(design, theta0=theta0)


def test_accepted_values_are_honoured(sleepstudy):
    for number in (1, 2, np.int64(3)):
        with pytest.warns(ConvergenceWarning) if number == 1 else nullcontext():
            got = mme.lmer(SLOPE, sleepstudy, max_evaluations=number)
        assert got.fit_info["evaluations"] <= number
    counts = [
        mme.lmer(SLOPE, sleepstudy, tol=tol, start=[2, 0, 1]).fit_info["evaluations"] for tol in (1, 1e-12)
    ]
    assert counts[0] < counts[1]


@pytest.mark.parametrize("tol", [1e-15, 1e-300, 5e-324])
def test_a_tolerance_below_rounding_ends_at_the_optimum(sleepstudy, tol):
    got = mme.lmer(SLOPE, sleepstudy, tol=tol)
    assert got.fit_info["evaluations"] <= 200
    assert got.llf == pytest.approx(BEST, abs=1e-8)


@pytest.mark.parametrize(
    "start",
    ["abc", b"abc", True, [None, 1, 1], [1j, 1, 1], [[1, 2], [3]], [[1, 2, 3]], {"a": 1}, ["1", 1, 1], 1],
    ids=repr,
)
def test_starts_of_the_wrong_kind(sleepstudy, start):
    with pytest.raises(
        DataError, match=r"start must be 3 finite numbers, by term: Subject \(3\); it (is|has)"
    ):
        mme.lmer(SLOPE, sleepstudy, start=start)


@pytest.mark.parametrize("solver", ["direct", "iterative"])
@pytest.mark.parametrize("size", [1e7, 1e8, 1e30, 1e200, -1e200, 4e307])
def test_starts_beyond_what_a_double_can_tell_from_infinity(sleepstudy, size, solver):
    for start in ([size] * 3, [4 * size, 0.0, 0.0], [0.0, 0.0, size], [1.0, size, 1.0]):
        with pytest.raises(
            DataError, match=r"start of random term 'Subject' is too large.*times smaller"
        ) as e:
            mme.lmer(SLOPE, sleepstudy, start=start, solver=solver)
        assert isinstance(e.value, MMEError)


def test_the_size_of_a_start_is_relative_to_the_columns(sleepstudy):
    """1e8 is a large intercept, and the ordinary slope of a covariate in a unit of 1e8."""
    data = sleepstudy.assign(Days=sleepstudy.Days * 1e-8)
    theta = np.array(reference_models()["sleepstudy_slope"]["reml"]["theta"]) * [1.0, 1e8, 1e8]
    got = mme.lmer(SLOPE, data, start=theta)
    assert got.llf == pytest.approx(BEST + np.log(1e8), abs=1e-6)


@pytest.mark.parametrize("size", [1e3, 1e5])
def test_large_starts_that_can_be_computed_end_at_the_optimum(size):
    data = load_data("Penicillin")
    best = mme.lmer("diameter ~ (1 | plate) + (1 | sample)", data).llf
    got = mme.lmer("diameter ~ (1 | plate) + (1 | sample)", data, start=[size, size])
    assert got.llf == pytest.approx(best, abs=1e-7)
