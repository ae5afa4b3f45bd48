"""Tests of one variance: RLRsim's p, F of balanced data, dense spectra, simulated fits, names, refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import oracle
import pandas as pd
import problems
import pytest
from scipy import optimize, stats
from support import HERE, load_data, mark_slow

import mme
from mme.engine.equations.equations import build_equations
from mme.engine.equations.layout import layout_of
from mme.engine.equations.respond import respond
from mme.exceptions import InferenceError, MemoryEstimateError, OptionError
from mme.fit import fit_design
from mme.inference import rlrt
from mme.inference.random_terms import without_random_terms
from mme.inference.rlrt import simulate, spectrum

with open(HERE / "reference" / "rlrt.json") as file:
    RLRSIM = json.load(file)["models"]
_DRAWS = 200_000  # of the reference: its p are multiples of 1 / 200,000


@pytest.mark.parametrize("name", list(RLRSIM))
def test_p_of_rlrsim(name):
    model = RLRSIM[name]
    result = mme.lmer(model["formula_r"].replace("factor(", "C("), load_data(model["data"]))
    got = result.test_variance(nsim=200_000, seed=5).iloc[0]
    assert got.statistic == pytest.approx(model["statistic"], rel=1e-6)
    errors = np.hypot(got.error, np.sqrt(model["p"] * (1 - model["p"]) / _DRAWS))
    assert abs(got.p - model["p"]) <= 4 * errors
    assert (got.p == 0) == (model["p"] == 0)


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
def test_balanced_data_have_the_p_of_the_f_test(reml):
    """Where all eigenvalues are one, the likelihood ratio is a function of F."""
    data = load_data("Dyestuff")
    result = mme.lmer("Yield ~ 1 + (1 | Batch)", data, reml=reml)
    groups = [group.to_numpy() for _, group in data.Yield.groupby(data.Batch)]
    exact = stats.f_oneway(*groups).pvalue
    got = result.test_variance("Batch", nsim=400_000, seed=1)
    assert got.index[0] == "(1 | Batch)"
    assert got.p.iloc[0] == pytest.approx(exact, abs=4 * got.error.iloc[0])
    assert got.error.iloc[0] == pytest.approx(np.sqrt(exact * (1 - exact) / 400_000), rel=0.1)
    other = mme.MixedLM.from_formula("Yield ~ 1", data, groups="Batch").fit(reml=reml)
    pd.testing.assert_frame_equal(other.test_variance(nsim=400_000, seed=1), got, rtol=1e-4)
    again = result.test_variance(nsim=400_000, seed=2)
    assert again.p.iloc[0] != got.p.iloc[0]
    assert again.attrs == {"method": "rlrt", "seed": 2, "notes": ()}


# the exact test is refused where levels are related
UNRELATED = [n for n in problems.PROBLEMS if all(t.relation is None for t in problems.build(n).terms)]


# -- the spectrum -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNRELATED)
def test_spectrum_of_every_design(name):
    """Of every column of every term: eigenvalues of Z'P Z and Z'W Z but for the unit of the column."""
    design = problems.build(name)
    eq = build_equations(design, layout_of(design))
    weights = np.ones(design.n) if design.weights is None else design.weights
    Q = np.linalg.qr(np.sqrt(weights)[:, None] * design.X)[0]
    for t, term in enumerate(design.terms):
        Z = oracle.dense_z(term, design.n) * np.sqrt(weights)[:, None, None]
        basis = eq.term_basis(t)
        Z = Z @ np.linalg.inv(basis)
        for c in range(term.k):
            z = Z[:, :, c]
            got = spectrum(eq, t, c, term.name)
            mu = np.linalg.eigvalsh(z.T @ z - (z.T @ Q) @ (Q.T @ z))
            xi = np.linalg.eigvalsh(z.T @ z)
            for values, times, expected in ((got.mu, got.mu_times, mu), (got.xi, got.xi_times, xi)):
                expected = expected[expected > 1e-10 * xi[-1]]
                assert np.sum(times) == expected.size
                np.testing.assert_allclose(np.repeat(values, times), expected, rtol=1e-6, atol=1e-9 * xi[-1])
            assert got.rest == design.n - Q.shape[1] - int(np.sum(got.mu_times))


def test_levels_of_equal_size_are_one_eigenvalue():
    """10,000 levels of three sizes: order nine, not 10,000."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 5, 10_000)
    codes = np.repeat(np.arange(10_000, dtype=np.int32), sizes)
    n = codes.size
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    design = problems._design(rng, [problems._grouped(rng, "g", codes)], n, X=X)
    got = spectrum(build_equations(design, layout_of(design)), 0, 0, "g")
    assert got.mu.size <= 3 + 9
    # one combination is the intercept's
    assert int(np.sum(got.mu_times)) == 9_999
    traces = np.sum(sizes) - np.sum(
        (np.add.reduceat(np.linalg.qr(X)[0], np.r_[0, np.cumsum(sizes)[:-1]])) ** 2
    )
    assert got.mu @ got.mu_times == pytest.approx(traces, rel=1e-10)


