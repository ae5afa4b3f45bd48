"""tidy(), glance() and augment() against lme4 1.1-31 in R, in broom.mixed's columns.

lme4's search had tolerances of 1e-13, without which its sixth digits are its own.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from support import inference_reference, load_data

import mme
from mme.exceptions import DataError, InferenceError, OptionError

SLOPE = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def sleep():
    return pd.read_csv(mme.data_path("sleepstudy.csv"))


@pytest.fixture(scope="module")
def both(sleep):
    door = mme.mixedlm("Reaction ~ Days", sleep, groups="Subject", re_formula="~Days").fit()
    return mme.lmer(SLOPE, sleep), door


def test_tidy_as_broom_mixed(both):
    got = both[0].tidy(conf_int=True)
    assert got.columns.tolist() == [
        "effect", "group", "term", "estimate", "std.error", "statistic", "df", "p.value",
        "conf.low", "conf.high",
    ]  # fmt: skip
    assert got["effect"].tolist() == ["fixed"] * 2 + ["ran_pars"] * 4
    assert got["group"].tolist() == [None, None, "Subject", "Subject", "Subject", "Residual"]
    assert got["term"].tolist() == [
        "(Intercept)", "Days", "sd__(Intercept)", "cor__(Intercept).Days", "sd__Days", "sd__Observation",
    ]  # fmt: skip
    want = [251.405104848485, 10.467285959596, 24.7404500812413, 0.0655513775524519, 5.92213308186667]
    assert_allclose(got["estimate"], [*want, 25.5918157386296], rtol=1e-6)
    assert_allclose(got["std.error"][:2], [6.82455626155296, 1.54578889288849], rtol=1e-6)
    assert_allclose(got["statistic"][:2], [36.8383079006628, 6.77148477890603], rtol=1e-6)
    assert_allclose(got["df"][:2], 17.0, rtol=1e-5)
    # qt(0.975, 17) standard errors on either side
    assert_allclose(got["conf.low"][1], 10.467285959596 - 2.109815577833181 * 1.54578889288849, rtol=1e-6)
    assert_allclose(got["conf.high"][1], 10.467285959596 + 2.109815577833181 * 1.54578889288849, rtol=1e-6)
    assert (
        got.loc[2:, ["std.error", "statistic", "df", "p.value", "conf.low", "conf.high"]]
        .isna()
        .all(axis=None)
    )


def test_tidy_of_variances(both):
    got = both[0].tidy("ran_pars", scales="vcov")
    assert got["term"].tolist() == [
        "var__(Intercept)", "cov__(Intercept).Days", "var__Days", "var__Observation",
    ]  # fmt: skip
    want = [612.089870222393, 9.60434122725561, 35.0716602393396, 654.941032799968]
    assert_allclose(got["estimate"], want, rtol=1e-5)


def test_tidy_of_three_effects_goes_down_the_columns_of_the_triangle(sleep):
    """as.data.frame(VarCorr(m), order = "lower.tri")"""
    got = mme.lmer("Reaction ~ Days + (1 + Days + I(Days**2) | Subject)", sleep).tidy("ran_pars")
    assert got["term"].tolist() == [
        "sd__(Intercept)", "cor__(Intercept).Days", "cor__(Intercept).I(Days ** 2)",
        "sd__Days", "cor__Days.I(Days ** 2)", "sd__I(Days ** 2)", "sd__Observation",
    ]  # fmt: skip


def test_tidy_of_both_doors(both):
    one, other = (result.tidy(conf_int=True) for result in both)
    assert_allclose(other["estimate"], one["estimate"], rtol=1e-5)
    assert_allclose(other["std.error"], one["std.error"], rtol=1e-5)
    assert other["group"].tolist() == one["group"].tolist()
    assert other["term"].tolist()[-2:] == ["sd__Days", "sd__Observation"]


def test_conditional_modes(both):
    """as.data.frame(ranef(m, condVar = TRUE))"""
    got = both[0].tidy("ran_vals", conf_int=True)
    assert got.columns.tolist()[:5] == ["effect", "group", "level", "term", "estimate"]
    assert got["level"].tolist()[:3] == [308, 309, 310]
    assert got["term"].tolist() == ["(Intercept)"] * 18 + ["Days"] * 18
    assert_allclose(
        got["estimate"][[0, 1, 18, 35]], [2.2585661716, -40.3985792786, 9.1989717766, 1.2840296532], rtol=1e-5
    )
    assert_allclose(got["std.error"][[0, 17]], 12.0708366516964, rtol=1e-6)
    assert_allclose(got["std.error"][[18, 35]], 2.30483697885714, rtol=1e-6)
    assert_allclose(got["conf.high"][0], 2.2585661715957 + 1.959963984540054 * 12.0708366516964, rtol=1e-5)
    other = both[1].tidy("ran_vals")
    for name, here in (("Subject", "(Intercept)"), ("Days", "Days")):
        for column in ("estimate", "std.error"):
            mine = got.loc[got["term"] == here, column]
            assert_allclose(other.loc[other["term"] == name, column], mine, rtol=1e-5)


def test_conditional_modes_of_two_factors_and_of_terms_that_share_one():
    pastes = load_data("Pastes")
    got = mme.lmer("strength ~ 1 + (1 | batch) + (1 | sample)", pastes, reml=False).tidy("ran_vals")
    assert got["group"].tolist() == ["sample"] * 30 + ["batch"] * 10
    assert_allclose(
        got["estimate"][[0, 1, 30, 39]], [1.9255867388, 0.4835508759, 0.6436789585, -0.4275036456], rtol=1e-5
    )
    assert_allclose(got["std.error"][[0, 30]], [1.05444948846655, 0.92218152252193], rtol=1e-5)
    sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    got = mme.lmer("Reaction ~ Days + (Days || Subject)", sleep).tidy(["ran_vals", "ran_pars"])
    assert got.loc[got["effect"] == "ran_pars", "group"].tolist() == ["Subject", "Subject.1", "Residual"]
    modes = got[got["effect"] == "ran_vals"]
    assert modes["group"].unique().tolist() == ["Subject"] and len(modes) == 36
    assert np.isfinite(modes["std.error"].astype(float)).all()


def test_modes_of_variance_components():
    data = load_data("Machines")
    kwargs = {"groups": "Worker", "re_formula": "1", "vc_formula": {"m": "0 + C(Machine)"}}
    got = mme.mixedlm("score ~ Machine", data, **kwargs).fit()
    tidy = got.tidy(("fixed", "ran_pars", "ran_vals"))
    assert tidy.loc[tidy["effect"] == "ran_pars", "term"].tolist()[-2:] == ["sd__m", "sd__Observation"]
    label = next(iter(got.random_effects))
    own = tidy[tidy["level"] == label]
    assert own["group"].tolist() == ["Worker", "m", "m", "m"]
    assert_allclose(own["estimate"].astype(float), got.random_effects[label])
    assert_allclose(own["std.error"].astype(float) ** 2, np.diag(got.random_effects_cov[label]))


def test_modes_are_those_of_the_table_of_random_effects(sleep):
    """Errors given b, whatever fitted them: an iterative fit's too."""
    crossed = "Reaction ~ Days + (Days | Subject) + (1 | Days)"
    for solver in ("direct", "iterative"):
        result = mme.lmer(crossed, sleep, solver=solver)
        got, table = result.tidy("ran_vals", conf_int=True), result.ranef_table()
        assert got["group"].tolist() == ["Subject"] * 36 + ["Days"] * 10
        for effect in ("(Intercept)", "Days"):
            mine = got[(got["group"] == "Subject") & (got["term"] == effect)]
            theirs = table[(table["term"] == "Subject") & (table["effect"] == effect)]
            assert mine["level"].tolist() == theirs["level"].tolist()
            assert_allclose(mine["estimate"], theirs["blup"], rtol=1e-12)
            assert_allclose(mine["std.error"], theirs["se"], rtol=1e-12)
            assert_allclose(mine["conf.low"], theirs["blup"] - 1.959963984540054 * theirs["se"], rtol=1e-10)


