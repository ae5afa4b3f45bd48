"""Pedigrees: order, inbreeding, A and A^-1 of published examples, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mme
from mme.exceptions import DataError, OptionError

# Mrode (2014), Linear Models for the Prediction of Animal Breeding Values, table 2.1
MRODE = ([3, 4, 5, 6, 1, 2], [1, 1, 4, 5, 0, 0], [2, 0, 3, 2, 0, 0])


def tabular(sire, dam):
    """A by the tabular method, parents first."""
    n = len(sire)
    A = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            A[i, j] = A[j, i] = sum(0.5 * A[j, p] for p in (sire[i], dam[i]) if p >= 0)
        A[i, i] = 1.0 + (0.5 * A[sire[i], dam[i]] if min(sire[i], dam[i]) >= 0 else 0.0)
    return A


def _random(q, seed, backwards=False):
    rng = np.random.default_rng(seed)
    sire, dam = np.full(q, -1), np.full(q, -1)
    for i in range(8, q):
        pool = np.arange(max(0, i - 14), i)
        if rng.random() < 0.9:
            sire[i] = rng.choice(pool[pool % 2 == 0])
        if rng.random() < 0.9:
            dam[i] = rng.choice(pool[pool % 2 == 1])
    return sire, dam


def test_order_inbreeding_and_relationship_of_a_published_pedigree():
    pedigree = mme.Pedigree(*MRODE)
    A = pedigree.covariance().loc[[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]]
    expected = [
        [1.0, 0.0, 0.5, 0.5, 0.5, 0.25],
        [0.0, 1.0, 0.5, 0.0, 0.25, 0.625],
        [0.5, 0.5, 1.0, 0.25, 0.625, 0.5625],
        [0.5, 0.0, 0.25, 1.0, 0.625, 0.3125],
        [0.5, 0.25, 0.625, 0.625, 1.125, 0.6875],
        [0.25, 0.625, 0.5625, 0.3125, 0.6875, 1.125],
    ]
    np.testing.assert_allclose(A, expected, atol=1e-14)
    assert pedigree.inbreeding.loc[[5, 6]].tolist() == [0.125, 0.125]
    assert pedigree.inbreeding.loc[[1, 2, 3, 4]].tolist() == [0.0] * 4
    # table 2.4: A^-1 with inbreeding
    order = pedigree.labels.get_indexer([1, 2, 3, 4, 5, 6])
    inverse = pedigree.precision.toarray()[np.ix_(order, order)]
    np.testing.assert_allclose(inverse, np.linalg.inv(np.array(expected)), atol=1e-12)
    np.testing.assert_allclose(
        inverse[:3], [[1.8333, 0.5, -1, -2 / 3, 0, 0], [0.5, 2.0333, -1, 0, 0.5333, -1.0667], [-1, -1, 2.5,
        0.5, -1, 0]], atol=5e-5,
    )  # fmt: skip


def test_any_pedigree_against_the_tabular_method():
    for seed in range(5):
        sire, dam = _random(60, seed)
        shuffle = np.random.default_rng(seed).permutation(60)
        name = np.array([f"a{i:02d}" for i in range(60)], dtype=object)
        parents = [np.where(p >= 0, name[p], None) for p in (sire, dam)]
        pedigree = mme.Pedigree(name[shuffle], parents[0][shuffle], parents[1][shuffle])
        A = tabular(sire, dam)
        got = pedigree.covariance().loc[name, name].to_numpy()
        np.testing.assert_allclose(got, A, atol=1e-12)
        np.testing.assert_allclose(pedigree.variances.loc[name], np.diag(A), atol=1e-12)
        np.testing.assert_allclose(pedigree.inbreeding.loc[name], np.diag(A) - 1.0, atol=1e-12)
        np.testing.assert_allclose(pedigree.relation.logdet, -np.linalg.slogdet(A)[1], rtol=1e-10)
        assert np.all(pedigree.sire < np.arange(60)) and np.all(pedigree.dam < np.arange(60))


def test_selfing_where_it_is_allowed():
    with pytest.raises(DataError, match=r"a sire and a dam: 'a'.*hermaphrodites=True"):
        mme.Pedigree(["a", "b"], ["", "a"], ["", "a"])
    pedigree = mme.Pedigree(["a", "b", "c"], ["", "a", "b"], ["", "a", "b"], hermaphrodites=True)
    np.testing.assert_allclose(pedigree.inbreeding, [0.0, 0.5, 0.75])
    np.testing.assert_allclose(pedigree.covariance(), [[1, 1, 1], [1, 1.5, 1.5], [1, 1.5, 1.75]], atol=1e-14)


def test_genetic_groups():
    """u = a + Q g: A* is A plus the groups' shares, and A*^-1 is Quaas' on Henderson's rules."""
    sire, dam = _random(30, 3)
    name = np.array([f"a{i}" for i in range(30)], dtype=object)
    parents = [np.where(p >= 0, name[p], "G1" if j else "G2") for j, p in enumerate((sire, dam))]
    pedigree = mme.Pedigree(name, *parents, groups=["G1", "G2"], group_variance=4.0)
    plain = mme.Pedigree(name, *[np.where(p >= 0, name[p], None) for p in (sire, dam)])
    assert pedigree.labels[:2].tolist() == ["G1", "G2"]
    shares = pedigree.group_shares.loc[name].to_numpy()
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    A = plain.covariance().loc[name, name].to_numpy()
    got = pedigree.covariance()
    np.testing.assert_allclose(got.loc[name, name], A + 4.0 * shares @ shares.T, atol=1e-12)
    np.testing.assert_allclose(got.loc[name, ["G1", "G2"]], 4.0 * shares, atol=1e-12)
    np.testing.assert_allclose(pedigree.variances.loc[name], np.diag(A + 4.0 * shares @ shares.T), atol=1e-12)
    # without the groups' own prior the inverse is that of the block form of Quaas
    whole = pedigree.precision.toarray()
    order = pedigree.labels.get_indexer(np.concatenate([["G1", "G2"], name]))
    whole = whole[np.ix_(order, order)]
    Ai = np.linalg.inv(A)
    np.testing.assert_allclose(whole[2:, 2:], Ai, atol=1e-9)
    np.testing.assert_allclose(whole[2:, :2], -Ai @ shares, atol=1e-9)
    np.testing.assert_allclose(whole[:2, :2], shares.T @ Ai @ shares + np.eye(2) / 4.0, atol=1e-9)
    np.testing.assert_allclose(pedigree.inbreeding.loc[name], plain.inbreeding.loc[name])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((["a", "b", "a"], ["", "", ""], ["", "", ""]), "more than once: 'a'"),
        (
            (["a", "b"], ["b", "x"], ["", "y"]),
            r"2 parents are not individuals of the pedigree: 'x', 'y'.*add_parents",
        ),
        ((["a", "b"], ["a", ""], ["", ""]), "their own parent: 'a'"),
        (
            (["a", "b", "c"], ["b", "", "a"], ["", "c", ""]),
            "descend from themselves: .*'a' from 'b' from 'c'",
        ),
        (([1, 2], [2, 0], [0, 1]), "descend from themselves: 1 from 2 from 1\\."),
        ((["a", "b", "c"], ["", "", "b"], ["", "b", ""]), "their own parent|a sire and a dam: 'b'"),
        (([1, 2], ["1", ""], ["", ""]), "different types"),
        (([1, 0], [0, 0], [0, 0]), "1 individuals of the pedigree have no name"),
        (([1, 2], [0, 0], [0]), "2, 2 and 1 values"),
        (([], [], []), "empty"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(DataError, match=message):
        mme.Pedigree(*given)


def test_parents_that_were_not_listed_become_founders():
    pedigree = mme.Pedigree(["a", "b"], ["x", "x"], [None, "y"], add_parents=True)
    assert sorted(pedigree.labels) == ["a", "b", "x", "y"]
    np.testing.assert_allclose(pedigree.covariance().loc["a", "b"], 0.25)
    with pytest.raises(OptionError, match="group_variance"):
        mme.Pedigree([1], [0], [0], group_variance=-1)


def test_names_of_every_type():
    expected = mme.Pedigree(*MRODE).inbreeding
    frame = pd.DataFrame({"id": MRODE[0], "s": MRODE[1], "d": MRODE[2]})
    holes = frame.astype(float).where(frame > 0)
    got = mme.Pedigree(holes["id"], holes["s"], holes["d"])
    assert got.labels.dtype == np.int64
    pd.testing.assert_series_equal(got.inbreeding, expected)
    text = frame.astype(str)
    got = mme.Pedigree(text["id"], text["s"], text["d"]).inbreeding
    np.testing.assert_allclose(got, expected)
    category = text.astype("category")
    np.testing.assert_allclose(mme.Pedigree(*(category[c] for c in category)).inbreeding, expected)
