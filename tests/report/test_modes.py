"""Tables of random effects against lme4's condVar and against dense formulas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.linalg import block_diag
from support import inference_reference, load_data

import mme
from mme.exceptions import InferenceError, OptionError

CASES = [
    "sleepstudy_slope",
    "sleepstudy_int",
    "pastes_nested",
    "penicillin_crossed",
    "machines_nested",
    "oats",
]


@pytest.mark.parametrize("name", CASES)
def test_conditional_variances_of_lme4(name):
    model = inference_reference()[name]
    result = mme.lmer(model["formula_r"].replace("|", " | "), load_data(model["data"]))
    table = result.ranef_table()
    for group, expected in model["ranef_condvar"].items():
        mine = table[table.term.isin([group, ":".join(reversed(group.split(":")))])]
        k = len(mine.effect.unique())
        se = mine.se.to_numpy().reshape(-1, k)
        levels = [str(level) for level in mine.level[::k]]
        for label, V in zip(expected["names"], expected["var"], strict=True):
            at = (
                levels.index(label) if label in levels else levels.index(":".join(reversed(label.split(":"))))
            )
            np.testing.assert_allclose(se[at] ** 2, np.diag(np.atleast_2d(V)), rtol=2e-4)


def _data(seed=1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n = 200
    data = pd.DataFrame({"x": rng.normal(size=n), "g": rng.integers(0, 12, n), "h": rng.integers(0, 8, n)})
    data["w"] = rng.uniform(0.5, 2.0, n)
    data["y"] = (
        data.x + rng.normal(size=12)[data.g] * (1 + data.x) + rng.normal(size=8)[data.h] + rng.normal(size=n)
    )
    return data


@pytest.mark.parametrize("solver", ["direct", "iterative"])
def test_dense_formulas(solver):
    data = _data()
    result = mme.lmer("y ~ x + (x | g) + (1 | h)", data, weights="w", solver=solver)
    lam_g, lam_h = result.fit.lam
    D = block_diag(np.kron(np.eye(12), lam_g @ lam_g.T), lam_h[0, 0] ** 2 * np.eye(8))
    X, Z = np.column_stack([np.ones(200), data.x]), np.zeros((200, 32))
    rows = np.arange(200)
    Z[rows, 2 * data.g], Z[rows, 2 * data.g + 1], Z[rows, 24 + data.h] = 1.0, data.x, 1.0
    Vi = np.linalg.inv(np.diag(1 / data.w) + Z @ D @ Z.T)
    C = np.linalg.inv(X.T @ Vi @ X)
    P = Vi - Vi @ X @ C @ X.T @ Vi
    table = result.ranef_table(alpha=0.1)
    assert table.term.tolist() == ["g"] * 24 + ["h"] * 8
    given = result.scale * np.diag(D - D @ Z.T @ Vi @ Z @ D)
    pev = result.scale * np.diag(D - D @ Z.T @ P @ Z @ D)
    rtol = 1e-8 if solver == "direct" else 1e-5
    np.testing.assert_allclose(table.se**2, given, rtol=rtol)
    np.testing.assert_allclose(table.pev, pev, rtol=rtol)
    np.testing.assert_allclose(table.reliability, 1 - pev / (result.scale * np.diag(D)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table.upper - table.blup, stats.norm.ppf(0.95) * np.sqrt(pev), rtol=1e-5)
    u = pd.concat([result.random_effects["g"].stack(), result.random_effects["h"].stack()])
    np.testing.assert_allclose(table.blup, u.to_numpy())
    # some levels of one term
    some = result.ranef_table(term="g", levels=[3, 7], alpha=0.1)
    expected = table[(table.term == "g") & table.level.isin([3, 7])].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, expected, rtol=1e-6)
    other = result.ranef_table(term="h", levels=[5], alpha=0.1)
    expected = table[(table.term == "h") & (table.level == 5)].reset_index(drop=True)
    pd.testing.assert_frame_equal(other, expected, rtol=1e-6)


def test_both_doors():
    data = _data()
    ours = mme.lmer("y ~ x + (x | g)", data).ranef_table()
    theirs = mme.mixedlm("y ~ x", data, groups="g", re_formula="~x").fit().ranef_table()
    assert theirs.level.tolist() == ours.level.tolist()
    for name in ("blup", "se", "pev", "reliability"):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, atol=1e-4)


def test_variance_components():
    data = _data()
    model = mme.mixedlm(
        "y ~ x", data, groups=np.ones(len(data)), vc_formula={"g": "0 + C(g)", "h": "0 + C(h)"}
    )
    table = model.fit().ranef_table()
    ours = mme.lmer("y ~ x + (1 | g) + (1 | h)", data).ranef_table()
    assert table.effect.iloc[0] == "g[C(g)[0]]"
    assert len(table) == 20
    for name in ("blup", "se", "pev"):
        np.testing.assert_allclose(table[name], ours[name], rtol=1e-3, atol=1e-4)
    series = model.fit().random_effects[1.0]
    np.testing.assert_allclose(table.set_index("effect").blup.loc[series.index], series)


@pytest.mark.parametrize("solver", ["direct", "iterative"])
def test_without_fixed_effects_both_variances_are_one(solver):
    result = mme.lmer("y ~ 0 + (x | g) + (1 | h)", _data(), solver=solver)
    table = result.ranef_table()
    np.testing.assert_allclose(table.pev, table.se**2, rtol=1e-12)
    assert (table.pev > 0).all()
    if solver == "iterative":
        estimated = result.ranef_table(variances="estimated", probes=200)
        assert ((estimated.pev - table.pev).abs() < 5 * estimated.pev_error + 1e-4 * table.pev).all()


def test_a_variance_of_zero():
    data = _data().assign(half=lambda d: (d.y.rank() % 2).astype(int))
    result = mme.lmer("y ~ x + (1 | g) + (1 | half)", data)
    assert result.is_singular
    table = result.ranef_table(term="half")
    assert (table.blup.abs() < 1e-10).all() and (table.pev.abs() < 1e-10).all()
    assert table.reliability.isna().all()


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(3)
    n = 9000
    data = pd.DataFrame({"a": rng.integers(0, 2500, n), "b": rng.integers(0, 300, n)})
    data["x"] = rng.normal(size=n)
    data["y"] = rng.normal(size=2500)[data.a] + rng.normal(size=300)[data.b] * (1 + 0.5 * data.x)
    data["y"] += rng.normal(size=n)
    formula = "y ~ x + (1 | a) + (x | b)"
    return tuple(mme.lmer(formula, data, solver=solver) for solver in ("iterative", "direct"))


def test_all_levels_of_an_iterative_fit_have_variances_with_a_monte_carlo_error(many):
    result, direct = many
    table = result.ranef_table()
    exact = direct.ranef_table()
    assert table.columns.tolist() == [*exact.columns, "se_error", "pev_error"]
    assert table.level.tolist() == exact.level.tolist()
    a, b = (table.term == name for name in ("a", "b"))
    # 600 effects are solved for, 2,479 are not; the fits differ by 1e-3 of a variance
    np.testing.assert_array_equal(table.pev_error[b], 0.0)
    np.testing.assert_allclose(table.pev[b], exact.pev[b], rtol=5e-3)
    assert (table.pev_error[a] > 0).all()
    away = (table.pev - exact.pev)[a]
    assert (away.abs() < 5 * table.pev_error[a] + 5e-3 * exact.pev[a]).all()
    assert 0.5 < np.sqrt(np.mean((away / table.pev_error[a]) ** 2)) < 1.5
    assert np.sqrt(np.mean((away / exact.pev[a]) ** 2)) < 0.02
    np.testing.assert_allclose(2 * table.se * table.se_error, table.pev_error, rtol=1e-10)
    prior = result.varcorr.query("grp == 'a'").vcov.item()
    np.testing.assert_allclose(table.reliability[a], 1 - table.pev[a] / prior, rtol=1e-8)
    again = result.ranef_table("a", probes=128)
    assert again.pev_error.median() < 0.6 * table.pev_error[a].median()


def test_estimates_of_vector_terms(many):
    result, direct = many
    table, exact = result.ranef_table("b", variances="estimated", probes=64), direct.ranef_table("b")
    away = (table.pev - exact.pev).abs()
    assert (away < 5 * table.pev_error + 5e-3 * exact.pev).all()
    some = result.ranef_table("b", [3, 5], variances="estimated", probes=64)
    whole = table[table.level.isin([3, 5])].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, whole)


def test_variances_on_request(many):
    result, direct = many
    some = result.ranef_table(term="a", levels=[5, 6, 7])
    assert "pev_error" not in some
    exact = direct.ranef_table("a", [5, 6, 7])
    np.testing.assert_allclose(some.se, exact.se, rtol=5e-3)
    every = result.ranef_table("a", variances="exact")
    assert "pev_error" not in every and len(every) > 2000
    pd.testing.assert_frame_equal(every[every.level.isin([5, 6, 7])].reset_index(drop=True), some, rtol=1e-5)
    assert list(result.ranef_table(variances=False).columns) == ["term", "level", "effect", "blup"]
    # those of a direct fit have no error to tell
    pd.testing.assert_frame_equal(direct.ranef_table("a", variances="estimated"), direct.ranef_table("a"))


def test_estimates_of_a_variance_of_zero():
    data = _data().assign(half=lambda d: (d.y.rank() % 2).astype(int))
    result = mme.lmer("y ~ x + (1 | g) + (1 | half)", data, solver="iterative")
    table = result.ranef_table(variances="estimated")
    half = table[table.term == "half"]
    assert (half.pev < 1e-6).all() and (half.pev_error < 1e-6).all()
    assert np.isfinite(table.drop(columns=["term", "level", "effect", "reliability"])).all(axis=None)


def test_solves_that_do_not_converge_are_no_estimates(many, monkeypatch):
    objective = many[0].fitted.objective()
    monkeypatch.setattr(objective, "max_iterations", 1)
    with pytest.raises(InferenceError, match=r"did not converge.*levels=.*solver='direct'"):
        many[0].ranef_table("a", variances="estimated")


def test_bad_input():
    result = mme.lmer("y ~ x + (x | g) + (1 | h)", _data())
    with pytest.raises(OptionError, match=r"term='k' is not there. Known: g, h"):
        result.ranef_table("k")
    with pytest.raises(OptionError, match="levels= goes with term=, one of g, h"):
        result.ranef_table(levels=[1])
    with pytest.raises(OptionError, match="g has no level 'x', 99"):
        result.ranef_table("g", ["x", 99, 3])
    with pytest.raises(OptionError, match="variances='all' is not known"):
        result.ranef_table(variances="all")
    with pytest.raises(OptionError, match="probes must be an integer and at least 2, not 1"):
        result.ranef_table(probes=1)
    with pytest.raises(OptionError, match="alpha"):
        result.ranef_table(alpha=1.5)
