"""Sandwiches: clubSandwich's numbers, dense formulas of every design, crossed clusters, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import problems
import pytest
from inference.dense_sandwich import DenseSandwich
from scipy import stats
from scipy.sparse.csgraph import connected_components
from support import HERE, load_data, r_names

import mme
from mme.exceptions import DataError, InferenceError, OptionError
from mme.fit import fit_design
from mme.fit.fitted import Fitted, Labels, TermLabels
from mme.inference.clusters import clusterings_of
from mme.inference.sandwich import robust
from mme.report.coefficients import coef_table, contrast_table

with open(HERE / "reference" / "sandwich.json") as file:
    MODELS = json.load(file)["models"]

DESIGNS = [
    name
    for name in problems.PROBLEMS
    # refused where levels are related
    if name != "no_fixed_effects" and all(t.relation is None for t in problems.build(name).terms)
]


def _fitted(fit) -> Fitted:
    terms = tuple(
        TermLabels(t.name, tuple(map(str, range(t.k))), t.n_levels, t.structure) for t in fit.design.terms
    )
    return Fitted.of(fit, Labels("y", tuple(f"x{j}" for j in range(fit.design.p)), terms))


def _parts(design) -> np.ndarray:
    """Rows that are connected by random effects."""
    n = design.n
    share = np.eye(n)
    for term in design.terms:
        if term.Z is not None:
            Z = np.abs(term.Z.toarray())
            share += Z @ Z.T
        else:
            share += term.codes[:, None] == term.codes
    return connected_components(share > 0)[1]


# -- R ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["CR0", "CR1", "CR2"])
@pytest.mark.parametrize("name", list(MODELS))
def test_club_sandwich(name, kind):
    model = MODELS[name]
    result = mme.lmer(model["formula_r"], load_data(model["data"]), tol=1e-12)
    table = result.coef_table(cov_type=kind, cluster=model["cluster"])
    table.index = r_names(table.index)
    table = table.loc[model["names"]]
    ref = model[kind]
    # of a cluster of few degrees of freedom the reference's own fit decides the last digits
    np.testing.assert_allclose(table.se, ref["se"], rtol=1e-4)
    np.testing.assert_allclose(table.df, ref["df"], rtol=1e-3)
    np.testing.assert_allclose(table.p, ref["p"], rtol=2e-3)
    np.testing.assert_allclose(table.p, 2 * stats.t.sf(np.abs(table.t), table.df))
    np.testing.assert_allclose(table.upper - table.estimate, stats.t.isf(0.025, table.df) * table.se)


# -- dense formulas -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["CR0", "CR1", "CR2"])
@pytest.mark.parametrize("name", DESIGNS)
def test_of_every_design(name, kind):
    """Clusters of connected rows; designs that are connected altogether are refused."""
    fit = fit_design(problems.build(name), tol=1e-12)
    codes = _parts(fit.design)
    fitted = _fitted(fit)
    if codes.max() == 0:
        with pytest.raises(DataError, match="one cluster"):
            coef_table(fitted, cov_type=kind, cluster=codes)
        return
    dense = DenseSandwich(fit.design, fit.lam, kind, [codes])
    table = coef_table(fitted, cov_type=kind, cluster=codes)
    np.testing.assert_allclose(table.se, np.sqrt(np.diag(dense.covariance)), rtol=1e-6)
    rows = np.eye(fit.design.p)
    np.testing.assert_allclose(table.df, [dense.degrees(row) for row in rows], rtol=1e-6)
    scale = np.sqrt(np.diag(dense.covariance))
    # the rows of an uncentred covariate and its intercept are nearly dependent
    if (
        fit.design.p >= 2
        and codes.max() > 5
        and np.linalg.cond(dense.covariance / np.outer(scale, scale)) < 1e6
    ):
        L = rows[:2] / scale[:2, None]
        expected = dense.htz(L, L @ dense.beta)
        got = contrast_table(fitted, L, cov_type=kind, cluster=codes).iloc[0]
        np.testing.assert_allclose([got.F, got.df2], expected, rtol=1e-5)
        assert got.df1 == 2
        assert got.p == pytest.approx(stats.f.sf(got.F, 2, got.df2))
        again = contrast_table(fitted, np.vstack([L, L[0] - 2 * L[1]]), cov_type=kind, cluster=codes).iloc[0]
        np.testing.assert_allclose(again, got, rtol=1e-6)


@pytest.mark.parametrize("name", DESIGNS)
def test_hc0_of_every_design(name):
    fit = fit_design(problems.build(name), tol=1e-12)
    dense = DenseSandwich(fit.design, fit.lam, "HC0", [])
    table = coef_table(_fitted(fit), cov_type="HC0")
    np.testing.assert_allclose(table.se, np.sqrt(np.diag(dense.covariance)), rtol=1e-6)
    np.testing.assert_allclose(table.df, [dense.degrees(row) for row in np.eye(fit.design.p)], rtol=1e-6)


def test_cluster_above_the_random_effects():
    """Clusters that hold several levels, one of them of a single row; weights equal in each or not."""
    rng = np.random.default_rng(3)
    design = problems.build("vector2")
    term = design.terms[0]
    above = rng.permutation(np.repeat(np.arange(7), 2))
    for weights in (
        None,
        rng.uniform(0.2, 3.0, 7)[above[term.codes]],
        rng.uniform(0.2, 3.0, design.n),
    ):
        fit = fit_design(replace(design, weights=weights), tol=1e-12)
        codes = above[term.codes]
        for kind in ("CR0", "CR1", "CR2"):
            dense = DenseSandwich(fit.design, fit.lam, kind, [codes])
            table = coef_table(_fitted(fit), cov_type=kind, cluster=codes)
            np.testing.assert_allclose(table.se, np.sqrt(np.diag(dense.covariance)), rtol=1e-8)
            np.testing.assert_allclose(table.df, [dense.degrees(r) for r in np.eye(2)], rtol=1e-8)


@pytest.mark.parametrize("size", [1.0, 1e3, 1e4])
@pytest.mark.parametrize("weighted", [False, True])
def test_unbiased_under_the_model(size, weighted):
    """The expectation of CR2 under the model is the model's own covariance, at large variances too."""
    rng = np.random.default_rng(2)
    design = problems.build("vector2")
    term = design.terms[0]
    u = size * rng.normal(size=(term.n_levels, 2))
    y = design.y + term.times(u)
    weights = rng.uniform(0.5, 2.0, design.n) if weighted else None
    fit = fit_design(replace(design, y=y, weights=weights), tol=1e-12)
    fitted = _fitted(fit)
    got = robust(fitted, "CR2", clusterings_of(fitted, fit.design, "g"), "a test")
    M = np.linalg.inv(got.root.T @ got.root)
    taken = np.einsum("jab,bc,jcd->ad", got.cross.transpose(0, 2, 1), M, got.cross)
    inverse = np.linalg.inv(got.root)
    expected = inverse.T @ (got.mean.sum(axis=0) - taken) @ inverse
    # rounding times the largest ratio of variances, 1e10
    np.testing.assert_allclose(expected, np.eye(2), rtol=0, atol=1e-5)


