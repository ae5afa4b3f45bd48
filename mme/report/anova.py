"""Analysis of variance of the fixed part's terms, for results of both doors."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..inference.anova import check_type, term_tests, untested
from ..inference.coefficients import inference_basis
from ..inference.tails import f_tail
from .coefficients import CoefficientTables

__all__ = ["AnovaTables"]


class AnovaTables(CoefficientTables):
    """Tests of terms, as results of both doors have them."""

    def anova(
        self, type: int | str = 3, ddf: str | None = None, information: str | None = None
    ) -> pd.DataFrame:
        """F tests of the terms of the fixed part, as lmerTest's ``anova``.

        Parameters
        ----------
        type : {3, 2, 1}
            Hypotheses.  1: each term adjusted for those before it; 2: adjusted for all terms that do not
            contain it; 3: averaged over the levels of the other factors, whatever the contrasts of the
            formula are.  Roman numerals mean the same.
        ddf, information
            As in `coef_table`: by default Satterthwaite's (Fai & Cornelius); "kenward-roger" scales the F.

        Returns
        -------
        pandas.DataFrame
            A row per term; columns ``Sum Sq``, ``Mean Sq``, ``NumDF``, ``DenDF``, ``F value``, ``Pr(>F)``.
            ``attrs`` holds ``type``, ``ddf``, ``information`` and ``notes``.  Mean squares are F times the
            residual variance.  A term of which the data tell nothing, as of a numeric column that depends
            on others, has NaN, and stands in the notes.

        Raises
        ------
        OptionError
            An unknown `type`, `ddf` or `information`.
        InferenceError
            A model of arrays, which has no terms; what `coef_table` cannot give.

        Notes
        -----
        At a numeric covariate of an interaction the main effect is that at zero: centre the covariate for
        the one at its mean.  With empty cells type 3 tests what the filled ones tell (SAS's type III).

        Examples
        --------
        >>> import pandas as pd, mme
        >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.anova()[["NumDF", "DenDF", "F value"]].round(2)
              NumDF  DenDF  F value
        Days      1   17.0    45.85
        """
        kind = check_type(type)
        fitted = self.fitted
        basis = inference_basis(fitted, ddf, information, self._small_sample)
        tests = term_tests(basis, kind, self._small_sample)
        F = np.array([t.test.F for t in tests])
        df1 = np.array([t.test.df1 for t in tests])
        df2 = np.array([t.test.df2 for t in tests])
        told = ~np.isnan(df1)
        frame = pd.DataFrame(
            {
                "Sum Sq": F * df1 * fitted.sigma2,
                "Mean Sq": F * fitted.sigma2,
                "NumDF": np.where(told, df1, 0.0).astype(int),
                "DenDF": df2,
                "F value": F,
                "Pr(>F)": [f_tail(*row) for row in zip(F, df1, df2, strict=True)],
            },
            index=pd.Index([t.name for t in tests], dtype=object),
        )
        notes = basis.notes
        if left := untested(tests):
            notes += (f"The data do not tell {', '.join(left)} apart from the other terms: no test.",)
        frame.attrs.update({"type": kind, "ddf": basis.ddf, "information": basis.information, "notes": notes})
        return frame
