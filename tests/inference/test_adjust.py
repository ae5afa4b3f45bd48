"""Adjusted p-values and intervals: scipy's studentized range, simulation, closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from mme.exceptions import OptionError
from mme.inference.adjust import Family, adjusted_p, check_adjust, half_widths
from mme.inference.families import family_of


def _pairs(k: int) -> np.ndarray:
    unit = np.eye(k)
    return np.array([unit[a] - unit[b] for a, b in itertools.combinations(range(k), 2)])


@pytest.mark.parametrize("df", [4.0, 17.3, np.inf])
@pytest.mark.parametrize("k", [2, 3, 4, 8])
def test_mvt_of_equal_differences_is_tukey(k, df):
    """Singular correlations: the maximum of all differences of k means."""
    C = _pairs(k)
    family = Family(np.full(len(C), df), C, k)
    t = np.linspace(0.3, 5.0, len(C))
    exact = stats.studentized_range.sf(np.sqrt(2) * t, k, df)
    np.testing.assert_allclose(adjusted_p(t, family, "tukey", 0), exact, rtol=1e-10)
    np.testing.assert_allclose(adjusted_p(t, family, "mvt", 0), exact, rtol=2e-3, atol=2e-4)
    tukey, mvt = (half_widths(np.ones(len(C)), family, name, 0.05, 0) for name in ("tukey", "mvt"))
    np.testing.assert_allclose(mvt, tukey, rtol=1e-3)
    np.testing.assert_allclose(tukey, stats.studentized_range.ppf(0.95, k, df) / np.sqrt(2), rtol=1e-8)


def test_mvt_by_simulation():
    """Unequal variances, correlated, degrees of freedom of each test its own."""
    rng = np.random.default_rng(7)
    root = rng.normal(size=(5, 5))
    S = root @ root.T
    R = np.linalg.cholesky(S)
    df = np.array([5.0, 8.0, 8.0, 20.0, np.inf])
    t = np.array([0.8, 1.5, -2.2, 2.8, 3.1])
    got = adjusted_p(t, Family(df, R), "mvt", 0)
    z = rng.normal(size=(400_000, 5)) @ np.linalg.cholesky(S).T / np.sqrt(np.diag(S))
    for j in range(5):
        s = 1.0 if np.isinf(df[j]) else np.sqrt(rng.chisquare(df[j], len(z)) / df[j])
        expected = np.mean(np.abs(z).max(axis=1) / s > abs(t[j]))
        assert got[j] == pytest.approx(expected, abs=4 * np.sqrt(expected / len(z)) + 2e-4)
    again = adjusted_p(t, Family(df, R), "mvt", 0)
    np.testing.assert_array_equal(got, again)
    np.testing.assert_allclose(adjusted_p(t, Family(df, R), "mvt", 1), got, rtol=2e-3, atol=2e-4)


def test_mvt_of_independent_tests_is_sidak():
    t, q = np.array([1.0, 2.0, 3.0]), 3
    family = Family(np.full(q, np.inf), np.diag([1.0, 2.0, 3.0]))
    sidak = adjusted_p(t, family, "sidak", 0)
    np.testing.assert_allclose(sidak, 1 - (1 - 2 * stats.norm.sf(t)) ** q, rtol=1e-10)
    np.testing.assert_allclose(adjusted_p(t, family, "mvt", 0), sidak, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        half_widths(np.ones(q), family, "sidak", 0.05, 0), stats.norm.isf((1 - 0.95 ** (1 / 3)) / 2)
    )


def test_step_down_and_false_discoveries():
    df = np.full(4, 12.0)
    p = np.array([0.01, 0.02, 0.03, 0.5])
    family, t = Family(df, np.eye(4)), stats.t.isf(p / 2, df)
    np.testing.assert_allclose(adjusted_p(t, family, "bonferroni", 0), [0.04, 0.08, 0.12, 1.0])
    np.testing.assert_allclose(adjusted_p(t, family, "holm", 0), [0.04, 0.06, 0.06, 0.5])
    np.testing.assert_allclose(adjusted_p(t, family, "fdr", 0), [0.04, 0.04, 0.04, 0.5])
    for name in ("bonferroni", "holm", "fdr"):
        half = half_widths(np.ones(4), family, name, 0.05, 0)
        np.testing.assert_allclose(half, stats.t.isf(0.025 / 4, 12.0))
    assert adjusted_p(t, family, None, 0) == pytest.approx(p)


def test_what_is_not_estimable_counts_for_nothing():
    df = np.array([12.0, np.nan, 12.0])
    family, t = Family(df, np.diag([1.0, np.nan, 2.0])), np.array([2.0, np.nan, 1.0])
    for name in ("holm", "bonferroni", "sidak", "fdr", "mvt"):
        two = Family(df[[0, 2]], np.diag([1.0, 2.0]))
        got = adjusted_p(t, family, name, 0)
        np.testing.assert_allclose(got[[0, 2]], adjusted_p(t[[0, 2]], two, name, 0))
        assert np.isnan(got[1])
        half = half_widths(np.array([1.0, np.nan, 1.0]), family, name, 0.05, 0)
        np.testing.assert_allclose(half[[0, 2]], half_widths(np.ones(2), two, name, 0.05, 0))


def test_many_degrees_of_freedom_are_interpolated():
    df = np.linspace(3.0, 40.0, 21)
    half = half_widths(np.ones(21), Family(df, np.eye(21), 7), "tukey", 0.05, 0)
    exact = stats.studentized_range.ppf(0.95, 7, df[[0, 1, 10, 20]]) / np.sqrt(2)
    np.testing.assert_allclose(half[[0, 1, 10, 20]], exact, rtol=1e-5)


def test_names():
    assert check_adjust("BH") == "fdr"
    assert check_adjust("none") is None
    for wrong, words in (
        ("tuky", "Did you mean 'tukey'"),
        (3, "Known: tukey, holm"),
        ("bonferoni", "bonferroni"),
    ):
        with pytest.raises(OptionError, match=words):
            check_adjust(wrong)


# -- families -----------------------------------------------------------------------------------------------


def test_polynomials_are_fishers_tables():
    expected = {
        3: [[-1, 0, 1], [1, -2, 1]],
        4: [[-3, -1, 1, 3], [1, -1, -1, 1], [-1, 3, -3, 1]],
        5: [[-2, -1, 0, 1, 2], [2, -1, -2, -1, 2], [-1, 2, 0, -2, 1], [1, -4, 6, -4, 1]],
    }
    for k, rows in expected.items():
        family = family_of("poly", list("abcde"[:k]), range(k))
        np.testing.assert_array_equal(family.coefficients, rows)
        assert family.names == ("linear", "quadratic", "cubic", "quartic")[: k - 1]
    assert len(family_of("poly", list("abcdefghij"), range(10)).names) == 6


def test_named_families():
    labels = ["a", "b - c", "d"]
    family = family_of("pairwise", labels, labels)
    assert family.names == ("a - (b - c)", "a - d", "(b - c) - d")
    np.testing.assert_array_equal(family.coefficients, [[1, -1, 0], [1, 0, -1], [0, 1, -1]])
    family = family_of("consec", labels, labels)
    assert family.names == ("(b - c) - a", "d - (b - c)")
    np.testing.assert_array_equal(family.coefficients, [[-1, 1, 0], [0, -1, 1]])
    for ref in ("d", 2, -1):
        family = family_of("trt.vs.ctrl", labels, labels, ref)
        np.testing.assert_array_equal(family.coefficients, [[1, 0, -1], [0, 1, -1]])
    # a level that is a number is a level before it is a place
    family = family_of("trt.vs.ctrl", ["x0", "x1", "x2"], [0, 2, 1], 2)
    np.testing.assert_array_equal(family.coefficients, [[1, -1, 0], [0, -1, 1]])


def test_custom_families():
    labels = ["a", "b", "c"]
    expected = [[1, -0.5, -0.5]]
    for method in ({"a - rest": [1, -0.5, -0.5]}, {"a - rest": {"a": 1, "b": -0.5, "c": -0.5}}):
        family = family_of(method, labels, labels)
        assert family.names == ("a - rest",)
        np.testing.assert_array_equal(family.coefficients, expected)
    assert family_of(expected, labels, labels).names == ("contrast 1",)


@pytest.mark.parametrize(
    ("method", "ref", "words"),
    [
        ("pairwize", None, "Did you mean 'pairwise'"),
        ("helmert", None, r"is not known.*or a dictionary of coefficients by name"),
        ("pairwise", "a", r"ref='a' is the control of method='trt.vs.ctrl', not of 'pairwise'"),
        ("trt.vs.ctrl", "e", r"ref='e' is none of the means.*They are a, b, c"),
        ([1, -1], None, "needs 3 numbers, one for each of a, b, c"),
        ({"x": [1, -1]}, None, "contrast 'x' needs 3 numbers"),
        ({"x": {"q": 1}}, None, "contrast 'x': the mean='q' is none of the means"),
        ({}, None, "empty dictionary"),
        ([[1, -1, np.nan]], None, "missing or infinite"),
        (object(), None, "no word, dictionary or matrix"),
    ],
)
def test_families_that_there_are_not(method, ref, words):
    with pytest.raises(OptionError, match=words):
        family_of(method, ["a", "b", "c"], ["a", "b", "c"], ref)


@pytest.mark.filterwarnings("error")
def test_no_warnings_of_integrals():
    """Where the quadrature doubts itself, at many degrees of freedom, and is right."""
    family = Family(np.full(190, 9792.794304726896), np.zeros((190, 0)), 20)
    t = np.full(190, 0.6322685324910001 / np.sqrt(2))
    assert adjusted_p(t, family, "tukey", 0)[0] == pytest.approx(1.0, abs=1e-9)
