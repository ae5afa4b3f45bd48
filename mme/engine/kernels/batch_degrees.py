"""Satterthwaite's degrees of freedom of a small model, as `mme.inference.degrees` has them, in loops.

The covariance of the estimated variances is that of `mme.inference.variances.observed_covariance`, always in
the coordinates along the boundary: with U diag(d) U' = R D R' per term and B = R^-1 U, a direction is B E B',
E a unit matrix of two effects that are there, or of one that is and one that is not.  Products with
G = Z'V^-1 Z are taken with B'G B, so that directions of large and of no variance keep their digits.
"""

import numpy as np

from . import part
from .batch_likelihood import (
    LEVELS,
    OFFSET,
    PROJECTED,
    PROJECTED_2,
    WIDTH,
    F,
    G,
    R,
    T,
    add_forms,
)
from .cone import jacobi
from .coordinates import DIAGONAL, KS, RI, D, N, U
from .small import NU, REML, SIGMA2

SINGULAR = 1e-8  # as in `mme.engine.covariance.boundary`
BLIND = 1e-8  # curvature, beside that of the entries alone, up to which a direction is not told by the data
DEPENDS = 1e-5  # relative change of a variance along such a direction from which it is not told either


@part
def _free_directions(
    tints: np.ndarray, tvecs: np.ndarray, places: np.ndarray, free: np.ndarray, scale: np.ndarray
) -> int:
    """Fill `free` (4, m): term, effects a and b of the block, whether a is held at zero; their number."""
    n = 0
    for t in range(tints.shape[1]):
        k, start = tints[KS, t], places[1, t]
        for b in range(k):
            if tvecs[D, t, b] < SINGULAR:
                continue
            for a in range(k):
                off = tvecs[D, t, a] < SINGULAR
                if tints[DIAGONAL, t] and a != b:
                    continue
                if a < b and not off:
                    continue
                free[0, n], free[1, n], free[2, n], free[3, n] = t, start + a, start + b, off
                scale[n] = tvecs[D, t, b] if off else 1.0
                n += 1
    return n


@part
def _turned(
    blocks: np.ndarray, first: int, ptr: np.ndarray, A1: np.ndarray, levels: np.ndarray, crossed: np.ndarray,
    cells: np.ndarray, rests: np.ndarray, Ri: np.ndarray, ze: np.ndarray, rest_ze: np.ndarray, B: np.ndarray,
    h: np.ndarray, H: np.ndarray, phi: np.ndarray, rest_h: np.ndarray,
) -> None:  # fmt: skip
    """h = B'[Z'Py, Z'V^-1 Q R^-1] of lead and rest, H_l = B'F_l A_l B and phi_l = B'F_l B_l of the lead."""
    q1, k1 = ze.shape
    p = Ri.shape[0]
    own, E = np.empty((k1, p + 1)), np.empty((k1, k1))
    for level in range(q1):
        for a in range(k1):
            own[a, 0] = ze[level, a]
            for x in range(p):
                s = 0.0
                for j in range(x + 1):
                    s += Ri[x, j] * crossed[PROJECTED, level, a, j]
                own[a, x + 1] = s
            for c in range(k1):
                s = 0.0
                for d in range(k1):
                    s += levels[F, level, a, d] * A1[level, d, c]
                E[a, c] = s
        for a in range(k1):
            for x in range(p + 1):
                s = 0.0
                for c in range(k1):
                    s += B[0, c, a] * own[c, x]
                h[level, a, x] = s
            for b in range(a + 1):
                s = 0.0
                for c in range(k1):
                    for d in range(k1):
                        s += B[0, c, a] * 0.5 * (E[c, d] + E[d, c]) * B[0, d, b]
                H[level, a, b] = s
                H[level, b, a] = s
            for e in range(ptr[level], ptr[level + 1]):
                s = 0.0
                for c in range(k1):
                    s += B[0, c, a] * cells[e, c]
                phi[e, a] = s
    for r in range(first, blocks.shape[0]):
        k = blocks[r, WIDTH]
        for level in range(blocks[r, LEVELS]):
            i = blocks[r, OFFSET] + level * k
            for a in range(k):
                for x in range(p + 1):
                    s = 0.0
                    for c in range(k):
                        own_c = rest_ze[i + c]
                        if x > 0:
                            own_c = 0.0
                            for j in range(x):
                                own_c += Ri[x - 1, j] * rests[PROJECTED_2, i + c, j]
                        s += B[r, c, a] * own_c
                    rest_h[i + a, x] = s


