"""Every structure through every feature: what works, and what is refused by name.

docs/structures.md has the table; a feature that is not here is not known to work.
"""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import mme
from mme.engine.covariance.factors import factor_psd
from mme.engine.covariance.structure import PATTERNS
from mme.engine.search.curve import Curve
from mme.engine.search.curved import minimise_curved
from mme.exceptions import InferenceError, OptionError
from mme.inference.parameters import estimates as estimates_of
from mme.inference.variances import variance_covariance

STRUCTURES = {
    "us": "us(0 + C(t) | g)",
    "diag": "diag(0 + C(t) | g)",
    "homdiag": "homdiag(0 + C(t) | g)",
    "cs": "cs(0 + C(t) | g)",
    "homcs": "homcs(0 + C(t) | g)",
    "ar1": "ar1(0 + C(t) | g)",
    "hetar1": "hetar1(0 + C(t) | g)",
    "toep": "toep(0 + C(t) | g)",
    "homtoep": "homtoep(0 + C(t) | g)",
    "rr": "rr(0 + C(t) | g, 2)",
}
CURVED = tuple(name for name in STRUCTURES if name not in ("us", "diag"))
K = 4


@pytest.fixture(scope="package")
def fits(data):
    return {
        name: mme.lmer(f"y ~ x + {term} + (1 | h)", data.assign(y=data["y"] + 0.7 * (data["h"] - 2.5)))
        for name, term in STRUCTURES.items()
    }


@pytest.fixture(params=STRUCTURES)
def fit(request, fits):
    return fits[request.param]


@pytest.fixture(params=CURVED)
def curved(request, fits):
    return fits[request.param]


def _structure(fit):
    term = next(t for t in fit.fit.design.terms if t.k == K)
    return term.structure, [t is term for t in fit.fit.design.terms].index(True)


def _is_of(structure, lam):
    """Whether a covariance is one of the structure."""
    if not structure.curved:
        return True
    D = lam @ lam.T
    again = structure.covariance(structure.coordinates(D), len(D)).value
    return np.allclose(again, D, atol=1e-7 * np.abs(D).max())


def _word(structure):
    """As a bar of a formula begins."""
    return structure.name.partition("(")[0] + "("


def _parameters(fit):
    structure, _ = _structure(fit)
    return structure.n_parameters(K)


# -- what works -----------------------------------------------------------------------------------


def test_fit(fit):
    structure, t = _structure(fit)
    assert fit.converged
    assert not fit.is_singular
    assert _is_of(structure, fit.fit.lam[t])
    assert fit.n_params == 2 + _parameters(fit) + 1 + 1


def test_tables_of_variances(fit):
    structure, t = _structure(fit)
    table = fit.varcorr
    own = table[table["grp"] == "g"]
    assert len(own) == len(structure.shown(K))
    assert fit.bse_re.index.to_frame(index=False)["grp"].tolist() == table["grp"].tolist()
    assert (fit.bse_re > 0.0).all()
    T = fit.scale * fit.fit.lam[t] @ fit.fit.lam[t].T
    if structure.tied:
        tied = own[own["var1"] == "cor"]
        assert tied["vcov"].isna().all()
        np.testing.assert_allclose(
            tied["sdcor"], [T[a, 0] / np.sqrt(T[a, a] * T[0, 0]) for a in range(1, len(tied) + 1)]
        )
        assert tied["var2"].str.startswith(structure.name).all()
    for scale in ("sd", "var"):
        rows = fit.variance_table(scale=scale)
        assert len(rows) == len(table)
        assert (rows["lower"] < rows["estimate"]).all()
        assert (rows["estimate"] < rows["upper"]).all()


