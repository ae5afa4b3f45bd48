"""Pictures of random and of fixed effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..exceptions import OptionError
from .axes import FEW, GREY, name_positions, new_axes
from .protocol import Drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["caterpillar", "coefficients", "term_and_effect"]


def term_and_effect(result: Drawable, term: str | None, effect: str | None) -> tuple[str, str]:
    """Names of a term and of one of its effects: by default the first of each.

    Raises
    ------
    OptionError
        There is none of that name.
    """
    terms = {t.group: t.effects for t in result.fitted.labels.terms}
    chosen = next(iter(terms)) if term is None else term
    if chosen not in terms:
        raise OptionError(f"term={term!r} is not there. Known: {', '.join(terms)}.")
    if effect is None:
        return chosen, terms[chosen][0]
    if effect not in terms[chosen]:
        raise OptionError(f"effect={effect!r} is no effect of {chosen}. Known: {', '.join(terms[chosen])}.")
    return chosen, effect


def caterpillar(
    result: Drawable,
    term: str | None = None,
    effect: str | None = None,
    alpha: float = 0.05,
    intervals: bool = True,
    order: str = "value",
    ax: Axes | None = None,
) -> Axes:
    """Random effects of a term's levels with prediction intervals.

    Parameters
    ----------
    result : results of `lmer` or `MixedLM`
    term : str, optional
        As `varcorr` names it; the first by default.
    effect : str, optional
        One of its effects; the first by default.
    alpha : float
        One less the level of the intervals, which are those of `ranef_table`: the estimation of the fixed
        effects counts.
    intervals : bool
        Without them nothing is solved for: iterative fits with many levels.
    order : {"value", "level"}
        Sort by the predictions, or as the levels are.
    ax : Axes, optional

    Returns
    -------
    Axes
        Names of up to 60 levels; of more, the band of their intervals.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> axes = mme.plot.caterpillar(result, effect="Days")
    """
    if order not in ("value", "level"):
        raise OptionError(f"order={order!r} is not known. Known: value, level.")
    group, name = term_and_effect(result, term, effect)
    table = result.ranef_table(group, alpha=alpha, variances=intervals)
    table = table[table["effect"] == name]
    if table.empty:  # a component's effects bear the names of its columns
        table = result.ranef_table(group, alpha=alpha, variances=intervals)
    if order == "value":
        table = table.sort_values("blup", kind="stable")
    blup, number = table["blup"].to_numpy(), len(table)
    ax = new_axes(ax, height=min(8.0, 1.4 + 0.22 * max(number, 8)))
    y = np.arange(number)
    if order == "level":
        y = y[::-1]
    if intervals:
        low, high = table["lower"].to_numpy(), table["upper"].to_numpy()
        clear = (low > 0.0) | (high < 0.0)
        if number > FEW:
            places = np.argsort(y)
            ax.fill_betweenx(y[places], low[places], high[places], color="C0", alpha=0.25, lw=0, step="mid")
        else:
            ax.hlines(y, low, high, color=np.where(clear, "C0", GREY).tolist(), lw=1.6)
    if number > FEW:
        ax.plot(blup, y, ",", color="C0") if number > 2_000 else ax.plot(blup, y, ".", ms=3, color="C0")
        ax.set_ylabel(f"{number:,} levels of {group}" + (", in order of the prediction" * (order == "value")))
    else:
        ax.plot(blup, y, "o", ms=4.5, color="C0")
        ax.set_ylabel(group)
    ax.axvline(0.0, color=GREY, lw=0.8, ls="--", zorder=0)
    name_positions(ax, table["level"].tolist(), at=y)
    spare = 0.6 if number <= FEW else 0.02 * number
    ax.set_ylim(-spare, number - 1 + spare)
    ax.set_xlabel(name + (f", {100.0 * (1.0 - alpha):g} % prediction intervals" if intervals else ""))
    return ax


def coefficients(
    result: Drawable,
    intercept: bool = False,
    ddf: str | None = None,
    alpha: float = 0.05,
    ax: Axes | None = None,
) -> Axes:
    """Fixed effects with their intervals.

    Parameters
    ----------
    result : results of `lmer` or `MixedLM`
    intercept : bool
        Show the intercept too, which is of another size as a rule.
    ddf, alpha
        As in `coef_table`.
    ax : Axes, optional

    Returns
    -------
    Axes
        The first coefficient is at the top.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> axes = mme.plot.coefficients(result)
    """
    table = result.coef_table(ddf, alpha)
    if not intercept:
        shown = table[~table.index.isin(["(Intercept)", "Intercept", "const"])]
        table = table if shown.empty else shown
    number = len(table)
    ax = new_axes(ax, height=min(8.0, 1.4 + 0.28 * max(number, 5)))
    y = np.arange(number)[::-1]
    value = table["estimate"].to_numpy()
    low, high = table["lower"].to_numpy(), table["upper"].to_numpy()
    ax.hlines(y, low, high, color="C0", lw=1.8 if number <= FEW else 0.8)
    ax.plot(value, y, "o", ms=5.0 if number <= FEW else 2.0, color="C0")
    ax.axvline(0.0, color=GREY, lw=0.8, ls="--", zorder=0)
    name_positions(ax, table.index.tolist(), at=y)
    if number > FEW:
        ax.set_ylabel(f"{number:,} coefficients")
    ax.set_ylim(-0.6, number - 0.4)
    ax.set_xlabel(f"estimate, {100.0 * (1.0 - alpha):g} % intervals")
    return ax
