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
from ..kernels import newton
from ..kernels.newton import State
from .coordinates import Coordinates, Place, TermSpec
from .evaluation import Evaluation

__all__ = ["KnownMinimumError", "Minimum", "TermSpec", "minimise", "new_state"]

_MOST_RESUMPTIONS = 5
_HISTORY = 64  # deviances that are kept in one piece
_NOTHING_BUT_FLAT = (
    "the predicted decrease of the deviance is below the tolerance, but for directions without curvature"
)
_PATIENCE = 20  # steps in a row that hardly lower the decrement, after which another search is tried
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
    run: Callable[[State], None] | None = None,
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
    run : callable (state), optional
        Takes Newton steps until they end, or the history is full, with evaluations of its own: the loop of
        `mme.engine.kernels.newton` around the same deviance, compiled.  There is no callback then.

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
    search = _Search(evaluate, theta0, terms, tol, max_evaluations, count or _Counter(), callback, known, run)
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
    place = search.place
    return Minimum(
        place.theta,
        search.evaluation(),
        converged,
        message,
        int(search.state.counts[newton.ITERATIONS]),
        float(search.state.numbers[newton.DECREMENT]),
        float(search.state.numbers[newton.SLOPE]),
        search.space.singular_terms(place),
        search.history,
        search.count(),
    )


class KnownMinimumError(Exception):
    """A search nears a minimum that was found before."""


class _SpentError(Exception):
    """The evaluations of a quasi-Newton search are used up; the best point is known."""


