"""Optimum of a small mixed model's likelihood by a dense multi-start search, independent of the engine.

The restricted likelihood is that of K'y, where K is an orthonormal basis of what the fixed effects leave: no
fixed effects remain in it.  With K'Z Lam = U S V' the deviance is

    sum log(1 + s^2) + nu log r2,    r2 = (K'y)' (I + U S^2 U')^-1 (K'y),

its gradient in Lam follows from the same factors.  Full likelihood takes its log-determinant from the
singular values of Z Lam.  Everything linear in the data (K, the columns made orthonormal, the rotation of
[K'Z, K'y] to a square) is done in extended precision; a singular value decomposition is exact for a matrix
that differs from the given one by about eps * s_max, whatever its condition, so the log-likelihood is good to
about (n + q) * eps * s_max: 1e-8 at standard deviations of 1e5 times the residual's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import minimize, minimize_scalar

__all__ = ["Dense", "Found", "Term", "search"]

_IN_SPAN = 1e-9  # share of the response's length that may be rounding
_FAR = 1e8  # sd ratio, in natural units, from which an optimum counts as a limit
_MODE = 1e-3  # log-likelihoods that differ by less are one mode


@dataclass(frozen=True)
class Term:
    """A random term: level of every row, and the columns whose effects are correlated within a level."""

    codes: np.ndarray
    columns: np.ndarray  # shape (n, k)

    @property
    def q(self) -> int:
        return int(self.codes.max()) + 1

    @property
    def k(self) -> int:
        return self.columns.shape[1]


@dataclass
class Found:
    """What a search found: the best log-likelihood, where, and what else there is.

    Attributes
    ----------
    llf : float
    theta : list of float
        Factors of the relative covariances in the user's columns, lme4's order.
    modes : list of float
        Log-likelihoods of distinct local optima, best first.
    decrement : float
        What a Newton step would still gain in log-likelihood.
    limit : bool
        The best point has a standard deviation far beyond any that data could show: a supremum at infinity.
    left : float
        Precision of llf at the best point.
    evaluations : int
    """

    llf: float
    theta: list[float]
    modes: list[float]
    decrement: float
    limit: bool
    left: float
    evaluations: int


class Dense:
    """The (restricted) likelihood of a small design, dense; terms in natural units (orthonormal columns).

    Parameters
    ----------
    y : ndarray, shape (n,)
    X : ndarray, shape (n, p)
        Of full rank.
    terms : sequence of Term
    weights : ndarray, shape (n,), optional
    reml : bool
    """

    def __init__(
        self,
        y: np.ndarray,
        X: np.ndarray,
        terms: Sequence[Term],
        weights: np.ndarray | None = None,
        reml: bool = True,
    ) -> None:
        n, p = X.shape
        self.terms, self.reml, self.n = tuple(terms), reml, n
        self.nu = n - p if reml else n
        prior = np.ones(n, np.longdouble) if weights is None else np.asarray(weights, np.longdouble)
        w = np.sqrt(prior)
        self.R, Z = [], []
        for term in terms:
            columns = w[:, None] * term.columns.astype(np.longdouble)
            lengths = np.sqrt(np.sum(columns**2, axis=0) / term.q)
            R = _triangularise(columns / lengths, term.k)[: term.k] / np.sqrt(np.longdouble(term.q)) * lengths
            basis = _solve_right(columns, R)
            block = np.zeros((n, term.q, term.k), dtype=np.longdouble)
            block[np.arange(n), term.codes] = basis
            self.R.append(R)
            Z.append(block.reshape(n, -1))
        Zall = np.hstack(Z)
        Q = Zall.shape[1]
        self.edges = np.cumsum([0, *(term.q * term.k for term in terms)])
        Xw, yw = w[:, None] * X.astype(np.longdouble), w * np.asarray(y, dtype=np.longdouble)
        scale = np.sqrt(np.sum(Xw**2, axis=0))
        full = _triangularise(np.column_stack([Xw / scale, Zall, yw]), p)
        log_xx = 2.0 * np.sum(np.log(np.abs(np.diag(full[:p, :p])))) + 2.0 * np.sum(np.log(scale))
        rest = full[p:, p:]
        self.y_length = float(np.sqrt(np.sum(rest[:, -1] ** 2)))
        self.KZ = rest[:, :-1].astype(float)
        rest = _triangularise(rest, min(Q, n - p))
        m = min(Q, n - p)
        self.T = rest[:m, :-1].astype(float)
        self.c = (rest[:m, -1] / self.y_length).astype(float)
        self.outside = float(np.sum((rest[m:, -1] / self.y_length) ** 2))
        self.T_ml = _triangularise(Zall, min(Q, n))[: min(Q, n)].astype(float)
        constant = self.nu * (1.0 + np.log(2.0 * np.pi / self.nu) + 2.0 * np.log(self.y_length))
        self.constant = float(constant - np.sum(np.log(prior)) + (log_xx if reml else 0.0))
        self.evaluations = 0

    # -- the likelihood -----------------------------------------------------------------------------------

    def llf(self, lams: Sequence[np.ndarray]) -> float:
        """Log-likelihood at covariance factors in natural units."""
        return -0.5 * self.deviance(lams)[0]

    def deviance(self, lams: Sequence[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        """Deviance and its derivatives with respect to the entries of every factor."""
        self.evaluations += 1
        A = self._scaled(self.T, lams)
        U, s, Vt = np.linalg.svd(A, full_matrices=False)
        shrink = 1.0 / (1.0 + s * s)
        c = U.T @ self.c
        beyond = self.c - U @ c
        r2 = float(c @ (shrink * c) + beyond @ beyond) + self.outside
        e = U @ (shrink * c) + beyond
        Ae = Vt.T @ (s * shrink * c)
        G = -2.0 * self.nu / r2 * np.outer(e, Ae)
        if self.reml:
            logdet = float(np.sum(np.log1p(s * s)))
            gradient = self._gradient(self.T, G + 2.0 * (U * (s * shrink)) @ Vt)
        else:
            U, s, Vt = np.linalg.svd(self._scaled(self.T_ml, lams), full_matrices=False)
            logdet = float(np.sum(np.log1p(s * s)))
            first = self._gradient(self.T, G)
            second = self._gradient(self.T_ml, 2.0 * (U * (s / (1.0 + s * s))) @ Vt)
            gradient = [a + b for a, b in zip(first, second, strict=True)]
        return logdet + self.nu * np.log(r2) + self.constant, gradient

    def precision(self, theta: Sequence[float]) -> float:
        """What rounding, of theta too, leaves of the log-likelihood at factors in the user's columns."""
        sizes = self.natural(np.abs(theta), absolute=True)
        largest = max(1.0, float(np.linalg.norm(self._scaled(np.abs(self.T_ml), sizes), 2)))
        return (self.n + self.T.shape[1]) * np.finfo(float).eps * largest

    def _scaled(self, T: np.ndarray, lams: Sequence[np.ndarray]) -> np.ndarray:
        blocks = []
        for t, (term, lam) in enumerate(zip(self.terms, lams, strict=True)):
            part = T[:, self.edges[t] : self.edges[t + 1]].reshape(-1, term.q, term.k)
            blocks.append((part @ lam).reshape(T.shape[0], -1))
        return np.hstack(blocks)

    def _gradient(self, T: np.ndarray, G: np.ndarray) -> list[np.ndarray]:
        out = []
        for t, term in enumerate(self.terms):
            cut = slice(self.edges[t], self.edges[t + 1])
            part, g = T[:, cut].reshape(-1, term.k), G[:, cut].reshape(-1, term.k)
            out.append(part.T @ g)
        return out

    # -- units --------------------------------------------------------------------------------------------

    def natural(self, theta: Sequence[float], absolute: bool = False) -> list[np.ndarray]:
        """Factors in natural units of factors in the user's, in lme4's order; not triangular.

        `absolute`: of the products' absolute values, a bound of what cancels.
        """
        lams, first = [], 0
        for term, R in zip(self.terms, self.R, strict=True):
            lam = np.zeros((term.k, term.k), dtype=np.longdouble)
            for b in range(term.k):
                lam[b:, b] = theta[first : first + term.k - b]
                first += term.k - b
            lams.append(((np.abs(R) if absolute else R) @ lam).astype(float))
        return lams

    def user(self, lams: Sequence[np.ndarray]) -> list[float]:
        """The inverse of `natural`."""
        theta: list[float] = []
        for term, R, lam in zip(self.terms, self.R, lams, strict=True):
            root = _solve_left(R, lam.astype(np.longdouble))
            lower = _triangularise(root.T.copy(), term.k).T
            lower = lower * np.where(np.diag(lower) < 0, -1.0, 1.0)
            for b in range(term.k):
                theta += [float(value) for value in lower[b:, b]]
        return theta

    # -- what the design allows ---------------------------------------------------------------------------

    def independent_share(self) -> float:
        """Least share of a random term's column that the columns before it do not explain."""
        shares = [np.abs(np.diag(R)) / np.sqrt(np.sum(R**2, axis=0)) for R in self.R]
        return float(min(share.min() for share in shares))

    def residual_share(self, subset: Sequence[int] | None = None) -> tuple[float, int]:
        """Share of the response's length outside the span of [X, Z of some terms], and V's rank there."""
        chosen = range(len(self.terms)) if subset is None else subset
        cuts = np.concatenate([np.arange(self.edges[t], self.edges[t + 1]) for t in chosen])
        U, s, _ = np.linalg.svd(self.T[:, cuts], full_matrices=False)
        U = U[:, s > 1e-10 * s[0]]
        left = self.c - U @ (U.T @ self.c)
        share = float(np.sqrt(left @ left + self.outside))
        return share, U.shape[1] if self.reml else int(np.linalg.matrix_rank(self.T_ml[:, cuts]))

    def explained(self) -> bool:
        """Whether some terms reproduce the response with degrees of freedom to spare: no finite supremum."""
        for size in range(1, len(self.terms) + 1):
            for subset in combinations(range(len(self.terms)), size):
                share, rank = self.residual_share(subset)
                if share < _IN_SPAN and rank < self.nu:
                    return True
        return False

    def flat_directions(self) -> int:
        """Number of covariance parameters, the residual's among them, that the design cannot tell apart."""
        Z = self.KZ
        m = Z.shape[0]
        columns = [np.eye(m).ravel()]
        for t, term in enumerate(self.terms):
            part = Z[:, self.edges[t] : self.edges[t + 1]].reshape(m, term.q, term.k)
            size = np.sqrt(np.sum(part * part, axis=(0, 1)))
            part = np.where(size > 1e-8 * np.sqrt(term.q), part, 0.0)  # else the fixed effects explain it
            for a in range(term.k):
                for b in range(a + 1):
                    outer = part[:, :, a] @ part[:, :, b].T
                    columns.append((outer + outer.T).ravel())
        M = np.column_stack(columns)
        lengths = np.linalg.norm(M, axis=0)
        s = np.linalg.svd(M / np.where(lengths > 0, lengths, 1.0), compute_uv=False)
        return int(np.sum(s < 1e-8 * s[0])) + max(0, M.shape[1] - s.size)


