"""Many responses on one design, for both doors: `fit_many`, and the tables of its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..engine.equations.design import Design
from ..engine.equations.equations import Equations
from ..engine.runtime.notices import Progress
from ..exceptions import DataError, InferenceError, OptionError
from ..fit.fitted import Labels
from ..fit.many import FITTED, Many, ManyFit
from ..formula.responses import Responses
from ..inference.coefficients import check_ddf
from ..inference.many import RefitDegrees
from ..inference.tails import t_two_sided
from .notices import warn_of_fit

__all__ = ["FitsMany", "ManyModel", "ManyResults"]

_KR = "kenward-roger"


@dataclass(frozen=True, eq=False)
class ManyModel:
    """What a door's model says of itself to fit other responses.

    Attributes
    ----------
    design : Design
    labels : Labels
    index : Index
        The data's labels of the rows in use.
    given : int
        Rows of the data before any were left out.
    rows : ndarray of int, or None
        Which of them are in use, if that is known.
    one : callable (y, name, reml) -> results
        The ordinary fit of one response.
    tol : float
        Of the door's fits.
    equations : Equations or None
        Of the design, where they are there.
    """

    design: Design
    labels: Labels
    index: pd.Index
    given: int
    rows: np.ndarray | None
    one: Callable[[np.ndarray, str, bool], Any]
    tol: float
    equations: Equations | None = None


class FitsMany:
    """The method of both doors' models."""

    def _many_model(self) -> ManyModel:
        raise NotImplementedError

    def fit_many(
        self,
        responses: Any,
        reml: bool = True,
        *,
        ddf: str = "satterthwaite",
        progress: bool | None = None,
    ) -> ManyResults:
        """Fit the model to many responses at once; its own response is not used.

        Parameters
        ----------
        responses : array_like, DataFrame, sparse matrix, AnnData-like, or iterable of such blocks
            Rows are observations, columns are responses, NaN is a missing value.  Frames and AnnData are
            aligned by the labels of their rows, others by position.  What can be sliced (numpy memmap, HDF5
            dataset, backed AnnData) is read by blocks; an iterable gives blocks of responses.
        reml : bool
            Restricted (True) or full maximum likelihood.
        ddf : {"satterthwaite", "residual", "normal", "kenward-roger"}
            Degrees of freedom, as in `coef_table` of ordinary results; those of Kenward and Roger take an
            ordinary fit per response.
        progress : bool, optional
            Whether to show a bar; by default on a terminal or in a notebook.

        Returns
        -------
        ManyResults

        Raises
        ------
        DataError
            Responses that do not go with the rows, or are no numbers.
        OptionError
            An unknown `ddf`.
        InferenceError
            A model whose rows are not there.

        Warns
        -----
        RankDeficientWarning
            Columns of the fixed part were dropped because they depend on earlier ones.

        Notes
        -----
        Every response is fitted as by itself: the same likelihood, starts and criteria.  Responses with
        missing values in the same rows share a design, that of the rows with a value; levels that do not
        occur there are left out.  A response that cannot be fitted is no error: ``responses["status"]`` says
        why.
        """
        return fit_responses(self._many_model(), responses, reml, ddf, progress)


