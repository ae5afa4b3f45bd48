"""Results of a MixedLM fitted without a factorization: what the iterative path knows, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from statsmodels.iolib import summary2

from ...fit.fitted import Fitted
from ...report.summary import convergence_lines, monte_carlo_lines
from ..covariance import well_conditioned
from ..design.params import MixedLMParams
from ..releases import cache_readonly
from .results import MixedLMResults

if TYPE_CHECKING:
    from ...fit.record import Fit
    from ..protocol import MixedModel

__all__ = ["IterativeMixedLMResults"]


class IterativeMixedLMResults(MixedLMResults):
    """Results of fitting a `MixedLM` by conjugate gradients and stochastic traces.

    Estimates, log-likelihood and standard errors of the variances have a Monte Carlo error, which
    `monte_carlo` holds.  Everything of `MixedLMResults` is there except `random_effects_cov` and
    `profile_re`, which need a factorization and raise `NotImplementedError`.  `bootstrap` fits iteratively.

    Parameters
    ----------
    model : MixedLM
    params : MixedLMParams
        Ratio scale.
    fit : Fit
        The engine's fit; only what does not grow with the rows is kept.
    settings : dict
        Settings of the iterative solver, for refits.
    **common
        As `MixedLMResults` takes them.

    Attributes
    ----------
    monte_carlo : mme.engine.iterative.root.MonteCarlo
        Monte Carlo errors, numbers of probes and iterations.
    record : mme.fit.FitRecord
        How the fit went.
    error_re : ndarray, shape (k_re2 + k_vc,)
        Monte Carlo errors of cov_re (lower triangle) and vcomp.  **Variance scale**.
    bse_fe : ndarray, shape (k_fe,)
        Standard errors of the fixed effects given the variances.  The average information has no share that
        ties the two together; the exact one's vanishes on average.
    """

    def __init__(
        self, model: MixedModel, params: MixedLMParams, *, fit: Fit, settings: dict[str, Any], **common: Any
    ) -> None:
        super().__init__(model, params, **common)
        self.monte_carlo = fit.monte_carlo
        self.record = fit.record
        self._settings = dict(settings)
        self._vcov_fe = fit.vcov_beta
        self._modes = fit.u
        self._bases = model.likelihood.cross_products().term_bases()
        self._structure = fit.design.terms[0].structure
        self._solver: Any = fit.objective

    @property
    def fitted(self) -> Fitted:
        """The estimate with its labels and what solves, as inference takes it from either door."""
        return replace(super().fitted, objective=lambda: self._solver)

    def remove_data(self) -> None:
        """As `MixedLMResults.remove_data`; the cross-products go as well."""
        super().remove_data()
        self._solver = None

    # -- standard errors -----------------------------------------------------------------------

    def _positions(self) -> np.ndarray:
        """Where the engine's free entries of every covariance sit among the parameters."""
        where = []
        if self.k_re:
            where = [self.k_fe + a * (a + 1) // 2 + b for a, b in self._structure.entries(self.k_re)]
        first = self.k_fe + self.k_re2
        return np.array([*where, *range(first, first + self.k_vc)], dtype=np.intp)

    @cache_readonly
    def _covariance(self) -> np.ndarray:
        """Fixed effects given the variances, ratios from the average information; uncorrelated."""
        assert self.monte_carlo is not None
        k, k_fe, where = self.params.size, self.k_fe, self._positions()
        information = np.zeros((k, k))
        information[np.ix_(where, where)] = self.monte_carlo.information
        active = np.zeros(k, dtype=bool)
        active[where] = True
        T = well_conditioned(k_fe, self.k_re, active, self._bases)
        if T is None:
            covariance = self._inverse(information, active)
        else:
            inverse = np.linalg.inv(T)
            covariance = self._inverse(inverse.T @ information @ inverse, active, T, lambda: information)
        covariance[:k_fe, :k_fe] = self._vcov_fe
        covariance[:k_fe, k_fe:] = covariance[k_fe:, :k_fe] = 0.0
        # parameters held at a value have no error
        held = np.setdiff1d(np.arange(k_fe, k), where)
        covariance[held, :] = covariance[:, held] = 0.0
        unknown = np.isnan(np.diag(covariance))
        covariance[unknown, :] = covariance[:, unknown] = np.nan
        return covariance

    def _packed(self, matrices: tuple[np.ndarray, ...]) -> np.ndarray:
        """Lower triangle of the first term's matrix, if `k_re`, and the components' only entries."""
        parts = [matrices[0][np.tril_indices(self.k_re)]] if self.k_re else []
        parts.append(np.array([m[0, 0] for m in matrices[1 if self.k_re else 0 :]]))
        return np.concatenate(parts)

    @cache_readonly
    def bse_re(self) -> np.ndarray:
        """Standard errors of the lower triangle of cov_re and of vcomp (variance scale).

        From the average information of (co)variances and residual variance.
        """
        assert self.monte_carlo is not None
        bse = self.bse[self.k_fe :]
        own = self._packed(self.monte_carlo.variance_se)
        return np.where((bse == 0.0) | np.isnan(bse), bse, own)

    @cache_readonly
    def error_re(self) -> np.ndarray:
        """Monte Carlo errors of the lower triangle of cov_re and of vcomp (variance scale)."""
        assert self.monte_carlo is not None
        errors = self._packed(self.monte_carlo.variance_error)
        return np.where(self.bse[self.k_fe :] == 0.0, 0.0, errors)

    # -- random effects ------------------------------------------------------------------------

    @cache_readonly
    def _blups(self) -> list[np.ndarray]:
        first = 1 if self.k_re else 0
        components = self.model.exog_vc.components
        effects = [c.expand(u[:, 0]) for c, u in zip(components, self._modes[first:], strict=True)]
        return [*self._modes[:first], *effects]

    # -- what needs a factorization ------------------------------------------------------------

    @property
    def random_effects_cov(self) -> NoReturn:
        """Not available: see `random_effects` for the conditional means."""
        raise self._lacks("random_effects_cov")

    def profile_re(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not available: `bse_re` holds standard errors from the average information."""
        raise self._lacks("profile_re")

    def _lacks(self, name: str) -> NotImplementedError:
        return NotImplementedError(
            f"{name} needs a factorization, and this fit was iterative, without one. Fit with "
            "solver='direct' if model.preflight() says that its memory and time are affordable."
        )

    @property
    def _refit_options(self) -> dict[str, Any]:
        # the log-likelihood of a refit is not asked for
        return {"solver": "iterative", **self._settings, "loglik_probes": 0}

    # -- summary -------------------------------------------------------------------------------

    def _complete(self, smry: summary2.Summary) -> None:
        """Monte Carlo errors of the variances beside them, and how the fit went."""
        assert self.monte_carlo is not None
        errors = [f"{x:.2g}" if np.isfinite(x) else "" for x in self.error_re]
        smry.tables[1]["MC Err."] = [""] * self.k_fe + errors
        for line in convergence_lines(self.record) + monte_carlo_lines(self.monte_carlo):
            smry.add_text(line)
