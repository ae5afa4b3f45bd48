"""Deviance and derivatives of a model of one grouping factor whose matrices are small, in one call.

What `mme.engine.direct.objective` does with arrays, for models where a call of numpy costs more than its
arithmetic.  Symbols are those of that module and of `schur`.
"""

import numpy as np

from . import kernel, part
from .triangle import inverse_cholesky

# what became of an evaluation
DONE, SINGULAR_BORDER, OVERFLOW, PERFECT, ROUGH, SINGULAR = range(6)
# `given`: degrees of freedom; whether REML; the response's sum of squares; log|X'WX|; sum of log weights
NU, REML, YY, LOGDET_X, LOG_W = range(5)
# `numbers`
DEVIANCE, SIGMA2, NOISE, R2, LOGDET = range(5)
N_NUMBERS = 5

_PERFECT = 1e-12  # residual sum of squares left of the response's own below which the fit is perfect
_EPS = 2.220446049250313e-16
_ROUGHEST = 1e-2  # estimated rounding error of a deviance that is no use to a search


@part
def finish(given: np.ndarray, numbers: np.ndarray, border: float, r2: float, lost: float) -> int:
    """The deviance from y'Py, log|X'V^-1X| and log|S|, in `numbers[LOGDET]`; what became of it.

    `lost` is its rounding error in units of the machine's.
    """
    if r2 <= _PERFECT * given[YY]:
        return PERFECT
    numbers[R2] = r2
    numbers[SIGMA2] = r2 / given[NU]
    if given[REML] == 1.0:
        numbers[LOGDET] += border + given[LOGDET_X]
    spread = given[NU] * (1.0 + np.log(2.0 * np.pi * numbers[SIGMA2]))
    numbers[DEVIANCE] = numbers[LOGDET] + spread - given[LOG_W]
    numbers[NOISE] = _EPS * lost
    return ROUGH if numbers[NOISE] > _ROUGHEST else DONE


@part
def solve_border(C: np.ndarray, given: np.ndarray, numbers: np.ndarray, Ri: np.ndarray, b: np.ndarray) -> int:
    """Ri, b, y'Py and the deviance; what became of them.

    From the lower triangle of C = [X y]'V^-1[X y], with log|S| in `numbers[LOGDET]`.
    """
    p = b.size
    border = inverse_cholesky(C, Ri)
    if not np.isfinite(border):
        return SINGULAR_BORDER
    r2 = C[p, p]
    for i in range(p):
        b[i] = 0.0
    for i in range(p):
        z = 0.0
        for j in range(i + 1):
            z += Ri[i, j] * C[p, j]
        r2 -= z * z
        for j in range(i + 1):
            b[j] += Ri[i, j] * z
    if not np.isfinite(numbers[LOGDET]) or not np.isfinite(r2):
        return OVERFLOW
    lost = given[NU] * given[YY] / r2
    if given[REML] == 1.0:
        for i in range(p):
            for j in range(i + 1):
                lost += Ri[i, j] * Ri[i, j]
    return finish(given, numbers, border, r2, lost)


