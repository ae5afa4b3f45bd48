"""What a fit owes to single rows, or to single levels of a factor."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import DataError, InferenceError, OptionError
from ..fit.fitted import Fitted
from ..inference.deletion import Steps, by_levels, by_refactoring, has_levels_alone
from ..inference.influence import Deletions, check_estimate, of_cases, of_groups
from ..inference.patterns import has_patterns, patterned
from ..inference.rows import design_of, fit_rows

__all__ = ["Influence", "influence_of", "row_index"]

_WHAT = "influence()"


class Influence:
    """Deletion of rows, or of all rows of a level, one at a time; `results.influence()` makes it.

    The relative covariance (theta) of the fit is held, which makes everything but `theta` and `varcorr` exact
    without a refit; those take one Newton step, with exact derivatives, from the estimate of all rows.

    Attributes
    ----------
    by : str or None
        The factor; None for rows.
    frame : pandas.DataFrame
        A row per deletion: ``n``, rows left out (levels only); for single rows ``resid``, ``hat``,
        ``hat_fixed``, ``cooks`` (lme4's, of conditional residuals); ``cooks_fixed``, ``mdffits``,
        ``covratio``, ``covtrace`` (as R's HLMdiag: of the fixed effects, theta and sigma held) and ``sigma``,
        the residual standard deviation of what remains.
    notes : tuple of str
        Which deletions leave a model that the remaining rows do not tell; their numbers are NaN.
    """

    def __init__(
        self, fitted: Fitted, by: str | None, index: pd.Index, codes: np.ndarray, frame: pd.DataFrame,
        deletions: Deletions, steps: Steps | None,
    ) -> None:  # fmt: skip
        self.by = by
        self.frame = frame
        self._fitted, self._index, self._codes = fitted, index, codes
        self._deletions = deletions
        self._given = steps
        lost = np.flatnonzero(np.isnan(deletions.cooks))
        self.notes: tuple[str, ...] = ()
        if lost.size:
            self.notes = (
                f"Without {_listed(index[lost])} the remaining rows do not tell all fixed effects: NaN.",
            )

    def __getstate__(self) -> dict[str, Any]:
        # numbers and labels; a step that was not taken before needs the data
        light = replace(
            self._fitted,
            vcov_beta=_gone,
            root_beta=_gone,
            objective=_gone,
            design=None,
            record=None,
            coding=None,
            occurrences=None,
            modes=None,
            row_labels=None,
            effect_labels=None,
        )
        return {**self.__dict__, "_fitted": light}

    def _frame(self, values: np.ndarray) -> pd.DataFrame:
        fitted = self._fitted
        kept = ~np.isnan(fitted.beta)
        out = np.full((len(values), kept.size), np.nan)
        out[:, kept] = values
        return pd.DataFrame(out, index=self._index, columns=pd.Index(fitted.labels.fixed, dtype=object))

    @cached_property
    def dfbeta(self) -> pd.DataFrame:
        """Fixed effects of all rows less those of the remaining rows."""
        return self._frame(self._deletions.change)

    @cached_property
    def dfbetas(self) -> pd.DataFrame:
        """`dfbeta` in standard errors given theta, with the remaining rows' `sigma`, as of least squares."""
        return self._frame(self._deletions.dfbetas)

    @cached_property
    def fe_params(self) -> pd.DataFrame:
        """Fixed effects of the remaining rows."""
        return self._fitted.beta - self.dfbeta

    @cached_property
    def _steps(self) -> Steps:
        fitted, m = self._fitted, len(self._index)
        reasons: dict[int, str] = {}
        steps = self._given
        if has_patterns(fitted.design):
            assert fitted.design is not None
            raise InferenceError(
                f"{_WHAT}: the step of theta knows unstructured and diagonal covariances, and this fit has "
                f"{patterned(fitted.design)}. Fit again without the rows; all else here holds theta."
            )
        if steps is None:
            design, rows = design_of(fitted, _WHAT), fit_rows(fitted, _WHAT)
            if has_levels_alone(rows):
                steps = by_levels(fitted, rows, self._codes, m)
            else:
                steps, reasons = by_refactoring(fitted, design, self._codes, m)
        if reasons:
            first = next(iter(reasons))
            self.notes += (
                f"No step of theta without {_listed(self._index[list(reasons)])} ({reasons[first]}).",
            )
        none = np.isnan(steps.theta).any(axis=1) & ~np.isnan(self._deletions.cooks)
        none[list(reasons)] = False
        if none.any():
            self.notes += (
                f"No step of theta without {_listed(self._index[none])}: there the deviance is not convex, "
                "as where a variance of zero would not be zero any more. Refit without those rows.",
            )
        return steps

    @cached_property
    def theta(self) -> pd.DataFrame:
        """Theta after one Newton step for the remaining rows, in the order of the results' theta.

        NaN where the deviance of the remaining rows is not convex at the estimate of all.  Of a design with
        one grouping factor a step costs what the deletion touches; of others a factorization each.
        """
        names = [
            f"{term.group}.{term.effects[a]}" + (f".{term.effects[b]}" if a != b else "")
            for term in self._fitted.labels.terms
            for a, b in term.structure.entries(len(term.effects))
        ]
        return pd.DataFrame(self._steps.theta, index=self._index, columns=pd.Index(names, dtype=object))

    @cached_property
    def varcorr(self) -> pd.DataFrame:
        """Variances and covariances after the step of `theta`; columns (grp, var1, var2) as in varcorr."""
        steps, fitted = self._steps, self._fitted
        columns: list[tuple[str, str, str]] = []
        values: list[np.ndarray] = []
        start = 0
        for term in fitted.labels.terms:
            k, entries = len(term.effects), term.structure.entries(len(term.effects))
            lam = np.zeros((len(self._index), k, k))
            for i, (a, b) in enumerate(entries):
                lam[:, a, b] = steps.theta[:, start + i]
            start += len(entries)
            cov = steps.sigma2[:, None, None] * (lam @ lam.transpose(0, 2, 1))
            for a, name in enumerate(term.effects):
                columns.append((term.group, name, ""))
                values.append(cov[:, a, a])
            for a, b in entries:
                if a != b:
                    columns.append((term.group, term.effects[b], term.effects[a]))
                    values.append(cov[:, a, b])
        columns.append(("Residual", "", ""))
        values.append(steps.sigma2)
        names = pd.MultiIndex.from_tuples(columns, names=["grp", "var1", "var2"])
        return pd.DataFrame(np.column_stack(values), index=self._index, columns=names)

    def summary_frame(self) -> pd.DataFrame:
        """`frame` beside `dfbetas`, whose columns begin with ``dfb_``, as statsmodels' influence has them."""
        return pd.concat([self.dfbetas.add_prefix("dfb_"), self.frame], axis=1)

    def top(self, n: int = 10, column: str = "cooks_fixed") -> pd.DataFrame:
        """The rows of `frame` with the largest values of a column."""
        if column not in self.frame.columns:
            raise OptionError(f"column={column!r} is not known. Known: {', '.join(self.frame.columns)}.")
        return self.frame.nlargest(n, column)

    def __repr__(self) -> str:
        what = "rows" if self.by is None else f"levels of {self.by}"
        return "\n".join(
            [f"Deletion of {what}, the largest of {len(self.frame):,}:", str(self.top()), *self.notes]
        )


def _gone() -> Any:
    raise InferenceError("this table holds no likelihood; ask the results for another one.")


def influence_of(fitted: Fitted, by: Any) -> Influence:
    """See `Diagnostics.influence`."""
    design = design_of(fitted, _WHAT)
    fitted.point(_WHAT)  # an iterative fit is refused before factors are looked at
    check_estimate(fitted, _WHAT)
    index = row_index(fitted)
    if by is None:
        rows = fit_rows(fitted, _WHAT)
        deletions = of_cases(fitted, rows)
        left = np.where(np.isnan(deletions.cooks), np.nan, 1.0 - rows.leverage)
        p = max(deletions.change.shape[1], 1)
        frame = pd.DataFrame(
            {
                "resid": rows.residual,
                "hat": rows.leverage,
                "hat_fixed": rows.leverage_fixed,
                "cooks": rows.weights * (rows.residual / left) ** 2 * rows.leverage / (p * fitted.sigma2),
                **_columns(deletions),
            },
            index=index,
        )
        return Influence(fitted, None, index, np.arange(design.n), frame, deletions, None)
    name, codes, levels = _factor(fitted, by)
    m = len(levels)
    rows = fit_rows(fitted, _WHAT)
    steps = None
    count = np.bincount(codes[codes >= 0], minlength=m)
    if has_levels_alone(rows):
        steps = by_levels(fitted, rows, codes, m)
        assert steps.deletions is not None
        deletions = steps.deletions
    else:
        deletions = of_groups(fitted, rows, codes, m)
    frame = pd.DataFrame({"n": count, **_columns(deletions)}, index=levels)
    return Influence(fitted, name, levels, codes, frame, deletions, steps)


def row_index(fitted: Fitted) -> pd.Index:
    """Labels of the rows of the fit: the data's, or numbers."""
    labels = None if fitted.row_labels is None else fitted.row_labels()
    return pd.RangeIndex(fitted.n) if labels is None else pd.Index(labels)


def _columns(deletions: Deletions) -> dict[str, np.ndarray]:
    return {
        "cooks_fixed": deletions.cooks,
        "mdffits": deletions.mdffits,
        "covratio": deletions.covratio,
        "covtrace": deletions.covtrace,
        "sigma": np.sqrt(deletions.sigma2),
    }


def _factor(fitted: Fitted, by: Any) -> tuple[str, np.ndarray, pd.Index]:
    """Name, codes (n,) and levels of what is left out."""
    if not isinstance(by, str):
        return _labels(fitted, by)
    design = design_of(fitted, _WHAT)
    known: list[str] = []
    for t, (label, term) in enumerate(zip(fitted.labels.terms, design.terms, strict=True)):
        if term.codes is None:
            continue
        known.append(label.group)
        if label.group != by:
            continue
        codes = np.asarray(term.codes).astype(np.int64)
        component = label.effects == (label.group,)
        if component and term.columns is not None:
            # a component's rows without a value of it carry any code
            codes = np.where(np.any(term.columns != 0.0, axis=1), codes, -1)
        return by, codes, _levels(fitted, t, component)
    try:
        variables = () if fitted.coding is None else fitted.coding().variables
    except DataError:  # arrays, no formula
        variables = ()
    for variable in variables:
        if variable.kind != "categorical" or variable.levels is None or fitted.occurrences is None:
            continue
        known.append(variable.name)
        if variable.name == by:
            codes = fitted.occurrences().codes(by).astype(np.int64)
            return by, codes, pd.Index(variable.levels, name=by)
    close = difflib.get_close_matches(by, known, n=1, cutoff=0.6)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    names = ", ".join(dict.fromkeys(known)) or "none"
    raise OptionError(
        f"by={by!r} is no factor of the model.{hint} Known: {names}; or give one label per row."
    )


def _levels(fitted: Fitted, t: int, component: bool) -> pd.Index:
    label = fitted.labels.terms[t]
    if fitted.effect_labels is None:
        return pd.RangeIndex(label.n_levels, name=label.group)
    levels, effects = fitted.effect_labels()[t]
    if component:  # several columns of one group
        return pd.Index([f"{a}:{b}" for a, b in zip(levels, effects, strict=True)], name=label.group)
    return pd.Index(levels[:: len(label.effects)].tolist(), name=label.group)


def _labels(fitted: Fitted, by: Sequence[Any]) -> tuple[str, np.ndarray, pd.Index]:
    values = by if isinstance(by, pd.Series) else pd.Series(np.asarray(by, dtype=object).tolist())
    if values.ndim != 1 or len(values) != fitted.n:
        raise OptionError(
            f"by has {len(values)} labels, and the fit {fitted.n} rows: give one per row that was used."
        )
    codes, levels = pd.factorize(values, sort=False)
    if np.any(codes < 0):
        raise DataError(f"by has {int(np.sum(codes < 0))} missing labels. Give every row one.")
    name = str(values.name) if values.name is not None else "by"
    return name, codes.astype(np.int64), pd.Index(levels, name=name)


def _listed(labels: pd.Index, most: int = 5) -> str:
    shown = ", ".join(str(label) for label in labels[:most])
    return shown if len(labels) <= most else f"{shown} and {len(labels) - most} more"