def test_glance(both):
    """nobs, sigma, logLik, AIC, BIC, REMLcrit, df.residual of lme4."""
    want = [180, 25.5918157386296, -871.814135979245, 1755.62827195849, 1774.78601306383]
    for result in both:
        got = result.glance()
        assert got.columns.tolist() == [
            "nobs", "sigma", "logLik", "AIC", "BIC", "REMLcrit", "df.residual",
        ]  # fmt: skip
        assert_allclose(got.iloc[0].astype(float), [*want, 1743.62827195849, 174], rtol=1e-6)
    one = both[0]
    assert got.loc[0, ["AIC", "BIC"]].tolist() == pytest.approx([one.aic, one.bic])
    got = mme.lmer("strength ~ 1 + (1 | batch) + (1 | sample)", load_data("Pastes"), reml=False).glance()
    assert_allclose(
        got[["sigma", "logLik", "AIC", "BIC", "deviance", "df.residual"]].iloc[0].astype(float),
        [0.823407569588415, -123.997232931213, 255.994465862425, 264.371844111313, 247.994465862425, 56],
        rtol=1e-6,
    )


def test_glance_of_a_penalized_fit_counts_no_parameters(sleep):
    from statsmodels.base._penalties import L2

    got = mme.mixedlm("Reaction ~ Days", sleep, groups="Subject").fit(fe_pen=L2(), method="bfgs").glance()
    assert got[["AIC", "BIC", "df.residual"]].isna().all(axis=None)
    assert np.isfinite(got.loc[0, "logLik"])


def test_augment(both, sleep):
    for result in both:
        got = result.augment(sleep)
        assert got.columns.tolist()[: sleep.shape[1]] == sleep.columns.tolist()
        assert_allclose(
            got.loc[:2, [".fitted", ".resid", ".fixed"]],
            [
                [253.663671020080, -4.1036710200797, 251.405104848484],
                [273.329928756288, -14.6252287562876, 261.872390808080],
                [292.996186492496, -42.1955864924956, 272.339676767677],
            ],
            rtol=1e-5,
        )
        alone = result.augment()
        assert alone.columns[0] == "Reaction"
        assert_allclose(alone[".fitted"], got[".fitted"])


