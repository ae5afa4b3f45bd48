"""Standard errors and boundaries do not depend on where a covariate is measured from (a calendar year)."""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest

import mme
from mme.facade.fit import BoundaryWarning


@cache
def data() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(60), 15)
    x = 5.0 * rng.normal(size=g.size)
    h = rng.integers(0, 6, g.size)
    b = np.column_stack([rng.normal(size=60), 0.2 * rng.normal(size=60)])
    v = 0.5 * rng.normal(size=(60, 6))
    y = 1.0 + 0.3 * x + b[g, 0] + b[g, 1] * x + v[g, h] + rng.normal(size=g.size)
    return pd.DataFrame({"y": y, "x": x, "g": g, "h": h})


def fit(shift: float, solver: str, components: bool):
    moved = data().assign(x=data()["x"] + shift)
    vc = {"h": "0 + C(h)"} if components else None
    model = mme.MixedLM.from_formula("y ~ x", moved, groups="g", re_formula="~x", vc_formula=vc)
    return model.fit(solver=solver)


def moved_by(shift: float, components: bool) -> np.ndarray:
    """Parameters at the shift as a linear function of those at zero."""
    T = np.eye(6 if components else 5)
    T[0, 1] = -shift
    T[2:5, 2:5] = [[1.0, -2.0 * shift, shift**2], [0.0, 1.0, -shift], [0.0, 0.0, 1.0]]
    return T


@pytest.mark.parametrize("components", [False, True], ids=["slopes", "slopes and a component"])
@pytest.mark.parametrize("solver", ["direct", "iterative"])
@pytest.mark.parametrize("shift", [200.0, 2e3, 2e4, 1e6])
def test_covariance_of_the_parameters(shift, solver, components):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        centred, got = fit(0.0, solver, components), fit(shift, solver, components)
        T = moved_by(shift, components)
        expected = T @ np.asarray(centred.cov_params()) @ T.T
        np.testing.assert_allclose(got.bse, np.sqrt(np.diag(expected)), rtol=1e-4)
        assert got.boundary == []
        np.testing.assert_allclose(got.bse_re.iloc[2:], centred.bse_re.iloc[2:], rtol=1e-4)
        # a covariance at the origin is one at the centre, moved by the shift
        np.testing.assert_allclose(got.bse_re.iloc[0], shift**2 * centred.bse_re.iloc[2], rtol=0.1)


@pytest.mark.parametrize("shift", [0.0, 2e3, 2e4])
def test_a_singular_covariance_is_still_said_to_be(shift):
    rng = np.random.default_rng(6)
    g = np.repeat(np.arange(60), 15)
    x, b = 5.0 * rng.normal(size=g.size), rng.normal(size=60)
    y = 1.0 + 0.3 * x + b[g] + rng.normal(size=g.size)
    moved = pd.DataFrame({"y": y, "x": x + shift, "g": g})
    with pytest.warns(BoundaryWarning):
        results = mme.MixedLM.from_formula("y ~ x", moved, groups="g", re_formula="~x").fit()
    assert results.boundary == ["g x x correlation"]
