"""Cross-products of sparse designs: per-level blocks, cells of the leading factor, Gram matrices.

"Cells" are the non-zeros of Z_1'Z_2 kept level by level: for level l of the leading factor, the sorted
columns idx[ptr[l]:ptr[l+1]] of the other terms that meet it and the (k_1,) sums val[...] of products.
"""

import numpy as np

from . import kernel


@kernel
def counting_sort(codes, q):
    """Stable order of rows by code: (order int32/int64 (n,), ptr int64 (q+1,))."""
    n = codes.size
    ptr = np.zeros(q + 1, np.int64)
    for i in range(n):
        ptr[codes[i] + 1] += 1
    for l in range(q):  # noqa: E741
        ptr[l + 1] += ptr[l]
    fill = ptr[:-1].copy()
    order = np.empty(n, np.int32)
    for i in range(n):
        c = codes[i]
        order[fill[c]] = i
        fill[c] += 1
    return order, ptr


@kernel
def level_blocks(l0, l1, order, ptr, z, xy, A, B):
    """Fill A[l] = sum z z' (k, k) and B[l] = sum z xy' (k, m) over the rows of level l, l0 <= l < l1."""
    k = z.shape[1]
    m = xy.shape[1]
    for l in range(l0, l1):  # noqa: E741
        for r in range(ptr[l], ptr[l + 1]):
            i = order[r]
            for a in range(k):
                za = z[i, a]
                for b in range(a + 1):
                    A[l, a, b] += za * z[i, b]
                for b in range(m):
                    B[l, a, b] += za * xy[i, b]
        for a in range(k):
            for b in range(a):
                A[l, b, a] = A[l, a, b]


@kernel
def count_cells(l0, l1, order, ptr, rptr, ridx, q2, counts):
    """Number of distinct columns met by each level: counts[l+1] for l0 <= l < l1."""
    mark = np.full(q2, -1, np.int64)
    for l in range(l0, l1):  # noqa: E741
        c = 0
        for r in range(ptr[l], ptr[l + 1]):
            i = order[r]
            for e in range(rptr[i], rptr[i + 1]):
                j = ridx[e]
                if mark[j] != l:
                    mark[j] = l
                    c += 1
        counts[l + 1] = c


@kernel
def fill_cells(l0, l1, order, ptr, rptr, ridx, rval, z, q2, cptr, cidx, cval):
    """Sorted columns and sums of products of every level, into the ranges cptr[l]:cptr[l+1]."""
    k = z.shape[1]
    mark = np.full(q2, -1, np.int64)
    slot = np.empty(q2, np.int64)
    for l in range(l0, l1):  # noqa: E741
        top = cptr[l]
        for r in range(ptr[l], ptr[l + 1]):
            i = order[r]
            for e in range(rptr[i], rptr[i + 1]):
                j = ridx[e]
                if mark[j] != l:
                    mark[j] = l
                    cidx[top] = j
                    top += 1
        part = cidx[cptr[l] : top]
        part.sort()
        for s in range(cptr[l], top):
            slot[cidx[s]] = s
            for a in range(k):
                cval[s, a] = 0.0
        for r in range(ptr[l], ptr[l + 1]):
            i = order[r]
            for e in range(rptr[i], rptr[i + 1]):
                s = slot[ridx[e]]
                v = rval[e]
                for a in range(k):
                    cval[s, a] += z[i, a] * v


@kernel
def transpose_cells(ptr, idx, q2):
    """Cells by column: (tptr int64 (q2+1,), tlev int32 (nnz,), tpos int64 (nnz,)), levels ascending."""
    q1 = ptr.size - 1
    nnz = idx.size
    tptr = np.zeros(q2 + 1, np.int64)
    for e in range(nnz):
        tptr[idx[e] + 1] += 1
    for j in range(q2):
        tptr[j + 1] += tptr[j]
    fill = tptr[:-1].copy()
    tlev = np.empty(nnz, np.int32)
    tpos = np.empty(nnz, np.int64)
    for l in range(q1):  # noqa: E741
        for e in range(ptr[l], ptr[l + 1]):
            f = fill[idx[e]]
            tlev[f] = l
            tpos[f] = e
            fill[idx[e]] = f + 1
    return tptr, tlev, tpos


@kernel
def rows_times(rptr, ridx, rval, xy, out):
    """out (q2, m) += Z' xy for a row-compressed Z (n, q2) and xy (n, m)."""
    m = xy.shape[1]
    for i in range(rptr.size - 1):
        for e in range(rptr[i], rptr[i + 1]):
            j = ridx[e]
            v = rval[e]
            for b in range(m):
                out[j, b] += v * xy[i, b]


@kernel
def count_gram(lev0, lev1, lstart, tptr, tlev, rptr, ridx, counts):
    """Rows at or below the level's first column in each column of Z'Z: counts[j+1].

    All columns of a level share the pattern of its union, so that k x k blocks are kept whole.
    """
    q2 = tptr.size - 1
    mark = np.full(q2, -1, np.int64)
    for t in range(lev0, lev1):
        j0 = lstart[t]
        c = 0
        for j in range(j0, lstart[t + 1]):
            if mark[j] != t:
                mark[j] = t
                c += 1
            for f in range(tptr[j], tptr[j + 1]):
                i = tlev[f]
                for e in range(rptr[i], rptr[i + 1]):
                    r = ridx[e]
                    if r >= j0 and mark[r] != t:
                        mark[r] = t
                        c += 1
        for j in range(j0, lstart[t + 1]):
            counts[j + 1] = c


@kernel
def fill_gram(lev0, lev1, lstart, tptr, tlev, tpos, rptr, ridx, rval, gptr, gidx, gval):
    """Block-lower part of Z'Z by columns: rows gidx[gptr[j]:gptr[j+1]] >= the level's first column."""
    q2 = tptr.size - 1
    mark = np.full(q2, -1, np.int64)
    slot = np.empty(q2, np.int64)
    for t in range(lev0, lev1):
        j0 = lstart[t]
        top = gptr[j0]
        for j in range(j0, lstart[t + 1]):
            if mark[j] != t:
                mark[j] = t
                gidx[top] = j
                top += 1
            for f in range(tptr[j], tptr[j + 1]):
                i = tlev[f]
                for e in range(rptr[i], rptr[i + 1]):
                    r = ridx[e]
                    if r >= j0 and mark[r] != t:
                        mark[r] = t
                        gidx[top] = r
                        top += 1
        part = gidx[gptr[j0] : top]
        part.sort()
        for s in range(gptr[j0], top):
            slot[gidx[s]] = s - gptr[j0]
        for j in range(j0, lstart[t + 1]):
            base = gptr[j]
            for s in range(top - gptr[j0]):
                gidx[base + s] = gidx[gptr[j0] + s]
                gval[base + s] = 0.0
            for f in range(tptr[j], tptr[j + 1]):
                i = tlev[f]
                v = rval[tpos[f]]
                for e in range(rptr[i], rptr[i + 1]):
                    r = ridx[e]
                    if r >= j0:
                        gval[base + slot[r]] += v * rval[e]
