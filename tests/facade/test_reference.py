"""MixedLM on the models of reference/lme4.json that fit statsmodels' form, REML and ML.

One grouping factor with correlated effects and variance components within its groups; or crossed factors as
variance components of one group (``groups`` a column of ones).
"""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
import workloads
from support import aligned, comparable, inference_reference, load_data, mark_slow, reference_models, stopping

import mme
from mme import MixedLMParams
from mme.facade.fit import BoundaryWarning
from mme.formula import r_name

# Per model: the keyword arguments of from_formula.  "one" is a column of ones.
FORMS: dict[str, dict] = {
    "sleepstudy_slope": {"groups": "Subject", "re_formula": "~Days"},
    "sleepstudy_int": {"groups": "Subject"},
    "sleepstudy_zerocorr": {"groups": "Subject", "re_formula": "~Days"},  # with a diagonal `free` pattern
    "dyestuff": {"groups": "Batch"},
    "dyestuff2_singular": {"groups": "Batch"},
    "pastes_nested": {"groups": "batch", "re_formula": "1", "vc_formula": {"cask": "0 + C(cask)"}},
    "penicillin_crossed": {"groups": "one", "vc_formula": {"p": "0 + C(plate)", "s": "0 + C(sample)"}},
    "insteval_1": {
        "groups": "one",
        "vc_formula": {"s": "0 + C(s)", "d": "0 + C(d)", "dept": "0 + C(dept)"},
    },
    "insteval_2": {"groups": "one", "vc_formula": {"s": "0 + C(s)", "d": "0 + C(d)"}},
    "machines_slope": {"groups": "Worker", "re_formula": "~Machine"},
    "machines_nested": {"groups": "Worker", "re_formula": "1", "vc_formula": {"m": "0 + C(Machine)"}},
    "orthodont": {"groups": "Subject", "re_formula": "~age"},
    "oats": {"groups": "Block", "re_formula": "1", "vc_formula": {"v": "0 + C(Variety)"}},
    "cake": {"groups": ["recipe", "replicate"]},
    "chem97": {"groups": "lea", "re_formula": "1", "vc_formula": {"school": "0 + C(school)"}},
    "egsingle": {"groups": "one", "vc_formula": {"c": "0 + C(childid)", "s": "0 + C(schoolid)"}},
    "scotssec": {"groups": "one", "vc_formula": {"p": "0 + C(primary)", "s": "0 + C(second)"}},
    "vc8": {"groups": "one", "vc_formula": {f"f{i}": f"0 + C(f{i})" for i in range(8)}},
    "slope1k": {"groups": "g", "re_formula": "~x"},
    "slope20k": {"groups": "g", "re_formula": "~x"},
    "ml100k": {"groups": "one", "vc_formula": {"u": "0 + C(u)", "m": "0 + C(m)"}},
}
# Models statsmodels' class has no form for: correlated effects of factors that are crossed.
OTHER = {"kb_maximal", "kb_mid"}

# lme4's names of the variance components
COMPONENTS: dict[str, dict[str, str]] = {
    "pastes_nested": {"cask": "cask:batch"},
    "penicillin_crossed": {"p": "plate", "s": "sample"},
    "machines_nested": {"m": "Machine:Worker"},
    "oats": {"v": "Variety:Block"},
    "chem97": {"school": "school:lea"},
    "egsingle": {"c": "childid", "s": "schoolid"},
    "scotssec": {"p": "primary", "s": "second"},
}

CASES = [(name, method) for name in FORMS for method in ("reml", "ml")]


@cache
def _model(name: str) -> mme.MixedLM:
    reference = reference_models()[name]
    data = workloads.make("slope20k") if name == "slope20k" else load_data(reference["data"])
    data["one"] = 1
    fixed = reference["formula"].replace(" ", "").split("+(")[0]
    if name == "oats":  # its response has a name that Python reserves
        data, fixed = data.rename(columns={"yield": "harvest"}), fixed.replace("yield", "harvest")
    return mme.MixedLM.from_formula(fixed, data, **FORMS[name])


def test_every_model_is_here_or_has_no_form():
    stored = {name for name, model in reference_models().items() if "reml" in model}
    assert set(FORMS) | OTHER == stored


