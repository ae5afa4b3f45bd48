"""Formulas and labels at their limits: collisions, repeats, sizes without end, names that hold anything."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mme
import mme.fit.forecast
from mme.exceptions import DataError, FormulaError, MemoryEstimateError, NotEnoughDataError
from mme.formula import build_design, encode, interact

N = 240


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(20240)
    i = np.arange(N)
    columns = {"y": rng.normal(size=N), "x": rng.normal(size=N), "h": i // 30 + 1}
    return pd.DataFrame({**columns, "m": np.array(["A", "B", "C"])[i // 80]}, index=[f"row{k}" for k in i])


def test_labels_of_interactions_stay_apart_where_labels_hold_colons():
    a = np.array(["a:b", "a", "a", "x", "x", 'q"', "1"] * 4)
    b = np.array(["c", "b:c", "c", "y", "z", "r:s", "1"] * 4)
    data = pd.DataFrame({"y": np.arange(28.0) % 5, "a": a, "b": b})
    got = mme.lmer("y ~ (1 | a:b)", data).random_effects["a:b"]
    assert got.index.is_unique
    assert set(got.index) == {'"a:b":c', 'a:"b:c"', "a:c", "x:y", "x:z", 'q":"r:s"', "1:1"}
    distinct = interact([encode(a[1:5], "a"), encode(b[1:5], "b")])
    assert list(distinct.levels) == ["a:b:c", "a:c", "x:y", "x:z"]  # no two alike: as R writes them


def test_labels_of_interactions_tell_a_number_from_its_text():
    codes = pd.Series(pd.Categorical([1, "1", 1, "1"], categories=[1, "1"]))
    crossed = interact([encode(codes, "a"), encode(pd.Series(["x", "x", "y", "y"]), "b")])
    assert list(crossed.levels) == ["1:x", "1:y", '"1":x', '"1":y']
    np.testing.assert_array_equal(crossed.codes, [0, 2, 1, 3])


def test_a_column_with_a_colon_is_not_the_interaction(data):
    frame = data.assign(**{"h:m": np.arange(N) % 7})
    got = mme.lmer("y ~ (1 | `h:m`) + (1 | h:m)", frame)
    sizes = {"`h:m`": 7, "h:m": data.groupby(["h", "m"], observed=True).ngroups}
    assert got.n_groups == sizes
    assert {name: len(modes) for name, modes in got.random_effects.items()} == sizes
    assert list(mme.lmer("y ~ (1 | `h:m`)", frame).random_effects) == ["h:m"]
    assert "m:`h:m`" in mme.lmer("y ~ (1 | `h:m` / m)", frame).n_groups


@pytest.mark.parametrize(
    "bar", ["(1 | h / h)", "(1 | h:h)", "(1 | m / h / m)", "(1 | h:m / m)", "(x | (h:m):h)"]
)
def test_a_column_crossed_with_itself_is_refused(data, bar):
    with pytest.raises(FormulaError, match=r"crosses '[hm]' with itself"):
        build_design(f"y ~ x + {bar}", data)


@pytest.mark.parametrize("kind", [list, set, dict, np.array])
def test_labels_that_cannot_be_hashed(data, kind):
    frame = data.assign(h=pd.Series([kind([(i % 5, 1)]) for i in range(N)], index=data.index))
    with pytest.raises(
        DataError, match=r"'h' holds values of type \w+, which cannot be labels.*astype\(str\)"
    ):
        build_design("y ~ x + (1 | h)", frame)
    with pytest.raises(DataError, match=r"h"):
        build_design("y ~ h + (1 | m)", frame)


def test_parentheses_without_end(data):
    for depth in (101, 3000, 100_000):
        for formula in (
            f"y ~ {'(' * depth}x{')' * depth} + (1 | h)",
            f"y ~ {'(' * depth}1 | h{')' * depth}",
            f"y ~ x + (1 | {'(' * depth}h{')' * depth})",
            f"{'(' * depth}y{')' * depth} ~ x + (1 | h)",
            f"y ~ {'log(' * depth}x{')' * depth} + (1 | h)",
            "y ~ " + "(" * depth,
        ):
            with pytest.raises(FormulaError, match=r"more than 100 parentheses within one another") as caught:
                build_design(formula, data)
            assert len(str(caught.value)) < 300
    deep = f"y ~ {'(' * 60}x{')' * 60} + {'(' * 60}1 | h{')' * 60}"
    assert build_design(deep, data).design.x_names == ("(Intercept)", "x")


def test_names_that_hold_backticks(data):
    frame = data.assign(**{"o`clock": data.x, "we`ek": data.h})
    got = build_design("""y ~ Q("o`clock") + (Q("o`clock") | Q('we`ek'))""", frame)
    np.testing.assert_array_equal(got.design.X[:, 1], data.x)
    assert got.groups == ("we`ek",)
    with pytest.raises(FormulaError, match=r'quote ` is never closed.*Q\("\.\.\."\)'):
        build_design("y ~ `o`clock` + (1 | h)", frame)


# -- sizes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(data) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    columns = {f"x{i}": rng.normal(size=N) for i in range(24)}
    return data.assign(**columns, text=np.array(list("abcdefgh"))[np.arange(N) % 8])


def _joined(operator: str, k: int) -> str:
    return operator.join(f"x{i}" for i in range(k))


@pytest.mark.parametrize(
    ("right", "columns"),
    [
        (_joined("*", 16), "65,535"),
        (_joined(" * ", 24), "16,777,215"),
        (f"({_joined('+', 24)}) ** 6", "190,050"),
        (f"({_joined('+', 24)}) ^ 6", "190,050"),
        (f"({_joined('*', 12)}) * ({_joined('*', 24)})", "68,719,476,735"),
        (_joined("/", 4) + "/text*" + _joined("*", 10), ""),
        ("text*C(h)*" + _joined("*", 6), "4,095"),
    ],
)
def test_interactions_without_end_are_refused_with_their_size(wide, right, columns, monkeypatch):
    def build(*_):
        raise AssertionError("formulaic was asked to build it")

    monkeypatch.setattr("formulaic.model_matrix", build)
    for formula in (f"y ~ {right} + (1 | h)", f"y ~ 1 + ({right} | h)", f"y ~ 1 + ({right} || h)"):
        with pytest.raises(NotEnoughDataError, match=rf"has about {columns}.* columns for 240 rows"):
            build_design(formula, wide)


def test_sizes_that_do_not_fit_in_memory(wide, monkeypatch):
    many = pd.concat([wide] * 5, ignore_index=True).assign(id=np.arange(5 * N) // 2)
    monkeypatch.setattr("mme.formula.matrix.available_memory", lambda: 1e7)
    for right, columns in (("C(id)", 599), (_joined("*", 10), 1023), (f"({_joined('+', 24)})**3", 2324)):
        with pytest.raises((MemoryEstimateError, NotEnoughDataError), match=f"about {columns:,} columns"):
            build_design(f"y ~ {right} + (1 | h)", many)
    monkeypatch.setattr("mme.formula.matrix.available_memory", lambda: 1e9)
    assert build_design("y ~ C(id) + (1 | h)", many).design.p == 600


def test_terms_that_occur_twice_count_once(wide):
    """An upper bound alone would refuse this: 24 * 23 / 2 + 24 distinct columns twice over."""
    some = f"({_joined('+', 18)})**2"
    got = build_design(f"y ~ {some} + {some} + {_joined('*', 2)} + (1 | h)", wide)
    assert got.design.p == 1 + 18 + 153
    nested = build_design("y ~ text/x0 - 1 + x1 %in% text + (1 | h)", wide)
    assert nested.design.p == 8 + 8 + 8


def test_operators_without_end(wide):
    for formula in (f"y ~ log({'-' * 20_000}x) + (1 | h)", f"y ~ x + (log({'-' * 20_000}x) | h)"):
        with pytest.raises(FormulaError, match=r"cannot evaluate|nested"):
            build_design(formula, wide)
    terms = " + ".join(f"x{i % 24}:x{(i * 7 + 1) % 24}" for i in range(2000))
    assert build_design(f"y ~ {terms} + (1 | h)", wide).design.p == 25


@pytest.mark.parametrize(
    "bar", ["(x * || h)", "(log(x)) y || h)", "(x ** y || h)", "({x + || h)", "(f(x).y || h)"]
)
def test_uncorrelated_terms_that_cannot_be_read(data, bar):
    with pytest.raises(FormulaError, match=r"formula 'y ~ 1 \+ "):
        build_design(f"y ~ 1 + {bar}", data)


@pytest.mark.parametrize("evaluate", ["full", "safe"])
def test_powers_that_take_minutes_to_expand_are_refused(evaluate):
    rng = np.random.default_rng(4)
    frame = pd.DataFrame(rng.normal(size=(200, 8)), columns=list("yabcdefh")).assign(g=np.arange(200) % 10)
    for power, terms in (("(a + b + c) ** 30", 3), ("(a + b) ** 100", 2), ("(a + b + c) ^ 12", 3)):
        with pytest.raises(
            FormulaError, match=rf"sum of {terms} terms to the power .*\*\* {terms} has them all"
        ):
            mme.lmer(f"y ~ {power} + (1 | g)", frame, evaluate=evaluate)
    same = mme.lmer("y ~ (a + b + c) ** 5 + (1 | g)", frame, evaluate=evaluate)
    assert sorted(same.fe_params.index) == sorted(mme.lmer("y ~ a * b * c + (1 | g)", frame).fe_params.index)
    fourth = mme.lmer("y ~ (a + b + c + d + e + f) ** 4 + (1 | g)", frame, evaluate=evaluate)
    assert len(fourth.fe_params) == 1 + 6 + 15 + 20 + 15
