"""Summary tables of a MixedLM, laid out as statsmodels' are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import norm
from statsmodels.iolib import summary2

from ...fit.fitted import Fitted
from ...report.estimates import fixed_effects

if TYPE_CHECKING:
    from ..protocol import MixedResults

__all__ = ["restriction", "summary_tables"]


def restriction(results: MixedResults) -> str:
    """Why a fit is not the maximum of the likelihood; empty if it is. See `mme.fit.fitted.Fitted`."""
    if results.regularized or results.fe_pen is not None or results.cov_pen is not None:
        return "penalties"
    if results.freepat is not None and np.any(results.freepat.get_packed(use_sqrt=False, has_fe=True) == 0):
        return "parameters held at a value"
    return ""


def summary_tables(
    results: MixedResults,
    fitted: Fitted,
    yname: str | None,
    xname_fe: list[str] | None,
    xname_re: list[str] | None,
    title: str | None,
    alpha: float,
    ddf: str | None = None,
) -> summary2.Summary:
    """See `MixedLMResults.summary`."""
    names = list(results.model.data.param_names)
    k_fe = results.k_fe
    for what, given, part in (
        ("xname_fe", xname_fe, slice(0, k_fe)),
        ("xname_re", xname_re, slice(k_fe, len(names))),
    ):
        if given is not None:
            expected = len(names[part])
            if len(given) != expected:
                raise ValueError(f"{what} should be a list of length {expected:d}")
            names[part] = given
    sizes = results._group_sizes
    smry = summary2.Summary()
    smry.add_dict(
        {
            "Model:": "MixedLM",
            "No. Observations:": str(fitted.n),
            "No. Groups:": str(sizes[0]),
            "Min. group size:": f"{sizes[1]:.0f}",
            "Max. group size:": f"{sizes[2]:.0f}",
            "Mean group size:": f"{sizes[3]:.1f}",
            "Dependent Variable:": fitted.labels.response if yname is None else yname,
            "Method:": fitted.method,
            "Scale:": fitted.sigma2,
            "Log-Likelihood:": fitted.loglik,
            "Converged:": "Yes" if fitted.converged else "No",
        }
    )
    smry.add_title("Mixed Linear Model Regression Results" if title is None else title)
    if ddf is None:
        fixed = fixed_effects(fitted)
        half = norm.isf(alpha / 2) * fixed.se
        p = 2 * norm.sf(np.abs(fixed.statistic))
        own = [fixed.estimate, fixed.se, fixed.statistic, p, fixed.estimate - half, fixed.estimate + half]
        columns, notes = ["Coef.", "Std.Err.", "z", "P>|z|"], []
    else:
        tests = results.coef_table(ddf, alpha)
        own = [tests[name] for name in ("estimate", "se", "df", "t", "p", "lower", "upper")]
        columns = ["Coef.", "Std.Err.", "df", "t", "P>|t|"]
        notes = [f"Degrees of freedom: {tests.attrs['ddf']}.", *tests.attrs["notes"]]
    columns += [f"[{alpha / 2}", f"{1 - alpha / 2}]"]
    table = np.full((len(names), len(columns)), np.nan)
    table[:k_fe] = np.column_stack(own)
    table[k_fe:, 0] = np.concatenate((results.cov_re[np.tril_indices(results.k_re)], results.vcomp))
    table[k_fe:, 1] = results.bse_re
    text = [[f"{x:.3f}" if np.isfinite(x) else "" for x in row] for row in table]
    smry.add_df(pd.DataFrame(text, index=names, columns=columns), align="r")
    for note in notes:
        smry.add_text(note)
    results._complete(smry)
    return smry
