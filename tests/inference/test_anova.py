"""Tests of terms: lmerTest and pbkrtest; dense constructions of the hypotheses; codings, empty cells."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from inference.dense_small_sample import DenseSmallSample
from support import inference_reference, load_data, unbalanced_reference

import mme
from mme.exceptions import InferenceError, OptionError, RankDeficientWarning
from mme.inference.anova import term_rows

MODELS = {**inference_reference(), **unbalanced_reference()}
_FORMULAS = {"ub_egsingle": "math ~ year*size + female + (year | childid) + (1 | schoolid)"}


def _fit(model: dict):
    formula = _FORMULAS.get(model["name"], model["formula_r"].replace("factor(", "C("))
    return mme.lmer(formula, load_data(model["data"]), tol=1e-12)


def make_data(seed: int = 5, n: int = 240, empty: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    data = pd.DataFrame(
        {
            "g": np.arange(n) % 12,
            "a": rng.choice(list("pqr"), n, p=[0.5, 0.3, 0.2]),
            "b": rng.choice(list("uvwx"), n, p=[0.4, 0.3, 0.2, 0.1]),
            "x": rng.uniform(2000, 2010, n),
            "z": rng.normal(size=n),
            "flag": rng.random(n) < 0.3,
        }
    )
    if empty:
        data = data[~((data.a == "q") & (data.b == "w"))].reset_index(drop=True)
    effect = {"p": 0.0, "q": 1.0, "r": -0.5}
    data["y"] = (
        data.a.map(effect) * (1 + (data.b == "v"))
        + 0.3 * data.z * (data.a == "r")
        + rng.normal(size=len(data))
    )
    data["y"] += rng.normal(size=12)[data.g]
    return data


# -- R ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MODELS))
def test_anova_of_lmertest_and_pbkrtest(name):
    model = MODELS[name]
    result = _fit(model)
    for key, kind, ddf in (("anova1", 1, None), ("anova3", 3, None), ("anova3_kr", 3, "kenward-roger")):
        ref = {k: np.atleast_1d(v) for k, v in model[key].items()}
        table = result.anova(kind, ddf)
        assert list(table.index) == [str(term).replace("factor(", "C(") for term in ref["terms"]]
        np.testing.assert_array_equal(table["NumDF"], ref["df1"])
        np.testing.assert_allclose(table["F value"], ref["F"], rtol=1e-3)
        np.testing.assert_allclose(table["DenDF"], ref["df2"], rtol=1e-3)
        np.testing.assert_allclose(table["Pr(>F)"], ref["p"], rtol=0, atol=1e-3)
        assert (table.attrs["type"], table.attrs["ddf"]) == (kind, ddf or "satterthwaite")
        np.testing.assert_allclose(table["Mean Sq"], table["F value"] * result.scale)
        np.testing.assert_allclose(table["Sum Sq"], table["Mean Sq"] * table["NumDF"])


def test_of_one_term_all_types_are_one_test():
    """lmerTest 3.1 (anova of types 1 to 3: df 4.94608, F 35.0122); other rows would give other df."""
    data = load_data("Machines")
    at = np.arange(len(data))
    data = data[(at % 7 != 1) & (at % 5 != 3)]
    result = mme.lmer("score ~ Machine + (Machine | Worker)", data)
    for kind in (1, 2, 3):
        row = result.anova(kind).loc["Machine"]
        np.testing.assert_allclose(row[["DenDF", "F value"]], [4.946080425, 35.01215059], rtol=1e-3)
        np.testing.assert_allclose(row["Pr(>F)"], 0.001202979, rtol=2e-3)
        np.testing.assert_allclose(result.anova(kind), result.anova(1), rtol=1e-12)


# -- the hypotheses -----------------------------------------------------------------------------------------


def _same_space(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether rows span the same space; columns scaled to be comparable, those of rounding left out."""
    size = np.maximum(*(np.abs(m / np.abs(m).max()).max(axis=0) for m in (one, other)))
    one, other = (m[:, size > 1e-9] / size[size > 1e-9] for m in (one, other))
    ranks = [np.linalg.matrix_rank(m, tol=1e-7) for m in (one, other, np.vstack([one, other]))]
    return len(set(ranks)) == 1


