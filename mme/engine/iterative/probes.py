"""Rademacher probes, and what is taken out of their samples: see `mme.engine.iterative.objective`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

__all__ = ["Deflation", "ProbeSolves", "batch_size", "batches", "probe_block"]


def batch_size(q2: int) -> int:
    """Columns for probes solved at once: the pass over the cells costs little more for 32 than for 16."""
    return 32 if q2 <= 200_000 else 16


def batches(number: int, effects: int, beside: int, q2: int) -> list[tuple[int, int]]:
    """Ranges of probes solved at once, each used effect by effect; at least one, possibly empty.

    The first shares its batch with `beside` other columns, unless these are most of it.
    """
    size = batch_size(q2)
    first = max(1, (size - (beside if 2 * beside <= size else 0)) // effects)
    edges = [0, *range(first, number, max(1, size // effects)), max(first, number)]
    return list(itertools.pairwise(edges))


@dataclass(eq=False)
class Deflation:
    """K = Q A' + A Q' with A = GQ - Q (Q'GQ)/2, for a symmetric G; Q has orthonormal columns.

    Attributes
    ----------
    Q, A : ndarrays, shape (q2, 2 * n_components)
    """

    Q: np.ndarray
    A: np.ndarray

    @classmethod
    def of(cls, Q: np.ndarray, GQ: np.ndarray) -> Deflation:
        """From Q and G Q."""
        inner = Q.T @ GQ
        return cls(Q, GQ - Q @ (0.25 * (inner + inner.T)))

    def times(self, z: np.ndarray) -> np.ndarray:
        """K z: (q2, m) -> (q2, m)."""
        return self.Q @ (self.A.T @ z) + self.A @ (self.Q.T @ z)


@dataclass(eq=False)
class ProbeSolves:
    """What the solves for traces leave behind: sums over levels by probe, not the solutions.

    Attributes
    ----------
    lead : ndarray, shape (n, k1, k1)
        Symmetric part of sum_l (F_l B_l lam2 g)_l (F_l B_l lam2 z)_l', g = (S^-1 - P^-1 - K) z with K for
        S^-1 - P^-1; summed over the effects that a probe is used for one at a time.
    rest : list of ndarray, shapes (n, k_t, k_t), or None
        -z'(S^-1 - P^-1 + P^-1 O P^-1 - K)z by pairs of effects of every term outside the leading block.
    known, known_lead : Deflation
        K of the two.
    """

    lead: np.ndarray
    rest: list[np.ndarray | None]
    known: Deflation
    known_lead: Deflation


def probe_block(q: int, number: int, seed: int, first: int = 0) -> np.ndarray:
    """Rademacher probes from `first` on, int8, shape (q, number); each depends on its number alone."""
    out = np.empty((q, number), np.int8)
    for j in range(number):
        bits = np.random.default_rng([seed, first + j]).integers(0, 2, size=q, dtype=np.int8)
        out[:, j] = 2 * bits - 1
    return out
