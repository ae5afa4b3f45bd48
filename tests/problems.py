"""Small random designs of every structure the engine knows; deterministic, a fraction of a second each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from mme.engine.covariance.factors import n_theta
from mme.engine.direct.objective import Objective
from mme.engine.direct.point import KeptColumns, Point
from mme.engine.equations.design import Design, RandomTerm
from mme.engine.equations.pedigree import relation_of_pedigree
from mme.engine.equations.relation import Relation, relation_of_covariance

__all__ = ["PROBLEMS", "build", "thetas"]

PROBLEMS: dict[str, Callable[[np.random.Generator], Design]] = {}


def problem(builder: Callable[[np.random.Generator], Design]) -> Callable[[np.random.Generator], Design]:
    """Register a builder under its own name."""
    PROBLEMS[builder.__name__] = builder
    return builder


def build(name: str) -> Design:
    """The design called `name`; the same arrays at every call."""
    return PROBLEMS[name](np.random.default_rng(sum(map(ord, name))))


# -- parts ---------------------------------------------------------------------------------------------------


def _codes(rng: np.random.Generator, n: int, q: int) -> np.ndarray:
    """Random codes in which every one of q levels occurs."""
    codes = np.concatenate([np.arange(q), rng.integers(0, q, n - q)])
    return rng.permutation(codes).astype(np.int32)


def _grouped(
    rng: np.random.Generator,
    name: str,
    codes: np.ndarray,
    k: int = 1,
    covariance: str = "full",
    intercept: bool = True,
) -> RandomTerm:
    """A grouped term with k columns: an intercept unless told otherwise, the rest standard normal."""
    q = int(codes.max()) + 1
    if k == 1 and intercept:
        return RandomTerm(name, codes, q)
    columns = rng.normal(size=(codes.size, k))
    if intercept:
        columns[:, 0] = 1.0
    return RandomTerm(name, codes, q, columns, covariance, column_names=tuple(f"{name}{j}" for j in range(k)))


def _general(name: str, Z: sp.sparray | sp.spmatrix) -> RandomTerm:
    return RandomTerm(name, None, Z.shape[1], Z=sp.csr_array(Z))


def _multi_membership(rng: np.random.Generator, n: int, q: int, empty: float = 0.0) -> sp.csr_array:
    """Each row belongs to one to three of q units with weights that sum to one; some rows to none."""
    Z = np.zeros((n, q))
    for i in range(n):
        members = rng.choice(q, size=int(rng.integers(1, 4)), replace=False)
        Z[i, members] = 1.0 / members.size
    Z[rng.random(n) < empty] = 0.0
    return sp.csr_array(Z)


def _design(
    rng: np.random.Generator,
    terms: list[RandomTerm],
    n: int,
    p: int = 2,
    weights: bool = False,
    offset: bool = False,
    X: np.ndarray | None = None,
) -> Design:
    """A design whose response has the effects of its terms in it."""
    if X is None:
        X = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
    w = rng.uniform(0.2, 5.0, n) if weights else None
    y = 3.0 + X @ rng.normal(size=X.shape[1]) / (1.0 + np.abs(X).max(initial=0.0))
    y = y + rng.normal(size=n) / (1.0 if w is None else np.sqrt(w))
    for term in terms:
        if term.relation is not None:
            y = y + term.times(term.related(0.8 * rng.normal(size=(term.n_levels, term.k))))
        elif term.Z is not None:
            y = y + term.Z @ rng.normal(size=term.n_levels)
        else:
            columns = np.ones((n, 1)) if term.columns is None else term.columns
            y = y + 0.8 * np.sum(columns * rng.normal(size=(term.n_levels, term.k))[term.codes], axis=1)
    off = rng.normal(size=n) * 2.0 if offset else None
    return Design(y if off is None else y + off, X, tuple(terms), w, off)


# -- one grouping factor -------------------------------------------------------------------------------------


@problem
def scalar(rng):
    return _design(rng, [_grouped(rng, "g", _codes(rng, 80, 12))], 80)


@problem
def scalar_balanced(rng):
    return _design(rng, [_grouped(rng, "g", np.repeat(np.arange(10, dtype=np.int32), 6))], 60, p=1)


@problem
def scalar_column(rng):
    """One column that is not an intercept: no pooling by group size."""
    return _design(rng, [_grouped(rng, "g", _codes(rng, 80, 12), 1, intercept=False)], 80)


@problem
def vector2(rng):
    return _design(rng, [_grouped(rng, "g", _codes(rng, 90, 14), 2)], 90)


@problem
def vector3(rng):
    return _design(rng, [_grouped(rng, "g", _codes(rng, 110, 12), 3)], 110, p=3)


@problem
def vector5(rng):
    return _design(rng, [_grouped(rng, "g", _codes(rng, 120, 9), 5)], 120)


@problem
def diagonal3(rng):
    return _design(rng, [_grouped(rng, "g", _codes(rng, 90, 12), 3, "diagonal")], 90)


@problem
def same_codes(rng):
    """(1 | g) + (0 + x | g): two terms written on one factor."""
    codes = _codes(rng, 90, 12)
    return _design(
        rng, [_grouped(rng, "g", codes), _grouped(rng, "g.1", codes.copy(), 1, intercept=False)], 90
    )


@problem
def same_codes_vector(rng):
    """A correlated pair and a separate scalar on one factor, with another factor crossed."""
    codes = _codes(rng, 110, 10)
    terms = [_grouped(rng, "g", codes, 2), _grouped(rng, "h", _codes(rng, 110, 7))]
    terms.append(_grouped(rng, "g.1", codes.copy(), 1, intercept=False))
    return _design(rng, terms, 110)


@problem
def single_row_groups(rng):
    """Half of the levels occur in one row only."""
    codes = np.concatenate([np.arange(20), rng.integers(0, 10, 60)]).astype(np.int32)
    return _design(rng, [_grouped(rng, "g", rng.permutation(codes), 2)], 80)


@problem
def heavy_tailed(rng):
    """Group sizes from 1 to about half of the rows."""
    prob = rng.lognormal(0, 2.0, 25)
    codes = np.concatenate([np.arange(25), rng.choice(25, 95, p=prob / prob.sum())]).astype(np.int32)
    return _design(rng, [_grouped(rng, "g", rng.permutation(codes))], 120)


# -- nested --------------------------------------------------------------------------------------------------


@problem
def nested2(rng):
    inner = _codes(rng, 110, 24)
    return _design(rng, [_grouped(rng, "a:b", inner), _grouped(rng, "a", inner // 4)], 110)


@problem
def nested3(rng):
    inner = _codes(rng, 130, 32)
    terms = [_grouped(rng, "a:b:c", inner), _grouped(rng, "a:b", inner // 2), _grouped(rng, "a", inner // 8)]
    return _design(rng, terms, 130)


@problem
def nested_vector(rng):
    inner = _codes(rng, 130, 20)
    return _design(rng, [_grouped(rng, "a", inner // 4, 2), _grouped(rng, "a:b", inner, 2)], 130)


# -- crossed -------------------------------------------------------------------------------------------------


@problem
def crossed2(rng):
    return _design(
        rng, [_grouped(rng, "g", _codes(rng, 100, 15)), _grouped(rng, "h", _codes(rng, 100, 9))], 100
    )


@problem
def crossed2_small_first(rng):
    """The factor with few levels written first: the engine reorders, the answer may not."""
    return _design(
        rng, [_grouped(rng, "h", _codes(rng, 100, 5)), _grouped(rng, "g", _codes(rng, 100, 20))], 100
    )


@problem
def crossed3(rng):
    terms = [_grouped(rng, f, _codes(rng, 120, q)) for f, q in (("g", 16), ("h", 9), ("i", 4))]
    return _design(rng, terms, 120)


@problem
def partly_crossed(rng):
    """Levels of h meet only neighbouring levels of g: the Schur complement is banded."""
    g = np.sort(_codes(rng, 120, 24))
    h = np.minimum((g // 2) + rng.integers(0, 2, 120), 11).astype(np.int32)
    h = np.unique(h, return_inverse=True)[1].astype(np.int32)
    return _design(rng, [_grouped(rng, "g", g), _grouped(rng, "h", h)], 120)


@problem
def crossed_vectors(rng):
    terms = [_grouped(rng, "g", _codes(rng, 140, 12), 2), _grouped(rng, "h", _codes(rng, 140, 8), 3)]
    return _design(rng, terms, 140)


@problem
def crossed_vector_scalar(rng):
    """A vector term with few levels, a scalar one with many, a diagonal one between."""
    terms = [
        _grouped(rng, "h", _codes(rng, 140, 8), 2),
        _grouped(rng, "g", _codes(rng, 140, 26)),
        _grouped(rng, "i", _codes(rng, 140, 6), 2, "diagonal"),
    ]
    return _design(rng, terms, 140)


@problem
def crossed8(rng):
    """Eight crossed factors."""
    terms = [_grouped(rng, f"f{j}", _codes(rng, 150, q)) for j, q in enumerate((3, 4, 5, 6, 8, 10, 12, 14))]
    return _design(rng, terms, 150)


# -- general variance components -----------------------------------------------------------------------------


@problem
def multi_membership(rng):
    """A grouped term and a general one with one to three non-zeros per row."""
    return _design(
        rng,
        [_grouped(rng, "g", _codes(rng, 100, 14)), _general("m", _multi_membership(rng, 100, 11))],
        100,
    )


@problem
def general_with_empty_rows(rng):
    """General terms with rows, and one column, of zeros."""
    Z = _multi_membership(rng, 90, 8, empty=0.4).toarray()
    Z[:, 3] = 0.0
    vector = _grouped(rng, "g", _codes(rng, 90, 10), 2)
    return _design(rng, [vector, _general("m", sp.csr_array(Z))], 90)


@problem
def only_general(rng):
    """No grouped term at all."""
    return _design(
        rng,
        [
            _general("m", _multi_membership(rng, 90, 13)),
            _general("d", sp.csr_array(rng.normal(size=(90, 4)))),
        ],
        90,
    )


@problem
def general_dense_column(rng):
    """Splines as a variance component: a dense Z beside a factor nested in nothing."""
    x = rng.uniform(-1, 1, 100)
    Z = np.maximum(x[:, None] - np.linspace(-0.9, 0.7, 9), 0.0)
    return _design(rng, [_grouped(rng, "g", _codes(rng, 100, 9)), _general("s(x)", sp.csr_array(Z))], 100)


# -- weights, offset, X --------------------------------------------------------------------------------------


@problem
def weighted(rng):
    terms = [_grouped(rng, "g", _codes(rng, 100, 12), 2), _grouped(rng, "h", _codes(rng, 100, 7))]
    return _design(rng, terms, 100, weights=True)


@problem
def weighted_scalar(rng):
    return _design(rng, [_grouped(rng, "g", _codes(rng, 80, 12))], 80, weights=True)


@problem
def with_offset(rng):
    return _design(rng, [_grouped(rng, "g", _codes(rng, 80, 12))], 80, offset=True, weights=True)


@problem
def wide_x(rng):
    terms = [_grouped(rng, "g", _codes(rng, 120, 14)), _grouped(rng, "h", _codes(rng, 120, 6))]
    return _design(rng, terms, 120, p=30)


@problem
def badly_scaled_x(rng):
    """A covariate with mean 1e6 and standard deviation 1 beside one in units of 1e-6."""
    X = np.column_stack([np.ones(90), 1e6 + rng.normal(size=90), 1e-6 * rng.normal(size=90)])
    return _design(rng, [_grouped(rng, "g", _codes(rng, 90, 12), 2)], 90, X=X)


@problem
def no_intercept(rng):
    X = rng.normal(size=(90, 2))
    return _design(
        rng, [_grouped(rng, "g", _codes(rng, 90, 12)), _grouped(rng, "h", _codes(rng, 90, 8))], 90, X=X
    )


@problem
def no_fixed_effects(rng):
    return _design(rng, [_grouped(rng, "g", _codes(rng, 70, 10), 2)], 70, X=np.empty((70, 0)))


# -- points at which the objective is compared ---------------------------------------------------------------


# -- levels with a known covariance --------------------------------------------------------------------------


def _pedigree(rng: np.random.Generator, q: int, founders: int) -> Relation:
    """Of q animals, some of whose parents are relatives or unknown."""
    sire, dam = np.full(q, -1), np.full(q, -1)
    for i in range(founders, q):
        sire[i], dam[i] = rng.choice(i, size=2, replace=False)
        if rng.random() < 0.2:
            dam[i] = -1
    return relation_of_pedigree(sire, dam)


def _related(
    rng: np.random.Generator, n: int, relation: Relation, k: int = 1, repeats: float = 1.2
) -> RandomTerm:
    """Records of some of the levels, the last ones, more than one of some."""
    with_records = int(n / repeats)
    first = max(0, relation.q - with_records)
    codes = rng.permutation(
        np.concatenate([np.arange(first, relation.q), rng.integers(first, relation.q, n)])[:n]
    )
    columns = None if k == 1 else np.column_stack([np.ones(n), rng.normal(size=(n, k - 1))])
    names = tuple(f"animal{j}" for j in range(k))
    return RandomTerm(
        "animal", codes.astype(np.int32), relation.q, columns, column_names=names, relation=relation
    )


@problem
def pedigree_alone(rng):
    return _design(rng, [_related(rng, 70, _pedigree(rng, 50, 8), repeats=2.0)], 70)


@problem
def pedigree_and_herd(rng):
    term = _related(rng, 90, _pedigree(rng, 60, 10), repeats=2.0)
    return _design(rng, [term, _grouped(rng, "herd", _codes(rng, 90, 7))], 90, weights=True)


@problem
def pedigree_vector(rng):
    """Two effects of an animal, an independent one of the same animals, and two of a herd."""
    term = _related(rng, 120, _pedigree(rng, 36, 8), k=2, repeats=4.0)
    _, codes = np.unique(term.codes, return_inverse=True)
    environment = RandomTerm("environment", codes.astype(np.int32), int(codes.max()) + 1)
    return _design(rng, [term, environment, _grouped(rng, "herd", _codes(rng, 120, 6), 2)], 120)


@problem
def direct_and_maternal(rng):
    """Effects of an animal and of its dam, correlated: columns of two levels in every row."""
    relation = _pedigree(rng, 40, 10)
    own, dam = rng.integers(10, 40, 110), rng.integers(0, 20, 110)
    rows = np.repeat(np.arange(110), 2)
    columns = np.column_stack([2 * own, 2 * dam + 1]).ravel()
    Z = sp.csr_array((np.ones(220), (rows, columns)), shape=(110, 80))
    term = RandomTerm(
        "animal", None, 40, Z=Z, effects=2, column_names=("direct", "maternal"), relation=relation
    )
    return _design(rng, [term, _grouped(rng, "herd", _codes(rng, 110, 9))], 110)


@problem
def dense_covariance(rng):
    M = rng.normal(size=(25, 40))
    relation = relation_of_covariance(1e3 * (M @ M.T / 40.0))
    term = _related(rng, 60, relation, repeats=2.5)
    return _design(rng, [term, _grouped(rng, "g", _codes(rng, 60, 5))], 60)


@problem
def related_and_more_levels(rng):
    """An independent factor that is eliminated, with two effects, beside related levels with two."""
    term = _related(rng, 130, _pedigree(rng, 14, 5), k=2, repeats=10.0)
    return _design(rng, [term, _grouped(rng, "g", _codes(rng, 130, 20), 2)], 130, weights=True)


def _interior(term: RandomTerm, rng: np.random.Generator) -> np.ndarray:
    """A well conditioned random factor of one term."""
    if term.k == 1:
        return rng.uniform(0.3, 1.5, 1)
    if term.covariance == "diagonal":
        return rng.uniform(0.3, 1.5, term.k)
    lam = np.tril(0.4 * rng.normal(size=(term.k, term.k)), -1) + np.diag(rng.uniform(0.3, 1.5, term.k))
    return np.concatenate([lam[b:, b] for b in range(term.k)])


def thetas(design: Design) -> dict[str, np.ndarray]:
    """Named flat theta of every kind that is special to some part of the engine."""
    rng = np.random.default_rng(design.n)
    size = [n_theta(t.k, t.covariance) for t in design.terms]
    parts = [_interior(t, rng) for t in design.terms]
    points = {
        "interior": np.concatenate(parts),
        "interior 2": np.concatenate([_interior(t, rng) for t in design.terms]),
        "negative": -np.concatenate(parts),
        "zero": np.zeros(sum(size)),
        "large": 1e3 * np.concatenate(parts),
        "tiny": 1e-6 * np.concatenate(parts),
    }
    if len(parts) > 1:
        for t, term in enumerate(design.terms[:4]):
            one = [np.zeros_like(v) if j == t else v for j, v in enumerate(parts)]
            points[f"zero {term.name}"] = np.concatenate(one)
        mixed = [v * (1e3 if j % 2 else 1e-6) for j, v in enumerate(parts)]
        points["large and tiny"] = np.concatenate(mixed)
    for t, term in enumerate(design.terms):
        if term.k == 1:
            continue
        singular = {}
        if term.covariance == "diagonal":
            lam = np.diag(parts[t])
            singular["zero first"] = lam * (np.arange(term.k) > 0)
            singular["zero last"] = lam * (np.arange(term.k) < term.k - 1)
        else:
            lam = np.zeros((term.k, term.k))
            for b in range(term.k):
                lam[b:, b] = parts[t][: term.k - b] if b == 0 else rng.uniform(0.2, 0.9, term.k - b)
            zero_row = lam.copy()
            zero_row[0] = 0.0
            zero_column = lam.copy()
            zero_column[:, 0] = 0.0
            rank_one = np.zeros_like(lam)
            rank_one[:, 0] = lam[:, 0]
            last_pivot = lam.copy()
            last_pivot[-1, -1] = 0.0
            singular = {
                "zero row": zero_row,
                "zero column": zero_column,
                "rank one": rank_one,
                "zero last pivot": last_pivot,
            }
        for label, factor in singular.items():
            free = (
                np.diag(factor)
                if term.covariance == "diagonal"
                else np.concatenate([factor[b:, b] for b in range(term.k)])
            )
            point = [free if j == t else v for j, v in enumerate(parts)]
            points[f"{term.name} {label}"] = np.concatenate(point)
    return points


# crossed and partly nested ones, vector terms, general terms, weights, wide and empty X
SOLVED = [
    "scalar",
    "vector3",
    "diagonal3",
    "same_codes_vector",
    "nested3",
    "nested_vector",
    "crossed2",
    "crossed3",
    "crossed_vectors",
    "crossed_vector_scalar",
    "multi_membership",
    "only_general",
    "weighted",
    "wide_x",
    "no_fixed_effects",
]
SOLVED_SLOWLY = {"crossed_vector_scalar", "crossed_vectors", "nested_vector"}


def factored(name: str, which: str = "interior") -> tuple[Design, Objective, np.ndarray, list, Point]:
    """A problem, its objective, a theta of `thetas`, its factors, and the likelihood there in the basis."""
    design = build(name)
    objective = Objective(design)
    theta = thetas(design)[which]
    lams = [place.structure.lam(theta[place.theta], place.k) for place in objective.eq.layout.places]
    kept = KeptColumns(design, objective.eq.fixed.kept)
    return design, objective, theta, lams, Point(objective, design, kept, lams, standard=True)
