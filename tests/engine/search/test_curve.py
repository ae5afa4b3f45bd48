"""The likelihood along structured covariances against dense formulas, inside, at zeros and at boundaries."""

from __future__ import annotations

import numpy as np
import pytest

from mme.engine.covariance.structure import PATTERNS, structure_of
from mme.engine.direct.careful import CarefulObjective
from mme.engine.direct.objective import Objective
from mme.engine.equations.design import Design, RandomTerm
from mme.engine.search.curve import Curve
from mme.engine.search.curved import minimise_curved

NAMES = (*PATTERNS, "rr(1)", "rr(2)")
K, Q, N = 3, 7, 70


def _design(name, crossed=False):
    rng = np.random.default_rng(11)
    g, f = rng.integers(0, Q, N), rng.integers(0, K, N)
    g[:Q] = np.arange(Q)
    X = np.column_stack([np.ones(N), rng.normal(size=N)])
    weights = rng.uniform(0.5, 2.0, size=N)
    u = rng.normal(size=(Q, 1)) + 0.7 * rng.normal(size=(Q, K))
    y = X @ [1.0, 0.5] + u[g, f] + rng.normal(size=N) / np.sqrt(weights)
    terms = [RandomTerm("g", g, Q, np.eye(K)[f], name, column_names=("a", "b", "c"))]
    if crossed:
        h = rng.integers(0, 9, N)
        h[:9] = np.arange(9)
        slope = np.column_stack([np.ones(N), 5.0 + X[:, 1]])
        terms.append(RandomTerm("h", h, 9, slope, column_names=("(Intercept)", "x")))
    return Design(y, X, tuple(terms), weights=weights)


class Dense:
    """Deviance, N and average information over the rows."""

    def __init__(self, design, Ds, reml):
        W = np.diag(1.0 / design.weights)
        self.G = []
        V = W.copy()
        for term, D in zip(design.terms, Ds, strict=True):
            Z = np.zeros((design.n, term.n_levels, term.k))
            Z[np.arange(design.n), term.codes] = term.columns
            self.G.append(Z)
            V += np.einsum("ila,ab,jlb->ij", Z, D, Z)
        X, y = design.X, design.y
        Vi = np.linalg.inv(V)
        XVX = X.T @ Vi @ X
        P = Vi - Vi @ X @ np.linalg.solve(XVX, X.T @ Vi)
        nu = design.n - X.shape[1] if reml else design.n
        self.r2 = y @ P @ y
        self.sigma2 = self.r2 / nu
        self.deviance = np.linalg.slogdet(V)[1] + nu * (1.0 + np.log(2.0 * np.pi * self.sigma2))
        if reml:
            self.deviance += np.linalg.slogdet(XVX)[1]
        self.P, self.M, self.e = P, P if reml else Vi, P @ y

    def slope(self, t):
        """N of a term."""
        Z = self.G[t]
        Ze = np.einsum("ila,i->la", Z, self.e)
        return np.einsum("ila,ij,jlb->ab", Z, self.M, Z) - Ze.T @ Ze / self.sigma2

    def information(self, directions):
        """Average information in directions (term, dD), the residual variance profiled out."""
        f = [np.einsum("ila,ab,jlb,j->i", self.G[t], E, self.G[t], self.e) for t, E in directions]
        F = np.column_stack(f)
        share = F.T @ self.e
        return (F.T @ self.P @ F - np.outer(share, share) / self.r2) / self.sigma2


def _point(curve, where):
    rng = np.random.default_rng(5)
    x = np.empty(curve.m)
    for share in curve.shares:
        for i, kind in enumerate(share.kinds, start=share.part.start):
            low, high = {"sd": (0.6, 1.2), "cor": (-0.2, 0.6)}.get(kind, (-1.0, 1.0))
            x[i] = rng.uniform(low, high)
            if where == "zero" and kind != "cor":
                x[i] = 0.0
            if where == "one zero" and kind != "cor" and i == share.part.start:
                x[i] = 0.0
            if where == "low" and kind == "cor":
                x[i] = curve.low[i]
            if where == "high" and kind == "cor":
                x[i] = curve.high[i]
    return x


