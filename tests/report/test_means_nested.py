"""Marginal means: what counts as a level, factors nested in others, one factor under two names."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from report.test_means import COLUMNS, make_data

import mme
from mme.exceptions import InferenceError, RankDeficientWarning


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return make_data()


def test_two_values_are_levels(data):
    """As in R's emmeans: a column of zeros and ones has both in the grid, and counts in weights."""
    frame = data.assign(s=data.flag.astype(int), c=np.where(data.flag, 2.5, -1.0))
    result = mme.lmer("y ~ a * s + b + (1 | g)", frame)
    assert result.emmeans("s").labels["s"].tolist() == [0.0, 1.0]
    assert result.emmeans("a").L["s"].tolist() == [0.5] * 3
    assert "Averaged over s, b (equal weights)." in repr(result.emmeans("a"))
    share = frame.groupby("a")["s"].mean()
    np.testing.assert_allclose(result.emmeans("a", weights="cells").L["s"], share)
    assert result.emmeans("a", weights="cells", at={"s": 1}).L["s"].tolist() == [1.0] * 3
    assert result.emmeans("a", at={"s": 0.2}).L["s"].tolist() == [0.2] * 3
    assert result.emmeans("a", at={"s": 0.2}, weights="cells").L["s"].tolist() == pytest.approx([0.2] * 3)
    boolean = mme.lmer("y ~ a * flag + b + (1 | g)", frame)
    for table in (result, mme.lmer("y ~ a * c + b + (1 | g)", frame)):
        np.testing.assert_allclose(
            table.joint_tests().iloc[:, 1:], boolean.joint_tests().iloc[:, 1:], rtol=1e-6
        )


def test_levels_of_every_type(data):
    """Numbers, booleans, categories with some that do not occur, nullable: counted by value."""
    rng = np.random.default_rng(1)
    n = len(data)
    columns = {
        "cat": pd.Categorical(
            rng.choice(["mid", "low", "high"], n), categories=["mid", "low", "high", "none"]
        ),
        "ord": pd.Categorical(rng.choice(["mid", "low"], n), categories=["low", "mid"], ordered=True),
        "num": pd.Categorical(rng.integers(3, 6, n) * 10),
        "nullable": pd.array(rng.integers(0, 3, n), dtype="Int64"),
        "text": pd.array(rng.choice(["x", "y", "z"], n), dtype="string"),
        "real": rng.integers(0, 3, n).astype(float),
        "obj": np.array([1, 2, 3], dtype=object)[rng.integers(0, 3, n)],
    }
    frame = data.assign(**columns)
    for name in columns:
        coded = f"C({name})" if name in ("nullable", "real", "obj") else name
        result = mme.lmer(f"y ~ {coded} + a + (1 | g)", frame)
        counts = frame[name].value_counts(normalize=True).sort_index()
        counts = counts[counts > 0]
        labels = result.emmeans(name).labels[name].tolist()
        assert sorted(labels) == sorted(counts.index.tolist())
        L = result.emmeans("a", weights="proportional").L.iloc[0]
        expected = [counts[level] for level in labels[1:]]
        np.testing.assert_allclose([v for k, v in L.items() if k.startswith(coded)], expected)
        again = pickle.loads(pickle.dumps(result))
        np.testing.assert_array_equal(again.emmeans("a", weights="proportional").L.iloc[0], L)
        assert len(result.emmeans(name, at={name: labels[-1]})) == 1


def test_no_fixed_effects(sleepstudy):
    result = mme.lmer("Reaction ~ 0 + (1 | Subject)", sleepstudy)
    assert result.anova().empty and result.joint_tests().empty
    with pytest.raises(InferenceError, match="no fixed effects"):
        result.emmeans([])


