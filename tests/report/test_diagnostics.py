"""Residuals, influence, scaled residuals and VIF of results: R's numbers, refits, both doors, bad input."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from inference.diagnosed import theta_of
from scipy import stats
from support import HERE, inference_reference, load_data, reference_models

import mme
from mme.exceptions import DataError, InferenceError, OptionError
from mme.report.inferences import Inferences

with open(HERE / "reference" / "diagnostics.json") as file:
    MODELS = json.load(file)["models"]


class At(Inferences):
    """What results would say at R's theta: searches there stop up to 1e-5 before the optimum."""

    def __init__(self, result, theta):
        before, design = result.fitted, result.fitted.design
        solution = before.objective().solution(np.atleast_1d(np.asarray(theta, dtype=float)))
        lam, start = [], 0
        for term in design.terms:
            size = term.structure.size(term.k)
            lam.append(term.structure.lam(solution["theta"][start : start + size], term.k))
            start += size
        self._at = replace(
            before,
            lam=tuple(lam),
            beta=solution["beta"],
            sigma2=solution["sigma2"],
            modes=lambda: solution["u"],
        )
        self._at = replace(self._at, vcov_beta=lambda: solution["vcov"])

    @property
    def fitted(self):
        return self._at


def fit_of(model, **options):
    data = load_data(model["data"])
    formula = model.get("formula", model.get("formula_r", "")).replace("factor(", "C(")
    return mme.lmer(formula, data, tol=1e-12, **options)


