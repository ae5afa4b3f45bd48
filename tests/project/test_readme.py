"""README.md and .ci/run: the Python blocks run, the commands are what they say."""

from __future__ import annotations

import importlib.util
import io
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from support import HERE

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra 'plot')")
ROOT = HERE.parent
README = (ROOT / "README.md").read_text()


def command(name: str) -> str:
    """The shell command between the markers, on one line."""
    block = re.search(rf"<!-- command: {name} -->\n```bash\n(.*?)```\n<!-- end -->", README, re.DOTALL)
    assert block, f"no command {name!r} in README.md"
    return block.group(1).replace("\\\n", " ").strip()


def test_python_blocks_run(monkeypatch, capsys):
    """In order and in one namespace, from the top of the repository."""
    monkeypatch.chdir(ROOT)
    matplotlib.use("Agg")
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    namespace: dict[str, object] = {}
    for i, block in enumerate(blocks):
        exec(compile(block, f"README.md, Python block {i + 1}", "exec"), namespace)
    assert namespace["result"].llf == pytest.approx(-871.8141359792539, abs=1e-8)  # reference/lme4.json
    assert namespace["same"].llf == pytest.approx(namespace["result"].llf, abs=1e-7)
    assert "Days" in capsys.readouterr().out


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_says_what_it_prints(pictures):
    """The comments under each print() are its output, and the numbers are lme4's."""
    matplotlib.use("Agg")
    names, said, code = pictures.example()
    shown = [line.removeprefix("#")[1:] for line in code.splitlines() if line.startswith("#")]
    assert [line.split() for line in shown] == [line.split() for line in said.splitlines()]
    assert names["table"].loc["Days", ["estimate", "se", "df"]].tolist() == pytest.approx(
        [10.467285959596, 1.54578889288849, 17.0], rel=1e-5
    )
    prediction = names["prediction"]
    assert prediction["mean"].tolist() == pytest.approx([430.65999, 345.61068], abs=1e-3)
    assert (prediction["obs_ci_lower"] < prediction["mean_ci_lower"]).all()


def test_the_picture_of_the_example_is_what_it_draws(pictures):
    """docs/caterpillar.png, by `python docs/pictures.py`; pixel by pixel where matplotlib is that one."""
    from matplotlib.image import imread

    assert f"]({pictures.PICTURE.relative_to(ROOT)})" in README
    drawn = io.BytesIO()
    pictures.draw(drawn)
    drawn.seek(0)
    here, there = (imread(source) for source in (drawn, pictures.PICTURE))
    assert here.shape == there.shape
    if f"Matplotlib version{matplotlib.__version__}".encode() in pictures.PICTURE.read_bytes():
        assert np.sqrt(np.mean((here - there) ** 2)) < 0.02
    assert there[..., :3].std() > 0.05  # no empty page


def test_fit_command_prints_a_fit():
    """The last step of the first command, with the Python at hand."""
    step = shlex.split(command("fit").split("&&")[-1])
    assert step[:3] == [".venv/bin/python", "-m", "mme"]
    out = subprocess.run([sys.executable, *step[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
    for expected in ("251.405", "10.467", "612.09", "654.94", "Subject", "Converged"):
        assert expected in out.stdout


@pytest.mark.parametrize("name", ["fit", "tests"])
def test_commands_are_one_line_of_valid_shell(name):
    line = command(name)
    assert "\n" not in line
    subprocess.run(["bash", "-n", "-c", line], check=True)
    assert "python3 -m venv .venv" in line


def test_ci_runs_the_test_command():
    """.ci/run extracts it from this page; nothing is spelled twice."""
    script = (ROOT / ".ci" / "run").read_text()
    assert "command: tests" in script
    assert "pytest" not in script and "pip install" not in script
    assert command("tests").split("&&")[-1].split()[:3] == [".venv/bin/python", "-m", "pytest"]
