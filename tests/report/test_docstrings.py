"""The examples in the docstrings give what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import mme

_ROOT = Path(mme.__file__).parents[1]
_MODULES = sorted(p.stem for p in (_ROOT / "mme" / "report").glob("*.py") if ">>> " in p.read_text("utf-8"))


@pytest.mark.parametrize("name", [f"mme.report.{stem}" for stem in _MODULES] + ["mme.lmm.model"])
def test_examples(name, monkeypatch):
    monkeypatch.chdir(_ROOT)  # they read mme/data
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0
