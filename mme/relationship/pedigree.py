"""Pedigrees: order, checks, inbreeding, A^-1."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from ..engine.equations.pedigree import group_shares, inbreeding_of, relation_of_pedigree
from ..engine.kernels.pedigree import order_by_parents
from ..exceptions import DataError, OptionError
from .known import Relationship, listed

__all__ = ["Pedigree"]


class Pedigree(Relationship):
    """Who descends from whom: the numerator relationship matrix A, by its sparse inverse.

    Parameters
    ----------
    id : array_like, shape (n,)
        Individuals, all different, in any order.
    sire, dam : array_like, shape (n,)
        Their parents; missing (None, NaN, NA), 0, "0" and "" are unknown.
    groups : sequence, optional
        Labels that stand for unknown parents in genetic groups (Westell, Quaas & Van Vleck 1988): they are in
        `sire` and `dam`, not in `id`, and become levels with effects of their own.
    group_variance : float
        Prior variance of the effect of a genetic group, in units of the additive variance. Groups are random:
        as the number grows they come close to fixed ones.
    add_parents : bool
        Parents that are no individuals themselves become founders; else they are an error.
    hermaphrodites : bool
        An individual may be a sire and a dam, of the same offspring too (selfing).

    Attributes
    ----------
    labels : pandas.Index
        Parents before their offspring, genetic groups first: the order of A.
    sire, dam : ndarray of int
        Positions of the parents in `labels`; -1: unknown.
    n_groups : int

    Raises
    ------
    DataError
        Individuals more than once, parents that are no individuals, individuals that are their own parent or
        ancestor, or both sire and dam: each names them.

    Notes
    -----
    Coefficients of inbreeding are Meuwissen and Luo's, A^-1 is made by Henderson's rules with them.

    References
    ----------
    Henderson (1976), Biometrics 32, 69-83.  Meuwissen & Luo (1992), Genet. Sel. Evol. 24, 305-313.
    Quaas (1988), J. Dairy Sci. 71, 1338-1345.

    Examples
    --------
    >>> import mme
    >>> pedigree = mme.Pedigree([1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 4, 5], [0, 0, 2, 0, 3, 2])
    >>> pedigree.inbreeding.tolist()
    [0.0, 0.0, 0.0, 0.0, 0.125, 0.125]
    """

    sire: np.ndarray
    dam: np.ndarray
    n_groups: int
    _F: np.ndarray

    def __init__(
        self,
        id: Any,
        sire: Any,
        dam: Any,
        *,
        groups: Sequence[Any] = (),
        group_variance: float = 1.0,
        add_parents: bool = False,
        hermaphrodites: bool = False,
    ) -> None:
        own, s, d = (_column(values) for values in (id, sire, dam))
        if not len(own) == len(s) == len(d):
            raise DataError(f"id, sire and dam have {len(own)}, {len(s)} and {len(d)} values.")
        if len(own) == 0:
            raise DataError("the pedigree is empty.")
        unnamed = _unknown(own)
        if unnamed.any():
            raise DataError(
                f"{int(unnamed.sum())} individuals of the pedigree have no name (missing, 0 or empty), "
                f"first in "
                f"row {int(np.argmax(unnamed))}."
            )
        if not own.is_unique:
            raise DataError(
                f"individuals are in the pedigree more than once: {listed(own[own.duplicated()].unique())}."
            )
        if not isinstance(group_variance, Real) or not 0.0 < group_variance < np.inf:
            raise OptionError(f"group_variance must be a positive number, not {group_variance!r}.")
        known = [~_unknown(s), ~_unknown(d)]
        own = _group_labels(groups).append(own) if len(groups) else own
        if not own.is_unique:
            raise DataError(f"genetic groups are individuals too: {listed(own[own.duplicated()])}.")
        own, (s_at, d_at) = _positions(own, [s, d], known, add_parents)
        n, g = len(own), len(groups)
        parents = np.full((2, n), -1, np.int64)
        parents[0, g : g + len(s)], parents[1, g : g + len(d)] = s_at, d_at
        if not hermaphrodites:
            _check_sexes(own, parents, g)
        selfish = np.flatnonzero((parents == np.arange(n)).any(axis=0))
        if selfish.size:
            raise DataError(f"individuals are their own parent: {listed(own[selfish])}.")
        order = order_by_parents(parents[0], parents[1])
        if order[-1] < 0:
            raise DataError(f"individuals descend from themselves: {_loop(own, parents, order)}.")
        # founders that came after others must not go before the groups
        order = np.concatenate((order[order < g], order[order >= g]))
        place = np.empty(n, np.int64)
        place[order] = np.arange(n)
        moved = np.where(parents[:, order] >= 0, place[parents[:, order]], -1)
        real = np.where(moved >= g, moved, -1)
        F = inbreeding_of(real[0], real[1])
        relation = relation_of_pedigree(moved[0], moved[1], F, g, float(group_variance))
        super().__init__(own[order], relation)
        for name, value in (("sire", moved[0]), ("dam", moved[1]), ("n_groups", g), ("_F", F)):
            object.__setattr__(self, name, value)

    @property
    def inbreeding(self) -> pd.Series:
        """Coefficients of inbreeding F, by individual; genetic groups have none."""
        return pd.Series(self._F[self.n_groups :], index=self.labels[self.n_groups :], name="inbreeding")

    @property
    def group_shares(self) -> pd.DataFrame:
        """Share of every genetic group in every individual's genes: covariates of fixed groups."""
        shares = group_shares(self.sire, self.dam, self.n_groups)
        return pd.DataFrame(
            shares[self.n_groups :], index=self.labels[self.n_groups :], columns=self.labels[: self.n_groups]
        )


