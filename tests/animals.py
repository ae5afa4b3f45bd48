"""A simulated population of related animals, and its fit."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

import mme

__all__ = ["fitted", "herd"]


def herd(n=160, seed=4, h2=0.6):
    """A simulated population with records of the younger animals, some twice."""
    rng = np.random.default_rng(seed)
    sire, dam = np.zeros(n, int), np.zeros(n, int)
    for i in range(30, n):
        pool = np.arange(max(0, i - 60), i)
        sire[i], dam[i] = 1 + rng.choice(pool[pool % 2 == 0]), 1 + rng.choice(pool[pool % 2 == 1])
    pedigree = mme.Pedigree(np.arange(1, n + 1), sire, dam)
    animal = np.concatenate([np.arange(31, n + 1), rng.integers(31, n + 1, n)])
    u = pd.Series(2.0 * pedigree.relation.related(rng.normal(size=n)), pedigree.labels)
    m = animal.size
    data = pd.DataFrame(
        {
            "animal": animal,
            "dam": dam[animal - 1],
            "herd": rng.integers(0, 9, m),
            "sex": rng.integers(0, 2, m),
        }
    )
    data["x"] = rng.normal(size=m)
    noise = 2.0 * np.sqrt((1 - h2) / h2) * rng.normal(size=m)
    data["y"] = 10.0 + data["sex"] + rng.normal(size=9)[data["herd"]] + u.loc[animal].to_numpy() + noise
    return data, pedigree


@cache
def fitted(formula="y ~ sex + (1 | animal) + (1 | herd)", reml=True):
    data, pedigree = herd()
    return mme.lmer(formula, data, reml, relationship={"animal": pedigree})
