"""Newton steps in the coordinates of `mme.engine.search.curve`, within their bounds.

The Hessian is the average information's along the curve with the curve's own curvature added; where it is
indefinite its eigenvalues are taken by their size.  A step minimises that model within the bounds and a box
that grows and shrinks with how well it predicted (Levenberg & Marquardt's damping in the metric of the
information), and the predicted decrease of the undamped model ends the search, as on the cone.  At its end a
negative curvature, as at a deviation of zero that should be positive, is followed to both sides.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...exceptions import ConvergenceError, PerfectFitError
from .curve import Curve, Spot
from .evaluation import Evaluation
from .optimizer import Minimum

__all__ = ["minimise_curved"]

_MOST_DAMPING = 1e10
_CLOSER = 0.01  # steps converge linearly: a decrement is followed by others of its size
_BOX = 0.5  # change of a coordinate (angle or correlation) in one step
_LEAST_UNIT = 1e-8  # information about a coordinate, beside that of balanced data, that damping goes by
_LEAST_CURVATURE = 1e-7  # likewise, eigenvalue that counts as curvature
_NEGATIVE = -1e-6
_MOST_REJECTIONS = 20
_FOLLOWED = (0.3, 0.1, 0.03, 0.01)  # steps along a direction of negative curvature
_CONVERGED = "the predicted decrease of the deviance is below the tolerance"


def minimise_curved(
    evaluate: Callable[..., Evaluation],
    x0: np.ndarray,
    curve: Curve,
    *,
    tol: float = 1e-8,
    max_evaluations: int = 200,
    count: Callable[[], int] | None = None,
    callback: Callable[[int, float, float], None] | None = None,
    along: bool = False,
) -> Minimum:
    """Minimise the deviance along a curve.

    Parameters
    ----------
    evaluate : callable (theta, order) -> Evaluation
        In the equations' basis; raises numpy.linalg.LinAlgError where it cannot be computed.
    x0 : ndarray, shape (m,)
        Coordinates of the start.
    curve : Curve
    tol, max_evaluations, count, callback
        As of `mme.engine.search.optimizer.minimise`.
    along : bool
        `evaluate` takes `directions`, in which it gives the information: much less work than in the entries
        of D where there are many effects and few parameters.

    Returns
    -------
    Minimum
        Its `curvature` is the Hessian in the coordinates.

    Raises
    ------
    ConvergenceError
        The deviance cannot be computed at the start.
    """
    search = _Search(evaluate, curve.clipped(x0), curve, tol, max_evaluations, count, callback, along)
    message = search.run()
    return Minimum(
        search.spot.theta,
        search.ev,
        message is not None,
        message or search.failure,
        search.iterations,
        search.decrement,
        search.slope,
        curve.singular_terms(search.spot),
        [float(d) for d in search.history],
        search.count(),
        search.H,
    )


class _Search:
    def __init__(
        self,
        evaluate: Callable[..., Evaluation],
        x0: np.ndarray,
        curve: Curve,
        tol: float,
        max_evaluations: int,
        count: Callable[[], int] | None,
        callback: Callable[[int, float, float], None] | None,
        along: bool,
    ) -> None:
        self.along = along
        self.curve, self.tol, self.most, self.callback = curve, tol, max_evaluations, callback
        self._made = 0
        self.count = count or (lambda: self._made)
        self._evaluate = evaluate
        self.spot = curve.spot(x0)
        try:
            self.ev = self.evaluate(self.spot, 2)
        except np.linalg.LinAlgError as error:
            raise ConvergenceError(f"the deviance cannot be computed at the start {x0}: {error}") from error
        self.history = [self.ev.deviance]
        self.iterations, self.decrement, self.slope = 0, np.inf, np.inf
        self.failure = ""
        self.H = np.zeros((curve.m, curve.m))

    def evaluate(self, spot: Spot, order: int) -> Evaluation:
        self._made += 1
        if self.along and order > 1:
            return self._evaluate(spot.theta, order, directions=spot.directions)
        return self._evaluate(spot.theta, order)

    def noise(self) -> float:
        """Rounding error of the deviance here."""
        return 4e-15 * abs(self.ev.deviance) + 1e-12 + self.ev.noise

    def run(self) -> str | None:
        """Steps until they end; why they did, or None where the optimality conditions do not hold."""
        curve, damping = self.curve, 0.0
        unit = np.sqrt(curve.units())
        while True:
            g, H, gauss = curve.model(self.spot, self.ev, self.along)
            self.H = H
            size = np.sqrt(np.maximum(gauss, _LEAST_UNIT * unit * unit))
            # on one scale, and positive definite
            w, V = np.linalg.eigh(H / np.outer(size, size))
            positive = (V * np.maximum(np.abs(w), _LEAST_CURVATURE)) @ V.T
            low, high = self._reach(np.inf)
            whole = _bounded(positive, g / size, low * size, high * size)
            self.decrement = _decrease(positive, g / size, whole)
            self.slope = float(np.max(np.abs(self._projected(g) / unit), initial=0.0))
            if self.callback is not None:
                self.callback(self.iterations, self.ev.deviance, self.decrement)
            if self.decrement <= max(_CLOSER * self.tol, self.noise()):
                # below the deviance's rounding error nothing can be found any more
                if not self._leave_saddle(g, H, unit):
                    rounded = self.decrement > _CLOSER * self.tol
                    return f"{_CONVERGED}{' or its rounding error' if rounded else ''}"
                damping = 0.0
                continue
            low, high = self._reach(_BOX)
            for _ in range(_MOST_REJECTIONS):
                if self.count() >= self.most:
                    if self.decrement <= self.tol:
                        return _CONVERGED
                    self.failure = f"stopped after {self.count()} evaluations without convergence"
                    return None
                damped = positive + damping * np.eye(curve.m)
                step = _bounded(damped, g / size, low * size, high * size)
                promised = _decrease(positive, g / size, step)
                gain = self._try(self.spot.x + step / size, 0.05 * promised)
                if gain is not None:
                    if gain > 0.7 * promised:
                        damping = 0.0 if damping < 1e-3 else damping / 10.0
                    elif gain < 0.25 * promised - self.noise():
                        damping = min(max(4.0 * damping, 1e-2), _MOST_DAMPING)
                    break
                damping = min(max(4.0 * damping, 1e-2), _MOST_DAMPING)
            else:
                if self.decrement <= 10.0 * self.noise():
                    error = f"{self.noise():.1g}"
                    return f"the predicted decrease is below the rounding error of the deviance ({error})"
                self.failure = "no step decreases the deviance further"
                return None

    def _reach(self, box: float) -> tuple[np.ndarray, np.ndarray]:
        x = self.spot.x
        return np.maximum(self.curve.low - x, -box), np.minimum(self.curve.high - x, box)

    def _projected(self, g: np.ndarray) -> np.ndarray:
        """The gradient less what the bounds hold."""
        x, curve = self.spot.x, self.curve
        stopped = ((x <= curve.low) & (g > 0.0)) | ((x >= curve.high) & (g < 0.0)) | curve.held
        return np.where(stopped, 0.0, g)

    def _try(self, x: np.ndarray, least: float = 0.0) -> float | None:
        """Go there if so much is gained, to within the rounding error of the deviance; what was gained."""
        if not np.all(np.isfinite(x)):
            return None
        try:
            spot = self.curve.spot(self.curve.clipped(x))
            ev = self.evaluate(spot, 0)
            gain = self.ev.deviance - ev.deviance
            if gain <= least - self.noise():
                return None
            ev = self.evaluate(spot, 2)
        except (np.linalg.LinAlgError, PerfectFitError):
            return None
        self.spot, self.ev = spot, ev
        self.iterations += 1
        self.history.append(ev.deviance)
        return gain

    def _leave_saddle(self, g: np.ndarray, H: np.ndarray, unit: np.ndarray) -> bool:
        """Follow a direction of negative curvature that the bounds leave free; whether it led down."""
        x, curve = self.spot.x, self.curve
        stuck = ((x <= curve.low) & (g > 1e-9 * unit**2)) | ((x >= curve.high) & (g < -1e-9 * unit**2))
        free = ~stuck & ~curve.held
        if not free.any():
            return False
        w, V = np.linalg.eigh((H / np.outer(unit, unit))[np.ix_(free, free)])
        before = self.ev.deviance
        for i in np.flatnonzero(w < _NEGATIVE):
            direction = np.zeros(curve.m)
            direction[free] = V[:, i]
            direction /= np.max(np.abs(direction))
            for length in _FOLLOWED:
                for sign in (1.0, -1.0):
                    if self.count() >= self.most:
                        return False
                    self._try(x + sign * length * direction)
                    if before - self.ev.deviance > max(self.tol, 10.0 * self.noise()):
                        return True
        return False


def _decrease(H: np.ndarray, g: np.ndarray, e: np.ndarray) -> float:
    return max(0.0, float(-(g @ e) - 0.5 * (e @ H @ e)))


def _bounded(H: np.ndarray, g: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Minimum of g'e + e'He / 2 over low <= e <= high, H positive definite, low <= 0 <= high: active sets."""
    m = g.size
    e = np.zeros(m)
    active = np.zeros(m, dtype=bool)
    for _ in range(10 * m + 10):
        free = ~active
        target = e.copy()
        if free.any():
            right = -g[free] - H[np.ix_(free, active)] @ e[active]
            target[free] = np.linalg.solve(H[np.ix_(free, free)], right)
        way = target - e
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(way > 0.0, (high - e) / way, np.where(way < 0.0, (low - e) / way, np.inf))
        room[active] = np.inf
        first = int(np.argmin(room))
        if room[first] < 1.0:
            e = e + room[first] * way
            e[first] = high[first] if way[first] > 0.0 else low[first]
            active[first] = True
            continue
        e = target
        slope = g + H @ e
        wrong = active & (((e <= low) & (slope < 0.0)) | ((e >= high) & (slope > 0.0))) & (low < high)
        if not wrong.any():
            break
        active[int(np.argmax(np.where(wrong, np.abs(slope), -1.0)))] = False
    return np.clip(e, low, high)
