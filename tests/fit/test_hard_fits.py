"""Fits of hard small designs: huge ratios, other modes, flat likelihoods, exact fits, extreme units."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from support import HERE, mark_slow

import mme
from mme.exceptions import DataError, FlatLikelihoodWarning, PerfectFitError, PerfectFitWarning


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


# -- designs of benchmarks/hard_designs.py on which fits once failed -----------------------------------------


def _frozen() -> list[dict]:
    path = HERE / "reference" / "hard_designs.json.gz"
    with gzip.open(path, "rt") as file:
        return json.load(file)


FROZEN = _frozen()
SECONDS = {233, 376, 827, 1175, 1391}  # numbers of those that take long


@pytest.mark.filterwarnings("ignore::mme.exceptions.FlatLikelihoodWarning")
@pytest.mark.parametrize(
    "case",
    mark_slow(FROZEN, lambda case: case["number"] in SECONDS),
    ids=[f"{c['number']} {c['family']}: {c['defect']}" for c in FROZEN],
)
def test_hard_designs_end_at_the_best_optimum(case):
    data = pd.DataFrame(case["data"])
    if case["llf"] is None:
        with pytest.raises(PerfectFitError):
            mme.lmer(case["formula"], data, case["reml"], weights=case["weights"])
        return
    fit = mme.lmer(case["formula"], data, case["reml"], weights=case["weights"])
    assert fit.converged, fit.fit_info["message"]
    # either side: neither short of the optimum, nor a value that rounding has raised
    np.testing.assert_allclose(fit.llf, case["llf"], rtol=0, atol=2e-6)


# -- other modes ---------------------------------------------------------------------------------------------


def _two_modes() -> pd.DataFrame:
    case = next(c for c in FROZEN if c["number"] == 801)
    return pd.DataFrame(case["data"])


def test_a_scalar_term_is_looked_at_over_the_whole_half_line():
    """Two minima: one at a variance of zero, one inside. Both are seen, from either start."""
    data = _two_modes()
    fit = mme.lmer("y ~ 1 + (1 | g)", data, reml=False, weights="w")
    assert fit.fit_info["modes"] == 2
    assert "2 minima" in str(fit.summary())
    settings = {"reml": False, "weights": "w"}
    ends = {round(mme.lmer("y ~ 1 + (1 | g)", data, start=[s], **settings).llf, 5) for s in (0.0, 1.0)}
    assert ends == {-197.93219, -198.57011}
    np.testing.assert_allclose(fit.llf, max(ends), atol=1e-5)


def test_starts_that_are_asked_for(sleep):
    fit = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep, starts=5)
    assert (fit.fit_info["starts"], fit.fit_info["modes"]) == (5, 1)
    assert fit.fit_info["all_evaluations"] > fit.fit_info["evaluations"]
    with pytest.raises(TypeError, match="starts must be a positive integer"):
        mme.lmer("Reaction ~ Days + (Days | Subject)", sleep, starts=0)


# -- flat likelihoods ----------------------------------------------------------------------------------------


def test_a_flat_likelihood_is_named():
    """One of two levels has no rows with w = 1: three covariance parameters, one degree of freedom."""
    rng = np.random.default_rng(0)
    c = np.arange(60) % 2
    w = np.where(c == 0, (np.arange(60) // 2) % 2, 0)
    data = pd.DataFrame({"y": rng.normal(size=60) + c, "c": c, "w": w})
    with pytest.warns(FlatLikelihoodWarning, match=r"tell the covariance of .*standard errors of w depend"):
        fit = mme.lmer("y ~ w + (w | c)", data)
    # the one contrast between the levels tells the variance of their intercepts, in the units of the data
    assert fit.fit_info["flat"] == ("covariance of (Intercept) and w by c", "variance of w by c")
    assert fit.fit_info["flat_fixed"] == ("w",)
    assert "Flat likelihood" in str(fit.summary())
    with pytest.warns(FlatLikelihoodWarning):
        mme.MixedLM.from_formula("y ~ w", data, groups="c", re_formula="~w").fit()


def test_an_ordinary_likelihood_is_not_called_flat(sleep):
    assert mme.lmer("Reaction ~ Days + (Days | Subject)", sleep).fit_info["flat"] == ()


@pytest.mark.parametrize("seed", range(4))
def test_variances_that_trade_off_along_a_line(seed):
    """1 and x hardly differ: the sum of two variances is told, neither of them is, and the search ends."""
    rng = np.random.default_rng([12, seed])
    g = np.arange(60) % 5
    data = pd.DataFrame({"y": 50 * rng.normal(size=5)[g] + rng.normal(size=60), "g": g})
    data["x"] = 1e9 + np.arange(60) % 4
    with pytest.warns(FlatLikelihoodWarning, match="variance of x by g"):
        fit = mme.lmer("y ~ 1 + (x || g)", data, reml=False)
    assert fit.converged, fit.fit_info["message"]
    assert len(fit.fit_info["flat"]) == 2
    np.testing.assert_allclose(fit.llf, mme.lmer("y ~ 1 + (1 | g)", data, reml=False).llf, rtol=0, atol=1e-5)


def test_a_direction_that_the_fixed_effects_make_up_for():
    """A singular term 1e6 times the residual's size: Newton steps turn it by one residual sd at a time."""
    data = pd.DataFrame(
        {
            "g": [0, 0, 2, 4, 0, 0, 0, 0, 0],
            "x": [0.0, 1, 0, 1, 0, 1, 1, 0, 0],
            "y": 1736237 + np.array([1.0, 0, -807919, -1791176, 0.2, 0, 1, -0.3, -2]),
        }
    )
    fit = mme.lmer("y ~ 0 + x + (x | g)", data, reml=False)
    assert fit.converged, fit.fit_info["message"]
    # no start ends higher: a search over the dense likelihood from 150 starts
    np.testing.assert_allclose(fit.llf, -55.070014, rtol=0, atol=1e-5)


