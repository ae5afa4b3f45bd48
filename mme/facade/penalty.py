"""What the door asks of penalties: `fe_pen` and `cov_pen` of `mme.MixedLM.fit`, as statsmodels makes them."""

from __future__ import annotations

from typing import Protocol

import numpy as np

__all__ = ["CovariancePenalty", "FixedPenalty"]


class FixedPenalty(Protocol):
    """A penalty on the fixed effects (a `statsmodels.base._penalties.Penalty`); `deriv2` is used if there."""

    def func(self, params: np.ndarray) -> np.ndarray | float:
        """Its value."""

    def deriv(self, params: np.ndarray) -> np.ndarray:
        """First derivatives, shape (k_fe,)."""


class CovariancePenalty(Protocol):
    """A penalty on cov_re (`statsmodels.base._penalties.CovariancePenalty`)."""

    def func(self, mat: np.ndarray, mat_inv: np.ndarray) -> float:
        """Its value."""

    def deriv(self, mat: np.ndarray, mat_inv: np.ndarray) -> np.ndarray:
        """First derivatives with respect to the lower triangle, shape (k_re2,)."""
