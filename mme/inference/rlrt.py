"""The likelihood ratio of one variance in finite samples, from a spectrum.

Crainiceanu & Ruppert (2004, JRSS B 66, 165-185): with y = X b + Z u + e, u ~ (0, lambda sigma2 I), mu the K
positive eigenvalues of Z'W Z - Z'W X (X'W X)^-1 X'W Z, xi those of Z'W Z, and w_s^2 independent chi-squares
of one degree of freedom, under lambda = 0

    RLRT = sup_lambda (n - p) log(N / D(lambda)) - sum_s log(1 + lambda mu_s),
    LRT  = sup_lambda       n log(N / D(lambda)) - sum_s log(1 + lambda xi_s),
    D(lambda) = sum_s w_s^2 / (1 + lambda mu_s) + (a chi-square of n - p - K),   N = D(0).

Nothing of the order of the rows is formed; Z'WZ of a factor is diagonal, so that levels with the same entry
share their eigenvalue but for as many as there are fixed effects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine.equations.equations import Equations
from ..engine.runtime.memory import available_memory
from ..exceptions import InferenceError, MemoryEstimateError

__all__ = ["Spectrum", "simulate", "spectrum"]

_ZERO = 1e-10  # eigenvalue, beside the largest, that is rounding
_EQUAL = 1e-9
_SMALL = 2.0**26  # bytes that are there
_COPIES = 4  # matrices of an eigenvalue problem's order that are held at once
_STEP = 0.1  # of log(lambda): a parabola through three points is exact to 1e-5 of the statistic
_LOWEST, _HIGHEST = 1e-5, 1e4  # lambda times the largest, the smallest eigenvalue
_MOST_STEPS = 1_000
_CHUNK = 2_000_000  # doubles of one piece of the draws


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues with their multiplicities.

    Attributes
    ----------
    mu, mu_times : ndarray, shapes (K,)
        Of Z'P Z, P taking X out; the positive ones.
    xi, xi_times : ndarray, shapes (L,)
        Of Z'W Z.
    n, p : int
        Rows, rank of X.
    """

    mu: np.ndarray
    mu_times: np.ndarray
    xi: np.ndarray
    xi_times: np.ndarray
    n: int
    p: int

    @property
    def rest(self) -> int:
        """Degrees of freedom that no eigenvalue has."""
        return self.n - self.p - int(self.mu_times.sum())


def spectrum(equations: Equations, term: int, column: int, name: str) -> Spectrum:
    """The spectrum of one column of a term.

    Parameters
    ----------
    equations : Equations
    term, column : int
        Of the design; of the term.
    name : str
        Of the term, for messages.

    Raises
    ------
    MemoryEstimateError
        A dense matrix of the order of the term's levels would not fit in memory.
    InferenceError
        The fixed effects take all that the term could explain.
    """
    lay, p = equations.layout, equations.p
    place = lay.places[term]
    c = place.first + column
    if lay.has_lead and place.block == 0:
        own, B = equations.A1[:, c, c], equations.A1x[:, c, :p]
        mu = _diagonal_less(own, B, name)
        xi = own
    else:
        r = place.block - int(lay.has_lead)
        block = lay.rest[r]
        chosen = int(lay.offsets[r]) + np.arange(block.q) * block.k + c
        A = equations.A22[chosen][:, chosen]
        B = equations.A2x[chosen, :p]
        diagonal = A.diagonal()
        if A.nnz == np.count_nonzero(diagonal):
            mu, xi = _diagonal_less(diagonal, B, name), diagonal
        else:
            _check_memory(block.q, name)
            dense = A.toarray()
            xi = np.linalg.eigvalsh(dense)
            mu = np.linalg.eigvalsh(dense - B @ B.T)
    largest = float(np.max(xi))
    mu = mu[mu > _ZERO * largest]
    if mu.size == 0:
        raise InferenceError(f"the fixed effects take all that the random effects {name!r} could explain.")
    return Spectrum(*_merged(mu), *_merged(xi[xi > _ZERO * largest]), equations.n, p)