def test_standard_errors_are_those_of_differences(curved):
    """Twice the inverse Hessian of the deviance in (parameters, sigma2) is their covariance."""
    structure, t = _structure(curved)
    design, objective = curved.fit.design, curved.fit.objective
    lams = list(curved.fit.lam)
    x = structure.coordinates(lams[t] @ lams[t].T)
    other = 1 - t
    d = lams[other][0, 0] ** 2
    s2, nu = curved.scale, curved.fit.nu

    def deviance(p):
        parts = [None, None]
        values = structure.covariance(p[: x.size], K).value
        w, V = np.linalg.eigh(values)
        parts[t] = factor_psd((V * np.maximum(w, 0.0)) @ V.T)
        parts[other] = np.sqrt(p[x.size : x.size + 1].reshape(1, 1))
        theta = np.concatenate([s.structure.theta(lam) for s, lam in zip(design.terms, parts, strict=True)])
        here = objective.evaluate(theta)
        share = here.sigma2 / p[-1]
        return here.deviance + nu * (share - 1.0 - np.log(share))

    p = np.r_[x, d, s2]
    m = p.size
    h = 2e-4 * np.maximum(np.abs(p), 0.1)
    E = np.diag(h)
    H = np.array(
        [
            [
                (deviance(p + a + b) - deviance(p + a - b) - deviance(p - a + b) + deviance(p - a - b))
                / (4.0 * a.sum() * b.sum())
                for b in E
            ]
            for a in E
        ]
    )
    covariance = 2.0 * np.linalg.inv(H)
    # to sigma2 D
    jet = structure.covariance(x, K)
    diagonal = np.array([jet.first[:, a, a] for a, b in structure.shown(K) if a == b])
    G = np.zeros((len(diagonal), m))
    G[:, : x.size] = s2 * diagonal
    G[:, -1] = [jet.value[a, a] for a, b in structure.shown(K) if a == b]
    expected = np.sqrt(np.diag(G @ covariance @ G.T))
    ours = curved.bse_re[curved.bse_re.index.get_level_values("grp") == "g"].to_numpy()
    np.testing.assert_allclose(ours[: len(expected)], expected, rtol=2e-3)
    if structure.tied and "cor" in structure.kinds(K):
        first = structure.kinds(K).index("cor")
        np.testing.assert_allclose(ours[len(expected)], np.sqrt(covariance[first, first]), rtol=2e-3)
    np.testing.assert_allclose(curved.bse_re.iloc[-1], np.sqrt(covariance[-1, -1]), rtol=2e-3)


def test_satterthwaite_are_those_of_differences(curved):
    """df = 2 c^2 / g'A g with the gradient of a variance taken by refitting at moved parameters."""
    design, objective, lams = curved.fit.design, curved.fit.objective, curved.fit.lam
    estimated = variance_covariance(curved.fitted)

    def variance(T, s2):
        parts = [factor_psd(M / s2) for M in T]
        theta = np.concatenate([s.structure.theta(lam) for s, lam in zip(design.terms, parts, strict=True)])
        solution = objective.solution(theta)
        return np.diag(solution["vcov"]) * s2 / solution["sigma2"]

    # along the covariances of the structure: directions of the estimate's own covariance
    s2 = curved.scale
    T0 = [s2 * lam @ lam.T for lam in lams]
    places = [range(0), range(0)]
    start = 0
    for i, term in enumerate(design.terms):
        size = len(term.structure.entries(term.k))
        places[i] = range(start, start + size)
        start += size
    w, V = np.linalg.eigh(estimated.covariance)
    keep = w > 1e-10 * w[-1]
    total = np.zeros(2)
    for value, v in zip(w[keep], V[:, keep].T, strict=True):
        h = 1e-3 * np.sqrt(value)
        ends = []
        for sign in (1.0, -1.0):
            T = []
            for i, term in enumerate(design.terms):
                M = T0[i].copy()
                for (a, b), j in zip(term.structure.entries(term.k), places[i], strict=True):
                    M[a, b] += sign * h * v[j]
                    M[b, a] = M[a, b]
                T.append(M)
            ends.append(variance(T, s2 + sign * h * v[-1]))
        g = (ends[0] - ends[1]) / (2.0 * h)
        total += value * g * g
    c = curved.bse_fe.to_numpy() ** 2
    np.testing.assert_allclose(curved.coef_table()["df"], 2.0 * c * c / total, rtol=5e-3)


def test_kenward_roger(fit):
    table = fit.coef_table(ddf="kenward-roger")
    assert (table["df"] > 1.0).all()
    assert (table["se"] >= 0.999 * fit.bse_fe).all()


def test_anova_tidy_summary(fit):
    assert fit.anova().loc["x", "DenDF"] == pytest.approx(fit.coef_table().loc["x", "df"], rel=1e-6)
    tidied = fit.tidy()
    assert (tidied["effect"] == "ran_pars").sum() == len(fit.varcorr)
    assert fit.glance()["df.residual"].iloc[0] == fit.df_resid
    structure, _ = _structure(fit)
    text = str(fit.summary())
    if structure.tied:
        assert structure.name in text
    assert f"Parameters:   {fit.n_params}" in text


