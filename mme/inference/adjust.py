"""p-values and intervals of several tests at once."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..engine.runtime.scipys import special
from ..exceptions import OptionError
from .tails import t_quantile, t_two_sided

__all__ = ["METHODS", "Family", "adjusted_p", "check_adjust", "half_widths", "mvt_tail"]

METHODS = ("tukey", "holm", "sidak", "bonferroni", "fdr", "mvt")
_STATSMODELS = {"holm": "holm", "sidak": "sidak", "bonferroni": "bonferroni", "fdr": "fdr_bh"}
_ALIASES = {"bh": "fdr", "fdr_bh": "fdr", "bonf": "bonferroni", "dunnett": "mvt", "hsd": "tukey"}
_DRAWS = 15  # log2 of the directions that a maximum's distribution is averaged over
_ALIKE = 1e-7  # relative difference of degrees of freedom that have one quantile
_FEW, _MANY = 4, 8  # nodes of an interpolation


@dataclass(frozen=True, eq=False)
class Family:
    """Tests that are looked at together.

    Attributes
    ----------
    df : ndarray, shape (q,)
    root : ndarray, shape (q, r)
        A, where A A' is the covariance of the estimates.
    means : int
        Of how many means the tests are all differences; 0 where they are something else.
    """

    df: np.ndarray
    root: np.ndarray
    means: int = 0


def check_adjust(adjust: object) -> str | None:
    """The name of an adjustment, or None."""
    if adjust is None:
        return None
    text = adjust.lower() if isinstance(adjust, str) else ""
    text = _ALIASES.get(text, text)
    if text == "none":
        return None
    if text in METHODS:
        return text
    close = difflib.get_close_matches(text, METHODS, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise OptionError(f"adjust={adjust!r} is not known.{hint} Known: {', '.join(METHODS)} and None.")


def adjusted_p(t: np.ndarray, family: Family, adjust: str | None, seed: int) -> np.ndarray:
    """Two-sided p of every test; NaN where t or its degrees of freedom are.

    Parameters
    ----------
    t : ndarray, shape (q,)
    family : Family
    adjust : str or None
        "tukey" for all differences of means alone.
    seed : int
        Of the directions of "mvt".
    """
    p = t_two_sided(t, family.df)
    told = ~np.isnan(p)
    if adjust is None or not told.any():
        return p
    out = np.full(p.size, np.nan)
    if adjust == "tukey":
        out[told] = _studentized_range("sf", np.sqrt(2.0) * np.abs(t[told]), family.means, family.df[told])
    elif adjust == "mvt":
        rank, largest = _directions(family.root[told], seed)
        out[told] = [
            mvt_tail(abs(x), df, rank, largest) for x, df in zip(t[told], family.df[told], strict=True)
        ]
    else:
        from statsmodels.stats.multitest import multipletests

        out[told] = multipletests(p[told], method=_STATSMODELS[adjust])[1]
    return np.clip(out, 0.0, 1.0)


def half_widths(se: np.ndarray, family: Family, adjust: str | None, alpha: float, seed: int) -> np.ndarray:
    """Half the widths of intervals that hold together; "holm" and "fdr" have none: Bonferroni's."""
    df = family.df
    q = int(np.sum(~np.isnan(se) & ~np.isnan(df)))
    if adjust is None or q == 0:
        return t_quantile(alpha, df) * se
    if adjust == "sidak":
        return t_quantile(-np.expm1(np.log1p(-alpha) / q), df) * se
    if adjust == "tukey":
        return _by_df(lambda d: _tukey_quantile(alpha, family.means, d), df) * se
    if adjust == "mvt":
        told = ~np.isnan(se) & ~np.isnan(df)
        rank, largest = _directions(family.root[told], seed)
        return _by_df(lambda d: _mvt_quantile(alpha, d, rank, largest), df) * se
    return t_quantile(alpha / q, df) * se


