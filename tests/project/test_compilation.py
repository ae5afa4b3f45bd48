"""Where compiled kernels are kept, who compiles them, and that --warm leaves nothing for the first fit."""

from __future__ import annotations

import io
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib import import_module
from pathlib import Path

import pytest

import mme
from mme.engine import kernels
from mme.engine.kernels import cells, iterative, rows, schur
from mme.engine.kernels.signatures import GROUPS
from mme.engine.runtime import warm

TESTS = Path(__file__).parent.parent

# prints the kernels that are compiled, not loaded
CALL = """
import sys
import numpy as np
from mme.engine.kernels import Watcher, rows, watch
class Names(Watcher):
    def begin(self, function, cache):
        print(function.__name__, cache, flush=True)
watch(Names())
x = np.ones((2, 1))
x.flags.writeable = False
out = np.empty((2, 1))
rows.transform_rows(0, 2, x, 3.0 * np.eye(1), out)
assert (out == 3.0).all()
"""
# what a process sees that may write nothing whose path has one of these in it (the superuser may everywhere)
READ_ONLY = """
import errno, os, sys, tempfile
closed = sys.argv[1:]
def is_closed(path):
    return any(part in os.fspath(path) for part in closed)
access, temporary, makedirs = os.access, tempfile.TemporaryFile, os.makedirs
def refusing(function, argument):
    def inner(*args, **kwargs):
        path = kwargs["dir"] if argument == "dir" else args[0]
        if is_closed(path):
            raise OSError(errno.EROFS, "Read-only file system", path)
        return function(*args, **kwargs)
    return inner
os.access = lambda path, mode, **rest: not (mode & os.W_OK and is_closed(path)) and access(path, mode, **rest)
tempfile.TemporaryFile = refusing(temporary, "dir")
os.makedirs = refusing(makedirs, "path")
"""


def process(code: str, *arguments: str, **environment: str) -> subprocess.Popen:
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=kept | environment,
        cwd=tempfile.gettempdir(),  # the current folder comes before PYTHONPATH
    )


def printed(started: subprocess.Popen) -> list[str]:
    out, errors = started.communicate(timeout=300)
    assert started.returncode == 0, errors
    return out.splitlines()


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package whose cache is its own."""
    folder = tmp_path / "site"
    shutil.copytree(mme.__path__[0], folder / "mme", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_every_kernel_is_listed_with_its_types():
    for module in pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}."):
        import_module(module.name)
    there = {f"{k.py_func.__module__.rpartition('.')[2]}.{k.__name__}" for k in kernels.kernels()}
    listed = [name for group in GROUPS.values() for name in group]
    assert sorted(listed) == sorted(there)


def test_a_package_that_cannot_be_written_has_its_code_in_the_users_cache(package, tmp_path):
    user = str(tmp_path / "user")
    environment = {"PYTHONPATH": str(package), "XDG_CACHE_HOME": user}
    for often in (1, 0):
        lines = printed(process(READ_ONLY + CALL, str(package), **environment))
        assert [line.split()[0] for line in lines] == ["transform_rows"] * often
        assert all(line.split()[1].startswith(user) for line in lines)
    assert not list(package.rglob("*.nbi"))


@pytest.mark.parametrize("user", ["writable", "closed"])
def test_code_in_a_package_that_cannot_be_written_is_used(package, tmp_path, user):
    """An image is warmed by one user and run by another."""
    environment = {"PYTHONPATH": str(package), "XDG_CACHE_HOME": str(tmp_path / "user")}
    assert len(printed(process(CALL, **environment))) == 1
    assert list(package.rglob("*.nbi"))
    closed = [str(package), *([str(tmp_path)] if user == "closed" else [])]
    assert printed(process(READ_ONLY + CALL, *closed, **environment)) == []


def test_loading_code_sets_up_no_compiler(package):
    """Neither Numba's memory manager nor its extensions, nor the intermediate code of kernels."""
    code = f"""{CALL}
import llvmlite.binding
from numba.core import entrypoints
from numba.core.runtime import rtsys
print(rtsys._init, entrypoints._already_initialized)
"""
    environment = {"PYTHONPATH": str(package)}
    assert printed(process(code, **environment))[1:] == ["True True"]
    assert printed(process(code, **environment)) == ["False False"]


def test_code_from_the_cache_is_compiled_into_others(package, tmp_path):
    """Parts of a kernel that is compiled may be kernels that were loaded."""
    (tmp_path / "outer.py").write_text(
        "from mme.engine.kernels import kernel\n"
        "from mme.engine.kernels.triangle import inverse_cholesky\n\n\n"
        "@kernel\n"
        "def trace(a, out):\n"
        "    inverse_cholesky(a, out)\n"
        "    return out[0, 0] + out[1, 1]\n"
    )
    inner = """
import numpy as np
from mme.engine.kernels.triangle import inverse_cholesky
a, out = np.array([[4.0, 2.0], [2.0, 5.0]]), np.zeros((2, 2))
inverse_cholesky(a, out)
"""
    outer = "import outer; print(outer.trace(a, np.zeros((2, 2))), outer.trace.signatures[0][0])"
    environment = {"PYTHONPATH": os.pathsep.join([str(package), str(tmp_path)])}
    printed(process(inner, **environment))
    for _ in range(2):  # compiled with code that was loaded, loaded itself
        assert printed(process(inner + outer, **environment)) == ["1.0 array(float64, 2d, C)"]


def test_without_any_place_kernels_are_compiled_each_time(package, tmp_path):
    environment = {"PYTHONPATH": str(package), "XDG_CACHE_HOME": str(tmp_path / "user")}
    for _ in range(2):
        lines = printed(process(READ_ONLY + CALL, str(tmp_path), **environment))
        assert lines == ["transform_rows None"]


