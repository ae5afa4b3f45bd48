"""Shares of variance: marginal and conditional R2, intraclass correlations.

With f = var(X b) over the rows, r = mean of z'T z over the rows, summed over the random terms (T the
covariance of a term's effects), and e the residual variance,

    R2 marginal = f / (f + r + e),   R2 conditional = (f + r) / (f + r + e),
    ICC adjusted = r / (r + e),      ICC unadjusted = r / (f + r + e)

(Nakagawa & Schielzeth 2013, Methods in Ecology and Evolution 4, 133-142; slopes: Johnson 2014, the same 5,
944-946; Nakagawa, Johnson & Schielzeth 2017, J. R. Soc. Interface 14, 20170213).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine.equations.design import Design, RandomTerm
from ..engine.runtime.parallel import row_chunks, run
from ..engine.runtime.scipys import scipy_module
from ..exceptions import InferenceError
from ..fit.fitted import Fitted
from ..fit.residual import refuse_structure
from .parameters import Values
from .prediction import related_variances

__all__ = ["Shares", "mean_square", "shares_of"]


@dataclass(frozen=True, eq=False)
class Shares:
    """What of the rows the shares of variance need.

    Attributes
    ----------
    fixed : ndarray, shape (p, p)
        Covariance of the columns of X over the rows.
    random : tuple of ndarray, shapes (k_t, k_t)
        Mean of z z' over the rows, per term.
    """

    fixed: np.ndarray
    random: tuple[np.ndarray, ...]

    def parts(self, values: Values) -> tuple[float, np.ndarray, float]:
        """Variance of the fixed part, of every random term, shape (terms,), and of the residuals."""
        b = np.where(np.isnan(values.fixed), 0.0, values.fixed)
        terms = np.array([np.sum(M * T) for M, T in zip(self.random, values.covariances, strict=True)])
        return float(b @ self.fixed @ b), terms, values.sigma2

    def r2(self, values: Values) -> np.ndarray:
        """Marginal and conditional R2."""
        fixed, terms, residual = self.parts(values)
        total = fixed + terms.sum() + residual
        return np.array([fixed, fixed + terms.sum()]) / total

    def icc(self, values: Values) -> np.ndarray:
        """Adjusted and unadjusted intraclass correlation, then every term's share of the adjusted one."""
        fixed, terms, residual = self.parts(values)
        random = terms.sum()
        adjusted = random + residual
        return np.r_[random / adjusted, random / (fixed + adjusted), terms / adjusted]


def shares_of(fitted: Fitted, what: str) -> Shares:
    """Pass over the rows.

    Raises
    ------
    InferenceError
        The data were removed.
    """
    if fitted.design is None:
        raise InferenceError(f"{what} needs the design, and the data were removed.")
    refuse_structure(fitted.residual, what)
    design = fitted.design
    return Shares(_column_covariance(design), tuple(mean_square(t, design.n) for t in design.terms))


def _column_covariance(design: Design) -> np.ndarray:
    X, n = design.X, design.n
    center = X.mean(axis=0)

    def products(_: int, a: int, b: int) -> np.ndarray:
        part = X[a:b] - center
        return part.T @ part

    return sum(run(products, row_chunks(n)), np.zeros((X.shape[1], X.shape[1]))) / (n - 1)


def _mean_related(term: RandomTerm, n: int) -> np.ndarray:
    """Mean over the rows of sum_lm A_lm z_l z_m'."""
    assert term.relation is not None
    if term.Z is None:
        z = np.ones((n, 1)) if term.columns is None else np.asarray(term.columns)
        return (z * term.relation.diagonal[term.codes][:, None]).T @ z / n
    E, out = np.eye(term.k), np.empty((term.k, term.k))
    Z = scipy_module("sparse").csr_array(term.Z)
    for a in range(term.k):
        for b in range(a + 1):
            # x'M x of the sum and of the difference give the entry
            up, down = (related_variances(term.relation, Z, (E[a] + s * E[b])[:, None]) for s in (1.0, -1.0))
            out[a, b] = out[b, a] = float(np.mean(up - down)) / 4.0
    return out


def mean_square(term: RandomTerm, n: int, related: bool = True) -> np.ndarray:
    """Mean of z z' over the rows; of related levels that of sum_lm A_lm z_l z_m' unless not wanted."""
    if term.relation is not None and related:
        return _mean_related(term, n)
    if term.Z is not None:
        return np.array([[float(term.Z.multiply(term.Z).sum()) / n]])
    if term.columns is None:
        return np.eye(1)
    z = np.asarray(term.columns)

    def products(_: int, a: int, b: int) -> np.ndarray:
        return z[a:b].T @ z[a:b]

    return sum(run(products, row_chunks(n)), np.zeros((z.shape[1], z.shape[1]))) / n
