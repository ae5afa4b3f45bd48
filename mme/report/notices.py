"""What a fit has to tell its user as warnings: one text for both doors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..exceptions import ConvergenceWarning, RankDeficientWarning, warn_caller

__all__ = ["warn_of_fit"]


def warn_of_fit(
    dropped: Sequence[str],
    notes: Iterable[tuple[str, type[Warning]]],
    trouble: str = "",
    convergence: type[Warning] = ConvergenceWarning,
) -> None:
    """Warn at the user's line: dropped columns, the fit's own notes, no convergence.

    Parameters
    ----------
    dropped : sequence of str
        Columns of the fixed part that depend on earlier ones.
    notes : iterable of (str, type)
        Texts and categories: `FitRecord.warnings`.
    trouble : str
        What fit did not converge, how, and what to do; empty if it did.
    convergence : type
        Category of that warning.
    """
    if dropped:
        warn_caller(
            f"fixed-effects columns that depend on earlier ones were dropped: {', '.join(dropped)}. "
            "Their coefficients are NaN; leave them out of the model.",
            RankDeficientWarning,
        )
    for message, category in notes:
        warn_caller(message, category)
    if trouble:
        warn_caller(trouble, convergence)
