"""Simulated responses, refits, updates and bootstraps of results of both doors."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from support import load_data

import mme
from mme.engine.equations.design import Design, RandomTerm
from mme.exceptions import DataError, FormulaError, InferenceError, OptionError
from mme.inference.bca import acceleration, basic, bca
from mme.inference.simulation import Clusters, ResidualDraws

FORMULA = "Reaction ~ Days + (Days | Subject)"


def _sleep(formula=FORMULA, **kwargs):
    return mme.lmer(formula, load_data("sleepstudy"), **kwargs)


def _facade(**kwargs):
    data = load_data("sleepstudy")
    return mme.MixedLM.from_formula("Reaction ~ Days", data, groups="Subject", re_formula="Days").fit(
        **kwargs
    )


def _dense(term):
    return np.array([term.times(e) for e in np.eye(term.n_levels * term.k)]).T


# -- simulate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("random_effects", ["new", "conditional"])
def test_moments_of_simulated_responses(random_effects):
    """V = sigma2 (W^-1 + Z D Z') about X b + offset, or sigma2 W^-1 about X b + offset + Z u."""
    data = load_data("sleepstudy").iloc[:40].copy()
    data.index = data.index[::-1] * 3
    data["w"], data["off"] = 1.0 + data["Days"] % 3, 5.0 * data["Days"]
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", data, weights="w", offset="off")
    frame = result.simulate(8_000, seed=2, random_effects=random_effects)
    assert frame.index.equals(data.index) and list(frame.columns[:2]) == [0, 1]
    fitted, design = result.fitted, result.fitted.design
    V = np.diag(1.0 / design.weights)
    mean = design.X @ fitted.beta + design.offset
    if random_effects == "new":
        for term, lam in zip(design.terms, fitted.lam, strict=True):
            Z = _dense(term)
            V += Z @ np.kron(np.eye(term.n_levels), lam @ lam.T) @ Z.T
    else:
        mean = result.fittedvalues.to_numpy()
    V *= fitted.sigma2
    draws = frame.to_numpy().T
    sizes = np.sqrt(np.diag(V))
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 5 * sizes / np.sqrt(len(draws)))
    assert np.abs((np.cov(draws.T) - V) / np.outer(sizes, sizes)).max() < 7 / np.sqrt(len(draws))


def test_a_response_depends_on_the_seed_and_its_number():
    result = _sleep()
    five = result.simulate(5, seed=4)
    pd.testing.assert_series_equal(result.simulate(9, seed=4)[3], five[3])
    assert not np.allclose(result.simulate(5, seed=5)[3], five[3])
    # one code serves both doors
    np.testing.assert_allclose(_facade().simulate(2, seed=4), five[[0, 1]], rtol=1e-4)


# -- refit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reml", [True, False])
def test_refit_is_a_fresh_fit(reml):
    data = load_data("sleepstudy")
    result = _sleep(reml=reml)
    y = result.simulate(1, seed=9)[0]
    again = result.refit(y)
    fresh = mme.lmer(FORMULA, data.assign(Reaction=y), reml=reml)
    assert type(again) is type(result) and again.method == fresh.method
    np.testing.assert_allclose(again.fe_params, fresh.fe_params, rtol=1e-8)
    np.testing.assert_allclose(again.llf, fresh.llf, rtol=1e-10)
    np.testing.assert_allclose(again.bse_fe, fresh.bse_fe, rtol=1e-8)
    np.testing.assert_allclose(again.varcorr["vcov"], fresh.varcorr["vcov"], rtol=1e-7)
    np.testing.assert_allclose(again.resid, fresh.resid, rtol=1e-7, atol=1e-7)
    pd.testing.assert_frame_equal(again.coef_table(), fresh.coef_table(), rtol=1e-6)
    # the first fit is as it was
    np.testing.assert_allclose(result.llf, _sleep(reml=reml).llf, rtol=1e-12)
    assert again.fit.objective.eq.A1 is result.fit.objective.eq.A1


