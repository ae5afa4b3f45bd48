"""Fixed-effects design: dependent columns dropped by name, the rest made orthonormal.

The engine works with Q = X T (T upper triangular, Q'Q = I in the metric of the weights) and with the
response's least-squares residual, so that neither a large mean nor badly scaled columns cost digits.  The
deviance is unchanged but for log|X'WX|, which is known from T; coefficients return through T.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..kernels import rows as kr
from ..kernels import triangle
from ..runtime.arrays import frozen
from ..runtime.parallel import row_chunks, run

__all__ = ["FEW", "FixedPart", "gram_schmidt", "orthonormalise", "upper_inverse"]

FEW = 8  # columns up to which a kernel passes over the rows faster than BLAS on blocks

_DEPENDENT = 1e-8  # norm of a column's residual on the earlier ones, relative to its own norm
_ROUNDING = 1e-13  # the same where a constant was taken out first, exactly: relative to the norm before
_SUSPECT = 1e-4  # below this a Gram matrix no longer resolves the ratio: orthogonalise the rows instead


@dataclass(frozen=True, eq=False)
class FixedPart:
    """X and y in orthonormal coordinates.

    Attributes
    ----------
    kept : ndarray of bool, shape (p_all,)
    T : ndarray, shape (p, p)
        Upper triangular; Q = sqrt(W) X[:, kept] T.
    b0 : ndarray, shape (p,)
        Least-squares coefficients in Q: the response that is passed on is y - Q b0.
    logdet : float
        log|X'WX| of the kept columns.
    """

    kept: np.ndarray
    T: np.ndarray
    b0: np.ndarray
    logdet: float

    def coefficients(self, b: np.ndarray) -> np.ndarray:
        """Fixed effects of the kept columns from those of the residual in Q, shape (p,)."""
        return self.T @ (b + self.b0)

    def covariance(self, Ri: np.ndarray) -> np.ndarray:
        """Their covariance but for sigma2, from the inverse Cholesky factor of Q'V^-1Q, shape (p, p)."""
        root = self.root(Ri)
        return root @ root.T

    def root(self, Ri: np.ndarray) -> np.ndarray:
        """A root of it, shape (p, p): of rows L b it is L root, and columns far from zero cost no digits."""
        return self.T @ Ri.T


