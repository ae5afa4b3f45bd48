"""BLAS and LAPACK calls that release the interpreter lock and work in place on blocks.

scipy's wrappers hold the lock and copy blocks of a larger array; the same library's entry points are
published for Cython (scipy.linalg.cython_blas, cython_lapack) and called here through ctypes, which releases
the lock.  Matrices are Fortran-ordered float64 blocks: first index contiguous, any leading dimension.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np

from ..runtime.scipys import scipy_module

__all__ = ["gemm", "potrf", "symmetric_update", "triangular_inverse", "trsm_right_transposed"]

_get_name = ctypes.pythonapi.PyCapsule_GetName
_get_name.restype, _get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

_c, _i, _d = ctypes.POINTER(ctypes.c_char), ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_double)


_SIGNATURES: dict[str, tuple[str, tuple[type[ctypes._Pointer], ...]]] = {
    "dgemm": ("linalg.cython_blas", (_c, _c, _i, _i, _i, _d, _d, _i, _d, _i, _d, _d, _i)),
    "dsyrk": ("linalg.cython_blas", (_c, _c, _i, _i, _d, _d, _i, _d, _d, _i)),
    "dtrsm": ("linalg.cython_blas", (_c, _c, _c, _c, _i, _i, _d, _d, _i, _d, _i)),
    "dpotrf": ("linalg.cython_lapack", (_c, _i, _d, _i, _i)),
    "dtrtri": ("linalg.cython_lapack", (_c, _c, _i, _d, _i, _i)),
}


@cache
def _entry(name: str) -> Callable[..., None]:
    module, types = _SIGNATURES[name]
    capsule = scipy_module(module).__pyx_capi__[name]
    return ctypes.CFUNCTYPE(None, *types)(_get_pointer(capsule, _get_name(capsule)))


def _char(value: bytes) -> ctypes._CArgObject:
    return ctypes.byref(ctypes.c_char(value))


def _int(value: int) -> ctypes._CArgObject:
    return ctypes.byref(ctypes.c_int(value))


def _double(value: float) -> ctypes._CArgObject:
    return ctypes.byref(ctypes.c_double(value))


def _block(M: np.ndarray) -> tuple[ctypes._Pointer[ctypes.c_double], ctypes._CArgObject]:
    """Pointer and leading dimension of a Fortran-ordered block."""
    assert M.dtype == np.float64 and M.strides[0] == 8
    return ctypes.cast(M.ctypes.data, _d), _int(max(1, M.strides[1] // 8, M.shape[0]))


def gemm(
    alpha: float, A: np.ndarray, B: np.ndarray, beta: float, C: np.ndarray, trans_b: bool = False
) -> None:
    """C <- alpha A B + beta C, or alpha A B' + beta C."""
    (a, lda), (b, ldb), (c, ldc) = _block(A), _block(B), _block(C)
    m, n = C.shape
    if m and n:
        second = _char(b"T" if trans_b else b"N")
        sizes = _int(m), _int(n), _int(A.shape[1])
        _entry("dgemm")(_char(b"N"), second, *sizes, _double(alpha), a, lda, b, ldb, _double(beta), c, ldc)


def symmetric_update(A: np.ndarray, C: np.ndarray) -> None:
    """Lower triangle of C <- C - A A'."""
    (a, lda), (c, ldc) = _block(A), _block(C)
    sizes = _int(C.shape[0]), _int(A.shape[1])
    _entry("dsyrk")(_char(b"L"), _char(b"N"), *sizes, _double(-1.0), a, lda, _double(1.0), c, ldc)


def trsm_right_transposed(L: np.ndarray, B: np.ndarray) -> None:
    """B <- B L^-T for a lower-triangular L."""
    (a, lda), (b, ldb) = _block(L), _block(B)
    flags = _char(b"R"), _char(b"L"), _char(b"T"), _char(b"N")
    _entry("dtrsm")(*flags, _int(B.shape[0]), _int(B.shape[1]), _double(1.0), a, lda, b, ldb)


def potrf(S: np.ndarray) -> int:
    """Lower Cholesky factor of the lower triangle of S, in place; LAPACK's info."""
    info = ctypes.c_int(0)
    s, lds = _block(S)
    _entry("dpotrf")(_char(b"L"), _int(S.shape[0]), s, lds, ctypes.byref(info))
    return int(info.value)


def triangular_inverse(L: np.ndarray) -> np.ndarray:
    """Inverse of the lower triangle of L, Fortran order, zeros above the diagonal."""
    out = np.array(np.tril(L), order="F")
    info = ctypes.c_int(0)
    a, lda = _block(out)
    _entry("dtrtri")(_char(b"L"), _char(b"N"), _int(out.shape[0]), a, lda, ctypes.byref(info))
    return out