def search(dense: Dense, rng: np.random.Generator, extra: Sequence[Sequence[float]] = ()) -> Found:
    """Best log-likelihood over all covariances.

    Parameters
    ----------
    dense : Dense
    rng : numpy.random.Generator
        Of the random starts.
    extra : sequence of theta
        More starts, in the user's columns.

    Returns
    -------
    Found
    """
    before = dense.evaluations
    if len(dense.terms) == 1 and dense.terms[0].k == 1:
        modes = _profile(dense)
    else:
        starts = [dense.natural(theta) for theta in extra] + _starts(dense, rng)
        zero = [np.zeros((term.k, term.k)) for term in dense.terms]
        modes = [(dense.llf(zero), zero)] + [_climb(dense, start) for start in starts]
        best = max(modes, key=lambda mode: mode[0])
        modes += _faces(dense, best)
        modes.append(_newton(dense, max(modes, key=lambda mode: mode[0])))
    modes.sort(key=lambda mode: -mode[0])
    llf, lams = modes[0]
    distinct: list[float] = []
    for value, at in modes:
        if all(abs(value - other) > _MODE for other in distinct) and (value == llf or _peak(dense, at)):
            distinct.append(float(value))
    return Found(
        llf=float(llf),
        theta=dense.user(lams),
        modes=distinct,
        decrement=_decrement(dense, lams),
        limit=bool(max(np.abs(lam).max() for lam in lams) > _FAR),
        left=dense.precision(dense.user(lams)),
        evaluations=dense.evaluations - before,
    )


