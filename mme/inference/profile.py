"""Profile likelihood: the signed root of the deviance's rise as a function of one parameter, and intervals.

zeta(v) = sign(v - estimate) sqrt(dev(v) - dev(estimate)), dev(v) the minimum of the deviance of the ML fit
over all other parameters (`mme.inference.held`).  An interval ends where |zeta| is the normal quantile, or at
the boundary of what the parameter may be (a standard deviation of zero, a correlation of +-1) where zeta does
not get there: boundaries are points like others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..engine.covariance.patterns import Pattern
from ..engine.direct.objective import Objective
from ..engine.runtime.parallel import single_threaded_blas
from ..engine.runtime.scipys import special
from ..exceptions import ConvergenceError, InferenceError, OptionError, PerfectFitError
from ..fit.fit import fit_design
from ..fit.fitted import Fitted
from .held import (
    Held,
    Setting,
    Solution,
    check_held,
    held_correlation,
    held_deviation,
    held_fixed,
    held_sigma,
)
from .parameters import Parameter, Values, check_maximum

__all__ = ["Curve", "Profiles", "profile_intervals", "profiles"]

_CLOSE = 1e-5  # of zeta to its target, from which interpolation gives the rest
_BETTER = 1e-6  # deviance below that of the estimate that is another minimum, not rounding
_ROUGH = 1e-4  # rounding error of the deviance that shows in intervals
_MOST = 80  # values that one end of an interval may take
_RESTARTS = 3


@dataclass(frozen=True, eq=False)
class Curve:
    """One parameter's profile.

    Attributes
    ----------
    parameter : Parameter
    estimate : float
        Of the fit that is profiled; NaN for a correlation with a zero variance.
    value, zeta : ndarray, shape (m,)
        In increasing order.
    """

    parameter: Parameter
    estimate: float
    value: np.ndarray
    zeta: np.ndarray


@dataclass(frozen=True, eq=False)
class Profiles:
    """What was found.

    Attributes
    ----------
    curves : tuple of Curve
    ends : ndarray, shape (q, 2)
        Intervals; NaN for coefficients that were dropped.
    notes : tuple of str
    """

    curves: tuple[Curve, ...]
    ends: np.ndarray
    notes: tuple[str, ...]


def profile_intervals(
    fitted: Fitted, chosen: Sequence[Parameter], alpha: float, reml: bool = False
) -> Profiles:
    """Profile intervals of parameters.

    Parameters
    ----------
    fitted : Fitted
    chosen : sequence of Parameter
    alpha : float
    reml : bool
        Profile the restricted likelihood; it has no fixed effects.

    Raises
    ------
    OptionError
        Fixed effects of the restricted likelihood.
    InferenceError
        After an iterative fit, where the data were removed or the estimate is no maximum of the likelihood.
    """
    return _profiled(fitted, chosen, alpha, 0, reml)


def profiles(
    fitted: Fitted, chosen: Sequence[Parameter], alpha: float, points: int, reml: bool = False
) -> Profiles:
    """Curves of parameters out to the ends of the intervals of level 1 - alpha.

    Parameters
    ----------
    points : int
        Between the estimate and either end.
    """
    return _profiled(fitted, chosen, alpha, points, reml)


def _profiled(fitted: Fitted, chosen: Sequence[Parameter], alpha: float, points: int, reml: bool) -> Profiles:
    what = "A profile"
    check_maximum(fitted, what)
    fixed = [p.name for p in chosen if p.kind == "fixed"]
    if reml and fixed:
        raise OptionError(
            f"the restricted likelihood is no function of the fixed effects ({', '.join(fixed)}): leave out "
            "reml=True, or ask for parm='theta_'."
        )
    if fitted.design is None:
        raise InferenceError(f"{what} needs the design, and the data were removed.")
    if not fitted.exact:
        raise InferenceError(
            f"{what} needs a factorization, which an iterative fit does not make. Fit with solver='direct' "
            "where preflight() says that its memory and time are affordable, or use method='boot'."
        )
    z = -float(special.ndtri(alpha / 2.0))
    with single_threaded_blas():
        best = _Best.of(fitted, reml)
        for _ in range(_RESTARTS):
            try:
                curves, ends = _all(best, chosen, z, points)
                break
            except _LowerError as lower:
                best = best.at(lower.theta)
        else:
            raise InferenceError(
                "profiling keeps finding better optima than the fit: its likelihood has several. "
                "Fit again with starts=20."
            )
    notes = []
    if fitted.reml and not reml:
        notes.append("The fit is REML; the profile is that of the likelihood (ML), refitted.")
    if reml:
        notes.append("The profile is that of the restricted likelihood (REML).")
    if best.noise > _ROUGH:
        notes.append(
            f"Variances are huge beside the residual's: the deviance is rounded by {best.noise:.1g}."
        )
    if best.restarts:
        notes.append("Profiling found a better optimum than the fit, and went on from there.")
    if best.doubtful:
        names = ", ".join(sorted(best.doubtful))
        notes.append(f"Some points did not converge: the profile of {names} may be rough.")
    return Profiles(tuple(curves), np.array(ends).reshape(-1, 2), tuple(notes))


class _LowerError(Exception):
    """A point below the minimum: the search was in another basin."""

    def __init__(self, theta: np.ndarray) -> None:
        super().__init__("lower minimum")
        self.theta = theta


@dataclass(eq=False)
class _Best:
    """The estimate and its likelihood."""

    fitted: Fitted
    setting: Setting
    solution: Solution
    restarts: int = 0
    noise: float = 0.0
    doubtful: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, fitted: Fitted, reml: bool) -> _Best:
        assert fitted.design is not None
        objective = fitted.objective()
        assert isinstance(objective, Objective)
        factorization = objective.plan.factorization
        theta0 = None
        if fitted.reml == reml:
            theta0 = tuple(
                term.structure.theta(lam) for term, lam in zip(fitted.design.terms, fitted.lam, strict=True)
            )
        try:
            refit = fit_design(
                fitted.design,
                reml=reml,
                theta0=theta0,
                tol=1e-10,
                solver="direct" if factorization == "auto" else factorization,
                equations=objective.eq,
            )
        except PerfectFitError as error:
            raise InferenceError(f"A profile needs the maximum of the likelihood: {error}") from error
        setting = Setting.of(fitted.design, objective.eq, factorization, reml)
        out = cls(fitted, setting, Solution(np.zeros(0), 0.0, 1.0, True))
        return out.at(setting.eq.to_standard(np.concatenate(refit.theta)), 0)

    def at(self, theta: np.ndarray, restarts: int | None = None) -> _Best:
        """The minimum near theta."""
        solution = self.setting.minimum(theta)
        count = self.restarts + 1 if restarts is None else restarts
        noise = self.setting.objective.evaluate(solution.theta, 0, standard=True).noise
        return _Best(self.fitted, self.setting, solution, count, noise)

    @property
    def clear(self) -> float:
        """A difference of deviances that is no rounding."""
        return max(_BETTER, 10.0 * self.noise)

    def values(self) -> Values:
        """Estimates."""
        eq, s2 = self.setting.eq, self.solution.sigma2
        covariances = []
        for t, (place, inner) in enumerate(
            zip(eq.layout.places, eq.factors(self.solution.theta), strict=True)
        ):
            lam = np.linalg.solve(eq.term_basis(t), inner)
            assert place.k == lam.shape[0]
            covariances.append(s2 * (lam @ lam.T))
        beta = np.full(self.fitted.beta.size, np.nan)
        beta[eq.fixed.kept] = self.setting.objective.solution(self.solution.theta, standard=True)["beta"]
        return Values(self.fitted.labels, beta, tuple(covariances), s2)

    def held(self, p: Parameter) -> Held:
        """The minima with a parameter held."""
        check_held(self.setting.eq.layout, p, self.fitted.labels)
        if p.kind == "fixed":
            kept = self.setting.eq.fixed.kept
            return held_fixed(self.setting, int(np.count_nonzero(kept[: p.a])))
        if p.kind == "sigma":
            return held_sigma(self.setting)
        if p.kind == "sd":
            return held_deviation(self.setting, p.term, p.a)
        return held_correlation(self.setting, p.term, p.b, p.a)

    def log_error(self, p: Parameter, values: Values) -> float:
        """Where to look first: about a standard error, of the logarithm for deviations."""
        eq = self.setting.eq
        if p.kind == "sigma":
            levels = sum(block.q * block.k for block in eq.layout.blocks)
            return 1.0 / np.sqrt(2.0 * max(eq.n - eq.p - levels, 0.1 * eq.n))
        if p.kind == "fixed":
            kept = eq.fixed.kept
            vcov = self.setting.objective.solution(self.solution.theta, standard=True)["vcov"]
            j = int(np.count_nonzero(kept[: p.a]))
            return float(np.sqrt(vcov[j, j]))
        place = eq.layout.places[p.term]
        q = eq.layout.blocks[place.block].q
        if p.kind == "cor":
            return 1.5 / np.sqrt(max(q - 2.0, 1.0))
        R = eq.term_basis(p.term)
        gram = (R.T @ eq.term_gram(p.term) @ R)[p.a, p.a]
        nD = gram * values.value(p) ** 2 / self.solution.sigma2
        reliability = nD / (1.0 + nD)
        return min(1.0, 1.0 / (max(reliability, 1e-3) * np.sqrt(2.0 * q)))


def _all(best: _Best, chosen: Sequence[Parameter], z: float, points: int) -> tuple[list[Curve], list]:
    values = best.values()
    curves, ends = [], []
    for p in chosen:
        if p.kind == "fixed" and np.isnan(values.value(p)):
            ends.append((np.nan, np.nan))
            curves.append(Curve(p, np.nan, np.zeros(0), np.zeros(0)))
            continue
        walk = _Walk(best, p, values)
        low, high = walk.end(-1, z), walk.end(1, z)
        ends.append((low, high))
        if points:
            walk.fill(low, high, points)
        curves.append(walk.curve(values.value(p)))
    return curves, ends


def _lowest(best: _Best, p: Parameter) -> float:
    """Lowest value of a correlation."""
    structure = best.fitted.labels.terms[p.term].structure
    return (
        structure.lowest(best.setting.eq.layout.places[p.term].k) if isinstance(structure, Pattern) else -1.0
    )


class _Walk:
    """Along one parameter, outwards from the estimate."""

    def __init__(self, best: _Best, p: Parameter, estimates: Values) -> None:
        self.best, self.p = best, p
        estimate = estimates.value(p)
        self.held = best.held(p)
        self.log = p.kind in ("sd", "sigma")
        self.bounds = {"cor": (_lowest(best, p), 1.0), "sd": (0.0, np.inf), "sigma": (0.0, np.inf)}.get(
            p.kind, (-np.inf, np.inf)
        )
        self.unknown = bool(np.isnan(estimate))  # a correlation beside a variance of zero
        self.estimate = 0.0 if self.unknown else estimate
        self.found: dict[float, tuple[float, Solution]] = {}
        if self.unknown:
            self.rise(0.0)
        else:
            self.found[self.estimate] = 0.0, best.solution
        self.error = best.log_error(p, estimates)

    # -- points -----------------------------------------------------------------------------------

    def rise(self, value: float) -> float:
        """|zeta| at a value; infinite where nothing can be computed."""
        if value in self.found:
            return self.found[value][0]
        inner, outer = self._neighbours(value)
        try:
            solution = self.held(value, inner)
            if outer is not None and outer.deviance < solution.deviance - self.best.clear:
                # the deviance rises outwards: there is another minimum, in which the outer point lies
                other = self.held(value, outer)
                solution = other if other.deviance < solution.deviance else solution
        except (ConvergenceError, PerfectFitError, np.linalg.LinAlgError):
            return np.inf
        gain = solution.deviance - self.best.solution.deviance
        if gain < -self.best.clear:
            raise _LowerError(solution.theta)
        if not solution.converged:
            self.best.doubtful.add(self.p.name)
        zeta = float(np.sqrt(max(gain, 0.0)))
        self.found[value] = zeta, solution
        return zeta

    def _neighbours(self, value: float) -> tuple[Solution, Solution | None]:
        """The known points next to a value: on the estimate's side, and on the other."""
        side = 1.0 if value >= self.estimate else -1.0
        way = {side * (v - self.estimate): found for v, (_, found) in self.found.items()}
        here = side * (value - self.estimate)
        before, after = [w for w in way if 0.0 <= w < here], [w for w in way if w > here]
        inner = way[max(before)] if before else self.best.solution
        return inner, way[min(after)] if after else None

    def to(self, value: float) -> float:
        """The scale on which zeta is nearly a straight line."""
        if not self.log:
            return value
        return float(np.log(value)) if value > 0.0 else -np.inf

    def back(self, x: float) -> float:
        """The value there."""
        return float(np.exp(x)) if self.log else x

    # -- ends -------------------------------------------------------------------------------------

    def end(self, side: int, z: float) -> float:
        """Where |zeta| reaches z on one side, or the boundary."""
        bound = self.bounds[(side + 1) // 2]
        if side * (bound - self.estimate) <= 0.0:
            return bound
        near = (self.estimate, self.rise(self.estimate))
        far: tuple[float, float] | None = None
        if np.isfinite(bound) and self.p.kind != "sigma":
            far = bound, self.rise(bound)
            if far[1] <= z:
                return bound
        value, last = self._first(side, z), np.inf
        for count in range(_MOST):
            rise = self.rise(value)
            if abs(rise - z) <= _CLOSE:
                return self._polished(side, z, value)
            if rise < z:
                near = value, rise
            else:
                far = value, rise
            if far is not None:
                width = abs(far[0] - near[0])
                if width <= 1e-9 * max(abs(near[0]), abs(far[0])) or width == 0.0:
                    return value  # zeta jumps here
                halve = count % 4 == 3 and width > 0.5 * last
                if count % 4 == 3:
                    last = width
            else:
                halve = False
            value = self._next(side, z, value, near, far, halve)
        raise InferenceError(
            f"the end of the profile of {self.p.name} was not found: the likelihood is flat there, or has "
            "steps."
        )

    def _first(self, side: int, z: float) -> float:
        if self.p.kind == "sd" and self.estimate == 0.0:
            eq = self.best.setting.eq
            R = eq.term_basis(self.p.term)
            gram = (R.T @ eq.term_gram(self.p.term) @ R)[self.p.a, self.p.a]
            return 0.5 * float(np.sqrt(self.best.solution.sigma2 / gram))
        if self.p.kind == "cor":
            x = np.arctanh(np.clip(self.estimate, -0.999, 0.999)) + side * z * self.error
            return float(np.tanh(x)) if abs(x) < 3.0 else 0.5 * (self.estimate + side)
        return self.back(self.to(self.estimate) + side * z * self.error)

    def _next(
        self,
        side: int,
        z: float,
        value: float,
        near: tuple[float, float],
        far: tuple[float, float] | None,
        halve: bool,
    ) -> float:
        inside = self.to(near[0])
        outside = side * np.inf if far is None else self.to(far[0])
        guess = np.nan if halve else self._guess(side, z, value)
        if far is None:
            # outwards, by no more than thrice the way so far
            start = self.to(self.estimate)
            way = abs(inside - start) if np.isfinite(start) else 1.0
            way = max(way, 1e-3 * self.error)
            if not np.isfinite(guess) or not inside < side * np.inf:
                guess = inside + side * way
            step = float(np.clip(side * (guess - inside), 0.05 * way, 2.0 * way))
            return self.back(inside + side * step)
        if np.isfinite(guess) and min(inside, outside) < guess < max(inside, outside):
            return self.back(guess)
        if np.isfinite(inside) and np.isfinite(outside):
            return self.back(0.5 * (inside + outside))
        # one end is a deviation of zero
        return 0.5 * (near[0] + far[0]) if near[0] == 0.0 else 0.25 * near[0]

    def _guess(self, side: int, z: float, value: float) -> float:
        """Where zeta is z by its slope, or by the values next to it; NaN where there are none."""
        zeta, solution = self.found.get(value, (np.inf, None))
        if solution is not None and np.isfinite(solution.slope) and zeta > 0.1 * z:
            slope = solution.slope / (2.0 * zeta)
            if side * slope > 0.0:
                return self.to(value) + side * (z - zeta) / abs(slope)
        known = [
            (self.to(v), rise if side * (v - self.estimate) >= 0.0 else -rise)
            for v, (rise, _) in self.found.items()
            if np.isfinite(self.to(v)) and np.isfinite(rise)
        ]
        known.sort(key=lambda point: abs(point[1] - z))
        return _inverse(known[:4], z, side)

    def _polished(self, side: int, z: float, value: float) -> float:
        """The last correction, smaller than can be told from a solve."""
        guess = self.back(self._guess(side, z, value))
        width = abs(value - self.estimate)
        low, high = self.bounds
        good = np.isfinite(guess) and abs(guess - value) <= 1e-3 * width and low <= guess <= high
        return guess if good else value

    # -- curves -----------------------------------------------------------------------------------

    def fill(self, low: float, high: float, points: int) -> None:
        """More values between the estimate and the ends, about equally far apart in zeta."""
        for side, end in ((-1, low), (1, high)):
            if end == self.estimate:
                continue
            top = self.rise(end)
            for i in range(1, points):
                target = top * i / points
                guess = self.back(self._guess(side, target, np.nan)) if np.isfinite(top) else np.nan
                straight = self.estimate + (end - self.estimate) * i / points
                inside = np.isfinite(guess) and min(self.estimate, end) < guess < max(self.estimate, end)
                self.rise(guess if inside else straight)

    def curve(self, estimate: float) -> Curve:
        """All values that were found."""
        value = np.array(sorted(self.found))
        rise = np.array([self.found[v][0] for v in value])
        sign = np.where(value < self.estimate, -1.0, 1.0)
        return Curve(self.p, estimate, value, sign * rise)


def _inverse(known: list[tuple[float, float]], z: float, side: int) -> float:
    """x at which zeta is z, by the polynomial x(zeta) through the points (Neville)."""
    if len(known) < 2:
        return np.nan
    x, t = [p[0] for p in known], [p[1] for p in known]
    if min(abs(a - b) for i, a in enumerate(t) for b in t[:i]) < 1e-12:
        return np.nan
    ordered = np.argsort(t)
    if np.any(side * np.diff(np.array(x)[ordered]) <= 0.0):
        return np.nan
    size = len(x)
    for level in range(1, size):
        x = [
            ((z - t[i + level]) * x[i] + (t[i] - z) * x[i + 1]) / (t[i] - t[i + level])
            for i in range(size - level)
        ]
    return float(x[0])
