"""Formula and data to a Design. Labels and orders were compared with lme4 1.1-31 (R 4.2.2)."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from support import HERE, load_data, reference_models

import mme
from mme.exceptions import DataError, FormulaError
from mme.formula import build_design, encode, interact, make_unique, parse_formula, r_name
from mme.formula.parse import names_in

N = 240


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(20240)
    i = np.arange(N)
    return pd.DataFrame(
        {
            "y": rng.normal(size=N),
            "x": rng.normal(size=N),
            "z": rng.uniform(1.0, 2.0, size=N),
            "a": i % 4 + 1,
            "b": i % 3 + 1,
            "c": rng.integers(1, 3, N),
            "h": i // 30 + 1,
            "m": np.array(["A", "B", "C"])[i // 80],
            "flag": i % 2 == 0,
            "my col": rng.normal(size=N),
            "x.1": rng.normal(size=N),
            "grp.1": i % 5,
        },
        index=[f"row{k}" for k in i],
    )


def labels(model) -> list[tuple[str, tuple[str, ...]]]:
    return list(
        zip(make_unique(model.groups), (term.column_names for term in model.design.terms), strict=True)
    )


ONE = ("(Intercept)",)


# -- parsing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("g", [("g", ("g",))]),
        ("a:b", [("a:b", ("a", "b"))]),
        ("a/b", [("b:a", ("b", "a")), ("a", ("a",))]),
        ("a/b/c", [("c:(b:a)", ("c", "b", "a")), ("b:a", ("b", "a")), ("a", ("a",))]),
        ("a/(b:c)", [("(b:c):a", ("b", "c", "a")), ("a", ("a",))]),
        ("(a:b)/c", [("c:(a:b)", ("c", "a", "b")), ("a:b", ("a", "b"))]),
        ("(g):h", [("g:h", ("g", "h"))]),
        ("(g):(h)", [("g:h", ("g", "h"))]),
        ("(g)/h", [("h:g", ("h", "g")), ("g", ("g",))]),
        ("(a:b):c", [("(a:b):c", ("a", "b", "c"))]),
        ("`my col`", [("my col", ("my col",))]),
        ("Q('my col'):g", [("my col:g", ("my col", "g"))]),
        ("C(g)", [("g", ("g",))]),
        ("grp.1", [("grp.1", ("grp.1",))]),
    ],
)
def test_groups(group, expected):
    got = parse_formula(f"y ~ (1 | {group})").bars
    assert [(bar.group.label, bar.group.columns) for bar in got] == expected


@pytest.mark.parametrize(
    ("right", "text"),
    [
        ("(x | g)", "1"),
        ("x + (x | g)", "1 + x"),
        ("0 + x + (x | g)", "0 + x"),
        ("x - 1 + (x | g)", "0 + x"),
        ("x + (x | g) - 1", "0 + x"),
        ("-1 + (x | g)", "0"),
        ("x + -1 + (x | g)", "0 + x"),
        ("1 + x + x + (x | g)", "1 + x"),
        ("a * b - a:b + (x | g)", "1 + a * b - a:b"),
        ("((x | g)) + (a + b)", "1 + (a + b)"),
        ("(a + (x | g)) + b", "1 + a + b"),
        ("x\n  + (x\t| g)", "1 + x"),
        ("f(x, k='a + b | c') + (x | g)", "1 + f(x, k='a + b | c')"),
        ("`p | q` + (x | g)", "1 + `p | q`"),
    ],
)
def test_fixed_part_is_what_the_bars_leave(right, text):
    parsed = parse_formula(f"y ~ {right}")
    assert parsed.fixed.text == text
    assert [bar.part.text for bar in parsed.bars] == ["1 + x"]


@pytest.mark.parametrize(
    ("bar", "text", "double"),
    [
        ("(1|g)", "1", False),
        ("(x|g)", "1 + x", False),
        ("( 1 + x | g )", "1 + x", False),
        ("(0+x|g)", "0 + x", False),
        ("(x-1|g)", "0 + x", False),
        ("(x||g)", "1 + x", True),
        ("(x * z || g)", "1 + x * z", True),
    ],
)
def test_bars(bar, text, double):
    (got,) = parse_formula(f"y ~ {bar}").bars
    assert (got.part.text, got.double) == (text, double)


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("y ~ x", ["no random term", "(1 | g)"]),
        ("y ~ x + (x | )", ["(x |)", "no grouping factor"]),
        ("y ~ (| g)", ["nothing before the bar", "(1 | g)"]),
        ("y ~ (0 | g)", ["(0 | g)", "no columns"]),
        ("y ~ (1 | g", ["unbalanced", "')' is missing"]),
        ("y ~ 1 | g)", ["unbalanced", "closes nothing"]),
        ("y ~ f[(1 | g)", ["unbalanced", "']' is missing"]),
        ("y ~ x | g", ["parentheses", "(x | g)"]),
        ("x + (1 | g)", ["0 '~'"]),
        ("y ~ x ~ (1 | g)", ["2 '~'"]),
        ("~ x + (1 | g)", ["no response"]),
        ("y ~", ["nothing after '~'"]),
        ("y ~ (1 | g) +", ["ends with '+'"]),
        ("y ~ log((1 | g))", ["log((1 | g))", "inside a function"]),
        ("y ~ x * (1 | g)", ["x * (1 | g)", "joined to the rest by '+'"]),
        ("y ~ (1 | g)(1 | h)", ["joined to the rest by '+'"]),
        ("y ~ x - (1 | g)", ["(1 | g)", "subtracted"]),
        ("y ~ (1 | g | h)", ["2 bars"]),
        ("y ~ (1 | g + h)", ["(1 | g) + (1 | h)"]),
        ("y ~ (1 | g * h)", ["'g * h'", "cannot group"]),
        ("y ~ (1 | floor(x))", ["'floor(x)'", "make a column"]),
        ("y ~ (1 | 1)", ["cannot group by '1'"]),
        ("y ~ . + (1 | g)", ["'.'", "name the columns"]),
        ("y ~ 'x + (1 | g)", ["quote"]),
        ("y ~ I(x^2) + (1 | g)", ["'**'", "I(x^2)"]),
        ("y ~ (I(x^2) | g)", ["'**'"]),
        ("y^2 ~ (1 | g)", ["'**'"]),
    ],
)
def test_formula_errors_name_the_part_and_the_remedy(formula, words):
    with pytest.raises(FormulaError) as caught:
        parse_formula(formula)
    message = str(caught.value)
    assert repr(formula) in message
    for word in words:
        assert word in message


def test_names_in():
    columns = {"x", "my col", "x.1", "df", "np"}
    assert names_in("np.log(x) + bs(x.1, df=3) + `my col`*q", columns) == (["x", "x.1", "my col"], ["q"])
    assert names_in("x.clip(0) + C(u, Treatment('x'))", columns) == (["x"], ["u"])
    assert names_in('Q("my col") + Q("no col") + f(1e-3).x', columns) == (["my col"], ["no col"])


def test_make_unique_steps_over_labels_in_use():
    assert make_unique(["g", "g", "g.1", "g", "h"]) == ["g", "g.2", "g.1", "g.3", "h"]


# -- terms, compared with lme4's lFormula ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ("(1|a/b/c)", [("c:(b:a)", ONE), ("b:a", ONE), ("a", ONE)]),
        ("(1|a) + (1|b) + (1|h)", [("h", ONE), ("a", ONE), ("b", ONE)]),
        ("(1|c) + (x||h) + (1|a)", [("h", ("x",)), ("h.1", ONE), ("a", ONE), ("c", ONE)]),
        ("(m||h)", [("h", ONE), ("h.1", ("m[A]", "m[B]", "m[C]"))]),
        ("(x*z||h)", [("h", ONE), ("h.1", ("x",)), ("h.2", ("z",)), ("h.3", ("x:z",))]),
        ("(1|a:b) + (1|h)", [("a:b", ONE), ("h", ONE)]),
        ("(0+m|h)", [("h", ("m[A]", "m[B]", "m[C]"))]),
        ("(m|h)", [("h", ("(Intercept)", "m[T.B]", "m[T.C]"))]),
        ("(x|h) + (0+z|h) + (1|a)", [("h", ("(Intercept)", "x")), ("h.1", ("z",)), ("a", ONE)]),
        ("(0+x||h)", [("h", ("x",))]),
        ("(x+m||h)", [("h", ONE), ("h.1", ("x",)), ("h.2", ("m[A]", "m[B]", "m[C]"))]),
        ("(x-1|h)", [("h", ("x",))]),
        ("(x + z|h)", [("h", ("(Intercept)", "x", "z"))]),
        ("(`my col`|grp.1)", [("grp.1", ("(Intercept)", "my col"))]),
        ("(x.1|h)", [("h", ("(Intercept)", "x.1"))]),
        ("(np.log(z)|h)", [("h", ("(Intercept)", "np.log(z)"))]),
    ],
)
def test_terms_are_labelled_and_ordered_as_in_lme4(data, right, expected):
    assert labels(build_design(f"y ~ 1 + {right}", data)) == expected


SHIPPED = {path.name.removesuffix(".csv.gz") for path in (HERE / "data").glob("*.csv.gz")}
# lme4's estimates are stored where it reached the optimum, by REML, ML or both
NAMED = [
    (name, model["reml"] if "fixef" in model.get("reml", {}) else model["ml"])
    for name, model in reference_models().items()
    if model["data"] in SHIPPED and ("fixef" in model.get("reml", {}) or "fixef" in model.get("ml", {}))
]


@pytest.mark.parametrize(("name", "values"), NAMED, ids=[name for name, _ in NAMED])
def test_reference_models_have_lme4s_names(name, values):
    model = reference_models()[name]
    design = build_design(model["formula"], load_data(model["data"]))
    assert sorted(map(r_name, design.design.x_names)) == sorted(values["fixef"])
    got = [(group, r_name(column)) for group, columns in labels(design) for column in columns]
    expected = [(row["grp"], row["var1"]) for row in values["varcorr"] if row["var1"] and not row["var2"]]
    assert got == expected
    for group, factor in zip(design.groups, design.factors, strict=True):
        first = values["ranef"][group]["names"]
        assert [str(level) for level in factor.levels[: len(first)]] == first


def test_terms_of_one_factor_share_their_codes(data):
    design = build_design("y ~ x + (x || h) + (1 | a/b)", data).design
    by_name = {term.name: term for term in design.terms}
    assert by_name["h"].codes is by_name["h.1"].codes
    assert by_name["a"].codes is not by_name["b:a"].codes


def test_equal_fixed_and_random_columns_share_an_array(data):
    design = build_design("y ~ x + (x | h)", data).design
    assert design.terms[0].columns is design.X


# -- matrices ---------------------------------------------------------------------------------------------


def test_the_direct_matrix_equals_formulaics(data):
    got = build_design("y ~ x + flag + `my col` + x.1 + (0 + x + z | h)", data).design
    expected = build_design(
        "y ~ I(x) + I(1*flag) + I(1*`my col`) + I(x.1) + (0 + I(x) + I(z) | h)", data
    ).design
    np.testing.assert_array_equal(got.X, expected.X)
    np.testing.assert_array_equal(got.terms[0].columns, expected.terms[0].columns)
    assert got.x_names == ("(Intercept)", "x", "flag", "my col", "x.1")


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("np.log(z) ~ (1 | h)", lambda d: np.log(d.z)),
        ("log(z) ~ (1 | h)", lambda d: np.log(d.z)),
        ("I(y * 2) ~ (1 | h)", lambda d: d.y * 2),
        ("y * 2 + x.1 ~ (1 | h)", lambda d: d.y * 2 + d["x.1"]),
        ("`my col` ~ (1 | h)", lambda d: d["my col"]),
        ("Q('my col') ~ (1 | h)", lambda d: d["my col"]),
        ("a ~ (1 | h)", lambda d: d.a),
        ("flag ~ (1 | h)", lambda d: d.flag.astype(float)),
    ],
)
def test_response(data, formula, expected):
    np.testing.assert_array_equal(build_design(formula, data).design.y, expected(data))


def test_categorical_columns(data):
    design = build_design("y ~ m * x + (1 | h)", data).design
    dummies = np.column_stack([data.m == "B", data.m == "C"]).astype(float)
    x = data.x.to_numpy()[:, None]
    np.testing.assert_array_equal(design.X, np.hstack([np.ones((N, 1)), dummies, x, dummies * x]))
    full = build_design("y ~ x + (0 + m | h)", data).design.terms[0].columns
    np.testing.assert_array_equal(full, np.column_stack([data.m == level for level in "ABC"]))


def test_unused_categories_make_no_columns(data):
    frame = data.assign(m=pd.Categorical(data.m, categories=["C", "A", "B", "Z"]))
    design = build_design("y ~ m + (1 | h)", frame, subset="m != 'A'").design
    assert design.x_names == ("(Intercept)", "m[T.B]")
    assert design.n == int((data.m != "A").sum())


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "int64[pyarrow]", "double[pyarrow]", "int8", "object"])
def test_column_types_of_numbers(data, dtype):
    expected = build_design("a ~ b + (b | h)", data).design
    frame = data.assign(a=data.a.astype(dtype), b=data.b.astype(dtype), h=data.h.astype(dtype))
    got = build_design("a ~ b + (b | h)", frame).design
    np.testing.assert_array_equal(got.y, expected.y)
    np.testing.assert_array_equal(got.X, expected.X)
    np.testing.assert_array_equal(got.terms[0].codes, expected.terms[0].codes)
    levels = build_design("y ~ C(b) + (1 | h)", frame.assign(b=data.b.astype("Int64"))).design.x_names
    assert levels == ("(Intercept)", "C(b)[T.2]", "C(b)[T.3]")


def test_offsets_add_up_and_weights_by_name(data):
    got = build_design("y ~ x + offset(log(z)) + offset(a) + (1 | h)", data, offset="b", weights="z").design
    np.testing.assert_allclose(got.offset, np.log(data.z) + data.a + data.b, rtol=1e-15)
    np.testing.assert_array_equal(got.weights, data.z)
    assert got.x_names == ("(Intercept)", "x")


def test_no_intercept_at_all(data):
    design = build_design("y ~ 0 + (1 | h)", data).design
    assert design.X.shape == (N, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("(Intercept)", "(Intercept)"),
        ("Intercept", "(Intercept)"),
        ("Machine[T.B]", "MachineB"),
        ("m[A]", "mA"),
        ("C(dept)[T.2]", "factor(dept)2"),
        ("recipe[T.B]:C(temperature)[T.185]", "recipeB:factor(temperature)185"),
        ("age:Sex[T.Male]", "age:SexMale"),
        ("m[T.a:b]:x", "ma:b:x"),
        ("np.log(x)", "log(x)"),
        ("I(x ** 2)", "I(x^2)"),
        ("spkr:prec:load", "spkr:prec:load"),
    ],
)
def test_r_name(name, expected):
    assert r_name(name) == expected


# -- kinds of data ----------------------------------------------------------------------------------------


def test_mappings_and_tables(data):
    expected = build_design("y ~ x + (x | m)", data).design
    columns = {name: data[name].to_numpy() for name in ("y", "x", "m")}
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    for other in (columns, pyarrow.table(columns), data[["y", "x", "m"]].to_records(index=False)):
        got = build_design("y ~ x + (x | m)", other).design
        np.testing.assert_array_equal(got.X, expected.X)
        np.testing.assert_array_equal(got.terms[0].codes, expected.terms[0].codes)


def test_data_are_not_changed(data):
    before = data.copy(deep=True)
    build_design("y ~ m * x + (x || a/b)", data, subset=data.x > -1, missing="drop")
    pd.testing.assert_frame_equal(data, before)


def test_the_design_does_not_alias_integer_codes():
    group = np.repeat(np.arange(5, dtype=np.int32), 4)
    columns = {"y": np.arange(20.0), "g": group}
    codes = build_design("y ~ (1 | g)", columns).design.terms[0].codes
    group[:] = 0
    assert codes.max() == 4


# -- codes ------------------------------------------------------------------------------------------------

VALUES = np.array([7, 3, 3, -2, 7, 11, 3, -2])
CODES = [2, 1, 1, 0, 2, 3, 1, 0]
TEXT = np.array(["g", "c", "c", "b", "g", "k", "c", "b"], dtype=object)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (VALUES, [-2, 3, 7, 11]),
        (VALUES.astype(np.int8), [-2, 3, 7, 11]),
        (VALUES * 10**12, [-2 * 10**12, 3 * 10**12, 7 * 10**12, 11 * 10**12]),
        (VALUES + 2, [0, 5, 9, 13]),
        ((VALUES + 2).astype(np.uint64), [0, 5, 9, 13]),
        ((VALUES + 2).astype(np.uint64) + np.uint64(2**63), [2**63 + v for v in (0, 5, 9, 13)]),
        (VALUES.astype(float), [-2.0, 3.0, 7.0, 11.0]),
        (VALUES.astype(np.float32), [-2.0, 3.0, 7.0, 11.0]),
        (VALUES / 4, [-0.5, 0.75, 1.75, 2.75]),
        (TEXT, list("bcgk")),
        (pd.Series(TEXT, dtype="str"), list("bcgk")),
        (pd.Series(TEXT, dtype="string"), list("bcgk")),
        (pd.Series(TEXT, dtype="string[pyarrow]"), list("bcgk")),
        (pd.Series(VALUES, dtype="Int64"), [-2, 3, 7, 11]),
        (pd.Series(VALUES, dtype="int64[pyarrow]"), [-2, 3, 7, 11]),
        (pd.Series(VALUES, dtype="double[pyarrow]"), [-2, 3, 7, 11]),
        (pd.Series(VALUES, dtype=object), [-2, 3, 7, 11]),
        (pd.Series(pd.Categorical(TEXT, categories=list("abcgk"))), list("bcgk")),
        (pd.Series(pd.Categorical(VALUES, categories=[-2, 3, 5, 7, 11])), [-2, 3, 7, 11]),
        (pd.to_datetime(pd.Series(VALUES + 3, dtype="int64"), unit="D"), None),
    ],
)
def test_encode(values, levels):
    factor = encode(values, "g")
    assert factor.codes.dtype == np.int32
    assert factor.codes.tolist() == CODES
    assert factor.n_levels == 4
    if levels is not None:
        assert list(factor.levels) == levels


def test_encode_keeps_the_order_of_categories():
    factor = encode(pd.Series(pd.Categorical(["x", "y", "y", "z"], categories=["z", "q", "y", "x"])), "g")
    assert factor.codes.tolist() == [2, 1, 1, 0]
    assert list(factor.levels) == ["z", "y", "x"]


def test_encode_booleans():
    factor = encode(np.array([True, True, False]), "g")
    assert (factor.codes.tolist(), list(factor.levels)) == ([1, 1, 0], [False, True])


def test_encode_against_numpy_on_random_integers():
    rng = np.random.default_rng(5)
    for low, high in ((0, 50), (-40, 300), (10**9, 10**9 + 70_000), (-(10**15), 10**15)):
        values = rng.integers(low, high, 1000)
        unique, inverse = np.unique(values, return_inverse=True)
        factor = encode(values, "g")
        np.testing.assert_array_equal(factor.codes, inverse)
        np.testing.assert_array_equal(factor.levels, unique)


def test_encode_refuses_labels_without_an_order():
    with pytest.raises(DataError, match=r"'g' holds values of type int and str"):
        encode(pd.Series([1, "1", 2, "a"], dtype=object), "g")


@pytest.mark.parametrize(
    "values",
    [
        np.array([1.0, np.nan, 2.0]),
        pd.Series(["a", None, "b"]),
        pd.Series([1, None, 2], dtype="Int64"),
        pd.Series(pd.Categorical(["a", None, "b"])),
        pd.to_datetime(pd.Series(["2020-01-01", None, "2021-01-01"])),
    ],
)
def test_encode_refuses_missing_labels(values):
    with pytest.raises(DataError, match=r"'g' has 1 missing label"):
        encode(values, "g")


def _naive_interaction(*columns: np.ndarray) -> tuple[list[str], list[int]]:
    rows = list(zip(*columns, strict=True))
    levels = sorted(set(rows))
    return [":".join(map(str, level)) for level in levels], [levels.index(row) for row in rows]


@pytest.mark.parametrize("kind", ["small", "large", "inner nested", "outer nested", "three"])
def test_interaction(kind):
    rng = np.random.default_rng(9)
    n = 3000
    a, b = rng.integers(0, 7, n), rng.integers(0, 5, n)
    columns = [a, b]
    if kind == "large":  # beyond the range that is counted: hashed
        columns = [rng.integers(0, 900, n), rng.integers(0, 900, n)]
    elif kind == "inner nested":
        inner = rng.integers(0, 1000, n)
        columns = [inner, inner * 7 % 501]
    elif kind == "outer nested":
        inner = rng.integers(0, 1000, n)
        columns = [inner * 7 % 501, inner]
    elif kind == "three":
        columns = [a, b, rng.integers(0, 1500, n)]
    expected_levels, expected = _naive_interaction(*columns)
    factor = interact([encode(column, f"f{j}") for j, column in enumerate(columns)])
    assert factor.codes.tolist() == expected
    assert factor.codes.dtype == np.int32
    assert factor.n_levels == len(expected_levels)
    assert list(factor.levels) == expected_levels


def test_interaction_of_nested_labels_reuses_the_codes():
    inner = encode(np.arange(4000) // 2, "inner")
    outer = encode(np.arange(4000) // 40, "outer")
    assert interact([inner, outer]).codes is inner.codes


def test_interaction_labels_print_whole_floats_as_r_does():
    factor = interact([encode(np.array([1.0, 2.0]), "a"), encode(np.array(["u", "v"], dtype=object), "b")])
    assert list(factor.levels) == ["1:u", "2:v"]


# -- missing values ---------------------------------------------------------------------------------------


def _holes(data: pd.DataFrame) -> pd.DataFrame:
    frame = data.copy()
    frame.loc["row3", "y"] = np.nan
    frame.loc[["row5", "row9"], "x"] = np.nan
    frame.loc["row9", "m"] = None
    frame.loc["row11", "z"] = np.nan
    frame["unused"] = np.nan
    return frame


def test_missing_values_raise_with_counts(data):
    with pytest.raises(DataError, match=r"y \(1\), x \(2\), m \(1\); 3 of 240 rows .*missing=\"drop\""):
        build_design("y ~ x + (x | m)", _holes(data), missing="raise")


def test_missing_rows_are_dropped_from_everything(data):
    frame = _holes(data)
    weights = np.arange(1.0, N + 1)
    weights[20] = np.nan
    subset = np.arange(N) != 30
    got = build_design("y ~ x + (x | m)", frame, weights=weights, offset="z", subset=subset, missing="drop")
    keep = ~np.isin(np.arange(N), [3, 5, 9, 11, 20, 30])
    expected = build_design("y ~ x + (x | m)", data[keep], weights=weights[keep], offset="z")
    assert got.dropped == 5
    pd.testing.assert_index_equal(got.index, data.index[keep])
    for name in ("y", "X", "weights", "offset"):
        np.testing.assert_array_equal(getattr(got.design, name), getattr(expected.design, name))
    np.testing.assert_array_equal(got.design.terms[0].codes, expected.design.terms[0].codes)


def test_levels_that_vanish_with_dropped_rows_are_not_counted(data):
    frame = data.copy()
    frame["h"] = frame["h"].astype(float)
    frame.loc[frame.h == 2, "y"] = np.nan
    factor = build_design("y ~ (1 | h)", frame, missing="drop").factors[0]
    assert list(factor.levels) == [1.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]


@pytest.mark.parametrize("dtype", ["Int64", "double[pyarrow]", "object"])
def test_missing_in_other_types(data, dtype):
    frame = data.assign(b=data.b.astype(dtype))
    frame.loc["row4", "b"] = None
    with pytest.raises(DataError, match=r"b \(1\)"):
        build_design("y ~ b + (1 | h)", frame, missing="raise")
    assert build_design("y ~ b + (1 | h)", frame, missing="drop").design.n == N - 1


@pytest.mark.parametrize("missing", ["warn", "drop", "raise", "none"])
@pytest.mark.parametrize("column", ["y", "x", "h", "z"])
def test_infinite_values_always_raise(data, missing, column):
    frame = data.assign(h=data.h.astype(float))
    frame.loc["row7", column] = np.inf
    with pytest.raises(DataError, match=rf"infinite values .*{column} \(1\)"):
        build_design("y ~ x + (1 | h)", frame, weights="z", missing=missing)


def test_every_row_missing(data):
    with pytest.raises(DataError, match=r"no rows are left .*x \(240\)"):
        build_design("y ~ x + (1 | h)", data.assign(x=np.nan), missing="drop")


def test_messages_are_single_sentences_without_escape_codes(data):
    with pytest.raises(FormulaError) as caught:
        build_design("y ~ x + *z + (1 | h)", data)
    assert not re.search(r"[\x1b⧛\n]", str(caught.value))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool, float, object, "category", "Int64"])
def test_no_rows_have_no_levels(dtype):
    factor = encode(pd.Series([], dtype=dtype), "g")
    assert factor.n_levels == 0
    assert factor.codes.size == 0


@pytest.mark.parametrize("dtype", ["string", "string[python]", "string[pyarrow]", "arrow"])
@pytest.mark.parametrize(
    "formula", ["Reaction ~ a * x", "Reaction ~ a", "Reaction ~ x + np.log(x + 1) + C(a)"]
)
def test_nullable_text_is_a_factor(sleepstudy, dtype, formula):
    """As text in objects, in every part of a formula, with rows of missing text left out."""
    pa = pytest.importorskip("pyarrow")
    if dtype == "arrow":
        dtype = pd.ArrowDtype(pa.string())
    a = np.where(np.arange(180) % 7 < 4, "u", "v").astype(object)
    a[7] = None
    frame = sleepstudy.assign(a=a, x=np.tile([0.0, 1.0, 2.0], 60))
    expected = mme.lmer(f"{formula} + (1 | Subject) + (1 | a:Subject)", frame, missing="drop")
    frame["a"] = frame["a"].astype(dtype)
    got = mme.lmer(f"{formula} + (1 | Subject) + (1 | a:Subject)", frame, missing="drop")
    assert list(got.fe_params.index) == list(expected.fe_params.index)
    np.testing.assert_allclose(got.fe_params, expected.fe_params, rtol=1e-12)
    assert got.nobs == expected.nobs == 179
    new = frame.iloc[[0, 5]]
    np.testing.assert_array_equal(
        got.model.model_design.coding.fixed(new), got.model.model_design.design.X[[0, 5]]
    )
