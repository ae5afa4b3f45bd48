"""Cross-products of related levels: whole blocks, with room for the inverses of known covariances."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..runtime.scipys import scipy_module
from .layout import Layout

__all__ = ["joined", "related_rows", "unrelated_rows", "whole_levels"]


def whole_levels(Z: Any, k: int) -> Any:
    """All k columns of a level where a row has one of them, zeros among them."""
    sp = scipy_module("sparse")
    n = Z.shape[0]
    rows = np.repeat(np.arange(n), np.diff(Z.indptr) * k)
    columns = (Z.indices[:, None] // k * k + np.arange(k)).ravel()
    data = np.where(np.arange(k) == (Z.indices % k)[:, None], Z.data[:, None], 0.0).ravel()
    return sp.csr_array(sp.coo_array((data, (rows, columns)), shape=Z.shape))


def related_rows(layout: Layout, M: np.ndarray) -> np.ndarray:
    """T M for the rows of the rest: effects of related levels from independent ones, (q2, m) -> (q2, m)."""
    out = M.copy()
    for r, block in enumerate(layout.rest):
        if block.relation is not None:
            part = layout.rest_columns(r)
            out[part] = block.relation.related(M[part].reshape(block.q, -1)).reshape(out[part].shape)
    return out


def unrelated_rows(layout: Layout, M: np.ndarray) -> np.ndarray:
    """T'M for the rows of the rest, (q2, m) -> (q2, m)."""
    out = M.copy()
    for r, block in enumerate(layout.rest):
        if block.relation is not None:
            part = layout.rest_columns(r)
            out[part] = block.relation.unrelated(M[part].reshape(block.q, -1)).reshape(out[part].shape)
    return out


def joined(
    layout: Layout, gptr: np.ndarray, gidx: np.ndarray, gval: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Block-lower Z_2'Z_2 with room for inverses of known covariances: their pattern, filled with zeros.

    S is dense where one of them is full, so that it is enough to tie its levels together.
    """
    sp = scipy_module("sparse")
    rows, columns = [gidx], [np.repeat(np.arange(layout.q2), np.diff(gptr))]
    for r, block in enumerate(layout.rest):
        if block.relation is None:
            continue
        start, k = int(layout.offsets[r]), block.k
        grid = np.arange(k)
        idx, column = block.relation.idx.astype(np.int64), block.relation.columns.astype(np.int64)
        if block.relation.full:
            levels = np.arange(block.q)
            idx, column = np.concatenate([levels, levels[1:]]), np.concatenate([levels, levels[:-1]])
        shape = (idx.size, k, k)
        at = start + idx * k
        rows.append(np.broadcast_to(at[:, None, None] + grid[:, None], shape).ravel())
        at = start + column * k
        columns.append(np.broadcast_to(at[:, None, None] + grid, shape).ravel())
    if len(rows) == 1:
        return gptr, gidx, gval
    row, column = np.concatenate(rows), np.concatenate(columns)
    data = np.concatenate([gval, np.zeros(row.size - gval.size)])
    G = sp.csc_array(sp.coo_array((data, (row, column)), shape=(layout.q2, layout.q2)))
    G.sort_indices()
    return G.indptr.astype(np.int64), G.indices.astype(np.int32), G.data
