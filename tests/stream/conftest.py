"""Rows that all tests of streams share."""

from __future__ import annotations

import pandas as pd
import pytest

from .data import made


@pytest.fixture(scope="session")
def data() -> pd.DataFrame:
    return made()
