"""Known covariances between the levels of a factor: A, as its sparse inverse Q and a root of it.

The effects of a term are u ~ N(0, sigma2 A (x) D), level by level. With A = T T' they are T v, the levels of
v independent. The equations need Q = A^-1 alone, what is made of all levels at once A or T.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ...exceptions import DesignError
from ..factor import NotPositiveDefiniteError, make_sparse
from ..factor.cholmod import CholmodFactor
from ..kernels.pedigree import solve_lower, solve_upper
from ..runtime.parallel import single_threaded_blas
from ..runtime.scipys import scipy_module

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["DenseRoot", "Relation", "SparseRoot", "relation_of_covariance", "relation_of_precision"]

_SMALL = 256  # order up to which a full inverse is no different from others
_MOSTLY = 0.8  # share of entries from which on it is full
_DENSE = 3_000  # order up to which a precision may be factored without CHOLMOD


@dataclass(frozen=True, eq=False)
class SparseRoot:
    """L of Q[order][:, order] = L L', by columns, the diagonal first; T in the order of the levels.

    Levels that are in different parts of Q are so in T.
    """

    order: np.ndarray
    ptr: np.ndarray
    idx: np.ndarray
    val: np.ndarray

    def times(self, B: np.ndarray) -> np.ndarray:
        """T B, T T' = Q^-1: (q, m) -> (q, m)."""
        inside = np.ascontiguousarray(np.asarray(B, dtype=np.float64)[self.order])
        solve_upper(self.ptr, self.idx, self.val, inside)
        out = np.empty_like(inside)
        out[self.order] = inside
        return out

    def transposed(self, B: np.ndarray) -> np.ndarray:
        """T'B: (q, m) -> (q, m)."""
        inside = np.ascontiguousarray(np.asarray(B, dtype=np.float64)[self.order])
        solve_lower(self.ptr, self.idx, self.val, inside)
        out = np.empty_like(inside)
        out[self.order] = inside
        return out


@dataclass(frozen=True, eq=False)
class DenseRoot:
    """T as a matrix."""

    T: np.ndarray

    def times(self, B: np.ndarray) -> np.ndarray:
        """T B: (q, m) -> (q, m)."""
        return self.T @ B

    def transposed(self, B: np.ndarray) -> np.ndarray:
        """T'B: (q, m) -> (q, m)."""
        return self.T.T @ B


@dataclass(frozen=True, eq=False)
class Relation:
    """A known covariance A between q levels.

    Attributes
    ----------
    q : int
    ptr, idx, val : ndarrays of int64 (q + 1,), int32, float64
        Lower triangle of Q = A^-1 by columns, rows ascending, every diagonal entry there.
    root : SparseRoot or DenseRoot
        T, A = T T'.
    logdet : float
        log|Q|.
    diagonal : ndarray, shape (q,)
        Of A.
    """

    q: int
    ptr: np.ndarray
    idx: np.ndarray
    val: np.ndarray
    root: SparseRoot | DenseRoot
    logdet: float
    diagonal: np.ndarray

    @cached_property
    def columns(self) -> np.ndarray:
        """Column of every entry of the lower triangle."""
        return np.repeat(np.arange(self.q, dtype=np.int32), np.diff(self.ptr))

    @cached_property
    def precision(self) -> sp.csr_array:
        """Q, symmetric."""
        sparse = scipy_module("sparse")
        lower = sparse.csc_array((self.val, self.idx, self.ptr), shape=(self.q, self.q))
        return sparse.csr_array(lower + sparse.tril(lower, -1).T)

    @property
    def full(self) -> bool:
        """Whether A^-1 is a large matrix without zeros: then nothing that holds it is sparse."""
        return self.q > _SMALL and 2 * self.val.size > _MOSTLY * self.q**2

    def lower(self) -> np.ndarray:
        """Lower triangle of Q, dense, zeros above."""
        out = np.zeros((self.q, self.q), order="F")
        out[self.idx, self.columns] = self.val
        return out

    @property
    def mean_diagonal(self) -> float:
        """Mean variance of a level, in units of D."""
        return float(self.diagonal.mean())

    @property
    def pivots(self) -> np.ndarray:
        """Squared diagonal of a dense root: what is left of each level's variance given those before."""
        assert isinstance(self.root, DenseRoot)
        return np.diag(self.root.T) ** 2

    def related(self, v: np.ndarray) -> np.ndarray:
        """T v: effects with covariance A from independent ones, (q, ...) -> (q, ...)."""
        return self.root.times(v.reshape(self.q, -1)).reshape(v.shape)

    def unrelated(self, z: np.ndarray) -> np.ndarray:
        """T'z, (q, ...) -> (q, ...)."""
        return self.root.transposed(z.reshape(self.q, -1)).reshape(z.shape)

    def times(self, z: np.ndarray) -> np.ndarray:
        """A z, (q, ...) -> (q, ...)."""
        return self.related(self.unrelated(z))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("columns", "precision")}


