"""Data and models of the benchmarks: stored data sets and generated workloads of tests/, by structure."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pandas as pd

__all__ = ["EVALUATE", "GROUPED", "MEMORY", "STRUCTURES", "data", "formula"]

_TESTS = Path(__file__).resolve().parent.parent / "tests"

# structure -> workloads, small to large
STRUCTURES: dict[str, list[str]] = {
    "scalar": ["sleepstudy_int", "intercept100k"],
    "vector": ["sleepstudy_slope", "slope1k", "slope20k"],
    "nested": ["pastes_nested", "chem97", "nested10k"],
    "crossed": ["penicillin_crossed", "insteval_1", "ml100k"],
    "crossed vector": ["kb_mid", "kb_maximal"],
    "many components": ["vc8"],
}

# models that MixedLM's signature can state: (fixed part, random-effects formula, grouping column)
GROUPED: dict[str, tuple[str, str, str]] = {
    "sleepstudy_slope": ("Reaction ~ Days", "~Days", "Subject"),
    "slope20k": ("y ~ x", "~x", "g"),
    "intercept100k": ("y ~ x1 + x2", "~1", "g"),
}

EVALUATE = ["intercept100k", "slope20k", "chem97", "insteval_1", "ml100k", "kb_maximal", "vc8"]
MEMORY = ["slope20k", "insteval_1", "ml100k", "vc8"]

# sizes between the stored sets and the million-level workloads: (generator, arguments, formula)
_GENERATED: dict[str, tuple[str, tuple[int, ...], str]] = {
    "intercept100k": ("intercept", (100_000, 5, 6), "y ~ x1 + x2 + (1 | g)"),
    "nested10k": ("nested", (10_000, 10, 5, 7), "y ~ x + (1 | school/klass)"),
    "slope20k": ("slope", (20_000, 10, 2), "y ~ x + (x | g)"),
}


@cache
def _models() -> dict[str, dict]:
    with open(_TESTS / "reference" / "lme4.json") as file:
        return {model["name"]: model for model in json.load(file)["models"]}


@cache
def _workloads() -> ModuleType:
    """tests/workloads.py, which is not part of the package."""
    spec = importlib.util.spec_from_file_location("mme_workloads", _TESTS / "workloads.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def formula(name: str) -> str:
    """The lmer formula of a workload."""
    return _GENERATED[name][2] if name in _GENERATED else _models()[name]["formula"]


@cache
def data(name: str) -> pd.DataFrame:
    """The data frame of a workload."""
    if name in _GENERATED:
        generator, arguments, _ = _GENERATED[name]
        return getattr(_workloads(), generator)(*arguments)
    return pd.read_csv(_TESTS / "data" / f"{_models()[name]['data']}.csv.gz")
