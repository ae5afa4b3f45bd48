"""Convex quadratic over a product of small positive semidefinite cones.

minimise  g'(x - x0) + (x - x0)'H(x - x0)/2   subject to  mat_t(x) >= 0 for every block t,

by a primal-dual interior-point method (the HKM direction of Helmberg, Rendl, Vanderbei & Wolkowicz 1996, SIAM
J. Optim. 6, with Mehrotra's predictor-corrector).  A block is a symmetric k x k matrix given by its free
entries (`mme.covariance.entries`); a "diagonal" term is k one-by-one blocks.  Orders are those of covariance
parameters: a handful.
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


def _inverse_root(X: np.ndarray) -> np.ndarray:
    """V with V V' = X^-1; raises LinAlgError where X is indefinite to working precision."""
    if X.shape[0] == 1:
        if not X[0, 0] > 0.0:
            raise np.linalg.LinAlgError("not positive definite")
        return 1.0 / np.sqrt(X)
    w, U = np.linalg.eigh(X)
    if not w[0] > 0.0:
        raise np.linalg.LinAlgError("not positive definite")
    return U / np.sqrt(w)


def _max_step(root: np.ndarray, dX: np.ndarray) -> float:
    """Largest alpha with X + alpha dX >= 0, X^-1 = root root'."""
    if root.shape[0] == 1:
        smallest = float(root[0, 0] ** 2 * dX[0, 0])
    else:
        smallest = float(np.linalg.eigvalsh(root.T @ dX @ root)[0])
    return -1.0 / smallest if smallest < 0 else np.inf


class _Interior:
    """State of the interior-point iteration: primal x with its matrices X, dual matrices Z."""

    def __init__(self, x0: np.ndarray, scale: float, blocks: list[ConeBlock]) -> None:
        self.blocks = blocks
        self.order = sum(b.k for b in blocks)
        self.X = [b.mat(x0) + 1e-2 * np.eye(b.k) for b in blocks]
        self.x = np.empty(x0.size)
        for b, Xb in zip(blocks, self.X, strict=True):
            self.x[b.part] = Xb[b.rows, b.cols]
        self.Z = [1e-1 * scale * np.eye(b.k) for b in blocks]

    def gap(self) -> float:
        """Mean complementarity tr(X Z) / order."""
        return sum(float(np.sum(X * Z)) for X, Z in zip(self.X, self.Z, strict=True)) / self.order

    def prepare(self, H: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Dual residual; factors the Newton matrix (LinAlgError at the end of precision)."""
        self.residual = H @ self.x + c
        self.root_X = [_inverse_root(X) for X in self.X]
        self.root_Z = [_inverse_root(Z) for Z in self.Z]
        self.Xi = [V @ V.T for V in self.root_X]
        K = H.copy()
        for b, Xi, Z in zip(self.blocks, self.Xi, self.Z, strict=True):
            self.residual[b.part] -= b.dual(Z)
            image = np.einsum("ab,ebc,cd->ead", Xi, b.basis, Z)
            image = 0.5 * (image + image.transpose(0, 2, 1))
            K[b.part, b.part] += np.stack([b.dual(S) for S in image], axis=1)
        self.inverse = np.linalg.inv(np.linalg.cholesky(K))
        return self.residual

    def direction(self, target: float, corrections: list[np.ndarray] | None) -> tuple:
        """Newton direction towards complementarity `target`, minus second-order corrections."""
        rhs = -self.residual
        constants = []
        for i, (b, Xi, Z) in enumerate(zip(self.blocks, self.Xi, self.Z, strict=True)):
            constant = target * Xi - Z
            if corrections is not None:
                constant = constant - corrections[i]
            constants.append(constant)
            rhs[b.part] += b.dual(constant)
        dx = self.inverse.T @ (self.inverse @ rhs)
        dX = [b.mat(dx) for b in self.blocks]
        dZ = []
        for constant, Xi, dXb, Z in zip(constants, self.Xi, dX, self.Z, strict=True):
            move = Xi @ dXb @ Z
            dZ.append(constant - 0.5 * (move + move.T))
        return dx, dX, dZ

    def step_lengths(self, dX: list[np.ndarray], dZ: list[np.ndarray], back: float) -> tuple[float, float]:
        """Primal and dual fractions that stay inside the cones."""
        primal = min(_max_step(a, b) for a, b in zip(self.root_X, dX, strict=True))
        dual = min(_max_step(a, b) for a, b in zip(self.root_Z, dZ, strict=True))
        return min(1.0, back * primal), min(1.0, back * dual)

    def advance(self) -> bool:
        """One predictor-corrector step; False when no progress is possible."""
        mu = self.gap()
        _, dX, dZ = self.direction(0.0, None)
        ap, ad = self.step_lengths(dX, dZ, 1.0)
        after = sum(
            float(np.sum((X + ap * a) * (Z + ad * b)))
            for X, a, Z, b in zip(self.X, dX, self.Z, dZ, strict=True)
        )
        sigma = min(1.0, max(1e-6, (after / self.order / mu) ** 3))
        corrections = []
        for Xi, a, b in zip(self.Xi, dX, dZ, strict=True):
            second = Xi @ a @ b
            corrections.append(0.5 * (second + second.T))
        dx, dX, dZ = self.direction(sigma * mu, corrections)
        ap, ad = self.step_lengths(dX, dZ, 0.98)
        if ap < 1e-10 and ad < 1e-10:
            return False
        self.x = self.x + ap * dx
        self.X = [b.mat(self.x) for b in self.blocks]
        self.Z = [0.5 * (z + ad * d + (z + ad * d).T) for z, d in zip(self.Z, dZ, strict=True)]
        return True


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
    H = H + 1e-13 * max(float(np.trace(H)) / m, 1e-300) * np.eye(m)
    c = g - H @ x0  # objective: c'x + x'Hx/2
    scale = max(1.0, float(np.abs(g).max()))
    state = _Interior(x0, scale, blocks)
    for _ in range(max_iterations):
        try:
            residual = state.prepare(H, c)
        except np.linalg.LinAlgError:
            break  # the Newton matrix is singular to working precision: this is as close as it gets
        if state.gap() < 1e-12 * scale and np.abs(residual).max() < 1e-11 * scale:
            break
        if not state.advance():
            break
    return _rounded(state, H)


def _rounded(state: _Interior, H: np.ndarray) -> np.ndarray:
    """x with the eigenvalues that complementarity sends to zero set to zero."""
    x = state.x.copy()
    for b, X, Z in zip(state.blocks, state.X, state.Z, strict=True):
        w, V = np.linalg.eigh(X)
        for i in range(b.k):
            v = V[:, i]
            unit = np.zeros(x.size)
            unit[b.part] = np.outer(v, v)[b.rows, b.cols]
            curvature = float(unit @ H @ unit)
            # either the eigenvalue or the multiplier (as a distance, z / curvature) vanishes
            if w[i] < 1e-3 and w[i] * curvature < float(v @ Z @ v):
                w[i] = 0.0
        S = (V * w) @ V.T
        x[b.part] = S[b.rows, b.cols]
    return x
