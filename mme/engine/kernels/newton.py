"""The search as a machine that asks for evaluations: `mme.engine.search.optimizer` says what it does and why.

`advance` goes on until it wants to know something: the deviance at the trial (`VALUE`), its derivatives too
(`DERIVATIVES`), the minimum of its model over the cone (`CONE`, see `cone.minimise_over_cone`), a secant
correction of the model (`SECANT`, see `correct`); or it has `ENDED`.  Who runs it answers and calls again.
Its arrays are those of `coordinates`, and `counts` and `numbers` by the names below.
"""

import numpy as np

from . import kernel, part
from .cone import jacobi
from .coordinates import (
    BEFORE_D,
    BEFORE_U,
    CORRECTION,
    CURVATURE,
    DIAGONAL,
    FOUND,
    FOUND_ZEROS,
    INFORMATION,
    KS,
    LEFT,
    METRIC,
    NEWTON,
    OLD_G,
    RIDGE,
    STARTS,
    STEP,
    STEP_ZEROS,
    THETA,
    TRIAL,
    TRIAL_D,
    TRIAL_INFORMATION,
    TRIAL_N,
    TRIAL_U,
    ZEROS,
    D,
    G,
    H,
    N,
    U,
    decrease_of,
    fill_congruence,
    fill_model,
    fill_moved,
    find_place,
    limit,
    newton,
    sandwich,
)

# what the machine wants
ENDED, VALUE, DERIVATIVES, CONE, SECANT = range(5)
# why it ended
CONVERGED, ROUNDING, NOTHING_BUT_FLAT, NO_DECREASE, CRAWLING, KNOWN = range(6)
# where it stands; it begins at `LOOK`
(ANSWER, REJECT, LOOK, CORRECTED, ASK, FOUND_STEP, NEWTON_FOUND, CONVERGENCE, PRECISION, END_OF_PRECISION,
 PATIENT, FLAT, PROPOSE, TRY, GIVE_UP, STUCK) = range(16)  # fmt: skip
# `counts`: what is wanted, whether it was answered, why the search ended; accepted steps, those before the
# run; steps in a row that hardly lowered the decrement, rejections in a row; whether the last step was whole,
# whether this one is, whether the decrement falls slowly; whether there are a place before and a correction
# there; evaluations so far and most of them; steps after which a crawling search ends, or -1; entries of the
# history; where the machine stands and goes with the step found; whether that is in the cone, and of the
# metric's model
(WANTED, ANSWERED, REASON, ITERATIONS, FIRST, STALLED, REJECTIONS, WHOLE, WHOLE_STEP, SLOW, HAS_BEFORE,
 HAS_CORRECTION, COUNT, MOST, PATIENCE, IN_HISTORY, PHASE, AFTER, INSIDE, OF_METRIC) = range(20)  # fmt: skip
N_COUNTS = 20
# `numbers`
(DEVIANCE, SIGMA2, NOISE, TRIAL_DEVIANCE, TRIAL_SIGMA2, TRIAL_NOISE, TOL, DECREMENT, SLOPE, LAST, DAMPING,
 ACTUAL, PREDICTED, ALLOWED, ASKED_DAMPING) = range(15)  # fmt: skip
N_NUMBERS = 15

MOST_REJECTIONS = 12
_FLAT = 1e-6  # curvature, in the metric of balanced data, below which a gradient is rounding error
_SEEN = 0.05  # predicted decrease from which a search is told to lead to a minimum that is known


@part
def _rounding(numbers: np.ndarray) -> float:
    """Rounding error of the deviance here."""
    return 4e-15 * abs(numbers[DEVIANCE]) + 1e-12 + numbers[NOISE]


@part
def _is_converged(decrement: float, slope: float, tol: float) -> bool:
    # the metric of balanced data overstates the information of unbalanced or partly confounded terms, so its
    # decrement is the smaller one: a factor in hand
    return decrement <= tol and slope <= 100.0 * np.sqrt(tol)


