"""lmer with known relationships: published values, levels without records, what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from animals import fitted, herd

import mme
from mme.exceptions import DataError, InferenceError, OptionError

# Mrode (2014), example 3.1: pre-weaning gains of five calves
MRODE = pd.DataFrame(
    {"animal": [4, 5, 6, 7, 8], "sex": ["m", "f", "f", "m", "m"], "gain": [4.5, 2.9, 3.9, 3.5, 5.0]}
)
CALVES = ([1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 1, 3, 1, 4, 3], [0, 0, 0, 0, 2, 2, 5, 6])


def dense(result, pedigree, data):
    """V over sigma2, Z and A of the animals, from the estimate."""
    A = pedigree.covariance().to_numpy()
    Z = np.eye(len(A))[pedigree.labels.get_indexer(data["animal"])]
    H = np.eye(9)[data["herd"]]
    a, h = (float(lam[0, 0]) ** 2 for lam in result.fit.lam)
    return np.eye(len(data)) + a * Z @ A @ Z.T + h * H @ H.T, Z, A, a


def test_published_animal_model():
    """Given a variance ratio of two: Mrode's example 3.1 to the digits of the book."""
    with pytest.warns(mme.exceptions.FlatLikelihoodWarning):
        result = mme.lmer(
            "gain ~ 0 + sex + (1 | animal)", MRODE, relationship={"animal": mme.Pedigree(*CALVES)}
        )
    at = result.fit.objective.solution(np.array([np.sqrt(0.5)]))
    np.testing.assert_allclose(at["beta"], [3.404, 4.358], atol=1e-3)
    np.testing.assert_allclose(
        at["u"][0].ravel(), [0.098, -0.019, -0.041, -0.009, -0.186, 0.177, -0.249, 0.183], atol=6e-4
    )


def test_estimates_modes_and_errors_against_dense_formulas():
    data, pedigree = herd()
    result = fitted()
    V, Z, A, a = dense(result, pedigree, data)
    X = np.column_stack([np.ones(len(data)), data["sex"]])
    y, s2 = data["y"].to_numpy(), result.scale
    C = X.T @ np.linalg.solve(V, X)
    b = np.linalg.solve(C, X.T @ np.linalg.solve(V, y))
    np.testing.assert_allclose(result.fe_params, b, rtol=1e-9)
    np.testing.assert_allclose(result.vcov_fe, s2 * np.linalg.inv(C), rtol=1e-8)
    Vi = np.linalg.inv(V)
    P = Vi - Vi @ X @ np.linalg.inv(C) @ X.T @ Vi
    u = a * A @ Z.T @ P @ y
    frame = result.random_effects["animal"]
    assert frame.index.tolist() == pedigree.labels.tolist()
    np.testing.assert_allclose(frame["(Intercept)"], u, rtol=1e-7, atol=1e-9)
    pev = np.diag(s2 * (a * A - a * A @ Z.T @ P @ Z @ A * a))
    se = np.sqrt(np.diag(s2 * (a * A - a * A @ Z.T @ Vi @ Z @ A * a)))
    table = result.ranef_table("animal")
    np.testing.assert_allclose(table["pev"], pev, rtol=1e-7)
    np.testing.assert_allclose(table["se"], se, rtol=1e-7)
    np.testing.assert_allclose(table["reliability"], 1.0 - pev / (s2 * a * np.diag(A)), rtol=1e-6, atol=1e-9)
    some = result.ranef_table("animal", levels=[3, 150])
    assert some["level"].tolist() == [3, 150]
    np.testing.assert_allclose(some["pev"], pev[[2, 149]], rtol=1e-7)
    # founders without records are predicted from their offspring
    assert np.abs(u[:30]).max() > 0.1 and 3 not in set(data["animal"])
    nu = len(data) - 2
    r2 = float(y @ P @ y)
    loglik = -0.5 * (
        np.linalg.slogdet(V)[1] + np.linalg.slogdet(C)[1] + nu * (1 + np.log(2 * np.pi * r2 / nu))
    )
    np.testing.assert_allclose(result.llf, loglik, rtol=1e-10)