@kernel
def evaluate_lead(
    order: int, value: bool, entries: np.ndarray, given: np.ndarray, A1: np.ndarray, A1x: np.ndarray,
    Axx: np.ndarray, f: np.ndarray, half: np.ndarray, numbers: np.ndarray, Ri: np.ndarray, b: np.ndarray,
    ze: np.ndarray, room: np.ndarray, Q: np.ndarray, information: np.ndarray,
) -> int:  # fmt: skip
    """Deviance, and unless order is 0 derivatives in R D R' and the average information, from level factors.

    Parameters
    ----------
    order : int
    value : bool
        False: the deviance is known, the derivatives are wanted.
    entries : ndarray of int64, shape (2, m)
        Columns of the block that theta's entries join.
    given : ndarray
        By the names above.
    A1, A1x, Axx : ndarrays
        Cross-products, see `mme.engine.equations.equations.Equations`.
    f, half : ndarrays, shape (q1, k1, k1)
        From `schur.level_factors`, with its log-determinant in `numbers`.
    numbers : ndarray
        By the names above.
    Ri, b : ndarrays, shapes (p, p), (p,)
        Inverse Cholesky factor of X'V^-1X; fixed effects.
    ze : ndarray, shape (q1, k1)
        Filled with Z_1'Py.
    room : ndarray, shape (p + k1 + 3, at least p + 1, m and k1)
    Q, information : ndarrays, shapes (k1, k1), (m, m)
        Filled with the derivatives; those in other terms' columns are in Q as well.

    Returns
    -------
    int
        What became of it, by the names above.
    """
    q1, k1, n = A1x.shape
    p, m = n - 1, information.shape[0]
    if value:
        # C = [X y]'V_1^-1[X y] = Axx - sum_l (half A_1x)'(half A_1x)
        C = Axx.copy()
        row = room[0]
        for l in range(q1):  # noqa: E741
            for c in range(k1):
                for i in range(n):
                    s = 0.0
                    for d in range(k1):
                        s += half[l, c, d] * A1x[l, d, i]
                    row[i] = s
                    for j in range(i + 1):
                        C[i, j] -= s * row[j]
        status = solve_border(C, given, numbers, Ri, b)
        if status != DONE:
            return status
    if order == 0:
        return DONE
    sigma2 = numbers[SIGMA2]
    E = np.empty((k1, k1))
    Xf, FA, v = room[:p], room[n : n + k1], room[n + k1]
    fe = room[n + k1 + 1]
    for i in range(m):
        fe[i] = 0.0
        for j in range(m):
            information[i, j] = 0.0
        for j in range(p):
            Xf[j, i] = 0.0
    for a in range(k1):
        for c in range(k1):
            Q[a, c] = 0.0
    for l in range(q1):  # noqa: E741
        for a in range(k1):
            for c in range(k1):
                s = 0.0
                for d in range(k1):
                    s += f[l, a, d] * A1[l, d, c]
                E[a, c] = s
                Q[a, c] += s
            for i in range(n):
                s = 0.0
                for d in range(k1):
                    s += f[l, a, d] * A1x[l, d, i]
                FA[a, i] = s
            s = FA[a, p]
            for i in range(p):
                s -= FA[a, i] * b[i]
            ze[l, a] = s
        # working variates: entry i joins the columns r and c, w_r = ze_c and w_c = ze_r
        for i in range(m):
            r, c = entries[0, i], entries[1, i]
            zr, zc = ze[l, r], ze[l, c]
            if r == c:
                zr = 0.0
            fe[i] += 2.0 * zr * zc if r != c else zc * zc
            for j in range(p):
                Xf[j, i] += FA[r, j] * zc + FA[c, j] * zr
            for a in range(k1):
                v[a] = 0.5 * ((E[a, r] + E[r, a]) * zc + (E[a, c] + E[c, a]) * zr)
            for j in range(i + 1):
                a, d = entries[0, j], entries[1, j]
                information[i, j] += v[a] * ze[l, d] + (v[d] * ze[l, a] if a != d else 0.0)
        for a in range(k1):
            for c in range(k1):
                Q[a, c] -= ze[l, a] * ze[l, c] / sigma2
        if given[REML] == 1.0:
            for a in range(k1):
                for i in range(p - 1, -1, -1):
                    s = 0.0
                    for j in range(i + 1):
                        s += Ri[i, j] * FA[a, j]
                    FA[a, i] = s
            for a in range(k1):
                for c in range(k1):
                    s = 0.0
                    for i in range(p):
                        s += FA[a, i] * FA[c, i]
                    Q[a, c] -= s
    for a in range(k1):
        for c in range(a):
            s = 0.5 * (Q[a, c] + Q[c, a])
            Q[a, c] = s
            Q[c, a] = s
    # f'Pf / sigma2, the direction of sigma2 taken out, from f'V^-1 f and X'V^-1 f
    for i in range(m):
        for c in range(p - 1, -1, -1):
            s = 0.0
            for d in range(c + 1):
                s += Ri[c, d] * Xf[d, i]
            Xf[c, i] = s
        for j in range(i + 1):
            s = information[i, j] - fe[i] * fe[j] / numbers[R2]
            for c in range(p):
                s -= Xf[c, i] * Xf[c, j]
            information[i, j] = s / sigma2
            information[j, i] = s / sigma2
    return DONE
