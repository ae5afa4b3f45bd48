"""Deviance of a model with one scalar term of one factor, at many variance ratios."""

import numpy as np

from . import kernel


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
