"""Threads: results do not depend on their number, limits are respected, BLAS settings come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import threadpoolctl
from support import HERE, mark_slow

import mme
from mme.engine.direct.objective import Objective
from mme.engine.runtime import parallel

VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# Large enough to be cut into pieces: dense S of order 1,600 (factored by blocks), several crossed terms,
# vector terms by level, and the same through the other door.
FITS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import mme, numpy as np, pandas as pd, workloads
from mme.engine.runtime import parallel

def numbers(r):
    u = [np.asarray(x) for x in r.fit.u]
    parts = [[r.fit.loglik, r.fit.sigma2], r.fit.beta, np.diag(r.fit.vcov_beta), *r.fit.lam]
    parts += [[x.sum(), np.abs(x).sum(), x[0].sum(), x[-1].sum()] for x in u]
    return np.concatenate([np.ravel(x) for x in parts]).tolist()

slopes = workloads.slope(20_000, 10, 2)
vc8 = pd.read_csv(sys.argv[1] + "/data/sim_vc8.csv.gz")
out = {
    "ml100k": numbers(mme.lmer("y ~ 1 + (1 | u) + (1 | m)", workloads.make("ml100k"))),
    "vc8": numbers(mme.lmer("y ~ x + " + " + ".join(f"(1 | f{i})" for i in range(8)), vc8)),
    "slope20k": numbers(mme.lmer("y ~ x + (x | g)", slopes)),
    "d3": numbers(mme.lmer("y ~ u + (u | g) + (u | h) + (u | i)",
                           workloads.crossed_slopes(9, 13_042, (200, 110, 25)))),
}
r = mme.MixedLM.from_formula("y ~ x", slopes, groups="g", re_formula="~x").fit()
out["MixedLM"] = [r.llf, r.scale, *np.ravel(r.fe_params), *np.ravel(r.cov_re)]
print(json.dumps({"threads": parallel.n_threads(), "pools": len(parallel._pools), "values": out}))
"""


def in_a_process(**variables: str) -> dict:
    """The fits above in a process with these variables and no others about threads."""
    env = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    out = subprocess.run(
        [sys.executable, "-c", FITS, str(HERE)],
        capture_output=True,
        text=True,
        env={**env, **variables},
        timeout=600,
    )
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def one_thread() -> dict:
    return in_a_process(NUMBA_NUM_THREADS="1")


@pytest.mark.parametrize(
    "variables",
    mark_slow(
        [
            {"NUMBA_NUM_THREADS": "2"},
            {"OMP_NUM_THREADS": "2"},
            {"OMP_NUM_THREADS": "1"},
            {"NUMBA_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"},
        ],
        lambda variables: variables != {"NUMBA_NUM_THREADS": "2"},
    ),
    ids=lambda variables: ",".join(f"{k}={v}" for k, v in variables.items()),
)
def test_results_are_the_same_for_any_number_of_threads(one_thread, variables):
    other = in_a_process(**variables)
    expected = int(next(iter(variables.values())))
    assert (one_thread["threads"], other["threads"]) == (1, expected)
    assert one_thread["pools"] == 0
    assert (other["pools"] > 0) == (expected > 1)
    for name, values in one_thread["values"].items():
        np.testing.assert_allclose(other["values"][name], values, rtol=1e-9, atol=1e-9, err_msg=name)


# -- how many ------------------------------------------------------------------------------------------------


