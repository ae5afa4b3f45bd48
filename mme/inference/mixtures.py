"""Large-sample null distributions of likelihood ratios whose hypothesis lies on the boundary.

The statistic tends to the squared length of a normal vector's projection on the tangent cone of the larger
model less that on the smaller model's tangent space (Self & Liang 1987, JASA 82, 605-610).  The cone of
covariances about one of lower rank, with null space U, is all directions E with U'E U positive semidefinite
(Stram & Lee 1994, Biometrics 50, 1171-1177): a linear space, whose dimensions beyond the smaller model's give
a chi-square, times a cone of positive semidefinite matrices in the metric of the information about them that
all else leaves (Shapiro 1988, International Statistical Review 56, 49-62).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..engine.runtime.scipys import special
from ..exceptions import InferenceError

__all__ = ["LOWER", "Mixture", "NullSpace", "chi2_tail", "cone_mixture", "is_known", "likelihood_ratio"]

_NOTHING = 1e-6  # likelihood ratio that is zero but for where the searches stopped
LOWER = (
    "the larger model has the lower log-likelihood, so that its search ended at another optimum; try start= "
    "or starts=."
)
_DRAWS = 20_000
_ENUMERATED = 8  # variances whose faces are looked at one by one
_STEPS = 2_000
_STEP_TOL = 1e-9
_BLIND = 1e-10


def likelihood_ratio(larger: float, smaller: float) -> float:
    """Twice the difference of two log-likelihoods; zero where only rounding tells them apart, or less."""
    ratio = 2.0 * (larger - smaller)
    return ratio if ratio > _NOTHING else 0.0


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of chi-squares.

    Attributes
    ----------
    free : int
        Degrees of freedom of what is tested without a boundary.
    weights : ndarray or None
        Of chi-squares with `free`, `free` + 1, ... degrees of freedom; None where the cone is not one of
        variances alone.
    n : int
        Draws that the weights are from; 0 where they are exact.
    shares : ndarray or None
        Where there are no weights: of draws of a normal vector with `dimension` coordinates, the share of its
        squared length that the statistic takes, which does not depend on the length.
    dimension : int
    """

    free: int
    weights: np.ndarray | None
    n: int = 0
    shares: np.ndarray | None = None
    dimension: int = 0

    def tail(self, x: float) -> tuple[float, float]:
        """P(statistic >= x) and its Monte Carlo standard error."""
        if self.weights is None:
            assert self.shares is not None
            with np.errstate(divide="ignore", invalid="ignore"):
                tails = chi2_tail(np.where(x > 0.0, x / self.shares, 0.0), self.dimension)
            return float(np.mean(tails)), float(np.std(tails) / np.sqrt(tails.size))
        tails = np.array([chi2_tail(np.array(x), self.free + j) for j in range(self.weights.size)])
        p = float(self.weights @ tails)
        error = 0.0
        if self.n:
            error = float(np.sqrt(max(self.weights @ tails**2 - p * p, 0.0) / self.n))
        return p, error

    def __str__(self) -> str:
        if self.weights is None:
            return f"chi2({self.free}) + cone of covariances ({self.n} draws)"
        parts = [f"{w:.4g} chi2({self.free + j})" for j, w in enumerate(self.weights) if w > 0.0]
        return " + ".join(parts) if len(parts) > 1 or self.n else parts[0].removeprefix("1 ")


def chi2_tail(x: np.ndarray, df: int) -> np.ndarray:
    """P(chi-square >= x); no degrees of freedom: a point at zero."""
    if df == 0:
        return np.where(x <= 0.0, 1.0, 0.0)
    return special.chdtrc(df, np.maximum(x, 0.0))


@dataclass(frozen=True, eq=False)
class NullSpace:
    """Combinations of the effects of one block of one term that have no variance under the hypothesis.

    Attributes
    ----------
    term : int
    U : ndarray, shape (k, r)
        Orthonormal columns.
    """

    term: int
    U: np.ndarray


def is_known(nulls: Sequence[NullSpace]) -> bool:
    """Whether the mixture needs no information: at most one variance is at the boundary."""
    return sum(null.U.shape[1] for null in nulls) <= 1


def cone_mixture(
    free: int,
    nulls: Sequence[NullSpace],
    information: np.ndarray | None = None,
    directions: Sequence[tuple[int, np.ndarray]] = (),
    seed: int = 0,
) -> Mixture:
    """The null distribution.

    Parameters
    ----------
    free : int
        Dimensions of the larger model's linear directions beyond the smaller model's.
    nulls : sequence of NullSpace
        What is at the boundary.
    information : ndarray, shape (m + 1, m + 1), optional
        About the parameters of `directions` and the residual variance, under the hypothesis; needed unless
        `is_known`.
    directions : sequence of (int, ndarray)
        Term and dD / d(parameter) of the m parameters.
    seed : int
    """
    if not nulls:
        return Mixture(free, np.ones(1))
    if is_known(nulls):
        return Mixture(free, np.array([0.5, 0.5]))
    assert information is not None
    J = _about_the_cone(nulls, information, directions)
    sizes = [null.U.shape[1] for null in nulls]
    if max(sizes) == 1 and len(sizes) == 2:
        cosine = -J[0, 1] / np.sqrt(J[0, 0] * J[1, 1])
        both = 0.25 + np.arcsin(np.clip(cosine, -1.0, 1.0)) / (2.0 * np.pi)
        return Mixture(free, np.array([0.5 - both, 0.5, both]))
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(_DRAWS, len(J)))
    g = z @ np.linalg.cholesky(J).T
    if max(sizes) == 1 and len(sizes) <= _ENUMERATED:
        counts = np.bincount(_faces(J, g), minlength=len(sizes) + 1)
        return Mixture(free, counts / _DRAWS, _DRAWS)
    rest = rng.chisquare(free, _DRAWS) if free else np.zeros(_DRAWS)
    shares = (_lengths(J, g, sizes) + rest) / (np.sum(z * z, axis=1) + rest)
    return Mixture(free, None, _DRAWS, np.clip(shares, 0.0, 1.0), free + len(J))


