"""MixedLM does no more than lmer on the same model: factorizations, equations, formula evaluations.

Seconds are measured by `benchmarks/fit.py`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import workloads
from support import load_data

import mme
from mme.engine.direct import objective as objective_module
from mme.facade.design import vc_formula
from mme.fit import fit as fit_module


@pytest.fixture
def work(monkeypatch) -> Counter:
    """Evaluations of the objective and equations built, as they happen."""
    done: Counter = Counter()
    evaluate, build = objective_module.Objective.evaluate, fit_module.build_equations

    def counted(name, function):
        def call(*args, **kwargs):
            done[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(objective_module.Objective, "evaluate", counted("evaluations", evaluate))
    for module in (fit_module, objective_module):
        monkeypatch.setattr(module, "build_equations", counted("equations", build))
    return done


def compare(work: Counter, lmer, mixedlm) -> None:
    """Both fits, factored alike; the second builds once and evaluates hardly more often than the first."""
    first = lmer()
    once = Counter(work)
    work.clear()
    second = mixedlm()
    assert once["equations"] == work["equations"] == 1
    assert 0 < work["evaluations"] <= once["evaluations"] + 2
    assert 0 < second.fit_info["evaluations"] <= first.fit_info["evaluations"] + 2
    assert second.fit_info["solver"] == first.fit_info["solver"]
    assert second.llf == pytest.approx(first.llf, abs=1e-6)


def test_slope20k(work):
    data = workloads.make("slope20k")
    compare(
        work,
        lambda: mme.lmer("y ~ x + (x | g)", data),
        lambda: mme.MixedLM.from_formula("y ~ x", data, groups="g", re_formula="~x").fit(),
    )


def test_crossed_effects_as_components_of_one_group(work):
    data = load_data("InstEval")
    data["one"] = 1
    components = {"s": "0 + C(s)", "d": "0 + C(d)"}
    compare(
        work,
        lambda: mme.lmer("y ~ 1 + (1 | s) + (1 | d)", data),
        lambda: mme.mixedlm("y ~ 1", data, groups="one", vc_formula=components).fit(),
    )


def test_components_of_many_groups_build_at_once(monkeypatch):
    """1,000 groups, two formulas; statsmodels evaluates 2,000, and columns as they stand need none."""
    n, rows = 20_000, []
    data = pd.DataFrame({"y": np.random.default_rng(0).normal(size=n), "g": np.repeat(np.arange(1000), 20)})
    data["a"], data["b"] = np.tile(np.repeat(list("abcde"), 4), 1000), np.tile(list("wxyz"), 5000)
    components = {"a": "0 + C(a)", "b": "0 + C(b)"}
    evaluate = vc_formula.FormulaManager.get_matrices

    def counted(self, formula, frame, **options):
        rows.append(len(frame))
        return evaluate(self, formula, frame, **options)

    monkeypatch.setattr(vc_formula.FormulaManager, "get_matrices", counted)
    model = mme.MixedLM.from_formula("y ~ 1", data, groups="g", re_formula="1", vc_formula=components)
    assert [t.n_levels for t in model.design().terms] == [1000, 5000, 4000]
    assert rows == []


@pytest.mark.parametrize("what", ["bse", "bse_re", "profile_re"])
def test_what_follows_a_fit_takes_a_few_evaluations(what, work):
    """Standard errors take a few products with Z'V^-1Z; a profile's point a few evaluations."""
    data = workloads.make("slope20k")
    model = mme.MixedLM.from_formula("y ~ x", data, groups="g", re_formula="~x")
    result = model.fit()
    objective = model.likelihood.objective(True)
    before = objective.n_factorizations
    work.clear()
    if what == "profile_re":
        kwargs = {"num_low": 1, "dist_low": 0.05, "num_high": 1, "dist_high": 0.05}
        result.profile_re(0, "re", **kwargs)
    else:
        assert np.all(np.isfinite(getattr(result, what)))
    assert work["equations"] == 0
    assert objective.n_factorizations - before <= (16 if what == "profile_re" else 1)