def _covariances(design, curve, x):
    """D of every term, from parameters, by formulas of their own for terms without a structure."""
    out = []
    for t, (term, values) in enumerate(zip(design.terms, curve.parameters(x), strict=True)):
        if term.structure.curved:
            out.append(term.structure.covariance(values, term.k).value)
        else:
            inner = term.structure.lam(values, term.k)
            lam = np.linalg.solve(curve.eq.term_basis(t), inner)
            out.append(lam @ lam.T)
    return out


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("where", ["inside", "zero", "one zero", "low", "high"])
@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_deviance_gradient_and_hessian(name, crossed, where, reml):
    design = _design(name, crossed)
    objective = Objective(design, reml)
    curve = Curve.of(objective.eq)
    x = _point(curve, where)
    spot = curve.spot(x)
    here = objective.evaluate(spot.theta, 2, standard=True)
    g, H, gauss = curve.model(spot, here)
    dense = Dense(design, _covariances(design, curve, x), reml)
    np.testing.assert_allclose(here.deviance, dense.deviance, rtol=1e-10)
    np.testing.assert_allclose(here.sigma2, dense.sigma2, rtol=1e-9)
    # derivatives of D in the coordinates, by differences of what is known to be right (quadratic or smoother)
    h = 1e-5
    steps = np.eye(curve.m) * h
    D = lambda z: _covariances(design, curve, z)  # noqa: E731
    first = [[(a - b) / (2.0 * h) for a, b in zip(D(x + e), D(x - e), strict=True)] for e in steps]
    directions = [
        (t, first[i][t])
        for t, share in enumerate(curve.shares)
        for i in range(share.part.start, share.part.stop)
    ]
    slopes = [dense.slope(t) for t in range(len(design.terms))]
    expected = np.array([np.sum(slopes[t] * E) for t, E in directions])
    size = 1.0 + np.array([np.abs(slopes[t]).max() for t, _ in directions])
    assert np.max(np.abs(g - expected) / size) < 2e-7
    information = dense.information(directions)
    unit = np.sqrt(np.maximum(np.diag(information), 1e-2))
    # the same in few directions as by way of all entries
    direct = objective.evaluate(spot.theta, 2, standard=True, directions=spot.directions)
    for ours, theirs in zip(curve.model(spot, direct, along=True), (g, H, gauss), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-8 * (1.0 + np.abs(theirs).max()))
    np.testing.assert_allclose(gauss / unit**2, np.diag(information) / unit**2, atol=1e-6)
    bend = np.zeros((curve.m, curve.m))
    for share, (t, slope) in zip(curve.shares, enumerate(slopes), strict=True):
        for i in range(share.part.start, share.part.stop):
            for j in range(share.part.start, share.part.stop):
                a, b = np.eye(curve.m)[i] * 1e-3, np.eye(curve.m)[j] * 1e-3
                mixed = D(x + a + b)[t] - D(x + a - b)[t] - D(x - a + b)[t] + D(x - a - b)[t]
                bend[i, j] = np.sum(slope * mixed) / 4e-6
    # second differences know five digits
    scale = np.outer(unit, unit) + np.abs(bend).max()
    assert np.max(np.abs(H - information - bend) / scale) < 5e-5


@pytest.mark.parametrize("name", NAMES)
def test_factorizations_of_the_rows_say_the_same(name):
    design = _design(name, crossed=True)
    objective = Objective(design, True)
    careful = CarefulObjective(design, objective)
    curve = Curve.of(objective.eq)
    spot = curve.spot(_point(curve, "inside"))
    models = [
        curve.model(spot, o.evaluate(spot.theta, 2, standard=True, directions=spot.directions), along=True)
        for o in (objective, careful)
    ]
    for ours, theirs in zip(*models, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7 * np.abs(theirs).max())


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_no_neighbour_of_the_optimum_is_lower(name, reml):
    design = _design(name)
    objective = Objective(design, reml)
    curve = Curve.of(objective.eq)

    def evaluate(theta, order):
        return objective.evaluate(theta, order, standard=True)

    found = min(
        (minimise_curved(evaluate, start, curve) for start in curve.starts(_point(curve, "inside"), 5)),
        key=lambda minimum: minimum.evaluation.deviance,
    )
    assert found.converged
    best = found.evaluation.deviance
    x, rng = curve.coordinates(found.theta), np.random.default_rng(8)
    np.testing.assert_allclose(curve.spot(x).theta, found.theta, atol=1e-10)
    for size in (0.3, 0.03, 1e-3):
        for _ in range(40):
            there = curve.clipped(x + size * rng.normal(size=curve.m))
            D = _covariances(design, curve, there)
            assert Dense(design, D, reml).deviance > best - 1e-7


def test_a_deviation_of_zero_is_left_where_it_should_be_positive():
    design = _design("homcs")
    objective = Objective(design, True)
    curve = Curve.of(objective.eq)
    found = minimise_curved(
        lambda theta, order: objective.evaluate(theta, order, standard=True), np.zeros(curve.m), curve
    )
    other = minimise_curved(
        lambda theta, order: objective.evaluate(theta, order, standard=True), np.array([0.8, 0.5]), curve
    )
    assert found.converged
    np.testing.assert_allclose(found.evaluation.deviance, other.evaluation.deviance, atol=1e-7)


def test_held_coordinates_stay():
    design = _design("cs")
    objective = Objective(design, True)
    curve = Curve.of(objective.eq).hold(0, K, 0.25)
    found = minimise_curved(
        lambda theta, order: objective.evaluate(theta, order, standard=True), np.full(curve.m, 0.5), curve
    )
    lam = design.terms[0].structure.lam(found.theta, K)
    D = lam @ lam.T
    assert found.converged
    np.testing.assert_allclose(D[0, 1] / np.sqrt(D[0, 0] * D[1, 1]), 0.25, rtol=1e-12)


def test_structures_are_known_by_name():
    assert _design("ar1").terms[0].structure is structure_of("ar1")
