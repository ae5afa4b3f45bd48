"""Numba kernels: pure functions on arrays, importing nothing of mme.

One decorator serves all of them.  ``cache=True``: a user compiles once per installation, not once per
process.  ``nogil=True``: ranges of columns or levels run in Python threads, so that no kernel needs
Numba's parallel back end (slow to compile) and results do not depend on the number of threads.
``error_model="numpy"``: division by zero gives inf, as the surrounding numpy code expects; failures are
returned as a status.  Every kernel states its signature, so there is one compiled version of each.
"""

from numba import njit

__all__ = ["kernel"]


def kernel(*args, **kwargs):
    """``numba.njit`` with the settings common to all kernels of mme."""
    options = {"cache": True, "nogil": True, "error_model": "numpy"}
    options.update(kwargs)
    return njit(*args, **options)