def test_refit_of_the_other_door():
    data = load_data("sleepstudy")
    result = _facade()
    y = _sleep().simulate(1, seed=9)[0]
    again = result.refit(y)
    fresh = mme.MixedLM.from_formula(
        "Reaction ~ Days", data.assign(Reaction=y), groups="Subject", re_formula="Days"
    ).fit()
    assert type(again) is type(fresh)
    np.testing.assert_allclose(again.params, fresh.params, rtol=1e-8)
    np.testing.assert_allclose(again.bse, fresh.bse, rtol=1e-7)
    np.testing.assert_allclose(again.resid, fresh.resid, rtol=1e-7, atol=1e-7)
    assert list(again.params.index) == list(fresh.params.index)
    np.testing.assert_allclose(
        again.get_prediction(data.head(3)).predicted_mean, fresh.get_prediction(data.head(3)).predicted_mean
    )
    np.testing.assert_allclose(result.params, _facade().params)
    np.testing.assert_allclose(again.model.endog, y)
    components = mme.MixedLM.from_formula(
        "Reaction ~ Days", data, groups="Subject", vc_formula={"d": "0 + Days"}
    ).fit(reml=False)
    np.testing.assert_allclose(components.refit(data["Reaction"]).params, components.params, rtol=1e-8)


def test_refit_keeps_solver_and_weights():
    data = load_data("sleepstudy").assign(w=np.linspace(1, 2, 180))
    result = mme.lmer("Reaction ~ Days + (1 | Subject)", data, weights="w", solver="iterative", seed=3)
    again = result.refit(data["Reaction"])
    assert again.fit.monte_carlo is not None
    np.testing.assert_allclose(again.fe_params, result.fe_params, rtol=1e-6)
    exact = mme.lmer("Reaction ~ Days + (1 | Subject)", data, weights="w", solver="dense")
    np.testing.assert_allclose(exact.refit(data["Reaction"]).llf, exact.llf, rtol=1e-12)
    assert exact.refit(data["Reaction"]).options["solver"] == "dense"


def test_responses_in_another_order_and_bad_ones():
    result = _sleep()
    y = result.simulate(1, seed=1)[0]
    np.testing.assert_allclose(result.refit(y.sample(frac=1.0, random_state=1)).llf, result.refit(y).llf)
    for bad, message in [
        (y[1:], "has 179 values"),
        (y.where(y.index != 3), "1 missing and 0 infinite"),
        (y.set_axis(y.index + 7), "another index"),
        (["a"] * 180, "not numeric"),
        (np.ones((180, 2)), "one-dimensional"),
        (np.ones(180), "constant"),
    ]:
        with pytest.raises(mme.exceptions.MMEError, match=message):
            result.refit(bad)
    other = _facade()
    other.remove_data()
    for call in (other.simulate, other.bootstrap_test, lambda: other.refit(y), lambda: other.bootstrap(n=10)):
        with pytest.raises((InferenceError, DataError, TypeError), match=r"removed|other"):
            call()
    for bad in (dict(n=0), dict(n=1.5), dict(seed=-1), dict(random_effects="old")):
        with pytest.raises(OptionError, match=next(iter(bad))):
            result.simulate(**bad)


# -- update --------------------------------------------------------------------------------------------------


def test_update():
    data = load_data("sleepstudy").assign(half=lambda d: d["Days"] > 4, w=np.linspace(1, 2, 180))
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", data, reml=False, weights="w")
    more = result.update(". ~ . + half")
    expected = mme.lmer("Reaction ~ Days + (Days | Subject) + half", data, reml=False, weights="w")
    np.testing.assert_allclose(more.llf, expected.llf, rtol=1e-12)
    assert more.formula == "Reaction ~ Days + (Days | Subject) + half"
    np.testing.assert_allclose(result.update(data=data[data["Days"] < 8]).nobs, 144)
    plain = result.update(weights=None, reml=True)
    np.testing.assert_allclose(plain.llf, _sleep().llf, rtol=1e-12)
    with pytest.raises(OptionError, match="no option 'weight'"):
        result.update(weight="w")
    with pytest.raises(FormulaError, match="not there"):
        result.update(". ~ . - (1 | Batch)")
    stored = pickle.loads(pickle.dumps(result))
    with pytest.raises(OptionError, match="pass data="):
        stored.update(". ~ . + half")
    np.testing.assert_allclose(stored.update(". ~ . + half", data=data).llf, more.llf)
    with pytest.raises(OptionError, match="pass data="):
        result.refit(data["Reaction"]).update(". ~ . + half")


