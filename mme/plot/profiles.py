"""Pictures of profile likelihoods."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.runtime.scipys import scipy_module
from ..exceptions import OptionError
from .axes import GREY, row_of_axes
from .protocol import Drawable

__all__ = ["profile"]

_LEVELS = (0.5, 0.8, 0.95, 0.99)


def profile(
    result: Drawable, parm: Any = None, alpha: float = 0.01, absolute: bool = False, ax: Any = None
) -> np.ndarray:
    """Profile zeta of parameters, an axes each: straight where the estimate is as good as normal.

    Parameters
    ----------
    result : results of `lmer` or `MixedLM`, or what their `profile()` returned
    parm, alpha
        As in `results.profile`.
    absolute : bool
        The absolute value of zeta, on which intervals are horizontal.
    ax : Axes or array of Axes, optional
        One per parameter.

    Returns
    -------
    ndarray of Axes, shape (number of parameters,)
        With the estimate, and the intervals of 50, 80, 95 and 99 % that the curves reach.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> axes = mme.plot.profile(result, "sigma")
    """
    found: Any = result if hasattr(result, "estimates") else result.profile(parm, alpha)
    names = list(found.estimates.index)
    axes = row_of_axes(len(names)) if ax is None else np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if axes.size != len(names):
        raise OptionError(
            f"ax has {axes.size} axes, and there are {len(names)} parameters: {', '.join(names)}."
        )
    quantiles = scipy_module("special").ndtri(0.5 + 0.5 * np.array(_LEVELS))
    for name, one in zip(names, axes, strict=True):
        own = found.frame[found.frame["parameter"] == name]
        value, zeta = own["value"].to_numpy(), own["zeta"].to_numpy()
        shown = np.abs(zeta) if absolute else zeta
        for level, z in zip(_LEVELS, quantiles, strict=True):
            if 1.0 - level < found.alpha - 1e-12:
                continue
            ends = found.conf_int(1.0 - level).loc[name]
            if absolute:
                one.hlines(z, ends[0], ends[1], color=GREY, lw=0.8)
            else:
                for end, sign in ((ends[0], -1.0), (ends[1], 1.0)):
                    one.vlines(end, 0.0, sign * z, color=GREY, lw=0.8)
        one.plot(*_smooth(value, shown, zeta, absolute), color="C0", lw=1.6)
        one.plot(value, shown, "o", ms=3.0, color="C0")
        if np.isfinite(found.estimates[name]):
            one.axvline(found.estimates[name], color="C3", lw=0.8, ls=":")
        one.axhline(0.0, color=GREY, lw=0.8)
        one.set_xlabel(name)
    if len(axes):
        axes[0].set_ylabel("|zeta|" if absolute else "zeta")
    return axes


def _smooth(
    value: np.ndarray, shown: np.ndarray, zeta: np.ndarray, absolute: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Through the points, without detours."""
    where, first = np.unique(value, return_index=True)
    if where.size < 3:
        return value, shown
    line = scipy_module("interpolate").PchipInterpolator(where, zeta[first])
    x = np.linspace(where[0], where[-1], 200)
    y = line(x)
    return x, np.abs(y) if absolute else y
