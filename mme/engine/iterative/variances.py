"""Variances of the random effects of all levels at once, with a Monte Carlo error, without a factorization.

Given b, the variance of a combination v'u_l of a level's effects is v'C_l v, C_l the level's block of M^-1 in
the scale of the response, M the mixed-model equations. With one sign z_l per level and z * v on all levels,

    v'C_l v = E z_l (v'C (z * v))_l,

(Bekas, Kokiopoulou & Saad 2007, Applied Numerical Mathematics 57, 1214-1229). z_l^2 = 1, so that what a level
has with itself is exact, and the error comes from the other levels alone. Of these the smooth directions, in
which crossed factors are confounded, have the most; they are taken out of the samples and added exactly
(`mme.engine.iterative.probes.Deflation`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .pcg import SchurSystem
from .probes import Deflation, batch_size, probe_block

__all__ = ["LevelVariances", "level_variances"]

_TOL = 1e-5  # of the solves, relative: far below the Monte Carlo error
_LARGEST = 16_000_000  # numbers of one side of a batch
_SEED = 3_000_017  # apart from the probes of the search and of the traces


@dataclass(frozen=True, eq=False)
class LevelVariances:
    """Estimated variances, divided by sigma2.

    Attributes
    ----------
    value, error : ndarrays, shape (q, m)
        By level and combination, and their Monte Carlo standard errors.
    converged : bool
        Whether all solves reached their tolerance.
    """

    value: np.ndarray
    error: np.ndarray
    converged: bool


def level_variances(
    system: SchurSystem, t: int, combinations: np.ndarray, probes: int, seed: int, max_iterations: int
) -> LevelVariances:
    """Variances of combinations of the effects of every level of a term, given b.

    Parameters
    ----------
    system : SchurSystem
        At the theta that is meant.
    t : int
        The term.
    combinations : ndarray, shape (m, k)
        Of its effects, in the equations' basis.
    probes : int
        At least two.
    seed : int
    max_iterations : int
        Of a solve.

    Notes
    -----
    Beside the solves it takes memory for some numbers per level. An estimate never leaves what is known of
    the variance: it is at most that without data, and at least that with all other levels' effects known.
    """
    side = _Side(system, t, combinations)
    smooth = system.solve(system.Q, _TOL, max_iterations=max_iterations)
    known = Deflation.of(system.Q, smooth.X)
    base = 2.0 * np.sum(side.read(known.Q) * side.read(known.A), axis=2)
    if side.is_lead:
        base += side.floor
    converged = smooth.converged
    m, q = len(combinations), len(side.floor)
    total, squares = np.zeros((q, m)), np.zeros((q, m))
    at_once = max(1, min(batch_size(system.q2), _LARGEST // (q * side.k)) // m)
    for first in range(0, probes, at_once):
        z = probe_block(q, min(at_once, probes - first), seed + _SEED + t, first).astype(np.float64)
        rhs = side.spread(z)
        solved = system.solve(rhs, _TOL, max_iterations=max_iterations)
        converged = converged and solved.converged
        solved.X -= known.times(rhs)
        samples = side.read(solved.X).reshape(q, m, z.shape[1], m)
        for a in range(m):
            own = samples[:, a, :, a] * z
            total[:, a] += own.sum(axis=1)
            squares[:, a] += np.sum(own * own, axis=1)
    mean = total / probes
    spread = np.maximum(squares / probes - mean * mean, 0.0)
    value = np.clip(base + mean, side.floor, np.maximum(side.prior, side.floor))
    return LevelVariances(value, np.sqrt(spread / (probes - 1)), converged)


class _Side:
    """One term's way into the Schur complement's unknowns and back.

    Attributes
    ----------
    floor, prior : ndarrays, shapes (q, m) and (m,)
        Variances were all other levels known, and without data.
    """

    def __init__(self, system: SchurSystem, t: int, combinations: np.ndarray) -> None:
        lay = system.eq.layout
        place = lay.places[t]
        block = lay.blocks[place.block]
        self.system, self.q, self.k = system, block.q, block.k
        self.is_lead = lay.has_lead and place.block == 0
        v = np.zeros((len(combinations), block.k))
        v[:, place.columns] = combinations
        if self.is_lead:
            self.v = v
            self.floor = np.einsum("ma,qab,mb->qm", v, system.W, v)
            self.prior = np.einsum("ma,ab,mb->m", v, system.D1, v)
            return
        r = place.block - int(lay.has_lead)
        first = sum(b.q for b in lay.rest[:r])
        self.rows = slice(int(lay.offsets[r]), int(lay.offsets[r + 1]))
        self.v = v @ system.lam2[r][: block.k, : block.k]
        inverse = system.Pi[first : first + block.q, : block.k, : block.k]
        self.floor = np.einsum("ma,qab,mb->qm", self.v, inverse, self.v)
        self.prior = np.sum(self.v * self.v, axis=1)

    def spread(self, z: np.ndarray) -> np.ndarray:
        """Right-hand sides for signs, (q, n) -> (q2, n m)."""
        system, n = self.system, z.shape[1]
        w = np.einsum("qn,ma->qanm", z, self.v).reshape(self.q, self.k, -1)
        out = np.zeros((system.q2, n * len(self.v)))
        if not self.is_lead:
            out[self.rows] = w.reshape(self.q * self.k, -1)
            return out
        return system.scale(-system.minus_rest(system.weigh(system.W, np.ascontiguousarray(w)), out), True)

    def read(self, x: np.ndarray) -> np.ndarray:
        """The combinations in unknowns of the Schur complement, (q2, c) -> (q, m, c)."""
        if self.is_lead:
            back = self.system.weighted_lead(self.system.W, np.ascontiguousarray(x))
        else:
            back = x[self.rows].reshape(self.q, self.k, -1)
        return np.einsum("ma,qac->qmc", self.v, back, optimize=True)
