"""Conditional covariances of the random effects, level by level: diagonal blocks of M^-1.

M = lam'Z'WZ lam + I is the matrix of the mixed-model equations, and lam M^-1 lam' the covariance of the
effects given the response and the parameters, divided by sigma2 (Henderson 1975, Biometrics 31, 423-447).
With the leading term eliminated, its block of level l is W_l + W_l B_l T B_l' W_l and that of a level of the
rest T_ll, T = lam2 S^-1 lam2', so that only entries of S^-1 on the pattern of S are needed.
"""

from __future__ import annotations

import numpy as np

from ..equations.equations import Equations
from ..kernels.variances import level_inverse
from ..runtime.parallel import cut, run
from .elimination import Elimination
from .state import State

__all__ = ["block_variances"]


def block_variances(eq: Equations, el: Elimination, st: State) -> list[np.ndarray]:
    """Every level's block of lam M^-1 lam', in the equations' basis.

    Parameters
    ----------
    eq : Equations
    el : Elimination
        Last factored at `st`.
    st : State

    Returns
    -------
    list of ndarray, shapes (q_b, k_b, k_b), one per block of the layout
    """
    lay = eq.layout
    out = [el.W.copy()] if lay.has_lead else []
    if lay.q2 == 0:
        return out
    inverse, sparse = el.factor.selected_inverse(), not el.plan.dense
    none = np.zeros((0, 0), order="F")
    pattern = (el.plan.sptr, el.plan.sidx, inverse if sparse else none[0:0].ravel())
    pad = el.padded(st.lam2)
    if lay.has_lead:
        middle = np.empty((lay.q1, lay.k1, lay.k1))
        cells = (lay.lstart, lay.lblock, lay.clevel, pad, eq.ptr, eq.idx, eq.val)
        full = none if sparse else inverse
        partners = np.diff(eq.ptr).astype(np.float64)
        run(
            lambda _, a, b: level_inverse(a, b, *cells, sparse, full, *pattern, middle),
            cut(partners * (partners + 1.0) * lay.k1, lay.q1),
        )
        out[0] += np.matmul(np.matmul(el.W, middle), el.W)
    for r, block in enumerate(lay.rest):
        first = int(lay.offsets[r]) + block.k * np.arange(block.q)
        own = np.empty((block.q, block.k, block.k))
        for b in range(block.k):
            for a in range(b, block.k):
                if sparse:
                    # rows of a column begin at the column itself
                    entry = inverse[el.plan.sptr[first + b] + (a - b)]
                else:
                    entry = inverse[first + a, first + b]
                own[:, a, b] = own[:, b, a] = entry
        out.append(np.matmul(np.matmul(st.lam2[r], own), st.lam2[r].T))
    return out
