"""REML and ML fits of large crossed designs: the root of the gradient by average-information steps.

No deviance is needed: with fixed probes the gradient is a deterministic function of theta, and Newton steps
with the average information on the reliability scale (`mme.engine.search.optimizer`) find its root. A step is
kept if the length of the gradient, in the metric of balanced data, does not grow; otherwise it is halved. At
the end the probes' spread, put through the same step, gives the Monte Carlo error of every parameter; the
number of probes grows until it is a twentieth of the standard error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ...exceptions import ConvergenceError, PerfectFitError
from ..covariance.derivatives import congruence, factor_jacobian
from ..covariance.structure import triangular
from ..equations.equations import Equations
from ..search.coordinates import RIDGE, Coordinates, Place, QuadraticModel, term_specs
from .objective import IterativeObjective, StochasticEvaluation

__all__ = ["MonteCarlo", "Root", "find_root", "iterative_start", "monte_carlo"]

_GOAL = 0.05  # Monte Carlo error over standard error
_GROWTH = 1.5  # of the gradient's length, that is still accepted
_MOST_HALVINGS = 12
_MOST_POLISHES = 6
_LOOSEST = 5e-3  # relative tolerance of the solves far from the root
_FINEST = 1e-10
_EXPLAINED = 1.0 - 1e-6  # reliability of a term beside which the residual variance is next to nothing
_NEAR = 25.0  # decrement from which a step usually ends within the tolerance


@dataclass(frozen=True, eq=False)
class MonteCarlo:
    """Standard errors and Monte Carlo errors of an iterative fit.

    Attributes
    ----------
    probes, seed : int
    cg_iterations : int
        Iterations of block conjugate gradients in all solves together.
    theta_se : ndarray, shape (n_theta,)
        Standard errors of theta from the average information; NaN where a term is singular.
    theta_error : ndarray, shape (n_theta,)
        Monte Carlo standard errors of theta, together with the step that was left (at least the
        accuracy asked for).
    variance_se, variance_error : tuple of ndarray, shapes (k_t, k_t)
        The same for the entries of sigma2 lam lam' of every term.
    sigma2_se, sigma2_error : float
    ratio : float
        Largest Monte Carlo error over standard error, in the coordinates of the search.
    information : ndarray, shape (n_theta, n_theta)
        Average information of the free entries of R lam lam' R' of every term, sigma2 profiled out; its
        inverse is their covariance. R is `mme.engine.equations.equations.Equations.basis`: with an uncentred
        covariate the information about lam lam' itself would be nearly singular.
    loglik_error : float
        Monte Carlo standard error of the log-likelihood; 0 if it was computed exactly.
    moves : ndarray, shape (n_probes, n_theta + 1)
        What each probe moves the free entries of R lam lam' R' of every term and sigma2 by; their covariance
        over probes is that of the Monte Carlo errors.
    """

    probes: int
    seed: int
    cg_iterations: int
    theta_se: np.ndarray
    theta_error: np.ndarray
    variance_se: tuple[np.ndarray, ...]
    variance_error: tuple[np.ndarray, ...]
    sigma2_se: float
    sigma2_error: float
    ratio: float
    information: np.ndarray
    loglik_error: float = 0.0
    moves: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))


@dataclass(eq=False)
class Root:
    """Where the search ended.

    Attributes
    ----------
    theta : ndarray
    evaluation : StochasticEvaluation
    converged : bool
    message : str
    iterations : int
        Accepted steps.
    decrement : float
        Square of the remaining step in standard errors.
    gradient_norm : float
        As in `mme.engine.search.optimizer.Minimum`.
    singular : list of int
    ratio : float
        Largest Monte Carlo error over standard error.
    """

    theta: np.ndarray
    evaluation: StochasticEvaluation
    converged: bool
    message: str
    iterations: int
    decrement: float
    gradient_norm: float
    singular: list[int]
    ratio: float


class _Search:
    """State of the root finding: a point, its evaluation, the quadratic model and its step."""

    def __init__(self, objective: IterativeObjective, theta0: np.ndarray, inner: float) -> None:
        self.objective = objective
        self.space = Coordinates(term_specs(objective.eq))
        self.inner = inner  # relative tolerance of the solves
        self.steps = self.halvings = 0
        self.last: np.ndarray | None = None  # the last step, if it was a whole one
        try:
            self._take(*self._model(self.space.at(theta0)))
        except np.linalg.LinAlgError as error:
            raise ConvergenceError(
                f"the gradient cannot be computed at the start theta = {theta0}: {error}"
            ) from error

    def _model(self, place: Place) -> tuple[Place, StochasticEvaluation, QuadraticModel, float]:
        ev = self.objective.evaluate(place.theta, 2, self.inner)
        model = self.space.model(place, ev)
        return place, ev, model, self.space.slope(place, model)

    def _take(self, place: Place, ev: StochasticEvaluation, model: QuadraticModel, slope: float) -> None:
        self.place, self.ev, self.model, self.slope = place, ev, model, slope
        self.step = self.space.step(place, model)
        self.decrement = self.step.decrease

    def again(self) -> None:
        """Evaluate at the same point, with other probes or tolerances."""
        self._take(*self._model(self.place))

    def advance(self, tol: float) -> bool:
        """One accepted step, evaluated with solves to this tolerance.

        False if the gradient grows however short the step.
        """
        fraction = min(self.space.limit(self.step.e), self._relaxation())
        # the length to compare with was taken with the error of the solves before
        before = self.inner
        self.inner = tol
        most = _GROWTH * self.slope + 10.0 * before
        for _ in range(_MOST_HALVINGS):
            zeros = self.step.zeros if fraction == 1.0 else None
            try:
                trial = self._model(self.space.move(self.place, fraction * self.step.e, zeros))
            except np.linalg.LinAlgError:
                trial = None
            if trial is not None and trial[3] <= most:
                self.steps += 1
                self.last = self.step.e if fraction == 1.0 else None
                self._take(*trial)
                return True
            self.halvings += 1
            fraction *= 0.5
        return False

    def _relaxation(self) -> float:
        """Fraction of a step that turns back upon the last one: steps with -r the last go on as 1/(1 + r)."""
        if self.last is None:
            return 1.0
        root = np.sqrt(self.space.metric)
        now, before = self.step.e * root, self.last * root
        lengths = float(np.linalg.norm(now)), float(np.linalg.norm(before))
        if lengths[0] <= 0.3 * lengths[1] or float(now @ before) > -0.8 * lengths[0] * lengths[1]:
            return 1.0
        return lengths[1] / (lengths[0] + lengths[1])

    def ratio(self) -> float:
        """Largest Monte Carlo error over standard error."""
        return _monte_carlo_ratio(self.space, self.place, self.ev, self.model)

    def why_so_long(self, max_steps: int) -> str:
        """Message of a search that ran out of steps."""
        message = f"stopped after {max_steps} steps without convergence"
        if self.place.largest() > _EXPLAINED:
            message += (
                "; the random effects explain the response almost exactly and the residual variance tends to "
                "zero: check whether the response is a sum of the factors' effects, or constant within levels"
            )
        return message + "; solver='direct', if it fits, or another start may help"

    def root(self, converged: bool, message: str) -> Root:
        """The search's outcome; not converged where the linear systems were not solved."""
        if not self.ev.solved:
            converged = False
            message = (
                f"conjugate gradients left a relative residual of {self.ev.residual:.1g} after "
                f"{self.objective.max_iterations} iterations: the crossed factors are too weakly connected, "
                "or their variances too large against the residual's; use solver='direct' if that fits (see "
                "mme.preflight), or drop levels with few rows"
            )
        return Root(
            self.place.theta, self.ev, converged, message, self.steps, self.decrement, self.slope,
            self.space.singular_terms(self.place), self.ratio(),
        )  # fmt: skip


