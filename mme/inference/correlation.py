"""The minimum of the deviance with a correlation held, by Newton steps in entries of the factors.

The term's covariance is S L L'S, the two effects first and S the natural scales of the effects; L has rows
(x_0, 0, ...) and x_1 (rho, sqrt(1 - rho^2), 0, ...), x_0, x_1 >= 0, and is free below.  Other terms have the
entries of their factors. All of it is linear in x, so that the Hessian is J'HJ + 2 tr(N dL_i dL_j') with the
average information for H: at factors of zero, where the gradient vanishes by symmetry, the second part shows
whether they are to be left.
"""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np

from ..engine.covariance.factors import factor_psd
from ..engine.covariance.structure import triangular
from ..engine.direct.objective import Objective
from ..engine.search.evaluation import Evaluation

__all__ = ["correlation_minimum"]

_TOL = 1e-9
_MOST = 100
_SLOW = 0.05  # a predicted decrease over the one before, from which on the Hessian is corrected
_KICKS = 4  # saddles that are left
_HOLLOW = -1e-6  # curvature, over the largest, that counts as negative


def correlation_minimum(
    objective: Objective, t: int, pair: tuple[int, int], rho: float, theta: np.ndarray
) -> tuple[np.ndarray, float, float, bool]:
    """The minimum at one correlation.

    Parameters
    ----------
    objective : Objective
    t : int
        Term of the design.
    pair : (int, int)
        Two of its effects.
    rho : float
        From -1 to 1.
    theta : ndarray, shape (n_theta,)
        Start, of the equations' basis.

    Returns
    -------
    theta, deviance, sigma2, converged
    """
    search = _Search(objective, t, pair, rho)
    return search.run(search.start(theta))


