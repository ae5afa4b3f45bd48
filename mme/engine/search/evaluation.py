"""What an objective says of one theta."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Evaluation"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Objective at one theta.

    Attributes
    ----------
    theta : ndarray, shape (n_theta,)
    deviance : float
        -2 (restricted) log-likelihood, profiled over the fixed effects and sigma2.
    sigma2 : float
    N : list of ndarray, shapes (k_t, k_t), or None
        Derivative of the deviance with respect to D_t (as a symmetric matrix), per term.
    gradient : ndarray, shape (n_theta,), or None
        Derivative with respect to theta.
    information_D : ndarray, shape (n_theta, n_theta), or None
        Average information (an approximation to the Hessian of the deviance) in the free entries of D.
    information : ndarray or None
        The same in theta.
    N_basis, information_basis : or None
        N and information_D with respect to R D R', R the basis of the equations: the well-conditioned form
        that the optimizer uses where it is given.
    noise : float
        Estimate of the deviance's rounding error: what the cross-products lose where variances are so large
        that little of X'WX or y'Wy survives in the metric V^-1.
    """

    theta: np.ndarray
    deviance: float
    sigma2: float
    N: list[np.ndarray] | None = None
    gradient: np.ndarray | None = None
    information_D: np.ndarray | None = None
    information: np.ndarray | None = None
    N_basis: list[np.ndarray] | None = None
    information_basis: np.ndarray | None = None
    noise: float = 0.0
