"""Exact second derivatives of the likelihood in the covariances, crossed designs included.

With V = W^-1 + Z D Z', V_i = Z E_i Z' for a symmetric direction E_i of D, G = Z'V^-1 Z and h = Z'V^-1 [r X],

    tr(V^-1 V_i V^-1 V_j)     = sum_lm tr(E_i G_lm E_j G_ml),
    r'V^-1 V_i V^-1 V_j V^-1 r = h_r'E_i G E_j h_r,

and P in place of V^-1 takes away products of h with (X'V^-1 X)^-1.  Nothing is inverted that is singular
where D is.  Second derivatives of restricted likelihoods: Harville (1977, JASA 72, 320-338), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..covariance.derivatives import unit_matrix
from ..runtime.parallel import single_threaded_blas
from .second import LevelSums, Products

__all__ = [
    "Direction",
    "MarginalProducts",
    "SecondDerivatives",
    "deviance_hessian",
    "entry_directions",
    "second_derivatives",
    "traces_of",
]

Direction = tuple[int, np.ndarray]
"""A term of the design, and a symmetric matrix: dD / d(parameter)."""


class MarginalProducts(Protocol):
    """What second derivatives are made of: a `mme.engine.direct.point.Point`, or one without a factor."""

    def orthonormal_x(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """R and Z'V^-1 Q per term, R'R = Q'V^-1 Q."""

    def products(self, beta: np.ndarray | None) -> list[np.ndarray]:
        """Z'V^-1 r per term."""

    def times(self, w: list[np.ndarray]) -> list[np.ndarray]:
        """Z'V^-1 Z w per term."""

    def trace_products(self, turns: Sequence[np.ndarray] | None = None) -> Products:
        """Sums of products of blocks of Z'V^-1 Z."""

    def level_sums(self, h: list[np.ndarray]) -> LevelSums | None:
        """Sums over the levels of the only factor; None where there are others."""


@dataclass(frozen=True, eq=False)
class SecondDerivatives:
    """What second derivatives are made of, for m directions of D.

    Attributes
    ----------
    traces : ndarray, shape (m, m)
        tr(P V_i P V_j); V^-1 in place of P under ML.
    slope : ndarray, shape (m,)
        r'V^-1 V_i V^-1 r.
    curve : ndarray, shape (m, m)
        r'V^-1 V_i V^-1 V_j V^-1 r.
    mixed : ndarray, shape (m, rank)
        R^-T Q'V^-1 V_i V^-1 r, R'R = Q'V^-1 Q for an orthonormal basis Q of X: P in place of the middle V^-1
        takes mixed mixed' from `curve`.
    half : ndarray, shape (m, rank, rank)
        R^-T Q'V^-1 V_i V^-1 Q R^-1: derivatives of (X'V^-1 X)^-1.
    inner : ndarray, shape (m, m, rank, rank)
        R^-T Q'V^-1 V_i V^-1 V_j V^-1 Q R^-1.
    """

    traces: np.ndarray
    slope: np.ndarray
    curve: np.ndarray
    mixed: np.ndarray
    half: np.ndarray
    inner: np.ndarray


def entry_directions(term: int, entries: Sequence[tuple[int, int]], k: int) -> list[Direction]:
    """dD / d(entry) of a term's free entries."""
    return [(term, unit_matrix(a, b, k)) for a, b in entries]


def second_derivatives(
    point: MarginalProducts,
    directions: Sequence[Direction],
    reml: bool,
    beta: np.ndarray | None = None,
    turns: Sequence[np.ndarray] | None = None,
) -> SecondDerivatives:
    """Traces and quadratic forms at a point.

    Parameters
    ----------
    point : MarginalProducts
    directions : sequence of (int, ndarray)
        In the basis of the point.
    reml : bool
    beta : ndarray, shape (k_fe,), optional
        Fixed effects at which the residual r is taken; by default their estimate.
    turns : sequence of ndarray, shapes (k_t, k_t), optional
        B per term, its directions being B E B': with the eigenvectors of D in B, directions of large and of
        no variance keep their digits beside one another.

    Returns
    -------
    SecondDerivatives
    """
    with single_threaded_blas():  # as during a fit: a BLAS that waits by spinning takes the kernels' time
        return _second_derivatives(point, directions, reml, beta, turns)


