"""Convex quadratic over a product of small positive semidefinite cones.

minimise  g'(x - x0) + (x - x0)'H(x - x0)/2   subject to  mat_t(x) >= 0 for every block t,

by a primal-dual interior-point method (the HKM direction of Helmberg, Rendl, Vanderbei & Wolkowicz 1996, SIAM
J. Optim. 6, with Mehrotra's predictor-corrector).  A block is a symmetric k x k matrix given by its free entries
(`mme.covariance.entries`); a "diagonal" block is k one-by-one cones.  Orders are those of covariance parameters: a handful.
"""

from __future__ import annotations

import numpy as np

__all__ = ["ConeBlock", "minimise_over_cone"]


class ConeBlock:
    """One symmetric block: where its free entries sit in x and how they make a matrix.

    Parameters
    ----------
    start : int
        Position of the first entry in x.
    k : int
    entries : list of (int, int)
        Free entries of the lower triangle.
    """

    def __init__(self, start: int, k: int, entries: list[tuple[int, int]]) -> None:
        self.k = k
        self.size = len(entries)
        self.part = slice(start, start + self.size)
        self.rows = np.array([a for a, _ in entries])
        self.cols = np.array([b for _, b in entries])
        self.weight = np.where(self.rows == self.cols, 1.0, 2.0)
        # column e of the basis: d mat / d x_e
        self.basis = np.zeros((self.size, k, k))
        for e, (a, b) in enumerate(entries):
            self.basis[e, a, b] = self.basis[e, b, a] = 1.0

    def mat(self, x: np.ndarray) -> np.ndarray:
        """Symmetric matrix of the block's part of x."""
        out = np.zeros((self.k, self.k))
        out[self.rows, self.cols] = x[self.part]
        out[self.cols, self.rows] = x[self.part]
        return out

    def dual(self, S: np.ndarray) -> np.ndarray:
        """Entries of the linear form X -> tr(S X): off-diagonal ones count twice."""
        return S[self.rows, self.cols] * self.weight


def _max_step(X: np.ndarray, dX: np.ndarray) -> float:
    """Largest alpha with X + alpha dX >= 0."""
    if X.shape[0] == 1:
        return float(-X[0, 0] / dX[0, 0]) if dX[0, 0] < 0 else np.inf
    L = np.linalg.cholesky(X)
    Li = np.linalg.inv(L)
    smallest = np.linalg.eigvalsh(Li @ dX @ Li.T)[0]
    return float(-1.0 / smallest) if smallest < 0 else np.inf


