"""Cuts of work into ranges."""

from __future__ import annotations

import numpy as np
import pytest

from mme.engine.runtime.parallel import cut, row_chunks


@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_cuts_cover_everything_once(n):
    rng = np.random.default_rng(n)
    for ranges in (cut(rng.exponential(size=n) * 1e7, n), cut(None, n, 1e9), row_chunks(n)):
        covered = [i for a, b in ranges for i in range(a, b)]
        assert covered == list(range(n))
