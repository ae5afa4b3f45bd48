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
from support import load_data, reference_models
from test_reference import stopping

import mme
from mme import MixedLMParams
from mme.mixedlm_fit import BoundaryWarning

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


@pytest.mark.parametrize(("name", "method"), CASES)
def test_loglik(name, method):
    model, reference = _model(name), reference_models()[name][method]
    free = None
    if name == "sleepstudy_zerocorr":
        free = MixedLMParams.from_components(np.ones(model.k_fe), cov_re=np.eye(2), vcomp=np.empty(0))
    with warnings.catch_warnings():
        if reference["singular_lme4"]:
            warnings.simplefilter("ignore", BoundaryWarning)  # as it should: the optimum is on the boundary
        result = model.fit(reml=method == "reml", free=free)
    best = reference["loglik_best"]
    tolerance = max(1e-5, 1e-10 * abs(best))
    assert result.converged, result.mle_retvals["message"]
    assert result.llf >= best - tolerance
    # the best known value is no lower than lme4's own stopping distance
    assert result.llf <= best + max(1e-3, reference["loglik_best"] - reference["loglik_lme4"])
    assert bool(result.boundary) == reference["singular_lme4"]
    if "fixef" in reference and not reference["singular_lme4"]:
        expected, se = np.array(list(reference["fixef"].values())), np.array(list(reference["se"].values()))
        # as far as lme4 may have stopped from the optimum; columns may come in another order
        room = 1e-4 + stopping(name, method)
        got = np.asarray(result.fe_params)
        assert np.max(np.abs(np.sort(got) - np.sort(expected)) / se.max()) < room
        np.testing.assert_allclose(np.sqrt(result.scale), reference["sigma"], rtol=room)
