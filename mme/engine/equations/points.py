"""Rows at which linear predictors are asked for, in the equations' basis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..runtime.scipys import sparse
from .equations import Equations

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["Points", "points_of"]


@dataclass(frozen=True, eq=False)
class Points:
    """n rows x'b + z'u.

    Attributes
    ----------
    x : ndarray, shape (n, p)
        Of the orthonormal basis of X.
    lead : ndarray of int64, shape (n,)
        Level of the leading block; -1 where it has no part.
    z1 : ndarray, shape (n, k1)
    rest : scipy.sparse.csr_array, shape (n, q2)
    """

    x: np.ndarray
    lead: np.ndarray
    z1: np.ndarray
    rest: sp.csr_array

    def part(self, a: int, b: int) -> Points:
        """Rows a to b."""
        return Points(self.x[a:b], self.lead[a:b], self.z1[a:b], self.rest[a:b])


def points_of(
    eq: Equations, x: np.ndarray, terms: Sequence[tuple[np.ndarray, np.ndarray | None] | sp.csr_array | None]
) -> Points:
    """Rows in the columns of the design, turned into the basis.

    Parameters
    ----------
    eq : Equations
    x : ndarray, shape (n, rank)
        Kept columns of X.
    terms : sequence, one per term of the design
        Levels (n,), -1 where the row has none, with columns (n, k), None standing for ones; rows over the
        columns of a general term, sparse; or None where the term has no part.
    """
    lay, n = eq.layout, len(x)
    lead = np.full(n, -1, dtype=np.int64)
    z1 = np.zeros((n, lay.k1 if lay.has_lead else 1))
    rest = sparse.csr_array((n, lay.q2))
    for t, (term, place) in enumerate(zip(terms, lay.places, strict=True)):
        if term is None:
            continue
        block = lay.blocks[place.block]
        first = None if lay.has_lead and place.block == 0 else int(lay.offsets[place.block - lay.has_lead])
        if not isinstance(term, tuple):
            assert first is not None
            shift = sparse.csr_array((term.data, term.indices + first, term.indptr), shape=(n, lay.q2))
            rest = rest + shift
            continue
        codes, columns = term
        seen = np.flatnonzero(codes >= 0)
        z = np.ones((n, 1)) if columns is None else columns
        z = np.linalg.solve(eq.term_basis(t).T, z[seen].T).T
        if first is None:
            # terms that share the leading block have the same levels
            lead[seen] = codes[seen]
            z1[seen, place.columns] = z
            continue
        at = first + block.k * codes[seen, None] + np.arange(place.first, place.first + place.k)
        rows = np.repeat(seen, place.k)
        rest = rest + sparse.csr_array((z.ravel(), (rows, at.ravel())), shape=(n, lay.q2))
    rest = sparse.csr_array(rest)
    rest.sort_indices()
    return Points(x @ eq.fixed.T, lead, z1, rest)
