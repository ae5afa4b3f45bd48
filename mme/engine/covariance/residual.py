"""Covariance structures of the residuals: R = S C S / root(w w'), rows of different subjects independent.

cov(e) = sigma2 R. S holds relative standard deviations (a variance per stratum, or log-linear in
covariates), C the correlations within a subject (or, unstructured, covariances with a variance of one at the
first visit).

Two sets of parameters: xi is free and is what a search moves; phi is in the field's units (ratios of
variances, correlations) and is what inference and tables use. Derivatives of R are in phi.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np

from .correlations import CorrelationPart, Part, Unstructured

__all__ = ["LogLinear", "ResidualStructure", "Strata", "VariancePart"]

_LARGEST = 25.0  # logarithm of a ratio of variances that cannot be told from infinity
_SMALLEST = 1e-8  # ratio of variances that counts as zero


class VariancePart(Part, Protocol):
    """Relative standard deviations of the rows."""

    @property
    def features(self) -> np.ndarray:
        """What of the rows it depends on, shape (n,) or (n, F)."""

    def start(self) -> np.ndarray:
        """xi of equal variances."""

    def deviations(self, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """s (n,), ds/dphi (K, n), d2s/dphi2 (K, K, n)."""


@dataclass(frozen=True, eq=False)
class Strata:
    """A variance for each level of a factor, relative to that of the first.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
    levels : tuple of str
    label : str
    """

    codes: np.ndarray
    levels: tuple[str, ...]
    label: str
    scaled = True
    bound = _LARGEST

    @property
    def features(self) -> np.ndarray:
        return self.codes

    @property
    def names(self) -> tuple[str, ...]:
        """Ratios of variances."""
        return tuple(f"var[{level}]/var[{self.levels[0]}]" for level in self.levels[1:])

    def start(self) -> np.ndarray:
        return np.zeros(len(self.levels) - 1)

    def natural(self, xi: np.ndarray) -> np.ndarray:
        return np.exp(xi)

    def jacobian(self, xi: np.ndarray) -> np.ndarray:
        return np.diag(np.exp(xi))

    def deviations(self, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        K = phi.size
        s = np.sqrt(np.r_[1.0, phi])[self.codes]
        own = np.arange(1, K + 1)[:, None] == self.codes
        second = np.zeros((K, K, s.size))
        second[range(K), range(K)] = np.where(own, -0.25 / s**3, 0.0)
        return s, np.where(own, 0.5 / s, 0.0), second

    def at_boundary(self, phi: np.ndarray) -> list[str]:
        low = [
            f"variance of {self.label} {v}"
            for v, f in zip(self.levels[1:], phi, strict=True)
            if f < _SMALLEST
        ]
        return low + ([f"variance of {self.label} {self.levels[0]}"] if np.any(phi > 1.0 / _SMALLEST) else [])


@dataclass(frozen=True, eq=False)
class LogLinear:
    """log variance = log sigma2 + x'phi.

    Parameters
    ----------
    x : ndarray, shape (n, K)
        Without an intercept, which is log sigma2.
    labels : tuple of str
    """

    x: np.ndarray
    labels: tuple[str, ...]
    scaled = False

    @property
    def features(self) -> np.ndarray:
        return self.x

    @property
    def names(self) -> tuple[str, ...]:
        """Coefficients of the logarithm of the variance."""
        return tuple(f"log var: {name}" for name in self.labels)

    @cached_property
    def size(self) -> np.ndarray:
        """Of the columns: xi = phi size, shape (K,)."""
        return np.maximum(np.abs(self.x).max(axis=0), 1e-300)

    @property
    def bound(self) -> float:
        """Largest xi."""
        return 2.0 * _LARGEST

    def start(self) -> np.ndarray:
        return np.zeros(self.x.shape[1])

    def natural(self, xi: np.ndarray) -> np.ndarray:
        return xi / self.size

    def jacobian(self, xi: np.ndarray) -> np.ndarray:
        return np.diag(1.0 / self.size)

    def deviations(self, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        s = np.exp(0.5 * self.x @ phi)
        first = 0.5 * self.x.T * s
        return s, first, 0.5 * self.x.T[:, None] * first[None]

    def at_boundary(self, phi: np.ndarray) -> list[str]:
        spread = np.ptp(self.x @ phi)
        return ["dispersion"] if spread > -np.log(_SMALLEST) else []


@dataclass(frozen=True, eq=False)
class ResidualStructure:
    """R of the rows as a function of its parameters: those of the variances, then those of the correlations.

    Parameters
    ----------
    text : str
        As the user wrote it.
    n : int
    variances : tuple of VariancePart
    correlation : CorrelationPart or None
    codes : ndarray of int, shape (n,), or None
        Subject of every row; None: rows are independent.
    weights : ndarray, shape (n,), or None
        Prior weights: they divide R by root(w_i w_j).
    group : str
        Name of the subjects.
    """

    text: str
    n: int
    variances: tuple[VariancePart, ...] = ()
    correlation: CorrelationPart | None = None
    codes: np.ndarray | None = None
    weights: np.ndarray | None = None
    group: str = ""

    @property
    def diagonal(self) -> bool:
        """Whether rows are independent."""
        return self.correlation is None

    @property
    def names(self) -> tuple[str, ...]:
        """Of phi."""
        return tuple(name for part in self.parts for name in part.names)

    @property
    def scaled(self) -> np.ndarray:
        """Whether sigma2 phi is the natural parameter, shape (K,)."""
        out = [part.scaled for part in self.variances for _ in part.names]
        if self.correlation is not None:
            # correlations beside variances of their own are parameters themselves
            out += [self.correlation.scaled and not self.variances] * len(self.correlation.names)
        return np.array(out, dtype=bool)

    @property
    def size(self) -> int:
        """Parameters beside sigma2."""
        return len(self.names)

    @property
    def uniform(self) -> bool:
        """Whether all rows have one variance, but for weights."""
        return not self.variances and not isinstance(self.correlation, Unstructured)

    @property
    def parts(self) -> list[Part]:
        """Variances, then correlations."""
        out: list[Part] = list(self.variances)
        return out if self.correlation is None else [*out, self.correlation]

    @cached_property
    def slices(self) -> list[slice]:
        """Where the parameters of each part are."""
        ends = np.cumsum([0, *(len(part.names) for part in self.parts)])
        return [slice(int(a), int(b)) for a, b in pairwise(ends)]

    def starts(self) -> list[np.ndarray]:
        """xi from which searches begin: equal variances, without and with correlation."""
        first = [part.start() for part in self.variances]
        if self.correlation is None:
            return [np.concatenate(first)]
        return [np.concatenate([*first, last]) for last in self.correlation.starts()]

    @property
    def bounds(self) -> np.ndarray:
        """Largest absolute xi, shape (K,)."""
        return np.concatenate([np.full(len(part.names), part.bound) for part in self.parts])

    def natural(self, xi: np.ndarray) -> np.ndarray:
        """phi of xi."""
        return np.concatenate([part.natural(xi[s]) for part, s in zip(self.parts, self.slices, strict=True)])

    def jacobian(self, xi: np.ndarray) -> np.ndarray:
        """dphi / dxi, shape (K, K)."""
        out = np.zeros((self.size, self.size))
        for part, s in zip(self.parts, self.slices, strict=True):
            out[s, s] = part.jacobian(xi[s])
        return out

    def at_boundary(self, phi: np.ndarray) -> list[str]:
        """What of the structure is at a limit: a variance of zero, a correlation of one."""
        pairs = zip(self.parts, self.slices, strict=True)
        return [name for part, s in pairs for name in part.at_boundary(phi[s])]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Subjects of rows; rows without a structure are their own."""
        return rows if self.codes is None else self.codes[rows]

    def features(self) -> np.ndarray:
        """Numbers of the rows that R is made of, beside which rows share a subject, shape (n, F)."""
        out = [np.zeros((self.n, 0))]
        for part in self.variances:
            out.append(np.reshape(part.features, (self.n, -1)).astype(np.float64))
        if self.correlation is not None and self.correlation.features is not None:
            out.append(np.asarray(self.correlation.features, dtype=np.float64)[:, None])
        if self.weights is not None:
            out.append(self.weights[:, None])
        return np.hstack(out)

    def at(self, phi: np.ndarray) -> ResidualMatrix:
        """R at phi."""
        return ResidualMatrix(self, np.asarray(phi, dtype=np.float64))


