"""Numba kernels: pure functions on arrays, importing nothing of mme.

One decorator serves all of them.  ``cache=True``: a user compiles once per installation, not once per
process.  ``nogil=True``: ranges of columns or levels run in Python threads, so that no kernel needs
Numba's parallel back end (slow to compile) and results do not depend on the number of threads.
``error_model="numpy"``: division by zero gives inf, as the surrounding numpy code expects; failures are
returned as a status.  Callers pass one dtype and layout per argument (float64, int64 pointers, int32
indices, C order unless said), so that each kernel is compiled once, at its first call: importing mme
compiles nothing.
"""

from numba import njit

__all__ = ["kernel"]


def kernel(function_or_signature, **options):
    """``numba.njit`` with the settings common to all kernels of mme; ``options`` add to them.

    A signature may be stated, ``@kernel("i8(i8, f8[::1])")``: it documents the one combination of types the
    callers pass, but the kernel is still compiled at its first call, so that importing mme compiles nothing.
    """
    if isinstance(function_or_signature, str):
        return lambda function: kernel(function, **options)
    options = {"cache": True, "nogil": True, "error_model": "numpy"} | options
    try:
        return njit(**options)(function_or_signature)
    except RuntimeError:  # neither the package's folder nor a user cache can be written: compile every time
        return njit(**(options | {"cache": False}))(function_or_signature)
