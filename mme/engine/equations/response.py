"""The response's part of the equations: what many responses on one design do not share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Response", "Responses"]


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


@dataclass(frozen=True, eq=False)
class Responses:
    """The same of N responses: every attribute has a first axis more, of length N."""

    Z1y: np.ndarray
    Z2y: np.ndarray
    Qy: np.ndarray
    b0: np.ndarray
    yy: np.ndarray
    total: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Responses:
        """Some of them, by a mask or numbers."""
        parts = (self.Z1y, self.Z2y, self.Qy, self.b0, self.yy, self.total)
        return Responses(*(part[chosen] for part in parts))
