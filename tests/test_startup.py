"""What a new process waits for: imports, and the first fit with an empty and with a warm JIT cache.

Times are processor seconds of a child process with one BLAS thread, the best of a few where that is cheap: on
an idle machine wall-clock time, and steadier on a busy one.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

DEPENDENCIES = "import statsmodels.api, numba"
IMPORT = DEPENDENCIES + ", mme"
FIRST_FIT = """
import pandas as pd, mme
mme.lmer("Reaction ~ Days + (Days | Subject)", pd.read_csv(mme.data_path("sleepstudy.csv")))
"""


def run(code: str, **environment: str) -> tuple[float, str]:
    """Processor seconds of a child and what it wrote to stderr."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300)
    assert out.returncode == 0, out.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime), out.stderr


def best(code: str, **environment: str) -> float:
    return min(run(code, **environment)[0] for _ in range(4))


def test_import_adds_less_than_a_second():
    assert best(IMPORT) - best(DEPENDENCIES) < 1.0


@pytest.fixture(scope="module")
def cold(tmp_path_factory) -> tuple[float, str, str]:
    """The first fit of an installation: seconds, stderr, and the cache it left."""
    cache = str(tmp_path_factory.mktemp("numba"))
    return *run(FIRST_FIT, NUMBA_CACHE_DIR=cache), cache


def test_first_fit_of_an_installation(cold):
    seconds, _, _ = cold
    assert seconds < 15.0


def test_the_wait_is_announced_in_one_line(cold):
    """Once, on stderr, and never again."""
    _, stderr, cache = cold
    assert len([line for line in stderr.splitlines() if "mme" in line]) == 1, stderr
    assert run(FIRST_FIT, NUMBA_CACHE_DIR=cache)[1] == ""


def test_first_fit_of_a_process(cold):
    _, _, cache = cold
    assert best(FIRST_FIT, NUMBA_CACHE_DIR=cache) < 1.5
