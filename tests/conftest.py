"""Fixtures shared by the suite, and how it runs in parallel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import warm
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


def pytest_sessionstart(session: pytest.Session) -> None:
    """Kernels are compiled once, before there are workers to compile them side by side."""
    config = session.config
    if not getattr(config.option, "numprocesses", None) or config.option.collectonly:
        return
    if hasattr(config, "workerinput"):
        return
    cache = getattr(config, "cache", None)
    if cache is None or cache.get("mme/kernels", None) != warm.stamp():
        subprocess.run([sys.executable, str(Path(warm.__file__))], check=True)
        if cache is not None:
            cache.set("mme/kernels", warm.stamp())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: a worker takes up to a gigabyte, a test half as much again in a process of its own."""
    from mme.engine.runtime.memory import available_memory
    from mme.engine.runtime.parallel import n_threads

    return max(1, min(n_threads(), 8, int(available_memory() / 2**31)))


@pytest.fixture
def sleepstudy() -> pd.DataFrame:
    """Reaction times of 18 subjects over ten days of sleep deprivation (Belenky et al. 2003)."""
    return load_data("sleepstudy")
