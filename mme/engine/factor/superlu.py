"""Sparse LDL' factorization by SuperLU in symmetric mode: scipy alone, no compiler and no SuiteSparse."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..runtime.scipys import scipy_module
from .base import Factor, NotPositiveDefiniteError, check_pivots
from .supernodes import EliminationTree, SelectedInverse

if TYPE_CHECKING:
    from scipy import sparse
    from scipy.sparse.linalg import SuperLU

__all__ = ["SuperluFactor", "predicted"]

# Diagonal pivots whatever their size: safe for a positive definite matrix, and it keeps the ordering fixed.
_OPTIONS = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}


def _full_pattern(n: int, indptr: np.ndarray, indices: np.ndarray) -> sparse.csc_matrix:
    """Both triangles; the value of an entry is its place in the lower one, as an int64."""
    sparse = scipy_module("sparse")
    columns = np.repeat(np.arange(n, dtype=np.int32), np.diff(indptr))
    below = np.flatnonzero(indices != columns)
    place = np.concatenate([np.arange(indices.size), below])
    rows = np.concatenate([indices, columns[below]])
    columns = np.concatenate([columns, indices[below]])
    S = sparse.coo_matrix((place, (rows, columns)), shape=(n, n)).tocsc()
    S.sort_indices()
    return S


def _ordering(S: sparse.csc_matrix) -> np.ndarray:
    """Minimum degree ordering of the pattern of S; row perm[i] of S comes i-th."""
    # scipy gives the ordering only along with a factorization: of any diagonally dominant matrix.
    values = np.full(S.nnz, -1.0)
    dominant = scipy_module("sparse").csc_matrix((values, S.indices, S.indptr), shape=S.shape)
    dominant.setdiag(np.diff(S.indptr) + 1.0)
    lu = scipy_module("sparse.linalg").splu(dominant, permc_spec="MMD_AT_PLUS_A", **_OPTIONS)
    return np.argsort(lu.perm_c)


class SuperluFactor(Factor):
    """Sparse LDL' factor; the ordering (minimum degree) is found once, in the constructor.

    Parameters
    ----------
    n : int
    indptr : ndarray of int64 or int32, shape (n + 1,)
    indices : ndarray of int32, shape (nnz,)
        Lower triangle of S, CSC, rows ascending, all diagonal entries present.
    """

    name = "sparse (SuperLU)"
    _lu: SuperLU  # of the last matrix that was factorized

    def __init__(self, n: int, indptr: np.ndarray, indices: np.ndarray) -> None:
        self.n = int(n)
        indptr = np.ascontiguousarray(indptr, np.int64)
        indices = np.ascontiguousarray(indices, np.int32)
        self._inverse: SelectedInverse | None = None
        self._logdet = math.nan
        if self.n == 0:
            return
        full = _full_pattern(self.n, indptr, indices)
        tree = EliminationTree(self.n, indptr, indices, _ordering(full))
        # From here on S is handed over in postordered labels, to be factorized as it stands.
        self._label = tree.label
        self._tree = tree
        # ... so L comes in the labels of the tree.
        tree.from_solver = np.arange(self.n)
        order = np.argsort(tree.label)
        S = full[order][:, order].tocsc()
        S.sort_indices()
        self._gather = S.data
        self._S = scipy_module("sparse").csc_matrix((np.ones(S.nnz), S.indices, S.indptr), shape=S.shape)
        self._order = order

    def predicted(self) -> tuple[int, float]:
        """Entries of L, and operations of a Cholesky factorization (n^3/3 if full; LU takes twice that)."""
        return self._tree.predicted() if self.n else (0, 0.0)

    def factorize(self, data: np.ndarray) -> None:
        """Factorize the matrix with these values.

        Parameters
        ----------
        data : ndarray of float64, shape (nnz,)
            In the order of the pattern; not modified.

        Raises
        ------
        NotPositiveDefiniteError
            S is not positive definite or not finite.
        """
        self._logdet = math.nan
        if self.n == 0:
            self._logdet = 0.0
            return
        np.take(data, self._gather, out=self._S.data)
        try:
            lu = scipy_module("sparse.linalg").splu(self._S, permc_spec="NATURAL", **_OPTIONS)
        except RuntimeError as error:
            raise NotPositiveDefiniteError(
                f"{self.name}: the matrix is not positive definite ({error})."
            ) from None
        # A row exchange means that a diagonal pivot was zero.
        if not np.array_equal(lu.perm_r, lu.perm_c):
            raise NotPositiveDefiniteError(f"{self.name}: the matrix is not positive definite (zero pivot).")
        pivots = lu.U.diagonal()
        check_pivots(pivots, self.name)
        self._lu, self._pivots = lu, pivots
        self._logdet = float(np.log(pivots).sum())

    def _require(self) -> None:
        if math.isnan(self._logdet):
            raise RuntimeError(f"{self.name}: factorize() has not succeeded yet.")

    def logdet(self) -> float:
        """Log-determinant of S."""
        self._require()
        return self._logdet

    def solve(self, B: np.ndarray) -> np.ndarray:
        """S^-1 B for B of shape (n, m)."""
        self._require()
        if B.size == 0:
            return np.zeros(B.shape, order="F")
        return self._lu.solve(B[self._order])[self._label]

    def selected_inverse(self) -> np.ndarray:
        """S^-1 on the pattern of the lower triangle of S.

        Returns
        -------
        ndarray of float64, shape (nnz,)
            A new array in the order of the pattern.
        """
        self._require()
        if self.n == 0:
            return np.empty(0)
        if self._inverse is None:
            self._inverse = SelectedInverse(self._tree)
        L = self._lu.L
        return self._inverse.compute(L.indptr, L.indices, L.data, np.sqrt(self._pivots))


def predicted(n: int, indptr: np.ndarray, indices: np.ndarray) -> tuple[int, float]:
    """Predicted entries of L and operations, as `cholmod.predicted`.

    scipy has no ordering without a factorization, so this costs one.
    """
    return SuperluFactor(n, indptr, indices).predicted()
