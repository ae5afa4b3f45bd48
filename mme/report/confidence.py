"""Confidence intervals by name of the parameter, profiles and bootstrap draws, for results of both doors."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..engine.runtime.scipys import special
from ..exceptions import OptionError
from ..fit.fitted import Fitted
from ..inference.bootstrap import check_draws, draw, percentiles
from ..inference.coefficients import check_alpha
from ..inference.parameters import Parameter, check_option, choose
from ..inference.profile import Curve, profile_intervals, profiles
from ..inference.variance_table import variance_order, variance_rows
from .coefficients import coef_table

__all__ = [
    "ProfileResult",
    "confidence_intervals",
    "profile_result",
]

_METHODS = ("wald", "profile", "boot")


def confidence_intervals(
    fitted: Fitted,
    method: str,
    parm: Any = None,
    alpha: float = 0.05,
    *,
    ddf: str | None = None,
    reml: bool = False,
    n_boot: int = 500,
    seed: int = 0,
    cache: MutableMapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Intervals of parameters, columns 0 and 1; ``attrs`` holds ``method``, ``alpha`` and ``notes``.

    Parameters
    ----------
    fitted : Fitted
    method : {"wald", "profile", "boot"}
    parm : str, sequence of str, or None
        None: all parameters; for "wald" the fixed effects.
    alpha : float
    ddf : str, optional
        Of the fixed effects' Wald intervals.
    reml : bool
        Profile the restricted likelihood of the variances.
    n_boot, seed : int
        Of the bootstrap.
    cache : mapping, optional
        As in `coef_table`.
    """
    alpha = check_alpha(alpha)
    method = check_option("method", method, _METHODS)
    if ddf is not None and method != "wald":
        raise OptionError(f"ddf={ddf!r} has no use with method={method!r}: it is for method='wald'.")
    if reml and method != "profile":
        raise OptionError(f"reml=True has no use with method={method!r}: it is for method='profile'.")
    if method == "wald":
        chosen = choose(fitted.labels, parm, ("fixed",))
        ends, notes = _wald(fitted, chosen, alpha, ddf, cache)
    elif method == "profile":
        chosen = choose(fitted.labels, parm, _kinds(reml))
        found = profile_intervals(fitted, chosen, alpha, reml)
        ends, notes = found.ends, found.notes
    else:
        chosen = choose(fitted.labels, parm)
        draws = draw(fitted, *check_draws(n_boot, seed))
        ends = percentiles(draws.of(lambda values: np.array([values.value(p) for p in chosen])), alpha)
        notes = draws.notes
    frame = pd.DataFrame(
        ends, index=pd.Index([p.name for p in chosen], dtype=object), columns=pd.RangeIndex(2)
    )
    frame.attrs.update({"method": method, "alpha": alpha, "notes": notes})
    return frame


def _kinds(reml: bool) -> tuple[str, ...]:
    """What a profile is of where nothing was named."""
    return ("sd", "cor", "sigma") if reml else ("fixed", "sd", "cor", "sigma")


def _wald(
    fitted: Fitted,
    chosen: Sequence[Parameter],
    alpha: float,
    ddf: str | None,
    cache: MutableMapping[str, Any] | None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    ends, notes = np.full((len(chosen), 2), np.nan), ()
    fixed = [i for i, p in enumerate(chosen) if p.kind == "fixed"]
    others = [i for i, p in enumerate(chosen) if p.kind != "fixed"]
    if fixed:
        table = coef_table(fitted, ddf, alpha, None, cache)
        ends[fixed] = table[["lower", "upper"]].to_numpy()[[chosen[i].a for i in fixed]]
        notes = table.attrs["notes"]
    if others:
        rows = variance_rows(fitted, "sd", alpha)
        own = {p: i for i, p in enumerate(variance_order(fitted.labels))}
        for i in others:
            at = own[chosen[i]]
            ends[i] = rows["lower"][at], rows["upper"][at]
    return ends, notes


class ProfileResult:
    """Profile likelihoods of parameters, for plots and intervals.

    Attributes
    ----------
    frame : pandas.DataFrame
        Columns ``parameter``, ``value`` and ``zeta``: the signed root of the rise of the deviance of the ML
        fit where the parameter is held at the value and all others are at their best.  A straight line means
        that Wald intervals are good ones.
    estimates : pandas.Series
        Of the fit that was profiled.
    alpha : float
        The curves go as far as intervals of level 1 - alpha, or to a boundary.
    notes : tuple of str
    """

    def __init__(
        self, curves: Sequence[Curve], ends: np.ndarray, alpha: float, notes: tuple[str, ...]
    ) -> None:
        self._curves, self._ends = tuple(curves), ends
        self.alpha, self.notes = alpha, notes
        names = [c.parameter.name for c in curves]
        self.estimates = pd.Series([c.estimate for c in curves], index=pd.Index(names, dtype=object))
        parameter = [name for name, c in zip(names, curves, strict=True) for _ in c.value]
        self.frame = pd.DataFrame(
            {
                "parameter": pd.Series(parameter, dtype=object),
                "value": np.concatenate([c.value for c in curves]) if curves else np.zeros(0),
                "zeta": np.concatenate([c.zeta for c in curves]) if curves else np.zeros(0),
            }
        )

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Intervals from the curves, by interpolation; `alpha` no smaller than the curves'.

        Parameters
        ----------
        alpha : float

        Returns
        -------
        pandas.DataFrame
            Columns 0 and 1.
        """
        alpha = check_alpha(alpha)
        if alpha < self.alpha:
            raise OptionError(
                f"alpha={alpha:g} lies beyond the curves, which end at alpha={self.alpha:g}: "
                f"make them with profile(alpha={alpha:g})."
            )
        z = -float(special.ndtri(alpha / 2.0))
        rows = [_interpolated(c, end, z) for c, end in zip(self._curves, self._ends, strict=True)]
        return pd.DataFrame(
            np.array(rows).reshape(-1, 2), index=self.estimates.index, columns=pd.RangeIndex(2)
        )

    def __repr__(self) -> str:
        return f"<profiles of {', '.join(self.estimates.index)}; {len(self.frame)} points>"


def _interpolated(curve: Curve, ends: np.ndarray, z: float) -> tuple[float, float]:
    from scipy.interpolate import CubicSpline, PchipInterpolator  # slow to import

    if curve.value.size < 2:
        return float(ends[0]), float(ends[1])
    zeta, first = np.unique(curve.zeta, return_index=True)
    line = CubicSpline(zeta, curve.value[first])
    if np.any(line(np.linspace(zeta[0], zeta[-1], 20 * zeta.size), 1) <= 0.0):
        line = PchipInterpolator(zeta, curve.value[first])  # near a boundary: no detours
    low = float(line(-z)) if zeta[0] <= -z else float(ends[0])
    high = float(line(z)) if zeta[-1] >= z else float(ends[1])
    return low, high


def profile_result(fitted: Fitted, parm: Any, alpha: float, points: int, reml: bool) -> ProfileResult:
    """Curves of parameters."""
    alpha = check_alpha(alpha)
    if isinstance(points, bool) or not isinstance(points, int | np.integer) or points < 1:
        raise OptionError(f"points={points!r} must be a positive integer.")
    chosen = choose(fitted.labels, parm, _kinds(reml))
    found = profiles(fitted, chosen, alpha, int(points), reml)
    return ProfileResult(found.curves, found.ends, alpha, found.notes)