def _profile(dense: Dense) -> list[tuple[float, list[np.ndarray]]]:
    """All local maxima over a scalar term's reliability rho = t^2 / (1 + t^2) in [0, 1)."""
    U, s, _ = np.linalg.svd(dense.T, full_matrices=False)
    c2 = (U.T @ dense.c) ** 2
    beyond = dense.c - U @ (U.T @ dense.c)
    outside = float(beyond @ beyond) + dense.outside
    s_det = s if dense.reml else np.linalg.svd(dense.T_ml, compute_uv=False)

    def deviance(log_t2: np.ndarray) -> np.ndarray:
        t2 = np.exp(np.atleast_1d(log_t2))
        logdet = np.sum(np.log1p(np.outer(t2, s_det**2)), axis=1)
        r2 = np.sum(c2 / (1.0 + np.outer(t2, s * s)), axis=1) + outside
        return logdet + dense.nu * np.log(r2)

    dense.evaluations += 1
    grid = np.linspace(np.log(1e-8), np.log(1e18), 7001)
    values = deviance(grid)
    found = [np.zeros((1, 1))]
    inner = np.flatnonzero((values[1:-1] <= values[:-2]) & (values[1:-1] <= values[2:])) + 1
    for i in inner:
        best = minimize_scalar(
            lambda v: float(deviance(v)[0]), bounds=(grid[i - 1], grid[i + 1]), method="bounded",
            options={"xatol": 1e-12},
        )  # fmt: skip
        found.append(np.array([[np.exp(0.5 * best.x)]]))
    if values[-1] < values[-2]:
        found.append(np.array([[np.exp(0.5 * grid[-1])]]))
    return [(dense.llf([lam]), [lam]) for lam in found]