def test_column_of_one_cluster():
    """A cluster whose residuals a column takes away altogether: the generalized inverse root."""
    design = problems.build("scalar")
    X = np.column_stack([design.X, design.terms[0].codes == 3])
    fit = fit_design(replace(design, X=X, x_names=()), tol=1e-12)
    codes = design.terms[0].codes
    dense = DenseSandwich(fit.design, fit.lam, "CR2", [codes])
    table = coef_table(_fitted(fit), cov_type="CR2", cluster=codes)
    np.testing.assert_allclose(table.se[:2], np.sqrt(np.diag(dense.covariance))[:2], rtol=1e-6)
    np.testing.assert_allclose(table.df[:2], [dense.degrees(r) for r in np.eye(3)[:2]], rtol=1e-6)


CROSSED = ["crossed2_small_first", "crossed_vectors", "partly_crossed", "same_codes_vector"]


@pytest.mark.parametrize("kind", ["CR0", "CR1"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CROSSED)
def test_crossed_clusters(name, weighted, kind):
    """Pairs of rows that share a cluster of either clustering."""
    design = problems.build(name)
    if weighted:
        design = replace(design, weights=np.random.default_rng(0).uniform(0.3, 3.0, design.n))
    fit = fit_design(design, tol=1e-12)
    by_group = {term.name.partition(".")[0]: term.codes for term in design.terms}
    clusters = list(by_group.values())
    assert len(clusters) == 2 and not fit.record.singular
    dense = DenseSandwich(fit.design, fit.lam, kind, clusters)
    fitted = _fitted(fit)
    table = coef_table(fitted, cov_type=kind, cluster=list(by_group))
    variances = np.diag(dense.covariance)
    np.testing.assert_allclose(
        table.se, np.where(variances > 0, np.sqrt(np.abs(variances)), np.nan), rtol=1e-7
    )
    assert np.all(table.df == min(len(np.unique(c)) for c in clusters) - 1)
    same = coef_table(fitted, cov_type=kind, cluster=clusters)
    pd.testing.assert_frame_equal(same, table)
    with pytest.raises(InferenceError, match="shared by rows of different clusters"):
        coef_table(fitted, cov_type=kind, cluster=next(iter(by_group)))
    assert table.attrs["ddf"] == "clusters"
    with pytest.raises(OptionError, match="is of one clustering"):
        coef_table(fitted, ddf="satterthwaite", cov_type=kind, cluster=clusters)
    with pytest.raises(InferenceError, match="CR2 is not defined for several"):
        coef_table(fitted, cov_type="CR2", cluster=clusters)


def test_three_crossed_clusterings():
    """Inclusion and exclusion: all pairs of rows that share any of three clusters."""
    design = problems.build("crossed3")
    fit = fit_design(design, tol=1e-12)
    clusters = [term.codes for term in design.terms]
    pairs = np.zeros((design.n, design.n), dtype=bool)
    for codes in clusters:
        pairs |= codes[:, None] == codes
    dense = DenseSandwich(fit.design, fit.lam, "CR0", [np.arange(design.n)])
    table = coef_table(_fitted(fit), cov_type="CR0", cluster=[term.name for term in design.terms])
    # by the weights of the rows, M X'V^-1
    weight = (
        np.linalg.inv(design.X.T @ np.linalg.solve(dense.V, design.X)) @ design.X.T @ np.linalg.inv(dense.V)
    )
    e = design.y - design.X @ dense.beta
    covariance = weight @ (pairs * np.outer(e, e)) @ weight.T
    variances = np.diag(covariance)
    expected = np.where(variances > 0, np.sqrt(np.abs(variances)), np.nan)
    np.testing.assert_allclose(table.se, expected, rtol=1e-7)
    assert ("variances below zero" in table.attrs["notes"][-1]) == bool(np.any(variances < 0))


# -- both doors ---------------------------------------------------------------------------------------------


def test_both_doors(sleepstudy):
    lmer = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy, tol=1e-12)
    other = mme.MixedLM.from_formula(
        "Reaction ~ Days", sleepstudy, groups="Subject", re_formula="~Days"
    ).fit()
    for kind in ("CR0", "CR1", "CR2"):
        table = lmer.coef_table(cov_type=kind, cluster="Subject")
        theirs = other.coef_table(cov_type=kind, cluster=sleepstudy.Subject)
        np.testing.assert_allclose(theirs, table, rtol=1e-4)
        row = lmer.contrast([0, 1], cov_type=kind.lower(), cluster=sleepstudy.Subject.astype(str).tolist())
        np.testing.assert_allclose(row.iloc[0], table.loc["Days"])
    # balanced: CR2 is CR1, and the model's own standard errors
    np.testing.assert_allclose(table.se, lmer.bse_fe, rtol=1e-6)
    assert table.attrs["notes"] == ("Standard errors: CR2 by 18 clusters of Subject.",)
    normal = lmer.coef_table("normal", cov_type="CR2", cluster="Subject")
    np.testing.assert_allclose(normal.se, table.se)
    assert np.all(np.isinf(normal.df))
    wald = lmer.contrast(np.eye(2), ddf="normal", cov_type="CR2", cluster="Subject").iloc[0]
    assert np.isinf(wald.df2) and wald.p < 1e-10
    ml = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy, reml=False)
    np.testing.assert_allclose(ml.coef_table(cov_type="CR1", cluster="Subject").se, table.se, rtol=1e-3)


