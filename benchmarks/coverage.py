"""Coverage of 95 % intervals by simulation: fixed effects (Kenward-Roger), profiles of deviations.

    python -m benchmarks.coverage                                   # the table of docs/intervals.md
    python -m benchmarks.coverage --fixed 0 --profile 250 --reml    # restricted likelihood

Unbalanced groups of 4 to 10 rows with a covariate x inside the groups and z between them, with random
intercepts, or correlated intercepts and slopes, in 6, 10 and 30 groups; and 12 subjects by 8 items, a third
of the cells missing. Every response is drawn from the true parameters on one design and fitted by REML (fixed
effects) and ML (profiles).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import special

import mme
from mme.engine.equations.respond import respond
from mme.exceptions import MMEError
from mme.fit import fit_design
from mme.fit.fitted import Fitted
from mme.inference.bootstrap import simulate
from mme.inference.parameters import choose, estimates
from mme.inference.profile import profile_intervals
from mme.report.coefficients import coef_table

SEED = 20_261
_LEVEL = 0.95


def groups(q: int, slopes: bool) -> tuple[str, pd.DataFrame, list[np.ndarray]]:
    """Formula, covariates, and relative factors of the truth."""
    rng = np.random.default_rng(q)
    g = np.repeat(np.arange(q), rng.integers(4, 11, q))
    data = pd.DataFrame({"g": g, "x": rng.normal(size=g.size), "z": rng.normal(size=q)[g]})
    if slopes:
        return "y ~ x + z + (x | g)", data, [np.array([[0.8, 0.0], [0.2, 0.6]])]
    return "y ~ x + z + (1 | g)", data, [np.array([[0.8]])]


def crossed() -> tuple[str, pd.DataFrame, list[np.ndarray]]:
    """Subjects by items with cells missing; z belongs to the items."""
    rng = np.random.default_rng(0)
    s, i = np.repeat(np.arange(12), 8), np.tile(np.arange(8), 12)
    there = rng.random(s.size) > 1.0 / 3.0
    s, i = s[there], i[there]
    data = pd.DataFrame({"s": s, "i": i, "x": rng.normal(size=s.size), "z": rng.normal(size=8)[i]})
    return "y ~ x + z + (1 | s) + (1 | i)", data, [np.array([[0.8]]), np.array([[0.5]])]


DESIGNS = {
    **{f"intercepts, {q} groups": groups(q, False) for q in (6, 10, 30)},
    **{f"intercepts and slopes, {q} groups": groups(q, True) for q in (6, 10, 30)},
    "crossed, 12 subjects x 8 items": crossed(),
}


def truth(formula: str, data: pd.DataFrame, lam: list[np.ndarray]) -> Fitted:
    """The true parameters as a fit."""
    data = data.assign(y=np.random.default_rng(1).normal(size=len(data)))
    result = mme.lmer(formula, data)
    return replace(result.fitted, beta=np.array([1.0, 0.5, 0.4]), lam=tuple(lam), sigma2=1.0)


def coverage(true: Fitted, fixed: int, profile: int, seed: int, reml: bool = False) -> list[dict]:
    """Rows of the table for one design."""
    rng = np.random.default_rng(seed)
    equations = true.objective().eq
    assert true.design is not None
    chosen = choose(true.labels, None, ("sd", "sigma"))
    at = [estimates(true).value(p) for p in chosen]
    inside: dict[str, list[bool]] = {}
    failures = 0
    for i in range(max(fixed, profile)):
        design = replace(true.design, y=simulate(true.design, true, rng))
        again = respond(design, equations)
        if i < fixed:
            fit = fit_design(design, equations=again)
            table = coef_table(Fitted.of(fit, true.labels), "kenward-roger")
            for name, value in zip(true.labels.fixed, true.beta, strict=True):
                row = table.loc[name]
                inside.setdefault(f"{name}, KR", []).append(bool(row.lower <= value <= row.upper))
        if i < profile:
            fit = fit_design(design, reml=reml, equations=again)
            try:
                ends = profile_intervals(Fitted.of(fit, true.labels), chosen, 1.0 - _LEVEL, reml).ends
            except MMEError:
                failures += 1
                continue
            for p, value, (low, high) in zip(chosen, at, ends, strict=True):
                inside.setdefault(f"{p.name}, profile{' (REML)' * reml}", []).append(
                    bool(low <= value <= high)
                )
    out = []
    for name, hits in inside.items():
        share = float(np.mean(hits))
        error = float(np.sqrt(_LEVEL * (1.0 - _LEVEL) / len(hits)))
        out.append({"interval": name, "coverage": share, "mc error": error, "responses": len(hits)})
    if failures:
        out.append({"interval": "profiles that failed", "responses": failures})
    return out


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--fixed", type=int, default=2000, help="responses for fixed effects")
    parser.add_argument("--profile", type=int, default=250, help="responses for profiles")
    parser.add_argument("--reml", action="store_true", help="profile the restricted likelihood")
    parser.add_argument("--design", action="append", choices=list(DESIGNS), help="this one; may be repeated")
    given = parser.parse_args()
    rows = []
    for number, (name, (formula, data, lam)) in enumerate(DESIGNS.items()):
        if given.design and name not in given.design:
            continue
        begin = time.process_time()
        for row in coverage(truth(formula, data, lam), given.fixed, given.profile, SEED + number, given.reml):
            rows.append({"design": name, **row})
        print(f"{name}: {time.process_time() - begin:.0f} s", flush=True)
    table = pd.DataFrame(rows)
    away = (table["coverage"] - _LEVEL).abs() / table["mc error"]
    table["p"] = 2.0 * special.ndtr(-away)
    print(table.to_string(index=False, float_format=lambda v: f"{v:.4f}"))


if __name__ == "__main__":
    main()