class ResidualMatrix:
    """R and its derivatives at phi, for the rows of a block.

    Parameters
    ----------
    structure : ResidualStructure
    phi : ndarray, shape (K,)
    """

    def __init__(self, structure: ResidualStructure, phi: np.ndarray) -> None:
        self.structure, self.phi = structure, phi
        n = structure.n
        self.slices = structure.slices
        s = np.ones(n) if structure.weights is None else 1.0 / np.sqrt(structure.weights)
        found = [
            part.deviations(phi[cut]) for part, cut in zip(structure.variances, self.slices, strict=False)
        ]
        # the product of the parts' deviations; each part's logarithmic derivatives
        self.s = s * np.prod([d[0] for d in found], axis=0) if found else s
        self._first = [d[1] / d[0] for d in found]
        self._second = [d[2] / d[0] for d in found]
        self.n_variance = sum(len(part.names) for part in structure.variances)

    @property
    def variance(self) -> np.ndarray:
        """Diagonal of R, shape (n,)."""
        structure = self.structure
        if structure.correlation is None:
            return self.s**2
        return self.s**2 * structure.correlation.diagonal(self.phi[self.slices[-1]])

    def variance_slopes(self) -> np.ndarray:
        """Derivatives of the diagonal of a diagonal R, shape (K, n)."""
        return np.vstack([2.0 * self.s**2 * first for first in self._first])

    def block(self, rows: np.ndarray) -> np.ndarray:
        """R of blocks of rows, rows (B, m), shape (B, m, m)."""
        return self._scaled(self._correlations(rows), rows)

    def slopes(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """dR / dphi_j, one after another, shapes (B, m, m)."""
        structure = self.structure
        if structure.variances:
            R = self.block(rows)
            for first in self._first:
                for own in first[:, rows]:
                    yield R * (own[:, :, None] + own[:, None, :])
        if structure.correlation is not None:
            same = self._same(rows)
            for C in structure.correlation.slopes(self.phi[self.slices[-1]], rows):
                yield self._scaled(C * same, rows)

    def curves(self, rows: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """Second derivatives d2R / dphi_i dphi_j, i <= j, where they are not zero."""
        structure, m = self.structure, self.n_variance
        if structure.variances:
            R = self.block(rows)
            first = np.vstack([f[:, rows].reshape(len(f), -1) for f in self._first]).reshape(m, *rows.shape)
            part = np.repeat(np.arange(len(self._first)), [len(f) for f in self._first])
            offset = np.concatenate([np.arange(len(f)) for f in self._first])
            for i in range(m):
                for j in range(i, m):
                    a, b = first[i], first[j]
                    # of one part: the derivative of the product; of two: products of logarithmic derivatives
                    if part[i] == part[j]:
                        both = self._second[part[i]][offset[i], offset[j]][rows]
                    else:
                        both = a * b
                    cross = a[:, :, None] * b[:, None, :] + b[:, :, None] * a[:, None, :]
                    yield i, j, R * (both[:, :, None] + both[:, None, :] + cross)
        if structure.correlation is None:
            return
        same, phi = self._same(rows), self.phi[self.slices[-1]]
        for j, C in enumerate(structure.correlation.slopes(phi, rows)):
            if not structure.variances:
                break
            S = self._scaled(C * same, rows)
            for i in range(m):
                yield i, m + j, S * (first[i][:, :, None] + first[i][:, None, :])
        for i, j, C in structure.correlation.curves(phi, rows):
            yield m + i, m + j, self._scaled(C * same, rows)

    def _same(self, rows: np.ndarray) -> np.ndarray:
        codes = self.structure.take(rows)
        return codes[:, :, None] == codes[:, None, :]

    def _correlations(self, rows: np.ndarray) -> np.ndarray:
        structure = self.structure
        if structure.correlation is None:
            return np.broadcast_to(np.eye(rows.shape[1]), (*rows.shape, rows.shape[1]))
        return structure.correlation.blocks(self.phi[self.slices[-1]], rows) * self._same(rows)

    def _scaled(self, C: np.ndarray, rows: np.ndarray) -> np.ndarray:
        s = self.s[rows]
        return C * (s[:, :, None] * s[:, None, :])