def test_every_way_to_give_a_relationship_is_one_model():
    data, pedigree = herd()
    A = pedigree.covariance()
    order = np.random.default_rng(0).permutation(len(A))
    shuffled = A.iloc[order, order]
    expected = fitted()
    for known in (
        mme.Covariance(A),
        shuffled,
        mme.Precision(sp.csr_array(np.linalg.inv(shuffled.to_numpy())), shuffled.index),
        (np.asarray(A), pedigree.labels),
        (pedigree.precision, pedigree.labels),
    ):
        got = mme.lmer("y ~ sex + (1 | animal) + (1 | herd)", data, relationship={"animal": known})
        np.testing.assert_allclose(got.llf, expected.llf, rtol=0, atol=1e-7)
        np.testing.assert_allclose(got.varcorr["vcov"], expected.varcorr["vcov"], rtol=2e-4)
        both = got.random_effects["animal"].loc[pedigree.labels, "(Intercept)"]
        np.testing.assert_allclose(both, expected.random_effects["animal"]["(Intercept)"], atol=2e-4)


def test_an_identity_is_no_relationship():
    data, _ = herd()
    animals = np.unique(data["animal"])
    plain = mme.lmer("y ~ sex + (x | animal) + (1 | herd)", data)
    known = mme.Precision(sp.eye_array(animals.size), animals)
    related = mme.lmer("y ~ sex + (x | animal) + (1 | herd)", data, relationship={"animal": known})
    np.testing.assert_allclose(related.llf, plain.llf, rtol=0, atol=1e-7)
    np.testing.assert_allclose(related.coef_table()["df"], plain.coef_table()["df"], rtol=1e-3)


def test_permanent_environment_beside_the_same_animals():
    data, pedigree = herd()
    data["environment"] = data["animal"]
    result = mme.lmer("y ~ sex + (1 | animal) + (1 | environment)", data, relationship={"animal": pedigree})
    assert result.converged
    assert result.n_groups == {"animal": 160, "environment": 130}
    with pytest.raises(mme.exceptions.DesignError, match=r"same .* groups"):
        mme.lmer("y ~ sex + (1 | animal) + (1 | environment)", data)


def test_direct_and_maternal_effects_are_one_term():
    data, pedigree = herd(seed=9)
    formula = "y ~ sex + (1 | animal) + (1 | dam) + (1 | herd)"
    joint = mme.lmer(formula, data, relationship={("animal", "dam"): pedigree})
    apart = mme.lmer(formula, data, relationship={"animal": pedigree, "dam": pedigree})
    assert joint.varcorr["grp"].tolist() == ["animal + dam"] * 3 + ["herd", "Residual"]
    assert joint.varcorr["var1"].tolist()[:3] == ["animal", "dam", "animal"]
    assert joint.llf >= apart.llf - 1e-6
    # the same model by its definition
    A = pedigree.covariance().to_numpy()
    Z, M = (np.eye(160)[pedigree.labels.get_indexer(data[c])] for c in ("animal", "dam"))
    both = np.stack([Z, M], axis=2).reshape(len(data), -1)
    D = joint.fit.lam[0] @ joint.fit.lam[0].T
    H = np.eye(9)[data["herd"]]
    V = np.eye(len(data)) + both @ np.kron(A, D) @ both.T + float(joint.fit.lam[1][0, 0]) ** 2 * H @ H.T
    X, y = np.column_stack([np.ones(len(data)), data["sex"]]), data["y"].to_numpy()
    C = X.T @ np.linalg.solve(V, X)
    b = np.linalg.solve(C, X.T @ np.linalg.solve(V, y))
    np.testing.assert_allclose(joint.fe_params, b, rtol=1e-8)
    u = np.kron(A, D) @ both.T @ np.linalg.solve(V, y - X @ b)
    np.testing.assert_allclose(joint.random_effects["animal + dam"], u.reshape(-1, 2), rtol=1e-6, atol=1e-8)
    share = joint.heritability(effect="animal", method="delta")
    assert 0 < share["lower"].iloc[0] < share["estimate"].iloc[0] < share["upper"].iloc[0] < 1


