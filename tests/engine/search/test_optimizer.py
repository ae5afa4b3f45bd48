"""The search on deviances in closed form: rejected steps, budgets, failures, the quasi-Newton fall-back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from mme.engine.covariance.factors import theta_to_lam
from mme.engine.covariance.structure import DIAGONAL, FULL, structure_of
from mme.engine.direct.objective import Evaluation
from mme.engine.search import optimizer
from mme.engine.search.coordinates import Coordinates, QuadraticModel
from mme.engine.search.optimizer import TermSpec, minimise
from mme.exceptions import ConvergenceError


@dataclass
class Balanced:
    """Deviance of balanced scalar terms, sum of q log(1 + n D) + SS / (1 + n D), D = theta^2.

    Attributes
    ----------
    q, ss : tuple of float
        The optimum of a term is at 1 + n D = SS / q, or at D = 0 if SS < q.
    sign, scale : float
        Wrong factors of the derivative and of the information that the search is given; `gradient`, which
        only the quasi-Newton search reads, is right.
    forbidden : float
        theta from which the deviance cannot be computed.
    """

    q: tuple[float, ...] = (20.0, 30.0)
    ss: tuple[float, ...] = (60.0, 45.0)
    n: float = 4.0
    sign: float = 1.0
    scale: float = 1.0
    forbidden: float = np.inf
    calls: list[tuple[int, float]] = field(default_factory=list)

    def __call__(self, theta: np.ndarray, order: int) -> Evaluation:
        if np.any(np.abs(theta) >= self.forbidden):
            raise np.linalg.LinAlgError("overflow")
        q, ss = np.array(self.q), np.array(self.ss)
        x = 1.0 / (1.0 + self.n * theta**2)
        deviance = float(np.sum(-q * np.log(x) + ss * x))
        self.calls.append((order, deviance))
        N = self.n * (q * x - ss * x**2)
        information = np.diag(self.scale * (self.n * x) ** 2 * np.maximum(2.0 * ss * x - q, 0.1 * q))
        return Evaluation(
            theta.copy(),
            deviance,
            1.0,
            [np.array([[self.sign * v]]) for v in N],
            2.0 * N * theta,
            information,
        )

    @property
    def terms(self) -> list[TermSpec]:
        return [TermSpec(1, FULL, int(q), np.array([[np.sqrt(self.n)]])) for q in self.q]

    @property
    def optimum(self) -> np.ndarray:
        return np.sqrt(np.maximum(np.array(self.ss) / np.array(self.q) - 1.0, 0.0) / self.n)

    @property
    def least(self) -> float:
        q, ss = np.array(self.q), np.maximum(self.ss, self.q)
        return float(np.sum(np.where(np.array(self.ss) > q, q * np.log(ss / q) + q, self.ss)))

    def search(self, start: float = 1.0, **options: object) -> optimizer.Minimum:
        theta0 = np.full(len(self.q), start)
        return minimise(self, theta0, self.terms, count=lambda: len(self.calls), **options)

    def rejected(self) -> int:
        """Order 0 evaluations that no order 2 followed."""
        orders = [order for order, _ in self.calls]
        return sum(a == 0 and b != 2 for a, b in zip(orders, [*orders[1:], 0], strict=True))


def assert_optimum(problem: Balanced, found: optimizer.Minimum, rtol: float = 1e-5) -> None:
    assert found.converged, found.message
    np.testing.assert_allclose(found.theta, problem.optimum, rtol=rtol, atol=1e-7)
    assert found.evaluation.deviance == pytest.approx(problem.least, abs=1e-7)
    assert found.decrement <= 1e-8


@pytest.mark.parametrize("start", [0.0, 0.01, 1.0, 30.0])
def test_balanced_terms_take_a_few_steps(start):
    problem = Balanced()
    found = problem.search(start, tol=1e-12)
    assert_optimum(problem, found)
    assert found.iterations <= 10 and found.singular == []
    assert found.gradient_norm < 1e-3
    deviances = found.history
    assert len(deviances) == found.iterations + 1
    assert np.all(np.diff(deviances) < 1e-9)


def test_a_term_without_variance_ends_at_zero_exactly():
    problem = Balanced(ss=(60.0, 12.0))
    found = problem.search()
    assert_optimum(problem, found)
    assert found.theta[1] == 0.0 and found.singular == [1]


def test_the_callback_sees_every_iteration():
    seen = []
    problem = Balanced()
    found = problem.search(0.01, callback=lambda *step: seen.append(step))
    assert [i for i, _, _ in seen] == list(range(found.iterations + 1))
    np.testing.assert_array_equal([d for _, d, _ in seen], found.history)
    assert seen[-1][2] <= 1e-8 < seen[0][2]
    # the decrement of the first point predicts about what was gained
    assert 0.2 < seen[0][2] / (found.history[0] - found.history[-1]) < 5.0


@pytest.mark.parametrize("scale", [0.02, 0.3, 4.0, 30.0])
def test_information_of_the_wrong_size(scale):
    """Too small: steps are too long and are damped. Too large: a secant correction makes up for it."""
    problem = Balanced(scale=scale)
    found = problem.search(0.05)
    assert_optimum(problem, found, rtol=1e-3)
    assert "quasi-Newton" not in found.message
    # with steps too short by 30 alone, a thousandth of the way would be left after 200
    assert found.iterations <= 40
    if scale < 0.1:
        assert problem.rejected() > 0


def test_steps_uphill_are_rejected_and_the_fall_back_finds_the_optimum():
    """The derivative has the wrong sign: no step helps, and the search says so after so many."""
    problem = Balanced(sign=-1.0)
    found = problem.search(1.0)
    assert problem.rejected() >= optimizer._MOST_REJECTIONS
    orders = [order for order, _ in problem.calls]
    first = orders.index(1)  # the first evaluation of the quasi-Newton search
    assert orders[:first].count(0) == optimizer._MOST_REJECTIONS
    assert orders[:first].count(2) == 1
    assert set(orders) == {0, 1, 2}
    assert found.iterations == 0
    np.testing.assert_allclose(found.theta, problem.optimum, rtol=1e-4)
    assert found.evaluation.deviance == pytest.approx(problem.least, abs=1e-8)
    # the conditions hold there whatever the sign
    assert found.converged and "quasi-Newton" in found.message
    assert found.history[0] > found.history[-1] == found.evaluation.deviance


def test_a_fall_back_that_meets_points_without_a_value():
    """They are worse than any other point; what is returned has derivatives and is the best point seen."""
    problem = Balanced(sign=-1.0, forbidden=1.5)
    found = problem.search(1.0)
    assert found.evaluation.deviance == min(d for _, d in problem.calls) < found.history[0] - 1.0
    assert found.evaluation.information_D is not None


def test_a_fall_back_that_is_no_optimum_is_not_converged():
    """A derivative that never vanishes: the best point is kept, the conditions fail there, and it is said."""

    class Constant(Balanced):
        def __call__(self, theta: np.ndarray, order: int) -> Evaluation:
            e = super().__call__(theta, order)
            return Evaluation(e.theta, e.deviance, 1.0, [-50.0 * np.eye(1)] * 2, e.gradient, e.information_D)

    problem = Constant(ss=(60.0, 90.0))
    found = problem.search(problem.optimum[0])
    assert not found.converged
    assert "neither average-information nor quasi-Newton steps" in found.message
    assert found.decrement > 1e-3 and found.gradient_norm > 1e-2
    np.testing.assert_allclose(found.theta, problem.optimum, rtol=1e-4)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_budget_is_kept(most):
    problem = Balanced(scale=0.02)
    found = problem.search(0.05, max_evaluations=most)
    assert not found.converged
    assert "evaluation" in found.message and str(len(problem.calls)) in found.message
    # a step is one trial, and its derivatives where it is accepted
    assert len(problem.calls) <= most + 2
    assert found.evaluation.deviance == min(d for order, d in problem.calls if order == 2)


def test_what_cannot_be_computed_is_stepped_around():
    problem = Balanced(scale=0.02, forbidden=1.0)
    assert_optimum(problem, problem.search(0.05), rtol=1e-3)


def test_a_start_that_cannot_be_computed():
    with pytest.raises(ConvergenceError, match=r"at the start theta = .*overflow"):
        Balanced(forbidden=1.0).search(2.0)


def test_vector_terms_in_a_basis():
    """D of rank two in the columns' own basis is found through another one."""
    q, n = 40, 5.0
    basis = np.array([[1.0, 3.0], [0.0, 0.5]])
    S = np.array([[90.0, 20.0], [20.0, 70.0]])

    def evaluate(theta: np.ndarray, order: int) -> Evaluation:
        lam = theta_to_lam(theta, 2, "full")
        inner = basis @ lam
        C = np.eye(2) + n * inner @ inner.T
        X = np.linalg.inv(C)
        N = n * (q * X - X @ S @ X)
        units = [np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([0.0, 1.0])]
        H = np.array([[q * n**2 * np.trace(X @ a @ X @ b) for b in units] for a in units])
        deviance = q * np.linalg.slogdet(C)[1] + float(np.trace(S @ X))
        return Evaluation(theta.copy(), deviance, 1.0, [basis.T @ N @ basis], None, H, None, [N], H)

    term = TermSpec(2, FULL, q, np.sqrt(n) * np.eye(2), basis)
    found = minimise(evaluate, np.array([1.0, 0.0, 1.0]), [term])
    lam = theta_to_lam(found.theta, 2, "full")
    expected = np.linalg.solve(basis, np.linalg.solve(basis, (S / q - np.eye(2)) / n).T)
    assert found.converged and found.singular == []
    np.testing.assert_allclose(lam @ lam.T, expected, rtol=1e-5)


