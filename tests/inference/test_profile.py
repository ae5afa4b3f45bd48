"""Profile likelihood: lme4's intervals, a general minimiser where it disagrees, boundaries, both doors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import problems
import pytest
from inference.general_profile import general_minimum
from scipy import optimize, stats
from support import inference_reference, load_data, mark_slow, r_names, unbalanced_reference

import mme
from mme.exceptions import InferenceError, MMEWarning, OptionError
from mme.fit import fit_design
from mme.fit.fitted import Fitted, Labels, TermLabels
from mme.inference import held
from mme.inference.parameters import choose
from mme.inference.profile import profile_intervals

MODELS = {
    name: model
    for name, model in (inference_reference() | unbalanced_reference()).items()
    if "profile_ci_ml" in model
}
# ends that lme4 misses by more than 1e-3 of the interval's width: a general minimiser says so below
_LME4_IS_OFF = {
    ("ub_scotssec", "sd_(Intercept)|primary"),
    ("ub_orthodont", "SexMale"),
    ("ub_orthodont", "sd_(Intercept)|Subject"),
    ("ub_orthodont", "sd_age|Subject"),
    ("ub_orthodont", "sigma"),
}
Z = stats.norm.ppf(0.975)


def _fit(name: str, reml: bool = True):
    model = MODELS[name]
    return mme.lmer(model["formula_r"].replace("factor(", "C("), load_data(model["data"]), reml)


def _zeta(result, name: str, value: float, starts: int = 2) -> float:
    """By a general minimiser; the fit's own minimum is tested elsewhere."""
    (parameter,) = choose(result.fitted.labels, name)
    rise = general_minimum(result.fitted.design, parameter, value, starts) + 2.0 * result.llf
    return float(np.sqrt(max(rise, 0.0)))


def _columns(frame: pd.DataFrame, names) -> np.ndarray:
    """Rows by R's names."""
    theirs = {name.replace("factor(", "C("): i for i, name in enumerate(names)}
    rows = r_names(frame.index)
    assert sorted(rows) == sorted(theirs)
    return np.array([theirs[row] for row in rows])


@pytest.mark.parametrize("name", mark_slow(MODELS, lambda name: name in ("orthodont", "ub_egsingle")))
def test_intervals_of_lme4(name):
    result, theirs = _fit(name), MODELS[name]["profile_ci_ml"]
    ours = result.conf_int(method="profile")
    assert ours.attrs["notes"][0].startswith("The fit is REML")
    order = _columns(ours, theirs["names"])
    expected = np.column_stack([theirs["low"], theirs["high"]])[order]
    off = np.abs(ours.to_numpy() - expected).max(axis=1) / np.ptp(ours.to_numpy(), axis=1)
    names = np.array(theirs["names"])[order]
    assert {(name, str(n)) for n in names[off > 1e-3]} == {pair for pair in _LME4_IS_OFF if pair[0] == name}


@pytest.mark.parametrize(
    "name, parameter, theirs",
    mark_slow(
        [
            ("ub_scotssec", "sd_(Intercept)|primary", 0.710847533690623),
            ("ub_orthodont", "Sex[T.Male]", -3.00986078751468),
            ("ub_orthodont", "sd_(Intercept)|Subject", 1.9737308614109),
            ("ub_orthodont", "sd_age|Subject", 0.2),
            ("ub_orthodont", "sigma", 1.28589922071385),
        ],
        lambda case: case[1] != "sigma",
    ),
)
def test_ends_where_lme4_is_off(name, parameter, theirs):
    result = _fit(name, reml=False)
    low, high = result.conf_int(method="profile", parm=parameter).loc[parameter]
    ours = low if theirs < result.profile(parameter, alpha=0.9, points=1).estimates.iloc[0] else high
    assert _zeta(result, parameter, ours) == pytest.approx(Z, abs=1e-4)
    assert _zeta(result, parameter, theirs) < Z - 5e-3


@pytest.mark.parametrize(
    "parameter",
    mark_slow(
        [
            "cor_Machine[T.B].(Intercept)|Worker",
            "cor_Machine[T.C].(Intercept)|Worker",
            "cor_Machine[T.C].Machine[T.B]|Worker",
            "sd_Machine[T.B]|Worker",
        ],
        lambda name: name != "cor_Machine[T.B].(Intercept)|Worker",
    ),
)
def test_three_correlated_effects(parameter):
    """lme4 profiles through matrices that need not be covariances: its correlations are off, up to 0.15."""
    result = mme.lmer("score ~ Machine + (Machine | Worker)", load_data("Machines"), reml=False)
    for end in result.conf_int(method="profile", parm=parameter).loc[parameter]:
        assert _zeta(result, parameter, end) == pytest.approx(Z, abs=1e-4)


