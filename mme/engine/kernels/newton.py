"""The search as a machine that asks for evaluations: `mme.engine.search.optimizer` says what it does and why.

`advance` goes from one evaluation to the next.  It returns what it wants to know (`VALUE` or `DERIVATIVES` at
`trial.theta`), or `ENDED`; whoever runs it, a loop in Python around any objective or a compiled one, answers
and calls again.
"""

from typing import NamedTuple

import numpy as np

from . import kernel
from .cone import jacobi
from .coordinates import (
    RIDGE,
    Spot,
    Terms,
    copy_spot,
    fill_congruence,
    fill_model,
    find_limit,
    find_slope,
    find_step,
    move_spot,
    sandwich,
)

# what the machine wants: the value at the trial, its derivatives too (of the first point: `START`)
ENDED, VALUE, DERIVATIVES, START = range(4)
# why it ended
CONVERGED, ROUNDING, NOTHING_BUT_FLAT, NO_DECREASE, CRAWLING, KNOWN, NO_START = range(7)
# `State.counts`
(WANTED, REASON, ITERATIONS, BEGIN, STALLED, REJECTIONS, WHOLE, SLOW, HAS_BEFORE, HAS_CORRECTION, WHOLE_STEP,
 COUNT, MOST, PATIENCE, IN_HISTORY) = range(15)  # fmt: skip
N_COUNTS = 15
# `State.numbers`
(DEVIANCE, NOISE, TRIAL_DEVIANCE, TRIAL_NOISE, TOL, DECREMENT, SLOPE, LAST, DAMPING, ACTUAL, PREDICTED,
 ALLOWED, SIGMA2, TRIAL_SIGMA2) = range(14)  # fmt: skip
N_NUMBERS = 14

MOST_REJECTIONS = 12
_FLAT = 1e-6  # curvature, in the metric of balanced data, below which a gradient is rounding error
_SEEN = 0.05  # predicted decrease from which a search is told to lead to a minimum that is known


class State(NamedTuple):
    """A search: where it is, what is known there, and how it came there.

    Attributes
    ----------
    counts, numbers : ndarrays of int64 and float64
        By the names above.
    spot, trial, before : Spot
        Here; where an evaluation is wanted; where the last but one iteration was, for the secant.
    N, trial_N : ndarrays, shape (n_terms, K, K)
        Derivatives in R D R' here, and those of the trial.
    information, trial_information : ndarrays, shape (m, m)
    g, H : ndarrays, shapes (m,), (m, m)
        The quadratic model here.
    e, step : ndarrays, shape (m,)
        The undamped Newton step, and the one that is tried.
    zeros, step_zeros : ndarrays of int64, shape (n_cones,)
        Eigenvalues that they make zero.
    old_g, correction : ndarrays, shapes (m,), (m, m)
        The secant's memory, in the coordinates of `before`.
    history : ndarray
        Deviances of the start and after every iteration; who runs the machine empties it when it is full.
    known : ndarray
        Deviances of minima at which the search need not end again.
    """

    counts: np.ndarray
    numbers: np.ndarray
    spot: Spot
    trial: Spot
    before: Spot
    N: np.ndarray
    trial_N: np.ndarray
    information: np.ndarray
    trial_information: np.ndarray
    g: np.ndarray
    H: np.ndarray
    e: np.ndarray
    step: np.ndarray
    zeros: np.ndarray
    step_zeros: np.ndarray
    old_g: np.ndarray
    correction: np.ndarray
    history: np.ndarray
    known: np.ndarray


@kernel
def rounding(state: State) -> float:
    """Rounding error of the deviance here."""
    return 4e-15 * abs(state.numbers[DEVIANCE]) + 1e-12 + state.numbers[NOISE]


@kernel
def _is_converged(decrement: float, slope: float, tol: float) -> bool:
    # the metric of balanced data overstates the information of unbalanced or partly confounded terms, so its
    # decrement is the smaller one: a factor in hand
    return decrement <= tol and slope <= 100.0 * np.sqrt(tol)