def test_update_sees_the_names_of_its_caller():
    def double(x):
        return 2.0 * x

    result = _sleep("Reaction ~ Days + (1 | Subject)")
    np.testing.assert_allclose(
        result.update(". ~ . - Days + double(Days)").fe_params.iloc[1], result.fe_params["Days"] / 2.0
    )
    model = _facade()
    again = model.update(". ~ . - Days + double(Days)")
    np.testing.assert_allclose(again.fe_params.iloc[1], model.fe_params["Days"] / 2.0)


def test_update_of_the_other_door():
    data = load_data("sleepstudy")
    result = _facade(reml=False)
    got = result.update(". ~ . + np.square(Days)", re_formula=None)
    expected = mme.MixedLM.from_formula("Reaction ~ Days + np.square(Days)", data, groups="Subject")
    np.testing.assert_allclose(got.llf, expected.fit(reml=False).llf, rtol=1e-12)
    arrays = mme.MixedLM(data["Reaction"], np.ones(180), data["Subject"]).fit()
    with pytest.raises(OptionError, match="from_formula"):
        arrays.update(". ~ . + Days")
    free = mme.MixedLMParams.from_components(np.ones(2), cov_re=np.eye(2))
    held = _facade(free=free)
    with pytest.raises(OptionError, match="free= of this fit"):
        held.update(". ~ . + np.square(Days)")
    np.testing.assert_allclose(held.update().params, held.params)
    lasso = held.model.fit_regularized(alpha=1.0)
    for call in (lasso.update, lambda: lasso.refit(data["Reaction"])):
        with pytest.raises(InferenceError, match="regularized"):
            call()


# -- bootstrap -----------------------------------------------------------------------------------------------


def test_draws_are_resumed():
    result = _sleep()
    whole = result.bootstrap(40, seed=6)
    parts = result.bootstrap(25, seed=6), result.bootstrap(15, seed=6, first=25)
    pd.testing.assert_frame_equal(pd.concat([p.draws for p in parts]), whole.draws)
    more = parts[0].more(15)
    pd.testing.assert_frame_equal(more.draws, whole.draws)
    assert (more.failures, more.singular, more.notes) == (whole.failures, whole.singular, whole.notes)
    for i in (0, 30):
        fresh = result.refit(result.simulate(i + 1, seed=6)[i])
        np.testing.assert_allclose(whole.draws.loc[i, "Days"], fresh.fe_params["Days"], rtol=1e-7)


@pytest.mark.parametrize("kind", ["parametric", "residual", "cluster"])
def test_workers_change_nothing(kind):
    result = _sleep()
    one = result.bootstrap(30, seed=1, kind=kind)
    pd.testing.assert_frame_equal(one.draws, result.bootstrap(30, 1, 3, kind=kind).draws, check_exact=True)


@pytest.mark.slow
def test_processes_change_nothing():
    result = _sleep()
    one = result.bootstrap(40, seed=1).draws
    two = result.bootstrap(40, seed=1, workers=2, backend="processes", statistic=lambda p: p["Days"])
    np.testing.assert_array_equal(two.draws[0], one["Days"])


