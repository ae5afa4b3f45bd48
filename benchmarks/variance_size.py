"""Size at 5 % of the tests of a variance, in data simulated without it: a Markdown table.

    python -m benchmarks.variance_size [--replicates 2000] [--seed 1]

"rlrt" is the distribution in finite samples (approximate where there are other random effects), "mixture"
half a chi-square with one degree of freedom, "chi-square" that without regard to the boundary, as R's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import special

import mme
from mme.engine.equations.respond import respond
from mme.fit import fit_design
from mme.inference.random_terms import without_random_terms
from mme.inference.rlrt import simulate, spectrum

_NULL = 200_000  # draws of the distribution in finite samples


def _groups(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(sizes.size), sizes)


def few_groups(rng: np.random.Generator) -> pd.DataFrame:
    g = _groups(rng, np.full(6, 5))
    return pd.DataFrame({"g": g, "x": rng.normal(size=g.size)})


def unbalanced(rng: np.random.Generator) -> pd.DataFrame:
    g = _groups(rng, rng.integers(1, 13, 12))
    return pd.DataFrame({"g": g, "x": rng.normal(size=g.size)})


def slopes(rng: np.random.Generator) -> pd.DataFrame:
    g = _groups(rng, rng.integers(4, 12, 15))
    return pd.DataFrame({"g": g, "x": rng.normal(size=g.size)})


def crossed(rng: np.random.Generator) -> pd.DataFrame:
    g, h = rng.integers(0, 12, 150), rng.integers(0, 8, 150)
    return pd.DataFrame({"g": g, "h": h, "x": rng.normal(size=150)})


Maker = Callable[[np.random.Generator], pd.DataFrame]
# name, data, formula, what is tested, method; other random effects have the residual's variance
CASES: list[tuple[str, Maker, str, str, bool]] = [
    ("6 groups of 5", few_groups, "y ~ x + (1 | g)", "(1 | g)", True),
    ("6 groups of 5, ML", few_groups, "y ~ x + (1 | g)", "(1 | g)", False),
    ("12 groups of 1 to 12", unbalanced, "y ~ x + (1 | g)", "(1 | g)", True),
    ("slopes of 15 groups beside intercepts", slopes, "y ~ x + (x || g)", "(0 + x | g)", True),
    ("12 groups crossed with 8", crossed, "y ~ x + (1 | g) + (1 | h)", "(1 | g)", True),
]


def size(make: Maker, formula: str, tested: str, reml: bool, replicates: int, seed: int) -> np.ndarray:
    """Shares of replicates in which each of the three tests rejects at 5 %."""
    rng = np.random.default_rng(seed)
    frame = make(rng)
    frame["y"] = rng.normal(size=len(frame))
    result = mme.lmer(formula, frame, reml=reml)
    names = list(result.ranova().index[1:])
    assert tested in names
    design, eq = result.fit.design, result.fit.objective.eq
    t = names.index(tested)
    null = simulate(spectrum(eq, t, 0, tested), reml, _NULL, seed)
    others = [term for s, term in enumerate(design.terms) if s != t]
    small = replace(design, terms=tuple(others)) if others else None
    small_eq = fit_design(small, reml=reml).objective.eq if small is not None else None
    limits = (np.quantile(null, 0.95), special.chdtri(1, 0.1), special.chdtri(1, 0.05))
    rejected = np.zeros(3)
    for _ in range(replicates):
        y = rng.normal(size=design.n)
        for term in others:
            y = y + term.times(rng.normal(size=(term.n_levels, term.k)))
        full = replace(design, y=y)
        here = respond(full, eq)
        large = fit_design(full, reml=reml, equations=here).loglik
        if small is None or small_eq is None:
            below = -0.5 * without_random_terms(here, reml)[2]
        else:
            less = replace(small, y=y)
            below = fit_design(less, reml=reml, equations=respond(less, small_eq)).loglik
        statistic = 2.0 * (large - below)
        rejected += [statistic > max(limit, 1e-6) for limit in limits]
    return rejected / replicates


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    error = 100 * np.sqrt(0.05 * 0.95 / options.replicates)
    print(f"| rejected at 5 %, in % (standard error {error:.1f}) | rlrt | mixture | chi-square |")
    print("|---|---|---|---|")
    for name, make, formula, tested, reml in CASES:
        shares = 100 * size(make, formula, tested, reml, options.replicates, options.seed)
        print(f"| {name} | " + " | ".join(f"{share:.1f}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
