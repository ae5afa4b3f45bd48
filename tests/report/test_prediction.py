"""Predictions against R (lme4's predict, glmmTMB's standard errors) and against dense formulas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.linalg import block_diag
from support import load_data

import mme
from mme.exceptions import DataError, InferenceError, OptionError
from mme.inference import prediction as numbers
from mme.inference.variances import variance_covariance

REFERENCE = json.loads((Path(__file__).parent.parent / "reference" / "predict.json").read_text())["predict"]
FORMULAS = {
    "sleepstudy": "Reaction ~ Days + (Days | Subject)",
    "pastes": "strength ~ 1 + (1 | batch/cask)",
    "penicillin": "diameter ~ 1 + (1 | plate) + (1 | sample)",
}


def _model(name: str, **options):
    expected = REFERENCE[name]
    new = pd.DataFrame(expected["newdata"])
    data = load_data(expected["data"])
    if name == "sleepstudy":
        new["Subject"] = new["Subject"].astype(int)
    return mme.lmer(FORMULAS[name], data, **options), new, expected


@pytest.mark.parametrize("name", list(REFERENCE))
def test_predictions_of_lme4(name):
    """R's optimiser stops at a relative 1e-7 or so."""
    result, new, expected = _model(name)
    np.testing.assert_allclose(result.predict(new), expected["conditional"], rtol=1e-6)
    np.testing.assert_allclose(result.predict(new, random_effects=False), expected["population"], rtol=1e-10)
    if "partial" in expected:
        group = expected["partial"]["re_form"][4:-1]
        partial = result.predict(new, random_effects=[group])
        np.testing.assert_allclose(partial, expected["partial"]["value"], rtol=1e-6)


@pytest.mark.parametrize("name", list(REFERENCE))
def test_standard_errors_of_glmmtmb(name):
    result, new, expected = _model(name)
    frame = result.get_prediction(new).summary_frame()
    np.testing.assert_allclose(frame["mean"], expected["glmmTMB_conditional"]["fit"], rtol=1e-6)
    np.testing.assert_allclose(frame["mean_se"], expected["glmmTMB_conditional"]["se"], rtol=3e-6)


