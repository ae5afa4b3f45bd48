"""Results read from a file: estimates, tables and predictions, without rows and without a likelihood."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from ..engine.covariance.structure import structure_of
from ..exceptions import DataError, FormulaError, InferenceError, OptionError
from ..fit.fitted import Fitted, Labels, TermLabels
from ..formula.coding import Coding
from ..formula.plain import Reader
from ..formula.stored import coding_from_plain
from ..inference.degrees import SmallSample
from ..inference.stochastic import StochasticSample
from ..inference.variances import InnerCovariance
from .artifact import FORMAT, NAME, Artifacts
from .estimates import variance_components
from .inferences import Inferences
from .prediction import Prediction, predict
from .tables import TitledSummary

__all__ = ["LoadedResults", "load"]

_PARTS = {kind.__name__: kind for kind in (SmallSample, StochasticSample, InnerCovariance)}


@dataclass(frozen=True, eq=False)
class _StoredFitted(Fitted):
    """A `Fitted` whose likelihood is not there: what asks for it is named."""

    was_exact: bool = True

    @property
    def exact(self) -> bool:
        return self.was_exact

    def point(self, what: str, standard: bool = False, white: bool = False) -> NoReturn:
        raise InferenceError(f"{what} is not in the file, which holds no likelihood; ask the fit itself.")

    def iterative_point(self, what: str, probes: int) -> NoReturn:
        self.point(what)


def _gone() -> NoReturn:
    raise InferenceError("this needs the likelihood, which is not in the file; ask the fit itself.")


def load(path: str | os.PathLike[str], evaluate: str = "safe") -> LoadedResults:
    """Results that `save` stored: estimates, tables and predictions, without rows.

    Parameters
    ----------
    path : str or path-like
    evaluate : {"safe", "full"}
        What the formula in the file may do where new rows are coded: "safe" accepts columns, operators and
        known functions; "full" runs any Python in it, for files that you trust.

    Returns
    -------
    LoadedResults

    Raises
    ------
    DataError
        No such file, none of mme's, or of a later format.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "sleep.mme")
    >>> result.save(path)
    >>> mme.load(path).predict(pd.DataFrame({"Days": [5], "Subject": [308]})).round(1)
    0    352.0
    Name: Reaction, dtype: float64
    """
    if evaluate not in ("safe", "full"):
        raise OptionError(f"evaluate={evaluate!r} is not known: 'safe' or 'full'.")
    try:
        raw = Path(path).read_bytes()
        archive = zipfile.ZipFile(io.BytesIO(raw))
    except FileNotFoundError as error:
        raise DataError(f"there is no file {os.fspath(path)!r}.") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{os.fspath(path)!r} is no file of mme.save ({error}); pickles are read by pickle.load."
        ) from error
    with archive:
        try:
            content = json.loads(archive.read("model.json"))
            known = content["format"] == NAME
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{os.fspath(path)!r} is no file of mme.save: {error}.") from error
        if not known:
            raise DataError(f"{os.fspath(path)!r} is no file of mme.save.")
        if not 1 <= content["version"] <= FORMAT:
            raise DataError(
                f"{os.fspath(path)!r} has format {content['version']}, written by mme {content['mme']}; this "
                f"is mme {version('mme')}, which reads formats up to {FORMAT}. Install a later mme."
            )
        try:
            arrays = {
                name.removeprefix("arrays/").removesuffix(".npy"): np.lib.format.read_array(
                    io.BytesIO(archive.read(name)), allow_pickle=False
                )
                for name in archive.namelist()
                if name.startswith("arrays/")
            }
            reader = Reader(arrays.__getitem__)
            plain = {name: reader.read(value) for name, value in content.items()}
            return LoadedResults(plain, raw, trusted=evaluate == "full")
        except (KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise DataError(f"{os.fspath(path)!r} is damaged: {type(error).__name__} {error}.") from error


class LoadedResults(Inferences, Artifacts):
    """Results from a file of `mme.save`.

    Attributes
    ----------
    door : str
        Class of the results that were stored.
    formula : str
        Empty for a model of arrays.
    response, method : str
    llf, scale, sigma, aic, bic : float
        As those results had them.
    nobs, df_resid : int
    converged : bool
    fit_info : dict
    singular : list of str
        What is at the boundary.
    n_groups : dict of str to int
    raw : bytes
        The file.
    """

    def __init__(self, plain: Mapping[str, Any], raw: bytes, trusted: bool = False) -> None:
        self._plain = plain
        self.raw = raw
        self._trusted = trusted
        fit = plain["fit"]
        self.door: str = plain["door"]
        self.formula: str = plain["coding"]["formula"] if plain["coding"] else ""
        self.response: str = plain["labels"]["response"]
        self.method = "REML" if fit["reml"] else "ML"
        self.llf: float = fit["loglik"]
        self.scale: float = fit["sigma2"]
        self.sigma = float(np.sqrt(fit["sigma2"]))
        self.aic: float = plain["criteria"]["aic"]
        self.bic: float = plain["criteria"]["bic"]
        self.nobs: int = fit["n"]
        self.df_resid: int = plain["df_resid"]
        self.converged: bool = fit["converged"]
        self.fit_info: dict[str, Any] = plain["fit_info"]
        self.singular: list[str] = plain["singular"]
        self.n_groups: dict[str, int] = plain["n_groups"]
        self._small_sample.update({name: _whole(value) for name, value in plain["tests"].items()})

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self.__dict__.get("_plain", {}).get("names", ()):
            raise AttributeError(
                f"{name!r} is not in the file: {self.door} has it beside its rows; fit again for it."
            )
        return super().__getattr__(name)

    # -- estimates ----------------------------------------------------------------------------------------

    @cached_property
    def fitted(self) -> Fitted:
        """The estimate with its labels; its likelihood is not there."""
        plain = self._plain
        fit, labels = plain["fit"], plain["labels"]
        terms = tuple(TermLabels(g, tuple(e), n, structure_of(s)) for g, e, n, s in labels["terms"])
        return _StoredFitted(
            labels=Labels(labels["response"], tuple(labels["fixed"]), terms),
            reml=fit["reml"],
            n=fit["n"],
            nu=fit["nu"],
            beta=fit["beta"],
            vcov_beta=lambda: fit["vcov_beta"],
            lam=tuple(fit["lam"]),
            sigma2=fit["sigma2"],
            loglik=fit["loglik"],
            converged=fit["converged"],
            objective=_gone,
            restriction=fit["restriction"],
            coding=lambda: self._coding,
            modes=lambda: self._term_modes,
            effect_labels=_no_errors,
            was_exact=fit["exact"],
        )

    @cached_property
    def _coding(self) -> Coding:
        if self._plain["coding"] is None:
            raise DataError(f"new rows cannot be coded: {self._plain['no_coding']}.")
        return coding_from_plain(self._plain["coding"], self._trusted)

    @property
    def fe_params(self) -> pd.Series:
        """Fixed effects, shape (p,)."""
        return pd.Series(self.fitted.beta, index=self._names, name="fe_params")

    @property
    def bse_fe(self) -> pd.Series:
        """Standard errors of the fixed effects, shape (p,), as the door defines them."""
        return pd.Series(self.fitted.bse_beta, index=self._names, name="bse_fe")

    def cov_params(self) -> pd.DataFrame:
        """Covariance of the fixed effects, shape (p, p)."""
        return pd.DataFrame(self.fitted.vcov_beta(), index=self._names, columns=self._names)

    @property
    def varcorr(self) -> pd.DataFrame:
        """Variances and covariances of the random effects, as lme4's ``as.data.frame(VarCorr(m))``."""
        return variance_components(self.fitted)

    @property
    def _names(self) -> pd.Index:
        return pd.Index(self.fitted.labels.fixed, dtype=object)

    @cached_property
    def random_effects(self) -> dict[Any, Any]:
        """Conditional modes, as the results gave them that were stored."""
        plain = self._plain["random_effects"]
        if "frames" in plain:
            return {
                group: pd.DataFrame(values, index=index, columns=names)
                for group, index, names, values in plain["frames"]
            }
        names = [pd.Index(own) for own in plain["names"]]
        sizes = np.array([len(names[j]) for j in plain["which"]], dtype=int)
        parts = np.split(plain["values"], np.cumsum(sizes)[:-1]) if sizes.size else []
        return {
            label: pd.Series(values, index=names[j])
            for label, j, values in zip(plain["labels"], plain["which"], parts, strict=True)
        }

    # -- tables -------------------------------------------------------------------------------------------

    def summary(self) -> TitledSummary:
        """The summary that the results showed when they were stored."""
        plain = self._plain["summary"]
        out = TitledSummary()
        out.title = plain["title"]
        for (columns, index, cells), made in zip(plain["tables"], plain["settings"], strict=True):
            out.tables.append(pd.DataFrame(cells, index=index, columns=columns))
            out.settings.append(dict(made))
        out.extra_txt = list(plain["lines"])
        return out

    def __repr__(self) -> str:
        what = self.formula or "arrays"
        return f"<LoadedResults of {what!r}, {self.method}, llf {self.llf:.4f}, without rows>"

    def _repr_html_(self) -> str:
        return self.summary().as_html()

    def _needs_no_rows(self, what: str) -> None:
        if self._plain["rows_needed"]:
            reason = self._plain["rows_needed"]
            raise InferenceError(f"{what} is not in the file: {reason}. Ask the fit itself.")

    def emmeans(self, *args: Any, **kwargs: Any) -> Any:
        """See the method of the results that were stored; refused where it takes something from the rows."""
        self._needs_no_rows("emmeans()")
        return super().emmeans(*args, **kwargs)

    def emtrends(self, *args: Any, **kwargs: Any) -> Any:
        """See the method of the results that were stored; refused where it takes something from the rows."""
        self._needs_no_rows("emtrends()")
        return super().emtrends(*args, **kwargs)

    def joint_tests(self, *args: Any, **kwargs: Any) -> Any:
        """See the method of the results that were stored; refused where it takes something from the rows."""
        self._needs_no_rows("joint_tests()")
        return super().joint_tests(*args, **kwargs)

    # -- new rows -----------------------------------------------------------------------------------------

    def predict(
        self,
        data: Any,
        random_effects: bool | str | Sequence[str] = True,
        new_levels: str = "population",
        context: Mapping[str, object] | None = None,
        offset: Any = None,
    ) -> pd.Series:
        """Means of new rows.

        Parameters
        ----------
        data : DataFrame, mapping of arrays, or anything `pandas.DataFrame` takes, n rows
        random_effects : bool, str or sequence of str
            Whether the conditional modes of the levels are added; or of which grouping factors.
        new_levels : {"population", "error", "missing"}
            Levels that the fit did not have: their mean, an error, or NaN.
        context : mapping, optional
            Functions of the caller that the formula uses.
        offset : array_like, shape (n,), optional
            Where it was an array in the fit.

        Returns
        -------
        pandas.Series
            On the index of the data; NaN in rows with missing values, and where the data of the fit do not
            tell the mean.

        Raises
        ------
        DataError
            A column or level of a fixed factor that there is not; random effects that cannot be coded.
        FormulaError
            A function that is not in the file.
        """
        given = {"offset": offset, "cache": self._small_sample, "context": context}
        made = predict(self.fitted, _given(data), random_effects, new_levels, **given)
        return made.predicted_mean.rename(self.response)

    def get_prediction(  # there are no rows: less can be asked for
        self,
        data: Any = None,
        random_effects: bool | str | Sequence[str] = False,
        new_levels: str = "population",
        ddf: str | None = None,
        variances: str | None = None,
        offset: Any = None,
        weights: Any = None,
        context: Mapping[str, object] | None = None,
    ) -> Prediction:
        """Means of new rows by the fixed part, with standard errors and intervals.

        Parameters
        ----------
        data, context, offset
            As in `predict`.
        random_effects
            Anything but False is refused: the covariances that its errors need are not in the file.
        new_levels, variances
            Have no use without random effects.
        ddf
            As in `coef_table`.
        weights : array_like, shape (n,), optional
            Divide the variance of new observations.

        Returns
        -------
        Prediction

        Raises
        ------
        InferenceError
            Random effects; degrees of freedom that are not in the file (``ddf="normal"`` always is).
        """
        if random_effects is not False or variances is not None:
            raise InferenceError(
                "errors of predictions with random effects are not in the file; ask the fit itself, or take "
                "random_effects=False. predict() has their means."
            )
        given = {"offset": offset, "weights": weights, "cache": self._small_sample, "context": context}
        return predict(self.fitted, _given(data), False, new_levels, ddf, **given)

    @cached_property
    def _term_modes(self) -> list[np.ndarray]:
        """Modes of every random term of the coding, in the order of its levels, shapes (q, k)."""
        effects = self.random_effects
        terms = self._coding.random_terms
        if "frames" in self._plain["random_effects"]:
            return [effects[term.label][list(term.column_names)].to_numpy() for term in terms]
        if "terms" in self._plain["random_effects"]:
            return list(self._plain["random_effects"]["terms"])
        return [np.array([values.to_numpy() for values in effects.values()])] if terms else []


def _no_errors() -> NoReturn:
    raise InferenceError("errors of random effects are not in the file; `random_effects` has their values.")


def _given(data: Any) -> Any:
    if data is None:
        raise DataError("the file holds no rows: give data.")
    return data


def _whole(value: Any) -> Any:
    """A sample from the names and arrays of its parts."""
    if isinstance(value, dict) and value.keys() == {"kind", "parts"}:
        if value["kind"] not in _PARTS:
            raise FormulaError(f"the file names {value['kind']!r}, which is not known.")
        return _PARTS[value["kind"]](**{name: _whole(part) for name, part in value["parts"].items()})
    return tuple(map(_whole, value)) if isinstance(value, tuple) else value