class _Search:
    """The machine of `mme.engine.kernels.newton`, its evaluations, and what it ended with."""

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
        run: Callable[[State], None] | None,
    ) -> None:
        self.space = Coordinates.of(terms)
        self.evaluate, self.count, self.callback, self.compiled = evaluate, count, callback, run
        self.max_evaluations = max_evaluations
        self.state = new_state(self.space, known)
        self.state.counts[newton.MOST] = min(max_evaluations, 2**62)
        self.state.counts[newton.WANTED] = newton.START
        self.state.numbers[newton.TOL] = tol
        newton.copy_spot(self.space.at(theta0).spot, self.state.trial)
        self.history: list[float] = []
        self._ev: Evaluation | None = None

    @property
    def place(self) -> Place:
        """Where the search is."""
        out = self.space.new_place()
        newton.copy_spot(self.state.spot, out.spot)
        return out

    @property
    def crawling(self) -> bool:
        """Whether the last steps were given up because they hardly lowered the decrement."""
        return self.state.counts[newton.REASON] == newton.CRAWLING

    def exhausted(self) -> bool:
        return self.count() >= self.max_evaluations

    def noise(self) -> float:
        """Rounding error of the deviance here."""
        return float(newton.rounding(self.state))

    def evaluation(self) -> Evaluation:
        """What is known of the deviance here."""
        if self._ev is None:
            state = self.state
            self._ev = Evaluation(
                state.spot.theta.copy(),
                float(state.numbers[newton.DEVIANCE]),
                float(state.numbers[newton.SIGMA2]),
                N_basis=[N[:k, :k].copy() for N, k in zip(state.N, self.space.ks, strict=True)],
                information_basis=state.information.copy(),
                noise=float(state.numbers[newton.NOISE]),
            )
        return self._ev

    def run(self, patience: int | None = None) -> str | None:
        """Newton steps until they end; why they did, or None where the optimality conditions do not hold.

        They are also given up, as `crawling`, after `patience` steps in a row that hardly lowered the
        decrement: beside a variance 1e10 times the residual's a direction that the fixed effects make up for
        turns by no more than a residual standard deviation a step.
        """
        counts = self.state.counts
        counts[newton.PATIENCE] = -1 if patience is None else patience
        while True:
            if self.compiled is None:
                self._to_the_next()
            else:
                self.compiled(self.state)
                self._ev = None
            self.history += self.state.history[: counts[newton.IN_HISTORY]].tolist()
            counts[newton.IN_HISTORY] = 0
            if counts[newton.WANTED] == newton.ENDED:
                return self._message(int(counts[newton.REASON]))

    def _to_the_next(self) -> None:
        """Answer what the machine wants to know, and let it go on to its next question."""
        state = self.state
        wanted = state.counts[newton.WANTED]
        answer = None if wanted == newton.ENDED else self._answer(wanted)
        answered = wanted == newton.ENDED or answer is not None
        state.counts[newton.COUNT] = self.count()
        newton.advance(self.space.arrays, state, answered)
        if wanted == newton.VALUE or not answered:
            return
        self._ev = answer or self._ev
        if self.callback is not None:
            numbers = state.numbers
            steps = int(state.counts[newton.ITERATIONS])
            self.callback(steps, float(numbers[newton.DEVIANCE]), float(numbers[newton.DECREMENT]))

    def _answer(self, wanted: int) -> Evaluation | None:
        """The evaluation of the trial, put before the machine; None where it cannot be computed."""
        state = self.state
        try:
            answer = self.evaluate(state.trial.theta.copy(), 0 if wanted == newton.VALUE else 2)
        except np.linalg.LinAlgError as error:
            if wanted == newton.START:
                raise ConvergenceError(
                    f"the deviance cannot be computed at the start theta = {state.trial.theta}: {error}"
                ) from error
            return None
        state.numbers[newton.TRIAL_DEVIANCE] = answer.deviance
        state.numbers[newton.TRIAL_SIGMA2] = answer.sigma2
        state.numbers[newton.TRIAL_NOISE] = answer.noise
        if wanted != newton.VALUE:
            state.trial_N[:], state.trial_information[:] = self.space.derivatives(answer)
        return answer

    def _message(self, reason: int) -> str | None:
        if reason == newton.KNOWN:
            raise KnownMinimumError
        if reason == newton.CONVERGED:
            # the deviance's own accuracy, where it is coarser than the tolerance
            coarse = self.noise() > 10.0 * self.state.numbers[newton.TOL]
            accuracy = f", its rounding error {self.noise():.1g}" if coarse else ""
            return f"the predicted decrease of the deviance is below the tolerance{accuracy}"
        if reason == newton.ROUNDING:
            return f"the predicted decrease is below the rounding error of the deviance ({self.noise():.1g})"
        return _NOTHING_BUT_FLAT if reason == newton.NOTHING_BUT_FLAT else None

    def quasi_newton(self) -> bool:
        """Quasi-Newton search in theta from here; whether it found a better point, which is then taken."""
        here = self.state.spot.theta.copy()
        begin = float(self.state.numbers[newton.DEVIANCE])
        best_theta, best_deviance = here, begin

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
        unit = np.where(here != 0.0, np.abs(here), 1.0)
        pairs = zip(self.space.A, self.space.blocks, strict=True)
        unit = np.maximum(unit, 1e-3 / np.concatenate([np.linalg.norm(A, axis=0)[b.rows] for A, b in pairs]))
        with contextlib.suppress(_SpentError):
            minimize(
                objective,
                here / unit,
                jac=True,
                method="L-BFGS-B",
                options={"maxfun": _MOST_QUASI_NEWTON, "ftol": 1e-15, "gtol": 1e-9},
            )
        if not best_deviance < begin - self.noise():
            return False
        newton.copy_spot(self.space.at(best_theta).spot, self.state.trial)
        answer = self._answer(newton.DERIVATIVES)
        if answer is None:
            return False  # no derivatives there: stay where they could be computed
        newton.take_trial(self.state)
        self._ev = answer
        return True


class _Counter:
    def __call__(self) -> int:
        return 0


def new_state(space: Coordinates, known: Sequence[float] = ()) -> State:
    """A machine that was not started yet."""
    m, nc, shape = space.m, len(space.cones), space.arrays.A.shape
    return State(
        counts=np.zeros(newton.N_COUNTS, dtype=np.int64),
        numbers=np.full(newton.N_NUMBERS, np.inf),
        spot=space.new_place().spot,
        trial=space.new_place().spot,
        before=space.new_place().spot,
        N=np.zeros(shape),
        trial_N=np.zeros(shape),
        information=np.zeros((m, m)),
        trial_information=np.zeros((m, m)),
        g=np.zeros(m),
        H=np.zeros((m, m)),
        e=np.zeros(m),
        step=np.zeros(m),
        zeros=np.zeros(nc, dtype=np.int64),
        step_zeros=np.zeros(nc, dtype=np.int64),
        old_g=np.zeros(m),
        correction=np.zeros((m, m)),
        history=np.empty(_HISTORY),
        known=np.array(known, dtype=np.float64),
    )