@kernel
def _way_back(terms: Terms, old: Spot, new: Spot, back: np.ndarray, s: np.ndarray) -> None:
    """The step from `old` to `new` in the coordinates of `new`, and the matrix from those to `old`'s."""
    K = terms.A.shape[1]
    there, here = np.empty((K, K)), np.empty((K, K))
    back[:] = 0.0
    for t in range(terms.ks.size):
        k = terms.ks[t]
        for a in range(k):
            for b in range(k):
                x = 0.0
                for c in range(k):
                    x += old.U[t, c, a] * new.U[t, c, b]
                there[a, b] = np.sqrt(1.0 + old.d[t, a]) * x / np.sqrt(1.0 + new.d[t, b])
                here[b, a] = np.sqrt(1.0 + new.d[t, b]) * x / np.sqrt(1.0 + old.d[t, a])
        fill_congruence(there, terms.starts[t], k, terms.diagonal[t], back)
        # I - E = G_new'(I + R D_old R')^-1 G_new for the way back
        i = terms.starts[t]
        for b in range(k):
            for a in range(b, b + 1 if terms.diagonal[t] else k):
                x = -1.0 if a == b else 0.0
                for c in range(k):
                    x += here[a, c] * here[b, c]
                s[i] = x
                i += 1


@kernel
def _scaled_vectors(V: np.ndarray, w: np.ndarray, out: np.ndarray) -> None:
    """out = V diag(w) V'."""
    m = w.size
    for a in range(m):
        for b in range(m):
            x = 0.0
            for c in range(m):
                x += V[a, c] * w[c] * V[b, c]
            out[a, b] = x


@kernel
def _add_correction(H: np.ndarray, E: np.ndarray) -> None:
    """H + E kept between a tenth and ten times H, in place; H as it is where it is not positive."""
    m = H.shape[0]
    V, M, T = np.empty((m, m)), H.copy(), np.empty((m, m))
    jacobi(M, m, V)
    largest = M[0, 0]
    for i in range(1, m):
        largest = max(largest, M[i, i])
    if not largest > 0.0:
        return
    w, r = np.empty(m), np.empty(m)
    for i in range(m):
        w[i] = np.sqrt(max(M[i, i], 1e-12 * largest))
        r[i] = 1.0 / w[i]
    root, inverse = np.empty((m, m)), np.empty((m, m))
    _scaled_vectors(V, w, root)
    _scaled_vectors(V, r, inverse)
    sandwich(inverse, E, M)
    jacobi(M, m, V)
    for i in range(m):
        w[i] = 1.0 + min(max(M[i, i], -0.9), 9.0)
    for a in range(m):
        for b in range(m):
            x = 0.0
            for c in range(m):
                x += root[a, c] * V[c, b]
            T[a, b] = x
    _scaled_vectors(T, w, H)


@kernel
def correct_model(terms: Terms, state: State) -> None:
    """Add the secant's correction to the model here; remembers place and gradient for the next call."""
    m = state.g.size
    counts, g, H, E = state.counts, state.g, state.H, state.correction
    if counts[SLOW] == 0 or counts[HAS_BEFORE] == 0:
        counts[HAS_CORRECTION] = 0
    else:
        # gradient and correction of the earlier place in the coordinates of this one: there it is E = -s
        back, s, y, r = np.empty((m, m)), np.empty(m), np.empty(m), np.empty(m)
        _way_back(terms, state.before, state.spot, back, s)
        wanted = present = 0.0
        for i in range(m):
            y[i] = g[i]
            for j in range(m):
                y[i] -= back[j, i] * state.old_g[j]
            x = y[i]
            for j in range(m):
                x -= H[i, j] * s[j]
            wanted += s[i] * x
        if counts[HAS_CORRECTION] == 0:
            E[:] = 0.0
        else:
            sandwich(back, E.copy(), E)
            for i in range(m):
                for j in range(m):
                    present += s[i] * E[i, j] * s[j]
        if present != 0.0:
            E *= min(1.0, abs(wanted / present))
        rs = rr = ss = 0.0
        for i in range(m):
            r[i] = y[i]
            for j in range(m):
                r[i] -= (H[i, j] + E[i, j]) * s[j]
            # in units of the information: reliabilities near one and near zero differ by many orders
            unit = np.sqrt(max(H[i, i], 0.0) + RIDGE * terms.metric[i])
            rs += r[i] * s[i]
            rr += (r[i] / unit) ** 2
            ss += (s[i] * unit) ** 2
        if abs(rs) > 1e-8 * np.sqrt(rr) * np.sqrt(ss):
            for i in range(m):
                for j in range(m):
                    E[i, j] += r[i] * r[j] / rs
        counts[HAS_CORRECTION] = 1
        _add_correction(H, E)
    counts[HAS_BEFORE] = 1
    copy_spot(state.spot, state.before)
    state.old_g[:] = g


