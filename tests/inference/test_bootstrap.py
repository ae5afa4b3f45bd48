"""Parametric bootstrap for both doors: the law of what is drawn, percentiles, what is counted and refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support import load_data

import mme
from mme.exceptions import InferenceError, OptionError
from mme.inference.bootstrap import percentiles, simulate


def _sleep(**kwargs):
    return mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy"), **kwargs)


def test_simulated_responses_have_the_covariance_of_the_model():
    """Weights, an offset, a slope and a second factor: V = sigma2 (W^-1 + Z D Z') over all rows."""
    data = load_data("sleepstudy").iloc[:40].copy()
    data["w"], data["off"] = 1.0 + data["Days"] % 3, 5.0 * data["Days"]
    data["half"] = data["Days"] % 2
    result = mme.lmer("Reaction ~ Days + (Days | Subject) + (1 | half)", data, weights="w", offset="off")
    fitted, design = result.fitted, result.fitted.design
    rng = np.random.default_rng(0)
    draws = np.array([simulate(design, fitted, rng) for _ in range(20_000)])
    V = np.diag(1.0 / design.weights)
    for term, lam in zip(design.terms, fitted.lam, strict=True):
        Z = np.array([term.times(e) for e in np.eye(term.n_levels * term.k)]).T
        V += Z @ np.kron(np.eye(term.n_levels), lam @ lam.T) @ Z.T
    V *= fitted.sigma2
    mean = design.X @ fitted.beta + design.offset
    se = np.sqrt(np.diag(V) / len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5 * se)
    got, sizes = np.cov(draws.T), np.sqrt(np.diag(V))
    assert np.abs((got - V) / np.outer(sizes, sizes)).max() < 5 / np.sqrt(len(draws)) * 1.5


def test_draws_are_seeded_and_named():
    result = _sleep()
    a, b = result.bootstrap(20, seed=3), result.bootstrap(20, seed=3)
    pd.testing.assert_frame_equal(a.draws, b.draws)
    assert not a.draws.equals(result.bootstrap(20, seed=4).draws)
    assert list(a.draws.columns) == [
        "(Intercept)",
        "Days",
        "sd_(Intercept)|Subject",
        "cor_Days.(Intercept)|Subject",
        "sd_Days|Subject",
        "sigma",
    ]
    assert len(a.draws) + a.failures == 20
    assert "seed 3" in repr(a)


def test_a_draw_is_a_fit_of_its_response():
    result = _sleep()
    draws = result.bootstrap(10, seed=1).draws
    for i, y in result.simulate(2, seed=1).items():
        again = mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy").assign(Reaction=y))
        np.testing.assert_allclose(draws.iloc[i, :2], again.fe_params, rtol=1e-6)
        np.testing.assert_allclose(draws["sigma"].iloc[i], again.sigma, rtol=1e-6)
        np.testing.assert_allclose(
            draws["sd_Days|Subject"].iloc[i], again.varcorr["sdcor"].iloc[1], rtol=1e-4
        )


def test_intervals_are_percentiles():
    result = _sleep()
    boot = result.bootstrap(60, seed=2)
    interval = result.conf_int(0.2, method="boot", parm=["Days", "sigma"], n_boot=60, seed=2)
    expected = boot.draws[["Days", "sigma"]].quantile([0.1, 0.9]).T
    np.testing.assert_allclose(interval, expected)
    pd.testing.assert_frame_equal(interval, boot.conf_int(0.2).loc[["Days", "sigma"]], check_names=False)
    assert "60 fits" in interval.attrs["notes"][0]
    ratio = boot.conf_int(0.2, f=lambda p: {"ratio": p["Days"] / p["sigma"]})
    np.testing.assert_allclose(
        ratio.loc["ratio"], (boot.draws["Days"] / boot.draws["sigma"]).quantile([0.1, 0.9])
    )


def test_bootstrap_of_shares():
    result = _sleep()
    r2 = result.r2(method="boot", n_boot=40, seed=5)
    np.testing.assert_allclose(r2["estimate"], result.r2()["estimate"])
    boot = result.bootstrap(40, seed=5)
    z2 = np.mean(load_data("sleepstudy")["Days"] ** 2)
    zm = np.mean(load_data("sleepstudy")["Days"])
    d = boot.draws
    a, b, r = d["sd_(Intercept)|Subject"], d["sd_Days|Subject"], d["cor_Days.(Intercept)|Subject"]
    random = a**2 + 2 * zm * a * b * r.fillna(0.0) + z2 * b**2
    fixed = d["Days"] ** 2 * np.var(load_data("sleepstudy")["Days"], ddof=1)
    marginal = fixed / (fixed + random + d["sigma"] ** 2)
    np.testing.assert_allclose(r2.loc["marginal", ["lower", "upper"]], marginal.quantile([0.025, 0.975]))
    assert r2.loc["marginal", "se"] == pytest.approx(marginal.std())


def test_boundaries_are_counted():
    """Half of the draws of a variance of zero end at zero."""
    result = mme.lmer("Yield ~ 1 + (1 | Batch)", load_data("Dyestuff2"), reml=False)
    boot = result.bootstrap(200, seed=0)
    zero = boot.draws["sd_(Intercept)|Batch"] == 0.0
    assert boot.singular == zero.sum()
    assert 0.5 < zero.mean() < 0.8
    assert any("singular" in note for note in boot.notes)


def test_both_doors_and_iterative_fits():
    data = load_data("sleepstudy")
    model = mme.MixedLM.from_formula("Reaction ~ Days", data, groups="Subject", re_formula="Days")
    a = model.fit().conf_int(method="boot", n_boot=30, seed=7)
    b = _sleep().conf_int(method="boot", n_boot=30, seed=7)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    plain = mme.lmer("Reaction ~ Days + (1 | Subject)", data)
    rough = mme.lmer("Reaction ~ Days + (1 | Subject)", data, solver="iterative")
    exact = plain.conf_int(method="boot", n_boot=20, seed=7)
    got = rough.conf_int(method="boot", n_boot=20, seed=7)
    np.testing.assert_allclose(got, exact, rtol=0.05)


def test_percentiles_leave_out_what_has_no_value():
    values = np.column_stack([np.arange(21.0), np.r_[np.full(12, np.nan), np.arange(9.0)]])
    got = percentiles(values, 0.1)
    np.testing.assert_allclose(got[0], [1.0, 19.0])
    assert np.isnan(got[1]).all()


def test_refusals():
    result = _sleep()
    with pytest.raises(OptionError, match="n_boot"):
        result.conf_int(method="boot", n_boot=1)
    with pytest.raises(OptionError, match="seed"):
        result.conf_int(method="boot", seed=-1)
    model = mme.MixedLM.from_formula("Reaction ~ Days", load_data("sleepstudy"), groups="Subject")
    with pytest.raises(InferenceError, match="penalties"):
        model.fit_regularized(alpha=1.0).conf_int(method="boot")
