"""Takahashi's equations over supernodes: every kernel of `selected_inverse` against the dense inverse."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from mme.engine.factor.supernodes import SMALL, EliminationTree
from mme.engine.kernels import elimination_tree as symbolic
from mme.engine.kernels import selected_inverse as kernels

PLAIN = pytest.mark.parametrize("plain", [False, True], ids=["compiled", "python"])
NAMES = ["diagonal", "chain", "arrow", "crossed", "full"]


def matrix(name: str, n: int = 24) -> np.ndarray:
    """Positive definite, of a pattern with one supernode, with many, or with several trees."""
    rng = np.random.default_rng(len(name))
    P = np.eye(n, dtype=bool)
    if name == "chain":
        P |= np.eye(n, k=1, dtype=bool)
    elif name == "arrow":
        P[:, -2:] = True
    elif name == "crossed":
        P |= rng.random((n, n)) < 0.04
    elif name == "full":
        P[:] = True
    A = np.where(P | P.T, rng.normal(size=(n, n)), 0.0)
    A = np.tril(A, -1) + np.tril(A, -1).T
    return A + np.diag(np.abs(A).sum(axis=1) + rng.uniform(0.2, 1.0, n))


@dataclass(frozen=True, eq=False)
class Panels:
    """The structure of the panels of one matrix, and their places in a dense one."""

    A: np.ndarray
    first: np.ndarray
    parent: np.ndarray
    row_ptr: np.ndarray
    row_ind: np.ndarray
    panel_ptr: np.ndarray
    relative: np.ndarray
    order: np.ndarray
    offset: np.ndarray
    size: int

    @property
    def L(self) -> np.ndarray:
        return np.linalg.cholesky(self.A)

    def places(self, s: int) -> tuple[np.ndarray, np.ndarray, slice]:
        """Columns of supernode s, rows below them, and where its panel is."""
        columns = np.arange(self.first[s], self.first[s + 1])
        below = self.row_ind[self.row_ptr[s] : self.row_ptr[s + 1]]
        return columns, below, slice(self.panel_ptr[s], self.panel_ptr[s + 1])

    def gathered(self, M: np.ndarray) -> np.ndarray:
        """The entries of a dense matrix as panels; nothing above the diagonal."""
        out = np.zeros(self.panel_ptr[-1])
        for s in range(self.first.size - 1):
            columns, below, part = self.places(s)
            out[part] = np.tril(M)[np.ix_(np.r_[columns, below], columns)].ravel()
        return out


def panels_of(name: str, merge: bool) -> Panels:
    """Its rows in postorder, so that no label stands between matrix and panels.

    A supernode for every column, or columns together as the engine puts them.
    """
    A = matrix(name)
    n = len(A)

    def tree_of(M: np.ndarray) -> EliminationTree:
        column, row = np.nonzero(np.tril(M).T)
        indptr = np.r_[0, np.cumsum(np.bincount(column, minlength=n))].astype(np.int64)
        return EliminationTree(n, indptr, row.astype(np.int32), np.arange(n))

    back = np.argsort(tree_of(A).label)
    A = A[np.ix_(back, back)]
    tree = tree_of(A)
    np.testing.assert_array_equal(tree.label, np.arange(n))
    ptr, rows, source = tree.lower
    first = np.arange(n + 1)
    if merge:
        first = symbolic.find_supernodes(tree.parent, tree.count, SMALL)
    parent, row_ptr, row_ind, status = symbolic.supernode_rows(first, tree.parent, tree.count, ptr, rows)
    assert status == 0
    w, r = np.diff(first), np.diff(row_ptr)
    panel_ptr = np.r_[0, np.cumsum(w * (w + r))].astype(np.int64)
    relative, _ = symbolic.supernode_maps(first, parent, row_ptr, row_ind, panel_ptr, ptr, rows, source)
    order, offset, size = symbolic.schedule(first, parent, row_ptr)
    return Panels(A, first, parent, row_ptr, row_ind, panel_ptr, relative, order, offset, size)


def columns_of(L: np.ndarray, rng: np.random.Generator, keep: np.ndarray) -> tuple:
    """CSC of the entries `keep` of L, the rows of each column in any order."""
    lp, li, lx = [0], [], []
    for j in range(len(L)):
        rows = rng.permutation(np.flatnonzero(keep[:, j]))
        li.extend(rows)
        lx.extend(L[rows, j])
        lp.append(len(li))
    return np.array(lp, np.int64), np.array(li, np.int32), np.array(lx, np.float64)


cases = [pytest.param(n, m, id=f"{n}-{'merged' if m else 'single'}") for n in NAMES for m in (False, True)]


@PLAIN
@pytest.mark.parametrize(("name", "merge"), cases)
def test_scatter_factor(name, merge, plain):
    """Rows in any order, zeros left out or stored, in the solver's labels, of LL' or LDL'."""
    p, rng = panels_of(name, merge), np.random.default_rng(1)
    n = len(p.A)
    scatter = kernels.scatter_factor.py_func if plain else kernels.scatter_factor
    structure = (p.first, p.row_ptr, p.row_ind, p.panel_ptr)
    L, D = p.L, np.diag(p.L)
    solver = rng.permutation(n)  # the solver's label of each row
    for stored in (L != 0.0, np.tri(n, dtype=bool)):
        at = np.argsort(solver)
        factor = columns_of((L / D)[np.ix_(at, at)], rng, stored[np.ix_(at, at)])
        panels = np.zeros(p.panel_ptr[-1])
        assert scatter(*factor, D[at], at, solver, *structure, panels) == 0
        np.testing.assert_allclose(panels, p.gathered(L), rtol=1e-14, atol=1e-15)


