"""Covariances of the fixed effects that hold where the model's own covariance does not: sandwiches.

With V the model's, M = (X'V^-1 X)^-1 and e = y - X b, rows of different clusters being independent,

    CR:  M [sum_j X_j'V_j^-1 A_j e_j e_j'A_j V_j^-1 X_j] M,

A_j = I for CR0 (Liang & Zeger 1986, Biometrika 73), sqrt(J / (J - 1)) I for CR1, and for CR2, of Bell &
McCaffrey (2002, Survey Methodology 28), that which makes it unbiased under the model: with V_j = R'R,

    A_j = R'B^-1/2 R,   B = R (V_j - X_j M X_j') R'.

Any root R gives the same A_j.  Where the weights of a cluster are equal, A_j is the identity but in the span
of Z_j and X_j, in an orthonormal basis of which it is computed: nothing of the order of the cluster's rows is
formed.  Degrees of freedom are Satterthwaite's under the model, of several rows those of the approximate
Hotelling's T^2 (Pustejovsky & Tipton 2018, JBES 36, 672-683).  HC0 is CR0 of the rows of the model whitened
by its symmetric root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..engine.direct.point import Point
from ..engine.equations.design import Design
from ..engine.runtime.memory import available_memory
from ..engine.runtime.parallel import single_threaded_blas
from ..engine.runtime.scipys import sparse as sp
from ..exceptions import InferenceError, MemoryEstimateError
from ..fit.fitted import Fitted
from .clusters import Clustering

__all__ = ["Robust", "robust"]

_NOTHING = 1e-10  # share of its variance that a residual has left from which on it does not vary
_SMALL = 2.0**26  # bytes that are there
_COPIES = 6  # arrays of the order of a cluster's basis that are held at once


@dataclass(frozen=True, eq=False)
class Robust:
    """A sandwich in an orthonormal basis of X.

    Attributes
    ----------
    T : ndarray, shape (rank, rank)
        Coefficients of the kept columns are T times those of the basis.
    root : ndarray, shape (rank, rank)
        Upper triangular, M^-1 = root'root.
    covariance : ndarray, shape (rank, rank)
        Of the kept columns' coefficients.
    inner : ndarray, shape (rank, rank)
        Of the basis' coefficients.
    n_clusters : tuple of int
    mean, cross : ndarray, shapes (J, rank, rank), or None
        For every cluster Y_j'V_j Y_j and X_j'Y_j, Y_j = A_j V_j^-1 X_j, from which degrees of freedom are;
        None of crossed clusterings.
    """

    T: np.ndarray
    root: np.ndarray
    covariance: np.ndarray
    inner: np.ndarray
    n_clusters: tuple[int, ...]
    mean: np.ndarray | None
    cross: np.ndarray | None

    @cached_property
    def half(self) -> np.ndarray | None:
        """A root of `covariance`; None where inclusion and exclusion left none."""
        w, P = np.linalg.eigh(self.inner)
        if w.size and w[0] < -1e-12 * w[-1]:
            return None
        return self.T @ (P * np.sqrt(np.maximum(w, 0.0)))

    def degrees(self, K: np.ndarray) -> np.ndarray:
        """Degrees of freedom of every row of K (q, rank), shape (q,)."""
        if self.mean is None:
            return np.full(len(K), float(min(self.n_clusters) - 1))
        out = np.empty(len(K))
        columns = self.T.T @ K.T
        for i in range(len(K)):
            a, u = self._moments(columns[:, i : i + 1])
            a, u = a[:, 0, 0], u[:, 0]
            own = np.sum(u * u, axis=1)
            # products p_i'V p_j of what clusters take of y: a - |u|^2 on the diagonal, -u_i'u_j beside it
            squares = np.sum(a * a - 2.0 * a * own) + np.sum((u.T @ u) ** 2)
            with np.errstate(divide="ignore", invalid="ignore"):
                out[i] = np.sum(a - own) ** 2 / squares
        return out

    def f_test(self, c: np.ndarray, t: np.ndarray) -> tuple[float, float]:
        """F and its denominator of combinations c (rank, q) of the basis' coefficients with the values t."""
        q = t.size
        V = c.T @ self.inner @ c
        Q = float(t @ np.linalg.solve(V, t))
        if self.mean is None:
            return Q / q, float(min(self.n_clusters) - 1)
        a, u = self._moments(c)
        expected = np.sum(a - np.einsum("jsx,jtx->jst", u, u), axis=0)
        w, P = np.linalg.eigh(expected)
        turn = (P / np.sqrt(w)) @ P.T
        a = turn @ a @ turn
        u = np.einsum("st,jtx->jsx", turn, u)
        inner = np.einsum("jsx,jtx->jst", u, u)
        sums = np.einsum("jsx,jty->stxy", u, u)
        traces = np.sum(sums * sums) + np.einsum("stxy,styx->", sums, sums)
        of_one = np.einsum("jss->js", a), np.einsum("jss->js", inner)
        diagonal = np.sum(a * a - 2.0 * a * inner)
        diagonal += float(
            np.sum(np.sum(of_one[0], 1) ** 2 - 2.0 * np.sum(of_one[0], 1) * np.sum(of_one[1], 1))
        )
        eta = q * (q + 1) / float(diagonal + traces)
        df = eta - q + 1.0
        return (df / (eta * q) * Q, df) if df > 0.0 else (np.nan, np.nan)

    def _moments(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of every cluster g_s'V_j g_t (J, q, q) and root^-T X_j'g_s (J, q, rank), g = Y_j M c."""
        assert self.mean is not None and self.cross is not None
        Mc = np.linalg.solve(self.root, np.linalg.solve(self.root.T, c))
        a = np.matmul(Mc.T, np.matmul(self.mean, Mc))
        h = np.matmul(self.cross, Mc)
        u = np.matmul(np.linalg.inv(self.root).T, h)
        return a, u.transpose(0, 2, 1)


def robust(fitted: Fitted, cov_type: str, clusterings: list[Clustering], what: str) -> Robust:
    """The sandwich of a fit.

    Parameters
    ----------
    fitted : Fitted
    cov_type : {"HC0", "CR0", "CR1", "CR2"}
    clusterings : list of Clustering
        None for HC0; several for rows that may depend on one another if they share any cluster, by inclusion
        and exclusion (Cameron, Gelbach & Miller 2011, JBES 29, 238-249).
    what : str
        What wants it, for messages.

    Raises
    ------
    InferenceError
        After an iterative fit; where data were removed, or the estimate is no maximum of the likelihood;
        where random effects are shared by rows of different clusters; CR2 of several clusterings.
    MemoryEstimateError
        Blocks of the clusters would not fit in memory.
    """
    if fitted.restriction:
        raise InferenceError(
            f"{what} needs generalized least squares, and this fit has {fitted.restriction}."
        )
    fitted.check_unrelated(what)
    with single_threaded_blas():
        point = fitted.point(what)
        design = fitted.design
        assert design is not None
        return _Rows(fitted, design, point, what).sandwich(cov_type, clusterings)


class _Rows:
    """What of the rows a sandwich is made of."""

    def __init__(self, fitted: Fitted, design: Design, point: Point, what: str) -> None:
        self.design, self.what = design, what
        eq = point.equations
        self.T = eq.fixed.T
        self.root, zq = point.orthonormal_x()
        kept = eq.fixed.kept
        self.X = design.X[:, kept] @ self.T
        self.weights = np.ones(design.n) if design.weights is None else design.weights
        self.lams = list(fitted.lam)
        self.e = design.y - design.X[:, kept] @ fitted.beta[kept]
        if design.offset is not None:
            self.e = self.e - design.offset
        # V^-1 X = W (X - Z D Z'V^-1 X)
        self.VX = self.X.copy()
        for term, lam, z in zip(design.terms, self.lams, zq, strict=True):
            D = lam @ lam.T
            for j in range(self.X.shape[1]):
                self.VX[:, j] -= term.times(z[:, :, j] @ D)
        self.VX *= self.weights[:, None]

    def sandwich(self, cov_type: str, clusterings: list[Clustering]) -> Robust:
        p = self.X.shape[1]
        if cov_type == "HC0":
            score, mean = self._whitened()
            return self._robust(score.T @ score, (self.design.n,), mean, mean)
        self._check_independence(clusterings)
        if len(clusterings) > 1:
            if cov_type == "CR2":
                raise InferenceError(
                    f"{self.what} takes one clustering: CR2 is not defined for several. Use cov_type='CR1'."
                )
            meat = np.zeros((p, p))
            for clustering, sign in _overlaps(clusterings):
                score = self._sums(clustering, self.VX * self.e[:, None])
                factor = clustering.n / (clustering.n - 1.0) if cov_type == "CR1" else 1.0
                meat += sign * factor * (score.T @ score)
            return self._robust(meat, tuple(c.n for c in clusterings), None, None)
        (clustering,) = clusterings
        _check_memory(2.0 * 8.0 * clustering.n * p * p, self.what)
        if cov_type == "CR2":
            score, mean, cross = self._unbiased(clustering)
            return self._robust(score.T @ score, (clustering.n,), mean, cross)
        score = self._sums(clustering, self.VX * self.e[:, None])
        mean = np.empty((clustering.n, p, p))
        for a in range(p):  # X_j'V_j^-1 X_j, symmetric, without the products of all rows at once
            for b in range(a + 1):
                column = np.bincount(clustering.codes, self.X[:, a] * self.VX[:, b], clustering.n)
                mean[:, a, b] = mean[:, b, a] = column
        factor = clustering.n / (clustering.n - 1.0) if cov_type == "CR1" else 1.0
        # degrees of freedom do not depend on a common factor
        return self._robust(factor * (score.T @ score), (clustering.n,), mean, mean)

    def _robust(
        self, meat: np.ndarray, n_clusters: tuple[int, ...], mean: np.ndarray | None, cross: np.ndarray | None
    ) -> Robust:
        M = np.linalg.inv(self.root.T @ self.root)
        half = self.T @ M
        return Robust(self.T, self.root, half @ meat @ half.T, M @ meat @ M, n_clusters, mean, cross)

    @staticmethod
    def _sums(clustering: Clustering, rows: np.ndarray) -> np.ndarray:
        """By cluster, shape (J, m)."""
        return np.column_stack([np.bincount(clustering.codes, column, clustering.n) for column in rows.T])

    def _check_independence(self, clusterings: list[Clustering]) -> None:
        """Rows that share random effects must share a cluster."""
        for term, lam in zip(self.design.terms, self.lams, strict=True):
            if not np.any(lam):
                continue
            if not any(clustering.contains(term) for clustering in clusterings):
                names = " and ".join(c.name for c in clusterings)
                raise InferenceError(
                    f"{self.what}: the random effects of {term.name!r} are shared by rows of different "
                    f"clusters ({names}), which the sandwich takes as independent. Use clusters in which "
                    f"{term.name!r} is nested, or a list of clusters with it (crossed: CR0 and CR1)."
                )

    # -- blocks of V --------------------------------------------------------------------------------------

    def _half(self) -> Any:
        """sqrt(W) Z lam of all terms by rows, shape (n, q)."""
        n, parts = self.design.n, []
        scale = np.sqrt(self.weights)
        for term, lam in zip(self.design.terms, self.lams, strict=True):
            if not np.any(lam):
                continue
            if term.Z is not None:
                parts.append(sp.csr_array(sp.diags_array(scale * lam[0, 0]) @ sp.csr_array(term.Z)))
                continue
            assert term.codes is not None
            columns = np.ones((n, 1)) if term.columns is None else term.columns
            values = (columns @ lam) * scale[:, None]
            k = term.k
            index = np.asarray(term.codes, dtype=np.int64)[:, None] * k + np.arange(k)
            pointers = np.arange(0, n * k + 1, k)
            parts.append(
                sp.csr_array((values.ravel(), index.ravel(), pointers), shape=(n, term.n_levels * k))
            )
        return sp.csr_array(sp.hstack(parts, format="csr")) if parts else sp.csr_array((n, 0))

    def _blocks(self, codes: np.ndarray, J: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Of every cluster its number, its rows and sqrt(W_j) Z_j lam without empty columns."""
        order = np.argsort(codes, kind="stable")
        bounds = np.r_[0, np.cumsum(np.bincount(codes, minlength=J))]
        half = sp.csr_array(self._half()[order])
        for j in range(J):
            rows = order[bounds[j] : bounds[j + 1]]
            first, last = half.indptr[bounds[j]], half.indptr[bounds[j + 1]]
            columns, local = np.unique(half.indices[first:last], return_inverse=True)
            _check_memory(8.0 * _COPIES * rows.size * (columns.size + self.X.shape[1]), self.what)
            block = np.zeros((rows.size, columns.size))
            per_row = np.diff(half.indptr[bounds[j] : bounds[j + 1] + 1])
            np.add.at(block, (np.repeat(np.arange(rows.size), per_row), local), half.data[first:last])
            yield j, rows, block

    def _whitened(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of V^-1/2 X times those of V^-1/2 e, and their squares (n, rank, rank); symmetric root."""
        n, p = self.X.shape
        _check_memory(8.0 * n * p * p, self.what)
        scale = np.sqrt(self.weights)
        X, e = scale[:, None] * self.X, scale * self.e
        half = self._half()
        parts = _connected(half) if half.nnz else np.zeros(0, np.int64)
        for _, rows, block in self._blocks(parts, int(parts.max()) + 1) if parts.size else ():
            U, s, _ = np.linalg.svd(block, full_matrices=False)
            less = (1.0 + s * s) ** -0.5 - 1.0
            X[rows] += (U * less) @ (U.T @ X[rows])
            e[rows] += (U * less) @ (U.T @ e[rows])
        return X * e[:, None], X[:, :, None] * X[:, None, :]

    def _unbiased(self, clustering: Clustering) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bell and McCaffrey's: scores (J, rank), and `mean`, `cross` of `Robust`."""
        p, J = self.X.shape[1], clustering.n
        M = np.linalg.inv(self.root.T @ self.root)
        score, mean, cross = np.empty((J, p)), np.empty((J, p, p)), np.empty((J, p, p))
        for j, rows, block in self._blocks(clustering.codes, J):
            w = self.weights[rows]
            if np.ptp(w) <= 1e-12 * w[0]:
                Y = _adjusted(block, np.sqrt(w[0]) * self.X[rows], M, self.VX[rows])
            else:
                _check_memory(8.0 * _COPIES * float(rows.size) ** 2, self.what)
                Y = _adjusted_weighted(block, self.X[rows], w, M, self.VX[rows])
            score[j] = Y.T @ self.e[rows]
            cross[j] = self.X[rows].T @ Y
            Yw = Y / np.sqrt(w)[:, None]
            half = block.T @ Yw
            mean[j] = Yw.T @ Yw + half.T @ half
        return score, mean, cross


def _adjusted(block: np.ndarray, X: np.ndarray, M: np.ndarray, VX: np.ndarray) -> np.ndarray:
    """A V^-1 X of a cluster with V = I + block block': A is the identity but in the span of block and X."""
    U = np.linalg.qr(np.hstack([block, X]))[0]
    z, x = U.T @ block, U.T @ X
    w, P = np.linalg.eigh(np.eye(U.shape[1]) + z @ z.T)
    R = (P * np.sqrt(w)) @ P.T
    A = _between(R, (P * w) @ P.T, (P / np.sqrt(w)) @ (P.T @ x), M)
    inside = U.T @ VX
    return VX + U @ (A @ inside - inside)


def _adjusted_weighted(
    block: np.ndarray, X: np.ndarray, weights: np.ndarray, M: np.ndarray, VX: np.ndarray
) -> np.ndarray:
    """The same with V = W^-1/2 (I + block block') W^-1/2, of the order of the cluster's rows."""
    scale = np.sqrt(weights)
    w, P = np.linalg.eigh(np.eye(weights.size) + block @ block.T)
    half = (P * np.sqrt(w)) @ P.T
    white = (P / np.sqrt(w)) @ (P.T @ (scale[:, None] * X))
    return _between(half / scale, (half / weights) @ half, white, M) @ VX


def _between(R: np.ndarray, outer: np.ndarray, white: np.ndarray, M: np.ndarray) -> np.ndarray:
    """R'B^-1/2 R with B = R (V - X M X') R', V = R'R; where no residual variation is, the root is zero.

    B = G G' with G = R R' (I - K)^1/2 and K = R^-T X M X'R^-1: of the singular values of G half as many
    digits are lost to a large variance as of the eigenvalues of B.

    Parameters
    ----------
    R : ndarray, shape (m, m)
    outer : ndarray, shape (m, m)
        R R'.
    white : ndarray, shape (m, rank)
        R^-T X.
    M : ndarray, shape (rank, rank)
    """
    left, Q = np.linalg.eigh(np.eye(len(R)) - white @ M @ white.T)
    none = left <= _NOTHING
    U, s, _ = np.linalg.svd((outer @ Q) * np.sqrt(np.where(none, 0.0, left)))
    used = s.size - int(np.sum(none))
    half = R.T @ U[:, :used]
    return (half / s[:used]) @ half.T


def _connected(half: Any) -> np.ndarray:
    """Part of every row: rows of different parts share no random effects, shape (n,)."""
    from scipy.sparse.csgraph import connected_components  # slow to import, and seldom needed

    n, q = half.shape
    graph = sp.block_array([[None, half], [half.T, None]]) if q else sp.csr_array((n, n))
    return np.unique(connected_components(graph, directed=False)[1][:n], return_inverse=True)[1]


def _overlaps(clusterings: list[Clustering]) -> list[tuple[Clustering, float]]:
    """Every intersection of clusterings with its sign in the sum over unions."""
    out: list[tuple[Clustering, float]] = []
    for clustering in clusterings:
        out += [(other.crossed(clustering), -sign) for other, sign in out] + [(clustering, 1.0)]
    return out


def _check_memory(needed: float, what: str) -> None:
    if needed < _SMALL:
        return
    there = available_memory()
    if needed > there:
        raise MemoryEstimateError(
            f"{what} would need {needed / 2**30:.1f} GiB for blocks of rows that are correlated, and "
            f"{there / 2**30:.1f} GiB are there. Use CR0 or CR1 of larger clusters."
        )
