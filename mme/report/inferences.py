"""All that results of both doors say beyond their estimates."""

from __future__ import annotations

from .anova import AnovaTables
from .means import MeansTables
from .names import HelpfulNames
from .tidy import TidyTables

__all__ = ["Inferences"]


class Inferences(AnovaTables, MeansTables, TidyTables, HelpfulNames):
    """Tables and tests that go by `fitted` alone: results of both doors inherit them."""