@part
def _lead_grams(
    blocks: np.ndarray, ptr: np.ndarray, idx: np.ndarray, squares: np.ndarray, B: np.ndarray, H: np.ndarray,
    phi: np.ndarray, Rt: np.ndarray, grams: np.ndarray,
) -> None:  # fmt: skip
    """grams[0, s][a, b, c, d] = sum_lm G_lm[a, c] G_lm[b, d], l of the leading block, m of block s."""
    q1, k1 = H.shape[0], H.shape[1]
    q2 = squares.shape[1]
    C, row = np.zeros((k1, k1)), np.empty(k1)
    K, KT = np.zeros((k1 * k1, q2, q2)), np.zeros((k1 * k1, q2, q2))
    for level in range(q1):
        for a in range(k1):
            for b in range(k1):
                C[a, b] = 0.0
        for e in range(ptr[level], ptr[level + 1]):
            for a in range(k1):
                row[a] = 0.0
            for f in range(ptr[level], ptr[level + 1]):
                t = squares[T, idx[e], idx[f]]
                for a in range(k1):
                    row[a] += t * phi[f, a]
                    for b in range(k1):
                        K[a * k1 + b, idx[e], idx[f]] += phi[e, a] * phi[f, b]
            for a in range(k1):
                for b in range(k1):
                    C[a, b] += phi[e, a] * row[b]
        for a in range(k1):
            for b in range(k1):
                for c in range(k1):
                    for d in range(k1):
                        s = H[level, a, c] * (H[level, b, d] - C[b, d])
                        grams[0, 0, a, b, c, d] += s - C[a, c] * H[level, b, d]
    if q2 == 0:
        return
    for ab in range(k1 * k1):
        for i in range(q2):
            for x in range(q2):
                s = K[ab, i, x]
                if s != 0.0:
                    for j in range(q2):
                        KT[ab, i, j] += s * squares[T, x, j]
    for a in range(k1):
        for b in range(k1):
            for c in range(k1):
                for d in range(k1):
                    s = 0.0
                    for i in range(q2):
                        for j in range(q2):
                            s += KT[b * k1 + a, i, j] * KT[c * k1 + d, j, i]
                    grams[0, 0, a, b, c, d] += s
    for ab in range(k1 * k1):
        KR = KT[ab]
        for i in range(q2):
            for j in range(q2):
                KR[i, j] = 0.0
            for x in range(q2):
                s = K[ab, i, x]
                if s != 0.0:
                    for j in range(q2):
                        KR[i, j] += s * Rt[x, j]
        for r in range(1, blocks.shape[0]):
            k = blocks[r, WIDTH]
            for level in range(blocks[r, LEVELS]):
                i = blocks[r, OFFSET] + level * k
                for c in range(k):
                    for d in range(k):
                        s = 0.0
                        for x in range(q2):
                            s += Rt[x, i + c] * KR[x, i + d]
                        grams[0, r, ab // k1, ab % k1, c, d] += s


@part
def _rest_grams(blocks: np.ndarray, first: int, Gt: np.ndarray, grams: np.ndarray) -> None:
    """The same of two blocks of the rest."""
    for s in range(first, blocks.shape[0]):
        for t in range(s, blocks.shape[0]):
            ks, kt = blocks[s, WIDTH], blocks[t, WIDTH]
            for lev in range(blocks[s, LEVELS]):
                i = blocks[s, OFFSET] + lev * ks
                for mate in range(blocks[t, LEVELS]):
                    j = blocks[t, OFFSET] + mate * kt
                    for a in range(ks):
                        for b in range(ks):
                            for c in range(kt):
                                for d in range(kt):
                                    grams[s, t, a, b, c, d] += Gt[i + a, j + c] * Gt[i + b, j + d]


@part
def _turn_columns(blocks: np.ndarray, first: int, B: np.ndarray, X: np.ndarray, out: np.ndarray) -> None:
    """out = X B for the block-diagonal B of the rest."""
    for r in range(first, blocks.shape[0]):
        k = blocks[r, WIDTH]
        for level in range(blocks[r, LEVELS]):
            j = blocks[r, OFFSET] + level * k
            for i in range(X.shape[0]):
                for b in range(k):
                    s = 0.0
                    for c in range(k):
                        s += X[i, j + c] * B[r, c, b]
                    out[i, j + b] = s


@part
def _trace(grams: np.ndarray, s: int, t: int, a: int, b: int, c: int, d: int) -> float:
    """tr(E G F G') of the symmetric units E of (a, b) in block s, F of (c, d) in block t >= s."""
    K = grams[s, t]
    out = K[b, a, c, d]
    if a != b:
        out += K[a, b, c, d]
    if c != d:
        out += K[b, a, d, c]
        if a != b:
            out += K[a, b, d, c]
    return out


@part
def _moments(
    of: np.ndarray, free: np.ndarray, scale: np.ndarray, n: int, blocks: np.ndarray, first: int,
    h: np.ndarray, rest_h: np.ndarray, moments: np.ndarray,
) -> None:  # fmt: skip
    """moments[i] = h'E_i h, (n, w, w)."""
    w = moments.shape[1]
    for i in range(n):
        a, b = free[1, i], free[2, i]
        twice = 1.0 if a != b else 0.0
        for x in range(w):
            for y in range(w):
                s = 0.0
                if of[i] < first:
                    for level in range(h.shape[0]):
                        s += h[level, a, x] * h[level, b, y] + twice * h[level, b, x] * h[level, a, y]
                else:
                    k = blocks[of[i], WIDTH]
                    for level in range(blocks[of[i], LEVELS]):
                        j = blocks[of[i], OFFSET] + level * k
                        s += rest_h[j + a, x] * rest_h[j + b, y] + twice * rest_h[j + b, x] * rest_h[j + a, y]
                moments[i, x, y] = s * scale[i]


@part
def _forms(
    x: int, of: np.ndarray, free: np.ndarray, scale: np.ndarray, n: int, blocks: np.ndarray, first: int,
    ptr: np.ndarray, idx: np.ndarray, squares: np.ndarray, B: np.ndarray, h: np.ndarray, H: np.ndarray,
    phi: np.ndarray, rest_h: np.ndarray, vectors: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """out[i, j] = h_x'E_i G E_j h_x, its lower triangle."""
    q2 = squares.shape[1]
    for i in range(n):
        for j in range(n):
            out[i, j] = 0.0
        for j in range(q2):
            vectors[0, i, j] = 0.0
    for level in range(h.shape[0]):
        for i in range(n):
            if of[i] >= first:
                continue
            a, b = free[1, i], free[2, i]
            wa, wb = h[level, b, x], h[level, a, x] if a != b else 0.0
            for e in range(ptr[level], ptr[level + 1]):
                vectors[0, i, idx[e]] += phi[e, a] * wa + phi[e, b] * wb
            for j in range(i + 1):
                if of[j] < first:
                    c, d = free[1, j], free[2, j]
                    vc, vd = h[level, d, x], h[level, c, x] if c != d else 0.0
                    s = (H[level, a, c] * vc + H[level, a, d] * vd) * wa
                    out[i, j] += s + (H[level, b, c] * vc + H[level, b, d] * vd) * wb
    for i in range(n):
        if of[i] < first:
            continue
        a, b, r = free[1, i], free[2, i], of[i]
        k = blocks[r, WIDTH]
        for level in range(blocks[r, LEVELS]):
            j = blocks[r, OFFSET] + level * k
            wa, wb = rest_h[j + b, x], rest_h[j + a, x] if a != b else 0.0
            for c in range(k):
                vectors[0, i, j + c] += B[r, c, a] * wa + B[r, c, b] * wb
    add_forms(first, of[:n], squares, vectors, out[:n, :n])
    for i in range(n):
        for j in range(i + 1):
            out[i, j] *= scale[i] * scale[j]


@part
def degrees_of_freedom(
    tints: np.ndarray, tmats: np.ndarray, tvecs: np.ndarray, places: np.ndarray, blocks: np.ndarray,
    given: np.ndarray, A1: np.ndarray, ptr: np.ndarray, idx: np.ndarray, levels: np.ndarray,
    crossed: np.ndarray, cells: np.ndarray, squares: np.ndarray, rests: np.ndarray, found: np.ndarray,
    Ri: np.ndarray, ze: np.ndarray, rest_ze: np.ndarray, units: np.ndarray, df: np.ndarray,
) -> None:  # fmt: skip
    """Satterthwaite's df of every coefficient into df, after `evaluate_derivatives` at the place.

    `units` (p, rank) are T': Ri times a column is the u of `mme.inference.degrees.satterthwaite`.
    """
    q1, k1 = ze.shape
    q2, p, most = squares.shape[1], Ri.shape[0], 0
    first = 1 if q1 else 0
    nb, K = blocks.shape[0], 1
    for r in range(nb):
        K = max(K, blocks[r, WIDTH])
    for t in range(tints.shape[1]):
        most += tints[KS, t] * tints[KS, t]
    free, scale = np.zeros((4, most), np.int64), np.empty(most)
    n = _free_directions(tints, tvecs, places, free, scale)
    of = np.zeros(most, np.int64)
    for i in range(n):
        of[i] = places[0, free[0, i]]
    B = np.zeros((nb, K, K))
    for t in range(tints.shape[1]):
        start = places[1, t]
        for a in range(tints[KS, t]):
            for b in range(tints[KS, t]):
                s = 0.0
                for c in range(tints[KS, t]):
                    s += tmats[RI, t, a, c] * tmats[U, t, c, b]
                B[places[0, t], start + a, start + b] = s
    h, H, phi = np.empty((q1, k1, p + 1)), np.empty((q1, k1, k1)), np.empty(cells.shape)
    rest_h = np.empty((q2, p + 1))
    _turned(blocks, first, ptr, A1, levels, crossed, cells, rests, Ri, ze, rest_ze, B, h, H, phi, rest_h)
    grams = np.zeros((nb, nb, K, K, K, K))
    Rt, Gt, half_turned = np.empty((q2, q2)), np.empty((q2, q2)), np.empty((q2, q2))
    _turn_columns(blocks, first, B, squares[R], Rt)
    _turn_columns(blocks, first, B, squares[G], half_turned)
    for i in range(q2):
        for j in range(q2):
            Gt[i, j] = half_turned[j, i]
    _turn_columns(blocks, first, B, Gt, half_turned)
    if q1:
        _lead_grams(blocks, ptr, idx, squares, B, H, phi, Rt, grams)
    _rest_grams(blocks, first, half_turned, grams)
    moments = np.empty((max(n, 1), p + 1, p + 1))
    _moments(of, free, scale, n, blocks, first, h, rest_h, moments)
    vectors, forms = np.empty((2, max(n, 1), q2)), np.empty((max(n, 1), max(n, 1)))
    information = np.zeros((n + 1, n + 1))
    sigma2, nu = found[SIGMA2], given[NU]
    for x in range(p + 1 if given[REML] == 1.0 else 1):
        _forms(x, of, free, scale, n, blocks, first, ptr, idx, squares, B, h, H, phi, rest_h, vectors, forms)
        for i in range(n):
            for j in range(i + 1):
                information[i, j] += 2.0 * forms[i, j] / (sigma2 if x == 0 else 1.0)
    for i in range(n):
        information[n, i] = moments[i, 0, 0] / (sigma2 * sigma2)
        for j in range(i + 1):
            if of[i] <= of[j]:
                s = _trace(grams, of[i], of[j], free[1, i], free[2, i], free[1, j], free[2, j])
            else:
                s = _trace(grams, of[j], of[i], free[1, j], free[2, j], free[1, i], free[2, i])
            s *= -scale[i] * scale[j]
            for x in range(1, p + 1):
                s -= 2.0 * moments[i, 0, x] * moments[j, 0, x] / sigma2
                if given[REML] == 1.0:
                    for y in range(1, p + 1):
                        s -= moments[i, x, y] * moments[j, y, x]
            if free[3, i] and free[3, j] and free[0, i] == free[0, j] and free[2, i] == free[2, j]:
                s += 2.0 * scale[i] * _null(tints, tmats, places, B, free, i, j)
            information[i, j] += s
    information[n, n] = nu / (sigma2 * sigma2)
    _degrees(tvecs, places, blocks, free, scale, of, n, moments, information, sigma2, Ri, units, df)


@part
def _null(
    tints: np.ndarray, tmats: np.ndarray, places: np.ndarray, B: np.ndarray, free: np.ndarray, i: int, j: int
) -> float:  # fmt: skip
    """The gradient between the effects that two directions hold at zero."""
    t = free[0, i]
    block, start, s = places[0, t], places[1, t], 0.0
    for a in range(tints[KS, t]):
        for b in range(tints[KS, t]):
            s += B[block, start + a, free[1, i]] * tmats[N, t, a, b] * B[block, start + b, free[1, j]]
    return s


@part
def _degrees(
    tvecs: np.ndarray, places: np.ndarray, blocks: np.ndarray, free: np.ndarray, scale: np.ndarray,
    of: np.ndarray, n: int, moments: np.ndarray, information: np.ndarray, sigma2: float, Ri: np.ndarray,
    units: np.ndarray, df: np.ndarray,
) -> None:  # fmt: skip
    """2 v^2 / var(v) of every coefficient's variance v, from the information about the variances."""
    p = Ri.shape[0]
    size, A, V = np.empty(n + 1), np.empty((n + 1, n + 1)), np.empty((n + 1, n + 1))
    for i in range(n + 1):
        natural = information[n, n]
        if i < n:
            t, start = free[0, i], places[1, free[0, i]]
            da, db = tvecs[D, t, free[1, i] - start], tvecs[D, t, free[2, i] - start]
            natural = blocks[of[i], LEVELS] * scale[i] ** 2 / ((1.0 + da) * (1.0 + db))
            if free[1, i] != free[2, i]:
                natural *= 2.0
        own = information[i, i]
        size[i] = np.sqrt(own if own > BLIND * natural else natural)
    for i in range(n + 1):
        for j in range(i + 1):
            A[i, j] = information[i, j] / (size[i] * size[j])
            A[j, i] = A[i, j]
    jacobi(A, n + 1, V)
    u, g = np.empty(p), np.empty(n + 1)
    for c in range(df.size):
        total = 0.0
        for x in range(p):
            s = 0.0
            for j in range(x + 1):
                s += Ri[x, j] * units[j, c]
            u[x] = s
            total += s * s
        g[n] = 1.0 / (sigma2 * size[n])
        for i in range(n):
            s = 0.0
            for x in range(p):
                for y in range(p):
                    s += u[x] * moments[i, x + 1, y + 1] * u[y]
            g[i] = s / (total * size[i])
        variance, told = 0.0, total > 0.0
        for k in range(n + 1):
            s = 0.0
            for i in range(n + 1):
                s += V[i, k] * g[i]
            if A[k, k] > BLIND:
                variance += s * s / A[k, k]
            else:
                told = told and abs(s) <= DEPENDS
        df[c] = 1.0 / variance if told else np.nan
