"""Leverages, residuals and deletions against dense formulas; steps of theta against numerical derivatives."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from inference.diagnosed import Dense, fitted_of, theta_of
from problems import PROBLEMS, build

from mme.engine.equations.design import Design, RandomTerm
from mme.exceptions import OptionError
from mme.inference.deletion import by_levels, by_refactoring, has_levels_alone
from mme.inference.influence import of_cases, of_groups
from mme.inference.residuals import KINDS, check_kind, residuals
from mme.inference.rows import fit_rows

# whose X or covariance dense formulas lose digits to, and that without fixed effects
HARD = {"badly_scaled_x", "no_fixed_effects"}
DESIGNS = sorted(set(PROBLEMS) - HARD)
RELATED = {name for name in DESIGNS if any(term.relation is not None for term in build(name).terms)}
# a covariance in the hundreds times the variances: its rounding is above the tolerance here
LEVERAGES = sorted(set(DESIGNS) - {"dense_covariance"})
DELETIONS = sorted(set(DESIGNS) - RELATED)  # refused where levels are related
SOME = [
    "scalar",
    "vector2",
    "diagonal3",
    "same_codes",
    "nested2",
    "crossed_vectors",
    "multi_membership",
    "weighted",
]


def _subsets(fitted):
    """Codes by which rows are left out: of every grouping factor, and of none of the model's."""
    design = fitted.design
    out = [(t.codes.astype(np.int64), t.n_levels) for t in design.terms if t.codes is not None]
    arbitrary = np.arange(design.n) % 7 - 1  # the first of seven always stays
    return [*out, (arbitrary, 6)]


