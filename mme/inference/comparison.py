"""Likelihood ratios of models that were fitted apart: what may be compared, and by which distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..engine.covariance.boundary import SINGULAR
from ..engine.equations.design import Design
from ..exceptions import DataError, OptionError
from ..fit.fit import fit_design
from ..fit.fitted import Fitted
from .embedding import Embedding, fixed_within, random_within
from .mixtures import LOWER, Mixture, chi2_tail, is_known, likelihood_ratio
from .null import null_mixture, null_spaces
from .random_terms import check_maximum, n_parameters, term_names

__all__ = ["Compared", "Ratio", "compare_models", "description", "log_columns"]

_WHAT = "compare()"
_SAME = 1e-12  # relative difference of weights that is rounding


@dataclass(frozen=True, eq=False)
class Compared:
    """A model of a comparison.

    Attributes
    ----------
    place : int
        Among those that were given.
    fitted : Fitted
        Fitted again by ML if that was asked for.
    design : Design
    n_params : int
    error : float
        Monte Carlo standard error of the log-likelihood.
    """

    place: int
    fitted: Fitted
    design: Design
    n_params: int
    error: float

    @property
    def kept(self) -> np.ndarray:
        """Columns of X that were not dropped."""
        return self.fitted.objective().eq.fixed.kept


@dataclass(frozen=True, eq=False)
class Ratio:
    """A model against the one with fewer parameters before it.

    Attributes
    ----------
    statistic : float
        Twice the difference of the log-likelihoods.
    error : float
        Its Monte Carlo standard error.
    df : int
    p, p_boundary : float
        NaN where there is no test.
    p_error : float
        Monte Carlo standard error of `p_boundary`, of the draws of its mixture.
    mixture : Mixture or None
    notes : tuple of str
    """

    statistic: float
    error: float
    df: int
    p: float
    p_boundary: float
    p_error: float
    mixture: Mixture | None
    notes: tuple[str, ...]


def compare_models(
    models: Sequence[Fitted], names: Sequence[str], refit: str | None
) -> tuple[list[Compared], list[Ratio]]:
    """Models by their numbers of parameters, and the ratio of each but the first.

    Parameters
    ----------
    models : sequence of Fitted
    names : sequence of str
    refit : {"ml"} or None

    Raises
    ------
    OptionError
        Fewer than two models, an unknown `refit`; REML and ML together; REML of different fixed effects.
    DataError
        Different rows, responses or weights.
    InferenceError
        Fits without a likelihood at its maximum.
    """
    if len(models) < 2:
        raise OptionError("compare() needs at least two results.")
    if refit is not None and (not isinstance(refit, str) or refit.lower() != "ml"):
        raise OptionError(f"refit={refit!r} is not known: 'ml' fits REML results again by ML; None does not.")
    designs = [
        check_maximum(fitted, f"compare() of {name}") for fitted, name in zip(models, names, strict=True)
    ]
    _check_data(designs, names)
    if refit is not None:
        models = [_by_ml(fitted, design) for fitted, design in zip(models, designs, strict=True)]
    elif len({fitted.reml for fitted in models}) > 1:
        listed = ", ".join(f"{name} by {f.method}" for name, f in zip(names, models, strict=True))
        raise OptionError(
            f"log-likelihoods of REML and ML are of different data: {listed}. Use refit='ml', or fit alike."
        )
    compared = []
    for i, (fitted, design) in enumerate(zip(models, designs, strict=True)):
        error = 0.0 if fitted.monte_carlo is None else fitted.monte_carlo.loglik_error
        size = n_parameters(design, fitted.objective().eq.p)
        compared.append(Compared(i, fitted, design, size, error))
    if models[0].reml:
        _check_fixed(compared, names)
    compared.sort(key=lambda model: model.n_params)
    return compared, [_ratio(small, large, names) for small, large in pairwise(compared)]


def description(model: Compared) -> str:
    """A model in the words of a formula."""
    labels = model.fitted.labels
    parts = [*(labels.fixed or ("0",)), *term_names(model.fitted, model.design)]
    return f"{labels.response} ~ {' + '.join(parts)}"


# -- what may be compared -----------------------------------------------------------------------------------


def _check_data(designs: Sequence[Design], names: Sequence[str]) -> None:
    first = designs[0]
    for design, name in zip(designs[1:], names[1:], strict=True):
        pair = f"{names[0]} and {name}"
        if design.n != first.n:
            raise DataError(
                f"{pair} were fitted to different rows, {first.n} and {design.n}: their likelihoods cannot "
                "be compared. Where a column has missing values, leave its rows out of both."
            )
        if not np.array_equal(design.y, first.y):
            ordered = np.array_equal(np.sort(design.y), np.sort(first.y))
            what = "the same responses in different orders of rows" if ordered else "different responses"
            raise DataError(f"{pair} have {what}: their likelihoods cannot be compared.")
        if not np.allclose(_weights(first), _weights(design), rtol=_SAME, atol=0.0):
            raise DataError(f"{pair} have different weights: their likelihoods cannot be compared.")


def _weights(design: Design) -> np.ndarray:
    """With mean one: their unit is the residual variance's."""
    return np.ones(design.n) if design.weights is None else design.weights / np.mean(design.weights)


def _check_fixed(models: Sequence[Compared], names: Sequence[str]) -> None:
    """REML is the likelihood of what the fixed effects leave: the same columns must span them."""
    first = models[0]
    for model in models[1:]:
        if not (_means_within(first, model) and _means_within(model, first)):
            raise OptionError(
                f"{names[first.place]} and {names[model.place]} have different fixed effects, and REML "
                "log-likelihoods of different fixed effects cannot be compared. Use refit='ml'."
            )


