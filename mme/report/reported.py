"""What every class of methods that both doors' results inherit goes by."""

from __future__ import annotations

from typing import Any

from ..fit.fitted import Fitted

__all__ = ["Reported"]


class Reported:
    """Results that have an estimate with its labels, and keep what their tables share."""

    @property
    def fitted(self) -> Fitted:
        """The estimate with its labels."""
        raise NotImplementedError

    @property
    def _small_sample(self) -> dict[str, Any]:
        """What was computed for tables before: arrays, no data."""
        return self.__dict__.setdefault("_small_sample_pieces", {})
