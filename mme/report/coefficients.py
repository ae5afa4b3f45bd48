"""Tables of fixed effects with degrees of freedom, for results of both doors."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import fields
from typing import Any

import pandas as pd

from ..fit.fitted import Fitted
from ..inference.coefficients import Basis, Rows, check_alpha, inference_basis
from ..inference.robust import sandwich_basis
from ..inference.tails import f_tail
from .hypotheses import check_together, hypothesis
from .reported import Reported

__all__ = ["CoefficientTables", "coef_table", "contrast_table"]


class CoefficientTables(Reported):
    """What results of both doors say of their fixed effects."""

    def coef_table(
        self,
        ddf: str | None = None,
        alpha: float = 0.05,
        information: str | None = None,
        cov_type: str | None = None,
        cluster: Any = None,
    ) -> pd.DataFrame:
        """Fixed effects with degrees of freedom, t, p and intervals.

        Parameters
        ----------
        ddf : {"satterthwaite", "kenward-roger", "normal", "residual"}, optional
            Degrees of freedom.  "kenward-roger" also adjusts the standard errors, and is defined for REML;
            "residual" is n - rank(X).  By default Satterthwaite's, and the normal distribution where the fit
            cannot give them (penalties, parameters held), which ``attrs["notes"]`` then says.
        alpha : float
            One less the level of the intervals.
        information : {"observed", "expected"}, optional
            From which the covariance of the estimated variances is taken.  By default "observed" for
            Satterthwaite (as lmerTest and SAS) and "expected" for Kenward and Roger (as pbkrtest; SAS and JMP
            take "observed").
        cov_type : {"HC0", "CR0", "CR1", "CR2"}, optional
            Standard errors that do not rely on the variances' being right: cluster-robust sandwiches, with
            `ddf` "satterthwaite" (their own, the default) or "normal".  "CR2" is unbiased under the model
            (Bell & McCaffrey); "HC0" takes the rows, whitened by the model, for themselves.
        cluster : str, array_like of shape (n,), or list of these, optional
            What clusters the rows: a grouping factor of the model by name, or a label per row of the fit.
            Rows that share random effects must share a cluster.  A list of several crossed clusterings is
            taken by inclusion and exclusion (CR0 and CR1).

        Returns
        -------
        pandas.DataFrame
            A row per coefficient; columns ``estimate``, ``se``, ``df``, ``t``, ``p``, ``lower``, ``upper``.
            After an iterative fit ``se_error`` and ``df_error`` too, Monte Carlo errors of ``se`` and ``df``.
            Columns that were dropped are NaN.  ``attrs`` holds ``ddf``, ``information``, ``alpha`` and
            ``notes``: at a singular covariance observed information holds what is at the boundary there,
            expected information counts it as estimated.

        Raises
        ------
        OptionError
            An unknown `ddf` or `information`, an `alpha` outside of (0, 1).
        InferenceError
            Degrees of freedom that were asked for by name, and that this fit cannot give.

        Notes
        -----
        Standard errors of Satterthwaite's table are those given the variances.  `MixedLM`'s ``bse_fe``, which
        "normal" and "residual" show there, come from the joint information of all parameters and differ a
        little in unbalanced data.

        Exact for every design that is fitted directly; nothing of size n x n is formed.  Where many levels
        are connected (crossed factors of thousands of levels) it may take longer than the fit.  After an
        iterative fit it takes conjugate gradients again, about as long as the fit.

        References
        ----------
        Satterthwaite (1946), Biometrics Bulletin 2, 110-114.  Kenward & Roger (1997), Biometrics 53, 983-997.
        Pustejovsky & Tipton (2018), Journal of Business & Economic Statistics 36, 672-683.

        Examples
        --------
        >>> import pandas as pd, mme
        >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.coef_table(ddf="kenward-roger")[["estimate", "se", "df"]].round(3)
                     estimate     se    df
        (Intercept)   251.405  6.825  17.0
        Days           10.467  1.546  17.0
        """
        return coef_table(self.fitted, ddf, alpha, information, self._small_sample, cov_type, cluster)

    def contrast(
        self,
        L: Any,
        value: Any = 0.0,
        ddf: str | None = None,
        alpha: float = 0.05,
        information: str | None = None,
        cov_type: str | None = None,
        cluster: Any = None,
    ) -> pd.DataFrame:
        """Linear hypotheses L b = value about the fixed effects: t of one row, F of several.

        Parameters
        ----------
        L : str, array_like of shape (p,) or (q, p), mapping, Series, DataFrame, or a list of these
            The hypothesis.  Text goes by the names of the coefficients, as they are: ``"Days - 10 = 0"``,
            ``"A[T.b] = A[T.c] = 0"``, ``["A[T.b]:x = 0", "x = 2"]``.  So do mappings and what is pandas',
            where zero is what they do not name; rows of numbers go by position.  Several rows are one joint
            hypothesis.
        value : float or array_like, shape (q,)
            Of rows of numbers; text has its own.
        ddf, alpha, information, cov_type, cluster
            As in `coef_table`.

        Returns
        -------
        pandas.DataFrame
            One row.  Of one row of L the columns of `coef_table`; of several ``F``, ``df1``, ``df2``, ``p``,
            Satterthwaite's denominator after Fai & Cornelius, Kenward and Roger's F scaled by their factor, a
            sandwich's that of the approximate Hotelling's T^2.
            Dependent rows count once.  What the data do not tell is NaN.

        Raises
        ------
        OptionError
            As `coef_table`; L of the wrong length, a name that is no coefficient's, rows that contradict one
            another.
        InferenceError
            As `coef_table`.

        References
        ----------
        Fai & Cornelius (1996), Journal of Statistical Computation and Simulation 54, 363-378.

        Examples
        --------
        >>> import pandas as pd, mme
        >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.contrast([1, 5])[["estimate", "df"]].round(2)  # the mean after five days
           estimate    df
        0    303.74  17.0
        >>> result.contrast("Days - 10 = 0")[["estimate", "t"]].round(2)
           estimate    t
        0     10.47  0.3
        """
        return contrast_table(
            self.fitted, L, value, ddf, alpha, information, self._small_sample, cov_type, cluster
        )


def coef_table(
    fitted: Fitted,
    ddf: str | None = None,
    alpha: float = 0.05,
    information: str | None = None,
    cache: MutableMapping[str, Any] | None = None,
    cov_type: str | None = None,
    cluster: Any = None,
) -> pd.DataFrame:
    """See `CoefficientTables.coef_table`; `cache` keeps what several tables share."""
    alpha = check_alpha(alpha)
    basis = _basis(fitted, ddf, information, cache, cov_type, cluster)
    index = pd.Index(fitted.labels.fixed, dtype=object)
    return _described(_frame(basis.coefficients(alpha), index), basis, alpha)


def contrast_table(
    fitted: Fitted,
    L: Any,
    value: Any = 0.0,
    ddf: str | None = None,
    alpha: float = 0.05,
    information: str | None = None,
    cache: MutableMapping[str, Any] | None = None,
    cov_type: str | None = None,
    cluster: Any = None,
) -> pd.DataFrame:
    """See `CoefficientTables.contrast`; `cache` as in `coef_table`."""
    alpha = check_alpha(alpha)
    matrix, against = hypothesis(L, value, fitted.labels.fixed)
    basis = _basis(fitted, ddf, information, cache, cov_type, cluster)
    if len(matrix) == 1:
        return _described(_frame(basis.rows(matrix, against, alpha), pd.RangeIndex(1)), basis, alpha)
    check_together(matrix, against)
    test = basis.f_test(matrix, against)
    p = f_tail(test.F, test.df1, test.df2)
    frame = pd.DataFrame({"F": [test.F], "df1": [test.df1], "df2": [test.df2], "p": [p]})
    return _described(frame, basis, alpha)


def _basis(
    fitted: Fitted,
    ddf: str | None,
    information: str | None,
    cache: MutableMapping[str, Any] | None,
    cov_type: str | None,
    cluster: Any,
) -> Basis:
    if cov_type is None and cluster is None:
        return inference_basis(fitted, ddf, information, cache)
    return sandwich_basis(fitted, cov_type, cluster, ddf, information)


def _frame(rows: Rows, index: pd.Index) -> pd.DataFrame:
    columns = {f.name: getattr(rows, f.name) for f in fields(rows)}
    return pd.DataFrame({name: values for name, values in columns.items() if values is not None}, index=index)


def _described(frame: pd.DataFrame, basis: Basis, alpha: float) -> pd.DataFrame:
    frame.attrs.update(
        {"ddf": basis.ddf, "information": basis.information, "alpha": alpha, "notes": basis.notes}
    )
    return frame
