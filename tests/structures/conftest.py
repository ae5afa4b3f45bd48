"""Data that structures are fitted to."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="package")
def data():
    """Rows of 14 groups at 4 times, three a cell, a fifth of them missing; crossed with 6 others."""
    rng = np.random.default_rng(5)
    groups, times, repeats = 14, 4, 3
    g = np.repeat(np.arange(groups), times * repeats)
    t = np.tile(np.repeat(np.arange(times), repeats), groups)
    x = rng.normal(size=g.size)
    lag = np.abs(np.subtract.outer(np.arange(times), np.arange(times)))
    u = rng.normal(size=(groups, times)) @ np.linalg.cholesky(2.0 * 0.6**lag).T
    h = rng.integers(0, 6, size=g.size)
    y = 1.0 + 0.5 * x + u[g, t] + rng.normal(size=g.size)
    frame = pd.DataFrame({"y": y, "x": x, "g": g, "t": t, "h": h})
    return frame[rng.uniform(size=g.size) < 0.8].reset_index(drop=True)
