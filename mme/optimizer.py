"""Newton steps with the average information on the reliability scale; knows no matrices of the model.

Coordinates.  For a term with mean cross-product A_bar = R'R per level, the *reliability* of its effects is

    rho = I - (I + R D R')^-1,   0 <= rho < I,   D = R^-1 rho (I - rho)^-1 R^-T,

for a scalar term rho = n D / (1 + n D), the classical shrinkage factor.  Two properties make it the one for
Newton steps.  At D = 0 the deviance has a finite slope (in theta it is stationary by symmetry, a saddle
more often than not), so zero variances and singular factors are ordinary boundary points.  And for balanced
data the average-information step is exact: I - rho is then proportional to the inverse of the expected mean
square between levels, in which the deviance is -q log x + SS x.

Every step minimises the quadratic model over the cone rho >= 0 (`mme.cone`); the predicted decrease of the
undamped model is the Newton decrement with the boundary's conditions in it: it vanishes exactly at points
that satisfy the first-order conditions.  Convergence is declared where it is negligible both in the metric of
the average information and in that of balanced data, which no flat direction of the former can hide.

Where the average information is a poor Hessian (few levels, near-singular terms) its steps converge only
linearly; a symmetric rank-one secant correction, sized as by Dennis, Gay & Welsch (1981, ACM TOMS 7), is then
added to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .cone import ConeBlock, minimise_over_cone
from .covariance import lam_to_theta, theta_to_lam, triangular
from .exceptions import ConvergenceError

__all__ = ["Minimum", "TermSpec", "minimise"]

_LARGEST_DROP = 0.9  # a step may shrink I - rho by a factor of ten in any direction
_MOST_REJECTIONS = 12
_FAR_APART = 1e3  # units of the metric that the search over the cone should not see side by side
_RIDGE = 1e-10  # of the metric of balanced data, added to the average information


@dataclass(frozen=True, eq=False)
class TermSpec:
    """What the optimizer knows of a term.

    Attributes
    ----------
    k : int
    kind : str
        "full" or "diagonal".
    entries : list of (int, int)
    q : int
        Number of levels.
    root : ndarray, shape (k, k)
        R with R'R the mean cross-product of the term's columns per level (diagonal for a diagonal term), in
        the basis of `N_basis` and `information_basis` if the evaluation has them.
    basis : ndarray, shape (k, k), optional
        The design's columns are those of that basis times this.
    """

    k: int
    kind: str
    entries: list[tuple[int, int]]
    q: int
    root: np.ndarray
    basis: np.ndarray | None = None


@dataclass
class Minimum:
    """Where the search ended.

    Attributes
    ----------
    theta : ndarray
    evaluation : object
        Evaluation of order 2 at theta.
    converged : bool
    message : str
    iterations : int
    decrement : float
        Predicted decrease of the deviance still to be had.
    gradient_norm : float
        Length of the projected gradient in the metric of balanced data, where a unit step is about one
        standard error: dimensionless.
    singular : list of int
        Terms with a singular covariance.
    history : list of float
    """

    theta: np.ndarray
    evaluation: object
    converged: bool
    message: str
    iterations: int
    decrement: float
    gradient_norm: float
    singular: list[int]
    history: list[float] = field(default_factory=list)


class _Coordinates:
    """theta <-> rho for all terms, with the derivatives between D and rho."""

    def __init__(self, terms: list[TermSpec]) -> None:
        self.terms = terms
        self.blocks: list[ConeBlock] = []
        self.cones: list[ConeBlock] = []
        self.R: list[np.ndarray] = []
        self.Ri: list[np.ndarray] = []
        self.basis: list[np.ndarray] = []
        start = 0
        for t in terms:
            block = ConeBlock(start, t.k, t.entries)
            self.blocks.append(block)
            if t.kind == "diagonal":
                self.cones += [ConeBlock(start + a, 1, [(0, 0)]) for a in range(t.k)]
            else:
                self.cones.append(block)
            self.R.append(t.root)
            self.Ri.append(np.linalg.inv(t.root))
            self.basis.append(np.eye(t.k) if t.basis is None else t.basis)
            start += block.size
        self.m = start

    def from_theta(self, theta: np.ndarray) -> np.ndarray:
        """Reliabilities of theta as a flat vector."""
        x = np.empty(self.m)
        for t, b, R, B in zip(self.terms, self.blocks, self.R, self.basis, strict=True):
            lam = R @ (B @ theta_to_lam(theta[b.part], t.k, t.kind))
            # I - (I + l l')^-1 = l (I + l'l)^-1 l'
            rho = lam @ np.linalg.solve(np.eye(t.k) + lam.T @ lam, lam.T)
            x[b.part] = rho[b.rows, b.cols]
        return x

    def to_theta(self, x: np.ndarray) -> np.ndarray:
        """theta of the reliabilities."""
        theta = np.empty(self.m)
        for t, b, Ri, B in zip(self.terms, self.blocks, self.Ri, self.basis, strict=True):
            rho = b.mat(x)
            if t.kind == "diagonal":
                r = np.maximum(np.diag(rho), 0.0)
                lam = np.diag(np.sqrt(r / (1.0 - r)) * np.diag(Ri))
            else:
                w, U = np.linalg.eigh(rho)
                w = np.where(w > 1e-14, w, 0.0)
                root = np.linalg.solve(B, Ri @ (U * np.sqrt(w / (1.0 - w))))
                lam = triangular(root) if t.k > 1 else np.abs(root)
            theta[b.part] = lam_to_theta(lam, t.kind)
        return theta

    def derivatives(self, x: np.ndarray, evaluation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradient and average information in rho, and the metric of balanced data (m, m)."""
        g = np.empty(self.m)
        J = np.zeros((self.m, self.m))
        metric = np.zeros((self.m, self.m))
        N_all = evaluation.N if evaluation.N_basis is None else evaluation.N_basis
        for t, b, Ri, N in zip(self.terms, self.blocks, self.Ri, N_all, strict=True):
            C = np.linalg.inv(np.eye(t.k) - b.mat(x))
            RC = Ri @ C
            g[b.part] = b.dual(RC.T @ N @ RC)
            moved = np.einsum("ab,ebc,dc->ead", RC, b.basis, RC)
            J[b.part, b.part] = moved[:, b.rows, b.cols].T
            natural = np.einsum("ab,ebc,cd->ead", C, b.basis, C)
            metric[b.part, b.part] = t.q * np.stack([b.dual(S) for S in natural], axis=1)
        info = evaluation.information_D if evaluation.N_basis is None else evaluation.information_basis
        H = J.T @ info @ J
        return g, 0.5 * (H + H.T), 0.5 * (metric + metric.T)

    def inside(self, x: np.ndarray) -> bool:
        """Whether every rho is positive semidefinite."""
        return all(np.linalg.eigvalsh(c.mat(x))[0] >= 0.0 for c in self.cones)

    def limit(self, x: np.ndarray, step: np.ndarray) -> float:
        """Largest fraction of the step that shrinks I - rho to no less than a tenth in any direction."""
        fraction = 1.0
        for c in self.cones:
            Xi = np.eye(c.k) - c.mat(x)
            L = np.linalg.inv(np.linalg.cholesky(Xi))
            largest = float(np.linalg.eigvalsh(L @ c.mat(step) @ L.T)[-1])
            if largest > _LARGEST_DROP:
                fraction = min(fraction, _LARGEST_DROP / largest)
        return fraction

    def singular_terms(self, x: np.ndarray) -> list[int]:
        """Terms whose reliability has a (numerically) zero eigenvalue."""
        out = []
        for i, b in enumerate(self.blocks):
            rho = b.mat(x)
            smallest = (
                np.min(np.diag(rho)) if self.terms[i].kind == "diagonal" else np.linalg.eigvalsh(rho)[0]
            )
            if smallest < 1e-8:
                out.append(i)
        return out


