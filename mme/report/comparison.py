"""Tests of variances, and comparisons of models, for results of both doors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import OptionError
from ..fit.fitted import Fitted
from ..inference.comparison import Compared, compare_models, description
from ..inference.ranova import random_effects_tests
from ..inference.variance_tests import variance_test
from .reported import Reported

__all__ = ["VarianceTests", "compare", "ranova_table", "variance_table"]


class VarianceTests(Reported):
    """What results of both doors say of whether their variances are zero."""

    def ranova(self, reduce_terms: bool = True) -> pd.DataFrame:
        """Likelihood ratio tests of the random terms, as lmerTest's ``ranova``.

        Each row is a model that is fitted again with less: of a term with several columns each part of its
        formula is left out in turn (``(x | g)`` becomes ``(1 | g)``), terms of one column are removed.  The
        likelihood is that of the fit, REML or ML; the fixed effects stay.

        Parameters
        ----------
        reduce_terms : bool
            False: remove whole terms.

        Returns
        -------
        pandas.DataFrame
            The model itself in the row ``<none>``, then a row per test; columns ``npar``, ``logLik``,
            ``AIC``, ``LRT``, ``Df``, ``p`` and ``p_boundary``.  ``p`` is that of the chi-square with ``Df``
            degrees of freedom, as R gives it, which is too large for variances: zero is at the boundary of
            what they can be.  ``p_boundary`` is that of the mixture of chi-squares that holds there in large
            samples; ``attrs["mixtures"]`` says which, ``attrs["errors"]`` its Monte Carlo standard errors
            (zero where it is known), ``attrs["notes"]`` what a reader should know.

        Raises
        ------
        InferenceError
            After an iterative fit, whose log-likelihood has a Monte Carlo error; after fits with penalties
            or parameters that were held; where the data were removed.

        See Also
        --------
        test_variance : exact in finite samples for one variance.

        References
        ----------
        Self & Liang (1987), JASA 82, 605-610.  Stram & Lee (1994), Biometrics 50, 1171-1177.

        Examples
        --------
        >>> import pandas as pd, mme
        >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.ranova()[["npar", "LRT", "Df"]].round(2)
                                  npar    LRT   Df
        <none>                       6    NaN  NaN
        Days in (Days | Subject)     4  42.84  2.0
        """
        return ranova_table(self.fitted, reduce_terms)

    def test_variance(
        self, term: str | None = None, method: str = "rlrt", nsim: int | None = None, seed: int = 0
    ) -> pd.DataFrame:
        """Test whether random effects have a variance, by the likelihood ratio of the fit's REML or ML.

        Parameters
        ----------
        term : str, optional
            What is left out under the hypothesis, as `ranova` names its rows: ``"(1 | g)"``,
            ``"x in (x | g)"``, and with several columns also the whole ``"(x | g)"``; or a group with one
            effect, as ``varcorr`` names it.  May be left out where the model has one effect.
        method : {"rlrt", "mixture", "bootstrap"}
            "rlrt": the distribution in finite samples of one variance without covariances, exact where there
            are no other random effects (Crainiceanu & Ruppert), else by treating these as known (Greven et
            al.).  "mixture": the mixture of chi-squares of large samples.  "bootstrap": responses simulated
            from the fit without the term, both models fitted to each.
        nsim : int, optional
            Draws: by default 10,000 of "rlrt", 500 of "bootstrap".
        seed : int
            Of the draws.

        Returns
        -------
        pandas.DataFrame
            One row, named after what is tested; columns ``statistic``, ``p``, ``error`` (Monte Carlo standard
            error of ``p``) and ``nsim``.  ``attrs`` has ``method``, ``seed`` and ``notes``.

        Raises
        ------
        OptionError
            No such term or method, or several effects that `term` could mean.
        InferenceError
            "rlrt" of several parameters together; as `ranova`.
        MemoryEstimateError
            The spectrum of "rlrt" needs a dense matrix of the order of the levels that does not fit.

        References
        ----------
        Crainiceanu & Ruppert (2004), JRSS B 66, 165-185.  Greven, Crainiceanu, Kuechenhoff & Peters (2008),
        Journal of Computational and Graphical Statistics 17, 870-891.

        Examples
        --------
        >>> import pandas as pd, mme
        >>> data = pd.DataFrame({"y": [1.0, 2, 3, 5, 4, 6, 1, 2.5], "g": list("aabbccdd")})
        >>> mme.lmer("y ~ 1 + (1 | g)", data).test_variance(seed=1)[["statistic"]].round(2)
                 statistic
        (1 | g)       1.72
        """
        return variance_table(self.fitted, term, method, nsim, seed)


def ranova_table(fitted: Fitted, reduce_terms: bool = True) -> pd.DataFrame:
    """See `VarianceTests.ranova`."""
    size, tests = random_effects_tests(fitted, reduce_terms)
    rows: list[dict[str, Any]] = [{"npar": size, "logLik": fitted.loglik}]
    notes = [] if fitted.converged else ["The fit has not converged."]
    for test in tests:
        model = test.submodel
        rows.append(
            {
                "npar": model.n_params,
                "logLik": model.loglik,
                "LRT": test.statistic,
                "Df": test.df,
                "p": test.p,
                "p_boundary": test.p_boundary,
            }
        )
        notes += test.notes(fitted.loglik)
    names = [test.reduction.label for test in tests]
    frame = pd.DataFrame(rows, index=pd.Index(["<none>", *names], dtype=object))
    frame.insert(2, "AIC", 2.0 * frame["npar"] - 2.0 * frame["logLik"])
    for column in ("LRT", "Df", "p", "p_boundary"):
        frame[column] = frame[column].astype(np.float64)
    frame.attrs.update(
        {
            "method": fitted.method,
            "mixtures": {
                name: str(test.mixture)
                for name, test in zip(names, tests, strict=True)
                if test.mixture is not None
            },
            "errors": {name: test.error for name, test in zip(names, tests, strict=True)},
            "notes": tuple(notes),
        }
    )
    return frame


def variance_table(
    fitted: Fitted, term: str | None = None, method: str = "rlrt", nsim: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """See `VarianceTests.test_variance`."""
    test = variance_test(fitted, term, method, nsim, seed)
    row = {"statistic": test.statistic, "p": test.p, "error": test.error, "nsim": test.nsim}
    frame = pd.DataFrame([row], index=pd.Index([test.label], dtype=object))
    frame.attrs.update({"method": test.method, "seed": seed, "notes": test.notes})
    return frame


def compare(*results: Any, refit: str | None = None, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Compare models by likelihood ratios and information criteria, as R's ``anova(m0, m1, ...)``.

    Parameters
    ----------
    *results
        At least two results of `lmer` or `MixedLM`, of both together as well; in any order.
    refit : {"ml"}, optional
        Fit REML results again by ML, as models with different fixed effects need.
    names : sequence of str, optional
        Names of the rows; by default ``r0``, ``r1``, ... in the order given.

    Returns
    -------
    pandas.DataFrame
        A row per model by its number of parameters; columns ``npar``, ``AIC``, ``BIC``, ``logLik``,
        ``deviance`` and, of every model against the row above, ``Chisq``, ``Df``, ``p`` and ``p_boundary``;
        after iterative fits ``Chisq_error``, its Monte Carlo standard error.  ``p`` is that of the chi-square
        with ``Df`` degrees of freedom, as R has it, and too large where variances are tested, whose zero
        is at the boundary; ``p_boundary`` is that of the mixture of chi-squares that holds there, the same as
        ``p`` where no variance is tested.  Models that are not nested have no p; their columns and
        covariances decide, not their names.  ``attrs`` has ``models`` (in words), ``mixtures``, ``errors``
        (Monte Carlo standard errors of ``p_boundary``), ``method`` and ``notes``, which say why a p is
        missing.

    Raises
    ------
    OptionError
        Fewer than two results; REML fits with different fixed effects, or REML beside ML, without `refit`.
    DataError
        Results of different rows, responses or weights.
    InferenceError
        Fits with penalties or parameters that were held; data that were removed.

    References
    ----------
    Self & Liang (1987), JASA 82, 605-610.  Stram & Lee (1994), Biometrics 50, 1171-1177.

    Examples
    --------
    >>> import pandas as pd, mme
    >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
    >>> intercepts = mme.lmer("Reaction ~ Days + (1 | Subject)", sleep)
    >>> slopes = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> mme.compare(intercepts, slopes)[["npar", "Chisq", "Df"]].round(2)
        npar  Chisq   Df
    r0     4    NaN  NaN
    r1     6  42.84  2.0
    """
    if names is None:
        names = [f"r{i}" for i in range(len(results))]
    elif isinstance(names, str) or len(set(names)) != len(results):
        raise OptionError(f"names must be {len(results)} different names, one per result, not {names!r}.")
    models = [getattr(result, "fitted", None) for result in results]
    for result, fitted, name in zip(results, models, names, strict=True):
        if not isinstance(fitted, Fitted):
            raise OptionError(
                f"compare() takes results of lmer or MixedLM; {name} is a {type(result).__name__}."
            )
    compared, ratios = compare_models([f for f in models if f is not None], names, refit)
    table = [_model_row(model) for model in compared]
    for row, ratio in zip(table[1:], ratios, strict=True):
        row.update(
            {
                "Chisq": ratio.statistic,
                "Chisq_error": ratio.error,
                "Df": ratio.df,
                "p": ratio.p,
                "p_boundary": ratio.p_boundary,
            }
        )
    index = [names[model.place] for model in compared]
    frame = pd.DataFrame(table, index=pd.Index(index, dtype=object))
    for column in frame.columns[1:]:
        frame[column] = frame[column].astype(np.float64)
    if not any(ratio.error for ratio in ratios):
        del frame["Chisq_error"]
    tested = [
        (name, ratio) for name, ratio in zip(index[1:], ratios, strict=True) if ratio.mixture is not None
    ]
    frame.attrs.update(
        {
            "method": compared[0].fitted.method,
            "models": {name: description(model) for name, model in zip(index, compared, strict=True)},
            "mixtures": {name: str(ratio.mixture) for name, ratio in tested},
            "errors": {name: ratio.p_error for name, ratio in tested},
            "notes": tuple(dict.fromkeys(note for ratio in ratios for note in ratio.notes)),
        }
    )
    return frame


def _model_row(model: Compared) -> dict[str, Any]:
    loglik, size = model.fitted.loglik, model.n_params
    return {
        "npar": size,
        "AIC": 2.0 * size - 2.0 * loglik,
        "BIC": float(np.log(model.fitted.n)) * size - 2.0 * loglik,
        "logLik": loglik,
        "deviance": -2.0 * loglik,
    }
