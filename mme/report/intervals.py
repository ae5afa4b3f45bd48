"""Intervals of parameters and of functions of them, for results of both doors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ..engine.runtime.scipys import special
from ..exceptions import OptionError
from ..inference.bootstrap import check_draws, draw, percentiles
from ..inference.coefficients import check_alpha
from ..inference.delta import Delta, delta_rule, joint_covariance
from ..inference.explained import shares_of
from ..inference.heritability import heritability_of, profile_interval
from ..inference.parameters import Values, check_option, estimates
from ..inference.variance_table import variance_rows
from .confidence import ProfileResult, profile_result
from .labels import names_of, plain
from .reported import Reported

__all__ = ["Intervals"]

_METHODS = ("delta", "boot")


class Intervals(Reported):
    """Intervals that results of both doors have."""

    def r2(
        self, method: str | None = None, alpha: float = 0.05, n_boot: int = 500, seed: int = 0
    ) -> pd.DataFrame:
        """Marginal and conditional R2 of Nakagawa, Johnson and Schielzeth.

        Parameters
        ----------
        method : {"delta", "boot"}, optional
            Also give standard errors and intervals: by the delta rule, or of `n_boot` simulated responses.
        alpha : float
            One less the level of the intervals.
        n_boot, seed : int
            Of the parametric bootstrap.

        Returns
        -------
        pandas.DataFrame
            Rows ``marginal`` (share of the fixed part) and ``conditional`` (of fixed and random parts
            together) of the variance of the response; column ``estimate``, with `method` also ``se``,
            ``lower``, ``upper``, on the logit scale and back ("delta") or percentiles ("boot").  A share that
            is zero because variances are at zero has no standard error.

        Raises
        ------
        InferenceError
            The data were removed; `method` on a fit that has no exact covariance of its variances.

        Notes
        -----
        The fixed part's variance is that of X b over the rows, a random term's the mean of z'Tz over the rows
        (Johnson 2014), T the covariance of its effects; the residual variance is that of a row with weight
        one, and offsets count as known.

        References
        ----------
        Nakagawa, Johnson & Schielzeth (2017), Journal of the Royal Society Interface 14, 20170213.

        Examples
        --------
        >>> import mme, pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> mme.lmer("Reaction ~ Days + (Days | Subject)", sleep).r2().round(4)
                     estimate
        marginal       0.2787
        conditional    0.7992
        """
        shares = shares_of(self.fitted, "r2()")
        return self._shares(shares.r2, ["marginal", "conditional"], method, alpha, n_boot, seed)

    def icc(
        self,
        by_term: bool = False,
        method: str | None = None,
        alpha: float = 0.05,
        n_boot: int = 500,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Intraclass correlations: the random part's share of the variance.

        Parameters
        ----------
        by_term : bool
            Also the share of every random term in the adjusted one.
        method, alpha, n_boot, seed
            As in `r2`.

        Returns
        -------
        pandas.DataFrame
            Rows ``adjusted`` (of random and residual variance) and ``unadjusted`` (of all, the fixed part's
            too), then the terms by their grouping factors; columns as in `r2`.

        Raises
        ------
        InferenceError
            As `r2`.

        Examples
        --------
        >>> import mme, pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> mme.lmer("Reaction ~ Days + (1 | Subject)", sleep).icc(method="delta").round(3)
                    estimate     se  lower  upper
        adjusted       0.589  0.093  0.403  0.753
        unadjusted     0.424  0.093  0.259  0.608
        """
        shares = shares_of(self.fitted, "icc()")
        names = ["adjusted", "unadjusted"]
        names += [t.group for t in self.fitted.labels.terms] if by_term else []
        return self._shares(
            lambda values: shares.icc(values)[: len(names)], names, method, alpha, n_boot, seed
        )

    def heritability(
        self,
        term: str | None = None,
        effect: str | None = None,
        method: str | None = None,
        alpha: float = 0.05,
        n_boot: int = 500,
        seed: int = 0,
    ) -> pd.DataFrame:
        """The share of a term's variance in the phenotypic variance, h2 for additive genetic effects.

        Parameters
        ----------
        term : str, optional
            Its grouping factor; by default the term with a known relationship.
        effect : str, optional
            Of a term with several.
        method : {"delta", "profile", "boot"}, optional
            Also give an interval: by the delta rule, on the logit; of the profile likelihood (terms of one
            effect); or of `n_boot` simulated responses.
        alpha, n_boot, seed
            As in `r2`.

        Returns
        -------
        pandas.DataFrame
            One row; ``estimate`` and, with a method, ``se`` (NaN for "profile"), ``lower``, ``upper``.

        Raises
        ------
        OptionError
            A term or an effect that is not there, or none where several could be meant.
        InferenceError
            As `r2`.

        Notes
        -----
        Fixed effects do not count, and variances are those of a base population that is not inbred: z'D z
        averaged over the rows for every term, with the covariance between direct and maternal effects where
        they are one term.

        Examples
        --------
        >>> import mme
        >>> import numpy as np
        >>> import pandas as pd
        >>> rng = np.random.default_rng(1)
        >>> sire, dam = np.repeat(np.arange(1, 11), 10), np.arange(11, 111)
        >>> pedigree = mme.Pedigree(np.arange(111, 211), sire, dam, add_parents=True)
        >>> y = 0.3 * rng.normal(size=10)[sire - 1] + rng.normal(size=100)
        >>> data = pd.DataFrame({"animal": np.arange(111, 211), "y": y})
        >>> result = mme.lmer("y ~ 1 + (1 | animal)", data, relationship={"animal": pedigree})
        >>> list(result.heritability().index)
        ['animal']
        """
        share = heritability_of(self.fitted, term, effect, "heritability()")
        names = [self.fitted.labels.terms[share.term].group]
        if method is not None and check_option("method", method, (*_METHODS, "profile")) == "profile":
            alpha = check_alpha(alpha)
            lower, upper = profile_interval(self.fitted, share, 1.0 - alpha, "heritability()")
            estimate = share.share(estimates(self.fitted))
            columns = {"estimate": estimate, "se": np.nan, "lower": lower, "upper": upper}
            return pd.DataFrame(columns, index=names)
        return self._shares(share.share, names, method, alpha, n_boot, seed)

    def _shares(
        self,
        function: Callable[[Values], np.ndarray],
        names: list[str],
        method: str | None,
        alpha: float,
        n_boot: int,
        seed: int,
    ) -> pd.DataFrame:
        alpha = check_alpha(alpha)
        index = pd.Index(names, dtype=object)
        if method is None:
            return pd.DataFrame({"estimate": function(estimates(self.fitted))}, index=index)
        if check_option("method", method, _METHODS) == "boot":
            draws = draw(self.fitted, *check_draws(n_boot, seed))
            values = draws.of(function)
            lower, upper = percentiles(values, alpha).T
            frame = pd.DataFrame(
                {
                    "estimate": function(estimates(self.fitted)),
                    "se": values.std(axis=0, ddof=1),
                    "lower": lower,
                    "upper": upper,
                },
                index=index,
            )
            frame.attrs["notes"] = draws.notes
            return frame
        delta = delta_rule(joint_covariance(self.fitted, f"method={method!r}"), function)
        estimate, se = delta.estimate, _error(delta)
        with np.errstate(divide="ignore", invalid="ignore"):
            half = -special.ndtri(alpha / 2.0) * se / (estimate * (1.0 - estimate))
            logit = special.logit(estimate)
            lower, upper = special.expit(logit - half), special.expit(logit + half)
        return pd.DataFrame({"estimate": estimate, "se": se, "lower": lower, "upper": upper}, index=index)

    def delta(self, f: Callable[[Values], Any], alpha: float = 0.05) -> pd.DataFrame:
        """Any function of the parameters, with its standard error by the delta rule.

        Parameters
        ----------
        f : callable
            Takes the parameters by name, as in ``p["Days"] / p["sigma"]``: fixed effects by their names,
            ``p["sd_Days|Subject"]``, ``p["cor_Days.(Intercept)|Subject"]``, ``p["sigma"]``; ``p.fixed``,
            ``p.cov["Subject"]`` and ``p.sigma2`` are the arrays.  Returns a number, several, or a dict or a
            Series of numbers.
        alpha : float
            One less the level of the intervals.

        Returns
        -------
        pandas.DataFrame
            A row per value; columns ``estimate``, ``se``, ``lower``, ``upper``, by the normal distribution.
            NaN errors where a value depends on what the data do not tell, or on nothing that moves (a
            variance at zero).

        Raises
        ------
        InferenceError
            After an iterative fit, and where the estimate is no maximum of the likelihood.
        OptionError
            An unknown name, or a result that is no number.

        Notes
        -----
        The gradient is a central difference along the covariance of fixed effects and variances: the one
        behind the standard errors of these results for the former, the inverse of the exact Hessian for the
        latter, none between the two (their expected information is zero).

        Examples
        --------
        >>> import mme, pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.delta(lambda p: {"effect size": p["Days"] / p["sd_Days|Subject"]}).round(3)
                     estimate     se  lower  upper
        effect size     1.767  0.455  0.876  2.659
        """
        alpha = check_alpha(alpha)
        if not callable(f):
            raise OptionError(
                f"f={f!r} must be a function of the parameters, such as lambda p: p['sigma'] ** 2."
            )
        joint = joint_covariance(self.fitted, "delta()")
        first = f(joint.values(joint.at))
        delta = delta_rule(joint, lambda values: plain(f(values)))
        se = _error(delta)
        half = -special.ndtri(alpha / 2.0) * se
        return pd.DataFrame(
            {
                "estimate": delta.estimate,
                "se": se,
                "lower": delta.estimate - half,
                "upper": delta.estimate + half,
            },
            index=names_of(first, delta.estimate.size),
        )

    def profile(
        self, parm: Any = None, alpha: float = 0.01, points: int = 5, reml: bool = False
    ) -> ProfileResult:
        """Profile likelihoods: of the deviance of the ML fit, one parameter held at a value, as lme4's.

        Parameters
        ----------
        parm : str or sequence of str, optional
            Fixed effects by their names, ``"sd_Days|Subject"``, ``"cor_Days.(Intercept)|Subject"``,
            ``"sigma"``; ``"beta_"`` stands for all fixed effects, ``"theta_"`` for all others.  By default
            all parameters.
        alpha : float
            The curves go as far as intervals of level 1 - alpha.
        points : int
            Values between the estimate and either end.
        reml : bool
            Profile the restricted likelihood, which knows variances alone; with few groups its intervals
            cover better than those of ML.

        Returns
        -------
        ProfileResult
            ``frame`` (parameter, value, zeta) for plots, ``conf_int(alpha)``, ``notes``.

        Raises
        ------
        InferenceError
            After an iterative fit, and where the estimate is no maximum of the likelihood.
        OptionError
            An unknown name.

        Notes
        -----
        REML fits are refitted by ML.  Curves end at the boundary (a standard deviation of zero, a correlation
        of +-1) where the deviance does not rise enough before.

        References
        ----------
        Bates, Maechler, Bolker & Walker (2015), Journal of Statistical Software 67(1), section 5.1.

        Examples
        --------
        >>> import mme, pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.profile("sd_Days|Subject").conf_int().round(2)
                           0     1
        sd_Days|Subject  3.8  8.75
        """
        return profile_result(self.fitted, parm, alpha, points, reml)

    def variance_table(self, scale: str = "sd", alpha: float = 0.05) -> pd.DataFrame:
        """Variances and covariances, or standard deviations and correlations, with errors and intervals.

        Parameters
        ----------
        scale : {"sd", "var"}
            Standard deviations and correlations, or variances and covariances.
        alpha : float
            One less the level of the intervals.

        Returns
        -------
        pandas.DataFrame
            Rows as ``varcorr`` of lmer's results: every term's variances, then its covariances; the residual
            last.  Columns ``grp``, ``var1``, ``var2``, ``estimate``, ``se``, ``lower``, ``upper``: intervals
            by the normal distribution of the logarithm (variances, standard deviations) and of Fisher's z
            (correlations; a covariance's is that of the estimate); ``wald_lower``, ``wald_upper``: estimate
            -+ quantile x se. NaN for what is held at the boundary or not told by the data.  Small numbers of
            levels are better served by ``conf_int(method="profile")``.

        Raises
        ------
        InferenceError
            The estimate is no maximum of the likelihood.

        Examples
        --------
        >>> import mme, pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> table = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep).variance_table()
        >>> table[["var1", "estimate", "se", "lower", "upper"]].round(2)
                  var1  estimate    se  lower  upper
        0  (Intercept)     24.74  5.84  15.58  39.28
        1         Days      5.92  1.25   3.92   8.95
        2  (Intercept)      0.07  0.33  -0.52   0.61
        3         None     25.59  1.51  22.80  28.72
        """
        check_option("scale", scale, ("sd", "var"))
        rows = variance_rows(self.fitted, scale, check_alpha(alpha))
        text = {name: pd.Series(rows.pop(name), dtype=object) for name in ("grp", "var1", "var2")}
        return pd.DataFrame({**text, **{name: np.array(values, float) for name, values in rows.items()}})


def _error(delta: Delta) -> np.ndarray:
    """Standard errors; NaN for what nothing moves."""
    return np.where(delta.se > 0.0, delta.se, np.nan)
