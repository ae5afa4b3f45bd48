"""Cluster-robust covariances through V and every cluster's square roots, dense: nothing of the engine.

With H = X M X'V^-1 and M = (X'V^-1 X)^-1: V^CR = sum_j M X_j'V_j^-1 A_j e_j e_j'A_j'V_j^-1 X_j M, of all
pairs of rows that share a cluster where V is not block diagonal; A_j = D_j'B_j^-1/2 D_j of Bell and McCaffrey
(2002) with D_j the Cholesky factor of V_j.  Degrees of freedom and eta: Pustejovsky & Tipton (2018), by
their arrays of n-vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import oracle

from mme.engine.equations.design import Design


class DenseSandwich:
    def __init__(
        self, design: Design, lams: Sequence[np.ndarray], cov_type: str, clusters: Sequence[np.ndarray]
    ) -> None:
        n = design.n
        weights = np.ones(n) if design.weights is None else design.weights
        V = np.diag(1.0 / weights)
        for term, lam in zip(design.terms, lams, strict=True):
            Z = oracle.dense_z(term, n)
            V += np.einsum("iqa,ab,jqb->ij", Z, lam @ lam.T, Z, optimize=True)
        # an orthonormal basis of X for the inner sums; back at the end
        X, R = np.linalg.qr(design.X)
        back = np.linalg.inv(R)
        y = design.y if design.offset is None else design.y - design.offset
        if cov_type == "HC0":
            # rows of the whitened model, by the symmetric root beside the weights
            w, P = np.linalg.eigh(np.sqrt(weights)[:, None] * V * np.sqrt(weights))
            white = (P / np.sqrt(w)) @ P.T * np.sqrt(weights)
            X, y, V = white @ X, white @ y, np.eye(n)
            clusters = [np.arange(n)]
        Vi = np.linalg.inv(V)
        M = np.linalg.inv(X.T @ Vi @ X)
        b = M @ X.T @ Vi @ y
        self.beta = back @ b
        e = y - X @ b
        self.V, self.p = V, X.shape[1]
        if len(clusters) == 2:
            self._crossed(clusters, back @ M @ X.T @ Vi, e, cov_type)
            return
        (codes,) = clusters
        self.parts: list[np.ndarray] = []
        J = int(codes.max()) + 1
        I_H = np.eye(n) - X @ M @ X.T @ Vi
        for j in range(J):
            rows = np.flatnonzero(codes == j)
            own = np.ix_(rows, rows)
            A = np.eye(rows.size)
            if cov_type == "CR1":
                A = A * np.sqrt(J / (J - 1))
            if cov_type == "CR2":
                D = np.linalg.cholesky(V[own]).T
                B = D @ (I_H @ V @ I_H.T)[own] @ D.T
                w, P = np.linalg.eigh(B)
                root = np.where(w > 1e-10 * w[-1], w, np.inf) ** -0.5
                A = D.T @ (P * root) @ P.T @ D
            # row c of the array: what of y this cluster puts into coefficient c
            self.parts.append(back @ M @ X[rows].T @ np.linalg.inv(V[own]) @ A @ I_H[rows])
        scores = [part @ y for part in self.parts]
        self.covariance = sum(np.outer(s, s) for s in scores)

    def _crossed(self, clusters, weight, e, cov_type) -> None:
        """Every pair of rows that shares a cluster, written out; each clustering with its own factor."""
        n = e.size
        both = np.unique(np.column_stack(clusters), axis=0, return_inverse=True)[1].ravel()
        pairs = np.zeros((n, n))
        for codes, sign in ((clusters[0], 1.0), (clusters[1], 1.0), (both, -1.0)):
            J = np.unique(codes).size
            factor = J / (J - 1) if cov_type == "CR1" else 1.0
            pairs += sign * factor * (codes[:, None] == codes)
        self.covariance = weight @ (pairs * np.outer(e, e)) @ weight.T

    def degrees(self, row: np.ndarray) -> float:
        P = np.array([part.T @ row for part in self.parts])
        lam = P @ self.V @ P.T
        return float(np.trace(lam) ** 2 / np.sum(lam * lam))

    def htz(self, L: np.ndarray, difference: np.ndarray) -> tuple[float, float]:
        """F and its denominator of several rows."""
        q = len(L)
        Ps = np.array([[part.T @ row for part in self.parts] for row in L])
        expected = np.array([[np.sum(Ps[s] * (Ps[t] @ self.V)) for t in range(q)] for s in range(q)])
        w, U = np.linalg.eigh(expected)
        G = (U / np.sqrt(w)) @ U.T
        Ps = np.einsum("st,tjn->sjn", G, Ps)
        cross = np.einsum("sjn,nm,tkm->sjtk", Ps, self.V, Ps, optimize=True)
        total = np.einsum("sjtk,tjsk->", cross, cross) + np.einsum("sjsk,tjtk->", cross, cross)
        eta = q * (q + 1) / total
        Q = difference @ np.linalg.inv(L @ self.covariance @ L.T) @ difference
        return float((eta - q + 1) / (eta * q) * Q), float(eta - q + 1)
