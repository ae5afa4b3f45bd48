"""Fixtures shared by the suite."""

from __future__ import annotations

import pandas as pd
import pytest
from support import load_data


@pytest.fixture
def sleepstudy() -> pd.DataFrame:
    """Reaction times of 18 subjects over ten days of sleep deprivation (Belenky et al. 2003)."""
    return load_data("sleepstudy")
