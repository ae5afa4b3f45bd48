"""`preflight`: what a fit would take, of a formula and data or of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..fit.forecast import Preflight, preflight_design
from ..fit.options import check_solver
from ..formula import build_design
from ..stream.sources import is_source

if TYPE_CHECKING:
    from ..stream.forecast import StreamPreflight

__all__ = ["preflight"]


class FittableModel(Protocol):
    """A model of either door."""

    def preflight(self, solver: str = "auto") -> Preflight:
        """What its fit would take."""


def preflight(
    formula: str | FittableModel,
    data: object = None,
    *,
    solver: str = "auto",
    **options: object,
) -> Preflight | StreamPreflight:
    """Show what `lmer` would do with these arguments, or `fit` of a model, and what it would take.

    Parameters
    ----------
    formula : str, MixedLM or LinearMixedModel
        A formula for `lmer`, or a model.
    data : DataFrame or anything `lmer` takes
        Not with a model.
    solver : str
        As in `lmer` and `MixedLM.fit`.
    **options
        `weights`, `offset`, `subset`, `missing`, `evaluate`, `context`: as in `lmer`; not with a model.

    Returns
    -------
    Preflight
        Prints as a table. Of a source of rows a `StreamPreflight`, from a look at its first chunk: passes,
        bytes, seconds, and what falls to every worker.

    Raises
    ------
    MemoryEstimateError
        The equations alone would not fit in memory.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> plan = mme.preflight("Reaction ~ Days + (Days | Subject)", sleep)
    >>> plan.solver
    'direct'
    """
    if not isinstance(formula, str) and hasattr(formula, "preflight"):
        if data is not None or options:
            given = ", ".join(["data"] * (data is not None) + sorted(options))
            raise TypeError(f"preflight() of a model takes nothing but solver, not {given}.")
        return formula.preflight(solver)
    check_solver(solver)
    if data is None:
        raise TypeError("preflight() of a formula needs data.")
    if is_source(data):
        # not loaded for one frame
        from ..stream.forecast import preflight_source
        from ..stream.survey import Request

        request: Callable = Request
        return preflight_source(request(formula, **options), data)
    build: Callable = build_design
    return preflight_design(build(formula, data, **options).design, solver)
