"""What a user waits for before the first number: imports, and the first fit with and without a JIT cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

_FIRST_FIT = """
import pandas as pd, mme
mme.lmer("Reaction ~ Days + (Days | Subject)", pd.read_csv(mme.data_path("sleepstudy.csv")))
"""
_CROSSED = """
import numpy as np, pandas as pd, mme
rng = np.random.default_rng(1)
g, h = np.repeat(np.arange(24), 6), np.tile(np.arange(6), 24)
y = 2.0 * rng.standard_normal(24)[g] + rng.standard_normal(6)[h] + rng.standard_normal(144)
mme.lmer("y ~ 1 + (1 | g) + (1 | h)", pd.DataFrame({"y": y, "g": g, "h": h}), solver="%s")
"""
_SINGULAR = """
import numpy as np, pandas as pd, mme
rng = np.random.default_rng(1)
g, x, z = np.repeat(np.arange(12), 10), rng.standard_normal(120), rng.standard_normal(120)
y = x + 0.3 * rng.standard_normal(12)[g] + rng.standard_normal(120)
assert mme.lmer("y ~ x + (x + z | g)", pd.DataFrame({"y": y, "g": g, "x": x, "z": z})).is_singular
"""


def _seconds(code: str, **environment: str) -> float:
    """Of one process; modules are read as they are on disk once they have been imported."""
    environment = {**os.environ, **environment}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # every process would compile all modules anew
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return time.perf_counter() - start


def _cold(code: str) -> float:
    with tempfile.TemporaryDirectory() as cache:
        return _seconds(code, NUMBA_CACHE_DIR=cache)


class Startup:
    """New processes; the smallest of three, the first of which warms the caches of disk and JIT."""

    timeout = 300
    unit = "s"

    def _track(self, code: str) -> float:
        return min(_seconds(code) for _ in range(3))

    def track_import_of_dependencies(self) -> float:
        return self._track("import statsmodels.api, numba")

    def track_import(self) -> float:
        return self._track("import statsmodels.api, numba, mme")

    def track_first_fit(self) -> float:
        return self._track(_FIRST_FIT)

    def track_first_fit_of_an_installation(self) -> float:
        """An empty JIT cache."""
        return _cold(_FIRST_FIT)

    def track_first_crossed_fit_of_an_installation(self) -> float:
        return _cold(_CROSSED % "direct")

    def track_first_iterative_fit_of_an_installation(self) -> float:
        return _cold(_CROSSED % "iterative")

    def track_first_singular_fit_of_an_installation(self) -> float:
        return _cold(_SINGULAR)
