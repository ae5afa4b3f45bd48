"""The page that one looks at after a fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..exceptions import InferenceError, OptionError
from .axes import row_of_axes
from .diagnostics import influence, pit, qq, residuals, scale_location
from .protocol import Drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["check"]


def check(result: Drawable, term: str | None = None, seed: int = 0, ax: Any = None) -> np.ndarray:
    """Six pictures of how a model fits.

    Residuals, their spread, their quantiles, quantiles of random effects, influence of levels, calibration.

    Parameters
    ----------
    result : results of `lmer` or `MixedLM`
    term : str, optional
        Whose random effects and levels are looked at; the first by default.
    seed : int
        Of what is simulated.
    ax : array of six Axes, optional

    Returns
    -------
    ndarray of Axes, shape (2, 3)
        A picture that the fit cannot give, after an iterative fit, say, has the reason in its place.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> axes = mme.plot.check(result)
    """
    axes = row_of_axes(6, width=4.2, height=3.7) if ax is None else np.asarray(ax, dtype=object).ravel()
    if axes.size != 6:
        raise OptionError(f"ax has {axes.size} axes, and the page has 6.")
    group = result.fitted.labels.terms[0].group if term is None else term
    pictures: list[tuple[str, Callable[[Axes], Any]]] = [
        ("Residuals", lambda one: residuals(result, ax=one)),
        ("Spread", lambda one: scale_location(result, ax=one)),
        ("Normality of residuals", lambda one: qq(result, seed=seed, ax=one)),
        ("Normality of random effects", lambda one: qq(result, term=group, seed=seed, ax=one)),
        ("Influence", lambda one: influence(result, group, ax=one)),
        ("Calibration", lambda one: pit(result, seed=seed, ax=one)),
    ]
    for one, (title, draw) in zip(axes, pictures, strict=True):
        try:
            draw(one)
        except (InferenceError, OptionError) as error:
            if term is not None and term not in [t.group for t in result.fitted.labels.terms]:
                raise
            one.clear()
            one.set_axis_off()
            one.text(
                0.5, 0.5, _wrapped(str(error)), ha="center", va="center", fontsize=8, transform=one.transAxes
            )
        one.set_title(title if not one.get_title() else f"{title}\n{one.get_title()}", fontsize=10)
    return axes.reshape(2, 3)


def _wrapped(text: str, width: int = 46) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)
