"""Estimates with labels: fixed effects, variances, random effects."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..inference.structured import variances_of
from ..inference.variance_table import correlation_errors
from ..report.coefficients import CoefficientTables
from ..report.confidence import confidence_intervals
from ..report.estimates import variance_components
from .values import FitValues

__all__ = ["Estimates"]


class Estimates(FitValues, CoefficientTables):
    """Fixed effects, variances and random effects of a fit."""

    # -- fixed effects ------------------------------------------------------------------------------------

    @cached_property
    def fe_params(self) -> pd.Series:
        """Fixed effects, shape (p,); NaN for columns dropped because they depend on earlier ones.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.fe_params.round(2)
        (Intercept)    251.41
        Days            10.47
        Name: fe_params, dtype: float64
        """
        return pd.Series(self.fit.beta, index=self._x_names, name="fe_params")

    @property
    def fixef(self) -> pd.Series:
        """lme4's name of `fe_params`.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.fixef.round(2)
        (Intercept)    251.41
        Days            10.47
        Name: fe_params, dtype: float64
        """
        return self.fe_params

    @cached_property
    def bse_fe(self) -> pd.Series:
        """Standard errors of the fixed effects given theta, shape (p,).

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.bse_fe.round(3)
        (Intercept)    6.825
        Days           1.546
        Name: bse_fe, dtype: float64
        """
        return pd.Series(np.sqrt(np.diag(self.fit.vcov_beta)), index=self._x_names, name="bse_fe")

    @cached_property
    def vcov_fe(self) -> pd.DataFrame:
        """Covariance of the fixed effects given theta, shape (p, p).

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.vcov_fe.round(2)
                     (Intercept)  Days
        (Intercept)        46.57 -1.45
        Days               -1.45  2.39
        """
        return pd.DataFrame(self.fit.vcov_beta, index=self._x_names, columns=self._x_names)

    def cov_params(self) -> pd.DataFrame:
        """Covariance of the fixed effects given theta, shape (p, p): `vcov_fe`.

        Returns
        -------
        pandas.DataFrame
            By the names of the fixed effects.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.cov_params().round(2)
                     (Intercept)  Days
        (Intercept)        46.57 -1.45
        Days               -1.45  2.39
        """
        return self.vcov_fe

    @cached_property
    def tvalues(self) -> pd.Series:
        """Fixed effects divided by their standard errors, shape (p,).

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.tvalues.round(2)
        (Intercept)    36.84
        Days            6.77
        Name: tvalues, dtype: float64
        """
        return (self.fe_params / self.bse_fe).rename("tvalues")

    @cached_property
    def pvalues(self) -> pd.Series:
        """Two-sided p of `tvalues` with Satterthwaite's degrees of freedom, shape (p,): `coef_table`'s.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> bool((result.pvalues < 1e-5).all())
        True
        """
        return self.coef_table()["p"].rename("pvalues")

    @cached_property
    def df(self) -> pd.Series:
        """Satterthwaite's degrees of freedom of the fixed effects, shape (p,): `coef_table`'s.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.df.round(1)
        (Intercept)    17.0
        Days           17.0
        Name: df, dtype: float64
        """
        return self.coef_table()["df"].rename("df")

    def conf_int(
        self,
        alpha: float = 0.05,
        ddf: str | None = None,
        *,
        method: str = "wald",
        parm: Any = None,
        reml: bool = False,
        n_boot: int = 500,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Confidence intervals.

        Parameters
        ----------
        alpha : float
            One less the level.
        ddf : str, optional
            Degrees of freedom of Wald intervals of fixed effects, as in `coef_table`: Satterthwaite's by
            default.
        method : {"wald", "profile", "boot"}
            "wald": estimate and standard error, of variances on the logarithm and of correlations on Fisher's
            z; "profile": profile likelihood of the ML fit, as lme4's `confint`; "boot": percentiles of a
            parametric bootstrap.
        parm : str or sequence of str, optional
            Fixed effects by their names, ``"sd_Days|Subject"``, ``"cor_Days.(Intercept)|Subject"``,
            ``"sigma"``; ``"beta_"`` stands for all fixed effects, ``"theta_"`` for all others.  By default
            the fixed effects for "wald", else all.
        reml : bool
            Profile the restricted likelihood, which knows variances alone; with few groups its intervals
            cover better than those of ML.
        n_boot, seed : int
            Of the bootstrap.

        Returns
        -------
        pandas.DataFrame
            Columns 0 and 1, as statsmodels'.  ``attrs["notes"]`` says what a reader should know.

        Raises
        ------
        OptionError
            An unknown name or method, an `alpha` outside of (0, 1).
        InferenceError
            What this fit cannot give.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.conf_int().round(1)
                         0      1
        (Intercept)  237.0  265.8
        Days           7.2   13.7
        >>> result.conf_int(method="profile", parm="sigma").round(1)
                  0     1
        sigma  22.9  28.9
        """
        return confidence_intervals(
            self.fitted,
            method,
            parm,
            alpha,
            ddf=ddf,
            reml=reml,
            n_boot=n_boot,
            seed=seed,
            cache=self._small_sample,
        )

    # -- variances ----------------------------------------------------------------------------------------

    @property
    def scale(self) -> float:
        """Residual variance sigma2, in the squared unit of the response.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> round(result.scale, 2)
        654.94
        """
        return self.fit.sigma2

    @property
    def sigma(self) -> float:
        """Residual standard deviation, in the unit of the response.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> round(result.sigma, 3)
        25.592
        """
        return float(np.sqrt(self.fit.sigma2))

    @cached_property
    def bse_re(self) -> pd.Series:
        """Standard errors of the (co)variances and of the residual variance, on the variance scale.

        From the exact Hessian of the deviance (direct fits) or from the average information (iterative ones);
        at a singular covariance along the covariances of its rank, NaN for what is held at zero and for what
        the data do not tell.  In the order of `varcorr`; estimates of variances are skewed, so that these
        make poor intervals: see `variance_table` and ``conf_int(method="profile")``.  That of a structure's
        correlation (cs, ar1, toep) is of the correlation itself.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.bse_re.round(1)
        grp       var1         var2
        Subject   (Intercept)  NaN     288.8
                  Days         NaN      14.8
                  (Intercept)  Days     46.7
        Residual  NaN          NaN      77.2
        Name: bse_re, dtype: float64
        """
        terms, errors = self._design.terms, self.fit.monte_carlo
        if errors is not None:
            entries = [se for se in errors.variance_se]
            residual = errors.sigma2_se
        else:
            estimated = variances_of(self.fitted)
            se = estimated.se
            entries, start = [], 0
            for t, term in enumerate(terms):
                matrix = np.full((term.k, term.k), np.nan)
                own = term.structure.entries(term.k)
                for i, (a, b) in enumerate(own, start=start):
                    matrix[a, b] = matrix[b, a] = se[i]
                if term.structure.tied:
                    part = slice(start, start + len(own))
                    lam = self.fit.lam[t]
                    C = estimated.covariance[part, part]
                    matrix = np.where(
                        np.eye(term.k) > 0.0, matrix, correlation_errors(self.scale * lam @ lam.T, C, own)
                    )
                start += len(own)
                entries.append(matrix)
            residual = float(se[-1])
        values: list[float] = []
        for term, matrix in zip(terms, entries, strict=True):
            shown = term.structure.shown(term.k)
            values += [matrix[a, b] for a, b in shown if a == b]
            values += [matrix[a, b] for a, b in shown if a != b]
        rows = self.varcorr
        index = pd.MultiIndex.from_frame(rows[["grp", "var1", "var2"]])
        return pd.Series([*values, residual], index=index, name="bse_re")

    @cached_property
    def theta(self) -> np.ndarray:
        """Free entries of the relative covariance factors, term by term in lme4's order, shape (n_theta,).

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.theta.round(4)
        array([0.9667, 0.0152, 0.2309])
        """
        return np.concatenate([np.zeros(0), *(np.atleast_1d(theta) for theta in self.fit.theta)])

    @property
    def varcorr(self) -> pd.DataFrame:
        """Variances and covariances of the random effects, laid out as lme4's ``as.data.frame(VarCorr(m))``.

        Columns ``grp``, ``var1``, ``var2``, ``vcov`` (variance or covariance) and ``sdcor`` (standard
        deviation or correlation): for each term the variances (`var2` is None), then the covariances; the
        residual last.  A correlation with a zero variance is NaN.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.varcorr[["grp", "var1", "var2", "sdcor"]].round(3)
                grp         var1  var2   sdcor
        0   Subject  (Intercept)  None  24.740
        1   Subject         Days  None   5.922
        2   Subject  (Intercept)  Days   0.066
        3  Residual         None  None  25.592
        """
        return variance_components(self.fitted)

    # -- random effects -----------------------------------------------------------------------------------

    @cached_property
    def random_effects(self) -> dict[str, pd.DataFrame]:
        """Conditional modes (BLUPs): {grouping factor: frame of levels x effects}.

        Terms with the same grouping factor share a frame.  Rows carry the levels' own values; combinations of
        several columns are text joined by ``:``.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.random_effects["Subject"].head(2).round(1)
                 (Intercept)  Days
        Subject
        308              2.3   9.2
        309            -40.4  -8.6
        """
        labels = self.model.model_design
        merged: dict[str, list[int]] = {}
        for t, group in enumerate(labels.groups):
            merged.setdefault(group, []).append(t)
        out = {}
        for group, terms in merged.items():
            values = [np.reshape(self.fit.u[t], (self._design.terms[t].n_levels, -1)) for t in terms]
            names = [name for t in terms for name in self._design.terms[t].column_names]
            index = labels.factors[terms[0]].levels.rename(group)
            out[group] = pd.DataFrame(np.hstack(values), index=index, columns=names)
        return out

    @property
    def ranef(self) -> dict[str, pd.DataFrame]:
        """lme4's name of `random_effects`.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.ranef["Subject"].head(2).round(1)
                 (Intercept)  Days
        Subject
        308              2.3   9.2
        309            -40.4  -8.6
        """
        return self.random_effects

    @cached_property
    def n_groups(self) -> dict[str, int]:
        """Number of levels of every grouping factor.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.n_groups
        {'Subject': 18}
        """
        labels = self.model.model_design
        return {group: factor.n_levels for group, factor in zip(labels.groups, labels.factors, strict=True)}

    @property
    def ngrps(self) -> dict[str, int]:
        """lme4's name of `n_groups`.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.ngrps
        {'Subject': 18}
        """
        return self.n_groups