@pytest.mark.parametrize("reml", [True, False])
def test_supremum_over_the_grid(reml):
    """The parabola's top against a search for every draw."""
    design = problems.build("scalar")
    got = spectrum(build_equations(design, layout_of(design)), 0, 0, "g")
    draws = simulate(got, reml, 300, 4)
    rng = np.random.default_rng(4)
    w2 = rng.chisquare(got.mu_times, (300, got.mu.size))
    rest = rng.chisquare(got.rest, 300)
    nu = got.n - got.p if reml else got.n
    values, times = (got.mu, got.mu_times) if reml else (got.xi, got.xi_times)

    def negative(log_lam: float, i: int) -> float:
        lam = np.exp(log_lam)
        D = np.sum(w2[i] / (1 + lam * got.mu)) + rest[i]
        return -nu * np.log((w2[i].sum() + rest[i]) / D) + times @ np.log1p(lam * values)

    for i in range(300):
        starts = np.linspace(-15, 10, 40)
        best = starts[np.argmin([negative(s, i) for s in starts])]
        found = optimize.minimize_scalar(
            negative, args=(i,), bounds=(best - 0.7, best + 0.7), method="bounded", options={"xatol": 1e-8}
        )
        assert draws[i] == pytest.approx(max(-found.fun, 0.0), abs=2e-4)


@pytest.mark.parametrize("reml", mark_slow([True, False], lambda reml: not reml), ids=["reml", "ml"])
def test_distribution_of_fits_to_simulated_data(reml):
    """Unbalanced, weighted, with a covariate: fits under the hypothesis have the drawn distribution."""
    rng = np.random.default_rng(8)
    design = problems.build("weighted_scalar")
    eq = build_equations(design, layout_of(design))
    null = simulate(spectrum(eq, 0, 0, "g"), reml, 20_000, 0)
    scale = 1.0 if design.weights is None else design.weights**-0.5
    lrt = []
    for _ in range(400):
        y = scale * rng.normal(size=design.n)
        here = replace(design, y=y, offset=None)
        own = respond(here, eq)
        fit = fit_design(here, reml=reml, equations=own)
        lrt.append(max(2 * fit.loglik + without_random_terms(own, reml)[2], 0.0))
    lrt = np.array(lrt)
    for at in np.quantile(null, [0.7, 0.8, 0.9, 0.95]):
        expected = np.mean(null > at)
        assert np.mean(lrt > at) == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / 400))
    zero = np.mean(null < 1e-6)
    assert np.mean(lrt < 1e-6) == pytest.approx(zero, abs=3 * np.sqrt(zero * (1 - zero) / 400))


# -- several terms, other methods ---------------------------------------------------------------------------


