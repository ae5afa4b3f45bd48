"""All that results of both doors say beyond their estimates."""

from __future__ import annotations

from .anova import AnovaTables
from .comparison import VarianceTests
from .diagnostics import Diagnostics
from .effects import MarginalEffects
from .intervals import Intervals
from .means import MeansTables
from .modes import ModeTables
from .names import HelpfulNames
from .prediction import Predictions
from .resampling import Resampling
from .structured import ResidualTables
from .tidy import TidyTables

__all__ = ["Inferences"]


class Inferences(
    AnovaTables,
    MeansTables,
    VarianceTests,
    Intervals,
    Predictions,
    ModeTables,
    Diagnostics,
    Resampling,
    ResidualTables,
    TidyTables,
    MarginalEffects,
    HelpfulNames,
):
    """Tables and tests that go by `fitted` alone: results of both doors inherit them."""