@part
def _copy_matrices(tmats: np.ndarray, source: int, target: int) -> None:
    for t in range(tmats.shape[1]):
        for a in range(tmats.shape[2]):
            for b in range(tmats.shape[3]):
                tmats[target, t, a, b] = tmats[source, t, a, b]


@part
def _copy_rows(array: np.ndarray, source: int, target: int) -> None:
    """array[target] = array[source] of a three-dimensional array."""
    for t in range(array.shape[1]):
        for a in range(array.shape[2]):
            array[target, t, a] = array[source, t, a]


@part
def _take_trial(
    counts: np.ndarray, numbers: np.ndarray, tmats: np.ndarray, tvecs: np.ndarray, vectors: np.ndarray,
    matrices: np.ndarray, history: np.ndarray,
) -> None:  # fmt: skip
    """The trial and its evaluation become the place; the deviance goes to the history."""
    for i in range(vectors.shape[1]):
        vectors[THETA, i] = vectors[TRIAL, i]
    _copy_matrices(tmats, TRIAL_U, U)
    _copy_matrices(tmats, TRIAL_N, N)
    _copy_rows(tvecs, TRIAL_D, D)
    _copy_rows(matrices, TRIAL_INFORMATION, INFORMATION)
    for i in range(3):
        numbers[DEVIANCE + i] = numbers[TRIAL_DEVIANCE + i]
    history[counts[IN_HISTORY]] = numbers[DEVIANCE]
    counts[IN_HISTORY] += 1


@part
def _next_damping(damping: float, ratio: float) -> float:
    if ratio > 0.7:
        damping *= 0.2
        return damping if damping > 1e-5 else 0.0
    if ratio < 0.25:
        return max(2.0 * damping, 0.1)
    return damping


@part
def nears_known(deviance: float, decrease: float, known: np.ndarray) -> bool:
    """Whether what is predicted of the end of the search is a minimum that is known."""
    if decrease < _SEEN:
        for i in range(known.size):
            if abs(deviance - decrease - known[i]) < 0.1 * decrease:
                return True
    return False