def _starts(dense: Dense, rng: np.random.Generator, n_random: int = 150) -> list[list[np.ndarray]]:
    """Identity at three scales, and the best of random points improved row by row over twelve decades."""
    fixed = [[scale * np.eye(term.k) for term in dense.terms] for scale in (0.1, 1.0, 30.0)]
    drawn = []
    for _ in range(n_random):
        lams = []
        for term in dense.terms:
            lam = np.tril(rng.normal(size=(term.k, term.k)))
            lam /= np.linalg.norm(lam, axis=1)[:, None]
            scale = 10.0 ** rng.uniform(-2.0, 5.0, size=term.k)
            scale[rng.random(term.k) < 0.25] = 1e-3
            lams.append(lam * scale[:, None])
        drawn.append((dense.llf(lams), lams))
    drawn.sort(key=lambda point: -point[0])
    chosen: list[tuple[float, list[np.ndarray]]] = []
    for value, lams in drawn:
        logs = _log_rows(lams)
        if all(np.abs(logs - _log_rows(other)).max() > 1.5 for _, other in chosen):
            chosen.append((value, lams))
        if len(chosen) == 6:
            break
    return fixed + [_sweep(dense, value, lams) for value, lams in chosen]


def _sweep(dense: Dense, value: float, lams: list[np.ndarray]) -> list[np.ndarray]:
    lams = [lam.copy() for lam in lams]
    for _ in range(2):
        for t, lam in enumerate(lams):
            for a in range(lam.shape[0]):
                row = lam[a].copy()
                length = np.linalg.norm(row)
                for size in 10.0 ** np.arange(-3.0, 6.0):
                    trial = [part.copy() for part in lams]
                    trial[t][a] = row / length * size
                    llf = dense.llf(trial)
                    if llf > value:
                        value, lams[t][a] = llf, trial[t][a]
    return lams


def _log_rows(lams: Sequence[np.ndarray]) -> np.ndarray:
    return np.log(np.concatenate([np.linalg.norm(lam, axis=1) for lam in lams]) + 1e-2)


