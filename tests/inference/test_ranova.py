"""ranova: lmerTest's tables, both doors, what is left of a term, the boundary's mixtures, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pandas as pd
import problems
import pytest
from scipy import stats
from support import inference_reference, load_data, unbalanced_reference

import mme
from mme.engine.covariance.factors import factor_psd
from mme.engine.equations.design import RandomTerm
from mme.engine.equations.respond import respond
from mme.exceptions import InferenceError
from mme.fit import fit_design
from mme.fit.fitted import Fitted, Labels, TermLabels
from mme.inference.mixtures import NullSpace, cone_mixture
from mme.inference.null import null_mixture
from mme.inference.random_terms import without_random_terms
from mme.inference.ranova import random_effects_tests
from mme.report.comparison import ranova_table


def _models() -> dict[str, dict]:
    return {**inference_reference(), **unbalanced_reference()}


def _formula(model: dict) -> str:
    return model["formula_r"].replace("factor(", "C(")


@pytest.mark.parametrize("name", list(_models()))
def test_tables_of_lmertest(name):
    model = _models()[name]
    ref = model["ranova"]
    table = mme.lmer(_formula(model), load_data(model["data"])).ranova()
    assert list(table.index) == ref["terms"]
    assert list(table.npar) == ref["npar"]
    np.testing.assert_allclose(table.logLik, ref["loglik"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(table.AIC, 2 * np.array(ref["npar"]) - 2 * table.logLik)
    np.testing.assert_allclose(table.LRT[1:], ref["LRT"][1:], rtol=1e-6, atol=2e-5)
    np.testing.assert_array_equal(table.Df[1:], ref["df"][1:])
    np.testing.assert_allclose(table.p[1:], ref["p"][1:], rtol=3e-4)
    assert np.all(np.isnan(table.iloc[0][["LRT", "Df", "p", "p_boundary"]].astype(float)))
    for row, lrt, df, p in zip(
        table.index[1:], table.LRT[1:], table.Df[1:], table.p_boundary[1:], strict=True
    ):
        below = stats.chi2.sf(lrt, df - 1) if df > 1 else float(lrt <= 1e-6)
        assert p == pytest.approx(0.5 * below + 0.5 * stats.chi2.sf(lrt, df), rel=1e-10)
        assert table.attrs["mixtures"][row] == f"0.5 chi2({df - 1:.0f}) + 0.5 chi2({df:.0f})"
    singular = {"ub_scotssec": ["(1 | primary)"], "ub_penicillin": ["(1 | sample)"]}.get(name, [])
    assert [note.partition(":")[0] for note in table.attrs["notes"]] == [
        f"The fit without {row} is singular" for row in singular
    ]


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
def test_both_doors(sleepstudy, reml):
    lmer = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy, reml=reml)
    frame = sleepstudy.assign(late=sleepstudy.Days > 4)
    other = mme.MixedLM.from_formula(
        "Reaction ~ Days", frame, groups="Subject", re_formula="~Days", vc_formula={"w": "0 + C(late)"}
    ).fit(reml=reml)
    one = mme.MixedLM.from_formula("Reaction ~ Days", sleepstudy, groups="Subject", re_formula="~Days").fit(
        reml=reml
    )
    np.testing.assert_allclose(one.ranova(), lmer.ranova(), rtol=1e-6)
    assert list(one.ranova().index) == ["<none>", "Days in (Days | Subject)"]
    table = other.ranova()
    assert list(table.index) == ["<none>", "Days in (Days | Subject)", "(1 | w)"]
    assert table.logLik["(1 | w)"] == pytest.approx(lmer.llf)
    whole = lmer.ranova(reduce_terms=False)
    assert list(whole.index) == ["<none>", "(Days | Subject)"]
    design = lmer.fit.design
    expected = oracle.evaluate(design, [np.zeros(3)], reml).deviance
    assert whole.logLik.iloc[1] == pytest.approx(-0.5 * expected)
    assert whole.Df.iloc[1] == 3


def _frame(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n, q = 400, 25
    g = rng.integers(0, q, n)
    f = rng.choice(list("abc"), n)
    x, z = rng.normal(size=(2, n))
    u = rng.normal(size=(q, 5)) * [1.0, 0.7, 0.5, 0.4, 0.3]
    columns = np.column_stack([np.ones(n), f == "b", f == "c", x, z])
    y = 1 + x + np.sum(columns * u[g], axis=1) + rng.normal(size=n)
    return pd.DataFrame({"y": y, "g": g, "f": f, "x": x, "z": z, "w": rng.uniform(0.5, 2, n)})


def _loglik(frame: pd.DataFrame, formula: str) -> float:
    return mme.lmer(formula, frame, weights="w", tol=1e-12).llf


REDUCED = {
    "y ~ x + (f + x | g)": {"f in (f + x | g)": "(x | g)", "x in (f + x | g)": "(f | g)"},
    "y ~ x + (x * z | g)": {"x:z in (x + z + x:z | g)": "(x + z | g)"},
    "y ~ x + (f | g)": {"f in (f | g)": "(1 | g)"},
    "y ~ x + (0 + f | g)": {"f in (0 + f | g)": "(1 | g)"},
    "y ~ x + (0 + f + x | g)": {"f in (0 + f + x | g)": "(0 + x | g)", "x in (0 + f + x | g)": "(0 + f | g)"},
    "y ~ x + (x || g)": {"(1 | g)": "(0 + x | g)", "(0 + x | g)": "(1 | g)"},
    "y ~ x + (0 + x | g) + (1 | f)": {"(0 + x | g)": "(1 | f)", "(1 | f)": "(0 + x | g)"},
}


@pytest.mark.parametrize("formula", list(REDUCED))
def test_what_is_left(formula):
    """Each row is the fit of the formula that its name stands for."""
    frame = _frame()
    table = mme.lmer(formula, frame, weights="w").ranova()
    assert sorted(table.index[1:]) == sorted(REDUCED[formula])
    for row, bars in REDUCED[formula].items():
        assert table.logLik[row] == pytest.approx(_loglik(frame, f"y ~ x + {bars}"), abs=1e-6), row
    assert np.all(table.p_boundary[1:] <= table.p[1:] * (1 + 1e-9))


def test_interaction_is_not_left_without_its_parts():
    table = mme.lmer("y ~ x + (x * z | g)", _frame()).ranova()
    assert list(table.index) == ["<none>", "x:z in (x + z + x:z | g)"]
    assert table.attrs["mixtures"]["x:z in (x + z + x:z | g)"] == "0.5 chi2(3) + 0.5 chi2(4)"


def test_independent_columns_go_one_by_one():
    frame = _frame()
    columns = np.column_stack([np.ones(len(frame)), frame.x])
    term = RandomTerm("g", frame.g.to_numpy(), 25, columns, "diagonal", column_names=("(Intercept)", "x"))
    result = mme.lmer("y ~ x + (x || g)", frame)
    model = mme.MixedLM.from_formula("y ~ x", frame, groups="g", re_formula="~x").fit()
    fit = fit_design(replace(result.fit.design, terms=(term,)))
    labels = replace(
        model.fitted.labels, terms=(replace(model.fitted.labels.terms[0], structure=term.structure),)
    )
    table = ranova_table(Fitted.of(fit, labels))
    assert list(table.index) == ["<none>", "1 in (x || g)", "x in (x || g)"]
    np.testing.assert_allclose(table.logLik[1:], result.ranova().logLik[["(1 | g)", "(0 + x | g)"]])


def _labelled(fit) -> Fitted:
    terms = tuple(
        TermLabels(t.name, ("(Intercept)", *map(str, range(1, t.k))), t.n_levels, t.structure)
        for t in fit.design.terms
    )
    return Fitted.of(fit, Labels("y", tuple(f"x{j}" for j in range(fit.design.p)), terms))


@pytest.mark.parametrize("reduce_terms", [True, False])
@pytest.mark.parametrize("name", list(problems.PROBLEMS))
def test_every_design(name, reduce_terms):
    """A reduced model's likelihood is the dense one of the whole design at its covariances."""
    fit = fit_design(problems.build(name), tol=1e-12)
    size, tests = random_effects_tests(_labelled(fit), reduce_terms)
    assert size == fit.p + sum(theta.size for theta in fit.theta) + 1
    assert tests
    for test in tests:
        lams = [factor_psd(D) for D in test.submodel.D]
        theta = [t.structure.theta(lam) for t, lam in zip(fit.design.terms, lams, strict=True)]
        dense = oracle.evaluate(fit.design, theta, True)
        assert test.submodel.loglik == pytest.approx(-0.5 * dense.deviance, abs=1e-6)
        assert test.submodel.sigma2 == pytest.approx(dense.sigma2, rel=1e-6)
        assert 0 <= test.p_boundary <= test.p + 4 * test.error
        assert test.df == size - test.submodel.n_params >= 1


