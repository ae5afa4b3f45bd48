"""mme.table: fits of both doors and from files, side by side, as text, HTML and LaTeX."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mme
from mme.exceptions import OptionError


@pytest.fixture(scope="module")
def sleep():
    return pd.read_csv(mme.data_path("sleepstudy.csv"))


@pytest.fixture(scope="module")
def fits(sleep):
    return [
        mme.lmer("Reaction ~ Days + (Days | Subject)", sleep),
        mme.mixedlm("Reaction ~ Days", sleep, groups="Subject").fit(),
        mme.lmer("Reaction ~ 1 + (1 | Subject)", sleep, reml=False),
    ]


def cells(summary):
    """Rows by their label; what stands below an estimate by the label and an apostrophe."""
    out, last = {}, ""
    for table in summary.tables:
        for label, *values in table.to_numpy(dtype=object):
            out.setdefault(label or f"{last}'", values)
            last = label or last
    return out


def test_estimates_of_both_doors_share_their_rows(fits):
    """Values of lme4 1.1-31; those of the second and third fit too."""
    got = cells(mme.table(fits))
    assert got["(Intercept)"] == ["251.405", "251.405", "298.508"]
    assert got["(Intercept)'"] == ["(6.825)", "(9.747)", "(8.795)"]
    assert got["Days"] == ["10.467", "10.467", ""]
    assert got["Days'"] == ["(1.546)", "(0.804)", ""]
    assert got["SD Subject: (Intercept)"] == ["24.740", "37.124", "34.590"]
    assert got["SD Subject: Days"] == ["5.922", "", ""]
    assert got["Corr. Subject: (Intercept), Days"] == ["0.066", "", ""]
    assert got["SD Residual"] == ["25.592", "30.991", "44.259"]
    assert got["Observations"] == ["180"] * 3
    assert got["Levels of Subject"] == ["18"] * 3
    assert got["Method"] == ["REML", "REML", "ML"]
    assert got["Log-likelihood"][0] == "-871.814"
    assert got["AIC"][:2] == ["1755.628", "1794.465"]
    assert "Intercept" not in got


def test_what_stands_below_and_stars(fits):
    got = cells(mme.table(fits[:2], names=["a", "b"], stars=True, below="ci"))
    table = fits[0].coef_table()
    assert got["Days"] == ["10.467***", "10.467***"]
    assert got["Days'"][0] == f"[{table['lower'].iloc[1]:.3f}, {table['upper'].iloc[1]:.3f}]"
    text = mme.table(fits[:2], stars=[0.01, 0.05]).as_text()
    assert "10.467**" in text and "10.467***" not in text
    assert "* p < 0.05, ** p < 0.01." in text and "Degrees of freedom: satterthwaite." in text
    assert cells(mme.table(fits[0], below="p"))["Days'"] == ["p < 0.001"]
    assert cells(mme.table(fits[0], below="p", digits=8))["Days'"] == [f"p = {table['p'].iloc[1]:.8f}"]
    assert "(6.825)" not in mme.table(fits[0], below=None).as_text()
    kenward = cells(mme.table(fits[0], ddf="kenward-roger", below="se"))
    assert kenward["Days'"] == ["(1.546)"]


def test_notes(fits, sleep):
    assert "Likelihoods of REML compare only" in " ".join(mme.table(fits).as_text().split())
    assert "Likelihoods of REML" not in mme.table(fits[:2]).as_text()
    other = mme.lmer("Reaction ~ Days + (1 | Subject)", sleep.iloc[:-10])
    assert "different numbers of rows" in " ".join(mme.table([fits[0], other]).as_text().split())


def test_text_html_and_latex(fits, sleep):
    odd = mme.lmer("Reaction ~ I((Days<5)&(Days>1)) + x_1 + (1 | Subject)", sleep.assign(x_1=sleep["Days"]))
    summary = mme.table([*fits, odd], names=["one", "two", "three", "<four>"], title="Sleep & reaction")
    text = summary.as_text().splitlines()
    assert text[0].strip() == "Sleep & reaction"
    head = next(line for line in text if "one" in line)
    assert head.split() == ["one", "two", "three", "<four>"]
    row = next(line for line in text if line.startswith("Days"))
    assert row.split() == ["Days", "10.467", "10.467"]
    deviation = next(line for line in text if line.startswith("SD Residual"))
    assert [deviation.index(v) for v in ("25.592", "30.991")] == [row.index("10.467"), row.rindex("10.467")]
    html = summary.as_html()
    assert "<caption>Sleep &amp; reaction</caption>" in html and "&lt;four&gt;" in html
    assert "I((Days &lt; 5) &amp; (Days &gt; 1))" in html
    latex = summary.as_latex(label="tab:sleep")
    assert r"\caption{Sleep \& reaction}" in latex and r"x\_1" in latex
    assert r" & one & two & three & \textless{}four\textgreater{} \\" in latex
    assert r"Days & 10.467 & 10.467 &  &  \\" in latex
    assert latex.count(r"\begin{tabular}{lrrrr}") == 1


def test_loaded_results_and_dropped_columns(fits, sleep, tmp_path):
    mme.save(fits[1], tmp_path / "fit.mme")
    assert mme.table([mme.load(tmp_path / "fit.mme")]).as_text() == mme.table([fits[1]]).as_text()
    with pytest.warns(mme.exceptions.RankDeficientWarning):
        fit = mme.lmer("Reaction ~ Days + twice + (1 | Subject)", sleep.assign(twice=2 * sleep["Days"]))
    assert cells(mme.table(fit))["twice"] == ["dropped"]


def test_small_numbers_keep_digits(sleep):
    fit = mme.lmer("Reaction ~ Days + (1 | Subject)", sleep.assign(Reaction=sleep["Reaction"] * 1e-9))
    assert cells(mme.table(fit))["Days"] == ["1.05e-08"]


def test_misuse(fits, sleep):
    with pytest.raises(OptionError, match="at least one fit"):
        mme.table([])
    with pytest.raises(OptionError, match="not DataFrame"):
        mme.table([fits[0], sleep])
    with pytest.raises(OptionError, match="2 different names"):
        mme.table(fits[:2], names=["a", "a"])
    with pytest.raises(OptionError, match="below='t'"):
        mme.table(fits, below="t")
    with pytest.raises(OptionError, match="levels between 0 and 1"):
        mme.table(fits, stars=[5])
    assert np.isfinite(fits[0].llf)
