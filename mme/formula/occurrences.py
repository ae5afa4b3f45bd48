"""Which levels the rows of a fit have, for counts: coded when somebody first asks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from .coding import Variable
from .frame import ModelFrame
from .levels import GroupCoding

__all__ = ["Occurrences"]


class Occurrences:
    """Levels of the factors of the fixed part in the rows of a fit.

    Parameters
    ----------
    columns : dict of str to Series, each of n rows
    levels : dict of str to list
    """

    def __init__(self, columns: dict[str, pd.Series], levels: dict[str, list]) -> None:
        self._columns = columns
        self._levels = levels
        self._codes: dict[str, np.ndarray] = {}

    @classmethod
    def of(cls, variables: Iterable[Variable], frame: ModelFrame) -> Occurrences:
        """Those of a frame's rows in use."""
        levels = {v.name: list(v.levels) for v in variables if v.levels is not None}
        return cls({name: _own(frame.raw(name)) for name in levels}, levels)

    def codes(self, name: str) -> np.ndarray:
        """Place of every row's level among those of a factor, shape (n,); -1 where it is none of them."""
        if name not in self._codes:
            coding = GroupCoding.from_labels((name,), self._levels[name])
            codes = coding.codes([self._columns.pop(name)], None)
            self._codes[name] = codes.astype(np.min_scalar_type(-max(coding.n_levels, 1)))
        return self._codes[name]

    def __getstate__(self) -> dict[str, Any]:
        # codes are smaller than labels
        codes = {name: self.codes(name) for name in self._levels}
        return {"_columns": {}, "_levels": self._levels, "_codes": codes}


def _own(column: pd.Series) -> pd.Series:
    """A column that does not hold on to the others of its frame."""
    return column.copy() if isinstance(column.dtype, np.dtype) else column
