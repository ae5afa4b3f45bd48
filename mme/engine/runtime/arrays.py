"""Arrays as kernels want them."""

from __future__ import annotations

import numpy as np

__all__ = ["frozen"]


def frozen(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written.

    What a user gave may be read-only, what was computed from it is not, and Numba takes the two for different
    types: a kernel that sees both is compiled twice. Frozen at the door, they are one.
    """
    view = array.view()
    view.flags.writeable = False
    return view
