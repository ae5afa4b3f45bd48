"""Where a formula looks up names that are no columns: among the caller's variables, or nowhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cached_property
from types import FrameType

from ..exceptions import OptionError

__all__ = ["EVALUATE", "Scope"]

EVALUATE = ("full", "safe")
_PACKAGE = __name__.partition(".")[0]
_NOTHING = object()


class Scope:
    """Variables that formulas and subsets may use beside the columns.

    Parameters
    ----------
    context : int or mapping
        A mapping of names to values, or the caller's local and global variables: those of the first function
        outside of mme (0), of its caller (1) and so on.
    evaluate : {"full", "safe"}
        "safe" sees the variables of no caller, only those of a mapping.

    Attributes
    ----------
    safe : bool
    """

    def __init__(self, context: int | Mapping[str, object] = 0, evaluate: str = "full") -> None:
        if evaluate not in EVALUATE:
            raise OptionError(f"evaluate must be one of {', '.join(map(repr, EVALUATE))}, not {evaluate!r}.")
        if isinstance(context, bool) or not isinstance(context, int | Mapping):
            raise OptionError(
                "context must be a mapping of names to values, or a number of frames above the caller (0), "
                f"not {context!r}."
            )
        self.safe = evaluate == "safe"
        self._given = context if isinstance(context, Mapping) else None
        # a frame's f_locals is asked for when a name needs it: it keeps every local of the caller alive
        self._frame = None if self.safe or isinstance(context, Mapping) else _caller(context)

    @cached_property
    def layers(self) -> tuple[dict[str, object], dict[str, object]]:
        """Local and global variables."""
        if self._given is not None:
            return dict(self._given), {}
        if self._frame is None:
            return {}, {}
        return dict(self._frame.f_locals), self._frame.f_globals

    def __contains__(self, name: str) -> bool:
        return self.get(name, _NOTHING) is not _NOTHING

    def get(self, name: str, default: object = None) -> object:
        """A variable's value."""
        for layer in self.layers:
            if name in layer:
                return layer[name]
        return default


def _caller(depth: int) -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        frame = frame.f_back
    for _ in range(depth):
        frame = frame and frame.f_back
    return frame
