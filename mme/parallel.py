"""Ranges of work on a few Python threads (the kernels release the interpreter lock).

Work is cut into pieces by its amount, not by the number of threads, and partial sums are added in the order
of the pieces: results are the same whatever the number of threads.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import threadpoolctl

__all__ = ["cut", "n_threads", "refresh_blas", "row_chunks", "run", "single_threaded_blas"]

_PIECE = 2_000_000  # elementary operations worth handing to another thread (about 2 ms)
_MAX_PIECES = 32
_ROWS = 32_768
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def n_threads() -> int:
    """Threads to use: NUMBA_NUM_THREADS or OMP_NUM_THREADS if set, else the processors of this process."""
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdigit() and int(value) > 0:
            return int(value)
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def cut(costs: np.ndarray | None, n_items: int, total: float | None = None) -> list[tuple[int, int]]:
    """Consecutive ranges of about equal cost.

    Parameters
    ----------
    costs : ndarray, shape (n_items,), or None
        Cost of each item in elementary operations; None for equal costs adding up to `total`.
    n_items : int
    total : float, optional
        Total cost if `costs` is None.

    Returns
    -------
    list of (int, int)
        Half-open ranges covering 0..n_items; at least one, possibly empty.
    """
    if costs is not None:
        cumulative = np.cumsum(costs, dtype=np.float64)
        total = float(cumulative[-1]) if n_items else 0.0
    assert total is not None
    pieces = int(min(max(1, total // _PIECE), _MAX_PIECES, max(1, n_items)))
    if pieces == 1:
        return [(0, n_items)]
    if costs is None:
        edges = np.linspace(0, n_items, pieces + 1).astype(np.int64)
    else:
        marks = total * np.arange(1, pieces) / pieces
        edges = np.r_[0, np.searchsorted(cumulative, marks, side="left") + 1, n_items]
        edges = np.minimum(np.maximum.accumulate(edges), n_items)
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges) if b > a]


def row_chunks(n: int) -> list[tuple[int, int]]:
    """Ranges of rows whose blocks stay in cache; the same for any number of threads."""
    return [(a, min(n, a + _ROWS)) for a in range(0, n, _ROWS)] or [(0, 0)]


def run(function: Callable[[int, int, int], object], ranges: list[tuple[int, int]]) -> list:
    """Call ``function(piece, start, stop)`` for every range; results in the order of the ranges."""
    threads = min(n_threads(), len(ranges))
    if threads <= 1:
        return [function(i, a, b) for i, (a, b) in enumerate(ranges)]
    key = (os.getpid(), threads)  # threads do not survive a fork
    pool = _pools.get(key)
    if pool is None:
        pool = _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="mme")
    return list(pool.map(lambda item: function(item[0], *item[1]), enumerate(ranges)))


class _Blas:
    """The BLAS libraries of this process and how many threads they may use.

    A fit makes thousands of small BLAS calls, for which waking other threads costs far more than it gains,
    and threaded BLAS waits by spinning (measured: 20 times slower than one thread at order 1,500, load 4 on
    2 processors).  So every call runs on one thread, and large ones are cut up for `run`.  Nested and
    concurrent fits are counted: the first in remembers the user's setting, the last out restores it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.libraries: list | None = None
        self.before: list[int] = []

    def enter(self) -> None:
        with self.lock:
            if self.libraries is None:
                self.libraries = _blas_libraries()
            if self.users == 0:
                self.before = [lib.get_num_threads() for lib in self.libraries]
                self.set(1)
            self.users += 1

    def refresh(self) -> None:
        """Take in libraries loaded since: SuiteSparse brings a BLAS of its own."""
        with self.lock:
            known = {lib.filepath for lib in self.libraries or []}
            new = [lib for lib in _blas_libraries() if lib.filepath not in known]
            self.libraries = (self.libraries or []) + new
            self.before += [lib.get_num_threads() for lib in new]
            if self.users:
                self.set(1)

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                self.set(None)

    def set(self, threads: int | None) -> None:
        for lib, before in zip(self.libraries or [], self.before, strict=True):
            if before is not None and before > 1:
                lib.set_num_threads(before if threads is None else min(threads, before))


def _blas_libraries() -> list:
    controller = threadpoolctl.ThreadpoolController()
    return [lib for lib in controller.lib_controllers if lib.user_api == "blas"]


_blas = _Blas()


def refresh_blas() -> None:
    """Call once after a library with its own BLAS was loaded."""
    _blas.refresh()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Run small linear algebra on the calling thread; restores the user's setting."""
    _blas.enter()
    try:
        yield
    finally:
        _blas.leave()