def minimise(
    evaluate: Callable[[np.ndarray, int], object],
    theta0: np.ndarray,
    terms: list[TermSpec],
    *,
    tol: float = 1e-8,
    max_evaluations: int = 200,
    count: Callable[[], int] | None = None,
    callback: Callable[[int, float, float], None] | None = None,
) -> Minimum:
    """Minimise the deviance.

    Parameters
    ----------
    evaluate : callable (theta, order) -> Evaluation
        Orders 0 and 2 are used; raises numpy.linalg.LinAlgError where it cannot be computed.
    theta0 : ndarray, shape (m,)
    terms : list of TermSpec
    tol : float
        Stop when the predicted decrease of the deviance is below this.
    max_evaluations : int
    count : callable, optional
        Number of factorizations so far.
    callback : callable (iteration, deviance, decrement), optional

    Returns
    -------
    Minimum

    Raises
    ------
    ConvergenceError
        The deviance cannot be computed at the start.
    """
    space = _Coordinates(terms)
    count = count or _Counter()
    x = space.from_theta(np.asarray(theta0, dtype=np.float64))
    theta = space.to_theta(x)
    try:
        ev = evaluate(theta, 2)
    except np.linalg.LinAlgError as error:
        raise ConvergenceError(
            f"the deviance cannot be computed at the start theta = {theta0}: {error}"
        ) from error
    history = [ev.deviance]
    damping = 0.0
    iterations = rejections = 0
    message = ""
    secant, last, slope, whole = _Secant(), np.inf, np.inf, True
    while True:
        g, H, metric = space.derivatives(x, ev)
        H = secant.corrected(x, g, H)
        newton, decrement = _solve_model(space, x, g, H, metric, _RIDGE)
        # steps that had to be cut short say nothing about the model
        secant.slow = whole and iterations >= 2 and decrement > 0.02 * last
        last = decrement
        if callback is not None:
            callback(iterations, ev.deviance, decrement)
        noise = 4e-15 * abs(ev.deviance) + 1e-12
        converged = False
        if decrement <= tol:
            slope = _natural_gradient(space, x, g, metric)
            converged = _is_converged(decrement, slope, tol)
        if converged:
            message = "the predicted decrease of the deviance is below the tolerance"
            break
        moved = False
        while count() < max_evaluations:
            step = newton if damping == 0.0 else _solve_model(space, x, g, H, metric, damping)[0]
            fraction = space.limit(x, step)
            step = step * fraction
            predicted = max(0.0, float(-(g @ step) - 0.5 * step @ H @ step))
            x_new = x + step
            if np.array_equal(x_new, x):
                break  # the step is below rounding: no factorization would be counted
            theta_new = space.to_theta(x_new)
            try:
                trial = evaluate(theta_new, 0)
                actual = ev.deviance - trial.deviance
                if actual >= 1e-4 * predicted - noise:
                    trial = evaluate(theta_new, 2)
            except np.linalg.LinAlgError:
                actual = -np.inf
            if actual >= 1e-4 * predicted - noise:
                ratio = actual / predicted if predicted > 10 * noise else 1.0
                damping = _next_damping(damping, ratio)
                moved = True
                break
            rejections += 1
            damping = 4.0 * damping if damping > 0.0 else 0.25
            if rejections >= _MOST_REJECTIONS or np.abs(step).max() < 1e-12:
                break
        if not moved:
            break
        rejections, whole = 0, fraction == 1.0 and damping == 0.0
        iterations += 1
        x, theta, ev = x_new, theta_new, trial
        history.append(ev.deviance)
    if not converged:
        x, theta, ev, message = _fall_back(space, evaluate, x, theta, ev, max_evaluations, count)
        history.append(ev.deviance)
        g, H, metric = space.derivatives(x, ev)
        decrement = _solve_model(space, x, g, H, metric, _RIDGE)[1]
        slope = _natural_gradient(space, x, g, metric)
        noise = 4e-15 * abs(ev.deviance) + 1e-12
        converged = _is_converged(decrement, slope, max(tol, 10 * noise))
        if converged:
            message = "the predicted decrease is below the tolerance, after a quasi-Newton search"
    return Minimum(
        theta,
        ev,
        bool(converged),
        message,
        iterations,
        float(decrement),
        float(slope),
        space.singular_terms(x),
        [float(d) for d in history],
    )


