"""What a fit will take, before anything large is allocated: sizes, flops, bytes, the solver and why.

The equations are proportional to the data. The direct path then factors the Schur complement S of the terms
that are not eliminated; for crossed factors S fills, and both its storage and its factorization grow with
powers of the number of levels. Here its non-zeros are counted (or, where counting would take long, estimated
from a sample of its columns), and the cost of a direct fit is predicted and compared with the memory there
is.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

import numpy as np

from ..engine.direct.plan import Plan, make_plan
from ..engine.equations.design import Design
from ..engine.equations.equations import Equations, build_equations
from ..engine.equations.layout import Layout, layout_of
from ..engine.factor.cholmod import why_unavailable
from ..engine.iterative.probes import batch_size
from ..engine.kernels import schur as ks
from ..engine.runtime.memory import available_memory
from ..engine.runtime.parallel import cut, run
from ..exceptions import MemoryEstimateError
from .costs import PROBES, cell_pairs, direct_seconds, iterative_seconds
from .options import AUTO, Route, route_of

__all__ = [
    "Preflight",
    "check_rows",
    "forecast",
    "iterative_hint",
    "preflight_design",
    "refuse",
    "require",
    "shown",
]

_COUNT_PAIRS = 3e8  # pairs of cells that may be visited to count the non-zeros of S exactly (about 0.5 s)
_SAMPLE = 256  # levels visited otherwise
# A symbolic analysis is made of up to so many non-zeros of S (a second or two); with more than so many per
# column a larger S is taken to fill, as it does for crossed factors, where an analysis would take minutes
_PATTERN, _LARGE_PATTERN, _PER_COLUMN, _PER_COLUMN_ASKED_FOR = 2e6, 5e7, 8, 64
_SMALL = 4_000  # order of S up to which a dense factor is cheap, whatever its pattern
_MUCH_FASTER = 5.0
_LONG = 120.0  # seconds of a direct fit that are worth its exactness
_SHARE = 0.8  # of the available memory that a fit may take
# copies of a block of right-hand sides that stand side by side in an iterative solve, counted in the code
# and measured
_COPIES = 11.0


@dataclass(frozen=True)
class Preflight:
    """Predicted size and cost of a fit.

    Attributes
    ----------
    rows, fixed : int
        Rows; columns of the fixed part.
    terms : tuple of (str, int, int)
        Name, levels and effects per level of every random term.
    leading : str
        Term that is eliminated level by level; empty if there is none.
    columns : int
        Order of S: random effects that are left.
    cells : int
        Non-zeros between the leading term's levels and the other effects.
    schur_nonzeros : float
        Non-zeros of the lower triangle of S.
    counted : bool
        Whether that is exact; otherwise it is estimated from a sample of columns.
    factor_nonzeros, flops : float
        Of one Cholesky factorization of S.
    equations_bytes, direct_bytes, iterative_bytes : float
        Memory of the equations; peak of the two paths, equations included.
    available_bytes : float
        Memory this process could get beside the equations.
    direct_seconds, iterative_seconds : float
        Rough time of the two paths' evaluations.
    solver : str
        "direct" or "iterative".
    why : str
        One sentence.
    schur : Plan or None
        The analysis of S that the prediction was made of, for the fit; None where there was none.
    """

    rows: int
    fixed: int
    terms: tuple[tuple[str, int, int], ...]
    leading: str
    columns: int
    cells: int
    schur_nonzeros: float
    counted: bool
    factor_nonzeros: float
    flops: float
    equations_bytes: float
    direct_bytes: float
    iterative_bytes: float
    available_bytes: float
    direct_seconds: float
    iterative_seconds: float
    solver: str
    why: str
    schur: Plan | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        lines = [f"rows                 {self.rows:,}", f"fixed effects        {self.fixed:,}"]
        for name, levels, k in self.terms:
            lead = "  (eliminated first)" if name == self.leading else ""
            each = f" x {k} effects" if k > 1 else ""
            lines.append(f"term {name:<16}{levels:,} levels{each}{lead}")
        kind = "" if self.counted else " (estimated from a sample)"
        lines += [
            f"cells                {self.cells:,} non-zeros",
            f"Schur complement     order {self.columns:,}, {_number(self.schur_nonzeros)} non-zeros{kind}",
            f"its factor           {_number(self.factor_nonzeros)} non-zeros, {_number(self.flops)} flops, "
            f"{_seconds(self.direct_seconds)} in all",
            f"an iterative fit     {_seconds(self.iterative_seconds)}",
            f"memory, equations    {_bytes(self.equations_bytes)}",
            f"memory, direct       {_bytes(self.direct_bytes)}",
            f"memory, iterative    {_bytes(self.iterative_bytes)}",
            f"memory available     {_bytes(self.available_bytes)}",
            f"solver               {self.solver}: {self.why}",
        ]
        return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value:.2g}"


def _bytes(value: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value / 1024:,.0f} KiB"


def _seconds(value: float) -> str:
    if value < 1.0:
        return "less than 1 s"
    return f"about {value:,.0f} s" if value < 600 else f"about {value / 60:,.0f} min"


def _equations_bytes(n: int, p: int, layout: Layout, cells: float) -> float:
    """Peak of the pass over the rows, temporaries included."""
    width = sum(b.k for b in layout.rest)
    rows = n * (8.0 * (2 * p + 4) + 12.0 * width + 8.0 * sum(b.k for b in layout.blocks) + 12.0)
    gram = 12.0 * (n * width * (width + 1) / 2 if len(layout.rest) > 1 else layout.q2 * width)
    return rows + cells * (8.0 * layout.k1 + 16.0) + gram + 8.0 * (p + 1) * layout.q1 * layout.k1


def check_rows(design: Design, layout: Layout) -> None:
    """Refuse a design whose equations alone would not fit.

    Raises
    ------
    MemoryEstimateError
    """
    width = sum(b.k for b in layout.rest)
    need = _equations_bytes(design.n, design.p, layout, float(design.n) * width)
    have = available_memory()
    # an upper bound: rows that fall into the same cell share it
    if need > 1.5 * have:
        raise MemoryEstimateError(
            f"the equations of {design.n:,} rows would take up to {_bytes(need)}; {_bytes(have)} are "
            "available. Fit a subset, or use a machine with more memory."
        )


def forecast(
    design: Design, eq: Equations, route: Route = AUTO, count: bool = True, probes: int = PROBES
) -> Preflight:
    """Predict the cost of both paths and choose.

    Parameters
    ----------
    design : Design
    eq : Equations
    route : Route
        A path but "auto" is kept.
    count : bool
        False: do not count what does not bear on the choice; S is then taken to be full.
    probes : int
        Of the iterative path.

    Returns
    -------
    Preflight
    """
    lay = eq.layout
    q2, k1 = lay.q2, lay.k1
    plan = None
    full = q2 * (q2 + 1) / 2
    if q2 <= 1 or (not count and (q2 <= _SMALL or route.path == "iterative")):
        nonzeros, counted = full, q2 <= 1
    else:
        nonzeros, counted = _schur_nonzeros(eq, cell_pairs(eq), full)
    # a dense factor, and the inverse that the gradient is read from
    dense_flops, dense_bytes = q2**3 / 3, 16.0 * q2 * q2
    if q2 <= _SMALL or nonzeros > 0.4 * full:
        factor, flops, store = full, dense_flops, dense_bytes
    else:
        # an upper bound, which the fill of crossed factors comes close to
        factor, flops, store = full, dense_flops, dense_bytes
        per_column = _PER_COLUMN if route.path == "auto" else _PER_COLUMN_ASKED_FOR
        # without CHOLMOD an analysis is a factorization
        small = _PATTERN if not why_unavailable() else 0.1 * _PATTERN
        if nonzeros <= small or (nonzeros <= _LARGE_PATTERN and nonzeros <= per_column * q2):
            with contextlib.suppress(MemoryEstimateError):  # too large for CHOLMOD: the bound stands
                plan = make_plan(eq, route.factorization)
                factor, flops = plan.nnz_factor, plan.flops
                store = dense_bytes if plan.dense else 24.0 * nonzeros + 32.0 * factor
    base = _held(eq)
    borders = 8.0 * (lay.q1 * k1 + q2) * (24.0 + 4.0 * (eq.p + 1))
    direct = base + store + borders + (12.0 * eq.idx.size if eq.unit else 0.0)
    iterative = base + _iterative_beside(eq, probes)
    have = available_memory()
    seconds = direct_seconds(eq, flops)
    chosen, why = _choose(route.path, direct - base, iterative - base, have, seconds)
    names = tuple((t.name, t.n_levels, t.k) for t in design.terms)
    leading = design.terms[lay.blocks[0].terms[0]].name if lay.has_lead else ""
    return Preflight(
        eq.n, eq.p, names, leading, q2, int(eq.idx.size), float(nonzeros), counted, float(factor),
        float(flops), base, direct, iterative, have, seconds, iterative_seconds(eq, probes), chosen, why,
        plan,
    )  # fmt: skip


def iterative_hint(plan: Preflight) -> str:
    """That the iterative solver is predicted to be much faster than a direct fit; empty if it is not."""
    if plan.iterative_seconds * _MUCH_FASTER > plan.direct_seconds:
        return ""
    return (
        f"this direct fit will take {_seconds(plan.direct_seconds)}; solver='iterative' is predicted to take "
        f"{_seconds(plan.iterative_seconds)}, with a small Monte Carlo error, which it reports"
    )


def _iterative_beside(eq: Equations, probes: int) -> float:
    """Peak bytes of the iterative path beside the equations, with so many probes."""
    lay = eq.layout
    border, effects = eq.p + 1, sum(b.k for b in lay.rest)
    # solved at once: [X y], two smooth vectors per effect and a batch of probes, each by effect
    block = border + 2 * effects + min(probes, max(1, batch_size(lay.q2) // max(1, effects))) * effects
    columns = lay.q2 * (_COPIES * block + 0.125 * probes)
    levels = lay.q1 * lay.k1 * (3.0 * block + 2.0 * border + 3.0 * lay.k1)
    cells = 0.0 if eq.unit else 8.0 * eq.idx.size * lay.k1
    both = 24.0 * eq.gidx.size if eq.gidx.size > lay.q2 else 0.0  # Z_2'WZ_2, both triangles
    return 8.0 * (columns + levels) + cells + both


def _choose(path: str, direct: float, iterative: float, have: float, seconds: float) -> tuple[str, str]:
    limit = _SHARE * have
    if path == "iterative":
        return "iterative", "as asked for"
    if path != "auto":
        return "direct", "as asked for"
    if direct > limit:
        return "iterative", f"a direct factor would take {_bytes(direct)} of {_bytes(have)} available"
    if seconds > _LONG:
        return "iterative", f"a direct fit would take {_seconds(seconds)}"
    return "direct", f"exact, {_seconds(seconds)}"


def refuse(plan: Preflight, likelihood: bool = False) -> None:
    """Raise if the chosen path does not fit in memory.

    Parameters
    ----------
    plan : Preflight
    likelihood : bool
        The exact likelihood is wanted, not a fit.

    Raises
    ------
    MemoryEstimateError
        With the numbers, and what to do.
    """
    held = plan.iterative_bytes if plan.solver == "iterative" else plan.direct_bytes
    if held - plan.equations_bytes <= plan.available_bytes:
        return
    what = f"{plan.solver} fit"
    if likelihood:
        what = "factorization for the exact likelihood"
        advice = "A plain fit with solver='iterative' needs none; else use a subset, or a larger machine."
    elif plan.solver == "direct":
        advice = "Use solver='iterative', which needs no factor."
    else:
        advice = "Fit a subset, or use a larger machine."
    raise MemoryEstimateError(
        f"the {what} would take {_bytes(held)}, {_bytes(plan.equations_bytes)} of which are "
        f"there, but only {_bytes(plan.available_bytes)} more are available: order "
        f"{plan.columns:,} of the Schur complement, {_number(plan.factor_nonzeros)} non-zeros in its "
        f"factor, {_number(plan.flops)} flops. {advice}"
    )


def require(need: float, what: str) -> None:
    """Raise unless so many bytes are available.

    Parameters
    ----------
    need : float
        Bytes.
    what : str
        What takes them, for the message.

    Raises
    ------
    MemoryEstimateError
    """
    have = available_memory()
    if need > have:
        raise MemoryEstimateError(f"{what} would take {_bytes(need)}; {_bytes(have)} are available.")


def _held(eq: Equations) -> float:
    """Bytes of the equations."""
    arrays = [v for v in vars(eq).values() if isinstance(v, np.ndarray)]
    return float(sum(v.nbytes for v in arrays))


def _schur_nonzeros(eq: Equations, pairs: float, full: float) -> tuple[float, bool]:
    """Non-zeros of the lower triangle of S, and whether they were counted."""
    lay = eq.layout
    n_levels = lay.lstart.size - 1
    pattern = (lay.lstart, eq.ptr, eq.idx, eq.tptr, eq.tlev, eq.tpos, eq.gptr, eq.gidx)
    counts = np.zeros(lay.q2 + 1, np.int64)
    if pairs <= _COUNT_PAIRS or n_levels <= 2 * _SAMPLE:
        ranges = cut(None, n_levels, pairs)
        run(lambda _, a, b: ks.count_schur(a, b, *pattern, counts), ranges)
        return min(full, float(counts.sum())), True
    # one level out of each of _SAMPLE runs of neighbours: rows below the diagonal thin out along S
    edges = np.linspace(0, n_levels, _SAMPLE + 1).astype(np.int64)
    picks = np.random.default_rng(0).integers(edges[:-1], edges[1:])
    run(
        lambda _, a, b: [ks.count_schur(t, t + 1, *pattern, counts) for t in picks[a:b]],
        cut(None, _SAMPLE, pairs * _SAMPLE / n_levels),
    )
    per_level = np.array([counts[lay.lstart[t] + 1 : lay.lstart[t + 1] + 1].sum() for t in picks])
    return min(full, float(np.sum(per_level * np.diff(edges)))), False


def shown(plan: Preflight) -> Preflight:
    """A forecast to be looked at: without the analysis, which is for a fit."""
    return replace(plan, schur=None)


def preflight_design(design: Design, solver: str = "auto", equations: Equations | None = None) -> Preflight:
    """`preflight` of a design; builds its equations, which are proportional to the data, unless given."""
    route = route_of(solver)
    if equations is not None:
        return shown(forecast(design, equations, route))
    layout = layout_of(design)
    check_rows(design, layout)
    return shown(forecast(design, build_equations(design, layout), route))
