"""The numerator relationship of a pedigree: A = T T' with T = (I - P)^-1 D^1/2, in the order of its size.

Row i of P has 1/2 at the parents of i, and D_i is what Mendelian sampling leaves of its variance. The inverse
(I - P)'D^-1 (I - P) has at most nine entries a line of the pedigree (Henderson 1976, Biometrics 32, 69-83),
and ordered from the youngest on, (I - P)'D^-1/2 is its Cholesky factor: no fill, and log|A| = sum log D_i.
"""

from __future__ import annotations

import numpy as np

from ..kernels.pedigree import inbreeding, solve_lower
from ..runtime.scipys import scipy_module
from .relation import Relation, SparseRoot

__all__ = ["group_shares", "inbreeding_of", "mendelian", "relation_of_pedigree"]


def inbreeding_of(sire: np.ndarray, dam: np.ndarray) -> np.ndarray:
    """Coefficients of inbreeding, shape (n,).

    Parameters
    ----------
    sire, dam : ndarray of int, shape (n,)
        Positions of the parents, which come first; -1: unknown.
    """
    return inbreeding(np.ascontiguousarray(sire, np.int64), np.ascontiguousarray(dam, np.int64))


def mendelian(sire: np.ndarray, dam: np.ndarray, F: np.ndarray) -> np.ndarray:
    """Variance of Mendelian sampling, in units of that of a founder, shape (n,)."""
    D = np.ones(sire.size)
    for parent in (sire, dam):
        known = parent >= 0
        D[known] -= 0.25 * (1.0 + F[parent[known]])
    return D


def relation_of_pedigree(
    sire: np.ndarray,
    dam: np.ndarray,
    F: np.ndarray | None = None,
    groups: int = 0,
    group_variance: float = 1.0,
) -> Relation:
    """A of a pedigree, or A* of one whose unknown parents are in genetic groups.

    Parameters
    ----------
    sire, dam : ndarray of int, shape (n,)
        Positions of the parents, which come first; -1: unknown.
    F : ndarray, shape (n,), optional
        Coefficients of inbreeding, where they are known already.
    groups : int
        How many of the first positions are genetic groups (Quaas 1988, J. Dairy Sci. 71, 1338-1345): they
        have effects of their own, of variance `group_variance`, and parents in them are unknown ones.
    group_variance : float
    """
    n = sire.size
    s, d = np.asarray(sire, np.int64), np.asarray(dam, np.int64)
    own_s, own_d = np.where(s >= groups, s, -1), np.where(d >= groups, d, -1)
    if F is None:
        F = inbreeding_of(own_s, own_d)
    D = mendelian(own_s, own_d, F)
    D[:groups] = group_variance
    scale = 1.0 / np.sqrt(D)
    # column n - 1 - i of L is row i of D^-1/2 (I - P), turned round
    older, younger = np.minimum(s, d), np.maximum(s, d)
    same = (s == d) & (s >= 0)
    entries = np.ones(n, np.int64) + (younger >= 0) + ((older >= 0) & ~same)
    ptr = np.concatenate(([0], np.cumsum(entries[::-1]))).astype(np.int64)
    first = ptr[:-1][::-1]  # of the column of individual i
    idx, val = np.empty(ptr[-1], np.int32), np.empty(ptr[-1])
    idx[first], val[first] = np.arange(n - 1, -1, -1), scale
    has = np.flatnonzero(younger >= 0)
    idx[first[has] + 1] = n - 1 - younger[has]
    val[first[has] + 1] = np.where(same[has], -1.0, -0.5) * scale[has]
    has = np.flatnonzero((older >= 0) & ~same)
    idx[first[has] + 2], val[first[has] + 2] = n - 1 - older[has], -0.5 * scale[has]
    sp = scipy_module("sparse")
    L = sp.csc_array((val, idx, ptr), shape=(n, n))
    turned = sp.coo_array(sp.tril(L @ L.T))
    lower = sp.csc_array(sp.coo_array((turned.data, (n - 1 - turned.col, n - 1 - turned.row)), shape=(n, n)))
    lower.sort_indices()
    diagonal = 1.0 + F
    if groups:
        shares = group_shares(s, d, groups)
        diagonal = diagonal + group_variance * np.sum(shares**2, axis=1)
        diagonal[:groups] = group_variance
    root = SparseRoot(np.arange(n - 1, -1, -1, dtype=np.int64), ptr, idx, val)
    return Relation(
        n,
        lower.indptr.astype(np.int64),
        lower.indices.astype(np.int32),
        lower.data,
        root,
        -float(np.sum(np.log(D))),
        diagonal,
    )


def group_shares(sire: np.ndarray, dam: np.ndarray, groups: int) -> np.ndarray:
    """Share of every genetic group in the genes of every individual, shape (n, groups); groups come first."""
    n = sire.size
    half = [np.where(parent >= 0, 0.5, 0.0) for parent in (sire, dam)]
    sp = scipy_module("sparse")
    rows = np.concatenate([np.arange(n)] * 3)
    columns = np.concatenate([np.arange(n), np.maximum(sire, 0), np.maximum(dam, 0)])
    M = sp.csc_array(
        sp.coo_array((np.concatenate([np.ones(n), -half[0], -half[1]]), (rows, columns)), (n, n))
    )
    unit = np.zeros((n, groups))
    unit[:groups] = np.eye(groups)
    M.eliminate_zeros()
    M.sort_indices()
    solve_lower(M.indptr.astype(np.int64), M.indices.astype(np.int32), M.data, unit)
    return unit
