"""All that results of both doors say beyond their estimates."""

from __future__ import annotations

from .coefficients import CoefficientTables
from .intervals import Intervals

__all__ = ["Inferences"]


class Inferences(CoefficientTables, Intervals):
    """Tables and tests that go by `fitted` alone: results of both doors inherit them."""
