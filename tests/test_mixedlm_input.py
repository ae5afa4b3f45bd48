"""What MixedLM takes at its door: matrices by group, kinds of tables and columns, refusals by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import mme
from mme.exceptions import DataError


def _crossed(labels: list) -> dict[str, object]:
    """Shuffled groups of three to six rows; a matrix of one column for each, by label, of unequal scale."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(3, 7, len(labels))
    code = rng.permutation(np.repeat(np.arange(len(labels)), sizes))
    z = rng.normal(size=code.size) * (1 + code)
    y = 1 + 0.3 * z * rng.normal(size=len(labels))[code] + rng.normal(size=code.size)
    groups = np.empty(code.size, dtype=object)
    for i, c in enumerate(code):
        groups[i] = labels[c]
    mats = {label: z[code == c][:, None] for c, label in enumerate(labels)}
    return {"y": y, "X": np.ones((y.size, 1)), "code": code, "groups": groups, "mats": mats, "z": z}


def _loglik(data: dict, groups: object, exog_vc: object, **more: object) -> float:
    with pytest.warns(FutureWarning, match="deprecated variance components"):
        model = mme.MixedLM(data["y"], data["X"], groups=groups, exog_vc=exog_vc, **more)
    return model.fit().llf


_KINDS = {
    "text and numbers": ["a", *range(1, 20)],
    "numbers": list(range(20, 0, -1)),
    "text": [f"g{i}" for i in range(20)],
    "tuples": [(i % 5, f"b{i // 5}") for i in range(20)],
    "dates": list(pd.date_range("2026-01-01", periods=20)),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_matrices_by_group_belong_to_their_group(kind):
    labels = _KINDS[kind]
    data = _crossed(labels)
    # the same design as one slope per group
    expected = mme.MixedLM(data["y"], data["X"], groups=data["code"], exog_re=data["z"]).fit()
    groups = data["groups"]
    if kind == "tuples":
        groups = pd.DataFrame(list(groups), columns=["a", "b"])
    elif kind == "dates":
        groups = pd.Series(pd.DatetimeIndex(groups))
    assert_allclose(_loglik(data, groups, {"z": data["mats"]}), expected.llf, rtol=1e-10)
    backwards = dict(reversed(data["mats"].items()))
    assert_allclose(_loglik(data, groups, {"z": backwards}), expected.llf, rtol=1e-10)


def test_matrices_by_group_without_the_rows_that_are_dropped():
    """Dropping the first row of a label changes the order in which labels that do not sort appear."""
    data = _crossed(_KINDS["text and numbers"])
    whole = data["code"] != data["code"][-1]
    first = np.flatnonzero(whole & (data["code"] == data["code"][0]))[0]
    gone = ~whole  # a whole group
    gone[first] = True
    y = np.where(gone, np.nan, data["y"])
    keep = ~gone
    expected = mme.MixedLM(y[keep], data["X"][keep], groups=data["code"][keep], exog_re=data["z"][keep]).fit()
    given = {**data, "y": y}
    assert_allclose(
        _loglik(given, data["groups"], {"z": data["mats"]}, missing="drop"), expected.llf, rtol=1e-10
    )


def test_matrices_of_other_groups_are_refused():
    data = _crossed(["a", "b", "c", "d"])
    mats = data["mats"]
    some = {label: mats[label] for label in "abc"}
    arguments = (data["y"], data["X"], data["groups"])
    for given, message in (
        ({**some}, "no matrix for 1 group, the first 'd'"),
        ({**mats, "e": np.ones((2, 1))}, "matrices of 1 group that has no rows, the first 'e'"),
        ({**some, "d": np.ones((1, 1))}, "group 'd' has 1 rows"),
    ):
        with (
            pytest.warns(FutureWarning, match="deprecated"),
            pytest.raises(DataError, match=f"variance component 'z'.*{message}"),
        ):
            mme.MixedLM(*arguments, exog_vc={"z": given})
