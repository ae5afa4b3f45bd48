"""Deviance and derivatives of a model whose rest is small and dense, as compiled searches of many responses
want them.

What `mme.engine.direct.objective` does with arrays, in loops, for any number of factors.  With the leading
term integrated out, M = Z_2'V_1^-1 Z_2 and S = lam2'M lam2 + I are dense and of few rows, so that
T = lam2 S^-1 lam2', R = I - T M and Z_2'V^-1 Z_2 = M R are formed outright: with phi_l = F_l B_l and
H_l = F_l A_l the blocks of G = Z'V^-1 Z are

    G_lm = [l = m] H_l - phi_l T phi_m',   G_l2 = phi_l R,   G_22 = M R,

and nothing is inverted that is singular where D is.  Symbols are those of `schur` and `objective`.

Arrays, whose rows have the names below: `blocks` int64 (n_blocks, 3), the leading block first; `entries`
int64 (3, m), block, row and column of theta's entries; `lams` (2, n_blocks, K, K); `lead` (2, k1, k1);
`levels` (3, q1, k1, k1); `crossed` (2, q1, k1, p + 1); `cells` (nnz, k1), phi; `squares` (8, q2, q2);
`rests` (6, q2, p + 1); `border` (2, p + 1, p + 1); `residual` ze of the leading block (q1, k1) and `rest_ze`
(q2,) of the rest; `vectors` (2, m, q2).
"""

import numpy as np

from . import part
from .schur import level_factors
from .small import DONE, LOGDET, NOISE, NU, OVERFLOW, R2, REML, ROUGH, SIGMA2, solve_border

# `blocks`: first column among the rest's, levels, columns per level
OFFSET, LEVELS, WIDTH = range(3)
# `entries`
BLOCK, ROW, COLUMN = range(3)
# `lams`: factors; derivatives of the deviance
FACTOR, DERIVATIVE = range(2)
# `levels`
W, F, HALF = range(3)
# `crossed`: Z_1'W[X y], Z_1'V^-1[X y]
GIVEN, PROJECTED = range(2)
# `squares`: Z_2'WZ_2; M; the Cholesky factor of S; T; R; M R; room
A22, M, CHOLESKY, T, R, G, ROOM, ROOM_2 = range(8)
N_SQUARES = 8
# `rests`: Z_2'W[X y]; Z_2'V_1^-1[X y]; lam2 S^-1 lam2' of these; Z_2'V^-1[X y]; room
GIVEN_2, ELIMINATED, MODES, PROJECTED_2, SPARE, SPARE_2 = range(6)
N_RESTS = 6

_EPS = 2.220446049250313e-16
_ROUGHEST = 1e-2  # estimated rounding error of a deviance that is no use to a search


@part
def times_factor(
    blocks: np.ndarray, first: int, lams: np.ndarray, turned: bool, X: np.ndarray, out: np.ndarray
) -> None:
    """out = lam2 X, or lam2'X if `turned`, for the factor of the rest (blocks from `first`)."""
    width = X.shape[1]
    for r in range(first, blocks.shape[0]):
        k = blocks[r, WIDTH]
        for level in range(blocks[r, LEVELS]):
            i = blocks[r, OFFSET] + level * k
            for a in range(k):
                for j in range(width):
                    s = 0.0
                    if turned:
                        for c in range(a, k):
                            s += lams[r, c, a] * X[i + c, j]
                    else:
                        for c in range(a + 1):
                            s += lams[r, a, c] * X[i + c, j]
                    out[i + a, j] = s


@part
def _transpose(X: np.ndarray) -> None:
    for i in range(X.shape[0]):
        for j in range(i):
            x = X[i, j]
            X[i, j] = X[j, i]
            X[j, i] = x


@part
def _cholesky(S: np.ndarray) -> float:
    """Lower factor in place; log|S|, or NaN."""
    q = S.shape[0]
    logdet = 0.0
    for j in range(q):
        d = S[j, j]
        for c in range(j):
            d -= S[j, c] * S[j, c]
        if not d > 0.0:
            return np.nan
        logdet += np.log(d)
        d = np.sqrt(d)
        S[j, j] = d
        for i in range(j + 1, q):
            s = S[i, j]
            for c in range(j):
                s -= S[i, c] * S[j, c]
            S[i, j] = s / d
    return logdet