def find_root(
    objective: IterativeObjective,
    theta0: np.ndarray,
    *,
    tol: float = 1e-4,
    goal: float = _GOAL,
    max_steps: int = 60,
    max_probes: int = 256,
    polish: bool = True,
    accuracy: float = 1e-4,
    progress: Callable[[int, float, int, int], None] | None = None,
) -> Root:
    """Root of the gradient over the cone of covariances.

    Parameters
    ----------
    objective : IterativeObjective
    theta0 : ndarray, shape (n_theta,)
    tol : float
        Largest squared length of the step that is left, in standard errors.
    goal : float
        Largest Monte Carlo error over standard error; probes are added until it holds.
    max_steps, max_probes : int
    polish : bool
        Go on until the step left, and the error of the solves, are a tenth of the Monte Carlo error.
    accuracy : float
        In standard errors: nothing is computed more accurately than that.
    progress : callable (step, gradient, cg_iterations, probes), optional

    Returns
    -------
    Root

    Raises
    ------
    ConvergenceError
        The gradient cannot be computed at the start.
    """
    # the start from moments is near enough for a step to end at the root: worth a tolerance to match
    search = _Search(objective, theta0, min(max(accuracy, 1e-4), _LOOSEST) if polish else _LOOSEST)
    finer, polished = 1.0, 0
    while True:
        if progress is not None:
            progress(search.steps, search.slope, objective.cg_iterations, objective.n_probes)
        ratio = search.ratio()
        # errors of the solves move the root: they stay below what is asked for, once a step leads near it
        wanted = max(0.1 * min(ratio, goal), accuracy) if polish else 0.2 * np.sqrt(tol)
        left = min(tol, wanted**2) if polish and ratio <= goal else tol
        if search.decrement > left:
            if search.steps >= max_steps:
                return search.root(False, search.why_so_long(max_steps))
            before = search.decrement
            if not search.advance(max(finer * wanted, _FINEST) if before < _NEAR else _LOOSEST):
                return search.root(
                    False,
                    f"the gradient grows along the step however short it is ({search.slope:.2g} standard "
                    "errors); try another start, or solver='direct' if it fits",
                )
            if search.steps > 2 and search.decrement > 0.1 * before:
                finer *= 0.1  # the errors of the solves may be what is left
            continue
        if ratio > goal and objective.n_probes < max_probes:
            number = int(np.ceil(1.3 * objective.n_probes * (ratio / goal) ** 2))
            objective.set_probes(min(max_probes, max(number, objective.n_probes + 4)))
            search.again()
            continue
        if polish and search.inner > 4.0 * wanted and polished < _MOST_POLISHES:
            search.inner = wanted
            polished += 1
            search.again()
            continue
        message = "the next step is below the tolerance"
        if ratio > goal:
            message += (
                f"; the Monte Carlo error is {ratio:.2g} standard errors with {objective.n_probes} probes: "
                "allow more (max_probes) to reduce it"
            )
        return search.root(True, message)


