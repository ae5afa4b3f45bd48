"""statsmodels' MixedLM and mme's on the same models: a Markdown table of times, log-likelihoods, parameters.

    python -m benchmarks.statsmodels_table [--runs 5] [--models sleepstudy dietox pastes slope20k]

Times are medians over runs that alternate between the two, from formula and data frame to fitted parameters.
Where one statsmodels fit takes longer than --patience seconds it is run once.  Parameters are statsmodels'
packed ones: fixed effects, then (co)variances divided by the residual variance.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import statsmodels.regression.mixed_linear_model as original

import mme

TESTS = Path(__file__).resolve().parent.parent / "tests"


def _data(name: str) -> pd.DataFrame:
    if name == "dietox":
        folder = Path(original.__file__).parent / "tests" / "results"
        return pd.read_csv(folder / "dietox.csv")
    sys.path.insert(0, str(TESTS))
    import workloads
    from support import load_data

    return workloads.make(name) if name in workloads.WORKLOADS else load_data(name)


MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sleepstudy": ("sleepstudy", "Reaction ~ Days", {"groups": "Subject", "re_formula": "~Days"}),
    "dietox": ("dietox", "Weight ~ Time", {"groups": "Pig"}),
    "pastes": (
        "Pastes",
        "strength ~ 1",
        {"groups": "batch", "re_formula": "1", "vc_formula": {"cask": "0 + C(cask)"}},
    ),
    "slope20k": ("slope20k", "y ~ x", {"groups": "g", "re_formula": "~x"}),
}


def compare(name: str, runs: int, patience: float) -> dict[str, Any]:
    """Fit one model with both, alternating; times in seconds and the results of the last runs."""
    source, formula, kwargs = MODELS[name]
    data = _data(source)
    fits: dict[str, Callable[[], Any]] = {
        "statsmodels": lambda: original.MixedLM.from_formula(formula, data, **kwargs).fit(),
        "mme": lambda: mme.MixedLM.from_formula(formula, data, **kwargs).fit(),
    }
    fits["mme"]()  # compiled code is loaded before anything is timed
    seconds: dict[str, list[float]] = {who: [] for who in fits}
    results: dict[str, Any] = {}
    for _ in range(runs):
        for who, fit in fits.items():
            if seconds[who] and seconds[who][-1] > patience:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the table says what was reached
                start = time.perf_counter()
                results[who] = fit()
                seconds[who].append(time.perf_counter() - start)
    return {"data": data, "seconds": seconds, "results": results, "formula": formula, "kwargs": kwargs}


def row(name: str, got: dict[str, Any]) -> str:
    """One line of the table."""
    ours, theirs = got["results"]["mme"], got["results"]["statsmodels"]
    a, b = median(got["seconds"]["statsmodels"]), median(got["seconds"]["mme"])
    difference = ((ours.params - theirs.params).abs() / theirs.bse).max()
    parameters = ", ".join(
        f"{n}: {x:.5g} / {y:.5g}"
        for n, x, y in zip(ours.params.index, theirs.params, ours.params, strict=True)
    )
    times = f"{a:.3g} | {b:.3g} | {a / b:.0f}"
    values = f"{theirs.llf:.6f} | {ours.llf:.6f} | {difference:.1g}"
    return f"| {name} | {len(got['data'])} | {times} | {values} | {parameters} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--patience", type=float, default=20.0)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    args = parser.parse_args()
    print(
        "| model | rows | statsmodels, s | mme, s | ratio | log-likelihood, statsmodels | mme "
        "| largest difference, standard errors | parameters, statsmodels / mme |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.models:
        print(row(name, compare(name, args.runs, args.patience)), flush=True)


if __name__ == "__main__":
    main()