@part
def _forward(L: np.ndarray, X: np.ndarray) -> None:
    """X <- L^-1 X."""
    for i in range(L.shape[0]):
        for c in range(i):
            x = L[i, c]
            if x != 0.0:
                for j in range(X.shape[1]):
                    X[i, j] -= x * X[c, j]
        for j in range(X.shape[1]):
            X[i, j] /= L[i, i]


@part
def _backward(L: np.ndarray, X: np.ndarray) -> None:
    """X <- L^-T X."""
    for i in range(L.shape[0] - 1, -1, -1):
        for c in range(i + 1, L.shape[0]):
            x = L[c, i]
            if x != 0.0:
                for j in range(X.shape[1]):
                    X[i, j] -= x * X[c, j]
        for j in range(X.shape[1]):
            X[i, j] /= L[i, i]


@part
def _eliminate(
    A1x: np.ndarray, levels: np.ndarray, ptr: np.ndarray, idx: np.ndarray, val: np.ndarray,
    squares: np.ndarray, rests: np.ndarray, border: np.ndarray, row: np.ndarray,
) -> None:  # fmt: skip
    """Integrate the leading term out: M, Z_2'V_1^-1[X y] and [X y]'V_1^-1[X y] (its lower triangle)."""
    q1, k1, n = A1x.shape
    square, K2x, C = squares[M], rests[ELIMINATED], border[1]
    for i in range(n):
        for j in range(i + 1):
            C[i, j] = border[0, i, j]
    for i in range(square.shape[0]):
        for j in range(i + 1):
            square[i, j] = squares[A22, i, j]
        for j in range(n):
            K2x[i, j] = rests[GIVEN_2, i, j]
    g = np.empty(k1)
    for level in range(q1):
        for c in range(k1):
            for i in range(n):
                s = 0.0
                for d in range(k1):
                    s += levels[HALF, level, c, d] * A1x[level, d, i]
                row[i] = s
                for j in range(i + 1):
                    C[i, j] -= s * row[j]
        for e in range(ptr[level], ptr[level + 1]):
            j = idx[e]
            for a in range(k1):
                s = 0.0
                for b in range(k1):
                    s += levels[W, level, a, b] * val[e, b]
                g[a] = s
            for a in range(k1):
                for i in range(n):
                    K2x[j, i] -= g[a] * A1x[level, a, i]
            for f in range(ptr[level], e + 1):
                s = 0.0
                for a in range(k1):
                    s += g[a] * val[f, a]
                square[j, idx[f]] -= s
    for i in range(square.shape[0]):
        for j in range(i):
            square[j, i] = square[i, j]


@part
def evaluate_value(
    theta: np.ndarray, blocks: np.ndarray, entries: np.ndarray, given: np.ndarray, A1: np.ndarray,
    ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, grams: np.ndarray, lams: np.ndarray, lead: np.ndarray,
    levels: np.ndarray, crossed: np.ndarray, squares: np.ndarray, rests: np.ndarray, border: np.ndarray,
    numbers: np.ndarray, Ri: np.ndarray, b: np.ndarray, room: np.ndarray,
) -> int:  # fmt: skip
    """The deviance at theta of the equations' basis, into `numbers`; what became of it (names of `small`).

    `grams` (n_blocks, K) are the mean squares per level of every block's columns.
    """
    q1, k1, n = crossed.shape[1:]
    q2, p = squares.shape[1], n - 1
    first = 1 if q1 else 0
    for r in range(lams.shape[1]):
        for a in range(lams.shape[2]):
            for c in range(lams.shape[2]):
                lams[FACTOR, r, a, c] = 0.0
    for i in range(theta.size):
        if not np.isfinite(theta[i]):
            return OVERFLOW
        lams[FACTOR, entries[BLOCK, i], entries[ROW, i], entries[COLUMN, i]] = theta[i]
    logdet = 0.0
    if q1:
        for a in range(k1):
            for c in range(k1):
                lead[0, a, c] = lams[FACTOR, 0, a, c]
        for a in range(k1):
            for c in range(k1):
                s = 0.0
                for d in range(min(a, c) + 1):
                    s += lead[0, a, d] * lead[0, c, d]
                lead[1, a, c] = s
        logdet = level_factors(0, q1, A1, lead[0], lead[1], levels[W], levels[F], levels[HALF])
    _eliminate(crossed[GIVEN], levels, ptr, idx, val, squares, rests, border, room[0])
    C, V = border[1], rests[SPARE]
    if q2:
        S = squares[CHOLESKY]
        times_factor(blocks, first, lams[FACTOR], True, squares[M], squares[ROOM])
        _transpose(squares[ROOM])
        times_factor(blocks, first, lams[FACTOR], True, squares[ROOM], S)
        for i in range(q2):
            S[i, i] += 1.0
        logdet += _cholesky(S)
        if not np.isfinite(logdet):
            return OVERFLOW
        times_factor(blocks, first, lams[FACTOR], True, rests[ELIMINATED], V)
        _forward(S, V)
        for i in range(q2):
            for c in range(n):
                for d in range(c + 1):
                    C[c, d] -= V[i, c] * V[i, d]
    numbers[LOGDET] = logdet
    status = solve_border(C, given, numbers, Ri, b)
    if status != DONE or q2 == 0:
        return status
    # S, known to rounding times its largest entry, passes its error on through the border's solutions
    largest = 0.0
    for i in range(theta.size):
        r = entries[BLOCK, i]
        if r >= first and entries[COLUMN, i] == entries[ROW, i]:
            for c in range(blocks[r, WIDTH]):
                s = 0.0
                for a in range(blocks[r, WIDTH]):
                    s += grams[r, a] * lams[FACTOR, r, a, c] ** 2
                largest = max(largest, s)
    _backward(squares[CHOLESKY], V)
    lost = largest
    for i in range(q2):
        u = V[i, p]
        for j in range(p):
            u -= V[i, j] * b[j]
        lost += largest * given[NU] * u * u / numbers[R2]
        if given[REML] == 1.0:
            for c in range(p):
                s = 0.0
                for j in range(c + 1):
                    s += V[i, j] * Ri[c, j]
                lost += largest * s * s
    numbers[NOISE] += _EPS * lost
    return ROUGH if numbers[NOISE] > _ROUGHEST else DONE


