"""Fits of many responses on one design, one after another, without Python between them.

Every response is searched as `mme.engine.search.optimizer` and `mme.fit.modes` say, by the machine of
`newton` and the likelihood of `batch_likelihood`.  What these would hand to something larger (a quasi-Newton
search, factored rows, a look for an exact fit or for flat directions) is not fitted here: its status says so.
"""

import numpy as np

from . import kernel, part
from .batch_degrees import degrees_of_freedom
from .batch_likelihood import (
    BLOCK,
    DERIVATIVE,
    GIVEN,
    GIVEN_2,
    evaluate_derivatives,
    evaluate_value,
    fill_products,
)
from .cone import jacobi, minimise_over_cone
from .coordinates import (
    CONE_H,
    CONE_KS,
    CONE_STARTS,
    CURVATURE,
    DIAGONAL,
    FACTORS,
    FOUND,
    FOUND_ZEROS,
    INFORMATION,
    KS,
    ROOM,
    SCALED,
    STARTS,
    THETA,
    TRIAL,
    TRIAL_D,
    TRIAL_INFORMATION,
    TRIAL_N,
    TRIAL_U,
    UNIT,
    D,
    N,
    U,
    fill_factor,
    fill_model,
    find_place,
)
from .newton import (
    ANSWERED,
    CONE,
    CONVERGED,
    CORRECTED,
    COUNT,
    DERIVATIVES,
    IN_HISTORY,
    ITERATIONS,
    KNOWN,
    LAST,
    LOOK,
    MOST,
    NOTHING_BUT_FLAT,
    PATIENCE,
    PHASE,
    REASON,
    ROUNDING,
    SECANT,
    SLOPE,
    TOL,
    TRIAL_DEVIANCE,
    VALUE,
    WHOLE,
    advance,
    correct,
)
from .newton import DAMPING as MACHINE_DAMPING
from .newton import DEVIANCE as MACHINE_DEVIANCE
from .profile import fill_design_table, fill_profile
from .small import DEVIANCE, DONE, N_NUMBERS, NOISE, NU, PERFECT, REML, SIGMA2, YY

# what became of a response: fitted; to be fitted by the ordinary path
FITTED, LEFT = range(2)
# what `_search` is to do, and what became of it beside the names of `newton`
SEARCH, GO_THERE, TAKE_VALUE = range(3)
TAKEN, FAILED, EXACT = -1, -2, -3
# `results`: deviance, sigma2, steps, evaluations of the search that led there, starts, minima, decrement
RESULT_DEVIANCE, RESULT_SIGMA2, RESULT_STEPS, RESULT_EVALUATIONS, RESULT_STARTS, RESULT_MODES = range(6)
N_RESULTS = 6
# `limits`: tolerance, most evaluations, steps that hardly lower the decrement before another search is tried
LIMIT_TOL, LIMIT_EVALUATIONS, LIMIT_PATIENCE = range(3)
# `choices`: whether further starts are looked for, whether some factor has few levels, whether rows are few
# beside the effects; whether degrees of freedom are wanted
FURTHER, FEW_LEVELS, FEW_ROWS, WANT_DF = range(4)
# `uniform`: theta at which every direction has one and the same reliability: 0, 0.9, 1 - 1e-5, 0.99, 1 - 1e-8
ZERO, MIDDLE, HIGHEST, HIGH, SPAN = range(5)

# as in `mme.fit.modes`, `direct` and `perfect`
EASY, STRAIGHT = 6, 2
EXTREME, SAME, HOPE = 0.999, 1e-5, 4.0
MOST_SUBSETS = 3
NEARLY, NEARLY_ONE, MUCH, ROUGH, FLAT = 1e-4, 1.0 - 1e-5, 1e-3, 1e-7, 1e-6
SINGULAR = 1e-8  # as in `mme.engine.covariance.boundary`
_CONE_ITERATIONS = 80
_MOST_STARTS = 24


@part
def _place(
    theta: np.ndarray, roots: np.ndarray, tints: np.ndarray, tmats: np.ndarray, tvecs: np.ndarray,
    vectors: np.ndarray,
) -> None:  # fmt: skip
    """The trial is the place of a theta."""
    lam = tmats[ROOM, 0]
    for t in range(tints.shape[1]):
        k = tints[KS, t]
        fill_factor(theta, tints[STARTS, t], k, tints[DIAGONAL, t], lam)
        for a in range(k):
            for b in range(k):
                s = 0.0
                for c in range(k):
                    s += roots[t, a, c] * lam[c, b]
                tmats[FACTORS, t, a, b] = s
    find_place(tints, tmats, tvecs, vectors[TRIAL])


