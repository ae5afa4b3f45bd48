"""Variances of linear predictors against the dense inverse of the mixed-model equations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from oracle import dense_z
from problems import SOLVED, SOLVED_SLOWLY, build, factored, thetas
from scipy.linalg import block_diag
from support import mark_slow

from mme.engine.equations import prediction
from mme.engine.equations.points import points_of
from mme.engine.equations.prediction import prediction_variances
from mme.engine.iterative.objective import IterativeObjective


def _rows(design, rng, n=60):
    """Levels that need not have met, some unseen; columns that are those of no row of the fit."""
    terms, levels = [], {}
    for term in design.terms:
        if term.general:
            Z = rng.normal(size=(n, term.n_levels)) * (rng.uniform(size=(n, term.n_levels)) < 0.2)
            terms.append(sp.csr_array(Z))
            continue
        factor = np.asarray(term.codes).tobytes()  # terms of one factor have one level
        levels.setdefault(factor, rng.integers(-1, term.n_levels, n))
        terms.append((levels[factor], None if term.columns is None else rng.normal(size=(n, term.k))))
    return terms


def _dense(design, terms, n):
    """Z of the rows, over the columns of all terms."""
    parts = []
    for term, given in zip(design.terms, terms, strict=True):
        if given is None:
            parts.append(np.zeros((n, term.n_effects)))
        elif term.general:
            parts.append(given.toarray())
        else:
            codes, columns = given
            Z, seen = np.zeros((n, term.n_levels, term.k)), np.flatnonzero(codes >= 0)
            Z[seen, codes[seen]] = 1.0 if columns is None else columns[seen]
            parts.append(Z.reshape(n, -1))
    return np.hstack(parts)


def _oracle(design, lams, X, x, z):
    """x'b + z'u: x'Var(b)x + ... from V, over sigma2."""
    n, Z = design.n, np.hstack([dense_z(term, design.n).reshape(design.n, -1) for term in design.terms])
    w = np.ones(n) if design.weights is None else design.weights
    D = block_diag(
        *[np.kron(np.eye(t.n_levels), lam @ lam.T) for t, lam in zip(design.terms, lams, strict=True)]
    )
    Vi = np.linalg.inv(np.diag(1.0 / w) + Z @ D @ Z.T)
    a = x - z @ D @ Z.T @ Vi @ X
    fixed = np.einsum("np,pq,nq->n", a, np.linalg.inv(X.T @ Vi @ X), a)
    return fixed + np.einsum("na,ab,nb->n", z, D - D @ Z.T @ Vi @ Z @ D, z)


@pytest.mark.parametrize("name", mark_slow(SOLVED, lambda name: name in SOLVED_SLOWLY))
def test_variances_are_those_of_the_dense_inverse(name, monkeypatch):
    design, objective, theta, lams, exact = factored(name)
    rng = np.random.default_rng(7)
    eq, terms = objective.eq, _rows(design, rng)
    X = design.X[:, eq.fixed.kept]
    x = X[rng.integers(0, design.n, 60)]
    expected = _oracle(design, lams, X, x, _dense(design, terms, 60))
    points = points_of(eq, x, terms)
    inverse = exact.prior_inverse()
    got = prediction_variances(eq, inverse, points)
    np.testing.assert_allclose(got, expected, rtol=1e-8)
    # a part of the terms
    some = [term if t % 2 else None for t, term in enumerate(terms)]
    expected = _oracle(design, lams, X, x, _dense(design, some, 60))
    np.testing.assert_allclose(prediction_variances(eq, inverse, points_of(eq, x, some)), expected, rtol=1e-8)
    # without a factor, and in several batches
    mine = IterativeObjective(eq).at(theta, 4).prior_inverse()
    np.testing.assert_allclose(prediction_variances(eq, mine, points), got, rtol=1e-5)
    monkeypatch.setattr(prediction, "_BATCH", 3 * max(1, eq.layout.q2))
    np.testing.assert_allclose(prediction_variances(eq, inverse, points), got, rtol=1e-11)
    parts = [prediction_variances(eq, inverse, points.part(a, a + 20)) for a in (0, 20, 40)]
    np.testing.assert_allclose(np.concatenate(parts), got, rtol=1e-11)


@pytest.mark.parametrize("which", ["zero", "slope rank one"])
def test_singular_covariances(which):
    name = "vector2"
    design = build(name)
    which = next(label for label in thetas(design) if label == which or label.endswith("rank one"))
    design, objective, _, lams, exact = factored(name, which)
    rng = np.random.default_rng(8)
    terms = _rows(design, rng)
    x = design.X[rng.integers(0, design.n, 60)]
    expected = _oracle(design, lams, design.X, x, _dense(design, terms, 60))
    got = prediction_variances(objective.eq, exact.prior_inverse(), points_of(objective.eq, x, terms))
    np.testing.assert_allclose(got, expected, rtol=1e-8)
