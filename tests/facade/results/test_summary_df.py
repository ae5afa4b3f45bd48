"""MixedLM's summary with degrees of freedom, which is statsmodels' unless asked."""

from __future__ import annotations

import numpy as np
import pytest

import mme
from mme.exceptions import OptionError


@pytest.fixture
def result(sleepstudy):
    return mme.mixedlm("Reaction ~ Days", sleepstudy, groups="Subject", re_formula="~Days").fit()


def test_statsmodels_z_unless_asked(result):
    table = result.summary().tables[1]
    assert list(table.columns) == ["Coef.", "Std.Err.", "z", "P>|z|", "[0.025", "0.975]"]
    assert table.loc["Days", "z"] == f"{result.tvalues['Days']:.3f}"


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger", "residual"])
def test_degrees_of_freedom(result, ddf):
    smry = result.summary(ddf=ddf, alpha=0.1)
    table, expected = smry.tables[1], result.coef_table(ddf, alpha=0.1)
    assert list(table.columns) == ["Coef.", "Std.Err.", "df", "t", "P>|t|", "[0.05", "0.95]"]
    got = table.iloc[:2].astype(float)
    np.testing.assert_allclose(got, expected, atol=6e-4)
    # variances as before
    plain = result.summary().tables[1]
    assert table["Coef."].tolist()[2:] == plain["Coef."].tolist()[2:]
    assert table["df"].tolist()[2:] == [""] * 3
    assert f"Degrees of freedom: {ddf}." in smry.as_text()
    assert result.summary(xname_fe=["a", "b"], ddf=ddf).tables[1].index.tolist()[:2] == ["a", "b"]


def test_what_cannot_be_given(result):
    with pytest.raises(OptionError, match="Did you mean 'satterthwaite'"):
        result.summary(ddf="satterthwait")
    iterative = result.model.fit(solver="iterative")
    kept = iterative.summary(ddf="kenward-roger").tables[1]
    assert kept.loc["Days", "df"] == "17.000"
    table = iterative.summary(ddf="normal").tables[1]
    assert list(table.columns)[-1] == "MC Err."
    assert table.loc["Days", "df"] == ""  # infinite
