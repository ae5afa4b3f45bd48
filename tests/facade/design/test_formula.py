"""Design matrices of formulas that only list numeric columns: the formula engine's own, built directly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula
from numpy.testing import assert_array_equal
from statsmodels.formula._manager import FormulaManager

import mme
from mme.facade.design.formula import numeric_matrices, random_effects_matrix


@pytest.fixture
def frame():
    rng = np.random.default_rng(4)
    n = 40
    return pd.DataFrame(
        {
            "y": rng.integers(0, 9, size=n),
            "x": rng.normal(size=n),
            "z": rng.normal(size=n).astype(np.float32),
            "my col": rng.normal(size=n),
            "a": rng.choice(list("uvw"), size=n),
            "flag": rng.normal(size=n) > 0,
            "g": np.repeat(np.arange(8), 5),
        },
        index=np.arange(n) * 3,
    )


@pytest.fixture(params=["patsy", "formulaic"])
def engine(request):
    before = statsmodels.formula.options.formula_engine
    statsmodels.formula.options.formula_engine = request.param
    yield request.param
    statsmodels.formula.options.formula_engine = before


@pytest.mark.parametrize(
    "formula",
    ["y ~ x", "y ~ 0 + x + z", "y ~ z + x", "y ~ 1", "y ~ x - 1", "y ~ x + x", 'y ~ Q("my col") + x'],
)
def test_both_sides(frame, formula, engine):
    expected = FormulaManager().get_matrices(formula, frame, pandas=True)
    got = numeric_matrices(formula, frame)
    if engine == "formulaic" and "Q(" in formula:
        # formulaic calls the column by what Q() returns; then it evaluates the formula itself
        assert got is None or list(got[1].columns) == list(expected[1].columns)
        return
    for ours, theirs in zip(got[:2], expected, strict=True):
        pd.testing.assert_frame_equal(
            pd.DataFrame(ours), pd.DataFrame(theirs), check_column_type=False, check_dtype=False
        )


@pytest.mark.parametrize("formula", ["~x", "x", "0 + x + z", "~ z + x + 1", "1 + x", "0 + x"])
def test_one_side(frame, formula, engine):
    expected = FormulaManager().get_matrices(formula, frame, pandas=True)
    assert numeric_matrices(formula, frame) is not None
    got = random_effects_matrix(formula, frame, 0)
    pd.testing.assert_frame_equal(
        pd.DataFrame(got.values, frame.index, list(got.labels)),
        pd.DataFrame(expected),
        check_column_type=False,
        check_dtype=False,
    )


@pytest.mark.parametrize(
    "formula", ["y ~ a", "y ~ x * z", "y ~ np.exp(x)", "np.log1p(y) ~ x", "y ~ flag", "y ~ x:z", "y ~ C(g)"]
)
def test_anything_more_is_left_to_the_formula_engine(frame, formula, engine):
    assert numeric_matrices(formula, frame) is None
    expected = FormulaManager().get_matrices(formula, frame, pandas=True)[1]
    assert_array_equal(
        mme.MixedLM.from_formula(formula, frame, groups="g").exog, expected.to_numpy(dtype=float)
    )


def test_missing_values_are_left_to_the_formula_engine(frame):
    frame.loc[0, "x"] = np.nan
    assert numeric_matrices("y ~ x", frame) is None


def test_new_data_and_names(frame, engine):
    r = mme.mixedlm("y ~ x + z", frame, groups="g", re_formula="~x").fit()
    assert list(r.fe_params.index) == ["Intercept", "x", "z"]
    assert list(r.cov_re.index) == ["g", "x"]
    new = frame.head(3)[["z", "x"]]
    expected = np.column_stack([np.ones(3), new.x, new.z]) @ r.fe_params.to_numpy()
    np.testing.assert_allclose(r.predict(new), expected)