def test_genetic_groups_move_animals():
    rng = np.random.default_rng(0)
    n = 200
    group = rng.integers(0, 2, n)
    sire = np.array(["", *["old", "new"]], dtype=object)[1 + group]
    pedigree = mme.Pedigree(
        [f"a{i}" for i in range(n)],
        sire,
        sire,
        groups=["old", "new"],
        group_variance=10.0,
        hermaphrodites=True,
    )
    data = pd.DataFrame({"animal": [f"a{i}" for i in range(n)] * 2, "y": np.tile(3.0 * group, 2)})
    data["y"] += np.tile(rng.normal(size=n), 2) + 0.5 * rng.normal(size=2 * n)
    effects = mme.lmer("y ~ (1 | animal)", data, relationship={"animal": pedigree}).random_effects["animal"]
    assert effects.loc["new", "(Intercept)"] - effects.loc["old", "(Intercept)"] > 2.5


def test_random_walk_does_not_depend_on_its_anchor():
    """REML of an intrinsic field, the intercept being there."""
    rng = np.random.default_rng(3)
    week = np.repeat(np.arange(30), 4)
    data = pd.DataFrame({"week": week, "y": np.cumsum(rng.normal(size=30))[week] + rng.normal(size=120)})
    walk = mme.rw1(range(30))
    fits = []
    for factor in (1.0, 25.0):
        Q = walk.precision.toarray()
        Q[0, 0] += factor - 1.0
        known = mme.Precision(Q, range(30))
        fits.append((mme.lmer("y ~ 1 + (1 | week)", data, relationship={"week": known}), factor))
    (a, _), (b, _) = fits
    np.testing.assert_allclose(a.varcorr["vcov"], b.varcorr["vcov"], rtol=1e-4)
    np.testing.assert_allclose(a.fittedvalues, b.fittedvalues, atol=1e-4)
    np.testing.assert_allclose(a.llf, b.llf, rtol=0, atol=1e-6)
    reversed_walk = mme.rw1(range(29, -1, -1))
    other = mme.lmer("y ~ 1 + (1 | week)", data, relationship={"week": reversed_walk})
    np.testing.assert_allclose(other.llf, a.llf, rtol=0, atol=1e-6)
    np.testing.assert_allclose(other.fittedvalues, a.fittedvalues, atol=1e-4)


def test_what_is_refused():
    data, pedigree = herd()
    formula = "y ~ sex + (1 | animal) + (1 | herd)"

    def fit(relationship, **options):
        return mme.lmer(formula, data, relationship=relationship, **options)

    with pytest.raises(OptionError, match=r"no grouping factor 'anmal'.*animal, herd"):
        fit({"anmal": pedigree})
    with pytest.raises(OptionError, match="must be a mapping"):
        fit(pedigree)
    with pytest.raises(OptionError, match="needs the labels of its rows"):
        fit({"animal": pedigree.precision})
    with pytest.raises(OptionError, match=r"must be a mme\.Pedigree.*not list"):
        fit({"animal": [1, 2]})
    with pytest.raises(
        DataError, match=r"levels of 'animal' are not in its relationship: 51, 52, 53, 54, 55 and"
    ):
        fit({"animal": mme.Precision(sp.eye_array(50), range(1, 51))})
    with pytest.raises(DataError, match=r"levels are int64, those of the relationship (object|str)"):
        fit({"animal": mme.Precision(sp.eye_array(160), [str(i) for i in range(1, 161)])})
    with pytest.raises(OptionError, match="more than once"):
        fit({"animal": pedigree, ("animal",): pedigree})
    with pytest.raises(OptionError, match="one frame"):
        mme.lmer(formula, chunks=lambda: iter([data]), relationship={"animal": pedigree})