# -- boundaries -------------------------------------------------------------------------------------------


def test_a_variance_at_zero():
    """The lower end is the estimate, zero; lme4's upper end is 2.08404."""
    result = mme.lmer("Yield ~ 1 + (1 | Batch)", load_data("Dyestuff2"))
    low, high = result.conf_int(method="profile", parm="sd_(Intercept)|Batch").iloc[0]
    assert low == 0.0
    assert high == pytest.approx(2.0840435, abs=2e-5)


def test_zero_is_inside_and_is_a_point_of_the_curve():
    result = mme.lmer("strength ~ 1 + (1 | batch/cask)", load_data("Pastes"), reml=False)
    name = "sd_(Intercept)|batch"
    curve = result.profile(name).frame
    first = curve.iloc[0]
    assert first["value"] == 0.0 and -Z < first["zeta"] < 0.0
    # without the term
    alone = mme.lmer("strength ~ 1 + (1 | batch:cask)", load_data("Pastes"), reml=False)
    assert first["zeta"] == pytest.approx(-np.sqrt(2 * (result.llf - alone.llf)), abs=1e-6)
    assert result.conf_int(method="profile", parm=name).iloc[0, 0] == 0.0


def test_an_effect_without_variance_in_a_term_of_two():
    """A slope's deviation of zero: the model without the slope."""
    data = load_data("sleepstudy")
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", data, reml=False)
    alone = mme.lmer("Reaction ~ Days + (1 | Subject)", data, reml=False)
    first = result.profile("sd_Days|Subject").frame.iloc[0]
    assert first["value"] == 0.0
    assert first["zeta"] == pytest.approx(-np.sqrt(2 * (result.llf - alone.llf)), rel=1e-6)


def test_a_correlation_of_one():
    """Singular: the estimate is at the boundary, and one end with it."""
    result = mme.lmer("distance ~ age * Sex + (age | Subject)", load_data("ub_orthodont"))
    assert result.conf_int(method="profile", parm="cor_age.(Intercept)|Subject").iloc[0].tolist() == [
        -1.0,
        1.0,
    ]
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(40), 10), np.tile(np.linspace(-1, 1, 10), 40)
    u = rng.normal(size=40)
    data = pd.DataFrame({"g": g, "x": x, "y": u[g] * (1.0 + 0.8 * x) + 0.5 * rng.normal(size=400)})
    fits = mme.lmer("y ~ x + (x | g)", data, reml=False)
    assert fits.is_singular
    name = "cor_x.(Intercept)|g"
    low, high = fits.conf_int(method="profile", parm=name).iloc[0]
    assert high == 1.0
    assert _zeta(fits, name, low, starts=3) == pytest.approx(Z, abs=1e-3)


def test_a_correlation_with_nothing_is_not_told():
    rng = np.random.default_rng(5)
    g, x = np.repeat(np.arange(20), 8), np.tile(np.linspace(-1, 1, 8), 20)
    noise = rng.normal(size=160)
    noise -= x * np.repeat(noise.reshape(20, 8) @ x[:8] / (x[:8] @ x[:8]), 8)  # slopes of zero
    data = pd.DataFrame({"g": g, "x": x, "y": rng.normal(size=20)[g] + noise})
    result = mme.lmer("y ~ x + (x | g)", data, reml=False)
    assert result.varcorr["vcov"].iloc[1] < 1e-10
    interval = result.conf_int(method="profile", parm="cor_x.(Intercept)|g").iloc[0]
    assert interval.tolist() == [-1.0, 1.0]


# -- designs ----------------------------------------------------------------------------------------------


def test_both_doors_agree():
    data = load_data("sleepstudy")
    a = mme.lmer("Reaction ~ Days + (Days | Subject)", data).conf_int(method="profile")
    model = mme.MixedLM.from_formula("Reaction ~ Days", data, groups="Subject", re_formula="Days")
    result = model.fit()
    b = result.conf_int(method="profile")
    assert list(b.index) == [
        "Intercept",
        "Days",
        "sd_Subject|Subject",
        "cor_Days.Subject|Subject",
        "sd_Days|Subject",
        "sigma",
    ]
    np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
    # statsmodels' table is as it was
    assert list(result.conf_int().index) == list(result.params.index)
    assert result.conf_int().shape == (5, 2)
    one = result.conf_int(method="profile", parm="Days")
    np.testing.assert_allclose(one, b.loc[["Days"]], rtol=1e-6)


