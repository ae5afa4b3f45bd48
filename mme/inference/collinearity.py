"""Variance inflation: what the correlation of the fixed effects' estimates costs a term."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..exceptions import InferenceError
from ..fit.fitted import Fitted

__all__ = ["inflation"]


def inflation(fitted: Fitted, terms: Sequence[np.ndarray], left_out: np.ndarray) -> np.ndarray:
    """Generalized variance inflation factors.

    det R_11 det R_22 / det R, R the correlation of the estimates, 1 a term's and 2 all others' (Fox &
    Monette 1992, JASA 87, 178-183).

    Parameters
    ----------
    fitted : Fitted
    terms : sequence of ndarray of int
        Coefficients of every term.
    left_out : ndarray of int
        Coefficients that do not count: the intercept.

    Returns
    -------
    ndarray, shape (number of terms,)
        NaN for terms of which nothing was kept.
    """
    kept = ~np.isnan(fitted.beta)
    kept[left_out] = False
    own = [np.flatnonzero(kept[term]) for term in terms]
    if sum(o.size > 0 for o in own) < 2:
        raise InferenceError("vif compares terms with one another, and the model has fewer than two.")
    at = np.flatnonzero(kept)
    C = fitted.vcov_beta()[np.ix_(at, at)]
    sd = np.sqrt(np.diag(C))
    R = C / np.outer(sd, sd)
    whole = np.linalg.slogdet(R)[1]
    out = np.full(len(terms), np.nan)
    for t, (term, kept_of) in enumerate(zip(terms, own, strict=True)):
        if not kept_of.size:
            continue
        mine = np.isin(at, term[kept_of])
        parts = [np.linalg.slogdet(R[np.ix_(part, part)])[1] for part in (mine, ~mine)]
        out[t] = np.exp(sum(parts) - whole)
    return out
