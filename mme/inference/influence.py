"""What a fit would be without a row, or without all rows of a level: exact given theta, no refits.

Let U pick the rows that are left out and S = [X r]'V^-1 [X r], r = y - X b.  Without them

    S_U = S - G'(U'V^-1 U)^-1 G,    G = U'V^-1 [X r] = W [a e],

and of it come b, r'V^-1 r and X'V^-1 X of the remaining rows (Christensen, Pearson & Johnson 1992,
Technometrics 34, 38-45; Hodges 1998, JRSS B 60, 497-536).  One row has a closed form.  For many,
U'V^-1 U = W - W Z K Z'W, K the covariance of the effects that the rows touch, given all data; by Woodbury

    G'(U'V^-1 U)^-1 G = sum w [a e][a e]' + (Z'G)'K (I - Z'WZ K)^-1 (Z'G),

so that matrices are of the order of the effects that are touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.equations.equations import Equations
from ..engine.equations.prediction import PriorInverse
from ..engine.runtime.parallel import single_threaded_blas
from ..engine.runtime.scipys import scipy_module
from ..exceptions import InferenceError
from ..fit.fitted import Fitted
from ..fit.forecast import require
from .rows import FitRows, check_scale

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["Deletions", "check_estimate", "from_cross_products", "joined", "of_cases", "of_groups"]

_LOST = 1e-9  # share of a combination of fixed effects' information that must be left
_ALONE = 1e-10  # 1 - leverage below which a row is fitted whatever its response is
_BATCH = 4_000_000  # numbers that one batch of cross-products may hold
_WHOLE = 3_000  # columns of the rest up to which all of the inverse is kept


@dataclass(frozen=True, eq=False)
class Deletions:
    """m deletions, theta held; NaN where the remaining rows do not tell the fixed effects.

    Attributes
    ----------
    change : ndarray, shape (m, rank)
        b less b of the remaining rows; kept columns, in the design's units.
    sigma2 : ndarray, shape (m,)
        Residual variance of the remaining rows.
    cooks : ndarray, shape (m,)
        change'Cov(b)^-1 change / rank.
    mdffits : ndarray, shape (m,)
        The same with the covariance of the remaining rows.
    covratio, covtrace : ndarray, shape (m,)
        Determinant of Cov(b) of the remaining rows over that of all; trace of their ratio less rank.
    se : ndarray, shape (rank,)
        Standard errors of b divided by sigma.
    """

    change: np.ndarray
    sigma2: np.ndarray
    cooks: np.ndarray
    mdffits: np.ndarray
    covratio: np.ndarray
    covtrace: np.ndarray
    se: np.ndarray

    @property
    def dfbetas(self) -> np.ndarray:
        """Changes in standard errors, sigma that of the remaining rows, shape (m, rank)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.change / (np.sqrt(self.sigma2)[:, None] * self.se)


def check_estimate(fitted: Fitted, what: str) -> None:
    """Refuse estimates that are no maximum of the likelihood, and those without residual variance."""
    if fitted.restriction:
        raise InferenceError(
            f"{what} goes by the maximum of the likelihood, and the fit has {fitted.restriction}."
        )
    check_scale(fitted, what)
    fitted.check_unrelated(what)


def of_cases(fitted: Fitted, rows: FitRows) -> Deletions:
    """Every row left out in turn."""
    eq, w, e = rows.point.equations, rows.weights, rows.residual
    left = 1.0 - rows.leverage
    left = np.where(left > _ALONE, left, np.nan)
    q = w * rows.fixed  # w a'(X'V^-1 X)^-1 a
    own = left + q  # (V^-1)_ii / w
    information = 1.0 - q / own  # what is left of the information of the combination a'b
    left = np.where(information > _LOST, left, np.nan)
    p = max(eq.p, 1)
    r2 = rows.point.r2()
    nu = fitted.nu - 1.0
    scale = (w * e / left)[:, None]
    change = (scale * np.linalg.solve(rows.inverse.root, rows.half.T).T) @ eq.fixed.T.T
    square = (w * e / left) ** 2 * rows.fixed
    sigma2 = np.maximum(r2 - w * e**2 / left, 0.0) / nu if nu > 0 else np.full(len(w), np.nan)
    covratio = np.where(np.isnan(left), np.nan, own / left)
    return Deletions(
        change=change,
        sigma2=sigma2,
        cooks=square / (p * fitted.sigma2),
        mdffits=square * information / (p * fitted.sigma2),
        covratio=covratio,
        covtrace=q / left,
        se=_standard_errors(rows),
    )


