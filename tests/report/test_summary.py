"""The summary of `lmer`'s results, as text and as HTML."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import SLOPE, THETA, results_at

import mme
from mme.exceptions import OptionError


def test_summary_shows_estimates_and_convergence(sleepstudy):
    text = str(results_at(SLOPE, sleepstudy, THETA).summary())
    for piece in ("REML", "-871.8141", "251.405", "1.5458", "612.1", "24.741", "0.07", "Subject (18)"):
        assert piece in text
    text = " ".join(text.split())
    assert "Converged: optimum found (gradient 1e-07) in 6 steps. 7 evaluations in 0.002 s" in text
    assert "given" not in text
    assert "dense (LAPACK)" in text
    assert "Singular" not in text


def test_summary_says_singular_and_not_converged(sleepstudy):
    got = results_at(SLOPE, sleepstudy, THETA, converged=False, singular=("Subject",))
    text = " ".join(str(got.summary()).split())
    assert "NOT CONVERGED: no optimum found (gradient 1e-07) in 6 steps: given. 7 evaluations" in text
    assert "Singular: the covariance of Subject has a zero variance" in text
    assert got.is_singular
    assert not got.converged
    assert got.fit_info["evaluations"] == 7


def test_summary_has_satterthwaites_degrees_of_freedom(sleepstudy):
    """lmerTest's table (tests/reference/inference.json)."""
    text = str(mme.lmer(SLOPE, sleepstudy).summary())
    row = next(line for line in text.splitlines() if line.startswith("Days"))
    assert row.split() == ["Days", "10.4673", "1.5458", "17.0", "6.771", "3.3e-06"]
    assert "P>|t|" in text
    assert "Degrees of freedom: Satterthwaite." in text


def test_summary_with_degrees_of_freedom_asked_for(sleepstudy):
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy.iloc[:150])
    for ddf, name in (("kenward-roger", "Kenward-Roger"), ("residual", "n - rank(X)"), ("normal", "normal")):
        text = str(result.summary(ddf=ddf))
        row = next(line for line in text.splitlines() if line.startswith("Days")).split()
        table = result.coef_table(ddf).loc["Days"]
        expected = [f"{table.se:.5g}", f"{table.df:.1f}", f"{table.t:.3f}"]
        assert row[2:5] == expected
        assert f"Degrees of freedom: {name}" in text
    with pytest.raises(OptionError, match="Did you mean 'kenward-roger'"):
        result.summary(ddf="kr")


def test_summary_takes_no_longer_than_the_fit(sleepstudy, monkeypatch):
    monkeypatch.setattr("mme.inference.coefficients.second_seconds", lambda *_: 1e6)
    got = mme.lmer(SLOPE, sleepstudy)
    text = " ".join(str(got.summary()).split())
    assert "Degrees of freedom take longer than the fit, about 1e+06 s: coef_table() has them." in text
    assert "P>|t|" not in text
    got.coef_table()
    assert "P>|t|" in str(got.summary())  # they are there now


def test_summary_of_an_iterative_fit(sleepstudy):
    got = mme.lmer("Reaction ~ 1 + (1 | Subject) + (1 | Days)", sleepstudy, solver="iterative")
    text = " ".join(str(got.summary()).split())
    assert "Degrees of freedom take conjugate gradients again: coef_table() has them." in text
    assert "P>|t|" not in text


def test_summary_of_small_numbers_keeps_digits(sleepstudy):
    tiny = sleepstudy.assign(Reaction=sleepstudy.Reaction * 1e-9)
    assert "2.51405e-07" in str(results_at(SLOPE, tiny, THETA).summary())


def test_html(sleepstudy):
    html = results_at(SLOPE, sleepstudy, THETA)._repr_html_()
    assert html.startswith('<table class="simpletable">\n<caption>Linear mixed model fit by REML</caption>')
    assert html.count("<caption>") == 1
    assert html.count("<table") == 4


def test_html_is_escaped(sleepstudy):
    """Names and labels are the data's: they must not become markup in a notebook."""
    column = "<script>alert(1)</script>"
    frame = sleepstudy.assign(**{column: sleepstudy.Days % 3, "a<b": sleepstudy.Subject})
    got = mme.lmer(f"Reaction ~ I((Days<5)&(Days>1)) + Q('{column}') + (1 | `a<b`)", frame)
    for html in (got._repr_html_(), got.summary()._repr_html_()):
        assert "<script" not in html
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
        assert "I((Days &lt; 5) &amp; (Days &gt; 1))" in html
        assert "a&lt;b (18)" in html
    assert column in str(got.summary())


def test_summary_as_lmertest_prints_it(sleepstudy):
    """REML criterion, scaled residuals and correlation of fixed effects of lme4 1.1-31."""
    got = mme.lmer(SLOPE, sleepstudy)
    lines = [line.split() for line in str(got.summary(correlation=True)).splitlines()]
    assert ["REML", "criterion:", "1743.6283"] in [line[:3] for line in lines] + [line[-3:] for line in lines]
    assert ["Scaled", "residuals", "Min", "1Q", "Median", "3Q", "Max"] in lines
    assert ["-3.9536", "-0.4634", "0.0231", "0.4634", "5.1793"] in lines
    start = lines.index(["Correlation", "of", "fixed", "effects", "1"])
    assert ["2", "Days", "-0.138"] in lines[start:]
    assert "Residual df:" in str(got.summary()) and " 174" in str(got.summary())
    assert "Correlation of" not in str(got.summary())
    ml = str(mme.lmer(SLOPE, sleepstudy, reml=False).summary())
    assert "Deviance:" in ml and "REML criterion" not in ml


def test_scaled_residuals_have_prior_weights(sleepstudy):
    """quantile(residuals(m, "pearson", scaled = TRUE)) of lme4."""
    weights = np.linspace(0.5, 1.5, 180)
    got = mme.lmer("Reaction ~ Days + offset(Days * 2) + (1 | Subject)", sleepstudy, weights=weights)
    lines = [line.split() for line in str(got.summary()).splitlines()]
    assert ["-3.1740", "-0.6127", "0.0279", "0.5702", "4.0390"] in lines


def test_latex(sleepstudy):
    frame = sleepstudy.assign(a_b=sleepstudy.Days % 3)
    summary = mme.lmer("Reaction ~ I(Days**2) + a_b + (1 | Subject)", frame).summary(correlation=True)
    latex = summary.as_latex(label="tab:fit")
    assert r"\caption{Linear mixed model fit by REML}" in latex
    assert r"\label{tab:fit}" in latex
    assert r"a\_b" in latex and "a_b" not in latex
    assert r"Formula: Reaction \textasciitilde{} I(Days**2) + a\_b + (1 \textbar{} Subject)" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 5
    rows = [line for line in latex.splitlines() if line.startswith("a\\_b")]
    assert len(rows) == 1 and rows[0].count("&") == 5
