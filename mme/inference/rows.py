"""What the mixed-model equations say of the rows of a fit, from which all diagnostics of rows are made.

With H the matrix that takes the response to the fitted values X b + Z u, W^-1 P = I - H (P = V^-1 - V^-1 X
(X'V^-1 X)^-1 X'V^-1), so that the leverages w_i Var(x_i'b + z_i'u) / sigma2 are all that is needed of P's
diagonal.  Rows of V^-1 X are w_i a_i with a = x - X'V^-1 Z D z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.direct.point import Point
from ..engine.equations.design import Design, RandomTerm
from ..engine.equations.points import Points, points_of
from ..engine.equations.prediction import PriorInverse, prediction_variances
from ..engine.runtime.scipys import scipy_module
from ..exceptions import InferenceError
from ..fit.fitted import Fitted
from .prediction import related_variances

__all__ = [
    "FitRows",
    "check_scale",
    "coefficients",
    "design_of",
    "fit_rows",
    "has_scale",
    "marginal_residual",
    "random_part",
    "random_variances",
]


@dataclass(frozen=True, eq=False)
class FitRows:
    """The rows of a fit in the equations' basis.

    Attributes
    ----------
    point : Point
        In the equations' basis.
    inverse : PriorInverse
    points : Points
    weights : ndarray, shape (n,)
    residual : ndarray, shape (n,)
        y - X b - Z u.
    marginal : ndarray, shape (n,)
        y - X b.
    leverage : ndarray, shape (n,)
        w (Var(x'b + z'u)) / sigma2.
    a : ndarray, shape (n, rank)
        Rows of W^-1 V^-1 X.
    half, half_x : ndarray, shape (n, rank)
        a and x times R^-1: a'(X'V^-1 X)^-1 a is a sum of squares.
    """

    point: Point
    inverse: PriorInverse
    points: Points
    weights: np.ndarray
    residual: np.ndarray
    marginal: np.ndarray
    leverage: np.ndarray
    a: np.ndarray
    half: np.ndarray
    half_x: np.ndarray

    @property
    def fixed(self) -> np.ndarray:
        """Variances of a'b over sigma2, shape (n,)."""
        return np.sum(self.half * self.half, axis=1)

    @property
    def leverage_fixed(self) -> np.ndarray:
        """Diagonal of X (X'V^-1 X)^-1 X'V^-1, shape (n,)."""
        return self.weights * np.sum(self.half * self.half_x, axis=1)


def design_of(fitted: Fitted, what: str) -> Design:
    """The design.

    Raises
    ------
    InferenceError
        The data were removed.
    """
    if fitted.design is None:
        raise InferenceError(f"{what} needs the design, and the data were removed.")
    return fitted.design


def has_scale(fitted: Fitted) -> bool:
    """Whether there is residual variance: none in the limit of an exact fit."""
    return fitted.sigma2 > 0.0 and not np.isposinf(fitted.loglik)


def check_scale(fitted: Fitted, what: str) -> None:
    """Refuse fits without residual variance, as in the limit of an exact fit.

    Raises
    ------
    InferenceError
    """
    if not has_scale(fitted):
        raise InferenceError(
            f"{what}: the residual variance is zero, the model explains the response exactly; residuals have "
            "no scale."
        )


def coefficients(fitted: Fitted) -> np.ndarray:
    """Fixed effects, zero where a dependent column was dropped."""
    return np.where(np.isnan(fitted.beta), 0.0, fitted.beta)


def fit_rows(fitted: Fitted, what: str) -> FitRows:
    """The rows of a direct fit.

    Parameters
    ----------
    fitted : Fitted
    what : str
        What wants it, for messages.

    Raises
    ------
    InferenceError
        After an iterative fit; the data were removed.
    """
    design = design_of(fitted, what)
    point = fitted.point(what, standard=True)
    eq, inverse = point.equations, point.prior_inverse()
    terms: list[Any] = [_cells(term) for term in design.terms]
    points = points_of(eq, design.X[:, eq.fixed.kept], terms)
    w = np.ones(design.n) if design.weights is None else design.weights
    variance = prediction_variances(eq, inverse, points)
    a = points.x - points.rest @ inverse.rest_x
    if eq.layout.has_lead:
        a -= np.einsum("na,nap->np", points.z1, inverse.lead_x[points.lead])
    half, half_x = (np.linalg.solve(inverse.root.T, m.T).T for m in (a, points.x))
    marginal = marginal_residual(fitted, design)
    return FitRows(
        point,
        inverse,
        points,
        w,
        marginal - random_part(fitted, design),
        marginal,
        w * variance,
        a,
        half,
        half_x,
    )


def marginal_residual(fitted: Fitted, design: Design) -> np.ndarray:
    """y - X b, the offset taken out, shape (n,)."""
    fixed = design.X @ coefficients(fitted)
    return design.y - (fixed if design.offset is None else fixed + design.offset)


def random_part(fitted: Fitted, design: Design) -> np.ndarray:
    """Z u, shape (n,)."""
    assert fitted.modes is not None
    out = np.zeros(design.n)
    for term, u in zip(design.terms, fitted.modes(), strict=True):
        out += term.times(u)
    return out


def random_variances(fitted: Fitted, design: Design) -> np.ndarray:
    """Diagonal of Z D Z', shape (n,)."""
    out = np.zeros(design.n)
    for term, lam in zip(design.terms, fitted.lam, strict=True):
        if term.relation is not None and term.Z is not None:
            out += related_variances(term.relation, scipy_module("sparse").csr_array(term.Z), lam)
        elif term.relation is not None:
            columns = np.ones((design.n, 1)) if term.columns is None else term.columns
            out += term.relation.diagonal[term.codes] * np.sum((columns @ lam) ** 2, axis=1)
        elif term.Z is not None:
            squared = scipy_module("sparse").csr_array(term.Z)
            out += float(lam[0, 0]) ** 2 * np.asarray((squared * squared).sum(axis=1)).ravel()
        elif term.columns is None:
            out += float(lam[0, 0]) ** 2
        else:
            out += np.sum((term.columns @ lam) ** 2, axis=1)
    return out


def _cells(term: RandomTerm) -> Any:
    if term.Z is not None:
        return scipy_module("sparse").csr_array(term.Z, dtype=np.float64)
    return term.codes, term.columns
