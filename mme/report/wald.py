"""Tests in statsmodels' words, with degrees of freedom: for results of lmer; MixedLM has statsmodels' own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..exceptions import OptionError
from ..inference.anova import coding_of
from ..inference.coefficients import Basis, inference_basis
from ..inference.degrees import FTest
from ..inference.tails import f_tail
from .coefficients import CoefficientTables
from .hypotheses import check_together, hypothesis

if TYPE_CHECKING:
    from statsmodels.stats.contrast import ContrastResults, WaldTestResults

__all__ = ["WaldTests"]


class WaldTests(CoefficientTables):
    """statsmodels' `t_test`, `f_test`, `wald_test` and `wald_test_terms`."""

    def t_test(
        self,
        r_matrix: Any,
        use_t: bool | None = None,
        *,
        ddf: str | None = None,
        information: str | None = None,
    ) -> ContrastResults:
        """A t test of every row of R b = q.

        Parameters
        ----------
        r_matrix : str, array_like, or what else `contrast` takes; or a tuple (R, q)
            Text as ``"Days = 10, A - B = 0"``.
        use_t : bool, optional
            False is ``ddf="normal"``.
        ddf, information
            As in `coef_table`: Satterthwaite's degrees of freedom by default.

        Returns
        -------
        statsmodels.stats.contrast.ContrastResults
            ``effect``, ``sd``, ``tvalue``, ``pvalue``, ``df_denom`` have an entry per row.

        Examples
        --------
        >>> import pandas as pd, mme
        >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> float(result.t_test("Days = 10").pvalue.round(3))
        0.766
        """
        from statsmodels.stats.contrast import ContrastResults

        basis, R, q = self._asked(r_matrix, use_t, "use_t", ddf, information)
        rows = basis.rows(R, q, 0.05)
        if basis.ddf == "normal":
            return ContrastResults(
                effect=rows.estimate, statistic=rows.t, sd=rows.se, distribution="norm", alpha=0.05
            )
        return ContrastResults(effect=rows.estimate, t=rows.t, sd=rows.se, df_denom=rows.df)

    def f_test(
        self, r_matrix: Any, *, ddf: str | None = None, information: str | None = None
    ) -> ContrastResults:
        """The F test of the rows R b = q together; see `t_test`.

        Satterthwaite's denominator is Fai & Cornelius'; Kenward and Roger's F is scaled.  With
        ``ddf="normal"`` the test is `wald_test`'s chi-square.

        Parameters
        ----------
        r_matrix : array_like, str or list of str
            As in `t_test`.
        ddf, information : str, optional
            As in `coef_table`.

        Returns
        -------
        statsmodels.stats.contrast.ContrastResults
            ``fvalue``, ``pvalue``, ``df_num``, ``df_denom``.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> round(float(result.f_test("Days = 0").fvalue), 2)
        45.85
        """
        basis, R, q = self._asked(r_matrix, None, "", ddf, information)
        check_together(R, q)
        return _contrast(basis, basis.f_test(R, q))

    def wald_test(
        self,
        r_matrix: Any,
        use_f: bool | None = None,
        *,
        ddf: str | None = None,
        information: str | None = None,
    ) -> ContrastResults:
        """The test of the rows R b = q together: F, or with ``use_f=False`` chi-square; see `f_test`.

        Parameters
        ----------
        r_matrix : array_like, str or list of str
            As in `t_test`.
        use_f : bool, optional
            False: chi-square.
        ddf, information : str, optional
            As in `coef_table`.

        Returns
        -------
        statsmodels.stats.contrast.ContrastResults
            ``statistic``, ``pvalue`` and degrees of freedom.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> round(float(result.wald_test("Days = 10").fvalue), 3)
        0.091
        """
        basis, R, q = self._asked(r_matrix, use_f, "use_f", ddf, information)
        check_together(R, q)
        return _contrast(basis, basis.f_test(R, q))

    def wald_test_terms(
        self, skip_single: bool = False, *, ddf: str | None = None, information: str | None = None
    ) -> WaldTestResults:
        """Whether all coefficients of a term are zero, term by term, as the formula coded them.

        With treatment contrasts a main effect beside its interaction is that at the other's base level:
        `anova` has hypotheses that do not depend on the coding.

        Parameters
        ----------
        skip_single : bool
            Leave out terms with one column.
        ddf, information
            As in `coef_table`.

        Returns
        -------
        statsmodels.stats.contrast.WaldTestResults
            ``table`` has a row per term.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> machines = pd.read_csv(mme.data_path("machines.csv"))
        >>> result = mme.lmer("score ~ Machine + (1 | Worker)", machines)
        >>> result.wald_test_terms().table.index.tolist()
        ['(Intercept)', 'Machine']
        """
        from statsmodels.stats.contrast import WaldTestResults

        basis = inference_basis(self.fitted, ddf, information, self._small_sample)
        coding = coding_of(self.fitted, "wald_test_terms")
        unit = np.eye(len(self.fitted.labels.fixed))
        chi2 = basis.ddf == "normal"
        found = {}
        for term in coding.terms:
            R = unit[term.columns]
            if len(R) == 1 and skip_single:
                continue
            test = basis.f_test(R, np.zeros(len(R)))
            statistic = test.F * test.df1 if chi2 else test.F
            p = f_tail(test.F, test.df1, test.df2)
            found[term.name] = [statistic, p, test.df1] + ([] if chi2 else [test.df2])
        columns = ["statistic", "pvalue", "df_constraint"] + ([] if chi2 else ["df_denom"])
        table = pd.DataFrame.from_dict(found, orient="index", columns=columns)
        return WaldTestResults(None, "chi2" if chi2 else "F", None, table=table)

    def _asked(
        self, r_matrix: Any, use: bool | None, name: str, ddf: str | None, information: str | None
    ) -> tuple[Basis, np.ndarray, np.ndarray]:
        """What decides the test, and the rows R and q."""
        if use is not None and not isinstance(use, bool | np.bool_):
            raise OptionError(f"{name}={use!r} must be True, False or None.")
        if use is not None and not use:
            if ddf not in (None, "normal"):
                raise OptionError(f"{name}=False is ddf='normal', and ddf={ddf!r} was given.")
            ddf = "normal"
        value: Any = 0.0
        if isinstance(r_matrix, tuple) and len(r_matrix) == 2 and np.ndim(r_matrix[0]) == 2:
            r_matrix, value = r_matrix
        R, q = hypothesis(r_matrix, value, self.fitted.labels.fixed)
        return inference_basis(self.fitted, ddf, information, self._small_sample), R, q


def _contrast(basis: Basis, test: FTest) -> ContrastResults:
    from statsmodels.stats.contrast import ContrastResults

    if basis.ddf == "normal":
        return ContrastResults(
            statistic=test.F * test.df1, df_denom=test.df1, distribution="chi2", distargs=(test.df1,)
        )
    return ContrastResults(F=test.F, df_denom=test.df2, df_num=test.df1)
