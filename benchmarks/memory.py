"""Peak memory of a process that makes or reads the data and fits once."""

from __future__ import annotations

import mme

from . import problems


class Memory:
    params = ("slope20k", "insteval_1", "ml100k", "vc8", "ml1m")
    param_names = ("workload",)
    timeout = 300

    def setup(self, workload: str) -> None:
        self.data = problems.data(workload)

    def peakmem_data(self, workload: str) -> None:
        """The floor: interpreter, imports and data."""

    def peakmem_lmer(self, workload: str) -> None:
        mme.lmer(problems.formula(workload), self.data)


class MemoryMixedLM:
    params = ("slope20k", "intercept100k")
    param_names = ("workload",)
    timeout = 300

    def setup(self, workload: str) -> None:
        self.data = problems.data(workload)

    def peakmem_mixedlm(self, workload: str) -> None:
        spec = problems.GROUPED[workload]
        mme.MixedLM.from_formula(spec.fixed, self.data, groups=spec.groups, re_formula=spec.random).fit()
