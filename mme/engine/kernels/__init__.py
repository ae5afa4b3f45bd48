"""Numba kernels: pure functions on arrays, importing nothing of mme.

Two decorators serve all of them: `kernel` for what the rest of mme calls, `part` for what only kernels call.
Kernels are cached on disk: a user compiles once per installation, not once per process.  ``nogil=True``:
ranges of columns or levels run in Python threads, so that no kernel needs Numba's parallel back end (slow to
compile) and results do not depend on the number of threads.  ``error_model="numpy"``: division by zero gives
inf, as the surrounding numpy code expects; failures are returned as a status.  Callers pass one dtype and
layout per argument (float64, int64 pointers, int32 indices, C order unless said), so that each kernel is
compiled once, at its first call: importing mme compiles nothing, and does not import Numba either.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, ParamSpec, TypeVar, cast

__all__ = ["Kernel", "Late", "Watcher", "kernel", "kernels", "part", "watch", "watchers"]

Given = ParamSpec("Given")
Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])
_making = threading.RLock()
_kernels: list[Kernel] = []


@contextmanager
def _no_collections() -> Iterator[None]:
    """Importing Numba makes a million objects that stay: collecting garbage takes as long, and finds none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Late:
    """Something of Numba's that is made when a kernel is compiled that calls it by a global name."""

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make
        self._made: object = None

    def made(self) -> object:
        """What `make` returns, made once."""
        with _making:
            if self._made is None:
                self._made = self._make()
            return self._made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("only compiled code can call this.")


class Kernel(Late, Generic[Given, Result]):
    """A function that is compiled, or taken from the cache, when it is first called.

    Attributes
    ----------
    py_func : callable
        What it is compiled from.
    """

    def __init__(self, function: Callable[Given, Result], cached: bool) -> None:
        super().__init__(self._dispatcher)
        self.py_func = function
        self._cached = cached
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__

    def __call__(self, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        compiled = self._made or self.made()
        result: Result = cast(Any, compiled)(*args, **kwargs)
        return result

    @property
    def signatures(self) -> list[Any]:
        """The types it has been called with in this process."""
        return [] if self._made is None else list(cast(Any, self._made).signatures)

    def __repr__(self) -> str:
        return f"<kernel {self.py_func.__module__}.{self.__name__}>"

    def _dispatcher(self) -> object:
        with _no_collections():
            from .dispatchers import dispatcher

        made = dispatcher(self.py_func, self._parts, self._cached)
        names = self.py_func.__globals__
        if names.get(self.__name__) is self:  # from now on those who ask the module have it directly
            names[self.__name__] = made
        return made

    def _parts(self) -> None:
        """Make what the function calls; code from the cache has it inside."""
        names = self.py_func.__globals__
        for name in self.py_func.__code__.co_names:
            value = names.get(name)
            if isinstance(value, Late) and value is not self:
                names[name] = value.made()


def kernel(function: Callable[Given, Result]) -> Kernel[Given, Result]:
    """A function that Python calls: cached on disk."""
    made = Kernel(function, cached=True)
    _kernels.append(made)
    return made


def part(function: Function) -> Function:
    """A function that only kernels call: compiled into each of them, so there is nothing to keep on disk."""
    return cast(Function, Kernel(function, cached=False))


def kernels() -> tuple[Kernel, ...]:
    """All that can be called, of the modules imported so far."""
    return tuple(_kernels)


class Watcher:
    """Told of every kernel that is compiled; those that come from the cache are not."""

    def begin(self, function: Callable[..., Any], cache: str | None) -> None:
        """`function` is about to be compiled; `cache` is the folder where the code will be kept, if any."""

    def end(self) -> None:
        """It has been."""


watchers: list[Watcher] = []


def watch(watcher: Watcher) -> None:
    """Tell `watcher` of what is compiled from now on."""
    watchers.append(watcher)
