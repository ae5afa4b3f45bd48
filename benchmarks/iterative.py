"""Large crossed designs by the iterative path: time, memory and Monte Carlo error by size, each in a process.

    python benchmarks/iterative.py                      the sizes up to four million rows
    python benchmarks/iterative.py ratings32m movers1m  these workloads; names: see WORKLOADS
    python benchmarks/iterative.py --cache DIR ...      keep the generated data there
    python benchmarks/iterative.py --gpboost ratings1m    also GPBoost's iterative mode, on the same data
    python benchmarks/iterative.py --plot growth.png    time and memory against rows (matplotlib)
    python benchmarks/iterative.py --limits ratings16m  the products' share, and their speed against memory's

Times are seconds of one REML fit from a data frame of integer codes, kernels compiled before; memory is the
peak of the process, the data frame included.  On a busy machine look at the processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

__all__ = ["WORKLOADS", "main"]


def ratings(n: int, users: int, items: int, seed: int = 8, draws: int = 6) -> pd.DataFrame:
    """Two heavy-tailed crossed factors, drawn in pieces to bound memory."""
    rng = np.random.default_rng(seed)
    pu = np.cumsum(rng.lognormal(0, 1.1, users))
    pm = np.cumsum(rng.lognormal(0, 1.6, items))
    size = int(n * 1.35 / draws)
    keys = []
    for _ in range(draws):
        u = np.searchsorted(pu, rng.random(size) * pu[-1]).astype(np.int64)
        keys.append(u * items + np.searchsorted(pm, rng.random(size) * pm[-1]))
    key = np.unique(np.concatenate(keys))
    if len(key) > n:
        key = np.sort(rng.permutation(key)[:n])
    u, m = (key // items).astype(np.int32), (key % items).astype(np.int32)
    y = 3.5 + rng.normal(size=users)[u] * 0.43 + rng.normal(size=items)[m] * 0.55
    y = np.clip(np.round(y + 0.9 * rng.normal(size=len(u))), 1, 5).astype(np.float32)
    return pd.DataFrame({"y": y, "u": u, "m": m})


def uniform(n: int, users: int, items: int, seed: int = 21) -> pd.DataFrame:
    """Two factors whose levels are drawn alike: no level has many rows."""
    rng = np.random.default_rng(seed)
    u = rng.integers(0, users, n, dtype=np.int32)
    m = rng.integers(0, items, n, dtype=np.int32)
    y = 1.0 + rng.normal(size=users)[u] * 0.7 + rng.normal(size=items)[m] * 0.5 + rng.normal(size=n)
    return pd.DataFrame({"y": y, "u": u, "m": m})


def slopes(n: int, users: int, items: int, seed: int = 22) -> pd.DataFrame:
    """Random intercepts and slopes of the larger factor, intercepts of the other."""
    data = uniform(n, users, items, seed)
    rng = np.random.default_rng(seed + 1)
    data["x"] = rng.normal(size=n)
    data["y"] += (0.3 + 0.4 * rng.normal(size=users)[data["u"]]) * data["x"]
    return data


def movers(n: int, workers: int, firms: int, share: float = 0.01, seed: int = 23) -> pd.DataFrame:
    """Workers by firms; only a share of the workers ever changes the firm: weakly connected."""
    rng = np.random.default_rng(seed)
    worker = np.sort(rng.integers(0, workers, n)).astype(np.int32)
    home = rng.integers(0, firms, workers)
    second = np.where(rng.random(workers) < share, rng.integers(0, firms, workers), home)
    firm = np.where(rng.random(n) < 0.5, home[worker], second[worker]).astype(np.int32)
    y = rng.normal(size=workers)[worker] * 0.8 + rng.normal(size=firms)[firm] * 0.5 + rng.normal(size=n)
    return pd.DataFrame({"y": y, "u": worker, "m": firm})


def schools(students: int, schools: int, districts: int, years: int = 6, move: float = 0.1, seed: int = 5):
    """Students by teachers within schools within districts; a share of the years in another school."""
    rng = np.random.default_rng(seed)
    student = np.repeat(np.arange(students, dtype=np.int32), years)
    school = np.repeat(rng.integers(0, schools, students), years)
    school = np.where(rng.random(school.size) < move, rng.integers(0, schools, school.size), school)
    teacher = (20 * school + rng.integers(0, 20, school.size)).astype(np.int32)
    school, district = school.astype(np.int32), (school % districts).astype(np.int32)
    y = rng.normal(size=students)[student] + 0.4 * rng.normal(size=20 * schools)[teacher]
    y += 0.3 * rng.normal(size=schools)[school] + 0.2 * rng.normal(size=districts)[district]
    return pd.DataFrame(
        {"y": y + 0.7 * rng.normal(size=y.size), "u": student, "m": teacher, "s": school, "d": district}
    )


CROSSED = "y ~ 1 + (1 | u) + (1 | m)"
WORKLOADS: dict[str, tuple[Callable[[], pd.DataFrame], str]] = {
    "ratings1m": (lambda: ratings(1_000_000, 6_280, 2_638), CROSSED),
    "ratings4m": (lambda: ratings(4_000_000, 25_118, 10_554), CROSSED),
    "ratings16m": (lambda: ratings(16_000_000, 100_474, 42_216), CROSSED),
    "ratings32m": (lambda: ratings(32_000_204, 200_948, 84_432), CROSSED),
    "ratings100m": (lambda: ratings(100_000_000, 628_000, 264_000), CROSSED),
    "uniform1m": (lambda: uniform(1_000_000, 66_000, 33_000), CROSSED),
    "uniform10m": (lambda: uniform(10_000_000, 660_000, 330_000), CROSSED),
    "slopes1m": (lambda: slopes(1_000_000, 40_000, 10_000), "y ~ x + (x | u) + (1 | m)"),
    "movers1m": (lambda: movers(1_000_000, 200_000, 25_000), CROSSED),
    "schools1m": (lambda: schools(200_000, 2_000, 100), "y ~ 1 + (1 | u) + (1 | m) + (1 | s) + (1 | d)"),
}
GROWTH = ["ratings1m", "ratings4m", "ratings16m", "ratings32m"]
DEFAULT = ["ratings1m", "ratings4m", "uniform1m", "slopes1m", "movers1m", "schools1m"]


def _data(name: str, cache: Path | None) -> pd.DataFrame:
    if cache is None:
        return WORKLOADS[name][0]()
    path = cache / f"{name}.pkl"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        WORKLOADS[name][0]().to_pickle(path)
    return pd.read_pickle(path)


def _warm(name: str) -> pd.DataFrame:
    """Small data for which the same kernels are compiled."""
    return schools(500, 10, 3) if name.startswith("schools") else slopes(3_000, 100, 60)


def run(name: str, cache: Path | None) -> dict[str, object]:
    """Fit one workload in this process."""
    import mme

    formula = WORKLOADS[name][1]
    small = _data(name, cache) if cache is not None else WORKLOADS[name][0]()
    mme.lmer(formula, _warm(name), solver="iterative")
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, processor = time.perf_counter(), time.process_time()
    results = mme.lmer(formula, small, solver="iterative")
    seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    record, errors = results.fit.record, results.fit.monte_carlo
    return {
        "workload": name,
        "rows": len(small),
        "levels": "+".join(str(t.n_levels) for t in results.fit.design.terms),
        "seconds": round(seconds, 2),
        "CPU s": round(processor, 2),
        "steps": record.iterations,
        "evaluations": record.evaluations,
        "iterations": errors.cg_iterations,
        "probes": errors.probes,
        "error/SE": float(f"{errors.ratio:.1e}"),
        "loglik error": float(f"{errors.loglik_error:.1e}"),
        "GiB before": round(held / 2**20, 2),
        "peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "converged": record.converged,
        "load": round(os.getloadavg()[0], 1),
        "theta": [float(f"{v:.5g}") for v in np.concatenate(results.fit.theta)],
        "stages": {k: round(v, 2) for k, v in record.seconds.items()},
    }


def limits(name: str, cache: Path | None, columns: int = 16) -> dict[str, object]:
    """Share of the products with S in a fit, and their reading of rows against reading memory in order."""
    import mme
    from mme.engine.iterative.pcg import SchurSystem
    from mme.engine.runtime.parallel import cut
    from mme.engine.runtime.parallel import run as on_threads

    data = _data(name, cache)
    mme.lmer(WORKLOADS[name][1], _warm(name), solver="iterative")
    spent, product = [], SchurSystem.product

    def timed(self, V, *args):
        begin = time.perf_counter()
        result = product(self, V, *args)
        spent.append((time.perf_counter() - begin, V.shape[1]))
        return result

    SchurSystem.product = timed
    begin = time.perf_counter()
    results = mme.lmer(WORKLOADS[name][1], data, solver="iterative")
    seconds = time.perf_counter() - begin
    SchurSystem.product = product
    system = results.fit.objective.system
    V = np.random.default_rng(0).normal(size=(system.q2, columns))
    cells = results.fit.objective.eq.idx.size
    single = _median(lambda: product(system, V, 1e-3))
    double = _median(lambda: product(system, V, 0.0))
    block = np.ones(2**27, np.float32)  # 512 MiB, read in order by all threads
    order = _median(lambda: on_threads(lambda _, a, b: block[a:b].sum(), cut(None, block.size, 1e9)))
    gathered = cells * (4 * columns * (system.k1 + 1) + 8)  # a row and an index, in two passes
    return {
        "workload": name,
        "seconds": round(seconds, 2),
        "products": len(spent),
        "right-hand sides": sum(m for _, m in spent),
        "their share": round(sum(t for t, _ in spent) / seconds, 2),
        f"product of {columns}, s": round(single, 4),
        "in double precision, s": round(double, 4),
        "rows read, GB/s": round(gathered / single / 1e9, 1),
        "in order, GB/s": round(block.nbytes / order / 1e9, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def _median(function: Callable[[], object], repeats: int = 7) -> float:
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def gpboost(name: str, cache: Path | None) -> dict[str, object]:
    """The same model by GPBoost's iterative methods (maximum likelihood), in this process."""
    import gpboost as gpb

    data = _data(name, cache)
    begin, processor = time.perf_counter(), time.process_time()
    model = gpb.GPModel(
        group_data=data[["u", "m"]].to_numpy(), likelihood="gaussian", matrix_inversion_method="iterative"
    )
    model.fit(y=data["y"].to_numpy(dtype=float), X=np.ones((len(data), 1)))
    seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    values = np.asarray(model.get_cov_pars()).ravel()
    theta = np.sqrt(values[1:3] / values[0])
    return {
        "workload": f"{name} (GPBoost {gpb.__version__})",
        "rows": len(data),
        "seconds": round(seconds, 2),
        "CPU s": round(processor, 2),
        "peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "load": round(os.getloadavg()[0], 1),
        "theta": [float(f"{v:.5g}") for v in theta],
    }