def test_nested_clusters_by_variance_components():
    """MixedLM's components within the groups: clusters of the groups."""
    data = load_data("ub_oats")
    model = mme.MixedLM.from_formula(
        "Q('yield') ~ nitro", data, groups="Block", re_formula="1", vc_formula={"v": "0 + C(Variety)"}
    )
    result = model.fit()
    lmer = mme.lmer("Q('yield') ~ nitro + (1 | Block / Variety)", data, tol=1e-12)
    got = result.coef_table(cov_type="CR2", cluster="Block")
    expected = lmer.coef_table(cov_type="CR2", cluster="Block")
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert "Fewer than 4 degrees" not in " ".join(got.attrs["notes"])


def test_dropped_columns(sleepstudy):
    frame = sleepstudy.assign(twice=2 * sleepstudy.Days)
    with pytest.warns(mme.exceptions.RankDeficientWarning):
        result = mme.lmer("Reaction ~ Days + twice + (Days | Subject)", frame)
    plain = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy)
    table = result.coef_table(cov_type="CR2", cluster="Subject")
    np.testing.assert_allclose(table.iloc[:2], plain.coef_table(cov_type="CR2", cluster="Subject"), rtol=1e-6)
    assert table.iloc[2].isna().all()
    assert np.isnan(result.contrast(np.eye(3), cov_type="CR2", cluster="Subject").F.iloc[0])