class _Search:
    """Coordinates x: x_0, x_1, entries of L below, then the other terms' entries of theta."""

    def __init__(self, objective: Objective, t: int, pair: tuple[int, int], rho: float) -> None:
        self.objective, self.eq, self.t = objective, objective.eq, t
        eq, place = self.eq, self.eq.layout.places[t]
        k = place.k
        order = [*pair, *(c for c in range(k) if c not in pair)]
        R = eq.term_basis(t)
        scale = 1.0 / np.sqrt(np.diag(R.T @ eq.term_gram(t) @ R))
        self.B = R[:, order] * scale[order]
        self.rho = rho
        moves = []  # dL / dx
        for entries in ([(0, 0, 1.0)], [(1, 0, rho), (1, 1, np.sqrt(max(0.0, 1.0 - rho * rho)))]):
            move = np.zeros((k, k))
            for a, b, value in entries:
                move[a, b] = value
            moves.append(move)
        for a in range(2, k):
            for b in range(a + 1):
                move = np.zeros((k, k))
                move[a, b] = 1.0
                moves.append(move)
        self.moves = np.array(moves)
        self.own = len(moves)
        # other terms: (term, row, column, size of a step)
        self.rest: list[tuple[int, int, int]] = []
        sizes = []
        for s, other in enumerate(eq.layout.places):
            if s != t:
                gram = np.diag(eq.term_gram(s))
                for a, b in other.entries:
                    self.rest.append((s, a, b))
                    sizes.append(1.0 / np.sqrt(gram[a]))
        self.sizes = np.array(sizes)

    def start(self, theta: np.ndarray) -> np.ndarray:
        """x near a theta; deviations of zero are given a little, from which both signs of the slope show."""
        place = self.eq.layout.places[self.t]
        factor = np.linalg.solve(self.B, place.structure.lam(theta[place.theta], place.k))
        L = factor_psd(factor @ factor.T)
        x = np.zeros(self.own + len(self.rest))
        x[0], x[1] = np.linalg.norm(L[0]), np.linalg.norm(L[1])
        x[:2] = np.maximum(x[:2], 1e-3)
        i = 2
        for a in range(2, L.shape[0]):
            for b in range(a + 1):
                x[i] = L[a, b]
                i += 1
        lams = self.eq.factors(theta)
        x[self.own :] = [lams[s][a, b] for s, a, b in self.rest] / self.sizes
        return x

    def theta(self, x: np.ndarray) -> np.ndarray:
        """Theta of the equations' basis."""
        return self._theta(self.lams(x))

    def lams(self, x: np.ndarray) -> list[np.ndarray]:
        """A root of M of every term: B L, and the others' factors."""
        out = [np.zeros((p.k, p.k)) for p in self.eq.layout.places]
        out[self.t] = self.B @ np.tensordot(x[: self.own], self.moves, axes=1)
        for (s, a, b), value in zip(self.rest, x[self.own :] * self.sizes, strict=True):
            out[s][a, b] = value
        return out

    def _theta(self, lams: list[np.ndarray]) -> np.ndarray:
        theta = np.empty(self.eq.layout.n_theta)
        for place, lam in zip(self.eq.layout.places, lams, strict=True):
            root = place.structure.triangular(lam) if place.structure.mixes else triangular(lam)
            theta[place.theta] = place.structure.theta(root)
        return theta

    def value(self, x: np.ndarray) -> Evaluation:
        return self.objective.evaluate(self.theta(x), 0, standard=True)

    def model(self, x: np.ndarray) -> tuple[Evaluation, np.ndarray, np.ndarray]:
        """Evaluation, gradient and Hessian in x."""
        lams = self.lams(x)
        here = self.objective.evaluate(self._theta(lams), 2, standard=True)
        N, information = here.N_basis, here.information_basis
        assert N is not None and information is not None
        size = x.size
        g, H, J = np.empty(size), np.zeros((size, size)), np.zeros((self.eq.layout.n_theta, size))
        directions: list[tuple[int, np.ndarray]] = [(self.t, self.B @ move) for move in self.moves]
        for (s, a, b), unit in zip(self.rest, self.sizes, strict=True):
            move = np.zeros_like(lams[s])
            move[a, b] = unit
            directions.append((s, move))
        for i, (s, move) in enumerate(directions):
            place = self.eq.layout.places[s]
            turned = N[s] @ move
            g[i] = 2.0 * float(np.sum(turned * lams[s]))
            change = move @ lams[s].T
            change = change + change.T
            J[place.theta, i] = [change[a, b] for a, b in place.entries]
            for j in range(i, size):
                if directions[j][0] == s:
                    H[i, j] = H[j, i] = 2.0 * float(np.sum(turned * directions[j][1]))
        return here, g, H + J.T @ information @ J

    def run(self, x: np.ndarray) -> tuple[np.ndarray, float, float, bool]:
        """Newton steps; where they converge linearly only, with a secant correction of the Hessian."""
        here, g, H = self.model(x)
        kicks, converged, last = 0, False, np.inf
        secant = np.zeros_like(H)
        for _ in range(_MOST):
            step, predicted = _bounded_step(x, g, H + secant)
            noise = 4e-15 * abs(here.deviance) + 1e-12 + here.noise
            if predicted <= max(_TOL, noise):
                kick = self._out_of_saddle(x, here.deviance, H) if kicks < _KICKS else None
                if kick is None:
                    converged = True
                    break
                kicks += 1
                x, last = kick, np.inf
                here, g, H = self.model(x)
                secant = np.zeros_like(H)
                continue
            slow, last = predicted > _SLOW * last, predicted
            trial = self._descend(x, step, here.deviance, predicted, noise)
            if trial is None:
                if np.any(secant):
                    secant = np.zeros_like(H)
                    continue
                converged = predicted <= 100.0 * noise
                break
            moved, old = trial - x, g
            x = trial
            here, g, H = self.model(x)
            if slow or np.any(secant):
                missing = g - old - (H + secant) @ moved
                along = float(missing @ moved)
                if abs(along) > 1e-8 * np.linalg.norm(missing) * np.linalg.norm(moved):
                    secant = secant + np.outer(missing, missing) / along
        return self.theta(x), here.deviance, here.sigma2, converged

    def _descend(
        self, x: np.ndarray, step: np.ndarray, level: float, predicted: float, noise: float
    ) -> np.ndarray | None:
        """The point of a step, or of a part of it, that lowers the deviance; None if there is none."""
        fraction = 1.0
        for _ in range(30):
            trial = x + fraction * step
            try:
                if self.value(trial).deviance <= level - 1e-4 * fraction * predicted + noise:
                    return trial
            except np.linalg.LinAlgError:
                pass  # variances that are too large: a shorter step
            fraction *= 0.5
        return None

    def _out_of_saddle(self, x: np.ndarray, level: float, H: np.ndarray) -> np.ndarray | None:
        """A lower point along the most negative curvature; None where there is none."""
        w, V = np.linalg.eigh(H)
        if w[0] >= _HOLLOW * max(1.0, float(w[-1])):
            return None
        best = None
        for length in (1.0, 0.3, 0.1, 0.03):
            for sign in (1.0, -1.0):
                trial = x + sign * length * V[:, 0]
                trial[:2] = np.maximum(trial[:2], 0.0)
                try:
                    value = self.value(trial).deviance
                except np.linalg.LinAlgError:
                    continue
                if value < level - 1e-7:
                    best, level = trial, value
        return best


def _bounded_step(x: np.ndarray, g: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimising step of the quadratic model, curvature made positive, with x_0, x_1 >= 0; its decrease."""
    size = np.sqrt(np.maximum(np.abs(np.diag(H)), 1e-10 * max(1e-10, float(np.abs(np.diag(H)).max()))))
    w, V = np.linalg.eigh(H / np.outer(size, size))
    M = (V * np.maximum(np.abs(w), 1e-8)) @ V.T * np.outer(size, size)
    step = -np.linalg.solve(M, g)
    if np.all(x[:2] + step[:2] >= 0.0):
        return step, -0.5 * float(g @ step)
    best, decrease = np.zeros_like(x), 0.0
    for some in chain.from_iterable(combinations((0, 1), r) for r in range(1, 3)):
        held = np.array(some, dtype=np.intp)
        free = np.setdiff1d(np.arange(x.size), held)
        step = np.zeros_like(x)
        step[held] = -x[held]
        if free.size:
            right = g[free] + M[np.ix_(free, held)] @ step[held] if held.size else g[free]
            step[free] = -np.linalg.solve(M[np.ix_(free, free)], right)
        if np.any(x[:2] + step[:2] < -1e-14 * (1.0 + x[:2])):
            continue
        step[:2] = np.maximum(step[:2], -x[:2])
        gain = -float(g @ step) - 0.5 * float(step @ M @ step)
        if gain > decrease:
            best, decrease = step, gain
    return best, decrease
