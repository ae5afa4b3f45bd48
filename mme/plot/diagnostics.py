"""Pictures of residuals, scaled residuals and influence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.runtime.scipys import scipy_module
from ..exceptions import OptionError
from .axes import GREY, band, cloud, label_extremes, name_positions, new_axes, trend
from .effects import term_and_effect
from .protocol import Drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["influence", "pit", "qq", "residuals", "scale_location"]

_DRAWS = 400
_SIMULATED = 2_000  # points up to which the envelope is simulated; of more the exact quantiles are smooth
_SHOWN = 2_000  # points of a Q-Q plot
_NAMED = 25  # levels whose names stand along the axis
_LINES = 1_000  # that are told apart
_TAIL = 200  # of them at either end


def residuals(result: Drawable, kind: str | None = None, ax: Axes | None = None) -> Axes:
    """Residuals over fitted values, with their means along them.

    Parameters
    ----------
    result : results of `lmer` or `MixedLM`
    kind : str, optional
        As in `results.residuals`; "standardized" by default, "pearson" after an iterative fit.  Marginal
        kinds are drawn over X b, others over X b + Z u.
    ax : Axes, optional

    Returns
    -------
    Axes

    Notes
    -----
    Predictions of random effects are shrunken, so that conditional residuals rise with their fitted values
    where levels have few rows, even if the model holds.  Marginal kinds have no such trend.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> axes = mme.plot.residuals(result)
    """
    chosen = _usual(result) if kind is None else kind
    values = np.asarray(result.residuals(chosen))
    marginal = chosen.startswith("marginal") or chosen == "whitened"
    x = _response(result) - np.asarray(result.residuals("marginal" if marginal else "raw"))
    ax = new_axes(ax)
    cloud(ax, x, values)
    trend(ax, x, values)
    ax.axhline(0.0, color=GREY, lw=0.8, ls="--", zorder=0)
    ax.set_xlabel("fitted values" + (", fixed part" if marginal else ""))
    ax.set_ylabel(f"{chosen} residuals")
    return ax


def scale_location(result: Drawable, kind: str | None = None, ax: Axes | None = None) -> Axes:
    """Roots of absolute residuals over fitted values: a trend says that the variance is not constant.

    Parameters
    ----------
    result, kind, ax
        As in `residuals`.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> axes = mme.plot.scale_location(result)
    """
    chosen = _usual(result) if kind is None else kind
    values = np.sqrt(np.abs(np.asarray(result.residuals(chosen))))
    marginal = chosen.startswith("marginal") or chosen == "whitened"
    x = _response(result) - np.asarray(result.residuals("marginal" if marginal else "raw"))
    ax = new_axes(ax)
    cloud(ax, x, values)
    trend(ax, x, values)
    ax.set_xlabel("fitted values" + (", fixed part" if marginal else ""))
    ax.set_ylabel(f"root of |{chosen} residuals|")
    return ax


def qq(
    result: Drawable,
    kind: str | None = None,
    term: str | None = None,
    effect: str | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Quantiles of residuals, or of a term's random effects, over those of the normal distribution.

    Parameters
    ----------
    result : results of `lmer` or `MixedLM`
    kind : str, optional
        As in `results.residuals`: "whitened" by default, which are independent if the model holds; "pearson"
        after an iterative fit.
    term, effect : str, optional
        Random effects in place of residuals, over the standard deviations of their predictions.
    alpha : float
        One less the level of the envelope, which is simulated: point by point, of independent normal values.
    seed : int
        Of the simulation.
    ax : Axes, optional

    Returns
    -------
    Axes
        Of more than 2,000 points all at the ends and some between.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> axes = mme.plot.qq(result)
    """
    if not 0.0 < alpha < 1.0:
        raise OptionError(f"alpha={alpha!r} must lie between 0 and 1.")
    if term is None and effect is None:
        chosen = ("whitened" if _exact(result) else "pearson") if kind is None else kind
        values, label = np.asarray(result.residuals(chosen)), f"{chosen} residuals"
    else:
        if kind is not None:
            raise OptionError(
                "kind= is for residuals, term= and effect= for random effects: give one of them."
            )
        values, label = _standard_modes(result, term, effect)
    values = np.sort(values[np.isfinite(values)])
    n = values.size
    if n < 3:
        raise OptionError(f"{label}: {n} values make no picture (a variance of zero has no predictions).")
    shown = _thinned(n)
    special = scipy_module("special")
    x = special.ndtri((shown + 0.5) / n)
    low, high = _envelope(n, shown, alpha, seed)
    ax = new_axes(ax)
    band(ax, x, low, high, color="0.5")
    ax.plot(x, x, color=GREY, lw=0.8, ls="--")
    ax.plot(x, values[shown], "o", ms=3.5, mec="none", alpha=0.8)
    ax.set_xlabel("normal quantiles")
    ax.set_ylabel(label)
    return ax


