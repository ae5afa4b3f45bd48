"""What the parts of statsmodels' door ask of a model and of results, so that none needs their modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..engine.covariance.structure import Structure
from ..engine.equations.design import Design
from .design.components import LazyVCSpec
from .design.groups import GroupIndex
from .design.params import MixedLMParams
from .likelihood import Likelihood
from .penalty import CovariancePenalty, FixedPenalty

if TYPE_CHECKING:
    from statsmodels.iolib.summary2 import Summary

__all__ = ["MixedModel", "MixedResults"]


class MixedModel(Protocol):
    """A `mme.MixedLM`."""

    endog: np.ndarray
    weights: np.ndarray | None
    offset: np.ndarray | None
    exog: np.ndarray
    exog_re: np.ndarray
    exog_vc: LazyVCSpec
    data: Any  # statsmodels' container, which the formula adds attributes to
    nobs: int
    k_fe: int
    k_re: int
    k_re2: int
    k_vc: int
    n_groups: int
    group_name: str
    group_labels: list
    use_sqrt: bool
    reml: bool
    fe_pen: FixedPenalty | None
    cov_pen: CovariancePenalty | None
    _freepat: MixedLMParams | None  # statsmodels' own name
    group_index: GroupIndex
    likelihood: Likelihood
    covariance: Structure
    tied_covariance: Structure

    @property
    def endog_names(self) -> str:
        """Name of the response."""

    @property
    def exog_names(self) -> list[str]:
        """Names of the fixed effects."""

    def design(self, diagonal: bool = False) -> Design:
        """The engine's design; with uncorrelated random effects if `diagonal`."""

    def need_data(self) -> None:
        """Raise `DataError` where the data were removed."""

    def fit(self, **arguments: Any) -> Any:  # a wrapper of statsmodels, whose attributes are its results'
        """`mme.MixedLM.fit`."""


class MixedResults(Protocol):
    """Results of a `mme.MixedLM`."""

    model: MixedModel
    params_object: MixedLMParams
    fe_params: np.ndarray
    cov_re: np.ndarray
    cov_re_unscaled: np.ndarray
    vcomp: np.ndarray
    scale: float
    reml: bool
    converged: bool
    method: str
    nobs: int
    k_fe: int
    k_re: int
    k_re2: int
    k_vc: int
    fe_pen: FixedPenalty | None
    cov_pen: CovariancePenalty | None
    freepat: MixedLMParams | None
    perfect: bool
    regularized: bool

    @property
    def llf(self) -> float:
        """Log-likelihood."""

    @property
    def bse_fe(self) -> np.ndarray:
        """Standard errors of the fixed effects."""

    @property
    def bse_re(self) -> np.ndarray:
        """Standard errors of cov_re and vcomp."""

    def coef_table(self, ddf: str | None = None, alpha: float = 0.05) -> Any:  # a frame of pandas
        """Fixed effects with degrees of freedom."""

    @property
    def _group_sizes(self) -> tuple[int, float, float, float]:
        """Number of groups, smallest, largest and mean size."""

    def _complete(self, smry: Summary) -> None:
        """Add what the kind of fit has to say to a summary."""
