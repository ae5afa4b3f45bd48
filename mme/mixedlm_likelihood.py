"""The log-likelihood of a MixedLM and its derivatives, in statsmodels' parameters, asked of the engine.

Parameters are (b, D, v): fixed effects, covariance of the random effects and variance components, the latter
two divided by the residual variance, which is profiled out.  With V = I + Z D Z', r = y - X b, q = r'V^-1 r
and nu = n - p (REML) or n (ML),

    l = -1/2 { log|V| [+ log|X'V^-1 X|] + nu (1 + log(2 pi q / nu)) } - penalties.

The engine gives dl/dD at the best b as a matrix that is finite where D is singular; another b changes only
the quadratic forms Z'V^-1 r.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .covariance import factor_psd, lam_to_theta
from .design import Design
from .mixedlm_params import MixedLMParams
from .objective import Evaluation, Objective

__all__ = ["Likelihood", "Point"]

# Steps of the differences behind the Hessian, relative to the size of the parameters or to their distance
# from a singular covariance.  Two-sided: truncation 4 h^4 and rounding eps/h are both near 1e-11.  One-sided
# (covariance singular to within _SINGULAR): the engine's scores are good to 1e-8 there, hence longer.
_STEP = 1e-3
_STEP_ONE_SIDED = 2e-2
_SINGULAR = 1e-7


class Point:
    """The likelihood at one covariance, as a function of the fixed effects.

    Attributes
    ----------
    beta : ndarray, shape (k_fe,)
        Generalized least squares estimate; NaN for dropped columns.
    """

    def __init__(self, owner: Likelihood, lams: list[np.ndarray], reml: bool) -> None:
        self._owner = owner
        self._objective = owner.objective(reml)
        self._lams = lams
        places = self._objective.eq.layout.places
        self._theta = np.concatenate([lam_to_theta(lam, p.kind) for lam, p in zip(lams, places, strict=True)])
        state = self._objective._value(self._theta)
        fixed = self._objective.eq.fixed
        self._b, self._r2, self._logdet = state.b, state.r2, state.logdet
        # Cholesky factor of X'V^-1X in the engine's orthonormal basis
        self._R = np.linalg.inv(state.Ri)
        self.beta = np.full(fixed.kept.size, np.nan)
        self.beta[fixed.kept] = fixed.T @ (state.b + fixed.b0)

    def nu(self, reml: bool) -> int:
        """Degrees of freedom of the residual variance: n - rank(X), or n."""
        eq = self._objective.eq
        return eq.n - eq.p if reml else eq.n

    def _coordinates(self, beta: np.ndarray | None) -> np.ndarray:
        """Fixed effects in the engine's orthonormal basis."""
        if beta is None:
            return self._b
        fixed = self._objective.eq.fixed
        return np.linalg.solve(fixed.T, self._owner.kept_beta(beta)) - fixed.b0

    def r2(self, beta: np.ndarray | None = None) -> float:
        """(y - X b)'V^-1(y - X b); at the estimate by default."""
        step = self._R.T @ (self._coordinates(beta) - self._b)
        return self._r2 + float(step @ step)

    def refined_r2(self, beta: np.ndarray | None = None) -> float:
        """The same from the rows, as |r - Z L u|^2 + |u|^2 with u = L'Z'V^-1 r, D = L L'.

        A sum of squares, stationary in u: no digits are lost where the random effects explain most of r.
        """
        design = self._owner.design
        full = self.beta if beta is None else np.asarray(beta, dtype=np.float64)
        resid = design.y - design.X @ np.where(np.isnan(full), 0.0, full)
        total = 0.0
        for term, z, lam in zip(design.terms, self.products(beta), self._lams, strict=True):
            u = z @ lam
            total += float(np.sum(u * u))
            w = u @ lam.T
            if term.general:
                resid -= term.Z @ w[:, 0]
            elif term.columns is None:
                resid -= w[term.codes, 0]
            else:
                resid -= np.einsum("ij,ij->i", term.columns, w[term.codes])
        return total + float(resid @ resid)

    def loglike(self, beta: np.ndarray | None = None, refine: bool = False) -> float:
        """Log-likelihood without penalties; `refine` passes over the rows for the last digits."""
        nu = self._objective.nu
        r2 = self.refined_r2(beta) if refine else self.r2(beta)
        return -0.5 * (self._logdet + nu * (1.0 + np.log(2.0 * np.pi * r2 / nu)))

    def xvx(self) -> np.ndarray:
        """X'V^-1 X over the kept columns, shape (rank, rank)."""
        half = np.linalg.solve(self._objective.eq.fixed.T.T, self._R)
        return half @ half.T

    def score_beta(self, beta: np.ndarray | None) -> np.ndarray:
        """X'V^-1 r over the kept columns, shape (rank,)."""
        step = self._R @ (self._R.T @ (self._b - self._coordinates(beta)))
        return np.linalg.solve(self._objective.eq.fixed.T.T, step)

    def products(self, beta: np.ndarray | None) -> list[np.ndarray]:
        """Z'V^-1 r, per term of the design, shapes (q_t, k_t)."""
        return self._products(self._coordinates(beta))

    def _products(self, b: np.ndarray) -> list[np.ndarray]:
        state = replace(self._objective._value(self._theta), b=b)
        objective = self._objective
        blocks = objective._residual_products(state)
        places = objective.eq.layout.places
        # the engine's columns are those of the design in a better conditioned basis
        return [
            blocks[p.block][:, p.first : p.first + p.k] @ objective._basis(t) for t, p in enumerate(places)
        ]

    def products_x(self) -> list[np.ndarray]:
        """Z'V^-1 X over the kept columns, per term, shapes (q_t, k_t, rank)."""
        base = self._products(np.zeros_like(self._b))
        T = self._objective.eq.fixed.T
        # the residual y - Q b is linear in b: one unit of b_j takes column j away
        columns = [self._products(e) for e in np.eye(self._b.size)]
        inverse = np.linalg.inv(T) if self._b.size else T
        out = []
        for t, zy in enumerate(base):
            zq = np.stack([zy - c[t] for c in columns], axis=2) if columns else zy[:, :, None][:, :, :0]
            out.append(zq @ inverse)
        return out

    def quadratic(self, beta: np.ndarray | None) -> list[np.ndarray]:
        """d q / d D_t with the sign turned: sum_l (Z'V^-1 r)_l (Z'V^-1 r)_l', per term, shapes (k_t, k_t)."""
        return [z.T @ z for z in self.products(beta)]

    def slope(self, beta: np.ndarray | None = None) -> list[np.ndarray]:
        """dl/dD_t as a symmetric matrix, residual variance profiled out, per term."""
        here: Evaluation = self._objective.evaluate(self._theta, 1)
        if beta is None:
            return [-0.5 * N for N in here.N]
        # the traces do not depend on b: put the quadratic forms at b in place of those at the estimate
        best, at = self.quadratic(None), self.quadratic(beta)
        weight = self._objective.nu / self.r2(beta)
        return [
            -0.5 * (N + q0 / here.sigma2) + 0.5 * weight * q
            for N, q0, q in zip(here.N, best, at, strict=True)
        ]

    def trace_slope(self) -> list[np.ndarray]:
        """d/dD_t of -1/2 (log|V| [+ log|X'V^-1X|]), per term."""
        here = self._objective.evaluate(self._theta, 1)
        return [-0.5 * (N + q / here.sigma2) for N, q in zip(here.N, self.quadratic(None), strict=True)]


