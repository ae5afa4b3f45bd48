"""Selected inverse on a fixed pattern: structure once, numbers from each new Cholesky factor."""

from __future__ import annotations

import numpy as np

from ..kernels import elimination_tree as symbolic
from ..kernels import selected_inverse as kernels
from ..runtime.scipys import scipy_module

__all__ = ["EliminationTree", "SelectedInverse"]

# Operations below which a supernode is cheaper in a plain loop than in calls of BLAS from Python.
SMALL = 400_000.0


class EliminationTree:
    """Elimination tree and column counts of L for one pattern and fill-reducing permutation.

    Parameters
    ----------
    n : int
    indptr : ndarray of int64, shape (n + 1,)
    indices : ndarray of int32, shape (nnz,)
        Lower triangle of S, CSC.
    perm : ndarray of int, shape (n,)
        ``S[perm][:, perm] = L L'``.

    Attributes
    ----------
    label : ndarray of int64, shape (n,)
        Label of each row of S, such that the tree is postordered.
    from_solver : ndarray of int64, shape (n,)
        Label of each row of L as numbered by `perm`; the identity if `perm` is a postorder already.
    parent, count : ndarray of int64, shape (n,)
        In these labels.
    """

    def __init__(self, n: int, indptr: np.ndarray, indices: np.ndarray, perm: np.ndarray) -> None:
        # Writable and of one type each, so that every kernel is compiled once.
        indptr = np.require(indptr, np.int64, ["C", "W"])
        indices = np.require(indices, np.int32, ["C", "W"])
        place = np.empty(n, np.int64)
        place[perm] = np.arange(n)
        parent = symbolic.elimination_tree(n, indptr, indices, place)
        self.n = n
        self.from_solver = symbolic.postorder(parent)
        self.label = self.from_solver[place]
        self.parent = np.empty(n, np.int64)
        self.parent[self.from_solver] = np.where(parent >= 0, self.from_solver[parent], -1)
        self.lower = symbolic.permuted_lower(n, indptr, indices, self.label)
        self.count = symbolic.column_counts(self.lower[0], self.lower[1], self.parent)

    def predicted(self) -> tuple[int, float]:
        """Entries of L, and operations of a factorization (sum of squared column counts; n^3/3 if full)."""
        count = self.count.astype(np.float64)
        return int(self.count.sum()), float(count @ count)


