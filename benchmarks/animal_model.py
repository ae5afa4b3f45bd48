"""A simulated animal model: pedigree, herd-years, REML; seconds and peak memory.

python -m benchmarks.animal_model 100000 80000
python -m benchmarks.animal_model 1000000 800000 iterative
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
import pandas as pd

import mme


def population(n: int, generations: int = 8, seed: int = 1) -> pd.DataFrame:
    """A pedigree with few sires and many dams in every generation."""
    rng = np.random.default_rng(seed)
    size = n // generations
    sire, dam, first = np.full(n, 0), np.full(n, 0), 0
    for _ in range(1, generations):
        start = first + size
        stop = n if start + 2 * size > n else start + size
        males = first + rng.choice(size, max(2, size // 50), replace=False)
        females = np.setdiff1d(np.arange(first, start), males)
        sire[start:stop] = 1 + rng.choice(males, stop - start)
        dam[start:stop] = 1 + rng.choice(females, stop - start)
        first = start
    return pd.DataFrame({"animal": np.arange(1, n + 1), "sire": sire, "dam": dam})


def records(
    pedigree: pd.DataFrame, known: mme.Pedigree, n: int, h2: float = 0.3, seed: int = 2
) -> pd.DataFrame:
    """One record of each of the youngest n animals."""
    rng = np.random.default_rng(seed)
    u = np.sqrt(h2) * known.relation.related(rng.normal(size=len(pedigree)))
    value = pd.Series(u, index=known.labels)
    animal = pedigree["animal"].to_numpy()[-n:]
    herd = rng.integers(0, max(2, n // 40), n)
    sex = rng.integers(0, 2, n)
    y = 100.0 + sex + 0.5 * rng.normal(size=herd.max() + 1)[herd] + value.loc[animal].to_numpy()
    y = y + np.sqrt(1.0 - h2) * rng.normal(size=n)
    return pd.DataFrame({"y": y, "sex": sex, "herd_year": herd, "animal": animal})


def main() -> None:
    n, rows = (int(a) for a in sys.argv[1:3])
    options: dict = {"solver": sys.argv[3]} if len(sys.argv) > 3 else {}
    if n >= 100_000 and options.get("solver") == "iterative":
        # a third of a standard error, which is small here
        options |= {"goal": 0.3, "probes": 8, "accuracy": 0.03, "loglik_probes": 0}
    frame = population(n)
    begin = time.perf_counter()
    known = mme.Pedigree(frame["animal"], frame["sire"], frame["dam"])
    print(f"pedigree {time.perf_counter() - begin:.1f} s, mean inbreeding {known.inbreeding.mean():.4f}")
    data = records(frame, known, rows)
    begin, processor = time.perf_counter(), time.process_time()
    fit = mme.lmer(
        "y ~ sex + (1 | animal) + (1 | herd_year)",
        data,
        relationship={"animal": known},
        progress=False,
        **options,
    )
    record = fit.fit.record
    used = time.process_time() - processor
    print(f"fit {time.perf_counter() - begin:.1f} s ({used:.1f} s of processors): {record.solver}")
    print({k: round(v, 2) for k, v in record.seconds.items()})
    print(fit.varcorr[["grp", "vcov"]].to_string(index=False))
    if fit.fit.monte_carlo is not None:
        print(f"Monte Carlo error {fit.fit.monte_carlo.ratio:.2f} standard errors")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
