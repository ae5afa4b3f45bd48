"""statsmodels' summary with a title and escaped text in HTML, where its own leaves out both."""

from __future__ import annotations

from html import escape

import pandas as pd
from statsmodels.iolib.summary2 import Summary

__all__ = ["TitledSummary"]


class TitledSummary(Summary):
    """Text tables; in HTML the title is the caption of the first one."""

    def as_html(self) -> str:
        """HTML tables and the lines below them."""
        plain = Summary()
        plain.tables = [_escaped(table) for table in self.tables]
        plain.settings = self.settings
        plain.extra_txt = [escape(line, quote=False) for line in self.extra_txt]
        caption = f"<caption>{escape(self.title or '', quote=False)}</caption>"
        return plain.as_html().replace(">\n", f">\n{caption}\n", 1)


def _escaped(table: pd.DataFrame) -> pd.DataFrame:
    def text(value: object) -> object:
        return escape(value, quote=False) if isinstance(value, str) else value

    out = table.map(text)
    out.columns = [text(name) for name in out.columns]
    out.index = pd.Index([text(label) for label in out.index], name=out.index.name)
    return out
