"""What MixedLM takes at its door: matrices by group, kinds of tables and columns, refusals by name."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from statsmodels.tools.sm_exceptions import MissingDataError

import mme
from mme.exceptions import DataError, FormulaError, OptionError


def _crossed(labels: list) -> dict[str, object]:
    """Shuffled groups of three to six rows; a matrix of one column for each, by label, of unequal scale."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(3, 7, len(labels))
    code = rng.permutation(np.repeat(np.arange(len(labels)), sizes))
    z = rng.normal(size=code.size) * (1 + code)
    y = 1 + 0.3 * z * rng.normal(size=len(labels))[code] + rng.normal(size=code.size)
    groups = np.empty(code.size, dtype=object)
    for i, c in enumerate(code):
        groups[i] = labels[c]
    mats = {label: z[code == c][:, None] for c, label in enumerate(labels)}
    return {"y": y, "X": np.ones((y.size, 1)), "code": code, "groups": groups, "mats": mats, "z": z}


def _loglik(data: dict, groups: object, exog_vc: object, **more: object) -> float:
    with pytest.warns(FutureWarning, match="deprecated variance components"):
        model = mme.MixedLM(data["y"], data["X"], groups=groups, exog_vc=exog_vc, **more)
    return model.fit().llf


_KINDS = {
    "text and numbers": ["a", *range(1, 20)],
    "numbers": list(range(20, 0, -1)),
    "text": [f"g{i}" for i in range(20)],
    "tuples": [(i % 5, f"b{i // 5}") for i in range(20)],
    "dates": list(pd.date_range("2026-01-01", periods=20)),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_matrices_by_group_belong_to_their_group(kind):
    labels = _KINDS[kind]
    data = _crossed(labels)
    # the same design as one slope per group
    expected = mme.MixedLM(data["y"], data["X"], groups=data["code"], exog_re=data["z"]).fit()
    groups = data["groups"]
    if kind == "tuples":
        groups = pd.DataFrame(list(groups), columns=["a", "b"])
    elif kind == "dates":
        groups = pd.Series(pd.DatetimeIndex(groups))
    assert_allclose(_loglik(data, groups, {"z": data["mats"]}), expected.llf, rtol=1e-10)
    backwards = dict(reversed(data["mats"].items()))
    assert_allclose(_loglik(data, groups, {"z": backwards}), expected.llf, rtol=1e-10)


def test_matrices_by_group_without_the_rows_that_are_dropped():
    """Dropping the first row of a label changes the order in which labels that do not sort appear."""
    data = _crossed(_KINDS["text and numbers"])
    whole = data["code"] != data["code"][-1]
    first = np.flatnonzero(whole & (data["code"] == data["code"][0]))[0]
    gone = ~whole  # a whole group
    gone[first] = True
    y = np.where(gone, np.nan, data["y"])
    keep = ~gone
    expected = mme.MixedLM(y[keep], data["X"][keep], groups=data["code"][keep], exog_re=data["z"][keep]).fit()
    given = {**data, "y": y}
    assert_allclose(
        _loglik(given, data["groups"], {"z": data["mats"]}, missing="drop"), expected.llf, rtol=1e-10
    )


def test_matrices_of_other_groups_are_refused():
    data = _crossed(["a", "b", "c", "d"])
    mats = data["mats"]
    some = {label: mats[label] for label in "abc"}
    arguments = (data["y"], data["X"], data["groups"])
    for given, message in (
        ({**some}, "no matrix for 1 group, the first 'd'"),
        ({**mats, "e": np.ones((2, 1))}, "matrices of 1 group that has no rows, the first 'e'"),
        ({**some, "d": np.ones((1, 1))}, "group 'd' has 1 rows"),
    ):
        with (
            pytest.warns(FutureWarning, match="deprecated"),
            pytest.raises(DataError, match=f"variance component 'z'.*{message}"),
        ):
            mme.MixedLM(*arguments, exog_vc={"z": given})


# -- kinds of tables -----------------------------------------------------------------------------


@pytest.fixture
def frame() -> pd.DataFrame:
    """Ten groups of twelve, with a covariate, a factor and a response between exp(-3) and exp(5)."""
    rng = np.random.default_rng(0)
    g = np.arange(120) % 10
    d = pd.DataFrame({"g": g, "x": rng.normal(size=120), "c": np.array(list("uvw"))[rng.integers(0, 3, 120)]})
    d["y"] = 1 + d.x + rng.normal(size=10)[g] + rng.normal(size=120)
    return d


def _fit(data, formula="y ~ x + c", **more):
    return mme.mixedlm(formula, data, groups="g", **more).fit()


def _same(result, expected):
    assert list(result.params.index) == list(expected.params.index)
    assert_allclose(result.llf, expected.llf, rtol=1e-12)
    assert_allclose(result.params, expected.params, rtol=1e-8)


class _Table:
    """What mme sees of a table of another library: column names, `to_pandas`, and columns of arrays."""

    def __init__(self, data: pd.DataFrame, converts: bool) -> None:
        self.data, self.converts, self.columns = data, converts, list(data.columns)

    def to_pandas(self) -> pd.DataFrame:
        if not self.converts:
            raise ModuleNotFoundError("pyarrow is required for converting to pandas")
        return self.data

    def __getitem__(self, name: str) -> pd.Series:
        return self.data[name]


@pytest.mark.parametrize(
    "kind", ["pyarrow", "polars", "converts", "does not convert", "arrow columns", "dict"]
)
def test_tables(frame, kind):
    if kind in ("pyarrow", "polars"):
        library = pytest.importorskip(kind)  # neither is a dependency
        table = (
            library.Table.from_pandas(frame)
            if kind == "pyarrow"
            else library.DataFrame(frame.to_dict("list"))
        )
    elif kind == "dict":
        table = {name: frame[name].to_numpy() for name in frame}
    elif kind == "arrow columns":
        pytest.importorskip("pyarrow")  # nor is it one of pandas
        table = frame.convert_dtypes(dtype_backend="pyarrow")
    else:
        table = _Table(frame, kind == "converts")
    result = _fit(table)
    _same(result, _fit(frame))
    new = frame.head(3)
    assert_allclose(result.predict(_Table(new, True)), result.predict(new))


def test_columns_of_arrow_as_arrays(frame):
    pa = pytest.importorskip("pyarrow")
    expected = mme.MixedLM(frame.y, frame[["x"]], groups=frame.g, exog_re=frame[["x"]]).fit()
    result = mme.MixedLM(
        pa.chunked_array([frame.y]), pa.table({"x": frame.x}), pa.array(frame.g), pa.table({"x": frame.x})
    ).fit()
    _same(result, expected)
    arrow = frame.convert_dtypes(dtype_backend="pyarrow")
    _same(mme.MixedLM(arrow.y, arrow[["x"]], groups=arrow.g, exog_re=arrow[["x"]]).fit(), expected)


# -- kinds of columns ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [object, "Float64", "decimal"])
def test_numbers_of_other_kinds(frame, kind):
    def convert(column: pd.Series) -> pd.Series:
        return column.map(Decimal) if kind == "decimal" else column.astype(kind)

    expected = _fit(frame)
    _same(_fit(frame.assign(y=convert(frame.y), x=convert(frame.x))), expected)
    positive = frame.assign(y=np.exp(frame.y))
    _same(
        _fit(positive.assign(y=convert(positive.y)), "np.log(y) ~ x + c"), _fit(positive, "np.log(y) ~ x + c")
    )
    _same(
        mme.MixedLM(convert(frame.y), frame[["x"]].apply(convert), groups=frame.g).fit(),
        mme.MixedLM(frame.y, frame[["x"]], groups=frame.g).fit(),
    )


@pytest.mark.parametrize("kind", [bool, "boolean", object, "bool[pyarrow]"])
def test_booleans(frame, kind):
    if kind == "bool[pyarrow]":
        pytest.importorskip("pyarrow")
    b = frame.x > 0.3
    numbers = _fit(frame.assign(y=b.astype(float)), "y ~ c")
    _same(_fit(frame.assign(y=b.astype(kind)), "y ~ c"), numbers)
    expected = _fit(frame.assign(b=b), "y ~ b")
    assert list(expected.fe_params.index) == ["Intercept", "b[T.True]"]
    _same(_fit(frame.assign(b=b.astype(kind)), "y ~ b"), expected)


def test_a_nullable_boolean_with_missing_values(frame):
    b = (frame.x > 0.3).astype("boolean")
    b[[3, 5]] = pd.NA
    with pytest.raises(DataError, match=r"missing values in columns 'b' \(2\) of 120 rows"):
        _fit(frame.assign(b=b), "y ~ b")
    keep = b.notna().to_numpy()
    kept = frame[keep].assign(b=b[keep].astype(bool))
    _same(_fit(frame.assign(b=b), "y ~ b", missing="drop"), _fit(kept, "y ~ b"))


def test_whole_numbers_as_objects_are_a_factor_as_in_statsmodels(frame):
    data = frame.assign(k=(frame.g % 3).astype(object))
    assert list(_fit(data, "y ~ k").fe_params.index) == ["Intercept", "k[T.1]", "k[T.2]"]


def test_categories_that_do_not_occur_are_no_columns(frame):
    data = frame.assign(c=pd.Categorical(frame.c, categories=list("tuvwz")))
    _same(_fit(data), _fit(frame))
    slopes = mme.mixedlm("y ~ x", data, groups="g", re_formula="~0 + c")
    assert list(slopes.data.exog_re_names) == ["c[u]", "c[v]", "c[w]"]
    _same(_fit(data, subset=data.c != "v"), _fit(frame[frame.c != "v"]))


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["a", "b"] * 60),
        pd.Series(pd.date_range("2026-01-01", periods=120)),
        pd.Series(pd.Categorical([1, 2] * 60)),
        pd.Series(np.arange(120) * 1j),
    ],
    ids=["text", "dates", "categories", "complex"],
)
def test_a_response_that_is_no_number(frame, column):
    with pytest.raises(DataError, match="the response 'y' is not numeric"):
        _fit(frame.assign(y=column))


