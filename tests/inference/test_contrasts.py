"""Contrasts written as text, lists and dictionaries; what is wrong with them is named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support import load_data

import mme
from mme.exceptions import OptionError


@pytest.fixture(scope="module")
def oats():
    return mme.lmer("yield ~ nitro * Variety + (1 | Block/Variety)", load_data("ub_oats"))


def test_text_of_one_row(sleepstudy):
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy)
    expected = result.contrast([0, 1], value=10)
    for text in (
        "Days - 10 = 0",
        "Days = 10",
        "10 = Days",
        ["Days - 10"],
        ("Days = 10",),
        "2 * Days / 2 - 10",
    ):
        got = result.contrast(text)
        np.testing.assert_allclose(got[["t", "df", "p"]].abs(), expected[["t", "df", "p"]].abs(), rtol=1e-12)
    assert result.contrast("Days = 10").estimate[0] == pytest.approx(result.fe_params["Days"])
    np.testing.assert_allclose(
        result.contrast("(Intercept) + 5 * Days", ddf="kenward-roger"),
        result.contrast([1, 5], ddf="kenward-roger"),
    )


def test_names_with_brackets_colons_and_blanks():
    data = load_data("Oats").assign(**{"my col": lambda d: np.arange(len(d)) % 7.0})
    result = mme.lmer(
        'yield ~ C(Variety, Treatment("Golden Rain")) * np.log(nitro + 1) + `my col` + (1 | Block)', data
    )
    names = list(result.fe_params.index)
    assert any(":" in name and "[T.Golden Rain]" not in name and "(" in name for name in names)
    for j, name in enumerate(names):
        row = np.zeros(len(names))
        row[j] = 1.0
        pd.testing.assert_frame_equal(result.contrast(f"{name} = 0.5"), result.contrast(row, value=0.5))
        if j:
            expected = result.contrast(row - np.eye(len(names))[0])
            pd.testing.assert_frame_equal(result.contrast(f"{name} - {names[0]} = 0"), expected)


def test_several_rows_are_one_hypothesis(oats):
    names = list(oats.fe_params.index)
    a, b = names.index("Variety[T.Marvellous]"), names.index("Variety[T.Victory]")
    L = np.zeros((2, len(names)))
    L[0, a], L[1, b], L[1, a] = 1, 1, -1
    expected = oats.contrast(L, value=[0, 2])
    assert list(expected.columns) == ["F", "df1", "df2", "p"]
    first, second = "Variety[T.Marvellous] = 0", "Variety[T.Victory] - Variety[T.Marvellous] = 2"
    for written in (
        [first, second],
        f"{first}, {second}",
        [first, (second,)],
        [{"Variety[T.Marvellous]": 1.0}, second],
        [L[0], second],
        [pd.Series({"Variety[T.Marvellous]": 1.0}), second],
    ):
        pd.testing.assert_frame_equal(oats.contrast(written), expected)
    chain = oats.contrast("Variety[T.Marvellous] = Variety[T.Victory] = 0")
    np.testing.assert_allclose(chain, oats.contrast([-L[1], L[0] + L[1]]))
    named = oats.contrast({"Variety[T.Victory]": 1, "Variety[T.Marvellous]": -1}, value=2)
    pd.testing.assert_frame_equal(named, oats.contrast(second))


def test_both_doors_read_text(sleepstudy):
    lmer = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy, tol=1e-12)
    mixedlm = mme.mixedlm("Reaction ~ Days", sleepstudy, groups="Subject", re_formula="~Days").fit(gtol=1e-10)
    np.testing.assert_allclose(
        mixedlm.contrast("Intercept + 5 * Days = 300"),
        lmer.contrast("(Intercept) + 5 * Days = 300"),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("L", "words"),
    [
        ("Dais = 0", r"'Dais' is no coefficient\. Did you mean 'Days'\?"),
        ("Reaction = 0", r"'Reaction' is no coefficient\. Known: \(Intercept\), Days"),
        (["Days = 0", "Daysss = 1"], r"'Daysss' is no coefficient\. Did you mean 'Days'"),
        ("Days * Days = 1", "cannot be read: Can't multiply one variable by another"),
        ("Days = ", "cannot be read: expected a noun"),
        ("", "L is empty"),
        ([], "L is empty"),
        ({"Dais": 1.0}, r"names Dais, which are no coefficients.*Did you mean 'Days'"),
        ({"Days": "much"}, "must hold numbers"),
        ([1, 2, 3], r"need 2 numbers, one per coefficient: \(Intercept\), Days"),
        (["Days = 0", [1, 2, 3]], "need 2 numbers"),
        (["Days = 0", None], "L must hold text, or numbers"),
        ([[1, 2], [1]], "rows of equal length"),
    ],
)
def test_what_cannot_be_read(sleepstudy, L, words):
    result = mme.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy)
    with pytest.raises(OptionError, match=words):
        result.contrast(L)


def test_text_has_its_own_value(sleepstudy):
    result = mme.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy)
    with pytest.raises(OptionError, match=r"value=3 beside text.*'Days = 3'"):
        result.contrast("Days", value=3)


def test_rows_that_contradict_one_another(sleepstudy):
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy)
    once = result.contrast("Days = 10")
    for text in ("Days = 10, 2 * Days = 20", ["Days = 10", "Days = 10"]):
        got = result.contrast(text)
        assert got["df1"].item() == 1
        np.testing.assert_allclose(got["F"], once["t"] ** 2)
    for wrong in ("Days = 1, Days = 2", ["Days = 10", "2 * Days = 10"]):
        for test in (result.contrast, result.f_test, result.wald_test):
            with pytest.raises(OptionError, match="contradict one another"):
                test(wrong)
    with pytest.raises(OptionError, match="contradict one another"):
        result.contrast([[0, 1], [0, 0]], value=[0, 1])
    assert len(result.t_test("Days = 1, Days = 2").pvalue) == 2  # one by one


# -- units and origins of columns ----------------------------------------------------------------------------


def _crossed_factors(seed=0):
    rng = np.random.default_rng(seed)
    n = 90
    data = pd.DataFrame({"g": rng.integers(0, 9, n), "x": rng.normal(size=n)})
    data["a"] = rng.choice(list("pqr"), n)
    data["y"] = data.x + rng.normal(size=9)[data.g] + rng.normal(size=n)
    return data


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger"])
def test_a_column_far_from_zero_costs_no_digits(ddf):
    """At 1e8 its square leaves nothing of a variance that is made from the covariance of the coefficients."""
    data = _crossed_factors()
    plain, far = (mme.lmer("y ~ x + a + (1 | g)", d) for d in (data, data.assign(x=data.x + 1e8)))
    got, expected = (r.emmeans("a", ddf=ddf).frame for r in (far, plain))
    np.testing.assert_allclose(got[["se", "df"]], expected[["se", "df"]], rtol=1e-5)
    new = data.iloc[:4]
    expected = plain.get_prediction(new, random_effects=False, ddf=ddf)
    got = far.get_prediction(new.assign(x=new.x + 1e8), random_effects=False, ddf=ddf)
    np.testing.assert_allclose(got.se_mean, expected.se_mean, rtol=1e-5)


@pytest.mark.parametrize("door", ["lmer", "mixedlm"])
@pytest.mark.parametrize("scale", [1e-8, 1e-10, 1e8])
def test_units_of_another_column_do_not_matter(door, scale):
    data = _crossed_factors()
    rows = ["a[T.q] = 0", "a[T.r] = 0"]

    def fitted(frame):
        if door == "lmer":
            return mme.lmer("y ~ x + a + (1 | g)", frame)
        return mme.MixedLM.from_formula("y ~ x + a", frame, groups="g").fit()

    plain, scaled = fitted(data), fitted(data.assign(x=data.x * scale))
    for ddf in ("normal", "residual"):
        np.testing.assert_allclose(
            scaled.contrast(rows, ddf=ddf)["F"], plain.contrast(rows, ddf=ddf)["F"], rtol=1e-6
        )
    got, expected = (r.emmeans("a", pairs=True, adjust="mvt").frame["p"] for r in (scaled, plain))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def _shifted(shift: float) -> tuple[pd.DataFrame, np.ndarray]:
    """A covariate about `shift`, and rows of predictions, [1, x], at its first values."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"g": np.repeat(np.arange(24), 10), "x": rng.normal(size=240)})
    data["y"] = 2.0 * data.x + rng.normal(size=24)[data.g] + rng.normal(size=240)
    data["x"] = (data["x"] + 1e8) - 1e8 + shift  # both have the digits of the larger
    return data, np.column_stack([np.ones(3), data["x"][:3]])


