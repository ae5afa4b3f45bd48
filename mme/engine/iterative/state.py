"""What the solves at one theta give: the state of an evaluation without a factorization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from .pcg import BlockSolution
from .probes import ProbeSolves

__all__ = ["EigenRoot", "IterativeSolution", "SolveReport", "SolvedState"]


@dataclass(eq=False)
class EigenRoot:
    """A term's relative covariance in its own eigenvectors."""

    U: np.ndarray
    s: np.ndarray


@dataclass
class SolveReport:
    """How the solves of one evaluation went."""

    iterations: int = 0
    residual: float = 0.0
    solved: bool = True

    def add(self, sol: BlockSolution, at_once: bool = False) -> None:
        """Take in a block; `at_once`: it counts beside, not after, those before."""
        self.iterations = (
            max(self.iterations, sol.iterations) if at_once else self.iterations + sol.iterations
        )
        self.residual = max(self.residual, float(sol.residual.max(initial=0.0)))
        self.solved = self.solved and sol.converged


@dataclass(eq=False)
class SolvedState:
    """What the solves at one theta give."""

    theta: np.ndarray
    lams: list[np.ndarray]
    roots: list[EigenRoot]
    lam2: list[np.ndarray]
    U: np.ndarray  # lam2'Z_2'V_1^-1[X y]
    Y: np.ndarray  # S^-1 U
    Ri: np.ndarray
    b: np.ndarray
    r2: float
    sigma2: float
    logdet_x: float
    probes: ProbeSolves
    report: SolveReport


class IterativeSolution(TypedDict):
    """As `mme.engine.search.evaluation.Solution`, without a deviance.

    `logdet` is the part of log|M| that is known without log|S|.
    """

    beta: np.ndarray
    vcov: np.ndarray
    root: np.ndarray
    u: list[np.ndarray]
    sigma2: float
    logdet: float
    iterations: int
    residual: float
    solved: bool