PROFILED = {
    "homdiag": ["sd_homdiag|g"],
    "cs": ["sd_C(t)[0]|g", "cor_cs|g"],
    "homcs": ["sd_homcs|g", "cor_homcs|g"],
    "ar1": ["sd_ar1|g", "cor_ar1|g"],
    "hetar1": ["sd_C(t)[2]|g", "cor_hetar1|g"],
    "toep": ["sd_C(t)[1]|g", "cor_toep.1|g"],
    "homtoep": ["sd_homtoep|g", "cor_homtoep.1|g"],
}


@pytest.mark.parametrize("name", PROFILED)
def test_profile(name, fits):
    fit = fits[name]
    ends = fit.conf_int(method="profile", parm=[*PROFILED[name], "sd_(Intercept)|h", "sigma", "x"])
    estimates = estimates_of(fit.update(reml=False).fitted)
    for parameter, (low, high) in ends.iterrows():
        assert low < estimates[parameter] < high


def test_profile_of_an_interval_end_is_a_minimum_held(fits, data):
    """At the end of a correlation's interval the deviance has risen by the square of the quantile."""
    fit = fits["ar1"].update(reml=False)
    low = fit.conf_int(method="profile", parm="cor_ar1|g").iloc[0, 0]
    objective = fit.fit.objective
    _, t = _structure(fit)
    curve = Curve.of(objective.eq).hold(t, 1, low)
    found = minimise_curved(
        lambda theta, order: objective.evaluate(theta, order, standard=True),
        curve.coordinates(objective.eq.to_standard(fit.theta)),
        curve,
    )
    assert found.evaluation.deviance - fit.deviance == pytest.approx(1.959964**2, abs=1e-3)


def test_simulation_and_refit(fit):
    structure, t = _structure(fit)
    again = fit.refit(fit.model.model_design.design.y)
    assert again.llf == pytest.approx(fit.llf, abs=1e-6)
    other = fit.refit(fit.simulate(1, seed=4).iloc[:, 0])
    assert _is_of(structure, other.fit.lam[t])


@pytest.mark.slow
def test_bootstrap(fit):
    structure, _ = _structure(fit)
    draws = fit.bootstrap(n_boot=20, seed=3)
    assert draws.draws.shape == (20, len(fit.fe_params) + len(structure.shown(K)) + 2)
    assert len(fit.conf_int(method="boot", n_boot=20)) == draws.draws.shape[1]


def test_simulated_responses_have_the_covariance(fits):
    fit = fits["ar1"]
    _, t = _structure(fit)
    term = fit.fit.design.terms[t]
    draws = fit.simulate(4000, seed=1).to_numpy()
    T = fit.scale * fit.fit.lam[t] @ fit.fit.lam[t].T
    same = np.flatnonzero(term.codes == 0)
    at = [same[term.columns[same, c] == 1.0] for c in range(2)]
    first, second = draws[at[0][0]], draws[at[1][0]]
    h = fit.fit.design.terms[1 - t].codes
    shared = fit.scale * fit.fit.lam[1 - t][0, 0] ** 2 * (h[at[0][0]] == h[at[1][0]])
    size = np.sqrt(np.var(first) * np.var(second) / 4000)
    assert np.cov(first, second)[0, 1] == pytest.approx(T[0, 1] + shared, abs=5.0 * size)


def test_predictions_and_modes(fit, data):
    rows = data.head(7)
    np.testing.assert_allclose(fit.predict(rows), fit.fittedvalues.iloc[:7])
    prediction = fit.get_prediction(rows).summary_frame()
    assert (prediction["mean_se"] > 0.0).all()
    assert fit.random_effects["g"].shape == (14, K)
    modes = fit.ranef_table()
    assert len(modes) == 14 * K + 6


def test_conditional_modes_are_those_of_dense_formulas(curved):
    design, s = curved.fit.design, curved.fit
    Z, G = [], []
    for term, lam in zip(design.terms, s.lam, strict=True):
        columns = np.ones((design.n, 1)) if term.columns is None else term.columns
        z = np.zeros((design.n, term.n_levels, term.k))
        z[np.arange(design.n), term.codes] = columns
        Z.append(z.reshape(design.n, -1))
        G.append(np.kron(np.eye(term.n_levels), lam @ lam.T))
    V = np.eye(design.n) + sum(z @ g @ z.T for z, g in zip(Z, G, strict=True))
    e = np.linalg.solve(V, design.y - design.X @ s.beta)
    for z, g, u in zip(Z, G, s.u, strict=True):
        np.testing.assert_allclose(np.ravel(u), g @ z.T @ e, atol=1e-8)


