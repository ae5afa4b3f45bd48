"""What evaluations cost: the machine's rates, and times predicted from them.

The only rates there are: per second and thread, measured on crossed designs of orders 1,000 to 20,000.
"""

from __future__ import annotations

import numpy as np

from ..engine.direct.second import products_work
from ..engine.equations.equations import Equations
from ..engine.runtime.parallel import n_threads

__all__ = [
    "PROBES",
    "cell_pairs",
    "direct_seconds",
    "factor_seconds",
    "iterative_seconds",
    "quadrature_seconds",
    "second_seconds",
]

_FLOPS = 2.0e10  # of a dense factor
_PAIRS = 4e8  # pairs of cells scattered
_PRODUCTS = 6e8  # non-zeros times right-hand sides

_EVALUATIONS = 6  # of a direct fit, gradients included
_STARTED = 3  # of one that begins at a stochastic root
_SOLVES = 30.0  # products with S of an iterative fit, for every right-hand side
_QUADRATURE = 4.0  # of a quadrature of log|S|: 12 iterations, each a third of a solve's
PROBES = 12  # of an iterative fit, to begin with: the default of `mme.fit.IterativeOptions`


def cell_pairs(eq: Equations) -> float:
    """Pairs of cells that the assembly of S visits."""
    partners = np.diff(eq.ptr).astype(np.float64)
    return float(np.sum(partners * (partners + 1.0)) / 2)


def factor_seconds(eq: Equations, flops: float) -> float:
    """Rough time of assembling and factoring S, on one thread."""
    return flops / _FLOPS + cell_pairs(eq) * eq.layout.k1 / _PAIRS


def direct_seconds(eq: Equations, flops: float, started: bool = False) -> float:
    """Rough time of a direct fit's evaluations, from the flops of one factorization.

    `started`: the fit begins at a stochastic root, close to its optimum.
    """
    # a gradient: the inverse is twice a factor, and its traces visit the pairs again
    work = 3.0 * flops / _FLOPS + 2.0 * cell_pairs(eq) * eq.layout.k1 / _PAIRS
    return (_STARTED if started else _EVALUATIONS) * work / n_threads()


def iterative_seconds(eq: Equations, probes: int = PROBES) -> float:
    """Rough time of an iterative fit's solves at the default accuracy."""
    lay = eq.layout
    effects = sum(b.k for b in lay.rest)
    block = eq.p + 1 + (2 + probes) * effects
    return _SOLVES * block * _nonzeros(eq) / (_PRODUCTS * n_threads())


def second_seconds(eq: Equations, entries: float) -> float:
    """Rough time of exact second derivatives, with so many entries in the factor of S."""
    lay = eq.layout
    lead = 32.0 * lay.q1 * lay.k1**2 if lay.has_lead else 0.0
    product = 2.0 * entries + 4.0 * eq.idx.size * lay.k1 + lead
    return (products_work(eq, entries) + lay.n_theta * (1.0 + eq.p) * product) / _PRODUCTS


def quadrature_seconds(eq: Equations, vectors: int) -> float:
    """Rough time of log|S| by quadrature with so many vectors, on one thread."""
    return vectors * _QUADRATURE * _nonzeros(eq) / _PRODUCTS


def _nonzeros(eq: Equations) -> float:
    """Multiplications of one product with S."""
    return 2.0 * eq.idx.size * eq.layout.k1 + 2.0 * eq.gidx.size + 4.0 * eq.layout.q2
