"""Synthetic workloads: the data sets that are too large to store, made from a seed.

    python tests/workloads.py NAME [OUT.csv]

Every builder returns a data frame with integer codes for the grouping factors.  The shapes follow data sets
that other libraries publish timings on: film ratings, crossed psycholinguistic designs, pupils in schools.
The order of the random draws is part of the definition (numpy 2 generators): reference values depend on it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

__all__ = ["WORKLOADS", "Workload", "make"]


def slope(groups: int, size: int, seed: int) -> pd.DataFrame:
    """``y ~ x + (x | g)``: `groups` levels of `size` rows each."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), size)
    x = rng.normal(size=groups * size)
    b = rng.normal(size=(groups, 2)) @ np.linalg.cholesky(np.array([[1, 0.3], [0.3, 0.5]])).T
    y = 1 + 2 * x + b[g, 0] + b[g, 1] * x + rng.normal(size=groups * size)
    return pd.DataFrame({"y": np.round(y, 5), "x": np.round(x, 5), "g": g})


def ratings(n: int, users: int, items: int, seed: int) -> pd.DataFrame:
    """``y ~ 1 + (1 | u) + (1 | m)``: crossed ratings on a 1..5 scale, both factors heavy-tailed."""
    rng = np.random.default_rng(seed)
    pu = rng.lognormal(0, 1.1, users)
    pm = rng.lognormal(0, 1.6, items)
    u = rng.choice(users, size=int(n * 1.35), p=pu / pu.sum())
    m = rng.choice(items, size=int(n * 1.35), p=pm / pm.sum())
    key = np.unique(u.astype(np.int64) * items + m)
    key = rng.permutation(key)[:n]
    u, m = key // items, key % items
    y = 3.5 + rng.normal(size=users)[u] * 0.43 + rng.normal(size=items)[m] * 0.55
    y = np.clip(np.round(y + 0.9 * rng.normal(size=len(u))), 1, 5)
    return pd.DataFrame({"y": y.astype(int), "u": u, "m": m})


def crossed_slopes(
    seed: int = 9, n: int = 130418, levels: tuple[int, int, int] = (2000, 1100, 250)
) -> pd.DataFrame:
    """``y ~ u + (u | g) + (u | h) + (u | i)``: three vector terms, nine covariance parameters; h within i."""
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, levels[0], n), rng.integers(0, levels[1], n)]
    codes.append(codes[1] % levels[2])
    u = rng.normal(size=n)
    y = np.zeros(n)
    for f, q, sd in zip(codes, levels, (0.5, 0.4, 0.3), strict=True):
        b = rng.normal(size=(q, 2)) * sd
        y += b[f, 0] + b[f, 1] * 0.4 * u
    y += 0.5 + 0.3 * u + rng.normal(size=n)
    columns = {"y": np.round(y, 4), "u": np.round(u, 4), "g": codes[0], "h": codes[1], "i": codes[2]}
    return pd.DataFrame(columns)


def intercept(groups: int, size: int, seed: int) -> pd.DataFrame:
    """``y ~ x1 + x2 + (1 | g)``: one scalar term, many groups of unequal size (mean `size`)."""
    rng = np.random.default_rng(seed)
    g = np.sort(rng.integers(0, groups, groups * size))
    x = rng.normal(size=(groups * size, 2))
    y = 1 + x @ [0.5, -0.25] + 0.7 * rng.normal(size=groups)[g] + rng.normal(size=groups * size)
    return pd.DataFrame({"y": y, "x1": x[:, 0], "x2": x[:, 1], "g": g})


def nested(schools: int, classes: int, pupils: int, seed: int) -> pd.DataFrame:
    """``y ~ x + (1 | school/klass)``: classes nested in schools, pupils in classes."""
    rng = np.random.default_rng(seed)
    klass = np.repeat(np.arange(schools * classes), pupils)
    school = klass // classes
    x = rng.normal(size=klass.size)
    y = 2 + x + 0.8 * rng.normal(size=schools)[school] + 0.5 * rng.normal(size=schools * classes)[klass]
    y += rng.normal(size=klass.size)
    return pd.DataFrame({"y": y, "x": x, "school": school, "klass": klass})


@dataclass(frozen=True)
class Workload:
    """A data set, its model, and where it is known the REML log-likelihood other implementations reach."""

    build: Callable[[], pd.DataFrame]
    formula: str
    loglik: float | None = None


WORKLOADS: dict[str, Workload] = {
    "slope20k": Workload(lambda: slope(20_000, 10, 2), "y ~ x + (x | g)", -322623.304163),
    "slope1m": Workload(lambda: slope(1_000_000, 10, 5), "y ~ x + (x | g)"),
    "intercept1m": Workload(lambda: intercept(1_000_000, 5, 6), "y ~ x1 + x2 + (1 | g)"),
    "nested1m": Workload(lambda: nested(100_000, 10, 5, 7), "y ~ x + (1 | school/klass)"),
    "ml100k": Workload(lambda: ratings(100_000, 943, 1682, 3), "y ~ 1 + (1 | u) + (1 | m)", -116427.733943),
    "ml1m": Workload(lambda: ratings(1_000_209, 6040, 3706, 4), "y ~ 1 + (1 | u) + (1 | m)", -1276660.479472),
    "d3": Workload(crossed_slopes, "y ~ u + (u | g) + (u | h) + (u | i)", -191735.287393),
}


def make(name: str) -> pd.DataFrame:
    """The data of a workload."""
    return WORKLOADS[name].build()


if __name__ == "__main__":
    make(sys.argv[1]).to_csv(sys.argv[2] if len(sys.argv) > 2 else sys.stdout, index=False)
