"""What a fit says while it runs, on standard error: compilations, hints, a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from ..kernels import Watcher, watch

__all__ = ["Progress", "say", "say_once"]

_PAUSE = 10.0  # seconds without compilation after which the next one is announced again
_WAIT = 2.0  # seconds of a fit of unknown length before a bar appears
_said: set[str] = set()


def say(message: str) -> None:
    """One line on standard error."""
    if sys.stderr is not None:  # there is none under pythonw
        print(f"mme: {message}", file=sys.stderr, flush=True)


def say_once(topic: str, message: str) -> None:
    """`say`, once per process and topic."""
    if topic not in _said:
        _said.add(topic)
        say(message)


class CompilationNotice(Watcher):
    """Says that kernels are being compiled, before the first of each group and after every pause.

    No caller of a kernel has to foresee it.
    """

    GROUPS = {  # noqa: RUF012 (never changed)
        "mme.engine.kernels.elimination_tree": "kernels of sparse factorizations",
        "mme.engine.kernels.selected_inverse": "kernels of sparse factorizations",
        "mme.engine.kernels.iterative": "kernels of the iterative solver",
    }

    def __init__(self) -> None:
        self._announced: set[str] = set()
        self._last = -float("inf")

    def begin(self, function: Callable[..., Any], cache: str | None) -> None:
        """Announce the kernel that is about to be compiled, unless its group has just been."""
        group = self.GROUPS.get(function.__module__, "numerical kernels")
        if group not in self._announced or time.monotonic() - self._last > _PAUSE:
            self._announced.add(group)
            often = "once per installation"
            if cache is None:
                often = "in every process, since no cache can be written: set NUMBA_CACHE_DIR to a folder"
            say(f"compiling {group}, {often} (seconds to a minute)")
        self._last = time.monotonic()

    def end(self) -> None:
        """Begin the pause."""
        self._last = time.monotonic()


watch(CompilationNotice())


class Progress:
    """A tqdm bar: from the beginning of a fit that is predicted to be long, else once it has taken a while.

    Parameters
    ----------
    show : bool or None
        None: only on a terminal or in a notebook.
    label : str
        What the bar says of the fit.
    long : bool or None
        Whether the fit is predicted to take long: without `show`, False means no bar; None if nothing is
        predicted, and the bar appears after two seconds.
    total : int, optional
        Steps there are to do, where that is known.
    unit : str
        What a step is called.
    """

    def __init__(
        self,
        show: bool | None,
        label: str = "mme",
        long: bool | None = None,
        total: int | None = None,
        unit: str = " step",
    ) -> None:
        self._total, self._unit = total, unit
        self.show = (_is_watched() and long is not False) if show is None else bool(show)
        self._at_once = show is True or bool(long)
        self._label = label
        self._bar = None
        self._begin = time.perf_counter()
        if self.show and self._at_once:
            self._open()

    def _open(self) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(desc=self._label, total=self._total, unit=self._unit, leave=False, file=sys.stderr)

    def report(self, step: int, **numbers: object) -> None:
        """Show a step, and what there is to say of it."""
        if not self.show or (not self._at_once and time.perf_counter() - self._begin < _WAIT):
            return
        if self._bar is None:
            self._open()
        assert self._bar is not None
        self._bar.update(step - self._bar.n)
        if numbers:
            self._bar.set_postfix({name.replace("_", " "): value for name, value in numbers.items()})

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


def _is_watched() -> bool:
    """Whether standard error is a terminal, or the output of a notebook's cell."""
    if sys.stderr is None:
        return False
    if sys.stderr.isatty():
        return True
    return "ipykernel.zmqshell" in sys.modules  # as tqdm.auto decides
