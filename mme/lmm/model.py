"""The general front door: lme4's formulas, any number of grouping factors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Unpack

import numpy as np

from ..engine.equations.equations import Equations
from ..engine.equations.respond import respond
from ..engine.runtime.parallel import single_threaded_blas
from ..exceptions import OptionError
from ..fit.checks import split_start
from ..fit.fit import fit_design
from ..fit.forecast import Preflight, preflight_design
from ..fit.options import FitArguments, IterativeOptions
from ..fit.structured import fit_structured
from ..formula import ModelDesign, build_design
from ..formula.update import update_formula
from ..hints import unknown_option
from ..report.many import FitsMany, ManyModel
from ..report.notices import warn_of_fit
from ..report.summary import convergence_lines
from ..stream.sources import is_source
from .many import many_model
from .results import LinearMixedModelResults

__all__ = ["LinearMixedModel", "lmer"]


_OPTIONS = sorted(
    name
    for function in (fit_design, IterativeOptions)
    for name in inspect.signature(function).parameters
    if name not in ("design", "theta0", "iterative")
)


_MODEL = (
    "weights",
    "offset",
    "subset",
    "missing",
    "evaluate",
    "context",
    "residual",
    "dispersion",
    "relationship",
)


class LinearMixedModel(FitsMany):
    """A linear mixed model: a design with labels, fitted as often as wanted.

    y = X b + Z u + e with u ~ N(0, sigma2 Lam Lam') and e ~ N(0, sigma2 W^-1); theta parameterizes Lam.

    Parameters
    ----------
    design : ModelDesign
        Usually made by `from_formula`.
    call : mapping, optional
        Arguments of `from_formula`, for `update`.
    equations : Equations, optional
        Of a design without rows.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> model = mme.LinearMixedModel.from_formula("Reaction ~ Days + (Days | Subject)", sleep)
    >>> round(model.fit(reml=False).llf, 3)
    -875.97
    """

    def __init__(
        self,
        design: ModelDesign,
        call: Mapping[str, Any] | None = None,
        equations: Equations | None = None,
    ) -> None:
        self.model_design = design
        self._call = None if call is None else dict(call)
        self.equations = equations

    def __getstate__(self) -> dict[str, Any]:
        # the frame that the model was made from is the user's: it is not stored
        state = dict(self.__dict__)
        if state.get("_call") is not None:
            state["_call"] = {k: v for k, v in state["_call"].items() if k not in ("data", "context")}
        return state

    @classmethod
    def from_formula(
        cls,
        formula: str,
        data: object,
        *,
        weights: object = None,
        offset: object = None,
        subset: object = None,
        missing: str = "warn",
        evaluate: str = "full",
        context: int | Mapping[str, object] = 0,
        progress: bool | None = None,
        residual: str | None = None,
        dispersion: str | None = None,
        relationship: Mapping[Any, Any] | None = None,
    ) -> LinearMixedModel:
        """Evaluate a formula in data; see `lmer` for the parameters.

        Parameters
        ----------
        progress : bool, optional
            A bar of the rows that are read from a source.

        Returns
        -------
        LinearMixedModel
        """
        if is_source(data) and not (residual is None and dispersion is None):
            raise OptionError(
                "residual= and dispersion= need the rows in memory, and these come in chunks: pass a "
                "DataFrame."
            )
        if is_source(data):
            if relationship is not None:
                raise OptionError(
                    "relationship= needs the rows in one frame; rows that come in chunks are not recoded "
                    "to its "
                    "levels."
                )
            # not loaded for one frame
            from ..stream.cluster import gather
            from ..stream.survey import Request

            request = Request(formula, weights, offset, subset, missing, evaluate, context)
            design, equations = gather(request, data, progress=progress).model_design()
            return cls(design, equations=equations)
        given: dict[str, Any] = {
            "weights": weights,
            "offset": offset,
            "subset": subset,
            "missing": missing,
            "evaluate": evaluate,
            "context": context,
            "residual": residual,
            "dispersion": dispersion,
            "relationship": relationship,
        }
        return cls(build_design(formula, data, **given), {"data": data, **given})

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
        **options: Unpack[FitArguments],
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
        theta0 = None if start is None else split_start(start, self.model_design.design.terms)
        if self.equations is not None:
            options["equations"] = self.equations
        structure = self.model_design.residual
        if structure is not None:
            idle = [k for k in options if k not in ("tol", "max_evaluations", "progress", "equations")]
            idle += ["start"] if theta0 is not None else []
            idle += ["solver"] if solver == "iterative" else []
            if idle:
                raise OptionError(
                    f"residual={structure.text!r} is fitted by factorizations from its own starts; leave out "
                    f"{', '.join(idle)}."
                )
            options.pop("equations", None)
            fit = fit_structured(
                self.model_design.design, structure, reml=bool(reml), solver=solver, **options
            )
        else:
            fit = fit_design(self.model_design.design, reml=reml, theta0=theta0, solver=solver, **options)
        dropped = [name for name, kept in zip(fit.design.x_names, fit.kept, strict=True) if not kept]
        trouble = ""
        if not fit.record.converged and not fit.record.perfect:
            trouble = (
                f"the fit of {self.formula!r} did not converge. {convergence_lines(fit.record)[0]} "
                "The estimates are the best point found; try another start or more max_evaluations."
            )
        warn_of_fit(dropped, fit.record.warnings(), trouble)
        kept = {k: v for k, v in options.items() if k != "equations"}
        return LinearMixedModelResults(self, fit, {"solver": solver, **kept})

    def refit(self, y: np.ndarray, results: LinearMixedModelResults) -> LinearMixedModelResults:
        """The model of another response, fitted as results were.

        Parameters
        ----------
        y : ndarray, shape (n,)
        results : LinearMixedModelResults
            Of this model.
        """
        design = self.model_design.design.with_response(y)
        call = None if self._call is None else {k: v for k, v in self._call.items() if k != "data"}
        model = type(self)(replace(self.model_design, design=design), call)
        equations = None
        if results.fit.residual is None:
            with single_threaded_blas():
                equations = respond(design, results.fit.objective.eq)
        return model.fit(results.fit.reml, equations=equations, **results.options)

    def _many_model(self) -> ManyModel:
        return many_model(self, self._call)

    def update(self, formula: str | None, data: object, options: dict[str, Any]) -> LinearMixedModelResults:
        """The model with something changed, fitted.

        Parameters
        ----------
        formula : str or None
            With ``.`` for what was there.
        data : DataFrame or None
        options : dict
            Of `from_formula` and of `fit`.
        """
        if self._call is None:
            raise OptionError(
                "update() needs a model that was made by a formula; fit the changed one with lmer()."
            )
        call = {"context": 0, **self._call, **({} if data is None else {"data": data})}
        if call.get("data") is None:
            raise OptionError(
                "the data of the model are not stored with it, and those of refit() have another response: "
                "pass data=."
            )
        text = self.formula if formula is None else update_formula(self.formula, formula)
        fitting: dict[str, Any] = {}
        for name, value in options.items():
            (call if name in _MODEL else fitting)[name] = value
        return self.from_formula(text, call.pop("data"), **call).fit(**fitting)

    def preflight(self, solver: str = "auto") -> Preflight:
        """What `fit` would take in flops and bytes, which solver it would use and why.

        Parameters
        ----------
        solver : str
            As in `fit`.

        Returns
        -------
        mme.fit.forecast.Preflight
            Prints as a table.
        """
        if self.model_design.residual is not None:
            raise OptionError(
                f"preflight() is of fits with independent residuals, and this model has "
                f"residual={self.model_design.residual.text!r}: see docs/residuals.md."
            )
        return preflight_design(self.model_design.design, solver, self.equations)

    def __repr__(self) -> str:
        design = self.model_design.design
        return f"<LinearMixedModel {self.formula!r}, {design.n} rows, {len(design.terms)} random terms>"


def lmer(
    formula: str,
    data: object = None,
    reml: bool = True,
    *,
    chunks: object = None,
    weights: object = None,
    offset: object = None,
    subset: object = None,
    missing: str = "warn",
    evaluate: str = "full",
    context: int | Mapping[str, object] = 0,
    residual: str | None = None,
    dispersion: str | None = None,
    relationship: Mapping[Any, Any] | None = None,
    solver: str = "auto",
    start: object = None,
    **options: Unpack[FitArguments],
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
        Or a source of rows that need not fit in memory: the path of a Parquet file or of a folder of them, a
        pattern (``"2024-*.parquet"``), a pyarrow Dataset, a lazy frame of polars, a relation of DuckDB, a
        frame of Dask, a list of frames. It may be read twice, `weights`, `offset` and `subset` are then names
        and an expression, and the results hold no rows: see docs/streaming.md.
    reml : bool
        Restricted (True) or full maximum likelihood.
    chunks : callable, optional
        In place of `data`: returns an iterator of frames, from the beginning whenever it is called, such as
        ``lambda: pandas.read_csv(path, chunksize=100_000)``.
    weights : array_like, shape (n,), or str, optional
        Positive prior weights or the name of a column: var(e_i) = sigma2 / weights_i.
    offset : array_like, shape (n,), or str, optional
        Known part of the linear predictor, or the name of a column; in the unit of the response.
    subset : array of bool, shape (n,), or str, optional
        Rows to use; a string is an expression for `DataFrame.eval`, for example ``"Days >= 2"``, with
        variables of the caller as ``"Days >= @first"``.  Missing values are looked for among these rows only.
    missing : {"warn", "drop", "raise"}
        Rows with missing values in columns of the model (response, covariates, groups, weights, offset) are
        left out of everything, as lme4 does, with a `MissingDataWarning` ("warn") or without one ("drop"),
        or they raise `DataError`.  The summary says how many were left out, `n_dropped` of the results too.
    evaluate : {"full", "safe"}
        Formulas and subsets are code, as in formulaic and pandas: "full" runs any expression, with everything
        that the caller can name, files and processes included.  For formulas of people who must not run
        code: "safe" accepts the names of columns, numbers, text, operators and a list of functions alone
        (log, exp, sqrt, poly, cr, bs, scale, C, I, np.where and the like: `mme.formula.safe.FUNCTIONS`),
        refuses everything else as a `FormulaError` before anything is run, and sees no variables but those
        of a mapping given as `context`.
    context : int or mapping
        Names that are no columns, such as functions of your own, are looked up among the variables of the
        caller (0), of its caller (1) and so on, or in a mapping.  A variable with one value per row of the
        data serves as a column.
    residual : str, optional
        Covariance structure of the residuals: ``"varident(sex)"`` (a variance for each level), correlations
        of the rows of a subject ``"ar1(time | subject)"``, ``"car1(time | subject)"``, ``"cs(subject)"``,
        ``"toep(visit | subject)"``, a product of a variance and a correlation
        (``"varident(sex) * ar1(time | subject)"``), or all variances and covariances of the visits,
        ``"us(visit | subject)"``; the formula needs no random term then.  See docs/residuals.md.
    dispersion : str, optional
        Formula of the logarithm of the residual variance, such as ``"~ sex + age"``.
    relationship : mapping of grouping factor to relationship, optional
        Known covariances between the levels of a factor, u ~ N(0, A (x) D): ``{"animal": mme.Pedigree(id,
        sire, dam)}``, `mme.Precision` for a sparse A^-1, `mme.Covariance` or a labelled frame for a dense A.
        Levels without rows are predicted too.  A tuple of factors is one term whose effects are correlated,
        ``{("animal", "dam"): pedigree}`` with ``(1 | animal) + (1 | dam)`` direct and maternal effects.  See
        docs/relationships.md.
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
        Empty, infinite or non-numeric data, lengths that differ, missing values under "raise".
    DesignError
        A grouping factor with one level or as many levels as rows, one grouping under two names, a constant
        response, no random term.
    OptionError
        An option that there is not, or a value that it cannot have.

    Warns
    -----
    ConvergenceWarning
        The optimality conditions do not hold at the best point found.  A singular fit does not warn:
        see `is_singular` and the summary.
    RankDeficientWarning
        Columns of the fixed part were dropped because they depend on earlier ones.
    MissingDataWarning
        Rows with missing values were left out.

    Examples
    --------
    >>> import mme, pandas as pd
    >>> data = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> results = mme.lmer("Reaction ~ Days + (Days | Subject)", data)
    >>> round(results.loglik, 4)
    -871.8141
    """
    if chunks is not None:
        if data is not None:
            raise OptionError("give data or chunks, not both.")
        if not callable(chunks):
            raise OptionError(
                f"chunks must be a callable that returns an iterator of frames, not {type(chunks).__name__}: "
                "a fit reads its rows twice."
            )
        data = chunks
    model = LinearMixedModel.from_formula(
        formula,
        data,
        weights=weights,
        offset=offset,
        subset=subset,
        missing=missing,
        evaluate=evaluate,
        context=context,
        progress=options.get("progress"),
        residual=residual,
        dispersion=dispersion,
        relationship=relationship,
    )
    return model.fit(reml, solver=solver, start=start, **options)


def _check_options(reml: object, options: Mapping[str, object]) -> None:
    """Refuse what would silently fit something else, and misspelt options by name."""
    if not isinstance(reml, bool | np.bool_):
        raise OptionError(f"reml must be True (restricted) or False (full maximum likelihood), not {reml!r}.")
    for name in options:
        if name not in _OPTIONS:
            hint = unknown_option(name, "lmer", _OPTIONS)
            raise OptionError(f"lmer() and fit() have no option {name!r}. {hint}")