def _dense_type_three(data: pd.DataFrame, terms: list[tuple[str, ...]], X: np.ndarray) -> dict:
    """Goodnight's definition on the rows of the data: a column for every cell of every term."""
    numeric = {"x", "z"}
    blocks = {}
    for term in terms:
        columns = np.ones((len(data), 1))
        for name in term:
            if name in numeric:
                own = data[[name]].to_numpy() / np.linalg.norm(data[name])
            else:
                levels = sorted(data[name].unique())
                own = np.array([[v == level for level in levels] for v in data[name]], dtype=float)
            columns = np.einsum("ni,nj->nij", columns, own).reshape(len(data), -1)
        blocks[term] = columns
    names = list(blocks)
    R = np.hstack(list(blocks.values()))
    at = np.cumsum([0, *(blocks[t].shape[1] for t in names)])
    columns = {t: np.arange(a, b) for t, a, b in zip(names, at, at[1:], strict=False)}
    U, s, Vt = np.linalg.svd(R, full_matrices=False)
    r = int(np.sum(s > 1e-10 * s[0]))
    space = Vt[:r]

    def left(M):
        if M.shape[1] == 0:
            return np.eye(len(M))
        u, d, _ = np.linalg.svd(M)
        return u[:, int(np.sum(d > 1e-9)) :].T

    out = {}
    for term in names[names[0] == () :]:
        same = set(term) & numeric
        above = [t for t in names if set(t) & numeric == same and set(t) - numeric > set(term) - numeric]
        other = [t for t in names if t != term and t not in above]
        rows = left(space[:, np.concatenate([columns[t] for t in other])]) @ space
        alone = left(rows[:, columns[term]]) @ rows
        rows = left(rows @ alone.T) @ rows
        # L of the columns in use: rows of R as rows of X
        out[":".join(term)] = rows @ (Vt[:r].T / s[:r]) @ U[:, :r].T @ X
    return out


FORMULAS = {
    "a * b": [(), ("a",), ("b",), ("a", "b")],
    "a * z": [(), ("a",), ("z",), ("a", "z")],
    "a * b * z": [
        (),
        ("a",),
        ("b",),
        ("z",),
        ("a", "b"),
        ("a", "z"),
        ("b", "z"),
        ("a", "b", "z"),
    ],
    "0 + a + b": [("a",), ("b",)],
    "a + a:b + x": [(), ("a",), ("x",), ("a", "b")],
    "a:b + x": [(), ("x",), ("a", "b")],
    "flag * a": [(), ("flag",), ("a",), ("flag", "a")],
}


@pytest.mark.parametrize("empty", [False, True], ids=["full", "empty"])
@pytest.mark.parametrize("formula", list(FORMULAS))
@pytest.mark.filterwarnings("ignore::mme.exceptions.RankDeficientWarning")
def test_type_three_is_goodnights(formula, empty):
    data = make_data(empty=empty)
    result = mme.lmer(f"y ~ {formula} + (1 | g)", data)
    X = result.fit.design.X
    terms = FORMULAS[formula]
    expected = _dense_type_three(data, terms, X)
    for term, rows in term_rows(result.fitted, 3):
        assert _same_space(rows, expected[term.name]), term.name


@pytest.mark.parametrize("empty", [False, True], ids=["full", "empty"])
@pytest.mark.filterwarnings("ignore::mme.exceptions.RankDeficientWarning")
def test_contrasts_do_not_matter(empty):
    """Treatment, sum, Helmert and polynomial contrasts, the base another one: the same table."""
    data = make_data(empty=empty)
    coded = [
        "{}",
        "C({}, contr.sum)",
        "C({}, contr.helmert)",
        "C({}, contr.poly)",
        "C({}, contr.treatment(2))",
    ]
    tables = []
    for one, other in [*zip(coded[:4], coded[:4], strict=True), (coded[0], coded[1])]:
        a, b = one.format("a"), other.format("b")
        result = mme.lmer(f"y ~ {a} * {b} * z + (1 | g)", data, tol=1e-12)
        tables.append([result.anova(kind, ddf) for kind in (3, 2) for ddf in (None, "kenward-roger")])
    for table in tables[1:]:
        for got, expected in zip(table, tables[0], strict=True):
            F = ["Sum Sq", "NumDF", "F value"]
            np.testing.assert_allclose(got[F], expected[F], rtol=2e-5)
            # Fai & Cornelius' denominators depend on the rows that span a hypothesis: of type 3 the same ones
            rtol = 2e-5 if got.attrs["type"] == 3 else 2e-3
            np.testing.assert_allclose(got["DenDF"], expected["DenDF"], rtol=rtol)
            np.testing.assert_allclose(got["Pr(>F)"], expected["Pr(>F)"], rtol=0, atol=1e-5)


def test_type_three_of_full_cells_is_of_unweighted_means():
    """The mean over the levels of the other factor, each level once, of unbalanced data."""
    data = make_data()
    result = mme.lmer("y ~ a * b + (1 | g)", data)
    means = [
        result.model.model_design.coding.fixed(pd.DataFrame({"a": [a] * 4, "b": list("uvwx")})).mean(axis=0)
        for a in "pqr"
    ]
    rows = dict((term.name, L) for term, L in term_rows(result.fitted, 3))["a"]
    np.testing.assert_allclose(rows, np.array(means)[1:] - means[0], atol=1e-12)


