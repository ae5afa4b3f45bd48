"""Results under statsmodels' name, for programs that ask a result's type or module for it.

While mme is installed in statsmodels' place, fits return subclasses that say so and are otherwise the same.
Copies and pickles are of the plain classes: they hold nothing that is only there while mme is installed.
"""

from __future__ import annotations

from typing import Any, TypeVar

from statsmodels.base.wrapper import ResultsWrapper

__all__ = ["result_class", "use_names_of"]

T = TypeVar("T")
_wrapper: type | None = None
_subclasses: dict[tuple[type, type], Any] = {}


def use_names_of(wrapper: type | None) -> None:
    """Name results as those of a wrapper class of statsmodels from now on; None for mme's own names."""
    global _wrapper
    _wrapper = wrapper


def result_class(plain: type[T]) -> type[T]:
    """The class to make a result of: `plain`, or its subclass under statsmodels' name."""
    if _wrapper is None:
        return plain
    key = (plain, _wrapper)
    if key not in _subclasses:
        _subclasses[key] = _named(plain, _wrapper)
    return _subclasses[key]


def _named(plain: Any, wrapper: type) -> Any:
    # the wrapper itself is a base, for isinstance with a name that was imported before
    bases = (plain, wrapper) if issubclass(plain, ResultsWrapper) else (plain,)
    body = {
        "__module__": wrapper.__module__,
        "__doc__": plain.__doc__,
        "__reduce_ex__": _reduce,
        "_plain": plain,
    }
    return type(plain.__name__, bases, body)


def _reduce(self: Any, protocol: int) -> tuple:
    return _new, (type(self)._plain,), object.__getattribute__(self, "__getstate__")()


def _new(plain: type) -> Any:
    return object.__new__(result_class(plain))
