"""Fits of hard small designs: huge ratios, other modes, flat likelihoods, exact fits, extreme units."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mme
from mme.exceptions import DataError


def _rounded_response(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = 40
    return pd.DataFrame(
        {"y": np.round(rng.normal(size=n), 1), "x": np.arange(n) % 10.0, "g": np.arange(n) % 2}
    )


@pytest.mark.parametrize("seed", [580, *range(12)])
def test_two_levels_and_a_rounded_response(seed):
    """The search over the cone ends for every seed (a barrier parameter of zero is no error)."""
    data = _rounded_response(seed)
    fit = mme.lmer("y ~ x + (x | g)", data)
    assert fit.converged
    assert fit.llf >= mme.lmer("y ~ x + (1 | g)", data).llf - 1e-9


def _steep_intercepts(seed: int, ratio: float) -> pd.DataFrame:
    """A between-group standard deviation `ratio` times the residual's and no slope variance."""
    rng = np.random.default_rng(seed)
    n = 40
    k = np.arange(n) % 5
    x = rng.normal(size=n)
    return pd.DataFrame({"y": ratio * rng.normal(size=5)[k] + rng.normal(size=n), "x": x, "g": k})


@pytest.mark.parametrize("ratio", [3e3, 1e4, 1e5])
@pytest.mark.parametrize("seed", range(12))
def test_a_large_intercept_variance_beside_a_slope_variance_of_zero(seed, ratio):
    data = _steep_intercepts(seed, ratio)
    fit = mme.lmer("y ~ x + (x | g)", data)
    assert fit.converged, fit.fit_info["message"]
    assert fit.llf >= mme.lmer("y ~ x + (1 | g)", data).llf - 1e-6
    assert fit.fit_info["evaluations"] <= 40


def test_a_large_intercept_variance_value():
    """lme4 1.1-31 ends at -101.750; a search over the dense likelihood in 60 digits finds -101.74562."""
    fit = mme.lmer("y ~ x + (x | g)", _steep_intercepts(0, 1e4))
    np.testing.assert_allclose(fit.llf, -101.74562, rtol=0, atol=1e-4)
    assert fit.is_singular


# -- units and origins ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sleep() -> pd.DataFrame:
    return pd.read_csv(mme.data_path("sleepstudy.csv"))


@pytest.mark.parametrize("origin", [1e6, 1e9, 1e12])
def test_a_slope_measured_from_far_away(sleep, origin):
    """Days are integers, exact in floating point wherever they are counted from: so is the fit."""
    formula = "Reaction ~ Days + (Days | Subject)"
    near = mme.lmer(formula, sleep)
    far = mme.lmer(formula, sleep.assign(Days=sleep["Days"] + origin))
    assert far.converged
    np.testing.assert_allclose(far.llf, near.llf, rtol=0, atol=1e-8)
    np.testing.assert_allclose(far.fe_params["Days"], near.fe_params["Days"], rtol=1e-9)
    np.testing.assert_allclose(far.bse_fe["Days"], near.bse_fe["Days"], rtol=1e-7)
    np.testing.assert_allclose(far.varcorr["vcov"][1], near.varcorr["vcov"][1], rtol=1e-7)
    np.testing.assert_allclose(far.scale, near.scale, rtol=1e-8)


def test_a_slope_measured_from_far_away_at_the_other_door(sleep):
    """The fit is exact; standard errors of parameters that differ by 1e18 are NaN, and named."""
    near, far = (
        mme.MixedLM.from_formula("Reaction ~ Days", d, re_formula="~Days", groups="Subject").fit()
        for d in (sleep, sleep.assign(Days=sleep["Days"] + 1e9))
    )
    np.testing.assert_allclose(far.llf, near.llf, rtol=0, atol=1e-7)
    np.testing.assert_allclose(far.cov_re.loc["Days", "Days"], near.cov_re.loc["Days", "Days"], rtol=1e-7)
    with pytest.warns(Warning, match="singular in the direction of Intercept"):
        assert np.isnan(far.bse_fe["Intercept"])


@pytest.mark.parametrize(
    ("column", "factor", "message"),
    [
        ("Reaction", 1e-162, "the response y has no value above 1e-150"),
        ("Days", 1e-160, "no value above 1e-150 in column Days"),
    ],
)
def test_units_that_underflow_are_refused_by_name(sleep, column, factor, message):
    with pytest.raises(DataError, match=message):
        mme.lmer("Reaction ~ Days + (Days | Subject)", sleep.assign(**{column: sleep[column] * factor}))


@pytest.mark.parametrize("formula", ["(Days | Subject)", "(Days || Subject)", "(0 + Days | Subject)"])
@pytest.mark.parametrize("factor", [1e-149, 1e-100, 1e-30, 1e30])
def test_units_that_do_not_are_exact(sleep, factor, formula):
    near = mme.lmer(f"Reaction ~ Days + {formula}", sleep)
    far = mme.lmer(f"Reaction ~ Days + {formula}", sleep.assign(Reaction=sleep["Reaction"] * factor))
    np.testing.assert_allclose(far.llf, near.llf - 178 * np.log(factor), rtol=1e-13)
    far = mme.lmer(f"Reaction ~ Days + {formula}", sleep.assign(Days=sleep["Days"] * factor))
    np.testing.assert_allclose(far.llf, near.llf - np.log(factor), rtol=1e-11)
