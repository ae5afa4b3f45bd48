"""The stages of a fit: cross-products, analysis, elimination, assembly, factor, inverse, traces."""

from __future__ import annotations

import numpy as np

import mme
from mme.engine.direct.plan import make_plan
from mme.engine.equations.equations import build_equations
from mme.engine.equations.layout import layout_of
from mme.engine.runtime.parallel import single_threaded_blas

from . import limits, problems


class Kernels:
    """Each stage after those before it, at theta = 1 on the diagonal."""

    params = ("slope20k", "insteval_1", "ml100k", "vc8")
    param_names = ("workload",)
    timeout = 300
    warmup_time = 0.0
    rounds = 1

    def setup(self, workload: str) -> None:
        model = mme.LinearMixedModel.from_formula(problems.formula(workload), problems.data(workload))
        self.design = model.model_design.design
        self.layout = layout_of(self.design)
        self.objective = limits.objective_of(workload)
        eq = self.objective.eq
        theta = np.array([float(a == b) for place in eq.layout.places for a, b in place.entries])
        self.assemble = limits.assembly(self.objective, theta)
        self.state = self.objective._state
        self.elimination = self.objective.elimination
        self.objective.evaluate(theta, 2)

    def time_cross_products(self, workload: str) -> None:
        with single_threaded_blas():
            build_equations(self.design, self.layout)

    def time_symbolic(self, workload: str) -> None:
        with single_threaded_blas():
            make_plan(self.objective.eq)

    def time_eliminate(self, workload: str) -> None:
        with single_threaded_blas():
            self.elimination.eliminate(self.state.lam1, self.state.D1)

    def time_assemble(self, workload: str) -> None:
        with single_threaded_blas():
            self.assemble()

    def time_assemble_and_factorize(self, workload: str) -> None:
        with single_threaded_blas():
            self.elimination.factorize(self.state.lam2)

    def time_selected_inverse(self, workload: str) -> None:
        if self.objective.eq.layout.q2:
            with single_threaded_blas():
                self.elimination.factor.selected_inverse()

    def time_inverse_and_traces(self, workload: str) -> None:
        with single_threaded_blas():
            self.elimination.traces(self.state.lam2)
