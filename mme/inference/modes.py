"""Errors of predicted random effects, level by level: numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..engine.equations.equations import Equations
from ..engine.equations.prediction import PriorInverse
from ..engine.runtime.parallel import single_threaded_blas
from ..exceptions import InferenceError
from ..fit.fitted import Fitted

if TYPE_CHECKING:  # the iterative path is loaded by the fits that take it
    from ..engine.iterative.marginal import IterativePoint

__all__ = ["ModeErrors", "mode_errors"]

_MOST = 2_000  # random effects of a term of an iterative fit that are solved for one by one unless asked
_BATCH = 20_000_000  # numbers of rows of the inverse held at once
_WHAT = "The variance of random effects"


@dataclass(frozen=True, eq=False)
class ModeErrors:
    """Of one term's predicted random effects, all of shape (m, k).

    Attributes
    ----------
    conditional : ndarray
        Variance given the response and the fixed effects (lme4's ``condVar``).
    prediction : ndarray
        Prediction error variance, Var(u^ - u): what the fixed effects' estimation adds as well.
    prior : ndarray
        Variances of the effects, sigma2 D_aa, times A_ll where levels are related.
    error : ndarray or None
        Monte Carlo standard errors of `conditional`, and of `prediction`; None where these were solved for.
    """

    conditional: np.ndarray
    prediction: np.ndarray
    prior: np.ndarray
    error: np.ndarray | None = None


def mode_errors(
    fitted: Fitted,
    terms: Sequence[int],
    levels: Sequence[np.ndarray | None] | None = None,
    estimated: bool | None = None,
    probes: int = 32,
) -> list[ModeErrors]:
    """Variances of the random effects given the variances, for levels of some terms.

    Parameters
    ----------
    fitted : Fitted
    terms : sequence of int
    levels : sequence of ndarray of int or None, optional
        Levels of each of `terms`; None: all.
    estimated : bool, optional
        After an iterative fit, whether variances are estimated for all levels at once, or solved for one by
        one; by default estimated where more than 2,000 effects of a term are asked for.
    probes : int
        Of the estimates, at least two.

    Returns
    -------
    list of ModeErrors, one per term asked for

    Raises
    ------
    InferenceError
        Data removed; solves that do not converge.
    """
    levels = [None] * len(terms) if levels is None else levels
    given: list[tuple[np.ndarray, np.ndarray | None]] = []
    with single_threaded_blas():
        if fitted.exact:
            point = fitted.point(_WHAT, standard=True, white=True)
            blocks = point.conditional_covariances()
            pairs = zip(terms, levels, strict=True)
            for t, at in pairs:
                given.append((_turned(point.equations, t, _some(blocks[t], at)), None))
            root, zq = point.orthonormal_x()
            eq = point.equations
        else:
            around = fitted.iterative_point(_WHAT, 1)
            eq = around.equations
            given = [
                _iterative(around, t, at, estimated, probes) for t, at in zip(terms, levels, strict=True)
            ]
            root, zq = around.orthonormal_x()
        out = []
        for t, at, (conditional, error) in zip(terms, levels, given, strict=True):
            R, lam = eq.term_basis(t), fitted.lam[t]
            inner = R @ lam
            relation = eq.layout.blocks[eq.layout.places[t].block].relation
            z = _some(zq[t] if relation is None else relation.related(zq[t]), at)
            # R D Z'V^-1 Q R^-1: what an error of the fixed effects moves the modes by
            half = np.matmul(inner @ inner.T, z)
            half = np.linalg.solve(
                root.T, half.reshape(half.shape[0] * half.shape[1], z.shape[2]).T
            ).T.reshape(half.shape)
            turned = np.matmul(np.linalg.inv(R), half)
            added = np.sum(turned * turned, axis=2)
            s2 = fitted.sigma2
            own_variance = np.ones(len(z)) if relation is None else _some(relation.diagonal, at)
            out.append(
                ModeErrors(
                    s2 * conditional,
                    s2 * (conditional + added),
                    s2 * own_variance[:, None] * np.sum(lam * lam, axis=1),
                    None if error is None else s2 * error,
                )
            )
    return out


def _some(values: np.ndarray, levels: np.ndarray | None) -> np.ndarray:
    return values if levels is None else values[levels]


def _turned(eq: Equations, t: int, blocks: np.ndarray) -> np.ndarray:
    """Variances of a term's effects from their covariances in the equations' basis, (m, k, k) -> (m, k)."""
    back = np.linalg.inv(eq.term_basis(t))
    return np.einsum("ab,lbc,ac->la", back, blocks, back)


def _iterative(
    around: IterativePoint, t: int, levels: np.ndarray | None, estimated: bool | None, probes: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Variances, shape (m, k), and their Monte Carlo errors where there are any."""
    eq = around.equations
    place = eq.layout.places[t]
    asked = np.arange(eq.layout.blocks[place.block].q) if levels is None else levels
    if estimated is None:
        estimated = asked.size * place.k > _MOST
    if not estimated:
        return _turned(eq, t, _blocks(eq, around.prior_inverse(), t, asked)), None
    found = around.level_variances(t, np.linalg.inv(eq.term_basis(t)), probes)
    if not found.converged:
        raise InferenceError(
            f"{_WHAT}: conjugate gradients did not converge. Ask for the levels that matter (term=, "
            "levels=), leave variances out (variances=False), or fit with solver='direct'."
        )
    return _some(found.value, levels), _some(found.error, levels)


def _blocks(eq: Equations, inverse: PriorInverse, t: int, levels: np.ndarray) -> np.ndarray:
    """Blocks of the inverse of the mixed-model equations, shape (m, k, k), in the equations' basis."""
    lay, place = eq.layout, eq.layout.places[t]
    if lay.has_lead and place.block == 0:
        return inverse.own(levels)[:, place.columns, place.columns]
    first = int(lay.offsets[place.block - int(lay.has_lead)])
    k = lay.blocks[place.block].k
    out = np.empty((levels.size, place.k, place.k))
    size = max(1, _BATCH // (lay.q2 * place.k))
    for i in range(0, levels.size, size):
        at = first + k * levels[i : i + size, None] + np.arange(place.first, place.first + place.k)
        asked, where = np.unique(at, return_inverse=True)
        rows = inverse.columns(asked)[where.reshape(at.shape)]
        out[i : i + size] = np.take_along_axis(rows, at[:, None, :], axis=2)
    return out
