"""statsmodels' tests of linear hypotheses, from what the hypotheses name alone.

statsmodels multiplies a hypothesis with all parameters and their covariance, and zero times NaN is NaN: one
column that was dropped, or one variance without a standard error (at a boundary), would leave no test.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import statsmodels.base.model as base
from patsy import PatsyError
from statsmodels.stats.contrast import ContrastResults

from ...exceptions import OptionError
from ...report.hypotheses import hypothesis

__all__ = ["HypothesisError", "HypothesisTests"]


class HypothesisError(OptionError, PatsyError):
    """Text that is no hypothesis about the parameters: mme's error, and patsy's that statsmodels raises."""

    def __init__(self, message: str) -> None:
        PatsyError.__init__(self, message)


class HypothesisTests(base.LikelihoodModelResults):
    """`t_test` and `wald_test`, which `f_test` and `wald_test_terms` stand on."""

    def t_test(self, r_matrix: Any, cov_p: Any = None, use_t: bool | None = None) -> Any:
        """Tests of linear hypotheses R b = 0 about the fixed effects, row by row.

        Parameters
        ----------
        r_matrix : array_like, shape (k_fe,) or (m, k_fe); or str
            Restrictions; strings may name any parameter (HypothesisError where there is none so called).
        cov_p : array_like, optional
            Covariance to use in place of `cov_params()`.
        use_t : bool, optional

        Returns
        -------
        ContrastResults
            NaN in rows that name a parameter without a standard error.
        """
        self._check_names(r_matrix)
        if not (
            isinstance(r_matrix, str | tuple)
            or (isinstance(r_matrix, list) and r_matrix and isinstance(r_matrix[0], str))
        ):
            R = np.atleast_2d(np.asarray(r_matrix, dtype=np.float64))
            if R.shape[1] != self.k_fe:
                raise ValueError(f"r_matrix for t-test should have {self.k_fe:d} columns")
            r_matrix = np.hstack([R, np.zeros((R.shape[0], self.params.size - self.k_fe))])
        known = self._known(cov_p)
        if known.all():
            return super().t_test(r_matrix, cov_p=cov_p, use_t=use_t)
        R, q = self._restrictions(r_matrix)
        results, covariance = self._with_zeros(known, cov_p)
        told = ~np.any(R[:, ~known] != 0.0, axis=1)
        effect = np.where(told, R @ results.params, np.nan)
        variance = np.where(told, np.einsum("qa,ab,qb->q", R, covariance, R), np.nan)
        sd = np.sqrt(variance) if len(R) > 1 else np.sqrt(variance)[:, None]
        t = (effect - q) / sd
        if self.use_t if use_t is None else use_t:
            return ContrastResults(effect=effect, t=t, sd=sd, df_denom=self.df_resid)
        return ContrastResults(effect=effect, statistic=t, sd=sd, df_denom=self.df_resid, distribution="norm")

    def wald_test(
        self,
        r_matrix: Any,
        cov_p: Any = None,
        invcov: Any = None,
        use_f: bool | None = None,
        df_constraints: int | None = None,
        scalar: bool = True,
    ) -> Any:
        """Test of linear hypotheses R params = q together; see statsmodels' `wald_test`.

        NaN where a parameter that is named has no standard error.
        """
        self._check_names(r_matrix)
        known = self._known(cov_p)
        if known.all():
            return super().wald_test(r_matrix, cov_p, invcov, use_f, df_constraints, scalar)
        R, q = self._restrictions(r_matrix)
        if np.any(R[:, ~known] != 0.0):
            return _untold(self.df_resid if use_f else None, df_constraints or len(R))
        results, covariance = self._with_zeros(known, cov_p)
        return base.LikelihoodModelResults.wald_test(
            results, (R, q), covariance, invcov, use_f, df_constraints, scalar
        )

    def _check_names(self, r_matrix: Any) -> None:
        """Name the parameter that is nearest to one that there is not."""
        texts = [r_matrix] if isinstance(r_matrix, str) else r_matrix
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            return
        names = [str(name) for name in self.model.data.cov_names]
        for text in texts:
            try:
                hypothesis(text, 0.0, names)
            except OptionError as error:
                raise HypothesisError(str(error)) from error

    def _known(self, cov_p: Any) -> np.ndarray:
        """Parameters with a standard error, shape of `params`."""
        covariance = np.asarray(self.cov_params() if cov_p is None else cov_p)
        return ~(np.isnan(np.diag(covariance)) | np.isnan(self.params))

    def _restrictions(self, r_matrix: Any) -> tuple[np.ndarray, np.ndarray]:
        from patsy import DesignInfo

        found = DesignInfo(list(self.model.data.cov_names)).linear_constraint(r_matrix)
        return np.asarray(found.coefs, dtype=np.float64), np.asarray(
            found.constants, dtype=np.float64
        ).ravel()

    def _with_zeros(self, known: np.ndarray, cov_p: Any) -> tuple[Any, np.ndarray]:
        """The results and their covariance with zeros for what is not known."""
        covariance = np.array(self.cov_params() if cov_p is None else cov_p, dtype=np.float64)
        covariance[~known], covariance[:, ~known] = 0.0, 0.0
        results = object.__new__(type(self))
        results.__dict__.update(self.__dict__)
        results.params = np.where(known, self.params, 0.0)
        return results, covariance


def _untold(df_resid: float | None, rows: int) -> ContrastResults:
    """An F test, or without `df_resid` a chi-square test, of what is not known."""
    if df_resid is not None:
        return ContrastResults(F=np.nan, df_denom=df_resid, df_num=rows)
    return ContrastResults(
        chi2=np.nan, statistic=np.nan, df_denom=rows, distribution="chi2", distargs=(rows,)
    )