@kernel
def advance(
    counts: np.ndarray, numbers: np.ndarray, tints: np.ndarray, cints: np.ndarray, tmats: np.ndarray,
    tvecs: np.ndarray, vectors: np.ndarray, matrices: np.ndarray, X0: np.ndarray, size: np.ndarray,
    history: np.ndarray, known: np.ndarray,
) -> int:  # fmt: skip
    """Take what was wanted, or the failure to evaluate it, and say what is wanted next.

    Parameters
    ----------
    counts, numbers : ndarrays
        `counts[ANSWERED]` says whether the evaluation succeeded, `counts[COUNT]` how many there were.
    tints, cints, tmats, tvecs, vectors, matrices : ndarrays
        See `coordinates`.
    X0, size : ndarrays, shapes (n_cones, K, K), (n_cones,)
        The cones' point; one over the root of their terms' levels.
    history : ndarray
        Deviances of the start and after every step; who runs the machine empties it before it is full.
    known : ndarray
        Deviances of minima at which the search need not end again.
    """
    m = vectors.shape[1]
    step = vectors[STEP]
    phase = counts[PHASE]
    reason = -1
    wanted = ENDED
    while reason < 0:
        if phase == TRY:
            fraction = limit(cints, tmats, step)
            counts[WHOLE_STEP] = 1 if fraction == 1.0 and numbers[DAMPING] == 0.0 else 0
            for i in range(m):
                step[i] *= fraction
            predicted = 0.0
            for i in range(m):
                predicted -= vectors[G, i] * step[i]
                for j in range(m):
                    predicted -= 0.5 * step[i] * matrices[H, i, j] * step[j]
            numbers[PREDICTED] = max(0.0, predicted)
            fill_moved(tints, tmats, tvecs, step, cints[STEP_ZEROS], fraction == 1.0)
            find_place(tints, tmats, tvecs, vectors[TRIAL])
            moved = False
            for i in range(m):
                moved = moved or vectors[TRIAL, i] != vectors[THETA, i]
            if moved:
                phase = ANSWER
                wanted = VALUE
                break
            phase = GIVE_UP  # the step is below rounding: no factorization would be counted
        elif phase == ANSWER:
            if counts[ANSWERED] == 0:
                phase = REJECT
            elif counts[WANTED] == VALUE:
                numbers[ALLOWED] = max(_rounding(numbers), numbers[TRIAL_NOISE])
                numbers[ACTUAL] = numbers[DEVIANCE] - numbers[TRIAL_DEVIANCE]
                if numbers[ACTUAL] >= 1e-4 * numbers[PREDICTED] - numbers[ALLOWED]:
                    wanted = DERIVATIVES
                    break
                phase = REJECT
            else:
                enough = numbers[PREDICTED] > 10.0 * numbers[ALLOWED]
                ratio = numbers[ACTUAL] / numbers[PREDICTED] if enough else 1.0
                numbers[DAMPING] = _next_damping(numbers[DAMPING], ratio)
                counts[WHOLE] = counts[WHOLE_STEP]
                counts[ITERATIONS] += 1
                _take_trial(counts, numbers, tmats, tvecs, vectors, matrices, history)
                phase = LOOK
        elif phase == REJECT:
            counts[REJECTIONS] += 1
            numbers[DAMPING] = 4.0 * numbers[DAMPING] if numbers[DAMPING] > 0.0 else 0.25
            largest = 0.0
            for i in range(m):
                largest = max(largest, abs(step[i]))
            phase = GIVE_UP if counts[REJECTIONS] >= MOST_REJECTIONS or largest < 1e-12 else PROPOSE
        elif phase == LOOK:
            fill_model(tints, tmats, tvecs, vectors, matrices)
            _copy_rows(matrices, CURVATURE, H)
            phase = CORRECTED
            if counts[SLOW] == 1 and counts[HAS_BEFORE] == 1:
                wanted = SECANT
                break
            counts[HAS_CORRECTION] = 0
        elif phase == CORRECTED:
            counts[HAS_BEFORE] = 1
            _copy_matrices(tmats, U, BEFORE_U)
            _copy_rows(tvecs, D, BEFORE_D)
            for i in range(m):
                vectors[OLD_G, i] = vectors[G, i]
            counts[OF_METRIC] = 0
            numbers[ASKED_DAMPING] = RIDGE
            counts[AFTER] = NEWTON_FOUND
            phase = ASK
        elif phase == ASK:
            for i in range(m):
                for j in range(m):
                    matrices[LEFT, i, j] = 0.0 if counts[OF_METRIC] == 1 else matrices[H, i, j]
                if counts[OF_METRIC] == 1:
                    matrices[LEFT, i, i] = vectors[METRIC, i]
            damping = 0.0 if counts[OF_METRIC] == 1 else numbers[ASKED_DAMPING]
            counts[INSIDE] = 1 if newton(tints, tvecs, vectors, matrices, cints, X0, size, damping) else 0
            phase = FOUND_STEP
            if counts[INSIDE] == 0:
                wanted = CONE
                break
        elif phase == FOUND_STEP:
            decrease = decrease_of(vectors, matrices, counts[INSIDE] == 1)
            phase = counts[AFTER]
            if counts[OF_METRIC] == 1:
                # the slope: with the metric of balanced data as the Hessian
                numbers[SLOPE] = np.sqrt(2.0 * decrease)
            elif phase == NEWTON_FOUND:
                numbers[DECREMENT] = decrease
            elif phase == FLAT:
                numbers[ALLOWED] = decrease
            if counts[OF_METRIC] == 0 and phase != FLAT:
                damped = phase != NEWTON_FOUND
                for i in range(m):
                    vectors[STEP if damped else NEWTON, i] = vectors[FOUND, i]
                for c in range(size.size):
                    cints[STEP_ZEROS if damped else ZEROS, c] = cints[FOUND_ZEROS, c]
        elif phase == NEWTON_FOUND:
            decrease = numbers[DECREMENT]
            # steps that had to be cut short say nothing about the model
            late = counts[ITERATIONS] >= counts[FIRST] + 2
            counts[SLOW] = 1 if counts[WHOLE] == 1 and late and decrease > 0.02 * numbers[LAST] else 0
            counts[STALLED] = counts[STALLED] + 1 if decrease > 0.5 * numbers[LAST] else 0
            numbers[LAST] = decrease
            numbers[SLOPE] = np.inf
            phase = PRECISION
            if nears_known(numbers[DEVIANCE], decrease, known):
                reason = KNOWN
            elif decrease <= numbers[TOL]:
                counts[OF_METRIC] = 1
                counts[AFTER] = CONVERGENCE
                phase = ASK
        elif phase == CONVERGENCE:
            phase = PRECISION
            if _is_converged(numbers[DECREMENT], numbers[SLOPE], numbers[TOL]):
                reason = CONVERGED
        elif phase == PRECISION:
            counts[OF_METRIC] = 1
            counts[REJECTIONS] = 0
            phase = ASK
            if counts[STALLED] >= 2 and numbers[DECREMENT] <= 10.0 * _rounding(numbers):
                counts[AFTER] = END_OF_PRECISION
            elif counts[PATIENCE] >= 0 and counts[STALLED] >= counts[PATIENCE]:
                counts[AFTER] = PATIENT
            else:
                phase = PROPOSE
        elif phase == END_OF_PRECISION:
            # whether the conditions hold as well as the deviance's rounding lets it be seen
            level = max(numbers[TOL], 10.0 * _rounding(numbers))
            reason = ROUNDING if _is_converged(numbers[DECREMENT], numbers[SLOPE], level) else NO_DECREASE
        elif phase == PATIENT:
            counts[OF_METRIC] = 0
            numbers[ASKED_DAMPING] = _FLAT
            counts[AFTER] = FLAT
            phase = ASK
        elif phase == FLAT:
            reason = CRAWLING
            if _is_converged(numbers[ALLOWED], numbers[SLOPE], numbers[TOL]):
                numbers[DECREMENT] = numbers[ALLOWED]
                reason = NOTHING_BUT_FLAT
        elif phase == PROPOSE:
            phase = TRY
            if counts[COUNT] >= counts[MOST]:
                phase = GIVE_UP
            elif numbers[DAMPING] == 0.0:
                for i in range(m):
                    step[i] = vectors[NEWTON, i]
                for c in range(size.size):
                    cints[STEP_ZEROS, c] = cints[ZEROS, c]
            else:
                counts[OF_METRIC] = 0
                numbers[ASKED_DAMPING] = numbers[DAMPING]
                counts[AFTER] = TRY
                phase = ASK
        elif phase == GIVE_UP:
            # no step decreases the deviance
            counts[OF_METRIC] = 1
            small = numbers[DECREMENT] <= 10.0 * _rounding(numbers)
            counts[AFTER] = END_OF_PRECISION if small else STUCK
            phase = ASK
        else:
            reason = NO_DECREASE
    if reason >= 0:
        counts[REASON] = reason
        wanted = ENDED
    counts[PHASE] = phase
    counts[WANTED] = wanted
    return wanted


