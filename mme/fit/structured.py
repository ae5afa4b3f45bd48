"""Fits whose residuals have a covariance structure: R = R(phi) in place of W^-1.

Given phi the rows are whitened (a diagonal R is weights) and the model is an ordinary one, whose covariances
D are searched for by `mme.fit.fit_design`, singular ones included. Around it the free parameters xi of phi
are searched for: the minimum over D has the derivative of the deviance at that minimum, which is analytic
(`mme.engine.direct. parts`; of a diagonal R with large crossed factors from the leverages of the rows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ..engine.covariance.residual import ResidualStructure
from ..engine.direct.objective import Objective
from ..engine.direct.parts import MOST_ROWS, PartsLikelihood, by_pattern, subjects
from ..engine.direct.point import KeptColumns, Point
from ..engine.equations.design import Design, RandomTerm
from ..engine.equations.points import points_of
from ..engine.equations.prediction import prediction_variances
from ..engine.runtime.parallel import single_threaded_blas
from ..engine.runtime.scipys import scipy_module
from ..exceptions import ConvergenceError, DesignError, PerfectFitError
from .fit import equations_of, fit_design
from .record import Clock, Fit, FitRecord, assemble_fit
from .residual import ResidualFit

__all__ = ["diagonal_slope", "fit_structured", "whitened_design"]

_SETTLED = 1e-9  # predicted decrease of the deviance at which a search ends
_ROUNDING = 1e-11  # of a deviance, relative
_FARTHEST, _SHORTEST = 3.0, 1e-7  # step in xi; share of a step
_OTHER = 1e-4  # difference of deviances of two minima
_STEPS = 300
_LEAST = 1e-8  # eigenvalue of the metric beside the largest
_LEVEL = 1e-2  # slope of the deviance at a limit from which it still falls
_FLAT = 1e-7  # eigenvalue of the Hessian with a unit diagonal
_CHECKED = 5e9  # multiplications up to which the Hessian is looked at


def whitened_design(design: Design, structure: ResidualStructure, phi: np.ndarray) -> tuple[Design, float]:
    """The design of rows whose residuals are independent with one variance given sigma2, and log|R|.

    Parameters
    ----------
    design : Design
    structure : ResidualStructure
    phi : ndarray, shape (K,)

    Returns
    -------
    Design
        The rows of a diagonal R have weights, which the deviance counts itself: log|R| is then 0.
    float

    Raises
    ------
    DesignError
        A term of several effects whose levels cross the subjects.
    """
    matrix = structure.at(phi)
    if structure.diagonal:
        return _changed(design, weights=1.0 / matrix.variance), 0.0
    blocks = subjects(structure)
    logdet = 0.0
    roots = []
    for rows in blocks:
        L = np.linalg.cholesky(matrix.block(rows))
        logdet += 2.0 * float(np.sum(np.log(np.einsum("brr->br", L))))
        roots.append((rows, L))

    def white(values: np.ndarray) -> np.ndarray:
        out = np.empty((design.n, values.shape[1]))
        for rows, L in roots:
            out[rows] = np.linalg.solve(L, values[rows])
        return out

    y = design.y if design.offset is None else design.y - design.offset
    terms = tuple(_white_term(term, structure, blocks, white, roots, design.n) for term in design.terms)
    both = white(np.column_stack([y, design.X]))
    out = _changed(
        design, y=np.ascontiguousarray(both[:, 0]), X=np.ascontiguousarray(both[:, 1:]), terms=terms,
        weights=None, offset=None,
    )  # fmt: skip
    return out, logdet


def _changed(design: Design, **parts: Any) -> Design:
    """A design with other arrays, made of valid ones: nothing is checked again."""
    out = object.__new__(Design)
    for name, value in {**vars(design), **parts}.items():
        object.__setattr__(out, name, value)
    return out


def _white_term(
    term: RandomTerm,
    structure: ResidualStructure,
    blocks: list[np.ndarray],
    white: Callable[[np.ndarray], np.ndarray],
    roots: list[tuple[np.ndarray, np.ndarray]],
    n: int,
) -> RandomTerm:
    if term.Z is None:
        assert term.codes is not None
        codes = np.asarray(term.codes)
        columns = np.ones((n, 1)) if term.columns is None else np.asarray(term.columns, dtype=np.float64)
        if all(np.all(codes[rows] == codes[rows[:, :1]]) for rows in blocks):
            return replace(term, columns=np.ascontiguousarray(white(columns)))
        if term.k > 1:
            raise DesignError(
                f"random term '{term.name}' has {term.k} effects per level, and its levels cross the "
                f"{structure.group!r} within which residual={structure.text!r} correlates the rows. Give "
                "each "
                "effect a term of its own (|| with one effect a bar), or group residuals within its levels."
            )
    sp = scipy_module("sparse")
    Z = term.Z
    if Z is None:
        Z = sp.csr_array((columns[:, 0], codes, np.arange(n + 1)), shape=(n, term.n_levels))
    inverse = [np.linalg.inv(L) for _, L in roots]
    i = [np.broadcast_to(rows[:, :, None], L.shape).ravel() for rows, L in roots]
    j = [np.broadcast_to(rows[:, None, :], L.shape).ravel() for rows, L in roots]
    data = np.concatenate([v.ravel() for v in inverse])
    W = sp.csr_array((data, (np.concatenate(i), np.concatenate(j))), shape=(n, n))
    W.eliminate_zeros()
    return replace(term, codes=None, columns=None, Z=sp.csr_array(W @ sp.csr_array(Z)))


@dataclass(eq=False)
class _Search:
    """The deviance, minimised over D, as a function of xi."""

    design: Design
    structure: ResidualStructure
    parts: PartsLikelihood
    reml: bool
    options: dict[str, Any]
    dense: bool
    theta: tuple[np.ndarray, ...] | None = None
    evaluations: int = 0
    best: tuple[float, np.ndarray, Fit] | None = None
    known: dict[bytes, tuple[float, np.ndarray]] = field(default_factory=dict)

    def __call__(self, xi: np.ndarray) -> tuple[float, np.ndarray]:
        """Deviance and its gradient; infinite where there is none."""
        key = xi.tobytes()
        if key not in self.known:
            self.known[key] = self._evaluate(xi)
        return self.known[key]

    def _evaluate(self, xi: np.ndarray) -> tuple[float, np.ndarray]:
        nothing = np.inf, np.zeros_like(xi)
        if np.any(np.abs(xi) > self.structure.bounds):
            return nothing
        phi = self.structure.natural(xi)
        try:
            if self.dense and not self.design.terms:
                # nothing is left to be searched for
                self.evaluations += 1
                value = self.parts.evaluate((), phi)
                return value.deviance, self.structure.jacobian(xi).T @ value.slope
            fit = self.inner(phi)
            slope = self._slope(fit, phi)
        except (np.linalg.LinAlgError, PerfectFitError, ConvergenceError):
            return nothing
        if not np.isfinite(fit.deviance):
            return nothing
        if self.best is None or fit.deviance < self.best[0]:
            self.best, self.theta = (fit.deviance, xi.copy(), fit), fit.theta
        return fit.deviance, self.structure.jacobian(xi).T @ slope

    def inner(self, phi: np.ndarray) -> Fit:
        """The fit of everything else at phi."""
        self.evaluations += 1
        white, logdet = whitened_design(self.design, self.structure, phi)
        if white.terms:
            # every start is searched from where variances could be found before; the first from moments
            start = None if self.theta is None else _away_from_zero(self.theta)
            fit = fit_design(white, reml=self.reml, theta0=start, **self.options)
        else:
            fit = _without_terms(white, self.reml)
        deviance = fit.deviance + logdet
        return replace(fit, deviance=deviance, loglik=-0.5 * deviance)

    def _slope(self, fit: Fit, phi: np.ndarray) -> np.ndarray:
        if self.dense:
            return self.parts.evaluate(fit.lam, phi).slope
        return diagonal_slope(fit, self.structure, phi)

    @cached_property
    def patterns(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Subjects of different patterns, and how many there are of each."""
        out = []
        for rows in subjects(self.structure):
            ordered, pattern = by_pattern(rows, self.structure.features(), ())
            starts = np.flatnonzero(np.r_[True, np.diff(pattern) != 0])
            out.append((ordered[starts], np.diff(np.r_[starts, pattern.size]).astype(np.float64)))
        return out

    def metric(self, xi: np.ndarray) -> np.ndarray:
        """A rough Hessian in xi: the expected information given D where it is cheap, else ones."""
        J = self.structure.jacobian(xi)
        phi = self.structure.natural(xi)
        if self.structure.diagonal:
            # of independent rows without other parameters
            matrix = self.structure.at(phi)
            slopes = matrix.variance_slopes() / matrix.variance
            mean = slopes.sum(axis=1) / self.design.n
            E = slopes @ slopes.T - self.design.n * np.outer(mean, mean)
        else:
            E = np.zeros((phi.size, phi.size))
            s = np.zeros(phi.size)
            matrix = self.structure.at(phi)
            for rows, counts in self.patterns:
                inverse = np.linalg.inv(matrix.block(rows))
                A = np.stack([inverse @ R for R in matrix.slopes(rows)])
                E += np.einsum("b,ibrs,jbsr->ij", counts, A, A, optimize=True)
                s += np.einsum("b,ibrr->i", counts, A)
            E -= np.outer(s, s) / self.design.n
        H = J.T @ E @ J
        return H + 1e-6 * np.eye(len(H)) * max(float(np.trace(H)) / len(H), 1.0)


