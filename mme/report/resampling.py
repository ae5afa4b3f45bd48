"""Simulated responses, refits and bootstraps, for results of both doors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import DataError, OptionError
from ..fit.fitted import Fitted
from ..inference.bootstrap import BACKENDS, check_count, check_workers
from ..inference.bootstrap_ratio import bootstrap_ratio
from ..inference.parameters import Values, check_option
from ..inference.simulation import ParametricDraws, rows_of_fit
from .bootstrap import BootstrapResult, bootstrap_result
from .reported import Reported

__all__ = ["Resampling", "checked_response", "row_index"]

_EFFECTS = ("new", "conditional")


class Resampling(Reported):
    """Draws from the model that results of both doors make."""

    def _refitted(self, y: np.ndarray) -> Any:
        raise NotImplementedError

    def _updated(self, formula: str | None, data: Any, options: dict[str, Any]) -> Any:
        raise NotImplementedError

    def simulate(self, n: int = 1, seed: int = 0, random_effects: str = "new") -> pd.DataFrame:
        """Responses drawn from the fitted model.

        Parameters
        ----------
        n : int
            How many.
        seed : int
            Response i depends on `seed` and i alone, and is the one that draw i of a parametric `bootstrap`
            is fitted to.
        random_effects : {"new", "conditional"}
            Drawn from their distribution, or held at the conditional modes of the fit.

        Returns
        -------
        pandas.DataFrame, shape (rows of the fit, n)
            On the index of the data: X b + offset + Z u + e, e with variance scale / weights.

        Raises
        ------
        InferenceError
            The data were removed.

        Examples
        --------
        >>> import mme, pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> results = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> responses = results.simulate(2, seed=1)
        >>> again = results.refit(responses[0])
        """
        fitted = self.fitted
        n, seed = check_count("n", n, 1), check_count("seed", seed, 0)
        kind = check_option("random_effects", random_effects, _EFFECTS)
        design = rows_of_fit(fitted, "simulate()")
        draws = ParametricDraws.of(design, fitted, kind == "conditional")
        out = np.empty((design.n, n), order="F")
        for i in range(n):
            out[:, i] = draws.response(seed, i)
        return pd.DataFrame(out, index=row_index(fitted), columns=pd.RangeIndex(n))

    def refit(self, y: Any) -> Any:
        """The same model fitted to another response; what the design decides is not made again.

        Parameters
        ----------
        y : array_like, shape (rows of the fit,)
            In the order of the rows of the fit, those with missing values left out; a Series with the index
            of the fit's rows in any order.

        Returns
        -------
        Results of the same kind, with the solver and the options of this fit; it begins afresh.

        Raises
        ------
        DataError
            Another length or index, missing, infinite or text values; the data were removed.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> again = result.refit(result.simulate(seed=1).iloc[:, 0])
        >>> again.fe_params.index.tolist()
        ['(Intercept)', 'Days']
        """
        fitted = self.fitted
        rows_of_fit(fitted, "refit()")
        return self._refitted(checked_response(fitted, y))

    def update(self, formula: str | None = None, data: Any = None, **options: Any) -> Any:
        """The model fitted again with something changed.

        Parameters
        ----------
        formula : str, optional
            ``.`` stands for what was there, as in R: ``". ~ . + x"``, ``". ~ . - (x | g)"``,
            ``"log(.) ~ ."``.
        data : DataFrame, optional
            By default that of the model.
        **options
            Arguments of the model and of its fit, ``reml=False`` or ``weights="w"``; all others are
            as they were.  What is given as an array has to have as many rows as the data.

        Returns
        -------
        Results of the same kind.

        Raises
        ------
        FormulaError
            A term to be left out that is not there; a formula that cannot be read.
        OptionError
            A model that was not made by a formula; an unknown option.

        Examples
        --------
        >>> import mme, pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> results = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> results.update(". ~ . - (Days | Subject) + (1 | Subject)").formula
        'Reaction ~ Days + (1 | Subject)'
        """
        return self._updated(formula, data, options)

    def bootstrap(
        self,
        n: int = 500,
        seed: int = 0,
        workers: Any = 1,
        *,
        statistic: Callable[[Values], Any] | None = None,
        kind: str = "parametric",
        first: int = 0,
        backend: str = "threads",
        progress: bool | None = None,
        n_boot: int | None = None,
    ) -> BootstrapResult:
        """Bootstrap: responses drawn from the fit, each fitted again.

        Parameters
        ----------
        n : int
            Draws.
        seed : int
            Draw i depends on `seed` and i alone.
        workers : int or distributed.Client
            Threads or processes, or a Dask cluster's; the draws are the same whatever their number.
        statistic : callable, optional
            What to keep of every fit: a function of the parameters, as `delta` takes it (``p["Days"]``,
            ``p["sd_Days|Subject"]``, ``p.fixed``, ``p.cov``, ``p.sigma2``), to a number, several or a dict.
            By default all parameters are kept.
        kind : {"parametric", "residual", "cluster"}
            What is drawn: random effects and residuals from their normal distributions; both from the fit's
            own, with replacement, scaled to the estimated covariances; or clusters of rows that share no
            random effect, with replacement.
        first : int
            Number of the first draw: ``bootstrap(500, seed=1, first=500)`` goes on where
            ``bootstrap(500, seed=1)`` ended; so does ``more(500)`` of the latter.
        backend : {"threads", "processes"}
            What workers are.  Threads share the memory and gain where models are large; processes take two
            seconds to begin, and a script needs ``if __name__ == "__main__":`` around what starts them.
        progress : bool, optional
            A bar; None: on a terminal, once it has taken a while.
        n_boot : int, optional
            `n`, by the name that `conf_int` has for it.

        Returns
        -------
        BootstrapResult
            ``draws``, ``estimate``, ``bias``, ``se``, ``conf_int(alpha, f, method)``, ``failures``,
            ``singular``, ``more(n)``.

        Raises
        ------
        OptionError
            Senseless numbers, an unknown `kind`, a statistic that fails or changes its shape.
        InferenceError
            The data were removed; the estimate is no maximum of a likelihood; "cluster" with crossed factors.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> boot = result.bootstrap(50, seed=1)
        >>> boot.conf_int().shape
        (6, 2)
        >>> boot.failures
        0
        """
        return bootstrap_result(
            self.fitted, n if n_boot is None else n_boot, seed, workers,
            statistic=statistic, kind=kind, first=first, backend=backend, progress=progress,
        )  # fmt: skip

    def bootstrap_test(
        self,
        other: Any,
        n: int = 500,
        seed: int = 0,
        workers: Any = 1,
        *,
        refit: str | None = None,
        backend: str = "threads",
        progress: bool | None = None,
    ) -> pd.DataFrame:
        """Likelihood ratio test of two nested models by a parametric bootstrap.

        Responses are drawn from the smaller model, and both are fitted to each.

        Parameters
        ----------
        other : results
            Of the other model, fitted to the same rows, by either door; which is the smaller one is found.
        n, seed, workers
            As in `bootstrap`.
        refit : {"ml"}, optional
            Fit REML results again by ML, as models with different fixed effects need.
        backend, progress
            As in `bootstrap`.

        Returns
        -------
        pandas.DataFrame
            A row ``LRT``: ``statistic``, ``Df``, ``p`` (the data count as one of the draws), ``error`` (its
            Monte Carlo standard error), ``p_chi2``, ``p_boundary`` (as `mme.compare` has them), ``nsim``,
            ``failures``, ``singular``.  ``attrs`` has ``null`` (the draws' statistics), ``smaller``,
            ``larger``, ``method``, ``seed`` and ``notes``.

        Raises
        ------
        OptionError
            Models that are not nested; REML fits with different fixed effects, without `refit`.
        DataError
            Different rows, responses or weights.
        InferenceError
            After iterative fits.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> smaller = mme.lmer("Reaction ~ 1 + (Days | Subject)", sleep)
        >>> test = result.bootstrap_test(smaller, n=50, seed=1, refit="ml")
        >>> bool(test["p"].iloc[-1] < 0.05)
        True
        """
        n, seed = check_count("n", n, 10), check_count("seed", seed, 0)
        workers, backend = check_workers(workers), check_option("backend", backend, BACKENDS)
        fitted = getattr(other, "fitted", None)
        if not isinstance(fitted, Fitted):
            raise OptionError(
                f"bootstrap_test() takes results of lmer or MixedLM, not a {type(other).__name__}."
            )
        test = bootstrap_ratio(
            self.fitted, fitted, n, seed, workers=workers, backend=backend, progress=progress, refit=refit
        )
        row = {
            "statistic": test.statistic,
            "Df": test.df,
            "p": test.p,
            "error": test.error,
            "p_chi2": test.p_chi2,
            "p_boundary": test.p_boundary,
            "nsim": test.null.size,
            "failures": test.failures,
            "singular": test.singular,
        }
        frame = pd.DataFrame([row], index=pd.Index(["LRT"], dtype=object))
        frame.attrs.update(
            {
                "null": test.null,
                "smaller": test.smaller,
                "larger": test.larger,
                "method": test.method,
                "seed": seed,
                "notes": test.notes,
            }
        )
        return frame


def row_index(fitted: Fitted) -> pd.Index:
    """Labels of the rows of a fit."""
    labels = None if fitted.row_labels is None else fitted.row_labels()
    return pd.RangeIndex(fitted.n) if labels is None else pd.Index(labels)


def checked_response(fitted: Fitted, y: Any) -> np.ndarray:
    """A response for the rows of a fit, as numbers.

    Raises
    ------
    DataError
        Another length or index; what is no number.
    """
    if isinstance(y, pd.DataFrame):
        if y.shape[1] != 1:
            raise DataError(f"y must be one response; it has {y.shape[1]} columns.")
        y = y.iloc[:, 0]
    if isinstance(y, pd.Series):
        index = row_index(fitted)
        if len(y) == len(index) and not y.index.equals(index):
            if not (index.is_unique and y.index.is_unique and index.isin(y.index).all()):
                raise DataError(
                    "y has another index than the rows of the fit. Give it theirs, or pass y.to_numpy() in "
                    "their order."
                )
            y = y.reindex(index)
        y = y.to_numpy(dtype=np.float64, na_value=np.nan) if y.dtype.kind not in "OUS" else y.to_numpy()
    try:
        out = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"y is not numeric: {error}") from error
    if out.ndim != 1:
        raise DataError(f"y must be one-dimensional; it has shape {out.shape}.")
    if out.size != fitted.n:
        raise DataError(
            f"y has {out.size} values, and the fit has {fitted.n} rows (without those with missing values)."
        )
    if not np.all(np.isfinite(out)):
        nan, inf = int(np.sum(np.isnan(out))), int(np.sum(np.isinf(out)))
        raise DataError(
            f"y has {nan} missing and {inf} infinite values; refit() keeps the rows of the fit. Fit the "
            "model to the other rows, as update(data=...) does."
        )
    return out