# -- refusals -----------------------------------------------------------------------------------------------


def test_what_is_misspelt(sleepstudy):
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy)
    for arguments, error, match in (
        ({"cov_type": "CR3", "cluster": "Subject"}, OptionError, "cov_type='CR3' is not known"),
        ({"cov_type": "CR2", "cluster": "Subjekt"}, OptionError, "Did you mean 'Subject'"),
        ({"cov_type": "CR2", "cluster": ["Subject", "Item"]}, OptionError, "'Item' is no grouping factor"),
        ({"cov_type": "CR2"}, OptionError, "needs cluster="),
        ({"cluster": "Subject"}, OptionError, "needs cov_type="),
        ({"cov_type": "HC0", "cluster": "Subject"}, OptionError, "takes rows for themselves"),
        (
            {"cov_type": "CR0", "cluster": "Subject", "ddf": "kenward-roger"},
            OptionError,
            "no use with cov_type",
        ),
        ({"cov_type": "CR0", "cluster": "Subject", "information": "observed"}, OptionError, "no use with"),
        ({"cov_type": "CR0", "cluster": ["Subject", "Subject"]}, OptionError, "each clustering once"),
        ({"cov_type": "CR0", "cluster": np.zeros(180)}, DataError, "one cluster"),
        ({"cov_type": "CR0", "cluster": np.arange(179)}, DataError, "the fit has 180 rows"),
        ({"cov_type": "CR0", "cluster": [None, *["a", "b"] * 89, "c"]}, DataError, "1 missing labels"),
        ({"cov_type": "CR0", "cluster": np.r_[np.nan, np.arange(179.0)]}, DataError, "1 missing labels"),
        ({"cov_type": "CR0", "cluster": sleepstudy.Days}, InferenceError, "random effects of 'Subject' are"),
    ):
        with pytest.raises(error, match=match):
            result.coef_table(**arguments)
        with pytest.raises(error, match=match):
            result.contrast([0, 1], **arguments)


def test_fits_without_a_factorization(sleepstudy):
    iterative = mme.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy, solver="iterative", seed=1)
    with pytest.raises(InferenceError, match=r"cov_type='CR2' needs a factorization"):
        iterative.coef_table(cov_type="CR2", cluster="Subject")
    model = mme.MixedLM.from_formula("Reaction ~ Days", sleepstudy, groups="Subject")
    with pytest.raises(InferenceError, match="this fit has penalties"):
        model.fit_regularized(alpha=0.1).coef_table(cov_type="CR0", cluster="Subject")
    result = model.fit()
    result.remove_data()
    with pytest.raises(InferenceError, match="data were removed"):
        result.coef_table(cov_type="CR0", cluster="Subject")


def test_blocks_beyond_memory(sleepstudy, monkeypatch):
    import mme.inference.sandwich as module

    result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy)
    monkeypatch.setattr(module, "_SMALL", 0.0)
    monkeypatch.setattr(module, "available_memory", lambda: 1e3)
    with pytest.raises(mme.exceptions.MemoryEstimateError, match="blocks of rows that are correlated"):
        result.coef_table(cov_type="CR2", cluster="Subject")