def test_other_random_effects_are_taken_as_known():
    """The null distribution of each term alone; the statistic of the two fits (Greven et al.)."""
    data = load_data("Pastes")
    result = mme.lmer("strength ~ 1 + (1 | batch / cask)", data)
    table = result.ranova()
    for name in ("(1 | cask:batch)", "(1 | batch)"):
        got = result.test_variance(name, nsim=50_000)
        assert got.statistic.iloc[0] == pytest.approx(table.LRT[name], abs=1e-8)
        assert "Greven" in got.attrs["notes"][0]
    alone = mme.lmer("strength ~ 1 + (1 | batch)", data)
    null = simulate(spectrum(alone.fit.objective.eq, 0, 0, "batch"), True, 50_000, 0)
    assert got.p.iloc[0] == pytest.approx(
        np.mean(null >= table.LRT["(1 | batch)"]), abs=4 * got.error.iloc[0]
    )


def test_uncorrelated_slope(sleepstudy):
    result = mme.lmer("Reaction ~ Days + (Days || Subject)", sleepstudy)
    labels = [term.group for term in result.fitted.labels.terms]
    slope = result.test_variance("(0 + Days | Subject)")
    assert slope.p.iloc[0] == 0.0
    assert slope.error.iloc[0] == pytest.approx(1e-4)
    assert "None of 10000 draws" in slope.attrs["notes"][-1]
    assert labels == ["Subject", "Subject.1"]
    pd.testing.assert_frame_equal(result.test_variance("Subject.1"), slope)
    with pytest.raises(OptionError, match=r"could be any of '\(1 \| Subject\)', '\(0 \+ Days \| Subject\)'"):
        result.test_variance("Subject")


def test_mixture_is_that_of_ranova(sleepstudy):
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy)
    table = result.ranova()
    name = "Days in (Days | Subject)"
    got = result.test_variance(name, method="mixture")
    assert got.p.iloc[0] == table.p_boundary[name]
    assert got.attrs["notes"] == ("Large samples: 0.5 chi2(1) + 0.5 chi2(2).",)
    whole = result.test_variance("(Days | Subject)", method="mixture")
    assert whole.statistic.iloc[0] == pytest.approx(result.ranova(reduce_terms=False).LRT.iloc[1], abs=1e-8)


