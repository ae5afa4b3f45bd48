"""Factorizations against dense numpy; the kernels also as plain Python."""

import threading

import numpy as np
import pytest
from scipy import sparse
from threadpoolctl import threadpool_limits

from mme.engine import factor
from mme.engine.factor import DenseFactor, NotPositiveDefiniteError, cholmod, make_sparse, supernodes
from mme.engine.kernels import elimination_tree as symbolic
from mme.engine.kernels import selected_inverse as kernels
from mme.exceptions import SolverFallbackWarning

SOLVERS = [
    pytest.param(
        "cholmod", marks=pytest.mark.skipif(not cholmod.available(), reason="needs scikit-sparse 0.4")
    ),
    "superlu",
]


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread():
    """numpy, scipy and CHOLMOD may each bring a BLAS; on a busy machine their threads hold each other up."""
    with threadpool_limits(1):
        yield


def pattern(name: str, rng: np.random.Generator) -> np.ndarray:
    """Boolean symmetric pattern with a full diagonal."""
    kind, size = name.split("-")
    n = int(size)
    if kind == "grid":
        band = np.eye(n, k=1) + np.eye(n, k=-1)
        P = np.kron(band, np.eye(n)) + np.kron(np.eye(n), band)
        return (P + np.eye(n * n)) > 0
    P = np.eye(n) > 0
    if kind == "arrow":
        P[-1] = P[:, -1] = True
    elif kind == "blocks":
        P = np.kron(np.eye(n // 4), np.ones((4, 4))) > 0
    elif kind == "chain":
        P |= np.eye(n, k=1) > 0
    elif kind == "crossed":  # two factors whose levels meet at random, as after elimination
        P[: n // 2, n // 2 :] = rng.random((n // 2, n - n // 2)) < 3 / n
    elif kind == "sparse":
        P |= rng.random((n, n)) < 1.5 / n
    elif kind == "medium":
        P |= rng.random((n, n)) < 0.05
    elif kind == "full":
        P |= rng.random((n, n)) < 0.9
    return P | P.T


PATTERNS = [
    "diagonal-0",
    "diagonal-1",
    "full-2",
    "diagonal-50",
    "arrow-50",
    "blocks-48",
    "chain-60",
    "grid-15",
    "crossed-300",
    "sparse-300",
    "medium-300",
    "full-300",
]


def spd(P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positive definite matrix of pattern P, not diagonally dominant by much."""
    A = np.where(P, rng.normal(size=P.shape), 0.0)
    A = np.tril(A) + np.tril(A, -1).T
    np.fill_diagonal(A, np.abs(A).sum(axis=1) - np.abs(A.diagonal()) + rng.uniform(0.1, 2.0, len(A)))
    return A


def lower(P: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """CSC pattern of the lower triangle, and the places of its entries in the dense matrix."""
    rows, columns = np.nonzero(np.tril(P).T)[::-1]
    indptr = np.zeros(len(P) + 1, np.int64)
    np.cumsum(np.bincount(columns, minlength=len(P)), out=indptr[1:])
    return indptr, rows.astype(np.int32), (rows, columns)


def check(f, A: np.ndarray, got_inverse: np.ndarray, places, rng: np.random.Generator) -> None:
    n = len(A)
    expected = np.linalg.inv(A)
    scale = np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(got_inverse, expected[places], rtol=1e-10, atol=1e-12 * scale)
    np.testing.assert_allclose(f.logdet(), np.linalg.slogdet(A)[1], rtol=1e-12, atol=1e-10)
    for m in (0, 1, 7):
        for order in "CF":
            B = np.array(rng.normal(size=(n, m)), order=order)
            kept = B.copy()
            got = f.solve(B)
            assert got.shape == (n, m)
            np.testing.assert_allclose(got, expected @ B, rtol=1e-9, atol=1e-10 * (scale + 1e-300))
            np.testing.assert_array_equal(B, kept)


@pytest.mark.parametrize("small", [supernodes.SMALL, 200.0, 0.0], ids=["usual", "mixed", "blas"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", PATTERNS)
def test_sparse_against_dense(name, solver, small, monkeypatch):
    monkeypatch.setattr(supernodes, "SMALL", small)
    rng = np.random.default_rng(1)
    P = pattern(name, rng)
    indptr, indices, places = lower(P)
    f = make_sparse(len(P), indptr, indices, solver)
    assert f.n == len(P)
    for _ in range(2):  # the second round with new values in the same pattern
        A = spd(P, rng)
        data = A[places]
        kept = data.copy()
        f.factorize(data)
        check(f, A, f.selected_inverse(), places, rng)
        np.testing.assert_array_equal(data, kept)


@pytest.mark.parametrize("solver", SOLVERS)
def test_exact_zeros_and_back(solver):
    # theta = 0 makes off-diagonal values exactly zero; solvers may then drop entries of L.
    rng = np.random.default_rng(2)
    P = pattern("medium-300", rng)
    indptr, indices, places = lower(P)
    f = make_sparse(300, indptr, indices, solver)
    A = spd(P, rng)
    half = A.copy()
    half[:150, 150:] = half[150:, :150] = 0.0
    for B in (A, half, np.diag(A.diagonal()), A):
        f.factorize(B[places])
        check(f, B, f.selected_inverse(), places, rng)


@pytest.mark.parametrize("solver", SOLVERS)
def test_read_only_and_int32_pointers(solver):
    rng = np.random.default_rng(3)
    P = pattern("sparse-300", rng)
    indptr, indices, places = lower(P)
    indptr = indptr.astype(np.int32)
    A = spd(P, rng)
    data = A[places]
    for array in (indptr, indices, data):
        array.setflags(write=False)
    f = make_sparse(300, indptr, indices, solver)
    f.factorize(data)
    check(f, A, f.selected_inverse(), places, rng)
    # one compiled version of each kernel, whatever the caller hands in
    assert all(len(getattr(m, k).signatures) <= 1 for m in (kernels, symbolic) for k in m.__all__)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["diagonal-50", "chain-60", "medium-300", "full-300"])
@pytest.mark.parametrize("fault", ["negative", "zero", "nan", "inf", "indefinite", "nan below"])
def test_not_positive_definite(solver, name, fault):
    rng = np.random.default_rng(4)
    P = pattern(name, rng)
    n = len(P)
    indptr, indices, places = lower(P)
    A = spd(P, rng)
    bad = A.copy()
    k = n // 2
    if fault == "indefinite":
        bad -= (np.linalg.eigvalsh(A)[0] + 1e-3) * np.eye(n)
    elif fault == "nan below":
        i, j = places[0][-2], places[1][-2]
        bad[i, j] = bad[j, i] = np.nan
    else:
        bad[k, k] = {"negative": -1.0, "zero": 0.0, "nan": np.nan, "inf": np.inf}[fault]
    f = make_sparse(n, indptr, indices, solver)
    for _ in range(2):
        with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
            f.factorize(bad[places])
        with pytest.raises(RuntimeError, match="factorize"):
            f.logdet()
        f.factorize(A[places])  # a failure leaves nothing behind
        check(f, A, f.selected_inverse(), places, rng)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 50, 300])
def test_dense(n):
    rng = np.random.default_rng(5)
    f = DenseFactor(n)
    places = np.tril_indices(n)
    for _ in range(2):
        A = spd(np.ones((n, n), bool), rng)
        # NaN above the diagonal: not read.
        S = np.asfortranarray(np.where(np.tri(n, dtype=bool), A, np.nan))
        f.factorize(S)
        if n:
            np.testing.assert_allclose(np.tril(S), np.linalg.cholesky(A), rtol=1e-12)  # in place
        first = f.selected_inverse()
        assert first.flags.f_contiguous and first.shape == (n, n)
        check(f, A, first[places], places, rng)
        assert f.selected_inverse() is first  # the buffer is reused, and L has survived


@pytest.mark.parametrize("fault", [-1.0, 0.0, np.nan, np.inf])
@pytest.mark.parametrize("n", [1, 3, 200])
def test_dense_not_positive_definite(n, fault):
    S = np.asfortranarray(2.0 * np.eye(n))
    S[n - 1, n - 1] = fault
    f = DenseFactor(n)
    with pytest.raises(NotPositiveDefiniteError, match="not positive definite"):
        f.factorize(S)
    with pytest.raises(RuntimeError, match="factorize"):
        f.solve(np.ones((n, 1)))


def test_dense_refuses_what_would_be_copied():
    f = DenseFactor(3)
    for S in (np.eye(3)[:, ::-1], np.eye(3, dtype=np.float32), np.eye(4), np.ascontiguousarray(np.tri(3))):
        with pytest.raises(ValueError, match="Fortran"):
            f.factorize(S)


def symbolic_counts(P: np.ndarray) -> np.ndarray:
    """Column counts of L by eliminating the pattern."""
    F = np.tril(P)
    for j in range(len(F)):
        below = np.flatnonzero(F[j + 1 :, j]) + j + 1
        for i in below[:1]:
            F[below, i] = True
    return F.sum(axis=0)


@pytest.mark.parametrize("name", PATTERNS)
def test_predicted_counts(name):
    rng = np.random.default_rng(6)
    P = pattern(name, rng)
    n = len(P)
    indptr, indices, _ = lower(P)
    perm = rng.permutation(n)
    tree = supernodes.EliminationTree(n, indptr, indices, perm)
    expected = symbolic_counts(P[np.ix_(perm, perm)])
    np.testing.assert_array_equal(tree.count[tree.from_solver], expected)
    assert tree.predicted() == (expected.sum(), pytest.approx(float((expected.astype(float) ** 2).sum())))
    assert np.all((tree.parent == -1) | (tree.parent > np.arange(n)))
    assert factor.predicted(n, indptr, indices) == make_sparse(n, indptr, indices).predicted()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", PATTERNS)
def test_predictions_are_those_of_the_ordering(name, solver):
    """Entries of L, and their squared counts by column, as elimination of the permuted pattern gives them."""
    P = pattern(name, np.random.default_rng(6))
    n = len(P)
    indptr, indices, _ = lower(P)
    f = make_sparse(n, indptr, indices, solver)
    nnz, flops = f.predicted()
    if n == 0:
        assert (nnz, flops) == (0, 0.0)
        return
    order = np.argsort((f._analysis() if solver == "cholmod" else f._tree).label)
    counts = symbolic_counts(P[np.ix_(order, order)]).astype(float)
    assert nnz == counts.sum()
    assert flops == pytest.approx(counts @ counts, rel=1e-12)
    # the fill-reducing order is no worse than a random one
    random = np.random.default_rng(7).permutation(n)
    assert nnz <= 1.01 * symbolic_counts(P[np.ix_(random, random)]).sum()


@pytest.mark.parametrize("small", [supernodes.SMALL, 500.0])
@pytest.mark.parametrize("name", ["diagonal-50", "arrow-50", "chain-60", "sparse-300"])
def test_kernels_as_plain_python(name, small, monkeypatch):
    rng = np.random.default_rng(7)
    P = pattern(name, rng)
    n = len(P)
    indptr, indices, places = lower(P)
    A = spd(P, rng)
    perm = rng.permutation(n)
    L = sparse.csc_matrix(np.linalg.cholesky(A[np.ix_(perm, perm)]))
    monkeypatch.setattr(supernodes, "SMALL", small)

    def run():
        tree = supernodes.EliminationTree(n, indptr, indices, perm)
        return supernodes.SelectedInverse(tree).compute(L.indptr, L.indices, L.data)

    compiled = run()
    for module in (kernels, symbolic):
        for k in module.__all__:
            monkeypatch.setattr(module, k, getattr(module, k).py_func)
    plain = run()
    np.testing.assert_allclose(compiled, plain, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(plain, np.linalg.inv(A)[places], rtol=1e-9, atol=1e-12)


def test_factor_outside_its_pattern_is_noticed():
    indptr, indices, _ = lower(np.eye(3) > 0)
    inverse = supernodes.SelectedInverse(supernodes.EliminationTree(3, indptr, indices, np.arange(3)))
    L = sparse.csc_matrix(np.tri(3))
    with pytest.raises(AssertionError, match="outside"):
        inverse.compute(L.indptr, L.indices, L.data)


def test_fronts_in_memory_do_not_overlap():
    # Every front must stay until all its children have read it.
    rng = np.random.default_rng(8)
    for _ in range(20):
        N = int(rng.integers(1, 60))
        parent = np.array(
            [rng.integers(s + 1, N) if s + 1 < N and rng.random() < 0.9 else -1 for s in range(N)]
        )
        r = np.where(parent >= 0, rng.integers(1, 6, N), 0)
        w = rng.integers(1, 4, N)
        first = np.concatenate([[0], np.cumsum(w)])
        row_ptr = np.concatenate([[0], np.cumsum(r)])
        order, offset, size = symbolic.schedule(first, parent, row_ptr)
        assert sorted(order) == list(range(N))
        waiting = {s: int((parent == s).sum()) for s in range(N)}
        live = {}
        for s in order:
            assert parent[s] == -1 or parent[s] in live
            length = (w[s] + r[s]) ** 2 if waiting[s] else r[s] ** 2
            begin, end = offset[s], offset[s] + length
            assert begin >= 0 and end <= size
            assert all(end <= b or e <= begin for b, e in live.values() if b < e and begin < end)
            if parent[s] >= 0:
                waiting[parent[s]] -= 1
                if waiting[parent[s]] == 0:
                    del live[parent[s]]
            if waiting[s]:
                live[s] = (begin, end)


@pytest.mark.parametrize("solver", SOLVERS)
def test_factors_in_threads(solver):
    rng = np.random.default_rng(9)
    P = pattern("medium-300", rng)
    indptr, indices, places = lower(P)
    data = [spd(P, rng)[places] for _ in range(4)]

    def run(values):
        f = make_sparse(300, indptr, indices, solver)
        for _ in range(5):
            f.factorize(values)
            out = f.selected_inverse()
        return out

    expected = [run(values) for values in data]
    got = [None] * 4

    def work(k):
        got[k] = run(data[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_choice_of_solver(monkeypatch):
    indptr, indices = np.array([0, 1]), np.array([0], np.int32)
    with pytest.raises(ValueError, match="choose"):
        make_sparse(1, indptr, indices, "mumps")
    assert factor.available_solvers()[-1] == "superlu"
    assert make_sparse(1, indptr, indices, "superlu").name == "sparse (SuperLU)"
    if cholmod.available():
        assert make_sparse(1, indptr, indices).name == "sparse (CHOLMOD)"
        assert make_sparse(1, indptr, indices, "cholmod").name == "sparse (CHOLMOD)"
    monkeypatch.setattr(cholmod, "why_unavailable", lambda: "scikit-sparse is away")
    assert not cholmod.available()
    assert factor.available_solvers() == ("superlu",)
    assert make_sparse(1, indptr, indices).name == "sparse (SuperLU)"
    with pytest.warns(SolverFallbackWarning, match="scikit-sparse is away"):
        assert make_sparse(1, indptr, indices, "cholmod").name == "sparse (SuperLU)"
    with pytest.raises(ImportError, match="scikit-sparse is away"):
        cholmod.CholmodFactor(1, indptr, indices)
