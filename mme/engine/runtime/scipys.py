"""scipy's linear algebra, imported when a fit needs it: it takes long, and most small fits do not."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from .parallel import refresh_blas

__all__ = ["scipy_module", "sparse", "special"]


@cache
def scipy_module(name: str) -> Any:
    """A module of scipy's; its BLAS, if it was not there yet, joins those that run on one thread.

    Parameters
    ----------
    name : str
        For example ``"linalg.lapack"``.
    """
    module = import_module(f"scipy.{name}")
    refresh_blas()
    return module


class _Late:
    """A module of scipy's, imported at the first look at one of its names."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(scipy_module(self._name), name)


sparse: Any = _Late("sparse")
special: Any = _Late("special")