def test_variance_components_of_a_formula():
    data = load_data("Pastes")
    a = mme.lmer("strength ~ 1 + (1 | batch/cask)", data).conf_int(method="profile")
    vc = {"cask": "0 + C(cask)"}
    model = mme.MixedLM.from_formula("strength ~ 1", data, groups="batch", re_formula="1", vc_formula=vc)
    b = model.fit().conf_int(method="profile")
    assert list(b.index) == ["Intercept", "sd_batch|batch", "sd_cask|cask", "sigma"]
    np.testing.assert_allclose(b.to_numpy()[[0, 2, 1, 3]], a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", ["dense", "superlu"])
def test_crossed_factors_by_either_factorization(solver):
    theirs = MODELS["ub_penicillin"]["profile_ci_ml"]
    data = load_data("ub_penicillin")
    ours = mme.lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", data, solver=solver).conf_int(
        method="profile"
    )
    order = _columns(ours, theirs["names"])
    expected = np.column_stack([theirs["low"], theirs["high"]])[order]
    assert np.all(np.abs(ours - expected).max(axis=1) < 1e-3 * np.ptp(expected, axis=1))


def test_weights_and_offset():
    """Weights of two double the variance of a row with weight one; an offset moves its coefficient."""
    data = load_data("sleepstudy")
    data["off"], data["w"] = 3.0 * data["Days"], 2.0
    formula = "Reaction ~ Days + (Days | Subject)"
    plain = mme.lmer(formula, data).conf_int(method="profile", parm=["Days", "sd_Days|Subject", "sigma"])
    moved = mme.lmer(formula, data, weights="w", offset="off")
    got = moved.conf_int(method="profile", parm=["Days", "sd_Days|Subject", "sigma"])
    np.testing.assert_allclose(got.loc["Days"], plain.loc["Days"] - 3.0, rtol=1e-6)
    np.testing.assert_allclose(got.loc["sd_Days|Subject"], plain.loc["sd_Days|Subject"], rtol=1e-6)
    np.testing.assert_allclose(got.loc["sigma"], plain.loc["sigma"] * np.sqrt(2.0), rtol=1e-6)


def test_an_uncentred_covariate_costs_no_digits():
    data = load_data("sleepstudy")
    far = data.assign(Days=data["Days"] + 1e5)
    formula, names = "Reaction ~ Days + (Days | Subject)", ["Days", "sd_Days|Subject", "sigma"]
    here, there = (mme.lmer(formula, d).conf_int(method="profile", parm=names) for d in (data, far))
    np.testing.assert_allclose(there, here, rtol=1e-5)


def test_dropped_columns_have_no_interval():
    data = load_data("sleepstudy")
    data["Twice"] = 2.0 * data["Days"]
    with pytest.warns(MMEWarning, match="dropped"):
        result = mme.lmer("Reaction ~ Days + Twice + (1 | Subject)", data)
    got = result.conf_int(method="profile", parm="beta_")
    assert got.loc["Twice"].isna().all()
    expected = mme.lmer("Reaction ~ Days + (1 | Subject)", data).conf_int(method="profile", parm="beta_")
    np.testing.assert_allclose(got.iloc[:2], expected, rtol=1e-6)


def test_one_coefficient_alone():
    result = mme.lmer("Yield ~ 1 + (1 | Batch)", load_data("Dyestuff"), reml=False)
    low, high = result.conf_int(method="profile", parm="(Intercept)").iloc[0]
    for end in (low, high):
        assert _zeta(result, "(Intercept)", end) == pytest.approx(Z, abs=1e-4)


_FAST = ("scalar", "nested2", "crossed3", "only_general")


