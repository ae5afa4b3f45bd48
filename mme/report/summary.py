"""Text tables of results, on statsmodels' summary2."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..fit.fitted import Fitted
from ..fit.record import FitRecord
from ..inference.coefficients import Basis, Rows, inference_basis, longer_than_the_fit
from ..inference.structured import residual_rows
from .estimates import FixedEffects, fixed_effects, variance_components

if TYPE_CHECKING:
    from ..engine.iterative.root import MonteCarlo
    from .tables import TitledSummary

__all__ = ["convergence_lines", "in_words", "lmm_summary"]

_NAMES = {
    "satterthwaite": "Satterthwaite",
    "kenward-roger": "Kenward-Roger",
    "normal": "normal distribution",
    "residual": "n - rank(X)",
}


def lmm_summary(
    fitted: Fitted,
    *,
    formula: str,
    groups: Mapping[str, int],
    criteria: Mapping[str, float],
    n_params: int,
    dropped: int = 0,
    given: int = 0,
    quantiles: np.ndarray | None = None,
    correlation: bool = False,
    cache: MutableMapping[str, Any] | None = None,
    ddf: str | None = None,
) -> TitledSummary:
    """Summary of a linear mixed model.

    Parameters
    ----------
    fitted : Fitted
    formula : str
    groups : mapping of str to int
        Levels of every grouping factor.
    criteria : mapping of str to float
        Information criteria, by name.
    n_params : int
    dropped, given : int
        Rows left out because of missing values; rows of the data.
    quantiles : ndarray, shape (5,), or None
        Least, quartiles and greatest of the scaled residuals; None where the rows are not there.
    correlation : bool
        Whether to show the correlations of the fixed effects.
    cache : mapping, optional
        What tables of coefficients computed before.
    ddf : str, optional
        As in `coef_table`; None: Satterthwaite's, where they take no longer than the fit.

    Returns
    -------
    mme.tables.TitledSummary
        A summary of statsmodels: header, fixed effects (estimate, standard error, Satterthwaite's degrees
        of freedom, t, p), variances and correlations, scaled residuals and how the fit converged.
    """
    from .tables import TitledSummary

    out = TitledSummary()
    out.add_title(f"Linear mixed model fit by {fitted.method}")
    out.add_dict(
        {
            "Response:": fitted.labels.response,
            "No. observations:": str(fitted.n),
            "Method:": fitted.method,
            "Log-likelihood:": f"{fitted.loglik:.4f}",
            "REML criterion:" if fitted.reml else "Deviance:": f"{-2.0 * fitted.loglik:.4f}",
            **{f"{name}:": f"{value:.4f}" for name, value in criteria.items()},
            "Residual SD:": f"{np.sqrt(fitted.sigma2):.5g}",
            "Parameters:": str(n_params),
            "Residual df:": str(fitted.n - n_params),
        },
        ncols=2,
    )
    fixed = fixed_effects(fitted)
    tests, said = _tests(fitted, cache, ddf)
    if fixed.names:
        out.add_df(_fixed_table(fixed, tests), index=False, align="lrrr" if tests is None else "lrrrrr")
    variances = _variance_table(variance_components(fitted))
    out.add_df(variances, index=False, align="ll" + "r" * (variances.shape[1] - 2))
    if fitted.residual is not None:
        structure = _structure_table(fitted)
        out.add_df(structure, index=False, align="lrrrr")
    if quantiles is not None:
        out.add_df(_residual_table(quantiles), index=False, align="lrrrrr")
    if correlation and len(fixed.names) > 1:
        table = _correlation_table(fitted)
        out.add_df(table, index=False, align="l" + "r" * (table.shape[1] - 1))
    shown = ", ".join(f"{group} ({count})" for group, count in groups.items())
    lines = [f"Formula: {formula}", *([f"Groups: {shown}"] if shown else [])]
    if fitted.residual is not None:
        lines.append(f"Residuals: {fitted.residual}.")
    asked = fitted.n + dropped
    if asked < given:
        lines.append(f"Subset: {asked} of {given} rows.")
    if dropped:
        lines.append(f"{dropped} of {asked} rows left out because of missing values.")
    if fixed.names:
        lines += said
    if fitted.record is not None:
        lines += convergence_lines(fitted.record)
    if fitted.monte_carlo is not None:
        lines += monte_carlo_lines(fitted.monte_carlo)
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


def _tests(
    fitted: Fitted, cache: MutableMapping[str, Any] | None, ddf: str | None
) -> tuple[Rows | None, list[str]]:
    """The tests asked for, or Satterthwaite's where they take no longer than the fit; what to say of them."""
    if ddf is not None:
        return _said(inference_basis(fitted, ddf, cache=cache))
    if fitted.restriction:
        return None, [f"No degrees of freedom: the fit has {fitted.restriction}."]
    if not (cache and "observed" in cache):
        if not fitted.exact:
            return None, ["Degrees of freedom take conjugate gradients again: coef_table() has them."]
        seconds = longer_than_the_fit(fitted)
        if seconds:
            return None, [
                f"Degrees of freedom take longer than the fit, about {seconds:.2g} s: coef_table() has them."
            ]
    return _said(inference_basis(fitted, cache=cache))


