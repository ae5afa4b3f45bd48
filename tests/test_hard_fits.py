"""Fits of hard small designs: huge ratios, other modes, flat likelihoods, exact fits, extreme units."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mme


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
