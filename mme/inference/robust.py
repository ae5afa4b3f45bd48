"""By what fixed effects are judged where a sandwich takes the place of the model's covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..exceptions import InferenceError, OptionError
from ..fit.fitted import Fitted
from .clusters import clusterings_of
from .coefficients import Basis, Rows
from .degrees import FTest, independent
from .sandwich import Robust, robust
from .tails import t_quantile, t_two_sided

__all__ = ["sandwich_basis"]

_TYPES = ("HC0", "CR0", "CR1", "CR2")
_FEW = 4.0  # degrees of freedom below which the approximation is poor (Pustejovsky & Tipton 2018)


@dataclass(frozen=True, eq=False)
class SandwichBasis(Basis):
    """A `Basis` with the covariance and the degrees of freedom of a sandwich."""

    sandwich: Robust

    def covariance(self) -> np.ndarray:
        """Covariance of the kept coefficients."""
        return self.sandwich.covariance

    def _root(self) -> np.ndarray | None:
        return self.sandwich.half

    def rows(
        self, L: np.ndarray, value: np.ndarray, alpha: float, estimable: np.ndarray | None = None
    ) -> Rows:
        """As `Basis.rows`."""
        plain = super().rows(L, value, alpha, estimable)
        if self.ddf == "normal":
            return plain
        df = np.full(len(L), np.nan)
        told = ~np.isnan(plain.se)
        df[told] = self.sandwich.degrees(L[np.ix_(told, self.kept)])
        half = t_quantile(alpha, df) * plain.se
        p = t_two_sided(plain.t, df)
        return Rows(plain.estimate, plain.se, df, plain.t, p, plain.estimate - half, plain.estimate + half)

    def f_test(self, L: np.ndarray, value: np.ndarray) -> FTest:
        """Approximate Hotelling's T^2 of the rows together; dependent rows count once."""
        if self.ddf == "normal" or not np.all(self.estimable(L)):
            return super().f_test(L, value)
        K = L[:, self.kept]
        difference = K @ self.fitted.beta[self.kept] - value
        # rows that are independent under the model's covariance
        root = self.sandwich.root
        U, t = independent(np.linalg.solve(root.T, self.sandwich.T.T @ K.T), difference)
        if t.size == 0:
            return FTest(np.nan, np.nan, np.nan)
        F, df = self.sandwich.f_test(root.T @ U, t)
        return FTest(F, t.size, df)


def sandwich_basis(
    fitted: Fitted, cov_type: Any, cluster: Any, ddf: str | None = None, information: str | None = None
) -> SandwichBasis:
    """Check what was asked for, and compute it.

    Parameters
    ----------
    fitted : Fitted
    cov_type : {"HC0", "CR0", "CR1", "CR2"}
    cluster : str, array_like of shape (n,), or list of these
        As in `mme.inference.clusters.clusterings_of`; None for HC0.
    ddf : {"satterthwaite", "normal"}, optional
        Satterthwaite's by default; of crossed clusterings the smallest number of clusters less one.
    information : None
        Nothing of the variances' information is used.

    Raises
    ------
    OptionError, DataError
        Something misspelt or missing; clusters that are none.
    InferenceError, MemoryEstimateError
        See `mme.inference.sandwich.robust`.
    """
    kind = cov_type.upper() if isinstance(cov_type, str) else cov_type
    if cov_type is None:
        raise OptionError(f"cluster= needs cov_type=, one of {', '.join(_TYPES[1:])}.")
    if kind not in _TYPES:
        raise OptionError(f"cov_type={cov_type!r} is not known. Known: {', '.join(_TYPES)}.")
    if ddf is not None and ddf not in ("satterthwaite", "normal"):
        raise OptionError(
            f"ddf={ddf!r} has no use with cov_type={kind!r}: its degrees of freedom are Satterthwaite's, or "
            "ddf='normal'."
        )
    if information is not None:
        raise OptionError(f"information={information!r} has no use with cov_type={kind!r}.")
    if kind == "HC0" and cluster is not None:
        raise OptionError(
            "cov_type='HC0' takes rows for themselves and no cluster; CR0 is its like for clusters."
        )
    if kind != "HC0" and cluster is None:
        raise OptionError(f"cov_type={kind!r} needs cluster=: a grouping factor's name, or a label per row.")
    what = f"cov_type={kind!r}"
    if fitted.design is None:
        raise InferenceError(f"{what} needs the design, and the data were removed.")
    clusterings = [] if cluster is None else clusterings_of(fitted, fitted.design, cluster)
    if len(clusterings) > 1 and ddf == "satterthwaite":
        raise OptionError(
            "ddf='satterthwaite' is of one clustering. Without ddf= those of several are the smallest number "
            "of clusters less one; ddf='normal' has none."
        )
    sandwich = robust(fitted, kind, clusterings, what)
    return SandwichBasis(
        fitted,
        ddf or ("satterthwaite" if len(clusterings) < 2 else "clusters"),
        None,
        None,
        _notes(fitted, kind, clusterings, sandwich, ddf),
        sandwich,
    )


def _notes(
    fitted: Fitted, kind: str, clusterings: list, sandwich: Robust, ddf: str | None
) -> tuple[str, ...]:
    notes = [] if fitted.converged else ["The fit has not converged."]
    if clusterings:
        listed = " and ".join(f"{c.n} clusters of {c.name}" for c in clusterings)
        notes.append(f"Standard errors: {kind} by {listed}.")
    else:
        notes.append(f"Standard errors: {kind} of the whitened rows.")
    if ddf == "normal":
        return tuple(notes)
    if len(clusterings) > 1:
        notes.append("Degrees of freedom: the smallest number of clusters less one.")
        if np.any(np.diag(sandwich.covariance) < 0.0):
            notes.append("Inclusion and exclusion left variances below zero: their standard errors are NaN.")
        return tuple(notes)
    if np.any(sandwich.degrees(np.eye(len(sandwich.covariance))) < _FEW):
        notes.append(f"Fewer than {_FEW:g} degrees of freedom: their p and intervals are rough.")
    return tuple(notes)