@part
def fill_products(
    blocks: np.ndarray, ptr: np.ndarray, idx: np.ndarray, val: np.ndarray, lams: np.ndarray,
    levels: np.ndarray, crossed: np.ndarray, cells: np.ndarray, squares: np.ndarray, rests: np.ndarray,
    b: np.ndarray, ze: np.ndarray, rest_ze: np.ndarray,
) -> None:  # fmt: skip
    """T, R, M R, phi, Z'V^-1[X y] and Z'Py, after `evaluate_value` at the same theta."""
    q1, k1, n = crossed.shape[1:]
    q2, p = squares.shape[1], n - 1
    first = 1 if q1 else 0
    if q2:
        inverse, product, back = squares[ROOM], squares[T], squares[R]
        for i in range(q2):
            for j in range(q2):
                inverse[i, j] = 1.0 if i == j else 0.0
        _forward(squares[CHOLESKY], inverse)
        _backward(squares[CHOLESKY], inverse)
        times_factor(blocks, first, lams[FACTOR], False, inverse, squares[ROOM_2])
        _transpose(squares[ROOM_2])
        times_factor(blocks, first, lams[FACTOR], False, squares[ROOM_2], product)
        for i in range(q2):
            for j in range(q2):
                back[i, j] = 1.0 if i == j else 0.0
                squares[G, i, j] = 0.0
        for i in range(q2):
            for c in range(q2):
                t = product[i, c]
                if t != 0.0:
                    for j in range(q2):
                        back[i, j] -= t * squares[M, c, j]
        for i in range(q2):
            for c in range(q2):
                x = squares[M, i, c]
                for j in range(q2):
                    squares[G, i, j] += x * back[c, j]
            for j in range(n):
                s = 0.0
                for c in range(q2):
                    s += product[i, c] * rests[ELIMINATED, c, j]
                rests[MODES, i, j] = s
        for i in range(q2):
            for j in range(i):
                x = 0.5 * (squares[G, i, j] + squares[G, j, i])
                squares[G, i, j] = x
                squares[G, j, i] = x
            for j in range(n):
                s = 0.0
                for c in range(q2):
                    s += back[c, i] * rests[ELIMINATED, c, j]
                rests[PROJECTED_2, i, j] = s
            s = rests[PROJECTED_2, i, p]
            for j in range(p):
                s -= rests[PROJECTED_2, i, j] * b[j]
            rest_ze[i] = s
    row = np.empty((k1, n))
    for level in range(q1):
        for a in range(k1):
            for i in range(n):
                row[a, i] = crossed[GIVEN, level, a, i]
        for e in range(ptr[level], ptr[level + 1]):
            for a in range(k1):
                s = 0.0
                for c in range(k1):
                    s += levels[F, level, a, c] * val[e, c]
                cells[e, a] = s
                for i in range(n):
                    row[a, i] -= val[e, a] * rests[MODES, idx[e], i]
        for a in range(k1):
            for i in range(n):
                s = 0.0
                for c in range(k1):
                    s += levels[F, level, a, c] * row[c, i]
                crossed[PROJECTED, level, a, i] = s
            s = crossed[PROJECTED, level, a, p]
            for i in range(p):
                s -= crossed[PROJECTED, level, a, i] * b[i]
            ze[level, a] = s


