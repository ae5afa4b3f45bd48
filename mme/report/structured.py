"""Tables of the covariance structure of the residuals, for results of both doors."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..engine.covariance.correlations import AutoRegressive, Toeplitz, Unstructured
from ..exceptions import OptionError
from ..inference.coefficients import check_alpha
from ..inference.structured import residual_rows
from .reported import Reported

__all__ = ["ResidualTables"]


class ResidualTables(Reported):
    """What results say of `residual=` and `dispersion=`."""

    def residual_table(self, alpha: float = 0.05) -> pd.DataFrame:
        """Standard deviations, correlations and coefficients of the residuals' covariance structure.

        Parameters
        ----------
        alpha : float
            One less the level of the intervals.

        Returns
        -------
        pandas.DataFrame
            Rows by parameter: ``sd`` of levels or visits, ``rho`` and ``cor``, ``log var`` coefficients.
            Columns ``estimate``, ``se``, ``lower``, ``upper``: intervals on the scale of the logarithm
            (standard deviations), of Fisher's z (correlations) or as they are; NaN where a parameter is at a
            limit.

        Raises
        ------
        OptionError
            The fit has no structure of its residuals.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (1 | Subject)", sleep, residual="ar1(Days | Subject)")
        >>> result.residual_table().round(3)
                   estimate     se   lower   upper
        parameter
        sd           37.637  4.879  29.193  48.525
        rho           0.653  0.092   0.434   0.799
        """
        fitted = self.fitted
        if fitted.residual is None:
            raise OptionError(
                "the residuals have no structure: the fit was made without residual= or dispersion=."
            )
        table = pd.DataFrame(residual_rows(fitted, check_alpha(alpha)))
        return table.set_index("parameter")

    def residual_covariance(self) -> pd.DataFrame:
        """Covariance matrix of the residuals of a subject at every visit, or at successive times.

        Returns
        -------
        pandas.DataFrame
            Of us: by visit. Of ar1 and toep: by distance from the first of as many positions as a subject
            has at most; variances of strata are left out of it: it is then relative to one of them each.

        Raises
        ------
        OptionError
            The structure has no visits (varident, cs, car1).

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (1 | Subject)", sleep, residual="ar1(Days | Subject)")
        >>> result.residual_covariance().shape
        (10, 10)
        """
        residual = self.fitted.residual
        part = None if residual is None else residual.structure.correlation
        if residual is None or not isinstance(part, Unstructured | AutoRegressive | Toeplitz):
            raise OptionError("residual_covariance() is of us, toep and ar1; see residual_table().")
        if isinstance(part, AutoRegressive) and part.continuous:
            raise OptionError("residual_covariance() is of us, toep and ar1; see residual_table().")
        phi = residual.phi[residual.structure.size - len(part.names) :]
        if isinstance(part, Unstructured):
            names = pd.Index(part.levels)
            return pd.DataFrame(self.fitted.sigma2 * part.matrix(phi), index=names, columns=names)
        if isinstance(part, Toeplitz):
            r = np.r_[1.0, phi]
        else:
            r = phi[0] ** np.arange(int(np.ptp(part.times)) + 1)
        steps = np.arange(r.size)
        C = r[np.abs(np.subtract.outer(steps, steps))]
        scale = 1.0 if residual.structure.variances else self.fitted.sigma2
        return pd.DataFrame(scale * C, index=steps, columns=steps)
