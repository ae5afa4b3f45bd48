"""Correlations of the residuals of a subject: ar1, car1, cs, toep; covariances without a structure: us."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

__all__ = ["AutoRegressive", "CompoundSymmetric", "CorrelationPart", "Part", "Toeplitz", "Unstructured"]

_PERFECT = 1e-6  # 1 - |correlation| that counts as perfect
_SMALLEST = 1e-8  # variance given the earlier visits, relative, that counts as zero


class Part(Protocol):
    """Parameters of one factor of a structure."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""

    @property
    def scaled(self) -> bool:
        """Whether V is linear in sigma2 phi, variances or covariances."""

    @property
    def bound(self) -> float:
        """Largest xi."""

    def natural(self, xi: np.ndarray) -> np.ndarray:
        """phi."""

    def jacobian(self, xi: np.ndarray) -> np.ndarray:
        """dphi / dxi."""

    def at_boundary(self, phi: np.ndarray) -> list[str]:
        """What of it is at a limit."""


class CorrelationPart(Part, Protocol):
    """Correlations between rows of one subject; rows of others are told apart by who asks."""

    @property
    def features(self) -> np.ndarray | None:
        """Position of the rows, shape (n,); None where it does not matter."""

    def starts(self) -> list[np.ndarray]:
        """xi from which searches begin."""

    def diagonal(self, phi: np.ndarray) -> np.ndarray | float:
        """Diagonal of the rows, shape (n,), or one number for all."""

    def blocks(self, phi: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Correlations of rows (B, m), shape (B, m, m)."""

    def slopes(self, phi: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
        """First derivatives."""

    def curves(self, phi: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """Second derivatives that are not zero."""


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


@dataclass(frozen=True, eq=False)
class AutoRegressive:
    """rho^|t_i - t_j|: of first order, with integer times (-1 < rho < 1) or any times (0 < rho < 1).

    Parameters
    ----------
    times : ndarray, shape (n,)
    continuous : bool
    gap, least : float
        A usual difference of times, at which a search begins, and the smallest.
    """

    times: np.ndarray
    continuous: bool = False
    gap: float = 1.0
    least: float = 1.0
    scaled = False
    names = ("rho",)

    @property
    def bound(self) -> float:
        """Largest xi."""
        # far enough for the closest rows to be independent
        return min(20.0 * max(self.gap / self.least, 1.0), 600.0) if self.continuous else 9.0

    @property
    def features(self) -> np.ndarray | None:
        return self.times

    def starts(self) -> list[np.ndarray]:
        if self.continuous:
            return [np.log(r / (1.0 - r)) * np.ones(1) for r in (0.2, 0.8)]
        return [np.zeros(1), np.full(1, np.arctanh(0.7))]

    def natural(self, xi: np.ndarray) -> np.ndarray:
        # rho^gap is the logistic function of xi
        return _sigmoid(xi) ** (1.0 / self.gap) if self.continuous else np.tanh(xi)

    def jacobian(self, xi: np.ndarray) -> np.ndarray:
        if self.continuous:
            return np.diag(self.natural(xi) * (1.0 - _sigmoid(xi)) / self.gap)
        return np.diag(1.0 - np.tanh(xi) ** 2)

    def diagonal(self, phi: np.ndarray) -> float:
        return 1.0

    def blocks(self, phi: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return phi[0] ** self._gaps(rows)

    def slopes(self, phi: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
        d = self._gaps(rows)
        # a gap of zero has the power zero, whose derivative is zero where rho is too
        yield np.where(d > 0.0, d * phi[0] ** np.where(d > 0.0, d - 1.0, 0.0), 0.0)

    def curves(self, phi: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        d = self._gaps(rows)
        c = d * (d - 1.0)
        used = c != 0.0
        yield 0, 0, np.where(used, c * phi[0] ** np.where(used, d - 2.0, 0.0), 0.0)

    def at_boundary(self, phi: np.ndarray) -> list[str]:
        return ["correlation"] if 1.0 - abs(phi[0]) ** self.gap < _PERFECT else []

    def _gaps(self, rows: np.ndarray) -> np.ndarray:
        t = self.times[rows]
        return np.abs(t[:, :, None] - t[:, None, :])


@dataclass(frozen=True, eq=False)
class CompoundSymmetric:
    """One correlation between any two rows of a subject.

    Parameters
    ----------
    largest : int
        Rows of the largest subject: the correlation is above -1 / (largest - 1).
    """

    largest: int
    scaled = True
    names = ("rho",)
    bound = 18.0

    @property
    def least(self) -> float:
        """Limit of the correlation from below."""
        return -1.0 / (self.largest - 1.0)

    @property
    def features(self) -> np.ndarray | None:
        return None

    def starts(self) -> list[np.ndarray]:
        unit = [(r - self.least) / (1.0 - self.least) for r in (0.0, 0.6)]
        return [np.full(1, np.log(u / (1.0 - u))) for u in unit]

    def natural(self, xi: np.ndarray) -> np.ndarray:
        return self.least + (1.0 - self.least) * _sigmoid(xi)

    def jacobian(self, xi: np.ndarray) -> np.ndarray:
        s = _sigmoid(xi)
        return np.diag((1.0 - self.least) * s * (1.0 - s))

    def diagonal(self, phi: np.ndarray) -> float:
        return 1.0

    def blocks(self, phi: np.ndarray, rows: np.ndarray) -> np.ndarray:
        m = rows.shape[1]
        return np.broadcast_to(phi[0] + (1.0 - phi[0]) * np.eye(m), (rows.shape[0], m, m))

    def slopes(self, phi: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
        m = rows.shape[1]
        yield np.broadcast_to(1.0 - np.eye(m), (rows.shape[0], m, m))

    def curves(self, phi: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        return iter(())

    def at_boundary(self, phi: np.ndarray) -> list[str]:
        return ["correlation"] if min(1.0 - phi[0], phi[0] - self.least) < _PERFECT else []


@dataclass(frozen=True, eq=False)
class Toeplitz:
    """A correlation for every distance between visits.

    The free parameters are partial autocorrelations, from which Durbin and Levinson's recursion makes
    positive definite matrices and these alone.

    Parameters
    ----------
    positions : ndarray of int, shape (n,)
        Of the visits.
    lags : int
        The largest distance.
    """

    positions: np.ndarray
    lags: int
    scaled = True
    bound = 9.0

    @property
    def names(self) -> tuple[str, ...]:
        """Correlations."""
        return tuple(f"rho[{lag}]" for lag in range(1, self.lags + 1))

    @property
    def features(self) -> np.ndarray | None:
        return self.positions

    def starts(self) -> list[np.ndarray]:
        return [np.zeros(self.lags), np.r_[np.arctanh(0.6), np.zeros(self.lags - 1)]]

    def natural(self, xi: np.ndarray) -> np.ndarray:
        a = np.tanh(xi)
        r = np.zeros(self.lags + 1, dtype=a.dtype)
        r[0] = 1.0
        f = np.zeros(0, dtype=a.dtype)  # coefficients of the prediction from the last visits
        v = 1.0
        for k in range(1, self.lags + 1):
            r[k] = a[k - 1] * v + (f @ r[k - 1 : 0 : -1] if k > 1 else 0.0)
            f = np.r_[f - a[k - 1] * f[::-1], a[k - 1]]
            v = v * (1.0 - a[k - 1] ** 2)
        return r[1:]

    def jacobian(self, xi: np.ndarray) -> np.ndarray:
        # the recursion is analytic: an imaginary step has no cancellation
        out = np.empty((self.lags, self.lags))
        for j in range(self.lags):
            moved = xi.astype(np.complex128)
            moved[j] += 1e-30j
            out[:, j] = self.natural(moved).imag / 1e-30
        return out

    def diagonal(self, phi: np.ndarray) -> float:
        return 1.0

    def blocks(self, phi: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.r_[1.0, phi, 0.0][self._distances(rows)]

    def slopes(self, phi: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
        d = self._distances(rows)
        for lag in range(1, self.lags + 1):
            yield (d == lag).astype(np.float64)

    def curves(self, phi: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        return iter(())

    def at_boundary(self, phi: np.ndarray) -> list[str]:
        r = np.r_[1.0, phi]
        T = r[np.abs(np.subtract.outer(np.arange(r.size), np.arange(r.size)))]
        return ["correlation"] if np.linalg.eigvalsh(T)[0] < _PERFECT else []

    def _distances(self, rows: np.ndarray) -> np.ndarray:
        t = self.positions[rows]
        # rows of different subjects, which are told apart later, may be further apart
        return np.minimum(np.abs(t[:, :, None] - t[:, None, :]), self.lags + 1)


@dataclass(frozen=True, eq=False)
class Unstructured:
    """A covariance for every pair of visits, relative to the variance at the first.

    phi are the entries of the lower triangle, row by row, but for the first, which is one. The free
    parameters are those of the Cholesky factor, its diagonal as logarithms.

    Parameters
    ----------
    visits : ndarray of int, shape (n,)
    levels : tuple of str
    """

    visits: np.ndarray
    levels: tuple[str, ...]
    scaled = True
    bound = 25.0

    @cached_property
    def entries(self) -> list[tuple[int, int]]:
        """Of phi."""
        T = len(self.levels)
        return [(a, b) for a in range(T) for b in range(a + 1)][1:]

    @property
    def names(self) -> tuple[str, ...]:
        """Ratios to the variance of the first visit."""
        first, v = self.levels[0], self.levels
        return tuple(
            f"var[{v[a]}]/var[{first}]" if a == b else f"cov[{v[b]},{v[a]}]/var[{first}]"
            for a, b in self.entries
        )

    @property
    def features(self) -> np.ndarray | None:
        return self.visits

    def starts(self) -> list[np.ndarray]:
        return [np.zeros(len(self.entries))]

    def _root(self, xi: np.ndarray) -> np.ndarray:
        L = np.eye(len(self.levels))
        for value, (a, b) in zip(xi, self.entries, strict=True):
            L[a, b] = np.exp(value) if a == b else value
        return L

    def natural(self, xi: np.ndarray) -> np.ndarray:
        L = self._root(xi)
        S = L @ L.T
        return np.array([S[a, b] for a, b in self.entries])

    def jacobian(self, xi: np.ndarray) -> np.ndarray:
        L = self._root(xi)
        rows, columns = map(np.array, zip(*self.entries, strict=True))
        out = np.empty((len(self.entries), len(self.entries)))
        for j, (a, b) in enumerate(self.entries):
            M = np.zeros_like(L)
            M[a] = L[:, b] * (L[a, a] if a == b else 1.0)
            out[:, j] = (M + M.T)[rows, columns]
        return out

    def matrix(self, phi: np.ndarray) -> np.ndarray:
        """Covariances of the visits, relative to the first variance, shape (T, T)."""
        S = np.eye(len(self.levels))
        for value, (a, b) in zip(phi, self.entries, strict=True):
            S[a, b] = S[b, a] = value
        return S

    def diagonal(self, phi: np.ndarray) -> np.ndarray:
        return np.diag(self.matrix(phi))[self.visits]

    def blocks(self, phi: np.ndarray, rows: np.ndarray) -> np.ndarray:
        v = self.visits[rows]
        return self.matrix(phi)[v[:, :, None], v[:, None, :]]

    def slopes(self, phi: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
        v = self.visits[rows]
        for a, b in self.entries:
            one = (v == a)[:, :, None] & (v == b)[:, None, :]
            yield (one | one.transpose(0, 2, 1)).astype(np.float64)

    def curves(self, phi: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        return iter(())

    def at_boundary(self, phi: np.ndarray) -> list[str]:
        S = self.matrix(phi)
        d = np.diag(S)
        if d.min() < _SMALLEST * d.max():
            return ["variance of a visit"]
        C = S / np.sqrt(np.outer(d, d))
        return ["covariance of the visits"] if np.linalg.eigvalsh(C)[0] < _PERFECT else []