@kernel
def _end(state: State, reason: int) -> int:
    state.counts[REASON] = reason
    return ENDED


@kernel
def _end_of_precision(terms: Terms, state: State) -> int:
    """Whether the conditions hold as well as the deviance's rounding lets it be seen."""
    level = max(state.numbers[TOL], 10.0 * rounding(state))
    state.numbers[SLOPE] = find_slope(terms, state.spot.d, state.g)
    holds = _is_converged(state.numbers[DECREMENT], state.numbers[SLOPE], level)
    return _end(state, ROUNDING if holds else NO_DECREASE)


@kernel
def nears_known(deviance: float, decrease: float, known: np.ndarray) -> bool:
    """Whether what is predicted of the end of the search is a minimum that is known."""
    if decrease < _SEEN:
        for level in known:
            if abs(deviance - decrease - level) < 0.1 * decrease:
                return True
    return False


@kernel
def _look_around(terms: Terms, state: State) -> int:
    """Model, Newton step and the tests of convergence here; goes on to propose a step."""
    counts, numbers = state.counts, state.numbers
    fill_model(terms, state.spot, state.N, state.information, state.g, state.H)
    correct_model(terms, state)
    decrease = find_step(terms, state.spot.d, state.g, state.H, RIDGE, state.e, state.zeros)
    numbers[DECREMENT] = decrease
    # steps that had to be cut short say nothing about the model
    late = counts[ITERATIONS] >= counts[BEGIN] + 2
    counts[SLOW] = 1 if counts[WHOLE] == 1 and late and decrease > 0.02 * numbers[LAST] else 0
    counts[STALLED] = counts[STALLED] + 1 if decrease > 0.5 * numbers[LAST] else 0
    numbers[LAST] = decrease
    if nears_known(numbers[DEVIANCE], decrease, state.known):
        return _end(state, KNOWN)
    numbers[SLOPE] = np.inf
    if decrease <= numbers[TOL]:
        numbers[SLOPE] = find_slope(terms, state.spot.d, state.g)
    if _is_converged(decrease, numbers[SLOPE], numbers[TOL]):
        return _end(state, CONVERGED)
    if counts[STALLED] >= 2 and decrease <= 10.0 * rounding(state):
        return _end_of_precision(terms, state)
    if counts[PATIENCE] >= 0 and counts[STALLED] >= counts[PATIENCE]:
        numbers[SLOPE] = find_slope(terms, state.spot.d, state.g)
        damped = find_step(terms, state.spot.d, state.g, state.H, _FLAT, state.step, state.step_zeros)
        if _is_converged(damped, numbers[SLOPE], numbers[TOL]):
            numbers[DECREMENT] = damped
            return _end(state, NOTHING_BUT_FLAT)
        return _end(state, CRAWLING)
    counts[REJECTIONS] = 0
    return _propose(terms, state)


@kernel
def _propose(terms: Terms, state: State) -> int:
    """The next trial, or the end where there is none."""
    counts, numbers, step = state.counts, state.numbers, state.step
    m = step.size
    if counts[COUNT] >= counts[MOST]:
        return _give_up(terms, state)
    if numbers[DAMPING] == 0.0:
        step[:] = state.e
        state.step_zeros[:] = state.zeros
    else:
        find_step(terms, state.spot.d, state.g, state.H, numbers[DAMPING], step, state.step_zeros)
    fraction = find_limit(terms, step)
    counts[WHOLE_STEP] = 1 if fraction == 1.0 and numbers[DAMPING] == 0.0 else 0
    predicted = 0.0
    for i in range(m):
        step[i] *= fraction
    for i in range(m):
        predicted -= state.g[i] * step[i]
        for j in range(m):
            predicted -= 0.5 * step[i] * state.H[i, j] * step[j]
    numbers[PREDICTED] = max(0.0, predicted)
    move_spot(terms, state.spot, step, state.step_zeros, fraction == 1.0, state.trial)
    for i in range(m):
        if state.trial.theta[i] != state.spot.theta[i]:
            return VALUE
    return _give_up(terms, state)  # the step is below rounding: no factorization would be counted


