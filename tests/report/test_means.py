"""Marginal means, slopes and contrasts: R's emmeans, dense formulas, what is not estimable, bad input."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
from inference.dense_small_sample import DenseSmallSample
from scipy import stats
from support import emmeans_reference, load_data

import mme
from mme.exceptions import DataError, InferenceError, MemoryEstimateError, OptionError, RankDeficientWarning

MODELS = emmeans_reference()
COLUMNS = ["estimate", "se", "df", "t", "p", "lower", "upper"]


def make_data(seed: int = 3, n: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    data = pd.DataFrame(
        {
            "g": np.arange(n) % 15,
            "a": rng.choice(list("pqr"), n, p=[0.5, 0.3, 0.2]),
            "b": rng.choice(list("uvwx"), n, p=[0.4, 0.3, 0.2, 0.1]),
            "k": rng.choice([1, 5, 10], n, p=[0.2, 0.3, 0.5]),
            "x": rng.uniform(1.0, 9.0, n),
            "z": rng.normal(size=n),
            "o": rng.uniform(size=n),
            "w": rng.uniform(0.5, 3.0, n),
            "flag": rng.random(n) < 0.3,
        }
    )
    data["y"] = (
        data.a.map({"p": 0.0, "q": 1.0, "r": -0.5}) * (1 + (data.b == "v"))
        + 0.3 * data.x * (data.a == "r")
        + data.o
        + rng.normal(size=15)[data.g]
        + rng.normal(size=n)
    )
    return data


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return make_data()


@pytest.fixture(scope="module")
def crossed(data):
    return mme.lmer("y ~ a * b + x + flag + (1 | g)", data, tol=1e-12)


# -- R ------------------------------------------------------------------------------------------------------


def _close(got, ref, name, rtol):
    """R stops up to 2e-4 before these optima; bounds are compared in widths of their intervals."""
    ref = {key: np.atleast_1d(value) for key, value in ref.items()}
    for ours, theirs in (("estimate", name), ("se", "SE"), ("df", "df"), ("t", "t.ratio")):
        np.testing.assert_allclose(got[ours], ref[theirs].astype(float), rtol=rtol, atol=1e-10)
    np.testing.assert_allclose(got["p"], ref["p.value"].astype(float), rtol=0, atol=2e-4)
    if "lower.CL" in ref:
        width = (ref["upper.CL"] - ref["lower.CL"]).astype(float)
        for ours, theirs in (("lower", "lower.CL"), ("upper", "upper.CL")):
            np.testing.assert_allclose((got[ours] - ref[theirs].astype(float)) / width, 0.0, atol=3e-4)


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger"])
@pytest.mark.parametrize("name", list(MODELS))
def test_emmeans_of_r(name, ddf):
    model = MODELS[name]
    result = mme.lmer(model["formula_r"].replace("factor(", "C("), load_data(model["data"]), tol=1e-12)
    ref, trend = model[ddf], model["trend"]
    if trend:
        means = result.emtrends(model["specs"], trend, by=model["by"], ddf=ddf)
    else:
        means = result.emmeans(model["specs"], by=model["by"], ddf=ddf)
    for column in means.labels:
        assert means.labels[column].tolist() == ref["means"][column]
    _close(means.frame, ref["means"], f"{trend}.trend" if trend else "emmean", 6e-4)
    for key, adjust in (("pairs_tukey", "tukey"), ("pairs_none", None), ("pairs_holm", "holm")):
        pairs = means.pairs(adjust)
        assert pairs.labels["contrast"].tolist() == np.atleast_1d(ref[key]["contrast"]).tolist()
        _close(pairs.frame, ref[key], "estimate", 6e-4)
    pd.testing.assert_frame_equal(means.pairs().frame, means.pairs("tukey").frame)

    joint = result.joint_tests(ddf=ddf)
    expected = {key: np.atleast_1d(value) for key, value in ref["joint"].items()}
    assert joint["term"].tolist() == expected["model term"].tolist()
    np.testing.assert_array_equal(joint["df1"], expected["df1"])
    F, df2, p = joint["F"], joint["df2"], joint["p"]
    if (name, ddf) == ("machines", "kenward-roger"):
        # emmeans has neither Kenward and Roger's scale nor their denominator: it takes the rows' least.
        # The F of six workers' two differences is Hotelling's: (6 - 2) / (2 5) T^2 with (2, 4) degrees.
        assert df2[0] == pytest.approx(4.0)
        F, df2 = F * 5 / 4, df2 + 1
        p = pd.Series(stats.f.sf(F, 2, df2))
    np.testing.assert_allclose(F, expected["F.ratio"], atol=8e-4, rtol=6e-4)  # three decimals
    np.testing.assert_allclose(df2, expected["df2"], atol=1.1e-2)  # two; balance makes those of orthodont 25
    np.testing.assert_allclose(p, expected["p.value"], rtol=0, atol=2e-4)


# -- dense formulas -----------------------------------------------------------------------------------------


def _cell(names, a, b, x, flag=0.5) -> np.ndarray:
    """A row of y ~ a * b + x + flag by hand."""
    row = pd.Series(0.0, index=names)
    row["(Intercept)"], row["x"], row["flag"] = 1.0, x, float(flag)
    for name, on in (
        (f"a[T.{a}]", 1.0),
        (f"b[T.{b}]", 1.0),
        (f"a[T.{a}]:b[T.{b}]", 1.0),
    ):
        if name in row.index:
            row[name] = on
    return row.to_numpy()


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger"])
def test_means_from_x_and_v(crossed, data, ddf):
    design, fit = crossed.fit.design, crossed.fit
    information = "observed" if ddf == "satterthwaite" else "expected"
    dense = DenseSmallSample(design, list(fit.lam), fit.sigma2, True, information)
    C = dense.C if ddf == "satterthwaite" else dense.adjusted
    names = crossed.fe_params.index
    rows = np.array([np.mean([_cell(names, a, b, data.x.mean()) for b in "uvwx"], axis=0) for a in "pqr"])
    means = crossed.emmeans("a", ddf=ddf)
    np.testing.assert_allclose(means.L, rows, atol=1e-12)
    frame = means.frame
    assert list(frame.columns) == ["a", *COLUMNS]
    se = np.sqrt(np.einsum("qi,ij,qj->q", rows, C, rows))
    df = np.array([dense.degrees(row) for row in rows])
    np.testing.assert_allclose(frame["estimate"], rows @ fit.beta)
    np.testing.assert_allclose(frame["se"], se, rtol=1e-6)
    np.testing.assert_allclose(frame["df"], df, rtol=1e-5)
    np.testing.assert_allclose(frame["p"], 2 * stats.t.sf(np.abs(frame["t"]), df), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(frame["upper"] - frame["estimate"], stats.t.isf(0.025, df) * se, rtol=1e-5)
    pairs = means.pairs(None).frame
    D = np.array([rows[0] - rows[1], rows[0] - rows[2], rows[1] - rows[2]])
    np.testing.assert_allclose(pairs["se"], np.sqrt(np.einsum("qi,ij,qj->q", D, C, D)), rtol=1e-6)
    np.testing.assert_allclose(pairs["df"], [dense.degrees(row) for row in D], rtol=1e-5)
    tukey = means.pairs().frame
    exact = stats.studentized_range.sf(np.sqrt(2) * np.abs(pairs["t"]), 3, pairs["df"])
    np.testing.assert_allclose(tukey["p"], exact, rtol=1e-8)
    # a row of the table is a contrast of the coefficients
    again = crossed.contrast(means.L.iloc[1], ddf=ddf)
    np.testing.assert_allclose(again.iloc[0], frame[COLUMNS].iloc[1].astype(float), rtol=1e-10)


def test_weights(crossed, data):
    names, x = crossed.fe_params.index, data.x.mean()
    cells = {
        (a, b, f): _cell(names, a, b, x, f) for a, b, f in itertools.product("pqr", "uvwx", [False, True])
    }
    share = data.groupby(["b", "flag"]).size() / len(data)
    own = data.groupby(["a", "b", "flag"]).size() / data.groupby("a").size()
    for weights, of in (
        ("equal", lambda a, b, f: 1 / 8),
        ("proportional", lambda a, b, f: share[b, f]),
        ("cells", lambda a, b, f: own.get((a, b, f), 0.0)),
    ):
        expected = [sum(of(*key) * row for key, row in cells.items() if key[0] == a) for a in "pqr"]
        means = crossed.emmeans("a", weights=weights)
        np.testing.assert_allclose(means.L, expected, atol=1e-12)
        assert f"Averaged over b, flag ({weights} weights)." in repr(means)
    # cells: the mean of the fixed part over the rows, covariates at their mean
    X = crossed.fit.design.X.copy()
    X[:, names.get_loc("x")] = x
    by_rows = [X[(data.a == a).to_numpy()].mean(axis=0) for a in "pqr"]
    np.testing.assert_allclose(crossed.emmeans("a", weights="cells").L, by_rows, atol=1e-12)
    np.testing.assert_allclose(crossed.emmeans([], weights="proportional").L, [X.mean(axis=0)], atol=1e-12)
    restored = pickle.loads(pickle.dumps(crossed))
    np.testing.assert_allclose(restored.emmeans("a", weights="cells").L, by_rows, atol=1e-12)


def test_subsets_and_missing_rows_do_not_count(data):
    frame = data.copy()
    frame.loc[:20, "y"] = np.nan
    result = mme.lmer("y ~ a + b + (1 | g)", frame, subset="x > 2", missing="drop")
    used = frame[(frame.x > 2) & frame.y.notna()]
    share = used.b.value_counts(normalize=True)
    L = result.emmeans("a", weights="proportional").L
    np.testing.assert_allclose(L.filter(like="b[T"), [share[["v", "w", "x"]]] * 3)


def test_at_by_and_order(crossed, data):
    means = crossed.emmeans(["a", "x"], by="b", at={"x": [2, 3.5], "b": ["w", "u"], "a": ["r", "p"]})
    assert means.labels.to_dict("list") == {
        "a": ["r", "p"] * 4,
        "x": [2.0, 2.0, 3.5, 3.5] * 2,
        "b": ["w"] * 4 + ["u"] * 4,
    }
    names = crossed.fe_params.index
    expected = [_cell(names, a, b, x) for b in "wu" for x in (2, 3.5) for a in "rp"]
    np.testing.assert_allclose(means.L, expected, atol=1e-12)
    pairs = means.pairs()
    assert pairs.labels["contrast"].tolist()[:2] == ["r x2 - p x2", "r x2 - r x3.5"]
    assert pairs.labels["b"].tolist() == ["w"] * 6 + ["u"] * 6
    within = means.contrast("consec", by=["b", "x"])
    assert within.labels.to_dict("list") == {
        "contrast": ["p - r"] * 4,
        "b": ["w", "w", "u", "u"],
        "x": [2.0, 3.5, 2.0, 3.5],
    }
    np.testing.assert_allclose(within.L.iloc[0], expected[1] - expected[0], atol=1e-12)
    # one number and one level need no list
    assert crossed.emmeans("a", at={"x": 2, "b": "w"}).L.iloc[0, 1] == 0.0
    # the factor by its name in the formula
    result = mme.lmer("y ~ C(k) + (1 | g)", data)
    np.testing.assert_array_equal(result.emmeans("C(k)").L, result.emmeans("k").L)
    assert result.emmeans("k").labels["k"].tolist() == [1, 5, 10]
    assert result.emmeans("k", pairs=True).labels["contrast"].tolist() == ["k1 - k5", "k1 - k10", "k5 - k10"]


def test_transformations(data):
    """Covariates are at the mean of the variable, not of what the formula makes of it."""
    result = mme.lmer("y ~ a + np.log(x) + poly(z, 2) + C(k) + (1 | g)", data)
    row = result.emmeans([]).L.iloc[0]
    assert row["np.log(x)"] == pytest.approx(np.log(data.x.mean()))
    grid = pd.DataFrame({"a": "p", "x": data.x.mean(), "z": data.z.mean(), "k": 1}, index=[0])
    poly = result.model.model_design.coding.fixed(grid)[
        0, list(result.fe_params.index).index("poly(z, 2)[2]")
    ]
    assert row["poly(z, 2)[2]"] == pytest.approx(poly)
    assert row["C(k)[T.5]"] == pytest.approx(1 / 3)
    assert "At x = " in repr(result.emmeans("a"))


def test_offset_is_at_its_mean(data):
    plain = mme.lmer("y ~ a + x + (1 | g)", data.assign(y=data.y - 2 * data.o - np.log(data.w)))
    for result in (
        mme.lmer("y ~ a + x + offset(2 * o + log(w)) + (1 | g)", data),
        mme.lmer("y ~ a + x + offset(log(w)) + (1 | g)", data, offset=2 * data.o),
    ):
        shift = (2 * data.o + np.log(data.w)).mean()
        got, expected = result.emmeans("a").frame, plain.emmeans("a").frame
        for name in ("estimate", "lower", "upper"):
            np.testing.assert_allclose(got[name], expected[name] + shift, rtol=1e-6)
        np.testing.assert_allclose(got["t"], got["estimate"] / got["se"])
        pairs = [r.emmeans("a").pairs().frame[COLUMNS] for r in (result, plain)]
        np.testing.assert_allclose(*pairs, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(
            result.emmeans("a").joint_tests()["F"], plain.anova()["F value"].iloc[:1], rtol=1e-5
        )
        trend = result.emtrends([], "x").frame
        assert trend["estimate"][0] == pytest.approx(plain.fe_params["x"], rel=1e-6)


# -- slopes -------------------------------------------------------------------------------------------------


def test_slopes(data):
    result = mme.lmer("y ~ a * np.log(x) + poly(z, 2) + I(z ** 3) + (1 | g)", data)
    b = result.fe_params
    trend = result.emtrends("a", "x", at={"x": 4}).frame
    slope = b["np.log(x)"] + np.array([0, b["a[T.q]:np.log(x)"], b["a[T.r]:np.log(x)"]])
    np.testing.assert_allclose(trend["estimate"], slope / 4, rtol=1e-9)
    coding = result.model.model_design.coding

    def part(z):
        return coding.fixed(pd.DataFrame({"a": "p", "x": 1.0, "z": z})) @ b

    at = np.array([-1.0, 0.5])
    curve = result.emtrends("z", "z", at={"z": list(at)}).frame
    h = 1e-4
    np.testing.assert_allclose(curve["estimate"], (part(at + h) - part(at - h)) / (2 * h), rtol=1e-6)
    exact = mme.lmer("y ~ a + z + I(z ** 2) + I(z ** 3) + (1 | g)", data)
    b = exact.fe_params
    got = exact.emtrends("z", "z", at={"z": list(at)}).frame["estimate"]
    np.testing.assert_allclose(got, b["z"] + 2 * b["I(z ** 2)"] * at + 3 * b["I(z ** 3)"] * at**2, rtol=1e-9)


def test_slopes_weighted_and_compared(data):
    result = mme.lmer("y ~ a * x + b * x + (1 | g)", data)
    share = data.b.value_counts(normalize=True)
    L = result.emtrends("a", "x", weights="proportional").L
    assert L["b[T.v]:x"].tolist() == pytest.approx([share["v"]] * 3)
    assert L["a[T.q]:x"].tolist() == pytest.approx([0, 1, 0])
    assert L["(Intercept)"].tolist() == pytest.approx([0, 0, 0])
    pairs = result.emtrends("a", "x", pairs=True, adjust=None).frame
    np.testing.assert_allclose(
        pairs.iloc[0][COLUMNS].astype(float), result.contrast("-1 * a[T.q]:x").iloc[0], rtol=1e-7
    )


# -- contrasts ----------------------------------------------------------------------------------------------


def test_families(crossed):
    means = crossed.emmeans("b")
    rows = means.L.to_numpy()
    for method, ref, adjust, expected in (
        ("pairwise", None, "tukey", [rows[a] - rows[b] for a, b in itertools.combinations(range(4), 2)]),
        ("trt.vs.ctrl", None, "mvt", rows[1:] - rows[0]),
        ("trt.vs.ctrl", "w", "mvt", rows[[0, 1, 3]] - rows[2]),
        ("consec", None, "mvt", np.diff(rows, axis=0)),
        ("poly", None, None, [[-3, -1, 1, 3] @ rows, [1, -1, -1, 1] @ rows, [-1, 3, -3, 1] @ rows]),
        ({"u - rest": [1, -1 / 3, -1 / 3, -1 / 3]}, None, None, [[1, -1 / 3, -1 / 3, -1 / 3] @ rows]),
        (pd.DataFrame([[1, -1, 0, 0]], index=["c"]), None, None, [rows[0] - rows[1]]),
    ):
        got = means.contrast(method, ref=ref)
        np.testing.assert_allclose(got.L, expected, atol=1e-12)
        assert got.adjust == adjust
        assert means.contrast(method, ref=ref, adjust="holm").adjust == "holm"


def test_dunnett():
    """A control's differences by the multivariate t: scipy's own test where rows are independent."""
    rng = np.random.default_rng(1)
    groups = [rng.normal(loc, size=12) for loc in (0.0, 0.8, 1.0, 0.3)]
    frame = pd.DataFrame(
        {"t": np.repeat(list("cdef"), 12), "y": np.concatenate(groups), "g": np.arange(48) % 4}
    )
    result = mme.lmer("y ~ t + (1 | g)", frame)
    assert result.is_singular
    got = result.emmeans("t", ddf="residual").contrast("trt.vs.ctrl").frame
    expected = stats.dunnett(*groups[1:], control=groups[0], random_state=1)
    scale = np.sqrt(result.scale * (2 / 12)) / got["se"]
    np.testing.assert_allclose(scale, 1.0, rtol=1e-6)
    np.testing.assert_allclose(got["p"], expected.pvalue, atol=2e-3)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(got["lower"], interval.low, atol=5e-3)


def test_contrasts_of_contrasts(crossed):
    """Differences of differences: the interaction."""
    means = crossed.emmeans("a", by="b", at={"a": ["p", "q"], "b": ["u", "v"]})
    interaction = means.pairs().contrast("pairwise", by=None, adjust=None).frame
    t = crossed.contrast("a[T.q]:b[T.v] = 0")
    assert interaction["estimate"][0] == pytest.approx(-t["estimate"][0] * -1)
    assert interaction["p"][0] == pytest.approx(t["p"][0])


def test_one_mean_needs_no_adjustment(crossed):
    one = crossed.emmeans([], adjust="bonferroni").frame
    two = crossed.emmeans([]).frame
    pd.testing.assert_frame_equal(one, two)
    means = crossed.emmeans("a", adjust="tukey")
    np.testing.assert_allclose(means.frame["p"], crossed.emmeans("a", adjust="sidak").frame["p"])
    assert "Šidák's was made" in means.notes[-1]
    assert "Bonferroni, as 'holm' has none" in crossed.emmeans("a", pairs=True, adjust="holm").notes[-1]


def test_intervals(crossed):
    means = crossed.emmeans("a", alpha=0.1)
    half = stats.t.isf(0.05, means.frame["df"]) * means.frame["se"]
    np.testing.assert_allclose(means.frame["upper"] - means.frame["estimate"], half)
    wide = means.confint(alpha=0.01, adjust="bonferroni")
    assert list(wide.columns) == ["a", "estimate", "se", "df", "lower", "upper"]
    half = stats.t.isf(0.005 / 3, means.frame["df"]) * means.frame["se"]
    np.testing.assert_allclose(wide["upper"] - wide["estimate"], half)
    assert means.frame.attrs["alpha"] == 0.1


# -- joint tests --------------------------------------------------------------------------------------------


def test_joint_tests_of_factors_are_type_three(data):
    result = mme.lmer("y ~ a * b + (1 | g)", data)
    for ddf in ("satterthwaite", "kenward-roger"):
        joint, anova = result.joint_tests(ddf=ddf), result.anova(ddf=ddf)
        assert joint["term"].tolist() == list(anova.index)
        np.testing.assert_allclose(joint["F"], anova["F value"], rtol=1e-8)
        np.testing.assert_allclose(joint["df2"], anova["DenDF"], rtol=2e-3)
        of_means = result.emmeans(["a", "b"], ddf=ddf).joint_tests()
        np.testing.assert_allclose(of_means["F"], joint["F"], rtol=1e-8)


def test_joint_tests_within(data):
    result = mme.lmer("y ~ a * x + b + flag + (1 | g)", data)
    joint = result.joint_tests(by="a")
    assert joint["term"].tolist() == ["x"] * 3 + ["b"] * 3 + ["flag"] * 3
    assert joint["a"].tolist() == list("pqr") * 3
    t = result.emtrends("a", "x").frame["t"]
    np.testing.assert_allclose(joint["F"][:3], t**2, rtol=1e-7)
    # centred: the main effect of a is that at the mean of x
    plain = result.joint_tests().set_index("term")
    centred = mme.lmer("y ~ a * c + b + flag + (1 | g)", data.assign(c=data.x - data.x.mean())).anova()
    np.testing.assert_allclose(
        plain.loc[["a", "x", "a:x"], "F"], centred.loc[["a", "c", "a:c"], "F value"], rtol=1e-5
    )
    within = result.emmeans(["b"], by="flag").joint_tests()
    assert within["flag"].tolist() == [False, True]
    whole = result.emmeans("b", pairs=True).joint_tests()
    assert whole["term"].tolist() == ["all contrasts"] and whole["df1"][0] == 3
    np.testing.assert_allclose(whole["F"], plain.loc[["b"], "F"], rtol=1e-8)


# -- what the data do not tell ------------------------------------------------------------------------------


def test_empty_cells(data):
    kept = data[~((data.a == "q") & (data.b == "w"))]
    with pytest.warns(RankDeficientWarning):
        result = mme.lmer("y ~ a * b + (1 | g)", kept)
    cells = result.emmeans(["a", "b"])
    lost = (cells.labels.a == "q") & (cells.labels.b == "w")
    assert cells.frame.loc[lost, COLUMNS].isna().all(axis=None)
    assert cells.frame.loc[~lost, COLUMNS].notna().all(axis=None)
    assert "Not estimable: a = q, b = w." in cells.notes
    means = result.emmeans("a")
    assert means.frame["estimate"].isna().tolist() == [False, True, False]
    assert "Not estimable: a = q." in repr(means)
    pairs = means.pairs()
    assert pairs.frame["estimate"].isna().tolist() == [True, False, True]
    assert "Not estimable: p - q; q - r." in pairs.notes
    # by frequencies of cells there is nothing in the empty one
    weighted = result.emmeans("a", weights="cells").frame
    assert weighted["estimate"].notna().all()
    # within b = u all is there
    assert result.emmeans("a", at={"b": ["u", "v", "x"]}).frame["estimate"].notna().all()
    joint = result.joint_tests().set_index("term")
    assert joint.loc[["a", "b", "a:b"], "df1"].tolist() == [1, 2, 5]
    assert "Of a, b, a:b only what the data tell was tested" in result.joint_tests().attrs["notes"][-1]


def test_cells_without_rows_have_no_weights(data):
    kept = data[~((data.a == "q") & data.flag)]
    result = mme.lmer("y ~ a + flag + (1 | g)", kept)
    means = result.emmeans(["a", "flag"])
    assert means.frame["estimate"].notna().all()
    weighted = result.emmeans(["a", "flag"], weights="cells")
    assert weighted.frame["estimate"].isna().sum() == 1
    assert "Not estimable: a = q, flag = True." in weighted.notes
    # others' contrasts stay
    assert weighted.pairs(by="flag").frame["estimate"].isna().sum() == 2


# -- doors and other fits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("formula", ["y ~ a * b + x + flag", "y ~ C(a, Sum) * b + np.log(x) + flag"])
def test_both_doors_agree(data, formula):
    lmer = mme.lmer(f"{formula.replace('Sum', 'contr.sum')} + (1 | g)", data, tol=1e-12)
    mixedlm = mme.mixedlm(formula, data, groups="g").fit(gtol=1e-10)
    for ours, theirs in (
        (lmer.emmeans("a"), mixedlm.emmeans("a")),
        (lmer.emmeans("a", by="flag", weights="cells"), mixedlm.emmeans("a", by="flag", weights="cells")),
        (
            lmer.emmeans("b", pairs=True, ddf="kenward-roger"),
            mixedlm.emmeans("b", pairs=True, ddf="kenward-roger"),
        ),
        (lmer.emtrends("a", "x"), mixedlm.emtrends("a", "x")),
    ):
        pd.testing.assert_frame_equal(ours.labels, theirs.labels, check_dtype=False)
        np.testing.assert_allclose(theirs.frame[COLUMNS], ours.frame[COLUMNS], rtol=1e-4, atol=1e-7)
    joint = mixedlm.joint_tests().set_index("term")
    np.testing.assert_allclose(
        joint, lmer.joint_tests().set_index("term").loc[joint.index], rtol=1e-4, atol=1e-7
    )
    mixedlm.remove_data()
    with pytest.raises(InferenceError, match=r"emmeans goes by the terms of a formula: the data.*removed"):
        mixedlm.emmeans("a")


def test_iterative_fits(data):
    exact = mme.lmer("y ~ a * b + (1 | g)", data)
    result = mme.lmer("y ~ a * b + (1 | g)", data, solver="iterative")
    means, expected = result.emmeans("a").frame, exact.emmeans("a").frame
    np.testing.assert_allclose(means["estimate"], expected["estimate"], rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(means["df"], expected["df"], rtol=1e-2)
    normal = result.emmeans("a", ddf="normal")
    assert np.isinf(normal.frame["df"]).all()
    pairs = normal.pairs().frame
    exact_p = stats.studentized_range.sf(np.sqrt(2) * np.abs(pairs["t"]), 3, np.inf)
    np.testing.assert_allclose(pairs["p"], exact_p)
    assert result.joint_tests(ddf="normal")["df2"].tolist() == [np.inf] * 3


def test_other_tables(crossed):
    normal = crossed.emmeans("a", ddf="normal").frame
    np.testing.assert_allclose(normal["p"], 2 * stats.norm.sf(np.abs(normal["t"])))
    assert crossed.emmeans("a", ddf="residual").frame["df"].tolist() == [300 - 14] * 3
    ml = mme.lmer("y ~ a + (1 | g)", make_data(), reml=False)
    assert ml.emmeans("a").frame["df"].notna().all()


def test_an_intercept_alone():
    result = mme.lmer("Yield ~ 1 + (1 | Batch)", load_data("Dyestuff"))
    frame = result.emmeans([]).frame
    np.testing.assert_allclose(frame[COLUMNS].iloc[0], result.coef_table().iloc[0])
    assert result.joint_tests().empty


def test_a_table_is_light(crossed):
    means = crossed.emmeans(["a", "b"])
    before = means.frame
    assert len(pickle.dumps(means)) < 40_000 < len(pickle.dumps(crossed))  # the rows are not in it
    again = pickle.loads(pickle.dumps(means))
    pd.testing.assert_frame_equal(again.frame, before)
    pd.testing.assert_frame_equal(again.pairs("holm").frame, means.pairs("holm").frame)
    dropped = make_data()
    dropped = dropped[~((dropped.a == "q") & (dropped.b == "w"))]
    with pytest.warns(RankDeficientWarning):
        result = mme.lmer("y ~ a * b + (1 | g)", dropped)
    again = pickle.loads(pickle.dumps(result.emmeans(["a", "b"])))
    assert again.contrast("consec", by="b").frame["estimate"].isna().sum() == 2


def test_printing(crossed):
    text = repr(crossed.emmeans("a", by="flag", ddf="kenward-roger", pairs=True))
    assert text.startswith("Contrasts of marginal means\n")
    for words in ("p - q", "False", "Kenward-roger", "adjusted within flag: tukey", "At x = "):
        assert words in text
    html = crossed.emmeans("a")._repr_html_()
    assert "<table" in html and "Marginal means" in html


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda r: r.emmeans("A"),
            r"specs names 'A', which is no variable.*Did you mean 'a'|Its variables are a, b",
        ),
        (lambda r: r.emmeans("flg"), "Did you mean 'flag'"),
        (lambda r: r.emmeans("g"), "It is a grouping factor: its effects are random"),
        (lambda r: r.emmeans("a | b"), "Give several as a list, and those to go by as by="),
        (lambda r: r.emmeans("a", by="c"), "by names 'c'"),
        (lambda r: r.emmeans("a", by="a"), "a cannot be both in specs and in by"),
        (lambda r: r.emmeans(3), "specs=3 must be a name, or a list of names"),
        (lambda r: r.emmeans("a", at={"b": "uu"}), r"'b' has no level 'uu'\. Did you mean 'u'\?"),
        (lambda r: r.emmeans("a", at={"flag": ["maybe"]}), r"'flag' has no level 'maybe'.*False, True"),
        (lambda r: r.emmeans("a", at={"y": 1}), "at names 'y'"),
        (lambda r: r.emmeans("a", at={"x": "much"}), "'x' is numeric, and these are not"),
        (lambda r: r.emmeans("a", at={"x": np.nan}), "missing or infinite"),
        (lambda r: r.emmeans("a", at={"x": []}), "is empty"),
        (lambda r: r.emmeans("a", at="x"), "must be a dictionary"),
        (lambda r: r.emmeans("a", weights="proportion"), "Did you mean 'proportional'"),
        (lambda r: r.emmeans("a", adjust="tuckey"), "Did you mean 'tukey'"),
        (lambda r: r.emmeans("a", pairs=True, adjust="tuckey"), "Did you mean 'tukey'"),
        (lambda r: r.emmeans("a", ddf="satterthwait"), "Did you mean 'satterthwaite'"),
        (lambda r: r.emmeans("a", alpha=95), "alpha=95 must lie between 0 and 1"),
        (lambda r: r.emtrends("a", var="b"), r"var='b' is not numeric: it has levels\. Numeric variables: x"),
        (lambda r: r.emtrends("a", var="flag"), "var='flag' is not numeric"),
        (lambda r: r.emtrends("a", var="xx"), "var names 'xx'"),
        (lambda r: r.emtrends("a", var=["x", "b"]), "must be the name of one numeric variable"),
        (lambda r: r.emmeans("a").contrast("pairwize"), "Did you mean 'pairwise'"),
        (lambda r: r.emmeans("a").contrast([1, -1]), "needs 3 numbers, one for each of p, q, r"),
        (lambda r: r.emmeans("a").contrast("trt.vs.ctrl", ref="s"), "ref='s' is none of the means"),
        (lambda r: r.emmeans("a").pairs(by="b"), "by='b' is no column of the table"),
        (lambda r: r.emmeans("a").confint(alpha=2), "alpha=2 must lie between"),
        (lambda r: r.joint_tests(by="c"), "by names 'c'"),
    ],
)
def test_what_there_is_not(crossed, call, words):
    with pytest.raises(OptionError, match=words):
        call(crossed)


def test_grids_that_do_not_fit(crossed, monkeypatch):
    monkeypatch.setattr("mme.inference.grid.available_memory", lambda: 1000.0)
    with pytest.raises(
        MemoryEstimateError, match=r"grid has 24 cells.*a \(3\), b \(4\), x \(1\), flag \(2\)"
    ):
        crossed.emmeans("a")


def test_differences_that_do_not_fit(crossed, monkeypatch):
    means = crossed.emmeans(["a", "b"])
    monkeypatch.setattr("mme.inference.families.available_memory", lambda: 1000.0)
    with pytest.raises(MemoryEstimateError, match=r"12 means have 66 differences.*trt\.vs\.ctrl"):
        means.pairs()
    assert len(means.contrast("consec")) == 11


def test_formulas_without_rows_of_their_own(data):
    result = mme.lmer("y ~ a + I(x - x.mean()) + (1 | g)", data)
    with pytest.raises((DataError, mme.exceptions.FormulaError), match="depends on the other rows"):
        result.emmeans("a")


def test_arrays_have_no_grid(sleepstudy):
    X = np.column_stack([np.ones(180), sleepstudy.Days])
    result = mme.MixedLM(sleepstudy.Reaction, X, sleepstudy.Subject).fit()
    with pytest.raises(InferenceError, match="emmeans goes by the terms of a formula"):
        result.emmeans("Days")
