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
from functools import cache

import numpy as np

from ..covariance import two
from ..covariance.boundary import SINGULAR
from ..covariance.structure import Structure
from ..equations.equations import Equations
from ..kernels import cone as kernels
from ..kernels.coordinates import RIDGE
from .cone import MOST_ITERATIONS, ConeBlock
from .evaluation import Evaluation

__all__ = ["RIDGE", "Coordinates", "Place", "QuadraticModel", "Step", "TermSpec", "term_specs"]

_LARGEST_DROP = 0.9  # a step may shrink I - rho by a factor of ten in any direction
_ZERO = 1e-14  # eigenvalue of Y that counts as zero
_KEPT = 16  # places


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
    theta : ndarray, shape (m,)
    U : list of ndarray, shapes (k, k)
        Eigenvectors of R D R', per term.
    d : list of ndarray, shapes (k,)
        Its eigenvalues; exact zeros where D is singular.
    X0 : ndarray, shape (n_cones, K, K)
        diag(d) of every cone.
    """

    theta: np.ndarray
    U: list[np.ndarray]
    d: list[np.ndarray]
    X0: np.ndarray

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
        self.blocks: list[ConeBlock] = []
        self.cones: list[ConeBlock] = []
        self.A: list[np.ndarray] = []  # root @ basis: R of the design's columns
        self.Ai: list[np.ndarray] = []
        self.Ri: list[np.ndarray] = []
        start = 0
        for t in terms:
            block, cones = _blocks(start, t.k, t.structure)
            self.blocks.append(block)
            self.cones += cones
            Ri = 1.0 / t.root if t.k == 1 else np.linalg.inv(t.root)
            self.Ri.append(Ri)
            self.A.append(t.root if t.basis is None else t.root @ t.basis)
            self.Ai.append(Ri if t.basis is None else np.linalg.inv(self.A[-1]))
            start += block.size
        self.m = start
        self.metric = np.empty(start)
        levels = np.empty(start)
        for t, block in zip(terms, self.blocks, strict=True):
            levels[block.part] = t.q
            self.metric[block.part] = t.q * block.weight
        self._starts = np.array([c.part.start for c in self.cones])
        ks = [c.k for c in self.cones]
        self._ks = np.array(ks)
        self.unit = 1.0 / np.sqrt(self.metric)
        self.block_unit = 1.0 / np.sqrt(levels)
        self.cone_unit = self.block_unit[self._starts]
        self._none = np.zeros(len(ks), dtype=np.int64)
        K = max(ks)
        self._cone_shape = (len(ks), K, K)
        # effects come in the order of the cones
        self._diagonals = np.array([i * K * K + (K + 1) * a for i, k in enumerate(ks) for a in range(k)])
        self._known: dict[bytes, Place] = {}

    @classmethod
    def of(cls, terms: list[TermSpec] | Coordinates) -> Coordinates:
        """The coordinates of terms; coordinates that are there already as they are."""
        return terms if isinstance(terms, Coordinates) else cls(terms)

    # -- places -------------------------------------------------------------------------------------------

    def at(self, theta: np.ndarray) -> Place:
        """The place of theta; the theta it holds has non-negative diagonals and exact zeros."""
        theta = np.asarray(theta, dtype=np.float64)
        # of a start when a search begins there, of an end again and again by what follows
        place = self._known.get(theta.tobytes())
        if place is not None:
            return place
        factors = []
        for t, b, A in zip(self.terms, self.blocks, self.A, strict=True):
            factors.append(A @ t.structure.lam(theta[b.part], t.k))
        return self._keep(theta, self._place(factors))

    def _keep(self, theta: np.ndarray, place: Place) -> Place:
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[theta.tobytes()] = place
        return place

    def _place(self, factors: list[np.ndarray]) -> Place:
        """The place with R D R' = factor factor' per term."""
        theta = np.empty(self.m)
        Us, ds = [], []
        for t, b, Ai, L in zip(self.terms, self.blocks, self.Ai, factors, strict=True):
            U, s = t.structure.eigen(L)
            theta[b.part] = t.structure.theta(t.structure.triangular(Ai @ (U * s)))
            Us.append(U)
            ds.append(s * s)
        return Place(theta, Us, ds, self._cone_points(ds))

    def _cone_points(self, ds: list[np.ndarray]) -> np.ndarray:
        """diag(d) of every cone."""
        X0 = np.zeros(self._cone_shape)
        X0.reshape(-1)[self._diagonals] = np.concatenate(ds)
        return X0

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
        factors = []
        cone = 0
        for t, b, U, d in zip(self.terms, self.blocks, place.U, place.d, strict=True):
            root = np.sqrt(1.0 + d)
            if len(t.structure.blocks(t.k)) == t.k:
                E = e[b.part]
                y = d / (1.0 + d) + E / (1.0 - E)
                if zeros is not None:
                    y = np.where(zeros[cone : cone + t.k] > 0, 0.0, y)
                y = np.where(y > _ZERO, y, 0.0)
                factors.append(np.diag(root * np.sqrt(y)))
                cone += t.k
                continue
            E = b.mat(e)
            Y = np.linalg.solve(np.eye(t.k) - E, E)
            Y.flat[:: t.k + 1] += d / (1.0 + d)
            Y = 0.5 * (Y + Y.T)
            w, V = two.eigen(Y) if t.k == 2 else np.linalg.eigh(Y)
            w = np.where(w > _ZERO, w, 0.0)
            if zeros is not None:
                w[: zeros[cone]] = 0.0
            factors.append((U * root) @ (V * np.sqrt(w)))
            cone += 1
        moved = self._place(factors)
        return self._keep(moved.theta, moved)

    def remember(self, theta: np.ndarray, Us: list[np.ndarray], ds: list[np.ndarray]) -> Place:
        """The place of theta, eigenvectors and eigenvalues; what follows asks for it by its theta."""
        return self._keep(theta, Place(theta, Us, ds, self._cone_points(ds)))

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
        place = self._place([s * np.eye(t.k) for t in self.terms])
        return self._keep(place.theta, place).theta

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
        for c, X in zip(self.cones, place.X0, strict=True):
            X = X[: c.k, : c.k]
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
        g = np.empty(self.m)
        J = np.zeros((self.m, self.m))
        N_all, info = evaluation.derivatives()
        for b, G, N in zip(self.blocks, self.roots(place), N_all, strict=True):
            g[b.part] = b.dual(G.T @ N @ G)
            J[b.part, b.part] = b.congruence(G)
        H = J.T @ info @ J
        return QuadraticModel(g, 0.5 * (H + H.T), self.metric)

    def roots(self, place: Place) -> list[np.ndarray]:
        """R^-1 G per term: d D = (R^-1 G) E (R^-1 G)', in the basis of the evaluation."""
        return [Ri @ (U * np.sqrt(1.0 + d)) for Ri, U, d in zip(self.Ri, place.U, place.d, strict=True)]

    def step(self, place: Place, model: QuadraticModel, damping: float = RIDGE) -> Step:
        """Minimising step of the model, damped by so much of the metric, over the cone."""
        e, inside, M = self._unbounded(place, model, damping)
        if inside:
            return Step(e, max(0.0, float(-0.5 * (model.g @ e))), self._none)
        # every block has a unit of its own, to which its cone is blind
        ratio = self.block_unit / self.unit
        M *= np.outer(ratio, ratio)
        scaled = model.g * self.block_unit
        e, zeros = kernels.minimise_over_cone(
            place.X0 / self.cone_unit[:, None, None], scaled, M, self._starts, self._ks, MOST_ITERATIONS
        )
        decrease = float(-(scaled @ e) - 0.5 * (e @ M @ e))
        return Step(e * self.block_unit, max(0.0, decrease), zeros)

    def step_inside(self, place: Place, model: QuadraticModel) -> Step | None:
        """`step`, or None if the boundary of the cone is in its way."""
        e, inside, _ = self._unbounded(place, model, RIDGE)
        return Step(e, max(0.0, float(-0.5 * (model.g @ e))), self._none) if inside else None

    def _unbounded(
        self, place: Place, model: QuadraticModel, damping: float
    ) -> tuple[np.ndarray, bool, np.ndarray]:
        """Minimising step wherever it leads, whether it is inside the cone, and the Hessian in units."""
        e, M = np.empty(self.m), np.empty((self.m, self.m))
        H = np.ascontiguousarray(model.H)
        inside = kernels.newton_step(
            place.X0, model.g, H, self.unit, damping, RIDGE, self._starts, self._ks, e, M
        )
        return e, inside, M

    def slope(self, place: Place, model: QuadraticModel) -> float:
        """sqrt(2 x predicted decrease) with the metric of balanced data as the Hessian."""
        balanced = QuadraticModel(model.g, np.diag(model.metric), model.metric)
        return float(np.sqrt(2.0 * self.step(place, balanced, 0.0).decrease))

    def limit(self, e: np.ndarray) -> float:
        """Largest fraction of the step that shrinks I - rho to no less than a tenth in any direction."""
        fraction = 1.0
        for c in self.cones:
            largest = float(e[c.part.start])
            if c.k > 1:
                E = c.mat(e)
                if np.vdot(E, E) <= _LARGEST_DROP**2:
                    continue  # no eigenvalue is larger than the norm
                largest = float(np.linalg.eigvalsh(E)[-1])
            if largest > _LARGEST_DROP:
                fraction = min(fraction, _LARGEST_DROP / largest)
        return fraction


@cache
def _blocks(start: int, k: int, structure: Structure) -> tuple[ConeBlock, list[ConeBlock]]:
    """A term's block of a flat vector, and its cones."""
    block = ConeBlock(start, k, structure.entries(k))
    parts = structure.blocks(k)
    if len(parts) == 1:
        return block, [block]
    # effects that are not correlated with one another: a cone each
    return block, [ConeBlock(start + a, 1, [(0, 0)]) for (a,) in parts]
