"""What several test modules share: data sets, reference values, solvers that are installed."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

HERE = Path(__file__).parent


def has_cholmod() -> bool:
    """Whether scikit-sparse can be imported here."""
    return importlib.util.find_spec("sksparse") is not None


SOLVERS = [
    "dense",
    pytest.param(
        "cholmod",
        marks=pytest.mark.skipif(
            not has_cholmod(), reason="scikit-sparse is not installed (extra 'cholmod'); SuperLU is tested"
        ),
    ),
    "superlu",
]


@cache
def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(HERE / "data" / f"{name}.csv.gz")


def load_data(name: str) -> pd.DataFrame:
    """A data set of tests/data; columns typed as R's read.csv types them."""
    return _read(name).copy()


@cache
def reference_models() -> dict[str, dict]:
    """Models of tests/reference/lme4.json by name."""
    with open(HERE / "reference" / "lme4.json") as file:
        return {m["name"]: m for m in json.load(file)["models"]}


@cache
def inference_reference() -> dict[str, dict]:
    """Models of tests/reference/inference.json by name."""
    with open(HERE / "reference" / "inference.json") as file:
        return json.load(file)["models"]
