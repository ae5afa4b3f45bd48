"""What a search by factorizations found."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.direct.careful import CarefulObjective
from ..engine.direct.objective import Objective
from ..engine.search.coordinates import Coordinates
from ..engine.search.curve import Curve
from ..engine.search.optimizer import Minimum

__all__ = ["Outcome"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """The best minimum, of which objective, and what it took to find it.

    Attributes
    ----------
    objective : Objective or CarefulObjective
        That was minimised in the end.
    space : Coordinates or Curve
    best : Minimum
    seen, starts : int
        As `FitRecord.modes` and `FitRecord.starts`.
    evaluations : int
    solver : str
    """

    objective: Objective | CarefulObjective
    space: Coordinates | Curve
    best: Minimum
    seen: int
    starts: int
    evaluations: int
    solver: str
