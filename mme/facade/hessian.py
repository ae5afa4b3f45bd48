"""Second derivatives of a MixedLM's log-likelihood in (co)variances: exact, or differences of the score.

With V_i = dV/d(parameter i), G = Z'V^-1Z, z = Z'V^-1 r, H = Z'V^-1X, C = X'V^-1X and q = r'V^-1 r,

    l_ij = 1/2 tr(V^-1 V_i V^-1 V_j) - nu (z'E_i G E_j z / q - z'E_i z z'E_j z / (2 q^2))
           [- tr(C^-1 H'E_i G E_j H) + 1/2 tr(C^-1 H'E_i H C^-1 H'E_j H)   under REML],

V_i = Z E_i Z'.  Nothing is inverted that is singular where D is.  The first trace needs the blocks of G.
Effects of different groups do not meet in it, so one vector that sums a column of every group yields those
columns for all groups at once: as many products with G as the largest group has columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..engine.direct.point import Point
    from .covariance import OrthonormalPoint

__all__ = ["Probes", "covariance_hessian", "difference_hessian", "feasible_directions"]

# Steps of the differences, relative to the size of the parameters or to their distance from a singular
# covariance.  Two-sided: truncation 4 h^4 and rounding eps/h are both near 1e-11.  One-sided (covariance
# singular to within SINGULAR): the engine's scores are good to 1e-8 there, hence longer.
_STEP = 1e-3
_STEP_ONE_SIDED = 2e-2
SINGULAR = 1e-7
# Multiplications that the products with G may take, about a second's work.
_AFFORDABLE = 1e9
# Numbers that one batch of vectors may hold.
_BATCH = 4_000_000


@dataclass(frozen=True)
class Probes:
    """Which columns of Z are added up into one vector: at most one per group and vector.

    Attributes
    ----------
    ranks : list of ndarray of int, shapes (q_t,)
        Number of each level within its group, per term.
    widths : list of int
        Effects per level, per term.
    """

    ranks: list[np.ndarray]
    widths: list[int]

    @classmethod
    def of(cls, groups: Sequence[np.ndarray], widths: Sequence[int]) -> Probes:
        """From the group of every level, per term."""
        ranks = []
        for group in groups:
            order = np.argsort(group, kind="stable")
            first = np.concatenate(([0], np.cumsum(np.bincount(group))))
            rank = np.empty(group.size, dtype=np.intp)
            rank[order] = np.arange(group.size) - first[group[order]]
            ranks.append(rank)
        return cls(ranks, list(widths))

    @property
    def count(self) -> int:
        """Number of vectors."""
        return sum((int(r.max()) + 1) * k for r, k in zip(self.ranks, self.widths, strict=True))

    def affordable(self, q2: int, entries: float) -> bool:
        """Whether products with G are cheap: a factor of order q2 with so many entries, per vector."""
        effects = sum(r.size * k for r, k in zip(self.ranks, self.widths, strict=True))
        return self.count * (2.0 * entries + 10.0 * (effects + q2)) <= _AFFORDABLE


def entry_matrices(k: int) -> list[np.ndarray]:
    """dD / d(entry), symmetric, for the lower triangle of a k x k covariance, row by row."""
    out = []
    for a, b in zip(*np.tril_indices(k), strict=True):
        E = np.zeros((k, k))
        E[a, b] = E[b, a] = 1.0
        out.append(E)
    return out


def _trace_products(point: Point | OrthonormalPoint, probes: Probes) -> dict[tuple[int, int], np.ndarray]:
    """sum_lm G_lm[a, c] G_lm[b, d] over the levels of terms s and t, shapes (k_s, k_s, k_t, k_t)."""
    effects = sum(r.size * k for r, k in zip(probes.ranks, probes.widths, strict=True))
    out: dict[tuple[int, int], np.ndarray] = {}
    for t, (rank, k) in enumerate(zip(probes.ranks, probes.widths, strict=True)):
        n_ranks = int(rank.max()) + 1
        step = max(1, _BATCH // (effects * k))
        for first in range(0, n_ranks, step):
            size = min(step, n_ranks - first)
            inside = np.flatnonzero((rank >= first) & (rank < first + size))
            w = [np.zeros((r.size, m, size * k)) for r, m in zip(probes.ranks, probes.widths, strict=True)]
            for c in range(k):
                w[t][inside, c, (rank[inside] - first) * k + c] = 1.0
            for s, y in enumerate(point.times(w)):
                rows = y.reshape(y.shape[0], y.shape[1], size, k)
                flat = rows.transpose(1, 3, 0, 2).reshape(y.shape[1] * k, -1)
                gram = (flat @ flat.T).reshape(y.shape[1], k, y.shape[1], k).transpose(0, 2, 1, 3)
                out[s, t] = gram if (s, t) not in out else out[s, t] + gram
    return out


def covariance_hessian(
    point: Point | OrthonormalPoint, beta: np.ndarray, reml: bool, probes: Probes
) -> np.ndarray:
    """Exact second derivatives of the log-likelihood in the free entries of the covariances.

    Parameters
    ----------
    point : Point
    beta : ndarray, shape (k_fe,)
        Fixed effects at which the residual is taken; they are held.
    reml : bool
    probes : Probes

    Returns
    -------
    ndarray, shape (m, m)
        Terms one after another; within a term the lower triangle row by row.
    """
    params = [(t, E) for t, k in enumerate(probes.widths) for E in entry_matrices(k)]
    m = len(params)
    grams = _trace_products(point, probes)
    z = [v[:, :, None] for v in point.products(beta)]
    zh = [np.concatenate(v, axis=2) for v in zip(z, point.products_x(), strict=True)] if reml else z
    width = zh[0].shape[2]
    traces, crossed = np.zeros((m, m)), np.zeros((m, m, width, width))
    moments = np.zeros((m, width, width))
    for j, (t, E) in enumerate(params):
        turned = np.matmul(E, zh[t])
        moments[j] = np.einsum("lax,lay->xy", zh[t], turned)
        w = [np.zeros_like(v) for v in zh]
        w[t] = turned
        back = point.times(w)
        for i, (s, F) in enumerate(params):
            traces[i, j] = np.einsum("ab,cd,bacd->", F, E, grams[s, t])
            crossed[i, j] = np.einsum("lax,ab,lby->xy", zh[s], F, back[s], optimize=True)
    q, nu = point.r2(beta), point.nu(reml)
    slope = moments[:, 0, 0] / q
    H = 0.5 * traces - nu * (crossed[:, :, 0, 0] / q - 0.5 * np.outer(slope, slope))
    if reml and width > 1:
        root = np.linalg.inv(point.root)
        inner = np.einsum("ax,ijab,by->ijxy", root, crossed[:, :, 1:, 1:], root, optimize=True)
        half = np.einsum("ax,iab,by->ixy", root, moments[:, 1:, 1:], root, optimize=True)
        H += -np.einsum("ijxx->ij", inner) + 0.5 * np.einsum("ixy,jyx->ij", half, half)
    return 0.5 * (H + H.T)


def feasible_directions(
    cov_re: np.ndarray, vcomp: np.ndarray, floors: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Changes of (D, v) of natural size that span the parameters, and the room behind each.

    Parameters
    ----------
    cov_re : ndarray, shape (k_re, k_re)
    vcomp : ndarray, shape (k_vc,)
    floors : sequence of ndarray
        Per term, the variance the likelihood begins to notice (its reliability one half).
    """
    k_re, out = cov_re.shape[0], []
    none, still = np.zeros(vcomp.size), np.zeros((k_re, k_re))
    if k_re:
        size = np.sqrt(np.maximum(np.diag(cov_re), floors[0]))
        smallest, basis = np.linalg.eigh(cov_re / np.outer(size, size))
        for a in range(k_re):
            for b in range(a + 1):
                v = np.zeros(k_re)
                v[a] = v[b] = 1.0
                w = basis.T @ v
                room = 0.0 if smallest[0] <= 1e-12 else 1.0 / float(np.sum(w**2 / smallest))
                out.append((np.outer(size * v, size * v), none, room))
    for j, floor in enumerate(floors[int(k_re > 0) :]):
        size = max(vcomp[j], floor[0])
        e = none.copy()
        e[j] = size
        out.append((still, e, vcomp[j] / size))
    return out


