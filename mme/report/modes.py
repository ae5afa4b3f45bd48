"""Tables of predicted random effects, for results of both doors."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import InferenceError, OptionError
from ..fit.fitted import Fitted
from ..inference.coefficients import check_alpha
from ..inference.modes import mode_errors
from ..inference.tails import t_quantile
from .reported import Reported

__all__ = ["ModeTables", "ranef_table"]


class ModeTables(Reported):
    """What results of both doors say of their random effects."""

    def ranef_table(
        self,
        term: str | None = None,
        levels: Sequence[Any] | None = None,
        alpha: float = 0.05,
        variances: bool | str = True,
        probes: int = 32,
    ) -> pd.DataFrame:
        """Predicted random effects with their errors: a row per level and effect.

        Parameters
        ----------
        term : str, optional
            A term, as `varcorr` names it; all by default.
        levels : sequence, optional
            Levels of the term; all by default.
        alpha : float
            One less the level of the intervals.
        variances : bool or {"exact", "estimated"}
            Whether errors are wanted.  Those of an iterative fit take a solve for each effect, "exact", or
            are "estimated" for all levels of a term at once, with a Monte Carlo error; True solves for up to
            2,000 effects of a term.  Those of a direct fit are always exact.
        probes : int
            Random vectors of the estimates, whose error falls with the root of their number.

        Returns
        -------
        pandas.DataFrame
            ``term``, ``level``, ``effect``, ``blup``; ``se``, given the fixed effects (lme4's ``condVar``);
            ``pev``, the prediction error variance Var(u^ - u), which counts the estimation of the fixed
            effects (Henderson 1975); ``reliability``, 1 - pev / variance, NaN where the variance is zero;
            ``lower`` and ``upper``, blup less and plus normal quantiles times sqrt(pev).  Where errors were
            estimated also ``se_error`` and ``pev_error``, the Monte Carlo standard errors of ``se`` and
            ``pev``; zero of what was solved for.

        Raises
        ------
        OptionError
            A term or a level that is not there.
        InferenceError
            Data removed; solves that do not converge.

        References
        ----------
        Henderson (1975), Biometrics 31, 423-447.  Bekas, Kokiopoulou & Saad (2007), Applied Numerical
        Mathematics 57, 1214-1229.

        Examples
        --------
        >>> import pandas as pd, mme
        >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.ranef_table(levels=[308])[["effect", "blup", "se", "reliability"]].round(2)
                effect  blup     se  reliability
        0  (Intercept)  2.26  12.07         0.72
        1         Days  9.20   2.30         0.80
        """
        return ranef_table(self.fitted, term, levels, alpha, variances, probes)


def ranef_table(
    fitted: Fitted,
    term: str | None = None,
    levels: Sequence[Any] | None = None,
    alpha: float = 0.05,
    variances: bool | str = True,
    probes: int = 32,
) -> pd.DataFrame:
    """See `ModeTables.ranef_table`."""
    alpha = check_alpha(alpha)
    estimated = _check_variances(variances)
    if isinstance(probes, bool) or not isinstance(probes, Integral) or probes < 2:
        raise OptionError(f"probes must be an integer and at least 2, not {probes!r}.")
    groups = [t.group for t in fitted.labels.terms]
    if not groups:
        raise InferenceError("the model has no random effects.")
    if term is not None and term not in groups:
        raise OptionError(f"term={term!r} is not there. Known: {', '.join(groups)}.")
    if levels is not None and term is None and len(groups) > 1:
        raise OptionError(f"levels= goes with term=, one of {', '.join(groups)}.")
    if fitted.modes is None or fitted.effect_labels is None:
        raise InferenceError("the random effects were removed.")
    asked = [t for t, group in enumerate(groups) if term in (None, group)]
    names, modes = fitted.effect_labels(), fitted.modes()
    rows: list[np.ndarray | None] = [None] * len(asked)
    if levels is not None:
        rows[0] = _places(
            names[asked[0]][0], len(fitted.labels.terms[asked[0]].effects), levels, groups[asked[0]]
        )
    errors = mode_errors(fitted, asked, rows, estimated, int(probes)) if variances else None
    stochastic = errors is not None and any(found.error is not None for found in errors)
    frames = []
    for i, (t, at) in enumerate(zip(asked, rows, strict=True)):
        k = len(fitted.labels.terms[t].effects)
        u = np.reshape(modes[t], (-1, k))
        level, effect = (np.reshape(given, (-1, k)) for given in names[t])
        if at is not None:
            u, level, effect = u[at], level[at], effect[at]
        columns: dict[str, Any] = {
            "term": np.full(u.size, groups[t], dtype=object),
            "level": level.ravel(),
            "effect": effect.ravel(),
            "blup": u.ravel(),
        }
        if errors is not None:
            found = errors[i]
            with np.errstate(divide="ignore", invalid="ignore"):
                reliability = np.where(found.prior > 0.0, 1.0 - found.prediction / found.prior, np.nan)
            half = t_quantile(alpha, np.array(np.inf)) * np.sqrt(found.prediction)
            columns |= {
                "se": np.sqrt(found.conditional).ravel(),
                "pev": found.prediction.ravel(),
                "reliability": reliability.ravel(),
                "lower": (u - half).ravel(),
                "upper": (u + half).ravel(),
            }
            if stochastic:
                error = np.zeros_like(found.prediction) if found.error is None else found.error
                with np.errstate(divide="ignore", invalid="ignore"):
                    relative = np.where(error > 0.0, error / (2.0 * np.sqrt(found.conditional)), 0.0)
                columns |= {"se_error": relative.ravel(), "pev_error": error.ravel()}
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]


def _check_variances(variances: bool | str) -> bool | None:
    """Whether they are to be estimated; None: as many levels as there are say."""
    if isinstance(variances, bool | np.bool_):
        return None
    if variances not in ("exact", "estimated"):
        raise OptionError(f"variances={variances!r} is not known. Known: True, False, exact, estimated.")
    return variances == "estimated"


def _places(labels: np.ndarray, k: int, levels: Sequence[Any], group: str) -> np.ndarray:
    """Where the levels asked for stand among those of the term."""
    known = pd.Index(labels[::k])
    wanted = pd.Index(pd.unique(pd.Series(list(levels), dtype=object)))
    missing = wanted[~wanted.isin(known)]
    if len(missing):
        shown = ", ".join(repr(level) for level in missing[:5])
        raise OptionError(f"{group} has no level {shown}{', ...' if len(missing) > 5 else ''}.")
    return np.flatnonzero(known.isin(wanted))
