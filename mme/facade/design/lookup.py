"""Columns of a frame, each taken out of it once: pandas makes a new Series whenever it is asked."""

from __future__ import annotations

from collections.abc import Hashable

import pandas as pd

__all__ = ["Lookup"]


class Lookup:
    """What reading a formula needs of a frame.

    Parameters
    ----------
    frame : DataFrame
        With distinct names where names are looked up.

    Attributes
    ----------
    columns : pandas.Index
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self.columns = frame.columns
        self._taken: dict[Hashable, pd.Series] = {}

    def __getitem__(self, name: Hashable) -> pd.Series:
        column = self._taken.get(name)
        if column is None:
            column = self._taken[name] = self.frame[name]
        return column
