"""All that results of both doors say beyond their estimates."""

from __future__ import annotations

from .anova import AnovaTables
from .effects import MarginalEffects
from .means import MeansTables
from .names import HelpfulNames
from .tidy import TidyTables

__all__ = ["Inferences"]


class Inferences(AnovaTables, MeansTables, TidyTables, MarginalEffects, HelpfulNames):
    """Tables and tests that go by `fitted` alone: results of both doors inherit them."""