class _Counter:
    def __call__(self) -> int:
        return 0


class _Secant:
    """Correction of the average information towards the Hessian from successive gradients.

    Set `slow` after an iteration whose decrement has hardly fallen; only then is it built and used.
    The corrected matrix is kept between a tenth and ten times the average information.
    """

    def __init__(self) -> None:
        self.slow = False
        self.x: np.ndarray | None = None
        self.g: np.ndarray | None = None
        self.E: np.ndarray | None = None

    def corrected(self, x: np.ndarray, g: np.ndarray, H: np.ndarray) -> np.ndarray:
        """H plus the correction; remembers x and g for the next call."""
        previous, self.x, old_g, self.g = self.x, x, self.g, g
        if not self.slow or previous is None or old_g is None:
            self.E = None
            return H
        s, y = x - previous, g - old_g
        wanted = float(s @ (y - H @ s))
        E = np.zeros_like(H) if self.E is None else self.E
        present = float(s @ E @ s)
        if present != 0.0:
            E = E * min(1.0, abs(wanted / present))
        r = y - (H + E) @ s
        rs = float(r @ s)
        # in units of the information: reliabilities near one and near zero differ by many orders
        unit = np.sqrt(np.maximum(np.diag(H), np.finfo(float).tiny))
        if abs(rs) > 1e-8 * float(np.linalg.norm(r / unit) * np.linalg.norm(s * unit)):
            E = E + np.outer(r, r) / rs
        self.E = E
        w, V = np.linalg.eigh(H)
        if not w[-1] > 0.0:
            return H
        w = np.maximum(w, 1e-12 * w[-1])
        root, inverse = (V * np.sqrt(w)) @ V.T, (V / np.sqrt(w)) @ V.T
        c, U = np.linalg.eigh(inverse @ E @ inverse)
        factor = root @ U
        return (factor * (1.0 + np.clip(c, -0.9, 9.0))) @ factor.T


