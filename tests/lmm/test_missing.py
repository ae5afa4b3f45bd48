"""Missing values at lmer's door: rows are left out as in lme4, and that is said; or they are refused."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import mme
from mme.exceptions import DataError, MissingDataWarning, MMEWarning
from mme.lmm.model import LinearMixedModel

SLOPE = "Reaction ~ Days + (Days | Subject)"
HOLES = r"3 of 180 rows were left out because of missing values: Reaction \(2\), Days \(1\), Subject \(1\)"


@pytest.fixture
def holes(sleepstudy) -> pd.DataFrame:
    frame = sleepstudy.astype({"Reaction": float, "Days": float, "Subject": float}).assign(unused=np.nan)
    frame.loc[[3, 50], "Reaction"] = np.nan
    frame.loc[50, "Days"] = np.nan
    frame.loc[177, "Subject"] = np.nan
    return frame


def _same(got, expected, rounding: float = 0.0) -> None:
    assert got.nobs == expected.nobs
    assert abs(got.llf - expected.llf) <= rounding * abs(expected.llf)
    pd.testing.assert_series_equal(got.fe_params, expected.fe_params)
    pd.testing.assert_series_equal(got.fittedvalues, expected.fittedvalues)


def test_rows_are_left_out_with_a_warning_at_the_callers_line(holes):
    expected = mme.lmer(SLOPE, holes.drop(index=[3, 50, 177]))
    with pytest.warns(MissingDataWarning, match=HOLES) as caught:
        got = mme.lmer(SLOPE, holes)
    assert issubclass(MissingDataWarning, MMEWarning)
    assert [w.filename for w in caught] == [__file__]
    _same(got, expected)
    assert (got.n_dropped, got.nobs, expected.n_dropped) == (3, 177, 0)
    assert "3 of 180 rows left out because of missing values." in " ".join(str(got.summary()).split())
    assert "left out" not in str(expected.summary())


def test_the_other_doors_warn_at_the_callers_line_too(holes):
    for build in (LinearMixedModel.from_formula, mme.preflight):
        with pytest.warns(MissingDataWarning, match=HOLES) as caught:
            built = build(SLOPE, holes)
        assert [w.filename for w in caught] == [__file__]
    assert built.rows == 177


def test_drop_is_silent_and_raise_refuses(holes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = mme.lmer(SLOPE, holes, missing="drop")
    assert got.n_dropped == 3
    with pytest.raises(DataError, match=r"Reaction \(2\).*3 of 180 rows"):
        mme.lmer(SLOPE, holes, missing="raise")


def test_a_subset_comes_first(holes):
    """Missing values outside of it are nobody's business, and counts are those of the subset."""
    late = "(Days >= 2 or Days != Days)"
    with pytest.warns(MissingDataWarning, match=r"2 of 144 rows .*: Reaction \(2\), Days \(1\)\. "):
        got = mme.lmer(SLOPE, holes, subset=late + " and Subject == Subject")
    rows = (holes.Days >= 2) & holes.Reaction.notna() & holes.Subject.notna()
    _same(got, mme.lmer(SLOPE, holes[rows]))
    text = " ".join(str(got.summary()).split())
    assert "Subset: 144 of 180 rows." in text
    assert "2 of 144 rows left out" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = mme.lmer(SLOPE, holes, subset=holes.notna().drop(columns="unused").all(axis=1))
    assert (whole.nobs, whole.n_dropped) == (177, 0)
    assert "Subset: 177 of 180 rows." in " ".join(str(whole.summary()).split())


def test_weights_and_offsets_count(holes, sleepstudy):
    weights = np.ones(180)
    weights[7] = np.nan
    with pytest.warns(MissingDataWarning, match=r"2 of 180 rows .*: wt \(1\), weights \(1\)"):
        got = mme.lmer(
            SLOPE, sleepstudy.assign(wt=np.r_[np.nan, np.zeros(179)]), weights=weights, offset="wt"
        )
    # weights of one take another way over the rows: equal but for the last digit
    _same(got, mme.lmer(SLOPE, sleepstudy.drop(index=[0, 7])), rounding=2e-16)
