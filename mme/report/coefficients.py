"""Tables of fixed effects with degrees of freedom, for results of both doors."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import OptionError
from ..fit.fitted import Fitted
from ..inference.coefficients import Basis, Rows, check_alpha, inference_basis
from ..inference.robust import sandwich_basis
from ..inference.tails import f_tail

__all__ = ["CoefficientTables", "coef_table", "contrast_table"]


class CoefficientTables:
    """What results of both doors say of their fixed effects."""

    @property
    def fitted(self) -> Fitted:
        """The estimate with its labels."""
        raise NotImplementedError

    @property
    def _small_sample(self) -> dict[str, Any]:
        """What was computed for tables before: arrays, no data."""
        return self.__dict__.setdefault("_small_sample_pieces", {})

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
            cannot give them (iterative fits, penalties), which ``attrs["notes"]`` then says.
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
        are connected (crossed factors of thousands of levels) it may take longer than the fit.

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
        L : array_like, shape (p,) or (q, p); or Series or DataFrame
            Rows of the hypothesis.  Those of pandas go by the names of the coefficients; what they do not
            name is zero.
        value : float or array_like, shape (q,)
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
            As `coef_table`; L of the wrong length, or a name that is no coefficient's.
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
    matrix = _hypothesis(L, fitted.labels.fixed)
    try:
        against = np.broadcast_to(np.asarray(value, dtype=np.float64), (len(matrix),))
    except ValueError as error:
        raise OptionError(f"value must be a number, or {len(matrix)} of them, one per row of L.") from error
    basis = _basis(fitted, ddf, information, cache, cov_type, cluster)
    if len(matrix) == 1:
        return _described(_frame(basis.rows(matrix, against, alpha), pd.RangeIndex(1)), basis, alpha)
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
    return pd.DataFrame({f.name: getattr(rows, f.name) for f in fields(rows)}, index=index)


def _described(frame: pd.DataFrame, basis: Basis, alpha: float) -> pd.DataFrame:
    frame.attrs.update(
        {"ddf": basis.ddf, "information": basis.information, "alpha": alpha, "notes": basis.notes}
    )
    return frame


def _hypothesis(L: Any, names: tuple[str, ...]) -> np.ndarray:
    """Rows over the coefficients, shape (q, p)."""
    if isinstance(L, pd.Series):
        L = L.to_frame().T
    if isinstance(L, pd.DataFrame):
        unknown = [str(name) for name in L.columns if name not in names]
        if unknown:
            raise OptionError(
                f"L names {', '.join(unknown)}, which are no coefficients. Known: {', '.join(names)}."
            )
        L = L.reindex(columns=list(names), fill_value=0.0)
    try:
        matrix = np.atleast_2d(np.asarray(L, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise OptionError("L must hold numbers: one row, or rows of equal length.") from error
    if matrix.ndim != 2 or matrix.shape[1] != len(names) or len(matrix) == 0:
        raise OptionError(
            f"L has shape {np.shape(L)}; its rows need {len(names)} numbers, one per coefficient: "
            f"{', '.join(names)}."
        )
    if not np.all(np.isfinite(matrix)):
        raise OptionError("L has values that are missing or infinite.")
    return matrix