@pytest.mark.parametrize("name", list(inference_reference()))
def test_lme4s_leverages_and_distances(name):
    ref = inference_reference()[name]
    at = At(fit_of(ref), reference_models()[name]["reml"]["theta"])
    np.testing.assert_allclose(at.hatvalues()[:10], ref["hatvalues_head"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(at.cooks_distance()[:10], ref["cooks_head"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(at.residuals()[:10], ref["resid_head"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", list(MODELS))
def test_rs_diagnostics_of_unbalanced_data(name):
    ref = MODELS[name]
    options = {}
    if name == "weighted":
        options["weights"] = (load_data(ref["data"])["Sex"] == "Male") + 1.5
        assert ref["formula"] == "distance ~ age + Sex + (1|Subject)"
    at = At(fit_of(ref, **options), ref["theta"])
    np.testing.assert_allclose(at.hatvalues()[:20], ref["hatvalues"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(at.cooks_distance()[:20], ref["cooks"], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(at.residuals("pearson")[:20], ref["pearson"], rtol=0, atol=1e-8)
    if "vif" in ref:
        table = at.vif()
        assert list(table.index) == list(ref["vif"])
        np.testing.assert_allclose(table["gvif"], list(ref["vif"].values()), rtol=1e-7)
        df = ref.get("df", {}) or dict.fromkeys(ref["vif"], 1)
        assert list(table["df"]) == list(df.values())
        np.testing.assert_allclose(table["gvif_scaled"], table["gvif"] ** (0.5 / table["df"]))


@pytest.fixture(scope="module")
def slopes():
    return mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy"), tol=1e-12)


def test_labels(slopes, sleepstudy):
    moved = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy.set_index(sleepstudy.index + 1000))
    for values in (moved.residuals(), moved.hatvalues(), moved.influence().frame, moved.influence().dfbetas):
        assert list(values.index) == list(range(1000, 1180))
    pd.testing.assert_series_equal(moved.residuals(), moved.resid, check_names=False)
    assert moved.residuals("marginal").name == "marginal"
    by = slopes.influence("Subject")
    assert list(by.dfbeta.index) == sorted(sleepstudy.Subject.unique())
    assert by.frame.index.name == "Subject"
    assert list(by.frame["n"]) == [10] * 18
    assert list(by.dfbeta.columns) == ["(Intercept)", "Days"]
    frame = slopes.get_influence().summary_frame()
    assert {"dfb_Days", "hat", "hat_fixed", "cooks", "cooks_fixed", "mdffits", "covratio", "sigma"} <= set(
        frame
    )
    pd.testing.assert_series_equal(slopes.cooks_distance(), frame["cooks"])
    pd.testing.assert_series_equal(slopes.cooks_distance("fixed"), frame["cooks_fixed"], check_names=False)
    assert by.top(3).index.tolist() == by.frame["cooks_fixed"].nlargest(3).index.tolist()
    assert "Deletion of levels of Subject" in repr(by)


def test_least_squares_is_the_limit():
    """With a variance of zero everything is what statsmodels says of least squares."""
    import statsmodels.api as sm

    rng = np.random.default_rng(1)
    data = pd.DataFrame({"x": rng.normal(size=60), "g": np.arange(60) % 10})
    noise = rng.normal(size=60)
    noise -= pd.Series(noise).groupby(data.g).transform("mean").to_numpy()
    data["y"] = 1.0 + data.x + noise
    ours = mme.lmer("y ~ x + (1 | g)", data, tol=1e-12)
    assert ours.is_singular
    theirs = sm.OLS(data.y, sm.add_constant(data.x)).fit().get_influence()
    frame = ours.influence().frame
    np.testing.assert_allclose(frame["hat"], theirs.hat_matrix_diag, rtol=1e-10)
    np.testing.assert_allclose(frame["hat_fixed"], theirs.hat_matrix_diag, rtol=1e-10)
    np.testing.assert_allclose(frame["cooks"], theirs.cooks_distance[0], rtol=1e-9)
    np.testing.assert_allclose(frame["cooks_fixed"], theirs.cooks_distance[0], rtol=1e-9)
    np.testing.assert_allclose(ours.influence().dfbetas, theirs.dfbetas, rtol=1e-9)
    np.testing.assert_allclose(ours.residuals("standardized"), theirs.resid_studentized_internal, rtol=1e-10)
    np.testing.assert_allclose(
        ours.residuals("marginal-standardized"), theirs.resid_studentized_internal, rtol=1e-10
    )
    np.testing.assert_allclose(ours.residuals("whitened"), ours.residuals("pearson"), rtol=1e-12)


@pytest.mark.parametrize(
    ("formula", "name", "by", "most"),
    [
        ("Reaction ~ Days + (Days | Subject)", "sleepstudy", "Subject", 0.25),
        ("diameter ~ 1 + (1 | plate) + (1 | sample)", "Penicillin", "plate", 0.08),
        ("strength ~ 1 + (1 | batch / cask)", "Pastes", "cask:batch", 0.4),
    ],
)
def test_steps_beside_refits(formula, name, by, most):
    """One step is a refit but for terms of the second order in the change."""
    data = load_data(name)
    full = mme.lmer(formula, data, tol=1e-12)
    influence = full.influence(by)
    labels = data["cask"].astype(str) + ":" + data["batch"].astype(str) if by == "cask:batch" else data[by]
    start, moves, errors, betas = theta_of(full.fitted), [], [], []
    for level in influence.frame.index:
        left = mme.lmer(formula, data[labels != level], tol=1e-12)
        theta = theta_of(left.fitted)
        moves.append(theta - start)
        errors.append(influence.theta.loc[level].to_numpy() - theta)
        betas.append(influence.fe_params.loc[level].to_numpy() - left.fe_params.to_numpy())
    moves, errors = np.array(moves), np.array(errors)
    assert np.linalg.norm(errors) < most * np.linalg.norm(moves)
    # an error of the second order in the change
    size = np.linalg.norm(moves, axis=1)
    assert np.all(np.linalg.norm(errors, axis=1) < 8.0 * size**2)
    assert np.median(np.linalg.norm(errors, axis=1) / size) < 0.2
    assert np.abs(betas).max() < 0.2 * np.abs(influence.dfbeta.to_numpy()).max()
    assert influence.notes == ()
    assert list(influence.varcorr.columns.names) == ["grp", "var1", "var2"]
    assert len(influence.varcorr) == len(moves)


def test_variances_after_a_step(slopes):
    """Small deletions: those of a refit."""
    data = load_data("sleepstudy")
    influence = slopes.influence()
    rows = [3, 57, 100]
    for i in rows:
        left = mme.lmer("Reaction ~ Days + (Days | Subject)", data.drop(i), tol=1e-12)
        before = slopes.varcorr["vcov"].to_numpy()
        change = left.varcorr["vcov"].to_numpy() - before
        step = influence.varcorr.loc[i].to_numpy() - before
        np.testing.assert_allclose(step, change, rtol=0, atol=0.1 * np.abs(change).max())


def test_doors_agree(slopes, sleepstudy):
    other = mme.mixedlm("Reaction ~ Days", sleepstudy, groups="Subject", re_formula="~Days").fit(gtol=1e-10)
    for kind in ("raw", "pearson", "standardized", "marginal", "marginal-standardized", "whitened"):
        np.testing.assert_allclose(other.residuals(kind), slopes.residuals(kind), rtol=1e-5, atol=1e-5)
    a, b = other.influence("Subject"), slopes.influence("Subject")
    pd.testing.assert_frame_equal(a.frame, b.frame, rtol=1e-5)
    np.testing.assert_allclose(a.theta, b.theta, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(a.dfbetas, b.dfbetas, rtol=1e-4, atol=1e-6)
    components = mme.mixedlm(
        "Reaction ~ Days",
        sleepstudy,
        groups="Subject",
        re_formula="1",
        vc_formula={"late": "0 + C(Days > 6)"},
    ).fit()
    late = components.influence("late").frame
    assert len(late) == 36 and late.index[0] == "308:late[C(Days > 6)[False]]"
    assert late["n"].tolist() == [7, 3] * 18


def test_arrays(sleepstudy):
    X = np.column_stack([np.ones(180), sleepstudy.Days])
    result = mme.MixedLM(sleepstudy.Reaction.to_numpy(), X, sleepstudy.Subject.to_numpy()).fit()
    assert list(result.influence().frame.index) == list(range(180))
    assert len(result.influence(sleepstudy.Days).frame) == 10
    with pytest.raises(OptionError, match=r"by='Days' is no factor.*Known: "):
        result.influence("Days")
    wide = np.column_stack([X, np.random.default_rng(0).normal(size=180) + sleepstudy.Days])
    two = mme.MixedLM(sleepstudy.Reaction.to_numpy(), wide, sleepstudy.Subject.to_numpy()).fit()
    R = np.linalg.inv(np.corrcoef(wide[:, 1:].T))
    assert list(two.vif().index) == ["x1", "x2"]
    assert two.vif()["gvif"].iloc[0] == pytest.approx(two.vif()["gvif"].iloc[1])
    assert 1.0 < two.vif()["gvif"].iloc[0] < 2.0 * R[0, 0]
    with pytest.raises(InferenceError, match="fewer than two"):
        result.vif()


def test_any_factor(sleepstudy):
    data = sleepstudy.assign(late=np.where(sleepstudy.Days > 6, "yes", "no"), arm=sleepstudy.Subject % 3)
    result = mme.lmer("Reaction ~ C(arm) + Days + (1 | Subject)", data, tol=1e-12)
    arms = result.influence("arm")
    assert arms.frame["cooks_fixed"].isna().all()  # each has a coefficient that nothing else tells
    assert "the remaining rows do not tell all fixed effects" in arms.notes[0]
    labels = result.influence(data["late"])
    assert labels.by == "late" and list(labels.frame.index) == ["no", "yes"]
    assert labels.frame["n"].tolist() == [126, 54]
    left = result.influence(data["late"].tolist()).frame
    np.testing.assert_allclose(left, labels.frame)
    repeated = mme.lmer("Reaction ~ Days + (1 | Subject) + (0 + Days | Subject)", sleepstudy)
    assert repeated.influence("Subject").frame["n"].tolist() == [10] * 18


def test_missing_rows_are_not_labelled():
    data = load_data("sleepstudy")
    data.loc[[3, 8], "Reaction"] = np.nan
    result = mme.lmer("Reaction ~ Days + (1 | Subject)", data, missing="drop")
    assert len(result.residuals("standardized")) == 178 and 3 not in result.influence().frame.index
    with pytest.raises(OptionError, match="180 labels, and the fit 178 rows"):
        result.influence(data["Subject"])


# -- scaled residuals ----------------------------------------------------------------------------------------


def _grouped(seed: int, n: int = 600, q: int = 40, heavy: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.arange(n) % q
    x = rng.normal(size=n)
    e = rng.normal(size=n) * np.where(rng.random(n) < 0.05 * heavy, 8.0, 1.0)
    return pd.DataFrame({"y": 1.0 + x + rng.normal(size=q)[g] + e, "x": x, "g": g})


def test_scaled_residuals_of_a_true_model():
    result = mme.lmer("y ~ x + (1 | g)", _grouped(2))
    for options in ({}, {"random_effects": "conditional"}, {"rotate": True}):
        scaled = result.pit_residuals(n=400, seed=1, **options)
        assert scaled.values.between(0.0, 1.0).all() and len(scaled.values) == 600
        assert list(scaled.tests.index) == ["uniformity", "dispersion", "outliers"]
        assert (scaled.tests["p"] > 0.01).all()
        assert bool(scaled.notes) == (not options)
        again = result.pit_residuals(n=400, seed=1, **options)
        pd.testing.assert_series_equal(again.values, scaled.values)
    assert not np.array_equal(result.pit_residuals(seed=1).values, result.pit_residuals(seed=2).values)


def test_scaled_residuals_are_normal_probabilities():
    """Each response's own normal distribution, and of rotated rows that of the whitened one."""
    result = mme.lmer("y ~ x + (1 | g)", _grouped(4))
    sd = np.sqrt(result.scale * (1.0 + result.theta[0] ** 2))
    exact = stats.norm.cdf(result.residuals("marginal") / sd)
    drawn = result.pit_residuals(n=4000, seed=3).values
    assert np.abs(drawn - exact).max() < 5.0 * np.sqrt(0.25 / 4000)
    given = result.pit_residuals(n=4000, seed=3, random_effects="conditional").values
    assert np.abs(given - stats.norm.cdf(result.residuals("pearson"))).max() < 5.0 * np.sqrt(0.25 / 4000)
    rotated = result.pit_residuals(rotate=True)
    np.testing.assert_allclose(rotated.values, stats.norm.cdf(result.residuals("whitened")))
    ks = stats.kstest(rotated.values, "uniform")
    assert rotated.tests.loc["uniformity"].tolist() == [ks.statistic, ks.pvalue]


def test_scaled_residuals_find_heavy_tails():
    tests = mme.lmer("y ~ x + (1 | g)", _grouped(3, heavy=True)).pit_residuals(seed=1, rotate=True).tests
    assert tests.loc["uniformity", "p"] < 1e-4
    assert tests.loc["outliers", "p"] < 1e-4 and tests.loc["outliers", "statistic"] > 2.0 / 251.0


def test_scaled_residuals_of_weights():
    data = _grouped(5)
    data["w"] = np.where(np.arange(600) < 300, 0.2, 5.0)
    data["y"] = 1.0 + data.x + np.random.default_rng(8).normal(size=600) / np.sqrt(data.w)
    right = mme.lmer("y ~ x + (1 | g)", data, weights="w").pit_residuals(seed=1, rotate=True)
    wrong = mme.lmer("y ~ x + (1 | g)", data).pit_residuals(seed=1, rotate=True)
    assert right.tests.loc["uniformity", "p"] > 0.01 > wrong.tests.loc["uniformity", "p"]


# -- what cannot be given ------------------------------------------------------------------------------------


def test_influence_travels(slopes):
    for by in ("Subject", None):
        before = slopes.influence(by)
        again = pickle.loads(pickle.dumps(before))
        pd.testing.assert_frame_equal(again.summary_frame(), before.summary_frame())
        if by is None:
            with pytest.raises(InferenceError, match="the data were removed"):
                _ = again.theta
        else:  # made with the deletions
            pd.testing.assert_frame_equal(again.theta, before.theta)
    _ = before.theta
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(before)).varcorr, before.varcorr)


def test_bad_input(slopes, sleepstudy):
    with pytest.raises(OptionError, match=r"kind='deviance'.*Known: raw"):
        slopes.residuals("deviance")
    with pytest.raises(OptionError, match=r"by='Subjct' is no factor of the model. Did you mean 'Subject'"):
        slopes.influence("Subjct")
    with pytest.raises(OptionError, match="5 labels, and the fit 180 rows"):
        slopes.influence(list("abcde"))
    with pytest.raises(DataError, match="180 missing labels"):
        slopes.influence(np.full(180, np.nan))
    with pytest.raises(OptionError, match=r"column='size' is not known. Known: resid"):
        slopes.influence().top(column="size")
    with pytest.raises(OptionError, match="kind='all'"):
        slopes.hatvalues("all")
    with pytest.raises(OptionError, match="kind='all'"):
        slopes.cooks_distance("all")
    for n in (0, True, 2.5):
        with pytest.raises(OptionError, match="whole number of simulations, 20 or more"):
            slopes.pit_residuals(n=n)
    with pytest.raises(OptionError, match="random_effects='old'"):
        slopes.pit_residuals(random_effects="old")
    with pytest.raises(OptionError, match="rotate=True is for"):
        slopes.pit_residuals(random_effects="conditional", rotate=True)
    with pytest.raises(InferenceError, match="fewer than two"):
        slopes.vif()


def test_iterative_fits(sleepstudy):
    direct = mme.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy)
    model = mme.mixedlm("Reaction ~ Days", sleepstudy, groups="Subject")
    for result in (
        mme.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy, solver="iterative", seed=1),
        model.fit(solver="iterative", seed=1),
    ):
        for kind in ("raw", "pearson", "marginal"):
            np.testing.assert_allclose(result.residuals(kind), direct.residuals(kind), rtol=0, atol=2.0)
        assert 0.0 < result.pit_residuals(seed=1).tests.loc["uniformity", "p"] <= 1.0
        for call, words in (
            (lambda r: r.residuals("standardized"), r"residuals\('standardized'\) needs a factorization"),
            (lambda r: r.residuals("whitened"), r"residuals\('whitened'\) needs a factorization"),
            (lambda r: r.hatvalues(), "hatvalues needs a factorization"),
            (lambda r: r.influence("Subject"), r"influence\(\) needs a factorization"),
            (lambda r: r.pit_residuals(rotate=True), "needs a factorization"),
        ):
            with pytest.raises(InferenceError, match=words):
                call(result)


def test_removed_data(sleepstudy):
    result = mme.mixedlm("Reaction ~ Days", sleepstudy, groups="Subject").fit()
    result.remove_data()
    for call in (
        lambda: result.residuals("pearson"),
        lambda: result.residuals("standardized"),
        lambda: result.hatvalues(),
        lambda: result.influence(),
        lambda: result.pit_residuals(),
    ):
        with pytest.raises(InferenceError, match="the data were removed"):
            call()


def test_penalized_fits(sleepstudy):
    result = mme.mixedlm("Reaction ~ Days", sleepstudy, groups="Subject").fit_regularized(alpha=1.0)
    with pytest.raises(InferenceError, match="goes by the maximum of the likelihood"):
        result.influence()
    np.testing.assert_allclose(result.residuals(), result.resid)
    marginal = sleepstudy.Reaction - result.model.predict(result.fe_params)
    np.testing.assert_allclose(result.residuals("marginal"), marginal)


def test_perfect_fits():
    data = pd.DataFrame({"y": np.repeat([1.0, 3.0, 4.0, 8.0], 3), "g": np.repeat(list("abcd"), 3)})
    with pytest.warns(mme.exceptions.PerfectFitWarning):
        result = mme.lmer("y ~ 1 + (1 | g)", data, perfect="limit")
    np.testing.assert_allclose(result.residuals(), 0.0, atol=1e-7)
    with pytest.raises(InferenceError, match="residual variance is zero"):
        result.residuals("pearson")


def test_dropped_columns(sleepstudy):
    data = sleepstudy.assign(double=2.0 * sleepstudy.Days)
    with pytest.warns(mme.exceptions.RankDeficientWarning):
        result = mme.lmer("Reaction ~ Days + double + (1 | Subject)", data)
    plain = mme.lmer("Reaction ~ Days + (1 | Subject)", data)
    influence = result.influence("Subject")
    assert influence.dfbeta["double"].isna().all()
    np.testing.assert_allclose(influence.dfbeta["Days"], plain.influence("Subject").dfbeta["Days"], rtol=1e-8)
    pd.testing.assert_series_equal(result.hatvalues(), plain.hatvalues(), rtol=1e-9)