def _crossed(n=240, seed=1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({"x": rng.normal(size=n), "f": rng.choice(list("uvw"), n)})
    data["g"], data["h"] = rng.integers(0, 14, n), rng.integers(0, 9, n)
    data["w"] = rng.uniform(0.5, 2.0, n)
    u, v = rng.normal(size=(14, 2)), rng.normal(size=9)
    data["y"] = data.x + u[data.g, 0] + 0.6 * u[data.g, 1] * data.x + v[data.h] + rng.normal(size=n)
    return data


def _variances(result) -> np.ndarray:
    """Entries of the covariance of g, the variance of h and sigma2."""
    lam_g, lam_h = result.fit.lam
    T = result.scale * lam_g @ lam_g.T
    return np.array([T[0, 0], T[1, 0], T[1, 1], result.scale * lam_h[0, 0] ** 2, result.scale])


def _dense(result, new: pd.DataFrame, levels: dict, variances: np.ndarray | None = None):
    """Predictions and their variances given the variances, for rows of (x | g) + (1 | h), from V."""
    data = result.model.data
    v = _variances(result) if variances is None else variances
    scale = v[-1]
    own = np.array([[v[0], v[1]], [v[1], v[2]]]) / scale
    D = block_diag(np.kron(np.eye(14), own), v[3] / scale * np.eye(9))

    def columns(frame):
        X = np.column_stack([np.ones(len(frame)), frame.x, frame.f == "v", frame.f == "w"]).astype(float)
        Z = np.zeros((len(frame), 28 + 9))
        for i, (g, h, x) in enumerate(zip(frame.g, frame.h, frame.x, strict=True)):
            if g in levels["g"]:
                Z[i, 2 * g], Z[i, 2 * g + 1] = 1.0, x
            if h in levels["h"]:
                Z[i, 28 + h] = 1.0
        return X, Z

    X, Z = columns(data)
    x, z = columns(new)
    Vi = np.linalg.inv(np.diag(1.0 / data.w) + Z @ D @ Z.T)
    C = np.linalg.inv(X.T @ Vi @ X)
    b = C @ X.T @ Vi @ data.y.to_numpy()
    u = D @ Z.T @ Vi @ (data.y.to_numpy() - X @ b)
    a = x - z @ D @ Z.T @ Vi @ X
    v = np.einsum("np,pq,nq->n", a, C, a) + np.einsum("na,ab,nb->n", z, D - D @ Z.T @ Vi @ Z @ D, z)
    return x @ b + z @ u, scale * v


def _weighted():
    data = _crossed()
    result = mme.lmer("y ~ x + f + (x | g) + (1 | h)", data, weights="w")
    result.model.data = data
    return result


def test_dense_formulas():
    result = _weighted()
    new = _crossed(60, seed=2)
    new.loc[0, "g"], new.loc[1, "h"] = 99, 98
    levels = {"g": range(14), "h": range(9)}
    mean, variance = _dense(result, new, levels)
    prediction = result.get_prediction(new, variances="given")
    np.testing.assert_allclose(prediction.predicted_mean, mean, rtol=1e-9, atol=1e-10)
    # levels that the fit did not have add their own variance
    lam_g, lam_h = result.fit.lam[0], result.fit.lam[1][0, 0]
    z = np.array([1.0, new.x[0]])
    variance[0] += result.scale * z @ lam_g @ lam_g.T @ z
    variance[1] += result.scale * lam_h**2
    np.testing.assert_allclose(prediction.var_mean, variance, rtol=1e-8)
    np.testing.assert_allclose(prediction.se_obs**2, variance + result.scale / new.w, rtol=1e-8)
    assert prediction.new_levels == {"g": 1, "h": 1}
    # intervals
    frame, df = prediction.summary_frame(0.1), prediction.df
    half = stats.t.ppf(0.95, df) * np.sqrt(variance)
    np.testing.assert_allclose(frame["mean_ci_upper"] - frame["mean"], half, rtol=1e-8)
    half = stats.t.ppf(0.95, df) * prediction.se_obs
    np.testing.assert_allclose(frame["mean"] - frame["obs_ci_lower"], half, rtol=1e-8)


def test_rows_of_the_fit():
    result = _weighted()
    prediction = result.get_prediction(variances="given")
    np.testing.assert_allclose(prediction.predicted_mean, result.fittedvalues, rtol=1e-10)
    again = result.get_prediction(result.model.data, variances="given")
    np.testing.assert_allclose(again.var_mean, prediction.var_mean, rtol=1e-12)
    np.testing.assert_allclose(again.se_obs, prediction.se_obs, rtol=1e-12)
    np.testing.assert_allclose(result.predict(random_effects=False), result.fitted_fixed)


def test_degrees_of_freedom_and_what_estimated_variances_add():
    """Derivatives of the dense variance and prediction, with the covariance of the variances."""
    result = _weighted()
    new, levels = _crossed(30, seed=2), {"g": range(14), "h": range(9)}
    A = variance_covariance(result.fitted).covariance
    at = _variances(result)
    slopes = []
    for i in range(at.size):
        ends = []
        for sign in (1.0, -1.0):
            moved = at.copy()
            moved[i] += sign * 1e-5 * at[-1]
            ends.append(_dense(result, new, levels, moved))
        slopes.append([(up - down) / (2e-5 * at[-1]) for up, down in zip(*ends, strict=True)])
    of_mean, of_variance = np.array(slopes).transpose(1, 0, 2)
    _, variance = _dense(result, new, levels)
    df = 2.0 * variance**2 / np.einsum("in,ij,jn->n", of_variance, A, of_variance)
    added = np.einsum("in,ij,jn->n", of_mean, A, of_mean)
    prediction = result.get_prediction(new)
    np.testing.assert_allclose(prediction.df, df, rtol=1e-5)
    np.testing.assert_allclose(prediction.var_mean, variance + added, rtol=1e-6)
    np.testing.assert_allclose(result.get_prediction(new, variances="given").df, df, rtol=1e-5)


def test_satterthwaite_of_fixed_rows_is_that_of_contrasts():
    """A row at levels whose effects are zero by their variance has the df of its contrast."""
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy"))
    new = pd.DataFrame({"Days": [0.0, 5.0]})
    frame = result.get_prediction(new, random_effects=False).summary_frame()
    expected = [result.contrast([1.0, d]).iloc[0] for d in (0.0, 5.0)]
    np.testing.assert_allclose(frame["mean_se"], [row.se for row in expected])
    np.testing.assert_allclose(frame["mean_ci_lower"], [row.lower for row in expected])
    adjusted = result.get_prediction(new, random_effects=False, ddf="kenward-roger")
    np.testing.assert_allclose(
        adjusted.se_mean, [result.contrast([1.0, d], ddf="kenward-roger").se[0] for d in (0, 5)]
    )
    assert adjusted.ddf == "kenward-roger"


def test_without_random_effects_observations_have_their_variance():
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy"))
    new = pd.DataFrame({"Days": [2.0]})  # no Subject is needed
    prediction = result.get_prediction(new, random_effects=False)
    z = np.array([1.0, 2.0])
    lam = result.fit.lam[0]
    own = result.scale * (1.0 + z @ lam @ lam.T @ z)
    np.testing.assert_allclose(prediction.se_obs**2 - prediction.var_mean, own)


def test_missing_values_come_back_as_missing():
    result = _weighted()
    new = _crossed(6, seed=3).astype({"g": float})
    new.loc[1, "x"], new.loc[2, "f"], new.loc[3, "g"] = np.nan, None, np.nan
    prediction = result.get_prediction(new)
    frame = prediction.summary_frame()
    assert frame["mean"].isna().tolist() == [False, True, True, True, False, False]
    assert frame["mean_se"].isna().tolist() == [False, True, True, True, False, False]
    assert prediction.missing == {"x": 1, "f": 1, "g": 1}
    # a label is not needed for the mean of the population
    assert result.predict(new, random_effects=False).isna().tolist() == [
        False,
        True,
        True,
        False,
        False,
        False,
    ]


def test_new_levels():
    result, new, _ = _model("penicillin")
    assert result.predict(new, new_levels="missing").isna().tolist() == [False, False, True, True]
    with pytest.raises(DataError, match=r"plate \(1 rows\), sample \(1 rows\).*'population'"):
        result.predict(new, new_levels="error")
    assert result.predict(new.iloc[:2], new_levels="error").notna().all()


def test_index_and_empty_selection():
    result = mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy"))
    new = pd.DataFrame({"Days": [1, 2], "Subject": [308, 309]}, index=["a", "b"])
    assert result.predict(new).index.tolist() == ["a", "b"]
    assert result.get_prediction(new).summary_frame().index.tolist() == ["a", "b"]


def test_split_terms_go_by_their_factor():
    data = load_data("sleepstudy")
    result = mme.lmer("Reaction ~ Days + (Days || Subject)", data)
    np.testing.assert_allclose(result.predict(random_effects="Subject"), result.fittedvalues)
    second = result.fitted.labels.terms[1]
    assert second.group == "Subject.1"
    own = result.predict(random_effects=["Subject.1"]) - result.fitted_fixed
    effects = result.random_effects["Subject"][next(iter(second.effects))]
    expected = effects.loc[data.Subject].to_numpy() * (data.Days if second.effects == ("Days",) else 1.0)
    np.testing.assert_allclose(own, expected, atol=1e-10)


def test_offsets_and_functions():
    data = _crossed()
    data["o"] = np.linspace(0, 1, len(data))
    result = mme.lmer("y ~ poly(x, 2) + offset(o) + (1 | g)", data)
    np.testing.assert_allclose(result.predict(data), result.fittedvalues, rtol=1e-10)
    given = mme.lmer("y ~ x + (1 | g)", data, offset=data.o.to_numpy())
    np.testing.assert_allclose(given.predict(data, offset=data.o.to_numpy()), given.fittedvalues)
    with pytest.raises(DataError, match="offset was an array"):
        given.predict(data)


def test_both_doors_agree():
    data = _crossed()
    ours = mme.lmer("y ~ x + (x | g)", data)
    theirs = mme.mixedlm("y ~ x", data, groups="g", re_formula="~x").fit()
    new = _crossed(20, seed=5)
    new.loc[0, "g"] = 77
    a, b = ours.get_prediction(new).summary_frame(), theirs.get_prediction(new).summary_frame()
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    # statsmodels' own is the fixed part
    np.testing.assert_allclose(theirs.predict(new), ours.predict(new, random_effects=False), rtol=1e-5)


def test_variance_components_of_formulas_are_refused_by_name():
    data = _crossed()
    result = mme.mixedlm("y ~ x", data, groups="g", vc_formula={"h": "1 + C(h)"}).fit()
    np.testing.assert_allclose(result.get_prediction().predicted_mean, result.fittedvalues)
    assert result.get_prediction().se_mean.notna().all()
    fixed = result.get_prediction(data, random_effects=False)
    np.testing.assert_allclose(fixed.predicted_mean, result.predict(data))
    with pytest.raises(DataError, match="variance components h of vc_formula are no cells"):
        result.get_prediction(data)


def test_iterative_fits():
    data = _crossed()
    formula = "y ~ x + f + (x | g) + (1 | h)"
    exact, mine = (mme.lmer(formula, data, solver=solver) for solver in ("direct", "iterative"))
    new = _crossed(10, seed=6)
    a, b = exact.get_prediction(new, variances="given", ddf="normal"), mine.get_prediction(new)
    np.testing.assert_allclose(b.predicted_mean, a.predicted_mean, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(b.se_mean, a.se_mean, rtol=0.02)
    assert b.ddf == "normal"
    c, d = exact.get_prediction(new), mine.get_prediction(new, ddf="satterthwaite", variances="estimated")
    np.testing.assert_allclose(d.se_mean, c.se_mean, rtol=0.02)
    np.testing.assert_allclose(d.df, c.df, rtol=0.05)


def test_chunks(monkeypatch):
    result, new = _weighted(), _crossed(50, seed=7)
    whole = result.get_prediction(new).summary_frame()
    monkeypatch.setattr(numbers, "_CHUNK", 7)
    pd.testing.assert_frame_equal(result.get_prediction(new).summary_frame(), whole, rtol=1e-10)


def test_singular_fits():
    data = _crossed().assign(half=lambda d: (d.y.rank() % 2).astype(int))
    result = mme.lmer("y ~ x + (x | g) + (1 | half)", data)
    assert result.is_singular
    frame = result.get_prediction(data.head()).summary_frame()
    assert frame.notna().all(axis=None)
    without = mme.lmer("y ~ x + (x | g)", data).get_prediction(data.head()).summary_frame()
    np.testing.assert_allclose(frame, without, rtol=1e-5, atol=1e-5)


def test_bad_input():
    result, new, _ = _model("penicillin")
    with pytest.raises(OptionError, match=r"random_effects names 'plat'.*Did you mean 'plate'"):
        result.predict(new, random_effects=["plat"])
    with pytest.raises(OptionError, match="new_levels='none' is not known"):
        result.predict(new, new_levels="none")
    with pytest.raises(OptionError, match="variances='all' is not known"):
        result.get_prediction(new, variances="all")
    with pytest.raises(OptionError, match="Did you mean 'satterthwaite'"):
        result.get_prediction(new, ddf="satterthwait")
    for given in (None, 1):
        with pytest.raises(OptionError, match=f"random_effects={given} must be True, False, or names"):
            result.get_prediction(new, random_effects=given)
    for wrong in (-1.0, 0.0, np.inf):
        with pytest.raises(DataError, match="weights of new rows must be positive and finite; 1 are not"):
            result.get_prediction(new, weights=np.where(np.arange(len(new)) == 0, wrong, 1.0))
    with pytest.raises(InferenceError, match="random_effects=False"):
        result.get_prediction(new, ddf="kenward-roger").summary_frame()
    with pytest.raises(DataError, match="no column 'sample'"):
        result.predict(new[["plate"]])
    with pytest.raises(DataError, match="empty"):
        result.predict(new.iloc[:0])
    with pytest.raises(OptionError, match="alpha"):
        result.get_prediction(new).conf_int(alpha=2)
