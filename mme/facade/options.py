"""Arguments of MixedLM.fit: which there are, and which values they take."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from ..exceptions import DataError, OptionError
from ..fit.options import IterativeOptions
from ..hints import option_hint
from .design.params import MixedLMParams
from .scipy_search import METHODS

if TYPE_CHECKING:
    from .protocol import MixedModel

_OF_LMER = ("residual", "dispersion", "relationship")
__all__ = ["ITERATIVE", "check_kwargs", "check_objects", "check_reml", "method_names", "start_of"]

ITERATIVE = tuple(f.name for f in fields(IterativeOptions))
_TOLERANCES = ("gtol", "ftol", "tol", "eps")
_COUNTS = ("maxiter", "maxcor", "maxls")
_ALLOWED = ("gtol", "maxiter", "eps", "maxcor", "ftol", "tol", "disp", "maxls")


def check_kwargs(fit_kwargs: dict[str, Any], stacklevel: int = 4, iterative: bool = False) -> dict[str, Any]:
    """The arguments of `MixedLM.fit` that an optimizer takes; the others give a warning.

    Parameters
    ----------
    fit_kwargs : dict
    stacklevel : int
    iterative : bool
        Whether settings of the iterative solver are among them.

    Raises
    ------
    OptionError
        What would make another model, and is `lmer`'s.
    DataError
        A tolerance that is no positive number, a count that is no positive whole number.
    """
    allowed = _ALLOWED + (ITERATIVE if iterative else ())
    unknown = sorted(set(fit_kwargs) - set(allowed))
    models = [name for name in unknown if name in _OF_LMER]
    if models:
        # statsmodels warns and fits without; that would be another model than the one meant
        raise OptionError(f"MixedLM.fit has no {', '.join(models)}: {option_hint(models[0], 'MixedLM.fit')}")
    if unknown:
        hints = [f" {name}: {hint}" for name in unknown if (hint := option_hint(name, "MixedLM.fit"))]
        warnings.warn(
            f"Argument{'s' if len(unknown) > 1 else ''} {', '.join(unknown)} not used by MixedLM.fit. "
            f"Known are {', '.join(allowed)}.{''.join(hints)}",
            FutureWarning,
            stacklevel=stacklevel,
        )
    options = {
        name: value
        for name, value in fit_kwargs.items()
        if name in allowed and not (value is None and name in _TOLERANCES + _COUNTS)
    }
    for name in _TOLERANCES:
        value = options.get(name, 1.0)
        if not (_is(Real, value) and 0.0 < value < np.inf):
            raise DataError(f"{name} must be a positive finite number, not {value!r}.")
    for name in _COUNTS:
        if name not in options:
            continue
        value = options[name]
        whole = _is(Integral, value) or (_is(Real, value) and float(value).is_integer())
        if not whole or value < 1:
            hint = " Results at the start values are those of do_cg=False." if name == "maxiter" else ""
            raise DataError(f"{name} must be a whole number of at least 1, not {value!r}.{hint}")
        options[name] = int(value)
    return options


def _is(kind: type, value: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool | np.bool_)


def check_reml(reml: Any) -> bool:
    """Whether to maximize the restricted likelihood; refuses what would silently be taken as a yes."""
    if isinstance(reml, bool | np.bool_) or (_is(Integral, reml) and reml in (0, 1)):
        return bool(reml)
    raise DataError(f"reml must be True (restricted) or False (full maximum likelihood), not {reml!r}.")


def check_objects(free: Any, fe_pen: Any, cov_pen: Any) -> None:
    """Refuse patterns and penalties that are none."""
    if free is not None and not all(hasattr(free, name) for name in ("fe_params", "cov_re", "vcomp")):
        raise DataError(f"free must be MixedLMParams of ones and zeros, not {free!r}.")
    for name, penalty in (("fe_pen", fe_pen), ("cov_pen", cov_pen)):
        if penalty is not None and not (hasattr(penalty, "func") and hasattr(penalty, "deriv")):
            raise DataError(f"{name} must be a penalty of statsmodels.base._penalties, not {penalty!r}.")


def method_names(method: Any) -> list[str]:
    """Names of scipy's methods asked for, in turn; none is the engine's own optimizer."""
    names = [method] if isinstance(method, str) or not isinstance(method, Iterable) else list(method)
    names = [] if method is None else names
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"method must be a name or a list of names, not {method!r}.")
        if name.lower() in ("newton", "ncg"):
            raise OptionError(f"method {name} not available for MixedLM")
        if name.lower() not in METHODS:
            raise OptionError(
                f"method {name!r} is unknown; choose from {', '.join(sorted(METHODS))}, or None."
            )
    return names


def start_of(model: MixedModel, start_params: Any) -> MixedLMParams | None:
    """The start of a search from packed parameters, with or without fixed effects, or from their pieces."""
    if start_params is None:
        return None
    m = model.k_re2 + model.k_vc
    if hasattr(start_params, "cov_re") and hasattr(start_params, "vcomp"):
        start = start_params.copy()
        shapes = (np.shape(start.cov_re), np.shape(start.vcomp), np.shape(start.fe_params))
        if shapes != ((model.k_re, model.k_re), (model.k_vc,), (model.k_fe,)):
            raise DataError(
                f"start_params has cov_re, vcomp and fe_params of shapes {shapes}; the model has "
                f"{model.k_re} random effects, {model.k_vc} variance components and {model.k_fe} fixed "
                "effects."
            )
    else:
        packed = _numbers(start_params)
        if packed.size not in (m, m + model.k_fe):
            raise DataError(
                f"invalid start_params: {packed.size} values; expected {m} (covariance parameters) or "
                f"{m + model.k_fe} (fixed effects first)."
            )
        start = MixedLMParams.from_packed(packed, model.k_fe, model.k_re, model.use_sqrt, packed.size > m)
    if not model.likelihood.admits(start.cov_re, start.vcomp):
        raise DataError(
            "start_params has a negative variance, or a covariance that is not positive semidefinite: "
            f"cov_re {np.asarray(start.cov_re).tolist()}, vcomp {np.asarray(start.vcomp).tolist()} (ratios "
            "to the residual variance)."
        )
    return start


def _numbers(start_params: Any) -> np.ndarray:
    try:
        packed = np.asarray(start_params, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"start_params must be numbers or MixedLMParams, not {start_params!r}: {error}."
        ) from error
    if packed.ndim > 1:
        raise DataError(f"start_params must be one-dimensional; it has shape {packed.shape}.")
    packed = packed.ravel()
    if not np.isfinite(packed).all():
        raise DataError(f"start_params has values that are not finite: {packed.tolist()}.")
    return packed
