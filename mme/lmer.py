"""The general front door: lme4's formulas, any number of grouping factors."""

from __future__ import annotations

import difflib
import inspect
import sys
import warnings
from typing import TYPE_CHECKING

import numpy as np

from .covariance import n_theta
from .exceptions import ConvergenceWarning, DataError, RankDeficientWarning
from .fit import IterativeOptions, fit_design
from .formula import ModelDesign, build_design
from .results import LinearMixedModelResults
from .summary import convergence_lines

if TYPE_CHECKING:
    from .forecast import Preflight

__all__ = ["LinearMixedModel", "lmer"]


_OPTIONS = sorted(
    name
    for function in (fit_design, IterativeOptions)
    for name in inspect.signature(function).parameters
    if name not in ("design", "theta0", "iterative")
)


class LinearMixedModel:
    """A linear mixed model: a design with labels, fitted as often as wanted.

    y = X b + Z u + e with u ~ N(0, sigma2 Lam Lam') and e ~ N(0, sigma2 W^-1); theta parameterizes Lam.

    Parameters
    ----------
    design : ModelDesign
        Usually made by `from_formula`.
    """

    def __init__(self, design: ModelDesign) -> None:
        self.model_design = design

    @classmethod
    def from_formula(
        cls,
        formula: str,
        data: object,
        *,
        weights: object = None,
        offset: object = None,
        subset: object = None,
        missing: str = "none",
    ) -> LinearMixedModel:
        """Evaluate a formula in data; see `lmer` for the parameters.

        Returns
        -------
        LinearMixedModel
        """
        return cls(
            build_design(formula, data, weights=weights, offset=offset, subset=subset, missing=missing)
        )

    @property
    def formula(self) -> str:
        """The formula as given."""
        return self.model_design.formula

    def fit(
        self,
        reml: bool = True,
        *,
        solver: str = "auto",
        start: object = None,
        **options: object,
    ) -> LinearMixedModelResults:
        """Fit by restricted or full maximum likelihood.

        The model is not changed: two fits are two independent results.

        Parameters
        ----------
        reml : bool
            Restricted (True) or full maximum likelihood.
        solver : {"auto", "direct", "iterative", "dense", "cholmod", "superlu"}
            How: see `mme.fit.fit_design` and `preflight`.
        start : array_like, shape (n_theta,), optional
            Start of the search, in the order of `LinearMixedModelResults.theta`.
        **options
            `max_evaluations`, `tol`, `progress`, and for the iterative solver `probes`, `seed`, `exact_steps`
            and more: see `mme.fit.fit_design`.

        Returns
        -------
        LinearMixedModelResults

        Warns
        -----
        ConvergenceWarning
            The optimality conditions do not hold at the best point found.
        RankDeficientWarning
            Columns of the fixed part were dropped because they depend on earlier ones.
        """
        _check_options(reml, options)
        theta0 = None if start is None else self._split(start)
        fit = fit_design(self.model_design.design, reml=reml, theta0=theta0, solver=solver, **options)
        if not fit.kept.all():
            names = [name for name, kept in zip(fit.design.x_names, fit.kept, strict=True) if not kept]
            _warn(
                f"fixed-effects columns that depend on earlier ones were dropped: {', '.join(names)}. "
                "Their coefficients are NaN; leave them out of the formula.",
                RankDeficientWarning,
            )
        if not fit.record.converged:
            _warn(
                f"the fit of {self.formula!r} did not converge. {convergence_lines(fit.record)[0]} "
                "The estimates are the best point found; try another start or more max_evaluations.",
                ConvergenceWarning,
            )
        return LinearMixedModelResults(self, fit)

    def preflight(self, solver: str = "auto") -> Preflight:
        """What `fit` would take in flops and bytes, which solver it would use and why.

        Parameters
        ----------
        solver : str
            As in `fit`.

        Returns
        -------
        mme.forecast.Preflight
            Prints as a table.
        """
        from .forecast import preflight_design

        return preflight_design(self.model_design.design, solver)

    def _split(self, start: object) -> tuple[np.ndarray, ...]:
        terms = self.model_design.design.terms
        sizes = [n_theta(term.k, term.covariance) for term in terms]
        theta = np.atleast_1d(np.asarray(start, dtype=np.float64))
        if theta.shape != (sum(sizes),) or not np.isfinite(theta).all():
            counts = ", ".join(f"{term.name} ({size})" for term, size in zip(terms, sizes, strict=True))
            raise DataError(
                f"start must be {sum(sizes)} finite numbers, by term: {counts}; it has shape {theta.shape}."
            )
        return tuple(np.split(theta, np.cumsum(sizes)[:-1]))

    def __repr__(self) -> str:
        design = self.model_design.design
        return f"<LinearMixedModel {self.formula!r}, {design.n} rows, {len(design.terms)} random terms>"


