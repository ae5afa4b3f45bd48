"""Text tables of results, on statsmodels' summary2."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from statsmodels.iolib.summary2 import Summary

    from .results import LinearMixedModelResults

__all__ = ["convergence_lines", "lmm_summary"]


def lmm_summary(results: LinearMixedModelResults) -> Summary:
    """Summary of a linear mixed model.

    Parameters
    ----------
    results : LinearMixedModelResults

    Returns
    -------
    mme.tables.TitledSummary
        A summary of statsmodels: header, fixed effects (estimate, standard error, t), variances and
        correlations, and how the fit converged.
    """
    from .tables import TitledSummary

    out = TitledSummary()
    out.add_title(f"Linear mixed model fit by {results.method}")
    model = results.model.model_design
    groups = ", ".join(f"{group} ({count})" for group, count in results.n_groups.items())
    out.add_dict(
        {
            "Response:": model.response,
            "No. observations:": str(results.nobs),
            "Method:": results.method,
            "Log-likelihood:": f"{results.llf:.4f}",
            "AIC:": f"{results.aic:.4f}",
            "BIC:": f"{results.bic:.4f}",
            "Residual SD:": f"{results.sigma:.5g}",
            "Parameters:": str(results.n_params),
        },
        ncols=2,
    )
    if len(results.fe_params):
        out.add_df(_fixed_table(results), index=False, align="lrrr")
    variances = _variance_table(results)
    out.add_df(variances, index=False, align="ll" + "r" * (variances.shape[1] - 2))
    lines = [f"Formula: {results.formula}", f"Groups: {groups}"]
    asked = results.nobs + model.dropped
    if asked < model.given:
        lines.append(f"Subset: {asked} of {model.given} rows.")
    if model.dropped:
        lines.append(f"{model.dropped} of {asked} rows left out because of missing values.")
    lines += convergence_lines(results.fit.record)
    if results.fit.monte_carlo is not None:
        lines += monte_carlo_lines(results.fit.monte_carlo)
    for line in lines:
        out.add_text(line)
    return out


def convergence_lines(record: object) -> list[str]:
    """How a fit went, one sentence each; what the optimizer says of an optimum is in the record alone.

    Parameters
    ----------
    record : mme.fit.FitRecord

    Returns
    -------
    list of str
    """
    seconds = sum(record.seconds.values())
    if record.converged:
        state = (
            f"Converged: optimum found (gradient {record.gradient_norm:.1g}) in "
            f"{_counted(record.iterations, 'step')}"
        )
    else:
        # the optimizer's sentence may begin with the state itself
        reason = re.sub(r"^(not )?converged[:,;]?\s*", "", record.message, flags=re.IGNORECASE).rstrip(". ")
        state = f"NOT CONVERGED{f': {reason}' if reason else ''} (gradient {record.gradient_norm:.1g})"
    lines = [
        f"{state}. {_counted(record.evaluations, 'evaluation')} in {seconds:.3g} s, solver: {record.solver}."
    ]
    if record.singular:
        lines.append(
            f"Singular: the covariance of {', '.join(record.singular)} has a zero variance or a perfect "
            "correlation; a simpler random term fits as well."
        )
    return lines


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def monte_carlo_lines(errors: object) -> list[str]:
    """What an iterative fit adds: Monte Carlo errors, one sentence.

    Parameters
    ----------
    errors : mme.iterative.MonteCarlo

    Returns
    -------
    list of str
    """
    loglik = f"+/- {errors.loglik_error:.1g} (loglik_probes reduces it)" if errors.loglik_error else "exact"
    if np.isnan(errors.loglik_error):
        loglik = "not computed"
    return [
        f"Monte Carlo errors: at most {errors.ratio:.1g} standard errors of the variance parameters "
        f"({errors.probes} probes, seed {errors.seed}); log-likelihood {loglik}."
    ]


def _fixed_table(results: LinearMixedModelResults) -> pd.DataFrame:
    """Estimate, standard error and t of every fixed effect; significant digits, whatever the unit."""
    # names as a column, not as the index: statsmodels pads tables with an index beyond the common width
    return pd.DataFrame(
        {
            "Fixed effect": [str(name) for name in results.fe_params.index],
            "Coef.": [f"{value:.6g}" for value in results.fe_params],
            "Std.Err.": [f"{value:.5g}" for value in results.bse_fe],
            "t": [f"{value:.3f}" for value in results.tvalues],
        }
    )


def _variance_table(results: LinearMixedModelResults) -> pd.DataFrame:
    """Group, effect, variance, standard deviation, and correlations with the group's earlier effects."""
    table = results.varcorr
    widest = int(table["var2"].notna().groupby(table["grp"]).sum().max())
    rows = []
    earlier = ""
    for row in table[table["var2"].isna()].itertuples():
        cells = {
            "Group": row.grp if row.grp != earlier else "",
            "Effect": row.var1 or "",
            "Variance": f"{row.vcov:.5g}",
            "Std.Dev.": f"{row.sdcor:.5g}",
        }
        if widest:
            pairs = table[(table["grp"] == row.grp) & (table["var2"] == row.var1)]
            cells["Corr."] = " ".join("-" if np.isnan(c) else f"{c:.2f}" for c in pairs["sdcor"])
        rows.append(cells)
        earlier = row.grp
    return pd.DataFrame(rows)