def relation_of_precision(Q: sp.sparray) -> Relation:
    """A relation from a sparse, symmetric, positive definite precision matrix.

    Raises
    ------
    DesignError
        It is not positive definite.
    """
    sparse = scipy_module("sparse")
    q = Q.shape[0]
    lower = sparse.csc_array(sparse.tril(Q) + sparse.csc_array((q, q)))
    lower = sparse.csc_array(lower, dtype=np.float64)
    lower.sort_indices()
    diagonal = lower.diagonal()
    if not np.all(diagonal > 0.0):
        at = int(np.argmin(diagonal))
        raise DesignError(
            f"the precision matrix Q is not positive definite: its diagonal entry {at} is {diagonal[at]:g}."
        )
    ptr, idx, val = lower.indptr.astype(np.int64), lower.indices.astype(np.int32), lower.data
    factor: Any = make_sparse(q, ptr, idx, "auto")
    if not isinstance(factor, CholmodFactor):
        if q > _DENSE:
            raise DesignError(
                f"a precision matrix of order {q} is factored by CHOLMOD, which is not installed "
                "(scikit-sparse==0.4.16)."
            )
        return _dense_precision(lower, ptr, idx, val)
    try:
        factor.factorize(val)
    except NotPositiveDefiniteError:
        raise _singular() from None
    order, columns = factor.triangle()
    scale = columns.diagonal() / np.sqrt(diagonal[order])
    if not scale.min() > 1e-7:
        raise _singular()
    columns.sort_indices()
    root = SparseRoot(
        order.astype(np.int64),
        columns.indptr.astype(np.int64),
        columns.indices.astype(np.int32),
        columns.data,
    )
    inverse = factor.selected_inverse()
    return Relation(q, ptr, idx, val, root, factor.logdet(), inverse[ptr[:-1]])


def _singular() -> DesignError:
    return DesignError(
        "the precision matrix Q is not positive definite to working precision: the prior says nothing about "
        "some combination of levels (an intrinsic model?). Anchor it, as mme.rw1, rw2 and icar do, or add a "
        "small multiple of the identity to Q."
    )


def _dense_precision(lower: Any, ptr: np.ndarray, idx: np.ndarray, val: np.ndarray) -> Relation:
    full = lower.toarray()
    full = full + np.tril(full, -1).T
    try:
        L = np.linalg.cholesky(full)
    except np.linalg.LinAlgError:
        raise _singular() from None
    if not np.min(np.diag(L) / np.sqrt(np.diag(full))) > 1e-7:
        raise _singular()
    T = np.linalg.inv(L).T
    logdet = float(2.0 * np.sum(np.log(np.diag(L))))
    return Relation(full.shape[0], ptr, idx, val, DenseRoot(T), logdet, np.sum(T * T, axis=1))


def relation_of_covariance(K: np.ndarray) -> Relation:
    """A relation from a symmetric, positive definite covariance matrix.

    Raises
    ------
    numpy.linalg.LinAlgError
        It is not positive definite.
    """
    from scipy.linalg import lapack

    q = K.shape[0]
    with single_threaded_blas():
        factor, info = lapack.dpotrf(np.asfortranarray(K), lower=1, clean=1)
        if info:
            raise np.linalg.LinAlgError("not positive definite")
        inverse, _ = lapack.dpotri(factor, lower=1)
    rows, columns = np.triu_indices(q)  # by columns of the lower triangle
    ptr = np.concatenate(([0], np.cumsum(np.arange(q, 0, -1)))).astype(np.int64)
    val = np.ascontiguousarray(inverse[columns, rows])
    logdet = -float(2.0 * np.sum(np.log(np.diag(factor))))
    return Relation(
        q, ptr, columns.astype(np.int32), val, DenseRoot(factor), logdet, np.diag(K).astype(np.float64)
    )
