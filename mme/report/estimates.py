"""Tables of estimates of a `Fitted`, the same for both doors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..fit.fitted import Fitted
from ..inference.variance_table import TIED

__all__ = ["FixedEffects", "fixed_effects", "variance_components"]


@dataclass(frozen=True, eq=False)
class FixedEffects:
    """Estimates, standard errors and their ratios, shapes (p,); NaN for dropped columns."""

    names: tuple[str, ...]
    estimate: np.ndarray
    se: np.ndarray
    statistic: np.ndarray


def fixed_effects(fitted: Fitted) -> FixedEffects:
    """Fixed effects of a fit, with their standard errors."""
    se = fitted.bse_beta
    with np.errstate(divide="ignore", invalid="ignore"):
        return FixedEffects(fitted.labels.fixed, fitted.beta, se, fitted.beta / se)


def variance_components(fitted: Fitted) -> pd.DataFrame:
    """Variances and covariances of the random effects, laid out as lme4's ``as.data.frame(VarCorr(m))``.

    Columns ``grp``, ``var1``, ``var2``, ``vcov`` (variance or covariance) and ``sdcor`` (standard deviation
    or correlation): for each term the variances (`var2` is None), then the covariances; the residual last.
    A correlation with a zero variance is NaN.  The correlation of a structure (cs, ar1, toep) is one row,
    var1 ``"cor"`` and var2 the structure's name, without a covariance; a variance that effects share is one.
    """
    rows: list[tuple[str, str | None, str | None, float, float]] = []
    for term, lam in zip(fitted.labels.terms, fitted.lam, strict=True):
        names = term.effects
        cov = fitted.sigma2 * (lam @ lam.T)
        sd = np.sqrt(np.diag(cov))
        shown, tied = term.structure.shown(len(names)), term.structure.tied
        for a, b in shown:
            if a == b:
                label = term.structure.parameter_label(names, a, a)
                rows.append((term.group, label, None, cov[a, a], sd[a]))
        for a, b in shown:
            if a != b:
                product = sd[a] * sd[b]
                correlation = cov[a, b] / product if product > 0 else np.nan
                if tied:
                    label = term.structure.parameter_label(names, a, b)
                    rows.append((term.group, TIED, label, np.nan, correlation))
                else:
                    rows.append((term.group, names[b], names[a], cov[a, b], correlation))
    rows.append(("Residual", None, None, fitted.sigma2, float(np.sqrt(fitted.sigma2))))
    grp, var1, var2, vcov, sdcor = zip(*rows, strict=True)
    # object columns: the text type of pandas 3 would turn None into NaN
    text = {
        label: pd.Series(values, dtype=object)
        for label, values in (("grp", grp), ("var1", var1), ("var2", var2))
    }
    return pd.DataFrame({**text, "vcov": np.array(vcov), "sdcor": np.array(sdcor)})
