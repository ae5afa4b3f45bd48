"""Average information from solves instead of a factor; see `mme.engine.iterative.objective`."""

from __future__ import annotations

import numpy as np

from ..equations.equations import Equations
from .pcg import BlockSolution, SchurSystem
from .state import SolvedState

__all__ = ["average_information", "flat"]


def average_information(
    eq: Equations,
    sy: SchurSystem,
    st: SolvedState,
    Ze: list[np.ndarray],
    tol: float,
    nu: int,
    max_iterations: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, BlockSolution]:
    """Average information in the free entries of R D R', sigma2 profiled out and jointly with it.

    R D R' is the relative covariance in the equations' basis, where it is well conditioned.  As in
    `mme.engine.direct.objective`: for entry (a, b) the working variate is f = Z_t w, w_l = E_ab (Z'e)_l, for
    sigma2 it is the response (Gilmour, Thompson & Cullis 1995, Biometrics 51).

    Parameters
    ----------
    eq : Equations
    sy : SchurSystem
        At the state's theta.
    st : SolvedState
    Ze : list of ndarray, shapes (q, k)
        Z'We per block, in the equations' basis.
    tol : float
        Relative tolerance of the solves; the error is its square.
    nu : int
        Degrees of freedom of the residual variance.
    max_iterations : int
        Of conjugate gradients.

    Returns
    -------
    profiled : ndarray, shape (n_theta, n_theta)
    joint : ndarray, shape (n_theta + 1, n_theta + 1)
        sigma2 last.
    slope : ndarray, shape (n_theta,)
        Derivative of the profiled sigma2.
    solution : BlockSolution
    """
    lay, p, m = eq.layout, eq.p, eq.layout.n_theta
    w = [np.zeros((b.q, b.k, m)) for b in lay.blocks]
    for place in lay.places:
        first, ze = place.first, Ze[place.block]
        for i, (a, b) in enumerate(place.entries, start=place.theta.start):
            w[place.block][:, first + a, i] = ze[:, first + b]
            w[place.block][:, first + b, i] = ze[:, first + a]
    fe = sum((flat(x).T @ ze.reshape(-1) for x, ze in zip(w, Ze, strict=True)), np.zeros(m))
    rest = w[1:] if lay.has_lead else w
    w2 = np.concatenate([flat(x) for x in rest]) if rest else np.zeros((0, m))
    Zf2 = sy.gram(w2)
    K = w2.T @ Zf2
    Xf = eq.Z2Q.T @ w2
    if lay.has_lead:
        w1 = w[0]
        Bw = sy.lead(w2) if lay.q2 else np.zeros_like(w1)
        Aw = np.matmul(eq.A1, w1)
        cross = flat(Bw).T @ flat(w1)
        Zf1 = Aw + Bw
        WZ = sy.weigh(sy.W, Zf1.copy())
        K = K + flat(w1).T @ flat(Aw) + cross + cross.T - flat(Zf1).T @ flat(WZ)
        left = w1 - WZ
        Xf = Xf + flat(eq.Z1Q).T @ flat(left)
        sy.minus_rest(np.ascontiguousarray(-left), Zf2)
    Uf = sy.scale(Zf2, True)
    sol = sy.solve(Uf, tol, max_iterations=max_iterations)
    cross = sol.R.T @ sol.X
    C = K - (Uf.T @ sol.X + cross.T)
    if p:
        # X'P f from the solution for X: U_x'S^-1 U_f
        h = st.Ri @ (Xf - st.Y[:, :p].T @ Uf)
        C = C - h.T @ h
    C = 0.5 * (C + C.T)
    s2 = st.sigma2
    profiled = (C - np.outer(fe, fe) / st.r2) / s2
    joint = np.empty((m + 1, m + 1))
    joint[:m, :m] = C / s2
    joint[:m, m] = joint[m, :m] = fe / s2**2
    joint[m, m] = st.r2 / s2**3
    return 0.5 * (profiled + profiled.T), joint, -fe / nu, sol


def flat(cube: np.ndarray) -> np.ndarray:
    """(q, k, m) -> (q k, m), for m = 0 too."""
    return cube.reshape(cube.shape[0] * cube.shape[1], cube.shape[2])
