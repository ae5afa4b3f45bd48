"""Relationships with labels: what `relationship=` takes, whatever it was given as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from ..engine.equations.relation import Relation, relation_of_covariance, relation_of_precision
from ..engine.runtime.scipys import scipy_module
from ..exceptions import DataError, OptionError

__all__ = ["Covariance", "Precision", "Relationship", "known_relationship", "listed"]

_SYMMETRIC = 1e-8  # difference of a matrix and its transpose, relative to its largest entry


@dataclass(frozen=True, eq=False)
class Relationship:
    """A known covariance A between labelled levels: u ~ N(0, A (x) D).

    Attributes
    ----------
    labels : pandas.Index, shape (q,)
        Levels, in the order of A.
    relation : Relation
        A^-1 and a root of A.
    """

    labels: pd.Index
    relation: Relation

    @property
    def precision(self) -> Any:
        """A^-1, sparse, shape (q, q)."""
        return self.relation.precision

    @property
    def variances(self) -> pd.Series:
        """Diagonal of A, by label."""
        return pd.Series(self.relation.diagonal, index=self.labels, name="variance")

    def covariance(self) -> pd.DataFrame:
        """A itself, dense, with labels: for small ones."""
        A = self.relation.times(np.eye(len(self.labels)))
        return pd.DataFrame(0.5 * (A + A.T), index=self.labels, columns=self.labels)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.labels):,} levels, {self.relation.val.size:,} "
        "entries in A^-1>"


class Precision(Relationship):
    """A known sparse precision matrix: A = Q^-1.

    Parameters
    ----------
    Q : sparse or dense array, shape (q, q)
        Symmetric and positive definite.
    labels : sequence, shape (q,)
        Levels of the grouping factor, all different.

    Raises
    ------
    DataError
        Not square, not symmetric, not finite, labels that repeat or do not fit.
    DesignError
        Not positive definite: an intrinsic (rank-deficient) Q has to be anchored, see `mme.rw1`.

    Examples
    --------
    >>> import mme
    >>> import numpy as np
    >>> Q = np.array([[2.0, -1.0], [-1.0, 2.0]])
    >>> mme.Precision(Q, ["a", "b"]).covariance().round(3)
           a      b
    a  0.667  0.333
    b  0.333  0.667
    """

    def __init__(self, Q: Any, labels: Sequence[Any]) -> None:
        sparse = scipy_module("sparse")
        Q = sparse.csc_array(Q, dtype=np.float64)
        index = _labels(labels, Q.shape, "the precision matrix Q")
        if not np.all(np.isfinite(Q.data)):
            raise DataError("the precision matrix Q has values that are not finite.")
        worst = abs(Q - Q.T)
        _symmetric("the precision matrix Q", float(worst.max()) if worst.nnz else 0.0, float(abs(Q).max()))
        super().__init__(index, relation_of_precision(Q))


class Covariance(Relationship):
    """A known dense covariance matrix, such as a genomic relationship or a kernel.

    Parameters
    ----------
    K : array_like or DataFrame, shape (q, q)
        Symmetric and positive definite.
    labels : sequence, shape (q,), optional
        Levels of the grouping factor; by default those of the frame.
    ridge : float
        Added to the diagonal: for matrices that are only positive semidefinite, as genomic relationships of
        fewer markers than individuals, or of centred markers, are.

    Raises
    ------
    DataError
        Not square, not symmetric, not finite, not positive definite (the message says by how much), labels
        that repeat or do not fit.

    Examples
    --------
    >>> import mme
    >>> import numpy as np
    >>> K = np.array([[1.0, 0.5], [0.5, 1.0]])
    >>> mme.Covariance(K, ["a", "b"]).variances
    a    1.0
    b    1.0
    Name: variance, dtype: float64
    """

    def __init__(self, K: Any, labels: Sequence[Any] | None = None, ridge: float = 0.0) -> None:
        if labels is None:
            if not isinstance(K, pd.DataFrame):
                raise DataError("the covariance matrix K needs labels: a DataFrame, or labels=.")
            if not K.index.equals(K.columns):
                raise DataError("the rows and columns of the covariance matrix K have different labels.")
            labels = K.index
        matrix = np.array(K, dtype=np.float64)
        index = _labels(labels, matrix.shape, "the covariance matrix K")
        if not isinstance(ridge, Real) or not 0.0 <= ridge < np.inf:
            raise OptionError(f"ridge must be a number that is not negative, not {ridge!r}.")
        if not np.all(np.isfinite(matrix)):
            raise DataError("the covariance matrix K has values that are not finite.")
        size = float(np.abs(matrix).max(initial=0.0))
        _symmetric("the covariance matrix K", float(np.abs(matrix - matrix.T).max(initial=0.0)), size)
        matrix = 0.5 * (matrix + matrix.T)
        matrix[np.diag_indices(len(index))] += ridge
        super().__init__(index, _definite(matrix))


def _definite(K: np.ndarray) -> Relation:
    mean = float(np.mean(np.diag(K)))
    try:
        relation = relation_of_covariance(K)
        # pivots of K itself, in units of its diagonal
        if float(np.min(relation.pivots / np.diag(K))) > 1e-10:
            return relation
    except np.linalg.LinAlgError:
        pass
    w = np.linalg.eigvalsh(K)
    needed = max(-float(w[0]), 0.0) + 1e-3 * mean
    small = int(np.sum(w < 1e-8 * w[-1]))
    raise DataError(
        f"the covariance matrix K is not positive definite: {small} of {len(K)} eigenvalues are not "
        f"above 1e-8 of "
        f"the largest ({w[-1]:.4g}), the smallest is {w[0]:.4g}. Add to its diagonal with ridge=, here for "
        f"example mme.Covariance(K, labels, ridge={needed:.2g}), or blend it with a pedigree's."
    )


def _symmetric(what: str, difference: float, size: float) -> None:
    if difference > _SYMMETRIC * size:
        raise DataError(
            f"{what} is not symmetric: entries differ from those across the diagonal by up to "
            f"{difference:.3g}."
        )


def _labels(labels: Sequence[Any], shape: tuple[int, ...], what: str) -> pd.Index:
    if len(shape) != 2 or shape[0] != shape[1]:
        raise DataError(f"{what} must be square; it has shape {shape}.")
    index = labels if isinstance(labels, pd.Index) else pd.Index(np.asarray(labels))
    if len(index) != shape[0]:
        raise DataError(f"{what} is of order {shape[0]} and has {len(index)} labels.")
    if index.hasnans:
        raise DataError(f"{what} has {int(np.sum(pd.isna(index)))} missing labels.")
    if not index.is_unique:
        again = index[index.duplicated()].unique()
        raise DataError(f"{what} has labels more than once: {listed(again)}.")
    return index


def listed(values: Sequence[Any], most: int = 5) -> str:
    """The first of some labels, as text."""
    shown = ", ".join(repr(v) for v in list(values[:most]))
    return shown if len(values) <= most else f"{shown} and {len(values) - most:,} more"


def known_relationship(given: object, group: str) -> Relationship:
    """What was given for a grouping factor as a relationship.

    Parameters
    ----------
    given : Relationship, DataFrame, or pair of matrix and labels
        A dense matrix is a covariance, a sparse one a precision.
    group : str
        For the message.
    """
    if isinstance(given, Relationship):
        return given
    if isinstance(given, pd.DataFrame):
        return Covariance(given)
    sparse = scipy_module("sparse")
    if isinstance(given, tuple) and len(given) == 2:
        matrix, labels = given
        return Precision(matrix, labels) if sparse.issparse(matrix) else Covariance(matrix, labels)
    if sparse.issparse(given) or isinstance(given, np.ndarray):
        raise OptionError(
            f"relationship of {group!r}: a matrix needs the labels of its rows: mme.Precision(Q, labels) "
            f"for a "
            "sparse inverse, mme.Covariance(K, labels) or a DataFrame for a dense covariance."
        )
    raise OptionError(
        f"relationship of {group!r} must be a mme.Pedigree, mme.Precision(Q, labels), mme.Covariance(K, "
        f"labels) or "
        f"a DataFrame with the levels as its rows and columns, not {type(given).__name__}."
    )
