"""The likelihood at one covariance as a function of the fixed effects: what inference asks of the engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..equations.design import Design
from ..equations.equations import Equations
from ..equations.prediction import PriorInverse
from ..search.evaluation import Evaluation
from .objective import Objective
from .second import LevelSums, Products

__all__ = ["KeptColumns", "Point"]


class KeptColumns:
    """Which columns of X were kept, and what coefficients of the others stand for.

    Parameters
    ----------
    design : Design
    kept : ndarray of bool, shape (k_fe,)
    """

    def __init__(self, design: Design, kept: np.ndarray) -> None:
        self.kept = kept
        self._design = design
        self._aliases: np.ndarray | None = None

    def of(self, beta: np.ndarray) -> np.ndarray:
        """Coefficients of the kept columns that give the same mean; NaN counts as zero."""
        beta = np.asarray(beta, dtype=np.float64)
        if self.kept.all():
            return beta
        full = np.where(np.isnan(beta), 0.0, beta)
        if self._aliases is None:
            self._aliases = self._design.aliases(self.kept)
        return full[self.kept] + self._aliases @ full[~self.kept]


class Point:
    """The likelihood at one covariance, as a function of the fixed effects.

    Parameters
    ----------
    objective : Objective
    design : Design
    columns : KeptColumns
    lams : list of ndarray, shapes (k_t, k_t)
        Relative covariance factors.
    standard : bool
        Give derivatives and products in the equations' basis (X orthonormal, random columns orthonormal on
        average), where an uncentred covariate costs no digits; fixed effects are taken and given on the scale
        of the design's columns all the same.

    Attributes
    ----------
    beta : ndarray, shape (k_fe,)
        Generalized least squares estimate; NaN for dropped columns.
    logdet : float
        log|V|, under REML + log|X'V^-1 X|.
    root : ndarray, shape (rank, rank)
        Upper triangular R with R'R = X'V^-1 X over the kept columns, in the basis.
    """

    def __init__(
        self,
        objective: Objective,
        design: Design,
        columns: KeptColumns,
        lams: list[np.ndarray],
        standard: bool = False,
    ) -> None:
        self._objective, self._design, self._columns = objective, design, columns
        kept = columns.kept
        self._lams = lams
        pairs = zip(design.terms, lams, strict=True)
        theta = np.concatenate([np.zeros(0), *(term.structure.theta(lam) for term, lam in pairs)])
        self._at = self._objective.at(theta, standard)
        self._standard = standard
        self.logdet = self._at.logdet
        self.root = self._at.root
        self.beta = np.full(kept.size, np.nan)
        self.beta[kept] = self._at.beta

    @property
    def equations(self) -> Equations:
        """The cross-products."""
        return self._objective.eq

    def is_at(self, lams: list[np.ndarray]) -> bool:
        """Whether this is the point of these factors."""
        return all(np.array_equal(a, b) for a, b in zip(self._lams, lams, strict=True))

    def nu(self, reml: bool) -> int:
        """Degrees of freedom of the residual variance: n - rank(X), or n."""
        return self._design.n - self._at.beta.size if reml else self._design.n

    def _step(self, beta: np.ndarray | None) -> np.ndarray:
        """Kept coefficients less their estimate, in the basis."""
        if beta is None:
            return np.zeros_like(self._at.beta)
        step = self._columns.of(beta) - self._at.beta
        return np.linalg.solve(self._objective.eq.fixed.T, step) if self._standard else step

    def r2(self, beta: np.ndarray | None = None) -> float:
        """(y - X b)'V^-1(y - X b); at the estimate by default."""
        step = self.root @ self._step(beta)
        return self._at.r2 + float(step @ step)

    def refined_r2(self, beta: np.ndarray | None = None) -> float:
        """The same from the rows, as |r - Z L u|^2 + |u|^2 with u = L'Z'V^-1 r, D = L L'.

        A sum of squares, stationary in u: no digits are lost where the random effects explain most of r.
        """
        design = self._design
        full = self.beta if beta is None else np.asarray(beta, dtype=np.float64)
        y = design.y if design.offset is None else design.y - design.offset
        resid = y - design.X @ np.where(np.isnan(full), 0.0, full)
        total = 0.0
        for term, z, lam in zip(design.terms, self.products(beta), self._lams, strict=True):
            u = z @ lam
            total += float(np.sum(u * term.related(u)))
            resid -= term.times(term.related(u @ lam.T))
        weighted = resid if design.weights is None else design.weights * resid
        return total + float(resid @ weighted)

    def loglike(self, beta: np.ndarray | None = None, refine: bool = False) -> float:
        """Log-likelihood without penalties; `refine` passes over the rows for the last digits."""
        nu = self._objective.nu
        r2 = self.refined_r2(beta) if refine else self.r2(beta)
        return -0.5 * (self.logdet + nu * (1.0 + np.log(2.0 * np.pi * r2 / nu)))

    def xvx(self) -> np.ndarray:
        """X'V^-1 X over the kept columns, shape (rank, rank)."""
        return self.root.T @ self.root

    def score_beta(self, beta: np.ndarray | None) -> np.ndarray:
        """X'V^-1 r over the kept columns, shape (rank,)."""
        return -self.root.T @ (self.root @ self._step(beta))

    def products(self, beta: np.ndarray | None) -> list[np.ndarray]:
        """Z'V^-1 r, per term of the design, shapes (q_t, k_t); of independent levels: see `marginal`."""
        step = self._step(beta)
        return [zr - zx @ step for zr, zx in zip(self._at.zr, self._at.zx, strict=True)]

    def products_x(self) -> list[np.ndarray]:
        """Z'V^-1 X over the kept columns, per term, shapes (q_t, k_t, rank)."""
        return self._at.zx

    def orthonormal_x(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """R and Z'V^-1 Q per term for an orthonormal basis Q of the kept columns, R'R = Q'V^-1 Q."""
        return self._at.root_q, self._at.zq

    def times(self, w: list[np.ndarray]) -> list[np.ndarray]:
        """Z'V^-1 Z w, per term, shapes (q_t, k_t, m)."""
        return self._at.times(w)

    def trace_products(self, turns: Sequence[np.ndarray] | None = None) -> Products:
        """Sums of products of blocks of Z'V^-1 Z: see `Marginal.trace_products`."""
        return self._at.trace_products(turns)

    def level_sums(self, h: list[np.ndarray]) -> LevelSums | None:
        """Sums over the levels of the only factor: see `Marginal.level_sums`."""
        return self._at.level_sums(h)

    def conditional_covariances(self) -> list[np.ndarray]:
        """Per level, covariance of its effects given y and b, divided by sigma2, shapes (q_t, k_t, k_t)."""
        return self._at.conditional_covariances()

    def prior_inverse(self) -> PriorInverse:
        """What variances of linear predictors are made of, in the equations' basis."""
        return self._at.prior_inverse()

    def quadratic(self, beta: np.ndarray | None) -> list[np.ndarray]:
        """d q / d D_t with the sign turned: sum_l (Z'V^-1 r)_l (Z'V^-1 r)_l', per term, shapes (k_t, k_t)."""
        return [z.T @ z for z in self.products(beta)]

    def slope(self, beta: np.ndarray | None = None) -> list[np.ndarray]:
        """dl/dD_t as a symmetric matrix, residual variance profiled out, per term."""
        here, slopes = self._derivatives()
        if beta is None:
            return [-0.5 * N for N in slopes]
        # the traces do not depend on b: put the quadratic forms at b in place of those at the estimate
        best, at = self.quadratic(None), self.quadratic(beta)
        weight = self._objective.nu / self.r2(beta)
        return [
            -0.5 * (N + q0 / here.sigma2) + 0.5 * weight * q
            for N, q0, q in zip(slopes, best, at, strict=True)
        ]

    def trace_slope(self) -> list[np.ndarray]:
        """d/dD_t of -1/2 (log|V| [+ log|X'V^-1X|]), per term."""
        here, slopes = self._derivatives()
        return [-0.5 * (N + q / here.sigma2) for N, q in zip(slopes, self.quadratic(None), strict=True)]

    def _derivatives(self) -> tuple[Evaluation, list[np.ndarray]]:
        here = self._objective.evaluate(self._at.theta, 1)
        slopes = here.N_basis if self._standard else here.N
        assert slopes is not None  # of order 1
        return here, slopes