@pytest.fixture
def two(monkeypatch) -> None:
    """Two threads wanted, two processors, no variable about BLAS."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(parallel, "_processors", lambda: 2)
    with threadpoolctl.threadpool_limits(2):
        yield


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, 2),
        ({"NUMBA_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1,4"}, 1),
        ({"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "1"}, 2),
        ({"NUMBA_NUM_THREADS": "many"}, 2),
        ({"NUMBA_NUM_THREADS": "0"}, 2),
    ],
)
def test_variables(two, monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert parallel.n_threads() == expected


def test_a_limit_of_threadpoolctl_is_respected(two):
    assert parallel.n_threads() == 2
    with threadpoolctl.threadpool_limits(1):
        assert parallel.n_threads() == 1
        with parallel.single_threaded_blas():
            assert parallel.n_threads() == 1
    assert parallel.n_threads() == 2
    with parallel.single_threaded_blas():  # BLAS is on one thread now, and mme is not
        assert set(blas_threads()) == {1}
        assert parallel.n_threads() == 2


def test_a_fit_under_a_limit_of_one_starts_no_threads(two, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a pool was made")

    monkeypatch.setattr(parallel, "ThreadPoolExecutor", refuse)
    monkeypatch.setattr(parallel, "_pools", {})
    data = crossed()
    with threadpoolctl.threadpool_limits(1):
        mme.lmer(FORMULA, data)
    with pytest.raises(AssertionError, match="a pool was made"):  # or the check above would prove nothing
        mme.lmer(FORMULA, data)


def test_a_variable_for_one_library_is_no_limit(two, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert parallel.n_threads() == 2


# -- the user's BLAS setting ---------------------------------------------------------------------------------

FORMULA = "y ~ 1 + (1 | a) + (1 | b)"


def crossed(rows: int = 60_000) -> pd.DataFrame:
    """Large enough for several pieces."""
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 2_000, rows), rng.integers(0, 300, rows)
    y = rng.normal(size=2_000)[a] + rng.normal(size=300)[b] + rng.normal(size=rows)
    return pd.DataFrame({"y": y, "a": a, "b": b})


def perfect() -> pd.DataFrame:
    """Data that a fit refuses after it began."""
    g = np.repeat(np.arange(20), 3)
    return pd.DataFrame({"y": g.astype(float) ** 2, "a": g, "b": np.tile(np.arange(3), 20)})


def blas_threads() -> list[int]:
    """Threads of every BLAS of this process."""
    return [lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]


@pytest.fixture
def watched(monkeypatch) -> list[int]:
    """Largest BLAS setting at every evaluation."""
    seen: list[int] = []
    evaluate = Objective.evaluate

    def watch(self, *args, **kwargs):
        seen.append(max(blas_threads()))
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(Objective, "evaluate", watch)
    return seen


def test_blas_setting_comes_back_after_a_fit_and_after_an_error(two, watched):
    mme.lmer(FORMULA, crossed(2_000))  # loads every BLAS there is
    with threadpoolctl.threadpool_limits(2):
        before = blas_threads()
        mme.lmer(FORMULA, crossed(2_000))
        assert blas_threads() == before
        with pytest.raises(mme.exceptions.MMEError):
            mme.lmer(FORMULA, perfect())
        assert blas_threads() == before
    assert set(watched) == {1}


def test_blas_setting_comes_back_after_concurrent_fits(two, watched):
    data, bad = crossed(20_000), perfect()
    expected = mme.lmer(FORMULA, data).llf

    def one(i: int) -> float:
        if i % 3 == 2:
            with pytest.raises(mme.exceptions.MMEError):
                mme.lmer(FORMULA, bad)
            return expected
        return mme.lmer(FORMULA, data).llf

    with threadpoolctl.threadpool_limits(2):
        before = blas_threads()
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(one, range(9))) == pytest.approx([expected] * 9, rel=1e-12)
        assert blas_threads() == before
    assert set(watched) == {1}
    assert parallel._blas.users == 0


def test_a_fit_in_a_thread_leaves_the_setting_to_others(two):
    """threadpoolctl obeys the thread that set OpenBLAS first: that must not be a fit's."""
    data = crossed(2_000)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(mme.lmer, FORMULA, data).result()
        before = blas_threads()
        with threadpoolctl.threadpool_limits(1):
            assert set(blas_threads()) == {1}
        assert blas_threads() == before


class PerThread:
    """A BLAS on OpenMP: its setting belongs to the thread that makes it."""

    user_api, internal_api, threading_layer = "blas", "openblas", "openmp"

    def __init__(self) -> None:
        self.local = threading.local()

    def get_num_threads(self) -> int:
        return getattr(self.local, "threads", 2)

    def set_num_threads(self, threads: int) -> None:
        self.local.threads = threads


def test_a_blas_with_a_setting_for_each_thread(two, monkeypatch):
    lib = PerThread()
    monkeypatch.setattr(parallel, "_blas", parallel._Blas())
    monkeypatch.setattr(parallel, "_pools", {})
    monkeypatch.setattr(parallel, "_libraries", lambda: ([lib], []))
    seen: list[int] = []

    def fit(_: int) -> int:
        with parallel.single_threaded_blas():
            seen.extend(parallel.run(lambda i, a, b: lib.get_num_threads(), [(0, 1), (1, 2), (2, 3)]))
            seen.append(lib.get_num_threads())
        return lib.get_num_threads()

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(fit, range(6))) == {2}
    assert set(seen) == {1}


def test_pieces_of_concurrent_callers_share_one_pool(two):
    lock, active, most, blas = threading.Lock(), 0, 0, set()

    def piece(i: int, a: int, b: int) -> int:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
            blas.update(blas_threads())
        time.sleep(0.005)
        with lock:
            active -= 1
        return a

    ranges = [(i, i + 1) for i in range(6)]
    with ThreadPoolExecutor(4) as callers:
        results = list(callers.map(lambda _: parallel.run(piece, ranges), range(4)))
    assert results == [list(range(6))] * 4
    assert most <= 2
    assert blas == {1}  # also outside a fit


def test_a_piece_may_be_cut_again(two):
    def outer(i: int, a: int, b: int) -> int:
        return sum(parallel.run(lambda j, c, d: c + d, [(a, b), (b, a)]))

    assert parallel.run(outer, [(0, 1), (1, 2), (2, 3), (3, 4)]) == [2, 6, 10, 14]


def test_quota_of_a_container(monkeypatch, tmp_path):
    for text, expected in [("150000 100000\n", 2), ("max 100000\n", sys.maxsize), ("", sys.maxsize)]:
        (tmp_path / "cpu.max").write_text(text)
        monkeypatch.setattr(parallel, "Path", lambda _: tmp_path / "cpu.max")
        parallel._quota.cache_clear()
        assert parallel._quota() == expected
    parallel._quota.cache_clear()
