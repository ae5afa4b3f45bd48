"""The covariance structures by name.

`base` says what a structure is and has the two whose parameters are entries of D; `patterns` those whose
covariances are functions of fewer parameters (compound symmetry, autoregression, Toeplitz, reduced rank).
"""

from __future__ import annotations

from .base import DIAGONAL, FULL, Structure, triangular
from .patterns import PATTERNS, Pattern, pattern_of

__all__ = ["DIAGONAL", "FULL", "PATTERNS", "Pattern", "Structure", "structure_of", "triangular"]

_BY_NAME = {structure.name: structure for structure in (FULL, DIAGONAL)}


def structure_of(covariance: Structure | str) -> Structure:
    """The structure of a name; structures as they are.

    Raises
    ------
    ValueError
        There is none of that name.
    """
    if isinstance(covariance, Structure):
        return covariance
    known = _BY_NAME.get(covariance) or pattern_of(covariance)
    if known is None:
        names = ", ".join(repr(name) for name in (*_BY_NAME, *PATTERNS))
        raise ValueError(f"covariance must be {names} or 'rr(d)', not {covariance!r}.")
    return known
