"""Designs chosen to break the engine: fits against the dense oracle, and against themselves."""

from __future__ import annotations

import numpy as np
import oracle
import pandas as pd
import pytest
from scipy.optimize import minimize
from support import mark_slow

import mme
from mme.engine.equations.design import Design, RandomTerm
from mme.exceptions import DataError, DesignError
from mme.fit.fit import fit_design

CROSSED = "y ~ x + (x | g) + (1 | h)"
N = 240


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    g, h, x = rng.integers(0, 15, N), rng.integers(0, 8, N), rng.normal(size=N)
    effects = rng.normal(size=15)[g] + 0.6 * rng.normal(size=15)[g] * x + 0.7 * rng.normal(size=8)[h]
    return pd.DataFrame({"y": 1 + 2 * x + effects + rng.normal(size=N), "x": x, "g": g, "h": h})


@pytest.fixture(scope="module")
def base(data):
    return mme.lmer(CROSSED, data)


def _against_oracle(result, starts: int = 3) -> None:
    """Criterion, estimates and modes at the fitted theta, and no better point of the dense likelihood."""
    fit = result.fit
    assert fit.record.converged, fit.record.message
    at = oracle.evaluate(fit.design, fit.theta, fit.reml)
    assert fit.deviance == pytest.approx(at.deviance, rel=1e-9, abs=1e-8)
    assert fit.sigma2 == pytest.approx(at.sigma2, rel=1e-7)
    se = np.sqrt(np.diag(at.vcov_beta))
    np.testing.assert_allclose(result.bse_fe, se, rtol=1e-6)
    np.testing.assert_allclose(fit.beta / se, at.beta / se, rtol=1e-6, atol=1e-6)
    for got, wanted in zip(fit.u, at.u, strict=True):
        scale = np.abs(wanted).max(axis=0) + 1e-300
        np.testing.assert_allclose(np.reshape(got, wanted.shape) / scale, wanted / scale, atol=1e-5)

    # theta in units of a column's root mean square: L-BFGS-B knows nothing of scales
    unit = []
    for term in fit.design.terms:
        z = np.ones((fit.n, 1)) if term.columns is None else term.columns
        size = np.sqrt(np.sum(z * z, axis=0) / term.n_levels)
        entries = oracle.entries(term.k, term.covariance)
        unit += [1.0 / size[row] for row, _ in entries]
    unit = np.array(unit)

    def f(z):
        o = oracle.evaluate(fit.design, oracle.split(fit.design, z * unit), fit.reml)
        return o.deviance, o.gradient * unit

    rng = np.random.default_rng(11)
    theta = oracle.flatten(fit.theta) / unit
    points = [theta + 0.05 * rng.normal(size=theta.size)]
    points += [rng.normal(size=theta.size) for _ in range(starts)]
    best = min(minimize(f, z, jac=True, method="L-BFGS-B").fun for z in points)
    assert fit.deviance <= best + 1e-6, f"{fit.deviance - best:.3g} above the best point found"


# -- symmetries of the likelihood ----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-150, 1e-8, -1.0, 1e8])
def test_response_in_another_unit(data, base, scale):
    got = mme.lmer(CROSSED, data.assign(y=data.y * scale))
    assert got.converged
    assert got.llf + base.fit.nu * np.log(abs(scale)) == pytest.approx(base.llf, rel=1e-10)
    np.testing.assert_allclose(got.fe_params, scale * base.fe_params, rtol=1e-6)
    np.testing.assert_allclose(got.theta, base.theta, rtol=1e-4)


@pytest.mark.parametrize(("shift", "tolerance"), [(1e6, 1e-8), (1e9, 1e-6)])
def test_response_with_a_large_mean(data, base, shift, tolerance):
    """The tolerance is what the data keep: 1e9 leaves 7 digits after the point."""
    got = mme.lmer(CROSSED, data.assign(y=data.y + shift))
    assert got.converged
    assert got.llf == pytest.approx(base.llf, abs=tolerance)
    assert got.fe_params["x"] == pytest.approx(base.fe_params["x"], rel=1e-6)


