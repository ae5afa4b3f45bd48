"""Whole fits, data frame and formula in, by structure of the model; kernels compiled in setup."""

from __future__ import annotations

import mme

from . import problems


class _Fit:
    """REML fit through lmer."""

    param_names = ("workload",)
    warmup_time = 0.0
    rounds = 1

    def setup(self, workload: str) -> None:
        self.data = problems.data(workload)
        self.formula = problems.formula(workload)
        self.result = mme.lmer(self.formula, self.data)

    def time_lmer(self, workload: str) -> None:
        mme.lmer(self.formula, self.data)

    def track_evaluations(self, workload: str) -> int:
        return self.result.fit.record.evaluations

    track_evaluations.unit = "evaluations"


class Scalar(_Fit):
    params = problems.STRUCTURES["scalar"]


class Vector(_Fit):
    params = problems.STRUCTURES["vector"]


class Nested(_Fit):
    params = problems.STRUCTURES["nested"]


class Crossed(_Fit):
    params = problems.STRUCTURES["crossed"]


class CrossedVector(_Fit):
    params = problems.STRUCTURES["crossed vector"]


class ManyComponents(_Fit):
    params = problems.STRUCTURES["many components"]


class MixedLM:
    """The same engine through statsmodels' signature."""

    params = tuple(problems.GROUPED)
    param_names = ("workload",)
    warmup_time = 0.0
    rounds = 1

    def setup(self, workload: str) -> None:
        self.data = problems.data(workload)
        self.fixed, self.random, self.groups = problems.GROUPED[workload]
        self.time_mixedlm(workload)

    def time_mixedlm(self, workload: str) -> None:
        mme.MixedLM.from_formula(self.fixed, self.data, re_formula=self.random, groups=self.groups).fit()
