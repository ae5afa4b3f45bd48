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


def _seconds(code: str, **environment: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **environment})
    return time.perf_counter() - start


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
        with tempfile.TemporaryDirectory() as cache:
            return _seconds(_FIRST_FIT, NUMBA_CACHE_DIR=cache)