@pytest.mark.parametrize("kind", ["parametric", "residual", "cluster"])
def test_standard_errors_are_those_of_the_information(kind):
    """Of many groups: from the information, of which 400 draws are within a seventh."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(150), 6)
    x = rng.normal(size=g.size)
    y = 1.0 + 0.5 * x + rng.normal(size=150)[g] + rng.normal(size=g.size)
    result = mme.lmer("y ~ x + (1 | g)", pd.DataFrame({"y": y, "x": x, "g": g}))
    boot = result.bootstrap(400, seed=0, kind=kind)
    np.testing.assert_allclose(boot.se.iloc[:2], result.bse_fe, rtol=0.14)
    # sd = sqrt(variance): delta rule
    sd = np.sqrt(result.varcorr["vcov"])
    np.testing.assert_allclose(boot.se.iloc[2:], result.bse_re.to_numpy() / (2.0 * sd), rtol=0.2)
    assert np.all(np.abs(boot.bias) < 0.25 * boot.se)


def test_residual_draws_have_the_estimated_covariances():
    data = load_data("sleepstudy").assign(w=np.linspace(1, 3, 180))
    result = mme.lmer(FORMULA, data, weights="w")
    fitted = result.fitted
    draws = ResidualDraws.of(fitted.design, fitted)
    u, lam = draws.effects[0], fitted.lam[0]
    np.testing.assert_allclose(u.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(u.T @ u / len(u), fitted.sigma2 * lam @ lam.T, rtol=1e-9)
    np.testing.assert_allclose(np.mean(draws.residuals**2), fitted.sigma2)
    # what is drawn are their effects on the scale of weight one
    e = (draws.response(3, 0) - draws.mean) * np.sqrt(fitted.design.weights)
    assert np.isfinite(e).all()
    assert set(np.round(draws.residuals, 6)) != set(np.round(e, 6))


def test_clusters_count_as_new_ones():
    data = load_data("Pastes")
    result = mme.lmer("strength ~ 1 + (1 | batch/cask)", data)
    design = result.fitted.design
    clusters = Clusters(design)
    assert clusters.n == 10
    np.testing.assert_array_equal(clusters.codes, pd.factorize(data["batch"])[0])
    twice = clusters.take(np.array([2, 2, 7]))
    rows = np.r_[np.flatnonzero(clusters.codes == 2), np.flatnonzero(clusters.codes == 2)]
    rows = np.r_[rows, np.flatnonzero(clusters.codes == 7)]
    np.testing.assert_array_equal(twice.y, design.y[rows])
    assert [t.n_levels for t in twice.terms] == [9, 3]
    crossed = mme.lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", load_data("Penicillin"))
    with pytest.raises(InferenceError, match=r"crossed factors \(plate, sample\)"):
        crossed.bootstrap(10, kind="cluster")
    with pytest.raises(InferenceError, match="BCa"):
        crossed.bootstrap(10).conf_int(method="bca")
    assert len(crossed.bootstrap(10, kind="residual").draws) == 10


def test_clusters_of_general_terms_are_those_of_codes():
    """Blocks are taken from a sparse matrix whose columns are not levels."""
    g = np.repeat(np.arange(18), 10)
    rng = np.random.default_rng(0)
    Z = sparse.csr_array(np.where(np.arange(36)[None, :] // 2 == g[:, None], rng.normal(size=(180, 36)), 0.0))
    terms = RandomTerm("a", g, 18), RandomTerm("b", None, 36, Z=Z)
    design = Design(rng.normal(size=180), np.ones((180, 1)), terms)
    taken = Clusters(design).take(np.array([4, 4, 0]))
    part = np.r_[40:50, 40:50, 0:10]
    for term, old in zip(taken.terms, design.terms, strict=True):
        Z, before = _dense(term), _dense(old)[part]
        same = before @ before.T
        same[:10, 10:20] = same[10:20, :10] = 0.0
        np.testing.assert_allclose(Z @ Z.T, same)


def test_statistics():
    result = _sleep()
    boot = result.bootstrap(20, seed=2, statistic=lambda p: {"ratio": p["Days"] / p["sigma"], "t": p.sigma2})
    plain = result.bootstrap(20, seed=2).draws
    np.testing.assert_allclose(boot.draws["ratio"], plain["Days"] / plain["sigma"])
    assert boot.estimate["ratio"] == pytest.approx(result.fe_params["Days"] / result.sigma)
    np.testing.assert_allclose(boot.se, boot.draws.std())
    with pytest.raises(OptionError, match="statistic raised ZeroDivisionError at the estimate"):
        result.bootstrap(5, statistic=lambda p: 1 / 0)
    with pytest.raises(OptionError, match=r"gives 1 values.*at draw 0 and 2"):
        sizes = iter([2, 2, 1])
        result.bootstrap(5, statistic=lambda p: np.ones(next(sizes)))
    with pytest.raises(OptionError, match="statistic must return"):
        result.bootstrap(5, statistic=lambda p: "x")
    with pytest.raises(OptionError, match="function"):
        result.bootstrap(5, statistic="Days")


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(n=0), "n=0"),
        (dict(n=5, workers=0), "workers=0"),
        (dict(n=5, seed=-1), "seed=-1"),
        (dict(n=5, kind="parametrik"), "Did you mean 'parametric'"),
        (dict(n=5, backend="thread"), "Did you mean 'threads'"),
        (dict(n=5, first=-1), "first"),
    ],
)
def test_senseless_options(bad, message):
    for result in (_sleep(), _facade()):
        with pytest.raises(OptionError, match=message):
            result.bootstrap(**bad)


def test_too_few_draws_have_no_interval():
    boot = _sleep().bootstrap(5)
    assert len(boot.draws) == 5
    with pytest.raises(OptionError, match="5 draws are too few"):
        boot.conf_int()


def test_one_bootstrap_for_both_doors():
    ours, theirs = _sleep().bootstrap(10, seed=3), _facade().bootstrap(n=10, seed=3)
    np.testing.assert_allclose(theirs.draws, ours.draws, rtol=1e-4, atol=1e-4)
    assert isinstance(_facade().bootstrap(nrep=5, rng=1), tuple)
    for result, draws in ((_sleep(), ours.draws), (_facade(), theirs.draws)):
        pd.testing.assert_frame_equal(result.bootstrap(n_boot=10, seed=3).draws, draws)
    with pytest.raises(OptionError, match="no argument 'nsim'"):
        _facade().bootstrap(nsim=10)
    with pytest.raises(OptionError, match="statsmodels' call"):
        _facade().bootstrap(n=10, rng=1)


def test_statsmodels_call_is_the_fit_of_every_response():
    result = _facade()
    mean, _, draws = result.bootstrap(nrep=4, rng=8)
    rng = np.random.default_rng(8)
    distribution = result.model.get_distribution(result.params, result.scale, None)
    for row in draws:
        again = result.refit(distribution.rvs(rng=rng))
        np.testing.assert_allclose(row, again.params, rtol=1e-6)
    np.testing.assert_allclose(mean, draws.mean(axis=0))


def test_failures_are_counted(monkeypatch):
    """Every third response is one that the fixed effects explain."""
    result = _sleep()
    design = result.fitted.design

    from mme.inference.simulation import ParametricDraws

    drawn = ParametricDraws.response

    def response(self, seed, i):
        return design.X @ np.array([1.0, 2.0]) if i % 3 == 0 else drawn(self, seed, i)

    monkeypatch.setattr(ParametricDraws, "response", response)
    boot = result.bootstrap(30, seed=0)
    assert boot.failures == 10 and boot.reasons == {"PerfectFitError": 10}
    assert list(boot.draws.index) == [i for i in range(30) if i % 3]
    assert "10 of 30 responses could not be fitted and are left out (PerfectFitError: 10)." in boot.notes


def test_boundary_hits_are_counted():
    result = mme.lmer("Yield ~ 1 + (1 | Batch)", load_data("Dyestuff2"), reml=False)
    boot = result.bootstrap(100, seed=0)
    assert boot.singular == (boot.draws["sd_(Intercept)|Batch"] == 0.0).sum() > 50
    # all draws at the estimate or above it
    ends = boot.conf_int(method="bca").loc["sd_(Intercept)|Batch"]
    assert ends[0] == 0.0 or np.isnan(ends[0])


def test_a_progress_bar(capsys):
    result = _sleep()
    result.bootstrap(12, progress=True)
    shown = capsys.readouterr().err
    assert "bootstrap" in shown and "/12 " in shown
    result.bootstrap(12)
    assert capsys.readouterr().err == ""


def test_a_stored_bootstrap():
    boot = _sleep().bootstrap(20, seed=1)
    again = pickle.loads(pickle.dumps(boot))
    pd.testing.assert_frame_equal(again.conf_int(0.1), boot.conf_int(0.1))
    with pytest.raises(InferenceError, match="stored"):
        again.more(5)
    with pytest.raises(InferenceError, match="stored"):
        again.conf_int(method="bca")


# -- intervals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_intervals_are_scipys(alpha):
    sample = np.random.default_rng(1).exponential(size=40)
    kwargs = dict(confidence_level=1 - alpha, n_resamples=999, vectorized=True, rng=np.random.default_rng(5))
    expected = stats.bootstrap((sample,), np.mean, method="BCa", **kwargs)
    draws, estimate = expected.bootstrap_distribution[:, None], np.array([sample.mean()])
    left_out = (sample.sum() - sample)[:, None] / 39
    got = bca(draws, estimate, acceleration(left_out), alpha)
    np.testing.assert_allclose(got[0], expected.confidence_interval, rtol=1e-12)
    kwargs["rng"] = np.random.default_rng(5)
    expected = stats.bootstrap((sample,), np.mean, method="basic", **kwargs)
    np.testing.assert_allclose(basic(draws, estimate, alpha)[0], expected.confidence_interval, rtol=1e-12)


def test_bca_of_a_fit():
    """The jackknife leaves out a subject at a time; fixed effects of balanced data are means of subjects'."""
    data = load_data("sleepstudy")
    result = _sleep()
    boot = result.bootstrap(100, seed=4, kind="cluster")
    left_out = np.array(
        [mme.lmer(FORMULA, data[data["Subject"] != s]).fe_params["Days"] for s in data["Subject"].unique()]
    )
    a = acceleration(left_out[:, None])
    expected = bca(boot.draws[["Days"]].to_numpy(), boot.estimate[["Days"]].to_numpy(), a, 0.1)
    np.testing.assert_allclose(boot.conf_int(0.1, method="bca").loc["Days"], expected[0], rtol=1e-6)
    by_function = boot.conf_int(0.1, lambda p: p["Days"], "bca")
    np.testing.assert_allclose(by_function.loc[0], expected[0], rtol=1e-6)
    with pytest.raises(OptionError, match="Did you mean 'bca'"):
        boot.conf_int(method="bcaa")