def _column(values: Any) -> pd.Index:
    index = pd.Index(values)
    if index.dtype.kind == "f":
        # whole numbers with holes: names are integers
        array = index.to_numpy()
        whole = np.isnan(array) | (array == np.trunc(array))
        if whole.all():
            return pd.Index(np.where(np.isnan(array), 0, array).astype(np.int64))
    if isinstance(index, pd.CategoricalIndex):
        index = pd.Index(index.astype(index.categories.dtype))
    return index


def _unknown(index: pd.Index) -> np.ndarray:
    missing = np.asarray(pd.isna(index))
    if index.dtype.kind in "iuf":
        return missing | (index.to_numpy() == 0)
    values = index.to_numpy(dtype=object)
    return missing | np.isin(values, np.array(["", "0"], dtype=object)) | (values == 0)


def _group_labels(groups: Sequence[Any]) -> pd.Index:
    index = pd.Index(list(groups))
    if not index.is_unique:
        raise DataError(f"genetic groups are listed more than once: {listed(index[index.duplicated()])}.")
    return index


def _positions(
    own: pd.Index, parents: list[pd.Index], known: list[np.ndarray], add: bool
) -> tuple[pd.Index, list[np.ndarray]]:
    """Where the parents are among the individuals, founders that were not listed at the end."""
    missing = []
    for values, have in zip(parents, known, strict=True):
        used = values[have].unique()
        missing.append(used[own.get_indexer(used) < 0])
    strangers = missing[0].append(missing[1]).unique()
    if len(strangers) and not add:
        kinds = {pd.api.types.infer_dtype(v) for v in (own, strangers)}
        hint = f" Names are of different types ({' and '.join(sorted(kinds))})." if len(kinds) > 1 else ""
        raise DataError(
            f"{len(strangers)} parents are not individuals of the pedigree: {listed(strangers)}.{hint} "
            f"Add a row "
            "for each, or take them for founders with add_parents=True."
        )
    if len(strangers):
        own = own.append(strangers)
    out = []
    for values, have in zip(parents, known, strict=True):
        at = np.full(len(values), -1, np.int64)
        at[have] = own.get_indexer(values[have])
        out.append(at)
    return own, out


def _check_sexes(own: pd.Index, parents: np.ndarray, groups: int) -> None:
    sires, dams = parents[0][parents[0] >= groups], parents[1][parents[1] >= groups]
    both = np.intersect1d(sires, dams)
    if both.size:
        raise DataError(
            f"individuals are a sire and a dam: {listed(own[both])}. Correct them, or say "
            f"hermaphrodites=True."
        )


def _loop(own: pd.Index, parents: np.ndarray, order: np.ndarray) -> str:
    """One way from an individual back to itself."""
    placed = np.zeros(len(own), bool)
    placed[order[order >= 0]] = True
    at = int(np.argmin(placed))
    seen: list[int] = []
    while at not in seen:
        seen.append(at)
        # some parent of one that could not be placed could not either
        at = int(next(p for p in parents[:, at] if p >= 0 and not placed[p]))
    way = [*seen[seen.index(at) :], at]
    return " from ".join(repr(label) for label in own[way[:12]])
