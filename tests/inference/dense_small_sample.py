"""Satterthwaite and Kenward-Roger through V and its derivatives, dense: nothing of the engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import oracle

from mme.engine.equations.design import Design


@dataclass
class DenseSmallSample:
    """V = sum_i gamma_i G_i at the variances of a fit; gamma the entries of sigma2 D_t and sigma2.

    `held`: entries that are not estimated.
    """

    design: Design
    lams: list[np.ndarray]
    sigma2: float
    reml: bool = True
    information: str = "expected"
    held: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        design, n = self.design, self.design.n
        root_w = np.ones(n) if design.weights is None else np.sqrt(design.weights)
        X = root_w[:, None] * design.X
        y = root_w * (design.y if design.offset is None else design.y - design.offset)
        G, V = [], self.sigma2 * np.eye(n)
        for term, lam in zip(design.terms, self.lams, strict=True):
            Z = oracle.dense_z(term, n) * root_w[:, None, None]
            V += np.einsum("iqa,ab,jqb->ij", Z, self.sigma2 * lam @ lam.T, Z, optimize=True)
            for a, b in term.structure.entries(term.k):
                one = Z[:, :, a] @ Z[:, :, b].T
                G.append(one if a == b else one + one.T)
        G.append(np.eye(n))
        G = [g for i, g in enumerate(G) if i not in self.held]
        # an orthonormal basis of X for the inner sums; back at the end
        Q, R = np.linalg.qr(X)
        back = np.linalg.inv(R)
        Vi = np.linalg.inv(V)
        phi = np.linalg.inv(Q.T @ Vi @ Q)
        VQ = Vi @ Q
        P = Vi - VQ @ phi @ VQ.T
        middle = P if self.reml else Vi
        MG, Py = [middle @ g for g in G], P @ y
        m = len(G)
        H = np.array([[np.sum(MG[i] * MG[j].T) for j in range(m)] for i in range(m)]) / 2.0
        if self.information == "observed":
            H = -H + np.array([[Py @ G[i] @ P @ G[j] @ Py for j in range(m)] for i in range(m)])
        self.W = np.linalg.inv(H)
        Pi = [-VQ.T @ g @ VQ for g in G]
        mid = sum(
            self.W[i, j] * (VQ.T @ G[i] @ Vi @ G[j] @ VQ - Pi[i] @ phi @ Pi[j])
            for i in range(m)
            for j in range(m)
        )
        self.C = back @ phi @ back.T
        self.adjusted = back @ (phi + 2.0 * phi @ mid @ phi) @ back.T
        self.slopes = [-back @ phi @ p @ phi @ back.T for p in Pi]

    def degrees(self, row: np.ndarray) -> float:
        """Satterthwaite's, of the information that was chosen."""
        d = np.array([row @ s @ row for s in self.slopes])
        return float(2.0 * (row @ self.C @ row) ** 2 / (d @ self.W @ d))

    def kenward_roger_f(self, L: np.ndarray, difference: np.ndarray) -> tuple[float, float]:
        """Scaled F and its denominator (Kenward & Roger 1997, section 4)."""
        q, m = len(L), len(self.slopes)
        S = np.linalg.inv(L @ self.C @ L.T)
        M = [S @ (L @ s @ L.T) for s in self.slopes]
        pairs = [(i, j) for i in range(m) for j in range(m)]
        A1 = sum(self.W[i, j] * np.trace(M[i]) * np.trace(M[j]) for i, j in pairs)
        A2 = sum(self.W[i, j] * np.trace(M[i] @ M[j]) for i, j in pairs)
        B = (A1 + 6 * A2) / (2 * q)
        g = ((q + 1) * A1 - (q + 4) * A2) / ((q + 2) * A2)
        c = 3 * q + 2 * (1 - g)
        E = 1 / (1 - A2 / q)
        variance = 2 / q * (1 + g / c * B) / ((1 - (q - g) / c * B) ** 2 * (1 - (q + 2 - g) / c * B))
        df = 4 + (q + 2) / (q * variance / (2 * E**2) - 1)
        F = difference @ np.linalg.inv(L @ self.adjusted @ L.T) @ difference / q
        return float(df / (E * (df - 2)) * F), float(df)
