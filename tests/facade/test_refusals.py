"""What MixedLM's constructor, fit and results refuse, ignore with a warning, or take in unusual types."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from statsmodels.base import _penalties as penalties
from statsmodels.tools.sm_exceptions import MissingDataError, ValueWarning

import mme
from mme import MixedLMParams
from mme.exceptions import DataError, DesignError, MMEError, NotEnoughDataError

N, GROUPS = 120, 12


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """An intercept and a component within groups, both well inside."""
    rng = np.random.default_rng(4)
    g, a = np.arange(N) % GROUPS, (np.arange(N) // GROUPS) % 3
    x = rng.normal(size=N)
    y = 1.0 + 2.0 * x + rng.normal(size=GROUPS)[g] + rng.normal(size=(GROUPS, 3))[g, a] + rng.normal(size=N)
    return pd.DataFrame({"y": y, "x": x, "g": g, "a": np.array(list("uvw"))[a]})


@pytest.fixture(scope="module")
def model(frame) -> mme.MixedLM:
    return mme.mixedlm("y ~ x", frame, groups="g", re_formula="1", vc_formula={"a": "0 + C(a)"})


def exog_of(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[["x"]].assign(Intercept=1.0)


# -- the constructor -----------------------------------------------------------------------------------------

CONSTRUCTOR = [
    (lambda d, X: mme.MixedLM(d.y, X, d.g, hasconst=True), ValueError, "hasconst not permitted"),
    (lambda d, X: mme.MixedLM(d.y, X, None), AttributeError, "'groups' is required"),
    (lambda d, X: mme.MixedLM(d.y, X, d.g, missing="omit"), ValueError, "not 'omit'"),
    (lambda d, X: mme.MixedLM(d.y, X, d.g[:-1].to_numpy()), DataError, "groups has 119 rows"),
    (lambda d, X: mme.MixedLM(d.y, X[:-1].to_numpy(), d.g), DataError, "exog has 119 rows"),
    (lambda d, X: mme.MixedLM(d.y, X, d.g, exog_re=X[:-2].to_numpy()), DataError, "exog_re has 118 rows"),
    (lambda d, X: mme.MixedLM(d.y, X, np.zeros((N, 2, 2))), DataError, r"one-dimensional; .*\(120, 2, 2\)"),
    (
        lambda d, X: mme.MixedLM(d.y, X, d.g[::-1]),
        DataError,
        "index of groups .*same labels in another order",
    ),
    (lambda d, X: mme.MixedLM(d.y, X, d.g, X[::-1]), DataError, "index of exog_re does not match"),
    (
        lambda d, X: mme.MixedLM(*(v.set_axis(d.x) for v in (d.y, X)), d.g.set_axis(d.y)),
        DataError,
        "other labels",
    ),
    (lambda d, X: mme.MixedLM(d.y, X, d.g.where(d.g > 0)), DataError, "groups has 10 missing labels"),
    (lambda d, X: mme.MixedLM(d.y, X, d.g.where(d.g > 0), missing="raise"), MissingDataError, "10 of 120"),
    (lambda d, X: mme.mixedlm("y ~ x", d), AttributeError, "'groups' is a required keyword"),
    (lambda d, X: mme.mixedlm("y ~ x", d, groups="school"), DataError, "groups='school' is not a column"),
    (lambda d, X: mme.mixedlm("y ~ x", d, groups=d.g[:-1]), DataError, "119 labels but the data have 120"),
    (lambda d, X: mme.mixedlm("y ~ x", d, groups=d.g[::-1]), DataError, "index of groups"),
]


@pytest.mark.parametrize(("make", "error", "message"), CONSTRUCTOR, ids=[c[2] for c in CONSTRUCTOR])
def test_constructor(frame, make, error, message):
    with pytest.raises(error, match=message) as caught:
        make(frame, exog_of(frame))
    assert isinstance(caught.value, error)


FIT = [
    ({"method": "newton"}, "method newton not available"),
    ({"method": "ncg"}, "method ncg not available"),
    ({"method": ["bfgs", "Newton"]}, "method Newton not available"),
    ({"method": "simplex"}, "'simplex' is unknown; choose from bfgs, cg"),
    ({"method": ["bfgs", "simplex"]}, "'simplex' is unknown"),
    ({"start_params": [1.0]}, "1 values; expected 2 .* or 4"),
    ({"start_params": np.ones(3)}, "3 values; expected 2"),
    ({"solver": "lapack"}, "solver must be one of .* not 'lapack'"),
    ({"probes": 1}, "probes must be an integer and at least 2"),
    ({"solver": "iterative", "method": "bfgs"}, "method=bfgs needs the exact likelihood"),
    ({"solver": "iterative", "do_cg": False}, "do_cg=False needs the exact likelihood"),
    ({"solver": "iterative", "fe_pen": penalties.L2()}, "fe_pen needs the exact likelihood"),
    ({"solver": "iterative", "cov_pen": penalties.PSD(1.0)}, "cov_pen needs the exact likelihood"),
    ({"solver": "iterative", "fe_pen": penalties.L2(), "method": "cg"}, "method=cg and fe_pen need"),
]


@pytest.mark.parametrize(("options", "message"), FIT, ids=[c[1] for c in FIT])
def test_fit(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.fit(**options)


def test_a_start_that_is_no_covariance(model):
    negative = MixedLMParams.from_components(np.zeros(2), cov_re=-np.eye(1), vcomp=np.ones(1))
    with pytest.raises(ValueError, match="not positive semidefinite"):
        model.fit(start_params=negative)


def test_an_iterative_fit_refuses_what_holds_a_variance(model):
    free = MixedLMParams.from_components(np.ones(2), cov_re=np.ones((1, 1)), vcomp=np.zeros(1))
    with pytest.raises(ValueError, match="this pattern of free parameters needs the exact likelihood"):
        model.fit(free=free, solver="iterative")


def test_fit_regularized(model):
    with pytest.raises(ValueError, match="regularization method 'ridge'"):
        model.fit_regularized(method="ridge")
    with pytest.raises(ValueError, match="fit_regularized needs the exact likelihood"):
        model.fit_regularized(alpha=1.0, solver="iterative")


DESIGNS = [
    ({"groups": np.zeros(N)}, DesignError, "1 level"),
    ({"groups": np.arange(N)}, DesignError, "120 levels in 120 rows"),
    ({"endog": np.ones(N)}, DesignError, "constant"),
    ({"exog": np.random.default_rng(0).normal(size=(N, N))}, NotEnoughDataError, "120 fixed effects"),
]


@pytest.mark.parametrize(("change", "error", "message"), DESIGNS, ids=[c[2] for c in DESIGNS])
def test_designs_that_cannot_be_estimated(frame, change, error, message):
    arguments = {"endog": frame.y.to_numpy(), "exog": exog_of(frame).to_numpy(), "groups": frame.g.to_numpy()}
    with pytest.raises(error, match=message) as caught:
        mme.MixedLM(**{**arguments, **change}).fit()
    assert isinstance(caught.value, MMEError)


# -- what is ignored with a warning --------------------------------------------------------------------------


def test_niter_sa_is_ignored(model):
    """As statsmodels does; nothing of the fit changes."""
    expected = model.fit()
    with pytest.warns(ValueWarning, match="niter_sa is currently ignored") as caught:
        got = model.fit(niter_sa=3)
    assert len(caught) == 1 and caught[0].filename == __file__
    np.testing.assert_array_equal(got.params, expected.params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(niter_sa=0)


def test_unknown_options_are_ignored_by_name(model):
    expected = model.fit()
    with pytest.warns(
        FutureWarning, match="Arguments nonsense, xtol not used by MixedLM.fit. Known are gtol"
    ):
        got = model.fit(xtol=1e-3, nonsense=1)
    np.testing.assert_array_equal(got.params, expected.params)


def test_disp_prints_how_it_went(model, capsys):
    got = model.fit(disp=True)
    shown = capsys.readouterr().out
    assert f"({got.mle_retvals['evaluations']} evaluations)" in shown and got.mle_retvals["message"] in shown
    model.fit()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["bfgs", "BFGS", "slsqp", "tnc", "cobyla", "trust-constr", "l-bfgs-b"])
def test_methods_by_any_spelling_end_at_the_optimum(model, name):
    expected = model.fit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether scipy's search converged is not the question
        got = model.fit(method=name, maxiter=500)
    assert got.llf == pytest.approx(expected.llf, abs=1e-3)
    assert np.max(np.abs(got.fe_params - expected.fe_params) / expected.bse_fe) < 0.05


# -- Arrow columns -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrow(frame) -> pd.DataFrame:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    return frame.assign(n=np.arange(N) % 7).convert_dtypes(dtype_backend="pyarrow")


FORMULAS = [
    {"groups": "g"},
    {"groups": "g", "re_formula": "~x"},
    {"groups": "g", "re_formula": "1", "vc_formula": {"a": "0 + C(a)"}},
    {"groups": "a"},
    {"groups": ["g", "a"]},
]


@pytest.mark.parametrize("kwargs", FORMULAS, ids=str)
@pytest.mark.parametrize("formula", ["y ~ x", "y ~ x + C(a)", "y ~ n"])
def test_arrow_columns_in_a_formula(frame, arrow, formula, kwargs):
    """Numbers, integers, text: as responses, covariates, factors and groups, the fit of NumPy's columns."""
    if kwargs["groups"] == "a" and "C(a)" in formula:
        formula = "y ~ x + C(g)"  # a factor beside its own groups is refused, as it should be
    plain = frame.assign(n=np.arange(N) % 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mme.facade.fit.BoundaryWarning)
        expected = mme.mixedlm(formula, plain, **kwargs).fit()
        got = mme.mixedlm(formula, arrow, **kwargs).fit()
    assert list(got.params.index) == list(expected.params.index)
    assert_allclose(got.params, expected.params, rtol=1e-12)
    assert_allclose(got.bse_fe, expected.bse_fe, rtol=1e-12)
    assert got.model.group_labels == expected.model.group_labels
    assert_allclose(got.fittedvalues, expected.fittedvalues, rtol=1e-12)
    assert_allclose(got.predict(arrow.head(3)), expected.predict(plain.head(3)), rtol=1e-12)


def test_arrow_columns_as_arrays(frame, arrow):
    X = exog_of(frame)
    expected = mme.MixedLM(frame.y, X, frame.g, exog_re=X).fit()
    columns = arrow[["x"]].assign(Intercept=pd.Series(np.ones(N), dtype="double[pyarrow]"))
    got = mme.MixedLM(arrow["y"], columns, arrow["g"], exog_re=columns).fit()
    assert list(got.params.index) == list(expected.params.index)
    assert_allclose(got.params, expected.params, rtol=1e-12, atol=1e-13)
    assert got.model.group_labels == expected.model.group_labels


def test_arrow_columns_with_missing_values(arrow):
    holes = arrow.copy()
    holes.loc[[3, 8], "x"] = pd.NA
    holes.loc[5, "g"] = pd.NA
    keep = arrow.drop(index=[3, 5, 8])
    expected = mme.mixedlm("y ~ x", keep, groups="g").fit()
    got = mme.mixedlm("y ~ x", holes, groups="g", missing="drop").fit()
    assert got.nobs == N - 3
    assert_allclose(got.params, expected.params, rtol=1e-12)
    with pytest.raises(DataError, match="missing"):
        mme.mixedlm("y ~ x", holes, groups="g")
