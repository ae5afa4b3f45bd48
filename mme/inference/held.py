"""Minima of the deviance with one parameter held at a value: what profiles are made of.

All run on cross-products, begin where a neighbour ended, and pass boundaries.  With M = R D R' in the
equations' basis, n rows and dev = log|V| + n log(2 pi s2) + r2 / s2 (ML):

- a fixed effect: its column is taken out of the orthonormal basis Q of X and the response moves along the
  direction n of Q that no other column has, y - c x = (y - Q b0) + s Q n + (others): a line in the
  cross-products;
- sigma: s2 is given, so that dev has no profiled share;
- a standard deviation c: s2 = c^2 / D_aa, by which the constraint is gone and all of D >= 0 is free; at c = 0
the effect
  is left out of its term, M = O M_r O';
- a correlation: the factor of the term's covariance, these two effects first, has rows (x_0, 0, ...) and
  x_1 (rho, sqrt(1 - rho^2), 0, ...), so that rho = +-1 and x = 0 are ordinary points.

The first three are searched by the fit's own Newton steps on the reliability scale, the last one by Newton
steps in the entries of the factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..engine.covariance.derivatives import unit_matrix
from ..engine.covariance.factors import factor_psd
from ..engine.covariance.patterns import Pattern
from ..engine.covariance.structure import DIAGONAL
from ..engine.direct.objective import Objective
from ..engine.direct.plan import make_plan
from ..engine.equations.design import Design
from ..engine.equations.equations import Equations
from ..engine.equations.fixed import FixedPart
from ..engine.equations.layout import Layout
from ..engine.equations.response import Response
from ..engine.search.chain import gradient_in_basis
from ..engine.search.coordinates import Coordinates, TermSpec, term_specs
from ..engine.search.curve import Curve, is_curved
from ..engine.search.curved import minimise_curved
from ..engine.search.evaluation import Evaluation
from ..engine.search.optimizer import minimise
from ..exceptions import InferenceError
from ..fit.fitted import Labels
from .correlation import correlation_minimum
from .parameters import Parameter

__all__ = [
    "Held",
    "Setting",
    "Solution",
    "check_held",
    "held_correlation",
    "held_deviation",
    "held_fixed",
    "held_sigma",
]

_TOL = 1e-9  # predicted decrease of the deviance at which a point of a profile is found
_MOST = 200  # evaluations of one


@dataclass(frozen=True, eq=False)
class Solution:
    """A minimum with something held: theta of the equations' basis, deviance, residual variance."""

    theta: np.ndarray
    deviance: float
    sigma2: float
    converged: bool
    slope: float = np.nan
    """d deviance / d log(value) where it is known."""


Held = Callable[[float, Solution], Solution]
"""The minimum at a value of the parameter, from a start."""


@dataclass(frozen=True, eq=False)
class Setting:
    """The likelihood that is profiled.

    Attributes
    ----------
    design : Design
    objective : Objective
        Used for nothing else meanwhile.
    space : Coordinates or Curve
        Of the equations' basis.
    """

    design: Design
    objective: Objective
    space: Coordinates | Curve

    @classmethod
    def of(cls, design: Design, equations: Equations, factorization: str, reml: bool = False) -> Setting:
        """With a factorization of its own."""
        objective = Objective(design, reml, factorization, equations)
        if is_curved(equations.layout):
            return cls(design, objective, Curve.of(equations))
        return cls(design, objective, Coordinates(term_specs(equations, standard=True)))

    @property
    def eq(self) -> Equations:
        """The cross-products."""
        return self.objective.eq

    def minimum(self, theta: np.ndarray) -> Solution:
        """The minimum with nothing held, from theta."""
        return _searched(partial(self.objective.evaluate, standard=True), theta, self.space)


def _searched(
    evaluate: Callable[[np.ndarray, int], Evaluation], theta: np.ndarray, space: Coordinates | Curve
) -> Solution:
    if isinstance(space, Curve):
        begin = space.coordinates(theta)
        found = minimise_curved(evaluate, begin, space, tol=_TOL, max_evaluations=_MOST)
    else:
        found = minimise(evaluate, theta, space, tol=_TOL, max_evaluations=_MOST)
    return Solution(found.theta, found.evaluation.deviance, found.evaluation.sigma2, found.converged)


# -- fixed effects ------------------------------------------------------------------------------------------


