"""A design of which the sums alone are here: what is left to say of rows that were streamed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from ...exceptions import InferenceError
from ..covariance.structure import Structure
from .design import Design, RandomTerm

__all__ = ["RowlessDesign", "RowlessTerm"]


def _refuse(what: str) -> NoReturn:
    raise InferenceError(
        f"this needs {what}, and the fit was made from cross-products: its rows were streamed and not kept. "
        "Give rows where a method takes them (results.predict(rows)), or fit a frame."
    )


class RowlessTerm(RandomTerm):
    """A grouped random term without codes and columns of rows.

    Parameters
    ----------
    name : str
    n_levels : int
    covariance : Structure or str
    column_names : tuple of str
        Of its k columns.
    """

    def __init__(
        self, name: str, n_levels: int, covariance: Structure | str, column_names: tuple[str, ...]
    ) -> None:
        for label, value in (
            ("name", name),
            ("n_levels", n_levels),
            ("covariance", covariance),
            ("column_names", column_names),
            ("Z", None),
        ):
            object.__setattr__(self, label, value)

    @property
    def k(self) -> int:
        return len(self.column_names)

    @property
    def codes(self) -> np.ndarray:
        _refuse(f"the rows' levels of {self.name!r}")

    @property
    def columns(self) -> np.ndarray:
        _refuse(f"the rows' columns of {self.name!r}")

    def times(self, u: np.ndarray) -> np.ndarray:
        _refuse(f"the rows of {self.name!r}")


class RowlessDesign(Design):
    """A design without rows.

    Parameters
    ----------
    n : int
        Rows that there were.
    x_names : sequence of str
    terms : sequence of RowlessTerm
    root : ndarray, shape (p, p)
        root'root = X'X.
    weighted, shifted : bool
        Whether there were weights, and an offset.
    """

    def __init__(
        self,
        n: int,
        x_names: Sequence[str],
        terms: Sequence[RowlessTerm],
        root: np.ndarray,
        weighted: bool = False,
        shifted: bool = False,
    ) -> None:
        for label, value in (
            ("_n", int(n)),
            ("x_names", tuple(x_names)),
            ("terms", tuple(terms)),
            ("_root", root),
            ("_weighted", weighted),
            ("_shifted", shifted),
            ("more_effects_than_rows", False),
        ):
            object.__setattr__(self, label, value)

    _n: int
    _root: np.ndarray
    _weighted: bool
    _shifted: bool

    @property
    def n(self) -> int:
        return self._n

    @property
    def p(self) -> int:
        return len(self.x_names)

    @property
    def has_rows(self) -> bool:
        return False

    def aliases(self, kept: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(self._root[:, kept], self._root[:, ~kept], rcond=None)[0]

    def triangle(self, kept: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.qr(self._root[:, kept], mode="r"))

    @property
    def y(self) -> np.ndarray:
        _refuse("the response of every row")

    @property
    def X(self) -> np.ndarray:
        _refuse("the rows of the fixed-effects design")

    @property
    def weights(self) -> np.ndarray | None:
        return _refuse("the weights of the rows") if self._weighted else None

    @property
    def offset(self) -> np.ndarray | None:
        return _refuse("the offset of the rows") if self._shifted else None