# -- tests ---------------------------------------------------------------------------------------------------


def test_likelihood_ratio_of_nested_models():
    data = load_data("sleepstudy")
    small, large = _sleep("Reaction ~ Days + (1 | Subject)"), _sleep()
    frame = large.bootstrap_test(small, n=60, seed=2)
    assert frame.loc["LRT", "statistic"] == pytest.approx(2 * (large.llf - small.llf), rel=1e-8)
    null = frame.attrs["null"]
    assert frame.loc["LRT", "p"] == (np.sum(null >= frame.loc["LRT", "statistic"]) + 1) / 61
    y = small.simulate(3, seed=2)
    for i in range(3):
        fits = [mme.lmer(r.formula, data.assign(Reaction=y[i])).llf for r in (small, large)]
        assert null[i] == pytest.approx(2 * (fits[1] - fits[0]), abs=1e-6)
    swapped = small.bootstrap_test(large, n=60, seed=2, workers=2)
    pd.testing.assert_frame_equal(swapped, frame)
    compared = mme.compare(small, large)
    assert frame.loc["LRT", "p_boundary"] == compared["p_boundary"].iloc[1]
    facade = _facade().bootstrap_test(small, n=60, seed=2)
    np.testing.assert_allclose(facade.attrs["null"], null, atol=1e-5)


