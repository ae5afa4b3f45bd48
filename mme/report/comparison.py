"""Tests of variances, and comparisons of models, for results of both doors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..fit.fitted import Fitted
from ..inference.ranova import random_effects_tests

__all__ = ["VarianceTests", "ranova_table"]


class VarianceTests:
    """What results of both doors say of whether their variances are zero."""

    @property
    def fitted(self) -> Fitted:
        """The estimate with its labels."""
        raise NotImplementedError

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
        if not model.converged:
            notes.append(f"The fit without {test.reduction.label} has not converged.")
    names = [test.reduction.label for test in tests]
    frame = pd.DataFrame(rows, index=pd.Index(["<none>", *names], dtype=object))
    frame.insert(2, "AIC", 2.0 * frame["npar"] - 2.0 * frame["logLik"])
    for column in ("LRT", "Df", "p", "p_boundary"):
        frame[column] = frame[column].astype(np.float64)
    frame.attrs.update(
        {
            "method": fitted.method,
            "mixtures": {name: str(test.mixture) for name, test in zip(names, tests, strict=True)},
            "errors": {name: test.error for name, test in zip(names, tests, strict=True)},
            "notes": tuple(notes),
        }
    )
    return frame
