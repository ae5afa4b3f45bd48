"""New rows at statsmodels' door: the coding that a MixedLM's formulas keep."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from formula.columns import N, centred, make_data, plain, tenfold

import mme
from mme.exceptions import DataError, FormulaError

__all__ = ["centred", "tenfold"]  # names in formulas


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return make_data()


DOOR = [
    ("x + z", "~x"),
    ("m * x", "1"),
    ("C(k) + cat", None),
    ("0 + m + center(x)", "~0 + m"),
    ("C(k, Sum) * np.log(z) + flag", "~center(z)"),
    ("standardize(x) + Q('my col')", "~x + flag"),
    ("bs(x, df=4) + cr(z, df=3, constraints='center')", "~bs(x, df=3)"),
    ("tenfold(x) + I(k ** 2)", "~tenfold(z)"),
    ("obj + num", "~obj"),
    ("1", "~z"),
]


@pytest.fixture(params=["patsy", "formulaic"])
def engine(request, monkeypatch) -> str:
    options = pytest.importorskip("statsmodels.formula", reason="one formula engine before 0.15").options
    monkeypatch.setattr(options, "formula_engine", request.param)
    return request.param


@pytest.mark.parametrize(("fixed", "re_formula"), DOOR)
@pytest.mark.parametrize("groups", ["g", "h", ["h", "flag"], ["m", "h", "r"]])
def test_formulas_of_mixedlm(data, fixed, re_formula, groups, engine):
    if engine == "formulaic":
        fixed = fixed.replace("tenfold(x)", "np.exp(x)").replace("Q('my col')", "z")
        re_formula = re_formula and re_formula.replace("tenfold", "np.exp")
    data = data.assign(obj=data.k.astype(object))
    model = mme.MixedLM.from_formula(f"y ~ {fixed}", data, groups=groups, re_formula=re_formula)
    assert model.coding is model.coding
    order = np.random.default_rng(3).permutation(N)
    for rows in (slice(None), order, order[:7], order[:1]):
        for frame in (data, plain(data)):
            new = frame.iloc[rows]
            assert np.array_equal(model.coding.fixed(new), model.exog[rows])
            (term,) = model.coding.random(new)
            assert np.array_equal(term.codes, model.group_index.codes[rows])
            assert term.column_names == tuple(model.data.exog_re_names)
            if term.columns is None:
                assert np.all(model.exog_re == 1.0)
            else:
                assert np.array_equal(term.columns, model.exog_re[rows])
    assert model.coding.x_names == tuple(model.exog_names)
    assert [t.columns.stop for t in model.coding.terms][-1] == model.k_fe
    again = pickle.loads(pickle.dumps(model))
    assert "coding" not in again.__dict__
    assert np.array_equal(again.coding.fixed(data), model.exog)


def test_terms_and_levels_of_mixedlm(data):
    model = mme.MixedLM.from_formula("y ~ m * x + C(k)", data, groups="h")
    got = [(t.name, t.columns, t.factors, t.variables) for t in model.coding.terms]
    assert got == [
        ("Intercept", slice(0, 1), (), ()),
        ("m", slice(1, 3), ("m",), ("m",)),
        ("C(k)", slice(3, 6), ("C(k)",), ("k",)),
        ("x", slice(6, 7), ("x",), ("x",)),
        ("m:x", slice(7, 9), ("m", "x"), ("m", "x")),
    ]
    variables = {v.name: v for v in model.coding.variables}
    assert variables["m"].levels == ["A", "B", "C"]
    assert variables["k"].levels == [1, 2, 3, 4]
    assert (variables["x"].kind, variables["x"].low) == ("numeric", data.x.min())
    with pytest.raises(DataError, match=r"column 'm' has levels .* 'D'"):
        model.coding.fixed(data.assign(m="D"))
    with pytest.raises(DataError, match="no column 'x'"):
        model.coding.fixed(data.drop(columns="x"))
    new = plain(data).assign(h="new")
    new.loc[new.index[3], ["m", "h"]] = None
    rows = model.coding.rows(new)
    assert np.flatnonzero(np.isnan(model.coding.fixed(rows)).all(axis=1)).tolist() == [3]
    (term,) = model.coding.random(rows)
    assert (term.codes == -1).all()
    assert term.missing.sum() == 1
    assert rows.missing == {"m": 1, "h": 1}


def test_what_mixedlm_cannot_code_is_named(data):
    arrays = mme.MixedLM(data.y, data[["x"]], data.h)
    with pytest.raises(DataError, match="made of arrays"):
        _ = arrays.coding
    labelled = mme.MixedLM.from_formula("y ~ x", data, groups=data.h.to_numpy())
    assert np.array_equal(labelled.coding.fixed(data), labelled.exog)
    with pytest.raises(DataError, match="groups were given as labels"):
        labelled.coding.random(data)
    parts = mme.MixedLM.from_formula("y ~ x", data, groups="h", vc_formula={"f": "1 + C(f)"})
    assert np.array_equal(parts.coding.fixed(data), parts.exog)
    with pytest.raises(DataError, match="variance components f of vc_formula are no cells"):
        parts.coding.random(data)
    whole = mme.MixedLM.from_formula("y ~ centred(x)", data, groups="h")
    with pytest.raises(FormulaError, match="cannot be evaluated row by row"):
        whole.coding.fixed(data.iloc[:1])


@pytest.mark.parametrize(
    ("fixed", "random"), [("I(x - x.min())", "~x"), ("x", "~I(x / x.max())"), ("C(x > x.min())", "1")]
)
def test_extremes_of_sorted_rows_in_formulas_of_mixedlm(fixed, random):
    """The first and the last rows have the least and the greatest of all; one row alone is its own."""
    data = pd.DataFrame({"x": np.tile(np.arange(10.0), 6), "h": np.repeat(np.arange(6), 10)})
    data["y"] = np.random.default_rng(3).normal(size=60)
    coding = mme.MixedLM.from_formula(f"y ~ {fixed}", data, groups="h", re_formula=random).coding
    part = coding.random if fixed == "x" else coding.fixed
    with pytest.raises(FormulaError, match="a few rows alone give other values"):
        part(data.iloc[[3, 4]])


def test_functions_within_functions_at_the_other_door(data):
    """As in statsmodels: names are looked up where from_formula is called, in every formula."""
    double = lambda v: 2.0 * v  # noqa: E731
    model = mme.MixedLM.from_formula("y ~ double(x)", data, groups="h", re_formula="~double(z)")
    assert np.array_equal(model.exog_re[:, 1], 2.0 * data.z)
    assert np.array_equal(model.coding.random(data)[0].columns, model.exog_re)
    for text, columns in (("0 + double(z)", 1), ("0 + C(double(k))", 4)):
        model = mme.MixedLM.from_formula("y ~ x", data, groups="h", vc_formula={"a": text})
        assert model.exog_vc.mats[0][0].shape[1] == columns

    def one_up(**options):
        return mme.MixedLM.from_formula("y ~ x", data, groups="h", **options)

    assert one_up(re_formula="~double(z)", eval_env=2).k_re == 2
    assert double(1.0) == 2.0