@part
def _take(
    numbers: np.ndarray, tmats: np.ndarray, tvecs: np.ndarray, vectors: np.ndarray, matrices: np.ndarray
) -> None:
    """The trial and its evaluation become the place."""
    for i in range(vectors.shape[1]):
        vectors[THETA, i] = vectors[TRIAL, i]
        for j in range(vectors.shape[1]):
            matrices[INFORMATION, i, j] = matrices[TRIAL_INFORMATION, i, j]
    for t in range(tmats.shape[1]):
        for a in range(tmats.shape[2]):
            tvecs[D, t, a] = tvecs[TRIAL_D, t, a]
            for b in range(tmats.shape[2]):
                tmats[U, t, a, b] = tmats[TRIAL_U, t, a, b]
                tmats[N, t, a, b] = tmats[TRIAL_N, t, a, b]
    for i in range(3):
        numbers[MACHINE_DEVIANCE + i] = numbers[TRIAL_DEVIANCE + i]


@part
def _lifts(tints: np.ndarray, tvecs: np.ndarray, of: np.ndarray, first: int) -> int:
    """1 where the ordinary path would factor once more: a term of the rest is singular at the trial."""
    for t in range(tints.shape[1]):
        if of[tints[STARTS, t]] >= first:
            for a in range(tints[KS, t]):
                if tvecs[TRIAL_D, t, a] < SINGULAR:
                    return 1
    return 0


@part
def _search(
    start: np.ndarray, task: int, n_known: int, limits: np.ndarray, roots: np.ndarray, places: np.ndarray,
    counts: np.ndarray, numbers: np.ndarray, tints: np.ndarray, cints: np.ndarray, tmats: np.ndarray,
    tvecs: np.ndarray, vectors: np.ndarray, matrices: np.ndarray, X0: np.ndarray, size: np.ndarray,
    history: np.ndarray, known: np.ndarray, blocks: np.ndarray, entries: np.ndarray, given: np.ndarray,
    A1: np.ndarray, ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, grams: np.ndarray, lams: np.ndarray,
    lead: np.ndarray, levels: np.ndarray, crossed: np.ndarray, cells: np.ndarray, squares: np.ndarray,
    rests: np.ndarray, border: np.ndarray, found: np.ndarray, Ri: np.ndarray, b: np.ndarray, ze: np.ndarray,
    rest_ze: np.ndarray, products: np.ndarray, room: np.ndarray,
) -> int:  # fmt: skip
    """Search from a theta; why it ended (names of `newton`), or that nothing could be computed there.

    `task`: search; go there alone, with derivatives (`TAKEN` if that could be done); or take the value alone.
    """
    counts[:] = 0
    numbers[:] = np.inf
    numbers[TOL] = limits[LIMIT_TOL]
    numbers[MACHINE_DAMPING], numbers[LAST], numbers[SLOPE] = 0.0, np.inf, np.inf
    counts[MOST], counts[PATIENCE] = int(limits[LIMIT_EVALUATIONS]), int(limits[LIMIT_PATIENCE])
    counts[WHOLE], counts[PHASE] = 1, LOOK
    first = 1 if A1.shape[0] else 0
    _place(start, roots, tints, tmats, tvecs, vectors)
    begun = False
    wanted = VALUE
    # one call of everything: it is compiled as often as it is called
    while True:
        if wanted == VALUE:
            status = evaluate_value(
                vectors[TRIAL], blocks, entries, given, A1, ptr, idx, val, grams, lams, lead, levels, crossed,
                squares, rests, border, found, Ri, b, room,
            )  # fmt: skip
            numbers[TRIAL_DEVIANCE] = found[DEVIANCE]
            numbers[TRIAL_DEVIANCE + 1] = found[SIGMA2]
            numbers[TRIAL_DEVIANCE + 2] = found[NOISE]
            if status == PERFECT:
                return EXACT
            counts[COUNT] += 1
            counts[ANSWERED] = 1 if status == DONE else 0
            if not begun:
                if status != DONE:
                    return FAILED
                if task == TAKE_VALUE:
                    return TAKEN
                wanted = DERIVATIVES
                continue
        elif wanted == DERIVATIVES:
            fill_products(blocks, ptr, idx, val, lams, levels, crossed, cells, squares, rests, b, ze, rest_ze)
            evaluate_derivatives(
                blocks, entries, given, A1, ptr, idx, lams, levels, crossed, cells, squares, rests, found, Ri,
                ze, rest_ze, products, matrices[TRIAL_INFORMATION],
            )  # fmt: skip
            for t in range(tints.shape[1]):
                block, at = places[0, t], places[1, t]
                for a in range(tints[KS, t]):
                    for c in range(tints[KS, t]):
                        tmats[TRIAL_N, t, a, c] = lams[DERIVATIVE, block, at + a, at + c]
            counts[COUNT] += _lifts(tints, tvecs, entries[BLOCK], first)
            counts[ANSWERED] = 1
            if not begun:
                _take(numbers, tmats, tvecs, vectors, matrices)
                begun = True
                if task == GO_THERE:
                    return TAKEN
        elif wanted == CONE:
            e, zeros = minimise_over_cone(
                X0, vectors[SCALED], matrices[CONE_H], cints[CONE_STARTS], cints[CONE_KS], _CONE_ITERATIONS
            )
            vectors[FOUND] = e
            cints[FOUND_ZEROS] = zeros
        elif wanted == SECANT:
            correct(counts, tints, tmats, tvecs, vectors, matrices)
            counts[PHASE] = CORRECTED
        else:
            return counts[REASON]
        wanted = advance(
            counts, numbers, tints, cints, tmats, tvecs, vectors, matrices, X0, size, history, known[:n_known]
        )
        counts[IN_HISTORY] = 0