@PLAIN
def test_scatter_factor_notices_what_is_outside(plain):
    p, rng = panels_of("diagonal", False), np.random.default_rng(1)
    n = len(p.A)
    L = p.L.copy()
    L[7, 2] = 0.5
    scatter = kernels.scatter_factor.py_func if plain else kernels.scatter_factor
    structure = (p.first, p.row_ptr, p.row_ind, p.panel_ptr)
    numbers = np.arange(n)
    factor = columns_of(L, rng, L != 0.0)
    assert scatter(*factor, np.ones(n), numbers, numbers, *structure, np.zeros(p.panel_ptr[-1])) == 1


@PLAIN
@pytest.mark.parametrize("relative", [[0], [1, 3, 4], [0, 1, 2, 3, 4]], ids=str)
def test_gather_front(relative, plain):
    rng = np.random.default_rng(2)
    work, start, ld = rng.normal(size=60), 7, 6
    relative = np.array(relative, np.int32)
    target = np.full(relative.size**2 + 2, np.nan)
    (kernels.gather_front.py_func if plain else kernels.gather_front)(work, start, ld, relative, target)
    front = work[start : start + 5 * ld].reshape(5, ld)
    got = target[: relative.size**2].reshape(relative.size, -1)
    below = np.tri(relative.size, dtype=bool)
    np.testing.assert_array_equal(got[below], front[np.ix_(relative, relative)][below])
    assert np.all(np.isnan(got[~below])) and np.all(np.isnan(target[-2:]))


@PLAIN
@pytest.mark.parametrize("cut", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize(("name", "merge"), cases)
def test_small_fronts(name, merge, cut, plain):
    """L becomes the inverse on the pattern of L, in one run of supernodes or in several."""
    p = panels_of(name, merge)
    N = p.first.size - 1
    has_children = np.zeros(N, np.bool_)
    has_children[p.parent[p.parent >= 0]] = True
    panels, work = p.gathered(p.L), np.full(p.size, np.nan)
    run = kernels.small_fronts.py_func if plain else kernels.small_fronts
    edges = [0, N // 3, N // 3, N] if cut else [0, N]
    for a, b in pairwise(edges):
        visits = p.order[a:b].copy()
        run(
            visits,
            p.first,
            p.parent,
            p.row_ptr,
            p.offset,
            p.relative,
            p.panel_ptr,
            has_children,
            work,
            panels,
        )
    inverse = np.linalg.inv(p.A)
    for s in range(N):
        columns, below, part = p.places(s)
        got = panels[part].reshape(-1, columns.size)
        own = np.tri(columns.size, dtype=bool)
        np.testing.assert_allclose(
            got[: columns.size][own], inverse[np.ix_(columns, columns)][own], rtol=1e-10, atol=1e-13
        )
        np.testing.assert_allclose(
            got[columns.size :], inverse[np.ix_(below, columns)], rtol=1e-10, atol=1e-13
        )


def test_supernodes_of_these_matrices_are_narrow_and_wide():
    """Or the loops over the columns of a supernode would run once, or no front would have children."""
    widths = {name: np.diff(panels_of(name, True).first).tolist() for name in NAMES}
    assert widths["full"] == [24]
    assert widths["diagonal"] == [1] * 24
    assert len(widths["crossed"]) > 2 and max(widths["crossed"]) > 2
