"""Small hard designs: mme's fits beside a dense multi-start search of the same likelihood.

    python benchmarks/hard_designs.py --n 2000 --seed 1 --cache DIR --json OUT
    python benchmarks/hard_designs.py --seed 1 --only 137            # one design: data, formula, both optima
    python benchmarks/hard_designs.py --n 300 --seed 1 --cache DIR --reference   # fill the cache, no fits
    python benchmarks/hard_designs.py --seed 1 --cache DIR --reference --again 3  # search with more starts

Twelve families in turn: few levels, nearly saturated, collinear and uncentred slopes, tiny, nearly separated
groups, huge variance ratios, rounded responses, nearly equal factors, weights over 1e+-3, heavy tails, zero
variances, nearly perfect slopes.  A design depends on the seed and its number alone; the optima found by the
search (`dense_search.py`) depend on the design alone and are kept in DIR, so that another run measures mme
only.  Where mme ends higher than the search, the search starts again from there and the better one is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import mme
from benchmarks.dense_search import Dense, Found, Term, search
from mme.exceptions import ConvergenceWarning, MMEError, PerfectFitError

__all__ = ["FAMILIES", "HardDesign", "compare", "dense", "design", "main", "reference"]

FAMILIES = (
    "few levels", "near saturated", "collinear", "tiny", "separated", "ratios", "discrete", "twin factors",
    "weights", "heavy tails", "zero variances", "steep",
)  # fmt: skip
SHORT = (0.01, 0.001)
WRONG = 1e-6  # difference of mme's log-likelihood from the dense one at mme's own estimates


@dataclass
class HardDesign:
    """A data set and a model, as a formula and as lists of columns.

    Attributes
    ----------
    family : str
    data : DataFrame
        y, x, z, w and the grouping columns g, h, i.
    formula : str
    fixed : list of str
        Columns of X; "1" is the constant.
    terms : list of (list of str, str)
        Columns and grouping column of every term, in the order of the formula; `||` is several.
    weighted, reml : bool
    """

    family: str
    data: pd.DataFrame
    fixed: list[str]
    terms: list[tuple[list[str], str]]
    bars: list[str]
    weighted: bool
    reml: bool
    formula: str = field(init=False)

    def __post_init__(self) -> None:
        self.formula = " + ".join(["y ~ 1", *self.fixed[1:], *self.bars])

    @property
    def checksum(self) -> str:
        text = self.formula + str(self.weighted) + str(self.reml) + str(self.terms)
        numbers = np.ascontiguousarray(self.data.to_numpy(dtype=float)).tobytes()
        return hashlib.sha256(text.encode() + numbers).hexdigest()[:16]

    def fit(self, **options: object) -> mme.LinearMixedModelResults:
        """mme's fit."""
        weights = "w" if self.weighted else None
        return mme.lmer(self.formula, self.data, self.reml, weights=weights, **options)


def design(seed: int, number: int) -> HardDesign:
    """Design `number` of a seed."""
    rng = np.random.default_rng([seed, number])
    family = FAMILIES[number % len(FAMILIES)]
    n = int(rng.integers(6, 13)) if family == "tiny" else int(rng.integers(14, 80))
    n_factors = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    if family == "twin factors":
        n_factors = max(n_factors, 2)
    if family == "tiny":
        n_factors = min(n_factors, 2)
    factors = _factors(rng, family, n, n_factors)
    x, z = _covariates(rng, family, n)
    columns = {"1": np.ones(n), "x": x, "z": z}
    terms, bars = _terms(rng, family, n, factors)
    used = sorted({name for names, _ in terms for name in names if name != "1"})
    fixed = ["1"] + [name for name in ("x", "z") if name in used or rng.random() < 0.3]
    if family != "tiny" and len(fixed) > 1 and rng.random() < 0.15:
        fixed = fixed[:-1]  # a random slope without its fixed one
    y = _response(rng, family, n, columns, factors, terms, fixed)
    weighted = family == "weights" or (family in ("ratios", "heavy tails") and rng.random() < 0.2)
    w = 10.0 ** rng.uniform(-3.0, 3.0, size=n) if weighted else np.ones(n)
    if weighted:
        y = y + rng.normal(size=n) / np.sqrt(w) * (0.0 if family == "ratios" else 1.0)
    data = pd.DataFrame({"y": y, "x": x, "z": z, "w": w, **factors})
    return HardDesign(family, data, fixed, terms, bars, weighted, bool(rng.random() < 0.6))


