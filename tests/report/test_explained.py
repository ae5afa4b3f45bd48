"""Shares of variance: performance (R), Johnson's formula in the open, both doors, what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support import load_data, read_reference

import mme
from mme.exceptions import InferenceError, OptionError

MODELS = read_reference("r2_icc")
# performance 0.10.2 leaves the slopes of a double bar out: its values are those of the intercepts alone
_INTERCEPT_ALONE = {"sleepstudy_zerocorr"}
_SLOW = {"chem97", "egsingle", "kb_mid"}


def _formula(text: str) -> str:
    return text.replace("factor(", "C(")


def _fit(name: str):
    model = MODELS[name]
    return mme.lmer(_formula(model["formula_r"]), load_data(model["data"]))


def _by_hand(result) -> tuple[float, float, float]:
    """f, r, e with all n rows of Z T Z' in the open."""
    design = result.fitted.design
    fixed = np.var(design.X @ result.fit.beta, ddof=1)
    random = 0.0
    for term, lam in zip(design.terms, result.fit.lam, strict=True):
        z = np.ones((design.n, 1)) if term.columns is None else term.columns
        random += np.mean(np.sum((z @ lam) ** 2, axis=1)) * result.scale
    return fixed, random, result.scale


@pytest.mark.parametrize("name", MODELS)
def test_r2_and_icc_of_performance(name):
    result, expected = _fit(name), MODELS[name]
    r2, icc = result.r2(), result.icc()
    assert list(r2.index) == ["marginal", "conditional"]
    got = [*r2["estimate"], icc.loc["adjusted", "estimate"], icc.loc["unadjusted", "estimate"]]
    f, r, e = _by_hand(result)
    whole = f + r + e
    np.testing.assert_allclose(
        got, [f / whole, (f + r) / whole, r / (r + e), r / whole], rtol=1e-10, atol=1e-14
    )
    theirs = [expected[k] for k in ("r2_marginal", "r2_conditional", "icc_adjusted", "icc_unadjusted")]
    if name in _INTERCEPT_ALONE:
        r = result.varcorr["vcov"].iloc[0]
        whole = f + r + e
        got = [f / whole, (f + r) / whole, r / (r + e), r / whole]
    np.testing.assert_allclose(got, theirs, atol=1e-4)


def test_icc_by_term_adds_up():
    result = mme.lmer("strength ~ 1 + (1 | batch/cask)", load_data("Pastes"))
    icc = result.icc(by_term=True)["estimate"]
    assert list(icc.index) == ["adjusted", "unadjusted", "cask:batch", "batch"]
    assert icc["batch"] + icc["cask:batch"] == pytest.approx(icc["adjusted"])
    v = result.varcorr.set_index("grp")["vcov"]
    assert icc["batch"] == pytest.approx(v["batch"] / v.sum())


def test_both_doors_agree():
    data = load_data("sleepstudy")
    a = mme.lmer("Reaction ~ Days + (Days | Subject)", data)
    b = mme.MixedLM.from_formula("Reaction ~ Days", data, groups="Subject", re_formula="Days").fit()
    np.testing.assert_allclose(a.r2(), b.r2(), rtol=1e-6)
    np.testing.assert_allclose(a.icc(method="delta"), b.icc(method="delta"), rtol=1e-4)


def test_variance_components_count_their_columns():
    data = load_data("Pastes")
    a = mme.lmer("strength ~ 1 + (1 | batch/cask)", data)
    vc = {"cask": "0 + C(cask)"}
    b = mme.MixedLM.from_formula("strength ~ 1", data, groups="batch", re_formula="1", vc_formula=vc).fit()
    np.testing.assert_allclose(a.r2(), b.r2(), rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(a.icc(), b.icc(), rtol=1e-5)


def test_delta_interval_of_a_balanced_icc():
    """One factor, balanced, ML: the information about (variance, sigma2) is known in closed form."""
    result = mme.lmer("Yield ~ 1 + (1 | Batch)", load_data("Dyestuff"), reml=False, tol=1e-12)
    q, n = 6, 5
    v, e = result.varcorr["vcov"]
    m = e + n * v  # expected mean square between
    # independent: m ~ 2 m^2 / q, e ~ 2 e^2 / (q (n - 1)); icc = (m - e) / (m - e + n e)
    d = m + (n - 1) * e
    slope = np.array([n * e / d**2, -n * m / d**2])
    se = np.sqrt(slope**2 @ [2 * m**2 / q, 2 * e**2 / (q * (n - 1))])
    row = result.icc(method="delta", alpha=0.1).loc["adjusted"]
    assert row["estimate"] == pytest.approx(v / (v + e))
    assert row["se"] == pytest.approx(se, rel=1e-6)
    logit = np.log(row["estimate"] / (1 - row["estimate"]))
    half = 1.6448536269514722 * se / (row["estimate"] * (1 - row["estimate"]))
    ends = 1 / (1 + np.exp(-(logit + np.array([-half, half]))))
    np.testing.assert_allclose(row[["lower", "upper"]].astype(float), ends, rtol=1e-6)


def test_share_without_variance_has_no_error():
    result = mme.lmer("Yield ~ 1 + (1 | Batch)", load_data("Dyestuff2"))
    row = result.icc(method="delta").loc["adjusted"]
    assert row["estimate"] == 0.0
    assert np.isnan(row["se"]) and np.isnan(row["lower"])


def test_uncentred_covariates_cost_no_digits():
    data = load_data("sleepstudy")
    far = data.assign(Days=data["Days"] + 1e6)
    near = mme.lmer("Reaction ~ Days + (Days | Subject)", data)
    moved = mme.lmer("Reaction ~ Days + (Days | Subject)", far)
    np.testing.assert_allclose(moved.r2(), near.r2(), rtol=1e-4)


def test_bad_arguments():
    result = mme.lmer("Reaction ~ Days + (1 | Subject)", load_data("sleepstudy"))
    with pytest.raises(OptionError, match="Did you mean 'delta'"):
        result.r2(method="detla")
    with pytest.raises(OptionError, match="alpha"):
        result.icc(method="delta", alpha=1.5)
    iterative = mme.lmer("Reaction ~ Days + (1 | Subject)", load_data("sleepstudy"), solver="iterative")
    assert isinstance(iterative.r2(), pd.DataFrame)
    with pytest.raises(InferenceError, match="factorization"):
        iterative.r2(method="delta")
