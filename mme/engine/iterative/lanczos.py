"""log|S| by stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017, SIAM J. Matrix Anal. Appl. 38).

With P = L L' the block diagonal of S, log|S| = log|P| + tr log A, A = L^-1 S L^-T. The Lanczos matrices of A
come from the coefficients of conjugate gradients. The blocks of A on the diagonal are identities, so z'(A -
I)z, the bulk of a sample's noise, is taken out; and the directions in which crossed factors are confounded,
L'1 for every effect, have quadratures of their own, outside the probes.
"""

from __future__ import annotations

import numpy as np

from ..kernels import iterative as ki
from ..runtime.parallel import run
from .pcg import SchurSystem

__all__ = ["logdet"]


def logdet(
    system: SchurSystem, probes: np.ndarray, tol: float = 1e-4, batch: int = 16
) -> tuple[float, float]:
    """log|S| at the system's theta, and its Monte Carlo standard error.

    Parameters
    ----------
    system : SchurSystem
    probes : ndarray of int8, shape (q2, n_probes)
        Rademacher; at least two.
    tol : float
        Of the conjugate gradients; the error of a quadrature is about its square.
    batch : int
        Probes at once.

    Returns
    -------
    value, error : float
    """
    if system.q2 == 0:
        return 0.0, 0.0
    diagonal = 2.0 * float(np.sum(np.log(np.diagonal(system.root, axis1=1, axis2=2))))
    # L'1, made orthonormal
    Q = np.linalg.qr(_root_times(system, system.constants, True))[0]
    values, means, _ = _quadratures(system, Q, tol)
    known = float(np.sum(values) - np.sum(means - 1.0))
    samples = []
    for i in range(0, probes.shape[1], batch):
        z = probes[:, i : i + batch].astype(np.float64)
        z -= Q @ (Q.T @ z)
        values, means, sizes = _quadratures(system, z, tol)
        samples.append(sizes * (values - (means - 1.0)))
    sample = np.concatenate(samples)
    error = float(sample.std(ddof=1) / np.sqrt(sample.size)) if sample.size > 1 else np.inf
    return diagonal + known + float(sample.mean()), error


def _root_times(system: SchurSystem, V: np.ndarray, transpose: bool) -> np.ndarray:
    root = np.ascontiguousarray(system.root.transpose(0, 2, 1)) if transpose else system.root
    out = np.empty_like(V)
    lstart = system.eq.layout.lstart
    ranges = system.cut("levels", V.shape[1])
    run(lambda _, a, b: ki.block_solve(a, b, lstart, root, V, out), ranges)
    return out


def _quadratures(system: SchurSystem, V: np.ndarray, tol: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """v'log(A)v / v'v, v'Av / v'v and v'v for every column v."""
    sol = system.solve(_root_times(system, V, False), tol, coarse=False, keep=True)
    sizes = np.sum(V * V, axis=0)
    values, means = np.zeros(V.shape[1]), np.ones(V.shape[1])
    for j in range(V.shape[1]):
        alphas = np.array([a[j] for a in sol.alphas])
        betas = np.array([b[j] for b in sol.betas])[: alphas.size]
        # a column that has converged sooner yields only rounding from there on
        residual = np.cumprod(np.r_[1.0, betas])[: alphas.size]
        n = int(np.sum((alphas > 0.0) & (residual > 1e-20)))
        if n == 0:
            continue
        alphas, betas = alphas[:n], betas[: n - 1]
        T = np.diag(1.0 / alphas)
        T[np.arange(1, n), np.arange(1, n)] += betas / alphas[:-1]
        side = np.sqrt(betas) / alphas[:-1]
        T[np.arange(1, n), np.arange(n - 1)] = side
        T[np.arange(n - 1), np.arange(1, n)] = side
        w, U = np.linalg.eigh(T)
        means[j] = T[0, 0]
        values[j] = float(np.sum(U[0] ** 2 * np.log(np.maximum(w, 1e-300))))
    return values, means, sizes