def held_fixed(setting: Setting, j: int) -> Held:
    """A fixed effect, by its place among the kept columns; of the likelihood, not the restricted one."""
    eq, p = setting.eq, setting.eq.p
    columns = np.linalg.inv(eq.fixed.T)  # of X, in Q
    Q, R = np.linalg.qr(np.delete(columns, j, axis=1), mode="complete")
    P, n = Q[:, : p - 1], Q[:, p - 1]
    R = R[: p - 1]
    kept = eq.fixed.kept.copy()
    kept[np.flatnonzero(kept)[j]] = False
    T = np.linalg.inv(R) if p > 1 else np.zeros((0, 0))
    logdet = 2.0 * float(np.sum(np.log(np.abs(np.diag(R)))))
    own, XX = eq.response, eq.Axx[:p, :p]
    Axx = np.zeros((p, p))
    Axx[: p - 1, : p - 1] = P.T @ XX @ P
    other = replace(
        eq,
        p=p - 1,
        fixed=FixedPart(kept, T, P.T @ own.b0, logdet),
        A1x=np.concatenate([eq.Z1Q @ P, own.Z1y[:, :, None]], axis=2),
        A2x=np.column_stack([eq.Z2Q @ P, own.Z2y]),
        Axx=Axx,
    )
    # made here once, and shared by the equations of every value
    for name in ("val", "tpos", "A22", "scales"):
        getattr(other, name)
    along1, along2 = eq.Z1Q @ n, eq.Z2Q @ n
    plan = make_plan(eq, setting.objective.plan.factorization)

    def solve(value: float, start: Solution) -> Solution:
        rest = own.b0 - value * columns[:, j]
        s = float(n @ rest)
        response = Response(
            Z1y=own.Z1y + s * along1,
            Z2y=own.Z2y + s * along2,
            Qy=P.T @ (own.Qy + s * (XX @ n)),
            b0=P.T @ rest,
            yy=own.yy + 2.0 * s * float(n @ own.Qy) + s * s * float(n @ XX @ n),
            total=own.total,
        )
        # one after another: the plan holds the factor, and only the last objective is asked
        objective = Objective(setting.design, False, plan.factorization, other.with_response(response), plan)
        return _searched(partial(objective.evaluate, standard=True), start.theta, setting.space)

    return solve


# -- standard deviations ------------------------------------------------------------------------------------


def held_sigma(setting: Setting) -> Held:
    """The residual standard deviation."""

    def solve(value: float, start: Solution) -> Solution:
        return _solve_scale(setting, _Scale(setting, value), start.theta)

    return solve


def held_deviation(setting: Setting, t: int, a: int) -> Held:
    """The standard deviation of an effect of a term."""
    eq, place = setting.eq, setting.eq.layout.places[t]
    R = eq.term_basis(t)
    inverse = np.linalg.inv(R)
    evaluate = partial(setting.objective.evaluate, standard=True)

    def solve(value: float, start: Solution) -> Solution:
        if value == 0.0:
            if isinstance(setting.space, Curve):
                return _searched(evaluate, start.theta, setting.space.hold(t, a, 0.0))
            return _without_effect(setting, t, a, start.theta)
        theta = start.theta.copy()
        inner = place.structure.lam(theta[place.theta], place.k)
        D = inverse @ inner @ inner.T @ inverse.T
        wanted = value**2 / start.sigma2
        if D[a, a] > 1e-12 * wanted:
            scale = np.ones(place.k)
            scale[a] = np.sqrt(wanted / D[a, a])
            root = R @ (scale[:, None] * (inverse @ inner))
        else:
            D[a, a] = wanted
            root = R @ factor_psd(D)
        theta[place.theta] = place.structure.theta(place.structure.triangular(root))
        return _solve_scale(setting, _Scale(setting, value, (t, inverse[a])), theta)

    return solve


