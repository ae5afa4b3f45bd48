"""Numba's cache on disk, with what a library needs beside: read-only places, quick loading, a lock.

Much of what this builds on is Numba's own business.  Importing fails where a Numba has it otherwise: kernels
are then cached as Numba does it (`mme.engine.kernels.dispatchers`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding as llvm
from numba.core import caching
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile
from numba.core.codegen import CPUCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.environment import Environment
from numba.core.runtime import _nrt_python  # type: ignore[attr-defined]

from .locks import Lock

__all__ = ["KernelCache"]

_NEEDED = {
    FunctionCache: ("_load_overload", "_index_key", "_guard_against_spurious_io_errors"),
    CPUCodeLibrary: ("_get_module_for_linking",),
    _nrt_python: ("c_helpers",),
}
if not all(hasattr(owner, name) for owner, names in _NEEDED.items() for name in names):
    raise ImportError("this Numba's cache is not the one that is known.")

_InTree: Any = getattr(caching, "InTreeCacheLocator", None) or getattr(caching, "_InTreeCacheLocator", None)
if _InTree is None:
    raise ImportError("this Numba keeps no code beside the source.")


class _Unwritable(_InTree):
    """The folder beside the source, to be read only."""

    def ensure_cache_path(self) -> None:
        """Nothing will be written."""

    def get_cache_path(self) -> str:
        """Numba's place for it."""
        return str(super().get_cache_path())


class _CacheImpl(CompileResultCacheImpl):
    """Numba's choice of a folder (NUMBA_CACHE_DIR, the package's, the user's), or one that is only read."""

    _locator_classes = [*CompileResultCacheImpl._locator_classes, _Unwritable]  # noqa: RUF012

    def reduce(self, data: Any) -> Any:
        """What is written to disk.

        Constants of the functions that were compiled with the kernel belong to it. Those of Numba's own would
        have Numba import their modules, a third of what a small first fit takes, for nothing: compiled code
        looks up no global name.
        """
        *code, environments = super().reduce(data)
        return (*code, tuple(_without_module(environment) for environment in environments))

    def rebuild(self, target_context: Any, payload: Any) -> Any:
        """What was read from disk, to be called.

        Beside its machine code a kernel has its intermediate code, for kernels that are compiled with it
        inside; reading that takes longer than all else, and is left until one is. Numba asks it which names
        there are: those of what is called.
        """
        (name, kind, data), about, *rest = payload
        if kind != "object":
            return super().rebuild(target_context, payload)
        machine_code, intermediate = data
        names = (about.llvm_func_name, about.llvm_cpython_wrapper_name)
        brief = llvm.parse_assembly("\n".join(f'define void @"{name}"() {{ ret void }}' for name in names))
        made = super().rebuild(
            target_context, ((name, kind, (machine_code, brief.as_bitcode())), about, *rest)
        )
        library = made.library
        library._shared_module = None

        @cache
        def module_for_linking() -> Any:
            return llvm.parse_bitcode(intermediate)

        library._get_module_for_linking = module_for_linking
        return made


@cache
@global_compiler_lock
def _name_memory_manager() -> None:
    """Tell the linker where the memory manager's functions are.

    Numba does so when it initializes its memory manager, and compiles a library of small functions then that
    every kernel in the cache has inside.
    """
    for name, address in _nrt_python.c_helpers.items():
        llvm.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


def _without_module(environment: Any) -> Any:
    if not isinstance(environment, Environment) or not environment.globals["__name__"].startswith("numba."):
        return environment
    out = Environment({"__name__": "numba"})
    out.consts.extend(environment.consts)
    out.env_name = environment.env_name
    return out


class KernelCache(FunctionCache):
    """Numba's cache of one function, with three additions.

    Where Numba keeps code elsewhere because the package's folder cannot be written, what is in that folder is
    read all the same: an image is warmed by its builder and run by somebody else.

    Loading does not set up the compiler. Numba's own method registers every operation that Numba can compile
    before it looks into the cache, which takes longer than the rest of a small first fit; code from the cache
    needs the memory manager it is linked to, and nothing more. What has to be compiled after all finds the
    compiler set up by itself.

    And what one process compiles others wait for. Numba numbers the versions of a function in an index that
    is read and written without a lock: of two processes that add versions at the same moment, one's code can
    end up under the other's types.
    """

    _impl_class = _CacheImpl

    def __init__(self, function: Callable[..., Any], parts: Callable[[], None]) -> None:
        super().__init__(function)
        self._parts = parts
        locator = self._impl.locator
        self._writable = not isinstance(locator, _Unwritable)
        self._lock = Lock(self._cache_path, self._impl.filename_base)
        beside = os.path.join(os.path.dirname(function.__code__.co_filename), "__pycache__")
        self._beside = None
        if self._writable and beside != self._cache_path and not os.access(beside, os.W_OK):
            self._beside = IndexDataCacheFile(beside, self._impl.filename_base, locator.get_source_stamp())

    @property
    def cache_path(self) -> str | None:
        """Where code is kept; None if nowhere."""
        return self._cache_path if self._writable else None

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Code for these types, or None: then the lock is held until it has been compiled and saved."""
        _name_memory_manager()
        found = self._find(sig, target_context)
        if found is None and self._writable:
            self._lock.wait()
            found = self._find(sig, target_context)
        if found is None:
            self._parts()
        else:
            self._lock.release()
        return found

    def _find(self, sig: Any, target_context: Any) -> Any:
        with self._guard_against_spurious_io_errors():
            found = self._load_overload(sig, target_context)
            if found is None and self._beside is not None:
                code = self._beside.load(self._index_key(sig, target_context.codegen()))
                found = code and self._impl.rebuild(target_context, code)
            return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, if there is a place for it.

        Its parts were compiled into it: it is the first that has their constants.
        """
        for environment in data._find_referenced_environments():
            data.codegen.set_env(environment.env_name, environment)
        try:
            if self._writable:
                super().save_overload(sig, data)
        finally:
            self._lock.release()

    def claim(self, sig: Any, target_context: Any) -> bool:
        """Whether this is not in the cache, and no other process is compiling it."""
        key = self._index_key(sig, target_context.codegen())
        if not self._writable or key in self._cache_file._load_index() or not self._lock.take():
            return False
        if key in self._cache_file._load_index():
            self._lock.release()
            return False
        return True
