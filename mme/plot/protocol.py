"""What pictures ask of results, so that they import none."""

from __future__ import annotations

from typing import Any, Protocol

from ..fit.fitted import Fitted

__all__ = ["Drawable"]


class Drawable(Protocol):
    """Results of either door."""

    @property
    def fitted(self) -> Fitted:
        """The estimate with its labels."""

    def coef_table(self, ddf: str | None = None, alpha: float = 0.05) -> Any:
        """Fixed effects with intervals."""

    def emmeans(
        self, specs: Any, by: Any = None, at: Any = None, *, ddf: str | None = None, alpha: float = 0.05
    ) -> Any:
        """Marginal means."""

    def ranef_table(self, term: str | None = None, *, alpha: float = 0.05, variances: bool = True) -> Any:
        """Random effects with intervals."""

    def profile(self, parm: Any = None, alpha: float = 0.01) -> Any:
        """Profile likelihoods."""

    def residuals(self, kind: str = "raw") -> Any:
        """Residuals."""

    def influence(self, by: Any = None) -> Any:
        """Deletions."""

    def pit_residuals(
        self, n: int = 250, seed: int | None = None, random_effects: str = "new", rotate: bool = False
    ) -> Any:
        """Scaled residuals."""
