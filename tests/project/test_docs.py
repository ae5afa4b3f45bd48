"""Pages of docs/ that show code: the blocks run."""

from __future__ import annotations

import re

import pytest
from support import HERE

ROOT = HERE.parent


@pytest.mark.parametrize("page", ["intervals", "diagnostics", "bootstrap", "many"])
def test_python_blocks_run(page, monkeypatch):
    if page == "diagnostics":
        pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra 'plot')").use("Agg")
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(block, namespace)
