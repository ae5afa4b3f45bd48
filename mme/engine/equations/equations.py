"""Cross-products [Z X y]'W[Z X y], built once; an evaluation never sees the rows again.

X stands here for its orthonormal basis Q and y for its least-squares residual (see
`mme.engine.equations.fixed`).  The columns of a term with correlated effects are likewise replaced by z R^-1,
R'R their mean cross-product per level: an uncentred covariate (a year, say) costs no digits.  The relative
covariance in this basis is R D R'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ...exceptions import DesignError
from ..covariance.structure import triangular
from ..kernels import cells as kc
from ..kernels import rows as kr
from ..runtime.arrays import frozen
from ..runtime.parallel import cut, row_chunks, run
from ..runtime.scipys import scipy_module
from .design import Design, RandomTerm
from .fixed import FEW, FixedPart, gram_schmidt, orthonormalise, upper_inverse
from .layout import Block, Layout
from .related import joined, unrelated_rows, whole_levels
from .response import Response

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["Equations", "block_columns", "build_equations", "by_column", "dense_rows", "rest_rows"]

_ORDINARY = 1e6  # values of a single column from which on it is scaled
_SCANS = 4  # pieces of a transposition, each of which looks at every entry


@dataclass(frozen=True, eq=False)
class Equations:
    """Cross-products of the leading term (1), the rest (2), the fixed effects (X) and the response (y).

    Attributes
    ----------
    layout : Layout
    fixed : FixedPart
    basis : tuple of ndarray, shapes (k_b, k_b), one per block
        R of every block (block-diagonal over its terms): z of the design = z here times R.
    n, p : int
        Rows; rank of X.
    log_w : float
        Sum of the logarithms of the weights.
    A1 : ndarray, shape (q1, k1, k1)
        Diagonal blocks of Z_1'WZ_1.
    A1x : ndarray, shape (q1, k1, p + 1)
        Z_1'W[X y].
    ptr, idx : ndarrays of int64 (q1+1,), int32 (nnz,)
        Cells: the non-zeros of Z_1'WZ_2, level by level.
    tptr, tlev : ndarrays of int64 (q2+1,), int32 (nnz,)
        The cells by column of the rest: their levels.
    values, positions : ndarrays of float64 (nnz, k1), int32 or int64 (nnz,), or None
        The cells' values, and their positions by column. None where every cell is one (a rating by a user of
        an item): `val` and `tpos` are then made when first read, which the iterative path never does.
    gptr, gidx, gval : ndarrays of int64 (q2+1,), int32, float64
        Block-lower part of Z_2'WZ_2 by columns.
    A2x : ndarray, shape (q2, p + 1)
    Axx : ndarray, shape (p + 1, p + 1)
    yy_total : float
        y'Wy before the fixed effects were taken out: a scale for the residual.
    independent : bool
        Whether A2x is that of the independent levels v of u = T v, where levels are related.
    """

    layout: Layout
    fixed: FixedPart
    basis: tuple[np.ndarray, ...]
    n: int
    p: int
    log_w: float
    A1: np.ndarray
    A1x: np.ndarray
    ptr: np.ndarray
    idx: np.ndarray
    values: np.ndarray | None
    tptr: np.ndarray
    tlev: np.ndarray
    positions: np.ndarray | None
    gptr: np.ndarray
    gidx: np.ndarray
    gval: np.ndarray
    A2x: np.ndarray
    Axx: np.ndarray
    yy_total: float
    independent: bool = False

    @property
    def unit(self) -> bool:
        """Whether every cell is one."""
        return self.values is None

    @cached_property
    def val(self) -> np.ndarray:
        """Values of the cells, shape (nnz, k1)."""
        return np.ones((self.idx.size, 1)) if self.values is None else self.values

    @cached_property
    def tpos(self) -> np.ndarray:
        """Positions of the cells by column, shape (nnz,)."""
        if self.positions is not None:
            return self.positions
        positions = by_column(self.ptr, self.idx, self.layout.q2)[2]
        assert positions is not None
        return positions

    @cached_property
    def A22(self) -> sp.csr_array:
        """Z_2'WZ_2 of the rest, symmetric, shape (q2, q2)."""
        sp = scipy_module("sparse")
        q2 = self.layout.q2
        A = sp.csc_array((self.gval, self.gidx, self.gptr), shape=(q2, q2))
        return sp.csr_array(sp.tril(A) + sp.tril(A, -1).T)

    @cached_property
    def dense22(self) -> np.ndarray:
        """`A22` as an array, for small ones."""
        q2 = self.layout.q2
        A = np.zeros((q2, q2))
        A[self.gidx, np.repeat(np.arange(q2), np.diff(self.gptr))] = self.gval
        rows, columns = np.tril_indices(q2, -1)
        A[columns, rows] = A[rows, columns]
        return A

    @cached_property
    def parts(self) -> np.ndarray:
        """Connected part of every column of the rest, shape (q2,): different parts share no row."""
        sp = scipy_module("sparse")
        q1, q2 = self.layout.q1, self.layout.q2
        ones = np.ones(self.idx.size, np.int8)
        cells = sp.csr_array((ones, self.idx, self.ptr), shape=(q1, q2)) if q1 else None
        within = sp.csr_array((np.ones(self.gidx.size, np.int8), self.gidx, self.gptr), shape=(q2, q2))
        none = sp.csr_array((q1, q1), dtype=np.int8)
        graph = within if cells is None else sp.block_array([[none, cells], [None, within]])
        return scipy_module("sparse.csgraph").connected_components(graph, directed=False)[1][q1:]

    @property
    def Z1Q(self) -> np.ndarray:
        """Z_1'WQ, the design's part of A1x, shape (q1, k1, p)."""
        return self.A1x[:, :, : self.p]

    @property
    def Z2Q(self) -> np.ndarray:
        """Z_2'WQ, the design's part of A2x, shape (q2, p)."""
        return self.A2x[:, : self.p]

    @property
    def response(self) -> Response:
        """The response's part; all else is the design's."""
        p = self.p
        return Response(
            self.A1x[:, :, p],
            self.A2x[:, p],
            self.Axx[:p, p],
            self.fixed.b0,
            float(self.Axx[p, p]),
            self.yy_total,
        )

    def with_response(self, response: Response) -> Equations:
        """The equations of another response on the same design; shares all that is the design's.

        Parameters
        ----------
        response : Response
            From `mme.engine.equations.respond`, or another one changed.
        """
        p = self.p
        Axx = self.Axx.copy()
        Axx[:p, p] = Axx[p, :p] = response.Qy
        Axx[p, p] = response.yy
        A1x, A2x = self.A1x, self.A2x
        if response.Z1y.base is not A1x or response.Z2y.base is not A2x:
            A1x = np.concatenate([self.Z1Q, response.Z1y[:, :, None]], axis=2)
            Z2y = response.Z2y
            if self.independent and Z2y.base is not A2x:
                Z2y = unrelated_rows(self.layout, Z2y[:, None])[:, 0]
            A2x = np.column_stack([self.Z2Q, Z2y])
        fixed = replace(self.fixed, b0=response.b0)
        out = replace(self, A1x=A1x, A2x=A2x, Axx=Axx, fixed=fixed, yy_total=response.total)
        # what was made of the design on demand
        made = {k: v for k, v in self.__dict__.items() if k in _MADE}
        out.__dict__.update(made)
        return out

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in _MADE}

    def term_basis(self, t: int) -> np.ndarray:
        """R of term t: its columns in the design are those of the equations times R, shape (k_t, k_t)."""
        place = self.layout.places[t]
        part = place.columns
        return self.basis[place.block][part, part]

    def term_bases(self) -> list[np.ndarray]:
        """R of every term."""
        return [self.term_basis(t) for t in range(len(self.layout.places))]

    def factors(self, theta: np.ndarray) -> list[np.ndarray]:
        """Factors of every term from a flat theta, shapes (k_t, k_t)."""
        return [p.structure.lam(theta[p.theta], p.k) for p in self.layout.places]

    def to_standard(self, theta: np.ndarray) -> np.ndarray:
        """A design's theta in the equations' basis, where an uncentred covariate costs no digits."""
        return self._rebased(theta, lambda basis, lam: basis @ lam)

    def from_standard(self, standard: np.ndarray) -> np.ndarray:
        """Theta of the design's columns of one in the equations' basis."""
        return self._rebased(standard, np.linalg.solve)

    def _rebased(
        self, theta: np.ndarray, change: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> np.ndarray:
        out = np.array(theta, dtype=np.float64)
        for t, place in enumerate(self.layout.places):
            lam = place.structure.lam(out[place.theta], place.k)
            changed = change(self.term_basis(t), lam)
            out[place.theta] = place.structure.theta(changed if place.k == 1 else triangular(changed))
        return out

    def term_gram(self, t: int) -> np.ndarray:
        """Mean cross-product per level of term t's columns in the equations, shape (k_t, k_t)."""
        place = self.layout.places[t]
        part = place.columns
        return self.scales[place.block][part, part]

    def term_root(self, t: int) -> np.ndarray:
        """R with R'R = `term_gram`, as far as the term's structure lets it pass, shape (k_t, k_t)."""
        return self.layout.places[t].structure.root(self.term_gram(t))

    @cached_property
    def scales(self) -> list[np.ndarray]:
        """Mean k x k cross-product per level of every block: the natural scale of its covariance."""
        lay = self.layout
        scales = []
        if lay.has_lead:
            scales.append(self.A1.mean(axis=0))
        for r, block in enumerate(lay.rest):
            start, k = int(lay.offsets[r]), block.k
            first = self.gptr[start : start + block.q * k].reshape(block.q, k)
            # the first k rows of each column are the level's own block
            blocks = self.gval[first[:, :, None] + _own_block(self, start, block.q, k)]
            if block.relation is not None:
                blocks = blocks * block.relation.diagonal[:, None, None]
            scales.append(blocks.mean(axis=0))
        return scales


_MADE = ("val", "tpos", "A22", "dense22", "parts", "scales")  # on demand, of the design alone


def _own_block(eq: Equations, start: int, q: int, k: int) -> np.ndarray:
    # rows are sorted and none precedes the level's first column, so its own rows come first
    return np.broadcast_to(np.arange(k), (q, k, k))


def build_equations(design: Design, layout: Layout) -> Equations:
    """Form the cross-products in one pass over the rows.

    Parameters
    ----------
    design : Design
    layout : Layout
        From `mme.engine.equations.layout.layout_of`.

    Returns
    -------
    Equations
    """
    n = design.n
    root_w = None if design.weights is None else np.sqrt(design.weights)
    y = design.y if design.offset is None else design.y - design.offset
    xy, Axx, fixed, yy_total = orthonormalise(design.X, y, root_w)
    p = xy.shape[1] - 1
    q2 = layout.q2
    columns, basis = [], []
    for block in layout.blocks:
        z, R = block_columns(design, block, root_w)
        columns.append(z)
        basis.append(R)
    rptr, ridx, rval = rest_rows(design, layout, root_w, columns)
    A2x = np.zeros((q2, p + 1))
    if q2:
        kc.rows_times(rptr, ridx.size // n, ridx, rval, xy, A2x)
        gptr, gidx, gval = joined(layout, *_gram(layout, n, rptr, ridx, rval))
    else:
        gptr, gidx, gval = np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0)
    if layout.has_lead:
        lead = columns[0]
        assert lead is not None  # the leading block is a grouped one
        A1, A1x, ptr, idx, val = _lead(design, layout, lead, xy, rptr, ridx, rval)
    else:
        A1, A1x = np.zeros((0, 1, 1)), np.zeros((0, 1, p + 1))
        ptr, idx, val = np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros((0, 1))
    tptr, tlev, tpos = by_column(ptr, idx, q2, positions=val is not None)
    log_w = 0.0 if design.weights is None else float(np.sum(np.log(design.weights)))
    return Equations(
        layout, fixed, tuple(basis), n, p, log_w, A1, A1x, ptr, idx, val, tptr, tlev, tpos,
        gptr, gidx, gval, A2x, Axx, yy_total,
    )  # fmt: skip


def dense_rows(design: Design, equations: Equations) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows behind the equations, for small models: Z, the orthonormal X and the response's residual.

    Parameters
    ----------
    design : Design
    equations : Equations
        Of that design.

    Returns
    -------
    Z : ndarray, shape (n, q)
        Columns of all blocks in the equations' basis, level by level, times the root weights.
    X : ndarray, shape (n, p)
    y : ndarray, shape (n,)
    """
    layout, n = equations.layout, design.n
    root_w = None if design.weights is None else np.sqrt(design.weights)
    y = design.y if design.offset is None else design.y - design.offset
    xy = orthonormalise(design.X, y, root_w)[0]
    parts = []
    for block in layout.blocks:
        term = design.terms[block.terms[0]]
        if term.general:
            Z = np.asarray(scipy_module("sparse").csr_array(term.Z, dtype=np.float64).todense())
            parts.append(Z if root_w is None else Z * root_w[:, None])
            continue
        columns = block_columns(design, block, root_w)[0]
        assert columns is not None and term.codes is not None
        Z = np.zeros((n, block.q, block.k))
        Z[np.arange(n), term.codes] = columns if columns.shape[0] else 1.0
        parts.append(Z.reshape(n, -1))
    return np.hstack(parts), xy[:, :-1], xy[:, -1].copy()


def by_column(
    ptr: np.ndarray, idx: np.ndarray, q2: int, width: int = 0, positions: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Entries by column: pointers, rows, positions (None unless wanted)."""
    if idx.size == 0:
        return np.zeros(q2 + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32) if positions else None
    tptr = kc.column_pointers(idx, q2)
    tlev = np.empty(idx.size, np.int32)
    small = idx.size <= np.iinfo(np.int32).max
    tpos = np.empty(idx.size if positions else 0, np.int32 if small else np.int64)
    # every piece looks at every entry: few pieces, whatever the number of threads
    pieces = cut(np.diff(tptr), q2)
    if len(pieces) > _SCANS:
        pieces = cut(np.diff(tptr) * (_SCANS / len(pieces)), q2)
    run(lambda _, a, b: kc.transpose_cells(a, b, ptr, width, idx, tptr, tlev, tpos), pieces)
    return tptr, tlev, tpos if positions else None


def _is_plain(design: Design, block: Block, root_w: np.ndarray | None) -> bool:
    """Whether a block's only column is one in every row."""
    terms = [design.terms[t] for t in block.terms]
    return root_w is None and len(terms) == 1 and not terms[0].general and terms[0].columns is None


def block_columns(
    design: Design, block: Block, root_w: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray]:
    """A grouped block's columns in its basis, shape (n, k) C order, times the root weights; and the basis.

    Shape (0, 1) stands for a column of ones.
    """
    if design.terms[block.terms[0]].general:
        return None, np.eye(block.k)
    if _is_plain(design, block, root_w):
        return frozen(np.empty((0, 1))), np.eye(1)
    parts, basis = [], np.eye(block.k)
    start = 0
    for t in block.terms:
        term = design.terms[t]
        z = np.ones((design.n, 1)) if term.columns is None else np.asarray(term.columns, dtype=np.float64)
        if root_w is not None:
            z = z * root_w[:, None]
        if term.k > 1 and term.structure.mixes:
            z, basis[start : start + term.k, start : start + term.k] = _standardise(z, block.q, term)
        elif term.columns is not None:
            # the information has fourth powers of a column
            size = np.array([max(z[:, c].max(), -z[:, c].min()) for c in range(term.k)])
            odd = ~((size > 1.0 / _ORDINARY) & (size < _ORDINARY))
            if odd.any():
                unit = np.where(odd, 2.0 ** np.round(np.log2(np.where(size > 0.0, size, 1.0))), 1.0)
                basis[range(start, start + term.k), range(start, start + term.k)] = unit
                z = z / unit
        parts.append(z)
        start += term.k
    return frozen(np.ascontiguousarray(parts[0] if len(parts) == 1 else np.hstack(parts))), basis


def _standardise(z: np.ndarray, q: int, term: RandomTerm) -> tuple[np.ndarray, np.ndarray]:
    """z R^-1 and R with R'R = z'z/q; raises DesignError for columns that depend on one another."""
    n, k = z.shape
    z = np.ascontiguousarray(z)
    R = np.eye(k)
    original = z
    for _ in range(2):  # the second sweep repairs what the Gram matrix of the first could not resolve
        source = z

        def gram(_: int, a: int, b: int, source: np.ndarray = source) -> np.ndarray:
            return source[a:b].T @ source[a:b]

        G = sum(run(gram, row_chunks(n))) / q
        try:
            step = np.linalg.cholesky(G).T
        except np.linalg.LinAlgError:
            return _by_rows(original, q, term)
        pivots = np.diag(step) / np.sqrt(np.diag(G))
        if pivots.min() < 1e-7:
            return _by_rows(original, q, term)
        inverse = np.ascontiguousarray(upper_inverse(step))
        z = np.empty((n, k))

        def transform(
            _: int,
            a: int,
            b: int,
            source: np.ndarray = source,
            z: np.ndarray = z,
            inverse: np.ndarray = inverse,
        ) -> None:
            if k <= FEW:
                kr.transform_rows(a, b, frozen(source), inverse, z)
            else:
                np.matmul(source[a:b], inverse, out=z[a:b])

        run(transform, row_chunks(n))
        R = step @ R
        if pivots.min() > 1e-3:
            break
    return z, R


def _by_rows(z: np.ndarray, q: int, term: RandomTerm) -> tuple[np.ndarray, np.ndarray]:
    """As `_standardise`, where a Gram matrix cannot resolve the columns any more."""
    scale = np.linalg.norm(z, axis=0)
    Q, T, kept = gram_schmidt(z, scale, scale > 0)
    if not kept.all():
        names = [n for n, ok in zip(term.column_names, kept, strict=False) if not ok]
        raise DesignError(
            f"random term '{term.name}': column {', '.join(names)} depends linearly on the columns before "
            "it, so their covariance cannot be estimated. Drop it, or use || for independent effects."
        )
    root = np.sqrt(q)
    return np.ascontiguousarray(Q * root), upper_inverse(T) / root


def rest_rows(
    design: Design, layout: Layout, root_w: np.ndarray | None, columns: list[np.ndarray | None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Z_2 by rows: pointers int64 (n+1,), columns int32, values float64.

    Without pointers, all rows have equally many entries; without values, all are one.
    """
    n = design.n
    pieces = []
    general = any(design.terms[b.terms[0]].general for b in layout.rest)
    sp: Any = scipy_module("sparse") if general else None
    plain = all(_is_plain(design, b, root_w) for b in layout.rest)
    grouped_idx, grouped_val = [], []
    for r, block in enumerate(layout.rest):
        term = design.terms[block.terms[0]]
        offset = int(layout.offsets[r])
        if term.general:
            Z = sp.csr_array(term.Z, dtype=np.float64)
            if term.k > 1:
                Z = whole_levels(Z, term.k)
            if root_w is not None:
                Z = sp.csr_array(
                    (Z.data * np.repeat(root_w, np.diff(Z.indptr)), Z.indices, Z.indptr), Z.shape
                )
            Z.sum_duplicates()
            pieces.append((r, Z))
            continue
        first = np.asarray(term.codes, dtype=np.int32)
        if block.k > 1 or offset:
            first = first * np.int32(block.k) + np.int32(offset)
        idx = first[:, None] if block.k == 1 else first[:, None] + np.arange(block.k, dtype=np.int32)
        val = columns[r + int(layout.has_lead)]
        assert val is not None
        if not plain and val.shape[0] == 0:
            val = np.ones((n, 1))
        if general:
            ptr = np.arange(0, (n + 1) * block.k, block.k)
            Z = sp.csr_array(
                (val.ravel(), (idx - np.int32(offset)).ravel(), ptr), shape=(n, block.q * block.k)
            )
            pieces.append((r, Z))
        else:
            grouped_idx.append(idx)
            grouped_val.append(val)
    if general:
        Z = sp.csr_array(sp.hstack([Z for _, Z in pieces], format="csr"))
        Z.sort_indices()
        return Z.indptr.astype(np.int64), Z.indices.astype(np.int32), frozen(Z.data)
    if not grouped_idx:
        return np.zeros(n + 1, np.int64), np.zeros(0, np.int32), frozen(np.zeros(0))
    ridx = grouped_idx[0] if len(grouped_idx) == 1 else np.hstack(grouped_idx)
    rval = grouped_val[0] if plain or len(grouped_val) == 1 else np.hstack(grouped_val)
    return np.zeros(0, np.int64), np.ascontiguousarray(ridx).ravel(), frozen(rval.ravel())


def _lead(
    design: Design,
    layout: Layout,
    z: np.ndarray,
    xy: np.ndarray,
    rptr: np.ndarray,
    ridx: np.ndarray,
    rval: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """A1, A1x and the cells: pointers, columns, values (None if every cell is one)."""
    block = layout.blocks[0]
    codes = np.ascontiguousarray(design.terms[block.terms[0]].codes, dtype=np.int32)
    order, rows = kc.counting_sort(codes, block.q)
    m = xy.shape[1]
    A1 = np.zeros((block.q, block.k, block.k))
    A1x = np.zeros((block.q, block.k, m))
    counts = np.diff(rows)
    run(
        lambda _, a, b: kc.level_blocks(a, b, order, rows, z, xy, A1, A1x),
        cut(counts * (block.k * (block.k + m)), block.q),
    )
    ptr = np.zeros(block.q + 1, np.int64)
    q2 = layout.q2
    if q2 == 0:
        return A1, A1x, ptr, np.zeros(0, np.int32), np.zeros((0, block.k))
    width = ridx.size // design.n
    ranges = cut(counts * (4.0 * max(1, width)), block.q)
    run(lambda _, a, b: kc.count_cells(a, b, order, rows, rptr, width, ridx, q2, ptr), ranges)
    np.cumsum(ptr, out=ptr)
    idx = np.empty(ptr[-1], np.int32)
    unit = z.shape[0] == 0 and rval.size == 0 and ptr[-1] == ridx.size > 0
    val = np.empty((0 if unit else ptr[-1], block.k))
    run(
        lambda _, a, b: kc.fill_cells(a, b, order, rows, rptr, width, ridx, rval, z, q2, ptr, idx, val),
        ranges,
    )
    return A1, A1x, ptr, idx, None if unit else val


def _gram(
    layout: Layout, n: int, rptr: np.ndarray, ridx: np.ndarray, rval: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Block-lower Z_2'Z_2 by columns."""
    q2, lstart = layout.q2, layout.lstart
    blocks = layout.rest
    width = ridx.size // n
    if len(blocks) == 1 and blocks[0].k == 1 and rptr.size == 0:
        # one scalar grouped term: a diagonal
        if rval.size:
            diagonal = np.bincount(ridx, weights=rval * rval, minlength=q2).astype(np.float64)
        else:
            diagonal = np.diff(kc.column_pointers(ridx, q2)).astype(np.float64)
        return np.arange(q2 + 1, dtype=np.int64), np.arange(q2, dtype=np.int32), diagonal
    tptr, tlev, tpos = by_column(rptr, ridx, q2, width, positions=rval.size > 0)
    if tpos is None:
        tpos = np.zeros(0, np.int32)
    n_levels = lstart.size - 1
    ranges = cut(np.diff(tptr[lstart]) * (2.0 * ridx.size / n), n_levels)
    gptr = np.zeros(q2 + 1, np.int64)
    run(lambda _, a, b: kc.count_gram(a, b, lstart, tptr, tlev, rptr, width, ridx, gptr), ranges)
    np.cumsum(gptr, out=gptr)
    gidx = np.empty(gptr[-1], np.int32)
    gval = np.empty(gptr[-1])
    cells = (tptr, tlev, tpos, rptr, width, ridx, rval)
    run(lambda _, a, b: kc.fill_gram(a, b, lstart, *cells, gptr, gidx, gval), ranges)
    return gptr, gidx, gval
