"""What a fit of a MixedLM would take."""

from __future__ import annotations

from typing import Any

from ..engine.equations.layout import layout_of
from ..fit.forecast import Preflight, check_rows, forecast, shown
from ..fit.options import route_of

__all__ = ["preflight_of"]


def preflight_of(model: Any, solver: str) -> Preflight:
    """`MixedLM.preflight`; the cross-products are kept for the fit."""
    route = route_of(solver)
    design, likelihood = model.design(), model.likelihood
    if likelihood.equations is None:
        check_rows(design, layout_of(design))
    return shown(forecast(design, likelihood.cross_products(), route))