@pytest.mark.parametrize("scale", [1e-100, 1e-6, 1e6, 1e30])
def test_covariate_in_another_unit(data, base, scale):
    got = mme.lmer(CROSSED, data.assign(x=data.x * scale))
    assert got.converged
    assert got.llf + np.log(scale) == pytest.approx(base.llf, rel=1e-10)
    assert got.fe_params["x"] * scale == pytest.approx(base.fe_params["x"], rel=1e-6)


@pytest.mark.parametrize("shift", [-2000.0, 1e4, 1e5])
def test_uncentred_random_slope(data, base, shift):
    got = mme.lmer(CROSSED, data.assign(x=data.x + shift))
    assert got.converged
    assert got.llf == pytest.approx(base.llf, abs=1e-7)
    assert got.fe_params["x"] == pytest.approx(base.fe_params["x"], rel=1e-6)
    assert got.bse_fe["x"] == pytest.approx(base.bse_fe["x"], rel=1e-4)
    slopes = got.random_effects["g"]["x"]
    np.testing.assert_allclose(slopes, base.random_effects["g"]["x"], atol=1e-4)


def test_rows_levels_and_terms_in_another_order(data, base):
    rng = np.random.default_rng(2)
    names = rng.permutation(15)
    frame = data.assign(g=names[data.g]).sample(frac=1, random_state=3)
    got = mme.lmer("y ~ (1 | h) + x + (x | g)", frame)
    assert got.llf == pytest.approx(base.llf, abs=1e-9)
    np.testing.assert_allclose(got.fittedvalues[data.index], base.fittedvalues, atol=1e-6)
    np.testing.assert_allclose(got.random_effects["g"].loc[names], base.random_effects["g"], atol=1e-6)


def test_one_grouping_under_two_names(data):
    """A flat likelihood where an effect is in both terms; the uncorrelated model where none is."""
    twin = data.assign(twin=np.array(list("qwertyuiopasdfg"))[data.g], x2=3.0 * data.x)
    for formula, words in [
        ("y ~ x + (1 | g) + (1 | twin)", r"'g' and 'twin' are the same 15 groups.*\(Intercept\).*told apart"),
        ("y ~ x + (x | g) + (1 | h) + (1 | twin)", r"'g' and 'twin' are the same 15 groups.*\(Intercept\)"),
        ("y ~ x + (x | twin) + (0 + x | g)", r"'twin' and 'g' are the same 15 groups.*of x by the one"),
        ("y ~ x + (0 + x | twin) + (0 + x2 | g)", r"'twin' and 'g' are the same 15 groups.*of x and x2 by"),
        ("y ~ x + (1 | g / twin)", r"'twin:g' and 'g' are the same 15 groups"),
    ]:
        with pytest.raises(DesignError, match=words):
            mme.lmer(formula, twin)
    apart = mme.lmer("y ~ x + (x || g)", data)
    got = mme.lmer("y ~ x + (1 | g) + (0 + x | twin)", twin)
    assert got.llf == pytest.approx(apart.llf, abs=1e-8)
    np.testing.assert_allclose(got.theta, apart.theta, rtol=1e-5)


# -- optima --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.0, 1e-300, -1.0, 1e6])
def test_far_and_stationary_starts_end_at_the_optimum(data, base, start):
    got = mme.lmer(CROSSED, data, start=np.full(base.theta.size, start))
    assert got.converged
    assert got.llf == pytest.approx(base.llf, abs=1e-7)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(
    "formula",
    ["y ~ year + (year | g)", "y ~ year + (year || g)", "y ~ year + (0 + year | g) + (1 | h)"],
)
def test_calendar_years(data, formula, reml):
    rng = np.random.default_rng(9)
    frame = data.assign(year=2000.0 + rng.integers(0, 21, N))
    _against_oracle(mme.lmer(formula, frame, reml=reml), starts=2)