@pytest.mark.parametrize(
    "name, reml",
    mark_slow(
        [(name, False) for name in problems.PROBLEMS] + [(name, True) for name in _FAST],
        lambda case: case[0] not in _FAST,
    ),
)
def test_ends_from_other_starts(name, reml):
    """Of every design: no start leads lower than the interval's ends say; boundaries come no sooner."""
    fit = fit_design(problems.build(name), reml=reml)
    terms = tuple(
        TermLabels(f"{t.name}{i}", tuple(map(str, range(t.k))), t.n_levels, t.structure)
        for i, t in enumerate(fit.design.terms)
    )
    fitted = Fitted.of(fit, Labels("y", tuple(f"x{j}" for j in range(fit.design.p)), terms))
    chosen = choose(fitted.labels, "theta_")
    found = profile_intervals(fitted, chosen, 0.05, reml)
    assert all("converge" not in note for note in found.notes)
    eq = fit.objective.eq
    setting = held.Setting.of(fit.design, eq, "auto", reml)
    best = setting.minimum(eq.to_standard(np.concatenate(fit.theta)))
    starts = [best.theta, setting.space.uniform(0.8)]
    for p, curve, ends in zip(chosen, found.curves, found.ends, strict=True):
        if p.kind == "sigma":
            solve = held.held_sigma(setting)
        elif p.kind == "sd":
            solve = held.held_deviation(setting, p.term, p.a)
        else:
            solve = held.held_correlation(setting, p.term, p.b, p.a)
        for end in ends:
            lowest = min(solve(end, replace(best, theta=theta)).deviance for theta in starts)
            zeta = np.sqrt(max(lowest - best.deviance, 0.0))
            if end in (0.0, 1.0, -1.0):
                assert zeta <= Z + 1e-4
            else:
                assert zeta == pytest.approx(Z, abs=1e-3)
            assert np.isfinite(curve.zeta).all()


def test_a_profile_takes_few_solves(monkeypatch):
    """Five or so for an end of an interval: what the seconds in benchmarks/intervals.py are made of."""
    solves = []
    for name in ("minimise", "correlation_minimum"):
        inner = getattr(held, name)

        def counted(*args, inner=inner, **kwargs):
            solves.append(1)
            return inner(*args, **kwargs)

        monkeypatch.setattr(held, name, counted)
    mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy")).conf_int(method="profile")
    assert len(solves) <= 60


def test_restricted_likelihood_of_one_factor():
    """Balanced: in the mean squares REML is the likelihood of q - 1 and q (n - 1) independent squares."""
    result = mme.lmer("Yield ~ 1 + (1 | Batch)", load_data("Dyestuff"))
    got = result.conf_int(method="profile", reml=True)
    assert list(got.index) == ["sd_(Intercept)|Batch", "sigma"]
    assert got.attrs["notes"] == ("The profile is that of the restricted likelihood (REML).",)
    q, n = 6, 5
    v, e = result.varcorr["vcov"]
    between, within = (q - 1) * (e + n * v), q * (n - 1) * e

    def deviance(v, e):
        m = e + n * v
        return (q - 1) * np.log(m) + between / m + q * (n - 1) * np.log(e) + within / e

    def rise(name, value):
        def rest(x):
            return deviance(value**2, np.exp(x)) if name != "sigma" else deviance(np.exp(x), value**2)

        best = optimize.minimize_scalar(rest, bounds=(-5, 15), method="bounded", options={"xatol": 1e-10})
        return np.sqrt(best.fun - deviance(v, e))

    for name, ends in got.iterrows():
        for end in ends:
            assert end == 0.0 or rise(name, end) == pytest.approx(Z, abs=1e-5)
    assert rise("sd_(Intercept)|Batch", 0.0) > Z or got.iloc[0, 0] == 0.0


def test_restricted_likelihood_with_slopes():
    """Wider than ML's, and about the REML estimates."""
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy"))
    profile = result.profile(reml=True)
    np.testing.assert_allclose(profile.estimates, result.varcorr["sdcor"].iloc[[0, 2, 1, 3]], rtol=1e-4)
    ml, reml = (result.conf_int(method="profile", parm="theta_", reml=r) for r in (False, True))
    np.testing.assert_allclose(profile.conf_int(0.05), reml, rtol=5e-3, atol=5e-3)
    assert np.all(np.ptp(reml.iloc[[0, 2]], axis=1) > np.ptp(ml.iloc[[0, 2]], axis=1))
    alone = mme.lmer("Reaction ~ Days + (1 | Subject)", load_data("sleepstudy"))
    first = result.profile("sd_Days|Subject", reml=True).frame.iloc[0]
    assert first["zeta"] == pytest.approx(-np.sqrt(2 * (result.llf - alone.llf)), rel=1e-6)


# -- the object, and what is refused ----------------------------------------------------------------------


