"""What several test modules share: data sets, reference values, solvers that are installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mme.engine.equations.design import Design, RandomTerm
from mme.fit.fit import Fit
from mme.formula import r_name

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


@cache
def unbalanced_reference() -> dict[str, dict]:
    """Models of tests/reference/inference_unbalanced.json by name."""
    with open(HERE / "reference" / "inference_unbalanced.json") as file:
        return json.load(file)["models"]


@cache
def read_reference(name: str) -> dict[str, dict]:
    """Models of a file of tests/reference by name."""
    with open(HERE / "reference" / f"{name}.json") as file:
        return json.load(file)["models"]


@cache
def small_sample_reference() -> dict[str, dict]:
    """Models of tests/reference/smallsample.json by name."""
    with open(HERE / "reference" / "smallsample.json") as file:
        return json.load(file)["models"]


@cache
def emmeans_reference() -> dict[str, dict]:
    """Models of tests/reference/emmeans.json by name."""
    with open(HERE / "reference" / "emmeans.json") as file:
        return json.load(file)["models"]


def mark_slow(cases: Iterable, slow: Callable[[Any], bool]) -> list:
    """Cases of a parametrization, those for which `slow` holds left out of the fast lane.

    A case is one argument, or a tuple of several.
    """
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        if slow(case)
        else case
        for case in cases
    ]


def reference(name: str, method: str) -> dict:
    return reference_models()[name][method]


def comparable(name: str, method: str) -> bool:
    """Whether the file gives estimates and the optimum is not singular."""
    ref = reference(name, method)
    return "fixef" in ref and not ref["singular_lme4"]


def stopping(name: str, method: str) -> float:
    """How far lme4 stopped from the optimum, in standard errors of its covariance parameters.

    Near the optimum the log-likelihood falls by z^2 / 2 at z standard errors, so a gap g in log-likelihood
    lets theta, and any smooth function of it, lie up to sqrt(2 g) standard errors away from lme4's value.
    The gap is the file's loglik_best - loglik_lme4, at least the rounding of a number stored with 15 digits.
    """
    ref = reference(name, method)
    rounding = 1e-15 * abs(ref["loglik_lme4"])
    return float(np.sqrt(2.0 * max(ref["loglik_best"] - ref["loglik_lme4"], rounding)))


def r_names(index) -> list[str]:
    """Names as R writes them; R's factor() is spelled C() in our formulas."""
    return [r_name(name).replace("factor(", "C(") for name in index]


def aligned(series, expected: dict) -> tuple[np.ndarray, np.ndarray]:
    """Values of a labelled series and of R's named vector in the same order; the same names in both."""
    ours = dict(zip(r_names(series.index), np.asarray(series), strict=True))
    theirs = {name.replace("factor(", "C("): value for name, value in expected.items()}
    assert sorted(ours) == sorted(theirs)
    return np.array([ours[name] for name in theirs]), np.array(list(theirs.values()))


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
