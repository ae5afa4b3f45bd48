"""What an objective says of one theta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

__all__ = ["Evaluation", "Solution"]


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

    def derivatives(self) -> tuple[list[np.ndarray], np.ndarray]:
        """N and the information in the equations' basis where they are given in it, else in the design's."""
        in_basis = self.N_basis is not None
        N = self.N_basis if in_basis else self.N
        information = self.information_basis if in_basis else self.information_D
        assert N is not None and information is not None  # of order 2
        return N, information


class Solution(TypedDict):
    """What an objective with a deviance says at its optimum: fixed effects and conditional modes too.

    `theta` is of the design's columns; `beta` (p,), `vcov` and `root` (p, p) are the fixed effects of the
    kept columns, their covariance and a root of it; `u` are the random effects (q_t, k_t) of every term, on
    the data's scale.
    """

    theta: np.ndarray
    beta: np.ndarray
    vcov: np.ndarray
    root: np.ndarray
    u: list[np.ndarray]
    sigma2: float
    deviance: float
