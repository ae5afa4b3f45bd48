"""Start of the search from moments of the data (analysis-of-variance estimators, Henderson 1953).

For every column c of every term the quadratic form sum_l (Z_c'y)_l^2 / a_cl (y: least-squares residual, a the
column's sum of squares in the level) is equated to its expectation under uncorrelated effects, together with
the residual sum of squares.  The equations are linear in the variances; non-negative least squares solves
them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from ...exceptions import DesignError
from ..kernels import cells as kc
from ..runtime.parallel import cut, run
from .design import Design
from .equations import Equations
from .response import Response, Responses

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["Moments", "check_identified", "moment_start"]

_LEAST = 0.05  # reliability given to a component whose moment estimate is not positive
_MOST = 0.98
_DENSE = 64  # order of Z_2'WZ_2 up to which it is an array
_FEW_COMPONENTS = 7  # columns whose supports are gone through one by one


def check_identified(design: Design, eq: Equations) -> None:
    """Refuse a term that the fixed effects explain: no data speak of its variance.

    Raises
    ------
    DesignError
        A column of a random term lies in the span of the fixed effects, for all levels together: the residual
        of Z_c on X is zero.
    """
    lay = eq.layout
    diag2 = None
    for t, place in enumerate(lay.places):
        for c in range(place.first, place.first + place.k):
            if lay.has_lead and place.block == 0:
                total, H = float(np.sum(eq.A1[:, c, c])), eq.Z1Q[:, c]
            else:
                if diag2 is None:
                    first = eq.gptr[:-1]
                    own = np.arange(lay.q2) - lay.lstart[lay.clevel]  # rows start at the level's first column
                    diag2 = eq.gval[first + own]
                columns = _columns_of(eq, place.block, c)
                total, H = float(np.sum(diag2[columns])), eq.Z2Q[columns]
            if total == 0.0:
                continue  # seen nowhere: a structure ties it to others
            left = total - float(np.sum(H * H))
            if left <= 1e-10 * total:
                raise DesignError(
                    f"random term '{design.terms[t].name}' is explained by the fixed effects, so its "
                    "variance cannot be estimated. Drop the term, or the fixed effects for its levels."
                )


class Moments:
    """Starts from moments of many responses on one design: what they do not share is a vector.

    Parameters
    ----------
    eq : Equations
        Its own response is not used.
    symmetric : scipy.sparse.csr_array, shape (q2, q2), optional
        Z_2'WZ_2, where it has been made already.
    """

    def __init__(self, eq: Equations, symmetric: sp.csr_array | None = None) -> None:
        lay, p = eq.layout, eq.p
        self._layout = lay
        self._components = [(i, c) for i, b in enumerate(lay.blocks) for c in range(b.k)]
        self._first = [self._components.index((i, 0)) for i in range(len(lay.blocks))]
        self._columns: list[slice | None] = []
        components = self._components
        A22: sp.csr_array | np.ndarray | None = symmetric
        if symmetric is None and lay.q2:
            A22 = eq.dense22 if lay.q2 <= _DENSE else eq.A22
        k1 = lay.k1 if lay.has_lead else 0
        m = len(components)
        F = np.zeros((m + 1, m + 1))
        means, w = np.empty(m), []
        H: list[np.ndarray] = []
        HH, HwH = np.empty((m, p, p)), np.empty((m, p, p))
        diag2 = np.zeros(0) if A22 is None else A22.diagonal()
        for i, (block, c) in enumerate(components):
            if i < k1:
                size, design = eq.A1[:, c, c], eq.Z1Q[:, c]
                self._columns.append(None)
            else:
                columns = _columns_of(eq, block, c)
                size, design = diag2[columns], eq.Z2Q[columns]
                self._columns.append(columns)
            weight = 1.0 / size if size.min() > 0.0 else _inverse(size)
            total = size.sum()
            means[i] = total / size.size
            w.append(weight)
            H.append(design)
            HH[i] = design.T @ design
            HwH[i] = (design * weight[:, None]).T @ design
            F[i, m] = size @ weight - HwH[i].trace()
            F[m, i] = total - HH[i].trace()
        self._means = means
        if k1:
            # pairs of the leading block's columns, within its levels
            lead = eq.A1 - 2.0 * np.einsum("lap,lbp->lab", eq.Z1Q, eq.Z1Q)
            lead *= eq.A1
            for i in range(k1):
                F[i, :k1] = w[i] @ lead[:, i]
        for i in range(m):
            for j in range(m):
                if i >= k1 or j >= k1:
                    squares, HAH = _cross(eq, A22, components[i], components[j], w[i], H[i], H[j])
                    F[i, j] = squares - 2.0 * HAH
        F[:m, :m] += HwH.reshape(m, -1) @ HH.reshape(m, -1).T
        F[m, m] = eq.n - p
        self._F, self._weights = F, w

    def start(self, response: Response) -> np.ndarray:
        """Flat theta, in the equations' basis: uncorrelated there, every variance positive.

        Parameters
        ----------
        response : Response

        Returns
        -------
        theta : ndarray, shape (n_theta,)
        """
        lay, m = self._layout, len(self._components)
        rhs = np.empty(m + 1)
        for i, ((_, c), columns) in enumerate(zip(self._components, self._columns, strict=True)):
            moment = response.Z1y[:, c] if columns is None else response.Z2y[columns]
            rhs[i] = self._weights[i] @ (moment * moment)
        rhs[m] = response.yy
        variances = _solve(self._F, rhs)
        ratio = variances[:m] / variances[m] if variances[m] > 0 else np.full(m, np.inf)
        reliability = np.full(m, _MOST)
        known = np.isfinite(ratio)
        size = self._means[known] * ratio[known]
        reliability[known] = size / (1.0 + size)
        np.clip(reliability, _LEAST, 1.0 - 1e-9, out=reliability)
        # where levels are related: a variance is that of D, of which a level has A_ll times as much
        relations = [lay.blocks[i].relation for i, _ in self._components]
        own = np.array([1.0 if relation is None else relation.mean_diagonal for relation in relations])
        scaled = self._means * own
        sd = np.zeros(m)
        told = scaled > 0.0
        sd[told] = np.sqrt(reliability[told] / (1.0 - reliability[told]) / scaled[told])
        theta = np.zeros(lay.n_theta)
        for place in lay.places:
            i = self._first[place.block] + place.first
            theta[place.theta] = place.structure.theta(np.diag(sd[i : i + place.k]))
        return theta

    def starts(self, responses: Responses) -> np.ndarray:
        """`start` of many responses, shape (N, n_theta)."""
        lay, m = self._layout, len(self._components)
        rhs = np.empty((responses.yy.size, m + 1))
        for i, ((_, c), columns) in enumerate(zip(self._components, self._columns, strict=True)):
            moment = responses.Z1y[:, :, c] if columns is None else responses.Z2y[:, columns]
            rhs[:, i] = (moment * moment) @ self._weights[i]
        rhs[:, m] = responses.yy
        variances = _solve_many(self._F, rhs)
        theta = np.zeros((len(rhs), lay.n_theta))
        residual = variances[:, m]
        for place in lay.places:
            for at, (a, b) in enumerate(place.entries, start=place.theta.start):
                if a != b:
                    continue
                i = self._components.index((place.block, place.first + a))
                mean = self._means[i]
                with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                    ratio = np.where(residual > 0.0, variances[:, i] / residual, np.inf)
                    reliability = np.where(np.isfinite(ratio), mean * ratio / (1.0 + mean * ratio), _MOST)
                reliability = np.clip(reliability, _LEAST, 1.0 - 1e-9)
                theta[:, at] = np.sqrt(reliability / (1.0 - reliability) / mean)
        return theta


def moment_start(eq: Equations, symmetric: sp.csr_array | None = None) -> np.ndarray:
    """`Moments.start` of the equations' own response; parameters as of `Moments`."""
    return Moments(eq, symmetric).start(eq.response)


