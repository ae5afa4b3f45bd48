"""Weights and an offset of MixedLM: lmer's numbers, and what goes back to rows or to the likelihood."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from support import load_data

import mme
from mme.exceptions import DataError, OptionError


@pytest.fixture(scope="module")
def data():
    out = load_data("trial")
    out["w"] = 0.5 + np.arange(len(out)) % 4
    out["o"] = 2.0 * out["time"]
    return out


def pair(data, reml=True, **options):
    ours = mme.MixedLM.from_formula(
        "score ~ baseline + visit", data, groups="patient", re_formula="~time", **options
    ).fit(reml=reml)
    theirs = mme.lmer("score ~ baseline + visit + (time | patient)", data, reml=reml, **options)
    return ours, theirs


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize(
    "options", [{"weights": "w"}, {"offset": "o"}, {"weights": "w", "offset": "o"}], ids=["w", "o", "both"]
)
def test_numbers_of_lmer(data, reml, options):
    ours, theirs = pair(data, reml, **options)
    assert ours.llf == pytest.approx(theirs.llf, abs=1e-8)
    # two searches, each to 1e-8 of the deviance: its root is what is left in the variances
    assert ours.scale == pytest.approx(theirs.scale, rel=2e-5)
    np.testing.assert_allclose(ours.fe_params, theirs.fe_params, rtol=1e-5)
    np.testing.assert_allclose(ours.fittedvalues, theirs.fittedvalues, rtol=1e-4)
    np.testing.assert_allclose(ours.resid, theirs.resid, atol=1e-4)
    modes = np.array([v.to_numpy() for v in ours.random_effects.values()])
    np.testing.assert_allclose(modes, theirs.ranef["patient"], atol=1e-4)
    np.testing.assert_allclose(ours.coef_table()["df"], theirs.coef_table()["df"], rtol=1e-3)
    np.testing.assert_allclose(ours.residuals("pearson"), theirs.residuals("pearson"), atol=1e-4)
    new = data.head(4)
    a, b = (r.get_prediction(new) for r in (ours, theirs))
    np.testing.assert_allclose(a.predicted_mean, b.predicted_mean, rtol=1e-4)
    np.testing.assert_allclose(a.se_obs, b.se_obs, rtol=1e-4)


def test_arrays_are_columns(data):
    one, _ = pair(data, weights="w", offset="o")
    two, _ = pair(data, weights=data["w"].to_numpy(), offset=data["o"])
    plain = mme.MixedLM(
        data["score"],
        np.column_stack([np.ones(len(data)), data[["baseline", "visit"]]]),
        data["patient"],
        exog_re=np.column_stack([np.ones(len(data)), data["time"]]),
        weights=data["w"],
        offset=data["o"].to_numpy(),
    ).fit()
    assert one.llf == two.llf
    assert plain.llf == pytest.approx(one.llf, abs=1e-9)


def test_components(data):
    model = mme.MixedLM.from_formula(
        "score ~ visit", data, groups="site", vc_formula={"patient": "0 + C(patient)"}, weights="w"
    )
    assert "Intercept" in model.exog_names
    got = model.fit(reml=False)
    want = mme.lmer("score ~ visit + (1 | patient)", data, reml=False, weights="w")
    assert got.llf == pytest.approx(want.llf, abs=1e-7)


def test_likelihood_and_its_derivatives(data):
    """loglike at the estimates, and the score in the variance elsewhere, by differences."""
    model = mme.MixedLM.from_formula("score ~ visit", data, groups="patient", weights="w", offset="o")
    fit = model.fit(reml=False)
    params = fit.params_object
    assert model.loglike(params, profile_fe=False) == pytest.approx(fit.llf, abs=1e-9)
    moved = params.copy()
    moved.cov_re = params.cov_re * 1.3
    packed = moved.get_packed(use_sqrt=False)
    model.use_sqrt = False
    score = model.score(packed, profile_fe=False)
    numeric = []
    for j in range(packed.size):
        step = np.zeros(packed.size)
        step[j] = 1e-5
        up, down = (model.loglike(packed + s * step, profile_fe=False) for s in (1, -1))
        numeric.append((up - down) / 2e-5)
    np.testing.assert_allclose(score[-1:], numeric, rtol=1e-5, atol=1e-5)


def test_missing_and_subset(data):
    gaps = data.copy()
    gaps.loc[3, "w"] = np.nan
    gaps.loc[7, "o"] = np.nan
    rows = data.drop(index=[3, 7])
    got = mme.MixedLM.from_formula(
        "score ~ visit", gaps, groups="patient", weights="w", offset="o", missing="drop"
    ).fit()
    want = mme.lmer("score ~ visit + (1 | patient)", rows, weights="w", offset="o")
    assert got.nobs == len(rows)
    assert got.llf == pytest.approx(want.llf, abs=1e-8)
    keep = (data["arm"] != "low").to_numpy()
    part = mme.MixedLM.from_formula(
        "score ~ visit", data, groups="patient", weights=data["w"].to_numpy(), subset=keep
    ).fit()
    assert part.llf == pytest.approx(
        mme.lmer("score ~ visit + (1 | patient)", data[keep], weights="w").llf, abs=1e-8
    )
    arrays = mme.MixedLM(
        gaps["score"], np.ones(len(gaps)), gaps["patient"], weights=gaps["w"], missing="drop"
    )
    assert arrays.nobs == len(gaps) - 1 and arrays.weights.size == arrays.nobs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "nothing"}, "weights='nothing' is not a column"),
        ({"weights": "arm"}, "weights='arm' is not numeric"),
        ({"weights": [1.0, 2.0]}, "weights has shape"),
        ({"weights": -1.0 * np.ones(169)}, "weights must be positive"),
        ({"offset": np.full(169, np.nan)}, "offset has 169 missing"),
    ],
)
def test_refused(data, options, message):
    with pytest.raises(DataError, match=message):
        mme.MixedLM.from_formula("score ~ visit", data, groups="patient", **options).fit()


def test_series_of_another_index(data):
    with pytest.raises(DataError, match="index of weights"):
        mme.MixedLM.from_formula(
            "score ~ visit", data, groups="patient", weights=data["w"].sample(frac=1.0, random_state=1)
        )


def test_new_models_and_storage(data):
    fit, _ = pair(data, weights="w", offset="o")
    again = fit.refit(fit.model.endog)
    assert again.llf == pytest.approx(fit.llf, abs=1e-8)
    less = fit.update(weights=None)
    assert less.model.weights is None and less.model.offset is not None
    stored = pickle.loads(pickle.dumps(fit))
    assert stored.llf == fit.llf
    np.testing.assert_allclose(stored.fittedvalues, fit.fittedvalues)
    kwds = fit.model._get_init_kwds()
    np.testing.assert_array_equal(kwds["weights"], data["w"])
    twin = type(fit.model)(fit.model.endog, fit.model.exog, **kwds).fit()
    assert twin.llf == pytest.approx(fit.llf, abs=1e-8)


def test_simulated_responses(data):
    fit, theirs = pair(data, weights="w", offset="o")
    one = fit.simulate(600, seed=2)
    spread = np.asarray(one.std(axis=1))
    expected = np.asarray(theirs.simulate(600, seed=5).std(axis=1))
    np.testing.assert_allclose(spread, expected, rtol=0.25)
    np.testing.assert_allclose(one.mean(axis=1), fit.predict(), atol=0.9)
    draws = np.array([fit.model.get_distribution(fit.params, fit.scale).rvs(rng=i) for i in range(300)])
    np.testing.assert_allclose(draws.mean(axis=0), fit.predict(), atol=1.2)


def test_without_weights_nothing_moves(data):
    plain = mme.MixedLM.from_formula("score ~ visit", data, groups="patient").fit()
    ones = mme.MixedLM.from_formula("score ~ visit", data, groups="patient", weights=np.ones(len(data))).fit()
    assert ones.llf == pytest.approx(plain.llf, abs=1e-9)
    assert list(plain.model.data.frame.columns) == list(pd.DataFrame(data).columns)


@pytest.mark.parametrize("name", ["residual", "dispersion", "relationship"])
def test_what_lmer_alone_has_is_refused_by_fit(name):
    """statsmodels warns and fits without: that would be another model than the one asked for."""
    sleep = load_data("sleepstudy")
    model = mme.mixedlm("Reaction ~ Days", sleep, groups="Subject")
    with pytest.raises(OptionError, match=f"MixedLM.fit has no {name}: .*mme.lmer"):
        model.fit(**{name: "x"})
