"""The basis of sums: columns standardised as in a sample of the rows, the response less a first guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .fixed import gram_schmidt, upper_inverse

__all__ = ["Basis", "Columns", "sample_basis", "standard_columns"]

_ORDINARY = 1e6


@dataclass(frozen=True, eq=False)
class Columns:
    """How columns are standardised: (x - shift) P, shift zero but beside a first column of ones.

    Attributes
    ----------
    shift : ndarray, shape (p,)
    P : ndarray, shape (p, p)
        Upper triangular, regular.
    """

    shift: np.ndarray
    P: np.ndarray

    @property
    def matrix(self) -> np.ndarray:
        """M, where the standardised columns are x M."""
        M = self.P.copy()
        if self.shift.any():
            M[0] -= self.shift @ self.P
        return M

    @property
    def inverse(self) -> np.ndarray:
        """M^-1."""
        out = upper_inverse(self.P)
        # x = x_s + 1 shift', x_s = (x M) P^-1, and the ones are the first of these
        return out + np.outer(out[:, 0], self.shift) if self.shift.any() else out

    @property
    def plain(self) -> bool:
        """Whether nothing is done."""
        return not self.shift.any() and bool(np.array_equal(self.P, np.eye(len(self.P))))

    def of(self, x: np.ndarray) -> np.ndarray:
        """Columns in the basis, shape (n, p)."""
        return (x - self.shift if self.shift.any() else x) @ self.P


@dataclass(frozen=True, eq=False)
class Basis:
    """What is summed: standardised columns, and the response less a first guess.

    Attributes
    ----------
    x : Columns
    b : ndarray, shape (p,)
        The response is y - level - (x M) b.
    level : float
        Zero unless the first column of X is one.
    terms : tuple of Columns or None
        Of every term; None for a column of ones.
    same : tuple of tuple of int
        Which of the fixed columns those of every term are; -1 where they are none.
    """

    x: Columns
    b: np.ndarray
    level: float
    terms: tuple[Columns | None, ...]
    same: tuple[tuple[int, ...], ...]

    @cached_property
    def pool(self) -> tuple[tuple[int, ...], ...]:
        """Where the standardised columns of every term are among [x r] and columns of their own after these.

        A column that is one of x is summed once.
        """
        p = self.b.size
        fixed = self.x.matrix
        own = p + 1
        out = []
        for how, same in zip(self.terms, self.same, strict=True):
            M = np.eye(1) if how is None else how.matrix
            places = []
            for column in M.T:
                made = np.zeros(p)
                used = [(same[i], value) for i, value in enumerate(column) if value != 0.0]
                known = all(i >= 0 for i, _ in used)
                for i, value in used if known else ():
                    made[i] = value
                alike = np.flatnonzero((fixed == made[:, None]).all(axis=0))
                if known and alike.size:
                    places.append(int(alike[0]))
                else:
                    places.append(own)
                    own += 1
            out.append(tuple(places))
        return tuple(out)

    @property
    def width(self) -> int:
        """Columns of the pool."""
        return max([self.b.size + 1, *(place + 1 for places in self.pool for place in places)])

    @property
    def guess(self) -> np.ndarray:
        """The first guess as coefficients of x M, shape (p,)."""
        return self.b + self.level * self.x.inverse[:, 0] if self.level else self.b


def of_products(
    basis: Basis,
    xr: np.ndarray,
    n: int,
    terms: Sequence[np.ndarray | None],
    ones_first: bool,
    firsts: Sequence[bool],
) -> Basis:
    """Another basis, in which rows are nearly orthonormal of which the cross-products in this one are known.

    A few digits of these are enough: sums are turned into the new basis from the one that they were made in.

    Parameters
    ----------
    basis : Basis
    xr : ndarray, shape (p + 1, p + 1)
        [x r]'W[x r].
    n : int
    terms : sequence of ndarray of shape (k, k) or None
        z'Wz of every term; None leaves its columns as they are.
    ones_first : bool
        Whether the first fixed column is one.
    firsts : sequence of bool
        Whether the first column of every term is.

    Returns
    -------
    Basis
    """
    p = basis.b.size
    x = _turned(basis.x, xr[:p, :p] / n, ones_first)
    out: list[Columns | None] = []
    for how, own, same, first in zip(basis.terms, terms, basis.same, firsts, strict=True):
        k = len(same)
        if how is None or own is None:
            out.append(how)
        elif same == tuple(range(k)) and first == ones_first:
            out.append(Columns(x.shift[:k], x.P[:k, :k]))
        else:
            out.append(_turned(how, own / n, first))
    C = basis.x.inverse @ x.matrix
    G, c = C.T @ xr[:p, :p] @ C, C.T @ xr[:p, p]
    # of x M, less the level that is taken off beforehand
    guess = np.linalg.solve(C, basis.guess) + np.linalg.lstsq(G, c, rcond=1e-12)[0]
    b = guess - basis.level * x.inverse[:, 0] if basis.level else guess
    return Basis(x, b, basis.level, tuple(out), basis.same)


def _turned(how: Columns, G: np.ndarray, ones_first: bool) -> Columns:
    """Columns made nearly orthonormal, with the mean cross-products G of those there are."""
    k = len(G)
    C = np.eye(k)
    done: list[int] = []
    for j in range(k):
        column = np.eye(k)[:, j]
        for i in done:
            column = column - C[:, i] * (C[:, i] @ G @ column)
        size = float(column @ G @ column)
        # what is left of a column that depends on others is no guide
        if size > 1e-10 * G[j, j] > 0:
            C[:, j] = column / np.sqrt(size)
            done.append(j)
        elif G[j, j] > 0:
            C[j, j] = 1.0 / np.sqrt(G[j, j])
    M = how.matrix @ C
    shift, P = np.zeros(k), M.copy()
    if ones_first:
        mean = how.inverse.T @ (G[0] / how.matrix[0, 0])
        shift[1:] = mean[1:]
        P[0] += shift @ M
    return Columns(shift, P)


def standard_columns(x: np.ndarray, ones_first: bool) -> Columns:
    """A basis of columns from a sample of their rows.

    Parameters
    ----------
    x : ndarray, shape (n, p)
    ones_first : bool
        Whether the first column is one in every row.

    Returns
    -------
    Columns
        Of columns that are zero in the sample, or depend on earlier ones there, what is left of the others.
    """
    n, p = x.shape
    shift = np.zeros(p)
    if ones_first:
        shift[1:] = x[:, 1:].mean(axis=0)
    centred = x - shift
    scale = np.linalg.norm(centred, axis=0) / np.sqrt(n)
    size = np.where(scale > 0, scale, 1.0)
    Q, T, kept = gram_schmidt(centred, size * np.sqrt(n), scale > 0)
    P = np.diag(1.0 / size)
    P[np.ix_(kept, kept)] = T * np.sqrt(n)
    rest = np.flatnonzero(~kept)
    if rest.size and Q.shape[1]:
        left = Q.T @ centred[:, rest]
        for at, j in enumerate(rest):
            earlier = kept & (np.arange(p) < j)
            inside = earlier[kept]
            if inside.any():
                P[earlier, j] = -(T[np.ix_(inside, inside)] @ left[inside, at]) / size[j]
    return Columns(shift, P)


def sample_basis(
    x: np.ndarray,
    y: np.ndarray,
    ones_first: bool,
    terms: Sequence[tuple[np.ndarray | None, bool, bool]],
    same: Sequence[Sequence[int]] | None = None,
) -> Basis:
    """A basis from a sample of the rows.

    Parameters
    ----------
    x : ndarray, shape (n, p)
    y : ndarray, shape (n,)
    ones_first : bool
        Whether the first column of x is one.
    terms : sequence of (ndarray of shape (n, k) or None, bool, bool)
        Columns of every random term, whether its structure lets them mix, whether the first one is one.
    same : sequence of sequences of int, optional
        Which of the columns of x they are; -1 where they are none.

    Returns
    -------
    Basis
    """
    columns = standard_columns(x, ones_first)
    xp = columns.of(x)
    level = float(y.mean()) if ones_first else 0.0
    used = np.linalg.norm(xp, axis=0) > 1e-6 * np.sqrt(len(y))
    b = np.zeros(x.shape[1])
    b[used] = np.linalg.lstsq(xp[:, used], y - level, rcond=None)[0]
    out: list[Columns | None] = []
    shared = [(-1,) * (1 if z is None else z.shape[1]) for z, *_ in terms] if same is None else same
    for (z, mixes, first), own in zip(terms, shared, strict=True):
        if z is None:
            out.append(None)
        elif mixes and z.shape[1] > 1 and tuple(own) == tuple(range(len(own))) and first == ones_first:
            # to the bit what the fixed columns are made of
            out.append(Columns(columns.shift[: len(own)], columns.P[: len(own), : len(own)]))
        elif mixes and z.shape[1] > 1:
            out.append(standard_columns(z, first))
        else:
            size = np.abs(z).max(axis=0)
            odd = (size > 0) & ~((size > 1.0 / _ORDINARY) & (size < _ORDINARY))
            unit = np.ones(z.shape[1])
            unit[odd] = 2.0 ** np.round(np.log2(size[odd]))
            out.append(Columns(np.zeros(z.shape[1]), np.diag(1.0 / unit)))
    return Basis(columns, b, level, tuple(out), tuple(map(tuple, shared)))
