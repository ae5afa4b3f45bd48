"""`mme.save`: a fit in a small file, without its rows.

The file is a zip of JSON (`model.json`) and arrays (`arrays/*.npy`), with the number of its format. Nothing
in it is pickled; the only code is the text of the formula, which `mme.load` evaluates as `evaluate="safe"`
allows.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import DataError, FormulaError, InferenceError
from ..fit.fitted import Fitted
from ..fit.residual import refuse_structure
from ..formula.plain import Writer
from ..formula.stored import coding_to_plain
from ..hints import attributes_of
from ..inference.coefficients import inference_basis, longer_than_the_fit
from ..inference.estimable import aliases, triangle
from ..inference.grid import reference_grid
from .coefficients import CoefficientTables

__all__ = ["FORMAT", "NAME", "Artifacts", "save"]

FORMAT = 1
NAME = "mme model"
_LARGE = 2_000_000  # numbers, up to which what degrees of freedom are made of is stored
_DATE = (1980, 1, 1, 0, 0, 0)  # so that one fit makes one file


class Artifacts(CoefficientTables):
    """Storing results."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Store the results in a file without rows, for `mme.load`: see `mme.save`.

        Parameters
        ----------
        path : str or path-like
            Overwritten if it exists.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "sleep.mme")
        >>> result.save(path)
        >>> round(mme.load(path).llf, 3)
        -871.814
        """
        save(self, path)


def save(results: Any, path: str | os.PathLike[str]) -> None:
    """Store results of a fit in a small file that predicts: no rows, nothing pickled.

    Parameters
    ----------
    results : results of `lmer` or of `MixedLM`
    path : str or path-like
        Overwritten if it exists.

    Raises
    ------
    DataError
        Something in the coding of the formula that cannot be stored, by name (levels of a type of your own,
        contrasts of your own class).

    Notes
    -----
    Functions of the caller in the formula are left out: new rows need them again, as `context` of
    ``predict``.  Degrees of freedom are stored where they take no longer than the fit, or were asked for
    before.

    Examples
    --------
    >>> import pandas as pd, mme, tempfile, pathlib
    >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
    >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "sleep.mme"
    >>> mme.save(result, path)
    >>> again = mme.load(path)
    >>> again.predict(pd.DataFrame({"Days": [10], "Subject": [308]})).round(1).tolist()
    [450.3]
    """
    results = getattr(results, "_results", results)
    raw = getattr(results, "raw", None)
    if isinstance(raw, bytes):  # of a file
        _put(path, raw)
        return
    fitted = getattr(results, "fitted", None)
    if not isinstance(fitted, Fitted):
        raise DataError(f"results of a fit are stored, not {type(results).__name__}.")
    refuse_structure(fitted.residual, "a file of a fit")
    writer = Writer()
    content = {
        "format": NAME,
        "version": FORMAT,
        "mme": version("mme"),
        **{name: writer.write(value, name) for name, value in _content(results, fitted).items()},
        **_coding(fitted, writer),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1)
        archive.writestr(zipfile.ZipInfo("model.json", _DATE), text, zipfile.ZIP_DEFLATED)
        for name, array in writer.arrays.items():
            raw = io.BytesIO()
            np.lib.format.write_array(raw, array, allow_pickle=False)
            member = zipfile.ZipInfo(f"arrays/{name}.npy", _DATE)
            archive.writestr(member, raw.getvalue(), zipfile.ZIP_DEFLATED)
    _put(path, buffer.getvalue())


def _put(path: str | os.PathLike[str], raw: bytes) -> None:
    target = Path(path)
    partial = target.with_name(target.name + ".part")  # a file is whole, or it is the one before
    partial.write_bytes(raw)
    partial.replace(target)


def _content(results: Any, fitted: Fitted) -> dict[str, Any]:
    labels = fitted.labels
    summary = results.summary()
    cache = _samples(results, fitted)
    return {
        "door": type(results).__name__,
        "names": attributes_of(type(results)),
        "labels": {
            "response": labels.response,
            "fixed": labels.fixed,
            "terms": [(t.group, t.effects, t.n_levels, t.structure.name) for t in labels.terms],
        },
        "fit": {
            "reml": fitted.reml,
            "n": fitted.n,
            "nu": fitted.nu,
            "beta": fitted.beta,
            "vcov_beta": np.asarray(fitted.vcov_beta()),
            "lam": list(fitted.lam),
            "sigma2": float(fitted.sigma2),
            "loglik": float(fitted.loglik),
            "converged": bool(fitted.converged),
            "restriction": fitted.restriction,
            "exact": fitted.monte_carlo is None,
        },
        "criteria": {name: float(getattr(results, name)) for name in ("aic", "bic")},
        "df_resid": int(results.df_resid),
        "n_groups": _groups(results, fitted),
        "singular": list(getattr(results, "boundary", None) or _singular(fitted)),
        "fit_info": _facts(results.fit_info),
        "summary": {
            "tables": [
                (list(map(str, table.columns)), [str(label) for label in table.index], _cells(table))
                for table in summary.tables
            ],
            "settings": [
                {key: made[key] for key in ("index", "header", "align", "float_format")}
                for made in summary.settings
            ],
            "title": summary.title,
            "lines": list(summary.extra_txt),
        },
        "tests": {name: _pieces(value) for name, value in cache.items()},
        "random_effects": _modes(results),
        "rows_needed": _means_need(fitted),
    }


def _coding(fitted: Fitted, writer: Writer) -> dict[str, Any]:
    """The formula's coding, or why there is none."""
    if fitted.coding is None:
        return {"coding": None, "no_coding": "the model has no formula"}
    try:
        coding = fitted.coding()
    except DataError as error:
        return {"coding": None, "no_coding": str(error).rstrip(".")}
    return {"coding": coding_to_plain(coding, writer), "no_coding": ""}