def _away_from_zero(theta: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...] | None:
    """A start from which a variance that was zero can be found again."""
    return theta if all(np.any(t != 0.0) for t in theta) else None


def diagonal_slope(fit: Fit, structure: ResidualStructure, phi: np.ndarray) -> np.ndarray:
    """d deviance / d phi of a diagonal R, from the leverages of the rows of a fit with weights R^-1.

    tr(P R_j) has the diagonal w (1 - leverage) of P, V^-1 that and w^2 a'(X'V^-1 X)^-1 a of the rows a of
    R V^-1 X, and e = w (y - X b - Z u).
    """
    objective, design = fit.objective, fit.design
    assert isinstance(objective, Objective) and design.weights is not None
    eq, w = objective.eq, design.weights
    with single_threaded_blas():
        point = Point(objective, design, KeptColumns(design, eq.fixed.kept), list(fit.lam), True)
        inverse = point.prior_inverse()
        terms: list[Any] = [
            (term.codes, term.columns) if term.Z is None else scipy_module("sparse").csr_array(term.Z)
            for term in design.terms
        ]
        points = points_of(eq, design.X[:, eq.fixed.kept], terms)
        inside = w * (1.0 - w * prediction_variances(eq, inverse, points))
        if not fit.reml:
            a = points.x - points.rest @ inverse.rest_x
            if eq.layout.has_lead:
                a = a - np.einsum("na,nap->np", points.z1, inverse.lead_x[points.lead])
            inside = inside + w**2 * np.sum(np.linalg.solve(inverse.root.T, a.T) ** 2, axis=0)
    e = design.y - design.X @ np.where(fit.kept, fit.beta, 0.0)
    e = e if design.offset is None else e - design.offset
    for term, u in zip(design.terms, fit.u, strict=True):
        e = e - term.times(u)
    return structure.at(phi).variance_slopes() @ (inside - (w * e) ** 2 / fit.sigma2)


