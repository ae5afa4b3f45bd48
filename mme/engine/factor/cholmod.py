"""Sparse Cholesky factorization by CHOLMOD (scikit-sparse 0.4)."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...exceptions import MemoryEstimateError
from ..runtime.scipys import scipy_module
from .base import Factor, NotPositiveDefiniteError, check_pivots
from .supernodes import EliminationTree, SelectedInverse

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["CholmodFactor", "available", "predicted", "why_unavailable"]


class _Symbolic(Protocol):
    """The analysed, later numeric factor of scikit-sparse: ``S[P][:, P] = L L'`` or ``L D L'``."""

    def cholesky_inplace(self, S: sparse.csc_matrix) -> None: ...

    def P(self) -> np.ndarray: ...

    def D(self) -> np.ndarray: ...

    def L(self) -> sparse.csc_matrix: ...

    def solve_A(self, B: np.ndarray) -> np.ndarray: ...


def why_unavailable() -> str:
    """Why CHOLMOD cannot serve here; empty if it can."""
    try:
        # Imported here and nowhere else: the package works without it.
        from sksparse import cholmod
    except ImportError as error:
        return f"scikit-sparse cannot be imported ({error})"
    # 0.5 renamed everything (CholeskyFactor instead of analyze and Factor) and needs SuiteSparse 7.
    if not hasattr(cholmod, "analyze"):
        return "this version of scikit-sparse is not supported; install scikit-sparse==0.4.16"
    return ""


def available() -> bool:
    """Whether a supported scikit-sparse is installed."""
    return not why_unavailable()


def _lower(n: int, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> sparse.csc_matrix:
    # 32-bit indices as long as they can count the entries: half the traffic, and one type for both arrays,
    # which scikit-sparse demands.
    kind = np.int32 if indices.size < 2**31 - 1 else np.int64
    S = scipy_module("sparse").csc_matrix((n, n))
    S.data, S.indices, S.indptr = data, indices.astype(kind, copy=False), indptr.astype(kind, copy=False)
    S.has_sorted_indices = True
    return S


def _analyze(S: sparse.csc_matrix) -> _Symbolic:
    if why_unavailable():
        raise ImportError(f"CHOLMOD is not available: {why_unavailable()}.")
    from sksparse.cholmod import CholmodOutOfMemoryError, CholmodTooLargeError, analyze

    try:
        return analyze(S, mode="auto", ordering_method="amd")
    except (CholmodTooLargeError, CholmodOutOfMemoryError) as error:
        raise MemoryEstimateError(
            f"CHOLMOD cannot hold the sparse factor of the Schur complement (order {S.shape[0]:,}, {S.nnz:,} "
            f"non-zeros): {error}. Use solver='iterative', which needs no factor."
        ) from error


@contextlib.contextmanager
def _serial_openmp() -> Iterator[None]:
    """Keep CHOLMOD's OpenMP loops on the calling thread.

    They ask for four threads whatever OMP_NUM_THREADS says, and a team started before a fork is gone after
    it: the child would wait for it forever.
    """
    try:
        omp = ctypes.CDLL("libgomp.so.1", mode=getattr(os, "RTLD_NOLOAD", 0) | getattr(os, "RTLD_NOW", 0))
    except OSError:  # no OpenMP in this process: nothing to keep
        yield
        return
    before = omp.omp_get_max_active_levels()
    omp.omp_set_max_active_levels(0)
    try:
        yield
    finally:
        omp.omp_set_max_active_levels(before)


class CholmodFactor(Factor):
    """Sparse Cholesky factor; ordering (AMD) and symbolic analysis once, in the constructor.

    Parameters
    ----------
    n : int
    indptr : ndarray of int64 or int32, shape (n + 1,)
    indices : ndarray of int32, shape (nnz,)
        Lower triangle of S, CSC, rows ascending, all diagonal entries present.
    """

    name = "sparse (CHOLMOD)"

    def __init__(self, n: int, indptr: np.ndarray, indices: np.ndarray) -> None:
        self.n = int(n)
        self._indptr = np.ascontiguousarray(indptr, np.int64)
        self._indices = np.ascontiguousarray(indices, np.int32)
        self._S = _lower(self.n, self._indptr, self._indices, np.ones(self._indices.size))
        if self.n:
            self._symbolic = _analyze(self._S)
        self._tree: EliminationTree | None = None
        self._inverse: SelectedInverse | None = None
        self._logdet = math.nan

    def _analysis(self) -> EliminationTree:
        if self._tree is None:
            self._tree = EliminationTree(self.n, self._indptr, self._indices, self._symbolic.P())
        return self._tree

    def predicted(self) -> tuple[int, float]:
        """Entries of L, and operations of a factorization (n^3/3 if full)."""
        return self._analysis().predicted() if self.n else (0, 0.0)

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
        if self.n == 0:
            self._logdet = 0.0
            return
        from sksparse.cholmod import CholmodNotPositiveDefiniteError

        self._logdet = math.nan
        self._S.data = data
        try:
            with _serial_openmp():
                self._symbolic.cholesky_inplace(self._S)
        except CholmodNotPositiveDefiniteError as error:
            raise NotPositiveDefiniteError(
                f"{self.name}: the matrix is not positive definite ({error})."
            ) from None
        # The simplicial LDL' accepts negative pivots, and NaN passes both methods.
        pivots = self._symbolic.D()
        check_pivots(pivots, self.name)
        self._logdet = float(np.log(pivots).sum())

    def _require(self) -> None:
        if math.isnan(self._logdet):
            raise RuntimeError(f"{self.name}: factorize() has not succeeded yet.")

    def logdet(self) -> float:
        """Log-determinant of S."""
        self._require()
        return self._logdet

    def solve(self, B: np.ndarray) -> np.ndarray:
        """S^-1 B for B of shape (n, m); the result is Fortran-ordered."""
        self._require()
        if B.size == 0:
            return np.zeros(B.shape, order="F")
        return self._symbolic.solve_A(B)

    def triangle(self) -> tuple[np.ndarray, sparse.csc_matrix]:
        """Order and L of S[order][:, order] = L L'."""
        self._require()
        return self._symbolic.P(), self._symbolic.L()

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
            self._inverse = SelectedInverse(self._analysis())
        L = self._symbolic.L()
        return self._inverse.compute(L.indptr, L.indices, L.data)


def predicted(n: int, indptr: np.ndarray, indices: np.ndarray) -> tuple[int, float]:
    """Predicted size and cost of a sparse factorization; nothing is factorized.

    Parameters
    ----------
    n, indptr, indices
        As for `CholmodFactor`.

    Returns
    -------
    nnz : int
        Entries of L.
    flops : float
        Sum of squared column counts of L: to be compared with n^3/3 for a dense factorization.
    """
    return CholmodFactor(n, indptr, indices).predicted()
