"""install() and uninstall(), and statsmodels' own tests run on mme."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import statsmodels.api
import statsmodels.formula.api
import statsmodels.regression.mixed_linear_model as original
from statsmodels_plugin import DIFFERS
from support import load_data

import mme


def _installed():
    places = (statsmodels.api.MixedLM, original.MixedLM)
    ours = [c is mme.MixedLM for c in places]
    ours.append(statsmodels.formula.api.mixedlm.__self__ is mme.MixedLM)
    ours.append(original.MixedLMParams is mme.MixedLMParams)
    ours.append(original.VCSpec is statsmodels.api.VCSpec is mme.VCSpec)
    return ours


@pytest.fixture(autouse=True)
def clean():
    assert not any(_installed())
    yield
    assert not any(_installed())


def test_install_and_uninstall():
    mme.install()
    assert all(_installed())
    mme.uninstall()
    assert not any(_installed())
    mme.uninstall()  # without an install it does nothing


def test_context_manager_nests_and_survives_errors():
    with pytest.raises(RuntimeError, match="inside"), mme.install():
        with mme.install():
            assert all(_installed())
        assert all(_installed())
        raise RuntimeError("inside")


def test_programs_of_statsmodels_run_on_mme():
    d = load_data("sleepstudy")
    with mme.install():
        r = statsmodels.formula.api.mixedlm("Reaction ~ Days", d, groups="Subject").fit()
    assert isinstance(r.model, mme.MixedLM)
    assert isinstance(r.summary(), statsmodels.iolib.summary2.Summary)


def test_threads():
    def work():
        for _ in range(50):
            with mme.install():
                assert all(_installed())

    errors = []
    threads = [threading.Thread(target=_noting(work, errors)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


def _noting(work, errors):
    def run():
        try:
            work()
        except BaseException as error:
            errors.append(error)
            raise

    return run


def test_expected_failures_have_reasons():
    """At most three, each naming the fault of statsmodels that the test asserts; README.md lists them too."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    assert len(DIFFERS) <= 3
    for test, reason in DIFFERS.items():
        assert "FIX" in reason
        assert test.split("::")[1] in readme


@pytest.mark.slow
def test_statsmodels_own_suite(tmp_path):
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    modules = ["statsmodels.regression.tests.test_lme", "statsmodels.stats.tests.test_mediation"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "statsmodels_plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "--pyargs", *modules],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = int(re.search(r"(\d+) passed", last)[1])
    assert passed + len(DIFFERS) >= 123
    assert f"{len(DIFFERS)} xfailed" in last
