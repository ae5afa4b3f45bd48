"""Compile the kernels before workers start, as `python -m mme --warm` does, and whether that is all of them.

Workers that meet an empty cache would wait for one another's compilations.
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from pathlib import Path

import numba

KERNELS = Path(__file__).parent.parent / "mme" / "engine" / "kernels"


def stamp() -> str:
    """What the cache depends on: changed sources, another Numba, Python or place mean a new start."""
    sources = [(p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(KERNELS.glob("*.py"))]
    place = Path(os.environ.get("NUMBA_CACHE_DIR") or KERNELS / "__pycache__")
    there = next(place.rglob("*.nbi"), None) is not None
    parts = (numba.__version__, sys.version, sources, str(place), there)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def fit_everything() -> None:
    """Fit small models of every structure, by every solver and through both doors."""
    import problems
    from support import load_data

    import mme
    from mme.exceptions import MMEError
    from mme.fit.fit import fit_design

    warnings.simplefilter("ignore", mme.exceptions.MMEWarning)
    for name in problems.PROBLEMS:
        for solver in ("dense", "cholmod", "superlu", "iterative", "read-only"):
            design = problems.build(name)
            if solver == "read-only":  # as pandas gives columns out; Numba takes these for another type
                for array in (design.y, design.X, *(term.columns for term in design.terms)):
                    if array is not None:
                        array.setflags(write=False)
                solver = "dense"
            try:
                fit_design(design, solver=solver)
            except MMEError:  # a response that some model explains exactly
                continue
    sleep, plates = load_data("sleepstudy"), load_data("Penicillin")
    for solver in ("direct", "iterative"):
        mme.lmer("Reaction ~ Days + (Days | Subject)", sleep, solver=solver)
        mme.lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", plates, solver=solver)
        mme.mixedlm("Reaction ~ Days", sleep, groups="Subject", re_formula="~Days").fit(solver=solver)


if __name__ == "__main__":
    from mme.engine.runtime.warm import warm

    warm()
