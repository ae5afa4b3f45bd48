"""MixedLM's likelihood and fits: against dense formulas, central differences and statsmodels itself."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.linalg as sl
from numpy.testing import assert_allclose
from statsmodels.base import _penalties as penalties
from statsmodels.regression.mixed_linear_model import MixedLM as Original
from statsmodels.regression.mixed_linear_model import MixedLMParams as OriginalParams
from support import load_data

import mme
from mme import MixedLMParams
from mme.engine.direct import second
from mme.facade import hessian as mixedlm_hessian


def _data(k_re, k_vc, seed=0, groups=12):
    """Unbalanced groups, shuffled rows, a component of two columns and two of one, as matrices per group."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(groups), rng.integers(4, 9, size=groups)))
    n = codes.size
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    Z = rng.normal(size=(n, max(k_re, 1))) + 1.0
    V = rng.normal(size=(n, 4))
    y = X @ [1.0, 2.0] + rng.normal(size=n)
    y += np.sum(Z * rng.normal(size=(groups, Z.shape[1]))[codes], axis=1)
    y += np.sum(V * rng.normal(size=(groups, 4))[codes], axis=1)
    widths = [2, 1, 1][:k_vc]
    names, colnames, mats, start = [], [], [], 0
    for name, width in zip("abc", widths, strict=False):
        names.append(name)
        mats.append([V[codes == g, start : start + width] for g in range(groups)])
        colnames.append([[f"{name}{j}" for j in range(width)] for _ in range(groups)])
        start += width
    spec = (names, colnames, mats) if names else None
    return y, X, codes, Z if k_re else None, spec


def _pair(k_re, k_vc, use_sqrt=True, seed=0):
    """The same model, mme's and statsmodels'."""
    from statsmodels.regression.mixed_linear_model import VCSpec as OriginalSpec

    y, X, codes, Z, spec = _data(k_re, k_vc, seed)
    kwargs = {"exog_re": Z, "use_sqrt": use_sqrt}
    ours = mme.MixedLM(y, X, codes, exog_vc=mme.VCSpec(*spec) if spec else None, **kwargs)
    theirs = Original(y, X, codes, exog_vc=OriginalSpec(*spec) if spec else None, **kwargs)
    theirs.cov_pen, theirs._freepat, theirs._cov_sing = None, None, 0
    return ours, theirs


def _random(model, rng, cls=MixedLMParams):
    root = rng.normal(size=(model.k_re, model.k_re)) + np.eye(model.k_re)
    return cls.from_components(
        rng.normal(size=model.k_fe), cov_re=root @ root.T, vcomp=rng.uniform(0.1, 2.0, size=model.k_vc)
    )


def _dense_loglike(model, params, reml):
    """Log-likelihood from the marginal covariance over the rows."""
    n, p = model.exog.shape
    V = np.eye(n)
    for g, label in enumerate(model.group_labels):
        rows = model.row_indices[label]
        block = np.zeros((rows.size, rows.size))
        if model.k_re:
            z = model.exog_re[rows]
            block += z @ params.cov_re @ z.T
        for mats, v in zip(model.exog_vc.mats, params.vcomp, strict=True):
            block += v * mats[g] @ mats[g].T
        V[np.ix_(rows, rows)] += block
    L = np.linalg.cholesky(V)
    r = sl.solve_triangular(L, model.endog - model.exog @ params.fe_params, lower=True)
    X = sl.solve_triangular(L, model.exog, lower=True)
    nu = n - p if reml else n
    value = 2 * np.log(np.diag(L)).sum() + nu * (1 + np.log(2 * np.pi * (r @ r) / nu))
    if reml:
        value += np.linalg.slogdet(X.T @ X)[1]
    return -0.5 * value


MODELS = [(1, 0), (2, 0), (3, 0), (0, 1), (0, 3), (1, 1), (1, 3), (2, 2), (3, 1), (3, 3)]


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(("k_re", "k_vc"), MODELS)
def test_loglike_against_dense(k_re, k_vc, reml):
    model, _ = _pair(k_re, k_vc)
    model.reml = reml
    params = _random(model, np.random.default_rng(1))
    got = model.loglike(params, profile_fe=False)
    assert_allclose(got, _dense_loglike(model, params, reml), rtol=1e-12)
    beta, singular = model.get_fe_params(params.cov_re, params.vcomp)
    assert not singular
    best = MixedLMParams.from_components(beta, cov_re=params.cov_re, vcomp=params.vcomp)
    assert_allclose(model.loglike(params), _dense_loglike(model, best, reml), rtol=1e-12)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("use_sqrt", [True, False])
