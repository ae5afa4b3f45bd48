"""Blocks, leading term, columns of the rest; cross-products against dense matrices; cuts of work."""

from __future__ import annotations

import numpy as np
import problems
import pytest

from mme.engine.equations.equations import build_equations
from mme.engine.equations.layout import layout_of


def _dense_columns(design, layout, basis):
    """Z of every block in the equations' order and basis, dense, times the root weights."""
    root = np.ones(design.n) if design.weights is None else np.sqrt(design.weights)
    out = []
    for block, R in zip(layout.blocks, basis, strict=True):
        first = design.terms[block.terms[0]]
        if first.general:
            out.append(first.Z.toarray() * root[:, None])
            continue
        parts = []
        for t in block.terms:
            columns = design.terms[t].columns
            parts.append(np.ones((design.n, 1)) if columns is None else columns)
        z = np.hstack(parts) @ np.linalg.inv(R) * root[:, None]
        Z = np.zeros((design.n, block.q, block.k))
        Z[np.arange(design.n), first.codes] = z
        out.append(Z.reshape(design.n, -1))
    return out


@pytest.mark.parametrize("name", list(problems.PROBLEMS))
def test_cross_products(name):
    design = problems.build(name)
    layout = layout_of(design)
    eq = build_equations(design, layout)
    Z = _dense_columns(design, layout, eq.basis)
    tol = {"rtol": 1e-9, "atol": 1e-9 * max(np.abs(z).max() for z in Z) ** 2}
    rest = Z[1:] if layout.has_lead else Z
    q2 = layout.q2
    Z2 = np.hstack(rest) if rest else np.zeros((design.n, 0))
    gram = np.zeros((q2, q2))
    for j in range(q2):
        rows = eq.gidx[eq.gptr[j] : eq.gptr[j + 1]]
        gram[rows, j] = eq.gval[eq.gptr[j] : eq.gptr[j + 1]]
    np.testing.assert_allclose(np.tril(gram), np.tril(Z2.T @ Z2), **tol)
    if layout.has_lead:
        Z1 = Z[0]
        k = layout.k1
        cross = np.zeros((layout.q1 * k, q2))
        for level in range(layout.q1):
            for e in range(eq.ptr[level], eq.ptr[level + 1]):
                cross[level * k : (level + 1) * k, eq.idx[e]] = eq.val[e]
        np.testing.assert_allclose(cross, Z1.T @ Z2, **tol)
        full = (Z1.T @ Z1).reshape(layout.q1, k, layout.q1, k)
        blocks = full[np.arange(layout.q1), :, np.arange(layout.q1), :]
        np.testing.assert_allclose(eq.A1, blocks, **tol)
        assert all(layout.q1 * k >= b.q * b.k for b in layout.rest if not design.terms[b.terms[0]].general)


def test_terms_on_one_factor_share_a_block():
    layout = layout_of(problems.build("same_codes"))
    assert [b.terms for b in layout.blocks] == [(0, 1)]
    assert (layout.places[0].first, layout.places[1].first, layout.blocks[0].k) == (0, 1, 2)


def test_orthonormal_fixed_effects():
    design = problems.build("badly_scaled_x")
    eq = build_equations(design, layout_of(design))
    p = eq.p
    np.testing.assert_allclose(eq.Axx[:p, :p], np.eye(p), atol=1e-9)
    np.testing.assert_allclose(eq.Axx[:p, p], 0.0, atol=1e-6 * np.sqrt(eq.Axx[p, p]))
