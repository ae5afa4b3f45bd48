"""`Fitted`: an estimate, its labels and the way back to its likelihood, the same from both doors.

What stands above the fit (reports, inference, prediction) takes this and never a door's results, so that it
works for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.covariance.structure import Structure
from ..engine.direct.objective import Objective
from ..engine.direct.point import KeptColumns, Point
from ..engine.equations.design import Design
from ..exceptions import InferenceError, PerfectFitError
from .record import Fit, FitRecord
from .residual import ResidualFit, refuse_structure

if TYPE_CHECKING:
    from ..engine.iterative.marginal import IterativePoint
    from ..engine.iterative.objective import IterativeObjective
    from ..engine.iterative.root import MonteCarlo
    from ..formula.coding import Coding
    from ..formula.occurrences import Occurrences

__all__ = ["Fitted", "Labels", "TermLabels"]


@dataclass(frozen=True)
class TermLabels:
    """Names of a random term.

    Attributes
    ----------
    group : str
        Its grouping factor, as shown.
    effects : tuple of str, length k
    n_levels : int
    structure : Structure
        How the effects may covary.
    """

    group: str
    effects: tuple[str, ...]
    n_levels: int
    structure: Structure


@dataclass(frozen=True)
class Labels:
    """Names of everything that was estimated.

    Attributes
    ----------
    response : str
    fixed : tuple of str, length p
    terms : tuple of TermLabels
    """

    response: str
    fixed: tuple[str, ...]
    terms: tuple[TermLabels, ...]


@dataclass(frozen=True, eq=False)
class Fitted:
    """An estimate with its labels.

    Attributes
    ----------
    labels : Labels
    reml : bool
    n, nu : int
        Rows; degrees of freedom of the residual variance.
    beta : ndarray, shape (p,)
        Fixed effects; NaN where a dependent column was dropped.
    vcov_beta : callable -> ndarray, shape (p, p)
        Their covariance, as the door defines it: given the variances (lmer), from the joint information
        (MixedLM).
    lam : tuple of ndarray, shapes (k_t, k_t)
        Relative covariance factors.
    sigma2, loglik : float
    converged : bool
    objective : callable -> Objective or IterativeObjective
        The evaluated equations.
    design : Design or None
        None where the rows are not there any more.
    record : FitRecord or None
        How the engine found it; None where something else did.
    monte_carlo : MonteCarlo or None
        Errors of an iterative fit.
    restriction : str
        Why the estimate is not the maximum of the likelihood over all parameters (penalties, parameters held
        at a value); empty if it is.
    coding : callable -> Coding, or None
        How the formula made the columns of X; it raises DataError where there was no formula.
    occurrences : callable -> Occurrences, or None
        Levels of the formula's factors in the rows.
    modes : callable -> list of ndarray, shapes (q_t, k_t), or None
        Conditional modes of the design's terms.
    row_labels : callable -> index of the rows, or None
    effect_labels : callable -> list of (levels, effects), or None
        Names of each of a term's random effects, level by level: objects, shapes (q_t k_t,).
    residual : ResidualFit or None
        Covariance structure of the residuals. `objective` then raises InferenceError: what goes by it goes by
        residuals that are independent.
    white : Fit or None
        The fit of the rows that were whitened by `residual`.
    root_beta : callable -> ndarray, shape (rank, rank), or None; or None
        A root of the kept part of `vcov_beta`, made in an orthonormal basis: what of rows L b goes by L root
        keeps its digits where columns lie far from zero.  None where the covariance alone is known.
    """

    labels: Labels
    reml: bool
    n: int
    nu: int
    beta: np.ndarray
    vcov_beta: Callable[[], np.ndarray]
    lam: tuple[np.ndarray, ...]
    sigma2: float
    loglik: float
    converged: bool
    objective: Callable[[], Objective | IterativeObjective]
    design: Design | None = None
    record: FitRecord | None = None
    monte_carlo: MonteCarlo | None = None
    restriction: str = ""
    coding: Callable[[], Coding] | None = None
    occurrences: Callable[[], Occurrences] | None = None
    modes: Callable[[], Sequence[np.ndarray]] | None = None
    row_labels: Callable[[], Any] | None = None
    effect_labels: Callable[[], list[tuple[np.ndarray, np.ndarray]]] | None = None
    residual: ResidualFit | None = None
    white: Fit | None = None
    root_beta: Callable[[], np.ndarray | None] | None = None

    @classmethod
    def of(
        cls,
        fit: Fit,
        labels: Labels,
        coding: Callable[[], Coding] | None = None,
        occurrences: Callable[[], Occurrences] | None = None,
        row_labels: Callable[[], Any] | None = None,
        effect_labels: Callable[[], list[tuple[np.ndarray, np.ndarray]]] | None = None,
    ) -> Fitted:
        """A fit of the engine with labels."""
        residual = fit.residual

        def objective() -> Objective | IterativeObjective:
            refuse_structure(residual, "this")
            return fit.objective

        return cls(
            labels=labels,
            reml=fit.reml,
            n=fit.n,
            nu=fit.nu,
            beta=fit.beta,
            vcov_beta=lambda: fit.vcov_beta,
            lam=fit.lam,
            sigma2=fit.sigma2,
            loglik=fit.loglik,
            converged=fit.record.converged,
            objective=objective,
            design=fit.design if residual is None else residual.parts.design,
            record=fit.record,
            monte_carlo=fit.monte_carlo,
            coding=coding,
            occurrences=occurrences,
            modes=lambda: fit.u,
            row_labels=row_labels,
            effect_labels=effect_labels,
            residual=residual,
            white=None if residual is None else fit,
            root_beta=lambda: fit.root_beta,
        )

    @property
    def method(self) -> str:
        """``"REML"`` or ``"ML"``."""
        return "REML" if self.reml else "ML"

    @property
    def bse_beta(self) -> np.ndarray:
        """Standard errors of the fixed effects, shape (p,)."""
        return np.sqrt(np.diag(self.vcov_beta()))

    def fixed_root(self) -> np.ndarray | None:
        """`root_beta`, shape (rank, rank); None where there is none."""
        return None if self.root_beta is None else self.root_beta()

    @property
    def exact(self) -> bool:
        """Whether `point` has a factorization to go by."""
        if self.residual is not None:
            return True
        return self.monte_carlo is None and isinstance(self.objective(), Objective)

    def check_unrelated(self, what: str) -> None:
        """Refuse terms whose levels have a known covariance.

        Raises
        ------
        InferenceError
        """
        terms = () if self.design is None else self.design.terms
        related = [term.name for term in terms if term.relation is not None]
        if related:
            raise InferenceError(
                f"{what} takes the levels of random effects for independent, and those of "
                f"{', '.join(related)} are related."
            )

    def point(self, what: str, standard: bool = False, white: bool = False) -> Point:
        """The exact likelihood at the estimate.

        Parameters
        ----------
        what : str
            What wants it, for the message.
        standard : bool
            As in `mme.engine.direct.point.Point`.
        white : bool
            Of a fit whose residuals have a structure, the likelihood of the whitened rows will do: all that
            is asked for is given the residuals' parameters.

        Raises
        ------
        InferenceError
            After an iterative fit, which factors nothing, and where the rows were removed; of residuals with
            a structure, unless `white`.
        """
        if self.white is not None and white:
            objective, design = self.white.objective, self.white.design
            assert isinstance(objective, Objective)
            return Point(objective, design, KeptColumns(design, self.white.kept), list(self.lam), standard)
        refuse_structure(self.residual, what)
        objective = self.objective()
        if self.monte_carlo is not None or not isinstance(objective, Objective):
            raise InferenceError(
                f"{what} needs a factorization, which an iterative fit does not make. Fit with "
                "solver='direct' where preflight() says that its memory and time are affordable."
            )
        if self.design is None:
            raise InferenceError(f"{what} needs the design, and the data were removed.")
        columns = KeptColumns(self.design, objective.eq.fixed.kept)
        try:
            return Point(objective, self.design, columns, list(self.lam), standard)
        except (np.linalg.LinAlgError, PerfectFitError) as error:
            raise InferenceError(
                f"{what} goes by cross-products, which rounding leaves nothing of at this estimate: its "
                "variances are too far apart. Drop terms that explain the response almost exactly or that "
                "the data do not tell (fit_info['flat']); coef_table(ddf='normal') works."
            ) from error

    def iterative_point(self, what: str, probes: int) -> IterativePoint:
        """The likelihood at the estimate of an iterative fit, in the equations' basis.

        Parameters
        ----------
        what : str
            What wants it, for the message.
        probes : int
            Of second derivatives' traces.

        Raises
        ------
        InferenceError
            The data were removed.
        """
        if self.design is None:
            raise InferenceError(f"{what} needs the design, and the data were removed.")
        objective = self.objective()
        assert not isinstance(objective, Objective)
        pairs = zip(objective.eq.layout.places, self.lam, strict=True)
        return objective.at(np.concatenate([place.structure.theta(lam) for place, lam in pairs]), probes)