def test_what_one_process_compiles_others_wait_for(package):
    environment = {"PYTHONPATH": str(package)}
    started = [process(CALL, **environment) for _ in range(3)]
    assert len([line for one in started for line in printed(one)]) == 1


def test_a_process_that_dies_leaves_no_lock(package):
    dying = CALL.replace("print(", "import os; os._exit(0) or print(")
    environment = {"PYTHONPATH": str(package)}
    printed(process(dying, **environment))
    assert len(printed(process(CALL, **environment))) == 1


def test_a_helper_is_told_of_the_groups_that_a_fit_comes_to(monkeypatch):
    started: list[list[str]] = []

    class Running:
        done = None
        stdin = io.StringIO()

        def poll(self):
            return self.done

    running = Running()
    monkeypatch.setattr(warm, "_start", lambda names: started.append(names) or running)
    monkeypatch.setattr(warm, "n_threads", lambda: 2)
    monkeypatch.delenv("MME_COMPILE_ALONE", raising=False)
    helper = warm.Helper()
    helper.begin(rows.transform_rows.py_func, "cache")  # what only some models need
    helper.begin(rows.basis_and_residual.py_func, None)  # nowhere to leave the code
    assert started == []
    helper.begin(rows.basis_and_residual.py_func, "cache")
    helper.begin(cells.counting_sort.py_func, "cache")
    helper.begin(cells.rows_times.py_func, "cache")
    assert started == [["lead", "one"]]
    assert running.stdin.getvalue() == "few several dense one\n"
    running.done = 0
    helper.begin(schur.schur_sparse.py_func, "cache")
    assert started == [["lead", "one"], ["sparse", "several", "one"]]
    monkeypatch.setattr(warm, "n_threads", lambda: 1)
    helper.begin(iterative.weigh.py_func, "cache")
    assert len(started) == 2


def test_a_helper_turns_to_what_is_needed_sooner(monkeypatch):
    """It leaves what it was begun with when the fit has come to something else."""
    compiled: list[str] = []
    heard = threading.Event()

    def told():
        yield "dense one\n"
        heard.set()

    def compile_kernel(name, types):
        compiled.append(name)
        assert heard.wait(60)
        return True

    monkeypatch.setattr(warm, "_kernel", lambda name: name)
    monkeypatch.setattr("mme.engine.kernels.dispatchers.compile_kernel", compile_kernel)
    warm.compile_as_told(["search"], told())
    latest = [name for group in ("dense", "one") for name, types in GROUPS[group].items() for _ in types]
    assert compiled in ([next(iter(GROUPS["search"])), *latest], latest)


def test_warm_waits_for_what_another_process_has_begun(package, tmp_path):
    """It may leave nothing, and a container ends with the process that was asked to warm it."""
    holding = """
import sys, time
from pathlib import Path
from mme.engine.kernels import rows
assert rows.transform_rows.made()._cache._lock.take()
print("held", flush=True)
sys.stdin.readline()
time.sleep(2.0)
"""
    warming = """
from mme.engine.runtime import warm
warm.GROUPS = {"other": {"rows.transform_rows": warm.GROUPS["other"]["rows.transform_rows"]}}
print("begun", flush=True)
warm.warm(1)
"""
    environment = {"PYTHONPATH": str(package)}
    other = process(holding, **environment)
    assert other.stdout is not None and other.stdin is not None
    assert other.stdout.readline() == "held\n"
    started = process(warming, **environment)
    assert started.stdout is not None
    assert started.stdout.readline() == "begun\n"
    other.stdin.write("\n")
    other.stdin.flush()
    printed(other)
    printed(started)
    assert printed(process(CALL, **environment)) == []


def test_warm_starts_no_helper_that_outlives_it(package):
    code = """
import mme
from mme.engine.runtime import warm
started = []
warm._start = started.append
warm.n_threads = lambda: 2
warm.GROUPS = {"one": {"rows.basis_and_residual": warm.GROUPS["one"]["rows.basis_and_residual"]}}
warm.warm(1)
print(started)
"""
    assert printed(process(code, PYTHONPATH=str(package), MME_COMPILE_ALONE="")) == ["[]"]


def test_where_numbas_cache_is_built_otherwise_numbas_own_serves(package):
    """Types, notices and the cache on disk are those of plain Numba then."""
    otherwise = "import sys; sys.modules['mme.engine.kernels.cache'] = None\n" + CALL
    environment = {"PYTHONPATH": str(package)}
    for often in (1, 0):
        lines = printed(process(otherwise, **environment))
        assert [line.split()[0] for line in lines] == ["transform_rows"] * often
    assert list(package.rglob("*.nbi"))
    ahead = "from mme.engine.runtime import warm; warm.GROUPS = {'one': warm.GROUPS['one']}; warm.warm(1)\n"
    printed(process("import sys; sys.modules['mme.engine.kernels.cache'] = None\n" + ahead, **environment))
    assert list(package.rglob("cone.newton_step*.nbc"))


@pytest.mark.slow
def test_after_warm_no_fit_compiles(tmp_path):
    """`python -m mme --warm`, then models of every structure."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "mme", "--warm"], env=environment, timeout=600, check=False)
    assert done.returncode == 0
    fits = """
import sys
sys.path.insert(0, sys.argv[1])
from mme.engine.kernels import Watcher, watch
class Names(Watcher):
    def begin(self, function, cache):
        print(function.__name__, flush=True)
watch(Names())
import warm
warm.fit_everything()
"""
    assert printed(process(fits, str(TESTS), NUMBA_CACHE_DIR=str(tmp_path))) == []
