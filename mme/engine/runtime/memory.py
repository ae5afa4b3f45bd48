"""Memory that this process can still allocate."""

from __future__ import annotations

import os

import numpy as np

__all__ = ["available_memory"]


def available_memory() -> float:
    """Bytes this process can still allocate: limits of the machine, the control group and the process."""
    limits = []
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    limits.append(float(line.split()[1]) * 1024)
    except OSError:
        limits.append(float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES"))
    folder = "/sys/fs/cgroup"
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, used = _read_number(f"{folder}/{limit}"), _read_number(f"{folder}/{usage}")
        if most is not None and used is not None:
            limits.append(max(0.0, most - used))
    return min([*limits, *_own_limits()], default=np.inf)


def _own_limits() -> list[float]:
    """Bytes left below the process's limits of address space and of data (``ulimit -v``, ``ulimit -d``)."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            pages = [float(word) for word in file.read().split()]
    except (ImportError, OSError):
        return []
    left = []
    for kind, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
        most = resource.getrlimit(kind)[0]
        if most != resource.RLIM_INFINITY:
            left.append(max(0.0, most - used * resource.getpagesize()))
    return left


def _read_number(path: str) -> float | None:
    """A number from a file of the system; None if there is none to read or it says "max"."""
    try:
        with open(path) as file:
            text = file.read().strip()
    except OSError:
        return None
    return float(text) if text.isdigit() else None
