"""From a kernel's function to Numba's dispatcher; importing this imports Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types
from numba.core import event
from numba.core.dispatcher import Dispatcher

from . import watchers

try:
    from .cache import KernelCache
    from .parts import Part, PartCompiler
except ImportError:  # a Numba that is built otherwise: its own cache and compiler serve
    KernelCache = None  # type: ignore[assignment,misc]

__all__ = ["compile_kernel", "dispatcher", "provide_kernel"]

_HOOK = "_compilation_chain_init_hook"
_PACKAGE = f"{__name__.partition('.')[0]}."


def dispatcher(function: Callable[..., Any], parts: Callable[[], None], cached: bool) -> Any:
    """Numba's dispatcher with the settings common to all kernels of mme.

    Parameters
    ----------
    function : callable
    parts : callable
        Makes what the function calls: needed to compile it, not to load it.
    cached : bool
        Whether code is kept on disk.
    """
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    plain = KernelCache is None
    if not cached and not plain:
        settings |= {"no_cpython_wrapper": True, "pipeline_class": PartCompiler}
    made: Any = njit(cache=cached and plain, **settings)(function)
    compiled = isinstance(made, Dispatcher)  # the function itself under NUMBA_DISABLE_JIT
    if compiled and not cached and not plain:
        made.__class__ = Part
    if compiled and cached and not plain:
        set_up = _leave_extensions(made)

        def prepare() -> None:
            set_up()
            parts()

        made._cache = KernelCache(function, prepare)
    else:
        parts()
    return made


def _leave_extensions(made: Any) -> Callable[[], None]:
    """Have Numba's extensions left alone until something is compiled; returns what sets them up.

    Numba looks for them, through all packages that are installed, at the first call of whatever it has made.
    """
    set_up: Callable[[], None] = getattr(made, _HOOK, _nothing)
    setattr(made, _HOOK, _nothing)
    return set_up


def _nothing() -> None:
    pass


def compile_kernel(made: Any, signature: str) -> bool:
    """Compile for types that are written down, unless it is in the cache or being compiled elsewhere.

    Parameters
    ----------
    made : Dispatcher
    signature : str
        See `mme.engine.kernels.signatures`.

    Returns
    -------
    bool
        Whether it was compiled here.
    """
    key = _types_of(signature)
    if KernelCache is not None and not made._cache.claim(key, made.targetctx):
        return False
    made.compile(key)
    return True


def provide_kernel(made: Any, signature: str) -> None:
    """Compile as `compile_kernel` does, once no other process is compiling the same and has left nothing.

    Parameters
    ----------
    made : Dispatcher
    signature : str
    """
    made.compile(_types_of(signature))


def _types_of(signature: str) -> tuple[types.Type, ...]:
    return tuple(_type_of(word) for word in signature.split())


def _type_of(word: str) -> types.Type:
    name, _, rest = word.partition("[")
    scalar: types.Type = types.boolean if name == "bool" else getattr(types, name)
    if not rest:
        return scalar
    return types.Array(scalar, int(rest[0]), "F" if "F" in rest else "C", readonly="R" in rest)


class _Listener(event.Listener):
    """Numba triggers an event for whatever it compiles, parts of Numba and of other packages among it."""

    def on_start(self, event: event.Event) -> None:
        made = event.data["dispatcher"]
        if made.py_func.__module__.startswith(_PACKAGE):
            for watcher in watchers:
                watcher.begin(made.py_func, made.stats.cache_path)

    def on_end(self, event: event.Event) -> None:
        if event.data["dispatcher"].py_func.__module__.startswith(_PACKAGE):
            for watcher in watchers:
                watcher.end()


event.register("numba:compile", _Listener())
