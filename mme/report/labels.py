"""Labels of what users' functions give, and of random terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..exceptions import DataError, FormulaError
from ..fit.fitted import Fitted

__all__ = ["grouping_factors", "names_of", "plain"]


def grouping_factors(fitted: Fitted) -> list[str]:
    """Grouping factor of every term, as the formula has it; as `varcorr` names it where there is none."""
    labels = fitted.labels.terms
    try:
        coded = fitted.coding().random_terms if fitted.coding is not None else ()
    except (DataError, FormulaError):  # made of arrays, or of what a file could not hold
        coded = ()
    return [term.label for term in coded] if len(coded) == len(labels) else [term.group for term in labels]


def names_of(value: Any, size: int) -> pd.Index:
    """Labels of what a user's function gives."""
    if isinstance(value, pd.Series):
        return value.index
    return pd.Index(list(value), dtype=object) if isinstance(value, Mapping) else pd.RangeIndex(size)


def plain(value: Any) -> Any:
    """What a user's function gives, without its labels."""
    return list(value.values()) if isinstance(value, Mapping) else value