def test_fixed_effects_are_tested_by_ml():
    small, large = _sleep("Reaction ~ 1 + (1 | Subject)"), _sleep("Reaction ~ Days + (1 | Subject)")
    with pytest.raises(OptionError, match="refit='ml'"):
        large.bootstrap_test(small, n=20)
    frame = large.bootstrap_test(small, n=20, refit="ml")
    assert frame.loc["LRT", "p"] == pytest.approx(1 / 21) and frame.attrs["method"] == "ML"
    with pytest.raises(OptionError, match="not nested"):
        _sleep("Reaction ~ 1 + (0 + Days | Subject)").bootstrap_test(small, n=20)
    with pytest.raises(OptionError, match="not a str"):
        large.bootstrap_test("small")
    iterative = _sleep("Reaction ~ Days + (1 | Subject)", solver="iterative")
    with pytest.raises(InferenceError, match="iterative"):
        iterative.bootstrap_test(_sleep(), n=20)


def test_iterative_fits():
    result = _sleep("Reaction ~ Days + (1 | Subject)", solver="iterative")
    exact = _sleep("Reaction ~ Days + (1 | Subject)")
    for kind in ("parametric", "residual"):
        got, expected = (r.bootstrap(10, seed=7, kind=kind) for r in (result, exact))
        np.testing.assert_allclose(got.draws["Days"], expected.draws["Days"], rtol=0.02)
    with pytest.raises(InferenceError, match="iterative"):
        result.bootstrap(10, kind="cluster")
    with pytest.raises(InferenceError, match="iterative"):
        result.bootstrap(10).conf_int(method="bca")