@pytest.mark.parametrize(
    "dates",
    [
        pd.Series(pd.date_range("2026-01-01", periods=120)),
        pd.Series(pd.date_range("2026-01-01", periods=120, tz="UTC")),
        pd.Series(pd.to_timedelta(np.arange(120), "D")),
        pd.Series(pd.period_range("2026-01-01", periods=120, freq="D")),
        pd.Series([date(2026, 1, 1 + i % 28) for i in range(120)], dtype=object),
    ],
    ids=["dates", "time zone", "durations", "periods", "objects"],
)
@pytest.mark.parametrize("where", ["formula", "re_formula", "vc_formula"])
def test_dates_are_refused(frame, dates, where):
    data = frame.assign(day=dates)
    text, more = "y ~ x", {}
    if where == "formula":
        text = "y ~ x * day"
    elif where == "re_formula":
        more = {"re_formula": "~day"}
    else:
        more = {"vc_formula": {"day": "0 + day"}}
    with pytest.raises(DataError, match=r"column 'day' holds dates or times .*write C\(day\)"):
        _fit(data, text, **more)


def test_dates_as_a_factor(frame):
    data = frame.assign(day=pd.date_range("2026-01-01", periods=3)[frame.g % 3])
    expected = _fit(frame.assign(k=frame.g % 3), "y ~ C(k)")
    assert_allclose(_fit(data, "y ~ C(day)").llf, expected.llf, rtol=1e-12)