def test_steps_within_the_rounding_of_the_deviance_end_the_search():
    """The derivative is good to 1e-4: no step helps the next, each is accepted, and the search says why."""

    class Rough(Balanced):
        def __call__(self, theta: np.ndarray, order: int) -> Evaluation:
            e = super().__call__(theta, order)
            turn = 1e-4 * (-1.0) ** sum(o == 2 for o, _ in self.calls)
            N = [v + turn * q * self.n for v, q in zip(e.N, self.q, strict=True)]
            return Evaluation(
                e.theta, e.deviance, 1.0, N, e.gradient, e.information_D, noise=1e-6 if order == 2 else 2e-6
            )

    problem = Rough()
    found = problem.search(1.0, tol=1e-12)
    assert found.converged
    assert "below the rounding error of the deviance (1e-06)" in found.message
    assert found.decrement < 1e-5
    assert len(problem.calls) < 30
    np.testing.assert_allclose(found.theta, problem.optimum, rtol=1e-3)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ((0.5, 1.5), (0.5, 1.5)),  # more curvature wanted than there is: the old correction stays as it is
        ((0.25, 0.0), (0.25, 0.0)),  # less: it is sized down
        ((-0.5, -0.25), (-0.5, -0.25)),
    ],
)
def test_the_secant_correction_learns_one_direction_at_a_time(second, expected):
    """Near zero variance steps of the reliability add up: what two successive ones say of the Hessian."""
    space = Coordinates([TermSpec(1, FULL, 4, np.eye(1)) for _ in range(2)])
    secant = optimizer._Secant(space)
    secant.slow = True
    size, H = 1e-7, 2.0 * np.eye(2)
    ds = size * np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 2.0]])
    extra = [np.zeros(2), np.array([0.5, 0.0]), np.array(second)]
    g = np.zeros(2)
    got = []
    for d, before, more in zip(ds, [ds[0], *ds[:-1]], extra, strict=True):
        g = g + H @ (d - before) + size * more
        got.append(secant.corrected(space.at(np.sqrt(d)), QuadraticModel(g, H, space.metric)).H)
    np.testing.assert_array_equal(got[0], H)
    np.testing.assert_allclose(got[1], H + np.diag([0.5, 0.0]), atol=1e-5)
    np.testing.assert_allclose(got[2] @ [1.0, 1.0], H @ [1.0, 1.0] + second, atol=1e-5)
    if second != (-0.5, -0.25):
        np.testing.assert_allclose(got[2], H + np.diag(expected), atol=1e-5)


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_a_step_is_cut_where_it_would_nearly_use_up_a_direction(kind):
    """To a tenth of I - rho in the direction that shrinks the most, which need not be an axis."""
    structure = structure_of(kind)
    space = Coordinates([TermSpec(3, structure, 5, np.eye(3))])
    Q = np.eye(3) if kind == "diagonal" else np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    for largest, fraction in [(0.5, 1.0), (0.9, 1.0), (1.8, 0.5), (9.0, 0.1)]:
        E = (Q * [-20.0, 0.3, largest]) @ Q.T
        e = np.array([E[a, b] for a, b in structure.entries(3)])
        assert space.limit(e) == pytest.approx(fraction, rel=1e-12)


