"""The border of the mixed-model equations: fixed effects and residual sum of squares, on either path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...exceptions import EXPLAINED, EXPLAINED_BY_FIXED, PerfectFitError
from ..kernels.triangle import inverse_cholesky
from .equations import Equations

__all__ = ["Border", "check_residual", "response_scale", "solve_border"]

# Residual sum of squares left of the response's own below which the fit is perfect to rounding.
_PERFECT = 1e-12
_FEW = 16  # columns up to which loops are faster than calls of LAPACK
_EXPLAINED = 1e-24  # the response's own share that fixed effects leave


@dataclass(frozen=True, eq=False)
class Border:
    """What the border gives once the random effects are integrated out.

    Attributes
    ----------
    Ri : ndarray, shape (p, p)
        Inverse of the lower Cholesky factor of Q'V^-1Q, Q the orthonormal basis of X.
    b : ndarray, shape (p,)
        Generalized least squares estimate in that basis.
    r2 : float
        Residual sum of squares y'Py.
    logdet : float
        log|Q'V^-1Q|.
    """

    Ri: np.ndarray
    b: np.ndarray
    r2: float
    logdet: float


def solve_border(C: np.ndarray) -> Border:
    """The border from C = [Q y]'V^-1[Q y], shape (p + 1, p + 1).

    Raises
    ------
    numpy.linalg.LinAlgError
        Q'V^-1Q is not positive definite to working precision.
    """
    p = C.shape[0] - 1
    if p == 0:
        return Border(np.zeros((0, 0)), np.zeros(0), float(C[0, 0]), 0.0)
    if p <= _FEW:
        Ri = np.empty((p, p))
        logdet = inverse_cholesky(np.ascontiguousarray(C), Ri)
        if not np.isfinite(logdet):
            raise np.linalg.LinAlgError("the fixed effects' information is not positive definite.")
    else:
        R = np.linalg.cholesky(C[:p, :p])
        Ri = np.tril(np.linalg.inv(R))
        logdet = float(2.0 * np.sum(np.log(np.diag(R))))
    z = Ri @ C[:p, p]
    return Border(Ri, Ri.T @ z, float(C[p, p] - z @ z), logdet)


def response_scale(eq: Equations) -> float:
    """The response's sum of squares beside the fixed effects.

    Raises
    ------
    PerfectFitError
        Nothing is left.
    """
    response = eq.response
    if not response.yy > _EXPLAINED * response.total or response.yy == 0.0:
        raise PerfectFitError(EXPLAINED_BY_FIXED)
    return response.yy


def check_residual(r2: float, yy: float) -> None:
    """Raise PerfectFitError where no residual variation is left of a response of sum of squares yy."""
    if r2 <= _PERFECT * yy:
        raise PerfectFitError(EXPLAINED)
