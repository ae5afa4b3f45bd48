"""Deviance of a model with one scalar term of one factor, at many variance ratios."""

import numpy as np

from . import kernel, part
from .triangle import inverse_cholesky


@kernel
def scalar_profile(
    ratios: np.ndarray, A: np.ndarray, Ax: np.ndarray, Axx: np.ndarray, nu: int, reml: bool
) -> np.ndarray:
    """Deviance but for its constants at every ratio D; inf where it cannot be computed.

    Parameters
    ----------
    ratios : ndarray, shape (m,)
    A : ndarray, shape (q, 1, 1)
        Z'WZ by level.
    Ax : ndarray, shape (q, 1, p + 1)
        Z'W[X y].
    Axx : ndarray, shape (p + 1, p + 1)
        [X y]'W[X y].
    nu : int
        Degrees of freedom of the residual variance.
    reml : bool

    Returns
    -------
    ndarray, shape (m,)
    """
    p = Axx.shape[0] - 1
    out = np.empty(ratios.size)
    K = np.empty((p + 1, p + 1))
    for i in range(ratios.size):
        D = ratios[i]
        for a in range(p + 1):
            for b in range(a + 1):
                K[a, b] = Axx[a, b]
        logdet = 0.0
        for l in range(A.shape[0]):  # noqa: E741
            g = 1.0 + D * A[l, 0, 0]
            logdet += np.log(g)
            w = D / g
            for a in range(p + 1):
                s = w * Ax[l, 0, a]
                for b in range(a + 1):
                    K[a, b] -= s * Ax[l, 0, b]
        fine = True
        for c in range(p + 1):
            s = K[c, c]
            for d in range(c):
                s -= K[c, d] * K[c, d]
            if not s > 0.0:
                fine = False
                break
            if c == p:
                logdet += nu * np.log(s)
            elif reml:
                logdet += np.log(s)
            K[c, c] = np.sqrt(s)
            for a in range(c + 1, p + 1):
                s = K[a, c]
                for d in range(c):
                    s -= K[a, d] * K[c, d]
                K[a, c] = s / K[c, c]
        out[i] = logdet if fine else np.inf
    return out


@part
def fill_design_table(
    ratios: np.ndarray, A: np.ndarray, Ax: np.ndarray, Axx: np.ndarray, reml: bool, weights: np.ndarray,
    logdets: np.ndarray, Ri: np.ndarray,
) -> None:  # fmt: skip
    """The design's part of `scalar_profile`, for many responses.

    Fills D / (1 + D a_l) of every ratio and level, (m, q); log|V|, under REML with log|X'V^-1 X|, (m,), inf
    where it cannot be computed; and inverse Cholesky factors of X'V^-1 X, (m, p, p).
    """
    p = Ri.shape[1]
    K = np.empty((p, p))
    for i in range(ratios.size):
        D = ratios[i]
        for a in range(p):
            for b in range(a + 1):
                K[a, b] = Axx[a, b]
        logdet = 0.0
        for l in range(A.shape[0]):  # noqa: E741
            g = 1.0 + D * A[l, 0, 0]
            logdet += np.log(g)
            w = D / g
            weights[i, l] = w
            for a in range(p):
                s = w * Ax[l, 0, a]
                for b in range(a + 1):
                    K[a, b] -= s * Ax[l, 0, b]
        border = inverse_cholesky(K, Ri[i])
        if reml or not np.isfinite(border):
            logdet += border
        logdets[i] = logdet if np.isfinite(logdet) else np.inf


@part
def fill_profile(
    Ax: np.ndarray, Axx: np.ndarray, nu: float, weights: np.ndarray, logdets: np.ndarray, Ri: np.ndarray,
    room: np.ndarray, table: np.ndarray,
) -> None:  # fmt: skip
    """As `scalar_profile`, from the design's part; room (p + 2, at least q and p)."""
    p, q = Ri.shape[1], Ax.shape[0]
    for l in range(q):  # noqa: E741
        y = Ax[l, 0, p]
        for a in range(p + 1):
            room[a, l] = Ax[l, 0, a] * y
    for i in range(table.size):
        r2 = Axx[p, p]
        for l in range(q):  # noqa: E741
            r2 -= weights[i, l] * room[p, l]
        for a in range(p):
            s = Axx[p, a]
            for l in range(q):  # noqa: E741
                s -= weights[i, l] * room[a, l]
            room[p + 1, a] = s
        for a in range(p):
            z = 0.0
            for b in range(a + 1):
                z += Ri[i, a, b] * room[p + 1, b]
            r2 -= z * z
        fine = r2 > 0.0 and np.isfinite(logdets[i])
        table[i] = logdets[i] + nu * np.log(r2) if fine else np.inf
