"""Without scikit-sparse: the same fit by SuperLU, and the result says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import reference_models

HERE = Path(__file__).parent

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