@part
def _is_converged(reason: int) -> bool:
    return reason == CONVERGED or reason == ROUNDING or reason == NOTHING_BUT_FLAT


@part
def _largest(tints: np.ndarray, tvecs: np.ndarray) -> float:
    """Largest reliability of any direction, here."""
    largest = 0.0
    for t in range(tints.shape[1]):
        for a in range(tints[KS, t]):
            largest = max(largest, tvecs[D, t, a] / (1.0 + tvecs[D, t, a]))
    return largest


@part
def _dips(table: np.ndarray, ratios: np.ndarray, theta: float, starts: np.ndarray) -> int:
    """Starts in the dips of the tabulated profile that the first optimum is not in; their number."""
    size = table.size
    right = 0
    while right < size and ratios[right] < theta * theta:
        right += 1
    level = np.inf
    for i in range(max(0, right - 1), min(size, right + 1)):
        level = min(level, table[i])
    n = 0
    for i in range(size):
        before = table[i - 1] if i > 0 else np.inf
        after = table[i + 1] if i + 1 < size else np.inf
        dip = table[i] <= before and table[i] <= after and np.isfinite(table[i])
        if dip and i != right - 1 and i != right and table[i] < level + HOPE and n < _MOST_STARTS:
            starts[n, 0] = np.sqrt(ratios[i])
            n += 1
    return n


@part
def _further(
    evaluations: int, few: int, tints: np.ndarray, tvecs: np.ndarray, theta: np.ndarray, uniform: np.ndarray,
    starts: np.ndarray,
) -> int:  # fmt: skip
    """More starts where the first optimum gives reason to; their number."""
    nt, m = tints.shape[1], theta.size
    singular = np.zeros(nt, np.int64)
    some = False
    for t in range(nt):
        for a in range(tints[KS, t]):
            if tvecs[D, t, a] < SINGULAR:
                singular[t] = 1
                some = True
    hard = _largest(tints, tvecs) > EXTREME or evaluations > EASY
    hard = hard or (few != 0 and (some or evaluations > STRAIGHT))
    if not hard and not some:
        return 0
    n = 2
    for i in range(m):
        starts[0, i] = 0.0
        starts[1, i] = uniform[MIDDLE, i]
    if nt > 1:
        for t in range(nt):
            stop = tints[STARTS, t + 1] if t + 1 < nt else m
            for i in range(m):
                starts[n, i] = theta[i]
            for i in range(tints[STARTS, t], stop):
                starts[n, i] = uniform[MIDDLE, i] if singular[t] else 0.0
            n += 1
    if hard:
        for i in range(m):
            starts[n, i] = uniform[HIGHEST, i]
            starts[n + 1, i] = uniform[HIGH, i]
        n += 2
        if 1 < nt <= MOST_SUBSETS:
            for subset in range(1, 2**nt - 1):
                for t in range(nt):
                    stop = tints[STARTS, t + 1] if t + 1 < nt else m
                    for i in range(tints[STARTS, t], stop):
                        starts[n, i] = uniform[HIGH, i] if subset >> t & 1 else 0.0
                n += 1
    kept = 0
    for s in range(n):
        same = True
        for i in range(m):
            same = same and starts[s, i] == theta[i]
        if not same:
            for i in range(m):
                starts[kept, i] = starts[s, i]
            kept += 1
    return kept


