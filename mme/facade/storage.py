"""What of a MixedLM is pickled."""

from __future__ import annotations

from typing import Any

from .design.frame import coding_from_data
from .releases import SPEC

__all__ = ["restore", "state_of"]

_RESTORED = "_coding_from_data"


def state_of(model: Any, built: tuple[str, ...]) -> dict[str, Any]:
    """Attributes of a model without those that can be built again, factorizations above all."""
    left_out = (*built, "_re_spec", "_call")
    state = {k: v for k, v in model.__dict__.items() if k not in left_out}
    if hasattr(model.data, SPEC):
        # a formula's coding is restored from the data; without them it goes too
        data = object.__new__(type(model.data))
        data.__dict__.update({k: v for k, v in model.data.__dict__.items() if k != SPEC})
        state["data"] = data
        state[_RESTORED] = model.endog is not None and getattr(model.data, SPEC) is not None
    return state


def restore(model: Any, state: dict[str, Any]) -> None:
    """Take up what `state_of` gave."""
    coded = state.pop(_RESTORED, False)
    model.__dict__.update(state)
    if coded:
        setattr(model.data, SPEC, coding_from_data(model.formula, model.data.frame))
