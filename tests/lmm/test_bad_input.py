"""Bad input gets a named error: what happened, which names, what to do. The data are left as they were."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support import load_data

import mme
from mme.exceptions import (
    DataError,
    DesignError,
    FormulaError,
    NotEnoughDataError,
    OptionError,
    PerfectFitError,
    RankDeficientWarning,
)

N = 120


@pytest.fixture
def data() -> pd.DataFrame:
    rng = np.random.default_rng(77)
    g = np.arange(N) % 12
    x = rng.normal(size=N)
    y = 1 + 2 * x + rng.normal(size=12)[g] + rng.normal(size=N)
    return pd.DataFrame({"y": y, "x": x, "z": rng.normal(size=N), "g": g, "h": np.arange(N) // 30})


def _message(error: type[Exception], formula: str, frame: object, **options: object) -> str:
    before = frame.copy(deep=True) if isinstance(frame, pd.DataFrame) else None
    with pytest.raises(error) as caught:
        mme.lmer(formula, frame, **options)
    assert type(caught.value) is error
    if before is not None:
        pd.testing.assert_frame_equal(frame, before)
    return str(caught.value)


def _has(message: str, *words: str) -> None:
    for word in words:
        assert word in message


MODEL = "y ~ x + (x | g)"


# -- data ---------------------------------------------------------------------------------------------------


def test_empty_data(data):
    _has(_message(DataError, MODEL, data.iloc[:0]), "empty", "0 rows")


@pytest.mark.parametrize(
    "formula", [MODEL, "y ~ c + (1 | g)", "y ~ x + (1 | c)", "y ~ x + (0 + c | g)", "y ~ (1 | c:g)"]
)
def test_empty_data_with_a_categorical(data, formula):
    """Its categories are still there, its rows are not."""
    frame = data.assign(c=pd.Categorical(np.where(data.x > 0, "high", "low")))
    _has(_message(DataError, formula, frame.iloc[:0]), "empty", "0 rows")
    _has(_message(DataError, formula, frame, subset=np.zeros(N, dtype=bool)), "0 rows")


def test_no_data():
    _has(_message(DataError, MODEL, None), "no data")


@pytest.mark.parametrize("column", ["y", "x", "g"])
def test_missing_values(data, column):
    frame = data.astype({"g": float})
    frame.loc[[4, 8], column] = np.nan
    for word in ("raise", "none"):
        message = _message(DataError, MODEL, frame, missing=word)
        _has(message, f"{column} (2)", "2 of 120 rows", 'missing="drop"')
    assert mme.lmer(MODEL, frame, missing="drop").nobs == N - 2


@pytest.mark.parametrize("missing", ["warn", "drop", "raise", "none"])
@pytest.mark.parametrize("column", ["y", "x", "g"])
def test_infinite_values(data, column, missing):
    frame = data.astype({"g": float})
    frame.loc[4, column] = -np.inf
    _has(_message(DataError, MODEL, frame, missing=missing), "infinite", f"{column} (1)")


def test_columns_the_model_does_not_use_may_hold_anything(data):
    frame = data.assign(junk=np.nan, worse="text")
    assert mme.lmer(MODEL, frame).llf == mme.lmer(MODEL, data).llf


def test_unknown_rule_for_missing_values(data):
    _has(_message(OptionError, MODEL, data, missing="ignore"), "'ignore'", "'warn'", "'drop'", "'raise'")


@pytest.mark.parametrize("label", ["weights", "offset"])
def test_lengths_that_differ(data, label):
    _has(_message(DataError, MODEL, data, **{label: np.ones(N - 1)}), label, "119", "120")


def test_columns_of_unequal_length():
    columns = {"y": np.arange(5.0), "x": np.arange(4.0), "g": [0, 0, 1, 1, 1]}
    _has(_message(DataError, MODEL, columns), "unequal", "y (5)", "x (4)")


def test_subset(data):
    _has(_message(DataError, MODEL, data, subset=np.ones(3, dtype=bool)), "subset", "120")
    _has(_message(DataError, MODEL, data, subset=data.x), "subset", "float64")
    _has(_message(DataError, MODEL, data, subset="x > 1000"), "0 rows")
    _has(_message(DataError, MODEL, data, subset="nope > 1"), "nope")


def test_weights(data):
    _has(_message(DataError, MODEL, data, weights=np.zeros(N)), "positive")
    _has(_message(DataError, MODEL, data, weights="wt"), "'wt'", "columns are")
    _has(_message(DataError, MODEL, data.assign(wt="a"), weights="wt"), "wt", "not numeric")
    holes = np.where(data.x > 0, np.nan, 1.0)
    _has(_message(DataError, MODEL, data, weights=holes, missing="raise"), "weights (")


@pytest.mark.parametrize("label", ["weights", "offset", "subset"])
def test_a_series_in_another_order(data, label):
    values = pd.Series(np.arange(1.0, N + 1) if label != "subset" else data.x > 0)
    _has(_message(DataError, MODEL, data, **{label: values[::-1]}), label, "index differs")
    shifted = data.set_index(data.index + 1)
    _has(_message(DataError, MODEL, shifted, **{label: values}), label, "index differs")


def test_kinds_of_columns_that_are_no_numbers(data):
    _has(_message(DataError, MODEL, data.assign(x=data.x + 1j)), "'x'", "complex")
    _has(_message(DataError, "y ~ np.sqrt(x + 0j) + (1 | g)", data), "complex")
    _has(_message(DataError, "np.sqrt(x + 0j) ~ (1 | g)", data), "complex")
    dates = data.assign(x=pd.date_range("2020-01-01", periods=N))
    _has(_message(DataError, MODEL, dates), "'x'", "dates", "C(x)")
    _has(_message(DataError, "y ~ z + (1 | g)", dates.assign(y=dates.x)), "'y'", "not numeric")
    _has(_message(DataError, MODEL, "data.csv"), "read the file first")


def test_text_response(data):
    frame = data.assign(y=[f"{value:.3f}" for value in data.y])
    _has(_message(DataError, MODEL, frame), "response 'y'", "pd.to_numeric")


def test_text_in_a_numeric_column(data):
    text = pd.Series([f"{value:.3f}" for value in data.x], dtype=object)
    text[[7, 11]] = ["n/a", "?"]
    for dtype in (object, "str"):
        frame = data.assign(x=text.astype(dtype))
        for formula in (MODEL, "y ~ x * z + (1 | g)", "y ~ z + (0 + x | g)", "y ~ (x || g)"):
            _has(_message(DataError, formula, frame), "'x'", "'n/a', '?'", "pd.to_numeric", "C(x)")


def test_text_that_is_a_factor_is_one(data):
    frame = data.assign(level=pd.Series(data.h.astype(str)))
    assert "level[T.3]" in mme.lmer("y ~ level + (1 | g)", frame).fe_params.index


def test_two_columns_of_one_name(data):
    frame = pd.concat([data, data[["x"]]], axis=1)
    _has(_message(DataError, MODEL, frame), "several columns named x")


def test_a_function_that_leaves_its_domain(data):
    _has(_message(DataError, "y ~ np.log(x) + (1 | g)", data), "np.log(x)")
    frame = data.assign(x=data.x.abs())
    frame.loc[3, "x"] = 0.0
    _has(_message(DataError, "y ~ np.log(x) + (1 | g)", frame), "np.log(x)", "1 infinite")
    _has(_message(DataError, "np.log(x) ~ (1 | g)", frame), "np.log(x)", "1 infinite")


def test_start(data):
    _has(_message(DataError, MODEL, data, start=[1.0]), "3 finite numbers", "g (3)")
    _has(_message(DataError, MODEL, data, start=[1.0, np.nan, 1.0]), "3 finite numbers")


# -- formulas -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formula", ["y ~ X + (1 | g)", "y ~ log(X) + (1 | g)", "y ~ (X | g)", "X ~ (1 | g)"])
def test_unknown_names_are_listed_with_near_ones(data, formula):
    _has(_message(FormulaError, formula, data), repr(formula), "'X'", "did you mean x?")


def test_unknown_names_with_nothing_near(data):
    _has(_message(FormulaError, "y ~ x + (1 | subject)", data), "'subject'", "columns are g, h, x, y, z")


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("y ~ x + (x | )", ["(x |)", "grouping factor"]),
        ("y ~ x", ["no random term"]),
        ("y ~ x + (1 | g", ["unbalanced"]),
        ("y ~ nofunction(x) + (1 | g)", ["nofunction"]),
        ("y ~ x + (1 | g) + (x | g)", ["(Intercept)", "(1 | g)", "(x | g)", "told apart"]),
        (3, ["must be a string"]),
    ],
)
def test_formulas(data, formula, words):
    _has(_message(FormulaError, formula, data), *words)


# -- designs ------------------------------------------------------------------------------------------------


def test_one_level(data):
    _has(_message(DesignError, "y ~ x + (1 | one)", data.assign(one="a")), "'one'", "1 level")


def test_one_level_after_dropping_rows(data):
    frame = data.assign(y=data.y.where(data.h == 0))
    _has(_message(DesignError, "y ~ x + (1 | h)", frame, missing="drop"), "'h'", "1 level")


def test_as_many_levels_as_rows(data):
    _has(_message(DesignError, "y ~ x + (1 | row)", data.assign(row=np.arange(N))), "'row'", "120 levels")


def test_more_effects_than_rows(data):
    frame = data.assign(pair=np.arange(N) // 2)
    _has(_message(NotEnoughDataError, "y ~ (x + z | pair)", frame), "'pair'", "180 random effects")


def test_constant_response(data):
    _has(_message(DesignError, MODEL, data.assign(y=3.0)), "constant", "3")


def test_fewer_rows_than_columns(data):
    frame = data.iloc[:4].assign(g=[0, 0, 1, 1])
    _has(_message(NotEnoughDataError, "y ~ x * z + (1 | g)", frame), "4 rows", "4 fixed effects")


def test_a_slope_that_is_zero_everywhere(data):
    _has(_message(DesignError, "y ~ x + (0 + flat | g)", data.assign(flat=0.0)), "flat", "zero")


def test_dependent_columns_are_dropped_by_name(data):
    frame = data.assign(twice=2 * data.x, total=data.x + data.z)
    with pytest.warns(RankDeficientWarning, match="twice.*total"):
        got = mme.lmer("y ~ x + twice + z + total + (1 | g)", frame)
    expected = mme.lmer("y ~ x + z + (1 | g)", data)
    assert got.fe_params[["twice", "total"]].isna().all()
    assert got.llf == pytest.approx(expected.llf, rel=1e-10)
    pd.testing.assert_series_equal(got.fe_params.dropna(), expected.fe_params, rtol=1e-7)
    pd.testing.assert_series_equal(got.fittedvalues, expected.fittedvalues, rtol=1e-6)
    assert got.aic == pytest.approx(expected.aic, rel=1e-10)


def test_perfectly_explained_data(data):
    _has(_message(PerfectFitError, MODEL, data.assign(y=1 + 2 * data.x)), "exact")


def test_perfectly_explained_by_the_groups(data):
    _has(_message(PerfectFitError, "y ~ (1 | g)", data.assign(y=np.sin(data.g))), "exact")


def test_shipped_data_have_no_bad_input():
    assert mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy")).converged


def _slopes(shift: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    n = 240
    g, h, x = rng.integers(0, 15, n), rng.integers(0, 8, n), rng.normal(size=n)
    y = 1 + 2 * x + rng.normal(size=15)[g] + 0.6 * rng.normal(size=15)[g] * x
    y = y + 0.7 * rng.normal(size=8)[h] + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x + shift, "g": g, "h": h})


@pytest.mark.parametrize("shift", [2e3, 1e5, 1e6, 1e7])
def test_an_uncentred_slope_is_the_same_model(shift):
    """(x | g) spans the same space wherever x is measured from."""
    formula = "y ~ x + (x | g) + (1 | h)"
    expected = mme.lmer(formula, _slopes())
    got = mme.lmer(formula, _slopes(shift))
    assert got.converged and got.fit_info["evaluations"] <= 8
    np.testing.assert_allclose(got.llf, expected.llf, atol=1e-6)
    np.testing.assert_allclose(got.sigma, expected.sigma, rtol=1e-5)


def test_random_columns_that_depend_on_one_another_are_named():
    data = _slopes().assign(double=lambda d: 2 * d.x)
    with pytest.raises(DesignError, match="column double depends linearly"):
        mme.lmer("y ~ x + (x + double | g)", data)


def test_a_term_that_the_fixed_effects_explain_is_named():
    with pytest.raises(DesignError, match="'g' is explained by the fixed effects"):
        mme.lmer("y ~ x + C(g) + (1 | g)", _slopes())
