"""What the doors do for a small model before and after the engine: counted, not timed."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pandas as pd
import patsy
import pytest
from numpy.testing import assert_array_equal
from support import load_data

import mme
from mme.formula import build_design, codes, levels, parse
from mme.formula.codes import encode
from mme.formula.columns import read_formula
from mme.formula.levels import GroupCoding
from mme.formula.scope import Scope

LMER = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture
def data() -> pd.DataFrame:
    return load_data("sleepstudy")


@pytest.fixture
def work(monkeypatch) -> Counter:
    """Columns taken out of frames, frames and indexes made, formulas read, as they happen."""
    done: Counter = Counter()

    def count(owner, name, label):
        function = getattr(owner, name)

        def call(*args, **kwargs):
            done[label] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    count(pd.DataFrame, "__getitem__", "columns")
    count(pd.DataFrame, "__init__", "frames")
    count(codes, "labels_of", "labels")
    count(levels, "labels_of", "labels")
    count(parse, "ParsedFormula", "parsed")
    count(patsy, "dmatrices", "patsy")
    return done


def mixed(data: pd.DataFrame) -> mme.MixedLM:
    return mme.MixedLM.from_formula("Reaction ~ Days", data, groups="Subject", re_formula="~Days")


def test_lmer_takes_every_column_once_and_makes_no_labels(data, work):
    parse.parse_formula.cache_clear()
    for _ in range(3):
        results = mme.lmer(LMER, data)
    assert work == {"columns": 3 * 3, "parsed": 1}
    effects = results.random_effects["Subject"]
    assert work["labels"] == 1
    assert effects.index.tolist() == sorted(data["Subject"].unique())


def test_mixedlm_takes_every_column_once_and_makes_two_frames(data, work):
    mixed(data).fit()
    work.clear()
    results = [mixed(data).fit() for _ in range(3)]
    assert work == {"columns": 3 * 3, "frames": 2 * 3}
    assert results[0].llf == results[2].llf == pytest.approx(-871.8141, abs=1e-4)
    assert results[0].fe_params.index.tolist() == ["Intercept", "Days"]


def test_the_response_and_the_codes_of_a_factor_are_no_copies(data):
    data["coded"] = (data["Subject"].rank(method="dense") - 1).astype(np.int32)
    model = build_design("Reaction ~ Days + (1 | coded)", data)
    assert np.shares_memory(model.design.y, data["Reaction"].to_numpy())
    categories = data.assign(coded=pd.Categorical(data["Subject"]))
    assert_array_equal(build_design("Reaction ~ 1 + (1 | coded)", categories).factors[0].codes, data["coded"])


def test_nobody_looks_at_the_variables_of_the_caller(data, monkeypatch):
    def looked(self, *args):
        raise AssertionError("the caller's variables were asked for")

    monkeypatch.setattr(Scope, "layers", property(looked))
    assert build_design(LMER, data).design.n == 180
    with pytest.raises(AssertionError, match="variables"):
        build_design("Reaction ~ other + (1 | Subject)", data)


def test_models_of_one_text_share_no_data(data):
    """The formula's coding is remembered by its text: whatever the columns hold, and however it is used."""
    other = data.assign(Days=data["Days"] * 0.5, Reaction=data["Reaction"].round().astype(int))
    first, second = mixed(data), mixed(other)
    assert_array_equal(first.exog[:, 1], data["Days"])
    assert_array_equal(second.exog[:, 1], data["Days"] / 2)
    assert_array_equal(second.endog, other["Reaction"])
    new = pd.DataFrame({"Days": [3.0, 20.0]})
    for model, results in ((first, first.fit()), (second, second.fit())):
        expected = results.fe_params.to_numpy() @ np.array([[1.0, 1.0], [3.0, 20.0]])
        np.testing.assert_allclose(results.predict(new), expected, rtol=1e-14)
        assert model.data.orig_exog.columns.name is None
        model.data.orig_exog.columns.name = "mine"
        model.data.orig_endog.columns.name = "mine"


def test_formulaic_reads_a_part_once_and_codes_every_frame(data):
    text = "Reaction ~ part * np.log1p(Days) + center(Days) + (1 | Subject)"
    frames = [
        data.assign(part=np.where(data["Days"] < k, *names)) for k, *names in ((5, "a", "b"), (3, "c", "d"))
    ]
    build_design(text, frames[0])
    read = read_formula.cache_info().misses
    first, second = (build_design(text, frame) for frame in frames)
    assert read_formula.cache_info().misses == read
    names = ("(Intercept)", "part[T.b]", "np.log1p(Days)", "center(Days)", "part[T.b]:np.log1p(Days)")
    assert first.design.x_names == names
    assert second.design.x_names == tuple(name.replace("T.b", "T.d") for name in names)
    assert_array_equal(second.design.X[:, 1], data["Days"] >= 3)
    for design, frame in zip((first, second), frames, strict=True):
        assert_array_equal(design.coding.fixed(frame.iloc[40:90]), design.design.X[40:90])


KINDS = {
    "integer": [308, 309, 330],
    "float": [1.0, 2.0, 3.0],
    "text": ["a", "b", "c"],
    "boolean": [False, True],
    "category": pd.CategoricalIndex(["z", "y", "x"], categories=["z", "y", "x"]),
    "date": pd.date_range("2020-01-01", periods=3),
}


@pytest.mark.parametrize(
    ("kind", "as_object"),
    [(kind, False) for kind in KINDS] + [(kind, True) for kind in KINDS if kind != "category"],
)
def test_levels_that_wait_are_what_they_were(kind, as_object):
    labels = pd.Series(KINDS[kind])
    column = labels.iloc[np.arange(40) * 7 % len(labels)].reset_index(drop=True)
    column = column.astype(object) if as_object else column
    factor = encode(column, "g")
    assert_array_equal(factor.codes, np.arange(40) * 7 % len(labels))
    assert factor.codes.dtype == np.int32
    assert isinstance(factor.levels, pd.Index)
    assert factor.levels.tolist() == labels.tolist()
    if kind == "text":
        assert factor.levels.dtype == pd.Index(["a"]).astype("str").dtype
    coding = GroupCoding.of(("g",), factor)
    for again in (coding, pickle.loads(pickle.dumps(coding))):
        assert_array_equal(again.codes([column[::-1]], None), factor.codes[::-1])
        pd.testing.assert_index_equal(again.labels[0], factor.levels)
    assert len(coding.held[0]) == len(labels)
    assert not any(np.shares_memory(factor.codes, array) for array in coding.table)
