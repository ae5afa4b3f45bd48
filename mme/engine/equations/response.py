"""The response's part of the equations: what many responses on one design do not share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Response"]


@dataclass(frozen=True, eq=False)
class Response:
    """Cross-products of a response's residual r = y - Q b0 with the design.

    Attributes
    ----------
    Z1y : ndarray, shape (q1, k1)
        Z_1'W r.
    Z2y : ndarray, shape (q2,)
        Z_2'W r.
    Qy : ndarray, shape (p,)
        Q'W r: zero but for rounding.
    b0 : ndarray, shape (p,)
        Least-squares coefficients in the orthonormal basis Q of X.
    yy : float
        r'W r.
    total : float
        y'W y: a scale for the residual.
    """

    Z1y: np.ndarray
    Z2y: np.ndarray
    Qy: np.ndarray
    b0: np.ndarray
    yy: float
    total: float

    def enlarged(self, share: float) -> Response:
        """With more residual variation, by a share of what there is, that no effect explains."""
        return replace(self, yy=self.yy * (1.0 + share))
