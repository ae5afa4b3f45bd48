"""The interface of every factorization: factorize, logdet, solve, selected_inverse."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from ...exceptions import MMEError

__all__ = ["Factor", "NotPositiveDefiniteError", "check_pivots"]


class NotPositiveDefiniteError(MMEError, np.linalg.LinAlgError):
    """The matrix to factorize is not positive definite, or not finite."""


class Factor(ABC):
    """Factorization of one symmetric positive definite matrix S of order `n`, renewed for each theta.

    A factor is made once for a pattern (or an order) and factorized many times.  One factor belongs to one
    thread at a time; different factors may be used in different threads.

    Attributes
    ----------
    name : str
        What results print, for example ``"sparse (CHOLMOD)"``.
    n : int
        Order of S.
    """

    name: str = "abstract"
    n: int

    @abstractmethod
    def factorize(self, S: np.ndarray) -> None:
        """Factorize S, or the values of S in the order of the pattern; see the subclass.

        Raises
        ------
        NotPositiveDefiniteError
            S is not positive definite or not finite; the factor cannot be used until the next success.
        """

    @abstractmethod
    def logdet(self) -> float:
        """Log-determinant of S."""

    @abstractmethod
    def solve(self, B: np.ndarray) -> np.ndarray:
        """S^-1 B.

        Parameters
        ----------
        B : ndarray of float64, shape (n, m)
            C or Fortran order, ``m >= 0``; not modified.

        Returns
        -------
        ndarray of float64, shape (n, m)
        """

    @abstractmethod
    def selected_inverse(self) -> np.ndarray:
        """Entries of S^-1 where S has entries; the layout is that of `factorize`'s argument."""


def check_pivots(pivots: np.ndarray, what: str) -> None:
    """Raise NotPositiveDefiniteError unless all pivots are positive and finite.

    Parameters
    ----------
    pivots : ndarray of float64, shape (n,)
        Diagonal of D in LDL', or of L in LL'.
    what : str
        Name of the factorization, for the message.
    """
    # Written so that NaN fails: every comparison with it is False.
    good = (pivots > 0.0) & (pivots < np.inf)
    if not good.all():
        first = int(np.argmin(good))
        raise NotPositiveDefiniteError(
            f"{what}: the matrix of order {pivots.size} is not positive definite or not finite "
            f"(pivot {first} is {pivots[first]:g})."
        )
