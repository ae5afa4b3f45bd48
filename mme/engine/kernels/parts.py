"""How Numba compiles what only kernels call: to intermediate code, and no further.

A part ends up inside of each kernel that calls it, and is optimised there with all around it. Numba would
optimise it by itself before, turn it into machine code that nobody calls, and have Python call that.

Much of what this builds on is Numba's own business, as in `mme.engine.kernels.cache`.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.registry import CPUDispatcher

__all__ = ["Part", "PartCompiler"]

_NEEDED = ("_optimize_final_module", "_finalize_final_module", "_finalize_dynamic_globals")
if not all(hasattr(JITCodeLibrary, name) for name in _NEEDED):
    raise ImportError("this Numba's libraries of code are not those that are known.")


class _Unlinked:
    """A code generator, for code that is not there: what kernels have inside is theirs to set up."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def set_env(self, name: str, environment: Any) -> None:
        """Nothing; `KernelCache` does so for the kernel."""


class _Library(JITCodeLibrary):
    """Intermediate code, to be linked into kernels."""

    @property
    def codegen(self) -> Any:
        """The code generator."""
        return _Unlinked(self._codegen)

    def get_pointer_to_function(self, name: str) -> int:
        """None."""
        return 0

    def _optimize_final_module(self) -> None:
        """The kernel's turn."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class PartCompiler(Compiler):
    """Numba's compiler, ending with intermediate code."""

    def __init__(self, typing: Any, target: Any, library: Any, *rest: Any) -> None:
        super().__init__(typing, target, library, *rest)
        if library is None:
            self.state.library = _Library(target.codegen(), "part")


class Part(CPUDispatcher):
    """A function for kernels; Python has it interpreted."""

    def __call__(self, *args: Any) -> Any:
        return self.py_func(*args)