def _child(kind: str, name: str, cache: Path | None) -> dict[str, object]:
    command = [sys.executable, __file__, kind, name] + (["--cache", str(cache)] if cache else [])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"workload": name, "failed": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def _table(rows: list[dict[str, object]]) -> str:
    columns = [c for c in dict.fromkeys(k for row in rows for k in row) if c not in ("stages", "theta")]
    lines = ["| " + " | ".join(columns) + " |", "|" + "--|" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def _plot(rows: list[dict[str, object]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if row.get("workload") in GROWTH]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    millions = [row["rows"] / 1e6 for row in rows]
    left.plot(millions, [row["CPU s"] for row in rows], "o-")
    left.set(xlabel="million rows", ylabel="processor seconds", xlim=(0, None), ylim=(0, None))
    right.plot(millions, [row["peak GiB"] for row in rows], "o-")
    right.set(xlabel="million rows", ylabel="peak GiB", xlim=(0, None), ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join(WORKLOADS))
    parser.add_argument("--cache", type=Path, help="folder for the generated data")
    parser.add_argument("--gpboost", action="store_true", help="also fit with GPBoost")
    parser.add_argument("--limits", action="store_true", help="what limits the fits")
    parser.add_argument("--plot", type=Path, help="file for a plot of time and memory against rows")
    args = parser.parse_args()
    kinds = {"run": run, "gpboost": gpboost, "limits": limits}
    if args.names and args.names[0] in kinds:
        print(json.dumps(kinds[args.names[0]](args.names[1], args.cache)))
        return
    rows = []
    for name in args.names or (GROWTH if args.plot else DEFAULT):
        if name not in WORKLOADS:
            parser.error(f"no workload {name!r}; there are {', '.join(WORKLOADS)}")
        for kind in ["limits"] if args.limits else ["run", "gpboost"] if args.gpboost else ["run"]:
            rows.append(_child(kind, name, args.cache))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(_table(rows))
    if args.plot:
        _plot(rows, args.plot)


if __name__ == "__main__":
    main()
