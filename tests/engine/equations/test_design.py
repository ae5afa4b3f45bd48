"""What a `Design` refuses when it is made: named errors that say which part, which numbers and what to do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from mme.engine.equations.design import Design, RandomTerm
from mme.exceptions import DataError, DesignError, NotEnoughDataError

N = 24
RNG = np.random.default_rng(5)
Y = RNG.normal(size=N)
X = np.column_stack([np.ones(N), RNG.normal(size=N)])
CODES = (np.arange(N) % 4).astype(np.int32)
TERM = RandomTerm("g", CODES, 4)
VECTOR = RandomTerm("g", CODES, 4, X.copy(), column_names=("1", "x"))
GENERAL = RandomTerm("m", None, 3, Z=sp.csr_array(RNG.normal(size=(N, 3))))


def with_value(values: np.ndarray, value: float, *place: int) -> np.ndarray:
    out = values.copy()
    out[place] = value
    return out


def test_what_is_right_is_taken_as_it_is():
    design = Design(Y.tolist(), X.astype(np.float32).astype(float), [TERM, VECTOR, GENERAL], np.ones(N), Y)
    assert (design.n, design.p) == (N, 2)
    assert design.x_names == ("x0", "x1")
    assert design.y.dtype == design.X.dtype == np.float64
    assert design.terms == (TERM, VECTOR, GENERAL)
    assert [t.n_effects for t in design.terms] == [4, 8, 3]
    assert [t.general for t in design.terms] == [False, False, True]


ROWS = [
    ({"y": np.array(["a"] * N)}, DataError, "response y is not numeric"),
    ({"y": Y[:, None]}, DataError, r"one-dimensional; it has shape \(24, 1\)"),
    ({"y": Y[:0], "X": X[:0]}, DataError, "0 rows"),
    ({"X": Y}, DataError, r"X must be two-dimensional; it has shape \(24,\)"),
    ({"X": X[:-1]}, DataError, "X has 23 rows but the response has 24"),
    ({"x_names": ("a",)}, DataError, "2 columns but 1 names"),
    ({"y": with_value(Y, np.nan, 3)}, DataError, "response y has 1 missing and 0 infinite"),
    ({"X": with_value(X, np.inf, 3, 1), "x_names": ("one", "z")}, DataError, "1 infinite values in column z"),
    ({"X": with_value(X, np.inf, 3, slice(None))}, DataError, "2 infinite values in columns x0, x1"),
    ({"X": with_value(X, 1e36, 3, 1), "x_names": ("one", "z")}, DataError, "above 1e.35 in column z"),
    ({"y": with_value(Y, -1e36, 3)}, DataError, r"above 1e\+35; their products overflow"),
    ({"weights": np.ones(N - 1)}, DataError, "weights has 23 rows"),
    ({"weights": np.ones((N, 1))}, DataError, "weights must be one-dimensional"),
    ({"weights": 2.0}, DataError, "weights has 0 rows"),
    ({"weights": with_value(np.ones(N), 0.0, 1)}, DataError, "weights must be positive; 1 are not"),
    ({"weights": with_value(np.ones(N), -1.0, slice(2))}, DataError, "weights must be positive; 2 are not"),
    ({"weights": with_value(np.ones(N), np.nan, 1)}, DataError, "weights has 1 missing"),
    ({"offset": np.ones(N + 1)}, DataError, "offset has 25 rows"),
    ({"offset": with_value(np.ones(N), np.inf, 1)}, DataError, "offset has 0 missing and 1 infinite"),
    ({"X": RNG.normal(size=(N, N))}, NotEnoughDataError, "24 rows cannot estimate 24 fixed effects"),
    ({"y": np.full(N, 2.5)}, DesignError, r"constant \(every value is 2.5\)"),
    ({"terms": ()}, DesignError, "no random term"),
]


@pytest.mark.parametrize(("change", "error", "message"), ROWS, ids=[row[2] for row in ROWS])
def test_rows_and_columns(change, error, message):
    arguments = {"y": Y, "X": X, "terms": (TERM,), **change}
    with pytest.raises(error, match=message) as caught:
        Design(**arguments)
    assert type(caught.value) is error


def test_one_row_more_than_columns_is_enough():
    assert Design(Y, RNG.normal(size=(N, N - 1)), (TERM,)).p == N - 1


def test_a_constant_response_with_an_offset_is_no_constant():
    assert Design(np.full(N, 2.5), X, (TERM,), offset=Y).n == N


TERMS = [
    (
        replace(TERM, covariance="unstructured"),
        DesignError,
        "'full', 'diagonal', .*'rr\\(d\\)', not 'unstructured'",
    ),
    (replace(GENERAL, covariance="ar2"), DesignError, "random term 'm': covariance must be .* not 'ar2'"),
    (replace(GENERAL, covariance="ar1"), DesignError, "'m' has 1 effect a level, .* ar1 needs at least 2"),
    (replace(GENERAL, n_levels=4), DataError, "Z has 3 columns but n_levels is 4"),
    (replace(GENERAL, Z=sp.csr_array(np.ones((N - 2, 3)))), DataError, "'m' has 22 rows but the response"),
    (replace(GENERAL, Z=sp.csr_array(np.full((N, 3), np.nan))), DataError, "'m' has 72 missing"),
    (replace(GENERAL, Z=sp.csr_array((N, 3))), DesignError, "empty or zero"),
    (replace(GENERAL, Z=sp.csr_array((N, 0)), n_levels=0), DesignError, "empty or zero"),
    (replace(TERM, codes=None), DesignError, "needs codes or Z"),
    (replace(TERM, codes=CODES.astype(float)), DataError, "one-dimensional array of integers"),
    (replace(TERM, codes=CODES[:, None]), DataError, "one-dimensional array of integers"),
    (replace(TERM, codes=CODES[:-3]), DataError, "'g' has 21 rows"),
    (replace(TERM, codes=CODES - 1), DataError, r"codes run from -1 to 2, outside 0\.\.3"),
    (replace(TERM, n_levels=3), DataError, r"codes run from 0 to 3, outside 0\.\.2"),
    (replace(TERM, codes=CODES * 0, n_levels=1), DesignError, "has 1 level"),
    (replace(TERM, codes=np.arange(N), n_levels=N), DesignError, "24 levels in 24 rows"),
    (replace(VECTOR, columns=np.ones((N, 2), int)), DataError, "two-dimensional float array"),
    (replace(VECTOR, columns=np.ones(N)), DataError, "two-dimensional float array"),
    (replace(VECTOR, columns=X[:-1]), DataError, "'g' has 23 rows"),
    (replace(VECTOR, columns=with_value(X, np.nan, 0, 1)), DataError, "1 missing .* in column x"),
    (replace(VECTOR, columns=np.empty((N, 0))), DesignError, "has no columns"),
    (replace(VECTOR, columns=X * [1.0, 0.0]), DesignError, "column x is zero everywhere"),
    (
        replace(VECTOR, codes=np.arange(N) % 13, n_levels=13),
        NotEnoughDataError,
        r"26 random effects \(13 levels x 2 columns\) for 24 rows",
    ),
]


@pytest.mark.parametrize(("term", "error", "message"), TERMS, ids=[row[2] for row in TERMS])
def test_random_terms(term, error, message):
    with pytest.raises(error, match=message) as caught:
        Design(Y, X, (TERM, term))
    assert type(caught.value) is error


def test_limits_of_a_term():
    """As many effects as rows are accepted, and one level less than rows; more effects if it is said."""
    assert Design(Y, X, (replace(VECTOR, codes=np.arange(N) % 12, n_levels=12),)).terms[0].n_effects == N
    assert Design(Y, X, (replace(TERM, codes=np.arange(N) % (N - 1), n_levels=N - 1),)).n == N
    many = replace(VECTOR, codes=np.arange(N) % 13, n_levels=13)
    assert Design(Y, X, (many,), more_effects_than_rows=True).terms[0].n_effects == 26
    with pytest.raises(DesignError, match="24 levels in 24 rows"):
        one_each = replace(VECTOR, codes=np.arange(N), n_levels=N)
        Design(Y, X, (one_each,), more_effects_than_rows=True)
