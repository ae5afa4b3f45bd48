"""Kernels compiled ahead: all of them when asked, and those a first fit will come to while it runs.

Numba holds a lock while it compiles, so threads do not help; processes that share a cache do. What one of
them compiles the others wait for, or leave to it (`mme.engine.kernels.locks`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ..kernels import Kernel, Watcher
from ..kernels.signatures import GROUPS
from .parallel import n_threads

__all__ = ["Helper", "compile_groups", "warm"]

_ALONE = "MME_COMPILE_ALONE"  # set in helpers; set by a user: no helpers
# the package without its doors, and what they import
_HELPER = """
import sys, types
sys.modules["mme"] = package = types.ModuleType("mme")
package.__path__ = [sys.argv[1]]
from mme.engine.runtime.warm import compile_groups
compile_groups(sys.argv[2:])
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

    work = [
        (name, types) for group in names for name, all_types in GROUPS[group].items() for types in all_types
    ]
    return sum(compile_kernel(_kernel(name), types) for name, types in work)


def _start(names: list[str]) -> subprocess.Popen | None:
    """Another process that compiles these groups in silence; None where none can be started."""
    if not sys.executable or getattr(sys, "frozen", False):
        return None
    paths = [path for path in sys.path if path]
    environment = {**os.environ, _ALONE: "1", "PYTHONPATH": os.pathsep.join(paths)}
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    try:
        return subprocess.Popen([sys.executable, "-c", _HELPER, _ROOT, *names], env=environment, **streams)
    except OSError:  # this process compiles everything then, as it would without help
        return None


def warm(processes: int | None = None) -> None:
    """Compile every kernel that is not in the cache.

    Parameters
    ----------
    processes : int, optional
        By default one for each processor.
    """
    names = list(GROUPS)
    helpers = [_start(names) for _ in range((processes or n_threads()) - 1)]
    compile_groups(names)
    for helper in helpers:
        if helper is not None:
            helper.wait()
    compile_groups(names)  # what a helper that died had begun


class Helper(Watcher):
    """Starts another process at the first kernel of a group, to compile the group from its other end.

    One helper at a time, and none on one processor or where no cache can be written.
    """

    def __init__(self) -> None:
        self._groups = {
            f"{_FOLDER}.{name}": group
            for group, kernels in GROUPS.items()
            for name in kernels
            if group != "other"
        }
        self._waiting: list[str] = []
        self._seen: set[str] = set()
        self.process: subprocess.Popen | None = None

    def begin(self, function: Callable[..., Any], cache: str | None) -> None:
        """Start a helper, unless there is one."""
        if cache is None or os.environ.get(_ALONE):
            return
        group = self._groups.get(f"{function.__module__}.{function.__name__}")
        if group is not None and group not in self._seen:
            self._seen.add(group)
            self._waiting.append(group)
        if self._waiting and (self.process is None or self.process.poll() is not None) and n_threads() > 1:
            self.process = _start(self._waiting)
            self._waiting = []
