"""The log-likelihood of a MixedLM and its derivatives, in statsmodels' parameters, asked of the engine.

Parameters are (b, D, v): fixed effects, covariance of the random effects and variance components, the latter
two divided by the residual variance, which is profiled out.  With V = I + Z D Z', r = y - X b, q = r'V^-1 r
and nu = n - p (REML) or n (ML),

    l = -1/2 { log|V| [+ log|X'V^-1 X|] + nu (1 + log(2 pi q / nu)) } - penalties.

The engine gives dl/dD at the best b as a matrix that is finite where D is singular; another b changes only
the quadratic forms Z'V^-1 r.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..engine.covariance.factors import factor_psd
from ..engine.direct.hessian import Direction, entry_directions, second_derivatives
from ..engine.direct.objective import Objective
from ..engine.direct.point import KeptColumns, Point
from ..engine.direct.second import products_work
from ..engine.equations.design import Design
from ..engine.equations.equations import Equations
from ..engine.equations.respond import respond
from ..engine.runtime.parallel import single_threaded_blas
from ..fit.fit import equations_of, planned
from ..fit.options import route_of
from .covariance import triangle
from .design.params import MixedLMParams
from .hessian import SINGULAR, difference_hessian, feasible_directions
from .penalty import CovariancePenalty, FixedPenalty

if TYPE_CHECKING:
    from ..engine.iterative.objective import IterativeObjective

__all__ = ["Likelihood", "relative_factors"]

# Multiplications of the exact second derivatives, some seconds' work, from which they must cost less than the
# differences of the score do.
_AFFORDABLE = 3e10
_LOST = 0.01  # share of a covariance that rounding of the parameters may take


class Likelihood:
    """Log-likelihood, score and Hessian of a design with one correlated term and variance components.

    Parameters
    ----------
    design : Design
        The correlated term first, if `k_re`; then the components.
    k_re, k_vc : int
    level_groups : sequence of ndarray of int, shapes (q_t,)
        Group of every level of every term; effects of different groups share no row.

    Attributes
    ----------
    equations : Equations or None
        The cross-products, where they have been built.
    """

    def __init__(self, design: Design, k_re: int, k_vc: int, level_groups: Sequence[np.ndarray]) -> None:
        self.design = design
        self.k_re, self.k_vc = k_re, k_vc
        self.level_groups = level_groups
        self.equations: Equations | None = None
        self._objectives: dict[bool, Objective] = {}
        self._points: dict[bool, Point] = {}
        self._columns: KeptColumns | None = None
        self._squares: dict[int, np.ndarray] = {}

    def adopt(self, objective: Objective | IterativeObjective) -> None:
        """Use the cross-products, and a factorization, of a fit of the same design."""
        self.equations = objective.eq
        if isinstance(objective, Objective):
            self._objectives.setdefault(objective.reml, objective)

    def cross_products(self) -> Equations:
        """`equations`, built if need be; raises `MemoryEstimateError` if they would not fit in memory."""
        if self.equations is None:
            with single_threaded_blas():
                self.equations = equations_of(self.design)
        return self.equations

    def share(self, other: Likelihood) -> None:
        """Take the cross-products of another likelihood whose design differs in its response alone."""
        with single_threaded_blas():
            self.equations = respond(self.design, other.cross_products())

    def check_memory(self) -> None:
        """Raise `MemoryEstimateError` where a factorization is predicted not to fit in memory."""
        planned(self.design, self.cross_products(), route_of("direct"), likelihood=True)

    def objective(self, reml: bool, solver: str = "auto") -> Objective:
        """The engine for one of the two likelihoods; they share the cross-products.

        Parameters
        ----------
        reml : bool
        solver : str
            How to factor, as in `mme.fit.fit_design`; "auto" and "direct" take what is there.

        Raises
        ------
        MemoryEstimateError
            The factorization is predicted not to fit in memory.
        """
        here = self._objectives.get(reml)
        factorization = route_of(solver).factorization
        if here is None or factorization not in ("auto", here.plan.factorization):
            self.check_memory()
            here = Objective(self.design, reml, factorization, self.cross_products())
            self._objectives[reml] = here
            self._points.pop(reml, None)
        return here

    def natural_root(self, t: int) -> np.ndarray:
        """A with A'A the mean cross-product of term t's columns per level, shape (k_t, k_t)."""
        eq = self.cross_products()
        return eq.term_root(t) @ eq.term_basis(t)

    def term_squares(self, t: int) -> np.ndarray:
        """Mean sum of squares of term t's columns per level, shape (k_t,); zero columns count as one.

        The variance at which the reliability of an effect is about one half is its inverse (ratio scale).
        """
        if t not in self._squares:
            term = self.design.terms[t]
            if term.Z is not None:
                squares = np.array([float(np.sum(term.Z.data**2))])
            elif term.columns is None:
                squares = np.array([float(self.design.n)])
            else:
                squares = np.einsum("ij,ij->j", term.columns, term.columns)
            self._squares[t] = np.where(squares > 0, squares, term.n_levels) / term.n_levels
        return self._squares[t]

    @property
    def columns(self) -> KeptColumns:
        """Which columns of X were kept."""
        if self._columns is None:
            self._columns = KeptColumns(self.design, self.kept)
        return self._columns

    @property
    def kept(self) -> np.ndarray:
        """Columns of X that were not dropped."""
        return self.cross_products().fixed.kept

    def factors(self, cov_re: np.ndarray, vcomp: np.ndarray) -> list[np.ndarray]:
        """Factors of the terms' covariances; raises ValueError where one is not positive semidefinite."""
        cov_re = np.asarray(cov_re, dtype=np.float64).reshape(self.k_re, self.k_re)
        vcomp = np.asarray(vcomp, dtype=np.float64)
        if vcomp.shape != (self.k_vc,):
            raise ValueError(f"vcomp has shape {vcomp.shape}; the model has {self.k_vc} variance components.")
        if not _is_psd(cov_re) or np.any(vcomp < 0):
            raise ValueError("the covariance of the random effects is not positive semidefinite.")
        return relative_factors(cov_re, vcomp)

    def admits(self, cov_re: np.ndarray, vcomp: np.ndarray) -> bool:
        """Whether these are (co)variances: finite, none negative, positive semidefinite."""
        cov_re, vcomp = np.asarray(cov_re, dtype=np.float64), np.asarray(vcomp, dtype=np.float64)
        finite = bool(np.isfinite(cov_re).all() and np.isfinite(vcomp).all())
        return finite and _is_psd(cov_re) and not np.any(vcomp < 0)

    def at(self, cov_re: np.ndarray, vcomp: np.ndarray, reml: bool = False) -> Point:
        """The likelihood at given (co)variances (ratio scale)."""
        return self._point(self.factors(cov_re, vcomp), reml)

    def _point(self, lams: list[np.ndarray], reml: bool) -> Point:
        """The last point is kept: likelihood, score and estimate are asked for one after another."""
        last = self._points.get(reml)
        if last is None or not last.is_at(lams):
            last = self._points[reml] = Point(self.objective(reml), self.design, self.columns, lams)
        return last

    def directions(self) -> list[Direction]:
        """dD / d(parameter) of every (co)variance."""
        return [
            direction
            for t, term in enumerate(self.design.terms)
            for direction in entry_directions(t, triangle(term.k), term.k)
        ]

    def second_is_exact(self, reml: bool) -> bool:
        """Whether exact second derivatives cost less than differences of the score, or little."""
        objective = self.objective(reml)
        eq, plan = objective.eq, objective.plan
        work = products_work(eq, plan.entries)
        # a gradient: a factorization and an inverse on its pattern; four along every direction
        return work <= max(_AFFORDABLE, 4.0 * len(self.directions()) * 3.0 * plan.flops)

    def loglike(
        self,
        params: MixedLMParams,
        reml: bool,
        profile_fe: bool,
        fe_pen: FixedPenalty | None = None,
        cov_pen: CovariancePenalty | None = None,
        refine: bool = False,
    ) -> float:
        """Log-likelihood less penalties; minus infinity where the covariance is not positive semidefinite."""
        try:
            lams = self.factors(params.cov_re, params.vcomp)
        except ValueError:
            if _is_psd(np.asarray(params.cov_re)) and np.all(np.asarray(params.vcomp) >= 0):
                raise
            return -np.inf
        point = self._point(lams, reml)
        beta = None if profile_fe else np.asarray(params.fe_params, dtype=np.float64)
        value = point.loglike(beta, refine)
        if cov_pen is not None and self.k_re:
            value -= cov_pen.func(params.cov_re, _inverse(params.cov_re))
        if fe_pen is not None:
            value -= float(np.sum(fe_pen.func(point.beta if beta is None else beta)))
        return float(value)

    def score(
        self,
        params: MixedLMParams,
        reml: bool,
        calc_fe: bool,
        fe_pen: FixedPenalty | None = None,
        cov_pen: CovariancePenalty | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Derivatives with respect to b (zeros unless `calc_fe`), the lower triangle of D, and v."""
        point = self.at(params.cov_re, params.vcomp, reml)
        beta = np.asarray(params.fe_params, dtype=np.float64)
        score_re, score_vc = self.triangle(point.slope(beta))
        score_fe = np.zeros(beta.size)
        if cov_pen is not None and self.k_re:
            score_re = score_re - cov_pen.deriv(params.cov_re, _inverse(params.cov_re))
        if calc_fe:
            score_fe[self.kept] = point.nu(reml) / point.r2(beta) * point.score_beta(beta)
            if fe_pen is not None:
                score_fe = score_fe - fe_pen.deriv(beta)
        return score_fe, score_re, score_vc

    def triangle(self, slopes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Symmetric matrices of derivatives as derivatives in the free entries, row by row."""
        score_re = np.zeros(0)
        if self.k_re:
            S = slopes[0]
            score_re = (2.0 * S - np.diag(np.diag(S)))[np.tril_indices(self.k_re)]
        score_vc = np.array([s[0, 0] for s in slopes[1 if self.k_re else 0 :]])
        return score_re, score_vc

    def hessian(
        self,
        params: MixedLMParams,
        reml: bool,
        fe_pen: FixedPenalty | None = None,
        cov_pen: CovariancePenalty | None = None,
        stationary: bool = False,
    ) -> tuple[np.ndarray, bool]:
        """Second derivatives with respect to b, the lower triangle of D, and v.

        The blocks with b are exact, and so is that of the (co)variances, boundary included, except where it
        would take longer than differences of the exact score (crossed factors of very many levels with few
        common rows): fourth-order differences along feasible directions then, relative error about 1e-9, or
        1e-5 one-sidedly where the covariance is singular.  A penalty's second derivative in D is
        always a difference of its first.  With `stationary` the terms with X'V^-1 r are left out: a penalty
        outside the likelihood balances them.

        Returns
        -------
        hess : ndarray
        singular : bool
        """
        beta = np.asarray(params.fe_params, dtype=np.float64)
        point = self.at(params.cov_re, params.vcomp, reml)
        hess = self._with_fixed_effects(point, beta, reml, fe_pen, stationary)
        n_fe = beta.size
        hess[n_fe:, n_fe:], singular = self._covariance_block(params, point, beta, reml, cov_pen)
        return hess, singular

    def orthonormal_point(self, params: MixedLMParams, reml: bool) -> Point:
        """The likelihood there in the engine's coordinates."""
        lams = self.factors(params.cov_re, params.vcomp)
        return Point(self.objective(reml), self.design, self.columns, lams, standard=True)

    def orthonormal_hessian(self, params: MixedLMParams, reml: bool) -> np.ndarray:
        """`hessian` in the engine's coordinates (`mme.facade.covariance.well_conditioned`).

        Zero, that is no information, where the exact second derivatives would cost too much, or where the
        covariance is known to fewer digits than its columns' origin takes (a year counted from far away).
        """
        if self._digits_lost(params.cov_re):
            k = self.columns.kept.size + self.k_re * (self.k_re + 1) // 2 + self.k_vc
            return np.zeros((k, k))
        beta = np.asarray(params.fe_params, dtype=np.float64)
        point = self.orthonormal_point(params, reml)
        hess = self._with_fixed_effects(point, beta, reml)
        if not self.second_is_exact(reml):
            return np.zeros_like(hess)
        hess[beta.size :, beta.size :] = self._exact_block(point, beta, reml)
        return hess

    def _digits_lost(self, cov_re: np.ndarray) -> bool:
        """Whether rounding of D's entries hides R D R', its covariance in orthonormal columns."""
        if self.k_re < 2:
            return False
        D = np.asarray(cov_re, dtype=np.float64)
        R = self.cross_products().term_basis(0)
        rounding = np.finfo(float).eps * np.max(np.abs(R) @ np.abs(D) @ np.abs(R).T)
        return bool(rounding > _LOST * np.max(np.abs(R @ D @ R.T)))

    def _exact_block(self, point: Point, beta: np.ndarray, reml: bool) -> np.ndarray:
        """1/2 tr(P V_i P V_j) - nu (curve_ij / q - slope_i slope_j / (2 q^2)), the fixed effects held."""
        second = second_derivatives(point, self.directions(), reml, beta)
        q, nu = point.r2(beta), point.nu(reml)
        slope = second.slope / q
        return 0.5 * second.traces - nu * (second.curve / q - 0.5 * np.outer(slope, slope))

    def _with_fixed_effects(
        self,
        point: Point,
        beta: np.ndarray,
        reml: bool,
        fe_pen: FixedPenalty | None = None,
        stationary: bool = False,
    ) -> np.ndarray:
        """The Hessian but for the block of the (co)variances, which is left zero."""
        kept = self.kept
        n_fe, n_re = beta.size, self.k_re * (self.k_re + 1) // 2
        m = n_re + self.k_vc
        hess = np.zeros((n_fe + m, n_fe + m))
        rows = np.flatnonzero(kept)
        q, nu, g = point.r2(beta), point.nu(reml), point.score_beta(beta)
        if stationary:
            g = np.zeros_like(g)
        hess[np.ix_(rows, rows)] = -nu / q * point.xvx() + 2.0 * nu / q**2 * np.outer(g, g)
        if fe_pen is not None:
            hess[:n_fe, :n_fe] += _penalty_hessian(fe_pen, beta)
        quad = np.concatenate(self.triangle(point.quadratic(beta)))
        cross = self._cross(point, beta)
        cross = nu / q * (-cross + np.outer(quad, g) / q)
        hess[np.ix_(n_fe + np.arange(m), rows)] = cross
        hess[np.ix_(rows, n_fe + np.arange(m))] = cross.T
        return hess

    def _cross(self, point: Point, beta: np.ndarray) -> np.ndarray:
        """X'V^-1 (dV/d parameter) V^-1 r, shape (k_re2 + k_vc, rank)."""
        zr, zx = point.products(beta), point.products_x()
        out = []
        for t, (z, x) in enumerate(zip(zr, zx, strict=True)):
            M = np.einsum("laj,lb->abj", x, z)
            if self.k_re and t == 0:
                both = M + M.transpose(1, 0, 2)
                both[np.diag_indices(self.k_re)] /= 2
                out.append(both[np.tril_indices(self.k_re)])
            else:
                out.append(M[0, 0][None, :])
        return np.concatenate(out)

    def _covariance_block(
        self,
        params: MixedLMParams,
        point: Point,
        beta: np.ndarray,
        reml: bool,
        cov_pen: CovariancePenalty | None,
    ) -> tuple[np.ndarray, bool]:
        cov_re = np.asarray(params.cov_re, dtype=np.float64).reshape(self.k_re, self.k_re)
        vcomp = np.asarray(params.vcomp, dtype=np.float64)
        floors = [1.0 / self.term_squares(t) for t in range(len(self.design.terms))]
        directions = feasible_directions(cov_re, vcomp, floors)
        singular = any(room <= SINGULAR for _, _, room in directions)
        if not self.second_is_exact(reml):

            def slope(D: np.ndarray, v: np.ndarray) -> np.ndarray:
                moved = MixedLMParams.from_components(beta, cov_re=D, vcomp=v)
                return np.concatenate(self.score(moved, reml, False, None, cov_pen)[1:])

            return difference_hessian(slope, cov_re, vcomp, directions), singular
        H = self._exact_block(point, beta, reml)
        if cov_pen is not None and self.k_re:

            def pull(D: np.ndarray, v: np.ndarray) -> np.ndarray:
                return np.concatenate((cov_pen.deriv(D, _inverse(D)), np.zeros(v.size)))

            H = H - difference_hessian(pull, cov_re, vcomp, directions)
        return H, singular


def relative_factors(cov_re: np.ndarray, vcomp: np.ndarray) -> list[np.ndarray]:
    """Factors of positive semidefinite covariances, per term of the design."""
    lams = [_cholesky(cov_re)] if cov_re.size else []
    return lams + [np.array([[np.sqrt(v)]]) for v in vcomp]


def _is_psd(cov: np.ndarray) -> bool:
    if cov.size == 0:
        return True
    if not np.all(np.isfinite(cov)):
        return False
    diagonal = np.diag(cov)
    if np.any(diagonal < 0):
        return False
    size = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    return bool(np.linalg.eigvalsh(cov / np.outer(size, size))[0] >= -1e-10)


def _cholesky(cov: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        # singular, an ordinary value: the factor that keeps zero pivots
        return factor_psd(cov)


def _inverse(cov: np.ndarray) -> np.ndarray:
    """Inverse for a penalty's formula; the pseudo-inverse of a singular matrix, as statsmodels passes it."""
    try:
        return np.linalg.inv(cov)
    except np.linalg.LinAlgError:
        return np.linalg.pinv(cov)


def _penalty_hessian(pen: FixedPenalty, beta: np.ndarray) -> np.ndarray:
    """Minus the second derivative of a penalty; by differences where the penalty has none."""
    if hasattr(pen, "deriv2"):
        second = np.asarray(pen.deriv2(beta), dtype=np.float64)
        return -np.diag(second) if second.ndim == 1 else -second
    step = 1e-6 * np.maximum(np.abs(beta), 1e-3)
    columns = [
        (pen.deriv(beta + h * e) - pen.deriv(beta - h * e)) / (2 * h)
        for h, e in zip(step, np.eye(beta.size), strict=True)
    ]
    H = np.column_stack(columns) if columns else np.zeros((0, 0))
    return -0.5 * (H + H.T)