@pytest.fixture(scope="module")
def nested(data):
    rng = np.random.default_rng(8)
    outer = np.array(list("LMN"))[data.g % 3]
    number = rng.integers(0, 2, len(data)) + (outer == "N") * rng.integers(0, 2, len(data))
    frame = data.assign(A=outer, B=[f"{a}{k}" for a, k in zip(outer, number, strict=True)])
    with pytest.warns(RankDeficientWarning):
        return frame, mme.lmer("y ~ A / B + x + (1 | g)", frame, tol=1e-12)


def test_nested_factors(nested):
    """Cells that cannot occur are left out, of means and of tests: as if each cell were a level."""
    frame, result = nested
    cells = mme.lmer("y ~ 0 + B + x + (1 | g)", frame, tol=1e-12)
    table = result.emmeans("B")
    assert table.labels.to_dict("list") == {
        "B": ["L0", "L1", "M0", "M1", "N0", "N1", "N2"],
        "A": list("LLMMNNN"),
    }
    assert "B is nested in A." in repr(table)
    np.testing.assert_allclose(table.frame[COLUMNS], cells.emmeans("B").frame[COLUMNS], rtol=1e-5)
    own = np.array([[1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1]]) / [[2], [2], [3]]
    expected = cells.emmeans("B").contrast(own, adjust=None).frame[COLUMNS]
    np.testing.assert_allclose(result.emmeans("A").frame[COLUMNS], expected, rtol=1e-5)
    counts = pd.crosstab(frame.A, frame.B, normalize="index").to_numpy()
    for weights in ("proportional", "cells"):
        expected = cells.emmeans("B").contrast(counts, adjust=None).frame["estimate"]
        np.testing.assert_allclose(
            result.emmeans("A", weights=weights).frame["estimate"], expected, rtol=1e-6
        )
    pairs = result.emmeans("B", by="A").pairs()
    assert pairs.labels["contrast"].tolist() == ["L0 - L1", "M0 - M1", "N0 - N1", "N0 - N2", "N1 - N2"]
    joint = result.joint_tests()
    assert joint["term"].tolist() == ["A", "x", "A:B"] and joint["df1"].tolist() == [2, 1, 4]
    D = np.diff(np.eye(7), axis=0)[[0, 2, 4, 5]]
    test = cells.contrast(np.hstack([D, np.zeros((4, 1))])).iloc[0]
    np.testing.assert_allclose(joint.iloc[2][["F", "df2"]].astype(float), test[["F", "df2"]], rtol=1e-5)
    means = cells.contrast(np.hstack([np.diff(own, axis=0), np.zeros((2, 1))])).iloc[0]
    np.testing.assert_allclose(joint.iloc[0]["F"], means["F"], rtol=1e-5)
    by = result.joint_tests(by="A")
    assert by["term"].tolist() == ["x"] * 3 + ["B"] * 3
    assert by["df1"].tolist() == [1, 1, 1, 1, 1, 2]
    with pytest.raises(InferenceError, match="results tests nested factors"):
        table.joint_tests()


def test_joint_tests_stay_where_the_data_are(data):
    """The logarithm of a share: its mean less one has none."""
    frame = data.assign(share=np.clip(data.o, 0.05, 0.95))
    result = mme.lmer("y ~ a * log(share) + (1 | g)", frame)
    joint = result.joint_tests().set_index("term")
    slope = result.contrast("log(share) + a[T.q]:log(share) / 3 + a[T.r]:log(share) / 3").iloc[0]
    assert joint.loc["share", "F"] == pytest.approx(slope["t"] ** 2, rel=1e-8)


def test_one_factor_under_two_names(data):
    frame = data.assign(twin=data.a.str.upper())
    with pytest.warns(RankDeficientWarning):
        result = mme.lmer("y ~ a:twin + (1 | g)", frame)
    plain = mme.lmer("y ~ a + (1 | g)", frame)
    got, expected = result.emmeans("a"), plain.emmeans("a")
    np.testing.assert_allclose(got.frame[COLUMNS], expected.frame[COLUMNS], rtol=1e-5)
    joint = result.joint_tests()
    assert joint["df1"].max() <= 2
