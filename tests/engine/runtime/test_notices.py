"""What a fit says on standard error: compilations, progress bars, a faster solver."""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import subprocess
import sys
from types import SimpleNamespace

import numba
import numpy as np
import pandas as pd
import pytest
from problems import build

import mme
from mme.engine import kernels
from mme.engine.runtime import notices
from mme.fit import costs, forecast
from mme.fit import fit as fit_module
from mme.fit.fit import fit_design

# One small kernel of each group, compiled in a process of its own that also watches.
GROUPS = """
import sys
import numpy as np
import mme
from mme.engine.kernels import Watcher, watch
class Echo(Watcher):
    def begin(self, function, cache):
        print("compiles", function.__module__, file=sys.stderr, flush=True)
watch(Echo())
from mme.engine.kernels import cells, elimination_tree, iterative, rows
rows.transform_rows(0, 2, np.ones((2, 1)), np.eye(1), np.empty((2, 1)))
cells.column_pointers(np.zeros(3, np.int32), 1)
elimination_tree.postorder(np.array([1, -1]))
iterative.weigh(0, 1, np.ones((1, 1, 1)), np.ones((1, 1, 1)))
iterative.weigh(0, 1, np.ones((1, 1, 1)), np.ones((1, 1, 1), np.float32))
"""


def lines_of(cache) -> list[str]:
    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "MME_COMPILE_ALONE": "1"}
    out = subprocess.run([sys.executable, "-c", GROUPS], capture_output=True, text=True, env=env, timeout=300)
    assert out.returncode == 0, out.stderr
    return out.stderr.splitlines()


@pytest.mark.slow
def test_every_group_of_kernels_is_announced_before_it_is_compiled(tmp_path):
    often = "once per installation (seconds to a minute)"
    assert lines_of(tmp_path) == [
        f"mme: compiling numerical kernels, {often}",
        "compiles mme.engine.kernels.rows",
        "compiles mme.engine.kernels.cells",
        f"mme: compiling kernels of sparse factorizations, {often}",
        "compiles mme.engine.kernels.elimination_tree",
        f"mme: compiling kernels of the iterative solver, {often}",
        "compiles mme.engine.kernels.iterative",
        "compiles mme.engine.kernels.iterative",  # another signature, at once: no other line
    ]
    assert lines_of(tmp_path) == []


def functions() -> list:
    """What is compiled of the package, wherever it is defined."""
    found = {}
    for module in pkgutil.walk_packages(mme.__path__, "mme."):
        if module.name == "mme.__main__":
            continue
        if module.name == "mme.report.adapter":  # imports what an extra installs, and has no kernels
            continue
        for value in vars(importlib.import_module(module.name)).values():
            function = getattr(value, "py_func", None)
            if function is not None:
                found[function] = function
    return list(found)


def test_no_kernel_is_compiled_in_silence(capsys):
    """Each of them, as the first of a process."""
    assert len(functions()) > 40
    for function in functions():
        notices.CompilationNotice().begin(function, "cache")
        said = capsys.readouterr().err
        assert said.startswith("mme: compiling ") and said.count("\n") == 1, function


def test_what_others_compile_is_their_affair(capsys):
    numba.njit(lambda x: x + 1)(1)
    assert capsys.readouterr().err == ""


def test_a_later_compilation_is_announced_again(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(notices.time, "monotonic", lambda: now[0])
    notice = notices.CompilationNotice()
    for pause, lines in ((0.0, 1), (5.0, 0), (9.0, 0), (11.0, 1)):
        now[0] += pause
        notice.begin(kernels.schur.schur_dense.py_func, "cache")
        assert capsys.readouterr().err.count("\n") == lines, pause
        now[0] += 30.0  # compiling
        notice.end()


def test_a_cache_that_cannot_be_written_is_named(capsys):
    notices.CompilationNotice().begin(kernels.schur.level_apply.py_func, None)
    assert "in every process" in capsys.readouterr().err


# -- progress ------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch) -> Terminal:
    """Not a fixture: pytest puts its own standard error in place between setup and test."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    return stream


@pytest.fixture
def slow(monkeypatch):
    """A machine on which every direct fit is predicted to take minutes, an iterative one seconds."""
    monkeypatch.setattr(fit_module, "_FORECAST", 0)
    monkeypatch.setattr(costs, "_FLOPS", 1e2)
    monkeypatch.setattr(notices, "_said", set())


def test_a_long_direct_fit_shows_a_bar_on_a_terminal(monkeypatch, slow):
    terminal = terminal_of(monkeypatch)
    fit = fit_design(build("crossed2"), solver="direct")
    shown = terminal.getvalue()
    assert "mme" in shown and " step" in shown and "to go" in shown
    assert f"deviance={fit.deviance:.10g}" in shown
    assert f"{fit.record.iterations} step" in shown


def test_progress_false_is_silent(monkeypatch, slow):
    terminal = terminal_of(monkeypatch)
    fit_design(build("crossed2"), solver="direct", progress=False)
    assert terminal.getvalue() == ""


def test_a_short_direct_fit_shows_no_bar(monkeypatch):
    terminal = terminal_of(monkeypatch)
    fit_design(build("crossed2"), solver="direct")
    assert terminal.getvalue() == ""
    fit_design(build("crossed2"), solver="direct", progress=True)
    assert "to go" in terminal.getvalue()


def test_no_bar_in_a_file(slow, capsys):
    fit_design(build("crossed2"), solver="direct")
    assert "step" not in capsys.readouterr().err


def test_both_doors_take_progress(capsys):
    data = pd.DataFrame({"y": np.random.default_rng(0).normal(size=60), "g": np.arange(60) % 6})
    mme.lmer("y ~ 1 + (1 | g)", data, progress=True)
    assert "to go" in capsys.readouterr().err
    mme.mixedlm("y ~ 1", data, groups="g").fit(progress=True)
    assert "to go" in capsys.readouterr().err


def test_a_bar_is_shown_in_a_notebook(monkeypatch):
    assert not notices.Progress(None).show
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", SimpleNamespace())
    assert notices.Progress(None).show
    assert not notices.Progress(None, long=False).show


def test_a_process_without_standard_error_fits(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    assert not notices.Progress(None).show
    notices.say("nothing")
    assert fit_design(build("crossed2"), solver="direct").record.converged


# -- a faster solver -----------------------------------------------------------------------------------------


def test_a_much_faster_solver_is_named_once(slow, capsys):
    for _ in range(2):
        assert fit_design(build("crossed2"), solver="direct").monte_carlo is None
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("mme: this direct fit will take about ")
    assert "solver='iterative'" in said[0] and "less than 1 s" in said[0]


@pytest.mark.parametrize(("rate", "named"), [(1.0, False), (20.0, True)])
def test_it_must_be_five_times_faster(slow, capsys, monkeypatch, rate, named):
    design = build("crossed2")
    plan = forecast.preflight_design(design, "direct")
    # the direct fit is predicted to take so many times as long as the iterative one
    factor = rate * plan.iterative_seconds / plan.direct_seconds
    monkeypatch.setattr(costs, "_PRODUCTS", costs._PRODUCTS * factor)
    fit_design(design, solver="direct")
    assert ("solver='iterative'" in capsys.readouterr().err) == named


def test_both_times_are_forecast():
    plan = forecast.preflight_design(build("crossed2"))
    assert 0.0 < plan.iterative_seconds < 1.0 and 0.0 < plan.direct_seconds < 1.0
    assert "an iterative fit     less than 1 s" in str(plan)