def orthonormalise(
    X: np.ndarray, y: np.ndarray, root_w: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, FixedPart, float]:
    """Orthonormal basis of the columns of sqrt(W) X and the residual of sqrt(W) y on it.

    Parameters
    ----------
    X : ndarray, shape (n, p_all)
    y : ndarray, shape (n,)
    root_w : ndarray, shape (n,), or None
        Square roots of the weights.

    Returns
    -------
    xy : ndarray, shape (n, p + 1), C order
        The basis Q beside the residual.
    cross : ndarray, shape (p + 1, p + 1)
        xy'xy.
    part : FixedPart
    yy : float
        y'Wy, a scale for the residual.
    """
    n = y.size

    def rows(a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
        if root_w is None:
            return X[a:b], y[a:b]
        return X[a:b] * root_w[a:b, None], y[a:b] * root_w[a:b]

    def gram(_: int, a: int, b: int) -> tuple[np.ndarray, np.ndarray, float]:
        Xa, ya = rows(a, b)
        return Xa.T @ Xa, Xa.T @ ya, float(ya @ ya)

    parts = run(gram, row_chunks(n))
    G, Xy, yy = parts[0] if len(parts) == 1 else (sum(part[i] for part in parts) for i in range(3))
    norm = np.sqrt(G.diagonal())
    nonzero = norm > 0
    scale = np.where(nonzero, norm, 1.0)
    inverse = _triangular_inverse(G / (scale[:, None] * scale)) if nonzero.all() else None
    kept = nonzero
    if inverse is None or inverse.diagonal().max(initial=1.0) > 1.0 / _SUSPECT:
        whole = rows(0, n)
        Q, T, kept = gram_schmidt(whole[0], scale, nonzero)
        b0 = Q.T @ whole[1]
    else:
        Q = None
        T = inverse / scale[:, None]
        b0 = T.T @ Xy
    p = T.shape[0]
    used = np.ascontiguousarray(X if kept.all() else X[:, kept]) if p <= FEW else X
    T, b0, y = np.ascontiguousarray(T), np.ascontiguousarray(b0), np.ascontiguousarray(y)
    xy = np.empty((n, p + 1))

    def fill(_: int, a: int, b: int) -> np.ndarray:
        Xa, ya = rows(a, b)
        out = xy[a:b]
        if Q is None and root_w is None and p <= FEW:
            cross = np.zeros((p + 1, p + 1))
            kr.basis_and_residual(a, b, frozen(used), frozen(y), T, b0, xy, cross)
            return cross + np.tril(cross, -1).T if p else cross
        Qa = Q[a:b] if Q is not None else (Xa if kept.all() else Xa[:, kept]) @ T
        out[:, :p] = Qa
        np.subtract(ya, Qa @ b0, out=out[:, p])
        return out.T @ out

    def again(_: int, a: int, b: int) -> np.ndarray:
        out = xy[a:b]
        out[:, p] -= out[:, :p] @ more
        return out.T @ out

    cross = sum(run(fill, row_chunks(n)))
    if p and np.max(np.abs(cross[:p, p])) > 1e-7 * np.sqrt(cross[p, p]):
        more = cross[:p, p].copy()
        b0 = b0 + more
        cross = sum(run(again, row_chunks(n)))
    logdet = -2.0 * float(np.log(np.abs(T.diagonal())).sum())
    return xy, cross, FixedPart(kept, T, b0, logdet), yy


def _triangular_inverse(G: np.ndarray) -> np.ndarray | None:
    """Upper triangular R^-1 with R'R = G, Fortran order; None where G is not positive definite."""
    if G.shape[0] <= FEW:
        inverse = np.empty(G.shape)
        return inverse.T if np.isfinite(triangle.inverse_cholesky(np.ascontiguousarray(G), inverse)) else None
    try:
        return upper_inverse(np.linalg.cholesky(G).T)
    except np.linalg.LinAlgError:
        return None  # dependent columns: the caller orthogonalises the rows


def gram_schmidt(
    X: np.ndarray, scale: np.ndarray, nonzero: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gram-Schmidt with reorthogonalisation; a column that depends on earlier ones is left out.

    Beside a column of ones the first value of every later column is subtracted first, which is exact: a year
    in nanoseconds keeps its digits.  Returns Q (n, r), T (r, r) with X[:, kept] T = Q, and kept.
    """
    n, p_all = X.shape
    kept = np.zeros(p_all, dtype=bool)
    Q = np.empty((n, p_all), order="F")
    R = np.zeros((p_all, p_all))
    r = 0
    ones: np.ndarray | None = None  # coefficients of a column of ones in Q
    for j in range(p_all):
        if not nonzero[j]:
            continue
        c = np.zeros(r)
        unit = scale[j]
        shift = X[0, j] if ones is not None else 0.0
        v = X[:, j] - shift
        if shift != 0.0:
            assert ones is not None
            unit = float(np.linalg.norm(v))
            if unit <= _ROUNDING * scale[j]:
                continue
            c[: ones.size] = ones * (shift / unit)
        v = v / unit
        for _ in range(3):
            d = Q[:, :r].T @ v
            v = v - Q[:, :r] @ d
            c += d
        size = float(np.linalg.norm(v))
        if size <= _DEPENDENT:
            continue
        Q[:, r] = v / size
        R[:r, r] = c * unit
        R[r, r] = size * unit
        kept[j] = True
        r += 1
        if ones is None and X[0, j] != 0.0 and np.all(X[:, j] == X[0, j]):
            ones = R[:r, r - 1] / X[0, j]
    return Q[:, :r], upper_inverse(R[:r, :r]), kept


def upper_inverse(R: np.ndarray) -> np.ndarray:
    """Inverse, in Fortran order, of an upper triangular matrix with zeros below its diagonal.

    Elimination has nothing to do, so this is back substitution, without scipy, which takes long to import.
    """
    return np.asfortranarray(np.linalg.solve(np.asarray_chkfinite(R), np.eye(R.shape[0])))
