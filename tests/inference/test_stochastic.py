"""Degrees of freedom after iterative fits: those of the direct fit, within their Monte Carlo errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support import load_data

import mme
from mme.exceptions import InferenceError
from mme.inference import stochastic

FORMULAS = {
    "Penicillin": "diameter ~ 1 + (1 | plate) + (1 | sample)",
    "Pastes": "strength ~ 1 + (1 | sample) + (1 | batch)",
    "Machines": "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)",
    "ScotsSec": "attain ~ sex + verbal + (1 | primary) + (1 | second)",
    "sim_vc8": "y ~ x + " + " + ".join(f"(1 | g{i})" for i in range(1, 9)),
}


def _crossed(seed: int) -> pd.DataFrame:
    """Two factors of 150 and 90 levels, a covariate of the first, slopes by the second."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 150, 1500), rng.integers(0, 90, 1500)
    x, w = rng.normal(size=1500), rng.normal(size=150)[a]
    u = rng.normal(size=(90, 2)) @ np.array([[0.8, 0.3], [0.0, 0.5]])
    y = 1 + 0.3 * x + 0.2 * w + 0.7 * rng.normal(size=150)[a] + u[b, 0] + u[b, 1] * x + rng.normal(size=1500)
    return pd.DataFrame({"y": y, "x": x, "w": w, "a": a, "b": b})


def _agree(formula: str, data: pd.DataFrame, method: str, reml: bool = True, **options) -> pd.DataFrame:
    exact = mme.lmer(formula, data, reml=reml, solver="direct").coef_table(method, **options)
    table = mme.lmer(formula, data, reml=reml, solver="iterative").coef_table(method, **options)
    assert table.attrs["ddf"] == method
    assert list(table.columns[-2:]) == ["se_error", "df_error"]
    for name in ("se", "df"):
        allowed = 6.0 * table[f"{name}_error"] + 2e-4 * exact[name]
        assert (np.abs(table[name] - exact[name]) <= allowed).all(), (name, table, exact)
        # errors are no larger than what the fit stops at
        assert (table[f"{name}_error"] <= 0.1 * exact[name]).all()
    return table


@pytest.mark.parametrize("method", ["satterthwaite", "kenward-roger"])
@pytest.mark.parametrize("name", ["Penicillin", "Pastes", "Machines", "ScotsSec"])
def test_tables_of_the_direct_fit(name, method):
    _agree(FORMULAS[name], load_data(name), method)


@pytest.mark.parametrize("method", ["satterthwaite", "kenward-roger"])
@pytest.mark.parametrize("information", ["observed", "expected"])
def test_large_factors_whose_traces_are_stochastic(method, information):
    table = _agree("y ~ x + w + (1 | a) + (x | b)", _crossed(1), method, information=information)
    assert (table.df_error > 0.0).all()


def test_maximum_likelihood():
    _agree("y ~ x + w + (1 | a) + (1 | b)", _crossed(2), "satterthwaite", reml=False)


def test_a_variance_at_zero_is_held():
    data = _crossed(3)
    data["none"] = np.random.default_rng(3).integers(0, 80, len(data))
    formula = "y ~ x + w + (1 | a) + (x | b) + (1 | none)"
    exact, got = (mme.lmer(formula, data, solver=solver) for solver in ("direct", "iterative"))
    assert exact.is_singular and got.is_singular
    table = got.coef_table()
    assert "Singular" in table.attrs["notes"][0]
    expected = exact.coef_table()
    assert (np.abs(table.df - expected.df) <= 6.0 * table.df_error + 1e-3 * expected.df).all()


def test_errors_cover_the_spread_over_seeds(monkeypatch):
    """Of fits with few probes, whose traces have few probes."""
    monkeypatch.setattr(stochastic, "_PROBES", 4)
    data, formula = _crossed(5), "y ~ x + w + (1 | a) + (x | b)"
    tables = [
        mme.lmer(formula, data, solver="iterative", seed=s, probes=6, goal=0.5).coef_table()
        for s in range(12)
    ]
    exact = mme.lmer(formula, data, solver="direct").coef_table()
    for name in ("se", "df"):
        off = np.array([t[name] - exact[name] for t in tables])
        error = np.sqrt(np.mean([t[f"{name}_error"] ** 2 for t in tables], axis=0))
        ratio = np.sqrt(np.mean(off**2, axis=0)) / error
        assert np.all((ratio > 0.3) & (ratio < 2.5)), (name, ratio)


def test_the_same_seed_gives_the_same_numbers():
    data, formula = _crossed(6), "y ~ x + w + (1 | a) + (1 | b)"
    first, second = (mme.lmer(formula, data, solver="iterative").coef_table() for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_mixedlm():
    data = _crossed(7)
    model = mme.mixedlm(
        "y ~ x + w", data, groups=np.ones(len(data)), vc_formula={"a": "0 + C(a)", "b": "0 + C(b)"}
    )
    exact = model.fit(solver="direct").coef_table("kenward-roger")
    table = model.fit(solver="iterative").coef_table("kenward-roger")
    for name in ("se", "df"):
        allowed = 6.0 * table[f"{name}_error"] + 2e-4 * exact[name]
        assert (np.abs(table[name] - exact[name]) <= allowed).all()


def test_pvalues_and_contrasts_go_by_them():
    result = mme.lmer(FORMULAS["Penicillin"], load_data("Penicillin"), solver="iterative")
    table = result.coef_table()
    np.testing.assert_allclose(result.pvalues, table["p"])
    row = result.contrast([2.0])
    np.testing.assert_allclose(row.df, table.df)
    np.testing.assert_allclose(row.se_error, 2.0 * table.se_error)
    text = result.summary().as_text()
    assert "Degrees of freedom: Satterthwaite" in text  # they were computed before


def test_without_its_data_a_fit_says_so():
    data = _crossed(8)
    model = mme.mixedlm(
        "y ~ x", data, groups=np.ones(len(data)), vc_formula={"a": "0 + C(a)", "b": "0 + C(b)"}
    )
    result = model.fit(solver="iterative")
    result.remove_data()
    with pytest.raises(InferenceError, match="the data were removed"):
        result.coef_table()
