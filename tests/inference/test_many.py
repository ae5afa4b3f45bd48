"""Many responses on one design: every one as by an ordinary fit of its own."""

from __future__ import annotations

import numpy as np
import pytest
from problems import PROBLEMS, build
from support import mark_slow

from mme.engine.direct.batch import is_batchable
from mme.engine.equations.design import Design
from mme.engine.kernels import batch as kernels
from mme.engine.kernels import batch_degrees
from mme.exceptions import ConvergenceError, DesignError, PerfectFitError
from mme.fit import direct, modes, perfect
from mme.fit.fit import equations_of, fit_design
from mme.fit.fitted import Fitted, Labels, TermLabels
from mme.fit.many import EXACT, FITTED, Many, design_of_rows
from mme.inference.coefficients import inference_basis
from mme.inference.many import RefitDegrees

FAST = (
    "scalar",
    "vector2",
    "diagonal3",
    "same_codes",
    "crossed2",
    "crossed_vectors",
    "only_general",
    "weighted",
)


def labels_of(design: Design) -> Labels:
    terms = tuple(
        TermLabels(t.name, tuple(t.column_names[: t.k]), t.n_levels, t.structure) for t in design.terms
    )
    return Labels("y", design.x_names, terms)


def responses_of(design: Design, seed: int = 0) -> np.ndarray:
    """The design's own response, noise alone (zero variances), and effects of some of the terms."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(design.n, 6))
    if design.weights is not None:
        noise /= np.sqrt(design.weights)[:, None]
    columns = [design.y, *noise.T[:3]]
    for i, term in enumerate(design.terms):
        columns.append(term.times(rng.normal(size=term.n_effects)) * 1.5 + noise[:, 3 + i % 3])
    return np.column_stack(columns) + (0.0 if design.offset is None else design.offset[:, None])


def many_of(design: Design, reml: bool = True) -> Many:
    return Many(design, reml, True, RefitDegrees(labels_of(design)))


def assert_as_alone(design: Design, Y: np.ndarray, reml: bool, fit) -> None:
    for i in range(Y.shape[1]):
        own = design.with_response(Y[:, i])
        try:
            alone = fit_design(own, reml=reml)
        except PerfectFitError:
            assert fit.status[i] == EXACT
            assert np.isnan(fit.beta[i]).all()
            continue
        except ConvergenceError:
            assert fit.status[i] != FITTED
            continue
        if alone.record.flat:
            continue  # estimates there are arbitrary
        assert fit.converged[i] == alone.record.converged
        assert fit.singular[i] == bool(alone.record.singular), i
        assert fit.loglik[i] == pytest.approx(alone.loglik, abs=1e-8, rel=1e-11)
        np.testing.assert_allclose(fit.se[i], np.sqrt(np.diag(alone.vcov_beta)), rtol=1e-5)
        scale = np.sqrt(np.diag(alone.vcov_beta))
        np.testing.assert_allclose(fit.beta[i] / scale, alone.beta / scale, atol=1e-5)
        fitted = Fitted.of(alone, labels_of(design))
        df = inference_basis(fitted, "satterthwaite").coefficients(0.05).df
        np.testing.assert_allclose(fit.df[i], df, rtol=1e-6)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", mark_slow(PROBLEMS, lambda name: name not in FAST))
def test_every_response_is_as_if_it_were_fitted_alone(name, reml):
    design = build(name)
    if not is_batchable(equations_of(design)):
        pytest.skip("too large for dense matrices in kernels: one by one")
    Y = responses_of(design)
    fit = many_of(design, reml).fit(Y)
    assert_as_alone(design, Y, reml, fit)


def test_ordinary_responses_are_fitted_by_the_compiled_search():
    for name in ("vector2", "scalar"):
        design = build(name)
        fit = many_of(design).fit(responses_of(design))
        assert fit.compiled.all(), name
        assert (fit.status == FITTED).all()


def test_estimates_do_not_depend_on_the_block_or_the_threads(monkeypatch):
    design = build("vector2")
    Y = np.hstack([responses_of(design, seed) for seed in range(40)])
    together = many_of(design).fit(Y)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    alone = many_of(design).fit(Y)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    parts = [many_of(design).fit(Y[:, i : i + 7]) for i in range(0, Y.shape[1], 7)]
    for name in ("beta", "se", "df", "sigma2", "loglik"):
        np.testing.assert_array_equal(getattr(together, name), getattr(alone, name))
        pieces = np.concatenate([getattr(part, name) for part in parts])
        # products with blocks of other widths are rounded otherwise
        np.testing.assert_allclose(getattr(together, name), pieces, rtol=1e-8)


def test_responses_with_the_same_missing_rows_share_a_design():
    design = build("vector2")
    Y = responses_of(design)
    first = design.terms[0].codes == 0
    Y[first, 1] = np.nan  # a level less
    Y[:3, 2] = Y[:3, 3] = np.nan
    many = many_of(design)
    fit = many.fit(Y)
    assert len(many._patterns) == 2
    assert fit.n.tolist() == [design.n, design.n - first.sum(), design.n - 3, design.n - 3, design.n]
    for i in range(Y.shape[1]):
        used = ~np.isnan(Y[:, i])
        sub = design if used.all() else design_of_rows(design, used)
        part = Many(design, True, True, RefitDegrees(labels_of(design))).fit(Y[:, i : i + 1])
        assert_as_alone(sub, Y[used, i : i + 1], True, part)
        np.testing.assert_allclose(part.beta[0], fit.beta[i], rtol=1e-8)


def test_rows_that_cannot_be_fitted_are_named():
    design = build("scalar")
    Y = responses_of(design)
    Y[design.terms[0].codes != 0, 1] = np.nan
    fit = many_of(design).fit(Y)
    assert "1 level" in fit.status[1]
    assert fit.status[0] == FITTED
    assert np.isnan(fit.loglik[1])
    with pytest.raises(DesignError, match="1 level"):
        design_of_rows(design, design.terms[0].codes == 0)


def test_larger_designs_share_one_analysis(monkeypatch):
    design = build("vector2")
    Y = responses_of(design)
    monkeypatch.setattr("mme.fit.many.is_batchable", lambda eq: False)
    fit = many_of(design).fit(Y)
    assert not fit.compiled.any()
    assert_as_alone(design, Y, True, fit)


def test_the_kernels_criteria_are_those_of_the_ordinary_path():
    assert (kernels.EASY, kernels.STRAIGHT) == (modes._EASY, modes._STRAIGHT)
    assert (kernels.EXTREME, kernels.SAME, kernels.HOPE) == (modes._EXTREME, modes._SAME, modes._HOPE)
    assert kernels.MOST_SUBSETS == modes._MOST_SUBSETS
    assert (kernels.NEARLY, kernels.NEARLY_ONE) == (perfect._NEARLY, perfect._EXTREME)
    assert (kernels.MUCH, kernels.ROUGH, kernels.NEARLY_ONE) == (perfect._MUCH, direct._ROUGH, direct._HUGE)
    from mme.engine.covariance.boundary import SINGULAR
    from mme.engine.direct.batch import _RELIABILITIES
    from mme.fit.flat import _CURVATURE

    assert kernels.SINGULAR == batch_degrees.SINGULAR == SINGULAR
    assert kernels.FLAT == _CURVATURE
    assert _RELIABILITIES[kernels.MIDDLE] == modes._MIDDLE
    assert _RELIABILITIES[kernels.HIGH] == modes._HIGH_RELIABILITY
    assert _RELIABILITIES[kernels.HIGHEST] == modes._HIGHEST
    assert _RELIABILITIES[kernels.SPAN] == perfect._RELIABILITIES[0]
