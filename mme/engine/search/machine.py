"""The machine of `mme.engine.kernels.newton` from Python: its arrays, and all it wants but evaluations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..kernels import cone, newton
from ..kernels import coordinates as rows
from .cone import MOST_ITERATIONS
from .coordinates import Coordinates, Place
from .evaluation import Evaluation

__all__ = ["Machine"]

_HISTORY = 4  # deviances between two evaluations, with room


class Machine:
    """Newton steps that stand still until an evaluation is answered.

    Parameters
    ----------
    space : Coordinates
    tol : float
    most : int
        Evaluations.
    known : sequence of float
        Deviances of minima at which the search need not end again.

    Attributes
    ----------
    counts, numbers : ndarrays
        By the names in `mme.engine.kernels.newton`.
    tmats, vectors, matrices : ndarrays
        By the names in `mme.engine.kernels.coordinates`.
    """

    def __init__(self, space: Coordinates, tol: float, most: int, known: Sequence[float]) -> None:
        self.space = space
        self._ks = [t.k for t in space.terms]
        nt, nc, m, K = len(self._ks), len(space.cones), space.m, max(self._ks)
        self.counts = np.zeros(newton.N_COUNTS, dtype=np.int64)
        self.numbers = np.full(newton.N_NUMBERS, np.inf)
        starts = [b.part.start for b in space.blocks]
        diagonal = [len(t.structure.blocks(t.k)) == t.k > 1 for t in space.terms]
        self._tints = np.array([self._ks, starts, diagonal], dtype=np.int64)
        self._cints = np.zeros((rows.N_CINTS, nc), dtype=np.int64)
        self._cints[rows.CONE_STARTS] = [c.part.start for c in space.cones]
        self._cints[rows.CONE_KS] = [c.k for c in space.cones]
        self.tmats = np.zeros((rows.N_TMATS, nt, K, K))
        self._tvecs = np.zeros((rows.N_TVECS, nt, K))
        self.vectors = np.zeros((rows.N_VECTORS, m))
        self.matrices = np.zeros((rows.N_MATRICES, m, m))
        self._fill(rows.AI, space.Ai)
        self._fill(rows.RI, space.Ri)
        self.vectors[rows.METRIC] = space.metric
        self.vectors[rows.UNIT] = space.unit
        self.vectors[rows.BLOCK] = space.block_unit
        self._X0 = np.zeros((nc, K, K))
        self._history = np.empty(_HISTORY)
        self._arrays = (
            self.counts, self.numbers, self._tints, self._cints, self.tmats, self._tvecs, self.vectors,
            self.matrices, self._X0, space.cone_unit, self._history, np.array(known, dtype=np.float64),
        )  # fmt: skip
        self.numbers[newton.TOL] = tol
        self.counts[newton.MOST] = min(most, 2**62)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All of them, in the order of `newton.advance`'s arguments."""
        return self._arrays

    def _fill(self, row: int, matrices: Sequence[np.ndarray]) -> None:
        for t, M in enumerate(matrices):
            self.tmats[row, t, : M.shape[0], : M.shape[0]] = M

    def begin(
        self, place: Place, evaluation: Evaluation, counts: dict[int, int], numbers: dict[int, float]
    ) -> None:
        """Stand at a place, about to look around.

        Parameters
        ----------
        place : Place
        evaluation : Evaluation
            Of order 2 there.
        counts, numbers : dict
            What there is to know of how the search came there.
        """
        for i, count in counts.items():
            self.counts[i] = count
        for j, number in numbers.items():
            self.numbers[j] = number
        self.numbers[newton.DEVIANCE : newton.NOISE + 1] = (
            evaluation.deviance,
            evaluation.sigma2,
            evaluation.noise,
        )
        N, info = evaluation.derivatives()
        self._fill(rows.N, N)
        self.matrices[rows.INFORMATION] = info
        self.vectors[rows.THETA] = place.theta
        self._stand(place, rows.U, rows.D)
        self.counts[newton.PHASE] = newton.LOOK

    def remember(self, place: Place, g: np.ndarray, correction: np.ndarray | None) -> None:
        """The place before, for the secant: gradient and correction there."""
        self.counts[newton.HAS_BEFORE] = 1
        self._stand(place, rows.BEFORE_U, rows.BEFORE_D)
        self.vectors[rows.OLD_G] = g
        if correction is not None:
            self.counts[newton.HAS_CORRECTION] = 1
            self.matrices[rows.CORRECTION] = correction

    def _stand(self, place: Place, U: int, d: int) -> None:
        self._fill(U, place.U)
        for t, values in enumerate(place.d):
            self._tvecs[d, t, : values.size] = values

    def go_on(self) -> tuple[int, list[float]]:
        """To the next evaluation that is wanted, or the end; and the deviances of the places on the way."""
        while True:
            wanted = int(newton.advance(*self._arrays))
            if wanted == newton.CONE:
                e, zeros = cone.minimise_over_cone(
                    self._X0,
                    self.vectors[rows.SCALED],
                    self.matrices[rows.CONE_H],
                    self._cints[rows.CONE_STARTS],
                    self._cints[rows.CONE_KS],
                    MOST_ITERATIONS,
                )
                self.vectors[rows.FOUND] = e
                self._cints[rows.FOUND_ZEROS] = zeros
            elif wanted == newton.SECANT:
                newton.correct(
                    self.counts, self._tints, self.tmats, self._tvecs, self.vectors, self.matrices
                )  # fmt: skip
                self.counts[newton.PHASE] = newton.CORRECTED
            else:
                break
        reached = self._history[: self.counts[newton.IN_HISTORY]].tolist()
        self.counts[newton.IN_HISTORY] = 0
        return wanted, reached

    def place(self) -> Place:
        """Where the search is."""
        return self.space.remember(
            self.vectors[rows.THETA].copy(),
            [U[:k, :k].copy() for U, k in zip(self.tmats[rows.U], self._ks, strict=True)],
            [d[:k].copy() for d, k in zip(self._tvecs[rows.D], self._ks, strict=True)],
        )

    def evaluation(self) -> Evaluation:
        """What is known of the deviance there."""
        deviance, sigma2, noise = self.numbers[newton.DEVIANCE : newton.NOISE + 1].tolist()
        return Evaluation(
            self.vectors[rows.THETA].copy(),
            deviance,
            sigma2,
            N_basis=[N[:k, :k].copy() for N, k in zip(self.tmats[rows.N], self._ks, strict=True)],
            information_basis=self.matrices[rows.INFORMATION].copy(),
            noise=noise,
        )
