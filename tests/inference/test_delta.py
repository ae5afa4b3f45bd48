"""Functions of the parameters: linear ones, ratios, deviations and correlations, what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support import load_data

import mme
from mme.exceptions import InferenceError, OptionError


def _sleep(**kwargs):
    return mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy"), **kwargs)


def test_linear_functions_have_their_own_standard_errors():
    result = _sleep()
    got = result.delta(lambda p: {"slope": p["Days"], "day 5": p["(Intercept)"] + 5 * p["Days"]})
    assert list(got.index) == ["slope", "day 5"]
    L = np.array([[0.0, 1.0], [1.0, 5.0]])
    np.testing.assert_allclose(got["estimate"], L @ result.fe_params)
    np.testing.assert_allclose(got["se"], np.sqrt(np.diag(L @ result.vcov_fe @ L.T)), rtol=1e-9)
    np.testing.assert_allclose(got["upper"] - got["estimate"], stats.norm.ppf(0.975) * got["se"])


def test_variances_deviations_and_correlations():
    result = _sleep()
    table = result.variance_table()
    names = ["sd_(Intercept)|Subject", "sd_Days|Subject", "cor_Days.(Intercept)|Subject", "sigma"]
    got = result.delta(lambda p: [p[name] for name in names])
    np.testing.assert_allclose(got["estimate"], table["estimate"])
    np.testing.assert_allclose(got["se"], table["se"], rtol=1e-6)
    var = result.delta(lambda p: [*np.diag(p.cov["Subject"]), p.cov["Subject"][1, 0], p.sigma2])
    np.testing.assert_allclose(var["se"], result.bse_re, rtol=1e-9)


def test_a_ratio_of_fixed_effect_and_deviation():
    """Independent to first order: relative variances add up."""
    result = _sleep()
    got = result.delta(lambda p: p["Days"] / p["sigma"]).iloc[0]
    sigma = result.variance_table().iloc[3]
    relative = (result.bse_fe["Days"] / result.fe_params["Days"]) ** 2 + (
        sigma["se"] / sigma["estimate"]
    ) ** 2
    assert got["se"] == pytest.approx(abs(got["estimate"]) * np.sqrt(relative), rel=1e-6)


def test_both_doors_and_series():
    model = mme.MixedLM.from_formula(
        "Reaction ~ Days", load_data("sleepstudy"), groups="Subject", re_formula="Days"
    )
    result = model.fit()
    got = result.delta(lambda p: pd.Series({"slope": p["Days"], "sd": p["sd_Days|Subject"]}), alpha=0.1)
    assert got.loc["slope", "se"] == pytest.approx(result.bse_fe["Days"])
    assert got.loc["sd", "se"] == pytest.approx(_sleep().variance_table().loc[1, "se"], rel=1e-4)


def test_values_are_a_mapping():
    seen = []
    _sleep().delta(lambda p: seen.append(p) or p["Days"])
    values = seen[0]
    assert list(values)[:2] == ["(Intercept)", "Days"] and len(values) == 6
    assert dict(values)["sigma"] == pytest.approx(values.sigma)
    assert "sd_Days|Subject" in repr(values)


def test_at_the_boundary_nothing_moves():
    result = mme.lmer("Yield ~ 1 + (1 | Batch)", load_data("Dyestuff2"))
    got = result.delta(lambda p: [p["sd_(Intercept)|Batch"], p["sigma"], p["(Intercept)"]])
    assert np.isnan(got["se"].iloc[0]) and got["se"].iloc[1] > 0
    assert got["se"].iloc[2] == pytest.approx(result.bse_fe.iloc[0])


def test_names_that_two_parameters_share():
    data = load_data("sleepstudy").rename(columns={"Days": "sigma"})
    result = mme.lmer("Reaction ~ sigma + (1 | Subject)", data)
    got = result.conf_int(method="wald", parm=["sigma", "sigma.1"])
    np.testing.assert_allclose(got.iloc[0], result.conf_int().loc["sigma"])
    assert got.iloc[1].between(20, 40).all()


def test_refusals():
    result = _sleep()
    with pytest.raises(OptionError, match="Did you mean 'Days'"):
        result.delta(lambda p: p["Dayz"])
    with pytest.raises(OptionError, match="must return a number"):
        result.delta(lambda p: "text")
    with pytest.raises(OptionError, match="must return a number"):
        result.delta(lambda p: [])
    with pytest.raises(OptionError, match="must return a number"):
        result.delta(lambda p: None)
    with pytest.raises(OptionError, match="f=3 must be a function of the parameters"):
        result.delta(3)
    with pytest.raises(OptionError, match="alpha"):
        result.delta(lambda p: p["Days"], alpha=0)
    with pytest.raises(InferenceError, match="factorization"):
        _sleep(solver="iterative").delta(lambda p: p["Days"])
    model = mme.MixedLM.from_formula("Reaction ~ Days", load_data("sleepstudy"), groups="Subject")
    with pytest.raises(InferenceError, match="penalties"):
        model.fit_regularized(alpha=1.0).delta(lambda p: p["Days"])
