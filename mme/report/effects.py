"""Results for the package marginaleffects, for both doors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..exceptions import DataError
from ..formula.frame import as_frame
from .coefficients import CoefficientTables

if TYPE_CHECKING:
    from .adapter import MarginalModel

__all__ = ["MarginalEffects"]


class MarginalEffects(CoefficientTables):
    """The way to `marginaleffects.predictions`, `comparisons`, `slopes` and `hypotheses`."""

    def marginaleffects(self, data: Any = None, df: float = np.inf) -> MarginalModel:
        """The fit as the Python package marginaleffects takes it.

        Parameters
        ----------
        data : DataFrame or anything `pandas.DataFrame` takes, optional
            The rows over which the package averages, as a rule the data of the fit; a MixedLM that was made
            by a formula has them.
        df : float
            Degrees of freedom of all its tests; by default the normal distribution.

        Returns
        -------
        MarginalModel
            For ``marginaleffects.predictions(model)`` and the package's other functions.  Random effects are
            zero.  Its ``vcov=True`` is the covariance of `coef_table`, ``vcov="kenward-roger"`` the adjusted
            one; arrays are taken as they are.

        Raises
        ------
        DataError
            No data, or a column that is not there; the package is not installed.
        InferenceError
            A model of arrays.

        Notes
        -----
        The package takes derivatives numerically; those by the coefficients are exact with ``eps_vcov=1.0``,
        as means are linear in them.  It has one number of degrees of freedom for all rows; `emmeans`,
        `emtrends` and `contrast` have Satterthwaite's and Kenward and Roger's of each.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> from marginaleffects import slopes  # doctest: +SKIP
        >>> slopes(result.marginaleffects(sleep))  # doctest: +SKIP
        """
        try:
            from .adapter import marginal_model
        except ModuleNotFoundError as error:
            raise DataError(
                f"{error.name} is not installed: pip install 'mme[marginaleffects]'; emmeans() and "
                "emtrends() need nothing."
            ) from error
        if data is None:
            data = getattr(getattr(getattr(self, "model", None), "data", None), "frame", None)
        if data is None:
            raise DataError(
                "marginaleffects averages over rows, which these results do not hold: give data=, as a rule "
                "the frame of the fit."
            )
        return marginal_model(self, as_frame(data), df)