def _agrees(got, j, dense, lost, sigma2, reml):
    left = dense.without(lost)
    p = dense.b.size
    change = dense.b - left.b
    nu = left.y.size - (p if reml else 0)
    np.testing.assert_allclose(got.change[j], change, rtol=1e-7, atol=1e-9 * np.abs(dense.b).max())
    np.testing.assert_allclose(got.sigma2[j], left.r2 / nu, rtol=1e-9)
    np.testing.assert_allclose(
        got.cooks[j], change @ np.linalg.solve(dense.C, change) / (p * sigma2), rtol=1e-7
    )
    np.testing.assert_allclose(
        got.mdffits[j], change @ np.linalg.solve(left.C, change) / (p * sigma2), rtol=1e-7
    )
    ratio = np.linalg.solve(dense.C, left.C)
    np.testing.assert_allclose(got.covratio[j], np.linalg.det(ratio), rtol=1e-9)
    np.testing.assert_allclose(got.covtrace[j], np.trace(ratio) - p, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(got.se, np.sqrt(np.diag(dense.C)), rtol=1e-9)


@pytest.mark.parametrize("name", LEVERAGES)
def test_leverages_and_residuals(name):
    fitted = fitted_of(build(name))
    dense, rows, sigma = Dense.of(fitted), fit_rows(fitted, "a test"), np.sqrt(fitted.sigma2)
    H = np.eye(len(dense.y)) - dense.P / dense.w[:, None]
    np.testing.assert_allclose(rows.leverage, np.diag(H), rtol=0, atol=1e-11)
    fixed = np.diag(dense.X @ dense.C @ dense.X.T @ np.linalg.inv(dense.V))
    np.testing.assert_allclose(rows.leverage_fixed, fixed, rtol=0, atol=1e-11)
    e, m = dense.P @ dense.y / dense.w, dense.y - dense.X @ dense.b
    expected = {
        "raw": e,
        "pearson": np.sqrt(dense.w) * e / sigma,
        "standardized": e / sigma / np.sqrt(np.diag(dense.P) / dense.w**2),
        "marginal": m,
        "marginal-standardized": m / sigma / np.sqrt(np.diag(dense.V - dense.X @ dense.C @ dense.X.T)),
        "whitened": dense.whitened() / sigma,
    }
    assert set(expected) == set(KINDS)
    for kind, values in expected.items():
        np.testing.assert_allclose(residuals(fitted, kind), values, rtol=0, atol=1e-8 * np.abs(values).max())


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", DELETIONS)
def test_deletions_given_theta(name, reml):
    fitted = fitted_of(build(name), reml)
    dense = Dense.of(fitted)
    rows = fit_rows(fitted, "a test")
    cases, n = of_cases(fitted, rows), len(dense.y)
    for i in (0, 5, 17, n - 1):
        _agrees(cases, i, dense, np.arange(n) == i, fitted.sigma2, reml)
    for codes, m in _subsets(fitted):
        groups = of_groups(fitted, rows, codes, m)
        for j in {0, m // 2, m - 1}:
            _agrees(groups, j, dense, codes == j, fitted.sigma2, reml)
        if has_levels_alone(rows):
            same = by_levels(fitted, rows, codes, m).deletions
            for field in ("change", "sigma2", "cooks", "mdffits", "covratio", "covtrace"):
                np.testing.assert_allclose(getattr(same, field), getattr(groups, field), rtol=1e-7, atol=1e-9)


def test_rest_too_large_to_keep_whole(monkeypatch):
    fitted = fitted_of(build("crossed_vectors"))
    codes, m = _subsets(fitted)[1]
    whole = of_groups(fitted, fit_rows(fitted, "a test"), codes, m)
    monkeypatch.setattr("mme.inference.influence._WHOLE", 1)
    pieces = of_groups(fitted, fit_rows(fitted, "a test"), codes, m)
    np.testing.assert_allclose(pieces.change, whole.change, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", SOME)
def test_steps_of_theta_are_newtons(name, reml):
    """Of the dense deviance of the remaining rows, differentiated numerically."""
    design = build(name)
    fitted = fitted_of(design, reml)
    start = theta_of(fitted)
    codes = np.arange(design.n) % 9
    steps, reasons = by_refactoring(fitted, design, codes, 2)
    assert not reasons
    for j in range(2):
        keep = codes != j
        left = Design(
            design.y[keep],
            design.X[keep],
            tuple(_kept(term, keep) for term in design.terms),
            None if design.weights is None else design.weights[keep],
        )
        parts = oracle.split(left, start)
        here = oracle.evaluate(left, parts, reml)
        H = oracle.numerical_hessian(left, parts, reml)
        if (
            np.linalg.eigvalsh(H)[0] < 0.0
        ):  # a variance of zero that the remaining rows would not have at zero
            assert np.isnan(steps.theta[j]).all()
            continue
        np.testing.assert_allclose(
            steps.theta[j], start - np.linalg.solve(H, here.gradient), rtol=0, atol=1e-7
        )
    rows = fit_rows(fitted, "a test")
    if has_levels_alone(rows):
        same = by_levels(fitted, rows, codes, 9)
        np.testing.assert_allclose(same.theta[:2], steps.theta, rtol=0, atol=1e-11)
        np.testing.assert_allclose(same.sigma2[:2], steps.sigma2, rtol=1e-11)


def _kept(term: RandomTerm, keep: np.ndarray) -> RandomTerm:
    if term.Z is not None:
        return RandomTerm(term.name, None, term.n_levels, Z=term.Z[np.flatnonzero(keep)])
    columns = None if term.columns is None else term.columns[keep]
    codes = np.unique(term.codes[keep], return_inverse=True)[1].astype(np.int32)
    return RandomTerm(
        term.name, codes, int(codes.max()) + 1, columns, term.covariance, column_names=term.column_names
    )


def test_many_deletions_come_in_batches(monkeypatch):
    design = build("vector2")
    fitted = fitted_of(design)
    rows, codes = fit_rows(fitted, "a test"), np.arange(design.n)
    whole = by_levels(fitted, rows, codes, design.n)
    monkeypatch.setattr("mme.inference.deletion._BATCH", 1_000)
    pieces = by_levels(fitted, rows, codes, design.n)
    np.testing.assert_allclose(pieces.theta, whole.theta, rtol=0, atol=1e-12)
    np.testing.assert_allclose(pieces.deletions.change, whole.deletions.change, rtol=0, atol=1e-11)
    monkeypatch.setattr("mme.inference.influence._BATCH", 30)
    groups = of_groups(fitted, rows, codes, design.n)
    np.testing.assert_allclose(groups.change, whole.deletions.change, rtol=0, atol=1e-11)


def test_theta_at_the_boundary_stays_there():
    """Its gradient is zero there: only a negative curvature, which is no step, could move it."""
    rng = np.random.default_rng(5)
    codes = np.repeat(np.arange(10, dtype=np.int32), 6)
    y = rng.normal(size=60)
    y -= np.bincount(codes, weights=y)[codes] / 6.0
    design = Design(y + 1.0, np.ones((60, 1)), (RandomTerm("g", codes, 10),))
    fitted = fitted_of(design)
    assert theta_of(fitted)[0] == 0.0
    rows = fit_rows(fitted, "a test")
    np.testing.assert_array_equal(by_levels(fitted, rows, codes.astype(np.int64), 10).theta, 0.0)


def test_without_fixed_effects():
    fitted = fitted_of(build("no_fixed_effects"))
    rows = fit_rows(fitted, "a test")
    codes = fitted.design.terms[0].codes.astype(np.int64)
    groups = of_groups(fitted, rows, codes, 10)
    assert groups.change.shape == (10, 0)
    Z = fitted.design
    left = Dense.of(fitted)
    V = left.V[np.ix_(codes != 3, codes != 3)]
    y = Z.y[codes != 3]
    np.testing.assert_allclose(groups.sigma2[3], y @ np.linalg.solve(V, y) / y.size, rtol=1e-10)
    assert np.isfinite(by_levels(fitted, rows, codes, 10).theta).all()


def test_rows_that_carry_a_coefficient_alone():
    """A column that is not zero in one row: nothing tells it without that row, which the fit goes through."""
    rng = np.random.default_rng(3)
    codes = (np.arange(40) % 8).astype(np.int32)
    X = np.column_stack([np.ones(40), rng.normal(size=40), np.arange(40) == 11])
    y = X @ [1.0, 2.0, 3.0] + rng.normal(size=8)[codes] + 0.5 * rng.normal(size=40)
    fitted = fitted_of(Design(y, X, (RandomTerm("g", codes, 8),)))
    rows = fit_rows(fitted, "a test")
    np.testing.assert_allclose(rows.leverage[11], 1.0)
    cases = of_cases(fitted, rows)
    lost = np.arange(40) == 11
    np.testing.assert_array_equal(np.isnan(cases.cooks), lost)
    np.testing.assert_array_equal(np.isnan(cases.change[:, 0]), lost)
    np.testing.assert_array_equal(np.isnan(residuals(fitted, "standardized")), lost)
    groups = of_groups(fitted, rows, codes.astype(np.int64), 8)
    steps = by_levels(fitted, rows, codes.astype(np.int64), 8)
    for values in (groups.cooks, groups.sigma2, steps.theta[:, 0], steps.sigma2):
        np.testing.assert_array_equal(np.isnan(values), np.arange(8) == 11 % 8)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("standardised", None),
        ("response", None),
        ("Marginal_Standardized", None),
        ("normalized", "'pearson'.*'whitened'"),
        ("pearsn", "Did you mean 'pearson'"),
        ("zzz", "Known: raw, pearson"),
        (3, "kind=3"),
    ],
)
def test_names_of_kinds(kind, words):
    if words is None:
        assert check_kind(kind) in KINDS
    else:
        with pytest.raises(OptionError, match=words):
            check_kind(kind)
