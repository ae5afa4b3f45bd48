"""Cells, rows and the markdown tables of `peers.py`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Cell", "Row", "gaps_table", "report", "seconds_text", "set_gaps", "short_of_best", "times_table"]


@dataclass
class Cell:
    """One implementation on one workload.

    Attributes
    ----------
    status : {"ok", "limit", "cannot", "failed", "missing"}
    seconds : list of float
        The fits that count, in order.
    first : float or None
        The very first fit.
    loglik : float or None
    method : {"REML", "ML"}
    approximate : bool
        The log-likelihood is an approximation.
    formula : str
        Model fitted where it is not the workload's.
    variant : str
        Form of the data that was fastest.
    gap : float or None
        Log-likelihood short of the best known one of the same model and method.
    note : str
        Why there is no time.
    """

    status: str = "ok"
    seconds: list[float] = field(default_factory=list)
    first: float | None = None
    loglik: float | None = None
    method: str = "REML"
    approximate: bool = False
    formula: str = ""
    variant: str = ""
    gap: float | None = None
    note: str = ""

    @property
    def median(self) -> float | None:
        """Median seconds of a fit."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def misses(self) -> bool:
        """Whether the optimum was missed by more than rounding and a generous tolerance."""
        return self.gap is not None and self.gap > max(1e-3, 1e-9 * abs(self.loglik or 0.0))


@dataclass
class Row:
    """One workload: what it is, and a cell for every implementation."""

    name: str
    label: str
    cells: dict[str, Cell]
    seconds: float = 0.0  # everything: data, processes, fits


def seconds_text(value: float) -> str:
    """Three digits, without exponent."""
    if value <= 0.0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{round(value, digits):.{digits}f}" if digits else f"{value:.0f}"


def cell_text(cell: Cell, limit: float) -> str:
    """A cell of the table of times."""
    if cell.status == "limit":
        return f"> {limit:g}"
    if cell.status != "ok" or cell.median is None:
        return {"cannot": "cannot", "failed": "failed", "missing": ""}.get(cell.status, "")
    marks = []
    if cell.formula:
        marks.append("other model")
    if cell.method != "REML":
        marks.append(cell.method)
    if cell.approximate:
        marks.append("approx.")
    if cell.misses and not cell.approximate:
        marks.append(f"misses by {cell.gap:.2g}")
    return seconds_text(cell.median) + (f" ({', '.join(marks)})" if marks else "")


def gap_text(cell: Cell) -> str:
    """A cell of the table of log-likelihoods."""
    if cell.status != "ok" or cell.loglik is None:
        return ""
    if cell.gap is None:
        return "?"
    return ("≈ " if cell.approximate else "") + ("0" if abs(cell.gap) < 1e-9 else f"{cell.gap:.1e}")


def ratio_text(row: Row, base: str = "mme") -> str:
    """Time of the fastest other implementation that finds the optimum of this model, over mme's."""
    own = row.cells.get(base)
    others = {
        name: cell.median
        for name, cell in row.cells.items()
        if not (name.startswith("mme") or cell.misses or cell.approximate or cell.formula) and cell.median
    }
    if own is None or own.median is None or not others:
        return ""
    best = min(others, key=lambda name: others[name])
    return f"{others[best] / own.median:.3g} ({best})"


def _markdown(header: list[str], lines: list[list[str]], left: int) -> str:
    rule = ["---"] * left + ["--:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *lines])


def times_table(rows: list[Row], names: list[str], limit: float) -> str:
    """Markdown table of median seconds."""
    header = ["workload", "model", *names, "fastest peer / mme"]
    lines = [
        [row.name, row.label, *(cell_text(row.cells[n], limit) for n in names), ratio_text(row)]
        for row in rows
    ]
    return _markdown(header, lines, 2)


def gaps_table(rows: list[Row], names: list[str]) -> str:
    """Markdown table of log-likelihoods short of the best."""
    lines = [[row.name, *(gap_text(row.cells[n]) for n in names)] for row in rows]
    return _markdown(["workload", *names], lines, 1)


def set_gaps(cells: dict[str, Cell], known: float | None, ml: Callable[[str], float | None]) -> None:
    """Fill `gap` of every cell.

    Parameters
    ----------
    cells : dict of str to Cell
    known : float or None
        Best known REML log-likelihood of the workload.
    ml : callable
        Best known ML log-likelihood of a formula ("" for the workload's own).
    """
    fits = [cell for cell in cells.values() if cell.status == "ok" and cell.loglik is not None]
    exact = [c.loglik for c in fits if c.method == "REML" and not c.approximate and not c.formula]
    best = max([*exact, *([] if known is None else [known])], default=None)
    for cell in fits:
        target = best if cell.method == "REML" and not cell.formula else ml(cell.formula)
        cell.gap = None if target is None or not math.isfinite(cell.loglik) else target - cell.loglik


def short_of_best(rows: list[Row]) -> list[str]:
    """Workloads where mme misses the best known log-likelihood by more than rounding."""
    out = []
    for row in rows:
        for name in ("mme", "mme.MixedLM"):
            cell = row.cells.get(name)
            if cell and cell.gap is not None and cell.gap > max(1e-5, 1e-10 * abs(cell.loglik or 0.0)):
                out.append(f"{name} on {row.name}: {cell.gap:.2g}")
    return out


def report(rows: list[Row], names: list[str], limit: float, lines: list[str], notes: dict[str, str]) -> str:
    """Everything that is printed."""
    why = [
        f"- {row.name}, {name}: {cell.note}"
        for row in rows
        for name, cell in row.cells.items()
        if cell.status in ("failed", "cannot")
    ]
    short = short_of_best(rows)
    parts = [
        f"Seconds of a REML fit, median; > {limit:g}: ended at the time limit.",
        times_table(rows, names, limit),
        "Log-likelihood short of the best known one (≈: the reported value is an approximation).",
        gaps_table(rows, names),
        "\n".join(f"- {name}: {note}" for name, note in notes.items()),
        "\n".join(lines),
        "No time:\n\n" + "\n".join(why) if why else "",
        f"mme is short of the best: {'; '.join(short)}" if short else "",
    ]
    return "\n\n".join(part for part in parts if part)
