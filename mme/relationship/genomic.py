"""Relationships from markers, alone and together with a pedigree's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..engine.equations.relation import relation_of_covariance, relation_of_precision
from ..engine.runtime.scipys import scipy_module
from ..exceptions import DataError, OptionError
from .known import Relationship, listed
from .pedigree import Pedigree

__all__ = ["kinship", "single_step"]


def kinship(markers: Any, labels: Sequence[Any] | None = None, frequencies: Any = None) -> pd.DataFrame:
    """Genomic relationship matrix, method 1 of VanRaden.

    G = (M - 2 p')(M - 2 p')' / (2 sum p (1 - p)), on the scale of A: one for an individual that is not
    inbred.

    Parameters
    ----------
    markers : array_like or DataFrame, shape (q, m)
        Copies of one allele: 0, 1, 2, or expected numbers in between. Missing ones (NaN) count as the mean.
    labels : sequence, shape (q,), optional
        Individuals; by default the rows of a frame.
    frequencies : array_like, shape (m,), optional
        Frequency p of every marker in the base population; by default those of the individuals.

    Returns
    -------
    DataFrame, shape (q, q)
        For `mme.Covariance`: with frequencies of the individuals themselves it is singular (its rows sum to
        zero), so that a `ridge` is needed.

    Raises
    ------
    DataError
        Values outside of 0..2, no marker that varies, lengths that do not fit.

    References
    ----------
    VanRaden (2008), J. Dairy Sci. 91, 4414-4423.

    Examples
    --------
    >>> import mme
    >>> import numpy as np
    >>> markers = np.array([[0, 1, 2, 1], [1, 1, 0, 2], [2, 0, 1, 1]])
    >>> mme.kinship(markers, ["a", "b", "c"]).shape
    (3, 3)
    """
    if labels is None:
        labels = markers.index if isinstance(markers, pd.DataFrame) else range(len(markers))
    index = pd.Index(labels)
    M = np.array(markers, dtype=np.float64)
    if M.ndim != 2 or len(index) != len(M):
        raise DataError(f"markers of shape {M.shape} do not fit {len(index)} labels: a row for each.")
    if not index.is_unique:
        raise DataError(
            f"individuals have markers more than once: {listed(index[index.duplicated()].unique())}."
        )
    missing = np.isnan(M)
    outside = ~missing & ((M < 0.0) | (M > 2.0))
    if outside.any():
        i, j = np.argwhere(outside)[0]
        raise DataError(
            f"markers count the copies of an allele, 0 to 2; {int(outside.sum())} values are outside, "
            f"the first is "
            f"{M[i, j]:g} in row {i}, column {j}. Add 1 to those coded -1, 0, 1."
        )
    if frequencies is None:
        seen = np.maximum((~missing).sum(axis=0), 1)
        p = np.where(missing, 0.0, M).sum(axis=0) / (2.0 * seen)
    else:
        p = np.asarray(frequencies, dtype=np.float64)
        if p.shape != (M.shape[1],) or not np.all((p >= 0.0) & (p <= 1.0)):
            raise DataError(f"frequencies must be {M.shape[1]} numbers between 0 and 1, one a marker.")
    scale = 2.0 * float(np.sum(p * (1.0 - p)))
    if not scale > 0.0:
        raise DataError("no marker varies between the individuals.")
    M -= 2.0 * p
    M[missing] = 0.0
    return pd.DataFrame(M @ M.T / scale, index=index, columns=index)


def single_step(pedigree: Pedigree, genomic: pd.DataFrame, blend: float = 0.05) -> Relationship:
    """The relationship of individuals of whom some have markers: H.

    H^-1 is A^-1 plus G_w^-1 - A_22^-1 for those with markers, G_w = (1 - blend) G + blend A_22.

    Parameters
    ----------
    pedigree : Pedigree
    genomic : DataFrame, shape (m, m)
        G of `kinship`, of individuals of the pedigree.
    blend : float
        Share of the pedigree's relationship, between 0 and 1.

    Returns
    -------
    Relationship

    References
    ----------
    Aguilar et al. (2010), J. Dairy Sci. 93, 743-752.  Christensen & Lund (2010), Genet. Sel. Evol. 42, 2.

    Examples
    --------
    >>> import mme
    >>> import numpy as np
    >>> import pandas as pd
    >>> pedigree = mme.Pedigree([1, 2, 3, 4], [None, None, 1, 1], [None, None, 2, 2])
    >>> G = pd.DataFrame([[1.0, 0.6], [0.6, 1.0]], index=[3, 4], columns=[3, 4])
    >>> mme.single_step(pedigree, G).variances.round(2).tolist()
    [1.02, 1.02, 1.0, 1.0]
    """
    if not 0.0 <= blend <= 1.0:
        raise OptionError(f"blend must be between 0 and 1, not {blend!r}.")
    if not isinstance(genomic, pd.DataFrame) or not genomic.index.equals(genomic.columns):
        raise DataError(
            "the genomic relationship must be a DataFrame with the individuals as rows and columns."
        )
    at = pedigree.labels.get_indexer(genomic.index)
    if np.any(at < 0) or np.any(at < pedigree.n_groups):
        raise DataError(
            f"individuals with markers are not in the pedigree: "
            f"{listed(genomic.index[at < pedigree.n_groups])}."
        )
    A, q, m = pedigree.relation, len(pedigree.labels), at.size
    unit = np.zeros((q, m))
    unit[at, np.arange(m)] = 1.0
    A22 = A.times(unit)[at]
    A22 = 0.5 * (A22 + A22.T)
    G = (1.0 - blend) * genomic.to_numpy(dtype=np.float64) + blend * A22
    try:
        known, genes = relation_of_covariance(A22), relation_of_covariance(G)
    except np.linalg.LinAlgError:
        raise DataError(
            f"the genomic relationship, blended with {blend:g} of the pedigree's, is not positive "
            f"definite (smallest "
            f"eigenvalue {np.linalg.eigvalsh(G)[0]:.3g}): take more of the pedigree's, blend=0.1 for example."
        ) from None
    sp = scipy_module("sparse")
    extra = sp.coo_array(genes.precision - known.precision)
    added = sp.coo_array((extra.data, (at[extra.row], at[extra.col])), shape=(q, q))
    return Relationship(pedigree.labels, relation_of_precision(sp.csc_array(A.precision + added)))
