"""Which combinations of the fixed effects the data tell, and a basis for inference without the data."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ..exceptions import InferenceError
from ..fit.fitted import Fitted
from .coefficients import Basis
from .degrees import FTest

__all__ = ["Detached", "aliases", "detached", "estimable", "estimable_rows", "triangle"]

_ESTIMABLE = 1e-8  # relative distance of a row from the space of the rows of X


@dataclass(frozen=True, eq=False)
class Detached(Basis):
    """A `Basis` that needs neither the data nor the likelihood any more: arrays alone.

    Attributes
    ----------
    dropped : ndarray, shape (rank, p - rank)
        As `aliases` gives them.
    """

    dropped: np.ndarray

    def estimable(self, L: np.ndarray) -> np.ndarray:
        return _told(L, self.kept, self.dropped)

    def joint(self, L: np.ndarray, value: np.ndarray) -> tuple[FTest, bool]:
        """F of the rows L b = value together without what the data do not tell; whether there was any."""
        told = self.estimable(L)
        if told.all() or not len(L):
            return self.f_test(L, value), False
        kept = self.kept
        size = np.maximum(1.0, np.abs(L).max(axis=1, keepdims=True))
        gap = (L[:, kept] @ self.dropped - L[:, ~kept]) / size
        U, s, _ = np.linalg.svd(gap, full_matrices=True)
        H = U[:, int(np.sum(s > _ESTIMABLE)) :].T / size.T
        return self.f_test(H @ L, H @ value), True


@dataclass(frozen=True, eq=False)
class _Constant:
    """A function of nothing that can be pickled."""

    value: Any

    def __call__(self) -> Any:
        return self.value


def _gone() -> Any:
    raise InferenceError("this table holds no likelihood; ask the results for another one.")


def detached(basis: Basis, cache: MutableMapping[str, Any] | None = None) -> Detached:
    """The same without the data.

    Parameters
    ----------
    basis : Basis
    cache : mapping, optional
        As in `aliases`.
    """
    fitted = basis.fitted
    light = replace(
        fitted,
        vcov_beta=_Constant(np.asarray(fitted.vcov_beta()) if basis.pieces is None else np.zeros((0, 0))),
        root_beta=_Constant(fitted.fixed_root() if basis.pieces is None else None),
        objective=_gone,
        design=None,
        record=None,
        coding=None,
        occurrences=None,
        modes=None,
        row_labels=None,
        effect_labels=None,
    )
    own = {f.name: getattr(basis, f.name) for f in fields(basis)}
    return Detached(**{**own, "fitted": light}, dropped=aliases(fitted, cache))


def aliases(fitted: Fitted, cache: MutableMapping[str, Any] | None = None) -> np.ndarray:
    """The dropped columns of X as combinations of the kept ones, shape (rank, p - rank).

    Parameters
    ----------
    fitted : Fitted
    cache : mapping, optional
        Filled, and used again.

    Raises
    ------
    InferenceError
        The data were removed.
    """
    kept = ~np.isnan(fitted.beta)
    if kept.all():
        return np.zeros((kept.size, 0))
    cache = {} if cache is None else cache
    if "aliases" not in cache:
        if fitted.design is None:
            raise InferenceError(
                "combinations of dropped columns need the design, and the data were removed."
            )
        cache["aliases"] = fitted.design.aliases(kept)
    return cache["aliases"]


def estimable(fitted: Fitted, L: np.ndarray, cache: MutableMapping[str, Any] | None = None) -> np.ndarray:
    """Whether the data tell L b, L (q, p), shape (q,); `cache` and errors as of `aliases`."""
    return _told(L, ~np.isnan(fitted.beta), aliases(fitted, cache))


def _told(L: np.ndarray, kept: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    if kept.all():
        return np.ones(len(L), dtype=bool)
    gap = np.abs(L[:, kept] @ dropped - L[:, ~kept]).max(axis=1)
    return gap <= _ESTIMABLE * np.maximum(1.0, np.abs(L).max(axis=1))


def estimable_rows(fitted: Fitted, cache: MutableMapping[str, Any] | None = None) -> np.ndarray:
    """Rows that span the space of the rows of X, shape (rank, p); the unit matrix where no column depends."""
    kept = ~np.isnan(fitted.beta)
    out = np.zeros((int(kept.sum()), kept.size))
    out[:, kept] = np.eye(len(out))
    out[:, ~kept] = aliases(fitted, cache)
    return out


def triangle(fitted: Fitted, what: str, cache: MutableMapping[str, Any] | None = None) -> np.ndarray:
    """R of X = QR, of the kept columns, shape (rank, rank); `what` for messages, the rest as in `aliases`."""
    cache = {} if cache is None else cache
    if "triangle" not in cache:
        if fitted.design is None:
            raise InferenceError(f"{what} needs the design, and the data were removed.")
        cache["triangle"] = fitted.design.triangle(~np.isnan(fitted.beta))
    return cache["triangle"]
