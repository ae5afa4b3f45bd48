"""All that results of both doors say beyond their estimates."""

from __future__ import annotations

from .coefficients import CoefficientTables
from .comparison import VarianceTests

__all__ = ["Inferences"]


class Inferences(CoefficientTables, VarianceTests):
    """Tables and tests that go by `fitted` alone: results of both doors inherit them."""
