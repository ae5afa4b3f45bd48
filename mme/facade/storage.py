"""What of a MixedLM is pickled."""

from __future__ import annotations

from typing import Any

from .design.frame import coding_from_data
from .releases import SPEC

__all__ = ["forget_rows", "restore", "state_of"]

_ROW_WISE = "weights offset endog exog exog_re groups missing_idx orig_endog orig_exog".split()
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


def forget_rows(model: Any, built: tuple[str, ...]) -> None:
    """Drop what grows with the rows; group labels and names stay."""
    names = {"xnames": model.exog_names, "ynames": model.endog_names}
    for name in (*built, "_re_spec", "_call"):
        model.__dict__.pop(name, None)
    for owner in (model, model.data):
        for name in _ROW_WISE:
            if name in owner.__dict__:
                setattr(owner, name, None)
    model.data.__dict__.pop("frame", None)
    model.data._cache = names
    model.group_index = model.group_index.without_rows()
    model.exog_vc = model.exog_vc.without_rows(model.group_index)
