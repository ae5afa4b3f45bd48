"""Ranges of work on a few Python threads (the kernels release the interpreter lock).

Work is cut into pieces by its amount, not by the number of threads, and partial sums are added in the order
of the pieces: results are the same whatever the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

__all__ = ["cut", "n_threads", "run"]

_PIECE = 2_000_000  # elementary operations worth handing to another thread (about 2 ms)
_MAX_PIECES = 32
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
    return [(int(a), int(b)) for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a]


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
