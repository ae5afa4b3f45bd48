"""compare(): R's anova, nestedness by columns and covariances, both doors, the boundary, what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import oracle
import pandas as pd
import pytest
from scipy import stats

import mme
from mme.exceptions import DataError, InferenceError, OptionError

FORMULAS = [
    "Reaction ~ 1 + (1 | Subject)",
    "Reaction ~ Days + (1 | Subject)",
    "Reaction ~ Days + (Days | Subject)",
]
# anova() of R 4.2.2 with lme4 1.1-31: after refitting by ML, and the last two by REML
ML = {
    "npar": [3, 4, 6],
    "AIC": [1916.54105807306, 1802.07864300523, 1763.93934446321],
    "BIC": [1926.11992862573, 1814.85047040879, 1783.09708556855],
    "logLik": [-955.270529036529, -897.039321502613, -875.969672231605],
    "deviance": [1910.54105807306, 1794.07864300523, 1751.93934446321],
    "Chisq": [np.nan, 116.4624150678328, 42.1392985420164],
    "Df": [np.nan, 1, 2],
    "p": [np.nan, 3.76446147654564e-27, 7.07241254723003e-10],
}
REML = {"Chisq": 42.8368134349691, "Df": 2, "p": 4.99004143060735e-10}


def test_anova_of_r(sleepstudy):
    fits = [mme.lmer(f, sleepstudy) for f in FORMULAS]
    table = mme.compare(*fits, refit="ml")
    assert list(table.columns) == [*ML, "p_boundary"]
    assert list(table.index) == ["r0", "r1", "r2"]
    for column, expected in ML.items():
        np.testing.assert_allclose(table[column], expected, rtol=2e-6, atol=0)
    assert table.attrs["method"] == "ML"
    # a fixed effect has no boundary
    assert table.p_boundary["r1"] == table.p["r1"]
    x = table.Chisq["r2"]
    assert table.p_boundary["r2"] == pytest.approx(0.5 * stats.chi2.sf(x, 1) + 0.5 * stats.chi2.sf(x, 2))
    assert table.attrs["mixtures"] == {"r1": "chi2(1)", "r2": "0.5 chi2(1) + 0.5 chi2(2)"}
    assert table.attrs["notes"] == ()
    last = mme.compare(fits[2], fits[1], names=["slopes", "intercepts"])
    assert list(last.index) == ["intercepts", "slopes"]
    for column, expected in REML.items():
        assert last[column].iloc[1] == pytest.approx(expected, rel=2e-6)
    assert last.attrs["models"]["slopes"] == "Reaction ~ (Intercept) + Days + (Days | Subject)"
    assert last.attrs["method"] == "REML"


def test_both_doors_together(sleepstudy):
    lmer = mme.lmer(FORMULAS[1], sleepstudy)
    other = mme.MixedLM.from_formula(
        "Reaction ~ Days", sleepstudy, groups="Subject", re_formula="~Days"
    ).fit()
    table = mme.compare(other, lmer)
    assert list(table.index) == ["r1", "r0"]
    for column, expected in REML.items():
        assert table[column].iloc[1] == pytest.approx(expected, rel=2e-6)
    ml = mme.compare(other, lmer, refit="ml")
    assert ml.Chisq.iloc[1] == pytest.approx(ML["Chisq"][2], rel=2e-6)
    same = mme.compare(lmer, mme.MixedLM.from_formula("Reaction ~ Days", sleepstudy, groups="Subject").fit())
    assert same.Chisq.iloc[1] == pytest.approx(0.0, abs=1e-6)
    assert np.isnan(same.p.iloc[1])
    assert same.attrs["notes"] == ("r0 in r1: the same model.",)


def _frame(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = 240
    a, b = rng.integers(0, 15, n), rng.integers(0, 3, n)
    f = rng.choice(list("uvw"), n)
    x, z = rng.normal(size=(2, n))
    y = (
        1
        + x
        + (f == "v")
        + rng.normal(size=15)[a]
        + 0.8 * rng.normal(size=(15, 3))[a, b]
        + rng.normal(size=n)
    )
    return pd.DataFrame({"y": y, "a": a, "b": list("klm"[i] for i in b), "f": f, "x": x, "z": z}).assign(
        far=x + 3, w=rng.uniform(0.5, 2.0, n)
    )


def test_reml_of_the_same_columns_in_another_coding():
    """REML log-likelihoods depend on the coding of X; the ratio does not, and the same X is not refused."""
    frame = _frame()
    one = mme.lmer("y ~ f + x + (1 | a)", frame, weights="w")
    sums = mme.lmer("y ~ C(f, contr.sum) + I(2 * far) + (x | a)", frame.assign(w=3 * frame.w), weights="w")
    plain = mme.lmer("y ~ f + x + (x | a)", frame, weights="w")
    assert abs(sums.llf - plain.llf) > 0.1
    table, expected = mme.compare(one, sums), mme.compare(one, plain)
    assert table.Chisq.iloc[1] == pytest.approx(expected.Chisq.iloc[1], abs=1e-6)
    assert table.p_boundary.iloc[1] == pytest.approx(expected.p_boundary.iloc[1], rel=1e-5)
    assert "coded differently" in table.attrs["notes"][0]
    assert expected.attrs["notes"] == ()


NESTED = [
    ("y ~ x + (1 | a)", "y ~ x + (1 | a) + (1 | a:b)", "0.5 chi2(0) + 0.5 chi2(1)"),
    ("y ~ x + (0 + x | a)", "y ~ x + (1 + far | a)", "0.5 chi2(1) + 0.5 chi2(2)"),
    ("y ~ x + (far || a)", "y ~ x + (1 + far | a)", "chi2(1)"),
    # compound symmetry in an unstructured covariance: nothing is at the boundary
    ("y ~ x + (1 | a) + (1 | a:b)", "y ~ x + (b | a)", "chi2(4)"),
    ("y ~ x + (1 | a)", "y ~ x + (0 + b | a)", "chi2(2) + cone of covariances (20000 draws)"),
    ("y ~ x + (1 | a:b)", "y ~ x + (0 + b | a)", "chi2(5)"),
    ("y ~ (1 | a)", "y ~ x + (x | a)", "0.5 chi2(2) + 0.5 chi2(3)"),
]


@pytest.mark.parametrize(("small", "large", "mixture"), NESTED)
def test_nested(small, large, mixture):
    frame = _frame()
    table = mme.compare(*(mme.lmer(f, frame, reml=False) for f in (small, large)))
    assert table.attrs["notes"] == ()
    assert table.attrs["mixtures"]["r1"] == mixture
    assert table.Chisq["r1"] >= 0
    assert table.p["r1"] == pytest.approx(stats.chi2.sf(table.Chisq["r1"], table.Df["r1"]))
    assert table.p_boundary["r1"] <= table.p["r1"]
    if mixture.startswith("chi2") and "cone" not in mixture:
        assert table.p_boundary["r1"] == table.p["r1"]


@pytest.mark.parametrize(
    ("small", "large", "why"),
    [
        ("y ~ z + (1 | a)", "y ~ x + f + (1 | a)", "fixed effects"),
        (
            "y ~ x + (1 | b)",
            "y ~ x + (x | a)",
            "random effects of the smaller model are not among the larger's",
        ),
        ("y ~ x + (0 + x | a)", "y ~ x + (1 | a) + (0 + z | a)", "random effects of the smaller"),
        ("y ~ x + (x | a)", "y ~ x + f + (far || a)", "random effects of the smaller"),
    ],
)
def test_not_nested(small, large, why):
    frame = _frame()
    table = mme.compare(*(mme.lmer(f, frame, reml=False) for f in (small, large)))
    assert np.isnan(table.p["r1"]) and np.isnan(table.p_boundary["r1"])
    assert f"r0 in r1: not nested ({why}" in table.attrs["notes"][0]
    assert table.Chisq["r1"] == pytest.approx(2 * (table.logLik["r1"] - table.logLik["r0"]))


@pytest.mark.filterwarnings("ignore::mme.exceptions.FlatLikelihoodWarning")
def test_what_cannot_be_told():
    """Groups of two kinds: their covariance with the intercept is not told, and nothing can be matched."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(30), 6)
    frame = pd.DataFrame({"g": g, "z": (np.arange(30) % 3 == 0)[g] * 1}).assign(other=lambda d: 1 - d.z)
    frame["y"] = frame.z + rng.normal(size=30)[g] * (1 + frame.z) + rng.normal(size=180)
    small = mme.lmer("y ~ z + (0 + other | g)", frame)
    table = mme.compare(small, mme.lmer("y ~ z + (z | g)", frame))
    assert "cannot be told to be nested" in table.attrs["notes"][0]
    assert np.isnan(table.p["r1"])
    assert mme.compare(small, mme.lmer("y ~ z + (0 + z | g) + (0 + other | g)", frame)).p["r1"] < 1


