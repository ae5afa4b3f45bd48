"""One Newton step of theta towards what it would be without some rows, with exact derivatives.

Gradient and Hessian are those of the deviance of the remaining rows at the estimate of all.  With one
grouping block they are sums over its levels, of which those that lose rows are made again: a deletion costs
what it touches.  Otherwise the remaining rows are a design of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..engine.direct.hessian import Direction, deviance_hessian, second_derivatives
from ..engine.direct.objective import Objective
from ..engine.direct.point import KeptColumns, Point
from ..engine.equations.design import Design, RandomTerm
from ..engine.equations.equations import Equations
from ..engine.runtime.notices import Progress
from ..engine.runtime.scipys import scipy_module
from ..exceptions import MMEError
from ..fit.fitted import Fitted
from .influence import Deletions, from_cross_products, joined
from .rows import FitRows
from .variances import inner_directions

__all__ = ["Steps", "by_levels", "by_refactoring", "has_levels_alone"]

_BATCH = 4_000_000  # numbers that one batch of sums may hold
_FLAT = 1e-10  # eigenvalue of the Hessian (unit diagonal) below which there is no step
_TOLD = 1e-9  # as in `mme.inference.influence`


@dataclass(frozen=True, eq=False)
class Steps:
    """Estimates after one Newton step, NaN where there is none.

    Attributes
    ----------
    theta : ndarray, shape (m, n_theta)
    sigma2 : ndarray, shape (m,)
        The residual variance that goes with them, to the same order in its logarithm.
    deletions : Deletions or None
        Theta held; None from `by_refactoring`.
    """

    theta: np.ndarray
    sigma2: np.ndarray
    deletions: Deletions | None


def has_levels_alone(rows: FitRows) -> bool:
    """Whether all random effects are those of one grouping block, so that levels are independent."""
    layout = rows.point.equations.layout
    return layout.has_lead and layout.q2 == 0


def by_levels(fitted: Fitted, rows: FitRows, codes: np.ndarray, m: int) -> Steps:
    """Deletions of a design with one grouping block.

    Parameters
    ----------
    fitted : Fitted
    rows : FitRows
    codes : ndarray of int, shape (n,)
        Deletion that a row belongs to; -1 for rows that always stay.
    m : int
        Number of deletions.
    """
    eq = rows.point.equations
    sums = _Sums(fitted, rows)
    total = sums.total()
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(m + 1))
    theta = np.empty((m, eq.layout.n_theta))
    sigma2, held = np.empty(m), []
    chain = _Chain(fitted, eq)
    most = max(1, _BATCH // sums.size)
    j = 0
    while j < m:
        # as many deletions as a batch holds
        stop = max(j + 1, min(m, int(np.searchsorted(starts, starts[j] + most, side="right")) - 1, j + most))
        own = order[starts[j] : starts[stop]]
        change = sums.without(own, codes[own] - j, stop - j)
        parts = [t[None] + c for t, c in zip(total, change, strict=True)]
        count = np.diff(starts[j : stop + 1])
        theta[j:stop], sigma2[j:stop] = _steps(fitted, chain, parts, count)
        held.append(from_cross_products(fitted, rows, parts[0], count))
        j = stop
    return Steps(theta, sigma2, joined(held))


def by_refactoring(fitted: Fitted, design: Design, codes: np.ndarray, m: int) -> tuple[Steps, dict[int, str]]:
    """Deletions of any design, each by a factorization of the remaining rows' equations at theta.

    Parameters
    ----------
    fitted, codes, m
        As in `by_levels`.
    design : Design

    Returns
    -------
    Steps
    reasons : dict of int to str
        Why there is no step, by deletion.
    """
    size = sum(term.structure.size(term.k) for term in design.terms)
    theta, sigma2 = np.full((m, size), np.nan), np.full(m, np.nan)
    reasons: dict[int, str] = {}
    progress = Progress(None, "theta of deletions")
    try:
        for j in range(m):
            progress.report(j, of=m)
            try:
                theta[j], sigma2[j] = _refactored(fitted, design, codes != j)
            except MMEError as error:
                reasons[j] = str(error)
    finally:
        progress.close()
    return Steps(theta, sigma2, None), reasons


def _refactored(fitted: Fitted, design: Design, keep: np.ndarray) -> tuple[np.ndarray, float]:
    rest = _remaining(design, keep)
    objective = Objective(rest, fitted.reml)
    eq = objective.eq
    if eq.p < np.count_nonzero(~np.isnan(fitted.beta)):
        return np.full(eq.layout.n_theta, np.nan), np.nan
    point = Point(objective, rest, KeptColumns(rest, eq.fixed.kept), list(fitted.lam), standard=True)
    nu = point.nu(fitted.reml)
    directions = inner_directions(eq)
    H = deviance_hessian(second_derivatives(point, directions, fitted.reml), point.r2(), nu)
    slopes = point.slope()
    g = np.array([-2.0 * float(np.sum(E * slopes[t])) for t, E in directions])
    theta, sigma2 = _Chain(fitted, eq).step(g[None], H[None], np.array([point.r2() / nu]))
    return theta[0], float(sigma2[0])


def _remaining(design: Design, keep: np.ndarray) -> Design:
    terms = []
    for term in design.terms:
        if term.Z is not None:
            Z = scipy_module("sparse").csr_array(term.Z)[np.flatnonzero(keep)]
            used = np.flatnonzero(np.asarray(abs(Z).sum(axis=0)).ravel())
            terms.append(replace(term, Z=Z[:, used], n_levels=used.size))
            continue
        assert term.codes is not None
        seen, codes = np.unique(term.codes[keep], return_inverse=True)
        columns = None if term.columns is None else np.ascontiguousarray(term.columns[keep])
        terms.append(replace(term, codes=codes.astype(np.int32), columns=columns, n_levels=seen.size))
    terms = _shared(design.terms, terms)
    return Design(
        design.y[keep],
        design.X[keep],
        tuple(terms),
        None if design.weights is None else design.weights[keep],
        None if design.offset is None else design.offset[keep],
        design.x_names,
        more_effects_than_rows=True,
    )


def _shared(before: Sequence[RandomTerm], after: list[RandomTerm]) -> list[RandomTerm]:
    """Terms that had their codes in common have them in common."""
    first: dict[int, np.ndarray | None] = {}
    return [
        new if new.codes is None else replace(new, codes=first.setdefault(id(old.codes), new.codes))
        for old, new in zip(before, after, strict=True)
    ]


class _Chain:
    """From derivatives in the entries of R D R' to a step in theta."""

    def __init__(self, fitted: Fitted, eq: Equations) -> None:
        lay = eq.layout
        m = lay.n_theta
        self.J = np.zeros((m, m))  # d entry / d theta
        self.second = np.zeros((m, m, m))  # d2 entry / d theta d theta
        self.theta = np.zeros(m)
        for t, (place, lam) in enumerate(zip(lay.places, fitted.lam, strict=True)):
            R, entries, first = eq.term_basis(t), place.entries, place.theta.start
            rows, cols = np.array(entries).T
            self.theta[place.theta] = place.structure.theta(lam)
            moves = [np.outer(R[:, a], (R @ lam)[:, b]) for a, b in entries]
            for i, move in enumerate(moves):
                self.J[place.theta, first + i] = (move + move.T)[rows, cols]
                for j, (c, d) in enumerate(entries):
                    a, b = entries[i]
                    if b == d:
                        bend = np.outer(R[:, a], R[:, c])
                        self.second[place.theta, first + i, first + j] = (bend + bend.T)[rows, cols]

    def step(self, g: np.ndarray, H: np.ndarray, sigma2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Theta and sigma2 after a step.

        Parameters
        ----------
        g : ndarray, shape (m, n_theta)
            Derivatives of the deviance in the entries.
        H : ndarray, shape (m, n_theta + 1, n_theta + 1)
            Second derivatives, sigma2 last.
        sigma2 : ndarray, shape (m,)
            That of the remaining rows at theta.
        """
        D, cross, own = H[:, :-1, :-1], H[:, :-1, -1], H[:, -1, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            profiled = D - cross[:, :, None] * cross[:, None, :] / own[:, None, None]
            slope = g @ self.J
            hessian = np.einsum("ai,mab,bj->mij", self.J, profiled, self.J)
            hessian += np.einsum("ma,aij->mij", g, self.second)
            size = np.sqrt(np.einsum("mii->mi", hessian))
            unit = hessian / (size[:, :, None] * size[:, None, :])
        whole = np.isfinite(unit).all(axis=(1, 2))
        unit = np.where(whole[:, None, None], unit, np.eye(len(self.theta)))
        lam, P = np.linalg.eigh(0.5 * (unit + unit.transpose(0, 2, 1)))
        whole &= lam[:, 0] > _FLAT
        size = np.where(whole[:, None], size, np.nan)
        turned = np.einsum("map,ma->mp", P, slope / size) / np.where(whole[:, None], lam, np.nan)
        move = -np.einsum("map,mp->ma", P, turned) / size
        relative = -np.einsum("ma,ai,mi->m", cross, self.J, move) / (own * sigma2)
        return self.theta + move, sigma2 * np.exp(relative)


class _Sums:
    """What derivatives are made of, as sums over the levels of the only block.

    Per level, with h = Z'V^-1 [X r] and G = Z'V^-1 Z of its own: [X r]'V^-1 [X r]; h'E_i h; (E_i h)'G E_j h;
    tr G E_i; tr G E_i G E_j.
    """

    def __init__(self, fitted: Fitted, rows: FitRows) -> None:
        eq = self.eq = rows.point.equations
        k, p1 = eq.layout.k1, eq.p + 1
        self.D = np.zeros((k, k))
        self.directions: list[np.ndarray] = []
        for t, (place, lam) in enumerate(zip(eq.layout.places, fitted.lam, strict=True)):
            inner = eq.term_basis(t) @ lam
            self.D[place.columns, place.columns] = inner @ inner.T
        of_terms: list[Direction] = inner_directions(eq)
        for t, E in of_terms:
            own = eq.layout.places[t].columns
            full = np.zeros((k, k))
            full[own, own] = E
            self.directions.append(full)
        self.E = np.array(self.directions)
        v = np.column_stack([rows.points.x, rows.marginal])
        self.z, self.v, self.w, self.lead = rows.points.z1, v, rows.weights, rows.points.lead
        # X and r in place of the basis and the response's residual on it
        turn = np.eye(p1)
        turn[:-1, -1] = -_coefficients(fitted, rows)
        self.A = eq.A1
        self.B = eq.A1x @ turn
        self.S = turn.T @ eq.Axx @ turn
        self.count = np.bincount(self.lead, minlength=eq.layout.q1)
        m = len(self.E)
        self.size = p1 * p1 * (1 + m + m * m) + k * k * (2 + m)

    def total(self) -> list[np.ndarray]:
        """Over all levels."""
        q, most = self.eq.layout.q1, max(1, _BATCH // self.size)
        parts = [
            [x.sum(axis=0) for x in self._of(self.A[i : i + most], self.B[i : i + most])]
            for i in range(0, q, most)
        ]
        total = [sum(part[i] for part in parts[1:]) + parts[0][i] for i in range(len(parts[0]))]
        total[0] = total[0] + self.S
        return total

    def without(self, own: np.ndarray, codes: np.ndarray, m: int) -> list[np.ndarray]:
        """What m deletions of the rows `own` change."""
        key = codes.astype(np.int64) * self.eq.layout.q1 + self.lead[own]
        pairs, place = np.unique(key, return_inverse=True)
        deletion, level = pairs // self.eq.layout.q1, pairs % self.eq.layout.q1
        z, v, w = self.z[own], self.v[own], self.w[own]
        dA = _summed(place, pairs.size, z, z, w)
        dB = _summed(place, pairs.size, z, v, w)
        whole = np.bincount(place, minlength=pairs.size) == self.count[level]
        A, B = self.A[level], self.B[level]
        left_A = np.where(whole[:, None, None], 0.0, A - dA)
        left_B = np.where(whole[:, None, None], 0.0, B - dB)
        first = np.flatnonzero(np.diff(deletion, prepend=-1))  # pairs are in the order of deletions
        out = []
        for before, after in zip(self._of(A, B), self._of(left_A, left_B), strict=True):
            change = np.zeros((m, *before.shape[1:]))
            if first.size:
                change[deletion[first]] = np.add.reduceat(after - before, first, axis=0)
            out.append(change)
        out[0] -= _summed(codes, m, v, v, w)
        return out

    def _of(self, A: np.ndarray, B: np.ndarray) -> list[np.ndarray]:
        k = len(self.D)
        joint = np.linalg.solve(np.eye(k) + A @ self.D, np.concatenate([A, B], axis=2))
        G, h = joint[:, :, :k], joint[:, :, k:]
        G = 0.5 * (G + G.transpose(0, 2, 1))
        Eh = np.matmul(self.E, h[:, None])
        GE = np.matmul(G[:, None], self.E)
        GEh = np.matmul(G[:, None], Eh)
        flat = (*GE.shape[:2], k * k)
        return [
            -np.matmul(B.transpose(0, 2, 1), self.D @ h),
            np.matmul(h[:, None].transpose(0, 1, 3, 2), Eh),
            np.matmul(Eh[:, :, None].transpose(0, 1, 2, 4, 3), GEh[:, None]),
            np.einsum("liaa->li", GE),
            np.matmul(GE.reshape(flat), GE.transpose(0, 1, 3, 2).reshape(flat).transpose(0, 2, 1)),
        ]


def _coefficients(fitted: Fitted, rows: FitRows) -> np.ndarray:
    """b of r = y - X b less that of least squares, in the orthonormal basis."""
    eq = rows.point.equations
    b = np.linalg.solve(eq.fixed.T, fitted.beta[eq.fixed.kept])
    return b - eq.fixed.b0


def _summed(place: np.ndarray, m: int, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
    """sum of w u v' by place, shape (m, columns of u, columns of v)."""
    out = np.empty((m, u.shape[1], v.shape[1]))
    for a in range(u.shape[1]):
        for b in range(v.shape[1]):
            out[:, a, b] = np.bincount(place, weights=w * u[:, a] * v[:, b], minlength=m)
    return out


def _steps(
    fitted: Fitted, chain: _Chain, parts: Sequence[np.ndarray], count: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Steps from the sums of the remaining rows."""
    S, moments, crossed, single, double = parts
    p = S.shape[1] - 1
    nu = fitted.nu - count.astype(np.float64)
    lam, P = np.linalg.eigh(0.5 * (S[:, :p, :p] + S[:, :p, :p].transpose(0, 2, 1)))
    told = np.ones(len(S), dtype=bool)
    if p:
        told = (lam[:, 0] > _TOLD * lam[:, -1]) & (nu > 0)
    lam, nu = np.where(told[:, None], lam, np.nan), np.where(told, nu, np.nan)
    root = P / np.sqrt(lam)[:, None, :]  # root root' = (X'V^-1 X)^-1
    inverse = np.matmul(root, root.transpose(0, 2, 1))
    step = np.matmul(inverse, S[:, :p, p:])[:, :, 0]
    c = np.concatenate([-step, np.ones((len(S), 1))], axis=1)
    r2 = np.sum(c * np.matmul(S, c[:, :, None])[:, :, 0], axis=1)
    sigma2 = np.where(r2 > 0.0, r2, np.nan) / nu
    along = np.matmul(moments, c[:, None, :, None])[..., 0]
    mixed = np.matmul(along[:, :, :p], root)
    slope = np.sum(along * c[:, None], axis=2)
    curve = np.sum(np.matmul(crossed, c[:, None, None, :, None])[..., 0] * c[:, None, None], axis=3)
    g = single - slope / sigma2[:, None]
    traces = double
    if fitted.reml and p:
        half = np.matmul(np.matmul(root[:, None].transpose(0, 1, 3, 2), moments[:, :, :p, :p]), root[:, None])
        inner = np.sum(crossed[:, :, :, :p, :p] * inverse[:, None, None], axis=(3, 4))
        flat = half.reshape(*half.shape[:2], p * p)
        traces = traces - 2.0 * inner + np.matmul(flat, flat.transpose(0, 2, 1))
        g = g - np.einsum("mipp->mi", half)
    traces = 0.5 * (traces + traces.transpose(0, 2, 1))
    size = slope.shape[1]
    H = np.empty((len(S), size + 1, size + 1))
    H[:, :size, :size] = -traces + 2.0 * (curve - mixed @ mixed.transpose(0, 2, 1)) / sigma2[:, None, None]
    H[:, :size, size] = H[:, size, :size] = slope / sigma2[:, None] ** 2
    H[:, size, size] = nu / sigma2**2
    return chain.step(g, H, sigma2)