@part
def _derivative_of_lead(
    given: np.ndarray, A1: np.ndarray, ptr: np.ndarray, idx: np.ndarray, levels: np.ndarray,
    crossed: np.ndarray, cells: np.ndarray, squares: np.ndarray, sigma2: float, Ri: np.ndarray,
    ze: np.ndarray, N: np.ndarray,
) -> None:  # fmt: skip
    """N of the leading block, before it is made symmetric."""
    q1, k1 = ze.shape
    p = Ri.shape[0]
    half, row = np.empty(k1), np.empty(k1)
    for level in range(q1):
        for a in range(k1):
            for c in range(k1):
                s = -ze[level, a] * ze[level, c] / sigma2
                for d in range(k1):
                    s += levels[F, level, a, d] * A1[level, d, c]
                N[a, c] += s
        for e in range(ptr[level], ptr[level + 1]):
            for a in range(k1):
                row[a] = 0.0
            for f in range(ptr[level], ptr[level + 1]):
                t = squares[T, idx[e], idx[f]]
                for a in range(k1):
                    row[a] += t * cells[f, a]
            for a in range(k1):
                for c in range(k1):
                    N[a, c] -= cells[e, a] * row[c]
        if given[REML] == 1.0:
            for i in range(p):
                for a in range(k1):
                    s = 0.0
                    for j in range(i + 1):
                        s += Ri[i, j] * crossed[PROJECTED, level, a, j]
                    half[a] = s
                for a in range(k1):
                    for c in range(k1):
                        N[a, c] -= half[a] * half[c]


@part
def _derivative_of_rest(
    offset: int, q: int, k: int, given: np.ndarray, squares: np.ndarray, rests: np.ndarray, sigma2: float,
    Ri: np.ndarray, rest_ze: np.ndarray, N: np.ndarray,
) -> None:  # fmt: skip
    """N of a block of the rest."""
    p = Ri.shape[0]
    half = np.empty(k)
    for level in range(q):
        i = offset + level * k
        for a in range(k):
            for c in range(k):
                N[a, c] += squares[G, i + a, i + c] - rest_ze[i + a] * rest_ze[i + c] / sigma2
        if given[REML] == 1.0:
            for x in range(p):
                for a in range(k):
                    s = 0.0
                    for j in range(x + 1):
                        s += Ri[x, j] * rests[PROJECTED_2, i + a, j]
                    half[a] = s
                for a in range(k):
                    for c in range(k):
                        N[a, c] -= half[a] * half[c]


