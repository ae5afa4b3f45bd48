"""Whole fits, data frame and formula in, by structure of the model; kernels compiled before."""

from __future__ import annotations

import numpy as np
import pandas as pd

import mme

from . import problems


class _Fit:
    """REML fit through lmer."""

    params: tuple[str, ...] = ()
    param_names = ("workload",)
    timeout = 300
    warmup_time = 0.0
    rounds = 1

    def setup(self, workload: str) -> None:
        self.data = problems.data(workload)
        self.formula = problems.formula(workload)
        self.time_lmer(workload)  # a new process loads kernels and modules with its first fit

    def time_lmer(self, workload: str) -> None:
        mme.lmer(self.formula, self.data)


class Scalar(_Fit):
    params = tuple(problems.STRUCTURES["scalar"])


class Vector(_Fit):
    params = tuple(problems.STRUCTURES["vector"])


class Nested(_Fit):
    params = tuple(problems.STRUCTURES["nested"])


class Crossed(_Fit):
    params = tuple(problems.STRUCTURES["crossed"])


class CrossedVector(_Fit):
    params = tuple(problems.STRUCTURES["crossed vector"])


class ManyComponents(_Fit):
    params = tuple(problems.STRUCTURES["many components"])


class Reached:
    """What the fits above reach, and at what cost; each is fitted once."""

    params = tuple(name for names in problems.STRUCTURES.values() for name in names)
    param_names = ("workload",)
    timeout = 300

    def setup_cache(self) -> dict[str, dict[str, float]]:
        """Evaluations, deviance gap and non-zeros of the factor of every workload."""
        out = {}
        for name in self.params:
            fit = mme.lmer(problems.formula(name), problems.data(name)).fit
            best = problems.reference(name)
            out[name] = {
                "evaluations": fit.record.evaluations,
                # rounding is not a change: references have six decimals
                "gap": float("nan") if best is None else round(2.0 * (best - fit.loglik), 5) + 0.0,
                "nnz": fit.objective.plan.nnz_factor,
            }
        return out

    def track_evaluations(self, reached: dict[str, dict[str, float]], workload: str) -> float:
        """Factorizations of the fit."""
        return reached[workload]["evaluations"]

    def track_deviance_gap(self, reached: dict[str, dict[str, float]], workload: str) -> float:
        """Deviance above the best known one; not a number where none is known."""
        return reached[workload]["gap"]

    def track_nnz_factor(self, reached: dict[str, dict[str, float]], workload: str) -> float:
        """Non-zeros of the factor of the Schur complement."""
        return reached[workload]["nnz"]

    track_evaluations.unit = "evaluations"
    track_deviance_gap.unit = "deviance"
    track_nnz_factor.unit = "non-zeros"


class MixedLM:
    """The same engine through statsmodels' signature."""

    params = ("sleepstudy", "chem97", "slope20k", "intercept100k", "nested10k", "insteval_2")
    param_names = ("workload",)
    timeout = 300
    warmup_time = 0.0
    rounds = 1

    def setup(self, workload: str) -> None:
        self.data = problems.data(workload).assign(one=1)
        self.model = problems.GROUPED[workload]
        self.time_mixedlm(workload)

    def _built(self) -> mme.MixedLM:
        spec = self.model
        return mme.MixedLM.from_formula(
            spec.fixed,
            self.data,
            groups=spec.groups,
            re_formula=spec.random,
            vc_formula=spec.components,
        )

    def time_mixedlm(self, workload: str) -> None:
        self._built().fit()

    def time_build(self, workload: str) -> None:
        """The model alone: formulas, groups, components."""
        self._built()


class ManyGroups:
    """Two components in each of 1,000 groups: slow to build if formulas were read group by group."""

    timeout = 300

    def setup(self) -> None:
        n = 20_000
        data = pd.DataFrame({"y": np.random.default_rng(0).normal(size=n), "g": np.arange(n) // 20})
        data["a"], data["b"] = np.tile(np.repeat(list("abcde"), 4), 1000), np.tile(list("wxyz"), 5000)
        self.data = data

    def time_build(self) -> None:
        components = {"a": "0 + C(a)", "b": "0 + C(b)"}
        mme.MixedLM.from_formula("y ~ 1", self.data, groups="g", re_formula="1", vc_formula=components)


class AfterFit:
    """What follows a fit of slope20k through statsmodels' signature."""

    params = ("bse", "bse_re", "profile_re")
    param_names = ("what",)
    timeout = 300
    number = 1  # results keep what they have worked out
    warmup_time = 0.0

    def setup(self, what: str) -> None:
        self.result = self._fit()
        self.time_after(what)
        self.result = self._fit()

    def _fit(self):
        spec, data = problems.GROUPED["slope20k"], problems.data("slope20k")
        return mme.MixedLM.from_formula(spec.fixed, data, groups=spec.groups, re_formula=spec.random).fit()

    def time_after(self, what: str) -> None:
        if what == "profile_re":
            self.result.profile_re(0, "re", num_low=1, dist_low=0.05, num_high=1, dist_high=0.05)
        else:
            getattr(self.result, what)
