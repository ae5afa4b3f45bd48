"""Dense Cholesky factor and inverse by blocks, on the threads of `mme.engine.runtime.parallel`.

A threaded BLAS waits by spinning: fast on an idle machine, many times slower than one thread on a busy
one.  Here single-threaded BLAS calls on large blocks run on Python threads, which sleep when they wait.  Cuts
depend on the order of the matrix only, so results do not depend on the number of threads.

Factor: right-looking block Cholesky (Golub & Van Loan 2013, section 4.2.9).  Inverse: Z = S^-1 satisfies
Z L = L^-T (Takahashi, Fagan & Chen 1973), block column by block column from the last.
"""

from __future__ import annotations

import itertools

import numpy as np

from ..runtime.parallel import run
from .blas_calls import gemm, potrf, symmetric_update, triangular_inverse, trsm_right_transposed

__all__ = ["BLOCK", "cholesky", "inverse"]

BLOCK = 192


def _cuts(start: int, stop: int, pieces: int) -> list[tuple[int, int]]:
    edges = np.linspace(start, stop, max(1, min(pieces, (stop - start) // 64)) + 1).astype(int)
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def cholesky(S: np.ndarray) -> int:
    """Lower Cholesky factor in place of the lower triangle of S.

    Parameters
    ----------
    S : ndarray of float64, shape (n, n), Fortran order
        Overwritten; not read above the diagonal.

    Returns
    -------
    info : int
        0, or the order of the leading minor that is not positive definite.
    """
    n = S.shape[0]
    for j in range(0, n, BLOCK):
        e = min(n, j + BLOCK)
        info = potrf(S[j:e, j:e])
        if info:
            return j + info
        if e == n:
            break

        def panel(_: int, a: int, b: int, j: int = j, e: int = e) -> None:
            trsm_right_transposed(S[j:e, j:e], S[a:b, j:e])

        def update(_: int, a: int, b: int, j: int = j, e: int = e) -> None:
            symmetric_update(S[a:b, j:e], S[a:b, a:b])
            gemm(-1.0, S[b:, j:e], S[a:b, j:e], 1.0, S[b:, a:b], trans_b=True)

        run(panel, _cuts(e, n, 4))
        run(update, [(c, min(n, c + BLOCK)) for c in range(e, n, BLOCK)])
    return 0


def inverse(L: np.ndarray, Z: np.ndarray) -> None:
    """(L L')^-1, both triangles, into Z.

    Parameters
    ----------
    L : ndarray, shape (n, n), Fortran order
        Lower Cholesky factor; not read above the diagonal.
    Z : ndarray, shape (n, n), Fortran order
        Output.
    """
    n = L.shape[0]
    for j in reversed(range(0, n, BLOCK)):
        e = min(n, j + BLOCK)
        Li = triangular_inverse(L[j:e, j:e])
        Z[j:e, j:e] = Li.T @ Li
        if e == n:
            continue
        G = np.empty((n - e, e - j), order="F")

        def scale(
            _: int, a: int, b: int, j: int = j, e: int = e, G: np.ndarray = G, Li: np.ndarray = Li
        ) -> None:
            gemm(1.0, L[a:b, j:e], Li, 0.0, G[a - e : b - e])

        def multiply(_: int, a: int, b: int, j: int = j, e: int = e, G: np.ndarray = G) -> None:
            gemm(-1.0, Z[a:b, e:], G, 0.0, Z[a:b, j:e])
            Z[j:e, a:b] = Z[a:b, j:e].T

        run(scale, _cuts(e, n, 4))
        run(multiply, _cuts(e, n, 8))
        Z[j:e, j:e] -= G.T @ Z[e:, j:e]
