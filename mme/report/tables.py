"""statsmodels' summary with a title and escaped text in HTML and LaTeX, where its own leaves out both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import pandas as pd
from statsmodels.iolib.summary2 import Summary

__all__ = ["TitledSummary"]


class TitledSummary(Summary):
    """Text tables; in HTML the title is the caption of the first one."""

    def as_html(self) -> str:
        """HTML tables and the lines below them."""
        plain = Summary()
        plain.tables = [_mapped(table, _html) for table in self.tables]
        plain.settings = self.settings
        plain.extra_txt = [escape(line, quote=False) for line in self.extra_txt]
        caption = f"<caption>{escape(self.title or '', quote=False)}</caption>"
        return plain.as_html().replace(">\n", f">\n{caption}\n", 1)

    def as_latex(self, label: str = "") -> str:
        """A LaTeX table with the title as its caption, and the lines below it.

        Parameters
        ----------
        label : str
            For ``\\ref``.
        """
        tables = [_tabular(table, made) for table, made in zip(self.tables, self.settings, strict=True)]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(self.title or '')}}}",
            *([rf"\label{{{label}}}"] if label else []),
            *"\n\n\\smallskip\n".join(tables).split("\n"),
            r"\end{table}",
        ]
        if self.extra_txt:
            lines += [r"\bigskip", " \\newline\n".join(map(_latex, self.extra_txt))]
        return "\n".join(lines)


_TEXT = str.maketrans(
    {
        **{c: rf"\{c}" for c in "#$%&_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
)


def _html(text: str) -> str:
    return escape(text, quote=False)


def _latex(text: str) -> str:
    return text.translate(_TEXT)


def _tabular(table: pd.DataFrame, made: Mapping[str, Any]) -> str:
    """One tabular with the names of the columns in it; statsmodels makes two, whose columns do not meet."""
    rows = [[str(value) for value in row] for row in table.to_numpy(dtype=object)]
    heads = [[str(name) for name in table.columns]] if made["header"] else []
    align = str(made["align"])
    columns = align if len(align) == table.shape[1] else align[0] * table.shape[1]
    if made["index"]:
        rows = [[str(label), *row] for label, row in zip(table.index, rows, strict=True)]
        heads = [["", *row] for row in heads]
        columns = "l" + columns

    def lines(part: list[list[str]]) -> list[str]:
        return [" & ".join(map(_latex, row)) + r" \\" for row in part]

    rule = [r"\hline"]
    out = [rf"\begin{{tabular}}{{{columns}}}", *rule, *lines(heads), *(rule if heads else [])]
    return "\n".join([*out, *lines(rows), *rule, r"\end{tabular}"])


def _mapped(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    def text(value: object) -> object:
        return change(value) if isinstance(value, str) else value

    out = table.map(text)
    out.columns = [text(name) for name in out.columns]
    out.index = pd.Index([text(label) for label in out.index], name=out.index.name)
    return out
