"""Draws the picture of README's example, by the code that stands there: ``python docs/pictures.py``."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "caterpillar.png"


def example() -> tuple[dict[str, Any], str, str]:
    """What README's example made, what it printed, and its code."""
    section = (ROOT / "README.md").read_text().partition("## An example")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    said = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(said):
        exec(compile(code, "README.md, example", "exec"), names)
    return names, said.getvalue(), code


def draw(target: Any) -> None:
    """The picture, at the size at which README shows it."""
    import matplotlib

    matplotlib.use("Agg")
    example()[0]["axes"].figure.savefig(target, dpi=80, format="png")


if __name__ == "__main__":
    draw(PICTURE)
    print(re.sub(f"{ROOT}{os.sep}?", "", str(PICTURE)))
