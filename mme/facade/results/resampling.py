"""Refits, updates and the bootstrap of MixedLM: statsmodels' call, and the one of both doors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from statsmodels.tools.rng_qrng import check_random_state
from statsmodels.tools.sm_exceptions import SingularMatrixWarning

from ...engine.runtime.parallel import single_threaded_blas
from ...exceptions import ConvergenceError, InferenceError, OptionError
from ...fit.refit import Refits
from ...formula.scope import Scope
from ...formula.update import update_formula
from ...report.bootstrap import BootstrapResult, bootstrap_result
from .intervals import FacadeIntervals

__all__ = ["FacadeResampling", "with_response"]

_MODEL = (
    "weights",
    "offset",
    "re_formula",
    "re_structure",
    "vc_formula",
    "groups",
    "subset",
    "missing",
    "use_sparse",
    "use_sqrt",
    "eval_env",
)
_OURS = ("n", "seed", "workers", "statistic", "kind", "first", "backend", "progress", "n_boot")
_TOL = 1e-10  # of a refit, as of a fit


class FacadeResampling(FacadeIntervals):
    """What MixedLM's results draw and fit again."""

    # what it asks of the results
    model: Any
    params: np.ndarray
    scale: float
    reml: bool
    fe_pen: Any
    cov_pen: Any
    freepat: Any
    regularized: bool
    perfect: bool
    monte_carlo: Any
    bootstrap_results: np.ndarray

    def bootstrap(  # type: ignore[override]  # statsmodels' arguments, then those of both doors
        self,
        nrep: int = 100,
        method: str | None = None,
        disp: Any = 0,
        store: Any = 1,
        rng: Any = None,
        **chosen: Any,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | BootstrapResult:
        """Parametric bootstrap of the packed parameters (ratio scale), or the bootstrap of both doors.

        Rows are not independent, so responses are simulated from the fitted model, never resampled.

        Parameters
        ----------
        nrep : int
            Draws.
        method : str, optional
            Of the fits.
        disp : optional
            Ignored.
        store : bool
            Keep the draws as `bootstrap_results`.
        rng : int, Generator or RandomState, optional
        **chosen
            With any of ``n``, ``seed``, ``workers``, ``statistic``, ``kind``, ``first``, ``backend`` and
            ``progress`` it is the bootstrap of `mme.report.resampling.Resampling`, which keeps standard
            deviations and gives a `BootstrapResult`; ``nrep`` is then ``n``.

        Returns
        -------
        mean, std : ndarray, shape (k_fe + k_re2 + k_vc,)
        results : ndarray, shape (nrep, k_fe + k_re2 + k_vc)
            Or a `BootstrapResult`.

        Notes
        -----
        Fits with penalties, parameters that are held, or another `method`, are fitted one after another by
        `MixedLM.fit`, as iterative ones are; all others share what is the design's.
        """
        if chosen:
            for name in chosen:
                if name not in _OURS:
                    raise OptionError(f"bootstrap() has no argument {name!r}. Known: {', '.join(_OURS)}.")
            if method is not None or rng is not None:
                raise OptionError(
                    "method= and rng= belong to statsmodels' call of bootstrap(); with "
                    f"{', '.join(chosen)}= the draws are those of seed=."
                )
            number = chosen.pop("n_boot", nrep)
            return bootstrap_result(self.fitted, **{"n": number, **chosen})
        self.model.need_data()
        rng = check_random_state(rng)
        distribution = self.model.get_distribution(self.params, self.scale, None)
        plain = not (self.fitted.restriction or self.perfect or method or self.monte_carlo is not None)
        fit = self._shared_fits() if plain else None
        draws = []
        for _ in range(nrep):
            y = distribution.rvs(rng=rng)
            draws.append(self._by_model(y, method) if fit is None else fit(y))
        results = np.array(draws)
        if store:
            self.bootstrap_results = results
        return results.mean(0), results.std(0), results

    @property
    def _refit_options(self) -> dict[str, Any]:
        """Solver of a refit to simulated data, and its settings: those of this fit."""
        return {"solver": "direct"}

    def _shared_fits(self) -> Callable[[np.ndarray], np.ndarray]:
        """Packed parameters (ratio scale) of responses, with one analysis of the design."""
        model = self.model
        refits = Refits(model.design(), model.likelihood.cross_products(), self.reml, tol=_TOL)
        first = 1 if model.k_re else 0
        lower = np.tril_indices(model.k_re)

        def fit(y: np.ndarray) -> np.ndarray:
            try:
                found = refits.fit(y)
            except (ConvergenceError, np.linalg.LinAlgError):
                return self._by_model(y, None)
            if not found.converged:
                return self._by_model(y, None)
            parts = [found.beta]
            if first:
                parts.append((found.lam[0] @ found.lam[0].T)[lower])
            parts.append(np.array([lam[0, 0] ** 2 for lam in found.lam[first:]]))
            return np.concatenate(parts)

        return fit

    def _by_model(self, y: np.ndarray, method: str | None) -> np.ndarray:
        model = self.model
        again = model.__class__(y, model.exog, **model._get_init_kwds())
        again.likelihood.share(model.likelihood)
        with warnings.catch_warnings():
            # simulated responses often put a small variance on its boundary; that is part of the answer
            warnings.simplefilter("ignore", SingularMatrixWarning)
            refit = again.fit(
                reml=self.reml,
                method=method,
                fe_pen=self.fe_pen,
                cov_pen=self.cov_pen,
                free=self.freepat,
                **self._refit_options,
            )
        return refit._results.params

    def _refitted(self, y: np.ndarray) -> Any:
        if self.regularized:
            raise InferenceError(
                "refit() of a regularized fit is not there: build the model again and call fit_regularized()."
            )
        again = with_response(self.model, y)
        with single_threaded_blas():
            again.likelihood.share(self.model.likelihood)
        options = dict(self._refit_options)
        options.pop("loglik_probes", None)
        return again.fit(
            reml=self.reml, fe_pen=self.fe_pen, cov_pen=self.cov_pen, free=self.freepat, **options
        )

    def _updated(self, formula: str | None, data: Any, options: dict[str, Any]) -> Any:
        model = self.model
        call = model.__dict__.get("_call")
        if call is None:
            raise OptionError(
                "update() needs a model of from_formula() with its data; build the changed one anew."
            )
        if self.regularized:
            raise InferenceError(
                "update() of a regularized fit is not there: build the model anew and call fit_regularized()."
            )
        changed = formula is not None or bool(options.keys() & {"re_formula", "vc_formula"})
        for name, held in (("free", self.freepat), ("fe_pen", self.fe_pen), ("cov_pen", self.cov_pen)):
            if changed and held is not None and name not in options:
                raise OptionError(
                    f"update(): {name}= of this fit is about its own parameters; pass {name}= for the "
                    f"changed model, or {name}=None."
                )
        arguments = {**call, **({} if data is None else {"data": data})}
        if arguments.get("data") is None:
            raise OptionError(
                "the data of the model are not stored with it, and those of refit() have another response: "
                "pass data=."
            )
        if arguments.get("eval_env") is None:
            # names in the formulas are those of who asks for the update
            local, outer = Scope().layers
            arguments["eval_env"] = {**outer, **local}
        fitting: dict[str, Any] = {
            "reml": self.reml,
            "fe_pen": self.fe_pen,
            "cov_pen": self.cov_pen,
            "free": self.freepat,
        }
        if self.monte_carlo is not None:
            fitting |= {k: v for k, v in self._refit_options.items() if k != "loglik_probes"}
        for name, value in options.items():
            (arguments if name in _MODEL else fitting)[name] = value
        text = model.formula if formula is None else update_formula(str(model.formula), formula)
        return type(model).from_formula(text, arguments.pop("data"), **arguments).fit(**fitting)


def with_response(model: Any, y: np.ndarray) -> Any:
    """A model of another response; all else is shared."""
    again = copy.copy(model)
    built = ("likelihood", "limit_likelihood", "_design_full", "_design_diagonal", "endog_li", "_call")
    for name in built:
        again.__dict__.pop(name, None)
    again.data = copy.copy(model.data)
    again.endog = again.data.endog = y
    if getattr(again.data, "orig_endog", None) is not None:
        original = again.data.orig_endog
        again.data.orig_endog = original.copy() if hasattr(original, "iloc") else y
        if hasattr(original, "iloc"):
            again.data.orig_endog.iloc[...] = y if original.ndim == 1 else y[:, None]
    key = "_design_full"
    if key in model.__dict__:
        again.__dict__[key] = model.__dict__[key].with_response(y)
    return again
