"""Newton steps with the average information on the reliability scale; knows no matrices of the model.

The coordinates are those of `mme.engine.search.coordinates`.  Two properties make the reliability the scale
for Newton steps.  At D = 0 the deviance has a finite slope (in theta it is stationary by symmetry, a saddle
more often than not), so zero variances and singular factors are ordinary boundary points.  And for balanced
data the average-information step is exact: I - rho is then proportional to the inverse of the expected mean
square between levels, in which the deviance is -q log x + SS x.

Every step minimises the quadratic model over the cone rho >= 0 (`mme.engine.kernels.cone`); the predicted
decrease of the undamped model is the Newton decrement with the boundary's conditions in it: it vanishes
exactly at points that satisfy the first-order conditions.  Convergence is declared where it is negligible
both in the metric of the average information and in that of balanced data, which no flat direction of the
former can hide.

Where the average information is a poor Hessian (few levels, near-singular terms) its steps converge only
linearly; a symmetric rank-one secant correction, sized as by Dennis, Gay & Welsch (1981, ACM TOMS 7), is then
added to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...exceptions import ConvergenceError
from ..kernels import coordinates as rows
from ..kernels import newton
from ..kernels.coordinates import RIDGE
from .coordinates import Coordinates, Place, QuadraticModel, Step, TermSpec
from .evaluation import Evaluation
from .machine import Machine

__all__ = ["KnownMinimumError", "Minimum", "TermSpec", "minimise", "nears_known"]

_MOST_REJECTIONS = 12
_MOST_RESUMPTIONS = 5
_FLAT = 1e-6  # curvature, in the metric of balanced data, below which a gradient is rounding error
_NOTHING_BUT_FLAT = (
    "the predicted decrease of the deviance is below the tolerance, but for directions without curvature"
)
_PATIENCE = 20  # steps in a row that hardly lower the decrement, after which another search is tried
_SEEN = 0.05  # predicted decrease from which a search is told to lead to a minimum that is known
_BY_HAND = 3  # steps inside the cone after which compiled code takes over
_MOST_QUASI_NEWTON = 60  # evaluations of one quasi-Newton search


@dataclass
class Minimum:
    """Where the search ended.

    Attributes
    ----------
    theta : ndarray
    evaluation : Evaluation
        Of order 2 at theta.
    converged : bool
    message : str
    iterations : int
    decrement : float
        Predicted decrease of the deviance still to be had.
    gradient_norm : float
        Length of the projected gradient in the metric of balanced data, where a unit step is about one
        standard error: dimensionless.
    singular : list of int
        Terms with a singular covariance.
    history : list of float
    evaluations : int
        Factorizations.
    curvature : ndarray, shape (m, m), or None
        The average information at theta in the coordinates of `mme.engine.search.coordinates`.
    compiled : bool
        Whether steps were taken in compiled code.
    """

    theta: np.ndarray
    evaluation: Evaluation
    converged: bool
    message: str
    iterations: int
    decrement: float
    gradient_norm: float
    singular: list[int]
    history: list[float] = field(default_factory=list)
    evaluations: int = 0
    curvature: np.ndarray | None = None
    compiled: bool = False


def minimise(
    evaluate: Callable[[np.ndarray, int], Evaluation],
    theta0: np.ndarray,
    terms: list[TermSpec] | Coordinates,
    *,
    tol: float = 1e-8,
    max_evaluations: int = 200,
    count: Callable[[], int] | None = None,
    callback: Callable[[int, float, float], None] | None = None,
    known: Sequence[float] = (),
    answer: Callable[[Machine, int], None] | None = None,
    compiled: bool = False,
) -> Minimum:
    """Minimise the deviance.

    Parameters
    ----------
    evaluate : callable (theta, order) -> Evaluation
        Orders 0, 1 and 2 are used; raises numpy.linalg.LinAlgError where it cannot be computed.
    theta0 : ndarray, shape (m,)
    terms : list of TermSpec, or their Coordinates
    tol : float
        Stop when the predicted decrease of the deviance is below this.
    max_evaluations : int
    count : callable, optional
        Number of factorizations so far.
    callback : callable (iteration, deviance, decrement), optional
    known : sequence of float
        Deviances of minima at which the search need not end again.
    answer : callable (machine, order), optional
        Puts the evaluation of the trial before a machine, as `evaluate` does before Python.  With it,
        the same steps are taken by the compiled `mme.engine.kernels.newton` as soon as one is stopped by the
        boundary of the cone, or there are more than a few: most small searches end before they need its code.
    compiled : bool
        Have them taken so from the first.

    Returns
    -------
    Minimum

    Raises
    ------
    ConvergenceError
        The deviance cannot be computed at the start.
    KnownMinimumError
        The search nears a minimum that is known.
    """
    search = _Search(
        evaluate, theta0, terms, tol, max_evaluations, count or _Counter(), callback, known, answer,
        0 if compiled else _BY_HAND,
    )  # fmt: skip
    message = search.run(_PATIENCE)
    resumed = 0
    while message is None and resumed < _MOST_RESUMPTIONS and not search.exhausted():
        improved = search.quasi_newton()
        if not improved and not search.crawling:
            break
        resumed += 1
        message = search.run(_PATIENCE if improved and resumed < _MOST_RESUMPTIONS else None)
    converged = message is not None
    if message is None:
        message = (
            f"stopped after {search.count()} evaluations without convergence"
            if search.exhausted()
            else "neither average-information nor quasi-Newton steps decrease the deviance further"
        )
    elif resumed:
        message += ", after a quasi-Newton search"
    return Minimum(
        search.place.theta,
        search.ev,
        converged,
        message,
        search.iterations,
        float(search.decrement),
        float(search.slope),
        search.space.singular_terms(search.place),
        [float(d) for d in search.history],
        search.count(),
        search.curvature,
        search.machine is not None,
    )


class KnownMinimumError(Exception):
    """A search nears a minimum that was found before."""


class _SpentError(Exception):
    """The evaluations of a quasi-Newton search are used up; the best point is known."""


class _Search:
    """A point, its evaluation, the quadratic model and how the search got there."""

    def __init__(
        self,
        evaluate: Callable[[np.ndarray, int], Evaluation],
        theta0: np.ndarray,
        terms: list[TermSpec] | Coordinates,
        tol: float,
        max_evaluations: int,
        count: Callable[[], int],
        callback: Callable[[int, float, float], None] | None,
        known: Sequence[float],
        answer: Callable[[Machine, int], None] | None,
        by_hand: int,
    ) -> None:
        self.space = Coordinates.of(terms)
        self.evaluate, self.count, self.callback = evaluate, count, callback
        self.known, self.answer, self.by_hand = known, answer, by_hand
        self.machine: Machine | None = None
        self.curvature: np.ndarray | None = None
        self.tol, self.max_evaluations = tol, max_evaluations
        self.place = self.space.at(theta0)
        try:
            self.ev = evaluate(self.place.theta, 2)
        except np.linalg.LinAlgError as error:
            raise ConvergenceError(
                f"the deviance cannot be computed at the start theta = {theta0}: {error}"
            ) from error
        self.history = [self.ev.deviance]
        self.iterations = 0
        self.slope = np.inf
        self.decrement = np.inf
        self.crawling = False

    def exhausted(self) -> bool:
        return self.count() >= self.max_evaluations

    def noise(self) -> float:
        """Rounding error of the deviance here."""
        return 4e-15 * abs(self.ev.deviance) + 1e-12 + self.ev.noise

    def run(self, patience: int | None = None) -> str | None:
        """Newton steps until they end; why they did, or None where the optimality conditions do not hold.

        They are also given up, as `crawling`, after `patience` steps in a row that hardly lowered the
        decrement: beside a variance 1e10 times the residual's a direction that the fixed effects make up for
        turns by no more than a residual standard deviation a step.
        """
        self.crawling = False
        space = self.space
        self.crawled = False
        damping, whole, stalled = 0.0, True, 0
        secant, last = _Secant(space), np.inf
        begin = self.iterations
        while True:
            plain = space.model(self.place, self.ev)
            self.curvature = plain.H
            step = None
            if self.answer is not None:
                step = self._ordinary_step(plain, secant, begin)
                if step is None:
                    memory = (begin, stalled, damping, whole, last)
                    return self._run_compiled(self.answer, memory, secant, patience)
            model = secant.corrected(self.place, plain)
            step = step or space.step(self.place, model)
            self.decrement = step.decrease
            # steps that had to be cut short say nothing about the model
            secant.slow = whole and self.iterations >= begin + 2 and step.decrease > 0.02 * last
            stalled = stalled + 1 if step.decrease > 0.5 * last else 0
            last = step.decrease
            if self.callback is not None:
                self.callback(self.iterations, self.ev.deviance, step.decrease)
            if nears_known(self.ev.deviance, step.decrease, self.known):
                raise KnownMinimumError
            self.slope = space.slope(self.place, model) if step.decrease <= self.tol else np.inf
            if _is_converged(step.decrease, self.slope, self.tol):
                return f"the predicted decrease of the deviance is below the tolerance{self._accuracy()}"
            if stalled >= 2 and step.decrease <= 10.0 * self.noise():
                return self._at_the_end_of_precision(model)
            if patience is not None and stalled >= patience:
                self.slope = space.slope(self.place, model)
                damped = space.step(self.place, model, _FLAT).decrease
                if _is_converged(damped, self.slope, self.tol):
                    self.decrement = damped
                    return _NOTHING_BUT_FLAT
                self.crawling = True
                return None
            moved = self._advance(model, step, damping)
            if moved is None:
                if step.decrease <= 10.0 * self.noise():
                    return self._at_the_end_of_precision(model)
                self.slope = space.slope(self.place, model)
                return None
            damping, whole = moved
            self.iterations += 1
            self.history.append(self.ev.deviance)

    def _ordinary_step(self, model: QuadraticModel, secant: _Secant, begin: int) -> Step | None:
        """The Newton step, or None where compiled code should go on, which is loaded for more than a few."""
        if self.machine is not None or secant.slow or self.iterations - begin >= self.by_hand:
            return None
        return self.space.step_inside(self.place, model)

    def _run_compiled(
        self,
        answer: Callable[[Machine, int], None],
        memory: tuple[int, int, float, bool, float],
        secant: _Secant,
        patience: int | None,
    ) -> str | None:
        """Go on from here as `run` does, in compiled code.

        Parameters
        ----------
        answer : callable (machine, order)
        memory : tuple
            The loop's own: steps before it, stalled ones, damping, whether the last was whole, its decrease.
        secant : _Secant
        patience : int or None
        """
        begin, stalled, damping, whole, last = memory
        if self.machine is None:
            self.machine = Machine(self.space, self.tol, self.max_evaluations, self.known)
        machine = self.machine
        machine.begin(
            self.place,
            self.ev,
            {
                newton.ITERATIONS: self.iterations,
                newton.FIRST: begin,
                newton.STALLED: stalled,
                newton.WHOLE: whole,
                newton.SLOW: secant.slow,
                newton.HAS_BEFORE: 0,
                newton.HAS_CORRECTION: 0,
                newton.PATIENCE: -1 if patience is None else patience,
                newton.COUNT: self.count(),
            },
            {newton.DAMPING: damping, newton.LAST: last},
        )
        if secant.place is not None and secant.g is not None:
            machine.remember(secant.place, secant.g, secant.E)
        counts, numbers = machine.counts, machine.numbers
        while True:
            wanted, reached = machine.go_on()
            self.history += reached
            if self.callback is not None and wanted != newton.DERIVATIVES:
                self.callback(
                    int(counts[newton.ITERATIONS]),
                    float(numbers[newton.DEVIANCE]),
                    float(numbers[newton.DECREMENT]),
                )
            if wanted == newton.ENDED:
                break
            counts[newton.ANSWERED] = 1
            try:
                answer(machine, 0 if wanted == newton.VALUE else 2)
            except np.linalg.LinAlgError:
                counts[newton.ANSWERED] = 0
            counts[newton.COUNT] = self.count()
        self.place, self.ev = machine.place(), machine.evaluation()
        self.curvature = machine.matrices[rows.CURVATURE].copy()
        self.iterations = int(counts[newton.ITERATIONS])
        self.decrement, self.slope = numbers[newton.DECREMENT], numbers[newton.SLOPE]
        reason = int(counts[newton.REASON])
        self.crawling = reason == newton.CRAWLING
        if reason == newton.KNOWN:
            raise KnownMinimumError
        if reason == newton.CONVERGED:
            return f"the predicted decrease of the deviance is below the tolerance{self._accuracy()}"
        if reason == newton.ROUNDING:
            return self._rounding_reached()
        return _NOTHING_BUT_FLAT if reason == newton.NOTHING_BUT_FLAT else None

    def _rounding_reached(self) -> str:
        return f"the predicted decrease is below the rounding error of the deviance ({self.noise():.1g})"

    def _accuracy(self) -> str:
        """The deviance's own accuracy, to be added to a message where it is coarser than the tolerance."""
        return f", its rounding error {self.noise():.1g}" if self.noise() > 10.0 * self.tol else ""

    def _at_the_end_of_precision(self, model: QuadraticModel) -> str | None:
        level = max(self.tol, 10.0 * self.noise())
        self.slope = self.space.slope(self.place, model)
        if not _is_converged(self.decrement, self.slope, level):
            return None
        return self._rounding_reached()

    def _advance(self, model: QuadraticModel, newton: Step, damping: float) -> tuple[float, bool] | None:
        """One accepted step: the next damping, and whether the step was whole; None if there is none."""
        space = self.space
        rejections = 0
        while not self.exhausted():
            step = newton if damping == 0.0 else space.step(self.place, model, damping)
            fraction = space.limit(step.e)
            e = step.e * fraction
            predicted = max(0.0, float(-(model.g @ e) - 0.5 * e @ model.H @ e))
            place = space.move(self.place, e, step.zeros if fraction == 1.0 else None)
            if np.array_equal(place.theta, self.place.theta):
                break  # the step is below rounding: no factorization would be counted
            noise = self.noise()
            try:
                trial = self.evaluate(place.theta, 0)
                noise = max(noise, trial.noise)
                actual = self.ev.deviance - trial.deviance
                if actual >= 1e-4 * predicted - noise:
                    trial = self.evaluate(place.theta, 2)
            except np.linalg.LinAlgError:
                actual = -np.inf
            if actual >= 1e-4 * predicted - noise:
                ratio = actual / predicted if predicted > 10 * noise else 1.0
                self.place, self.ev = place, trial
                return _next_damping(damping, ratio), fraction == 1.0 and damping == 0.0
            rejections += 1
            damping = 4.0 * damping if damping > 0.0 else 0.25
            if rejections >= _MOST_REJECTIONS or np.abs(e).max() < 1e-12:
                break
        return None

    def quasi_newton(self) -> bool:
        """Quasi-Newton search in theta from here; whether it found a better point, which is then taken."""
        best_theta, best_deviance = self.place.theta, self.ev.deviance
        begin = self.ev.deviance

        # half of what is left at most: Newton steps have to find that the conditions hold
        left = self.max_evaluations - self.count()
        last = self.count() + min(left // 2, _MOST_QUASI_NEWTON)

        def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal best_theta, best_deviance
            if self.count() >= last - 2:  # two are kept for the derivatives at the end
                raise _SpentError
            try:
                trial = z * unit
                e = self.evaluate(trial, 1)
            except np.linalg.LinAlgError:
                return 1e300, np.zeros_like(z)
            assert e.gradient is not None  # of order 1
            if e.deviance < best_deviance:
                best_theta, best_deviance = trial, e.deviance
            return e.deviance, e.gradient * unit

        if last - self.count() <= 2:
            return False
        from scipy.optimize import minimize  # rarely needed, and slow to import

        # relative variables: the diagonal of theta may differ by many orders
        unit = np.where(self.place.theta != 0.0, np.abs(self.place.theta), 1.0)
        pairs = zip(self.space.A, self.space.blocks, strict=True)
        unit = np.maximum(unit, 1e-3 / np.concatenate([np.linalg.norm(A, axis=0)[b.rows] for A, b in pairs]))
        with contextlib.suppress(_SpentError):
            minimize(
                objective,
                self.place.theta / unit,
                jac=True,
                method="L-BFGS-B",
                options={"maxfun": _MOST_QUASI_NEWTON, "ftol": 1e-15, "gtol": 1e-9},
            )
        if not best_deviance < begin - self.noise():
            return False
        place = self.space.at(best_theta)
        try:
            ev = self.evaluate(place.theta, 2)
        except np.linalg.LinAlgError:
            return False  # no derivatives there: stay where they could be computed
        self.place, self.ev = place, ev
        self.history.append(ev.deviance)
        return True


class _Counter:
    def __call__(self) -> int:
        return 0


class _Secant:
    """Correction of the average information towards the Hessian from successive gradients.

    Set `slow` after an iteration whose decrement has hardly fallen; only then is it built and used.
    The corrected matrix is kept between a tenth and ten times the average information.
    """

    def __init__(self, space: Coordinates) -> None:
        self.space = space
        self.slow = False
        self.place: Place | None = None
        self.g: np.ndarray | None = None
        self.E: np.ndarray | None = None

    def corrected(self, place: Place, model: QuadraticModel) -> QuadraticModel:
        """The model with the correction; remembers place and gradient for the next call."""
        previous, self.place, old_g, self.g = self.place, place, self.g, model.g
        if not self.slow or previous is None or old_g is None:
            self.E = None
            return model
        H = model.H
        # gradient and correction of the earlier place in the coordinates of this one: there it is E = -s
        s, back = self._moved(previous, place)
        old_g = back.T @ old_g
        y = model.g - old_g
        wanted = float(s @ (y - H @ s))
        E = np.zeros_like(H) if self.E is None else back.T @ self.E @ back
        present = float(s @ E @ s)
        if present != 0.0:
            E = E * min(1.0, abs(wanted / present))
        r = y - (H + E) @ s
        rs = float(r @ s)
        # in units of the information: reliabilities near one and near zero differ by many orders
        unit = np.sqrt(np.maximum(np.diag(H), 0.0) + RIDGE * model.metric)
        if abs(rs) > 1e-8 * float(np.linalg.norm(r / unit) * np.linalg.norm(s * unit)):
            E = E + np.outer(r, r) / rs
        self.E = E
        w, V = np.linalg.eigh(H)
        if not w[-1] > 0.0:
            return model
        w = np.maximum(w, 1e-12 * w[-1])
        root, inverse = (V * np.sqrt(w)) @ V.T, (V / np.sqrt(w)) @ V.T
        c, U = np.linalg.eigh(inverse @ E @ inverse)
        factor = root @ U
        return QuadraticModel(model.g, (factor * (1.0 + np.clip(c, -0.9, 9.0))) @ factor.T, model.metric)

    def _moved(self, old: Place, new: Place) -> tuple[np.ndarray, np.ndarray]:
        """The step from `old` to `new` in the coordinates of `new`, and the matrix from those to `old`'s."""
        back = np.zeros((self.space.m, self.space.m))
        s = np.empty(self.space.m)
        for b, P, U, d, V, f in zip(
            self.space.blocks, self.space.transport(new, old), old.U, old.d, new.U, new.d, strict=True
        ):
            back[b.part, b.part] = P
            # I - E = G_new'(I + R D_old R')^-1 G_new for the way back
            T = np.sqrt(1.0 + f)[:, None] * (V.T @ U) / np.sqrt(1.0 + d)
            S = T @ T.T - np.eye(f.size)
            s[b.part] = S[b.rows, b.cols]
        return s, back


def nears_known(deviance: float, decrease: float, known: Sequence[float]) -> bool:
    """Whether what is predicted of the end of a search is a minimum that is known."""
    return decrease < _SEEN and any(abs(deviance - decrease - level) < 0.1 * decrease for level in known)


def _is_converged(decrement: float, slope: float, tol: float) -> bool:
    # the metric of balanced data overstates the information of unbalanced or partly confounded terms, so its
    # decrement is the smaller one: a factor in hand
    return decrement <= tol and slope <= 100.0 * np.sqrt(tol)


def _next_damping(damping: float, ratio: float) -> float:
    if ratio > 0.7:
        damping *= 0.2
        return damping if damping > 1e-5 else 0.0
    if ratio < 0.25:
        return max(2.0 * damping, 0.1)
    return damping
