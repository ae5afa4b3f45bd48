"""What several test modules share: data sets, reference values, solvers that are installed."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mme.engine.equations.design import Design, RandomTerm
from mme.fit.fit import Fit

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


def random_design(seed: int) -> Design:
    """Two or three crossed factors, some with a slope, some weighted; variances well inside."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(800, 4000))
    y = 1.0 + rng.normal(size=n)
    terms = []
    for t in range(int(rng.integers(2, 4))):
        q = int(rng.integers(15, 120))
        codes = rng.permutation(np.r_[np.arange(q), rng.integers(0, q, n - q)]).astype(np.int32)
        if t == 0 and rng.random() < 0.4:
            columns = np.column_stack([np.ones(n), rng.normal(size=n)])
            b = rng.normal(size=(q, 2)) * [0.6, 0.4]
            y += np.sum(b[codes] * columns, axis=1)
            terms.append(RandomTerm(f"t{t}", codes, q, columns, column_names=("1", "x")))
        else:
            y += rng.uniform(0.3, 1.0) * rng.normal(size=q)[codes]
            terms.append(RandomTerm(f"t{t}", codes, q))
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    weights = rng.uniform(0.5, 2.0, n) if rng.random() < 0.3 else None
    return Design(y, X, terms, weights=weights)


def flat(fit: Fit) -> np.ndarray:
    return np.concatenate(fit.theta)


def errors_of(got: Fit, expected: Fit) -> np.ndarray:
    """Difference of theta in reported Monte Carlo errors."""
    return (flat(got) - flat(expected)) / got.monte_carlo.theta_error