def test_singular_smaller_model_is_noted():
    frame = _frame().assign(y=lambda d: np.random.default_rng(7).normal(size=240))
    frame["y"] -= frame.groupby("a").y.transform("mean")
    table = mme.compare(mme.lmer("y ~ x + (1 | a)", frame), mme.lmer("y ~ x + (x | a)", frame))
    assert "the smaller model is singular" in table.attrs["notes"][0]
    assert table.attrs["mixtures"]["r1"] == "0.5 chi2(1) + 0.5 chi2(2)"
    assert 0 <= table.p_boundary["r1"] <= table.p["r1"]


def test_larger_model_at_a_lower_optimum(sleepstudy):
    """A search that was ended too soon: no negative statistic, and a note."""
    small = mme.lmer(FORMULAS[1], sleepstudy)
    with pytest.warns(mme.exceptions.ConvergenceWarning):
        large = mme.lmer(FORMULAS[2], sleepstudy, start=[0.01, 0.0, 5.0], max_evaluations=1)
    assert large.llf < small.llf - 1
    table = mme.compare(small, large)
    assert (table.Chisq["r1"], table.p_boundary["r1"], table.p["r1"]) == (0.0, 1.0, 1.0)
    assert table.attrs["notes"][0] == "r1 has not converged."
    assert "lower log-likelihood" in table.attrs["notes"][1]
    own = large.ranova()
    assert own.attrs["notes"][0] == "The fit has not converged."
    assert "lower log-likelihood" in own.attrs["notes"][1]
    test = large.test_variance("Days in (Days | Subject)", method="mixture")
    assert "lower log-likelihood" in test.attrs["notes"][1]


