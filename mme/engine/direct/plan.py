"""Dense or sparse Schur complement: decided by predicted cost before anything large is allocated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...exceptions import OptionError
from ..equations.equations import Equations
from ..factor import CholmodFactor, Factor, SuperluFactor, make_sparse
from ..kernels import schur as ks
from ..runtime.parallel import cut, refresh_blas, run

__all__ = ["FACTORIZATIONS", "Plan", "make_plan"]

FACTORIZATIONS = ("auto", "dense", "cholmod", "superlu")

_ALWAYS_DENSE = 64  # order up to which a dense factor is never slower
# Measured against dpotrf + dpotri on crossed designs of order 1,500 to 5,000: the supernodal factor and
# selected inverse break even at about half of the dense flops.
_SPARSE_COST = 2.0


_refreshed = False


def _make_sparse(
    q2: int, sptr: np.ndarray, sidx: np.ndarray, factorization: str
) -> CholmodFactor | SuperluFactor:
    global _refreshed
    factor = make_sparse(q2, sptr, sidx, factorization)
    if not _refreshed:
        refresh_blas()
        _refreshed = True
    return factor


@dataclass(frozen=True, eq=False)
class Plan:
    """How S is stored and factored.

    Attributes
    ----------
    dense : bool
    factorization : str
        What was asked for: "auto", "dense", "cholmod" or "superlu".
    q2 : int
        Order of S.
    sptr, sidx : ndarray
        Lower-triangular pattern of S (sparse plans only).
    nnz_factor, flops : float
        Predicted non-zeros and flops of the factor.
    why : str
        One line for people.
    factor : Factor
        The analysed sparse factor (sparse plans only).
    """

    dense: bool
    factorization: str
    q2: int
    sptr: np.ndarray
    sidx: np.ndarray
    nnz_factor: float
    flops: float
    why: str
    factor: Factor | None = None

    @property
    def entries(self) -> float:
        """Numbers that a solve reads, each once."""
        return float(self.q2) ** 2 if self.dense else 2.0 * self.nnz_factor


def make_plan(eq: Equations, factorization: str = "auto") -> Plan:
    """Choose the storage and factorization of S.

    Parameters
    ----------
    eq : Equations
    factorization : {"auto", "dense", "cholmod", "superlu"}

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        For an unknown factorization.
    OptionError
        A sparse one of a matrix that a known covariance makes dense.
    """
    if factorization not in FACTORIZATIONS:
        names = ", ".join(map(repr, FACTORIZATIONS))
        raise ValueError(f"factorization must be one of {names}, not {factorization!r}.")
    q2 = eq.layout.q2
    empty = np.zeros(1, np.int64), np.zeros(0, np.int32)
    dense_flops = q2**3 / 3
    full = q2 * (q2 + 1) / 2
    if factorization == "dense" or q2 == 0 or (factorization == "auto" and q2 <= _ALWAYS_DENSE):
        return Plan(True, factorization, q2, *empty, full, dense_flops, f"order {q2}: dense")
    lay = eq.layout
    if any(block.relation is not None and block.relation.full for block in lay.rest):
        if factorization != "auto":
            raise OptionError(
                f"solver={factorization!r} factors a sparse matrix, and the inverse of a known covariance is "
                "full here: use solver='auto' or 'dense'."
            )
        why = f"order {q2}, a full inverse: dense"
        return Plan(True, factorization, q2, *empty, full, dense_flops, why)
    n_levels = lay.lstart.size - 1
    counts = np.zeros(q2 + 1, np.int64)
    ranges = cut(None, n_levels, float(eq.idx.size) * 50)
    pattern = (lay.lstart, eq.ptr, eq.idx, eq.tptr, eq.tlev, eq.tpos, eq.gptr, eq.gidx)
    run(lambda _, a, b: ks.count_schur(a, b, *pattern, counts), ranges)
    sptr = np.cumsum(counts)
    density = sptr[-1] / full
    if factorization == "auto" and density > 0.4:
        return Plan(
            True, factorization, q2, *empty, full, dense_flops, f"order {q2}, {density:.0%} non-zero: dense"
        )
    sidx = np.empty(sptr[-1], np.int32)
    run(lambda _, a, b: ks.fill_schur(a, b, *pattern, sptr, sidx), ranges)
    factor = _make_sparse(q2, sptr, sidx, factorization)
    nnz, flops = factor.predicted()
    why = f"order {q2}, {nnz:.3g} non-zeros in the factor: sparse"
    if factorization == "auto" and _SPARSE_COST * flops > dense_flops and q2 * q2 * 16 < 4e9:
        why = f"order {q2}: predicted {flops:.2g} sparse flops against {dense_flops:.2g} dense"
        return Plan(True, factorization, q2, *empty, full, dense_flops, why)
    return Plan(False, factorization, q2, sptr, sidx, nnz, flops, why, factor)
