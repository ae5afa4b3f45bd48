"""Data and models of the benchmarks: stored data sets and generated workloads of tests/, by structure."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import pandas as pd

__all__ = [
    "GROUPED",
    "PEERS",
    "STRUCTURES",
    "Grouped",
    "Problem",
    "data",
    "formula",
    "grouping_columns",
    "problem",
    "reference",
]

TESTS = Path(__file__).resolve().parent.parent / "tests"

# structure -> workloads, small to large: what asv fits
STRUCTURES: dict[str, list[str]] = {
    "scalar": ["sleepstudy_int", "intercept100k"],
    "vector": ["sleepstudy", "slope1k", "slope20k"],
    "nested": ["pastes_nested", "chem97", "nested10k"],
    "crossed": ["penicillin_crossed", "insteval_1", "ml100k"],
    "crossed vector": ["kb_mid", "kb_maximal", "d3_small"],
    "many components": ["vc8"],
}

# the table of peers.py: workload -> what it is
PEERS: dict[str, str] = {
    "sleepstudy": "slope, 180 rows",
    "chem97": "nested, 31k rows",
    "slope20k": "slope, 20k groups, 200k rows",
    "insteval_1": "3 crossed factors, 73k rows",
    "vc8": "8 crossed factors, 20k rows",
    "kb_maximal": "20 covariance parameters, singular",
    "ml100k": "ratings 943 x 1624, 88k rows",
    "ml1m": "ratings 6040 x 3697, 977k rows",
    "d3": "3 vector terms, crossed, 130k rows",
    "intercept1m": "1M groups, 5M rows",
    "nested1m": "100k/1M groups, 5M rows",
    "slope1m": "slope, 1M groups, 10M rows",
}

# workloads under a name of their own in tests/reference/lme4.json
_STORED = {"sleepstudy": "sleepstudy_slope"}

# sizes between the stored sets and the million-level workloads: (generator, arguments, formula)
_GENERATED: dict[str, tuple[str, tuple, str]] = {
    "intercept100k": ("intercept", (100_000, 5, 6), "y ~ x1 + x2 + (1 | g)"),
    "nested10k": ("nested", (10_000, 10, 5, 7), "y ~ x + (1 | school/klass)"),
    "d3_small": ("crossed_slopes", (9, 13_042, (200, 110, 25)), "y ~ u + (u | g) + (u | h) + (u | i)"),
}


@dataclass(frozen=True)
class Problem:
    """A data set and a model.

    Attributes
    ----------
    name : str
    formula : str
        In lme4's syntax as `mme.lmm.model` reads it.
    formula_r : str
        The same as R reads it.
    loglik, loglik_ml : float or None
        Best log-likelihood any implementation reached, REML and ML, where one is known: from
        tests/reference/lme4.json and tests/workloads.py, which say where the values come from.
    """

    name: str
    formula: str
    formula_r: str
    loglik: float | None = None
    loglik_ml: float | None = None


@dataclass(frozen=True)
class Grouped:
    """A model in the signature of statsmodels' ``MixedLM.from_formula``."""

    fixed: str
    groups: str
    random: str | None = None
    components: dict[str, str] | None = None


# models that statsmodels' signature can state
GROUPED: dict[str, Grouped] = {
    "sleepstudy": Grouped("Reaction ~ Days", "Subject", "~Days"),
    "chem97": Grouped("score ~ gcsecnt + gender", "lea", "1", {"school": "0 + C(school)"}),
    "slope20k": Grouped("y ~ x", "g", "~x"),
    "intercept100k": Grouped("y ~ x1 + x2", "g"),
    "nested10k": Grouped("y ~ x", "school", "1", {"klass": "0 + C(klass)"}),
    "insteval_2": Grouped("y ~ 1", "one", None, {"s": "0 + C(s)", "d": "0 + C(d)"}),  # a column of ones
    "intercept1m": Grouped("y ~ x1 + x2", "g"),
    "nested1m": Grouped("y ~ x", "school", "1", {"klass": "0 + C(klass)"}),
    "slope1m": Grouped("y ~ x", "g", "~x"),
}


@cache
def _models() -> dict[str, dict]:
    with open(TESTS / "reference" / "lme4.json") as file:
        return {model["name"]: model for model in json.load(file)["models"]}


@cache
def _workloads() -> ModuleType:
    """tests/workloads.py, which is not part of the package."""
    spec = importlib.util.spec_from_file_location("mme_workloads", TESTS / "workloads.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _stored(name: str) -> dict | None:
    """Reference model whose data are stored in tests/data."""
    model = _models().get(_STORED.get(name, name))
    if model is None or not (TESTS / "data" / f"{model['data']}.csv.gz").exists():
        return None
    return model


def problem(name: str) -> Problem:
    """A workload by name.

    Raises
    ------
    KeyError
        No such workload.
    """
    if name in _GENERATED:
        text = _GENERATED[name][2]
        return Problem(name, text, text)
    work = _workloads().WORKLOADS.get(name)
    if work is not None:
        ml = _models().get(name, {}).get("ml") or {}
        return Problem(name, work.formula, work.formula, work.loglik, ml.get("loglik_best"))
    model = _stored(name)
    if model is None:
        raise KeyError(f"no workload {name!r}; the table has {', '.join(PEERS)}.")
    best = (model["reml"]["loglik_best"], model["ml"]["loglik_best"])
    return Problem(name, model["formula"], model["formula_r"], *best)


def formula(name: str) -> str:
    """The lmer formula of a workload."""
    return problem(name).formula


def reference(name: str) -> float | None:
    """Best known REML log-likelihood of a workload."""
    return problem(name).loglik


@cache
def data(name: str) -> pd.DataFrame:
    """The data frame of a workload."""
    if name in _GENERATED:
        generator, arguments, _ = _GENERATED[name]
        return getattr(_workloads(), generator)(*arguments)
    if name in _workloads().WORKLOADS:
        return _workloads().WORKLOADS[name].build()
    model = _stored(name)
    if model is None:
        raise KeyError(f"no workload {name!r}.")
    return pd.read_csv(TESTS / "data" / f"{model['data']}.csv.gz")


def grouping_columns(text: str) -> list[str]:
    """Columns that a formula groups by, in order of appearance.

    Examples
    --------
    >>> grouping_columns("y ~ x + (x | g) + (1 | a/b)")
    ['g', 'a', 'b']
    """
    names: list[str] = []
    for bar in re.findall(r"\|\s*([^|()]+)\)", text):
        for name in re.split(r"[/:+*]", bar):
            if name.strip() not in names:
                names.append(name.strip())
    return names
