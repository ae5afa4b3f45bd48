"""Dense Cholesky factorization by LAPACK (dpotrf, dpotrs, dpotri); large orders by blocks on threads."""

from __future__ import annotations

import math

import numpy as np

from ..runtime.scipys import scipy_module
from . import blocked
from .base import Factor, NotPositiveDefiniteError

__all__ = ["DenseFactor"]

_BLOCKED = 512  # order from which two threads outweigh the cost of cutting into blocks


class DenseFactor(Factor):
    """Cholesky factor of a dense S.

    Memory: the caller's S, overwritten by L, and one buffer of the same size from the first
    `selected_inverse` on.

    Parameters
    ----------
    n : int
        Order of S, 0 included.
    """

    name = "dense (LAPACK)"

    def __init__(self, n: int) -> None:
        self.n = int(n)
        self._L: np.ndarray | None = None
        self._inverse: np.ndarray | None = None
        self._logdet = 0.0

    def factorize(self, S: np.ndarray) -> None:
        """Factorize S = LL' in place.

        Parameters
        ----------
        S : ndarray of float64, shape (n, n), Fortran order
            Lower triangle of S; what is above the diagonal is not read.  **Overwritten** by L and referred
            to until the next call, so the caller may assemble the next S in it.

        Raises
        ------
        ValueError
            S is not a writable Fortran-ordered float64 array of shape (n, n).
        NotPositiveDefiniteError
            S is not positive definite or not finite.
        """
        if (
            S.shape != (self.n, self.n)
            or S.dtype != np.float64
            or not (S.flags.f_contiguous and S.flags.writeable)
        ):
            # Anything else would be copied by the wrapper: twice the memory, and S not overwritten.
            raise ValueError(
                f"S must be a writable Fortran-ordered float64 array of shape {(self.n, self.n)}."
            )
        self._L = None
        if self.n == 0:
            self._L, self._logdet = S, 0.0
            return
        if self.n >= _BLOCKED:
            L, info = S, blocked.cholesky(S)
        else:
            L, info = scipy_module("linalg.lapack").dpotrf(S, lower=1, clean=0, overwrite_a=1)
        # Not every LAPACK stops at a NaN pivot, so the sum decides: NaN and inf in S reach the diagonal of L.
        logdet = 2.0 * float(np.log(L.diagonal()).sum()) if info == 0 else math.nan
        if not math.isfinite(logdet):
            where = f"leading minor {info} is not positive" if info > 0 else "a pivot is not finite or zero"
            raise NotPositiveDefiniteError(
                f"{self.name}: the matrix of order {self.n} is not positive definite or not finite ({where})."
            )
        self._L, self._logdet = L, logdet

    def _factor(self) -> np.ndarray:
        if self._L is None:
            raise RuntimeError(f"{self.name}: factorize() has not succeeded yet.")
        return self._L

    def logdet(self) -> float:
        """Log-determinant of S."""
        self._factor()
        return self._logdet

    def solve(self, B: np.ndarray) -> np.ndarray:
        """S^-1 B for B of shape (n, m); the result is Fortran-ordered."""
        L = self._factor()
        if B.size == 0:
            return np.zeros(B.shape, order="F")
        return np.asarray(scipy_module("linalg.lapack").dpotrs(L, B, lower=1)[0])

    def selected_inverse(self) -> np.ndarray:
        """Lower triangle of S^-1.

        Returns
        -------
        ndarray of float64, shape (n, n), Fortran order
            Above the diagonal: undefined.  The array belongs to the factor; the next call overwrites it.
        """
        L = self._factor()
        if self._inverse is None:
            self._inverse = np.empty((self.n, self.n), order="F")
        if self.n == 0:
            return self._inverse
        # L stays as it is: second-order work solves after the inverse has been read.
        if self.n >= _BLOCKED:
            blocked.inverse(L, self._inverse)
            return self._inverse
        np.copyto(self._inverse, L)
        scipy_module("linalg.lapack").dpotri(self._inverse, lower=1, overwrite_c=1)
        return self._inverse
