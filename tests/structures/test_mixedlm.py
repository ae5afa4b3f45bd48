"""MixedLM(re_structure=...) is lmer's fit, with statsmodels' numbers along the structure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mme
from mme.exceptions import DataError, FormulaError, OptionError

STRUCTURES = ["us", "homdiag", "cs", "homcs", "ar1", "hetar1", "toep", "homtoep", "rr(2)"]


def _both(data, structure, reml=True):
    theirs = structure.replace("rr(2)", "rr")
    other = mme.lmer(f"y ~ x + {theirs}(0 + C(t) | g)", data, reml=reml)
    model = mme.MixedLM.from_formula("y ~ x", data, groups="g", re_formula="0 + C(t)", re_structure=structure)
    return model.fit(reml=reml), other


@pytest.mark.parametrize("structure", STRUCTURES)
def test_estimates_and_standard_errors(data, structure):
    ours, theirs = _both(data, structure)
    assert ours.converged
    assert ours.llf == pytest.approx(theirs.llf, abs=1e-7)
    lam = theirs.fit.lam[0]
    np.testing.assert_allclose(ours.cov_re, theirs.scale * lam @ lam.T, atol=2e-4)
    np.testing.assert_allclose(ours.fe_params, theirs.fe_params, rtol=1e-4)
    np.testing.assert_allclose(ours.coef_table(), theirs.coef_table(), rtol=2e-3)
    variances = np.asarray(ours.bse_re)[[0, 2, 5, 9]]
    shared = structure.startswith("hom") or structure == "ar1"
    expected = theirs.bse_re.to_numpy()[[0] * 4 if shared else range(4)]
    np.testing.assert_allclose(variances, expected, rtol=1e-3)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_criteria_count_the_parameters_of_the_structure(data, structure):
    ours, theirs = _both(data, structure, reml=False)
    assert ours.aic == pytest.approx(theirs.aic, abs=1e-6)
    assert ours.bic == pytest.approx(theirs.bic, abs=1e-6)


def test_uncorrelated_is_the_pattern_of_free_parameters(data):
    ours, theirs = _both(data, "diag")
    assert ours.llf == pytest.approx(theirs.llf, abs=1e-7)
    assert np.all(np.asarray(ours.cov_re)[~np.eye(4, dtype=bool)] == 0.0)


@pytest.mark.parametrize("structure", ["cs", "ar1", "rr(2)"])
def test_reports(data, structure, tmp_path):
    ours, theirs = _both(data, structure)
    assert "MixedLM" in str(ours.summary())
    assert len(ours.ranova()) == 2
    assert len(ours.variance_table()) == len(theirs.variance_table())
    np.testing.assert_allclose(
        ours.predict(data.head()), theirs.predict(data.head(), random_effects=False), rtol=1e-4
    )
    again = ours.refit(data["y"])
    assert again.llf == pytest.approx(ours.llf, abs=1e-6)
    mme.save(ours, tmp_path / "fit.mme")
    loaded = mme.load(tmp_path / "fit.mme")
    assert loaded.fitted.labels.terms[0].structure.name == structure
    assert ours.bootstrap(n_boot=20, seed=1).draws.shape[0] == 20


def test_with_variance_components(data):
    ours = mme.MixedLM.from_formula(
        "y ~ x", data, groups="g", re_formula="0 + C(t)", vc_formula={"h": "0 + C(h)"}, re_structure="cs"
    )
    with pytest.warns(mme.facade.fit.BoundaryWarning, match="h Var"):
        ours = ours.fit()
    theirs = mme.lmer("y ~ x + cs(0 + C(t) | g) + (1 | g:h)", data)
    assert ours.llf == pytest.approx(theirs.llf, abs=1e-6)
    assert np.all(np.isfinite(ours.bse_fe))


def test_refusals(data):
    def model(**more):
        return mme.MixedLM.from_formula("y ~ x", data, groups="g", **{"re_formula": "0 + C(t)", **more})

    with pytest.raises(OptionError, match=r"re_structure must be one of 'us', .* not 'ar2'"):
        model(re_structure="ar2")
    with pytest.raises(OptionError, match="must be one of"):
        model(re_structure=3)
    with pytest.raises(OptionError, match=r"'cs' needs at least 2 random effects of a group, and there is 1"):
        model(re_structure="cs", re_formula="1")
    with pytest.raises(OptionError, match=r"'rr\(5\)' needs at least 5 random effects"):
        model(re_structure="rr(5)")
    with pytest.raises(FormulaError, match="levels of one factor in their order"):
        model(re_structure="ar1", re_formula="0 + C(t) + x")
    with pytest.raises(OptionError, match="method= in all of cov_re"):
        model(re_structure="ar1").fit(method="lbfgs")
    with pytest.raises(OptionError, match="solver='iterative' knows unstructured"):
        model(re_structure="ar1").fit(solver="iterative")
    with pytest.raises(OptionError, match=r"profile_re\(\) moves a variance"):
        model(re_structure="ar1").fit().profile_re(0, "re")
    gaps = data.assign(t=pd.Categorical(data["t"], categories=range(5), ordered=True))
    with pytest.raises(DataError, match="no rows with 4 in 't', and MixedLM has no random effects of levels"):
        mme.MixedLM.from_formula("y ~ x", gaps, groups="g", re_formula="0 + t", re_structure="ar1")
