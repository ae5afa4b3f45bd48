"""Many responses on one design: what a fit makes of the design is made once.

Equations, analysis, workspaces, moments and coordinates are shared; a refit makes three products with the
response and searches as `mme.fit.fit_design` does.  No names, records or random effects are made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine.direct.objective import Objective
from ..engine.equations.design import Design
from ..engine.equations.equations import Equations
from ..engine.equations.moments import Moments
from ..engine.equations.respond import Responder
from ..engine.runtime.parallel import single_threaded_blas
from ..engine.search.coordinates import Coordinates, term_specs
from ..engine.search.curve import Curve, is_curved
from .direct import search_minimum
from .fitted import Fitted, Labels

__all__ = ["Refit", "Refits"]


@dataclass(frozen=True, eq=False)
class Refit:
    """The estimate of one response.

    Attributes
    ----------
    beta : ndarray, shape (p,)
        Fixed effects; NaN where a dependent column was dropped.
    lam : tuple of ndarray, shapes (k_t, k_t)
        Relative covariance factors.
    sigma2, loglik : float
    converged, singular : bool
    vcov : ndarray, shape (p, p)
        Covariance of the fixed effects given the variances; NaN where dropped.
    """

    beta: np.ndarray
    lam: tuple[np.ndarray, ...]
    sigma2: float
    loglik: float
    converged: bool
    singular: bool
    vcov: np.ndarray


class Refits:
    """Fits of responses on one design by factorizations.

    Parameters
    ----------
    design : Design
        Its own response is not used.
    equations : Equations
        Of it, and of any response.
    reml : bool
    theta : ndarray, shape (n_theta,), optional
        Where searches begin, theta of the design's columns; by default at moments of each response.
    tol : float
        As in `mme.fit.fit_design`.

    Attributes
    ----------
    objective : Objective
    design : Design
        Both of the last response.
    """

    def __init__(
        self,
        design: Design,
        equations: Equations,
        reml: bool,
        theta: np.ndarray | None = None,
        tol: float = 1e-8,
    ) -> None:
        with single_threaded_blas():
            self.objective = Objective(design, reml, equations=equations)
            self._responder = Responder(design, equations)
        self.design, self._tol = design, tol
        self._start = None if theta is None else equations.to_standard(np.asarray(theta, dtype=np.float64))
        self._moments = Moments(equations) if theta is None else None
        self._space: Coordinates | Curve
        if is_curved(equations.layout):
            self._space = Curve.of(equations)
        else:
            self._space = Coordinates(term_specs(equations, standard=True))

    def fit(self, y: np.ndarray) -> Refit:
        """Fit a response, shape (n,).

        Raises
        ------
        ConvergenceError, DesignError, numpy.linalg.LinAlgError
            As `mme.fit.fit_design`.
        """
        with single_threaded_blas():
            response = self._responder.response(y)
            self.objective.respond(response)
            start = self._start if self._moments is None else self._moments.start(response)
            assert start is not None
            self.design = self.design.with_response(y)
            return self._search(self.design, start)

    def fitted(self, labels: Labels, fit: Refit) -> Fitted:
        """A refit with labels, for inference; its likelihood is at hand until the next one is fitted."""
        objective = self.objective
        return Fitted(
            labels=labels,
            reml=objective.reml,
            n=objective.eq.n,
            nu=objective.nu,
            beta=fit.beta,
            vcov_beta=lambda: fit.vcov,
            lam=fit.lam,
            sigma2=fit.sigma2,
            loglik=fit.loglik,
            converged=fit.converged,
            objective=lambda: objective,
            design=self.design,
        )

    def _search(self, design: Design, start: np.ndarray) -> Refit:
        # of many responses some need the compiled search anyway
        outcome = search_minimum(
            design, self.objective, start, _MOST, self._tol, None, space=self._space, compiled=True
        )
        best, eq = outcome.best, self.objective.eq
        solution = outcome.objective.solution(best.theta, standard=True)
        kept, p = eq.fixed.kept, design.p
        beta, vcov = np.full(p, np.nan), np.full((p, p), np.nan)
        beta[kept] = solution["beta"]
        vcov[np.ix_(kept, kept)] = solution["vcov"]
        theta = solution["theta"]
        return Refit(
            beta,
            tuple(place.structure.lam(theta[place.theta], place.k) for place in eq.layout.places),
            float(solution["sigma2"]),
            -0.5 * float(solution["deviance"]),
            best.converged,
            bool(best.singular),
            vcov,
        )


_MOST = 200  # evaluations of a search