def _means_within(smaller: Compared, larger: Compared) -> bool:
    return fixed_within(smaller.design, smaller.kept, larger.design, larger.kept)


def _by_ml(fitted: Fitted, design: Design) -> Fitted:
    if not fitted.reml:
        return fitted
    if fitted.exact:
        fit = fit_design(design, reml=False, solver="direct", equations=fitted.objective().eq)
    else:
        assert fitted.monte_carlo is not None
        seed = fitted.monte_carlo.seed
        equations = fitted.objective().eq
        fit = fit_design(design, reml=False, solver="iterative", seed=seed, equations=equations)
    return Fitted.of(fit, fitted.labels)


# -- the test -----------------------------------------------------------------------------------------------


def _ratio(smaller: Compared, larger: Compared, names: Sequence[str]) -> Ratio:
    pair = f"{names[smaller.place]} in {names[larger.place]}"
    df = larger.n_params - smaller.n_params
    notes: list[str] = []
    statistic = 2.0 * (larger.fitted.loglik - smaller.fitted.loglik)
    if smaller.fitted.reml:
        # log|X'V^-1 X| depends on the coding of X, which the ratio must not
        shift = log_columns(larger) - log_columns(smaller)
        if abs(shift) > 1e-8 * max(1.0, abs(larger.fitted.loglik)):
            statistic += shift
            notes.append(
                f"{pair}: the fixed effects are coded differently; Chisq is corrected for log|X'X|, on which "
                "REML log-likelihoods, AIC and BIC depend."
            )
    error = 2.0 * float(np.hypot(smaller.error, larger.error))
    if error > 0.0:
        notes.append(f"{pair}: Chisq has a Monte Carlo standard error of {error:.3g}; see loglik_probes=.")
    notes += [
        f"{names[model.place]} has not converged."
        for model in (smaller, larger)
        if not model.fitted.converged
    ]
    nothing = Ratio(statistic, error, df, np.nan, np.nan, 0.0, None, ())
    if not _means_within(smaller, larger):
        notes.append(
            f"{pair}: not nested (fixed effects), so that there is no test; AIC and BIC compare them."
        )
        return replace(nothing, notes=tuple(notes))
    nesting = random_within(
        smaller.design, smaller.fitted.objective().eq, larger.design, larger.fitted.objective().eq
    )
    if not nesting.nested:
        how = "not nested" if nesting.nested is False else "cannot be told to be nested"
        notes.append(f"{pair}: {how} ({nesting.why}), so that there is no test; AIC and BIC compare them.")
        return replace(nothing, notes=tuple(notes))
    if df == 0:
        notes.append(f"{pair}: the same model.")
        return replace(nothing, notes=tuple(notes))
    if likelihood_ratio(-0.5 * statistic, 0.0) > 3.0 * error:
        notes.append(f"{pair}: {LOWER}")
    statistic = likelihood_ratio(0.5 * statistic, 0.0)
    p = float(chi2_tail(np.array(statistic), df))
    if nesting.embedding is None:
        notes.append(
            f"{pair}: the distribution at the boundary is not known beside a covariance structure, so that "
            "there is no p_boundary."
        )
        return Ratio(statistic, error, df, p, np.nan, 0.0, None, tuple(notes))
    mixture = _mixture(smaller, larger, nesting.embedding, pair, notes)
    if mixture is None:
        return Ratio(statistic, error, df, p, np.nan, 0.0, None, tuple(notes))
    p_boundary, p_error = mixture.tail(statistic)
    return Ratio(statistic, error, df, p, p_boundary, p_error, mixture, tuple(notes))


def log_columns(model: Compared) -> float:
    """log|X'WX| with weights of mean one: what REML log-likelihoods know of the coding of X."""
    eq, weights = model.fitted.objective().eq, model.design.weights
    return eq.fixed.logdet - (0.0 if weights is None else eq.p * float(np.log(np.mean(weights))))


def _is_singular(model: Compared) -> bool:
    eq = model.fitted.objective().eq
    for t, (place, lam) in enumerate(zip(eq.layout.places, model.fitted.lam, strict=True)):
        s = place.structure.eigen(eq.term_root(t) @ eq.term_basis(t) @ lam)[1]
        if np.any(s * s < SINGULAR):
            return True
    return False


def _mixture(
    smaller: Compared, larger: Compared, embedding: Embedding, pair: str, notes: list[str]
) -> Mixture | None:
    """The null distribution; None, with a note, where it would need what the fit has not."""
    eq0, eq1 = smaller.fitted.objective().eq, larger.fitted.objective().eq
    generic, at = [], []
    for t, (place, lam) in enumerate(zip(eq0.layout.places, smaller.fitted.lam, strict=True)):
        inner = eq0.term_basis(t) @ lam
        D = inner @ inner.T
        at += [D[a, b] for a, b in place.entries]
        generic += [float(a == b) for a, b in place.entries]
    if _is_singular(smaller):
        notes.append(
            f"{pair}: the smaller model is singular; p_boundary takes its own variances as positive."
        )
    here, factor = embedding.of(np.array(at))
    inside, _ = embedding.of(np.array(generic))
    back = [np.linalg.inv(eq1.term_basis(t)) for t in range(len(here))]
    D1, inside = (
        [B @ matrix @ B.T for B, matrix in zip(back, matrices, strict=True)] for matrices in (here, inside)
    )
    fixed = eq1.p - eq0.p
    if not larger.fitted.exact and not is_known(null_spaces(eq1, inside)):
        notes.append(
            f"{pair}: several variances are tested together, whose distribution at the boundary needs a "
            "factorization; p_boundary is missing after an iterative fit."
        )
        return None
    sigma2 = smaller.fitted.sigma2 * factor
    return null_mixture(larger.fitted, D1, sigma2, inside, eq0.layout.n_theta, _WHAT, fixed)