# -- responses that the model explains exactly ---------------------------------------------------------------


def _constant_in_groups() -> tuple[pd.DataFrame, np.ndarray, np.ndarray, float]:
    """Data, and coefficients, standard errors and variance of the regression of the group means."""
    rng = np.random.default_rng(3)
    q = 40
    t, mean = np.arange(q) % 2, rng.normal(size=q)
    data = pd.DataFrame({"y": np.repeat(mean, 5), "t": np.repeat(t, 5), "g": np.repeat(np.arange(q), 5)})
    X = np.column_stack([np.ones(q), t])
    beta, rss = np.linalg.lstsq(X, mean)[:2]
    variance = rss[0] / (q - 2)
    return data, beta, np.sqrt(variance * np.diag(np.linalg.inv(X.T @ X))), variance


def test_an_exact_response_is_an_error_or_the_limit_at_lmers_door():
    data, beta, se, variance = _constant_in_groups()
    with pytest.raises(PerfectFitError):
        mme.lmer("y ~ t + (1 | g)", data)
    with pytest.warns(PerfectFitWarning, match="explains the response exactly"):
        fit = mme.lmer("y ~ t + (1 | g)", data, perfect="limit")
    assert not fit.converged
    assert fit.llf == np.inf
    np.testing.assert_allclose(fit.fe_params, beta, rtol=1e-6)
    np.testing.assert_allclose(fit.bse_fe, se, rtol=1e-6)
    np.testing.assert_allclose(fit.varcorr["vcov"][0], variance, rtol=1e-6)
    np.testing.assert_allclose(fit.fittedvalues, data["y"], rtol=1e-6)


