"""Tails of t and F with any degrees of freedom; `scipy.stats` takes longer to import than a fit."""

from __future__ import annotations

import numpy as np

from ..engine.runtime.scipys import special

__all__ = ["f_tail", "t_quantile", "t_two_sided"]


def t_two_sided(t: np.ndarray, df: np.ndarray) -> np.ndarray:
    """P(|T| > |t|); infinite df: the normal distribution."""
    normal = np.isinf(df)
    size = np.abs(t)
    own = np.where(normal, 1.0, df)
    return np.where(normal, 2.0 * special.ndtr(-size), 2.0 * special.stdtr(own, -size))


def t_quantile(alpha: float, df: np.ndarray) -> np.ndarray:
    """The value that |T| exceeds with probability alpha."""
    normal = np.isinf(df)
    own = np.where(normal, 1.0, df)
    return np.where(normal, -special.ndtri(alpha / 2.0), -special.stdtrit(own, alpha / 2.0))


def f_tail(F: float, df1: float, df2: float) -> float:
    """P(F_df1,df2 > F); infinite df2: chi-square over df1."""
    if np.isinf(df2):
        return float(special.chdtrc(df1, df1 * F))
    return float(special.fdtrc(df1, df2, F))
