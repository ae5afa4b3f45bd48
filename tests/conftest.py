"""Fixtures shared by the suite, and how it runs in parallel."""

from __future__ import annotations

import os

import pandas as pd
import pytest
from support import load_data


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With `-n`: one BLAS thread a worker, and neighbouring tests, which share fits, on one worker.

    Waiting BLAS threads spin: on two processors two workers with two threads each take three times as long.
    What mme runs on its own threads does not heed these variables.
    """
    if not getattr(config.option, "numprocesses", None):
        return
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if config.option.dist == "no":
        config.option.dist = "worksteal"


@pytest.fixture
def sleepstudy() -> pd.DataFrame:
    """Reaction times of 18 subjects over ten days of sleep deprivation (Belenky et al. 2003)."""
    return load_data("sleepstudy")
