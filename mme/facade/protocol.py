"""What the parts of statsmodels' door ask of a model and of results, so that none needs their modules."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..engine.equations.design import Design
from .design.groups import GroupIndex
from .design.params import MixedLMParams
from .likelihood import Likelihood

__all__ = ["MixedModel", "MixedResults"]


class MixedModel(Protocol):
    """A `mme.MixedLM`."""

    endog: np.ndarray
    exog: np.ndarray
    exog_re: np.ndarray
    exog_vc: Any
    data: Any
    k_fe: int
    k_re: int
    k_re2: int
    k_vc: int
    n_groups: int
    use_sqrt: bool
    reml: bool
    fe_pen: Any
    cov_pen: Any
    _freepat: Any  # statsmodels' own name
    group_index: GroupIndex
    likelihood: Likelihood

    @property
    def exog_names(self) -> list[str]:
        """Names of the fixed effects."""

    def design(self, diagonal: bool = False) -> Design:
        """The engine's design; with uncorrelated random effects if `diagonal`."""

    def need_data(self) -> None:
        """Raise `DataError` where the data were removed."""

    def fit(self, **arguments: Any) -> Any:
        """`mme.MixedLM.fit`."""


class MixedResults(Protocol):
    """Results of a `mme.MixedLM`."""

    model: Any
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
    fe_pen: Any
    cov_pen: Any
    freepat: Any

    @property
    def llf(self) -> float:
        """Log-likelihood."""
