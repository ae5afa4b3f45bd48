"""What formulas take from the caller: values, functions in pickles, and what depends on other rows."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from formula.columns import N, assert_same, build, centred, make_data, tenfold  # noqa: F401  for formulas

import mme
from mme.exceptions import DataError, FormulaError


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return make_data()


def test_a_variable_that_was_a_column_must_be_one(data):
    extra = np.arange(N) / 7.0
    model = build("y ~ x + extra + (1 | h)", data)
    assert np.array_equal(model.coding.fixed(data.assign(extra=extra)), model.design.X)
    with pytest.raises(DataError, match=r"'extra' was a variable of the caller .* need it as a column"):
        model.coding.fixed(data)


def test_values_of_the_caller_are_those_of_the_fit(data):
    power = 2
    model = build("y ~ I(x ** power) + (1 | h)", data)
    expected = model.design.X.copy()
    power = 3
    assert np.array_equal(model.coding.fixed(data), expected)
    # a column of that name is another thing
    assert np.array_equal(model.coding.fixed(data.assign(power=power)), expected)
    assert np.array_equal(model.coding.rows(data, {"power": power}).context["power"], 3)
    cubed = model.coding.fixed(model.coding.rows(data, {"power": 3}))
    assert np.array_equal(cubed[:, 1], data.x**3)


def test_the_data_are_not_kept_with_the_functions_of_the_caller(data):
    df = pd.concat([data] * 50, ignore_index=True)
    df["y"] += df.index % 7
    x = df.x.to_numpy()  # noqa: F841  a variable that has a column's name
    model = build("y ~ bs(x, df=5) + tenfold(z) * m + (1 | h:f) + (x | g)", df)
    assert len(pickle.dumps(model.coding)) < 12_000
    rows = model.coding.rows(df)
    for _ in range(2):
        assert np.array_equal(model.coding.fixed(rows), model.design.X)


def test_functions_that_a_pickle_cannot_hold_are_named(data):
    double = lambda v: 2.0 * v  # noqa: E731
    model = build("y ~ double(x) + tenfold(z) + (1 | h)", data)
    assert_same(model, data)
    other = pickle.loads(pickle.dumps(model))
    for again in (other, pickle.loads(pickle.dumps(other))):
        with pytest.raises(FormulaError, match=r"'double' of the caller was not restored .*context="):
            again.coding.fixed(data)
        rows = again.coding.rows(data, {"double": double})
        assert np.array_equal(again.coding.fixed(rows), model.design.X)


def test_contrasts_that_a_pickle_cannot_hold_are_named(data):
    from formulaic.transforms.contrasts import SumContrasts

    class Own(SumContrasts):
        pass

    results = mme.lmer("y ~ C(m, Own()) + (1 | h)", data)
    design = results.model.model_design
    assert_same(design, data)
    again = pickle.loads(pickle.dumps(results))
    assert again.summary().as_text() == results.summary().as_text()
    with pytest.raises(FormulaError, match=r"the coding of .* could not be stored .*Own"):
        again.model.model_design.coding.fixed(data)


def test_functions_of_the_main_program(data, tmp_path):
    """Results load where the main program is another one; its functions are asked for when rows are coded."""
    data.to_pickle(tmp_path / "data.pkl")
    save = (
        "import sys, pickle, math, pandas as pd, numpy.linalg as la\n"
        "from mme.formula import build_design\n"
        "def third(x):\n    return x / 3\n"
        "data = pd.read_pickle(sys.argv[1])\n"
        "for k, f in enumerate(['third(x)', 'I(x * la.norm([3.0, 4.0]))']):\n"
        "    model = build_design(f'y ~ {f} + (1 | h)', data)\n"
        "    pickle.dump(model, open(f'{sys.argv[1]}.{k}', 'wb'))\n"
    )
    subprocess.run([sys.executable, "-c", save, str(tmp_path / "data.pkl")], check=True)
    first, second = (pickle.loads((tmp_path / f"data.pkl.{k}").read_bytes()) for k in range(2))
    with pytest.raises(FormulaError, match="'third' of the caller was not restored"):
        first.coding.fixed(data)
    rows = first.coding.rows(data, {"third": lambda x: x / 3})
    assert np.array_equal(first.coding.fixed(rows), first.design.X)
    assert_same(second, data)


@pytest.mark.parametrize(
    ("fixed", "named"),
    [
        ("centred(x) + z", "centred(x)"),
        ("I(x - x.mean())", "x - x.mean()"),
        ("np.cumsum(x)", "np.cumsum(x)"),
        ("I(x / np.max(x)) * m", "x / np.max(x)"),
        ("pd.cut(x, 3, labels=['a', 'b', 'c'])", "pd.cut"),
        ("x.rank()", "x.rank()"),
    ],
)
def test_what_depends_on_other_rows_is_refused(data, fixed, named):
    """x - x.mean() of one new row would be zero, whatever x is."""
    model = build(f"y ~ {fixed} + (1 | h)", data)
    for new in (data, data.iloc[:1]):
        with pytest.raises(FormulaError, match="depends on the other rows") as caught:
            model.coding.fixed(new)
        assert named in str(caught.value)


@pytest.mark.parametrize(
    "fixed",
    ["I(x - x.min())", "I(x / x.max())", "I(x - np.ptp(x))", "x.isin([0, x.max()])", "I(x > x.min()):m"],
)
@pytest.mark.parametrize("part", ["fixed", "random", "offset"])
def test_extremes_of_sorted_rows_are_those_of_the_other_rows(fixed, part):
    """Days from 0 to 9: the first and the last rows have the least and the greatest of all, others do not."""
    days = np.tile(np.arange(10.0), 6)
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"x": days, "m": np.tile(["u", "v"], 30), "h": np.repeat(np.arange(6), 10)})
    data["y"] = rng.normal(size=60)
    if part == "offset" and ":" in fixed:
        fixed = "I(1.0 * (x > x.min()))"
    terms = {
        "fixed": f"{fixed} + (1 | h)",
        "random": f"1 + ({fixed} | h)",
        "offset": f"offset({fixed}) + (1|h)",
    }
    coding = build(f"y ~ {terms[part]}", data).coding
    with pytest.raises(FormulaError, match="depends on the other rows"):
        getattr(coding, part)(data.iloc[[5]])


def test_methods_of_single_rows_are_fine(data):
    assert_same(build("y ~ x.clip(-1, 1) + m.str.len() + C(m.str.lower()) + (1 | h)", data), data)


def test_safe_formulas_stay_safe(data):
    formula = "y ~ np.log(z) * m + scale(x) + C(k, contr.sum) + offset(2 * z) + (poly(x, 2) | h)"
    model = build(formula, data, evaluate="safe")
    assert_same(model, data)
    assert_same(pickle.loads(pickle.dumps(model)), data.iloc[:3], slice(3))
    # text in place of numbers would be repeated: memory for the asking
    with pytest.raises(DataError, match="'z' held numbers"):
        model.coding.offset(data.assign(z="a" * 1000))

    class Column:
        called = False

        def __rmul__(self, other):
            Column.called = True
            return other

    with pytest.raises(DataError, match="'z' held numbers"):
        model.coding.offset(data.assign(z=[Column()] * N))
    assert not Column.called
