"""Likelihood ratio tests of the random terms, each against the model without it or with less of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine.equations.design import Design
from ..exceptions import InferenceError
from ..fit.fitted import Fitted
from .mixtures import LOWER, Mixture, chi2_tail, likelihood_ratio
from .null import null_mixture
from .patterns import has_patterns, patterned
from .random_terms import (
    Reduction,
    Submodel,
    exact_maximum,
    n_parameters,
    reduced,
    reductions,
    whole_terms,
)

__all__ = ["TermTest", "mixture_of", "random_effects_tests", "term_test"]


@dataclass(frozen=True, eq=False)
class TermTest:
    """A random term, or columns of one, tested by the likelihood ratio.

    Attributes
    ----------
    reduction : Reduction
    submodel : Submodel
    statistic : float
        Twice the difference of the log-likelihoods.
    df : int
        Parameters that are tested.
    p : float
        Of the chi-square with `df` degrees of freedom.
    mixture : Mixture or None
        The distribution at the boundary; None where there is a structure, for which it is not known.
    p_boundary : float
    error : float
        Monte Carlo standard error of `p_boundary`; 0 where the mixture is known.
    """

    reduction: Reduction
    submodel: Submodel
    statistic: float
    df: int
    p: float
    mixture: Mixture | None
    p_boundary: float
    error: float

    def notes(self, larger: float) -> list[str]:
        """What a reader should know; `larger` is the log-likelihood of the model itself."""
        out = []
        if not self.submodel.converged:
            out.append(f"The fit without {self.reduction.label} has not converged.")
        if likelihood_ratio(self.submodel.loglik, larger) > 0.0:
            out.append(f"Without {self.reduction.label}: {LOWER}")
        if self.submodel.singular:
            out.append(
                f"The fit without {self.reduction.label} is singular: p_boundary takes the variances that "
                "are left as positive."
            )
        if self.mixture is None:
            out.append(
                f"{self.reduction.label}: the distribution at the boundary is not known beside a covariance "
                "structure, so that there is no p_boundary; test_variance(method='bootstrap') draws from it."
            )
        return out


def random_effects_tests(fitted: Fitted, reduce_terms: bool = True) -> tuple[int, list[TermTest]]:
    """Parameters of the model, and a test for each of its random terms.

    Parameters
    ----------
    fitted : Fitted
    reduce_terms : bool
        Take columns from terms with several, one part of their formula at a time; else whole terms alone.

    Raises
    ------
    InferenceError
        After an iterative fit; where the data were removed; where the estimate is no maximum.
    """
    what = "ranova()"
    design = exact_maximum(fitted, what)
    rows = reductions(fitted, design) if reduce_terms else whole_terms(fitted, design)
    return n_parameters(design, fitted.objective().eq.p), [
        term_test(fitted, design, row, what) for row in rows
    ]


def term_test(fitted: Fitted, design: Design, reduction: Reduction, what: str) -> TermTest:
    """One test; the reduced model is fitted by the likelihood that the larger one was fitted by."""
    submodel = reduced(fitted, design, fitted.objective().eq, reduction)
    statistic = likelihood_ratio(fitted.loglik, submodel.loglik)
    df = n_parameters(design, fitted.objective().eq.p) - submodel.n_params
    mixture, p_boundary, error = None, np.nan, 0.0
    if not has_patterns(design):
        mixture = mixture_of(fitted, design, reduction, submodel, what)
        p_boundary, error = mixture.tail(statistic)
    p = float(chi2_tail(np.array(statistic), df))
    return TermTest(reduction, submodel, statistic, df, p, mixture, p_boundary, error)


def mixture_of(
    fitted: Fitted, design: Design, reduction: Reduction, submodel: Submodel, what: str
) -> Mixture:
    """The null distribution of a test.

    Raises
    ------
    InferenceError
        There is a covariance structure, for which it is not known.
    """
    if has_patterns(design):
        raise InferenceError(
            f"{what}: the distribution at the boundary is not known beside a covariance structure "
            f"({patterned(design)}). Use method='bootstrap'."
        )
    generic = [np.eye(term.k) for term in design.terms]
    A = reduction.A
    eq = fitted.objective().eq
    # ones in the equations' basis, whatever the units of the columns
    for t, term in enumerate(design.terms):
        inverse = np.linalg.inv(eq.term_basis(t)) if term.structure.mixes else np.eye(term.k)
        generic[t] = inverse @ inverse.T
    if reduction.removes:
        generic[reduction.term] = np.zeros_like(generic[reduction.term])
    else:
        spread = A * np.sqrt(np.diag(A.T @ np.linalg.pinv(generic[reduction.term]) @ A)) ** -1.0
        generic[reduction.term] = spread @ spread.T
    size = 0 if submodel.design is None else n_parameters(submodel.design, 0) - 1
    return null_mixture(fitted, submodel.D, submodel.sigma2, generic, size, what)
