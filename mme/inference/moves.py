"""An estimate moved in its variances: what finite differences and Monte Carlo errors are put through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..engine.covariance.structure import triangular
from ..engine.equations.equations import Equations
from ..fit.fitted import Fitted

__all__ = ["moved"]


def moved(fitted: Fitted, eq: Equations, step: np.ndarray) -> Fitted:
    """The estimate with a step in the free entries of R D R' of every term, and in sigma2.

    Parameters
    ----------
    fitted : Fitted
    eq : Equations
        Its cross-products.
    step : ndarray, shape (m + 1,)
        As `mme.inference.variances.InnerCovariance`; eigenvalues that would become negative are zero.
    """
    lams = []
    for t, (place, lam) in enumerate(zip(eq.layout.places, fitted.lam, strict=True)):
        R = eq.term_basis(t)
        inner = R @ lam
        D = inner @ inner.T
        for (a, b), e in zip(place.entries, step[place.theta], strict=True):
            D[a, b] += e
            D[b, a] = D[a, b]
        w, U = np.linalg.eigh(D)
        lams.append(triangular(np.linalg.solve(R, U * np.sqrt(np.maximum(w, 0.0)))))
    return replace(fitted, lam=tuple(lams), sigma2=fitted.sigma2 + float(step[-1]))
