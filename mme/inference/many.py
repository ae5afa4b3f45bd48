"""Degrees of freedom of fits that are made one after another on one design."""

from __future__ import annotations

import numpy as np

from ..exceptions import InferenceError
from ..fit.fitted import Labels
from ..fit.refit import Refit, Refits
from .coefficients import inference_basis

__all__ = ["RefitDegrees"]


class RefitDegrees:
    """Satterthwaite's degrees of freedom of a refit's coefficients.

    Parameters
    ----------
    labels : Labels
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels

    def __call__(self, refits: Refits, fit: Refit) -> np.ndarray:
        """Shape (p,); NaN where there are none."""
        fitted = refits.fitted(self.labels, fit)
        try:
            return inference_basis(fitted, "satterthwaite").coefficients(0.05).df
        except (InferenceError, np.linalg.LinAlgError):
            # this fit has none; the others have theirs
            return np.full(fit.beta.size, np.nan)
