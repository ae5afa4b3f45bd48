"""Profile deviances by a general minimiser: the engine gives the deviance at a theta, all else is here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from mme.engine.direct.objective import Objective
from mme.engine.equations.design import Design
from mme.inference.parameters import Parameter

__all__ = ["general_minimum"]


def general_minimum(design: Design, held: Parameter | None, value: float = 0.0, starts: int = 3) -> float:
    """The lowest ML deviance with one parameter held at a value, from several starts.

    Coordinates are the entries of triangular factors of the effects' covariances and log sigma; Nelder and
    Mead's simplex, then BFGS with differences.
    """
    kind = "none" if held is None else held.kind
    t, a, b = (-1, 0, 0) if held is None else (held.term, held.a, held.b)
    if kind == "fixed":
        rest = [j for j in range(design.p) if j != a]
        names = tuple(design.x_names[j] for j in rest)
        design = replace(design, y=design.y - value * design.X[:, a], X=design.X[:, rest], x_names=names)
    objective, n = Objective(design, False), design.n
    shapes = [(term.k, term.structure.entries(term.k)) for term in design.terms]
    base = float(np.std(design.y))

    def covariances(x: np.ndarray) -> list[np.ndarray]:
        out, i = [], 0
        for s, (k, entries) in enumerate(shapes):
            L = np.zeros((k, k))
            for c, d in entries:
                L[c, d] = x[i]
                i += 1
            if s == t and kind == "cor":
                first = [b, a, *(c for c in range(k) if c not in (a, b))]
                sizes = np.abs(np.diag(L))
                M = L.copy()
                M[:2] = 0.0
                M[0, 0] = sizes[0]
                M[1, :2] = sizes[1] * np.array([value, np.sqrt(1.0 - value**2)])
                L = M[np.argsort(first)]
            T = L @ L.T
            if s == t and kind == "sd":
                scale = np.ones(k)
                scale[a] = value / np.sqrt(T[a, a])
                T = T * np.outer(scale, scale)
            out.append(T)
        return out

    def deviance(x: np.ndarray) -> float:
        s2 = value**2 if kind == "sigma" else float(np.exp(2.0 * x[-1]))
        if not 1e-12 * base**2 < s2 < 1e6 * base**2:
            return 1e12
        theta = []
        for T, term in zip(covariances(x), design.terms, strict=True):
            w, U = np.linalg.eigh(T / s2)
            root = np.linalg.qr((U * np.sqrt(np.maximum(w, 0.0))).T)[1].T
            theta.append(term.structure.theta(root * np.where(np.diag(root) < 0, -1.0, 1.0)))
        e = objective.evaluate(np.concatenate(theta))
        return e.deviance + n * (e.sigma2 / s2 - 1.0 - np.log(e.sigma2 / s2))

    rng = np.random.default_rng(0)
    best = np.inf
    for i in range(starts):
        x = []
        for term, (k, entries) in zip(design.terms, shapes, strict=True):
            size = np.ones(k) if term.columns is None else np.sqrt(np.mean(term.columns**2, axis=0))
            x += [(0.5 * (c == d) + 0.2 * rng.normal() * (i > 0)) * base / size[c] for c, d in entries]
        x = np.r_[x, np.log(0.5 * base)]
        simplex = {"maxfev": 3000, "xatol": 1e-9, "fatol": 1e-10, "adaptive": True}
        x = minimize(deviance, x, method="Nelder-Mead", options=simplex).x
        best = min(best, float(minimize(deviance, x, method="BFGS", options={"gtol": 1e-7}).fun))
    return best
