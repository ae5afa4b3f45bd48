"""Covariance structures of a random term: what its parameters are, and what may be done with its columns.

Three things are told apart: *theta*, the free entries of the lower-triangular factor lam that the fit is
given and gives; the free entries of D = lam lam', in which derivatives are taken; and the blocks of D that
may be singular independently of one another, each a cone of the search.  A structure is stateless and shared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..kernels import triangle

__all__ = ["DIAGONAL", "FULL", "Full", "Structure", "triangular"]


class Structure(ABC):
    """How the k effects of one level may covary.

    Attributes
    ----------
    name : str
        As in `RandomTerm`'s argument `covariance`.
    mixes : bool
        Whether the covariance of any invertible combinations of the effects is of the same structure, so that
        the term's columns may be replaced by an orthonormal basis.
    curved : bool
        Whether D is a function of fewer parameters than theta has entries (`mme.engine.covariance.patterns`):
        theta is then what the engine is given, and the search is one in the parameters.
    tied : bool
        Whether tables show one number for correlations, or deviations, that are tied to one another.
    ordered : bool
        Whether the effects are taken in their order.
    """

    name: str
    mixes: bool
    curved: bool = False
    tied: bool = False
    ordered: bool = False

    @abstractmethod
    def entries(self, k: int) -> list[tuple[int, int]]:
        """Positions (row, column) of the free entries of lam, and of D, in theta's order."""

    @abstractmethod
    def blocks(self, k: int) -> list[tuple[int, ...]]:
        """Effects that are correlated with one another; effects of different blocks are not."""

    @abstractmethod
    def root(self, gram: np.ndarray) -> np.ndarray:
        """Upper triangular R with R'R = gram, or what of it the structure lets pass, shape (k, k)."""

    @abstractmethod
    def eigen(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """U (k, k) and s (k,) with factor factor' = U diag(s^2) U'; exact zeros where it is singular."""

    @abstractmethod
    def triangular(self, root: np.ndarray) -> np.ndarray:
        """Lower-triangular factor with non-negative diagonal of root root', for a root of the structure."""

    def size(self, k: int) -> int:
        """Number of parameters of a term with k effects."""
        return len(self.entries(k))

    def lam(self, theta: np.ndarray, k: int) -> np.ndarray:
        """Lower-triangular relative covariance factor, shape (k, k)."""
        lam = np.zeros((k, k))
        lam[_places(self, k)] = theta
        return lam

    def theta(self, lam: np.ndarray) -> np.ndarray:
        """Free entries of a factor, the inverse of `lam`."""
        values: np.ndarray = lam[_places(self, lam.shape[0])]
        return values

    def n_parameters(self, k: int) -> int:
        """Number of parameters that are estimated: entries of theta, less what the structure ties."""
        return self.size(k)

    def shown(self, k: int) -> list[tuple[int, int]]:
        """Entries of the covariance that stand for the parameters in tables, one each."""
        return self.entries(k)

    def parameter_label(self, effects: Sequence[str], a: int, b: int) -> str:
        """Name of the standard deviation (a = b) or correlation that an entry shows, less sd_ or cor_."""
        return effects[a] if a == b else f"{effects[a]}.{effects[b]}"

    def is_singular(self, eigenvalues: np.ndarray, least: float) -> bool:
        """Whether eigenvalues of the covariance, shape (k,), vanish that the structure lets be positive."""
        return bool(np.min(eigenvalues) < least)

    def __repr__(self) -> str:
        return f"<covariance structure {self.name!r}>"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _named, (self.name,)


class Full(Structure):
    """Any positive semidefinite matrix: lme4's ``(x | g)``."""

    name, mixes = "full", True

    def entries(self, k: int) -> list[tuple[int, int]]:
        return [(a, b) for b in range(k) for a in range(b, k)]

    def blocks(self, k: int) -> list[tuple[int, ...]]:
        return [tuple(range(k))]

    def root(self, gram: np.ndarray) -> np.ndarray:
        if gram.shape[0] == 1:
            return np.sqrt(gram * (1.0 + _RIDGE))
        d = np.sqrt(np.diag(gram))
        # collinear columns: a small ridge keeps the root regular
        return np.linalg.cholesky(gram / np.outer(d, d) + _RIDGE * np.eye(d.size)).T * d

    def eigen(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if factor.shape[0] == 1:
            return np.ones((1, 1)), np.abs(factor[0])
        U, s, _ = np.linalg.svd(factor)
        return U, np.where(s > _ZERO * s[0], s, 0.0)

    def triangular(self, root: np.ndarray) -> np.ndarray:
        return triangular(root)


class _Diagonal(Structure):
    """Uncorrelated effects: lme4's ``(x || g)``."""

    name, mixes = "diagonal", False

    def entries(self, k: int) -> list[tuple[int, int]]:
        return [(a, a) for a in range(k)]

    def blocks(self, k: int) -> list[tuple[int, ...]]:
        return [(a,) for a in range(k)]

    def root(self, gram: np.ndarray) -> np.ndarray:
        return np.diag(np.sqrt(np.diag(gram)))

    def eigen(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.eye(factor.shape[0]), np.abs(np.diag(factor))

    def triangular(self, root: np.ndarray) -> np.ndarray:
        return np.diag(np.abs(np.diag(root)))


@lru_cache(256)
def _places(structure: Structure, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the free entries of lam."""
    rows, columns = zip(*structure.entries(k), strict=True)
    return np.array(rows), np.array(columns)


_RIDGE = 1e-9
_ZERO = 1e-14  # singular value that counts as zero beside the largest


def triangular(root: np.ndarray) -> np.ndarray:
    """Lower-triangular factor, shape (k, k), non-negative diagonal, with the same product ``root @ root.T``.

    The R of a QR of the transpose, so exact rank deficiency survives; rounding residue (1e-14 of a row) is
    set to zero.
    """
    if root.shape == (1, 1):
        return np.abs(root)
    lam = np.empty((root.shape[0], root.shape[0]))
    triangle.triangular_factor(np.ascontiguousarray(root), lam)
    return lam


FULL: Structure = Full()
DIAGONAL: Structure = _Diagonal()
_BY_NAME = {structure.name: structure for structure in (FULL, DIAGONAL)}


def _named(name: str) -> Structure:
    return _BY_NAME[name]
