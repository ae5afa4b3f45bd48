"""What a MixedLM says of itself to fit other responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ..engine.covariance.structure import FULL
from ..engine.runtime.parallel import single_threaded_blas
from ..exceptions import InferenceError
from ..fit.fitted import Labels, TermLabels
from ..report.many import ManyModel

__all__ = ["many_model"]

_TOL = 1e-10  # of `MixedLM.fit`


def many_model(
    model: Any, with_response: Callable[[Any, np.ndarray], Any], make: Callable[..., Any]
) -> ManyModel:
    """What fits of other responses need of a model.

    Parameters
    ----------
    model : MixedLM
    with_response : callable (model, y) -> MixedLM
    make : callable
        `MixedLM` itself.
    """
    design = model.design()
    effects = tuple(str(n) for n in model.data.exog_re_names) if model.k_re else ()
    terms = [TermLabels(model.group_name, effects, model.n_groups, model.covariance)] if model.k_re else []
    terms += [TermLabels(c.name, (c.name,), c.n_columns, FULL) for c in model.exog_vc.components]
    labels = Labels(model.endog_names, tuple(str(n) for n in model.exog_names), tuple(terms))

    rows = model.data.row_labels
    index = pd.RangeIndex(design.n) if rows is None else pd.Index(rows)
    equations = model.likelihood.cross_products()
    return ManyModel(
        design, labels, index, design.n, None, OneByOne(model, with_response, make), _TOL, equations
    )


class OneByOne:
    """Ordinary fits of single responses; parameters as of `many_model`."""

    def __init__(
        self, model: Any, with_response: Callable[[Any, np.ndarray], Any], make: Callable[..., Any]
    ) -> None:
        self._model, self._with_response, self._make = model, with_response, make

    def __call__(self, y: np.ndarray, name: str, reml: bool) -> Any:
        """Results of a response, shape (n,), NaN where a value is missing."""
        used = ~np.isnan(y)
        if not used.all():
            return _of_rows(self._model, self._make, y, used, reml)
        again = self._with_response(self._model, y)
        with single_threaded_blas():
            again.likelihood.share(self._model.likelihood)
        return again.fit(reml=reml)


def _of_rows(model: Any, make: Callable[..., Any], y: np.ndarray, used: np.ndarray, reml: bool) -> Any:
    """The ordinary fit of a response with missing values."""
    if model.exog_vc.components:
        raise InferenceError(
            "the results of a response with missing values are not made for models with variance components: "
            "build the model of the rows with a value."
        )
    exog = pd.DataFrame(np.asarray(model.exog)[used], columns=list(model.exog_names))
    labels = np.empty(len(model.group_labels), dtype=object)
    labels[:] = model.group_labels
    groups = pd.Series(labels[model.group_index.codes[used]], name=model.group_name)
    effects = pd.DataFrame(np.asarray(model.exog_re)[used], columns=list(model.data.exog_re_names))
    given = {
        name: None if values is None else np.asarray(values)[used]
        for name, values in (("weights", model.weights), ("offset", model.offset))
    }
    endog = pd.Series(y[used], name=model.endog_names)
    return make(endog, exog, groups, effects, re_structure=model.re_structure, **given).fit(reml=reml)
