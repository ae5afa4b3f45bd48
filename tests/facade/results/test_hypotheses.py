"""statsmodels' tests of hypotheses where some parameters have no standard error."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import mme
from mme.exceptions import OptionError


def _data() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    n = 90
    data = pd.DataFrame(
        {"g": rng.integers(0, 9, n), "x": rng.normal(size=n), "a": rng.choice(list("pqr"), n)}
    )
    data["y"] = 1.0 + data.x + rng.normal(size=9)[data.g] + rng.normal(size=n)
    return data.assign(twice=2.0 * data.x)


def _check(result, names: list[str], alone: list[str]) -> None:
    """Tests of fixed effects against their table, of a term against V of its coefficients."""
    k = len(names)
    t = result.t_test(np.eye(k))
    at = [names.index(name) for name in alone]
    assert_allclose(t.effect, result.fe_params, rtol=1e-12)
    assert_allclose(t.sd, result.bse_fe, rtol=1e-9)
    assert_allclose(t.tvalue, result.fe_params / result.bse_fe, rtol=1e-9)
    assert_allclose(
        result.t_test("x = 0.5").tvalue.item(), (result.fe_params["x"] - 0.5) / result.bse_fe["x"]
    )
    b, V = result.fe_params.iloc[at].to_numpy(), np.asarray(result.cov_params())[np.ix_(at, at)]
    wald = b @ np.linalg.solve(V, b)
    text = " = ".join(alone) + " = 0"
    assert_allclose(result.f_test(text).fvalue, wald / len(at), rtol=1e-8)
    assert_allclose(result.wald_test(text, use_f=False).statistic, wald, rtol=1e-8)
    assert_allclose(result.wald_test_terms().table.loc["a", "statistic"], wald, rtol=1e-8)


@pytest.mark.filterwarnings("ignore:The random effects covariance")
@pytest.mark.filterwarnings("ignore:The information is singular")
def test_a_variance_at_the_boundary_leaves_the_tests_of_fixed_effects():
    result = mme.MixedLM.from_formula("y ~ x + a", _data(), groups="g", re_formula="~x").fit()
    assert np.isnan(result.bse).any() and not np.isnan(result.bse_fe).any()
    _check(result, ["Intercept", "a[T.q]", "a[T.r]", "x"], ["a[T.q]", "a[T.r]"])


@pytest.mark.filterwarnings("ignore::mme.exceptions.RankDeficientWarning")
def test_a_dropped_column_has_no_test_and_the_others_have_theirs():
    result = mme.MixedLM.from_formula("y ~ x + twice + a", _data(), groups="g").fit()
    names = ["Intercept", "a[T.q]", "a[T.r]", "x", "twice"]
    assert list(np.isnan(result.t_test(np.eye(5)).tvalue)) == [False, False, False, False, True]
    _check(result, names, ["a[T.q]", "a[T.r]"])
    assert np.isnan(result.f_test("twice = 0").fvalue)
    assert np.isnan(result.wald_test("twice = x", use_f=False).pvalue)
    assert np.isnan(result.wald_test_terms().table.loc["twice", "pvalue"])


@pytest.mark.parametrize("method", ["t_test", "f_test", "wald_test"])
def test_names_that_there_are_not(sleepstudy, method):
    """The nearest coefficient is named; who catches patsy's error catches this one."""
    from patsy import PatsyError

    sleep = sleepstudy.assign(half=np.where(sleepstudy.Days % 3 > 1, "late", "early"))
    result = mme.mixedlm("Reaction ~ Days + C(half, Sum)", sleep, groups="Subject").fit()
    test = getattr(result, method)
    for text, near in (
        ("Day = 0", "Days"),
        ("Days - C(half, Sum)[S.late]", "C(half, Sum)[S.early]"),
        (["Days = 1", "Intercpt"], "Intercept"),
        ("Subject Vr = 0", "Subject Var"),
    ):
        with pytest.raises(OptionError, match=f"is no coefficient. Did you mean '{re.escape(near)}'"):
            test(text)
        with pytest.raises(PatsyError):
            test(text)
    with pytest.raises(OptionError, match=r"'Days \+' cannot be read: expected a noun"):
        test("Days +")
    assert np.isfinite(float(np.squeeze(test("Days - C(half, Sum)[S.early] = 3").pvalue)))
    assert np.isfinite(np.squeeze(test("Subject Var = 0").pvalue))