def fit_responses(
    model: ManyModel, responses: Any, reml: bool, ddf: str, progress: bool | None
) -> ManyResults:
    """`FitsMany.fit_many`."""
    if not isinstance(reml, bool | np.bool_):
        raise OptionError(f"reml must be True (restricted) or False (full maximum likelihood), not {reml!r}.")
    method = check_ddf(ddf)
    if method == _KR and not reml:
        raise InferenceError(
            "ddf='kenward-roger' is defined for REML, and this is ML. Fit with reml=True, or use "
            "ddf='satterthwaite'."
        )
    if not model.design.has_rows:
        raise InferenceError(
            "fit_many() needs the rows of the model, and these were read from a source in chunks. Fit the "
            "model from a frame."
        )
    source = Responses(responses, model.index, model.given, model.rows)
    if method == _KR and not source.can_be_read_again:
        raise InferenceError(
            "ddf='kenward-roger' fits every response once more, and an iterator is read once. Pass the "
            "responses as a matrix, or use ddf='satterthwaite'."
        )
    many = Many(
        model.design,
        bool(reml),
        method == "satterthwaite",
        RefitDegrees(model.labels),
        model.tol,
        model.equations,
    )
    warn_of_fit(many.dropped, [], "")
    bar = Progress(progress, "fit_many", total=source.count, unit=" response")
    names: list[pd.Index] = []
    parts: list[ManyFit] = []
    done = 0
    try:
        for labels, Y in source.blocks(many.block_size):
            names.append(labels)
            parts.append(many.fit(Y))
            done += Y.shape[1]
            bar.report(done)
    finally:
        bar.close()
    if not parts:
        raise DataError("there are no responses: 0 columns.")
    labels = names[0] if len(names) == 1 else names[0].append(names[1:])
    if isinstance(labels, pd.RangeIndex):
        labels = pd.RangeIndex(len(labels))
    fit = ManyFit.joined(parts)
    results = ManyResults(model, source, labels, fit, bool(reml), method)
    return results.with_kenward_roger() if method == _KR else results