class SelectedInverse:
    """Z = S^-1 on the pattern of S, by Takahashi's equations over supernodes.

    The structure is found once.  `compute` scatters a factor into dense panels and turns them into Z from
    the roots of the supernodal tree down: runs of small supernodes in one kernel, large ones by BLAS.

    Parameters
    ----------
    tree : EliminationTree
    """

    def __init__(self, tree: EliminationTree) -> None:
        ptr, rows, source = tree.lower
        first = symbolic.find_supernodes(tree.parent, tree.count, SMALL)
        parent, row_ptr, row_ind, status = symbolic.supernode_rows(first, tree.parent, tree.count, ptr, rows)
        if status:
            raise AssertionError("column counts do not match the pattern")
        w = np.diff(first)
        r = np.diff(row_ptr)
        panel_ptr = np.zeros(first.size, np.int64)
        np.cumsum(w * (w + r), out=panel_ptr[1:])
        relative, self.place = symbolic.supernode_maps(
            first, parent, row_ptr, row_ind, panel_ptr, ptr, rows, source
        )
        order, offset, self._work_size = symbolic.schedule(first, parent, row_ptr)
        has_children = np.zeros(w.size, np.bool_)
        has_children[parent[parent >= 0]] = True

        self._label = tree.from_solver
        self._column = np.empty_like(self._label)
        self._column[self._label] = np.arange(tree.n)
        self._first, self._parent, self._row_ptr, self._row_ind = first, parent, row_ptr, row_ind
        self._panel_ptr, self._relative, self._offset, self._has_children = (
            panel_ptr,
            relative,
            offset,
            has_children,
        )
        self._ones = np.ones(tree.n)
        self._panels: np.ndarray | None = None
        self._work: np.ndarray | None = None
        self._scratch: np.ndarray | None = None

        operations = (2.0 * r * r * w + 3.0 * r * w * w + w * w * w)[order]
        large = np.flatnonzero(operations > SMALL)
        # A contiguous Z_II for BLAS through scipy, which would copy anything else.
        self._scratch_size = int((r[order[large]] ** 2).max(initial=0))
        # Alternately a run of small supernodes (maybe empty) and one large one.
        self._steps: list[tuple[np.ndarray, int]] = []
        begin = 0
        for k in large:
            self._steps.append((order[begin:k].copy(), int(order[k])))
            begin = int(k) + 1
        self._steps.append((order[begin:].copy(), -1))

    @property
    def memory(self) -> int:
        """Bytes of the panels and fronts."""
        return 8 * (int(self._panel_ptr[-1]) + self._work_size + self._scratch_size)

    def compute(
        self, lp: np.ndarray, li: np.ndarray, lx: np.ndarray, scale: np.ndarray | None = None
    ) -> np.ndarray:
        """Entries of S^-1 from a factor of S.

        Parameters
        ----------
        lp, li : ndarray of int, shapes (n + 1,) and (nnz of L,)
        lx : ndarray of float64, shape (nnz of L,)
            Lower-triangular factor as CSC, in the solver's labels.
        scale : ndarray of float64, shape (n,), optional
            sqrt(D) if the factor is the L of LDL'.

        Returns
        -------
        ndarray of float64, shape (nnz of the lower triangle of S,)
            In the order of the pattern given to the tree.
        """
        if self._panels is None:
            self._panels = np.empty(int(self._panel_ptr[-1]))
            self._work = np.empty(self._work_size)
            self._scratch = np.empty(self._scratch_size)
        panels, work = self._panels, self._work
        assert panels is not None and work is not None
        panels.fill(0.0)
        status = kernels.scatter_factor(
            np.require(lp, np.int64, ["C", "W"]),
            np.require(li, np.int32, ["C", "W"]),
            np.require(lx, np.float64, ["C", "W"]),
            self._ones if scale is None else scale,
            self._label,
            self._column,
            self._first,
            self._row_ptr,
            self._row_ind,
            self._panel_ptr,
            panels,
        )
        if status:
            raise AssertionError("the factor has entries outside its symbolic pattern")
        for small, large in self._steps:
            if small.size:
                kernels.small_fronts(
                    small,
                    self._first,
                    self._parent,
                    self._row_ptr,
                    self._offset,
                    self._relative,
                    self._panel_ptr,
                    self._has_children,
                    work,
                    panels,
                )
            if large >= 0:
                self._large_front(large)
        return panels[self.place]

    def _large_front(self, s: int) -> None:
        """The same equations as kernels.small_fronts for one supernode, by BLAS and LAPACK.

        scipy's routines throughout: numpy may bring a second BLAS, whose idle threads would get in the way.
        """
        blas, lapack = scipy_module("linalg.blas"), scipy_module("linalg.lapack")
        panels, work, scratch = self._panels, self._work, self._scratch
        assert panels is not None and work is not None and scratch is not None
        w = int(self._first[s + 1] - self._first[s])
        lo, hi = int(self._row_ptr[s]), int(self._row_ptr[s + 1])
        r = hi - lo
        m = w + r
        at = int(self._panel_ptr[s])
        panel = panels[at : at + m * w].reshape(m, w)
        offset = int(self._offset[s])
        # Row-major lower triangles are Fortran-ordered upper ones, so LAPACK works on the panel in place.
        L_JJ, L_IJ = panel[:w].T, panel[w:].T
        if r:
            Y = blas.dtrsm(1.0, L_JJ, L_IJ, side=0, lower=0)
            p = int(self._parent[s])
            ld = int(self._first[p + 1] - self._first[p] + self._row_ptr[p + 1] - self._row_ptr[p])
            kernels.gather_front(work, int(self._offset[p]), ld, self._relative[lo:hi], scratch)
            Z_II = scratch[: r * r].reshape(r, r)
            blas.dsymm(-1.0, Z_II.T, Y, beta=0.0, c=L_IJ, side=1, lower=0, overwrite_c=1)
        lapack.dpotri(L_JJ, lower=0, overwrite_c=1)
        if r:
            blas.dgemm(-1.0, Y, L_IJ, beta=1.0, c=L_JJ, trans_b=1, overwrite_c=1)
        if self._has_children[s]:
            front = work[offset : offset + m * m].reshape(m, m)
            front[:, :w] = panel
            if r:
                front[w:, w:] = Z_II
