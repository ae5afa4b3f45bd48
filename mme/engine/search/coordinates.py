"""Coordinates of the search: steps of the reliability, seen from the point where they begin.

For a term with mean cross-product A_bar = R'R per level, the *reliability* of its effects is

    rho = I - (I + R D R')^-1,   0 <= rho < I,   D = R^-1 rho (I - rho)^-1 R^-T,

for a scalar term rho = n D / (1 + n D), the classical shrinkage factor.  Near rho = I it cannot be stored: a
variance 1e8 times the residual's leaves 1e-9 of I - rho.  A point is therefore kept as the eigenvectors and
eigenvalues of R D R' = U diag(d) U', and a step as the symmetric matrix E in

    I - rho_new = G^-T (I - E) G^-1,   G = U diag(1 + d)^1/2,   G G' = I + R D R',

so that E = 0 is the point, the reliability is linear in E, the metric of balanced data is q tr(E E), and the
cone rho >= 0 is diag(d) + E >= 0.  Then  R D_new R' = G Y G',  Y = diag(d / (1 + d)) + E (I - E)^-1, which is
formed without a difference of large numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..covariance.boundary import SINGULAR
from ..covariance.structure import Structure
from ..equations.equations import Equations
from ..kernels import coordinates as kernels
from ..kernels.coordinates import RIDGE, Spot, Terms
from .cone import ConeBlock
from .evaluation import Evaluation

__all__ = ["RIDGE", "Coordinates", "Place", "QuadraticModel", "Step", "TermSpec", "term_specs"]


@dataclass(frozen=True, eq=False)
class TermSpec:
    """What the search knows of a term.

    Attributes
    ----------
    k : int
    structure : Structure
    q : int
        Number of levels.
    root : ndarray, shape (k, k)
        R with R'R the mean cross-product of the term's columns per level (diagonal for a diagonal term), in
        the basis of `N_basis` and `information_basis` if the evaluation has them.
    basis : ndarray, shape (k, k), optional
        The design's columns are those of that basis times this.
    """

    k: int
    structure: Structure
    q: int
    root: np.ndarray
    basis: np.ndarray | None = None

    @property
    def entries(self) -> list[tuple[int, int]]:
        """Free entries of the lower triangle."""
        return self.structure.entries(self.k)


def term_specs(eq: Equations, standard: bool = False) -> list[TermSpec]:
    """The terms of a model as the search wants them.

    Parameters
    ----------
    eq : Equations
    standard : bool
        theta in the equations' basis, not the design's.
    """
    return [
        TermSpec(
            p.k,
            p.structure,
            eq.layout.blocks[p.block].q,
            eq.term_root(t),
            None if standard else eq.term_basis(t),
        )
        for t, p in enumerate(eq.layout.places)
    ]


@dataclass(frozen=True, eq=False)
class Place:
    """A point of the search.

    Attributes
    ----------
    spot : Spot
        As the kernels hold it.
    ks : tuple of int
        Effects per level, per term.
    """

    spot: Spot
    ks: tuple[int, ...]

    @property
    def theta(self) -> np.ndarray:
        """Shape (m,)."""
        return self.spot.theta

    @property
    def U(self) -> list[np.ndarray]:
        """Eigenvectors of R D R', shapes (k, k), per term."""
        return [U[:k, :k] for U, k in zip(self.spot.U, self.ks, strict=True)]

    @property
    def d(self) -> list[np.ndarray]:
        """Its eigenvalues, shapes (k,); exact zeros where D is singular."""
        return [d[:k] for d, k in zip(self.spot.d, self.ks, strict=True)]

    def largest(self) -> float:
        """Largest reliability of any direction."""
        return max(float(np.max(d / (1.0 + d))) for d in self.d)


@dataclass(frozen=True, eq=False)
class QuadraticModel:
    """Gradient, average information and the metric's diagonal in the coordinates E of a place."""

    g: np.ndarray
    H: np.ndarray
    metric: np.ndarray


@dataclass(frozen=True, eq=False)
class Step:
    """A step from a place: E, predicted decrease, and the eigenvalues that it makes zero, per cone."""

    e: np.ndarray
    decrease: float
    zeros: np.ndarray


