"""Variance-component designs: from formulas in one evaluation, from matrices, and grouping by codes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import statsmodels.formula
from numpy.testing import assert_allclose, assert_array_equal
from statsmodels.regression.mixed_linear_model import MixedLM as Original
from support import load_data

import mme
from mme.engine.equations.design import Design, RandomTerm
from mme.exceptions import DataError, DesignError, NotEnoughDataError
from mme.facade.design.components import VCSpec, components_from_spec
from mme.facade.design.groups import GroupIndex, factorize
from mme.facade.design.vc_formula import component_from_formula


@pytest.fixture
def frame():
    rng = np.random.default_rng(3)
    n = 60
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "g": rng.permutation(np.repeat(list("pqrst"), 12)),
            "a": rng.choice(list("uvw"), size=n),
            "c": pd.Categorical(rng.choice(["lo", "mid"], size=n), categories=["mid", "lo"]),
            "k": rng.integers(0, 3, size=n),
            "x": rng.normal(size=n),
            "z": rng.normal(size=n),
        }
    )


FORMULAS = [
    "0 + a",
    "0 + C(k)",
    "0 + x",
    "0 + x + z",
    "0 + a:x",
    "0 + c:a",
    "0 + C(a) + x",
    "~ 0 + np.exp(x)",
    "x",
]
BY_GROUP = ["1 + a", "0 + a + c", "0 + center(x)"]


@pytest.fixture(params=["patsy", "formulaic"])
def engine(request):
    before = statsmodels.formula.options.formula_engine
    statsmodels.formula.options.formula_engine = request.param
    yield request.param
    statsmodels.formula.options.formula_engine = before


@pytest.mark.parametrize("formula", FORMULAS + BY_GROUP)
@pytest.mark.parametrize("use_sparse", [False, True])
def test_matrices_are_statsmodels_own(frame, formula, use_sparse, engine):
    kwargs = {"groups": "g", "vc_formula": {"v": formula}, "use_sparse": use_sparse}
    theirs = Original.from_formula("y ~ 1", frame, **kwargs).exog_vc
    ours = mme.MixedLM.from_formula("y ~ 1", frame, **kwargs).exog_vc
    assert list(ours.names) == list(theirs.names)
    for g in range(5):
        got, expected = ours.mats[0][g], theirs.mats[0][g]
        assert sp.issparse(got) == use_sparse
        got = got.toarray() if use_sparse else got
        expected = expected.toarray() if use_sparse else expected
        names = [str(c) for c in theirs.colnames[0][g]]
        keep = np.any(expected != 0, axis=0)  # unused categories are no random effects here
        order = [list(ours.colnames[0][g]).index(n) for n, k in zip(names, keep, strict=True) if k]
        assert len(order) == got.shape[1]
        assert_allclose(got[:, order], expected[:, keep])


def test_one_evaluation_over_the_data(frame):
    calls = []

    def noted(x):
        calls.append(len(x))
        return x

    mme.MixedLM.from_formula("y ~ 1", frame, groups="g", vc_formula={"v": "0 + noted(x)"})
    assert set(calls) == {60}
    # patsy evaluates a factor twice, once to learn its kind
    assert len(calls) <= 2


def test_codes_or_sparse(frame):
    groups = GroupIndex.from_labels(frame.g, len(frame))

    def component(formula):
        return component_from_formula("v", formula, frame, groups, 0)

    intercepts, slope, two = component("0 + a"), component("0 + x"), component("0 + x + z")
    assert intercepts.term().codes is not None and intercepts.term().columns is None
    assert slope.term().codes is groups.codes and slope.term().columns.shape == (60, 1)
    assert two.term().general and two.Z.shape == (60, 10)


def test_zero_rows_and_zero_columns_of_given_matrices():
    groups = GroupIndex.from_labels([0, 0, 0, 1, 1, 1], 6)
    mats = [np.array([[1.0, 0], [0, 0], [2.0, 0]]), np.array([[0, 0], [3.0, 0], [0, 4.0]])]
    (c,) = components_from_spec(VCSpec(["v"], [[["p", "q"]] * 2], [mats]), groups)
    assert (c.n_columns, c.n_used) == (4, 3)
    assert_array_equal(
        c.matrix().toarray(), [[1, 0, 0], [0, 0, 0], [2, 0, 0], [0, 0, 0], [0, 3, 0], [0, 0, 4]]
    )
    for g in (0, 1):
        assert_array_equal(c.block(g, groups), mats[g])
    assert_array_equal(c.expand(np.array([5.0, 6.0, 7.0])), [5, 0, 6, 7])
    assert c.labels(0, 4) == ["p", "q", "p", "q"] and c.labels(1, 3) == ["q", "p"]
    assert_array_equal(c.term().times(np.array([5.0, 6.0, 7.0])), [5, 0, 10, 0, 18, 28])


@pytest.mark.parametrize("sparse", [False, True])
def test_given_matrices_in_shuffled_rows(sparse):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(list("abc"), [2, 4, 3]))
    groups = GroupIndex.from_labels(labels, 9)
    mats = [rng.normal(size=(m, k)) for m, k in [(2, 1), (4, 3), (3, 2)]]
    given = [sp.csr_matrix(m) for m in mats] if sparse else mats
    (c,) = components_from_spec(VCSpec(["v"], [[list(range(m.shape[1])) for m in mats]], [given]), groups)
    expected = np.zeros((9, 6))
    for g, (first, m) in enumerate(zip([0, 1, 4], mats, strict=True)):
        expected[np.ix_(np.flatnonzero(labels == "abc"[g]), range(first, first + m.shape[1]))] = m
    assert_allclose(c.matrix().toarray(), expected)


@pytest.mark.parametrize(
    ("mats", "message"),
    [
        ([[np.ones((2, 1))]], "1 matrices for 2 groups"),
        ([[np.ones((2, 1)), np.ones((3, 1))]], "group 1 has 3 rows but the group has 2"),
        ([[np.ones((2, 1)), np.full((2, 1), np.nan)]], "2 missing"),
    ],
)
def test_bad_matrices(mats, message):
    groups = GroupIndex.from_labels([0, 0, 1, 1], 4)
    with pytest.raises(DataError, match=message):
        components_from_spec(VCSpec(["v"], [[["p"]] * len(mats[0])], mats), groups)


def test_missing_values_in_a_component(frame):
    for column, formula in (("x", "0 + x"), ("a", "0 + a")):
        d = frame.copy()
        d.loc[3, column] = np.nan
        with pytest.raises(DataError, match="1 missing"):
            mme.MixedLM.from_formula("y ~ 1", d, groups="g", vc_formula={"v": formula})


@pytest.mark.parametrize(
    "values",
    [
        ["b", "a", "b"],
        np.array([2.5, 1.0, 2.5]),
        pd.Categorical(["b", "a", "b"], categories=["z", "b", "a"]),
        pd.Series(["b", "a", "b"], dtype="string"),
        np.array(["2020-02-01", "2020-01-01", "2020-02-01"], dtype="datetime64[D]"),
    ],
)
def test_factorize_sorts(values):
    codes, labels = factorize(values, "groups")
    assert_array_equal(codes, [1, 0, 1])
    assert len(labels) == 2 and labels[0] < labels[1]


def test_factorize_missing_and_combined():
    codes, labels = factorize([1.0, np.nan, 0.0], "groups")
    assert_array_equal(codes, [1, -1, 0])
    assert labels == [0.0, 1.0]
    two = pd.DataFrame({"a": [1, 0, 1, 0], "b": ["x", "x", None, "y"]})
    codes, labels = factorize(two, "groups")
    assert_array_equal(codes, [2, 0, -1, 1])
    assert labels == [(0, "x"), (0, "y"), (1, "x")]


def test_crossed_effects_never_dense():
    d = load_data("InstEval")
    d["one"] = 1
    vc = {"student": "0 + C(s)", "lecturer": "0 + C(d)"}

    def build():
        return mme.MixedLM.from_formula("y ~ 1", d, groups="one", vc_formula=vc)

    model = build()
    assert [t.n_levels for t in model.design().terms] == [1128, 2972]
    tracemalloc.start()
    build()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the dense matrix of students alone is 73421 x 2972 x 8 bytes = 1.7 GB
    assert peak < 60e6


def test_conditional_covariance_of_crossed_effects():
    """Against the dense formula, singular covariances included; the dense n x q design is never formed."""
    rng = np.random.default_rng(5)
    n = 40_000
    a, b = rng.integers(0, 300, size=n), rng.integers(0, 100, size=n)
    d = pd.DataFrame({"a": a, "b": b, "one": 1, "y": rng.normal(size=n) + rng.normal(size=300)[a]})
    vc = {"a": "0 + C(a)", "b": "0 + C(b)"}
    model = mme.MixedLM.from_formula("y ~ 1", d, groups="one", vc_formula=vc)
    start = mme.MixedLMParams.from_components(np.zeros(1), vcomp=np.array([0.7, 0.0]))
    r = model.fit(start_params=start, do_cg=False)
    tracemalloc.start()
    got = r.random_effects_cov[1].to_numpy()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6  # the dense design has 40,000 x 400 x 8 = 128 MB
    Z = np.zeros((n, 300))
    Z[np.arange(n), a] = np.sqrt(0.7)
    expected = np.zeros((400, 400))
    expected[:300, :300] = 0.7 * r.scale * np.linalg.inv(Z.T @ Z + np.eye(300))
    assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_more_effects_than_rows():
    """Two effects per group, one or two rows each: lme4 refuses; statsmodels fits, and so does MixedLM."""
    rng = np.random.default_rng(2)
    codes = np.repeat(np.arange(30), [1, 2] * 15)
    columns = rng.normal(size=(codes.size, 2))
    term = RandomTerm("g", codes, 30, columns=columns, column_names=("a", "b"))
    y, X = rng.normal(size=codes.size), np.ones((codes.size, 1))
    with pytest.raises(NotEnoughDataError, match="60 random effects"):
        Design(y, X, (term,))
    assert Design(y, X, (term,), more_effects_than_rows=True).n == 45
    with pytest.raises(DesignError, match="zero everywhere"):
        zero = RandomTerm("g", codes, 30, columns=columns * [1.0, 0.0], column_names=("a", "b"))
        Design(y, X, (zero,), more_effects_than_rows=True)
    with pytest.raises(DesignError, match="45 levels in 45 rows"):
        own = RandomTerm("g", np.arange(45), 45, columns=columns, column_names=("a", "b"))
        Design(y, X, (own,), more_effects_than_rows=True)
    y = y + np.sum(columns * rng.normal(size=(30, 2))[codes], axis=1)
    ours = mme.MixedLM(y, X, codes, exog_re=columns)
    theirs = Original(y, X, codes, exog_re=columns)
    theirs.cov_pen = theirs.fe_pen = theirs._freepat = None
    params = np.array([1.0, 0.2, 0.7])
    assert_allclose(ours.loglike(params), theirs.loglike(params), rtol=1e-9)
