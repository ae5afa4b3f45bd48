"""Axes to draw on, and what all pictures share; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..exceptions import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "FEW",
    "MANY",
    "band",
    "cloud",
    "label_extremes",
    "name_positions",
    "new_axes",
    "row_of_axes",
    "trend",
]

FEW = 60  # names that an axis holds
MANY = 3_000  # points beyond which their density is drawn
GREY = "0.55"


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'mme[plot]'.") from error
    return plt


def new_axes(ax: Axes | None, width: float = 6.4, height: float = 4.8) -> Axes:
    """The axes that were given, or those of a new figure.

    Raises
    ------
    ImportError
        Without matplotlib.
    OptionError
        Something else than one Axes was given.
    """
    plt = _pyplot()
    if ax is None:
        return plt.subplots(figsize=(width, height), layout="constrained")[1]
    if not hasattr(ax, "plot") or not hasattr(ax, "set_xlabel"):
        raise OptionError(f"ax must be an Axes of matplotlib, not {type(ax).__name__}.")
    return ax


def row_of_axes(number: int, columns: int = 3, width: float = 3.4, height: float = 3.0) -> np.ndarray:
    """Axes of a new figure, row by row, shape (number,); those left over are hidden."""
    plt = _pyplot()
    across = min(columns, max(number, 1))
    down = -(-max(number, 1) // across)
    _, grid = plt.subplots(
        down, across, figsize=(width * across, height * down), layout="constrained", squeeze=False
    )
    for ax in grid.ravel()[number:]:
        ax.set_visible(False)
    return grid.ravel()[:number]


def cloud(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Points, or of many their density."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if x.size > MANY:
        ax.hexbin(x, y, gridsize=60, bins="log", mincnt=1, cmap="Blues", linewidths=0.1)
    else:
        ax.plot(x, y, "o", ms=3.5 if x.size > 300 else 4.5, alpha=0.6, mec="none")


def trend(ax: Axes, x: np.ndarray, y: np.ndarray, color: str = "C3") -> None:
    """Means of y in bins of x that hold alike many points."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    number = int(np.clip(x.size // 12, 1, 25))
    if x.size < 24 or np.ptp(x) == 0.0:
        return
    parts = np.array_split(np.argsort(x, kind="stable"), number)
    ax.plot([x[p].mean() for p in parts], [y[p].mean() for p in parts], color=color, lw=1.8)


def band(
    ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: str = "C0", alpha: float = 0.25
) -> None:
    """Between two lines."""
    ax.fill_between(x, low, high, color=color, alpha=alpha, lw=0)


def name_positions(ax: Axes, names: Sequence[Any], axis: str = "y", at: np.ndarray | None = None) -> None:
    """Names along an axis if it holds them, else how many there are."""
    number = len(names)
    places = np.arange(number) if at is None else at
    show = ax.set_yticks if axis == "y" else ax.set_xticks
    if number > FEW:
        show([])
        return
    size = 9 if number <= 25 else 9.0 * 25.0 / number + 2.0
    text = [str(name) if len(str(name)) <= 32 else str(name)[:31] + "…" for name in names]
    if axis == "y":
        show(places, text, fontsize=size)
    else:
        upright = number * max(map(len, text), default=0) > 60
        show(places, text, fontsize=size, rotation=90 if upright else 0)


def label_extremes(ax: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[Any], number: int) -> None:
    """Names at the points with the largest y, where they are apart from one another."""
    size = np.where(np.isfinite(y), y, -np.inf)
    wide, high = max(float(np.ptp(x)), 1e-300), float(np.nanmax(np.append(y, 0.0))) or 1.0
    taken: list[tuple[float, float]] = []
    for i in np.argsort(-size, kind="stable")[: max(number, 0)]:
        here = float((x[i] - x[0]) / wide), float(size[i] / high)
        if not np.isfinite(here[1]) or any(
            abs(here[0] - a) < 0.16 and abs(here[1] - b) < 0.05 for a, b in taken
        ):
            continue
        taken.append(here)
        right = here[0] > 0.8
        ax.annotate(
            str(names[i]),
            (x[i], y[i]),
            textcoords="offset points",
            xytext=(-4 if right else 4, 2),
            fontsize=8,
            color="0.25",
            ha="right" if right else "left",
        )
