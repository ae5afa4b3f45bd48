"""Clusters of rows: by the name of a grouping factor, or one label per row."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.equations.design import Design, RandomTerm
from ..engine.runtime.scipys import sparse as sp
from ..exceptions import DataError, OptionError
from ..fit.fitted import Fitted
from .random_terms import group_names

__all__ = ["Clustering", "clusterings_of"]


@dataclass(frozen=True, eq=False)
class Clustering:
    """A partition of the rows.

    Attributes
    ----------
    name : str
    codes : ndarray of int, shape (n,)
    n : int
        Clusters; each has rows.
    """

    name: str
    codes: np.ndarray
    n: int

    def contains(self, term: RandomTerm) -> bool:
        """Whether rows that share an effect of the term share a cluster."""
        if term.Z is not None:
            Z = sp.coo_array(term.Z)
            used = Z.data != 0.0
            levels, clusters = Z.col[used], self.codes[Z.row[used]]
        else:
            assert term.codes is not None
            levels, clusters = term.codes, self.codes
        of_level = np.zeros(term.n_levels, dtype=self.codes.dtype)
        of_level[levels] = clusters
        return bool(np.array_equal(of_level[levels], clusters))

    def crossed(self, other: Clustering) -> Clustering:
        """Rows that share a cluster of both."""
        values, codes = np.unique(self.codes * other.n + other.codes, return_inverse=True)
        return Clustering(f"{self.name}:{other.name}", codes, values.size)


def clusterings_of(fitted: Fitted, design: Design, cluster: Any) -> list[Clustering]:
    """The clusterings that a user means.

    Parameters
    ----------
    cluster : str, array_like of shape (n,), or list of these
        Names are those of the model's grouping factors.

    Raises
    ------
    OptionError
        No factor of that name.
    DataError
        Not a label per row; missing labels; one cluster.
    """
    known: dict[str, RandomTerm] = {}
    for group, term in zip(group_names(fitted, design), design.terms, strict=True):
        if term.codes is not None:
            known.setdefault(group, term)
    several = (
        isinstance(cluster, list | tuple) and len(cluster) > 0 and not _is_labels(cluster, design.n, known)
    )
    given: Sequence[Any] = cluster if several else [cluster]
    out = []
    for i, one in enumerate(given):
        name = one if isinstance(one, str) else str(getattr(one, "name", None) or f"cluster {i + 1}")
        out.append(_clustering(name, _labels(one, design.n, known), design.n))
    names = [clustering.name for clustering in out]
    if len(set(names)) < len(names):
        raise OptionError(f"cluster names {', '.join(names)}: each clustering once.")
    return out


def _is_labels(values: Sequence[Any], n: int, known: dict[str, RandomTerm]) -> bool:
    """Whether a list holds one label per row, not several clusterings."""
    if all(isinstance(v, str) for v in values):
        return len(values) == n and not all(v in known for v in values)
    return all(np.ndim(v) == 0 for v in values)


def _labels(one: Any, n: int, known: dict[str, RandomTerm]) -> np.ndarray:
    if isinstance(one, str):
        if one not in known:
            close = difflib.get_close_matches(one, known, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise OptionError(
                f"cluster={one!r} is no grouping factor of the model.{hint} It has "
                f"{', '.join(map(repr, known))}; of any other column pass the values, one per row of the fit."
            )
        return np.asarray(known[one].codes)
    values = np.asarray(one)
    if values.ndim != 1 or values.size != n:
        raise DataError(
            f"cluster has shape {values.shape}, and the fit has {n} rows. Pass one label per row that was "
            "used (rows with missing values may have been left out), or the name of a grouping factor."
        )
    return values


def _clustering(name: str, values: np.ndarray, n: int) -> Clustering:
    missing = sum(_is_missing(value) for value in values) if values.dtype.kind in "OfM" else 0
    if missing:
        raise DataError(f"{name} has {missing} missing labels; every row needs a cluster.")
    if values.dtype.kind == "O":  # labels of several types have no order
        places: dict[Any, int] = {}
        codes = np.array([places.setdefault(value, len(places)) for value in values])
    else:
        codes = np.unique(values, return_inverse=True)[1]
    size = int(codes.max()) + 1
    if size < 2:
        raise DataError(f"{name} has one cluster; a sandwich needs at least two, and many to be of use.")
    return Clustering(name, codes.astype(np.int64), size)


def _is_missing(value: Any) -> bool:
    """None, NaN, NaT and pandas' NA, whose comparison with itself is no truth value."""
    same = value == value
    return value is None or not isinstance(same, bool | np.bool_) or not same