def _without_terms(design: Design, reml: bool) -> Fit:
    """Generalized least squares: a fit without random effects."""
    with single_threaded_blas():
        clock = Clock()
        objective = Objective(design, reml, equations=equations_of(design))
        solution = objective.solution(np.zeros(0))
        clock.lap("solution")
    record = FitRecord(True, "", 1, 0, 0.0, 0.0, "generalized least squares", (), clock.seconds)
    return assemble_fit(design, objective, np.zeros(0), solution, record, solution["deviance"])


@dataclass(frozen=True, eq=False)
class _End:
    """Where a search from one start ended."""

    deviance: float
    xi: np.ndarray
    gradient: float
    decrement: float
    steps: int
    settled: bool


def fit_structured(
    design: Design,
    structure: ResidualStructure,
    *,
    reml: bool = True,
    xi: np.ndarray | None = None,
    **options: Any,
) -> Fit:
    """Fit a design whose residuals have a covariance structure.

    Parameters
    ----------
    design : Design
        With or without random terms. Weights must be the structure's too.
    structure : ResidualStructure
    reml : bool
    xi : ndarray, shape (K,), optional
        Start; by default those of the structure.
    **options
        Of `mme.fit.fit_design`, for the search of D given the structure.

    Returns
    -------
    Fit
        Of the whitened rows, with the deviance of the rows as they are, and `residual`.

    Raises
    ------
    DesignError
        A model that this cannot fit: see `whitened_design`.
    """
    clock = Clock()
    parts = PartsLikelihood(design, structure, reml)
    dense = parts.affordable
    if not dense and not structure.diagonal:
        raise DesignError(
            f"residual={structure.text!r}: {parts.largest} rows are connected by subjects and levels of "
            "random "
            f"terms, and correlated residuals are computed for at most {MOST_ROWS}. Nest the grouping "
            "factors, "
            "or use a variance per stratum (varident) alone."
        )
    inner = {k: v for k, v in options.items() if k in ("tol", "max_evaluations", "solver")}
    inner["tol"] = min(float(inner.get("tol", 1e-8)), 1e-9)
    ends: list[_End] = []
    search = None
    total = 0
    for start in structure.starts() if xi is None else [xi]:
        own = _Search(design, structure, parts, reml, {**inner, "starts": 1}, dense)
        end = _minimise(own, start)
        total += own.evaluations
        if end is None:
            continue
        if not ends or end.deviance < min(e.deviance for e in ends):
            search = own
        ends.append(end)
    if not ends or search is None:
        raise ConvergenceError(
            f"the likelihood of residual={structure.text!r} could not be computed at any start: the response "
            "may "
            "be explained exactly in some stratum or subject."
        )
    end = min(ends, key=lambda e: e.deviance)
    phi = structure.natural(end.xi)
    # all starts of the search for D, once at the end
    fit = search.inner(phi)
    if search.best is not None and search.best[0] < fit.deviance and np.array_equal(search.best[1], end.xi):
        fit = search.best[2]
    clock.lap("evaluations")
    limits = structure.at_boundary(phi)
    flat = fit.record.flat
    if dense and not limits and parts.work() <= _CHECKED and _is_flat(parts, fit, phi):
        flat = (*flat, f"parameters of residual={structure.text!r}")
    minima = 1 + sum(b.deviance - a.deviance > _OTHER for a, b in _pairs(ends))
    message = fit.record.message
    # beside random effects a singular R may be an ordinary limit, towards which the deviance levels off
    unbounded = bool(limits) and end.gradient > _LEVEL
    if unbounded:
        message = (
            "the likelihood grows without bound, or as far as can be computed, towards a singular "
            f"covariance of the residuals ({', '.join(limits)}): use a structure with fewer parameters"
        )
    elif not end.settled:
        message = "the parameters of the residuals could not be settled"
    converged = end.settled and fit.record.converged and not unbounded
    record = replace(
        fit.record,
        converged=converged,
        message=message,
        evaluations=total,
        all_evaluations=total,
        iterations=end.steps,
        gradient_norm=end.gradient,
        newton_decrement=max(end.decrement, fit.record.newton_decrement),
        singular=(*fit.record.singular, *(f"the residuals ({name})" for name in limits)),
        seconds=clock.seconds,
        history=(),
        starts=len(ends),
        modes=minima,
        flat=flat,
    )
    residual = ResidualFit(structure, end.xi, phi, parts, tuple(limits))
    return replace(fit, record=record, residual=residual)


