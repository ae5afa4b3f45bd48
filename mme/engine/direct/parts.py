"""The likelihood of residuals with a covariance structure, by dense parts of the rows.

    V = R(phi) + Z D Z',   P = V^-1 - V^-1 X (X'V^-1 X)^-1 X'V^-1,   e = P y

is block diagonal over the connected *parts* of the rows, which share neither a subject of the residuals nor a
level of a random term: subjects of longitudinal data, whole designs where factors are crossed. Parts of one
size are factored together. Derivatives in any parameter i of V are

    d deviance = tr(P V_i) - e'V_i e / sigma2        (V^-1 in place of P under ML),

second ones are sums of the same kind (Harville 1977, JASA 72, 320-338), and nothing is inverted that is
singular where D is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..covariance.derivatives import unit_matrix
from ..covariance.residual import ResidualMatrix, ResidualStructure
from ..equations.border import Border, check_residual, solve_border
from ..equations.design import Design, RandomTerm
from ..equations.fixed import orthonormalise
from ..runtime.parallel import single_threaded_blas
from ..runtime.scipys import scipy_module

__all__ = [
    "MOST_ROWS",
    "PartsLikelihood",
    "PartsSums",
    "PartsValue",
    "by_pattern",
    "connected_parts",
    "groups_by_size",
    "subjects",
]

MOST_ROWS = 3_000  # of a part
_MOST_WORK = 2e11  # sum of the cubes of the parts' rows
_CHUNK = 2_000_000  # numbers of a batch of blocks
_LARGE = 200  # rows of a part from which patterns are not looked for
_SECOND = 20_000_000  # the same of all derivatives of a batch


@dataclass(frozen=True, eq=False)
class PartsValue:
    """The likelihood at one point.

    Attributes
    ----------
    deviance, sigma2 : float
        sigma2 and the fixed effects are profiled out.
    slope : ndarray, shape (K,)
        d deviance / d phi.
    slope_D : ndarray, shape (m,)
        d deviance in the free entries of D of every term.
    beta : ndarray, shape (rank,)
    """

    deviance: float
    sigma2: float
    slope: np.ndarray
    slope_D: np.ndarray
    beta: np.ndarray


@dataclass(frozen=True, eq=False)
class PartsSums:
    """What second derivatives and small-sample corrections are made of, in the entries of D and phi.

    Attributes
    ----------
    sigma2 : float
    root : ndarray, shape (rank, rank)
        Upper triangular R, R'R = Q'V^-1 Q in the orthonormal basis Q of X.
    T : ndarray, shape (rank, rank)
        Q = X T.
    traces : ndarray, shape (m, m)
        tr(P V_i P V_j); V^-1 in place of P under ML.
    single : ndarray, shape (m,)
        tr(P V_i); V^-1 in place of P under ML.
    slope : ndarray, shape (m,)
        e'V_i e.
    curve : ndarray, shape (m, m)
        e'V_i P V_j e.
    half : ndarray, shape (m, rank, rank)
        R^-T Q'V^-1 V_i V^-1 Q R^-1.
    inner : ndarray, shape (m, m, rank, rank)
        R^-T Q'V^-1 V_i V^-1 V_j V^-1 Q R^-1.
    curved : ndarray, shape (m, m)
        tr(P V_ij) - e'V_ij e / sigma2, V_ij the second derivatives of V.
    bent : ndarray, shape (m, m, rank, rank)
        R^-T Q'V^-1 V_ij V^-1 Q R^-1.
    """

    sigma2: float
    root: np.ndarray
    T: np.ndarray
    traces: np.ndarray
    single: np.ndarray
    slope: np.ndarray
    curve: np.ndarray
    half: np.ndarray
    inner: np.ndarray
    curved: np.ndarray
    bent: np.ndarray

    def hessian(self, nu: int) -> np.ndarray:
        """Second derivatives of the deviance in the parameters and sigma2, shape (m + 1, m + 1)."""
        m, s = self.slope.size, self.sigma2
        out = np.empty((m + 1, m + 1))
        out[:m, :m] = self.curved - self.traces + 2.0 * self.curve / s
        out[:m, m] = out[m, :m] = self.slope / s**2
        out[m, m] = nu / s**2
        return out

    def information(self, nu: int) -> np.ndarray:
        """Its expectation, shape (m + 1, m + 1)."""
        m, s = self.slope.size, self.sigma2
        out = np.empty((m + 1, m + 1))
        out[:m, :m] = self.traces
        out[:m, m] = out[m, :m] = self.single / s
        out[m, m] = nu / s**2
        return out


class PartsLikelihood:
    """Deviance of a design whose residuals have a structure, as a function of (D, phi).

    Parameters
    ----------
    design : Design
        Its weights are not used: they are the structure's.
    structure : ResidualStructure
    reml : bool
    """

    def __init__(self, design: Design, structure: ResidualStructure, reml: bool) -> None:
        self.design, self.structure, self.reml = design, structure, bool(reml)
        y = design.y if design.offset is None else design.y - design.offset
        self._xy, cross, self.fixed, _ = orthonormalise(design.X, y, None)
        self.p = self._xy.shape[1] - 1
        self.yy = float(cross[-1, -1])
        self.nu = design.n - self.p if reml else design.n
        self.entries = [
            (t, a, b) for t, term in enumerate(design.terms) for a, b in term.structure.entries(term.k)
        ]

    @cached_property
    def parts(self) -> list[np.ndarray]:
        """Rows of the parts, by size, shapes (B, m)."""
        return groups_by_size(connected_parts(self.design, self.structure))

    @property
    def largest(self) -> int:
        """Rows of the largest part."""
        return max(rows.shape[1] for rows in self.parts)

    @property
    def affordable(self) -> bool:
        """Whether dense parts are small enough."""
        work = sum(float(rows.shape[0]) * float(rows.shape[1]) ** 3 for rows in self.parts)
        return self.largest <= MOST_ROWS and work <= _MOST_WORK

    def work(self) -> float:
        """Multiplications of second derivatives, roughly."""
        m = len(self.entries) + self.structure.size
        return sum(float(r.shape[0]) * r.shape[1] ** 2 * (m * m + m * r.shape[1]) for r in self.parts)

    def evaluate(self, lams: Sequence[np.ndarray], phi: np.ndarray, slopes: bool = True) -> PartsValue:
        """Deviance and, if `slopes`, its gradient.

        Parameters
        ----------
        lams : sequence of ndarray, shapes (k_t, k_t)
            Relative covariance factors of the design's columns.
        phi : ndarray, shape (K,)

        Raises
        ------
        numpy.linalg.LinAlgError
            V is not positive definite to working precision.
        PerfectFitError
            No residual variation is left.
        """
        with single_threaded_blas():
            matrix = self.structure.at(phi)
            deviance, border, s2 = self._border(lams, matrix)
            K, m = self.structure.size, len(self.entries)
            slope, slope_D = np.zeros(K), np.zeros(m)
            contrast = np.r_[-border.b, 1.0]
            for alike in self._alike() if slopes else ():
                V = self._covariance(lams, matrix, alike.patterns)
                Vi = np.linalg.inv(V)
                solved = Vi[alike.which] @ self._xy[alike.rows]
                e = (solved @ contrast)[:, :, None]
                taken = e @ e.transpose(0, 2, 1) / s2
                if self.reml:
                    H = solved[:, :, : self.p] @ border.Ri.T
                    taken += H @ H.transpose(0, 2, 1)
                # what a pattern's parts share is met once
                M = alike.counts[:, None, None] * Vi - np.add.reduceat(taken, alike.starts)
                for j, R in enumerate(matrix.slopes(alike.patterns)):
                    slope[j] += np.sum(R * M)
                for j, E in enumerate(self._entry_slopes(alike.patterns, None)):
                    slope_D[j] += np.sum(E * M)
        return PartsValue(deviance, s2, slope, slope_D, self.fixed.coefficients(border.b))

    def second(
        self, lams: Sequence[np.ndarray], phi: np.ndarray, bases: Sequence[np.ndarray] | None = None
    ) -> PartsSums:
        """What second derivatives are made of.

        Parameters
        ----------
        lams, phi
            As in `evaluate`.
        bases : sequence of ndarray, shapes (k_t, k_t), optional
            R of every term: derivatives are then in the free entries of R D R'.
        """
        with single_threaded_blas():
            return self._second(lams, phi, bases)

    def _second(
        self, lams: Sequence[np.ndarray], phi: np.ndarray, bases: Sequence[np.ndarray] | None
    ) -> PartsSums:
        matrix = self.structure.at(phi)
        _, border, s2 = self._border(lams, matrix)
        first, p = len(self.entries), self.p
        m = first + self.structure.size
        traces, single, slope = np.zeros((m, m)), np.zeros(m), np.zeros(m)
        curve, half, mixed = np.zeros((m, m)), np.zeros((m, p, p)), np.zeros((m, p))
        inner, curved, bent = np.zeros((m, m, p, p)), np.zeros((m, m)), np.zeros((m, m, p, p))
        for rows, Vi, Li, H, e in self._solved(lams, matrix, border, m):
            B, size = rows.shape
            dV = np.empty((m, B, size, size))
            for j, E in enumerate(self._entry_slopes(rows, bases)):
                dV[j] = E
            for j, E in enumerate(matrix.slopes(rows)):
                dV[first + j] = E
            A = (Li @ dV) @ Li.transpose(0, 2, 1)  # L^-1 V_i L^-T
            flat = A.reshape(m, -1)
            traces += flat @ flat.T
            KH = dV @ H  # V_i V^-1 Q R^-1
            Ke = (dV @ e[:, :, None])[..., 0]
            single += np.einsum("ibrr->i", A)
            slope += np.einsum("ibr,br->i", Ke, e)
            half += np.einsum("bra,ibrc->iac", H, KH)
            mixed += np.einsum("bra,ibr->ia", H, Ke)
            SH = (Li @ KH).transpose(0, 3, 1, 2).reshape(m, p, B * size)
            inner += np.einsum("iax,jcx->ijac", SH, SH, optimize=True)
            Se = (Li @ Ke[..., None]).reshape(m, B * size)
            curve += Se @ Se.T
            M = Vi - H @ H.transpose(0, 2, 1) if self.reml else Vi
            M = M - e[:, :, None] * e[:, None, :] / s2
            for i, j, W in matrix.curves(rows):
                i, j = first + i, first + j
                curved[i, j] += np.sum(W * M)
                bent[i, j] += np.einsum("bra,brs,bsc->ac", H, W, H, optimize=True)
        if self.reml and p:
            single -= np.einsum("iaa->i", half)
            traces += np.einsum("ixy,jyx->ij", half, half) - 2.0 * np.einsum("ijaa->ij", inner)
        upper = np.triu_indices(m, 1)
        curved.T[upper], bent.transpose(1, 0, 2, 3)[upper] = curved[upper], bent[upper]
        return PartsSums(
            s2, np.linalg.inv(border.Ri.T), self.fixed.T, traces, single, slope, curve - mixed @ mixed.T,
            half, inner, curved, bent,
        )  # fmt: skip

    def whiten(
        self, values: np.ndarray, phi: np.ndarray, lams: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """Rows L^-1 v of L L' = R, or V if factors are given; L lower triangular in the order of the rows."""
        return self._rooted(values, phi, lams, lambda L, v: np.linalg.solve(L, v))

    def colour(self, values: np.ndarray, phi: np.ndarray) -> np.ndarray:
        """Rows L v of L L' = R."""
        return self._rooted(values, phi, None, lambda L, v: L @ v)

    def _rooted(
        self,
        values: np.ndarray,
        phi: np.ndarray,
        lams: Sequence[np.ndarray] | None,
        act: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        matrix = self.structure.at(phi)
        wide = values if values.ndim == 2 else values[:, None]
        out = np.empty_like(wide, dtype=np.float64)
        blocks = self.parts if lams is not None else subjects(self.structure)
        for rows in _chunks(blocks, 1):
            V = matrix.block(rows) if lams is None else self._covariance(lams, matrix, rows)
            out[rows] = act(np.linalg.cholesky(V), wide[rows])
        return out if values.ndim == 2 else out[:, 0]

    # -- pieces -------------------------------------------------------------------------------------------

    def _border(self, lams: Sequence[np.ndarray], matrix: ResidualMatrix) -> tuple[float, Border, float]:
        """Deviance, the border and sigma2."""
        C, logdet = np.zeros((self.p + 1, self.p + 1)), 0.0
        for alike in self._alike():
            L = np.linalg.cholesky(self._covariance(lams, matrix, alike.patterns))
            logdet += 2.0 * float(alike.counts @ np.sum(np.log(np.einsum("brr->br", L)), axis=1))
            xy = self._xy[alike.rows]
            if alike.starts.size < alike.which.size:
                A = np.linalg.inv(L)[alike.which] @ xy
            else:
                A = np.linalg.solve(L, xy)
            A = A.reshape(-1, self.p + 1)
            C += A.T @ A
        border = solve_border(C)
        if not np.isfinite(logdet) or not np.isfinite(border.r2):
            raise np.linalg.LinAlgError("the covariance of the rows overflows at this point.")
        # R has no scale of its own: beside it the response's sum of squares may be anything
        check_residual(border.r2, float(C[-1, -1]))
        s2 = border.r2 / self.nu
        if self.reml:
            logdet += border.logdet + self.fixed.logdet
        return logdet + self.nu * (1.0 + np.log(2.0 * np.pi * s2)), border, s2

    @cached_property
    def _sorted(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Parts by size and pattern, with the pattern of each."""
        if any(term.Z is not None for term in self.design.terms):
            return [(rows, np.arange(len(rows))) for rows in self.parts]
        features = [self.structure.features()]
        features += [np.asarray(t.columns) for t in self.design.terms if t.columns is not None]
        codes = [np.asarray(term.codes) for term in self.design.terms]
        codes.append(self.structure.take(np.arange(self.design.n)))
        return [by_pattern(rows, np.hstack(features), codes) for rows in self.parts]

    def _alike(self) -> Iterator[_Alike]:
        """Batches of parts in which every pattern is met once."""
        for rows, pattern in self._sorted:
            step = max(1, _CHUNK // rows.shape[1] ** 2)
            for a in range(0, rows.shape[0], step):
                own = pattern[a : a + step]
                starts = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
                counts = np.diff(np.r_[starts, own.size])
                which = np.repeat(np.arange(starts.size), counts)
                yield _Alike(rows[a : a + step], rows[a : a + step][starts], which, starts, counts * 1.0)

    def _solved(
        self, lams: Sequence[np.ndarray], matrix: ResidualMatrix, border: Border, width: int = 1
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Rows of a batch, V^-1, L^-1, V^-1 Q R^-1 and e."""
        contrast = np.r_[-border.b, 1.0]
        for rows in _chunks(self.parts, width):
            L = np.linalg.cholesky(self._covariance(lams, matrix, rows))
            Li = np.linalg.solve(L, np.broadcast_to(np.eye(rows.shape[1]), L.shape))
            Vi = Li.transpose(0, 2, 1) @ Li
            solved = Vi @ self._xy[rows]
            yield rows, Vi, Li, solved[:, :, : self.p] @ border.Ri.T, solved @ contrast

    def _covariance(self, lams: Sequence[np.ndarray], matrix: ResidualMatrix, rows: np.ndarray) -> np.ndarray:
        V = matrix.block(rows)
        for term, lam in zip(self.design.terms, lams, strict=True):
            if term.Z is not None:
                V = V + float(lam[0, 0]) ** 2 * _general(term, rows)
                continue
            z = _columns(term, rows) @ lam
            V = V + (z @ z.transpose(0, 2, 1)) * _same(term, rows)
        return V

    def _entry_slopes(self, rows: np.ndarray, bases: Sequence[np.ndarray] | None) -> Iterator[np.ndarray]:
        """dV in the free entries of D, term by term."""
        for t, term in enumerate(self.design.terms):
            base = None if bases is None else np.linalg.inv(bases[t])
            if term.Z is not None:
                yield _general(term, rows) * (1.0 if base is None else float(base[0, 0]) ** 2)
                continue
            z, same = _columns(term, rows), _same(term, rows)
            if base is not None:
                z = z @ base
            for a, b in term.structure.entries(term.k):
                E = unit_matrix(a, b, term.k)
                yield (z @ E @ z.transpose(0, 2, 1)) * same


@dataclass(frozen=True, eq=False)
class _Alike:
    """Parts of one size, those with one V beside one another.

    rows (B, m); patterns (P, m): the rows of the first part of each; which (B,): its pattern; starts, counts
    (P,).
    """

    rows: np.ndarray
    patterns: np.ndarray
    which: np.ndarray
    starts: np.ndarray
    counts: np.ndarray


def by_pattern(
    rows: np.ndarray, features: np.ndarray, codes: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Groups of rows in an order in which those are neighbours that agree in all that V is made of.

    Parameters
    ----------
    rows : ndarray of int, shape (B, m)
    features : ndarray, shape (n, F)
        Numbers of the rows.
    codes : sequence of ndarray of int, shape (n,)
        Factors: which rows of a group share a level counts, not which level.

    Returns
    -------
    rows : ndarray, shape (B, m)
    pattern : ndarray of int, shape (B,)
        Never decreasing.
    """
    B, m = rows.shape
    if B == 1 or m > _LARGE:
        return rows, np.arange(B)
    keys = [np.zeros((B, 1)), features[rows].reshape(B, -1)]
    for c in codes:
        own = c[rows]
        keys.append(np.argmax(own[:, :, None] == own[:, None, :], axis=2).astype(np.float64))
    key = np.ascontiguousarray(np.hstack(keys) + 0.0)  # no negative zeros
    void = key.view(np.dtype((np.void, key.dtype.itemsize * key.shape[1]))).ravel()
    pattern = np.unique(void, return_inverse=True)[1].ravel()
    order = np.argsort(pattern, kind="stable")
    return rows[order], pattern[order]


def connected_parts(design: Design, structure: ResidualStructure) -> np.ndarray:
    """Part of every row, shape (n,): rows of different parts are independent."""
    sp = scipy_module("sparse")
    n = design.n
    ones = np.ones(n, np.int8)
    at = np.arange(n + 1)
    blocks = []
    if structure.codes is not None:
        size = int(structure.codes.max()) + 1
        blocks.append(sp.csr_array((ones, structure.codes, at), shape=(n, size)))
    for term in design.terms:
        if term.Z is not None:
            Z = sp.csr_array(term.Z)
            blocks.append(sp.csr_array((np.ones(Z.data.size, np.int8), Z.indices, Z.indptr), shape=Z.shape))
        else:
            blocks.append(sp.csr_array((ones, np.asarray(term.codes), at), shape=(n, term.n_levels)))
    if not blocks:
        return np.arange(n)
    Z = sp.csr_array(sp.hstack(blocks, format="csr"))
    graph = sp.block_array([[None, Z], [Z.T, None]], format="csr")
    return scipy_module("sparse.csgraph").connected_components(graph, directed=False)[1][:n]


def groups_by_size(codes: np.ndarray) -> list[np.ndarray]:
    """Rows of every group, groups of one size together, shapes (B, m); in their order within a group."""
    order = np.argsort(codes, kind="stable")
    _, start, counts = np.unique(codes[order], return_index=True, return_counts=True)
    return [order[start[counts == m][:, None] + np.arange(m)] for m in np.unique(counts)]


def subjects(structure: ResidualStructure) -> list[np.ndarray]:
    """Rows of the subjects, by size."""
    return groups_by_size(structure.take(np.arange(structure.n)))


def _chunks(groups: Sequence[np.ndarray], width: int) -> Iterator[np.ndarray]:
    limit = _CHUNK if width == 1 else _SECOND // width
    for rows in groups:
        step = max(1, limit // rows.shape[1] ** 2)
        for a in range(0, rows.shape[0], step):
            yield rows[a : a + step]


def _columns(term: RandomTerm, rows: np.ndarray) -> np.ndarray:
    return np.ones((*rows.shape, 1)) if term.columns is None else np.asarray(term.columns)[rows]


def _same(term: RandomTerm, rows: np.ndarray) -> np.ndarray:
    assert term.codes is not None
    codes = np.asarray(term.codes)[rows]
    return codes[:, :, None] == codes[:, None, :]


def _general(term: RandomTerm, rows: np.ndarray) -> np.ndarray:
    Z = scipy_module("sparse").csr_array(term.Z)
    return np.stack([(Z[own] @ Z[own].T).toarray() for own in rows])