def test_negative_variances_would_be_needed():
    """The covariances of (0 + s | a) + (1 | a) with s = 2 - x are not those of independent 1 and x."""
    rng = np.random.default_rng(1)
    frame = _frame().assign(s=lambda d: 2 - d.x)
    # between members of a pair, and between pairs: a difference of variances either way
    frame["pair"], frame["one"] = np.arange(240) // 2, np.arange(240)
    frame["y"] = frame.y + rng.normal(size=120)[frame.pair]
    frame["sign"] = np.where(np.arange(240) % 2, 1.0, -1.0)
    differs = mme.lmer("y ~ x + (0 + sign | pair)", frame, reml=False)
    common = mme.lmer("y ~ x + z + (1 | pair)", frame, reml=False)
    # sign sign' = 2 I - 1 1' within a pair: in the linear span, with a negative coefficient
    table = mme.compare(differs, common)
    assert "negative variances" in table.attrs["notes"][0]
    assert np.isnan(table.p.iloc[1])


@pytest.mark.filterwarnings("ignore::mme.exceptions.FlatLikelihoodWarning")
def test_offset_is_a_coefficient_held():
    frame = _frame()
    held = mme.lmer("y ~ offset(2 * x) + (1 | a)", frame, reml=False)
    free = mme.lmer("y ~ x + (1 | a)", frame, reml=False)
    table = mme.compare(held, free)
    assert table.p["r1"] == pytest.approx(stats.chi2.sf(table.Chisq["r1"], 1))
    other = mme.lmer("y ~ z + (1 | a)", frame, reml=False)
    assert "not nested (fixed" in mme.compare(held, other).attrs["notes"][0]
    with pytest.raises(OptionError, match="different fixed effects"):
        mme.compare(*(mme.lmer(f"y ~ {o} z + (1 | a)", frame) for o in ("", "offset(2 * x) +")))


def test_two_variances_are_weighted_by_their_information():
    """Weights from the angle between two variances in the dense information under the hypothesis."""
    frame = _frame()
    small, large = (
        mme.lmer(f, frame, weights="w") for f in ("y ~ x + (1 | a)", "y ~ x + (1 | a) + (1 | a:b) + (1 | f)")
    )
    table = mme.compare(small, large)
    design, fit = large.fit.design, small.fit
    n = design.n
    names = large.fitted.labels.terms
    G = [np.sum(oracle.dense_z(t, n), axis=2) for t in design.terms]
    G = [z @ z.T for z in G] + [np.diag(1 / design.weights)]
    a = [label.group for label in names].index("a")
    V = fit.sigma2 * (float(fit.lam[0][0, 0]) ** 2 * G[a] + G[-1])
    Vi = np.linalg.inv(V)
    P = Vi - Vi @ design.X @ np.linalg.inv(design.X.T @ Vi @ design.X) @ design.X.T @ Vi
    information = np.array([[np.trace(P @ g @ P @ h) / 2 for g in G] for h in G])
    tested = [i for i in range(3) if i != a]
    C = np.linalg.inv(information)[np.ix_(tested, tested)]
    both = 0.25 + np.arcsin(C[0, 1] / np.sqrt(C[0, 0] * C[1, 1])) / (2 * np.pi)
    x = table.Chisq.iloc[1]
    expected = 0.5 * stats.chi2.sf(x, 1) + both * stats.chi2.sf(x, 2)
    assert table.p_boundary.iloc[1] == pytest.approx(expected, rel=1e-6)
    assert table.attrs["errors"] == {"r1": 0.0}


