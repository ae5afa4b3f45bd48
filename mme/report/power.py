"""mme.power: how often a test would be significant, by simulation over sizes of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import InferenceError, OptionError
from ..fit.fitted import Fitted
from ..inference.bootstrap import BACKENDS, check_count, check_workers
from ..inference.coefficients import check_alpha
from ..inference.parameters import check_maximum, check_option
from ..inference.power import FixedTest, grouping_of, power_of, truth_of
from ..inference.simulation import rows_of_fit
from .hypotheses import hypothesis

__all__ = ["power"]

_DDF = ("satterthwaite", "kenward-roger", "normal")
_COLUMNS = ("groups", "rows", "power", "error", "lower", "upper", "fits", "failures", "singular")


def power(
    results: Any,
    test: Any,
    *,
    groups: int | Sequence[int] | None = None,
    rows: int | Sequence[int] | None = None,
    group: str | None = None,
    values: Mapping[str, float] | None = None,
    n: int = 500,
    seed: int = 0,
    alpha: float = 0.05,
    ddf: str = "satterthwaite",
    workers: Any = 1,
    backend: str = "threads",
    progress: bool | None = None,
) -> pd.DataFrame:
    """Power of a test of fixed effects: how often it is significant in responses drawn from a model.

    Parameters
    ----------
    results : results of `lmer` or `MixedLM`
        Of a pilot study, or of made-up data with the design in mind.
    test : str, sequence of str, or array_like, shape (q, p)
        The hypothesis, as `contrast` of the results takes it: ``"Days = 0"``, or the name of a coefficient.
    groups : int or sequence of int, optional
        Numbers of groups; by default that of the data.  New groups repeat the rows of those there are, in
        turn, with effects of their own.
    rows : int or sequence of int, optional
        Numbers of rows in each group, its own in turn; by default as they are.
    group : str, optional
        Grouping factor that is meant; needed where factors are crossed, of which the others keep theirs.
    values : mapping of str to float, optional
        Parameters that are not as estimated: ``{"Days": 5.0, "sigma": 30.0, "sd_Days|Subject": 4.0}``.  A
        pilot's estimate of the effect is a poor guess of it: name the smallest one that matters.
    n, seed : int
        Responses of every size of the study.
    alpha : float
        Level of the test.
    ddf : {"satterthwaite", "kenward-roger", "normal"}
        As in `coef_table` of the results.
    workers, backend, progress
        As in `bootstrap` of the results.

    Returns
    -------
    pandas.DataFrame
        A row per size: ``groups``, ``rows`` (of the whole study), ``power``, ``error`` (its Monte Carlo
        standard error), ``lower`` and ``upper`` (its Clopper-Pearson interval of level 0.95), ``fits``,
        ``failures`` (without a fit or a test: left out), ``singular``.

    Raises
    ------
    OptionError
        Senseless numbers, unknown parameters or factors.
    InferenceError
        After iterative fits; where the data were removed; where no response can be tested.

    Examples
    --------
    >>> import mme, pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> pilot = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> table = mme.power(pilot, "Days", groups=[6, 12], values={"Days": 5.0}, n=20)
    >>> list(table["groups"])
    [6, 12]
    """
    fitted = getattr(results, "fitted", None)
    if not isinstance(fitted, Fitted):
        raise OptionError(f"power() takes results of lmer or MixedLM, not a {type(results).__name__}.")
    if fitted.monte_carlo is not None:
        raise InferenceError("power() fits directly, and this fit was iterative. Fit with solver='direct'.")
    check_maximum(fitted, "power()")
    design = rows_of_fit(fitted, "power()")
    n, seed = check_count("n", n, 1), check_count("seed", seed, 0)
    workers, alpha = check_workers(workers), check_alpha(alpha)
    backend, ddf = check_option("backend", backend, BACKENDS), check_option("ddf", ddf, _DDF)
    sizes = [(g, r) for g in _sizes("groups", groups, 2) for r in _sizes("rows", rows, 1)]
    L, value = hypothesis(test, 0.0, fitted.labels.fixed)
    L = np.atleast_2d(np.asarray(L, dtype=np.float64))
    truth = truth_of(fitted, values)
    codes = grouping_of(fitted, design, group)
    fixed = FixedTest(fitted.labels, L, np.atleast_1d(value), ddf)
    cells = [
        power_of(fitted, truth, fixed, codes, g, r, n, seed, alpha, workers, backend, progress)
        for g, r in sizes
    ]
    frame = pd.DataFrame([astuple(cell) for cell in cells], columns=pd.Index(_COLUMNS, dtype=object))
    frame.attrs.update({"alpha": alpha, "ddf": ddf, "seed": seed, "values": dict(values or {})})
    return frame


def _sizes(name: str, value: Any, least: int) -> list[int | None]:
    if value is None:
        return [None]
    single = isinstance(value, int | np.integer | str) or not hasattr(value, "__iter__")
    out: list[int | None] = [check_count(name, v, least) for v in ([value] if single else value)]
    if not out:
        raise OptionError(f"{name} is empty.")
    return out
