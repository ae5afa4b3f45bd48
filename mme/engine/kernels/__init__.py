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
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from numba import njit

__all__ = ["Kernel", "kernel"]

Given = ParamSpec("Given")
Result = TypeVar("Result", covariant=True)


class Kernel(Protocol[Given, Result]):
    """A compiled function, and what it was compiled from."""

    @property
    def py_func(self) -> Callable[Given, Result]: ...

    def __call__(self, *args: Given.args, **kwargs: Given.kwargs) -> Result: ...


@overload
def kernel(function_or_signature: Callable[Given, Result], **options: Any) -> Kernel[Given, Result]: ...


@overload
def kernel(
    function_or_signature: str, **options: Any
) -> Callable[[Callable[Given, Result]], Kernel[Given, Result]]: ...


def kernel(
    function_or_signature: Callable[Given, Result] | str, **options: Any
) -> Kernel[Given, Result] | Callable[[Callable[Given, Result]], Kernel[Given, Result]]:
    """``numba.njit`` with the settings common to all kernels of mme; ``options`` add to them.

    A signature may be stated, ``@kernel("i8(i8, f8[::1])")``: it documents the one combination of types the
    callers pass, but the kernel is still compiled at its first call, so that importing mme compiles nothing.
    """
    if isinstance(function_or_signature, str):
        return lambda function: kernel(function, **options)
    settings: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"} | options
    try:
        return njit(**settings)(function_or_signature)
    except RuntimeError:  # neither the package's folder nor a user cache can be written: compile every time
        return njit(**(settings | {"cache": False}))(function_or_signature)
