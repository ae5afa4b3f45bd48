"""`results.plot`: the pictures as methods of results."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from . import diagnostics, effects, marginal, page, profiles
from .protocol import Drawable

__all__ = ["Pictures"]


def _of(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def method(self: Pictures, *args: Any, **kwargs: Any) -> Any:
        return function(self._result, *args, **kwargs)

    return method


class Pictures:
    """Pictures of one fit: ``results.plot.caterpillar()`` is ``mme.plot.caterpillar(results)``.

    ``results.plot()`` is ``results.plot.check()``.
    """

    def __init__(self, result: Drawable) -> None:
        self._result = result

    caterpillar = _of(effects.caterpillar)
    check = _of(page.check)
    coefficients = _of(effects.coefficients)
    emmeans = _of(marginal.emmeans)
    influence = _of(diagnostics.influence)
    interaction = _of(marginal.interaction)
    partial = _of(marginal.partial)
    pit = _of(diagnostics.pit)
    profile = _of(profiles.profile)
    qq = _of(diagnostics.qq)
    residuals = _of(diagnostics.residuals)
    scale_location = _of(diagnostics.scale_location)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return page.check(self._result, *args, **kwargs)

    def __repr__(self) -> str:
        names = ", ".join(sorted(name for name in vars(type(self)) if not name.startswith("_")))
        return f"<pictures of {self._result!r}: {names}>"
