"""The site: its pages name what there is, their blocks run, it builds without a warning."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys

import pytest
from support import HERE

import mme
from mme.facade.results.results import MixedLMResults
from mme.lmm.results import LinearMixedModelResults

ROOT = HERE.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    str(path.relative_to(DOCS))
    for folder in (".", "questions", "coming_from")
    for path in (DOCS / folder).glob("*.md")
    if "```python" in path.read_text("utf-8")
)


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page, monkeypatch):
    """Every page in a namespace of its own, from the top of the repository."""
    if "plot" in (text := (DOCS / page).read_text("utf-8")):
        pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra 'plot')").use("Agg")
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {}
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
        exec(compile(block, f"docs/{page}, block {i + 1}", "exec"), namespace)


def test_reference_lists_all_that_is_public():
    text = (DOCS / "reference.rst").read_text("utf-8")
    listed = set(re.findall(r"^   (?:LinearMixedModelResults\.)?(\w+)$", text, re.MULTILINE))
    methods = {name for name in dir(LinearMixedModelResults) if not name.startswith("_")} - {"fitted"}
    assert methods <= listed
    assert set(mme.__all__) - {"exceptions", "plot"} <= listed
    assert {name for name in mme.plot.__all__ if name != "Pictures"} <= listed


@pytest.mark.parametrize("page", ["lme4", "statsmodels", "sas", "mixedmodels"])
def test_tables_of_calls_name_what_exists(page):
    """In the column of mme: methods of results (`r.`, `result.`) and functions, with arguments they take."""
    rows = re.findall(r"^\|(.*)\|$", (DOCS / "coming_from" / f"{page}.md").read_text("utf-8"), re.MULTILINE)
    calls = 0
    for row in rows:
        right = re.split(r"(?<!\\)\|", row)[-1]
        for owner, name, arguments in re.findall(r"\b(r|r1|result|mme)\.(\w+)(\([^`]*\))?", right):
            if owner == "mme":
                target = getattr(mme, name)
            else:
                target = getattr(LinearMixedModelResults, name, None) or getattr(MixedLMResults, name)
            calls += 1
            for keyword in re.findall(r"(\w+)=", re.sub(r"\"[^\"]*\"|\{[^}]*\}", "", arguments)):
                assert keyword in inspect.signature(target).parameters, (name, keyword)
    assert calls >= 4


@pytest.mark.slow
@pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None for name in ("sphinx", "sphinx_gallery", "pydata_sphinx_theme")
    ),
    reason="Sphinx and its theme are not installed (extra 'docs')",
)
def test_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, *"-m sphinx -W -b html -d".split(), tmp_path / "trees", "docs", tmp_path / "html"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for page in ("index", "quickstart", "reference", "examples/plot_oats", "api/mme.lmer"):
        assert (tmp_path / "html" / f"{page}.html").stat().st_size > 5000