class _Coordinates:
    """Free entries of the factors over the size of their rows."""

    def __init__(self, dense: Dense, lams: Sequence[np.ndarray]) -> None:
        self.dense = dense
        self.masks = [np.tril(np.ones((term.k, term.k), dtype=bool)) for term in dense.terms]
        self.scales = [
            np.maximum(np.linalg.norm(lam, axis=1), 0.1)[:, None] * np.ones_like(lam) for lam in lams
        ]
        self.flat_scale = np.concatenate([s[m] for s, m in zip(self.scales, self.masks, strict=True)])

    def pack(self, lams: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([lam[m] for lam, m in zip(lams, self.masks, strict=True)]) / self.flat_scale

    def unpack(self, x: np.ndarray) -> list[np.ndarray]:
        lams, first = [], 0
        for mask in self.masks:
            lam = np.zeros(mask.shape)
            size = int(mask.sum())
            lam[mask] = x[first : first + size] * self.flat_scale[first : first + size]
            lams.append(lam)
            first += size
        return lams

    def value(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        deviance, gradient = self.dense.deviance(self.unpack(x))
        return 0.5 * deviance, 0.5 * self.pack(gradient) * self.flat_scale**2


def _climb(dense: Dense, start: Sequence[np.ndarray]) -> tuple[float, list[np.ndarray]]:
    """Limited-memory quasi-Newton, scaled anew by where it came to, until that gains nothing."""
    lams = [_lower(lam) for lam in start]
    value = dense.llf(lams)
    for _ in range(6):
        at = _Coordinates(dense, lams)
        x = at.pack(lams)
        done = minimize(
            at.value, x, jac=True, method="L-BFGS-B",
            options={"maxiter": 200, "maxcor": 20, "ftol": 1e-14, "gtol": 1e-7},
        )  # fmt: skip
        gain = -done.fun - value
        if gain > 0:
            lams, value = at.unpack(done.x), -float(done.fun)
        if not gain > 1e-7:
            break
    return value, lams


def _newton(
    dense: Dense, best: tuple[float, list[np.ndarray]], steps: int = 8
) -> tuple[float, list[np.ndarray]]:
    """Newton steps from the best point, negative curvature turned round, cut until the value rises."""
    value, lams = best[0], [_lower(lam) for lam in best[1]]
    for _ in range(steps):
        at = _Coordinates(dense, lams)
        x, step, decrement, _ = _newton_step(at, lams)
        gain = 0.0
        for cut in 0.5 ** np.arange(0.0, 12.0, 2.0):
            trial = at.unpack(x - cut * step)
            gain = dense.llf(trial) - value
            if gain > 0:
                lams, value = trial, value + gain
                break
        if gain <= 0 or decrement < 1e-11:
            break
    return value, lams


def _faces(dense: Dense, best: tuple[float, list[np.ndarray]]) -> list[tuple[float, list[np.ndarray]]]:
    """From the best point with each row of a factor set to zero: boundary optima are reached exactly."""
    out = []
    for t, lam in enumerate(best[1]):
        for a in range(lam.shape[0]):
            if np.any(lam[a]):
                trial = [part.copy() for part in best[1]]
                trial[t][a] = 0.0
                out.append(_climb(dense, trial))
    return out


def _newton_step(at: _Coordinates, lams: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Coordinates, step, half of g'|H|^-1 g and the least eigenvalue of H (differences of the gradient)."""
    x = at.pack(lams)
    gradient = at.value(x)[1]
    H = np.empty((x.size, x.size))
    for i in range(x.size):
        step = np.zeros(x.size)
        step[i] = 1e-4
        H[i] = (at.value(x + step)[1] - at.value(x - step)[1]) / 2e-4
    values, vectors = np.linalg.eigh(0.5 * (H + H.T))
    size = np.maximum(np.abs(values), 1e-6 * max(1.0, np.abs(values).max()))
    g = vectors.T @ gradient
    return x, vectors @ (g / size), float(0.5 * np.sum(g**2 / size)), float(values[0])


def _decrement(dense: Dense, lams: Sequence[np.ndarray]) -> float:
    """What a Newton step would still gain."""
    lams = [_lower(lam) for lam in lams]
    return _newton_step(_Coordinates(dense, lams), lams)[2]


def _peak(dense: Dense, lams: Sequence[np.ndarray]) -> bool:
    """Whether a point is a local maximum: a zero variance that the likelihood wants to leave is a saddle."""
    lams = [_lower(lam) for lam in lams]
    _, _, decrement, least = _newton_step(_Coordinates(dense, lams), lams)
    return decrement < 1e-6 and least > -1e-4


def _lower(lam: np.ndarray) -> np.ndarray:
    if not np.any(np.triu(lam, 1)):
        return lam.copy()
    return np.linalg.qr(lam.T, mode="r").T


def _triangularise(M: np.ndarray, columns: int) -> np.ndarray:
    """M rotated from the left by Householder reflections until its first columns are upper triangular."""
    M = M.astype(np.longdouble)
    for j in range(min(columns, M.shape[0] - 1)):
        v = M[j:, j].copy()
        length = np.sqrt(np.sum(v * v))
        if length == 0:
            continue
        v[0] += length if v[0] >= 0 else -length
        M[j:, j:] -= np.outer(v, (2.0 / np.sum(v * v)) * (v @ M[j:, j:]))
        M[j + 1 :, j] = 0.0
    return M


def _solve_right(M: np.ndarray, R: np.ndarray) -> np.ndarray:
    """M R^-1 for upper triangular R, in the precision of M."""
    out = np.zeros_like(M)
    for j in range(R.shape[0]):
        out[:, j] = (M[:, j] - out[:, :j] @ R[:j, j]) / R[j, j]
    return out


def _solve_left(R: np.ndarray, M: np.ndarray) -> np.ndarray:
    """R^-1 M for upper triangular R, in the precision of M."""
    out = np.zeros_like(M)
    for i in range(R.shape[0] - 1, -1, -1):
        out[i] = (M[i] - R[i, i + 1 :] @ out[i + 1 :]) / R[i, i]
    return out