@part
def evaluate_derivatives(
    blocks: np.ndarray, entries: np.ndarray, given: np.ndarray, A1: np.ndarray, ptr: np.ndarray,
    idx: np.ndarray, lams: np.ndarray, levels: np.ndarray, crossed: np.ndarray, cells: np.ndarray,
    squares: np.ndarray, rests: np.ndarray, numbers: np.ndarray, Ri: np.ndarray, ze: np.ndarray,
    rest_ze: np.ndarray, vectors: np.ndarray, information: np.ndarray,
) -> None:  # fmt: skip
    """Derivatives in R D R' (`lams[DERIVATIVE]`) and the average information, after `fill_products`."""
    q1, k1, n = crossed.shape[1:]
    q2, p, m = squares.shape[1], n - 1, information.shape[0]
    first = 1 if q1 else 0
    sigma2 = numbers[SIGMA2]
    for r in range(blocks.shape[0]):
        N = lams[DERIVATIVE, r]
        for a in range(N.shape[0]):
            for c in range(N.shape[0]):
                N[a, c] = 0.0
        if r < first:
            _derivative_of_lead(given, A1, ptr, idx, levels, crossed, cells, squares, sigma2, Ri, ze, N)
        else:
            offset, q, k = blocks[r, OFFSET], blocks[r, LEVELS], blocks[r, WIDTH]
            _derivative_of_rest(offset, q, k, given, squares, rests, sigma2, Ri, rest_ze, N)
        for a in range(N.shape[0]):
            for c in range(a):
                s = 0.0 if a >= blocks[r, WIDTH] else 0.5 * (N[a, c] + N[c, a])
                N[a, c] = s
                N[c, a] = s
    # working variates: entry i joins the columns r and c, w_r = ze_c and w_c = ze_r
    fe, Xf = np.zeros(m), np.zeros((p, m))
    for i in range(m):
        for j in range(m):
            information[i, j] = 0.0
        for j in range(q2):
            vectors[0, i, j] = 0.0
    E, v = np.empty((k1, k1)), np.empty(k1)
    for level in range(q1):
        for a in range(k1):
            for c in range(k1):
                s = 0.0
                for d in range(k1):
                    s += levels[F, level, a, d] * A1[level, d, c]
                E[a, c] = s
        for i in range(m):
            if entries[BLOCK, i] != 0:
                continue
            r, c = entries[ROW, i], entries[COLUMN, i]
            zc = ze[level, c]
            zr = ze[level, r] if r != c else 0.0
            fe[i] += ze[level, r] * zc + ze[level, c] * zr
            for x in range(p):
                Xf[x, i] += crossed[PROJECTED, level, r, x] * zc + crossed[PROJECTED, level, c, x] * zr
            for e in range(ptr[level], ptr[level + 1]):
                vectors[0, i, idx[e]] += cells[e, r] * zc + cells[e, c] * zr
            for a in range(k1):
                v[a] = 0.5 * ((E[a, r] + E[r, a]) * zc + (E[a, c] + E[c, a]) * zr)
            for j in range(i + 1):
                if entries[BLOCK, j] == 0:
                    a, d = entries[ROW, j], entries[COLUMN, j]
                    information[i, j] += v[a] * ze[level, d] + (v[d] * ze[level, a] if a != d else 0.0)
    for i in range(m):
        block = entries[BLOCK, i]
        if block < first:
            continue
        k = blocks[block, WIDTH]
        for level in range(blocks[block, LEVELS]):
            r = blocks[block, OFFSET] + level * k + entries[ROW, i]
            c = blocks[block, OFFSET] + level * k + entries[COLUMN, i]
            zc = rest_ze[c]
            zr = rest_ze[r] if r != c else 0.0
            vectors[0, i, r] += zc
            vectors[0, i, c] += zr
            fe[i] += rest_ze[r] * zc + rest_ze[c] * zr
            for x in range(p):
                Xf[x, i] += rests[PROJECTED_2, r, x] * zc + rests[PROJECTED_2, c, x] * zr
    add_forms(first, entries[BLOCK], squares, vectors, information)
    # f'Pf / sigma2, the direction of sigma2 taken out, from f'V^-1 f and X'V^-1 f
    for i in range(m):
        for x in range(p - 1, -1, -1):
            s = 0.0
            for d in range(x + 1):
                s += Ri[x, d] * Xf[d, i]
            Xf[x, i] = s
        for j in range(i + 1):
            s = information[i, j] - fe[i] * fe[j] / numbers[R2]
            for x in range(p):
                s -= Xf[x, i] * Xf[x, j]
            information[i, j] = s / sigma2
            information[j, i] = s / sigma2


@part
def add_forms(
    first: int, of: np.ndarray, squares: np.ndarray, vectors: np.ndarray, forms: np.ndarray
) -> None:
    """forms[i, j] += w_i'G w_j but for what is within levels of the leading block, its lower triangle.

    vectors[0, i] is sum_l phi_l'w_l of a direction in the leading block, else w_i; of[i] its block.
    """
    q2, m = squares.shape[1], forms.shape[0]
    if q2 == 0:
        return
    for i in range(m):
        in_lead = of[i] < first
        for a in range(q2):
            s = 0.0
            if in_lead:
                for c in range(q2):
                    s -= squares[T, a, c] * vectors[0, i, c]
            else:
                for c in range(q2):
                    s += squares[G, a, c] * vectors[0, i, c]
            vectors[1, i, a] = s
        for j in range(m):
            if (of[j] < first) == in_lead and j <= i:
                s = 0.0
                for a in range(q2):
                    s += vectors[1, i, a] * vectors[0, j, a]
                forms[i, j] += s
    for i in range(m):
        if of[i] >= first:
            continue
        for a in range(q2):
            s = 0.0
            for c in range(q2):
                s += squares[R, c, a] * vectors[0, i, c]
            vectors[1, i, a] = s
        for j in range(m):
            if of[j] >= first:
                s = 0.0
                for a in range(q2):
                    s += vectors[1, i, a] * vectors[0, j, a]
                forms[max(i, j), min(i, j)] += s