def _inverse(a: np.ndarray) -> np.ndarray:
    """1 / a, or 0 where a column has nothing in a level."""
    positive = a > 0.0
    return np.where(positive, 1.0 / np.where(positive, a, 1.0), 0.0)


def _solve(F: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    scale = 1.0 / np.maximum(np.abs(F).max(axis=1), 1e-300)
    solution = np.linalg.lstsq(F * scale[:, None], rhs * scale, rcond=1e-10)[0]
    if np.all(solution > 0):
        return solution
    from scipy.optimize import nnls  # rarely needed, and slow to import

    return nnls(F * scale[:, None], rhs * scale)[0]


def _solve_many(F: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """`_solve` of every row of rhs (N, m), by the supports of the solutions where there are few."""
    scale = 1.0 / np.maximum(np.abs(F).max(axis=1), 1e-300)
    A, b = F * scale[:, None], rhs * scale
    solution = b @ np.linalg.pinv(A, rcond=1e-10).T
    negative = np.flatnonzero(~np.all(solution > 0, axis=1))
    if not negative.size:
        return solution
    m = A.shape[1]
    if m > _FEW_COMPONENTS:
        from scipy.optimize import nnls  # as in `_solve`

        for i in negative:
            solution[i] = nnls(A, b[i])[0]
        return solution
    b = b[negative]
    least, best = np.sum(b * b, axis=1), np.zeros((negative.size, m))
    for size in range(1, m + 1):
        for support in itertools.combinations(range(m), size):
            columns = A[:, support]
            x = b @ np.linalg.pinv(columns, rcond=1e-10).T
            left = np.sum((b - x @ columns.T) ** 2, axis=1)
            better = np.all(x >= 0.0, axis=1) & (left < least)
            least = np.where(better, left, least)
            best[np.ix_(better, support)] = x[better]
            outside = [c for c in range(m) if c not in support]
            best[np.ix_(better, outside)] = 0.0
    solution[negative] = best
    return solution


def _columns_of(eq: Equations, block: int, column: int) -> slice:
    r = block - int(eq.layout.has_lead)
    return slice(int(eq.layout.offsets[r]) + column, int(eq.layout.offsets[r + 1]), eq.layout.blocks[block].k)


def _cross(
    eq: Equations,
    A22: sp.csr_array | np.ndarray | None,
    first: tuple[int, int],
    second: tuple[int, int],
    w: np.ndarray,
    H1: np.ndarray,
    H2: np.ndarray,
) -> tuple[float, float]:
    """For A = Z_first'Z_second and row weights w: the sums of w_i a_ij^2 and of w_i (H1 * A H2)_ij.

    Not both are of the leading block.
    """
    lay = eq.layout
    lead = (lay.has_lead and first[0] == 0, lay.has_lead and second[0] == 0)
    if lead == (False, False):
        assert A22 is not None
        if isinstance(A22, np.ndarray):
            cell = A22[_columns_of(eq, *first), _columns_of(eq, *second)]
            return float(w @ (cell * cell).sum(axis=1)), float(w @ np.sum(H1 * (cell @ H2), axis=1))
        A = A22[_columns_of(eq, *first)][:, _columns_of(eq, *second)]
        squares = A.multiply(A)
        return float(w @ (squares @ np.ones(A.shape[1]))), float(np.sum(w[:, None] * H1 * (A @ H2)))
    # the cells stand by levels of the leading term: A and H1, H2 are turned round where that comes second
    (lead_weight, rest_weight) = (w, None) if lead[0] else (None, w)
    H_lead, H_rest = (H1, H2) if lead[0] else (H2, H1)
    block, column = second if lead[0] else first
    c = first[1] if lead[0] else second[1]
    columns = _columns_of(eq, block, column)
    parts = run(
        lambda _, a, b: kc.cell_moments(
            a, b, eq.ptr, eq.idx, np.zeros((0, 1)) if eq.unit else eq.val, c,
            columns.start, columns.stop, columns.step,
            np.ones(lay.q1) if lead_weight is None else lead_weight,
            np.ones(H_rest.shape[0]) if rest_weight is None else rest_weight,
            np.ascontiguousarray(H_lead), np.ascontiguousarray(H_rest),
        ),
        cut(np.diff(eq.ptr) * float(2 + eq.p), lay.q1),
    )  # fmt: skip
    return sum(part[0] for part in parts), sum(part[1] for part in parts)
