"""Other responses on one design: the design's part of the equations is shared, and so are its rows.

A `Responder` keeps what a pass over the rows needs (the orthonormal X, the columns of every block in the
equations' basis), so that the equations of a further response cost three products with it.
"""

from __future__ import annotations

import numpy as np

from ..kernels import cells as kc
from ..runtime.parallel import cut, run
from .design import Design
from .equations import Equations, block_columns, rest_rows
from .fixed import orthonormalise
from .response import Response, Responses

__all__ = ["Responder", "respond"]

_UNFINISHED = 1e-7  # share of the residual that a first projection may leave in the columns of X


class Responder:
    """Cross-products of responses with one design.

    Parameters
    ----------
    design : Design
        Its own response is not used.
    equations : Equations
        Of the design and any response.
    """

    def __init__(self, design: Design, equations: Equations) -> None:
        self.equations = equations
        layout, self._n = equations.layout, design.n
        self._root_w = None if design.weights is None else np.sqrt(design.weights)
        self._offset = design.offset
        y = design.y if design.offset is None else design.y - design.offset
        xy = orthonormalise(design.X, y, self._root_w)[0]
        self._Q = np.ascontiguousarray(xy[:, : equations.p])
        columns = [block_columns(design, block, self._root_w)[0] for block in layout.blocks]
        self._rest = rest_rows(design, layout, self._root_w, columns) if layout.q2 else None
        self._codes = self._z = None
        self._order: tuple[np.ndarray, np.ndarray] | None = None
        if layout.has_lead:
            self._codes, self._z = design.terms[layout.blocks[0].terms[0]].codes, columns[0]

    def response(self, y: np.ndarray) -> Response:
        """Cross-products of a response, shape (n,), on the scale of the data."""
        layout = self.equations.layout
        if self._offset is not None:
            y = y - self._offset
        if self._root_w is not None:
            y = y * self._root_w
        b0 = self._Q.T @ y
        r = y - self._Q @ b0
        Qy, yy = self._Q.T @ r, float(r @ r)
        if Qy.size and np.max(np.abs(Qy)) > _UNFINISHED * np.sqrt(yy):
            b0 = b0 + Qy
            r = r - self._Q @ Qy
            Qy, yy = self._Q.T @ r, float(r @ r)
        Z2y = np.zeros((layout.q2, 1))
        if self._rest is not None:
            rptr, ridx, rval = self._rest
            kc.rows_times(rptr, ridx.size // self._n, ridx, rval, r[:, None], Z2y)
        Z1y = np.zeros(self.equations.A1x.shape[:2])
        if layout.has_lead:
            z = self._z
            assert z is not None and self._codes is not None
            for c in range(layout.k1):
                weight = r * z[:, c] if z.shape[0] else r
                Z1y[:, c] = np.bincount(self._codes, weights=weight, minlength=layout.q1)
        return Response(Z1y, Z2y[:, 0], Qy, b0, yy, float(y @ y))

    def responses(self, Y: np.ndarray) -> Responses:
        """Cross-products of many responses, shape (n, N), on the scale of the data: one pass."""
        layout = self.equations.layout
        if self._offset is not None:
            Y = Y - self._offset[:, None]
        if self._root_w is not None:
            Y = Y * self._root_w[:, None]
        total = np.einsum("ij,ij->j", Y, Y)
        b0 = self._Q.T @ Y
        R = np.ascontiguousarray(Y - self._Q @ b0)
        Qy, yy = self._Q.T @ R, np.einsum("ij,ij->j", R, R)
        if Qy.size:
            again = np.max(np.abs(Qy), axis=0) > _UNFINISHED * np.sqrt(yy)
            if np.any(again):
                b0[:, again] += Qy[:, again]
                R[:, again] -= self._Q @ Qy[:, again]
                Qy[:, again] = self._Q.T @ R[:, again]
                yy[again] = np.einsum("ij,ij->j", R[:, again], R[:, again])
        count = Y.shape[1]
        Z2y = np.zeros((layout.q2, count))
        if self._rest is not None:
            rptr, ridx, rval = self._rest
            kc.rows_times(rptr, ridx.size // self._n, ridx, rval, R, Z2y)
        Z1y = np.zeros((layout.q1, layout.k1, count))
        if layout.has_lead:
            z = self._z
            assert z is not None and self._codes is not None
            if self._order is None:
                codes = np.ascontiguousarray(self._codes, dtype=np.int32)
                self._order = kc.counting_sort(codes, layout.q1)
            order, rows = self._order
            own = np.zeros((layout.q1, layout.k1, layout.k1))
            run(
                lambda _, a, b: kc.level_blocks(a, b, order, rows, z, R, own, Z1y),
                cut(np.diff(rows) * float(layout.k1 * (layout.k1 + count)), layout.q1),
            )
        turned = np.ascontiguousarray(Z1y.transpose(2, 0, 1))
        return Responses(
            turned, np.ascontiguousarray(Z2y.T), np.ascontiguousarray(Qy.T), b0.T.copy(), yy, total
        )

    def respond(self, y: np.ndarray) -> Equations:
        """The equations of a response, shape (n,)."""
        return self.equations.with_response(self.response(y))


def respond(design: Design, equations: Equations) -> Equations:
    """The equations of a design that differs in its response alone from that of `equations`.

    Passes over the rows once more, but finds no cells and no cross-products of random effects again.

    Parameters
    ----------
    design : Design
        X, terms, weights as those of `equations`.
    equations : Equations

    Returns
    -------
    Equations
    """
    return Responder(design, equations).respond(design.y)