def _said(basis: Basis) -> tuple[Rows, list[str]]:
    """Tests of the coefficients, and what to say of them."""
    notes = [note for note in basis.notes if note.startswith(("Singular", "The data", "Normal"))]
    name = _NAMES[basis.ddf]
    return basis.coefficients(0.05), [" ".join([f"Degrees of freedom: {name}.", *notes])]


def _fixed_table(fixed: FixedEffects, tests: Rows | None) -> pd.DataFrame:
    """Estimate, standard error, df, t and p of every fixed effect; significant digits, whatever the unit."""
    # names as a column, not as the index: statsmodels pads tables with an index beyond the common width
    columns = {
        "Fixed effect": [str(name) for name in fixed.names],
        "Coef.": [f"{value:.6g}" for value in fixed.estimate],
        "Std.Err.": [f"{value:.5g}" for value in (fixed if tests is None else tests).se],
    }
    if tests is not None:
        columns["df"] = [f"{value:.1f}" for value in tests.df]
    columns["t"] = [f"{value:.3f}" for value in (fixed.statistic if tests is None else tests.t)]
    if tests is not None:
        columns["P>|t|"] = [f"{value:.4f}" if not value < 1e-4 else f"{value:.1e}" for value in tests.p]
    return pd.DataFrame(columns)


def _structure_table(fitted: Fitted) -> pd.DataFrame:
    rows = residual_rows(fitted, 0.05)
    columns = {"Residuals": rows["parameter"]}
    heads = {"estimate": "Estimate", "se": "Std.Err.", "lower": "[0.025", "upper": "0.975]"}
    for name, head in heads.items():
        columns[head] = [f"{value:.5g}" if np.isfinite(value) else "-" for value in rows[name]]
    return pd.DataFrame(columns)


def _residual_table(quantiles: np.ndarray) -> pd.DataFrame:
    names = ("Min", "1Q", "Median", "3Q", "Max")
    values = {name: [f"{value:.4f}"] for name, value in zip(names, quantiles, strict=True)}
    return pd.DataFrame({"Scaled residuals": [""], **values})


def _correlation_table(fitted: Fitted) -> pd.DataFrame:
    """Correlations of the fixed effects below the diagonal, the columns by number."""
    covariance = np.asarray(fitted.vcov_beta())
    se = np.sqrt(np.diag(covariance))
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = covariance / np.outer(se, se)
    names = [f"{number}  {name}" for number, name in enumerate(fitted.labels.fixed, start=1)]
    columns: dict[str, list[str]] = {"Correlation of fixed effects": names}
    for j in range(len(names) - 1):
        shown = [f"{correlation[i, j]:.3f}" if i > j else "" for i in range(len(names))]
        columns[str(j + 1)] = shown
    return pd.DataFrame(columns)


def _variance_table(table: pd.DataFrame) -> pd.DataFrame:
    """Group, effect, variance, standard deviation, and correlations with the group's earlier effects."""
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
        own = table[table["grp"] == row.grp]
        names = own.loc[own["var2"].isna(), "var1"].tolist()
        if row.var1 == names[-1]:
            # correlations of a structure that no effect's row can show
            for tied in own[own["var2"].notna() & ~own["var2"].isin(names)].itertuples():
                rows.append(dict.fromkeys(cells, "") | {"Effect": tied.var2, "Corr.": f"{tied.sdcor:.2f}"})
    return pd.DataFrame(rows)