@pytest.mark.parametrize(
    ("column", "what"),
    [
        (pd.Series(["1", "2"] * 60), "column 'z' of exog is not numeric"),
        (pd.Series(pd.date_range("2026-01-01", periods=120)), "column 'z' of exog is not numeric"),
        (pd.Series(np.arange(120) * 1j), "column 'z' of exog is not numeric"),
    ],
    ids=["text", "dates", "complex"],
)
def test_arrays_that_are_no_numbers(frame, column, what):
    with pytest.raises(DataError, match=what):
        mme.MixedLM(frame.y, frame[["x"]].assign(z=column), groups=frame.g)
    with pytest.raises(DataError, match="endog is not numeric"):
        mme.MixedLM(column, frame[["x"]], groups=frame.g)
    with pytest.raises(DataError, match="column 0 of exog_re is not numeric"):
        mme.MixedLM(frame.y, frame[["x"]], groups=frame.g, exog_re=column.to_numpy()[:, None])


# -- rows, names, formulas -----------------------------------------------------------------------


def test_several_columns_of_one_name(frame):
    twice = pd.concat([frame, frame[["x", "g"]]], axis=1)
    for formula in ("y ~ x", "y ~ c"):  # the second is named by groups
        with pytest.raises(DataError, match="several columns named"):
            _fit(twice, formula)
    _same(_fit(pd.concat([frame, frame[["x"]]], axis=1), "y ~ c"), _fit(frame, "y ~ c"))


def test_no_rows(frame):
    with pytest.raises(DataError, match="the data are empty: 0 rows"):
        _fit(frame.iloc[:0])
    with pytest.raises(DataError, match="subset selects nothing: 0 rows"):
        _fit(frame, subset=frame.x > 99)
    with pytest.raises(DataError, match="the data are empty: 0 rows"):
        mme.MixedLM(frame.y[:0], frame[["x"]][:0], groups=frame.g[:0])
    nothing = frame.assign(x=np.nan)
    with pytest.raises(DataError, match=r"no rows are left .*: 'x' \(120\)\."):
        _fit(nothing, missing="drop")
    with pytest.raises(DataError, match=r"no rows are left .*: exog \(120\)\."):
        mme.MixedLM(nothing.y, nothing[["x"]], groups=nothing.g, missing="drop")


