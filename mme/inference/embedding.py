"""Whether one model lies in another, told from the columns and covariances that they span, never from names.

Means: the fixed columns of the smaller model, and the difference of the offsets, in the span of the larger's.
Covariances: V is linear in the entries of every term's D, V = W^-1 + sum D_i G_i; all G_i of the smaller
model must be combinations of the larger's (and of W^-1), which products of the G with a random vector tell
with probability one; and covariances must be mapped to covariances.  So (1 | a) + (1 | a:b) is found in
(b | a).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..engine.equations.design import Design, RandomTerm
from ..engine.equations.equations import Equations
from ..engine.equations.fixed import orthonormalise
from .patterns import has_patterns, lies_within

__all__ = ["Containment", "Embedding", "fixed_within", "random_within"]

_SPANNED = 1e-7  # relative distance of products of G_i with a vector from those of the larger model's
_RANK = 1e-10
_ROUNDING = 1e-12
_NEGATIVE = 1e-6  # eigenvalue, relative to the largest, that rounding explains
_DRAWS = 8


@dataclass(frozen=True, eq=False)
class Embedding:
    """Covariances of the smaller model in the larger one's columns, by the entries of the smaller's R D R'.

    Attributes
    ----------
    maps : list of ndarray, shapes (m0, k_t, k_t)
        R D R' of the larger model's terms, for a unit of each entry.
    residual : ndarray, shape (m0,)
        The share of W^-1.
    """

    maps: list[np.ndarray]
    residual: np.ndarray

    def of(self, D: np.ndarray) -> tuple[list[np.ndarray], float]:
        """R D R' of every term of the larger model, and the factor by which the residual variance grows."""
        factor = 1.0 + float(self.residual @ D)
        return [np.tensordot(D, m, axes=1) / factor for m in self.maps], factor


@dataclass(frozen=True, eq=False)
class Containment:
    """Whether the covariances of one model are some of another's.

    Attributes
    ----------
    nested : bool or None
        None where that cannot be told.
    why : str
        Why not.
    embedding : Embedding or None
        If they are, and no structure is among them.
    """

    nested: bool | None
    why: str = ""
    embedding: Embedding | None = None


def fixed_within(smaller: Design, kept0: np.ndarray, larger: Design, kept1: np.ndarray) -> bool:
    """Whether the means of one model are some of another's.

    Parameters
    ----------
    smaller, larger : Design
        Of the same rows.
    kept0, kept1 : ndarray of bool
        Columns that were not dropped.
    """
    known = [np.zeros(smaller.n) if d.offset is None else d.offset for d in (smaller, larger)]
    shift = (
        np.zeros(smaller.n)
        if np.allclose(known[0], known[1], rtol=_ROUNDING, atol=0.0)
        else known[0] - known[1]
    )
    columns = [larger.X[:, kept1], smaller.X[:, kept0], shift]
    kept = orthonormalise(np.column_stack(columns), smaller.y, None)[2].kept
    return not kept[int(kept1.sum()) :].any()


def random_within(smaller: Design, eq0: Equations, larger: Design, eq1: Equations) -> Containment:
    """Whether the covariances of one model are some of another's.

    Parameters
    ----------
    smaller, larger : Design
        Of the same rows and weights.
    eq0, eq1 : Equations
        Their cross-products, for the bases.
    """
    if has_patterns(smaller) or has_patterns(larger):
        if lies_within(smaller, larger):
            return Containment(True)
        return Containment(
            None, "a covariance structure is matched by the same effects of the same groups alone"
        )
    v = np.random.default_rng(0).normal(size=smaller.n)
    theirs = _products(smaller, eq0, v)
    ours = np.column_stack([_products(larger, eq1, v), v if larger.weights is None else v / larger.weights])
    size = np.linalg.norm(ours, axis=0)
    U, s, Vt = np.linalg.svd(ours / size, full_matrices=False)
    rank = int(np.sum(s > _RANK * s[0]))
    inside = U[:, :rank].T @ theirs
    distance = np.linalg.norm(theirs - U[:, :rank] @ inside, axis=0)
    if np.any(distance > _SPANNED * np.linalg.norm(theirs, axis=0)):
        return Containment(False, "random effects of the smaller model are not among the larger's")
    coefficients = (Vt[:rank].T @ (inside / s[:rank, None])) / size[:, None]
    maps = []
    for place in eq1.layout.places:
        matrix = np.zeros((coefficients.shape[1], place.k, place.k))
        for row, (a, b) in zip(coefficients[place.theta], place.entries, strict=True):
            matrix[:, a, b] = matrix[:, b, a] = row
        maps.append(matrix)
    embedding = Embedding(maps, coefficients[-1])
    if _keeps_covariances(embedding, eq0):
        return Containment(True, embedding=embedding)
    if rank < ours.shape[1]:
        return Containment(
            None,
            "the larger model's covariances are not told apart by the data, so that none could be matched",
        )
    return Containment(False, "covariances of the smaller model would need negative variances in the larger")


def _products(design: Design, eq: Equations, v: np.ndarray) -> np.ndarray:
    """G_i v of every entry of every term, in the equations' basis, shape (n, m)."""
    out = []
    for t, (term, place) in enumerate(zip(design.terms, eq.layout.places, strict=True)):
        back = np.linalg.inv(eq.term_basis(t))
        u = _transposed(term, v) @ back
        if term.relation is not None:
            u = term.relation.times(u)
        for a, b in place.entries:
            w = np.zeros_like(u)
            w[:, a] += u[:, b]
            if a != b:
                w[:, b] += u[:, a]
            out.append(term.times(w @ back.T))
    return np.column_stack(out)


def _transposed(term: RandomTerm, v: np.ndarray) -> np.ndarray:
    """Z'v, shape (n_levels, k)."""
    if term.Z is not None:
        return np.reshape(term.Z.T @ v, (-1, term.k))
    assert term.codes is not None
    columns: Sequence[np.ndarray] = [v] if term.columns is None else [c * v for c in term.columns.T]
    return np.column_stack([np.bincount(term.codes, weights=c, minlength=term.n_levels) for c in columns])


def _keeps_covariances(embedding: Embedding, eq0: Equations) -> bool:
    """Whether positive semidefinite D of the smaller model give such of the larger: tried on random ones."""
    rng = np.random.default_rng(1)
    m = embedding.residual.size
    for place in eq0.layout.places:
        for block in map(list, place.structure.blocks(place.k)):
            for _ in range(_DRAWS if len(block) > 1 else 1):
                x = np.zeros(place.k)
                x[block] = rng.normal(size=len(block)) if len(block) > 1 else 1.0
                D = np.zeros(m)
                D[place.theta] = [x[a] * x[b] for a, b in place.entries]
                matrices = [np.tensordot(D, matrix, axes=1) for matrix in embedding.maps]
                values = [np.linalg.eigvalsh(matrix) for matrix in matrices] + [
                    np.array([embedding.residual @ D])
                ]
                largest = max(float(np.max(np.abs(w))) for w in values)
                if any(np.min(w) < -_NEGATIVE * largest for w in values):
                    return False
    return True
