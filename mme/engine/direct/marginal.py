"""The marginal model at one theta: V^-1 applied to X, y and Z, on the scale of the design's own columns.

V = W^-1 + Z D Z'.  What a likelihood in other parameters, tests and second derivatives need of a
factorization; everything costs triangular solves only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..equations.equations import Equations
from .elimination import Elimination, apply_lam
from .state import State

__all__ = ["Marginal", "marginal_of", "project"]


@dataclass(frozen=True, eq=False)
class Marginal:
    """Cross-products in the metric V^-1 at one theta; see `mme.engine.direct.objective.Objective.at`.

    Attributes
    ----------
    theta : ndarray, shape (n_theta,)
    logdet : float
        log|V|, under REML + log|X'V^-1 X| of the kept columns.
    beta : ndarray, shape (rank,)
        Generalized least squares estimate of the kept columns' coefficients.
    r2 : float
        (y - X beta)'V^-1 (y - X beta).
    root : ndarray, shape (rank, rank)
        Upper triangular R with R'R = X'V^-1 X, kept columns.
    zr : list of ndarray, shapes (q_t, k_t)
        Z'V^-1 (y - X beta), per term of the design.
    zx : list of ndarray, shapes (q_t, k_t, rank)
        Z'V^-1 X, kept columns.
    project : callable
        Z'V^-1 Z w per term of the design, at this theta.
    """

    theta: np.ndarray
    logdet: float
    beta: np.ndarray
    r2: float
    root: np.ndarray
    zr: list[np.ndarray]
    zx: list[np.ndarray]
    project: Callable[[list[np.ndarray]], list[np.ndarray]]

    def times(self, w: list[np.ndarray]) -> list[np.ndarray]:
        """Z'V^-1 Z w, exact where the covariance is singular.

        Parameters
        ----------
        w : list of ndarray, shapes (q_t, k_t, m)
            m vectors of random effects, per term of the design.

        Returns
        -------
        list of ndarray, shapes (q_t, k_t, m)
        """
        return self.project(w)


def marginal_of(
    eq: Equations, el: Elimination, st: State, project: Callable[[list[np.ndarray]], list[np.ndarray]]
) -> Marginal:
    """The marginal model at an evaluated state."""
    lay, p, fixed = eq.layout, eq.p, eq.fixed
    # the border's solutions are there already: Z'V^-1 [Q y] needs no solve
    d2 = apply_lam(eq, st.lam2, st.Y, False)
    lead = el.level_apply(el.F, eq.A1x) if lay.has_lead else None
    zqy = _split(eq, *_back(eq, el, st, lead, eq.A2x, d2))
    inverse = np.linalg.inv(fixed.T) if p else fixed.T
    contrast = np.r_[-st.b, 1.0]
    return Marginal(
        theta=st.theta,
        logdet=st.logdet - eq.log_w,
        beta=fixed.T @ (st.b + fixed.b0),
        r2=st.r2,
        root=np.linalg.inv(st.Ri).T @ inverse if p else np.zeros((0, 0)),
        zr=[z @ contrast for z in zqy],
        zx=[z[:, :, :p] @ inverse for z in zqy],
        project=project,
    )


def project(eq: Equations, el: Elimination, st: State, w: list[np.ndarray]) -> list[np.ndarray]:
    """Z'V^-1 Z w; see `Marginal.times`."""
    lay = eq.layout
    m = w[0].shape[2]
    blocks = [np.zeros((b.q, b.k, m)) for b in lay.blocks]
    for t, (place, w_t) in enumerate(zip(lay.places, w, strict=True)):
        blocks[place.block][:, place.first : place.first + place.k] = np.matmul(eq.term_basis(t), w_t)
    rest = blocks[1:] if lay.has_lead else blocks
    w2 = np.concatenate([x.reshape(-1, m) for x in rest]) if rest else np.zeros((0, m))
    raw2 = eq.A22 @ w2 if lay.q2 else w2
    projected = None
    if lay.has_lead:
        raw1 = el.minus_cells(-w2, el.level_apply(eq.A1, blocks[0]))
        projected = el.level_apply(el.F, raw1)
        raw2 = el.minus_cells_transposed(-blocks[0], raw2)
        right = el.minus_cells_transposed(el.level_apply(el.W, raw1), raw2.copy())
    else:
        right = raw2
    d2 = apply_lam(eq, st.lam2, el.solve(apply_lam(eq, st.lam2, right, True)), False)
    return _split(eq, *_back(eq, el, st, projected, raw2, d2))


def _back(
    eq: Equations, el: Elimination, st: State, projected: np.ndarray | None, raw2: np.ndarray, d2: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray]:
    """Z'V^-1 f of lead and rest from F Z_1'f, Z_2'f and the rest's conditional modes d2."""
    lay = eq.layout
    out2 = raw2 - eq.A22 @ d2 if lay.q2 else raw2
    if projected is None:
        return None, out2
    if lay.q2:
        projected = projected + el.level_apply(el.F, el.minus_cells(d2, np.zeros_like(projected)))
        out2 = el.minus_cells_transposed(np.ascontiguousarray(np.matmul(st.D1, projected)), out2)
    return projected, out2


def _split(eq: Equations, lead: np.ndarray | None, rest: np.ndarray) -> list[np.ndarray]:
    """By term of the design, from the engine's basis to the design's columns."""
    lay = eq.layout
    blocks = [] if lead is None else [lead]
    for r, block in enumerate(lay.rest):
        part = rest[int(lay.offsets[r]) : int(lay.offsets[r + 1])]
        blocks.append(part.reshape(block.q, block.k, rest.shape[1]))
    return [
        np.matmul(eq.term_basis(t).T, blocks[p.block][:, p.first : p.first + p.k])
        for t, p in enumerate(lay.places)
    ]
