"""Degrees of freedom of the fixed effects: Satterthwaite's, and Kenward and Roger's with their covariance.

With C = sigma2 (X'V^-1 X)^-1, A the covariance of the estimated variances and g the derivative of l'Cl in
them,

    df = 2 (l'Cl)^2 / g'A g

(Satterthwaite 1946, Biometrics Bulletin 2; Giesbrecht & Burns 1985, Biometrics 41).  Kenward & Roger (1997,
Biometrics 53, 983-997) add to C what the estimated variances hide and scale the F of several rows; for one
row their df are these with their A, and the scale is one.  All of it is a contraction of A with tensors in
V's parameters, so that (D, sigma2) serves as well as (sigma2 D, sigma2), in which V is linear: with the
columns of X turned into Q R^-1, Q'V^-1 Q = R'R, and half, inner of
`mme.engine.direct.hessian.SecondDerivatives`,

    dC / dD_i -> sigma2 half_i,     dC / dsigma2 -> 1,
    C adjusted -> sigma2 (1 + 2 sum_ij A_ij (inner_ij - half_i half_j)),

the sum over the entries of D alone: what sigma2 would add cancels.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine.direct.hessian import SecondDerivatives, second_derivatives
from ..engine.runtime.parallel import single_threaded_blas
from ..exceptions import InferenceError
from ..fit.fitted import Fitted
from .variances import Around, InnerCovariance, expected_covariance, inner_directions, observed_covariance

__all__ = [
    "FTest",
    "SmallSample",
    "adjustment",
    "fai_cornelius",
    "independent",
    "kenward_roger_f",
    "sample_at",
    "satterthwaite",
    "small_sample",
]

_DEPENDENT = 1e-10  # singular value, of rows with unit variances, from which they count as independent
_NO_MEAN = 2.01
_DEPENDS = 1e-5  # relative change of a variance along a flat direction from which it counts as not told


@dataclass(frozen=True)
class FTest:
    """An F test.

    Attributes
    ----------
    F : float
    df1, df2 : float
        Independent rows of the hypothesis; degrees of freedom of the denominator.
    """

    F: float
    df1: float
    df2: float


@dataclass(frozen=True, eq=False)
class SmallSample:
    """What degrees of freedom are made of; arrays alone.

    Attributes
    ----------
    unit : ndarray, shape (rank, rank)
        R^-T T', columns the kept coefficients: sigma2 unit'unit is their covariance.
    sigma2 : float
    half, inner : ndarray, shapes (m, rank, rank), (m, m, rank, rank)
        As in `mme.engine.direct.hessian.SecondDerivatives`.
    parameters : InnerCovariance
        Covariance of the estimated variances.
    bend : ndarray, shape (rank, rank), or None
        What the second derivatives of V add to Kenward and Roger's adjustment, where V is not linear in its
        parameters.
    """

    unit: np.ndarray
    sigma2: float
    half: np.ndarray
    inner: np.ndarray
    parameters: InnerCovariance
    bend: np.ndarray | None = field(default=None, kw_only=True)

    def adjustment(self) -> np.ndarray:
        """Of the covariance of coefficients along the rows of `unit`, over sigma2, shape (rank, rank)."""
        out = adjustment(self.half, self.inner, self.parameters.covariance)
        return out if self.bend is None else out + self.bend

    def covariance(self, adjusted: bool) -> np.ndarray:
        """Covariance of the kept coefficients, Kenward and Roger's if `adjusted`, shape (rank, rank).

        NaN in a direction whose adjustment depends on variances that the data do not tell.
        """
        if not adjusted:
            return self.sigma2 * self.unit.T @ self.unit
        A = self.adjustment()
        return self.sigma2 * self.unit.T @ (np.eye(self.unit.shape[0]) + A) @ self.unit

    def variances(self, L: np.ndarray, adjusted: bool) -> np.ndarray:
        """Variances of the rows L b, L (q, rank), shape (q,); columns far from zero cost no digits."""
        u = self.unit @ L.T
        size = np.sum(u * u, axis=0)
        if adjusted:
            A = self.adjustment()
            size = size + np.einsum("xq,xy,yq->q", u, A, u)
        return self.sigma2 * size

    def roots(self, L: np.ndarray, adjusted: bool) -> np.ndarray:
        """Rows K (q, rank) with K K' the covariance of the rows L b."""
        u = self.unit @ L.T
        if adjusted:
            A = self.adjustment()
            if not np.all(np.isfinite(A)):
                return np.full(u.T.shape, np.nan)
            w, P = np.linalg.eigh(np.eye(len(u)) + A)
            u = (P * np.sqrt(np.maximum(w, 0.0))).T @ u
        return np.sqrt(self.sigma2) * u.T

    def degrees(self, L: np.ndarray) -> np.ndarray:
        """Degrees of freedom of every row of L (q, rank), shape (q,); NaN where the data do not tell them."""
        return satterthwaite(self.unit @ L.T, self.half, self.sigma2, self.parameters)

    def f_test(self, L: np.ndarray, difference: np.ndarray, adjusted: bool) -> FTest:
        """Whether L b differs from a value.

        Parameters
        ----------
        L : ndarray, shape (q, rank)
            Dependent rows count once.
        difference : ndarray, shape (q,)
            L b less the value.
        adjusted : bool
            Kenward and Roger's, else Fai and Cornelius'.
        """
        U, t = independent(self.unit @ L.T, difference)
        t, q = t / np.sqrt(self.sigma2), t.size
        if q == 0:
            return FTest(np.nan, np.nan, np.nan)
        if not adjusted:
            df = fai_cornelius(satterthwaite(U, self.half, self.sigma2, self.parameters))
            return FTest(float(np.mean(t * t)), q, df)
        A = self.adjustment()
        C = np.eye(q) + U.T @ A @ U
        scale, df = kenward_roger_f(U, self.half, self.sigma2, self.parameters.covariance)
        if np.any(np.isnan(satterthwaite(U, self.half, self.sigma2, self.parameters))):
            df = np.nan
        return FTest(scale * float(t @ np.linalg.solve(C, t)) / q, q, df)