@pytest.mark.parametrize("name", ["y", "x"])
def test_infinite_and_missing_values_are_named_by_column(frame, name):
    data = frame.copy()
    data.loc[[2, 7], name] = np.inf
    what = "endog" if name == "y" else "exog"
    with pytest.raises(DataError, match=rf"{what} contains inf or nans .*'{name}' \(0 missing, 2 infinite\)"):
        _fit(data)
    data.loc[3, name] = np.nan
    with pytest.raises(DataError, match=rf"{what} contains inf or nans .*'{name}' \(1 missing, 2 infinite\)"):
        mme.MixedLM(data.y, data[["x"]], groups=data.g)
    with pytest.raises(DataError, match=rf"{what} contains inf or nans .*'{name}' \(0 missing, 2 infinite\)"):
        mme.MixedLM(data.y, data[["x"]], groups=data.g, missing="drop")


def test_infinite_values_of_random_effects_are_named(frame):
    data = frame.assign(z=frame.x.where(frame.x < 1, np.inf))
    with pytest.raises(DataError, match="infinite values in column z"):
        _fit(data, re_formula="~z")


@pytest.mark.parametrize(
    ("formula", "bar"),
    [
        ("y ~ x + (x | g)", r"\(x \| g\)"),
        ("y ~ x + (1 | g)", r"\(1 \| g\)"),
        ("y ~ x + ((1 + x || g))", r"\(1 \+ x \|\| g\)"),
        ("y ~ x | g", r"y ~ x \| g"),
        ("y ~ I(x > 0) + (0 + I(x > 0) | g) + c", r"\(0 \+ I\(x > 0\) \| g\)"),
    ],
)
def test_bars_are_refused(frame, formula, bar):
    with pytest.raises(FormulaError, match=rf": {bar} is a random term of lme4's.*mme\.lmer"):
        _fit(frame, formula)


@pytest.mark.parametrize("where", [{"re_formula": "~x | g"}, {"vc_formula": {"v": "0 + (x | g)"}}])
def test_bars_of_other_formulas_are_refused(frame, where):
    with pytest.raises(FormulaError, match=r"x \| g\)? is a random term of lme4's"):
        _fit(frame, "y ~ x", **where)


def test_a_bitwise_or_that_python_evaluates(frame):
    either = _fit(frame.assign(b=(frame.x > 0) | (frame.g > 5)), "y ~ b")
    assert_allclose(_fit(frame, "y ~ I((x > 0) | (g > 5))").llf, either.llf, rtol=1e-12)
    quoted = _fit(frame.rename(columns={"x": "a|b"}), "y ~ Q('a|b')")
    assert_allclose(quoted.llf, _fit(frame, "y ~ x").llf, rtol=1e-12)


@pytest.mark.parametrize("formula", ["y ~ nofunc(x)", "y ~ x + nosuch"])
def test_a_failing_formula_speaks_for_itself_where_values_are_missing_too(frame, formula):
    from patsy import PatsyError

    frame.loc[4, "x"] = np.nan
    with pytest.raises(PatsyError, match=r"NameError: name 'no(func|such)' is not defined"):
        _fit(frame, formula)


