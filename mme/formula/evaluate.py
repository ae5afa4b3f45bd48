"""What evaluating a fragment of a formula may raise, in words that name the formula and the fragment."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine.runtime.finite import count_non_finite
from ..exceptions import DataError, FormulaError

__all__ = ["check_finite", "evaluate", "real_values"]


def evaluate(build: Callable[[], Any], text: str, formula: str, check_levels: bool = False) -> Any:
    """Call a function of the formula engine.

    Parameters
    ----------
    build : callable () -> object
    text, formula : str
        Fragment and whole, for messages.
    check_levels : bool
        Refuse values outside of known levels, which would be coded as the reference level; done wherever the
        text lists levels.

    Raises
    ------
    FormulaError
        The fragment cannot be read or evaluated.
    DataError
        Values outside of the levels, or that a function does not take.
    """
    from formulaic.errors import DataMismatchWarning, FormulaicError

    try:
        with np.errstate(all="ignore"):  # log(0) and the like: non-finite values are named afterwards
            if not check_levels and "levels" not in text:
                return build()
            with warnings.catch_warnings():
                warnings.simplefilter("error", DataMismatchWarning)
                return build()
    except DataMismatchWarning as error:
        outside = re.search(r"\{.*\}", str(error))
        raise DataError(
            f"formula {formula!r}: {text!r} has values outside of its levels"
            f"{': ' + outside[0][1:-1] if outside else ''}. List every level that occurs, or leave those "
            "rows out with subset=."
        ) from error
    except (FormulaicError, SyntaxError) as error:
        reason = re.sub(r"\x1b\[[\d;]*m|[⧛⧚]", "", str(error)).split("\n")[0]
        raise FormulaError(f"formula {formula!r}: cannot evaluate {text!r}: {reason}") from error
    except (TypeError, ValueError) as error:
        raise DataError(f"formula {formula!r}: cannot evaluate {text!r}: {error}") from error


def real_values(matrix: object, text: str, formula: str) -> np.ndarray:
    """A matrix of the formula engine as float64; complex numbers raise DataError."""
    values = np.asarray(matrix)
    if np.iscomplexobj(values):
        raise DataError(f"formula {formula!r}: {text!r} gives complex numbers.")
    return values.astype(np.float64, copy=False)


def check_finite(values: np.ndarray, labels: Sequence[str], formula: str) -> None:
    """Raise DataError where finite data gave non-finite columns, by label."""
    if not any(count_non_finite(values)):
        return
    counts = [(label, count_non_finite(column)) for label, column in zip(labels, values.T, strict=True)]
    bad = [f"{label} ({nan} not a number, {inf} infinite)" for label, (nan, inf) in counts if nan or inf]
    if bad:
        raise DataError(
            f"formula {formula!r}: finite data give non-finite values of {', '.join(bad)}. "
            "Check the range of the columns, or use subset= to leave rows out."
        )