def small_sample(
    fitted: Fitted, what: str, information: str, cache: MutableMapping[str, Any] | None = None
) -> SmallSample:
    """The pieces at an estimate.

    Parameters
    ----------
    fitted : Fitted
    what : str
        What wants them, for the message.
    information : {"observed", "expected"}
        About the variances.
    cache : mapping, optional
        Filled, and used again.

    Raises
    ------
    InferenceError
        After an iterative fit; where the data were removed; where the estimate is no maximum of the
        likelihood.
    """
    cache = {} if cache is None else cache
    if information in cache:
        return cache[information]
    if fitted.restriction:
        raise InferenceError(
            f"{what} needs the maximum of the likelihood, and this fit has {fitted.restriction}. "
            "Use ddf='normal'."
        )
    with single_threaded_blas():  # as during a fit
        cache[information], cache["second"] = sample_at(
            fitted, fitted.point(what, standard=True), information, cache.get("second")
        )
    return cache[information]


def sample_at(
    fitted: Fitted, point: Around, information: str, second: SecondDerivatives | None = None
) -> tuple[SmallSample, SecondDerivatives]:
    """The pieces at a point, `fitted` being there; `second` in the directions of `inner_directions`."""
    if second is None:
        second = second_derivatives(point, inner_directions(point.equations), fitted.reml)
    covariance = observed_covariance if information == "observed" else expected_covariance
    root, _ = point.orthonormal_x()
    parameters = covariance(fitted, point, second)
    unit = np.linalg.solve(root.T, point.equations.fixed.T.T)
    return SmallSample(unit, fitted.sigma2, second.half, second.inner, parameters), second