def _pairs(ends: list[_End]) -> list[tuple[_End, _End]]:
    ordered = sorted((e for e in ends if e.settled), key=lambda e: e.deviance)
    return list(pairwise(ordered))


def _minimise(search: _Search, start: np.ndarray) -> _End | None:
    """A quasi-Newton search that begins, and begins again where it is stuck, with the expected information.

    Steps are halved until the deviance falls; the likelihood may have no value where they lead.
    """
    xi = np.asarray(start, dtype=np.float64)
    value, gradient = search(xi)
    if not np.isfinite(value):
        return None
    steps, fresh = 0, True
    H = _inverse_metric(search, xi)
    decrement = 0.5 * float(gradient @ H @ gradient)
    while steps < _STEPS and not (decrement <= _SETTLED and not fresh):
        direction = -H @ gradient
        direction *= min(1.0, _FARTHEST / max(float(np.abs(direction).max()), 1e-300))
        slope = float(gradient @ direction)
        length = 1.0
        while length > _SHORTEST:
            moved, there = search(xi + length * direction)
            if moved <= value + 1e-4 * length * slope:
                break
            length *= 0.5 if np.isfinite(moved) else 0.25
        else:
            # the deviance is at its rounding error, or the curvature is not that of the last steps
            if fresh:
                break
            H, fresh = _inverse_metric(search, xi), True
            decrement = 0.5 * float(gradient @ H @ gradient)
            continue
        s, y = length * direction, there - gradient
        xi, value, gradient = xi + s, moved, there
        sy = float(s @ y)
        if sy > 1e-10 * float(np.linalg.norm(s) * np.linalg.norm(y)):
            if fresh:
                H = H * (sy / float(y @ H @ y))
            left = np.eye(xi.size) - np.outer(s, y) / sy
            H = left @ H @ left.T + np.outer(s, s) / sy
        steps, fresh = steps + 1, False
        decrement = 0.5 * float(gradient @ H @ gradient)
    at_limit = bool(np.any(np.abs(search.structure.bounds) - np.abs(xi) < 1.0))
    rounding = _ROUNDING * max(1.0, abs(value))
    return _End(
        value,
        xi,
        float(np.abs(gradient).max(initial=0.0)),
        decrement,
        steps,
        decrement <= max(_SETTLED, rounding) or at_limit,
    )


def _inverse_metric(search: _Search, xi: np.ndarray) -> np.ndarray:
    w, U = np.linalg.eigh(search.metric(xi))
    return (U / np.maximum(w, _LEAST * w[-1])) @ U.T


def _is_flat(parts: PartsLikelihood, fit: Fit, phi: np.ndarray) -> bool:
    """Whether some direction of phi can be made up for by others, to rounding."""
    H = parts.second(fit.lam, phi).information(parts.nu)
    m = len(parts.entries)
    # variances of zero are where others take over: they say nothing here
    zero = [
        j
        for j, (t, a, b) in enumerate(parts.entries)
        if not np.any(fit.lam[t][a]) or not np.any(fit.lam[t][b])
    ]
    keep = np.setdiff1d(np.arange(len(H)), zero)
    d = np.sqrt(np.diag(H)[keep])
    if np.any(d <= 0.0):
        return True
    w, V = np.linalg.eigh(H[np.ix_(keep, keep)] / np.outer(d, d))
    own = keep >= m
    own[-1] = False
    return bool(np.any(np.abs(V[own][:, w < _FLAT]) > 1e-3))