def _sample_gradients(space: Coordinates, place: Place, ev: StochasticEvaluation) -> np.ndarray:
    """Gradient in the coordinates of the place by probe, shape (n_probes, m)."""
    assert ev.samples is not None
    out = np.empty((ev.samples[0].shape[0], space.m))
    for b, G, N in zip(space.blocks, space.roots(place), ev.samples, strict=True):
        moved = np.einsum("ba,ibc,cd->iad", G, N, G)
        out[:, b.part] = moved[:, b.rows, b.cols] * b.weight
    return out


def _moved_steps(
    space: Coordinates, place: Place, ev: StochasticEvaluation, model: QuadraticModel
) -> np.ndarray:
    """Constrained steps from gradients that deviate by one probe's share, shape (n_probes, m).

    Their covariance is that of the estimate over probes, boundaries included.
    """
    samples = _sample_gradients(space, place, ev)
    m = samples.shape[0]
    scaled = (samples - samples.mean(axis=0)) / np.sqrt(m)
    if m > 3:  # a spread estimated from few probes: standard deviation of Student's t with m - 1 degrees
        scaled *= np.sqrt((m - 1) / (m - 3))
    return np.array([space.step(place, replace(model, g=model.g + d)).e for d in scaled])


def _monte_carlo_ratio(
    space: Coordinates, place: Place, ev: StochasticEvaluation, model: QuadraticModel
) -> float:
    """Largest Monte Carlo error over standard error of the coordinates; 0 if there is nothing stochastic."""
    if ev.samples is None or ev.samples[0].shape[0] < 2:
        return np.inf
    spread = np.std(_moved_steps(space, place, ev, model), axis=0, ddof=1)
    H = model.H + RIDGE * np.diag(model.metric)
    se = np.sqrt(2.0 * np.maximum(np.diag(np.linalg.inv(H)), 0.0))
    return float(np.max(spread / np.where(se > 0, se, np.inf)))