class Coordinates:
    """Places, and the steps between them, of all terms.

    Parameters
    ----------
    terms : list of TermSpec
    """

    def __init__(self, terms: list[TermSpec]) -> None:
        self.terms = terms
        self.ks = tuple(t.k for t in terms)
        self.blocks: list[ConeBlock] = []
        self.cones: list[ConeBlock] = []
        nt, K = len(terms), max(self.ks)
        inverses = np.zeros((3, nt, K, K))
        start = 0
        for i, t in enumerate(terms):
            block = ConeBlock(start, t.k, t.entries)
            self.blocks.append(block)
            parts = t.structure.blocks(t.k)
            if len(parts) == 1:
                self.cones.append(block)
            else:
                # effects that are not correlated with one another: a cone each
                self.cones += [ConeBlock(start + a, 1, [(0, 0)]) for (a,) in parts]
            own = (slice(t.k), slice(t.k))
            A = t.root if t.basis is None else t.root @ t.basis
            inverses[0][i][own] = A
            inverses[1][i][own] = np.linalg.inv(A)
            inverses[2][i][own] = inverses[1][i][own] if t.basis is None else np.linalg.inv(t.root)
            start += block.size
        self.m = start
        # R of the design's columns
        self.A, self.Ai, self.Ri = ([M[:k, :k] for M, k in zip(a, self.ks, strict=True)] for a in inverses)
        self.metric = np.concatenate([t.q * _weights(t) for t in terms])
        self.arrays = Terms(
            ks=np.array(self.ks),
            starts=np.array([b.part.start for b in self.blocks]),
            diagonal=np.array([len(t.structure.blocks(t.k)) == t.k > 1 for t in terms]),
            A=inverses[0],
            Ai=inverses[1],
            Ri=inverses[2],
            metric=self.metric,
            unit=1.0 / np.sqrt(self.metric),
            block=np.concatenate(
                [np.full(b.size, t.q**-0.5) for t, b in zip(terms, self.blocks, strict=True)]
            ),
            size=np.concatenate([np.full(len(t.structure.blocks(t.k)), t.q**-0.5) for t in terms]),
            cone_starts=np.array([c.part.start for c in self.cones]),
            cone_ks=np.array([c.k for c in self.cones]),
        )
        self._last: tuple[np.ndarray, Place] | None = None

    @classmethod
    def of(cls, terms: list[TermSpec] | Coordinates) -> Coordinates:
        """The coordinates of terms; coordinates that are there already as they are."""
        return terms if isinstance(terms, Coordinates) else cls(terms)

    # -- places -------------------------------------------------------------------------------------------

    def at(self, theta: np.ndarray) -> Place:
        """The place of theta; the theta it holds has non-negative diagonals and exact zeros."""
        theta = np.asarray(theta, dtype=np.float64)
        # what follows a search asks for the place of its end, again and again
        if self._last is not None and np.array_equal(self._last[0], theta):
            return self._last[1]
        place = self.new_place()
        kernels.find_spot_of(self.arrays, theta, place.spot)
        self._last = theta.copy(), place
        return place

    def new_place(self) -> Place:
        """A place that is nowhere yet."""
        nt, K = self.arrays.A.shape[:2]
        return Place(Spot(np.empty(self.m), np.zeros((nt, K, K)), np.zeros((nt, K))), self.ks)

    def _place(self, factors: list[np.ndarray]) -> Place:
        """The place with R D R' = factor factor' per term."""
        place = self.new_place()
        padded = np.zeros_like(place.spot.U)
        for i, factor in enumerate(factors):
            padded[i, : factor.shape[0], : factor.shape[0]] = factor
        kernels.find_spot(self.arrays, padded, place.spot)
        return place

    def move(self, place: Place, e: np.ndarray, zeros: np.ndarray | None = None) -> Place:
        """The place that a step leads to.

        Parameters
        ----------
        place : Place
        e : ndarray, shape (m,)
            Every eigenvalue of I - E positive.
        zeros : ndarray of int, shape (n_cones,), optional
            How many eigenvalues of every cone the step makes zero: they are then exact.
        """
        new = self.new_place()
        some = np.zeros(len(self.cones), dtype=np.int64) if zeros is None else zeros
        kernels.move_spot(self.arrays, place.spot, e, some, zeros is not None, new.spot)
        return new

    def transport(self, old: Place, new: Place) -> list[np.ndarray]:
        """Per term the matrix of E at `old` -> E at `new` of one and the same change of the reliability."""
        out = []
        for b, U, d, V, f in zip(self.blocks, old.U, old.d, new.U, new.d, strict=True):
            T = np.sqrt(1.0 + f)[:, None] * (V.T @ U) / np.sqrt(1.0 + d)
            out.append(b.congruence(T))
        return out

    def singular_terms(self, place: Place) -> list[int]:
        """Terms with a direction whose reliability is zero to within rounding."""
        return [i for i, d in enumerate(place.d) if float(np.min(d)) < SINGULAR]

    def uniform(self, reliability: float) -> np.ndarray:
        """theta at which every direction of every term has the same reliability."""
        s = np.sqrt(reliability / (1.0 - reliability))
        return self._place([s * np.eye(t.k) for t in self.terms]).theta

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """theta with random directions and reliabilities."""
        factors = []
        for t in self.terms:
            r = rng.uniform(size=t.k)
            Q = np.eye(t.k) if not t.structure.mixes else np.linalg.qr(rng.normal(size=(t.k, t.k)))[0]
            factors.append(Q * np.sqrt(r / (1.0 - r)))
        return self._place(factors).theta

    def fraction_inside(self, place: Place, e: np.ndarray) -> float:
        """Largest fraction of a step, at most 1, that stays in the cone."""
        fraction = 1.0
        values = [
            d[list(part)]
            for t, d in zip(self.terms, place.d, strict=True)
            for part in t.structure.blocks(t.k)
        ]
        for c, d in zip(self.cones, values, strict=True):
            X = np.diag(d)
            if float(np.linalg.eigvalsh(X + c.mat(e))[0]) >= -1e-12:
                continue
            low, high = 0.0, fraction
            for _ in range(40):
                middle = 0.5 * (low + high)
                inside = float(np.linalg.eigvalsh(X + middle * c.mat(e))[0]) >= 0.0
                low, high = (middle, high) if inside else (low, middle)
            fraction = min(fraction, low)
        return fraction

    def straight(self, e: np.ndarray) -> np.ndarray:
        """The step that adds to R D R' what a step `e`, every eigenvalue above -1, adds for small ones."""
        out = np.empty(self.m)
        for c in self.cones:
            E = c.mat(e)
            out[c.part] = np.linalg.solve(np.eye(c.k) + E, E)[c.rows, c.cols]
        return out

    def change(self, place: Place, e: np.ndarray) -> np.ndarray:
        """Entries of the change of D that a small step makes, each over its natural scale."""
        out = np.empty(self.m)
        for b, Ai, A, U, d in zip(self.blocks, self.Ai, self.A, place.U, place.d, strict=True):
            G = Ai @ (U * np.sqrt(1.0 + d))
            size = np.linalg.norm(A, axis=0)
            out[b.part] = (size[:, None] * (G @ b.mat(e) @ G.T) * size)[b.rows, b.cols]
        return out

    # -- derivatives and steps ----------------------------------------------------------------------------

    def model(self, place: Place, evaluation: Evaluation) -> QuadraticModel:
        """Gradient and average information in E."""
        g, H = np.empty(self.m), np.empty((self.m, self.m))
        N, info = self.derivatives(evaluation)
        kernels.fill_model(self.arrays, place.spot, N, info, g, H)
        return QuadraticModel(g, H, self.metric)

    def derivatives(self, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
        """N of all terms, shape (n_terms, K, K), and the information, in the basis of the derivatives."""
        in_basis = evaluation.N_basis is not None
        N_all = evaluation.N_basis if in_basis else evaluation.N
        info = evaluation.information_basis if in_basis else evaluation.information_D
        assert N_all is not None and info is not None  # of order 2
        padded = np.zeros_like(self.arrays.A)
        for i, (N, k) in enumerate(zip(N_all, self.ks, strict=True)):
            padded[i, :k, :k] = N
        return padded, np.ascontiguousarray(info)

    def roots(self, place: Place) -> list[np.ndarray]:
        """R^-1 G per term: d D = (R^-1 G) E (R^-1 G)', in the basis of the evaluation."""
        return [Ri @ (U * np.sqrt(1.0 + d)) for Ri, U, d in zip(self.Ri, place.U, place.d, strict=True)]

    def step(self, place: Place, model: QuadraticModel, damping: float = RIDGE) -> Step:
        """Minimising step of the model, damped by so much of the metric, over the cone."""
        e, zeros = np.empty(self.m), np.empty(len(self.cones), dtype=np.int64)
        H = np.ascontiguousarray(model.H)
        decrease = kernels.find_step(self.arrays, place.spot.d, model.g, H, damping, e, zeros)
        return Step(e, decrease, zeros)

    def slope(self, place: Place, model: QuadraticModel) -> float:
        """sqrt(2 x predicted decrease) with the metric of balanced data as the Hessian."""
        return float(kernels.find_slope(self.arrays, place.spot.d, model.g))

    def limit(self, e: np.ndarray) -> float:
        """Largest fraction of the step that shrinks I - rho to no less than a tenth in any direction."""
        return float(kernels.find_limit(self.arrays, e))


def _weights(term: TermSpec) -> np.ndarray:
    return np.array([1.0 if a == b else 2.0 for a, b in term.entries])
