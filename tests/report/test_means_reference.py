"""R's lmerTest, pbkrtest and emmeans on unbalanced data: empty cells, weights, slopes, nested factors."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from support import HERE, load_data

import mme

FORMULAS = {
    "m1": "y ~ a * b + x + flag + (1 | g)",
    "m2": "y ~ a * b + (1 | g)",
    "m3": "y ~ a * x + b * x + (1 | g)",
    "m4": "y ~ a * s + b + (1 | g)",
    "m5": "y ~ a + x + offset(2 * o) + (1 | g)",
    "m6": "y ~ a * log(x) + poly(z, 2) + C(k) + (1 | g)",
    "m7": "y ~ C(a, contr.sum) * C(b, contr.sum) * z + (1 | g)",
    "m7e": "y ~ C(a, contr.sum) * C(b, contr.sum) * z + (1 | g)",
    "m8": "y ~ A / B + x + (1 | g)",
    "m9": "y ~ 0 + a + b + (1 | g)",
    "m10": "y ~ flag * a + x + (1 | g)",
    "m11": "y ~ a + a:b + x:a + (1 | g)",
}
pytestmark = pytest.mark.filterwarnings("ignore::mme.exceptions.RankDeficientWarning")


@cache
def _reference() -> dict:
    with open(HERE / "reference" / "means.json") as file:
        return json.load(file)["models"]


@cache
def _fit(name: str):
    data = load_data("grid")
    if name in ("m2", "m7e"):
        data = data[~((data.a == "q") & (data.b == "w"))]
    return mme.lmer(FORMULAS[name], data, weights="w" if name == "m4" else None, tol=1e-13)


def _numbers(values) -> np.ndarray:
    return np.array([np.nan if value in (None, "NA", "nonEst") else value for value in values], dtype=float)


# In formulas that leave out a main effect lmerTest does not see that the interaction contains the other one,
# and without an intercept it tests the first factor's means at the base level of the others: what it tests
# depends on the coding.  Goodnight's definition (test_anova.py) and emmeans' joint tests give ours.
ELSEWHERE = {
    ("m8", "2"): ["A"],
    ("m8", "3"): ["A"],
    ("m9", "3"): ["a"],
    ("m11", "2"): ["a"],
    ("m11", "3"): ["a"],
}


@pytest.mark.parametrize("kind", ["1", "2", "3"])
@pytest.mark.parametrize("name", [name for name in FORMULAS if name != "m5"])
def test_anova_of_lmertest(name, kind):
    ref = _reference()[name]["anova"][kind]
    table = _fit(name).anova(kind)
    own = [k for k, term in enumerate(ref["term"]) if term in ELSEWHERE.get((name, kind), [])]
    rest = np.setdiff1d(np.arange(len(table)), own)
    for column, key, rtol in (
        ("F value", "F", 5e-6),
        ("NumDF", "df1", 0),
        ("DenDF", "df2", 3e-5),
        ("Sum Sq", "ss", 5e-6),
    ):
        np.testing.assert_allclose(table[column].iloc[rest], _numbers(ref[key])[rest], rtol=rtol)

    assert not np.any(np.isclose(table["F value"].iloc[own], _numbers(ref["F"])[own], rtol=0.05))
    np.testing.assert_allclose(table["Pr(>F)"].iloc[rest], _numbers(ref["p"])[rest], rtol=0, atol=1e-6)


def test_anova_of_pbkrtest():
    ref = _reference()["m1"]["akr"]
    table = _fit("m1").anova(3, "kenward-roger")
    for column in table.columns:
        rtol = 1e-6 if column != "Pr(>F)" else 1e-4
        np.testing.assert_allclose(table[column], _numbers(ref[column]), rtol=rtol)


TABLES = {
    ("m1", "eq"): lambda r: r.emmeans("a"),
    ("m1", "pr"): lambda r: r.emmeans("a", weights="proportional"),
    ("m1", "ce"): lambda r: r.emmeans("a", weights="cells"),
    ("m1", "by"): lambda r: r.emmeans("a", by="b"),
    ("m1", "kr"): lambda r: r.emmeans("b", ddf="kenward-roger"),
    ("m1", "tuk"): lambda r: r.emmeans("b", pairs=True),
    ("m1", "tukby"): lambda r: r.emmeans("a", by="b").pairs(),
    ("m1", "ctrl"): lambda r: r.emmeans("b").contrast("trt.vs.ctrl"),
    ("m1", "ctrl2"): lambda r: r.emmeans("b").contrast("trt.vs.ctrl", ref="w", adjust="holm"),
    ("m1", "consec"): lambda r: r.emmeans("b").contrast("consec"),
    ("m1", "poly"): lambda r: r.emmeans("b").contrast("poly"),
    ("m1", "sid"): lambda r: r.emmeans("b").pairs("sidak"),
    ("m1", "fdr"): lambda r: r.emmeans("b").pairs("fdr"),
    ("m1", "bonf"): lambda r: r.emmeans("b", ddf="kenward-roger").pairs("bonferroni"),
    ("m1", "meanadj"): lambda r: r.emmeans("b", adjust="sidak"),
    ("m1", "at"): lambda r: r.emmeans(["a", "x"], at={"x": [2, 3.5], "b": ["u", "w"]}),
    ("m2", "eq"): lambda r: r.emmeans("a"),
    ("m2", "cells"): lambda r: r.emmeans(["a", "b"]),
    ("m2", "ce"): lambda r: r.emmeans("a", weights="cells"),
    ("m2", "pairs"): lambda r: r.emmeans("a").pairs(),
    ("m3", "eq"): lambda r: r.emtrends("a", "x"),
    ("m3", "pr"): lambda r: r.emtrends("a", "x", weights="proportional"),
    ("m3", "pairs"): lambda r: r.emtrends("a", "x", pairs=True),
    ("m4", "eq"): lambda r: r.emmeans("a"),
    ("m4", "s"): lambda r: r.emmeans("s"),
    ("m4", "pr"): lambda r: r.emmeans("a", weights="proportional"),
    ("m4", "ce"): lambda r: r.emmeans("a", weights="cells"),
    ("m5", "eq"): lambda r: r.emmeans("a"),
    ("m6", "eq"): lambda r: r.emmeans("a"),
    ("m6", "k"): lambda r: r.emmeans("k"),
    ("m6", "trx"): lambda r: r.emtrends("a", "x"),
    ("m6", "trz"): lambda r: r.emtrends("z", "z", at={"z": [-1, 0.5]}),
    ("m8", "A"): lambda r: r.emmeans("A"),
    ("m8", "B"): lambda r: r.emmeans("B"),
    ("m8", "pA"): lambda r: r.emmeans("A", pairs=True),
    ("m8", "pB"): lambda r: r.emmeans("B", pairs=True),
}


@pytest.mark.parametrize(("name", "key"), list(TABLES), ids=lambda value: value)
def test_emmeans(name, key):
    ref = _reference()[name][key]
    table = TABLES[name, key](_fit(name))
    frame = table.frame
    for column in table.labels.columns.intersection(list(ref)):
        assert frame[column].tolist() == ref[column]
    estimate = next(k for k in ref if k in ("emmean", "estimate") or k.endswith(".trend"))
    # slopes: R's is a quotient of differences
    rtol = 2e-4 if key in ("trx", "trz") else 1e-6
    for column, theirs in (("estimate", estimate), ("se", "SE"), ("df", "df"), ("t", "t.ratio")):
        np.testing.assert_allclose(frame[column], _numbers(ref[theirs]), rtol=rtol, atol=1e-8)
    # the multivariate t of mvtnorm is good to 1e-3
    atol = 3e-4 if table.adjust == "mvt" else 1e-5
    np.testing.assert_allclose(frame["p"], _numbers(ref["p.value"]), rtol=0, atol=atol)
    width = frame["upper"] - frame["lower"]
    for column in ("lower", "upper"):
        gap = (frame[column] - _numbers(ref[f"{column}.CL"])) / width
        np.testing.assert_allclose(gap[~gap.isna()], 0.0, atol=1e-3 if table.adjust == "mvt" else 3e-5)
        assert gap.isna().sum() == np.isnan(_numbers(ref[f"{column}.CL"])).sum()


@pytest.mark.parametrize(
    ("name", "key", "by"),
    [
        ("m1", "joint", None),
        ("m1", "jby", "a"),
        *((name, "joint", None) for name in ("m2", "m3", "m4", "m8")),
    ],
)
def test_joint_tests(name, key, by):
    """emmeans rounds F to three decimals, and takes the least of the rows' degrees of freedom."""
    ref = _reference()[name][key]
    joint = _fit(name).joint_tests(by=by)
    n = len(joint)
    assert joint["term"].tolist() == ref["model term"][:n]
    assert ref["model term"][n:] in ([], ["(confounded)"])
    np.testing.assert_array_equal(joint["df1"], ref["df1"][:n])
    np.testing.assert_allclose(joint["F"], ref["F.ratio"][:n], atol=6e-4)
    np.testing.assert_allclose(joint["df2"], ref["df2"][:n], rtol=5e-3)
    np.testing.assert_allclose(joint["p"], _numbers(ref["p.value"])[:n], rtol=0, atol=1e-4)


def test_type_three_where_lmertest_has_another():
    """emmeans' joint tests of the nested model; ours without an intercept, and with other contrasts."""
    joint = _reference()["m8"]["joint"]
    assert _fit("m8").anova()["F value"]["A"] == pytest.approx(joint["F.ratio"][0], abs=6e-4)
    np.testing.assert_allclose(_fit("m9").anova()["F value"], _fit("m9").joint_tests()["F"], rtol=1e-8)
    a, b = "C(a, contr.sum)", "C(b, contr.sum)"
    coded = mme.lmer(f"y ~ {a} + {a}:{b} + x:{a} + (1 | g)", load_data("grid"))
    np.testing.assert_allclose(coded.anova()["F value"], _fit("m11").anova()["F value"], rtol=1e-4)
