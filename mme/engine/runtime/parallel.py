"""Ranges of work on a few Python threads (the kernels release the interpreter lock).

Work is cut into pieces by its amount, not by the number of threads, and partial sums are added in the order
of the pieces: results are the same whatever the number of threads.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import threadpoolctl

__all__ = ["cut", "n_threads", "refresh_blas", "row_chunks", "run", "single_threaded_blas"]

_PIECE = 2_000_000  # elementary operations worth handing to another thread (about 2 ms)
_MAX_PIECES = 32
_ROWS = 32_768
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()
_worker = threading.local()


def n_threads() -> int:
    """Threads to use.

    NUMBA_NUM_THREADS or OMP_NUM_THREADS if set, else the processors of this process; at most what
    `threadpoolctl.threadpool_limits` allows BLAS or OpenMP at the beginning of the fit.
    """
    return max(1, min(_wanted(), _blas.allowed()))


def _wanted() -> int:
    return _environment("NUMBA_NUM_THREADS", "OMP_NUM_THREADS") or _processors()


def _environment(*names: str) -> int:
    """The first of these variables that is a positive number; 0 if none is."""
    for name in names:
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdigit() and int(value) > 0:
            return int(value)
    return 0


def _processors() -> int:
    """Processors this process may run on, at most its control group's quota."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min(count, _quota()))


@cache
def _quota() -> int:
    """Processors that a Linux control group (a container) grants in time, rounded up."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return sys.maxsize


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
    # a piece that is cut again runs on its own thread: a pool that waits for itself never ends
    threads = 1 if len(ranges) <= 1 or getattr(_worker, "busy", False) else n_threads()
    if threads <= 1:
        return [function(i, a, b) for i, (a, b) in enumerate(ranges)]
    with single_threaded_blas():
        pool = _pool(threads)
        return list(pool.map(lambda item: function(item[0], *item[1]), enumerate(ranges)))


def _pool(threads: int) -> ThreadPoolExecutor:
    """The pool of this many threads, shared by all fits of the process."""
    key = (os.getpid(), threads)  # threads do not survive a fork
    with _pools_lock:
        if key not in _pools:
            _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="mme", initializer=_mark_worker)
        return _pools[key]


def _mark_worker() -> None:
    _worker.busy = True
    for lib in _blas.own():
        _set_threads(lib, 1)


# What a library takes its number of threads from, and otherwise uses every processor.
_VARIABLES = {
    "openblas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "openmp": ("OMP_NUM_THREADS",),
}


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
        self.openmp: list = []
        self.before: list[int] = []
        self.limit = sys.maxsize  # while there are users

    def enter(self) -> None:
        with self.lock:
            if self.users == 0:
                self.limit = self._limit()
                self.before = [lib.get_num_threads() for lib in self.libraries or []]
                self.set(1)
            self.users += 1

    def allowed(self) -> int:
        """Threads the user's settings of BLAS and OpenMP allow; during a fit, those at its beginning."""
        with self.lock:
            return self.limit if self.users else self._limit()

    def _limit(self) -> int:
        """The smallest setting below what a library chooses by itself: somebody limited it.

        A variable for one library alone, such as OPENBLAS_NUM_THREADS=1, is no limit for mme.
        """
        if self.libraries is None:
            self.libraries, self.openmp = _libraries()
        limit = sys.maxsize
        for lib in [*self.libraries, *self.openmp]:
            if lib.internal_api not in _VARIABLES:
                continue
            now = lib.get_num_threads()
            if now is not None and now < (_environment(*_VARIABLES[lib.internal_api]) or _processors()):
                limit = min(limit, now)
        return limit

    def refresh(self) -> None:
        """Take in libraries loaded since: SuiteSparse brings a BLAS of its own."""
        with self.lock:
            known = {lib.filepath for lib in self.libraries or []}
            found, self.openmp = _libraries()
            new = [lib for lib in found if lib.filepath not in known]
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
            if before is not None and before > 1 and not _per_thread(lib):
                _set_threads(lib, before if threads is None else min(threads, before))

    def own(self) -> list:
        """Libraries whose setting belongs to the calling thread."""
        return [lib for lib in self.libraries or [] if _per_thread(lib)]


def _per_thread(lib: threadpoolctl.LibController) -> bool:
    return getattr(lib, "threading_layer", "") == "openmp"


def _set_threads(lib: threadpoolctl.LibController, threads: int) -> None:
    """Set a library's threads for the process, from any thread.

    Recent versions of threadpoolctl obey the first thread that sets OpenBLAS and silently ignore all others
    until that one lets go.  Fits begin and end in any thread: a setting ignored would oversubscribe, one not
    restored, or a control not let go, would take the user's away.
    """
    getattr(lib, "_real_set_num_threads", lib.set_num_threads)(threads)


def _libraries() -> tuple[list, list]:
    """Controllers of the BLAS and of the OpenMP libraries of this process."""
    controllers = threadpoolctl.ThreadpoolController().lib_controllers
    blas = [lib for lib in controllers if lib.user_api == "blas"]
    return blas, [lib for lib in controllers if lib.user_api == "openmp"]


_blas = _Blas()


def refresh_blas() -> None:
    """Call once after a library with its own BLAS was loaded."""
    _blas.refresh()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Run small linear algebra on the calling thread; restores the user's setting."""
    _blas.enter()
    own = [(lib, lib.get_num_threads()) for lib in _blas.own()]
    try:
        for lib, _ in own:
            _set_threads(lib, 1)
        yield
    finally:
        for lib, before in own:
            _set_threads(lib, before)
        _blas.leave()