@pytest.mark.parametrize("reml", mark_slow([True, False], lambda reml: not reml), ids=["reml", "ml"])
def test_bootstrap(reml):
    """Of one variance the p of the exact distribution; of several terms and parameters a number as well."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {"g": np.repeat(np.arange(8), 6), "x": rng.normal(size=48), "h": np.tile([0, 1, 2], 16)}
    )
    frame["y"] = 0.6 * rng.normal(size=8)[frame.g] + rng.normal(size=48)
    result = mme.lmer("y ~ x + (1 | g)", frame, reml=reml, weights=rng.uniform(0.5, 2, 48))
    exact = result.test_variance(nsim=100_000).iloc[0]
    got = result.test_variance(method="bootstrap", nsim=300, seed=2).iloc[0]
    assert 0.01 < exact.p < 0.9
    assert got.p == pytest.approx(exact.p, abs=4 * got.error)
    assert got.statistic == exact.statistic
    two = mme.lmer("y ~ x + offset(x) + (x | g) + (1 | h)", frame, reml=reml)
    slope = two.test_variance("x in (x | g)", method="bootstrap", nsim=20)
    assert 1 / 21 <= slope.p.iloc[0] <= 1
    pd.testing.assert_frame_equal(slope, two.test_variance("x in (x | g)", method="bootstrap", nsim=20))


def test_a_bootstrap_makes_the_equations_once_and_counts_what_cannot_be_fitted(monkeypatch):
    """The numbers of a seed are those of fits from the beginning to each response."""
    from mme.exceptions import ConvergenceError
    from mme.fit import refit
    from mme.inference import variance_tests

    for formula, term, p in (
        ("score ~ Machine + (1 | Worker) + (1 | Worker:Machine)", "(1 | Worker)", 2 / 41),
        ("score ~ Machine + (1 | Worker)", None, 1 / 41),
    ):
        result = mme.lmer(formula, load_data("Machines"))
        assert result.test_variance(term, method="bootstrap", nsim=40, seed=4).p.iloc[0] == p
    fit, calls = refit.Refits.fit, []

    def failing(self, y):
        calls.append(y)
        if len(calls) in (3, 5):
            raise ConvergenceError("no")
        return fit(self, y)

    monkeypatch.setattr(variance_tests.Refits, "fit", failing)
    got = result.test_variance(method="bootstrap", nsim=40, seed=4)
    assert got.nsim.iloc[0] == 38 and got.p.iloc[0] == 1 / 39
    assert (
        "2 of 40 responses could not be fitted and are left out (ConvergenceError: 2)." in got.attrs["notes"]
    )

    def never(self, y):
        raise ConvergenceError("no")

    monkeypatch.setattr(variance_tests.Refits, "fit", never)
    with pytest.raises(InferenceError, match=r"of 40 simulated responses only 0 could be fitted \(Converg"):
        result.test_variance(method="bootstrap", nsim=40, seed=4)


def test_zero_variance_has_p_one():
    result = mme.lmer("Yield ~ 1 + (1 | Batch)", load_data("Dyestuff2"))
    for method in ("rlrt", "bootstrap"):
        got = result.test_variance(method=method, nsim=20).iloc[0]
        assert (got.statistic, got.p, got.error) == (pytest.approx(0, abs=1e-6), 1.0, 0.0)
    assert result.test_variance(method="mixture").p.iloc[0] == 1.0


# -- refusals -----------------------------------------------------------------------------------------------


def test_what_is_misspelt(sleepstudy):
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy)
    one = mme.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy)
    for call, match in (
        (lambda: result.test_variance(), "one of 'Days in"),
        (lambda: result.test_variance("Subject"), "could be any of 'Days in"),
        (lambda: one.test_variance("Subjekt"), "no random effects 'Subjekt'. Did you mean 'Subject'"),
        (lambda: one.test_variance(3), "must be the name"),
        (lambda: one.test_variance(method="rltr"), "Did you mean 'rlrt'"),
        (lambda: one.test_variance(nsim=0), "nsim must be an integer and at least 1"),
        (lambda: one.test_variance(seed=-1), "seed must be"),
        (lambda: one.test_variance(method="mixture", nsim=10), "no use"),
    ):
        with pytest.raises(OptionError, match=match):
            call()
    with pytest.raises(InferenceError, match=r"tests 2 parameters together.*bootstrap"):
        result.test_variance("Days in (Days | Subject)")
    iterative = mme.lmer("Reaction ~ Days + (1 | Subject)", sleepstudy, solver="iterative", seed=1)
    for method in ("rlrt", "mixture", "bootstrap"):
        with pytest.raises(InferenceError, match="iterative fit has a Monte Carlo error"):
            iterative.test_variance(method=method)


def test_spectrum_beyond_memory(sleepstudy, monkeypatch):
    result = mme.lmer(
        "Reaction ~ Days + (0 + Days | Subject)", sleepstudy.assign(Days=lambda d: d.Days + d.Subject / 1e3)
    )
    monkeypatch.setattr(rlrt, "_SMALL", 0.0)
    monkeypatch.setattr(rlrt, "available_memory", lambda: 1e3)
    with pytest.raises(
        MemoryEstimateError, match=r"spectrum of '\(0 \+ Days \| Subject\)' needs dense matrices of order 18"
    ):
        result.test_variance()


def test_effects_that_the_fixed_part_takes():
    """A factor that is fixed as well: nothing is left for its random effects."""
    data = load_data("Dyestuff")
    design = mme.lmer("Yield ~ 1 + (1 | Batch)", data).fit.design
    X = np.eye(6)[design.terms[0].codes]
    fixed = replace(design, X=X, x_names=())
    with pytest.raises(InferenceError, match="take all that the random effects"):
        spectrum(build_equations(fixed, layout_of(fixed)), 0, 0, "Batch")
