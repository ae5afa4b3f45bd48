"""Text tables of results, on statsmodels' summary2."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from ..fit.record import Fit, FitRecord

if TYPE_CHECKING:
    from ..engine.iterative.root import MonteCarlo
    from ..formula import ModelDesign
    from .tables import TitledSummary

__all__ = ["convergence_lines", "in_words", "lmm_summary"]


class SummarisedModel(Protocol):
    """What a summary shows of a model (a `LinearMixedModel`)."""

    model_design: ModelDesign


class SummarisedResults(Protocol):
    """What a summary shows (of `LinearMixedModelResults`)."""

    fit: Fit

    @property
    def model(self) -> SummarisedModel: ...

    @property
    def formula(self) -> str: ...

    @property
    def method(self) -> str: ...

    @property
    def nobs(self) -> int: ...

    @property
    def n_params(self) -> int: ...

    @property
    def llf(self) -> float: ...

    @property
    def aic(self) -> float: ...

    @property
    def bic(self) -> float: ...

    @property
    def sigma(self) -> float: ...

    @property
    def n_groups(self) -> dict[str, int]: ...

    @property
    def fe_params(self) -> pd.Series: ...

    @property
    def bse_fe(self) -> pd.Series: ...

    @property
    def tvalues(self) -> pd.Series: ...

    @property
    def varcorr(self) -> pd.DataFrame: ...


def lmm_summary(results: SummarisedResults) -> TitledSummary:
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


def convergence_lines(record: FitRecord) -> list[str]:
    """How a fit went, one sentence each; what the optimizer says of an optimum is in the record alone.

    Parameters
    ----------
    record : mme.fit.FitRecord

    Returns
    -------
    list of str
    """
    seconds = sum(record.seconds.values())
    # the optimizer's sentence may begin with the state itself
    reason = re.sub(r"^(not )?converged[:,;]?\s*", "", record.message, flags=re.IGNORECASE).rstrip(". ")
    state = "Converged" if record.converged else "NOT CONVERGED"
    words = in_words(record.converged, record.gradient_norm, record.iterations, reason)
    evaluations = f"{record.evaluations} evaluation{'' if record.evaluations == 1 else 's'}"
    lines = [f"{state}: {words}. {evaluations} in {seconds:.3g} s, solver: {record.solver}."]
    if record.modes > 1:
        lines.append(
            f"{record.modes} minima of the deviance were found from {record.starts} starts; this is the "
            "lowest."
        )
    if record.flat:
        depends = (
            f"; standard errors of {', '.join(record.flat_fixed)} depend on it" if record.flat_fixed else ""
        )
        lines.append(f"Flat likelihood: the data do not tell the {', '.join(record.flat)}{depends}.")
    if record.singular:
        lines.append(
            f"Singular: the covariance of {', '.join(record.singular)} has a zero variance or a perfect "
            "correlation; a simpler random term fits as well."
        )
    return lines


def in_words(converged: bool, gradient: float, steps: int, reason: str) -> str:
    """How a search ended, for those who want estimates.

    Parameters
    ----------
    converged : bool
        Whether the optimality conditions hold.
    gradient : float
        Largest entry of the gradient at the end.
    steps : int
        Accepted steps of the search.
    reason : str
        Why it stopped, in the words of the method; said where it found no optimum.
    """
    size = f"gradient {gradient:.1g}"
    count = f"{steps} step{'' if steps == 1 else 's'}"
    if converged:
        return f"optimum found ({size}) in {count}"
    return f"no optimum found ({size}) in {count}: {reason}"


def monte_carlo_lines(errors: MonteCarlo) -> list[str]:
    """What an iterative fit adds: Monte Carlo errors, one sentence.

    Parameters
    ----------
    errors : mme.engine.iterative.root.MonteCarlo

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


def _fixed_table(results: SummarisedResults) -> pd.DataFrame:
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


def _variance_table(results: SummarisedResults) -> pd.DataFrame:
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