def _terms_before(names: list[str], term: str, kind: int) -> list[str]:
    if kind == 1:
        return names[: names.index(term)]
    return [t for t in names if not set(t.split(":")) >= set(term.split(":"))]


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("empty", [False, True], ids=["full", "empty"])
@pytest.mark.filterwarnings("ignore::mme.exceptions.RankDeficientWarning")
def test_types_one_and_two_are_projections(kind, empty):
    """L of a term: its columns less their projection on those it is adjusted for, times X."""
    data = make_data(empty=empty)
    result = mme.lmer("y ~ a * b + flag + z + (1 | g)", data)
    X, terms = result.fit.design.X, result.model.model_design.coding.terms
    columns = {term.name: term.columns for term in terms}
    names = [term.name for term in terms[1:]]
    assert names == ["a", "b", "flag", "z", "a:b"]
    for term, rows in term_rows(result.fitted, kind):
        earlier = ["(Intercept)", *_terms_before(names, term.name, kind)]
        Z = np.hstack([X[:, columns[name]] for name in earlier])
        own = X[:, columns[term.name]]
        rest = own - Z @ np.linalg.lstsq(Z, own, rcond=None)[0]
        assert _same_space(rows, rest.T @ X), term.name


def test_against_dense_formulas():
    """F and degrees of freedom of one row from X and V."""
    data = make_data()
    result = mme.lmer("y ~ flag * z + (1 | g)", data, tol=1e-12)
    dense = DenseSmallSample(result.fit.design, list(result.fit.lam), result.fit.sigma2, True, "observed")
    table = result.anova(3)
    for (term, rows), row in zip(term_rows(result.fitted, 3), table.itertuples(), strict=True):
        (L,) = rows
        variance = L @ dense.C @ L
        assert table.loc[term.name, "F value"] == pytest.approx(
            (L @ result.fe_params) ** 2 / variance, rel=1e-6
        )
        assert row.DenDF == pytest.approx(dense.degrees(L), rel=1e-5)
    # flag is averaged over, not set to False: z's row has half of the interaction
    np.testing.assert_allclose(
        dict((t.name, r) for t, r in term_rows(result.fitted, 3))["z"], [[0, 0, 1, 0.5]]
    )


# -- doors, special designs ---------------------------------------------------------------------------------


def test_both_doors_agree():
    data = load_data("ub_orthodont")
    lmer = mme.lmer("distance ~ age * Sex + (1 | Subject)", data, tol=1e-12)
    for formula in ("distance ~ age * Sex", "distance ~ age * C(Sex, Sum)"):
        mixedlm = mme.mixedlm(formula, data, groups="Subject").fit(gtol=1e-10)
        for kind in (2, 3):
            table = mixedlm.anova(kind).iloc[[1, 0, 2]]  # patsy has factors first
            np.testing.assert_allclose(table, lmer.anova(kind), rtol=1e-4)
        assert [name.count(":") for name in mixedlm.anova(1).index] == [0, 0, 1]


def test_dropped_columns(sleepstudy):
    frame = sleepstudy.assign(twice=2 * sleepstudy.Days, other=np.arange(180) % 7)
    with pytest.warns(RankDeficientWarning):
        result = mme.lmer("Reaction ~ Days + twice + other + (Days | Subject)", frame)
    plain = mme.lmer("Reaction ~ Days + other + (Days | Subject)", frame)
    for kind in (1, 2, 3):
        got, expected = result.anova(kind), plain.anova(kind)
        assert np.isnan(got.loc["twice", "F value"])
        assert got.loc["twice", "NumDF"] == 0
        assert "do not tell" in got.attrs["notes"][-1] and "twice" in got.attrs["notes"][-1]
        np.testing.assert_allclose(got.loc["other"], expected.loc["other"], rtol=1e-6)
    np.testing.assert_allclose(result.anova(1).loc["Days"], plain.anova(1).loc["Days"], rtol=1e-6)
    # neither column has a hypothesis of its own
    assert np.isnan(result.anova(3).loc["Days", "F value"])