def _is_converged(decrement: float, slope: float, tol: float) -> bool:
    # the metric of balanced data overstates the information of unbalanced or partly confounded terms, so its
    # decrement is the smaller one: a factor in hand
    return decrement <= tol and slope <= 100.0 * np.sqrt(tol)


def _natural_gradient(space: _Coordinates, x: np.ndarray, g: np.ndarray, metric: np.ndarray) -> float:
    """sqrt(2 x predicted decrease) with the metric of balanced data as the Hessian."""
    return float(np.sqrt(2.0 * _solve_model(space, x, g, metric, metric, 0.0)[1]))


def _next_damping(damping: float, ratio: float) -> float:
    if ratio > 0.7:
        damping *= 0.2
        return damping if damping > 1e-5 else 0.0
    if ratio < 0.25:
        return max(2.0 * damping, 0.1)
    return damping


def _solve_model(
    space: _Coordinates, x: np.ndarray, g: np.ndarray, H: np.ndarray, metric: np.ndarray, damping: float
) -> tuple[np.ndarray, float]:
    """Minimising step of the (damped) quadratic model over the cone, and its decrease.

    In units in which the metric is the identity, so that directions of all terms and sizes compare; negative
    eigenvalues of H (rounding: the average information is positive semidefinite) count as zero.
    """
    unit = 1.0 / np.sqrt(np.diag(metric))
    K = (H + damping * metric) * np.outer(unit, unit)
    w, V = np.linalg.eigh(0.5 * (K + K.T))
    floor = max(_RIDGE, 1e-13 * w[-1])
    if w[0] < floor:
        w = np.maximum(w, floor)
        K = (V * w) @ V.T
    step = -(V @ ((V.T @ (g * unit)) / w)) * unit
    if not space.inside(x + step):
        K = K / np.outer(unit, unit)
        size = np.ones_like(unit)
        if unit.max() > _FAR_APART * unit.min():
            # a unit per cone, to which it is blind: the metric of a reliability near one is far larger
            for c in space.cones:
                size[c.part] = np.exp(np.mean(np.log(unit[c.part])))
        step = size * minimise_over_cone(x / size, g * size, K * np.outer(size, size), space.cones) - x
        return step, max(0.0, float(-(g @ step) - 0.5 * step @ K @ step))
    return step, max(0.0, float(-0.5 * (g @ step)))


def _fall_back(space, evaluate, x, theta, ev, max_evaluations, count):
    """Quasi-Newton search in theta from the best point; returns the better of the two."""
    best = {"theta": theta, "deviance": ev.deviance}

    def objective(trial: np.ndarray) -> tuple[float, np.ndarray]:
        try:
            e = evaluate(trial, 1)
        except np.linalg.LinAlgError:
            return 1e300, np.zeros_like(trial)
        if e.deviance < best["deviance"]:
            best.update(theta=trial.copy(), deviance=e.deviance)
        return e.deviance, e.gradient

    budget = max_evaluations - count()
    if budget <= 2:
        return x, theta, ev, f"stopped after {count()} evaluations without convergence"
    from scipy.optimize import minimize  # rarely needed, and slow to import

    minimize(
        objective, theta, jac=True, method="L-BFGS-B", options={"maxfun": budget, "ftol": 1e-15, "gtol": 1e-9}
    )
    message = "neither average-information nor quasi-Newton steps decrease the deviance further"
    found = space.from_theta(best["theta"])
    try:
        return found, space.to_theta(found), evaluate(space.to_theta(found), 2), message
    except np.linalg.LinAlgError:  # no derivatives there: stay where they could be computed
        return x, theta, evaluate(theta, 2), message