@pytest.mark.parametrize(("k_re", "k_vc"), MODELS)
def test_against_statsmodels(k_re, k_vc, use_sqrt, reml):
    ours, theirs = _pair(k_re, k_vc, use_sqrt)
    ours.reml = theirs.reml = reml
    rng = np.random.default_rng(2)
    for _ in range(3):
        p = _random(ours, rng)
        q = OriginalParams.from_components(p.fe_params.copy(), cov_re=p.cov_re, vcomp=p.vcomp)
        for profile in (False, True):
            assert_allclose(ours.loglike(p, profile), theirs.loglike(q, profile), rtol=1e-10)
            got, expected = ours.score(p, profile), theirs.score(q.copy(), profile)
            assert_allclose(got, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
        for got, expected in zip(ours.score_full(p, True), theirs.score_full(q, True), strict=True):
            assert_allclose(got, expected, rtol=1e-8, atol=1e-8)
        assert_allclose(
            ours.get_scale(p.fe_params, p.cov_re, p.vcomp), theirs.get_scale(*_args(q)), rtol=1e-10
        )
        # statsmodels leaves out what vanishes at the best fixed effects: compare there
        q.fe_params = p.fe_params = ours.get_fe_params(p.cov_re, p.vcomp)[0]
        got, expected = ours.hessian(p)[0], theirs.hessian(q)[0]
        size = np.sqrt(np.abs(np.diag(expected)))
        # differences of exact scores: 1e-8 on the scale of the diagonal
        assert np.max(np.abs(got - expected) / np.outer(size, size)) < 1e-8


def _args(params):
    return params.fe_params, params.cov_re, params.vcomp


def _difference(f, x, h=1e-4):
    """Fourth-order central differences of f (scalar or vector) at x."""
    columns = []
    for j in range(x.size):
        e = np.zeros(x.size)
        e[j] = h * max(abs(x[j]), 0.1)
        step = e[j]
        columns.append((8 * (f(x + e) - f(x - e)) - (f(x + 2 * e) - f(x - 2 * e))) / (12 * step))
    return np.array(columns)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("penalized", [False, True])
@pytest.mark.parametrize("use_sqrt", [True, False])
@pytest.mark.parametrize(("k_re", "k_vc"), MODELS)
def test_score_and_hessian_against_differences(k_re, k_vc, use_sqrt, penalized, reml):
    model, _ = _pair(k_re, k_vc, use_sqrt)
    model.reml = reml
    assert model.likelihood.second_is_exact(reml)
    if penalized:
        model.fe_pen, model.cov_pen = penalties.L2(), penalties.PSD(0.7)
    params = _random(model, np.random.default_rng(3))
    k_fe = model.k_fe

    def unpack(x, sqrt):
        return MixedLMParams.from_packed(x, k_fe, k_re, sqrt, True)

    x = params.get_packed(use_sqrt=use_sqrt, has_fe=True)
    expected = _difference(lambda v: model.loglike(unpack(v, use_sqrt), profile_fe=False), x)
    got = model.score(params, profile_fe=False)
    assert_allclose(got, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    x = params.get_packed(use_sqrt=False, has_fe=True)
    expected = _difference(lambda v: np.concatenate(model.score_full(unpack(v, False), True)), x)
    got, singular = model.hessian(params)
    assert not singular
    assert_allclose(got, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert_allclose(model.information(params), -got)


class Ridge:
    """A penalty of the user's own: with a first derivative, without a second."""

    alpha = 1.0

    def func(self, params):
        return float(np.sum(np.exp(0.3 * params)))

    def deriv(self, params):
        return 0.3 * np.exp(0.3 * params)


@pytest.mark.parametrize("reml", [True, False])
def test_hessian_with_a_penalty_without_second_derivative(reml):
    """Taken by differences of the first, with the sign of a penalty: the information grows."""
    model, _ = _pair(1, 1)
    model.reml = reml
    params = _random(model, np.random.default_rng(3))
    plain, _ = model.hessian(params)
    model.fe_pen = Ridge()
    assert not hasattr(model.fe_pen, "deriv2")
    got, _ = model.hessian(params)
    expected = np.zeros_like(plain)
    expected[:2, :2] = np.diag(-0.09 * np.exp(0.3 * params.fe_params))
    assert_allclose(got - plain, expected, atol=1e-7)
    assert_allclose(model.information(params), -got)


@pytest.mark.parametrize("matrix", [False, True])
def test_hessian_with_a_penalty_that_has_a_second_derivative(matrix):
    """As its diagonal or as a matrix, with a penalty's sign."""

    class Quadratic:
        S = np.array([[2.0, 0.5], [0.5, 1.0]]) if matrix else np.diag([2.0, 1.0])

        def func(self, params):
            return 0.5 * params @ self.S @ params

        def deriv(self, params):
            return self.S @ params

        def deriv2(self, params):
            return self.S if matrix else np.diag(self.S)

    model, _ = _pair(1, 1)
    params = _random(model, np.random.default_rng(3))
    plain, _ = model.hessian(params)
    model.fe_pen = Quadratic()
    expected = np.zeros_like(plain)
    expected[:2, :2] = -Quadratic.S
    assert_allclose(model.hessian(params)[0] - plain, expected, atol=1e-9)


def test_natural_sizes_of_the_covariances():
    """Mean squares per group are the inverse of the variance that matters; the room is up to singularity."""
    _, _, groups, Z, spec = _data(2, 1)
    model, _ = _pair(2, 1)
    likelihood = model.likelihood
    n_groups = np.unique(groups).size
    assert_allclose(likelihood.term_squares(0), np.sum(Z**2, axis=0) / n_groups, rtol=1e-12)
    V = np.concatenate([m.ravel() for m in spec[2][0]])
    assert_allclose(likelihood.term_squares(1), np.sum(V**2) / (2 * n_groups), rtol=1e-12)

    D, v = np.array([[4.0, 1.0], [1.0, 1.0]]), np.array([0.1, 2.0])
    floors = [np.array([1.0, 2.0]), np.array([0.5]), np.array([0.5])]
    directions = mixedlm_hessian.feasible_directions(D, v, floors)
    for E, e, room in directions[:3]:
        assert not e.any()
        assert np.linalg.eigvalsh(D - room * E)[0] == pytest.approx(0.0, abs=1e-12)
    assert_allclose([e for _, e, _ in directions[3:]], np.diag([0.5, 2.0]))
    assert_allclose([room for _, _, room in directions[3:]], [0.2, 1.0])
    singular = mixedlm_hessian.feasible_directions(
        np.array([[4.0, 2.0], [2.0, 1.0]]), np.zeros(1), floors[:2]
    )
    assert [room for _, _, room in singular] == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["loglike", "score"])
def test_fixed_effects_are_profiled_out_or_held_by_default_as_in_statsmodels(name):
    model, original = _pair(1, 1)
    params = _random(model, np.random.default_rng(3))
    theirs = _random(original, np.random.default_rng(3), OriginalParams)
    assert_allclose(getattr(model, name)(params), getattr(original, name)(theirs), rtol=1e-7)


def test_sizes_of_the_groups_in_the_summary():
    model, _ = _pair(1, 0)
    sizes = np.unique(_data(1, 0)[2], return_counts=True)[1]
    assert sizes.min() < sizes.max()
    table = model.fit().summary().tables[0].astype(str)
    shown = {k.strip().rstrip(":"): v for a, b, c, d in table.to_numpy() for k, v in ((a, b), (c, d))}
    assert int(shown["Min. group size"]) == sizes.min()
    assert int(shown["Max. group size"]) == sizes.max()
    assert float(shown["Mean group size"]) == pytest.approx(sizes.mean(), abs=0.05)


@pytest.mark.parametrize("use_sqrt", [True, False])
def test_a_negative_variance_has_no_likelihood(use_sqrt):
    """Minus infinity for a search to turn back from, an error for derivatives; a wrong number of them too."""
    model, _ = _pair(1, 2, use_sqrt)
    inside = MixedLMParams.from_components(np.zeros(2), cov_re=np.eye(1), vcomp=np.array([0.5, 0.5]))
    assert np.isfinite(model.loglike(inside))
    for cov_re, vcomp in ((1.0, [0.5, -1e-8]), (1.0, [-0.5, 0.5]), (-0.1, [0.5, 0.5]), (np.nan, [0.5, 0.5])):
        outside = MixedLMParams.from_components(
            np.zeros(2), cov_re=np.array([[cov_re]]), vcomp=np.array(vcomp)
        )
        for profile in (True, False):
            assert model.loglike(outside, profile) == -np.inf
        with pytest.raises(ValueError, match="not positive semidefinite"):
            model.score(outside)
    if not use_sqrt:
        assert model.loglike(np.array([1.0, 0.5, -0.5])) == -np.inf
    for wrong in ([0.5], [0.5] * 3):
        few = MixedLMParams.from_components(np.zeros(2), cov_re=np.eye(1), vcomp=np.array(wrong))
        with pytest.raises(ValueError, match="2 variance components"):
            model.loglike(few)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(("k_re", "k_vc"), MODELS)
def test_exact_second_derivatives_against_differences_of_the_score(k_re, k_vc, reml, monkeypatch):
    """The two ways to the block of the (co)variances; the second is taken where the first would cost more."""
    model, _ = _pair(k_re, k_vc)
    model.reml = reml
    params = _random(model, np.random.default_rng(6))
    exact, _ = model.hessian(params)
    assert model.likelihood.second_is_exact(reml)
    monkeypatch.setattr(model.likelihood, "second_is_exact", lambda reml: False)
    by_differences, _ = model.hessian(params)
    size = np.sqrt(np.abs(np.diag(exact)))
    assert np.max(np.abs(exact - by_differences) / np.outer(size, size)) < 1e-7
    assert not np.array_equal(exact, by_differences)


def test_exact_second_derivatives_in_batches(monkeypatch):
    """Vectors that do not fit into one batch: two columns per group, one vector at a time."""
    model, _ = _pair(2, 2)
    params = _random(model, np.random.default_rng(6))
    expected, _ = model.hessian(params)
    monkeypatch.setattr(second, "_BATCH", 1)
    assert_allclose(model.hessian(params)[0], expected, rtol=1e-10)


@pytest.mark.parametrize("reml", [True, False])
def test_hessian_where_the_covariance_is_singular(reml):
    """One-sided differences of the exact score at D of rank one and a variance of zero."""
    model, _ = _pair(2, 2)
    model.reml = reml
    at = MixedLMParams.from_components(
        np.array([1.0, 2.0]), cov_re=np.array([[1.0, 0.5], [0.5, 0.25]]), vcomp=np.array([0.5, 0.0])
    )
    got, singular = model.hessian(at)
    assert singular
    x = at.get_packed(use_sqrt=False, has_fe=True)

    def slope(step):
        return np.concatenate(model.score_full(MixedLMParams.from_packed(x + step, 2, 2, False, True), True))

    # directions that stay inside: D + h I in its two variances, the zero variance upwards
    for direction in ([0, 0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1, 0]):
        e = 1e-3 * np.array(direction, dtype=float)
        f = [slope(i * e) for i in range(5)]
        expected = (-25 * f[0] + 48 * f[1] - 36 * f[2] + 16 * f[3] - 3 * f[4]) / 12e-3
        # scores at a singular D are good to 1e-8 of their size, 1e-5 after division by the step
        assert_allclose(got @ direction, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("use_sqrt", [True, False])
@pytest.mark.parametrize(("k_re", "k_vc"), MODELS)
def test_profile_score_against_differences(k_re, k_vc, use_sqrt, reml):
    model, _ = _pair(k_re, k_vc, use_sqrt)
    model.reml = reml
    x = _random(model, np.random.default_rng(4)).get_packed(use_sqrt=use_sqrt)
    expected = _difference(model.loglike, x)
    assert_allclose(model.score(x), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def _pattern(model, rng):
    """Ones and zeros, at least one zero and one one among the covariance parameters; D's diagonal free."""
    off = np.tril(rng.integers(0, 2, size=(model.k_re, model.k_re)), -1)
    free = MixedLMParams.from_components(
        np.array([1.0, 0.0]),
        cov_re=np.eye(model.k_re) + off + off.T,
        vcomp=(np.arange(model.k_vc) % 2 == 1).astype(float),
    )
    return free


@pytest.mark.parametrize("reml", [True, False])
# not both: profiling is over the unpenalized estimate, as in statsmodels, where the penalty has a slope
@pytest.mark.parametrize(("profile", "penalized"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize(("k_re", "k_vc"), MODELS)
def test_score_with_a_pattern_of_free_parameters(k_re, k_vc, profile, penalized, reml):
    """Free entries as ever, zero where the pattern holds a parameter, fixed effects included."""
    model, _ = _pair(k_re, k_vc, use_sqrt=False)
    model.reml = reml
    if penalized:
        model.fe_pen, model.cov_pen = penalties.L2(), penalties.PSD(0.7)
    params, free = _random(model, np.random.default_rng(3)), _pattern(model, np.random.default_rng(5))
    model._freepat = free
    got = model.score(params, profile_fe=profile)
    mask = free.get_packed(use_sqrt=False, has_fe=not profile)
    x = params.get_packed(use_sqrt=False, has_fe=not profile)

    def value(v):
        moved = MixedLMParams.from_packed(v, model.k_fe, k_re, False, not profile)
        return model.loglike(moved, profile_fe=profile)

    expected = mask * _difference(value, x)
    assert np.all(got[mask == 0] == 0.0)
    assert_allclose(got, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("penalized", [False, True])
@pytest.mark.parametrize(("k_re", "k_vc"), [(1, 0), (2, 0), (0, 2), (2, 1)])
def test_fit_with_a_held_fixed_effect(k_re, k_vc, penalized, reml):
    """A zero in free.fe_params holds the coefficient at its start; the others are at their optimum."""
    model, _ = _pair(k_re, k_vc, seed=7)
    free = MixedLMParams.from_components(
        np.array([1.0, 0.0]), cov_re=np.ones((k_re, k_re)), vcomp=np.ones(k_vc)
    )
    start = MixedLMParams.from_components(np.array([0.0, 1.5]), cov_re=np.eye(k_re), vcomp=np.ones(k_vc))
    kwargs = {"fe_pen": penalties.L2(), "cov_pen": penalties.PSD(0.7)} if penalized else {}
    got = model.fit(start_params=start, free=free, reml=reml, gtol=1e-7, **kwargs)
    assert got.converged
    assert got.fe_params[1] == 1.5 and got.bse_fe[1] == 0.0
    assert got.bse_fe[0] > 0.0
    score = model.score(got.params_object, profile_fe=False)
    # a standard error's step changes the likelihood by one half: scores are judged in those units
    step = np.array(got.bse)
    assert score[1] == 0.0
    assert np.all(np.abs(score * np.where(np.isnan(step), 0.0, step)) < 1e-2)
    unrestricted = model.fit(reml=reml, **kwargs)
    assert got.llf < unrestricted.llf


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(("k_re", "k_vc"), [(1, 0), (2, 0), (0, 1), (1, 1), (2, 2)])
def test_fit_is_no_worse_than_statsmodels(k_re, k_vc, reml):
    ours, theirs = _pair(k_re, k_vc, seed=7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what statsmodels says about its own search is not tested here
        expected = theirs.fit(reml=reml, gtol=1e-9)
    got = ours.fit(reml=reml)
    assert got.converged
    assert -1e-8 <= got.llf - expected.llf < 1e-5  # no worse, and no better than a search can be
    # both within 1e-3 standard errors of the optimum; statsmodels' search is what limits this
    assert np.max(np.abs(got.params - expected.params) / expected.bse) < 1e-3
    assert_allclose(got.bse, expected.bse, rtol=1e-3)
    assert_allclose(got.scale, expected.scale, rtol=1e-4)
    assert_allclose(got.fittedvalues, expected.fittedvalues, atol=1e-3 * np.sqrt(got.scale))
    assert_allclose(got.resid, ours.endog - got.fittedvalues)
    for label in ours.group_labels:
        a, b = got.random_effects[label], expected.random_effects[label]
        assert list(a.index) == list(b.index)
        assert_allclose(a, b, atol=1e-3 * np.sqrt(got.scale))
        A, B = got.random_effects_cov[label], expected.random_effects_cov[label]
        assert_allclose(A, B, atol=1e-3 * got.scale)


@pytest.mark.parametrize("method", [None, "bfgs", "lbfgs", "cg", ["nm", "powell"]])
def test_methods_agree(method):
    d = load_data("sleepstudy")
    model = mme.MixedLM.from_formula("Reaction ~ Days", d, groups="Subject", re_formula="~Days")
    got = model.fit([1.0, 0.0, 1.0], method=method, gtol=1e-7, maxiter=2000)
    # the best value any implementation reached (tests/reference/lme4.json agrees)
    assert_allclose(got.llf, -871.8141359, atol=1e-4)
    assert got.converged


def test_labels_and_names():
    d = load_data("sleepstudy")
    r = mme.mixedlm("Reaction ~ Days", d, groups="Subject", re_formula="~Days").fit()
    names = ["Intercept", "Days", "Subject Var", "Subject x Days Cov", "Days Var"]
    for series in (r.params, r.bse, r.tvalues, r.pvalues):
        assert list(series.index) == names
    assert list(r.cov_params().index) == list(r.conf_int().index) == names
    assert list(r.fe_params.index) == list(r.bse_fe.index) == names[:2]
    assert list(r.cov_re.index) == list(r.cov_re_unscaled.columns) == ["Subject", "Days"]
    assert list(r.bse_re.index) == names[2:]
    assert list(r.summary().tables[1].index) == names
    assert_allclose(np.asarray(r.cov_re), r.scale * np.asarray(r.cov_re_unscaled))


def test_pastes_variance_component():
    d = load_data("Pastes")
    kwargs = {"groups": "batch", "re_formula": "1", "vc_formula": {"cask": "0 + C(cask)"}}
    model = mme.MixedLM.from_formula("strength ~ 1", d, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Original.from_formula("strength ~ 1", d, **kwargs).fit(gtol=1e-9)
    got = model.fit()
    assert list(got.params.index) == list(theirs.params.index) == ["Intercept", "batch Var", "cask Var"]
    assert -1e-8 <= got.llf - theirs.llf < 1e-5
    assert_allclose(got.params, theirs.params, rtol=1e-3)
    label = model.group_labels[0]
    assert list(got.random_effects[label].index) == list(theirs.random_effects[label].index)
    assert_allclose(got.random_effects[label], theirs.random_effects[label], rtol=1e-3)


def test_independent_effects_two_ways():
    y, X, codes, Z, _ = _data(2, 0)
    free = MixedLMParams.from_components(np.ones(2), cov_re=np.eye(2), vcomp=np.empty(0))
    one = mme.MixedLM(y, X, codes, exog_re=Z).fit(free=free)
    groups = range(codes.max() + 1)
    mats = [[Z[codes == g, j : j + 1] for g in groups] for j in (0, 1)]
    names = [[["z"]] * len(groups)] * 2
    two = mme.MixedLM(y, X, codes, exog_vc=mme.VCSpec(["a", "b"], names, mats)).fit()
    assert_allclose(one.llf, two.llf, rtol=1e-12)
    assert_allclose(np.diag(one.cov_re), two.vcomp, rtol=1e-6)
    assert one.cov_re[0, 1] == 0.0
    assert_allclose(one.bse[[0, 1, 2, 4]], two.bse, rtol=1e-4)
    assert one.bse[3] == 0.0


def test_fixed_value_is_held():
    model, _ = _pair(1, 1)
    free = MixedLMParams.from_components(np.ones(2), cov_re=np.ones((1, 1)), vcomp=np.zeros(1))
    start = MixedLMParams.from_components(np.zeros(2), cov_re=np.eye(1), vcomp=np.array([0.37]))
    got = model.fit(start_params=start, free=free)
    assert_allclose(got.params[-1], 0.37)
    assert got.bse[-1] == 0.0
    # the free variance is at its conditional optimum
    around = [model.loglike(np.sqrt([v, 0.37])) for v in got.params[2] * np.array([0.99, 1.0, 1.01])]
    assert around[1] >= max(around[0], around[2])


def test_missing_groups():
    with pytest.raises(AttributeError, match="groups"):
        mme.MixedLM.from_formula("y ~ 1", pd.DataFrame({"y": [1.0, 2.0]}))
