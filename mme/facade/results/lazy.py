"""A dictionary whose values are made when they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

__all__ = ["LazyDict"]

_NOT_MADE: Any = object()


class LazyDict(dict):
    """A dict of labelled results by group: statsmodels' type, without 20,000 Series that nobody looks at.

    Parameters
    ----------
    keys : iterable of hashable
    make : callable (int) -> value
        Of the key at this position; it is called once for each.
    """

    # of a subclass that has its own __iter__ dict(), update() and | take keys() and [] in place of the values
    # that are stored

    def __init__(self, keys: Iterable[Hashable], make: Callable[[int], Any]) -> None:
        super().__init__(dict.fromkeys(keys, _NOT_MADE))
        self._make: Callable[[int], Any] | None = make
        self._places = {key: i for i, key in enumerate(super().keys())}

    def __iter__(self) -> Iterator:
        return super().__iter__()

    def __getitem__(self, key: Hashable) -> Any:
        value = super().__getitem__(key)
        if value is _NOT_MADE:
            assert self._make is not None
            value = self._make(self._places[key])
            super().__setitem__(key, value)
        return value

    def get(self, key: Hashable, default: Any = None) -> Any:
        return self[key] if key in self else default

    def values(self) -> Any:
        return self._all().values()

    def items(self) -> Any:
        return self._all().items()

    def pop(self, key: Hashable, *default: Any) -> Any:
        if key in self:
            self[key]
        return super().pop(key, *default)

    def popitem(self) -> tuple[Any, Any]:
        self._fill()
        return super().popitem()

    def setdefault(self, key: Hashable, default: Any = None) -> Any:
        return self[key] if key in self else super().setdefault(key, default)

    def copy(self) -> dict:
        return dict(self._all())

    def __eq__(self, other: object) -> Any:
        return self._all().__eq__(other._all() if isinstance(other, LazyDict) else other)

    def __ne__(self, other: object) -> Any:
        return self._all().__ne__(other._all() if isinstance(other, LazyDict) else other)

    __hash__ = None

    def __repr__(self) -> str:
        self._fill()
        return super().__repr__()

    def __reduce__(self) -> tuple:
        return dict, (self.copy(),)

    def _fill(self) -> None:
        for key in self:
            self[key]

    def _all(self) -> dict:
        """All values, as a dict that knows nothing of this."""
        self._fill()
        return {key: super(LazyDict, self).__getitem__(key) for key in self}