@pytest.mark.filterwarnings("ignore::mme.exceptions.RankDeficientWarning")
def test_rounding_of_an_intercept_that_is_not_told_takes_no_degree():
    """A column that depends on the intercept, another one on covariates: a's own differences are told."""
    for seed in range(6):
        data = make_data()
        z2 = 2.0 * data.z + 3.0
        other = np.random.default_rng(seed).normal(size=len(data))
        data = data.assign(z2=z2, other=other, both=other + data.z)
        result = mme.lmer("y ~ z + z2 + other + both + a + (1 | g)", data)
        plain = mme.lmer("y ~ z + other + a + (1 | g)", data)
        got, expected = result.anova(3).loc["a"], plain.anova(3).loc["a"]
        assert got["NumDF"] == expected["NumDF"] == 2
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("formula", "same"), [("one + a + z", "a + z"), ("one * a + z", "a + z"), ("a + one:z", "a + z")]
)
def test_a_factor_with_one_level_has_no_test_and_the_others_have_theirs(formula, same):
    data = make_data().assign(one="only")
    result = mme.lmer(f"y ~ {formula} + (1 | g)", data)
    plain = mme.lmer(f"y ~ {same} + (1 | g)", data)
    for kind in (1, 2, 3):
        got, expected = result.anova(kind), plain.anova(kind)
        np.testing.assert_allclose(got.loc["a"], expected.loc["a"], rtol=1e-6)
        for term in {"one", "one:a"} & set(got.index):
            assert got.loc[term, "NumDF"] == 0 and np.isnan(got.loc[term, "F value"])


def test_empty_cells_have_fewer_degrees():
    data = make_data(empty=True)
    with pytest.warns(RankDeficientWarning):
        result = mme.lmer("y ~ a * b + (1 | g)", data)
    for kind in (1, 2, 3):
        assert result.anova(kind)["NumDF"].tolist() == [2, 3, 5]


def test_splines_and_polynomials_are_one_term():
    data = make_data()
    result = mme.lmer("y ~ a * poly(z, 2) + bs(x, df=4) + (1 | g)", data)
    table = result.anova()
    assert dict(zip(table.index, table["NumDF"], strict=True)) == {
        "a": 2,
        "poly(z, 2)": 2,
        "bs(x, df=4)": 4,
        "a:poly(z, 2)": 4,
    }
    rows = dict((t.name, L) for t, L in term_rows(result.fitted, 3))
    names = list(result.fe_params.index)
    L = pd.DataFrame(rows["poly(z, 2)"], columns=names)
    for one, row in itertools.product((1, 2), (L.iloc[0], L.iloc[1])):
        share = row[f"poly(z, 2)[{one}]"]
        for level in "qr":
            assert row[f"a[T.{level}]:poly(z, 2)[{one}]"] == pytest.approx(share / 3, abs=1e-12)


def test_a_boolean_alone_is_a_number():
    data = make_data()
    result = mme.lmer("y ~ 0 + flag + (1 | g)", data)
    assert result.anova(3)["F value"].iloc[0] == pytest.approx(result.coef_table().t.iloc[0] ** 2)


# -- what is refused ----------------------------------------------------------------------------------------


def test_no_terms():
    result = mme.lmer("strength ~ 1 + (1 | batch/cask)", load_data("Pastes"))
    for kind in (1, 2, 3):
        assert result.anova(kind).shape == (0, 6)


def test_options(sleepstudy):
    result = mme.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy)
    pd.testing.assert_frame_equal(result.anova("III"), result.anova())
    for wrong in (0, 4, "IV", None, True, 3.5):
        with pytest.raises(OptionError, match=r"type=.* is not known: 1 \(each term after"):
            result.anova(wrong)
    with pytest.raises(OptionError, match="Did you mean 'satterthwaite'"):
        result.anova(ddf="satterthwait")


def test_arrays_have_no_terms(sleepstudy):
    X = np.column_stack([np.ones(180), sleepstudy.Days])
    result = mme.MixedLM(sleepstudy.Reaction, X, sleepstudy.Subject).fit()
    with pytest.raises(InferenceError, match=r"anova\(type=3\) goes by the terms of a formula.*from_formula"):
        result.anova()


def test_contrasts_that_leave_levels_out():
    data = make_data()
    result = mme.lmer("y ~ C(a, {'d': [1, -1, 0]}) + z + (1 | g)", data)
    with pytest.raises(InferenceError, match=r"type=3 is about all levels.*Use type=1 or type=2"):
        result.anova()
    assert result.anova(2)["NumDF"].tolist() == [1, 1]


def test_iterative_fits(sleepstudy):
    formula = "Reaction ~ Days + (1 | Subject)"
    iterative, exact = (mme.lmer(formula, sleepstudy, solver=solver) for solver in ("iterative", "direct"))
    for ddf in ("satterthwaite", "kenward-roger"):
        np.testing.assert_allclose(iterative.anova(ddf=ddf), exact.anova(ddf=ddf), rtol=1e-3)
    table = iterative.anova(ddf="normal")
    assert table["F value"].iloc[0] == pytest.approx(iterative.tvalues["Days"] ** 2)
    assert np.isinf(table["DenDF"].iloc[0])
    assert exact.anova(ddf="residual")["DenDF"].iloc[0] == 178
