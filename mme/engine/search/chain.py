"""The chain rule from derivatives in R D R' to those in D and in theta, for every objective."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..covariance.derivatives import congruence, factor_jacobian
from ..equations.equations import Equations

__all__ = ["Derivatives", "gradient_in_basis", "in_theta"]


class Derivatives(NamedTuple):
    """Derivatives of a deviance.

    Attributes
    ----------
    N : list of ndarray, shapes (k_t, k_t)
        In D_t of the design's columns.
    gradient : ndarray, shape (n_theta,)
    information_D, information : ndarray, shape (n_theta, n_theta), or None
        In the free entries of D, and in theta.
    """

    N: list[np.ndarray]
    gradient: np.ndarray
    information_D: np.ndarray | None
    information: np.ndarray | None


def gradient_in_basis(eq: Equations, inner: list[np.ndarray], N_basis: list[np.ndarray]) -> np.ndarray:
    """2 N lam in the equations' basis, shape (n_theta,); inner inner' = R D R'."""
    gradient = np.empty(eq.layout.n_theta)
    for place, lam, N in zip(eq.layout.places, inner, N_basis, strict=True):
        full = 2.0 * N @ lam
        gradient[place.theta] = [full[a, b] for a, b in place.entries]
    return gradient


def in_theta(
    eq: Equations,
    lams: list[np.ndarray],
    N_basis: list[np.ndarray],
    information_basis: np.ndarray | None = None,
) -> Derivatives:
    """N = R'N_basis R, gradient 2 N lam, and the information by the Jacobians of D and of R D R'.

    Parameters
    ----------
    eq : Equations
    lams : list of ndarray, shapes (k_t, k_t)
        Factors of the design's columns.
    N_basis : list of ndarray, shapes (k_t, k_t)
        Derivatives in R D R', symmetric.
    information_basis : ndarray, shape (n_theta, n_theta), optional
        In the free entries of R D R'.
    """
    m = eq.layout.n_theta
    N, gradient = [], np.empty(m)
    for t, (place, R) in enumerate(zip(eq.layout.places, eq.term_bases(), strict=True)):
        N.append(R.T @ N_basis[t] @ R)
        full = 2.0 * R.T @ (N_basis[t] @ (R @ lams[t]))
        gradient[place.theta] = [full[a, b] for a, b in place.entries]
    if information_basis is None:
        return Derivatives(N, gradient, None, None)
    J, K = np.zeros((m, m)), np.zeros((m, m))
    for place, R, lam in zip(eq.layout.places, eq.term_bases(), lams, strict=True):
        J[place.theta, place.theta] = factor_jacobian(lam, place.entries)
        K[place.theta, place.theta] = congruence(R, place.entries)
    information_D = K.T @ information_basis @ K
    return Derivatives(N, gradient, information_D, J.T @ information_D @ J)
