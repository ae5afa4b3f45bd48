"""fit_many of both doors: kinds of responses, tables, ordinary results, refusals."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from statsmodels.stats.multitest import multipletests

import mme
from mme.exceptions import DataError, InferenceError, OptionError, RankDeficientWarning

FORMULA = "~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def sleep() -> pd.DataFrame:
    return pd.read_csv(mme.data_path("sleepstudy.csv"))


@pytest.fixture(scope="module")
def matrix(sleep) -> np.ndarray:
    """Ordinary responses, noise alone, and one without the slopes."""
    rng = np.random.default_rng(7)
    noise = rng.normal(size=(len(sleep), 5))
    codes = sleep["Subject"].factorize()[0]
    Y = noise * 20.0 + sleep[["Reaction"]].to_numpy()
    Y[:, 3] = noise[:, 3]
    Y[:, 4] = noise[:, 4] + rng.normal(size=18)[codes]
    return Y


@pytest.fixture(scope="module")
def results(sleep, matrix):
    return mme.fit_many(FORMULA, sleep, matrix)


class Annotated:
    """What AnnData has, backed by a file or not."""

    def __init__(self, X, obs_names, var_names) -> None:
        self.X, self.obs_names, self.var_names = X, pd.Index(obs_names), pd.Index(var_names)


def same(a, b) -> None:
    columns = ["estimate", "se", "df", "statistic", "p"]
    np.testing.assert_allclose(a.coefficients[columns], b.coefficients[columns], rtol=1e-8, atol=1e-300)
    numbers = [c for c in b.responses.columns if c != "status"]
    np.testing.assert_allclose(
        a.responses[numbers].astype(float), b.responses[numbers].astype(float), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("reml", [True, False])
def test_tables_are_those_of_lmer(sleep, matrix, reml):
    results = mme.fit_many(FORMULA, sleep, matrix, reml)
    assert len(results) == 5
    assert list(results.coefficients.columns) == [
        "response", "term", "estimate", "se", "df", "statistic", "p",
    ]  # fmt: skip
    for i in range(5):
        alone = mme.lmer("y ~ Days + (Days | Subject)", sleep.assign(y=matrix[:, i]), reml)
        table = alone.coef_table()
        own = results.coefficients[results.coefficients["response"] == i]
        assert list(own["term"]) == list(table.index)
        np.testing.assert_allclose(own["se"], table["se"], rtol=1e-5)
        np.testing.assert_allclose(own["estimate"], table["estimate"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(own["df"], table["df"], rtol=1e-5)
        np.testing.assert_allclose(own["p"], table["p"], rtol=1e-4, atol=1e-300)
        row = results.responses.loc[i]
        assert row["llf"] == pytest.approx(alone.llf, abs=1e-8)
        assert (row["n"], row["converged"], row["status"]) == (180, True, "fitted")
        assert row["singular"] == alone.is_singular
        assert row["sigma"] == pytest.approx(alone.sigma, rel=1e-6)
        variances = ["var_(Intercept)|Subject", "var_Days|Subject", "cov_Days.(Intercept)|Subject"]
        np.testing.assert_allclose(
            row[variances].astype(float), alone.varcorr["vcov"][:3], rtol=1e-4, atol=1e-6 * alone.scale
        )
    assert results.responses["singular"].sum() >= 1


def test_a_result_is_an_ordinary_one(sleep, matrix, results):
    alone = results[1]
    assert isinstance(alone, mme.LinearMixedModelResults)
    assert alone.llf == pytest.approx(results.responses["llf"][1], abs=1e-8)
    assert alone.conf_int().shape == (2, 2)
    assert list(alone.random_effects["Subject"].index[:2]) == [308, 309]
    np.testing.assert_array_equal(results[-4].fe_params, alone.fe_params)
    with pytest.raises(IndexError, match="of 5"):
        results[5]
    with pytest.raises(KeyError, match="no response"):
        results["gene"]
    assert "5 responses, REML: 5 converged" in repr(results)


@pytest.mark.parametrize("door", ["lmer", "MixedLM", "iterator"])
def test_results_can_be_stored(sleep, matrix, results, door):
    given = results
    if door == "MixedLM":
        model = mme.MixedLM.from_formula("Reaction ~ Days", sleep, re_formula="~Days", groups="Subject")
        given = model.fit_many(matrix)
    elif door == "iterator":
        given = mme.fit_many(FORMULA, sleep, iter([matrix]))
    again = pickle.loads(pickle.dumps(given))
    pd.testing.assert_frame_equal(again.coefficients, given.coefficients)
    pd.testing.assert_frame_equal(again.responses, given.responses)
    if door == "iterator":
        with pytest.raises(DataError, match="iterator"):
            again[0]
    else:
        assert again[0].llf == pytest.approx(given.responses["llf"][0], abs=1e-8)


def test_kinds_of_matrices(sleep, matrix, results, tmp_path):
    path = tmp_path / "responses.dat"
    backed = np.memmap(path, dtype=np.float32, mode="w+", shape=matrix.shape)
    backed[:] = matrix
    names = list("abcde")
    frame = pd.DataFrame(matrix, columns=names)
    same(mme.fit_many(FORMULA, sleep, frame), results)
    same(mme.fit_many(FORMULA, sleep, matrix.tolist()), results)
    for kind in (sp.csr_array, sp.csc_matrix, sp.coo_array):
        same(mme.fit_many(FORMULA, sleep, kind(matrix)), results)
    same(mme.fit_many(FORMULA, sleep, backed), mme.fit_many(FORMULA, sleep, matrix.astype(np.float32)))
    labelled = sleep.set_index(pd.Index([f"cell{i}" for i in range(180)]))
    turned = Annotated(sp.csr_array(matrix[::-1]), labelled.index[::-1], names)
    from_cells = mme.fit_many(FORMULA, labelled, turned)
    same(from_cells, results)
    assert list(from_cells.names) == names
    assert from_cells["b"].llf == pytest.approx(results[1].llf, abs=1e-10)


def test_blocks_of_an_iterator(sleep, matrix, results):
    streamed = mme.fit_many(FORMULA, sleep, (matrix[:, i : i + 2] for i in (0, 2, 4)))
    same(streamed, results)
    assert list(streamed.names) == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="iterator"):
        streamed[0]
    named = mme.fit_many(FORMULA, sleep, iter([pd.DataFrame(matrix[:, :2], columns=["a", "b"])]))
    assert list(named.names) == ["a", "b"]
    with pytest.raises(InferenceError, match="read once"):
        mme.fit_many(FORMULA, sleep, iter([matrix]), ddf="kenward-roger")
    with pytest.raises(DataError, match=r"block 1 .* 3 rows"):
        mme.fit_many(FORMULA, sleep, iter([matrix, np.ones((3, 2))]))
    with pytest.raises(DataError, match="no responses"):
        mme.fit_many(FORMULA, sleep, iter([]))


def test_small_blocks_are_the_same(sleep, matrix, results, monkeypatch):
    monkeypatch.setattr("mme.fit.many._MOST", 2)
    same(mme.fit_many(FORMULA, sleep, matrix), results)


def test_missing_values_leave_their_rows_out(sleep, matrix):
    Y = matrix.copy()
    Y[:10, 0] = np.nan  # a subject less
    Y[3, 1] = Y[3, 2] = np.nan
    results = mme.fit_many(FORMULA, sleep, Y)
    assert results.responses["n"].tolist() == [170, 179, 179, 180, 180]
    for i in (0, 2):
        alone = mme.lmer("y ~ Days + (Days | Subject)", sleep.assign(y=Y[:, i]), missing="drop")
        assert results.responses["llf"][i] == pytest.approx(alone.llf, abs=1e-8)
        own = results.coefficients[results.coefficients["response"] == i]
        np.testing.assert_allclose(own["se"], alone.coef_table()["se"], rtol=1e-5)
        np.testing.assert_allclose(own["df"], alone.coef_table()["df"], rtol=1e-5)
        ordinary = results[i]
        assert ordinary.llf == pytest.approx(alone.llf, abs=1e-10)
        assert ordinary.n_groups == alone.n_groups


def test_rows_that_the_design_leaves_out(sleep, matrix):
    holes = sleep.assign(Days=sleep["Days"].where(sleep.index != 5))
    results = mme.fit_many(FORMULA, holes, matrix, missing="drop", subset="Subject != 308")
    rows = (sleep["Subject"] != 308).to_numpy()
    alone = mme.fit_many(FORMULA, sleep[rows], matrix[rows])
    same(results, alone)  # row 5 is one of subject 308
    Y = matrix.copy()
    Y[20, 2] = np.nan
    part = mme.fit_many(FORMULA, holes, Y, missing="drop", subset="Subject != 308")
    assert part[2].nobs == part.responses["n"][2] == 169
    assert part[2].llf == pytest.approx(part.responses["llf"][2], abs=1e-8)


def test_what_cannot_be_fitted_is_named(sleep, matrix):
    rng = np.random.default_rng(2)
    by_subject = rng.normal(size=18)[sleep["Subject"].factorize()[0]]
    columns = {
        "ordinary": matrix[:, 0],
        "constant": np.full(180, 2.5),
        "empty": np.full(180, np.nan),
        "infinite": np.where(sleep.index == 4, np.inf, matrix[:, 0]),
        "line": 2.0 + 3.0 * sleep["Days"],
        "levels": by_subject + 0.5 * sleep["Days"],
        "huge": matrix[:, 0] * 1e40,
        "tail": np.where(sleep["Subject"] == 308, matrix[:, 0], np.nan),
    }
    results = mme.fit_many(FORMULA, sleep, pd.DataFrame(columns))
    status = results.responses["status"]
    assert status["ordinary"] == "fitted"
    assert status["constant"] == "constant"
    assert status["empty"] == "no values"
    assert status["infinite"] == "infinite values"
    assert status["line"] == "explained by the fixed effects"
    assert status["levels"] == "explained exactly"
    assert status["huge"] == "values too large or too small"
    assert "1 level" in status["tail"]
    assert results.responses["converged"].tolist() == [True] + [False] * 7
    frame = results.coefficients.set_index("response")
    assert frame.loc["ordinary", "p"].notna().all()
    assert frame.drop("ordinary")[["estimate", "se", "df", "p"]].isna().all().all()
    adjusted = results.adjust()
    assert adjusted["p_adjusted"].notna().sum() == 2


def test_dropped_columns_are_missing(sleep, matrix):
    with pytest.warns(RankDeficientWarning, match="2 \\* Days"):
        results = mme.fit_many("~ Days + I(2 * Days) + (1 | Subject)", sleep, matrix[:, :2])
    frame = results.coefficients
    assert frame[frame["term"] == "I(2 * Days)"][["estimate", "se", "df", "p"]].isna().all().all()
    assert frame[frame["term"] == "Days"]["p"].notna().all()


def test_weights_and_offset(sleep, matrix):
    data = sleep.assign(w=1.0 + sleep["Days"] % 3, o=sleep["Days"] * 4.0)
    results = mme.fit_many("~ Days + (1 | Subject)", data, matrix, weights="w", offset="o")
    for i in (0, 3):
        alone = mme.lmer("y ~ Days + (1 | Subject)", data.assign(y=matrix[:, i]), weights="w", offset="o")
        assert results.responses["llf"][i] == pytest.approx(alone.llf, abs=1e-8)
        assert results[i].llf == pytest.approx(alone.llf, abs=1e-10)


def test_adjusted_p_are_statsmodels(results):
    frame = results.adjust("holm", alpha=0.01)
    for term in ("(Intercept)", "Days"):
        own = frame[frame["term"] == term]
        reject, adjusted = multipletests(own["p"], 0.01, "holm")[:2]
        np.testing.assert_array_equal(own["p_adjusted"], adjusted)
        np.testing.assert_array_equal(own["reject"], reject)
    with pytest.raises(OptionError, match="multipletests"):
        results.adjust("nothing")


def test_other_degrees_of_freedom(sleep, matrix, results):
    normal = mme.fit_many(FORMULA, sleep, matrix[:, :2], ddf="normal").coefficients
    assert np.isinf(normal["df"]).all()
    residual = mme.fit_many(FORMULA, sleep, matrix[:, :2], ddf="residual").coefficients
    assert (residual["df"] == 178.0).all()
    np.testing.assert_allclose(normal["se"], results.coefficients["se"][:4], rtol=1e-9)
    kr = mme.fit_many(FORMULA, sleep, matrix[:, :2], ddf="kenward-roger")
    table = results[1].coef_table("kenward-roger")
    np.testing.assert_allclose(kr.coefficients[["se", "df", "p"]][2:], table[["se", "df", "p"]], rtol=1e-10)
    with pytest.raises(InferenceError, match="REML"):
        mme.fit_many(FORMULA, sleep, matrix, reml=False, ddf="kr".replace("kr", "kenward-roger"))
    with pytest.raises(OptionError, match="satterthwaite"):
        mme.fit_many(FORMULA, sleep, matrix, ddf="satterthwait")


def test_the_model_of_lmer(sleep, matrix, results):
    model = mme.LinearMixedModel.from_formula("Reaction ~ Days + (Days | Subject)", sleep)
    own = model.fit_many(pd.DataFrame(matrix, columns=list("abcde")))
    same(own, results)
    assert own["c"].llf == pytest.approx(results[2].llf, abs=1e-10)
    Y = matrix.copy()
    Y[7, 0] = np.nan
    assert model.fit_many(Y)[0].nobs == 179


@pytest.mark.parametrize("reml", [True, False])
def test_the_model_of_statsmodels_door(sleep, matrix, reml):
    model = mme.MixedLM.from_formula("Reaction ~ Days", sleep, re_formula="~Days", groups="Subject")
    Y = matrix[:, :4].copy()
    Y[:10, 1] = np.nan
    many = model.fit_many(Y, reml)
    assert many.responses["n"].tolist() == [180, 170, 180, 180]
    for i in range(4):
        used = ~np.isnan(Y[:, i])
        own = mme.MixedLM.from_formula(
            "y ~ Days", sleep.assign(y=Y[:, i])[used], re_formula="~Days", groups="Subject"
        ).fit(reml=reml)
        assert many.responses["llf"][i] == pytest.approx(own.llf, abs=1e-8)
        ordinary = many[i]
        assert isinstance(ordinary, type(own))
        assert ordinary.llf == pytest.approx(own.llf, abs=1e-8)
        table = own.coef_table()
        rows = many.coefficients[many.coefficients["response"] == i]
        np.testing.assert_allclose(rows["df"], table["df"], rtol=1e-4)
        assert list(rows["term"]) == ["Intercept", "Days"]
        assert many.responses["var_Days|Subject"][i] == pytest.approx(
            own.cov_re.iloc[1, 1], rel=1e-4, abs=1e-6 * own.scale
        )


def test_variance_components(sleep, matrix):
    data = sleep.assign(half=sleep["Days"] // 5)
    model = mme.MixedLM.from_formula(
        "Reaction ~ Days", data, groups="Subject", vc_formula={"half": "0 + C(half)"}, re_formula="1"
    )
    many = model.fit_many(matrix)
    assert many.responses["llf"][0] == pytest.approx(many[0].llf, abs=1e-8)
    Y = matrix[:, :1].copy()
    Y[0] = np.nan
    with pytest.raises(InferenceError, match="variance components"):
        model.fit_many(Y)[0]


def test_crossed_factors(matrix):
    rng = np.random.default_rng(4)
    data = pd.DataFrame(
        {"x": rng.normal(size=300), "g": rng.integers(0, 40, 300), "h": rng.integers(0, 9, 300)}
    )
    Y = rng.normal(size=(300, 4)) + data[["x"]].to_numpy()
    Y[:, 2] += rng.normal(size=40)[data["g"]]
    Y[:, 3] += rng.normal(size=40)[data["g"]] + 0.5 * rng.normal(size=9)[data["h"]]
    many = mme.fit_many("~ x + (1 | g) + (1 | h)", data, Y)
    for i in range(4):
        table = many[i].coef_table()
        own = many.coefficients[many.coefficients["response"] == i]
        assert many.responses["llf"][i] == pytest.approx(many[i].llf, abs=1e-8)
        np.testing.assert_allclose(own[["se", "df"]], table[["se", "df"]], rtol=1e-5)


def test_refusals(sleep, matrix):
    with pytest.raises(DataError, match="Transpose"):
        mme.fit_many(FORMULA, sleep, matrix.T)
    with pytest.raises(DataError, match=r"shape \(180,\)"):
        mme.fit_many(FORMULA, sleep, matrix[:, 0])
    with pytest.raises(DataError, match="index differs"):
        mme.fit_many(FORMULA, sleep, pd.DataFrame(matrix, index=np.arange(180) + 1000.0))
    with pytest.raises(DataError, match="not numeric: b"):
        mme.fit_many(FORMULA, sleep, pd.DataFrame({"a": matrix[:, 0], "b": ["x"] * 180}))
    with pytest.raises(DataError, match="not str"):
        mme.fit_many(FORMULA, sleep, "genes")
    with pytest.raises(OptionError, match="reml"):
        mme.fit_many(FORMULA, sleep, matrix, "REML")


@pytest.mark.filterwarnings("ignore::mme.exceptions.FlatLikelihoodWarning")
def test_one_response_without_derivatives_does_not_stop_the_others():
    """A fit that ends on factored rows, whose cross-products leave nothing: tables go by the normal
    distribution and say so, and other responses have theirs."""
    rng = np.random.default_rng(10)
    data = pd.DataFrame(
        {"g": [0, 1, 2, 3, 4, 0], "h": [0, 1, 0, 2, 1, 2], "f": [0, 0, 1, 1, 2, 2]}
        | {"w": rng.uniform(0.3, 3, 6), "off": 5 * rng.normal(size=6)}
    )
    y, formula = rng.normal(size=6), "~ 1 + (1 | g) + (1 | h) + (1 | f)"
    one = mme.lmer(f"y {formula}", data.assign(y=y), weights="w", offset="off")
    assert one.converged and one.sigma < 1e-6
    table = one.coef_table()
    np.testing.assert_allclose(table["se"], one.bse_fe, rtol=1e-12)
    assert np.isinf(table["df"]).all()
    assert "Normal distribution" in " ".join(table.attrs["notes"])
    assert "Normal distribution" in " ".join(str(one.summary()).split())
    for call in (lambda: one.coef_table(ddf="satterthwaite"), one.ranef_table, one.hatvalues):
        with pytest.raises(InferenceError, match="variances are too far apart"):
            call()
    many = mme.fit_many(
        formula, data, np.column_stack([y, 9 * rng.normal(size=6)]), weights="w", offset="off"
    )
    assert many.responses["status"].iloc[0] == "fitted"
    assert np.isnan(many.coefficients["df"].iloc[0])