def test_curves():
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy"))
    profile = result.profile()
    assert list(profile.frame.columns) == ["parameter", "value", "zeta"]
    for name, curve in profile.frame.groupby("parameter", sort=False):
        assert np.all(np.diff(curve["value"]) > 0) and np.all(np.diff(curve["zeta"]) > 0)
        assert len(curve) >= 11
        at = curve["zeta"].abs().idxmin()
        assert curve.loc[at, "zeta"] == 0.0
        assert curve.loc[at, "value"] == profile.estimates[name]
    exact = result.conf_int(method="profile")
    width = np.ptp(exact.to_numpy(), axis=1)[:, None]
    assert np.all(np.abs(profile.conf_int() - exact) < 5e-4 * width)
    ends = profile.conf_int(0.01)
    np.testing.assert_allclose(ends, result.conf_int(0.01, method="profile"), rtol=1e-4, atol=1e-5)
    with pytest.raises(OptionError, match="lies beyond the curves"):
        profile.conf_int(0.001)
    assert "sd_Days|Subject" in repr(profile)


def test_wald_intervals_by_name():
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy"))
    table = result.variance_table()
    got = result.conf_int(parm=["sigma", "cor_Days.(Intercept)|Subject", "Days", "sd_Days|Subject"])
    np.testing.assert_allclose(got.iloc[[0, 1, 3]], table.loc[[3, 2, 1], ["lower", "upper"]])
    np.testing.assert_allclose(got.loc["Days"], result.conf_int().loc["Days"])
    kr = result.conf_int(ddf="kenward-roger", parm="Days")
    np.testing.assert_allclose(kr.loc["Days"], result.conf_int(ddf="kenward-roger").loc["Days"])
    model = mme.MixedLM.from_formula(
        "Reaction ~ Days", load_data("sleepstudy"), groups="Subject", re_formula="Days"
    ).fit()
    np.testing.assert_allclose(model.conf_int(parm="Days"), model.conf_int().loc[["Days"]])


def test_refusals():
    data = load_data("sleepstudy")
    result = mme.lmer("Reaction ~ Days + (1 | Subject)", data)
    with pytest.raises(OptionError, match="Did you mean 'Days'"):
        result.conf_int(method="profile", parm="Day")
    with pytest.raises(OptionError, match=r"Did you mean 'sd_\(Intercept\)\|Subject'"):
        result.profile("sd_Intercept|Subject")
    with pytest.raises(OptionError, match="Did you mean 'profile'"):
        result.conf_int(method="profil")
    with pytest.raises(OptionError, match="alpha"):
        result.conf_int(1.0, method="profile")
    with pytest.raises(OptionError, match="ddf"):
        result.conf_int(ddf="kr", method="profile")
    with pytest.raises(OptionError, match=r"no function of the fixed effects \(Days\)"):
        result.conf_int(method="profile", parm="Days", reml=True)
    with pytest.raises(OptionError, match="reml=True has no use with method='boot'"):
        result.conf_int(method="boot", reml=True)
    with pytest.raises(OptionError, match="names no parameter"):
        result.conf_int(method="profile", parm=[])
    with pytest.raises(OptionError, match="parm=3"):
        result.conf_int(method="profile", parm=3)
    with pytest.raises(OptionError, match="points"):
        result.profile(points=0)
    iterative = mme.lmer("Reaction ~ Days + (1 | Subject)", data, solver="iterative")
    with pytest.raises(InferenceError, match=r"solver='direct'.*method='boot'"):
        iterative.conf_int(method="profile")
    model = mme.MixedLM.from_formula("Reaction ~ Days", data, groups="Subject")
    penalised = model.fit_regularized(alpha=1.0)
    with pytest.raises(InferenceError, match="penalties"):
        penalised.profile()
    exact = data.assign(Reaction=10.0 * data["Days"] + data["Subject"])
    with pytest.warns(MMEWarning, match="exactly"):
        perfect = mme.lmer("Reaction ~ Days + (1 | Subject)", exact, perfect="limit")
    with pytest.raises(InferenceError, match="exactly"):
        perfect.conf_int(method="profile")
    with pytest.warns(MMEWarning, match="exactly"):
        perfect = mme.MixedLM.from_formula("Reaction ~ Days", exact, groups="Subject").fit()
    with pytest.raises(InferenceError, match="exactly"):
        perfect.profile()
    direct = model.fit()
    direct.remove_data()
    with pytest.raises(InferenceError, match="removed"):
        direct.profile()