@pytest.mark.parametrize(
    ("formula", "options", "words"),
    [
        ("y ~ nofunc(x)", {}, r"formula 'y ~ nofunc\(x\)' cannot be evaluated at 'nofunc\(x\)': .*'nofunc'"),
        ("y ~ X", {}, r"formula 'y ~ X' .*'X' is not defined; did you mean x\?"),
        ("y ~ Q('nope')", {}, r"no data named 'nope' found; its columns are"),
        ("y ~ np.log(x)", {}, r"formula 'y ~ np.log\(x\)' cannot be evaluated at 'np.log\(x\)': .*missing"),
        ("y ~ x +", {}, r"formula 'y ~ x \+' cannot be evaluated"),
        ("y ~ x y", {}, r"formula 'y ~ x y' cannot be evaluated"),
        ("y ~ `my col`", {}, r'Names with blanks are written Q\("..."\) here'),
        ("y + x ~ 1", {}, r"formula 'y \+ x ~ 1' cannot be evaluated: endog .* multiple columns"),
        ("y ~ x", {"re_formula": "~nope"}, r"re_formula '~nope' .*'nope' is not defined"),
        ("y ~ x", {"re_formula": "y ~ x"}, r"re_formula='y ~ x' has a response"),
        ("y ~ x", {"re_formula": 1}, r"re_formula must be a string, .* not 1"),
        ("y ~ x", {"vc_formula": {"a": "0 + C(nope)"}}, r"vc_formula\['a'\] '0 \+ C\(nope\)' .*'nope'"),
        ("y ~ x", {"vc_formula": "0 + C(x)"}, r"vc_formula must be a dict of a name to a formula"),
        ("y ~ x", {"vc_formula": {"a": None}}, r"vc_formula\['a'\] must be a string"),
        ("y ~ x", {"vc_formula": {"a": "y ~ C(x)"}}, r"vc_formula\['a'\]='y ~ C\(x\)' has a response"),
    ],
)
def test_formulas_that_fail_are_named(frame, formula, options, words):
    import patsy

    frame["x"] = np.linspace(-1, 1, len(frame))
    with np.errstate(all="ignore"), pytest.raises(FormulaError, match=words) as caught:
        mme.MixedLM.from_formula(formula, frame, groups="g", **options)
    engine = isinstance(caught.value.__cause__, patsy.PatsyError)
    assert not engine or isinstance(caught.value, patsy.PatsyError)


def test_arguments_of_the_wrong_kind_are_named(frame):
    y, x, g = frame["y"].to_numpy(), frame[["x"]].to_numpy(), frame["g"].to_numpy()
    for groups in (None, 3, len):
        with pytest.raises(DataError, match=r"groups=.* is neither a column of the data, nor several"):
            mme.MixedLM.from_formula("y ~ x", frame, groups=groups)
    with pytest.raises(DataError, match=r"subset selects rows as in data\.loc") as caught:
        mme.MixedLM.from_formula("y ~ x", frame, groups="g", subset="x > 0")
    assert isinstance(caught.value, KeyError) and "data.eval(...)" in str(caught.value)
    with pytest.raises(DataError, match=r"endog has 2 columns"):
        mme.MixedLM(np.c_[y, y], x, g)
    with pytest.raises(DataError, match=r"exog is None"):
        mme.MixedLM(y, None, g)
    with pytest.raises(DataError, match=r"endog is None"):
        mme.MixedLM(None, x, g)
    with pytest.raises(DataError, match=r"exog_vc must be a VCSpec, or a dict"):
        mme.MixedLM(y, x, g, exog_vc=3)
    labels = np.unique(g)
    sizes = {k: np.count_nonzero(g == k) for k in labels}
    with pytest.warns(FutureWarning, match="deprecated"):
        with pytest.raises(DataError, match=r"'a': the matrix of group .* has shape \(\d+,\)"):
            mme.MixedLM(y, x, g, exog_vc={"a": {k: np.ones(n) for k, n in sizes.items()}})
        with pytest.raises(DataError, match=r"'a' must be a dict of a group's label to its matrix, not list"):
            mme.MixedLM(y, x, g, exog_vc={"a": [np.ones((n, 1)) for n in sizes.values()]})
    for refused in ({"missing": "warn"}, {"correlation": "ar1"}):
        with pytest.raises(OptionError, match=r"missing must be|Here residuals are independent"):
            mme.MixedLM(y, x, g, **refused)
    with pytest.raises(OptionError, match=r"method 'nope' is unknown"):
        mme.MixedLM(y, x, g).fit(method="nope")


@pytest.mark.parametrize("engine", ["patsy", "formulaic"])
def test_missing_values_are_counted_by_column_and_the_cause_is_kept(frame, engine, monkeypatch):
    import statsmodels.formula

    monkeypatch.setattr(statsmodels.formula.options, "formula_engine", engine)
    frame.loc[[4, 9], "x"] = np.nan
    with pytest.raises(
        MissingDataError, match=r"'x' \(2\) of 120 rows \(.*(missing|null) values.*\)"
    ) as info:
        _fit(frame)
    assert isinstance(info.value, DataError)
    assert info.value.__cause__ is not None


def test_names_near_a_group_that_is_no_column(frame):
    with pytest.raises(DataError, match="groups='G' is not a column of the data; did you mean g"):
        mme.mixedlm("y ~ x", frame, groups="G")


def test_a_formula_without_a_response(frame):
    with pytest.raises(FormulaError, match="'~ x' is not of the form 'response ~ terms'"):
        _fit(frame, "~ x")
