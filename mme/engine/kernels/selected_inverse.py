"""Selected inverse of a sparse symmetric matrix from its Cholesky factor, one supernode at a time.

Notation: S of order n, labels such that P S P' = L L' and the elimination tree is postordered, that is
every parent is larger than its children and subtrees are contiguous.  Z = (P S P')^-1.  A supernode J is a
run of w columns sharing the row set I (r rows) below; it is stored as a *panel*, row-major of shape
(m, w) with m = w + r, the first w rows being the columns' own.  Its *front* is the dense symmetric
Z[JI, JI], shape (m, m), row-major, of which the lower triangle is valid.

Takahashi's equations (Takahashi, Fagan & Chen 1973; Erisman & Tinney 1975), in blocks:

    Y    = L_IJ L_JJ^-1
    Z_IJ = -Z_II Y
    Z_JJ = (L_JJ L_JJ')^-1 - Y' Z_IJ

Z_II is part of the parent's front, so fronts are visited from the roots down; a front is freed when the
last of its children has read it.  The structure comes from `mme.engine.kernels.elimination_tree`.
"""

import numpy as np

from . import kernel

__all__ = [
    "gather_front",
    "scatter_factor",
    "small_fronts",
]


@kernel
def scatter_factor(
    lp: np.ndarray, li: np.ndarray, lx: np.ndarray, scale: np.ndarray, label: np.ndarray, column: np.ndarray,
    first: np.ndarray, row_ptr: np.ndarray, row_ind: np.ndarray, panel_ptr: np.ndarray, panels: np.ndarray,
) -> int:  # fmt: skip
    """Copy a sparse factor into zeroed panels.

    Parameters
    ----------
    lp : ndarray of int64, shape (n + 1,)
    li : ndarray of int32, shape (nnz,)
    lx : ndarray of float64, shape (nnz,)
        Lower-triangular factor, CSC, rows in any order, in the labels of the solver.
    scale : ndarray of float64, shape (n,)
        Factor of each column: ones for LL', sqrt(D) for LDL'.
    label, column : ndarray of int64, shape (n,)
        Postordered label of each of the solver's labels, and back.
    first, row_ptr, row_ind, panel_ptr
        Structure of the panels.
    panels : ndarray of float64, shape (panel_ptr[N],)
        Written.

    Returns
    -------
    status : int
        0, or 1 if the factor has a nonzero outside the panels.

    Notes
    -----
    Solvers may leave out entries of L that happen to be zero, or store zeros: both are fine here, so no
    map from L to the panels has to be kept or checked.
    """
    n = label.size
    N = first.size - 1
    position = np.zeros(n, np.int64)
    for s in range(N):
        w = first[s + 1] - first[s]
        r = row_ptr[s + 1] - row_ptr[s]
        for c in range(w):
            position[first[s] + c] = c
        for k in range(r):
            position[row_ind[row_ptr[s] + k]] = w + k
        for c in range(w):
            j = column[first[s] + c]
            for k in range(lp[j], lp[j + 1]):
                i = label[li[k]]
                at = position[i]
                # Positions are not reset between supernodes: make sure this one is of s.
                if at < w:
                    mine = first[s] + at == i
                else:
                    mine = at < w + r and row_ind[row_ptr[s] + at - w] == i
                if mine:
                    panels[panel_ptr[s] + at * w + c] = lx[k] * scale[j]
                elif lx[k] != 0.0:
                    return 1
    return 0


@kernel
def gather_front(work: np.ndarray, start: int, ld: int, relative: np.ndarray, target: np.ndarray) -> None:
    """Copy the rows and columns `relative` of a symmetric block, lower triangles only.

    Parameters
    ----------
    work : ndarray of float64, shape (size,)
    start, ld : int
        Start and leading dimension of the block, row-major.
    relative : ndarray of int32, shape (r,)
        Ascending.
    target : ndarray of float64, shape (at least r * r,)
        Written: row-major, leading dimension r.
    """
    r = relative.size
    for a in range(r):
        at = start + relative[a] * ld
        to = a * r
        for b in range(a + 1):
            target[to + b] = work[at + relative[b]]


