"""loglike, score and hessian of a MixedLM as statsmodels' models have them: parameters packed in a vector."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from .design.params import MixedLMParams
from .likelihood import Likelihood
from .penalty import CovariancePenalty, FixedPenalty

__all__ = ["LogLikelihood"]


class LogLikelihood:
    """What a `MixedLM` says of its likelihood, at any parameters; penalties and pattern of its last fit.

    Every method needs a factorization: where that is predicted not to fit in memory, `MemoryEstimateError`
    is raised before it is begun.
    """

    k_fe: int
    k_re: int
    k_re2: int
    use_sqrt: bool
    reml: bool
    fe_pen: FixedPenalty | None
    cov_pen: CovariancePenalty | None
    _freepat: MixedLMParams | None

    @cached_property
    def likelihood(self) -> Likelihood:
        """The engine's side of it, built by the model."""
        raise NotImplementedError

    def _unpack(self, params: Any, has_fe: bool) -> MixedLMParams:
        if hasattr(params, "cov_re") and hasattr(params, "vcomp"):
            return params
        return MixedLMParams.from_packed(params, self.k_fe, self.k_re, self.use_sqrt, has_fe)

    def get_fe_params(self, cov_re: Any, vcomp: Any, tol: float = 1e-10) -> tuple[np.ndarray, bool]:
        """Generalized least squares estimate of the fixed effects at given (co)variances (ratio scale).

        Parameters
        ----------
        cov_re : array_like, shape (k_re, k_re)
        vcomp : array_like, shape (k_vc,)
        tol : float
            Variances and eigenvalues below this count as zero for the second result.

        Returns
        -------
        fe_params : ndarray, shape (k_fe,)
            NaN where a dependent column of `exog` was dropped.
        singular : bool
            Whether the covariance is singular; the estimate is right all the same.
        """
        cov_re = np.asarray(cov_re, dtype=np.float64).reshape(self.k_re, self.k_re)
        vcomp = np.asarray(vcomp, dtype=np.float64)
        singular = bool(self.k_re and np.linalg.eigvalsh(cov_re)[0] < tol) or bool(np.any(vcomp < tol))
        if self.k_fe == 0:
            return np.empty(0), False
        return self.likelihood.at(cov_re, vcomp).beta, singular

    def get_scale(self, fe_params: Any, cov_re: Any, vcomp: Any) -> float:
        """Residual variance at given fixed effects and (co)variances (ratio scale); REML if ``reml``."""
        point = self.likelihood.at(cov_re, vcomp)
        return point.r2(np.asarray(fe_params, dtype=np.float64)) / point.nu(self.reml)

    def loglike(self, params: Any, profile_fe: bool = True) -> float:
        """Log-likelihood, residual variance profiled out, less penalties.

        Parameters
        ----------
        params : MixedLMParams or array_like
            Ratio scale; a vector holds the covariance parameters only, packed as `use_sqrt` says.
        profile_fe : bool
            Replace the fixed effects by their estimate given the (co)variances.

        Returns
        -------
        float
            With lme4's constants under REML.
        """
        params = self._unpack(params, has_fe=False)
        return self.likelihood.loglike(params, self.reml, profile_fe, self.fe_pen, self.cov_pen, refine=True)

    def score(self, params: Any, profile_fe: bool = True) -> np.ndarray:
        """Gradient of `loglike` in the parametrization of `use_sqrt`; fixed parameters of ``free`` give 0.

        Parameters
        ----------
        params : MixedLMParams or array_like
            As in `loglike`.
        profile_fe : bool
            Leave the fixed effects out (they are at their estimate).

        Returns
        -------
        ndarray, shape (k_re2 + k_vc,), or (k_fe + k_re2 + k_vc,) with ``profile_fe=False``
        """
        params = self._unpack(params, has_fe=False)
        if profile_fe:
            params = MixedLMParams.from_components(
                self.get_fe_params(params.cov_re, params.vcomp)[0], cov_re=params.cov_re, vcomp=params.vcomp
            )
        scores = (self.score_sqrt if self.use_sqrt else self.score_full)(params, calc_fe=not profile_fe)
        if self._freepat is not None:
            free = self._freepat
            masks = (free.fe_params, np.asarray(free.cov_re)[np.tril_indices(self.k_re)], free.vcomp)
            scores = tuple(s * np.asarray(m) for s, m in zip(scores, masks, strict=True))
        return np.concatenate(scores[1:] if profile_fe else scores)

    def score_full(self, params: Any, calc_fe: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradient with respect to fixed effects, lower triangle of cov_re, vcomp (ratio scale).

        Without `calc_fe` the first is zero.
        """
        params = self._unpack(params, has_fe=False)
        return self.likelihood.score(params, self.reml, calc_fe, self.fe_pen, self.cov_pen)

    def score_sqrt(self, params: Any, calc_fe: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradient with respect to fixed effects, Cholesky factor of cov_re, roots of vcomp (ratio scale).

        Without `calc_fe` the first is zero.
        """
        params = self._unpack(params, has_fe=False)
        score_fe, score_re, score_vc = self.score_full(params, calc_fe)
        packed = params.get_packed(use_sqrt=True)
        ix = np.tril_indices(self.k_re)
        root, slope = np.zeros((self.k_re, self.k_re)), np.zeros((self.k_re, self.k_re))
        root[ix], slope[ix] = packed[: self.k_re2], score_re / 2
        # dl = tr(S dD) with D = L L': dl/dL = 2 S L, S symmetric with halved off-diagonal scores
        score_re = (2 * (slope + slope.T) @ root)[ix]
        return score_fe, score_re, 2 * packed[self.k_re2 :] * score_vc

    def hessian(self, params: Any) -> tuple[np.ndarray, bool]:
        """Second derivatives of `loglike` with respect to fe_params, cov_re and vcomp (ratio scale).

        Parameters
        ----------
        params : MixedLMParams or array_like
            A vector begins with the fixed effects and is packed as `use_sqrt` says.

        Returns
        -------
        hess : ndarray, shape (k_fe + k_re2 + k_vc,) * 2
            Penalties included.
        singular : bool
            Whether the covariance is singular.
        """
        params = self._unpack(params, has_fe=True)
        return self.likelihood.hessian(params, self.reml, self.fe_pen, self.cov_pen)

    def information(self, params: Any) -> np.ndarray:
        """Observed information: minus the Hessian (ratio scale)."""
        return -self.hessian(params)[0]
