"""All that results of both doors say beyond their estimates."""

from __future__ import annotations

from .anova import AnovaTables
from .comparison import VarianceTests
from .intervals import Intervals
from .means import MeansTables
from .prediction import Predictions
from .resampling import Resampling

__all__ = ["Inferences"]


class Inferences(AnovaTables, MeansTables, VarianceTests, Intervals, Predictions, Resampling):
    """Tables and tests that go by `fitted` alone: results of both doors inherit them."""
