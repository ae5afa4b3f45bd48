"""Parameters of a MixedLM: fixed effects, covariance of the random effects, variance components.

The packed layout is statsmodels': fixed effects, then the lower triangle of ``cov_re`` row by row, then the
variance components.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ...engine.covariance.factors import factor_psd

__all__ = ["MixedLMParams"]


class MixedLMParams:
    """Parameters of a linear mixed model with the residual variance profiled out.

    Variances are on the *ratio scale* (divided by the residual variance) wherever a model or a result uses
    this class; the class itself only holds and packs numbers.

    Parameters
    ----------
    k_fe : int
        Number of fixed effects.
    k_re : int
        Number of correlated random effects per group.
    k_vc : int
        Number of variance components.

    Attributes
    ----------
    fe_params : ndarray, shape (k_fe,)
        Fixed effects.
    cov_re : ndarray, shape (k_re, k_re)
        Covariance of the random effects of a group (ratio scale).
    vcomp : ndarray, shape (k_vc,)
        Variance components (ratio scale).
    k_re2 : int
        Number of entries of the lower triangle of ``cov_re``.
    k_tot : int
        Number of parameters in all.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> model = mme.mixedlm("Reaction ~ Days", sleep, groups="Subject")
    >>> params = mme.MixedLMParams.from_components([250.0, 10.0], cov_re=[[1.5]])
    >>> round(model.loglike(params), 2)
    -893.24
    """

    fe_params: np.ndarray
    cov_re: np.ndarray
    vcomp: np.ndarray

    def __init__(self, k_fe: int, k_re: int, k_vc: int) -> None:
        self.k_fe = k_fe
        self.k_re = k_re
        self.k_re2 = k_re * (k_re + 1) // 2
        self.k_vc = k_vc
        self.k_tot = self.k_fe + self.k_re2 + self.k_vc
        self._ix = _lower(self.k_re)

    @staticmethod
    def from_packed(
        params: Sequence[float] | np.ndarray, k_fe: int, k_re: int, use_sqrt: bool, has_fe: bool
    ) -> MixedLMParams:
        """Unpack a vector.

        Parameters
        ----------
        params : array_like
            Packed parameters, ratio scale.
        k_fe, k_re : int
            Numbers of fixed effects and of random effects.
        use_sqrt : bool
            True where the vector holds the Cholesky factor of ``cov_re`` and standard deviations of the
            variance components, False where it holds covariances and variances.
        has_fe : bool
            Whether the vector begins with the fixed effects; otherwise they are set to zero.

        Returns
        -------
        MixedLMParams
        """
        packed = np.asarray(params, dtype=np.float64)
        k_re2 = k_re * (k_re + 1) // 2
        first = k_fe if has_fe else 0
        k_vc = packed.size - first - k_re2
        if packed.ndim != 1 or k_vc < 0:
            raise ValueError(
                f"packed parameters of shape {packed.shape} are too few for {first} fixed effects and "
                f"{k_re2} covariance parameters."
            )
        out = MixedLMParams(k_fe, k_re, k_vc)
        out.fe_params = packed[:k_fe].copy() if has_fe else np.zeros(k_fe)
        triangle = np.zeros((k_re, k_re))
        triangle[out._ix] = packed[first : first + k_re2]
        if use_sqrt:
            out.cov_re = triangle @ triangle.T
        else:
            out.cov_re = triangle + np.tril(triangle, -1).T
        rest = packed[first + k_re2 :]
        out.vcomp = rest**2 if use_sqrt else rest.copy()
        return out

    @staticmethod
    def from_components(
        fe_params: np.ndarray | None = None,
        cov_re: np.ndarray | None = None,
        cov_re_sqrt: np.ndarray | None = None,
        vcomp: np.ndarray | None = None,
    ) -> MixedLMParams:
        """Put the pieces together.

        Parameters
        ----------
        fe_params : array_like, shape (k_fe,), optional
            Fixed effects; None stands for none.
        cov_re : ndarray, shape (k_re, k_re), optional
            Covariance of the random effects.
        cov_re_sqrt : ndarray, shape (k_re, k_re), optional
            Its lower triangular Cholesky factor; takes precedence over `cov_re`.
        vcomp : array_like, shape (k_vc,), optional
            Variance components; None stands for none.

        Returns
        -------
        MixedLMParams
        """
        fe_params = np.empty(0) if fe_params is None else fe_params
        vcomp = np.empty(0) if vcomp is None else vcomp
        if cov_re_sqrt is not None:
            root = np.asarray(cov_re_sqrt, dtype=np.float64)
            cov_re = root @ root.T
        elif cov_re is None:
            cov_re = np.empty((0, 0))
        out = MixedLMParams(len(fe_params), np.shape(cov_re)[0], len(vcomp))
        out.fe_params, out.cov_re, out.vcomp = fe_params, cov_re, vcomp
        return out

    def copy(self) -> MixedLMParams:
        """Return a copy that shares no array with this object."""
        out = MixedLMParams(self.k_fe, self.k_re, self.k_vc)
        out.fe_params = self.fe_params.copy()
        out.cov_re = self.cov_re.copy()
        out.vcomp = self.vcomp.copy()
        return out

    def get_packed(self, use_sqrt: bool, has_fe: bool = False) -> np.ndarray:
        """Pack into one vector.

        Parameters
        ----------
        use_sqrt : bool
            Pack the Cholesky factor of ``cov_re`` and the square roots of ``vcomp`` rather than themselves.
            A singular ``cov_re`` has a factor too (zero pivots stay zero).
        has_fe : bool
            Begin with the fixed effects.

        Returns
        -------
        ndarray, shape (k_fe * has_fe + k_re2 + k_vc,)
        """
        cov_re = np.asarray(self.cov_re, dtype=np.float64).reshape(self.k_re, self.k_re)
        vcomp = np.asarray(self.vcomp, dtype=np.float64)
        if use_sqrt:
            triangle = _cholesky(cov_re) if self.k_re else cov_re
            vcomp = np.sqrt(np.maximum(vcomp, 0.0))
        else:
            triangle = cov_re
        parts = [triangle[self._ix], vcomp]
        if has_fe:
            parts.insert(0, np.asarray(self.fe_params, dtype=np.float64))
        return np.concatenate(parts)


@lru_cache(maxsize=64)
def _lower(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a lower triangle, to be read alone."""
    rows, columns = np.tril_indices(k)
    rows.flags.writeable = columns.flags.writeable = False
    return rows, columns


def _cholesky(cov: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        # singular, an ordinary value: the factor that keeps zero pivots
        return factor_psd(cov)
