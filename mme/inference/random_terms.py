"""Random terms made smaller: which columns a term can lose, and the fit of what is left.

A reduction replaces the columns C of a term by C A, so that D = A D0 A' is the covariance of the smaller
model in the larger one's columns; A without columns removes the term.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

import numpy as np

from ..engine.covariance.structure import DIAGONAL, Pattern
from ..engine.equations.design import Design, RandomTerm
from ..engine.equations.equations import Equations
from ..exceptions import InferenceError, OptionError
from ..fit.fit import fit_design
from ..fit.fitted import Fitted, TermLabels
from ..fit.residual import refuse_structure

__all__ = [
    "Reduction",
    "Submodel",
    "check_maximum",
    "exact_maximum",
    "find_reduction",
    "group_names",
    "n_parameters",
    "reduced",
    "reductions",
    "term_names",
    "whole_terms",
    "without_random_terms",
]


@dataclass(frozen=True, eq=False)
class Reduction:
    """A random term with fewer columns, or without any.

    Attributes
    ----------
    label : str
        ``"(1 | g)"`` for a term that is removed, ``"x in (x | g)"`` for columns of one.
    term : int
        Of the design.
    A : ndarray, shape (k, k0)
        Columns that are left, in those there are.
    """

    label: str
    term: int
    A: np.ndarray

    @property
    def removes(self) -> bool:
        """Whether nothing of the term is left."""
        return self.A.shape[1] == 0


@dataclass(frozen=True, eq=False)
class Submodel:
    """The maximum of the likelihood of a reduced model.

    Attributes
    ----------
    design : Design or None
        None where no random term is left.
    lam : tuple of ndarray
        Relative covariance factors of its terms.
    D : list of ndarray, shapes (k_t, k_t)
        Relative covariances in the columns of the larger model.
    beta : ndarray, shape (p,)
    sigma2, loglik : float
    n_params : int
    converged : bool
    singular : tuple of str
        Terms whose covariance is at the boundary.
    """

    design: Design | None
    lam: tuple[np.ndarray, ...]
    D: list[np.ndarray]
    beta: np.ndarray
    sigma2: float
    loglik: float
    n_params: int
    converged: bool
    singular: tuple[str, ...] = ()


def check_maximum(fitted: Fitted, what: str) -> Design:
    """Refuse what has no likelihood at its maximum to compare; the design otherwise.

    Raises
    ------
    InferenceError
    """
    refuse_structure(fitted.residual, what)
    if fitted.restriction:
        raise InferenceError(
            f"{what} needs the maximum of the likelihood, and this fit has {fitted.restriction}."
        )
    if fitted.design is None:
        raise InferenceError(f"{what} needs the design, and the data were removed.")
    if not np.isfinite(fitted.loglik):
        raise InferenceError(
            f"{what} needs a finite log-likelihood, and this model explains the response exactly."
        )
    return fitted.design


def exact_maximum(fitted: Fitted, what: str) -> Design:
    """The design of a fit whose log-likelihood is exact and at its maximum.

    Raises
    ------
    InferenceError
    """
    design = check_maximum(fitted, what)
    if not fitted.exact:
        raise InferenceError(
            f"{what} compares log-likelihoods, and that of an iterative fit has a Monte Carlo error. Fit "
            "with solver='direct', or exact_steps=3, where preflight() says that memory and time are "
            "affordable; mme.compare() shows the error for two fits of your own."
        )
    return design


def n_parameters(design: Design | None, rank: int) -> int:
    """Fixed effects, covariance parameters and the residual variance."""
    terms = () if design is None else design.terms
    return rank + sum(term.structure.n_parameters(term.k) for term in terms) + 1


# -- names --------------------------------------------------------------------------------------------------


def term_names(fitted: Fitted, design: Design) -> list[str]:
    """Every random term as a bar of a formula, ``"(Days | Subject)"``; other variance components by name."""
    groups = group_names(fitted, design)
    return [
        labels.group if _is_component(term, labels) else _bar(term, labels, group)
        for term, labels, group in zip(design.terms, fitted.labels.terms, groups, strict=True)
    ]


def _is_component(term: RandomTerm, labels: TermLabels) -> bool:
    return term.general or (labels.effects == (labels.group,) and _intercept(term) is None)


def group_names(fitted: Fitted, design: Design) -> list[str]:
    """Grouping factors by their own names: terms of one factor are numbered apart in the labels."""
    labels, out = fitted.labels.terms, []
    for t, (term, own) in enumerate(zip(design.terms, labels, strict=True)):
        shared = [
            labels[s].group
            for s in range(t)
            if term.codes is not None
            and design.terms[s].codes is not None
            and re.fullmatch(re.escape(labels[s].group) + r"\.\d+", own.group)
        ]
        out.append(shared[0] if shared else own.group)
    return out


def _bar(term: RandomTerm, labels: TermLabels, group: str) -> str:
    parts = [name for name in _parts(term, labels) if name != "1"]
    first = [] if _intercept(term) is not None else ["0"]
    left = " + ".join([*first, *parts]) or "1"
    if isinstance(term.structure, Pattern):
        return term.structure.written(left, group)
    return f"({left} {'||' if _independent(term) else '|'} {group})"


def _intercept(term: RandomTerm) -> int | None:
    """The column of ones."""
    if term.columns is None:
        return None if term.general else 0
    return next((j for j in range(term.k) if np.all(term.columns[:, j] == 1.0)), None)


def _independent(term: RandomTerm) -> bool:
    return term.k > 1 and term.structure is DIAGONAL


def _parts(term: RandomTerm, labels: TermLabels) -> dict[str, list[int]]:
    """Columns by what the formula calls them: those of a factor, or of a spline, go together."""
    ones = _intercept(term)
    parts: dict[str, list[int]] = {}
    for j, name in enumerate(labels.effects):
        parts.setdefault("1" if j == ones else ":".join(_factors(name)), []).append(j)
    return parts


def _factors(name: str) -> list[str]:
    """``"f[T.b]:x"`` -> ["f", "x"]: the factors of an interaction without their levels."""
    pieces, depth, start = [], 0, 0
    for i, letter in enumerate(name):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == ":" and depth == 0:
            pieces.append(name[start:i])
            start = i + 1
    return [re.sub(r"\[[^\[\]]*\]$", "", piece) or piece for piece in [*pieces, name[start:]]]


# -- reductions ---------------------------------------------------------------------------------------------


def whole_terms(fitted: Fitted, design: Design) -> list[Reduction]:
    """Every random term removed."""
    names = term_names(fitted, design)
    return [
        Reduction(name, t, np.zeros((term.k, 0)))
        for t, (name, term) in enumerate(zip(names, design.terms, strict=True))
    ]


def reductions(fitted: Fitted, design: Design) -> list[Reduction]:
    """What is tested of each random term, as lmerTest's ``ranova`` does.

    Of a term with several columns each part of its formula that is in no interaction with others, the
    intercept staying; ``(0 + f | g)`` of a factor f becomes ``(1 | g)``; a term of one column is removed, and
    so is one with a structure (cs, ar1, toep, rr).
    """
    out = []
    for whole, term, labels in zip(
        whole_terms(fitted, design), design.terms, fitted.labels.terms, strict=True
    ):
        parts = {} if term.general else _parts(term, labels)
        slopes = [name for name in parts if name != "1"]
        if term.k == 1 or not slopes or term.structure.curved:
            out.append(whole)
            continue
        if _independent(term):
            for name, columns in parts.items():
                out.append(
                    Reduction(f"{name} in {whole.label}", whole.term, np.delete(np.eye(term.k), columns, 1))
                )
            continue
        if len(parts) == 1:
            assert term.columns is not None
            indicators = bool(np.all(np.abs(term.columns.sum(axis=1) - 1.0) < 1e-12))
            A = np.ones((term.k, 1)) if indicators else np.zeros((term.k, 0))
            label = f"{slopes[0]} in {whole.label}" if indicators else whole.label
            out.append(Reduction(label, whole.term, A))
            continue
        for name in slopes:
            own = set(name.split(":"))
            if any(own < set(other.split(":")) for other in slopes):
                continue
            A = np.delete(np.eye(term.k), parts[name], 1)
            out.append(Reduction(f"{name} in {whole.label}", whole.term, A))
    return out


def find_reduction(fitted: Fitted, design: Design, name: str | None) -> Reduction:
    """The reduction that a user names.

    Parameters
    ----------
    name : str or None
        A row of `reductions` or of `whole_terms`; or a group, as ``varcorr`` has it, with one effect.  None:
        the only one there is.

    Raises
    ------
    OptionError
        None of that name, or several.
    """
    known = {r.label: r for r in [*reductions(fitted, design), *whole_terms(fitted, design)]}
    listed = ", ".join(map(repr, known))
    if name is None:
        if len(design.terms) == 1 and design.terms[0].k == 1:
            return next(iter(known.values()))
        raise OptionError(f"term says which random effects to test, one of {listed}.")
    if not isinstance(name, str):
        raise OptionError(f"term={name!r} must be the name of random effects, one of {listed}.")
    text = " ".join(name.split())
    if text in known:
        return known[text]
    labels, groups = fitted.labels.terms, group_names(fitted, design)
    # the labels' own names tell terms of one factor apart
    of_group = [t for t, label in enumerate(labels) if label.group == text]
    if len([g for g in groups if g == text]) > 1 and text in groups:
        of_group = [t for t, g in enumerate(groups) if g == text]
    here = [r for r in known.values() if r.term in of_group]
    if len(here) == 1:
        return here[0]
    if here:
        raise OptionError(f"term={name!r} could be any of {', '.join(repr(r.label) for r in here)}.")
    close = difflib.get_close_matches(text, [*known, *dict.fromkeys(groups)], n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise OptionError(f"there are no random effects {name!r}.{hint} Known: {listed}.")


# -- their fits ---------------------------------------------------------------------------------------------


def reduced(
    fitted: Fitted, design: Design, equations: Equations, reduction: Reduction, tol: float = 1e-8
) -> Submodel:
    """Fit a reduced model, by the likelihood that the larger one was fitted by.

    Parameters
    ----------
    fitted : Fitted
    design : Design
        Its own.
    equations : Equations
        Its cross-products.
    reduction : Reduction
    tol : float
        As in `mme.fit.fit_design`.
    """
    t, A = reduction.term, reduction.A
    terms = list(design.terms)
    left = _with_columns(terms[t], A)
    kept = [*terms[:t], *([] if left is None else [left]), *terms[t + 1 :]]
    D = [np.zeros((term.k, term.k)) for term in terms]
    if not kept:
        beta, sigma2, deviance = without_random_terms(equations, fitted.reml)
        return Submodel(None, (), D, beta, sigma2, -0.5 * deviance, n_parameters(None, equations.p), True)
    smaller = replace(design, terms=tuple(kept))
    fit = fit_design(smaller, reml=fitted.reml, solver="direct", tol=tol)
    lams = list(fit.lam)
    for s in range(len(terms)):
        if s != t:
            lam = lams.pop(0)
            D[s] = lam @ lam.T
        elif left is not None:
            half = A @ lams.pop(0)
            D[s] = half @ half.T
    return Submodel(
        smaller,
        fit.lam,
        D,
        fit.beta,
        fit.sigma2,
        fit.loglik,
        n_parameters(smaller, fit.p),
        fit.record.converged,
        fit.record.singular,
    )


def _with_columns(term: RandomTerm, A: np.ndarray) -> RandomTerm | None:
    """The term with the columns C A."""
    if A.shape[1] == 0:
        return None
    assert term.columns is not None
    names = []
    for a in A.T:
        used = np.flatnonzero(a)
        names.append(term.column_names[used[0]] if used.size == 1 else "(Intercept)")
    columns = np.ascontiguousarray(term.columns @ A)
    plain = columns.shape[1] == 1 and bool(np.all(columns == 1.0))
    return replace(term, columns=None if plain else columns, column_names=tuple(names))


def without_random_terms(equations: Equations, reml: bool) -> tuple[np.ndarray, float, float]:
    """Least squares from the cross-products: fixed effects, residual variance and deviance."""
    p, fixed = equations.p, equations.fixed
    b = equations.Axx[:p, p]
    r2 = float(equations.Axx[p, p] - b @ b)
    nu = equations.n - p if reml else equations.n
    deviance = nu * (1.0 + np.log(2.0 * np.pi * r2 / nu)) - equations.log_w
    if reml:
        deviance += fixed.logdet
    beta = np.full(fixed.kept.size, np.nan)
    beta[fixed.kept] = fixed.coefficients(b)
    return beta, r2 / nu, float(deviance)
