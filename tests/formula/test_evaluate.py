"""What formulas and subsets may do and see: the caller's variables, or nothing but columns and functions."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pandas as pd
import pytest

import mme
from mme.exceptions import DataError, FormulaError, MMEError, OptionError
from mme.formula.safe import FUNCTIONS
from mme.lmm.model import LinearMixedModel

N = 120
TOP = 2.0


def doubled(values):
    return TOP * values


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(77)
    g = np.arange(N) % 12
    x = rng.normal(size=N)
    y = 1 + 2 * x + rng.normal(size=12)[g] + rng.normal(size=N)
    columns = {
        "y": y,
        "x": x,
        "z": rng.uniform(1, 3, N),
        "g": g,
        "s": np.array(list("abc"))[np.arange(N) % 3],
    }
    return pd.DataFrame({**columns, "my col": rng.normal(size=N)})


def _llf(formula: str, frame: pd.DataFrame, **options: object) -> float:
    return mme.lmer(formula, frame, **{"context": 1, **options}).llf


# -- the caller's variables ---------------------------------------------------------------------------------


def test_functions_and_numbers_of_the_caller(data):
    power = 2  # noqa: F841

    def cubed(values):
        return values**3

    expected = _llf("y ~ I(z ** 2) + np.log(z) + I(z ** 3) + (1 | g)", data)
    assert _llf("y ~ I(z ** power) + np.log(z) + cubed(z) + (1 | g)", data) == pytest.approx(expected)
    assert _llf("y ~ doubled(z) + (1 | g)", data) == pytest.approx(
        _llf("y ~ z + (1 | g)", data) - np.log(TOP), abs=1e-9
    )
    assert _llf("doubled(y) ~ z + (1 | g)", data) == pytest.approx(
        _llf("I(2 * y) ~ z + (1 | g)", data), abs=1e-9
    )
    knots = [1.5, 2.5]  # noqa: F841
    with_list = mme.lmer("y ~ bs(z, knots=knots) + (1 | g)", data)
    assert with_list.llf == _llf("y ~ bs(z, knots=[1.5, 2.5]) + (1 | g)", data)


def test_variables_of_one_value_per_row_are_columns(data):
    frame = data.assign(y=data.y.where(data.index != 5))
    w = np.arange(N) ** 0.5
    h = list(np.arange(N) % 7)
    off = pd.Series(np.linspace(0, 1, N))
    resp = frame.y.to_numpy()
    full = frame.assign(w=w, h=h, off=off, resp=resp)
    for formula in (
        "y ~ w + (w | h)",
        "y ~ np.log(w + 1) * x + (1 | g) + (1 | h:s)",
        "resp ~ x + offset(off) + (1 | h)",
    ):
        got = mme.lmer(formula, frame, subset="x > -1.5", missing="drop")
        expected = mme.lmer(formula, full, subset="x > -1.5", missing="drop", context={})
        assert (got.llf, got.nobs) == (expected.llf, expected.nobs)
        assert got.n_dropped == 1
        assert list(got.fe_params.index) == list(expected.fe_params.index)
    assert list(frame.columns) == list(data.columns)
    holes = np.where(np.arange(N) < 4, np.nan, 1.0)  # noqa: F841
    with pytest.raises(DataError, match=r"y \(1\), holes \(4\)"):
        mme.lmer("y ~ x + offset(holes) + (1 | g)", frame, missing="raise")
    backwards = off[::-1]
    with pytest.raises(DataError, match=r"the variable 'backwards' is a Series whose index differs"):
        mme.lmer("y ~ backwards + (1 | g)", data)
    assert len(backwards) == len(h) == N


def test_variables_that_are_no_columns(data):
    short, number, table = np.arange(7.0), 3.0, np.zeros((N, 2))
    with pytest.raises(
        FormulaError, match=r"'short' is not in the data, and the variable .*ndarray, with 7 val"
    ):
        mme.lmer("y ~ x + short + (1 | g)", data)
    with pytest.raises(FormulaError, match=r"'number' is not in the data, and the variable .*float\)"):
        mme.lmer("y ~ x:number + (1 | g)", data)
    with pytest.raises(FormulaError, match=r"'table' is not in the data, and the variable"):
        mme.lmer("y ~ x + table + (1 | g)", data)
    with pytest.raises(FormulaError, match=r"'short' is not in the data; its columns are"):
        mme.lmer("y ~ x + (1 | short)", data)
    assert short.size + number + table.size


def test_columns_come_first_and_functions_of_formulas_before_numbers(data):
    x, C, scale = np.zeros(N), 3, "text"
    log = math.log
    assert _llf("y ~ x + C(s) + scale(z) + log(z) + (1 | g)", data) == _llf(
        "y ~ x + C(s) + scale(z) + log(z) + (1 | g)", data, context={}
    )

    def scale(values):  # noqa: F811 - a function of one's own is meant, as formulaic has it
        return 10 * values

    assert list(scale(x)) == list(x) and C and log
    assert _llf("y ~ scale(z) + (1 | g)", data) == pytest.approx(_llf("y ~ I(10 * z) + (1 | g)", data))


def test_where_names_are_looked_up(data):
    expected = _llf("y ~ I(z ** 3) + (1 | g)", data)

    def fit(**options):
        return _llf("y ~ I(z ** level) + (1 | g)", data, **options)

    level = 3
    with pytest.raises(FormulaError, match="'level' is not in the data"):
        fit()
    # 0 is _llf, the first caller outside of mme, and 1 is fit
    assert fit(context=2) == expected
    assert fit(context={"level": level}) == expected
    for wrong in ("level", None, True, 1.5):
        with pytest.raises(OptionError, match="context must be a mapping"):
            fit(context=wrong)
    assert LinearMixedModel.from_formula("y ~ I(z ** level) + (1 | g)", data).fit().llf == expected
    assert mme.preflight("y ~ I(z ** level) + (1 | g)", data).rows == N


def test_a_model_keeps_no_variables_of_its_caller(data):
    class Large:
        pass

    def fit():
        large = Large()
        power = 2  # noqa: F841
        return weakref.ref(large), mme.lmer("y ~ I(z ** power) + (1 | g)", data, subset="z > @power - 2")

    alive, got = fit()
    gc.collect()
    assert got.converged
    assert alive() is None


def test_subsets_use_variables_with_an_at_sign(data):
    bound, chosen = 1.7, ["a", "b"]
    got = mme.lmer("y ~ x + (1 | g)", data, subset="z > @bound and s in @chosen and `my col` < 1")
    rows = (data.z > bound) & data.s.isin(chosen) & (data["my col"] < 1)
    assert got.llf == _llf("y ~ x + (1 | g)", data[rows])
    assert got.nobs == rows.sum()
    assert mme.lmer("y ~ x + (1 | g)", data, subset="z > @TOP").nobs == (data.z > TOP).sum()
    with pytest.raises(DataError, match=r"name 'bound' is not defined.* write @bound"):
        mme.lmer("y ~ x + (1 | g)", data, subset="z > bound")
    with pytest.raises(DataError, match=r"'nowhere' is not defined"):
        mme.lmer("y ~ x + (1 | g)", data, subset="z > @nowhere")
    assert mme.lmer("y ~ x + (1 | g)", data, subset="z > @k", context={"k": 2}).nobs == (data.z > 2).sum()


@pytest.mark.parametrize("evaluate", ["full", "safe"])
@pytest.mark.parametrize(
    "name",
    ["self", "as_frame", "encode", "difflib", "Scope", "subset", "local", "world", "suggest", "DataError"],
)
def test_nothing_of_mme_is_reachable_from_a_subset(data, name, evaluate):
    if name == "DataError":
        frame = data  # this module has imported it: ask where it has not
        with pytest.raises(DataError):
            mme.lmer("y ~ x + (1 | g)", frame, subset=f"z > @{name}.args", context={}, evaluate=evaluate)
        return
    with pytest.raises(DataError, match=rf"'{name}' is not defined|is no expression of columns"):
        mme.lmer("y ~ x + (1 | g)", data, subset=f"z > @{name}", evaluate=evaluate)


# -- evaluate="safe" ----------------------------------------------------------------------------------------

GOOD = [
    "y ~ x + (x | g)",
    "log(z) ~ x * s + `my col`:x + (x || g)",
    "y ~ log(z) + np.log1p(z) + sqrt(z) + exp(x) + abs(x) + I(x ** 2) + I(2 ** x) + (1 | g)",
    "y ~ poly(x, 2) + bs(z, df=4) + (1 | g)",
    "y ~ 0 + cr(x, 4) + (1 | g)",
    "y ~ bs(z, knots=[1.5, 2.5]) + scale(x) + center(`my col`) + (1 | g)",
    "y ~ C(s, levels=['c', 'b', 'a']) + C(x > 0) + (1 | g)",
    "y ~ C(s, contr.sum) + (1 | g)",
    "y ~ C(s, contr.treatment('b')) + (1 | g)",
    "y ~ C(s, Treatment('b')):x + factor(s) + (1 | g)",
    "y ~ Q('my col') + offset(2 * z) + (1 | g)",
    "y ~ np.where(x > 0, z, -z) + np.minimum(x, z) + I((x > 0) & ~(z < 2)) + (1 | g)",
    "y ~ I(x / z + x // 1 - z % 2) + {x * z} + (1 | g)",
    "y ~ I((s == 'a') * x) + I(np.where(s == 'a', 1, 2) * z) + (1 | g)",
    "y ~ scale(Q('my col')) + center(Q('my col') ** 2) + (1 | g)",
    """y ~ np.where(s == "it's", z, x) + (1 | g)""",
]


def test_a_quoted_column_within_a_transformation(data):
    for quoted in ("scale(Q('my col'))", "poly(Q('my col'), 2)", "C(Q('my col') > 0)", "I(Q('my col') ** 2)"):
        expected = mme.lmer(
            f"y ~ {quoted.replace('my col', 'w')} + (1 | g)", data.rename(columns={"my col": "w"})
        )
        got = mme.lmer(f"y ~ x + {quoted} - x + (1 | g)", data)
        assert got.llf == pytest.approx(expected.llf, abs=1e-9)
        np.testing.assert_allclose(got.fe_params.to_numpy(), expected.fe_params.to_numpy(), rtol=1e-9)


@pytest.mark.parametrize("evaluate", ["full", "safe"])
def test_values_outside_of_the_levels_are_refused(data, evaluate):
    """The formula engine would code them as the reference level."""
    with pytest.raises(DataError, match=r"values outside of its levels: 'b'.*List every level that occurs"):
        mme.lmer("y ~ x + C(s, levels=['a', 'c']) + (1 | g)", data, evaluate=evaluate)
    with pytest.raises(DataError, match=r"values outside of its levels"):
        mme.lmer("y ~ x + (C(s, levels=['a', 'c']) || g)", data, evaluate=evaluate)
    chosen = data[data["s"] != "b"]
    got = mme.lmer("y ~ x + C(s, levels=['c', 'a']) + (1 | g)", data, subset="s != 'b'", evaluate=evaluate)
    assert got.llf == pytest.approx(_llf("y ~ x + s + (1 | g)", chosen), abs=1e-9)


@pytest.mark.parametrize("formula", GOOD)
def test_safe_formulas_are_the_same_models(data, formula):
    assert _llf(formula, data, evaluate="safe") == _llf(formula, data)


BAD = [
    "__import__('os').getpid()",
    "open('{0}', 'w')",
    "I(open('{0}', 'w'))",
    "{{open('{0}', 'w').write('x')}}",
    "np.savetxt('{0}', x)",
    "{{open('{0}', 'w')()}}",
    "I(open('{0}', 'w').x(z))",
    "[open('{0}', 'w')() ~ x]",
    "np.fromfile('{0}')",
    "pd.io.common.os.system('touch {0}')",
    "x.to_csv('{0}')",
    "{{x.__class__}}",
    "np.log.__class__(x)",
    "log(x.values)",
    "x[0]",
    "I([v for v in x])",
    "I((lambda v: v)(x))",
    "I(x if True else z)",
    "log(*[z])",
    "log(z, x)",
    "np.log(z, x)",
    "np.log(z, out=x)",
    "np.where(x, z, x, y)",
    "np.errstate(all='ignore')",
    "scale(x, _state=z)",
    "C(s, np.eye(3))",
    "C(s, __import__('os').listdir)",
    "C(s, levels=open('{0}', 'w'))",
    "Q('x' + 'y')",
    "Q(s)",
    "I(9 ** 9 ** 9)",
    "I(x ** 9 ** 9)",
    "I((9 ** 64) ** 64 * x)",
    "I(x * 2 ** 1000)",
    "I(1 << 10 ** 9)",
    "I('a' * 10)",
    "I(x * 'a' * 10 ** 9)",
    "I([0] * 10 ** 9)",
    "I(f'{{x}}')",
    "I(b'a')",
    "I(1j * x)",
    "I(...)",
    "bs(x, df=10 ** 9)",
    "bs(x, df=1000000)",
    "poly(x, 100000)",
    "poly(x, z)",
    "hashed(s, levels=10)",
    "doubled(x)",
    "print(x)",
    "getattr(x, 'y')",
    "contr.custom(x)",
    "contr.__class__(x)",
    "I(np)",
    "I(x @ z)",
    "I(x is z)",
    "I(---x.y)",
    """I(s == 'a")+print(chr(111))#')""",
    """C(s, Treatment('a"]'))""",
    r"I(s == 'a\\')",
    r"I(s == 'a\n')",
    """Q('a"b')""",
    """scale(x, ddof="it's")""",
    """scale(s == "a) #'")""",
    "I(s * 10 ** 12)",
    "I(10 ** 12 * (+s))",
    "I(Q('s') * 10 ** 12)",
    "I(np.where(x > 0, s, 'b') * 10 ** 12)",
    "I(np.where(x > 0, 'a', 'b') * 10 ** 12)",
    "I(s + s)",
]


@pytest.mark.parametrize("code", BAD)
def test_unsafe_formulas_are_refused_before_anything_runs(data, code, tmp_path):
    touched = tmp_path / "touched"
    code = code.format(touched)
    before = data.copy(deep=True)
    formulas = [f"y ~ z + {code} + (1 | g)", f"y ~ z + (0 + {code} | g)", f"y ~ z + (0 + {code} || g)"]
    formulas += [f"y ~ z + offset({code}) + (1 | g)", f"{code} ~ z + (1 | g)"]
    for formula in formulas:
        with pytest.raises(
            FormulaError,
            match=r"evaluate='safe' accepts|cannot evaluate|is not in the data|are not|no column",
        ):
            mme.lmer(formula, data, evaluate="safe")
    assert not touched.exists()
    pd.testing.assert_frame_equal(data, before)


def test_most_unsafe_formulas_do_run_by_default(data, tmp_path):
    """Formulas are code, as in formulaic: what "safe" is for."""
    touched = tmp_path / "touched"
    with pytest.raises(MMEError):
        mme.lmer(f"y ~ open('{touched}', 'w') + (1 | g)", data)
    assert touched.exists()


def test_safe_sees_no_variables_but_those_of_a_mapping(data):
    secret = np.arange(N) * 1.0
    for formula in ("y ~ secret + (1 | g)", "y ~ I(x * secret) + (1 | g)", "secret ~ x + (1 | g)"):
        with pytest.raises(FormulaError, match=r"'secret' is not in the data"):
            mme.lmer(formula, data, evaluate="safe")
    for subset in ("z > @secret", "z > secret"):
        with pytest.raises(DataError, match=r"evaluate='safe' accepts"):
            mme.lmer("y ~ x + (1 | g)", data, evaluate="safe", subset=subset)
    got = mme.lmer(
        "y ~ secret + I(x * k) + (1 | g)", data, evaluate="safe", context={"secret": secret, "k": 2}
    )
    assert list(got.fe_params.index) == ["(Intercept)", "secret", "I(x * k)"]


@pytest.mark.parametrize(
    "subset",
    ["z > 2", "z > 2 and s == 'a'", "(x > 0) | ~(z < 2)", "s in ['a', 'b'] & `my col` < 1", "sqrt(z) > 1.2",
     "not x > 0", "0 < x + 1 <= 1", "x ** 2 < 1", "s != 'b' and g not in [1, 2]"],
)  # fmt: skip
def test_safe_subsets(data, subset):
    got = mme.lmer("y ~ x + (1 | g)", data, evaluate="safe", subset=subset)
    assert got.nobs == mme.lmer("y ~ x + (1 | g)", data, subset=subset).nobs < N


@pytest.mark.parametrize(
    "subset",
    ["@pd.io.common.os.system('touch {0}')", "x.to_csv('{0}') > 0", "x > x.mean()", "s.str.len() == 1",
     "x[0] > 1", "q = x > 1", "x > 9 ** 9 ** 9", "__import__('os')", "x > @TOP", "x > 1\nx > 2",
     "s * 10 ** 12 == 'a'", "x > (lambda: 1)()", "x.__class__ == 1", "sqrt(x, z) > 1", "x > TOP", ""],
)  # fmt: skip
def test_unsafe_subsets(data, subset, tmp_path):
    touched = tmp_path / "touched"
    with pytest.raises(DataError, match=r"evaluate='safe' accepts columns, numbers, text and operators"):
        mme.lmer("y ~ x + (1 | g)", data, evaluate="safe", subset=subset.format(touched))
    assert not touched.exists()


def test_names_of_the_option(data):
    for wrong in ("SAFE", "none", None, True):
        with pytest.raises(OptionError, match=r"evaluate must be one of 'full', 'safe', not"):
            mme.lmer("y ~ x + (1 | g)", data, evaluate=wrong)
    assert {"log", "exp", "sqrt", "poly", "cr", "bs", "scale", "C", "I"} <= set(FUNCTIONS)
    assert all(name in mme.lmer.__doc__ for name in ("evaluate", "context", "poly, cr, bs, scale"))
