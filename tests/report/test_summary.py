"""The summary of `lmer`'s results, as text and as HTML."""

from __future__ import annotations

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
    assert html.count("<table") == 3


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
