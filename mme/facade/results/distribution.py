"""Simulating responses from a MixedLM."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from statsmodels.tools.rng_qrng import check_random_state

from ...engine.covariance.factors import factor_psd
from ..design.params import MixedLMParams

if TYPE_CHECKING:
    from ..protocol import MixedModel

__all__ = ["MixedLMDistribution"]


class MixedLMDistribution:
    """The distribution of the response given parameters; see `MixedLM.get_distribution`.

    Parameters
    ----------
    model : MixedLM
    params : array_like
        Packed fixed effects, lower triangle of cov_re / scale, vcomp / scale.
    scale : float
        Residual variance.
    exog : array_like or None
        Fixed-effects design; None for the model's.

    Attributes
    ----------
    fe_params, cov_re, vcomp : ndarray
        Fixed effects, and (co)variances on the variance scale.
    """

    def __init__(self, model: MixedModel, params: Any, scale: float, exog: Any = None) -> None:
        self.model = model
        self.exog = model.exog if exog is None else exog
        unpacked = MixedLMParams.from_packed(params, model.k_fe, model.k_re, False, True)
        self.fe_params = np.where(np.isnan(unpacked.fe_params), 0.0, unpacked.fe_params)
        self.cov_re = scale * unpacked.cov_re
        self.vcomp = scale * unpacked.vcomp
        self.scale = scale
        self.group_idx = model.group_index.codes

    def rvs(self, n: int = 0, rng: Any = None, random_state: Any = None) -> np.ndarray:
        """One simulated response.

        Parameters
        ----------
        n : int
            Ignored; other distributions' interface has it.
        rng : int, Generator or RandomState, optional
        random_state : optional
            The old name of `rng`.

        Returns
        -------
        ndarray, shape (nobs,)
            Variances of zero (or, in parameters drawn at random, below zero) contribute nothing.
        """
        if random_state is not None:
            warnings.warn("random_state is deprecated; use rng.", FutureWarning, stacklevel=2)
            rng = random_state
        rng = check_random_state(rng)
        model = self.model
        y = np.dot(self.exog, self.fe_params)
        if model.offset is not None and self.exog is model.exog:
            y = y + model.offset
        terms = iter(model.design().terms)
        u = rng.normal(size=(model.n_groups, model.k_re))
        if model.k_re:
            y = y + next(terms).times(u @ factor_psd(self.cov_re).T)
        for component, variance, term in zip(model.exog_vc.components, self.vcomp, terms, strict=True):
            draws = rng.normal(size=component.n_columns)
            used = draws if component.used is None else draws[component.used]
            y = y + np.sqrt(max(variance, 0.0)) * term.times(used)
        noise = np.sqrt(self.scale) * rng.normal(size=len(y))
        return y + (noise if model.weights is None else noise / np.sqrt(model.weights))
