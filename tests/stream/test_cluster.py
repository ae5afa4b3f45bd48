"""Dask: partitions summed where they are, on a cluster of real processes too."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pandas as pd
import pytest

import mme
from mme.exceptions import DataError, MissingDataWarning

from .data import FORMULAS, close

dd = pytest.importorskip("dask.dataframe", reason="dask (extra 'dask') is not installed")

LEVELS = ["slope", "factors", "crossed", "nested", "functions", "offsets", "category", "unbalanced names"]


@pytest.mark.parametrize("name", LEVELS)
def test_a_frame_of_dask_is_fitted_as_one_frame(data, name):
    parts = dd.from_pandas(data.sort_values("f", kind="stable").reset_index(drop=True), npartitions=11)
    close(mme.lmer(FORMULAS[name], parts.compute()), mme.lmer(FORMULAS[name], parts))


def test_missing_values_subsets_and_empty_partitions(data):
    data = data.copy()
    data.loc[[3, 50, 51], "x"] = np.nan
    first, formula = -1.5, "y ~ x + z + f + (x | g)"
    options = {"weights": "w", "offset": "o", "subset": "o > @first and h != 5"}
    with pytest.warns(MissingDataWarning):
        whole = mme.lmer(formula, data, **options)
    parts = dd.from_pandas(data, npartitions=5)
    with pytest.warns(MissingDataWarning, match=f"{whole.n_dropped} of {whole.n_dropped + whole.nobs} rows"):
        close(whole, mme.lmer(formula, parts, **options))
    emptied = parts[parts.g != data.g[0]]
    rest = emptied.map_partitions(lambda p: p[:0] if len(p) and p.index[0] == 0 else p, meta=emptied._meta)
    close(mme.lmer(formula, rest.compute(), missing="drop"), mme.lmer(formula, rest, missing="drop"))
    with pytest.raises(DataError, match="the chunks have no rows to use"):
        mme.lmer(formula, parts[parts.x > 1e9])
    assert first == -1.5


def test_variables_of_the_caller_go_along(data):
    def double(x):
        return 2.0 * x

    formula = "y ~ double(x) + (1 | g)"
    close(mme.lmer(formula, data), mme.lmer(formula, dd.from_pandas(data, npartitions=3)))


def test_cross_products_are_delayed(data):
    parts = dd.from_pandas(data, npartitions=4)
    sums = mme.CrossProducts.delayed(FORMULAS["factors"], parts)
    whole = mme.lmer(FORMULAS["factors"], data)
    close(whole, sums.fit().compute())
    assert sums.compute().nobs == len(data)
    again = pickle.loads(pickle.dumps(sums.compute()))
    close(whole, again.fit())
    with pytest.raises(DataError, match=r"takes a dask\.dataframe\.DataFrame, not a DataFrame"):
        mme.CrossProducts.delayed(FORMULAS["factors"], data)


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed", reason="distributed (extra 'dask') is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as local:
        yield local


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


def rows_of_partition(i: int, folder: str, n: int = 400) -> pd.DataFrame:
    """Made on a worker; says by a file which process did."""
    with open(os.path.join(folder, f"{i}-{os.getpid()}"), "w"):
        pass
    rng = np.random.default_rng(i)
    g, x = rng.integers(0, 60, n), rng.normal(size=n) + 5.0
    u = np.random.default_rng(99).normal(size=(60, 2))
    y = 3.0 + x + u[g, 0] + 0.5 * u[g, 1] * x + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "g": g, "f": np.array(["a", "b", "c"])[rng.integers(0, 3, n)]})


def killer(rows: pd.DataFrame, folder: str) -> pd.DataFrame:
    """The first process to see the seventh partition ends there and then."""
    mark = os.path.join(folder, "killed")
    if rows.attrs["i"] == 6 and not os.path.exists(mark):
        with open(mark, "w"):
            pass
        os._exit(1)
    return rows


def partition(i: int, folder: str, kill: bool) -> pd.DataFrame:
    rows = rows_of_partition(i, folder)
    rows.attrs["i"] = i
    return killer(rows, folder) if kill else rows


FORMULA = "y ~ x + f + (x | g)"


@pytest.mark.parametrize("kill", [False, True])
def test_two_processes_and_one_that_is_lost(client, tmp_path, kill):
    import sys

    import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        (tmp_path / "seen").mkdir()
        whole = mme.lmer(
            FORMULA,
            pd.concat([rows_of_partition(i, str(tmp_path)) for i in range(12)], ignore_index=True),
        )
        for mark in tmp_path.glob("*-*"):
            mark.unlink()
        meta = partition(0, str(tmp_path / "seen"), False)[:0]
        frame = dd.from_map(partition, range(12), folder=str(tmp_path), kill=kill, meta=meta)
        close(whole, mme.lmer(FORMULA, frame))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    seen = [mark.name.split("-") for mark in tmp_path.glob("*-*")]
    assert {int(i) for i, _ in seen} == set(range(12))
    # no partition was made, or came, here
    assert str(os.getpid()) not in {process for _, process in seen}
    assert (tmp_path / "killed").exists() == kill


def test_the_client_gets_sums_alone(client):
    """What comes back is of the size of the levels, not of the rows, and a fit may be made by a worker."""
    rows = pd.DataFrame(
        {"y": np.arange(20_000.0) % 7, "x": np.arange(20_000.0) % 11, "g": np.arange(20_000) % 13}
    )
    frame = dd.from_pandas(rows, npartitions=8)
    sums = mme.CrossProducts.of("y ~ x + (1 | g)", frame)
    assert len(pickle.dumps(sums)) < 40_000 < rows.memory_usage(index=False).sum()
    there = mme.CrossProducts.delayed("y ~ x + (1 | g)", frame)
    process = client.submit(lambda fit: (os.getpid(), fit.deviance), client.compute(there.fit())).result()
    assert process[0] != os.getpid() and process[1] == pytest.approx(sums.fit().deviance, rel=1e-10)


def test_draws_of_a_bootstrap_on_a_cluster(client):
    sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    results = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    here = results.bootstrap(40, seed=3)
    there = results.bootstrap(40, seed=3, workers=client)
    assert here.draws.equals(there.draws)
    assert results.bootstrap(20, seed=3, workers=client, first=20).draws.equals(here.draws[20:])
    smaller = mme.lmer("Reaction ~ Days + (1 | Subject)", sleep)
    tests = [results.bootstrap_test(smaller, 20, seed=1, workers=w) for w in (1, client)]
    assert tests[0].equals(tests[1])