@cache
def _fit(name: str, method: str):
    model, free = _model(name), None
    if name == "sleepstudy_zerocorr":
        free = MixedLMParams.from_components(np.ones(model.k_fe), cov_re=np.eye(2), vcomp=np.empty(0))
    with warnings.catch_warnings():
        if reference_models()[name][method]["singular_lme4"]:
            warnings.simplefilter("ignore", BoundaryWarning)  # as it should: the optimum is on the boundary
        return model.fit(reml=method == "reml", free=free)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_loglik(name, method):
    result, reference = _fit(name, method), reference_models()[name][method]
    best = reference["loglik_best"]
    assert result.converged, result.mle_retvals["message"]
    assert result.llf == pytest.approx(best, abs=max(1e-6, 1e-10 * abs(best)))
    assert bool(result.boundary) == reference["singular_lme4"]


COMPARABLE = [case for case in CASES if comparable(*case)]
LARGE = {"insteval_1", "ml100k", "vc8"}  # standard errors of their fixed effects take seconds


@pytest.mark.parametrize(("name", "method"), mark_slow(COMPARABLE, lambda case: case[0] in LARGE))
def test_fixed_effects(name, method):
    """By name, each in its own standard error; as far as lme4 may have stopped from the optimum."""
    result, reference = _fit(name, method), reference_models()[name][method]
    got, expected = aligned(result.fe_params, reference["fixef"])
    _, se = aligned(result.bse_fe, reference["se"])
    assert np.all(np.abs(got - expected) <= (1e-4 + stopping(name, method)) * se)


@pytest.mark.parametrize(("name", "method"), COMPARABLE)
def test_covariance_parameters(name, method):
    """Variances, covariances and the residual variance by the names of their terms and columns."""
    result, reference = _fit(name, method), reference_models()[name][method]
    expected = {
        (row["grp"], *sorted(v for v in (row["var1"], row["var2"]) if v)): row["vcov"]
        for row in reference["varcorr"]
    }
    got = {("Residual",): result.scale}
    group = FORMS[name]["groups"] if isinstance(FORMS[name]["groups"], str) else "recipe:replicate"
    columns = ["(Intercept)" if c == group or c == "Group" else r_name(c) for c in result.cov_re.index]
    if name == "sleepstudy_zerocorr":  # lme4 writes two terms
        got |= {("Subject", "(Intercept)"): result.cov_re.iloc[0, 0]}
        got |= {("Subject.1", "Days"): result.cov_re.iloc[1, 1]}
    else:
        for i, row in enumerate(columns):
            for j, column in enumerate(columns[: i + 1]):
                got[(group, *sorted({row, column}))] = result.cov_re.iloc[i, j]
    for component, variance in zip(result.model.exog_vc.names, result.vcomp, strict=True):
        got[COMPONENTS.get(name, {}).get(component, component), "(Intercept)"] = variance
    assert sorted(got) == sorted(expected)
    room = 1e-4 + stopping(name, method)
    np.testing.assert_allclose(np.sqrt(result.scale), reference["sigma"], rtol=room)
    rtol = 1e-3 + stopping(name, method)
    for key, value in expected.items():
        scale = np.sqrt(np.prod([expected[(key[0], v)] for v in key[1:]])) if len(key) == 3 else value
        assert abs(got[key] - value) <= rtol * scale, (key, got[key], value)


@pytest.mark.parametrize("name", sorted(inference_reference()))
def test_conditional_variances(name):
    """Of the random effects of the first three levels, given theta and the fixed effects."""
    result = _fit(name, "reml")
    blocks = {
        ":".join(map(str, label)) if isinstance(label, tuple) else str(label): frame
        for label, frame in result.random_effects_cov.items()
    }
    prefix = {v: k for k, v in COMPONENTS.get(name, {}).items()}
    for factor, expected in inference_reference()[name]["ranef_condvar"].items():
        for level, value in zip(expected["names"], expected["var"], strict=True):
            variance = np.atleast_2d(value)
            if factor not in prefix:  # effects of the model's own groups
                block = blocks[level].to_numpy()[: len(variance), : len(variance)]
            else:
                inner, *outer = level.split(":")
                frame = blocks[outer[0] if outer else "1"]
                (row,) = [r for r in frame.index if r.startswith(f"{prefix[factor]}[") and f"[{inner}]" in r]
                block = np.atleast_2d(frame.loc[row, row])
            np.testing.assert_allclose(block, variance, rtol=1e-3 + stopping(name, "reml"))
