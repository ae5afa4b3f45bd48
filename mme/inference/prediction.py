"""Predictions x'b + z'u for rows of any levels, with their variances and degrees of freedom: numbers alone.

The variance v of the error of prediction given the variances is Henderson's (1975). Estimated variances add
sum_k (dm / d e_k)^2, m the prediction and e_k steps of one standard error along the directions in which they
vary (Kackar & Harville 1984, JASA 79, 853-862, section 4), and have Satterthwaite's degrees of freedom
2 v^2 / sum_k (dv / d e_k)^2. Both derivatives are differences between two estimates that are a little apart.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.equations.equations import Equations
from ..engine.equations.points import points_of
from ..engine.equations.prediction import prediction_variances
from ..engine.equations.relation import Relation
from ..engine.runtime.parallel import single_threaded_blas
from ..exceptions import InferenceError
from ..fit.fitted import Fitted
from ..fit.residual import refuse_structure
from .coefficients import inference_basis
from .moves import moved

__all__ = ["PredictedRows", "linear_predictor", "prediction_error", "prior_variances", "related_variances"]

_STEP = 1e-3  # of finite differences, in standard errors
_NONE = 1e-14  # relative variance of a direction in which nothing varies
_CHUNK = 100_000  # rows at once
_NUMBERS = 4_000_000  # of rows that are made dense
_PROBES = 2  # none are needed
_WHAT = "The standard error of a prediction"


@dataclass(frozen=True, eq=False)
class PredictedRows:
    """Rows in the columns of the design.

    Attributes
    ----------
    x : ndarray, shape (n, p)
        All columns of X, the dropped ones too.
    terms : list
        One per term of the design: codes (n,), -1 for levels that the fit did not have, and columns (n, k) or
        None for ones; of a general term the rows of Z, sparse; None where the term is left out.
    """

    x: np.ndarray
    terms: list[Any]

    def part(self, a: int, b: int) -> PredictedRows:
        """Rows a to b."""
        return PredictedRows(self.x[a:b], [_part(term, a, b) for term in self.terms])


def prediction_error(
    fitted: Fitted,
    rows: PredictedRows,
    ddf: str | None,
    estimated: bool | None = None,
    cache: MutableMapping[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray, str]:
    """Variances of the error of predictions, degrees of freedom and whose these are.

    Parameters
    ----------
    fitted : Fitted
    rows : PredictedRows, n rows
        Without missing values.
    ddf : {"satterthwaite", "normal", "residual"} or None
        None: Satterthwaite's, after an iterative fit the normal distribution.
    estimated : bool, optional
        Whether the variances count as estimated; by default, unless the fit was iterative or cannot tell.
    cache : mapping, optional
        As in `mme.inference.degrees.small_sample`.

    Returns
    -------
    variance, df : ndarrays, shape (n,)
    ddf : str

    Raises
    ------
    InferenceError
        Kenward and Roger's adjustment, which is of the fixed effects.
    """
    if ddf is None and (not fitted.exact or fitted.residual is not None):
        ddf = "normal"
    if estimated or ddf == "satterthwaite":
        refuse_structure(
            fitted.residual, "the share of the estimated variances in a prediction with random effects"
        )
    basis = inference_basis(fitted, ddf, None, cache)
    if basis.ddf == "kenward-roger":
        raise InferenceError(
            "ddf='kenward-roger' adjusts fixed effects, not predictions with random effects. Use "
            "ddf='satterthwaite', or random_effects=False."
        )
    if estimated is None:
        estimated = fitted.exact and not fitted.restriction and fitted.residual is None
    n = len(rows.x)
    df = np.full(n, np.inf)
    if basis.ddf == "residual":
        df[:] = fitted.n - np.count_nonzero(~np.isnan(fitted.beta))
    satterthwaite = basis.ddf == "satterthwaite"
    with single_threaded_blas():
        eq, variance, _ = _at(fitted, rows)
        if not (satterthwaite or estimated):
            return variance, df, basis.ddf
        sample = basis if satterthwaite else inference_basis(fitted, "satterthwaite", None, cache)
        assert sample.pieces is not None
        parameters = sample.pieces.parameters
        if parameters.blind.size:
            return np.full(n, np.nan), np.full(n, np.nan), basis.ddf
        w, E = np.linalg.eigh(parameters.covariance)
        squares, added = np.zeros(n), np.zeros(n)
        for size, direction in zip(w, E.T, strict=True):
            if size <= _NONE * w[-1]:
                continue
            step = _STEP * np.sqrt(size) * direction
            _, up, above = _at(moved(fitted, eq, step), rows)
            _, down, below = _at(moved(fitted, eq, -step), rows)
            squares += ((up - down) / (2.0 * _STEP)) ** 2
            added += ((above - below) / (2.0 * _STEP)) ** 2
    if satterthwaite:
        with np.errstate(divide="ignore", invalid="ignore"):
            df = np.where(squares > 0.0, 2.0 * variance**2 / squares, np.inf)
    return variance + added if estimated else variance, df, basis.ddf


def linear_predictor(rows: PredictedRows, beta: np.ndarray, modes: Sequence[np.ndarray]) -> np.ndarray:
    """x'b + z'u, shape (n,); a level that the fit did not have has no effect.

    Parameters
    ----------
    rows : PredictedRows
    beta : ndarray, shape (p,)
        NaN counts as zero.
    modes : sequence of ndarray, shapes (q_t, k_t) or (q_t k_t,)
    """
    out = rows.x @ np.where(np.isnan(beta), 0.0, beta)
    for t, term in enumerate(rows.terms):
        if term is None:
            continue
        if not isinstance(term, tuple):
            out = out + term @ np.ravel(modes[t])
            continue
        codes, columns = term
        u = np.reshape(modes[t], (-1, 1 if columns is None else columns.shape[1]))[np.maximum(codes, 0)]
        own = u[:, 0] if columns is None else np.sum(u * columns, axis=1)
        out = out + np.where(codes >= 0, own, 0.0)
    return out


def prior_variances(fitted: Fitted, rows: PredictedRows, unseen: bool) -> np.ndarray:
    """z'D z over sigma2, shape (n,): of the terms at levels the fit did not have, or of all.

    Of related levels z'(A (x) D) z; NaN for those that are not in the relationship,
    InferenceError if `unseen`.

    Parameters
    ----------
    fitted : Fitted
    rows : PredictedRows
    unseen : bool
    """
    out = np.zeros(len(rows.x))
    own = [None] * len(rows.terms) if fitted.design is None else [t.relation for t in fitted.design.terms]
    for t, (term, lam) in enumerate(zip(rows.terms, fitted.lam, strict=True)):
        if term is None:
            continue
        relation = own[t]
        if relation is not None:
            if not isinstance(term, tuple):
                out += 0.0 if unseen else related_variances(relation, term, lam)
                continue
            if unseen and np.any(term[0] < 0):
                raise InferenceError(
                    f"{int(np.sum(term[0] < 0))} rows have levels of {fitted.labels.terms[t].group} that its "
                    "relationship lacks, so that their variance is not known. Add them to the relationship "
                    "(levels without records may be in it), or leave the rows out."
                )
            if unseen:
                continue
            columns = np.ones((term[0].size, 1)) if term[1] is None else term[1]
            own_share = np.where(term[0] < 0, np.nan, relation.diagonal[np.maximum(term[0], 0)])
            out += own_share * np.sum((columns @ lam) ** 2, axis=1)
            continue
        if isinstance(term, tuple):
            codes, columns = term
            root = np.broadcast_to(lam[0], (codes.size, lam.shape[1])) if columns is None else columns @ lam
            variance = np.sum(root * root, axis=1)
            out += np.where(codes < 0, variance, 0.0) if unseen else variance
        elif not unseen:
            out += float(lam[0, 0]) ** 2 * np.asarray(term.multiply(term).sum(axis=1)).ravel()
    return out


def related_variances(relation: Relation, Z: Any, lam: np.ndarray) -> np.ndarray:
    """Diagonal of Z (A (x) D) Z', rows of a general term, shape (n,)."""
    out = np.empty(Z.shape[0])
    step = max(1, _NUMBERS // Z.shape[1])
    for a in range(0, out.size, step):
        z = Z[a : a + step].toarray().T.reshape(relation.q, lam.shape[0], -1)
        half = np.einsum("qam,ab->qbm", relation.unrelated(z), lam)
        out[a : a + step] = np.sum(half * half, axis=(0, 1))
    return out


def _at(fitted: Fitted, rows: PredictedRows) -> tuple[Equations, np.ndarray, np.ndarray]:
    """The equations, variances of the error of prediction and the predictions, at an estimate's variances."""
    point = fitted.point(_WHAT, True, white=True) if fitted.exact else fitted.iterative_point(_WHAT, _PROBES)
    eq, inverse, n = point.equations, point.prior_inverse(), len(rows.x)
    beta = point.beta
    modes = []
    for t, (z, lam) in enumerate(zip(point.products(None), fitted.lam, strict=True)):
        relation = eq.layout.blocks[eq.layout.places[t].block].relation
        v = z @ eq.term_basis(t) @ lam @ lam.T
        modes.append(v if relation is None else relation.related(v))
    variance, mean = prior_variances(fitted, rows, unseen=True), np.empty(n)
    for a in range(0, n, _CHUNK):
        here = slice(a, min(a + _CHUNK, n))
        mine = rows.part(here.start, here.stop)
        points = points_of(eq, mine.x[:, eq.fixed.kept], mine.terms)
        variance[here] += prediction_variances(eq, inverse, points)
        mean[here] = linear_predictor(mine, beta, modes)
    return eq, fitted.sigma2 * variance, mean


def _part(term: Any, a: int, b: int) -> Any:
    if term is None or not isinstance(term, tuple):
        return term if term is None else term[a:b]
    codes, columns = term
    return codes[a:b], None if columns is None else columns[a:b]
