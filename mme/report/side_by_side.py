"""`mme.table`: several fits side by side, on statsmodels' summary2.

Its tables are what statsmodels' `summary_col` returns: text, HTML and LaTeX from a dependency that is there,
while great-tables has no text and would be one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import OptionError
from ..fit.fitted import Fitted
from .estimates import variance_components
from .tables import TitledSummary
from .tidy import criteria

__all__ = ["table"]

_LEVELS = (0.05, 0.01, 0.001)
_BELOW = ("se", "ci", "p", None)
_INTERCEPT = "(Intercept)"


def table(
    results: Sequence[Any] | Any,
    names: Sequence[str] | None = None,
    stars: bool | Sequence[float] = False,
    below: str | None = "se",
    ddf: str | None = None,
    alpha: float = 0.05,
    digits: int = 3,
    title: str = "",
) -> TitledSummary:
    """Fits side by side: a column each, of either door or from files.

    Parameters
    ----------
    results : sequence of results
    names : sequence of str, optional
        Heads of the columns; by default (1), (2) and so on.
    stars : bool or sequence of float
        Whether to mark small p, with a star for each of the levels 0.05, 0.01, 0.001, or of those given.
    below : {"se", "ci", "p"} or None
        What stands under an estimate: its standard error, interval or p.
    ddf, alpha
        As in `coef_table`, from which all of these come.
    digits : int
        After the decimal point.
    title : str

    Returns
    -------
    TitledSummary
        ``as_text()``, ``as_html()``, ``as_latex()``.  Fixed effects, standard deviations and correlations of
        the random effects (those of one name stand in one row, whichever door they are from), then rows,
        levels, log-likelihood and lme4's criteria.

    Raises
    ------
    OptionError
        No results, names of another number, something misspelt.
    InferenceError
        As `coef_table`.

    Examples
    --------
    >>> import pandas as pd, mme
    >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
    >>> slopes = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> plain = mme.mixedlm("Reaction ~ Days", sleep, groups="Subject").fit()
    >>> side = mme.table([slopes, plain], names=["slopes", "intercepts"])
    >>> print(side.tables[0].head(4).to_string(index=False))
                 slopes intercepts
    (Intercept) 251.405    251.405
                (6.825)    (9.747)
           Days  10.467     10.467
                (1.546)    (0.804)
    """
    fits: list[Any] = list(results) if isinstance(results, list | tuple) else [results]
    if not fits:
        raise OptionError("table() needs results of at least one fit.")
    wrong = [type(fit).__name__ for fit in fits if not isinstance(getattr(fit, "fitted", None), Fitted)]
    if wrong:
        raise OptionError(f"table() takes results of lmer and MixedLM, not {', '.join(wrong)}.")
    if below not in _BELOW:
        raise OptionError(f"below={below!r} is not known: 'se', 'ci', 'p' or None.")
    levels = _check_stars(stars)
    heads = [f"({number})" for number in range(1, len(fits) + 1)] if names is None else list(map(str, names))
    if len(heads) != len(fits) or len(set(heads)) != len(heads):
        raise OptionError(f"names={heads!r} must be {len(fits)} different names, one for each fit.")
    fixed: dict[str, list[list[str]]] = {}
    random: dict[tuple[str, ...], list[str]] = {}
    facts: dict[str, list[str]] = {}
    used: list[str] = []
    for column, fit in enumerate(fits):
        fitted: Fitted = fit.fitted
        own = fit.coef_table(ddf=ddf, alpha=alpha)
        used.append(own.attrs["ddf"])
        for name, row in own.iterrows():
            cells = fixed.setdefault(_common(str(name)), [["", ""] for _ in fits])
            cells[column] = _cell(row, levels, below, digits)
        for key, value in _deviations(fitted).items():
            random.setdefault(key, [""] * len(fits))[column] = _number(value, digits)
        for name, text in _facts(fit, fitted).items():
            facts.setdefault(name, [""] * len(fits))[column] = text
    out = TitledSummary()
    out.add_title(title or None)
    rows: list[list[str]] = []
    for name, cells in fixed.items():
        rows.append([name, *(cell[0] for cell in cells)])
        if below is not None:
            rows.append(["", *(cell[1] for cell in cells)])
    gap = [""] * (len(fits) + 1)  # in one table columns stay under their heads
    for part in ({_spelt(key): values for key, values in random.items()}, facts):
        rows += [gap, *([name, *values] for name, values in part.items())]
    frame = pd.DataFrame(rows, columns=["", *heads])
    out.add_df(frame, index=False, align="l" + "r" * len(fits))
    for line in _notes(fits, levels, below, used, alpha):
        out.add_text(line)
    return out


def _check_stars(stars: bool | Sequence[float]) -> tuple[float, ...]:
    if isinstance(stars, bool):
        return _LEVELS if stars else ()
    levels = tuple(sorted((float(level) for level in stars), reverse=True))
    if not all(0.0 < level < 1.0 for level in levels):
        raise OptionError(f"stars={stars!r} must be levels between 0 and 1.")
    return levels


def _common(name: str) -> str:
    """Both doors' name of a fixed effect: statsmodels' intercept has no parentheses."""
    return _INTERCEPT if name == "Intercept" else name


def _cell(row: Any, levels: Sequence[float], below: str | None, digits: int) -> list[str]:
    marks = "*" * sum(bool(row["p"] < level) for level in levels)
    under = ""
    if below == "se":
        under = f"({_number(row['se'], digits)})"
    elif below == "ci":
        under = f"[{_number(row['lower'], digits)}, {_number(row['upper'], digits)}]"
    elif below == "p":
        smallest = 10.0**-digits
        under = f"p < {smallest:.{digits}f}" if row["p"] < smallest else f"p = {row['p']:.{digits}f}"
    if np.isnan(row["estimate"]):
        return ["dropped", ""]
    return [_number(row["estimate"], digits) + marks, under]


def _number(value: float, digits: int) -> str:
    """So many decimals; significant digits where these would show nothing, or hide nothing."""
    if np.isnan(value):
        return ""
    size = abs(value)
    return f"{value:.{digits}g}" if 0.0 < size < 10.0**-digits or size >= 1e7 else f"{value:.{digits}f}"


def _deviations(fitted: Fitted) -> dict[tuple[str, ...], float]:
    """Standard deviations and correlations by group and effects, the residual last."""
    out: dict[tuple[str, ...], float] = {}
    for row in variance_components(fitted).itertuples(index=False):
        effects = [_effect(row.grp, name) for name in (row.var1, row.var2) if name is not None]
        out[("SD" if row.var2 is None else "Corr.", row.grp, *effects)] = float(row.sdcor)
    return out


def _effect(group: str, name: str) -> str:
    """Both doors' name of an effect: MixedLM calls an intercept after its groups."""
    return _INTERCEPT if name in (group, f"{group} Var", "Group Var") else name