# -- nothing left -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reml", [True, False])
def test_likelihood_without_random_terms(reml):
    frame = _frame()
    result = mme.lmer("y ~ x + z + (1 | g)", frame, reml=reml, weights="w")
    eq = result.fit.objective.eq
    beta, sigma2, deviance = without_random_terms(eq, reml)
    dense = oracle.evaluate(result.fit.design, [np.zeros(1)], reml)
    assert deviance == pytest.approx(dense.deviance, rel=1e-12)
    assert sigma2 == pytest.approx(dense.sigma2, rel=1e-12)
    np.testing.assert_allclose(beta, dense.beta, rtol=1e-10)


# -- at the boundary ----------------------------------------------------------------------------------------


def test_weights_of_two_variances():
    """Orthant of correlated estimates: the share of a quadrant, by the arc sine."""
    rng = np.random.default_rng(1)
    A = rng.normal(size=(3, 5))
    information = A @ A.T  # two variances and the residual's
    directions = [(0, np.eye(1)), (1, np.eye(1))]
    nulls = [NullSpace(0, np.eye(1)), NullSpace(1, np.eye(1))]
    mixture = cone_mixture(1, nulls, information, directions)
    covariance = np.linalg.inv(information)[:2, :2]
    draws = rng.multivariate_normal(np.zeros(2), covariance, 200_000)
    both = np.mean(np.all(draws > 0, axis=1))
    assert mixture.weights[2] == pytest.approx(both, abs=4 * np.sqrt(both / 200_000))
    assert mixture.weights[1] == 0.5
    assert np.sum(mixture.weights) == pytest.approx(1.0)
    expected = sum(w * stats.chi2.sf(3.0, 1 + j) for j, w in enumerate(mixture.weights))
    assert mixture.tail(3.0) == (pytest.approx(expected), 0.0)


