"""Kernels compiled ahead: all of them when asked, and those a first fit will come to while it runs.

Numba holds a lock while it compiles, so threads do not help; processes that share a cache do. What one of
them compiles the others wait for, or leave to it (`mme.engine.kernels.locks`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from ..kernels import Kernel, Watcher
from ..kernels.signatures import AHEAD, GROUPS
from .parallel import n_threads

__all__ = ["Helper", "compile_groups", "warm"]

_ALONE = "MME_COMPILE_ALONE"  # set in helpers; set by a user: no helpers
# the package without its doors, and what they import
_HELPER = """
import sys, types
sys.modules["mme"] = package = types.ModuleType("mme")
package.__path__ = [sys.argv[1]]
from mme.engine.runtime.warm import compile_as_told
compile_as_told(sys.argv[2:], sys.stdin)
"""
_FOLDER = "mme.engine.kernels"
_ROOT = str(Path(__file__).parents[2])


def _kernel(name: str) -> Any:
    module, _, function = name.partition(".")
    found = getattr(import_module(f"{_FOLDER}.{module}"), function)
    return found.made() if isinstance(found, Kernel) else found


def compile_groups(names: list[str]) -> int:
    """Compile what is neither in the cache nor being compiled by another process.

    Parameters
    ----------
    names : list of str
        Keys of `mme.engine.kernels.signatures.GROUPS`.

    Returns
    -------
    int
        Number of versions compiled here.
    """
    from ..kernels.dispatchers import compile_kernel

    return sum(compile_kernel(_kernel(name), types) for name, types in _work(names))


def _work(names: Iterable[str]) -> list[tuple[str, str]]:
    """Kernels of these groups, with each of their types."""
    return [
        (name, types) for group in names for name, all_types in GROUPS[group].items() for types in all_types
    ]


def compile_as_told(names: list[str], told: Iterable[str]) -> None:
    """Compile groups, until a line names others that are needed sooner.

    Parameters
    ----------
    names : list of str
        Groups to begin with.
    told : iterable of str
        Lines of names, separated by blanks; the latest counts.
    """
    from ..kernels.dispatchers import compile_kernel

    latest = [names]

    def listen() -> None:
        latest.extend(line.split() for line in told)

    threading.Thread(target=listen, daemon=True).start()
    done: set[tuple[str, str]] = set()
    while left := [one for one in _work(latest[-1]) if one not in done]:
        done.add(left[0])
        compile_kernel(_kernel(left[0][0]), left[0][1])


def _start(names: list[str]) -> subprocess.Popen | None:
    """Another process that compiles these groups in silence; None where none can be started."""
    if not sys.executable or getattr(sys, "frozen", False):
        return None
    paths = [path for path in sys.path if path]
    environment = {**os.environ, _ALONE: "1", "PYTHONPATH": os.pathsep.join(paths)}
    streams: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    command = [sys.executable, "-c", _HELPER, _ROOT, *names]
    try:
        return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True, **streams)
    except OSError:  # this process compiles everything then, as it would without help
        return None


def warm(processes: int | None = None) -> None:
    """Compile every kernel that is not in the cache.

    Parameters
    ----------
    processes : int, optional
        By default one for each processor.
    """
    from ..kernels.dispatchers import provide_kernel

    names = list(GROUPS)
    alone = os.environ.get(_ALONE)
    os.environ[_ALONE] = "1"  # a helper that fits ask for would outlive this, and die with a container
    try:
        helpers = [_start(names) for _ in range((processes or n_threads()) - 1)]
        compile_groups(names)
        for helper in helpers:
            if helper is not None:
                helper.communicate()
        for name, types in _work(names):  # what another process has begun, or had when it died
            provide_kernel(_kernel(name), types)
    finally:
        if alone is None:
            del os.environ[_ALONE]


class Helper(Watcher):
    """Has another process compile what a fit will come to, from the first kernel of a group on.

    One helper at a time, told of each group that the fit comes to; none on one processor or where no cache
    can be written.
    """

    def __init__(self) -> None:
        self._groups = {
            f"{_FOLDER}.{name}": group
            for group, kernels in GROUPS.items()
            for name in kernels
            if group in AHEAD
        }
        self._seen: set[str] = set()
        self.process: subprocess.Popen | None = None

    def begin(self, function: Callable[..., Any], cache: str | None) -> None:
        """Tell the helper of the group this belongs to, or start one."""
        if cache is None or os.environ.get(_ALONE):
            return
        group = self._groups.get(f"{function.__module__}.{function.__name__}")
        if group is None or group in self._seen or n_threads() < 2:
            return
        self._seen.add(group)
        if not self._tell(AHEAD[group]):
            self.process = _start(list(AHEAD[group]))

    def _tell(self, names: tuple[str, ...]) -> bool:
        """Whether there is a helper that listens."""
        if self.process is None or self.process.poll() is not None or self.process.stdin is None:
            return False
        try:
            self.process.stdin.write(f"{' '.join(names)}\n")
            self.process.stdin.flush()
        except OSError:  # it has just ended
            return False
        return True
