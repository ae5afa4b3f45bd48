"""Fits of small designs beside their dense marginal models, for tests of diagnostics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import oracle

from mme.engine.equations.design import Design
from mme.fit.fit import fit_design
from mme.fit.fitted import Fitted, Labels, TermLabels

__all__ = ["Dense", "fitted_of", "theta_of"]


def fitted_of(design: Design, reml: bool = True, **options: object) -> Fitted:
    """A direct fit with labels."""
    fit = fit_design(design, reml=reml, tol=1e-12, **options)
    terms = tuple(TermLabels(t.name, tuple(t.column_names), t.n_levels, t.structure) for t in design.terms)
    return Fitted.of(fit, Labels("y", design.x_names, terms))


def theta_of(fitted: Fitted) -> np.ndarray:
    pairs = zip(fitted.labels.terms, fitted.lam, strict=True)
    return np.concatenate([term.structure.theta(lam) for term, lam in pairs])


@dataclass
class Dense:
    """V and what is made of it, n x n."""

    X: np.ndarray
    y: np.ndarray
    V: np.ndarray
    w: np.ndarray
    C: np.ndarray
    b: np.ndarray
    P: np.ndarray

    @classmethod
    def of(cls, fitted: Fitted) -> Dense:
        design = fitted.design
        w = np.ones(design.n) if design.weights is None else design.weights
        V = np.diag(1.0 / w)
        for term, lam in zip(design.terms, fitted.lam, strict=True):
            z = (oracle.dense_z(term, design.n) @ lam).reshape(design.n, -1)
            V = V + z @ z.T
        X = design.X[:, ~np.isnan(fitted.beta)]
        y = design.y if design.offset is None else design.y - design.offset
        return cls.at(X, y, V, w)

    @classmethod
    def at(cls, X: np.ndarray, y: np.ndarray, V: np.ndarray, w: np.ndarray) -> Dense:
        inverse = np.linalg.inv(V)
        C = np.linalg.inv(X.T @ inverse @ X)
        b = C @ X.T @ inverse @ y
        return cls(X, y, V, w, C, b, inverse - inverse @ X @ C @ X.T @ inverse)

    def without(self, lost: np.ndarray) -> Dense:
        keep = ~lost
        return Dense.at(self.X[keep], self.y[keep], self.V[np.ix_(keep, keep)], self.w[keep])

    @property
    def r2(self) -> float:
        return float(self.y @ self.P @ self.y)

    def whitened(self) -> np.ndarray:
        root = np.sqrt(self.w)
        s, U = np.linalg.eigh(root[:, None] * self.V * root)
        return U @ ((U.T @ (root * (self.y - self.X @ self.b))) / np.sqrt(s))
