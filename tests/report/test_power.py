"""Power by simulation: against noncentral t, the sizes of designs, what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support import load_data

import mme
from mme.exceptions import DesignError, InferenceError, OptionError
from mme.inference.power import design_of_size, grouping_of, truth_of


def _pilot(groups=8, rows=4):
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(groups), rows)
    treated = (g % 2).astype(float)
    y = 10.0 + treated + rng.normal(size=groups)[g] + rng.normal(size=g.size)
    return mme.lmer("y ~ treated + (1 | g)", pd.DataFrame({"y": y, "treated": treated, "g": g}))


VALUES = {"treated": 1.5, "sd_(Intercept)|g": 1.0, "sigma": 1.0}


def test_power_is_that_of_the_means_of_groups():
    """Balanced groups: t of a difference of means of groups, variance 1 + 1/rows, groups - 2 degrees."""
    table = mme.power(_pilot(), "treated", groups=[12, 24], rows=[4, 8], values=VALUES, n=400, seed=3)
    assert list(table["groups"]) == [12, 12, 24, 24]
    assert list(table["rows"]) == [48, 96, 96, 192]
    for _, row in table.iterrows():
        G, r = int(row["groups"]), int(row["rows"] // row["groups"])
        shift = 1.5 / np.sqrt((1.0 + 1.0 / r) * 4.0 / G)
        t = stats.t.ppf(0.975, G - 2)
        expected = stats.nct.sf(t, G - 2, shift) + stats.nct.cdf(-t, G - 2, shift)
        assert abs(row["power"] - expected) < 4.0 * np.sqrt(expected * (1 - expected) / 400)
        assert row["error"] == pytest.approx(np.sqrt(row["power"] * (1 - row["power"]) / row["fits"]))
        exact = stats.binomtest(round(row["power"] * row["fits"]), int(row["fits"])).proportion_ci()
        np.testing.assert_allclose(row[["lower", "upper"]].astype(float), exact, rtol=1e-9)
    assert table.attrs["values"] == VALUES


def test_level_and_workers():
    kwargs = dict(values={**VALUES, "treated": 0.0}, n=300, seed=1, groups=20)
    table = mme.power(_pilot(), "treated = 0", **kwargs)
    assert abs(table["power"][0] - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 300)
    pd.testing.assert_frame_equal(table, mme.power(_pilot(), "treated", workers=2, **kwargs))
    normal = mme.power(_pilot(), "treated", ddf="normal", **kwargs)
    assert normal["power"][0] >= table["power"][0]


def test_a_p_is_the_one_of_the_table():
    """One draw of the data's own size: significant where coef_table of its refit is."""
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy"))
    for ddf in ("satterthwaite", "kenward-roger"):
        p = result.refit(result.simulate(1, seed=5)[0]).coef_table(ddf=ddf)["p"]["Days"]
        for alpha, significant in ((p * 1.001, 1.0), (p * 0.999, 0.0)):
            assert mme.power(result, "Days", n=1, seed=5, alpha=alpha, ddf=ddf)["power"][0] == significant
    model = mme.MixedLM.from_formula(
        "Reaction ~ Days", load_data("sleepstudy"), groups="Subject", re_formula="Days"
    )
    table = mme.power(model.fit(), ["Intercept", "Days"], n=10, groups=6)
    assert table["power"][0] == 1.0 and table["groups"][0] == 6


def test_sizes_of_designs():
    pastes = mme.lmer("strength ~ 1 + (1 | batch/cask)", load_data("Pastes"))
    design = pastes.fitted.design
    codes = grouping_of(pastes.fitted, design, None)
    assert codes.max() == 9
    grown = design_of_size(design, codes, 13, None)
    assert [t.n_levels for t in grown.terms] == [39, 13] and grown.n == 78
    np.testing.assert_array_equal(grown.y[60:66], design.y[codes == 0])
    fewer = design_of_size(design, codes, None, 4)
    assert fewer.n == 40 and [t.n_levels for t in fewer.terms] == [20, 10]
    crossed = mme.lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", load_data("Penicillin"))
    with pytest.raises(OptionError, match="crossed; name the one"):
        grouping_of(crossed.fitted, crossed.fitted.design, None)
    design = crossed.fitted.design
    plates = design_of_size(design, grouping_of(crossed.fitted, design, "plate"), 30, None)
    assert [t.n_levels for t in plates.terms] == [30, 6]


def test_parameters_of_the_truth():
    fitted = mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy")).fitted
    here = truth_of(fitted, None)
    np.testing.assert_allclose(here.covariances[0], fitted.sigma2 * fitted.lam[0] @ fitted.lam[0].T)
    changed = truth_of(
        fitted, {"Days": 5, "sigma": 30, "sd_Days|Subject": 4.0, "cor_Days.(Intercept)|Subject": 0.5}
    )
    a = np.sqrt(here.covariances[0][0, 0])
    np.testing.assert_allclose(changed.covariances[0], [[a**2, 2 * a], [2 * a, 16.0]])
    assert changed.beta[1] == 5.0 and changed.sigma2 == 900.0
    draws = changed.draws(fitted.design)
    np.testing.assert_allclose(draws.sigma2 * draws.lam[0] @ draws.lam[0].T, changed.covariances[0])
    for bad in ({"Day": 1.0}, {"sigma": 0.0}, {"sd_Days|Subject": -1.0}, {"Days": "x"}):
        with pytest.raises(OptionError, match=next(iter(bad)).split("|")[0]):
            truth_of(fitted, bad)


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(n=0), "n=0"),
        (dict(groups=1), "groups=1"),
        (dict(rows=[4, 0]), "rows=0"),
        (dict(groups=[]), "empty"),
        (dict(workers=0), "workers=0"),
        (dict(group="h"), "Known: g"),
        (dict(ddf="satterthwait"), "Did you mean"),
        (dict(alpha=1.5), "alpha"),
    ],
)
def test_refusals(bad, message):
    with pytest.raises(OptionError, match=message):
        mme.power(_pilot(), "treated", **{"n": 2, **bad})


def test_what_has_no_power():
    with pytest.raises(OptionError, match="treatet"):
        mme.power(_pilot(), "treatet")
    with pytest.raises(OptionError, match="not a str"):
        mme.power("y ~ x", "x")
    iterative = mme.lmer("Reaction ~ Days + (1 | Subject)", load_data("sleepstudy"), solver="iterative")
    with pytest.raises(InferenceError, match="iterative"):
        mme.power(iterative, "Days")
    with pytest.raises(DesignError, match="8 levels in 8 rows"):
        mme.power(_pilot(), "treated", rows=1, n=2)
