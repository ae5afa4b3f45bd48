"""What a fit keeps of the covariance structure of its residuals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine.covariance.residual import ResidualStructure
from ..engine.direct.parts import PartsLikelihood
from ..exceptions import InferenceError

__all__ = ["ResidualFit", "refuse_structure"]


@dataclass(frozen=True, eq=False)
class ResidualFit:
    """The estimated covariance of the residuals, sigma2 R.

    Attributes
    ----------
    structure : ResidualStructure
    xi, phi : ndarray, shape (K,)
        Free parameters, and those of the field.
    parts : PartsLikelihood
        Of the design as it was given.
    at_boundary : tuple of str
    """

    structure: ResidualStructure
    xi: np.ndarray
    phi: np.ndarray
    parts: PartsLikelihood
    at_boundary: tuple[str, ...] = ()

    @property
    def variance(self) -> np.ndarray:
        """Diagonal of R, shape (n,)."""
        return self.structure.at(self.phi).variance

    def colour(self, values: np.ndarray) -> np.ndarray:
        """Independent values of variance one made those of covariance R, shape (n,)."""
        if self.structure.diagonal:
            return values * np.sqrt(self.variance)
        return self.parts.colour(values, self.phi)

    def whiten(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `colour`."""
        if self.structure.diagonal:
            return values / np.sqrt(self.variance)
        return self.parts.whiten(values, self.phi)

    def __str__(self) -> str:
        return self.structure.text


def refuse_structure(residual: ResidualFit | None, what: str) -> None:
    """Refuse what goes by independent residuals with one variance (but for weights).

    Raises
    ------
    InferenceError
    """
    if residual is not None:
        raise InferenceError(
            f"{what} goes by residuals that are independent with one variance, but for weights, and this fit "
            "has "
            f"residual={residual.structure.text!r}."
        )
