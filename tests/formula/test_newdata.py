"""The coding of a formula at other rows: those of the fit come back bit for bit, whatever their types."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from formula.columns import N, assert_same, build, make_data, plain, tenfold  # noqa: F401  for formulas
from support import load_data

import mme
from mme.exceptions import DataError, FormulaError


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return make_data()


FIXED = [
    "1",
    "0",
    "x",
    "x + z + k + flag",
    "0 + x + z",
    "x - 1",
    "m",
    "0 + m",
    "m - 1",
    "cat",
    "ord * x",
    "num",
    "num + k",
    "flag * m",
    "C(k)",
    "C(flag)",
    "C(r)",
    "C(nullable)",
    "nullable + nullable:x",
    "C(k, contr.sum) * m",
    "C(m, contr.helmert)",
    "C(m, Treatment('C'))",
    "C(cat, contr.poly)",
    "C(m, contr.diff):x",
    "C(m, {'a': [1, 0, -1], 'b': [0.5, -1, 0.5]})",
    "C(k, levels=[4, 3, 2, 1])",
    "m:x",
    "x:m + z",
    "m * cat",
    "m:cat",
    "0 + m:cat + x",
    "m / x",
    "(m + cat + x) ** 2",
    "m * x - m",
    "np.log(z) + I(x ** 2) + I(x * z)",
    "log(z) * m + sqrt(z) + np.exp(x)",
    "I(k ** 3) + I(k // 2)",
    "`my col` + Q('x.1') + x.1:m",
    "center(x) + scale(z)",
    "standardize(x) + m:center(z)",
    "scale(`my col`) + center(np.log(z))",
    "poly(x, 3)",
    "poly(x, 2, raw=True)",
    "poly(x, 2) * m",
    "bs(x, df=5)",
    "bs(x, df=4):m",
    "cr(x, df=4)",
    "cr(x, df=4, constraints='center')",
    "cc(z, df=4) + x",
    "I(m == 'A')",
    "np.where(m == 'A', x, z)",
    "C(np.round(z))",
    "tenfold(x) + tenfold(z):m",
    "shift(x) + np.power(z, POWER)",
]
RANDOM = [
    "(1 | g)",
    "(x | g)",
    "(x || g) + (1 | h)",
    "(m | h)",
    "(0 + m | h)",
    "(m + x || h)",
    "(poly(x, 2) | h)",
    "(C(k, contr.sum) | f)",
    "(1 | g:h)",
    "(1 | h/f)",
    "(1 | flag:h:f) + (1 | r)",
    "(1 | f) + (0 + center(z) | f)",
    "(1 | num) + (1 | ord:flag)",
    "(1 | `my grp`) + (0 + `my col` | h)",
]
FORMULAS = [f"y ~ {fixed} + (1 | h)" for fixed in FIXED] + [f"y ~ x + {random}" for random in RANDOM]
FORMULAS += [
    "y ~ x + offset(log(z)) + offset(k) + (1 | h)",
    "y ~ x + offset(center(z) + x) + (1 | h)",
    "np.log(z) ~ poly(x, 2) + (1 | h)",
]
POWER = 1.5


def shift(x):
    return x + POWER


@pytest.mark.parametrize("formula", FORMULAS)
def test_the_rows_of_the_fit_come_back(data, formula):
    data = data.assign(**{"my grp": data.g % 7})
    model = build(formula, data, offset="x.1", weights="w")
    assert_same(model, data)
    order = np.random.default_rng(3).permutation(N)
    for rows in (order, order[:50], order[:2], order[:1], [N - 1], [0]):
        assert_same(model, data.iloc[rows], rows)
        assert_same(model, plain(data).iloc[rows], rows)
    assert_same(pickle.loads(pickle.dumps(model)), data)
    assert_same(copy.deepcopy(model), data)
    assert_same(model, {name: data[name].to_numpy() for name in data})


@pytest.mark.parametrize("formula", FORMULAS[:: len(FORMULAS) // 12])
def test_rows_in_use_come_back(data, formula):
    """A subset, rows with missing values, and levels that occur in neither."""
    frame = data.assign(**{"my grp": data.g % 7})
    frame.loc[frame.index[::17], ["x", "z"]] = np.nan
    frame.loc[frame.index[3::19], ["m", "h"]] = None
    model = build(formula, frame, subset="m != 'C' and k < 4")
    assert_same(model, frame.loc[model.index])


@pytest.mark.parametrize(
    ("fit", "new"),
    [
        ({"m": "category"}, {"m": object}),
        ({"m": "category"}, {"m": "str"}),
        ({"m": object}, {"m": "category"}),
        ({"m": "str"}, {"m": object}),
        ({"m": "str"}, {"m": "category", "h": "category"}),
        ({"m": "str"}, {"m": "string", "h": "string"}),
        ({"m": "str"}, {"m": "string[pyarrow]", "h": "string[pyarrow]"}),
        ({"k": "int8"}, {"k": float}),
        ({"k": "Int64"}, {"k": "category"}),
        ({"k": "int64"}, {"k": object}),
        ({"k": float}, {"k": int}),
        ({"k": "category"}, {"k": int}),
        ({"k": "category"}, {"k": float}),
        ({"g": "int64"}, {"g": float}),
        ({"g": "int64"}, {"g": object}),
        ({"g": "int64"}, {"g": "category"}),
        ({"g": "int64"}, {"g": "Int32"}),
        ({"g": float}, {"g": "int16"}),
        ({"g": "category"}, {"g": "int64"}),
        ({"flag": bool}, {"flag": "boolean"}),
        ({"flag": bool}, {"flag": float}),
        ({"flag": bool}, {"flag": object}),
        ({"x": float}, {"x": "Float64"}),
        ({"x": float}, {"x": object}),
        ({"r": float}, {"r": "Int64"}),
    ],
)
@pytest.mark.parametrize("fixed", ["m * C(k) + flag + I(k ** 2)", "m + x + C(flag)"])
def test_columns_of_other_types_are_coded_alike(data, fixed, fit, new):
    if fit == {"k": "category"}:
        fixed = fixed.replace("I(k ** 2)", "k")
    frame = data.astype(fit)
    model = build(f"y ~ {fixed} + (1 | g:h) + (1 | flag:r)", frame)
    assert_same(model, frame)
    assert_same(model, frame.astype(new))
    assert_same(model, frame.astype(new).iloc[[5]], [5])


def test_other_tables(data):
    frame = data[["y", "x", "m", "k", "h", "g"]].reset_index(drop=True)
    model = build("y ~ m * x + C(k) + (x | h) + (1 | g)", frame)
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    assert_same(model, pyarrow.Table.from_pandas(frame))
    assert_same(build("y ~ m * x + C(k) + (x | h) + (1 | g)", pyarrow.Table.from_pandas(frame)), frame)
    polars = pytest.importorskip("polars", reason="polars is not installed")
    assert_same(model, polars.DataFrame({name: frame[name].tolist() for name in frame}))


@pytest.mark.parametrize("name", ["sleepstudy", "Pastes", "Machines", "cake", "Oats", "InstEval"])
def test_data_sets(name):
    formula = {
        "sleepstudy": "Reaction ~ Days + (Days | Subject)",
        "Pastes": "strength ~ 1 + (1 | batch/cask)",
        "Machines": "score ~ Machine + (0 + Machine | Worker) + (1 | Worker:Machine)",
        "cake": "angle ~ recipe * C(temperature) + (1 | recipe:replicate)",
        "Oats": "yield ~ nitro * Variety + (1 | Block/Variety)",
        "InstEval": "y ~ service * C(lectage) + (1 | s) + (1 | d) + (1 | dept:service)",
    }[name]
    frame = load_data(name)
    assert_same(build(formula, frame), frame)


def test_one_coding_for_equal_columns(data):
    model = build("y ~ x + m + (x + m | h)", data)
    rows = model.coding.rows(data)
    assert model.coding.random_terms[0].columns is model.coding.fixed_columns
    assert np.array_equal(model.coding.random(rows)[0].columns, model.coding.fixed(rows))


# -- levels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fixed", "column", "value", "words"),
    [
        ("m", "m", "D", ["'m'", "'D' (2)", "'A', 'B', 'C'"]),
        ("cat", "cat", "none", ["'cat'", "'none' (2)", "'mid', 'low', 'high'"]),
        ("cat:x", "cat", "new", ["'cat'", "'new' (2)", "'mid', 'low', 'high'"]),
        ("C(k)", "k", 7, ["'k'", "7 (2)", "1, 2, 3, 4"]),
        ("C(k, contr.sum)", "k", 2.5, ["'k'", "2.5 (2)"]),
        ("C(m, Treatment('B'))", "m", "b", ["'m'", "'b' (2)"]),
        ("C(k, levels=[1, 2, 3, 4])", "k", 0, ["'k'", "0 (2)"]),
        ("C(`my col` > 0)", "my col", None, []),
        ("C(np.round(z))", "z", 11.0, ["C(np.round(z))", "11.0"]),
        ("num", "num", 31, ["'num'", "31 (2)", "30, 40, 50"]),
    ],
)
def test_levels_of_fixed_factors_must_have_been_seen(data, fixed, column, value, words):
    model = build(f"y ~ {fixed} + (1 | h)", data)
    new = plain(data).astype({column: object})
    new.loc[new.index[[4, 8]], column] = value
    if not words:
        X = model.coding.fixed(new)
        assert np.isnan(X[[4, 8]]).all()
        assert np.isfinite(np.delete(X, [4, 8], axis=0)).all()
        return
    with pytest.raises(DataError) as caught:
        model.coding.fixed(new)
    for word in words:
        assert word in str(caught.value)


def test_the_same_holds_for_the_columns_of_a_random_term(data):
    model = build("y ~ x + (0 + m | h)", data)
    with pytest.raises(DataError, match=r"column 'm' has levels .* 'Z' "):
        model.coding.random(data.assign(m="Z"))


def test_unseen_and_missing_groups(data):
    model = build("y ~ x + (1 | h) + (1 | g) + (1 | h:f)", data)
    new = data.astype({"h": object, "f": object, "g": object}).iloc[:6].copy()
    new.iloc[0, new.columns.get_loc("h")] = "nobody"
    new.iloc[1, new.columns.get_loc("h")] = None
    new.iloc[2, new.columns.get_loc("g")] = 99
    new.iloc[3, new.columns.get_loc("g")] = np.nan
    new.iloc[4, new.columns.get_loc("f")] = "p"  # a category that no row of the fit had
    rows = model.coding.rows(new)
    got = {term.label: term for term in model.coding.random(rows)}
    own = {label: term.codes[:6] for label, term in zip(model.groups, model.design.terms, strict=True)}
    expected = {"h": [-1, -1, 0, 0, 0, 0], "g": [0, 0, -1, -1, 0, 0], "h:f": [-1, -1, 0, 0, -1, 0]}
    for label, marks in expected.items():
        np.testing.assert_array_equal(got[label].codes, np.where(marks, -1, own[label]))
    assert got["h"].unseen.tolist() == [True] + [False] * 5
    assert got["h"].missing.tolist() == [False, True] + [False] * 4
    assert got["g"].unseen.tolist() == [False, False, True] + [False] * 3
    assert got["g"].missing.tolist() == [False, False, False, True, False, False]
    assert got["h:f"].unseen.tolist() == [True, False, False, False, True, False]
    assert rows.missing == {"h": 1, "g": 1}
    assert got["g"].columns is None


def test_combinations_that_did_not_occur_are_unseen():
    frame = pd.DataFrame(
        {"y": np.arange(12.0) % 5, "a": [1, 2, 3] * 4, "b": list("ppqqqq") * 2, "c": [1] * 6 + [2] * 6}
    )
    frame["y"] += frame.index % 3
    model = build("y ~ (1 | a:b:c)", frame)
    grid = pd.MultiIndex.from_product([[1, 2, 3], ["p", "q"], [2, 1]], names=["a", "b", "c"]).to_frame(
        index=False
    )
    levels = list(model.factors[0].levels)
    text = grid.a.astype(str) + ":" + grid.b + ":" + grid.c.astype(str)
    expected = [levels.index(t) if t in levels else -1 for t in text]
    assert sorted(expected) == sorted([-1] * expected.count(-1) + list(range(len(levels))))
    assert expected.count(-1) > 0
    assert model.coding.random(grid)[0].codes.tolist() == expected


def test_groups_of_another_kind_are_no_new_levels(data):
    model = build("y ~ x + (1 | g) + (1 | h)", data)
    with pytest.raises(DataError, match=r"'g' held no text .*100, 101.* holds text here"):
        model.coding.random(data.assign(g=data.g.astype(str)))
    with pytest.raises(DataError, match=r"'h' held text .* holds no text here"):
        model.coding.random(data.assign(h=np.arange(N) % 5))


# -- columns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed", ["x + z", "m * x", "poly(x, 2)", "0 + x:m"])
def test_missing_values_are_rows_of_nan(data, fixed):
    model = build(f"y ~ {fixed} + offset(x) + (x | h)", data, offset="z", weights="w")
    new = plain(data)
    new.loc[new.index[[2, 5]], "x"] = np.nan
    new.loc[new.index[[5, 9]], "m"] = None
    new.loc[new.index[11], ["z", "w"]] = np.nan
    rows = model.coding.rows(new)
    X = model.coding.fixed(rows)
    used = {"x": [2, 5], "m": [5, 9] if "m" in fixed else [], "z": [11] if "z" in fixed else []}
    bad = sorted({i for where in used.values() for i in where})
    assert np.isnan(X[bad]).all()
    assert np.array_equal(np.delete(X, bad, axis=0), np.delete(model.design.X, bad, axis=0))
    assert rows.missing == {name: len(where) for name, where in used.items() if where}
    term = model.coding.random(rows)[0]
    assert term.missing is None
    assert np.flatnonzero(np.isnan(term.columns).all(axis=1)).tolist() == [2, 5]
    assert np.flatnonzero(np.isnan(model.coding.offset(rows))).tolist() == [2, 5, 11]
    assert np.flatnonzero(np.isnan(model.coding.weights(rows))).tolist() == [11]


def test_nothing_but_missing_values(data):
    model = build("y ~ m * x + (1 | h)", data)
    new = data.iloc[:3].assign(x=None, m=None, h=None)
    rows = model.coding.rows(new)
    assert np.isnan(model.coding.fixed(rows)).all()
    term = model.coding.random(rows)[0]
    assert term.codes.tolist() == [-1, -1, -1]
    assert term.missing.all()
    assert rows.missing == {"m": 3, "x": 3, "h": 3}


ERRORS = [
    ("x", lambda d: d.drop(columns="x"), "no column 'x'.*formula"),
    ("m * np.log(z)", lambda d: d.drop(columns="z"), "no column 'z'"),
    ("z", lambda d: d.rename(columns={"z": "Z"}), "no column 'z'.*did you mean Z"),
    ("x", lambda d: d.assign(x=d.x.astype(str)), "'x' held numbers .* pd.to_numeric"),
    ("m:x", lambda d: d.assign(x="high"), "'x' held numbers"),
    ("I(x ** 2)", lambda d: d.assign(x="3"), "'x' held numbers"),
    ("C(k)", lambda d: d.assign(k=d.k.astype(str)), "'k' held numbers"),
    ("m", lambda d: d.assign(m=1.5), "'m' held no numbers .* holds numbers here"),
    ("I(m == 'A')", lambda d: d.assign(m=1), "'m' held no numbers"),
    ("x", lambda d: d.assign(x=np.inf), "'x' has 210 infinite"),
    ("np.log(z)", lambda d: d.assign(z=0.0), "non-finite values of np.log"),
    ("bs(x, df=4)", lambda d: d.assign(x=100.0), "beyond upper"),
    ("x", lambda d: d.iloc[:0], "0 rows"),
    ("x", lambda d: None, "no data given"),
    ("x", lambda d: pd.concat([d, d[["x"]]], axis=1), "several columns named x"),
]


@pytest.mark.parametrize(("fixed", "change", "message"), ERRORS, ids=[f"{e[0]}: {e[2]}" for e in ERRORS])
def test_columns_that_cannot_be_coded(data, fixed, change, message):
    model = build(f"y ~ {fixed} + (1 | h)", data)
    kind = FormulaError if "bs(" in fixed else DataError
    with pytest.raises(kind, match=message):
        model.coding.fixed(change(data))


def test_only_what_is_asked_for_is_needed(data):
    model = build("y ~ m * x + (z | h)", data, weights="w", offset="k")
    grid = pd.DataFrame({"m": ["C", "A"], "x": [0.5, -1.0]})
    np.testing.assert_array_equal(model.coding.fixed(grid), [[1, 0, 1, 0.5, 0, 0.5], [1, 0, 0, -1.0, 0, 0]])
    with pytest.raises(DataError, match="no column 'h'"):
        model.coding.random(grid)
    with pytest.raises(DataError, match="no column 'k'"):
        model.coding.offset(grid)
    with pytest.raises(DataError, match="no column 'w'"):
        model.coding.weights(grid)


def test_offset_and_weights_given_as_arrays(data):
    model = build("y ~ x + offset(z) + (1 | h)", data, offset=data.k, weights=data.w.to_numpy())
    for label in ("offset", "weights"):
        with pytest.raises(DataError, match=f"{label} was an array in the fit"):
            getattr(model.coding, label)(data)
    assert np.array_equal(model.coding.offset(data, given=data.k), model.design.offset)
    assert np.array_equal(model.coding.offset(data.iloc[:2], given=2.0), 2.0 + data.z[:2])
    assert np.array_equal(model.coding.weights(data, given=data.w), model.design.weights)
    with pytest.raises(DataError, match=r"offset has shape \(3,\); the new rows are 210"):
        model.coding.offset(data, given=[1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="weights is not numeric"):
        model.coding.weights(data, given="heavy")


def test_without_offset_and_weights(data):
    coding = build("y ~ x + (1 | h)", data).coding
    assert coding.offset(data) is None
    assert coding.weights(data) is None


# -- terms and variables ----------------------------------------------------------------------------------


def test_terms(data):
    coding = build("y ~ m * np.log(z) + C(k):x + `my col` + (1 | h)", data).coding
    got = [(t.name, t.columns, t.factors, t.variables) for t in coding.terms]
    assert got == [
        ("(Intercept)", slice(0, 1), (), ()),
        ("m", slice(1, 3), ("m",), ("m",)),
        ("np.log(z)", slice(3, 4), ("np.log(z)",), ("z",)),
        ("my col", slice(4, 5), ("my col",), ("my col",)),
        ("m:np.log(z)", slice(5, 7), ("m", "np.log(z)"), ("m", "z")),
        ("C(k):x", slice(7, 11), ("C(k)", "x"), ("k", "x")),
    ]
    names = coding.x_names
    assert names[coding.terms[4].columns] == ("m[T.B]:np.log(z)", "m[T.C]:np.log(z)")
    plain = build("y ~ 0 + x + `my col` + (1 | h)", data).coding.terms
    assert [(t.name, t.columns, t.factors) for t in plain] == [
        ("x", slice(0, 1), ("x",)),
        ("my col", slice(1, 2), ("my col",)),
    ]
    assert build("y ~ 0 + (1 | h)", data).coding.terms == ()


def test_variables(data):
    rows = data.x > -1
    coding = build(
        "y ~ x + m * cat + C(k) + flag + I(z ** 2) + num + I(h == 's') + (x.1 | f)", data, subset=rows
    ).coding
    got = {v.name: v for v in coding.variables}
    assert set(got) == {"x", "m", "cat", "k", "flag", "z", "num", "h"}
    assert {name for name, variable in got.items() if variable.kind == "numeric"} == {"x", "z"}
    assert {variable.kind for variable in got.values()} == {"numeric", "categorical"}
    assert got["x"].levels is None
    for name in ("x", "z", "k", "flag"):
        values = data[name][rows].astype(float)
        assert got[name].mean == pytest.approx(values.mean(), rel=1e-14)
        assert (got[name].low, got[name].high) == (values.min(), values.max())
    assert got["m"].levels == ["A", "B", "C"]
    assert got["cat"].levels == ["mid", "low", "high"]
    assert got["k"].levels == [1, 2, 3, 4]
    assert got["flag"].levels == [False, True]
    assert got["num"].levels == [30, 40, 50]
    assert got["h"].levels == ["s", "t", "u", "v:w", "w"]
    assert np.isnan(got["m"].mean)
    plain = build("y ~ x + flag + (1 | h)", data).coding.variables
    assert [(v.name, v.kind, v.levels) for v in plain] == [
        ("x", "numeric", None),
        ("flag", "categorical", [False, True]),
    ]


def test_a_grid_of_chosen_values(data):
    coding = build("y ~ m * poly(x, 2) + flag + (1 | h)", data).coding
    variables = {v.name: v for v in coding.variables}
    grid = pd.MultiIndex.from_product(
        [variables["m"].levels, [variables["x"].mean], variables["flag"].levels], names=["m", "x", "flag"]
    ).to_frame(index=False)
    X = coding.fixed(grid)
    assert X.shape == (6, len(coding.x_names))
    (m,) = (t.columns for t in coding.terms if t.name == "m")
    assert X[:, m].tolist() == [[0, 0], [0, 0], [1, 0], [1, 0], [0, 1], [0, 1]]
    (flag,) = (t.columns for t in coding.terms if t.name == "flag")
    assert X[:, flag].ravel().tolist() == [0, 1] * 3


def test_results_keep_the_coding(data):
    results = mme.lmer("y ~ m * x + (1 | h)", data)
    again = pickle.loads(pickle.dumps(results))
    design = again.model.model_design
    assert np.array_equal(design.coding.fixed(data), results.model.model_design.design.X)
    fitted = design.coding.fixed(data) @ again.fit.beta
    np.testing.assert_array_equal(fitted, again.fitted_fixed)
