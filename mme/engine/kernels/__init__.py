"""Numba kernels: pure functions on arrays, importing nothing of mme.

One decorator serves all of them.  ``cache=True``: a user compiles once per installation, not once per
process.  ``nogil=True``: ranges of columns or levels run in Python threads, so that no kernel needs
Numba's parallel back end (slow to compile) and results do not depend on the number of threads.
``error_model="numpy"``: division by zero gives inf, as the surrounding numpy code expects; failures are
returned as a status.  Callers pass one dtype and layout per argument (float64, int64 pointers, int32
indices, C order unless said), so that each kernel is compiled once, at its first call: importing mme
compiles nothing.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from numba import njit

__all__ = ["Kernel", "kernel"]

Given = ParamSpec("Given")
Result = TypeVar("Result", covariant=True)


class Kernel(Protocol[Given, Result]):
    """A compiled function, and what it was compiled from."""

    @property
    def py_func(self) -> Callable[Given, Result]: ...

    def __call__(self, *args: Given.args, **kwargs: Given.kwargs) -> Result: ...


def kernel(function: Callable[Given, Result]) -> Kernel[Given, Result]:
    """``numba.njit`` with the settings common to all kernels of mme."""
    settings: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
    try:
        return njit(**settings)(function)
    except RuntimeError:  # neither the package's folder nor a user cache can be written: compile every time
        return njit(**(settings | {"cache": False}))(function)