@part
def _is_flat(vectors: np.ndarray, matrices: np.ndarray) -> bool:
    """Whether the average information has a direction without curvature."""
    m = vectors.shape[1]
    A, V = np.empty((m, m)), np.empty((m, m))
    for i in range(m):
        for j in range(m):
            A[i, j] = matrices[CURVATURE, i, j] * vectors[UNIT, i] * vectors[UNIT, j]
    jacobi(A, m, V)
    for i in range(m):
        if A[i, i] < FLAT:
            return True
    return False


@part
def _set_response(
    i: int, Z1y: np.ndarray, Z2y: np.ndarray, Qy: np.ndarray, yy: np.ndarray, given: np.ndarray,
    crossed: np.ndarray, rests: np.ndarray, border: np.ndarray,
) -> None:  # fmt: skip
    p = Qy.shape[1]
    given[YY] = yy[i]
    for level in range(Z1y.shape[1]):
        for a in range(Z1y.shape[2]):
            crossed[GIVEN, level, a, p] = Z1y[i, level, a]
    for j in range(Z2y.shape[1]):
        rests[GIVEN_2, j, p] = Z2y[i, j]
    for j in range(p):
        border[0, j, p] = Qy[i, j]
        border[0, p, j] = Qy[i, j]
    border[0, p, p] = yy[i]


