"""Pictures of marginal means and of the effect of one variable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..exceptions import InferenceError, OptionError
from .axes import FEW, band, name_positions, new_axes
from .protocol import Drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["emmeans", "interaction", "partial"]

_LINES = 12  # that a legend tells apart


def emmeans(
    result: Drawable,
    specs: str,
    by: str | None = None,
    ddf: str | None = None,
    alpha: float = 0.05,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Marginal means of a factor's levels with their intervals.

    Parameters
    ----------
    result : results of `lmer` or `MixedLM`
    specs : str
        The factor along the axis.
    by : str, optional
        Another one, whose levels have colours.
    ddf, alpha
        As in `results.emmeans`.
    ax : Axes, optional
    **options
        Others of `results.emmeans`: `at`, `weights`, `adjust`.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> oats = pd.read_csv(mme.data_path("oats.csv")).rename(columns={"yield": "crop"})
    >>> result = mme.lmer("crop ~ C(nitro) * Variety + (1 | Block)", oats)
    >>> axes = mme.plot.emmeans(result, "nitro")
    """
    return _means(result, specs, by, ddf, alpha, ax, False, options)


def interaction(
    result: Drawable,
    specs: str,
    by: str,
    ddf: str | None = None,
    alpha: float = 0.05,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Marginal means of a factor within the levels of another, joined by lines: parallel without interaction.

    Parameters
    ----------
    result, specs, by, ddf, alpha, ax, **options
        As in `emmeans`.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> oats = pd.read_csv(mme.data_path("oats.csv")).rename(columns={"yield": "crop"})
    >>> result = mme.lmer("crop ~ C(nitro) * Variety + (1 | Block)", oats)
    >>> axes = mme.plot.interaction(result, "nitro", by="Variety")
    """
    return _means(result, specs, by, ddf, alpha, ax, True, options)


def _means(
    result: Drawable, specs: str, by: str | None, ddf: str | None, alpha: float, ax: Axes | None, lines: bool,
    options: dict[str, Any],
) -> Axes:  # fmt: skip
    for name, value in (("specs", specs), ("by", by)):
        if not isinstance(value, str) and not (name == "by" and value is None):
            raise OptionError(f"{name}={value!r} must be the name of one variable.")
    labels, numbers = _table(result.emmeans(specs, by=by, ddf=ddf, alpha=alpha, **options))
    levels = list(dict.fromkeys(labels[specs]))
    groups = [None] if by is None else list(dict.fromkeys(labels[by]))
    ax = new_axes(ax, width=min(12.0, max(6.4, 0.3 * len(levels))))
    place = {level: i for i, level in enumerate(levels)}
    numeric = lines and all(
        isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in levels
    )
    many = len(levels) > FEW
    for g, group in enumerate(groups):
        own = np.ones(len(labels), dtype=bool) if by is None else np.asarray(labels[by] == group)
        x = np.array([float(v) if numeric else float(place[v]) for v in labels[specs][own]])
        shift = 0.0 if many or len(groups) == 1 else 0.5 * ((g + 0.5) / len(groups) - 0.5)
        if numeric and len(levels) > 1:
            shift *= float(np.min(np.diff(np.sort(np.array(levels, dtype=float)))))
        mean, low, high = numbers[own].T
        color = f"C{g % 10}"
        label = _level(group)
        if many:
            band(ax, x, low, high, color=color)
            ax.plot(x, mean, "-" if lines else ".", ms=2.0, lw=1.0, color=color, label=label)
            continue
        ax.vlines(x + shift, low, high, color=color, lw=1.8)
        ax.plot(x + shift, mean, "o-" if lines else "o", ms=5.0, lw=1.2, color=color, label=label)
    if many or numeric:
        ax.set_xlabel(f"{specs} ({len(levels):,} levels)" if many else specs)
        if many and not numeric:
            ax.set_xticks([])
    else:
        name_positions(ax, levels, axis="x")
        ax.set_xlabel(specs)
        ax.set_xlim(-0.5, len(levels) - 0.5)
    ax.set_ylabel(f"mean of {result.fitted.labels.response}, {100.0 * (1.0 - alpha):g} % intervals")
    _legend(ax, by, len(groups))
    return ax


def partial(
    result: Drawable,
    variable: str,
    by: str | None = None,
    points: int = 60,
    ddf: str | None = None,
    alpha: float = 0.05,
    rows: bool = True,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """The fixed part along one variable with its band, others as in `emmeans`: at means, or averaged over.

    Parameters
    ----------
    result : results of `lmer` or `MixedLM`
    variable : str
        A numeric one has a line over its range; a factor is drawn by `emmeans`.
    by : str, optional
        A factor with a line per level.
    points : int
        Along the line.
    ddf, alpha
        As in `results.emmeans`: intervals are those of single points.
    rows : bool
        Mark where along the axis the variable is known to lie: its range, and a rug of its values where these
        are a column of the model's.
    ax : Axes, optional
    **options
        Others of `results.emmeans`.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> axes = mme.plot.partial(result, "Days")
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise OptionError(f"points={points!r} must be a whole number of 2 or more.")
    fitted = result.fitted
    if fitted.coding is None:
        raise InferenceError("partial goes by the variables of a formula, and this model has none.")
    found = {v.name: v for v in fitted.coding().variables}
    if variable not in found:
        raise OptionError(
            f"variable={variable!r} is not in the fixed part. Known: {', '.join(found) or 'none'}."
        )
    own = found[variable]
    if own.kind != "numeric":
        return emmeans(result, variable, by, ddf, alpha, ax, **options)
    at = {variable: np.linspace(own.low, own.high, points).tolist(), **options.pop("at", {})}
    labels, numbers = _table(result.emmeans(variable, by=by, at=at, ddf=ddf, alpha=alpha, **options))
    groups = [None] if by is None else list(dict.fromkeys(labels[by]))
    ax = new_axes(ax)
    for g, group in enumerate(groups):
        part = np.ones(len(labels), dtype=bool) if by is None else np.asarray(labels[by] == group)
        x, (mean, low, high) = labels[variable].to_numpy(dtype=float)[part], numbers[part].T
        color = f"C{g % 10}"
        band(ax, x, low, high, color=color, alpha=0.2)
        ax.plot(x, mean, color=color, lw=1.8, label=_level(group))
    names = list(fitted.labels.fixed)
    if rows and fitted.design is not None and variable in names:
        values = np.unique(fitted.design.X[:, names.index(variable)])
        if values.size > 100:
            values = np.quantile(values, np.linspace(0.0, 1.0, 100))
        ax.plot(
            values,
            np.zeros(values.size),
            "|",
            color="0.3",
            ms=7,
            transform=ax.get_xaxis_transform(),
            clip_on=False,
        )
    ax.set_xlabel(variable)
    ax.set_ylabel(f"mean of {fitted.labels.response}, {100.0 * (1.0 - alpha):g} % intervals")
    _legend(ax, by, len(groups))
    return ax


def _table(means: Any) -> tuple[Any, np.ndarray]:
    """Labels, and estimates with their bounds, shape (n, 3); a variable may have the name of a statistic."""
    own = means.frame.iloc[:, means.labels.shape[1] :]
    return means.labels, own[["estimate", "lower", "upper"]].to_numpy(dtype=float)


def _level(group: object) -> str | None:
    """A level as a legend has it; means of covariates have many digits."""
    if group is None:
        return None
    return f"{group:.5g}" if isinstance(group, float) else str(group)


def _legend(ax: Axes, by: str | None, number: int) -> None:
    if by is not None and number <= _LINES:
        ax.legend(title=by, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    elif by is not None:
        ax.set_title(f"{number:,} levels of {by}", fontsize=9)
