"""Structure of a sparse Cholesky factor, once per pattern: elimination tree, counts, supernodes, fronts.

Notation as in `mme.engine.kernels.selected_inverse`.  Sources: Davis, Direct Methods for Sparse Linear
Systems, SIAM 2006, chapter 4 (Liu 1990; Gilbert, Ng & Peyton 1994); relaxed supernodes: Ashcraft & Grimes
1989.
"""

import numpy as np

from . import kernel, part

__all__ = [
    "column_counts",
    "elimination_tree",
    "find_supernodes",
    "front_cost",
    "permuted_lower",
    "postorder",
    "schedule",
    "supernode_maps",
    "supernode_rows",
]


@kernel
def elimination_tree(n: int, indptr: np.ndarray, indices: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Elimination tree of S with row and column i renamed label[i].

    Parameters
    ----------
    n : int
    indptr : ndarray of int64, shape (n + 1,)
    indices : ndarray of int32, shape (nnz,)
        Lower triangle of S, CSC.
    label : ndarray of int64, shape (n,)

    Returns
    -------
    parent : ndarray of int64, shape (n,)
        -1 for roots.
    """
    # The tree grows row by row of the renamed lower triangle, so list the columns of each row first.
    start = np.zeros(n + 1, np.int64)
    j: int | np.int64
    for j in range(n):
        for k in range(indptr[j], indptr[j + 1]):
            start[max(label[indices[k]], label[j]) + 1] += 1
    for i in range(n):
        start[i + 1] += start[i]
    fill = start[:-1].copy()
    columns = np.empty(start[n], np.int32)
    for j in range(n):
        for k in range(indptr[j], indptr[j + 1]):
            a = label[indices[k]]
            b = label[j]
            i = max(a, b)
            columns[fill[i]] = min(a, b)
            fill[i] += 1
    parent = np.full(n, -1, np.int64)
    ancestor = np.full(n, -1, np.int64)
    for i in range(n):
        for k in range(start[i], start[i + 1]):
            j = np.int64(columns[k])
            while j != -1 and j < i:
                above = ancestor[j]
                ancestor[j] = i
                if above == -1:
                    parent[j] = i
                j = above
    return parent


@kernel
def postorder(parent: np.ndarray) -> np.ndarray:
    """Position of each node in a postorder of the forest; children keep their order.

    Parameters
    ----------
    parent : ndarray of int64, shape (n,)

    Returns
    -------
    position : ndarray of int64, shape (n,)
    """
    n = parent.size
    head = np.full(n, -1, np.int64)
    sibling = np.full(n, -1, np.int64)
    for j in range(n - 1, -1, -1):
        if parent[j] >= 0:
            sibling[j] = head[parent[j]]
            head[parent[j]] = j
    position = np.empty(n, np.int64)
    stack = np.empty(n, np.int64)
    done = 0
    for root in range(n):
        if parent[root] >= 0:
            continue
        stack[0] = root
        depth = 1
        while depth > 0:
            j = stack[depth - 1]
            child = head[j]
            if child >= 0:
                head[j] = sibling[child]
                stack[depth] = child
                depth += 1
            else:
                position[j] = done
                done += 1
                depth -= 1
    return position


@kernel
def permuted_lower(
    n: int, indptr: np.ndarray, indices: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower triangle of the renamed matrix, CSC with unsorted rows.

    Parameters
    ----------
    n, indptr, indices, label
        As for `elimination_tree`.

    Returns
    -------
    ptr : ndarray of int64, shape (n + 1,)
    rows : ndarray of int32, shape (nnz,)
    source : ndarray of int64, shape (nnz,)
        Entry of the original triangle at each place.
    """
    ptr = np.zeros(n + 1, np.int64)
    for j in range(n):
        for k in range(indptr[j], indptr[j + 1]):
            ptr[min(label[indices[k]], label[j]) + 1] += 1
    for i in range(n):
        ptr[i + 1] += ptr[i]
    fill = ptr[:-1].copy()
    rows = np.empty(ptr[n], np.int32)
    source = np.empty(ptr[n], np.int64)
    for j in range(n):
        for k in range(indptr[j], indptr[j + 1]):
            a = label[indices[k]]
            b = label[j]
            c = min(a, b)
            rows[fill[c]] = max(a, b)
            source[fill[c]] = k
            fill[c] += 1
    return ptr, rows, source


@kernel
def column_counts(ptr: np.ndarray, rows: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Entries in each column of L, diagonal included, without forming L.

    Parameters
    ----------
    ptr : ndarray of int64, shape (n + 1,)
    rows : ndarray of int32, shape (nnz,)
        Lower triangle in postordered labels, CSC.
    parent : ndarray of int64, shape (n,)
        Elimination tree in the same labels.

    Returns
    -------
    count : ndarray of int64, shape (n,)

    Notes
    -----
    Row i of L is a subtree with root i; its leaves are entries of S.  Count each node of every subtree as
    leaves minus least common ancestors of successive leaves, summed up the tree (Gilbert, Ng & Peyton 1994).
    In a postorder the descendants of j are first[j]..j, so j is a new leaf of row i exactly if the last
    leaf of that row lies before first[j].
    """
    n = parent.size
    first = np.arange(n)
    count = np.zeros(n, np.int64)
    for j in range(n):
        if first[j] == j:
            count[j] = 1
        p = parent[j]
        if p >= 0:
            first[p] = min(first[p], first[j])
    leaf = np.full(n, -1, np.int64)
    link = np.arange(n)
    for j in range(n):
        p = parent[j]
        if p >= 0:
            count[p] -= 1
        for k in range(ptr[j], ptr[j + 1]):
            i = rows[k]
            if i <= j or first[j] <= leaf[i]:
                continue
            count[j] += 1
            if leaf[i] >= 0:
                # Least common ancestor: the top of the finished part above the last leaf.
                top = leaf[i]
                while link[top] != top:
                    top = link[top]
                count[top] -= 1
                q = leaf[i]
                while link[q] != top and q != top:
                    above = link[q]
                    link[q] = top
                    q = above
            leaf[i] = j
        if p >= 0:
            link[j] = p
    for j in range(n):
        if parent[j] >= 0:
            count[parent[j]] += count[j]
    return count


@part
def front_cost(w: int, r: int, small: float) -> float:
    """Estimated nanoseconds for a front of w columns and r rows below, in `small_fronts` or by BLAS.

    Only ratios matter: the price of memory traffic (r^2 to read Z_II, w m for the panel) against that of
    arithmetic, which is dear in a plain loop and cheap, with a fixed price per front, in BLAS.
    """
    operations = w * (2.0 * r * r + 3.0 * r * w + w * w)
    traffic = 1.5 * r * r + 2.0 * w * (w + r)
    if operations <= small:
        return 40.0 + 0.4 * operations + traffic
    return 40e3 + 0.03 * operations + traffic


@kernel
def find_supernodes(parent: np.ndarray, count: np.ndarray, small: float) -> np.ndarray:
    """First columns of the supernodes, ending with n.

    Columns with the same rows below belong together.  A supernode is then merged with its parent, storing
    zeros, where that is estimated to be cheaper than two separate fronts (relaxed supernodes).

    Parameters
    ----------
    parent, count : ndarray of int64, shape (n,)
        Postordered elimination tree and column counts.
    small : float
        Operations up to which a front is left to `small_fronts`.

    Returns
    -------
    first : ndarray of int64, shape (number of supernodes + 1,)
    """
    n = parent.size
    begin = np.empty(n + 1, np.int64)
    cost = np.empty(n + 1)
    top = 0
    j = 0
    while j < n:
        end = j + 1
        while end < n and parent[end - 1] == end and count[end - 1] == count[end] + 1:
            end += 1
        r = count[end - 1] - 1
        begin[top] = j
        cost[top] = front_cost(end - j, r, small)
        top += 1
        # Merge with the child just left of it, and so on.
        while top > 1:
            last = begin[top - 1] - 1
            if parent[last] < 0 or parent[last] >= end:
                break
            merged = front_cost(end - begin[top - 2], r, small)
            if merged > cost[top - 2] + cost[top - 1]:
                break
            top -= 1
            cost[top - 1] = merged
        j = end
    begin[top] = n
    return begin[: top + 1].copy()


@kernel
def supernode_rows(
    first: np.ndarray, parent: np.ndarray, count: np.ndarray, ptr: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Tree of supernodes and their rows below the diagonal block.

    Parameters
    ----------
    first : ndarray of int64, shape (N + 1,)
        From `find_supernodes`.
    parent, count : ndarray of int64, shape (n,)
    ptr : ndarray of int64, shape (n + 1,)
    rows : ndarray of int32, shape (nnz,)
        Lower triangle of S in the same labels.

    Returns
    -------
    super_parent : ndarray of int64, shape (N,)
        -1 for roots.
    row_ptr : ndarray of int64, shape (N + 1,)
    row_ind : ndarray of int32, shape (row_ptr[N],)
        Ascending within a supernode.
    status : int
        0, or 1 if the counts do not belong to the pattern.
    """
    N = first.size - 1
    n = parent.size
    member = np.empty(n, np.int64)
    row_ptr = np.zeros(N + 1, np.int64)
    for s in range(N):
        for j in range(first[s], first[s + 1]):
            member[j] = s
        row_ptr[s + 1] = row_ptr[s] + count[first[s + 1] - 1] - 1
    super_parent = np.full(N, -1, np.int64)
    head = np.full(N, -1, np.int64)
    sibling = np.full(N, -1, np.int64)
    for s in range(N):
        p = parent[first[s + 1] - 1]
        if p >= 0:
            super_parent[s] = member[p]
            sibling[s] = head[member[p]]
            head[member[p]] = s
    row_ind = np.empty(row_ptr[N], np.int32)
    mark = np.full(n, -1, np.int64)
    uses = np.zeros(n + 1, np.int64)
    for s in range(N):
        last = first[s + 1] - 1
        at = row_ptr[s]
        for j in range(first[s], first[s + 1]):
            for k in range(ptr[j], ptr[j + 1]):
                i = rows[k]
                if i > last and mark[i] != s:
                    if at == row_ptr[s + 1]:
                        return super_parent, row_ptr, row_ind, 1
                    mark[i] = s
                    row_ind[at] = i
                    at += 1
        c = head[s]
        while c >= 0:
            for k in range(row_ptr[c], row_ptr[c + 1]):
                i = row_ind[k]
                if i > last and mark[i] != s:
                    if at == row_ptr[s + 1]:
                        return super_parent, row_ptr, row_ind, 1
                    mark[i] = s
                    row_ind[at] = i
                    at += 1
            c = sibling[c]
        if at != row_ptr[s + 1]:
            return super_parent, row_ptr, row_ind, 1
        for k in range(row_ptr[s], at):
            uses[row_ind[k] + 1] += 1
    # Sort all row sets at once by transposing twice: linear time.
    for i in range(n):
        uses[i + 1] += uses[i]
    fill = uses[:-1].copy()
    owner = np.empty(row_ptr[N], np.int32)
    for s in range(N):
        for k in range(row_ptr[s], row_ptr[s + 1]):
            i = row_ind[k]
            owner[fill[i]] = s
            fill[i] += 1
    at_row = row_ptr[:-1].copy()
    for i in range(n):
        for k in range(uses[i], uses[i + 1]):
            s = owner[k]
            row_ind[at_row[s]] = i
            at_row[s] += 1
    return super_parent, row_ptr, row_ind, 0


@kernel
def supernode_maps(
    first: np.ndarray, super_parent: np.ndarray, row_ptr: np.ndarray, row_ind: np.ndarray,
    panel_ptr: np.ndarray, ptr: np.ndarray, rows: np.ndarray, source: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Places of a supernode's rows in its parent's front, and of the entries of S in the panels.

    Parameters
    ----------
    first, super_parent, row_ptr, row_ind
        From `find_supernodes` and `supernode_rows`.
    panel_ptr : ndarray of int64, shape (N + 1,)
        Start of each panel.
    ptr, rows, source
        From `permuted_lower`.

    Returns
    -------
    relative : ndarray of int32, shape (row_ptr[N],)
    place : ndarray of int64, shape (nnz,)
        Aligned with the original lower triangle of S.
    """
    N = super_parent.size
    n = ptr.size - 1
    relative = np.empty(row_ind.size, np.int32)
    place = np.empty(rows.size, np.int64)
    head = np.full(N, -1, np.int64)
    sibling = np.full(N, -1, np.int64)
    for s in range(N):
        if super_parent[s] >= 0:
            sibling[s] = head[super_parent[s]]
            head[super_parent[s]] = s
    position = np.zeros(n, np.int32)
    for s in range(N):
        w = first[s + 1] - first[s]
        for c in range(w):
            position[first[s] + c] = c
        for k in range(row_ptr[s], row_ptr[s + 1]):
            position[row_ind[k]] = w + k - row_ptr[s]
        for c in range(w):
            j = first[s] + c
            for k in range(ptr[j], ptr[j + 1]):
                place[source[k]] = panel_ptr[s] + position[rows[k]] * w + c
        child = head[s]
        while child >= 0:
            for k in range(row_ptr[child], row_ptr[child + 1]):
                relative[k] = position[row_ind[k]]
            child = sibling[child]
    return relative, place


@kernel
def schedule(
    first: np.ndarray, super_parent: np.ndarray, row_ptr: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Order of visits from the roots down and places of the fronts in one work array.

    Parameters
    ----------
    first, super_parent, row_ptr
        As for `supernode_maps`.

    Returns
    -------
    order : ndarray of int64, shape (N,)
        Parents before children.
    offset : ndarray of int64, shape (N,)
        Start of each front: (m, m), or, without children, only Z_II of shape (r, r).
    size : int
        Length of the work array.

    Notes
    -----
    The child that needs most memory is visited last: once it has read its parent's front, that front is
    free, so at most about log2(N) fronts wait at a time.  A front and its parent's lie on opposite ends of
    the array; each end is then last in, first out, although parents leave before children.
    """
    N = super_parent.size
    front = np.empty(N, np.int64)
    children = np.zeros(N, np.int64)
    peak = np.zeros(N, np.int64)
    heavy = np.full(N, -1, np.int64)
    second = np.zeros(N, np.int64)
    head = np.full(N, -1, np.int64)
    sibling = np.full(N, -1, np.int64)
    for s in range(N):
        r = row_ptr[s + 1] - row_ptr[s]
        m = r + first[s + 1] - first[s]
        h = heavy[s]
        if h < 0:
            front[s] = r * r
            peak[s] = front[s]
        else:
            front[s] = m * m
            peak[s] = max(front[s] + max(second[s], front[h]), peak[h])
        p = super_parent[s]
        if p >= 0:
            children[p] += 1
            sibling[s] = head[p]
            head[p] = s
            if heavy[p] < 0:
                heavy[p] = s
            elif peak[s] > peak[heavy[p]]:
                second[p] = peak[heavy[p]]
                heavy[p] = s
            else:
                second[p] = max(second[p], peak[s])
    order = np.empty(N, np.int64)
    offset = np.empty(N, np.int64)
    side = np.zeros(N, np.int64)
    used = np.zeros(2, np.int64)
    stack = np.empty(N, np.int64)
    done = 0
    size = 0
    for root in range(N):
        if super_parent[root] >= 0:
            continue
        stack[0] = root
        depth = 1
        while depth > 0:
            depth -= 1
            s = stack[depth]
            order[done] = s
            done += 1
            p = super_parent[s]
            if p >= 0:
                side[s] = 1 - side[p]
            e = side[s]
            # Places at the far end are counted backwards until the size is known.
            offset[s] = used[0] if e == 0 else -(used[1] + front[s])
            used[e] += front[s]
            size = max(size, used[0] + used[1])
            if p >= 0 and heavy[p] == s:
                used[1 - e] -= front[p]
            if heavy[s] < 0:
                used[e] -= front[s]
                continue
            stack[depth] = heavy[s]
            depth += 1
            c = head[s]
            while c >= 0:
                if c != heavy[s]:
                    stack[depth] = c
                    depth += 1
                c = sibling[c]
    for s in range(N):
        if side[s] == 1:
            offset[s] += size
    return order, offset, size
