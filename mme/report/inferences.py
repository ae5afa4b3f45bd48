"""All that results of both doors say beyond their estimates."""

from __future__ import annotations

from .coefficients import CoefficientTables

__all__ = ["Inferences"]


class Inferences(CoefficientTables):
    """Tables and tests that go by `fitted` alone: results of both doors inherit them."""
