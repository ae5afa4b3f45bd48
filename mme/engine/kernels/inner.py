"""The decorator of what only kernels call: it is compiled into each of them and not kept by itself."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

__all__ = ["part"]

Function = TypeVar("Function", bound=Callable[..., Any])


def part(function: Function) -> Function:
    """``numba.njit`` for functions that Python does not call."""
    settings: dict[str, Any] = {"no_cfunc_wrapper": True}
    return njit(nogil=True, error_model="numpy", **settings)(function)
