"""Dense marginal likelihood of a mixed model: the oracle the engine is tested against.

The marginal covariance V = W^-1 + Z Lam Lam' Z' (in units of sigma2) is formed over the rows, whitened and
projected; nothing of the mixed-model equations, of their blocks or of their elimination is used::

    REML:  d = log|V| + log|X'V^-1 X| + nu (1 + log(2 pi r2 / nu)),   nu = n - p,   r2 = y'P y,
    ML:    d = log|V|                 + nu (1 + log(2 pi r2 / nu)),   nu = n,

which are -2 x lme4's (restricted) log-likelihood (Bates et al. 2015, J. Stat. Softw. 67(1), equations 34 and
41), and the deviance of the mixed-model equations because log|V| + log|W| = log|Lam'Z'WZ Lam + I| and
log|X'V^-1 X| is what the border X adds to log|M|.

Numerics: with B = W^1/2 Z Lam, V = W^-1/2 (I + B B') W^-1/2, and the singular values s of B give
log|I + B B'| = sum log(1 + s^2) with a *relative* error of a few units of rounding in every term, where a
Cholesky factor of V loses s_max^2 units.  At theta = 1e3 that is the difference between 15 and 9 digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mme.engine.covariance.factors import entries, n_theta, theta_to_lam
from mme.engine.equations.design import Design, RandomTerm

__all__ = [
    "Oracle",
    "dense_z",
    "evaluate",
    "flatten",
    "numerical_gradient",
    "numerical_hessian",
    "split",
    "theta_sizes",
]


@dataclass(frozen=True)
class Oracle:
    """Everything the dense formulas give at one theta.

    Attributes
    ----------
    deviance : float
        -2 x (restricted) log-likelihood, sigma2 and beta profiled out.
    gradient : ndarray, shape (m,)
        d deviance / d theta.
    gradient_scale : ndarray, shape (m,)
        Sum of the absolute values of the gradient's trace and quadratic parts, the largest of each term: the
        scale on which the gradient's rounding error is to be judged.
    information : ndarray, shape (m, m)
        Average information of theta with sigma2 profiled out, as an approximation to the deviance's Hessian.
    information_scale : ndarray, shape (m,)
        Square roots of the diagonal of the average information before sigma2 is profiled out.
    sigma2 : float
    beta : ndarray, shape (p,)
    vcov_beta : ndarray, shape (p, p)
        sigma2 (X'V^-1 X)^-1.
    surviving : float
        Smallest share of a fixed effect's information that V^-1 leaves: the smallest eigenvalue of
        (X'WX)^-1/2 X'V^-1X (X'WX)^-1/2.  Cross-products lose 1 / surviving in relative precision.
    u : tuple of ndarray, shapes (q_t, k_t)
        Best linear unbiased predictors of the random effects on the scale of the data.
    """

    deviance: float
    gradient: np.ndarray
    gradient_scale: np.ndarray
    information: np.ndarray
    information_scale: np.ndarray
    sigma2: float
    beta: np.ndarray
    vcov_beta: np.ndarray
    surviving: float
    u: tuple[np.ndarray, ...]


def theta_sizes(design: Design) -> list[int]:
    """Number of covariance parameters of each term."""
    return [n_theta(t.k, t.covariance) for t in design.terms]


def split(design: Design, theta: np.ndarray) -> tuple[np.ndarray, ...]:
    """Flat theta -> one array per term."""
    return tuple(np.split(np.asarray(theta, dtype=float), np.cumsum(theta_sizes(design))[:-1]))


def flatten(theta: Sequence[np.ndarray]) -> np.ndarray:
    """One array per term -> flat theta."""
    return np.concatenate([np.atleast_1d(np.asarray(t, dtype=float)) for t in theta])


def dense_z(term: RandomTerm, n: int) -> np.ndarray:
    """Z_t as an array of shape (n, q_t, k_t); Z_t T where the levels have a known covariance A = T T'."""
    if term.Z is not None:
        z = np.asarray(term.Z.todense(), dtype=float).reshape(n, term.n_levels, term.k)
    else:
        columns = np.ones((n, 1)) if term.columns is None else term.columns
        z = np.zeros((n, term.n_levels, term.k))
        z[np.arange(n), term.codes] = columns
    if term.relation is None:
        return z
    return np.einsum("nlk,lm->nmk", z, root_of(term))


def root_of(term: RandomTerm) -> np.ndarray:
    """T of the known covariance A = T T' of a term's levels; that it is one is checked here."""
    T = term.relation.related(np.eye(term.n_levels))
    np.testing.assert_allclose(T.T @ term.relation.precision @ T, np.eye(term.n_levels), rtol=0, atol=1e-10)
    return T


def _factor_and_derivatives(term: RandomTerm, theta: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Relative covariance factor of one level and its derivatives with respect to each theta."""
    if term.general and term.k == 1:
        return theta.reshape(1, 1), [np.ones((1, 1))]
    derivatives = []
    for a, b in entries(term.k, term.covariance):
        d = np.zeros((term.k, term.k))
        d[a, b] = 1.0
        derivatives.append(d)
    return theta_to_lam(theta, term.k, term.covariance), derivatives


def evaluate(design: Design, theta: Sequence[np.ndarray], reml: bool = True) -> Oracle:
    """Deviance, gradient, average information and predictions by dense linear algebra.

    Parameters
    ----------
    design : Design
        X must have full column rank.
    theta : sequence of ndarray
        One array per term, in the order of `mme.engine.covariance.factors.entries`.
    reml : bool

    Returns
    -------
    Oracle
    """
    n, p = design.X.shape
    nu = n - p if reml else n
    root_w = np.ones(n) if design.weights is None else np.sqrt(design.weights)
    y = design.y if design.offset is None else design.y - design.offset
    y, X = root_w * y, root_w[:, None] * design.X

    # 1. B = W^1/2 Z Lam and its derivatives, one matrix per parameter
    B_terms: list[np.ndarray] = []
    dB: list[np.ndarray] = []
    owner: list[int] = []
    for t, (term, th) in enumerate(zip(design.terms, theta, strict=True)):
        z = root_w[:, None, None] * dense_z(term, n)
        lam, derivatives = _factor_and_derivatives(term, np.asarray(th, dtype=float))
        B_terms.append((z @ lam).reshape(n, -1))
        for d in derivatives:
            dB.append((z @ d).reshape(n, -1))
            owner.append(t)
    B = np.hstack(B_terms)
    offsets = np.cumsum([0] + [b.shape[1] for b in B_terms])
    m = len(dB)

    # 2. whitening: H = (I + B B')^-1/2 = I + U (diag(1/sqrt(1+s^2)) - I) U'
    U, s, Vt = np.linalg.svd(B, full_matrices=False)
    log_det_v = np.sum(np.log1p(s * s)) - 2.0 * np.sum(np.log(root_w))
    shrink = 1.0 / np.sqrt(1.0 + s * s)

    def whiten(a: np.ndarray) -> np.ndarray:
        c = U.T @ a
        return (a - U @ c) + U @ (shrink[:, None] * c)

    # 3. projection off the whitened X; columns scaled to length one first, undone below
    HX, Hy = whiten(X), whiten(y[:, None])[:, 0]
    length = np.linalg.norm(HX, axis=0)
    Q, R = np.linalg.qr(HX / length)
    log_det_x = 2.0 * np.sum(np.log(np.abs(np.diag(R)))) + 2.0 * np.sum(np.log(length))

    def project(a: np.ndarray) -> np.ndarray:
        a = a - Q @ (Q.T @ a)
        return a - Q @ (Q.T @ a)  # twice is enough

    PHy = project(Hy[:, None])[:, 0]
    r2 = float(PHy @ PHy)
    sigma2 = r2 / nu
    deviance = log_det_v + (log_det_x if reml else 0.0) + nu * (1.0 + np.log(2.0 * np.pi * r2 / nu))

    # 4. gradient: tr(P dV) - y'P dV P y / sigma2 with dV = dB B' + B dB'
    Py = whiten(PHy[:, None])[:, 0]
    HB = U @ ((s * shrink)[:, None] * Vt)
    trace_of = whiten(project(HB) if reml else HB)  # P B (REML) or V^-1 B (ML)
    BPy = B.T @ Py
    trace_part = np.empty(m)
    quadratic_part = np.empty(m)
    f = np.empty((n, m))  # the working variates dV P y
    for i, (d, t) in enumerate(zip(dB, owner, strict=True)):
        cols = slice(offsets[t], offsets[t + 1])
        dBPy = d.T @ Py
        trace_part[i] = 2.0 * np.sum(d * trace_of[:, cols])
        quadratic_part[i] = 2.0 / sigma2 * (BPy[cols] @ dBPy)
        f[:, i] = d @ BPy[cols] + B_terms[t] @ dBPy
    gradient = trace_part - quadratic_part
    parts = np.abs(trace_part) + np.abs(quadratic_part)
    gradient_scale = np.array([max(parts[j] for j in range(m) if owner[j] == t) for t in owner])

    # 5. average information; the derivative with respect to log sigma2 has the working variate V P y
    PHf = project(whiten(f))
    F = PHf.T @ PHf
    f0 = PHf.T @ PHy
    information = (F - np.outer(f0, f0) / r2) / sigma2

    # 6. estimates given theta
    R_inv = np.linalg.inv(R) / length[:, None]
    beta = R_inv @ (Q.T @ Hy)
    u = []
    for t, (term, th) in enumerate(zip(design.terms, theta, strict=True)):
        lam, _ = _factor_and_derivatives(term, np.asarray(th, dtype=float))
        modes = BPy[offsets[t] : offsets[t + 1]].reshape(term.n_levels, term.k) @ lam.T
        u.append(modes if term.relation is None else root_of(term) @ modes)
    return Oracle(
        deviance=float(deviance),
        gradient=gradient,
        gradient_scale=gradient_scale,
        information=information,
        information_scale=np.sqrt(np.diag(F) / sigma2),
        sigma2=sigma2,
        beta=beta,
        vcov_beta=sigma2 * R_inv @ R_inv.T,
        surviving=_surviving(X, R_inv),
        u=tuple(u),
    )


def _surviving(X: np.ndarray, R_inv: np.ndarray) -> float:
    if X.shape[1] == 0:
        return 1.0
    length = np.linalg.norm(X, axis=0)
    R0 = np.linalg.qr(X / length, mode="r") * length
    return float(1.0 / np.linalg.norm(R0 @ R_inv, 2) ** 2)


def cholesky_deviance(design: Design, theta: Sequence[np.ndarray], reml: bool = True) -> float:
    """The same deviance by the textbook route, a Cholesky factor of V: a check of `evaluate` itself."""
    n, p = design.X.shape
    nu = n - p if reml else n
    V = np.diag(np.ones(n) if design.weights is None else 1.0 / design.weights)
    for term, th in zip(design.terms, theta, strict=True):
        lam, _ = _factor_and_derivatives(term, np.asarray(th, dtype=float))
        zl = (dense_z(term, n) @ lam).reshape(n, -1)
        V = V + zl @ zl.T
    y = design.y if design.offset is None else design.y - design.offset
    L = np.linalg.cholesky(V)
    HX, Hy = np.linalg.solve(L, design.X), np.linalg.solve(L, y)
    Q, R = np.linalg.qr(HX)
    r = Hy - Q @ (Q.T @ Hy)
    d = 2.0 * np.sum(np.log(np.diag(L))) + nu * (1.0 + np.log(2.0 * np.pi * (r @ r) / nu))
    return float(d + (2.0 * np.sum(np.log(np.abs(np.diag(R)))) if reml else 0.0))


def numerical_gradient(
    design: Design, theta: Sequence[np.ndarray], reml: bool = True, step: float = 1e-3
) -> np.ndarray:
    """Sixth-order central differences of the dense deviance."""
    flat = flatten(theta)
    weights = {1: 45.0, 2: -9.0, 3: 1.0}
    g = np.zeros(flat.size)
    for i in range(flat.size):
        h = step * max(1.0, abs(flat[i]))
        for j, w in weights.items():
            for sign in (1.0, -1.0):
                moved = flat.copy()
                moved[i] += sign * j * h
                g[i] += sign * w * evaluate(design, split(design, moved), reml).deviance
        g[i] /= 60.0 * h
    return g


def numerical_hessian(
    design: Design, theta: Sequence[np.ndarray], reml: bool = True, step: float = 1e-4
) -> np.ndarray:
    """Exact Hessian of the deviance by fourth-order central differences of the analytic gradient."""
    flat = flatten(theta)
    H = np.zeros((flat.size, flat.size))
    for i in range(flat.size):
        h = step * max(1.0, abs(flat[i]))
        for j, w in {1: 8.0, 2: -1.0}.items():
            for sign in (1.0, -1.0):
                moved = flat.copy()
                moved[i] += sign * j * h
                H[i] += sign * w * evaluate(design, split(design, moved), reml).gradient
        H[i] /= 12.0 * h
    return 0.5 * (H + H.T)
