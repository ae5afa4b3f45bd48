"""fit_many: the goals' three designs, one random intercept, and an ordinary fit for comparison.

python -m benchmarks.many [NAME ...]
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pandas as pd

import mme

from . import problems

GOALS = {"sleepstudy": 2.0, "crossed": 60.0, "slope1k": 30.0}  # seconds


def case(name: str) -> tuple[str, pd.DataFrame, np.ndarray]:
    """Formula, data and responses, of which a third each have no, small and ordinary variances."""
    rng = np.random.default_rng(20)
    if name == "sleepstudy":
        data = pd.read_csv(mme.data_path("sleepstudy.csv"))
        return "~ Days + (Days | Subject)", data, _slopes(rng, data["Subject"], data["Days"], 10_000)
    if name == "slope1k":
        data = problems.data("slope1k")
        return "~ x + (x | g)", data, _slopes(rng, data["g"], data["x"], 2_000)
    if name == "crossed":
        g, h, x = rng.integers(0, 100, 500), rng.integers(0, 20, 500), rng.normal(size=500)
        count = 20_000
        Y = x[:, None] + rng.normal(size=(500, count))
        for codes, q in ((g, 100), (h, 20)):
            Y += (rng.normal(size=(q, count)) * rng.choice([0.0, 0.3, 1.0], size=count))[codes]
        return "~ x + (1 | g) + (1 | h)", pd.DataFrame({"x": x, "g": g, "h": h}), Y
    if name == "intercept":
        g, x = np.arange(200) % 50, rng.normal(size=(200, 2))
        count = 5_000
        Y = x[:, :1] + rng.normal(size=(200, count))
        Y += (rng.normal(size=(50, count)) * rng.choice([0.0, 0.3, 1.0], size=count))[g]
        return "~ a + b + (1 | g)", pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "g": g}), Y
    raise ValueError(name)


def _slopes(rng: np.random.Generator, groups: pd.Series, x: pd.Series, count: int) -> np.ndarray:
    codes, column = groups.factorize()[0], x.to_numpy()[:, None]
    size = rng.choice([0.0, 0.3, 1.0], size=(2, count))
    effects = rng.normal(size=(2, codes.max() + 1, count)) * size[:, None, :]
    return column + effects[0][codes] + effects[1][codes] * column + rng.normal(size=(codes.size, count))


class Many:
    """Seconds of many fits, and of one of them over that of `lmer`."""

    params = ("sleepstudy", "crossed", "slope1k", "intercept")
    param_names = ("case",)
    timeout = 600
    warmup_time = 0.0
    rounds = 1

    def setup(self, name: str) -> None:
        self.formula, self.data, self.Y = case(name)
        mme.fit_many(self.formula, self.data, self.Y[:, :3])

    def time_all(self, name: str) -> None:
        mme.fit_many(self.formula, self.data, self.Y)

    def peakmem_all(self, name: str) -> None:
        mme.fit_many(self.formula, self.data, self.Y)

    def track_one_over_lmer(self, name: str) -> float:
        """Seconds a response over those of `lmer` with degrees of freedom, in one run."""
        begin = time.perf_counter()
        mme.fit_many(self.formula, self.data, self.Y)
        middle = time.perf_counter()
        for i in range(5):
            mme.lmer("y " + self.formula, self.data.assign(y=self.Y[:, i])).coef_table()
        return (middle - begin) / self.Y.shape[1] / ((time.perf_counter() - middle) / 5)


def main(names: list[str]) -> None:
    """A line per case: responses, median of three, goal, CPU time, singular fits, what was not compiled."""
    for name in names or Many.params:
        formula, data, Y = case(name)
        mme.fit_many(formula, data, Y[:, :3])
        walls, cpus = [], []
        for _ in range(3):
            wall, cpu = time.perf_counter(), time.process_time()
            results = mme.fit_many(formula, data, Y)
            assert results.coefficients.shape[0]
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        table = results.responses
        print(
            f"{name:11s} {Y.shape[1]:6d} responses  {np.median(walls):7.2f} s (goal {GOALS.get(name, 0):g})  "
            f"CPU {np.median(cpus):6.2f} s  singular {table['singular'].mean():.2f}  "
            f"not fitted {int((table['status'] != 'fitted').sum())}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
