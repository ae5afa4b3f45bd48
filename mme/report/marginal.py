"""Marginal means, trends and contrasts of them: a table that knows how its rows were made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from html import escape
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import InferenceError, OptionError
from ..inference.adjust import Family, adjusted_p, check_adjust, half_widths
from ..inference.coefficients import check_alpha
from ..inference.estimable import Detached
from ..inference.families import check_room, family_of
from ..inference.tails import f_tail

__all__ = ["MarginalMeans", "differences", "joint_frame"]

_USUAL = "usual"
_SHOWN = 8
_NUMBERS = ("estimate", "se", "df", "t", "p", "lower", "upper")


class MarginalMeans:
    """Estimated marginal means, trends, or contrasts of them.

    Results' `emmeans` and `emtrends` make it.  It holds estimates and degrees of freedom, no data, and prints
    as a table.

    Attributes
    ----------
    labels : DataFrame
        What each row is: levels of the factors, or the contrast's name.
    by : tuple of str
        Columns of `labels` within which rows are compared and p-values adjusted.
    alpha : float
        One less the level of the intervals.
    adjust : str or None
        How p-values and intervals are adjusted.
    notes : tuple of str
        What a reader of the numbers should know: rows that are not estimable among it.
    """

    def __init__(
        self,
        title: str,
        labels: pd.DataFrame,
        by: Sequence[str],
        L: np.ndarray,
        offset: np.ndarray,
        empty: np.ndarray,
        basis: Detached,
        alpha: float,
        adjust: str | None = None,
        pairwise: bool = False,
        said: Sequence[str] = (),
    ) -> None:
        self.title = title
        self.labels = labels
        self.by = tuple(by)
        self.alpha = check_alpha(alpha)
        self._rows = L
        self._offset = offset
        self._empty = empty
        self._basis = basis
        self._pairwise = pairwise
        self._said = tuple(said)
        self.adjust = check_adjust(adjust)

    # -- the table -------------------------------------------------------------------------------------

    @property
    def L(self) -> pd.DataFrame:
        """The rows as combinations of the coefficients, shape (q, p): what `contrast` of results takes."""
        return pd.DataFrame(self._rows, columns=pd.Index(self._basis.fitted.labels.fixed, dtype=object))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The table: `labels`, then ``estimate``, ``se``, ``df``, ``t``, ``p``, ``lower``, ``upper``.

        What is not estimable is NaN.  p and the intervals are adjusted as `adjust` says, within `by`.
        """
        return self._table(self.alpha, self.adjust)

    def confint(self, alpha: float | None = None, adjust: str | None = _USUAL) -> pd.DataFrame:
        """Estimates with intervals alone.

        Parameters
        ----------
        alpha : float, optional
            One less the level; by default the table's.
        adjust : str or None
            By default the table's.
        """
        level = self.alpha if alpha is None else check_alpha(alpha)
        table = self._table(level, self.adjust if adjust == _USUAL else check_adjust(adjust))
        return table[[*self.labels.columns, "estimate", "se", "df", "lower", "upper"]]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know."""
        notes = list(self._basis.notes)
        missing = [label for label, told in zip(self._names(True), self._told, strict=True) if not told]
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            notes.append(f"Not estimable: {'; '.join(missing[:_SHOWN])}{more}.")
        if self.adjust == "tukey" and not self._pairwise:
            notes.append("Tukey's adjustment is for all differences of means; Šidák's was made.")
        elif self.adjust in ("holm", "fdr"):
            notes.append(f"Intervals: Bonferroni, as {self.adjust!r} has none.")
        return tuple(notes)

    # -- contrasts -------------------------------------------------------------------------------------

    def contrast(
        self,
        method: Any = "pairwise",
        *,
        by: str | Sequence[str] | None = _USUAL,
        adjust: str | None = _USUAL,
        ref: Any = None,
        alpha: float | None = None,
    ) -> MarginalMeans:
        """Contrasts of the rows, within `by`.

        Parameters
        ----------
        method : {"pairwise", "trt.vs.ctrl", "consec", "poly"}, dict or matrix
            All differences; differences from a control; each less the one before it; orthogonal polynomials
            of equally spaced levels.  A dictionary has coefficients by the contrast's name, one for every
            row, or a dictionary of them by level; a matrix a contrast per row.
        by : str or list of str, optional
            Columns of `labels`; by default the table's.
        adjust : {"tukey", "holm", "sidak", "bonferroni", "fdr", "mvt"} or None
            By default "tukey" for "pairwise", "mvt" (the exact multivariate t, Dunnett's for a control) for
            "trt.vs.ctrl" and "consec", none for others.
        ref : level or int, optional
            The control of "trt.vs.ctrl": a level, or its place; by default the first.
        alpha : float, optional
            By default the table's.

        Returns
        -------
        MarginalMeans

        Raises
        ------
        OptionError
            A method, control, adjustment or column that there is not; coefficients of the wrong length.
        """
        own = self.by if by == _USUAL else self._columns(by)
        labels, blocks, offsets, empties = [], [], [], []
        family = None
        for group, at in self._groups(own):
            names, levels = self._row_labels(at, own)
            check_room(method, at.size, self._rows.shape[1])
            family = family_of(method, names, levels, ref)
            C = family.coefficients
            blocks.append(C @ self._rows[at])
            offsets.append(C @ self._offset[at])
            empties.append((C != 0.0) @ self._empty[at])
            block = pd.DataFrame({"contrast": pd.Series(family.names, dtype=object)})
            for name, value in zip(own, group, strict=True):
                block[name] = pd.Series([value] * len(block), dtype=self.labels[name].dtype)
            labels.append(block)
        assert family is not None
        return MarginalMeans(
            f"Contrasts of {self.title[0].lower()}{self.title[1:]}",
            pd.concat(labels, ignore_index=True),
            own,
            np.vstack(blocks),
            np.concatenate(offsets),
            np.concatenate(empties).astype(bool),
            self._basis,
            self.alpha if alpha is None else alpha,
            family.adjust if adjust == _USUAL else adjust,
            family.pairwise,
            self._said,
        )

    def pairs(self, adjust: str | None = _USUAL, by: str | Sequence[str] | None = _USUAL) -> MarginalMeans:
        """All differences, Tukey's adjustment by default: ``contrast("pairwise")``."""
        return self.contrast("pairwise", by=by, adjust=adjust)

    def joint_tests(self) -> pd.DataFrame:
        """F tests of main effects and interactions among the means; of contrasts, of all of them together.

        Returns
        -------
        pandas.DataFrame
            Columns ``term``, those of `by`, ``F``, ``df1``, ``df2``, ``p``.  What the data do not tell is
            left out of a hypothesis, and the term is named in ``attrs["notes"]``.
        """
        factors = [str(name) for name in self.labels.columns if name not in self.by]
        if factors == ["contrast"]:
            parts = [
                ("all contrasts", group, self._rows[at], -self._offset[at])
                for group, at in self._groups(self.by)
            ]
            return joint_frame(self._basis, parts, self.by)
        sizes = [self.labels[name].nunique() for name in factors]
        if any(at.size != prod(sizes) for _, at in self._groups(self.by)):
            raise InferenceError(
                "combinations of levels that cannot occur are left out of these means: joint_tests() of the "
                "results tests nested factors."
            )
        parts = []
        for size in range(1, len(factors) + 1):
            for chosen in combinations(range(len(factors)), size):
                name = ":".join(factors[j] for j in chosen)
                D = differences([(sizes[j], j in chosen) for j in range(len(factors))])
                for group, at in self._groups(self.by):
                    parts.append((name, group, D @ self._rows[at], -D @ self._offset[at]))
        return joint_frame(self._basis, parts, self.by)

    # -- printing --------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return "\n".join([self.title, self._shown().to_string(index=False), *self._lines()])

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{escape(line)}</p>" for line in self._lines())
        return f"<p><b>{escape(self.title)}</b></p>\n{self._shown().to_html(index=False)}\n{lines}"

    def _lines(self) -> list[str]:
        basis = self._basis
        df = {"normal": "normal distribution", "residual": "n - rank(X)"}.get(
            basis.ddf, basis.ddf.capitalize()
        )
        said = [f"Degrees of freedom: {df}. Intervals: {100 * (1 - self.alpha):g} %."]
        if self.adjust is not None:
            within = f" within {', '.join(self.by)}" if self.by else ""
            said.append(f"p and intervals adjusted{within}: {self.adjust}.")
        return [*self._said, " ".join(said), *self.notes]

    def _shown(self) -> pd.DataFrame:
        out = self.frame.copy()
        for name in ("estimate", "se", "lower", "upper"):
            out[name] = [f"{value:.5g}" for value in out[name]]
        out["df"] = [f"{value:.1f}" for value in out["df"]]
        out["t"] = [f"{value:.3f}" for value in out["t"]]
        out["p"] = [f"{value:.4f}" if not value < 1e-4 else f"{value:.1e}" for value in out["p"]]
        return out

    # -- rows ------------------------------------------------------------------------------------------

    @cached_property
    def _told(self) -> np.ndarray:
        return self._basis.estimable(self._rows) & ~self._empty

    def _table(self, alpha: float, adjust: str | None) -> pd.DataFrame:
        rows = self._basis.rows(self._rows, -self._offset, alpha, self._told)
        estimate = rows.estimate + self._offset
        p, half = np.full(len(self), np.nan), np.full(len(self), np.nan)
        if adjust == "tukey" and not self._pairwise:
            adjust = "sidak"
        K = np.zeros((len(self), 0))
        if adjust == "mvt":
            K = self._basis.roots(self._rows[:, self._basis.kept])
        for _, at in self._groups(self.by):
            means = round((1 + np.sqrt(1 + 8 * at.size)) / 2) if self._pairwise else 0
            family = Family(rows.df[at], K[at], means)
            # one mean, one test: nothing to adjust for
            own = None if at.size == 1 else adjust
            p[at] = adjusted_p(rows.t[at], family, own, 0)
            half[at] = half_widths(rows.se[at], family, own, alpha, 0)
        numbers = (estimate, rows.se, rows.df, rows.t, p, estimate - half, estimate + half)
        out = pd.concat([self.labels, pd.DataFrame(dict(zip(_NUMBERS, numbers, strict=True)))], axis=1)
        basis = self._basis
        out.attrs.update(
            {
                "ddf": basis.ddf,
                "information": basis.information,
                "alpha": alpha,
                "adjust": adjust,
                "notes": self.notes,
            }
        )
        return out

    def _columns(self, by: Any) -> tuple[str, ...]:
        names = () if by is None else (by,) if isinstance(by, str) else tuple(by)
        for name in names:
            if name not in self.labels.columns:
                listed = ", ".join(map(str, self.labels.columns))
                raise OptionError(f"by={name!r} is no column of the table. Its columns are {listed}.")
        return names

    def _groups(self, by: Sequence[str]) -> list[tuple[tuple, np.ndarray]]:
        """Values of the columns, and the rows that have them, in the order of the table."""
        found: dict[tuple, list[int]] = {}
        values = [self.labels[name].tolist() for name in by]
        for j in range(len(self)):
            found.setdefault(tuple(column[j] for column in values), []).append(j)
        return [(key, np.array(at)) for key, at in found.items()]

    def _row_labels(self, at: np.ndarray, by: Sequence[str]) -> tuple[list[str], list[Any]]:
        """Labels of rows among those of their group, and what they stand for where that is one level."""
        names = [name for name in self.labels.columns if name not in by]
        columns = [self.labels[name].tolist() for name in names]
        labels = [
            " ".join(_text(name, column[j]) for name, column in zip(names, columns, strict=True)) for j in at
        ]
        return labels, [columns[0][j] for j in at] if len(columns) == 1 else labels

    def _names(self, with_by: bool) -> list[str]:
        names = [n for n in self.labels.columns if with_by or n not in self.by]
        columns = [self.labels[name].tolist() for name in names]
        return [
            ", ".join(
                str(c[j]) if n == "contrast" else f"{n} = {c[j]}" for n, c in zip(names, columns, strict=True)
            )
            for j in range(len(self))
        ]


def _text(name: str, level: Any) -> str:
    """A level as part of a contrast's name: numbers need to be told from one another's factors."""
    if isinstance(level, bool | np.bool_):
        return f"{name}{level}"
    return f"{name}{level:g}" if isinstance(level, int | float | np.number) else str(level)


def differences(factors: Sequence[tuple[int, bool]]) -> np.ndarray:
    """Rows over a product of factors, the first changing fastest: differences along some, means over others.

    Parameters
    ----------
    factors : sequence of (int, bool)
        Levels, and whether differences are taken.
    """
    out = np.ones((1, 1))
    for size, along in factors:
        own = np.diff(np.eye(size), axis=0) if along else np.full((1, size), 1.0 / size)
        out = np.kron(own, out)
    return out


def joint_frame(
    basis: Detached, parts: Sequence[tuple[str, tuple, np.ndarray, np.ndarray]], by: Sequence[str]
) -> pd.DataFrame:
    """F tests of hypotheses L b = value with names, and with values of the columns `by`.

    Those that are zero by the model alone are left out.
    """
    rows: list[tuple] = []
    reduced: dict[str, None] = {}
    for name, group, L, value in parts:
        if not np.any(np.abs(L) > 1e-10):
            continue
        test, less = basis.joint(L, value)
        if less:
            reduced[name] = None
        rows.append((name, *group, test.F, test.df1, test.df2, f_tail(test.F, test.df1, test.df2)))
    out = pd.DataFrame(rows, columns=["term", *by, "F", "df1", "df2", "p"])
    notes = basis.notes
    if reduced:
        notes += (f"Of {', '.join(reduced)} only what the data tell was tested.",)
    out.attrs.update({"ddf": basis.ddf, "information": basis.information, "notes": notes})
    return out
