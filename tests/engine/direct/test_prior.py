"""Objectives of models whose levels have a known covariance, against V = W^-1 + Z (A (x) D) Z' itself."""

from __future__ import annotations

import numpy as np
import problems
import pytest

from mme.engine.direct.objective import Objective

NAMES = ["pedigree_alone", "pedigree_and_herd", "pedigree_vector", "direct_and_maternal", "dense_covariance"]


def _deviance(design, theta, reml):
    """-2 log-likelihood from V, A from the inverse of the precision."""
    n = design.n
    V = np.diag(np.ones(n) if design.weights is None else 1.0 / design.weights)
    start = 0
    for term in design.terms:
        m = term.k * (term.k + 1) // 2
        lam = np.zeros((term.k, term.k))
        lam[np.triu_indices(term.k)] = theta[start : start + m]
        lam, start = lam.T, start + m
        A = (
            np.eye(term.n_levels)
            if term.relation is None
            else np.linalg.inv(term.relation.precision.toarray())
        )
        if term.Z is None:
            z = np.zeros((n, term.n_levels, term.k))
            z[np.arange(n), term.codes] = 1.0 if term.columns is None else term.columns
            z = z.reshape(n, -1)
        else:
            z = term.Z.toarray()
        V += z @ np.kron(A, lam @ lam.T) @ z.T
    X, y = design.X, design.y
    VX = np.linalg.solve(V, X)
    C = X.T @ VX
    r = y - X @ np.linalg.solve(C, VX.T @ y)
    nu = n - X.shape[1] if reml else n
    d = np.linalg.slogdet(V)[1] + nu * (1.0 + np.log(2 * np.pi * (r @ np.linalg.solve(V, r)) / nu))
    return d + (np.linalg.slogdet(C)[1] if reml else 0.0)


@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
@pytest.mark.parametrize("name", NAMES)
def test_deviance_of_the_definition(name, reml):
    design = problems.build(name)
    objective = Objective(design, reml)
    for label in ("interior", "interior 2", "zero"):
        theta = problems.thetas(design)[label]
        got = objective.evaluate(theta).deviance
        np.testing.assert_allclose(got, _deviance(design, theta, reml), rtol=1e-10, err_msg=label)
