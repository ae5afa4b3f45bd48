"""Power of a test of fixed effects by simulation, over numbers of groups and of rows in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..engine.covariance.factors import factor_psd
from ..engine.equations.design import Design, RandomTerm
from ..engine.runtime.scipys import special
from ..exceptions import InferenceError, OptionError
from ..fit.fit import equations_of
from ..fit.fitted import Fitted, Labels
from ..fit.refit import Refit, Refits
from .bootstrap import Job, run_jobs
from .coefficients import inference_basis
from .parameters import check_maximum, choose, estimates
from .simulation import ParametricDraws, rows_of_fit, take_rows
from .tails import f_tail

__all__ = ["Cell", "FixedTest", "Truth", "design_of_size", "grouping_of", "power_of", "truth_of"]

_LEAST = -1e-8  # eigenvalue of correlations from which they belong together


@dataclass(frozen=True, eq=False)
class Truth:
    """Parameters that responses are drawn with."""

    beta: np.ndarray
    covariances: tuple[np.ndarray, ...]
    sigma2: float

    def draws(self, design: Design) -> ParametricDraws:
        """Responses of a design."""
        lam = tuple(factor_psd(T / self.sigma2) for T in self.covariances)
        return ParametricDraws(design, self.beta, lam, self.sigma2)


def truth_of(fitted: Fitted, values: Mapping[str, float] | None) -> Truth:
    """The estimates of a fit with some parameters changed.

    Parameters
    ----------
    fitted : Fitted
    values : mapping of str to float, or None
        By the names of the parameters: ``"Days"``, ``"sd_Days|Subject"``, ``"sigma"``.

    Raises
    ------
    OptionError
        An unknown name, a value that the parameter cannot have.
    """
    here = estimates(fitted)
    beta, sigma2 = np.array(here.fixed), here.sigma2
    sds = [np.sqrt(np.maximum(np.diag(T), 0.0)) for T in here.covariances]
    cors = []
    for T, sd in zip(here.covariances, sds, strict=True):
        unit = np.where(sd > 0.0, sd, 1.0)
        C = T / np.outer(unit, unit)
        np.fill_diagonal(C, 1.0)
        cors.append(C)
    for name, value in (values or {}).items():
        (p,) = choose(fitted.labels, [name])
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = np.nan
        allowed = -1.0 <= number <= 1.0 if p.kind == "cor" else number >= 0.0 or p.kind == "fixed"
        if not np.isfinite(number) or not allowed or (p.kind == "sigma" and number == 0.0):
            raise OptionError(f"values: {name!r} cannot be {value!r}.")
        if p.kind == "fixed":
            beta[p.a] = number
        elif p.kind == "sigma":
            sigma2 = number**2
        elif p.kind == "sd":
            sds[p.term][p.a] = number
        else:
            cors[p.term][p.a, p.b] = cors[p.term][p.b, p.a] = number
    for C, term in zip(cors, fitted.labels.terms, strict=True):
        if np.linalg.eigvalsh(C)[0] < _LEAST:
            raise OptionError(f"values: the correlations of {term.group} contradict one another.")
    covariances = tuple(np.outer(sd, sd) * C for sd, C in zip(sds, cors, strict=True))
    return Truth(beta, covariances, sigma2)


def grouping_of(fitted: Fitted, design: Design, group: str | None) -> np.ndarray:
    """Codes of the grouping factor whose number of levels is varied; by default that in which all others lie.

    Raises
    ------
    OptionError
        No such factor; crossed factors, of which none is named.
    """
    factors = {
        label.group: term.codes
        for label, term in zip(fitted.labels.terms, design.terms, strict=True)
        if term.codes is not None
    }
    known = ", ".join(factors)
    if group is not None:
        if group not in factors:
            raise OptionError(f"group={group!r} is no grouping factor of the model. Known: {known}.")
        return np.asarray(factors[group])
    for codes in factors.values():
        if all(_within(term, codes) for term in design.terms):
            return np.asarray(codes)
    raise OptionError(f"the grouping factors are crossed; name the one to vary as group=. Known: {known}.")


def _within(term: RandomTerm, codes: np.ndarray) -> bool:
    """Whether every level of a term has rows of one group alone."""
    if term.codes is None:
        Z = term.Z.tocoo()  # type: ignore[union-attr]  # a term has one or the other
        levels, groups = Z.coords[1], np.asarray(codes)[Z.coords[0]]
    else:
        levels, groups = np.asarray(term.codes), np.asarray(codes)
    low = np.full(term.n_levels, np.iinfo(np.int64).max)
    high = np.full(term.n_levels, -1)
    np.minimum.at(low, levels, groups)
    np.maximum.at(high, levels, groups)
    return bool(np.all(low >= high))


def design_of_size(design: Design, codes: np.ndarray, groups: int | None, rows: int | None) -> Design:
    """A design with another number of groups, and of rows in each.

    Parameters
    ----------
    design : Design
    codes : ndarray of int, shape (n,)
        Group of every row.
    groups, rows : int or None
        New groups repeat those there are, in turn, and rows those of their group; None: as it is.  Levels of
        factors within the groups are new in every group, those of crossed factors stay.
    """
    order = np.argsort(codes, kind="stable")
    own = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    number = len(own) if groups is None else groups
    chosen = [own[g % len(own)] for g in range(number)]
    if rows is not None:
        chosen = [np.resize(one, rows) for one in chosen]
    copy = np.repeat(np.arange(number), [one.size for one in chosen])
    return take_rows(design, np.concatenate(chosen), copy, [_within(t, codes) for t in design.terms])


@dataclass(frozen=True, eq=False)
class FixedTest:
    """p of a hypothesis L b = value in a refit."""

    labels: Labels
    L: np.ndarray
    value: np.ndarray
    ddf: str

    def __call__(self, refits: Refits, fit: Refit) -> float:
        """p; NaN where there is no test."""
        fitted = refits.fitted(self.labels, fit)
        basis = inference_basis(fitted, self.ddf)
        if len(self.L) == 1:
            return float(basis.rows(self.L, self.value, 0.05).p[0])
        test = basis.f_test(self.L, self.value)
        return float(f_tail(test.F, test.df1, test.df2))


@dataclass(frozen=True)
class Cell:
    """Power of one design: its size, the share of small p, its error and interval, and what was left out."""

    groups: int
    rows: int
    power: float
    error: float
    lower: float
    upper: float
    fits: int
    failures: int
    singular: int


def power_of(
    fitted: Fitted,
    truth: Truth,
    test: FixedTest,
    codes: np.ndarray,
    groups: int | None,
    rows: int | None,
    n: int,
    seed: int,
    alpha: float,
    workers: int,
    backend: str,
    progress: bool | None,
) -> Cell:
    """Share of simulated responses of a design whose p is at most alpha.

    The interval is Clopper and Pearson's, of level 0.95.
    """
    check_maximum(fitted, "power()")
    design = design_of_size(rows_of_fit(fitted, "power()"), codes, groups, rows)
    equations = equations_of(design)
    if not np.array_equal(equations.fixed.kept, ~np.isnan(truth.beta)):
        raise InferenceError(
            f"power(): {design.n} rows of {groups or 'the same'} groups do not tell all fixed effects apart."
        )
    job = Job(design, equations, fitted.reml, truth.draws(design), seed, after=test)
    small, known, singular = 0, 0, 0
    reasons: Counter[str] = Counter()
    for (made,) in run_jobs([job], range(n), workers, backend, progress):
        if made.fit is None or np.isnan(made.value):
            reasons[made.failure or "no test"] += 1
            continue
        known += 1
        singular += made.fit.singular
        small += made.value <= alpha
    if known == 0:
        why = ", ".join(f"{name}: {count}" for name, count in reasons.items())
        raise InferenceError(f"power(): none of {n} simulated responses could be tested ({why}).")
    share = small / known
    return Cell(
        int(codes.max()) + 1 if groups is None else groups,
        design.n,
        share,
        float(np.sqrt(share * (1.0 - share) / known)),
        float(special.betaincinv(small, known - small + 1, 0.025)) if small else 0.0,
        float(special.betaincinv(small + 1, known - small, 0.975)) if small < known else 1.0,
        known,
        n - known,
        singular,
    )
