"""conf_int of MixedLM: statsmodels' by default, and intervals by profile or bootstrap when asked for."""

from __future__ import annotations

import functools
from typing import Any

import statsmodels.base.model as base

from ...report.confidence import confidence_intervals
from ...report.inferences import Inferences

__all__ = ["FacadeIntervals", "keep_own_labels"]


class FacadeIntervals(Inferences):
    """What results say beyond their estimates, with statsmodels' `conf_int`."""

    def conf_int(
        self,
        alpha: float = 0.05,
        cols: Any = None,
        *,
        method: str | None = None,
        parm: Any = None,
        ddf: str | None = None,
        reml: bool = False,
        n_boot: int = 500,
        seed: int = 0,
    ) -> Any:
        """Confidence intervals.

        Parameters
        ----------
        alpha : float
            One less the level.
        cols : array_like of int, optional
            Rows of statsmodels' table.
        method : {"wald", "profile", "boot"}, optional
            By default, and without `parm`, statsmodels' table: all parameters on the **ratio scale**, by the
            normal distribution.  "wald": estimate and standard error, of variances on the logarithm and of
            correlations on Fisher's z; "profile": profile likelihood of the ML fit; "boot": percentiles of a
            parametric bootstrap.
        parm : str or sequence of str, optional
            Fixed effects by their names, ``"sd_Days|Subject"`` (the intercept goes by the name that
            statsmodels gives it), ``"cor_Days.Subject|Subject"``, ``"sigma"``; ``"beta_"`` stands for all
            fixed effects, ``"theta_"`` for all others.  **Standard deviations**.  By default the fixed
            effects for "wald", else all.
        ddf : str, optional
            Degrees of freedom of Wald intervals of fixed effects, as in `coef_table`; by default the normal
            distribution.
        reml : bool
            Profile the restricted likelihood, which knows variances alone; with few groups its intervals
            cover better than those of ML.
        n_boot, seed : int
            Of the bootstrap.

        Returns
        -------
        pandas.DataFrame or ndarray
            statsmodels' table, or a frame by name with columns 0 and 1 whose ``attrs["notes"]`` says what a
            reader should know.

        Raises
        ------
        OptionError
            An unknown name or method.
        InferenceError
            What this fit cannot give.
        """
        if method is None and parm is None and ddf is None and not reml:
            rows = {} if cols is None else {"cols": cols}
            return base.LikelihoodModelResults.conf_int(self, alpha, **rows)
        wald = method is None or str(method).lower() == "wald"
        return confidence_intervals(
            self.fitted,
            "wald" if method is None else method,
            parm,
            alpha,
            ddf="normal" if wald and ddf is None else ddf,
            reml=reml,
            n_boot=n_boot,
            seed=seed,
            cache=self._small_sample,
        )


def keep_own_labels(wrapper: type) -> None:
    """Let the wrapper of results label statsmodels' table alone: other tables have names of their own."""
    labelled = wrapper.conf_int  # type: ignore[attr-defined]

    @functools.wraps(labelled)
    def conf_int(self: Any, alpha: float = 0.05, cols: Any = None, **chosen: Any) -> Any:
        if not any(chosen.get(name) is not None for name in ("method", "parm", "ddf")) and not chosen.get(
            "reml"
        ):
            return labelled(self, alpha, cols, **chosen)
        return self._results.conf_int(alpha, cols, **chosen)

    wrapper.conf_int = conf_int  # type: ignore[attr-defined]
