"""`residual=` and `dispersion=`: what is read, and what is refused with what to do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support import load_data

import mme
from mme.exceptions import DesignError, FormulaError, MissingDataWarning, OptionError
from mme.formula import build_design
from mme.formula.residual import parse_residual

FORMULA = "score ~ visit"


def structure(residual=None, dispersion=None, data=None, formula=FORMULA, **options):
    data = load_data("trial") if data is None else data
    return build_design(formula, data, residual=residual, dispersion=dispersion, **options).residual


@pytest.mark.parametrize(
    ("text", "strata", "correlation", "position", "group"),
    [
        ("varident(arm)", ("arm",), "", "", ()),
        ("varIdent(~ 1 | arm)", ("arm",), "", "", ()),
        ("ar1(visit | patient)", (), "ar1", "visit", ("patient",)),
        ("ar1(1 | patient)", (), "ar1", "", ("patient",)),
        ("car1(time|site:patient)", (), "car1", "time", ("site", "patient")),
        ("cs(patient)", (), "cs", "", ("patient",)),
        ("cs(1 | patient)", (), "cs", "", ("patient",)),
        ("us(`my visit` | patient)", (), "us", "my visit", ("patient",)),
        ("un(visit | patient)", (), "us", "visit", ("patient",)),
        ("varident(arm:site) * toep(visit | patient)", ("arm", "site"), "toep", "visit", ("patient",)),
        ("ar1h(visit | patient)", ("visit",), "ar1", "visit", ("patient",)),
    ],
)
def test_read(text, strata, correlation, position, group):
    got = parse_residual(text, None)
    assert (got.strata, got.correlation, got.position, got.group) == (strata, correlation, position, group)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ar2(visit | patient)", "'ar2' is not known. Did you mean 'ar1'"),
        ("visit | patient", "is not understood"),
        ("ar1(visit)", "needs positions and subjects"),
        ("ar1(visit | )", "needs positions and subjects"),
        ("us(1 | patient)", "needs a column of visits"),
        ("ar1(visit | patient) * cs(patient)", "two correlations"),
        ("varident(arm) * varident(site)", "two variances"),
        ("varident(arm) * us(visit | patient)", "leave varident"),
        ("varident(arm + site)", "must be a column"),
        ("ar1(visit | patient", "unbalanced"),
    ],
)
def test_not_read(text, message):
    with pytest.raises(FormulaError, match=message.replace("(", r"\(")):
        parse_residual(text, None)


@pytest.mark.parametrize(
    ("dispersion", "message"),
    [("arm", "formula of one side"), ("~ 0 + arm", "needs its intercept"), ("~ (1 | arm)", "random terms")],
)
def test_dispersion_not_read(dispersion, message):
    with pytest.raises(FormulaError, match=message):
        parse_residual(None, dispersion)


def test_other_kinds_are_refused():
    with pytest.raises(OptionError, match="must be text"):
        parse_residual(3, None)
    with pytest.raises(OptionError, match="second time"):
        parse_residual("varident(arm)", "~ arm")


def test_names_that_are_no_columns():
    with pytest.raises(FormulaError, match="patients"):
        structure("ar1(visit | patients)")
    with pytest.raises(FormulaError, match="agee"):
        structure(dispersion="~ agee")


def test_times_twice():
    data = load_data("trial")
    data.loc[1, "visit"] = data.loc[0, "visit"]
    for kind in ("ar1", "us", "toep"):
        with pytest.raises(DesignError, match=r"patient p00 has 2 rows at visit 1"):
            structure(f"{kind}(visit | patient)", data=data)
    data.loc[1, "time"] = data.loc[0, "time"]
    with pytest.raises(DesignError, match=r"patient p00 has 2 rows at time"):
        structure("car1(time | patient)", data=data)


def test_times_that_are_no_steps():
    with pytest.raises(DesignError, match=r"not an integer everywhere.*car1\(time \| patient\)"):
        structure("ar1(time | patient)")


def test_gaps_are_steps():
    """A visit left out is two steps, not one."""
    data = load_data("trial")
    got = structure("ar1(visit | patient)", data=data)
    rows = np.flatnonzero(data["patient"] == "p02")
    visits = data["visit"].to_numpy()[rows]
    want = 0.5 ** np.abs(np.subtract.outer(visits, visits))
    np.testing.assert_allclose(got.at(np.array([0.5])).block(rows[None])[0], want)


def test_visits_as_text_are_in_the_order_of_their_levels():
    data = load_data("trial")
    text = data.assign(v=pd.Categorical(data["visit"].map(dict(enumerate("edcbaz"))), list("dcbaz")))
    a, b = (structure(f"ar1({v} | patient)", data=text) for v in ("visit", "v"))
    np.testing.assert_array_equal(a.correlation.times, b.correlation.times)


def test_visits_that_never_meet():
    data = load_data("trial")
    data = data[~((data["visit"] == 3) & data["patient"].isin(data["patient"][data["visit"] == 2]))]
    with pytest.raises(DesignError, match="has both visit 2 and 3"):
        structure("us(visit | patient)", data=data)


def test_lags_that_never_occur():
    """Patients are seen at a and c, or at b alone: no two rows are neighbours."""
    data = pd.DataFrame(
        {"score": np.arange(9.0) ** 2, "patient": list("112233456"), "visit": list("acacacbbb")}
    )
    with pytest.raises(DesignError, match="are 1 visits apart"):
        structure("toep(visit | patient)", data=data, formula="score ~ 1")


def test_every_subject_has_one_row():
    data = load_data("trial").groupby("patient").head(1)
    with pytest.raises(DesignError, match="no correlation to estimate"):
        structure("cs(patient)", data=data)


def test_some_subjects_have_one_row():
    """They tell variances and means alone."""
    data = load_data("trial")
    data = data[(data["patient"] > "p20") | (data["visit"] == 1)]
    assert mme.lmer(FORMULA, data, residual="ar1(visit | patient)").converged


def test_strata():
    data = load_data("trial")
    with pytest.raises(DesignError, match="one level"):
        structure("varident(arm)", data=data[data["arm"] == "low"])
    data["odd"] = np.where(np.arange(len(data)) == 3, "alone", "rest")
    with pytest.raises(DesignError, match="one row at alone"):
        structure("varident(odd)", data=data)


def test_levels_without_rows_are_no_strata():
    data = load_data("trial")
    data["arm"] = pd.Categorical(data["arm"], ["none", "control", "low", "high"])
    got = structure("varident(arm)", data=data)
    assert got.variances[0].levels == ("control", "low", "high")


def test_missing_values_of_the_structure():
    data = load_data("trial")
    data.loc[4, "time"] = np.nan
    with pytest.warns(MissingDataWarning, match="time"):
        got = build_design(FORMULA, data, residual="car1(time | patient)")
    assert got.design.n == len(data) - 1 and got.dropped == 1


def test_dependent_columns_of_the_dispersion():
    data = load_data("trial").assign(twice=lambda d: 2.0 * d["baseline"])
    with pytest.raises(DesignError, match="depend on one another"):
        structure(dispersion="~ baseline + twice", data=data)


def test_chunks_are_refused():
    data = load_data("trial")
    with pytest.raises(OptionError, match="in chunks"):
        mme.lmer(FORMULA + " + (1 | patient)", chunks=lambda: iter([data]), residual="varident(arm)")


def test_a_formula_without_random_terms_needs_a_structure():
    with pytest.raises(FormulaError, match="no random term"):
        mme.lmer(FORMULA, load_data("trial"))