def of_groups(fitted: Fitted, rows: FitRows, codes: np.ndarray, m: int) -> Deletions:
    """All rows of a level left out, every level in turn.

    Parameters
    ----------
    fitted : Fitted
    rows : FitRows
    codes : ndarray of int, shape (n,)
        Level of every row, below m; -1 for rows that always stay.
    m : int
    """
    eq = rows.point.equations
    p, order = eq.p, np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(m + 1))
    root = rows.inverse.root
    S = np.zeros((p + 1, p + 1))
    S[:p, :p], S[p, p] = root.T @ root, rows.point.r2()
    batch, held = max(1, _BATCH // (p + 1) ** 2), []
    with single_threaded_blas():
        block = _Block(eq, rows.inverse)
        for first in range(0, m, batch):
            some = range(first, min(first + batch, m))
            remaining = np.array([S - _share(rows, block, order[starts[j] : starts[j + 1]]) for j in some])
            count = np.diff(starts[first : some.stop + 1])
            held.append(from_cross_products(fitted, rows, remaining, count))
    return joined(held)


def joined(parts: Sequence[Deletions]) -> Deletions:
    """Deletions one after another."""
    own = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Deletions)}
    return Deletions(**{**own, "se": parts[0].se})


def from_cross_products(fitted: Fitted, rows: FitRows, remaining: np.ndarray, count: np.ndarray) -> Deletions:
    """From S of the remaining rows, shape (m, rank + 1, rank + 1), and the numbers left out, shape (m,)."""
    eq = rows.point.equations
    p = eq.p
    Ri = np.linalg.inv(rows.inverse.root)
    # in coordinates in which X'V^-1 X of all rows is the identity
    A = np.matmul(np.matmul(Ri.T, remaining[:, :p, :p]), Ri)
    A = 0.5 * (A + A.transpose(0, 2, 1))
    lam, P = np.linalg.eigh(A)
    told = np.all(lam > _LOST, axis=1)
    lam = np.where(told[:, None], lam, np.nan)
    v = np.matmul((remaining[:, :p, p] @ Ri)[:, None], P)[:, 0]
    # -change in those coordinates and those of the eigenvectors
    step = v / lam
    change = -np.matmul(P, step[:, :, None])[:, :, 0]
    nu = fitted.nu - count.astype(np.float64)
    nu = np.where(told & (nu > 0), nu, np.nan)
    r2 = remaining[:, p, p] - np.sum(v * step, axis=1)
    scale = max(p, 1) * fitted.sigma2
    none = np.where(told, 0.0, np.nan)
    return Deletions(
        change=change @ (eq.fixed.T @ Ri).T,
        sigma2=np.maximum(r2, 0.0) / nu,
        cooks=np.sum(step * step, axis=1) / scale + none,
        mdffits=np.sum(lam * step * step, axis=1) / scale + none,
        covratio=1.0 / np.prod(lam, axis=1) + none,
        covtrace=np.sum(1.0 / lam, axis=1) - p + none,
        se=_standard_errors(rows),
    )


def _standard_errors(rows: FitRows) -> np.ndarray:
    root = rows.point.equations.fixed.T @ np.linalg.inv(rows.inverse.root)
    return np.sqrt(np.sum(root * root, axis=1))