@pytest.mark.parametrize("r", [3, 4])
def test_weights_of_independent_variances(r):
    """Binomial, from draws; their error is reported."""
    nulls = [NullSpace(t, np.eye(1)) for t in range(r)]
    directions = [(t, np.eye(1)) for t in range(r)]
    scale = np.r_[1.0, 1e8, 1e-6, 3.0][:r]
    mixture = cone_mixture(0, nulls, np.diag(np.r_[scale, 2.0]), directions)
    expected = stats.binom.pmf(np.arange(r + 1), r, 0.5)
    np.testing.assert_allclose(mixture.weights, expected, atol=4 * np.sqrt(0.25 / mixture.n))
    p, error = mixture.tail(4.0)
    exact = sum(w * stats.chi2.sf(4.0, j) for j, w in enumerate(expected) if j)
    assert 0 < error < 2e-3
    assert p == pytest.approx(exact, abs=4 * error)


def test_cone_of_covariances():
    """Positive parts of the eigenvalues where the metric is that of the entries; any units."""
    units = np.diag([1.0, 1e3])
    basis = [(0, np.diag([1.0, 0])), (0, np.array([[0.0, 1], [1, 0]])), (0, np.diag([0.0, 1]))]
    plain = np.diag([1.0, 2.0, 1.0])
    turn = np.array([[(units @ E @ units)[a, b] for a, b in ((0, 0), (1, 0), (1, 1))] for _, E in basis]).T
    information = np.zeros((4, 4))
    information[:3, :3], information[3, 3] = turn.T @ plain @ turn, 1.0
    mixture = cone_mixture(2, [NullSpace(0, np.eye(2))], information, basis)
    rng = np.random.default_rng(3)
    S = np.zeros((100_000, 2, 2))
    S[:, 0, 0], S[:, 1, 1] = rng.normal(size=(2, 100_000))
    S[:, 0, 1] = S[:, 1, 0] = rng.normal(size=100_000) * np.sqrt(0.5)
    lengths = np.sum(np.maximum(np.linalg.eigvalsh(S), 0.0) ** 2, axis=1)
    for x in (2.0, 6.0, 15.0):
        p, error = mixture.tail(x)
        tails = stats.chi2.sf(x - lengths, 2)
        assert error < 0.01 * p
        assert p == pytest.approx(np.mean(tails), abs=4 * np.hypot(error, np.std(tails) / np.sqrt(1e5)))
    assert mixture.tail(0.0) == (1.0, 0.0)