def minimise_over_cone(
    x0: np.ndarray, g: np.ndarray, H: np.ndarray, blocks: list[ConeBlock], max_iterations: int = 60
) -> np.ndarray:
    """Minimiser of the quadratic over the cones, with exact zeros in inactive directions.

    Parameters
    ----------
    x0 : ndarray, shape (m,)
        Point at which g and H were taken; its blocks are positive semidefinite with eigenvalues of order 1
        at most (the interior-point start is scaled to that).
    g, H : ndarrays, shapes (m,), (m, m)
        Gradient and positive semidefinite Hessian.
    blocks : list of ConeBlock

    Returns
    -------
    x : ndarray, shape (m,)
        Directions whose multiplier outweighs the remaining eigenvalue are set to zero exactly.
    """
    m = x0.size
    ridge = 1e-13 * max(float(np.trace(H)) / m, 1e-300)
    H = H + ridge * np.eye(m)
    c = g - H @ x0  # objective: c'x + x'Hx/2
    scale = max(1.0, float(np.abs(g).max()))
    X = [b.mat(x0) + 1e-2 * np.eye(b.k) for b in blocks]
    x = np.empty(m)
    for b, Xb in zip(blocks, X, strict=True):
        x[b.part] = Xb[b.rows, b.cols]
    Z = [1e-1 * scale * np.eye(b.k) for b in blocks]
    order = sum(b.k for b in blocks)
    for _ in range(max_iterations):
        residual = H @ x + c
        for b, Zb in zip(blocks, Z, strict=True):
            residual[b.part] -= b.dual(Zb)
        mu = sum(float(np.sum(Xb * Zb)) for Xb, Zb in zip(X, Z, strict=True)) / order
        if mu < 1e-15 * scale and np.abs(residual).max() < 1e-12 * scale:
            break
        Xi = [np.linalg.inv(Xb) for Xb in X]
        K = H.copy()
        for b, Xib, Zb in zip(blocks, Xi, Z, strict=True):
            image = np.einsum("ab,ebc,cd->ead", Xib, b.basis, Zb)
            image = 0.5 * (image + image.transpose(0, 2, 1))
            K[b.part, b.part] += np.stack([b.dual(S) for S in image], axis=1)
        try:
            chol = np.linalg.cholesky(K)
        except np.linalg.LinAlgError:
            break  # no further precision to be had

        def direction(target: float, corrections, residual=residual, chol=chol, Xi=Xi):
            rhs = -residual
            constants = []
            for i, (b, Xib, Zb) in enumerate(zip(blocks, Xi, Z, strict=True)):
                const = target * Xib - Zb
                if corrections is not None:
                    const = const - corrections[i]
                constants.append(const)
                rhs[b.part] += b.dual(const)
            dx = np.linalg.solve(chol.T, np.linalg.solve(chol, rhs))
            dX = [b.mat(dx) for b in blocks]
            dZ = []
            for const, Xib, dXb, Zb in zip(constants, Xi, dX, Z, strict=True):
                move = Xib @ dXb @ Zb
                dZ.append(const - 0.5 * (move + move.T))
            return dx, dX, dZ

        _, dX, dZ = direction(0.0, None)
        ap = min(1.0, *(_max_step(a, b) for a, b in zip(X, dX, strict=True)))
        ad = min(1.0, *(_max_step(a, b) for a, b in zip(Z, dZ, strict=True)))
        after = sum(
            float(np.sum((Xb + ap * dXb) * (Zb + ad * dZb)))
            for Xb, dXb, Zb, dZb in zip(X, dX, Z, dZ, strict=True)
        )
        sigma = min(1.0, max(1e-6, (after / order / mu) ** 3))
        corrections = []
        for Xib, dXb, dZb in zip(Xi, dX, dZ, strict=True):
            second = Xib @ dXb @ dZb
            corrections.append(0.5 * (second + second.T))
        dx, dX, dZ = direction(sigma * mu, corrections)
        ap = min(1.0, 0.98 * min(_max_step(a, b) for a, b in zip(X, dX, strict=True)))
        ad = min(1.0, 0.98 * min(_max_step(a, b) for a, b in zip(Z, dZ, strict=True)))
        x_new = x + ap * dx
        X_new = [b.mat(x_new) for b in blocks]
        if not all(np.linalg.eigvalsh(Xb)[0] > 0 for Xb in X_new):
            break
        x, X = x_new, X_new
        Z = [0.5 * (Zb + ad * dZb + (Zb + ad * dZb).T) for Zb, dZb in zip(Z, dZ, strict=True)]
        if not all(np.linalg.eigvalsh(Zb)[0] > 0 for Zb in Z):
            break
    for b, Xb, Zb in zip(blocks, X, Z, strict=True):
        w, V = np.linalg.eigh(Xb)
        for i in range(b.k):
            v = V[:, i]
            unit = np.zeros(m)
            unit[b.part] = np.outer(v, v)[b.rows, b.cols]
            curvature = float(unit @ H @ unit)
            # x z = mu -> 0: either the eigenvalue or the multiplier (as a distance, z / curvature) vanishes
            if w[i] < 1e-3 and w[i] * curvature < float(v @ Zb @ v):
                w[i] = 0.0
        S = (V * w) @ V.T
        x[b.part] = S[b.rows, b.cols]
    return x