@kernel
def small_fronts(
    visits: np.ndarray, first: np.ndarray, super_parent: np.ndarray, row_ptr: np.ndarray, offset: np.ndarray,
    relative: np.ndarray, panel_ptr: np.ndarray, has_children: np.ndarray, work: np.ndarray,
    panels: np.ndarray,
) -> None:  # fmt: skip
    """Takahashi's equations for a run of small supernodes.

    Parameters
    ----------
    visits : ndarray of int64, shape (number of visits,)
        Supernodes in the order of `schedule`.
    first, super_parent, row_ptr, offset, relative, panel_ptr
        From `find_supernodes`, `supernode_rows`, `schedule` and `supernode_maps`.
    has_children : ndarray of bool, shape (N,)
    work : ndarray of float64, shape (size,)
        Fronts; those of the parents are filled.
    panels : ndarray of float64, shape (panel_ptr[N],)
        L on entry; Z for the supernodes visited on return.
    """
    wide = 0
    area = 0
    for v in range(visits.size):
        s = visits[v]
        w = first[s + 1] - first[s]
        wide = max(wide, w)
        area = max(area, w * (row_ptr[s + 1] - row_ptr[s]))
    G = np.empty(wide * wide)
    Y = np.empty(area)
    Z = np.empty(area)
    for v in range(visits.size):
        s = visits[v]
        w = first[s + 1] - first[s]
        r = row_ptr[s + 1] - row_ptr[s]
        m = w + r
        P = panel_ptr[s]
        B = P + w * w
        # G = L_JJ^-1, row-major.
        for d in range(w):
            pivot = 1.0 / panels[P + d * w + d]
            for c in range(d):
                G[d * w + c] = 0.0
            for e in range(d):
                x = panels[P + d * w + e] * pivot
                for c in range(e + 1):
                    G[d * w + c] -= x * G[e * w + c]
            G[d * w + d] = pivot
        # Y = L_IJ L_JJ^-1, kept transposed so that the products below run along rows.
        for a in range(r):
            for c in range(w - 1, -1, -1):
                y = panels[B + a * w + c] * G[c * w + c]
                for d in range(c):
                    panels[B + a * w + d] -= y * panels[P + c * w + d]
                Y[c * r + a] = y
        # Z_JJ begins as G'G.
        for c in range(w):
            for d in range(c + 1):
                panels[P + c * w + d] = 0.0
        for e in range(w):
            for c in range(e + 1):
                x = G[e * w + c]
                for d in range(c + 1):
                    panels[P + c * w + d] += x * G[e * w + d]
        ld = m if has_children[s] else r
        F = offset[s]
        T = F + w * (m + 1) if has_children[s] else F
        if r > 0:
            p = super_parent[s]
            source = offset[p]
            source_ld = first[p + 1] - first[p] + row_ptr[p + 1] - row_ptr[p]
            R = row_ptr[s]
            for a in range(r):
                at = source + relative[R + a] * source_ld
                for b in range(a + 1):
                    x = work[at + relative[R + b]]
                    work[T + a * ld + b] = x
                    work[T + b * ld + a] = x
            # Z_II is symmetric, so the product runs along its rows as sums of rows: no inner product, which
            # the compiler could not vectorise without reordering it.
            for k in range(w * r):
                Z[k] = 0.0
            for b in range(r):
                at = T + b * ld
                for c in range(w):
                    y = Y[c * r + b]
                    to = c * r
                    for a in range(r):
                        Z[to + a] -= y * work[at + a]
            for a in range(r):
                for c in range(w):
                    y = Y[c * r + a]
                    for d in range(c + 1):
                        panels[P + c * w + d] -= y * Z[d * r + a]
            for a in range(r):
                for c in range(w):
                    panels[B + a * w + c] = Z[c * r + a]
        if has_children[s]:
            for c in range(w):
                for d in range(c + 1):
                    work[F + c * m + d] = panels[P + c * w + d]
            for a in range(r):
                for c in range(w):
                    work[F + (w + a) * m + c] = panels[B + a * w + c]
