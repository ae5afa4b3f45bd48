"""One evaluation near the optimum: deviance (order 0), and gradient (1), and average information (2)."""

from __future__ import annotations

import numpy as np

import mme
from mme.objective import Objective

from . import problems


class Evaluate:
    """`Objective.evaluate` at a theta it has not just seen, which costs a factorization."""

    params = (problems.EVALUATE, [0, 1, 2])
    param_names = ("workload", "order")
    warmup_time = 0.0
    rounds = 1

    def setup(self, workload: str, order: int) -> None:
        result = mme.lmer(problems.formula(workload), problems.data(workload))
        self.objective = Objective(result.fit.design, reml=True)
        self.theta = np.concatenate([np.ravel(part) for part in result.fit.theta])
        self.calls = 0
        self.time_evaluate(workload, order)

    def time_evaluate(self, workload: str, order: int) -> None:
        self.calls += 1
        self.objective.evaluate(self.theta * (1.0 + 1e-3 * (self.calls % 2)), order)
