"""The objective of a small model by orthogonal factorizations of its rows: slow, exact for huge variances.

Cross-products lose 1e-16 times a variance ratio: at standard deviations 1e5 times the residual's nothing is
left of the deviance's sixth digit.  Here the rows of [Z X y] are reduced to a triangle R by one QR
decomposition, and with B = R_z Lam = U diag(s) V' and c = 1 - (1 + s^2)^-1/2 all is formed from
V^-1/2 = I - U diag(c) U':

    log|V| = sum log(1 + s^2),   T = (I - Q Q') V^-1/2 R_z,   r = (I - Q Q') V^-1/2 y,   Q from V^-1/2 X,

Z'PZ = T'T, Z'e = T'r and f'Pf = |T w|^2 without a difference of large numbers: errors are 1e-16 times a ratio
of standard deviations.  Symbols and basis as in `mme.engine.direct.objective`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import cast

import numpy as np

from ...exceptions import EXPLAINED, PerfectFitError
from ..equations.design import Design
from ..equations.equations import Equations, dense_rows
from ..search.evaluation import Evaluation, Solution
from .objective import Objective

__all__ = ["CarefulObjective", "is_small"]

_MOST_EFFECTS = 400  # a singular value decomposition of that order takes some tenths of a second
_MOST_ROWS = 20_000
_EXACT = 1e-14  # norm of the residual on [X Z] over that of y that is rounding, times the root of the rows
_DEPENDENT = 1e-11  # singular value of unit columns below which they depend on one another
_MOST_SUBSETS = 4  # terms of which all subsets are looked at
_EPS = float(np.finfo(float).eps)


def is_small(equations: Equations) -> bool:
    """Whether a model can be evaluated here at all."""
    effects = sum(b.q * b.k for b in equations.layout.blocks)
    return effects <= _MOST_EFFECTS and equations.n <= _MOST_ROWS


class CarefulObjective:
    """As `Objective`, for the search and the solution.

    Parameters
    ----------
    design : Design
    objective : Objective
        Of that design.
    unexplained : float
        Residual sum of squares, of the response's own, that one more row adds which no effect touches.
    """

    def __init__(self, design: Design, objective: Objective, unexplained: float = 0.0) -> None:
        self.eq, self.reml, self.nu = objective.eq, objective.reml, objective.nu
        self.n_theta = objective.n_theta
        self.n_factorizations = 0
        Z, X, y = dense_rows(design, self.eq)
        Z = _unrelated(self.eq, Z)
        stacked = np.column_stack([Z, X, y])
        if unexplained > 0.0:
            stacked = np.vstack([stacked, np.zeros(stacked.shape[1])])
            stacked[-1, -1] = np.sqrt(unexplained * float(y @ y))
        tall = stacked.shape[0] > stacked.shape[1]
        R = cast(np.ndarray, np.linalg.qr(stacked, mode="r")) if tall else stacked
        q, p = Z.shape[1], X.shape[1]
        self._Z, self._X, self._y = R[:, :q], R[:, q : q + p], R[:, q + p]
        self._yy = float(self._y @ self._y)

    def explains_exactly(self) -> bool:
        """Whether y lies in the span of X and some of the terms, which leave degrees of freedom.

        With all of these terms' variances growing as T the deviance falls as (rank - nu) log T, rank that of
        Z beside X under REML, of Z alone under ML.  Where that is nu, [X Z] explains every response, and the
        likelihood is bounded.
        """
        columns = [c.ravel() for c in self._columns()]
        numbers = range(len(columns))
        if len(columns) <= _MOST_SUBSETS:
            subsets = [s for size in range(1, len(columns) + 1) for s in combinations(numbers, size)]
        else:
            subsets = [*combinations(numbers, 1), *combinations(numbers, len(columns) - 1), tuple(numbers)]
        return any(self._explained_by(np.concatenate([columns[t] for t in subset])) for subset in subsets)

    def _explained_by(self, columns: np.ndarray) -> bool:
        Z = self._Z[:, columns]
        U = _span(np.column_stack([self._X, Z]))
        if (U if self.reml else _span(Z)).shape[1] >= self.eq.n:
            return False
        left = self._y - U @ (U.T @ self._y)
        left -= U @ (U.T @ left)
        # far from its origin a response is known to no more than the rounding of its values
        rounding = max(_EXACT * np.sqrt(self.eq.n * self._yy), _EPS * np.sqrt(self.eq.response.total))
        return float(np.linalg.norm(left)) <= rounding

    def evaluate(
        self,
        theta: np.ndarray,
        order: int = 0,
        standard: bool = True,
        directions: Sequence[tuple[int, np.ndarray]] | None = None,
    ) -> Evaluation:
        """As `Objective.evaluate`; theta in the equations' basis alone."""
        assert standard
        inner, W, Q, r, logdet = self._state(theta)
        r2 = float(r @ r)
        sigma2 = r2 / self.nu
        deviance = logdet + self.nu * (1.0 + np.log(2.0 * np.pi * sigma2)) - self.eq.log_w
        lost = self.nu * np.sqrt(self._yy / r2) + sum(float(np.abs(lam).max()) for lam in inner)
        noise = 4.0 * _EPS * lost
        if order == 0:
            return Evaluation(theta, deviance, sigma2, noise=noise)
        T = W - Q @ (Q.T @ W)
        ze = T.T @ r
        m = self.n_theta
        N: list[np.ndarray] = []
        gradient = np.empty(m)
        wanted = m if directions is None else len(directions)
        F, fe = np.zeros((T.shape[0], wanted)), np.zeros(wanted)
        for place, columns, lam in zip(self.eq.layout.places, self._columns(), inner, strict=True):
            part = (T if self.reml else W)[:, columns]  # (rows, q, k)
            zpz = np.einsum("rla,rlb->ab", part, part)
            e = ze[columns]
            N.append(zpz - e.T @ e / sigma2)
            full = 2.0 * N[-1] @ lam
            gradient[place.theta] = [full[a, b] for a, b in place.entries]
            if order > 1 and directions is None:
                for i, (a, b) in enumerate(place.entries, start=place.theta.start):
                    w = np.zeros_like(e)
                    w[:, a] += e[:, b]
                    if a != b:
                        w[:, b] += e[:, a]
                    F[:, i] = T[:, columns].reshape(T.shape[0], -1) @ w.ravel()
                    fe[i] = float(np.sum(w * e))
        for i, (t, change) in enumerate(directions or ()):
            columns = self._columns()[t]
            w = ze[columns] @ change
            F[:, i] = T[:, columns].reshape(T.shape[0], -1) @ w.ravel()
            fe[i] = float(np.sum(w * ze[columns]))
        information = None
        if order > 1:
            information = (F.T @ F - np.outer(fe, fe) / r2) / sigma2
        return Evaluation(
            theta, deviance, sigma2, gradient=gradient, N_basis=N, information_basis=information, noise=noise
        )

    def solution(self, theta: np.ndarray, standard: bool = True) -> Solution:
        """As `Objective.solution`."""
        assert standard
        inner, W, Q, r, logdet = self._state(theta)
        fixed = self.eq.fixed
        sigma2 = float(r @ r) / self.nu
        inverse = np.linalg.inv(self._border)
        b = inverse @ (Q.T @ self._white(self._y[:, None])[:, 0])
        ze = W.T @ r
        u = []
        for t, (columns, lam) in enumerate(zip(self._columns(), inner, strict=True)):
            effects = ze[columns] @ (lam @ lam.T)
            relation = self.eq.layout.blocks[self.eq.layout.places[t].block].relation
            if relation is not None:
                effects = relation.related(effects)
            u.append(np.linalg.solve(self.eq.term_basis(t), effects.T).T)
        return {
            "theta": self.eq.from_standard(theta),
            "beta": fixed.coefficients(b),
            "vcov": sigma2 * fixed.covariance(inverse.T),
            "root": np.sqrt(sigma2) * fixed.root(inverse.T),
            "u": u,
            "sigma2": sigma2,
            "deviance": logdet + self.nu * (1.0 + np.log(2.0 * np.pi * sigma2)) - self.eq.log_w,
        }

    def _columns(self) -> list[np.ndarray]:
        """Columns of Z of every term, shapes (q, k)."""
        lay = self.eq.layout
        out, start = [], []
        total = 0
        for b in lay.blocks:
            start.append(total)
            total += b.q * b.k
        for place in lay.places:
            b = lay.blocks[place.block]
            grid = start[place.block] + np.arange(b.q * b.k).reshape(b.q, b.k)
            out.append(grid[:, place.columns])
        return out

    def _white(self, M: np.ndarray) -> np.ndarray:
        """V^-1/2 M: the parts outside the span of B and inside it apart, so that neither hides the other."""
        inside = self._U.T @ M
        outside = M - self._U @ inside
        outside -= self._U @ (self._U.T @ outside)
        return outside + self._U @ (inside / self._root[:, None])

    def _state(self, theta: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray, float]:
        """Factors by term, V^-1/2 Z, the basis of V^-1/2 X, the residual of V^-1/2 y on it, log|V|."""
        self.n_factorizations += 1
        theta = np.asarray(theta, dtype=np.float64)
        if not np.all(np.isfinite(theta)):
            raise np.linalg.LinAlgError("theta is not finite.")
        inner = [p.structure.lam(theta[p.theta], p.k) for p in self.eq.layout.places]
        B = np.zeros_like(self._Z)
        for columns, lam in zip(self._columns(), inner, strict=True):
            B[:, columns] = self._Z[:, columns] @ lam
        U, s, _ = np.linalg.svd(B, full_matrices=False)
        self._U, self._root = U, np.sqrt(1.0 + s * s)
        logdet = float(2.0 * np.sum(np.log(self._root)))
        Xw, yw = self._white(self._X), self._white(self._y[:, None])[:, 0]
        Q, R = np.linalg.qr(Xw)
        self._border = R
        if R.shape[0]:
            pivots = np.abs(np.diag(R))
            if not pivots.min() > 0.0:
                raise np.linalg.LinAlgError("the fixed effects vanish beside the random ones at this theta.")
            if self.reml:
                logdet += float(2.0 * np.sum(np.log(pivots))) + self.eq.fixed.logdet
        r = yw - Q @ (Q.T @ yw)
        r -= Q @ (Q.T @ r)
        if not np.isfinite(logdet):
            raise np.linalg.LinAlgError("the mixed-model equations overflow at this theta.")
        if float(np.linalg.norm(r)) <= _EXACT * np.sqrt(self._yy):
            raise PerfectFitError(EXPLAINED)
        return inner, self._white(self._Z), Q, r, logdet


def _unrelated(eq: Equations, Z: np.ndarray) -> np.ndarray:
    """Z T: the columns of independent effects, where levels have a known covariance A = T T'."""
    out, start = [], 0
    for block in eq.layout.blocks:
        part = Z[:, start : start + block.q * block.k]
        start += part.shape[1]
        if block.relation is not None:
            cube = part.reshape(-1, block.q, block.k).transpose(1, 2, 0)
            part = block.relation.unrelated(cube).transpose(2, 0, 1).reshape(part.shape)
        out.append(part)
    return np.hstack(out)


def _span(M: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the columns."""
    size = np.linalg.norm(M, axis=0)
    U, s, _ = np.linalg.svd(M / np.where(size > 0.0, size, 1.0), full_matrices=False)
    return U[:, s > _DEPENDENT * s[0]]