class Likelihood:
    """Log-likelihood, score and Hessian of a design with one correlated term and variance components.

    Parameters
    ----------
    design : Design
        The correlated term first, if `k_re`; then the components.
    k_re, k_vc : int
    """

    def __init__(self, design: Design, k_re: int, k_vc: int) -> None:
        self.design = design
        self.k_re, self.k_vc = k_re, k_vc
        self._objectives: dict[bool, Objective] = {}
        self._aliases: np.ndarray | None = None
        self._squares: dict[int, np.ndarray] = {}

    def adopt(self, objective: Objective) -> None:
        """Use the cross-products of a fit of the same design instead of building them again."""
        self._objectives.setdefault(objective.reml, objective)

    def objective(self, reml: bool) -> Objective:
        """The engine for one of the two likelihoods; they share the cross-products."""
        if reml not in self._objectives:
            other = self._objectives.get(not reml)
            equations = None if other is None else other.eq
            self._objectives[reml] = Objective(self.design, reml, equations=equations)
        return self._objectives[reml]

    def term_squares(self, t: int) -> np.ndarray:
        """Mean sum of squares of term t's columns per level, shape (k_t,); zero columns count as one.

        The variance at which the reliability of an effect is about one half is its inverse (ratio scale).
        """
        if t not in self._squares:
            term = self.design.terms[t]
            if term.general:
                squares = np.array([float(np.sum(term.Z.data**2))])
            elif term.columns is None:
                squares = np.array([float(self.design.n)])
            else:
                squares = np.einsum("ij,ij->j", term.columns, term.columns)
            self._squares[t] = np.where(squares > 0, squares, term.n_levels) / term.n_levels
        return self._squares[t]

    def kept_beta(self, beta: np.ndarray) -> np.ndarray:
        """Coefficients of the kept columns that give the same mean; NaN counts as zero."""
        kept = next(iter(self._objectives.values())).eq.fixed.kept
        beta = np.asarray(beta, dtype=np.float64)
        if kept.all():
            return beta
        full = np.where(np.isnan(beta), 0.0, beta)
        if self._aliases is None:
            X = self.design.X
            self._aliases = np.linalg.lstsq(X[:, kept], X[:, ~kept], rcond=None)[0]
        return full[kept] + self._aliases @ full[~kept]

    @property
    def kept(self) -> np.ndarray:
        """Columns of X that were not dropped."""
        return self.objective(True).eq.fixed.kept

    def factors(self, cov_re: np.ndarray, vcomp: np.ndarray) -> list[np.ndarray]:
        """Factors of the terms' covariances; raises ValueError where one is not positive semidefinite."""
        cov_re = np.asarray(cov_re, dtype=np.float64).reshape(self.k_re, self.k_re)
        vcomp = np.asarray(vcomp, dtype=np.float64)
        if vcomp.shape != (self.k_vc,):
            raise ValueError(f"vcomp has shape {vcomp.shape}; the model has {self.k_vc} variance components.")
        if not _is_psd(cov_re) or np.any(vcomp < 0):
            raise ValueError("the covariance of the random effects is not positive semidefinite.")
        lams = [_cholesky(cov_re)] if self.k_re else []
        return lams + [np.array([[np.sqrt(v)]]) for v in vcomp]

    def at(self, cov_re: np.ndarray, vcomp: np.ndarray, reml: bool = False) -> Point:
        """The likelihood at given (co)variances (ratio scale)."""
        self.objective(reml)
        return Point(self, self.factors(cov_re, vcomp), reml)

    def loglike(
        self,
        params: MixedLMParams,
        reml: bool,
        profile_fe: bool,
        fe_pen: Any = None,
        cov_pen: Any = None,
        refine: bool = False,
    ) -> float:
        """Log-likelihood less penalties; minus infinity where the covariance is not positive semidefinite."""
        try:
            lams = self.factors(params.cov_re, params.vcomp)
        except ValueError:
            if _is_psd(np.asarray(params.cov_re)) and np.all(np.asarray(params.vcomp) >= 0):
                raise
            return -np.inf
        self.objective(reml)
        point = Point(self, lams, reml)
        beta = None if profile_fe else np.asarray(params.fe_params, dtype=np.float64)
        value = point.loglike(beta, refine)
        if cov_pen is not None and self.k_re:
            value -= cov_pen.func(params.cov_re, _inverse(params.cov_re))
        if fe_pen is not None:
            value -= float(np.sum(fe_pen.func(point.beta if beta is None else beta)))
        return float(value)

    def score(
        self, params: MixedLMParams, reml: bool, calc_fe: bool, fe_pen: Any = None, cov_pen: Any = None
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
        fe_pen: Any = None,
        cov_pen: Any = None,
        stationary: bool = False,
    ) -> tuple[np.ndarray, bool]:
        """Second derivatives with respect to b, the lower triangle of D, and v.

        The blocks with b are exact.  The block of the (co)variances is the derivative of the exact score by
        fourth-order differences along feasible directions (rank-one changes of D, each v): two-sided,
        relative error about 1e-9; one-sided where the covariance is singular, about 1e-5.  With
        `stationary` the terms with X'V^-1 r are left out: a penalty outside the likelihood balances them.

        Returns
        -------
        hess : ndarray
        singular : bool
        """
        beta = np.asarray(params.fe_params, dtype=np.float64)
        kept = self.kept
        n_fe, n_re = beta.size, self.k_re * (self.k_re + 1) // 2
        m = n_re + self.k_vc
        hess = np.zeros((n_fe + m, n_fe + m))
        point = self.at(params.cov_re, params.vcomp, reml)
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

        def slope(cov_re: np.ndarray, vcomp: np.ndarray) -> np.ndarray:
            moved = MixedLMParams.from_components(beta, cov_re=cov_re, vcomp=vcomp)
            return np.concatenate(self.score(moved, reml, False, None, cov_pen)[1:])

        hess[n_fe:, n_fe:], singular = self._covariance_block(params, slope)
        return hess, singular

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
        self, params: MixedLMParams, slope: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, bool]:
        cov_re = np.asarray(params.cov_re, dtype=np.float64).reshape(self.k_re, self.k_re)
        vcomp = np.asarray(params.vcomp, dtype=np.float64)
        ix = np.tril_indices(self.k_re)
        directions, derivatives, singular = [], [], False
        for E, e, room in self._directions(cov_re, vcomp):

            def along(step: float, E: np.ndarray = E, e: np.ndarray = e) -> np.ndarray:
                return slope(cov_re + step * E, vcomp + step * e)

            if room > _SINGULAR:
                # the likelihood is singular at a distance `room` at the nearest: a step is a share of that
                h = _STEP * min(1.0, room)
                near, far = along(h) - along(-h), along(2 * h) - along(-2 * h)
                derivative = (8.0 * near - far) / (12.0 * h)
            else:
                singular = True
                h = _STEP_ONE_SIDED
                f = [along(i * h) for i in range(5)]
                derivative = (-25 * f[0] + 48 * f[1] - 36 * f[2] + 16 * f[3] - 3 * f[4]) / (12 * h)
            directions.append(np.concatenate((E[ix], e)))
            derivatives.append(derivative)
        if not directions:
            return np.zeros((0, 0)), False
        # derivatives[i] = H directions[i]
        H = np.linalg.solve(np.array(directions), np.array(derivatives))
        return 0.5 * (H + H.T), singular

    def _directions(
        self, cov_re: np.ndarray, vcomp: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray, float]]:
        """Changes of (D, v) of natural size that span the parameters, and the room behind each."""
        out = []
        none, still = np.zeros(self.k_vc), np.zeros((self.k_re, self.k_re))
        if self.k_re:
            # a variance this small (its reliability one half) is where the likelihood begins to notice it
            floor = 1.0 / self.term_squares(0)
            size = np.sqrt(np.maximum(np.diag(cov_re), floor))
            smallest, basis = np.linalg.eigh(cov_re / np.outer(size, size))
            for a in range(self.k_re):
                for b in range(a + 1):
                    v = np.zeros(self.k_re)
                    v[a] = v[b] = 1.0
                    w = basis.T @ v
                    if smallest[0] <= 1e-12:
                        room = 0.0
                    else:
                        room = 1.0 / float(np.sum(w**2 / smallest))
                    out.append((np.outer(size * v, size * v), none, room))
        for j in range(self.k_vc):
            floor = 1.0 / self.term_squares(j + (self.k_re > 0))[0]
            size = max(vcomp[j], floor)
            e = none.copy()
            e[j] = size
            out.append((still, e, vcomp[j] / size))
        return out


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


def _penalty_hessian(pen: Any, beta: np.ndarray) -> np.ndarray:
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
