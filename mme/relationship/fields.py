"""Gaussian Markov random fields as sparse precision matrices: random walks, areas, grids.

Intrinsic fields say nothing of their level (nor, of second order, of their trend): Q has no inverse. Here the
first levels of each connected part are anchored, one or two at a variance of one: Q gets a one on their
diagonal. Where the fixed effects have what the field does not speak of (the intercept; the trend), the
restricted likelihood is exactly that of the intrinsic field, and does not depend on the anchor's variance;
effects are deviations from the anchored levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..engine.runtime.scipys import scipy_module
from ..exceptions import DataError, OptionError
from .known import Precision, listed

__all__ = ["ar1_grid", "icar", "rw1", "rw2"]


def rw1(levels: Sequence[Any]) -> Precision:
    """A random walk of first order over ordered levels: differences of neighbours are independent.

    Parameters
    ----------
    levels : sequence, shape (q,)
        In their order, equally spaced.

    Returns
    -------
    Precision
        Anchored at the first level: the model needs an intercept, and REML.

    Examples
    --------
    >>> import mme
    >>> mme.rw1(["spring", "summer", "autumn"]).precision.toarray().shape
    (3, 3)
    """
    index = _ordered(levels, 2)
    return Precision(_walk(len(index), 1), index)


def rw2(levels: Sequence[Any]) -> Precision:
    """A random walk of second order over ordered levels: second differences are independent.

    Parameters
    ----------
    levels : sequence, shape (q,)
        In their order, equally spaced.

    Returns
    -------
    Precision
        Anchored at the first two levels: the model needs an intercept and the linear trend, and REML.

    Examples
    --------
    >>> import mme
    >>> len(mme.rw2(range(2000, 2010)).labels)
    10
    """
    index = _ordered(levels, 3)
    return Precision(_walk(len(index), 2), index)


def _walk(q: int, order: int) -> Any:
    sp = scipy_module("sparse")
    D = sp.eye_array(q, format="csr")
    for _ in range(order):
        D = D[1:] - D[:-1]
    anchor = np.zeros(q)
    anchor[:order] = 1.0
    return sp.csc_array(D.T @ D + sp.diags_array(anchor))


def _ordered(levels: Sequence[Any], least: int) -> pd.Index:
    index = pd.Index(levels)
    if len(index) < least:
        raise DataError(f"a random walk needs at least {least} levels; there are {len(index)}.")
    return index


def icar(neighbours: Any, labels: Sequence[Any] | None = None) -> Precision:
    """Areas that resemble their neighbours: the intrinsic conditional autoregression of Besag.

    Parameters
    ----------
    neighbours : mapping of label to labels, DataFrame or matrix, shape (q, q)
        Who adjoins whom, symmetric; weights of a matrix count.
    labels : sequence, shape (q,), optional
        Of a matrix without them.

    Returns
    -------
    Precision
        diag(sum of weights) - W, anchored at the first area of every connected part; areas without neighbours
        have a variance of one. The model needs an intercept (and an effect of every part), and REML.

    References
    ----------
    Besag, York & Mollie (1991), Ann. Inst. Statist. Math. 43, 1-20.

    Examples
    --------
    >>> import mme
    >>> areas = mme.icar({"north": ["centre"], "centre": ["north", "south"], "south": ["centre"]})
    >>> sorted(areas.labels)
    ['centre', 'north', 'south']
    """
    sp = scipy_module("sparse")
    if isinstance(neighbours, Mapping):
        index = pd.Index(list(neighbours))
        pairs = [(a, b) for a, others in neighbours.items() for b in others]
        rows, columns = (index.get_indexer(pd.Index([p[i] for p in pairs])) for i in (0, 1))
        if np.any(columns < 0):
            strangers = [pairs[i][1] for i in np.flatnonzero(columns < 0)]
            raise DataError(f"neighbours that are no areas themselves: {listed(strangers)}.")
        W = sp.csc_array(sp.coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(index),) * 2))
        W.data[:] = 1.0
    else:
        if labels is None:
            if not isinstance(neighbours, pd.DataFrame):
                raise DataError("the matrix of neighbours needs labels: a DataFrame, or labels=.")
            labels = neighbours.index
        index = pd.Index(labels)
        W = sp.csc_array(neighbours, dtype=np.float64)
        if W.shape != (len(index),) * 2:
            raise DataError(f"the matrix of neighbours has shape {W.shape} and {len(index)} labels.")
    different = sp.coo_array(abs(W - W.T))
    bad = np.flatnonzero(different.data > 0)
    if bad.size:
        i, j = different.row[bad[0]], different.col[bad[0]]
        raise DataError(f"neighbours are not mutual: {index[i]!r} and {index[j]!r} differ.")
    if W.diagonal().any():
        raise DataError(f"areas are their own neighbours: {listed(index[W.diagonal() != 0])}.")
    if W.nnz and W.data.min() < 0:
        raise DataError("weights of neighbours must not be negative.")
    parts = scipy_module("sparse.csgraph").connected_components(W, directed=False)[1]
    anchor = np.zeros(len(index))
    anchor[np.unique(parts, return_index=True)[1]] = 1.0
    return Precision(sp.csc_array(sp.diags_array(np.asarray(W.sum(axis=0)).ravel() + anchor) - W), index)


def ar1_grid(rows: Sequence[Any], columns: Sequence[Any], rho: tuple[float, float]) -> Precision:
    """A grid whose rows and columns are autoregressions of first order: AR1 x AR1, variance one.

    Parameters
    ----------
    rows, columns : sequence, shapes (r,), (c,)
        In their order. Levels of the grid are texts ``"row:column"``, as of the factor ``rows:columns``.
    rho : (float, float)
        Known correlations of neighbouring rows and columns, between -1 and 1.

    Returns
    -------
    Precision

    Examples
    --------
    >>> import mme
    >>> mme.ar1_grid([1, 2], [1, 2], (0.5, 0.5)).covariance().round(2)
          1:1   1:2   2:1   2:2
    1:1  1.00  0.50  0.50  0.25
    1:2  0.50  1.00  0.25  0.50
    2:1  0.50  0.25  1.00  0.50
    2:2  0.25  0.50  0.50  1.00
    """
    sp = scipy_module("sparse")
    parts = []
    for values, r in zip((rows, columns), rho, strict=True):
        if not -1.0 < r < 1.0:
            raise OptionError(f"rho must be between -1 and 1, not {r!r}.")
        n = len(values)
        middle = np.full(n, 1.0 + r * r)
        middle[[0, -1]] = 1.0
        if n == 1:
            middle[0] = 1.0 - r * r
        side = np.full(max(n - 1, 0), -r)
        parts.append(sp.diags_array([side, middle, side], offsets=[-1, 0, 1]) / (1.0 - r * r))
    labels = pd.Index([f"{a}:{b}" for a in rows for b in columns], dtype=object)
    return Precision(sp.csc_array(sp.kron(parts[0], parts[1])), labels)
