"""install() and uninstall(), and statsmodels' own tests run on mme."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest
import statsmodels.api
import statsmodels.formula.api
import statsmodels.regression.mixed_linear_model as original
from numpy.testing import assert_allclose
from statsmodels_plugin import DIFFERS
from support import HERE, load_data

import mme
import mme.facade.results.results


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
    """At most three, each naming the fault of statsmodels that the test asserts; docs lists them too."""
    readme = (HERE.parent / "docs" / "coming_from" / "statsmodels.md").read_text()
    assert len(DIFFERS) <= 3
    for test, reason in DIFFERS.items():
        assert "FIX" in reason
        assert test.split("::")[1] in readme


@pytest.mark.slow
def test_statsmodels_own_suite(tmp_path):
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
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


# -- results under statsmodels' name ---------------------------------------------------------------


def _program(data):
    """A program of statsmodels, as it would run in a worker."""
    import statsmodels.formula.api as smf

    return smf.mixedlm("Reaction ~ Days", data, groups="Subject").fit()


def _says_statsmodels(result) -> list[bool]:
    own = "statsmodels.regression.mixed_linear_model"
    return [
        "statsmodels" in str(type(result)),
        result.__module__.startswith("statsmodels"),
        type(result).__module__ == own,
        type(result._results).__module__ == own,
        isinstance(result, _IMPORTED_BEFORE),
    ]


_IMPORTED_BEFORE = original.MixedLMResultsWrapper


def test_results_say_statsmodels_while_installed():
    d = load_data("sleepstudy")
    with mme.install():
        result = _program(d)
        regularized = result.model.fit_regularized(alpha=1.0)
        iterative = result.model.fit(solver="iterative", seed=1)
    for r in (result, regularized, iterative):
        assert all(_says_statsmodels(r))
        assert isinstance(r, mme.facade.results.results.MixedLMResultsWrapper)
    assert isinstance(result._results, mme.facade.results.results.MixedLMResults)
    plain = _program(d)
    assert type(plain) is _IMPORTED_BEFORE
    ours = mme.mixedlm("Reaction ~ Days", d, groups="Subject").fit()
    assert not any(_says_statsmodels(ours))
    assert result.llf == ours.llf
    assert result.summary().as_text().splitlines()[2:] == ours.summary().as_text().splitlines()[2:]
    assert list(result.bse_fe.index) == ["Intercept", "Days"]


@pytest.mark.slow
def test_pickles_of_results_need_no_installation(tmp_path):
    d = load_data("sleepstudy")
    with mme.install():
        result = _program(d)
        written = pickle.dumps(result)
        again = pickle.loads(written)
        assert all(_says_statsmodels(again)) and all(_says_statsmodels(copy.deepcopy(result)))
        assert again.llf == result.llf
    for r in (pickle.loads(written), pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert type(r) is mme.facade.results.results.MixedLMResultsWrapper
        assert type(r._results) is mme.facade.results.results.MixedLMResults
        assert_allclose(r.params, result.params)
        assert_allclose(r.bse_re, result.bse_re)
    (tmp_path / "result.pickle").write_bytes(written)
    code = "import pickle, sys; r = pickle.load(open(sys.argv[1], 'rb')); print(type(r).__module__, r.llf)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "result.pickle")],
        capture_output=True,
        text=True,
        check=True,
    )
    module, llf = done.stdout.split()
    assert module == "mme.facade.results.results"
    assert float(llf) == result.llf


@pytest.mark.slow
def test_install_initializes_workers_that_are_spawned():
    d = load_data("sleepstudy")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=mme.install) as pool:
        result = pool.submit(_program, d).result()
    assert type(result) is mme.facade.results.results.MixedLMResultsWrapper  # without it, statsmodels' own
    assert_allclose(result.llf, mme.mixedlm("Reaction ~ Days", d, groups="Subject").fit().llf, rtol=1e-12)