@pytest.mark.parametrize("seed", range(6))
def test_slope_that_varies_between_groups_only(seed):
    """z is a function of g: the slope and the intercept share their information."""
    rng = np.random.default_rng(seed)
    g = rng.integers(0, 10, 80)
    z = rng.normal(size=10)
    y = z[g] + rng.normal(size=10)[g] * (1 + z[g]) + rng.normal(size=80)
    _against_oracle(mme.lmer("y ~ z + (z | g)", {"y": y, "z": z[g], "g": g}), starts=2)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("sd", [0.0, 1e-3, 1.0, 100.0])
def test_few_levels(levels, sd, reml):
    rng = np.random.default_rng(int(1000 * sd) + levels)
    g = np.arange(30) % levels
    y = sd * rng.normal(size=levels)[g] + rng.normal(size=30)
    _against_oracle(mme.lmer("y ~ 1 + (1 | g)", {"y": y, "g": g}, reml=reml))


def test_weights_over_twelve_decades(data):
    weights = 10.0 ** np.random.default_rng(4).uniform(-6, 6, N)
    got = mme.lmer(CROSSED, data, weights=weights)
    assert got.converged
    at = oracle.evaluate(got.fit.design, got.fit.theta)
    assert got.llf == pytest.approx(-0.5 * at.deviance, rel=1e-10)
    np.testing.assert_allclose(got.bse_fe, np.sqrt(np.diag(at.vcov_beta)), rtol=1e-7)


def test_one_huge_group_and_many_single_rows():
    """Against the one-factor likelihood written out with group sums, minimised in one dimension."""
    from scipy.optimize import minimize_scalar

    rng = np.random.default_rng(8)
    g = np.r_[np.zeros(10_000, int), np.arange(1, 501)]
    x = rng.normal(size=g.size)
    y = x + rng.normal(size=501)[g] + rng.normal(size=g.size)
    got = mme.lmer("y ~ x + (1 | g)", {"y": y, "x": x, "g": g})
    assert got.converged
    A = np.column_stack([np.ones_like(x), x, y])
    sizes, sums = np.bincount(g), np.column_stack([np.bincount(g, weights=c) for c in A.T])
    nu = g.size - 2

    def deviance(theta: float) -> float:
        shrink = theta**2 / (1.0 + sizes * theta**2)
        L = np.linalg.cholesky(A.T @ A - (sums * shrink[:, None]).T @ sums)
        logs = np.log1p(sizes * theta**2).sum() + 2.0 * np.log(np.diag(L)[:2]).sum()
        return logs + nu * (1.0 + np.log(2.0 * np.pi * L[2, 2] ** 2 / nu))

    best = minimize_scalar(deviance, bounds=(1e-3, 10), method="bounded", options={"xatol": 1e-10})
    assert got.fit.deviance == pytest.approx(best.fun, abs=1e-6)
    assert got.theta[0] == pytest.approx(best.x, rel=1e-5)


# -- kinds of columns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recode",
    [
        lambda g: pd.Categorical(g, categories=range(40)),
        lambda g: g.astype(str).astype("string[pyarrow]"),
        lambda g: g.astype("Int64"),
        lambda g: g.astype("int8"),
        lambda g: g + 0.5,
        lambda g: pd.Timestamp("2020-01-01") + pd.to_timedelta(g, unit="D"),
    ],
    ids=["unused categories", "pyarrow strings", "Int64", "int8", "floats", "dates"],
)
def test_grouping_columns_of_any_kind(data, base, recode):
    got = mme.lmer(CROSSED, data.assign(g=recode(data.g)))
    assert got.llf == pytest.approx(base.llf, abs=1e-9)
    assert got.n_groups["g"] == 15


@pytest.mark.parametrize("kind", ["Float64", "double[pyarrow]", "object"])
def test_numeric_columns_of_any_kind(data, base, kind):
    got = mme.lmer(CROSSED, data.astype({"x": kind, "y": kind}))
    assert got.llf == pytest.approx(base.llf, abs=1e-12)