def _about_the_cone(
    nulls: Sequence[NullSpace], information: np.ndarray, directions: Sequence[tuple[int, np.ndarray]]
) -> np.ndarray:
    """Information about the entries of U'E U (row by row) that all other directions leave, on their scale."""
    # what of each direction lies in the null spaces
    rows = []
    for null in nulls:
        r = null.U.shape[1]
        for a in range(r):
            for b in range(a + 1):
                rows.append(
                    [
                        (null.U[:, a] @ E @ null.U[:, b]) * (1.0 if a == b else np.sqrt(2.0))
                        if t == null.term
                        else 0.0
                        for t, E in directions
                    ]
                )
    C = np.column_stack([np.array(rows), np.zeros(len(rows))])  # the residual variance is in none
    # the information about C t that is left when the rest is estimated: (C I^-1 C')^-1, on one scale
    size = np.sqrt(np.diag(information))
    size = np.where(size > 0.0, size, 1.0)
    covariance = np.linalg.pinv(information / np.outer(size, size), hermitian=True)
    turned = C / size
    inverse = turned @ covariance @ turned.T
    own = np.sqrt(np.diag(inverse))
    spread = np.linalg.eigvalsh(inverse / np.outer(own, own)) if np.all(own > 0.0) else np.zeros(1)
    if spread[0] <= _BLIND:
        raise InferenceError("the data do not tell the variances apart that are tested together.")
    J = np.linalg.inv(0.5 * (inverse + inverse.T))
    # a change of units of the effects, which keeps the cone: variances have the information one
    scales, start = [], 0
    for null in nulls:
        r = null.U.shape[1]
        row, column = np.tril_indices(r)
        s = np.diag(J)[start : start + row.size][row == column] ** -0.25
        scales.append(s[row] * s[column])
        start += row.size
    scale = np.concatenate(scales)
    return scale[:, None] * J * scale


def _faces(J: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Positive coordinates of the projections of J^-1 g on the orthant in the metric J, shape (n,)."""
    r = len(J)
    best = np.zeros(len(g))
    count = np.zeros(len(g), dtype=np.int64)
    for size in range(1, r + 1):
        for chosen in map(list, combinations(range(r), size)):
            at = np.linalg.solve(J[np.ix_(chosen, chosen)], g[:, chosen].T).T
            inside = np.all(at > 0.0, axis=1)
            length = np.einsum("ij,ij->i", at, g[:, chosen])
            # the projection is the longest of the candidates that lie in the cone
            better = inside & (length > best)
            best[better], count[better] = length[better], size
    return count


def _lengths(J: np.ndarray, g: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Squared lengths of the projections on a product of cones of covariances, by accelerated gradients."""
    scale = 1.0 / float(np.linalg.eigvalsh(J)[-1])
    at = np.zeros_like(g)
    ahead, weight = at, 1.0
    for _ in range(_STEPS):
        new = _inside(ahead - scale * (ahead @ J - g), sizes)
        following = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * weight**2))
        ahead = new + (weight - 1.0) / following * (new - at)
        moved = np.max(np.abs(new - at)) if len(g) else 0.0
        at, weight = new, following
        if moved <= _STEP_TOL * max(1.0, float(np.max(np.abs(at)))):
            break
    # 2 g'x - x'J x is stationary in x: the distance that is left counts twice
    return 2.0 * np.einsum("ij,ij->i", g, at) - np.einsum("ij,jk,ik->i", at, J, at, optimize=True)


def _inside(x: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The nearest covariances; entries off the diagonal stand times the root of two."""
    out = np.empty_like(x)
    start = 0
    for r in sizes:
        m = r * (r + 1) // 2
        part = x[:, start : start + m]
        if r == 1:
            out[:, start] = np.maximum(part[:, 0], 0.0)
        else:
            rows, columns = np.tril_indices(r)
            factor = np.where(rows == columns, 1.0, np.sqrt(0.5))
            S = np.zeros((len(x), r, r))
            S[:, rows, columns] = S[:, columns, rows] = part * factor
            w, V = np.linalg.eigh(S)
            S = np.einsum("nij,nj,nkj->nik", V, np.maximum(w, 0.0), V)
            out[:, start : start + m] = S[:, rows, columns] / factor
        start += m
    return out
