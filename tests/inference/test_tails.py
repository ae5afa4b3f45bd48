"""Tails of t and F against scipy.stats."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mme.inference.tails import f_tail, t_quantile, t_two_sided


def test_t():
    df = np.array([0.4, 1.7, 5.0, 17.0, 228.9436, 1e5, 1e9, np.inf])
    for t in (0.0, -1e-3, 0.5, -2.0, 6.77, 36.8):
        np.testing.assert_allclose(t_two_sided(np.full(8, t), df), 2 * stats.t.sf(abs(t), df), rtol=1e-9)
    for alpha in (0.5, 0.05, 1e-6):
        np.testing.assert_allclose(t_quantile(alpha, df), stats.t.isf(alpha / 2, df), rtol=1e-8)
    assert np.isnan(t_two_sided(np.array([1.0]), np.array([np.nan])))
    assert np.isnan(t_quantile(0.05, np.array([np.nan])))


def test_f():
    for F, df1, df2 in ((3.3, 2, 9.9), (45.85, 1, 17.0), (0.2, 14, 210.0)):
        assert f_tail(F, df1, df2) == pytest.approx(stats.f.sf(F, df1, df2), rel=1e-10)
    assert f_tail(3.3, 2, np.inf) == pytest.approx(stats.chi2.sf(6.6, 2), rel=1e-12)