def test_augment_with_weights_and_offset(sleep):
    """lme4's response object: mw@resp"""
    sleep = sleep.assign(w=np.linspace(0.5, 1.5, 180))
    got = mme.lmer("Reaction ~ Days + offset(Days * 2) + (1 | Subject)", sleep, weights="w").augment(sleep)
    want = {
        ".fitted": [289.052551918499, 366.378746110934],
        ".mu": [289.052551918499, 366.378746110934],
        ".offset": [0.0, 18.0],
        ".sqrtXwt": [0.707106781186548, 1.224744871391589],
        ".weights": [0.5, 1.5],
        ".wtres": [-27.92545126793279, -2.76197863360523],
    }
    for name, values in want.items():
        assert_allclose(got[name].iloc[[0, 179]], values, rtol=1e-5, err_msg=name)
    assert_allclose(got[".fixed"][:2], [249.402142203867, 260.351006508135], rtol=1e-6)


def test_augment_at_the_rows_of_the_data(sleep):
    holes = sleep.copy()
    holes.loc[[3, 77], "Reaction"] = np.nan
    result = mme.lmer(SLOPE, holes, missing="drop")
    got = result.augment(holes)
    assert len(got) == 180
    assert got.index[got[".fitted"].isna()].tolist() == [3, 77]
    assert_allclose(got[".fitted"].dropna(), result.fittedvalues)
    log = mme.lmer("np.log(Reaction) ~ Days + (Days | Subject)", sleep).augment(sleep)
    assert_allclose(log[".fitted"] + log[".resid"], np.log(sleep["Reaction"]))


def test_leverages_and_cooks_distances_beside_the_rows(sleep):
    """lme4's hatvalues and cooks.distance, between .resid and .fixed as broom.mixed has them."""
    ref = inference_reference()["sleepstudy_slope"]
    for result in (
        mme.lmer(SLOPE, sleep),
        mme.mixedlm("Reaction ~ Days", sleep, groups="Subject", re_formula="~Days").fit(),
    ):
        got = result.augment()
        assert got.columns.tolist()[1:6] == [".fitted", ".resid", ".hat", ".cooksd", ".fixed"]
        assert_allclose(got[".hat"][:10], ref["hatvalues_head"], rtol=2e-5)  # at lme4's optimum
        assert_allclose(got[".cooksd"][:10], ref["cooks_head"], rtol=2e-5)
        pd.testing.assert_series_equal(got[".hat"], result.hatvalues(), check_names=False)
        pd.testing.assert_series_equal(got[".cooksd"], result.cooks_distance(), check_names=False)


def test_rows_without_leverages_or_cooks_distances(sleep):
    iterative = mme.lmer("Reaction ~ 1 + (1 | Subject) + (1 | Days)", sleep, solver="iterative")
    got = iterative.augment()
    assert got[[".hat", ".cooksd"]].isna().all(axis=None) and got[".fitted"].notna().all()
    from statsmodels.base._penalties import L2

    penalized = mme.mixedlm("Reaction ~ Days", sleep, groups="Subject").fit(fe_pen=L2(), method="bfgs")
    got = penalized.augment()
    assert_allclose(got[".hat"], penalized.hatvalues())
    assert got[".cooksd"].isna().all()


def test_augment_refuses_other_rows(both, sleep):
    for result in both:
        with pytest.raises(DataError, match=r"not those of the fit: 'Reaction' differs.*predict\(\)"):
            result.augment(sleep.assign(Reaction=sleep["Reaction"] + 1.0))
        with pytest.raises(DataError, match="are 5 rows and the fit has 180"):
            result.augment(sleep.head())
        with pytest.raises(DataError, match=r"columns \.resid already"):
            result.augment(sleep.assign(**{".resid": 0.0}))
    result = mme.lmer("np.log(Reaction) ~ Days + (Days | Subject)", sleep)
    with pytest.raises(DataError, match="not those of the fit"):
        result.augment(sleep.assign(Days=sleep["Days"] + 1).drop(columns="Reaction"))


def test_what_there_is_not(both, sleep):
    with pytest.raises(OptionError, match="effects: 'random' is not known"):
        both[0].tidy(["fixed", "random"])
    with pytest.raises(OptionError, match="scales='sd'"):
        both[0].tidy(scales="sd")
    with pytest.raises(OptionError, match=r"conf_level=95 must lie between 0 and 1"):
        both[0].tidy(conf_level=95)
    iterative = mme.lmer("Reaction ~ 1 + (1 | Subject) + (1 | Days)", sleep, solver="iterative")
    assert len(iterative.tidy("ran_pars")) == 3
    light = mme.mixedlm("Reaction ~ Days", sleep, groups="Subject").fit()
    light.remove_data()
    with pytest.raises(InferenceError, match="removed"):
        light.augment()
    assert len(light.tidy(ddf="normal")) == 4
