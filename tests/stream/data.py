"""Rows of many kinds for streams, and when a stream's fit is that of one frame."""

from __future__ import annotations

import numpy as np
import pandas as pd

FORMULAS = {
    "intercept": "y ~ x + (1 | g)",
    "slope": "y ~ x + (x | g)",
    "uncorrelated": "y ~ x + (x || g)",
    "factors": "y ~ x * f + b + (1 | g)",
    "factor slopes": "y ~ f + (0 + f | g)",
    "crossed": "y ~ x + (1 | g) + (x | h)",
    "three crossed": "y ~ 1 + (1 | h) + (x | g) + (1 | text)",
    "nested": "y ~ x + (1 | h/text)",
    "interaction": "y ~ x + (1 | g) + (x | text:h)",
    "no intercept": "y ~ 0 + f + x + (0 + x | g)",
    "functions": "np.log(pos) ~ I(x**2) + np.exp(0.1 * x) + C(h) + (1 | text)",
    "offsets": "y ~ x + offset(0.5 * z) + (1 | g)",
    "category": "y ~ category + (1 | g) + (1 | category:text)",
    "unbalanced names": "y ~ `a b` + (`a b` | g)",
}


def made() -> pd.DataFrame:
    rng = np.random.default_rng(11)
    n = 700
    g, h, text = rng.integers(0, 40, n), rng.integers(3, 9, n), rng.integers(0, 12, n)
    out = pd.DataFrame(
        {
            "x": 5.0 + rng.normal(size=n),
            "z": rng.normal(size=n),
            "a b": rng.normal(size=n),
            "g": 1000 - g,
            "h": h,
            "text": np.char.add("t", text.astype(str)),
            "f": rng.choice(["low", "mid", "high"], n),
            "b": rng.random(n) < 0.4,
            "category": pd.Categorical(rng.choice(["c", "a", "b"], n), categories=["c", "unused", "a", "b"]),
            "w": rng.uniform(0.5, 2.0, n),
            "o": rng.normal(size=n),
        }
    )
    u = rng.normal(size=(40, 2)) @ np.array([[1.0, 0.3], [0.0, 0.5]])
    mean = (
        100.0
        + 0.7 * out.x
        + u[g, 0]
        + u[g, 1] * (out.x - 5)
        + rng.normal(size=9)[h]
        + rng.normal(size=12)[text]
    )
    out["y"] = mean + rng.normal(size=n)
    out["pos"] = np.exp(0.1 * out.y - 8.0)
    return out


def close(whole, part) -> None:
    assert part.converged == whole.converged
    assert abs(part.deviance - whole.deviance) <= 1e-10 * max(1.0, abs(whole.deviance))
    assert part.fe_params.index.equals(whole.fe_params.index)
    se = whole.bse_fe.to_numpy()
    kept = np.isfinite(se)
    assert np.all(np.abs(part.fe_params - whole.fe_params).to_numpy()[kept] < 1e-8 * se[kept])
    assert np.allclose(part.bse_fe, se, rtol=1e-8, equal_nan=True)
    assert np.allclose(part.varcorr.vcov, whole.varcorr.vcov, rtol=1e-7, atol=1e-9)
    assert part.varcorr[["grp", "var1", "var2"]].equals(whole.varcorr[["grp", "var1", "var2"]])
    assert (part.nobs, part.n_dropped, part.n_groups) == (whole.nobs, whole.n_dropped, whole.n_groups)
    for group, modes in whole.ranef.items():
        assert part.ranef[group].index.equals(modes.index)
        assert part.ranef[group].index.dtype == modes.index.dtype
        assert np.allclose(part.ranef[group], modes, rtol=1e-7, atol=1e-8)


def pieces(data: pd.DataFrame, size: int) -> list[pd.DataFrame]:
    return [data[i : i + size] for i in range(0, len(data), size)]