class ManyResults:
    """Fits of many responses on one design.

    Attributes
    ----------
    reml : bool
    ddf : str
    names : Index
        The responses' labels.
    """

    def __init__(
        self,
        model: ManyModel,
        source: Responses,
        names: pd.Index,
        fit: ManyFit,
        reml: bool,
        ddf: str,
        adjusted: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self._model, self._source, self._fit = model, source, fit
        self._adjusted = adjusted  # standard errors and df of Kenward and Roger
        self.names, self.reml, self.ddf = names, reml, ddf

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        fit = self._fit
        method = "REML" if self.reml else "ML"
        return (
            f"<ManyResults, {len(self)} responses, {method}: {int(np.sum(fit.converged))} converged, "
            f"{int(np.sum(fit.singular))} singular, {int(np.sum(fit.status != FITTED))} not fitted>"
        )

    def __getitem__(self, which: Any) -> Any:
        """The ordinary results of one response, by its number or its label.

        Raises
        ------
        KeyError, IndexError
            There is no such response.
        DataError
            The responses came from an iterator and are gone, or this one has no values that can be fitted.
        """
        i = self._number(which)
        if not self._source.can_be_read_again:
            raise DataError(
                "the responses came from an iterator and are gone. Pass a matrix, or fit this response with "
                "the model's fit()."
            )
        return self._model.one(self._source.column(i), str(self.names[i]), self.reml)

    def _number(self, which: Any) -> int:
        if which in self.names and not isinstance(self.names, pd.RangeIndex):
            place = self.names.get_loc(which)
            if not isinstance(place, int):
                raise KeyError(f"several responses are called {which!r}; ask by number.")
            return place
        if not isinstance(which, int | np.integer) or isinstance(which, bool):
            raise KeyError(f"no response is called {which!r}.")
        if not -len(self) <= which < len(self):
            raise IndexError(f"response {which} of {len(self)}.")
        return int(which) % len(self)

    @property
    def coefficients(self) -> pd.DataFrame:
        """A row per response and coefficient.

        Columns ``response``, ``term``, ``estimate``, ``se``, ``df``, ``statistic`` and ``p``; NaN for columns
        that were dropped and for responses that could not be fitted. Standard errors are those given the
        variances, at both doors.
        """
        fit, p = self._fit, self._model.design.p
        se, df = self._uncertainty()
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = fit.beta / se
        return pd.DataFrame(
            {
                "response": np.repeat(np.asarray(self.names), p),
                "term": np.tile(np.array(self._model.labels.fixed, dtype=object), len(self)),
                "estimate": fit.beta.ravel(),
                "se": se.ravel(),
                "df": df.ravel(),
                "statistic": statistic.ravel(),
                "p": t_two_sided(statistic, df).ravel(),
            }
        )

    def _uncertainty(self) -> tuple[np.ndarray, np.ndarray]:
        """Standard errors and degrees of freedom, shapes (N, p)."""
        fit = self._fit
        if self._adjusted is not None:
            return self._adjusted
        if fit.df is not None:
            return fit.se, fit.df
        degrees = np.full(len(self), np.inf) if self.ddf == "normal" else (fit.n - fit.rank).astype(float)
        return fit.se, np.where(np.isnan(fit.beta), np.nan, degrees[:, None])

    @property
    def responses(self) -> pd.DataFrame:
        """A row per response, on `names`.

        Columns ``n`` (values), ``llf``, ``sigma``, a variance ``var_<effect>|<group>`` for every effect, the
        covariances ``cov_<effect>.<effect>|<group>``, ``converged``, ``singular`` and ``status``:
        ``"fitted"`` or why there is no fit.
        """
        fit = self._fit
        with np.errstate(invalid="ignore"):
            columns: dict[str, Any] = {"n": fit.n, "llf": fit.loglik, "sigma": np.sqrt(fit.sigma2)}
        for label, D in zip(self._model.labels.terms, fit.D, strict=True):
            k = len(label.effects)
            for a in range(k):
                columns[f"var_{label.effects[a]}|{label.group}"] = fit.sigma2 * D[:, a, a]
            for a, b in label.structure.entries(k):
                if a != b:
                    name = f"cov_{label.effects[a]}.{label.effects[b]}|{label.group}"
                    columns[name] = fit.sigma2 * D[:, a, b]
        columns |= {"converged": fit.converged, "singular": fit.singular}
        columns["status"] = pd.Series(fit.status, index=self.names, dtype=object)
        frame = pd.DataFrame(columns, index=self.names)
        frame.index.name = "response"
        return frame

    def adjust(self, method: str = "fdr_bh", alpha: float = 0.05) -> pd.DataFrame:
        """`coefficients` with p adjusted over the responses, each coefficient by itself.

        Parameters
        ----------
        method : str
            Of `statsmodels.stats.multitest.multipletests`: "fdr_bh", "fdr_by", "holm", "bonferroni" and more.
        alpha : float
            Level at which hypotheses are rejected.

        Returns
        -------
        pandas.DataFrame
            With the columns ``p_adjusted`` and ``reject`` more; what has no p takes no part, and is NaN and
            False.

        Raises
        ------
        OptionError
            An unknown method.
        """
        from statsmodels.stats.multitest import multipletests  # statsmodels takes long to import

        frame = self.coefficients
        p = frame["p"].to_numpy().reshape(len(self), -1)
        adjusted, reject = np.full(p.shape, np.nan), np.zeros(p.shape, dtype=bool)
        for j in range(p.shape[1]):
            known = ~np.isnan(p[:, j])
            if not known.any():
                continue
            try:
                reject[known, j], adjusted[known, j] = multipletests(p[known, j], alpha, method)[:2]
            except ValueError as error:
                raise OptionError(
                    f"method={method!r} is no method of statsmodels' multipletests: 'fdr_bh', 'fdr_by', "
                    "'holm', 'bonferroni', 'hommel', 'sidak' and others are."
                ) from error
        return frame.assign(p_adjusted=adjusted.ravel(), reject=reject.ravel())

    def with_kenward_roger(self) -> ManyResults:
        """The same with standard errors and degrees of freedom of Kenward and Roger, by ordinary fits."""
        fit = self._fit
        se, df = np.full(fit.beta.shape, np.nan), np.full(fit.beta.shape, np.nan)
        for i in np.flatnonzero(fit.converged):
            table = self[int(i)].coef_table(_KR)
            se[i], df[i] = table["se"], table["df"]
        return ManyResults(self._model, self._source, self.names, fit, self.reml, _KR, (se, df))