@pytest.mark.parametrize(
    "by",
    [
        {"ddf": "normal"},
        {"ddf": "residual"},
        {"cov_type": "HC0"},
        {"cov_type": "CR0", "cluster": "g"},
        {"cov_type": "CR1", "cluster": "g", "ddf": "normal"},
        {"cov_type": "CR2", "cluster": "g"},
    ],
    ids=lambda by: "-".join(by.values()),
)
def test_columns_far_from_zero_cost_no_digits_of_rows(by):
    """A covariance in these columns has 1e16 where one is needed: a third of the standard error was noise."""
    (near, rows), (far, there) = _shifted(0.0), _shifted(1e8)
    for fit in (
        lambda data: mme.lmer("y ~ x + (1 | g)", data),
        lambda data: mme.mixedlm("y ~ x", data, groups="g").fit(),
    ):
        one, other = fit(near), fit(far)
        for row, same in zip(rows, there, strict=True):
            want, got = one.contrast(row, **by).iloc[0], other.contrast(same, **by).iloc[0]
            assert got["se"] == pytest.approx(want["se"], rel=1e-6)
        want, got = one.contrast(rows[:2], **by).iloc[0], other.contrast(there[:2], **by).iloc[0]
        np.testing.assert_allclose(got["F"], want["F"], rtol=1e-6)


def test_columns_far_from_zero_cost_no_digits_of_functions():
    (near, rows), (far, there) = _shifted(0.0), _shifted(1e8)
    se = []
    for data, row in ((near, rows[0]), (far, there[0])):
        result = mme.lmer("y ~ x + (1 | g)", data)
        se.append(result.delta(lambda p, row=row: p["(Intercept)"] * row[0] + p["x"] * row[1])["se"].iloc[0])
    assert se[1] == pytest.approx(se[0], rel=1e-4)  # differences of values that are 1e8 times as large
