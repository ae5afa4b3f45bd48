"""What a `LinearMixedModel` says of itself to fit other responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.equations.equations import Equations
from ..engine.equations.respond import respond
from ..engine.runtime.parallel import single_threaded_blas
from ..exceptions import DataError, OptionError
from ..fit.fit import equations_of
from ..fit.fitted import Labels, TermLabels
from ..formula import make_unique
from ..formula.frame import as_frame
from ..report.many import ManyModel

if TYPE_CHECKING:
    from .results import LinearMixedModelResults

__all__ = ["COLUMN", "many_model", "unused_name"]

_TOL = 1e-8  # of `LinearMixedModel.fit`
COLUMN = "response"  # of the formula's left side


def unused_name(name: str, data: Any) -> str:
    """A name that no column of a frame has."""
    while name in data.columns:
        name += "_"
    return name


def many_model(model: Any, call: Mapping[str, Any] | None, rows: np.ndarray | None = None) -> ManyModel:
    """What fits of other responses need of a model.

    Parameters
    ----------
    model : LinearMixedModel
    call : mapping or None
        Arguments with which it was made.
    rows : ndarray of int, shape (n,), optional
        Rows of the data in use.

    Raises
    ------
    OptionError
        Residuals with a structure, or levels that are related.
    """
    made = model.model_design
    design = made.design
    if made.residual is not None:
        raise OptionError(
            "fit_many fits models with independent residuals, and this one has residual= or dispersion=. "
            "Use results.refit(y) for every response."
        )
    related = [term.name for term in design.terms if term.relation is not None]
    if related:
        raise OptionError(
            f"fit_many takes the levels of random effects for independent, and those of {', '.join(related)} "
            "are related. Use results.refit(y) for every response."
        )
    terms = tuple(
        TermLabels(group, tuple(term.column_names), term.n_levels, term.structure)
        for group, term in zip(make_unique(made.groups), design.terms, strict=True)
    )
    labels = Labels(made.response, tuple(design.x_names), terms)
    one = OneByOne(model, call, rows)
    return ManyModel(design, labels, made.index, made.given, rows, one, _TOL, model.equations)


class OneByOne:
    """Ordinary fits of single responses.

    Parameters
    ----------
    model, call, rows
        As of `many_model`.
    """

    def __init__(self, model: Any, call: Mapping[str, Any] | None, rows: np.ndarray | None) -> None:
        self._model, self._rows = model, rows
        self._call = None if call is None else dict(call)
        self._equations: Equations | None = model.equations

    def __call__(self, y: np.ndarray, name: str, reml: bool) -> LinearMixedModelResults:
        """Results of a response, shape (n,), NaN where a value is missing."""
        model = self._model
        if np.isnan(y).any():
            return _with_missing(model, self._call, self._rows, y, reml)
        own = model.model_design.design.with_response(y)
        changed = type(model)(replace(model.model_design, design=own, response=name))
        with single_threaded_blas():
            if self._equations is None:
                self._equations = equations_of(model.model_design.design)
            equations = respond(own, self._equations)
        return changed.fit(reml, equations=equations)

    def __getstate__(self) -> dict[str, Any]:
        # the frame and the caller are the user's: they are not stored
        state = dict(self.__dict__)
        if self._call is not None:
            state["_call"] = {k: v for k, v in self._call.items() if k not in ("data", "context")}
        return state


def _with_missing(
    model: Any, call: Mapping[str, Any] | None, rows: np.ndarray | None, y: np.ndarray, reml: bool
) -> LinearMixedModelResults:
    """The ordinary fit of a response with missing values: their rows are left out of the data."""
    made = model.model_design
    data = None if call is None else call.get("data")
    if data is None:
        raise DataError(
            "a response with missing values needs the data of the model, which are not stored with it: "
            "build the model again and call fit_many()."
        )
    frame = as_frame(data)
    if rows is None:
        places = np.arange(len(frame)) if len(frame) == made.design.n else None
        if places is None and frame.index.is_unique:
            places = frame.index.get_indexer(made.index)
        if places is None:
            raise DataError(
                "rows of the model were left out, and the index of its data does not tell which: give the "
                "data a unique index, or leave them out first."
            )
        rows = places
    values = np.full(len(frame), np.nan)
    values[rows] = y
    name = unused_name(COLUMN, frame)
    formula = f"`{name}` ~{model.formula.partition('~')[2]}"
    given = {"context": 0, **{k: v for k, v in (call or {}).items() if k != "data"}, "missing": "drop"}
    return model.from_formula(formula, frame.assign(**{name: values}), **given).fit(reml)
