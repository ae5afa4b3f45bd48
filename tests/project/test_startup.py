"""What a new process waits for: modules that are imported, kernels that are compiled.

Seconds are measured by `benchmarks/startup.py`; here stands what they are made of.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

FIRST_FIT = """
import pandas as pd, mme
mme.lmer("Reaction ~ Days + (Days | Subject)", pd.read_csv(mme.data_path("sleepstudy.csv")))
"""

# the same, with Numba asked what it compiles; what it loads from the cache is not compiled
COMPILED = f"""
import json
from numba.core import event

class Compiled(event.Listener):
    def __init__(self):
        self.names = []
    def on_start(self, event):
        function = event.data["dispatcher"].py_func
        if function.__module__.startswith("mme."):  # not the parts of Numba itself
            self.names.append(f"{{function.__module__}}.{{function.__name__}}")
    def on_end(self, event):
        pass

compiled = Compiled()
event.register("numba:compile", compiled)
import mme
imported = len(compiled.names)
{FIRST_FIT}
print(json.dumps([imported, compiled.names]))
"""

# what only some programs need, and takes long to load
LATE = [
    "formulaic",
    "llvmlite",
    "matplotlib",
    "numba",
    "patsy",
    "scipy",
    "sksparse",
    "statsmodels",
    "tqdm",
    "mme.engine.iterative.objective",
    "mme.facade.model",
]


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )
    assert out.returncode == 0, out.stderr
    return out


def modules(code: str, **environment: str) -> set[str]:
    """Names of the modules that are there after `code` in a new process."""
    return set(run(f"{code}\nimport sys\nprint(*sys.modules)", **environment).stdout.split())


def test_import_loads_nothing_that_is_needed_late():
    loaded = modules("import mme")
    assert "mme.lmm.model" in loaded
    assert loaded.isdisjoint(LATE)


@pytest.mark.slow
def test_import_adds_little_to_its_dependencies():
    """Where statsmodels and Numba are loaded already, its own modules and a small one."""
    dependencies = "import statsmodels.api, numba"
    added = modules(f"{dependencies}, mme") - modules(dependencies)
    assert {name.partition(".")[0] for name in added} == {"mme", "threadpoolctl"}


def test_a_small_fit_needs_no_scipy():
    loaded = modules(FIRST_FIT)
    assert "numba" in loaded
    assert loaded.isdisjoint({"scipy.linalg", "scipy.sparse"})  # Numba asks for the version alone


@pytest.fixture(scope="module")
def cold(tmp_path_factory) -> tuple[subprocess.CompletedProcess, str]:
    """The first fit of an installation, and the cache it left."""
    cache = str(tmp_path_factory.mktemp("numba"))
    return run(COMPILED, NUMBA_CACHE_DIR=cache, MME_COMPILE_ALONE="1"), cache


@pytest.mark.slow
def test_first_fit_of_an_installation(cold):
    """Importing compiles nothing; a fit compiles each kernel it needs once, a small part of all there are."""
    imported, compiled = json.loads(cold[0].stdout)
    assert imported == 0
    assert len(compiled) == len(set(compiled)), "a kernel was compiled for two signatures"
    assert 0 < len(compiled) <= 20, compiled


@pytest.mark.slow
def test_the_wait_is_announced_in_one_line(cold):
    """Once, on stderr, and never again."""
    first, cache = cold
    assert len([line for line in first.stderr.splitlines() if "mme" in line]) == 1, first.stderr
    assert run(FIRST_FIT, NUMBA_CACHE_DIR=cache).stderr == ""


@pytest.mark.slow
def test_first_fit_of_a_process(cold):
    """Kernels come from the cache."""
    again = run(COMPILED, NUMBA_CACHE_DIR=cold[1])
    assert json.loads(again.stdout) == [0, []]


@pytest.mark.slow
def test_loading_kernels_sets_up_no_compiler(cold):
    """Nothing is imported that Numba registers for compiling alone."""
    loaded = modules(FIRST_FIT, NUMBA_CACHE_DIR=cold[1])
    assert "numba" in loaded
    assert loaded.isdisjoint({"numba.np.arrayobj", "numba.np.linalg", "numba.typed.dictobject"})
