"""Predicted random effects of a MixedLM and their conditional covariances, group by group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg as sl

from .covariance import factor_psd
from .mixedlm_params import MixedLMParams

if TYPE_CHECKING:
    from .mixed_linear_model import MixedLM

__all__ = ["group_covariances", "random_effect_arrays"]


def random_effect_arrays(
    model: MixedLM, params: MixedLMParams, beta: np.ndarray, reml: bool
) -> list[np.ndarray]:
    """D Z'V^-1 (y - X b): per term, shapes (n_groups, k_re) and (q,) for each variance component.

    D on the ratio scale; the residual variance cancels.  Zero where the covariance is.
    """
    products = model._likelihood.at(params.cov_re, params.vcomp, reml).products(beta)
    out = []
    if model.k_re:
        out.append(products[0] @ params.cov_re)
    for component, variance, z in zip(
        model.exog_vc.components, params.vcomp, products[len(out) :], strict=True
    ):
        out.append(component.expand(variance * z[:, 0]))
    return out


def group_covariances(model: MixedLM, params: MixedLMParams, scale: float) -> list[np.ndarray]:
    """scale * L (L'Z'Z L + I)^-1 L' for each group, D = L L': covariance given data and parameters.

    L is allowed to be singular; the result is then singular in the same directions.
    """
    lam = factor_psd(np.asarray(params.cov_re)) if model.k_re else np.zeros((0, 0))
    index = model._index
    if model.k_vc == 0:
        z = model.exog_re[index.order]
        A = np.add.reduceat(z[:, :, None] * z[:, None, :], index.starts[:-1], axis=0)
        M = lam.T @ A @ lam + np.eye(model.k_re)
        return list(scale * (lam @ np.linalg.solve(M, np.broadcast_to(lam.T, M.shape))))
    out = []
    mats = model.exog_vc.mats
    for g in range(index.n_groups):
        blocks = [model.exog_re[index.rows(g)]] if model.k_re else []
        blocks += [m[g].toarray() if hasattr(m[g], "toarray") else m[g] for m in mats]
        sd = [
            np.full(b.shape[1], np.sqrt(v))
            for b, v in zip(blocks[model.k_re > 0 :], params.vcomp, strict=True)
        ]
        L = sl.block_diag(lam, np.diag(np.concatenate(sd))) if model.k_re else np.diag(np.concatenate(sd))
        ZL = np.hstack(blocks) @ L
        M = ZL.T @ ZL + np.eye(L.shape[1])
        out.append(scale * (L @ sl.solve(M, L.T, assume_a="pos")))
    return out