def _factors(rng: np.random.Generator, family: str, n: int, count: int) -> dict[str, np.ndarray]:
    """Grouping columns g, h, i: codes without gaps."""
    out: dict[str, np.ndarray] = {}
    for name in ("g", "h", "i")[:count]:
        if family == "few levels" or (family == "discrete" and rng.random() < 0.5):
            q = int(rng.integers(2, 7))
        elif family == "near saturated":
            q = int(rng.integers(max(3, int(0.5 * n)), n))
        elif family == "tiny":
            q = int(rng.integers(2, max(3, n // 2)))
        else:
            q = int(rng.integers(2, max(4, n // 3)))
        if family == "twin factors" and out:
            codes = out["g"].copy()
            moved = rng.choice(n, size=int(rng.integers(1, max(2, n // 8))), replace=False)
            codes[moved] = rng.integers(0, codes.max() + 1, size=moved.size)
        elif out and rng.random() < 0.3:
            codes = out["g"] * 2 + rng.integers(0, 2, size=n)  # nested
        else:
            form = rng.integers(3)
            if form == 0:
                codes = np.arange(n) % q
            elif form == 1:
                codes = np.sort(np.arange(n) % q)
            else:
                codes = rng.integers(0, q, size=n)
        out[name] = np.unique(codes, return_inverse=True)[1]
        if out[name].max() == 0:
            out[name] = np.arange(n) % 2
        if out[name].max() == n - 1:
            out[name][-1] = 0
            out[name] = np.unique(out[name], return_inverse=True)[1]
    return out


def _covariates(rng: np.random.Generator, family: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    form = rng.integers(3)
    if form == 0 or family == "discrete":
        x = (np.arange(n) % int(rng.integers(2, min(10, n)))).astype(float)
        z = rng.integers(0, 3, size=n).astype(float)
        z[:2] = 0.0, 1.0
    elif form == 1:
        x, z = rng.normal(size=n), rng.normal(size=n)
    else:
        x, z = np.linspace(0.0, 1.0, n), rng.uniform(size=n)
    if family == "collinear":
        if rng.random() < 0.5:
            x = x + 10.0 ** rng.uniform(1.0, 6.0)
        z = x + rng.normal(size=n) * 10.0 ** rng.uniform(-5.0, 0.0)
    elif rng.random() < 0.15:
        x = x * 10.0 ** rng.uniform(-4.0, 4.0)
    return x, z


def _terms(
    rng: np.random.Generator, family: str, n: int, factors: dict[str, np.ndarray]
) -> tuple[list[tuple[list[str], str]], list[str]]:
    """Columns by term and the formula's bars; a term has fewer effects than there are rows."""
    terms: list[tuple[list[str], str]] = []
    bars = []
    for position, (name, codes) in enumerate(factors.items()):
        q = int(codes.max()) + 1
        shares = [0.35, 0.4, 0.1, 0.1, 0.05] if position == 0 else [0.6, 0.2, 0.05, 0.1, 0.05]
        if family in ("collinear", "steep") and position == 0:
            shares = [0.0, 0.55, 0.25, 0.15, 0.05]
        form = int(rng.choice(5, p=shares))
        if form and q * {1: 2, 2: 3, 3: 2, 4: 1}[form] > (n if family == "near saturated" else 0.8 * n):
            form = 0
        if form == 3:
            terms += [(["1"], name), (["x"], name)]
        else:
            terms.append(([["1"], ["1", "x"], ["1", "x", "z"], [], ["x"]][form], name))
        bars.append(["(1 | {})", "(x | {})", "(x + z | {})", "(x || {})", "(0 + x | {})"][form].format(name))
    return terms, bars


def _response(
    rng: np.random.Generator,
    family: str,
    n: int,
    columns: dict[str, np.ndarray],
    factors: dict[str, np.ndarray],
    terms: list[tuple[list[str], str]],
    fixed: list[str],
) -> np.ndarray:
    standard = {
        name: np.ones(n) if name == "1" else (values - values.mean()) / values.std()
        for name, values in columns.items()
    }
    y = sum(rng.normal() * standard[name] for name in fixed)
    largest = rng.integers(sum(len(names) for names, _ in terms))
    position = 0
    for names, group in terms:
        q = int(factors[group].max()) + 1
        common = rng.normal(size=q) * (rng.random() < 0.3)  # correlated effects, now and then
        for name in names:
            sd = 10.0 ** rng.uniform(-1.0, 0.7)
            if family == "zero variances":
                sd = 0.0 if rng.random() < 0.7 else sd
            elif family == "ratios":
                ratio = 10.0 ** rng.uniform(2.0, 5.0)
                sd = ratio if position == largest or rng.random() < 0.2 else sd * (rng.random() < 0.6)
            elif family == "separated" and name == "1" and position == 0:
                sd = 10.0 ** rng.uniform(1.0, 6.0)
            elif family == "steep" and name != "1":
                sd = 10.0 ** rng.uniform(1.0, 5.0)
            y = y + sd * (rng.normal(size=q) + common)[factors[group]] * standard[name]
            position += 1
    if family == "heavy tails":
        noise = [rng.standard_cauchy(n), rng.standard_t(2, n), np.exp(2.0 * rng.normal(size=n))]
        y = y + noise[rng.integers(3)]
    elif family != "weights":
        y = y + rng.normal(size=n)
    if family == "discrete":
        y = np.round(y, int(rng.integers(0, 2)))
        if rng.random() < 0.3:
            y = y[rng.integers(0, n, size=n)] if rng.random() < 0.5 else np.repeat(y[: (n + 1) // 2], 2)[:n]
    if np.ptp(y) == 0:
        y[0] += 1.0
    return np.asarray(y, dtype=float)


def dense(hard: HardDesign) -> Dense:
    """The dense likelihood of a design."""
    table = {"1": np.ones(len(hard.data)), **{name: hard.data[name].to_numpy(float) for name in ("x", "z")}}
    X = np.column_stack([table[name] for name in hard.fixed])
    terms = [
        Term(hard.data[group].to_numpy(), np.column_stack([table[name] for name in names]))
        for names, group in hard.terms
    ]
    weights = hard.data["w"].to_numpy() if hard.weighted else None
    return Dense(hard.data["y"].to_numpy(), X, terms, weights, hard.reml)


def reference(hard: HardDesign, seed: int, number: int, extra: tuple = (), draw: int = 1) -> dict:
    """The search's result and what the design allows, as plain values; `draw` numbers its random starts."""
    likelihood = dense(hard)
    share, rank = likelihood.residual_share()
    record: dict = {
        "number": number,
        "checksum": hard.checksum,
        "residual_share": share,
        "saturated": rank >= likelihood.nu,
        "explained": likelihood.explained(),
        "flat": likelihood.flat_directions(),
    }
    if not record["explained"]:
        started = time.perf_counter()
        found: Found = search(likelihood, np.random.default_rng([seed, number, draw]), extra)
        record |= asdict(found) | {"seconds": round(time.perf_counter() - started, 3)}
    return record


def again(hard: HardDesign, seed: int, number: int, record: dict, draws: int) -> dict:
    """The search repeated with other random starts; the best of all, with the modes seen by all."""
    for draw in range(record.get("draws", 1) + 1, draws + 1):
        other = reference(hard, seed, number, (record["theta"],), draw)
        best, rest = (other, record) if other["llf"] > record["llf"] else (record, other)
        if other["llf"] > record["llf"] + SHORT[1]:
            best["missed_before"] = record["llf"]
        modes = list(best["modes"])
        modes += [m for m in rest["modes"] if all(abs(m - seen) > SHORT[1] for seen in modes)]
        record = best | {"modes": sorted(modes, reverse=True), "draws": draw}
    return record


class Cache:
    """Records of the search, one JSON line each; the last line of a number counts."""

    def __init__(self, folder: str | None, seed: int) -> None:
        self.path = None if folder is None else Path(folder) / f"reference-{seed}.jsonl"
        self.records: dict[int, dict] = {}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                for line in self.path.read_text().splitlines():
                    record = json.loads(line)
                    self.records[record["number"]] = record

    def get(self, hard: HardDesign, number: int) -> dict | None:
        record = self.records.get(number)
        return record if record is not None and record["checksum"] == hard.checksum else None

    def put(self, record: dict) -> None:
        self.records[record["number"]] = record
        if self.path is not None:
            with open(self.path, "a") as file:
                file.write(json.dumps(record) + "\n")


def compare(hard: HardDesign, record: dict) -> dict:
    """One fit of mme and how it stands to the reference."""
    row: dict = {key: record[key] for key in ("number", "saturated", "explained", "flat", "residual_share")}
    row |= {"family": hard.family, "formula": hard.formula, "n": len(hard.data), "reml": hard.reml}
    row |= {"reference": record.get("llf"), "limit": record.get("limit"), "modes": record.get("modes")}
    started, cpu = time.perf_counter(), time.process_time()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = hard.fit()
        row |= {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
    except Exception as error:  # the kind of error is what is counted
        row |= {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
        row |= {
            "error": type(error).__name__,
            "message": str(error)[:200],
            "reason": _reason(error, hard, record),
        }
        return row
    info = result.fit_info
    row |= {"llf": result.llf, "converged": bool(info["converged"]), "evaluations": info["evaluations"]}
    row |= {"singular": list(info["singular"]), "theta": in_formula_order(hard, result)}
    row |= {"message": info["message"], "seconds_inside": float(sum(info["seconds"].values()))}
    row["warnings"] = sorted({w.category.__name__ for w in caught} - {ConvergenceWarning.__name__})
    likelihood = dense(hard)
    at = likelihood.natural(row["theta"])
    value = likelihood.llf(at)
    row |= {"dense_llf": value, "left": likelihood.precision(row["theta"]), "wrong": abs(value - result.llf)}
    if row["reference"] is not None:
        row["short"] = row["reference"] - value
    return row


def in_formula_order(hard: HardDesign, result: mme.LinearMixedModelResults) -> list[float]:
    """mme's theta with the terms as the formula has them (mme puts terms of many levels first)."""
    theta: list[float] = []
    model = result.model.model_design
    names = [
        (group, tuple("1" if name == "(Intercept)" else name for name in term.column_names))
        for group, term in zip(model.groups, model.design.terms, strict=True)
    ]
    for columns, group in hard.terms:
        theta += [float(value) for value in result.fit.theta[names.index((group, tuple(columns)))]]
    return theta


def _reason(error: Exception, hard: HardDesign, record: dict) -> str:
    """What in the design accounts for an error; empty if nothing does."""
    if isinstance(error, PerfectFitError):
        if record["explained"]:
            return "y in the span of terms"
        return "saturated" if record["saturated"] or record["residual_share"] < 1e-7 else ""
    if not isinstance(error, MMEError):
        return ""
    if record["flat"] > 0:
        return "variances that cannot be told apart"
    share = dense(hard).independent_share()
    return f"columns dependent to {share:.0e}" if share < 1e-8 else ""


def summary(rows: list[dict]) -> dict:
    """Counts over all designs."""
    fitted = [row for row in rows if "error" not in row]
    judged = [row for row in fitted if "short" in row]
    finite = [row for row in judged if not row["limit"]]
    wrong = [row for row in fitted if row["wrong"] > WRONG + 100.0 * row["left"]]
    errors: Counter = Counter()
    for row in rows:
        if "error" in row:
            errors[f"{row['error']}: {row['reason'] or 'NOT JUSTIFIED'}"] += 1
    return {
        "designs": len(rows),
        "fitted": len(fitted),
        **{f"short by > {level}": sum(row["short"] > level for row in finite) for level in SHORT},
        f"short by > {SHORT[0]} and converged": sum(r["short"] > SHORT[0] and r["converged"] for r in finite),
        "not converged": sum(not row["converged"] for row in fitted),
        "not converged, with a finite optimum": sum(not row["converged"] for row in finite),
        "optimum at infinity, fitted": len(judged) - len(finite),
        "no finite supremum (y in the span of terms), fitted": sum(row["explained"] for row in fitted),
        "flat likelihood, fitted": sum(row["flat"] > 0 for row in fitted),
        "above the search by > 1e-6": sum(row["short"] < -1e-6 for row in judged),
        f"value differs from the dense one at mme's theta by > {WRONG:g}": len(wrong),
        "several modes": sum(len(row["modes"] or []) > 1 for row in judged),
        "singular": sum(bool(row["singular"]) for row in fitted),
        "errors": dict(errors),
        "other warnings": dict(Counter(name for row in fitted for name in row["warnings"])),
        "evaluations, median / 95 % / most": [
            float(np.quantile([row["evaluations"] for row in fitted], q)) for q in (0.5, 0.95, 1.0)
        ],
        "evaluations, all": sum(row["evaluations"] for row in fitted),
        "seconds in lmer, wall / processor": [
            round(sum(r[key] for r in rows), 2) for key in ("seconds", "cpu")
        ],
        "milliseconds of processor, median / 95 % / most": [
            round(1e3 * float(np.quantile([row["cpu"] for row in rows], q)), 2) for q in (0.5, 0.95, 1.0)
        ],
    }


def worst(rows: list[dict], most: int) -> list[str]:
    """One line for each design that needs a look, the worst first."""

    def loss(row: dict) -> float:
        if "error" in row:
            return 0.0 if row["reason"] else 1e6
        loss = row["wrong"] if row["wrong"] > WRONG + 100.0 * row["left"] else 0.0
        if "short" in row and not row["limit"]:
            loss += max(row["short"], 0.0) if row["short"] > SHORT[1] else 0.0
        return loss + (1e-4 if not row["converged"] else 0.0)

    lines = []
    for row in sorted((row for row in rows if loss(row) > 0), key=loss, reverse=True)[:most]:
        head = f"{row['number']:5d} {row['family']:15s} n={row['n']:2d} {'REML' if row['reml'] else 'ML':4s} "
        if "error" in row:
            lines.append(f"{head}{row['error']}: {row['message'][:90]}  [{row['formula']}]")
            continue
        kinds = [name for name in ("explained", "saturated", "limit") if row[name]]
        kinds += ["flat"] if row["flat"] else []
        lines.append(
            f"{head}short {row.get('short', np.nan):9.3g} wrong {row['wrong']:8.1g} "
            f"{'' if row['converged'] else 'NOT CONVERGED '}{row['evaluations']} ev. "
            f"{' '.join(kinds)} [{row['formula']}]"
        )
    return lines


def show(seed: int, number: int, hard: HardDesign, record: dict) -> None:
    """Print one design, both optima and where they are."""
    print(hard.data.to_string())
    print(f"seed {seed}, number {number}, {hard.family}: {hard.formula}", end="")
    print(f"  weights={'w' if hard.weighted else None} reml={hard.reml}")
    print("search:", json.dumps(record, indent=1))
    print("mme:", json.dumps(compare(hard, record), indent=1, default=str))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=2000, help="number of designs")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one design, shown in full")
    parser.add_argument("--cache", help="folder of the search's results")
    parser.add_argument("--json", help="file for all rows and the counts")
    parser.add_argument("--reference", action="store_true", help="search only, no fits of mme")
    parser.add_argument(
        "--again", type=int, default=0, help="repeat searches until so many were made of each"
    )
    parser.add_argument("--cached", action="store_true", help="only designs the cache knows")
    parser.add_argument("--worst", type=int, default=60, help="lines of the list at the end")
    args = parser.parse_args(arguments)
    cache = Cache(args.cache, args.seed)
    numbers = [args.only] if args.only is not None else range(args.first, args.first + args.n)
    if not args.reference:
        for warm in range(24):  # compiles and warms caches, which is not timed
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    design(10_000, warm).fit()
            except (MMEError, ArithmeticError, np.linalg.LinAlgError):
                continue
    rows = []
    for number in numbers:
        hard = design(args.seed, number)
        record = cache.get(hard, number)
        if record is None:
            if args.cached:
                continue
            with threadpool_limits(1):
                record = reference(hard, args.seed, number)
            cache.put(record)
        if args.again and "llf" in record and record.get("draws", 1) < args.again:
            with threadpool_limits(1):
                record = again(hard, args.seed, number, record, args.again)
            cache.put(record)
        if args.reference:
            continue
        if args.only is not None:
            show(args.seed, number, hard, record)
            return 0
        row = compare(hard, record)
        if row.get("short", 0.0) < -1e-6:
            with threadpool_limits(1):
                better = reference(hard, args.seed, number, (row["theta"],))
            if better["llf"] > record["llf"]:
                better["improved"] = row["reference"]
                cache.put(better)
                row = compare(hard, better) | {"search_missed": better["llf"] - record["llf"]}
        rows.append(row)
    if args.reference:
        return 0
    counts = summary(rows)
    print(f"mme from {Path(mme.__file__).parent}, seed {args.seed}")
    for name, value in counts.items():
        print(f"{name:62s} {value}")
    print("\n".join(worst(rows, args.worst)))
    if args.json:
        Path(args.json).write_text(json.dumps({"summary": counts, "rows": rows}, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
