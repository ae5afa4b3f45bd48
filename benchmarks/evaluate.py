"""One evaluation near the optimum: value, and gradient, and information; and the ratio to the limit."""

from __future__ import annotations

import numpy as np

from mme.engine.runtime.parallel import single_threaded_blas

from . import limits

WORKLOADS = ["intercept100k", "slope20k", "chem97", "insteval_1", "ml100k", "kb_maximal", "vc8"]
LIMITS = ["insteval_1", "ml100k", "ml1m"]


class Evaluate:
    """`Objective.evaluate` at a theta it has not just seen, which costs a factorization."""

    params = WORKLOADS
    param_names = ("workload",)
    timeout = 300
    warmup_time = 0.0
    rounds = 1

    def setup_cache(self) -> dict[str, np.ndarray]:
        """Optima: fitted once."""
        return {name: limits.theta_of(name) for name in WORKLOADS}

    def setup(self, thetas: dict[str, np.ndarray], workload: str) -> None:
        self.objective = limits.objective_of(workload)
        self.theta = thetas[workload]
        self.calls = 0
        self._evaluate(2)

    def _evaluate(self, order: int) -> None:
        self.calls += 1
        with single_threaded_blas():
            self.objective.evaluate(self.theta * (1.0 + 1e-4 * (self.calls % 2)), order)

    def time_value(self, thetas: dict[str, np.ndarray], workload: str) -> None:
        self._evaluate(0)

    def time_gradient(self, thetas: dict[str, np.ndarray], workload: str) -> None:
        self._evaluate(1)

    def time_information(self, thetas: dict[str, np.ndarray], workload: str) -> None:
        self._evaluate(2)


class Limit:
    """Ratios of times of one process; see `limits`."""

    params = LIMITS
    param_names = ("workload",)
    timeout = 300

    def setup_cache(self) -> dict[str, dict[str, float]]:
        """Everything measured at once."""
        return {name: limits.measure(name) for name in LIMITS}

    def track_value_over_limit(self, measured: dict[str, dict[str, float]], workload: str) -> float:
        """Value / (dpotrf of the Schur complement + its scatter)."""
        return measured[workload]["value_over_limit"]

    def track_gradient_over_value(self, measured: dict[str, dict[str, float]], workload: str) -> float:
        """Value and gradient / value."""
        return measured[workload]["gradient_over_value"]

    def track_information_over_value(self, measured: dict[str, dict[str, float]], workload: str) -> float:
        """Value, gradient and information / value."""
        return measured[workload]["information_over_value"]

    track_value_over_limit.unit = "ratio"
    track_gradient_over_value.unit = "ratio"
    track_information_over_value.unit = "ratio"