def difference_hessian(
    slope: Callable[[np.ndarray, np.ndarray], np.ndarray],
    cov_re: np.ndarray,
    vcomp: np.ndarray,
    directions: Sequence[tuple[np.ndarray, np.ndarray, float]],
) -> np.ndarray:
    """Derivative of a score in (D, v) by fourth-order differences along feasible directions.

    Two-sided, relative error about 1e-9; one-sided where the covariance is singular, about 1e-5.
    """
    ix = np.tril_indices(cov_re.shape[0])
    spans, derivatives = [], []
    for E, e, room in directions:

        def along(step: float, E: np.ndarray = E, e: np.ndarray = e) -> np.ndarray:
            return slope(cov_re + step * E, vcomp + step * e)

        if room > SINGULAR:
            # the likelihood is singular at a distance `room` at the nearest: a step is a share of that
            h = _STEP * min(1.0, room)
            near, far = along(h) - along(-h), along(2 * h) - along(-2 * h)
            derivative = (8.0 * near - far) / (12.0 * h)
        else:
            h = _STEP_ONE_SIDED
            f = [along(i * h) for i in range(5)]
            derivative = (-25 * f[0] + 48 * f[1] - 36 * f[2] + 16 * f[3] - 3 * f[4]) / (12 * h)
        spans.append(np.concatenate((E[ix], e)))
        derivatives.append(derivative)
    if not spans:
        return np.zeros((0, 0))
    # derivatives[i] = H spans[i]
    H = np.linalg.solve(np.array(spans), np.array(derivatives))
    return 0.5 * (H + H.T)