def _samples(results: Any, fitted: Fitted) -> dict[str, Any]:
    """What tests are made of: computed where it takes no longer than the fit, else what is there."""
    cache = results._small_sample
    soon = fitted.design is not None and fitted.exact and not fitted.restriction
    if soon and not ("observed" in cache or longer_than_the_fit(fitted)):
        inference_basis(fitted, "satterthwaite", cache=cache)
    if soon and fitted.reml and "observed" in cache:
        inference_basis(fitted, "kenward-roger", cache=cache)
    if fitted.design is not None:
        aliases(fitted, cache)
        triangle(fitted, "a file", cache)
    samples = {name: cache[name] for name in ("observed", "expected") if name in cache}
    arrays = {name: cache[name] for name in ("aliases", "triangle") if name in cache}
    return {name: value for name, value in samples.items() if value.inner.size <= _LARGE} | arrays


def _pieces(value: Any) -> Any:
    """Arrays of a sample, with the names of its parts."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: _pieces(getattr(value, f.name)) for f in fields(value)}
        return {"kind": type(value).__name__, "parts": own}
    return tuple(map(_pieces, value)) if isinstance(value, tuple) else value


def _modes(results: Any) -> dict[str, Any]:
    """Conditional modes, as the door gives them."""
    effects: Mapping[Any, Any] = results.random_effects
    if all(isinstance(part, pd.DataFrame) for part in effects.values()):
        return {
            "frames": [
                (group, frame.index, [str(name) for name in frame.columns], frame.to_numpy())
                for group, frame in effects.items()
            ]
        }
    names = [tuple(map(str, values.index)) for values in effects.values()]
    arrays = [values.to_numpy() for values in effects.values()]
    shared = list(dict.fromkeys(names))
    place = {own: j for j, own in enumerate(shared)}
    terms = results.fitted.labels.terms
    components = len(terms) > 1 or (len(terms) == 1 and terms[0].effects not in shared)
    by_term = {"terms": [np.asarray(u) for u in results.fitted.modes()]} if components else {}
    return by_term | {
        "labels": list(effects),
        "names": shared,
        "which": np.array([place[own] for own in names]),
        "values": np.concatenate(arrays) if arrays else np.zeros(0),
    }


def _groups(results: Any, fitted: Fitted) -> dict[str, int]:
    groups = getattr(results, "n_groups", None)
    return dict(groups) if groups is not None else {t.group: t.n_levels for t in fitted.labels.terms}


def _singular(fitted: Fitted) -> tuple[str, ...]:
    return () if fitted.record is None else fitted.record.singular


def _facts(info: Mapping[str, Any]) -> dict[str, Any]:
    """How the fit went, without what is no number, text or list of these."""
    plain = (bool, int, float, str, type(None), np.generic)

    def simple(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(map(simple, value))
        if isinstance(value, dict):
            return all(isinstance(k, str) and simple(v) for k, v in value.items())
        return isinstance(value, plain)

    return {str(name): value for name, value in info.items() if simple(value)}


def _cells(table: pd.DataFrame) -> list[list[str]]:
    return [["" if value is None else str(value) for value in row] for row in table.to_numpy(dtype=object)]


def _means_need(fitted: Fitted) -> str:
    """What a grid of marginal means would take from the rows; empty where it takes nothing."""
    if fitted.design is None:
        return "the rows of the fit were removed before it was stored"
    try:
        grid = reference_grid(fitted, fitted.coding()) if fitted.coding is not None else None
    except (DataError, FormulaError, InferenceError):
        return ""
    if grid is not None and grid.two_valued:
        return f"the numeric {', '.join(grid.two_valued)} has two values, which the rows tell"
    return "" if fitted.design.offset is None else "the mean of the offset is the rows'"