class _Scale:
    """The deviance with a given scale: s2 = value^2, or value^2 / D_aa, D_aa = w'Mw.

    With L = log s2 as a function of D, dev = log|V| + n L + r2 exp(-L): the gradient is N with s2 in place of
    r2 / n, and (n - r2 / s2) dL/dD; second derivatives in (D, L) are exact but for those in D alone (average
    information).
    """

    def __init__(self, setting: Setting, value: float, effect: tuple[int, np.ndarray] | None = None) -> None:
        self.objective, self.eq = setting.objective, setting.eq
        self.variance, self.effect = value**2, effect

    def scale(self, theta: np.ndarray) -> tuple[float, np.ndarray | None, float]:
        """s2, w w' and D_aa."""
        if self.effect is None:
            return self.variance, None, 1.0
        t, w = self.effect
        place = self.eq.layout.places[t]
        row = w @ place.structure.lam(theta[place.theta], place.k)
        ratio = float(row @ row)
        if not ratio > 0.0:
            raise np.linalg.LinAlgError("a variance that is held is zero at this theta.")
        return self.variance / ratio, np.outer(w, w), ratio

    def evaluate(self, theta: np.ndarray, order: int = 0) -> Evaluation:
        """As `Objective.evaluate`, theta of the equations' basis."""
        s2, ww, ratio = self.scale(theta)
        objective, n = self.objective, self.objective.nu
        here = objective.evaluate(theta, 0, standard=True)
        share = here.sigma2 / s2  # r2 / (n s2)
        deviance = here.deviance + n * (share - 1.0 - np.log(share))
        if order == 0:
            return Evaluation(theta, deviance, s2, noise=here.noise)
        zr = objective.at(self.eq.from_standard(theta), standard=True).zr
        here = objective.evaluate(theta, order, standard=True)
        assert here.N_basis is not None
        squares = [z.T @ z for z in zr]
        N = [
            slope + q * (1.0 / here.sigma2 - 1.0 / s2) for slope, q in zip(here.N_basis, squares, strict=True)
        ]
        if self.effect is not None:
            assert ww is not None
            N[self.effect[0]] = N[self.effect[0]] - n * (1.0 - share) / ratio * ww
        information = None
        if order > 1:
            information = self._information(here, squares, s2, share, ww, ratio)
        gradient = gradient_in_basis(self.eq, self.eq.factors(theta), N)
        return Evaluation(
            theta, deviance, s2, gradient=gradient, N_basis=N, information_basis=information, noise=here.noise
        )

    def _information(
        self,
        here: Evaluation,
        squares: list[np.ndarray],
        s2: float,
        share: float,
        ww: np.ndarray | None,
        ratio: float,
    ) -> np.ndarray:
        assert here.information_basis is not None
        n, m = self.objective.nu, here.theta.size
        slope, log_ratio = np.zeros(m), np.zeros(m)
        for t, (place, q) in enumerate(zip(self.eq.layout.places, squares, strict=True)):
            twice = np.array([1.0 if a == b else 2.0 for a, b in place.entries])
            slope[place.theta] = twice * [q[a, b] for a, b in place.entries]
            if ww is not None and self.effect is not None and self.effect[0] == t:
                log_ratio[place.theta] = twice * [ww[a, b] / ratio for a, b in place.entries]
        # sigma2 was profiled out: its share comes back
        r2 = n * here.sigma2
        whole = here.information_basis * here.sigma2 + np.outer(slope, slope) / r2
        cross = np.outer(slope, log_ratio)
        return whole / s2 - (cross + cross.T) / s2 + n * max(1.0, share) * np.outer(log_ratio, log_ratio)


def _solve_scale(setting: Setting, scale: _Scale, theta: np.ndarray) -> Solution:
    found = _searched(scale.evaluate, theta, setting.space)
    nu = setting.objective.nu
    r2 = nu * setting.objective.evaluate(found.theta, 0, standard=True).sigma2
    return replace(found, slope=2.0 * (nu - r2 / found.sigma2))


# -- a standard deviation of zero ---------------------------------------------------------------------------


