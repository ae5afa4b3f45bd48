"""Every model of reference/lme4.json, REML and ML, against lme4 and the best known log-likelihood."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import workloads
from support import (
    aligned,
    comparable,
    inference_reference,
    load_data,
    reference,
    reference_models,
    stopping,
)

import mme
from mme.formula import r_name

MODELS = [name for name, model in reference_models().items() if "reml" in model]
CASES = [(name, method) for name in MODELS for method in ("reml", "ml")]


@cache
def fit(name: str, method: str):
    """One fit per model and method, shared by the tests of this file."""
    model = reference_models()[name]
    data = workloads.make("slope20k") if name == "slope20k" else load_data(model["data"])
    return mme.lmer(model["formula"], data, reml=method == "reml")


COMPARABLE = [case for case in CASES if comparable(*case)]


each = pytest.mark.parametrize(("name", "method"), CASES)
each_comparable = pytest.mark.parametrize(("name", "method"), COMPARABLE)


def test_the_file_is_covered():
    """23 models with stored values (ml1m's stands in workloads.py), nearly all of them with estimates."""
    assert len(CASES) == 46
    assert len(COMPARABLE) == 42


@each
def test_loglik(name, method):
    """A value that is too high would be as wrong as one that is too low."""
    best = reference(name, method)["loglik_best"]
    got = fit(name, method).llf
    assert abs(got - best) <= max(1e-6, 1e-10 * abs(best)), f"{got!r} is {got - best:+.3g} off {best!r}"


@each
def test_converged_within_bounds(name, method):
    result = fit(name, method)
    assert result.converged, result.fit_info["message"]
    assert result.fit_info["converged"]
    assert result.fit_info["evaluations"] <= 60


def test_median_evaluations():
    counts = {case: fit(*case).fit_info["evaluations"] for case in CASES}
    assert np.median(list(counts.values())) <= 12, counts


@each
def test_singularity_is_recognised(name, method):
    """Where lme4 reached the optimum and calls it singular or not, so do we."""
    ref = reference(name, method)
    if "fixef" in ref:
        assert fit(name, method).is_singular == ref["singular_lme4"]
    else:  # kb_maximal by REML: lme4 stopped early, but the optimum lies on the boundary
        assert fit(name, method).is_singular


@each
def test_number_of_rows(name, method):
    assert fit(name, method).nobs == reference(name, method)["nobs"]


@each_comparable
def test_fixed_effects(name, method):
    """1e-4 of their standard errors, and as many standard errors as lme4 may have stopped away."""
    ref = reference(name, method)
    got, expected = aligned(fit(name, method).fe_params, ref["fixef"])
    _, se = aligned(fit(name, method).bse_fe, ref["se"])
    assert np.all(np.abs(got - expected) <= (1e-4 + stopping(name, method)) * se)


@each_comparable
def test_standard_errors(name, method):
    """1e-4 relative; widened by half of a variance's, because a standard error is the root of one."""
    got, expected = aligned(fit(name, method).bse_fe, reference(name, method)["se"])
    np.testing.assert_allclose(got, expected, rtol=1e-4 + 0.5 * stopping(name, method))


@each_comparable
def test_sigma(name, method):
    """1e-5 relative; the relative standard error of sigma is 1 / sqrt(2 df), df at least n - p - q."""
    result, ref = fit(name, method), reference(name, method)
    effects = sum(frame.size for frame in result.random_effects.values())
    df = ref["nobs"] - len(ref["fixef"]) - effects
    relative_se = 1.0 / np.sqrt(2.0 * max(df, 1))
    np.testing.assert_allclose(result.sigma, ref["sigma"], rtol=1e-5 + stopping(name, method) * relative_se)


@each_comparable
def test_variances_and_covariances(name, method):
    """1e-3 relative (of sd_i sd_j for a covariance); a variance's relative standard error is taken as 1."""
    table = fit(name, method).varcorr
    assert list(table.columns) == ["grp", "var1", "var2", "vcov", "sdcor"]

    def key(grp, var1, var2):
        missing = [v is None or v != v for v in (var1, var2)]
        return grp, "" if missing[0] else r_name(var1), "" if missing[1] else r_name(var2)

    ours = {key(row.grp, row.var1, row.var2): row for row in table.itertuples()}
    theirs = {key(r["grp"], r["var1"], r["var2"]): r["vcov"] for r in reference(name, method)["varcorr"]}
    assert sorted(ours) == sorted(theirs)
    rtol = 1e-3 + stopping(name, method)
    for (grp, var1, var2), expected in theirs.items():
        row = ours[grp, var1, var2]
        if var2:
            scale = np.sqrt(theirs[grp, var1, ""] * theirs[grp, var2, ""])
            assert row.sdcor == pytest.approx(expected / scale, abs=2 * rtol), (grp, var1, var2)
        else:
            scale = expected
            assert row.sdcor == pytest.approx(np.sqrt(row.vcov), rel=1e-12)
        assert abs(row.vcov - expected) <= rtol * scale, (grp, var1, var2, row.vcov, expected)


@each_comparable
def test_random_effects(name, method):
    """1e-3 sigma for the first levels; widened in units of the term's standard deviation."""
    result, ref = fit(name, method), reference(name, method)
    sd: dict[str, float] = {}
    for row in ref["varcorr"]:
        if row["var2"] is None and row["grp"] != "Residual":
            for factor in ref["ranef"]:  # lme4 calls a second term on the same factor "Subject.1"
                if row["grp"] == factor or row["grp"].startswith(f"{factor}."):
                    sd[factor] = max(sd.get(factor, 0.0), np.sqrt(row["vcov"]))
    assert set(result.random_effects) == set(ref["ranef"])
    for factor, expected in ref["ranef"].items():
        frame = result.random_effects[factor]
        by_name = {str(level): row for level, row in zip(frame.index, frame.to_numpy(), strict=True)}
        got = np.array([by_name[level] for level in expected["names"]])
        tolerance = 1e-3 * ref["sigma"] + stopping(name, method) * sd[factor]
        np.testing.assert_allclose(got, expected["values"], rtol=0, atol=tolerance, err_msg=factor)


@pytest.mark.parametrize("name", sorted(inference_reference()))
def test_fitted_values_and_residuals(name):
    """The first ten rows of the REML fit."""
    expected, result = inference_reference()[name], fit(name, "reml")
    # a fitted value moves by less than the residual standard deviation while theta moves by a standard error
    tolerance = (1e-5 + stopping(name, "reml")) * result.sigma
    np.testing.assert_allclose(result.fittedvalues[:10], expected["fitted_head"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(result.resid[:10], expected["resid_head"], rtol=0, atol=tolerance)


def test_a_boundary_optimum_gives_the_linear_model():
    """Dyestuff2: the variance is zero and everything else is ordinary least squares."""
    result = fit("dyestuff2_singular", "reml")
    data = load_data("Dyestuff2")["Yield"]
    assert result.theta[0] == 0.0
    assert result.sigma == pytest.approx(data.std(ddof=1), rel=1e-10)
    assert result.fe_params.iloc[0] == pytest.approx(data.mean(), rel=1e-12)
    assert result.bse_fe.iloc[0] == pytest.approx(data.sem(ddof=1), rel=1e-10)
    assert not result.random_effects["Batch"].to_numpy().any()