def monte_carlo(objective: IterativeObjective, root: Root, accuracy: float = 1e-4) -> MonteCarlo:
    """Standard errors and Monte Carlo errors at the end of a search.

    Parameters
    ----------
    objective : IterativeObjective
    root : Root
    accuracy : float
        As in `find_root`.

    Returns
    -------
    MonteCarlo
    """
    ev = root.evaluation
    assert ev.information is not None and ev.joint is not None and ev.slope is not None
    assert ev.information_basis is not None
    space = Coordinates(term_specs(objective.eq))
    place = space.at(root.theta)
    steps = _moved_steps(space, place, ev, space.model(place, ev))
    # a step may overshoot: I - rho stays a tenth of what it is here
    thetas = np.array([space.move(place, space.limit(e) * e).theta for e in steps])
    theta_se = _theta_se(objective, root)
    theta_error = thetas.std(axis=0, ddof=1)
    joint = _covariance(ev.joint)
    s2 = ev.sigma2
    variance_se, variance_error = [], []
    drift = np.zeros(len(thetas))
    moves = np.zeros((len(thetas), objective.n_theta + 1))
    row_size = np.zeros(objective.n_theta)  # stands for the standard errors that a singular term has not
    for t, term in enumerate(objective.eq.layout.places):
        lams = [term.structure.lam(theta[term.theta], term.k) for theta in thetas]
        lam = term.structure.lam(root.theta[term.theta], term.k)
        D, Ds = lam @ lam.T, np.array([each @ each.T for each in lams])
        R = objective.eq.term_basis(t)
        # D from R D R', in which the information is well conditioned
        back = congruence(np.linalg.inv(R), term.entries)
        inner = R @ lam
        moved = np.array([(R @ each) @ (R @ each).T - inner @ inner.T for each in lams])
        se = np.full((term.k, term.k), np.nan)
        row_size[term.theta] = [np.sqrt(D[a, a]) for a, _ in term.entries]
        for i, (a, b) in enumerate(term.entries):
            direction = np.zeros(ev.joint.shape[0])
            direction[term.theta], direction[-1] = s2 * back[i], D[a, b]
            se[a, b] = se[b, a] = np.sqrt(max(0.0, float(direction @ joint @ direction)))
            drift += ev.slope[term.theta.start + i] * moved[:, a, b]
            moves[:, term.theta.start + i] = moved[:, a, b]
        variance_se.append(se)
        variance_error.append(Ds)
    sigma2s = s2 + drift
    moves[:, -1] = drift
    left = max(np.sqrt(root.decrement), accuracy)
    errors = tuple(
        np.hypot((sigma2s[:, None, None] * Ds).std(axis=0, ddof=1), left * se)
        for Ds, se in zip(variance_error, variance_se, strict=True)
    )
    sigma2_se = float(np.sqrt(max(0.0, joint[-1, -1])))
    return MonteCarlo(
        objective.n_probes,
        objective.seed,
        objective.cg_iterations,
        theta_se,
        np.hypot(theta_error, left * np.where(np.isnan(theta_se), row_size, theta_se)),
        tuple(variance_se),
        errors,
        sigma2_se,
        float(np.hypot(sigma2s.std(ddof=1), left * sigma2_se)),
        root.ratio,
        0.5 * ev.information_basis,
        moves=moves,
    )


def _theta_se(objective: IterativeObjective, root: Root) -> np.ndarray:
    """Standard errors of theta, NaN where a term is singular.

    By way of the factors L of root D root', well conditioned whatever the unit and the origin of the columns:
    the information is inverted in the entries of L, and theta is a function of L.
    """
    places, info = objective.eq.layout.places, root.evaluation.information_basis
    assert info is not None
    m = objective.n_theta
    J = np.zeros((m, m))
    moves = []
    for t, place in enumerate(places):
        A, R = objective.eq.term_root(t), objective.eq.term_basis(t)
        lam = place.structure.lam(root.theta[place.theta], place.k)
        L = triangular(A @ (R @ lam))
        J[place.theta, place.theta] = factor_jacobian(L, place.entries, np.linalg.inv(A))
        moves.append(factor_jacobian(lam, place.entries, R))
    cov = _covariance(J.T @ info @ J)
    out = np.full(m, np.nan)
    for t, (place, M) in enumerate(zip(places, moves, strict=True)):
        part = place.theta
        if t not in root.singular:
            G = np.linalg.solve(M, J[part, part])
            out[part] = np.sqrt(np.maximum(np.diag(G @ cov[part, part] @ G.T), 0.0))
    return out


def _covariance(information: np.ndarray) -> np.ndarray:
    """2 information^+ with entries of all units on one scale; zero where there is no information."""
    size = np.sqrt(np.maximum(np.diag(information), 0.0))
    unit = 1.0 / np.where(size > 0.0, size, 1.0)
    scale = np.outer(unit, unit)
    return 2.0 * scale * np.linalg.pinv(information * scale, hermitian=True)


def iterative_start(
    equations: Equations, theta0: np.ndarray, reml: bool = True, probes: int = 4, seed: int = 0
) -> np.ndarray:
    """A start within about a tenth of a standard error of the optimum, for a fraction of a factorization.

    Parameters
    ----------
    equations : Equations
    theta0 : ndarray, shape (n_theta,)
    reml : bool
    probes, seed : int

    Returns
    -------
    theta : ndarray, shape (n_theta,)
        `theta0` if the search fails.
    """
    objective = IterativeObjective(equations, reml, probes, seed)
    try:
        root = find_root(objective, theta0, tol=1e-3, goal=np.inf, max_steps=8, polish=False)
    except (ConvergenceError, PerfectFitError):
        return theta0  # the exact search meets the same data, and says what is wrong with them
    return root.theta