def test_iterative_fits_show_their_error(sleepstudy):
    rng = np.random.default_rng(0)
    n = 3000
    frame = pd.DataFrame(
        {"a": rng.integers(0, 150, n), "b": rng.integers(0, 120, n), "x": rng.normal(size=n)}
    )
    frame["y"] = rng.normal(size=150)[frame.a] + rng.normal(size=120)[frame.b] + rng.normal(size=n)
    small = mme.lmer("y ~ x + (1 | a)", frame)
    large = mme.lmer("y ~ x + (1 | a) + (1 | b)", frame, solver="iterative", seed=1)
    exact = mme.lmer("y ~ x + (1 | a) + (1 | b)", frame)
    table = mme.compare(small, large)
    error = large.fit.monte_carlo.loglik_error
    expected = mme.compare(small, exact)
    if error > 0:
        assert table.Chisq_error.iloc[1] == 2 * error
        assert "Monte Carlo standard error" in table.attrs["notes"][0]
    assert table.Chisq.iloc[1] == pytest.approx(expected.Chisq.iloc[1], abs=8 * error + 0.02)
    assert "Chisq_error" not in expected
    ml = mme.compare(small, large, refit="ml")
    assert ml.attrs["method"] == "ML"
    # two variances need the information, which has no factorization to come from
    frame["c"] = rng.integers(0, 20, n)
    two = mme.lmer("y ~ x + (1 | a) + (1 | b) + (1 | c)", frame, solver="iterative", seed=1)
    table = mme.compare(small, two)
    assert np.isnan(table.p_boundary.iloc[1]) and table.p.iloc[1] < 1e-10
    assert "p_boundary is missing after an iterative fit" in table.attrs["notes"][-1]


def test_refusals(sleepstudy):
    fits = [mme.lmer(f, sleepstudy) for f in FORMULAS]
    with pytest.raises(OptionError, match=r"r0 and r1 have different fixed effects.*refit='ml'"):
        mme.compare(fits[0], fits[1])
    with pytest.raises(OptionError, match="r0 by REML, r1 by ML"):
        mme.compare(fits[1], mme.lmer(FORMULAS[2], sleepstudy, reml=False))
    with pytest.raises(OptionError, match="refit='reml' is not known"):
        mme.compare(*fits, refit="reml")
    with pytest.raises(OptionError, match="at least two"):
        mme.compare(fits[0])
    with pytest.raises(OptionError, match="r1 is a str"):
        mme.compare(fits[0], FORMULAS[1])
    with pytest.raises(OptionError, match="3 different names"):
        mme.compare(*fits, names=["a", "b", "a"], refit="ml")
    fewer = mme.lmer(FORMULAS[2], sleepstudy[:-1])
    with pytest.raises(DataError, match="different rows, 180 and 179"):
        mme.compare(fits[1], fewer)
    other = mme.lmer(FORMULAS[2], sleepstudy.assign(Reaction=np.log(sleepstudy.Reaction)))
    with pytest.raises(DataError, match="different responses"):
        mme.compare(fits[1], other)
    turned = mme.lmer(FORMULAS[2], sleepstudy[::-1])
    with pytest.raises(DataError, match="different orders of rows"):
        mme.compare(fits[1], turned)
    weighted = mme.lmer(FORMULAS[2], sleepstudy, weights=np.arange(1.0, 181.0))
    with pytest.raises(DataError, match="different weights"):
        mme.compare(fits[1], weighted)
    model = mme.MixedLM.from_formula("Reaction ~ Days", sleepstudy, groups="Subject")
    with pytest.raises(InferenceError, match=r"r1 needs the maximum of the likelihood.*penalties"):
        mme.compare(fits[1], model.fit_regularized(alpha=0.1))


def test_importing_mme_loads_no_comparison_and_no_scipy_stats():
    code = "import sys, mme; mme.lmer; print([m for m in ('scipy.stats',) if m in sys.modules]); mme.compare"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
