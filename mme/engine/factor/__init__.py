"""Factorizations of the symmetric positive definite matrix left after elimination, behind one interface."""

from __future__ import annotations

import warnings

import numpy as np

from ...exceptions import SolverFallbackWarning
from . import cholmod
from .base import Factor, NotPositiveDefiniteError
from .cholmod import CholmodFactor
from .dense import DenseFactor
from .superlu import SuperluFactor

__all__ = [
    "CholmodFactor",
    "DenseFactor",
    "Factor",
    "NotPositiveDefiniteError",
    "SuperluFactor",
    "available_solvers",
    "make_sparse",
    "predicted",
]


def available_solvers() -> tuple[str, ...]:
    """Names `make_sparse` serves without falling back, best first."""
    return ("cholmod", "superlu") if cholmod.available() else ("superlu",)


def make_sparse(
    n: int, indptr: np.ndarray, indices: np.ndarray, factorization: str = "auto"
) -> CholmodFactor | SuperluFactor:
    """Sparse factor for one pattern.

    Parameters
    ----------
    n : int
        Order of S.
    indptr : ndarray of int64 or int32, shape (n + 1,)
    indices : ndarray of int32, shape (nnz,)
        Lower triangle of S, CSC, rows ascending, all diagonal entries present.
    factorization : {"auto", "cholmod", "superlu"}
        "auto" takes CHOLMOD where scikit-sparse is installed and SuperLU elsewhere.

    Returns
    -------
    CholmodFactor or SuperluFactor

    Warns
    -----
    SolverFallbackWarning
        CHOLMOD was asked for by name and is not available; SuperLU serves.
    """
    if factorization not in ("auto", "cholmod", "superlu"):
        raise ValueError(f"factorization is {factorization!r}; choose 'auto', 'cholmod' or 'superlu'.")
    if factorization != "superlu":
        reason = cholmod.why_unavailable()
        if not reason:
            return CholmodFactor(n, indptr, indices)
        if factorization == "cholmod":
            warnings.warn(
                f"solver='cholmod' is not available: {reason}. SuperLU serves instead: same numbers, slower. "
                "Install mme[cholmod] to have CHOLMOD.",
                SolverFallbackWarning,
                stacklevel=2,
            )
    return SuperluFactor(n, indptr, indices)


def predicted(n: int, indptr: np.ndarray, indices: np.ndarray) -> tuple[int, float]:
    """Predicted entries of L and operations of a sparse factorization (n^3/3 if full).

    With SuperLU this costs one factorization; a caller that goes on to factorize should make the factor and
    ask its `predicted` method, which does the analysis once.
    """
    return make_sparse(n, indptr, indices).predicted()