def _without_effect(setting: Setting, t: int, a: int, theta: np.ndarray) -> Solution:
    """The minimum with one effect of a term absent: M_t = O M_r O', O orthonormal."""
    eq, places = setting.eq, setting.eq.layout.places
    k = places[t].k
    others = [c for c in range(k) if c != a]
    O = np.eye(k)[:, others]  # noqa: E741
    if places[t].structure.mixes and others:
        O = np.linalg.qr(eq.term_basis(t)[:, others])[0]  # noqa: E741
    maps = [O if s == t else np.eye(place.k) for s, place in enumerate(places)]
    specs, jacobian, start = _restricted(setting, maps, theta)

    def whole(restricted: np.ndarray) -> np.ndarray:
        out, position = np.zeros(eq.layout.n_theta), 0
        for place, turn in zip(places, maps, strict=True):
            size = place.structure.size(turn.shape[1])
            if size:
                lam = place.structure.lam(restricted[position : position + size], turn.shape[1])
                root = place.structure.triangular(turn @ lam @ turn.T)
                out[place.theta] = place.structure.theta(root)
            position += size
        return out

    def evaluate(restricted: np.ndarray, order: int) -> Evaluation:
        here = setting.objective.evaluate(whole(restricted), order, standard=True)
        if order == 0:
            return replace(here, theta=restricted)
        assert here.N_basis is not None
        N = [turn.T @ slope @ turn for turn, slope in zip(maps, here.N_basis, strict=True) if turn.size]
        gradient, position = np.empty(restricted.size), 0
        for spec, slope in zip(specs, N, strict=True):
            part = slice(position, position + len(spec.entries))
            full = 2.0 * slope @ spec.structure.lam(restricted[part], spec.k)
            gradient[part] = [full[c, d] for c, d in spec.entries]
            position = part.stop
        information = None
        if here.information_basis is not None:
            information = jacobian.T @ here.information_basis @ jacobian
        return replace(here, theta=restricted, gradient=gradient, N_basis=N, information_basis=information)

    if not specs:
        nothing = setting.objective.evaluate(np.zeros(eq.layout.n_theta), 0, standard=True)
        return Solution(nothing.theta, nothing.deviance, nothing.sigma2, True)
    found = _searched(evaluate, start, Coordinates(specs))
    return replace(found, theta=whole(found.theta))


def _restricted(
    setting: Setting, maps: list[np.ndarray], theta: np.ndarray
) -> tuple[list[TermSpec], np.ndarray, np.ndarray]:
    """Terms, d (entries of M) / d (entries of M_r), and theta there."""
    eq = setting.eq
    specs, columns, start = [], [], []
    for t, (place, turn) in enumerate(zip(eq.layout.places, maps, strict=True)):
        k = turn.shape[1]
        if k == 0:
            continue
        structure = place.structure
        root = structure.root(turn.T @ eq.term_gram(t) @ turn)
        specs.append(TermSpec(k, structure, eq.layout.blocks[place.block].q, root))
        for a, b in structure.entries(k):
            moved = turn @ unit_matrix(a, b, k) @ turn.T
            column = np.zeros(eq.layout.n_theta)
            column[place.theta] = [moved[c, d] for c, d in place.entries]
            columns.append(column)
        inner = turn.T @ structure.lam(theta[place.theta], place.k)
        start.append(structure.theta(factor_psd(inner @ inner.T)))
    jacobian = np.array(columns).T if columns else np.zeros((eq.layout.n_theta, 0))
    return specs, jacobian, np.concatenate(start) if start else np.zeros(0)


# -- correlations -------------------------------------------------------------------------------------------


def held_correlation(setting: Setting, t: int, a: int, b: int) -> Held:
    """The correlation of two effects of a term, or the only one of its structure."""
    curve = setting.space

    def held(value: float, start: Solution) -> Solution:
        assert isinstance(curve, Curve)
        kinds = curve.shares[t].kinds
        evaluate = partial(setting.objective.evaluate, standard=True)
        return _searched(evaluate, start.theta, curve.hold(t, kinds.index("cor"), value))

    if isinstance(curve, Curve):
        return held

    def solve(value: float, start: Solution) -> Solution:
        theta, deviance, sigma2, converged = correlation_minimum(
            setting.objective, t, (a, b), value, start.theta
        )
        return Solution(theta, deviance, sigma2, converged)

    return solve


def check_held(layout: Layout, p: Parameter, labels: Labels) -> None:
    """Refuse what cannot be held beside a covariance that is a function of few parameters.

    Raises
    ------
    InferenceError
    """
    if p.term < 0 or not is_curved(layout):
        return
    place = layout.places[p.term]
    structure = place.structure
    if isinstance(structure, Pattern):
        kinds = structure.kinds(place.k)
        # the first of a Toeplitz structure's correlations is a parameter, later ones are functions of several
        known = p.kind in kinds and (p.kind == "sd" or p.a == 1)
    else:
        known = place.k == 1 or (p.kind == "sd" and structure is DIAGONAL)
    if not known:
        others = [t.structure.name for t in labels.terms if t.structure.curved]
        raise InferenceError(
            f"{p.name} has no profile: with the structure {', '.join(dict.fromkeys(others))} it is no "
            "parameter that can be held by itself. Use method='boot', or the standard errors of "
            "variance_table()."
        )
