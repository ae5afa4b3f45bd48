"""Arrays with their first and second derivatives: a formula written once gives all three exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["Jet", "variables"]


class Jet:
    """An array as a function of m variables, to second order.

    Parameters
    ----------
    value : ndarray, shape s
    first : ndarray, shape (m, *s)
    second : ndarray, shape (m, m, *s)
    """

    __array_priority__ = 1.0  # an array on the left leaves the operation to this class

    def __init__(self, value: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
        self.value, self.first, self.second = value, first, second

    def _lifted(self, ndim: int) -> Jet:
        """With axes of length one before those of the array, as numpy broadcasts."""
        ones = (1,) * (ndim - np.ndim(self.value))
        if not ones:
            return self
        shape, m = ones + np.shape(self.value), self.first.shape[0]
        return Jet(
            self.value.reshape(shape), self.first.reshape(m, *shape), self.second.reshape(m, m, *shape)
        )

    def __add__(self, other: Jet | np.ndarray | float) -> Jet:
        if isinstance(other, Jet):
            ndim = max(np.ndim(self.value), np.ndim(other.value))
            a, b = self._lifted(ndim), other._lifted(ndim)
            return Jet(a.value + b.value, a.first + b.first, a.second + b.second)
        a, zero = self._lifted(max(np.ndim(self.value), np.ndim(other))), 0.0 * np.asarray(other)
        return Jet(a.value + other, a.first + zero, a.second + zero)

    __radd__ = __add__

    def __neg__(self) -> Jet:
        return Jet(-self.value, -self.first, -self.second)

    def __sub__(self, other: Jet | np.ndarray | float) -> Jet:
        return self + (-other)

    def __rsub__(self, other: np.ndarray | float) -> Jet:
        return (-self) + other

    def __mul__(self, other: Jet | np.ndarray | float) -> Jet:
        if not isinstance(other, Jet):
            a = self._lifted(max(np.ndim(self.value), np.ndim(other)))
            return Jet(a.value * other, a.first * other, a.second * other)
        ndim = max(np.ndim(self.value), np.ndim(other.value))
        a, b = self._lifted(ndim), other._lifted(ndim)
        cross = a.first[:, None] * b.first[None]
        return Jet(
            a.value * b.value,
            a.first * b.value + a.value * b.first,
            a.second * b.value + a.value * b.second + cross + np.swapaxes(cross, 0, 1),
        )

    __rmul__ = __mul__

    def __getitem__(self, index: object) -> Jet:
        whole = index if isinstance(index, tuple) else (index,)
        rest = (slice(None), *whole), (slice(None), slice(None), *whole)
        return Jet(self.value[whole], self.first[rest[0]], self.second[rest[1]])

    def through(self, f: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Jet:
        """f of every element, f giving its value and its two derivatives."""
        value, slope, bend = f(self.value)
        squares = self.first[:, None] * self.first[None]
        return Jet(value, slope * self.first, slope * self.second + bend * squares)

    @staticmethod
    def stack(jets: list[Jet]) -> Jet:
        """Jets of one shape along a new first axis of the array."""
        return Jet(
            np.stack([j.value for j in jets]),
            np.stack([j.first for j in jets], axis=1),
            np.stack([j.second for j in jets], axis=2),
        )


def variables(x: np.ndarray) -> Jet:
    """The variables themselves, shape (m,)."""
    m = x.size
    return Jet(np.asarray(x, dtype=np.float64), np.eye(m), np.zeros((m, m, m)))
