"""Workloads too large to store: the log-likelihood other implementations reach on the same data."""

from __future__ import annotations

import subprocess
import sys

import pytest
import workloads
from support import HERE

import mme


def check(name: str):
    """Fit a workload by REML; its log-likelihood is the best known one, neither short of it nor above."""
    workload = workloads.WORKLOADS[name]
    result = mme.lmer(workload.formula, workload.build())
    assert result.converged, result.fit_info["message"]
    assert result.fit_info["evaluations"] <= 60
    assert result.llf == pytest.approx(workload.loglik, abs=max(1e-5, 1e-10 * abs(workload.loglik)))
    return result


def test_slope20k():
    result = check("slope20k")
    # the values the data were simulated with, within their standard errors
    assert result.fe_params["x"] == pytest.approx(2.0, abs=4 * result.bse_fe["x"])
    assert result.sigma == pytest.approx(1.0, abs=0.01)


def test_ml100k():
    check("ml100k")


@pytest.mark.slow
def test_d3():
    check("d3")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_ml1m_and_its_memory():
    """ml1m in a process of its own: the log-likelihood, and a peak below 1.5 GiB."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mme, workloads as w\n"
        # getrusage would count what the process that started this one had in use
        "def peak():\n"
        "    return next(int(x.split()[1]) * 1024 for x in open('/proc/self/status') if 'VmHWM' in x)\n"
        "work = w.WORKLOADS['ml1m']; data = work.build()\n"
        "before = peak()\n"
        "r = mme.lmer(work.formula, data)\n"
        "print(repr(float(r.llf)), r.converged, before, peak())\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(HERE)], capture_output=True, text=True, check=True, timeout=900
    )
    llf, converged, before, peak = out.stdout.split()
    target = workloads.WORKLOADS["ml1m"].loglik
    assert converged == "True"
    assert float(llf) == pytest.approx(target, rel=1e-10)
    assert int(peak) < 1.5 * 2**30, (
        f"peak {int(peak) / 2**30:.2f} GiB; {int(before) / 2**30:.2f} before the fit"
    )
