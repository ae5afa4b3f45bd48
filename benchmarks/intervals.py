"""Profile intervals: of all parameters, and of a deviation and sigma over the time of a fit."""

from __future__ import annotations

import time

import mme
from mme.inference.parameters import choose

from . import problems


class Profile:
    """`conf_int(method="profile")` of an ML fit."""

    params = ("sleepstudy", "chem97", "insteval_1")
    param_names = ("workload",)
    timeout = 600
    warmup_time = 0.0
    rounds = 1

    def setup(self, workload: str) -> None:
        self.data, self.formula = problems.data(workload), problems.formula(workload)
        self.result = mme.lmer(self.formula, self.data, reml=False)
        variances = [p.name for p in choose(self.result.fitted.labels, "theta_")]
        self.two = [variances[0], variances[-1]]

    def time_all(self, workload: str) -> None:
        self.result.conf_int(method="profile")

    def track_two_over_a_fit(self, workload: str) -> float:
        """Seconds of two intervals over those of a fit, in one run."""
        begin = time.perf_counter()
        mme.lmer(self.formula, self.data, reml=False)
        middle = time.perf_counter()
        self.result.conf_int(method="profile", parm=self.two)
        return (time.perf_counter() - middle) / (middle - begin)
