"""Structures that make no sense: what is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mme
from mme.engine.equations.design import Design, RandomTerm
from mme.exceptions import DataError, DesignError, FlatLikelihoodWarning, FormulaError, PerfectFitError

BAD = [
    ("cs(1 | g)", FormulaError, r"cs\(1 \| g\) has 1 effect a level .* write cs\(0 \+ C\(f\) \| g\)"),
    ("cs(0 + x | g)", FormulaError, "a numeric column is one effect"),
    ("ar1(0 + t | g)", FormulaError, r"1 effect a level"),
    ("ar1(C(t) | g)", FormulaError, r"one factor in their order: write ar1\(0 \+ C\(time\) \| g\)"),
    ("ar1(0 + C(t) + x | g)", FormulaError, "the levels of one factor in their order"),
    ("ar1(0 + C(t):x | g)", FormulaError, "the levels of one factor in their order"),
    ("ar1(0 + word | g)", DataError, r"those of text have none: data\['word'\] = pd.Categorical"),
    ("toep(0 + unordered | g)", DataError, "those of an unordered categorical have none"),
    ("ar1(0 + C(gap) | g)", DataError, r"not \(0, 1, 3, 4\)\. Name all in between"),
    ("rr(0 + C(t) | g, 5)", FormulaError, "asks for 5 latent variables of 4 effects"),
    ("rr(0 + C(t) | g, 0)", FormulaError, "needs the number of latent variables"),
    ("rr(0 + C(t) | g, k=2)", FormulaError, "needs the number of latent variables"),
    ("rr(0 + C(t) | g, two)", FormulaError, "needs the number of latent variables"),
    ("cs(0 + C(t) | g, hom=1)", FormulaError, "knows one argument behind the group"),
    ("cs(0 + C(t) | g, het=TRUE)", FormulaError, "knows one argument behind the group"),
    ("us(0 + C(t) | g, hom=TRUE)", FormulaError, "there is no us with hom=TRUE"),
    ("cs(0 + C(t) || g)", FormulaError, "has two bars and a structure"),
    ("cs(0 + C(t) |)", FormulaError, "has no grouping factor"),
    ("ou(0 + C(t) | g)", FormulaError, "Structures are us, diag, homdiag, cs"),
    ("cs(0 + C(t) | g) * x", FormulaError, "inside a function or another operator"),
    ("cs(0 + C(t) | row)", DesignError, "137 levels in 137 rows|every level has rows with one"),
    ("cs(0 + C(t) | g:t)", DesignError, "every level has rows with one of its 4 effects alone"),
]


@pytest.fixture(scope="module")
def wide(data):
    return data.assign(
        word=data["t"].map({0: "base", 1: "first", 2: "second", 3: "third"}),
        unordered=pd.Categorical(data["t"].map({0: "base", 1: "first", 2: "second", 3: "third"})),
        gap=data["t"].map({0: 0, 1: 1, 2: 3, 3: 4}),
        row=range(len(data)),
    )


@pytest.mark.parametrize(("term", "error", "message"), BAD, ids=[row[0] for row in BAD])
def test_bad_terms(wide, term, error, message):
    with pytest.raises(error, match=message) as caught:
        mme.lmer(f"y ~ x + {term}", wide)
    assert type(caught.value) is error


def test_a_subtracted_structure(wide):
    with pytest.raises(FormulaError, match=r"cs\(0 \+ C\(t\) \| g\) cannot be subtracted"):
        mme.lmer("y ~ x + (1 | g) - cs(0 + C(t) | g)", wide)


def test_functions_of_the_same_names_are_fixed_effects(wide):
    """Without a bar inside they are what the caller says they are."""

    def cs(x):
        return x - x.mean()

    fit = mme.lmer("y ~ cs(x) + (1 | g)", wide)
    assert fit.fe_params.index[1] == "cs(x)"


def test_ordered_text_is_in_order(wide):
    levels = ["base", "first", "second", "third"]
    ordered = wide.assign(word=pd.Categorical(wide["word"], categories=levels, ordered=True))
    one = mme.lmer("y ~ x + ar1(0 + word | g)", ordered)
    other = mme.lmer("y ~ x + ar1(0 + C(t) | g)", wide)
    assert one.llf == pytest.approx(other.llf, abs=1e-9)


def test_two_deviations_one_row_a_cell_are_flat():
    """Two times, one row each: three moments for a deviation, a correlation and the residual variance."""
    rng = np.random.default_rng(2)
    g, t = np.repeat(np.arange(30), 2), np.tile([0, 1], 30)
    y = rng.normal(size=30)[g] + rng.normal(size=60)
    with pytest.warns(FlatLikelihoodWarning, match="variance of homcs by g, correlation of homcs by g"):
        fit = mme.lmer("y ~ C(t) + homcs(0 + C(t) | g)", pd.DataFrame({"y": y, "g": g, "t": t}))
    assert fit.llf == pytest.approx(
        mme.lmer("y ~ C(t) + (1 | g)", pd.DataFrame({"y": y, "g": g, "t": t})).llf, abs=1e-6
    )


def test_an_explained_response_is_named(wide):
    rng = np.random.default_rng(7)
    y = rng.normal(size=(14, 4))[wide["g"], wide["t"]]
    with pytest.raises(PerfectFitError, match="explain"):
        mme.lmer("y ~ x + homcs(0 + C(t) | g)", wide.assign(y=y))


def test_designs_of_arrays():
    rng = np.random.default_rng(1)
    X, y, g = np.ones((20, 1)), rng.normal(size=20), np.arange(20) % 5
    with pytest.raises(DesignError, match=r"'g' has 1 effect a level, .* cs needs at least 2 effects"):
        Design(y, X, (RandomTerm("g", g, 5, covariance="cs"),))
    with pytest.raises(DesignError, match=r"'g' has 2 effects a level, .* rr\(3\) needs at least 3 effects"):
        Design(y, X, (RandomTerm("g", g, 5, rng.normal(size=(20, 2)), covariance="rr(3)"),))


def test_streams_refuse(wide):
    with pytest.raises(FormulaError, match="has a covariance structure, which streamed fits do not know"):
        mme.lmer("y ~ x + cs(0 + C(t) | g)", [wide.iloc[:70], wide.iloc[70:]])