def _envelope(n: int, shown: np.ndarray, alpha: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if n <= _SIMULATED:
        drawn = np.sort(np.random.default_rng(seed).normal(size=(_DRAWS, n)), axis=1)
        low, high = np.quantile(drawn, [alpha / 2.0, 1.0 - alpha / 2.0], axis=0)
        return low, high
    # what many simulations come to: the i-th of n uniform values has a beta distribution
    special = scipy_module("special")
    ends = [special.betaincinv(shown + 1.0, n - shown, q) for q in (alpha / 2.0, 1.0 - alpha / 2.0)]
    return special.ndtri(ends[0]), special.ndtri(ends[1])


def _thinned(n: int) -> np.ndarray:
    if n <= _SHOWN:
        return np.arange(n)
    inner = np.linspace(_TAIL, n - 1 - _TAIL, _SHOWN - 2 * _TAIL).round().astype(int)
    return np.unique(np.r_[np.arange(_TAIL), inner, np.arange(n - _TAIL, n)])


def _standard_modes(result: Drawable, term: str | None, effect: str | None) -> tuple[np.ndarray, str]:
    group, name = term_and_effect(result, term, effect)
    table = result.ranef_table(group)
    own = table[table["effect"] == name]
    table = table if own.empty else own
    share = table["reliability"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        # Var(u^) = Var(u) - Var(u^ - u)
        values = table["blup"].to_numpy() / np.sqrt(table["pev"].to_numpy() * share / (1.0 - share))
    return values, f"{group}: {name}, standardized"


def pit(
    result: Drawable,
    n: int = 250,
    seed: int = 0,
    random_effects: str = "new",
    rotate: bool | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Histogram of scaled residuals, uniform if the model holds, with the p-values of their tests.

    Parameters
    ----------
    result : results of `lmer` or `MixedLM`
    n, seed, random_effects, rotate
        As in `results.pit_residuals`; rows are rotated by default where they can be.
    ax : Axes, optional

    Returns
    -------
    Axes
        The band holds 95 % of a bar's heights.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> axes = mme.plot.pit(result, n=50)
    """
    if rotate is None:
        rotate = _exact(result) and random_effects == "new"
    scaled = result.pit_residuals(n, seed, random_effects, rotate)
    values = np.asarray(scaled.values)
    values = values[np.isfinite(values)]
    bins = int(np.clip(values.size // 15, 5, 20))
    stats = scipy_module("stats")
    low, high = stats.binom.ppf([0.025, 0.975], values.size, 1.0 / bins) * bins / values.size
    ax = new_axes(ax)
    ax.hist(values, bins=bins, range=(0.0, 1.0), density=True, color="C0", alpha=0.7, ec="white")
    ax.axhspan(low, high, color="0.5", alpha=0.3, lw=0)
    ax.axhline(1.0, color=GREY, lw=0.8, ls="--")
    p = scaled.tests["p"]
    ax.set_title("p: " + ", ".join(f"{name} {value:.2g}" for name, value in p.items()), fontsize=9)
    ax.set_xlabel("scaled (PIT) residuals")
    ax.set_ylabel("density")
    return ax


def influence(
    result: Drawable,
    by: Any = None,
    column: str = "cooks_fixed",
    label: int = 5,
    ax: Axes | None = None,
) -> Axes:
    """Influence of every row, or of every level of a factor, one after another.

    Parameters
    ----------
    result : results of `lmer` or `MixedLM`, or what their `influence()` returned
    by : optional
        As in `results.influence`.
    column : str
        Of its ``frame``.
    label : int
        How many of the largest are named.
    ax : Axes, optional

    Returns
    -------
    Axes

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> axes = mme.plot.influence(result)
    """
    found: Any = result if hasattr(result, "dfbetas") else result.influence(by)
    frame = found.frame
    if column not in frame.columns:
        raise OptionError(f"column={column!r} is not known. Known: {', '.join(frame.columns)}.")
    y = frame[column].to_numpy(dtype=float)
    x = np.arange(y.size)
    ax = new_axes(ax)
    base = 1.0 if column == "covratio" else 0.0
    at = _highest(np.abs(y - base))
    ax.vlines(x[at], base, y[at], color="C0", lw=float(np.clip(400.0 / max(y.size, 1), 0.6, 2.0)))
    if y.size <= 500:
        ax.plot(x, y, "o", ms=3.0, color="C0")
    ax.axhline(base, color=GREY, lw=0.8)
    named = found.by is not None and y.size <= _NAMED
    label_extremes(ax, x, y, frame.index.tolist(), 0 if base or named else label)
    name = found.by
    ax.set_xlabel(f"{'row' if name is None else name} ({y.size:,}{' rows' if name is None else ' levels'})")
    ax.set_ylabel(column)
    ax.margins(x=0.02, y=0.1)
    if named:
        name_positions(ax, frame.index.tolist(), axis="x")
        ax.set_xlim(-0.5, y.size - 0.5)
    return ax


def _highest(size: np.ndarray) -> np.ndarray:
    """Where lines are drawn: everywhere, or of very many the highest of those that share a place."""
    known = np.flatnonzero(np.isfinite(size))
    if known.size <= _LINES:
        return known
    parts = np.array_split(known, _LINES)
    return np.array([part[np.argmax(size[part])] for part in parts])


def _usual(result: Drawable) -> str:
    return "standardized" if _exact(result) else "pearson"


def _exact(result: Drawable) -> bool:
    if result.fitted.design is None:
        result.residuals("raw")  # says what is missing
    return result.fitted.exact


def _response(result: Drawable) -> np.ndarray:
    design = result.fitted.design
    assert design is not None  # residuals were asked for before
    return design.y