def _warn(message: str, category: type[Warning]) -> None:
    """Warn at the caller's line, whichever door it came through."""
    level = 2
    while sys._getframe(level - 1).f_globals.get("__name__") == __name__:
        level += 1
    warnings.warn(message, category, stacklevel=level)


def lmer(
    formula: str,
    data: object,
    reml: bool = True,
    *,
    weights: object = None,
    offset: object = None,
    subset: object = None,
    missing: str = "none",
    solver: str = "auto",
    start: object = None,
    **options: object,
) -> LinearMixedModelResults:
    """Fit a linear mixed model from a formula in lme4's syntax.

    Parameters
    ----------
    formula : str
        ``response ~ fixed effects + (columns | group) + ...``.  In a bar ``(1 | g)`` is a random intercept,
        ``(x | g)`` a correlated intercept and slope, ``(x || g)`` the same uncorrelated (for a numeric x; the
        levels of a factor stay correlated, as in lme4), ``(0 + x | g)`` a slope alone, ``a:b`` groups by the
        combinations of two columns and ``(1 | a/b)`` is ``(1 | b:a) + (1 | a)``.  The fixed part is a
        Wilkinson formula read by formulaic: ``x * z``, ``C(g)``, ``np.log(x)``, ``I(x ** 2)``, names with
        blanks in backticks or ``Q("...")``, ``offset(z)``; every factor, ordered ones too, has treatment
        contrasts.
    data : DataFrame, mapping of arrays, or anything `pandas.DataFrame` takes, n rows
    reml : bool
        Restricted (True) or full maximum likelihood.
    weights : array_like, shape (n,), or str, optional
        Positive prior weights or the name of a column: var(e_i) = sigma2 / weights_i.
    offset : array_like, shape (n,), or str, optional
        Known part of the linear predictor, or the name of a column; in the unit of the response.
    subset : array of bool, shape (n,), or str, optional
        Rows to use; a string is an expression for `DataFrame.eval`, for example ``"Days >= 2"``.
    missing : {"none", "drop"}
        Missing values in columns of the model raise `DataError`, or their rows are left out of everything.
    solver : {"auto", "direct", "iterative", "dense", "cholmod", "superlu"}
        "direct" factors the Schur complement of the crossed terms ("dense", "cholmod", "superlu" say how);
        "iterative" needs no factor, but its estimates have a Monte Carlo error, which is reported; "auto" is
        direct unless that takes minutes or does not fit in memory: see `mme.preflight`.
    start : array_like, shape (n_theta,), optional
        Start of the search, in the order of `theta` of the results.
    **options
        `max_evaluations`, `tol`, `progress`, and for the iterative solver `probes`, `seed`, `exact_steps` and
        more: see `mme.fit.fit_design`.

    Returns
    -------
    LinearMixedModelResults

    Raises
    ------
    FormulaError
        A formula that cannot be read, or names something the data do not have.
    DataError
        Empty, missing, infinite or non-numeric data, lengths that differ.
    DesignError
        A grouping factor with one level or as many levels as rows, a constant response, no random term.

    Warns
    -----
    ConvergenceWarning
        The optimality conditions do not hold at the best point found.  A singular fit does not warn:
        see `is_singular` and the summary.
    RankDeficientWarning
        Columns of the fixed part were dropped because they depend on earlier ones.

    Examples
    --------
    >>> import mme, pandas as pd
    >>> data = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> results = mme.lmer("Reaction ~ Days + (Days | Subject)", data)
    >>> round(results.loglik, 4)
    -871.8141
    """
    model = LinearMixedModel.from_formula(
        formula, data, weights=weights, offset=offset, subset=subset, missing=missing
    )
    return model.fit(reml, solver=solver, start=start, **options)


def _check_options(reml: object, options: dict[str, object]) -> None:
    """Refuse what would silently fit something else, and misspelt options by name."""
    if not isinstance(reml, bool | np.bool_):
        raise TypeError(f"reml must be True (restricted) or False (full maximum likelihood), not {reml!r}.")
    for name in options:
        if name not in _OPTIONS:
            close = difflib.get_close_matches(name.lower(), _OPTIONS, n=1)
            hint = f" Did you mean {close[0]}?" if close else f" Known: {', '.join(_OPTIONS)}."
            raise TypeError(f"lmer() and fit() have no option {name!r}.{hint}")
