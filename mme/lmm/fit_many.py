"""mme.fit_many: one formula, many responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..exceptions import FormulaError
from ..formula.frame import as_frame
from ..report.many import ManyResults, fit_responses
from .many import COLUMN, many_model, unused_name
from .model import LinearMixedModel

__all__ = ["fit_many"]


def fit_many(
    formula: str,
    data: object,
    responses: Any,
    reml: bool = True,
    *,
    ddf: str = "satterthwaite",
    progress: bool | None = None,
    weights: object = None,
    offset: object = None,
    subset: object = None,
    missing: str = "warn",
    evaluate: str = "full",
    context: int | Mapping[str, object] = 0,
) -> ManyResults:
    """Fit one linear mixed model to many responses at once.

    Parameters
    ----------
    formula : str
        In lme4's syntax, as in `lmer`. What stands before ``~``, if anything, is only a name: the responses
        are given apart.
    data : DataFrame, mapping of arrays, or anything `pandas.DataFrame` takes, n rows
        Covariates and groups.
    responses : array_like, DataFrame, sparse matrix, AnnData-like, or iterable of such blocks
        A row for every row of `data`, a column for every response, NaN for missing values.  Frames and
        AnnData are aligned by the labels of their rows, others by position.  What can be sliced (numpy
        memmap, HDF5 dataset, AnnData backed by a file) is read by blocks; an iterable gives blocks of
        responses.
    reml : bool
        Restricted (True) or full maximum likelihood.
    ddf : {"satterthwaite", "residual", "normal", "kenward-roger"}
        Degrees of freedom of the coefficients, as in `coef_table`; those of Kenward and Roger take an
        ordinary fit per response.
    progress : bool, optional
        Whether to show a bar; by default on a terminal or in a notebook.
    weights, offset, subset, missing, evaluate, context
        As in `lmer`; missing values of covariates and groups leave rows out for all responses.

    Returns
    -------
    ManyResults
        `coefficients`, a row per response and coefficient; `responses`, a row per response; ``results[i]``,
        the ordinary results of one; `adjust`, adjusted p.

    Raises
    ------
    FormulaError, DataError, DesignError, OptionError
        As `lmer`, of the design; responses that do not go with its rows.  A response that cannot be fitted
        is no error: its ``status`` says why.

    Warns
    -----
    RankDeficientWarning, MissingDataWarning
        As `lmer`, of the design.

    Examples
    --------
    >>> import mme, numpy as np, pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> genes = np.random.default_rng(0).normal(size=(180, 3)) + sleep[["Reaction"]].to_numpy()
    >>> results = mme.fit_many("~ Days + (Days | Subject)", sleep, genes)
    >>> results.coefficients.shape
    (6, 7)
    """
    if not isinstance(formula, str):
        raise FormulaError(f"the formula must be a string, not {type(formula).__name__}: '~ x + (1 | g)'.")
    frame = as_frame(data)
    name = unused_name(COLUMN, frame)
    left, tilde, right = formula.partition("~")
    # without ~ all of it is the right side; the response stands for the number of the row
    text = f"`{name}` ~ {right if tilde else left}"
    frame = frame.assign(**{name: np.arange(len(frame), dtype=np.float64)})
    given: dict[str, Any] = {
        "weights": weights,
        "offset": offset,
        "subset": subset,
        "missing": missing,
        "evaluate": evaluate,
        "context": context,
    }
    model = LinearMixedModel.from_formula(text, frame, **given)
    rows = model.model_design.design.y.astype(np.int64)
    return fit_responses(many_model(model, {"data": frame, **given}, rows), responses, reml, ddf, progress)
