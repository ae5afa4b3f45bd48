"""Predictions of MixedLM's variance components at new rows: they are lmer's terms in other words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from support import load_data

import mme
from mme.exceptions import DataError


@pytest.fixture(scope="module")
def sleep():
    frame = pd.read_csv(mme.data_path("sleepstudy.csv"))
    return frame.assign(one=1, late=np.where(frame["Days"] > 4, "late", "early"))


MODELS = [
    ("Subject", "1", {"h": "0 + C(late)"}, "(1 | Subject) + (1 | Subject:late)"),
    ("Subject", "0", {"a": "1", "b": "0 + Days"}, "(1 | Subject) + (0 + Days | Subject)"),
    ("one", "0", {"a": "0 + C(Subject)", "b": "0 + late"}, "(1 | Subject) + (1 | late)"),
    ("one", "0", {"a": "0 + C(Subject)", "b": "0 + C(Subject):Days"}, "(Days || Subject)"),
    ("Subject", "~Days", {"h": "0 + C(late)"}, "(Days | Subject) + (1 | Subject:late)"),
]


@pytest.mark.parametrize(("groups", "re_formula", "vc", "bars"), MODELS, ids=lambda m: str(m)[:24])
def test_components_at_new_rows(sleep, groups, re_formula, vc, bars, tmp_path):
    sleep = sleep[(sleep["Subject"] != 372) | (sleep["late"] == "late")]  # a cell that does not occur
    door = mme.mixedlm("Reaction ~ Days", sleep, groups=groups, re_formula=re_formula, vc_formula=vc).fit()
    own, again = door.get_prediction(), door.get_prediction(sleep)
    assert_allclose(again.predicted_mean, np.asarray(door.fittedvalues), rtol=1e-12)
    assert_allclose(again.predicted_mean, own.predicted_mean, rtol=1e-12)
    assert_allclose(again.se_mean, own.se_mean, rtol=1e-8)
    new = pd.DataFrame(
        {
            "Days": [1.0, 8.0, 1.0, 8.0, np.nan],
            "Subject": [308, 308, 372, 999, 308],
            "late": ["early", "late", "early", "late", "early"],
            "one": 1,
        }
    )
    lmer = mme.lmer(f"Reaction ~ Days + {bars}", sleep)
    for effects in (True, False):
        got, want = (r.get_prediction(new, random_effects=effects).summary_frame() for r in (door, lmer))
        assert_allclose(got, want, rtol=2e-4)
        assert got.isna().all(axis=1).tolist() == [False] * 4 + [True]
    one = door.get_prediction(new.iloc[[1]]).summary_frame()
    assert_allclose(one, door.get_prediction(new).summary_frame().iloc[[1]], rtol=1e-8)
    with pytest.raises(DataError, match="levels that the fit did not have"):
        door.get_prediction(new, new_levels="error")
    name = next(iter(vc))
    part = door.get_prediction(new, random_effects=[name])
    assert np.isfinite(part.se_mean[:4]).all()
    mme.save(door, tmp_path / "door.mme")
    loaded = mme.load(tmp_path / "door.mme")
    assert_allclose(loaded.predict(new), door.get_prediction(new).predicted_mean, rtol=1e-12)
    assert_allclose(loaded.predict(new, [name]), part.predicted_mean, rtol=1e-12)


def test_components_that_depend_on_the_rows_of_their_group_are_refused_by_name():
    machines = load_data("Machines")
    fit = mme.mixedlm("score ~ 1", machines, groups="Worker", vc_formula={"m": "1 + C(Machine)"}).fit()
    with pytest.raises(
        DataError, match=r"variance components m of vc_formula are no cells.*random_effects=False"
    ):
        fit.get_prediction(machines)
    assert np.isfinite(fit.get_prediction(machines, random_effects=False).se_mean).all()


def test_groups_that_were_given_as_labels_leave_intervals_of_means(sleep):
    labelled = mme.mixedlm("Reaction ~ Days", sleep, groups=sleep["Subject"].to_numpy()).fit()
    named = mme.mixedlm("Reaction ~ Days", sleep, groups="Subject").fit()
    got, want = (
        r.get_prediction(sleep.head(), random_effects=False).summary_frame() for r in (labelled, named)
    )
    means = [name for name in got if name.startswith("mean")]
    assert_allclose(got[means], want[means], rtol=1e-12)
    assert got[["obs_ci_lower", "obs_ci_upper"]].isna().all(axis=None)
    with pytest.raises(DataError, match=r"groups were given as labels.*random_effects=False"):
        labelled.get_prediction(sleep.head())
