"""What a fit says of its likelihood and of how it went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ..engine.equations.design import Design
from ..fit.record import Fit
from ..formula import ModelDesign
from ..inference.random_terms import n_parameters

__all__ = ["FitValues", "LabelledModel"]


class LabelledModel(Protocol):
    """What results ask of their model (a `LinearMixedModel`)."""

    model_design: ModelDesign

    @property
    def formula(self) -> str:
        """The formula as given."""

    def refit(self, y: np.ndarray, results: Any) -> Any:
        """Results of another response."""

    def update(self, formula: str | None, data: object, options: dict[str, Any]) -> Any:
        """Results of the model with something changed."""


class FitValues:
    """A fit and its model: the likelihood, criteria, sizes and the record of the search.

    Parameters
    ----------
    model : LinearMixedModel
    fit : Fit
    options : mapping, optional
        With which it was fitted.
    """

    def __init__(
        self, model: LabelledModel, fit: Fit, options: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self.model = model
        self.fit = fit
        self._options = dict(options)

    # -- the criterion ------------------------------------------------------------------------------------

    @property
    def formula(self) -> str:
        """The formula as given.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.formula
        'Reaction ~ Days + (Days | Subject)'
        """
        return self.model.formula

    @property
    def method(self) -> str:
        """``"REML"`` or ``"ML"``.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.method
        'REML'
        """
        return "REML" if self.fit.reml else "ML"

    @property
    def llf(self) -> float:
        """(Restricted) log-likelihood at the estimates.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> round(result.llf, 3)
        -871.814
        """
        return self.fit.loglik

    loglik = llf

    @property
    def deviance(self) -> float:
        """-2 `llf`; under REML this is lme4's REML criterion.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> round(result.deviance, 3)
        1743.628
        """
        return -2.0 * self.fit.loglik

    @property
    def n_params(self) -> int:
        """Parameters estimated: fixed effects, those of all covariances and the residual variance.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.n_params
        6
        """
        structure = self.model.model_design.residual
        return n_parameters(self._design, self.fit.p) + (0 if structure is None else structure.size)

    @property
    def nobs(self) -> int:
        """Rows used.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.nobs
        180
        """
        return self.fit.n

    @property
    def n_dropped(self) -> int:
        """Rows left out because of missing values.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.n_dropped
        0
        """
        return self.model.model_design.dropped

    @property
    def df_resid(self) -> int:
        """Rows less parameters, as lme4's ``df.residual``.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.df_resid
        174
        """
        return self.fit.n - self.n_params

    @property
    def aic(self) -> float:
        """Akaike's criterion, 2 `n_params` - 2 `llf`, under REML too (as lme4).

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> round(result.aic, 2)
        1755.63
        """
        return 2.0 * self.n_params - 2.0 * self.llf

    @property
    def bic(self) -> float:
        """Schwarz' criterion, log(`nobs`) `n_params` - 2 `llf`, under REML too (as lme4).

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> round(result.bic, 2)
        1774.79
        """
        return float(np.log(self.nobs)) * self.n_params - 2.0 * self.llf

    # -- how it went --------------------------------------------------------------------------------------

    @property
    def converged(self) -> bool:
        """Whether the optimality conditions were checked and hold.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.converged
        True
        """
        return self.fit.record.converged

    @property
    def is_singular(self) -> bool:
        """Whether some term's covariance is singular: a zero variance or a perfect correlation.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.is_singular
        False
        """
        return bool(self.fit.record.singular)

    @property
    def fit_info(self) -> dict[str, object]:
        """How the fit went: the fields of `mme.fit.FitRecord` as a dict.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.fit_info["message"]
        'the predicted decrease of the deviance is below the tolerance'
        """
        return asdict(self.fit.record)

    @property
    def _design(self) -> Design:
        return self.model.model_design.design

    @cached_property
    def _x_names(self) -> pd.Index:
        return pd.Index(self._design.x_names, dtype=object)

    def _fixed(self) -> np.ndarray:
        fitted = self._design.X @ np.where(self.fit.kept, self.fit.beta, 0.0)
        return fitted if self._design.offset is None else fitted + self._design.offset