@pytest.mark.parametrize("method", [None, "bfgs", ["lbfgs", "powell"]])
@pytest.mark.parametrize("start", [None, [0.0, 0.0, 1.0]])
def test_an_exact_response_is_the_limit_at_mixedlms_door(method, start):
    data, beta, se, variance = _constant_in_groups()
    model = mme.MixedLM.from_formula("y ~ t", data, groups="g")
    with pytest.warns(PerfectFitWarning):
        fit = model.fit(method=method, start_params=None if start is None else np.array(start))
    assert not fit.converged
    assert fit.llf == np.inf
    np.testing.assert_allclose(fit.fe_params, beta, rtol=1e-6)
    np.testing.assert_allclose(fit.bse_fe, se, rtol=1e-6)
    np.testing.assert_allclose(fit.cov_re.iloc[0, 0], variance, rtol=1e-6)
    assert fit.scale < 1e-7
    with pytest.raises(PerfectFitError, match="no profile"):
        fit.profile_re(0, vtype="re", num_low=1, num_high=1, dist_low=0.1, dist_high=0.1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("origin", [0.0, 1e4, 1e8, 1e11])
def test_an_exact_response_far_from_its_origin(origin, weighted):
    """What is left of it is the rounding of its values: no residual variance to be estimated."""
    rng = np.random.default_rng(8)
    g = np.arange(40) % 7
    y = origin + rng.normal(size=7)[g]
    data = pd.DataFrame({"y": y, "x": rng.normal(size=40), "g": g, "w": 10.0 ** rng.uniform(-3, 3, 40)})
    with pytest.raises(PerfectFitError):
        mme.lmer("y ~ x + (1 | g)", data, weights="w" if weighted else None)
    noise = 1e-6 + 1e-14 * origin  # some hundred times the rounding is an ordinary residual
    data["y"] = y + noise * rng.normal(size=40)
    assert 0.3 < mme.lmer("y ~ x + (1 | g)", data).scale / noise**2 < 3.0


@pytest.mark.parametrize("ratio", [1.0, 1e3, 1e4])
def test_the_limit_hides_no_small_term_beside_a_large_one(ratio):
    """Three crossed factors, each with all its levels told: variances are those of the effects themselves."""
    rng = np.random.default_rng(99)
    n, levels = 70, (6, 5, 7)
    codes = [rng.integers(0, q, n) for q in levels]
    x = rng.normal(size=n)
    effects = [scale * rng.normal(size=q) for q, scale in zip(levels, (1.0, ratio, 1.0), strict=True)]
    y = sum(u[c] for u, c in zip(effects, codes, strict=True)) - 0.3 * x
    data = pd.DataFrame(dict(zip("yxghk", (y, x, *codes), strict=True)))
    with pytest.warns(PerfectFitWarning):
        fit = mme.lmer("y ~ x + (1 | g) + (1 | h) + (1 | k)", data, perfect="limit")
    found = dict(zip(fit.varcorr["grp"], fit.varcorr["vcov"], strict=True))
    for name, u in zip("ghk", effects, strict=True):
        np.testing.assert_allclose(found[name], u.var(ddof=1), rtol=1e-5)
    np.testing.assert_allclose(fit.fe_params["x"], -0.3, rtol=1e-5)
    model = mme.MixedLM.from_formula(
        "y ~ x", data.assign(all=1), groups="all", re_formula="0",
        vc_formula={name: f"0 + C({name})" for name in "ghk"},
    )  # fmt: skip
    if ratio < 1e3:
        with pytest.warns(PerfectFitWarning):
            np.testing.assert_allclose(model.fit().vcomp, [found[name] for name in "ghk"], rtol=1e-2)
    else:
        with pytest.raises(PerfectFitError, match="so different variances"):
            model.fit()


def test_fixed_effects_that_explain_everything_are_an_error_at_both_doors(sleep):
    data = sleep.assign(y=1.0 + 2.0 * sleep["Days"])
    with pytest.raises(PerfectFitError):
        mme.lmer("y ~ Days + (1 | Subject)", data, perfect="limit")
    with pytest.raises(PerfectFitError):
        mme.MixedLM.from_formula("y ~ Days", data, groups="Subject").fit()


@pytest.mark.parametrize("seed", range(6))
def test_a_response_in_the_span_of_random_effects_is_always_an_error(seed):
    """Two crossed factors whose effects are the response: never a fit that has not converged."""
    rng = np.random.default_rng(seed)
    g, h = np.divmod(np.arange(48), 8)
    x = rng.normal(size=48)
    y = rng.normal(size=6)[g] + 1e3 * rng.normal(size=8)[h] + 0.5 * x
    data = pd.DataFrame({"y": y, "x": x, "g": g, "h": h})
    for formula in ("y ~ x + (1 | g) + (1 | h)", "y ~ (x | g) + (1 | h)"):
        with pytest.raises(PerfectFitError):
            mme.lmer(formula, data)
