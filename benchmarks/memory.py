"""Peak memory of a process that makes or reads the data and fits once."""

from __future__ import annotations

import mme

from . import problems


class Memory:
    params = problems.MEMORY
    param_names = ("workload",)

    def setup(self, workload: str) -> None:
        self.data = problems.data(workload)

    def peakmem_data(self, workload: str) -> None:
        """The floor: interpreter, imports and data."""

    def peakmem_lmer(self, workload: str) -> None:
        mme.lmer(problems.formula(workload), self.data)
