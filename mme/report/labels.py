"""What users' functions give, with and without its labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

__all__ = ["names_of", "plain"]


def names_of(value: Any, size: int) -> pd.Index:
    """Labels of what a user's function gives."""
    if isinstance(value, pd.Series):
        return value.index
    return pd.Index(list(value), dtype=object) if isinstance(value, Mapping) else pd.RangeIndex(size)


def plain(value: Any) -> Any:
    """What a user's function gives, without its labels."""
    return list(value.values()) if isinstance(value, Mapping) else value
