"""Columns of every type, and what it means that their coding comes back."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mme.formula import build_design

N = 210
LEVELS = ("mid", "low", "high", "none")


def tenfold(x):
    return 10.0 * x


def centred(x):
    return x - x.mean()


def make_data() -> pd.DataFrame:
    rng = np.random.default_rng(511)
    i = np.arange(N)
    return pd.DataFrame(
        {
            "y": rng.normal(size=N),
            "x": rng.normal(size=N),
            "z": rng.uniform(0.5, 2.0, size=N),
            "k": rng.integers(1, 5, N),
            "w": rng.uniform(0.5, 2.0, size=N),
            "flag": rng.random(N) < 0.5,
            "m": rng.choice(["B", "A", "C"], N),
            "cat": pd.Categorical(rng.choice(LEVELS[:3], N), categories=LEVELS),
            "ord": pd.Categorical(rng.choice(LEVELS[:3], N), categories=LEVELS, ordered=True),
            "num": pd.Categorical(rng.integers(3, 6, N) * 10),
            "nullable": pd.array(rng.integers(0, 9, N), dtype="Int64"),
            "my col": rng.normal(size=N),
            "x.1": rng.normal(size=N),
            "g": rng.integers(100, 115, N),
            "h": np.array(["s", "t", "u", "v:w", "w"])[i % 5],
            "f": pd.Categorical(np.array(list("qrstuvw"))[i // 30], categories=list("wvutsrqp")),
            "r": rng.integers(0, 4, N).astype(float),
        },
        index=[f"row{j}" for j in i],
    )


def build(formula: str, frame: pd.DataFrame, **options):
    """The design of a formula, names looked up where it is called."""
    return build_design(formula, frame, missing="drop", context=1, **options)


def assert_same(model, frame, rows=slice(None)) -> None:
    """The coding of the frame is that of the rows of the fit, to the last bit."""
    design, coding = model.design, model.coding
    X = coding.fixed(frame)
    assert X.dtype == np.float64
    assert np.array_equal(X, design.X[rows])
    assert coding.x_names == design.x_names
    for term, own, factor in zip(coding.random(frame), design.terms, model.factors, strict=True):
        assert term.name == own.name
        assert term.column_names == own.column_names
        assert term.codes.dtype == own.codes.dtype == factor.codes.dtype
        assert np.array_equal(term.codes, own.codes[rows])
        assert term.missing is None
        assert not term.unseen.any()
        if own.columns is None:
            assert term.columns is None
        else:
            assert np.array_equal(term.columns, own.columns[rows])
    for label in ("offset", "weights"):
        got, expected = getattr(coding, label)(frame), getattr(design, label)
        assert (got is None) == (expected is None)
        if got is not None:
            assert np.array_equal(got, expected[rows])


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Categories, text and nullable integers as objects, as a file without types gives them."""
    kinds = {n: object for n in ("m", "cat", "ord", "num", "nullable", "h", "f")}
    return frame.astype(kinds)