def test_factor_of_three_levels_is_a_cone():
    """Two variances and what covaries: between the chi-squares of the free and of all parameters."""
    table = mme.lmer("y ~ x + (f | g)", _frame(4)).ranova()
    row = table.loc["f in (f | g)"]
    assert table.attrs["mixtures"]["f in (f | g)"] == "chi2(2) + cone of covariances (20000 draws)"
    assert row.Df == 5
    assert stats.chi2.sf(row.LRT, 2) < row.p_boundary < row.p
    assert 0 < table.attrs["errors"]["f in (f | g)"] < 0.02 * row.p_boundary


@pytest.mark.slow
def test_mixture_of_a_factor_in_simulated_data():
    """The tail of the mixture at its 10 % point is that of likelihood ratios of simulated responses."""
    rng = np.random.default_rng(5)
    q, per = 150, 12
    g = np.repeat(np.arange(q), per)
    f = np.tile(np.arange(3), q * per // 3)
    frame = pd.DataFrame({"g": g, "f": np.array(list("abc"))[f], "y": rng.normal(size=q * per)})
    full = mme.lmer("y ~ f + (f | g)", frame)
    small = mme.lmer("y ~ f + (1 | g)", frame)
    D = [np.diag([1.0, 0.0, 0.0])]
    mixture = null_mixture(full.fitted, D, 1.0, D, 1, "a test")
    at = stats.chi2.ppf(0.9, 3)
    lrt = []
    for _ in range(300):
        y = rng.normal(size=q)[g] + rng.normal(size=q * per)
        both = []
        for result in (full, small):
            design = replace(result.fit.design, y=y)
            both.append(fit_design(design, equations=respond(design, result.fit.objective.eq)).loglik)
        lrt.append(2 * (both[0] - both[1]))
    expected, _ = mixture.tail(at)
    assert np.mean(np.array(lrt) > at) == pytest.approx(expected, abs=3 * np.sqrt(expected / 300))


def test_variance_of_zero():
    """Nothing is gained, whatever the rounding of the two searches: the point at zero counts."""
    table = mme.lmer("Yield ~ 1 + (1 | Batch)", load_data("Dyestuff2")).ranova()
    assert table.LRT.iloc[1] == pytest.approx(0.0, abs=1e-7)
    assert table.p_boundary.iloc[1] == 1.0
    assert cone_mixture(0, [NullSpace(0, np.eye(1))]).tail(0.0) == (1.0, 0.0)
    assert (
        mme.lmer("attain ~ sex + verbal + (1 | primary) + (1 | second)", load_data("ub_scotssec"))
        .ranova()["p_boundary"]
        .iloc[2]
        == 1.0
    )


# -- refusals -----------------------------------------------------------------------------------------------


def test_refusals(sleepstudy):
    iterative = mme.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy, solver="iterative", seed=1)
    with pytest.raises(InferenceError, match="iterative fit has a Monte Carlo error"):
        iterative.ranova()
    model = mme.MixedLM.from_formula("Reaction ~ Days", sleepstudy, groups="Subject")
    penalized = model.fit_regularized(alpha=0.1)
    with pytest.raises(InferenceError, match="this fit has penalties"):
        penalized.ranova()
    result = model.fit()
    result.remove_data()
    with pytest.raises(InferenceError, match="data were removed"):
        result.ranova()
