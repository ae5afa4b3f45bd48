"""What a fit is: plain arrays, and how they were found."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..engine.direct.objective import Objective
from ..engine.equations.design import Design
from ..engine.search.evaluation import Solution
from ..exceptions import FlatLikelihoodWarning, PerfectFitWarning

if TYPE_CHECKING:
    from ..engine.iterative.objective import IterativeObjective
    from ..engine.iterative.root import MonteCarlo
    from ..engine.iterative.state import IterativeSolution
    from .residual import ResidualFit

__all__ = ["Clock", "Fit", "FitRecord", "assemble_fit"]


@dataclass(frozen=True)
class FitRecord:
    """How a fit went.

    Attributes
    ----------
    converged : bool
        True only where the optimality conditions, boundary ones included, were checked and hold.
    message : str
        One sentence: why the search stopped.
    evaluations : int
        Number of factorizations (distinct theta) of the search that led to the optimum.
    iterations : int
        Accepted steps.
    gradient_norm : float
        Largest absolute entry of the projected gradient of the deviance in reliability units, at the end.
    newton_decrement : float
        Predicted further decrease of the deviance, at the end.
    solver : str
        For example ``"dense (LAPACK)"``, ``"sparse (CHOLMOD)"``, ``"sparse (SuperLU)"``.
    singular : tuple of str
        Names of the terms whose covariance is singular at the optimum; empty if none.
    seconds : dict of str to float
        Wall-clock seconds by stage.
    history : tuple of float
        Deviance after each accepted step, the start first.
    all_evaluations : int
        Factorizations of all searches.
    starts, modes : int
        Searches that were made from different starts, and different minima of the deviance that they ended
        in; the fit is at the lowest.
    flat : tuple of str
        Variances and covariances along which the likelihood does not change: the data do not tell them.
    flat_fixed : tuple of str
        Fixed effects whose standard errors depend on those.
    perfect : bool
        The model explains the response exactly, and the fit is the limit of a residual variance of zero.
    """

    converged: bool
    message: str
    evaluations: int
    iterations: int
    gradient_norm: float
    newton_decrement: float
    solver: str
    singular: tuple[str, ...]
    seconds: dict[str, float]
    history: tuple[float, ...] = ()
    all_evaluations: int = 0
    starts: int = 1
    modes: int = 1
    flat: tuple[str, ...] = ()
    flat_fixed: tuple[str, ...] = ()
    perfect: bool = False

    def warnings(self) -> list[tuple[str, type[Warning]]]:
        """Texts and categories of what a user should know of a fit that ended well, or could not."""
        out: list[tuple[str, type[Warning]]] = []
        if self.perfect:
            out.append(
                (
                    f"{self.message}. Fixed effects, their standard errors and the variances are those of "
                    "that limit; the likelihood is unbounded. Check for levels with one row each, or a "
                    "response that is constant in groups.",
                    PerfectFitWarning,
                )
            )
        if self.flat:
            depends = (
                f" The standard errors of {', '.join(self.flat_fixed)} depend on it."
                if self.flat_fixed
                else ""
            )
            out.append(
                (
                    f"the likelihood is flat: the data do not tell the {', '.join(self.flat)}; the estimates "
                    f"there are arbitrary.{depends} Drop the term or its columns, or use ||.",
                    FlatLikelihoodWarning,
                )
            )
        return out


@dataclass(frozen=True, eq=False)
class Fit:
    """The fitted model as plain arrays; `u` and everything below is on the scale of the data.

    Attributes
    ----------
    reml : bool
    theta : tuple of ndarray
        Free entries of the relative covariance factor, one array per term of the design.
    lam : tuple of ndarray, shapes (k_t, k_t)
        Relative covariance factors: cov(random effects of a level) = sigma2 * lam @ lam.T.
    sigma2 : float
        Residual variance.
    deviance : float
        -2 x (restricted) log-likelihood at the optimum.
    loglik : float
        (Restricted) log-likelihood with lme4's constants.
    beta : ndarray, shape (p,)
        Fixed effects; NaN where a dependent column was dropped.
    vcov_beta : ndarray, shape (p, p)
        Covariance of beta given theta; NaN rows and columns for dropped columns.
    u : tuple of ndarray, shapes (q_t, k_t)
        Conditional modes (BLUPs) of the random effects, per term of the design.
    kept : ndarray of bool, shape (p,)
        Columns of X that were not dropped.
    n, p, nu : int
        Rows, rank of X, n - p (REML) or n (ML).
    record : FitRecord
    objective : Objective
        The evaluated equations, for inference; holds no rows of the data.  An `IterativeObjective`, without
        deviance and Hessian, after an iterative fit.
    design : Design
    monte_carlo : MonteCarlo or None
        Standard errors and Monte Carlo errors of an iterative fit.
    residual : ResidualFit or None
        Covariance structure of the residuals: objective and design are then those of the whitened rows.
    root_beta : ndarray, shape (rank, rank), or None
        A root of the kept part of `vcov_beta`, rows the coefficients; None of fits of earlier versions.
    """

    reml: bool
    theta: tuple[np.ndarray, ...]
    lam: tuple[np.ndarray, ...]
    sigma2: float
    deviance: float
    loglik: float
    beta: np.ndarray
    vcov_beta: np.ndarray
    u: tuple[np.ndarray, ...]
    kept: np.ndarray
    n: int
    p: int
    nu: int
    record: FitRecord
    objective: Objective | IterativeObjective
    design: Design
    monte_carlo: MonteCarlo | None = None
    residual: ResidualFit | None = None
    root_beta: np.ndarray | None = None


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now


def assemble_fit(
    design: Design,
    objective: Objective | IterativeObjective,
    theta: np.ndarray,
    solution: Solution | IterativeSolution,
    record: FitRecord,
    deviance: float,
    monte_carlo: MonteCarlo | None = None,
) -> Fit:
    """The fit of a search, on either path, from its solution at theta (of the design's columns)."""
    eq = objective.eq
    kept, places = eq.fixed.kept, eq.layout.places
    beta = np.full(design.p, np.nan)
    vcov = np.full((design.p, design.p), np.nan)
    beta[kept] = solution["beta"]
    vcov[np.ix_(kept, kept)] = solution["vcov"]
    return Fit(
        reml=objective.reml,
        theta=tuple(theta[p.theta] for p in places),
        lam=tuple(p.structure.lam(theta[p.theta], p.k) for p in places),
        sigma2=float(solution["sigma2"]),
        deviance=float(deviance),
        loglik=-0.5 * float(deviance),
        beta=beta,
        vcov_beta=vcov,
        u=tuple(solution["u"]),
        kept=kept,
        n=eq.n,
        p=eq.p,
        nu=objective.nu,
        record=record,
        objective=objective,
        design=design,
        monte_carlo=monte_carlo,
        root_beta=solution["root"],
    )