def independent(u: np.ndarray, difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Independent combinations of rows whose covariance is u'u.

    Parameters
    ----------
    u : ndarray, shape (rank, q)
    difference : ndarray, shape (q,)

    Returns
    -------
    U : ndarray, shape (rank, r)
        Orthonormal columns: u along the eigenvectors of u'u.
    t : ndarray, shape (r,)
        The combinations' values over their standard errors.
    """
    size = np.linalg.norm(u, axis=0)
    used = size > 0.0
    u, difference = u[:, used], difference[used]
    if not u.size:
        return np.zeros((u.shape[0], 0)), np.zeros(0)
    rank = int(np.sum(np.linalg.svd(u / size[used], compute_uv=False) > _DEPENDENT))
    U, s, Vt = np.linalg.svd(u, full_matrices=False)
    return U[:, :rank], (Vt[:rank] @ difference) / s[:rank]


def satterthwaite(u: np.ndarray, half: np.ndarray, sigma2: float, parameters: InnerCovariance) -> np.ndarray:
    """Degrees of freedom of rows l of hypotheses, u = R^-T T'l.

    Parameters
    ----------
    u : ndarray, shape (rank, q)
    half : ndarray, shape (m, rank, rank)
    sigma2 : float
    parameters : InnerCovariance

    Returns
    -------
    ndarray, shape (q,)
    """
    size = np.sum(u * u, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # relative derivatives of the variances
        g = np.vstack([np.einsum("xq,ixy,yq->iq", u, half, u) / size, np.full((1, size.size), 1 / sigma2)])
        df = 2.0 / np.einsum("iq,ij,jq->q", g, parameters.covariance, g)
    told = np.all(np.abs(parameters.blind.T @ g) <= _DEPENDS, axis=0)
    return np.where(told & (size > 0.0), df, np.nan)


def adjustment(half: np.ndarray, inner: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """2 sum_ij A_ij (inner_ij - half_i half_j), shape (rank, rank); covariance A as `InnerCovariance`'s."""
    m = half.shape[0]
    A = covariance[:m, :m]
    weighted = np.tensordot(A, half, axes=(1, 0))
    out = 2.0 * (np.tensordot(A, inner, axes=2) - np.einsum("ixy,iyz->xz", half, weighted))
    return 0.5 * (out + out.T)


def kenward_roger_f(
    u: np.ndarray, half: np.ndarray, sigma2: float, covariance: np.ndarray
) -> tuple[float, float]:
    """Scale and denominator of Kenward and Roger's F of q rows, u as in `satterthwaite`, shape (rank, q)."""
    q = u.shape[1]
    Q = np.linalg.qr(u)[0]  # the test is of the space that the rows span
    G = np.concatenate([np.matmul(Q.T, np.matmul(half, Q)), np.eye(q)[None] / sigma2])
    traces = np.einsum("iaa->i", G)
    A1 = float(traces @ covariance @ traces)
    A2 = float(np.einsum("ij,iab,jba->", covariance, G, G, optimize=True))
    if q == 1:  # what the formulas below come to, where they are 0 / 0 too
        return 1.0, 2.0 / A2
    B = (A1 + 6.0 * A2) / (2.0 * q)
    g = ((q + 1.0) * A1 - (q + 4.0) * A2) / ((q + 2.0) * A2)
    c = 3.0 * q + 2.0 * (1.0 - g)
    v0, v1, v2 = 1.0 + g / c * B, 1.0 - (q - g) / c * B, 1.0 - (q + 2.0 - g) / c * B
    # V / (2 E^2), V the variance and E the mean of F to second order
    rho = v0 * (1.0 - A2 / q) ** 2 / (q * v1**2 * v2)
    df = 4.0 + (q + 2.0) / (q * rho - 1.0)
    # an F with two degrees of freedom or fewer has no mean to be matched
    return (df * (1.0 - A2 / q) / (df - 2.0) if df > _NO_MEAN else 1.0), df


def fai_cornelius(degrees: np.ndarray) -> float:
    """Denominator of the mean of q independent t^2 (Fai & Cornelius 1996, JSCS 54, 363-378).

    Equal degrees of freedom are theirs; else the F with the mean of the sum, which must exist: 2 if it does
    not.
    """
    q = degrees.size
    if np.any(np.isnan(degrees)):
        return np.nan
    if np.ptp(degrees) <= 1e-8 * np.max(degrees):
        return float(np.mean(degrees))
    if np.any(degrees <= 2.0):
        return 2.0
    E = float(np.sum(degrees / (degrees - 2.0)))
    return 2.0 * E / (E - q)
