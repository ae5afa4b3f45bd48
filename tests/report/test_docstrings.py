"""The examples in the docstrings give what they show."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import mme
from mme.lmm.results import LinearMixedModelResults

_ROOT = Path(mme.__file__).parents[1]
_MODULES = sorted(
    ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (_ROOT / "mme").rglob("*.py")
    if ">>> " in path.read_text("utf-8")
)


@pytest.mark.parametrize("name", _MODULES)
def test_examples(name, monkeypatch):
    if name.startswith("mme.plot") or name == "mme.report.diagnostics":
        pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra 'plot')").use("Agg")
    monkeypatch.chdir(_ROOT)  # they read mme/data
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0


def _public() -> list[str]:
    methods = [name for name in dir(LinearMixedModelResults) if not name.startswith("_") and name != "fitted"]
    pictures = [name for name in mme.plot.__all__ if name != "Pictures"]
    functions = [name for name in mme.__all__ if name not in ("exceptions", "plot")]
    return [
        *functions,
        *(f"plot.{name}" for name in pictures),
        *(f"lmm.results.LinearMixedModelResults.{name}" for name in methods),
    ]


@pytest.mark.parametrize("name", _public())
def test_every_public_docstring_has_an_example(name):
    target: object = mme
    for part in name.split("."):
        target = getattr(target, part)
    text = inspect.getdoc(target) or ""
    assert "Examples\n--------\n>>> " in text


@pytest.mark.parametrize("name", _public())
def test_parameters_are_documented_in_order(name):
    """numpydoc's checks of signatures and sections; its taste in sentences is not ours."""
    validate = pytest.importorskip("numpydoc.validate", reason="numpydoc is not installed (extra 'docs')")
    target = "mme." + name
    errors = [(code, text) for code, text in validate.validate(target)["errors"] if code in _CHECKED]
    assert errors == []


_CHECKED = (
    "GL01 GL03 GL05 GL06 GL07 GL08 GL09 GL10 PR01 PR02 PR03 PR06 PR08 PR10 RT01 RT02 SS01 YD01 EX01".split()
)
