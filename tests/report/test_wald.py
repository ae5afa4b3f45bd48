"""statsmodels' tests on results of lmer, and on MixedLM as statsmodels has them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support import load_data

import mme
from mme.exceptions import OptionError


@pytest.fixture(scope="module")
def oats():
    return mme.lmer("yield ~ nitro * Variety + (1 | Block/Variety)", load_data("ub_oats"))


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger", "residual"])
def test_t_test(oats, ddf):
    text = "nitro = 50, Variety[T.Marvellous] - Variety[T.Victory] = 0"
    test = oats.t_test(text, ddf=ddf)
    names = list(oats.fe_params.index)
    R = np.zeros((2, len(names)))
    R[0, names.index("nitro")] = 1.0
    R[1, names.index("Variety[T.Marvellous]")], R[1, names.index("Variety[T.Victory]")] = 1.0, -1.0
    rows = [oats.contrast(R[0], value=50, ddf=ddf).iloc[0], oats.contrast(R[1], ddf=ddf).iloc[0]]
    expected = pd.DataFrame(rows)
    assert test.distribution == "t"
    for ours, theirs in (
        ("effect", "estimate"),
        ("sd", "se"),
        ("tvalue", "t"),
        ("df_denom", "df"),
        ("pvalue", "p"),
    ):
        np.testing.assert_allclose(getattr(test, ours), expected[theirs], rtol=1e-10)
    np.testing.assert_allclose(test.conf_int(), expected[["lower", "upper"]], rtol=1e-8)
    frame = test.summary_frame(xname=["nitro", "difference"])
    np.testing.assert_allclose(frame["P>|t|"], expected["p"])
    assert "Test for Constraints" in str(test)
    again = oats.t_test((R, [50, 0]), ddf=ddf)
    np.testing.assert_array_equal(again.pvalue, test.pvalue)


def test_one_row(oats):
    test = oats.t_test("nitro = 50")
    assert test.pvalue.shape == ()
    assert float(test.pvalue) == pytest.approx(oats.contrast("nitro = 50")["p"][0])
    assert "c0" in str(test)


@pytest.mark.parametrize("ddf", [None, "kenward-roger"])
def test_f_test(oats, ddf):
    text = ["Variety[T.Marvellous] = 0", "Variety[T.Victory] = 3"]
    expected = oats.contrast(text, ddf=ddf).iloc[0]
    for test in (
        oats.f_test(text, ddf=ddf),
        oats.wald_test(text, ddf=ddf),
        oats.wald_test(text, True, ddf=ddf),
    ):
        assert test.distribution == "F"
        got = [test.fvalue, test.df_num, test.df_denom, float(test.pvalue)]
        np.testing.assert_allclose(got, expected[["F", "df1", "df2", "p"]], rtol=1e-10)
        assert "F test" in str(test)


def test_normal_distribution(oats):
    text = ["Variety[T.Marvellous] = 0", "Variety[T.Victory] = 0"]
    b = oats.fe_params.filter(like="Variety").filter(regex="^V").to_numpy()
    V = oats.vcov_fe.filter(regex="^V").filter(regex="^V", axis=0).to_numpy()
    W = b @ np.linalg.solve(V, b)
    for test in (
        oats.wald_test(text, use_f=False),
        oats.wald_test(text, ddf="normal"),
        oats.f_test(text, ddf="normal"),
    ):
        assert test.distribution == "chi2"
        assert test.statistic == pytest.approx(W)
        assert float(test.pvalue) == pytest.approx(stats.chi2.sf(W, 2))
        assert "Wald test" in str(test)
    test = oats.t_test(text, use_t=False)
    assert test.distribution == "norm"
    np.testing.assert_allclose(test.pvalue, 2 * stats.norm.sf(np.abs(b / np.sqrt(np.diag(V)))))
    np.testing.assert_allclose(test.conf_int()[:, 1], b + stats.norm.isf(0.025) * np.sqrt(np.diag(V)))


def test_terms(oats):
    result = oats.wald_test_terms()
    table = result.table
    assert table.index.tolist() == ["(Intercept)", "nitro", "Variety", "nitro:Variety"]
    assert table.columns.tolist() == ["statistic", "pvalue", "df_constraint", "df_denom"]
    expected = oats.contrast(["nitro:Variety[T.Marvellous] = 0", "nitro:Variety[T.Victory] = 0"]).iloc[0]
    np.testing.assert_allclose(table.loc["nitro:Variety"], expected[["F", "p", "df1", "df2"]])
    assert table.loc["nitro", "statistic"] == pytest.approx(oats.tvalues["nitro"] ** 2)
    assert "nitro:Variety" in str(result)
    assert oats.wald_test_terms(skip_single=True).table.index.tolist() == ["Variety", "nitro:Variety"]
    chi2 = oats.wald_test_terms(ddf="normal").table
    assert chi2.columns.tolist() == ["statistic", "pvalue", "df_constraint"]
    normal = oats.contrast(["nitro:Variety[T.Marvellous] = 0", "nitro:Variety[T.Victory] = 0"], ddf="normal")
    assert chi2.loc["nitro:Variety", "statistic"] == pytest.approx(2 * normal["F"][0])
    assert chi2.loc["nitro:Variety", "pvalue"] == pytest.approx(normal["p"][0])


def test_both_doors_say_the_same_of_the_normal_distribution():
    data = load_data("Orthodont")
    lmer = mme.lmer("distance ~ age * Sex + (1 | Subject)", data, tol=1e-12)
    mixedlm = mme.mixedlm("distance ~ age * Sex", data, groups="Subject").fit(gtol=1e-10)
    text = "age = 0.5, Sex[T.Male] = 0"
    ours, theirs = lmer.t_test(text, use_t=False), mixedlm.t_test(text)
    for name in ("effect", "sd", "tvalue", "pvalue"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5)
    ours, theirs = lmer.wald_test(text, use_f=False), mixedlm.wald_test(text, scalar=True)
    assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-5)


def test_options(oats):
    with pytest.raises(OptionError, match="use_t=False is ddf='normal', and ddf='kenward-roger' was given"):
        oats.t_test("nitro", use_t=False, ddf="kenward-roger")
    with pytest.raises(OptionError, match="use_f='yes' must be True, False or None"):
        oats.wald_test("nitro", use_f="yes")
    with pytest.raises(OptionError, match=r"'nitr' is no coefficient\. Did you mean 'nitro'"):
        oats.f_test("nitr = 0")
    with pytest.raises(OptionError, match="need 6 numbers"):
        oats.t_test([1, 0])
    with pytest.raises(OptionError, match="Did you mean 'satterthwaite'"):
        oats.wald_test_terms(ddf="satterthwaithe")