@part
def _way_back(
    tints: np.ndarray, tmats: np.ndarray, tvecs: np.ndarray, back: np.ndarray, s: np.ndarray
) -> None:
    """s: the step from the place before in the coordinates of here; back: the matrix from these to those."""
    K = tmats.shape[2]
    there, here = np.empty((K, K)), np.empty((K, K))
    for t in range(tints.shape[1]):
        k = tints[KS, t]
        for a in range(k):
            for b in range(k):
                x = 0.0
                for c in range(k):
                    x += tmats[BEFORE_U, t, c, a] * tmats[U, t, c, b]
                old, new = np.sqrt(1.0 + tvecs[BEFORE_D, t, a]), np.sqrt(1.0 + tvecs[D, t, b])
                there[a, b] = old * x / new
                here[b, a] = new * x / old
        fill_congruence(there, tints[STARTS, t], k, tints[DIAGONAL, t], back)
        # I - E = G_new'(I + R D_old R')^-1 G_new for the way back
        i = tints[STARTS, t]
        for b in range(k):
            for a in range(b, b + 1 if tints[DIAGONAL, t] else k):
                x = -1.0 if a == b else 0.0
                for c in range(k):
                    x += here[a, c] * here[b, c]
                s[i] = x
                i += 1


@part
def _sum_outer(V: np.ndarray, w: np.ndarray, out: np.ndarray) -> None:
    """out = V diag(w) V'."""
    m = w.size
    for a in range(m):
        for b in range(m):
            x = 0.0
            for c in range(m):
                x += V[a, c] * w[c] * V[b, c]
            out[a, b] = x


