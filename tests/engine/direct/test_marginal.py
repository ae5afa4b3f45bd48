"""The marginal model at one theta, against dense formulas over the rows, for every kind of design."""

from __future__ import annotations

import numpy as np
import oracle
import problems
import pytest

from mme.engine.covariance.factors import theta_to_lam
from mme.engine.direct.objective import Objective

# Points at which V is too ill conditioned for the dense formulas below, which solve with V itself.
TOO_LARGE = ("large", "large and tiny")


def _dense(design, theta):
    """V and the columns of every term, from the definitions."""
    columns, V = [], np.diag(1.0 / (np.ones(design.n) if design.weights is None else design.weights))
    for term, part in zip(design.terms, oracle.split(design, theta), strict=True):
        Z = oracle.dense_z(term, design.n).reshape(design.n, -1)
        lam = np.eye(term.n_levels * term.k) * part[0] if term.general and term.k == 1 else None
        if lam is None:
            lam = np.kron(np.eye(term.n_levels), theta_to_lam(part, term.k, term.covariance))
        columns.append(Z)
        V += Z @ lam @ lam.T @ Z.T
    return V, columns


def _close(got, expected, scale):
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-9 * scale)


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", list(problems.PROBLEMS))
def test_marginal_against_dense(name, reml):
    design = problems.build(name)
    points = problems.thetas(design)
    chosen = [label for label in points if label not in TOO_LARGE]
    objective = Objective(design, reml=reml)
    rng = np.random.default_rng(0)
    w = [rng.normal(size=(t.n_levels, t.k, 2)) for t in design.terms]
    for label in chosen:
        got = objective.at(points[label])
        V, columns = _dense(design, points[label])
        X = design.X[:, objective.eq.fixed.kept]
        X, R = np.linalg.qr(X)  # the dense solves are in an orthonormal basis: no digits lost to units
        inverse = np.linalg.inv(R)
        y = design.y if design.offset is None else design.y - design.offset
        VX, Vy = np.linalg.solve(V, X), np.linalg.solve(V, y)
        C = X.T @ VX
        beta = np.linalg.solve(C, X.T @ Vy)
        logdet = np.linalg.slogdet(V)[1] + (
            np.linalg.slogdet(C)[1] + 2 * np.log(np.abs(np.diag(R))).sum() if reml else 0.0
        )
        resid = y - X @ beta
        _close(got.logdet, logdet, 1.0)
        _close(X @ R @ got.beta, X @ beta, np.abs(y).max())
        root = got.root @ inverse
        _close(root.T @ root, C, np.max(np.abs(C), initial=0.0))
        _close(got.r2, resid @ np.linalg.solve(V, resid), 0.0)
        Vr = np.linalg.solve(V, resid)
        total = sum(Z @ u.reshape(-1, 2) for Z, u in zip(columns, w, strict=True))
        VZw = np.linalg.solve(V, total)
        times = got.times(w)
        for Z, zr, zx, zzw in zip(columns, got.zr, got.zx, times, strict=True):
            positive = np.abs(Z).T
            _close(zr.ravel(), Z.T @ Vr, np.max(positive @ np.abs(Vr)))
            zx = zx.reshape(Z.shape[1], X.shape[1]) @ inverse
            _close(zx, Z.T @ VX, np.max(positive @ np.abs(VX), initial=0.0))
            _close(zzw.reshape(-1, 2), Z.T @ VZw, np.max(positive @ np.abs(VZw)))
