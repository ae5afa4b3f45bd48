"""What results say of a name that they do not have."""

from __future__ import annotations

import sys
from typing import Any

from ..hints import attribute_hint, attributes_of

__all__ = ["HelpfulNames"]


class HelpfulNames:
    """Names of other software's results are answered with those that results have here."""

    def __getattr__(self, name: str) -> Any:
        # only for names that are not there, and for properties that raised AttributeError
        kind = type(self)
        if any(name in vars(base) for base in kind.__mro__):
            return object.__getattribute__(self, name)
        hint = "" if name.startswith("_") else attribute_hint(name, self._has, self._public())
        raise AttributeError(f"{kind.__name__} has no attribute {name!r}{hint and '; ' + hint}")

    def _public(self) -> list[str]:
        return attributes_of(type(self)) + [name for name in self.__dict__ if not name.startswith("_")]

    def _has(self, name: str) -> bool:
        if name.startswith("mme."):
            return name.removeprefix("mme.") in sys.modules["mme"].__all__
        return name in self.__dict__ or any(name in vars(base) for base in type(self).__mro__)