def test_steps_that_stall_above_the_rounding_go_on():
    """Derivatives are bad for a while: the decrement stays at tens of the noise, and then falls."""
    noise, decrements = 1e-7, []

    class Rough(Balanced):
        def __call__(self, theta: np.ndarray, order: int) -> Evaluation:
            e = super().__call__(theta, order)
            number = sum(o == 2 for o, _ in self.calls)
            turn = 1e-4 * (-1.0) ** number if number <= 12 else 0.0
            N = [v + turn * q * self.n for v, q in zip(e.N, self.q, strict=True)]
            return Evaluation(e.theta, e.deviance, 1.0, N, e.gradient, e.information_D, noise=noise)

    problem = Rough()
    found = problem.search(1.0, tol=1e-12, callback=lambda i, d, decrement: decrements.append(decrement))
    stalled = np.array(decrements[8:12])
    assert np.all((stalled > 11.0 * noise) & (stalled < 90.0 * noise)), decrements
    assert found.converged and {order for order, _ in problem.calls} == {0, 2}
    assert found.decrement <= 1e-12
    np.testing.assert_allclose(found.theta, problem.optimum, rtol=1e-5)


def test_the_largest_reliability_is_that_of_any_term_and_direction():
    space = Coordinates([TermSpec(1, FULL, 5, np.eye(1)), TermSpec(2, DIAGONAL, 5, np.eye(2))])
    # theta squared is the variance ratio, one observation's worth of information per level
    assert space.at(np.array([1.0, 0.0, 3.0])).largest() == pytest.approx(0.9, rel=1e-14)
    assert space.at(np.array([3.0, 0.5, 0.0])).largest() == pytest.approx(0.9, rel=1e-14)
    assert space.at(space.uniform(0.75)).largest() == pytest.approx(0.75, rel=1e-14)