@kernel
def fit_responses(
    i0: int, i1: int, Z1y: np.ndarray, Z2y: np.ndarray, Qy: np.ndarray, yy: np.ndarray, begin: np.ndarray,
    limits: np.ndarray, choices: np.ndarray, uniform: np.ndarray, ratios: np.ndarray, roots: np.ndarray,
    places: np.ndarray, counts: np.ndarray, numbers: np.ndarray, tints: np.ndarray, cints: np.ndarray,
    tmats: np.ndarray, tvecs: np.ndarray, vectors: np.ndarray, matrices: np.ndarray, X0: np.ndarray,
    size: np.ndarray, history: np.ndarray, blocks: np.ndarray, entries: np.ndarray, given: np.ndarray,
    A1: np.ndarray, ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, grams: np.ndarray, units: np.ndarray,
    lams: np.ndarray, lead: np.ndarray, levels: np.ndarray, crossed: np.ndarray, cells: np.ndarray,
    squares: np.ndarray, rests: np.ndarray, border: np.ndarray, ze: np.ndarray, rest_ze: np.ndarray,
    products: np.ndarray, room: np.ndarray, status: np.ndarray, results: np.ndarray, theta: np.ndarray,
    b: np.ndarray, Ri: np.ndarray, singular: np.ndarray, df: np.ndarray,
) -> None:  # fmt: skip
    """Fit the responses i0..i1.

    Parameters
    ----------
    i0, i1 : int
    Z1y, Z2y, Qy, yy : ndarrays, shapes (N, q1, k1), (N, q2), (N, p), (N,)
        Cross-products, see `mme.engine.equations.response.Response`.
    begin : ndarray, shape (N, m)
        theta of the equations' basis at which each search begins.
    limits, choices, uniform : ndarrays
        By the names above.
    ratios : ndarray
        Variance ratios at which the profile of the only, scalar term is tabulated; empty: there are others.
    roots : ndarray, shape (n_terms, K, K)
        R of every term.
    places : ndarray of int64, shape (3, n_terms)
        Block of every term, its first column there, its levels.
    counts ... history
        The machine's arrays, see `newton` and `coordinates`; work space.
    blocks ... room
        See `batch_likelihood`; work space but for the design's part of `crossed`, `rests` and `border`.
    units : ndarray, shape (p, rank)
        T': columns whose products with Ri are those of coefficients.
    status, results, theta, b, Ri, singular, df : ndarrays
        Filled: by the names above; (N, N_RESULTS); (N, m); fixed effects beside the least-squares ones
        (N, p); (N, p, p); which terms are singular (N, n_terms); degrees of freedom (N, rank).
    """
    m, p, nt = begin.shape[1], Qy.shape[1], tints.shape[1]
    known, starts = np.empty(_MOST_STARTS + 1), np.empty((_MOST_STARTS, m))
    best, own_b, own_Ri, found = np.empty(m), np.empty(p), np.empty((p, p)), np.zeros(N_NUMBERS)
    table, logdets, table_Ri = np.empty(ratios.size), np.empty(ratios.size), np.empty((ratios.size, p, p))
    weights, table_room = np.empty((ratios.size, A1.shape[0])), np.empty((p + 2, max(A1.shape[0], p)))
    if ratios.size:
        reml = given[REML] == 1.0
        fill_design_table(ratios, A1, crossed[GIVEN], border[0], reml, weights, logdets, table_Ri)
    for i in range(i0, i1):
        status[i] = LEFT
        _set_response(i, Z1y, Z2y, Qy, yy, given, crossed, rests, border)
        least = np.inf
        n_known, n_modes, n_starts, at, task = 0, 0, 0, -1, SEARCH
        start = begin[i]
        while True:
            reason = _search(
                start, task, n_known, limits, roots, places, counts, numbers, tints, cints, tmats, tvecs,
                vectors, matrices, X0, size, history, known, blocks, entries, given, A1, ptr, idx, val, grams,
                lams, lead, levels, crossed, cells, squares, rests, border, found, own_Ri, own_b, ze, rest_ze,
                products, room,
            )  # fmt: skip
            if task == GO_THERE:
                break
            if task == TAKE_VALUE:
                # all terms together, with huge variances, leave nothing of y?
                if reason != TAKEN or not found[SIGMA2] * given[NU] > MUCH * given[YY]:
                    break
                task = GO_THERE
                start = best
                continue
            elsewhere = reason == KNOWN or reason == FAILED or reason == EXACT
            if not _is_converged(reason) and (at < 0 or not elsewhere):
                break
            if _is_converged(reason):
                level = numbers[MACHINE_DEVIANCE]
                other = True
                for j in range(n_known):
                    other = other and abs(level - known[j]) > SAME
                n_modes += 1 if other else 0
                known[n_known] = level
                n_known += 1
                if at < 0 or least - level > SAME:
                    least = level
                    results[i, RESULT_STEPS] = counts[ITERATIONS]
                    results[i, RESULT_EVALUATIONS] = counts[COUNT]
                    for j in range(m):
                        best[j] = vectors[THETA, j]
            if at < 0 and choices[FURTHER]:
                if ratios.size:
                    fill_profile(
                        crossed[GIVEN], border[0], given[NU], weights, logdets, table_Ri, table_room, table
                    )
                    n_starts = _dips(table, ratios, best[0], starts)
                else:
                    n_starts = _further(
                        counts[COUNT], choices[FEW_LEVELS], tints, tvecs, best, uniform, starts
                    )
            at += 1
            if at < n_starts:
                start = starts[at]
            elif choices[FEW_ROWS]:
                task = TAKE_VALUE
                start = uniform[SPAN]
            else:
                task = GO_THERE
                start = best
        if task != GO_THERE or reason != TAKEN:
            continue
        fill_model(tints, tmats, tvecs, vectors, matrices)
        share = found[SIGMA2] * given[NU] / given[YY]
        largest = _largest(tints, tvecs)
        if share < NEARLY or largest > NEARLY_ONE or found[NOISE] > ROUGH or _is_flat(vectors, matrices):
            continue
        for j in range(m):
            theta[i, j] = vectors[THETA, j]
        for j in range(p):
            b[i, j] = own_b[j]
            for c in range(p):
                Ri[i, j, c] = own_Ri[j, c] if c <= j else 0.0
        for t in range(nt):
            singular[i, t] = False
            for a in range(tints[KS, t]):
                if tvecs[D, t, a] < SINGULAR:
                    singular[i, t] = True
        results[i, RESULT_DEVIANCE], results[i, RESULT_SIGMA2] = found[DEVIANCE], found[SIGMA2]
        results[i, RESULT_STARTS], results[i, RESULT_MODES] = 1.0 + n_starts, n_modes
        status[i] = FITTED
        if choices[WANT_DF]:
            degrees_of_freedom(
                tints, tmats, tvecs, places, blocks, given, A1, ptr, idx, levels, crossed, cells, squares,
                rests, found, own_Ri, ze, rest_ze, units, df[i],
            )  # fmt: skip
