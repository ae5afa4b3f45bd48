"""mme and other implementations of linear mixed models, timed side by side on the same data.

    python benchmarks/peers.py
    python benchmarks/peers.py --workloads sleepstudy,slope20k --peers mme,lme4,glmm --limit 60 --json OUT

What is installed takes part: statsmodels, glmm, mixedlm and gpboost in this interpreter's environment, lme4
if Rscript finds it.  Every implementation has a process of its own, so that a time limit can end it; the
processes take turns, one fit at a time, and the others sleep.  Times are medians of whole fits, data frame
(and formula) in; reading data, imports and conversion of columns are not timed, and the first fit, which
compiles and warms caches, counts only where it is the only one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
if __package__ in (None, ""):
    sys.path[0] = str(HERE.parent)

from benchmarks import problems  # noqa: E402
from benchmarks.adapters import ADAPTERS, MARKER  # noqa: E402
from benchmarks.tables import Cell, Row, report, seconds_text, set_gaps, short_of_best  # noqa: E402

__all__ = ["main", "parse_list", "repeats"]

NAMES = ["mme", "mme.MixedLM", "lme4", "statsmodels", "gpboost", "glmm", "mixedlm"]
LME4_NOTE = "lmer(formula, data, REML = TRUE), default control, timed inside R"
LOADING = 1200.0  # seconds for imports and reading data, which are not part of a time
COMPILING = 180.0  # seconds on top of the limit for mme's first fit


def parse_list(text: str, known: list[str], what: str) -> list[str]:
    """Names separated by commas, in the order given; "all" is all of them.

    Raises
    ------
    argparse.ArgumentTypeError
        A name is not known.
    """
    if text.strip() == "all":
        return list(known)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"unknown {what} {', '.join(unknown) or text!r}; there are {', '.join(known)}"
        )
    return list(dict.fromkeys(names))


def repeats(first: float, budget: float) -> int:
    """How many fits of about `first` seconds: 1 to 25, 3 at least where two of them fit in the budget."""
    if 2.0 * first > budget:
        return 1
    return int(min(25, max(3, budget // max(first, 1e-9))))


# -- processes ----------------------------------------------------------------------------------------


class WorkerError(Exception):
    """The process ended, or answered with an error."""


class Worker:
    """A process that fits on command.

    Parameters
    ----------
    command : list of str
    memory : int
        Most bytes of data the process may allocate.
    """

    def __init__(self, command: list[str], memory: int) -> None:
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            preexec_fn=lambda: _limit_memory(memory),
        )
        self.answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARKER):
                self.answers.put(line[len(MARKER) :])
        self.answers.put(None)

    def answer(self, timeout: float) -> dict:
        """The next answer.

        Raises
        ------
        queue.Empty
            None in time.
        WorkerError
            The process ended.
        """
        line = self.answers.get(timeout=timeout)
        if line is None:
            self.process.wait(10)
            self.log.seek(0)
            last = [text.strip() for text in self.log.read().splitlines() if text.strip()][-1:]
            raise WorkerError(f"ended with status {self.process.returncode}: {' '.join(last)[:200]}")
        return json.loads(line)

    def ask(self, command: str, timeout: float) -> dict:
        """Send a command; see `answer`."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        reply = self.answer(timeout)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.log.close()


def _limit_memory(size: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    except (ImportError, ValueError, OSError):
        pass


def _memory_bytes() -> int:
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 8 << 30


def lme4_versions() -> str | None:
    """Versions of lme4 and R; None if either is missing."""
    if shutil.which("Rscript") is None:
        return None
    code = 'cat(as.character(packageVersion("lme4")), "on R", as.character(getRversion()))'
    out = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True)
    return out.stdout.strip() if out.returncode == 0 else None


def installed(names: list[str]) -> dict[str, str | None]:
    """Versions by name; None where something is missing."""
    return {name: lme4_versions() if name == "lme4" else ADAPTERS[name].version() for name in names}


# -- the run ------------------------------------------------------------------------------------------


@dataclass
class Options:
    """Settings of a run."""

    limit: float = 120.0
    budget: float = 20.0
    memory: int = 8 << 30


def say(text: str) -> None:
    """A line on stderr with the time since the start."""
    print(f"[{time.perf_counter() - _START:7.1f} s] {text}", file=sys.stderr, flush=True)


_START = time.perf_counter()


