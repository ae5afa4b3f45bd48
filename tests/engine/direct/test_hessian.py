"""Exact second derivatives and the levels' conditional covariances, against dense formulas over the rows."""

from __future__ import annotations

import numpy as np
import oracle
import problems
import pytest

from mme.engine.covariance.derivatives import congruence
from mme.engine.covariance.factors import entries, theta_to_lam
from mme.engine.direct.hessian import deviance_hessian, entry_directions, second_derivatives
from mme.engine.direct.objective import Objective
from mme.engine.direct.point import KeptColumns, Point
from mme.engine.direct.second import Vectors
from mme.engine.equations.design import Design, RandomTerm


class Dense:
    """The model at one theta, whitened by the singular vectors of Z lam: V^-1 = U diag(1 / (1 + s^2)) U'."""

    def __init__(self, design: Design, theta: np.ndarray, reml: bool) -> None:
        n = design.n
        root_w = np.ones(n) if design.weights is None else np.sqrt(design.weights)
        self.lams, columns, B, self.terms = [], [], [], design.terms
        for term, part in zip(design.terms, oracle.split(design, theta), strict=True):
            lam = part.reshape(1, 1) if term.k == 1 else theta_to_lam(part, term.k, term.covariance)
            Z = oracle.dense_z(term, n) * root_w[:, None, None]
            self.lams.append(lam)
            columns.append(Z)
            B.append((Z @ lam).reshape(n, -1))
        U, s, _ = np.linalg.svd(np.hstack(B), full_matrices=True)
        weight = np.ones(n)
        weight[: s.size] = 1.0 / np.sqrt(1.0 + s * s)
        turned = (U * weight).T
        self.Z = [np.einsum("ij,jqk->iqk", turned, Z) for Z in columns]
        y = design.y if design.offset is None else design.y - design.offset
        y = turned @ (root_w * y)
        X = turned @ (root_w[:, None] * design.X)
        scale = np.linalg.norm(X, axis=0)
        W, sv, _ = np.linalg.svd(X / np.where(scale > 0, scale, 1.0), full_matrices=False)
        self.Q = W[:, sv > 1e-9 * max(1.0, sv.max(initial=0.0))]
        self.P = np.eye(n) - self.Q @ self.Q.T
        self.e = self.P @ y
        self.r2 = float(self.e @ self.e)
        self.nu = n - self.Q.shape[1] if reml else n
        self.middle = self.P if reml else np.eye(n)

    def hessian(self, directions: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Second derivatives in D and sigma2, and the size of what they are differences of."""
        V = [np.einsum("iqa,ab,jqb->ij", self.Z[t], E, self.Z[t], optimize=True) for t, E in directions]
        m, s2 = len(V), self.r2 / self.nu
        H, size = np.zeros((m + 1, m + 1)), np.zeros(m + 1)
        MV = [self.middle @ v for v in V]
        for i in range(m):
            for j in range(m):
                trace = np.sum(MV[i] * MV[j].T)
                H[i, j] = -trace + 2.0 * self.e @ V[i] @ self.P @ V[j] @ self.e / s2
            size[i] = np.sqrt(np.sum(MV[i] * MV[i].T) + 2.0 * self.e @ V[i] @ self.P @ V[i] @ self.e / s2)
            H[i, m] = H[m, i] = self.e @ V[i] @ self.e / s2**2
        H[m, m] = self.nu / s2**2
        size[m] = np.sqrt(H[m, m])
        return H, size

    def covariances(self, t: int) -> np.ndarray:
        """D - D (Z'V^-1 Z)_ll D of every level of term t; of T v where its levels have a known covariance."""
        D = self.lams[t] @ self.lams[t].T
        if self.terms[t].relation is not None:
            T, Z = oracle.root_of(self.terms[t]), self.Z[t]
            whole = np.einsum("lm,ab->lamb", np.eye(len(T)), D)
            G = np.einsum("iqa,ipb->qapb", Z, Z, optimize=True)
            whole = whole - np.einsum("ab,qbpc,cd->qapd", D, G, D, optimize=True)
            return np.einsum("lq,qapb,lp->lab", T, whole, T, optimize=True)
        G = np.einsum("iqa,iqb->qab", self.Z[t], self.Z[t])
        return D - D @ G @ D


def _directions(design: Design) -> list[tuple[int, np.ndarray]]:
    out = []
    for t, term in enumerate(design.terms):
        out += entry_directions(t, entries(term.k, term.covariance), term.k)
    return out


def _point(design: Design, objective: Objective, theta: np.ndarray, standard: bool = False) -> Point:
    lams = [theta_to_lam(theta[p.theta], p.k, p.structure) for p in objective.eq.layout.places]
    return Point(objective, design, KeptColumns(design, objective.eq.fixed.kept), lams, standard)


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", list(problems.PROBLEMS))
def test_hessian_of_every_design(name, reml):
    design = problems.build(name)
    objective = Objective(design, reml=reml)
    directions = _directions(design)
    for label, theta in problems.thetas(design).items():
        expected, size = Dense(design, theta, reml).hessian(directions)
        point = _point(design, objective, theta)
        second = second_derivatives(point, directions, reml)
        got = deviance_hessian(second, point.r2(), point.nu(reml))
        np.testing.assert_allclose(
            got / np.outer(size, size), expected / np.outer(size, size), atol=1e-6, rtol=0, err_msg=label
        )


@pytest.mark.parametrize("solver", ["dense", "cholmod", "superlu"])
@pytest.mark.parametrize("name", ["crossed3", "crossed_vectors", "nested3", "nested_vector", "only_general"])
def test_hessian_of_every_factorization(name, solver):
    if solver == "cholmod":
        pytest.importorskip("sksparse", reason="CHOLMOD is an extra")
    design = problems.build(name)
    objective = Objective(design, factorization=solver)
    directions = _directions(design)
    theta = problems.thetas(design)["interior"]
    expected, size = Dense(design, theta, True).hessian(directions)
    point = _point(design, objective, theta)
    got = deviance_hessian(second_derivatives(point, directions, True), point.r2(), point.nu(True))
    np.testing.assert_allclose(got / np.outer(size, size), expected / np.outer(size, size), atol=1e-9, rtol=0)
    for t, blocks in enumerate(point.conditional_covariances()):
        np.testing.assert_allclose(blocks, Dense(design, theta, True).covariances(t), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["vector2", "crossed_vectors", "wide_x", "weighted", "nested_vector"])
def test_hessian_in_the_basis_of_the_equations(name):
    """R D R' in place of D: the same second derivatives, carried over."""
    design = problems.build(name)
    objective = Objective(design)
    directions = _directions(design)
    theta = problems.thetas(design)["interior"]
    m = len(directions)
    K = np.zeros((m + 1, m + 1))
    K[m, m] = 1.0
    for t, place in enumerate(objective.eq.layout.places):
        K[place.theta, place.theta] = congruence(objective.eq.term_basis(t), place.entries)
    inner, own = (_point(design, objective, theta, standard) for standard in (True, False))
    H = deviance_hessian(second_derivatives(inner, directions, True), inner.r2(), inner.nu(True))
    expected, size = Dense(design, theta, True).hessian(directions)
    np.testing.assert_allclose(
        (K.T @ H @ K) / np.outer(size, size), expected / np.outer(size, size), atol=1e-9, rtol=0
    )
    for t, (a, b) in enumerate(
        zip(inner.conditional_covariances(), own.conditional_covariances(), strict=True)
    ):
        R = objective.eq.term_basis(t)
        np.testing.assert_allclose(np.linalg.solve(R, np.linalg.solve(R, a).transpose(0, 2, 1)), b, rtol=1e-9)


@pytest.mark.parametrize("name", list(problems.PROBLEMS))
def test_conditional_covariances_of_every_design(name):
    design = problems.build(name)
    objective = Objective(design)
    for label, theta in problems.thetas(design).items():
        if "large" in label:  # the dense formula is a difference of large numbers there
            continue
        dense = Dense(design, theta, True)
        for t, blocks in enumerate(_point(design, objective, theta).conditional_covariances()):
            size = max(float(np.abs(dense.lams[t]).max()) ** 2, 1e-300)
            np.testing.assert_allclose(
                blocks / size, dense.covariances(t) / size, atol=1e-8, rtol=0, err_msg=label
            )


def test_hessian_at_other_fixed_effects():
    """The residual of any b: quadratic forms of r = y - X b."""
    design = problems.build("crossed_vectors")
    objective = Objective(design)
    directions = _directions(design)
    theta = problems.thetas(design)["interior"]
    point = _point(design, objective, theta)
    beta = point.beta + np.arange(1.0, design.p + 1)
    second = second_derivatives(point, directions, True, beta)
    dense = Dense(design, theta, True)
    root_w = np.ones(design.n) if design.weights is None else np.sqrt(design.weights)
    V = np.eye(design.n)
    columns = [oracle.dense_z(t, design.n) * root_w[:, None, None] for t in design.terms]
    for Z, lam in zip(columns, dense.lams, strict=True):
        B = (Z @ lam).reshape(design.n, -1)
        V += B @ B.T
    r = np.linalg.solve(V, root_w * (design.y - design.X @ beta))
    Vi = [np.einsum("iqa,ab,jqb->ij", columns[t], E, columns[t], optimize=True) for t, E in directions]
    np.testing.assert_allclose(second.slope, [r @ v @ r for v in Vi], rtol=1e-9)
    inner = np.array([v @ r for v in Vi])
    np.testing.assert_allclose(second.curve, inner @ np.linalg.solve(V, inner.T), rtol=1e-8, atol=1e-9)


def test_unconnected_levels_share_a_vector():
    """Classes in schools: as many vectors as a school has classes; crossed factors: one for every level."""
    rng = np.random.default_rng(3)
    school = np.repeat(np.arange(30), 20)
    room = school * 4 + np.tile(np.arange(20) % 4, 30)
    pupil = np.arange(600) // 2
    y, X = rng.normal(size=600), np.ones((600, 1))
    terms = [RandomTerm(n, c, int(c.max()) + 1) for n, c in (("s", school), ("r", room), ("p", pupil))]
    assert Vectors.of(Objective(Design(y, X, tuple(terms))).eq).count == 1 + 4
    item = rng.integers(0, 7, 600)
    crossed = (terms[2], RandomTerm("i", item, 7))
    assert Vectors.of(Objective(Design(y, X, crossed)).eq).count == 7
