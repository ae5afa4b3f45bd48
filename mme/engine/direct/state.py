"""What one factorization of the mixed-model equations gives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..equations.equations import Equations

__all__ = ["State"]


@dataclass(eq=False)
class State:
    """Everything one factorization gives; the objective keeps it for the last theta.

    Attributes
    ----------
    eq : Equations
    given : ndarray, shape (n_theta,), or None
        theta of the design's columns, where the factorization was asked for by it.
    standard : ndarray, shape (n_theta,)
        theta of the columns in the equations' basis.
    inner : list of ndarray, shapes (k_t, k_t)
        Its factors.
    lam1, D1 : ndarray, shape (k1, k1)
        The leading block's factor and relative covariance.
    lam2 : list of ndarray
        Factors of the rest's blocks.
    K2x, Kxx : ndarrays, shapes (q2, p + 1), (p + 1, p + 1)
        [Z_2 X]'V_1^-1[X y].
    U, Y : ndarrays, shape (q2, p + 1)
        lam2'K2x and S^-1 U.
    Ri : ndarray, shape (p, p)
        Inverse of the Cholesky factor of X'V^-1X, in the orthonormal basis of X.
    logdet : float
        log|M| (REML) or log|lam'A lam + I| (ML).
    b : ndarray, shape (p,)
    r2, deviance, sigma2 : float
    noise : float
        Estimated rounding error of the deviance.
    exact : bool
        Whether the factorization is still that of theta (and not of floored factors).
    FA : ndarray, shape (q1, k1, p + 1), or None
        Z_1'V_1^-1[X y], made when asked for.
    """

    eq: Equations
    given: np.ndarray | None
    standard: np.ndarray
    inner: list[np.ndarray]
    lam1: np.ndarray
    D1: np.ndarray
    lam2: list[np.ndarray]
    K2x: np.ndarray
    Kxx: np.ndarray
    U: np.ndarray
    Y: np.ndarray
    Ri: np.ndarray  # inverse of the Cholesky factor of X'V^-1X, in the orthonormal basis
    logdet: float
    b: np.ndarray
    r2: float
    deviance: float
    sigma2: float
    noise: float = 0.0
    exact: bool = True
    FA: np.ndarray | None = None

    @cached_property
    def theta(self) -> np.ndarray:
        """Of the design's columns."""
        return self.eq.from_standard(self.standard) if self.given is None else self.given

    @cached_property
    def lams(self) -> list[np.ndarray]:
        """Factors of the design's columns, shapes (k_t, k_t)."""
        return self.eq.factors(self.theta)