def _diagonal_less(own: np.ndarray, B: np.ndarray, name: str) -> np.ndarray:
    """Eigenvalues of diag(own) - B B', shape (q,)."""
    order = np.argsort(own, kind="stable")
    a = own[order]
    first = np.flatnonzero(np.r_[True, np.diff(a) > _EQUAL * a[-1]])
    last = np.r_[first[1:], a.size]
    p = B.shape[1]
    _check_memory(int(np.minimum(last - first, p).sum()), name)
    known, values, rows = [], [], []
    for begin, end in zip(first, last, strict=True):
        part = B[order[begin:end]]
        if end - begin > p:
            # in the span of B's rows the group is as good as p levels; elsewhere its entry is an eigenvalue
            known.append(np.full(end - begin - p, a[begin]))
            part = np.linalg.qr(part)[1]
        values.append(np.full(len(part), a[begin]))
        rows.append(part)
    left = np.vstack(rows)
    matrix = np.diag(np.concatenate(values)) - left @ left.T
    return np.concatenate([*known, np.linalg.eigvalsh(matrix)])


def _check_memory(order: int, name: str) -> None:
    needed = 8.0 * _COPIES * float(order) ** 2
    if needed > _SMALL and needed > available_memory():
        raise MemoryEstimateError(
            f"the spectrum of {name!r} needs dense matrices of order {order}, {needed / 2**30:.1f} GiB. Use "
            "method='mixture', whose large-sample distribution holds for so many levels, or 'bootstrap'."
        )


def _merged(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values that are equal but for rounding, once, and how often."""
    values = np.sort(values)
    first = np.flatnonzero(np.r_[True, np.diff(values) > _EQUAL * values[-1]])
    times = np.diff(np.r_[first, values.size])
    return np.add.reduceat(values, first) / times, times


def simulate(spectrum: Spectrum, reml: bool, nsim: int, seed: int) -> np.ndarray:
    """Draws of the statistic under a variance of zero, shape (nsim,).

    Parameters
    ----------
    spectrum : Spectrum
    reml : bool
        RLRT or LRT.
    nsim, seed : int
    """
    rng = np.random.default_rng(seed)
    mu, nu = spectrum.mu, spectrum.n - spectrum.p if reml else spectrum.n
    low, high = np.log(_LOWEST / mu[-1]), np.log(_HIGHEST / mu[0])
    lam = np.exp(np.linspace(low, high, min(int((high - low) / _STEP) + 2, _MOST_STEPS)))
    values, times = (mu, spectrum.mu_times) if reml else (spectrum.xi, spectrum.xi_times)
    penalty = np.log1p(lam[:, None] * values) @ times
    shrunk = 1.0 / (1.0 + mu[:, None] * lam)
    chunk = max(1, _CHUNK // max(lam.size, mu.size))
    out = [
        _suprema(rng, spectrum, shrunk, penalty, nu, min(chunk, nsim - start))
        for start in range(0, nsim, chunk)
    ]
    return np.concatenate(out)


def _suprema(
    rng: np.random.Generator,
    spectrum: Spectrum,
    shrunk: np.ndarray,
    penalty: np.ndarray,
    nu: int,
    size: int,
) -> np.ndarray:
    w2 = rng.chisquare(spectrum.mu_times, (size, spectrum.mu.size))
    rest = rng.chisquare(spectrum.rest, size) if spectrum.rest else np.zeros(size)
    total = w2.sum(axis=1) + rest
    value = w2 @ shrunk
    value += rest[:, None]
    np.log(value, out=value)
    value *= -nu
    value += nu * np.log(total)[:, None] - penalty
    best = np.argmax(value, axis=1)
    top = value[np.arange(size), best]
    inside = np.flatnonzero((best > 0) & (best < penalty.size - 1))
    left, here, right = (value[inside, best[inside] + i] for i in (-1, 0, 1))
    bend = left - 2.0 * here + right
    with np.errstate(divide="ignore", invalid="ignore"):
        more = -((right - left) ** 2) / (8.0 * bend)
    top[inside] += np.where(bend < 0.0, more, 0.0)
    return np.maximum(top, 0.0)