def test_features():
    """What works with related levels, by value where the dense formulas are near, and what says that it
    does not."""
    data, pedigree = herd()
    result = fitted()
    V, Z, A, a = dense(result, pedigree, data)
    # rows
    new = pd.DataFrame({"sex": [0, 1], "animal": [3, 150], "herd": [1, 99]})
    predicted = result.get_prediction(new)
    u = result.random_effects["animal"]["(Intercept)"]
    np.testing.assert_allclose(
        predicted.predicted_mean.iloc[1], result.fe_params.sum() + u.loc[150], rtol=1e-10
    )
    assert predicted.se_mean.gt(0).all()
    population = result.get_prediction(new, random_effects=False, variances="given")
    h = float(result.fit.lam[1][0, 0]) ** 2
    extra = result.scale * (1.0 + h + a * pedigree.variances.loc[[3, 150]].to_numpy())
    np.testing.assert_allclose(population._obs_variance - population.var_mean, extra, rtol=1e-8)
    with pytest.raises(InferenceError, match="relationship lacks"):
        result.get_prediction(pd.DataFrame({"sex": [0], "animal": [999], "herd": [1]})).se_mean  # noqa: B018
    whitened = result.residuals("whitened")
    marginal = (data["y"] - result.fitted_fixed).to_numpy()
    w, U = np.linalg.eigh(V)
    np.testing.assert_allclose(
        whitened, U @ ((U.T @ marginal) / np.sqrt(w * result.scale)), rtol=1e-6, atol=1e-8
    )
    standard = result.residuals("marginal-standardized")
    X = np.column_stack([np.ones(len(data)), data["sex"]])
    spread = V - X @ np.linalg.solve(X.T @ np.linalg.solve(V, X), X.T)
    np.testing.assert_allclose(standard, marginal / np.sqrt(result.scale * np.diag(spread)), rtol=1e-6)
    # inference
    kr, satterthwaite = result.coef_table(ddf="kenward-roger"), result.coef_table()
    plain = mme.lmer(
        "y ~ sex + (1 | animal) + (1 | herd)",
        data,
        relationship={"animal": mme.Covariance(pedigree.covariance())},
    )
    np.testing.assert_allclose(plain.coef_table(ddf="kenward-roger")["df"], kr["df"], rtol=1e-3)
    np.testing.assert_allclose(plain.coef_table()["df"], satterthwaite["df"], rtol=1e-3)
    assert result.test_variance("animal", method="mixture")["p"].iloc[0] < 1e-6
    with pytest.raises(InferenceError, match="related"):
        result.test_variance("animal", method="rlrt")
    r2, icc = result.r2(), result.icc(by_term=True)
    diagonal = float(np.mean(np.diag(Z @ A @ Z.T)))
    total = a * diagonal + h + 1.0
    np.testing.assert_allclose(icc.loc["animal", "estimate"], a * diagonal / total, rtol=1e-8)
    assert 0 < r2.loc["marginal", "estimate"] < r2.loc["conditional", "estimate"] < 1
    for what in (
        lambda: result.influence("herd"),
        lambda: result.coef_table(cov_type="CR0"),
        lambda: result.bootstrap(n_boot=3, kind="residual"),
        lambda: result.bootstrap(n_boot=3, kind="cluster"),
    ):
        with pytest.raises((InferenceError, OptionError, AttributeError, TypeError)):
            what()


def test_population_needs_no_column_of_related_levels():
    """Means of the population and their errors; new observations only where their variance is known."""
    result = fitted()
    new = pd.DataFrame({"sex": [0, 1, 1], "animal": [3, 999, np.nan], "herd": [1, 2, 3]})
    known = result.get_prediction(new, random_effects=False).summary_frame()
    bare = result.get_prediction(new[["sex"]], random_effects=False).summary_frame()
    pd.testing.assert_frame_equal(known.filter(regex="^mean"), bare.filter(regex="^mean"))
    assert bare[["obs_ci_lower", "obs_ci_upper"]].isna().all(axis=None)
    assert known["obs_ci_upper"].isna().tolist() == [False, True, True]
    first = result.get_prediction(new.iloc[:1], random_effects=False).summary_frame()
    np.testing.assert_allclose(known["obs_ci_upper"].iloc[0], first["obs_ci_upper"].iloc[0], rtol=1e-12)
