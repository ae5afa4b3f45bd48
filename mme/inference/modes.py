"""Errors of predicted random effects, level by level: numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..engine.equations.equations import Equations
from ..engine.equations.prediction import PriorInverse
from ..engine.runtime.parallel import single_threaded_blas
from ..exceptions import InferenceError
from ..fit.fitted import Fitted

__all__ = ["ModeErrors", "mode_errors"]

_MOST = 2_000  # levels of an iterative fit whose variances are solved for
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
    """

    conditional: np.ndarray
    prediction: np.ndarray
    prior: np.ndarray


def mode_errors(
    fitted: Fitted, terms: Sequence[int], levels: Sequence[np.ndarray | None] | None = None
) -> list[ModeErrors]:
    """Variances of the random effects given the variances, for levels of some terms.

    Parameters
    ----------
    fitted : Fitted
    terms : sequence of int
    levels : sequence of ndarray of int or None, optional
        Levels of each of `terms`; None: all.

    Returns
    -------
    list of ModeErrors, one per term asked for

    Raises
    ------
    InferenceError
        Data removed; more levels of an iterative fit than can be solved for.
    """
    levels = [None] * len(terms) if levels is None else levels
    with single_threaded_blas():
        if fitted.exact:
            point = fitted.point(_WHAT, standard=True)
            blocks = point.conditional_covariances()
            own = [blocks[t] if at is None else blocks[t][at] for t, at in zip(terms, levels, strict=True)]
            root, zq = point.orthonormal_x()
            eq = point.equations
        else:
            around = fitted.iterative_point(_WHAT, 1)
            eq = around.equations
            inverse = around.prior_inverse()
            places, sizes = eq.layout.places, [t.n_levels for t in fitted.labels.terms]
            asked = [np.arange(sizes[t]) if at is None else at for t, at in zip(terms, levels, strict=True)]
            number = sum(at.size * places[t].k for t, at in zip(terms, asked, strict=True))
            if number > _MOST:
                raise InferenceError(
                    f"variances of {number} random effects of an iterative fit take a solve each: name at "
                    f"most {_MOST} (term=, levels=), leave them out (variances=False), or fit with "
                    "solver='direct'."
                )
            own = [_iterative(eq, inverse, t, at) for t, at in zip(terms, asked, strict=True)]
            root, zq = around.orthonormal_x()
        out = []
        for t, at, C in zip(terms, levels, own, strict=True):
            R, lam = eq.term_basis(t), fitted.lam[t]
            inner = R @ lam
            relation = eq.layout.blocks[eq.layout.places[t].block].relation
            z = zq[t] if relation is None else relation.related(zq[t])
            z = z if at is None else z[at]
            # R D Z'V^-1 Q R^-1: what an error of the fixed effects moves the modes by
            half = np.matmul(inner @ inner.T, z)
            half = np.linalg.solve(root.T, half.reshape(-1, z.shape[2]).T).T.reshape(half.shape)
            back = np.linalg.inv(R)
            turned = np.matmul(back, half)
            conditional = np.einsum("ab,lbc,ac->la", back, C, back)
            added = np.sum(turned * turned, axis=2)
            s2 = fitted.sigma2
            own_variance = np.ones(len(z)) if relation is None else relation.diagonal
            if relation is not None and at is not None:
                own_variance = own_variance[at]
            prior = s2 * own_variance[:, None] * np.sum(lam * lam, axis=1)
            out.append(ModeErrors(s2 * conditional, s2 * (conditional + added), prior))
    return out


def _iterative(eq: Equations, inverse: PriorInverse, t: int, levels: np.ndarray) -> np.ndarray:
    """Blocks of the inverse of the mixed-model equations, shape (m, k, k), in the equations' basis."""
    lay, place = eq.layout, eq.layout.places[t]
    if lay.has_lead and place.block == 0:
        return inverse.own(levels)[:, place.columns, place.columns]
    first = int(lay.offsets[place.block - int(lay.has_lead)])
    k = lay.blocks[place.block].k
    at = first + k * levels[:, None] + np.arange(place.first, place.first + place.k)
    asked, where = np.unique(at, return_inverse=True)
    rows = inverse.columns(asked)[where.reshape(at.shape)]
    return np.take_along_axis(rows, at[:, None, :], axis=2)