def _second_derivatives(
    point: MarginalProducts,
    directions: Sequence[Direction],
    reml: bool,
    beta: np.ndarray | None,
    turns: Sequence[np.ndarray] | None,
) -> SecondDerivatives:
    root, zq = point.orthonormal_x()
    h = [np.concatenate([z[:, :, None], x], axis=2) for z, x in zip(point.products(beta), zq, strict=True)]
    sums = point.level_sums(h) if turns is None else None
    if sums is None:
        traces, moments, crossed = _contracted(point, directions, h, turns)
    else:
        traces, moments, crossed = _of_levels(sums, directions, [v.shape[1] for v in h])
    width = moments.shape[1]
    root = np.linalg.inv(root)
    mixed = moments[:, 0, 1:] @ root
    half = np.matmul(root.T, np.matmul(moments[:, 1:, 1:], root))
    inner = np.matmul(root.T, np.matmul(crossed[:, :, 1:, 1:], root))
    if reml and width > 1:
        traces = traces - 2.0 * np.einsum("ijaa->ij", inner) + np.einsum("ixy,jyx->ij", half, half)
    return SecondDerivatives(
        0.5 * (traces + traces.T), moments[:, 0, 0], crossed[:, :, 0, 0], mixed, half, inner
    )


def _contracted(
    point: MarginalProducts,
    directions: Sequence[Direction],
    h: list[np.ndarray],
    turns: Sequence[np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tr(V^-1 V_i V^-1 V_j), h'E_i h and h'E_i G E_j h, by a product with G per direction."""
    m = len(directions)
    grams = point.trace_products(turns)
    if turns is not None:
        h = [np.matmul(B.T, v) for B, v in zip(turns, h, strict=True)]
    width = h[0].shape[2]
    traces, crossed = traces_of(grams, directions), np.zeros((m, m, width, width))
    moments = np.zeros((m, width, width))
    for j, (t, E) in enumerate(directions):
        turned = np.matmul(E, h[t])
        moments[j] = np.tensordot(h[t], turned, axes=([0, 1], [0, 1]))
        w = [np.zeros_like(v) for v in h]
        w[t] = turned if turns is None else np.matmul(turns[t], turned)
        back = point.times(w)
        if turns is not None:
            back = [np.matmul(B.T, v) for B, v in zip(turns, back, strict=True)]
        for i, (s, F) in enumerate(directions[: j + 1]):
            crossed[i, j] = np.tensordot(np.matmul(F, h[s]), back[s], axes=([0, 1], [0, 1]))
            crossed[j, i] = crossed[i, j].T
    return traces, moments, crossed


def _of_levels(
    sums: LevelSums, directions: Sequence[Direction], sizes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same from sums over the levels of the only factor."""
    k, first = sums.grams.shape[0], np.concatenate(([0], np.cumsum(sizes)))
    E = np.zeros((len(directions), k, k))
    for i, (t, own) in enumerate(directions):
        E[i, first[t] : first[t + 1], first[t] : first[t + 1]] = own
    traces = np.einsum("iab,jcd,bacd->ij", E, E, sums.grams, optimize=True)
    moments = np.einsum("iad,adxy->ixy", E, sums.moments)
    crossed = np.einsum("iab,jcd,adxybc->ijxy", E, E, sums.crossed, optimize=True)
    return traces, moments, crossed


def traces_of(grams: Products, directions: Sequence[Direction]) -> np.ndarray:
    """tr(V^-1 V_i V^-1 V_j) from sums of products of blocks of Z'V^-1 Z, shape (m, m)."""
    traces = np.zeros((len(directions),) * 2)
    for j, (t, E) in enumerate(directions):
        for i, (s, F) in enumerate(directions[: j + 1]):
            traces[i, j] = traces[j, i] = np.einsum("ab,cd,bacd->", F, E, grams[s, t])
    return traces


def deviance_hessian(second: SecondDerivatives, r2: float, nu: int) -> np.ndarray:
    """Second derivatives of the deviance in D and the residual variance, fixed effects profiled out.

    Parameters
    ----------
    second : SecondDerivatives
        At the estimate of the fixed effects.
    r2 : float
        r'V^-1 r there.
    nu : int
        Degrees of freedom of the residual variance.

    Returns
    -------
    ndarray, shape (m + 1, m + 1)
        At sigma2 = r2 / nu, whose row and column are the last:
        -2l = log|V| [+ log|X'V^-1X|] + nu log(sigma2) + r2(D) / sigma2.
    """
    sigma2, m = r2 / nu, second.slope.size
    H = np.empty((m + 1, m + 1))
    H[:m, :m] = -second.traces + 2.0 * (second.curve - second.mixed @ second.mixed.T) / sigma2
    H[:m, m] = H[m, :m] = second.slope / sigma2**2
    H[m, m] = nu / sigma2**2
    return H