@kernel
def _give_up(terms: Terms, state: State) -> int:
    """No step decreases the deviance."""
    if state.numbers[DECREMENT] <= 10.0 * rounding(state):
        return _end_of_precision(terms, state)
    state.numbers[SLOPE] = find_slope(terms, state.spot.d, state.g)
    return _end(state, NO_DECREASE)


@kernel
def _reject(terms: Terms, state: State) -> int:
    counts, numbers = state.counts, state.numbers
    counts[REJECTIONS] += 1
    numbers[DAMPING] = 4.0 * numbers[DAMPING] if numbers[DAMPING] > 0.0 else 0.25
    largest = 0.0
    for x in state.step:
        largest = max(largest, abs(x))
    if counts[REJECTIONS] >= MOST_REJECTIONS or largest < 1e-12:
        return _give_up(terms, state)
    return _propose(terms, state)


@kernel
def _accept(state: State) -> None:
    """The trial becomes the place."""
    counts, numbers = state.counts, state.numbers
    enough = numbers[PREDICTED] > 10.0 * numbers[ALLOWED]
    ratio = numbers[ACTUAL] / numbers[PREDICTED] if enough else 1.0
    damping = numbers[DAMPING]
    if ratio > 0.7:
        damping *= 0.2
        damping = damping if damping > 1e-5 else 0.0
    elif ratio < 0.25:
        damping = max(2.0 * damping, 0.1)
    numbers[DAMPING] = damping
    counts[WHOLE] = counts[WHOLE_STEP]
    take_trial(state)
    counts[ITERATIONS] += 1


@kernel
def take_trial(state: State) -> None:
    """The trial and its evaluation of order 2 become the place; a deviance is added to the history."""
    counts, numbers = state.counts, state.numbers
    copy_spot(state.trial, state.spot)
    numbers[DEVIANCE] = numbers[TRIAL_DEVIANCE]
    numbers[NOISE] = numbers[TRIAL_NOISE]
    numbers[SIGMA2] = numbers[TRIAL_SIGMA2]
    state.history[counts[IN_HISTORY]] = numbers[DEVIANCE]
    counts[IN_HISTORY] += 1
    state.N[:] = state.trial_N
    state.information[:] = state.trial_information


@kernel
def advance(terms: Terms, state: State, answered: bool) -> int:
    """Take the evaluation that was wanted at the trial, or its failure, and say what is wanted next.

    A search that ended begins anew at its place.  `counts[COUNT]` are the factorizations so far.
    """
    counts, numbers = state.counts, state.numbers
    wanted = counts[WANTED]
    if wanted == START:
        if not answered:
            counts[WANTED] = _end(state, NO_START)
            return ENDED
        take_trial(state)
        wanted = ENDED
    if wanted == ENDED:
        counts[BEGIN] = counts[ITERATIONS]
        counts[STALLED] = counts[SLOW] = counts[HAS_BEFORE] = counts[HAS_CORRECTION] = 0
        counts[WHOLE] = 1
        numbers[DAMPING] = 0.0
        numbers[LAST] = np.inf
        wanted = _look_around(terms, state)
    elif not answered:
        wanted = _reject(terms, state)
    elif wanted == VALUE:
        numbers[ALLOWED] = max(rounding(state), numbers[TRIAL_NOISE])
        numbers[ACTUAL] = numbers[DEVIANCE] - numbers[TRIAL_DEVIANCE]
        good = numbers[ACTUAL] >= 1e-4 * numbers[PREDICTED] - numbers[ALLOWED]
        wanted = DERIVATIVES if good else _reject(terms, state)
    else:
        _accept(state)
        wanted = _look_around(terms, state)
    counts[WANTED] = wanted
    return wanted