def test_tests_of_random_terms(fit):
    structure, _ = _structure(fit)
    table = fit.ranova()
    assert (table["LRT"].iloc[1:] >= 0.0).all()
    if structure.curved:
        name = next(label for label in table.index if label.startswith(_word(structure)))
        assert table.loc[name, "Df"] == _parameters(fit)
        assert np.isnan(table.loc[name, "p_boundary"])
        assert "method='bootstrap'" in " ".join(table.attrs["notes"])
        drawn = fit.test_variance(name, method="bootstrap", nsim=5, seed=1)
        assert 0.0 < drawn["p"].iloc[0] <= 1.0
    assert fit.test_variance("(1 | h)", seed=1)["p"].iloc[0] <= 1.0


def test_comparisons(fits, data):
    y = data.assign(y=data["y"] + 0.7 * (data["h"] - 2.5))
    intercept = mme.lmer("y ~ x + (1 | g) + (1 | h)", y)
    for name in ("homcs", "cs", "ar1", "toep"):
        table = mme.compare(intercept, fits[name], refit=None)
        assert np.isfinite(table["p"].iloc[1]), name
        assert table["Df"].iloc[1] == fits[name].n_params - intercept.n_params
    assert np.isfinite(mme.compare(fits["ar1"], fits["toep"], refit=None)["p"].iloc[1])
    other = mme.compare(fits["homcs"], fits["hetar1"], refit=None)
    assert np.isnan(other["p"].iloc[1])
    assert "cannot be told to be nested" in " ".join(other.attrs["notes"])


def test_files_and_pickles(fit, tmp_path, data):
    assert pickle.loads(pickle.dumps(fit)).llf == fit.llf
    path = tmp_path / "fit.mme"
    fit.save(path)
    loaded = mme.load(path)
    structure, _ = _structure(fit)
    assert structure in [term.structure for term in loaded.fitted.labels.terms]
    np.testing.assert_allclose(loaded.varcorr["sdcor"], fit.varcorr["sdcor"])
    np.testing.assert_allclose(loaded.predict(data.head()), fit.predict(data.head()))
    assert loaded.aic == pytest.approx(fit.aic)


def test_influence_with_theta_held(fit):
    assert np.isfinite(fit.influence().frame["cooks"]).all()
    assert np.isfinite(fit.influence(by="g").frame["cooks_fixed"]).all()


def test_delta_and_update(fit):
    ratio = fit.delta(lambda p: p["sd_(Intercept)|h"] / p["sigma"])
    assert np.isfinite(np.asarray(ratio.select_dtypes("number"))).all()
    assert fit.update("~ . - x").n_params == fit.n_params - 1


def test_start_and_starts(curved):
    again = mme.fit.fit_design(curved.fit.design, theta0=curved.fit.theta)
    assert again.record.iterations <= 1
    assert again.loglik == pytest.approx(curved.llf, abs=1e-7)
    many = mme.fit.fit_design(curved.fit.design, starts=8)
    assert many.record.starts == 8
    assert many.loglik == pytest.approx(curved.llf, abs=1e-6)


@pytest.mark.parametrize("factorization", ["dense", "superlu"])
def test_factorizations(curved, factorization):
    fit = mme.fit.fit_design(curved.fit.design, solver=factorization)
    assert fit.loglik == pytest.approx(curved.llf, abs=1e-6)


# -- what is refused ------------------------------------------------------------------------------


def test_refused(curved):
    structure, _ = _structure(curved)
    name = next(label for label in curved.ranova().index if label.startswith(_word(structure)))
    with pytest.raises(InferenceError, match=r"not known beside a covariance structure.*method='bootstrap'"):
        curved.test_variance(name, method="mixture")
    with pytest.raises(InferenceError, match="the step of theta knows unstructured and diagonal"):
        _ = curved.influence(by="g").theta
    with pytest.raises(OptionError, match=r"solver='iterative' knows unstructured .* use solver='direct'"):
        mme.fit.fit_design(curved.fit.design, solver="iterative")


@pytest.mark.parametrize(("name", "parm"), [("toep", "cor_toep.2|g"), ("rr", "sd_C(t)[0]|g")])
def test_profiles_that_are_refused(fits, name, parm):
    with pytest.raises(InferenceError, match=r"has no profile: .* Use method='boot'"):
        fits[name].conf_int(method="profile", parm=parm)


def test_the_table_has_every_structure():
    assert set(PATTERNS) < set(STRUCTURES)
