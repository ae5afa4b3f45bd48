"""Residual covariances written out row by row, and the dense likelihood with them: the oracle of structures.

V = R + Z D Z' is formed over all rows; nothing of parts, whitening or analytic derivatives is used.
"""

from __future__ import annotations

import numpy as np
from oracle import dense_z

from mme.engine.covariance.correlations import AutoRegressive, CompoundSymmetric, Toeplitz, Unstructured
from mme.engine.covariance.residual import LogLinear, ResidualStructure, Strata
from mme.engine.equations.design import Design, RandomTerm

__all__ = ["PROBLEMS", "dense_deviance", "dense_r", "dense_v", "problem"]


def dense_r(structure: ResidualStructure, phi: np.ndarray) -> np.ndarray:
    """R by its definition; phi may be complex."""
    n = structure.n
    sd = np.ones(n, dtype=phi.dtype)
    at = 0
    for part in structure.variances:
        own = phi[at : at + len(part.names)]
        at += len(part.names)
        if isinstance(part, Strata):
            sd = sd * np.sqrt(np.r_[1.0, own])[part.codes]
        elif isinstance(part, LogLinear):
            sd = sd * np.exp(0.5 * part.x @ own)
    rho = phi[at:]
    part = structure.correlation
    if part is None:
        C = np.eye(n)
    elif isinstance(part, AutoRegressive):
        C = rho[0] ** _apart(part.times)
    elif isinstance(part, CompoundSymmetric):
        C = np.where(np.eye(n) == 1.0, 1.0, rho[0])
    elif isinstance(part, Toeplitz):
        C = np.r_[1.0, rho][np.minimum(_apart(part.positions), rho.size)]
    else:
        assert isinstance(part, Unstructured)
        S = np.ones((len(part.levels),) * 2, dtype=phi.dtype)
        for value, (i, j) in zip(rho, part.entries, strict=True):
            S[i, j] = S[j, i] = value
        C = S[np.ix_(part.visits, part.visits)]
    if part is not None:
        C = np.where(structure.codes[:, None] == structure.codes, C, 0.0)
    R = C * np.outer(sd, sd)
    if structure.weights is not None:
        root = np.sqrt(structure.weights)
        R = R / np.outer(root, root)
    return R


def _apart(values: np.ndarray) -> np.ndarray:
    return np.abs(np.subtract.outer(values, values))


def dense_v(
    design: Design, structure: ResidualStructure, Ds: list[np.ndarray], phi: np.ndarray
) -> np.ndarray:
    """V = R + Z D Z'."""
    V = dense_r(structure, phi)
    for term, D in zip(design.terms, Ds, strict=True):
        z = dense_z(term, design.n)
        for level in range(term.n_levels):
            V = V + z[:, level] @ D @ z[:, level].T
    return V


def dense_deviance(
    design: Design, structure: ResidualStructure, Ds: list[np.ndarray], phi: np.ndarray, reml: bool
) -> float:
    """-2 (restricted) log-likelihood, fixed effects and sigma2 profiled out."""
    V = dense_v(design, structure, Ds, phi)
    X, y = design.X, design.y if design.offset is None else design.y - design.offset
    L = np.linalg.cholesky(V)
    HX, Hy = np.linalg.solve(L, X), np.linalg.solve(L, y)
    Q, R = np.linalg.qr(HX)
    r = Hy - Q @ (Q.T @ Hy)
    nu = design.n - X.shape[1] if reml else design.n
    d = 2.0 * np.sum(np.log(np.diag(L))) + nu * (1.0 + np.log(2.0 * np.pi * (r @ r) / nu))
    return float(d + (2.0 * np.sum(np.log(np.abs(np.diag(R)))) if reml else 0.0))


def problem(name: str, subjects: int = 9) -> tuple[Design, ResidualStructure]:
    """A small unbalanced longitudinal design with the structure of that name."""
    rng = np.random.default_rng(5)
    visits = 4
    codes = np.repeat(np.arange(subjects), visits)
    visit = np.tile(np.arange(visits), subjects)
    keep = rng.uniform(size=codes.size) < 0.85
    keep[: 2 * visits] = True
    codes, visit = codes[keep], visit[keep]
    order = rng.permutation(codes.size)  # subjects are not together
    codes, visit = codes[order], visit[order]
    n = codes.size
    times = visit + rng.uniform(0.0, 0.4, n)
    x = rng.normal(size=n)
    stratum = codes % 3
    item = rng.integers(0, 4, n)
    X = np.column_stack([np.ones(n), x, visit])
    y = X @ [1.0, 0.5, -0.3] + rng.normal(size=subjects)[codes] + rng.normal(size=n) * (1.0 + 0.5 * stratum)
    intercept = RandomTerm("g", codes, subjects)
    slope = RandomTerm("g", codes, subjects, np.column_stack([np.ones(n), times]), column_names=("1", "t"))
    crossed = RandomTerm("item", item, 4)
    strata = Strata(stratum, ("a", "b", "c"), "s")
    loglinear = LogLinear(np.column_stack([x, stratum == 1]).astype(float), ("x", "b"))
    ar1 = AutoRegressive(visit.astype(float))
    car1 = AutoRegressive(times, True, 1.0)
    cs = CompoundSymmetric(visits)
    toep = Toeplitz(visit, visits - 1)
    us = Unstructured(visit, tuple("1234"))
    weights = rng.uniform(0.5, 2.0, n)
    offset = rng.normal(size=n)
    made: dict[str, tuple[tuple[RandomTerm, ...], ResidualStructure]] = {
        "varident": ((slope,), ResidualStructure("varident(s)", n, (strata,))),
        "varident crossed": ((intercept, crossed), ResidualStructure("varident(s)", n, (strata,))),
        "dispersion": ((intercept,), ResidualStructure("~ x + s", n, (loglinear,))),
        "ar1": ((intercept,), ResidualStructure("ar1", n, (), ar1, codes)),
        "ar1 slope": ((slope,), ResidualStructure("ar1", n, (), ar1, codes)),
        "ar1 crossed": ((intercept, crossed), ResidualStructure("ar1", n, (), ar1, codes)),
        "car1": ((crossed,), ResidualStructure("car1", n, (), car1, codes)),
        "cs": ((), ResidualStructure("cs", n, (), cs, codes)),
        "toep": ((), ResidualStructure("toep", n, (), toep, codes)),
        "us": ((), ResidualStructure("us", n, (), us, codes)),
        "us crossed": ((crossed,), ResidualStructure("us", n, (), us, codes)),
        "varident ar1": ((intercept,), ResidualStructure("varident * ar1", n, (strata,), ar1, codes)),
        "dispersion toep": ((intercept,), ResidualStructure("~ x, toep", n, (loglinear,), toep, codes)),
        "varident cs weights": ((), ResidualStructure("varident * cs", n, (strata,), cs, codes, weights)),
        "dispersion weights": ((intercept,), ResidualStructure("~ x", n, (loglinear,), weights=weights)),
    }
    terms, structure = made[name]
    design = Design(y, X, terms, weights=structure.weights, offset=offset, fixed_only=True)
    return design, structure


PROBLEMS = (
    "varident",
    "varident crossed",
    "dispersion",
    "ar1",
    "ar1 slope",
    "ar1 crossed",
    "car1",
    "cs",
    "toep",
    "us",
    "us crossed",
    "varident ar1",
    "dispersion toep",
    "varident cs weights",
    "dispersion weights",
)