def _spelt(key: tuple[str, ...]) -> str:
    kind, group, *effects = key
    return f"{kind} {group}" + (f": {', '.join(effects)}" if effects else "")


def _facts(fit: Any, fitted: Fitted) -> dict[str, str]:
    own = criteria(fitted)
    groups = getattr(fit, "n_groups", None)
    levels = dict(groups) if groups is not None else {t.group: t.n_levels for t in fitted.labels.terms}
    return {
        "Observations": str(fitted.n),
        **{f"Levels of {name}": str(count) for name, count in levels.items()},
        "Method": fitted.method,
        "Log-likelihood": f"{fitted.loglik:.3f}",
        **{name: "" if np.isnan(own[name]) else f"{own[name]:.3f}" for name in ("AIC", "BIC")},
    }


def _notes(
    fits: Sequence[Any], levels: Sequence[float], below: str | None, used: Sequence[str], alpha: float
) -> list[str]:
    notes = []
    if below is not None:
        shown = {"se": "standard errors", "ci": f"{100 * (1 - alpha):g} % intervals", "p": "p"}[below]
        notes.append(f"Below the estimates: {shown}.")
    if levels or below in ("ci", "p"):
        notes.append(f"Degrees of freedom: {', '.join(dict.fromkeys(used))}.")
    if levels:
        marks = ", ".join(f"{'*' * (n + 1)} p < {level:g}" for n, level in enumerate(levels))
        notes.append(f"{marks}.")
    effects = [frozenset(map(_common, fit.fitted.labels.fixed)) for fit in fits]
    reml = [fit.fitted.reml for fit in fits]
    if any(reml) and (len(set(effects)) > 1 or not all(reml)):
        notes.append(
            "Likelihoods of REML compare only between fits with the same fixed effects; compare ML fits."
        )
    if len({fit.fitted.n for fit in fits}) > 1:
        notes.append("The fits have different numbers of rows: their likelihoods do not compare.")
    failed = [str(number) for number, fit in enumerate(fits, start=1) if not fit.fitted.converged]
    if failed:
        notes.append(f"Not converged: ({'), ('.join(failed)}).")
    return notes