@lru_cache(maxsize=256)
def _tukey_quantile(alpha: float, means: int, df: float) -> float:
    return float(_studentized_range("ppf", 1.0 - alpha, means, df)) / np.sqrt(2.0)


def _studentized_range(function: str, *arguments: Any) -> Any:
    from scipy.integrate import IntegrationWarning
    from scipy.stats import studentized_range

    with warnings.catch_warnings():
        # at some 10,000 degrees of freedom quad doubts integrals that are right to eleven digits
        warnings.simplefilter("ignore", IntegrationWarning)
        return getattr(studentized_range, function)(*arguments)


def _by_df(quantile: Callable[[float], float], df: np.ndarray) -> np.ndarray:
    """A quantile at each number of degrees of freedom; of many by Chebyshev interpolation in 1 / df."""
    out = np.full(df.size, np.nan)
    told = ~np.isnan(df)
    inverse = 1.0 / df[told]
    low, high = inverse.min(), inverse.max()
    if high - low <= _ALIKE * high:
        out[told] = quantile(1.0 / high if high > 0.0 else np.inf)
        return out
    nodes = _FEW if high <= 1.2 * low or high < 0.005 else _MANY
    distinct = np.unique(inverse)
    if distinct.size <= nodes:
        values = {x: quantile(1.0 / x if x > 0.0 else np.inf) for x in distinct}
        out[told] = [values[x] for x in inverse]
        return out
    node = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
    at = 0.5 * (low + high) + 0.5 * (high - low) * node
    series = np.polynomial.chebyshev.Chebyshev.fit(
        at, [quantile(1.0 / x) for x in at], nodes - 1, domain=[low, high]
    )
    out[told] = series(inverse)
    return out


def mvt_tail(t: float, df: float, rank: int, largest: np.ndarray) -> float:
    """P(max |T_i| > t) of a multivariate t.

    With T = A z / s, z normal of dimension `rank`, the length of z and s make an F with (rank, df) degrees of
    freedom, independent of the direction u of z: given u the probability is the F's beyond t^2 / (rank m^2),
    m the largest of |A u|.  That serves singular correlations, as of all differences, as well.

    Parameters
    ----------
    t, df : float
    rank : int
    largest : ndarray
        m in many directions.
    """
    x = t * t / (rank * largest * largest)
    if np.isinf(df):
        return float(np.mean(special.chdtrc(rank, rank * x)))
    return float(np.mean(special.fdtrc(rank, df, x)))


def _mvt_quantile(alpha: float, df: float, rank: int, largest: np.ndarray) -> float:
    from scipy.optimize import brentq

    high = 2.0
    while mvt_tail(high, df, rank, largest) > alpha:
        high *= 2.0
    return float(brentq(lambda t: mvt_tail(t, df, rank, largest) - alpha, 0.0, high, xtol=1e-10))


def _directions(root: np.ndarray, seed: int) -> tuple[int, np.ndarray]:
    """Rank of a covariance, and the largest |A u| in directions u, A A' the correlations."""
    U, s, _ = np.linalg.svd(root / np.linalg.norm(root, axis=1, keepdims=True), full_matrices=False)
    used = s > 1e-6 * s[0]
    A = U[:, used] * s[used]
    rank = int(used.sum())
    if rank == 1:
        return 1, np.abs(A).max(axis=0)
    if rank == 2:
        angle = np.pi * (np.arange(2**_DRAWS) + 0.5) / 2**_DRAWS
        u = np.column_stack([np.cos(angle), np.sin(angle)])
    else:
        from scipy.stats import qmc

        z = special.ndtri(qmc.Sobol(rank, seed=seed).random_base2(_DRAWS).clip(1e-12, 1.0 - 1e-12))
        u = z / np.linalg.norm(z, axis=1, keepdims=True)
    return rank, np.concatenate([np.abs(part @ A.T).max(axis=1) for part in np.array_split(u, 16)])
