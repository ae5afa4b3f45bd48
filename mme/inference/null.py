"""The null distribution of a likelihood ratio between two models, one in the other's columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..engine.direct.hessian import second_derivatives
from ..engine.direct.objective import Objective
from ..engine.direct.point import KeptColumns, Point
from ..engine.equations.equations import Equations
from ..engine.runtime.parallel import single_threaded_blas
from ..exceptions import InferenceError
from ..fit.fitted import Fitted
from .mixtures import Mixture, NullSpace, cone_mixture, is_known
from .variances import inner_directions

__all__ = ["null_mixture", "null_spaces"]

_ABSENT = 1e-8  # variance beside the largest, in the equations' basis, of what the hypothesis has not


def null_spaces(equations: Equations, generic: Sequence[np.ndarray]) -> list[NullSpace]:
    """Combinations of effects, in the equations' basis, without variance in a model inside the larger one.

    Parameters
    ----------
    equations : Equations
        The larger model's.
    generic : sequence of ndarray, shapes (k_t, k_t)
        D of its terms at a point inside the smaller model, where nothing is singular but what must be.
    """
    out = []
    inner = [R @ D @ R.T for R, D in zip(equations.term_bases(), generic, strict=True)]
    largest = max((float(np.linalg.norm(D, 2)) for D in inner), default=0.0)
    for t, (place, D) in enumerate(zip(equations.layout.places, inner, strict=True)):
        for block in map(list, place.structure.blocks(place.k)):
            w, V = np.linalg.eigh(D[np.ix_(block, block)])
            absent = w <= _ABSENT * largest
            if np.any(absent):
                U = np.zeros((place.k, int(np.sum(absent))))
                U[block] = V[:, absent]
                out.append(NullSpace(t, U))
    return out


def null_mixture(
    fitted: Fitted,
    D: Sequence[np.ndarray],
    sigma2: float,
    generic: Sequence[np.ndarray],
    free_below: int,
    what: str,
    fixed: int = 0,
) -> Mixture:
    """Null distribution of twice the gain in log-likelihood of a model over one inside it.

    Parameters
    ----------
    fitted : Fitted
        The larger model's.
    D : sequence of ndarray, shapes (k_t, k_t)
        Relative covariances of its terms at the smaller model's estimate.
    sigma2 : float
        Residual variance there.
    generic : sequence of ndarray
        As in `null_spaces`.
    free_below : int
        Covariance parameters of the smaller model.
    what : str
        What wants it, for messages.
    fixed : int
        Fixed effects that are tested with them.

    Raises
    ------
    InferenceError
        More than one variance is at the boundary, and the fit has no factorization.
    """
    equations = fitted.objective().eq
    nulls = null_spaces(equations, generic)
    ranks = [null.U.shape[1] for null in nulls]
    lineality = equations.layout.n_theta - sum(r * (r + 1) // 2 for r in ranks)
    free = lineality - free_below + fixed
    if is_known(nulls):
        return cone_mixture(free, nulls)
    information = _expected_information(fitted, D, sigma2, what)
    return cone_mixture(free, nulls, information, inner_directions(equations))


def _expected_information(fitted: Fitted, D: Sequence[np.ndarray], sigma2: float, what: str) -> np.ndarray:
    """About the entries of R D R' and the residual variance, of other variances than the estimate."""
    objective, design = fitted.objective(), fitted.design
    if not isinstance(objective, Objective) or design is None or fitted.monte_carlo is not None:
        raise InferenceError(
            f"{what}: several variances are tested together, whose distribution at the boundary needs a "
            "factorization. Fit with solver='direct'."
        )
    with single_threaded_blas():
        lams = [
            term.structure.triangular(_root(matrix)) for term, matrix in zip(design.terms, D, strict=True)
        ]
        point = Point(objective, design, KeptColumns(design, objective.eq.fixed.kept), lams, True)
        directions = inner_directions(objective.eq)
        second = second_derivatives(point, directions, fitted.reml)
        slopes = point.trace_slope()
    m = len(directions)
    out = np.empty((m + 1, m + 1))
    out[:m, :m] = second.traces
    out[:m, m] = out[m, :m] = [-2.0 * float(np.sum(E * slopes[t])) / sigma2 for t, E in directions]
    out[m, m] = fitted.nu / sigma2**2
    return 0.5 * out


def _root(D: np.ndarray) -> np.ndarray:
    w, V = np.linalg.eigh(D)
    return V * np.sqrt(np.maximum(w, 0.0))
