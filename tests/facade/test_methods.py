"""Scipy's methods in MixedLM.fit: where they begin, what counts as an optimum; arguments that are refused."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from statsmodels.tools.sm_exceptions import ConvergenceWarning, SingularMatrixWarning

import mme
from mme import MixedLMParams
from mme.exceptions import DataError

_INSIDE = (12, 21)  # of the sets below: the optimum is inside, and L-BFGS from afar ends at zero variance


def _set(seed: int) -> pd.DataFrame:
    """Twelve groups of five, ratio of the variances 0.09: zero is stationary, and at times the optimum."""
    rng = np.random.default_rng(seed)
    k = np.repeat(np.arange(12), 5)
    x = rng.normal(size=60)
    return pd.DataFrame(
        {"y": x + 0.3 * rng.normal(size=12)[k] + rng.normal(size=60), "x": x, "z": x**2, "g": k}
    )


def _model(seed: int, **more) -> mme.MixedLM:
    return mme.mixedlm("y ~ x", _set(seed), groups="g", **more)


@pytest.fixture(autouse=True)
def _boundaries_are_expected():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularMatrixWarning)
        yield


@pytest.mark.parametrize("method", ["lbfgs", "bfgs", "nm", ["lbfgs", "powell"]])
def test_by_default_a_method_begins_at_the_optimum(method):
    for seed in range(25):
        model = _model(seed)
        best = model.fit(reml=False)
        result = model.fit(reml=False, method=method)
        assert result.converged
        assert_allclose(result.llf, best.llf, rtol=0, atol=1e-9)
        assert_allclose(result.params, best.params, rtol=1e-6, atol=1e-9)
        assert result.mle_retvals["evaluations"] <= 1.5 * best.mle_retvals["evaluations"]
    assert "began there and had nothing to improve" in result.fit_info["reason"]


@pytest.mark.parametrize("slopes", [False, True])
@pytest.mark.parametrize("reml", [False, True])
def test_the_engine_goes_on_where_a_method_ends_at_a_saddle(reml, slopes):
    for seed in _INSIDE:
        model = _model(seed, re_formula="~x" if slopes else None)
        best = model.fit(reml=reml)
        result = model.fit(np.zeros(model.k_re2), reml=reml, method="lbfgs")
        assert result.converged
        assert_allclose(result.llf, best.llf, rtol=0, atol=1e-6)
        assert "lbfgs ended where the optimality conditions fail" in result.fit_info["reason"]


def test_the_next_method_goes_on_from_a_saddle():
    for seed in _INSIDE:
        model = _model(seed)
        best = model.fit(reml=False)
        result = model.fit([0.0], reml=False, method=["lbfgs", "powell"])
        assert result.converged
        assert_allclose(result.llf, best.llf, rtol=0, atol=1e-5)
        assert "conditions" not in result.fit_info["reason"]  # Powell's method found it alone


@pytest.mark.parametrize("use_sqrt", [True, False])
def test_a_zero_variance_is_an_optimum_where_it_is(use_sqrt):
    model = _model(0, use_sqrt=use_sqrt)
    best = model.fit(reml=False)
    assert best.cov_re.iloc[0, 0] == 0.0
    for start in (None, [0.5]):
        result = model.fit(start, reml=False, method="bfgs")
        assert result.converged
        assert_allclose(result.llf, best.llf, rtol=0, atol=1e-6)


def test_an_explicit_start_is_where_the_search_begins():
    model = _model(3)
    best = model.fit(reml=False)
    for method in ("bfgs", "nm"):
        result = model.fit([2.0], reml=False, method=method, full_output=True)
        at_start = model.loglike(MixedLMParams.from_components(np.zeros(2), cov_re=np.array([[4.0]])))
        assert_allclose(result.hist[0]["deviance"][0], -2 * at_start, rtol=1e-10)
        assert result.converged
        assert_allclose(result.llf, best.llf, rtol=0, atol=1e-5)
        assert "conditions" not in result.fit_info["reason"]


def test_maxiter_ends_a_search_from_a_start():
    model = _model(3, re_formula="~x")
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        result = model.fit([3.0, 0.0, 3.0], method="bfgs", maxiter=1)
    assert not result.converged
    assert result.mle_retvals["iterations"] == 1
    assert result.llf < model.fit().llf - 1e-3


def test_uncorrelated_effects_by_a_method():
    model = _model(3, re_formula="~x")
    free = MixedLMParams.from_components(np.ones(2), cov_re=np.eye(2))
    best = model.fit(free=free)
    for start in (None, MixedLMParams.from_components(np.zeros(2), cov_re=np.diag([1.0, 1.0]))):
        result = model.fit(start, free=free, method="lbfgs")
        assert result.converged
        assert_allclose(result.llf, best.llf, rtol=0, atol=1e-6)
        assert result.cov_re.iloc[0, 1] == 0.0


# -- arguments that are refused ------------------------------------------------------------------

_NOT_POSITIVE = [0, -1.0, np.nan, np.inf, "a", True, [1e-3]]


@pytest.mark.parametrize("method", [None, "bfgs"])
@pytest.mark.parametrize("value", _NOT_POSITIVE)
@pytest.mark.parametrize("name", ["gtol", "ftol", "tol", "eps"])
def test_tolerances(name, value, method):
    with pytest.raises(DataError, match=rf"{name} must be a positive finite number, not "):
        _model(3).fit(method=method, **{name: value})


@pytest.mark.parametrize("method", [None, "lbfgs"])
@pytest.mark.parametrize("value", [*_NOT_POSITIVE, 2.5])
@pytest.mark.parametrize("name", ["maxiter", "maxcor", "maxls"])
def test_counts(name, value, method):
    with pytest.raises(DataError, match=rf"{name} must be a whole number of at least 1, not "):
        _model(3).fit(method=method, **{name: value})


def test_counts_and_tolerances_of_other_types_are_taken():
    best = _model(3).fit()
    more = {"maxiter": 100.0, "maxcor": np.int64(5), "gtol": np.float32(1e-6), "ftol": None, "tol": None}
    assert_allclose(_model(3).fit([1.0], method="lbfgs", **more).llf, best.llf, atol=1e-5)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("a", "must be numbers or MixedLMParams"),
        ({"a": 1}, "must be numbers or MixedLMParams"),
        ([[1.0, 2.0]], r"one-dimensional; it has shape \(1, 2\)"),
        ([np.nan], "not finite"),
        ([np.inf], "not finite"),
        ([1.0, 2.0], "2 values; expected 1 .* or 3"),
        (MixedLMParams.from_components(np.zeros(2), cov_re=-np.eye(1)), "negative variance"),
        (MixedLMParams.from_components(np.zeros(2), cov_re=np.eye(2)), "the model has 1 random effects"),
    ],
)
@pytest.mark.parametrize("method", [None, "bfgs"])
def test_starts(start, message, method):
    with pytest.raises(DataError, match=f"start_params.*{message}"):
        _model(3).fit(start, method=method)


def test_a_negative_variance_to_start_from():
    with pytest.raises(DataError, match="start_params has a negative variance"):
        _model(3, use_sqrt=False).fit([-1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reml": "no"}, "reml must be True"),
        ({"reml": None}, "reml must be True"),
        ({"method": 3}, "method must be a name or a list of names"),
        ({"method": ["bfgs", 3]}, "method must be a name or a list of names"),
        ({"free": 3}, "free must be MixedLMParams"),
        ({"fe_pen": 3}, "fe_pen must be a penalty"),
        ({"cov_pen": "l2"}, "cov_pen must be a penalty"),
    ],
)
def test_other_arguments(arguments, message):
    with pytest.raises(DataError, match=message):
        _model(3).fit(**arguments)