def _share(rows: FitRows, block: _Block, own: np.ndarray) -> np.ndarray:
    """G'(U'V^-1 U)^-1 G of some rows."""
    ae = np.column_stack([rows.a[own], rows.residual[own]])
    wae = rows.weights[own, None] * ae
    out = ae.T @ wae
    Z, K = block.of(rows, own)
    if not Z.shape[1]:
        return out
    B = np.asarray(Z.T @ wae)
    E = (Z.T @ (Z * rows.weights[own, None]).tocsr()).toarray()
    inner = np.linalg.solve(np.eye(len(K)) - E @ K, B)
    added = B.T @ (K @ inner)
    return out + 0.5 * (added + added.T)


class _Block:
    """Covariances over sigma2, given the data, of the effects that some rows touch."""

    def __init__(self, eq: Equations, inverse: PriorInverse) -> None:
        self.eq, self.inverse = eq, inverse
        q2 = eq.layout.q2
        self.whole = inverse.columns(np.arange(q2)) if 0 < q2 <= _WHOLE else None

    def of(self, rows: FitRows, own: np.ndarray) -> tuple[sp.csr_array, np.ndarray]:
        """The rows over the effects they touch, and K: levels of the leading block first."""
        from_rest = rows.points.rest[own]
        touched = np.unique(from_rest.indices)
        sparse: Any = scipy_module("sparse")
        z2 = sparse.csr_array(from_rest.tocsc()[:, touched])
        lay = self.eq.layout
        if not lay.has_lead:
            return z2, self._rest(touched)[0]
        levels, place = np.unique(rows.points.lead[own], return_inverse=True)
        k1, m = lay.k1, own.size
        columns = place[:, None] * k1 + np.arange(k1)
        ptr = np.arange(m + 1) * k1
        z1 = sparse.csr_array(
            (rows.points.z1[own].ravel(), columns.ravel(), ptr), shape=(m, levels.size * k1)
        )
        return sparse.csr_array(sparse.hstack([z1, z2])), self._both(levels, touched)

    def _rest(self, touched: np.ndarray, others: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """T of the touched columns, and of all columns `others` with one another."""
        wanted = touched if others is None else others
        require(8.0 * 3.0 * float(wanted.size) ** 2, f"the covariance of {wanted.size:,} random effects")
        if self.whole is not None:
            T = self.whole[np.ix_(wanted, wanted)]
        else:
            T = self.inverse.columns(wanted)[:, wanted]
        at = np.searchsorted(wanted, touched)
        return T[np.ix_(at, at)], T

    def _both(self, levels: np.ndarray, touched: np.ndarray) -> np.ndarray:
        eq, k1, q = self.eq, self.eq.layout.k1, levels.size * self.eq.layout.k1
        W = self.inverse.W[levels]
        out = np.zeros((q + touched.size, q + touched.size))
        for i in range(levels.size):
            out[i * k1 : (i + 1) * k1, i * k1 : (i + 1) * k1] = W[i]
        if not eq.layout.q2:
            return out
        counts = eq.ptr[levels + 1] - eq.ptr[levels]
        cells = np.repeat(eq.ptr[levels] - np.r_[0, np.cumsum(counts)[:-1]], counts) + np.arange(counts.sum())
        columns = np.unique(np.r_[eq.idx[cells], touched])
        Trr, T = self._rest(touched, columns)
        row = np.repeat(np.arange(levels.size), counts)
        at = np.searchsorted(columns, eq.idx[cells])
        # W_l B_l, over the columns that the levels' cells have
        WB = np.einsum("cab,cb->ca", W[row], eq.val[cells])
        rows_of = (row[:, None] * k1 + np.arange(k1)).ravel()
        M = scipy_module("sparse").csr_array(
            (WB.ravel(), (rows_of, np.repeat(at, k1))), shape=(q, columns.size)
        )
        MT = np.asarray(M @ T)
        out[:q, :q] += np.asarray(M @ MT.T)
        out[:q, q:] = -MT[:, np.searchsorted(columns, touched)]
        out[q:, :q] = out[:q, q:].T
        out[q:, q:] = Trr
        return out
