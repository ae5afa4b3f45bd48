"""The package marginaleffects on results of both doors: its numbers are contrasts of the fixed effects."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import mme
from mme.exceptions import DataError, InferenceError, OptionError

FORMULA = "Reaction ~ Days * half + (Days | Subject)"


@pytest.fixture(scope="module")
def sleep():
    frame = pd.read_csv(mme.data_path("sleepstudy.csv"))
    frame["half"] = np.where(frame["Subject"] % 3 > 1, "late", "early")
    frame["block"] = frame["Days"] // 4
    return frame


@pytest.fixture(scope="module")
def doors(sleep):
    door = mme.mixedlm("Reaction ~ Days * half", sleep, groups="Subject", re_formula="~Days").fit()
    return mme.lmer(FORMULA, sleep), door


def package():
    return pytest.importorskip("marginaleffects", reason="marginaleffects is an extra")


def test_predictions(doors, sleep):
    me = package()
    for fit in doors:
        got = me.predictions(fit.marginaleffects(sleep))
        X = fit.fitted.coding().fixed(sleep)
        want = pd.concat([fit.contrast(row, ddf="normal") for row in X[:5]])
        assert_allclose(got["estimate"].to_numpy()[:5], want["estimate"], rtol=1e-10)
        assert_allclose(got["std_error"].to_numpy()[:5], want["se"], rtol=1e-5)
        assert_allclose(got["conf_low"].to_numpy()[:5], want["lower"], rtol=1e-5)
        average = me.avg_predictions(fit.marginaleffects(sleep), by="half")
        for half, *numbers in zip(*(average[n] for n in ("half", "estimate", "std_error")), strict=True):
            row = fit.contrast(X[(sleep["half"] == half).to_numpy()].mean(0), ddf="normal")
            assert_allclose(numbers, row[["estimate", "se"]].iloc[0], rtol=1e-5)


def test_comparisons_and_slopes(doors, sleep):
    me = package()
    for fit in doors:
        model = fit.marginaleffects(sleep)
        got = me.comparisons(model, variables="half", newdata=me.datagrid(model=model, Days=[0, 9]))
        order = [0, 1, 2, 3] if list(fit.fitted.labels.fixed)[1] == "Days" else [0, 2, 1, 3]
        want = [fit.contrast(np.array([0, 0, 1, d])[order], ddf="normal") for d in (0, 9)]
        assert_allclose(got["estimate"].to_numpy(), [w["estimate"].iloc[0] for w in want], rtol=1e-8)
        assert_allclose(got["std_error"].to_numpy(), [w["se"].iloc[0] for w in want], rtol=1e-4)
        # differences of differences by the package: a step of one is exact where the model is linear
        grid = me.datagrid(model=model, half=["early", "late"])
        slopes = me.slopes(model, variables="Days", newdata=grid, eps_vcov=1.0)
        early = fit.contrast(np.array([0, 1, 0, 0])[order], ddf="normal")
        late = fit.contrast(np.array([0, 1, 0, 1])[order], ddf="normal")
        assert_allclose(
            slopes["estimate"].to_numpy(), [early["estimate"].iloc[0], late["estimate"].iloc[0]], rtol=1e-5
        )
        assert_allclose(slopes["std_error"].to_numpy(), [early["se"].iloc[0], late["se"].iloc[0]], rtol=1e-6)


def test_hypotheses_and_covariances(doors, sleep):
    me = package()
    fit = doors[0]
    model = fit.marginaleffects(sleep)
    got = me.hypotheses(model, hypothesis="b1 - b2 = 0")
    want = fit.contrast([0, 1, -1, 0], ddf="normal")
    assert_allclose(abs(got["estimate"][0]), abs(want["estimate"].iloc[0]), rtol=1e-8)
    assert_allclose(got["std_error"][0], want["se"].iloc[0], rtol=1e-5)
    adjusted = me.avg_predictions(model, vcov="kenward-roger")
    row = fit.fitted.coding().fixed(sleep).mean(0)
    assert_allclose(adjusted["std_error"][0], fit.contrast(row, ddf="kenward-roger")["se"].iloc[0], rtol=1e-5)
    doubled = me.avg_predictions(model, vcov=4.0 * np.asarray(fit.cov_params()))
    assert_allclose(doubled["std_error"][0], 2.0 * fit.contrast(row, ddf="normal")["se"].iloc[0], rtol=1e-5)
    with pytest.raises(OptionError, match="vcov='HC3'"):
        me.avg_predictions(model, vcov="HC3")
    exact = me.avg_predictions(fit.marginaleffects(sleep, df=17.0))
    table = fit.contrast(row, ddf="normal")
    half = 2.109815577833181 * table["se"].iloc[0]
    assert_allclose(exact["conf_high"][0], table["estimate"].iloc[0] + half, rtol=1e-6)


def test_numbers_that_are_factors_and_functions_of_columns(sleep):
    me = package()
    fit = mme.lmer("np.log(Reaction) ~ C(block) + scale(Days) + (1 | Subject)", sleep)
    model = fit.marginaleffects(sleep)
    got = me.avg_comparisons(model, variables="block")
    assert_allclose(got["estimate"].to_numpy(), fit.fe_params.iloc[1:3], rtol=1e-8)
    assert_allclose(got["std_error"].to_numpy(), fit.bse_fe.iloc[1:3], rtol=1e-4)
    slope = me.avg_slopes(model, variables="Days")
    assert_allclose(slope["estimate"][0], fit.fe_params.iloc[3] / sleep["Days"].std(), rtol=1e-5)


def test_offset_missing_rows_and_files(sleep, tmp_path):
    me = package()
    fit = mme.lmer("Reaction ~ Days + offset(2 * Days) + (1 | Subject)", sleep)
    holes = sleep.assign(Days=sleep["Days"].where(sleep.index != 3).astype(float))
    got = me.avg_predictions(fit.marginaleffects(holes))
    assert_allclose(got["estimate"][0], fit.fitted_fixed.drop(3).mean(), rtol=1e-10)
    mme.save(fit, tmp_path / "fit.mme")
    again = me.avg_predictions(mme.load(tmp_path / "fit.mme").marginaleffects(holes))
    assert_allclose(again["std_error"][0], got["std_error"][0], rtol=1e-10)


def test_mixedlm_has_its_frame(doors):
    me = package()
    fit = doors[1]
    assert_allclose(
        me.avg_predictions(fit.marginaleffects())["estimate"][0], fit.predict().mean(), rtol=1e-10
    )


def test_what_it_cannot_do(doors, sleep, monkeypatch):
    package()
    with pytest.raises(DataError, match="give data=, as a rule the frame of the fit"):
        doors[0].marginaleffects()
    with pytest.raises(DataError, match="no column 'half'"):
        doors[0].marginaleffects(sleep.drop(columns="half"))
    with pytest.raises(DataError, match="column 'half' has levels that the fit did not have: 'never'"):
        doors[0].marginaleffects(sleep.assign(half="never"))
    arrays = mme.MixedLM(sleep["Reaction"], np.ones((180, 1)), sleep["Subject"]).fit()
    with pytest.raises(InferenceError, match="made of arrays"):
        arrays.marginaleffects(sleep)


def test_without_the_package(doors, sleep, monkeypatch):
    monkeypatch.setitem(sys.modules, "marginaleffects", None)
    monkeypatch.setitem(sys.modules, "polars", None)
    monkeypatch.delitem(sys.modules, "mme.report.adapter", raising=False)
    with pytest.raises(DataError, match=r"is not installed: pip install 'mme\[marginaleffects\]'"):
        doors[0].marginaleffects(sleep)
