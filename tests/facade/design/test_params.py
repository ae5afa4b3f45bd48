"""MixedLMParams: packing and unpacking, against plain linear algebra."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mme.facade.design.params import MixedLMParams


def _params(k_re=3, k_vc=2):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(k_re, k_re))
    return MixedLMParams.from_components(
        rng.normal(size=2), cov_re=root @ root.T, vcomp=rng.uniform(size=k_vc)
    )


@pytest.mark.parametrize("use_sqrt", [False, True])
@pytest.mark.parametrize("has_fe", [False, True])
@pytest.mark.parametrize(("k_re", "k_vc"), [(0, 1), (1, 0), (2, 1), (3, 2)])
def test_round_trip(use_sqrt, has_fe, k_re, k_vc):
    params = _params(k_re, k_vc)
    packed = params.get_packed(use_sqrt=use_sqrt, has_fe=has_fe)
    assert packed.size == 2 * has_fe + k_re * (k_re + 1) // 2 + k_vc
    got = MixedLMParams.from_packed(packed, 2, k_re, use_sqrt, has_fe)
    assert_allclose(got.cov_re, params.cov_re, rtol=1e-12)
    assert_allclose(got.vcomp, params.vcomp, rtol=1e-12)
    assert_allclose(got.fe_params, params.fe_params if has_fe else np.zeros(2))
    assert (got.k_fe, got.k_re, got.k_re2, got.k_vc) == (2, k_re, k_re * (k_re + 1) // 2, k_vc)
    assert got.k_tot == 2 + got.k_re2 + k_vc


def test_layout_is_lower_triangle_by_rows():
    params = _params()
    C = params.cov_re
    expected = [C[0, 0], C[1, 0], C[1, 1], C[2, 0], C[2, 1], C[2, 2], *params.vcomp]
    assert_array_equal(params.get_packed(use_sqrt=False), expected)


def test_singular_covariance_has_a_factor():
    v = np.array([1.0, 2.0])
    params = MixedLMParams.from_components(np.zeros(1), cov_re=np.outer(v, v), vcomp=np.zeros(1))
    packed = params.get_packed(use_sqrt=True)
    got = MixedLMParams.from_packed(packed, 1, 2, True, False)
    assert_allclose(got.cov_re, np.outer(v, v), atol=1e-12)


def test_cov_re_sqrt_wins():
    root = np.array([[2.0, 0.0], [1.0, 3.0]])
    assert_allclose(MixedLMParams.from_components(cov_re_sqrt=root).cov_re, root @ root.T)


def test_copy_shares_nothing():
    params = _params()
    other = params.copy()
    other.cov_re[0, 0] = other.vcomp[0] = other.fe_params[0] = 99.0
    assert 99.0 not in (params.cov_re[0, 0], params.vcomp[0], params.fe_params[0])


def test_too_short_a_vector_is_refused():
    with pytest.raises(ValueError, match="too few"):
        MixedLMParams.from_packed([1.0], 2, 2, True, True)
