"""Predicted random effects of a MixedLM and their conditional covariances, group by group."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.linalg as sl
import scipy.sparse as sp

from ...engine.covariance.factors import factor_psd
from ...fit.forecast import require
from ..design.params import MixedLMParams

if TYPE_CHECKING:
    from ..likelihood import Likelihood
    from ..protocol import MixedModel

__all__ = [
    "covariances_of",
    "design_modes",
    "effect_labels",
    "effect_names",
    "effects_of",
    "group_covariances",
    "random_effect_arrays",
]


def random_effect_arrays(
    model: MixedModel, likelihood: Likelihood, params: MixedLMParams, beta: np.ndarray, reml: bool
) -> list[np.ndarray]:
    """D Z'V^-1 (y - X b): per term, shapes (n_groups, k_re) and (q,) for each variance component.

    D on the ratio scale; the residual variance cancels.  Zero where the covariance is.
    """
    products = likelihood.at(params.cov_re, params.vcomp, reml).products(beta)
    out = []
    if model.k_re:
        out.append(products[0] @ params.cov_re)
    for component, variance, z in zip(
        model.exog_vc.components, params.vcomp, products[len(out) :], strict=True
    ):
        out.append(component.expand(variance * z[:, 0]))
    return out


def group_covariances(
    model: MixedModel, likelihood: Likelihood, params: MixedLMParams, scale: float, reml: bool
) -> list[np.ndarray]:
    """scale * L (L'Z'Z L + I)^-1 L' for each group, D = L L': covariance given data and parameters.

    L is allowed to be singular; the result is then singular in the same directions.
    """
    if model.k_vc == 0:
        point = likelihood.at(params.cov_re, params.vcomp, reml)
        return list(scale * point.conditional_covariances()[0])
    lam = factor_psd(np.asarray(params.cov_re)) if model.k_re else np.zeros((0, 0))
    widths = model.k_re + np.sum([np.diff(c.column_starts) for c in model.exog_vc.components], axis=0)
    # the results, and three matrices of the largest group
    need = 8.0 * (float(widths @ widths.astype(np.float64)) + 3.0 * float(widths.max()) ** 2)
    require(need, f"the covariances of up to {widths.max():,} random effects of a group")
    starts, gram, sd = _grams(model, params)
    out = []
    for first, last in pairwise(starts):
        roots = sd[first:last]
        half = _left(lam, roots, gram[first:last, first:last].toarray())  # L'A, then L'A L
        M = _left(lam, roots, np.ascontiguousarray(half.T)) + np.eye(last - first)
        factor, _ = sl.lapack.dpotrf(M, lower=1)
        inverse, _ = sl.lapack.dpotri(factor, lower=1)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        half = _left(lam.T, roots, inverse)
        out.append(scale * _left(lam.T, roots, np.ascontiguousarray(half.T)))
    return out


def _left(lam: np.ndarray, roots: np.ndarray, A: np.ndarray) -> np.ndarray:
    """L'A in place, L = diag(lam, roots): lam for the correlated effects, which come first."""
    k = lam.shape[0]
    A[:k] = lam.T @ A[:k]
    A[k:] *= roots[k:, None]
    return A


def _grams(model: MixedModel, params: MixedLMParams) -> tuple[np.ndarray, sp.csc_array, np.ndarray]:
    """Z'Z with the columns of a group side by side: first columns, sparse matrix, roots of variances.

    Within a group the correlated effects come first, then the components; the roots of the former are zero.
    """
    index, components, k_re = model.group_index, model.exog_vc.components, model.k_re
    widths = np.array([np.diff(c.column_starts) for c in components])
    before = k_re + np.vstack([np.zeros(index.n_groups, dtype=np.intp), np.cumsum(widths, axis=0)])
    starts = np.concatenate(([0], np.cumsum(before[-1])))
    sd = np.zeros(starts[-1])
    parts = []
    if model.exog_re is not None:
        columns = starts[index.codes][:, None] + np.arange(k_re)
        rows = np.broadcast_to(np.arange(index.n)[:, None], columns.shape)
        parts.append((model.exog_re.ravel(), rows.ravel(), columns.ravel()))
    for component, offset, variance in zip(components, before, params.vcomp, strict=False):
        group = component.column_group
        column = starts[group] + offset[group] + np.arange(group.size) - component.column_starts[group]
        sd[column] = np.sqrt(variance)
        cells = component.matrix().tocoo()
        used = column if component.used is None else column[component.used]
        parts.append((cells.data, cells.row, used[cells.col]))
    values, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
    Z = sp.csr_array((values, (rows, columns)), shape=(index.n, starts[-1]))
    return starts, sp.csc_array(Z.T @ Z), sd


def design_modes(model: MixedModel, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Random effects by term of the design, which has the columns of the components that rows use."""
    used = [None] * bool(model.k_re) + [component.used for component in model.exog_vc.components]
    return [u if part is None else u[part] for u, part in zip(arrays, used, strict=True)]


def effect_names(model: MixedModel, g: int) -> list[str]:
    """Names of the random effects of one group."""
    names = [str(n) for n in model.data.exog_re_names] if model.k_re else []
    for k, component in enumerate(model.exog_vc.names):
        names.extend(f"{component}[{c}]" for c in model.exog_vc.group_names(k, g))
    return names


def effects_of(model: MixedModel, arrays: list[np.ndarray]) -> Callable[[int], pd.Series]:
    """Random effects of group g, as a labelled Series."""
    shared = pd.Index(effect_names(model, 0)) if model.k_vc == 0 else None
    first = 1 if model.k_re else 0

    def of(g: int) -> pd.Series:
        if shared is not None:
            return pd.Series(arrays[0][g], index=shared)
        parts = [arrays[0][g]] if model.k_re else []
        for component, u in zip(model.exog_vc.components, arrays[first:], strict=True):
            parts.append(u[component.column_starts[g] : component.column_starts[g + 1]])
        return pd.Series(np.concatenate(parts), index=effect_names(model, g))

    return of


def covariances_of(model: MixedModel, matrices: list[np.ndarray]) -> Callable[[int], pd.DataFrame]:
    """Conditional covariance of the random effects of group g, as a labelled frame."""
    shared = pd.Index(effect_names(model, 0)) if model.k_vc == 0 else None

    def of(g: int) -> pd.DataFrame:
        names = effect_names(model, g) if shared is None else shared
        return pd.DataFrame(matrices[g], index=names, columns=names)

    return of


def effect_labels(model: MixedModel) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups and names of every random effect, by term of the design: objects, shapes (q_t k_t,)."""
    groups = np.asarray(model.group_labels, dtype=object)
    out = []
    if model.k_re:
        effects = np.array([str(n) for n in model.data.exog_re_names], dtype=object)
        out.append((np.repeat(groups, effects.size), np.tile(effects, groups.size)))
    for component in model.exog_vc.components:
        columns = component.labels(0, component.n_columns)
        names = np.array([f"{component.name}[{c}]" for c in columns], dtype=object)
        where, used = groups[component.column_group], component.used
        out.append((where, names) if used is None else (where[used], names[used]))
    return out
