"""Random effects by group: statsmodels' dictionary, whose values are made when they are looked at."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pandas as pd
import pytest

import mme
from mme.facade.results.lazy import LazyDict


def _lazy(made: list) -> LazyDict:
    def make(i: int) -> float:
        made.append(i)
        return 10.0 * i

    return LazyDict(["a", "b", "c"], make)


def test_values_are_made_once_and_when_looked_at():
    made: list[int] = []
    lazy = _lazy(made)
    assert isinstance(lazy, dict)
    assert len(lazy) == 3 and "b" in lazy
    assert list(lazy) == ["a", "b", "c"] and list(lazy.keys()) == ["a", "b", "c"]
    assert made == []
    assert lazy["b"] == 10.0 and lazy["b"] == 10.0 and lazy.get("b") == 10.0
    assert made == [1]
    assert lazy.get("z") is None and lazy.get("z", 5) == 5
    with pytest.raises(KeyError):
        lazy["z"]


PLAIN = {"a": 0.0, "b": 10.0, "c": 20.0}


@pytest.mark.parametrize(
    "read",
    [
        dict,
        lambda d: dict(**d),
        lambda d: {**d},
        lambda d: d | {},
        lambda d: {} | d,
        lambda d: dict(d.items()),
        lambda d: dict(zip(d, d.values(), strict=True)),
        lambda d: d.copy(),
        copy.copy,
        copy.deepcopy,
        lambda d: pickle.loads(pickle.dumps(d)),
        lambda d: json.loads(json.dumps(d)),
        lambda d: pd.Series(d).to_dict(),
        lambda d: pd.DataFrame({"x": d})["x"].to_dict(),
        lambda d: {k: d.pop(k) for k in list(d)},
        lambda d: dict(d.popitem() for _ in range(3)),
        lambda d: {k: d.setdefault(k, 7.0) for k in d},
        lambda d: eval(repr(d)),
    ],
)
def test_all_ways_of_reading_give_the_values(read):
    got = read(_lazy([]))
    assert got == PLAIN
    assert _lazy([]) == PLAIN and PLAIN == _lazy([]) and _lazy([]) == _lazy([])
    assert not _lazy([]) != PLAIN
    assert _lazy([]) != {**PLAIN, "c": 1.0}


def test_values_that_are_set_stay():
    lazy = _lazy([])
    lazy["a"] = 3.0
    lazy["new"] = 4.0
    lazy.update({"b": 5.0})
    del lazy["c"]
    assert lazy == {"a": 3.0, "new": 4.0, "b": 5.0}


def test_random_effects_of_mixedlm(sleepstudy):
    result = mme.mixedlm("Reaction ~ Days", sleepstudy, groups="Subject", re_formula="~Days").fit()
    effects, covariances = result.random_effects, result.random_effects_cov
    frame = pd.DataFrame(effects).T
    assert frame.shape == (18, 2)
    np.testing.assert_array_equal(pd.DataFrame.from_dict(effects, orient="index"), frame)
    table = result.ranef_table()
    np.testing.assert_allclose(frame.to_numpy().ravel(), table.blup)
    variances = np.concatenate([np.diag(V) for V in covariances.values()])
    np.testing.assert_allclose(variances, table.se**2)
    again = pickle.loads(pickle.dumps(result))
    pd.testing.assert_series_equal(again.random_effects[308], effects[308])
