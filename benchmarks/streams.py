"""Fits of rows in Parquet files: time against reading and decoding the file alone, and memory against rows.

    python -m benchmarks.streams make slope 1e7 rows.parquet     # or nested, or ratings 32000204
    /usr/bin/time -v python -m benchmarks.streams fit slope rows.parquet
    python -m benchmarks.streams figure figures.json docs/streaming_memory.png

`fit` prints one line of JSON: seconds of the sums, of the equations, of the fit, and of decoding with pyarrow
alone (without pre-buffering, as mme reads, and as pyarrow does by default), and the peak of memory in GiB at
every stage.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

FORMULAS = {
    "slope": "y ~ x + (x | g)",
    "nested": "y ~ x + (1 | school/g)",
    "ratings": "y ~ 1 + (1 | u) + (1 | m)",
}
BATCH = 262_144


def make(kind: str, n: int, path: str) -> None:
    """Rows written piece by piece: of 1 million levels, of as many in 100,000, or film ratings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "ratings":
        from .iterative import ratings

        frame = ratings(n, n * 200_948 // 32_000_204, n * 84_432 // 32_000_204)
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, row_group_size=1_000_000)
        return
    q, rng, writer = min(1_000_000, n // 10), np.random.default_rng(1), None
    up = rng.normal(size=q // 10)
    b = rng.normal(size=(q, 2)) @ np.linalg.cholesky(np.array([[1.0, 0.3], [0.3, 0.5]])).T
    for start in range(0, n, 2_000_000):
        m = min(2_000_000, n - start)
        g, x = rng.integers(0, q, m), np.round(rng.normal(size=m), 5)
        y = 1.0 + 2.0 * x + b[g, 0] + rng.normal(size=m)
        y += up[g // 10] if kind == "nested" else b[g, 1] * x
        columns = {"y": np.round(y, 5), "x": x, "g": g}
        if kind == "nested":
            columns["school"] = g // 10
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=1_000_000)
    assert writer is not None
    writer.close()


def decode(path: str, pre_buffer: bool) -> dict:
    """Seconds to read and decode all columns of a file; `pre_buffer`: as pyarrow does it by default."""
    import pyarrow.dataset as ds

    cpu, begin = time.process_time(), time.perf_counter()
    options = ds.ParquetFragmentScanOptions(pre_buffer=pre_buffer)
    scanner = ds.dataset(path).scanner(batch_size=BATCH, fragment_scan_options=options)
    rows = sum(batch.num_rows for batch in scanner.to_batches())
    assert rows > 0
    return {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - cpu}


def peak() -> float:
    """Largest resident memory so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def fit(kind: str, path: str) -> dict:
    """Time and memory of one fit, beside decoding."""
    import mme

    formula = FORMULAS[kind]
    _warm(kind, formula)
    out = {"kind": kind, "start_gib": peak()}
    cpu, begin = time.process_time(), time.perf_counter()
    products = mme.CrossProducts.of(formula, path)
    out["sums"], out["sums_cpu"], out["sums_gib"] = (
        time.perf_counter() - begin,
        time.process_time() - cpu,
        peak(),
    )
    begin = time.perf_counter()
    model = products.model()
    out["equations"], out["equations_gib"] = time.perf_counter() - begin, peak()
    n_levels = {name: counts.size for name, counts in products.cells().items()}
    del products
    begin = time.perf_counter()
    results = model.fit()
    out["fit"], out["fit_gib"] = time.perf_counter() - begin, peak()
    out["decode"], out["decode_default"] = decode(path, False), decode(path, True)
    out["decoded_gib"] = peak()
    total = out["sums"] + out["equations"] + out["fit"]
    out.update(
        rows=results.nobs, levels=n_levels, llf=results.llf, converged=results.converged,
        solver=model.preflight().solver, total=total, ratio=total / out["decode"]["seconds"],
        ratio_default=total / out["decode_default"]["seconds"],
    )  # fmt: skip
    return out


def _warm(kind: str, formula: str) -> None:
    """Compile, and start threads."""
    import pandas as pd

    import mme

    rng = np.random.default_rng(0)
    n = 40_000
    g = rng.integers(0, 400, n)
    rows = pd.DataFrame(
        {
            "y": rng.normal(size=400)[g] + rng.normal(size=n),
            "x": rng.normal(size=n),
            "g": g,
            "school": g // 10,
        }
    )
    rows["u"], rows["m"] = g, rng.integers(0, 30, n)
    mme.lmer(formula, [rows[i : i + 10_000] for i in range(0, n, 10_000)])


def figure(source: str, path: str) -> None:
    """Memory against rows, from lines of `fit`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs = [json.loads(line) for line in Path(source).read_text().splitlines() if line.startswith("{")]
    _, axes = plt.subplots(figsize=(6, 4))
    for kind in dict.fromkeys(run["kind"] for run in runs):
        own = sorted((run["rows"], run["fit_gib"]) for run in runs if run["kind"] == kind)
        axes.plot(*zip(*own, strict=True), "o-", label=f"{FORMULAS[kind]}, a million levels at most")
    rows = np.array(sorted({run["rows"] for run in runs}), dtype=float)
    axes.plot(rows, rows * 24 / 2**30, "k:", label="three columns of numbers in memory")
    axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="peak of memory, GiB")
    axes.legend(fontsize=8)
    plt.tight_layout()
    plt.savefig(path, dpi=120)


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "make":
        make(rest[0], int(float(rest[1])), rest[2])
    elif command == "fit":
        print(json.dumps(fit(*rest)), flush=True)
    else:
        figure(*rest)