def test_small_integers_do_not_overflow_in_an_interaction(data):
    frame = data.assign(a=data.g.astype("int8"), b=(15 * data.h).astype("int8"))
    got, expected = mme.lmer("y ~ x + (1 | a:b)", frame), mme.lmer("y ~ x + (1 | g:h)", data)
    assert got.n_groups["a:b"] == expected.n_groups["g:h"]
    assert got.llf == pytest.approx(expected.llf, abs=1e-9)


def test_labels_that_hold_the_separator_stay_apart(data):
    """'p:q' with 'r' and 'p' with 'q:r' read the same when joined."""
    frame = data.assign(a=np.where(data.g % 2, "p:q", "p"), b=np.where(data.h % 2, "r", "q:r"))
    got = mme.lmer("y ~ x + (1 | a:b)", frame)
    expected = mme.lmer("y ~ x + (1 | c)", data.assign(c=2 * (data.g % 2) + data.h % 2))
    assert got.n_groups["a:b"] == 4
    assert got.llf == pytest.approx(expected.llf, abs=1e-9)


@pytest.mark.parametrize("kind", ["object", "string[pyarrow]", "category"])
def test_missing_groups_drop_their_rows_everywhere(data, kind):
    frame = data.assign(g=data.g.astype(str).where(data.g > 0, None).astype(kind))
    weights = np.random.default_rng(1).uniform(1, 2, N)
    kept = (data.g > 0).to_numpy()
    got = mme.lmer(CROSSED, frame, weights=weights, missing="drop")
    expected = mme.lmer(CROSSED, data[kept], weights=weights[kept])
    assert got.nobs == kept.sum()
    assert got.llf == pytest.approx(expected.llf, abs=1e-9)


def test_levels_of_mixed_type_are_refused(data):
    mixed = data.g.astype(object).copy()
    mixed[::2] = mixed[::2].astype(str)
    with pytest.raises(DataError, match=r"'g'.*int and str"):
        mme.lmer(CROSSED, data.assign(g=mixed))


# -- values out of range -------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["y", "x"])
@pytest.mark.parametrize("scale", [1e100, 1e200, 1e300])
def test_values_whose_products_overflow_are_refused(data, column, scale):
    with pytest.raises(DataError, match="overflow"):
        mme.lmer(CROSSED, data.assign(**{column: data[column] * scale}))


def test_the_largest_values_that_are_accepted_fit(data, base):
    got = mme.lmer(CROSSED, data.assign(y=data.y * 1e30, x=data.x * 1e30))
    assert got.converged
    assert got.llf + (base.fit.nu + 1) * np.log(1e30) == pytest.approx(base.llf, rel=1e-9)
    assert got.fe_params["x"] == pytest.approx(base.fe_params["x"], rel=1e-6)


@pytest.mark.parametrize("solver", ["direct", "iterative"])
@pytest.mark.parametrize("sd", mark_slow([30.0, 300.0, 1000.0], lambda sd: sd > 30.0))
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_large_variance_beside_one_near_zero(seed, sd, solver):
    """Moments say next to nothing of the small one; the search must find it in a few steps all the same."""
    rng = np.random.default_rng(seed)
    n, levels = 3000, (150, 80)
    codes = [rng.permutation(np.r_[np.arange(q), rng.integers(0, q, n - q)]).astype(np.int32) for q in levels]
    y = 1.0 + sd * rng.normal(size=150)[codes[0]] + rng.normal(size=n)
    terms = [RandomTerm(f"t{i}", c, q) for i, (c, q) in enumerate(zip(codes, levels, strict=True))]
    design = Design(y, np.ones((n, 1)), terms)
    near = fit_design(design, theta0=(np.array([sd]), np.array([0.02])), solver="direct")
    fit = fit_design(design, solver=solver)
    assert near.record.converged and fit.record.converged
    assert fit.record.evaluations <= 20
    assert abs(fit.loglik - near.loglik) < 1e-5 + 4.0 * (
        0.0 if solver == "direct" else fit.monte_carlo.loglik_error
    )