class Race:
    """All implementations on one workload.

    Parameters
    ----------
    name : str
    names : list of str
        Implementations that are installed.
    options : Options
    """

    def __init__(self, name: str, names: list[str], options: Options) -> None:
        self.name, self.names, self.options = name, names, options
        self.problem = problems.problem(name)
        self.cells = {n: Cell() for n in names}
        self.workers: dict[str, Worker] = {}
        self.commands: dict[str, str] = {}
        self.blas: dict[str, list[str]] = {}

    def run(self) -> dict[str, Cell]:
        """Fit, in turns."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                self._start(Path(folder))
                left = {n: self._first(n) for n in list(self.workers)}
                turn = 0
                while any(left.values()):
                    order = [n for n in self.names if left.get(n)]
                    for n in order[turn % len(order) :] + order[: turn % len(order)]:
                        left[n] -= 1
                        reply = self._fit(n, self.commands[n], self.options.limit * 2)
                        if reply is None:
                            left[n] = 0
                            continue
                        times = self.cells[n].seconds
                        times.append(reply["seconds"])
                        if len(times) >= 3 and sum(times) > self.options.budget:
                            left[n] = 0
                    turn += 1
                set_gaps(self.cells, self.problem.loglik, self._ml)
            finally:
                for worker in self.workers.values():
                    worker.close()
        return self.cells

    def _start(self, folder: Path) -> None:
        data = problems.data(self.name)
        data.to_pickle(folder / "data.pickle")
        say(f"{self.name}: {len(data)} rows")
        for n in self.names:
            if n == "lme4":
                command = ["Rscript", str(HERE / "lme4_worker.R"), *self._for_r(data, folder)]
            else:
                script = [str(HERE / "adapters.py"), n, self.name]
                command = [sys.executable, *script, str(folder / "data.pickle")]
            worker = Worker(command, self.options.memory)
            self.workers[n] = worker
            # one after another: reading must not disturb, and peaks of memory do not add up
            try:
                hello = worker.answer(LOADING)
            except (queue.Empty, WorkerError) as error:
                self._drop(n, "failed", f"could not start: {error}")
                continue
            if "cannot" in hello:
                self._drop(n, "cannot", hello["cannot"])
                continue
            self.cells[n].variant = ",".join(hello["variants"])
            self.blas[n] = hello.get("blas", [])
        problems.data.cache_clear()

    def _for_r(self, data: pd.DataFrame, folder: Path) -> list[str]:
        """Write the data for R; the arguments of its script.  Numbers go as they are: CSV takes minutes."""
        if all(pd.api.types.is_numeric_dtype(kind) for kind in data.dtypes):
            path = folder / "data.bin"
            with open(path, "wb") as file:
                for name in data:
                    data[name].to_numpy(np.float64).tofile(file)
        else:
            path = folder / "data.csv"
            data.to_csv(path, index=False)
        grouping = ",".join(problems.grouping_columns(self.problem.formula))
        return [str(path), self.problem.formula_r, grouping, ",".join(data.columns)]

    def _drop(self, n: str, status: str, note: str) -> None:
        cell = self.cells[n]
        cell.status, cell.note = "ok" if cell.seconds else status, note
        self.workers.pop(n).close()
        say(f"{self.name}: {n}: {status} ({note})")

    def _fit(self, n: str, command: str, timeout: float) -> dict | None:
        try:
            return self.workers[n].ask(command, timeout)
        except queue.Empty:
            self._drop(n, "limit", f"more than {self.options.limit:g} s")
        except WorkerError as error:
            self._drop(n, "failed", str(error))
        return None

    def _first(self, n: str) -> int:
        """First fits, of every variant; how many are still to do."""
        limit, budget, cell = self.options.limit, self.options.budget, self.cells[n]
        own = n.startswith("mme")
        best: dict | None = None
        for i, variant in enumerate(cell.variant.split(",")):
            if best is not None and 2.0 * best["seconds"] > limit:
                break  # too slow to try another form of the data
            reply = self._fit(n, f"fit {i}", limit + (COMPILING if own and i == 0 else 0.0))
            if reply is None:
                return 0
            if i == 0:
                cell.first = reply["seconds"]
                if repeats(reply["seconds"], budget) > 1:  # again, warm: a fair choice between variants
                    reply = self._fit(n, f"fit {i}", limit)
                    if reply is None:
                        return 0
            if best is None or reply["seconds"] < best["seconds"]:
                best, cell.variant, self.commands[n] = reply, variant, f"fit {i}"
        assert best is not None
        cell.loglik, cell.method = best["loglik"], best["method"]
        cell.approximate, cell.formula = best.get("approximate", False), best.get("formula", "")
        say(f"{self.name}: {n}: {seconds_text(best['seconds'])} s, log-likelihood {cell.loglik:.6f}")
        more = repeats(best["seconds"], budget)
        if more == 1 and not own:
            cell.seconds.append(best["seconds"])
            return 0
        return more

    def _ml(self, formula: str) -> float | None:
        """Log-likelihood of the ML fit: the reference's, else mme's, which is not timed."""
        if not formula and self.problem.loglik_ml is not None:
            return self.problem.loglik_ml
        worker = self.workers.get("mme")
        if worker is None:
            return None
        try:
            return worker.ask(f"ml {formula or self.problem.formula}", self.options.limit * 2)["loglik"]
        except (queue.Empty, WorkerError):
            return None


def describe(versions: dict[str, str | None], blas: dict[str, list[str]], load: list[float]) -> list[str]:
    """Machine, versions and load, a line each."""
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")}
    found = ", ".join(f"{name} {v}" for name, v in versions.items() if v)
    missing = ", ".join(name for name, v in versions.items() if v is None)
    libraries = "; ".join(f"{name}: {', '.join(libs)}" for name, libs in blas.items() if libs)
    return [
        f"Machine: {cpu}, {cores} processors, {_memory_bytes() / 2**30:.0f} GiB; {platform.system()},"
        f" Python {platform.python_version()}.",
        f"Versions: {found}." + (f" Not installed: {missing}." if missing else ""),
        f"BLAS: {libraries or 'unknown'}. Thread settings: {threads or 'none'}.",
        f"Load average at the start {load[0]:.2f}, at the end {load[1]:.2f}.",
    ]


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    workloads, names = list(problems.PEERS), NAMES
    parser.add_argument(
        "--workloads",
        type=lambda text: parse_list(text, workloads, "workload"),
        default=workloads,
        help=f"comma-separated: {', '.join(workloads)}",
    )
    parser.add_argument(
        "--peers",
        type=lambda text: parse_list(text, names, "peer"),
        default=names,
        help=f"comma-separated: {', '.join(names)}",
    )
    parser.add_argument(
        "--limit", type=float, default=120.0, help="seconds for one fit (default %(default)g)"
    )
    parser.add_argument(
        "--budget", type=float, default=20.0, help="seconds of fits for a median (default %(default)g)"
    )
    parser.add_argument(
        "--memory",
        type=float,
        default=round(0.8 * _memory_bytes() / 2**30, 1),
        help="GiB that one process may allocate (default %(default)g)",
    )
    parser.add_argument("--json", metavar="OUT", help="write everything measured to this file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run; 1 if mme is short of the best log-likelihood anywhere."""
    options = arguments(argv)
    load = [_load()]
    versions = installed(options.peers)
    present = [name for name in options.peers if versions[name] is not None]
    settings = Options(options.limit, options.budget, int(options.memory * 2**30))
    say(", ".join(f"{name} {v or 'is not installed'}" for name, v in versions.items()))
    if load[0] > 0.5:
        say(f"load average {load[0]:.2f}: the machine is not idle, times will be too long")
    rows: list[Row] = []
    blas: dict[str, list[str]] = {}
    for name in options.workloads:
        start = time.perf_counter()
        race = Race(name, present, settings)
        cells = race.run()
        cells.update({n: Cell("missing") for n in options.peers if n not in cells})
        blas = {**race.blas, **blas}
        rows.append(Row(name, problems.PEERS[name], cells, time.perf_counter() - start))
        say(f"{name}: done in {rows[-1].seconds:.0f} s")
    load.append(_load())
    blas = {name: libs for name, libs in blas.items() if name in ("mme", "lme4")}
    machine = describe(versions, blas, load)
    command = " ".join(["python benchmarks/peers.py", *(sys.argv[1:] if argv is None else argv)])
    notes = {n: LME4_NOTE if n == "lme4" else ADAPTERS[n].note for n in present}
    print(report(rows, present, options.limit, [*machine, f"Command: `{command}`."], notes))
    if options.json:
        record = {
            "command": command,
            "machine": machine,
            "versions": versions,
            "limit": options.limit,
            "rows": [
                {
                    "workload": row.name,
                    "seconds": row.seconds,
                    "cells": {n: {**asdict(c), "median": c.median} for n, c in row.cells.items()},
                }
                for row in rows
            ],
        }
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")
    return 1 if short_of_best(rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