@part
def _add_correction(hessian: np.ndarray, E: np.ndarray) -> None:
    """hessian + E kept between a tenth and ten times it, in place; as it is where it is not positive."""
    m = hessian.shape[0]
    V, M, T = np.empty((m, m)), hessian.copy(), np.empty((m, m))
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
    _sum_outer(V, w, root)
    _sum_outer(V, r, inverse)
    sandwich(inverse, E, m, T, M)
    jacobi(M, m, V)
    for i in range(m):
        w[i] = 1.0 + min(max(M[i, i], -0.9), 9.0)
    for a in range(m):
        for b in range(m):
            x = 0.0
            for c in range(m):
                x += root[a, c] * V[c, b]
            T[a, b] = x
    _sum_outer(T, w, hessian)


@kernel
def correct(
    counts: np.ndarray, tints: np.ndarray, tmats: np.ndarray, tvecs: np.ndarray, vectors: np.ndarray,
    matrices: np.ndarray,
) -> None:  # fmt: skip
    """Correct `H` towards the Hessian from the gradients here and at the place before.

    The corrected matrix is kept between a tenth and ten times the average information.
    """
    m = vectors.shape[1]
    g, hessian, E = vectors[G], matrices[H], matrices[CORRECTION]
    # gradient and correction of the earlier place in the coordinates of this one: there it is E = -s
    back, s, y, r = np.zeros((m, m)), np.empty(m), np.empty(m), np.empty(m)
    _way_back(tints, tmats, tvecs, back, s)
    wanted = present = 0.0
    for i in range(m):
        y[i] = g[i]
        for j in range(m):
            y[i] -= back[j, i] * vectors[OLD_G, j]
        x = y[i]
        for j in range(m):
            x -= hessian[i, j] * s[j]
        wanted += s[i] * x
    old = E.copy()
    sandwich(back, old, m, matrices[LEFT], E)
    for i in range(m):
        for j in range(m):
            if counts[HAS_CORRECTION] == 0:
                E[i, j] = 0.0
            present += s[i] * E[i, j] * s[j]
    if present != 0.0:
        present = min(1.0, abs(wanted / present))
        for i in range(m):
            for j in range(m):
                E[i, j] *= present
    rs = rr = ss = 0.0
    for i in range(m):
        r[i] = y[i]
        for j in range(m):
            r[i] -= (hessian[i, j] + E[i, j]) * s[j]
        # in units of the information: reliabilities near one and near zero differ by many orders
        unit = np.sqrt(max(hessian[i, i], 0.0) + RIDGE * vectors[METRIC, i])
        rs += r[i] * s[i]
        rr += (r[i] / unit) ** 2
        ss += (s[i] * unit) ** 2
    if abs(rs) > 1e-8 * np.sqrt(rr) * np.sqrt(ss):
        for i in range(m):
            for j in range(m):
                E[i, j] += r[i] * r[j] / rs
    counts[HAS_CORRECTION] = 1
    _add_correction(hessian, E)
