"""Without scikit-sparse: the same fit by SuperLU, and the result says so."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support import HERE, SOLVERS, reference_models

SCRIPT = """
import json, sys, warnings
sys.modules["sksparse"] = None  # import sksparse now fails, as it does where the extra is not installed
import pandas as pd
import mme
data = pd.read_csv(sys.argv[1])
out = []
for solver in ("auto", "superlu", "cholmod"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        r = mme.lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", data, solver=solver)
    names = [w.category.__name__ for w in caught if issubclass(w.category, mme.exceptions.MMEWarning)]
    out.append({"asked": solver, "ran": r.fit_info["solver"], "llf": float(r.llf), "warnings": names})
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def fits() -> dict[str, dict]:
    data = HERE / "data" / "Penicillin.csv.gz"
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(data)], capture_output=True, text=True, check=False, timeout=300
    )
    assert out.returncode == 0, out.stderr
    return {fit["asked"]: fit for fit in json.loads(out.stdout.splitlines()[-1])}


@pytest.mark.parametrize("asked", ["auto", "superlu", "cholmod"])
def test_every_solver_gives_the_fit(fits, asked):
    best = reference_models()["penicillin_crossed"]["reml"]["loglik_best"]
    assert fits[asked]["llf"] == pytest.approx(best, abs=1e-7)


def test_superlu_is_named(fits):
    assert "SuperLU" in fits["superlu"]["ran"]
    assert not fits["superlu"]["warnings"]


def test_asking_for_cholmod_warns_and_falls_back(fits):
    assert "SuperLU" in fits["cholmod"]["ran"]
    assert fits["cholmod"]["warnings"] == ["SolverFallbackWarning"]


def test_the_choice_by_itself_does_not_warn(fits):
    """A plain installation is not a mistake: no warning, and no CHOLMOD in the record."""
    assert not fits["auto"]["warnings"]
    assert "CHOLMOD" not in fits["auto"]["ran"]


FORKED = """
import multiprocessing as mp
import sys

import numpy as np
import pandas as pd

import mme

rng = np.random.default_rng(1)
n = 4000
d = pd.DataFrame({"a": rng.integers(0, 300, n), "b": rng.integers(0, 200, n)})
d["y"] = rng.normal(size=300)[d.a] + rng.normal(size=200)[d.b] + rng.normal(size=n)


def fit(queue=None):
    llf = mme.lmer("y ~ (1 | a) + (1 | b)", d, solver=sys.argv[1]).llf
    if queue is None:
        return llf
    queue.put(llf)


here = fit()
context = mp.get_context("fork")
queue = context.Queue()
child = context.Process(target=fit, args=(queue,))
child.start()
there = queue.get(timeout=60)
child.join(60)
assert child.exitcode == 0 and there == here, (here, there)
"""


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_fit_in_a_forked_process_after_a_fit(solver):
    """Thread teams do not survive a fork; nothing may wait for them."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED, solver], capture_output=True, text=True, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr
